"""Money and proof: signed amounts, the contract that pays them out, and the journal that does so without a chain.

Knows nothing of tensors, batches or processes. See docs/ledger.md for who can lose what to whom.
"""
