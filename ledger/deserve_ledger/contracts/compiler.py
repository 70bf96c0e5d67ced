"""Compiles the contracts with solc from npm: `python -m deserve_ledger.contracts.compiler` writes the artifacts anew.

With a directory and names it does the same for other contracts. Needs node and npm; the compiler and OpenZeppelin's
contracts, in the versions below, go into a directory of the user's cache. Compiling the ledger takes about 8 s. The
bytecode carries no hash of its metadata, so that it does not depend on comments; the artifact hashes the sources.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deserve_ledger.contracts import Artifact
from deserve_ledger.errors import LedgerError

__all__ = [
    "CONTRACTS",
    "SETTINGS",
    "CompilationFailed",
    "CompilerMissing",
    "compile_sources",
    "hash_sources",
    "install",
    "own_sources",
    "write_artifact",
]

DIRECTORY = Path(__file__).parent
CONTRACTS = ("DeserveLedger", "TestToken")
PACKAGES = ("solc@0.8.37", "@openzeppelin/contracts@5.7.0")
INSTALL_TIMEOUT_S = 180
COMPILE_TIMEOUT_S = 240

SETTINGS: dict[str, Any] = {
    "evmVersion": "cancun",
    "viaIR": True,
    "optimizer": {"enabled": True, "runs": 1000},
    "metadata": {"bytecodeHash": "none"},
}


class CompilerMissing(LedgerError):
    """node or npm is not there, or npm cannot fetch the compiler."""


class CompilationFailed(LedgerError):
    """With what solc says about it."""


def install() -> Path:
    """The node_modules directory with solc and OpenZeppelin, fetched unless it is there. Raises `CompilerMissing`."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise CompilerMissing("node and npm are needed to compile the contracts")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deserve-net"
    target = cache / ("solidity-" + hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()[:16])
    if target.exists():
        return target / "node_modules"
    # Made beside it and moved into place, so that a run that was cut off leaves nothing that looks whole.
    making = target.with_name(f"{target.name}.{os.getpid()}")
    making.mkdir(parents=True)
    command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
    try:
        subprocess.run(command, cwd=making, check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S, text=True)
        if not target.exists():
            making.rename(target)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise CompilerMissing(f"npm cannot install {' and '.join(PACKAGES)}: {error.stderr!r}") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return target / "node_modules"


def own_sources(directory: Path = DIRECTORY) -> dict[str, str]:
    """Solidity files of a directory, by file name."""
    return {path.name: path.read_text() for path in sorted(directory.glob("*.sol"))}


def hash_sources(sources: Mapping[str, str]) -> str:
    """SHA-256 in hex over names and texts, ordered by name."""
    return hashlib.sha256(json.dumps(dict(sorted(sources.items()))).encode()).hexdigest()


def compile_sources(
    modules: Path,
    sources: Mapping[str, str],
    names: tuple[str, ...] = CONTRACTS,
    *,
    settings: Mapping[str, Any] = SETTINGS,
    warnings: bool = False,
) -> dict[str, Artifact]:
    """The contracts called `names`, each from the file of its name.

    Raises `CompilationFailed`, for a warning about one of ours as well unless `warnings` lets it pass.
    """
    wanted = {f"{name}.sol": {name: ["abi", "evm.bytecode.object"]} for name in names}
    request = {
        "language": "Solidity",
        "sources": {name: {"content": text} for name, text in sources.items()},
        "settings": {**settings, "outputSelection": wanted},
    }
    command = ["node", str(DIRECTORY / "standard_json.js"), str(modules)]
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=True
    )
    answer = json.loads(done.stdout)
    entries = answer.get("errors", ())
    if complaints := [entry for entry in entries if not _is_harmless(entry, warnings)]:
        raise CompilationFailed("\n".join(entry["formattedMessage"] for entry in complaints))
    return {
        name: Artifact(
            name=name,
            abi=answer["contracts"][f"{name}.sol"][name]["abi"],
            bytecode=bytes.fromhex(answer["contracts"][f"{name}.sol"][name]["evm"]["bytecode"]["object"]),
            compiler=PACKAGES[0].partition("@")[2],
            settings=dict(settings),
            sources=hash_sources(sources),
        )
        for name in names
    }


def _is_harmless(entry: Mapping[str, Any], warnings: bool) -> bool:
    """Warnings, if wanted, and OpenZeppelin's own: solc warns of transient storage in a guard, and calls it safe."""
    file = str((entry.get("sourceLocation") or {}).get("file", ""))
    return entry["severity"] == "warning" and (warnings or file.startswith("@"))


def write_artifact(directory: Path, artifact: Artifact) -> None:
    """As JSON, one entry of the ABI a line, so that a changed function is a changed line."""
    abi = ",\n    ".join(json.dumps(entry) for entry in artifact.abi)
    rest = {
        "compiler": artifact.compiler,
        "settings": artifact.settings,
        "sources": artifact.sources,
        "bytecode": artifact.bytecode.hex(),
    }
    fields = "".join(f',\n  "{key}": {json.dumps(value)}' for key, value in rest.items())
    text = f'{{\n  "name": "{artifact.name}",\n  "abi": [\n    {abi}\n  ]{fields}\n}}\n'
    (directory / f"{artifact.name}.json").write_text(text)


def main(directory: Path = DIRECTORY, names: tuple[str, ...] = CONTRACTS) -> None:
    for artifact in compile_sources(install(), own_sources(directory), names).values():
        write_artifact(directory / "artifacts", artifact)
        print(f"{artifact.name}: {len(artifact.bytecode)} bytes of creation code")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), tuple(sys.argv[2:]))
    else:
        main()
