"""A run on four machines, played by network namespaces: its cables are cut, slow and one-way, and machines die."""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.spread_run import GENERATORS, MACHINES, SpreadRun
from tests.support.network import NoNamespacesError, machines
from tests.support.processes import tppo

CUT_SECONDS = 30.0
ONE_WAY_SECONDS = 8.0  # longer than a lease, and than any time-out of a connection to Redis


@pytest.fixture
def run(tmp_path: Path) -> Iterator[SpreadRun]:
    with ExitStack() as stack:
        try:
            network = stack.enter_context(machines(*MACHINES))
        except NoNamespacesError as error:
            pytest.skip(f"no network namespaces can be made here: {error}")
        yield SpreadRun(tmp_path, network)


def test_a_run_on_four_machines_survives_cut_slow_and_one_way_links_and_the_end_of_machines(run: SpreadRun) -> None:
    network = run.machines
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
