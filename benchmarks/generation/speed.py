"""Tokens per second of the transformers engine: in T-PPO's normal state, and beside transformers' `generate`.

    OMP_NUM_THREADS=1 python -m benchmarks.generation.speed windows --slots 32 --update-every 60
    OMP_NUM_THREADS=1 python -m benchmarks.generation.speed generate qwen3 gemma3_text MODEL_FOLDER

``windows``, the default: long-tailed responses in windows, in slots that are refilled. The model is the quick start's,
106k random parameters.

``generate``: models in folders, and small random ones of families by name. As many rows as three batches have slots,
all at once to the engine and in batches to `generate`, padded on the left; with lengths that are all equal, and with
ragged ones. Both sample at temperature 1, the engine with log-probabilities; they take turns, and the medians count.

Lengths of responses are prescribed, drawn from a truncated Pareto distribution, instead of being sampled, so that every
engine and every setting generates the same amount.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, Qwen2Config

from benchmarks.as_in_a_run import compute_as_in_a_run
from services.generation.build import make_decoder
from services.generation.transformers_engine.decoders.llama import LlamaDecoder
from services.generation.transformers_engine.decoders.model_weights import named_weights, new_model
from services.generation.transformers_engine.engine import TransformersEngine
from services.generation.update_policy import UpdatePolicy
from tools.tiny_families import SIZES, tiny_config
from tppo.rollout import Window, WindowRequest, tokens
from tppo.weights import WeightUpdate

MAX_PROMPT_LENGTH = 16
MAX_RESPONSE_LENGTH = 2048
PARETO_SHAPE = 0.6
SHORTEST = 9  # tokens
CPU = torch.device("cpu")
NUM_BATCHES = 3
SMALL: dict[str, Any] = {  # beside which overhead is small, but not nothing
    **{key: 256 for key, size in SIZES.items() if size == SIZES["hidden_size"]},
    **{key: 512 for key, size in SIZES.items() if size == SIZES["intermediate_size"]},
    **dict.fromkeys(("sliding_window", "attention_window_size", "attention_chunk_size", "window_size"), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 1024),
    "vocab_size": 8192,
    "initializer_range": 0.02,
}


def quick_start_config() -> Qwen2Config:
    return Qwen2Config(
        vocab_size=112,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=192,
        tie_word_embeddings=True,
        initializer_range=0.06,
    )


def response_lengths(rng: random.Random, *, longest: int = MAX_RESPONSE_LENGTH) -> Iterator[int]:
    """Truncated Pareto: drawn again when longer than the limit."""
    while True:
        length = int(SHORTEST * rng.paretovariate(PARETO_SHAPE))
        if length <= longest:
            yield length


def request_of(number: int, prompt: Sequence[int], response: Sequence[int], max_new_tokens: int) -> WindowRequest:
    return WindowRequest(
        rollout_id=str(number),
        window_index=0,
        prompt_tokens=tokens(prompt),
        response_tokens=tokens(response),
        max_new_tokens=max_new_tokens,
        stop_token_ids=(),
        temperature=1.0,
        seed=number,
    )


async def generate_response(engine: TransformersEngine, number: int, length: int, window_length: int) -> None:
    prompt = tokens(random.Random(number).randrange(112) for _ in range(8))
    response = tokens()
    while len(response) < length:
        request = request_of(number, prompt, response, min(window_length, length - len(response)))
        window: Window = await engine.generate(request)
        response = response + window.tokens


async def run_windows(arguments: argparse.Namespace) -> None:
    config = quick_start_config()
    capacity = MAX_PROMPT_LENGTH + MAX_RESPONSE_LENGTH
    decoder = LlamaDecoder(config, num_slots=arguments.slots, capacity=capacity, dtype=torch.float32, device=CPU)
    policy = UpdatePolicy(in_flight=True, recompute_cache=not arguments.keep_cache)
    engine = TransformersEngine(decoder, num_slots=arguments.slots, capacity=capacity, policy=policy, device=CPU)
    tensors = dict(new_model(config, torch.float32).state_dict())
    del tensors["lm_head.weight"]
    await engine.update_weights(WeightUpdate(policy_version=0, incarnation=0, digest="", tensors=tensors))

    lengths = response_lengths(random.Random(arguments.seed))
    num_open = 2 * arguments.slots  # one that runs and one that waits for each slot

    async def stream(first: int) -> None:
        for number in range(first, 1_000_000, num_open):
            await generate_response(engine, number, next(lengths), arguments.window)

    streams = [asyncio.create_task(stream(first)) for first in range(num_open)]
    updates = asyncio.create_task(update_regularly(engine, tensors, arguments.update_every))
    await asyncio.sleep(arguments.warmup)
    before, cpu, wall = engine.statistics(), time.process_time(), time.perf_counter()
    await asyncio.sleep(arguments.seconds)
    after, cpu, wall = engine.statistics(), time.process_time() - cpu, time.perf_counter() - wall
    for task in (*streams, updates):
        task.cancel()
    await asyncio.gather(*streams, updates, return_exceptions=True)
    await engine.close()

    num_tokens = after.num_tokens_generated - before.num_tokens_generated
    num_steps = after.num_decode_steps - before.num_decode_steps
    num_prefilled = after.num_prefill_tokens - before.num_prefill_tokens
    busy = after.busy_seconds - before.busy_seconds
    print(
        f"slots {arguments.slots}  window {arguments.window}  update every {arguments.update_every} steps  "
        f"recompute {not arguments.keep_cache}\n"
        f"{num_tokens / wall:.0f} tokens/s  {num_tokens / cpu:.0f} tokens per CPU second  "
        f"{1e3 * busy / num_steps:.3f} ms a step  occupancy {num_tokens / num_steps / arguments.slots:.3f}  "
        f"prefilled {num_prefilled / num_tokens:.2f} tokens per token"
    )


async def update_regularly(engine: TransformersEngine, tensors: dict[str, torch.Tensor], num_steps: int) -> None:
    version = 0
    while num_steps:
        due = (version + 1) * num_steps
        while engine.statistics().num_decode_steps < due:  # noqa: ASYNC110  the engine has no event for it
            await asyncio.sleep(0.002)
        version += 1
        await engine.update_weights(WeightUpdate(policy_version=version, incarnation=0, digest="", tensors=tensors))


class Row(NamedTuple):
    """A prompt, and how many tokens follow."""

    prompt: list[int]
    response_length: int


def equal_rows(num: int, *, vocabulary_size: int, longest: int) -> list[Row]:
    rng = random.Random(0)
    return [Row([rng.randrange(3, vocabulary_size) for _ in range(longest // 2)], longest // 2) for _ in range(num)]


def ragged_rows(num: int, *, vocabulary_size: int, longest: int) -> list[Row]:
    rng = random.Random(1)
    lengths = response_lengths(rng, longest=longest)
    return [
        Row([rng.randrange(3, vocabulary_size) for _ in range(rng.randrange(4, longest))], next(lengths))
        for _ in range(num)
    ]


async def engine_seconds(engine: TransformersEngine, rows: Sequence[Row]) -> float:
    """CPU time until all rows have their tokens."""
    requests = [request_of(number, row.prompt, (), row.response_length) for number, row in enumerate(rows)]
    started = time.process_time()
    windows = await asyncio.gather(*(engine.generate(request) for request in requests))
    seconds = time.process_time() - started
    assert [len(window.tokens) for window in windows] == [row.response_length for row in rows]
    return seconds


@torch.inference_mode()
def generate_seconds(model: Any, rows: Sequence[Row], num_slots: int) -> float:
    """CPU time of as many batches as it takes; each goes on until its longest row has its tokens."""
    started = time.process_time()
    for first in range(0, len(rows), num_slots):
        batch = rows[first : first + num_slots]
        longest = max(len(row.prompt) for row in batch)
        inputs = torch.tensor([[0] * (longest - len(row.prompt)) + row.prompt for row in batch])
        mask = torch.tensor([[0] * (longest - len(row.prompt)) + [1] * len(row.prompt) for row in batch])
        model.generate(
            inputs,
            attention_mask=mask,
            max_new_tokens=max(row.response_length for row in batch),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            eos_token_id=[],
            pad_token_id=0,
        )
    return time.process_time() - started


def model_of(name: str) -> tuple[Any, PreTrainedConfig]:
    """The model of a folder, or a random one of a family; and its configuration once more, for the engine."""
    if Path(name).is_dir():
        model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, local_files_only=True)
        return model.eval(), AutoConfig.from_pretrained(name, local_files_only=True)
    torch.manual_seed(0)
    model = new_model(tiny_config(name, SMALL), torch.float32)
    return model.eval(), tiny_config(name, SMALL)


async def compare(name: str, arguments: argparse.Namespace) -> str:
    """A row of the table."""
    model, config = model_of(name)
    capacity, num_slots = 2 * arguments.longest, arguments.slots
    decoder = make_decoder(config, num_slots=num_slots, capacity=capacity, dtype=torch.float32, device=CPU)
    engine = TransformersEngine(decoder, num_slots=num_slots, capacity=capacity, policy=UpdatePolicy(), device=CPU)
    tensors = {name: tensor.detach().clone() for name, tensor in named_weights(model).items()}
    await engine.update_weights(WeightUpdate(policy_version=0, incarnation=0, digest="", tensors=tensors))
    found = []
    for make_rows in (equal_rows, ragged_rows):
        vocabulary_size = config.get_text_config().vocab_size
        rows = make_rows(NUM_BATCHES * num_slots, vocabulary_size=vocabulary_size, longest=arguments.longest)
        num_tokens = sum(row.response_length for row in rows)
        pairs = [
            (await engine_seconds(engine, rows), generate_seconds(model, rows, num_slots))
            for _ in range(arguments.repeats)
        ]
        ours, theirs = (num_tokens / statistics.median(seconds) for seconds in zip(*pairs, strict=True))
        found.append(f"{ours:.0f} | {theirs:.0f} | {ours / theirs:.2f}")
    await engine.close()
    layout = getattr(decoder, "layout", None)
    return f"| {Path(name).name} | {layout.name.lower() if layout else 'fast path'} | {' | '.join(found)} |"


async def run_beside_generate(arguments: argparse.Namespace) -> None:
    print(f"Tokens per CPU-second; {arguments.slots} slots, at most {arguments.longest} tokens of each part.\n")
    print("| model | layout | equal: engine | `generate` | ratio | ragged: engine | `generate` | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.models:
        print(await compare(name, arguments), flush=True)


def arguments_of(argv: Sequence[str]) -> argparse.Namespace:
    """Without a mode, `windows`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(required=True)
    windows = modes.add_parser("windows", help="long-tailed responses in windows")
    windows.set_defaults(run=run_windows)
    windows.add_argument("--slots", type=int, default=32)
    windows.add_argument("--window", type=int, default=256)
    windows.add_argument("--update-every", type=int, default=0, help="decode steps between two updates; 0: none")
    windows.add_argument("--keep-cache", action="store_true", help="do not recompute the caches after an update")
    windows.add_argument("--warmup", type=float, default=4.0, help="seconds before measuring")
    windows.add_argument("--seconds", type=float, default=8.0, help="seconds of measuring")
    windows.add_argument("--seed", type=int, default=0)
    beside = modes.add_parser("generate", help="beside transformers' generate")
    beside.set_defaults(run=run_beside_generate)
    beside.add_argument("models", nargs="+", help="families, or folders of models")
    beside.add_argument("--slots", type=int, default=8)
    beside.add_argument("--longest", type=int, default=256, help="tokens of a prompt, and of a response")
    beside.add_argument("--repeats", type=int, default=3)
    return parser.parse_args(argv or ["windows"])


def main(argv: Sequence[str]) -> int:
    """Measure in one mode."""
    compute_as_in_a_run()
    arguments = arguments_of(argv)
    asyncio.run(arguments.run(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
