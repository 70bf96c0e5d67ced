"""Whether delivered work is what it claims to be: who is audited, by whom, what follows, when a batch may be published.

Decisions are pure (`draw`, `assignment`, `machine`, `canary`, `reputation`); `desk` carries them out. Nothing here
computes a layer, and with no ledger configured none of it runs. docs/ledger.md has the rules.
"""
