"""Rows at the head: what their results say about how they were computed."""

from __future__ import annotations

import json

import pytest

from deserve_network.control_messages import Lease, LeasedRow
from deserve_network.ring_messages import SampledToken
from deserve_node.ring.rows import open_row
from deserve_text.tokenizer import TextModel


@pytest.mark.parametrize(("codec", "said"), [("raw", None), ("int8", {"codec": "int8"})])
def test_a_result_names_the_codec_that_made_it_inexact_and_no_other(tiny_model, codec, said):
    body = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 1}
    leased = LeasedRow(3, "/v1/completions", json.dumps(body).encode(), 0, codec=codec)
    row = open_row(leased, Lease(1, 1, 60.0, (leased,)), TextModel.load(tiny_model))
    row.push(SampledToken(0, 3, 9))
    result = json.loads(row.result(1).body)
    assert result.get("deserve") == said
    assert list(result)[:6] == ["id", "object", "created", "model", "choices", "usage"]
