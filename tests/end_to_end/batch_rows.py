"""Batch lines that ask for greedy tokens with their ids, and what came back for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_batch(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    # Not splitlines: a sampled text may hold U+2028, which JSON does not escape.
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def chat(custom_id: str, model: Path | str, text: str, **parameters: Any) -> dict[str, Any]:
    """A batch line that asks for greedy tokens with their ids."""
    body = {"model": str(model), "messages": [{"role": "user", "content": text}]}
    return _line(custom_id, "/v1/chat/completions", body, parameters)


def completion(custom_id: str, model: Path | str, prompt: str | list[int], **parameters: Any) -> dict[str, Any]:
    return _line(custom_id, "/v1/completions", {"model": str(model), "prompt": prompt}, parameters)


def _line(custom_id: str, url: str, body: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    greedy = {"temperature": 0, "max_tokens": 16, "return_token_ids": True}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {**body, **greedy, **parameters}}


def token_ids(line: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Prompt and generated ids of an output line."""
    body = line["response"]["body"]
    (choice,) = body["choices"]
    prompt = body["prompt_token_ids"] if "prompt_token_ids" in body else choice["prompt_token_ids"]
    return prompt, choice["token_ids"]
