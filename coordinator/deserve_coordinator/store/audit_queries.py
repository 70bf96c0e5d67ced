"""SQL over audits: cases and replays, standings, what is to be drawn, and taking back results that do not stand."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deserve_coordinator.audits.case import Case, Kind, Outcome, Phase, Replay, Subject, Verdict
from deserve_coordinator.audits.reputation import Standing
from deserve_coordinator.store import bill_queries, clearing_queries
from deserve_coordinator.store.money_records import ReceiptRecord
from deserve_ledger.commitments import ReceiptRoots
from deserve_ledger.merkle import EMPTY_ROOT

__all__ = [
    "Committed",
    "SignedPart",
    "StageShown",
    "Undrawn",
    "case",
    "cases",
    "close_prosecution",
    "committed",
    "decide_rows",
    "note_drawn",
    "open_cases",
    "receipts_of",
    "refuted",
    "row_expected",
    "save_case",
    "save_standing",
    "set_challenge",
    "standing",
    "standings",
    "to_prosecute",
    "undecided",
    "undrawn",
    "withdraw",
]

_SUBJECT = tuple(field.name for field in dataclasses.fields(Subject))
_STANDING = tuple(field.name for field in dataclasses.fields(Standing))


@dataclass(frozen=True, slots=True)
class Undrawn:
    """A delivered row's part under one lease, of which it is not known yet whether it is audited."""

    batch_id: str
    job_id: bytes
    row: int
    lease: int
    holder: str
    """ring/epoch"""
    expires_s: float
    """When its batch ends."""


@dataclass(frozen=True, slots=True)
class StageShown:
    """One stage of the ring that computed a lease. `complete`: its receipts show all that the lease's bills are for."""

    stage: int
    node_id: bytes
    first: int
    last: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Committed:
    """How far the stages of a lease have committed to it. `anchor` and `position` are of the newest root with a receipt
    of it; None while one of its receipts is not anchored yet."""

    stages: tuple[StageShown, ...]
    anchor: bytes | None
    position: int | None

    @property
    def complete(self) -> bool:
        return self.position is not None and all(stage.complete for stage in self.stages)


@dataclass(frozen=True, slots=True)
class SignedPart:
    """A receipt, and the root over the fingerprints of the stage before as that one signed it, or zero."""

    receipt: ReceiptRecord
    previous_print_root: bytes

    @property
    def roots(self) -> ReceiptRoots:
        signed = self.receipt
        own = (signed.in_root, signed.out_root, signed.wire_root, signed.print_root)
        return ReceiptRoots(signed.work_id, *own, self.previous_print_root)


def save_case(c: sqlite3.Connection, saved: Case) -> None:
    """Write a case as it is now, replays included."""
    subject = dataclasses.astuple(saved.subject)
    columns = "id, " + ", ".join(_SUBJECT[1:])
    state = "kind, phase, latest_s, deadline_s, waits_until_s, asks, outcome, reason"
    marks = ", ".join("?" * (len(subject) + 8))
    c.execute(
        f"INSERT INTO audits ({columns}, {state}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET"
        " phase = excluded.phase, latest_s = excluded.latest_s, deadline_s = excluded.deadline_s,"
        " waits_until_s = excluded.waits_until_s, asks = excluded.asks, outcome = excluded.outcome,"
        " reason = excluded.reason",
        (
            *subject,
            saved.kind,
            saved.phase,
            saved.latest_s,
            saved.deadline_s,
            saved.waits_until_s,
            saved.asks,
            saved.outcome,
            saved.reason,
        ),
    )
    c.executemany(
        f"INSERT OR REPLACE INTO replays VALUES ({', '.join('?' * 13)})",
        [_replay_row(saved.subject.audit, place, replay) for place, replay in enumerate(saved.replays)],
    )


