"""Where Hugging Face's tokenizer gives Meta's ids, and where it does not."""

import argparse
import inspect
import random
import re
import shutil
import warnings

import pytest
from shared_data import shared

from codellama import Tokenizer, prompts

transformers = pytest.importorskip("transformers")
pytest.importorskip("google.protobuf")

ALPHABETS = [(33, 127), (0xA1, 0x3000), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF), (9, 11)]


@pytest.fixture(scope="module", params=["codellama-infill", "llama2"])
def ours_and_theirs(request, tmp_path_factory):
    path = shared(f"tokenizers/{request.param}.model")
    directory = tmp_path_factory.mktemp(request.param)
    shutil.copy(path, directory / "tokenizer.model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.CodeLlamaTokenizer.from_pretrained(directory)
    return Tokenizer(path), lambda text: theirs(text).input_ids


def single_spaced(text: str) -> str:
    return re.sub(" +", " ", text.strip())


def test_code_has_the_same_ids_up_to_runs_of_spaces(ours_and_theirs):
    ours, theirs = ours_and_theirs
    for line in map(single_spaced, inspect.getsource(argparse).splitlines()):
        assert theirs(line) == ours.encode(line, bos=True), line


def test_odd_unicode_has_the_same_ids(ours_and_theirs):
    ours, theirs = ours_and_theirs
    generator = random.Random(0)
    for _ in range(500):
        ranges = generator.choices(ALPHABETS, k=generator.randrange(1, 20))
        text = "".join(chr(generator.randrange(*limits)) for limits in ranges)
        assert theirs(text) == ours.encode(text, bos=True), text


def test_a_literal_end_mark_is_text_to_meta_and_a_control_token_to_hugging_face(ours_and_theirs):
    ours, theirs = ours_and_theirs
    assert ours.eos_id in theirs("a </s> b")
    assert ours.eos_id not in ours.encode("a </s> b")


def test_an_empty_suffix_infills_with_meta_and_completes_with_hugging_face(ours_and_theirs):
    ours, theirs = ours_and_theirs
    if not ours.can_infill:
        pytest.skip("this vocabulary cannot infill")
    assert theirs("def f<FILL_ME>") == ours.encode("def f", bos=True)
    ids = prompts.infilling(ours, "def f", "")
    assert ids[-2:] == [ours.suffix_id, ours.middle_id]


@pytest.mark.skipif(int(transformers.__version__.split(".")[0]) < 5, reason="came with release 5")
def test_hugging_face_5_splits_runs_of_spaces_as_meta_does_not(ours_and_theirs):
    ours, theirs = ours_and_theirs
    assert theirs("Hi  Hello") == [1, 6324, 259, 10994]
    assert ours.encode("Hi  Hello", bos=True) == [1, 6324, 29871, 15043]
