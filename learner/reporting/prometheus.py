"""The learner's metrics for Prometheus: numbers of its heartbeat, and the newest lines of `metrics.jsonl`.

A name of `metrics.jsonl` becomes `tppo_` and the name, with `_` for every character but letters, digits and `_`. The
name of a generator or a data source in it becomes a label.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tppo.prometheus.exporter import Exporter
from tppo.prometheus.exposed import (
    OWN_LABELS,
    Exposed,
    Sample,
    Status,
    at,
    families,
    number_of,
    of_each,
    part,
    table_at,
)
from tppo.prometheus.run_metrics import RUN_METRICS
from tppo.run_folder.metric_lines import EVALUATION

ENGINE_KL = re.compile("training/engine_kl/(mean|max)/(.+)")
"""Of a generator, which is a label for Prometheus."""
ENGINE_KL_STEPS = 100
"""After so many steps without a comparison of its windows, nothing is known of a generator."""
# Names that end in an operator's reason or a generator's name: any number of metrics for Prometheus.
BY_OTHERS_NAMES = ("ledger/dropped/", "val-core/", "val-aux/", "training/engine_kl/mean/", "training/engine_kl/max/")
OF_AN_EVALUATION = "eval/"
TRACKER_OUTCOMES = ("written", "failed", "dropped")


def _tracker_lines(status: Status) -> Iterator[Sample]:
    for tracker, counts in table_at(status, "trackers").items():
        for outcome in TRACKER_OUTCOMES:
            yield (tracker, outcome), part(f"num_{outcome}")(counts)


ENGINE_METRICS = tuple(
    Exposed(
        name=f"tppo_generator_engine_kl_{what}",
        unit="nats",
        meaning=f"KL of the generator to the learner under the same weights, {which}; of the newest step that "
        "compared its windows.",
        labels=("generator",),
        read=of_each(what),
    )
    for what, which in (("mean", "mean of its tokens"), ("max", "largest of a token"))
)
SCORE = re.compile(r"val-(?:core|aux)/(.+)/acc/((?:mean|best|maj)@\d+)(?:/mean)?")
"""Of a data source or a named set, which is a label for Prometheus, as is what is said of its samples."""


def _scores(status: Status) -> Iterator[Sample]:
    for name, value in status.items():
        if found := SCORE.fullmatch(name):
            yield (found[1], found[2]), value


SCORE_METRICS = (
    Exposed(
        name="tppo_evaluation_score",
        unit="score",
        meaning="Of the newest evaluation, by data source or named set: mean@N, best@K (pass@K) or maj@K.",
        labels=("source", "statistic"),
        read=_scores,
    ),
)
LEARNER_METRICS = (
    *RUN_METRICS,
    Exposed(
        name="tppo_incarnation",
        unit="incarnations",
        meaning="Incarnation of the learner: 1, and one more after each restart.",
        read=at("incarnation"),
    ),
    Exposed(
        name="tppo_paused",
        unit="0 or 1",
        meaning="Whether an operator has paused the run.",
        read=at("control", "paused"),
    ),
    Exposed(
        name="tppo_last_checkpoint_step",
        unit="steps",
        meaning="Step of the newest committed checkpoint.",
        read=at("last_checkpoint_step"),
    ),
    Exposed(
        name="tppo_rollouts",
        unit="rollouts",
        meaning="Rollouts that have not retired, those of evaluations too, by state.",
        labels=("state",),
        read=of_each("rollouts"),
    ),
    Exposed(
        name="tppo_generator_policy_version",
        unit="steps",
        meaning="Version of the weights that the generator has confirmed; -1 before the first.",
        labels=("generator",),
        read=of_each("generators", number=part("policy_version")),
    ),
    Exposed(
        name="tppo_generator_disagreements_total",
        unit="weight updates",
        meaning="Weight updates after which the generator did not compute what the learner does.",
        labels=("generator",),
        read=of_each("generators", number=part("num_disagreements")),
    ),
    Exposed(
        name="tppo_generator_transfer_failed",
        unit="0 or 1",
        meaning="Whether the last transfer of weights to the generator has failed.",
        labels=("generator",),
        read=of_each("generators", number=lambda known: bool(part("error")(known))),
    ),
    Exposed(
        name="tppo_learner_has_error",
        unit="0 or 1",
        meaning="Whether the learner reports an error; its text is on the dashboard.",
        read=lambda status: [((), bool(status["last_error"]))] if "last_error" in status else [],
    ),
    Exposed(
        name="tppo_rank_heartbeat_age_seconds",
        unit="seconds",
        meaning="Time since the newest heartbeat of a rank of the learner, where it is several processes.",
        labels=("rank",),
        read=of_each("ranks", number=part("heartbeat_age_seconds")),
    ),
    Exposed(
        name="tppo_rank_memory_bytes",
        unit="bytes",
        meaning="Resident memory of a rank of the learner, where it is several processes.",
        labels=("rank",),
        read=of_each("ranks", number=part("memory_bytes")),
    ),
    Exposed(
        name="tppo_tracker_lines_total",
        unit="lines",
        meaning="Lines of metrics for TensorBoard or W&B since the learner started: written, failed, or dropped.",
        labels=("tracker", "outcome"),
        read=_tracker_lines,
    ),
    *ENGINE_METRICS,
    *SCORE_METRICS,
)
LIVE_NAMES = {metric.name for metric in LEARNER_METRICS}


class LearnerExporter(Exporter):
    """With the last line of each kind besides the heartbeat."""

    def __init__(self, *, run: str, service: str) -> None:
        super().__init__(LEARNER_METRICS, run=run, service=service)
        self._lines: Mapping[str, Mapping[str, Any]] = {}
        self._engine_kl: Mapping[tuple[str, str], tuple[int, float]] = {}  # by mean or max and generator: step, KL

    def take_line(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl was written; an evaluation may end after that of a later step."""
        if line["kind"] == EVALUATION and line["step"] < self._lines.get(EVALUATION, line)["step"]:
            return
        self._lines = {**self._lines, str(line["kind"]): line}
        self._take_engine_kl(line)

    def collect(self) -> Iterator[Metric]:
        """A number that is in the heartbeat is taken from there; one that the newest step does not define is absent."""
        yield from super().collect()
        yield from families(ENGINE_METRICS, self._engine_status(), *self.own_labels)
        yield from families(SCORE_METRICS, self._lines.get(EVALUATION, {}), *self.own_labels)
        for name, value in self._numbers().items():
            if (known_as := metric_name(name)) not in LIVE_NAMES:
                family = GaugeMetricFamily(known_as, f"{name} of the newest line that has it.", labels=OWN_LABELS)
                family.add_metric(self.own_labels, value)
                yield family

    def _take_engine_kl(self, line: Mapping[str, Any]) -> None:
        """Most steps compare the windows of some generators or of none."""
        step = line.get("step", 0)
        compared = {
            (found[1], found[2]): (step, number)
            for name, value in line.items()
            if (found := ENGINE_KL.fullmatch(name)) and (number := number_of(value)) is not None
        }
        recent = {one: known for one, known in self._engine_kl.items() if step - known[0] < ENGINE_KL_STEPS}
        self._engine_kl = recent | compared

    def _engine_status(self) -> Status:
        status: dict[str, dict[str, float]] = {"mean": {}, "max": {}}
        for (what, generator), (_, number) in self._engine_kl.items():
            status[what][generator] = number
        return status

    def _numbers(self) -> dict[str, float]:
        lines = self._lines
        evaluation = {
            name: value for name, value in lines.get("evaluation", {}).items() if name.startswith(OF_AN_EVALUATION)
        }
        values = {**lines.get("step", {}), **lines.get("end", {}), **evaluation}
        numbers = {name: number_of(value) for name, value in values.items() if not name.startswith(BY_OTHERS_NAMES)}
        return {name: number for name, number in numbers.items() if number is not None}


def metric_name(name: str) -> str:
    """`actor/pg_clipfrac` -> `tppo_actor_pg_clipfrac`."""
    return "tppo_" + re.sub("[^A-Za-z0-9_]", "_", name)
