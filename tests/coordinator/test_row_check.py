"""Bodies against the real text package: what is refused, under which name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from deserve_coordinator.batch_lines import Check
from deserve_coordinator.errors import RowRefused
from deserve_coordinator.row_check import row_check
from deserve_text.tokenizer import TextModel

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """A model directory without tokenizer: 64 tokens of context, 100 token ids."""
    config: dict[str, Any] = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 100,
        "max_position_embeddings": 64,
        "eos_token_id": 2,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return row_check("tiny", TextModel.load(tmp_path))


def test_token_ids_pass_without_a_tokenizer(check: Check) -> None:
    check(COMPLETIONS, {"model": "tiny", "prompt": [1, 5, 7], "max_tokens": 4})


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        (COMPLETIONS, {"model": "other", "prompt": [1]}, "model"),
        (COMPLETIONS, {"prompt": [1]}, "model"),
        (COMPLETIONS, {"model": "tiny", "prompt": "text"}, "prompt"),
        (COMPLETIONS, {"model": "tiny", "prompt": [100], "max_tokens": 1}, "prompt"),
        (COMPLETIONS, {"model": "tiny", "prompt": [1] * 80, "max_tokens": 1}, "prompt"),
        (COMPLETIONS, {"model": "tiny", "prompt": [1], "max_tokens": 0}, "max_tokens"),
        (COMPLETIONS, {"model": "tiny", "prompt": [1], "max_tokens": 10**9}, "max_tokens"),
        (COMPLETIONS, {"model": "tiny", "prompt": [1], "top_z": 1}, "top_z"),
        (CHAT, {"model": "tiny", "messages": []}, "messages"),
        (CHAT, {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}, "messages"),
    ],
)
def test_a_body_that_cannot_be_served_names_its_parameter(
    check: Check, endpoint: str, body: dict[str, Any], param: str
) -> None:
    with pytest.raises(RowRefused) as refused:
        check(endpoint, body)
    assert refused.value.param is not None
    assert refused.value.param.split("[")[0] == param
    assert 400 <= refused.value.status < 500
    assert refused.value.code


def test_a_template_that_breaks_refuses_its_own_row(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ 1 // (messages | length - 2) }}")
    check = row_check("tiny", TextModel.load(tmp_path / "model"))
    turn = {"role": "user", "content": "x"}
    check(CHAT, {"model": "tiny", "messages": [turn]})
    with pytest.raises(RowRefused, match="ZeroDivisionError") as refused:
        check(CHAT, {"model": "tiny", "messages": [turn, turn]})
    assert (refused.value.status, refused.value.code) == (500, "tokenizer_error")
