"""Work of a model's size stays off the event loop: for as long as it takes, nobody gets an answer or a heartbeat."""

import _thread
import asyncio
import gc
import warnings
import weakref
from collections.abc import Mapping
from contextlib import suppress


def warn_on_event_loop(work: str) -> None:
    """Warn where the calling thread runs an event loop; `work` says what must be done in another thread.

    A process is late then, and goes on; in the tests every warning is an error.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    warnings.warn(f"{work} on the thread of an event loop; expected asyncio.to_thread", RuntimeWarning, stacklevel=3)


def spare_imports_from_collection() -> None:
    """Leave what was imported so far out of the garbage collections to come.

    A full one looks at every object, 400,000 with torch and transformers, and no thread runs Python for 250 ms.
    """
    gc.freeze()


def free_in_thread(owner: object, tensors: Mapping[str, object]) -> None:
    """Have what `owner` holds freed by a thread of its own once nobody refers to `owner`; a GB takes some 60 ms."""
    weakref.finalize(owner, _start_freeing, dict(tensors)).atexit = False


def free_soon(something: object) -> None:
    """Have what the caller refers to no more freed by a thread of its own."""
    _start_freeing({"": something})


def _start_freeing(tensors: dict[str, object]) -> None:
    # Called wherever the last reference ends, inside any lock: only the bare call takes none itself.
    with suppress(RuntimeError):  # the interpreter ends, and takes no more threads
        _thread.start_new_thread(_free, (tensors,))


def _free(tensors: dict[str, object]) -> None:
    while tensors:  # one by one: other threads run in between
        tensors.popitem()
