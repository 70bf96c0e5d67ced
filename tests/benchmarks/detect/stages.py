"""The stages that are audited: of the demo model, and of a random Llama 1024 wide."""

from __future__ import annotations

import functools
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deserve_models import ModelFiles, resolve
from deserve_node.audit.calibration import Workload, calibrate
from deserve_node.audit.corpus import token_rows
from deserve_node.audit.profile import ToleranceProfile, load_profile, save_profile
from deserve_text.tokenizer import TextModel

__all__ = ["HONEST", "STAGES", "WITH_BARS", "AuditedStage", "rows_of", "tolerances"]

CPU = torch.device("cpu")
WIDE = {
    "vocab_size": 512,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "initializer_range": 0.02,
}


@dataclass(frozen=True)
class AuditedStage:
    """Layers [first, last) of `model`, "demo" or "random", computed in `dtype`."""

    name: str
    model: str
    first: int
    last: int
    dtype: str

    def files(self, build: Path) -> ModelFiles:
        """The model, the random one written to `build` on first use."""
        if self.model == "demo":
            return resolve("demo")
        directory = build / "random-1024"
        if not (directory / "model.safetensors").exists():
            from conftest import write_tiny_llama

            write_tiny_llama(directory, **WIDE)
        return resolve(str(directory))

    @property
    def is_tail(self) -> bool:
        return self.last == (30 if self.model == "demo" else 8)


DEMO = AuditedStage("SmolLM2, layers 10 to 19, fp32", "demo", 10, 20, "float32")
DEMO_BF16 = AuditedStage("SmolLM2, layers 10 to 19, bf16", "demo", 10, 20, "bfloat16")
DEMO_TAIL = AuditedStage("SmolLM2, layers 20 to 29 and draws, fp32", "demo", 20, 30, "float32")
RANDOM = AuditedStage("random, 1024 wide, layers 2 to 5, bf16", "random", 2, 6, "bfloat16")
WITH_BARS = (DEMO, RANDOM)
STAGES = (*WITH_BARS, DEMO_BF16, DEMO_TAIL)
HONEST = tuple(
    AuditedStage(f"{name}, {dtype}", model, first, last, dtype)
    for name, model, first, last in (
        ("SmolLM2, layers 2 to 6", "demo", 2, 7),
        ("random, 1024 wide, layers 2 and 3", "random", 2, 4),
    )
    for dtype in ("float32", "bfloat16", "float16")
)


def rows_of(stage: AuditedStage, build: Path, rows: int, tokens: int, *, after: int = 0) -> list[Tensor]:
    """Token ids int64 [tokens] of `rows` rows: the ones after the first `after`. None is used to calibrate."""
    if stage.model == "random":
        generator = torch.Generator().manual_seed(77 + after)
        return list(torch.randint(0, WIDE["vocab_size"], (rows, tokens), generator=generator))
    return list(_sources((after + rows) * tokens)[after * tokens :].view(rows, tokens))


def tolerances(stage: AuditedStage, build: Path, *, rows: int, tokens: int) -> ToleranceProfile:
    """Measured once and kept in `build`."""
    path = build / f"{stage.model}-{stage.first}-{stage.last}-{stage.dtype}-{rows}x{tokens}.json"
    if not path.exists():
        files = stage.files(build)
        workload = Workload(token_rows(files, rows, tokens), decoded=tokens // 4)
        profile = calibrate(files, [(stage.first, stage.last)], dtype=stage.dtype, device=CPU, workload=workload)
        save_profile(profile, path)
    return load_profile(path)


def _sources(tokens: int) -> Tensor:
    """The first token ids of the sources of Python's own library, for the demo model."""
    pool = _tokenised()
    if tokens > len(pool):
        raise ValueError(f"{tokens} tokens are asked for, and Python's library has {len(pool)}")
    return pool[:tokens]


@functools.cache
def _tokenised() -> Tensor:
    text = TextModel.load(resolve("demo").directory)
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return torch.tensor([token for path in paths for token in text.encode_text(path.read_text(errors="replace"))])
