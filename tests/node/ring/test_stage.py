"""Stages behind the head: what they refuse, what they wait for, and that what they are sent travels on."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace

import pytest
import torch

from deserve_kernels.codecs import CODECS
from deserve_network.control_messages import LinkShape
from deserve_network.errors import LinkLost
from deserve_network.host import Host
from deserve_network.identity import generate_identity
from deserve_network.link import Frame
from deserve_network.link_session import LinkTimes
from deserve_network.links import Links
from deserve_network.ring_messages import MAX_CHUNKS, Admit, Chunk, Sampled, Sampling, Segment, Step, Tune
from deserve_node.engine import Engine, KvCache
from deserve_node.ring.compute import Compute
from deserve_node.ring.head import RingProtocolError
from deserve_node.ring.payload import PayloadError
from deserve_node.ring.stage import Stage, Tail
from deserve_node.shard.loading import load_shard

HIDDEN = 64
LAYERS = 8
RING = ("r", 3)


class Pipe:
    """One end of a link: frames that the test puts in, and what the stage sends."""

    def __init__(self):
        self.peer_id = "neighbour"
        self.rtt_s = 0.25
        self.inbox = asyncio.Queue()
        self.sent = asyncio.Queue()

    def put(self, message, payload=b""):
        self.inbox.put_nowait(Frame(message, memoryview(payload)))

    async def receive(self):
        frame = await self.inbox.get()
        if frame is None:
            raise LinkLost("gone")
        return frame

    async def send(self, message, payload=()):
        self.sent.put_nowait((message, b"".join(payload)))


@pytest.fixture
def compute_of(tiny_files):
    made = []

    def make(first, last):
        cpu = torch.device("cpu")
        shard = load_shard(tiny_files, first, last, dtype=torch.float32, device=cpu)
        cache = KvCache(shard.kv_layers, kv_bytes=4 << 20, dtype=torch.float32, device=cpu)
        made.append(Compute(Engine(shard, cache)))
        return made[-1]

    yield make
    for compute in made:
        compute.close()


def step_of(*chunks, number=0, released=(), **changes):
    tokens = sum(chunk.count for chunk in chunks)
    step = Step(*RING, number, 0, released, chunks, (Segment("raw", tokens),), "float32", tokens, HIDDEN, ())
    return dataclasses.replace(step, **changes)


def states_of(step):
    return torch.randn(max(0, step.tokens), step.hidden, generator=torch.Generator().manual_seed(1))


def raw(hidden):
    return bytes(CODECS["raw"].encode(hidden))


def admit_of(sequence, prompt=(1, 2, 3), **changes):
    return dataclasses.replace(Admit(*RING, sequence, Sampling(), prompt), **changes)


def root(error):
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def outcome(running):
    """What a stage or tail ends with."""
    async with asyncio.timeout(20):
        (error,) = await asyncio.gather(running, return_exceptions=True)
    return root(error)


@pytest.fixture
async def stage(compute_of):
    """A middle stage between two pipes, and what it ends with."""
    previous, following = Pipe(), Pipe()
    running = asyncio.create_task(Stage(*RING, compute=compute_of(3, 5), previous=previous, following=following).run())
    yield SimpleNamespace(previous=previous, following=following, running=running)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def tail(compute_of):
    previous, head = Pipe(), Pipe()
    running = asyncio.create_task(
        Tail(*RING, compute=compute_of(6, 8), previous=previous, head=head, admit_deadline_s=1.0).run()
    )
    yield SimpleNamespace(previous=previous, head=head, running=running)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_tune_travels_on_and_decides_in_what_company_the_frames_behind_it_leave(stage):
    tune = Tune(*RING, 2, (), 1, 3)
    stage.previous.put(tune)
    assert await stage.following.sent.get() == (tune, b"")
    assert stage.following.coalesce == 3


@pytest.mark.parametrize(
    "lie", [{"coalesce": 0}, {"microbatches": 0}, {"prefetch_depth": -1}, {"swap_pages": (-1,)}], ids=str
)
async def test_a_tune_that_cannot_be_ends_the_stage(stage, lie):
    stage.previous.put(dataclasses.replace(Tune(*RING, 2, (), 1, 3), **lie))
    error = await outcome(stage.running)
    assert isinstance(error, RingProtocolError)
    assert next(iter(lie)) in str(error)


async def test_a_middle_stage_sends_what_it_computed_to_the_next(stage, compute_of):
    steps = [step_of(Chunk(0, 0, 5, 0)), step_of(Chunk(0, 5, 1, 1), Chunk(1, 0, 2, 0), number=1)]
    for step in steps:
        stage.previous.put(step, raw(states_of(step)))
    alone = compute_of(3, 5).engine
    for step in steps:
        message, payload = await stage.following.sent.get()
        assert dataclasses.replace(message, timings=()) == step
        assert message.timings[-1].rtt_s == 0.25
        expected = alone.run(step.chunks, states_of(step)).hidden
        assert payload == raw(expected)


async def test_each_segment_is_unpacked_and_packed_by_its_own_codec(stage, compute_of):
    names, counts = ("int8", "raw", "bf16"), (3, 2, 1)
    segments = tuple(map(Segment, names, counts))
    step = step_of(Chunk(0, 0, 3, 0), Chunk(1, 0, 2, 0), Chunk(2, 0, 1, 1), segments=segments)

    def packed(hidden):
        return [CODECS[name].encode(part) for name, part in zip(names, hidden.split(counts), strict=True)]

    sent = packed(states_of(step))
    stage.previous.put(step, b"".join(sent))
    shapes = [(count, HIDDEN) for count in counts]
    received = [CODECS[name].decode(*given, torch.float32) for name, *given in zip(names, sent, shapes, strict=True)]
    computed = compute_of(3, 5).engine.run(step.chunks, torch.cat(received)).hidden
    message, payload = await stage.following.sent.get()
    assert message.segments == segments
    assert payload == b"".join(packed(computed))


async def test_hidden_states_are_packed_from_the_very_memory_that_the_engine_returned(compute_of, monkeypatch):
    compute, given = compute_of(3, 5), []
    computed = torch.empty(3, HIDDEN, device="meta")  # torch refuses to copy from there
    compute.engine._forward = lambda chunks, inputs, tables: computed

    async def pack(hidden, segments):
        given.append(hidden)
        return [b"packed"]

    monkeypatch.setattr("deserve_node.ring.stage.pack_payload", pack)
    step, previous, following = step_of(Chunk(0, 0, 3, 0)), Pipe(), Pipe()
    running = asyncio.create_task(Stage(*RING, compute=compute, previous=previous, following=following).run())
    previous.put(step, raw(states_of(step)))
    async with asyncio.timeout(20):
        assert (await following.sent.get())[1] == b"packed"
    assert given[0] is computed
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_stage_ends_when_its_link_is_lost(stage):
    stage.previous.inbox.put_nowait(None)
    assert isinstance(await outcome(stage.running), LinkLost)


GOOD = Chunk(0, 0, 4, 1)
LIES = {
    "another ring": step_of(GOOD, ring="q"),
    "another epoch": step_of(GOOD, epoch=2),
    "no step": admit_of(0),
    "unknown codec": step_of(GOOD, segments=(Segment("zip", 4),)),
    "fewer tokens than segments say": step_of(GOOD, segments=(Segment("raw", 4), Segment("int8", 1))),
    "more tokens than segments say": step_of(GOOD, segments=(Segment("raw", 3),)),
    "no segments": step_of(GOOD, segments=()),
    "a segment of less than nothing": step_of(GOOD, segments=(Segment("raw", 5), Segment("int8", -1))),
    "another dtype": step_of(GOOD, dtype="bfloat16"),
    "unknown dtype": step_of(GOOD, dtype="int3"),
    "another width": step_of(GOOD, hidden=HIDDEN * 2),
    "fewer tokens than chunks say": step_of(GOOD, tokens=3),
    "more tokens than chunks say": step_of(GOOD, tokens=5),
    "no chunks": step_of(tokens=0),
    "nothing in a chunk": step_of(GOOD, Chunk(1, 0, 0, 0)),
    "a negative count": step_of(GOOD, Chunk(1, 0, -1, 0)),
    "a negative start": step_of(Chunk(0, -4, 4, 1)),
    "a start that skips positions": step_of(Chunk(0, 16, 4, 1)),
    "a negative sequence": step_of(Chunk(-1, 0, 4, 1)),
    "more wanted than there are": step_of(Chunk(0, 0, 4, 5)),
    "less than nothing wanted": step_of(Chunk(0, 0, 4, -1)),
    "beyond the context": step_of(Chunk(0, 0, 513, 0)),
    "one sequence twice": step_of(GOOD, Chunk(0, 4, 1, 1)),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_a_step_that_lies_ends_the_stage(lie, stage):
    size = lie.tokens * lie.hidden * 4 if isinstance(lie, Step) else 0
    stage.previous.put(lie, bytes(size))
    assert isinstance(await outcome(stage.running), RingProtocolError)
    assert stage.following.sent.empty()


@pytest.mark.parametrize("size", [0, 4 * HIDDEN * 4 - 1, 4 * HIDDEN * 4 + 4])
async def test_a_payload_of_another_size_ends_the_stage(size, stage):
    stage.previous.put(step_of(GOOD), bytes(size))
    assert isinstance(await outcome(stage.running), PayloadError)


async def test_a_chunk_that_repeats_positions_ends_the_stage(stage):
    for step in (step_of(GOOD), step_of(Chunk(0, 2, 4, 1), number=1)):
        stage.previous.put(step, raw(states_of(step)))
    assert isinstance(await outcome(stage.running), RingProtocolError)


async def test_a_released_sequence_is_forgotten(stage):
    for step in (step_of(GOOD), step_of(Chunk(1, 0, 2, 1), released=(0, 77), number=1), step_of(GOOD, number=2)):
        stage.previous.put(step, raw(states_of(step)))
    for _ in range(3):
        await stage.following.sent.get()


async def test_the_tail_draws_tokens_and_sends_them_to_the_head(tail):
    step = step_of(Chunk(4, 0, 3, 1))
    tail.head.put(admit_of(4))
    tail.previous.put(step, raw(states_of(step)))
    sampled, payload = await tail.head.sent.get()
    assert isinstance(sampled, Sampled)
    assert (sampled.ring, sampled.epoch, sampled.step, payload) == (*RING, 0, b"")
    assert [(token.sequence, token.position) for token in sampled.drawn] == [(4, 3)]


async def test_the_tail_waits_for_an_admit_that_comes_late(tail):
    step = step_of(Chunk(4, 0, 3, 1))
    tail.previous.put(step, raw(states_of(step)))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(tail.head.sent.get(), 0.1)
    tail.head.put(admit_of(4))
    assert (await tail.head.sent.get())[0].drawn


async def test_the_tail_gives_up_naming_the_sequence_that_nobody_admitted(tail):
    step = step_of(Chunk(4, 0, 3, 1), Chunk(5, 0, 1, 1))
    tail.head.put(admit_of(4))
    tail.previous.put(step, raw(states_of(step)))
    error = await outcome(tail.running)
    assert isinstance(error, RingProtocolError)
    assert "sequence 5 within 1 s" in str(error)


ADMIT_LIES = {
    "another ring": admit_of(0, ring="q"),
    "another epoch": admit_of(0, epoch=2),
    "no admit": step_of(GOOD),
    "a negative sequence": admit_of(-1),
    "an id outside the vocabulary": admit_of(0, prompt=(1, 260)),
    "a negative id": admit_of(0, generated=(-1,)),
    "no tokens": admit_of(0, prompt=()),
}


@pytest.mark.parametrize("lie", ADMIT_LIES.values(), ids=ADMIT_LIES)
async def test_an_admit_that_lies_ends_the_tail(lie, tail):
    tail.head.put(lie)
    assert isinstance(await outcome(tail.running), RingProtocolError)


async def test_a_sequence_is_admitted_once(tail):
    tail.head.put(admit_of(4))
    tail.head.put(admit_of(4))
    assert "twice" in str(await outcome(tail.running))


async def test_sequences_that_never_come_do_not_pile_up(tail):
    for sequence in range(MAX_CHUNKS + 1):
        tail.head.put(admit_of(sequence))
    assert "never came" in str(await outcome(tail.running))


async def test_sequences_that_are_released_before_they_come_do_not_pile_up(tail):
    half = MAX_CHUNKS // 2
    for number in range(3):
        *others, last = range(half * number, half * (number + 1))
        for sequence in (*others, last):
            tail.head.put(admit_of(sequence))
        step = step_of(Chunk(last, 0, 3, 1), number=number, released=tuple(others))
        tail.previous.put(step, raw(states_of(step)))
        async with asyncio.timeout(20):
            assert (await tail.head.sent.get())[0].drawn


async def test_a_tail_in_another_host_draws_what_one_process_would(compute_of):
    """Real links between two hosts: the head's half is played here, with layers [0, 6) computed at hand."""
    times = LinkTimes(connect_s=10, reconnect_s=2)
    near_layers, far_layers, whole = compute_of(0, 6), compute_of(6, 8), compute_of(0, 8)
    prompt = tuple(range(40, 60))
    async with (
        await Host.start(generate_identity(), ["/ip4/127.0.0.1/tcp/0"]) as here,
        await Host.start(generate_identity(), ["/ip4/127.0.0.1/tcp/0"]) as there,
    ):
        dialling, accepting = Links(here, times=times), Links(there, times=times)
        shape = LinkShape()
        onward, tokens, previous, head = await asyncio.gather(
            dialling.dial(there.addresses, "r/3/0", shape),
            dialling.dial(there.addresses, "r/3/tokens", shape),
            accepting.accept("r/3/0", here.peer_id, shape),
            accepting.accept("r/3/tokens", here.peer_id, shape),
        )
        running = asyncio.create_task(Tail(*RING, compute=far_layers, previous=previous, head=head).run())
        await tokens.send(admit_of(0, prompt))
        whole.engine.admit(admit_of(0, prompt))
        inputs, start = list(prompt), 0
        for number in range(5):
            chunks = (Chunk(0, start, len(inputs), 1),)
            ids = torch.tensor(inputs)
            hidden = near_layers.engine.run(chunks, ids).hidden
            step = step_of(*chunks, number=number)
            await onward.send(step, [raw(hidden)])
            (drawn,) = (await tokens.receive()).message.drawn
            assert drawn.token == whole.engine.run(chunks, ids).drawn[0].token
            start, inputs = start + len(inputs), [drawn.token]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await asyncio.gather(dialling.close(), accepting.close())
