"""What a learner leaves of its settings in the run's folder."""

from pathlib import Path

from learner.__main__ import write_settings
from tests.learner.builders import a_config
from tppo.config import load


def test_a_learner_started_from_another_file_leaves_its_settings_without_the_address_of_redis(tmp_path: Path) -> None:
    config = a_config(run={"total_training_steps": 7}, redis={"url": "redis://:secret@host:6379"})

    write_settings(config, tmp_path, source=tmp_path / "mine.toml")

    left = load(tmp_path / "config.toml")
    assert left.run.total_training_steps == 7
    assert left.redis.url == ""


def test_a_learner_started_from_the_runs_own_file_leaves_it_alone(tmp_path: Path) -> None:
    own = tmp_path / "config.toml"
    own.write_text("# as it was")

    write_settings(a_config(), tmp_path, source=own)

    assert own.read_text() == "# as it was"
