"""Engines on one machine that are measured against each other: a call takes prompts and returns seconds and tokens.

Ours and transformers' run in this process; vllm, in a process of its own, is in `vllm_process`.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bars.workload import request_body

__all__ = ["Answer", "Engine", "generate", "one_process"]

Answer = tuple[float, list[list[int]]]
"""Seconds, prefill included, and the new tokens of every prompt."""
Engine = Callable[[list[list[int]], int], Answer]

_STEP_TOKENS = 2048
"""What a node takes into a step unless told otherwise, and vllm, too."""


@contextmanager
def one_process(source: str) -> Iterator[Engine]:
    """A ring of one stage of ours, without a network."""
    from deserve_models import resolve
    from deserve_node.heap import keep_freed_memory
    from deserve_node.local import LocalRing

    keep_freed_memory()
    ring = LocalRing(resolve(source), kv_bytes=2 << 30, token_budget=_STEP_TOKENS)

    def serve(prompts: list[list[int]], new_tokens: int) -> Answer:
        rows = [("/v1/completions", request_body(source, prompt, new_tokens)) for prompt in prompts]
        started = time.perf_counter()
        results = ring.serve(rows)
        seconds = time.perf_counter() - started
        return seconds, [json.loads(result.body)["choices"][0]["token_ids"] for result in results]

    try:
        yield serve
    finally:
        ring.close()


@contextmanager
def generate(source: str) -> Iterator[Engine]:
    """`transformers.generate` over one left-padded batch."""
    import torch
    from transformers import AutoModelForCausalLM

    from deserve_models import resolve

    model = AutoModelForCausalLM.from_pretrained(resolve(source).directory, dtype=torch.float32)

    def run(prompts: list[list[int]], new_tokens: int) -> Answer:
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        lengths = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
        started = time.perf_counter()
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = model.generate(ids, attention_mask=mask, do_sample=False, pad_token_id=0, **lengths)
        seconds = time.perf_counter() - started
        return seconds, output[:, width:].tolist()

    yield run
