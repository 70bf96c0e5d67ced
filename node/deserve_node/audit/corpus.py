"""Rows of ordinary text to calibrate with: a file's, or the documentation that every Python brings along.

Tolerances are about rounding, which hardly depends on what is said, so any text in the model's language will do.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from deserve_models import ModelFiles, inspect
from deserve_node.audit.errors import AuditError
from deserve_text.tokenizer import TextModel

__all__ = ["token_rows"]

_SEED = 2026
_PIECE_CHARACTERS = 1 << 14


def token_rows(files: ModelFiles, rows: int, tokens: int, *, text: str | None = None) -> Tensor:
    """Token ids int64 [rows, tokens], no two rows of the same text. A model without a tokenizer gets random ids.

    Raises `AuditError` where `text` is too short.
    """
    model = TextModel.load(files.directory)
    if not model.has_tokenizer:
        generator = torch.Generator().manual_seed(_SEED)
        return torch.randint(0, inspect(files).vocab_size, (rows, tokens), generator=generator)
    wanted = rows * tokens
    ids: list[int] = []
    for piece in _pieces(_documentation() if text is None else text):
        ids += model.encode_text(piece)
        if len(ids) >= wanted:
            return torch.tensor(ids[:wanted]).view(rows, tokens)
    raise AuditError(f"text: {len(ids)} tokens where {rows} rows of {tokens} are asked for")


def _pieces(text: str) -> Iterator[str]:
    """Tokenizers take as long for a megabyte as for a hundred pieces of it, but nobody may need the last of them."""
    for start in range(0, len(text), _PIECE_CHARACTERS):
        yield text[start : start + _PIECE_CHARACTERS]


def _documentation() -> str:
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))
