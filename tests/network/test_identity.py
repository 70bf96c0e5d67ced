from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deserve_network.errors import IdentityError
from deserve_network.identity import generate_identity, load_or_create_identity, public_key_of


def test_an_identity_survives_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "data" / "identity"
    assert load_or_create_identity(file) == load_or_create_identity(file)


def test_only_the_owner_can_read_a_new_key(tmp_path: Path) -> None:
    load_or_create_identity(tmp_path / "identity")
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["identity"]


def test_a_key_that_others_can_read_is_refused_and_the_message_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "identity"
    load_or_create_identity(file)
    file.chmod(0o644)
    with pytest.raises(IdentityError, match=f"chmod 600 {file}"):
        load_or_create_identity(file)


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_a_damaged_key_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "identity"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(IdentityError, match="expected 32 bytes"):
        load_or_create_identity(file)


def test_a_directory_in_place_of_the_key_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=str(tmp_path)):
        load_or_create_identity(tmp_path)


def test_processes_that_start_at_once_end_up_with_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(load_or_create_identity, [tmp_path / "identity"] * 16))
    assert len(found) == 1


def test_the_peer_id_is_the_one_libp2p_computes() -> None:
    from libp2p.crypto.ed25519 import Ed25519PrivateKey
    from libp2p.peer.id import ID

    identity = generate_identity()
    public = Ed25519PrivateKey.from_bytes(identity.secret).get_public_key()
    assert str(ID.from_pubkey(public)) == identity.peer_id


def test_the_secret_stays_out_of_logs() -> None:
    identity = generate_identity()
    assert repr(identity.secret) not in repr(identity)


def test_a_peer_id_holds_the_public_key() -> None:
    for _ in range(20):
        identity = generate_identity()
        public = Ed25519PrivateKey.from_private_bytes(identity.secret).public_key().public_bytes_raw()
        assert public_key_of(identity.peer_id) == public


@pytest.mark.parametrize(
    "text", ["", "1", "0", "12D3KooW", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "1" * 52, "2" * 900]
)
def test_what_holds_no_ed25519_key_is_refused(text: str) -> None:
    with pytest.raises(IdentityError, match="peer id"):
        public_key_of(text)
