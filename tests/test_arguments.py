import json
from dataclasses import dataclass

import pytest

from codellama.arguments import help_text, parse
from codellama.errors import RequestError


@dataclass(frozen=True)
class Group:
    """What there is to choose.

    Args:
        text, count: of any length,
            and how often.
        share, flag, many: more of it.
        mask: what hides it.

    Raises:
        RequestError: it cannot be.
    """

    text: str
    count: int = 3
    share: float | None = 0.5
    flag: bool = False
    many: tuple[str, ...] = ()
    mask: str | None = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise RequestError(f"count is {self.count}")


def command(group: Group) -> None:
    """Stands for any command."""


def given(arguments, command=command):
    """The fields of the one dataclass of a command."""
    [(parameter, group)] = parse(arguments, command).items()
    assert parameter == "group"
    return group


def test_a_value_may_look_like_an_option():
    assert given(["--text", "--flag"]) == Group("--flag")
    assert given(["--text=--flag=x"]) == Group("--flag=x")


def test_values_are_converted_to_the_annotated_types():
    arguments = ["--text", "1", "--count", "7", "--share=1", "--flag", "--mask", "None"]
    assert given(arguments) == Group(text="1", count=7, share=1.0, flag=True, mask="None")
    assert isinstance(given(arguments).share, float)


def test_each_dataclass_gets_the_options_that_are_its_fields():
    @dataclass(frozen=True)
    class Other:
        name: str = "none"
        size: int = 1

    def several(group: Group, other: Other) -> None: ...

    several.__annotations__.update(group=Group, other=Other)
    arguments = ["--size", "4", "--text", "x", "--flag"]
    assert parse(arguments, several) == {"group": Group("x", flag=True), "other": Other(size=4)}


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--count", "1", "--help"]])
def test_who_asks_for_help_gets_no_values(words):
    assert parse(words, command) is None


def test_help_that_is_a_value_is_a_value():
    assert given(["--text", "--help"]) == Group("--help")


def test_help_has_the_paragraph_of_each_option_its_default_and_nothing_of_other_sections():
    options = help_text(command).split("\n\n")
    assert options[0] == "Stands for any command."
    assert "  --text TEXT\n      of any length, and how often." in options
    assert "  --count N\n      of any length, and how often. (3)" in options
    assert "  --mask TEXT\n      what hides it." in options
    assert "RequestError" not in help_text(command)


def test_repetitions_are_collected_in_order():
    awkward = ['"', "\\", json.dumps(["x"]), "\n", ""]
    arguments = [part for text in awkward for part in ("--many", text)]
    assert given(["--text", "", *arguments]).many == tuple(awkward)


@pytest.mark.parametrize("arguments", [["--flag={}"], ["--flag", "{}"], ["-f={}"], ["-f", "{}"]])
@pytest.mark.parametrize(("value", "flag"), [("True", True), ("false", False)])
def test_a_flag_may_be_given_a_value(arguments, value, flag):
    words = [part.format(value) for part in arguments]
    assert given(["--text", "x", *words]) == Group("x", flag=flag)


def test_a_flag_takes_no_other_value():
    assert given(["--flag", "--text", "true"]) == Group("true", flag=True)


def test_a_letter_stands_for_the_one_option_that_begins_with_it():
    assert given(["-t", "x", "-c=4"]) == Group("x", count=4)
    with pytest.raises(RequestError, match="unknown option -m"):
        parse(["-m", "x"], command)


def test_hyphens_and_underscores_are_alike():
    @dataclass(frozen=True)
    class Limits:
        max_new_tokens: int

    def run(group: Limits) -> None: ...

    run.__annotations__.update(group=Limits)
    assert given(["--max-new-tokens", "4"], run) == given(["--max_new_tokens=4"], run) == Limits(4)


def test_what_a_dataclass_refuses_is_refused():
    with pytest.raises(RequestError, match="count is -1"):
        given(["--text", "x", "--count", "-1"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cuont", "3"], "did you mean --count?"),
        (["--zzzzz"], "unknown option --zzzzz"),
        (["-x"], "unknown option -x"),
        (["--"], "unknown option --"),
        (["word"], "every value follows an option"),
        (["--count"], "--count needs a value"),
        (["--count", "3.5"], "--count is '3.5'; expected a whole number"),
        (["--share", "half"], "--share is 'half'; expected a number"),
        (["--share", "nan"], "--share is 'nan'; expected a number"),
        (["--flag=maybe"], "--flag is 'maybe'; expected True or False"),
        (["--count", "3", "--count", "3"], "--count is given twice"),
        (["--flag", "--flag"], "--flag is given twice"),
        (["--text=a", "-t", "b"], "--text is given twice"),
        ([], "--text is missing"),
    ],
)
def test_a_mistake_is_named(arguments, says):
    with pytest.raises(RequestError) as error:
        parse(arguments, command)
    assert says in str(error.value)
