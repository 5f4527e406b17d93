"""One training step in bfloat16 on the device against the same step in float32 on the CPU."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu.findings import Finding, judged
from benchmarks.gpu.subject import Learner, Networks, Sizes, random_rows, with_logprobs
from learner.models.passes.outputs import token_logprobs
from learner.models.passes.packing import pack, unpack
from learner.step.estimation.experience import Estimates, Sampled, gather
from tppo.models.probe import TOLERANCES, difference

PART = "one step"
REFERENCE = "cpu"
MIN_COSINE = 0.98
"""Of a model's gradient in bfloat16 to that in float32. On a CPU, 24 blocks of width 256 leave it above 0.996."""
MAX_POLICY_LOSS_APART = 0.02
MAX_RELATIVE = 0.1  # of the value loss and of the gradients' norms


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step leaves, on the host."""

    logprobs: list[Tensor]
    values: list[Tensor]
    losses: Mapping[str, float]  # by model
    gradients: Mapping[str, Mapping[str, Tensor]]  # by model
    moved: Mapping[str, float]  # share of the weights that changed, by model


def against_the_cpu(sizes: Sizes, device: str) -> Iterator[Finding]:
    """The same rows and, but for the type, the same weights."""
    networks = Networks.random(sizes, REFERENCE)
    on_device = Learner(networks.copied(device), sizes, torch.bfloat16, records=True)
    reference = Learner(networks, sizes, torch.float32, records=True)
    rows = random_rows(sizes)
    rows = with_logprobs(rows, _logprobs(reference, gather(rows)))
    sampled = gather(rows)
    # One list of estimates for both: what differs is the update.
    estimates = reference.estimates(sampled)
    expected = _outcome(reference, sampled, estimates)
    found = _outcome(on_device, sampled, estimates)
    yield from compared(found, expected)


def _outcome(learner: Learner, sampled: Sampled, estimates: Estimates) -> Outcome:
    logprobs, values = _logprobs(learner, sampled), learner.estimates(sampled).values
    before = {"policy": learner.policy.weights.sample(), "value model": learner.value_model.weights.sample()}
    value_metrics = learner.update_value_model(sampled, estimates)
    learner.update_policy(sampled, estimates)
    of_value_model = value_metrics["critic/vf_loss"]
    assert of_value_model is not None, "half of the rows are finished"
    return Outcome(
        logprobs=logprobs,
        values=[sampled.window_part(row, values) for row in range(sampled.num_rows)],
        losses={"policy": sum(learner.system.losses), "value model": of_value_model},
        gradients={"policy": learner.actor.gradients, "value model": learner.critic.gradients},
        moved={
            "policy": learner.policy.weights.changed_fraction(since=before["policy"]),
            "value model": learner.value_model.weights.changed_fraction(since=before["value model"]),
        },
    )


@torch.no_grad()
def _logprobs(learner: Learner, sampled: Sampled) -> list[Tensor]:
    batches = pack(sampled.window_rows(), max_tokens=learner.sizes.max_tokens)
    return unpack(batches, [token_logprobs(learner.policy, batch).cpu() for batch in batches])


def compared(found: Outcome, expected: Outcome) -> Iterator[Finding]:
    """Judged by the tolerances above."""
    apart = difference(found.logprobs, expected.logprobs)
    tolerance = TOLERANCES[torch.bfloat16].at(apart.size)
    limits = {"worst nats": tolerance.worst, "mean nats": tolerance.mean}
    yield judged(PART, "log-probabilities", {"worst nats": apart.worst, "mean nats": apart.mean}, at_most=limits)
    of_values = difference(found.values, expected.values)
    spread = float(torch.cat(expected.values).std())
    yield judged(
        PART, "values", {"mean difference / spread": of_values.mean / spread}, at_most={"mean difference / spread": 0.1}
    )
    for model in expected.losses:
        yield _of_update(model, found, expected)


def _of_update(model: str, found: Outcome, expected: Outcome) -> Finding:
    mine, other = found.losses[model], expected.losses[model]
    norms = [_norm(outcome.gradients[model]) for outcome in (found, expected)]
    cosines = {
        name: _cosine({name: found.gradients[model][name]}, {name: gradient})
        for name, gradient in expected.gradients[model].items()
    }
    lowest = min(cosines, key=cosines.__getitem__)
    numbers = {
        "loss": mine,
        "in float32": other,
        "loss apart": abs(mine - other) if model == "policy" else abs(mine - other) / abs(other),
        "gradient cosine": _cosine(found.gradients[model], expected.gradients[model]),
        "lowest cosine": cosines[lowest],
        "norm apart": abs(norms[0] - norms[1]) / norms[1],
        "weights changed": found.moved[model],
        "changed in float32": expected.moved[model],
    }
    limit = MAX_POLICY_LOSS_APART if model == "policy" else MAX_RELATIVE
    return judged(
        PART,
        f"update of the {model}",
        numbers,
        at_most={"loss apart": limit, "norm apart": MAX_RELATIVE},
        at_least={"gradient cosine": MIN_COSINE},
        note=f"lowest cosine at {lowest}",
    )


def _norm(gradients: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(_product(one, one) for one in gradients.values()))


def _cosine(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Over all parameters, as if they were one vector; 1 where both are zero, as those of attention's key bias are."""
    assert found.keys() == expected.keys(), "the same parameters have gradients"
    norms = _norm(found) * _norm(expected)
    product = sum(_product(found[name], gradient) for name, gradient in expected.items())
    return float(product / norms) if norms > 0 else 1.0


def _product(left: Tensor, right: Tensor) -> float:
    return float(torch.dot(left.flatten().float(), right.flatten().float()))