def _replay_row(audit: bytes, place: int, replay: Replay) -> tuple[Any, ...]:
    verdict = replay.verdict
    said: tuple[Any, ...] = (None,) * 4
    if verdict is not None:
        said = (int(verdict.passed), verdict.error_ppm, verdict.position, verdict.reason)
    who = (replay.task, audit, place, replay.node_id, replay.operator, replay.hardware)
    return (*who, replay.commitment, int(replay.asked_to_reveal), *said, int(replay.dropped))


def _case(c: sqlite3.Connection, row: sqlite3.Row) -> Case:
    subject = Subject(row["id"], *(row[name] for name in _SUBJECT[1:]))
    found = c.execute("SELECT * FROM replays WHERE audit = ? ORDER BY place", (subject.audit,))
    replays = tuple(
        Replay(
            r["task"],
            r["node_id"],
            r["operator"],
            r["hardware"],
            r["commitment"],
            bool(r["asked_to_reveal"]),
            None if r["passed"] is None else Verdict(bool(r["passed"]), r["error_ppm"], r["token"], r["reason"]),
            bool(r["dropped"]),
        )
        for r in found
    )
    return Case(
        subject,
        Kind(row["kind"]),
        Phase(row["phase"]),
        row["latest_s"],
        row["deadline_s"],
        row["waits_until_s"],
        row["asks"],
        replays,
        None if row["outcome"] is None else Outcome(row["outcome"]),
        row["reason"],
    )


def case(c: sqlite3.Connection, audit: bytes) -> Case | None:
    row = c.execute("SELECT * FROM audits WHERE id = ?", (audit,)).fetchone()
    return None if row is None else _case(c, row)


def open_cases(c: sqlite3.Connection) -> list[Case]:
    return [_case(c, row) for row in c.execute("SELECT * FROM audits WHERE phase != 'decided'").fetchall()]


def cases(c: sqlite3.Connection, batch_id: str) -> list[Case]:
    """All of a batch, canaries included."""
    return [_case(c, row) for row in c.execute("SELECT * FROM audits WHERE batch_id = ?", (batch_id,)).fetchall()]


def to_prosecute(c: sqlite3.Connection) -> list[tuple[Case, int | None]]:
    """Refuted audits whose challenge is not over, and its id where it was made."""
    found = c.execute("SELECT * FROM audits WHERE outcome = 'refuted' AND kind = 'real' AND prosecuted = 0")
    return [(_case(c, row), row["challenge"]) for row in found.fetchall()]


def set_challenge(c: sqlite3.Connection, audit: bytes, challenge: int) -> None:
    c.execute("UPDATE audits SET challenge = ? WHERE id = ?", (challenge, audit))


def close_prosecution(c: sqlite3.Connection, audit: bytes) -> None:
    c.execute("UPDATE audits SET prosecuted = 1 WHERE id = ?", (audit,))


def standing(c: sqlite3.Connection, node_id: bytes) -> Standing:
    row = c.execute("SELECT * FROM standings WHERE node_id = ?", (node_id,)).fetchone()
    return Standing() if row is None else Standing(*(row[name] for name in _STANDING))


def standings(c: sqlite3.Connection) -> dict[bytes, Standing]:
    """By node id."""
    found = c.execute("SELECT * FROM standings")
    return {row["node_id"]: Standing(*(row[name] for name in _STANDING)) for row in found}


def save_standing(c: sqlite3.Connection, node_id: bytes, saved: Standing) -> None:
    c.execute(
        f"INSERT OR REPLACE INTO standings VALUES ({', '.join('?' * (1 + len(_STANDING)))})",
        (node_id, *dataclasses.astuple(saved)),
    )


