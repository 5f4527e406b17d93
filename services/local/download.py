"""`tppo download NAME`: a model of the Hugging Face Hub as a folder for `model.path`; weights as safetensors only.

The Hub's own client resumes what was interrupted and reads HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE.
"""

import argparse
import fnmatch
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tppo.config import ConfigError

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

WEIGHTS = "*.safetensors"
FILES = (
    WEIGHTS,
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)
LEFT_OUT = ("*/*", "consolidated*")  # other formats' folders, and the same weights once more
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def main(argv: Sequence[str]) -> int:
    """0 when the folder is complete."""
    parser = argparse.ArgumentParser(
        prog="tppo download", description="Fetch a model of the Hugging Face Hub; the same command resumes it."
    )
    parser.add_argument("name", metavar="NAME", help="as the Hub calls it, such as Qwen/Qwen2.5-0.5B-Instruct")
    parser.add_argument("--revision", default="main", help="branch, tag or commit [main]")
    parser.add_argument("--local-dir", type=Path, metavar="FOLDER", help="where it goes [models/NAME]")
    arguments = parser.parse_args(argv)
    folder = arguments.local_dir or Path("models") / arguments.name
    num_bytes = download(arguments.name, folder, revision=arguments.revision)
    print(f"{folder}: {num_bytes / 1e6:,.1f} MB; tppo run CONFIG --set model.path={folder}")
    return 0


def download(name: str, folder: Path, *, revision: str) -> int:
    """The number of bytes that the model has in the folder. Raises `ConfigError` with one sentence."""
    from huggingface_hub import HfApi, snapshot_download  # half a second to import

    with _one_sentence(name, revision):
        wanted = _wanted_files(name, info := HfApi().model_info(name, revision=revision))
        snapshot_download(name, revision=info.sha, local_dir=folder, allow_patterns=wanted, etag_timeout=30)
    # A client that loses the Hub takes a folder that has some files for the model.
    if missing := [file for file in wanted if not (folder / file).is_file()]:
        raise ConfigError(f"{name}: {', '.join(missing)} did not arrive in {folder}; the same command continues")
    return sum((folder / file).stat().st_size for file in wanted)


def _wanted_files(name: str, info: "ModelInfo") -> list[str]:
    """Those that transformers needs and that hold no pickled code. Raises `ConfigError` when it has no such weights."""
    present = [sibling.rfilename for sibling in info.siblings or ()]
    wanted = [file for file in present if _matches(file, FILES) and not _matches(file, LEFT_OUT)]
    if not any(_matches(file, [WEIGHTS]) for file in wanted):
        pickled = [file for file in present if _matches(file, PICKLED)]
        found = f"pickled weights alone ({', '.join(pickled[:3])}), which may run code" if pickled else "no weights"
        raise ConfigError(f"{name}: it has {found}; expected a model with safetensors")
    if "config.json" not in wanted:
        raise ConfigError(f"{name}: it has no config.json; expected a model that transformers loads")
    return wanted


def _matches(file: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)


@contextmanager
def _one_sentence(name: str, revision: str) -> Iterator[None]:
    """What goes wrong between here and the Hub, as `ConfigError`."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    of_the_connection = cast(
        type[Exception], errors.HfHubHTTPError.__bases__[0]
    )  # of the HTTP library that the client is built upon
    try:
        yield
    except errors.HFValidationError as error:
        raise ConfigError(f"{name!r} is no name of a model: {error}; expected ORGANISATION/NAME") from None
    except errors.GatedRepoError:
        raise ConfigError(
            f"{name}: gated; accept its terms at {hub}/{name}, and set HF_TOKEN to a token of that account"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ConfigError(
            f"{name}: no such model at {hub}, or a private one; expected ORGANISATION/NAME, and HF_TOKEN for the latter"
        ) from None
    except errors.RevisionNotFoundError:
        raise ConfigError(f"{name}: no revision {revision!r}; expected a branch, a tag or a commit of it") from None
    except errors.OfflineModeIsEnabled:
        raise ConfigError(
            f"{name}: HF_HUB_OFFLINE is set; expected it unset, or a folder that is here already"
        ) from None
    except (of_the_connection, errors.LocalEntryNotFoundError) as error:
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{name}: {hub} does not answer as a Hub ({cause}); the same command continues") from None
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror or error}; the same command continues") from None
