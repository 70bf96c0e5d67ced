"""Others on the same card: transformers' continuous batching for whole rows, FlashInfer's kernel for attention."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from bars.workload import request_body

from card.peaks import device_seconds
from card.roofline import Shape
from deserve_kernels import paged_attention
from deserve_models import resolve
from deserve_node.local import LocalRing

__all__ = ["attention_against_flashinfer", "ours", "transformers_batching"]

_PAGE_TOKENS = 16
_WORKSPACE_BYTES = 256 << 20


def ours(directory: Path, prompts: list[list[int]], new_tokens: int, *, device: torch.device, kv_bytes: int) -> float:
    """Output tokens per second of a ring of one in this process, prefill included."""
    ring = LocalRing(
        resolve(str(directory)), dtype=torch.bfloat16, device=device, kv_bytes=kv_bytes, max_rows=len(prompts)
    )
    rows = [("/v1/completions", request_body("card", prompt, new_tokens)) for prompt in prompts]
    try:
        ring.serve(rows[:8])  # warm
        started = time.perf_counter()
        results = ring.serve(rows)
        seconds = time.perf_counter() - started
    finally:
        ring.close()
    return sum(json.loads(result.body)["usage"]["completion_tokens"] for result in results) / seconds


def transformers_batching(directory: Path, prompts: list[list[int]], new_tokens: int, *, device: torch.device) -> float:
    """Output tokens per second of `generate_batch`, prefill included."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16, device_map={"": device})
    config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    model.generate_batch(prompts[:8], generation_config=config)  # warm
    started = time.perf_counter()
    outputs = model.generate_batch(prompts, generation_config=config)
    seconds = time.perf_counter() - started
    return sum(len(output.generated_tokens) for output in outputs.values()) / seconds


def attention_against_flashinfer(shape: Shape, *, rows: int, context: int, device: torch.device) -> tuple[float, float]:
    """Seconds of one layer's decode attention, ours and FlashInfer's, over the same pages. Raises ImportError where
    FlashInfer is not installed, AssertionError where the results differ by more than rounding."""
    import flashinfer

    dtype = torch.bfloat16
    per_row = -(-context // _PAGE_TOKENS)
    pages = (rows * per_row, shape.kv_heads, _PAGE_TOKENS, shape.head_dim)
    keys, values = (torch.randn(pages, device=device, dtype=dtype) for _ in range(2))
    queries = torch.randn(rows, shape.heads, shape.head_dim, device=device, dtype=dtype)
    table = torch.randperm(rows * per_row, device=device).to(torch.int32).view(rows, per_row)
    scale = shape.head_dim**-0.5

    def own() -> torch.Tensor:
        return paged_attention(
            queries,
            keys,
            values,
            page_table=table,
            query_start=torch.arange(rows + 1, device=device, dtype=torch.int32),
            context=torch.full((rows,), context, device=device, dtype=torch.int32),
            scale=scale,
        )

    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=device), "HND"
    )
    wrapper.plan(
        torch.arange(rows + 1, device=device, dtype=torch.int32) * per_row,
        table.flatten(),
        torch.full((rows,), (context - 1) % _PAGE_TOKENS + 1, device=device, dtype=torch.int32),
        shape.heads,
        shape.kv_heads,
        shape.head_dim,
        _PAGE_TOKENS,
        q_data_type=dtype,
        kv_data_type=dtype,
        sm_scale=scale,
    )

    def theirs() -> torch.Tensor:
        found: torch.Tensor = wrapper.run(queries, (keys, values))
        return found

    torch.testing.assert_close(own(), theirs(), rtol=2e-2, atol=2e-2)
    return device_seconds(own, device), device_seconds(theirs, device)
