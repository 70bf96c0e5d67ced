"""What a batch object means to the one who submitted it: an exit code, and words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from deserve_client.api import TERMINAL_STATUSES
from deserve_client.errors import EXIT_FAILED, EXIT_PARTIAL, EXIT_USAGE

__all__ = ["counts_of", "describe_batch", "exit_code_of", "fault_lines", "list_line"]

Json = Mapping[str, Any]


def counts_of(batch: Json) -> tuple[int, int, int]:
    """(total, completed, failed) rows."""
    counts = batch.get("request_counts") or {}
    return tuple(int(counts.get(name, 0)) for name in ("total", "completed", "failed"))  # type: ignore[return-value]


def exit_code_of(batch: Json) -> int:
    """0 all rows have a result, 3 some, 1 none; 2 where the coordinator found the input file faulty."""
    total, completed, _ = counts_of(batch)
    if batch["status"] == "failed":
        return EXIT_USAGE if any(fault_lines(batch)) else EXIT_FAILED
    if batch["status"] not in TERMINAL_STATUSES:
        return 0
    if completed == total and total and batch["status"] == "completed":
        return 0
    return EXIT_PARTIAL if completed else EXIT_FAILED


def fault_lines(batch: Json) -> Iterator[str]:
    """The batch's own errors as `line N: field: reason`."""
    for error in (batch.get("errors") or {}).get("data") or []:
        where = [f"line {error['line']}"] if error.get("line") is not None else []
        where += [str(error["param"])] if error.get("param") else []
        yield ": ".join([*where, str(error.get("message") or error.get("code"))])


def describe_batch(batch: Json) -> list[str]:
    """The batch in a few lines for a reader."""
    total, completed, failed = counts_of(batch)
    usage = batch.get("usage") or {}
    lines = [
        f"{batch['id']}  {batch['status']}",
        f"  rows    {completed} completed, {failed} failed, {total} in all",
        f"  tokens  {usage.get('input_tokens', 0)} in, {usage.get('output_tokens', 0)} out",
    ]
    service = batch.get("deserve") or {}
    if allowed := [name for name in service.get("codecs") or [] if name != "raw"]:
        lines.append(f"  codec   {service.get('codec') or 'not chosen yet'} (raw, {', '.join(allowed)} allowed)")
    lines += [f"  error   {line}" for line in fault_lines(batch)]
    return lines


def list_line(batch: Json) -> str:
    """The batch in one line: id, status, rows with a result of all, rows without, time of creation in UTC."""
    total, completed, failed = counts_of(batch)
    created = datetime.fromtimestamp(int(batch.get("created_at", 0)), UTC).strftime("%Y-%m-%d %H:%M:%S")
    without = f" ({failed} failed)" if failed else ""
    return f"{batch['id']}  {batch['status']:<11}  {completed}/{total}{without}  {created}"
