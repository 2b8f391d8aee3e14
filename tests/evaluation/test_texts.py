"""Which files a measurement reads."""

import pytest

from codellama.errors import DataError
from codellama.evaluation.texts import Texts
from codellama.training.documents import find_all, find_documents


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    for number in range(60):
        (directory / f"{number}.py").write_text(f"x = {number}\n")
    (directory / "below").mkdir()
    (directory / "below" / "notes.txt").write_text("text\n")
    (directory / "empty.py").write_text("\n")
    return directory


def test_all_files_of_a_directory_are_read_but_empty_ones(directory):
    assert sorted(Texts((str(directory),)).read().values()) == sorted(
        f"x = {n}\n" for n in range(60)
    )
    assert list(Texts((str(directory),), "*.txt").read().values()) == ["text\n"]


def test_files_and_directories_can_be_named_together_and_none_is_read_twice(directory):
    notes = str(directory / "below" / "notes.txt")
    assert len(Texts((notes, str(directory), str(directory))).read()) == 61
    assert Texts((notes,)).read() == {notes: "text\n"}


def test_held_out_takes_what_training_holds_out(directory):
    held_out = [str(path) for path in find_documents(directory).held_out]
    assert [name for name in held_out if not name.endswith("empty.py")] == list(
        Texts((str(directory),), held_out=True).read()
    )


def test_a_tilde_stands_for_the_home_directory(directory, monkeypatch):
    monkeypatch.setenv("HOME", str(directory.parent))
    assert Texts((f"~/{directory.name}",)).read() == Texts((str(directory),)).read()


def test_a_limit_takes_the_first(directory):
    texts = Texts((str(directory),))
    assert list(texts.read(3)) == list(texts.read())[:3]


def test_without_data_it_is_the_held_out_part_of_the_standard_library():
    held_out = [str(path) for path in find_documents().held_out]
    assert set(Texts().read(5)) <= set(held_out)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"pattern": "*.md"}, "no text in"),
        ({"pattern": "/*.py"}, "the pattern is '/"),
    ],
)
def test_what_cannot_be_read_is_refused(directory, values, says):
    with pytest.raises(DataError, match=says):
        Texts(**{"data": (str(directory),), **values}).read()


def test_the_sources_of_training_are_sources_here(directory):
    both = Texts(("package:json", str(directory)), held_out=True).read()
    held_out = find_all(["package:json", str(directory)]).held_out
    assert list(both) == [str(path) for path in held_out if path.name != "empty.py"]
    assert len(Texts(("package:json",)).read()) > len(
        Texts(("package:json",), held_out=True).read()
    )
