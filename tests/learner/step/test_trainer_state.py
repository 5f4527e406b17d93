"""The trainer's state as JSON and tensors: what comes back is what went in, types and keys included."""

import json

import pytest
import torch

from learner.step.trainer_state import StateParts


def through_json(parts: StateParts) -> StateParts:
    return StateParts(json.loads(json.dumps(parts.plain)), parts.tensors)


def test_a_structure_comes_back_with_its_types_and_keys() -> None:
    state = {
        "betas": (0.9, 0.999),
        "groups": [{"params": [0, 1], "fused": True, "foreach": None}],
        "state": {0: {"step": 3}, 1: {}},
        "name": "tppo",
    }

    assert through_json(StateParts.of(state)).whole() == state


def test_tensors_are_named_by_where_they_stand_and_not_copied() -> None:
    moment = torch.zeros(2)

    parts = StateParts.of({"actor": {"state": {0: {"exp_avg": moment}}}, "kept": [{"values": torch.ones(1)}]})

    assert parts.tensors.keys() == {"actor.state.0.exp_avg", "kept.0.values"}
    moment.fill_(5.0)
    assert through_json(parts).whole()["actor"]["state"][0]["exp_avg"].tolist() == [5.0, 5.0]


def test_an_optimizer_goes_on_as_if_nothing_had_happened() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(4, 3)

    def trained(num_updates: int, parameter: torch.nn.Parameter, adamw: torch.optim.AdamW) -> None:
        for gradient in gradients[num_updates : num_updates + 2]:
            parameter.grad = gradient.clone()
            adamw.step()

    parameter = torch.nn.Parameter(torch.ones(3))
    adamw = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    trained(0, parameter, adamw)
    state = {name: tensor.clone() for name, tensor in StateParts.of(adamw.state_dict()).tensors.items()}
    restored_parameter = torch.nn.Parameter(parameter.detach().clone())
    restored = torch.optim.AdamW([restored_parameter], lr=0.5, fused=True)
    plain = through_json(StateParts.of(adamw.state_dict())).plain
    restored.load_state_dict(StateParts(plain, state).whole())
    trained(2, parameter, adamw)
    trained(2, restored_parameter, restored)

    assert torch.equal(parameter, restored_parameter)


def test_what_json_cannot_keep_is_refused() -> None:
    with pytest.raises(TypeError, match=r"cannot keep \{1\}; expected tensors, numbers, texts"):
        StateParts.of({"sets": {1}})
