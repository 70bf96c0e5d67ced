"""Money over HTTP: a quote before a batch, what is due for one, vouchers, and the proof that a row is in their root."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from deserve_coordinator.api.problems import Problem
from deserve_coordinator.api.queries import json_object
from deserve_coordinator.api.service_options import amount, hex_bytes, prices
from deserve_coordinator.batch_lines import ENDPOINTS
from deserve_coordinator.money.desk import PaymentDesk
from deserve_coordinator.money.tariff import RowSize
from deserve_coordinator.store.interface import Store
from deserve_coordinator.store.money_records import EscrowRecord, VoucherRecord
from deserve_ledger.eip712 import SIGNATURE_BYTES
from deserve_ledger.merkle import MerkleTree

__all__ = ["PaymentsApi"]

_QUOTE = frozenset({"input_file_id", "endpoint", "rows", "prompt_tokens", "max_new_tokens", "max_price"})
_VOUCHER = frozenset({"cumulative", "seq", "results_root", "signature"})
_MOST_TOKENS = 1 << 40


class PaymentsApi:
    """Handlers of /v1/quotes and /v1/batches/{id}/payment."""

    def __init__(self, store: Store, desk: PaymentDesk) -> None:
        self._store = store
        self._desk = desk

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/quotes", self.quote),
            web.get("/v1/batches/{batch_id}/payment", self.retrieve),
            web.post("/v1/batches/{batch_id}/payment", self.pay),
            web.get("/v1/batches/{batch_id}/payment/rows/{custom_id}", self.proof),
        ]

    async def quote(self, request: web.Request) -> web.Response:
        """Of an uploaded file, or of figures: rows, prompt_tokens and max_new_tokens, each of all rows together."""
        body = await json_object(request)
        _only(body.keys(), _QUOTE)
        maximum = prices(body.get("max_price"), "max_price")
        file_id = body.get("input_file_id")
        if file_id is None:
            counts = {name: body.get(name, 0) for name in ("rows", "prompt_tokens", "max_new_tokens")}
            for name, value in counts.items():
                if type(value) is not int or not 0 <= value <= _MOST_TOKENS:
                    raise Problem(400, f"{name} must be a whole number", param=name, code="invalid_value")
            size = RowSize(counts["prompt_tokens"], counts["max_new_tokens"], 0)
            return web.json_response(self._desk.quoting.quote(counts["rows"], size, maximum).view())
        if not isinstance(file_id, str) or (record := await self._store.file(file_id)) is None:
            raise Problem(404, "no such file", param="input_file_id", code="file_not_found")
        endpoint = body.get("endpoint")
        if endpoint not in ENDPOINTS:
            message = f"endpoint must be one of {', '.join(ENDPOINTS)}"
            raise Problem(400, message, param="endpoint", code="invalid_value")
        return web.json_response((await self._desk.quoting.quote_file(record.id, endpoint, maximum)).view())

    async def _find(self, request: web.Request) -> EscrowRecord:
        batch_id = request.match_info["batch_id"]
        escrow = await self._desk.escrow(batch_id)
        if escrow is None:
            message = f"no such batch, or nobody pays for it: {batch_id[:64]}"
            raise Problem(404, message, param="batch_id", code="payment_not_found")
        return escrow

    async def retrieve(self, request: web.Request) -> web.Response:
        return web.json_response(self._desk.view(await self._find(request)))

    async def pay(self, request: web.Request) -> web.Response:
        """Take a voucher: `cumulative`, `seq`, `results_root` and `signature` over them and the job's id."""
        escrow = await self._find(request)
        body = await json_object(request)
        _only(body.keys(), _VOUCHER)
        seq = body.get("seq")
        if type(seq) is not int or not 0 < seq < 1 << 63:
            raise Problem(400, "seq must be a positive whole number", param="seq", code="invalid_value")
        voucher = VoucherRecord(
            seq,
            amount(body.get("cumulative"), "cumulative"),
            hex_bytes(body.get("results_root"), 32, "results_root"),
            hex_bytes(body.get("signature"), SIGNATURE_BYTES, "signature"),
        )
        return web.json_response(self._desk.view(await self._desk.take(escrow, voucher)))

    async def proof(self, request: web.Request) -> web.Response:
        """That a row's result is under the newest results_root: leaf and siblings, as OpenZeppelin verifies them."""
        escrow = await self._find(request)
        custom_id = request.match_info["custom_id"]
        leaves, index = await self._desk.result_leaves(escrow, custom_id)
        if index is None:
            raise Problem(404, "no result of this row was billed", param="custom_id", code="row_not_found")
        tree = MerkleTree(leaves)
        return web.json_response(
            {
                "object": "payment.proof",
                "custom_id": custom_id,
                "leaf": "0x" + leaves[index].hex(),
                "results_root": "0x" + tree.root.hex(),
                "proof": ["0x" + sibling.hex() for sibling in tree.proof(index)],
            }
        )


def _only(given: Iterable[str], allowed: frozenset[str]) -> None:
    if unknown := sorted(set(given) - allowed):
        name = unknown[0][:64]
        raise Problem(400, f"unsupported parameter {name!r}", param=name, code="unsupported_parameter")
