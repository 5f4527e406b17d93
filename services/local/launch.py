"""The steps of `tppo run` behind its command line: check, plan, train, report how it ended."""

import asyncio
import fcntl
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socket import socket

from rich.console import Console

from services.local import preflight
from services.local.console.display import closing_table, display_for
from services.local.hardware.devices import VISIBLE_VARIABLE
from services.local.metrics import MetricLine
from services.local.processes import Plan, browsing_child, child_environment, redis_child, service_children
from services.local.redis_server import RedisServer, find_binary, free_port
from services.local.results import Summary
from services.local.session import Session, interrupts_end
from services.local.supervision.child import Ending
from services.local.supervision.supervisor import Supervisor
from tppo.config import Config, ConfigError, dump, presets, recipes
from tppo.config.sections.devices import Gpus
from tppo.config.sections.services import DASHBOARD_PORTS
from tppo.process.interpreter import require_python
from tppo.process.listening import first_free, listener
from tppo.process.shell import configure_logging
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.durable import write_atomically
from tppo.run_folder.ending import EndingKind, ending_of
from tppo.run_folder.paths import RunPaths
from tppo.security.authentication import Service, token_from_environment
from tppo.security.envelope import Writer
from tppo.security.private_files import new_secret, private_folder
from tppo.security.record_keys import record_secrets, role_key
from tppo.security.redis_address import given_redis
from tppo.security.redis_users import RedisUser, acl_lines, url_of_user
from tppo.security.service_tokens import client_token, run_token, service_token


def check(config: Config, *, resume: bool, gpus: Gpus | None = None) -> list[str]:
    """Everything that a user can get wrong, quick checks first, those that read all rows last; what is worth a note.

    `gpus`: of the machine that the run is for, where that is another one; its environments are not looked at.
    """
    preflight.check_run_folder(RunPaths(config.run.path), resume=resume)
    preflight.check_model(config.model)
    preflight.check_data_files(config.data.train_files, key="data.train_files")
    preflight.check_data_files(config.data.val_files, key="data.val_files")
    for name, files in config.evaluation.sets.items():
        preflight.check_data_files(files, key=f"evaluation.sets.{name}")
    if gpus is None:
        require_python(config.generation.python, key="generation.python")
        preflight.check_devices(config)
    preflight.check_hosts(config)
    preflight.check_ports(config)
    if given_redis(config):
        preflight.check_redis(config)
    else:
        preflight.check_memory(config)
    with tempfile.TemporaryDirectory(prefix="tppo-") as scratch:
        resolved = Path(scratch) / "config.toml"
        resolved.write_text(dump(config), encoding="utf-8")
        is_other = config.generation.engine == "vllm" or config.generation.python is not None
        notes = preflight.check_with_processes(
            resolved,
            resume=resume,
            checks_generation=is_other and gpus is None,
            python=config.generation.python,
            gpus=gpus,
        )
    skipped = ["generation.python was not looked at, as --gpus describes another machine"]
    return [*notes, *(skipped if is_other and gpus is not None else [])]


def why_nothing_is_left(config: Config) -> str:
    """What a resume of a finished run says; empty where there is something left to do."""
    paths, total = RunPaths(config.run.path), config.run.total_training_steps
    ending, checkpoints = ending_of(paths), CheckpointFolder(paths.checkpoints)
    if ending is None or ending.kind is not EndingKind.FINISHED or checkpoints.newest_step() != total:
        return ""
    folder = shlex.quote(str(paths.folder))
    return (
        f"{paths.folder} has finished: all of its {total} training steps are done, evaluated and in "
        f"{checkpoints.of_step(total)}; nothing was started. To train further: tppo run {folder}/config.toml --resume "
        f"--set run.total_training_steps=N, with N above {total}; to look at it: tppo dashboard "
        f"{shlex.quote(str(paths.folder.parent))}/"
    )


