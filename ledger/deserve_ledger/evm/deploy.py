"""Makes the contract: once for a network, by anybody, since nobody has a say in it afterwards."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

from eth_keys.datatypes import PrivateKey

from deserve_ledger.contracts import load_artifact
from deserve_ledger.deployment import Deployment
from deserve_ledger.errors import InvalidField, LedgerError
from deserve_ledger.evm.abi import ledger_interface, token_interface
from deserve_ledger.evm.chain import Chain, RpcChain, TransactionReverted
from deserve_ledger.evm.ledger import agreement, outbox_file, refusal_name
from deserve_ledger.evm.outbox import Outbox
from deserve_ledger.evm.sender import Pace, Sender
from deserve_ledger.finality import Confirmations, usual_confirmations
from deserve_ledger.records import Terms

__all__ = ["TEST_TOKEN_SUPPLY", "ask", "deploy", "describe"]

TEST_TOKEN_SUPPLY = 10**27
"""A thousand million tokens of 18 places, all the deployer's."""
_TEST_DECIMALS = 18


async def deploy(
    rpc_url: str,
    key: bytes,
    terms: Terms,
    *,
    token: bytes | None = None,
    state: Path | None = None,
    confirmations: Confirmations | None = None,
    pace: Pace = Pace(),  # noqa: B008 - frozen
    chain: Chain | None = None,
) -> Deployment:
    """A ledger for the ERC-20 at the 20-byte address `token`, or for a new, worthless one where that is None.

    `state`: as of `EvmLedger.open`; asked again after an interruption, it goes on where it was. Raises `Refused` with
    "BadTerms", `InvalidField` where `token` is none, `ChainUnreachable`, `Unfunded` and `Unsettled`.
    """
    chain = chain or RpcChain(rpc_url)
    try:
        chain_id, first = await chain.chain_id(), await chain.block(0)
        account = PrivateKey(key).public_key.to_canonical_address()
        network = bytes(32) if first is None else first.hash
        outbox = Outbox(None if state is None else outbox_file(state), network, account)
        try:
            confirmations = usual_confirmations(chain_id) if confirmations is None else confirmations
            sender = Sender(chain, outbox, key, chain_id, account, confirmations, refusal_name, pace)
            if token is None:
                arguments = token_interface().constructor_arguments(TEST_TOKEN_SUPPLY)
                token, _ = await _create(sender, "TestToken", arguments)
            decimals = await _decimals(chain, account, token)
            arguments = ledger_interface().constructor_arguments("0x" + token.hex(), astuple(terms))
            contract, block = await _create(sender, "DeserveLedger", arguments)
        finally:
            outbox.close()
    finally:
        await chain.close()
    return Deployment(rpc_url, chain_id, contract, token, decimals, block)


async def _create(sender: Sender, name: str, arguments: bytes) -> tuple[bytes, int]:
    """Address and block of a new contract."""
    receipt = await sender.transact(None, load_artifact(name).bytecode + arguments)
    if receipt.contract is None:
        raise LedgerError(f"the chain made no contract in transaction 0x{receipt.transaction.hex()}")
    return receipt.contract, receipt.block


async def _decimals(chain: Chain, account: bytes, token: bytes) -> int:
    try:
        return int(
            token_interface().decode("decimals", await chain.call(account, token, token_interface().encode("decimals")))
        )
    except (TransactionReverted, ValueError) as error:
        raise InvalidField("token", f"there is no ERC-20 at 0x{token.hex()} on this chain") from error


async def ask(rpc_url: str, token: bytes | None) -> tuple[int, int]:
    """The chain's id, and the decimals of the ERC-20 `token`; the test token's where it is None.

    Raises `InvalidField` and `ChainUnreachable`.
    """
    chain = RpcChain(rpc_url)
    try:
        return await chain.chain_id(), _TEST_DECIMALS if token is None else await _decimals(chain, bytes(20), token)
    finally:
        await chain.close()


async def describe(rpc_url: str, contract: bytes) -> Deployment:
    """The ledger at the 20-byte address `contract`, as its chain tells. Raises `InvalidField`, `ChainUnreachable`."""
    chain = RpcChain(rpc_url)
    try:
        _, token = await agreement(chain, bytes(20), contract)
        decimals = await _decimals(chain, bytes(20), token)
        return Deployment(rpc_url, await chain.chain_id(), contract, token, decimals)
    finally:
        await chain.close()
