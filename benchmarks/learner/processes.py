"""What several learner processes cost and save on this machine: steps of one model by one, two, ... processes.

    python -m benchmarks.learner.processes --sizes 0 1 2

0 is a process without a group, 1 one on a mesh of one, more talk over gloo. All train the same rows, one after the
other, in one run: what counts is the ratio. On a machine whose cores are fewer than the processes they share them.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
from torch.distributed import destroy_process_group, init_process_group
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, Qwen2ForTokenClassification

from learner.models.loading.loading import policy_from_network, value_model_from_network
from learner.models.weights.sharding import ShardedWeights
from learner.parallel.group import ALONE, Group
from learner.rollouts.rollout import Rollout
from learner.state import new_trainer
from learner.step.trainer import Trainer
from tests.learner.builders import a_config, a_row

VOCABULARY = 16_384
WINDOW = 64


def main() -> None:
    """Start each size in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--steps", type=int, default=3, help="measured, after one that is not")
    parser.add_argument("--rank", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--store", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        _measure(arguments)
        return
    found = {size: _started(arguments, size) for size in arguments.sizes}
    first = found[arguments.sizes[0]]
    print(f"{first['num_parameters'] / 1e6:.0f}M parameters each, {os.cpu_count()} cores, float32, gloo")
    print("| processes | seconds a step | ratio | memory of a process |")
    for size, one in found.items():
        what = "1, without a group" if size == 0 else f"{size}, sharded"
        ratio = one["seconds"] / first["seconds"]
        print(f"| {what} | {one['seconds']:.2f} | {ratio:.2f} | {one['gigabytes']:.2f} GB |")


def _started(arguments: argparse.Namespace, size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.learner.processes", "--sizes", str(size)]
        command += [f"--{name}={getattr(arguments, name)}" for name in ("layers", "width", "steps")]
        command += ["--store", f"{folder}/store"]
        ranks = [
            subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True)
            for rank in range(max(1, size))
        ]
        outputs = [rank.communicate()[0] for rank in ranks]
        assert not any(rank.returncode for rank in ranks), "a rank has failed"
    found: list[dict[str, Any]] = [json.loads(output) for output in outputs]
    return found[0] | {"gigabytes": max(one["gigabytes"] for one in found)}


def _measure(arguments: argparse.Namespace) -> None:
    """Steps of one rank."""
    (size,) = arguments.sizes
    torch.set_num_threads(1)
    group = ALONE
    if size:
        init_process_group("gloo", init_method=f"file://{arguments.store}", rank=arguments.rank, world_size=size)
        group = Group.joined(torch.device("cpu"))
    trainer = _trainer(arguments, group, is_sharded=size > 0)
    seconds = []
    for version in range(arguments.steps + 1):
        started = time.perf_counter()
        trainer.step(_rows(), policy_version=version)
        seconds.append(time.perf_counter() - started)
    found = {
        "seconds": statistics.median(seconds[1:]),
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "num_parameters": sum(one.numel() for one in trainer.policy.weights.parameters()),
    }
    if size:
        destroy_process_group()
    print(json.dumps(found))


def _trainer(arguments: argparse.Namespace, group: Group, *, is_sharded: bool) -> Trainer:
    both = {"lr": 1e-5, "lr_decay": "constant", "max_tokens_per_microbatch": 256}
    config = a_config(
        run={"mode": "lockstep", "window_length": WINDOW, "max_response_length": 2 * WINDOW},
        actor=both,
        critic={**both, "warmup_steps": 0},
    )
    policy = policy_from_network(_network(Qwen2ForCausalLM, arguments), group=group)
    value_model = value_model_from_network(_network(Qwen2ForTokenClassification, arguments), group=group)
    if is_sharded and group.size == 1:  # which is plain otherwise
        for model in (policy, value_model):
            model.weights = ShardedWeights(model.network, group=group)
            model.network = model.weights.network
    return new_trainer(config, policy, value_model)


def _network(kind: type[PreTrainedModel], arguments: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": arguments.width, "num_labels": 1}
    heads: dict[str, Any] = {"num_attention_heads": 12, "num_key_value_heads": 4, "tie_word_embeddings": True}
    depth: dict[str, Any] = {"intermediate_size": 4 * arguments.width, "num_hidden_layers": arguments.layers}
    config = Qwen2Config(**sizes, **heads, **depth)
    config.classifier_dropout = 0.0
    network: Any = kind(config)
    return network.eval()


def _rows() -> list[Rollout]:
    """Of 20 to 64 tokens, every other one finished."""
    lengths = [64, 20, 48, 31, 56, 40, 25, 60]
    return [
        a_row([3 + (7 * place) % 900 for place in range(length)], score=float(index % 4 > 1) if index % 2 else None)
        for index, length in enumerate(lengths)
    ]


if __name__ == "__main__":
    main()
