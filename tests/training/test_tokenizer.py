"""Vocabularies made as Llama's was."""

from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

import codellama
from codellama import Tokenizer, TokenizerError
from codellama.training.tokenizer import train_tokenizer

SPACE = "▁"
INFILLING = ["<PRE>", "<SUF>", "<MID>", "<EOT>"]


def source() -> list[str]:
    """Code, some of it deeply indented, with every digit in it."""
    package = Path(codellama.__file__).parent
    nested = "".join(f"{' ' * 4 * (depth % 6)}if x[{depth}]:\n" for depth in range(500))
    return [path.read_text("utf-8") for path in sorted(package.glob("text/*.py"))] + [nested]


@pytest.fixture(scope="module", params=[400, 600])
def vocab_size(request):
    return request.param


@pytest.fixture(scope="module")
def path(vocab_size, tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    path.write_bytes(train_tokenizer(source(), vocab_size))
    return path


@pytest.fixture(scope="module")
def learned(path):
    return Tokenizer(path)


def test_it_has_as_many_ids_as_asked_for(learned, vocab_size):
    assert learned.vocab_size == vocab_size


def test_it_begins_as_llamas_does(path):
    processor = SentencePieceProcessor(model_file=str(path))
    assert [processor.id_to_piece(id) for id in range(3)] == ["<unk>", "<s>", "</s>"]
    assert (processor.unk_id(), processor.bos_id(), processor.eos_id()) == (0, 1, 2)
    assert [processor.id_to_piece(id) for id in range(3, 259)] == [
        f"<0x{byte:02X}>" for byte in range(256)
    ]


def test_it_ends_with_code_llamas_sixteen_pieces(learned, vocab_size):
    partial = ["<SU", "<SUF", "<PRE", "<M", "<MID", "<E", "<EOT"]
    repeated = ["<EOT>" * count for count in range(2, 7)]
    pieces = [learned.piece(id) for id in range(vocab_size - 16, vocab_size)]
    assert pieces == [SPACE + piece for piece in partial + INFILLING + repeated]
    ids = [learned.prefix_id, learned.suffix_id, learned.middle_id, learned.eot_id]
    assert ids == [vocab_size - 9, vocab_size - 8, vocab_size - 7, vocab_size - 6]
    assert learned.can_infill


def test_numbers_are_split_into_digits(learned):
    pieces = [learned.piece(id) for id in learned.encode("x = 2024")]
    assert pieces[-4:] == ["2", "0", "2", "4"]
    longer = [learned.piece(id) for id in range(259, learned.vocab_size)]
    longer = [piece for piece in longer if len(piece) > 1]
    assert longer
    assert not any(character.isdigit() for piece in longer for character in piece)


def test_runs_of_spaces_are_pieces_of_their_own(learned):
    pieces = {learned.piece(id) for id in range(learned.vocab_size)}
    assert {SPACE * 2, SPACE * 4, SPACE * 8} <= pieces
    assert len(learned.encode(" " * 12)) <= 4


@pytest.mark.parametrize(
    "text",
    ["ﬁ ﬀ Å ½ ①", "two  spaces   three", " leading", "trailing  ", "\ttab\r\n\n", "e\u0301 é", ""],
)
def test_no_text_is_normalised(learned, text):
    assert learned.decode(learned.encode(text)) == text
    assert learned.decode(learned.encode_continuation(text), continuation=True) == text


def test_a_character_that_was_never_seen_becomes_its_bytes(learned):
    ids = learned.encode("a🦙")
    assert [learned.piece(id) for id in ids[-4:]] == ["<0xF0>", "<0x9F>", "<0xA6>", "<0x99>"]
    assert learned.decode(ids) == "a🦙"


def test_the_same_texts_give_the_same_vocabulary():
    assert train_tokenizer(source(), 400) == train_tokenizer(iter(source()), 400)


LITTLE = ["def f(x):\n    return x\n"]


@pytest.mark.parametrize(
    ("texts", "vocab_size"),
    [
        *((LITTLE, vocab_size) for vocab_size in (-1, 0, 16, 17, 20, 286, 5_000)),
        *((texts, 400) for texts in (["\0"], [], [""])),
    ],
)
def test_a_number_of_ids_that_texts_do_not_yield_is_refused(texts, vocab_size):
    with pytest.raises(TokenizerError, match=f"vocabulary of {vocab_size} ids.*about 400 or more"):
        train_tokenizer(texts, vocab_size)


def test_fewer_ids_are_enough_where_texts_yield_no_more(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_tokenizer(LITTLE, 5_000, at_most=True))
    assert Tokenizer(path).vocab_size == 312
    assert Tokenizer(path).can_infill


def test_lines_of_any_length_are_no_matter(tmp_path):
    texts = [*source(), "x = [" + "1, " * 10_000 + "]"]
    assert train_tokenizer(texts, 400) == train_tokenizer(source(), 400)
