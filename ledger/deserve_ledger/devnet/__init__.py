"""An EVM chain of one process, served over JSON-RPC, for machines without a chain: tests, demos, first steps.

It is no consensus: whoever runs it can do as he likes with it. What it promises is that an answered transaction
survives the process's death, and that block hashes are the same after it. Needs the extra `ledger`.
"""
