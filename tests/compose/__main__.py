"""The containers for real: `make test-compose`, on a machine with an engine (DOCKER_HOST) and docker-compose.

    python -m tests.compose --wheels wheels [--enter-network /run/netns/NAME] [--steps 120]

Builds the images, from a wheelhouse where one is named; trains the quick start with the compose file, kills the process
of each container in turn, restarts Redis, scales, takes all down in mid-run and up again; waits for the end, and
examines what is in the volume with `tppo audit`. Then another run, whose responses the examples of users' own reward
processes score, first the one in Python, then the one in Node.js. The task's folder, its TOML, the models and the data
are a user's own, each mounted from another place. Prints times and sizes. Ends with the first thing that is not as it
should be.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.compose.stack import ROOT, VOLUME, Engine, Stack, until
from tppo.security.authentication import Service

TARGETS = ("dashboard", "reward", "learner", "generation")
SERVICES = ("redis", "generation", "reward", "learner", "dashboard")
CLIENTS = ROOT / "examples" / "custom_reward"
OPERATOR = 4321
"""The user whose secrets they are."""
SCORED_STEPS = 20
INTRUDER = Path(__file__).with_name("intruder.py")
SEALED = "expected one that its writer's role has sealed"
FORGED_BY = {
    "generation": [
        "a command STOP_AFTER_STEP that generation has sealed; expected operator",
        f"a record that no key of the role operator has sealed; {SEALED}",
        "a score that generation has sealed; expected reward",
        f"a record that no key of the role reward has sealed; {SEALED}",
    ],
    "reward": [
        "a command STOP_AFTER_STEP that reward has sealed; expected operator",
        f"a record that no key of the role operator has sealed; {SEALED}",
        f"a record that no key of the role generation has sealed; {SEALED}",
    ],
}
"""What becomes of what `intruder.py` writes, in the words of the dead letters."""
MAX_CLOSING_STEPS = 5  # that a learner takes after SIGTERM, and before it was seen
CLIENTS_OF = {
    "Python": [sys.executable, str(CLIENTS / "python/mine.py")],
    "Node.js": ["node", str(CLIENTS / "node/mine.js")],
}


def timed(what: str, action: Callable[[], object]) -> None:
    """Do it, and print what it took."""
    started = time.monotonic()
    action()
    print(f"{what}: {time.monotonic() - started:.0f} s", flush=True)


def build(engine: Engine, wheels: Path | None) -> None:
    """The images, and their sizes; the wheelhouse is where the Dockerfile looks for one."""
    beside = ROOT / "wheels"
    if wheels is not None and wheels.resolve() != beside.resolve():
        shutil.copytree(wheels, beside)
    for target in TARGETS:
        timed(f"build of tppo-{target}", lambda target=target: _build(engine, target))  # type: ignore[misc]
    for target in TARGETS:
        size = int(engine.docker("image", "inspect", "--format", "{{.Size}}", f"tppo-{target}"))
        print(f"size of tppo-{target}: {size / 2**20:.0f} MiB", flush=True)


def _build(engine: Engine, target: str) -> None:
    said = engine.compose("build", target)
    if not engine.docker("images", "--quiet", f"tppo-{target}").strip():  # some releases end with code 0
        raise SystemExit(f"tppo-{target} was not built: {said[-3000:]}")


@contextmanager
def stack(wanted: argparse.Namespace) -> Iterator[Stack]:
    """Nothing of it is left behind."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        secrets = folder / "secrets"
        secrets.mkdir(0o700)
        write_task(folder, wanted.steps)
        folder.chmod(0o755)
        environment = os.environ | {
            "COMPOSE_PROFILES": "cpu",
            "TPPO_SECRETS": str(secrets),
            "TPPO_TASK": str(folder / "task"),
            "TPPO_MODELS": str(folder / "models"),
            "TPPO_DATA": str(folder / "data"),
            "TPPO_CONFIG": "mine.toml",
        }
        engine = Engine(environment, wanted.enter_network)
        if not wanted.built:
            build(engine, wanted.wheels)
        make_secrets(engine, secrets)
        try:
            yield Stack(engine, secrets)
        except BaseException:
            log = Path(tempfile.gettempdir()) / "tppo-compose.log"
            log.write_text(engine.compose("logs", "--no-color"))
            print(f"the containers' logs are in {log}", file=sys.stderr)
            raise
        finally:
            engine.compose("down", "--volumes", "--timeout", "30")


