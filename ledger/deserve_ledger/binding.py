"""A node's two keys vouch for each other: the one that signs its work, and the one that its peers know it by.

The receipt key (secp256k1) signs `BindNode` for the contract; the libp2p key (Ed25519, RFC 8032) signs the same digest
for everybody who talks to the node. With only one of the two, a node could have another's work paid to itself, or book
its own faults on another's account.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from deserve_ledger.amounts import check_address, check_bytes32
from deserve_ledger.eip712 import Domain, digest, recover, sign
from deserve_ledger.errors import BadSignature
from deserve_ledger.identifiers import node_id
from deserve_ledger.keystore import Key
from deserve_ledger.messages import BindNode

__all__ = ["Binding", "bind", "check_binding"]


@dataclass(frozen=True, slots=True)
class Binding:
    """`operator` is paid for what the peer `peer_key` signs with `receipt_key`."""

    operator: bytes
    peer_key: bytes
    """Raw Ed25519 public key, 32 bytes."""
    receipt_key: bytes
    """Address, 20 bytes."""
    nonce: int
    receipt_signature: bytes
    peer_signature: bytes

    @property
    def node_id(self) -> bytes:
        return node_id(self.operator, self.peer_key)


def bind(domain: Domain, operator: bytes, peer_secret: bytes, receipt_key: Key, nonce: int) -> Binding:
    """Sign with both keys; `peer_secret` is the Ed25519 private key, 32 bytes. Raises `InvalidField`."""
    check_address("operator", operator)
    peer = Ed25519PrivateKey.from_private_bytes(check_bytes32("peer_secret", peer_secret))
    message = BindNode(operator, peer.public_key().public_bytes_raw(), nonce)
    return Binding(
        operator,
        message.peer_key,
        receipt_key.address,
        nonce,
        sign(receipt_key.secret, domain, message),
        peer.sign(digest(domain, message)),
    )


def check_binding(domain: Domain, binding: Binding) -> bytes:
    """The node id, where both signatures hold here. `binding.peer_key` must be the key that the peer was met under.

    Raises `BadSignature`, `InvalidField`.
    """
    message = BindNode(binding.operator, check_bytes32("peer_key", binding.peer_key), binding.nonce)
    if recover(domain, message, binding.receipt_signature) != binding.receipt_key:
        raise BadSignature("receipt_signature: not made by the receipt key")
    try:
        peer = Ed25519PublicKey.from_public_bytes(binding.peer_key)
        peer.verify(binding.peer_signature, digest(domain, message))
    except (InvalidSignature, ValueError) as error:
        raise BadSignature("peer_signature: not made by the peer's key") from error
    return binding.node_id
