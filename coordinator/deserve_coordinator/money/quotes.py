"""What a batch will cost at most, before anybody submits it.

What a model will say cannot be known, so a quote is an upper bound: every row generates as much as it may, and all of
it at the highest price that is allowed. A batch is never charged more than its quote, and what is left is refunded.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deserve_coordinator.batch_lines import BatchLines, Check
from deserve_coordinator.blobs import Blobs
from deserve_coordinator.errors import BatchRefused
from deserve_coordinator.money.registry import NodeAccount
from deserve_coordinator.money.tariff import PPM, RowSize, dearest_row, most_a_node_may_ask
from deserve_network.money_messages import Prices

__all__ = ["Quote", "Quoting"]

_ROWS_AT_ONCE = 200
_KEPT_COUNTS = 64


@dataclass(frozen=True, slots=True)
class Quote:
    """`most` is what nodes may ask at most, margin excluded; `at_most` what the payer is charged at most."""

    rows: int
    size: RowSize
    """Of all rows together."""
    most: Prices
    margin_ppm: int
    layers: int
    at_most: int

    def view(self) -> dict[str, Any]:
        """As the API shows it; amounts are decimal strings, since JSON's readers may keep 53 bits only."""
        shown = {name: -(-getattr(self.most, name) * (PPM + self.margin_ppm) // PPM) for name in ("prefill", "decode")}
        return {
            "object": "quote",
            "at_most": str(self.at_most),
            "max_price": {name: str(price) for name, price in shown.items()},
            "margin_ppm": self.margin_ppm,
            "layers": self.layers,
            "assumes": {
                "rows": self.rows,
                "prompt_tokens": self.size.prompt_tokens,
                "completion_tokens": self.size.most_tokens,
                "text": "every row generates as many tokens as it may, on nodes at the maximum price",
            },
        }


class Quoting:
    """`nodes()` are the accounts of nodes that are here, `layers` the whole model's."""

    def __init__(
        self,
        blobs: Blobs,
        check: Check,
        *,
        layers: int,
        margin_ppm: int,
        nodes: Callable[[], dict[bytes, NodeAccount]],
    ) -> None:
        self._blobs = blobs
        self._check = check
        self._layers = layers
        self._margin_ppm = margin_ppm
        self._nodes = nodes
        self._counts: OrderedDict[tuple[str, str], tuple[int, RowSize]] = OrderedDict()

    def quote(self, rows: int, size: RowSize, maximum: Prices | None) -> Quote:
        """`maximum`: the payer's, margin included; None: that of the dearest node here. Raises `BatchRefused`."""
        most = self._most(maximum)
        at_most = dearest_row(size, self._layers, most.prefill, most.decode, self._margin_ppm)
        return Quote(rows, size, most, self._margin_ppm, self._layers, at_most)

    async def quote_file(self, file_id: str, endpoint: str, maximum: Prices | None) -> Quote:
        """Raises `BatchRefused` for a file that no batch can be made of."""
        key = (file_id, endpoint)
        if key not in self._counts:
            self._counts[key] = await asyncio.to_thread(self._count, file_id, endpoint)
            if len(self._counts) > _KEPT_COUNTS:
                self._counts.popitem(last=False)
        return self.quote(*self._counts[key], maximum)

    def _most(self, maximum: Prices | None) -> Prices:
        if maximum is not None:
            asked = (maximum.prefill, maximum.decode)
            return Prices(*(most_a_node_may_ask(price, self._margin_ppm) for price in asked))
        prices = [account.prices for account in self._nodes().values()]
        if not prices:
            message = "no node is here whose price could be taken: say what you would pay at most"
            raise BatchRefused(message, param="deserve.max_price", code="missing_required_parameter")
        return Prices(max(p.prefill for p in prices), max(p.decode for p in prices))

    def _count(self, file_id: str, endpoint: str) -> tuple[int, RowSize]:
        rows = prompt = most = 0
        try:
            file = self._blobs.path(file_id).open("rb")
        except FileNotFoundError:
            raise BatchRefused(
                "the input file is gone", param="input_file_id", code="file_not_found", status=404
            ) from None
        with file:
            lines = BatchLines(file, endpoint, self._check)
            for chunk in lines.chunks(_ROWS_AT_ONCE):
                for row in chunk:
                    if row.size is not None:
                        rows, prompt, most = rows + 1, prompt + row.size.prompt_tokens, most + row.size.most_tokens
        if lines.faults:
            fault = lines.faults[0]
            message = f"line {fault['line']} of the file is no batch line: {fault['message']}"
            raise BatchRefused(message, param="input_file_id", code=str(fault["code"]))
        return rows, RowSize(prompt, most, 0)
