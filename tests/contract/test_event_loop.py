"""What takes as long as a model is large is refused on the thread of an event loop, and done in another one."""

import asyncio
import gc
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from learner.__main__ import _import as import_learner
from learner.exchange.weight_publisher import Snapshot
from learner.models.loading.named_tensors import copied
from learner.parallel.tensor_file import write_tensors
from learner.persistence.manifest import write_manifest
from services.generation.__main__ import _import_engine as import_engine
from services.generation.weights.weight_reception import Reception, Receptions
from tests.learner.builders import a_config
from tests.support.waiting import until
from tests.support.weights import data_of, manifest_of
from tppo.config import Config
from tppo.digests import file_digest
from tppo.process.event_loop import free_in_thread
from tppo.weights import WeightUpdate, digest
from tppo.weights.manifest import SharedMemory
from tppo.weights.messages import chunk_message

TENSORS = {"w": torch.ones(3)}
MANIFEST = manifest_of(TENSORS, shared=SharedMemory(1, 2, "n1"))


def received() -> WeightUpdate:
    reception = Reception(MANIFEST)
    reception.add(data_of(TENSORS), owner=None)
    return reception.update()


HEAVY: dict[str, Callable[[Path], object]] = {
    "copying of weights": lambda folder: copied(TENSORS),
    "hashing of weights": lambda folder: digest(TENSORS),
    "copying into a snapshot": lambda folder: Snapshot(TENSORS, "r", 1, incarnation=1),
    "copying into a message": lambda folder: chunk_message(memoryview(b"abc")),
    "hashing of received weights": lambda folder: Receptions().shared(MANIFEST),
    "copying of received weights": lambda folder: Reception(MANIFEST).add(memoryview(b""), owner=None),
    "writing of weights": lambda folder: write_tensors(folder / "w.safetensors", TENSORS),
    "hashing of a file": lambda folder: file_digest(folder / "file"),
    "hashing of a checkpoint's files": write_manifest,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"content")
    return tmp_path


@pytest.mark.parametrize("work", HEAVY)
async def test_on_the_thread_of_an_event_loop_it_warns(folder: Path, work: str) -> None:
    with pytest.warns(RuntimeWarning, match=r"on the thread of an event loop; expected asyncio\.to_thread"):
        HEAVY[work](folder)


@pytest.mark.parametrize("work", HEAVY)
async def test_in_another_thread_it_is_done(folder: Path, work: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        await asyncio.to_thread(HEAVY[work], folder)

    assert caught == []


class Freed:
    """Notes in which thread it is freed."""

    def __init__(self, threads: list[int]) -> None:
        self._threads = threads

    def __del__(self) -> None:
        self._threads.append(threading.get_ident())


class Owner:
    pass


async def test_what_nobody_refers_to_is_freed_in_another_thread() -> None:
    threads: list[int] = []
    owner, tensors = Owner(), {"one": Freed(threads), "other": Freed(threads)}
    free_in_thread(owner, tensors)
    kept = tensors.pop("other")

    del tensors
    await asyncio.sleep(0)
    assert not threads
    del owner

    await until(lambda: len(threads) == 1, "one is freed, and the other kept")
    assert threads != [threading.get_ident()]
    del kept


async def test_received_weights_are_freed_in_another_thread() -> None:
    update = await asyncio.to_thread(received)
    threads: list[int] = []
    update.tensors["w"].noted = Freed(threads)  # type: ignore[attr-defined]

    del update

    await until(lambda: threads, "the weights are freed")
    assert threads != [threading.get_ident()]


@pytest.mark.parametrize("imports", [import_learner, import_engine], ids=["learner", "generation"])
def test_no_garbage_collection_goes_through_what_a_process_has_imported(
    imports: Callable[[Config], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    spared: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: spared.append("transformers" in sys.modules))

    imports(a_config())

    assert spared == [True]
