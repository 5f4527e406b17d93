"""The command lines of a run's processes."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.local.launch import description
from services.local.processes import Plan, child_environment, service_children
from services.local.supervision.child import Child
from tppo.config import Config
from tppo.run_folder.paths import RunPaths
from tppo.security.authentication import Service
from tppo.security.envelope import Writer
from tppo.security.redis_users import RedisUser

TOKENS: dict[Service | Writer, str] = {
    Service.GENERATION: "hidden-of-generation",
    Service.ENDPOINT: "hidden-of-endpoint",
    Service.REWARD: "hidden-of-reward",
    Service.DASHBOARD: "",
    **{role: f"hidden-key-of-{role}" for role in Writer},
}


def plan(folder: Path, *, resume: bool = False, **sections: Any) -> Plan:
    table = {
        "run": {"directory": folder},
        "model": {"path": folder},
        "data": {"train_files": [folder]},
    }
    config = Config.model_validate(table | sections)
    return Plan(
        config=config,
        paths=RunPaths(config.run.path),
        resume=resume,
        redis_url="redis://:hidden@127.0.0.1:7000/0",
        server=None,
    )


def test_a_dry_run_prints_the_warnings_beside_the_configuration(tmp_path: Path) -> None:
    lines = list(description(plan(tmp_path, critic={"warmup_steps": 3})))

    assert [line for line in lines if "warning" in line] == [
        "# warning: critic.warmup_steps = 3: a response of run.max_response_length = 2048 needs 8 steps of 256 tokens, "
        "so the policy trains before the value model has seen one; expected 8 or more, or model.critic_path"
    ]
    assert not any("warning" in line for line in description(plan(tmp_path)))


def commit(paths: RunPaths, *, step: int) -> None:
    paths.checkpoints.mkdir(parents=True, exist_ok=True)
    (paths.checkpoints / "latest").write_text(f"global_step_{step}")


def child(plan: Plan, name: str) -> Child:
    return next(child for child in service_children(plan, TOKENS) if child.name == name)


def test_every_replica_is_a_process_of_its_own(tmp_path: Path) -> None:
    children = service_children(plan(tmp_path, generation={"replicas": 2}, reward={"replicas": 2}), TOKENS)

    names = [child.name for child in children]
    assert names == ["generation-0", "generation-1", "reward-0", "reward-1", "learner", "dashboard"]


def test_a_process_gets_its_configuration_its_server_and_its_name(tmp_path: Path) -> None:
    command = child(plan(tmp_path), "reward-0").command(0)

    config = str(tmp_path / "run/config.toml")
    assert command == [*(sys.executable, "-P", "-m", "tppo", "reward", config), *("--name", "reward-0")]


def test_each_process_gets_the_secrets_of_its_role_and_no_command_line_shows_one(tmp_path: Path) -> None:
    children = service_children(plan(tmp_path), TOKENS)
    secrets = {child.name: dict(child.environment) for child in children}
    redis = {"TPPO_REDIS_URL": "redis://:hidden@127.0.0.1:7000/0"}

    of_generators = {
        "TPPO_GENERATION_TOKEN": "hidden-of-generation",
        "TPPO_GENERATION_RECORD_KEY": "hidden-key-of-generation",
    }
    assert secrets == {
        "generation-0": redis | of_generators | {"TPPO_ENDPOINT_TOKEN": "hidden-of-endpoint"},
        "reward-0": redis | {"TPPO_REWARD_TOKEN": "hidden-of-reward", "TPPO_REWARD_RECORD_KEY": "hidden-key-of-reward"},
        "learner": redis | {"TPPO_GENERATION_TOKEN": "hidden-of-generation"},
        # What generators have is in the invitation to join.
        "dashboard": redis
        | of_generators
        | {"TPPO_OPERATOR_RECORD_KEY": "hidden-key-of-operator", "TPPO_JOIN_REDIS_URL": redis["TPPO_REDIS_URL"]},
    }
    shown = [*description(plan(tmp_path)), repr(plan(tmp_path)), *map(repr, children)]
    shown += [" ".join(child.command(0)) for child in children]
    assert not any("hidden" in text for text in shown)


def test_each_process_is_a_user_of_its_own_of_the_embedded_redis(tmp_path: Path) -> None:
    urls = {user: f"redis://run.{user}:hidden@127.0.0.1:7000/0" for user in RedisUser}
    children = service_children(replace(plan(tmp_path), redis_urls=urls), TOKENS)

    given = {child.name.partition("-")[0]: dict(child.environment) for child in children}

    assert {role: environment["TPPO_REDIS_URL"] for role, environment in given.items()} == urls
    joining = {role: environment.get("TPPO_JOIN_REDIS_URL", "") for role, environment in given.items()}
    assert joining == {user: urls[RedisUser.GENERATION] if user is RedisUser.DASHBOARD else "" for user in RedisUser}


def test_the_users_secrets_do_not_reach_every_process() -> None:
    given = {"TPPO_TOKEN": "a", "TPPO_REWARD_TOKEN": "b", "TPPO_REDIS_URL": "c", "TPPO_METRICS_TOKEN": "d", "HOME": "e"}

    handed = child_environment(given, num_processes=1)

    assert {name for name in handed if name in given} == {"TPPO_METRICS_TOKEN", "HOME"}


def test_replicas_listen_on_neighbouring_ports_when_the_first_is_given(tmp_path: Path) -> None:
    two = plan(tmp_path, generation={"replicas": 2, "port": 9000})

    assert child(two, "generation-1").command(0)[-1] == "--set=generation.port=9001"


def test_the_endpoints_of_generators_are_neighbours_too(tmp_path: Path) -> None:
    two = plan(tmp_path, generation={"replicas": 2, "port": 9000}, endpoint={"port": 9100})

    assert child(two, "generation-1").command(0)[-2:] == ["--set=generation.port=9001", "--set=endpoint.port=9101"]


def test_metrics_are_served_side_by_side_when_the_first_port_is_given(tmp_path: Path) -> None:
    several = plan(tmp_path, generation={"replicas": 2}, prometheus={"port": 9400})

    commands = {name: child(several, name).command(0) for name in ("generation-1", "reward-0", "learner")}

    assert {name: command[-1] for name, command in commands.items()} == {
        "generation-1": "--set=prometheus.port=9401",
        "reward-0": "--set=prometheus.port=9402",
        "learner": "--set=prometheus.port=9403",
    }


def test_the_learner_resumes_on_request(tmp_path: Path) -> None:
    assert "--resume" not in child(plan(tmp_path), "learner").command(0)
    assert child(plan(tmp_path, resume=True), "learner").command(0)[-1] == "--resume"


def test_a_learner_that_crashed_resumes_once_there_is_a_checkpoint(tmp_path: Path) -> None:
    fresh = plan(tmp_path)
    learner = child(fresh, "learner")
    assert "--resume" not in learner.command(1)

    commit(fresh.paths, step=5)

    assert learner.command(1)[-1] == "--resume"


def test_the_work_is_done_when_the_last_step_is_committed(tmp_path: Path) -> None:
    learner = child(plan(tmp_path), "learner")
    paths = plan(tmp_path).paths
    assert not learner.is_done()

    commit(paths, step=99)
    assert not learner.is_done()

    commit(paths, step=100)
    assert learner.is_done()


def test_the_learner_is_stopped_first(tmp_path: Path) -> None:
    ranks = {child.name: child.stop_rank for child in service_children(plan(tmp_path), TOKENS)}

    assert min(ranks, key=lambda name: ranks[name]) == "learner"
    assert ranks["generation-0"] == ranks["reward-0"] == ranks["dashboard"]


def test_a_thread_count_in_the_environment_is_kept() -> None:
    assert child_environment({"OMP_NUM_THREADS": "7"}, num_processes=2)["OMP_NUM_THREADS"] == "7"


def test_more_processes_than_cores_get_one_thread_each() -> None:
    environment = child_environment({"PATH": "/bin"}, num_processes=10_000)

    assert (environment["PATH"], environment["OMP_NUM_THREADS"]) == ("/bin", "1")
