"""Lanes that copy, and the steps that wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pytest
import torch

from deserve_network.ring_messages import Chunk
from deserve_node.engine import KvCache
from deserve_node.engine.host_memory import copy_rates, open_swapper
from deserve_node.engine.ledger import Ledger, Transfer
from deserve_node.engine.mover import Done, PacedMover
from deserve_node.engine.pages import OutOfPagesError, PoolShape
from deserve_node.engine.pool_ledger import PageCopies
from deserve_node.engine.swap import CopyError, Swapper
from deserve_node.shard.attention import KvLayer

DEADLINE_S = 20.0


def transfer(pages: int, *, inward: bool = True) -> Transfer:
    ids = np.arange(pages, dtype=np.int64)
    return Transfer(inward, 0, (PageCopies(0, ids, ids),))


def started(mover: PacedMover, order: Transfer) -> Future[float]:
    """When it was done."""
    future: Future[float] = Future()
    mover.start(order, lambda error: future.set_result(time.perf_counter()))
    return future


class HeldMover:
    """Does nothing until told."""

    def __init__(self) -> None:
        self.started: list[tuple[Transfer, Done]] = []

    def start(self, transfer: Transfer, done: Done) -> None:
        self.started.append((transfer, done))

    def fence(self, step: int) -> None: ...

    def computed(self, step: int) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def paced() -> Iterator[PacedMover]:
    mover = PacedMover([1000], in_bytes_per_s=1e5, out_bytes_per_s=1e5)
    yield mover
    mover.close()


def test_a_transfer_takes_as_long_as_its_bytes_at_the_rate(paced: PacedMover) -> None:
    begun = time.perf_counter()
    first, second = started(paced, transfer(2)), started(paced, transfer(3))
    assert first.result(DEADLINE_S) - begun >= 0.02
    assert second.result(DEADLINE_S) - begun >= 0.05


def test_the_two_directions_do_not_wait_for_each_other() -> None:
    mover = PacedMover([1000], in_bytes_per_s=1.0, out_bytes_per_s=1e9)
    slow, fast = started(mover, transfer(1)), started(mover, transfer(1, inward=False))
    fast.result(DEADLINE_S)
    assert not slow.done()
    mover.close()
    assert not slow.done(), "a closed mover finishes nothing"


def test_a_step_waits_for_its_pages_and_tells_how_long() -> None:
    mover = HeldMover()
    swapper = Swapper(Ledger([PoolShape(0, 0, 2, 4, page_tokens=4)]), mover)
    first = swapper.begin(0, (), [Chunk(0, 0, 8, 0)])
    assert sorted(swapper.wait(first)[0][0].ravel().tolist()) == [0, 1]
    second = swapper.begin(1, (), [Chunk(1, 0, 4, 0)])
    swapper.end(first)
    waiting: Future[float] = Future()
    thread = threading.Thread(target=lambda: waiting.set_result(swapper.wait(second)[1]))
    thread.start()
    (out, done) = mover.started[0]
    assert not out.inward
    assert not waiting.done()
    done(None)
    assert waiting.result(DEADLINE_S) > 0.0
    thread.join()


def test_a_copy_that_fails_ends_the_steps_that_wait() -> None:
    def broken(order: Transfer) -> None:
        raise OSError("the bus is on fire")

    mover = PacedMover([4], copy=broken)
    swapper = Swapper(Ledger([PoolShape(0, 0, 1, 4, page_tokens=4)]), mover)
    first = swapper.begin(0, (), [Chunk(0, 0, 1, 0)])
    swapper.wait(first)
    second = swapper.begin(1, (), [Chunk(1, 0, 1, 0)])
    swapper.end(first)
    with pytest.raises(CopyError, match="the bus is on fire"):
        swapper.wait(second)
    swapper.close()


def test_closing_ends_a_wait() -> None:
    swapper = Swapper(Ledger([PoolShape(0, 0, 1, 4, page_tokens=4)]), HeldMover())
    swapper.wait(swapper.begin(0, (), [Chunk(0, 0, 1, 0)]))
    second = swapper.begin(1, (), [Chunk(1, 0, 1, 0)])
    failure: Future[BaseException] = Future()

    def wait() -> None:
        try:
            swapper.wait(second)
        except CopyError as error:
            failure.set_result(error)

    thread = threading.Thread(target=wait)
    thread.start()
    swapper.close()
    assert "closed" in str(failure.result(DEADLINE_S))
    thread.join()


def test_a_step_beyond_the_device_is_told_so_when_it_waits() -> None:
    swapper = Swapper(Ledger([PoolShape(0, 0, 1, 4, page_tokens=4)]), HeldMover())
    number = swapper.begin(0, (), [Chunk(0, 0, 5, 0)])
    with pytest.raises(OutOfPagesError):
        swapper.wait(number)


def cache_with(host_bytes: int) -> KvCache:
    layers = [KvLayer(layer, 2, 8, 8, 0, 0) for layer in range(3)]
    return KvCache(layers, kv_bytes=1 << 18, host_bytes=host_bytes, dtype=torch.float32, device=torch.device("cpu"))


def test_without_more_host_memory_than_the_device_has_nothing_is_swapped() -> None:
    assert open_swapper(cache_with(0), torch.device("cpu"), 0.0) is None
    assert open_swapper(cache_with(1 << 18), torch.device("cpu"), 0.0) is None


def test_measured_copy_rates_are_those_that_copies_are_held_to() -> None:
    cache = cache_with(1 << 20)
    swapper = open_swapper(cache, torch.device("cpu"), 2e6)
    assert swapper is not None
    for rate in copy_rates(swapper, cache):
        assert 1e6 < rate <= 2e6
    swapper.close()
