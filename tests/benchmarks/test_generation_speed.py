"""The comparison of the engine with `generate` runs, on a model that takes no time."""

import argparse

import pytest

from benchmarks.generation.speed import arguments_of, compare, equal_rows, ragged_rows, run_windows


def test_rows_are_of_one_length_or_of_many() -> None:
    equal, ragged = (make(20, vocabulary_size=9, longest=30) for make in (equal_rows, ragged_rows))

    assert {(len(row.prompt), row.response_length) for row in equal} == {(15, 15)}
    assert len({len(row.prompt) for row in ragged}) > 5
    assert all(row.response_length <= 30 for row in ragged)


async def test_without_a_mode_windows_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments_of([]).run is run_windows

    await run_windows(arguments_of(["windows", "--slots", "4", "--warmup", "0.2", "--seconds", "0.5"]))

    assert "tokens per CPU second" in capsys.readouterr().out


async def test_a_model_is_measured_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.generation.speed.SMALL", {})

    row = await compare("gemma3_text", argparse.Namespace(longest=12, slots=2, repeats=1))

    name, layout, *numbers = [cell.strip() for cell in row.strip("|").split("|")]
    assert (name, layout) == ("gemma3_text", "together")
    assert len(numbers) == 6
    assert all(float(number) > 0 for number in numbers)
