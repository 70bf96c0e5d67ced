"""`deserve testnet demo`: the 64 prompts of `prompts`, a short report, and three answers to read."""

from __future__ import annotations

import json
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deserve_testnet.config import TestnetConfig
from deserve_testnet.prompts import demo_rows
from deserve_testnet.run import run_file

__all__ = ["run_demo"]

_WIDTH = 96


async def run_demo(
    config: TestnetConfig, output: Path, say: Callable[[str], None] = lambda line: None
) -> tuple[str, int]:
    """What to print, and the exit code; `output` gets every row, `say` what happens meanwhile. Raises TestnetError."""
    rows = demo_rows(config.model)
    with tempfile.TemporaryDirectory(prefix="deserve-demo-") as directory:
        source = Path(directory) / "demo.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        report = await run_file(config, source, output, say=say)
    # A question of the first topic, one of a later, and a program to complete.
    shown = _conversations([rows[0], rows[len(rows) // 4], rows[-1]], output)
    return "\n".join([report.as_text(), *shown]), report.exit_code


def _conversations(rows: list[dict[str, Any]], output: Path) -> list[str]:
    answers = {line["custom_id"]: line for line in map(json.loads, output.read_text(encoding="utf-8").splitlines())}
    return [_conversation(row, answers.get(row["custom_id"])) for row in rows]


def _conversation(row: dict[str, Any], line: dict[str, Any] | None) -> str:
    body = row["body"]
    question = body["prompt"].strip() if "prompt" in body else body["messages"][-1]["content"]
    return f"\n\033[1m{_wrapped(question)}\033[0m\n{textwrap.indent(_wrapped(_answer(line)), '  ')}"


def _answer(line: dict[str, Any] | None) -> str:
    response = (line or {}).get("response")
    if not response or response["status_code"] != 200:
        return "(no answer)"
    choice = response["body"]["choices"][0]
    text: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return text.rstrip() + (" …" if choice["finish_reason"] == "length" else "")


def _wrapped(text: str) -> str:
    """Long lines folded, short ones (a program's, say) left as they are."""
    return "\n".join(
        line if len(line) <= _WIDTH else textwrap.fill(line, _WIDTH, replace_whitespace=False)
        for line in text.splitlines()
    )
