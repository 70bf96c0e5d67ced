"""Detokenising and stopping give one answer, however a text was cut into tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deserve_text.output import Detokenizer, OutputText
from deserve_text.requests import COMPLETIONS, CompletionRequest

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text("thea é日👋 ▁\n", max_size=40)
PROMPT = (5,)


def request(**parameters):
    return CompletionRequest(endpoint=COMPLETIONS, model="m", prompt=PROMPT, **({"max_tokens": 1000} | parameters))


def encoded(model, text):
    return model._tokenizer(text, add_special_tokens=False)["input_ids"]


def run(model, ids, **parameters):
    """Push `ids` until the row finishes."""
    output = OutputText(model, request(**parameters), PROMPT)
    for token in ids:
        output.push(token)
        if output.finish_reason:
            break
    return output


@given(TEXTS)
@settings(deadline=None)
def test_byte_level_text_equals_decode_of_the_whole(byte_level, text):
    ids = encoded(byte_level, text)
    assert run(byte_level, ids).text == byte_level._tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@given(TEXTS)
@settings(max_examples=50, deadline=None)
def test_smollm2_text_equals_decode_of_the_whole(smollm2, text):
    ids = encoded(smollm2, text)
    assert run(smollm2, ids).text == smollm2._tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@given(TEXTS)
@settings(deadline=None)
def test_byte_fallback_text_equals_decode_of_the_whole(byte_fallback, text):
    """All but the space that SentencePiece puts before a text: here the prompt is what comes before."""
    ids = encoded(byte_fallback, text)
    decoded = byte_fallback._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert run(byte_fallback, ids).text.removeprefix(" ") == decoded


@given(st.lists(st.integers(2, 390), max_size=30))
@settings(deadline=None)
def test_any_tokens_equal_decode_of_the_whole_but_for_half_a_character(byte_level, ids):
    """Half of it can be two replacement characters: ED A0 begins a surrogate, which is none of UTF-8."""
    text = run(byte_level, ids).text
    whole = byte_level._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert whole in (text, text + "�", text + "��")


@given(TEXTS)
@settings(deadline=None)
def test_half_a_character_is_never_shown(byte_fallback, text):
    ids = encoded(byte_fallback, text)
    for end in range(len(ids)):
        assert "�" not in run(byte_fallback, ids[:end]).text or "�" in text


def test_a_replacement_character_of_the_model_is_shown_at_once(byte_level):
    assert run(byte_level, encoded(byte_level, "a�")).text == "a�"


def test_a_character_begun_in_the_prompt_is_finished_in_the_output(byte_fallback):
    first, *rest = [3 + byte for byte in "👋".encode()]
    output = OutputText(byte_fallback, request(), (5, first))
    for token in rest:
        output.push(token)
    assert output.text == "👋"


def test_every_token_of_a_real_vocabulary_has_the_bytes_that_decode_shows(smollm2):
    tokenizer = smollm2._tokenizer
    for token in range(smollm2.vocab_size):
        if not smollm2.is_special(token):
            decoded = tokenizer.decode([token], clean_up_tokenization_spaces=False)
            assert smollm2.token_bytes(token).decode(errors="replace") == decoded


def test_a_space_after_the_prompt_is_kept(byte_fallback):
    assert run(byte_fallback, [byte_fallback._tokenizer.convert_tokens_to_ids("▁the")]).text == " the"


def test_control_tokens_are_no_text(byte_level):
    begin, *_ = byte_level._tokenizer.convert_tokens_to_ids(["<|begin|>"])
    assert run(byte_level, [begin, *encoded(byte_level, "a"), begin]).text == "a"


@pytest.mark.parametrize("stop", ["Paris", "is P", "s", ". T", "日本", "本", "👋"])
def test_a_stop_string_is_cut_at_every_split(byte_fallback, stop):
    """The same text as bytes, as pieces, and as any mixture of both: one result."""
    text = "the capital is Paris. The 日本 👋 end"
    for split in range(len(text)):
        ids = [3 + byte for byte in text[:split].encode()]
        # The tokenizer puts a space before each text: here it is the text's own, or comes after a "#".
        if text[split] == " ":
            whole = text
            ids += encoded(byte_fallback, text[split + 1 :])
        else:
            whole = f"{text[:split]}# {text[split:]}"
            ids += [3 + ord("#"), *encoded(byte_fallback, text[split:])]
        output = run(byte_fallback, ids, stop=(stop,))
        cut = whole.find(stop)
        assert (output.text, output.finish_reason) == ((whole[:cut], "stop") if cut >= 0 else (whole, None))


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4), st.data())
@settings(deadline=None)
def test_the_stop_string_that_ends_first_wins_wherever_tokens_end(byte_level, text, stops, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    ids = [token for piece in pieces if piece for token in encoded(byte_level, piece)]
    output = run(byte_level, ids, stop=tuple(stops))
    ends = [(end, -len(stop)) for end in range(len(text) + 1) for stop in stops if text[:end].endswith(stop)]
    if ends:
        end, length = min(ends)
        assert (output.text, output.finish_reason) == (text[: end + length], "stop")
    else:
        assert (output.text, output.finish_reason) == (text, None)


def test_end_of_sequence_stops_and_is_no_text(byte_level):
    (eos,) = byte_level.eos_token_ids
    output = run(byte_level, [*encoded(byte_level, "ab"), eos])
    assert (output.text, output.finish_reason) == ("ab", "stop")
    assert run(byte_level, [eos, eos], ignore_eos=True).finish_reason is None


def test_the_limit_ends_a_row(byte_level):
    ids = encoded(byte_level, "abcdef")
    assert run(byte_level, ids, max_tokens=2).finish_reason == "length"
    assert run(byte_level, [*ids[:1], *byte_level.eos_token_ids], max_tokens=2).finish_reason == "stop"
    assert OutputText(byte_level, request(max_tokens=0, echo=True), PROMPT).finish_reason == "length"


def test_nothing_stops_a_row_before_its_least_length(byte_level):
    a, b = encoded(byte_level, "a"), encoded(byte_level, "b")
    output = run(byte_level, [*a, *b, *b, *a, *b], stop=("b",), min_tokens=4)
    assert (output.text, output.finish_reason) == ("abba", "stop")
    (eos,) = byte_level.eos_token_ids
    assert run(byte_level, [*a, eos, *a], min_tokens=2).finish_reason is None
    assert run(byte_level, [*a, *b, eos], min_tokens=2).finish_reason == "stop"


def test_a_finished_row_takes_no_more(byte_level):
    output = run(byte_level, list(byte_level.eos_token_ids))
    with pytest.raises(ValueError, match="finished"):
        output.push(5)


def test_a_replay_gives_the_same(smollm2):
    ids = encoded(smollm2, "One, two, three 👋 STOP four")
    first, second = (run(smollm2, ids, stop=("STOP",)) for _ in range(2))
    assert (first.text, first.finish_reason) == (second.text, second.finish_reason) == ("One, two, three 👋 ", "stop")


def test_a_token_costs_the_same_in_a_long_row(byte_level, monkeypatch):
    """Counted, not timed: the characters searched for a stop string do not grow with the row."""
    ids = encoded(byte_level, "a b ") * 500
    output = OutputText(byte_level, request(max_tokens=100_000, stop=("zzzz",)), PROMPT)
    seen = []
    find = output._find_stop
    monkeypatch.setattr(output, "_find_stop", lambda piece: (find(piece), seen.append(len(output._tail) + len(piece))))
    for token in ids:
        output.push(token)
    assert max(seen) <= 3 + 4
    assert output.text == "a b " * 500


def test_without_tokenizer_there_is_no_text(without_tokenizer):
    output = OutputText(without_tokenizer, request(max_tokens=3), PROMPT)
    for token in (1, 2, 7):
        output.push(token)
    assert (output.text, output.finish_reason) == ("", "stop")


def test_a_detokenizer_holds_incomplete_characters(byte_fallback):
    detokenizer = Detokenizer(byte_fallback)
    assert [detokenizer.push(3 + byte) for byte in "é!".encode()] == ["", "é", "!"]
