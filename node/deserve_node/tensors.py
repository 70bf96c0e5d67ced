"""The dtypes that a swarm may compute in, by the names that travel."""

from __future__ import annotations

import torch

__all__ = ["DTYPES"]

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
