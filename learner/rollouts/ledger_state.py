"""The rollout manager's state as plain data, and back: what a checkpoint keeps of ledger, scheduler and evaluation.

Texts and counts become JSON; the token arrays of all rollouts, laid end to end, become tensors. The prompts are not
kept: they are read from the data again, and found by their index.

Between two steps the event loop notes what is going to change (`captured`): a list for each field, and lengths in place
of the token arrays, which only grow. Another thread makes JSON and bytes of it, in parts, while the manager goes on:
one call that encoded a hundred thousand rollouts would keep every other thread from running Python meanwhile.
"""

import base64
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, islice
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from learner.rollouts.evaluation import SolutionProbabilities
from learner.rollouts.ledger import Ledger
from learner.rollouts.manager import RolloutManager
from learner.rollouts.prompts import Prompt
from learner.rollouts.rollout import Lost, Position, Rollout, State
from tppo import codec
from tppo.rollout import InboxRecord, Score, Window
from tppo.weights import TensorFacts

SAMPLED = ("response_tokens", "rollout_logprobs", "token_versions")  # of one length
PER_TOKEN = (*SAMPLED, "values", "sampled_mask")
CONSTANT = ("rollout_id", "ordinal", "is_evaluation")
CHANGING = (
    "cohort",
    "min_policy_version",
    "window_index",
    "window_start",
    "generator",
    "is_finished",
    "score",
    "components",
    "answer",
    "attempt",
    "num_stalls",
    "has_short_windows",
    "cause",
    "first_attempt",
    "num_rejections",
    "is_retry_due",
)
PLAIN = (*CONSTANT, *CHANGING)
TYPECODES = {"response_tokens": "i", "rollout_logprobs": "f", "token_versions": "i", "values": "f", "sampled_mask": "b"}
DTYPES = {"i": torch.int32, "f": torch.float32, "b": torch.int8}
EMPTY_IN_OLDER = "sampled_mask"  # the releases that did not have it sampled every token
NUM_AT_ONCE = 256  # entries of a list that become JSON in one call, in about a millisecond
PART_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class LedgerState:
    """What a checkpoint has kept."""

    plain: dict[str, Any]  # JSON
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class LedgerCapture:
    """What a checkpoint is to keep, as of one moment; it is read, in another thread, while the manager changes."""

    fields: dict[str, Any]  # JSON, of few entries
    rollouts: Sequence[Rollout]
    columns: Mapping[str, Sequence[Any]]  # what changes of them, in their order
    num_tokens: Sequence[int]  # of their responses
    num_values: Sequence[int]
    sampled_masks: Sequence["array[int]"]  # replaced as they grow
    ready: Sequence[Rollout]
    early: Sequence[tuple[Position, InboxRecord]]

    @property
    def num_bytes(self) -> int:
        """Size of the tensors."""
        return sum(facts.num_bytes for facts in self.tensors())

    def json_parts(self) -> Iterator[str]:
        """`LedgerState.plain` as text, piece by piece."""
        lists: dict[str, Iterator[object]] = {
            "rollouts": self._plain(),
            "ready": (row.rollout_id for row in self.ready),
            "early": (
                [position, base64.b64encode(codec.encode_inbox_record(record)).decode()]
                for position, record in self.early
            ),
        }
        yield json.dumps(self.fields)[:-1]
        for name, entries in lists.items():
            separator = f', "{name}": ['
            while some := list(islice(entries, NUM_AT_ONCE)):
                yield separator + json.dumps(some)[1:-1]
                separator = ", "
            yield "]" if separator == ", " else separator + "]"
        yield "}"

    def tensors(self) -> dict[TensorFacts, Iterator[bytes]]:
        """`LedgerState.tensors` as bytes, piece by piece."""
        return {
            TensorFacts(name, str(DTYPES[code]).removeprefix("torch."), (sum(lengths),)): self._bytes(name)
            for (name, lengths), code in zip(self._lengths.items(), TYPECODES.values(), strict=True)
        }

    @property
    def _lengths(self) -> dict[str, Iterable[int]]:
        """Of the rollouts' token arrays."""
        of_masks = map(len, self.sampled_masks)
        return {**dict.fromkeys(SAMPLED, self.num_tokens), "values": self.num_values, "sampled_mask": of_masks}

    def _plain(self) -> Iterator[dict[str, Any]]:
        lengths = self._lengths
        changing, of_arrays = (zip(*columns.values(), strict=True) for columns in (self.columns, lengths))
        for rollout, values, numbers in zip(self.rollouts, changing, of_arrays, strict=True):
            yield {
                **dict(zip(self.columns, values, strict=True)),
                **{name: getattr(rollout, name) for name in CONSTANT},
                "prompt": rollout.prompt.index,
                "lengths": dict(zip(lengths, numbers, strict=True)),
            }

    def _bytes(self, name: str) -> Iterator[bytes]:
        """One per-token array of all rollouts, end to end."""
        arrays = self.sampled_masks if name == "sampled_mask" else map(attrgetter(name), self.rollouts)
        parts: list[bytes] = []
        num_bytes = 0
        for tokens, length in zip(arrays, self._lengths[name], strict=True):
            parts.append(tokens[:length].tobytes())  # a copy in one step: an array that is looked at cannot grow
            num_bytes += len(parts[-1])
            if num_bytes >= PART_BYTES:
                yield b"".join(parts)
                parts, num_bytes = [], 0
        yield b"".join(parts)


