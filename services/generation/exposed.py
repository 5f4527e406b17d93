"""A generator's Prometheus metrics; the keys are those of its heartbeat."""

from tppo.prometheus.exposed import Exposed, at

GENERATION_METRICS = (
    Exposed(
        name="tppo_generation_policy_version",
        unit="steps",
        meaning="Version of the weights that serve; -1 before the first.",
        read=at("policy_version"),
    ),
    Exposed(
        name="tppo_generation_probe_difference_nats",
        unit="nats",
        meaning="Largest difference from the learner's log-probabilities that the last weight update's probe found.",
        read=at("probe_difference"),
    ),
    Exposed(
        name="tppo_generation_probe_tolerance_nats",
        unit="nats",
        meaning="Largest difference that may be rounding; a generator beyond it serves nothing.",
        read=at("probe_tolerance"),
    ),
    Exposed(
        name="tppo_generation_disagreements_total",
        unit="weight updates",
        meaning="Weight updates after which the engine did not compute what the learner does.",
        read=at("num_disagreements"),
    ),
    Exposed(
        name="tppo_generation_slots",
        unit="slots",
        meaning="Responses that the generator can extend at once.",
        read=at("num_slots"),
    ),
    Exposed(
        name="tppo_generation_active_slots",
        unit="slots",
        meaning="Responses that it extends now.",
        read=at("num_active"),
    ),
    Exposed(
        name="tppo_generation_waiting_requests",
        unit="requests",
        meaning="Requests that the engine has taken and that have no slot yet.",
        read=at("num_waiting"),
    ),
    Exposed(
        name="tppo_generation_held_requests",
        unit="requests",
        meaning="Requests under a lease of the generator, running or waiting.",
        read=at("num_held"),
    ),
    Exposed(
        name="tppo_generation_tokens_total",
        unit="tokens",
        meaning="Tokens sampled.",
        read=at("num_tokens_generated"),
    ),
    Exposed(
        name="tppo_generation_prefill_tokens_total",
        unit="tokens",
        meaning="Tokens of prompts and prefixes that prefill computed; what samples of one prompt share counts once.",
        read=at("num_prefill_tokens"),
    ),
    Exposed(
        name="tppo_generation_shared_prefill_tokens_total",
        unit="tokens",
        meaning="Tokens of prefixes whose KV cache was taken over from another row, as of a sibling sample.",
        read=at("num_shared_prefill_tokens"),
    ),
    Exposed(
        name="tppo_generation_kv_cache_use",
        unit="share",
        meaning="Share of the KV cache's room that the running responses take; absent where the engine does not know.",
        read=at("kv_cache_use"),
    ),
    Exposed(
        name="tppo_generation_tokens_per_second",
        unit="tokens per second",
        meaning="Tokens sampled a second, over the last ten heartbeats.",
        read=at("tokens_per_second"),
    ),
    Exposed(
        name="tppo_generation_decode_steps_total",
        unit="decode steps",
        meaning="Decode steps in which a training window ran.",
        read=at("num_decode_steps"),
    ),
    Exposed(
        name="tppo_generation_active_slot_steps_total",
        unit="slots",
        meaning="Sum over these decode steps of the slots in use.",
        read=at("num_active_slot_steps"),
    ),
    Exposed(
        name="tppo_generation_busy_seconds_total",
        unit="seconds",
        meaning="Time in which the engine computed.",
        read=at("busy_seconds"),
    ),
    Exposed(
        name="tppo_generation_windows_total",
        unit="windows",
        meaning="Windows that ended, failed ones too.",
        read=at("num_windows"),
    ),
    Exposed(
        name="tppo_generation_cut_windows_total",
        unit="windows",
        meaning="Windows that were handed over: posted short, at a stop or beyond their bound.",
        read=at("num_cut"),
    ),
    Exposed(
        name="tppo_generation_handed_back_requests_total",
        unit="requests",
        meaning="Requests whose lease was released for another generator, unserved or by weights that were disproved.",
        read=at("num_handed_back"),
    ),
    Exposed(
        name="tppo_generation_failed_windows_total",
        unit="windows",
        meaning="Windows that failed.",
        read=at("num_failed"),
    ),
    Exposed(
        name="tppo_generation_lost_leases_total",
        unit="leases",
        meaning="Windows that were not delivered because the lease had passed on.",
        read=at("num_leases_lost"),
    ),
    Exposed(
        name="tppo_generation_rejected_requests_total",
        unit="requests",
        meaning="Requests that cannot be served, moved to the dead letters.",
        read=at("num_rejected"),
    ),
)
