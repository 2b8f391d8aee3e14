"""Text to ids and back, on real vocabularies and compared with SentencePiece's own answers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from shared_data import shared

from codellama import Tokenizer, TokenizerError
from codellama.text.tokenizer import IncrementalDecoder

properties = settings(deadline=None, derandomize=True)
# No ▁: it is SentencePiece's own mark for a space and comes back as one.
texts = st.text(st.sampled_from(" \n\tab.<>0é生🦙☺")) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="▁")
)
# Taken modulo the vocabulary; pieces for single bytes come first in it and should come often.
numbers = st.lists(st.integers(0, 258) | st.integers(0, 32015))


@pytest.fixture(
    scope="module",
    params=[
        "random",
        "tokenizers/llama2.model",
        "tokenizers/codellama-infill.model",
        "checkpoints/stories260K/tokenizer.model",
    ],
)
def path(request, tokenizer_path):
    return tokenizer_path if request.param == "random" else shared(request.param)


@pytest.fixture(scope="module")
def tokenizer(path):
    return Tokenizer(path)


@pytest.fixture(scope="module")
def oracle(path):
    return SentencePieceProcessor(model_file=str(path))


def printable(tokenizer, numbers):
    ids = [number % tokenizer.vocab_size for number in numbers]
    return [id for id in ids if id not in tokenizer.control_ids]


@properties
@given(text=texts, bos=st.booleans(), eos=st.booleans())
def test_encoding_is_sentencepieces_between_the_marks_asked_for(tokenizer, oracle, text, bos, eos):
    expected = [1] * bos + oracle.encode(text) + [2] * eos
    assert tokenizer.encode(text, bos=bos, eos=eos) == expected


@properties
@given(text=texts)
def test_decoding_undoes_encoding(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, bos=True, eos=True)) == text


@properties
@given(text=texts)
def test_decoding_a_continuation_undoes_encoding_one(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode_continuation(text), continuation=True) == text


@properties
@given(before=texts.filter(bool), after=texts)
def test_a_continuation_adds_nothing_between_two_texts(tokenizer, oracle, before, after):
    ids = oracle.encode(before) + tokenizer.encode_continuation(after)
    assert oracle.decode(ids) == before + after


@properties
@given(numbers=numbers)
def test_any_ids_decode_as_in_sentencepiece(tokenizer, oracle, numbers):
    ids = printable(tokenizer, numbers)
    assert tokenizer.decode(ids) == oracle.decode(ids)


@properties
@given(numbers=numbers)
def test_any_ids_decode_as_a_continuation_to_what_they_are_behind_a_text(
    tokenizer, oracle, numbers
):
    ids = printable(tokenizer, numbers)
    behind = oracle.decode(oracle.encode("a") + ids)
    assert "a" + tokenizer.decode(ids, continuation=True) == behind


@properties
@given(numbers=numbers)
def test_control_pieces_leave_no_trace_in_text(tokenizer, oracle, numbers):
    ids = printable(tokenizer, numbers)
    controls = sorted(tokenizer.control_ids)
    mixed = [*controls]
    for number, id in enumerate(ids):
        mixed += [id, controls[number % len(controls)]]
    assert tokenizer.decode(mixed) == oracle.decode(ids)


@properties
@given(numbers=numbers)
def test_pieces_of_incremental_decoding_add_up_to_the_whole_text(tokenizer, oracle, numbers):
    ids = printable(tokenizer, numbers)
    decoder = IncrementalDecoder(tokenizer)
    assert "".join([*map(decoder.push, ids), decoder.flush()]) == oracle.decode(ids)


def byte_ids(oracle, text):
    return [oracle.piece_to_id(f"<0x{byte:02X}>") for byte in text.encode()]


@pytest.mark.parametrize("character", "é生🦙")
def test_a_character_spread_over_tokens_comes_with_the_last_of_them(tokenizer, oracle, character):
    decoder = IncrementalDecoder(tokenizer, continuation=True)
    *first, last = byte_ids(oracle, character)
    assert [decoder.push(id) for id in first] == [""] * len(first)
    assert decoder.push(last) == character
    assert decoder.flush() == ""


def test_bytes_that_form_no_character_become_a_replacement_each(tokenizer, oracle):
    decoder = IncrementalDecoder(tokenizer, continuation=True)
    unfinished = byte_ids(oracle, "🦙")[:3]
    [letter] = byte_ids(oracle, "a")
    assert [decoder.push(id) for id in [*unfinished, letter]] == ["", "", "", "���a"]
    assert [decoder.push(id) for id in unfinished] == ["", "", ""]
    assert decoder.flush() == "���"


def test_the_name_of_a_sequence_mark_in_a_text_is_text(tokenizer):
    ids = tokenizer.encode("<s>a</s>")
    assert not {1, 2} & set(ids)
    assert tokenizer.decode(ids) == "<s>a</s>"


@pytest.mark.parametrize("text", ["\ud800", "def \udfff():"])
def test_half_a_surrogate_pair_is_refused(tokenizer, text):
    with pytest.raises(TokenizerError, match="surrogate"):
        tokenizer.encode(text)
    with pytest.raises(TokenizerError, match="surrogate"):
        tokenizer.encode_continuation(text)


def test_an_id_outside_the_vocabulary_is_refused(tokenizer):
    for id in (-1, tokenizer.vocab_size):
        with pytest.raises(TokenizerError, match=rf"{id} .* {tokenizer.vocab_size}"):
            tokenizer.decode([1, id])


@pytest.mark.parametrize(
    ("path", "vocab_size", "infilling", "step"),
    [
        ("checkpoints/stories260K/tokenizer.model", 512, None, None),
        ("tokenizers/llama2.model", 32000, None, None),
        ("tokenizers/codellama-infill.model", 32016, (32007, 32008, 32009, 32010), None),
        (
            "tokenizers/codellama-70b-instruct-like.model",
            32016,
            (32007, 32008, 32009, 32010),
            32015,
        ),
    ],
)
def test_ids_with_a_meaning_are_found_by_their_piece(path, vocab_size, infilling, step):
    tokenizer = Tokenizer(shared(path))
    assert tokenizer.vocab_size == vocab_size
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    ids = tokenizer.prefix_id, tokenizer.suffix_id, tokenizer.middle_id, tokenizer.eot_id
    assert ids == (infilling or (None,) * 4)
    assert tokenizer.can_infill == bool(infilling)
    assert tokenizer.step_id == step
    extra = range(infilling[0], vocab_size) if infilling else ()
    assert tokenizer.control_ids == {1, 2, *extra}


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        (" ", [259]),
        ("  ", [1678]),
        (" Hello", [29871, 15043]),
        ("Hi  Hello", [6324, 29871, 15043]),
        ("This is a test", [910, 338, 263, 1243]),
        ("生活的真谛是", [29871, 30486, 31704, 30210, 30848, 235, 179, 158, 30392]),
    ],
)
@pytest.mark.parametrize("path", ["llama2.model", "codellama-infill.model"])
def test_published_ids(path, text, ids):
    assert Tokenizer(shared(f"tokenizers/{path}")).encode(text, bos=True) == [1, *ids]


@pytest.mark.parametrize("content", [b"", b"\x0a", b"<!DOCTYPE html>", b"PK\x03\x04"])
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model is not a SentencePiece model"):
        Tokenizer(path)


@pytest.mark.parametrize("name", ["absent.model", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name):
    with pytest.raises(TokenizerError, match="cannot read"):
        Tokenizer(tmp_path / name)


@pytest.fixture
def extended(path, tokenizer):
    """A vocabulary with tokens that a fine-tune has added, with a gap between their ids."""
    size = tokenizer.vocab_size
    added = {size: "<|end|>", size + 1: "<|end|>!", size + 3: "[PAD]", 5: "not behind the pieces"}
    return Tokenizer(path, added, special={size + 3}, eos_ids={size})


def test_added_tokens_are_ids_where_the_text_spells_them_the_longest_first(tokenizer, extended):
    size = tokenizer.vocab_size
    assert extended.vocab_size == size + 4
    assert extended.encode("a<|end|> b<|end|>!", bos=True) == [
        *tokenizer.encode("a", bos=True),
        size,
        *tokenizer.encode_continuation(" b"),
        size + 1,
    ]
    assert extended.encode("[PAD]") == [size + 3]
    assert extended.encode_continuation("x[PAD]y") == [
        *tokenizer.encode_continuation("x"),
        size + 3,
        *tokenizer.encode_continuation("y"),
    ]
    assert extended.piece(size + 3) == "[PAD]"


@pytest.mark.parametrize("text", ["<|end|> a", " <|end|>", "a<|end|>!  b", "<|end|><|end|>", "a"])
def test_added_tokens_decode_to_their_text(extended, text):
    assert extended.decode(extended.encode(text)) == text


def test_special_ones_and_gaps_decode_to_nothing(tokenizer, extended):
    size = tokenizer.vocab_size
    assert extended.decode([*tokenizer.encode("a"), size + 3, size + 2, size]) == "a<|end|>"
    assert extended.decode(extended.encode("[PAD] a")) == " a"
    assert size + 3 in extended.control_ids and size not in extended.control_ids


def test_a_fine_tune_may_end_a_text_by_further_ids(tokenizer, extended):
    assert tokenizer.eos_ids == {2}
    assert extended.eos_ids == {2, tokenizer.vocab_size}
