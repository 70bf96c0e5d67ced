"""Every parameter is served as asked or refused by its name."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_text.errors import RequestError
from deserve_text.requests import CHAT, COMPLETIONS, Message, parse_request

MESSAGES = [{"role": "user", "content": "Hi"}]


def chat(**parameters):
    return parse_request(CHAT, {"model": "m", "messages": MESSAGES} | parameters)


def completion(**parameters):
    return parse_request(COMPLETIONS, {"model": "m", "prompt": "Hi"} | parameters)


def refused(endpoint, param, code=None, **parameters):
    base = {"model": "m"} | ({"messages": MESSAGES} if endpoint == CHAT else {"prompt": "Hi"})
    with pytest.raises(RequestError) as caught:
        parse_request(endpoint, base | parameters)
    assert caught.value.param == param
    assert caught.value.status == 400
    if code:
        assert caught.value.code == code
    return caught.value


def test_defaults_are_openais():
    request = chat()
    assert request.messages == (Message("user", "Hi"),)
    assert (request.temperature, request.top_p, request.top_k, request.min_p) == (1.0, 1.0, -1, 0.0)
    assert (request.max_tokens, request.logprobs, request.seed, request.stop) == (None, -1, None, ())


def test_every_parameter_arrives():
    request = completion(
        max_tokens=7, temperature=0, top_p=0.5, top_k=0, min_p=0.1, presence_penalty=1, frequency_penalty=-1.5,
        repetition_penalty=1.2, logit_bias={"5": -100, "3": 1.5}, seed=-3, logprobs=0, echo=True, stop=["a", "b"],
        ignore_eos=True, min_tokens=2, return_token_ids=True, deserve={"tier": "slow"}, n=1, best_of=1, stream=False,
        user="me", metadata={"a": "b"},
    )  # fmt: skip
    assert request.max_tokens == 7
    assert (request.temperature, request.top_k, request.seed) == (0.0, -1, -3)
    assert request.logit_bias == ((3, 1.5), (5, -100.0))
    assert (request.logprobs, request.echo, request.stop) == (0, True, ("a", "b"))
    assert (request.ignore_eos, request.min_tokens, request.return_token_ids) == (True, 2, True)
    assert request.deserve == {"tier": "slow"}


def test_chat_spells_its_limits_differently():
    assert chat(max_completion_tokens=5).max_tokens == 5
    assert chat(logprobs=True).logprobs == 0
    assert chat(logprobs=True, top_logprobs=4).logprobs == 4
    assert chat(logprobs=False).logprobs == -1
    refused(CHAT, "max_tokens", max_tokens=4, max_completion_tokens=5)
    refused(CHAT, "max_completion_tokens", max_completion_tokens=0)
    refused(CHAT, "top_logprobs", top_logprobs=2)
    refused(CHAT, "logprobs", "invalid_type", logprobs=2)
    refused(COMPLETIONS, "logprobs", "invalid_type", logprobs=True)


def test_null_counts_as_absent():
    assert chat(max_tokens=None, stop=None, seed=None) == chat()
    refused(CHAT, "messages", "missing_required_parameter", messages=None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", []), ("functions", []), ("stream_options", {}), ("modalities", ["text"]), ("prompt", "x"),
        ("echo", True), ("best_of", 1), ("guided_json", {}), ("reasoning_effort", "low"), ("tool_choice", None),
    ],
)  # fmt: skip
def test_an_unsupported_parameter_is_named(name, value):
    refused(CHAT, name, "unsupported_parameter", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2), ("n", True), ("stream", True), ("response_format", {"type": "json_object"}), ("store", True),
        ("temperature", -0.1), ("temperature", 2.1), ("temperature", True), ("temperature", math.nan),
        ("temperature", math.inf), ("temperature", "1"), ("top_p", 0), ("top_p", 1.1), ("top_k", -2), ("top_k", 1.0),
        ("min_p", 1.5), ("presence_penalty", 3), ("repetition_penalty", 0), ("max_tokens", 0), ("max_tokens", -1),
        ("max_tokens", 10**30), ("max_tokens", 1.0), ("max_tokens", True), ("min_tokens", -1), ("seed", 2**64),
        ("seed", 1.5), ("logit_bias", [1]), ("logit_bias", {"a": 1}), ("logit_bias", {"-1": 1}), ("stop", ""),
        ("stop", ["x"] * 17), ("stop", 5), ("ignore_eos", 1), ("model", ""), ("model", 4), ("user", 4),
        ("metadata", "x"), ("deserve", []), ("messages", []), ("messages", "Hi"), ("top_logprobs", 21),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(name, value):
    refused(CHAT, name, **{name: value})


def test_more_than_max_tokens_cannot_be_the_least():
    refused(CHAT, "min_tokens", min_tokens=5, max_tokens=4)


def test_nothing_may_be_generated_only_when_a_prompt_is_scored():
    refused(COMPLETIONS, "max_tokens", max_tokens=0)
    assert completion(max_tokens=0, echo=True, logprobs=1).max_tokens == 0


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("Hi", "messages[0]"),
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"role": ["user"], "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": "\ud800"}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": "x", "tool_calls": []}, "messages[0].tool_calls"),
    ],
)
def test_a_bad_message_is_located(message, param):
    refused(CHAT, param, messages=[message])


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages == (Message("user", "a\nb"),)


@pytest.mark.parametrize(("prompt", "read"), [([1, 2], (1, 2)), ([[1, 2]], (1, 2)), (["Hi"], "Hi")])
def test_a_prompt_is_text_or_token_ids(prompt, read):
    assert completion(prompt=prompt).prompt == read


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ("", "prompt"), ([], "prompt"), (5, "prompt"), ([1, True], "prompt[1]"), ([1, -1], "prompt[1]"),
        ([1.0], "prompt[0]"), ([[1], [2]], "prompt"), (["a", "b"], "prompt"),
        ([[[1]]], "prompt[0][0]"), ([[]], "prompt[0]"),
    ],
)  # fmt: skip
def test_a_bad_prompt_is_located(prompt, param):
    refused(COMPLETIONS, param, prompt=prompt)


def test_several_prompts_are_refused_with_the_reason():
    assert "one row holds one prompt" in str(refused(COMPLETIONS, "prompt", prompt=["a", "b"]))


def test_unknown_endpoint_and_body():
    for endpoint, body in [("/v1/embeddings", {}), (CHAT, []), (CHAT, None)]:
        with pytest.raises(RequestError):
            parse_request(endpoint, body)


def test_deep_nesting_is_refused():
    nested: dict = {}
    for _ in range(100):
        nested = {"a": [nested]}
    refused(CHAT, "deserve", deserve=nested)
    refused(CHAT, "metadata", metadata={str(i): i for i in range(2000)})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    [
        "model",
        "messages",
        "prompt",
        "max_tokens",
        "temperature",
        "stop",
        "logit_bias",
        "logprobs",
        "n",
        "deserve",
        "seed",
    ]
)


@given(st.sampled_from([CHAT, COMPLETIONS]), st.dictionaries(names | st.text(max_size=4), json_values, max_size=6))
@settings(deadline=None)
def test_any_json_is_parsed_or_refused_with_a_reason(endpoint, body):
    base = {"model": "m"} | ({"messages": MESSAGES} if endpoint == CHAT else {"prompt": [1]})
    try:
        parse_request(endpoint, base | body)
    except RequestError as error:
        reason = error
    else:
        return
    assert reason.message
    assert len(str(reason)) < 1024
