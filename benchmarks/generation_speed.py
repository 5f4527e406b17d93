"""Tokens per second of the transformers engine in T-PPO's normal state: long-tailed responses, windows, refilled slots.

    OMP_NUM_THREADS=1 python -m benchmarks.generation_speed --slots 32 --update-every 60

The model is the quick start's (106k parameters) with random weights; lengths are drawn from a truncated Pareto
distribution instead of being sampled, so that every engine and every setting generates the same amount.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Iterator

import torch
from transformers import Qwen2Config

from services.generation.transformers_engine.decode_loop import UpdatePolicy
from services.generation.transformers_engine.decoders.llama import LlamaDecoder
from services.generation.transformers_engine.decoders.model_weights import new_model
from services.generation.transformers_engine.engine import TransformersEngine
from tppo.rollout import Window, WindowRequest, tokens
from tppo.weights import WeightUpdate

MAX_PROMPT_LENGTH = 16
MAX_RESPONSE_LENGTH = 2048
PARETO_SHAPE = 0.6
SHORTEST = 9  # tokens
CPU = torch.device("cpu")


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


def response_lengths(rng: random.Random) -> Iterator[int]:
    """Truncated Pareto: drawn again when longer than the limit."""
    while True:
        length = int(SHORTEST * rng.paretovariate(PARETO_SHAPE))
        if length <= MAX_RESPONSE_LENGTH:
            yield length


async def generate_response(engine: TransformersEngine, number: int, length: int, window_length: int) -> None:
    prompt = tokens(random.Random(number).randrange(112) for _ in range(8))
    response = tokens()
    while len(response) < length:
        request = WindowRequest(
            rollout_id=str(number),
            window_index=0,
            prompt_tokens=prompt,
            response_tokens=response,
            max_new_tokens=min(window_length, length - len(response)),
            stop_token_ids=(),
            temperature=1.0,
            seed=number,
        )
        window: Window = await engine.generate(request)
        response = response + window.tokens


async def run(arguments: argparse.Namespace) -> None:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--update-every", type=int, default=0, help="decode steps between two updates; 0: none")
    parser.add_argument("--keep-cache", action="store_true", help="do not recompute the caches after an update")
    parser.add_argument("--warmup", type=float, default=4.0, help="seconds before measuring")
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of measuring")
    parser.add_argument("--seed", type=int, default=0)
    torch.set_num_threads(1)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
