"""The quick start on four machines: generators, learner, reward service, and Redis with the dashboard."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from services.local.redis_server import find_binary
from tests.support.network import Machine
from tests.support.processes import QUICKSTART, REPOSITORY, TPPO
from tests.support.quickstart_run import NEVER_ENDS, SMALL, Run
from tests.support.waiting import DEADLINE_SECONDS
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.paths import RunPaths
from tppo.security.authentication import Service, derived_token

MACHINES = ("generators", "learner", "reward", "redis")
GENERATORS = ("generation-0", "generation-1")
SECRET, PASSWORD, METRICS_TOKEN = "of-the-operator", "of-redis", "of-metrics"
DASHBOARD_PORT = 8265
SETTINGS = {
    **SMALL,
    **NEVER_ENDS,  # `end_after` chooses another number, so
    "actor.lr_decay": "constant",  # no rate may depend on it
    "critic.lr_decay": "constant",
    "trace.enabled": "true",
    "evaluation.test_freq": "0",
    "critic.warmup_steps": "1",
    "redis.max_deliveries": "50",  # whoever is cut off here is innocent
    "generation.share_weight_memory": "false",  # as between machines
    "generation.num_slots": "4",
    "prometheus.host": "0.0.0.0",
}
SCRAPE = """
import json, sys, urllib.request as web
def get(url):
    return web.urlopen(web.Request(url, headers={"Authorization": f"Bearer {sys.argv[2]}"}), timeout=30).read().decode()
targets = [target for group in json.loads(get(sys.argv[1])) for target in group["targets"]]
print(json.dumps({target: get(f"http://{target}/metrics") for target in targets}))
"""


class SpreadRun(Run):
    """Each process on its machine, where the test plays whoever starts it.

    Learner and dashboard share a disk. Generators have of the run the address of its dashboard and a token.
    """

    def __init__(self, folder: Path, machines: Mapping[str, Machine]) -> None:
        self.machines = machines
        self._services: dict[str, subprocess.Popen[str]] = {}
        self._logs = folder / "runs" / "quickstart" / "logs"
        self._logs.mkdir(parents=True)
        settings = {**SETTINGS, "run.directory": str(folder / "runs")}
        self._configuration = [str(QUICKSTART), *(f"--set={key}={value}" for key, value in settings.items())]
        self._start_redis(folder / "redis")
        self.start_services("dashboard", "reward")
        super().__init__(folder)
        self.wait_for(self.scrapes, "the dashboard's answer")
        self.start_services(*GENERATORS)

    def start_services(self, *names: str) -> None:
        """Each on its machine."""
        options = {
            "dashboard": ["--set=dashboard.host=0.0.0.0", f"--set=dashboard.port={DASHBOARD_PORT}"],
            "reward": [f"--set=prometheus.advertise_host={self.machines['reward'].address}"],
        }
        for name in names:
            if name in GENERATORS:
                self._services[name] = self._start("generation", name, "--join", self._dashboard_url)
            else:
                self._services[name] = self._start(name, name, *self._configuration, *options[name])

    def newest_step(self) -> int:
        """The newest that was taken or committed: a killed learner loses lines of its metrics."""
        committed = CheckpointFolder(RunPaths(self.folder).checkpoints).complete_steps()
        return max([self.num_steps_done, *committed])

    def end_after(self, num_more_steps: int) -> None:
        """Start the learner again, whose machine was killed, and wait for the end of the run."""
        self.resume(**{"run.total_training_steps": str(self.newest_step() + num_more_steps)})
        assert self.process.wait(DEADLINE_SECONDS) == 0, self.logs()

    def scrapes(self) -> dict[str, str]:
        """What each process answers at the address that it announces, seen from the dashboard's machine; nothing while
        one of them does not answer yet.
        """
        url = f"{self._dashboard_url}/api/v1/scrape-targets"
        try:
            answer = self.machines["redis"].output_of([sys.executable, "-c", SCRAPE, url, METRICS_TOKEN])
        except subprocess.CalledProcessError:
            return {}
        found: dict[str, str] = json.loads(answer)
        return found

    def _started(self, *arguments: str) -> "subprocess.Popen[str]":
        address = self.machines["learner"].address
        own = [f"--set=prometheus.advertise_host={address}", *arguments]
        return self._start("learner", "learner", *self._configuration, *own)

    @property
    def _dashboard_url(self) -> str:
        return f"http://{self.machines['redis'].address}:{DASHBOARD_PORT}"

    def _start(self, verb: str, name: str, *arguments: str) -> "subprocess.Popen[str]":
        machine, command = machine_of(name), [*TPPO, verb, *arguments, "--name", name]
        log = self._logs / f"{name}.log"
        return self.machines[machine].start(command, log=log, environment=self._environment(machine))

    def _environment(self, machine: str) -> dict[str, str]:
        """The secrets that a machine needs, and no other."""
        common = os.environ | {"PYTHONPATH": str(REPOSITORY), "TPPO_METRICS_TOKEN": METRICS_TOKEN}
        if machine == "generators":
            return common | {Service.GENERATION.variable: derived_token(SECRET, Service.GENERATION)}
        url = f"redis://{self.machines['redis'].address}:6379/0"
        return common | {"TPPO_TOKEN": SECRET, "TPPO_REDIS_URL": url, "TPPO_REDIS_PASSWORD": PASSWORD}

    def _start_redis(self, folder: Path) -> None:
        """By the configuration that containers have, too."""
        folder.mkdir()
        settings = (REPOSITORY / "deploy" / "redis.conf").read_text().replace("dir /data", f"dir {folder}")
        (folder / "redis.conf").write_text(f"{settings}\nrequirepass {PASSWORD}\n")
        command = [str(find_binary()), str(folder / "redis.conf")]
        log, environment = self._logs / "redis.log", dict(os.environ)
        self._services["redis"] = self.machines["redis"].start(command, log=log, environment=environment)


def machine_of(name: str) -> str:
    """Where a process runs."""
    places = {"dashboard": "redis", **dict.fromkeys(GENERATORS, "generators")}
    return places.get(name, name)
