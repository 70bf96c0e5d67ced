"""The file that says where a ledger is: read back as written, and its faults named."""

from __future__ import annotations

import json

import pytest

from deserve_ledger.deployment import Deployment, read_deployment, write_deployment
from deserve_ledger.eip712 import Domain
from deserve_ledger.errors import InvalidField

HERE = Deployment("http://127.0.0.1:8545", 31337, b"\1" * 20, b"\2" * 20, 6, 12)


def test_it_is_read_back_as_written(tmp_path):
    file = tmp_path / "deployment.json"
    for deployment in (HERE, Deployment("https://journal", 0, b"\3" * 20, owner=b"\4" * 20)):
        write_deployment(file, deployment)
        assert read_deployment(file) == deployment
    assert [path.name for path in tmp_path.iterdir()] == ["deployment.json"]
    assert HERE.domain == Domain(31337, b"\1" * 20)
    assert not HERE.embedded


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"contract": "0x12"}, "contract"),
        ({"contract": 5}, "contract"),
        ({"chain_id": -1}, "chain_id"),
        ({"chain_id": "1"}, "chain_id"),
        ({"decimals": 99}, "decimals"),
        ({"url": "ftp://x"}, "url"),
        ({"colour": "red"}, "colour: unknown key"),
    ],
)
def test_what_is_wrong_in_it_is_named(tmp_path, change, reason):
    file = tmp_path / "deployment.json"
    write_deployment(file, HERE)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InvalidField, match=rf"deployment\.json: .*{reason}"):
        read_deployment(file)


def test_a_file_that_is_none_is_named(tmp_path):
    for content in ("", "[]", "{}", "\xff"):
        (tmp_path / "d.json").write_text(content, encoding="latin-1")
        with pytest.raises(InvalidField, match=r"d\.json"):
            read_deployment(tmp_path / "d.json")
    with pytest.raises(InvalidField, match="No such file"):
        read_deployment(tmp_path / "missing")
