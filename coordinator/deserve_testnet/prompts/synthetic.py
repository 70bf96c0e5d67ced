"""Rows of given lengths for measurements: prompts are token ids, and no row ends before its length.

Where all rows start at once they also end at once, and a ring takes a generation or two to reach its steady mix of
prompts and decodes. So the first rows start as if they had been running: row i has k_i more tokens of prompt and k_i
fewer to generate, with k_i spread evenly.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["synthetic_rows", "write_rows"]

_GOLDEN = 0.6180339887498949
"""Multiples of it, modulo 1, are spread evenly however many there are: so each microbatch gets an even share too."""
_LOWEST_ID, _IDS = 20, 200
"""Prompts use ids that every vocabulary has and that are no special tokens of the demo's."""


def synthetic_rows(
    model: str, *, rows: int, prompt_tokens: int, new_tokens: int, staggered: int = 0
) -> Iterator[dict[str, Any]]:
    """`rows` batch lines of `prompt_tokens` and `new_tokens`, the first `staggered` of them in their middle.

    `staggered` should be the rows that the ring holds at once. Greedy, except that a length is always reached.
    """
    for row in range(rows):
        done = int(row * _GOLDEN % 1 * new_tokens) if row < staggered else 0
        prompt = [_LOWEST_ID + (31 * row + 7 * place) % _IDS for place in range(prompt_tokens + done)]
        body = {"model": model, "prompt": prompt, "max_tokens": new_tokens - done, "temperature": 0, "ignore_eos": True}
        yield {"custom_id": f"row-{row}", "method": "POST", "url": "/v1/completions", "body": body}


def write_rows(path: Path, rows: Iterator[dict[str, Any]]) -> Path:
    """Write a batch file; returns its path."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
    return path
