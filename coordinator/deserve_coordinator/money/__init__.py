"""What work costs and earns: prices, bills, vouchers in, credits out, and the ledger where both are settled.

Nothing here knows a tensor or a socket; with no ledger configured none of it runs. docs/ledger.md has the rules.
"""
