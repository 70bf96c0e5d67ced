"""Evidence whose right verdict is known beforehand, to find auditors that do not replay.

A canary is made of evidence that was just found honest and goes to an auditor that has not seen it. Altered, the inputs
of two tokens have changed places (at the tail, two drawn tokens): the same sizes, the same messages, every byte real,
and outputs that do not follow from it. Which tokens is a secret draw, so that who replays only a part misses it as
often. Left as it is, it finds auditors that always say no.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import replace

from deserve_ledger.draw import PPM
from deserve_network.audit_messages import RowEvidence

__all__ = ["CanaryKey", "altered"]


class CanaryKey:
    """The coordinator's secret from which it takes which audits get canaries, and which. `key`: 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def number(self, audit: bytes, purpose: str, below: int) -> int:
        """0 <= number < below, the same whenever asked, unknown to everybody else."""
        digest = hmac.digest(self._key, purpose.encode() + b"/" + audit, hashlib.sha256)
        return int.from_bytes(digest[:16], "big") % below

    def wanted(self, audit: bytes, rate_ppm: int) -> bool:
        return self.number(audit, "wanted", PPM) < rate_ppm

    def must_fail(self, audit: bytes) -> bool:
        """Altered ones are three of four: it is laziness that pays."""
        return self.number(audit, "altered", 4) != 0


def altered(key: CanaryKey, audit: bytes, evidence: RowEvidence, body: bytes) -> tuple[RowEvidence, bytes] | None:
    """Honest evidence made dishonest; None where all its tokens are equal. `body` as `RowEvidence` describes it."""
    if evidence.tail is not None:
        drawn = list(evidence.tail.drawn)
        pair = _different_pair(key, audit, len(drawn), lambda index: drawn[index])
        if pair is None:
            return None
        one, other = pair
        drawn[one], drawn[other] = drawn[other], drawn[one]
        return replace(evidence, tail=replace(evidence.tail, drawn=tuple(drawn))), body
    view, size = memoryview(body), evidence.token_bytes
    pair = _different_pair(key, audit, evidence.tokens, lambda index: view[index * size : (index + 1) * size])
    if pair is None:
        return None
    changed = bytearray(body)
    one_slice, other_slice = (slice(index * size, (index + 1) * size) for index in pair)
    changed[one_slice], changed[other_slice] = changed[other_slice], changed[one_slice]
    return evidence, bytes(changed)


def _different_pair(key: CanaryKey, audit: bytes, count: int, item: Callable[[int], object]) -> tuple[int, int] | None:
    """Two of `count` items that differ, by the secret."""
    if count < 2:
        return None
    first, skip = key.number(audit, "first", count), key.number(audit, "second", count - 1)
    for attempt in range(count - 1):
        second = (first + 1 + (skip + attempt) % (count - 1)) % count
        if item(first) != item(second):
            return first, second
    return None
