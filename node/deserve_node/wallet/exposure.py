"""How much a node has done for one coordinator without having its signature for it. Pure: no clock, disk or chain.

Work counts from the moment its receipt is signed. It is *due* once the last of its rows has left the ring, because rows
are paid when they are delivered, and until a credit covers it. No chunk is begun while more than `most_chunks` chunks
are due, nor where what the coordinator has locked for this node may not hold another chunk as large as the largest.
Values are micros: millionths of a base unit, which is what a layer-token costs at a price per million.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from deserve_ledger.prices import UNITS_PER_PRICE

__all__ = ["Collateral", "Exposure", "RowName", "Worked"]

RowName = tuple[bytes, int, int, int]
"""Job id, row key, lease, attempt."""
_ELSEWHERE: RowName = (b"", -1, 0, 0)


@dataclass(frozen=True, slots=True)
class Worked:
    """One receipt: which chunk (ring, epoch, number) it is of, what it is worth, and the rows that are still open."""

    work_id: bytes
    chunk: tuple[str, int, int]
    micros: int
    rows: frozenset[RowName] = frozenset()


@dataclass(frozen=True, slots=True)
class Collateral:
    """What the coordinator owes and has locked, base units."""

    credited: int
    """By its newest credit, since the beginning."""
    claimed: int
    held: int
    """Earned, and held back until audits are decided."""
    safe: int
    """Reserved for this node and nobody else, announced releases taken off; claims have been taken off already."""

    @property
    def free(self) -> int:
        """What is left for work that is not credited yet."""
        return self.safe - max(0, self.credited - self.claimed) - self.held


@dataclass(slots=True)
class Exposure:
    most_chunks: int = 1
    _works: dict[bytes, Worked] = field(default_factory=dict)
    _open: dict[bytes, set[RowName]] = field(default_factory=dict)
    _over: set[RowName] = field(default_factory=set)
    """Rows that left before the chunk that they left in was closed."""
    largest_micros: int = 0
    """Of one chunk so far."""

    def worked(self, works: Iterable[Worked]) -> None:
        """Receipts of closed chunks, the same ones any number of times."""
        touched = set()
        for work in works:
            if work.work_id not in self._works:
                self._works[work.work_id] = work
                self._open[work.work_id] = set(work.rows - self._over)
                touched.add(work.chunk)
        for chunk in touched:
            worth = sum(work.micros for work in self._works.values() if work.chunk == chunk)
            self.largest_micros = max(self.largest_micros, worth)

    def remembered(self, works: Iterable[Worked]) -> None:
        """Receipts of rings that have ended. Whether their rows were delivered since is for others to see: they are
        never due, and count against the reservation until they are covered."""
        for work in works:
            self._works[work.work_id] = work
            self._open[work.work_id] = {_ELSEWHERE}

    def over(self, rows: Iterable[RowName]) -> None:
        """These rows have left the ring, finished or not."""
        gone = set(rows)
        self._over |= gone
        for still in self._open.values():
            still -= gone

    def ring_over(self) -> None:
        """What has not left it by now goes on elsewhere."""
        self._over.clear()

    def covered(self, work_ids: Iterable[bytes]) -> None:
        """A credit settles these."""
        for work_id in work_ids:
            self._works.pop(work_id, None)
            self._open.pop(work_id, None)

    @property
    def due_chunks(self) -> int:
        return len({work.chunk for work_id, work in self._works.items() if not self._open[work_id]})

    @property
    def unpaid(self) -> int:
        """Base units of all that no credit covers, due or not; rounded up."""
        return -(-sum(work.micros for work in self._works.values()) // UNITS_PER_PRICE)

    def fault(self, collateral: Collateral) -> str | None:
        """Why no further chunk may be begun, in words; None where nothing is in the way."""
        due = self.due_chunks
        if due > self.most_chunks:
            return f"{due} chunks are unpaid, at most {self.most_chunks} may be"
        next_chunk = max(1, -(-self.largest_micros // UNITS_PER_PRICE))
        left = collateral.free - self.unpaid
        if left < next_chunk:
            return f"the reservation is used up: {max(0, left)} base units are left, a chunk may take {next_chunk}"
        return None