def undrawn(c: sqlite3.Connection, limit: int) -> list[Undrawn]:
    """Parts of delivered, paid rows whose draw has not been made, the oldest bills first."""
    found = c.execute(
        "SELECT DISTINCT e.batch_id, b.job_id, b.row, g.lease, coalesce(d.ring, r.ring) AS holder, t.expires_at"
        " FROM bills b JOIN escrows e ON e.job_id = b.job_id JOIN rows r ON r.key = b.row"
        " JOIN batches t ON t.id = e.batch_id JOIN earnings g ON g.job_id = b.job_id AND g.position = b.position"
        " LEFT JOIN drawn d ON d.row = b.row AND d.lease = g.lease AND g.lease != r.fence"
        " WHERE e.audited AND b.decided = 0 AND b.void = 0 AND NOT EXISTS"
        " (SELECT 1 FROM audit_draws a WHERE a.row = b.row AND a.lease = g.lease)"
        " ORDER BY b.job_id, b.position LIMIT ?",
        (limit,),
    )
    return [Undrawn(*row) for row in found]


def committed(c: sqlite3.Connection, part: Undrawn) -> Committed:
    """What receipts and anchors there are for a lease of a job."""
    stages = tuple(
        StageShown(row["stage"], row["node_id"], row["first"], row["last"], row["receipted"] >= row["units"])
        for row in c.execute(
            "SELECT s.stage, s.node_id, s.first, s.last, coalesce(w.receipted, 0) AS receipted,"
            " (SELECT coalesce(sum(g.units), 0) FROM earnings g WHERE g.job_id = ? AND g.lease = ?"
            " AND g.node_id = s.node_id AND g.state != 'void') AS units"
            " FROM stages s LEFT JOIN shown_work w ON w.job_id = ? AND w.lease = ? AND w.node_id = s.node_id"
            " WHERE s.ring = ? ORDER BY s.stage",
            (part.job_id, part.lease, part.job_id, part.lease, part.holder),
        )
    )
    newest = c.execute(
        "SELECT a.root, a.position, (SELECT count(*) FROM receipts r LEFT JOIN anchors n ON n.number = r.anchor"
        " WHERE r.job_id = ? AND r.lease = ? AND n.position IS NULL) AS loose FROM receipts r"
        " JOIN anchors a ON a.number = r.anchor WHERE r.job_id = ? AND r.lease = ? ORDER BY a.number DESC LIMIT 1",
        (part.job_id, part.lease, part.job_id, part.lease),
    ).fetchone()
    if newest is None or newest["loose"]:
        return Committed(stages, None, None)
    return Committed(stages, newest["root"], newest["position"])


def receipts_of(c: sqlite3.Connection, subject: Subject, attempt: int) -> list[SignedPart]:
    """What the audited node signed for its stage under this lease and attempt, by chunk."""
    names = ", ".join(f"r.{name}" for name in ReceiptRecord.__dataclass_fields__)
    found = c.execute(
        f"SELECT {names}, p.print_root FROM receipts r LEFT JOIN receipts p ON p.job_id = r.job_id"
        " AND p.lease = r.lease AND p.attempt = r.attempt AND p.chunk = r.chunk AND p.ring = r.ring"
        " AND p.epoch = r.epoch AND p.stage = r.stage - 1 WHERE r.job_id = ? AND r.lease = ? AND r.attempt = ?"
        " AND r.ring = ? AND r.epoch = ? AND r.stage = ? AND r.node_id = ? ORDER BY r.chunk",
        (subject.job_id, subject.lease, attempt, subject.ring, subject.epoch, subject.stage, subject.node_id),
    )
    return [SignedPart(ReceiptRecord(*row[:-1]), row[-1] or EMPTY_ROOT) for row in map(tuple, found)]


def row_expected(c: sqlite3.Connection, subject: Subject) -> tuple[str, int | None]:
    """The codec of the subject's batch, and how many tokens passed a stage before the row was done; None where it was
    another lease that finished it."""
    row = c.execute(
        "SELECT b.codec, r.fence, x.prompt_tokens, x.completion_tokens FROM rows r JOIN batches b ON b.id = r.batch_id"
        " LEFT JOIN results x ON x.row = r.key WHERE r.key = ?",
        (subject.row,),
    ).fetchone()
    if row["prompt_tokens"] is None or row["fence"] != subject.lease:
        return row["codec"] or "raw", None
    # The last token is drawn and passes no stage any more.
    passed = max(row["prompt_tokens"], row["prompt_tokens"] + row["completion_tokens"] - 1)
    return row["codec"] or "raw", passed


