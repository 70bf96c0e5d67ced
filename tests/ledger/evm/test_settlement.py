"""Settling costs as many transactions as there are nodes, and no more for a thousand times the rows."""

from __future__ import annotations

from settlement import settle


async def test_the_cost_of_an_epoch_follows_the_nodes_and_not_the_rows(chain):
    few = await settle(chain.url, nodes=4, rows=40)
    many = await settle(chain.url, nodes=4, rows=40_000)
    for one, other in zip(few, many, strict=True):
        assert other.rows == 1000 * one.rows
        assert one.transactions == other.transactions == 5
        # Larger sums have a few more bytes that are not zero, at 12 gas each.
        assert other.gas < one.gas + 5 * 200
        assert one.paid == one.owed
        assert other.paid == other.owed
