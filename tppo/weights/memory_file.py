"""Weights in memory that other processes of the machine can map: a file in the layout of safetensors without a name.

The kernel frees the memory when the last process that has it open or mapped has ended, in whatever way; so nothing is
left behind, and there is no folder that may be full. Other processes of the same user open it through the owner's
entry in /proc. Once written it is sealed: nobody can change or shorten it, so whoever maps it reads what was hashed,
and no read ends in SIGBUS. One that nobody else is to read may stay unsealed, so that its memory can be given back
tensor by tensor. Where the system has or grants no such file, the memory is this process's own, not shared.
"""

import _thread
import contextlib
import fcntl
import logging
import mmap
import os
import stat
import weakref
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from tppo.process.event_loop import warn_on_event_loop
from tppo.weights.layout import DTYPES, TensorLayout, byte_parts

NONCE = "tppo-nonce"  # of the file's metadata
# linux/fcntl.h; Python has names for them since 3.12 alone.
F_ADD_SEALS, F_GET_SEALS = 1033, 1034
NO_MORE_SEALS, NO_SHRINKING, NO_GROWING, NO_WRITING = 1, 2, 4, 8
ALL_SEALS = NO_MORE_SEALS | NO_SHRINKING | NO_GROWING | NO_WRITING
RESERVED_BYTES = 64 * 2**20  # of the memory that is available, left to others
log = logging.getLogger(__name__)


class NotSharedError(Exception):
    """A file of another process that cannot be used here; the message says why."""