def make_secrets(engine: Engine, folder: Path) -> None:
    """As the head of docker-compose.yml says, by a user who is neither root nor the images' own."""
    os.chown(folder, OPERATOR, OPERATOR)
    user = f"{OPERATOR}:{OPERATOR}"
    made = engine.compose("run", "--rm", "--no-TTY", "--user", user, "secrets").split()
    found = {f"{path.stat().st_uid}:{path.stat().st_gid}" for path in folder.iterdir()}
    if found != {user} or {Path(path).name for path in made} != set(os.listdir(folder)):
        raise SystemExit(f"{folder} holds {sorted(os.listdir(folder))} of {found}; expected files of {user}")
    print(f"secrets, made in a container for user {user}: {' '.join(sorted(os.listdir(folder)))}", flush=True)


def write_task(folder: Path, steps: int) -> None:
    """Two runs of a user's own: mine.toml, and scored.toml, whose reward function is in a process of the user's."""
    example = ROOT / "examples" / "iterated_map"
    shutil.copytree(example / "base", folder / "models")
    shutil.copytree(example / "data", folder / "data")
    (folder / "task").mkdir()
    text = (example / "quickstart.toml").read_text().replace('"base/', '"/models/').replace('"data/', '"/data/')
    mine = text.replace("total_training_steps = 120", f"total_training_steps = {steps}")
    scored = text.replace("total_training_steps = 120", f"total_training_steps = {SCORED_STEPS}")
    scored = scored.replace('name = "quickstart"', 'name = "scored"').replace('"exact"', '"grpc:mine"')
    (folder / "task" / "mine.toml").write_text(mine)
    (folder / "task" / "scored.toml").write_text(scored)


