"""Metrics of the run as a whole, which learner and dashboard both export, so that either may be scraped."""

from tppo.prometheus.exposed import Exposed, at, of_each, part

LEDGER = {
    "issued": "Windows requested so far; the sum of trained, in flight, parked and dropped.",
    "trained": "Windows that were trained.",
    "in_flight": "Windows requested and not yet trained, parked or dropped.",
    "parked": "Windows without a score, or failed, after every attempt.",
    "dropped": "Windows that an operator dropped.",
}

RUN_METRICS = (
    Exposed(name="tppo_step", unit="steps", meaning="Training steps done.", read=at("step")),
    Exposed(
        name="tppo_total_training_steps",
        unit="steps",
        meaning="Training steps that make the run.",
        read=at("total_training_steps"),
    ),
    *(
        Exposed(name=f"tppo_ledger_{name}", unit="windows", meaning=meaning, read=at("ledger", name))
        for name, meaning in LEDGER.items()
    ),
    Exposed(
        name="tppo_ledger_holds",
        unit="0 or 1",
        meaning="Whether issued = trained + in flight + parked + dropped, as the learner counts.",
        read=at("ledger", "holds"),
    ),
    Exposed(
        name="tppo_ledger_rejected_records",
        unit="records",
        meaning="Records of the inbox that no learner can use; each counts as never arrived.",
        read=at("ledger", "rejected_records"),
    ),
    Exposed(
        name="tppo_queue_waiting_requests",
        unit="requests",
        meaning="Requests in Redis that no worker holds.",
        labels=("queue",),
        read=of_each("queues", number=part("num_waiting")),
    ),
    Exposed(
        name="tppo_queue_leased_requests",
        unit="requests",
        meaning="Requests in Redis that a worker holds.",
        labels=("queue",),
        read=of_each("queues", number=part("num_leased")),
    ),
    Exposed(
        name="tppo_inbox_entries",
        unit="records",
        meaning="Records in Redis that no committed checkpoint covers yet.",
        read=at("num_inbox_entries"),
    ),
    Exposed(
        name="tppo_dead_letters",
        unit="dead letters",
        meaning="Rejected requests and records that are kept, 1000 at most.",
        read=at("dead_letters", "num_kept"),
    ),
    Exposed(
        name="tppo_dead_letters_dropped",
        unit="dead letters",
        meaning="Rejected requests and records that are kept no longer: the oldest, beyond 1000.",
        read=at("dead_letters", "num_dropped"),
    ),
)
