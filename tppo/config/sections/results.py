"""`[evaluation]`, `[checkpoint]`, `[trace]`, `[trackers]`: what a run measures and leaves behind."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tppo.config.sections.section import Flag, NamedPath, PositiveInt, Section, StepsOrZero, Temperature, expecting

Name = Annotated[str, Field(pattern=r"^\w{1,64}$"), expecting("1 to 64 letters, digits or '_'")]
NAME_OF_A_SET = re.compile(r"[\w.-]{1,64}")

Greedy = Annotated[float, Field(strict=True, ge=0, le=0), expecting("0")]
Project = Annotated[
    str,
    Field(pattern=r"^[^/\\#?%:\x00-\x1f]{1,128}$"),
    expecting("1 to 128 letters, none of them '/', '\\', '#', '?', '%' or ':'"),
]


class EvaluationSection(Section):
    """Accuracy on the fixed prompts of data.val_files, and of further named sets; docs/evaluation.md."""

    test_freq: StepsOrZero = 20
    """Evaluate after every so many steps, and always before the first and after the last; 0: never. [steps]

    Up when evaluations take a large share of generation. verl: `trainer.test_freq`.
    """
    val_before_train: Flag = True
    """Evaluate before the first step too, which waits for it.

    Off when the base model's accuracy is known. verl: `trainer.val_before_train`.
    """
    after_training: Flag = False
    """Defer the evaluations: keep the weights, and evaluate them after the last step.

    On for measurements of speed, where training has the machine to itself.
    """
    sets: dict[str, Annotated[list[NamedPath], Field(min_length=1)]] = Field(default_factory=dict)
    """name -> files: further sets of prompts, in verl's columns, whose accuracies are reported by their names. Without
    `data.val_files` the first of them decides which checkpoint is the best.

    `aime24 = ["aime24.jsonl"]`, to follow benchmarks beside the task. verl: several `data.val_files`, by data source.
    """
    samples_per_prompt: Annotated[int, Field(strict=True, ge=1, le=256)] = 1
    """Responses to each prompt, for `best@k` (pass@k) and `maj@k`; an accuracy is the mean over them. [responses]

    Up for small sets, where one response says little, such as the 30 problems of AIME. verl: `rollout.val_kwargs.n`.
    """
    num_prompts: PositiveInt | None = None
    """The first so many prompts, of data.val_files and of each set; unset: all. [prompts]

    When an evaluation takes too long.
    """
    temperature: Greedy | Temperature = 1.0
    """Sampling temperature; 0: greedy. [factor]

    To 0 for the usual benchmark numbers. verl: `rollout.val_kwargs.temperature`.
    """
    solution_key: Name | None = None
    """Name in `extra_info` of each prompt's worked solution, a text, for `eval/accuracy_exact`; unset: none.

    When a right answer practically has one path, to measure it without sampling noise (docs/metrics.md).
    """
    group_key: Name | None = None
    """Name in `extra_info` of a whole number, by whose ranges accuracies are reported too; unset: none.

    When prompts differ in difficulty, and the mean hides which of them are still to learn.
    """
    group_bounds: list[Annotated[int, Field(strict=True, ge=0)]] = Field(default_factory=list)
    """Where the ranges of `group_key` end, rising; each includes it, one more is above the last. [group_key]

    With `group_key`: `[20, 200]` makes the three ranges up to 20, 21 to 200, and above 200.
    """

    @model_validator(mode="after")
    def _samples_differ(self) -> "EvaluationSection":
        if self.temperature == 0 and self.samples_per_prompt > 1:
            raise ValueError(
                f"samples_per_prompt = {self.samples_per_prompt} with temperature = 0: all responses to a prompt would "
                "be the same; expected a temperature above 0, or one sample"
            )
        for name in self.sets:
            if not NAME_OF_A_SET.fullmatch(name):
                raise ValueError(f"sets: {name!r} is no name; expected 1 to 64 letters, digits, '_', '.' or '-'")
        return self

    @model_validator(mode="after")
    def _groups_are_ranges(self) -> "EvaluationSection":
        bounds = self.group_bounds
        if (self.group_key is None) != (not bounds):
            raise ValueError(
                f"group_key = {self.group_key!r} with group_bounds = {bounds}; expected both or neither of them"
            )
        if bounds != sorted(set(bounds)):
            raise ValueError(f"group_bounds = {bounds}; expected rising numbers")
        return self


class CheckpointSection(Section):
    """What a resume starts from."""

    save_freq: StepsOrZero = 20
    """Commit a checkpoint after every so many steps, every evaluated one, and the last; 0: only the last. [steps]

    Down when steps are long: a crash costs the steps since, and Redis holds the inbox since. verl: `trainer.save_freq`.
    """
    keep: PositiveInt = 2
    """Newest checkpoints that are kept, beside the one of the best accuracy, exact if there is one. [checkpoints]

    Up to roll back further. verl: `trainer.max_actor_ckpt_to_keep`.
    """


class TraceSection(Section):
    """What the training steps did: some of their responses on the console, each of their tokens in files."""

    enabled: Flag = False
    """Write traces/step_N.parquet, for `tppo audit` (docs/traces.md): about 25 bytes a token.

    On to look at single tokens, or to audit the run.
    """
    log_completions: StepsOrZero = 0
    """Print some prompts, completions and scores on the console of `tppo run` after every so many training steps; 0:
    never. [steps]

    On to see what the rewards reward; `tppo run --log-completions` is 10. TRL: `log_completions`, with `logging_steps`.
    """


class TrackersSection(Section):
    """Where else the lines of metrics.jsonl go (docs/metrics.md); needs tppo[trackers]."""

    tensorboard: Flag = False
    """Write event files to tensorboard/ in the run's folder.

    On when you use TensorBoard. verl: `trainer.logger`.
    """
    wandb: Literal["off", "offline", "online"] = "off"
    """Weights & Biases: write to wandb/ in the run's folder, and, online, upload; the key comes from WANDB_API_KEY.

    `offline` on machines without a network. verl: `trainer.logger`.
    """
    wandb_project: Project = "tppo"
    """Project of W&B that the run belongs to.

    To group your runs. verl: `trainer.project_name`.
    """
