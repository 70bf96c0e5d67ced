"""Flags before environment before file; a bad value names its key."""

import pytest

from deserve_client.errors import InputError
from deserve_client.settings import read_settings


@pytest.fixture
def config(tmp_path):
    path = tmp_path / ".config/deserve/client.toml"
    path.parent.mkdir(parents=True)
    (path.parent / "key").write_text("from-config\n")
    path.write_text('base_url = "http://config:1/v1"\napi_key_file = "key"\n')
    return path


def test_the_order(config, tmp_path):
    settings = read_settings(None, None, {}, tmp_path)
    assert (settings.base_url, settings.api_key) == ("http://config:1/v1", "from-config")
    environ = {"DESERVE_BASE_URL": "http://environ:2/v1/", "DESERVE_API_KEY": "from-environ"}
    settings = read_settings(None, None, environ, tmp_path)
    assert (settings.base_url, settings.api_key) == ("http://environ:2/v1", "from-environ")
    key = tmp_path / "flag-key"
    key.write_text("from-flag")
    settings = read_settings("https://flag", key, environ, tmp_path)
    assert (settings.base_url, settings.api_key) == ("https://flag/v1", "from-flag")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("base_url = 5", "base_url"),
        ("colour = 'red'", "colour"),
        ("base_url =", "client.toml"),
        ("api_key_file = 'absent'", "api_key_file"),
    ],
)
def test_a_bad_file_names_the_key(config, tmp_path, content, named):
    config.write_text(content)
    with pytest.raises(InputError, match=named):
        read_settings("http://h:1/v1", None, {}, tmp_path)


@pytest.mark.parametrize("url", ["", "host:8000", "ftp://h/v1", "http://", "http://h:99999/v1", "http://h/v1?x=1"])
def test_a_bad_url_names_its_origin(tmp_path, url):
    with pytest.raises(InputError, match="DESERVE_BASE_URL"):
        read_settings(None, None, {"DESERVE_BASE_URL": url, "DESERVE_API_KEY": "k"}, tmp_path)


@pytest.mark.parametrize("key", ["", "two\nlines", "ä", "k" * 300])
def test_a_bad_key_names_its_origin_and_is_not_shown(tmp_path, key):
    with pytest.raises(InputError, match="DESERVE_API_KEY") as caught:
        read_settings("http://h:1/v1", None, {"DESERVE_API_KEY": key}, tmp_path)
    assert not key or key not in str(caught.value)


def test_nothing_given_says_what_to_give(tmp_path):
    with pytest.raises(InputError, match="DESERVE_BASE_URL"):
        read_settings(None, None, {}, tmp_path)
    with pytest.raises(InputError, match="DESERVE_API_KEY"):
        read_settings("http://h:1/v1", None, {}, tmp_path)
