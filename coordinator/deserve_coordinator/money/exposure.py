"""How many rows of a paid job may be out at once, and when that is a matter for an alarm. Pure.

Two limits hold. What a job is charged never exceeds what it may spend: where that is less than the quote of its whole
file, no row is handed out that could break it even if all others out there turned out as dear as the dearest. And what
is unpaid is limited: where a cap is stated, by the same reasoning strictly; where none is, no new rows are handed out
while more is unpaid than one chunk of the rows that are out, and those finish.
"""

from __future__ import annotations

from deserve_coordinator.store.money_records import EscrowRecord
from deserve_ledger.identifiers import CHUNK_STEPS

__all__ = ["exposure_cap", "paused_for", "rows_allowed"]


def exposure_cap(escrow: EscrowRecord, leased: int) -> int:
    """Base units that may be unpaid before no further row is handed out."""
    if escrow.exposure is not None:
        return escrow.exposure
    return max(escrow.dearest, escrow.chunk_cost(max(1, leased), CHUNK_STEPS))


def _by_exposure(escrow: EscrowRecord, leased: int, pending: int) -> int:
    if escrow.exposure is None:
        return pending if escrow.unpaid <= exposure_cap(escrow, leased) else 0
    if escrow.dearest == 0:
        return pending
    # A row that alone exceeds the cap would otherwise wait for ever.
    least = int(escrow.unpaid == 0 and leased == 0)
    return max(least, (escrow.exposure - escrow.unpaid) // escrow.dearest - leased)


def _by_budget(escrow: EscrowRecord, leased: int, pending: int) -> int:
    if not escrow.capped or escrow.dearest == 0:
        return pending
    return (escrow.spend - escrow.charged) // escrow.dearest - leased


def rows_allowed(escrow: EscrowRecord, leased: int, pending: int) -> int:
    """Of `pending` rows, how many may be handed out now, beside `leased` that are out."""
    if escrow.state != "open":
        return 0
    return max(0, min(pending, _by_exposure(escrow, leased, pending), _by_budget(escrow, leased, pending)))


def paused_for(escrow: EscrowRecord, leased: int, pending: int) -> str | None:
    """Why a job with rows waiting gets none: "unpaid", "budget", or None where it does, or waits for its own rows."""
    if pending == 0 or escrow.state != "open" or rows_allowed(escrow, leased, pending):
        return None
    if escrow.unpaid and _by_exposure(escrow, leased, pending) <= 0:
        return "unpaid" if leased == 0 or escrow.exposure is None else None
    return "budget" if leased == 0 else None
