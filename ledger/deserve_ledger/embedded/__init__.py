"""The ledger without a chain: the contract's rules in Python over a journal that one owner keeps and everybody checks.

`machine` decides what a signed call does, `journal` keeps the calls, `heads` holds the owner to what it has shown,
`ledger` is the `Ledger` of an account in the owner's process and `remote` that of one elsewhere.
"""