def note_drawn(c: sqlite3.Connection, row: int, lease: int, drawn: Sequence[Case]) -> list[tuple[bytes, int]]:
    """The draw over all stages of a row under a lease was made, and these cases won. Returns as `decide_rows`."""
    c.execute("INSERT OR IGNORE INTO audit_draws VALUES (?, ?)", (row, lease))
    for won in drawn:
        save_case(c, won)
    return decide_rows(c, [row])


def decide_rows(c: sqlite3.Connection, keys: Sequence[int]) -> list[tuple[bytes, int]]:
    """Something about these rows' audits has changed: let be charged and paid what of their jobs is cleared by now.

    Returns those, as job and row.
    """
    jobs: dict[bytes, None] = {}
    for key in keys:
        jobs |= dict.fromkeys(bill["job_id"] for bill in c.execute("SELECT job_id FROM bills WHERE row = ?", (key,)))
    return [(job_id, row) for job_id in jobs for row in clearing_queries.clear(c, job_id)]


def undecided(c: sqlite3.Connection, batch_id: str) -> int:
    """Delivered rows of an audited batch that may not be published yet."""
    (count,) = c.execute(
        "SELECT count(*) FROM bills b JOIN escrows e ON e.job_id = b.job_id"
        " WHERE e.batch_id = ? AND e.audited AND b.decided = 0 AND b.void = 0",
        (batch_id,),
    ).fetchone()
    return int(count)


def refuted(c: sqlite3.Connection, node_id: bytes) -> list[int]:
    """Delivered rows of batches that are not published, in which the node had a part under any lease."""
    found = c.execute(
        "SELECT DISTINCT r.key FROM bills b JOIN rows r ON r.key = b.row JOIN batches t ON t.id = r.batch_id"
        " JOIN earnings g ON g.job_id = b.job_id AND g.position = b.position"
        " WHERE g.node_id = ? AND b.void = 0 AND r.state = 'done' AND t.status IN ('in_progress', 'finalizing')",
        (node_id,),
    )
    return [row["key"] for row in found]


def withdraw(c: sqlite3.Connection, keys: Sequence[int]) -> list[int]:
    """Take back results that do not stand: the rows are pending again, from their first token, and their batches in
    progress, to the end of their window. Returns the rows that this was done to; those of published batches stay.
    """
    withdrawn = []
    for key in keys:
        row = c.execute(
            "SELECT r.batch_id, x.status, x.prompt_tokens, x.completion_tokens FROM rows r"
            " JOIN results x ON x.row = r.key JOIN batches t ON t.id = r.batch_id"
            " WHERE r.key = ? AND t.status IN ('in_progress', 'finalizing')",
            (key,),
        ).fetchone()
        bill_queries.refute(c, [key])
        if row is None:
            continue
        counted = "completed" if row["status"] == 200 else "failed"
        c.execute("DELETE FROM results WHERE row = ?", (key,))
        c.execute("UPDATE rows SET state = 'pending', log = NULL WHERE key = ?", (key,))
        c.execute("DELETE FROM audit_draws WHERE row = ?", (key,))
        c.execute(
            f"UPDATE batches SET {counted} = {counted} - 1, input_tokens = input_tokens - ?,"
            " output_tokens = output_tokens - ?, status = 'in_progress', finalizing_at = NULL WHERE id = ?",
            (row["prompt_tokens"], row["completion_tokens"], row["batch_id"]),
        )
        # What was still asked about this lease is moot: it is not paid, whatever the answer.
        c.execute(
            "UPDATE audits SET phase = 'decided', outcome = 'not-audited', reason = 'its row was withdrawn'"
            " WHERE row = ? AND phase != 'decided'",
            (key,),
        )
        withdrawn.append(key)
    return withdrawn
