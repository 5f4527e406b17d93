"""Who may look and who may steer."""

import base64
from pathlib import Path

import pytest

from services.dashboard.api.access import SECURITY_HEADERS, Access
from services.dashboard.live.source import Observation
from tests.dashboard.clients import BEARER, NOW, TOKEN, FixedSource, client_of
from tests.dashboard.run_folders import RunFolderBuilder

LOCKED = Access(token=TOKEN, needs_token_to_look=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    RunFolderBuilder(tmp_path / "runs" / "quick")
    static = tmp_path / "runs" / "static"
    static.mkdir()
    for name in ("index.html", "docs.html", "app.js"):
        (static / name).write_text(f"the {name}")
    return tmp_path / "runs"


def live() -> FixedSource:
    return FixedSource(Observation(now=NOW))


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("header", ["", "Bearer wrong", "Bearer", "Basic !", basic("secret"), basic("secret:wrong")])
@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/docs", "/static/app.js", "/api/v1/stream", "/openapi.json"])
async def test_with_a_token_set_requests_without_it_are_refused(root: Path, path: str, header: str) -> None:
    async with client_of(root, access=LOCKED) as client:
        answer = await client.get(path, headers={"Authorization": header} if header else {})

    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert "Bearer" in answer.headers["www-authenticate"]


@pytest.mark.parametrize("header", ["Bearer secret", "bearer secret", basic("anybody:secret")])
async def test_the_token_opens_the_page_to_programs_and_to_browsers(root: Path, header: str) -> None:
    async with client_of(root, access=LOCKED) as client:
        assert (await client.get("/", headers={"Authorization": header, "Host": "gpu-7"})).status_code == 200


async def test_health_needs_no_token(root: Path) -> None:
    async with client_of(root, access=LOCKED) as client:
        assert (await client.get("/healthz", headers={"Host": "10.0.0.7"})).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8265", "[::1]:8265"])
async def test_without_a_token_this_machine_may_look(root: Path, host: str) -> None:
    async with client_of(root) as client:
        assert (await client.get("/api/v1/status", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8265", "", "[", "10.0.0.7"])
async def test_dns_rebinding_is_refused(root: Path, host: str) -> None:
    async with client_of(root) as client:
        answer = await client.get("/api/v1/status", headers={"Host": host})

    assert (answer.status_code, answer.headers["content-type"]) == (421, "application/problem+json")


@pytest.mark.parametrize("path", ["/", "/api/v1/status", "/api/v1/nothing", "/static/app.js", "/docs"])
async def test_every_answer_has_the_security_headers(root: Path, path: str) -> None:
    async with client_of(root) as client:
        headers = (await client.get(path)).headers

    assert {name: headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert "script-src" not in headers["Content-Security-Policy"]  # so default-src holds, which allows no inline script
    assert "default-src 'self';" in headers["Content-Security-Policy"]


async def test_the_page_and_its_files_are_served(root: Path) -> None:
    async with client_of(root) as client:
        texts = [(await client.get(path)).text for path in ("/", "/docs", "/static/app.js")]

    assert texts == ["the index.html", "the docs.html", "the app.js"]


@pytest.mark.parametrize("path", ["/static/../quick/config.toml", "/static/%2e%2e/quick/config.toml"])
async def test_static_files_are_all_that_is_served(root: Path, path: str) -> None:
    async with client_of(root) as client:
        assert (await client.get(path)).status_code == 404


async def test_steering_needs_the_token_on_the_loopback_too(root: Path) -> None:
    source = live()
    async with client_of(root, source) as client:
        answers = [
            await client.post("/api/v1/control/pause", headers=headers)
            for headers in ({}, {"Authorization": "Bearer wrong"})
        ]

    assert [answer.status_code for answer in answers] == [401, 401]
    assert source.inbox == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost:8265", "Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_csrf_is_refused(root: Path, headers: dict[str, str]) -> None:
    source = live()
    async with client_of(root, source) as client:
        answer = await client.post("/api/v1/control/pause", headers={**BEARER, **headers})

    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert source.inbox == []


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://localhost:8265", "Sec-Fetch-Site": "same-origin"}])
async def test_our_page_and_programs_steer_with_the_token(root: Path, headers: dict[str, str]) -> None:
    async with client_of(root, live()) as client:
        assert (await client.post("/api/v1/control/pause", headers={**BEARER, **headers})).status_code == 202


@pytest.mark.parametrize(
    ("access", "to_look"), [(Access(token=TOKEN), []), (LOCKED, [{"HTTPBearer": []}, {"HTTPBasic": []}])]
)
async def test_the_openapi_document_names_the_security_schemes(
    root: Path, access: Access, to_look: list[dict[str, list[str]]]
) -> None:
    async with client_of(root, access=access) as client:
        document = (await client.get("/openapi.json", headers=BEARER)).json()

    assert document["paths"]["/api/v1/status"]["get"].get("security", []) == to_look
    assert {"HTTPBearer": []} in document["paths"]["/api/v1/control/pause"]["post"]["security"]


@pytest.mark.parametrize(
    ("path", "status"), [("/metrics", 200), ("/api/v1/scrape-targets", 200), ("/api/v1/status", 401), ("/", 401)]
)
async def test_the_metrics_token_opens_the_scraped_addresses_alone(root: Path, path: str, status: int) -> None:
    access = Access(token=TOKEN, needs_token_to_look=True, metrics_token="scrape")
    async with client_of(root, live(), access=access) as client:
        answer = await client.get(path, headers={"Authorization": "Bearer scrape", "Host": "gpu-7"})

    assert answer.status_code == status


async def test_the_metrics_token_does_not_steer(root: Path) -> None:
    access = Access(token=TOKEN, needs_token_to_look=True, metrics_token="scrape")
    async with client_of(root, live(), access=access) as client:
        answer = await client.post("/api/v1/control/pause", headers={"Authorization": "Bearer scrape"})

    assert answer.status_code == 401
