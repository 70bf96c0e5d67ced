"""What the tests of a whole daemon count and wait for."""

from __future__ import annotations

import asyncio

ENDLESS = 480
"""Tokens of a row that is surely unfinished when the test goes on."""


def rows_of(*reports):
    return sorted(result.row for report in reports for result in report.results)


async def until(condition):
    """Wait for what shows in this process only."""
    async with asyncio.timeout(30):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)
