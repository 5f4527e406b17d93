"""Weights in memory that another process can map, and that nobody can change under it."""

import asyncio
import errno
import fcntl
import json
import mmap
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from tests.support.waiting import until
from tppo.weights import DTYPES, MemoryFile, NotSharedError, TensorLayout, WeightUpdate
from tppo.weights.layout import TensorFacts

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the system has no memory files")

TENSORS = {"b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "a": torch.arange(5, dtype=torch.float32)}


def some_tensors() -> dict[str, Tensor]:
    """Of every type, among them one without elements, one without dimensions and one that is not contiguous."""
    matrix = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    of_types = {f"of {name}": torch.tensor([0, 1, 1]).to(dtype) for name, dtype in DTYPES.items()}
    return {**of_types, "empty": torch.zeros(0, 3), "scalar": torch.tensor(0.5), "strided": matrix.t()}


def equal(one: Tensor, other: Tensor) -> bool:
    def raw(tensor: Tensor) -> list[int]:
        return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()

    return (one.dtype, one.shape) == (other.dtype, other.shape) and (not one.numel() or raw(one) == raw(other))


def test_another_opening_sees_the_same_tensors() -> None:
    sent = some_tensors()
    file = MemoryFile.holding(sent, nonce="n1")

    found = MemoryFile.open(file.path, TensorLayout.of(sent), nonce="n1").tensors()

    assert found.keys() == sent.keys()
    assert all(equal(found[name], tensor) for name, tensor in sent.items())


def test_another_process_reads_it_as_a_safetensors_file() -> None:
    update = WeightUpdate(3, 1, "digest", TENSORS)
    program = (
        "import json, sys\nfrom safetensors import safe_open\n"
        "with safe_open(sys.argv[1], framework='pt') as file:\n"
        "    print(json.dumps({name: file.get_tensor(name).tolist() for name in file.keys()}))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, update.shared_path()], capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout) == {"a": [0, 1, 2, 3, 4], "b": [1.5, -2]}


def test_it_stays_for_whoever_has_mapped_it_when_its_owner_is_gone() -> None:
    file = MemoryFile.holding(TENSORS, nonce="n1")
    opened = MemoryFile.open(file.path, file.layout, nonce="n1")
    descriptor = file.number
    del file
    tensors = opened.tensors()
    del opened

    assert descriptor >= 0
    assert torch.equal(tensors["a"], TENSORS["a"])


def test_it_stays_for_whoever_has_opened_it_when_its_owner_is_killed() -> None:
    program = (
        "import sys, torch\nfrom tppo.weights import MemoryFile\n"
        "file = MemoryFile.holding({'a': torch.arange(5, dtype=torch.float32)}, nonce='n1')\n"
        "print(file.path, flush=True)\nsys.stdin.read()"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        path = owner.stdout.readline().strip()
        opened = MemoryFile.open(path, TensorLayout.of({"a": TENSORS["a"]}), nonce="n1")
        owner.kill()

    assert torch.equal(opened.tensors()["a"], TENSORS["a"])
    with pytest.raises(NotSharedError):
        MemoryFile.open(path, opened.layout, nonce="n1")


async def test_its_memory_is_freed_with_the_last_reference() -> None:
    file = await asyncio.to_thread(MemoryFile.holding, TENSORS)
    number, tensor = os.fstat(file.number).st_ino, file.tensors()["a"]
    mapped = weakref.ref(file._mapped)
    del file
    assert mapped() is not None
    del tensor

    await until(lambda: mapped() is None and number not in own_memory_files(), "the file is closed")


def own_memory_files() -> set[int]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(entry.stat().st_ino)
        except OSError:
            continue
    return found


def test_what_was_sealed_can_be_neither_written_nor_shortened() -> None:
    file = MemoryFile.holding(TENSORS)
    descriptor = os.open(file.path, os.O_RDWR)

    try:
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        with pytest.raises(PermissionError):
            os.truncate(descriptor, 0)
    finally:
        os.close(descriptor)


def test_who_writes_to_a_tensor_changes_no_other_view() -> None:
    file = MemoryFile.holding(TENSORS, nonce="n1")
    file.tensors()["a"].fill_(7)

    assert torch.equal(MemoryFile.open(file.path, file.layout, nonce="n1").tensors()["a"], TENSORS["a"])


@contextmanager
def an_unsealed_file() -> Iterator[str]:
    layout = TensorLayout.of(TENSORS)
    file = MemoryFile.create(layout, nonce="n1")
    yield file.path


def test_a_file_that_may_still_shrink_is_not_mapped() -> None:
    with an_unsealed_file() as path, pytest.raises(NotSharedError, match="is not sealed"):
        MemoryFile.open(path, TensorLayout.of(TENSORS), nonce="n1")


@pytest.mark.parametrize(
    ("layout", "nonce", "complaint"),
    [
        pytest.param(TensorLayout.of({"a": torch.zeros(10**4)}), "n1", "bytes; expected", id="another size"),
        pytest.param(TensorLayout.of({**TENSORS, "a": torch.zeros(5, 1)}), "n1", "something else", id="another shape"),
        pytest.param(TensorLayout.of(TENSORS), "n2", "something else", id="another nonce"),
    ],
)
def test_a_file_with_other_contents_than_offered_is_not_used(layout: TensorLayout, nonce: str, complaint: str) -> None:
    file = MemoryFile.holding(TENSORS, nonce="n1")

    with pytest.raises(NotSharedError, match=complaint):
        MemoryFile.open(file.path, layout, nonce=nonce)


def test_a_descriptor_that_is_no_file_is_not_opened() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(NotSharedError, match="is not a file"):
            MemoryFile.open(f"/proc/{os.getpid()}/fd/{reading}", TensorLayout.of(TENSORS), nonce="n1")
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("path", ["/proc/1/fd/0", "/proc/self/fd/99999", "/proc/999999999/fd/3"])
def test_what_another_user_or_machine_has_is_not_shared(path: str) -> None:
    with pytest.raises(NotSharedError):
        MemoryFile.open(path, TensorLayout.of(TENSORS), nonce="n1")


def test_more_than_the_memory_that_is_available_is_refused_before_any_is_taken() -> None:
    layout = TensorLayout([TensorFacts("w", "float32", (2**45,))])

    with pytest.raises(ValueError, match=r"weights of \d+ bytes; expected at most \d+, the memory that is available"):
        MemoryFile.create(layout)


def test_where_the_system_has_no_memory_files_it_works_within_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")

    file = MemoryFile.holding(TENSORS)

    assert file.path == ""
    assert torch.equal(file.tensors()["a"], TENSORS["a"])


def refuse(*_: object) -> None:
    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


@pytest.mark.parametrize("refused", ["memfd_create", "truncate", "pwrite"])
def test_where_no_such_file_is_granted_it_works_within_the_process(
    monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    monkeypatch.setattr(os, refused, refuse)

    file = MemoryFile.holding(TENSORS, nonce="n1")

    assert file.path == ""
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in file.tensors().items())


def test_a_limit_on_files_that_comes_while_weights_are_copied_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    created = MemoryFile.create(TensorLayout.of(TENSORS), nonce="n1")
    monkeypatch.setattr(MemoryFile, "create", lambda *_, **__: created)

    monkeypatch.setattr(os, "pwrite", refuse)

    file = MemoryFile.holding(TENSORS, nonce="n1")

    assert file.path == ""
    assert torch.equal(file.tensors()["a"], TENSORS["a"])


def test_the_library_maps_the_file_itself(tmp_path: Path) -> None:
    file = MemoryFile.holding(TENSORS, nonce="n1")
    with safe_open(file.path, framework="pt") as opened:
        assert opened.metadata() == {"tppo-nonce": "n1"}
    assert fcntl.fcntl(file.number, 1034) == 15


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "complaint"),
    [
        ("w", "complex64", (1,), "dtype 'complex64'"),
        ("w", "float32", (-1,), "no negative size"),
        ("w", "float32", (1,) * 17, "at most 16 dimensions"),
        ("__metadata__", "float32", (1,), "expected another name"),
    ],
)
def test_a_tensor_that_there_cannot_be_is_refused(
    name: str, dtype: str, shape: tuple[int, ...], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        TensorFacts(name, dtype, shape)


MIB = 2**20
LARGE = {name: torch.full((MIB // 4,), value) for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0))}


def a_large_file(*, is_sealed: bool = False, is_shared: bool = True) -> MemoryFile:
    layout = TensorLayout.of(LARGE)
    file = MemoryFile.create(layout) if is_shared else MemoryFile(None, layout, layout.header({}))
    for name, tensor in LARGE.items():
        file.write(layout.begins[name], tensor.numpy().tobytes())
    if is_sealed:
        file.seal()
    return file


def memory_of(file: MemoryFile) -> int:
    return os.fstat(file.number).st_blocks * 512


def test_the_memory_of_tensors_that_were_copied_is_given_back_one_by_one() -> None:
    file = a_large_file()
    tensors = file.tensors()
    assert all(equal(tensors[name], tensor) for name, tensor in LARGE.items())  # all pages are mapped
    before, pages = memory_of(file), 2 * mmap.PAGESIZE

    file.free({"b"})
    assert before - memory_of(file) in range(MIB - pages, MIB + 1)
    assert equal(tensors["a"], LARGE["a"])
    assert equal(tensors["c"], LARGE["c"])
    file.free({"a", "b", "c"})

    assert memory_of(file) <= 4 * pages


def test_what_is_sealed_keeps_its_memory() -> None:
    file = a_large_file(is_sealed=True)
    before = memory_of(file)

    WeightUpdate.of_file(1, 0, "", file).free({"a", "b"})

    assert memory_of(file) == before
    assert all(equal(tensor, LARGE[name]) for name, tensor in file.tensors().items())


def test_memory_that_cannot_be_shared_is_given_back_too() -> None:
    file = a_large_file(is_shared=False)
    tensors = file.tensors()

    file.free({"b"})

    assert equal(tensors["a"], LARGE["a"])
    assert equal(tensors["c"], LARGE["c"])
    assert int((tensors["b"] == 0).sum()) >= MIB // 4 - 2 * mmap.PAGESIZE // 4  # pages that were never written
