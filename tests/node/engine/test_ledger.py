"""The ledger against two pretended memories in which every page says what is in it.

Steps, copies in and copies out are interleaved at random. A copy reads its source when it starts and writes its target
when it is done, and whatever was written to the source in between makes it worthless, as a copy by another thread may
be torn. A step then checks each token that it may read.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_network.ring_messages import Chunk
from deserve_node.engine.ledger import Ledger, Transfer
from deserve_node.engine.pages import OutOfPagesError, PoolShape, first_visible, live_pages

Content = dict[int, tuple[int, int]]
"""Offset in the page -> (sequence, position)."""


@dataclass
class Memories:
    """Device slots and host places of all pools, and the copies between them that are under way."""

    shapes: list[PoolShape]
    device: dict[tuple[int, int], Content] = field(default_factory=dict)
    host: dict[tuple[int, int], Content] = field(default_factory=dict)
    lanes: dict[bool, deque[tuple[Transfer, list[Content]]]] = field(
        default_factory=lambda: {True: deque(), False: deque()}
    )
    in_use: dict[int, set[tuple[int, int]]] = field(default_factory=dict)
    """Of each step that is ready and has not ended: its slots."""

    def start(self, transfers: list[Transfer]) -> None:
        for transfer in transfers:
            seen = []
            for copies in transfer.copies:
                for page, slot in zip(copies.pages.tolist(), copies.slots.tolist(), strict=True):
                    if transfer.inward:
                        self._check_unused((copies.pool, slot))
                        seen.append(self.host[copies.pool, page])
                    else:
                        seen.append(dict(self.device.get((copies.pool, slot), {})))
            self.lanes[transfer.inward].append((transfer, seen))

    def _check_unused(self, slot: tuple[int, int]) -> None:
        assert all(slot not in slots for slots in self.in_use.values()), "a step uses this slot"
        for transfer, _ in (*self.lanes[True], *self.lanes[False]):
            for copies in transfer.copies:
                assert slot not in {(copies.pool, other) for other in copies.slots.tolist()}, "a copy uses this slot"

    def finish(self, inward: bool) -> Transfer:
        transfer, seen = self.lanes[inward].popleft()
        contents = iter(seen)
        for copies in transfer.copies:
            for page, slot in zip(copies.pages.tolist(), copies.slots.tolist(), strict=True):
                content = next(contents)
                if inward:
                    self.device[copies.pool, slot] = dict(content)
                else:
                    torn = self.device.get((copies.pool, slot), {}) != content
                    self.host[copies.pool, page] = {} if torn else content
        return transfer

    def compute(self, number: int, tables, chunks: list[Chunk]) -> None:
        """Write the new tokens, then read all that the step's queries see."""
        slots = {(pool, int(s)) for pool, table in enumerate(tables) for s in table.flatten() if s >= 0}
        assert len(slots) == sum((table >= 0).sum() for table in tables), "two pages share a slot"
        self.in_use[number] = slots
        for pool, (shape, table) in enumerate(zip(self.shapes, tables, strict=True)):
            for row, c in zip(table, chunks, strict=True):
                for position in range(c.start, c.start + c.count):
                    page, offset = divmod(position, shape.page_tokens)
                    self.device.setdefault((pool, int(row[page])), {})[offset] = (c.sequence, position)
                for position in range(first_visible(c.start, shape.window, shape.chunk), c.start + c.count):
                    page, offset = divmod(position, shape.page_tokens)
                    assert self.device[pool, int(row[page])].get(offset) == (c.sequence, position)


