"""The development chain: what clients of Ethereum ask of it, and that it outlives its process with the same hashes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from web3 import HTTPProvider, Web3
from web3.exceptions import Web3RPCError

from deserve_ledger.devnet.accounts import development_account
from deserve_ledger.devnet.chain import Chain, Unminable
from deserve_ledger.devnet.log import BlockLog, held_folder
from deserve_ledger.devnet.methods import Methods, RpcError
from deserve_ledger.devnet.producer import CHAIN_ID, Producer
from deserve_ledger.errors import DevnetUnusable

ALICE, BOB = development_account(0), development_account(1)
START_S = 1_700_000_000


def transfer(nonce: int, *, value: int = 1, tip_wei: int = 10**9, chain_id: int = CHAIN_ID) -> bytes:
    fees = {"maxFeePerGas": 3 * tip_wei, "maxPriorityFeePerGas": tip_wei, "gas": 21_000}
    signed = ALICE.sign_transaction(
        {"type": 2, "chainId": chain_id, "nonce": nonce, "to": BOB.address, "value": value, **fees}
    )
    return bytes(signed.raw_transaction)


class Clock:
    def __init__(self) -> None:
        self.now_s = float(START_S)

    def __call__(self) -> float:
        return self.now_s


def fresh(log: BlockLog | None = None, clock: Clock | None = None) -> tuple[Producer, Methods]:
    producer = Producer(Chain(CHAIN_ID, START_S), log, clock or Clock())
    return producer, Methods(producer, time_control=True)


def test_the_accounts_are_those_of_anvil_and_hardhat():
    assert ALICE.address == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    assert BOB.address == "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


def test_blocks_follow_from_what_they_are_made_of():
    one, other = Chain(CHAIN_ID, START_S), Chain(CHAIN_ID, START_S)
    for chain in (one, other):
        chain.mine([transfer(0), transfer(1)], START_S + 5, bytes(32))
    assert one.head.hash == other.head.hash
    other.revert_to(0)
    other.mine([transfer(0), transfer(1)], START_S + 6, bytes(32))
    assert one.head.hash != other.head.hash


def test_a_transaction_that_waits_is_replaced_only_for_more_money():
    producer, _ = fresh()
    producer.automine = False
    producer.submit(transfer(0))
    with pytest.raises(Unminable, match="already known"):
        producer.submit(transfer(0))
    with pytest.raises(Unminable, match="underpriced"):
        producer.submit(transfer(0, tip_wei=10**9 + 10**7))
    producer.submit(transfer(0, tip_wei=2 * 10**9))
    assert len(producer.mine().transactions) == 1
    assert producer.mine().transactions == ()


def test_a_gap_of_nonces_waits_to_be_filled():
    producer, methods = fresh()
    producer.submit(transfer(1))
    assert producer.chain.head.number == 0
    producer.submit(transfer(0))
    assert [len(block.transactions) for block in producer.chain.blocks] == [0, 1, 1]
    assert methods.answer("eth_getTransactionCount", [ALICE.address, "pending"]) == "0x2"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "no transaction"),
        (b"\x02\xff", "no transaction"),
        (transfer(0, chain_id=1), "invalid chain id"),
        (transfer(0, value=10**30), "nsufficient|balance"),
    ],
)
def test_what_no_block_can_hold_is_refused_and_forgotten(raw, reason):
    producer, methods = fresh()
    with pytest.raises(RpcError, match=reason):
        methods.answer("eth_sendRawTransaction", ["0x" + raw.hex()])
    producer.submit(transfer(0))
    assert producer.chain.head.number == 1


def test_a_used_nonce_is_refused():
    producer, _ = fresh()
    producer.submit(transfer(0))
    with pytest.raises(Unminable, match="nonce too low"):
        producer.submit(transfer(0, value=2))


def test_time_passes_with_empty_blocks_and_rarely_when_idle():
    clock = Clock()
    producer, _ = fresh(clock=clock)
    for _ in range(50):
        clock.now_s += 1
        producer.mine_if_due(1)
    assert producer.chain.head.number == 50
    assert producer.chain.head.time_s == START_S + 50
    for _ in range(3600):
        clock.now_s += 1
        producer.mine_if_due(1)
    assert producer.chain.head.number < 50 + 10 + 3600 / 30 + 1


def test_many_blocks_do_not_run_ahead_of_the_clock():
    producer, _ = fresh()
    for nonce in range(5):
        producer.submit(transfer(nonce))
    assert (producer.chain.head.number, producer.chain.head.time_s) == (5, START_S)


def test_time_control_is_for_chains_started_with_it():
    producer, methods = fresh()
    methods.answer("evm_increaseTime", [3600])
    methods.answer("evm_mine", [])
    assert producer.chain.head.time_s == START_S + 3600
    with pytest.raises(RpcError, match="--time-control"):
        Methods(producer).answer("evm_mine", [])


def test_a_reverted_chain_has_forgotten_and_goes_on():
    producer, methods = fresh()
    snapshot = methods.answer("evm_snapshot", [])
    taken_back = methods.answer("eth_sendRawTransaction", ["0x" + transfer(0).hex()])
    assert methods.answer("evm_revert", [snapshot])
    assert methods.answer("eth_getTransactionReceipt", [taken_back]) is None
    assert methods.answer("eth_getBalance", [BOB.address]) == hex(10**24)
    producer.submit(transfer(0, value=5))
    assert methods.answer("eth_getBalance", [BOB.address]) == hex(10**24 + 5)


def reopen(folder: Path) -> Chain:
    log, chain = BlockLog.open(folder, CHAIN_ID, START_S + 1000)
    log.close()
    return chain


def write_chain(folder: Path) -> Chain:
    log, chain = BlockLog.open(folder, CHAIN_ID, START_S)
    producer = Producer(chain, log, Clock())
    for nonce in range(3):
        producer.submit(transfer(nonce))
    producer.close()
    return chain


def test_the_log_gives_the_same_chain_again(tmp_path):
    chain = write_chain(tmp_path)
    assert [block.hash for block in reopen(tmp_path).blocks] == [block.hash for block in chain.blocks]


def test_a_line_cut_off_by_a_crash_is_dropped_and_the_log_goes_on(tmp_path):
    chain = write_chain(tmp_path)
    path = tmp_path / "blocks.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    log, again = BlockLog.open(tmp_path, CHAIN_ID, START_S)
    assert again.head.hash == chain.blocks[2].hash
    Producer(again, log, Clock()).submit(transfer(2, value=9))
    log.close()
    assert reopen(tmp_path).head.hash == again.head.hash


def test_blocks_taken_back_stay_taken_back(tmp_path):
    log, chain = BlockLog.open(tmp_path, CHAIN_ID, START_S)
    producer = Producer(chain, log, Clock())
    producer.submit(transfer(0))
    producer.submit(transfer(1))
    chain.revert_to(0)
    producer.submit(transfer(0, value=7))
    log.close()
    assert [block.hash for block in reopen(tmp_path).blocks] == [block.hash for block in chain.blocks]


@pytest.mark.parametrize(
    ("before", "after"), [(b'"time_s":1700000000,"mix', b'"time_s":1700000001,"mix'), (b'"raw"', b'"row"')]
)
def test_a_damaged_log_is_told_and_left_alone(tmp_path, before, after):
    write_chain(tmp_path)
    path = tmp_path / "blocks.jsonl"
    damaged = path.read_bytes().replace(before, after, 1)
    path.write_bytes(damaged)
    with pytest.raises(DevnetUnusable, match=r"blocks\.jsonl"):
        reopen(tmp_path)
    assert path.read_bytes() == damaged


def test_two_do_not_share_a_directory(tmp_path):
    with held_folder(tmp_path), pytest.raises(DevnetUnusable, match="another development chain"):
        held_folder(tmp_path).__enter__()


def start_process(folder: Path) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    command = [Path(sys.executable).with_name("deserve"), "ledger", "devnet", "--data", folder, "--listen"]
    process = subprocess.Popen([*command, "127.0.0.1:0", "--json"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def end(process: subprocess.Popen[str], how: signal.Signals) -> int:
    process.send_signal(how)
    with process:
        return process.wait(30)


def test_what_was_answered_outlives_kill_9(tmp_path):
    process, told = start_process(tmp_path)
    try:
        chain = Web3(HTTPProvider(told["rpc_url"]))
        sent = [chain.eth.send_raw_transaction(transfer(nonce)) for nonce in range(20)]
        blocks = [chain.eth.get_block(number)["hash"] for number in range(chain.eth.block_number + 1)]
    finally:
        end(process, signal.SIGKILL)
    process, told = start_process(tmp_path)
    try:
        chain = Web3(HTTPProvider(told["rpc_url"]))
        assert [chain.eth.get_block(number)["hash"] for number in range(len(blocks))] == blocks
        assert all(chain.eth.get_transaction_receipt(one)["status"] == 1 for one in sent)
        assert chain.eth.get_transaction_count(ALICE.address) == 20
        with pytest.raises(Web3RPCError, match="nonce too low"):
            chain.eth.send_raw_transaction(transfer(19))
    finally:
        assert end(process, signal.SIGTERM) == 0
    assert os.stat(tmp_path / "blocks.jsonl").st_mode & 0o077 == 0
