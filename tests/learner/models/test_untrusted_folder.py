"""A model's folder is data, whoever made it: nothing in it runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from learner.data.prompts import PromptLimits, PromptReader
from learner.data.shape import DataError
from learner.models.loading.inspection import require_trainable
from learner.models.loading.loading import load_policy
from tests.learner.builders import a_config
from tests.learner.tiny_models import a_network
from tppo.config import ConfigError
from tppo.config.schema import ModelSection
from tppo.models.tokenizer import load_tokenizer

CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import {base}
class Theirs({base}):
    model_type = "theirs"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model."""
    a_network("policy").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def with_code_in_it(folder: Path, model_type: str) -> Path:
    """Configuration, model and tokenizer are classes of the folder's own; gives the file that they leave when run."""
    mark = folder.parent / "was_run"
    for name, base in (("configuration", "PreTrainedConfig"), ("modeling", "PreTrainedModel")):
        (folder / f"{name}_theirs.py").write_text(CODE.format(mark=str(mark), base=base))
    (folder / "tokenization_theirs.py").write_text(CODE.format(mark=str(mark), base="PreTrainedTokenizer"))
    own = {
        "AutoConfig": "configuration_theirs.Theirs",
        "AutoModel": "modeling_theirs.Theirs",
        "AutoModelForCausalLM": "modeling_theirs.Theirs",
        "AutoTokenizer": ["tokenization_theirs.Theirs", None],
    }
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": model_type, "auto_map": own}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Theirs", "auto_map": own}))
    return mark


def test_code_in_a_model_folder_is_never_run(folder: Path) -> None:
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    mark = with_code_in_it(folder, model_type)

    require_trainable(ModelSection(path=folder))
    load_policy(str(folder))  # by the library's own class of that type
    with pytest.raises(ConfigError):
        load_tokenizer(folder)

    with_code_in_it(folder, "theirs")
    with pytest.raises(ConfigError, match=r"expected a model's config\.json"):
        require_trainable(ModelSection(path=folder))
    with pytest.raises(ConfigError):
        load_tokenizer(folder)

    assert not mark.exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{% for x in range(10**9) %}{% endfor %}",
    ],
)
def test_a_chat_template_that_reaches_for_python_is_refused(tmp_path: Path, template: str) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = Tokenizer(WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, eos_token="</s>", chat_template=template
    )
    rows = tmp_path / "rows.jsonl"
    message = {"role": "user", "content": "2 + 2"}
    rows.write_text(json.dumps({"data_source": "a", "prompt": [message], "reward_model": {"ground_truth": "4"}}))
    reader = PromptReader(a_config().data, tokenizer, PromptLimits(40, frozenset({1}), 2))

    with pytest.raises(DataError, match="does not take the messages"):
        reader.read([rows])
