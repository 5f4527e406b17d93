"""Writes traces beside the training: `traces/step_000042.parquet`, one file per step.

Loop `serve`: consumes tables, in order / waits for one / unblocked by `add` / produces a file, whole or not at all.
Nothing is dropped: with `MAX_WAITING` tables unwritten, training waits. A full disk does not stop training: the error
is logged and in the status, and `tppo audit` names the steps that have no trace.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pyarrow
from pyarrow import parquet

from learner.step.measurements.trace_schema import Header
from tppo.run_folder.durable import replacement_of
from tppo.run_folder.paths import trace_files, trace_path

logger = logging.getLogger(__name__)

MAX_WAITING = 2
REPEATED_COLUMNS = ["rollout_id"]  # that a dictionary makes smaller; numbers are compressed better without one


class TraceWriter:
    """The traces of one run. A resumed run repeats the steps after its checkpoint: their files are deleted first."""

    def __init__(self, folder: Path, *, through_step: int, require_right: Callable[[], None] = lambda: None) -> None:
        """`require_right` raises when the traces are no longer this process's to write."""
        self._folder = folder
        self._require_right = require_right
        self._waiting: asyncio.Queue[pyarrow.Table] = asyncio.Queue(MAX_WAITING)
        self.last_error = ""
        for step, path in trace_files(folder).items():
            if step > through_step:
                path.unlink()

    async def add(self, table: pyarrow.Table) -> None:
        """Hand over the trace of a step."""
        await self._waiting.put(table)

    async def written(self) -> None:
        """Wait until every trace that was handed over is on the disk: a checkpoint must not be ahead of them."""
        await self._waiting.join()

    async def serve(self) -> None:
        """Write what is handed over, until cancelled."""
        while True:
            table = await self._waiting.get()
            try:
                await asyncio.to_thread(write_trace, self._folder, table, require_right=self._require_right)
                self.last_error = ""
            except OSError as error:
                self.last_error = f"trace of step {Header.of(table.schema).step}: {error}"
                logger.exception("%s; training continues", self.last_error)
            finally:
                self._waiting.task_done()


def write_trace(folder: Path, table: pyarrow.Table, *, require_right: Callable[[], None] = lambda: None) -> Path:
    """The file of the table's step; it replaces an earlier one."""
    folder.mkdir(exist_ok=True)
    final = trace_path(folder, Header.of(table.schema).step)
    # Frozen in mid-file, this process may wake when a successor has written this very step.
    with replacement_of(final, before_replacing=require_right) as file:
        parquet.write_table(table, file, compression="zstd", use_dictionary=REPEATED_COLUMNS)
    return final
