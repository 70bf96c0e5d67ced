"""A transaction happens once, whatever dies in between: before it is sent, after, before its receipt was read."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from deserve_ledger.calls import Deposit, PostRoot, Withdraw
from deserve_ledger.devnet.accounts import development_account, development_key
from deserve_ledger.errors import OutboxHeld, Refused, Unfunded, Unsettled
from deserve_ledger.evm.chain import RpcChain
from deserve_ledger.evm.ledger import EvmLedger, refusal_name
from deserve_ledger.evm.outbox import Attempt, Outbox
from deserve_ledger.evm.sender import Pace, Sender

NETWORK, ACCOUNT = bytes(32), bytes(20)
IMPATIENT = Pace(poll_s=0.01, give_up_after_s=0.2)


def attempt(nonce: int, name: bytes) -> Attempt:
    return Attempt(name.rjust(32, b"\0"), nonce, b"raw " + name, 1, 2)


def test_what_was_intended_is_there_after_the_process(tmp_path):
    box = Outbox(tmp_path / "outbox", NETWORK, ACCOUNT)
    entry = box.intend(bytes(20), b"data", 21000, attempt(4, b"one"))
    box.add(entry, attempt(4, b"two"))
    box.close()
    again = Outbox(tmp_path / "outbox", NETWORK, ACCOUNT)
    assert again.undelivered() == [entry]
    assert [one.raw for one in again.attempts(entry)] == [b"raw one", b"raw two"]
    assert again.next_nonce() == 5
    again.settle(entry, bytes(32))
    again.deliver(entry)
    assert again.undelivered() == []
    assert again.next_nonce() == 5
    again.close()


def test_accounts_and_chains_do_not_mix(tmp_path):
    box = Outbox(tmp_path / "outbox", NETWORK, ACCOUNT)
    box.intend(bytes(20), b"data", 21000, attempt(4, b"one"))
    box.close()
    other = Outbox(tmp_path / "outbox", bytes([1]) * 32, ACCOUNT)
    assert (other.undelivered(), other.next_nonce()) == ([], 0)
    other.close()


def test_one_process_holds_an_outbox(tmp_path):
    box = Outbox(tmp_path / "outbox", NETWORK, ACCOUNT)
    with pytest.raises(OutboxHeld, match="one can at a time"):
        Outbox(tmp_path / "outbox", NETWORK, ACCOUNT)
    box.close()
    Outbox(tmp_path / "outbox", NETWORK, ACCOUNT).close()


class Crash(BaseException):
    """Ends a process's work between two steps, as kill -9 does."""


class CrashingChain(RpcChain):
    """Real, but the process dies at its call number `crash_at` of those that matter, before or after it."""

    def __init__(self, url: str, crash_at: int, *, after: bool) -> None:
        super().__init__(url)
        self.left = crash_at
        self.after = after
        self.sent: list[bytes] = []

    async def send(self, raw: bytes) -> None:
        self._count(before=True)
        await super().send(raw)
        self.sent.append(raw)
        self._count(before=False)

    async def receipt(self, transaction):
        self._count(before=True)
        found = await super().receipt(transaction)
        self._count(before=False)
        return found

    def _count(self, *, before: bool) -> None:
        if before:
            self.left -= 1
        if self.left == 0 and before != self.after:
            raise Crash


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("crash_at", range(1, 8))
async def test_a_deposit_that_died_at_any_step_happens_once(chain, tmp_path, crash_at, after):
    account = bytes.fromhex(development_account(5).address[2:])
    had = await (observer := await chain.ledger(0)).tokens(account)

    async def once(crashing: RpcChain | None) -> None:
        ledger = await EvmLedger.open(
            chain.url,
            chain.deployment.contract,
            development_key(5),
            state=tmp_path,
            pace=Pace(poll_s=0.01, give_up_after_s=20),
            chain=crashing,
        )
        try:
            await ledger.submit(Deposit(9))
        finally:
            await ledger.close()

    try:
        await once(CrashingChain(chain.url, crash_at, after=after))
        died = False
    except Crash:
        died = True
    if died:
        await once(None)
    assert await observer.balance(account) == 9
    assert await observer.tokens(account) == had - 9
    assert chain.nonce(account) == 2  # one approval, one deposit
    assert died or crash_at > 4


async def test_the_same_call_asked_for_anew_happens_again(chain, tmp_path):
    ledger = await chain.ledger(5, state=tmp_path)
    await ledger.submit(Deposit(9))
    await ledger.submit(Deposit(9))
    assert await ledger.balance(ledger.account) == 18


async def test_a_call_that_is_not_settled_in_time_is_found_when_asked_again(chain, tmp_path, caplog):
    ledger = await chain.ledger(5, state=tmp_path, pace=IMPATIENT)
    await ledger.submit(Deposit(50))
    chain.ask("evm_setAutomine", False)
    with pytest.raises(Unsettled):
        await ledger.submit(Withdraw(20))
    chain.ask("evm_mine")
    assert "an identical call was interrupted" not in caplog.text
    await ledger.submit(Withdraw(20))
    assert "an identical call was interrupted" in caplog.text
    assert await ledger.balance(ledger.account) == 30


async def sender(chain, state: Path, clock: list[float]) -> tuple[Sender, RpcChain]:
    rpc = RpcChain(chain.url)
    account = bytes.fromhex(development_account(6).address[2:])
    outbox = Outbox(state / "outbox", NETWORK, account)
    made = Sender(
        rpc, outbox, development_key(6), 31337, account, 0, refusal_name, Pace(bump_after_s=60), lambda: clock[0]
    )
    return made, rpc


