"""Who gets how many rows: between batches, and between the rings that serve them. Pure arithmetic.

Between batches the rule is max-min over rows in flight: the next row goes to the batch with the fewest, so a small
batch is not stuck behind a large one and a late one catches up as rows finish. Between rings, a ring may hold an equal
part of what is outstanding; what the others leave unasked for is given by `leases` after a moment's patience. Where
nothing is pending, a ring that asks takes its part from the one that holds the most. Where a batch is paid for, its
price and its budget decide first what of it a ring may have (`affordable`).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deserve_coordinator.money.exposure import rows_allowed
from deserve_coordinator.money.tariff import StageTerms
from deserve_coordinator.store.money_records import EscrowRecord
from deserve_coordinator.store.records import Backlog

__all__ = ["Transfer", "admitted", "affordable", "batch_shares", "ring_allowance", "transfer"]


@dataclass(frozen=True, slots=True)
class Transfer:
    """`rows` that `source` shall give back so that `asker` may have them."""

    source: str
    asker: str
    rows: int


def affordable(backlog: Sequence[Backlog], terms: Sequence[StageTerms]) -> list[Backlog]:
    """The backlog as a ring with these terms sees it: of a batch that pays, nothing where one of its nodes asks more
    than the batch allows, and no more than its budget and its payments cover. Rings without terms get only what nobody
    pays for.
    """
    return [replace(batch, pending=_payable(batch, terms)) for batch in backlog]


def admitted(backlog: Sequence[Backlog], terms: Sequence[StageTerms]) -> bool:
    """Whether a ring with these terms may compute rows of every batch there is."""
    return all(batch.escrow is None or _admits(batch.escrow, terms) for batch in backlog)


def _admits(escrow: EscrowRecord, terms: Sequence[StageTerms]) -> bool:
    return bool(terms) and all(escrow.admits(stage.prefill, stage.decode) for stage in terms)


def _payable(batch: Backlog, terms: Sequence[StageTerms]) -> int:
    if batch.escrow is None:
        return batch.pending
    if not _admits(batch.escrow, terms):
        return 0
    return rows_allowed(batch.escrow, batch.leased, batch.pending)


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


def transfer(held: Mapping[str, int], wanted: Mapping[str, int]) -> Transfer | None:
    """What evens out the rows that serving rings hold, nothing being pending: from the richest ring to the poorest
    that asks. None where the richest holds no more than its equal part and a margin: a row that moves has its
    tokens computed again, so rings that are nearly even are left alone.
    """
    if not wanted or not held:
        return None
    share = -(-sum(held.values()) // len(held))
    asker = min(wanted, key=lambda ring: held[ring])
    source = max(held, key=lambda ring: held[ring])
    rows = min(wanted[asker], share - held[asker], held[source] - share)
    if rows <= 0 or held[source] - share <= max(2, share // 4):
        return None
    return Transfer(source, asker, rows)
