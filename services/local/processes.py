"""The processes of a run: their command lines, who ends the run, and the order in which they are stopped."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from socket import socket

from services.local.hardware.devices import device_environment
from services.local.redis_server import RedisServer
from services.local.supervision.child import Child
from tppo.config import Config
from tppo.process.interpreter import environment_of_python, tppo_command
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.paths import RunPaths
from tppo.security.authentication import TOKEN_VARIABLE, Service
from tppo.security.envelope import Writer
from tppo.security.environment import both_names
from tppo.security.record_keys import RECORD_SECRET_VARIABLE
from tppo.security.redis_address import (
    JOIN_REDIS_PASSWORD_VARIABLE,
    JOIN_REDIS_URL_VARIABLE,
    REDIS_PASSWORD_VARIABLE,
    REDIS_URL_VARIABLE,
)
from tppo.security.redis_users import RedisUser
from tppo.security.tls import web_scheme

LEARNER_RANK, SERVICE_RANK, REDIS_RANK = range(3)
"""The learner is stopped first and commits a checkpoint while all it needs still runs; Redis is stopped last."""
Secrets = Mapping[Service | Writer, str]
"""The tokens of services, and the keys by which roles seal records."""
SECRETS_OF_ROLES: dict[str, tuple[Service | Writer, ...]] = {
    "generation": (Service.GENERATION, Service.ENDPOINT, Writer.GENERATION),
    "reward": (Service.REWARD, Writer.REWARD),
    "learner": (Service.GENERATION,),  # it sends weights to the generators; it finds all keys in the run's folder
    "dashboard": (Service.DASHBOARD, Writer.OPERATOR, Service.GENERATION, Writer.GENERATION),  # generators may join
}
SECRETS = {
    name
    for variable in (
        *(TOKEN_VARIABLE, RECORD_SECRET_VARIABLE),
        *(REDIS_URL_VARIABLE, REDIS_PASSWORD_VARIABLE, JOIN_REDIS_URL_VARIABLE, JOIN_REDIS_PASSWORD_VARIABLE),
        *(one.variable for one in (*Service, *Writer)),
    )
    for name in both_names(variable)
}
CLOSING_SECONDS = 10.0
"""Time for a service to deliver what is done, and to withdraw."""
LEARNER_GRACE_SECONDS = 60.0
"""Time for the step that is being computed, and a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is decided before the first process starts."""

    config: Config
    paths: RunPaths
    resume: bool
    retries_parked: bool = False
    """Whether the parked rollouts of a resumed run are requested again."""
    parked_cause: str = ""
    """Only those that are parked for it; empty: all."""
    redis_url: str = field(repr=False)
    """With the right to do everything, where the server is the embedded one."""
    server: RedisServer | None
    """The embedded server; None when the user named one."""
    redis_urls: Mapping[RedisUser, str] = field(default_factory=dict, repr=False)
    """The embedded server's addresses for the roles; empty: all have the one that the user named."""
    dashboard_socket: socket | None = field(default=None, repr=False)
    """Listens where the dashboard is, whichever process serves it; None where nothing is started."""

    @property
    def dashboard_address(self) -> str:
        """Where the status page is; empty where nothing listens."""
        if self.dashboard_socket is None:
            return ""
        return f"{web_scheme()}://{self.config.dashboard.host}:{self.dashboard_socket.getsockname()[1]}"


def redis_child(server: RedisServer, output: Path | None = None) -> Child:
    """The embedded server as a process to keep alive; `output`: its log, by which damage to its files is known."""

    def command(num_starts: int) -> list[str]:
        if num_starts and output is not None:
            server.set_damaged_files_aside(output)
        return server.command()

    return Child(name="redis", command=command, stop_rank=REDIS_RANK)


def service_children(plan: Plan, secrets: Secrets) -> list[Child]:
    """All processes that need Redis, in the order of starting; each gets the secrets of its own role and no other."""
    children = []
    for child in _children(plan):
        role = child.name.partition("-")[0]
        other_python = environment_of_python(plan.config.generation.python) if role == "generation" else {}
        devices = device_environment(plan.config, child.name, os.environ)
        environment = {**role_environment(role, plan, secrets), **other_python, **devices}
        children.append(replace(child, environment=environment))
    return children


def role_environment(role: str, plan: Plan, secrets: Secrets) -> dict[str, str]:
    """The secrets of a process."""
    urls = {user: plan.redis_urls.get(user, plan.redis_url) for user in RedisUser}
    given = {REDIS_URL_VARIABLE: urls[RedisUser(role)], **_secrets_of_role(role, secrets)}
    return {**given, JOIN_REDIS_URL_VARIABLE: urls[RedisUser.GENERATION]} if role == RedisUser.DASHBOARD else given


