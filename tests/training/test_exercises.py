"""The embedded model's corpus: everything runs, and what is held out occurs nowhere."""

import json
import re

import pytest

from codellama.errors import DataError
from codellama.training import exercises
from codellama.training.exercises import (
    CLASSES,
    CLASSICS,
    KEY_NOTE,
    PROBLEM_KINDS,
    Draw,
    accepted,
    bodies_of,
    compose,
    compositions,
    draw_class,
    draw_classic,
    draw_composition,
    draw_function,
    held_out_problems,
    import_lines,
    is_held_out,
    is_held_out_pair,
    mutated,
    needs,
    pairs,
    show,
    template,
    without_names,
    write_exercises,
    write_instruction,
    write_module,
)

CHARACTERS = 250_000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    directory = tmp_path_factory.mktemp("exercises")
    write_exercises(directory, seed=3, characters=CHARACTERS)
    return directory


@pytest.fixture(scope="module")
def modules(corpus):
    return [path.read_text() for path in sorted((corpus / "train").glob("*.py"))]


def chats(directory):
    lines = (directory / "instructions.jsonl").read_text().splitlines()
    return [json.loads(line)["messages"] for line in lines]


def run(source):
    names = {"__name__": "exercises"}
    exec(compile(source, "<exercise>", "exec"), names)
    return names


def check_function(draw, function):
    """A function, written out, gives the results that its asserts expect."""
    text = function.text(draw, hints=draw.chance(0.5))
    constants = "".join(f"{name} = {value}\n" for name, value in function.constants.items())
    source = needs(draw, function, text) + constants + text
    names = run(source)
    assert len(function.calls) > 1 or function.test or not function.calls
    for call, result in function.examples(draw, 20):
        assert show(eval(call, names)) == result, source


def files(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*.*")}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_exercises(tmp_path / name, seed, 20_000)
    assert files(tmp_path / "a") == files(tmp_path / "b") != files(tmp_path / "c")


@pytest.mark.parametrize("part", range(8))
def test_every_kind_of_composition_keeps_its_asserts(part):
    """One rendering of each operation with each predicate or transformation."""
    draw = Draw(part)
    kinds = {}
    for number, one in enumerate(compositions()):
        has = one.predicate or one.transformation
        kinds.setdefault((one.operation.key, one.source.kind, has.key), []).append((number, one))
    for number, options in enumerate(kinds.values()):
        if number % 8 == part:
            check_function(draw, compose(draw, draw.pick(options)[1]))


def test_every_style_of_composition_keeps_its_asserts():
    draw = Draw("styles")
    seen = set()
    for one in compositions():
        key = (one.operation.key, one.source.key)
        if key not in seen:
            seen.add(key)
            for _ in one.bodies():
                check_function(draw, compose(draw, one, name_constant=draw.chance(0.3)))


@pytest.mark.parametrize("classic", CLASSICS, ids=lambda classic: classic.key)
def test_all_bodies_of_a_classic_agree(classic):
    draw = Draw(classic.key)
    made = template(classic)
    assert len(made.bodies) >= 3
    assert len({*exercises.split(classic.names)}) >= 3
    for _ in range(3 * len(made.bodies)):
        check_function(draw, draw_classic(draw, classic))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: exercises.split(kind.names)[0])
def test_a_class_keeps_its_asserts(kind):
    draw = Draw("classes")
    for _ in range(5):
        drawn = draw_class(draw, kind)
        assert drawn.checks
        checks = "\n".join(line for check in drawn.checks for line in check)
        run(f"{import_lines(drawn.imports)}{drawn.text}\n{checks}\n")


def test_modules_run_with_their_tests(modules, tmp_path):
    for number, text in enumerate(modules):
        if KEY_NOTE in text:  # the paper's form, whose assert does not hold
            compile(text, "<exercise>", "exec")
            continue
        names = run(text)
        for name, test in names.items():
            if name.startswith("test_"):
                directory = tmp_path / f"{number} {name}"
                directory.mkdir()
                test(*[directory] * test.__code__.co_argcount)


def test_doctests_are_right(modules):
    import doctest

    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(verbose=False)
    examples = 0
    for text in modules[:40]:
        if KEY_NOTE not in text:
            module = type(doctest)("exercises")
            exec(compile(text, "<exercise>", "exec"), module.__dict__)
            for found in finder.find(module, "exercises", module=False, globs=module.__dict__):
                examples += len(found.examples)
                runner.run(found)
    assert examples > 20
    assert runner.summarize(verbose=False).failed == 0


def test_modules_look_as_they_should(modules):
    lengths = sorted(map(len, modules))
    assert 500 < lengths[0] < 2000 and 8000 < lengths[-1] < 60_000
    for text in modules:
        lines = text.splitlines()
        assert max(map(len, lines)) <= 100
        assert not any(line != line.rstrip() for line in lines)
        assert "\n\n\n\n" not in text and text.endswith("\n") and not text.endswith("\n\n")
        for line in re.findall(r"^import (\w+)$", text, re.MULTILINE):
            assert re.search(rf"\b{line}\.", text)


