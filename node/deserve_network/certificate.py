"""The certificate of one process, made anew at each start: it proves nothing by itself, its hash does (see
`direct_sockets`)."""

from __future__ import annotations

import datetime
import hashlib
import secrets
import ssl
import tempfile
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["PIN_BYTES", "Certificate", "dialing_context", "make_certificate", "pin_of"]

PIN_BYTES = 32
_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "deserve-net")])
# Who it is for is known by its hash and it lives as long as the process: dates are not looked at.
_FROM, _UNTIL = datetime.datetime(2000, 1, 1), datetime.datetime(2100, 1, 1)


@dataclass(frozen=True, slots=True)
class Certificate:
    context: ssl.SSLContext
    """To answer TLS with."""
    pin: bytes
    """SHA-256 of the certificate."""


def make_certificate() -> Certificate:
    """A self-signed certificate over a fresh P-256 key."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = x509.CertificateBuilder(
        _NAME, _NAME, key.public_key(), x509.random_serial_number(), _FROM, _UNTIL
    ).sign(key, hashes.SHA256())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # each socket is used once
    # Python reads a certificate from a file only; what lies there for a moment is encrypted with a key that does not.
    password = secrets.token_bytes(16).hex().encode()
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(password),
            )
        )
        file.flush()
        context.load_cert_chain(file.name, password=password)
    return Certificate(context, pin_of(certificate.public_bytes(serialization.Encoding.DER)))


def dialing_context() -> ssl.SSLContext:
    """TLS 1.3 that accepts any certificate: the caller compares its `pin_of` before it says anything."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def pin_of(der: bytes | None) -> bytes:
    return hashlib.sha256(der or b"").digest()
