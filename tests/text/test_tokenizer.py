"""Prompts become the ids that transformers gives; what does not fit is refused by name."""

import json
import threading

import pytest

from deserve_text.errors import ModelTextError, RequestError
from deserve_text.requests import CHAT, COMPLETIONS, parse_request
from deserve_text.tokenizer import TextModel


def chat(*messages, **parameters):
    turns = [{"role": role, "content": content} for role, content in messages]
    return parse_request(CHAT, {"model": "m", "messages": turns} | parameters)


def completion(prompt, **parameters):
    return parse_request(COMPLETIONS, {"model": "m", "prompt": prompt} | parameters)


def refused(model, request, param, code=None):
    with pytest.raises(RequestError) as caught:
        model.encode(request)
    assert caught.value.param == param
    if code:
        assert caught.value.code == code
    return str(caught.value)


def test_a_chat_is_rendered_as_transformers_does(smollm2):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <|im_end|>"}]
    expected = smollm2._tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert list(smollm2.encode(chat(("system", "Be brief."), ("user", "Hi <|im_end|>")))) == expected


def test_developer_is_system_where_a_template_does_not_know_it(smollm2):
    assert smollm2.encode(chat(("developer", "x"), ("user", "y"))) == smollm2.encode(
        chat(("system", "x"), ("user", "y"))
    )


def test_a_completion_has_the_tokenizers_own_bos(byte_fallback, byte_level):
    assert byte_fallback.encode(completion("the"))[0] == 1
    assert byte_level.encode(completion("ab")) == tuple(byte_level._tokenizer("ab")["input_ids"])


def test_token_ids_are_taken_as_they_are(byte_level):
    assert byte_level.encode(completion([5, 6, 7])) == (5, 6, 7)


def test_token_ids_outside_the_vocabulary(byte_level):
    assert "99999" in refused(byte_level, completion([5, 99999]), "prompt")
    refused(byte_level, completion([5], logit_bias={"99999": 1}), "logit_bias")


def test_no_chat_template(byte_fallback):
    refused(byte_fallback, chat(("user", "Hi")), "messages", "no_chat_template")


def test_no_tokenizer(without_tokenizer):
    assert not without_tokenizer.has_tokenizer
    assert without_tokenizer.eos_token_ids == (7, 8)
    assert without_tokenizer.encode(completion([1, 2])) == (1, 2)
    assert "send token ids" in refused(without_tokenizer, completion("Hi"), "prompt", "no_tokenizer")
    assert "send token ids" in refused(without_tokenizer, chat(("user", "Hi")), "messages", "no_tokenizer")
    refused(without_tokenizer, completion([1], stop="x"), "stop")


def test_prompt_and_output_share_the_context(without_tokenizer):
    model = without_tokenizer  # of 64 tokens
    assert len(model.encode(completion([1] * 60, max_tokens=4))) == 60
    refused(model, completion([1] * 60, max_tokens=5), "max_tokens", "context_length_exceeded")
    refused(model, completion([1] * 64), "prompt", "context_length_exceeded")
    refused(model, completion([1] * 65, max_tokens=1), "prompt", "context_length_exceeded")
    assert len(model.encode(completion([1] * 64, max_tokens=0, echo=True))) == 64
    refused(model, completion([1] * 60, min_tokens=10), "min_tokens")


def test_how_much_is_generated_by_default(byte_level, without_tokenizer):
    assert without_tokenizer.limit_of(completion([1]), 1) == 16
    assert without_tokenizer.limit_of(completion([1]), 60) == 4
    assert without_tokenizer.limit_of(chat(("user", "Hi")), 10) == 54
    assert without_tokenizer.limit_of(completion([1], max_tokens=3), 1) == 3


def test_a_template_that_refuses_names_the_messages(tmp_path, byte_level):
    tokenizer = byte_level._tokenizer
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 64, "vocab_size": 400}))
    assert "roles must alternate" in refused(TextModel.load(tmp_path), chat(("user", "Hi")), "messages")


def test_a_template_that_asks_for_the_date_renders_the_same_on_any_day(tmp_path, byte_level):
    byte_level._tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }}")
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 64, "vocab_size": 400}))
    model = TextModel.load(tmp_path)
    assert b"".join(map(model.token_bytes, model.encode(chat(("user", "Hi"))))) == b"26 Jul 2024"


def test_configurations_that_cannot_be_used_are_named(tmp_path):
    for content in (None, "{", "[]", '{"model_type": "nonsense"}'):
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelTextError, match=r"config\.json"):
            TextModel.load(tmp_path)


def test_a_broken_tokenizer_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 64, "vocab_size": 400}')
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelTextError, match="tokenizer"):
        TextModel.load(tmp_path)


def test_a_vocabulary_that_is_not_made_of_bytes_is_refused(tmp_path, byte_level):
    byte_level._tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 64, "vocab_size": 400}')
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    file.write_text(json.dumps(content))
    with pytest.raises(ModelTextError, match="WordPiece"):
        TextModel.load(tmp_path)


def test_nested_and_defaulted_configurations(tmp_path):
    (tmp_path / "config.json").write_text('{"text_config": {"n_positions": 32, "vocab_size": 10}, "eos_token_id": 3}')
    model = TextModel.load(tmp_path)
    assert (model.context_length, model.vocab_size, model.eos_token_ids) == (32, 10, (3,))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [4, 5]}')
    model = TextModel.load(tmp_path)
    assert (model.context_length, model.vocab_size, model.eos_token_ids) == (1024, 50257, (4, 5))


def test_threads_may_encode_at_once(byte_level):
    request = completion("The capital of France")
    results = []
    threads = [
        threading.Thread(target=lambda: results.extend(byte_level.encode(request) for _ in range(50))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [byte_level.encode(request)] * 200
