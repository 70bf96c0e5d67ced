"""The store's part that concerns audits: each method as one read or one durable write of `Database`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from deserve_coordinator.audits.case import Case, Subject
from deserve_coordinator.audits.reputation import Standing
from deserve_coordinator.store import audit_queries
from deserve_coordinator.store.audit_queries import Committed, SignedPart, Undrawn
from deserve_coordinator.store.database import Database
from deserve_coordinator.store.reward_queries import reward_auditors

__all__ = ["AuditStore"]


class AuditStore:
    """Every method that changes something returns only after the change is durable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def undrawn(self, limit: int) -> list[Undrawn]:
        return await self._database.read(lambda c: audit_queries.undrawn(c, limit))

    async def committed(self, part: Undrawn) -> Committed:
        return await self._database.read(lambda c: audit_queries.committed(c, part))

    async def receipts_of(self, subject: Subject, attempt: int) -> list[SignedPart]:
        return await self._database.read(lambda c: audit_queries.receipts_of(c, subject, attempt))

    async def row_expected(self, subject: Subject) -> tuple[str, int | None]:
        return await self._database.read(lambda c: audit_queries.row_expected(c, subject))

    async def note_drawn(self, row: int, lease: int, drawn: Sequence[Case]) -> list[tuple[bytes, int]]:
        """Returns rows, each with its job, that are over for audits."""
        return await self._database.write(lambda c: audit_queries.note_drawn(c, row, lease, drawn))

    async def open_cases(self) -> list[Case]:
        return await self._database.read(audit_queries.open_cases)

    async def cases(self, batch_id: str) -> list[Case]:
        return await self._database.read(lambda c: audit_queries.cases(c, batch_id))

    async def save(self, case: Case) -> None:
        await self._database.write(lambda c: audit_queries.save_case(c, case))

    async def conclude(
        self, case: Case, standings: dict[bytes, Standing], withdrawn: Sequence[int], barred: bytes | None
    ) -> tuple[list[int], list[tuple[bytes, int]]]:
        """A case was decided: keep it with the standings that follow. Rows that do not stand are taken back,
        `withdrawn` and, of a node that is out, all that it had a part in. Returns those, and, each with its job, rows
        that are over for audits.
        """

        def write(c: sqlite3.Connection) -> tuple[list[int], list[tuple[bytes, int]]]:
            audit_queries.save_case(c, case)
            subject = case.subject
            auditors = [replay.node_id for replay in case.replays if replay.verdict is not None]
            reward_auditors(c, subject.row, f"{subject.ring}/{subject.epoch}", subject.stage, auditors)
            for node_id, standing in standings.items():
                audit_queries.save_standing(c, node_id, standing)
            keys = dict.fromkeys(withdrawn)
            if barred is not None:
                keys.update(dict.fromkeys(audit_queries.refuted(c, barred)))
            taken = audit_queries.withdraw(c, list(keys))
            return taken, audit_queries.decide_rows(c, [case.subject.row])

        return await self._database.write(write)

    async def to_prosecute(self) -> list[tuple[Case, int | None]]:
        return await self._database.read(audit_queries.to_prosecute)

    async def set_challenge(self, audit: bytes, challenge: int) -> None:
        await self._database.write(lambda c: audit_queries.set_challenge(c, audit, challenge))

    async def close_prosecution(self, audit: bytes) -> None:
        await self._database.write(lambda c: audit_queries.close_prosecution(c, audit))

    async def standings(self) -> dict[bytes, Standing]:
        return await self._database.read(audit_queries.standings)

    async def undecided(self, batch_id: str) -> int:
        return await self._database.read(lambda c: audit_queries.undecided(c, batch_id))
