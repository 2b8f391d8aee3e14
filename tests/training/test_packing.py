"""Documents packed into rows."""

import random
from collections import Counter
from itertools import pairwise

import pytest
import torch
from random_checkpoint import tokenizer_model

from codellama import PromptError, Tokenizer
from codellama.errors import DataError
from codellama.training import packing
from codellama.training.packing import PADDING, PackedSequences, Packing, Position
from codellama.training.tokenizer import train_tokenizer

LENGTH = 129
WORDS = ["x", "total", "self.rows", "len(text)", "None", "1024", "'ab'", "é", "生", "[0]"]


def document(number: int, lines: int) -> str:
    """Some code of a few tokens a line, with blank lines in it; other code for each number."""
    random_numbers = random.Random(number)
    written = []
    for line in range(lines):
        left, right, other = random_numbers.choices(WORDS, k=3)
        indent = " " * random_numbers.choice([0, 4, 8])
        written.append(f"{indent}{left}_{number} = {right} + {other}\n" if line % 5 else "\n")
    return "".join(written)


def write(directory, documents):
    paths = []
    for number, text in enumerate(documents):
        paths.append(directory / f"{number}.py")
        paths[-1].write_bytes(text if isinstance(text, bytes) else text.encode())
    return paths


@pytest.fixture(scope="module")
def texts():
    """Forty documents of a few lines, and two that fill many rows."""
    return [document(number, 3 + number % 9) for number in range(40)] + [
        document(number, 150) for number in range(40, 42)
    ]


@pytest.fixture(scope="module")
def files(texts, tmp_path_factory):
    return write(tmp_path_factory.mktemp("documents"), texts)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(packing, "PART_BYTES", 2_000)


def read_epoch(stream: PackedSequences) -> list[list[int]]:
    """The rows of the stream's round, from where it is to the round's end."""
    rows, epoch = [], stream.position.epoch
    row = stream.take(1)[0].tolist()
    while stream.position.epoch == epoch:
        rows.append(row)
        row = stream.take(1)[0].tolist()
    return rows


def runs(rows: list[list[int]], bos_id: int) -> list[list[int]]:
    """The rows' tokens, cut before every BOS."""
    found = []
    for row in rows:
        for id in row:
            if id == bos_id:
                found.append([])
            if id != PADDING:
                found[-1].append(id)
    return found


def lines_of(tokenizer: Tokenizer, rows: list[list[int]]) -> Counter[str]:
    """How often each line is in rows that are not cut for infilling."""
    decoded = map(tokenizer.decode, runs(rows, tokenizer.bos_id))
    return Counter(line for text in decoded for line in text.splitlines(keepends=True))


@pytest.mark.parametrize("length", [65, 129, 1025])
@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_rows_are_of_one_length_and_padded_at_their_end_alone(tokenizer, files, length, rate):
    rows = PackedSequences(files, tokenizer, Packing(length, rate)).take(30)
    assert rows.shape == (30, length)
    assert not rows.is_floating_point()
    assert rows.max() < tokenizer.vocab_size
    padding = rows == PADDING
    assert torch.equal(padding, rows < 0)
    assert torch.equal(padding, padding.cummax(1).values)
    assert not padding[:, 0].any()
    assert (rows[:, 0] == tokenizer.bos_id).all()


def test_rows_follow_from_the_seed(tokenizer, files):
    def rows(seed):
        return PackedSequences(files, tokenizer, Packing(LENGTH, seed=seed)).take(50)

    assert torch.equal(rows(0), rows(0))
    assert not torch.equal(rows(0), rows(1))


def test_rows_do_not_follow_the_order_of_the_lines(tokenizer, tmp_path):
    files = write(tmp_path, ["".join(f"x = {number}\n" for number in range(1_000, 2_000))])
    rows = read_epoch(PackedSequences(files, tokenizer, Packing(LENGTH, 0.0)))
    firsts = [min(lines_of(tokenizer, [row])) for row in rows]
    assert len(rows) > 20
    assert sum(before > after for before, after in pairwise(firsts)) > len(rows) / 4


def test_a_row_is_filled_where_too_little_would_be_left_for_another_run(tokenizer, tmp_path):
    line = "    x = 1\n"
    files = write(tmp_path, [line * 2_000])
    rows = PackedSequences(files, tokenizer, Packing(LENGTH, 0.0, shortest_run=48)).take(40)
    most = packing._MARKS + len(tokenizer.encode(line))
    assert (rows == PADDING).sum(1).max() <= most


