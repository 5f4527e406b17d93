"""What the responses say: accuracies with their intervals, lengths, and what has no score."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.table import Table
from scipy import stats

from services.local.evaluate.responses import REFUSED, SCORED
from tppo.run_folder.json_lines import Fields
from tppo.scoring.pass_at_k import Estimate, Vote, best_at_k, estimate, ks_up_to, majority_at_k

LEVEL = 0.95
ALL = "all"
Numbers = dict[str, Any]


def summary_of(lines: Iterable[Fields], num_samples: int) -> dict[str, Numbers]:
    """By data source; where there are several, also of all together."""
    by_source: dict[str, list[Fields]] = defaultdict(list)
    everything = sorted((line for line in lines if line["sample"] < num_samples), key=_place)
    for line in everything:
        by_source[line["data_source"]].append(line)
    found = {source: _numbers(of_source, num_samples) for source, of_source in by_source.items()}
    return {**found, ALL: _numbers(everything, num_samples)} if len(found) > 1 else found


def _place(line: Fields) -> tuple[int, int]:
    return line["problem"], line["sample"]


def _numbers(lines: Sequence[Fields], num_samples: int) -> Numbers:
    by_problem: dict[int, list[Fields]] = defaultdict(list)
    for line in lines:
        by_problem[line["problem"]].append(line)
    scored = [[line for line in of_one if line["status"] == SCORED] for of_one in by_problem.values()]
    numbers: Numbers = {
        "problems": len(by_problem),
        "samples": num_samples,
        "responses": len(lines),
        "unscored": sum(line["status"] != SCORED for line in lines),
    }
    for k in ks_up_to(num_samples):
        numbers[f"pass@{k}"] = _over(scored, k, partial(_best, k=k))
        if k > 1:
            numbers[f"maj@{k}"] = _over(scored, k, partial(majority_at_k, k=k))
    sampled = [line for line in lines if line["finish_reason"] != REFUSED]
    if not sampled:
        return numbers | dict.fromkeys(("cut_at_the_limit", "mean_length", "median_length", "longest"))
    lengths = sorted(line["num_tokens"] for line in sampled)
    return numbers | {
        "cut_at_the_limit": sum(line["finish_reason"] == "length" for line in sampled) / len(sampled),
        "mean_length": sum(lengths) / len(lengths),
        "median_length": lengths[len(lengths) // 2],
        "longest": lengths[-1],
    }


def _best(votes: Sequence[Vote], *, k: int) -> float:
    return best_at_k([vote.score for vote in votes], k)


def _over(problems: Sequence[Sequence[Fields]], k: int, of_one: Callable[[Sequence[Vote]], float]) -> Numbers | None:
    """The mean over the problems that have k scores; None where none has."""
    votes = [[Vote(line["answer"], float(line["score"])) for line in lines] for lines in problems if len(lines) >= k]
    found = estimate([of_one(one) for one in votes])
    return None if found is None else {"value": found.mean, "interval": _interval(found), "problems": found.num_prompts}


def _interval(found: Estimate) -> list[float] | None:
    """Student's, over the problems; None for a single one, which says nothing about others."""
    if found.num_prompts < 2:
        return None
    margin = float(stats.t.ppf((1 + LEVEL) / 2, found.num_prompts - 1)) * found.stderr
    return [found.mean - margin, found.mean + margin]


def table_of(summary: Mapping[str, Numbers]) -> Table:
    """For the console."""
    table = Table(show_header=True, min_width=60)
    table.add_column("")
    for source in summary:
        table.add_column(source, justify="right")
    for name in next(iter(summary.values())):
        table.add_row(name.replace("_", " "), *(_cell(numbers[name]) for numbers in summary.values()))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        interval = value["interval"]
        margin = "" if interval is None else f" \N{PLUS-MINUS SIGN} {(interval[1] - interval[0]) / 2:.3f}"
        return f"{value['value']:.3f}{margin}"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
