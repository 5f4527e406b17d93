"""What a part of the check found, judged by its tolerances, and how it is printed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

Status = Literal["passed", "failed", "measured", "not here"]
Numbers = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Finding:
    """`measured` has no tolerance; `not here` is a feature that this machine lacks, and no pass."""

    part: str
    subject: str
    status: Status
    numbers: Numbers = field(default_factory=dict)
    note: str = ""


def judged(
    part: str,
    subject: str,
    numbers: Numbers,
    *,
    at_most: Numbers | None = None,
    at_least: Numbers | None = None,
    note: str = "",
) -> Finding:
    """Failed where a number is outside of its tolerance, or is not a number."""
    wrong = [f"{name} above {limit:g}" for name, limit in (at_most or {}).items() if not numbers[name] <= limit]
    wrong += [f"{name} below {limit:g}" for name, limit in (at_least or {}).items() if not numbers[name] >= limit]
    wrong += [f"{name} is not finite" for name, number in numbers.items() if not math.isfinite(number)]
    notes = [*wrong, note] if note else wrong
    return Finding(part, subject, "failed" if wrong else "passed", numbers, "; ".join(notes))


def missing(part: str, subject: str, why: str) -> Finding:
    """A feature that this machine, or its torch, does not have."""
    return Finding(part, subject, "not here", note=why)


def attempted(part: str, run: Callable[[], Sequence[Finding]]) -> list[Finding]:
    """What the part finds; a part that raises has failed, and the others still run."""
    try:
        return list(run())
    except Exception as error:  # whatever a driver or a kernel raises
        return [Finding(part, "the part itself", "failed", note=reason(error))]


def table(findings: Sequence[Finding]) -> str:
    """In Markdown, so that it can be published as it is."""
    lines = ["| part | subject | result | numbers | note |", "|---|---|---|---|---|"]
    for one in findings:
        numbers = ", ".join(f"{name} {_shown(number)}" for name, number in one.numbers.items())
        cells = (one.part, one.subject, one.status, numbers, one.note)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> list[dict[str, object]]:
    """A number that is not finite becomes a text: JSON has none."""
    return [
        asdict(one) | {"numbers": {name: x if math.isfinite(x) else str(x) for name, x in one.numbers.items()}}
        for one in findings
    ]


def reason(error: Exception) -> str:
    """Why something is not here."""
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _shown(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
