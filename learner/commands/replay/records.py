"""What a replay trains on: the run's archived inbox, perhaps with the scores of another function (`tppo rescore`)."""

import json
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from learner.persistence.archive import InboxArchive, archived_records_reader
from learner.reconfiguration import change_in
from tppo.config import ConfigError
from tppo.rollout import InboxRecord, Score, ScoreStatus
from tppo.run_folder.paths import RunPaths
from tppo.security.envelope import PLAIN, Records
from tppo.streams import InboxEntry
from tppo.streams.contract import BEGINNING, position_of

Key = tuple[str, int]  # rollout and attempt


def archived_records(
    run_folder: Path,
    scores: Mapping[tuple[str, int], Mapping[str, Any]] | None = None,
    *,
    pinned: Collection[str] = (),
) -> list[bytes]:
    """The records of the run's archived inbox, with other scores if they are given. Raises `ConfigError`.

    Their n-th is the replay's n-th. What a resume changed in a key of `pinned` is left out.
    """
    folder = RunPaths(run_folder).inbox
    entries = list(InboxArchive(folder).entries(BEGINNING))
    if not entries:
        raise ConfigError(f"{folder} holds no archived inbox; expected a run with run.archive_inbox = true")
    reader = archived_records_reader(run_folder)
    records = with_places(entries, pinned, reader)
    return records if scores is None else list(with_scores(records, scores, reader))


def with_places(entries: Sequence[InboxEntry], pinned: Collection[str], reader: Records = PLAIN) -> list[bytes]:
    """The records, of which those of changed settings name their places in a replay."""
    positions = [position_of(entry.position) for entry in entries]
    payloads = []
    for entry in entries:
        change = change_in(entry.payload, reader)
        if change is not None:
            place = bisect_right(positions, position_of(change.position))
            values = {key: value for key, value in change.values.items() if key not in pinned}
            payloads.append(reader.payload(change.at(f"{place}-0", values).command))
        else:
            payloads.append(entry.payload)
    return payloads


def read_scores(path: Path) -> dict[Key, Mapping[str, Any]]:
    """The lines by what they score. Raises `ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--with scores={path}: {error.strerror}; expected the output of tppo rescore") from None
    lines: dict[Key, Mapping[str, Any]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            fields = json.loads(line)
            lines[fields["rollout_id"], fields["attempt"]] = fields
            float(fields["score"])
        except (ValueError, KeyError, TypeError):
            expected = 'expected a line of tppo rescore, with "rollout_id", "attempt" and a number as "score"'
            raise ConfigError(f"--with scores={path}, line {number}: {line[:100]}; {expected}") from None
    return lines


def with_scores(
    payloads: Iterable[bytes], scores: Mapping[Key, Mapping[str, Any]], reader: Records = PLAIN
) -> Iterator[bytes]:
    """The records with the other scores. Raises `ConfigError` where one is missing."""
    for payload in payloads:
        record = _decoded(payload, reader)
        if not isinstance(record, Score) or record.status is not ScoreStatus.SCORED:
            yield payload
            continue
        if record.key not in scores:
            raise ConfigError(
                f"--with scores: none for attempt {record.attempt} of {record.rollout_id}; expected the output of "
                "tppo rescore for the whole run"
            )
        other = scores[record.key]
        components = {name: float(value) for name, value in other.get("components", {}).items()}
        yield reader.payload(replace(record, score=float(other["score"]), components=components))


def _decoded(payload: bytes, reader: Records) -> InboxRecord | None:
    """None for bytes that hold no record: the learner rejects them in the replay, as it did in the run."""
    try:
        return reader.record(payload)
    except ValueError:
        return None
