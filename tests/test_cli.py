import importlib
import json
import subprocess
import sys
from dataclasses import dataclass, fields
from typing import get_type_hints

import commands
import pytest
import torch

from codellama import cli
from codellama.cli import parse
from codellama.errors import RequestError, number


@dataclass(frozen=True)
class Group:
    """What there is to choose.

    Args:
        text, count: of any length,
            and how often: many: times.
        share, flag, many: more of it.
        mask: what hides it.

    Raises:
        RequestError: it cannot be.
    """

    text: str
    count: int = number(3, least=0)
    share: float | None = 0.5
    flag: bool = False
    many: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1,)
    mask: str | None = None


def command(group: Group) -> None:
    """Stands for any command.

    For example: --text "a  b"
    """


def given(*words, command=command):
    """The fields of the one dataclass of a command."""
    [(parameter, group)] = parse(command, words).items()
    assert parameter == "group"
    return group


@pytest.fixture(autouse=True)
def _no_handlers(monkeypatch):
    """Commands that run in this process leave its signals alone."""
    monkeypatch.setattr("signal.signal", lambda *_: None)


def call(monkeypatch, capsys, command, *words, **options):
    """Exit code, output and error output of a command run inside this process."""
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(SystemExit) as exit_:
        cli.run(command, **options)
    return exit_.value.code, *capsys.readouterr()


TEXTS = [
    *("123", "[1]", "{'a': 1}", "None", "True", "1e5", "0x10", "'quoted'", "(1, 2)", "", "a=b"),
    *(" spaces ", "two\nlines", "☺", "# no", "- item", "-1", "[INST]", "items", "__class__"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_stays_exactly_as_typed(text):
    assert given("--text", text) == given(f"--text={text}") == Group(text)


@pytest.mark.parametrize("text", ["--flag", "--count=3", "-", "--", "-x", "--help", "-h", "--=a"])
def test_a_text_that_looks_like_an_option_follows_an_equals_sign(text):
    assert given(f"--text={text}") == Group(text)


def test_values_of_all_types_arrive():
    words = ("--text", "1", "--count", "7", "--share=1e-5", "--flag", "--mask", "None")
    assert given(*words) == Group("1", 7, 1e-5, True, mask="None")
    assert isinstance(given("--text=", "--share=1").share, float)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *[(text, (text,)) for text in TEXTS if text != "[1]"],
        ("[]", ("[]",)),
        ("['a', \"b\\n\"]", ("a", "b\n")),
        (json.dumps(['"', "\\", "[x]", "\n", "é", ""]), ('"', "\\", "[x]", "\n", "é", "")),
    ],
)
def test_a_tuple_is_one_text_or_a_list(word, expected):
    assert given("--text=", f"--many={word}").many == expected


def test_a_tuple_of_numbers_is_one_number_or_a_list():
    assert given("--text=", "--sizes", "5").sizes == (5,)
    assert given("--text=", "--sizes", "[5, 6]").sizes == (5, 6)


@pytest.mark.parametrize(("value", "flag"), [("True", True), ("false", False)])
def test_a_flag_may_be_given_a_value(value, flag):
    for words in ([f"--flag={value}"], ["--flag", value]):
        assert given("--text", "x", *words) == Group("x", flag=flag)


def test_hyphens_and_underscores_are_alike():
    @dataclass(frozen=True)
    class Limits:
        max_new_tokens: int

    def run(group: Limits) -> None: ...

    run.__annotations__.update(group=Limits)
    for word in ("--max-new-tokens=4", "--max_new_tokens=4"):
        assert given(word, command=run) == Limits(4)


def test_each_dataclass_gets_the_options_that_are_its_fields():
    @dataclass(frozen=True)
    class Other:
        name: str = "none"
        size: int = 1

    def several(group: Group, other: Other) -> None: ...

    several.__annotations__.update(group=Group, other=Other)
    words = ["--size", "4", "--text", "x", "--flag"]
    assert parse(several, words) == {"group": Group("x", flag=True), "other": Other(size=4)}


