"""Key files: what other wallets read, of their owner only, and never half written or replaced."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from eth_account import Account

from deserve_ledger.commands import ledger
from deserve_ledger.errors import KeystoreError
from deserve_ledger.keystore import Key, create_keystore, keystore_address, obtain_passphrase, open_keystore

CHEAP = 2


def made(path: Path, passphrase: str = "open sesame") -> Key:
    return create_keystore(path, passphrase, scrypt_n=CHEAP)


def test_a_key_comes_back_and_eth_account_reads_the_same(tmp_path):
    file = tmp_path / "keys" / "operator.json"
    key = made(file)
    assert open_keystore(file, "open sesame") == key
    assert bytes(Account.decrypt(json.loads(file.read_text()), "open sesame")) == key.secret
    assert keystore_address(file) == key.address == bytes.fromhex(Account.from_key(key.secret).address[2:])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["operator.json"]


def test_what_eth_account_wrote_is_read(tmp_path):
    # The test vector of the Web3 Secret Storage definition, whose key derivation is PBKDF2, with capital letters.
    file = tmp_path / "vector.json"
    vector = {
        "Crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
            "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
            "kdf": "pbkdf2",
            "kdfparams": {
                "c": 262144,
                "dklen": 32,
                "prf": "hmac-sha256",
                "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
            },
            "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
        },
        "address": "0x008AeEda4D805471dF9b2A5B0f38A0C3bCBA786b",
        "version": 3,
    }
    file.write_text(json.dumps(vector))
    file.chmod(0o600)
    assert open_keystore(file, "testpassword").secret.hex().startswith("7a28b5ba57c53603b0b07b56bba752f7")


def test_a_key_is_never_replaced(tmp_path):
    key = made(tmp_path / "key.json")
    with pytest.raises(KeystoreError, match=r"key\.json: there is a key already"):
        made(tmp_path / "key.json")
    assert open_keystore(tmp_path / "key.json", "open sesame") == key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_a_key_or_passphrase_that_others_can_read_is_refused(tmp_path, mode):
    file, words = tmp_path / "key.json", tmp_path / "words"
    made(file)
    words.write_text("open sesame\n")
    for path in (file, words):
        path.chmod(mode)
    with pytest.raises(KeystoreError, match=f"mode {mode:04o} lets others read it"):
        open_keystore(file, "open sesame")
    with pytest.raises(KeystoreError, match=f"mode {mode:04o} lets others read it"):
        obtain_passphrase(words, purpose="x")
    words.chmod(0o600)
    assert obtain_passphrase(words, purpose="x") == "open sesame"


def test_a_key_does_not_show_itself(tmp_path):
    key = made(tmp_path / "key.json")
    assert key.secret.hex() not in repr(key)
    assert str(key.secret) not in repr(key)


def broken(**changes: object):
    def change(content: dict) -> dict:
        return {key: value for key, value in {**content, **changes}.items() if value is not None}

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (broken(crypto=None), "crypto: missing"),
        (broken(crypto={}), "no keystore of version 3"),
        (broken(version=9), "no keystore of version 3"),
        (broken(address=None), "address: missing"),
        (broken(address="zz"), "address: missing"),
        (broken(address="00" * 20), "address: the key inside has another one"),
        (lambda content: [content], "crypto: missing"),
        (lambda content: broken(crypto={**content["crypto"], "kdfparams": {"n": 2**30}})(content), "is above"),
        (lambda content: broken(crypto={**content["crypto"], "mac": "00" * 32})(content), "wrong passphrase"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, change, reason):
    file = tmp_path / "key.json"
    made(file)
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(KeystoreError, match=rf"key\.json: .*{reason}"):
        open_keystore(file, "open sesame")


def test_other_faults_are_named(tmp_path):
    file = tmp_path / "key.json"
    with pytest.raises(KeystoreError, match=r"key\.json: No such file"):
        open_keystore(file, "x")
    made(file)
    with pytest.raises(KeystoreError, match="wrong passphrase"):
        open_keystore(file, "open barley")
    with pytest.raises(KeystoreError, match="empty passphrase"):
        made(tmp_path / "other.json", "")
    file.write_text("{")
    with pytest.raises(KeystoreError, match="no keystore: Expecting"):
        keystore_address(file)
    with pytest.raises(KeystoreError, match="not a private key"):
        Key.of(bytes(32))


def test_without_file_and_terminal_there_is_no_passphrase(tmp_path, monkeypatch):
    monkeypatch.setenv("DESERVE_PASSPHRASE", "never read")
    with pytest.raises(KeystoreError, match="give --passphrase-file"):
        obtain_passphrase(None, purpose="the operator's key")
    empty = tmp_path / "empty"
    empty.touch(mode=0o600)
    with pytest.raises(KeystoreError, match="is empty"):
        obtain_passphrase(empty, purpose="x")


def test_the_command_makes_and_shows_a_key(tmp_path):
    words = tmp_path / "words"
    words.touch(mode=0o600)
    words.write_text("open sesame\nnot this line\n")
    arguments = ["key", "create", str(tmp_path / "k.json"), "--passphrase-file", str(words), "--scrypt-n", "2"]
    done = CliRunner().invoke(ledger, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    address = json.loads(done.output)["address"]
    assert open_keystore(tmp_path / "k.json", "open sesame").address.hex() == address[2:].lower()
    assert CliRunner().invoke(ledger, ["key", "show", str(tmp_path / "k.json")]).output.startswith(address)
    again = CliRunner().invoke(ledger, arguments)
    assert again.exit_code == 1
    assert "there is a key already" in again.output


def test_no_flag_takes_a_passphrase_or_a_key():
    flags = {flag for command in ledger.commands["key"].commands.values() for p in command.params for flag in p.opts}
    assert not flags & {"--passphrase", "--password", "--key", "--private-key", "--secret"}
