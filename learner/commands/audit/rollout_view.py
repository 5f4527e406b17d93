"""One rollout as a table: every token with what was sampled, estimated and trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyarrow import parquet
from rich.table import Table

from learner.persistence.manifest import DamagedError, verify
from tppo.config import ConfigError
from tppo.digests import UnreadableHereError
from tppo.run_folder.checkpoints import CheckpointFolder
from tppo.run_folder.paths import RunPaths, trace_files

TOKENIZER = "actor/tokenizer.json"
Token = dict[str, Any]  # a row of a trace, and its `step`
Decode = Callable[[list[int]], str]
COLUMNS: dict[str, Callable[[Token], str]] = {  # heading -> cell
    "step": lambda token: str(token["step"]),
    "window": lambda token: str(token["window_index"]),
    "pos": lambda token: str(token["position"]),
    "token": lambda token: str(token["token_id"]),
    "version": lambda token: str(token["policy_version"]),
    "lp rollout": lambda token: _number(token["rollout_logprob"]),
    "lp old": lambda token: _number(token["old_logprob"]),
    "ratio": lambda token: _number(token["ratio"]) + ("*" if token["is_clipped"] else ""),
    "value": lambda token: _number(token["value"]),
    "A raw": lambda token: _number(token["raw_advantage"]),
    "A": lambda token: _number(token["advantage"]),
    "return": lambda token: _number(token["return"]),
    "policy": lambda token: "yes" if token["policy_mask"] else "",
    "value in": lambda token: "" if token["value_step"] is None else f"step {token['value_step']}",
}


def tokens_of(folder: Path, rollout_id: str) -> list[Token]:
    """The rollout's tokens by position, each with the step that took it and the one that trained its value.

    Raises ConfigError for a rollout that no trace has.
    """
    taken: dict[int, Token] = {}
    finished: dict[int, Token] = {}
    for step, path in trace_files(RunPaths(folder).traces).items():
        for token in parquet.read_table(path, filters=[("rollout_id", "==", rollout_id)]).to_pylist():
            token["step"] = step
            if token["in_window"]:
                taken[token["position"]] = token
            if token["value_mask"]:
                finished[token["position"]] = token
    if not taken and not finished:
        raise ConfigError(f"no trace has a token of rollout {rollout_id!r}; expected an id such as 0-17-0")
    return [_merged(taken.get(place), finished.get(place)) for place in sorted(taken | finished)]


def rollout_table(rollout_id: str, tokens: list[Token], decode: Decode | None) -> Table:
    """A line for each token; its text where a tokenizer was found."""
    table = Table(title=f"{rollout_id}: {_summary(tokens)}", caption="* clipped    lp: log-probability")
    for heading in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    if decode is not None:
        table.add_column("text", no_wrap=True)
    for previous, token in zip([None, *tokens], tokens, strict=False):
        if previous is not None and previous["window_index"] != token["window_index"]:
            table.add_section()
        text = [] if decode is None else [repr(decode([token["token_id"]]))[1:-1]]
        table.add_row(*(cell(token) for cell in COLUMNS.values()), *text)
    return table


def decoder(folder: Path) -> Decode | None:
    """Token ids -> text, by the tokenizer of the run's newest checkpoint; None where it has none in this form."""
    checkpoint = CheckpointFolder(RunPaths(folder).checkpoints).newest()
    if checkpoint is None:
        return None
    try:
        verify(checkpoint, only=[TOKENIZER])
    except (DamagedError, UnreadableHereError):
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / TOKENIZER))
    return lambda token_ids: str(tokenizer.decode(token_ids, skip_special_tokens=False))


def _merged(taken: Token | None, finished: Token | None) -> Token:
    """A token as its own step saw it, and what it was worth in the end."""
    token = taken or finished
    assert token is not None
    last = finished or {"return": None, "step": None}
    return {**token, "return": last["return"], "value_step": last["step"]}


def _summary(tokens: list[Token]) -> str:
    windows = {token["window_index"] for token in tokens} - {None}
    versions = sorted({token["policy_version"] for token in tokens})
    ending = _ending(tokens[-1])
    return (
        f"{len(tokens)} tokens, {len(windows)} windows, sampled by versions {versions[0]} to {versions[-1]}, {ending}"
    )


def _ending(last: Token) -> str:
    return "not finished" if last["return"] is None else f"finished with return {last['return']:g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
