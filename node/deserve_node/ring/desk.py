"""Who a head has around it: the desk that rows come from and results go to, and the links to its ring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from deserve_network.control_messages import RowResult
from deserve_network.link import Link

__all__ = ["Desk", "HeadLinks"]


class Desk(Protocol):
    """Where rows come from and results go: the coordinator, or a test."""

    def want_rows(self, rows: int, codecs: tuple[str, ...]) -> None:
        """The ring has room for `rows` more, and would pack those of a new job with the first of `codecs` that the
        job allows, else raw. Called again only after `Head.add` was."""

    def rows_done(self, results: Sequence[RowResult]) -> None:
        """Finished rows; the desk keeps them until they are stored."""


@dataclass(frozen=True, slots=True)
class HeadLinks:
    """To the next stage, and to and from the tail."""

    next: Link
    tail: Link
