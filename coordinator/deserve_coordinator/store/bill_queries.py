"""SQL over bills: what a delivered row costs its payer and earns its stages, written with the row's result.

Tokens are paid once, to who drew them: a row that moved from ring to ring pays each for the tokens that it brought
along, and its prompt is paid to the ring that delivered it. Computing a prompt again after a failure is paid by nobody.
A refuted row's bill is void for the payer and for all of the ring; when it is delivered again, it is billed again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from deserve_coordinator.money.results_tree import GrowingTree, result_leaf
from deserve_coordinator.money.tariff import StageTerms, charge_exact, earned_micros, whole_charge
from deserve_coordinator.store.escrow_queries import escrow
from deserve_coordinator.store.records import FinishedRow

__all__ = ["bill_row", "cover", "decide", "leaves", "note_drawn", "note_ring", "refute", "ring_terms", "root_offered"]

_ROOTS_KNOWN = 4096
"""Newest bills whose root a voucher may name: what was asked for a moment ago still counts."""


def note_ring(c: sqlite3.Connection, ring: str, terms: Sequence[StageTerms]) -> None:
    """Fix whose the stages of a ring's epoch are and what they cost. The first word counts."""
    c.executemany(
        "INSERT OR IGNORE INTO stages VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(ring, k, t.node_id, t.first, t.last, str(t.prefill), str(t.decode)) for k, t in enumerate(terms)],
    )


def ring_terms(c: sqlite3.Connection, ring: str) -> list[StageTerms]:
    found = c.execute("SELECT * FROM stages WHERE ring = ? ORDER BY stage", (ring,))
    return [StageTerms(r["node_id"], r["first"], r["last"], int(r["prefill"]), int(r["decode"])) for r in found]


def note_drawn(c: sqlite3.Connection, key: int, lease: int, ring: str, tokens: int) -> None:
    """A row comes back unfinished with `tokens` drawn in all. What earlier leases drew is theirs; the rest is `ring`'s.

    A log that is shorter than before takes tokens back from the newest lease first: they have to be drawn again.
    """
    known = c.execute("SELECT lease, tokens FROM drawn WHERE row = ? AND lease != ? ORDER BY lease", (key, lease))
    rest = tokens
    for row in known.fetchall():
        kept = min(rest, row["tokens"])
        rest -= kept
        c.execute("UPDATE drawn SET tokens = ? WHERE row = ? AND lease = ?", (kept, key, row["lease"]))
    c.execute(
        "INSERT INTO drawn VALUES (?, ?, ?, ?) ON CONFLICT (row, lease) DO UPDATE SET tokens = excluded.tokens",
        (key, lease, ring, rest),
    )


def bill_row(c: sqlite3.Connection, batch_id: str, ring: str, result: FinishedRow) -> None:
    """Charge a row that has just been delivered, and book what its stages earn. Without an escrow, nothing."""
    found = escrow(c, batch_id)
    if found is None:
        return
    row = c.execute(
        "SELECT custom_id, prompt_tokens, most_tokens, unseen_tokens FROM rows WHERE key = ?", (result.key,)
    ).fetchone()
    prompt, completion = _billed_tokens(row, result)
    parts = _parts(c, ring, result, prompt, completion)
    micros = sum(amount for _, _, amount, _ in parts)
    exact = charge_exact(micros, found.margin_ppm)
    leaf = result_leaf(row["custom_id"], result.body)
    tree = GrowingTree.from_bytes(found.bills, found.peaks).with_leaf(leaf)
    c.execute(
        "INSERT INTO bills (job_id, position, row, prompt_tokens, completion_tokens, exact, leaf, root, decided)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            found.job_id,
            found.bills,
            result.key,
            prompt,
            completion,
            str(exact),
            leaf,
            tree.root,
            int(not found.audited),
        ),
    )
    c.executemany(
        "INSERT INTO earnings (job_id, position, node_id, lease, micros, units) VALUES (?, ?, ?, ?, ?, ?)",
        [(found.job_id, found.bills, node, lease, str(amount), units) for node, lease, amount, units in parts],
    )
    c.execute(
        "UPDATE escrows SET bills = ?, peaks = ? WHERE batch_id = ?",
        (tree.count, tree.to_bytes(), batch_id),
    )
    due = 0 if found.audited else exact
    _set_sums(c, batch_id, exact=found.exact + exact, due_exact=found.due_exact + due)


def _billed_tokens(row: sqlite3.Row, result: FinishedRow) -> tuple[int, int]:
    """Never more than the head says, and never more than can be counted in what was asked for and delivered."""
    completion = min(result.completion_tokens, result.shown_tokens)
    if row["prompt_tokens"] is None:
        return result.prompt_tokens, completion if result.shows_all else result.completion_tokens
    if not result.shows_all:
        completion = min(result.completion_tokens, result.shown_tokens + row["unseen_tokens"])
    return row["prompt_tokens"], min(completion, row["most_tokens"])


