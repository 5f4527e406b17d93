"""The mathematics of T-PPO (arXiv 2506.15050): tensors in, tensors out, nothing else.

Tensors are [batch, time], or flat [tokens] in the losses; masks are boolean, True counts; padding may hold garbage.
The last column names the file in `tests/algorithm/`, without its `test_`.

    symbol            equation                                       function                         test
    ----------------  ---------------------------------------------  -------------------------------  ----------------
    delta_t           r_t + gamma V(s_{t+1}) - V(s_t)                egae.temporal_differences        egae_oracles
    A_t  (EGAE)       delta_t + gamma lambda A_{t+1}                 egae.extended_gae                egae_*
    R_t               sum over k >= t of gamma^(k-t) r_k             egae.monte_carlo_returns         egae_oracles
    lambda(l)         1 - 1 / (alpha l), floor 0.95                  egae.length_adaptive_lambda      egae_oracles
    l_eff             l_tot, for cut rows l_tot + W // 2             egae.effective_lengths           egae_oracles
    r_t               the score at a finished response's last token  rewards.terminal_rewards         rewards
    m_pi              window tokens, of a cut without the last K     token_filter.policy_mask         token_filter
    m_recent          tokens at most max_token_lag versions old      token_filter.recent_mask         token_filter
    m_V               all tokens of finished rows                    token_filter.value_mask          token_filter
    m_LM              tokens of finished rows with a high score      token_filter.positive_...        token_filter
    (A - mu) / sigma  mean and unbiased variance over m_pi           masked_stats.whiten_full         masked_stats
    A / sigma         the same, mean not subtracted                  masked_stats.scale_only          masked_stats
    w                 min(pi_old / pi_rollout, cap), no gradient     importance.importance_weights    importance
    ESS / N           (sum w)^2 / (N sum w^2)                        importance.effective_...         importance
    J_t               max(-A rho, -A clip(rho)), dual clip           losses.clipped_surrogate         policy_loss
    L_PG              sum over m_pi of w J / N                       losses.policy_loss               policy_loss
    L_V               1/2 mean of max((V - R)^2, (V_clip - R)^2)     losses.value_loss                value_loss
    1 / N             weights of L_V where tokens weigh alike        losses.token_mean_weights        value_loss
    1 / (B l)         weights of L_V where rows weigh alike          losses.row_mean_weights          value_loss
    L_NLL             -mean of log pi over m_LM                      losses.positive_example_loss     auxiliary_losses
    k3                e^d - d - 1, d = log(pi_ref / pi)              losses.k3_kl                     auxiliary_losses
    overlong          0 to -1 over the last tokens before the limit  rewards.overlong_penalty         rewards
    theta_bar         (beta w theta_bar + theta) / (beta w + 1)      ppo_ewma.update_weight_average   ppo_ewma
    L_EWMA            clip around pi_proximal = pi(theta_bar)        ppo_ewma.ppo_ewma_policy_loss    ppo_ewma
    L_GePPO           clip(rho, c +- eps), c = pi_old / pi_rollout   geppo.geppo_policy_loss          geppo
    A_t  (V-trace)    delta_t + gamma lambda min(c_{t+1}, 1) A_t+1   geppo.vtrace_advantages          geppo
    eps  (GePPO)      eps_PPO / E[age + 1] = eps_PPO 2 / (M + 1)     geppo.reuse_clip_range           geppo
"""
