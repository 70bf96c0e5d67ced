"""The `Ledger` of one account on an EVM chain (`deserve_ledger.interface`): calls become transactions, reads views."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from eth_keys.datatypes import PrivateKey

from deserve_ledger.amounts import check_amount
from deserve_ledger.calls import Call, Deposit
from deserve_ledger.eip712 import Domain
from deserve_ledger.errors import ChainRefused, InvalidField
from deserve_ledger.evm.abi import ledger_interface, token_interface
from deserve_ledger.evm.chain import Chain, Receipt, RpcChain, TransactionReverted
from deserve_ledger.evm.cursor import EventCursor
from deserve_ledger.evm.outbox import Outbox
from deserve_ledger.evm.sender import Pace, Sender
from deserve_ledger.finality import Confirmations, usual_confirmations
from deserve_ledger.records import (
    ChallengeRecord,
    CoordinatorRecord,
    Event,
    JobRecord,
    NodeRecord,
    Reservation,
    Settled,
    Terms,
    Totals,
)

__all__ = ["EvmLedger", "agreement", "outbox_file", "refusal_name"]


def refusal_name(data: bytes) -> str | None:
    """The name of the contract's or the token's error in the data of a revert."""
    return ledger_interface().error(data) or token_interface().error(data)


def outbox_file(state: Path) -> Path:
    """In an account's directory `state`, which is made."""
    return _folder(state) / "outbox.sqlite"


