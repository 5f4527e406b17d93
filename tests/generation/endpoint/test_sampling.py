"""Guests beside windows of the run: who gives a slot up, what is continued, and what text is certain."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

from services.generation.endpoint.sampling import Guest, SampledToken, TextStream
from services.generation.fleet.free_slots import FreeSlots
from services.generation.service import WindowHandler
from services.generation.update_policy import UpdatePolicy
from services.generation.weights.served_weights import ServedWeights
from services.generation.weights.weight_proof import DisprovedWeightsError
from tests.generation.fake_engine import PROBE, FakeEngine, an_update_of
from tests.generation.serving import nothing_announced
from tests.generation.tiny_models import FAST, Paused, a_decoder, a_model, a_request, an_engine, an_update
from tests.support.waiting import until
from tppo.codec import decode_inbox_record, encode_window_request
from tppo.rollout import Window

CONFIG = FAST["qwen2, tied"]


async def sampled(guest: Guest, **changes: Any) -> list[SampledToken]:
    async with aclosing(guest.tokens(a_request("guest", is_evaluation=True, **changes))) as tokens:
        return [one async for one in tokens]


async def test_a_guest_that_gave_its_slot_up_goes_on_after_its_tokens_and_the_window_did_not_wait() -> None:
    decoder = Paused(a_decoder(CONFIG, num_slots=1))
    async with an_engine(CONFIG, a_model(CONFIG), num_slots=1, decoder=decoder) as engine:
        slots = FreeSlots(1)
        guest, weights = Guest(engine, slots), ServedWeights(engine)
        handler = WindowHandler("generation-0", engine, weights, nothing_announced, free_slots=slots)

        running = asyncio.create_task(sampled(guest, max_new_tokens=150))
        await decoder.paused()
        handling = asyncio.create_task(handler.handle(encode_window_request(a_request("window"))))
        await until(lambda: slots.num_guests == 0, "the guest's leaving")
        decoder.may_go_on.set()
        record = decode_inbox_record(await handling)
        found = await running
        whole = await engine.generate(a_request("guest", max_new_tokens=150))

    assert isinstance(record, Window)
    assert len(record.tokens) == 8
    assert [one.token for one in found] == list(whole.tokens)
    assert [one.logprob for one in found] == pytest.approx(list(whole.logprobs), abs=1e-4)


async def test_weights_that_wait_for_all_rows_do_not_wait_for_guests() -> None:
    model, decoder = a_model(CONFIG), Paused(a_decoder(CONFIG))
    async with an_engine(CONFIG, model, decoder=decoder, policy=UpdatePolicy(in_flight=False)) as engine:
        slots = FreeSlots(4)
        weights = ServedWeights(engine)
        weights.while_updating = slots.held
        running = asyncio.create_task(sampled(Guest(engine, slots), max_new_tokens=150))
        await decoder.paused()

        taking = asyncio.create_task(weights.take(an_update(model, policy_version=1)))
        await until(lambda: slots.num_guests == 0, "the guest's leaving")
        decoder.may_go_on.set()
        await taking
        versions = [one.policy_version for one in await running]

    num_before = Paused.PAUSE_AT + 1  # of the step that was under way, too, if it was handed over in time
    assert len(versions) == 150
    assert versions[0] == 0
    assert set(versions[num_before:]) == {1}


async def test_no_guest_is_served_by_disproved_weights() -> None:
    """One that runs goes on once weights are proved, and nobody begins before."""
    engine, slots = FakeEngine(policy_version=-1, is_instant=False), FreeSlots(2)
    weights, guest = ServedWeights(engine), Guest(engine, slots)
    weights.while_disproved = slots.held
    await weights.take(an_update_of(0), PROBE)
    running = asyncio.create_task(sampled(guest, max_new_tokens=2))
    await engine.asked.get()

    engine.probed = -3.5
    for version in (1, 1):  # sent again, and wrong again
        with pytest.raises(DisprovedWeightsError):
            await weights.take(an_update_of(version), PROBE)
    late = asyncio.create_task(sampled(guest, max_new_tokens=2))
    await until(lambda: slots.num_waiting == 2, "both wait")
    engine.released.set()
    assert (slots.num_guests, engine.asked.empty()) == (0, True)
    engine.probed = -1.0
    await weights.take(an_update_of(2), PROBE)

    assert {one.policy_version for one in [*await running, *await late]} == {2}


async def test_a_guest_that_leaves_ends_its_row() -> None:
    async with an_engine(CONFIG, a_model(CONFIG)) as engine:
        slots = FreeSlots(4)
        async with aclosing(Guest(engine, slots).tokens(a_request("guest", max_new_tokens=190))) as tokens:
            await anext(tokens)

        await until(lambda: engine.statistics().num_active == 0, "an empty engine")
    assert slots.num_guests == 0


async def test_what_the_engine_can_never_serve_is_the_guest_s_error() -> None:
    with pytest.raises(ValueError, match="too long"):
        async with aclosing(Guest(FakeEngine(), FreeSlots(2)).tokens(a_request("bad"))) as tokens:
            await anext(tokens)


def letters(token_ids: Sequence[int]) -> str:
    """Bytes of UTF-8, one a token; 0 is a special token, which has no text."""
    return bytes(token for token in token_ids if token).decode(errors="replace")


def streamed(text: str, *, stops: Sequence[str] = ()) -> tuple[list[str], bool]:
    stream = TextStream(letters, stops)
    pieces = []
    for token in text.encode():
        pieces.append(stream.feed(token))
        if stream.has_stopped:
            break
    return [*pieces, stream.rest()], stream.has_stopped


@pytest.mark.parametrize(
    "text", ["plain", "gr\u00fc\u00dfe", "\U0001f600 and \u4e2d\u6587", "\0a\0\0b\0", "\0" * 40 + "x"]
)
def test_pieces_are_whole_characters_and_make_the_text(text: str) -> None:
    pieces, has_stopped = streamed(text)

    assert "".join(pieces) == text.replace("\0", "")
    assert not any("\ufffd" in piece for piece in pieces)
    assert not has_stopped


def test_bytes_of_no_character_are_not_held_back_for_long() -> None:
    stream = TextStream(letters)

    pieces = [stream.feed(0xFF) for _ in range(64)]

    assert len("".join(pieces)) >= 32


@pytest.mark.parametrize(
    ("text", "stops", "kept", "has_stopped"),
    [
        ("a line\nanother", ["\n"], "a line", True),
        ("so ### 4", ["###"], "so ", True),
        ("so ## 4", ["###"], "so ## 4", False),
        ("so ##", ["###"], "so ##", False),
        ("aab", ["ab"], "a", True),
        ("one two", ["two", "ne"], "o", True),
        ("end", ["end"], "", True),
    ],
)
def test_a_stop_ends_the_text_before_it_and_its_beginning_is_never_sent(
    text: str, stops: list[str], kept: str, has_stopped: bool
) -> None:
    pieces, stopped = streamed(text, stops=stops)

    assert ("".join(pieces), stopped) == (kept, has_stopped)
