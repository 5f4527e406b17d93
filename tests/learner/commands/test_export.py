"""`tppo export`: a model of a checkpoint becomes a folder that transformers loads, with its tokenizer."""

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, PreTrainedTokenizerFast

from learner.commands.export import main
from learner.models.loading.loading import load_policy, value_model_from_policy
from learner.persistence.checkpoint import Checkpoints, capture
from learner.state import new_trainer
from learner.step.progress import TrainingProgress
from learner.step.trainer import Trainer
from tests.learner.builders import no_rollouts
from tests.learner.laboratory import Laboratory
from tests.support.small_disk import files_of_at_most
from tppo.config import ConfigError
from tppo.run_folder.metric_lines import ACCURACY, MeasuredAccuracy

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"


def a_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(24)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = fast(tokenizer_object=words, eos_token="w1", chat_template=TEMPLATE)
    return made


class Run:
    """A run's folder with checkpoints of steps 2, 4 and 6, of which 4 is the best; each with weights of its own."""

    def __init__(self, folder: Path) -> None:
        laboratory = Laboratory(folder, "streaming")
        base = folder / "base"
        (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 7], "temperature": 0.6}))
        self.folder = folder / "run"
        self.trainer: Trainer = new_trainer(
            laboratory.config, load_policy(str(base)), value_model_from_policy(str(base))
        )
        self.checkpoints = Checkpoints(self.folder / "checkpoints", keep=10)
        self.logits: dict[int, torch.Tensor] = {}
        for step in (2, 4, 6):
            self._commit(step)
        self.checkpoints.keep_if_best(4, MeasuredAccuracy(ACCURACY, 0.9))

    def _commit(self, step: int) -> None:
        networks: list[Any] = [self.trainer.policy.network, self.trainer.value_model.network]
        with torch.no_grad():
            for parameter in (parameter for network in networks for parameter in network.parameters()):
                parameter.add_(0.01)
        state = capture(self.trainer, TrainingProgress(step, f"{step}-0", 0.0, 0), no_rollouts())
        self.checkpoints.commit(state, self.trainer, a_tokenizer())
        self.logits[step] = networks[0](IDS).logits.detach()
        self.values = networks[1](IDS).logits.detach()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("export"))


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Path:
    """A copy, which a test may damage."""
    return Path(shutil.copytree(made.folder, tmp_path / "run"))


@pytest.mark.parametrize(
    ("arguments", "step"),
    [([], 6), (["--checkpoint", "latest"], 6), (["--checkpoint", "best"], 4), (["--checkpoint", "2"], 2)],
)
def test_an_exported_policy_has_the_logits_of_its_checkpoint(
    made: Run, run: Path, tmp_path: Path, arguments: list[str], step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "exported"

    assert main([str(run), "--output", str(output), *arguments]) == 0

    loaded: Any = AutoModelForCausalLM.from_pretrained(output)
    assert torch.equal(loaded(IDS).logits, made.logits[step])
    assert capsys.readouterr().out == f"policy of step {step} is in {output}\n"


def test_an_exported_models_files_are_as_open_to_others_as_any(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "exported"

    main([str(run), "--output", str(output)])

    (output / "of the user").touch()
    assert len({stat.S_IMODE(file.stat().st_mode) for file in output.iterdir()}) == 1


def test_an_exported_value_model_has_its_values(made: Run, run: Path) -> None:
    main([str(run), "--what", "value_model"])

    folder = run / "exports" / "value_model_step_6"
    loaded: Any = AutoModelForTokenClassification.from_pretrained(folder)
    assert torch.equal(loaded(IDS).logits, made.values)
    assert PreTrainedTokenizerFast.from_pretrained(folder)("w3 w4")["input_ids"] == [3, 4]


def test_the_folder_has_all_that_a_server_reads(run: Path) -> None:
    """What vLLM opens: the configuration with architecture and dtype, safetensors, tokenizer and chat template."""
    main([str(run)])
    folder = run / "exports" / "policy_step_6"

    config = json.loads((folder / "config.json").read_text())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    assert (config["architectures"], config["dtype"]) == (["Qwen2ForCausalLM"], "float32")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "w3"}], tokenize=False) == "<user>w3"
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["temperature"]) == ([1, 7], 0.6)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".jinja", ".safetensors"}


def refusal(*arguments: object) -> str:
    with pytest.raises(ConfigError) as raised:
        main([str(one) for one in arguments])
    return str(raised.value)


@pytest.mark.parametrize("checkpoint", ["3", "newest", "-2", "²", "best4"])
def test_a_checkpoint_that_is_not_there_is_refused_with_a_list(run: Path, checkpoint: str) -> None:
    said = refusal(run, f"--checkpoint={checkpoint}")

    assert said == f"--checkpoint {checkpoint}: none of {run}'s; expected latest, best, or one of [2, 4, 6]"


def test_without_an_evaluation_there_is_no_best(run: Path) -> None:
    (run / "checkpoints" / "best.json").unlink()

    assert "no evaluation has named one yet; expected latest, or one of [2, 4, 6]" in refusal(run, "--checkpoint=best")


def test_without_a_run_or_a_checkpoint_it_says_what_was_expected(tmp_path: Path) -> None:
    assert f"{tmp_path}/none: no such folder; expected a run's folder" in refusal(tmp_path / "none")
    assert f"{tmp_path}/checkpoints holds no complete checkpoint" in refusal(tmp_path)


@pytest.mark.parametrize("is_file", [False, True])
def test_an_output_that_holds_something_is_left_as_it_is(run: Path, tmp_path: Path, is_file: bool) -> None:
    output = tmp_path / "output"
    kept = output if is_file else output / "file"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("kept")

    assert (
        refusal(run, f"--output={output}") == f"--output {output} is there already; expected a new or an empty folder"
    )
    assert kept.read_text() == "kept"


def test_an_empty_output_is_taken(run: Path, tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()

    main([str(run), f"--output={tmp_path / 'output'}"])

    assert (tmp_path / "output" / "model.safetensors").is_file()


def test_a_damaged_checkpoint_is_not_exported_and_nothing_is_left(run: Path, tmp_path: Path) -> None:
    weights = run / "checkpoints" / "global_step_6" / "actor" / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))

    assert "has other bytes than were written; expected a whole checkpoint" in refusal(
        run, f"--output={tmp_path / 'to'}"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_full_disk_is_one_sentence_and_nothing_is_left(run: Path, tmp_path: Path) -> None:
    with files_of_at_most(64):
        said = refusal(run, f"--output={tmp_path / 'to'}")

    assert said == f"--output {tmp_path / 'to'}: File too large; expected a folder with room for it"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
