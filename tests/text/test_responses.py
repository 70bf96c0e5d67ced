"""Response bodies as OpenAI and vLLM define them, readable by the openai client's own types and by lm-eval."""

import json
import math
from types import SimpleNamespace

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion

from deserve_text.output import OutputText
from deserve_text.requests import CHAT, COMPLETIONS, parse_request
from deserve_text.responses import build_response


def drawn(position, token, logprob=-0.5, top=()):
    top = tuple(SimpleNamespace(token=t, logprob=p) for t, p in top)
    return SimpleNamespace(position=position, token=token, logprob=logprob, top=top)


def respond(model, endpoint, text_ids, scored=(), drawn_tokens=None, **body):
    request = parse_request(endpoint, {"model": "m"} | body)
    prompt = model.encode(request)
    output = OutputText(model, request, prompt)
    for token in text_ids:
        output.push(token)
    generated = drawn_tokens or [drawn(len(prompt) + i, token) for i, token in enumerate(text_ids)]
    response = build_response(model, request, prompt, generated, scored, output, "cmpl-1", 1700000000)
    json.dumps(response, allow_nan=False)
    return response, prompt


def ids_of(model, text):
    return model._tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_chat_completion(byte_level):
    text = ids_of(byte_level, "Paris")
    messages = [{"role": "user", "content": "Hi"}]
    response, prompt = respond(byte_level, CHAT, [*text, *byte_level.eos_token_ids], messages=messages)
    parsed = ChatCompletion.model_validate(response)
    assert (parsed.choices[0].message.content, parsed.choices[0].finish_reason) == ("Paris", "stop")
    assert parsed.choices[0].logprobs is None
    assert parsed.usage is not None
    assert (parsed.usage.prompt_tokens, parsed.usage.completion_tokens) == (len(prompt), len(text) + 1)
    assert "prompt_token_ids" not in response


def test_chat_logprobs(byte_level):
    (a,), (b,) = ids_of(byte_level, "a"), ids_of(byte_level, "b")
    tokens = [drawn(9, a, -0.1, [(a, -0.1), (b, -math.inf)])]
    response, _ = respond(
        byte_level, CHAT, [a], drawn_tokens=tokens, messages=[{"role": "user", "content": "Hi"}], logprobs=True,
        top_logprobs=2, max_tokens=1,
    )  # fmt: skip
    parsed = ChatCompletion.model_validate(response)
    assert parsed.choices[0].logprobs is not None
    (entry,) = parsed.choices[0].logprobs.content or []
    assert (entry.token, entry.logprob, entry.bytes) == ("a", -0.1, [97])
    assert [(top.token, top.logprob) for top in entry.top_logprobs] == [("a", -0.1), ("b", -9999.0)]


def test_token_ids_on_request(byte_level):
    (a,) = ids_of(byte_level, "a")
    response, prompt = respond(byte_level, COMPLETIONS, [a], prompt="xy", max_tokens=1, return_token_ids=True)
    choice = response["choices"][0]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == (list(prompt), [a])
    response, prompt = respond(
        byte_level, CHAT, [a], messages=[{"role": "user", "content": "Hi"}], max_tokens=1, return_token_ids=True
    )
    assert (response["prompt_token_ids"], response["choices"][0]["token_ids"]) == (list(prompt), [a])


def test_a_model_without_tokenizer_answers_in_ids(without_tokenizer):
    response, _ = respond(without_tokenizer, COMPLETIONS, [4, 5], prompt=[1, 2], max_tokens=2, logprobs=1)
    parsed = Completion.model_validate(response)
    assert (parsed.choices[0].text, response["choices"][0]["token_ids"]) == ("", [4, 5])
    assert parsed.choices[0].logprobs is not None
    assert parsed.choices[0].logprobs.tokens == ["token_id:4", "token_id:5"]


def lm_eval_score(choice, context_length):
    """What lm-eval's local-completions does with the answer to a loglikelihood request."""
    logprobs = choice["logprobs"]["token_logprobs"][context_length:-1]
    tops = choice["logprobs"]["top_logprobs"][context_length:-1]
    greedy = all(value == max(top.values()) for value, top in zip(logprobs, tops, strict=True))
    return sum(logprobs), greedy


@pytest.mark.parametrize(("last_best", "greedy"), [(-0.25, True), (-0.125, False)])
def test_prompt_scoring_reads_as_lm_eval_expects(byte_level, last_best, greedy):
    prompt = ids_of(byte_level, "The capital é")
    other = ids_of(byte_level, "Z")[0]
    scored = [drawn(i, token, -0.25, [(token, -0.25)]) for i, token in enumerate(prompt) if i]
    if not greedy:
        scored[-1] = drawn(len(prompt) - 1, prompt[-1], -0.25, [(other, last_best)])
    for max_tokens, text in ((1, ids_of(byte_level, "x")), (0, [])):
        response, _ = respond(
            byte_level, COMPLETIONS, text, scored, prompt=[prompt], max_tokens=max_tokens, echo=True, logprobs=1,
            temperature=0, seed=1234,
        )  # fmt: skip
        choice = response["choices"][0]
        assert choice["text"] == "The capital é" + "x" * max_tokens
        logprobs = choice["logprobs"]
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        assert {len(values) for values in logprobs.values()} == {len(prompt) + max_tokens}
        if max_tokens:
            assert lm_eval_score(choice, len(prompt) - 2) == (-0.5, greedy)


def test_offsets_are_those_of_the_text(byte_level):
    prompt = ids_of(byte_level, "Voilà 👋")
    text = ids_of(byte_level, " über")
    scored = [drawn(i, token) for i, token in enumerate(prompt) if i]
    response, _ = respond(
        byte_level, COMPLETIONS, text, scored, prompt=prompt, max_tokens=len(text), echo=True, logprobs=0
    )
    choice = response["choices"][0]
    logprobs = choice["logprobs"]
    ends = [*logprobs["text_offset"][1:], len(choice["text"])]
    for token, start, end in zip(logprobs["tokens"], logprobs["text_offset"], ends, strict=True):
        if not token.startswith("bytes:"):
            assert choice["text"][start:end] == token


def test_offsets_after_an_echoed_text_prompt_are_those_of_the_text(byte_fallback):
    text = ids_of(byte_fallback, "the")[:1]
    scored = [drawn(i, 9) for i in range(1, 9)]
    response, prompt = respond(
        byte_fallback, COMPLETIONS, text, scored, prompt="the cat", max_tokens=1, echo=True, logprobs=0
    )
    choice = response["choices"][0]
    assert choice["text"] == "the cat the"
    # BOS is no text; the first piece is "▁the", whose space is not in the prompt.
    assert choice["logprobs"]["text_offset"] == [0, 0, 3, 4, 5, 6, 7]
    assert len(prompt) == 6


def test_half_characters_have_distinct_names(byte_level):
    halves = [byte_level._tokenizer.convert_tokens_to_ids(piece) for piece in ("ð", "Ł")]
    response, _ = respond(byte_level, COMPLETIONS, halves, prompt="x", max_tokens=2, logprobs=0)
    assert response["choices"][0]["logprobs"]["tokens"] == ["bytes:\\xf0", "bytes:\\x9f"]


def test_an_echoed_text_prompt_is_returned_verbatim(byte_fallback):
    response, _ = respond(byte_fallback, COMPLETIONS, [], prompt="the  the", max_tokens=0, echo=True)
    assert response["choices"][0]["text"] == "the  the"
