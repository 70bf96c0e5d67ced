"""The microbatches of a ring: which rows decode together, which of the groups is under way, whose turn is next. Pure.

Stages key KV by sequence, so a row moves between microbatches by being listed elsewhere, at any time at which no token
of it is under way. Prompts belong to no microbatch: their chunks ride with whatever step is next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from deserve_node.ring.step_plan import Row

__all__ = ["Microbatch", "Microbatches"]


@dataclass(slots=True)
class Microbatch:
    """Rows that decode together. `step` is the one under way, `prompts` the rows (as sequences) whose chunks ride in
    it."""

    rows: dict[int, Row] = field(default_factory=dict)
    step: int | None = None
    prompts: list[tuple[Row, int]] = field(default_factory=list)


class Microbatches:
    """The first `count` microbatches carry rows. Further ones exist while steps of prompts alone use them, and until
    rows of an earlier plan have left them."""

    def __init__(self) -> None:
        self._all: list[Microbatch] = [Microbatch()]
        self._sizes: list[int] = [0]
        """Rows of each: asked for with every step."""
        self._idle: deque[int] = deque([0])
        """In the order in which they came back."""
        self.count = 1
        self.rows = 0

    def __getitem__(self, index: int) -> Microbatch:
        return self._all[index]

    @property
    def under_way(self) -> int:
        return len(self._all) - len(self._idle)

    @property
    def occupied(self) -> int:
        """Microbatches that hold rows."""
        return len(self._sizes) - self._sizes.count(0)

    @property
    def largest(self) -> int:
        return max(self._sizes)

    def resize(self, count: int) -> None:
        """`count` microbatches from now on; rows of surplus ones leave them when their step is back."""
        self.count = count
        self._grow(count)

    def idle(self) -> list[int]:
        """Those without a step under way, the one that has been back the longest first."""
        return list(self._idle)

    def spare(self) -> int:
        """One without rows and step, for prompts alone."""
        for index in self._idle:
            if not self._sizes[index]:
                return index
        self._grow(len(self._all) + 1)
        return len(self._all) - 1

    def start(self, index: int, step: int, prompts: list[tuple[Row, int]]) -> None:
        self._idle.remove(index)
        self._all[index].step = step
        self._all[index].prompts = prompts

    def returned(self, index: int, step: int) -> Microbatch:
        """The step is back. Raises `ValueError` where it is not under way in that microbatch."""
        if not 0 <= index < len(self._all) or self._all[index].step != step:
            raise ValueError(f"step {step} is not under way in microbatch {index}")
        self._all[index].step = None
        self._idle.append(index)
        return self._all[index]

    def join(self, row: Row, has_room: Callable[[int], bool] | None = None) -> int:
        """Put a row that decodes into the smallest microbatch, of those with room where there are any."""
        sizes = self._sizes[: self.count]
        roomy = [] if has_room is None else [index for index in range(self.count) if has_room(index)]
        row.microbatch = min(roomy, key=sizes.__getitem__) if roomy else sizes.index(min(sizes))
        self._all[row.microbatch].rows[row.sequence] = row
        self._sizes[row.microbatch] += 1
        self.rows += 1
        return row.microbatch

    def leave(self, row: Row) -> None:
        """Take a row out of its microbatch."""
        del self._all[row.microbatch].rows[row.sequence]
        self._sizes[row.microbatch] -= 1
        row.microbatch = -1
        self.rows -= 1

    def unplanned(self) -> list[Row]:
        """Rows of idle microbatches that the plan no longer has."""
        return [row for index in self._idle if index >= self.count for row in self._all[index].rows.values()]

    def surplus(self, index: int) -> list[Row]:
        """Rows that an idle microbatch has beyond an even share, the last that joined."""
        rows = self._all[index].rows
        share = -(-self.rows // self.count)
        beyond = len(rows) - share
        # A difference of one is even enough: moving costs the row up to one turn.
        if beyond <= 0 or min(self._sizes[: self.count]) >= len(rows) - 1:
            return []
        return list(rows.values())[share:]

    def _grow(self, count: int) -> None:
        while len(self._all) < count:
            self._idle.append(len(self._all))
            self._all.append(Microbatch())
            self._sizes.append(0)
