"""HOST:PORT and back."""

from __future__ import annotations

import pytest

from deserve_process.errors import AddressInvalid
from deserve_process.listen_address import parse_host_port, show_host_port


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:0", ("::1", 0)),
        ("h:65535", ("h", 65535)),
    ],
)
def test_addresses_are_read_and_shown(text: str, parsed: tuple[str, int]) -> None:
    assert parse_host_port(text) == parsed
    assert show_host_port(*parsed) == text


@pytest.mark.parametrize("text", ["", "x", "80", ":80", "h:", "h:65536", "h:-1", "h:8²", "::1:80", "[]:80", "h:80/x"])
def test_what_is_no_address_is_quoted(text: str) -> None:
    with pytest.raises(AddressInvalid, match="is not HOST:PORT") as caught:
        parse_host_port(text)
    assert repr(text) in str(caught.value)
