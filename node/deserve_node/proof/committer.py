"""A stage's commitments, beside the steps and never in their way: what passed is noted on the event loop, hashed in a
thread once its chunk is over, compared with what the stage before says of it, signed for, and told to the next stage.

A chunk is over with the first step of a later one, or when the stage before closes it. What that stage says it sent
must be what came: where it is not, the receipt still says what came, and the ring ends with that stage's name.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from deserve_ledger.commitments import print_root_of
from deserve_ledger.identifiers import CHUNK_STEPS, Work, ring_key
from deserve_ledger.merkle import EMPTY_ROOT
from deserve_network.ring_messages import Admit, BookedRoots, Chunk, ChunkClosed, RowLabel, Step
from deserve_node.proof.commitment import Booked, Booking, commit
from deserve_node.proof.errors import CommitmentMismatch
from deserve_node.proof.passage import Passage

__all__ = ["CLOSE_DEADLINE_S", "ClosedWork", "Committer", "StagePosition", "label_fault"]

Result = TypeVar("Result")

CLOSE_DEADLINE_S = 120.0
"""How long the stage before may take to close a chunk that has been hashed here."""
CHUNKS_IN_LINE = 4
"""Chunks that wait for their hashes; then steps wait, too: what they hold is memory."""


@dataclass(frozen=True, slots=True)
class StagePosition:
    """Where the stage stands, its layers [first, last), and what its hidden states are.

    `previous`: peer id of the stage before, none at the head.
    """

    ring: str
    epoch: int
    stage: int
    first: int
    last: int
    dtype: torch.dtype
    hidden: int
    previous: str = ""

    @property
    def layers(self) -> int:
        return self.last - self.first

    def work(self, booking: Booking, chunk: int) -> Work:
        where = (ring_key(self.ring), self.epoch, booking.lease, booking.attempt, self.stage, chunk)
        return Work(booking.job_id, *where)


@dataclass(frozen=True, slots=True)
class ClosedWork:
    """One booking's work in one chunk. `previous_print_root` is what the stage before says; zero at the head, and where
    the ring ended before it said anything."""

    position: StagePosition
    chunk: int
    booked: Booked
    previous_print_root: bytes = EMPTY_ROOT

    @property
    def work(self) -> Work:
        return self.position.work(self.booked.booking, self.chunk)

    @property
    def print_root(self) -> bytes:
        """Over its fingerprints and its layers."""
        return print_root_of(self.position.first, self.position.last, self.booked.printed.root)


@dataclass(slots=True, eq=False)
class _Over:
    """A chunk that is over, until it has been told to the next stage."""

    chunk: int
    hashing: asyncio.Future[list[Booked]]
    signed: bool = False


@dataclass(slots=True)
class _Open:
    chunk: int
    passages: list[Passage] = field(default_factory=list)


class Committer:
    """Of one membership of a ring. All methods belong to the event loop's thread; `finish` ends its own thread.

    `keep` is given the work of a chunk once it is hashed (with each sequence's `Admit`, at the tail), and `sign` once
    it is closed. Both are called in the thread that hashes, and may take their time. What a chunk came to is told on
    only after `sign` has returned. `left` is told of rows that have left the ring, on the event loop.
    """

    def __init__(
        self,
        position: StagePosition,
        *,
        sign: Callable[[Sequence[ClosedWork]], None] = lambda works: None,
        keep: Callable[[Sequence[ClosedWork], Mapping[int, Admit]], None] = lambda works, admits: None,
        left: Callable[[Sequence[RowLabel]], None] = lambda labels: None,
        close_deadline_s: float = CLOSE_DEADLINE_S,
    ) -> None:
        self.position = position
        self.busy_s = 0.0
        """Processor time that the thread has spent."""
        self._sign = sign
        self._keep = keep
        self._left = left
        self._close_deadline_s = close_deadline_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._labels: dict[int, RowLabel] = {}
        self._admits: dict[int, Admit] = {}
        self._gone: list[int] = []
        self._open: _Open | None = None
        self._over: deque[_Over] = deque()
        self._said: dict[int, tuple[BookedRoots, ...]] = {}
        self._news = asyncio.Event()

    def rows(self, labels: Iterable[RowLabel], released: Iterable[int]) -> None:
        """Rows that begin with the next step, and sequences that have left before it."""
        self._labels.update((label.sequence, label) for label in labels)
        gone = [sequence for sequence in released if sequence in self._labels]
        if gone:
            self._gone += gone
            self._left([self._labels[sequence] for sequence in gone])
        for sequence in released if self._admits else ():
            if sequence not in self._labels:
                self._admits.pop(sequence, None)

    def admitted(self, admit: Admit) -> None:
        """At the tail: what it will draw the row's tokens by."""
        self._admits[admit.sequence] = admit

    def concerns(self, chunks: Iterable[Chunk]) -> bool:
        """Whether any of the chunks is of a row that is paid for."""
        return bool(self._labels) and any(chunk.sequence in self._labels for chunk in chunks)

    @property
    def settled(self) -> bool:
        """Whether all that has passed is signed for and told to the next stage."""
        return self._open is None and not self._over

    async def passed(self, step: int, passage: Passage) -> None:
        """A step that `concerns` us has left the stage. Waits while too many chunks are not hashed yet."""
        chunk = step // CHUNK_STEPS
        if self._open is None:
            self._open = _Open(chunk)
        elif self._open.chunk != chunk:
            await self.over(self._open.chunk)
            self._open = _Open(chunk)
        self._open.passages.append(passage)

    async def over(self, chunk: int) -> None:
        """No step of `chunk` comes any more."""
        if self._open is None or self._open.chunk > chunk:
            return
        self._end()
        waiting = [over.hashing for over in self._over if not over.hashing.done()]
        if len(waiting) > CHUNKS_IN_LINE:
            await asyncio.wait(waiting[:1])

    async def rest(self) -> None:
        """No step is under way, and who knows when the next one is."""
        if self._open is not None:
            await self.over(self._open.chunk)

    async def said(self, message: ChunkClosed) -> None:
        """The stage before closes a chunk. Raises `CommitmentMismatch` where none of that number is open."""
        await self.over(message.chunk)
        if message.chunk in self._said or all(over.chunk != message.chunk for over in self._over):
            raise self._mismatch(message.chunk, "closes a chunk in which nothing came that is paid for, or twice")
        self._said[message.chunk] = message.booked
        self._news.set()

    async def run(self, tell: Callable[[ChunkClosed], Awaitable[None]]) -> None:
        """Until cancelled. Raises `CommitmentMismatch`, and what `tell` raises."""
        while True:
            if not self._over:
                self._news.clear()
                await self._news.wait()
                continue
            over = self._over[0]
            works, fault = await self._closed(over)
            over.signed = True
            await self._in_thread(functools.partial(self._sign, works))
            if fault is not None:
                raise fault
            await tell(ChunkClosed(self.position.ring, self.position.epoch, over.chunk, _roots(works)))
            self._over.popleft()

    async def finish(self) -> None:
        """After `run`: sign for what the ring's end left open, which nobody countersigns. Ends the thread."""
        if self._open is not None:
            self._end()
        for over in self._over:
            if not over.signed:
                booked = await over.hashing
                works = self._works(over.chunk, booked, self._said.get(over.chunk, ()))
                await self._in_thread(functools.partial(self._sign, works))
        self._over.clear()
        await asyncio.to_thread(self._thread.shutdown)

    async def _closed(self, over: _Over) -> tuple[list[ClosedWork], CommitmentMismatch | None]:
        """A chunk's work, once it is hashed here and closed by the stage before, and what of that is wrong."""
        try:
            # Shielded: the hashes of a ring that ends are still signed.
            booked = await asyncio.shield(over.hashing)
        except ValueError as error:
            raise self._mismatch(over.chunk, str(error)) from error
        if not self.position.previous:
            return self._works(over.chunk, booked, ()), None
        try:
            async with asyncio.timeout(self._close_deadline_s):
                while over.chunk not in self._said:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise self._mismatch(over.chunk, f"did not close it within {self._close_deadline_s:g} s") from None
        said = self._said.pop(over.chunk)
        works = self._works(over.chunk, booked, said)
        sent = [(_booking(roots), roots.wire_root) for roots in said]
        came = [(one.booking, one.came.root) for one in booked]
        if sent == came:
            return works, None
        return works, self._mismatch(over.chunk, "commits to other bytes than it sent")

    def _works(self, chunk: int, booked: Sequence[Booked], said: Sequence[BookedRoots]) -> list[ClosedWork]:
        print_roots = {_booking(roots): roots.print_root for roots in said}
        return [ClosedWork(self.position, chunk, one, print_roots.get(one.booking, EMPTY_ROOT)) for one in booked]

    def _end(self) -> None:
        """Have the open chunk hashed."""
        assert self._open is not None
        opened, self._open = self._open, None
        labels, admits = dict(self._labels), dict(self._admits)
        for sequence in self._gone:
            del self._labels[sequence]
            self._admits.pop(sequence, None)
        self._gone.clear()
        self._over.append(_Over(opened.chunk, self._in_thread(lambda: self._hash(opened, labels, admits))))
        self._news.set()

    def _hash(self, opened: _Open, labels: dict[int, RowLabel], admits: dict[int, Admit]) -> list[Booked]:
        where = self.position
        booked = commit(
            opened.passages,
            labels,
            lambda booking: where.work(booking, opened.chunk).work_id,
            dtype=where.dtype,
            hidden=where.hidden,
        )
        self._keep(self._works(opened.chunk, booked, ()), admits)
        return booked

    def _in_thread(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        def timed() -> Result:
            began_s = time.thread_time()
            try:
                return work()
            finally:
                self.busy_s += time.thread_time() - began_s

        return asyncio.get_running_loop().run_in_executor(self._thread, timed)

    def _mismatch(self, chunk: int, what: str) -> CommitmentMismatch:
        where, peer = self.position, self.position.previous
        return CommitmentMismatch(f"chunk {chunk} of {where.ring}/{where.epoch}: {peer} {what}", peer, chunk)


def label_fault(step: Step) -> str | None:
    """What of the labels of a step cannot be, in words; None where nothing is wrong."""
    if not step.labels:
        return None
    starts = {chunk.sequence: chunk.start for chunk in step.chunks}
    if any(starts.get(label.sequence) != 0 for label in step.labels):
        return "a label for a sequence that does not begin with it"
    if len({label.sequence for label in step.labels}) != len(step.labels):
        return "two labels for one sequence"
    return None


def _booking(roots: BookedRoots) -> Booking:
    return Booking(roots.job_id, roots.lease, roots.attempt)


def _roots(works: Sequence[ClosedWork]) -> tuple[BookedRoots, ...]:
    return tuple(
        BookedRoots(booking.job_id, booking.lease, booking.attempt, work.booked.left.root, work.print_root)
        for work in works
        for booking in (work.booked.booking,)
    )
