"""The rollout manager's state as plain data, and back: what a checkpoint keeps of ledger, scheduler and evaluation.

Texts and counts become JSON; the token arrays of all rollouts, laid end to end, become four tensors. The prompts are
not kept: they are read from the data again, and found by their index.
"""

import base64
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from learner.rollouts.evaluation import SolutionProbabilities
from learner.rollouts.ledger import Ledger
from learner.rollouts.manager import RolloutManager
from learner.rollouts.prompts import Prompt
from learner.rollouts.rollout import Lost, Rollout, State
from tppo import codec
from tppo.rollout import InboxRecord, Score, Window

PER_TOKEN = ("response_tokens", "rollout_logprobs", "token_versions", "values", "sampled_mask")
PLAIN = (
    "rollout_id",
    "ordinal",
    "cohort",
    "min_policy_version",
    "is_evaluation",
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
TYPECODES = {"response_tokens": "i", "rollout_logprobs": "f", "token_versions": "i", "values": "f", "sampled_mask": "b"}
DTYPES = {"i": torch.int32, "f": torch.float32, "b": torch.int8}
EMPTY_IN_OLDER = "sampled_mask"  # the releases that did not have it sampled every token


@dataclass(frozen=True, slots=True)
class LedgerState:
    """What a checkpoint keeps."""

    plain: dict[str, Any]  # JSON
    tensors: dict[str, Tensor]


def captured(manager: RolloutManager) -> LedgerState:
    """A copy of everything, to be written while the manager changes."""
    ledger, scheduler, evaluator = manager.ledger, manager.scheduler, manager.evaluator
    assert not ledger.scored_evaluations, "the evaluator gathers what was scored before a checkpoint is taken"
    assert not any(map(evaluator.awaits_solutions, evaluator.gathered)), "solutions come before the next checkpoint"
    gathered = {step: [row.rollout_id for row in rows] for step, rows in evaluator.gathered.items()}
    rollouts = [*ledger.rollouts.values(), *(row for rows in evaluator.gathered.values() for row in rows)]
    plain = {
        "rollouts": [_plain(rollout) for rollout in rollouts],
        "ready": [rollout.rollout_id for rollout in ledger.ready],
        "lost": ledger.lost,
        "dropped": dict(ledger.dropped),
        "commands": manager.commands.state(),
        "early": [
            [list(position), base64.b64encode(codec.encode_inbox_record(record)).decode()]
            for position, record in _early(ledger)
        ],
        "early_rejections": [[key, rejections] for key, rejections in ledger.early_rejections.items()],
        "num_issued": ledger.num_issued,
        "num_trained": ledger.num_trained,
        "num_resent_requests": ledger.num_resent_requests,
        "num_rejected_records": ledger.num_rejected_records,
        "duplicates": dict(ledger.duplicates),
        "next_ordinal": scheduler.next_ordinal,
        "next_cohort": scheduler.next_cohort,
        "is_opened": scheduler.is_opened,
        "gathered": gathered,
        "finished_evaluations": sorted(evaluator.finished_steps),
        "solutions": {step: asdict(found) for step, found in evaluator.solutions.items()},
    }
    return LedgerState(plain, {name: _laid_out(rollouts, name) for name in PER_TOKEN})


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


def _plain(rollout: Rollout) -> dict[str, Any]:
    return {
        **{name: getattr(rollout, name) for name in PLAIN},
        "prompt": rollout.prompt.index,
        "state": rollout.state.value,
        "ready_position": rollout.ready_position,
        "lengths": {name: len(getattr(rollout, name)) for name in PER_TOKEN},
    }


def _laid_out(rollouts: Sequence[Rollout], name: str) -> Tensor:
    """One per-token array of all rollouts, end to end."""
    line = array(TYPECODES[name])
    for rollout in rollouts:
        line.extend(getattr(rollout, name))
    dtype = DTYPES[TYPECODES[name]]
    return torch.frombuffer(line, dtype=dtype).clone() if line else torch.empty(0, dtype=dtype)


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


def _early(ledger: Ledger) -> Iterable[tuple[tuple[int, int], InboxRecord]]:
    yield from ledger.early_windows.values()
    yield from ledger.early_scores.values()


def _add_early(ledger: Ledger, position: tuple[int, int], record: InboxRecord) -> None:
    if isinstance(record, Window):
        ledger.early_windows[record.key] = (position, record)
    elif isinstance(record, Score):
        ledger.early_scores[record.key] = (position, record)
