"""Who gets a port: the first free one where none is configured, the configured one or nobody."""

import socket

import pytest

from tppo.config import ConfigError
from tppo.process.listening import first_free, listener

HOST, KEY = "127.0.0.1", "dashboard.port"


def port_of(opened: socket.socket) -> int:
    return int(opened.getsockname()[1])


def test_a_port_that_is_listened_on_is_refused_by_its_key() -> None:
    with (
        listener(HOST, 0, key=KEY) as taken,
        pytest.raises(
            ConfigError, match=rf"^{KEY} = {port_of(taken)}: cannot listen on {HOST}: Address already in use"
        ),
    ):
        listener(HOST, port_of(taken), key=KEY)


def test_the_first_port_that_is_not_taken_is_listened_on() -> None:
    with listener(HOST, 0, key=KEY) as taken, listener(HOST, 0, key=KEY) as free:
        ports = [port_of(taken), port_of(free)]
        free.close()

        with first_free(HOST, ports, key=KEY) as opened:
            assert port_of(opened) == ports[1]


def test_when_all_ports_are_taken_the_sentence_says_which() -> None:
    with listener(HOST, 0, key=KEY) as taken:
        port = port_of(taken)

        with pytest.raises(ConfigError, match=rf"^{KEY}: the ports {port} to {port} of {HOST} are taken; expected"):
            first_free(HOST, [port], key=KEY)


def test_an_address_that_is_not_this_machines_is_refused_at_the_first_port() -> None:
    with pytest.raises(
        ConfigError, match=r"^cannot listen on 192\.0\.2\.1, port 8265: Cannot assign requested address"
    ):
        first_free("192.0.2.1", [8265, 8266], key=KEY)
