"""Which documents are trained on."""

import json
import os
import sys

import pytest

from codellama.errors import DataError
from codellama.training.documents import (
    find_all,
    find_documents,
    read_conversation,
    read_document,
    standard_library,
)

NAMES = [f"package{number % 7}/module{number}.py" for number in range(640)]


def fill(directory, names=NAMES):
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("documents"))


def relative(paths, directory):
    return [path.relative_to(directory).as_posix() for path in paths]


def test_the_split_is_the_same_wherever_the_directory_lies(directory, tmp_path):
    copy = fill(tmp_path / "deeper" / "copy", reversed(NAMES))
    here, there = find_documents(directory), find_documents(copy)
    assert relative(here.train, directory) == relative(there.train, copy)
    assert relative(here.held_out, directory) == relative(there.held_out, copy)


def test_a_file_stays_on_its_side_when_others_come_and_go(directory, tmp_path):
    some = fill(tmp_path, NAMES[::2])
    whole = set(relative(find_documents(directory).held_out, directory))
    assert set(relative(find_documents(some).held_out, some)) == whole.intersection(NAMES[::2])


def test_every_file_is_on_exactly_one_side(directory):
    found = find_documents(directory)
    assert sorted(relative(found.train + found.held_out, directory)) == sorted(NAMES)
    assert not set(found.train).intersection(found.held_out)


def test_about_a_sixteenth_is_held_out(directory):
    count = len(find_documents(directory).held_out)
    deviation = (len(NAMES) * 1 / 16 * 15 / 16) ** 0.5
    assert count == pytest.approx(len(NAMES) / 16, abs=4 * deviation)


def test_only_files_that_match_the_pattern_are_found(directory, tmp_path):
    fill(tmp_path)
    fill(tmp_path, [f"notes/{number}.txt" for number in range(200)])
    (tmp_path / "directory.py").mkdir()
    python, text = find_documents(tmp_path), find_documents(tmp_path, "*.txt")
    assert sorted(relative(python.train + python.held_out, tmp_path)) == sorted(NAMES)
    assert len(text.train + text.held_out) == 200


@pytest.mark.parametrize("pattern", ["/etc/*.py", "../*.py", "a/../../*.py"])
def test_a_pattern_that_leads_out_of_the_directory_is_refused(directory, pattern):
    with pytest.raises(DataError, match=r"expected one of files below the directory"):
        find_documents(directory / "package0", pattern)


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
def test_a_name_in_another_encoding_is_a_name(tmp_path):
    fill(tmp_path)
    (tmp_path / os.fsdecode(b"caf\xe9.py")).write_text("x = 1\n")
    found = find_documents(tmp_path)
    assert len(found.train + found.held_out) == len(NAMES) + 1


def test_the_split_never_changes(tmp_path):
    fill(tmp_path, [f"é{number}.py" for number in range(40)])
    assert relative(find_documents(tmp_path).held_out, tmp_path) == ["é34.py"]


def test_installed_packages_and_caches_are_left_out(tmp_path):
    fill(tmp_path)
    for foreign in ("site-packages", "lib/dist-packages", "package0/__pycache__"):
        fill(tmp_path / foreign, ["a.py", "deeper/b.py"])
    found = find_documents(tmp_path)
    assert sorted(relative(found.train + found.held_out, tmp_path)) == sorted(NAMES)


def test_a_directory_inside_installed_packages_can_be_asked_for(tmp_path):
    inside = fill(tmp_path / "site-packages" / "package")
    found = find_documents(inside)
    assert len(found.train + found.held_out) == len(NAMES)


def test_without_a_directory_it_is_the_standard_library():
    found = find_documents()
    assert standard_library() / "json" / "decoder.py" in found.train + found.held_out
    assert all(path.is_relative_to(standard_library()) for path in found.train)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(DataError, match="absent is no directory"):
        find_documents(tmp_path / "absent")


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file.py").write_text("")
    with pytest.raises(DataError, match=r"file\.py is no directory"):
        find_documents(tmp_path / "file.py")


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_files_for_both_sides_are_refused_with_their_number(tmp_path, count):
    fill(tmp_path, NAMES[:count])
    with pytest.raises(DataError, match=rf"has {count} files \*\.py"):
        find_documents(tmp_path)


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_of_few_files_one_is_held_out(tmp_path, count):
    found = find_documents(fill(tmp_path, NAMES[:count]))
    assert (len(found.train), len(found.held_out)) == (count - 1, 1)


def test_several_sources_are_split_each_by_itself(directory, tmp_path):
    other = fill(tmp_path / "other", NAMES[:40])
    found = find_all([str(directory), str(other), "stdlib"])
    parts = [find_documents(directory), find_documents(other), find_documents()]
    assert found.train == [path for part in parts for path in part.train]
    assert found.held_out == [path for part in parts for path in part.held_out]


def test_an_installed_package_is_a_source():
    import sentencepiece

    found = find_all(["package:sentencepiece"])
    assert all(path.is_relative_to(sentencepiece.__path__[0]) for path in found.train)
    assert found.held_out


@pytest.mark.parametrize("name", ["absent", "", "../x", "this", "a b", "torch.nn"])
def test_a_package_that_is_not_there_is_named(name):
    with pytest.raises(DataError, match=f"package {name} is not installed.*drop package:{name}"):
        find_all([f"package:{name}"])


