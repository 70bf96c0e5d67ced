"""EIP-712: what a signature covers, so that it holds for one contract on one chain and for nothing else.

Only flat structs of static types are signed here, so encoding is a sequence of 32-byte words. Signatures are the 65
bytes r, s, v of Ethereum; those with a high s (EIP-2) are refused, because each of them has a twin.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

from eth_hash.auto import keccak
from eth_keys.datatypes import PrivateKey, Signature
from eth_keys.exceptions import BadSignature as MalformedSignature
from eth_utils.exceptions import ValidationError

from deserve_ledger.amounts import check_address, check_amount, check_bytes32, check_uint64
from deserve_ledger.errors import BadSignature

__all__ = ["SIGNATURE_BYTES", "Domain", "Typed", "digest", "encode_words", "recover", "sign", "struct_hash"]

SIGNATURE_BYTES = 65
_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
_DOMAIN_TYPE = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "uint128": check_amount,
    "uint64": check_uint64,
    "bytes32": check_bytes32,
    "address": check_address,
}


class Typed(Protocol):
    """A frozen dataclass whose `TYPES` gives the Solidity type of each field, in order."""

    NAME: ClassVar[str]
    TYPES: ClassVar[tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Domain:
    """Where a signature holds: the contract at 20-byte address `contract` on chain `chain_id`."""

    chain_id: int
    contract: bytes
    name: str = "deserve-net"
    version: str = "1"

    @property
    def separator(self) -> bytes:
        return _separator(self)


@functools.lru_cache(maxsize=64)
def _separator(domain: Domain) -> bytes:
    check_address("contract", domain.contract)
    words = (keccak(_DOMAIN_TYPE), keccak(domain.name.encode()), keccak(domain.version.encode()))
    return keccak(b"".join(words) + domain.chain_id.to_bytes(32, "big") + domain.contract.rjust(32, b"\0"))


def encode_words(types: tuple[tuple[str, str], ...], values: tuple[Any, ...]) -> bytes:
    """`abi.encode` of static values: one 32-byte word each. Raises `InvalidField` for one that does not fit."""
    words = []
    for (field, kind), value in zip(types, values, strict=True):
        checked = _CHECKS[kind](field, value)
        words.append(checked.to_bytes(32, "big") if isinstance(checked, int) else checked.rjust(32, b"\0"))
    return b"".join(words)


@functools.lru_cache(maxsize=64)
def _type_hash(kind: type[Typed]) -> bytes:
    return keccak(f"{kind.NAME}({','.join(f'{solidity} {field}' for field, solidity in kind.TYPES)})".encode())


def struct_hash(message: Typed) -> bytes:
    """hashStruct of EIP-712, 32 bytes. Raises `InvalidField`."""
    values = tuple(getattr(message, field.name) for field in fields(message))  # type: ignore[arg-type]
    return keccak(_type_hash(type(message)) + encode_words(message.TYPES, values))


def digest(domain: Domain, message: Typed) -> bytes:
    """The 32 bytes that are signed. Raises `InvalidField`."""
    return keccak(b"\x19\x01" + domain.separator + struct_hash(message))


def sign(key: bytes, domain: Domain, message: Typed) -> bytes:
    """65 bytes r, s, v over `message` by the 32-byte private key `key`. Deterministic (RFC 6979)."""
    signature = PrivateKey(key).sign_msg_hash(digest(domain, message))
    return signature.to_bytes()[:64] + bytes([27 + signature.v])


def recover(domain: Domain, message: Typed, signature: bytes) -> bytes:
    """The 20-byte address whose key signed `message`. Raises `BadSignature` for one that nobody can have made."""
    if len(signature) != SIGNATURE_BYTES or signature[64] not in (27, 28):
        raise BadSignature(f"a signature has 65 bytes and ends with 27 or 28, not {len(signature)} bytes like this one")
    if int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        raise BadSignature("the signature has a high s: it is the twin of another one")
    try:
        made = Signature(signature[:64] + bytes([signature[64] - 27]))
        return made.recover_public_key_from_msg_hash(digest(domain, message)).to_canonical_address()
    except (MalformedSignature, ValidationError) as error:
        raise BadSignature(f"no key can have made this signature: {error}") from error
