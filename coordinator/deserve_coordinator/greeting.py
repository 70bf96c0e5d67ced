"""What a node must say before it counts: Hello, then (after our Welcome) Offer, both checked field by field."""

from __future__ import annotations

import hmac

from deserve_coordinator.errors import ProtocolViolation
from deserve_coordinator.planner import Capacity
from deserve_network.control_messages import PROTOCOL_VERSION, Hello, Offer

__all__ = ["check_hello", "check_offer"]


def check_hello(message: object, peer_id: str, join_token: str | None) -> Hello:
    """Raises `ProtocolViolation`. `peer_id` is who the connection proved to be."""
    if not isinstance(message, Hello):
        raise ProtocolViolation("message", f"expected Hello, got {type(message).__name__}")
    if message.version != PROTOCOL_VERSION:
        raise ProtocolViolation("version", f"{message.version}, this coordinator speaks {PROTOCOL_VERSION}")
    if join_token is not None and not hmac.compare_digest(message.token.encode(), join_token.encode()):
        raise ProtocolViolation("token", "this coordinator asks for another join token")
    if not message.name or not message.name.isprintable():
        raise ProtocolViolation("name", "must be printable and not empty")
    if not message.addresses or not all(address.endswith(f"/p2p/{peer_id}") for address in message.addresses):
        raise ProtocolViolation("addresses", f"must be multiaddresses that end in /p2p/{peer_id}")
    if message.memory_bytes <= 0:
        raise ProtocolViolation("memory_bytes", "must be positive")
    return message


def check_offer(message: object, hello: Hello, digest: str) -> Capacity:
    """Raises `ProtocolViolation`; `digest` is that of the swarm's model."""
    if not isinstance(message, Offer):
        raise ProtocolViolation("message", f"expected Offer, got {type(message).__name__}")
    if message.digest != digest:
        raise ProtocolViolation("digest", f"this node has another model: {message.digest}, not {digest}")
    if not 0 < message.layer_time_s < 3600:
        raise ProtocolViolation("layer_time_s", "must be above 0 and below an hour")
    for name, least in (("layer_bytes", 1), ("edge_bytes", 0), ("kv_bytes_per_token_layer", 0)):
        if getattr(message, name) < least:
            raise ProtocolViolation(name, f"must be at least {least}")
    return Capacity(
        memory_bytes=hello.memory_bytes,
        layer_time_s=message.layer_time_s,
        speed_class=message.speed_class,
        layer_bytes=message.layer_bytes,
        edge_bytes=message.edge_bytes,
        kv_bytes_per_token_layer=message.kv_bytes_per_token_layer,
    )
