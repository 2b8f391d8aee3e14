import html
import importlib
import re
import runpy
import sys

import pytest
import torch
from commands import ROOT

from codellama import CodeLlama, load_model

EMBEDDED = ROOT / "checkpoints" / "tiny"


def outcome(monkeypatch, capsys, name: str, *arguments: object) -> tuple[int, str, str]:
    """The exit code of an example, and what it printed to stdout and stderr."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.setattr("codellama.training.run.HELD_OUT_TOKENS", 1_024)
    code = 0
    try:
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    except SystemExit as exit_:
        code = exit_.code
    return code, *capsys.readouterr()


def output_of(*call: object) -> str:
    code, out, err = outcome(*call)
    assert code == 0, err
    return out


LESSONS = {
    "1_one_token": [],
    "2_from_llama_2": [],
    "3_base_of_a_million": ["--shrink", 2],
    "4_fill_in_the_middle": ["--tasks", 8],
    "5_speed_is_memory": ["--width", 1024, "--repeats", 3],
    "6_change_a_module": ["--steps", 6, "--sequence", 64],
    "7_train_and_use": [
        *("--lora_tokens", 2048, "--data", ROOT / "codellama" / "training"),
        *("--minutes", 0.001, "--new_data", ROOT / "codellama" / "inference", "--vocab_size", 480),
    ],
}


def test_every_lesson_is_here():
    scripts = (ROOT / "examples").glob("[0-9]_*.py")
    assert sorted(path.stem for path in scripts) == sorted(LESSONS)


SLOW = {"3_base_of_a_million"}  # learns twice; tests/model/test_rotary.py has the arithmetic


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW)) for one in LESSONS][:-1]
)
def test_what_a_lesson_claims_holds(monkeypatch, capsys, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    shown = output_of(monkeypatch, capsys, name, *LESSONS[name])  # lessons assert their claims
    assert "Exercise 1" in shown


@pytest.mark.parametrize("name", ["1_one_token", "3_base_of_a_million"])
def test_a_picture_that_cannot_be_drawn_is_refused_at_once(monkeypatch, capsys, name):
    code, out, err = outcome(monkeypatch, capsys, name, "--plot", "lesson.docx")
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("shards", [1, 2])
def test_one_token_is_read_from_any_checkpoint_a_matrix_at_a_time(
    monkeypatch, capsys, tmp_path, shards
):
    output_of(monkeypatch, capsys, "random_checkpoint", tmp_path / "new", "--shards", shards)
    shown = output_of(monkeypatch, capsys, "1_one_token", "def f():", "--ckpt", tmp_path / "new")
    assert "those of codellama.model: same ✓" in shown


def test_a_picture_is_drawn(monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    output_of(monkeypatch, capsys, "1_one_token", "--plot", tmp_path / "lesson.png")
    assert (tmp_path / "lesson.png").read_bytes().startswith(b"\x89PNG")


def test_the_syllabus_names_every_lesson_and_picture():
    syllabus = (ROOT / "examples" / "README.md").read_text()
    names = [f"{name}.py" for name in LESSONS] + ["annotate.py", "lora.py", "train_tiny.py"]
    pictures = [f"pictures/{path.name}" for path in (ROOT / "examples" / "pictures").iterdir()]
    assert not [name for name in names + pictures if name not in syllabus]


@pytest.mark.parametrize("coloured", [False, True])
def test_the_annotated_page_holds_every_line(monkeypatch, capsys, tmp_path, coloured):
    if coloured:
        pytest.importorskip("pygments")
    else:
        for name in ("pygments", "pygments.formatters"):
            monkeypatch.setitem(sys.modules, name, None)
    output_of(monkeypatch, capsys, "annotate", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    shown = re.sub(r"\W", "", html.unescape(re.sub(r"<[^>]*>", "", page)))
    for chapter in ("model", "text", "weights", "inference"):
        for path in (ROOT / "codellama" / chapter).glob("*.py"):
            assert f"id='{chapter}-{path.stem}'" in page
            for line in path.read_text().splitlines():
                assert re.sub(r"\W", "", line) in shown, f"{path}: {line}"
    assert "https://arxiv.org/abs/2308.12950" in page
    linked = len(re.findall(r"(?i)\b(?:section|appendix) <a href=", page))
    assert linked == len(re.findall(r"(?i)\b(?:section|appendix) [\dA-Z<]", page)) > 5


@pytest.mark.parametrize(
    ("prose", "links"),
    [
        ("As in section 2.3.", ["html/2308.12950#S2.SS3"]),
        ("Section 4 of the paper", ["html/2308.12950#S4"]),
        ("(appendix G.2)", ["html/2308.12950#A7.SS2"]),
        (
            "(arXiv 2308.12950, sections 2.3 and 3.2, appendix E)",
            ["abs/2308.12950", *(f"html/2308.12950#{at}" for at in ("S2.SS3", "S3.SS2", "A5"))],
        ),
        (
            "(arXiv 2307.09288, appendix A.3.3), as the paper says (section 3.3)",
            ["abs/2307.09288", "html/2307.09288#A1.SS3.SSS3", "html/2308.12950#S3.SS3"],
        ),
        ("(arXiv 1412.6980, section 3)", ["abs/1412.6980", "pdf/1412.6980"]),
        ("The intersection of 2 sets, in a section of a file.", []),
    ],
)
def test_a_mention_of_a_section_links_to_that_section(prose, links):
    shown = runpy.run_path(str(ROOT / "examples" / "annotate.py"))["inline_html"](prose)
    assert re.sub(r"<[^>]*>", "", shown) == prose
    assert re.findall(r"href='https://(?:ar5iv\.labs\.)?arxiv\.org/([^']*)'", shown) == links


@pytest.mark.slow
def test_the_last_lesson_shows_samples_and_leaves_two_checkpoints(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    lesson = "7_train_and_use"
    shown = output_of(monkeypatch, capsys, lesson, *LESSONS[lesson], "--out", "out")
    assert "Exercise 1" in shown
    assert shown.count("== step") >= 2
    for path in (tmp_path / "out").rglob("params.json"):
        assert CodeLlama.load(path.parent, device="cpu").complete(["x"], max_new_tokens=2)
    assert len(list((tmp_path / "out").rglob("params.json"))) == 1


def test_low_rank_changes_are_learned_and_merged_while_loading(monkeypatch, capsys, tmp_path):
    out = tmp_path / "adapter"
    source = ROOT / "codellama" / "training"
    options = ["--data", source, "--tokens", "4096", "--learning_rate", "0.01"]
    shown = output_of(monkeypatch, capsys, "lora", out, *options)
    before, after = map(float, re.findall(r": (\d+\.\d+)", shown))
    assert after < before
    weights = load_model(EMBEDDED, "cpu", torch.float32).state_dict()
    adapted = CodeLlama.load(device="cpu", dtype=torch.float32, fast=False, lora=out)
    for name, weight in adapted.model.named_parameters():
        changed = name.split(".")[-2] in ("wq", "wv", "w2")
        assert torch.equal(weight, weights[name]) == (not changed), name
        if changed:
            singular = torch.linalg.svdvals(weight.detach() - weights[name])
            assert singular[8] < 1e-3 * singular[0]  # rank 8
    assert adapted.complete(["x"], max_new_tokens=2)


def test_a_directory_may_be_called_as_a_number_is(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    output_of(monkeypatch, capsys, "random_checkpoint", "2024")
    assert CodeLlama.load("2024", device="cpu").complete(["x"], max_new_tokens=2)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("random_checkpoint", ("new", "--dim", 65), "dim 65"),
        ("random_checkpoint", ("new", "--vocab_size", 10**6), "vocabulary of 1000000 ids"),
        ("train_tiny", ("new", "--minuets", 9), "unknown option --minuets"),
        ("train_tiny", ("taken",), "taken exists"),
        ("annotate", ("page.pdf",), "ends in .html"),
        ("lora", ("taken",), "taken"),
        ("lora", ("new", "--data", "absent"), "absent is no directory"),
        ("lora", ("new", "--layers", "wx"), "no linear layer"),
    ],
)
def test_a_mistake_gets_one_sentence_before_anything_is_done(
    monkeypatch, capsys, tmp_path, name, arguments, says
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("codellama.training.run.Run.train", None)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    code, out, err = outcome(monkeypatch, capsys, name, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert not (tmp_path / "new").exists()


def test_loops_and_broken_code_are_recognised():
    continuations = importlib.import_module("continuations")
    assert continuations.is_loop([9, *range(5)] + [1, 2, 3] * 8)
    assert not continuations.is_loop([1, 2, 3] * 7)
    assert not continuations.is_loop([*range(30)])
    assert continuations.is_valid("def f(x):\n    return x\n    y = (1,\n        2")
    assert not continuations.is_valid("def f(x):\n    return return\n    a\n    b\n    c\n    d")
    assert not continuations.is_valid("def f(x):")


def test_continuations_are_counted(monkeypatch, capsys):
    done = output_of(monkeypatch, capsys, "continuations", "--count", 2, "--show", 1)
    assert re.search(r"2 functions: [\d.]+% end in a loop, [\d.]+% are valid", done)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("lora", ["new", "--rank", -1], "--rank is -1; expected a whole number from 1"),
        ("lora", ["new", "--layers", "norm"], "no linear layer norm"),
        ("3_base_of_a_million", ["--shrink", 0], "--shrink is 0; expected a whole number from 1"),
        ("3_base_of_a_million", ["--shrink", 17], "--shrink is 17; expected 16 at most"),
        ("train_tiny", ["new", "--minutes", 0], "--minutes is 0.0; expected a number above 0"),
    ],
)
def test_what_an_example_cannot_do_is_refused(monkeypatch, capsys, tmp_path, name, options, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = outcome(monkeypatch, capsys, name, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert not list(tmp_path.iterdir())
