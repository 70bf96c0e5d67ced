"""A benchmark that is a script of its own as a contestant: it runs in a fresh process and prints JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from bars.rounds import Contestant, Measure

__all__ = ["ScriptFailed", "script"]

_BENCHMARKS = Path(__file__).parent.parent


class ScriptFailed(Exception):
    """It ended with another exit code than 0; what it said is on stderr."""


def script(name: str, file: str, arguments: Sequence[str]) -> Contestant:
    """`file` of tests/benchmarks; the object that it prints is the figures."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Measure]:
        async def measure() -> dict[str, Any]:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(_BENCHMARKS / file), *arguments), stdout=asyncio.subprocess.PIPE
            )
            printed, _ = await process.communicate()
            if process.returncode:
                raise ScriptFailed(f"{file} ended with exit code {process.returncode}")
            found: dict[str, Any] = json.loads(printed)
            return found

        yield measure

    def open_it() -> AbstractAsyncContextManager[Measure]:
        return opened()

    return Contestant(name, open_it)
