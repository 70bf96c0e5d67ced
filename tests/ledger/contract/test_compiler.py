"""What is committed is what solc makes of the sources."""

from __future__ import annotations

from pathlib import Path

import pytest
from world import odd_token

from deserve_ledger.contracts import compiler, load_artifact

MOST_CODE_BYTES = 24_576  # EIP-170

TOKENS = Path(__file__).parent / "tokens"


def modules() -> Path:
    try:
        return compiler.install()
    except compiler.CompilerMissing as error:
        pytest.skip(str(error))


def test_the_artifacts_are_of_these_sources() -> None:
    # Without a compiler at hand this is what is left of the comparison below.
    for name in compiler.CONTRACTS:
        assert load_artifact(name).sources == compiler.hash_sources(compiler.own_sources())
    assert odd_token().sources == compiler.hash_sources(compiler.own_sources(TOKENS))


def test_compiling_again_gives_the_committed_bytes() -> None:
    for name, artifact in compiler.compile_sources(modules(), compiler.own_sources()).items():
        assert artifact == load_artifact(name)
    again = compiler.compile_sources(modules(), compiler.own_sources(TOKENS), ("OddToken",))
    assert again["OddToken"] == odd_token()


def test_a_warning_is_an_error() -> None:
    body = "contract A { function f() external { uint256 unused = 1; } }"
    source = f"// SPDX-License-Identifier: Apache-2.0\npragma solidity 0.8.37;\n{body}"
    with pytest.raises(compiler.CompilationFailed, match="Unused local variable"):
        compiler.compile_sources(modules(), {"A.sol": source}, ("A",))
    assert compiler.compile_sources(modules(), {"A.sol": source}, ("A",), warnings=True)["A"].bytecode


def test_the_ledger_fits_a_real_chain() -> None:
    # Creation code is longer than what it leaves behind.
    assert len(load_artifact("DeserveLedger").bytecode) < MOST_CODE_BYTES


def test_every_refusal_is_a_name_without_arguments() -> None:
    errors = [entry for entry in load_artifact("DeserveLedger").abi if entry["type"] == "error"]
    ours = [entry for entry in errors if not entry["name"].startswith(("ECDSA", "SafeERC20"))]
    assert {entry["name"] for entry in ours if entry["inputs"]} <= {"StringTooLong"}
    assert len(ours) > 40