def _secrets_of_role(role: str, secrets: Secrets) -> dict[str, str]:
    given = {one.variable: secrets.get(one, "") for one in SECRETS_OF_ROLES[role]}
    return {variable: secret for variable, secret in given.items() if secret}


def _children(plan: Plan) -> list[Child]:
    generation, reward = plan.config.generation, plan.config.reward
    endpoint = plan.config.endpoint.port if plan.config.endpoint.enabled else 0
    ports = {"generation": generation.port, "endpoint": endpoint}
    generators = _replicas(plan, "generation", generation.replicas, first_ports=ports)
    ports = {"reward": reward.port}
    rewarders = _replicas(plan, "reward", reward.replicas, first_ports=ports, num_before=generation.replicas)
    learner = _learner(plan, num_before=len(generators) + len(rewarders))
    return [*generators, *rewarders, learner, _dashboard(plan, str(plan.paths.config))]


def browsing_child(plan: Plan, secrets: Secrets) -> Child:
    """The dashboard of the run's folder, once the run has ended; it needs no Redis."""
    child = _dashboard(plan, str(plan.paths.folder), "--host", plan.config.dashboard.host)
    return replace(child, environment=_secrets_of_role("dashboard", secrets))


def _dashboard(plan: Plan, shown: str, *options: str) -> Child:
    inherited = [] if plan.dashboard_socket is None else [plan.dashboard_socket.fileno()]
    command = tppo_command("dashboard", shown, "--name", "dashboard", *options)
    return Child(
        name="dashboard",
        command=_fixed([*command, *(part for number in inherited for part in ("--fd", str(number)))]),
        inherited=inherited,
        stop_rank=SERVICE_RANK,
        is_needed=False,  # a run trains without its dashboard
    )


def child_environment(environment: Mapping[str, str], *, num_processes: int) -> dict[str, str]:
    """The user's, without secrets, and with the cores shared out among the computing processes unless the user did."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    defaults = {
        "OMP_NUM_THREADS": str(max(1, num_cores // num_processes)),
        "PYTHONUNBUFFERED": "1",  # a process's last words reach its log
    }
    return {**defaults, **{name: value for name, value in environment.items() if name not in SECRETS}}


def num_computing_processes(config: Config) -> int:
    """Those that keep a core busy: the generators and the learner's ranks."""
    return config.generation.replicas + config.learner.num_processes + config.critic.num_processes


def _replicas(
    plan: Plan, verb: str, num_replicas: int, *, first_ports: Mapping[str, int], num_before: int = 0
) -> list[Child]:
    """They listen side by side where the first one's ports are given; `num_before` serve metrics at lower ports."""
    commands = [
        _command(
            plan,
            verb,
            f"{verb}-{replica}",
            *(f"--set={section}.port={port + replica}" for section, port in first_ports.items() if port),
            _metrics_port(plan, num_before + replica),
        )
        for replica in range(num_replicas)
    ]
    grace_seconds = CLOSING_SECONDS + (plan.config.generation.hand_over_seconds if verb == "generation" else 0.0)
    return [
        Child(
            name=f"{verb}-{replica}",
            command=_fixed(command),
            stop_rank=SERVICE_RANK,
            group=verb,
            grace_seconds=grace_seconds,
        )
        for replica, command in enumerate(commands)
    ]


def _metrics_port(plan: Plan, num_before: int) -> str:
    """The option for a process that so many others with metrics come before; none where any port will do."""
    first_port = plan.config.prometheus.port
    return f"--set=prometheus.port={first_port + num_before}" if first_port else ""


def _learner(plan: Plan, *, num_before: int) -> Child:
    """Done when its last step is committed; one that exited before resumes from the newest checkpoint."""
    checkpoints = CheckpointFolder(plan.paths.checkpoints)
    fresh = _command(plan, "learner", "learner", _metrics_port(plan, num_before))

    def command(num_starts: int) -> Sequence[str]:
        resume = plan.resume or (num_starts > 0 and checkpoints.newest() is not None)
        return [*fresh, "--resume"] if resume else fresh

    return Child(
        name="learner",
        command=command,
        is_done=lambda: (
            (checkpoints.newest_step() or 0) >= plan.config.run.total_training_steps or plan.paths.is_stopped()
        ),
        stop_rank=LEARNER_RANK,
        grace_seconds=LEARNER_GRACE_SECONDS,
    )


def _command(plan: Plan, verb: str, name: str, *options: str) -> list[str]:
    python = plan.config.generation.python if verb == "generation" else None
    process = tppo_command(verb, str(plan.paths.config), python=python)
    return [*process, "--name", name, *filter(None, options)]


def _fixed(command: Sequence[str]) -> Callable[[int], Sequence[str]]:
    return lambda _: command
