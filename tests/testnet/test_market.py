"""A testnet's market: key files that open, a table whose sums come out even, and flags that name what is wrong."""

from __future__ import annotations

import json
import stat

import pytest

from deserve_ledger.books import Books
from deserve_ledger.records import Event
from deserve_testnet.config import TestnetConfig
from deserve_testnet.errors import UsageError
from deserve_testnet.market.balances import balance_table
from deserve_testnet.market.config import MarketConfig, parse_cheats
from deserve_testnet.market.parties import Parties

TOKEN = 10**18


def test_parties_keep_their_keys(tmp_path):
    parties = Parties(tmp_path / "keys")
    payer, operator = parties.payer, parties.operator("node-1")
    assert payer.key.address != operator.key.address
    again = Parties(tmp_path / "keys")
    assert again.payer.key == payer.key
    assert [party.name for party in again] == ["payer"]
    files = [path for path in (tmp_path / "keys").iterdir() if not path.name.startswith(".")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_the_table_shows_whole_tokens_and_strangers(tmp_path):
    parties = Parties(tmp_path)
    payer, coordinator = parties.payer.key.address, parties.coordinator.key.address
    events = [
        ("Deposited", {"account": payer, "amount": 10 * TOKEN}),
        ("Deposited", {"account": b"\7" * 20, "amount": TOKEN // 2}),
        (
            "JobOpened",
            {
                "jobId": bytes(32),
                "payer": payer,
                "coordinator": coordinator,
                "signer": payer,
                "budget": 4 * TOKEN,
                "deadline": 1,
            },
        ),
        (
            "VoucherRedeemed",
            {"jobId": bytes(32), "coordinator": coordinator, "amount": 3 * TOKEN, "seq": 1, "resultsRoot": bytes(32)},
        ),
        ("JobRefunded", {"jobId": bytes(32), "payer": payer, "amount": TOKEN}),
    ]
    books = Books()
    books.read(Event(n, name, fields) for n, (name, fields) in enumerate(events))
    table = balance_table(books, parties, 18)
    lines = [line.split() for line in table.as_text().splitlines()]
    assert lines == [
        ["account", "escrowed", "drawn", "refunded", "balance"],
        ["payer", "4", "0", "1", "7"],
        ["coordinator", "0", "3", "0", "3"],
        ["another", "0", "0", "0", "0.5"],
        ["all", "4", "3", "1", "10.5"],
        ["burnt", "0"],
    ]
    shown = json.loads(json.dumps(table.as_json()))
    assert [account["balance"] for account in shown["accounts"]] == [str(7 * TOKEN), str(3 * TOKEN), str(TOKEN // 2)]


def test_cheats_are_read_and_named():
    assert parse_cheats(["node2:skip-layer", "node-3:garbage"]) == {"node-2": "skip-layer", "node-3": "garbage"}
    for wrong in ("skip-layer", "node0:garbage", "node2:", "coordinator:garbage"):
        with pytest.raises(UsageError, match="--cheat"):
            parse_cheats([wrong])
    with pytest.raises(UsageError, match="node-2 is named twice"):
        parse_cheats(["node2:garbage", "node-2:skip-layer"])


@pytest.mark.parametrize(
    ("market", "named"),
    [
        ({"cheats": {"node-9": "garbage"}}, "--cheat"),
        ({"price": "1,2,3"}, "--price"),
        ({"price": "1,-1"}, "--price"),
        ({"budget": "all"}, "--budget"),
    ],
)
def test_a_market_that_cannot_be_names_the_flag(market, named):
    with pytest.raises(UsageError, match=named):
        TestnetConfig(nodes=4, market=MarketConfig(**market))
