"""The engine's contract: fp32 logits on the CPU are the same bits whatever shares the batch, however prompts are cut
into chunks, however layers are cut into stages, and whether a token was decoded or recomputed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from deserve_models import ModelFiles, resolve
from deserve_network.ring_messages import Admit, Chunk, Sampling
from deserve_node.engine import Engine, KvCache, StepOutput
from deserve_node.shard.loading import load_shard

LAYERS = 6
CONTEXT = 160
Logits = dict[tuple[int, int], torch.Tensor]


class RecordingEngine(Engine):
    """Keeps the logits of every position that were asked for."""

    logits: Logits

    def _sample(self, chunks: Sequence[Chunk], logits: torch.Tensor) -> StepOutput:
        row = 0
        for chunk in chunks:
            for position in range(chunk.start + chunk.count - chunk.wanted, chunk.start + chunk.count):
                self.logits[chunk.sequence, position] = logits[row].clone()
                row += 1
        return super()._sample(chunks, logits)


def build(kind: str, directory: Path) -> ModelFiles:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 96,
        "intermediate_size": 224,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "vocab_size": 401,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.2,
    }
    model: PreTrainedModel
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    elif kind == "qwen3_moe":
        experts = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48, "norm_topk_prob": True}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **experts, head_dim=16))
    elif kind == "gpt_oss":
        experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 24}
        model = GptOssForCausalLM(GptOssConfig(**sizes, **experts, head_dim=16))
    else:
        model = Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=16, sliding_window=24))
    model.save_pretrained(directory)
    return resolve(str(directory))


@pytest.fixture(scope="module", params=["llama", "gemma2", "qwen3_moe", "gpt_oss"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    return build(request.param, tmp_path_factory.mktemp(request.param))


def ring(files: ModelFiles, cuts: Sequence[int]) -> list[Engine]:
    stages: list[Engine] = []
    for first, last in itertools.pairwise(cuts):
        shard = load_shard(files, first, last, dtype=torch.float32, device=torch.device("cpu"))
        cache = KvCache(shard.kv_layers, kv_bytes=32 << 20, dtype=torch.float32, device=torch.device("cpu"))
        stages.append(RecordingEngine(shard, cache))
    stages[-1].logits = {}  # type: ignore[attr-defined]
    return stages


def step(stages: list[Engine], rows: dict[int, list[int]], chunks: list[Chunk]) -> None:
    ids = [token for c in chunks for token in rows[c.sequence][c.start : c.start + c.count]]
    passed = torch.tensor(ids)
    for stage in stages:
        output = stage.run(chunks, passed)
        if output.hidden is not None:
            passed = output.hidden


def admit(stages: list[Engine], rows: dict[int, list[int]]) -> None:
    for sequence, tokens in rows.items():
        stages[-1].admit(Admit("r", 0, sequence, Sampling(prompt_logprobs=0), tuple(tokens)))


def compute(stages: list[Engine], rows: dict[int, list[int]], steps: list[list[Chunk]]) -> Logits:
    admit(stages, rows)
    for chunks in steps:
        step(stages, rows, chunks)
    logits: Logits = stages[-1].logits  # type: ignore[attr-defined]
    return logits


@pytest.fixture(scope="module")
def rows() -> dict[int, list[int]]:
    draw = random.Random(1)
    return {sequence: [draw.randrange(401) for _ in range(draw.randint(30, 120))] for sequence in range(9)}


@pytest.fixture(scope="module")
def reference(files: ModelFiles, rows: dict[int, list[int]]) -> Logits:
    """Every row alone, as one prefill, on one stage."""
    alone = [[Chunk(sequence, 0, len(tokens), len(tokens))] for sequence, tokens in rows.items()]
    return compute(ring(files, [0, LAYERS]), rows, alone)


def assert_same_bits(found: Logits, expected: Logits) -> None:
    assert found.keys() == expected.keys()
    different = [key for key in expected if not torch.equal(found[key], expected[key])]
    assert not different


def randomly_cut(rows: dict[int, list[int]], seed: int) -> list[list[Chunk]]:
    """Chunks of 1 to 40 tokens, several rows a step, in random order: decodes and prompt chunks mixed."""
    draw = random.Random(seed)
    done = dict.fromkeys(rows, 0)
    steps = []
    while left := [s for s in rows if done[s] < len(rows[s])]:
        chunks = []
        for sequence in draw.sample(left, draw.randint(1, len(left))):
            count = min(draw.choice([1, 1, 2, 5, 17, 40]), len(rows[sequence]) - done[sequence])
            chunks.append(Chunk(sequence, done[sequence], count, count))
            done[sequence] += count
        steps.append(chunks)
    return steps


def test_one_batch_equals_one_by_one(files: ModelFiles, rows: dict[int, list[int]], reference: Logits) -> None:
    together = [[Chunk(sequence, 0, len(tokens), len(tokens)) for sequence, tokens in rows.items()]]
    assert_same_bits(compute(ring(files, [0, LAYERS]), rows, together), reference)


def test_decoding_token_by_token_equals_one_prefill(
    files: ModelFiles, rows: dict[int, list[int]], reference: Logits
) -> None:
    longest = max(map(len, rows.values()))
    one_each = [[Chunk(s, i, 1, 1) for s, tokens in rows.items() if i < len(tokens)] for i in range(longest)]
    assert_same_bits(compute(ring(files, [0, LAYERS]), rows, one_each), reference)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak), pytest.param(2, marks=pytest.mark.soak)])
def test_any_mixture_of_chunks_and_decodes_equals_one_prefill(
    files: ModelFiles, rows: dict[int, list[int]], reference: Logits, seed: int
) -> None:
    assert_same_bits(compute(ring(files, [0, LAYERS]), rows, randomly_cut(rows, seed)), reference)


@pytest.mark.parametrize("cuts", [[0, 3, 6], pytest.param([0, 1, 4, 6], marks=pytest.mark.soak), [0, 1, 2, 3, 4, 5, 6]])
def test_any_ring_equals_one_stage(
    files: ModelFiles, rows: dict[int, list[int]], reference: Logits, cuts: list[int]
) -> None:
    assert_same_bits(compute(ring(files, cuts), rows, randomly_cut(rows, 7)), reference)


def test_recomputing_after_release_equals_the_first_time(
    files: ModelFiles, rows: dict[int, list[int]], reference: Logits
) -> None:
    stages = ring(files, [0, 3, LAYERS])
    admit(stages, rows)
    for chunks in randomly_cut(rows, 11):
        step(stages, rows, chunks)
    for stage in stages:
        stage.release(list(rows))
        assert stage.cache.pages_used == 0
    stages[-1].logits.clear()  # type: ignore[attr-defined]
    again = compute(stages, rows, [[Chunk(s, 0, len(tokens), len(tokens))] for s, tokens in rows.items()])
    assert_same_bits(again, reference)


def test_logits_are_those_of_transformers(files: ModelFiles, rows: dict[int, list[int]], reference: Logits) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(files.directory, dtype=torch.float32)
    for sequence, tokens in rows.items():
        with torch.inference_mode():
            expected = model(torch.tensor([tokens])).logits[0]
        found = torch.stack([reference[sequence, position] for position in range(len(tokens))])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-4)