def test_how_many_rows_are_taken_at_once_makes_no_difference(tokenizer, files):
    together, apart = (PackedSequences(files, tokenizer, Packing(LENGTH)) for _ in range(2))
    counts = [1, 2, 30, 7]
    rows = together.take(sum(counts))
    assert torch.equal(rows, torch.cat([apart.take(count) for count in counts]))


@pytest.mark.usefixtures("small_parts")
def test_a_stream_goes_on_from_any_position_as_if_unbroken(tokenizer, files):
    stream = PackedSequences(files, tokenizer, Packing(LENGTH))
    rows, positions = [], []
    while stream.position.epoch < 2:
        positions.append(stream.position)
        rows.append(stream.take(1)[0])
    assert max(position.part for position in positions) > 2
    assert {position.epoch for position in positions} == {0, 1}
    for start in range(0, len(rows) - 4, 3):
        resumed = PackedSequences(files, tokenizer, Packing(LENGTH))
        resumed.position = positions[start]
        assert torch.equal(resumed.take(4), torch.stack(rows[start : start + 4])), start


@pytest.mark.usefixtures("small_parts")
def test_a_stream_can_be_set_back(tokenizer, files):
    stream = PackedSequences(files, tokenizer, Packing(LENGTH))
    first = stream.take(40)
    stream.position = Position()
    assert torch.equal(stream.take(40), first)


@pytest.mark.parametrize("part_bytes", [packing.PART_BYTES, 2_000, 1])
@pytest.mark.parametrize("length", [129, 1025])
def test_every_round_has_every_line_once(tokenizer, texts, files, monkeypatch, part_bytes, length):
    monkeypatch.setattr(packing, "PART_BYTES", part_bytes)
    expected = Counter(line for text in texts for line in text.splitlines(keepends=True))
    stream = PackedSequences(files, tokenizer, Packing(length, 0.0))
    rounds = []
    for epoch in range(2):
        stream.position = Position(epoch)
        rounds.append(read_epoch(stream))
        assert lines_of(tokenizer, rounds[-1]) == expected
    assert rounds[0] != rounds[1]


def test_the_end_of_every_document_is_marked_and_no_other_place(tokenizer, texts, files):
    rows = read_epoch(PackedSequences(files, tokenizer, Packing(LENGTH, 0.0)))
    ended = [run for run in runs(rows, tokenizer.bos_id) if tokenizer.eos_id in run]
    assert all(run.index(tokenizer.eos_id) == len(run) - 1 for run in ended)
    last_lines = [tokenizer.decode(run).splitlines()[-1] for run in ended]
    assert sorted(last_lines) == sorted(text.splitlines()[-1] for text in texts)


def test_nine_of_ten_runs_are_cut_for_infilling(tokenizer, files):
    stream = PackedSequences(files, tokenizer, Packing(LENGTH))
    starts = [run[1] for run in runs(stream.take(600).tolist(), tokenizer.bos_id)]
    share = starts.count(tokenizer.prefix_id) / len(starts)
    assert len(starts) > 1_000
    assert share == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("shortest", [8, 48, 200])
def test_runs_are_as_long_as_asked(tokenizer, files, shortest):
    files = files[-2:]  # of many lines, none of more than 32 tokens
    stream = PackedSequences(files, tokenizer, Packing(1025, 0.0, shortest))
    sizes = [len(run) for run in runs(stream.take(20).tolist(), tokenizer.bos_id)]
    within = [shortest - 32 <= size for size in sizes]
    assert len(sizes) > 40
    assert sum(within) > 0.8 * len(sizes)  # others end with their row or their file
    assert max(sizes) > 500


@pytest.mark.parametrize("length", [65, 129, 1025])
def test_every_gap_is_whole_in_its_row(tokenizer, files, length):
    marks = [tokenizer.prefix_id, tokenizer.suffix_id, tokenizer.middle_id, tokenizer.eot_id]
    cut = 0
    for row in PackedSequences(files, tokenizer, Packing(length)).take(200).tolist():
        assert row.count(tokenizer.prefix_id) == row.count(tokenizer.eot_id)
        for run in runs([row], tokenizer.bos_id):
            if tokenizer.prefix_id in run:
                assert [run.count(mark) for mark in marks] == [1, 1, 1, 1]
                assert run.index(tokenizer.eot_id) == len(run) - 1
                cut += 1
            else:
                assert not set(marks).intersection(run)
    assert cut


