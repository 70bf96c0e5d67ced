"""HOST:PORT and back."""

from __future__ import annotations

import socket

import pytest

from deserve_process.errors import AddressInvalid
from deserve_process.listen_address import parse_host_port, reachable_host, show_host_port


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


def test_a_wildcard_is_told_to_others_as_this_machine() -> None:
    told = reachable_host("0.0.0.0")
    assert told != "0.0.0.0"
    with socket.create_server(("0.0.0.0", 0)) as server:
        socket.create_connection((told, server.getsockname()[1]), timeout=10).close()


def test_a_machine_without_a_route_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_route(*_: object) -> None:
        raise OSError(101, "Network is unreachable")

    class Unconnected(socket.socket):
        connect = no_route  # type: ignore[assignment]

    monkeypatch.setattr(socket, "socket", Unconnected)
    assert reachable_host("::") == socket.gethostname()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.0.0.5", "example.org"])
def test_any_other_host_is_told_as_it_is(host: str) -> None:
    assert reachable_host(host) == host