async def test_one_that_waits_too_long_pays_more_under_its_own_nonce(chain, tmp_path):
    clock = [0.0]
    chain.ask("evm_setAutomine", False)
    sending, rpc = await sender(chain, tmp_path, clock)
    entry = await sending._intend(bytes([1]) * 20, b"")
    assert await sending.step(entry) is None
    clock[0] = 59
    assert await sending.step(entry) is None
    (only,) = sending.outbox.attempts(entry)
    clock[0] = 61
    assert await sending.step(entry) is None
    first, second = sending.outbox.attempts(entry)
    assert first == only
    assert second.nonce == first.nonce
    assert second.most_wei * 100 >= first.most_wei * 110
    assert second.tip_wei * 100 >= first.tip_wei * 110
    chain.ask("evm_mine")
    receipt = await sending.step(entry)
    assert receipt is not None
    assert receipt.transaction == second.hash
    assert await rpc.receipt(first.hash) is None
    sending.outbox.close()
    await rpc.close()


async def test_a_dearer_one_that_was_never_sent_does_not_hide_that_the_first_was_mined(chain, tmp_path):
    clock = [0.0]
    sending, rpc = await sender(chain, tmp_path, clock)
    chain.ask("evm_setAutomine", False)
    entry = await sending._intend(bytes([1]) * 20, b"")
    await sending.step(entry)
    await sending._dearer(entry, sending.outbox.attempts(entry)[0])
    chain.ask("evm_mine")
    receipt = await sending.step(entry)
    assert receipt is not None
    assert receipt.transaction == sending.outbox.attempts(entry)[0].hash
    sending.outbox.close()
    await rpc.close()


async def test_a_nonce_that_another_program_used_is_replaced(chain, tmp_path):
    sending, rpc = await sender(chain, tmp_path, [0.0])
    entry = await sending._intend(bytes([1]) * 20, b"")
    foreign = development_account(6).sign_transaction(
        {
            "type": 2,
            "chainId": 31337,
            "nonce": entry.nonce,
            "to": bytes([2]) * 20,
            "value": 1,
            "gas": 21000,
            "maxFeePerGas": 10**10,
            "maxPriorityFeePerGas": 10**9,
        }
    )
    await rpc.send(bytes(foreign.raw_transaction))
    assert await sending.step(entry) is None
    moved = sending._current(entry)
    assert moved.nonce == entry.nonce + 1
    receipt = await sending.step(moved)
    assert receipt is not None
    assert receipt.succeeded
    sending.outbox.close()
    await rpc.close()


async def test_one_that_fails_in_its_block_is_refused_by_the_contracts_name(chain, tmp_path):
    ledger = await chain.ledger(5, state=tmp_path)
    await ledger.submit(Deposit(10))
    chain.ask("evm_setAutomine", False)

    waiting = chain.nonce(ledger.account) + 2

    async def mine_when_both_wait() -> None:
        async with asyncio.timeout(20):
            while chain.nonce(ledger.account, "pending") < waiting:  # noqa: ASYNC110 - the chain tells no events
                await asyncio.sleep(0.01)
        chain.ask("evm_mine")

    one, other, _ = await asyncio.gather(
        ledger.submit(Withdraw(8)), ledger.submit(Withdraw(7)), mine_when_both_wait(), return_exceptions=True
    )
    (refused,) = [result for result in (one, other) if isinstance(result, Exception)]
    assert isinstance(refused, Refused)
    assert refused.reason == "InsufficientBalance"
    assert await ledger.balance(ledger.account) in (2, 3)


async def test_an_account_without_ether_is_told_before_anything_is_written(chain, tmp_path):
    poor = await EvmLedger.open(chain.url, chain.deployment.contract, bytes([3]) * 32, state=tmp_path)
    with pytest.raises(Unfunded, match="has 0 wei"):
        await poor.submit(PostRoot(1, bytes([1]) * 32))
    assert poor._sender.outbox.undelivered() == []
    await poor.close()


DEPOSITOR = """
import asyncio, sys
from pathlib import Path
from deserve_ledger.calls import Deposit
from deserve_ledger.devnet.accounts import development_key
from deserve_ledger.evm.ledger import EvmLedger
from deserve_ledger.evm.sender import Pace

async def main(url, contract, state):
    pace = Pace(poll_s=0.02, give_up_after_s=60)
    key = development_key(7)
    ledger = await EvmLedger.open(url, bytes.fromhex(contract), key, state=Path(state), pace=pace, confirmations=1)
    print("open", flush=True)
    await ledger.submit(Deposit(11))
    print("done", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def start(arguments: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)


async def test_a_process_killed_while_it_waits_has_deposited_once(chain, tmp_path):
    """It waits for a confirmation that does not come, so it is killed between sending and receipt; the next gets it."""
    arguments = ["-c", DEPOSITOR, chain.url, chain.deployment.contract.hex(), str(tmp_path)]
    observer = await chain.ledger(0)
    account = bytes.fromhex(development_account(7).address[2:])
    killed = await start(arguments)
    async with asyncio.timeout(60):
        while chain.nonce(account) < 1:  # noqa: ASYNC110 - the chain tells no events
            await asyncio.sleep(0.01)
    killed.kill()
    assert b"done" not in (await killed.communicate())[0]
    again = asyncio.create_task((await start(arguments)).communicate())
    async with asyncio.timeout(60):
        while not again.done():
            chain.ask("evm_mine")
            await asyncio.sleep(0.05)
    assert (await again)[0] == b"open\ndone\n"
    assert await observer.balance(account) == 11
    assert chain.nonce(account) == 2
