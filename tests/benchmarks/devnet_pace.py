"""How many transactions a second the development chain takes from several processes, and how fast it starts again.

python tests/benchmarks/devnet_pace.py --transactions 400 --clients 4
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deserve_ledger.devnet.accounts import development_account
from deserve_ledger.evm.chain import RpcChain


def start(folder: str) -> tuple[subprocess.Popen[str], str, float]:
    """The process, its URL, and seconds until it answered."""
    begun = time.monotonic()
    command = [str(Path(sys.executable).with_name("deserve")), "ledger", "devnet", "--data", folder, "--json"]
    process = subprocess.Popen([*command, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["rpc_url"], time.monotonic() - begun


def send(url: str, number: int, transactions: int) -> None:
    async def all_of_them() -> None:
        chain = RpcChain(url)
        fields = {"type": 2, "chainId": 31337, "to": bytes(20), "value": 1, "gas": 21_000}
        fees = {"maxFeePerGas": 10**10, "maxPriorityFeePerGas": 10**9}
        for nonce in range(transactions):
            signed = development_account(number).sign_transaction({**fields, **fees, "nonce": nonce})
            await chain.send(bytes(signed.raw_transaction))
        await chain.close()

    asyncio.run(all_of_them())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=400)
    parser.add_argument("--clients", type=int, default=4)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process, url, first_s = start(folder)
        each = flags.transactions // flags.clients
        clients = [multiprocessing.Process(target=send, args=(url, i, each)) for i in range(flags.clients)]
        begun = time.monotonic()
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        rate = each * flags.clients / (time.monotonic() - begun)
        process.kill()
        process.wait()
        process, _, again_s = start(folder)
        process.kill()
        process.wait()
    print(f"{rate:.0f} transactions a second from {flags.clients} processes, each on disk before its answer")
    print(f"ready after {first_s:.1f} s, and with {each * flags.clients} blocks to make again after {again_s:.1f} s")


if __name__ == "__main__":
    main()
