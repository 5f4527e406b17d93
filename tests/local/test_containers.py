"""`docker-compose.yml` says what the services understand; whether containers run is tried with a real engine."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tppo.config import Config, load

ROOT = Path(__file__).parents[2]
SERVICES = ("generation", "generation-gpu", "reward", "learner", "learner-gpu", "dashboard")
SEES_RUNS = {"learner": ["/runs"], "learner-gpu": ["/runs"], "summary": ["/runs"], "dashboard": ["/runs", "ro"]}
SEES_RESPONSES = {"reward": ["/responses"], "dashboard": ["/responses", "ro"]}
TASK = ROOT / "examples" / "iterated_map"
VARIABLE = re.compile(r"\$\{(\w+):[-?]([^}]*)\}")


def with_defaults(text: str) -> str:
    """As compose reads it where `.env` sets nothing."""
    return VARIABLE.sub(lambda match: match[2], text)


@pytest.fixture
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(with_defaults((ROOT / "docker-compose.yml").read_text()))
    return content


def config_of(compose: dict[str, Any], service: str) -> Config:
    """The configuration that the service of that name loads, with the task's folder where it is mounted from."""
    words = [word for word in compose["services"][service]["command"] if word != "dashboard"]
    path = TASK / Path(words[0]).relative_to("/task")
    return load(path, [word.removeprefix("--set=") for word in words if word.startswith("--set=")])


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_loads_its_configuration(compose: dict[str, Any], service: str) -> None:
    config = config_of(compose, service)

    assert config.run.name == "quickstart"
    if service in SEES_RUNS:
        assert config.run.path == Path("/runs/quickstart")
    if service in SEES_RESPONSES:
        assert config.responses_path == Path("/responses/quickstart")
    assert config.generation.engine == ("vllm" if service == "generation-gpu" else "transformers")


@pytest.mark.parametrize("service", ["redis", *SERVICES])
def test_every_service_has_a_health_check_and_an_init_process(compose: dict[str, Any], service: str) -> None:
    definition = compose["services"][service]

    assert definition["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert definition["init"] is True


@pytest.mark.parametrize("service", ["redis", *SERVICES, "summary"])
def test_nothing_in_a_container_can_be_written_but_tmp_and_volumes(compose: dict[str, Any], service: str) -> None:
    definition = compose["services"][service]

    assert definition["read_only"] is True
    assert definition["tmpfs"] == ["/tmp"]
    assert "no-new-privileges:true" in definition["security_opt"]


@pytest.mark.parametrize("service", [*SERVICES, "summary"])
def test_every_service_sees_task_models_and_data_and_of_runs_what_its_work_needs(
    compose: dict[str, Any], service: str
) -> None:
    targets = [volume.split(":")[1:] for volume in compose["services"][service]["volumes"]]

    own = [seen[service] for seen in (SEES_RUNS, SEES_RESPONSES) if service in seen]
    assert targets == [["/task", "ro"], ["/models", "ro"], ["/data", "ro"], *own]


@pytest.mark.parametrize(
    ("profiles", "started"), [({"cpu"}, {"generation", "learner"}), ({"gpu"}, {"generation-gpu", "learner-gpu"})]
)
def test_one_profile_starts_one_generator_and_one_learner(
    compose: dict[str, Any], profiles: set[str], started: set[str]
) -> None:
    services = compose["services"].items()
    found = {name for name, one in services if set(one.get("profiles", profiles)) & profiles}

    assert found == {"redis", "reward", "dashboard", "summary", *started}


def test_what_a_gpu_needs_is_reserved(compose: dict[str, Any]) -> None:
    for service in ("generation-gpu", "learner-gpu"):
        (device,) = compose["services"][service]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
        assert compose["services"][service]["shm_size"] == "8g"


def test_nothing_is_published_beyond_the_loopback(compose: dict[str, Any]) -> None:
    published = {name: service.get("ports") for name, service in compose["services"].items() if "ports" in service}

    assert published == {
        "dashboard": ["127.0.0.1:8265:8265"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_every_image_is_a_target_of_the_dockerfile_with_its_own_command(compose: dict[str, Any]) -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    targets = {service: compose["services"][service]["build"]["target"] for service in SERVICES}

    for service, target in targets.items():
        stage = dockerfile.split(f"FROM application AS {target}\n")[1].split("\n\n")[0]
        entry = stage.split("ENTRYPOINT ")[1].splitlines()[0]
        verb = service.removesuffix("-gpu")
        own = "" if verb == "dashboard" else f', "{verb}"'  # the dashboard's image has other verbs, too
        assert entry == f'["sh", "/app/deploy/entrypoint.sh"{own}]'


def test_what_env_example_names_is_what_the_file_reads() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    named = re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    read = {name for name, _ in VARIABLE.findall(text)}

    assert set(named) - {"COMPOSE_PROFILES"} == read - {"REDIS_IMAGE", "PROMETHEUS_IMAGE", "GRAFANA_IMAGE"}


def test_the_variant_for_developers_mounts_what_the_image_copies() -> None:
    variant = yaml.safe_load((ROOT / "deploy" / "docker-compose.development.yml").read_text())
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = set(re.findall(r"^COPY (\w+) /app/\w+$", dockerfile, re.MULTILINE))

    for definition in variant["services"].values():
        mounted = {Path(volume.split(":")[0]).name for volume in definition["volumes"]}
        assert mounted == copied == {"tppo", "services", "learner"}
        assert all((ROOT / volume.split(":")[0]).is_dir() for volume in definition["volumes"])


def test_monitoring_is_started_on_request_with_files_that_are_there(compose: dict[str, Any]) -> None:
    requested = {name: one for name, one in compose["services"].items() if one.get("profiles") == ["monitoring"]}
    mounted = [volume.split(":")[0] for one in requested.values() for volume in one["volumes"]]

    assert set(requested) == {"prometheus", "grafana"}
    assert [path for path in mounted if path.startswith(".") and not (ROOT / path).is_dir()] == []
    assert requested["prometheus"]["secrets"] == ["metrics_token"]


def test_the_images_run_the_application_from_the_folder_of_their_editable_install() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    application = dockerfile.split("AS application\n")[1].split("\nFROM ")[0]
    copied = {line.split()[-1] for line in application.splitlines() if line.startswith("COPY")}

    assert dockerfile.count("--editable") == 5
    assert "WORKDIR /app" in application
    assert {"/app/tppo", "/app/services", "/app/learner"} <= copied
