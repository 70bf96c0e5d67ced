"""What a stage can prove of its work: commitments to every byte that came and left, receipts for them, and evidence.

Nothing in here is at work where the coordinator names no ledger.
"""
