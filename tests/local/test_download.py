"""`tppo download` against a server that speaks the Hub's API."""

import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import TPPO
from tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.process
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/small"
MODEL = {
    "config.json": b"{}",
    "generation_config.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
}
NOT_NEEDED = {
    "pytorch_model.bin": b"pickled",
    "consolidated.safetensors": b"the same",
    "original/model.safetensors": b"the same",
    "modeling_small.py": b"raise SystemExit",
    "README.md": b"# Small",
}


class Hub(ThreadingHTTPServer):
    """Models by name; what `refusals` names is refused with that error code of the Hub's."""

    daemon_threads = True

    def __init__(self, models: Mapping[str, Mapping[str, bytes]], refusals: Mapping[str, tuple[int, str]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models = models
        self.refusals = refusals
        self.sent: list[tuple[str, str]] = []
        """Each file that was sent, with the range that was requested."""
        self.breaks_after: int | None = None
        """Bytes of one answer, after which its connection breaks, once."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        parts = path.removeprefix("api/models/").split("/")
        name = "/".join(parts[:2])
        if refusal := self.server.refusals.get(name):
            self._answer(refusal[0], b"", {"X-Error-Code": refusal[1], "X-Error-Message": refusal[1]})
        elif name not in self.server.models:
            self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("api/models/"):
            self._describe(name, parts[2:])
        else:
            self._send(self.server.models[name], "/".join(parts[4:]))

    do_HEAD = do_GET  # noqa: N815

    def _describe(self, name: str, parts: list[str]) -> None:
        files = self.server.models[name]
        if parts[1:2] and parts[1] not in ("main", COMMIT):
            self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif parts[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": path, "size": len(text), "oid": etag(text)} for path, text in files.items()
            ]
            self._answer(200, json.dumps(tree).encode())
        else:
            siblings = [{"rfilename": path} for path in files]
            self._answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())

    def _send(self, files: Mapping[str, bytes], file: str) -> None:
        text, wanted = files[file], self.headers.get("Range", "")
        first = int(wanted.removeprefix("bytes=").partition("-")[0] or 0)
        headers = {"ETag": f'"{etag(text)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(text) - 1}/{len(text)}"
        if self.command == "GET":
            self.server.sent.append((file, wanted))
        self._answer(206 if first else 200, text[first:], headers)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        limit = self.server.breaks_after
        if self.command == "GET" and limit is not None and len(body) > limit:
            self.wfile.write(body[:limit])
            self.wfile.flush()
            self.close_connection = True
            self.server.breaks_after = None
        elif self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are no news."""


def etag(text: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()


@contextmanager
def a_hub(
    models: Mapping[str, Mapping[str, bytes]], refusals: Mapping[str, tuple[int, str]] | None = None
) -> Iterator[Hub]:
    with Hub(models, refusals or {}) as server:
        answering = threading.Thread(target=server.serve_forever, args=(0.05,))
        answering.start()
        yield server
        server.shutdown()
        answering.join()


def downloaded(folder: Path, hub: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    online = {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [*TPPO, "download", *arguments],
        cwd=folder,
        env={**os.environ, **online, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def test_a_model_arrives_without_what_is_pickled_or_code(tmp_path: Path) -> None:
    with a_hub({NAME: {**MODEL, **NOT_NEEDED}}) as hub:
        ended = downloaded(tmp_path, hub.address, NAME)

    folder = tmp_path / "models" / NAME
    assert ended.returncode == 0, ended.stderr
    assert {one.name: one.read_bytes() for one in folder.iterdir() if one.is_file()} == MODEL
    assert f"--set model.path=models/{NAME}" in ended.stdout
    assert {file for file, _ in hub.sent} == set(MODEL)


def test_an_interrupted_download_is_continued_by_the_same_command(tmp_path: Path) -> None:
    with a_hub({NAME: MODEL}) as hub:
        assert downloaded(tmp_path, hub.address, NAME, "--local-dir", "here").returncode == 0
        (tmp_path / "here" / "tokenizer.json").unlink()
        hub.sent.clear()
        ended = downloaded(tmp_path, hub.address, NAME, "--local-dir", "here")

    assert ended.returncode == 0, ended.stderr
    assert [file for file, _ in hub.sent] == ["tokenizer.json"]


def test_weights_whose_connection_breaks_are_requested_again(tmp_path: Path) -> None:
    with a_hub({NAME: MODEL}) as hub:
        hub.breaks_after = 5000
        ended = downloaded(tmp_path, hub.address, NAME)

    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "models" / NAME / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert [file for file, _ in hub.sent].count("model.safetensors") == 2


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("nobody/nothing", [], "nobody/nothing: no such model at HUB, or a private one; expected ORGANISATION/NAME"),
        ("someone/gated", [], "someone/gated: gated; accept its terms at HUB/someone/gated, and set HF_TOKEN"),
        (NAME, ["--revision", "v9"], f"{NAME}: no revision 'v9'; expected a branch, a tag or a commit of it"),
        ("someone/old", [], "someone/old: it has pickled weights alone (pytorch_model.bin), which may run code"),
        ("a b", [], "'a b' is no name of a model: "),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_sentence(
    tmp_path: Path, name: str, options: list[str], sentence: str
) -> None:
    models = {NAME: MODEL, "someone/old": {"config.json": b"{}", "pytorch_model.bin": b"pickled"}}
    with a_hub(models, {"someone/gated": (403, "GatedRepo")}) as hub:
        ended = downloaded(tmp_path, hub.address, name, *options)

    assert ended.returncode == 2
    assert f"tppo download: {sentence.replace('HUB', hub.address)}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({}, "http://127.0.0.1:1 does not answer as a Hub"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_said_even_beside_files_of_before(
    tmp_path: Path, environment: dict[str, str], sentence: str
) -> None:
    (tmp_path / "models" / NAME).mkdir(parents=True)
    (tmp_path / "models" / NAME / "config.json").write_text("{}")

    ended = downloaded(tmp_path, "http://127.0.0.1:1", NAME, **environment)

    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    assert sentence in ended.stderr
