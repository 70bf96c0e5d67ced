"""Draws delivered work for audit, once its stages have committed to it and the beacon after that is known.

A stage that has not committed within its time is asked for evidence whatever the draw says: work that nobody signed for
is not delivered work.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from deserve_coordinator.audits.case import Case, Subject
from deserve_coordinator.audits.policy import AuditPolicy
from deserve_coordinator.audits.reputation import Standing, rate_ppm
from deserve_coordinator.store.audit_queries import Committed, StageShown, Undrawn
from deserve_coordinator.store.audits import AuditStore
from deserve_ledger.draw import PPM, DrawnWork, is_drawn

__all__ = ["Drawing", "Randomness"]

log = logging.getLogger(__name__)

AT_ONCE = 1000
"""Parts of rows that are looked at together."""
NOTHING = bytes(32)


@dataclass(frozen=True, slots=True)
class Randomness:
    """`beacon(position)`: 32 bytes of the ledger, None while too young. `fresh(n)`: n bytes that nobody can guess."""

    beacon: Callable[[int], Awaitable[bytes | None]]
    fresh: Callable[[int], bytes]


class Drawing:
    """`operator_of`: the account that owns a node. `clock` gives Unix seconds."""

    def __init__(
        self,
        store: AuditStore,
        policy: AuditPolicy,
        randomness: Randomness,
        operator_of: Callable[[bytes], Awaitable[bytes]],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._policy = policy
        self._randomness = randomness
        self._operator_of = operator_of
        self._clock = clock
        self._seen_s: dict[tuple[int, int], float] = {}
        """When a part of a row was first found without its commitments; a restart begins anew."""
        self.over: list[tuple[bytes, int]] = []
        """Rows, each with its job, that are over for audits since somebody took them from here."""
        self.rows_drawn = 0
        self.rows_passed_over = 0

    async def draw(self, standings: Mapping[bytes, Standing]) -> list[Case]:
        """Make every draw that can be made, durably. Returns the audits that it brought."""
        found: list[Case] = []
        for part in await self._store.undrawn(AT_ONCE):
            cases = await self._draw_part(part, standings)
            if cases is None:
                continue
            self._seen_s.pop((part.row, part.lease), None)
            self.over += await self._store.note_drawn(part.row, part.lease, cases)
            found += cases
            self.rows_drawn += bool(cases)
            self.rows_passed_over += not cases
        return found

    async def _draw_part(self, part: Undrawn, standings: Mapping[bytes, Standing]) -> list[Case] | None:
        """The cases of one row's part, None where it is too early."""
        state = await self._store.committed(part)
        waited_s = self._clock() - self._seen_s.setdefault((part.row, part.lease), self._clock())
        if not state.complete and waited_s < self._policy.receipts_s:
            return None
        beacon = None if state.position is None else await self._randomness.beacon(state.position)
        if beacon is None and (state.complete or state.position is not None):
            return None
        cases = []
        for stage in state.stages:
            case = await self._draw_stage(part, stage, state, beacon, standings.get(stage.node_id, Standing()))
            cases += [] if case is None else [case]
        return cases

    async def _draw_stage(
        self, part: Undrawn, stage: StageShown, state: Committed, beacon: bytes | None, standing: Standing
    ) -> Case | None:
        rate = rate_ppm(standing, self._policy) if stage.complete else PPM
        work = DrawnWork(stage.node_id, part.job_id, part.row, part.lease, stage.stage)
        anchor, beacon = state.anchor or NOTHING, beacon or NOTHING
        if not is_drawn(work, anchor=anchor, beacon=beacon, rate_ppm=rate):
            return None
        ring, _, epoch = part.holder.rpartition("/")
        log.info("row %d: stage %d of %s is audited", part.row, stage.stage, part.holder)
        subject = Subject(
            self._randomness.fresh(16),
            part.batch_id,
            part.job_id,
            part.row,
            part.lease,
            ring,
            int(epoch),
            stage.stage,
            stage.first,
            stage.last,
            stage.node_id,
            await self._operator_of(stage.node_id),
            anchor,
            state.position or 0,
            beacon,
            rate,
        )
        return Case(subject, latest_s=float(part.expires_s))
