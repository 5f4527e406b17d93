"""A key of a device names one that is there, or is refused with what there is."""

import pytest
import torch

from tppo.config import ConfigError
from tppo.config.sections.placement import Placement
from tppo.models.device import chosen_device, torch_device

TWO_GPUS = ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("name", "accelerators", "expected"),
    [
        ("auto", [], "cpu"),
        ("cpu", [], "cpu"),
        ("auto", TWO_GPUS, "cuda"),
        ("cpu", TWO_GPUS, "cpu"),
        ("cuda", TWO_GPUS, "cuda"),
        ("cuda:1", TWO_GPUS, "cuda:1"),
        ("auto", ["mps"], "cpu"),
        ("mps", ["mps"], "mps"),
    ],
)
def test_a_device_that_is_there_is_used(name: str, accelerators: list[str], expected: str) -> None:
    assert chosen_device(name, accelerators, key="learner.device") == expected


@pytest.mark.parametrize(
    ("name", "accelerators", "alternatives"),
    [
        ("cuda", [], "'auto' or 'cpu'"),
        ("mps", [], "'auto' or 'cpu'"),
        ("cuda:7", TWO_GPUS, "'auto', 'cpu', 'cuda:0' or 'cuda:1'"),
        ("xpu", TWO_GPUS, "'auto', 'cpu', 'cuda:0' or 'cuda:1'"),
        ("cuda:0", ["mps"], "'auto', 'cpu' or 'mps'"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_what_there_is(
    name: str, accelerators: list[str], alternatives: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        chosen_device(name, accelerators, key="critic.device")

    assert str(caught.value) == (
        f"critic.device = '{name}': PyTorch {torch.__version__} finds no such device on this machine; "
        f"expected {alternatives}"
    )


def test_a_device_of_this_machine_computes() -> None:
    assert torch.ones(2, device=torch_device(Placement("float32", "auto", "learner.device"))).sum() == 2