MISTAKES = {
    "a name that is none": (["--cuont", "3"], "unknown option --cuont"),
    "a letter": (["-t", "x"], "unknown option -t"),
    "a name that negates": (["--noflag"], "unknown option --noflag"),
    "fire's separator": (["-"], "unexpected '-'"),
    "fire's separator for a value": (["--mask", "-"], "unexpected '-'"),
    "fire's own options": (["--", "--interactive"], "unknown option --"),
    "a word too many": (["word"], "unexpected 'word'; write values as --option=VALUE"),
    "a word behind a value": (["--count=3", "word"], "unexpected 'word'"),
    "an attribute": (["--count", "3", "__class__"], "unexpected '__class__'"),
    "an attribute as an option": (["--class--"], "unknown option --class--"),
    "no value at the end": (["--mask"], "--mask needs a value"),
    "no value before an option": (["--mask", "--flag"], "--mask needs a value"),
    "no list": (["--many", "--flag"], "--many needs a value"),
    "half a number": (["--count", "3.5"], "--count is '3.5'; expected a whole number from 0"),
    "a number out of its range": (["--count", "-1"], "--count is -1; expected a whole number"),
    "a word for a number": (["--share", "half"], "--share is 'half'; expected a number"),
    "nan": (["--share", "nan"], "--share is nan; expected a number"),
    "a flag with a word": (["--flag=maybe"], "--flag is 'maybe'; expected true or false"),
    "a flag before a word": (["--flag", "maybe"], "--flag is 'maybe'; expected true or false"),
    "an option twice": (["--count", "3", "--count", "4"], "--count is given twice"),
    "a list in parts": (["--many", "a", "--many", "b"], "a list is one value"),
    "a list of other things": (["--many", "[1]"], "--many is (1,); expected a text"),
    "a text for numbers": (["--sizes", "a"], "--sizes is ('a',); expected a whole number"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_before_anything_runs(monkeypatch, capsys, mistake):
    def command(group: Group) -> None:
        pytest.fail("it ran")

    words, says = MISTAKES[mistake]
    code, out, err = call(monkeypatch, capsys, command, "--text=x", *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and says in err
    assert err.count("\n") == 1


def test_what_is_missing_is_named(monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, command, "--flag")
    assert (code, out) == (2, "")
    assert err == "error: --text is missing; --help lists the options\n"


def test_the_first_word_may_be_the_value_of_an_option(monkeypatch, capsys):
    received = []

    def collect(group: Group) -> None:
        received.append(group)

    for words in (["a", "--flag"], ["--text", "a", "--flag"]):
        assert call(monkeypatch, capsys, collect, *words, first="text") == (0, "", "")
    assert received == [Group("a", flag=True)] * 2


def raising(error: BaseException):
    def command() -> None:
        """Fail."""
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (RequestError("what, expected, do"), 2, "error: what, expected, do\n"),
        (FileNotFoundError(2, "No such file", "x.py"), 2, "error: x.py: No such file\n"),
        (OSError(28, "No space left on device"), 2, "error: output: No space left on device\n"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 2, "not enough memory"),
        (RuntimeError("MPS backend out of memory (MPS"), 2, "not enough memory; take"),
        (RuntimeError("not enough memory: you tried to allocate 9"), 2, "not enough memory; take"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"), 2, "not enough memory"),
        (KeyboardInterrupt(), 130, "\n"),
    ],
)
def test_failures_outside_the_program_have_exit_codes(monkeypatch, capsys, error, code, says):
    found, _, errors = call(monkeypatch, capsys, raising(error))
    assert found == code
    assert says in errors


def test_what_was_printed_before_a_failure_is_not_lost():
    script = "from codellama import cli; cli.run(lambda: print('so far') or open('/absent'))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "so far\n")
    assert done.stderr == "error: /absent: No such file or directory\n"


def test_a_defect_is_not_hidden(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(RuntimeError, match="a defect"):
        cli.run(raising(RuntimeError("a defect")))


def test_warnings_become_one_line(monkeypatch, capsys):
    def command() -> None:
        """Warn."""
        import warnings

        warnings.warn("be careful", stacklevel=1)

    with monkeypatch.context() as patch:
        patch.setattr("warnings.showwarning", None)
        assert call(patch, capsys, command) == (0, "", "warning: be careful\n")


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--count", "2", "--help"]])
def test_help_has_what_the_docstrings_say_of_each_option_and_its_default(
    monkeypatch, capsys, words
):
    code, out, err = call(monkeypatch, capsys, command, *words)
    assert (code, err) == (0, "")
    assert "command - Stands for any command." in out
    assert 'For example: --text "a  b"' in out
    options = out.partition("FLAGS\n")[2]
    assert options.splitlines() == [
        "    --text=TEXT (required)",
        "        of any length, and how often: many: times.",
        "    --count=COUNT (default 3)",
        "        of any length, and how often: many: times.",
        "    --share=SHARE (default 0.5)",
        "        more of it.",
        "    --flag",
        "        more of it.",
        "    --many=MANY",
        "        more of it.",
        "    --sizes=SIZES (default (1,))",
        "    --mask=MASK",
        "        what hides it.",
    ]


COMMANDS = ["generate", "describe", "convert", "benchmark", "train", "evaluate"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_once_and_shown_by_help(name):
    command = getattr(importlib.import_module(f"codellama.{name}"), name)
    several = command.items() if isinstance(command, dict) else [(None, command)]
    for word, one in several:
        shown = commands.run(name, *[word] * (word is not None), "--help").stdout.splitlines()
        hints = {key: kind for key, kind in get_type_hints(one).items() if key != "return"}
        names = [field.name for group in hints.values() for field in fields(group)]
        assert len(names) == len(set(names))
        del shown[: shown.index("FLAGS")]
        heads = [number for number, line in enumerate(shown) if line.startswith("    --")]
        assert [shown[number].split()[0].strip("-").partition("=")[0] for number in heads] == names
        assert all(shown[number + 1].startswith("        ") for number in heads)
        assert max(map(len, shown)) <= 100


def test_help_of_generate_fits_two_screens_and_begins_with_examples():
    shown = commands.run("generate", "--help").stdout.splitlines()
    assert len(shown) <= 100
    assert sum("python -m codellama.generate" in line for line in shown[:12]) == 3


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["group", "--help"]])
def test_commands_are_listed_where_there_are_several(monkeypatch, capsys, words):
    several = {"one": command, "other": command, "group": {"one": command, "other": command}}
    code, out, err = call(monkeypatch, capsys, several, *words)
    assert (code, err) == (0, "")
    assert out.count("Stands for any command.") == 2


def test_the_package_lists_its_commands():
    done = subprocess.run(
        [sys.executable, "-m", "codellama"], capture_output=True, text=True, cwd=commands.ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"     {name}\n" in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(("words", "found"), [(["oen"], "oen"), ([], "nothing")])
def test_a_command_that_is_not_there_is_named(monkeypatch, capsys, words, found):
    code, out, err = call(monkeypatch, capsys, {"one": command, "other": command}, *words)
    assert (code, out, err) == (2, "", f"error: expected one of one, other first, found {found}\n")


def test_peak_memory_is_at_least_what_was_held():
    held = torch.ones(30_000_000)
    assert cli.peak_memory_bytes(torch.device("cpu")) > held.numel() * 4


@pytest.mark.parametrize(("options", "threads"), [({}, 1), ({"threads": 2}, 2)])
def test_a_small_model_takes_one_thread_unless_told(checkpoint, monkeypatch, options, threads):
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    source = cli.CheckpointArguments(str(checkpoint), quiet=True, **options)
    source.load(cli.LoadOptions("cpu"))
    monkeypatch.setattr(cli, "SMALL_MODEL", 1)
    source.load(cli.LoadOptions("cpu"))
    assert seen == [threads] * (1 + bool(options))


def test_importing_the_package_imports_no_fire_and_handles_no_signal():
    script = (
        "import signal, sys\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "import codellama\n"
        "assert signal.getsignal(signal.SIGINT) is before\n"
        "assert not {'fire', 'codellama.cli', 'matplotlib', 'transformers'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
