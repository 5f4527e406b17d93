"""`[model]`, `[data]`, `[actor]`, `[critic]`: which networks are trained on which prompts, and by which optimizers."""

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from tppo.config.sections.placement import ComputeDtype, Device
from tppo.config.sections.section import (
    Flag,
    Fraction,
    FractionBelowOne,
    NamedPath,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ProcessesOrZero,
    Section,
    Steps,
    StepsOrZero,
    Text,
    Tokens,
    expecting,
)

LearningRate = Annotated[float, Field(strict=True, ge=1e-12, le=1)]
TemplateValue = Annotated[
    StrictBool | StrictInt | StrictFloat | StrictStr, expecting("true or false, a number or a text")
]
TargetModules = Annotated[
    Literal["all-linear"] | Annotated[list[Text], Field(min_length=1)],
    expecting("'all-linear', or a list with at least one name of a linear layer, such as ['q_proj', 'v_proj']"),
]
# Arguments of transformers' `apply_chat_template` itself.
SET_BY_THE_LEARNER = {
    "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents", "max_length",
    "messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "tokenize",
    "tokenizer_kwargs", "tools", "truncation",
}  # fmt: skip


class ModelSection(Section):
    """The two networks."""

    path: NamedPath
    """Folder of the policy: a causal LM that transformers loads, with its tokenizer.

    For every model. Llama, Qwen2 and Qwen3 take the fast decode path; docs/models.md has the other families.
    """
    critic_path: NamedPath | None = None
    """Folder of the value model (a scalar head on the policy's body, docs/models.md). Unset: a head of zeros.

    When you have a pre-trained critic; it saves the warm-up.
    """


class DataSection(Section):
    """Prompts, in parquet or JSONL with verl's columns."""

    train_files: list[NamedPath] = Field(min_length=1)
    """Prompts to train on.

    For every task. verl: `data.train_files`.
    """
    val_files: list[NamedPath] = Field(default_factory=list)
    """Prompts to evaluate on; none: no evaluation.

    Held-out prompts of the same task. verl: `data.val_files`.
    """
    prompt_key: Text = "prompt"
    """Column of the prompt: a text, or chat messages that the tokenizer's template renders, as a list or as a text that
    holds the list in JSON.

    When your files name it differently. verl: `data.prompt_key`.
    """
    system_prompt: Text | None = None
    """System message put before the messages of every prompt, of training and evaluation, that has none of its own;
    unset: none. Needs prompts of chat messages.

    To say in one place how the model shall answer. Some templates write a system message of their own without it.
    """
    chat_template_kwargs: dict[str, TemplateValue] = Field(default_factory=dict)
    """Variables that the tokenizer's chat template is rendered with; one that the template does not have is refused.

    `enable_thinking = false` for models that think by default, or whatever else your model's template offers. verl:
    `data.apply_chat_template_kwargs`.
    """
    reward_fn_key: Text = "data_source"
    """Column that chooses the reward function.

    When your files name it differently. verl: `data.reward_fn_key`.
    """
    overlong_prompts: Literal["refuse", "skip"] = "refuse"
    """Prompts longer than run.max_prompt_length: the run is refused, with their number, or they are left out and
    counted (`data/skipped_prompts`).

    `skip` when a few prompts are too long to be worth their memory. verl: `data.filter_overlong_prompts`.
    """
    shuffle: Flag = True
    """Another order of the prompts in each epoch, drawn from run.seed.

    Off for a curriculum, where the order of the file matters.
    """
    samples_per_prompt: Annotated[int, Field(strict=True, ge=1, le=65536)] = 1
    """Rollouts of each prompt in an epoch. [rollouts]

    Up when prompts are few or hard, so that some of their responses succeed. verl: `rollout.n`.
    """

    @model_validator(mode="after")
    def _template_gets_variables(self) -> "DataSection":
        for name in sorted(SET_BY_THE_LEARNER & self.chat_template_kwargs.keys()):
            raise ValueError(
                f"chat_template_kwargs.{name} = {self.chat_template_kwargs[name]!r} is set by the learner itself; "
                "expected variables of the chat template, such as enable_thinking"
            )
        return self


