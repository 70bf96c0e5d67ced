"""Exactly once and in order, whatever breaks: the state machine of a link under arbitrary losses, without sockets."""

from __future__ import annotations

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deserve_network.errors import ProtocolError
from deserve_network.link_state import LinkState, Outgoing, Window

WINDOW = Window(nbytes=100, frames=5)

Wire = collections.deque[tuple[Outgoing[int], tuple[int, int]]]


def connected(window: Window = WINDOW) -> LinkState[int]:
    state: LinkState[int] = LinkState(window)
    assert list(state.resume(0, 0, window)) == []
    return state


class Pair:
    """Two ends and what is under way between them; a cut loses everything under way."""

    def __init__(self) -> None:
        self.ends = (connected(), connected())
        self.wires: tuple[Wire, Wire] = (collections.deque(), collections.deque())
        self.offered = [0, 0]
        self.inbox: tuple[collections.deque[int], collections.deque[int]] = (collections.deque(), collections.deque())
        self.taken: tuple[list[int], list[int]] = ([], [])

    def send(self, end: int, nbytes: int) -> None:
        state = self.ends[end]
        if state.room_for(nbytes):
            outgoing = state.send(self.offered[end], nbytes)
            self.offered[end] += 1
            self.wires[end].append((outgoing, state.tell()))

    def deliver(self, end: int) -> None:
        if self.wires[end]:
            outgoing, counters = self.wires[end].popleft()
            other = self.ends[1 - end]
            other.heard(*counters)
            if other.accept(outgoing.sequence, outgoing.nbytes):
                self.inbox[1 - end].append(outgoing.frame)

    def take(self, end: int) -> None:
        if self.inbox[end]:
            self.taken[end].append(self.inbox[end].popleft())
            self.ends[end].consume()

    def acknowledge(self, end: int) -> None:
        self.ends[1 - end].heard(*self.ends[end].tell())

    def cut(self) -> None:
        for wire in self.wires:
            wire.clear()
        said = [(state.received, state.consumed) for state in self.ends]
        for end in (0, 1):
            for outgoing in self.ends[end].resume(*said[1 - end], WINDOW):
                self.wires[end].append((outgoing, self.ends[end].tell()))

    def settle(self) -> None:
        for end in (0, 1):
            while self.wires[end]:
                self.deliver(end)
        for end in (0, 1):
            while self.inbox[end]:
                self.take(end)
            self.acknowledge(end)


steps = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 1), st.integers(0, 120)),
    st.tuples(st.sampled_from(["deliver", "take", "acknowledge"]), st.integers(0, 1)),
    st.tuples(st.just("cut")),
)


@given(st.lists(steps, max_size=120))
def test_every_frame_arrives_exactly_once_and_in_order_however_often_the_stream_is_cut(script: list[tuple]) -> None:
    pair = Pair()
    for name, *arguments in script:
        getattr(pair, name)(*arguments)
    pair.cut()
    pair.settle()
    for end in (0, 1):
        assert pair.taken[1 - end] == list(range(pair.offered[end]))
        assert pair.ends[end].all_received


@given(st.lists(steps, max_size=120))
def test_an_honest_sender_never_exceeds_the_window(script: list[tuple]) -> None:
    pair = Pair()
    for name, *arguments in script:
        getattr(pair, name)(*arguments)  # `accept` raises where the window is exceeded
        for end in (0, 1):
            assert len(pair.inbox[end]) <= WINDOW.frames


def test_a_stalled_owner_stops_the_sender_and_consuming_starts_it_again() -> None:
    sender, receiver = connected(), connected()
    for frame in range(WINDOW.frames):
        receiver.accept(sender.send(frame, 1).sequence, 1)
    sender.heard(*receiver.tell())
    assert sender.all_received
    assert not sender.room_for(1)
    receiver.consume()
    sender.heard(*receiver.tell())
    assert sender.room_for(1)


def test_a_frame_larger_than_the_window_goes_alone() -> None:
    sender = connected()
    assert sender.room_for(1000)
    sender.send(0, 1000)
    assert not sender.room_for(1)


def test_nothing_may_be_sent_before_the_first_handshake() -> None:
    assert not LinkState[int](WINDOW).room_for(1)


def test_frames_that_have_arrived_before_are_dropped() -> None:
    receiver = connected()
    assert receiver.accept(1, 10)
    assert not receiver.accept(1, 10)


def test_a_gap_is_refused() -> None:
    with pytest.raises(ProtocolError, match="frame 2 after frame 0"):
        connected().accept(2, 10)


def test_a_peer_that_ignores_the_window_is_refused() -> None:
    receiver = connected()
    receiver.accept(1, 60)
    with pytest.raises(ProtocolError, match="window"):
        receiver.accept(2, 60)


@pytest.mark.parametrize(("received", "consumed"), [(2, 0), (1, 2), (5, 5)])
def test_a_peer_that_claims_frames_nobody_sent_is_refused(received: int, consumed: int) -> None:
    sender = connected()
    sender.send(0, 1)
    with pytest.raises(ProtocolError, match="claims"):
        sender.heard(received, consumed)


def test_a_peer_that_forgot_frames_is_refused() -> None:
    sender = connected()
    sender.send(0, 1)
    sender.heard(1, 0)
    with pytest.raises(ProtocolError, match="forgot"):
        sender.resume(0, 0, WINDOW)


def test_news_is_owed_until_it_is_told() -> None:
    receiver = connected()
    assert not receiver.owes_news
    receiver.accept(1, 1)
    assert receiver.owes_news
    receiver.tell()
    assert not receiver.owes_news


def test_news_presses_once_a_quarter_of_the_window_is_consumed_and_untold() -> None:
    by_frames, by_bytes = connected(Window(nbytes=1000, frames=8)), connected(Window(nbytes=100, frames=80))
    for state, nbytes in ((by_frames, 1), (by_bytes, 15)):
        for sequence in (1, 2):
            assert state.accept(sequence, nbytes)
            assert not state.news_is_pressing
            state.consume()
            assert state.news_is_pressing == (sequence == 2)
        state.tell()
        assert not state.news_is_pressing
