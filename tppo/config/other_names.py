"""Keys of verl, TRL, OpenRLHF and others, by their last part: which of ours a user of theirs looks for."""

from collections.abc import Iterator

# Ours first, then theirs.
_NAMES = """
run.name                        run_name experiment_name exp_name wandb_run_name
run.directory                   output_dir default_local_dir save_path save_dir ckpt_path run_dir out_dir log_dir
run.seed                        random_seed data_seed global_seed
run.algorithm                   adv_estimator advantage_estimator algo method loss_type
run.mode                        async_mode async async_train is_async
run.total_training_steps        max_steps total_steps num_steps num_train_steps train_steps steps iterations \
                                num_iterations total_epochs num_train_epochs num_epochs epochs num_episodes \
                                total_episodes
run.rollouts_per_step           train_batch_size batch_size rollout_batch_size global_batch_size gen_batch_size \
                                per_device_train_batch_size num_rollouts n_rollouts
run.window_length               window window_size chunk_size partial_rollout_length
run.max_prompt_length           prompt_max_len max_prompt_len prompt_length max_input_length
run.max_response_length         max_completion_length max_new_tokens generate_max_len response_length max_tokens \
                                max_response_len max_length max_seq_length max_gen_len
run.max_policy_lag              max_staleness staleness_threshold staleness max_async_level async_level \
                                max_off_policy_steps max_head_offpolicyness
model.path                      model_name_or_path model_name model pretrain actor_model_path policy_model base_model
model.critic_path               critic_model_path value_model_path critic_pretrain
learner.compute_dtype           dtype torch_dtype precision bf16 fp16 param_dtype mixed_precision model_dtype
learner.activation_checkpointing gradient_checkpointing enable_gradient_checkpointing enable_activation_checkpointing \
                                activation_checkpoint recompute_granularity
learner.compile                 use_torch_compile torch_compile compile_model
learner.offload_idle_model      param_offload optimizer_offload offload_params cpu_offload
learner.sequence_parallel_size  ulysses_sequence_parallel_size sp_size sequence_parallel_degree context_parallel_size \
                                context_parallel_degree
learner.fsdp_size               data_parallel_shard_degree dp_shard_size dp_shard hybrid_shard_size
data.train_files                train_dataset dataset dataset_name prompt_data train_data train_file data_path
data.val_files                  eval_dataset val_dataset test_files test_data val_file eval_data
data.prompt_key                 input_key prompt_column
data.chat_template_kwargs       apply_chat_template_kwargs template_kwargs
data.system_prompt              system_message system
data.samples_per_prompt         num_generations n_samples_per_prompt n_samples n num_samples group_size \
                                num_return_sequences
data.overlong_prompts           filter_overlong_prompts truncation
algorithm.lam                   gae_lambda lambda lambd lambda_ gae_lam
algorithm.gamma                 discount discount_factor
algorithm.clip_ratio_low        clip_ratio cliprange clip_range clip_eps eps_clip epsilon clip_epsilon eps_clip_low \
                                ppo_clip
algorithm.clip_ratio_high       epsilon_high eps_clip_high clip_eps_high cliprange_high
algorithm.advantage_whitening   whiten_advantages whiten_rewards normalize_advantage norm_adv scale_rewards
algorithm.old_logprobs          bypass_mode use_rollout_logprobs recompute_logprob use_decoupled_loss
algorithm.importance_cap        tis_imp_ratio_cap importance_sampling_cap rollout_is_threshold behav_imp_weight_cap
algorithm.importance_mode       rollout_is rollout_rs vllm_importance_sampling_mode
algorithm.overlong_buffer_length overlong_buffer overlong_buffer_len len
algorithm.overlong_penalty_factor penalty_factor
actor.lr                        learning_rate actor_learning_rate actor_lr policy_lr
actor.lr_warmup_steps           num_warmup_steps lr_warmup_ratio warmup_ratio lr_warmup_steps_ratio lr_warmup
actor.lr_decay                  lr_scheduler_type lr_scheduler warmup_style lr_schedule
actor.betas                     adam_beta1 adam_beta2 adam_betas beta1 beta2
actor.weight_decay              wd l2 adam_weight_decay
actor.grad_clip                 max_grad_norm max_norm clip_grad gradient_clipping gradient_clip_val
actor.ppo_epochs                num_ppo_epochs update_epochs noptepochs num_inner_epochs
actor.ppo_mini_batches          ppo_mini_batch_size mini_batch_size num_mini_batches num_minibatches minibatch_size
actor.max_tokens_per_microbatch ppo_max_token_len_per_gpu ppo_micro_batch_size_per_gpu micro_batch_size \
                                micro_train_batch_size max_tokens_per_gpu
actor.max_kl                    target_kl kl_target
critic.lr                       critic_learning_rate critic_lr value_lr vf_lr
critic.warmup_steps             critic_warmup freezing_actor_steps value_pretrain_steps
critic.cliprange_value_low      cliprange_value value_clip vf_clip vf_clip_param clip_range_vf
placement.sleep                 free_cache_engine enable_sleep_mode vllm_enable_sleep vllm_sleep sleep_level
generation.temperature          sampling_temperature rollout_temperature
generation.num_slots            max_num_seqs max_batch_size max_concurrent_requests
generation.replicas             num_engines vllm_num_engines num_generators num_rollout_workers data_parallel_size
reward.default_function         reward_func reward_funcs reward_fn reward_function custom_reward_function reward_model \
                                reward_manager remote_rm_url verifier
reward.num_workers              num_reward_workers
evaluation.test_freq            eval_steps eval_interval eval_freq eval_every logging_steps val_freq
evaluation.samples_per_prompt   eval_n val_n num_eval_samples n_eval_samples
evaluation.sets                 eval_sets benchmarks eval_benchmarks val_sets
evaluation.val_before_train     eval_on_start eval_before_train do_initial_eval
evaluation.temperature          eval_temperature val_temperature
checkpoint.save_freq            save_steps save_interval checkpoint_interval ckpt_freq
checkpoint.keep                 save_total_limit max_actor_ckpt_to_keep max_ckpt_num max_critic_ckpt_to_keep
trace.log_completions           num_completions_to_print log_val_generations
trackers.wandb                  report_to logger use_wandb
trackers.wandb_project          project_name project
trackers.tensorboard            use_tensorboard
redis.url                       redis_url broker_url
dashboard.port                  dashboard_port
"""


def _pairs() -> Iterator[tuple[str, str]]:
    for line in _NAMES.replace("\\\n", "").split("\n"):
        ours, *theirs = line.split() or [""]
        yield from ((name, ours) for name in theirs)


OURS_BY_NAME = dict(_pairs())