def test_a_line_that_is_cut_spells_no_control_token_either(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_tokenizer(["a < b, COT = DOT < EOT, c < d + NOT\n"] * 20, 300))
    tokenizer = Tokenizer(path)
    files = write(tmp_path, [" <EOT>, c < d + NOT\n" * 200 + "a < b, c < d + NOT\n" * 20])
    rows = read_epoch(PackedSequences(files, tokenizer, Packing(17, 1.0)))
    cut = [run for run in runs(rows, tokenizer.bos_id) if tokenizer.prefix_id not in run]
    assert cut
    assert not any(tokenizer.eot_id in run for run in cut)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_line_longer_than_a_row_is_cut_and_nothing_else_is_done_to_it(tokenizer, tmp_path, rate):
    line = "x = " + "1 + " * 200 + "1\n"
    files = write(tmp_path, [line])
    [row] = read_epoch(PackedSequences(files, tokenizer, Packing(LENGTH, rate)))
    assert row == tokenizer.encode(line, bos=True)[:LENGTH]


def test_the_lines_around_one_that_is_cut_are_whole(tokenizer, tmp_path):
    before, after = document(1, 30), document(2, 30)
    files = write(tmp_path, [before + "x = " + "1 + " * 200 + "1\n" + after])
    lines = lines_of(tokenizer, read_epoch(PackedSequences(files, tokenizer, Packing(LENGTH, 0.0))))
    assert not Counter((before + after).splitlines(keepends=True)) - lines


def test_a_document_that_spells_a_control_token_is_left_out(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_tokenizer(["a < b, COT = DOT < EOT, c < d + NOT\n"] * 20, 300))
    tokenizer = Tokenizer(path)
    assert tokenizer.eot_id in tokenizer.encode("a <EOT>")
    plain, spelling = "a < b\n", "c < d\ne = ' <EOT>'\n"
    files = write(tmp_path, [spelling, plain, spelling])
    [row] = read_epoch(PackedSequences(files, tokenizer, Packing(LENGTH, 0.0)))
    ids = tokenizer.encode(plain, bos=True, eos=True)
    assert row == ids + [PADDING] * (LENGTH - len(ids))


def test_files_without_text_are_passed_over(tokenizer, tmp_path):
    files = write(tmp_path, ["", b"\xff\xfe", "a = 1\n", ""])
    [row] = read_epoch(PackedSequences(files, tokenizer, Packing(LENGTH, 0.0)))
    assert row[: row.index(PADDING)] == tokenizer.encode("a = 1\n", bos=True, eos=True)


@pytest.mark.parametrize("documents", [[""], ["", b"# caf\xe9\n", b"\xff\xfe"]])
def test_files_without_any_text_are_refused(tokenizer, tmp_path, documents):
    stream = PackedSequences(write(tmp_path, documents), tokenizer, Packing(LENGTH))
    with pytest.raises(DataError, match="no text to train on"):
        stream.take(1)


def test_half_of_the_documents_have_the_suffix_first(tokenizer, files):
    rows = PackedSequences(files, tokenizer, Packing(LENGTH, 1.0)).take(300)
    cut = [run for run in runs(rows.tolist(), tokenizer.bos_id) if tokenizer.middle_id in run]
    share = sum(run[2] == tokenizer.suffix_id for run in cut) / len(cut)
    assert 0.4 < share < 0.75  # or the prefix is empty


def test_of_a_long_line_no_more_is_encoded_than_fits_in_a_row(tokenizer, tmp_path, monkeypatch):
    files = write(tmp_path, ["x = [" + "1, " * 100_000 + "]\n"])
    longest, encode = 0, Tokenizer.encode

    def measured(self, text, *options, **named):
        nonlocal longest
        longest = max(longest, len(text))
        return encode(self, text, *options, **named)

    monkeypatch.setattr(Tokenizer, "encode", measured)
    [row] = read_epoch(PackedSequences(files, tokenizer, Packing(LENGTH)))
    assert PADDING not in row
    assert 0 < longest <= 16 * LENGTH


def test_a_vocabulary_without_infilling_tokens_is_refused_unless_the_rate_is_0(
    tmp_path, files, monkeypatch
):
    monkeypatch.setattr("codellama.training.tokenizer.EXTRA_PIECES", ())
    path = tmp_path / "tokenizer.model"
    path.write_bytes(tokenizer_model(400))
    tokenizer = Tokenizer(path)
    with pytest.raises(PromptError, match="infilling 0"):
        PackedSequences(files, tokenizer, Packing(LENGTH))
    assert PackedSequences(files, tokenizer, Packing(LENGTH, 0.0)).take(2).shape == (2, LENGTH)
