"""Memory against the micro-batch's tokens, with a vocabulary of 262,144.

    python -m benchmarks.learner.memory_by_micro_batch

Each line is a process of its own: a small Llama with a large vocabulary takes two forward and backward passes of one
row on the CPU, in float32. Prints the process's peak, the estimate of `tppo/models/memory_estimate.py`, and what the
logits of all tokens at once would take beside it: three tensors of them in float32.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

NUM_TOKENS = (128, 256, 512, 1024, 4096, 24_576)
VOCABULARY, HIDDEN, BLOCKS = 262_144, 64, 2
STATUS = Path("/proc/self/status")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--one", type=int, help="measure a micro-batch of so many tokens in this process")
    num_tokens = parser.parse_args().one
    if num_tokens is not None:
        print(measured(num_tokens))
        return 0
    print("| tokens | peak, MiB | estimate, MiB | CPU seconds a pass | all logits at once, MiB |")
    print("|---|---|---|---|---|")
    for number in NUM_TOKENS:
        command = [sys.executable, "-m", "benchmarks.learner.memory_by_micro_batch", "--one", str(number)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)
    return 0


def measured(num_tokens: int) -> str:
    """One row of the table."""
    import torch  # the process that prints the table needs none of them
    from transformers import LlamaConfig, LlamaForCausalLM

    from learner.models.loading.loading import policy_from_network
    from learner.models.passes.outputs import token_scores
    from learner.models.passes.packing import TokenRow, pack

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=BLOCKS,
        num_attention_heads=4,
        max_position_embeddings=max(NUM_TOKENS),
        tie_word_embeddings=True,
    )
    policy = policy_from_network(LlamaForCausalLM(config))
    (packed,) = pack([TokenRow(torch.arange(num_tokens), start=1)], max_tokens=num_tokens)
    began = time.process_time()
    for _ in range(2):  # the second finds the gradients of the first
        token_scores(policy, packed).logprobs.sum().backward()  # type: ignore[no-untyped-call]
    seconds = (time.process_time() - began) / 2
    peak, all_at_once = peak_mebibytes(), 3 * 4 * num_tokens * VOCABULARY / 2**20
    estimate = estimated(config, policy.network.num_parameters(), num_tokens)
    return f"| {num_tokens} | {peak:.0f} | {estimate:.0f} | {seconds:.1f} | {all_at_once:.0f} |"


def estimated(config: object, num_parameters: int, num_tokens: int) -> float:
    from tppo.models.memory_estimate import MEBIBYTE, PROCESS_BYTES, ModelShape, Training, resident_bytes, update_bytes

    shape, training = ModelShape.of(config, num_parameters), Training(4, num_tokens, "off")
    parts = resident_bytes(shape, training) | update_bytes(shape, training, has_logits=True)
    del parts["moments"]  # nothing is updated here
    return (PROCESS_BYTES + sum(parts.values())) / MEBIBYTE


def peak_mebibytes() -> float:
    """Of this process so far, as Linux counts it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    assert found is not None, "Linux has it"
    return int(found[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
