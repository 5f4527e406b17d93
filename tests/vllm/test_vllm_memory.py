"""What an update takes of vLLM's processes: a layer beside the weights in use."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from tests.vllm.served import VOCABULARY, ServedModel, a_model, a_request

NUM_LAYERS = 12
LARGE = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=512,
    num_hidden_layers=NUM_LAYERS,
    num_attention_heads=8,
    num_key_value_heads=8,
    intermediate_size=2048,
    max_position_embeddings=2048,
    tie_word_embeddings=False,
    architectures=["LlamaForCausalLM"],
    bos_token_id=None,
    eos_token_id=None,
)
MIB = 2**20
log = logging.getLogger(__name__)


def descendants(process: str = "self") -> Iterator[str]:
    """Of this process."""
    for tasks in Path(f"/proc/{process}/task").glob("*/children"):
        for child in tasks.read_text().split():
            yield child
            yield from descendants(child)


def own_memory(processes: list[str]) -> int:
    """Bytes that they share with nobody; files that are mapped are none of them."""
    fields = (line.split() for one in processes for line in Path(f"/proc/{one}/status").read_text().splitlines())
    return sum(int(found[1]) * 1024 for found in fields if found[0] == "RssAnon:")


async def test_an_update_takes_a_layer_beside_the_weights_in_use(tmp_path_factory: pytest.TempPathFactory) -> None:
    served = await ServedModel.start(tmp_path_factory.mktemp("large"), LARGE)
    try:
        for seed in (1, 2):  # what is allocated once is there after the second
            await served.send(a_model(seed, LARGE))
            await served.windows([a_request(seed=seed)])
        newest: Any = a_model(3, LARGE)
        processes, ends, most = list(descendants()), threading.Event(), list[int]()

        def watch() -> None:
            while not ends.wait(0.001):
                most.append(own_memory(processes))

        watching, before = threading.Thread(target=watch), own_memory(processes)
        watching.start()
        await served.send(newest)
        ends.set()
        watching.join()
    finally:
        await served.engine.close()

    sizes = {name: tensor.nbytes for name, tensor in newest.named_parameters()}
    whole, layer = sum(sizes.values()), sum(size for name, size in sizes.items() if ".layers.0." in name)
    taken = max(most) - before
    log.info("of %.0f MiB an update takes %.1f MiB; a layer has %.1f", whole / MIB, taken / MIB, layer / MIB)
    assert len(most) > 10
    assert taken < 2 * layer + 8 * MIB < whole / 3
