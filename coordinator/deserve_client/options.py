"""Options that several `deserve batch` commands have, and how their values are read.

What the options mean is for `deserve_client.settings` and the commands; nothing here opens a connection.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from deserve_client.api import CoordinatorClient

__all__ = ["NEW_FILE", "Connection", "as_json", "connection", "read_codecs", "read_metadata"]

CODECS = ("raw", "bf16", "int8")

Command = TypeVar("Command", bound=Callable[..., Any])


class NewFile(click.Path):
    """A file to be written later: a directory that is not there is told before any work is done."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            self.fail(f"{str(path.parent)!r} is no directory that can be written to", param, ctx)
        return path


NEW_FILE = NewFile(dir_okay=False, writable=True)


@dataclass(frozen=True, slots=True)
class Connection:
    """Opens a client of the coordinator that flags, environment or configuration name."""

    base_url: str | None
    api_key_file: Path | None

    def __call__(self, base_url: str | None = None) -> CoordinatorClient:
        """`base_url`: where no flag names one, instead of environment and configuration."""
        from deserve_client.api import CoordinatorClient
        from deserve_client.settings import read_settings

        return CoordinatorClient(read_settings(self.base_url or base_url, self.api_key_file, os.environ))

    def arguments(self) -> list[str]:
        """The flags again, for a process of the same user."""
        key = [] if self.api_key_file is None else ["--api-key-file", str(self.api_key_file)]
        return key + ([] if self.base_url is None else ["--base-url", self.base_url])


def connection(command: Command) -> Command:
    """Flags that say where the coordinator is; the command gets `connect`, a `Connection`."""

    @click.option("--base-url", metavar="URL", help="The coordinator's API, such as http://host:8700/v1.")
    @click.option("--api-key-file", type=click.Path(path_type=Path), help="File with the API key.")
    @functools.wraps(command)
    def wrapped(base_url: str | None, api_key_file: Path | None, **parameters: Any) -> Any:
        return command(connect=Connection(base_url, api_key_file), **parameters)

    return wrapped  # type: ignore[return-value]


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON value instead of text.")


def read_codecs(ctx: click.Context, parameter: click.Parameter, values: Sequence[str]) -> list[str]:
    """Names from a flag that is repeated or holds a list with commas. Told here, a wrong one costs no upload."""
    names = [name for value in values for name in value.split(",")]
    for name in names:
        if name not in CODECS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(CODECS)}")
    return names


def read_metadata(ctx: click.Context, parameter: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
        pairs[key] = text
    return pairs
