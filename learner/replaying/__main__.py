"""`tppo replay RUN`: 0 the same weights at each checkpoint, 1 other weights, 2 there is nothing to replay."""

import argparse
import asyncio
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from tppo.config import Config, ConfigError, load

VARIABLE = ("algorithm.", "actor.", "critic.")  # what does not change which records the run needs


def main(argv: Sequence[str]) -> int:
    """Replay, compare, and print what came of it."""
    parser = argparse.ArgumentParser(
        prog="tppo replay", description="Rebuild a run from the base model and its archived log."
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--until", type=int, metavar="STEP", help="stop after this step and leave a checkpoint")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="train a variant on the same experience"
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = _config(arguments.run, arguments.set)
    folder = arguments.run / "replays" / (_variant_name(arguments.set) if arguments.set else "same")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    facts = {"of": str(arguments.run), "changed": arguments.set, "is_off_policy": bool(arguments.set)}
    (folder / "replay.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return _replay(config, arguments.run, folder, until_step=arguments.until, is_variant=bool(arguments.set))


def _replay(config: Config, run: Path, folder: Path, *, until_step: int | None, is_variant: bool) -> int:
    from transformers.utils.logging import disable_progress_bar

    from learner.replaying.replay import replay

    disable_progress_bar()  # type: ignore[no-untyped-call]
    outcome = asyncio.run(replay(config, run, folder, until_step=until_step))
    print(f"replayed {outcome.reached_step} steps into {folder}")
    if outcome.ended_early:
        print("the log ends there")
    if is_variant:
        print("a variant on recorded experience: OFF-POLICY, its responses were sampled by the recorded run's policy")
        return 0
    for one in outcome.comparisons:
        print(f"checkpoint {one.step}: actor {_word(one.is_same_actor)}, critic {_word(one.is_same_critic)}")
    is_same = all(one.is_same_actor and one.is_same_critic for one in outcome.comparisons)
    return 0 if outcome.comparisons and is_same else 1


def _config(run: Path, overrides: Sequence[str]) -> Config:
    for override in overrides:
        if not override.startswith(VARIABLE):
            raise ConfigError(f"--set {override}: the log holds no experience for it; expected one of {VARIABLE}...")
    if not (run / "config.toml").exists():
        raise ConfigError(f"{run} holds no config.toml; expected the folder of a run")
    return load(run / "config.toml", overrides)


def _variant_name(overrides: Sequence[str]) -> str:
    return "variant " + " ".join(overrides).replace("/", "_")


def _word(is_same: bool) -> str:
    return "the same, bit for bit" if is_same else "DIFFERS"


if __name__ == "__main__":
    import sys

    raise SystemExit(main(sys.argv[1:]))
