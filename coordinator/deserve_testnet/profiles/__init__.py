"""Stage profiles that come with the testnet, by name; `deserve_node.timed.profile` says what is in one."""

from __future__ import annotations

from pathlib import Path

from deserve_testnet.errors import UsageError

__all__ = ["profile_file"]

_SUFFIX = ".toml"


def profile_file(name_or_file: str) -> Path:
    """The file of a profile that is named, like "quick", or given. Raises UsageError, naming those that there are."""
    own = Path(__file__).parent
    named = own / f"{name_or_file}{_SUFFIX}"
    if named.parent == own and named.is_file():
        return named
    given = Path(name_or_file)
    if not given.is_file():
        names = ", ".join(sorted(file.stem for file in own.glob(f"*{_SUFFIX}")))
        raise UsageError(f"--stage-profile: {name_or_file!r} is neither a file nor one of {names}")
    return given.resolve()
