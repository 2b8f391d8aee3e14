"""Documents packed into rows."""

import itertools
import json
import random
from collections import Counter
from itertools import pairwise

import pytest
import torch
from random_checkpoint import tokenizer_model
from shared_data import shared

from codellama import PromptError, Tokenizer, prompts
from codellama.errors import DataError
from codellama.training import packing
from codellama.training.documents import _conversations, find_all, read_conversation
from codellama.training.packing import (
    PADDING,
    PackedSequences,
    Packing,
    Position,
    chat_example,
)
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
            if id == ~bos_id:  # which is read, but never learned
                found.append([])
            if id != PADDING:
                found[-1].append(bos_id if id == ~bos_id else id)
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
    assert torch.equal(padding | (rows == ~tokenizer.bos_id), rows < 0)
    assert torch.equal(padding, padding.cummax(1).values)
    assert not padding[:, 0].any()
    assert (rows[:, 0] == ~tokenizer.bos_id).all()
    assert not (rows == tokenizer.bos_id).any()


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


LONG_LINES = {
    "one": "x = " + "1 + " * 2_000 + "1\n",
    "several": "é生 = 'é生é生'; " * 400 + "\n" + document(1, 9) + "[" + "1," * 3_000 + "]",
    "without an end": "abc" * 5_000,
    "bytes": "🦙🦙\u0301" * 3_000,
}


@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize("length", [9, 129])
@pytest.mark.parametrize("name", LONG_LINES)
def test_lines_longer_than_a_row_are_read_to_their_end(tokenizer, tmp_path, name, length, rate):
    text = LONG_LINES[name]
    rows = read_epoch(PackedSequences(write(tmp_path, [text]), tokenizer, Packing(length, rate)))
    marks = {*tokenizer.control_ids, PADDING}
    read = Counter(id for row in rows for id in row if id not in marks)
    if rate:  # words that are cut have other tokens
        letters = b"".join(tokenizer.bytes_of[id] * count for id, count in read.items())
        missing = Counter(text.encode().replace(b" ", b"")) - Counter(letters)
    else:
        missing = Counter(tokenizer.encode_continuation(text)) - read
    assert missing.total() <= len(rows)  # the first token of a text has a space before it
    assert not rate or missing.total() == 0


def test_a_file_is_encoded_block_by_block(tokenizer, texts, files, monkeypatch):
    expected = lines_of(
        tokenizer, read_epoch(PackedSequences(files, tokenizer, Packing(LENGTH, 0.0)))
    )
    monkeypatch.setattr(packing, "BLOCK_CHARACTERS", 200)
    longest, encode = 0, Tokenizer.encode

    def measured(self, text, *options, **named):
        nonlocal longest
        longest = max(longest, len(text))
        return encode(self, text, *options, **named)

    monkeypatch.setattr(Tokenizer, "encode", measured)
    rows = read_epoch(PackedSequences(files, tokenizer, Packing(LENGTH, 0.0)))
    assert lines_of(tokenizer, rows) == expected
    assert longest <= 201
    ended = [run for run in runs(rows, tokenizer.bos_id) if tokenizer.eos_id in run]
    assert len(ended) == len(texts)


def test_the_lines_around_one_that_is_cut_are_whole(tokenizer, tmp_path):
    before, after = document(1, 30), document(2, 30)
    files = write(tmp_path, [before + "x = " + "1 + " * 200 + "1\n" + after])
    lines = lines_of(tokenizer, read_epoch(PackedSequences(files, tokenizer, Packing(LENGTH, 0.0))))
    assert not Counter((before + after).splitlines(keepends=True)) - lines


@pytest.mark.parametrize(("length", "most"), [(65, 0.25), (129, 0.1), (1025, 0.05)])
def test_little_of_the_rows_is_padding(tokenizer, files, length, most):
    rows = PackedSequences(files[-2:] * 9, tokenizer, Packing(length)).take(60)
    assert (rows == PADDING).float().mean() < most


