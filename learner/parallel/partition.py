"""Which rank passes which rows: a function of their lengths alone, so that it is the same in every incarnation."""

from collections.abc import Sequence


def dealt(lengths: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Each rank's rows, by number: the longest row left goes to the rank with the fewest tokens so far.

    No rank has more than 4/3 of what the best partition gives its fullest one (longest processing time first).
    """
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    tokens = [0] * num_ranks
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        rank = min(range(num_ranks), key=lambda rank: (tokens[rank], rank))
        shares[rank].append(row)
        tokens[rank] += lengths[row]
    return [sorted(share) for share in shares]
