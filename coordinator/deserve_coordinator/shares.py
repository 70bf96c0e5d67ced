"""Who gets how many rows: between batches, and between the rings that serve them. Pure arithmetic.

Between batches the rule is max-min over rows in flight: the next row goes to the batch with the fewest, so a small
batch is not stuck behind a large one and a late one catches up as rows finish. Between rings, a ring may hold an equal
part of what is outstanding; what the others leave unasked for is given by `leases` after a moment's patience.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from deserve_coordinator.store.records import Backlog

__all__ = ["batch_shares", "ring_allowance"]


def batch_shares(backlog: Sequence[Backlog], rows: int) -> dict[str, int]:
    """How many of `rows` to take from each batch, none more than it has pending."""
    given = {b.batch_id: 0 for b in backlog}
    heap = [(b.leased, order, b) for order, b in enumerate(backlog) if b.pending > 0]
    heapq.heapify(heap)
    while rows > 0 and heap:
        in_flight, order, batch = heapq.heappop(heap)
        given[batch.batch_id] += 1
        rows -= 1
        if given[batch.batch_id] < batch.pending:
            heapq.heappush(heap, (in_flight + 1, order, batch))
    return {batch_id: count for batch_id, count in given.items() if count}


def ring_allowance(backlog: Sequence[Backlog], *, wanted: int, held: int, rings: int) -> int:
    """Rows that a ring holding `held` may be given now, with `rings` serving."""
    outstanding = sum(b.pending + b.leased for b in backlog)
    share = -(-outstanding // max(1, rings))
    return max(0, min(wanted, share - held))
