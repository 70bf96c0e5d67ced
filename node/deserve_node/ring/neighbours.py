"""The links of one stage: to the next one, from the one before, and between head and tail.

Who dials follows from the ring's order: every stage dials the next, and the head dials the tail. A link is accepted
from the peer of the assignment and nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from deserve_network.control_messages import Assign, LinkMeasure, LinkShape, StagePlace
from deserve_network.errors import ClosedByPeer, LinkLost, NetworkError
from deserve_network.link import Link
from deserve_network.links import Links
from deserve_node.errors import NodeError
from deserve_node.proof.errors import CommitmentMismatch

__all__ = ["LINK_DEADLINE_S", "Neighbours", "NoLinkError", "first_cause", "said_goodbye"]

LINK_DEADLINE_S = 120.0
"""Neighbours may still be leaving an earlier ring when we want to link up."""


class NoLinkError(NodeError):
    """A neighbour could not be linked with; `peer_id` says which."""

    def __init__(self, text: str, peer_id: str) -> None:
        super().__init__(text)
        self.peer_id = peer_id


class Neighbours:
    """`next`, `previous` and `token` (between head and tail) are None where the stage has no such neighbour."""

    def __init__(self, assign: Assign, links: Links, *, deadline_s: float = LINK_DEADLINE_S) -> None:
        self.next: Link | None = None
        self.previous: Link | None = None
        self.token: Link | None = None
        self._assign = assign
        self._links = links
        self._deadline_s = deadline_s
        self._open: list[Link] = []

    async def connect(self) -> None:
        """Build every link of this stage. Raises `NoLinkError`, in an exception group."""
        stages, stage = self._assign.stages, self._assign.stage
        last = len(stages) - 1
        if last == 0:
            return
        following = preceding = token = None
        async with asyncio.TaskGroup() as tasks:
            if stage < last:
                following = tasks.create_task(self._dial(stages[stage + 1], str(stage), stage))
            if stage > 0:
                preceding = tasks.create_task(self._accept(stages[stage - 1], str(stage - 1), stage - 1))
            if stage == 0:
                token = tasks.create_task(self._dial(stages[last], "tokens", last))
            elif stage == last:
                token = tasks.create_task(self._accept(stages[0], "tokens", last))
        self.next = following.result() if following else None
        self.previous = preceding.result() if preceding else None
        self.token = token.result() if token else None

    async def close(self) -> None:
        """Close all links at once: one whose peer is gone takes its flushing time. Safe to repeat."""
        await asyncio.gather(*(link.close() for link in self._open))

    async def measure(self) -> LinkMeasure:
        """The link to the stage that our results go to; all zero in a ring of one. Raises `LinkLost`."""
        return await self._onward.measure() if self._onward is not None else LinkMeasure(0.0, 0.0, 0.0, 0.0)

    @property
    def _onward(self) -> Link | None:
        return self.next or self.token

    @property
    def rtt_s(self) -> float:
        """To the stage that our results go to."""
        return self._onward.rtt_s if self._onward is not None else 0.0

    @property
    def carrier(self) -> str:
        """What that link lives on; empty where there is none."""
        return self._onward.carrier if self._onward is not None else ""

    @property
    def bytes_sent(self) -> int:
        return sum(link.bytes_sent for link in self._open)

    @property
    def bytes_received(self) -> int:
        return sum(link.bytes_received for link in self._open)

    def suspect(self, error: BaseException) -> str:
        """Peer id of the neighbour whose loss, or lie, explains `error`; empty where none does."""
        if isinstance(error, NoLinkError | CommitmentMismatch):
            return error.peer_id
        if isinstance(error, LinkLost):
            return next((link.peer_id for link in self._open if link.lost), "")
        return ""

    async def _dial(self, place: StagePlace, name: str, hop: int) -> Link:
        addresses = [address for address in place.addresses if address.endswith(f"/p2p/{place.peer_id}")]
        return await self._stand(place, self._links.dial(addresses, self._name(name), self._shape(hop)))

    async def _accept(self, place: StagePlace, name: str, hop: int) -> Link:
        return await self._stand(place, self._links.accept(self._name(name), place.peer_id, self._shape(hop)))

    async def _stand(self, place: StagePlace, standing: Coroutine[object, object, Link]) -> Link:
        try:
            async with asyncio.timeout(self._deadline_s):
                link = await standing
        except TimeoutError:
            raise NoLinkError(f"no link with {place.name} within {self._deadline_s:g} s", place.peer_id) from None
        except NetworkError as error:
            raise NoLinkError(f"no link with {place.name}: {error}", place.peer_id) from error
        self._open.append(link)
        return link

    def _shape(self, hop: int) -> LinkShape:
        """Both directions of a link are alike: it is used in one, and the other brings acknowledgements."""
        return self._assign.links[hop] if self._assign.links else LinkShape()

    def _name(self, name: str) -> str:
        return f"{self._assign.ring}/{self._assign.epoch}/{name}"


def said_goodbye(error: BaseException) -> bool:
    """Whether a link ended because its other end closed it in order: the ring is being left, no neighbour is lost."""
    return isinstance(error, LinkLost) and isinstance(error.__cause__, ClosedByPeer)


def first_cause(error: BaseException) -> BaseException:
    """What lies at the bottom of exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
