"""What several learner processes cost and save on this machine: steps of one model by one, two, ... processes.

    python -m benchmarks.learner.processes --layouts 0 0t2 1+1 2

0 is a process without a group, 1 one on a mesh of one, more talk over gloo. 1+1 is one for the policy and one for the
value model. t2: each computes by two threads, not one. All train the same rows, one layout after the other, in one run:
what counts is the ratio. On a machine whose cores are fewer than the processes they share them.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple, Self

import torch
from torch.distributed import destroy_process_group, init_process_group
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, Qwen2ForTokenClassification

from benchmarks.as_in_a_run import compute_as_in_a_run
from learner.models.loading.loading import policy_from_network, value_model_from_network
from learner.models.weights.sharding import ShardedWeights
from learner.parallel.group import Group
from learner.parallel.roles import TOGETHER, Roles
from learner.rollouts.rollout import Rollout
from learner.state import new_trainer
from learner.step.trainer import Trainer
from tests.learner.builders import a_config, a_row

WINDOW = 64


class Layout(NamedTuple):
    """How the learner's processes are laid out."""

    text: str
    of_policy: int  # or of both models; 0: one process without a group
    of_value_model: int
    num_threads: int

    @classmethod
    def of(cls, text: str) -> Self:
        """`2`, `1+1`, `0t2`."""
        found = re.fullmatch(r"(\d+)(?:\+(\d+))?(?:t(\d+))?", text)
        if found is None:
            raise argparse.ArgumentTypeError(f"{text!r}; expected processes such as 0, 2, 1+1 or 0t2")
        return cls(text, int(found[1]), int(found[2] or 0), int(found[3] or 1))

    @property
    def size(self) -> int:
        """Of the group."""
        return self.of_policy + self.of_value_model

    def __str__(self) -> str:
        what = "1, without a group" if self.size == 0 else f"{self.of_policy}, sharded"
        if self.of_value_model:
            what = f"{self.of_policy} of the policy and {self.of_value_model} of the value model"
        return what + (f", {self.num_threads} threads each" if self.num_threads > 1 else "")


def main() -> None:
    """Start each layout in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layouts", type=Layout.of, nargs="+", default=[Layout.of("0"), Layout.of("2")])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=16_384)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="measured, after one that is not")
    parser.add_argument("--rank", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--store", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        _measure(arguments)
        return
    found = {layout: _started(arguments, layout) for layout in arguments.layouts}
    first = found[arguments.layouts[0]]
    print(f"{first['num_parameters'] / 1e6:.2g}M parameters each, {os.cpu_count()} cores, float32, gloo")
    print("| processes | seconds a step | ratio | memory of a process |")
    for layout, one in found.items():
        ratio = one["seconds"] / first["seconds"]
        print(f"| {layout} | {one['seconds']:.3f} | {ratio:.2f} | {one['gigabytes']:.2f} GB |")


def _started(arguments: argparse.Namespace, layout: Layout) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.learner.processes", "--layouts", layout.text]
        names = ("layers", "width", "vocabulary", "rows", "steps")
        command += [f"--{name}={getattr(arguments, name)}" for name in names]
        command += ["--store", f"{folder}/store"]
        ranks = [
            subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True)
            for rank in range(max(1, layout.size))
        ]
        outputs = [rank.communicate()[0] for rank in ranks]
        assert not any(rank.returncode for rank in ranks), "a rank has failed"
    found: list[dict[str, Any]] = [json.loads(output) for output in outputs]
    return found[0] | {"gigabytes": max(one["gigabytes"] for one in found)}


def _measure(arguments: argparse.Namespace) -> None:
    """Steps of one rank."""
    (layout,) = arguments.layouts
    compute_as_in_a_run(num_threads=layout.num_threads)
    roles = TOGETHER
    if layout.size:
        store = f"file://{arguments.store}"
        init_process_group("gloo", init_method=store, rank=arguments.rank, world_size=layout.size)
        roles = Roles.together(Group.joined(torch.device("cpu")))
    if layout.of_value_model:
        roles = Roles.apart(layout.of_policy, torch.device("cpu"))
    trainer = _trainer(arguments, roles, is_sharded=layout.size > 0)
    rows, seconds = _rows(arguments.rows), []
    for version in range(arguments.steps + 1):
        started = time.perf_counter()
        trainer.step(rows, policy_version=version)
        seconds.append(time.perf_counter() - started)
    side = trainer.policy_side or trainer.value_side
    assert side is not None
    found = {
        "seconds": statistics.median(seconds[1:]),
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "num_parameters": sum(one.numel() for one in side.weights.parameters()),
    }
    if layout.size:
        destroy_process_group()
    print(json.dumps(found))


def _trainer(arguments: argparse.Namespace, roles: Roles, *, is_sharded: bool) -> Trainer:
    both = {"lr": 1e-5, "lr_decay": "constant", "max_tokens_per_microbatch": 256}
    config = a_config(
        run={"mode": "lockstep", "window_length": WINDOW, "max_response_length": 2 * WINDOW},
        actor=both,
        critic={**both, "warmup_steps": 0},
    )
    policy = value_model = None
    if (group := roles.policy) is not None:
        policy = policy_from_network(_network(Qwen2ForCausalLM, arguments), group=group)
    if (group := roles.value_model) is not None:
        value_model = value_model_from_network(_network(Qwen2ForTokenClassification, arguments), group=group)
    if is_sharded and roles.everyone.size == 1:  # which is plain otherwise
        for model in (policy, value_model):
            assert model is not None
            model.weights = ShardedWeights(model.network, group=roles.everyone)
            model.network = model.weights.network
    return new_trainer(config, policy, value_model, roles=roles)


def _network(kind: type[PreTrainedModel], arguments: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": arguments.vocabulary, "hidden_size": arguments.width, "num_labels": 1}
    num_heads = max(2, arguments.width // 64)
    heads: dict[str, Any] = {"num_attention_heads": num_heads, "num_key_value_heads": max(1, num_heads // 3)}
    depth: dict[str, Any] = {"intermediate_size": 4 * arguments.width, "num_hidden_layers": arguments.layers}
    config = Qwen2Config(**sizes, **heads, **depth, tie_word_embeddings=True)
    config.classifier_dropout = 0.0
    network: Any = kind(config)
    return network.eval()


def _rows(number: int) -> list[Rollout]:
    """Of 20 to 64 tokens, every other one finished."""
    lengths = [[64, 20, 48, 31, 56, 40, 25, 60][index % 8] for index in range(number)]
    return [
        a_row([3 + (7 * place) % 25 for place in range(length)], score=float(index % 4 > 1) if index % 2 else None)
        for index, length in enumerate(lengths)
    ]


if __name__ == "__main__":
    main()
