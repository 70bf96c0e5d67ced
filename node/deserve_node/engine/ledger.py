"""The account of a stage's KV over two memories: what to copy in before a step, and out after it. Pure.

Steps begin in the order in which they will compute, ahead of time: while one computes, the pages of the next ones come
in. A step is *placed* when each of its pages has a slot on the device, and *ready* when the copies have arrived, too.
Steps are placed strictly one after the other, so a page that step k + 1 frees is never taken from step k.

With N_B microbatches that swap M_G pages each, a microbatch keeps (M_KV - (1 + depth) M_G) / N_B pages on the device
when it is done, and the rest gives way to the microbatches that come (DeServe, section 3.3, has depth 1). Where that
does not suffice, a step waits until earlier ones have ended; it fails only where its own pages exceed the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from deserve_network.ring_messages import Chunk
from deserve_node.engine.pages import OutOfPagesError, PageTable, PoolShape, swapped_pages
from deserve_node.engine.pool_ledger import Ids, PageCopies, PoolLedger

__all__ = ["Ledger", "Transfer"]


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """Pages to copy, host to device for step `number` where `inward`, else out as write-back `number`.

    Transfers of one direction are done in the order in which the ledger ordered them.
    """

    inward: bool
    number: int
    copies: tuple[PageCopies, ...]


@dataclass(slots=True)
class _Step:
    number: int
    microbatch: int
    released: Sequence[int]
    chunks: Sequence[Chunk]
    wanted: bool = False
    placed: bool = False
    arriving: int = 0
    tables: tuple[PageTable, ...] = ()
    failure: OutOfPagesError | None = None


@dataclass(slots=True)
class Ledger:
    """All pools of a stage; `shapes` say how many pages each has on the device and in host memory.

    `begin`, `done` and `end` return transfers to start now; call `done` when one is finished.
    """

    shapes: Sequence[PoolShape]
    _pools: tuple[PoolLedger, ...] = field(init=False)
    _steps: deque[_Step] = field(init=False, default_factory=deque)
    """Begun and not ended."""
    _quotas: tuple[int | None, ...] = field(init=False)
    """Of each pool: pages of a microbatch that stay while others compute; None: all that can."""
    _prefetch_depth: int = field(init=False, default=1)
    _begun: int = field(init=False, default=0)
    _tickets: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._pools = tuple(PoolLedger(shape, index) for index, shape in enumerate(self.shapes))
        self._quotas = (None,) * len(self.shapes)

    @property
    def pages_used(self) -> int:
        """Pages that sequences hold, on the device or not."""
        return sum(pool.pages.used for pool in self._pools)

    def tune(self, microbatches: int, swap_pages: int, prefetch_depth: int) -> None:
        """How many microbatches take turns, how many pages of each leave meanwhile, how many steps ahead they return.

        Where a pool's part of `swap_pages` is 0, a page leaves it only under need.
        """
        parts = swapped_pages(self.shapes, swap_pages, microbatches, prefetch_depth)
        self._quotas = tuple(
            (shape.pages - (1 + prefetch_depth) * part) // max(1, microbatches) if part > 0 else None
            for shape, part in zip(self.shapes, parts, strict=True)
        )
        self._prefetch_depth = prefetch_depth

    def begin(self, microbatch: int, released: Sequence[int], chunks: Sequence[Chunk]) -> tuple[int, list[Transfer]]:
        """A step that is going to compute after those begun before, once `released` sequences are freed: its number."""
        step = _Step(self._begun, microbatch, released, chunks)
        self._begun += 1
        self._steps.append(step)
        return step.number, self._advance()

    def forget(self, sequences: Sequence[int]) -> None:
        """Free these sequences while no step is under way."""
        assert not self._steps
        for pool in self._pools:
            pool.release(sequences)

    def ready(self, number: int) -> bool:
        """Whether the step may compute, or has failed."""
        step = self._step(number)
        return step.failure is not None or (step.placed and not step.arriving)

    def tables(self, number: int) -> tuple[PageTable, ...]:
        """Of a step that is ready: device slots int32 [sequences, pages] in each pool, -1 where there is no page.

        Raises `OutOfPagesError` where its pages exceed the memory.
        """
        step = self._step(number)
        if step.failure is not None:
            raise step.failure
        return step.tables

    def end(self, number: int) -> list[Transfer]:
        """The oldest step has computed: what its microbatch does not keep may leave."""
        step = self._steps.popleft()
        assert step.number == number, "steps end in the order in which they began"
        leaving = [
            pool.end(number, step.microbatch, quota) for pool, quota in zip(self._pools, self._quotas, strict=True)
        ]
        return self._write_back(leaving) + self._advance()

    def done(self, transfer: Transfer) -> list[Transfer]:
        """A transfer is finished."""
        if transfer.inward:
            self._step(transfer.number).arriving -= 1
            return []
        for pool in self._pools:
            pool.wrote(transfer.number)
        return self._advance()

    def _step(self, number: int) -> _Step:
        return self._steps[number - self._steps[0].number]

    def _advance(self) -> list[Transfer]:
        """Place the next steps, as many as the prefetch depth allows and slots are there for."""
        transfers: list[Transfer] = []
        for ahead, step in enumerate(self._steps):
            if ahead > self._prefetch_depth:
                break
            if step.failure is None and not step.placed:
                try:
                    transfers += self._place(step, alone=ahead == 0)
                except OutOfPagesError as error:
                    step.failure = error
            if not step.placed:
                break
        return transfers

    def _place(self, step: _Step, *, alone: bool) -> list[Transfer]:
        if not step.wanted:
            self._want(step)
        found = [pool.place(step.number, alone=alone) for pool in self._pools]
        copies = tuple(copies for copies, _ in found if copies is not None)
        transfers = self._write_back([urgent for _, urgent in found])
        if copies:
            step.arriving += 1
            transfers.append(Transfer(True, step.number, copies))
        step.placed = all(pool.placed for pool in self._pools)
        if step.placed:
            # Now, before a later step frees and reuses what this one still reads.
            step.tables = tuple(pool.table() for pool in self._pools)
        elif alone and not any(pool.draining for pool in self._pools if not pool.placed):
            short = next(pool for pool in self._pools if not pool.placed)
            raise OutOfPagesError(
                f"a step of {len(step.chunks)} sequences needs more than the {short.shape.pages} pages on the device"
            )
        return transfers

    def _want(self, step: _Step) -> None:
        # All pools give back before any takes: the head counts on that order.
        for pool in self._pools:
            pool.release(step.released)
        for pool in self._pools:
            pool.shrink(step.chunks)
        for pool in self._pools:
            pool.want(step.number, step.microbatch, step.chunks)
        step.wanted = True

    def _write_back(self, leaving: Sequence[Ids]) -> list[Transfer]:
        """One transfer of the pages that leave each pool, if any do."""
        if not any(map(len, leaving)):
            return []
        self._tickets += 1
        copies = [pool.write_back(pages, self._tickets) for pool, pages in zip(self._pools, leaving, strict=True)]
        return [Transfer(False, self._tickets, tuple(c for c in copies if len(c.pages)))]
