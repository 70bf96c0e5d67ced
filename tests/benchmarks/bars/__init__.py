"""The bars that this project holds itself to, measured: `tests/benchmarks/latency.py` is the way in.

`catalogue` lists the groups of bars; a group says what to run (`experiments`) and what its figures mean (`rows`). What
was measured goes to a journal at once, and everything that is printed or drawn is computed from the journal.
"""
