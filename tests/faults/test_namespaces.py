"""A run on four machines, played by network namespaces: its cables are cut, slow and one-way, and machines die."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.spread_run import GENERATORS, MACHINES, SpreadRun
from tests.support.network import Machine, NoNamespacesError, machines
from tests.support.processes import tppo
from tests.support.waiting import wait_until

CUT_SECONDS = 30.0
ONE_WAY_SECONDS = 8.0  # longer than a lease, and than any time-out of a connection to Redis


CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 80), timeout=1)"
LISTEN = "import socket, time; server = socket.create_server(('0.0.0.0', 80)); time.sleep(600)"


@pytest.fixture
def network() -> Iterator[dict[str, Machine]]:
    with ExitStack() as stack:
        try:
            made = stack.enter_context(machines(*MACHINES))
        except NoNamespacesError as error:
            pytest.skip(f"no network namespaces can be made here: {error}")
        yield made


def test_a_cable_lets_pass_what_it_should(network: dict[str, Machine], tmp_path: Path) -> None:
    here, there = network["learner"], network["redis"]
    there.start([sys.executable, "-c", LISTEN], log=tmp_path / "log", environment=os.environ)

    def connects() -> bool:
        try:
            here.output_of([sys.executable, "-c", CONNECT, there.address])
        except subprocess.CalledProcessError:
            return False
        return True

    wait_until(connects, "a connection")
    faults = [here.unplugged(), there.unplugged(), here.unheard_by(there), there.unheard_by(here)]
    for fault in faults:
        with fault:
            assert not connects()
        wait_until(connects, "a connection after the fault")
    with network["generators"].unplugged(), here.slow("1mbit"):
        assert connects()
    there.kill()
    assert not connects()


def test_a_run_on_four_machines_survives_cut_slow_and_one_way_links_and_the_end_of_machines(
    network: dict[str, Machine], tmp_path: Path
) -> None:
    run = SpreadRun(tmp_path, network)
    run.wait_for_step(2)
    run.wait_for(
        lambda: services_by_host(run),
        "each process at its own address",
        is_met=lambda seen: (
            seen
            == {
                network["generators"].address: set(GENERATORS),
                network["learner"].address: {"learner"},
                network["reward"].address: {"reward"},
            }
        ),
    )

    with network["learner"].slow("2mbit"):
        run.wait_for_step(run.num_steps_done + 2)

    with network["learner"].unplugged():
        network["generators"].kill()
        run.start_services(*GENERATORS)
        time.sleep(CUT_SECONDS)
    run.wait_for_step(run.num_steps_done + 2)

    with network["generators"].unheard_by(network["redis"]), network["redis"].unheard_by(network["reward"]):
        time.sleep(ONE_WAY_SECONDS)
    run.wait_for_step(run.num_steps_done + 2)

    network["learner"].kill()
    run.end_after(3)

    steps = run.lines("step")
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    assert (steps[-1]["ledger/issued"], steps[-1]["ledger/trained"]) == (len(steps) * 8, len(steps) * 8)
    assert run.incarnation() == 2
    audit = tppo("audit", run.folder)
    assert audit.returncode == 0, audit.stdout + audit.stderr


def services_by_host(run: SpreadRun) -> dict[str, set[str]]:
    """Those that answer scrapes at the addresses that they announce."""
    found: dict[str, set[str]] = {}
    for address, metrics in run.scrapes().items():
        names = re.findall(r'service="([^"]+)"', metrics)
        found.setdefault(address.rpartition(":")[0], set()).update(names)
    return found
