"""What the coordinator owes whom, and the proof of it under a posted root: for operators, and for nodes without a key.

Whoever asks for a proof needs no API key. It says nothing that the ledger does not, and a node must not depend on a
secret of its debtor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web

from deserve_coordinator.api.problems import Problem
from deserve_coordinator.api.service_options import hex_bytes
from deserve_coordinator.money.settlement import Settlement
from deserve_ledger.merkle import MerkleTree, claim_leaf

__all__ = ["SettlementApi"]


class SettlementApi:
    """Handlers of /v1/settlement. `put_out()`: nodes that an audit has put out, with the reason, by node id."""

    def __init__(self, settlement: Settlement, put_out: Callable[[], Mapping[bytes, str]] = dict) -> None:
        self._settlement = settlement
        self._put_out = put_out

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/settlement", self.overview),
            web.get("/v1/settlement/{epoch}/{node_id}", self.proof),
        ]

    async def overview(self, request: web.Request) -> web.Response:
        settlement = self._settlement
        credited, held = await settlement.store.credited(), await settlement.store.held()
        escrows = await settlement.store.open_escrows()
        nodes = sorted(credited.keys() | held.keys() | settlement.nodes().keys())
        return web.json_response(
            {
                "object": "settlement",
                "coordinator": "0x" + settlement.ledger.account.hex(),
                "margin_ppm": settlement.policy.margin_ppm,
                "epoch": await settlement.store.newest_epoch(),
                "nodes": [
                    {
                        "node_id": "0x" + node.hex(),
                        "credited": str(credited.get(node, 0)),
                        "held": str(held.get(node, 0)),
                    }
                    for node in nodes
                ],
                "escrows": [
                    {
                        "batch_id": found.escrow.batch_id,
                        "charged": str(found.escrow.charged),
                        "paid": str(found.escrow.paid),
                        "redeemed": str(found.escrow.redeemed),
                        "paused": settlement.paused.get(found.escrow.batch_id),
                    }
                    for found in escrows
                ],
                "put_out": [
                    {"node_id": "0x" + node.hex(), "reason": reason} for node, reason in self._put_out().items()
                ],
            }
        )

    async def proof(self, request: web.Request) -> web.Response:
        """What `claim` on the ledger takes: epoch, node, cumulative, proof."""
        text = request.match_info["epoch"]
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise Problem(400, "epoch must be a number", param="epoch", code="invalid_value")
        node_id = hex_bytes(request.match_info["node_id"], 32, "node_id")
        found = await self._settlement.store.epoch(int(text))
        if found is None or found.posted_at is None:
            raise Problem(404, f"epoch {text} is not posted", param="epoch", code="epoch_not_found")
        amounts = dict(found.leaves)
        if node_id not in amounts:
            raise Problem(404, "this node is owed nothing in this epoch", param="node_id", code="node_not_found")
        account = self._settlement.ledger.account
        tree = MerkleTree([claim_leaf(account, found.epoch, node, owed) for node, owed in found.leaves])
        proof = tree.proof([node for node, _ in found.leaves].index(node_id))
        return web.json_response(
            {
                "object": "settlement.proof",
                "coordinator": "0x" + account.hex(),
                "epoch": found.epoch,
                "root": "0x" + found.root.hex(),
                "node_id": "0x" + node_id.hex(),
                "cumulative": str(amounts[node_id]),
                "proof": ["0x" + sibling.hex() for sibling in proof],
            }
        )
