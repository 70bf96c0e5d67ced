"""Holds a batch's result file against what it is charged for: each result is under the root that will be signed, and
the tokens in the file are worth what is charged."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from eth_hash.auto import keccak

from deserve_client.paying.charges import Agreement, Overcharged
from deserve_ledger.merkle import leaf_hash, verify

__all__ = ["Proofs", "check_results", "result_leaf"]

SAMPLED = 16
"""Results whose proof is asked for."""

Json = dict[str, Any]


class Proofs(Protocol):
    async def payment_proof(self, batch_id: str, custom_id: str) -> Json: ...


def result_leaf(custom_id: str, body: bytes) -> bytes:
    """Of one delivered row: of its custom_id, and of its response body byte for byte as in the output file."""
    return leaf_hash(keccak(custom_id.encode()) + keccak(body))


async def check_results(
    file: Path,
    batch_id: str,
    agreement: Agreement,
    charged: int,
    root: bytes,
    proofs: Proofs,
    *,
    chance: Callable[[int, int], list[int]] = lambda count, most: sorted(random.sample(range(count), min(count, most))),
) -> None:
    """Raises `Overcharged` that says which row is not what would be paid for, or what the file is worth."""
    prompt_tokens = completion_tokens = count = 0
    with file.open("rb") as lines:
        for line in lines:
            usage = json.loads(line)["response"]["body"].get("usage") or {}
            prompt_tokens += int(usage.get("prompt_tokens", 0))
            completion_tokens += int(usage.get("completion_tokens", 0))
            count += 1
    worth = agreement.prices.of(agreement.layers * prompt_tokens, agreement.layers * completion_tokens)
    if charged > worth:
        raise Overcharged(f"charged {charged}, and the {count} results in the file are worth {worth}")
    wanted = set(chance(count, SAMPLED))
    with file.open("rb") as lines:
        for number, line in enumerate(lines):
            if number in wanted:
                await _check_row(line, batch_id, root, proofs)


async def _check_row(line: bytes, batch_id: str, root: bytes, proofs: Proofs) -> None:
    custom_id, body = str(json.loads(line)["custom_id"]), _body_bytes(line)
    proof = await proofs.payment_proof(batch_id, custom_id)
    siblings = [bytes.fromhex(str(sibling).removeprefix("0x")) for sibling in proof["proof"]]
    if not verify(root, result_leaf(custom_id, body), siblings):
        raise Overcharged(f"{custom_id}: its result is not among those that would be paid for")


def _body_bytes(line: bytes) -> bytes:
    """The response body's bytes inside a line of the output file, as the coordinator wrote them."""
    start = line.index(b'"body":') + len(b'"body":')
    text = line[start:].decode()
    padded = len(text) - len(text.lstrip())
    _, end = json.JSONDecoder().raw_decode(text, padded)
    return text[padded:end].encode()
