"""Models of the Hugging Face Hub, file by file: configuration, tokenizer and index first, tensors when asked for.

A model lives in the cache under its commit, so a branch that moves never mixes two versions. Small files come by
huggingface_hub; tensor files are streamed here, because its downloads begin anew in every process (measured with
2.4) and a stage's files are many gigabytes. $HF_ENDPOINT, $HF_TOKEN and the rest of its environment mean what they
always mean.
"""

from __future__ import annotations

import fnmatch
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from deserve_models.cache import locked
from deserve_models.errors import ModelError, ModelFileError, ModelNotFoundError, ModelUnreachableError
from deserve_models.files import INDEX_FILE, SINGLE_FILE, ModelFiles, open_directory
from deserve_models.safetensors_header import MAX_HEADER_BYTES

__all__ = ["HubRepository", "open_hub"]

_DESCRIPTION = ("*.json", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 30
_ATTEMPTS = 5
_BACKOFF_S = 0.5


def open_hub(id: str, revision: str | None, cache: Path, *, endpoint: str | None = None) -> ModelFiles:
    """Pin `revision` (default: the main branch) of Hub model `id` to its commit and fetch all but the tensors.

    Without a network, what an earlier call fetched under the same revision is used. `endpoint` replaces the Hub's
    address. Raises `ModelNotFoundError` for an unknown or gated repository, `ModelFileError` for one without
    safetensors, `ModelUnreachableError` for a network that fails.
    """
    home = cache / "hub" / id.replace("/", "--")
    reference = home / "refs" / (revision or "main").replace("/", "--")
    with locked(home / "lock"):
        commit = revision if revision and _COMMIT.fullmatch(revision) else None
        if commit is None or not (home / commit / "config.json").is_file():
            commit = _fetch_description(id, revision, home, reference, endpoint)
    return open_directory(id, commit, home / commit, HubRepository(id, commit, endpoint))


@dataclass(frozen=True)
class HubRepository:
    """One commit of one repository, as the `Remote` of its `ModelFiles`."""

    id: str
    commit: str
    endpoint: str | None = None

    def fetch(self, names: list[str], directory: Path) -> None:
        """Bring whole files into `directory`. Raises `ModelError`."""
        for name in names:
            with locked(directory / f".{name}.lock"):
                if not (directory / name).is_file():
                    self._download(name, directory)

    def header(self, name: str) -> bytes:
        """The header JSON of a safetensors file by two range requests. Raises `ModelError`."""
        length = int.from_bytes(self._range(name, 0, 8), "little")
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise ModelFileError(f"{self.id}: {name}: not a safetensors file")
        return self._range(name, 8, length)

    def _download(self, name: str, directory: Path) -> None:
        """Append to `.NAME.partial` until the file is whole, then rename it. Keeps what has arrived on failure."""
        partial = directory / f".{name}.partial"
        for attempt in range(_ATTEMPTS):
            try:
                with _explained(f"{self.id}: {name}"), partial.open("ab") as file:
                    self._append(name, file)
            except ModelNotFoundError:
                raise
            except ModelError:
                if attempt + 1 == _ATTEMPTS:
                    raise
                time.sleep(random.uniform(0.5, 1.0) * _BACKOFF_S * 2**attempt)
            else:
                partial.rename(directory / name)
                return

    def _append(self, name: str, file: BinaryIO) -> None:
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        start = file.seek(0, os.SEEK_END)
        url = hf_hub_url(self.id, name, revision=self.commit, endpoint=self.endpoint)
        headers = {**build_hf_headers(), "range": f"bytes={start}-", "accept-encoding": "identity"}
        with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT_S, follow_redirects=True) as response:
            if response.status_code == 416:
                return  # nothing after `start`: it arrived whole before
            if response.status_code >= 400:
                response.read()
            hf_raise_for_status(response)
            if response.status_code != 206:
                file.truncate(0)
            for piece in response.iter_bytes():
                file.write(piece)

    def _range(self, name: str, start: int, count: int) -> bytes:
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        url = hf_hub_url(self.id, name, revision=self.commit, endpoint=self.endpoint)
        headers = {**build_hf_headers(), "range": f"bytes={start}-{start + count - 1}"}
        with _explained(f"{self.id}: {name}"):
            response = get_session().get(url, headers=headers, timeout=_TIMEOUT_S, follow_redirects=True)
            hf_raise_for_status(response)
            content: bytes = response.content
        if len(content) < count:
            raise ModelFileError(f"{self.id}: {name}: truncated inside its header")
        return content[:count] if response.status_code == 206 else content[start : start + count]


def _fetch_description(id: str, revision: str | None, home: Path, reference: Path, endpoint: str | None) -> str:
    from huggingface_hub import HfApi, hf_hub_download

    try:
        with _explained(id):
            info = HfApi(endpoint=endpoint).model_info(id, revision=revision, timeout=_TIMEOUT_S)
    except ModelNotFoundError:
        raise
    except ModelError:
        if reference.is_file() and _COMMIT.fullmatch(known := reference.read_text()):
            return known
        raise
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        # It becomes the name of a directory.
        raise ModelFileError(f"{id}: the Hub names a commit that is none: {commit[:64]!r}")
    names = [sibling.rfilename for sibling in info.siblings or ()]
    if SINGLE_FILE not in names and INDEX_FILE not in names:
        pickled = next((name for name in names if name.endswith((".bin", ".pt", ".pth"))), None)
        reason = f"only pickled weights ({pickled}), which can run code when loaded" if pickled else "no safetensors"
        raise ModelFileError(f"{id}: {reason}; nothing to serve")
    for name in names:
        if (
            "/" not in name
            and any(fnmatch.fnmatch(name, pattern) for pattern in _DESCRIPTION)
            and name != "config.json"
        ):
            with _explained(f"{id}: {name}"):
                hf_hub_download(id, name, revision=commit, local_dir=home / commit, endpoint=endpoint)
    # Last, because its presence says that the rest is there.
    with _explained(f"{id}: config.json"):
        hf_hub_download(id, "config.json", revision=commit, local_dir=home / commit, endpoint=endpoint)
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(commit)
    return commit


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP library raise into our errors, naming `what`."""
    from huggingface_hub import errors

    # The HTTP library has changed between versions of huggingface_hub; its own error derives from that library's.
    transport = next(base for base in errors.HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelNotFoundError(f"{what}: gated: accept its terms on the Hub and set HF_TOKEN") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise ModelNotFoundError(f"{what}: not on the Hub (or private, and HF_TOKEN is not set)") from error
    except errors.HFValidationError as error:
        raise ModelNotFoundError(f"{what}: no id of the Hub: {error}") from error
    except (ConnectionError, TimeoutError, errors.LocalEntryNotFoundError, transport) as error:
        raise ModelUnreachableError(f"{what}: cannot fetch it: {error}") from error
    except OSError as error:
        raise ModelError(f"{what}: cannot keep it: {error}") from error
