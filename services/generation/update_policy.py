"""How an engine takes new weights."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UpdatePolicy:
    """When new weights are taken, and what becomes of the KV caches that the old ones filled."""

    in_flight: bool = True  # between two tokens; otherwise when the running windows have ended
    recompute_cache: bool = True  # prefill the running rows again with the new weights
