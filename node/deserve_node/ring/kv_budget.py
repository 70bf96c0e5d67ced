"""The head's account of KV pages on every stage of its ring. Pure.

Pools of equal window, chunk and page size on different stages hold the same pages of the same sequences, so one account
per kind against the smallest such pool covers all stages. The head books a page when it schedules the step that writes
into it; stages see the steps in the same order, so no stage is ever asked for a page that it does not have. A prompt's
pages are reserved when its row is admitted: rows half way through their prompts cannot starve one another.

Where the plan swaps, all pages of a microbatch are on the device while it computes, so each microbatch has its share
beside the ring's bound: with `M_G` pages swapped of each of `N_B` microbatches, `M_KV` pages on the device and steps
prefetched `depth` ahead, (M_KV - (depth + 1) M_G) / N_B + M_G (DeServe, section 3.3; see `deserve_plan.memory`). A row
that needs more is a microbatch of its own, bounded by the device: others make room while it computes, which costs time.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from deserve_node.engine.pages import PoolShape, live_pages, swapped_pages
from deserve_node.ring.forecast import PageForecast
from deserve_plan.plan import RingPlan

__all__ = ["KvBudget"]

_Kind = tuple[int, int, int]
"""Window, chunk, tokens a page."""
RESERVE = 32
"""One page in so many is kept from admission: expectations are met on average only."""


class KvBudget:
    """Pages booked per kind of pool. `stages` are the pools of every stage."""

    def __init__(self, stages: Sequence[Sequence[PoolShape]]) -> None:
        self._stages = stages
        self._kinds: list[_Kind] = sorted({_kind(pool) for pools in stages for pool in pools})
        self.page_tokens = math.gcd(*(kind[2] for kind in self._kinds)) or 1
        """Decodes cross a border between pages at multiples of this only."""
        self._microbatches = 1
        self._device, self._shares = self._bounds(None)
        self._limits = self._device
        self._used = [0] * len(self._kinds)
        self._booked: dict[int, list[int]] = {}
        self._microbatch: dict[int, int] = {}
        self._microbatch_used: defaultdict[int, list[int]] = defaultdict(lambda: [0] * len(self._kinds))
        self._microbatch_rows: Counter[int] = Counter()
        self._forecast = PageForecast(len(self._kinds), self.page_tokens)

    @property
    def used(self) -> int:
        return sum(self._used)

    @property
    def swaps(self) -> bool:
        """Whether microbatches have bounds of their own."""
        return self._shares is not None

    def holds(self, plan: RingPlan) -> bool:
        """Whether what is booked fits the memory as `plan` divides it."""
        return _within(self._used, self._bounds(plan)[0])

    def follow(self, plan: RingPlan) -> None:
        """Divide the memory as `plan` says. The caller sees to it that `holds` is true before the next step."""
        self._microbatches = plan.microbatches
        self._limits, self._shares = self._bounds(plan)

    def can_ever_hold(self, tokens: int, chunk_tokens: int) -> bool:
        """Whether a row of `tokens` in all fits an empty ring, fed in chunks of at most `chunk_tokens`."""
        return _within(self._reservation(tokens, chunk_tokens), self._device)

    def fits_row(self, tokens: int, chunk_tokens: int, remaining: int, unplaced: int) -> bool:
        """Whether a new row of `tokens`, expected to grow by `remaining`, fits now and at any time to come, and a
        microbatch has a place for it beside those that `unplaced` running rows of its size will take."""
        if self._shares is not None and self._places(tokens + remaining) <= unplaced:
            return False
        need = self._reservation(tokens + 1, chunk_tokens)
        if any(u + n > limit for u, n, limit in zip(self._used, need, self._limits, strict=True)):
            return False
        peak = self._forecast.peak_with(self._pages_at(self._forecast.lengths(tokens, remaining)))
        return all(int(p) <= limit - limit // RESERVE for p, limit in zip(peak, self._limits, strict=True))

    def reserve(self, sequence: int, tokens: int, chunk_tokens: int, remaining: int) -> None:
        """Hold a prompt's pages until the row decodes, and expect it to grow by `remaining` tokens."""
        self._hold(sequence, self._reservation(tokens, chunk_tokens))
        self._forecast.expect(sequence, self._pages_at(self._forecast.lengths(tokens, remaining)))

    def fits(self, sequence: int, position: int) -> bool:
        """Whether the decode of `position` fits beside what others have booked."""
        booked = self._booked[sequence]
        need = self._live(position)
        return all(
            used - had + pages <= limit
            for used, had, pages, limit in zip(self._used, booked, need, self._limits, strict=True)
        )

    def book(self, sequence: int, position: int, remaining: int) -> int:
        """Book the pages of decodes from `position` on; the caller has asked `fits`. Returns the position that needs
        the next booking."""
        live = self._live(position)
        self._hold(sequence, live)
        if self._forecast.outdated(sequence, live):
            self._forecast.expect(sequence, self._pages_at(self._forecast.lengths(position + 1, remaining)))
        return (position // self.page_tokens + 1) * self.page_tokens

    def release(self, sequence: int) -> None:
        self.leave(sequence)
        self._forecast.forget(sequence)
        for kind, pages in enumerate(self._booked.pop(sequence)):
            self._used[kind] -= pages

    def advance(self, turns: float) -> None:
        """On average each decoding row has had `turns` tokens more."""
        self._forecast.advance(turns)

    def join(self, sequence: int, microbatch: int) -> None:
        """The row's pages count towards those of `microbatch` from now on."""
        self.leave(sequence)
        self._microbatch[sequence] = microbatch
        self._microbatch_rows[microbatch] += 1
        _add(self._microbatch_used[microbatch], self._booked[sequence], 1)

    def leave(self, sequence: int) -> None:
        """The row is in no microbatch any more; one that was in none is no error."""
        if (microbatch := self._microbatch.pop(sequence, None)) is not None:
            self._microbatch_rows[microbatch] -= 1
            _add(self._microbatch_used[microbatch], self._booked[sequence], -1)

    def overfull(self, microbatch: int) -> bool:
        """Whether the rows of `microbatch` hold more than they may."""
        if self._shares is None:
            return False
        return not _within(self._microbatch_used[microbatch], self._bound(self._microbatch_rows[microbatch]))

    def has_room(self, microbatch: int, sequence: int, beside: Sequence[int] = ()) -> bool:
        """Whether `microbatch` may hold the pages of `sequence`, and of the sequences `beside` it, too."""
        if self._shares is None:
            return True
        total = list(self._microbatch_used[microbatch])
        for one in (sequence, *beside):
            _add(total, self._booked[one], 1)
        return _within(total, self._bound(self._microbatch_rows[microbatch] + 1 + len(beside)))

    def exceeds_share(self, sequence: int) -> bool:
        """Whether a row by itself holds more than a microbatch of several rows may."""
        return self._shares is not None and not _within(self._booked[sequence], self._shares)

    def may_ride(self, microbatch: int, sequence: int, beside: Sequence[int]) -> bool:
        """Whether a chunk of `sequence` may join a step of `microbatch` that has chunks of others `beside` it. A prompt
        that exceeds any share by itself may where the device holds all of the step."""
        if self.has_room(microbatch, sequence, beside):
            return True
        total = [a + b for a, b in zip(self._microbatch_used[microbatch], self._booked[sequence], strict=True)]
        return not beside and self.exceeds_share(sequence) and _within(total, self._device)

    def _places(self, tokens: int) -> int:
        """How many more rows of so many tokens the shares of all microbatches hold; at least one in an empty one."""
        assert self._shares is not None
        need = self._pages_at(np.array([tokens]))[:, 0].tolist()
        places = 0
        for microbatch in range(self._microbatches):
            used = self._microbatch_used[microbatch]
            room = min((s - u) // max(1, n) for s, u, n in zip(self._shares, used, need, strict=True))
            places += max(0, room, int(not any(used)))
        return places

    def _bound(self, rows: int) -> list[int]:
        """Pages of a microbatch of `rows` rows."""
        return self._device if self._shares is None or rows <= 1 else self._shares

    def _bounds(self, plan: RingPlan | None) -> tuple[list[int], list[int] | None]:
        """Pages in all and of one microbatch, per kind; None where no stage swaps."""
        limits = [1 << 62] * len(self._kinds)
        shares = [1 << 62] * len(self._kinds)
        swap_pages = plan.swap_pages if plan is not None else ()
        microbatches = plan.microbatches if plan is not None else 1
        depth = plan.prefetch_depth if plan is not None else 1
        for stage, pools in enumerate(self._stages):
            swapped = swap_pages[stage] if stage < len(swap_pages) else 0
            parts = swapped_pages(pools, swapped, microbatches, depth)
            for pool, part in zip(pools, parts, strict=True):
                kind = self._kinds.index(_kind(pool))
                resident = pool.pages - (depth + 1) * part
                limits[kind] = min(limits[kind], max(pool.pages, resident + microbatches * part))
                if part:
                    shares[kind] = min(shares[kind], resident // microbatches + part)
        return limits, shares if min(shares, default=1 << 62) < 1 << 62 else None

    def _hold(self, sequence: int, pages: list[int]) -> None:
        booked = self._booked.get(sequence)
        microbatch = self._microbatch.get(sequence)
        for kind, count in enumerate(pages):
            more = count - (booked[kind] if booked is not None else 0)
            self._used[kind] += more
            if microbatch is not None:
                self._microbatch_used[microbatch][kind] += more
        self._booked[sequence] = pages

    def _live(self, position: int) -> list[int]:
        return [len(live_pages(position, 1, *kind)) for kind in self._kinds]

    def _reservation(self, tokens: int, chunk_tokens: int) -> list[int]:
        """Pages that a prompt of `tokens` may hold while it comes in chunks, however those are cut."""
        pages = []
        for window, chunk, size in self._kinds:
            whole, reach = -(-tokens // size), window or chunk
            pages.append(min(whole, _most_pages(reach + min(tokens, chunk_tokens) - 1, size)) if reach else whole)
        return pages

    def _pages_at(self, lengths: np.ndarray) -> np.ndarray:
        """Pages of a decoding row at each length, int64 [kinds, lengths]."""
        pages = []
        for window, chunk, size in self._kinds:
            whole, reach = -(-lengths // size), window or chunk
            pages.append(np.minimum(whole, _most_pages(reach, size)) if reach else whole)
        return np.stack(pages)


def _kind(pool: PoolShape) -> _Kind:
    return pool.window, pool.chunk, pool.page_tokens


def _most_pages(tokens: int, page_tokens: int) -> int:
    """Pages that `tokens` consecutive positions touch at most."""
    return (tokens + page_tokens - 2) // page_tokens + 1


def _within(pages: Sequence[int], limits: Sequence[int]) -> bool:
    return all(count <= limit for count, limit in zip(pages, limits, strict=True))


def _add(pages: list[int], more: Sequence[int], sign: int) -> None:
    for kind, count in enumerate(more):
        pages[kind] += sign * count
