"""The real thing: `tppo run` on the quick-start model, every service a process, some of them killed."""

from collections.abc import Callable

import pytest

from tests.support.quickstart_run import Run


@pytest.mark.parametrize("mode", ["lockstep", "overlapped", "streaming"])
def test_a_run_ends_by_itself_and_leaves_its_results(start: Callable[..., Run], mode: str) -> None:
    run = start(**{"run.mode": mode, "run.total_training_steps": "6"})

    run.end()

    assert [line["step"] for line in run.lines("step")] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in run.lines("evaluation")] == [0, 6]
    assert max(line["policy_lag/max"] for line in run.lines("step")) <= {"lockstep": 0, "overlapped": 1}.get(mode, 6)
    summary = run.summary()
    assert (summary["steps"], summary["base_accuracy"]) == (6, run.lines("evaluation")[0]["eval/accuracy"])
    assert 0 < summary["slot_occupancy"] <= 1
    assert (run.folder / "learning_curve.png").exists()
    assert (run.folder / "checkpoints" / "global_step_6" / "actor" / "model.safetensors").exists()
    assert run.lines("step")[-1]["ledger/in_flight"] == 0


def test_engines_sleep_while_the_learner_trains_and_wake_proved(start: Callable[..., Run]) -> None:
    run = start(
        **{
            "run.mode": "lockstep",
            "run.total_training_steps": "4",
            "placement.sleep": "weights",
            "generation.replicas": "2",
        }
    )

    run.end()

    assert [line["step"] for line in run.lines("step")] == [1, 2, 3, 4]
    apart = [line["training/engine_kl/max"] for line in run.lines("step")]  # of steps that train the policy
    assert max(kl for kl in apart if kl is not None) < 1e-4
    logs = [(run.folder / "logs" / f"generation-{replica}.log").read_text() for replica in (0, 1)]
    assert all(log.count("the engine sleeps while the learner trains") == 4 for log in logs)


def test_a_run_of_adapters_survives_its_learner_and_its_generator_samples_from_them(start: Callable[..., Run]) -> None:
    run = start(
        **{
            "run.mode": "lockstep",
            "run.total_training_steps": "6",
            "critic.warmup_steps": "1",
            "actor.lora_rank": "8",
            "critic.lora_rank": "8",
            "actor.lr": "1e-2",
            "actor.lr_warmup_steps": "0",
        }
    )

    run.wait_for_step(3)
    run.kill("learner")
    run.end()

    assert [line["step"] for line in run.lines("step")] == [1, 2, 3, 4, 5, 6]
    apart = [line["training/engine_kl/max"] for line in run.lines("step")]  # of steps that train the policy
    assert max(kl for kl in apart if kl is not None) < 1e-4
    actor = run.folder / "checkpoints" / "global_step_6" / "actor"
    assert {path.name for path in actor.glob("*.safetensors")} == {"adapter_model.safetensors"}


def test_killed_services_come_back_and_every_step_is_taken_once(start: Callable[..., Run]) -> None:
    run = start(**{"run.total_training_steps": "24"})

    for step, name in ((2, "generation-0"), (5, "learner"), (8, "reward-0"), (12, "learner")):
        run.wait_for_step(step)
        run.kill(name)
    run.end()

    steps = run.lines("step")
    assert [line["step"] for line in steps] == list(range(1, 25))
    assert (steps[-1]["ledger/issued"], steps[-1]["ledger/trained"]) == (24 * 8, 24 * 8)
    assert run.incarnation() == 3


def test_an_interrupted_run_prints_how_to_resume_and_resumes(start: Callable[..., Run]) -> None:
    run = start(**{"run.total_training_steps": "40"})
    run.wait_for_step(3)

    output = run.interrupt()
    stopped_at = run.num_steps_done
    run.resume()
    run.end()

    assert "--resume" in output
    assert stopped_at < 40
    assert [line["step"] for line in run.lines("step")] == list(range(1, 41))
