"""Options, and the one place that decides when a completion ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama import Options, RequestError
from codellama.inference.requests import Prompt, RunningSequence

BOS, EOS = 1, 2
properties = settings(deadline=None, derandomize=True, max_examples=300)
# Two letters, so that stop strings repeat their own beginning and meet inside tokens.
LETTERS = "er"
stops = st.lists(st.text(LETTERS, min_size=1, max_size=5), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def pieces(tokenizer):
    """The vocabulary's pieces of these letters alone, in order, and their ids."""
    found = {tokenizer.piece(id): id for id in range(259, tokenizer.vocab_size)}
    found = {piece: id for piece, id in found.items() if set(piece) <= set(LETTERS)}
    assert {"e", "r", "er", "re"} <= found.keys()
    return found


choices = st.lists(st.integers(0, 99), min_size=1, max_size=12)


def choose(pieces, choices):
    return [list(pieces)[choice % len(pieces)] for choice in choices]


def byte_ids(text):
    return [3 + byte for byte in text.encode()]


T, A, E = byte_ids("tae")


def start(tokenizer, budget=99, ids=(BOS,), **options):
    prompt = Prompt(list(ids), frozenset([EOS]), continuation=True)
    return RunningSequence(prompt, Options(**options), tokenizer, budget)


def feed(sequence, tokens):
    """The pieces of text released, token by token, until the sequence ends."""
    released = [sequence.text]
    for token in tokens:
        if sequence.finish_reason is None:
            released.append(sequence.append(token, -float(token)))
    return released


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", -1),
        ("temperature", -0.1),
        ("temperature", float("inf")),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", float("nan")),
        ("top_k", -1),
        ("batch_size", 0),
        ("seed", 2**64),
        ("seed", 1.5),
        ("temperature", "1"),
        ("top_p", None),
        ("stop", ("a", "")),
        ("stop", (1,)),
        ("stop", None),
        ("stop", ""),
    ],
)
def test_an_option_out_of_its_range_is_refused_by_name_and_value(name, value):
    with pytest.raises(RequestError) as refusal:
        Options(**{name: value})
    assert str(refusal.value).startswith(f"{name} is ")
    assert "; expected " in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_new_tokens", 0), ("temperature", 0.0), ("top_p", 1.0), ("top_k", 0), ("batch_size", 1)],
)
def test_the_ends_of_the_ranges_are_allowed(name, value):
    assert getattr(Options(**{name: value}), name) == value


def test_a_fraction_of_a_token_is_refused():
    with pytest.raises(RequestError, match=r"max_new_tokens is 2\.5"):
        Options(max_new_tokens=2.5)


def test_a_single_stop_string_is_one_string(tokenizer):
    assert Options(stop="ab").stop == ("ab",)
    sequence = start(tokenizer, stop="ta")
    feed(sequence, [A, T, A])
    assert sequence.completion().text == "a"


def test_a_stop_id_ends_the_text_and_is_not_part_of_it(tokenizer):
    sequence = start(tokenizer)
    assert feed(sequence, [T, A, EOS, E]) == ["", "t", "a", ""]
    completion = sequence.completion()
    assert (completion.text, completion.finish_reason) == ("ta", "stop")
    assert completion.tokens == [T, A]


@properties
@given(choices=choices, stop=st.text(LETTERS, min_size=1, max_size=5))
def test_the_text_ends_at_a_stop_string_however_it_is_cut_into_tokens(
    tokenizer, pieces, choices, stop
):
    texts = choose(pieces, choices)
    sequence = start(tokenizer, len(texts), stop=[stop])
    feed(sequence, [pieces[text] for text in texts])
    before, found, _ = "".join(texts).partition(stop)
    assert sequence.completion().text == before
    assert sequence.finish_reason == ("stop" if found else "length")


def cut(texts, stops):
    """Up to the earliest stop string there is once any is complete; and how many texts that
    takes."""
    whole = ""
    for count, text in enumerate(texts, 1):
        whole += text
        if found := [whole.index(stop) for stop in stops if stop in whole]:
            return whole[: min(found)], count
    return whole, len(texts)