@dataclass
class Schedule:
    """Rows in microbatches that take turns: they grow, end, begin anew, and fit the memory at every step."""

    shapes: list[PoolShape]
    microbatches: int
    rows: int
    draw: random.Random
    turn: int = 0
    sequences: int = 0
    released: list[int] = field(default_factory=list)
    lengths: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Sequence -> microbatch, tokens."""
    held: dict[int, list[int]] = field(default_factory=dict)

    def step(self) -> tuple[int, list[int], list[Chunk]]:
        self.turn += 1
        microbatch = self.turn % self.microbatches
        for sequence in [s for s in self.lengths if self.draw.random() < 0.05]:
            self._forget(sequence)
        while len(self.lengths) < self.rows:
            self.lengths[self.sequences] = (self.draw.randrange(self.microbatches), 0)
            self.sequences += 1
        chunks: list[Chunk] = []
        on_device = [0] * len(self.shapes)
        # A prompt that is read in chunks belongs to no microbatch.
        for sequence, (own, length) in self.lengths.items():
            if own == microbatch or (length < 12 and self.draw.random() < 0.3):
                self._add(Chunk(sequence, length, self.draw.choice([1, 1, 1, 3, 9]), 0), chunks, on_device)
        for c in chunks:
            self.lengths[c.sequence] = (microbatch, c.start + c.count)
        released, self.released = self.released, []
        return microbatch, released, chunks

    def _add(self, chunk: Chunk, chunks: list[Chunk], on_device: list[int]) -> None:
        need = [
            len(live_pages(chunk.start, chunk.count, shape.window, shape.chunk, shape.page_tokens))
            for shape in self.shapes
        ]
        others = {s: pages for s, pages in self.held.items() if s != chunk.sequence}
        for pool, shape in enumerate(self.shapes):
            total = sum(pages[pool] for pages in others.values()) + need[pool]
            if on_device[pool] + need[pool] > shape.pages or total > shape.capacity:
                if chunk.sequence in self.held and self.draw.random() < 0.5:
                    self._give_up(chunk.sequence)
                return
        for pool, pages in enumerate(need):
            on_device[pool] += pages
        self.held[chunk.sequence] = need
        chunks.append(chunk)

    def _give_up(self, sequence: int) -> None:
        """As a preempted row does; it comes back under another id."""
        self.lengths[sequence] = (-1, 0)
        self.released.append(sequence)
        del self.held[sequence]

    def _forget(self, sequence: int) -> None:
        if sequence in self.held:
            self._give_up(sequence)
        del self.lengths[sequence]


def run(ledger: Ledger, memories: Memories, schedule: Schedule, steps: int, queued: int) -> None:
    waiting: deque[tuple[int, list[Chunk]]] = deque()
    computing: tuple[int, list[Chunk]] | None = None
    draw = schedule.draw
    begun = 0
    while begun < steps or waiting or computing is not None:
        choices = [lane for lane in (True, False) if memories.lanes[lane]]
        moves: list[object] = list(choices)
        if begun < steps and len(waiting) < queued:
            moves.append("begin")
        if computing is not None:
            moves.append("end")
        elif waiting and ledger.ready(waiting[0][0]):
            moves.append("compute")
        assert moves, "nothing moves"
        move = draw.choice(moves)
        if move == "begin":
            microbatch, released, chunks = schedule.step()
            for sequence in released:
                schedule.lengths.pop(sequence, None)
            number, transfers = ledger.begin(microbatch, released, chunks)
            memories.start(transfers)
            waiting.append((number, chunks))
            begun += 1
        elif move == "compute":
            computing = waiting.popleft()
            memories.compute(computing[0], ledger.tables(computing[0]), computing[1])
        elif move == "end":
            assert computing is not None
            memories.in_use.pop(computing[0])
            memories.start(ledger.end(computing[0]))
            computing = None
        else:
            memories.start(ledger.done(memories.finish(bool(move))))


@settings(max_examples=200, deadline=None)
@given(
    device=st.integers(6, 30),
    host=st.integers(0, 60),
    window=st.sampled_from([0, 0, 3, 7]),
    page_tokens=st.sampled_from([1, 2, 4, 5]),
    microbatches=st.integers(1, 5),
    rows=st.integers(1, 14),
    swap_pages=st.integers(0, 12),
    depth=st.integers(0, 3),
    seed=st.integers(0, 1 << 32),
)
def test_every_step_finds_what_earlier_steps_wrote(
    device: int,
    host: int,
    window: int,
    page_tokens: int,
    microbatches: int,
    rows: int,
    swap_pages: int,
    depth: int,
    seed: int,
) -> None:
    shapes = [PoolShape(0, 0, device, host, page_tokens)]
    if window:
        shapes.append(PoolShape(window, 0, max(4, device // 2), host // 2, page_tokens))
    ledger, memories = Ledger(shapes), Memories(shapes)
    ledger.tune(microbatches, swap_pages, depth)
    run(ledger, memories, Schedule(shapes, microbatches, rows, random.Random(seed)), steps=40, queued=depth + 2)


def whole_step(ledger: Ledger, memories: Memories, microbatch: int, chunks: list[Chunk]) -> list[Transfer]:
    """Begin, copy, compute, end, copy. Returns the transfers that it took, in order."""
    seen: list[Transfer] = []
    number, transfers = ledger.begin(microbatch, (), chunks)
    while True:
        seen += transfers
        memories.start(transfers)
        if memories.lanes[False] or memories.lanes[True]:
            transfers = ledger.done(memories.finish(bool(memories.lanes[True])))
        elif ledger.ready(number):
            break
    memories.compute(number, ledger.tables(number), chunks)
    memories.in_use.pop(number)
    transfers = ledger.end(number)
    while transfers or memories.lanes[False]:
        seen += transfers
        memories.start(transfers)
        transfers = ledger.done(memories.finish(False)) if memories.lanes[False] else []
    return seen


def moved(transfers: list[Transfer], *, inward: bool) -> int:
    return sum(len(c.pages) for t in transfers if t.inward == inward for c in t.copies)


def test_a_full_page_is_written_back_once_and_comes_in_each_turn() -> None:
    shapes = [PoolShape(0, 0, 12, 40, page_tokens=4)]
    ledger, memories = Ledger(shapes), Memories(shapes)
    ledger.tune(microbatches=4, swap_pages=3, prefetch_depth=1)
    lengths = dict.fromkeys(range(4), 16)
    out = [moved(whole_step(ledger, memories, m, [Chunk(m, 0, 16, 0)]), inward=False) for m in range(4)]
    assert out == [3, 3, 3, 3]
    traffic = []
    for turn in range(12):
        m = turn % 4
        transfers = whole_step(ledger, memories, m, [Chunk(m, lengths[m], 1, 1)])
        lengths[m] += 1
        traffic.append((moved(transfers, inward=True), moved(transfers, inward=False)))
    # A quota of (12 - 2 * 3) // 4 = 1 page keeps the one that grows; of five pages the four full ones travel.
    assert sum(out for _, out in traffic) == 4
    assert max(inward for inward, _ in traffic) <= 4


def test_where_nothing_is_to_be_swapped_nothing_is_copied() -> None:
    shapes = [PoolShape(0, 0, 40, 40, page_tokens=4)]
    ledger, memories = Ledger(shapes), Memories(shapes)
    for turn in range(20):
        assert whole_step(ledger, memories, turn % 2, [Chunk(turn % 2, turn // 2, 1, 1)]) == []


def test_the_next_steps_pages_come_in_while_one_computes() -> None:
    shapes = [PoolShape(0, 0, 9, 40, page_tokens=4)]
    ledger, memories = Ledger(shapes), Memories(shapes)
    ledger.tune(microbatches=4, swap_pages=3, prefetch_depth=1)
    for m in range(4):
        whole_step(ledger, memories, m, [Chunk(m, 0, 12, 0)])
    arriving = [moved(ledger.begin(m, (), [Chunk(m, 12, 1, 1)])[1], inward=True) for m in (2, 3, 0)]
    assert arriving == [3, 3, 0], "two are placed, the third has to wait for a step to end"


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_steps_are_placed_as_far_ahead_as_told(depth: int) -> None:
    ledger = Ledger([PoolShape(0, 0, 40, 0, page_tokens=4)])
    ledger.tune(microbatches=6, swap_pages=0, prefetch_depth=depth)
    numbers = [ledger.begin(m, (), [Chunk(m, 0, 4, 0)])[0] for m in range(6)]
    assert [ledger.ready(number) for number in numbers] == [ahead <= depth for ahead in range(6)]


def test_a_step_that_exceeds_the_device_says_so() -> None:
    ledger = Ledger([PoolShape(0, 0, 3, 40, page_tokens=4)])
    number, _ = ledger.begin(0, (), [Chunk(0, 0, 13, 0)])
    assert ledger.ready(number)
    with pytest.raises(OutOfPagesError, match="3 pages on the device"):
        ledger.tables(number)


def test_more_than_both_memories_hold_is_refused() -> None:
    ledger = Ledger([PoolShape(0, 0, 3, 1, page_tokens=4)])
    number, _ = ledger.begin(0, (), [Chunk(0, 0, 17, 0)])
    with pytest.raises(OutOfPagesError, match="needs 5 pages, 4 are free"):
        ledger.tables(number)


def test_pages_of_a_released_sequence_stay_until_the_step_that_uses_them_has_ended() -> None:
    shapes = [PoolShape(0, 0, 4, 0, page_tokens=4)]
    ledger = Ledger(shapes)
    first, _ = ledger.begin(0, (), [Chunk(0, 0, 12, 0)])
    second, _ = ledger.begin(1, (0,), [Chunk(1, 0, 8, 0)])
    assert not ledger.ready(second)
    ledger.end(first)
    assert ledger.ready(second)
    assert ledger.pages_used == 2
