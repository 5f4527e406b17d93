"""What a generator that joins a run receives, and who receives it."""

from pathlib import Path

import httpx
import pytest

from services.dashboard.api.access import Access
from services.dashboard.api.app import create_app
from services.dashboard.api.routes.join import JoinAnswer, Joining
from services.dashboard.build import _joining
from services.dashboard.live.stream import Broadcaster
from services.generation.fleet.joining import Invitation, joined_config
from tests.dashboard.clients import TOKEN, views_of
from tests.learner.builders import a_config
from tppo.config import Config
from tppo.security.authentication import Service
from tppo.security.envelope import Writer
from tppo.security.record_keys import record_key
from tppo.security.service_tokens import run_token

ANSWER = JoinAnswer(run="a", config="[run]", redis_url="redis://:pw@h:1", model={"model_type": "llama"}, record_key="k")


async def joined(root: Path, joining: Joining | None, token: str = "", *, needs_token: bool = True) -> httpx.Response:
    views = views_of(root)
    access = Access(token=TOKEN, needs_token_to_look=needs_token)
    app = create_app(views, Broadcaster(views), access=access, joining=joining)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://run:8265") as client:
        return await client.get("/api/v1/join", headers=headers)


async def test_the_generation_token_opens_the_invitation_from_any_host(tmp_path: Path) -> None:
    answer = await joined(tmp_path, Joining(ANSWER, "generation"), "generation")

    assert (answer.status_code, JoinAnswer.model_validate(answer.json())) == (200, ANSWER)


@pytest.mark.parametrize("needs_token", [True, False])
@pytest.mark.parametrize("token", ["", "another", TOKEN])
async def test_no_other_token_opens_it_whoever_may_look(tmp_path: Path, token: str, needs_token: bool) -> None:
    answer = await joined(tmp_path, Joining(ANSWER, "generation"), token, needs_token=needs_token)

    assert (answer.status_code, "pw" in answer.text) == (401, False)
    assert answer.json()["detail"] == "joining needs the run's generation token"


async def test_where_no_run_goes_on_nobody_can_join(tmp_path: Path) -> None:
    assert (await joined(tmp_path, None, "generation")).status_code == 404


def a_run(folder: Path) -> Config:
    (folder / "config.json").write_text('{"model_type": "llama"}')
    run = {"directory": folder, "name": "shared"}
    return a_config(model={"path": folder}, run=run, redis={"url": "redis://:pw@127.0.0.1:7000/0"})


async def test_a_generator_understands_the_invitation(tmp_path: Path) -> None:
    config = a_run(tmp_path)
    joining = _joining(config)
    assert joining is not None
    assert str(joining.token) == run_token(config.run.path, Service.GENERATION)

    answer = await joined(tmp_path, joining, str(joining.token))
    found = joined_config(Invitation.of(answer.content, "http://run:8265", own_host="127.0.0.1"), [])

    assert "pw" not in joining.answer.config
    assert found.redis.url == config.redis.url
    assert joining.answer.record_key == record_key(config.run, Writer.GENERATION)
    assert (found.run, found.model) == (config.run, config.model)


async def test_the_invitation_has_the_address_for_generators_with_the_password_that_is_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("theirs\n")
    monkeypatch.setenv("TPPO_JOIN_REDIS_URL", "redis://generation@redis:6379/0")
    monkeypatch.setenv("TPPO_JOIN_REDIS_PASSWORD_FILE", str(tmp_path / "password"))

    joining = _joining(a_run(tmp_path))

    assert joining is not None
    assert joining.answer.redis_url == "redis://generation:theirs@redis:6379/0"
