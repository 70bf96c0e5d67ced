"""A testnet whose rings fail again and again for one reason says so; one that still gets somewhere goes on."""

from __future__ import annotations

import pytest

from deserve_testnet.errors import TestnetError
from deserve_testnet.repeated_failure import RepeatedFailure


def view(*failures: tuple[int, str], tokens: int = 0) -> dict[str, object]:
    """What /v1/network says of one ring; a failure is an epoch and a reason."""
    known = [{"ring": "r-1", "epoch": epoch, "node": "node-2", "reason": reason} for epoch, reason in failures]
    return {"rings": [{"completion_tokens": tokens}], "failures": known}


def test_the_fourth_failure_for_one_reason_ends_it() -> None:
    watched = RepeatedFailure()
    watched.look(view())
    for epoch in (1, 2, 3):
        watched.look(view(*((e, "no memory for KV") for e in range(1, epoch + 1))))
    with pytest.raises(TestnetError, match="r-1 failed 4 times in a row, last at node-2: no memory for KV"):
        watched.look(view(*((e, "no memory for KV") for e in (1, 2, 3, 4))))


def test_other_reasons_tokens_and_what_was_before_do_not_count() -> None:
    before = [(epoch, "x") for epoch in range(5)]
    watched = RepeatedFailure()
    watched.look(view(*before))
    watched.look(view(*before, (5, "x"), (6, "x"), (7, "x"), (8, "y"), (9, "x")))
    watched.look(view(*before[3:], (9, "x"), (10, "x"), (11, "x"), tokens=0))
    watched.look(view((11, "x"), (12, "x"), tokens=3))
    watched.look(view((12, "x"), (13, "x"), (14, "x")))
    with pytest.raises(TestnetError):
        watched.look(view((14, "x"), (15, "x")))
