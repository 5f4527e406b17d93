"""The console script `tppo`: picks a verb and hands over to that room's own `main`, by module name.

Nothing heavy is imported before the verb is known, so `tppo --help` is instant.
"""

import importlib
import os
import select
import sys
from collections.abc import Sequence

VERBS = {
    "run": ("services.local.__main__", "start every process on this machine and train"),
    "compare": ("services.local.compare.__main__", "run several systems on one task and compare them"),
    "generation": ("services.generation.__main__", "serve windows: sample responses"),
    "reward": ("services.reward.__main__", "score finished responses"),
    "score": ("services.reward.commands.score", "score a file of responses with any reward function"),
    "rescore": ("services.reward.commands.rescore", "score a run's responses again with another function"),
    "learner": ("learner.__main__", "train policy and value model"),
    "dashboard": ("services.dashboard.__main__", "a run's page, REST and control; or browse a folder of runs"),
    "replay": ("learner.commands.replay.__main__", "rebuild a run from its archived log and compare"),
    "rollback": ("learner.commands.rollback", "return a stopped run to an older checkpoint"),
    "audit": ("learner.commands.audit.__main__", "check a finished or stopped run's promises from its traces"),
}
CONFIG_ERROR_EXIT_CODE = 2


def usage() -> str:
    """One line per verb."""
    lines = [f"  {verb:<12} {what}" for verb, (_, what) in VERBS.items()]
    return "\n".join(["usage: tppo VERB ...", "", *lines, "", "tppo VERB --help tells the rest."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; 0 done, 1 failed, 2 wrong use."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else CONFIG_ERROR_EXIT_CODE
    verb, *rest = arguments
    if verb not in VERBS:
        print(f"tppo: unknown verb {verb!r}; expected one of {', '.join(VERBS)}", file=sys.stderr)
        return CONFIG_ERROR_EXIT_CODE
    from tppo.config import ConfigError

    try:
        return int(importlib.import_module(VERBS[verb][0]).main(rest))
    except ConfigError as error:
        print(f"tppo {verb}: {error}", file=sys.stderr)
        return CONFIG_ERROR_EXIT_CODE
    except BrokenPipeError:
        if not _is_unread():
            raise
        return 1


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
