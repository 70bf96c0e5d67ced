"""What a node earns and what it is owed: its receipt key, the credits it holds, and when it stops working on trust.

Nothing in here is at work where the operator names no account or the coordinator no ledger.
"""