@properties
@given(choices=choices, stops=stops)
def test_several_stop_strings_end_the_text_at_the_first_that_is_complete(
    tokenizer, pieces, choices, stops
):
    texts = choose(pieces, choices)
    tokens = [pieces[text] for text in texts]
    sequence = start(tokenizer, len(texts), stop=stops)
    released = feed(sequence, tokens)
    text, count = cut(texts, stops)
    assert sequence.completion().text == "".join(released) == text
    assert sequence.completion().tokens == tokens[:count]


@properties
@given(choices=choices, stops=stops)
def test_text_is_pending_only_while_it_may_begin_a_stop_string(tokenizer, pieces, choices, stops):
    texts = choose(pieces, choices)
    sequence = start(tokenizer, stop=stops)
    released = feed(sequence, [pieces[text] for text in texts])
    for count in range(1, len(released) - (sequence.finish_reason is not None)):
        so_far = "".join(texts[:count])
        pending = so_far[len("".join(released[: count + 1])) :]
        assert any(stop.startswith(pending) for stop in stops)


@pytest.mark.parametrize("end", ["stop", "length"])
def test_text_pending_is_released_at_the_end(tokenizer, end):
    sequence = start(tokenizer, 2 if end == "length" else 99, stop=["tare"])
    released = feed(sequence, [T, A, EOS])
    assert "".join(released) == sequence.completion().text == "ta"
    assert sequence.finish_reason == end


def test_a_stop_string_is_found_where_each_token_is_one_byte_of_it(tokenizer):
    sequence = start(tokenizer, stop=["生🦙"])
    released = feed(sequence, byte_ids("é生☺生🦙生"))
    assert "".join(released) == sequence.completion().text == "é生☺"
    assert sequence.completion().tokens == byte_ids("é生☺生🦙")


@pytest.mark.parametrize("end", ["stop", "length"])
def test_an_unfinished_character_at_the_end_is_marked_as_one(tokenizer, end):
    tokens = byte_ids("é生")[:-1]
    sequence = start(tokenizer, len(tokens) if end == "length" else 99)
    assert "".join(feed(sequence, [*tokens, EOS])) == "é��"
    assert sequence.completion().text == "é��"
    assert sequence.finish_reason == end


def test_the_budget_ends_a_text(tokenizer):
    sequence = start(tokenizer, budget=3)
    released = feed(sequence, [T] * 5)
    assert (released, sequence.finish_reason) == (["", "t", "t", "t"], "length")
    assert sequence.completion().tokens == [T] * 3


def test_a_stop_string_completed_by_the_last_token_of_the_budget_counts(tokenizer):
    sequence = start(tokenizer, budget=2, stop=["ta"])
    feed(sequence, [T, A])
    assert (sequence.completion().text, sequence.finish_reason) == ("", "stop")


def test_a_budget_of_nothing_ends_before_the_first_token(tokenizer):
    sequence = start(tokenizer, budget=0)
    completion = sequence.completion()
    assert (completion.text, completion.tokens, completion.finish_reason) == ("", [], "length")


def test_there_is_no_completion_before_the_end(tokenizer):
    sequence = start(tokenizer)
    feed(sequence, [T])
    with pytest.raises(RuntimeError, match="not ended"):
        sequence.completion()


def test_logprobs_belong_to_the_tokens_and_come_if_asked_for(tokenizer):
    tokens = [T, A]
    for asked, expected in ((True, [-float(token) for token in tokens]), (False, None)):
        sequence = start(tokenizer, logprobs=asked)
        feed(sequence, [*tokens, EOS])
        assert sequence.completion().logprobs == expected


def test_echo_begins_with_the_prompt(tokenizer):
    ids = tokenizer.encode("tare", bos=True)
    sequence = start(tokenizer, ids=ids, echo=True, logprobs=True)
    sequence.prompt_logprobs += [-0.5] * (len(ids) - 1)
    released = feed(sequence, [T, EOS])
    completion = sequence.completion()
    assert released == ["tare", "t", ""]
    assert completion.text == "taret"
    assert completion.tokens == [*ids, T]
    assert completion.logprobs == [0.0, *[-0.5] * (len(ids) - 1), -float(T)]


def test_echo_looks_for_no_stop_string_in_the_prompt(tokenizer):
    sequence = start(tokenizer, ids=tokenizer.encode("tare", bos=True), echo=True, stop=["et", "a"])
    feed(sequence, [T, E, EOS])
    assert sequence.completion().text == "tarete"
