"""Steps as payloads: segment by segment, lengths checked first, no copy where none is needed."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deserve_kernels.codecs import CODECS
from deserve_network.ring_messages import CODEC_NAMES, Segment, Step
from deserve_node.ring import payload
from deserve_node.ring.payload import PayloadError, pack_payload, payload_bytes, segment_fault, unpack_payload
from deserve_plan import codecs as planned

HIDDEN = 70
MIXED = (Segment("int8", 3), Segment("raw", 2), Segment("bf16", 4))


def step_of(*segments: Segment, **changes) -> Step:
    tokens = sum(segment.tokens for segment in segments)
    step = Step("r", 1, 7, 0, (), (), segments, "float32", tokens, HIDDEN, ())
    return dataclasses.replace(step, **changes)


def states_of(step: Step) -> torch.Tensor:
    return torch.randn(step.tokens, step.hidden, generator=torch.Generator().manual_seed(step.tokens))


def joined(buffers) -> memoryview:
    return memoryview(bytearray().join(buffers))


async def test_segments_come_back_each_as_its_codec_keeps_them():
    step = step_of(*MIXED)
    states = states_of(step)
    buffers = await pack_payload(states, step.segments)
    assert [buffer.nbytes for buffer in buffers] == [3 * (16 + 66 * 2), 2 * 4 * HIDDEN, 4 * 2 * HIDDEN]
    assert payload_bytes(step) == sum(buffer.nbytes for buffer in buffers)
    hidden = await unpack_payload(joined(buffers), step)
    assert torch.equal(hidden[3:5], states[3:5])
    for part, alone in ((slice(0, 3), "int8"), (slice(5, 9), "bf16")):
        packed = CODECS[alone].encode(states[part])
        assert torch.equal(hidden[part], CODECS[alone].decode(packed, states[part].shape, torch.float32))


async def test_a_raw_step_is_copied_neither_on_its_way_out_nor_in():
    step = step_of(Segment("raw", 5))
    states = states_of(step)
    (buffer,) = await pack_payload(states, step.segments)
    states[0, 0] = 3.25
    assert torch.frombuffer(buffer, dtype=torch.float32)[0] == 3.25
    received = bytearray(buffer)
    hidden = await unpack_payload(memoryview(received), step)
    received[:4] = bytes(4)
    assert hidden[0, 0] == 0


async def test_lossy_segments_are_packed_and_unpacked_off_the_event_loop(monkeypatch):
    threads = set()

    def spied(name):
        real = getattr(payload, name)
        return lambda *given: threads.add(threading.current_thread()) or real(*given)

    for name in ("_pack", "_unpack"):
        monkeypatch.setattr(payload, name, spied(name))
    lossy = step_of(*MIXED)
    await unpack_payload(joined(await pack_payload(states_of(lossy), lossy.segments)), lossy)
    assert threads
    assert threading.current_thread() not in threads


@pytest.mark.parametrize("change", [-1, 1, 1 << 20])
@pytest.mark.parametrize("segments", [MIXED, (Segment("raw", 5),)])
async def test_a_payload_of_another_length_is_refused_naming_both(segments, change):
    step = step_of(*segments)
    right = payload_bytes(step)
    with pytest.raises(PayloadError, match=f"step 7: payload of {right + change} bytes, expected {right}"):
        await unpack_payload(memoryview(bytearray(right + change)), step)


async def test_bytes_that_no_encoder_writes_are_refused():
    step = step_of(Segment("raw", 1), Segment("int8", 1))
    with pytest.raises(PayloadError, match="step 7: int8: an outlier"):
        await unpack_payload(memoryview(b"\xff" * payload_bytes(step)), step)


@given(st.lists(st.builds(Segment, st.sampled_from([*CODECS, "zip", ""]), st.integers(-2, 5)), max_size=4), st.data())
def test_only_known_codecs_whose_tokens_sum_up_have_no_fault(segments, data):
    total = sum(segment.tokens for segment in segments)
    tokens = data.draw(st.sampled_from([total, total + 1, -1]))
    sound = all(segment.codec in CODECS and segment.tokens > 0 for segment in segments) and total == tokens
    assert (segment_fault(step_of(*segments, tokens=tokens)) is None) == sound


def test_protocol_and_planner_know_the_codecs_that_there_are():
    assert tuple(CODECS) == CODEC_NAMES == planned.CODECS
    for name, codec in CODECS.items():
        for hidden in (1, 64, 65, 576, 4096):
            for dtype in (torch.float32, torch.bfloat16):
                assert planned.token_bytes(name, hidden, dtype.itemsize) == codec.bytes_per_token(hidden, dtype)