class OptimizerSection(Section):
    """Keys that actor and critic share."""

    lr: LearningRate
    """Peak learning rate. [factor]

    Down when `ppo_kl` or `pg_clipfrac` is high, up when nothing moves; a small model takes a larger one.
    """
    lr_warmup_steps: StepsOrZero = 0
    """Linear warm-up of the learning rate. [updates]

    Up to a tenth of the run when the first steps are unstable. verl: `optim.lr_warmup_steps`.
    """
    lr_decay: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate from the peak to `lr_decay_steps`.

    `constant` when it shall stay at its peak.
    """
    lr_decay_steps: Steps | None = None
    """The decay ends after this many updates, and the rate stays at `min_lr_ratio` from there on; unset: with the run's
    last. [updates]

    Where the length of the run is open, or longer than learning needs: a run that is at a high rate for longer is less
    stable for longer. Megatron: `lr_decay_iters`.
    """
    min_lr_ratio: Fraction = 0.05
    """Learning rate where the decay ends. [share of the peak]

    Rarely. verl: `optim.min_lr_ratio`.
    """
    betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.95)
    """AdamW's decay of its two moments. [factor]

    The second up to 0.98 or more when updates are noisy.
    """
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's weight decay. [factor]

    Rarely in reinforcement learning. verl: `optim.weight_decay`.
    """
    grad_clip: PositiveFloat = 1.0
    """Bound of the gradient's norm. [norm]

    Down when `grad_norm` has spikes. verl: `grad_clip`.
    """
    ppo_epochs: Annotated[int, Field(strict=True, ge=1, le=1000)] = 1
    """Passes over a step's windows. [passes]

    Up when generation is expensive; watch `ppo_kl`. Each pass but the first deals the windows to its mini-batches in an
    order drawn from run.seed, the step and the pass. verl: `ppo_epochs`.
    """
    ppo_mini_batches: PositiveInt = 1
    """Optimizer updates per pass. [updates]

    Up for more updates from the same windows. verl gives the size instead: `ppo_mini_batch_size`.
    """
    max_tokens_per_microbatch: Tokens = 4096
    """Packed tokens per forward and backward pass; it bounds memory and changes no result but rounding. [tokens]

    Down when memory runs out, up to use it. verl: `ppo_max_token_len_per_gpu`.
    """
    lora_rank: Annotated[int, Field(strict=True, ge=0, le=4096)] = 0
    """Rank of the adapters that train in place of the model's own weights; 0: all weights train. [rank]

    8 to 64 where masters, gradients and moments of all weights do not fit (docs/lora.md); with about ten times the
    learning rate. Needs the package peft. verl: `model.lora_rank`.
    """
    lora_alpha: PositiveFloat = 16.0
    """What the adapters add is multiplied by lora_alpha / lora_rank. [factor]

    Usually as large as the rank, or twice that. verl: `model.lora_alpha`.
    """
    target_modules: TargetModules = "all-linear"
    """Linear layers that have an adapter, by the ends of their names; `all-linear`: all but the head.

    `["q_proj", "v_proj"]` or the like for fewer weights. verl: `model.target_modules`.
    """
    exclude_modules: list[Text] = Field(default_factory=list)
    """Of these layers, those that have none.

    Rarely. verl: `model.exclude_modules`.
    """


class ActorSection(OptimizerSection):
    """The policy's optimizer."""

    lr: LearningRate = 1e-6
    """Peak learning rate. [factor]

    The default is usual for pre-trained models of 0.5 billion parameters and more; the quick start's 0.1 million take
    7.5e-5. Down by half when `actor/ppo_kl` or `actor/pg_clipfrac` is high, up when the
    reward does not move; over several mini-batches or epochs lower than with one update a step.
    """
    max_kl: PositiveFloat | None = None
    """An update is skipped while the KL of its mini-batch to the policy before the step, k3 estimate, exceeds this;
    unset: never. [nats]

    With several updates in a step (`ppo_mini_batches`, `ppo_epochs`; the first one of a step is at 0): to a few times
    the usual `actor/kl_to_old/max`, when single steps move the policy too far. TRL, Stable-Baselines3: `target_kl`.
    """
    entropy_freq: StepsOrZero = 1
    """`actor/entropy` is measured in every training step whose number this divides; 0: never. [steps]

    Up, or 0, with a large vocabulary: the entropy takes another pass over all logits. Then the alert of a collapsed
    entropy comes later, or not at all.
    """

    router_aux_loss_coef: NonNegativeFloat = 0.0
    """Weight of a loss that evens out the routers of a mixture of experts: the mean of `actor/router_imbalance` over
    the rows; 0: off. Refused for a model that transformers has no such loss for. [factor]

    To 0.001 or so where training moves the tokens to few experts, so that `actor/router_imbalance` rises; it pulls
    against the reward. transformers: `router_aux_loss_coef`.
    """


class CriticSection(OptimizerSection):
    """The value model's optimizer, and where the value model trains."""

    compute_dtype: ComputeDtype | None = None
    """Type that the value model's body computes in; its head computes in float32. Unset: `learner.compute_dtype`.

    `float32` beside a policy in bfloat16, where `critic/vf_explained_var` stays lower than in float32.
    """
    device: Device | None = None
    """torch device of the value model; unset: `learner.device`.

    To give it a device of its own, as `cuda:1`.
    """
    num_processes: ProcessesOrZero = 0
    """Processes (ranks) that have the value model alone, and train it while the others train the policy; 0: it is in
    the policy's processes, and trains before it. [processes]

    1 or more where devices, or cores, are left over: docs/ranks.md. As many as make `timing_s/update_critic` about as
    long as `timing_s/update_actor`; `learner.num_processes` then counts the policy's.
    """
    share_body: Flag = False
    """Policy and value model stand on one frozen body, each with adapters of its own; needs `lora_rank` of both.

    On one device, without a critic of your own: the memory of one body instead of two.
    """
    lr: LearningRate = 2e-6
    """Peak learning rate. [factor]

    Twice the actor's is a good first choice for a pre-trained body. Down when `critic/vf_clipfrac` is high, up when
    `critic/vf_explained_var` stays near 0.
    """
    warmup_steps: StepsOrZero = 10
    """First steps in which only the value model trains. [steps]

    At least max_response_length / window_length without a pre-trained critic: only then can the longest responses have
    finished, and fewer are warned of. Down with one. verl: `trainer.critic_warmup`.
    """
    cliprange_value_low: PositiveFloat | Literal["none"] = 0.5
    """Value clip: a value moves at most this far down from the old one; `none`: no clip. [score]

    In proportion to the range of your scores; the default fits 0 to 1. verl: `cliprange_value`.
    """
    cliprange_value_high: PositiveFloat | Literal["none"] = 0.6
    """Value clip: a value moves at most this far up from the old one; `none`: no clip. [score]

    As `cliprange_value_low`.
    """
    loss_aggregation: Literal["row_mean", "token_mean"] = "row_mean"
    """`row_mean`: finished responses weigh alike (the recipe). `token_mean`: their tokens do.

    `token_mean` when values of long responses stay bad.
    """
