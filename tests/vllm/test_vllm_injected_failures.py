"""Every known way in which new weights go wrong, injected into the real vLLM, is found before a window is posted."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from transformers import LlamaConfig

from services.generation.vllm_engine.window_row import WeightLabel
from services.generation.weights.served_weights import ServedWeights
from tests.generation.weight_failures import TRANSFERS, corrupted, verdict_on
from tests.vllm.served import VOCABULARY, ServedModel, a_model, a_request, an_update, probe_of

WITH_BIASES = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    intermediate_size=96,
    max_position_embeddings=2048,
    initializer_range=0.3,
    attention_bias=True,
    mlp_bias=True,
    tie_word_embeddings=True,
    architectures=["LlamaForCausalLM"],
    bos_token_id=None,
    eos_token_id=None,
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """One of its own: what is broken in it is no other test's."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # to call what is not in the worker by itself
        served = await ServedModel.start(tmp_path_factory.mktemp("llama"), WITH_BIASES)
        yield served.engine
        await served.engine.close()


@asynccontextmanager
async def broken_worker(engine: Any, damage: str, repair: str) -> AsyncIterator[None]:
    from tests.vllm import breakages

    await engine._core.collective_rpc(getattr(breakages, damage))
    try:
        yield
    finally:
        await engine._core.collective_rpc(getattr(breakages, repair))


def keep_caches(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pause = engine._core.pause_generation
    monkeypatch.setattr(engine._core, "pause_generation", lambda **_: pause(mode="keep", clear_cache=False))


def share_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    """From before the old weights on, so that the rows of their probe are there to be shared."""
    monkeypatch.setattr(WeightLabel, "salt", lambda self: "the same of all weights")


WORKERS = {
    "the head keeps its old weights": ("leave_the_head", "tie_the_head"),
    "temperature ignored": ("ignore_temperature", "heed_temperature"),
    "half of the file is read": ("read_half", "read_all"),
    "buffers lost": ("lose_buffers", "restore_buffers"),
}
CORES: dict[str, Callable[[Any, pytest.MonkeyPatch], None]] = {
    "running windows keep their KV caches": keep_caches,
    "a prefix of earlier weights is shared": keep_caches,
}
SHARED = "a prefix of earlier weights is shared"


@pytest.mark.parametrize("failure", ["nothing", *TRANSFERS, *WORKERS, *CORES])
async def test_each_failure_is_found_before_a_window_of_its_weights_is_posted(
    engine: Any, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (a_model(seed, WITH_BIASES) for seed in (1, 2))
    version = engine.policy_version + 1
    weights = ServedWeights(engine, crosses=True, recomputes=True)
    if failure == SHARED:
        share_prefixes(monkeypatch)
    await weights.take(an_update(old, version), probe_of(old))
    requests = [a_request(str(number), min_policy_version=version + 1, max_new_tokens=3) for number in range(3)]

    async with AsyncExitStack() as stack:
        if failure in CORES:
            CORES[failure](engine, monkeypatch)
        if failure in WORKERS:
            await stack.enter_async_context(broken_worker(engine, *WORKERS[failure]))
        verdict = await verdict_on(
            corrupted(failure, an_update(old, version), an_update(new, version + 1)),
            probe_of(new),
            engine,
            weights,
            requests,
        )

    verdict.note(failure)
    if failure == "nothing":
        assert (verdict.fault, verdict.num_posted) == ("", 3)
    else:
        assert "differs from the learner" in verdict.fault
        assert verdict.num_posted == 0
    if failure in CORES:
        assert ("that the update met in mid-way" in verdict.fault) == (failure != SHARED)
