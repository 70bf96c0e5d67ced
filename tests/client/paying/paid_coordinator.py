"""A coordinator that is paid: it charges what the test says, and keeps every voucher with who signed it.

Real HTTP. `hold` and `lose` are what may go wrong between a payer and its coordinator.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from deserve_client.paying.results import result_leaf
from deserve_ledger.eip712 import Domain, recover
from deserve_ledger.keystore import Key
from deserve_ledger.merkle import MerkleTree
from deserve_ledger.messages import Voucher

KEY = "sk-test"
ACCOUNT = Key.of(b"\x31" * 32)
LAYERS = 4


@dataclass
class PaidCoordinator:
    domain: Domain = field(default_factory=lambda: Domain(31337, b"\x0c" * 20))
    status: str = "in_progress"
    charged: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    at_most: int = 10**6
    results: list[tuple[str, bytes]] = field(default_factory=list)
    """custom_id and response body of each delivered row."""
    created: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Requests by idempotency key."""
    vouchers: list[tuple[Voucher, bytes]] = field(default_factory=list)
    """Every one that came, with its signature."""
    signers: set[bytes] = field(default_factory=set)
    hold: bool = False
    """Never answer a voucher."""
    lose: int = 0
    """So many vouchers are answered with 503 after they were kept."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    base_url: str = ""

    def application(self) -> web.Application:
        application = web.Application()
        application.add_routes(
            [
                web.post("/v1/files", self.upload),
                web.get("/v1/files/{id}/content", self.content),
                web.post("/v1/quotes", self.quote),
                web.get("/v1/settlement", self.settlement),
                web.post("/v1/batches", self.create),
                web.get("/v1/batches/{id}", self.batch),
                web.get("/v1/batches/{id}/payment", self.payment),
                web.post("/v1/batches/{id}/payment", self.pay),
                web.get("/v1/batches/{id}/payment/rows/{custom_id}", self.proof),
            ]
        )
        return application

    def deliver(self, custom_id: str, prompt: int, completion: int, price: int = 1) -> None:
        """One more row, at `price` base units per layer-token."""
        usage = {"prompt_tokens": prompt, "completion_tokens": completion}
        self.results.append((custom_id, json.dumps({"id": "x", "usage": usage}).encode()))
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.charged += LAYERS * (prompt + completion) * price

    @property
    def job_id(self) -> bytes:
        (body,) = self.created.values()
        return bytes.fromhex(body["deserve"]["job_id"][2:])

    def tree(self) -> MerkleTree:
        return MerkleTree([result_leaf(*result) for result in self.results])

    async def upload(self, request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"id": "file-1"})

    async def content(self, request: web.Request) -> web.Response:
        head, middle = b'{"id": "r", "custom_id": ', b', "response": {"status_code": 200, "request_id": "q", "body": '
        lines = b"".join(
            head + json.dumps(name).encode() + middle + body + b'}, "error": null}\n' for name, body in self.results
        )
        return web.Response(body=lines, headers={"x-content-sha256": hashlib.sha256(lines).hexdigest()})

    async def quote(self, request: web.Request) -> web.Response:
        asked = (await request.json()).get("max_price") or {"prefill": "1000000", "decode": "1000000"}
        assumed = {"rows": 2, "prompt_tokens": 9, "completion_tokens": 9, "text": ""}
        return web.json_response(
            {
                "at_most": str(self.at_most),
                "max_price": asked,
                "margin_ppm": 50_000,
                "layers": LAYERS,
                "assumes": assumed,
            }
        )

    async def settlement(self, request: web.Request) -> web.Response:
        return web.json_response({"coordinator": "0x" + ACCOUNT.address.hex()})

    async def create(self, request: web.Request) -> web.Response:
        self.created.setdefault(request.headers["Idempotency-Key"], await request.json())
        return web.json_response({"id": "batch_1"})

    async def batch(self, request: web.Request) -> web.Response:
        usage = {"input_tokens": self.prompt_tokens, "output_tokens": self.completion_tokens}
        output = "file-out" if self.status == "completed" and self.results else None
        counts = {"total": 9, "completed": len(self.results), "failed": 0}
        return web.json_response(
            {
                "id": "batch_1",
                "status": self.status,
                "usage": usage,
                "output_file_id": output,
                "request_counts": counts,
            }
        )

    @property
    def newest(self) -> Voucher:
        return max((v for v, _ in self.vouchers), key=lambda v: v.seq, default=Voucher(bytes(32), 0, 0, bytes(32)))

    async def payment(self, request: web.Request) -> web.Response:
        ledger = {
            "chain_id": self.domain.chain_id,
            "contract": "0x" + self.domain.contract.hex(),
            "coordinator": "0x" + ACCOUNT.address.hex(),
        }
        following = {
            "cumulative": str(self.charged),
            "seq": self.newest.seq + 1,
            "results_root": "0x" + self.tree().root.hex(),
        }
        return web.json_response(
            {
                "job_id": "0x" + self.job_id.hex(),
                "ledger": ledger,
                "charged": str(self.charged),
                "paid": str(self.newest.cumulative),
                "next": following,
            }
        )

    async def pay(self, request: web.Request) -> web.Response:
        body = await request.json()
        root, signature = (bytes.fromhex(body[name][2:]) for name in ("results_root", "signature"))
        voucher = Voucher(self.job_id, int(body["cumulative"]), body["seq"], root)
        self.signers.add(recover(self.domain, voucher, signature))
        if self.hold:
            self.arrived.set()
            await asyncio.Event().wait()
        self.vouchers.append((voucher, signature))
        self.arrived.set()
        if self.lose:
            self.lose -= 1
            return web.json_response({"error": {"message": "busy"}}, status=503)
        return await self.payment(request)

    async def proof(self, request: web.Request) -> web.Response:
        names = [name for name, _ in self.results]
        siblings = self.tree().proof(names.index(request.match_info["custom_id"]))
        return web.json_response({"proof": ["0x" + sibling.hex() for sibling in siblings]})
