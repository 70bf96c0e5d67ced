"""The backend for a chain as a `ledger_backends.Backend`: transactions over JSON-RPC, beside the embedded machine.

Each party has an `EvmLedger` of its own on a development chain in this process. The machine is given the time, number
and hashes of the blocks that the chain made; outcomes and reads are compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ledger_backends import BURNT, Embedded, Known, Outcome, View
from ledger_parties import ACCOUNTS, FUNDS, KEYS, TERMS

from deserve_ledger.calls import Call, Deposit
from deserve_ledger.deployment import Deployment
from deserve_ledger.devnet.accounts import development_key
from deserve_ledger.devnet.faucet import give
from deserve_ledger.devnet.threaded import threaded_devnet
from deserve_ledger.errors import Refused
from deserve_ledger.evm.deploy import deploy
from deserve_ledger.evm.ledger import EvmLedger
from deserve_ledger.evm.sender import Pace

_PACE = Pace(poll_s=0.005, give_up_after_s=30)


class ChainForRuns:
    """Token and contract are deployed once; each run ends with the chain as it was before."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.loop = asyncio.new_event_loop()
        self.deployment: Deployment = self.wait(deploy(url, development_key(0), TERMS, pace=_PACE))
        for account in ACCOUNTS:
            self.wait(give(url, account, token=self.deployment.token, tokens=FUNDS))

    def wait(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def ask(self, method: str, *params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read())["result"]

    def block(self, tag: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("eth_getBlockByNumber", tag, False)
        return found


@contextmanager
def chain_for_runs() -> Iterator[ChainForRuns]:
    with threaded_devnet() as url:
        chain = ChainForRuns(url)
        with contextlib.closing(chain.loop):
            yield chain


class OverRpc:
    def __init__(self, chain: ChainForRuns) -> None:
        self._chain = chain
        self._before = chain.ask("evm_snapshot")
        contract, first = chain.deployment.contract, chain.deployment.block
        self._ledgers = {
            account: chain.wait(EvmLedger.open(chain.url, contract, key, first_block=first, pace=_PACE))
            for account, key in zip(ACCOUNTS, KEYS, strict=True)
        }
        for ledger in self._ledgers.values():
            chain.wait(ledger.submit(Deposit(FUNDS)))
        self.domain = self._ledgers[ACCOUNTS[0]].domain
        self._embedded = Embedded(self.domain, block_hash=self._block_hash)
        self._follow("latest")

    @property
    def now_s(self) -> int:
        return int(self._chain.block("pending")["timestamp"], 16)

    def _block_hash(self, number: int) -> bytes:
        return bytes.fromhex(self._chain.block(hex(number))["hash"][2:])

    def _follow(self, tag: str) -> None:
        block = self._chain.block(tag)
        self._embedded.now_s, self._embedded.block = int(block["timestamp"], 16), int(block["number"], 16)

    def submit(self, sender: bytes, call: Call) -> Outcome:
        on_chain: Outcome
        try:
            settled = self._chain.wait(self._ledgers[sender].submit(call))
        except Refused as refused:
            on_chain = "refused", refused.reason
            self._follow("pending")
        else:
            on_chain = "done", [(event.name, event.fields) for event in settled.events]
            self._follow("latest")
        assert on_chain == self._embedded.submit(sender, call), f"the chain and the machine differ over {call}"
        return on_chain

    def pass_time(self, seconds: int, blocks: int) -> None:
        self._chain.ask("evm_increaseTime", seconds)
        for _ in range(min(blocks, TERMS.draw_delay_blocks + 1)):
            self._chain.ask("evm_mine")

    def view(self, known: Known) -> View:
        return self._embedded.view(known)

    def compare(self, known: Known) -> None:
        told = self._embedded.view(known)
        assert self._chain.wait(self._read(known)) == told
        every = self._chain.wait(self._ledgers[ACCOUNTS[0]].events(-1, 100_000))
        positions = [event.position for event in every]
        assert positions == sorted(set(positions))

    async def _read(self, known: Known) -> View:
        ledger = self._ledgers[ACCOUNTS[0]]
        return View(
            balances={account: await ledger.balance(account) for account in ACCOUNTS},
            tokens={account: await ledger.tokens(account) for account in (*ACCOUNTS, BURNT)},
            nodes={node: await ledger.node(node) for node in known.nodes},
            coordinators={account: await ledger.coordinator(account) for account in ACCOUNTS},
            jobs={job: await ledger.job(job) for job in known.jobs},
            reservations={pair: await ledger.reservation(*pair) for pair in known.reservations},
            roots={root: await ledger.root(*root) for root in known.roots},
            challenges={i: await ledger.challenge(i) for i in range(1, known.challenges + 1)},
            totals=await ledger.totals(),
            held=await ledger.tokens(self.domain.contract),
        )

    def close(self) -> None:
        for ledger in self._ledgers.values():
            self._chain.wait(ledger.close())
        assert self._chain.ask("evm_revert", self._before)