def plan_of(config: Config, *, resume: bool, retries_parked: bool = False, parked_cause: str = "") -> Plan:
    """What will be started: with an embedded server unless the user named one."""
    paths = RunPaths(config.run.path)
    server, run, passwords = None, config.run.name, {user: new_secret() for user in RedisUser}
    if not given_redis(config):
        server = RedisServer(
            binary=find_binary(),
            port=free_port(),
            folder=paths.redis,
            memory_limit_mb=config.redis.memory_limit_mb,
            password=new_secret(),
            users=tuple(acl_lines(run, passwords)),
        )
    return Plan(
        config=config,
        paths=paths,
        resume=resume,
        retries_parked=retries_parked,
        parked_cause=parked_cause,
        redis_url=server.url if server else given_redis(config),
        server=server,
        redis_urls={user: url_of_user(server.url, run, user, passwords[user]) for user in RedisUser} if server else {},
    )


def description(plan: Plan, notes: Sequence[str] = (), memory: Iterable[str] = ()) -> Iterator[str]:
    """The resolved configuration and the processes, as text that is still TOML."""
    yield dump(plan.config)
    yield from (f"# warning: {warning}" for warning in (*plan.config.warnings, *notes))
    yield from (f"# {plan.config.run.algorithm}: {line}" for line in presets.description(plan.config.run.algorithm))
    recipe = plan.config.algorithm.recipe
    of_recipe = recipes.description(recipe, plan.config.model_dump(mode="json"))
    yield from (f"# recipe {recipe}: {line}" for line in of_recipe)
    for child in [*([redis_child(plan.server)] if plan.server else []), *service_children(plan, {})]:
        devices = child.environment.get(VISIBLE_VARIABLE)
        shown = f"{VISIBLE_VARIABLE}={devices} " if devices else ""
        yield f"# {child.name}: {shown}{shlex.join(child.command(0))}"
    yield from (f"# memory: {line}" for line in memory)


def train(plan: Plan, warnings: Sequence[str], *, started_at: float, keeps_dashboard: bool = True) -> int:
    """Run the plan to its end and return the exit code of `tppo run`; `started_at` is on the monotonic clock.

    On a terminal the dashboard may be kept until Ctrl-C. The folder is free by then: the run may be resumed.
    """
    console = Console(highlight=False, soft_wrap=True)
    with dashboard_socket(plan.config) as listening:
        plan = replace(plan, dashboard_socket=listening)
        with prepared(plan):
            ending, summary = run_to_its_end(plan, warnings, console, started_at=started_at)
            report_ending(plan, ending, summary, console)
        if keeps_dashboard and console.is_terminal and ending.kind in (EndingKind.FINISHED, EndingKind.GAVE_UP):
            console.print(f"the dashboard stays at {plan.dashboard_address} until Ctrl-C")
            report_failure(asyncio.run(_browsed_until_interrupted(plan)))
    return ending.exit_code


@contextmanager
def prepared(plan: Plan) -> Iterator[None]:
    """The run's folder, within which no other run trains, with the configuration in it."""
    with locked(plan.paths):
        prepare(plan.paths, resume=plan.resume)
        write_atomically(plan.paths.config, dump(plan.config).encode())
        yield


def dashboard_socket(config: Config) -> socket:
    """Held by this process, so that no other run takes the port while the dashboard starts or restarts."""
    host, port = config.dashboard.host, config.dashboard.port
    if port is not None:
        return listener(host, port, key="dashboard.port")
    others = {named.number for named in preflight.named_ports(config)}
    return first_free(host, [one for one in DASHBOARD_PORTS if one not in others], key="dashboard.port")


def run_to_its_end(
    plan: Plan,
    warnings: Sequence[str],
    console: Console,
    *,
    started_at: float,
    is_enough: Callable[[MetricLine], bool] = lambda line: False,
) -> tuple[Ending, Summary]:
    """Start every process and watch them; the learner is stopped once a line of its metrics `is_enough`."""
    configure_logging(file=plan.paths.logs / "run.log")
    address = _steering_address(plan, is_shown=console.is_terminal)
    console.print(f"run {plan.paths.folder}, dashboard at {address}{_port_note(plan)}")
    for warning in warnings:
        console.print(f"warning: {warning}", markup=False)
    display = display_for(console, title=f"T-PPO: {plan.config.run.name}")
    session = Session(plan, service_children(plan, secrets_of(plan)), display, is_enough=is_enough)
    return asyncio.run(session.run(started_at=started_at))


