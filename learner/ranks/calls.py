"""The calls of the trainer that all ranks make together, as messages: rank 0 sends one before it makes the call itself.

    step       rows and the policy's version     solution_probabilities   prompts, temperature
    probe      nothing                           set_temperature, set_learning_rate, reconfigure     values
    write      a checkpoint's folder             policy_in_memory         nothing

A rank that has the value model alone takes part in those that are the policy's by doing nothing.

Rows and prompts travel without what only rank 0 needs: no text, no ground truth. Weights never do: where rank 0 has
others than the policy's present ones, each rank is sent its rows by torch, one tensor after the other.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from learner.ranks.channel import RankMessage
from learner.ranks.team import Team
from learner.rollouts.ledger_state import PER_TOKEN, PLAIN, TYPECODES
from learner.rollouts.prompts import Prompt
from learner.rollouts.rollout import Rollout, State
from learner.step.trainer import Model, StepResult, Trainer
from learner.step.trainer_state import Describe, TrainerState, WrittenState, without_description
from tppo.weight_probe import WeightProbe
from tppo.weights import MemoryFile

Arrays = list["array[Any]"]
OF_POLICY = ("probe", "solution_probabilities", "policy_in_memory", "set_temperature")
"""Calls that need no value model."""
OTHERS = "is_of_other_weights"


@dataclass(slots=True)
class _Body:
    """Arrays that are read one after another."""

    content: bytes
    place: int = 0

    def next(self, typecode: str, length: int) -> "array[Any]":
        result: array[Any] = array(typecode)
        end = self.place + length * result.itemsize
        result.frombytes(self.content[self.place : end])
        self.place = end
        return result


class LeadingTrainer(Trainer):
    """A trainer that leads the others."""

    def __init__(self, team: Team, *parts: Any, **settings: Any) -> None:
        """`parts` and `settings`: the trainer's own."""
        super().__init__(*parts, **settings)
        self._team = team

    def step(self, rows: Sequence[Rollout], *, policy_version: int) -> StepResult:
        with self._team.making(step(rows, policy_version)):
            return super().step(rows, policy_version=policy_version)

    def solution_probabilities(
        self, prompts: Sequence[Prompt], *, temperature: float, weights: Mapping[str, Tensor] | None = None
    ) -> list[float]:
        with self._team.making(solution_probabilities(prompts, temperature, weights)):
            return super().solution_probabilities(prompts, temperature=temperature, weights=weights)

    def probe(self, weights: Mapping[str, Tensor] | None = None) -> WeightProbe:
        with self._team.making(probe(weights)):
            return super().probe(weights)

    def policy_in_memory(self, nonce: str) -> MemoryFile | None:
        with self._team.making(RankMessage("policy_in_memory")):
            return super().policy_in_memory(nonce)

    def write(self, state: TrainerState, folder: Path, describe: Describe = without_description) -> WrittenState:
        with self._team.making(RankMessage("write", {"folder": str(folder.absolute())})):
            return super().write(state, folder, describe)

    def set_temperature(self, temperature: float) -> None:
        with self._team.making(RankMessage("set_temperature", {"temperature": temperature})):
            super().set_temperature(temperature)

    def set_learning_rate(self, model: Model, peak: float) -> None:
        with self._team.making(RankMessage("set_learning_rate", {"model": model, "peak": peak})):
            super().set_learning_rate(model, peak)


def step(rows: Sequence[Rollout], policy_version: int) -> RankMessage:
    """`Trainer.step`."""
    arrays: Arrays = []
    fields = {"policy_version": policy_version, "rows": [_row(row, arrays) for row in rows]}
    return RankMessage("step", fields, _joined(arrays))


def rows_of(message: RankMessage) -> list[Rollout]:
    """Those of a `step`."""
    body = _Body(message.body)
    return [_rollout(fields, body) for fields in message.fields["rows"]]


def solution_probabilities(
    prompts: Sequence[Prompt], temperature: float, weights: Mapping[str, Tensor] | None
) -> RankMessage:
    """`Trainer.solution_probabilities`."""
    arrays: Arrays = []
    fields = {"temperature": temperature, "prompts": [_prompt(prompt, arrays) for prompt in prompts]}
    return RankMessage("solution_probabilities", fields | _has_others(weights), _joined(arrays))


def prompts_of(message: RankMessage) -> list[Prompt]:
    """Those of a call for solution probabilities."""
    body = _Body(message.body)
    return [_read_prompt(fields, body) for fields in message.fields["prompts"]]


def probe(weights: Mapping[str, Tensor] | None) -> RankMessage:
    """`Trainer.probe`."""
    return RankMessage("probe", _has_others(weights))


def weights_of(message: RankMessage) -> Mapping[str, Tensor] | None:
    """What a rank that is not rank 0 gives for the weights of rank 0's call: None for the policy's present ones."""
    return {} if message.fields[OTHERS] else None


def _has_others(weights: Mapping[str, Tensor] | None) -> dict[str, bool]:
    return {OTHERS: weights is not None}


def _joined(arrays: Arrays) -> bytes:
    return b"".join(one.tobytes() for one in arrays)


def _row(row: Rollout, arrays: Arrays) -> dict[str, Any]:
    of_row = {name: getattr(row, name) for name in PER_TOKEN}
    arrays.extend(of_row.values())
    return {
        **{name: getattr(row, name) for name in PLAIN},
        "lengths": [len(one) for one in of_row.values()],
        "prompt": _prompt(row.prompt, arrays),
        "ready_position": row.ready_position,
    }


def _rollout(fields: Mapping[str, Any], body: _Body) -> Rollout:
    plain = {name: fields[name] for name in PLAIN}
    lengths: Iterator[int] = iter(fields["lengths"])
    of_row: dict[str, Any] = {name: body.next(TYPECODES[name], next(lengths)) for name in PER_TOKEN}
    milliseconds, number = fields["ready_position"]
    return Rollout(
        **plain,
        **of_row,
        prompt=_read_prompt(fields["prompt"], body),
        state=State.READY,
        ready_position=(milliseconds, number),
    )


def _prompt(prompt: Prompt, arrays: Arrays) -> dict[str, Any]:
    arrays.append(prompt.token_ids)
    if prompt.solution is not None:
        arrays.append(prompt.solution)
    return {
        "index": prompt.index,
        "data_source": prompt.data_source,
        "num_tokens": len(prompt.token_ids),
        "num_solution": None if prompt.solution is None else len(prompt.solution),
    }


def _read_prompt(fields: Mapping[str, Any], body: _Body) -> Prompt:
    token_ids, num_solution = body.next("i", fields["num_tokens"]), fields["num_solution"]
    return Prompt(
        index=fields["index"],
        text="",
        token_ids=token_ids,
        data_source=fields["data_source"],
        ground_truth="",
        extra_info="{}",
        solution=None if num_solution is None else body.next("i", num_solution),
    )