@contextmanager
def client(one: Stack, language: str) -> Iterator[None]:
    """The example in that language, attached to the reward service."""
    (container, *_) = one.containers("reward")
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    address = one.engine.docker("inspect", "--format", form, container).strip()
    command = one.engine.inside(*CLIENTS_OF[language], f"{address}:8266")
    process = subprocess.Popen(command, env=os.environ | {Service.REWARD.variable: one.secret("reward_token")})
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def score_by_clients(one: Stack) -> None:
    """The second run to its end: its first steps are scored by the example in Python, the rest by that in Node.js."""
    one.engine.environment["TPPO_CONFIG"] = "scored.toml"
    one.engine.compose("up", "--detach", "--no-build")
    until(lambda: one.is_healthy("reward"), "a healthy reward service of the second run")
    with client(one, "Python"):
        until(lambda: SCORED_STEPS // 4 <= one.step() <= SCORED_STEPS, "steps that are scored in Python")
    before = one.step()
    with client(one, "Node.js"):
        until(lambda: not one.containers("summary"), "the end of the second run")
    summary = json.loads(one.in_volume("cat", "/runs/scored/summary.json"))
    if summary["ending"] != "finished" or summary["steps"] != SCORED_STEPS or before == SCORED_STEPS:
        raise SystemExit(f"{before} steps were scored in Python, then: {summary}; expected {SCORED_STEPS} in all")
    print(f"scored by users' processes: {before} steps in Python, {SCORED_STEPS - before} in Node.js", flush=True)


def require_token(one: Stack) -> None:
    """The page answers nobody who does not bring it."""
    try:
        one.engine.get("/api/v1/status", "wrong")
    except subprocess.CalledProcessError:
        print("without the token the page refuses")
        return
    raise SystemExit("the page answered without the token")


def take_over(one: Stack, service: str, expected: Sequence[str]) -> None:
    """Whoever has this container can neither stop the run nor write what is another role's: dead letters, refusals."""
    (container, *_) = one.containers(service)
    said = one.engine.python(container, INTRUDER, "quickstart", service).splitlines()
    attempts = {line["attempt"]: line["outcome"] for line in map(json.loads, said)}
    for attempt, outcome in attempts.items():
        print(f"from {service}: {attempt}: {outcome}", flush=True)
    if done := [attempt for attempt, outcome in attempts.items() if outcome == "done"]:
        raise SystemExit(f"from {service}: {', '.join(done)}; expected refusals")
    if attempts["files of runs"] != "none":
        raise SystemExit(f"{service} sees {attempts['files of runs']} in /runs; expected nothing")
    until(lambda: set(expected) <= set(causes(one)), f"dead letters {expected}", deadline_seconds=60)
    before = one.step()
    until(lambda: one.step() > before + 1, f"steps after {service} was taken over")
    for cause in expected:
        print(f"dead letter: {cause}", flush=True)


def causes(one: Stack) -> list[str]:
    """Of the newest dead letters."""
    return [letter["cause"] for letter in one.get("/api/v1/ledger")["dead_letters"]["newest"]]


def replace_token(one: Stack) -> None:
    """In its file, as its owner does it: the page takes the new one without a restart."""
    former, new = one.secret("dashboard_token"), "of-the-operator-from-now-on"
    (one.secrets / "dashboard_token").write_text(new)
    seconds = until(lambda: one.step() >= 0, "the page to take the new token", deadline_seconds=60)
    one.engine.get("/api/v1/status", former)  # in its time of grace
    print(f"a new token in secrets/dashboard_token: taken after {seconds:.0f} s, without a restart", flush=True)


def disturb(one: Stack, steps: int) -> None:
    """Each container's process killed, one after the other; each time training goes on by itself."""
    for service in SERVICES:
        before = one.step()
        if before >= steps - 10:
            raise SystemExit(f"only {steps} steps, and {service} was not killed yet; expected more --steps")
        one.kill(service)
        seconds = until(lambda before=before: one.step() > before + 1, f"a step after {service} was killed")  # type: ignore[misc]
        print(f"{service} killed at step {before}: two steps further after {seconds:.0f} s", flush=True)
        until(lambda service=service: one.is_healthy(service), f"{service} to be healthy")  # type: ignore[misc]


def examine(one: Stack, steps: int) -> None:
    """What the volume holds."""
    summary = json.loads(one.in_volume("cat", "/runs/quickstart/summary.json"))
    print(f"summary: {summary['ending']}, {summary['steps']} steps, exact {summary['final_accuracy_exact']}")
    if summary["ending"] != "finished" or summary["steps"] != steps or summary["final_accuracy_exact"] < 0.9:
        raise SystemExit(f"summary.json: {summary}; expected {steps} steps to an accuracy above 0.9")
    one.in_volume("test", "-s", "/runs/quickstart/learning_curve.png")
    if not one.get("/api/v1/responses")["items"]:
        raise SystemExit("the page shows no kept response; expected those of the evaluations")
    with tempfile.TemporaryDirectory() as name:
        volume = Path(one.engine.docker("volume", "inspect", "--format", "{{.Mountpoint}}", VOLUME).strip())
        shutil.copytree(volume / "quickstart", Path(name) / "quickstart")
        subprocess.run([sys.executable, "-m", "tppo", "audit", str(Path(name) / "quickstart")], check=True, cwd=ROOT)


def train(one: Stack, steps: int) -> None:
    """From the first `up` to the end of the run."""
    compose = one.engine.compose
    compose("up", "--detach", "--no-build")
    print(f"first step {until(lambda: one.step() >= 1, 'the first step'):.0f} s after up", flush=True)
    require_token(one)
    replace_token(one)
    for service, expected in FORGED_BY.items():
        take_over(one, service, expected)
    disturb(one, steps)
    timed(
        "scaled to 3 generators and 2 reward services",
        lambda: compose(
            *("up", "--detach", "--no-build", "--no-recreate", "--scale", "generation=3", "--scale", "reward=2")
        ),
    )
    until(lambda: len(one.containers("generation")) == 3 and one.is_healthy("generation"), "three healthy generators")
    before = one.step()
    timed("down in mid-run", lambda: compose("down", "--timeout", "90"))
    compose("up", "--detach", "--no-build")
    seconds = until(lambda: one.step() > before + MAX_CLOSING_STEPS, "steps after the resume")
    print(f"down at step {before} and up again: further steps after {seconds:.0f} s", flush=True)
    until(lambda: not one.containers("summary"), "the end of the run", deadline_seconds=10.0 * steps)
    examine(one, steps)
    if one.step() < 0:
        raise SystemExit("the page does not answer after the end; expected it to stay up")
    print("the page stays up after the end")
    score_by_clients(one)


def main(argv: Sequence[str]) -> int:
    """Exit code 0: everything was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="a folder with all dependencies, for builds without an index")
    parser.add_argument("--built", action="store_true", help="take the images that are there")
    parser.add_argument("--enter-network", default="", metavar="FILE", help="namespace of the engine's published ports")
    parser.add_argument("--steps", type=int, default=300, help="training steps of the quick start")
    wanted = parser.parse_args(argv)
    try:
        with stack(wanted) as one:
            train(one, wanted.steps)
    except subprocess.CalledProcessError as error:
        print(f"{' '.join(error.cmd)} exited with code {error.returncode}: {error.stderr[-3000:]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
