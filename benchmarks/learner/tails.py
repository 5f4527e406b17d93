"""Heavy-tailed responses of a model of 5M parameters: packed rows beside padded ones, and beside a matrix product.

    OMP_NUM_THREADS=1 python -m benchmarks.learner.tails

Forward and backward pass over 32 responses, whose lengths are drawn from a truncated Pareto distribution. *Padded* is
transformers' own pass over rows as long as the longest, four at a time, since more do not fit into memory; *padded,
sorted* over rows of like length, as long as the longest of eight. *Packed* is the learner's: micro-batches of 2,048
tokens without padding; *by modules* the same without its fast path. The matrix limit is the rate of one large product
of float32. The rate of a pass counts what rows need: 6 operations for each parameter of a product and each token, and
attention of each token to those before it. All take turns; medians count; CPU time.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.as_in_a_run import compute_as_in_a_run
from learner.models.loading.loading import policy_from_network
from learner.models.passes.outputs import Policy, token_scores
from learner.models.passes.packing import TokenRow, pack

VOCABULARY = 512
CONFIG: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
NUM_ROWS = 32
PROMPT_LENGTH = 8
SHORTEST, LONGEST, PARETO_SHAPE = 9, 1024, 0.6
MAX_TOKENS = 2048
MATRIX_SIZE = 1024


def heavy_tailed_rows(seed: int) -> list[TokenRow]:
    """Prompts of one length, and responses that the policy's loss takes whole."""
    rng = random.Random(seed)
    lengths: list[int] = []
    while len(lengths) < NUM_ROWS:
        length = int(SHORTEST * rng.paretovariate(PARETO_SHAPE))
        if length <= LONGEST:
            lengths.append(length)
    generator = torch.Generator().manual_seed(seed)
    return [
        TokenRow(torch.randint(VOCABULARY, (PROMPT_LENGTH + length,), generator=generator), PROMPT_LENGTH)
        for length in lengths
    ]


def num_operations(network: Any, rows: Sequence[TokenRow]) -> float:
    """Of products in a forward and a backward pass over the rows."""
    config = network.config
    tokens = sum(len(row.token_ids) for row in rows)
    of_products = sum(one.numel() for one in network.parameters() if one.ndim == 2)  # the embedding is the head, too
    pairs = sum(len(row.token_ids) * (len(row.token_ids) + 1) / 2 for row in rows)
    of_attention = 4 * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    return float(6 * of_products * tokens + 3 * of_attention * pairs)


def packed(policy: Policy, rows: Sequence[TokenRow]) -> None:
    for batch in pack(rows, max_tokens=MAX_TOKENS):
        token_scores(policy, batch, with_entropy=False).logprobs.sum().backward()  # type: ignore[no-untyped-call]


def padded(network: Any, rows: Sequence[TokenRow], *, rows_at_once: int, width: int = 0) -> None:
    """Rows of at least `width`."""
    for first in range(0, len(rows), rows_at_once):
        batch = [torch.as_tensor(row.token_ids) for row in rows[first : first + rows_at_once]]
        ids = torch.zeros(len(batch), max(width, *map(len, batch)), dtype=torch.long)
        for place, row in enumerate(batch):
            ids[place, : len(row)] = row
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in batch])[:, None]
        logits = network(ids, attention_mask=mask.long(), use_cache=False).logits[:, :-1]
        logprobs = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        logprobs[mask[:, 1:]].sum().backward()


def product(left: Tensor, right: Tensor) -> None:
    torch.mm(left, right)


def cpu_seconds(run: Callable[[], None]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def _model() -> Any:
    model: Any = LlamaForCausalLM(LlamaConfig(**CONFIG))
    return model.eval()


def main(argv: Sequence[str]) -> int:
    """Measure in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of all; padded rows take half a minute each time")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    compute_as_in_a_run()
    torch.manual_seed(0)
    plain, network = (_model() for _ in range(2))
    network.load_state_dict(plain.state_dict())
    policy, by_modules = policy_from_network(network), policy_from_network(_model())
    vars(by_modules.network.base_model)["takes_fast_path"] = False
    rows = heavy_tailed_rows(arguments.seed)
    by_length = sorted(rows, key=lambda row: len(row.token_ids))
    left, right = torch.randn(MATRIX_SIZE, MATRIX_SIZE), torch.randn(MATRIX_SIZE, MATRIX_SIZE)
    subjects: dict[str, Callable[[], None]] = {
        "packed": lambda: packed(policy, rows),
        "packed, by modules": lambda: packed(by_modules, rows),
        "padded, sorted": lambda: padded(plain, by_length, rows_at_once=8),
        "padded": lambda: padded(plain, rows, rows_at_once=4, width=len(by_length[-1].token_ids)),
        "matrix product": lambda: product(left, right),
    }
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(arguments.repeats):
        for name, run in subjects.items():
            seconds[name].append(cpu_seconds(run))
    report({name: statistics.median(of_one) for name, of_one in seconds.items()}, plain, rows)
    return 0


def report(seconds: dict[str, float], network: Any, rows: Sequence[TokenRow]) -> None:
    tokens = sum(len(row.token_ids) for row in rows)
    limit = 2 * MATRIX_SIZE**3 / seconds.pop("matrix product")
    operations = num_operations(network, rows)
    size = sum(one.numel() for one in network.parameters())
    longest = max(len(row.token_ids) for row in rows)
    print(f"{size / 1e6:.1f}M parameters; {len(rows)} rows, {tokens} tokens, the longest {longest}")
    print(f"matrix limit: {limit / 1e9:.0f} G operations/s\n")
    print("| rows | tokens per CPU second | of the matrix limit | packed is faster by |\n|---|---|---|---|")
    for name, taken in seconds.items():
        share = operations / taken / limit
        print(f"| {name} | {tokens / taken:.0f} | {share:.0%} | {taken / seconds['packed']:.2f} |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
