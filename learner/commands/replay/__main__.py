"""`tppo replay RUN`: 0 the same weights at each checkpoint, 1 other weights or no checkpoint, 2 nothing to replay."""

import argparse
import asyncio
import json
import logging
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from learner.commands.replay.records import archived_records, read_scores
from learner.parallel.process_counts import OF_POLICY, ProcessCounts
from learner.persistence.definition import at_the_beginning
from learner.ranks.place import RankPlace
from learner.ranks.start import leading
from learner.reporting.conditions import fix_workspace
from tppo.config import Config, ConfigError, dump, load
from tppo.process.shell import configure_logging
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.paths import RunPaths, run_path

if TYPE_CHECKING:
    from learner.commands.replay.replay import ReplayResult
    from learner.reporting.conditions import Level

SCORES = "scores="
RANKS = "ranks"
VARIABLE = ("algorithm.", "actor.", "critic.")  # keys that do not change which records the run needs


def main(argv: Sequence[str]) -> int:
    """Replay, compare, and print the result."""
    arguments = _arguments(argv)
    configure_logging(logging.WARNING)
    variant: list[str] = arguments.variant
    files = [Path(one.removeprefix(SCORES)) for one in variant if one.startswith(SCORES)]
    overrides = [one for one in variant if not one.startswith(SCORES)]
    pinned = {one.partition("=")[0] for one in overrides}
    config = _config(arguments.run, overrides, pinned)
    fix_workspace(config)
    scores = read_scores(files[-1]) if files else None  # of several the last counts
    records = archived_records(arguments.run, scores, pinned=pinned)
    from transformers.utils.logging import disable_progress_bar

    from learner.commands.replay.replay import replay
    from tppo.models.denormals import flush_denormals

    flush_denormals()
    disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = _new_folder(arguments.run, variant)
    place = _place(config, arguments.run)
    config, of_ranks = _with_ranks(config, place, folder)
    with leading(place, config, of_ranks) as team:
        result = asyncio.run(replay(config, records, arguments.run, folder, until_step=arguments.until, team=team))
    return _report(result, arguments.run, folder, counts=place.counts, is_variant=bool(variant))


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tppo replay", description="Rebuild a run from the base model and its archived inbox."
    )
    parser.add_argument("run", type=run_path, help="the run's folder, or its name under runs/")
    parser.add_argument("--until", type=int, metavar="STEP", help="stop after this step and leave a checkpoint")
    parser.add_argument(
        "--with",
        dest="variant",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="train a variant on the same experience: another value of a key of [algorithm], [actor] or [critic], or "
        "scores=FILE, with the output of tppo rescore in FILE (may be repeated)",
    )
    return parser.parse_args(argv)


def _config(run: Path, overrides: Sequence[str], pinned: Collection[str]) -> Config:
    """The one that the run began with; of the `pinned` keys the values of `overrides`. Raises `ConfigError`."""
    for override in overrides:
        if not override.startswith(VARIABLE):
            raise ConfigError(
                f"--with {override}: the archived inbox holds no experience for it; "
                f"expected one of {VARIABLE}... or scores=FILE"
            )
    path = RunPaths(run).config
    if not path.exists():
        raise ConfigError(f"{run} holds no {path.name}; expected the folder of a run")
    newest = CheckpointFolder(RunPaths(run).checkpoints).newest()
    return at_the_beginning(load(path, overrides), newest, pinned=pinned)


def _place(config: Config, run: Path) -> RankPlace:
    """As many ranks of each kind as the run began with: another number rounds differently."""
    notes = CheckpointFolder(RunPaths(run).checkpoints).committed()
    configured = ProcessCounts(config.learner.num_processes, config.critic.num_processes)
    counts = next((ProcessCounts.of(note) for note in notes if OF_POLICY in note), configured)
    return RankPlace(size=counts.total, local_size=counts.total, num_of_value_model=counts.of_value_model)


def _with_ranks(config: Config, place: RankPlace, folder: Path) -> tuple[Config, list[str]]:
    """The configuration, and what the other ranks are called with: they meet in the replay's folder, not the run's."""
    if place.size == 1:
        return config, []
    tables = {
        "run": config.run.model_copy(update={"directory": folder.absolute(), "name": RANKS}),
        "learner": config.learner.model_copy(update={"num_processes": place.counts.of_policy}),
        "critic": config.critic.model_copy(update={"num_processes": place.counts.of_value_model}),
    }
    config, path = config.model_copy(update=tables), folder / f"{RANKS}.toml"
    path.write_text(dump(config), encoding="utf-8")
    return load(path), [str(path)]


def _new_folder(run: Path, variant: Sequence[str]) -> Path:
    """The replay's own, with what it is in `replay.json`; an earlier one of the same name is deleted."""
    name = "variant " + " ".join(variant).replace("/", "_") if variant else "same"
    folder = RunPaths(run).replays / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    facts = {"of": str(run), "changed": variant, "is_off_policy": bool(variant)}
    (folder / "replay.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return folder


def _report(result: "ReplayResult", run: Path, folder: Path, *, counts: ProcessCounts, is_variant: bool) -> int:
    print(f"replayed {result.reached_step} steps into {folder}")
    if result.ended_early:
        print("the archived inbox ends there")
    if is_variant:
        print("a variant on recorded experience: OFF-POLICY, its responses were sampled by the recorded run's policy")
        return 0
    from learner.reporting.conditions import Level, conditions_in, first_step_of_other_rows

    level = Level.of([*conditions_in(run), *conditions_in(folder)])
    print(f"a replay gives {level}")
    if (step := first_step_of_other_rows(run, folder)) is not None:
        print(f"step {step}: OTHER ROWS than those that the run trained on")
    for one in result.comparisons:
        actor, critic = (_compared(is_same, level) for is_same in (one.is_same_actor, one.is_same_critic))
        of_others = f" (trained by another number of processes: {one.counts}, not {counts})"
        note = "" if one.counts == counts else of_others
        print(f"checkpoint {one.step}: actor {actor}, critic {critic}{note}")
    if not result.comparisons:
        print("nothing to compare: committed.jsonl notes no checkpoint up to there")
    is_same = all(one.is_same_actor and one.is_same_critic for one in result.comparisons)
    return 0 if result.comparisons and step is None and (is_same or not level.is_same_bits) else 1


def _compared(is_same: bool, level: "Level") -> str:
    if is_same:
        return "the same, bit for bit"
    return "DIFFERS" if level.is_same_bits else "other bits, as this replay may give"


if __name__ == "__main__":
    import sys

    raise SystemExit(main(sys.argv[1:]))
