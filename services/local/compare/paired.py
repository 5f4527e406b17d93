"""Whether two systems or settings differ, from runs that are paired by their seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from services.local.compare.measures import Measures, accuracy_of, by_system, have_exact


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of the paired differences, half the width of its 95 % interval, and Student's two-sided p-value."""

    mean: float
    margin: float
    p_value: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.margin:.4f}"


def paired_difference(numbers: Sequence[float], base: Sequence[float]) -> Difference:
    """Of `numbers` to `base`, seed by seed; two pairs at least. Pairs that all differ alike have no doubt left."""
    if len(numbers) < 2:
        raise ValueError(f"{len(numbers)} pairs; expected two or more")
    pairs = [number - other for number, other in zip(numbers, base, strict=True)]
    if max(pairs) == min(pairs):
        return Difference(pairs[0], 0.0, 1.0 if pairs[0] == 0 else 0.0)
    result = stats.ttest_1samp(pairs, 0.0)
    interval = result.confidence_interval(0.95)
    return Difference(math.fsum(pairs) / len(pairs), float(interval.high - interval.low) / 2, float(result.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values that may be read one by one, with the chance of any false alarm bounded."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def differences(runs: Sequence[Measures]) -> dict[str, tuple[Difference, float]]:
    """Final accuracy of each system less that of the last one, over the seeds that both have, and Holm's p-value.

    Empty where there are fewer than two systems, or fewer than two common seeds.
    """
    is_exact = have_exact(runs)
    finals = {
        system: {run.seed: accuracy_of(run.curve[-1], is_exact=is_exact) for run in of_system}
        for system, of_system in by_system(runs).items()
    }
    *others, last = finals
    found: dict[str, Difference] = {}
    for system in others:
        seeds = sorted(finals[system].keys() & finals[last].keys())
        if len(seeds) > 1:
            of, base = ([finals[name][seed] for seed in seeds] for name in (system, last))
            found[system] = paired_difference(of, base)
    corrected = holm([one.p_value for one in found.values()])
    return {system: (one, p_value) for (system, one), p_value in zip(found.items(), corrected, strict=True)}
