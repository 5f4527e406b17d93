"""Several engines in one generator: each update reaches all of them, and windows run in all of them."""

import pytest

from tests.vllm.served import MODEL, TOLERANCE, ServedModel, a_model, a_request, expected_logprobs, worst_difference
from tppo.rollout import VersionSpan


async def test_each_of_several_engines_has_the_weights_of_each_update(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("parallel")
    served = await ServedModel.start(folder, MODEL, **{"vllm.data_parallel_size": "2"})
    try:
        for seed in (1, 2):
            model = a_model(seed)
            version = await served.send(model)
            requests = [a_request(f"r{index}", seed=index, max_new_tokens=40) for index in range(16)]

            windows = await served.windows(requests)

            for request, window in zip(requests, windows, strict=True):
                assert window.version_spans == (VersionSpan(version, 40),)
                assert worst_difference(window.logprobs, expected_logprobs(model, request, window)) < TOLERANCE
    finally:
        await served.engine.close()