class EvmLedger:
    """Opened with `EvmLedger.open`."""

    def __init__(
        self, chain: Chain, contract: bytes, token: bytes, terms: Terms, sender: Sender, cursor: EventCursor
    ) -> None:
        self._chain = chain
        self._contract = contract
        self._token = token
        self._terms = terms
        self._sender = sender
        self._cursor = cursor
        self._domain = Domain(sender.chain_id, contract)
        self._interface = ledger_interface()
        self._depositing = asyncio.Lock()

    @classmethod
    async def open(
        cls,
        rpc_url: str,
        contract: bytes,
        key: bytes,
        *,
        state: Path | None = None,
        confirmations: Confirmations | None = None,
        first_block: int = 0,
        pace: Pace = Pace(),  # noqa: B008 - frozen
        chain: Chain | None = None,
    ) -> EvmLedger:
        """For the account of the 32-byte private `key`, on the 20-byte `contract`.

        `state`: a directory of this account's own; without one, a call that the process's end interrupts is lost sight
        of. `confirmations`: what makes a block final; None is what is usual on that chain.
        `first_block`: that of the deployment. Raises `ChainUnreachable`, `OutboxHeld`, and `InvalidField` where there
        is no such contract.
        """
        chain = chain or RpcChain(rpc_url)
        try:
            chain_id, first = await chain.chain_id(), await chain.block(0)
            account = PrivateKey(key).public_key.to_canonical_address()
            terms, token = await agreement(chain, account, contract)
            confirmations = usual_confirmations(chain_id) if confirmations is None else confirmations
            cursor = EventCursor(
                chain,
                contract,
                ledger_interface(),
                confirmations=confirmations,
                first_block=first_block,
                path=None if state is None else _folder(state) / f"events-{contract.hex()}.sqlite",
            )
            outbox = Outbox(
                None if state is None else outbox_file(state),
                bytes(32) if first is None else first.hash,
                account,
            )
        except BaseException:
            await chain.close()
            raise
        sender = Sender(chain, outbox, key, chain_id, account, confirmations, refusal_name, pace)
        return cls(chain, contract, token, terms, sender, cursor)

    async def close(self) -> None:
        self._sender.outbox.close()
        self._cursor.close()
        await self._chain.close()

    @property
    def account(self) -> bytes:
        return self._sender.account

    @property
    def domain(self) -> Domain:
        return self._domain

    @property
    def terms(self) -> Terms:
        return self._terms

    @property
    def token(self) -> bytes:
        """The 20-byte address of the ERC-20 that is money here."""
        return self._token

    async def submit(self, call: Call) -> Settled:
        """See `Ledger.submit`. A deposit lets the contract take the tokens first, where it may not yet."""
        name = type(call).__name__
        data = self._interface.encode(name[0].lower() + name[1:], *astuple(call))
        if isinstance(call, Deposit):
            async with self._depositing:
                await self._approve(call.amount, data)
                receipt = await self._sender.transact(self._contract, data)
        else:
            receipt = await self._sender.transact(self._contract, data)
        return self._settled(receipt)

    async def _approve(self, amount: int, deposit: bytes) -> None:
        """Let the contract take exactly `amount`, so that it can never take what was not meant for it."""
        if self._sender.has_left_over(self._contract, deposit):
            return
        asked = token_interface().encode("allowance", self.account, self._contract)
        allowed = token_interface().decode("allowance", await self._chain.call(self.account, self._token, asked))
        if allowed < check_amount("amount", amount):
            approve = token_interface().encode("approve", self._contract, amount)
            await self._sender.transact(self._token, approve)

    def _settled(self, receipt: Receipt) -> Settled:
        events = tuple(one for one in map(self._cursor.decode, receipt.logs) if one is not None)
        return Settled(receipt.transaction, events, receipt.gas_used)

    async def _view(self, function: str, *arguments: Any) -> Any:
        data = self._interface.encode(function, *arguments)
        try:
            answer = await self._chain.call(self.account, self._contract, data)
        except TransactionReverted as error:
            raise ChainRefused(f"{function}: {error}") from error
        return self._interface.decode(function, answer)

    async def balance(self, account: bytes) -> int:
        return int(await self._view("balanceOf", account))

    async def tokens(self, account: bytes) -> int:
        """Base units that the account holds outside the ledger."""
        asked = token_interface().encode("balanceOf", account)
        return int(token_interface().decode("balanceOf", await self._chain.call(self.account, self._token, asked)))

    async def token_decimals(self) -> int:
        asked = token_interface().encode("decimals")
        return int(token_interface().decode("decimals", await self._chain.call(self.account, self._token, asked)))

    async def ether_wei(self, account: bytes) -> int:
        """What pays for gas."""
        return await self._chain.ether_wei(account)

    async def node(self, node_id: bytes) -> NodeRecord:
        return NodeRecord(*await self._view("nodeOf", node_id))

    async def coordinator(self, account: bytes) -> CoordinatorRecord:
        return CoordinatorRecord(*await self._view("coordinatorOf", account))

    async def job(self, job_id: bytes) -> JobRecord:
        return JobRecord(*await self._view("jobOf", job_id))

    async def reservation(self, coordinator: bytes, node_id: bytes) -> Reservation:
        return Reservation(*await self._view("reservationOf", coordinator, node_id))

    async def root(self, coordinator: bytes, epoch: int) -> bytes:
        return bytes(await self._view("rootOf", coordinator, epoch))

    async def challenge(self, challenge_id: int) -> ChallengeRecord:
        record = ChallengeRecord(*await self._view("challengeOf", challenge_id))
        return record if any(map(any, record.panel)) else replace(record, panel=())

    async def totals(self) -> Totals:
        return Totals(*await self._view("totals"))

    async def events(self, after: int, limit: int = 1000) -> Sequence[Event]:
        """See `Ledger.events`; also raises `Reorganised`. `after` is -1 or a position seen before."""
        return await self._cursor.read(after, limit)

    async def time_of(self, position: int) -> int:
        """Unix seconds of the event at `position`."""
        return await self._cursor.time_s(position)

    async def now_s(self) -> int:
        """The time of the block that the chain would make now, where it tells, or of its newest."""
        try:
            block = await self._chain.block("pending")
        except ChainRefused:
            block = None
        block = block or await self._chain.block("latest")
        if block is None:
            raise ChainRefused("the chain has no newest block")
        return block.time_s

    async def beacon(self, position: int) -> bytes | None:
        """See `Ledger.beacon`: a block's hash."""
        return await self._cursor.beacon(position)


async def agreement(chain: Chain, account: bytes, contract: bytes) -> tuple[Terms, bytes]:
    """What the contract was made with. Raises `InvalidField` where it is none of ours."""
    ask = ledger_interface()
    try:
        terms = ask.decode("terms", await chain.call(account, contract, ask.encode("terms")))
        token = ask.decode("token", await chain.call(account, contract, ask.encode("token")))
        return Terms(*terms), token
    except (TransactionReverted, ValueError) as error:
        raise InvalidField("contract", f"there is no ledger at 0x{contract.hex()} on this chain") from error


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path
