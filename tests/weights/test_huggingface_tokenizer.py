"""What `convert --to hf` writes gives our ids in transformers."""

import argparse
import inspect
import json
import shutil

import pytest
from commands import run
from random_checkpoint import Shape, random_checkpoint
from shared_data import shared

from codellama import CodeLlama, Tokenizer, prompts
from codellama.weights.huggingface_tokenizer import tokenizer_files
from codellama.weights.loading import load_tokenizer

transformers = pytest.importorskip("transformers")

CHATS = [
    [{"role": "user", "content": " hi "}],
    [
        {"role": "system", "content": " Answer in JavaScript. "},
        {"role": "user", "content": "  Reverse a string  "},
        {"role": "assistant", "content": "ok\n"},
        {"role": "user", "content": "and back\n\nplease"},
    ],
]


def written(tokenizer, directory):
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for name, content in tokenizer_files(tokenizer).items():
        (directory / name).write_bytes(content)
    return transformers.AutoTokenizer.from_pretrained(directory)


@pytest.fixture(
    scope="module",
    params=["random", "llama2", "codellama-infill", "codellama-70b-instruct-like"],
)
def both(request, tokenizer_path, tmp_path_factory):
    name = request.param
    path = tokenizer_path if name == "random" else shared(f"tokenizers/{name}.model")
    ours = Tokenizer(path)
    return ours, written(ours, tmp_path_factory.mktemp("written") / "hf")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  ",
        "\n",
        " Hello",
        "Hi  Hello",
        "    return x",
        "a\tb",
        "生活的🦙",
        "x <MID",
    ],
)
def test_texts_have_our_ids(both, text):
    ours, theirs = both
    assert theirs(text).input_ids == ours.encode(text, bos=True)
    assert theirs.decode(theirs(text).input_ids, skip_special_tokens=True) == text


def test_code_has_our_ids(both):
    ours, theirs = both
    for function in (argparse.ArgumentParser.parse_known_args, argparse.HelpFormatter):
        source = inspect.getsource(function)
        assert theirs(source).input_ids == ours.encode(source, bos=True)


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("def f(x):\n    ", "\n    return y\n"),
        (" a", " b"),
        ("", "a"),
        ("a", ""),
        ("", ""),
        (" ", "  "),
        ("é\n", "\t☺"),
    ],
)
def test_infilling_has_our_ids(both, prefix, suffix):
    ours, theirs = both
    if not ours.can_infill:
        pytest.skip("this vocabulary cannot infill")
    ids = theirs(f"{prefix}<FILL_ME>{suffix}").input_ids
    assert ids == prompts.infilling(ours, prefix, suffix)


@pytest.mark.parametrize("messages", CHATS)
def test_chats_have_our_ids(both, messages):
    ours, theirs = both
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    assert ids["input_ids"] == prompts.chat(ours, messages)


def test_added_tokens_are_kept(tokenizer_path, tmp_path):
    ours = Tokenizer(tokenizer_path, {512: "<|end|>", 513: "[PAD]"}, {513}, {512})
    theirs = written(ours, tmp_path / "hf")
    for text in ("a<|end|>", "[PAD]"):
        assert theirs(text).input_ids == ours.encode(text, bos=True)
    again = load_tokenizer(tmp_path / "hf", 520)
    assert (again.added, again.eos_ids) == (ours.added, ours.eos_ids)
    assert again.control_ids == ours.control_ids


def test_a_converted_model_is_complete_and_a_fine_tunes_own_files_are_kept(checkpoint, tmp_path):
    done = run("convert", "--src", checkpoint, "--dst", tmp_path / "hf", "--to", "hf")
    assert done.returncode == 0, done.stderr
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    out = model.generate(**theirs("def f", return_tensors="pt"), max_new_tokens=2, do_sample=False)
    assert out.shape[1] <= len(theirs("def f").input_ids) + 2
    settings = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    settings["chat_template"] = "mine"
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(settings))
    for to in ("meta", "hf"):
        options = ("--src", tmp_path / "hf", "--dst", tmp_path / to / "new", "--to", to)
        assert run("convert", *options).returncode == 0
        kept = json.loads((tmp_path / to / "new" / "tokenizer_config.json").read_text())
        assert kept == settings


@pytest.mark.parametrize("rows", [513, 520])
def test_a_fine_tune_with_more_rows_than_pieces_runs_in_both_formats(tmp_path, rows):
    random_checkpoint(Shape(str(tmp_path / "meta"), vocab_size=512))
    shutil.copy(tmp_path / "meta" / "tokenizer.model", tmp_path)
    wide = tmp_path / "wide"
    random_checkpoint(Shape(str(wide), vocab_size=rows))
    shutil.copy(tmp_path / "tokenizer.model", wide)
    (wide / "added_tokens.json").write_text(json.dumps({"[PAD]": 512}))
    assert run("convert", "--src", wide, "--dst", tmp_path / "hf", "--to", "hf").returncode == 0
    facts = [
        json.loads(run("describe", "--ckpt", directory, "--json").stdout)
        for directory in (wide, tmp_path / "hf")
    ]
    assert [one["vocabulary"] for one in facts] == [rows, rows]
    options = ("--prompt", "def", "--max_new_tokens", 8, "--temperature", 0)
    texts = [run("generate", "--ckpt", d, *options).stdout for d in (wide, tmp_path / "hf")]
    assert texts[0] == texts[1] != ""


def test_a_fine_tunes_own_end_of_text_stops_a_completion(tmp_path):
    random_checkpoint(Shape(str(tmp_path)))
    llm = CodeLlama.load(tmp_path, "cpu")
    [plain] = llm.complete(["def"], max_new_tokens=8)
    ends = {"eos_token_id": [2, plain.tokens[3]]}
    (tmp_path / "generation_config.json").write_text(json.dumps(ends))
    [stopped] = CodeLlama.load(tmp_path, "cpu").complete(["def"], max_new_tokens=8)
    assert stopped.finish_reason == "stop"
    assert stopped.tokens == plain.tokens[: plain.tokens.index(plain.tokens[3])]