@pytest.mark.parametrize("text", ["", "a\r\nb\rc\n", "é 生 🦙\x00\x0c"])
def test_a_document_is_read_as_it_is(tmp_path, text):
    path = tmp_path / "document.py"
    path.write_bytes(text.encode())
    assert read_document(path) == text


@pytest.mark.parametrize("content", [b"# caf\xe9\n", b"\xff\xfea\x00", b"\xf0\x9f\xa6"])
def test_a_file_of_another_encoding_reads_as_empty(tmp_path, content):
    path = tmp_path / "document.py"
    path.write_bytes(content)
    assert read_document(path) == ""


def test_files_of_another_encoding_are_told_once_and_left_out(tmp_path):
    fill(tmp_path, ["main.py", "model.py"])
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_bytes(b"# caf\xe9\n")
    with pytest.warns(UserWarning) as told:
        found = find_documents(tmp_path)
    assert len(found.train + found.held_out) == 2
    [warning] = told
    assert "2 files *.py in UTF-8, and 2 that are not and are left out (a.py, b.py)" in str(warning)


def test_files_of_another_encoding_alone_are_refused_with_the_reason(tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_bytes("x = 1\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"0 files \*.py in UTF-8, and 2 that are not"):
        find_documents(tmp_path)


def test_a_folder_decides_what_is_held_out(tmp_path):
    fill(tmp_path, [f"{side}/{name}" for side in ("train", "held_out") for name in NAMES[:20]])
    found = find_documents(tmp_path)
    assert relative(found.held_out, tmp_path) == sorted(f"held_out/{name}" for name in NAMES[:20])
    assert relative(found.train, tmp_path) == sorted(f"train/{name}" for name in NAMES[:20])


def test_a_folder_of_no_documents_decides_nothing(tmp_path):
    fill(tmp_path, [f"train/{name}" for name in NAMES])
    (tmp_path / "held_out").mkdir()
    found = find_documents(tmp_path)
    assert found.held_out
    assert len(found.train + found.held_out) == len(NAMES)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_conversations_are_refused(tmp_path, count):
    with pytest.raises(DataError, match=rf"chats.jsonl has {count} conversations; too few"):
        find_all([str(chats(tmp_path / "chats.jsonl", count))])


def chats(path, count=200):
    """Conversations that differ in length, in both forms, with empty lines between some."""
    lines = []
    for number in range(count):
        if number % 2:
            roles = ["system", "user", "assistant", "user"]
            record = {"messages": [{"role": role, "content": f"é{number}"} for role in roles]}
        else:
            record = {"prompt": "x" * number, "completion": f"{number}", "more": number}
        lines.append(json.dumps(record, ensure_ascii=number % 3 == 0) + "\n" * (1 + number % 2))
    path.write_text("".join(lines))
    return path


def test_conversations_come_in_two_forms_and_end_with_an_answer(tmp_path):
    found = find_all([str(chats(tmp_path / "chats.jsonl"))])
    assert (found.train, found.held_out) == ([], [])
    for line in found.train_chats + found.held_out_chats:
        roles = [message["role"] for message in read_conversation(line)]
        assert roles in (["user", "assistant"], ["system", "user", "assistant"])
    answers = [read_conversation(line)[-1]["content"] for line in found.train_chats]
    assert len({*answers}) == len(answers) == 200 - len(found.held_out_chats)


def test_about_a_sixteenth_of_the_conversations_is_held_out_whatever_is_added(tmp_path):
    few = find_all([str(chats(tmp_path / "few.jsonl"))])
    more = find_all([str(chats(tmp_path / "more.jsonl", 400))])
    sides = [[read_conversation(line) for line in one.held_out_chats] for one in (few, more)]
    assert 3 <= len(sides[0]) <= 25
    assert sides[1][: len(sides[0])] == sides[0]


@pytest.mark.parametrize(
    "line",
    [
        "3",
        "[]",
        "{}",
        "{",
        "\xff",
        '{"prompt": "x"}',
        '{"prompt": "x", "completion": 3}',
        '{"messages": []}',
        '{"messages": 3}',
        '{"messages": ["x"]}',
        '{"messages": [{"role": "user", "content": "x"}]}',
        '{"messages": [{"role": "assistant"}]}',
    ],
)
def test_a_line_that_is_no_conversation_is_named(tmp_path, line):
    path = chats(tmp_path / "chats.jsonl", 4)
    path.write_bytes(path.read_bytes() + line.encode("latin-1"))
    with pytest.raises(DataError, match=r"line 7 of .*chats.jsonl is .*; expected an object with"):
        find_all([str(path)])


@pytest.mark.parametrize("source", ["exercises", "exercises:chat"])
def test_exercises_are_for_runs_alone(source):
    with pytest.raises(DataError, match=f"{source} are written by codellama.train"):
        find_all([source])


def test_an_empty_file_is_on_neither_side(tmp_path):
    fill(tmp_path, ["main.py", "model.py"])
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").touch()  # would be held out
    found = find_documents(tmp_path)
    assert len(found.train + found.held_out) == 2


def test_what_one_source_holds_out_no_other_trains_on(tmp_path):
    names = [f"src/{name}" for name in NAMES]
    found = find_all([str(fill(tmp_path, names)), str(tmp_path / "src")])
    assert not set(found.train).intersection(found.held_out)
    assert len(set(found.train)) > len(NAMES) / 2
