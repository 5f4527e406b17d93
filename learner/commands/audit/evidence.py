"""What a run left behind that an audit reads: traces, metrics, and the ledger of the newest checkpoint."""

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import pyarrow
from pyarrow import parquet

from learner.persistence.manifest import DamagedError, verify
from learner.step.measurements.trace_schema import SCHEMA, Header
from tppo.config import ConfigError
from tppo.digests import UnreadableHereError
from tppo.run_folder.checkpoints import CheckpointFolder, step_of
from tppo.run_folder.json_files import fits
from tppo.run_folder.json_lines import read_objects
from tppo.run_folder.metric_lines import STEP, read_metric_lines
from tppo.run_folder.paths import RunPaths, trace_files

IS_SAMPLED = "is_sampled"
COLUMNS = (
    *("rollout_id", "window_index", "position", "policy_version", "in_window", "policy_mask", "value_mask"),
    IS_SAMPLED,
)
NO_TOKENS = pyarrow.table(
    {
        **{name: pyarrow.array([], SCHEMA.field(name).type) for name in COLUMNS},
        **{name: pyarrow.array([], pyarrow.int32()) for name in ("step", "lag")},
    }
)


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """The rollouts of the newest checkpoint, as its ledger.json has them."""

    step: int
    rollouts: Sequence[Mapping[str, Any]] = ()  # evaluations are left out


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the promises are held against."""

    tokens: pyarrow.Table  # COLUMNS of all traces, and of each row its `step` and its `lag` in steps
    headers: Mapping[int, Header]  # by step
    unreadable: Sequence[int] = ()  # steps whose trace is no parquet file of ours
    metrics: Sequence[Mapping[str, Any]] = ()  # lines of the steps, in order
    ledger: LedgerSnapshot = field(default_factory=lambda: LedgerSnapshot(step=0))
    parked: Set[str] = frozenset()  # rollouts that were parked at some time, by the journal


def require_run(folder: Path) -> None:
    """Raise ConfigError where no run has written anything."""
    if not RunPaths(folder).metrics.is_file():
        raise ConfigError(f"{folder}: no run; expected a run's folder, or its name under runs/")


def collect(folder: Path) -> Evidence:
    """Read what there is. Raises ConfigError for a run that kept no traces."""
    paths = RunPaths(folder)
    files = trace_files(paths.traces)
    if not files:
        raise ConfigError(f"{folder} has no traces; expected a run with trace.enabled = true")
    read = {step: _read(path) for step, path in files.items()}
    headers = {step: Header.of(table.schema) for step, table in read.items() if table is not None}
    tables = [_with_step(table, step) for step, table in read.items() if table is not None]
    return Evidence(
        tokens=pyarrow.concat_tables(tables).unify_dictionaries() if tables else NO_TOKENS,
        headers=headers,
        unreadable=[step for step, table in read.items() if table is None],
        metrics=[line for line in read_metric_lines(paths.metrics) if line["kind"] == STEP],
        ledger=newest_ledger(folder),
        parked=frozenset(
            line["rollout"]
            for line in read_objects(paths.journal)
            if line.get("kind") == "parked" and fits(line, {"rollout": str})
        ),
    )


def newest_ledger(folder: Path) -> LedgerSnapshot:
    """The ledger of the newest checkpoint; an empty one of step 0 when there is none."""
    checkpoint = CheckpointFolder(RunPaths(folder).checkpoints).newest()
    if checkpoint is None:
        return LedgerSnapshot(step=0)
    try:
        verify(checkpoint, only=["ledger.json"])
    except (DamagedError, UnreadableHereError) as error:
        raise ConfigError(f"{error}; expected a whole checkpoint: a resume takes the one before") from None
    ledger = json.loads((checkpoint / "ledger.json").read_text(encoding="utf-8"))
    rollouts = [rollout for rollout in ledger["rollouts"] if not rollout["is_evaluation"]]
    return LedgerSnapshot(step_of(checkpoint), rollouts)


def _read(path: Path) -> pyarrow.Table | None:
    """The columns that an audit needs; None for a file that is no trace."""
    try:
        has_is_sampled = IS_SAMPLED in parquet.read_schema(path).names
        table = parquet.read_table(path, columns=[name for name in COLUMNS if name != IS_SAMPLED or has_is_sampled])
        Header.of(table.schema)
    except (pyarrow.ArrowInvalid, KeyError):
        return None
    return _with_is_sampled(table)


def _with_is_sampled(table: pyarrow.Table) -> pyarrow.Table:
    """Every token was, where the trace does not say."""
    place = table.schema.get_field_index(IS_SAMPLED)
    if place < 0:
        return table.append_column(IS_SAMPLED, pyarrow.array(numpy.ones(len(table), dtype=bool)))
    return table.set_column(place, IS_SAMPLED, table[IS_SAMPLED].fill_null(True))


def _with_step(table: pyarrow.Table, step: int) -> pyarrow.Table:
    lag = step - 1 - table["policy_version"].to_numpy()  # the step trained the weights of version step - 1
    columns = {"step": numpy.full(len(table), step, dtype=numpy.int32), "lag": lag.astype(numpy.int32)}
    for name, column in columns.items():
        table = table.append_column(name, pyarrow.array(column))
    return table.replace_schema_metadata(None)
