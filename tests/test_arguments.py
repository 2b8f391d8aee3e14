import json

import pytest

from codellama.arguments import UsageError, parse


def command(
    *,
    text: str,
    count: int = 3,
    share: float | None = 0.5,
    flag: bool = False,
    many: tuple[str, ...] = (),
    mask: str | None = None,
) -> None:
    """Stands for any command."""


def test_a_value_may_look_like_an_option():
    assert parse(["--text", "--flag"], command) == {"text": "--flag"}
    assert parse(["--text=--flag=x"], command) == {"text": "--flag=x"}


def test_values_are_converted_to_the_annotated_types():
    arguments = ["--text", "1", "--count", "7", "--share=1", "--flag", "--mask", "None"]
    values = {"text": "1", "count": 7, "share": 1.0, "flag": True, "mask": "None"}
    assert parse(arguments, command) == values
    assert isinstance(parse(arguments, command)["share"], float)


def test_repetitions_are_collected_in_order():
    awkward = ['"', "\\", json.dumps(["x"]), "\n", ""]
    arguments = [part for text in awkward for part in ("--many", text)]
    assert parse(["--text", "", *arguments], command)["many"] == tuple(awkward)


@pytest.mark.parametrize("arguments", [["--flag={}"], ["--flag", "{}"], ["-f={}"], ["-f", "{}"]])
@pytest.mark.parametrize(("value", "flag"), [("True", True), ("false", False)])
def test_a_flag_may_be_given_a_value(arguments, value, flag):
    given = [part.format(value) for part in arguments]
    assert parse(["--text", "x", *given], command) == {"text": "x", "flag": flag}


def test_a_flag_takes_no_other_value():
    assert parse(["--flag", "--text", "true"], command) == {"flag": True, "text": "true"}


def test_a_letter_stands_for_the_one_option_that_begins_with_it():
    assert parse(["-t", "x", "-c=4"], command) == {"text": "x", "count": 4}
    with pytest.raises(UsageError, match="unknown option -m"):
        parse(["-m", "x"], command)


def test_hyphens_and_underscores_are_alike():
    def run(*, max_new_tokens: int) -> None: ...

    assert parse(["--max-new-tokens", "4"], run) == parse(["--max_new_tokens=4"], run)


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
        ([], "--text is missing"),
    ],
)
def test_a_mistake_is_named(arguments, says):
    with pytest.raises(UsageError) as error:
        parse(arguments, command)
    assert says in str(error.value)
