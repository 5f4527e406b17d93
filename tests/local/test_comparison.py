"""`tppo compare`: which runs there are, what is not repeated, and what is read from them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.local.compare.measures import Measures, Point, common_target, measured, reached
from services.local.compare.paired import differences
from services.local.compare.plan import PlannedRun, Question, is_done, planned_runs, systems_in
from services.local.compare.report import draw_comparison, mean_and_spread, write_json, write_table
from services.local.compare.running import RunFailedError, run_all
from tests.support.damage import DAMAGES
from tppo.config import ConfigError, dump

TASK = """
[run]
name = "sums"
seed = 5
total_training_steps = 10
rollouts_per_step = 8
window_length = 64
max_response_length = 256
[model]
path = "base"
[data]
train_files = ["train.jsonl"]
"""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sums.toml"
    path.write_text(TASK)
    return path


def a_question(task: Path, *overrides: str, algorithms: str = "ppo,tppo", seeds: int = 2) -> Question:
    systems = systems_in(algorithms)
    return Question(config_path=task, systems=systems, num_seeds=seeds, num_evaluations=3, overrides=overrides)


def lines_of_a_run(steps: int, final_accuracy: float = 0.8) -> list[dict[str, Any]]:
    """A step takes half a second, 100 decode steps and 400 tokens; a quarter of the rows does not finish."""
    trained = [
        {
            "kind": "step", "step": number, "seconds_since_start": 9 + 0.5 * number,
            "seconds_since_first_window": 0.5 * number, "timing_s/train": 0.2, "response/finished_fraction": 0.75,
            "generation/num_decode_steps": 100 * number, "generation/num_tokens": 400 * number,
            "policy_lag/mean": 0.5 * (number % 2), "critic/vf_clipfrac": None,
        }
        | ({} if number == 1 else {"actor/pg_clipfrac": 0.01 * number, "actor/effective_sample_size": 0.8})
        for number in range(1, steps + 1)
    ]  # fmt: skip
    end = {
        "kind": "end", "step": steps, "generation/seconds_busy": 0.6 * steps,
        "generation/num_decode_steps": 101 * steps, "generation/num_tokens": 404 * steps,
        "generation/num_active_slot_steps": 30, "generation/num_slot_steps": 120,
    }  # fmt: skip
    evaluated = [
        {"kind": "evaluation", "step": step, "eval/step": step, "eval/accuracy": accuracy, "eval/accuracy_stderr": 0.02}
        for step, accuracy in ((0, 0.4), (4, 0.6), (steps, final_accuracy))
    ]
    return [*trained, end, *evaluated]


def finish(run: PlannedRun) -> None:
    """Leave what a run that was trained to its end leaves."""
    run.paths.folder.mkdir(parents=True)
    run.paths.config.write_text(dump(run.config))
    lines = lines_of_a_run(run.config.run.total_training_steps)
    run.paths.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.paths.summary.write_text(json.dumps({"steps": run.config.run.total_training_steps}))


class Launcher:
    """Finishes each run at once; those in `failing` leave nothing."""

    def __init__(self, failing: tuple[str, ...] = ()) -> None:
        self.launched: list[str] = []
        self._failing = failing

    def __call__(self, config_path: Path, run: PlannedRun) -> int:
        self.launched.append(f"{run.system}-{run.seed}")
        if run.system in self._failing:
            return 1
        finish(run)
        return 0


# Which runs


def test_the_systems_take_turns_seed_after_seed(task: Path) -> None:
    runs = planned_runs(a_question(task))

    assert [(run.system, run.seed) for run in runs] == [("ppo", 5), ("tppo", 5), ("ppo", 6), ("tppo", 6)]
    assert runs[0].paths.folder == Path("runs/sums-compare/sums-compare-ppo-seed5")


def test_each_run_has_its_systems_settings_and_is_evaluated_only_after_training(task: Path) -> None:
    ppo, tppo = planned_runs(a_question(task, seeds=1))

    assert (ppo.config.run.window_length, ppo.config.run.mode) == (256, "lockstep")
    assert (tppo.config.run.window_length, tppo.config.run.mode) == (64, "streaming")
    assert all(run.config.evaluation.after_training for run in (ppo, tppo))
    # Three evaluations in ten steps: after 4, 8 and the last one.
    assert ppo.config.evaluation.test_freq == 4
    assert ppo.config.dashboard.port == 0


def test_each_run_is_evaluated_before_its_first_step_whatever_the_settings_say(task: Path) -> None:
    runs = planned_runs(a_question(task, "evaluation.val_before_train=false"))

    assert all(run.config.evaluation.val_before_train for run in runs)


def test_a_setting_may_be_for_all_systems_or_for_one(task: Path) -> None:
    overrides = ("actor.lr=1e-3", "ppo:run.mode=overlapped", "tppo:run.total_training_steps=12")
    ppo, tppo = planned_runs(a_question(task, *overrides, seeds=1))

    assert ppo.config.actor.lr == tppo.config.actor.lr == 1e-3
    assert (ppo.config.run.mode, tppo.config.run.mode) == ("overlapped", "streaming")
    assert (ppo.config.run.total_training_steps, tppo.config.run.total_training_steps) == (10, 12)


def test_a_system_may_be_compared_with_itself_under_another_name(task: Path) -> None:
    overrides = ("vapo:algorithm.lam_floor=0.9", "formula:algorithm.lam_floor=0")
    vapo, formula = planned_runs(a_question(task, *overrides, algorithms="vapo,formula=vapo", seeds=1))

    assert vapo.config.run.algorithm == formula.config.run.algorithm == "vapo"
    assert (vapo.config.algorithm.lam_floor, formula.config.algorithm.lam_floor) == (0.9, 0.0)
    assert formula.paths.folder.name == "sums-compare-formula-seed5"


@pytest.mark.parametrize(
    ("algorithms", "overrides", "complaint"),
    [
        ("ppo,grpo", (), "unknown 'grpo'"),
        ("ppo,formula=grpo", (), "unknown 'grpo'; expected some of .*, or NAME=ALGORITHM"),
        ("ppo,tppo=ppo", (), "the name 'tppo'; expected"),
        ("ppo,a b=ppo", (), "the name 'a b'; expected"),
        ("ppo,ppo", (), "'ppo' twice; expected NAME=ppo for the second"),
        ("ppo", ("grpo:actor.lr=1",), "no system 'grpo'"),
        ("ppo", ("ppo:run.window_length=3",), "run.window_length = 3 contradicts run.algorithm = 'ppo'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(
    task: Path, algorithms: str, overrides: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        planned_runs(a_question(task, *overrides, algorithms=algorithms))


# Running them


def test_runs_that_are_done_are_not_repeated(task: Path) -> None:
    runs, launcher = planned_runs(a_question(task)), Launcher()
    finish(runs[0])

    run_all(task, runs, launch=launcher, say=lambda _: None)

    assert launcher.launched == ["tppo-5", "ppo-6", "tppo-6"]
    assert all(is_done(run) for run in runs)


def test_an_interrupted_run_starts_from_scratch(task: Path) -> None:
    (run,), launcher = planned_runs(a_question(task, algorithms="tppo", seeds=1)), Launcher()
    finish(run)
    run.paths.summary.write_text(json.dumps({"steps": 7}))

    run_all(task, [run], launch=launcher, say=lambda _: None)

    assert launcher.launched == ["tppo-5"]


def test_a_run_that_was_not_evaluated_to_the_end_starts_from_scratch(task: Path) -> None:
    (run,) = planned_runs(a_question(task, algorithms="tppo", seeds=1))
    finish(run)
    lines = run.paths.metrics.read_text().splitlines(keepends=True)
    run.paths.metrics.write_text("".join(lines[:-1]))

    assert not is_done(run)


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl"])
def test_a_run_whose_results_are_damaged_starts_from_scratch(task: Path, name: str, kind: str) -> None:
    (run,) = planned_runs(a_question(task, algorithms="tppo", seeds=1))
    finish(run)
    assert is_done(run)
    path = run.paths.folder / name
    path.write_bytes(DAMAGES[kind](path.read_bytes()))
    is_whole = name == "metrics.jsonl" and kind in ("flipped", "not UTF-8")  # of which one line is lost

    assert is_done(run) == is_whole


def test_runs_with_other_settings_are_not_taken_for_these(task: Path) -> None:
    finish(planned_runs(a_question(task, seeds=1))[0])

    with pytest.raises(ConfigError, match="was run with other settings"):
        is_done(planned_runs(a_question(task, "actor.lr=1e-3", seeds=1))[0])


def test_a_run_that_fails_ends_the_comparison_and_is_named(task: Path) -> None:
    launcher = Launcher(failing=("tppo",))

    with pytest.raises(RunFailedError, match=r"\[2/4\] tppo, seed 5: tppo run exited with code 1"):
        run_all(task, planned_runs(a_question(task)), launch=launcher, say=lambda _: None)

    assert launcher.launched == ["ppo-5", "tppo-5"]


# What is read from them


def measures_of(folder: Path, system: str = "tppo", seed: int = 1, final_accuracy: float = 0.8) -> Measures:
    lines = lines_of_a_run(10, final_accuracy)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return measured(folder, system=system, seed=seed, rollouts_per_step=8)


def test_a_run_is_measured_by_its_clock_and_by_the_generators_counts_at_the_end_of_training(tmp_path: Path) -> None:
    measures = measures_of(tmp_path)

    assert (measures.steps, measures.responses) == (10, 60)
    assert (measures.seconds, measures.decode_steps, measures.tokens) == (5.0, 1010, 4040)
    # 30 of 120 slots; 6 s of generating beside 2 s of training.
    assert (measures.slot_occupancy, measures.generation_share) == (0.25, 0.75)
    assert measures.curve[0] == Point(step=0, accuracy=0.4, accuracy_stderr=0.02, seconds=0.0, decode_steps=0, tokens=0)
    assert measures.curve[1] == Point(
        step=4, accuracy=0.6, accuracy_stderr=0.02, seconds=2.0, decode_steps=400, tokens=1600
    )


def test_what_bounded_the_updates_is_a_mean_over_the_steps_that_have_it(tmp_path: Path) -> None:
    measures = measures_of(tmp_path)

    # Nine of ten steps updated the policy, and clipped 2 % to 10 % of its tokens; no value was updated.
    assert measures.clip_fraction == pytest.approx(0.06)
    assert measures.effective_sample_size == pytest.approx(0.8)
    assert measures.token_lag == pytest.approx(0.25)
    assert (measures.value_clip_fraction, measures.dual_clip_fraction) == (None, None)


@pytest.mark.parametrize(("target", "seconds"), [(0.4, 0.0), (0.5, 1.0), (0.6, 2.0), (0.7, 3.5), (0.81, None)])
def test_the_time_to_an_accuracy_is_read_on_straight_lines_between_evaluations(
    tmp_path: Path, target: float, seconds: float | None
) -> None:
    found = reached(measures_of(tmp_path).curve, target)

    assert found == (None if seconds is None else pytest.approx(seconds))


def test_the_common_target_is_what_every_run_reached(tmp_path: Path) -> None:
    runs = [measures_of(tmp_path, final_accuracy=accuracy) for accuracy in (0.9, 0.777)]

    assert common_target(runs) == 0.77


def test_a_system_without_a_number_in_one_seed_has_no_mean() -> None:
    assert mean_and_spread([1.0, None]).mean is None
    assert mean_and_spread([1.0]).deviation is None
    assert mean_and_spread([1.0, 3.0]).deviation == pytest.approx(2**0.5)


def test_exact_accuracies_stand_beside_the_sampled_ones_where_every_run_has_them(tmp_path: Path) -> None:
    without = measures_of(tmp_path, "ppo")
    exact = {0: 0.4012, 4: 0.61, 10: 0.81239}
    having = replace(
        without,
        system="tppo",
        curve=tuple(replace(point, accuracy_exact=exact[point.step]) for point in without.curve),
    )

    write_table([having], tmp_path / "every.md", target=0.65, task="sums")
    write_table([having, without], tmp_path / "some.md", target=0.65, task="sums")

    assert "| tppo | 0.400 | 0.800 | 0.4012 | 0.8124 | 5.0 |" in (tmp_path / "every.md").read_text()
    assert "| tppo | 0.400 | 0.800 | 5.0 |" in (tmp_path / "some.md").read_text()


def with_exact(measures: Measures, system: str, seed: int, final: float) -> Measures:
    curve = tuple(replace(point, accuracy_exact=final) for point in measures.curve)
    return replace(measures, system=system, seed=seed, curve=curve)


def test_systems_are_compared_with_the_last_one_seed_by_seed(tmp_path: Path) -> None:
    finals = {"ppo": (0.90, 0.91, 0.95), "flat": (0.93, 0.92, 0.95), "tppo": (0.92, 0.94, 0.94)}
    measures = measures_of(tmp_path)
    runs = [with_exact(measures, system, seed, final) for system, of in finals.items() for seed, final in enumerate(of)]

    (ppo, p_ppo), (flat, _) = differences(runs).values()

    # -.02, -.03, .01: mean -.0133, deviation .0208; t = 1.109, of two degrees of freedom; t(.975) = 4.303
    assert ppo.mean == pytest.approx(-0.04 / 3)
    assert ppo.margin == pytest.approx(4.3027 * 0.020817 / 3**0.5, rel=1e-3)
    assert p_ppo == pytest.approx(2 * 0.3829, rel=0.01)  # Holm: twice the smaller one
    assert flat.mean == pytest.approx(0.0, abs=1e-9)
    write_table(runs, tmp_path / "table.md", target=0.65, task="sums")
    assert "| ppo | -0.0133 ± 0.0517 | " in (tmp_path / "table.md").read_text()
    assert differences(runs[:3]) == {}
    assert differences([run for run in runs if run.seed == 0]) == {}


@pytest.mark.slow
def test_table_json_and_picture_show_every_system(tmp_path: Path) -> None:
    runs = [
        measures_of(tmp_path, "ppo", 1, 0.7),
        measures_of(tmp_path, "ppo", 2, 0.8),
        measures_of(tmp_path, "tppo", 1, 0.9),
    ]

    write_json(runs, tmp_path / "comparison.json", target=0.65)
    write_table(runs, tmp_path / "comparison.md", target=0.65, task="sums")
    draw_comparison(runs, tmp_path / "comparison.png", title="sums")

    systems = json.loads((tmp_path / "comparison.json").read_text())["systems"]
    assert systems["ppo"]["summary"]["final_accuracy"]["mean"] == pytest.approx(0.75)
    assert [run["seed"] for run in systems["ppo"]["runs"]] == [1, 2]
    assert systems["tppo"]["summary"]["token_lag"] == {"mean": 0.25, "deviation": None}
    rows = [line for line in (tmp_path / "comparison.md").read_text().splitlines() if line.startswith("| ")]
    assert rows[1].startswith("| ppo | 0.400 ± 0.000 | 0.750 ± 0.071 | 5.0 ± 0.0 |")
    assert rows[2].startswith("| tppo | 0.400 | 0.900 | 5.0 |")
    assert rows[4] == "| ppo | 0.0600 ± 0.0000 | none | none | 0.800 ± 0.000 | 0.25 ± 0.00 |"
    assert (tmp_path / "comparison.png").read_bytes().startswith(PNG_SIGNATURE)
