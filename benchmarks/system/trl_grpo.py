"""TRL's GRPO on the quick start's task, in TRL's environment: a line of JSON with what it took, for peers.py.

As much as can be is like the quick start: the base model, the prompts, 32 rows a step (8 responses to each of 4
prompts), 4 updates a step, the rate, its warm-up, the moments, the clip, the limit of 2048 tokens, temperature 1,
float32. What the library decides by itself is left to it. It has no value model.
"""

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TASK = ROOT / "examples" / "iterated_map"
ROWS, GROUP, UPDATES = 32, 8, 4
RESPONSE_LIMIT = 2048


class Clock:
    """Wall-clock, CPU time and sampled tokens at the end of each generation's last update."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self.points: list[tuple[float, float, int]] = []

    def note(self) -> None:
        self.points.append((time.perf_counter(), time.process_time(), self.num_tokens))


def trained(*, steps: int, folder: str) -> Clock:
    torch, trl, transformers, datasets = map(import_module, ("torch", "trl", "transformers", "datasets"))
    torch.set_flush_denormal(True)  # as ours
    clock = Clock()

    def is_right(completions: list[str], completion_ids: list[list[int]], answer: list[str], **_: Any) -> list[float]:
        clock.num_tokens += sum(map(len, completion_ids))
        return [float(text.rpartition("#")[2] == right) for text, right in zip(completions, answer, strict=True)]

    class Ticks(transformers.TrainerCallback):  # type: ignore[name-defined,misc]
        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step % UPDATES == 0:
                clock.note()

    lines = [json.loads(line) for line in (TASK / "data" / "train.jsonl").read_text().splitlines()]
    rows = [{"prompt": line["prompt"], "answer": line["reward_model"]["ground_truth"]} for line in lines]
    trainer = trl.GRPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(TASK / "base" / "actor", dtype=torch.float32),
        reward_funcs=is_right,
        args=trl.GRPOConfig(**settings(steps=steps, folder=folder)),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=transformers.AutoTokenizer.from_pretrained(TASK / "base" / "actor"),
        callbacks=[Ticks()],
    )
    trainer.train()
    return clock


def settings(*, steps: int, folder: str) -> dict[str, Any]:
    """Of `trl.GRPOConfig`."""
    return {
        "output_dir": folder,
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "max_steps": steps * UPDATES,
        "per_device_train_batch_size": ROWS // UPDATES,
        "steps_per_generation": UPDATES,
        "num_generations": GROUP,
        "max_completion_length": RESPONSE_LIMIT,
        "temperature": 1.0,
        "learning_rate": 7.5e-5,
        "lr_scheduler_type": "linear",
        "warmup_steps": 12,
        "adam_beta1": 0.9,
        "adam_beta2": 0.98,
        "max_grad_norm": 1.0,
        "beta": 0.0,
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 101,
    }


def main() -> None:
    steps, folder = int(sys.argv[1]), sys.argv[2]
    clock = trained(steps=steps, folder=folder)
    (wall, cpu, num), (last_wall, last_cpu, last_num) = clock.points[0], clock.points[-1]  # the first step warms up
    print(json.dumps({"seconds": last_wall - wall, "cpu_seconds": last_cpu - cpu, "tokens": last_num - num}))


if __name__ == "__main__":
    main()
