"""Tensor in, tensor out: attention over pages of keys and values, writes into those pages, their copies between two
memories, what a layer does to each token by itself, sampling noise, and wire codecs (`codecs`).

Each operation has a plain torch reference (`reference`), a C++ kernel for the CPU that the user's own compiler builds
once (`build`), and where it pays a Triton kernel for CUDA. The operations here choose by the tensors' device; they know
nothing of models, sequences' lives or schedulers.
"""

from deserve_kernels.attention import paged_attention
from deserve_kernels.copies import copy_pages
from deserve_kernels.errors import KernelError
from deserve_kernels.noise import gumbel
from deserve_kernels.pages import write_kv
from deserve_kernels.rowwise import is_compiled, rms_norm, rotate, silu_mul

__all__ = [
    "KernelError",
    "copy_pages",
    "gumbel",
    "is_compiled",
    "paged_attention",
    "rms_norm",
    "rotate",
    "silu_mul",
    "write_kv",
]