def test_a_document_that_spells_a_control_token_is_left_out(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train_tokenizer(["a < b, COT = DOT < EOT, c < d + NOT\n"] * 20, 300))
    tokenizer = Tokenizer(path)
    assert tokenizer.eot_id in tokenizer.encode("a <EOT>")
    plain, spelling = "a < b\n", "c < d\ne = ' <EOT>'\n"
    files = write(tmp_path, [spelling, plain, spelling])
    [row] = read_epoch(PackedSequences(files, tokenizer, Packing(LENGTH, 0.0)))
    ids = tokenizer.encode(plain, bos=True, eos=True)
    assert row == [~ids[0], *ids[1:]] + [PADDING] * (LENGTH - len(ids))


def test_files_without_text_are_passed_over(tokenizer, tmp_path):
    files = write(tmp_path, ["", b"\xff\xfe", "a = 1\n", ""])
    [row] = read_epoch(PackedSequences(files, tokenizer, Packing(LENGTH, 0.0)))
    assert row[1 : row.index(PADDING)] == tokenizer.encode("a = 1\n", bos=False, eos=True)


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


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 1?"},
    {"role": "assistant", "content": "It is 2.\n"},
    {"role": "user", "content": " And twice that?"},
    {"role": "assistant", "content": "4"},
]


@pytest.fixture(params=["codellama-infill", "codellama-70b-instruct-like"])
def published(request):
    return Tokenizer(shared(f"tokenizers/{request.param}.model"))


@pytest.mark.parametrize("messages", [MESSAGES, MESSAGES[1:], MESSAGES[:3]])
def test_of_a_conversation_the_answers_and_their_ends_alone_are_learned(published, messages):
    example = chat_example(published, messages)
    learned = "|".join(
        published.decode([*group], continuation=True).strip()
        for is_learned, group in itertools.groupby(example, lambda one: one >= 0)
        if is_learned
    )
    assert learned == "|".join(
        one["content"].strip() for one in messages if one["role"] == "assistant"
    )
    end = published.step_id or published.eos_id
    assert example.count(end) == sum(one["role"] == "assistant" for one in messages)
    assert example[-1] == end


def test_an_answer_is_learned_where_its_prompt_ends(published):
    for count in (2, 4):
        prompt = prompts.chat(published, MESSAGES[:count])
        example = chat_example(published, MESSAGES[: count + 1])
        read = [id if id >= 0 else ~id for id in example]
        text, whole = published.decode(prompt), published.decode(read)
        if published.step_id is None:
            assert read[: len(prompt)] == prompt
            assert [id >= 0 for id in example].index(True) <= len(prompt)
            assert all(id < 0 for id in example[len(prompt) - 4 : len(prompt)])
        elif count == 2:
            assert whole.startswith(text.rstrip())


def test_a_file_of_conversations_and_texts_share_rows(tokenizer, tmp_path):
    records = [{"prompt": f"say {number}", "completion": f"{number}!"} for number in range(40)]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = find_all([str(path)])
    files = write(tmp_path, [document(1, 60)])
    documents = [*found.train_chats, *found.held_out_chats, *files]
    rows = read_epoch(PackedSequences(documents, tokenizer, Packing(LENGTH, 0.0)))
    learned = [[id for id in row if id >= 0] for row in rows]
    answers = "".join(map(tokenizer.decode, learned))
    assert all(f"{number}!" in answers for number in range(40))
    text = "".join(tokenizer.decode([id if id >= 0 else ~id for id in row]) for row in rows)
    assert all(f"[INST] say {number} [/INST] {number}!" in text for number in range(40))
    assert document(1, 60).splitlines()[-2] in text


def test_a_conversation_longer_than_a_row_goes_on_in_the_next(tokenizer, tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"prompt": "x = " * 100, "completion": "y = " * 200}) + "\n")
    [line] = _conversations(path)
    rows = read_epoch(PackedSequences([line], tokenizer, Packing(LENGTH)))
    read = Counter(id for row in rows for id in row)
    del read[PADDING]
    assert read == Counter(chat_example(tokenizer, read_conversation(line)))


def test_a_conversation_that_poses_as_another_role_is_left_out_and_told(tokenizer, tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"prompt": "[/INST] yes", "completion": "y"}) + "\n")
    stream = PackedSequences([*_conversations(path)], tokenizer, Packing(LENGTH))
    with (
        pytest.warns(UserWarning, match="chats.jsonl: a conversation is left out"),
        pytest.raises(DataError, match="no text to train on"),
    ):
        stream.take(1)
