from __future__ import annotations

from deserve_node.ring.microbatches import RingTiming, microbatches_for


def timing(
    stages: int, *, fixed: float = 0.0, row: float = 0.001, hop: float, parallel: float | None = None
) -> RingTiming:
    return RingTiming((fixed,) * stages, (row,) * stages, (hop,) * stages, parallel or float(stages))


def test_a_ring_of_one_needs_one_microbatch() -> None:
    assert microbatches_for(timing(1, hop=0.0), 256) == 1


def test_latency_asks_for_more_microbatches_than_stages() -> None:
    near = microbatches_for(timing(4, fixed=0.02, hop=0.0), 256)
    far = microbatches_for(timing(4, fixed=0.02, hop=0.25), 256)
    assert near == 4
    assert far > near


def test_stages_that_share_cores_need_no_more_microbatches_than_can_compute_at_once() -> None:
    assert microbatches_for(timing(4, fixed=0.02, hop=0.0, parallel=2.0), 256) == 2


def test_there_are_never_more_microbatches_than_rows() -> None:
    assert microbatches_for(timing(4, hop=1.0), 3) <= 3