def _parts(
    c: sqlite3.Connection, ring: str, result: FinishedRow, prompt: int, completion: int
) -> list[tuple[bytes, int, int, int]]:
    """(node id, lease, micros, layer-tokens that its receipts must show) of every stage that has a part in the row."""
    parts = []
    left = completion
    earlier = c.execute(
        "SELECT lease, ring, tokens FROM drawn WHERE row = ? AND lease != ? ORDER BY lease", (result.key, result.lease)
    )
    segments = []
    for row in earlier.fetchall():
        tokens = min(left, row["tokens"])
        left -= tokens
        segments.append((row["ring"], row["lease"], 0, tokens))
    segments.append((ring, result.lease, prompt, left))
    for holder, lease, prefilled, tokens in segments:
        # The last token that is drawn passes no stage any more.
        passed = max(prefilled, prefilled + tokens - 1)
        for terms in ring_terms(c, holder) if prefilled + tokens else ():
            parts.append((terms.node_id, lease, earned_micros(terms, prefilled, tokens), terms.layers * passed))
    return parts


def cover(c: sqlite3.Connection, batch_id: str) -> int:
    """Mark the decided bills that the newest voucher pays for, the oldest first, and release what they earned. Returns
    how many."""
    found = escrow(c, batch_id)
    assert found is not None
    covered, count = found.covered_exact, 0
    bills = c.execute(
        "SELECT position, exact FROM bills WHERE job_id = ? AND covered = 0 AND decided = 1 AND void = 0"
        " ORDER BY position",
        (found.job_id,),
    )
    for bill in bills.fetchall():
        if whole_charge(covered + int(bill["exact"])) > found.paid:
            break
        covered += int(bill["exact"])
        count += 1
        c.execute("UPDATE bills SET covered = 1 WHERE job_id = ? AND position = ?", (found.job_id, bill["position"]))
        c.execute(
            "UPDATE earnings SET state = 'released' WHERE job_id = ? AND position = ? AND state = 'held'",
            (found.job_id, bill["position"]),
        )
    _set_sums(c, batch_id, covered_exact=covered)
    return count


def _set_sums(c: sqlite3.Connection, batch_id: str, **sums: int) -> None:
    columns = ", ".join(f"{name} = ?" for name in sums)
    c.execute(f"UPDATE escrows SET {columns} WHERE batch_id = ?", (*map(str, sums.values()), batch_id))


def decide(c: sqlite3.Connection, keys: Sequence[int]) -> None:
    """No audit of these rows is open any more, and none was failed: what they earned may be credited once paid for."""
    due: dict[str, int] = {}
    for key in keys:
        for bill in c.execute(
            "SELECT b.job_id, b.position, b.exact, e.batch_id FROM bills b JOIN escrows e ON e.job_id = b.job_id"
            " WHERE b.row = ? AND b.decided = 0 AND b.void = 0",
            (key,),
        ).fetchall():
            c.execute(
                "UPDATE bills SET decided = 1 WHERE job_id = ? AND position = ?", (bill["job_id"], bill["position"])
            )
            due[bill["batch_id"]] = due.get(bill["batch_id"], 0) + int(bill["exact"])
    for batch_id, exact in due.items():
        found = escrow(c, batch_id)
        assert found is not None
        _set_sums(c, batch_id, due_exact=found.due_exact + exact)
        cover(c, batch_id)  # a voucher that paid for a refuted row pays for the next one


def refute(c: sqlite3.Connection, keys: Sequence[int]) -> None:
    """These rows' results are wrong: their bills are void. What is in a credit already stays in it."""
    for key in keys:
        bills = c.execute(
            "SELECT b.job_id, b.position, b.exact, b.covered, b.decided, e.batch_id FROM bills b JOIN escrows e"
            " ON e.job_id = b.job_id WHERE b.row = ? AND b.void = 0",
            (key,),
        )
        for bill in bills.fetchall():
            place, found = (bill["job_id"], bill["position"]), escrow(c, bill["batch_id"])
            assert found is not None
            exact = int(bill["exact"])
            c.execute("UPDATE bills SET void = 1, covered = 0 WHERE job_id = ? AND position = ?", place)
            c.execute(
                "UPDATE earnings SET state = 'void' WHERE job_id = ? AND position = ? AND state != 'credited'", place
            )
            _set_sums(
                c,
                bill["batch_id"],
                exact=found.exact - exact,
                due_exact=found.due_exact - (exact if bill["decided"] else 0),
                covered_exact=found.covered_exact - (exact if bill["covered"] else 0),
            )
            c.execute("DELETE FROM drawn WHERE row = ?", (key,))
            cover(c, bill["batch_id"])


def root_offered(c: sqlite3.Connection, job_id: bytes, root: bytes) -> bool:
    """Whether `root` was that of the job's results a moment ago."""
    found = c.execute(
        "SELECT 1 FROM bills WHERE job_id = ? AND root = ? AND position >= (SELECT bills FROM escrows WHERE job_id = ?)"
        " - ? LIMIT 1",
        (job_id, root, job_id, _ROOTS_KNOWN),
    ).fetchone()
    return found is not None


def leaves(c: sqlite3.Connection, job_id: bytes, custom_id: str) -> tuple[list[bytes], int | None]:
    """All result leaves of a job in order, and the index of the newest one of the row with this custom_id."""
    found = c.execute("SELECT leaf FROM bills WHERE job_id = ? ORDER BY position", (job_id,))
    index = c.execute(
        "SELECT max(b.position) FROM bills b JOIN rows r ON r.key = b.row WHERE b.job_id = ? AND r.custom_id = ?",
        (job_id, custom_id),
    ).fetchone()[0]
    return [row["leaf"] for row in found], index
