"""Notices that rings fail again and again for one reason, so that a testnet ends with it and waits for nothing.

In a swarm of strangers the next node may do better; in a testnet all nodes are alike and nobody else will come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deserve_testnet.errors import TestnetError

__all__ = ["RepeatedFailure"]

_PATIENCE = 4


class RepeatedFailure:
    """Feed it each `GET /v1/network`; what failed before the first one does not count."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, int, str]] | None = None
        self._reason = ""
        self._times = 0

    def look(self, view: Mapping[str, Any]) -> None:
        """Raises TestnetError, naming node and reason, at the fourth failure in a row that has the same one.

        A token drawn in between ends the row.
        """
        failures = view.get("failures", [])
        known = self._seen
        self._seen = {(failure["ring"], failure["epoch"], failure["node"]) for failure in failures}
        if known is None:
            return
        if any(ring["completion_tokens"] for ring in view["rings"]):
            self._times = 0
        for failure in failures:
            if (failure["ring"], failure["epoch"], failure["node"]) in known:
                continue
            self._times = self._times + 1 if failure["reason"] == self._reason else 1
            self._reason = failure["reason"]
            if self._times >= _PATIENCE:
                raise TestnetError(
                    f"{failure['ring']} failed {self._times} times in a row, last at {failure['node']}: {self._reason}"
                )
