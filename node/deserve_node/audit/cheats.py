"""Stages that misbehave, each in one way that saves work or spoils a result: for tests, the detection table, testnets.

A cheat changes the weights as a stage is loaded, or what the loaded stage's engine takes in and gives out. Two cheat on
paper only, `padded-counts` and `lazy-auditor`, and are functions over evidence and over audits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from deserve_network.audit_messages import PRINT_BYTES, RowEvidence
from deserve_network.ring_messages import Admit, Chunk
from deserve_node.audit.verdict import Verdict
from deserve_node.engine import StepOutput
from deserve_node.engine.interface import KvAccount, ShardFacts, StageEngine
from deserve_node.engine.pages import PageTable
from deserve_node.errors import NodeError

__all__ = ["CHEATS", "HONEST", "Cheat", "lazy_verdict", "padded_evidence"]

QUANTISED_GROUP = 32
"""Weights that share a scale, as in GGUF's Q8_0 and Q4_0."""
SCALE = 1.02


@dataclass(frozen=True, slots=True)
class Cheat:
    """`change` is given the model as it is loaded, `skips` leaves out the layer in the middle of the stage, `wrap`
    gives the engine that stands in for the honest one."""

    about: str
    change: Callable[[nn.Module], None] = lambda model: None
    skips: bool = False
    wrap: Callable[[StageEngine], StageEngine] = lambda engine: engine


class _Wrapped:
    """An engine that leaves everything to the honest one; cheats override `run` or `admit`."""

    def __init__(self, honest: StageEngine) -> None:
        self._honest = honest

    @property
    def shard(self) -> ShardFacts:
        return self._honest.shard

    @property
    def cache(self) -> KvAccount:
        return self._honest.cache

    @property
    def queues(self) -> bool:
        return self._honest.queues

    def admit(self, admit: Admit) -> None:
        self._honest.admit(admit)

    def knows(self, sequence: int) -> bool:
        return self._honest.knows(sequence)

    def release(self, sequences: Iterable[int]) -> None:
        self._honest.release(sequences)

    def run(self, chunks: Sequence[Chunk], inputs: Tensor, tables: Sequence[PageTable] | None = None) -> StepOutput:
        return self._honest.run(chunks, inputs, tables)


class _Garbage(_Wrapped):
    """Noise of a hidden state's size. It computes honestly as well, for the KV account: saving is not the point."""

    def run(self, chunks: Sequence[Chunk], inputs: Tensor, tables: Sequence[PageTable] | None = None) -> StepOutput:
        output = self._honest.run(chunks, inputs, tables)
        if output.hidden is None:
            return output
        return dataclasses.replace(output, hidden=torch.randn_like(output.hidden) * output.hidden.float().std())


class _Stale(_Wrapped):
    """What the step before gave, over again."""

    def __init__(self, honest: StageEngine) -> None:
        super().__init__(honest)
        self._before: Tensor | None = None

    def run(self, chunks: Sequence[Chunk], inputs: Tensor, tables: Sequence[PageTable] | None = None) -> StepOutput:
        output = self._honest.run(chunks, inputs, tables)
        before, self._before = self._before, output.hidden
        if output.hidden is None or before is None or not len(before):
            return output
        return dataclasses.replace(output, hidden=before[torch.arange(len(output.hidden)) % len(before)])


class _Scaled(_Wrapped):
    """The last token of each row's first chunk comes in 2 % too large."""

    def run(self, chunks: Sequence[Chunk], inputs: Tensor, tables: Sequence[PageTable] | None = None) -> StepOutput:
        if not inputs.is_floating_point():
            raise NodeError("cheat: scaled-input: the head takes token ids, which have no scale")
        inputs = inputs.clone()
        end = 0
        for chunk in chunks:
            end += chunk.count
            if chunk.start == 0:
                inputs[end - 1] *= SCALE
        return self._honest.run(chunks, inputs, tables)


class _WrongSampling(_Wrapped):
    """Draws the likeliest token whatever the row's temperature is, and at random where the likeliest is asked for."""

    def admit(self, admit: Admit) -> None:
        temperature = 1.0 if admit.sampling.temperature == 0 else 0.0
        sampling = dataclasses.replace(admit.sampling, temperature=temperature)
        self._honest.admit(dataclasses.replace(admit, sampling=sampling))


def _quantise(bits: int) -> Callable[[nn.Module], None]:
    levels = 2 ** (bits - 1) - 1

    def change(model: nn.Module) -> None:
        for linear in [module for module in model.modules() if type(module) is nn.Linear]:
            weight = linear.weight.data
            width = QUANTISED_GROUP if weight.shape[1] % QUANTISED_GROUP == 0 else weight.shape[1]
            groups = weight.float().view(weight.shape[0], -1, width)
            scale = groups.abs().amax(dim=2, keepdim=True).clamp(min=1e-12) / levels
            linear.weight.data = ((groups / scale).round() * scale).view(weight.shape).to(weight.dtype)

    return change


def _halve(model: nn.Module) -> None:
    """A model with half the neurons in each MLP."""
    for name, linear in model.named_modules():
        if type(linear) is nn.Linear and name.endswith("down_proj"):
            linear.weight.data[:, linear.in_features // 2 :] = 0


HONEST = Cheat("computes what it is asked for")

CHEATS: Mapping[str, Cheat] = MappingProxyType(
    {
        "skip-layer": Cheat("leaves out one layer", skips=True),
        "4-bit": Cheat("computes with weights of 4 bits", _quantise(4)),
        "8-bit": Cheat("computes with weights of 8 bits", _quantise(8)),
        "smaller-model": Cheat("computes with half the neurons of each MLP", _halve),
        "garbage": Cheat("sends noise", wrap=_Garbage),
        "stale": Cheat("sends what it sent the step before", wrap=_Stale),
        "scaled-input": Cheat("computes one token of each row from an input 2 % too large", wrap=_Scaled),
        "wrong-sampling": Cheat("draws without regard to the temperature", wrap=_WrongSampling),
        "padded-counts": Cheat("commits to more tokens than it computed"),
        "lazy-auditor": Cheat("passes every audit without computing"),
    }
)


def padded_evidence(evidence: RowEvidence, body: memoryview, extra: int) -> tuple[RowEvidence, memoryview]:
    """Evidence of `extra` tokens more, copies of the last one."""
    wire_bytes = evidence.tokens * evidence.token_bytes
    wire, prints = bytes(body[:wire_bytes]), bytes(body[wire_bytes:])
    span = evidence.spans[-1]
    spans = (*evidence.spans[:-1], dataclasses.replace(span, count=span.count + extra))
    padded = wire + wire[-evidence.token_bytes :] * extra + prints + prints[-PRINT_BYTES:] * extra
    return dataclasses.replace(evidence, spans=spans), memoryview(padded)


def lazy_verdict(*evidence: Any) -> Verdict:
    """In place of `worker.audit_row`."""
    return Verdict(True, 0.0, -1, "")
