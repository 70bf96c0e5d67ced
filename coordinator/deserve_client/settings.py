"""Where the coordinator is and how to be let in: flags, then environment, then `~/.config/deserve/client.toml`.

The one place of this package that reads the environment and the configuration file. A bad value is an `InputError` that
names the key and where it stands. An API key never comes from a flag: the process list would show it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deserve_client.errors import InputError

__all__ = ["Settings", "read_settings"]

CONFIG_KEYS = ("base_url", "api_key_file")


@dataclass(frozen=True, slots=True)
class Settings:
    base_url: str
    """Ends in /v1, without a slash after it."""
    api_key: str


def read_settings(
    base_url: str | None, api_key_file: Path | None, environ: Mapping[str, str], home: Path | None = None
) -> Settings:
    """Settings from the flags given (None: not given), `environ`, and the configuration file.

    The file is `$XDG_CONFIG_HOME/deserve/client.toml`, or `.config/deserve/client.toml` in `home`. Raises `InputError`.
    """
    directory = Path(environ.get("XDG_CONFIG_HOME") or (home or Path.home()) / ".config")
    path = directory / "deserve" / "client.toml"
    config = _read_config(path)
    if base_url is not None:
        url, where = base_url, "--base-url"
    elif "DESERVE_BASE_URL" in environ:
        url, where = environ["DESERVE_BASE_URL"], "DESERVE_BASE_URL"
    elif "base_url" in config:
        url, where = config["base_url"], f"{path}: base_url"
    else:
        raise InputError(f"which coordinator? give --base-url, DESERVE_BASE_URL, or base_url in {path}")
    if api_key_file is not None:
        key, key_from = _read_key(api_key_file, "--api-key-file"), f"--api-key-file {api_key_file}"
    elif "DESERVE_API_KEY" in environ:
        key, key_from = environ["DESERVE_API_KEY"].strip(), "DESERVE_API_KEY"
    elif "api_key_file" in config:
        key_path = path.parent / Path(config["api_key_file"]).expanduser()
        key, key_from = _read_key(key_path, f"{path}: api_key_file"), f"{key_path}"
    else:
        raise InputError(f"which API key? give --api-key-file, DESERVE_API_KEY, or api_key_file in {path}")
    if not key or not key.isascii() or not key.isprintable() or len(key) > 256:
        raise InputError(f"{key_from}: not an API key (1 to 256 printable ASCII characters)")
    return Settings(_checked_url(url, where), key)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            config = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error
    for key, value in config.items():
        if key not in CONFIG_KEYS:
            raise InputError(f"{path}: {key}: unknown key; there are {', '.join(CONFIG_KEYS)}")
        if not isinstance(value, str) or not value:
            raise InputError(f"{path}: {key}: expected a string")
    return config


def _read_key(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: {path}: {error}") from error


def _checked_url(url: str, where: str) -> str:
    try:
        parts = urlsplit(url)
        complete = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        complete = False
    if not complete or parts.query or parts.fragment:
        raise InputError(f"{where}: {url!r} is no address like http://host:port/v1")
    url = url.rstrip("/")
    return url if parts.path.strip("/") else f"{url}/v1"
