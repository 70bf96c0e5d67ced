"""The ledger on an EVM chain: one account's calls as transactions of the contract, over JSON-RPC.

`ledger.EvmLedger` is the backend. Needs the extra `ledger`; importing the package imports nothing heavy.
"""
