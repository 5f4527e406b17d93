"""The workflow files and the pre-commit hooks call what is there. They are read here; GitHub alone runs them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values():
        yield from job["steps"]


def test_there_is_a_workflow_for_each_thing_that_a_change_must_pass() -> None:
    assert [path.stem for path in WORKFLOWS] == ["check", "compose", "images", "test", "vllm", "wheel"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_read_has_a_time_limit_and_leaves_no_token_behind(workflow: Path) -> None:
    content = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    checkouts = [step for step in steps(workflow) if step.get("uses", "").startswith("actions/checkout@")]

    assert content["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 120 for job in content["jobs"].values())
    assert [step.get("with") for step in checkouts] == [{"persist-credentials": False}] * len(content["jobs"])


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_no_text_from_outside_is_part_of_a_command(workflow: Path) -> None:
    assert [step["run"] for step in steps(workflow) if "${{" in step.get("run", "")] == []


def test_the_images_that_are_built_are_targets_of_the_dockerfile() -> None:
    images = yaml.safe_load((ROOT / ".github" / "workflows" / "images.yml").read_text(encoding="utf-8"))
    targets = images["jobs"]["build"]["strategy"]["matrix"]["target"]
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")

    assert {*targets, "vllm"} == set(re.findall(r"^FROM application AS (\w+)$", dockerfile, re.MULTILINE))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_the_make_targets_that_a_workflow_calls_exist(workflow: Path) -> None:
    called = {target for step in steps(workflow) for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))}

    assert called <= TARGETS


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_a_full_version(workflow: Path) -> None:
    actions = [step["uses"] for step in steps(workflow) if "uses" in step]

    assert actions
    assert [action for action in actions if not re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", action)] == []


def test_hooks_run_what_the_environment_has_and_download_nothing() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]

    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    for hook in repository["hooks"]:
        assert f"$(BIN)/{Path(hook['entry'].split()[0]).name}" in MAKEFILE
