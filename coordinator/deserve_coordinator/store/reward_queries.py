"""SQL over what auditors are paid: out of the margin of the job that they audited, as far as that reaches.

A replay is one prefill of all of a row's positions, so it earns what the audited stage's layers cost for that at the
audited stage's own prefill price, whatever the verdict. No payer and no other node pays for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from deserve_coordinator.money.tariff import PPM, earned_micros
from deserve_coordinator.store.bill_queries import ring_terms
from deserve_coordinator.store.escrow_queries import escrow

__all__ = ["reward_auditors"]

_NO_LEASE = _NO_BILL = -1
"""What an auditor earns hangs on no lease's receipts, and no refuted bill takes it away."""


def reward_auditors(c: sqlite3.Connection, row: int, ring: str, stage: int, auditors: Sequence[bytes]) -> int:
    """Credit these nodes for one replay each of `stage` of `ring` (ring/epoch) over a row; returns micros in all."""
    bill = c.execute(
        "SELECT b.prompt_tokens + b.completion_tokens AS tokens, e.batch_id FROM bills b JOIN escrows e"
        " ON e.job_id = b.job_id WHERE b.row = ? ORDER BY b.position DESC LIMIT 1",
        (row,),
    ).fetchone()
    terms = ring_terms(c, ring)
    if bill is None or stage >= len(terms):
        return 0
    found = escrow(c, bill["batch_id"])
    assert found is not None
    margin = found.exact // PPM - found.exact // (PPM + found.margin_ppm)
    left = max(0, margin - found.rewards)
    given = 0
    for node_id in auditors:
        micros = min(left - given, earned_micros(terms[stage], bill["tokens"], 0))
        if micros <= 0:
            break
        given += micros
        c.execute(
            "INSERT INTO earnings (job_id, position, node_id, lease, micros, units, state)"
            " VALUES (?, ?, ?, ?, ?, 0, 'released')",
            (found.job_id, _NO_BILL, node_id, _NO_LEASE, str(micros)),
        )
        c.execute(
            "INSERT OR IGNORE INTO shown_work (job_id, lease, node_id) VALUES (?, ?, ?)",
            (found.job_id, _NO_LEASE, node_id),
        )
    c.execute("UPDATE escrows SET rewards = ? WHERE batch_id = ?", (str(found.rewards + given), bill["batch_id"]))
    return given
