"""The Triton kernel in Triton's interpreter on CPU tensors, and compiled where there is a CUDA device."""

from __future__ import annotations

import pytest
import torch
from interpreter import triton_interpreter

from deserve_kernels import paged_attention, reference

CASES = {
    "decode": ([(40, 1), (7, 1), (100, 1)], {}),
    "prefill": ([(50, 50), (3, 3)], {"padding": 3}),
    "mixed": ([(50, 7), (33, 1), (70, 40), (9, 0)], {}),
    "window": ([(90, 30), (20, 1)], {"window": 13}),
    "chunk": ([(90, 30), (20, 1)], {"chunk": 16}),
    "softcap and sinks": ([(60, 20), (20, 1)], {"softcap": 3.0, "sinks": torch.linspace(-1, 2, 4)}),
    "one query head a kv head, uneven dims": (
        [(60, 20), (20, 1)],
        {"heads": 3, "kv_heads": 3, "key_dim": 24, "value_dim": 20},
    ),
    "three query heads a kv head, small pages": ([(60, 45)], {"heads": 9, "kv_heads": 3, "page_tokens": 4}),
}


@triton_interpreter
@pytest.mark.parametrize(("sequences", "options"), CASES.values(), ids=CASES)
def test_interpreted_kernel_equals_the_reference(batch_of, sequences, options):
    from deserve_kernels import triton_attention

    batch = batch_of(sequences, **options)
    out = batch.attend(triton_attention.paged_attention)
    torch.testing.assert_close(out, batch.attend(reference.paged_attention), rtol=2e-5, atol=1e-5)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("sequences", "options"), CASES.values(), ids=CASES)
def test_compiled_kernel_equals_the_reference(batch_of, sequences, options, dtype):
    batch = batch_of(sequences, dtype=dtype, **options)
    expected = batch.attend(reference.paged_attention)
    for name in ("queries", "key_pages", "value_pages", "page_table", "query_start", "context"):
        setattr(batch, name, getattr(batch, name).cuda())
    batch.queries = batch.queries.to(dtype)
    if batch.options.get("sinks") is not None:
        batch.options["sinks"] = batch.options["sinks"].cuda()
    out = batch.attend(paged_attention).cpu().float()
    spread = 2e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(out, expected, rtol=spread, atol=spread)
