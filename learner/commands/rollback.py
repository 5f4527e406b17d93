"""`tppo rollback RUN --to VERSION`: 0 rolled back, 2 not possible, and nothing was changed."""

import argparse
from collections.abc import Sequence

from tppo.run_folder.paths import RunPaths, run_path


def main(argv: Sequence[str]) -> int:
    """Roll back to the checkpoint, and say how to continue."""
    parser = argparse.ArgumentParser(prog="tppo rollback", description="Roll a run back to an older checkpoint.")
    parser.add_argument("run", type=run_path, help="the run's folder, or its name under runs/")
    parser.add_argument("--to", type=int, required=True, metavar="VERSION", help="policy version of a kept checkpoint")
    arguments = parser.parse_args(argv)
    from learner.persistence.rollback import roll_back  # slow to import, as torch is

    roll_back(arguments.run, arguments.to)
    hint = f"continue with: tppo run {RunPaths(arguments.run).config} --resume"
    print(f"{arguments.run} is rolled back to version {arguments.to}; {hint}")
    return 0


if __name__ == "__main__":
    import sys

    raise SystemExit(main(sys.argv[1:]))
