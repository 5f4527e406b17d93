"""Engine and learner say the same of the same tokens under the weights that the learner sends, in both types."""

import asyncio
import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from learner.algorithm.losses import k3_kl
from learner.models.loading.loading import policy_from_network
from learner.models.loading.named_tensors import copied, named_tensors
from learner.models.passes.outputs import Policy, token_logprobs
from learner.models.passes.packing import TokenRow, pack, unpack
from tests.generation.tiny_models import FAST, GENERAL, a_decoder, a_model, an_engine, mixed_requests, windows_of
from tppo.rollout import Window, WindowRequest
from tppo.weights import WeightUpdate

#: Of a token's log-probability, mean and largest difference in nats: docs/decisions/0021-masters-in-float32.md.
TOLERANCES = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (0.005, 0.05)}
MAX_KL = 1e-4


def rescored(policy: Policy, requests: Sequence[WindowRequest], windows: Sequence[Window]) -> Tensor:
    """The windows' tokens by the learner, packed as in a training step."""
    rows = [
        TokenRow([*prefix, *window.tokens], start=len(prefix))
        for request, window in zip(requests, windows, strict=True)
        for prefix in [[*request.prompt_tokens, *request.response_tokens]]
    ]
    batches = pack(rows, max_tokens=256)
    with torch.no_grad():
        return torch.cat(unpack(batches, [token_logprobs(policy, batch) for batch in batches]))


@pytest.mark.parametrize("dtype", TOLERANCES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("config", [*FAST.values(), *GENERAL.values()], ids=[*FAST, *GENERAL])
async def test_engine_and_learner_agree_on_the_same_weights(config: PreTrainedConfig, dtype: torch.dtype) -> None:
    policy = policy_from_network(a_model(copy.deepcopy(config)), compute_dtype=dtype)
    sent = await asyncio.to_thread(copied, named_tensors(policy.network))
    requests = mixed_requests(14, temperatures=[1.0])

    async with an_engine(config, decoder=a_decoder(config, dtype=dtype)) as engine:
        await engine.update_weights(WeightUpdate(0, incarnation=0, digest="", tensors=sent))
        windows = await windows_of(engine, requests)

    sampled = torch.tensor([logprob for window in windows for logprob in window.logprobs])
    learned = rescored(policy, requests, windows)
    differences = (sampled - learned).abs()
    mean, largest = TOLERANCES[dtype]
    assert {tensor.dtype for tensor in sent.values()} == {dtype}
    assert differences.mean() <= mean
    assert differences.max() <= largest
    assert k3_kl(sampled, learned, torch.ones_like(sampled).bool()).mean() <= MAX_KL
