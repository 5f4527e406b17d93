"""`docker-compose.yml` says what the services understand; whether containers run is tried with a real engine."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tppo.config import Config, load

ROOT = Path(__file__).parents[2]
SERVICES = ("generation", "reward", "learner", "dashboard")


@pytest.fixture
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return content


def config_of(compose: dict[str, Any], service: str) -> Config:
    """The configuration that the service of that name loads."""
    verb, path, *options = compose["services"][service]["command"]
    assert verb == service
    return load(ROOT / path, [option.removeprefix("--set=") for option in options if option.startswith("--set=")])


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_loads_its_configuration(compose: dict[str, Any], service: str) -> None:
    assert config_of(compose, service).run.name == "quickstart"


@pytest.mark.parametrize("service", ["redis", *SERVICES])
def test_every_service_has_a_health_check_and_an_init_process(compose: dict[str, Any], service: str) -> None:
    definition = compose["services"][service]

    assert definition["healthcheck"]["test"][0] == "CMD"
    assert definition["init"] is True


def test_learner_and_dashboard_look_at_the_same_volume(compose: dict[str, Any]) -> None:
    folders = {service: config_of(compose, service).run.path for service in ("learner", "dashboard")}

    assert folders == dict.fromkeys(("learner", "dashboard"), Path("/runs/quickstart"))
    assert compose["services"]["learner"]["volumes"] == ["runs:/runs"]
    assert compose["services"]["dashboard"]["volumes"] == ["runs:/runs:ro"]


def test_nothing_is_published_beyond_the_loopback(compose: dict[str, Any]) -> None:
    published = {name: service.get("ports") for name, service in compose["services"].items() if "ports" in service}

    assert published == {
        "dashboard": ["127.0.0.1:8265:8265"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_the_image_of_all_services_is_built_once(compose: dict[str, Any]) -> None:
    services = {name: compose["services"][name] for name in SERVICES}

    assert {service["image"] for service in services.values()} == {"tppo"}
    assert {service["pull_policy"] for service in services.values()} == {"never"}
    assert [name for name, service in services.items() if "build" in service] == ["generation"]


def test_monitoring_is_started_on_request_with_files_that_are_there(compose: dict[str, Any]) -> None:
    requested = {name: one for name, one in compose["services"].items() if one.get("profiles") == ["monitoring"]}
    mounted = [volume.split(":")[0] for one in requested.values() for volume in one["volumes"]]

    assert set(requested) == {"prometheus", "grafana"}
    assert [path for path in mounted if path.startswith(".") and not (ROOT / path).is_dir()] == []
    assert requested["prometheus"]["secrets"] == list(compose["secrets"])


def test_the_image_runs_the_application_from_the_folder_of_its_editable_install() -> None:
    build, image = (ROOT / "deploy" / "Dockerfile").read_text().split("\nFROM ")[1:]
    copied = {line.split()[-1] for line in image.splitlines() if line.startswith("COPY") and "--from" not in line}

    assert "--editable" in build
    assert "WORKDIR /app" in build
    assert {"/app/tppo", "/app/services", "/app/learner"} <= copied
