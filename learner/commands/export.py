"""`tppo export RUN`: 0 a model of a checkpoint is a Hugging Face folder of its own, 2 not possible, nothing is left.

Of adapters (LoRA) that is the sum with their body, in float32; or, with `--adapter`, what peft loads.
"""

import argparse
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from learner.persistence.manifest import DamagedError, described
from tppo.config import ConfigError
from tppo.digests import READ_BYTES, UnreadableHereError, algorithm_of, named, new_hasher
from tppo.run_folder.checkpoints import CheckpointFolder, step_of
from tppo.run_folder.durable import sync, sync_tree
from tppo.run_folder.paths import RunPaths, run_path

PARTS = {"policy": "actor", "value_model": "critic"}
"""What may be exported, and its folder in a checkpoint."""
OF_A_MODEL = re.compile(
    r"(config|generation_config|model\.safetensors\.index|adapter_config|body)\.json|(adapter_)?model.*\.safetensors"
)
"""Files of one model; all others are the tokenizer's, and stand beside the policy alone."""
OF_PEFT = {"adapter_config.json", "adapter_model.safetensors"}


def main(argv: Sequence[str]) -> int:
    """Copy the files, each verified on the way, and say where they are."""
    arguments = _arguments(argv)
    checkpoint = chosen(arguments.run, arguments.checkpoint)
    step, what = step_of(checkpoint), arguments.what
    output = arguments.output or RunPaths(arguments.run).exports / f"{what}_step_{step}"
    export(checkpoint, what, output, as_adapter=arguments.adapter)
    print(f"{what} of step {step} is in {output}")
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tppo export",
        description="Copy a trained model out of a run, as a Hugging Face folder with its tokenizer.",
    )
    parser.add_argument("run", type=run_path, help="the run's folder, or its name under runs/")
    parser.add_argument(
        "--checkpoint", default="latest", metavar="latest|best|STEP", help="which checkpoint (default: latest)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="a new or empty folder (default: exports/WHAT_step_N in the run's)"
    )
    parser.add_argument("--what", choices=list(PARTS), default="policy", help="which model (default: policy)")
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="of a run with LoRA: the adapter alone, as peft loads it, without its body",
    )
    return parser.parse_args(argv)


def chosen(run: Path, checkpoint: str) -> Path:
    """The checkpoint that the words name. Raises `ConfigError`, which lists those that are there."""
    if not run.is_dir():
        raise ConfigError(f"{run}: no such folder; expected a run's folder, or its name under runs/")
    checkpoints = CheckpointFolder(RunPaths(run).checkpoints)
    steps = checkpoints.complete_steps()
    if not steps:
        raise ConfigError(f"{checkpoints.path} holds no complete checkpoint; expected one, as a run's end commits it")
    if checkpoint == "latest":
        newest = checkpoints.newest()
        return newest if newest is not None and step_of(newest) in steps else checkpoints.of_step(steps[-1])
    if checkpoint == "best":
        best = checkpoints.best()
        if best is None:
            raise ConfigError(f"--checkpoint best: no evaluation has named one yet; expected latest, or one of {steps}")
        return checkpoints.of_step(best.step)
    if not checkpoint.isascii() or not checkpoint.isdigit() or int(checkpoint) not in steps:
        raise ConfigError(f"--checkpoint {checkpoint}: none of {run}'s; expected latest, best, or one of {steps}")
    return checkpoints.of_step(int(checkpoint))


def export(checkpoint: Path, what: str, output: Path, *, as_adapter: bool = False) -> None:
    """The model's folder at `output`, whole or not at all. Raises `ConfigError`."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(f"--output {output} is there already; expected a new or an empty folder")
    temporary = output.absolute().with_name(f".{output.absolute().name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        manifest = described(checkpoint)
        has_adapters = f"{PARTS[what]}/body.json" in manifest
        if as_adapter and not has_adapters:
            raise ConfigError(
                f"--adapter: {checkpoint} holds a whole model; expected a run with {PARTS[what]}.lora_rank"
            )
        files = _files(manifest, what)
        if has_adapters:
            files = {name: one for name, one in files.items() if name in OF_PEFT or not OF_A_MODEL.fullmatch(name)}
        temporary.mkdir(parents=True)
        _require_space(temporary, sum(size for _, size, _ in files.values()))
        for name, (source, _, digest) in files.items():
            _copy_verified(checkpoint / source, temporary / name, digest)
        if has_adapters and not as_adapter:
            _merge(checkpoint / PARTS[what], temporary)
        sync_tree(temporary)
        temporary.replace(output.absolute())
        sync(output.absolute().parent)
    except DamagedError as error:
        raise ConfigError(f"{error}; expected a whole checkpoint, such as an older one (--checkpoint STEP)") from None
    except UnreadableHereError as error:
        raise ConfigError(f"{checkpoint} cannot be verified: {error}") from None
    except FileNotFoundError as error:
        raise ConfigError(f"{error.filename} is gone, as the run has newer checkpoints; expected one of them") from None
    except OSError as error:
        raise ConfigError(f"--output {output}: {error.strerror or error}; expected a folder with room for it") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _files(manifest: Mapping[str, tuple[int, str]], what: str) -> dict[str, tuple[str, int, str]]:
    """By name in the export: where it is in the checkpoint, its size and its digest."""
    files = {}
    for source, (size, digest) in manifest.items():
        part, _, name = source.partition("/")
        is_of_model = OF_A_MODEL.fullmatch(name) is not None
        if part == PARTS[what] or (part == PARTS["policy"] and not is_of_model):
            files[name] = source, size, digest
    if "config.json" not in files:
        raise DamagedError(f"the checkpoint has no {PARTS[what]}/config.json")
    return files


def _merge(part: Path, folder: Path) -> None:
    """In place of the adapter's verified files, the whole model. Raises `ConfigError` where its body has changed."""
    from learner.persistence.network_folders import write_sum  # loads torch and transformers

    write_sum(part, folder)
    for name in OF_PEFT:
        (folder / name).unlink()


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"{free / 1e9:.3g} GB are free there, and {needed / 1e9:.3g} GB are needed")


def _copy_verified(source: Path, target: Path, digest: str) -> None:
    """Raises `DamagedError` where the bytes are not those that the manifest describes."""
    algorithm = algorithm_of(digest)
    hasher = new_hasher(algorithm)
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as read, target.open("wb") as written:
        while part := read.read(READ_BYTES):
            hasher.update(part)
            written.write(part)
    if named(algorithm, hasher) != digest:
        raise DamagedError(f"{source} has other bytes than were written")


if __name__ == "__main__":
    import sys

    raise SystemExit(main(sys.argv[1:]))