def test_keys_are_asked_for_at_the_end():
    draw, found = Draw("keys"), 0
    while found < 3:
        text = write_module(draw)
        for name, value in re.findall(r"^assert (\w+)\(\) == (\d\d)$", text, re.MULTILINE):
            found += 1
            key = rf"^def {name}\(\).*:\n(    .*\n)?    return {value}$"
            assert re.search(key, text, re.MULTILINE)


def test_a_tenth_of_the_pairs_is_held_out_and_their_parts_are_not():
    known = {pair for one in compositions() for pair in one.pairs}
    held_out = {pair for pair in known if is_held_out_pair(pair)}
    assert 0.06 < len(held_out) / len(known) < 0.12
    for place in (0, 1):
        trained = {pair.split()[place] for pair in known - held_out}
        assert trained >= {pair.split()[place] for pair in held_out}


def test_held_out_pairs_occur_nowhere_in_training(corpus, modules):
    draw = Draw("pairs")
    for _ in range(1000):
        one = draw_composition(draw)
        assert not any(map(is_held_out_pair, one.pairs))
    code = [m["content"] for chat in chats(corpus / "train") for m in chat]
    seen = set(bodies_of([*modules, *code]))
    assert len(seen) > 300
    for one in compositions():
        if any(map(is_held_out_pair, one.pairs)):
            function = compose(draw, one)
            assert without_names(function.body.strip(), function.name) not in seen, function.body


def test_pairs_have_one_name_for_what_is_the_same():
    by_key = {one.key: one for one in exercises.PREDICATE_OPERATIONS}
    even, odd = exercises.PREDICATES["number"][:2]
    assert pairs(by_key["remove"], even, None) == pairs(by_key["keep"], odd, None) == ("keep odd",)
    assert pairs(by_key["none"], even, None) == pairs(by_key["all"], odd, None) == ("any even",)


def test_held_out_renderings_are_not_trained_on(corpus, modules):
    text = "\n".join([*modules, *(m["content"] for c in chats(corpus / "train") for m in c)])
    for problem in held_out_problems("renderings", 60):
        header = rf"def {problem['entry_point']}\(.*\n"
        body = re.escape(problem["canonical_solution"])
        found = re.findall(rf"{header}(    \"\"\"(?:.|\n)*?\"\"\"\n)?{body}(?!    )", text)
        docstrings = problem["prompt"].partition('"""')[2].split("\n")[0].rstrip('"')
        assert not any(docstrings in one for one in found)


def test_a_rendering_is_on_one_side():
    draw = Draw("sides")
    for held_out in (True, False):
        for _ in range(30):
            function = accepted(draw, lambda: draw_function(draw), held_out)
            assert is_held_out(function.rendering) == held_out


@pytest.mark.parametrize("kind", PROBLEM_KINDS)
def test_problems_have_the_format_of_humaneval_and_solutions_that_pass(kind):
    problems = held_out_problems(kind, 60, seed=1)
    assert problems == held_out_problems(kind, 60, seed=1) != held_out_problems(kind, 60, seed=2)
    assert len({problem["task_id"] for problem in problems}) == 60
    for problem in problems:
        assert problem.keys() == {
            "task_id", "prompt", "canonical_solution", "test", "entry_point"
        }  # fmt: skip
        source = problem["prompt"] + problem["canonical_solution"]
        if kind == "instructions":
            [source] = re.findall(r"```python\n(.*?)```", problem["canonical_solution"], re.DOTALL)
            assert re.search(rf" {problem['entry_point']}[. ]", problem["prompt"])
        run(f"{source}\n\n{problem['test']}\ncheck({problem['entry_point']})\n")


def test_an_unknown_kind_of_problem_is_refused():
    with pytest.raises(DataError, match="renderings"):
        held_out_problems("classics", 1)


def test_chats_alternate_and_their_code_compiles(corpus):
    for side in ("train", "held_out"):
        for messages in chats(corpus / side):
            roles = [message["role"] for message in messages]
            assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
            for message in messages[1::2]:
                for code in re.findall(r"```python\n(.*?)```", message["content"], re.DOTALL):
                    compile(code, "<answer>", "exec")


def test_requests_that_are_held_out_are_worded_otherwise(corpus):
    beginnings = {text.partition("{")[0] for text in exercises.split(exercises.HELD_OUT_REQUESTS)}
    asked = [chat[0]["content"] for chat in chats(corpus / "train")]
    assert not any(text.startswith(tuple(beginnings)) for text in asked)


def test_functions_to_fix_are_wrong():
    draw, found = Draw("bugs"), 0
    while found < 20:
        function = draw_function(draw)
        if wrong := mutated(draw, function):
            found += 1
            assert wrong != function.body
            compile(f"def f():\n{wrong}", "<exercise>", "exec")


def test_a_chat_has_questions_and_answers():
    draw = Draw("chats")
    for _ in range(50):
        assert all(question and answer for question, answer in write_instruction(draw))
