"""Private keys in files: Ethereum's keystore, version 3 (Web3 Secret Storage), which every wallet reads.

A file is made 0600 and refused once others may read it; so is the file that a passphrase comes from. A passphrase is
never a flag and never an environment variable: process list and crash reports show both.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eth_keys.datatypes import PrivateKey
from eth_utils.exceptions import ValidationError

from deserve_ledger.errors import KeystoreError

__all__ = ["STANDARD_SCRYPT_N", "Key", "create_keystore", "keystore_address", "obtain_passphrase", "open_keystore"]

STANDARD_SCRYPT_N = 2**18
"""Of geth and the other wallets: about a second, and 256 MB, for each guess at the passphrase."""
_COSTLIEST_SCRYPT_N = 2**21
_LARGEST_FILE = 1 << 16
_LONGEST_PASSPHRASE = 1024


@dataclass(frozen=True, slots=True)
class Key:
    """An opened key."""

    secret: bytes = field(repr=False)
    """32 bytes, for `eip712.sign`."""
    address: bytes
    """20 bytes."""

    @classmethod
    def of(cls, secret: bytes) -> Key:
        """Raises `KeystoreError` for 32 bytes that are no secp256k1 private key."""
        try:
            return cls(secret, PrivateKey(secret).public_key.to_canonical_address())
        except (ValidationError, ValueError) as error:
            raise KeystoreError(f"not a private key: {error}") from error

    @classmethod
    def generate(cls) -> Key:
        return cls.of(secrets.token_bytes(32))


def create_keystore(path: Path, passphrase: str, *, key: Key | None = None, scrypt_n: int = STANDARD_SCRYPT_N) -> Key:
    """Write `key`, or a new one, to `path`, mode 0600, and return it. A file that is there already is never replaced.

    `scrypt_n` is scrypt's cost, a power of two (RFC 7914). Raises `KeystoreError`.
    """
    from eth_account import Account

    if not passphrase:
        raise KeystoreError(f"{path}: an empty passphrase protects nothing")
    key = key or Key.generate()
    content = Account.encrypt(key.secret, passphrase, kdf="scrypt", iterations=scrypt_n)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_new(path, json.dumps(content).encode())
    except FileExistsError as error:
        raise KeystoreError(f"{path}: there is a key already, and it is kept") from error
    except OSError as error:
        raise KeystoreError(f"{path}: {error.strerror or error}") from error
    return key


def _write_new(path: Path, content: bytes) -> None:
    # Written beside and linked into place: a crash leaves no half key, and of two processes one loses by an error.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(draft, path)
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def open_keystore(path: Path, passphrase: str) -> Key:
    """The key in `path`. Raises `KeystoreError` naming the file, also for a wrong passphrase."""
    from eth_account import Account

    content = _read(path)
    parameters = content["crypto"].get("kdfparams")
    cost = parameters.get("n", 1) if isinstance(parameters, dict) else 1
    if not isinstance(cost, int) or cost > _COSTLIEST_SCRYPT_N:
        raise KeystoreError(f"{path}: crypto.kdfparams.n: {cost!r} is above {_COSTLIEST_SCRYPT_N}")
    try:
        key = Key.of(bytes(Account.decrypt(content, passphrase)))
    except ValueError as error:
        # What eth-keyfile says where the MAC differs: any other key derivation would have given another one.
        wrong = "MAC mismatch" in str(error)
        raise KeystoreError(f"{path}: {'wrong passphrase' if wrong else error}") from error
    except (KeyError, TypeError, AttributeError, NotImplementedError) as error:
        raise KeystoreError(f"{path}: no keystore of version 3: {error!r}") from error
    if key.address != _address_in(path, content):
        raise KeystoreError(f"{path}: address: the key inside has another one, 0x{key.address.hex()}")
    return key


def keystore_address(path: Path) -> bytes:
    """The address that `path` says it is the key of, 20 bytes; needs no passphrase. Raises `KeystoreError`."""
    return _address_in(path, _read(path))


def _address_in(path: Path, content: dict[str, Any]) -> bytes:
    try:
        address = bytes.fromhex(str(content["address"]).lower().removeprefix("0x"))
    except (KeyError, ValueError):
        address = b""
    if len(address) != 20:
        raise KeystoreError(f"{path}: address: missing, or not 20 bytes in hex")
    return address


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_private(path, _LARGEST_FILE))
    except (ValueError, RecursionError) as error:
        raise KeystoreError(f"{path}: no keystore: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("crypto", content.get("Crypto")), dict):
        raise KeystoreError(f"{path}: crypto: missing; this is no keystore of version 3")
    return {key.lower(): value for key, value in content.items()}


def _read_private(path: Path, most: int) -> bytes:
    """What is in `path`, where nobody but its owner can read it. Raises `KeystoreError`."""
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            if os.name == "posix" and mode & 0o077:
                raise KeystoreError(f"{path}: mode {mode:04o} lets others read it; run: chmod 600 {path}")
            content = stream.read(most + 1)
    except OSError as error:
        raise KeystoreError(f"{path}: {error.strerror or error}") from error
    if len(content) > most:
        raise KeystoreError(f"{path}: more than {most} bytes")
    return content


def obtain_passphrase(file: Path | None, *, purpose: str, confirm: bool = False) -> str:
    """The first line of `file`; without one, what is typed at the terminal, twice where it is to `confirm`.

    `purpose` says at the prompt what it opens. Raises `KeystoreError` where the file can be read by others or is empty,
    and where there is no terminal to ask at.
    """
    if file is not None:
        try:
            lines = _read_private(file, _LONGEST_PASSPHRASE).decode().splitlines()
        except UnicodeDecodeError as error:
            raise KeystoreError(f"{file}: not UTF-8") from error
        if not lines or not lines[0]:
            raise KeystoreError(f"{file}: its first line, the passphrase, is empty")
        return lines[0]
    if not sys.stdin.isatty():
        raise KeystoreError(f"no passphrase for {purpose}: give --passphrase-file, or run at a terminal")
    with contextlib.suppress(EOFError):
        typed = getpass.getpass(f"Passphrase for {purpose}: ")
        if confirm and typed and getpass.getpass("Once more: ") != typed:
            raise KeystoreError("the two passphrases differ")
        if typed:
            return typed
    raise KeystoreError("an empty passphrase protects nothing")