async def _browsed_until_interrupted(plan: Plan) -> Ending:
    """The page of the ended run, from its folder, at the address of the run that it was."""
    supervisor = Supervisor(plan.paths.logs, environment=child_environment(os.environ, num_processes=1))
    with interrupts_end(supervisor):
        supervisor.start(browsing_child(plan, secrets_of(plan)))
        try:
            return await supervisor.ending()
        finally:
            await supervisor.stop()


def secrets_of(plan: Plan) -> dict[Service | Writer, str]:
    """What the processes bring to each other, and by what they seal records.

    The dashboard finds its token where the user has set none: looking is open then, and the one in the run's folder
    steers.
    """
    folder = plan.paths.folder
    secrets: dict[Service | Writer, str] = {service: token_from_environment(service) for service in Service}
    for service in (Service.GENERATION, Service.REWARD):
        service_token(folder, service)  # where the environment has none, they find and watch it in the run's folder
    if plan.config.endpoint.enabled:
        client_token(folder, Service.ENDPOINT)
    secret = record_secrets(plan.config.run)[-1]
    secrets |= {role: role_key(secret, role) for role in Writer}
    return secrets


def _steering_address(plan: Plan, *, is_shown: bool) -> str:
    """Where the page is, with the token that lets it steer: on a terminal, never in a file that others may read."""
    if token_from_environment(Service.DASHBOARD):
        return plan.dashboard_address
    token = run_token(plan.paths.folder, Service.DASHBOARD)
    if is_shown:
        return f"{plan.dashboard_address}/#token={token}"
    return f"{plan.dashboard_address} (token: {plan.paths.token(Service.DASHBOARD)})"


def _port_note(plan: Plan) -> str:
    assert plan.dashboard_socket is not None
    first, port = DASHBOARD_PORTS[0], plan.dashboard_socket.getsockname()[1]
    return f" (port {first} is taken)" if plan.config.dashboard.port is None and port != first else ""


def report_ending(plan: Plan, ending: Ending, summary: Summary, console: Console) -> None:
    """Print how the run ended, and how to look at it again."""
    paths = plan.paths
    report_failure(ending)
    if ending.kind is EndingKind.REFUSED:
        return
    look_again = f"tppo dashboard {shlex.quote(str(paths.folder.parent))}/"
    if ending.kind is EndingKind.GAVE_UP:
        console.print(f"look at it: {look_again}", markup=False)
        return
    files = {"curve": paths.learning_curve, "summary": paths.summary, "checkpoints": paths.checkpoints}
    places = {name: str(path) for name, path in files.items() if path.exists()}
    console.print(closing_table(summary, {**places, "look again": look_again}))
    if ending.kind is EndingKind.INTERRUPTED or paths.is_stopped():
        can_resume = CheckpointFolder(paths.checkpoints).newest() is not None
        hint = f"continue with: tppo run {paths.config} --resume" if can_resume else "no checkpoint yet"
        console.print(f"stopped at training step {summary.steps}; {hint}")


def report_failure(ending: Ending) -> None:
    """Print why the run gave up or was refused."""
    if ending.kind in (EndingKind.GAVE_UP, EndingKind.REFUSED):
        Console(file=sys.stderr, highlight=False, soft_wrap=True, markup=False).print(ending.message)


@contextmanager
def locked(paths: RunPaths) -> Iterator[None]:
    """Keep other runs out of the folder; the operating system lets go when this process ends, however it does."""
    try:
        private_folder(paths.folder)
    except OSError as error:
        raise ConfigError(f"{paths.folder}: {error.strerror}; expected another run.directory") from None
    with paths.lock.open("a+", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read(20).strip()
            holder = f"already training in PID {pid if pid.isdecimal() else 'unknown'}"
            raise ConfigError(f"{paths.folder}: {holder}; use another run.name") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def prepare(paths: RunPaths, *, resume: bool) -> None:
    """Make the folders; a run from scratch removes what an attempt that never reached a checkpoint left."""
    if not resume:
        for folder in (paths.logs, paths.redis, paths.checkpoints, paths.inbox, paths.responses):
            shutil.rmtree(folder, ignore_errors=True)
        lines = (paths.metrics, paths.journal, paths.completions)
        for file in (*lines, paths.summary, paths.learning_curve, paths.stopped_mark):
            file.unlink(missing_ok=True)
    for folder in (paths.logs, paths.redis, paths.checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
