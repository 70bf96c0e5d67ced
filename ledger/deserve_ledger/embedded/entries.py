"""A journal's entries: a call that its sender signed, when it took effect, and the chain of hashes through them all.

Hash of entry n = SHA-256(hash of entry n - 1, SHA-256(all that entry n says)); entry 0 is the genesis: owner, domain
and terms. The inner hash is the entry's *link*: 32 bytes an entry prove that a longer journal extends a shorter one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import ClassVar

from eth_hash.auto import keccak

from deserve_ledger.amounts import check_address, check_bytes32, check_uint64
from deserve_ledger.eip712 import SIGNATURE_BYTES, Domain, recover, sign
from deserve_ledger.embedded.calls import JournalCall
from deserve_ledger.embedded.encoding import decode_call, encode_call
from deserve_ledger.errors import BadSignature
from deserve_ledger.records import Terms

__all__ = ["Authorization", "Entry", "SignedCall", "extend", "genesis_hash", "journal_domain", "sign_call"]


@dataclass(frozen=True, slots=True)
class Authorization:
    """Signed by an account: the call whose encoding has this Keccak hash may be journaled once, before `expires_s`."""

    NAME: ClassVar[str] = "JournalCall"
    TYPES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("sender", "address"),
        ("nonce", "uint64"),
        ("expiresAt", "uint64"),
        ("callHash", "bytes32"),
    )

    sender: bytes
    nonce: int
    expires_s: int
    call_hash: bytes


@dataclass(frozen=True, slots=True)
class SignedCall:
    """`nonce` counts the sender's entries from 0; `call` is encoded (`encoding`)."""

    sender: bytes
    nonce: int
    expires_s: int
    call: bytes
    signature: bytes

    def check(self, domain: Domain) -> JournalCall:
        """The call, if the sender signed it. Raises `BadSignature` or `InvalidField`."""
        call = self.decoded()
        authorized = Authorization(self.sender, self.nonce, self.expires_s, keccak(self.call))
        if recover(domain, authorized, self.signature) != self.sender:
            raise BadSignature(f"the call is not signed by its sender {self.sender.hex()}")
        return call

    def decoded(self) -> JournalCall:
        """The call, whoever signed it. Raises `InvalidField`."""
        return decode_call(self.call)


def sign_call(key: bytes, sender: bytes, domain: Domain, nonce: int, expires_s: int, call: JournalCall) -> SignedCall:
    """By the 32-byte private key of the account `sender`. Raises `InvalidField` for a call that fits no entry."""
    encoded = encode_call(call)
    signature = sign(key, domain, Authorization(sender, nonce, expires_s, keccak(encoded)))
    return SignedCall(sender, nonce, expires_s, encoded, signature)


@dataclass(frozen=True, slots=True)
class Entry:
    """Number `number`, from 1. `entropy`: 32 bytes that the journal drew when it took the call."""

    number: int
    time_s: int
    entropy: bytes
    signed: SignedCall

    @property
    def link(self) -> bytes:
        """SHA-256 over every field, 32 bytes."""
        signed = self.signed
        if len(signed.signature) != SIGNATURE_BYTES:
            raise BadSignature(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signed.signature)}")
        return hashlib.sha256(
            check_uint64("number", self.number).to_bytes(8, "big")
            + check_uint64("time_s", self.time_s).to_bytes(8, "big")
            + check_bytes32("entropy", self.entropy)
            + check_address("sender", signed.sender)
            + check_uint64("nonce", signed.nonce).to_bytes(8, "big")
            + check_uint64("expires_s", signed.expires_s).to_bytes(8, "big")
            + signed.signature
            + signed.call
        ).digest()


def extend(entry_hash: bytes, links: Iterable[bytes]) -> bytes:
    """The hash of the last entry, from that of an earlier one and the links of all that follow it."""
    for link in links:
        entry_hash = hashlib.sha256(entry_hash + link).digest()
    return entry_hash


def journal_domain(owner: bytes) -> Domain:
    """Chain 0, which is no chain, and an address that only this owner's journal has."""
    return Domain(0, keccak(b"deserve-net journal of " + owner)[12:])


def genesis_hash(owner: bytes, domain: Domain, terms: Terms) -> bytes:
    """The hash of entry 0: whoever holds a head holds the terms."""
    words = (domain.chain_id, *astuple(terms))
    return hashlib.sha256(owner + domain.separator + b"".join(word.to_bytes(32, "big") for word in words)).digest()