def captured(manager: RolloutManager) -> LedgerCapture:
    """The manager as of now. For each rollout it makes no object that the garbage collector would have to look at."""
    ledger, scheduler, evaluator = manager.ledger, manager.scheduler, manager.evaluator
    assert not ledger.scored_evaluations, "the evaluator gathers what was scored before a checkpoint is taken"
    assert not any(map(evaluator.awaits_solutions, evaluator.gathered)), "solutions come before the next checkpoint"
    rollouts = [*ledger.rollouts.values(), *(row for rows in evaluator.gathered.values() for row in rows)]
    return LedgerCapture(
        fields={
            "lost": list(ledger.lost),
            "dropped": dict(ledger.dropped),
            "commands": manager.commands.state(),
            "early_rejections": [[key, list(rejections)] for key, rejections in ledger.early_rejections.items()],
            "num_issued": ledger.num_issued,
            "num_trained": ledger.num_trained,
            "num_resent_requests": ledger.num_resent_requests,
            "num_rejected_records": ledger.num_rejected_records,
            "duplicates": dict(ledger.duplicates),
            "next_ordinal": scheduler.next_ordinal,
            "next_cohort": scheduler.next_cohort,
            "is_opened": scheduler.is_opened,
            "gathered": {step: [row.rollout_id for row in rows] for step, rows in evaluator.gathered.items()},
            "finished_evaluations": sorted(evaluator.finished_steps),
            "solutions": {step: asdict(found) for step, found in evaluator.solutions.items()},
        },
        rollouts=rollouts,
        columns={name: _column(rollouts, name) for name in (*CHANGING, "state", "ready_position")},
        num_tokens=list(map(len, _column(rollouts, "response_tokens"))),
        num_values=list(map(len, _column(rollouts, "values"))),
        sampled_masks=_column(rollouts, "sampled_mask"),
        ready=list(ledger.ready),
        early=[*ledger.early_windows.values(), *ledger.early_scores.values()],
    )


def _column(rollouts: Sequence[Rollout], name: str) -> list[Any]:
    return list(map(attrgetter(name), rollouts))


def restore(manager: RolloutManager, state: LedgerState) -> None:
    """Fill a manager that has not begun with what was captured."""
    ledger, scheduler, evaluator, plain = manager.ledger, manager.scheduler, manager.evaluator, state.plain
    rollouts = {row.rollout_id: row for row in _rollouts(state, scheduler.prompts, evaluator.prompts)}
    for step, ids in plain["gathered"].items():
        evaluator.gathered[int(step)] = [rollouts.pop(rollout_id) for rollout_id in ids]
    evaluator.finished_steps = set(plain["finished_evaluations"])
    for step, found in plain.get("solutions", {}).items():  # not in the checkpoints of earlier releases
        evaluator.solutions[int(step)] = SolutionProbabilities(**found)
    ledger.add(rollouts.values())
    ledger.ready = [rollouts[rollout_id] for rollout_id in plain["ready"]]
    ledger.lost = [Lost((position[0], position[1]), cohort) for position, cohort in plain["lost"]]
    ledger.dropped.update(plain["dropped"])
    manager.commands.restore(plain["commands"])
    for position, payload in plain["early"]:
        _add_early(ledger, (position[0], position[1]), codec.decode_inbox_record(base64.b64decode(payload)))
    for (kind, rollout_id, number), rejections in plain.get("early_rejections", []):
        ledger.early_rejections[kind, rollout_id, number] = [((at[0], at[1]), cause) for at, cause in rejections]
    ledger.num_issued, ledger.num_trained = plain["num_issued"], plain["num_trained"]
    ledger.num_resent_requests = plain["num_resent_requests"]
    ledger.num_rejected_records = plain.get("num_rejected_records", 0)  # not in those of earlier releases
    ledger.duplicates.update(plain["duplicates"])
    scheduler.next_ordinal, scheduler.next_cohort = plain["next_ordinal"], plain["next_cohort"]
    scheduler.is_opened = plain["is_opened"]


def _rollouts(
    state: LedgerState, train_prompts: Sequence[Prompt], evaluation_prompts: Sequence[Prompt]
) -> Iterable[Rollout]:
    entries: Sequence[Mapping[str, Any]] = state.plain["rollouts"]
    tensors = {EMPTY_IN_OLDER: torch.empty(0, dtype=torch.int8), **state.tensors}
    lengths: list[Mapping[str, int]] = [{EMPTY_IN_OLDER: 0, **entry["lengths"]} for entry in entries]
    ends = {name: list(accumulate(of_entry[name] for of_entry in lengths)) for name in PER_TOKEN}
    train, evaluated = ({prompt.index: prompt for prompt in prompts} for prompts in (train_prompts, evaluation_prompts))
    for number, entry in enumerate(entries):
        prompts = evaluated if entry["is_evaluation"] else train
        arrays: dict[str, Any] = {
            name: _array(name, tensors[name][ends[name][number] - lengths[number][name] : ends[name][number]])
            for name in PER_TOKEN
        }
        yield Rollout(
            **{name: entry[name] for name in PLAIN if name in entry},  # some were added since earlier releases
            **arrays,
            prompt=prompts[entry["prompt"]],
            state=State(entry["state"]),
            ready_position=(entry["ready_position"][0], entry["ready_position"][1]),
        )


def _array(name: str, of_rollout: Tensor) -> "array[Any]":
    result: array[Any] = array(TYPECODES[name])
    result.frombytes(of_rollout.numpy().tobytes())
    return result


def _add_early(ledger: Ledger, position: Position, record: InboxRecord) -> None:
    if isinstance(record, Window):
        ledger.early_windows[record.key] = (position, record)
    elif isinstance(record, Score):
        ledger.early_scores[record.key] = (position, record)
