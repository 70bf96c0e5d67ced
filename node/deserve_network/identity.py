"""Who a participant is: one ed25519 key in a file, and the libp2p peer id that follows from it.

The file holds the 32 bytes of the private key, nothing else, mode 0600. Whoever reads it can speak in the
participant's name, so a file that others may read is refused rather than used.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deserve_network.errors import IdentityError

__all__ = ["Identity", "generate_identity", "load_or_create_identity", "public_key_of"]

_KEY_BYTES = 32
_ED25519_PREFIX = b"\x08\x01\x12\x20"
"""PublicKey protobuf: field 1 (type) = 1 (Ed25519), field 2 (data) = 32 bytes. An identity multihash is around it."""
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Identity:
    secret: bytes = field(repr=False)
    """Private key, 32 bytes (RFC 8032)."""
    peer_id: str
    """Base58 of the identity multihash of the public key (libp2p peer id specification)."""


def generate_identity() -> Identity:
    """A new identity that lives in memory only."""
    return _identity(secrets.token_bytes(_KEY_BYTES))


def load_or_create_identity(path: str | os.PathLike[str]) -> Identity:
    """The identity in `path`, created on first use (directory too). Raises `IdentityError`, naming the file."""
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            _create(file)
        with file.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            if os.name == "posix" and mode & 0o077:
                raise IdentityError(f"{file}: mode {mode:04o} lets others read the key; run: chmod 600 {file}")
            secret = stream.read(_KEY_BYTES + 1)
    except OSError as error:
        raise IdentityError(f"{file}: {error.strerror or error}") from error
    if len(secret) != _KEY_BYTES:
        raise IdentityError(f"{file}: expected {_KEY_BYTES} bytes of an ed25519 key, found {len(secret)} or more")
    return _identity(secret)


def _create(file: Path) -> None:
    # Written beside and linked into place: a crash leaves no half key, and of two processes that start at once
    # both end up with the key of the first.
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(_KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink()


def _identity(secret: bytes) -> Identity:
    public = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    encoded = _ED25519_PREFIX + public
    return Identity(secret, _base58(b"\x00" + bytes([len(encoded)]) + encoded))


def _base58(data: bytes) -> str:
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        digits = _BASE58[rest] + digits
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + digits


def public_key_of(peer_id: str) -> bytes:
    """The raw Ed25519 public key, 32 bytes, that a peer id spells out. Raises `IdentityError` for any other peer id."""
    number = 0
    for character in peer_id[:64]:
        digit = _BASE58.find(character)
        if digit < 0:
            raise IdentityError(f"{peer_id[:64]!r} is no peer id: {character!r} is no digit of base 58")
        number = number * 58 + digit
    decoded = b"\0" + number.to_bytes(-(-number.bit_length() // 8), "big")
    if len(decoded) != 2 + len(_ED25519_PREFIX) + _KEY_BYTES or decoded[2:-_KEY_BYTES] != _ED25519_PREFIX:
        raise IdentityError(f"{peer_id[:64]!r} is not the peer id of an Ed25519 key")
    return decoded[-_KEY_BYTES:]
