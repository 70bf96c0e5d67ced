"""Every promised architecture, cut in three stages with paged KV, draws the tokens of `transformers.generate`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from deserve_models import inspect, resolve
from deserve_network.ring_messages import Chunk
from deserve_node.engine import Engine, KvCache, StepOutput
from deserve_node.shard.loading import load_shard

LAYERS = 6
VOCABULARY = 160
REACH = 8
"""Sliding windows and chunks of the tiny models; the tests' sequences are longer."""

CUTS = (0, 1, 4, LAYERS)
PROMPT_LENGTHS = (5, 21, 13)
NEW_TOKENS = 16
TIE = 1e-3
"""Two tokens whose logits are closer may swap between kernels."""

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
WINDOW = {"sliding_window": REACH}
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": REACH, "max_window_layers": 2}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": QWEN_WINDOW,
    "qwen3": {**QWEN_WINDOW, "head_dim": 16},
    "mistral": WINDOW,
    "gemma": {"head_dim": 16},
    "gemma2": {**WINDOW, "head_dim": 16, "query_pre_attn_scalar": 24},
    "gemma3_text": {**WINDOW, "head_dim": 16, "query_pre_attn_scalar": 24},
    "phi3": WINDOW,
    "gpt_oss": {**WINDOW, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 32,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    },
    "granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.3,
        "logits_scaling": 2.0,
    },
    "olmo2": {},
    "olmo3": WINDOW,
    "glm4": {"head_dim": 16},
    "cohere2": {**WINDOW, "head_dim": 16},
    "smollm3": {"no_rope_layer_interval": 4},
    "mixtral": {**WINDOW, "num_local_experts": 4},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 48},
    "qwen3_moe": {**EXPERTS, "head_dim": 16},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 2},
    "glm4_moe": {
        "head_dim": 16,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    },
    "minimax_m2": {"head_dim": 16, "num_local_experts": 8, "num_experts_per_tok": 2},
    "ernie4_5": {"head_dim": 16},
    "exaone4": {**WINDOW, "sliding_window_pattern": 4},
    "hunyuan_v1_dense": {"head_dim": 16},
    "llama4_text": {
        "head_dim": 16,
        "attention_chunk_size": REACH,
        "floor_scale": 6,
        "num_local_experts": 4,
        "intermediate_size_mlp": 96,
        "interleave_moe_layer_step": 2,
    },
    "starcoder2": WINDOW,
    "stablelm": {},
    "seed_oss": {"head_dim": 16},
    "nemotron": {},
    "gpt_neox": {"num_key_value_heads": None},
    "helium": {"head_dim": 16},
    "gpt2": {"num_key_value_heads": None},
    "opt": {"num_key_value_heads": None, "ffn_dim": 96, "word_embed_proj_dim": 64, "do_layer_norm_before": True},
}

QUICK = ("gemma3_text", "gpt_oss", "deepseek_v3", "llama4_text", "granite", "gpt2")
"""Between them: sliding windows, sinks, latent attention, chunks, experts, tied heads, scaled embeddings, learned
positions."""


def build(name: str, directory: Path, **changes: Any) -> Any:
    """Save a random model of architecture `name` in `directory` and return it, in float32 and eager attention.

    Matrices keep the scale of their input, so that logits spread and each position prefers other tokens.
    """
    torch.manual_seed(sum(map(ord, name)))
    config = CONFIG_MAPPING[name](**{**COMMON, **ARCHITECTURES[name], **changes})
    config._attn_implementation = "eager"
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                # A loud embedding that is also the output head would make every model repeat its last token.
                parameter.normal_(0.0, (0.4 if parameter is embedding else 1.5) * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(directory)
    return model


class LogitsEngine(Engine):
    """Keeps a step's logits instead of drawing from them."""

    logits: Tensor

    def _sample(self, chunks: Sequence[Chunk], logits: Tensor) -> StepOutput:
        self.logits = logits
        return StepOutput()


def make_ring(directory: Path) -> list[LogitsEngine]:
    """The model in three stages, each with pages of its own."""
    files, cpu = resolve(str(directory)), torch.device("cpu")
    engines = []
    for first, last in itertools.pairwise(CUTS):
        shard = load_shard(files, first, last, dtype=torch.float32, device=cpu)
        engines.append(LogitsEngine(shard, KvCache(shard.kv_layers, kv_bytes=4 << 20, dtype=torch.float32, device=cpu)))
    return engines


def ring_step(engines: list[LogitsEngine], pieces: list[Tensor], starts: list[int], wanted: int) -> Tensor:
    """Logits after each piece if `wanted`; `pieces[s]` continues sequence s at position `starts[s]`."""
    chunks = [Chunk(s, start, len(piece), wanted) for s, (start, piece) in enumerate(zip(starts, pieces, strict=True))]
    passed = torch.cat(pieces)
    for engine in engines:
        output = engine.run(chunks, passed)
        if output.hidden is not None:
            passed = output.hidden
    return engines[-1].logits


def cases() -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.soak) for name in ARCHITECTURES]


@pytest.mark.parametrize("name", cases())
def test_three_shards_draw_the_tokens_of_generate(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build(name, tmp_path)
    prompts = [torch.randint(3, VOCABULARY, (length,)) for length in PROMPT_LENGTHS]
    expected = []
    for prompt in prompts:
        ids = prompt[None]
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None
        )
        expected.append(out[0, len(prompt) :])
    distinct = len(torch.cat(expected).unique())
    assert distinct >= 8, f"the random {name} says too little to compare: {distinct} distinct tokens"

    engines = make_ring(tmp_path)
    summary = inspect(resolve(str(tmp_path)))
    assert summary.servable
    kv_elements = max(kv.kv_heads * (kv.key_dim + kv.value_dim) for e in engines for kv in e.shard.kv_layers)
    assert summary.kv_bytes_per_token_layer == 4 * kv_elements
    assert summary.context_length == engines[0].shard.context_length

    # Prompts come in two chunks, so that a chunk meets the pages of the one before it.
    starts = [len(prompt) // 2 for prompt in prompts]
    ring_step(engines, [prompt[:half] for prompt, half in zip(prompts, starts, strict=True)], [0] * len(prompts), 0)
    pieces = [prompt[half:] for prompt, half in zip(prompts, starts, strict=True)]
    ties = []
    for step in range(NEW_TOKENS):
        logits = ring_step(engines, pieces, starts, 1)
        for sequence, wanted in enumerate(expected):
            top = logits[sequence].topk(2)
            if int(top.indices[0]) != int(wanted[step]):
                margin = float(top.values[0] - top.values[1])
                assert margin < TIE, f"{name}: sequence {sequence}, token {step}: margin {margin:.2e}"
                ties.append(f"sequence {sequence} token {step} margin {margin:.1e}")
        starts = [start + len(piece) for start, piece in zip(starts, pieces, strict=True)]
        # The reference's token goes on, so that one near tie does not hide what follows it.
        pieces = [wanted[step : step + 1] for wanted in expected]
    if ties:
        with capsys.disabled():
            print(f"\n{name}: near ties drawn otherwise: {'; '.join(ties)}")
