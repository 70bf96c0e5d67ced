"""What an operator may write, and how each mistake is named."""

from __future__ import annotations

import pytest

from deserve_node.kv_limits import KvLimits
from deserve_node.settings import SettingsError, load_settings, parse_bytes, read_join_token
from deserve_plan.plan import PlanOverrides

COORDINATOR = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWXyz"


def load(tmp_path, text="", **flags):
    if text:
        (tmp_path / "node.toml").write_text(text)
    return load_settings(tmp_path, {"coordinator": COORDINATOR, **flags})


@pytest.mark.parametrize(
    ("text", "amount"),
    [("1048576", 1 << 20), ("2GiB", 2 << 30), ("800 MB", 800_000_000), ("1.5k", 1500), ("3ti", 3 << 40), (" 7 B ", 7)],
)
def test_amounts_of_memory(text, amount):
    assert parse_bytes(text, "memory") == amount


@pytest.mark.parametrize("text", ["", "GiB", "-1", "2 XB", "2GiBB", "1e9", "0", "0.1", "9999999999TiB", "²", "1I"])
def test_no_amounts_of_memory_are_named(text):
    with pytest.raises(SettingsError, match="--memory"):
        parse_bytes(text, "--memory")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("coordinator", ""),
        ("coordinator", "localhost:4001"),
        ("coordinator", "/ip4/127.0.0.1/tcp/4001"),
        ("listen", "0.0.0.0:4001"),
        ("announce", "example.org"),
        ("announce", COORDINATOR),
        ("announce", "/dns4/" + "x" * 600),
        ("memory_bytes", -1),
        ("threads", -1),
        ("max_rows", 15),
        ("max_rows", 20000),
        ("token_budget", 0),
        ("device", "tpu"),
        ("tensor_port", 65536),
        ("tensor_port", -1),
        ("carrier", "quic"),
        ("congestion", "fast"),
        ("device", "cuda:x"),
        ("http", "9464"),
        ("name", ""),
        ("name", "x" * 65),
        ("name", "tab\there"),
        ("join_token_file", "/no/such/file"),
        ("model_paths", ("demo",)),
        ("model_paths", ("=dir",)),
    ],
)
def test_every_bad_value_names_its_key(key, value, tmp_path):
    with pytest.raises(SettingsError, match=f"^{key}: "):
        load(tmp_path, **{key: value})


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("nonsense = 1", "nonsense"),
        ('data = "/tmp"', "data"),
        ('memory = "a lot"', "memory"),
        ("memory = -3", "memory"),
        ('host_memory = "much"', "host_memory"),
        ('copy_rate = "fast"', "copy_rate"),
        ("kv_memory_bytes = true", "kv_memory_bytes"),
        ('threads = "2"', "threads"),
        ("threads = true", "threads"),
        ("name = 5", "name"),
        ('model_paths = "demo=/x"', "model_paths"),
        ("model_paths = [1]", "model_paths"),
        ("coordinator = 5", "coordinator"),
        ("name = ", "node.toml"),
    ],
)
def test_every_mistake_in_the_file_names_file_and_key(text, key, tmp_path):
    with pytest.raises(SettingsError, match=key) as caught:
        load(tmp_path, text)
    assert str(tmp_path / "node.toml") in str(caught.value)


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "node.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"node\.toml"):
        load(tmp_path)


def test_flags_win_over_the_file_which_wins_over_defaults(tmp_path):
    text = f"""
    coordinator = "{COORDINATOR}-of-file"
    name = "of-file"
    memory = "64MiB"
    host_memory = "1GiB"
    copy_rate = "12GB"
    page_tokens = 8
    plan = "rows=75"
    threads = 3
    model_paths = ["demo=/models/demo"]
    """
    settings = load(tmp_path, text, coordinator=None, name="of-flag", threads=None)
    assert settings.coordinator == f"{COORDINATOR}-of-file"
    assert settings.name == "of-flag"
    assert settings.memory_bytes == 64 << 20
    assert settings.kv_limits == KvLimits(8, host_bytes=1 << 30, copy_bytes_per_s=12_000_000_000)
    assert settings.overrides == PlanOverrides(rows=75)
    assert settings.threads == 3
    assert settings.model_paths == ("demo=/models/demo",)
    assert settings.http == "127.0.0.1:0"
    assert settings.data == tmp_path


def test_no_coordinator_says_where_to_write_it(tmp_path):
    with pytest.raises(SettingsError, match=r"coordinator: none given.*node\.toml"):
        load_settings(tmp_path, {})


def test_the_join_token_comes_from_a_file_of_its_owner(tmp_path):
    file = tmp_path / "token"
    file.write_text("open sesame\n")
    file.chmod(0o640)
    with pytest.raises(SettingsError, match=f"^join_token_file: {file}: mode 0640 lets others read .*chmod 600 {file}"):
        load(tmp_path, join_token_file=str(file))
    file.chmod(0o600)
    assert read_join_token(load(tmp_path, join_token_file=str(file)).join_token_file) == "open sesame"
    (tmp_path / "node.toml").write_text('join_token_file = "token"')
    assert load(tmp_path).join_token_file == str(file)
    for text in ("", "\n", "x" * 257, "two\nlines"):
        file.write_text(text)
        with pytest.raises(SettingsError, match="1 to 256 printable"):
            load(tmp_path)
