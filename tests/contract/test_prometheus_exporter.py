"""Metrics out of a status, and the address at which they are scraped."""

import http.client
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.waiting import DEADLINE_SECONDS
from tppo.config import ConfigError
from tppo.config.schema import PrometheusSection
from tppo.prometheus import Exporter, serving
from tppo.prometheus.exposed import MAX_SERIES, Exposed, at, of_each, part
from tppo.prometheus.server import MAX_REQUESTS

METRICS = (
    Exposed(name="tppo_slots", unit="slots", meaning="Slots.", read=at("engine", "num_slots")),
    Exposed(name="tppo_tokens_total", unit="tokens", meaning="Tokens.", read=at("num_tokens")),
    Exposed(
        name="tppo_held",
        unit="requests",
        meaning="Held.",
        labels=("queue",),
        read=of_each("queues", number=part("held")),
    ),
)
Answer = tuple[int, str, str]


def an_exporter(**status: Any) -> Exporter:
    exporter = Exporter(METRICS, run="quick", service="generation-0")
    exporter.take(status)
    return exporter


@contextmanager
def scraped(exporter: Exporter, *, token: str = "", **settings: Any) -> Iterator[str]:
    """The address while it serves."""
    with serving(PrometheusSection(**settings), exporter, token=token):
        yield exporter.address


def get(address: str, path: str = "/metrics", method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection(address, timeout=DEADLINE_SECONDS)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type", ""), answer.read().decode()
    finally:
        connection.close()


def samples(text: str, name: str) -> dict[str, float]:
    """By the value of the label `queue`."""
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.labels.get("queue", ""): sample.value for sample in found if sample.name == name}


def test_a_status_is_exported_with_types_meanings_and_labels() -> None:
    with scraped(an_exporter(engine={"num_slots": 4}, num_tokens=30, queues={"a": {"held": 1}})) as address:
        status, content_type, text = get(address)

    own = 'run="quick",service="generation-0"'
    assert (status, content_type.split(";")[0]) == (200, "text/plain")
    assert f"# HELP tppo_slots Slots.\n# TYPE tppo_slots gauge\ntppo_slots{{{own}}} 4.0\n" in text
    assert f"# TYPE tppo_tokens_total counter\ntppo_tokens_total{{{own}}} 30.0\n" in text
    assert f'tppo_held{{queue="a",{own}}} 1.0\n' in text


def test_open_metrics_are_served_on_request() -> None:
    with scraped(an_exporter(num_tokens=30)) as address:
        _, content_type, text = get(address, Accept="application/openmetrics-text; version=1.0.0")

    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


def test_before_the_first_heartbeat_only_the_process_itself_is_exported() -> None:
    with scraped(Exporter(METRICS, run="quick", service="generation-0")) as address:
        status, _, text = get(address)

    assert status == 200
    assert "tppo_" not in text


def test_heartbeat_ages_distinguish_a_stopped_loop_from_an_unavailable_redis() -> None:
    exporter = an_exporter()
    with scraped(exporter) as address:
        _, _, before = get(address)
        exporter.note_heartbeat()
        _, _, after = get(address)

    assert samples(before, "tppo_heartbeat_age_seconds") == {}
    assert 0 <= samples(before, "tppo_status_age_seconds")[""] < 60
    assert 0 <= samples(after, "tppo_heartbeat_age_seconds")[""] < 60


@pytest.mark.parametrize("value", [None, "many", [], {}, float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_not_exported(value: Any) -> None:
    with scraped(an_exporter(engine=value, num_tokens=value, queues={"a": value, "b": {"held": 2}})) as address:
        status, _, text = get(address)

    assert status == 200
    assert samples(text, "tppo_slots") == samples(text, "tppo_tokens_total") == {}
    assert samples(text, "tppo_held") == {"b": 2}


def test_labels_are_escaped_bounded_in_number_and_made_whole() -> None:
    queues = {'a"\n\\\ud83d': {"held": 1}} | {f"queue {n}": {"held": n} for n in range(2 * MAX_SERIES)}
    with scraped(an_exporter(queues=queues)) as address:
        _, _, text = get(address)

    held = samples(text, "tppo_held")
    assert len(held) == MAX_SERIES
    assert held['a"\n\\?'] == 1


def test_the_heartbeat_has_the_address_of_the_metrics() -> None:
    exporter = Exporter(METRICS, run="quick", service="generation-0")
    with scraped(exporter, advertise_host="gpu-1") as address:
        assert exporter.take({"num_tokens": 1}) == {"num_tokens": 1, "metrics_address": address}

    assert address.startswith("gpu-1:")


def test_nothing_listens_when_it_is_switched_off() -> None:
    with scraped(an_exporter(), enabled=False) as address:
        assert address == ""


def test_health_needs_no_token_and_metrics_need_it() -> None:
    with scraped(an_exporter(), token="secret") as address:
        answers = [
            get(address, "/healthz"),
            get(address),
            get(address, Authorization="Bearer wrong"),
            get(address, Authorization="Bearer secret"),
        ]

    assert [status for status, _, _ in answers] == [200, 401, 401, 200]
    assert answers[0][2] == "ok\n"
    assert "TPPO_METRICS_TOKEN" in answers[1][2]


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:9", 200), ("localhost", 200), ("[::1]:9", 200), ("evil.example", 421), ("[", 421), ("", 421)],
)
def test_without_a_token_only_those_who_name_the_loopback_are_answered(host: str, status: int) -> None:
    with scraped(an_exporter()) as address:
        assert get(address, Host=host)[0] == status


def test_other_paths_and_methods_are_refused() -> None:
    with scraped(an_exporter(num_tokens=1)) as address:
        assert [get(address, path)[0] for path in ("/", "/metrics/", "/metrics?x=1")] == [404, 404, 200]
        assert [get(address, method=method)[0] for method in ("POST", "HEAD")] == [405, 405]


def test_silent_connections_delay_no_request_and_are_limited() -> None:
    with scraped(an_exporter()) as address:
        host, _, port = address.rpartition(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(MAX_REQUESTS - 1)]
        assert get(address, "/healthz")[0] == 200
        one_more = [socket.create_connection((host, int(port))) for _ in range(2)]
        hung_up, _, _ = select.select(one_more, [], [], DEADLINE_SECONDS)
        assert all(one.recv(1) == b"" for one in hung_up)
        for one in (*silent, *one_more):
            one.close()

    assert len(hung_up) >= 1


def test_it_stops_with_the_process_it_belongs_to() -> None:
    with scraped(an_exporter()) as address:
        pass

    assert "metrics" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ConnectionRefusedError):
        get(address)


def test_a_port_in_use_is_refused_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^prometheus\.port = {port}: cannot listen on 127\.0\.0\.1: "):
            scraped(an_exporter(), port=port).__enter__()


def test_beyond_the_loopback_a_token_is_demanded() -> None:
    with pytest.raises(ConfigError, match=r"^prometheus\.host = '0\.0\.0\.0' is reachable .* TPPO_METRICS_TOKEN$"):
        scraped(an_exporter(), host="0.0.0.0").__enter__()
    with scraped(an_exporter(), host="0.0.0.0", token="secret") as address:
        assert address.startswith(socket.gethostname())
