"""The console script `tppo`: picks a verb and hands over to that room's own `main`, by module name.

Nothing heavy is imported before the verb is known, so `tppo --help` is instant. The application, `services` and
`learner`, is found beside `tppo` and nowhere else: in a checkout or in the image, but not in the wheel.
"""

import difflib
import importlib
import os
import select
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

VERBS = {
    "run": ("services.local.__main__", "start every process on this machine and train"),
    "compare": ("services.local.compare.__main__", "run several systems on one task and compare them"),
    "doctor": ("services.local.doctor.__main__", "say what is wrong with this machine, or for one run, and what to do"),
    "pretrain-critic": ("services.local.pretrain.__main__", "train the value model on the policy before a run"),
    "download": ("services.local.download", "fetch a model of the Hugging Face Hub"),
    "generation": ("services.generation.__main__", "serve windows: sample responses"),
    "reward": ("services.reward.__main__", "score finished responses"),
    "eval": ("services.local.evaluate.__main__", "accuracy of a checkpoint or a live policy on benchmarks"),
    "score": ("services.reward.commands.score", "score a file of responses with any reward function"),
    "remote-score": ("tppo.scoring.remote", "score a file of responses by a running reward service"),
    "rescore": ("services.reward.commands.rescore", "score a run's responses again with another function"),
    "learner": ("learner.__main__", "train policy and value model"),
    "dashboard": ("services.dashboard.__main__", "a run's page, REST and control; or browse a folder of runs"),
    "summarize": ("services.local.summarize", "write summary and curve of a run whose processes were started by hand"),
    "replay": ("learner.commands.replay.__main__", "rebuild a run from its archived log and compare"),
    "rollback": ("learner.commands.rollback", "return a stopped run to an older checkpoint"),
    "export": ("learner.commands.export", "copy a trained model out of a run, as a Hugging Face folder"),
    "secrets": ("services.local.role_secrets", "make the secrets of a run on several machines, a file for each role"),
    "certs": ("services.local.certs.__main__", "make a development authority and certificates for TLS"),
    "audit": ("learner.commands.audit.__main__", "check a finished or stopped run's promises from its traces"),
}
OTHER_WORDS = {
    "train": "run",
    "start": "run",
    "launch": "run",
    "resume": "run",
    "evaluate": "eval",
    "benchmark": "eval",
    "serve": "generation",
    "generate": "generation",
    "status": "dashboard",
    "pull": "download",
    "fetch": "download",
    "ui": "dashboard",
    "pretrain": "pretrain-critic",
    "pretrain-value-model": "pretrain-critic",
    "verify": "audit",
    "save": "export",
    "convert": "export",
    "check": "doctor",
    "diagnose": "doctor",
    "env": "doctor",
    "merge": "export",
    "certificates": "certs",
    "tls": "certs",
    "keys": "secrets",
    "acl": "secrets",
    "redis-acl": "secrets",
}
"""What others call a verb."""
CONFIG_ERROR_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130
ROOT = Path(__file__).parents[1]
"""Of the checkout, or of the wheel's `tppo`."""


APPLICATION = "a checkout (pip install -e .) or the image"


def usage() -> str:
    """One line per verb, and which of them are missing."""
    lines = [f"  {verb:<15} {what}" for verb, (module, what) in VERBS.items() if _is_here(module)]
    missing = [verb for verb, (module, _) in VERBS.items() if not _is_here(module)]
    notes = [f"The wheel holds the client alone; {', '.join(missing)} need {APPLICATION}."] if missing else []
    return "\n".join(
        ["usage: tppo VERB ...", "", *lines, "", "tppo VERB --help shows the rest, tppo --version the version.", *notes]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; 0 done, 1 failed, 2 wrong use, 130 ended by Ctrl-C."""
    try:
        return _main(argv)
    except KeyboardInterrupt:  # while it loads, or in a verb that has nothing to end in order
        return INTERRUPTED_EXIT_CODE


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"] and arguments[1:]:
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else CONFIG_ERROR_EXIT_CODE
    verb, *rest = arguments
    if verb in ("-V", "--version", "version"):
        print(f"tppo {version('tppo')}")
        return 0
    if verb not in VERBS:
        print(f"tppo: unknown verb {verb!r}; {_suggestion(verb)}", file=sys.stderr)
        return CONFIG_ERROR_EXIT_CODE
    from tppo.config import ConfigError
    from tppo.run_folder.json_files import DamagedFileError

    try:
        return int(_room(VERBS[verb][0]).main(rest))
    except (ConfigError, DamagedFileError) as error:
        print(f"tppo {verb}: {error}", file=sys.stderr)
        return CONFIG_ERROR_EXIT_CODE
    except BrokenPipeError:
        if not _is_unread():
            raise
        return 1


def _suggestion(verb: str) -> str:
    """The verb that was meant, by another system's word for it or by its letters."""
    names = {name: name for name in VERBS} | OTHER_WORDS
    close = difflib.get_close_matches(verb.lower(), names, n=1)
    return f"did you mean {names[close[0]]}?" if close else f"expected one of {', '.join(VERBS)}"


def _room(module: str) -> ModuleType:
    """The verb's module; another folder or package named `services` or `learner` is never taken for ours."""
    if not _is_here(module):
        from tppo.config import ConfigError

        raise ConfigError(f"this verb is not in the wheel, which holds the client alone; expected {APPLICATION}")
    if sys.path[0] != str(ROOT):
        sys.path.insert(0, str(ROOT))
    return importlib.import_module(module)


def _is_here(module: str) -> bool:
    return ROOT.joinpath(*module.split(".")).with_suffix(".py").is_file()


def _is_unread() -> bool:
    """Whether the reader of the output has gone (`tppo ... | head`); then nothing more is written."""
    output = sys.stdout.fileno()
    poll = select.poll()
    poll.register(output, 0)
    has_gone = any(events & select.POLLERR for _, events in poll.poll(0))
    if has_gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return has_gone


if __name__ == "__main__":
    raise SystemExit(main())