class MemoryFile:
    """Named tensors in one such file: `create`, `write` and `seal` it, or `open` that of another process."""

    def __init__(self, descriptor: int | None, layout: TensorLayout, header: bytes, nonce: str = "") -> None:
        """Takes the descriptor over; without one the memory is this process's own."""
        self.layout, self.nonce = layout, nonce
        self._descriptor = descriptor
        self.is_sealed = False
        self.num_header_bytes = len(header)  # in front of the tensors' bytes
        if descriptor is not None:
            weakref.finalize(self, _close_in_thread, descriptor).atexit = False

    @classmethod
    def create(cls, layout: TensorLayout, *, nonce: str = "") -> Self:
        """A file whose bytes are yet to be written. ValueError: there is not so much memory."""
        header = layout.header({NONCE: nonce} if nonce else {})
        num_bytes = len(header) + layout.num_bytes
        _require_memory(num_bytes)
        try:
            return cls(_new_descriptor(header, num_bytes), layout, header, nonce)
        except OSError as error:  # a limit on the size of files, or a container that forbids them
            log.warning("weights lie in memory that cannot be shared: %s", error.strerror)
            return cls(None, layout, header)

    @classmethod
    def holding(cls, tensors: Mapping[str, Tensor], *, nonce: str = "") -> Self:
        """A sealed copy of the tensors, which may lie on any device."""
        return cls.filled(TensorLayout.of(tensors), tensors.items(), nonce=nonce)

    @classmethod
    def filled(cls, layout: TensorLayout, tensors: Iterable[tuple[str, Tensor]], *, nonce: str = "") -> Self:
        """Sealed, with a copy of each tensor as it comes; they are taken once, whatever happens meanwhile."""
        warn_on_event_loop("copying of weights")
        created = cls.create(layout, nonce=nonce)
        for name, tensor in tensors:
            begin = layout.begins[name]
            for part in byte_parts(tensor):
                created = created._with(begin, part)
                begin += len(part)
        created.seal()
        return created

    def _with(self, begin: int, part: memoryview) -> Self:
        """This file with the bytes written, or one in memory of its own with all that was written."""
        try:
            self.write(begin, part)
        except OSError as error:  # a limit that came into force meanwhile
            log.warning("weights lie in memory that cannot be shared: %s", error.strerror)
            own = type(self)(None, self.layout, self.layout.header({}))
            own.data[:] = self.data
            own.write(begin, part)
            return own
        return self

    @classmethod
    def open(cls, path: str, layout: TensorLayout, *, nonce: str) -> Self:
        """That of another process, which has said what is in it. Raises `NotSharedError`."""
        header = layout.header({NONCE: nonce})
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening others may wait, or have effects
                raise NotSharedError(f"{path} is not a file")
            opened = cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), layout, header)
            opened._require(path, header)
        except OSError as error:
            raise NotSharedError(f"{path}: {error.strerror}") from None
        return opened

    def _require(self, path: str, header: bytes) -> None:
        try:
            seals = fcntl.fcntl(self.number, F_GET_SEALS)
        except OSError:
            seals = 0
        if seals & ALL_SEALS != ALL_SEALS:
            raise NotSharedError(f"{path} is not sealed, so it might change while it is read")
        size, expected = os.fstat(self.number).st_size, len(header) + self.layout.num_bytes
        if size != expected:
            raise NotSharedError(f"{path} has {size} bytes; expected {expected}")
        if os.pread(self.number, len(header), 0) != header:
            raise NotSharedError(f"{path} holds something else than was offered")
        self.is_sealed = True

    @property
    def path(self) -> str:
        """Where other processes of this user and PID namespace open it for as long as this object is there.

        Empty where the memory is this process's own.
        """
        return "" if self._descriptor is None else f"/proc/{os.getpid()}/fd/{self._descriptor}"

    @property
    def number(self) -> int:
        """Of the descriptor in this process, where the memory is not its own."""
        assert self._descriptor is not None
        return self._descriptor

    def write(self, begin: int, part: memoryview | bytes) -> None:
        """Bytes of the tensors, from `begin` on."""
        if self._descriptor is None:
            self.data[begin : begin + len(part)] = part
            return
        place = self.num_header_bytes + begin
        while part:
            num_written = os.pwrite(self._descriptor, part, place)
            part, place = memoryview(part)[num_written:], place + num_written

    def seal(self) -> None:
        """From here on nobody can change it."""
        self.is_sealed = True
        if self._descriptor is not None:
            with contextlib.suppress(PermissionError):  # it is sealed already
                fcntl.fcntl(self._descriptor, F_ADD_SEALS, ALL_SEALS)

    def free(self, names: Collection[str]) -> None:
        """Give the memory of these tensors back, which nobody reads any more; where it is sealed, it stays."""
        for one in self.layout.tensors if not self.is_sealed else ():
            if one.name in names:
                first = self.num_header_bytes + self.layout.begins[one.name]
                self._free_pages(-(-first // mmap.PAGESIZE), (first + one.num_bytes) // mmap.PAGESIZE)

    def _free_pages(self, first: int, end: int) -> None:
        if first >= end:
            return
        place = first * mmap.PAGESIZE, (end - first) * mmap.PAGESIZE
        if self._descriptor is None:
            self._mapped.madvise(mmap.MADV_DONTNEED, *place)
        else:
            self._writable.madvise(mmap.MADV_REMOVE, *place)

    @cached_property
    def _writable(self) -> mmap.mmap:
        assert self._descriptor is not None
        return mmap.mmap(self._descriptor, self.num_header_bytes + self.layout.num_bytes)  # shared with the file

    @cached_property
    def _mapped(self) -> mmap.mmap:
        # Private: who writes to a tensor by mistake changes a page of its own.
        size = self.num_header_bytes + self.layout.num_bytes
        if self._descriptor is None:
            return mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return mmap.mmap(self._descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)

    @cached_property
    def data(self) -> memoryview:
        """All tensors' bytes, mapped."""
        return memoryview(self._mapped)[self.num_header_bytes :]

    def tensors(self) -> dict[str, Tensor]:
        """Views of the memory, which stays as long as one of them does."""
        return {one.name: self._tensor(one.name, one.dtype, one.shape) for one in self.layout.tensors}

    def _tensor(self, name: str, dtype: str, shape: tuple[int, ...]) -> Tensor:
        kind = DTYPES[dtype]
        count = torch.Size(shape).numel()
        if count == 0:
            return torch.empty(shape, dtype=kind)
        offset = self.num_header_bytes + self.layout.begins[name]
        return torch.frombuffer(self._mapped, dtype=kind, count=count, offset=offset).reshape(shape)


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = next(line for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    return int(found.split()[1]) * 1024


def _require_memory(num_bytes: int) -> None:
    available = available_memory()
    if available is not None and num_bytes > available - RESERVED_BYTES:
        raise ValueError(f"weights of {num_bytes} bytes; expected at most {available}, the memory that is available")


def _new_descriptor(header: bytes, num_bytes: int) -> int | None:
    """Of a file of that size which begins with the header; None where the system has no such files."""
    if not hasattr(os, "memfd_create"):
        return None
    descriptor = os.memfd_create("tppo-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.pwrite(descriptor, header, 0)
        os.truncate(descriptor, num_bytes)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _close_in_thread(descriptor: int) -> None:
    # It may free the memory, which takes long, and this is called wherever the last reference ends.
    with contextlib.suppress(RuntimeError):  # the interpreter ends, and takes no more threads
        _thread.start_new_thread(os.close, (descriptor,))
