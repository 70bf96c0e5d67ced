"""The payer's side: opening a job, and paying for what is delivered while its owner sleeps.

What is in here imports `deserve_ledger`, so nothing else of the client imports it before money is at stake.
"""
