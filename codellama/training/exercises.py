"""Exercises: the small world that the embedded model learns.

A small model is fluent in a small world (Eldan and Li 2023, arXiv 2305.07759), and exercises teach
it code (Gunasekar et al. 2023, arXiv 2306.11644). This file composes them: an operation (count,
keep, sort by ...) meets a predicate (even, longer than k ...) or a transformation (square, length
...), a source (a list, the words of a text, records ...), a style (loop, comprehension, recursion
...), and one of many wordings. Beside them stand classics, classes, helpers for files, and chats.

The file reads from top to bottom: vocabulary, operations, composing, classics, classes, modules,
instructions, what is held out, writing. Data is text in which " | " separates alternatives, and
`--` separates the bodies of a function. Expected values come from running the first body.

Two things are held out, both by a hash. A rendering, which is name, parameters, wording and body
together, is trained on or held out. So is a pair of an operation and a predicate, or of an
operation and a transformation: a pair that is held out occurs nowhere in training.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import json
import keyword
import random
import re
import textwrap
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from codellama.errors import DataError, check_fields, number

MAX_WIDTH = 89
HELD_OUT_RENDERINGS = 1 / 8
HELD_OUT_PAIRS = 1 / 10


# --- Drawing ----------------------------------------------------------------------------------


@cache
def split(text: str) -> tuple[str, ...]:
    """The alternatives of a text of the tables below."""
    return tuple(part.strip() for part in text.split(" | ")) if text else ()


class Draw(random.Random):
    """Random numbers, and what is drawn with them."""

    def pick(self, options: Sequence[Any]) -> Any:
        """One of the options; `choice` of the base class takes three times as long."""
        return options[int(self.random() * len(options))]

    def one(self, text: str) -> str:
        """One of a text's alternatives."""
        return self.pick(split(text)) if text else text

    def early(self, options: Sequence[Any]) -> Any:
        """One of the options, the first ones more often."""
        return options[int(self.random() ** 1.4 * len(options))]

    def chance(self, share: float) -> bool:
        """True in such a share of draws."""
        return self.random() < share

    def fresh(self, text: str, used: set[str], spare: str = "") -> str:
        """One of a text's alternatives, else the spare one, that is not used before this call."""
        options = split(text)
        for option in [self.pick(options), *options, *split(spare)]:
            if option not in used:
                used.add(option)
                return option
        raise ValueError(f"all of {text} are used")


def show(value: Any) -> str:
    """A value as Python spells it, texts in double quotes."""
    if isinstance(value, str):
        return '"' + repr(f"'{value}")[2:-1] + '"' if '"' not in value else repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{show(k)}: {show(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple, set)):
        inner = ", ".join(map(show, value))
        if isinstance(value, set):
            return "{" + ", ".join(sorted(map(show, value))) + "}" if value else "set()"
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


@cache
def blocks(text: str) -> list[tuple[str, str]]:
    """The bodies in a text, each with the tag behind its `--`, indented by four spaces."""
    found = []
    for part in re.split(r"^ *--", text, flags=re.MULTILINE):
        tag, _, body = part.partition("\n")
        body = textwrap.dedent(body.rstrip(" ").strip("\n"))
        found.append((tag.strip(), textwrap.indent(body, "    ") + "\n"))
    return found


# --- Vocabulary: predicates -------------------------------------------------------------------


ONE = {"are": "is", "s": "s", "ve": "s", "es": "es", "z": "", "f": "f"}
MANY = {"are": "are", "s": "", "ve": "ve", "es": "", "z": "s", "f": "ves"}


@dataclass(frozen=True, eq=False)
class Predicate:
    """What may be true of an element {x}.

    Args:
        code: conditions that say the same; {k} and {m} are constants or parameters.
        negated: the opposite.
        adjectives: before the noun, as in "even numbers".
        be: behind "are" or the noun, as in "greater than {k}".
        after: behind the noun only, as in "starting with {k}".
        verbs: as in "start{s} with {k}"; {s}, {es}, {ve} and {are} depend on number.
        nouns: instead of the noun, as in "vowel{z}"; {z} is the plural's "s".
        values: constants for {k}, or pairs of them.
        parameters: names for {k} as a parameter, or pairs of them; none if it is always a constant.
        domain: what the elements in asserts are like.
        complement: the predicate that is true where this one is not.
    """

    key: str
    code: str
    negated: str
    adjectives: str = ""
    be: str = ""
    after: str = ""
    verbs: str = ""
    nouns: str = ""
    values: tuple[Any, ...] = ()
    parameters: str = ""
    domain: str = ""
    imports: str = ""
    helper: str = ""
    complement: str = ""


P = Predicate
SMALL, LETTERS = (2, 3, 4, 5), ("a", "e", "s", "b", "o")
MEMBERS = [
    P("in", "{x} in {k}", "{x} not in {k}", be="in {k} | contained in {k}",
      after="that also occur{s} in {k}", parameters="allowed | wanted | others | known",
      complement="not_in"),
    P("not_in", "{x} not in {k}", "{x} in {k}", be="not in {k} | missing in {k}",
      after="that do{es} not occur in {k}", parameters="forbidden | excluded | others | unwanted",
      complement="in"),
]  # fmt: skip
EQUALS = [
    P("equal", "{x} == {k}", "{x} != {k}", be="equal to {k}",
      verbs="equal{s} {k}", nouns="occurrence{z} of {k}", values=(1, 2, 3, 5, 7),
      parameters="target | value | wanted | k", complement="different"),
    P("different", "{x} != {k}", "{x} == {k}", be="different from {k} | not equal to {k}",
      verbs="differ{s} from {k}", values=(1, 2, 3, 5), parameters="target | value | unwanted | k",
      complement="equal"),
]  # fmt: skip
PREDICATES = {
    "number": [
        P("even", "{x} % 2 == 0", "{x} % 2 != 0 | {x} % 2 == 1", "even",
          after="without remainder by 2", complement="odd"),
        P("odd", "{x} % 2 == 1 | {x} % 2 != 0", "{x} % 2 == 0", "odd", complement="even"),
        P("positive", "{x} > 0", "{x} <= 0", "positive", be="greater than zero | above 0"),
        P("negative", "{x} < 0", "{x} >= 0", "negative", be="less than zero | below 0"),
        P("zero", "{x} == 0", "{x} != 0", be="equal to zero | equal to 0",
          nouns="zero{z}", complement="nonzero"),
        P("nonzero", "{x} != 0", "{x} == 0", "non-zero", be="different from zero | not equal to 0",
          complement="zero"),
        P("divisible", "{x} % {k} == 0", "{x} % {k} != 0", be="divisible by {k}",
          nouns="multiple{z} of {k}", values=(3, 4, 5, 6, 7, 10),
          parameters="divisor | k | factor | base", complement="indivisible"),
        P("indivisible", "{x} % {k} != 0", "{x} % {k} == 0", be="not divisible by {k}",
          values=(3, 4, 5, 7), parameters="divisor | k | factor", complement="divisible"),
        P("greater", "{x} > {k}", "{x} <= {k}", verbs="exceed{s} {k}",
          be="greater than {k} | above {k} | larger than {k} | bigger than {k} | more than {k}",
          values=(2, 3, 5, 10, 20), parameters="limit | threshold | k | bound", complement="most"),
        P("less", "{x} < {k}", "{x} >= {k}",
          be="less than {k} | below {k} | smaller than {k} | under {k}",
          values=(2, 3, 5, 10, 20), parameters="limit | threshold | k | bound", complement="least"),
        P("least", "{x} >= {k}", "{x} < {k}", be="at least {k} | greater than or equal to {k}",
          after="of at least {k}", values=(2, 3, 5, 10), parameters="minimum | lowest | limit | k",
          complement="less"),
        P("most", "{x} <= {k}", "{x} > {k}", be="at most {k} | less than or equal to {k}",
          after="of at most {k} | up to {k}", values=(2, 3, 5, 10),
          parameters="maximum | highest | limit | k", complement="greater"),
        P("between", "{k} <= {x} <= {m}", "not {k} <= {x} <= {m}", be="between {k} and {m}",
          after="from {k} to {m}", verbs="lie{s} between {k} and {m}",
          values=((1, 5), (2, 8), (3, 7), (5, 10), (10, 20)),
          parameters="low, high | start, end | lower, upper | a, b | smallest, largest",
          complement="outside"),
        P("outside", "{x} < {k} or {x} > {m}", "{k} <= {x} <= {m}",
          be="less than {k} or greater than {m} | not between {k} and {m}",
          values=((1, 5), (2, 8), (3, 7), (5, 10)), complement="between",
          parameters="low, high | start, end | lower, upper | a, b"),
        P("both", "{x} % {k} == 0 and {x} % {m} == 0", "not ({x} % {k} == 0 and {x} % {m} == 0)",
          be="divisible by {k} and by {m} | divisible by both {k} and {m}",
          values=((2, 3), (2, 5), (3, 4), (3, 5)), parameters="a, b | first, second | k, m"),
        P("either", "{x} % {k} == 0 or {x} % {m} == 0", "{x} % {k} != 0 and {x} % {m} != 0",
          be="divisible by {k} or by {m} | divisible by {k} or {m}",
          values=((2, 3), (2, 5), (3, 4), (3, 5)), parameters="a, b | first, second | k, m"),
        P("prime", "is_prime({x})", "not is_prime({x})", "prime", nouns="prime{z}",
          domain="natural", helper="is_prime"),
        P("square_number", "math.isqrt({x}) ** 2 == {x}", "math.isqrt({x}) ** 2 != {x}",
          nouns="perfect square{z} | square number{z}", domain="natural", imports="math"),
        P("one_digit", "-10 < {x} < 10", "not -10 < {x} < 10", "one-digit | single-digit"),
        P("two_digit", "10 <= abs({x}) <= 99", "not 10 <= abs({x}) <= 99", "two-digit"),
        P("last_digit_is", "abs({x}) % 10 == {k}", "abs({x}) % 10 != {k}",
          after="ending in {k} | ending with {k} | with last digit {k}",
          verbs="end{s} in {k} | end{s} with {k}", values=(1, 2, 3, 5),
          parameters="digit | d | last"),
        P("palindromic", "str({x}) == str({x})[::-1]", "str({x}) != str({x})[::-1]",
          "palindromic", domain="natural"),
        P("power_of_two", 'bin({x}).count("1") == 1', 'bin({x}).count("1") != 1',
          nouns="power{z} of two | power{z} of 2", domain="natural"),
        *EQUALS, *MEMBERS,
    ],
    "word": [
        P("longer", "len({x}) > {k}", "len({x}) <= {k}",
          be="longer than {k} letters | longer than {k} characters | longer than {k}",
          after="with more than {k} letters | of more than {k} characters",
          verbs="ha{ve} more than {k} letters | ha{ve} more than {k} characters",
          values=SMALL, parameters="length | n | limit | size"),
        P("shorter", "len({x}) < {k}", "len({x}) >= {k}",
          be="shorter than {k} letters | shorter than {k} characters | shorter than {k}",
          after="with fewer than {k} letters | with less than {k} characters",
          verbs="ha{ve} fewer than {k} letters", values=SMALL,
          parameters="length | n | limit | size"),
        P("length_is", "len({x}) == {k}", "len({x}) != {k}",
          after="of length {k} | with {k} letters | with exactly {k} characters",
          verbs="ha{ve} length {k} | ha{ve} {k} letters | ha{ve} exactly {k} characters",
          values=SMALL, parameters="length | n | size"),
        P("starts", "{x}.startswith({k})", "not {x}.startswith({k})",
          after="starting with {k} | beginning with {k}",
          verbs="start{s} with {k} | begin{s} with {k}", values=LETTERS,
          parameters="prefix | letter | start"),
        P("ends", "{x}.endswith({k})", "not {x}.endswith({k})",
          after="ending with {k} | ending in {k}", verbs="end{s} with {k} | end{s} in {k}",
          values=LETTERS, parameters="suffix | letter | ending"),
        P("contains", "{k} in {x}", "{k} not in {x}",
          after="containing {k} | with the letter {k} | containing the letter {k}",
          verbs="contain{s} {k} | contain{s} the letter {k} | include{s} {k}",
          values=LETTERS, parameters="letter | part | char", complement="lacks"),
        P("lacks", "{k} not in {x}", "{k} in {x}", after="without {k} | without the letter {k}",
          verbs="do{es} not contain {k} | do{es} not include the letter {k}",
          values=LETTERS, parameters="letter | part | char", complement="contains"),
        P("upper", "{x}.isupper()", "not {x}.isupper()", "uppercase | upper-case",
          be="in upper case | in uppercase | in capital letters"),
        P("lower", "{x}.islower()", "not {x}.islower()", "lowercase | lower-case",
          be="in lower case | in lowercase | in small letters"),
        P("capitalized", "{x}[:1].isupper()", "not {x}[:1].isupper()", "capitalized",
          after="starting with a capital letter",
          verbs="start{s} with a capital letter | begin{s} with an uppercase letter"),
        P("palindrome", "{x} == {x}[::-1]", "{x} != {x}[::-1]", nouns="palindrome{z}",
          after="reading the same in both directions",
          verbs="read{s} the same forwards and backwards"),
        P("empty", '{x} == "" | not {x} | len({x}) == 0', '{x} != "" | len({x}) > 0', "empty",
          complement="nonempty"),
        P("nonempty", '{x} != "" | len({x}) > 0', '{x} == "" | not {x}', "non-empty",
          complement="empty"),
        P("digit", "{x}.isdigit()", "not {x}.isdigit()", "numeric", after="made of digits",
          verbs="consist{s} of digits only | contain{s} only digits"),
        P("letter", "{x}.isalpha()", "not {x}.isalpha()", "alphabetic",
          after="made of letters", verbs="consist{s} of letters only | contain{s} only letters"),
        P("vowel_first", '{x}[0] in "aeiou"', '{x}[0] not in "aeiou"',
          after="starting with a vowel | beginning with a vowel",
          verbs="start{s} with a vowel | begin{s} with a vowel", domain="small"),
        P("vowel_last", '{x}[-1] in "aeiou"', '{x}[-1] not in "aeiou"',
          after="ending with a vowel | ending in a vowel",
          verbs="end{s} with a vowel | end{s} in a vowel", domain="small"),
        P("digit_inside", "any(d.isdigit() for d in {x})", "not any(d.isdigit() for d in {x})",
          after="containing a digit | with a digit | with at least one digit",
          verbs="contain{s} a digit | ha{ve} a digit"),
        P("even_length", "len({x}) % 2 == 0", "len({x}) % 2 != 0 | len({x}) % 2 == 1",
          after="of even length | with an even number of letters",
          verbs="ha{ve} an even length | ha{ve} an even number of letters",
          complement="odd_length"),
        P("odd_length", "len({x}) % 2 == 1 | len({x}) % 2 != 0", "len({x}) % 2 == 0",
          after="of odd length | with an odd number of letters",
          verbs="ha{ve} an odd length | ha{ve} an odd number of letters",
          complement="even_length"),
        P("same_ends", "{x}[0] == {x}[-1]", "{x}[0] != {x}[-1]",
          after="starting and ending with the same letter",
          verbs="start{s} and end{s} with the same letter", domain="small"),
        P("distinct_letters", "len(set({x})) == len({x})", "len(set({x})) != len({x})",
          after="without repeated letters | with no repeated letter",
          verbs="ha{ve} no repeated letters | repeat{s} no letter"),
        *MEMBERS,
    ],
    "character": [
        P("vowel", '{x}.lower() in "aeiou" | {x} in "aeiouAEIOU"',
          '{x}.lower() not in "aeiou" | {x} not in "aeiouAEIOU"', nouns="vowel{z}"),
        P("consonant", '{x}.isalpha() and {x}.lower() not in "aeiou"',
          'not {x}.isalpha() or {x}.lower() in "aeiou"', nouns="consonant{z}"),
        P("digit", "{x}.isdigit()", "not {x}.isdigit()", nouns="digit{z}"),
        P("letter", "{x}.isalpha()", "not {x}.isalpha()", nouns="letter{z}"),
        P("upper", "{x}.isupper()", "not {x}.isupper()", "uppercase | upper-case",
          nouns="capital letter{z} | uppercase letter{z} | capital{z}"),
        P("lower", "{x}.islower()", "not {x}.islower()", "lowercase | lower-case",
          nouns="lowercase letter{z} | small letter{z}"),
        P("space", '{x} == " " | {x}.isspace()', '{x} != " " | not {x}.isspace()',
          nouns="space{z} | blank{z}"),
        P("alphanumeric", "{x}.isalnum()", "not {x}.isalnum()", "alphanumeric"),
        P("punctuation", "{x} in string.punctuation", "{x} not in string.punctuation",
          nouns="punctuation mark{z} | punctuation character{z}", imports="string"),
        P("equal", "{x} == {k}", "{x} != {k}", be="equal to {k}",
          nouns="occurrence{z} of {k}", values=LETTERS,
          parameters="letter | target | char | wanted", complement="different"),
        P("different", "{x} != {k}", "{x} == {k}", be="different from {k} | other than {k}",
          values=LETTERS, parameters="letter | target | char | unwanted", complement="equal"),
        P("in", "{x} in {k}", "{x} not in {k}", be="in {k} | contained in {k}",
          parameters="letters | allowed | wanted | alphabet", complement="not_in"),
        P("not_in", "{x} not in {k}", "{x} in {k}", be="not in {k} | missing in {k}",
          parameters="letters | forbidden | unwanted | excluded", complement="in"),
    ],
}  # fmt: skip


# --- Vocabulary: transformations --------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Transformation:
    """What may be made of an element {x}.

    Args:
        code: expressions that say the same.
        nouns: what the result is called, as in "square{z}".
        verbs: how it is asked for, with the object {o}, as in "square {o}".
        out: the kind of the result.
        is_measure: whether elements are naturally sorted, grouped and compared by it.
    """

    key: str
    code: str
    nouns: str = ""
    verbs: str = ""
    out: str = "number"
    is_measure: bool = False
    values: tuple[Any, ...] = ()
    parameters: str = ""
    domain: str = ""


T = Transformation
K_NAMES = "k | amount | offset | step"
TRANSFORMATIONS = {
    "number": [
        T("square", "{x} ** 2 | {x} * {x}", "square{z}", "square {o}", is_measure=True),
        T("cube", "{x} ** 3 | {x} * {x} * {x}", "cube{z} | third power{z}", "cube {o}"),
        T("double", "{x} * 2 | 2 * {x}", "double{z}", "double {o} | multiply {o} by two"),
        T("triple", "{x} * 3 | 3 * {x}", "triple{z}", "triple {o} | multiply {o} by three"),
        T("half", "{x} / 2", "hal{f}", "halve {o} | divide {o} by two", out="float"),
        T("opposite", "-{x}", "opposite{z} | negated value{z}",
          "negate {o} | change the sign of {o}"),
        T("absolute", "abs({x})", "absolute value{z} | magnitude{z}",
          "take the absolute value of {o}", is_measure=True),
        T("successor", "{x} + 1", "successor{z}", "increment {o} | add one to {o}"),
        T("plus", "{x} + {k}", "", "add {k} to {o} | increase {o} by {k}",
          values=(2, 3, 5, 10), parameters=K_NAMES),
        T("minus", "{x} - {k}", "", "subtract {k} from {o} | decrease {o} by {k}",
          values=(2, 3, 5, 10), parameters=K_NAMES),
        T("times", "{x} * {k}", "", "multiply {o} by {k} | scale {o} by {k}",
          values=(4, 5, 10), parameters="k | factor | scale"),
        T("power", "{x} ** {k}", "", "raise {o} to the power {k} | raise {o} to the power of {k}",
          values=(4, 5), parameters="exponent | power | k"),
        T("remainder", "{x} % {k}", "remainder{z} modulo {k} | remainder{z} by {k}",
          "take {o} modulo {k} | reduce {o} modulo {k}", is_measure=True, values=(3, 4, 5, 7),
          parameters="k | divisor | modulus"),
        T("distance", "abs({x} - {k})", "distance{z} to {k} | distance{z} from {k}", "",
          is_measure=True, values=(2, 5, 10), parameters="target | center | k"),
        T("last_digit", "abs({x}) % 10 | int(str({x})[-1])", "last digit{z} | final digit{z}",
          "reduce {o} to the last digit", is_measure=True),
        T("digit_sum", "sum(int(d) for d in str(abs({x})))", "digit sum{z} | sum{z} of digits", "",
          is_measure=True),
        T("digit_count", "len(str(abs({x})))", "number{z} of digits | digit count{z}", "",
          is_measure=True),
        T("text", "str({x})", "string form{z} | decimal string{z}",
          "convert {o} to a string | turn {o} into a string", out="word"),
        T("binary", 'bin({x})[2:] | format({x}, "b")', "binary form{z} | binary representation{z}",
          "convert {o} to binary | write {o} in binary", out="word", domain="natural"),
    ],
    "word": [
        T("length", "len({x})", "length{z} | number{z} of letters | number{z} of characters", "",
          is_measure=True),
        T("upper", "{x}.upper()", "upper-case form{z} | uppercase version{z}",
          "convert {o} to upper case | uppercase {o} | write {o} in capital letters", out="word"),
        T("lower", "{x}.lower()", "lower-case form{z} | lowercase version{z}",
          "convert {o} to lower case | lowercase {o} | write {o} in small letters", out="word",
          is_measure=True),
        T("capitalize", "{x}.capitalize()", "capitalized form{z}", "capitalize {o}", out="word"),
        T("reverse", '{x}[::-1] | "".join(reversed({x}))', "reversed form{z} | mirror image{z}",
          "turn {o} around | spell {o} backwards", out="word", is_measure=True),
        T("first_letter", "{x}[0]", "first letter{z} | initial{z} | first character{z}",
          "reduce {o} to the first letter", out="word", is_measure=True, domain="filled"),
        T("last_letter", "{x}[-1]", "last letter{z} | final letter{z} | last character{z}",
          "reduce {o} to the last letter", out="word", is_measure=True, domain="filled"),
        T("drop_first", "{x}[1:]", "",
          "remove the first letter of {o} | drop the first letter of {o}", out="word"),
        T("drop_last", "{x}[:-1]", "",
          "remove the last letter of {o} | drop the last letter of {o}", out="word"),
        T("twice", "{x} * 2 | {x} + {x}", "", "repeat {o} twice | write {o} twice", out="word"),
        T("append", "{x} + {k}", "", "append {k} to {o} | add {k} to the end of {o}", out="word",
          values=("s", "ed", "x"), parameters="suffix | ending | end"),
        T("prepend", "{k} + {x}", "", "prepend {k} to {o} | put {k} in front of {o}", out="word",
          values=("a", "x", "re"), parameters="prefix | start | beginning"),
        T("vowels", 'sum(c in "aeiou" for c in {x}.lower())',
          "number{z} of vowels | vowel count{z}", "", is_measure=True),
        T("letter_count", "{x}.count({k})", "count{z} of {k} | number{z} of {k}", "",
          is_measure=True, values=LETTERS, parameters="letter | char"),
        T("different_letters", "len(set({x}))",
          "number{z} of different letters | number{z} of distinct letters", "", is_measure=True),
        T("sort_letters", '"".join(sorted({x}))', "sorted letters",
          "sort the letters of {o} | put the letters of {o} in order", out="word",
          is_measure=True),
        T("shorten", "{x}[:{k}]", "",
          "shorten {o} to {k} letters | cut {o} to {k} letters | cut {o} to {k} characters",
          out="word", values=(2, 3), parameters="length | n | size"),
    ],
    "character": [
        T("upper", "{x}.upper()", "upper-case form{z}", "convert {o} to upper case", out="word"),
        T("lower", "{x}.lower()", "lower-case form{z}", "convert {o} to lower case", out="word",
          is_measure=True),
        T("swap", "{x}.swapcase()", "", "swap the case of {o} | switch the case of {o}",
          out="word"),
        T("twice", "{x} * 2 | {x} + {x}", "", "double {o} | repeat {o} twice | write {o} twice",
          out="word"),
        T("next", "chr(ord({x}) + 1)", "next character{z}", "shift {o} by one", out="word"),
        T("code", "ord({x})", "code{z} | character code{z} | Unicode number{z}", "",
          is_measure=True),
    ],
}  # fmt: skip


# --- Vocabulary: sources ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Source:
    """Where the elements come from.

    Args:
        kind: of what predicates test: number, word or character.
        parameters: names for {p}.
        hint: type of the parameter; element: type of what is kept.
        nouns: of one element.
        where: behind the noun.
        tags: which bodies suit. "flat": one loop; "order": indices mean something; "seq": slices
            too; "self": what is tested is what is kept; "text": results are joined to a text.
        items, target, tested, kept, each: of a loop: names for {v}, and templates with {v}, {u}.
        over: what the loop runs over; each: the loops of a comprehension.
        field: what is tested, where that is not the element itself, with its article.
        suffix: of names.
        weight: how often it is drawn.
    """

    key: str
    kind: str
    parameters: str
    hint: str
    element: str
    nouns: str
    where: str
    whole: str
    tags: str
    items: str
    over: str = "{p}"
    target: str = "{v}"
    tested: str = "{v}"
    each: str = "for {t} in {xs}"
    field: str = ""
    suffix: str = " | "
    weight: int = 1


S = Source
LIST, FLAT = "list order flat seq self", "list flat self"
RECORDS = [
    ("person", "people", "age", "an age", "number"),
    ("student", "students", "grade", "a grade", "number"),
    ("product", "products", "price", "a price", "number"),
    ("book", "books", "pages", "a number of pages", "number"),
    ("city", "cities", "name", "a name", "word"),
    ("employee", "employees", "name", "a name", "word"),
    ("song", "songs", "title", "a title", "word"),
    ("player", "players", "score", "a score", "number"),
]
SOURCES = [
    S("numbers", "number", "numbers | values | nums | items | xs | data", "list[int]", "int",
      "number | number | number | value | element | integer",
      "in the list | of the list | in a list | in {p} | of {p} | in the given list",
      "the list | {p} | the given list", LIST, "number | n | x | num | value", weight=6,
      suffix=" |  |  | _in_list"),
    S("words", "word", "words | strings | names | items | texts", "list[str]", "str",
      "word | word | string", "in the list | of the list | in a list | in {p} | of {p}",
      "the list | {p} | the given list", LIST, "word | w | item | x", weight=5,
      suffix=" |  |  | _in_list"),
    S("text", "character", "text | s | string | word | sentence", "str", "str",
      "character | character | char",
      "in the text | of the text | in a text | in a string | in the string | in {p} | of {p}",
      "the text | {p} | the string", "text order flat seq self", "char | c | ch | character",
      weight=5, suffix=" |  | _in_text | _in_string"),
    S("split", "word", "text | sentence | line | s", "str", "str", "word",
      "in the text | of the text | in a sentence | in the sentence | in {p} | of {p}",
      "the text | the sentence | {p}", "list order flat self", "word | w | part",
      "{p}.split()", weight=2, suffix="_in_text | _in_sentence | "),
    S("range", "number", "n | limit | end | last", "int", "int", "number | integer",
      "from 1 to {p} | between 1 and {p} | from one up to {p} | in the range from 1 to {p}",
      "the range from 1 to {p}", FLAT, "number | i | x | k", "range(1, {p} + 1)", weight=2,
      suffix="_up_to | _to | _from_one"),
    S("values", "number", "scores | prices | ages | counts | dictionary | table", "dict[str, int]",
      "int", "value", "in the dictionary | of the dictionary | in {p} | of {p}",
      "the dictionary | {p}", FLAT, "value | v | number", "{p}.values()", weight=2,
      suffix="_of_dictionary |  | _in_dictionary"),
    S("keys", "word", "scores | prices | ages | counts | dictionary | table", "dict[str, int]",
      "str", "key", "in the dictionary | of the dictionary | in {p} | of {p}",
      "the dictionary | {p}", FLAT, "key | k | name", suffix=" | _of_dictionary"),
    S("nested", "number", "matrix | rows | grid | lists | table", "list[list[int]]", "int",
      "number | value | element",
      "in the matrix | in all rows of {p} | in a list of lists | in the nested list | in {p}",
      "the matrix | the nested list", "list self", "number | x | value | n", "{row}",
      each="for {row} in {p} for {t} in {xs}", weight=2,
      suffix="_in_matrix | _in_rows | _in_nested_list | _in_lists"),
    S("items", "number", "scores | prices | ages | counts | dictionary | table", "dict[str, int]",
      "str", "key | name", "of the dictionary | in the dictionary | in {p} | of {p}",
      "the dictionary | {p}", "list flat", "key | name", "{p}.items()", "{v}, {u}", "{u}",
      field="a value", weight=2),
    S("entries", "number", "scores | prices | ages | counts | dictionary | table",
      "dict[str, int]", "dict[str, int]", "entry", "of the dictionary | in {p} | of {p}",
      "the dictionary | {p}", "dict", "key | name", "{p}.items()", "{v}, {u}", "{u}",
      field="a value"),
    S("pairs", "number", "pairs | results | scores | entries", "list[tuple[str, int]]", "str",
      "name", "of the pairs | in the list of pairs | in {p} | of {p}", "the list | {p}",
      "list flat", "name | key", target="{v}, {u}", tested="{u}", field="a score"),
    *(S(many, kind, many, "list[dict]", "dict", one,
        "in the list | of the list | in {p} | of {p}", "the list | {p}", "list flat",
        f"{one} | {one[0]} | record", tested=f'{{v}}["{name}"]', field=article)
      for one, many, name, article, kind in RECORDS),
    S("number", "number", "number | n | x | num | value", "int", "int", "number", "", "",
      "single", "element"),
    S("word", "word", "word | text | s | string | name", "str", "str",
      "word | string | text", "", "", "single", "element", weight=2),
    S("character", "character", "char | c | character | letter", "str", "str",
      "character", "", "", "single", "element"),
]  # fmt: skip


# --- Operations -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Operation:
    """What is done with the elements of a source.

    Args:
        sentences: what the docstring says, as a command. {gs} stands for a group ("even numbers in
            the list"), {g1} for one of it, {ns} and {n1} for all elements and one, {w} for where
            they are, {vs} and {v1} for what the predicate says of them, {whole} for the source;
            {fs} and {f1} for results of the transformation, {verb} for how it is asked for.
        names: of the function; {m}, {m1}, {n}, {n1}, {pn}, {pv}, {f}, {fs}, {verb} alike.
        returns: its type; {E} is what is kept, {F} what the transformation gives, {L} a list of
            what is kept, or a text.
        bodies: with a tag that the source has to have, or none.
        needs: a tag that the source has to have.
        kinds: of elements that it suits.
        family: the operations that a pair of this one counts as, where these are not the key.
        variables: names for {r} and for {o}.
    """

    key: str
    sentences: str
    names: str
    returns: str
    bodies: str
    needs: str = ""
    kinds: str = "number word character"
    family: str = ""
    variables: str = "result | output | found"
    others: str = "others | rest"
    is_measured: bool = False
    weight: int = 1


O = Operation  # noqa: E741
COUNTERS = "count | total | counter | result"
KEPT = "result | kept | found | selected | matches"
PREDICATE_OPERATIONS = [
    O("count",
      "Return the number of {gs}. | Count the {gs}. | Count {gs}. | Return how many {ns} {w}"
      " {vs}. | Count how many {ns} {w} {vs}. | Return the count of {gs}. | Count the {ns} {w}"
      " that {vs}. | Count all {gs}. | Return how many {gs} there are.",
      "count_{m} | count_{m} | number_of_{m} | count_of_{m} | how_many_{m} | {m}_count | num_{m}",
      "int", """
        {r} = 0
        for {t} in {xs}:
            if {c}:
                {r} += 1
        return {r}
      --
        return sum(1 {each} if {c})
      --
        return len([{v} {each} if {c}])
      --
        return sum({c} {each})
      --seq
        {r} = 0
        for {i} in range(len({p})):
            if {ci}:
                {r} += 1
        return {r}
      --seq
        if not {p}:
            return 0
        {r} = 1 if {c0} else 0
        return {r} + {name}({rest})
      --self flat
        return len(list(filter(lambda {v}: {c}, {xs})))
      --seq
        {i} = {r} = 0
        while {i} < len({p}):
            if {ci}:
                {r} += 1
            {i} += 1
        return {r}
      """, variables=COUNTERS, weight=3),
    O("sum",
      "Return the sum of the {gs}. | Return the sum of all {gs}. | Add up the {gs}. | Add all"
      " {gs}. | Return the total of the {gs}. | Sum the {gs}. | Sum up all {gs}. | Return the"
      " sum of {gs}. | Add the {ns} {w} that {vs}.",
      "sum_{m} | sum_of_{m} | sum_{m} | total_of_{m} | add_{m} | {m}_sum | total_{m} | sum_up_{m}",
      "int", """
        {r} = 0
        for {t} in {xs}:
            if {c}:
                {r} += {x}
        return {r}
      --
        return sum({x} {each} if {c})
      --
        return sum([{x} {each} if {c}])
      --seq
        if not {p}:
            return 0
        {r} = {p}[0] if {c0} else 0
        return {r} + {name}({rest})
      --flat
        return sum(filter(lambda {v}: {c}, {xs}))
      --
        {o} = [{x} {each} if {c}]
        return sum({o})
      --seq
        {r} = {i} = 0
        while {i} < len({p}):
            if {ci}:
                {r} += {p}[{i}]
            {i} += 1
        return {r}
      """, "self", "number", variables="total | result | sum_", others=KEPT, weight=2),
    O("product",
      "Return the product of the {gs}. | Multiply the {gs}. | Multiply all {gs}. | Return the"
      " product of all {gs}. | Multiply the {gs} together.",
      "product_of_{m} | multiply_{m} | {m}_product | product_{m}", "int", """
        {r} = 1
        for {t} in {xs}:
            if {c}:
                {r} *= {x}
        return {r}
      --
        return math.prod({x} {each} if {c})
      --seq
        if not {p}:
            return 1
        {r} = {p}[0] if {c0} else 1
        return {r} * {name}({rest})
      """, "self", "number", variables="product | result"),
    O("mean",
      "Return the average of the {gs}, or 0 if there are none. | Return the mean of the {gs}, or"
      " 0 if there are none. | Return the average of the {gs}. | Return the mean of all {gs}.",
      "average_of_{m} | mean_of_{m} | average_{m} | mean_{m} | {m}_average", "float", """
        {o} = [{x} {each} if {c}]
        if not {o}:
            return 0
        return sum({o}) / len({o})
      --
        {o} = [{x} {each} if {c}]
        return sum({o}) / len({o}) if {o} else 0
      --
        total = 0
        count = 0
        for {t} in {xs}:
            if {c}:
                total += {x}
                count += 1
        return total / count if count else 0
      """, "self", "number", others=KEPT),
    O("largest",
      "Return the largest {g1}, or None if there is none. | Return the greatest {g1}, or None. |"
      " Return the maximum of the {gs}, or None if there are none. | Return the largest of the"
      " {gs}. | Return the biggest {g1}. | Find the largest {g1}.",
      "largest_{m1} | max_{m1} | maximum_{m1} | biggest_{m1} | greatest_{m1} | find_largest_{m1}",
      "{E} | None", """
        {r} = None
        for {t} in {xs}:
            if {c}:
                if {r} is None or {x} > {r}:
                    {r} = {x}
        return {r}
      --
        return max(({x} {each} if {c}), default=None)
      --
        {o} = [{x} {each} if {c}]
        return max({o}) if {o} else None
      --
        {o} = [{x} {each} if {c}]
        if not {o}:
            return None
        return max({o})
      """, "self", "number", variables="largest | best | result", others=KEPT),
    O("smallest",
      "Return the smallest {g1}, or None if there is none. | Return the least {g1}, or None. |"
      " Return the minimum of the {gs}, or None if there are none. | Return the smallest of the"
      " {gs}. | Find the smallest {g1}.",
      "smallest_{m1} | min_{m1} | minimum_{m1} | least_{m1} | find_smallest_{m1}", "{E} | None", """
        {r} = None
        for {t} in {xs}:
            if {c}:
                if {r} is None or {x} < {r}:
                    {r} = {x}
        return {r}
      --
        return min(({x} {each} if {c}), default=None)
      --
        {o} = [{x} {each} if {c}]
        return min({o}) if {o} else None
      --
        {o} = [{x} {each} if {c}]
        if not {o}:
            return None
        return min({o})
      """, "self", "number", variables="smallest | best | result", others=KEPT),
    O("keep",
      "Return the {gs}. | Return all {gs}. | Keep only the {gs}. | Return only the {gs}. |"
      " Select the {gs}. | Collect the {gs}. | Keep the {ns} {w} that {vs}. | Find all {gs}. |"
      " Filter {whole}, keeping only {ns} that {vs}. | Get the {gs}. | Return every {g1}.",
      "{m} | keep_{m} | get_{m} | filter_{m} | select_{m} | only_{m} | find_{m} | find_all_{m} |"
      " extract_{m}",
      "{L}", """list
        return [{v} {each} if {c}]
      --list
        {r} = []
        for {t} in {xs}:
            if {c}:
                {r}.append({v})
        return {r}
      --text
        return "".join({v} {each} if {c})
      --text
        {r} = ""
        for {t} in {xs}:
            if {c}:
                {r} += {v}
        return {r}
      --list flat self
        return list(filter(lambda {v}: {c}, {xs}))
      --list seq
        if not {p}:
            return []
        {o} = {name}({rest})
        return [{p}[0], *{o}] if {c0} else {o}
      --text
        return "".join([{v} {each} if {c}])
      --text
        return "".join(filter(lambda {v}: {c}, {xs}))
      --dict
        return {{{v}: {x} for {t} in {xs} if {c}}}
      --dict
        {r} = {{}}
        for {t} in {xs}:
            if {c}:
                {r}[{v}] = {x}
        return {r}
      """, variables=KEPT, weight=3),
    O("remove",
      "Remove the {gs}. | Remove all {gs}. | Return {whole} without the {gs}. | Drop the {gs}. |"
      " Return {whole} with all {gs} removed. | Leave out the {ns} {w} that {vs}. | Remove every"
      " {g1}. | Remove the {ns} {w} that {vs}.",
      "remove_{m} | without_{m} | drop_{m} | delete_{m} | discard_{m} | remove_all_{m}",
      "{L}", """list
        return [{v} {each} if {nc}]
      --list
        {r} = []
        for {t} in {xs}:
            if {nc}:
                {r}.append({v})
        return {r}
      --text
        return "".join({v} {each} if {nc})
      --text
        {r} = ""
        for {t} in {xs}:
            if {nc}:
                {r} += {v}
        return {r}
      --list
        {r} = []
        for {t} in {xs}:
            if {c}:
                continue
            {r}.append({v})
        return {r}
      --list flat self
        return list(filter(lambda {v}: {nc}, {xs}))
      --text
        return "".join([{v} {each} if {nc}])
      --dict
        return {{{v}: {x} for {t} in {xs} if {nc}}}
      --dict
        {r} = {{}}
        for {t} in {xs}:
            if {nc}:
                {r}[{v}] = {x}
        return {r}
      """, variables="result | kept | remaining", weight=2),
    O("first",
      "Return the first {g1}, or None if there is none. | Find the first {g1}. | Return the"
      " first {g1}, or None. | Return the first {n1} {w} that {v1}, or None.",
      "first_{m1} | find_first_{m1} | get_first_{m1} | find_{m1}", "{E} | None", """
        for {t} in {xs}:
            if {c}:
                return {v}
        return None
      --
        return next(({v} {each} if {c}), None)
      --
        {o} = [{v} {each} if {c}]
        return {o}[0] if {o} else None
      --seq
        if not {p}:
            return None
        if {c0}:
            return {p}[0]
        return {name}({rest})
      """, others=KEPT, weight=2),
    O("last",
      "Return the last {g1}, or None if there is none. | Find the last {g1}. | Return the last"
      " {g1}, or None. | Return the last {n1} {w} that {v1}, or None.",
      "last_{m1} | find_last_{m1} | get_last_{m1}", "{E} | None", """
        {r} = None
        for {t} in {xs}:
            if {c}:
                {r} = {v}
        return {r}
      --seq
        for {t} in reversed({xs}):
            if {c}:
                return {v}
        return None
      --
        {o} = [{v} {each} if {c}]
        return {o}[-1] if {o} else None
      """, variables="last | result | found", others=KEPT),
    O("second",
      "Return the second {g1}, or None if there is none. | Find the second {g1}. | Return the"
      " second of the {gs}, or None.",
      "second_{m1} | find_second_{m1} | get_second_{m1}", "{E} | None", """
        {o} = [{v} {each} if {c}]
        return {o}[1] if len({o}) > 1 else None
      --
        {r} = 0
        for {t} in {xs}:
            if {c}:
                {r} += 1
                if {r} == 2:
                    return {v}
        return None
      --
        {o} = [{v} {each} if {c}]
        if len({o}) < 2:
            return None
        return {o}[1]
      """, variables=COUNTERS, others=KEPT),
    O("take",
      "Return the first two {gs}. | Return at most two {gs}, the first ones. | Keep the first"
      " two {gs}.",
      "first_two_{m} | take_two_{m} | get_first_two_{m}", "list[{E}]", """list
        return [{v} {each} if {c}][:2]
      --list
        {r} = []
        for {t} in {xs}:
            if len({r}) < 2 and {pc}:
                {r}.append({v})
        return {r}
      --list
        {o} = [{v} {each} if {c}]
        return {o}[:2]
      """, "list", variables=KEPT, others=KEPT),
    O("index",
      "Return the index of the first {g1}, or -1 if there is none. | Return the position of the"
      " first {g1}, or -1. | Find the index of the first {g1}. | Return the first index of a"
      " {n1} {w} that {v1}, or -1.",
      "index_of_first_{m1} | first_index_of_{m1} | position_of_first_{m1} | first_{m1}_index |"
      " find_index_of_{m1} | index_of_{m1}",
      "int", """
        for {i}, {t} in enumerate({xs}):
            if {c}:
                return {i}
        return -1
      --
        return next(({i} for {i}, {t} in enumerate({xs}) if {c}), -1)
      --seq
        for {i} in range(len({p})):
            if {ci}:
                return {i}
        return -1
      --seq
        {i} = 0
        while {i} < len({p}):
            if {ci}:
                return {i}
            {i} += 1
        return -1
      """, "order"),
    O("last_index",
      "Return the index of the last {g1}, or -1 if there is none. | Return the position of the"
      " last {g1}, or -1. | Find the index of the last {g1}.",
      "index_of_last_{m1} | last_index_of_{m1} | position_of_last_{m1} | last_{m1}_index",
      "int", """
        {r} = -1
        for {i}, {t} in enumerate({xs}):
            if {c}:
                {r} = {i}
        return {r}
      --seq
        for {i} in range(len({p}) - 1, -1, -1):
            if {ci}:
                return {i}
        return -1
      --seq
        {i} = len({p}) - 1
        while {i} >= 0:
            if {ci}:
                return {i}
            {i} -= 1
        return -1
      """, "order", variables="last | result | found"),
    O("indices",
      "Return the indices of the {gs}. | Return the positions of all {gs}. | List the indices of"
      " all {gs}. | Find the positions of the {gs}.",
      "indices_of_{m} | positions_of_{m} | find_indices_of_{m} | indexes_of_{m}", "list[int]", """
        return [{i} for {i}, {t} in enumerate({xs}) if {c}]
      --
        {r} = []
        for {i}, {t} in enumerate({xs}):
            if {c}:
                {r}.append({i})
        return {r}
      --seq
        return [{i} for {i} in range(len({p})) if {ci}]
      """, "order", variables="result | indices | positions"),
    O("all",
      "Return whether all {ns} {w} {vs}. | Return whether every {n1} {w} {v1}. | Return whether"
      " each {n1} {w} {v1}. | Return whether {whole} has only {ns} that {vs}.",
      "all_{pn} | all_{n}_{pv} | every_{n1}_{pv1} | check_all_{pn} | all_{pn} |"
      " is_every_{n1}_{pn} | only_{m}", "bool", """
        for {t} in {xs}:
            if {nc}:
                return False
        return True
      --
        return all({c} {each})
      --
        return not any({nc} {each})
      --seq
        if not {p}:
            return True
        return {pc0} and {name}({rest})
      """, weight=2),
    O("any",
      "Return whether any {n1} {w} {v1}. | Return whether at least one {n1} {w} {v1}. | Return"
      " whether there is any {g1}. | Return whether there is at least one {g1}. | Return whether"
      " some {n1} {w} {v1}.",
      "any_{pn} | has_{m1} | has_any_{m1} | any_{n1}_{pv1} | contains_{m1} | some_{n1}_{pv1}",
      "bool", """
        for {t} in {xs}:
            if {c}:
                return True
        return False
      --
        return any({c} {each})
      --
        return not all({nc} {each})
      --seq
        if not {p}:
            return False
        return {pc0} or {name}({rest})
      """, weight=2),
    O("none",
      "Return whether no {n1} {w} {v1}. | Return whether none of the {ns} {w} {vs}. | Return"
      " whether there is no {g1}. | Return whether there are no {gs}.",
      "no_{m} | none_{pn} | no_{n1}_{pv1} | has_no_{m} | none_of_{n}_{pv}", "bool", """
        for {t} in {xs}:
            if {c}:
                return False
        return True
      --
        return not any({c} {each})
      --
        return all({nc} {each})
      """),
    O("exactly_one",
      "Return whether exactly one {n1} {w} {v1}. | Return whether there is exactly one {g1}. |"
      " Return whether only one {n1} {w} {v1}.",
      "exactly_one_{m1} | has_exactly_one_{m1} | one_{n1}_{pv1} | only_one_{m1}", "bool", """
        return sum(1 {each} if {c}) == 1
      --
        return len([{v} {each} if {c}]) == 1
      --
        {r} = 0
        for {t} in {xs}:
            if {c}:
                {r} += 1
        return {r} == 1
      """, family="exactly_one count", variables=COUNTERS),
    O("partition",
      "Return the {gs} and the other {ns} as two lists. | Split the {ns} {w} into those that"
      " {vs} and the others. | Return two lists, the {gs} and the rest. | Separate the {gs} from"
      " the others.",
      "partition_{m} | split_{m} | separate_{m} | {m}_and_others | split_off_{m}",
      "tuple[list[{E}], list[{E}]]", """list
        {r} = []
        {o} = []
        for {t} in {xs}:
            if {c}:
                {r}.append({v})
            else:
                {o}.append({v})
        return {r}, {o}
      --list
        {r} = [{v} {each} if {c}]
        {o} = [{v} {each} if {nc}]
        return {r}, {o}
      """, "list", family="partition keep remove", variables="matching | kept | first"),
    O("share",
      "Return the share of {ns} {w} that {vs}, or 0 if there are no {ns}. | Return the fraction"
      " of {gs} among all {ns}. | Return the proportion of {gs}. | Return which share of the"
      " {ns} {w} {vs}.",
      "share_of_{m} | fraction_of_{m} | proportion_of_{m} | {m}_share", "float", """list
        if not {p}:
            return 0
        {r} = sum(1 {each} if {c})
        return {r} / len({p})
      --list
        {r} = 0
        for {t} in {xs}:
            if {c}:
                {r} += 1
        return {r} / len({p}) if {p} else 0
      --list
        {r} = len([{v} {each} if {c}])
        return {r} / len({p}) if {p} else 0
      """, "seq list", family="share count", variables=COUNTERS),
    O("leading",
      "Return the {ns} at the start of {whole} as long as they {vs}. | Take {ns} from the start"
      " of {whole} as long as they {vs}. | Return the longest beginning of {whole} in which all"
      " {ns} {vs}.",
      "leading_{m} | take_while_{pn} | {m}_at_start", "{L}", """list
        {r} = []
        for {t} in {xs}:
            if {nc}:
                break
            {r}.append({v})
        return {r}
      --list
        {i} = 0
        while {i} < len({p}) and {pci}:
            {i} += 1
        return {p}[:{i}]
      --text
        {r} = ""
        for {t} in {xs}:
            if {nc}:
                break
            {r} += {v}
        return {r}
      --text
        {i} = 0
        while {i} < len({p}) and {pci}:
            {i} += 1
        return {p}[:{i}]
      """, "seq"),
    O("drop_leading",
      "Drop {ns} from the start of {whole} as long as they {vs}. | Remove the leading {gs}. |"
      " Return {whole} without the leading {gs}. | Skip the {ns} at the start of {whole} as long"
      " as they {vs}.",
      "drop_leading_{m} | skip_leading_{m} | drop_while_{pn} | remove_leading_{m}", "{L}", """
        {i} = 0
        while {i} < len({p}) and {pci}:
            {i} += 1
        return {p}[{i}:]
      --
        for {i}, {t} in enumerate({xs}):
            if {nc}:
                return {p}[{i}:]
        return {p}[len({p}):]
      """, "seq"),
    O("replace",
      "Replace each {g1} by {new}. | Replace all {gs} by {new}. | Replace the {gs} with {new}. |"
      " Return {whole} with each {g1} replaced by {new}. | Put {new} in the place of each {g1}.",
      "replace_{m}_by_{word} | replace_{m}_with_{word} | {m}_to_{word} | replace_{m1}_by_{word}",
      "{L}", """list
        return [{new} if {c} else {v} {each}]
      --list
        {r} = []
        for {t} in {xs}:
            if {c}:
                {r}.append({new})
            else:
                {r}.append({v})
        return {r}
      --text
        return "".join({new} if {c} else {v} {each})
      --text
        {r} = ""
        for {t} in {xs}:
            if {c}:
                {r} += {new}
            else:
                {r} += {v}
        return {r}
      --text
        return "".join([{new} if {c} else {v} {each}])
      """, "self"),
    O("flags",
      "Return for each {n1} {w} whether it {v1}. | Tell for every {n1} {w} whether it {v1}. |"
      " Return a list of truth values: whether each {n1} {w} {v1}.",
      "flag_{m} | {m}_flags | mark_{m} | which_{pv}", "list[bool]", """
        return [{c} {each}]
      --
        {r} = []
        for {t} in {xs}:
            {r}.append({c})
        return {r}
      --
        return [True if {c} else False {each}]
      """, variables="result | flags | marks"),
    O("longest_run",
      "Return the length of the longest run of {gs}. | Return the length of the longest streak"
      " of {gs}. | Return how many {gs} stand side by side at most.",
      "longest_run_of_{m} | longest_streak_of_{m} | max_run_of_{m}", "int", """
        {r} = 0
        {o} = 0
        for {t} in {xs}:
            if {c}:
                {o} += 1
                {r} = max({r}, {o})
            else:
                {o} = 0
        return {r}
      --
        {r} = {o} = 0
        for {t} in {xs}:
            {o} = {o} + 1 if {c} else 0
            if {o} > {r}:
                {r} = {o}
        return {r}
      """, "order", variables="longest | best", others="run | current | length_now"),
    O("sorted",
      "Return the {gs} in ascending order. | Return the {gs}, sorted. | Sort the {gs}. | Return"
      " a sorted list of the {gs}.",
      "sorted_{m} | sort_{m} | {m}_sorted | {m}_in_order", "list[{E}]", """list
        return sorted({v} {each} if {c})
      --list
        {o} = [{v} {each} if {c}]
        return sorted({o})
      --list
        {r} = []
        for {t} in {xs}:
            if {c}:
                {r}.append({v})
        {r}.sort()
        return {r}
      """, "list self", variables=KEPT, others=KEPT),
    O("descending",
      "Return the {gs} in descending order. | Sort the {gs} from the largest to the smallest. |"
      " Return the {gs}, the largest first.",
      "{m}_descending | sort_{m}_descending | {m}_largest_first", "list[{E}]", """list
        return sorted(({v} {each} if {c}), reverse=True)
      --list
        {o} = [{v} {each} if {c}]
        return sorted({o}, reverse=True)
      --list
        {r} = [{v} {each} if {c}]
        {r}.sort(reverse=True)
        return {r}
      """, "list self", "number", variables=KEPT, others=KEPT),
    O("unique",
      "Return the {gs} without duplicates. | Return each {g1} once. | Return the different {gs}"
      " in the order of their first appearance. | Return the distinct {gs}.",
      "unique_{m} | distinct_{m} | different_{m}", "list[{E}]", """
        {r} = []
        for {t} in {xs}:
            if {pc} and {v} not in {r}:
                {r}.append({v})
        return {r}
      --
        return list(dict.fromkeys({v} {each} if {c}))
      """, "self order"),
    O("count_unique",
      "Return the number of different {gs}. | Count the distinct {gs}. | Count the different"
      " {gs}. | Return how many different {gs} there are.",
      "count_distinct_{m} | count_different_{m} | number_of_different_{m} | count_unique_{m}",
      "int", """
        return len({{{v} {each} if {c}}})
      --
        {r} = set()
        for {t} in {xs}:
            if {c}:
                {r}.add({v})
        return len({r})
      --
        return len(set({v} {each} if {c}))
      """, "self order", variables="seen | found | different"),
    O("frequencies",
      "Return a dictionary of how often each {g1} occurs. | Count how often each {g1} occurs. |"
      " Return the frequency of each {g1}. | Map each {g1} to its number of occurrences.",
      "{m1}_frequencies | frequencies_of_{m} | count_each_{m1} | {m1}_counts", "dict[{E}, int]", """
        {r} = {{}}
        for {t} in {xs}:
            if {c}:
                {r}[{v}] = {r}.get({v}, 0) + 1
        return {r}
      --
        {r} = {{}}
        for {t} in {xs}:
            if {nc}:
                continue
            if {v} not in {r}:
                {r}[{v}] = 0
            {r}[{v}] += 1
        return {r}
      --
        return dict(Counter({v} {each} if {c}))
      """, "self order", variables="counts | result | frequencies"),
    O("move",
      "Move the {gs} to the end. | Move all {gs} to the end, and keep the order of the others. |"
      " Return the other {ns} first and then the {gs}.",
      "move_{m}_to_end | {m}_last | put_{m}_last", "list[{E}]", """list
        {r} = [{v} {each} if {c}]
        {o} = [{v} {each} if {nc}]
        return {o} + {r}
      --list
        {r} = []
        {o} = []
        for {t} in {xs}:
            if {c}:
                {r}.append({v})
            else:
                {o}.append({v})
        return {o} + {r}
      """, "list seq", family="move keep remove", variables="moved | tail | last"),
    O("is",
      "Return whether {the} {v1}. | Return whether {the} {v1}. | Return whether {p} {v1}.",
      "{pv1} | {pv1} | check_{pv1} | {n1}_{pv1}", "bool", """single
        return {c}
      --single
        if {c}:
            return True
        return False
      --single
        if {nc}:
            return False
        return True
      """, "single", weight=2),
]  # fmt: skip
TRANSFORM_OPERATIONS = [
    O("map",
      "Return the {fs} of the {ns} {w}. | Return a list of the {fs} of the {ns} {w}. | {Verb}. |"
      " {Verb}. | Return the {f1} of each {n1} {w}. | List the {fs} of all {ns} {w}.",
      "{fs} | {fs}_of_{n} | {verb} | {verb} | list_of_{fs} | get_{fs}", "{M}", """list
        return [{f} {each}]
      --list
        {r} = []
        for {t} in {xs}:
            {r}.append({f})
        return {r}
      --text
        return "".join({f} {each})
      --text
        {r} = ""
        for {t} in {xs}:
            {r} += {f}
        return {r}
      --list flat self
        return list(map(lambda {v}: {f}, {xs}))
      --list seq
        if not {p}:
            return []
        return [{f0}, *{name}({rest})]
      --text
        return "".join([{f} {each}])
      --dict
        return {{{v}: {f} for {t} in {xs}}}
      --dict
        {r} = {{}}
        for {t} in {xs}:
            {r}[{v}] = {f}
        return {r}
      """, weight=4, variables="result | output | results"),
    O("total",
      "Return the sum of the {fs} of the {ns} {w}. | Add up the {fs} of all {ns} {w}. | Return"
      " the total of the {fs} of the {ns} {w}. | Add the {fs} of the {ns} {w}.",
      "sum_of_{fs} | sum_{fs} | total_of_{fs} | {fs}_sum | add_{fs}", "int", """
        {r} = 0
        for {t} in {xs}:
            {r} += {f}
        return {r}
      --
        return sum({f} {each})
      --
        return sum([{f} {each}])
      --flat self
        return sum(map(lambda {v}: {f}, {xs}))
      --seq
        if not {p}:
            return 0
        return {f0} + {name}({rest})
      """, "self", variables="total | result | sum_", weight=2),
    O("average",
      "Return the average of the {fs} of the {ns} {w}, or 0 if there are no {ns}. | Return the"
      " mean of the {fs} of the {ns} {w}. | Return the average {f1} of the {ns} {w}.",
      "average_of_{fs} | mean_of_{fs} | average_{f} | mean_{f}", "float", """list
        if not {p}:
            return 0
        return sum({f} {each}) / len({p})
      --list
        total = 0
        for {t} in {xs}:
            total += {f}
        return total / len({p}) if {p} else 0
      --list
        {o} = [{f} {each}]
        return sum({o}) / len({o}) if {o} else 0
      """, "seq", others="values_ | results"),
    O("highest",
      "Return the largest {f1} of the {ns} {w}, or None if there are no {ns}. | Return the"
      " largest of the {fs} of the {ns} {w}. | Find the greatest {f1} of the {ns} {w}. | Return"
      " the maximum {f1} of the {ns} {w}.",
      "largest_{f} | max_{f} | maximum_{f} | greatest_{f}", "int | None", """
        return max(({f} {each}), default=None)
      --
        {r} = None
        for {t} in {xs}:
            if {r} is None or {f} > {r}:
                {r} = {f}
        return {r}
      --seq
        if not {p}:
            return None
        return max({f} {each})
      """, "self", variables="largest | best | result"),
    O("lowest",
      "Return the smallest {f1} of the {ns} {w}, or None if there are no {ns}. | Return the"
      " smallest of the {fs} of the {ns} {w}. | Find the least {f1} of the {ns} {w}. | Return"
      " the minimum {f1} of the {ns} {w}.",
      "smallest_{f} | min_{f} | minimum_{f} | least_{f}", "int | None", """
        return min(({f} {each}), default=None)
      --
        {r} = None
        for {t} in {xs}:
            if {r} is None or {f} < {r}:
                {r} = {f}
        return {r}
      --seq
        if not {p}:
            return None
        return min({f} {each})
      """, "self", variables="smallest | best | result"),
    O("largest_by",
      "Return the {n1} {w} with the largest {f1}, or None if there are no {ns}. | Find the {n1}"
      " {w} with the greatest {f1}. | Return the first {n1} {w} with the highest {f1}. | Return"
      " the {n1} {w} that has the largest {f1}.",
      "{n1}_with_largest_{f} | max_by_{f} | largest_by_{f} | {n1}_with_max_{f}", "{E} | None", """
        return max({xs}, key=lambda {v}: {f}, default=None)
      --
        {r} = None
        for {t} in {xs}:
            if {r} is None or {f} > {fr}:
                {r} = {v}
        return {r}
      --seq
        if not {p}:
            return None
        return max({xs}, key=lambda {v}: {f})
      """, "flat self", variables="best | result | largest", is_measured=True),
    O("smallest_by",
      "Return the {n1} {w} with the smallest {f1}, or None if there are no {ns}. | Find the {n1}"
      " {w} with the least {f1}. | Return the first {n1} {w} with the lowest {f1}. | Return the"
      " {n1} {w} that has the smallest {f1}.",
      "{n1}_with_smallest_{f} | min_by_{f} | smallest_by_{f} | {n1}_with_min_{f}", "{E} | None", """
        return min({xs}, key=lambda {v}: {f}, default=None)
      --
        {r} = None
        for {t} in {xs}:
            if {r} is None or {f} < {fr}:
                {r} = {v}
        return {r}
      --seq
        if not {p}:
            return None
        return min({xs}, key=lambda {v}: {f})
      """, "flat self", variables="best | result | smallest", is_measured=True),
    O("sort",
      "Sort the {ns} {w} by their {f1}. | Return the {ns} {w} sorted by {f1}. | Return the {ns}"
      " {w} in ascending order of their {fs}. | Order the {ns} {w} by their {fs}.",
      "sort_by_{f} | sorted_by_{f} | sort_{n}_by_{f} | order_by_{f}", "list[{E}]", """list
        return sorted({xs}, key=lambda {v}: {f})
      --list
        {r} = list({xs})
        {r}.sort(key=lambda {v}: {f})
        return {r}
      """, "list flat self", is_measured=True, weight=2, variables="result | ordered | output"),
    O("sort_down",
      "Sort the {ns} {w} by their {f1} in descending order. | Return the {ns} {w} sorted by"
      " {f1}, the largest first. | Return the {ns} {w} in descending order of their {fs}.",
      "sort_by_{f}_descending | sort_{n}_by_{f}_descending | largest_{f}_first", "list[{E}]",
      """list
        return sorted({xs}, key=lambda {v}: {f}, reverse=True)
      --list
        {r} = list({xs})
        {r}.sort(key=lambda {v}: {f}, reverse=True)
        return {r}
      """, "list flat self", is_measured=True, variables="result | ordered | output"),
    O("group",
      "Group the {ns} {w} by their {f1}. | Return a dictionary from each {f1} to the {ns} {w}"
      " that have it. | Collect the {ns} {w} in lists by their {f1}. | Group the {ns} {w} by {f1}.",
      "group_by_{f} | group_{n}_by_{f} | {n}_by_{f}", "dict[{F}, list[{E}]]", """list
        {r} = {{}}
        for {t} in {xs}:
            {r}.setdefault({f}, []).append({v})
        return {r}
      --list
        {r} = defaultdict(list)
        for {t} in {xs}:
            {r}[{f}].append({v})
        return dict({r})
      --list
        {r} = {{}}
        for {t} in {xs}:
            {o} = {f}
            if {o} not in {r}:
                {r}[{o}] = []
            {r}[{o}].append({v})
        return {r}
      """, "list self", is_measured=True, variables="groups | result", others="key | group",
      weight=2),
    O("tally",
      "Count the {ns} {w} by their {f1}. | Return how many {ns} {w} have each {f1}. | Return a"
      " dictionary from each {f1} to the number of {ns} {w} that have it.",
      "count_by_{f} | count_{n}_by_{f} | {f}_counts | tally_by_{f}", "dict[{F}, int]", """
        {r} = {{}}
        for {t} in {xs}:
            {r}[{f}] = {r}.get({f}, 0) + 1
        return {r}
      --
        {r} = {{}}
        for {t} in {xs}:
            {o} = {f}
            {r}[{o}] = {r}.get({o}, 0) + 1
        return {r}
      --
        return dict(Counter({f} {each}))
      """, "self", is_measured=True, variables="counts | result", others="key | group"),
    O("table",
      "Return a dictionary from each {n1} {w} to its {f1}. | Map each {n1} {w} to its {f1}. |"
      " Return a dictionary with the {f1} of each {n1} {w}.",
      "{f}_by_{n1} | {n1}_to_{f} | map_{n}_to_{fs} | {f}_of_each_{n1}", "dict[{E}, {F}]", """
        return {{{v}: {f} {each}}}
      --
        {r} = {{}}
        for {t} in {xs}:
            {r}[{v}] = {f}
        return {r}
      --
        return dict(({v}, {f}) {each})
      """, "self", variables="result | table_"),
    O("pairs",
      "Return a list of pairs of each {n1} {w} and its {f1}. | Pair each {n1} {w} with its {f1}."
      " | Return each {n1} {w} together with its {f1}.",
      "pair_with_{f} | {n1}_{f}_pairs | with_{fs}", "list[tuple[{E}, {F}]]", """
        return [({v}, {f}) {each}]
      --
        {r} = []
        for {t} in {xs}:
            {r}.append(({v}, {f}))
        return {r}
      """, "self", variables="result | pairs_"),
    O("distinct",
      "Return the different {fs} of the {ns} {w}, sorted. | Return the distinct {fs} of the {ns}"
      " {w} in ascending order. | Return a sorted list of the different {fs} of the {ns} {w}.",
      "distinct_{fs} | different_{fs} | unique_{fs}", "list[{F}]", """
        return sorted({{{f} {each}}})
      --
        {r} = set()
        for {t} in {xs}:
            {r}.add({f})
        return sorted({r})
      --
        return sorted(set({f} {each}))
      """, "self", variables="seen | found | different"),
    O("same",
      "Return whether all {ns} {w} have the same {f1}. | Return whether the {fs} of all {ns} {w}"
      " are equal.",
      "same_{f} | all_same_{f} | have_same_{f}", "bool", """
        return len({{{f} {each}}}) <= 1
      --
        return len(set({f} {each})) <= 1
      --seq
        return all({f} == {f0} {each})
      """, "self", is_measured=True),
    O("largest_index",
      "Return the index of the {n1} {w} with the largest {f1}, or -1 if there are no {ns}. |"
      " Return the position of the {n1} {w} with the greatest {f1}, or -1.",
      "index_of_largest_{f} | position_of_largest_{f}", "int", """
        {r} = -1
        for {i}, {t} in enumerate({xs}):
            if {r} == -1 or {f} > {fb}:
                {r} = {i}
        return {r}
      --
        if not {p}:
            return -1
        return max(range(len({p})), key=lambda {i}: {fi})
      """, "seq", variables="best | result", is_measured=True),
    O("join",
      "Join the {fs} of the {ns} {w} with commas. | Return the {fs} of the {ns} {w}, separated"
      " by commas. | Return a string of the {fs} of the {ns} {w} with commas between them.",
      "join_{fs} | {fs}_with_commas | comma_separated_{fs}", "str", """word
        return ",".join({f} {each})
      --word
        return ",".join([{f} {each}])
      """, "self list", family="join"),
    O("apply",
      "Return the {f1} of {the}. | {VerbThe}. | Return the {f1} of {p}. | {VerbThe} and return it.",
      "{f} | {f}_of_{n1} | get_{f} | {verb1} | {verb1}", "{F}", """single
        return {f}
      --single
        {r} = {f}
        return {r}
      """, "single", weight=3),
]  # fmt: skip
BOTH_OPERATIONS = [
    O("map_kept",
      "Return the {fs} of the {gs}. | Return a list of the {fs} of the {gs}. | Collect the {fs}"
      " of all {gs}. | Return the {f1} of each {g1}.",
      "{fs}_of_{m} | get_{fs}_of_{m} | list_{fs}_of_{m}", "list[{F}]", """list
        return [{f} {each} if {c}]
      --list
        {r} = []
        for {t} in {xs}:
            if {c}:
                {r}.append({f})
        return {r}
      """, "list self", family="keep map", weight=3),
    O("sum_kept",
      "Return the sum of the {fs} of the {gs}. | Add up the {fs} of the {gs}. | Return the total"
      " of the {fs} of all {gs}. | Add the {fs} of all {gs}.",
      "sum_of_{fs}_of_{m} | sum_{fs}_of_{m} | total_of_{fs}_of_{m}", "int", """
        {r} = 0
        for {t} in {xs}:
            if {c}:
                {r} += {f}
        return {r}
      --
        return sum({f} {each} if {c})
      """, "self", family="sum total", variables="total | result | sum_", weight=3),
    O("highest_kept",
      "Return the largest {f1} of the {gs}, or None if there are none. | Return the largest of"
      " the {fs} of the {gs}, or None.",
      "largest_{f}_of_{m} | max_{f}_of_{m}", "int | None", """
        return max(({f} {each} if {c}), default=None)
      --
        {r} = None
        for {t} in {xs}:
            if {c}:
                if {r} is None or {f} > {r}:
                    {r} = {f}
        return {r}
      """, "self", family="largest highest", variables="best | result | largest"),
    O("change_some",
      "{VerbGroup}, and leave the others as they are. | {VerbGroup} and keep the other {ns}.",
      "{verbgroup}", "list[{E}]", """list
        return [{f} if {c} else {v} {each}]
      --list
        {r} = []
        for {t} in {xs}:
            if {c}:
                {r}.append({f})
            else:
                {r}.append({v})
        return {r}
      """, "list self", family="change_some map", weight=3),
]  # fmt: skip


# --- What is held out -------------------------------------------------------------------------


SEEN_PAIRS = frozenset(split(
    "count vowel | count digit | count space | count upper | count lower | count letter"
    " | count even | count odd | count positive | count equal | count consonant | keep even"
    " | keep odd | keep positive | keep prime | keep letter | keep digit | keep alphanumeric"
    " | keep divisible | keep nonempty | remove vowel | remove space | remove equal"
    " | remove punctuation | remove digit | sum even | sum odd | sum positive | sum divisible"
    " | sum either | any equal | any in | any divisible | index equal | last_index equal"
    " | indices equal | all letter | all digit | map square | map upper | map double"
    " | map capitalize | map length | map reverse | map cube | map text | total square"
    " | total cube | total length | total digit | largest_by length | smallest_by length"
    " | sort length | group sort_letters | group length | group first_letter | unique nonzero"
    " | move zero | replace vowel | replace space | count prime | sum prime | count in | keep in"
    " | keep not_in | count longer | keep longer"
))  # fmt: skip
"""Pairs in the classics or so common that everybody asks for them; these are always trained on."""


def chance_of(text: str) -> float:
    """A number from 0 to 1 that the text alone decides, evenly spread."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def is_held_out(rendering: str) -> bool:
    """Whether a rendering is never trained on."""
    return zlib.crc32(rendering.encode()) / 2**32 < HELD_OUT_RENDERINGS


def canonical(operation: str, predicate: Predicate) -> str:
    """The name of a pair: one name for what is the same in other words."""
    opposite = predicate.complement
    if operation == "none" or (operation == "all" and opposite):
        return f"any {predicate.key if operation == 'none' else opposite}"
    if operation == "remove" and opposite:
        return f"keep {opposite}"
    return f"{operation} {predicate.key}"


@cache
def pairs(
    operation: Operation, predicate: Predicate | None, transformation: Transformation | None
) -> tuple[str, ...]:
    """The pairs that a composition consists of."""
    families = (operation.family or operation.key).split()
    if predicate and transformation:
        return canonical(families[0], predicate), f"{families[1]} {transformation.key}"
    if predicate:
        return tuple(canonical(name, predicate) for name in families)
    return tuple(f"{name} {transformation.key}" for name in families) if transformation else ()


@cache
def is_held_out_pair(pair: str) -> bool:
    """Whether a pair is never trained on. Single elements are: "is even" and "square" are words."""
    is_word = pair.split()[0] in ("is", "apply")
    return not is_word and pair not in SEEN_PAIRS and chance_of(pair) < HELD_OUT_PAIRS


# --- Composing --------------------------------------------------------------------------------


@dataclass
class Function:
    """A function, drawn but not written yet."""

    kind: str
    name: str
    parameters: list[tuple[str, str]]
    returns: str
    sentence: str
    body: str
    calls: Sequence[tuple[str, str]] = ()
    imports: set[str] = field(default_factory=set)
    helpers: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    constants: dict[str, str] = field(default_factory=dict)
    test: str = ""

    @property
    def rendering(self) -> str:
        """What is held out or not: name, parameters, wording and body."""
        names = " ".join(name for name, _ in self.parameters)
        return f"{self.name} {names}\n{self.sentence}\n{self.body}"

    def examples(self, draw: Draw, count: int, width: int = 200) -> list[tuple[str, str]]:
        """Calls of the function that are no wider, and what they return."""
        width -= len(self.name) + 2
        usable = [call for call in self.calls if len(call[0]) <= width and len(call[1]) <= width]
        chosen = draw.sample(usable, min(count, len(usable)))
        return [(f"{self.name}({arguments})", result) if result[0] != "~"
                else (f"round({self.name}({arguments}), 2)", result[1:])
                for arguments, result in chosen]  # fmt: skip

    def header(self, draw: Draw, hints: bool) -> str:
        """The line with `def`."""
        if hints:
            inner = ", ".join(f"{name}: {hint}" for name, hint in self.parameters)
            line = f"def {self.name}({inner}) -> {self.returns}:\n"
            if len(line) <= MAX_WIDTH:
                return line.replace(": int=", ": int = ")
        inner = ", ".join(name + hint[hint.find("=") :] * ("=" in hint)
                          for name, hint in self.parameters)  # fmt: skip
        return f"def {self.name}({inner}):\n".replace(" = ", "=")

    def docstring(self, draw: Draw, layout: str = "") -> str:
        """The docstring, in one of several layouts, or nothing."""
        layout = layout or draw.one(LAYOUTS)
        if layout == "none":
            return ""
        text = draw.pick(_PHRASED)(draw, self.sentence)
        lines = [text] if len(text) < 77 else textwrap.wrap(text, 82)
        if layout == "examples" and self.calls:
            title = draw.one(" |  |  |  | Example: | Examples: | For example:")
            lines += ["", title] if title else [""]
            for call, result in self.examples(draw, draw.pick((1, 2, 2, 3)), MAX_WIDTH - 8):
                lines += [f">>> {call}"] + [displayed(result)] * (result != "None")
        elif layout == "sections" and self.parameters:
            lines += ["", "Args:"]
            for name, hint in self.parameters:
                lines.append(f"    {name}: {DESCRIBED.get(hint, 'The ' + name)}.")
            if self.sentence.startswith("Return the "):
                lines += ["", "Returns:", f"    The {self.sentence[11:].rstrip('.')}."]
                lines = lines if len(lines[-1]) < 84 else lines[:-3]
        if len(lines) == 1:
            return f'    """{lines[0]}"""\n'
        inner = "\n".join(f"    {line}" if line else "" for line in lines)
        return f'    """{inner[4:]}\n    """\n'

    def text(self, draw: Draw, layout: str = "", hints: bool = False) -> str:
        """The whole function."""
        return self.header(draw, hints) + self.docstring(draw, layout) + self.body


@cache
def displayed(result: str) -> str:
    """A value as the interpreter displays it, texts in single quotes."""
    return repr(ast.literal_eval(result)) if '"' in result else result


LAYOUTS = " | ".join(["line"] * 10 + ["examples"] * 7 + ["sections"] + ["none"] * 2)
DESCRIBED = {
    "int": "A whole number", "float": "A number", "str": "A text", "bool": "A truth value",
    "list[int]": "A list of numbers", "list[float]": "A list of numbers",
    "list[str]": "A list of words", "list[dict]": "A list of records", "list": "A list",
    "dict[str, int]": "A dictionary", "dict": "A dictionary",
    "list[list[int]]": "A list of rows", "list[tuple[str, int]]": "A list of pairs",
}  # fmt: skip
COUNTABLE = tuple(split(
    "number | sum | product | average | mean | total | count | length | share | largest | smallest"
    " | maximum | minimum | area | distance | difference | greatest | square | cube | median"
))  # fmt: skip


@cache
def third_person(word: str) -> str:
    """A verb as in "returns"."""
    if word.endswith(("ss", "sh", "ch", "x", "o")):
        return word + "es"
    return word[:-1] + "ies" if word.endswith(("ly", "py", "ry")) else word + "s"


_SECOND_VERB = re.compile(r" and (return|keep|leave) ")


def described(sentence: str) -> str:
    """A command as a description: "Returns the sum." """
    word, _, rest = sentence.partition(" ")
    return third_person(word) + " " + _SECOND_VERB.sub(r" and \1s ", rest)


def commanded(draw: Draw, sentence: str) -> str:
    """A command in other words."""
    if sentence.startswith("Return whether "):
        claim = sentence[15:].rstrip(".")
        return draw.one(TRUTHS).replace("@", claim)
    if sentence.startswith("Return the "):
        rest = sentence[11:]
        if rest.startswith(COUNTABLE):
            verbs = "Return | Return | Return | Compute | Calculate | Find | Get | Determine"
            return f"{draw.one(verbs)} the {rest}"
        return f"{draw.one('Return | Return | Return | Get | Find | Give')} the {rest}"
    return sentence


TRUTHS = (
    "Return whether @. | Return True if @. | Return True if @, False otherwise. | Check whether @."
    " | Check if @. | Return True if @, else False. | Tell whether @. | Test whether @."
    " | Determine whether @. | Return True when @."
)


def _plain(draw: Draw, sentence: str) -> str:
    return commanded(draw, sentence)


def _third(draw: Draw, sentence: str) -> str:
    return described(commanded(draw, sentence))


def _noun(draw: Draw, sentence: str) -> str:
    return f"The {sentence[11:]}" if sentence.startswith("Return the ") else sentence


_PHRASED = (_plain, _plain, _plain, _plain, _plain, _plain, _third, _noun)
_SLUG = re.compile(r"[\W_]+")


@cache
def slug(text: str) -> str:
    """A text as a part of a name."""
    return _SLUG.sub("_", text).strip("_").lower()


IRREGULAR = {"entry": "entries", "city": "cities", "person": "people"}


@cache
def plural(noun: str) -> str:
    """More than one of it."""
    return IRREGULAR.get(noun, noun + "s")


@dataclass(frozen=True, eq=False)
class Phrases:
    """How a predicate is put into words, for the elements of a source."""

    groups: tuple[str, ...]  # "even {n} {w}", "{n} {w} that {are} even"
    group_names: tuple[str, ...]
    short_names: tuple[str, ...]  # where {k} is a parameter: "{n} above" for "{n} above {k}"
    claims: tuple[str, ...]  # "{are} even"
    heads: tuple[str, ...]  # "even", in names such as all_even


ENDINGS = ("than", "by", "above", "below", "starting with", "ending with", "beginning with", "in",
           "under", "containing", "least", "most", "from", "without", "exceed", "of length",
           "between")  # fmt: skip


@cache
def phrases(predicate: Predicate, source: Source) -> Phrases:
    """All wordings of a predicate for a source."""
    adjectives, be = split(predicate.adjectives), split(predicate.be)
    after, verbs, nouns = map(split, (predicate.after, predicate.verbs, predicate.nouns))
    claims = [f"{{are}} {word}" for word in (*adjectives, *be)] + list(verbs)
    if not claims:
        claims = [f"{{are}} {{a{'n' * (noun[0] in 'aeiou')}}}{noun}" for noun in nouns]
    if source.field:
        name, _, _ = source.field.removeprefix("a ").removeprefix("an ").partition(" of ")
        single = [claim.format(**ONE, a="a ", an="an ", k="{k}", m="{m}") for claim in claims]
        groups = [f"{{n}} {{w}} whose {name} {claim}" for claim in single]
        groups += [f"{{n}} {{w}} with {source.field} {word}" for word in be]
        names = [f"{{n}} with {word} {name}" for word in adjectives]
        names += [f"{{n}} with {name} {word}" for word in be]
        names = names or [f"{{n}} whose {name} {claim}" for claim in single]
        claims = [f"ha{{ve}} {source.field} that {claim}" for claim in single]
        heads = tuple(f"with {word.partition('} with ')[2]}" for word in names)
    else:
        groups = [f"{word} {{n}} {{w}}" for word in adjectives]
        groups += [f"{{n}} {word} {{w}}" for word in be if not word.startswith(("in ", "not in "))]
        groups += [f"{{n}} {word} {{w}}" for word in after]
        groups += [f"{noun} {{w}}" for noun in nouns]
        groups += [f"{{n}} {{w}} that {claim}" for claim in claims]
        names = [*(f"{word} {{n}}" for word in adjectives), *nouns]
        names += [f"{{n}} {word}" for word in (*be, *after)]
        names = names or [f"{{n}} that {verb}" for verb in verbs]
        heads = (*adjectives, *be, *nouns) or (*after, *verbs)
    cut = []
    for name in names:
        start, mark, _ = name.partition(" {k}")
        if mark and predicate.parameters and start.endswith(ENDINGS):
            cut.append(start)
    return Phrases(tuple(groups), tuple(names), tuple(cut), tuple(claims), heads)


@dataclass(frozen=True, eq=False)
class Composition:
    """An operation, its source, and what it asks of the elements or makes of them."""

    operation: Operation
    source: Source
    predicate: Predicate | None = None
    transformation: Transformation | None = None

    @property
    def key(self) -> str:
        """Its name."""
        parts = (self.operation, self.source, self.predicate, self.transformation)
        return " ".join(part.key for part in parts if part)

    @property
    def pairs(self) -> tuple[str, ...]:
        """Its pairs."""
        return pairs(self.operation, self.predicate, self.transformation)

    @property
    def tags(self) -> set[str]:
        """Which bodies suit."""
        tags = set(self.source.tags.split())
        made = self.transformation
        if made and "text" in tags and (made.out != "word" or self.operation.key != "map"):
            tags = tags - {"text"} | {"list"}
        return tags | ({made.out} if made else set())

    def bodies(self) -> list[str]:
        """The bodies that suit, ready for its source."""
        return _bodies(self)


@cache
def _bodies(composition: Composition) -> list[str]:
    tags, found = composition.tags, []
    exclusive = {"dict", "single"} & tags
    for tag, body in blocks(composition.operation.bodies):
        needs = set(tag.split())
        if needs <= tags and exclusive <= needs:
            is_nested = composition.source.over == "{row}"
            found.append(nest(body) if is_nested else body)
    return found


def nest(body: str) -> str:
    """A body whose loop runs over all elements of all rows."""
    lines: list[str] = []
    depth = -1
    for line in body.splitlines(keepends=True):
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith("for {t} in {xs}:"):
            lines.append(f"{' ' * indent}for {{row}} in {{p}}:\n")
            depth = indent
        elif indent <= depth:
            depth = -1
        lines.append("    " * (depth >= 0) + line)
    return "".join(lines)


NUMERIC_OPERATIONS = set(split("total | average | highest | lowest | sum_kept | highest_kept"))
TRIVIAL_IN_RANGE = set(split("positive | negative | zero | nonzero | in | not_in | absolute"))
PLAIN_OPERATIONS = set(split("map | apply | change_some"))
RANGE_OPERATIONS = set(split(
    "count | sum | product | mean | largest | keep | remove | map | total | table | pairs | group"
    " | tally | map_kept | sum_kept"
))  # fmt: skip


def _suits(composition: Composition) -> bool:
    operation, source = composition.operation, composition.source
    predicate, made = composition.predicate, composition.transformation
    keys = {part.key for part in (predicate, made) if part}
    if source.kind not in operation.kinds.split() or not composition.bodies():
        return False
    if not set(operation.needs.split()) <= composition.tags:
        return False
    is_dull = keys & TRIVIAL_IN_RANGE or operation.key not in RANGE_OPERATIONS
    if source.key == "range" and is_dull:
        return False
    if source.field and predicate and not (predicate.adjectives or predicate.be or predicate.verbs):
        return False
    if "single" in source.tags.split() and predicate and predicate.key in ("in", "not_in"):
        return False
    if operation.key == "is" and predicate and predicate.helper:
        return False
    if source.key == "entries" and operation.key not in ("keep", "remove"):
        return False
    if not made:
        return True
    if source.field:
        return False
    if made.out not in ("number", "float") and operation.key in NUMERIC_OPERATIONS:
        return False
    if operation.key == "change_some" and (made.out != source.kind or not made.verbs):
        return False
    if operation.is_measured and not made.is_measure:
        return False
    if predicate and (made.parameters and not made.values):
        return False
    return bool(made.nouns) or operation.key in PLAIN_OPERATIONS


@cache
def compositions() -> tuple[Composition, ...]:
    """All that make sense, those that are held out too."""
    found = []
    for source in SOURCES:
        whether, made = PREDICATES[source.kind], TRANSFORMATIONS[source.kind]
        found += [Composition(o, source, p) for o in PREDICATE_OPERATIONS for p in whether]
        found += [Composition(o, source, None, t) for o in TRANSFORM_OPERATIONS for t in made]
        found += [Composition(o, source, p, t)
                  for o in BOTH_OPERATIONS for p in whether for t in made]  # fmt: skip
    return tuple(filter(_suits, found))


@cache
def _drawers(held_out: bool) -> tuple[list[str], dict[str, dict[str, list[Composition]]]]:
    """Compositions by operation and source, and the operations as often as they are drawn."""
    found: dict[str, dict[str, list[Composition]]] = defaultdict(lambda: defaultdict(list))
    weights = {}
    for one in compositions():
        if any(map(is_held_out_pair, one.pairs)) == held_out:
            weights[one.operation.key] = one.operation.weight
            found[one.operation.key][one.source.key] += [one]
    names = [name for name, weight in weights.items() for _ in range(weight)]
    return names, found


SOURCE_WEIGHTS = {source.key: source.weight for source in SOURCES}


@cache
def _sources(operation: str, held_out: bool) -> list[str]:
    """The sources of an operation, as often as they are drawn."""
    by_source = _drawers(held_out)[1][operation]
    return [key for key in by_source for _ in range(SOURCE_WEIGHTS[key])]


def draw_composition(draw: Draw, held_out: bool = False) -> Composition:
    """One of all compositions that are trained on, or held out."""
    names, found = _drawers(held_out)
    operation = draw.pick(names)
    return draw.pick(found[operation][draw.pick(_sources(operation, held_out))])


@cache
def wordings(operation: Operation, nouns: bool, verbs: bool) -> tuple[list[str], list[str]]:
    """The sentences and names of an operation that use what a transformation has words for."""
    noun, verb = re.compile(r"\{f[s1]?\}"), re.compile(r"\{[vV]erb\w*\}")

    def usable(text: str) -> list[str]:
        parts = [part for part in split(text) if nouns or not noun.search(part)]
        return [part for part in parts if verbs or not verb.search(part)]

    return usable(operation.sentences), usable(operation.names)


NO_PLURALS = ("s", "xs", "lists", "counts")


@cache
def loop_variables(parameter: str, items: str) -> str:
    """Names for the elements of a parameter: `word` of `words`, before all others."""
    one = parameter[:-1] if parameter.endswith("s") and parameter not in NO_PLURALS else ""
    return f"{one} | {one} | {one} | {items}" if one else items


REPLACEMENTS = {
    "number": (("0", "zero"), ("-1", "minus_one"), ("1", "one")),
    "word": (('"x"', "x"), ('"?"', "question_mark"), ('"-"', "dash")),
    "character": (('"*"', "star"), ('"_"', "underscore"), ('"-"', "dash"), ('"#"', "hash")),
}
INDICES = "i | i | i | index | position"


def compose(
    draw: Draw, one: Composition, known: dict[Any, str] | None = None, name_constant: bool = False
) -> Function:
    """A function for a composition, in words and style drawn at random.

    Args:
        known: functions that the module has, by predicate or transformation; they may be called.
        name_constant: give a constant of the predicate a name in the module.
    """
    source, predicate, made = one.source, one.predicate, one.transformation
    has = predicate or made
    used = {"is_prime", "math", "string"}
    parameter = draw.fresh(source.parameters, used)
    constants, extra = _constants(draw, has, used)
    is_double = predicate and made
    made_constants = _constants(draw, made, used, False)[0] if is_double else constants
    words = _words(draw, one, parameter, constants, made_constants, bool(extra))
    names = _names(draw, one, parameter, used, extra, words["name"])
    helper = (known or {}).get(has) if has and not constants else None
    call = f"{helper}({{x}})" if helper and draw.chance(0.8) else ""
    code = call if predicate else ""
    named: dict[str, str] = {}
    if name_constant and predicate and len(constants) == 1 and not extra:
        named = {split(predicate.parameters)[0].upper(): constants["k"]}
    shown = dict(zip("k", named, strict=False)) or constants
    names |= _code(draw, one, names, shown, made_constants, code, "" if predicate else call)
    names["new"] = words["new"]
    parameters = [(parameter, source.hint)] + [(name, _hint(has, source)) for name in extra]
    body = draw.early(one.bodies()).format_map(names)
    return Function(
        one.key, words["name"], parameters, _returns(one), words["sentence"], body,
        calls(one, None if extra else constants, made_constants if is_double else {}, words["new"]),
        _imports(body),
        (predicate.helper,) if predicate and predicate.helper else (),
        one.pairs, named,
    )  # fmt: skip


def _constants(
    draw: Draw, has: Predicate | Transformation | None, used: set[str], may_ask: bool = True
) -> tuple[dict[str, str], list[str]]:
    """What {k} and {m} stand for, and those of them that are parameters."""
    if has is None or not (has.values or has.parameters):
        return {}, []
    if has.values and (not may_ask or draw.chance(0.5)):
        value = draw.pick(has.values)
        values = value if isinstance(value, tuple) else (value,)
        return dict(zip("km", map(show, values), strict=False)), []
    options = [o for o in split(has.parameters) if not used.intersection(o.split(", "))]
    names = draw.pick(options).split(", ")
    used.update(names)
    return dict(zip("km", names, strict=False)), names


def _hint(has: Any, source: Source) -> str:
    if has.key in ("in", "not_in"):
        return {"number": "list[int]", "word": "list[str]", "character": "str"}[source.kind]
    return "int" if isinstance(has.values[0], (int, tuple)) else "str"


def _words(
    draw: Draw, one: Composition, parameter: str, constants: dict[str, str], made: dict[str, str],
    asks: bool,
) -> dict[str, str]:  # fmt: skip
    """The function's name and sentence."""
    operation, source = one.operation, one.source
    noun, where = draw.one(source.nouns), draw.one(source.where).replace("{p}", parameter)
    many = {"n": plural(noun), "w": where, **MANY, "a": "", "an": "", **constants}
    single = {"n": noun, "w": where, **ONE, "a": "a ", "an": "an ", **constants}
    words = {
        "ns": many["n"], "n1": noun, "w": where, "p": parameter,
        "whole": draw.one(source.whole).replace("{p}", parameter),
        "the": draw.one(f"a {noun} | the {noun} | the given {noun}"),
    }  # fmt: skip
    labels = {"n": many["n"], "n1": noun}
    if one.predicate:
        ways = phrases(one.predicate, source)
        group, claim = draw.pick(ways.groups), draw.pick(ways.claims)
        words |= {
            "gs": group.format_map(many), "g1": group.format_map(single),
            "vs": claim.format_map(many), "v1": claim.format_map(single),
        }  # fmt: skip
        short = ways.short_names if asks and draw.chance(0.6) else ()
        group, claim = draw.pick(short or ways.group_names), draw.pick(ways.claims)
        labels |= {
            "m": group.format_map(many), "m1": group.format_map(single),
            "pn": draw.pick(ways.heads).format_map(many),
            "pv": claim.format_map(many), "pv1": claim.format_map(single),
        }  # fmt: skip
    if one.transformation:
        nouns, verb = draw.one(one.transformation.nouns or " "), one.transformation.verbs
        words |= {"fs": nouns.format(**MANY, **made), "f1": nouns.format(**ONE, **made)}
        named = draw.one(one.transformation.nouns or " ")
        labels |= {"fs": named.format(**MANY, **made), "f": named.format(**ONE, **made)}
        if verb:
            place = draw.one(f"each {noun} {where} | every {noun} {where} | all {many['n']} {where}"
                             f" | the {many['n']} {where}")  # fmt: skip
            first, second = draw.one(verb), draw.one(verb)
            words["Verb"] = _capital(first.format(o=place, **made))
            words["VerbThe"] = _capital(first.format(o=words["the"], **made))
            if one.predicate:
                words["VerbGroup"] = _capital(first.format(o=f"the {words['gs']}", **made))
                labels["verbgroup"] = second.format(o=labels["m"], **made)
            objects = draw.one(f"{many['n']} | {many['n']} | all | each")
            labels["verb"] = second.format(o=objects, **made)
            labels["verb1"] = second.format(o=noun, **made)
    new, label = draw.pick(REPLACEMENTS[source.kind])
    words["new"] = new
    made_of = one.transformation
    sentences, names = wordings(
        operation, not made_of or bool(made_of.nouns), not made_of or bool(made_of.verbs)
    )
    name, suffix = slug(draw.pick(names).format(**labels, word=label)), draw.one(source.suffix)
    name += suffix * (not name.endswith("_in"))
    sentence = draw.pick(sentences).format_map(words)
    return {"name": name, "sentence": sentence, "new": new}


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _names(
    draw: Draw, one: Composition, parameter: str, used: set[str], extra: list[str], name: str
) -> dict[str, str]:
    """What the names and loops of a body stand for."""
    source, operation = one.source, one.operation
    used.add(name)
    is_plain = source.key in ("numbers", "words", "text", "values")
    options = loop_variables(parameter, source.items) if is_plain else source.items
    element = draw.fresh(options, used, "entry")
    value = draw.fresh(f"{source.field.split()[-1]} | v", used) if source.field else ""
    row = draw.fresh("row | line | inner", used) if source.over == "{row}" else ""
    names = {"p": parameter, "v": element, "u": value, "row": row, "name": name}
    names["t"] = source.target.format_map(names)
    names["x"] = source.tested.format_map(names) if element != "x" or source.tested else "x"
    names["xs"] = source.over.format_map(names)
    names["each"] = source.each.format_map(names)
    names["r"] = draw.fresh(operation.variables, used, "answer")
    names["o"] = draw.fresh(operation.others, used, "part")
    names["i"] = draw.fresh(INDICES, used, "j")
    names["rest"] = ", ".join([f"{parameter}[1:]", *extra])
    if "single" in source.tags.split():
        names["x"] = parameter
    return names


def _code(
    draw: Draw, one: Composition, names: dict[str, str], constants: dict[str, str],
    made_constants: dict[str, str], condition: str, expression: str,
) -> dict[str, str]:  # fmt: skip
    """What the conditions and expressions of a body stand for."""
    first, at = f"{names['p']}[0]", f"{names['p']}[{names['i']}]"
    code: dict[str, str] = {}
    if one.predicate:
        condition, negated = (
            (condition, f"not {condition}") if condition
            else (draw.one(one.predicate.code), draw.one(one.predicate.negated))
        )  # fmt: skip
        for label, x in (("c", names["x"]), ("c0", first), ("ci", at)):
            text = condition.format(x=x, **constants)
            code[label] = text
            code[f"p{label}"] = f"({text})" if " or " in text or " and " in text else text
        code["nc"] = negated.format(x=names["x"], **constants)
    if one.transformation:
        expression = expression or draw.one(one.transformation.code)
        best = f"{names['p']}[{names['r']}]"
        places = {"f": names["x"], "f0": first, "fi": at, "fr": names["r"], "fb": best}
        for label, x in places.items():
            code[label] = expression.format(x=x, **made_constants)
    return code


def _imports(body: str) -> set[str]:
    """The imports that some code needs."""
    return {IMPORTS.get(name, f"import {name}") for name in _MODULES.findall(body)}


_MODULES = re.compile(
    r"(?<![\w.])(?:(?:math|itertools|os|json|csv|argparse)(?=\.[a-z])"
    r"|string(?=\.(?:punctuation|ascii))|(?:Counter|defaultdict|Path)(?=\()|(?<=: )Path\b)"
)
IMPORTS = {
    "Counter": "from collections import Counter",
    "defaultdict": "from collections import defaultdict",
    "Path": "from pathlib import Path",
}


@cache
def _returns(one: Composition) -> str:
    made, source = one.transformation, one.source
    out = {"number": "int", "float": "float", "word": "str", "": ""}[made.out if made else ""]
    kept = source.element
    many = "str" if "text" in one.tags else kept if "dict" in one.tags else f"list[{kept}]"
    mapped = {"text": "str", "dict": f"dict[str, {out}]"}
    results = next((mapped[tag] for tag in mapped if tag in one.tags), f"list[{out}]")
    text = one.operation.returns.format(E=kept, F=out, L=many, M=results)
    return text.replace("int", "float") if out == "float" and text.startswith("int") else text


# --- Expected values --------------------------------------------------------------------------


WORDS = split(
    "apple | banana | Anna | level | noon | ABC | HELLO | 42 | a1 | Tom | kiwi | egg | tree | sky"
    " | radar | Berlin | 7 | ice | lamp | stone | Otto | NASA | b2 | see | bus | sea | orange | Sue"
    " | oboe | bob | cat | dog | blue | house | 2024 | x | is | Paris | abc | uncle | area | box"
)
TEXTS = split(
    "hello | Hello World | abc123 | a | AEIOU | Python 3.10 | Good morning! | level | xyz | banana"
    " | Mississippi | a-b_c | What? No! | 2 cats and 3 dogs | The quick brown fox | aaa | 12 34"
    " | UPPER lower | see you | b | books | Sea Bass | e4 e5 | 007 | No vowels? Hm. | test | a b c"
)
KEYS = ("a", "b", "c", "d", "x", "Tom", "Anna", "apple", "pear", "egg", "ben", "eve", "sun", "Otto")


def sample(draw: Draw, source: Source, domain: str) -> Any:
    """A value for a source's parameter."""
    low, high = draw.pick(((-5, 9), (-12, 30), (0, 12), (1, 40)))
    low = max(low, 0) if domain == "natural" else low

    def numbers(count: int) -> list[int]:
        return [draw.randint(low, high) for _ in range(count)]

    pool = WORDS
    if domain == "small":
        pool = tuple(word for word in WORDS if word.islower() and word.isalpha())
    size = draw.pick((1, 2, 3, 3, 4, 4, 5, 6))
    if source.key == "numbers":
        return numbers(size)
    if source.key == "words":
        found = [draw.pick(pool) for _ in range(min(size, 5))]
        return found + [""] * (not domain and draw.chance(0.15))
    if source.key == "text":
        return draw.pick(TEXTS)
    if source.key == "split":
        return " ".join(draw.pick(pool) for _ in range(min(size, 5)))
    if source.key == "range":
        return draw.pick((1, 2, 3, 5, 6, 8, 10, 12, 15, 20))
    if source.key == "nested":
        return [numbers(draw.pick((1, 2, 3))) for _ in range(draw.pick((1, 2, 2, 3)))]
    if source.key == "number":
        return draw.randint(low, high)
    if source.key == "word":
        return draw.pick(pool)
    if source.key == "character":
        return draw.pick("aeBz3 k?Ox7u")
    keys = draw.sample(KEYS, min(size, 4))
    if domain == "small":
        keys = [key.lower() for key in keys]
    if source.key == "pairs":
        return list(zip(keys, numbers(len(keys)), strict=True))
    if source.hint.startswith("dict"):
        return dict(zip(keys, numbers(len(keys)), strict=True))
    name = source.tested.split('"')[1]
    low = max(low, 0)
    values = numbers(3) if source.kind == "number" else [draw.pick(pool) for _ in range(3)]
    return [{name: value} for value in values[: draw.pick((1, 2, 3))]]


EMPTY = {"list": "[]", "str": '""', "dict": "{}"}  # in arguments
MOST_SHOWN = 74


@cache
def _helper_names() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for line in ("import math", "import string", "from collections import Counter, defaultdict"):
        exec(line, names)
    names["is_prime"] = lambda n: n > 1 and all(n % d for d in range(2, n))
    return names


_CALLS: dict[Any, list[tuple[str, str]]] = {}


def calls(
    one: Composition, constants: dict[str, str] | None, made: dict[str, str], new: str
) -> list[tuple[str, str]]:
    """Arguments and results of a composition, found by running its first body.

    Args:
        constants: of the predicate, else of the transformation; None if they are parameters.
        made: constants of the transformation.
    """
    new = new if one.operation.key == "replace" else "0"
    key = (one, *(constants or {"": str(constants)}).values(), *made.values(), new)
    if key not in _CALLS:
        _CALLS[key] = _run_samples(one, _values(constants), _values(made), new)
    return _CALLS[key]


def _values(constants: dict[str, str] | None) -> tuple[Any, ...] | None:
    return None if constants is None else tuple(map(ast.literal_eval, constants.values()))


@cache
def _reference(operation: Operation, source: Source, body: str, new: str) -> Callable[..., Any]:
    """A body as a function of a source's value, what is asked of elements and made of them."""
    draw = Draw(operation.key)
    names = _names(draw, Composition(operation, source), "p", set(), [], "f") | {"new": new}
    places = {"": names["x"], "0": "p[0]", "i": f"p[{names['i']}]", "r": names["r"],
              "b": f"p[{names['r']}]"}  # fmt: skip
    for label, place in places.items():
        names[f"c{label}"] = names[f"pc{label}"] = f"C({place})"
        names[f"f{label}"] = f"F({place})"
    names["nc"] = f"not C({names['x']})"
    space = dict(_helper_names())
    exec(f"def f(p, C, F):\n{body.format_map(names)}", space)
    return space["f"]


@cache
def _applied(has: Predicate | Transformation | None) -> Callable[..., Any]:
    """A condition or an expression as a function of {x}, {k} and {m}."""
    if has is None:
        return bool
    code = split(has.code)[0].format(x="x", k="k", m="m")
    return eval(f"lambda x, k=None, m=None: {code}", dict(_helper_names()))


@cache
def _pool(source: Source, domain: str) -> list[tuple[Any, str]]:
    """Values for a source's parameter, and how they are written."""
    draw = Draw(f"{source.key} {domain}")
    values = [sample(draw, source, domain) for _ in range(150)]
    texts = [(value, show(value)) for value in values]
    return [pair for pair in texts if len(pair[1]) < 56]


_LONG_FLOAT = re.compile(r"\.\d{4}|e-")


def _run_samples(
    one: Composition, fixed: tuple[Any, ...] | None, made: tuple[Any, ...] | None, new: str
) -> list[tuple[str, str]]:
    """Short calls whose results differ, and one with nothing in it."""
    source, predicate, transformation = one.source, one.predicate, one.transformation
    has: Any = predicate or transformation
    draw = Draw(f"{one.key} {fixed}")
    reference = _reference(one.operation, source, one.bodies()[0], new)
    condition, change = _applied(predicate), _applied(transformation)
    domains = [part.domain for part in (predicate, transformation) if part and part.domain]
    values = [draw.pick(_pool(source, max(domains, default=""))) for _ in range(14)]
    kind = source.hint.partition("[")[0]
    if kind in EMPTY and source.tags != "single":
        values.append((ast.literal_eval(EMPTY[kind]), EMPTY[kind]))
    found: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for value, text in values:
        given = fixed
        if given is None:
            given = draw.pick(has.values or OTHERS[source.kind])
            given = given if isinstance(given, tuple) else (given,)
            text = ", ".join([text, *map(show, given)])
        changed = made or () if predicate else given
        result = show(reference(
            value, lambda x: condition(x, *given), lambda x: change(x, *changed)  # noqa: B023
        ))  # fmt: skip
        if len(text) + len(result) < MOST_SHOWN and not _LONG_FLOAT.search(result):
            seen[result] += 1
            if seen[result] <= 3:
                found[text] = result
    return list(found.items())[-9:]


OTHERS = {
    "number": ([1, 2, 3], [1, 2, 3, 5, 8], [0, 4, 6]),
    "word": (["a", "x"], ["Tom", "egg", "cat"], ["see", "bus", "42"]),
    "character": ("aex", "abc", "lo "),
}


# --- Classics ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Classic:
    """A function that everybody knows.

    Args:
        names: of the function; bodies that call themselves use the first one.
        signature: parameters with alternative names, and what it returns.
        sentences: what the docstring says; {n} stands for the parameter that is called n here.
        cases: arguments for asserts, separated by semicolons.
        bodies: separated by `--`.
        weight: how often it is drawn.
        helper: another classic that it calls.
        test: for readers of files, a file's text, `=>` and the result.
    """

    names: str
    signature: str
    sentences: str
    cases: str
    bodies: str
    weight: int = 1
    helper: str = ""
    test: str = ""

    @property
    def key(self) -> str:
        """Its first name."""
        return split(self.names)[0]


C = Classic
NUMBER_CLASSICS = [
    C("fibonacci | fibonacci | fib | nth_fibonacci | fibonacci_number", "n | k: int -> int",
      "Return the {n}-th Fibonacci number. | Return the Fibonacci number at position {n}. |"
      " Return the nth Fibonacci number, starting with 0 and 1.",
      "0 ; 1 ; 2 ; 5 ; 7 ; 10 ; 12", """
        a, b = 0, 1
        for _ in range(n):
            a, b = b, a + b
        return a
      --
        if n < 2:
            return n
        return fibonacci(n - 1) + fibonacci(n - 2)
      --
        if n == 0:
            return 0
        if n == 1:
            return 1
        return fibonacci(n - 1) + fibonacci(n - 2)
      """, 6),
    C("fibonacci_sequence | fibonacci_list | first_fibonacci_numbers | fibonacci_numbers",
      "n | count | length: int -> list[int]",
      "Return the first {n} Fibonacci numbers. | Return a list of the first {n} Fibonacci"
      " numbers. | List the first {n} numbers of the Fibonacci sequence.", "0 ; 1 ; 2 ; 5 ; 8", """
        result = []
        a, b = 0, 1
        for _ in range(n):
            result.append(a)
            a, b = b, a + b
        return result
      --
        result = [0, 1]
        while len(result) < n:
            result.append(result[-1] + result[-2])
        return result[:n]
      --
        result = []
        a, b = 0, 1
        while len(result) < n:
            result.append(a)
            a, b = b, a + b
        return result
      """, 2),
    C("fibonacci_up_to | fibonacci_below | fibonacci_until", "limit | maximum: int -> list[int]",
      "Return all Fibonacci numbers up to {limit}. | Return the Fibonacci numbers that are at"
      " most {limit}.", "0 ; 1 ; 8 ; 20 ; 50", """
        result = []
        a, b = 0, 1
        while a <= limit:
            result.append(a)
            a, b = b, a + b
        return result
      --
        result = [0]
        following = 1
        while following <= limit:
            result.append(following)
            following = result[-1] + result[-2]
        return result
      --
        a, b = 0, 1
        result = []
        while a <= limit:
            result += [a]
            a, b = b, a + b
        return result
      """),
    C("factorial | factorial | fact | compute_factorial", "n | number: int -> int",
      "Return the factorial of {n}. | Return the product of the numbers from 1 to {n}. | Return"
      " {n}!, the product of all numbers from 1 to {n}.", "0 ; 1 ; 3 ; 4 ; 5 ; 6", """
        result = 1
        for i in range(2, n + 1):
            result *= i
        return result
      --
        if n <= 1:
            return 1
        return n * factorial(n - 1)
      --
        if n == 0:
            return 1
        return n * factorial(n - 1)
      --
        result = 1
        while n > 1:
            result *= n
            n -= 1
        return result
      """, 5),
    C("gcd | greatest_common_divisor | compute_gcd", "a | m | x: int, b | n | y: int -> int",
      "Return the greatest common divisor of {a} and {b}. | Return the largest number that"
      " divides {a} and {b}.",
      "12, 18 ; 7, 5 ; 10, 5 ; 0, 4 ; 48, 36", """
        while b:
            a, b = b, a % b
        return a
      --
        if b == 0:
            return a
        return gcd(b, a % b)
      --
        while b != 0:
            remainder = a % b
            a = b
            b = remainder
        return a
      --
        return math.gcd(a, b)
      """, 3),
    C("lcm | least_common_multiple | compute_lcm", "a | m: int, b | n: int -> int",
      "Return the least common multiple of {a} and {b}. | Return the smallest number that {a}"
      " and {b} divide.", "4, 6 ; 3, 5 ; 7, 7 ; 2, 8", """
        return a * b // math.gcd(a, b)
      --
        multiple = a
        while multiple % b != 0:
            multiple += a
        return multiple
      --
        return a // math.gcd(a, b) * b
      """, 2),
    C("is_prime | is_prime | prime | check_prime | is_prime_number",
      "n | number | num: int -> bool",
      "Return whether {n} is prime. | Return whether {n} is a prime number. | Return whether a"
      " number is prime.", "1 ; 2 ; 9 ; 17 ; 25 ; 0 ; 97", """
        if n < 2:
            return False
        for i in range(2, int(n**0.5) + 1):
            if n % i == 0:
                return False
        return True
      --
        if n < 2:
            return False
        return all(n % i != 0 for i in range(2, int(n**0.5) + 1))
      --
        if n < 2:
            return False
        i = 2
        while i * i <= n:
            if n % i == 0:
                return False
            i += 1
        return True
      --
        if n < 2:
            return False
        for divisor in range(2, n):
            if n % divisor == 0:
                return False
        return True
      """, 6),
    C("primes_up_to | get_primes | list_primes | primes_to | find_primes",
      "n | limit: int -> list[int]",
      "Return all primes up to {n}. | Return a list of the primes up to {n}. | Return the prime"
      " numbers from 2 to {n}.", "1 ; 2 ; 10 ; 20", """
        primes = []
        for number in range(2, n + 1):
            if all(number % prime != 0 for prime in primes):
                primes.append(number)
        return primes
      --
        return [i for i in range(2, n + 1) if all(i % d for d in range(2, i))]
      --
        primes = []
        for candidate in range(2, n + 1):
            is_prime = True
            for divisor in range(2, candidate):
                if candidate % divisor == 0:
                    is_prime = False
                    break
            if is_prime:
                primes.append(candidate)
        return primes
      """, 2),
    C("sieve | sieve_of_eratosthenes | prime_sieve", "n | limit: int -> list[int]",
      "Return all primes up to {n} with the sieve of Eratosthenes. | Find the primes up to {n}"
      " by the sieve of Eratosthenes.", "2 ; 10 ; 20 ; 30", """
        is_prime = [True] * (n + 1)
        is_prime[0] = is_prime[1] = False
        for i in range(2, int(n**0.5) + 1):
            if is_prime[i]:
                for multiple in range(i * i, n + 1, i):
                    is_prime[multiple] = False
        return [i for i in range(n + 1) if is_prime[i]]
      --
        candidates = set(range(2, n + 1))
        for i in range(2, n + 1):
            candidates -= set(range(2 * i, n + 1, i))
        return sorted(candidates)
      --
        is_prime = [True] * (n + 1)
        primes = []
        for i in range(2, n + 1):
            if is_prime[i]:
                primes.append(i)
                for multiple in range(i * i, n + 1, i):
                    is_prime[multiple] = False
        return primes
      """),
    C("count_primes | number_of_primes | prime_count", "limit | n: int -> int",
      "Return the number of primes up to {limit}. | Count the primes up to {limit}. | Count the"
      " prime numbers from 1 to {limit}.", "1 ; 2 ; 10 ; 20", """
        return sum(1 for number in range(2, limit + 1) if is_prime(number))
      --
        count = 0
        for number in range(2, limit + 1):
            if is_prime(number):
                count += 1
        return count
      --
        return len([i for i in range(2, limit + 1) if is_prime(i)])
      """, helper="is_prime"),
    C("next_prime | following_prime | find_next_prime", "n | number: int -> int",
      "Return the smallest prime greater than {n}. | Find the next prime after {n}.",
      "1 ; 2 ; 7 ; 10 ; 14", """
        candidate = n + 1
        while not is_prime(candidate):
            candidate += 1
        return candidate
      --
        n += 1
        while not is_prime(n):
            n += 1
        return n
      --
        if is_prime(n + 1):
            return n + 1
        return next_prime(n + 1)
      """, helper="is_prime"),
    C("prime_factors | factorize | get_prime_factors | prime_factorization",
      "n | number: int -> list[int]",
      "Return the prime factors of {n} in ascending order. | Return a list of the prime factors"
      " of {n}. | Factorize {n} into primes.", "1 ; 2 ; 12 ; 30 ; 49 ; 13", """
        factors = []
        divisor = 2
        while n > 1:
            while n % divisor == 0:
                factors.append(divisor)
                n //= divisor
            divisor += 1
        return factors
      --
        factors = []
        divisor = 2
        while divisor * divisor <= n:
            if n % divisor == 0:
                factors.append(divisor)
                n //= divisor
            else:
                divisor += 1
        if n > 1:
            factors.append(n)
        return factors
      --
        for divisor in range(2, n + 1):
            if n % divisor == 0:
                return [divisor, *prime_factors(n // divisor)]
        return []
      """, 2),
    C("divisors | get_divisors | all_divisors | factors | find_divisors",
      "n | number: int -> list[int]",
      "Return all divisors of {n}. | Return the numbers that divide {n}. | List the divisors of"
      " {n}.",
      "1 ; 6 ; 7 ; 12 ; 16", """
        return [i for i in range(1, n + 1) if n % i == 0]
      --
        result = []
        for i in range(1, n + 1):
            if n % i == 0:
                result.append(i)
        return result
      --
        small = [i for i in range(1, n + 1) if i * i <= n and n % i == 0]
        return sorted({*small, *(n // i for i in small)})
      """, 2),
    C("count_divisors | number_of_divisors | divisor_count", "n | number: int -> int",
      "Return the number of divisors of {n}. | Count the divisors of {n}. | Return how many"
      " numbers divide {n}.", "1 ; 6 ; 7 ; 12", """
        return sum(1 for i in range(1, n + 1) if n % i == 0)
      --
        count = 0
        for i in range(1, n + 1):
            if n % i == 0:
                count += 1
        return count
      --
        return len([i for i in range(1, n + 1) if n % i == 0])
      """),
    C("is_perfect | is_perfect_number | perfect_number", "n | number: int -> bool",
      "Return whether {n} is a perfect number. | Return whether {n} is the sum of its proper"
      " divisors. | Return whether {n} equals the sum of its smaller divisors.",
      "1 ; 6 ; 10 ; 28", """
        return n > 1 and sum(i for i in range(1, n) if n % i == 0) == n
      --
        total = 0
        for i in range(1, n):
            if n % i == 0:
                total += i
        return n > 1 and total == n
      --
        divisors = [i for i in range(1, n) if n % i == 0]
        return n > 1 and sum(divisors) == n
      """),
    C("power | raise_to_power | exponentiate | pow_",
      "base | x: int, exponent | n: int -> int",
      "Return {base} to the power {exponent}. | Raise {base} to the power of {exponent}. |"
      " Return {base} multiplied by itself {exponent} times.", "2, 3 ; 5, 0 ; 3, 4 ; 10, 2", """
        result = 1
        for _ in range(exponent):
            result *= base
        return result
      --
        if exponent == 0:
            return 1
        return base * power(base, exponent - 1)
      --
        return base**exponent
      --
        if exponent == 0:
            return 1
        half = power(base, exponent // 2)
        return half * half if exponent % 2 == 0 else half * half * base
      """, 2),
    C("collatz | collatz_sequence | collatz_steps_list", "n | start: int -> list[int]",
      "Return the Collatz sequence from {n} down to 1. | Return the Collatz sequence that starts"
      " with {n}.", "1 ; 2 ; 3 ; 6", """
        result = [n]
        while n != 1:
            n = n // 2 if n % 2 == 0 else 3 * n + 1
            result.append(n)
        return result
      --
        result = [n]
        while n > 1:
            if n % 2 == 0:
                n //= 2
            else:
                n = 3 * n + 1
            result.append(n)
        return result
      --
        if n == 1:
            return [1]
        return [n, *collatz(n // 2 if n % 2 == 0 else 3 * n + 1)]
      """),
    C("collatz_length | collatz_steps | count_collatz_steps", "n | number: int -> int",
      "Return the number of Collatz steps from {n} to 1. | Count the steps of the Collatz"
      " sequence from {n} to 1.", "1 ; 2 ; 3 ; 6 ; 7", """
        steps = 0
        while n != 1:
            n = n // 2 if n % 2 == 0 else 3 * n + 1
            steps += 1
        return steps
      --
        steps = 0
        while n != 1:
            if n % 2 == 0:
                n //= 2
            else:
                n = 3 * n + 1
            steps += 1
        return steps
      --
        if n == 1:
            return 0
        return 1 + collatz_length(n // 2 if n % 2 == 0 else 3 * n + 1)
      """),
    C("sum_of_digits | digit_sum | sum_digits | digits_sum | add_digits",
      "n | number | num: int -> int",
      "Return the sum of the digits of {n}. | Add up the digits of {n}. | Add the digits of a"
      " number.",
      "0 ; 7 ; 12 ; 345 ; 999", """
        return sum(int(digit) for digit in str(n))
      --
        total = 0
        while n > 0:
            total += n % 10
            n //= 10
        return total
      --
        total = 0
        for digit in str(n):
            total += int(digit)
        return total
      --
        if n < 10:
            return n
        return n % 10 + sum_of_digits(n // 10)
      """, 3),
    C("count_digits | number_of_digits | digit_count", "n | number: int -> int",
      "Return the number of digits of {n}. | Count the digits of a number. | Return how many"
      " digits {n} has.", "0 ; 7 ; 12 ; 345 ; 1000", """
        return len(str(n))
      --
        count = 1
        while n >= 10:
            n //= 10
            count += 1
        return count
      --
        if n < 10:
            return 1
        return 1 + count_digits(n // 10)
      """),
    C("digits | get_digits | digits_of | list_digits", "n | number: int -> list[int]",
      "Return the digits of {n} as a list. | Return a list of the digits of {n}. | Split a"
      " number into its digits.", "0 ; 7 ; 12 ; 345", """
        return [int(digit) for digit in str(n)]
      --
        result = []
        for digit in str(n):
            result.append(int(digit))
        return result
      --
        return list(map(int, str(n)))
      """),
    C("reverse_number | reverse_digits | reverse_integer", "n | number: int -> int",
      "Return {n} with its digits reversed. | Reverse the digits of {n}. | Return the number"
      " whose digits are those of {n} in reverse order.",
      "0 ; 7 ; 12 ; 345 ; 120", """
        return int(str(n)[::-1])
      --
        result = 0
        while n > 0:
            result = result * 10 + n % 10
            n //= 10
        return result
      --
        digits = list(str(n))
        digits.reverse()
        return int("".join(digits))
      """),
    C("is_armstrong | is_armstrong_number | armstrong", "n | number: int -> bool",
      "Return whether {n} is an Armstrong number. | Return whether {n} is the sum of its digits"
      " to the power of their number.", "1 ; 10 ; 153 ; 370 ; 200", """
        digits = str(n)
        return sum(int(digit) ** len(digits) for digit in digits) == n
      --
        total = 0
        for digit in str(n):
            total += int(digit) ** len(str(n))
        return total == n
      --
        power = len(str(n))
        return n == sum(int(digit) ** power for digit in str(n))
      """),
    C("triangular_number | triangle_number | sum_to | sum_up_to | sum_to_n", "n: int -> int",
      "Return the sum of the numbers from 1 to {n}. | Add the numbers from 1 to {n}. | Return"
      " the {n}-th triangular number, the sum of the numbers from 1 to {n}.",
      "0 ; 1 ; 3 ; 5 ; 10", """
        return n * (n + 1) // 2
      --
        return sum(range(1, n + 1))
      --
        total = 0
        for i in range(1, n + 1):
            total += i
        return total
      --
        if n == 0:
            return 0
        return n + triangular_number(n - 1)
      """, 2),
    C("harmonic_sum | harmonic_number | harmonic", "n: int -> float",
      "Return the sum of 1 / i for i from 1 to {n}. | Return the {n}-th harmonic number.",
      "0 ; 1 ; 2 ; 4", """
        return sum(1 / i for i in range(1, n + 1))
      --
        total = 0
        for i in range(1, n + 1):
            total += 1 / i
        return total
      --
        return sum([1 / i for i in range(1, n + 1)])
      """),
    C("sum_of_squares | squares_sum | sum_squares_up_to", "n: int -> int",
      "Return the sum of the squares of the numbers from 1 to {n}. | Add the squares from 1 to"
      " {n}.", "0 ; 1 ; 3 ; 4", """
        return sum(i**2 for i in range(1, n + 1))
      --
        total = 0
        for i in range(1, n + 1):
            total += i * i
        return total
      --
        return n * (n + 1) * (2 * n + 1) // 6
      """),
    C("to_binary | decimal_to_binary | binary | int_to_binary", "n | number: int -> str",
      "Return {n} as a binary string. | Convert {n} to a string of binary digits. | Convert a"
      " number to binary.", "0 ; 1 ; 2 ; 5 ; 10 ; 255", """
        return bin(n)[2:]
      --
        if n == 0:
            return "0"
        result = ""
        while n > 0:
            result = str(n % 2) + result
            n //= 2
        return result
      --
        return f"{n:b}"
      --
        if n < 2:
            return str(n)
        return to_binary(n // 2) + str(n % 2)
      """, 2),
    C("from_binary | binary_to_decimal | binary_to_int | parse_binary",
      "text | s | bits | binary: str -> int",
      "Return the number that a binary string stands for. | Convert the binary string {text} to"
      " a number. | Convert a string of binary digits to a number.", '"0" ; "1" ; "101" ; "1111"',
      """
        return int(text, 2)
      --
        result = 0
        for bit in text:
            result = result * 2 + int(bit)
        return result
      --
        total = 0
        for i, bit in enumerate(reversed(text)):
            if bit == "1":
                total += 2**i
        return total
      """),
    C("to_base | convert_to_base | number_in_base", "n | number: int, base: int -> str",
      "Return {n} as a string in the given base, up to 10. | Convert {n} to the base {base},"
      " which is at most 10.", "0, 2 ; 5, 2 ; 10, 3 ; 64, 8", """
        if n == 0:
            return "0"
        result = ""
        while n > 0:
            result = str(n % base) + result
            n //= base
        return result
      --
        digits = []
        while n >= base:
            digits.append(str(n % base))
            n //= base
        digits.append(str(n))
        return "".join(reversed(digits))
      --
        if n < base:
            return str(n)
        return to_base(n // base, base) + str(n % base)
      """),
    C("count_bits | bit_count | count_ones | popcount", "n | number: int -> int",
      "Return the number of ones in the binary form of {n}. | Count the bits of {n} that are"
      " set. | Count the ones in the binary form of a number.", "0 ; 1 ; 3 ; 8 ; 255", """
        return bin(n).count("1")
      --
        count = 0
        while n:
            count += n & 1
            n >>= 1
        return count
      --
        count = 0
        while n > 0:
            n &= n - 1
            count += 1
        return count
      """),
    C("is_power_of_two | power_of_two | is_power_of_2", "n | number: int -> bool",
      "Return whether {n} is a power of two. | Return whether {n} is a power of 2.",
      "1 ; 2 ; 6 ; 16 ; 0", """
        return n > 0 and n & (n - 1) == 0
      --
        if n < 1:
            return False
        while n % 2 == 0:
            n //= 2
        return n == 1
      --
        power = 1
        while power < n:
            power *= 2
        return power == n
      """),
    C("is_perfect_square | is_square | perfect_square", "n | number: int -> bool",
      "Return whether {n} is a perfect square. | Return whether {n} is the square of a whole"
      " number.",
      "0 ; 1 ; 2 ; 9 ; 15 ; 16", """
        return math.isqrt(n) ** 2 == n
      --
        root = int(n**0.5)
        return root * root == n
      --
        i = 0
        while i * i < n:
            i += 1
        return i * i == n
      """),
    C("integer_square_root | integer_sqrt | isqrt", "n | number: int -> int",
      "Return the largest number whose square is at most {n}. | Return the integer square root"
      " of {n}.", "0 ; 1 ; 8 ; 9 ; 15 ; 16", """
        root = 0
        while (root + 1) ** 2 <= n:
            root += 1
        return root
      --
        return math.isqrt(n)
      --
        low, high = 0, n
        while low < high:
            middle = (low + high + 1) // 2
            if middle * middle <= n:
                low = middle
            else:
                high = middle - 1
        return low
      """),
    C("is_leap_year | leap_year | is_leap", "year | y: int -> bool",
      "Return whether {year} is a leap year. | Return whether a year is a leap year.",
      "2000 ; 1900 ; 2024 ; 2023", """
        return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
      --
        if year % 400 == 0:
            return True
        if year % 100 == 0:
            return False
        return year % 4 == 0
      --
        if year % 4 != 0:
            return False
        if year % 100 != 0:
            return True
        return year % 400 == 0
      """, 3),
    C("days_in_month | month_length | number_of_days", "month | m: int -> int",
      "Return the number of days of a month of a common year, from 1 to 12. | Return how many"
      " days the month with number {month} has in a common year.", "1 ; 2 ; 4 ; 12", """
        if month == 2:
            return 28
        if month in (4, 6, 9, 11):
            return 30
        return 31
      --
        return [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1]
      --
        if month in (4, 6, 9, 11):
            return 30
        return 28 if month == 2 else 31
      """),
    C("fizzbuzz | fizz_buzz | fizzbuzz_list", "n | limit: int -> list[str]",
      "Return the words of FizzBuzz from 1 to {n}. | List the numbers from 1 to {n} with Fizz,"
      " Buzz and FizzBuzz for multiples of 3, 5 and both. | Return the FizzBuzz list from 1 to"
      " {n}.",
      "1 ; 3 ; 5 ; 6", """
        result = []
        for i in range(1, n + 1):
            if i % 15 == 0:
                result.append("FizzBuzz")
            elif i % 3 == 0:
                result.append("Fizz")
            elif i % 5 == 0:
                result.append("Buzz")
            else:
                result.append(str(i))
        return result
      --
        result = []
        for i in range(1, n + 1):
            word = ""
            if i % 3 == 0:
                word += "Fizz"
            if i % 5 == 0:
                word += "Buzz"
            result.append(word or str(i))
        return result
      --
        words = []
        for i in range(1, n + 1):
            words.append("Fizz" * (i % 3 == 0) + "Buzz" * (i % 5 == 0) or str(i))
        return words
      """, 3),
    C("fizzbuzz_number | fizz_buzz_of | fizzbuzz_word", "n | number: int -> str",
      "Return Fizz if {n} is divisible by 3, Buzz if by 5, FizzBuzz if by both, else the number"
      " as a string.", "1 ; 3 ; 5 ; 15 ; 7", """
        if n % 15 == 0:
            return "FizzBuzz"
        if n % 3 == 0:
            return "Fizz"
        if n % 5 == 0:
            return "Buzz"
        return str(n)
      --
        result = ""
        if n % 3 == 0:
            result += "Fizz"
        if n % 5 == 0:
            result += "Buzz"
        return result or str(n)
      --
        if n % 3 == 0 and n % 5 == 0:
            return "FizzBuzz"
        elif n % 3 == 0:
            return "Fizz"
        elif n % 5 == 0:
            return "Buzz"
        else:
            return str(n)
      """),
    C("celsius_to_fahrenheit | to_fahrenheit | convert_celsius",
      "celsius | degrees | c: float -> float",
      "Convert a temperature from Celsius to Fahrenheit. | Return a temperature in degrees"
      " Fahrenheit, given degrees Celsius.", "0 ; 100 ; -40 ; 25", """
        return celsius * 9 / 5 + 32
      --
        fahrenheit = celsius * 9 / 5 + 32
        return fahrenheit
      --
        return 9 * celsius / 5 + 32
      """, 2),
    C("fahrenheit_to_celsius | to_celsius | convert_fahrenheit",
      "fahrenheit | degrees | f: float -> float",
      "Convert a temperature from Fahrenheit to Celsius. | Return a temperature in degrees"
      " Celsius, given degrees Fahrenheit.", "32 ; 212 ; -40 ; 77", """
        return (fahrenheit - 32) * 5 / 9
      --
        celsius = (fahrenheit - 32) * 5 / 9
        return celsius
      --
        return 5 * (fahrenheit - 32) / 9
      """, 2),
    C("kilometers_to_miles | km_to_miles | convert_kilometers", "kilometers | km: float -> float",
      "Convert kilometers to miles, with 1.6 kilometers in a mile. | Return a distance in miles,"
      " where a mile has 1.6 kilometers.", "0 ; 1.6 ; 8 ; 16", """
        return kilometers / 1.6
      --
        miles = kilometers / 1.6
        return miles
      --
        kilometers_per_mile = 1.6
        return kilometers / kilometers_per_mile
      """),
    C("minutes_to_hours | hours_and_minutes | split_minutes", "minutes | m: int -> tuple[int, int]",
      "Return hours and minutes of a number of minutes. | Split minutes into hours and the"
      " minutes that are left.", "0 ; 59 ; 60 ; 135", """
        return minutes // 60, minutes % 60
      --
        hours = minutes // 60
        rest = minutes % 60
        return hours, rest
      --
        return divmod(minutes, 60)
      """),
    C("format_time | seconds_to_time | time_string", "seconds | s: int -> str",
      "Return a number of seconds as a text with minutes and seconds, such as 02:05. | Format"
      " seconds as MM:SS.", "0 ; 59 ; 125 ; 600", """
        return f"{seconds // 60:02}:{seconds % 60:02}"
      --
        minutes, rest = divmod(seconds, 60)
        return f"{minutes:02}:{rest:02}"
      --
        minutes = str(seconds // 60).zfill(2)
        return minutes + ":" + str(seconds % 60).zfill(2)
      """),
    C("circle_area | area_of_circle | circle_area | compute_circle_area | get_circle_area",
      "radius | r: float -> float",
      "Return the area of a circle with the given radius. | Return the area of a circle. |"
      " Return the area of a circle of radius {radius}.", "0 ; 1 ; 2 ; 3.5 ; 10", """
        return math.pi * radius**2
      --
        return math.pi * radius * radius
      --
        area = math.pi * radius**2
        return area
      """, 4),
    C("circle_circumference | circumference | circle_perimeter | perimeter_of_circle",
      "radius | r: float -> float",
      "Return the circumference of a circle with the given radius. | Return the perimeter of a"
      " circle.", "0 ; 1 ; 2 ; 3.5 ; 10", """
        return 2 * math.pi * radius
      --
        circumference = 2 * math.pi * radius
        return circumference
      --
        diameter = 2 * radius
        return math.pi * diameter
      """),
    C("sphere_volume | volume_of_sphere | ball_volume", "radius | r: float -> float",
      "Return the volume of a sphere with the given radius. | Return the volume of a ball.",
      "0 ; 1 ; 2 ; 3.5 ; 10", """
        return 4 / 3 * math.pi * radius**3
      --
        volume = 4 / 3 * math.pi * radius**3
        return volume
      --
        return 4 * math.pi * radius**3 / 3
      """),
    C("rectangle_area | area_of_rectangle | rect_area",
      "width | a | w: float, height | b | h: float -> float",
      "Return the area of a rectangle. | Return the area of a rectangle with the given width and"
      " height.", "2, 3 ; 0, 5 ; 4, 4 ; 2.5, 2", """
        return width * height
      --
        area = width * height
        return area
      --
        result = width * height
        return result
      """, 2),
    C("rectangle_perimeter | perimeter_of_rectangle | rect_perimeter",
      "width | a | w: float, height | b | h: float -> float",
      "Return the perimeter of a rectangle. | Return the perimeter of a rectangle with the given"
      " width and height.", "2, 3 ; 0, 5 ; 4, 4", """
        return 2 * (width + height)
      --
        perimeter = 2 * (width + height)
        return perimeter
      --
        return 2 * width + 2 * height
      """),
    C("triangle_area | area_of_triangle | compute_triangle_area",
      "base | b: float, height | h: float -> float",
      "Return the area of a triangle with the given base and height. | Return the area of a"
      " triangle.",
      "2, 3 ; 0, 5 ; 4, 4 ; 3, 5", """
        return base * height / 2
      --
        return 0.5 * base * height
      --
        area = base * height / 2
        return area
      """, 2),
    C("is_triangle | is_valid_triangle | can_form_triangle", "a: float, b: float, c: float -> bool",
      "Return whether three sides can form a triangle. | Return whether there is a triangle with"
      " sides {a}, {b} and {c}.", "3, 4, 5 ; 1, 2, 3 ; 2, 2, 3 ; 1, 1, 5", """
        return a + b > c and a + c > b and b + c > a
      --
        short, middle, long = sorted([a, b, c])
        return short + middle > long
      --
        return 2 * max(a, b, c) < a + b + c
      """),
    C("hypotenuse | hypotenuse_length | pythagoras", "a | x: float, b | y: float -> float",
      "Return the hypotenuse of a right triangle with legs {a} and {b}. | Return the length of"
      " the hypotenuse of a right triangle.", "3, 4 ; 5, 12 ; 0, 2 ; 6, 8", """
        return math.sqrt(a**2 + b**2)
      --
        return (a * a + b * b) ** 0.5
      --
        return math.hypot(a, b)
      """),
    C("distance | euclidean_distance | point_distance",
      "x1: float, y1: float, x2: float, y2: float -> float",
      "Return the distance between the points ({x1}, {y1}) and ({x2}, {y2}). | Return the"
      " distance of two points in the plane.",
      "0, 0, 3, 4 ; 1, 1, 1, 1 ; 0, 0, 0, 2 ; 1, 2, 4, 6", """
        return math.sqrt((x2 - x1) ** 2 + (y2 - y1) ** 2)
      --
        dx = x2 - x1
        dy = y2 - y1
        return (dx**2 + dy**2) ** 0.5
      --
        return math.hypot(x2 - x1, y2 - y1)
      """, 2),
    C("manhattan_distance | taxicab_distance | grid_distance",
      "a | p | first: tuple, b | q | second: tuple -> int",
      "Return the Manhattan distance of two points. | Return the sum of the distances of two"
      " points along both axes.", "(0, 0), (3, 4) ; (1, 1), (1, 1) ; (2, 5), (0, 7)", """
        return abs(a[0] - b[0]) + abs(a[1] - b[1])
      --
        return sum(abs(x - y) for x, y in zip(a, b))
      --
        total = 0
        for x, y in zip(a, b):
            total += abs(x - y)
        return total
      """),
    C("quadratic_roots | solve_quadratic | roots", "a: float, b: float, c: float -> list[float]",
      "Return the real roots of {a}x² + {b}x + {c} in ascending order. | Solve a quadratic"
      " equation, and return its real solutions.",
      "1, -3, 2 ; 1, 2, 1 ; 1, 0, 1 ; 1, 0, -4", """
        discriminant = b**2 - 4 * a * c
        if discriminant < 0:
            return []
        root = discriminant**0.5
        return sorted({(-b - root) / (2 * a), (-b + root) / (2 * a)})
      --
        discriminant = b * b - 4 * a * c
        if discriminant < 0:
            return []
        if discriminant == 0:
            return [-b / (2 * a)]
        root = math.sqrt(discriminant)
        return sorted([(-b - root) / (2 * a), (-b + root) / (2 * a)])
      --
        inner = b**2 - 4 * a * c
        if inner < 0:
            return []
        solutions = {(-b + sign * math.sqrt(inner)) / (2 * a) for sign in (-1, 1)}
        return sorted(solutions)
      """),
    C("compound_interest | final_balance | grow_capital",
      "principal | amount | capital: float, rate | interest: float, years | n: int -> float",
      "Return {principal} with compound interest at {rate} percent after {years} years. | Return"
      " the balance after some years of compound interest in percent.",
      "100, 0, 5 ; 100, 10, 0 ; 100, 100, 2 ; 200, 50, 2", """
        return principal * (1 + rate / 100) ** years
      --
        factor = 1 + rate / 100
        return principal * factor**years
      --
        balance = float(principal)
        for _ in range(years):
            balance = balance * (1 + rate / 100)
        return balance
      """),
    C("percentage | percent | to_percent", "part | value: float, whole | total: float -> float",
      "Return which percentage {part} is of {whole}. | Return {part} in percent of {whole}, or 0"
      " if the whole is 0.", "1, 2 ; 5, 5 ; 0, 3 ; 1, 0", """
        if whole == 0:
            return 0
        return part / whole * 100
      --
        return part / whole * 100 if whole != 0 else 0
      --
        if whole:
            return part / whole * 100
        return 0
      """),
    C("discount_price | apply_discount | discounted_price",
      "price | amount: float, percent | discount: float -> float",
      "Return {price} reduced by {percent} percent. | Return the price after a discount in"
      " percent.",
      "100, 10 ; 50, 0 ; 80, 50 ; 200, 25", """
        return price * (100 - percent) / 100
      --
        return price - price * percent / 100
      --
        reduction = price * percent / 100
        return price - reduction
      """),
    C("bmi | body_mass_index | compute_bmi", "weight: float, height: float -> float",
      "Return the body mass index of a weight in kilograms and a height in meters.",
      "80, 2 ; 64, 1.6 ; 100, 2", """
        return round(weight / height**2, 2)
      --
        result = weight / (height * height)
        return round(result, 2)
      --
        index = weight / height**2
        return round(index, 2)
      """),
    C("clamp | limit_to | clip | restrict",
      "x | value | number: int, low | minimum: int, high | maximum: int -> int",
      "Return {x} limited to the range from {low} to {high}. | Limit a value to a range.",
      "5, 0, 10 ; -3, 0, 10 ; 15, 0, 10", """
        return max(low, min(x, high))
      --
        if x < low:
            return low
        if x > high:
            return high
        return x
      --
        return min(max(x, low), high)
      """, 2),
    C("sign | signum | sign_of | get_sign", "x | number | n: int -> int",
      "Return 1 for positive numbers, -1 for negative ones and 0 for zero. | Return the sign of"
      " {x}: -1, 0 or 1.", "5 ; -3 ; 0", """
        if x > 0:
            return 1
        if x < 0:
            return -1
        return 0
      --
        if x == 0:
            return 0
        return 1 if x > 0 else -1
      --
        return (x > 0) - (x < 0)
      """, 2),
    C("absolute_value | absolute | my_abs", "x | number | n: int -> int",
      "Return the absolute value of {x}. | Return the absolute value of a number.", "5 ; -3 ; 0",
      """
        return x if x >= 0 else -x
      --
        if x < 0:
            return -x
        return x
      --
        return abs(x)
      """),
    C("max_of_two | larger | maximum_of_two", "a | x: int, b | y: int -> int",
      "Return the larger of {a} and {b}. | Return the larger of two numbers.",
      "1, 2 ; 5, 3 ; 4, 4", """
        return a if a > b else b
      --
        if a > b:
            return a
        return b
      --
        return max(a, b)
      """),
    C("max_of_three | largest_of_three | maximum_of_three",
      "a | x: int, b | y: int, c | z: int -> int",
      "Return the largest of {a}, {b} and {c}. | Return the largest of three numbers.",
      "1, 2, 3 ; 5, 3, 4 ; 4, 4, 4 ; 1, 9, 2", """
        return max(a, b, c)
      --
        if a >= b and a >= c:
            return a
        if b >= c:
            return b
        return c
      --
        largest = a
        if b > largest:
            largest = b
        if c > largest:
            largest = c
        return largest
      """),
    C("add | add_numbers | sum_of_two | plus", "a | x: int, b | y: int -> int",
      "Return the sum of {a} and {b}. | Add {a} and {b}. | Add two numbers.",
      "1, 2 ; 0, 0 ; -1, 1 ; 10, 5", """
        return a + b
      --
        result = a + b
        return result
      --
        total = a + b
        return total
      """, 3),
    C("multiply | product | times", "a | x: int, b | y: int -> int",
      "Return the product of {a} and {b}. | Multiply {a} and {b}. | Multiply two numbers.",
      "1, 2 ; 0, 7 ; -1, 3 ; 4, 5", """
        return a * b
      --
        result = a * b
        return result
      --
        total = 0
        for _ in range(abs(b)):
            total += a
        return total if b >= 0 else -total
      """),
    C("subtract | difference | minus", "a | x: int, b | y: int -> int",
      "Return {a} minus {b}. | Subtract {b} from {a}. | Return the difference of {a} and {b}.",
      "1, 2 ; 5, 3 ; 4, 4", """
        return a - b
      --
        result = a - b
        return result
      --
        return a + (-b)
      """),
    C("safe_divide | divide | safe_division", "a | x: float, b | y: float -> float | None",
      "Return {a} divided by {b}, or None if {b} is zero. | Divide {a} by {b}, and return None"
      " if {b} is zero.", "6, 3 ; 1, 0 ; 5, 2 ; 0, 4", """
        if b == 0:
            return None
        return a / b
      --
        try:
            return a / b
        except ZeroDivisionError:
            return None
      --
        return a / b if b != 0 else None
      """),
    C("average_of_two | midpoint | mean_of_two", "a | x: float, b | y: float -> float",
      "Return the average of {a} and {b}. | Return the middle between {a} and {b}.",
      "1, 2 ; 5, 3 ; 4, 4 ; 0, -4", """
        return (a + b) / 2
      --
        total = a + b
        return total / 2
      --
        return a + (b - a) / 2
      """),
    C("swap | swap_values | exchange", "a | x | first: int, b | y | second: int -> tuple",
      "Return {b} and {a}. | Swap two values. | Return two values in exchanged order.",
      "1, 2 ; 5, 3 ; 4, 4", """
        return b, a
      --
        a, b = b, a
        return a, b
      --
        temporary = a
        a = b
        b = temporary
        return a, b
      """),
    C("binomial | binomial_coefficient | choose | combinations_count", "n: int, k: int -> int",
      "Return the number of ways to choose {k} of {n} things. | Return the binomial coefficient"
      " {n} over {k}.", "5, 2 ; 4, 0 ; 4, 4 ; 6, 3", """
        if k == 0 or k == n:
            return 1
        return binomial(n - 1, k - 1) + binomial(n - 1, k)
      --
        result = 1
        for i in range(k):
            result = result * (n - i) // (i + 1)
        return result
      --
        return math.factorial(n) // (math.factorial(k) * math.factorial(n - k))
      """),
    C("to_roman | int_to_roman | roman_numeral | number_to_roman", "n | number: int -> str",
      "Return {n} as a Roman numeral. | Convert {n} to a Roman numeral. | Convert a number to a"
      " Roman numeral.", "1 ; 4 ; 9 ; 14 ; 40 ; 1999", """
        numerals = [
            (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"),
            (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
        ]
        result = ""
        for value, letters in numerals:
            while n >= value:
                result += letters
                n -= value
        return result
      --
        values = [1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1]
        letters = ["M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I"]
        result = ""
        for i in range(len(values)):
            result += letters[i] * (n // values[i])
            n %= values[i]
        return result
      --
        values = [1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1]
        letters = ["M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I"]
        result = []
        for value, letter in zip(values, letters):
            count, n = divmod(n, value)
            result.append(letter * count)
        return "".join(result)
      """, 2),
    C("from_roman | roman_to_int | parse_roman | roman_to_number",
      "text | s | roman | numeral: str -> int",
      "Return the number that a Roman numeral stands for. | Convert a Roman numeral to a number.",
      '"I" ; "IV" ; "IX" ; "XIV" ; "MCMXCIX"', """
        values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
        total = 0
        previous = 0
        for letter in reversed(text):
            value = values[letter]
            if value < previous:
                total -= value
            else:
                total += value
            previous = value
        return total
      --
        values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
        total = 0
        for i in range(len(text)):
            value = values[text[i]]
            if i + 1 < len(text) and value < values[text[i + 1]]:
                total -= value
            else:
                total += value
        return total
      --
        values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
        numbers = [values[letter] for letter in text]
        total = numbers[-1]
        for value, following in zip(numbers, numbers[1:]):
            total += value if value >= following else -value
        return total
      """),
    C("pascal_row | pascals_triangle_row | triangle_row", "n: int -> list[int]",
      "Return row {n} of Pascal's triangle, counted from 0. | Return the {n}-th row of Pascal's"
      " triangle.", "0 ; 1 ; 2 ; 4", """
        row = [1]
        for _ in range(n):
            row = [1] + [a + b for a, b in zip(row, row[1:])] + [1]
        return row
      --
        if n == 0:
            return [1]
        above = pascal_row(n - 1)
        return [1] + [above[i] + above[i + 1] for i in range(n - 1)] + [1]
      --
        return [math.comb(n, k) for k in range(n + 1)]
      """),
    C("pascals_triangle | pascal_triangle | pascal_rows", "n | rows: int -> list[list[int]]",
      "Return the first {n} rows of Pascal's triangle.", "0 ; 1 ; 3 ; 4", """
        result = []
        row = [1]
        for _ in range(n):
            result.append(row)
            row = [1] + [a + b for a, b in zip(row, row[1:])] + [1]
        return result
      --
        result = []
        for i in range(n):
            row = [1] * (i + 1)
            for j in range(1, i):
                row[j] = result[i - 1][j - 1] + result[i - 1][j]
            result.append(row)
        return result
      --
        return [[math.comb(i, j) for j in range(i + 1)] for i in range(n)]
      """),
    C("hanoi_moves | towers_of_hanoi_moves | count_hanoi_moves", "n | disks: int -> int",
      "Return how many moves the towers of Hanoi with {n} disks take. | Return the number of"
      " moves for {n} disks in the towers of Hanoi.", "0 ; 1 ; 3 ; 5", """
        return 2**n - 1
      --
        if n == 0:
            return 0
        return 2 * hanoi_moves(n - 1) + 1
      --
        moves = 0
        for _ in range(n):
            moves = 2 * moves + 1
        return moves
      """),
    C("hanoi | towers_of_hanoi | solve_hanoi",
      "n: int, source: str, target: str, spare: str -> list[tuple[str, str]]",
      "Return the moves that bring {n} disks from {source} to {target}. | Solve the towers of"
      " Hanoi. | Return a list of the moves of the towers of Hanoi.",
      '0, "A", "C", "B" ; 1, "A", "C", "B" ; 2, "A", "C", "B"', """
        if n == 0:
            return []
        before = hanoi(n - 1, source, spare, target)
        after = hanoi(n - 1, spare, target, source)
        return before + [(source, target)] + after
      --
        if n == 0:
            return []
        result = hanoi(n - 1, source, spare, target)
        result.append((source, target))
        result += hanoi(n - 1, spare, target, source)
        return result
      --
        if n == 0:
            return []
        return [
            *hanoi(n - 1, source, spare, target),
            (source, target),
            *hanoi(n - 1, spare, target, source),
        ]
      """),
    C("multiplication_table | times_table | product_table", "n | size: int -> list[list[int]]",
      "Return the multiplication table from 1 to {n} as a list of rows.", "0 ; 1 ; 2 ; 3", """
        return [[i * j for j in range(1, n + 1)] for i in range(1, n + 1)]
      --
        table = []
        for i in range(1, n + 1):
            row = []
            for j in range(1, n + 1):
                row.append(i * j)
            table.append(row)
        return table
      --
        table = []
        for i in range(1, n + 1):
            table.append([i * j for j in range(1, n + 1)])
        return table
      """),
    C("countdown | count_down | numbers_down", "n | start: int -> list[int]",
      "Return the numbers from {n} down to 1. | Count down from {n} to 1.", "0 ; 1 ; 3 ; 5", """
        return list(range(n, 0, -1))
      --
        result = []
        while n > 0:
            result.append(n)
            n -= 1
        return result
      --
        if n == 0:
            return []
        return [n, *countdown(n - 1)]
      """),
    C("grade | letter_grade | grade_of | score_to_grade", "score | points: int -> str",
      "Return the grade of a score: A from 90, B from 80, C from 70, else F. | Convert a score"
      " to a grade: A from 90, B from 80, C from 70, otherwise F.", "95 ; 85 ; 70 ; 20 ; 90", """
        if score >= 90:
            return "A"
        if score >= 80:
            return "B"
        if score >= 70:
            return "C"
        return "F"
      --
        if score >= 90:
            return "A"
        elif score >= 80:
            return "B"
        elif score >= 70:
            return "C"
        else:
            return "F"
      --
        for limit, letter in ((90, "A"), (80, "B"), (70, "C")):
            if score >= limit:
                return letter
        return "F"
      """),
    C("calculate | calculator | apply_operator",
      "a | x: int, operator | op: str, b | y: int -> int",
      "Apply an operator to two numbers: +, - or *. | Return the result of {a} and {b} with one"
      " of the operators +, - and *.", '1, "+", 2 ; 5, "-", 3 ; 4, "*", 4', """
        if operator == "+":
            return a + b
        if operator == "-":
            return a - b
        if operator == "*":
            return a * b
        raise ValueError(f"unknown operator {operator}")
      --
        results = {"+": a + b, "-": a - b, "*": a * b}
        return results[operator]
      --
        if operator == "+":
            return a + b
        elif operator == "-":
            return a - b
        elif operator == "*":
            return a * b
        else:
            raise ValueError(f"unknown operator {operator}")
      """),
]  # fmt: skip
TEXT_CLASSICS = [
    C("is_palindrome | is_palindrome | palindrome | check_palindrome",
      "text | s | word | string: str -> bool",
      "Return whether {text} is a palindrome. | Return whether {text} reads the same forwards"
      " and backwards. | Return whether a word is a palindrome.",
      '"level" ; "hello" ; "" ; "noon" ; "ab"', """
        return text == text[::-1]
      --
        for i in range(len(text) // 2):
            if text[i] != text[-i - 1]:
                return False
        return True
      --
        left, right = 0, len(text) - 1
        while left < right:
            if text[left] != text[right]:
                return False
            left += 1
            right -= 1
        return True
      --
        if len(text) < 2:
            return True
        return text[0] == text[-1] and is_palindrome(text[1:-1])
      """, 4),
    C("is_palindrome_sentence | is_palindromic_sentence | is_sentence_palindrome",
      "text | sentence | s: str -> bool",
      "Return whether the letters of {text} read the same in both directions, ignoring case. |"
      " Return whether a sentence is a palindrome, ignoring case and everything but letters.",
      '"Never odd or even" ; "Hello" ; "" ; "A man, a plan, a canal: Panama"', """
        letters = [char.lower() for char in text if char.isalpha()]
        return letters == letters[::-1]
      --
        letters = "".join(char for char in text.lower() if char.isalpha())
        return letters == letters[::-1]
      --
        letters = ""
        for char in text:
            if char.isalpha():
                letters += char.lower()
        return letters == letters[::-1]
      """),
    C("reverse_string | reverse_string | reverse_text | reversed_string | reverse",
      "text | s | string | word: str -> str",
      "Return {text} in reverse order. | Reverse a string. | Return {text} reversed. | Return"
      " the characters of {text} in reverse order.", '"abc" ; "" ; "a" ; "hello"', """
        return text[::-1]
      --
        result = ""
        for char in text:
            result = char + result
        return result
      --
        return "".join(reversed(text))
      --
        if not text:
            return ""
        return reverse_string(text[1:]) + text[0]
      """, 5),
    C("reverse_words | reverse_word_order | words_reversed", "text | sentence | s: str -> str",
      "Return the words of {text} in reverse order. | Reverse the order of the words of a"
      " sentence.",
      '"hello world" ; "a b c" ; "" ; "one"', """
        return " ".join(reversed(text.split()))
      --
        words = text.split()
        words.reverse()
        return " ".join(words)
      --
        return " ".join(text.split()[::-1])
      """, 2),
    C("count_vowels | count_vowels | number_of_vowels | vowel_count | count_vowels_in_text",
      "text | s | string | word: str -> int",
      "Return the number of vowels in {text}. | Count the vowels of {text}. | Count the vowels"
      " of a text. | Count the vowels in a text. | Return how many vowels {text} has.",
      '"hello" ; "" ; "AEIOU" ; "xyz" ; "Banana"', """
        count = 0
        for char in text.lower():
            if char in "aeiou":
                count += 1
        return count
      --
        return sum(1 for char in text if char.lower() in "aeiou")
      --
        vowels = "aeiouAEIOU"
        count = 0
        for char in text:
            if char in vowels:
                count += 1
        return count
      --
        return sum(char in "aeiou" for char in text.lower())
      """, 4),
    C("remove_vowels | without_vowels | drop_vowels | strip_vowels",
      "text | s | string: str -> str",
      "Return {text} without vowels. | Remove the vowels from {text}. | Remove all vowels of a"
      " text.",
      '"hello" ; "" ; "AEIOU" ; "xyz" ; "Banana"', """
        return "".join(char for char in text if char.lower() not in "aeiou")
      --
        result = ""
        for char in text:
            if char not in "aeiouAEIOU":
                result += char
        return result
      --
        for vowel in "aeiouAEIOU":
            text = text.replace(vowel, "")
        return text
      """, 2),
    C("are_anagrams | is_anagram | anagrams | check_anagram",
      "a | first | s | word1: str, b | second | t | word2: str -> bool",
      "Return whether {a} and {b} are anagrams. | Return whether two words have the same"
      " letters. | Return whether {a} and {b} are anagrams of each other.",
      '"listen", "silent" ; "a", "b" ; "", "" ; "aab", "abb"', """
        return sorted(a) == sorted(b)
      --
        return Counter(a) == Counter(b)
      --
        if len(a) != len(b):
            return False
        for letter in a:
            if a.count(letter) != b.count(letter):
                return False
        return True
      --
        counts = {}
        for letter in a:
            counts[letter] = counts.get(letter, 0) + 1
        for letter in b:
            counts[letter] = counts.get(letter, 0) - 1
        return all(count == 0 for count in counts.values())
      """, 3),
    C("caesar | caesar_cipher | caesar_encrypt | encrypt_caesar",
      "text | message | s: str, shift | key | k: int -> str",
      "Shift each letter of {text} by {shift} places in the alphabet. | Encrypt {text} with the"
      " Caesar cipher and the key {shift}. | Return {text} with each letter moved by {shift}"
      " places.",
      '"abc", 1 ; "xyz", 3 ; "Hello, World!", 13 ; "", 5', """
        result = ""
        for char in text:
            if char.isupper():
                result += chr((ord(char) - ord("A") + shift) % 26 + ord("A"))
            elif char.islower():
                result += chr((ord(char) - ord("a") + shift) % 26 + ord("a"))
            else:
                result += char
        return result
      --
        result = []
        for char in text:
            if char.isalpha():
                base = ord("A") if char.isupper() else ord("a")
                result.append(chr((ord(char) - base + shift) % 26 + base))
            else:
                result.append(char)
        return "".join(result)
      --
        lower = "abcdefghijklmnopqrstuvwxyz"
        upper = lower.upper()
        shift %= 26
        shifted = lower[shift:] + lower[:shift] + upper[shift:] + upper[:shift]
        return text.translate(str.maketrans(lower + upper, shifted))
      """, 2),
    C("rot13 | rot13_cipher | encode_rot13", "text | message | s: str -> str",
      "Return {text} with each letter moved by 13 places. | Encode a text with ROT13.",
      '"abc" ; "Hello" ; "" ; "nop"', """
        result = ""
        for char in text:
            if char.isalpha():
                base = ord("A") if char.isupper() else ord("a")
                result += chr((ord(char) - base + 13) % 26 + base)
            else:
                result += char
        return result
      --
        letters = "abcdefghijklmnopqrstuvwxyz"
        table = {letter: letters[(i + 13) % 26] for i, letter in enumerate(letters)}
        table |= {letter.upper(): other.upper() for letter, other in table.items()}
        return "".join(table.get(char, char) for char in text)
      --
        lower = "abcdefghijklmnopqrstuvwxyz"
        moved = lower[13:] + lower[:13]
        table = str.maketrans(lower + lower.upper(), moved + moved.upper())
        return text.translate(table)
      """),
    C("run_length_encode | run_length_encoding | compress | encode_runs", "text | s: str -> str",
      "Replace each run of equal characters by the character and its length. | Return the"
      " run-length encoding of {text}, such as a3b1 for aaab.", '"aaab" ; "" ; "abc" ; "zz"', """
        result = ""
        i = 0
        while i < len(text):
            count = 1
            while i + count < len(text) and text[i + count] == text[i]:
                count += 1
            result += text[i] + str(count)
            i += count
        return result
      --
        return "".join(f"{char}{len(list(run))}" for char, run in itertools.groupby(text))
      --
        if not text:
            return ""
        result = ""
        previous = text[0]
        count = 0
        for char in text:
            if char == previous:
                count += 1
            else:
                result += previous + str(count)
                previous = char
                count = 1
        return result + previous + str(count)
      """, 2),
    C("run_length_decode | run_length_decoding | decompress | decode_runs", "text | s: str -> str",
      "Undo a run-length encoding with one-digit lengths: a3b1 becomes aaab.",
      '"a3b1" ; "" ; "z2"', """
        result = ""
        for i in range(0, len(text), 2):
            result += text[i] * int(text[i + 1])
        return result
      --
        return "".join(char * int(count) for char, count in zip(text[::2], text[1::2]))
      --
        result = ""
        for char, count in zip(text[::2], text[1::2]):
            result += char * int(count)
        return result
      """),
    C("is_balanced | balanced_brackets | are_brackets_balanced | check_brackets",
      "text | s | brackets: str -> bool",
      "Return whether all brackets in {text} are closed in the right order. | Return whether the"
      " brackets (), [] and {{}} in {text} are balanced.",
      '"()" ; "([])" ; "(]" ; "((" ; ""', """
        closing = {")": "(", "]": "[", "}": "{"}
        stack = []
        for char in text:
            if char in closing.values():
                stack.append(char)
            elif char in closing:
                if not stack or stack.pop() != closing[char]:
                    return False
        return not stack
      --
        opening = {"(": ")", "[": "]", "{": "}"}
        expected = []
        for char in text:
            if char in opening:
                expected.append(opening[char])
            elif char in ")]}":
                if not expected or expected.pop() != char:
                    return False
        return len(expected) == 0
      --
        previous = None
        text = "".join(char for char in text if char in "()[]{}")
        while text != previous:
            previous = text
            for pair in ("()", "[]", "{}"):
                text = text.replace(pair, "")
        return text == ""
      """, 2),
    C("hamming_distance | count_differences | hamming",
      "a | first | s: str, b | second | t: str -> int",
      "Return the number of positions at which {a} and {b} differ. | Return the Hamming distance"
      " of two strings of equal length.",
      '"abc", "abd" ; "", "" ; "karolin", "kathrin" ; "a", "b"', """
        return sum(x != y for x, y in zip(a, b))
      --
        count = 0
        for x, y in zip(a, b):
            if x != y:
                count += 1
        return count
      --
        distance = 0
        for i in range(len(a)):
            if a[i] != b[i]:
                distance += 1
        return distance
      """),
    C("levenshtein | edit_distance | levenshtein_distance",
      "a | first | s: str, b | second | t: str -> int",
      "Return the least number of insertions, deletions and changes that turn {a} into {b}. |"
      " Return the edit distance of two strings. | Return the Levenshtein distance between {a}"
      " and {b}.",
      '"kitten", "sitting" ; "", "abc" ; "abc", "abc" ; "ab", "b"', """
        if not a or not b:
            return len(a) + len(b)
        if a[0] == b[0]:
            return levenshtein(a[1:], b[1:])
        shorter = min(levenshtein(a[1:], b), levenshtein(a, b[1:]))
        return 1 + min(shorter, levenshtein(a[1:], b[1:]))
      --
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, 1):
            above, row = row, [i]
            for j, y in enumerate(b, 1):
                row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
        return row[-1]
      --
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i in range(len(a) + 1):
            for j in range(len(b) + 1):
                if i == 0 or j == 0:
                    table[i][j] = i + j
                elif a[i - 1] == b[j - 1]:
                    table[i][j] = table[i - 1][j - 1]
                else:
                    above, left = table[i - 1][j], table[i][j - 1]
                    table[i][j] = 1 + min(above, left, table[i - 1][j - 1])
        return table[len(a)][len(b)]
      """),
    C("longest_common_prefix | common_prefix | shared_prefix", "words | strings: list[str] -> str",
      "Return the longest prefix that all words share. | Return the longest common prefix of"
      " {words}.",
      '["flower", "flow", "flight"] ; ["a", "b"] ; [] ; ["abc"]', """
        if not words:
            return ""
        prefix = words[0]
        for word in words:
            while not word.startswith(prefix):
                prefix = prefix[:-1]
        return prefix
      --
        prefix = ""
        for letters in zip(*words):
            if len(set(letters)) > 1:
                break
            prefix += letters[0]
        return prefix
      --
        if not words:
            return ""
        shortest = min(words, key=len)
        for i, letter in enumerate(shortest):
            if any(word[i] != letter for word in words):
                return shortest[:i]
        return shortest
      """),
    C("word_count | count_words | number_of_words | words_in_text",
      "text | sentence | s: str -> int",
      "Return the number of words in {text}. | Count the words of {text}. | Count the words in a"
      " text.",
      '"hello world" ; "" ; "one" ; "a b c d"', """
        return len(text.split())
      --
        count = 0
        for _ in text.split():
            count += 1
        return count
      --
        words = text.split()
        return len(words)
      """, 3),
    C("word_frequencies | count_each_word | word_counts | words_frequency",
      "text | sentence | s: str -> dict[str, int]",
      "Return how often each word of {text} occurs. | Return a dictionary of how often each word"
      " occurs. | Count how often each word occurs in a text.",
      '"a b a" ; "" ; "one two two" ; "Hi hi"', """
        counts = {}
        for word in text.split():
            counts[word] = counts.get(word, 0) + 1
        return counts
      --
        return dict(Counter(text.split()))
      --
        counts = {}
        for word in text.split():
            if word in counts:
                counts[word] += 1
            else:
                counts[word] = 1
        return counts
      --
        words = text.split()
        return {word: words.count(word) for word in words}
      """, 2),
    C("most_common_word | most_frequent_word | commonest_word",
      "text | sentence: str -> str | None",
      "Return the word that occurs most often in {text}, or None if there is none. | Return the"
      " most frequent word of a text, or None.", '"a b a" ; "" ; "one two two" ; "x"', """
        words = text.split()
        return max(words, key=words.count) if words else None
      --
        counts = Counter(text.split())
        return counts.most_common(1)[0][0] if counts else None
      --
        best = None
        words = text.split()
        for word in words:
            if best is None or words.count(word) > words.count(best):
                best = word
        return best
      """, 2),
    C("longest_word | find_longest_word | get_longest_word", "text | sentence | s: str -> str",
      "Return the longest word of {text}, or an empty string. | Return the first of the longest"
      " words of a text. | Find the longest word in a text.",
      '"a bbb cc" ; "" ; "one two" ; "hello world again"', """
        longest = ""
        for word in text.split():
            if len(word) > len(longest):
                longest = word
        return longest
      --
        return max(text.split(), key=len, default="")
      --
        words = text.split()
        return max(words, key=len) if words else ""
      """, 3),
    C("title_case | capitalize_words | to_title_case | capitalize_each_word",
      "text | sentence | s: str -> str",
      "Return {text} with the first letter of each word in upper case. | Capitalize each word of"
      " {text}. | Capitalize the words of a text.", '"hello world" ; "" ; "a b" ; "one"', """
        return " ".join(word.capitalize() for word in text.split())
      --
        return " ".join([word.capitalize() for word in text.split()])
      --
        result = []
        for word in text.split():
            result.append(word[0].upper() + word[1:].lower())
        return " ".join(result)
      """, 2),
    C("acronym | initials | make_acronym | get_initials", "text | name | phrase: str -> str",
      "Return the first letters of the words of {text} in upper case. | Return the acronym of"
      " {text}.",
      '"as soon as possible" ; "" ; "random access memory"', """
        return "".join(word[0].upper() for word in text.split())
      --
        result = ""
        for word in text.split():
            result += word[0].upper()
        return result
      --
        return "".join(word[0] for word in text.split()).upper()
      """),
    C("char_frequency | letter_frequencies | count_characters | character_counts | count_letters",
      "text | s | string | word: str -> dict[str, int]",
      "Return how often each character of {text} occurs. | Return a dictionary of how often each"
      " character occurs. | Count how often each character occurs in a text.",
      '"aab" ; "" ; "hello" ; "abc"', """
        counts = {}
        for char in text:
            counts[char] = counts.get(char, 0) + 1
        return counts
      --
        return dict(Counter(text))
      --
        return {char: text.count(char) for char in text}
      --
        counts = {}
        for char in text:
            if char not in counts:
                counts[char] = 0
            counts[char] += 1
        return counts
      """, 2),
    C("most_common_character | most_frequent_character | commonest_letter",
      "text | s | string: str -> str | None",
      "Return the character that occurs most often in {text}, or None. | Return the most"
      " frequent character of a text, or None if it is empty.", '"aab" ; "" ; "hello" ; "x"', """
        return max(text, key=text.count, default=None)
      --
        if not text:
            return None
        counts = Counter(text)
        return counts.most_common(1)[0][0]
      --
        best = None
        for char in text:
            if best is None or text.count(char) > text.count(best):
                best = char
        return best
      """),
    C("first_unique_character | first_unique_letter | first_non_repeating_character",
      "text | s | string: str -> str | None",
      "Return the first character that occurs only once, or None. | Return the first character"
      " of {text} that is not repeated, or None.", '"aab" ; "" ; "hello" ; "aabb" ; "swiss"', """
        for char in text:
            if text.count(char) == 1:
                return char
        return None
      --
        counts = Counter(text)
        return next((char for char in text if counts[char] == 1), None)
      --
        counts = {}
        for char in text:
            counts[char] = counts.get(char, 0) + 1
        for char in text:
            if counts[char] == 1:
                return char
        return None
      """),
    C("is_pangram | pangram | uses_all_letters | contains_all_letters",
      "text | sentence | s: str -> bool",
      "Return whether {text} contains every letter of the alphabet. | Return whether a sentence"
      " is a pangram.", '"The quick brown fox jumps over the lazy dog" ; "hello" ; ""', """
        return set("abcdefghijklmnopqrstuvwxyz") <= set(text.lower())
      --
        text = text.lower()
        return all(letter in text for letter in "abcdefghijklmnopqrstuvwxyz")
      --
        for letter in string.ascii_lowercase:
            if letter not in text.lower():
                return False
        return True
      """),
    C("camel_to_snake | to_snake_case | snake_case", "text | name | s: str -> str",
      "Convert a name in camel case to snake case: myName becomes my_name.",
      '"myName" ; "a" ; "someLongName" ; ""', """
        result = ""
        for char in text:
            if char.isupper():
                result += "_" + char.lower()
            else:
                result += char
        return result
      --
        return "".join("_" + char.lower() if char.isupper() else char for char in text)
      --
        parts = []
        for char in text:
            parts.append(f"_{char.lower()}" if char.isupper() else char)
        return "".join(parts)
      """),
    C("snake_to_camel | to_camel_case | camel_case", "text | name | s: str -> str",
      "Convert a name in snake case to camel case: my_name becomes myName.",
      '"my_name" ; "a" ; "some_long_name"', """
        first, *others = text.split("_")
        return first + "".join(word.capitalize() for word in others)
      --
        words = text.split("_")
        return words[0] + "".join(word.capitalize() for word in words[1:])
      --
        result = ""
        for i, word in enumerate(text.split("_")):
            result += word if i == 0 else word.capitalize()
        return result
      """),
    C("count_substring | count_overlapping | count_occurrences_of_part",
      "text | s: str, part | pattern: str -> int",
      "Return how often {part} occurs in {text}, overlaps included. | Count the places of {text}"
      " at which {part} begins.", '"aaa", "aa" ; "abcabc", "bc" ; "abc", "x"', """
        count = 0
        for i in range(len(text)):
            if text[i:].startswith(part):
                count += 1
        return count
      --
        return sum(text.startswith(part, i) for i in range(len(text)))
      --
        count = 0
        for i in range(len(text) - len(part) + 1):
            if text[i : i + len(part)] == part:
                count += 1
        return count
      """),
    C("swap_case | switch_case | invert_case", "text | s: str -> str",
      "Return {text} with upper case and lower case exchanged. | Swap the case of all letters of"
      " {text}.", '"aBc" ; "" ; "Hello"', """
        return text.swapcase()
      --
        return "".join(char.lower() if char.isupper() else char.upper() for char in text)
      --
        result = ""
        for char in text:
            result += char.lower() if char.isupper() else char.upper()
        return result
      """),
    C("truncate | shorten | cut_text", "text | s: str, length | limit | n: int -> str",
      "Return {text}, cut to {length} characters with ... at the end if it is longer.",
      '"hello", 3 ; "abc", 3 ; "", 2 ; "abcdef", 5', """
        if len(text) <= length:
            return text
        return text[:length] + "..."
      --
        return text if len(text) <= length else text[:length] + "..."
      --
        if len(text) > length:
            return f"{text[:length]}..."
        return text
      """),
    C("remove_duplicate_letters | unique_characters | distinct_characters", "text | s: str -> str",
      "Return each character of {text} once, in the order of first appearance. | Remove repeated"
      " characters from {text}.", '"banana" ; "" ; "abc" ; "aabb"', """
        result = ""
        for char in text:
            if char not in result:
                result += char
        return result
      --
        return "".join(dict.fromkeys(text))
      --
        seen = set()
        result = []
        for char in text:
            if char not in seen:
                seen.add(char)
                result.append(char)
        return "".join(result)
      """),
    C("greet | say_hello | greeting | hello", "name | person: str -> str",
      "Return a greeting for {name}. | Greet a person by name: Hello, Ann!",
      '"Ann" ; "World" ; "Bob"', """
        return f"Hello, {name}!"
      --
        return "Hello, " + name + "!"
      --
        greeting = f"Hello, {name}!"
        return greeting
      """, 2),
    C("full_name | join_names | format_name", "first: str, last: str -> str",
      "Return first and last name with a space between them. | Join a first and a last name.",
      '"Ann", "Lee" ; "Bob", "Ray"', """
        return f"{first} {last}"
      --
        return first + " " + last
      --
        return " ".join([first, last])
      """),
    C("is_valid_email | looks_like_email | check_email", "text | address | email: str -> bool",
      "Return whether {text} has one @ with text before it and a dot behind it. | Return whether"
      " a text looks like an email address.",
      '"a@b.c" ; "abc" ; "@b.c" ; "a@bc"', """
        name, _, domain = text.partition("@")
        return bool(name) and "." in domain and text.count("@") == 1
      --
        if text.count("@") != 1:
            return False
        name, domain = text.split("@")
        return name != "" and "." in domain
      --
        parts = text.split("@")
        return len(parts) == 2 and len(parts[0]) > 0 and "." in parts[1]
      """),
    C("parse_pairs | parse_settings | read_pairs", "text | s: str -> dict[str, str]",
      "Return a dictionary of a text such as a=1,b=2. | Parse name=value pairs that are"
      " separated by commas.", '"a=1,b=2" ; "x=y" ; "name=Ann,age=5"', """
        result = {}
        for pair in text.split(","):
            key, value = pair.split("=")
            result[key] = value
        return result
      --
        return dict(pair.split("=") for pair in text.split(","))
      --
        pairs = [pair.split("=") for pair in text.split(",")]
        return {key: value for key, value in pairs}
      """),
    C("parse_numbers | read_numbers | numbers_from_text", "text | line | s: str -> list[int]",
      "Return the numbers of a text such as 1,2,3. | Parse whole numbers that are separated by"
      " commas.",
      '"1,2,3" ; "5" ; "10,-2"', """
        return [int(part) for part in text.split(",")]
      --
        return list(map(int, text.split(",")))
      --
        result = []
        for part in text.split(","):
            result.append(int(part))
        return result
      """),
    C("center_text | center_line | pad_both_sides", "text | s: str, width | n: int -> str",
      "Return {text} with stars on both sides, {width} characters wide at least.",
      '"ab", 6 ; "abc", 2 ; "", 4', """
        return text.center(width, "*")
      --
        missing = max(width - len(text), 0)
        left = missing // 2
        return "*" * left + text + "*" * (missing - left)
      --
        while len(text) < width:
            text = f"{text}*" if len(text) % 2 == width % 2 else f"*{text}"
        return text
      """),
    C("is_isogram | has_unique_letters | all_letters_differ", "text | word | s: str -> bool",
      "Return whether no letter of {text} is repeated. | Return whether all characters of {text}"
      " are different.", '"abc" ; "aa" ; "" ; "hello"', """
        return len(set(text)) == len(text)
      --
        for i, char in enumerate(text):
            if char in text[:i]:
                return False
        return True
      --
        seen = set()
        for char in text:
            if char in seen:
                return False
            seen.add(char)
        return True
      """),
]  # fmt: skip
NUMBERS = "numbers | values | nums | items | data"
ITEMS = "items | values | elements | xs | data"
LIST_CLASSICS = [
    C("sum_list | sum_numbers | total | add_all | sum_of_list", f"{NUMBERS}: list[int] -> int",
      "Return the sum of {numbers}. | Return the sum of a list of numbers. | Add up all numbers"
      " of a list.",
      "[1, 2, 3] ; [] ; [5] ; [-1, 1]", """
        total = 0
        for number in numbers:
            total += number
        return total
      --
        return sum(numbers)
      --
        if not numbers:
            return 0
        return numbers[0] + sum_list(numbers[1:])
      """, 3),
    C("product_of_list | product | multiply_all | list_product", f"{NUMBERS}: list[int] -> int",
      "Return the product of {numbers}. | Return the product of a list of numbers. | Multiply"
      " all numbers of a list.", "[1, 2, 3] ; [] ; [5] ; [-1, 4]", """
        result = 1
        for number in numbers:
            result *= number
        return result
      --
        return math.prod(numbers)
      --
        if not numbers:
            return 1
        return numbers[0] * product_of_list(numbers[1:])
      """),
    C("average | mean | average | compute_average | get_average",
      f"{NUMBERS}: list[float] -> float",
      "Return the average of {numbers}, or 0 if the list is empty. | Return the mean of a list"
      " of numbers, or 0 for an empty list. | Return the average of a list of numbers.",
      "[1, 2, 3] ; [] ; [5] ; [1, 2]", """
        if not numbers:
            return 0
        return sum(numbers) / len(numbers)
      --
        return sum(numbers) / len(numbers) if numbers else 0
      --
        total = 0
        for number in numbers:
            total += number
        return total / len(numbers) if numbers else 0
      """, 3),
    C("median | find_median | compute_median | middle_value", f"{NUMBERS}: list[float] -> float",
      "Return the median of {numbers}. | Return the middle one of the sorted numbers, or the"
      " mean of the two in the middle.", "[3, 1, 2] ; [5] ; [4, 1, 3, 2] ; [1, 2]", """
        ordered = sorted(numbers)
        middle = len(ordered) // 2
        if len(ordered) % 2 == 1:
            return ordered[middle]
        return (ordered[middle - 1] + ordered[middle]) / 2
      --
        numbers = sorted(numbers)
        n = len(numbers)
        if n % 2 == 0:
            return (numbers[n // 2 - 1] + numbers[n // 2]) / 2
        return numbers[n // 2]
      --
        ordered = sorted(numbers)
        middle = len(ordered) // 2
        if len(ordered) % 2 == 0:
            return sum(ordered[middle - 1 : middle + 1]) / 2
        return ordered[middle]
      """, 2),
    C("mode | most_common | most_frequent | most_common_element", f"{ITEMS}: list -> object",
      "Return the element that occurs most often. | Return the most frequent element of {items}."
      " | Find the most common element of a list.", "[1, 2, 2] ; [5] ; [3, 3, 1, 1, 1]", """
        return max(items, key=items.count)
      --
        counts = Counter(items)
        return counts.most_common(1)[0][0]
      --
        counts = {}
        for item in items:
            counts[item] = counts.get(item, 0) + 1
        return max(counts, key=counts.get)
      """, 2),
    C("variance | compute_variance | population_variance", f"{NUMBERS}: list[float] -> float",
      "Return the variance of {numbers}. | Return the mean of the squared distances to the"
      " average.",
      "[1, 3] ; [5] ; [2, 4, 6, 8] ; [1, 1]", """
        mean = sum(numbers) / len(numbers)
        return sum((number - mean) ** 2 for number in numbers) / len(numbers)
      --
        mean = sum(numbers) / len(numbers)
        total = 0
        for number in numbers:
            total += (number - mean) ** 2
        return total / len(numbers)
      --
        mean = sum(numbers) / len(numbers)
        squares = [(number - mean) ** 2 for number in numbers]
        return sum(squares) / len(squares)
      """),
    C("find_max | maximum | find_largest | largest | get_max", f"{NUMBERS}: list[int] -> int",
      "Return the largest of {numbers}. | Return the largest number of a list. | Find the"
      " maximum of a list.", "[1, 3, 2] ; [5] ; [-4, -2]", """
        largest = numbers[0]
        for number in numbers:
            if number > largest:
                largest = number
        return largest
      --
        return max(numbers)
      --
        if len(numbers) == 1:
            return numbers[0]
        return max(numbers[0], find_max(numbers[1:]))
      """, 2),
    C("find_min | minimum | find_smallest | smallest | get_min", f"{NUMBERS}: list[int] -> int",
      "Return the smallest of {numbers}. | Return the smallest number of a list. | Find the"
      " minimum of a list.", "[1, 3, 2] ; [5] ; [-4, -2]", """
        smallest = numbers[0]
        for number in numbers:
            if number < smallest:
                smallest = number
        return smallest
      --
        return min(numbers)
      --
        if len(numbers) == 1:
            return numbers[0]
        return min(numbers[0], find_min(numbers[1:]))
      """, 2),
    C("min_max | minimum_and_maximum | smallest_and_largest",
      f"{NUMBERS}: list[int] -> tuple[int, int]",
      "Return the smallest and the largest of {numbers}. | Return minimum and maximum of a list.",
      "[1, 3, 2] ; [5] ; [-4, -2]", """
        return min(numbers), max(numbers)
      --
        smallest = largest = numbers[0]
        for number in numbers:
            smallest = min(smallest, number)
            largest = max(largest, number)
        return smallest, largest
      --
        ordered = sorted(numbers)
        return ordered[0], ordered[-1]
      """, 2),
    C("second_largest | find_second_largest | runner_up", f"{NUMBERS}: list[int] -> int | None",
      "Return the second largest of the different numbers, or None if there is none. | Find the"
      " second largest different number of a list, or None.",
      "[1, 3, 2] ; [5] ; [4, 4] ; [7, 7, 3]", """
        ordered = sorted(set(numbers))
        return ordered[-2] if len(ordered) > 1 else None
      --
        others = [number for number in numbers if number != max(numbers)]
        return max(others) if others else None
      --
        largest = second = None
        for number in numbers:
            if largest is None or number > largest:
                largest, second = number, largest
            elif number != largest and (second is None or number > second):
                second = number
        return second
      """, 2),
    C("value_range | spread | range_of | difference_of_extremes", f"{NUMBERS}: list[int] -> int",
      "Return the difference between the largest and the smallest of {numbers}. | Return the"
      " largest number minus the smallest one.", "[1, 3, 2] ; [5] ; [-4, -2]", """
        return max(numbers) - min(numbers)
      --
        largest = max(numbers)
        smallest = min(numbers)
        return largest - smallest
      --
        ordered = sorted(numbers)
        return ordered[-1] - ordered[0]
      """),
    C("linear_search | find_index | index_of | search",
      f"{ITEMS}: list, target | value | x: object -> int",
      "Return the index of {target} in {items}, or -1 if it is not there. | Return the first"
      " position of {target} in {items}, or -1.", "[1, 3, 2], 3 ; [5], 4 ; [], 1 ; [2, 2], 2", """
        for i, item in enumerate(items):
            if item == target:
                return i
        return -1
      --
        for i in range(len(items)):
            if items[i] == target:
                return i
        return -1
      --
        return items.index(target) if target in items else -1
      --
        i = 0
        while i < len(items):
            if items[i] == target:
                return i
            i += 1
        return -1
      """, 2),
    C("binary_search | binary_search | search_sorted | find_in_sorted",
      f"{NUMBERS}: list[int], target | value | x: int -> int",
      "Return the index of {target} in the sorted list {numbers}, or -1 if it is not there. |"
      " Search a sorted list for {target}, and return its index or -1. | Find {target} in a"
      " sorted list by binary search, and return its index or -1.",
      "[1, 3, 5], 3 ; [5], 4 ; [], 1 ; [2, 4, 6, 8], 8 ; [1, 2, 3, 4, 5], 1", """
        low, high = 0, len(numbers) - 1
        while low <= high:
            middle = (low + high) // 2
            if numbers[middle] == target:
                return middle
            if numbers[middle] < target:
                low = middle + 1
            else:
                high = middle - 1
        return -1
      --
        left = 0
        right = len(numbers)
        while left < right:
            middle = (left + right) // 2
            if numbers[middle] < target:
                left = middle + 1
            else:
                right = middle
        return left if left < len(numbers) and numbers[left] == target else -1
      --
        low, high = 0, len(numbers) - 1
        while low <= high:
            middle = (low + high) // 2
            if target == numbers[middle]:
                return middle
            elif target < numbers[middle]:
                high = middle - 1
            else:
                low = middle + 1
        return -1
      """, 3),
    C("bubble_sort | bubble_sort | bubble_sorted | sort_by_bubbling",
      f"{NUMBERS}: list[int] -> list[int]",
      "Sort {numbers} with bubble sort. | Return a sorted copy of {numbers}, made by bubble"
      " sort. | Sort a list by swapping neighbors that are in the wrong order.",
      "[3, 1, 2] ; [] ; [5] ; [4, 3, 2, 1]", """
        result = list(numbers)
        for i in range(len(result)):
            for j in range(len(result) - 1 - i):
                if result[j] > result[j + 1]:
                    result[j], result[j + 1] = result[j + 1], result[j]
        return result
      --
        result = numbers[:]
        swapped = True
        while swapped:
            swapped = False
            for i in range(len(result) - 1):
                if result[i] > result[i + 1]:
                    result[i], result[i + 1] = result[i + 1], result[i]
                    swapped = True
        return result
      --
        result = list(numbers)
        n = len(result)
        for end in range(n - 1, 0, -1):
            for i in range(end):
                if result[i] > result[i + 1]:
                    result[i], result[i + 1] = result[i + 1], result[i]
        return result
      """, 3),
    C("insertion_sort | insertion_sorted | sort_by_insertion", f"{NUMBERS}: list[int] -> list[int]",
      "Sort {numbers} with insertion sort. | Return a sorted copy of {numbers}, made by"
      " insertion sort.",
      "[3, 1, 2] ; [] ; [5] ; [4, 3, 2, 1]", """
        result = list(numbers)
        for i in range(1, len(result)):
            current = result[i]
            j = i - 1
            while j >= 0 and result[j] > current:
                result[j + 1] = result[j]
                j -= 1
            result[j + 1] = current
        return result
      --
        result = []
        for number in numbers:
            i = 0
            while i < len(result) and result[i] <= number:
                i += 1
            result.insert(i, number)
        return result
      --
        result = list(numbers)
        for i in range(1, len(result)):
            j = i
            while j > 0 and result[j - 1] > result[j]:
                result[j - 1], result[j] = result[j], result[j - 1]
                j -= 1
        return result
      """, 2),
    C("selection_sort | selection_sorted | sort_by_selection", f"{NUMBERS}: list[int] -> list[int]",
      "Sort {numbers} with selection sort. | Return a sorted copy of {numbers}, made by"
      " selection sort.",
      "[3, 1, 2] ; [] ; [5] ; [4, 3, 2, 1]", """
        result = list(numbers)
        for i in range(len(result)):
            smallest = i
            for j in range(i + 1, len(result)):
                if result[j] < result[smallest]:
                    smallest = j
            result[i], result[smallest] = result[smallest], result[i]
        return result
      --
        rest = list(numbers)
        result = []
        while rest:
            smallest = min(rest)
            rest.remove(smallest)
            result.append(smallest)
        return result
      --
        result = list(numbers)
        for i in range(len(result)):
            smallest = min(range(i, len(result)), key=lambda j: result[j])
            result[i], result[smallest] = result[smallest], result[i]
        return result
      """, 2),
    C("quick_sort | quicksort | quick_sorted", f"{NUMBERS}: list[int] -> list[int]",
      "Sort {numbers} with quicksort. | Return a sorted copy of {numbers}, made by quicksort.",
      "[3, 1, 2] ; [] ; [5] ; [4, 3, 2, 1]", """
        if len(numbers) <= 1:
            return numbers
        pivot = numbers[0]
        smaller = [number for number in numbers[1:] if number < pivot]
        larger = [number for number in numbers[1:] if number >= pivot]
        return quick_sort(smaller) + [pivot] + quick_sort(larger)
      --
        if len(numbers) < 2:
            return numbers
        pivot = numbers[len(numbers) // 2]
        left = [x for x in numbers if x < pivot]
        middle = [x for x in numbers if x == pivot]
        right = [x for x in numbers if x > pivot]
        return quick_sort(left) + middle + quick_sort(right)
      --
        if not numbers:
            return []
        pivot, *rest = numbers
        smaller = [x for x in rest if x < pivot]
        larger = [x for x in rest if x >= pivot]
        return [*quick_sort(smaller), pivot, *quick_sort(larger)]
      """, 2),
    C("merge_sort | mergesort | merge_sorted", f"{NUMBERS}: list[int] -> list[int]",
      "Sort {numbers} with merge sort. | Return a sorted copy of {numbers}, made by merge sort.",
      "[3, 1, 2] ; [] ; [5] ; [4, 3, 2, 1]", """
        if len(numbers) <= 1:
            return numbers
        middle = len(numbers) // 2
        left = merge_sort(numbers[:middle])
        right = merge_sort(numbers[middle:])
        result = []
        i = j = 0
        while i < len(left) and j < len(right):
            if left[i] <= right[j]:
                result.append(left[i])
                i += 1
            else:
                result.append(right[j])
                j += 1
        return result + left[i:] + right[j:]
      --
        if len(numbers) < 2:
            return numbers
        middle = len(numbers) // 2
        left, right = merge_sort(numbers[:middle]), merge_sort(numbers[middle:])
        result = []
        while left and right:
            source = left if left[0] <= right[0] else right
            result.append(source.pop(0))
        return result + left + right
      --
        if len(numbers) <= 1:
            return list(numbers)
        middle = len(numbers) // 2
        left = merge_sort(numbers[:middle])
        right = merge_sort(numbers[middle:])
        result = []
        while left and right:
            if left[0] < right[0]:
                result.append(left.pop(0))
            else:
                result.append(right.pop(0))
        return result + left + right
      """, 2),
    C("merge_sorted_lists | merge_lists | merge",
      "a | left: list[int], b | right: list[int] -> list[int]",
      "Merge two sorted lists into one sorted list. | Return one sorted list of the elements of"
      " the sorted lists {a} and {b}.", "[1, 3], [2, 4] ; [], [1] ; [], [] ; [1, 2], [3]", """
        result = []
        i = j = 0
        while i < len(a) and j < len(b):
            if a[i] <= b[j]:
                result.append(a[i])
                i += 1
            else:
                result.append(b[j])
                j += 1
        return result + a[i:] + b[j:]
      --
        return sorted(a + b)
      --
        if not a:
            return b
        if not b:
            return a
        if a[0] <= b[0]:
            return [a[0]] + merge_sorted_lists(a[1:], b)
        return [b[0]] + merge_sorted_lists(a, b[1:])
      """),
    C("is_sorted | is_ascending | check_sorted", f"{NUMBERS}: list[int] -> bool",
      "Return whether {numbers} are in ascending order. | Return whether a list is sorted. |"
      " Return whether no number is smaller than the one before it.",
      "[1, 2, 3] ; [] ; [3, 1] ; [2, 2]", """
        for i in range(len(numbers) - 1):
            if numbers[i] > numbers[i + 1]:
                return False
        return True
      --
        return all(a <= b for a, b in zip(numbers, numbers[1:]))
      --
        return numbers == sorted(numbers)
      """, 2),
    C("flatten | flatten_list | flatten_lists | concatenate",
      "lists | rows | nested | matrix: list[list] -> list",
      "Return one list with the elements of all lists. | Flatten a list of lists. | Return the"
      " elements of all inner lists in one list.",
      "[[1, 2], [3]] ; [] ; [[], [5]] ; [[1], [2], [3]]", """
        return [item for row in lists for item in row]
      --
        result = []
        for row in lists:
            result.extend(row)
        return result
      --
        result = []
        for row in lists:
            for item in row:
                result.append(item)
        return result
      --
        return sum(lists, [])
      """, 3),
    C("deep_flatten | flatten_deep | flatten_all", "items | nested | values: list -> list",
      "Flatten a list whose elements may be lists of any depth. | Return the elements of nested"
      " lists of any depth in one list.", "[1, [2, [3]]] ; [] ; [[[]]] ; [1, 2]", """
        result = []
        for item in items:
            if isinstance(item, list):
                result.extend(deep_flatten(item))
            else:
                result.append(item)
        return result
      --
        if not items:
            return []
        first, *rest = items
        if isinstance(first, list):
            return deep_flatten(first) + deep_flatten(rest)
        return [first] + deep_flatten(rest)
      --
        if not isinstance(items, list):
            return [items]
        return [leaf for item in items for leaf in deep_flatten(item)]
      """),
    C("transpose | transpose_matrix | swap_rows_and_columns",
      "matrix | rows | grid: list[list[int]] -> list[list[int]]",
      "Return {matrix} with rows and columns exchanged. | Transpose a matrix.",
      "[[1, 2], [3, 4]] ; [[1, 2, 3]] ; [] ; [[5]]", """
        return [list(column) for column in zip(*matrix)]
      --
        if not matrix:
            return []
        return [[row[i] for row in matrix] for i in range(len(matrix[0]))]
      --
        result = []
        for column in zip(*matrix):
            result.append(list(column))
        return result
      """, 2),
    C("matrix_multiply | multiply_matrices | matrix_product",
      "a | left: list[list[int]], b | right: list[list[int]] -> list[list[int]]",
      "Return the product of two matrices. | Multiply the matrices {a} and {b}.",
      "[[1, 2], [3, 4]], [[1, 0], [0, 1]] ; [[1, 2]], [[3], [4]] ; [[2]], [[3]]", """
        return [[sum(x * y for x, y in zip(row, column)) for column in zip(*b)] for row in a]
      --
        result = []
        for row in a:
            result.append([sum(x * y for x, y in zip(row, column)) for column in zip(*b)])
        return result
      --
        result = [[0] * len(b[0]) for _ in a]
        for i in range(len(a)):
            for j in range(len(b[0])):
                for k in range(len(b)):
                    result[i][j] += a[i][k] * b[k][j]
        return result
      """),
    C("identity_matrix | identity | unit_matrix", "n | size: int -> list[list[int]]",
      "Return the identity matrix with {n} rows. | Return a matrix with ones on the diagonal and"
      " zeros elsewhere.", "0 ; 1 ; 2 ; 3", """
        return [[1 if i == j else 0 for j in range(n)] for i in range(n)]
      --
        matrix = [[0] * n for _ in range(n)]
        for i in range(n):
            matrix[i][i] = 1
        return matrix
      --
        return [[int(i == j) for j in range(n)] for i in range(n)]
      """),
    C("diagonal | main_diagonal | get_diagonal",
      "matrix | rows | grid: list[list[int]] -> list[int]",
      "Return the main diagonal of a square matrix. | Return the numbers on the diagonal of"
      " {matrix}.",
      "[[1, 2], [3, 4]] ; [] ; [[5]]", """
        return [matrix[i][i] for i in range(len(matrix))]
      --
        return [row[i] for i, row in enumerate(matrix)]
      --
        result = []
        for i in range(len(matrix)):
            result.append(matrix[i][i])
        return result
      """),
    C("row_sums | sum_rows | sums_of_rows", "matrix | rows | grid: list[list[int]] -> list[int]",
      "Return the sum of each row of {matrix}. | Return the sums of the rows.",
      "[[1, 2], [3, 4]] ; [] ; [[5], [6, 7]]", """
        return [sum(row) for row in matrix]
      --
        result = []
        for row in matrix:
            result.append(sum(row))
        return result
      --
        return list(map(sum, matrix))
      """),
    C("column_sums | sum_columns | sums_of_columns",
      "matrix | rows | grid: list[list[int]] -> list[int]",
      "Return the sum of each column of {matrix}. | Return the sums of the columns.",
      "[[1, 2], [3, 4]] ; [] ; [[5, 6]]", """
        return [sum(column) for column in zip(*matrix)]
      --
        result = []
        for column in zip(*matrix):
            result.append(sum(column))
        return result
      --
        if not matrix:
            return []
        return [sum(row[i] for row in matrix) for i in range(len(matrix[0]))]
      """),
    C("dot_product | scalar_product | inner_product",
      "a | u | xs: list[int], b | v | ys: list[int] -> int",
      "Return the dot product of {a} and {b}. | Return the sum of the products of two lists,"
      " element by element.", "[1, 2], [3, 4] ; [], [] ; [2], [5]", """
        return sum(x * y for x, y in zip(a, b))
      --
        total = 0
        for x, y in zip(a, b):
            total += x * y
        return total
      --
        total = 0
        for i in range(len(a)):
            total += a[i] * b[i]
        return total
      """, 2),
    C("add_vectors | add_lists | vector_sum | elementwise_sum",
      "a | u | xs: list[int], b | v | ys: list[int] -> list[int]",
      "Return the sums of the elements of {a} and {b}. | Add two lists element by element.",
      "[1, 2], [3, 4] ; [], [] ; [2], [5]", """
        return [x + y for x, y in zip(a, b)]
      --
        result = []
        for x, y in zip(a, b):
            result.append(x + y)
        return result
      --
        return [a[i] + b[i] for i in range(len(a))]
      """),
    C("two_sum | find_pair_with_sum | pair_with_sum",
      f"{NUMBERS}: list[int], target | total_: int -> tuple[int, int] | None",
      "Return the indices of two numbers whose sum is {target}, or None. | Find two positions"
      " whose numbers add up to {target}, or return None.",
      "[2, 7, 11], 9 ; [1, 2], 5 ; [], 1 ; [3, 3], 6", """
        for i in range(len(numbers)):
            for j in range(i + 1, len(numbers)):
                if numbers[i] + numbers[j] == target:
                    return i, j
        return None
      --
        seen = {}
        for i, number in enumerate(numbers):
            if target - number in seen:
                return seen[target - number], i
            seen[number] = i
        return None
      --
        for i, first in enumerate(numbers):
            for j, second in enumerate(numbers[:i]):
                if first + second == target:
                    return j, i
        return None
      """, 2),
    C("unique | remove_duplicates | deduplicate | unique_in_order | distinct",
      f"{ITEMS}: list -> list",
      "Return the elements of {items} without duplicates, in their order. | Remove duplicates"
      " from a list, and keep the order. | Return each element of {items} once.",
      "[1, 2, 1] ; [] ; [5, 5, 5] ; [3, 1, 2]", """
        result = []
        for item in items:
            if item not in result:
                result.append(item)
        return result
      --
        return list(dict.fromkeys(items))
      --
        seen = set()
        result = []
        for item in items:
            if item not in seen:
                seen.add(item)
                result.append(item)
        return result
      """, 3),
    C("has_duplicates | contains_duplicates | any_duplicates", f"{ITEMS}: list -> bool",
      "Return whether any element occurs more than once. | Return whether {items} has duplicates.",
      "[1, 2, 1] ; [] ; [5] ; [3, 1, 2]", """
        return len(set(items)) < len(items)
      --
        seen = set()
        for item in items:
            if item in seen:
                return True
            seen.add(item)
        return False
      --
        for i, item in enumerate(items):
            if item in items[:i]:
                return True
        return False
      """, 2),
    C("find_duplicates | duplicates | repeated_elements", f"{ITEMS}: list -> list",
      "Return each element that occurs more than once, in the order of first appearance. | List"
      " the elements of {items} that are repeated.", "[1, 2, 1] ; [] ; [5, 5, 5] ; [3, 1, 2]", """
        result = []
        for item in items:
            if items.count(item) > 1 and item not in result:
                result.append(item)
        return result
      --
        return [item for item, count in Counter(items).items() if count > 1]
      --
        counts = {}
        for item in items:
            counts[item] = counts.get(item, 0) + 1
        return [item for item in counts if counts[item] > 1]
      """),
    C("count_occurrences | count_item | occurrences | how_often",
      f"{ITEMS}: list, target | value | wanted: object -> int",
      "Return how often {target} occurs in {items}. | Count the occurrences of {target} in a list.",
      "[1, 2, 1], 1 ; [], 3 ; [5], 5 ; [3, 1], 2", """
        count = 0
        for item in items:
            if item == target:
                count += 1
        return count
      --
        return items.count(target)
      --
        return sum(1 for item in items if item == target)
      """),
    C("running_totals | cumulative_sum | running_sum | prefix_sums",
      f"{NUMBERS}: list[int] -> list[int]",
      "Return the running totals of {numbers}. | Return for each number the sum of all numbers"
      " up to it. | Return the cumulative sums of a list.", "[1, 2, 3] ; [] ; [5] ; [1, -1, 4]", """
        result = []
        total = 0
        for number in numbers:
            total += number
            result.append(total)
        return result
      --
        return list(itertools.accumulate(numbers))
      --
        return [sum(numbers[: i + 1]) for i in range(len(numbers))]
      """, 2),
    C("differences | consecutive_differences | steps", f"{NUMBERS}: list[int] -> list[int]",
      "Return the differences of neighbors. | Return for each number but the first how much"
      " larger it is than the one before.", "[1, 4, 3] ; [] ; [5] ; [2, 2]", """
        return [b - a for a, b in zip(numbers, numbers[1:])]
      --
        return [numbers[i + 1] - numbers[i] for i in range(len(numbers) - 1)]
      --
        result = []
        for i in range(1, len(numbers)):
            result.append(numbers[i] - numbers[i - 1])
        return result
      """),
    C("adjacent_pairs | neighbor_pairs | consecutive_pairs", f"{ITEMS}: list -> list[tuple]",
      "Return the pairs of neighbors of {items}. | Return a list of all pairs of adjacent"
      " elements.",
      "[1, 2, 3] ; [] ; [5]", """
        return list(zip(items, items[1:]))
      --
        result = []
        for i in range(len(items) - 1):
            result.append((items[i], items[i + 1]))
        return result
      --
        return [(a, b) for a, b in zip(items, items[1:])]
      """),
    C("all_pairs | pairs | list_pairs", f"{ITEMS}: list -> list[tuple]",
      "Return all pairs of two elements of {items}, in order. | List every pair of elements of a"
      " list.",
      "[1, 2, 3] ; [] ; [5]", """
        return list(itertools.combinations(items, 2))
      --
        result = []
        for i in range(len(items)):
            for j in range(i + 1, len(items)):
                result.append((items[i], items[j]))
        return result
      --
        return [(a, b) for i, a in enumerate(items) for b in items[i + 1 :]]
      """),
    C("interleave | alternate | merge_alternately",
      "a | first | xs: list, b | second | ys: list -> list",
      "Return the elements of {a} and {b} in turn. | Interleave two lists of the same length.",
      "[1, 2], [3, 4] ; [], [] ; [1], [2]", """
        result = []
        for x, y in zip(a, b):
            result.append(x)
            result.append(y)
        return result
      --
        return [item for pair in zip(a, b) for item in pair]
      --
        result = []
        for i in range(len(a)):
            result += [a[i], b[i]]
        return result
      """),
    C("zip_lists | pair_up | make_pairs",
      "a | first | xs: list, b | second | ys: list -> list[tuple]",
      "Return pairs of the elements of {a} and {b}. | Pair the elements of two lists.",
      "[1, 2], [3, 4] ; [], [] ; [1], [2]", """
        return list(zip(a, b))
      --
        return [(a[i], b[i]) for i in range(min(len(a), len(b)))]
      --
        result = []
        for x, y in zip(a, b):
            result.append((x, y))
        return result
      """),
    C("chunked | chunks | split_into_chunks | batch",
      f"{ITEMS}: list, size | n | length: int -> list[list]",
      "Return the elements of {items} in lists of {size}. | Split a list into chunks of {size}"
      " elements.",
      "[1, 2, 3], 2 ; [], 2 ; [1, 2, 3, 4], 2 ; [1], 5", """
        return [items[i : i + size] for i in range(0, len(items), size)]
      --
        result = []
        for i in range(0, len(items), size):
            result.append(items[i : i + size])
        return result
      --
        result = []
        while items:
            result.append(items[:size])
            items = items[size:]
        return result
      """, 2),
    C("rotate_left | rotate | rotate_list", f"{ITEMS}: list, k | n | steps: int -> list",
      "Return {items} rotated to the left by {k} places. | Move the first {k} elements to the end.",
      "[1, 2, 3], 1 ; [], 2 ; [1, 2, 3, 4], 6 ; [1], 0", """
        if not items:
            return []
        k %= len(items)
        return items[k:] + items[:k]
      --
        k = k % len(items) if items else 0
        return items[k:] + items[:k]
      --
        result = list(items)
        for _ in range(k):
            if result:
                result.append(result.pop(0))
        return result
      """, 2),
    C("rotate_right | shift_right | rotate_list_right",
      f"{ITEMS}: list, k | n | steps: int -> list",
      "Return {items} rotated to the right by {k} places. | Move the last {k} elements to the"
      " front.",
      "[1, 2, 3], 1 ; [], 2 ; [1, 2, 3, 4], 6 ; [1], 0", """
        if not items:
            return []
        k %= len(items)
        return items[len(items) - k :] + items[: len(items) - k]
      --
        result = list(items)
        for _ in range(k):
            if result:
                result.insert(0, result.pop())
        return result
      --
        k = k % len(items) if items else 0
        return items[-k:] + items[:-k] if k else list(items)
      """),
    C("reverse_list | reversed_list | backwards", f"{ITEMS}: list -> list",
      "Return {items} in reverse order. | Reverse a list.", "[1, 2, 3] ; [] ; [5]", """
        return items[::-1]
      --
        return list(reversed(items))
      --
        result = []
        for item in items:
            result.insert(0, item)
        return result
      --
        if not items:
            return []
        return reverse_list(items[1:]) + [items[0]]
      """, 2),
    C("every_second | every_other | alternate_elements", f"{ITEMS}: list -> list",
      "Return every second element of {items}, beginning with the first. | Return the elements"
      " at even positions.", "[1, 2, 3] ; [] ; [5] ; [1, 2, 3, 4]", """
        return items[::2]
      --
        return [items[i] for i in range(0, len(items), 2)]
      --
        return [item for i, item in enumerate(items) if i % 2 == 0]
      """),
    C("last_elements | take_last | tail", f"{ITEMS}: list, n | k | count: int -> list",
      "Return the last {n} elements of {items}.", "[1, 2, 3], 2 ; [], 1 ; [5], 0 ; [1, 2], 5", """
        return items[-n:] if n > 0 else []
      --
        if n == 0:
            return []
        return items[-n:]
      --
        return items[max(len(items) - n, 0) :]
      """),
    C("intersection | common_elements | shared_elements",
      "a | first | xs: list, b | second | ys: list -> list",
      "Return the elements of {a} that are also in {b}. | Return the common elements of two lists.",
      "[1, 2, 3], [2, 3, 4] ; [], [1] ; [1], [2]", """
        return [item for item in a if item in b]
      --
        result = []
        for item in a:
            if item in b:
                result.append(item)
        return result
      --
        others = set(b)
        return [item for item in a if item in others]
      """, 2),
    C("list_difference | without | subtract_lists",
      "a | first | xs: list, b | second | ys: list -> list",
      "Return the elements of {a} that are not in {b}. | Remove the elements of {b} from {a}.",
      "[1, 2, 3], [2, 3, 4] ; [], [1] ; [1], [2]", """
        return [item for item in a if item not in b]
      --
        result = []
        for item in a:
            if item not in b:
                result.append(item)
        return result
      --
        excluded = set(b)
        return [item for item in a if item not in excluded]
      """),
    C("union | merge_unique | combined_elements",
      "a | first | xs: list, b | second | ys: list -> list",
      "Return the elements of {a} and {b}, each once. | Return the union of two lists without"
      " duplicates.",
      "[1, 2], [2, 3] ; [], [1] ; [1, 1], []", """
        result = []
        for item in a + b:
            if item not in result:
                result.append(item)
        return result
      --
        return list(dict.fromkeys(a + b))
      --
        return list(dict.fromkeys([*a, *b]))
      """),
    C("permutations | all_permutations | list_permutations", f"{ITEMS}: list -> list[list]",
      "Return all orders of the elements of {items}. | Return the permutations of a list.",
      "[1, 2] ; [] ; [1, 2, 3]", """
        if not items:
            return [[]]
        result = []
        for i, item in enumerate(items):
            for rest in permutations(items[:i] + items[i + 1 :]):
                result.append([item, *rest])
        return result
      --
        return [list(order) for order in itertools.permutations(items)]
      --
        if len(items) == 0:
            return [[]]
        return [
            [item, *rest]
            for i, item in enumerate(items)
            for rest in permutations(items[:i] + items[i + 1 :])
        ]
      """),
    C("subsets | power_set | all_subsets", f"{ITEMS}: list -> list[list]",
      "Return all subsets of {items}. | Return a list of all sublists that leave out any elements.",
      "[1, 2] ; [] ; [1, 2, 3]", """
        result = [[]]
        for item in items:
            result += [subset + [item] for subset in result]
        return result
      --
        if not items:
            return [[]]
        without = subsets(items[:-1])
        return without + [subset + [items[-1]] for subset in without]
      --
        result = [[]]
        for item in items:
            for subset in list(result):
                result.append([*subset, item])
        return result
      """),
    C("max_subarray_sum | largest_sum_of_slice | kadane", f"{NUMBERS}: list[int] -> int",
      "Return the largest sum of neighboring numbers. | Return the largest sum of a slice of"
      " {numbers} that is not empty.", "[1, -2, 3, 4] ; [5] ; [-1, -2] ; [2, -1, 2]", """
        best = current = numbers[0]
        for number in numbers[1:]:
            current = max(number, current + number)
            best = max(best, current)
        return best
      --
        best = numbers[0]
        for i in range(len(numbers)):
            for j in range(i + 1, len(numbers) + 1):
                best = max(best, sum(numbers[i:j]))
        return best
      --
        best = current = numbers[0]
        for number in numbers[1:]:
            if current < 0:
                current = 0
            current += number
            if current > best:
                best = current
        return best
      """),
    C("moving_average | rolling_mean | sliding_average",
      f"{NUMBERS}: list[float], size | window: int -> list[float]",
      "Return the averages of each {size} neighbors of {numbers}. | Return the moving average"
      " with a window of {size}.", "[1, 3, 5], 2 ; [4], 1 ; [1, 2], 3", """
        return [sum(numbers[i : i + size]) / size for i in range(len(numbers) - size + 1)]
      --
        result = []
        for i in range(len(numbers) - size + 1):
            result.append(sum(numbers[i : i + size]) / size)
        return result
      --
        parts = [numbers[i : i + size] for i in range(len(numbers) - size + 1)]
        return [sum(part) / size for part in parts]
      """),
    C("normalize | scale_to_one | rescale", f"{NUMBERS}: list[float] -> list[float]",
      "Return each number divided by the largest one. | Scale positive numbers so that the"
      " largest becomes 1.",
      "[1, 2, 4] ; [5] ; [] ; [2, 2]", """
        return [number / max(numbers) for number in numbers]
      --
        if not numbers:
            return []
        largest = max(numbers)
        return [number / largest for number in numbers]
      --
        result = []
        for number in numbers:
            result.append(number / max(numbers))
        return result
      """),
    C("missing_number | find_missing | missing_from_range", f"{NUMBERS}: list[int] -> int",
      "Return the number from 0 to the length of {numbers} that is missing. | Find the only"
      " missing number of 0, 1, ..., n.", "[0, 1, 3] ; [] ; [1] ; [0, 2]", """
        n = len(numbers)
        return n * (n + 1) // 2 - sum(numbers)
      --
        for i in range(len(numbers) + 1):
            if i not in numbers:
                return i
      --
        return sum(range(len(numbers) + 1)) - sum(numbers)
      """),
    C("move_zeros | move_zeros_to_end | zeros_last", f"{NUMBERS}: list[int] -> list[int]",
      "Return {numbers} with all zeros moved to the end. | Move the zeros to the end, and keep"
      " the order of the other numbers.", "[0, 1, 0, 2] ; [] ; [0] ; [3, 4]", """
        others = [number for number in numbers if number != 0]
        return others + [0] * (len(numbers) - len(others))
      --
        result = []
        for number in numbers:
            if number != 0:
                result.append(number)
        while len(result) < len(numbers):
            result.append(0)
        return result
      --
        return sorted(numbers, key=lambda number: number == 0)
      """),
    C("range_sum | sum_range | sum_between", "a | start | low: int, b | end | high: int -> int",
      "Return the sum of the numbers from {a} to {b}. | Add the numbers from {a} to {b}, both"
      " included.",
      "1, 3 ; 5, 5 ; 4, 2 ; 0, 10", """
        return sum(range(a, b + 1))
      --
        total = 0
        for number in range(a, b + 1):
            total += number
        return total
      --
        if a > b:
            return 0
        return a + range_sum(a + 1, b)
      """),
    C("join_with_commas | comma_list | list_to_string", f"{ITEMS}: list -> str",
      "Return the elements of {items} as a string, separated by commas. | Join the elements of a"
      " list with commas.", "[1, 2, 3] ; [] ; [5]", """
        return ", ".join(str(item) for item in items)
      --
        return ", ".join(map(str, items))
      --
        result = ""
        for i, item in enumerate(items):
            if i > 0:
                result += ", "
            result += str(item)
        return result
      """),
    C("count_inversions | inversions | number_of_inversions", f"{NUMBERS}: list[int] -> int",
      "Return how many pairs of {numbers} are in the wrong order. | Count the pairs in which the"
      " larger number stands first.", "[1, 2, 3] ; [] ; [3, 2, 1] ; [2, 1]", """
        count = 0
        for i in range(len(numbers)):
            for j in range(i + 1, len(numbers)):
                if numbers[i] > numbers[j]:
                    count += 1
        return count
      --
        return sum(a > b for a, b in itertools.combinations(numbers, 2))
      --
        return sum(a > b for i, a in enumerate(numbers) for b in numbers[i + 1 :])
      """),
]  # fmt: skip
MAPPINGS = "dictionary | d | table | mapping"
DICTIONARY_CLASSICS = [
    C("merge_dicts | merge_dictionaries | combine_dicts",
      "a | first: dict, b | second: dict -> dict",
      "Return a dictionary with the entries of {a} and {b}; those of {b} win. | Merge two"
      " dictionaries; the second one wins.", '{"a": 1}, {"b": 2} ; {"a": 1}, {"a": 3} ; {}, {}', """
        return {**a, **b}
      --
        result = dict(a)
        result.update(b)
        return result
      --
        return a | b
      --
        result = a.copy()
        for key, value in b.items():
            result[key] = value
        return result
      """, 2),
    C("invert_dict | invert_dictionary | swap_keys_and_values", f"{MAPPINGS}: dict -> dict",
      "Return a dictionary from the values to the keys. | Exchange the keys and values of a"
      " dictionary.",
      '{"a": 1, "b": 2} ; {} ; {"x": "y"}', """
        return {value: key for key, value in dictionary.items()}
      --
        result = {}
        for key, value in dictionary.items():
            result[value] = key
        return result
      --
        return dict(zip(dictionary.values(), dictionary.keys()))
      """, 2),
    C("count_items | frequencies | tally | count_elements", f"{ITEMS}: list -> dict",
      "Return how often each element of {items} occurs. | Count how often each element of a list"
      " occurs.",
      "[1, 2, 1] ; [] ; [5]", """
        counts = {}
        for item in items:
            counts[item] = counts.get(item, 0) + 1
        return counts
      --
        return dict(Counter(items))
      --
        counts = defaultdict(int)
        for item in items:
            counts[item] += 1
        return dict(counts)
      --
        return {item: items.count(item) for item in items}
      """, 2),
    C("key_of_largest_value | best_key | key_with_max_value | argmax",
      f"{MAPPINGS}: dict[str, int] -> str | None",
      "Return the key with the largest value, or None if there are no entries. | Find the key of"
      " the largest value, or return None.", '{"a": 1, "b": 2} ; {} ; {"x": 7}', """
        return max(dictionary, key=dictionary.get, default=None)
      --
        best = None
        for key in dictionary:
            if best is None or dictionary[key] > dictionary[best]:
                best = key
        return best
      --
        if not dictionary:
            return None
        return max(dictionary, key=lambda key: dictionary[key])
      """),
    C("sort_by_value | sorted_by_value | keys_by_value", f"{MAPPINGS}: dict[str, int] -> list[str]",
      "Return the keys in ascending order of their values. | Sort the keys of a dictionary by"
      " value.",
      '{"a": 3, "b": 2} ; {} ; {"x": 7}', """
        return sorted(dictionary, key=dictionary.get)
      --
        return sorted(dictionary, key=lambda key: dictionary[key])
      --
        pairs = sorted(dictionary.items(), key=lambda pair: pair[1])
        return [key for key, _ in pairs]
      """),
    C("sort_by_key | sorted_dictionary | order_by_key", f"{MAPPINGS}: dict -> dict",
      "Return the entries of {dictionary} in the order of their keys. | Sort a dictionary by its"
      " keys.",
      '{"b": 3, "a": 2} ; {} ; {"x": 7}', """
        return dict(sorted(dictionary.items()))
      --
        result = {}
        for key in sorted(dictionary):
            result[key] = dictionary[key]
        return result
      --
        return {key: dictionary[key] for key in sorted(dictionary)}
      """),
    C("sum_values | total_of_values | sum_dictionary", f"{MAPPINGS}: dict[str, int] -> int",
      "Return the sum of the values of {dictionary}. | Add up all values of a dictionary.",
      '{"b": 3, "a": 2} ; {} ; {"x": 7}', """
        return sum(dictionary.values())
      --
        total = 0
        for value in dictionary.values():
            total += value
        return total
      --
        total = 0
        for key in dictionary:
            total += dictionary[key]
        return total
      """, 2),
    C("double_values | double_each_value | doubled_values",
      f"{MAPPINGS}: dict[str, int] -> dict[str, int]",
      "Return a dictionary with the same keys and doubled values. | Double all values of a"
      " dictionary.",
      '{"b": 3, "a": 2} ; {} ; {"x": 7}', """
        return {key: value * 2 for key, value in dictionary.items()}
      --
        result = {}
        for key, value in dictionary.items():
            result[key] = 2 * value
        return result
      --
        return {key: 2 * dictionary[key] for key in dictionary}
      """),
    C("add_counts | add_dictionaries | sum_dicts", "a | first: dict, b | second: dict -> dict",
      "Add the values of equal keys of two dictionaries. | Return a dictionary with the sums of"
      " the values of {a} and {b}.", '{"a": 1}, {"b": 2} ; {"a": 1}, {"a": 3} ; {}, {}', """
        result = dict(a)
        for key, value in b.items():
            result[key] = result.get(key, 0) + value
        return result
      --
        return {key: a.get(key, 0) + b.get(key, 0) for key in [*a, *b]}
      --
        result = {}
        for part in (a, b):
            for key, value in part.items():
                result[key] = result.get(key, 0) + value
        return result
      """),
    C("lists_to_dict | make_dictionary | zip_to_dict", "keys: list, values: list -> dict",
      "Return a dictionary from {keys} to {values}. | Make a dictionary of a list of keys and a"
      " list of values.",
      '["a", "b"], [1, 2] ; [], [] ; ["x"], [5]', """
        return dict(zip(keys, values))
      --
        return {key: value for key, value in zip(keys, values)}
      --
        result = {}
        for key, value in zip(keys, values):
            result[key] = value
        return result
      """),
    C("group_anagrams | collect_anagrams | anagram_groups",
      "words | strings: list[str] -> list[list[str]]",
      "Group the words that have the same letters. | Return lists of words that are anagrams of"
      " each other.",
      '["ab", "ba", "c"] ; [] ; ["x"] ; ["tea", "eat"]', """
        groups = {}
        for word in words:
            groups.setdefault("".join(sorted(word)), []).append(word)
        return list(groups.values())
      --
        groups = defaultdict(list)
        for word in words:
            groups["".join(sorted(word))].append(word)
        return list(groups.values())
      --
        groups = {}
        for word in words:
            key = tuple(sorted(word))
            if key not in groups:
                groups[key] = []
            groups[key].append(word)
        return list(groups.values())
      """),
    C("index_by_name | by_name | records_by_name",
      "records | people | rows: list[dict] -> dict[str, dict]",
      "Return a dictionary from each name to the record that has it. | Index records by their"
      " name.",
      '[{"name": "Ann"}] ; [] ; [{"name": "Bob", "age": 5}]', """
        return {record["name"]: record for record in records}
      --
        result = {}
        for record in records:
            result[record["name"]] = record
        return result
      --
        return dict((record["name"], record) for record in records)
      """),
    C("oldest_person | find_oldest | get_oldest", "people | persons: list[dict] -> str | None",
      "Return the name of the oldest person, or None if there are no people. | Find the name of"
      " the person with the largest age, or return None.",
      '[{"name": "Al", "age": 5}, {"name": "Bo", "age": 7}] ; [] ; [{"name": "Eve", "age": 1}]',
      """
        if not people:
            return None
        return max(people, key=lambda person: person["age"])["name"]
      --
        oldest = None
        for person in people:
            if oldest is None or person["age"] > oldest["age"]:
                oldest = person
        return oldest["name"] if oldest else None
      --
        if len(people) == 0:
            return None
        oldest = people[0]
        for person in people:
            if person["age"] > oldest["age"]:
                oldest = person
        return oldest["name"]
      """),
    C("sort_people_by_age | people_by_age | order_by_age",
      "people | persons: list[dict] -> list[dict]",
      "Sort the people by their age. | Return the people in ascending order of their age.",
      '[{"age": 5}, {"age": 3}] ; [] ; [{"age": 1}]', """
        return sorted(people, key=lambda person: person["age"])
      --
        result = list(people)
        result.sort(key=lambda person: person["age"])
        return result
      --
        ages = [(person["age"], i) for i, person in enumerate(people)]
        return [people[i] for _, i in sorted(ages)]
      """),
    C("average_age | mean_age | compute_average_age", "people | persons: list[dict] -> float",
      "Return the average age of the people, or 0 if there are none. | Return the mean of all"
      " ages, or 0.",
      '[{"age": 5}, {"age": 3}] ; [] ; [{"age": 1}]', """
        if not people:
            return 0
        return sum(person["age"] for person in people) / len(people)
      --
        ages = [person["age"] for person in people]
        return sum(ages) / len(ages) if ages else 0
      --
        total = 0
        for person in people:
            total += person["age"]
        return total / len(people) if people else 0
      """),
    C("total_price | order_total | cart_total | sum_of_prices",
      "items | products | cart: list[dict] -> float",
      "Return the sum of price times quantity of all {items}. | Compute the total price of a"
      " list of {items} with price and quantity.",
      '[{"price": 5, "quantity": 2}] ; [] ; [{"price": 1, "quantity": 3}]', """
        return sum(item["price"] * item["quantity"] for item in items)
      --
        total = 0
        for item in items:
            total += item["price"] * item["quantity"]
        return total
      --
        return sum([item["price"] * item["quantity"] for item in items])
      """),
    C("group_by_city | people_by_city | collect_by_city",
      "people | persons: list[dict] -> dict[str, list[str]]",
      "Return a dictionary from each city to the names of the people who live there. | Group the"
      " names of people by their city.",
      '[{"name": "Ann", "city": "Rome"}] ; [] ; [{"name": "Bob", "city": "Oslo"}]', """
        groups = {}
        for person in people:
            groups.setdefault(person["city"], []).append(person["name"])
        return groups
      --
        groups = defaultdict(list)
        for person in people:
            groups[person["city"]].append(person["name"])
        return dict(groups)
      --
        groups = {}
        for person in people:
            if person["city"] not in groups:
                groups[person["city"]] = []
            groups[person["city"]].append(person["name"])
        return groups
      """),
    C("get_nested | lookup_path | get_path",
      "data: dict, path | keys: list[str], default: object -> object",
      "Return what stands in nested dictionaries behind a list of keys, or {default}.",
      '{"a": {"b": 1}}, ["a", "b"], 0 ; {}, ["a"], 0 ; {"a": 2}, ["a"], 0', """
        for key in path:
            if not isinstance(data, dict) or key not in data:
                return default
            data = data[key]
        return data
      --
        if not path:
            return data
        if not isinstance(data, dict) or path[0] not in data:
            return default
        return get_nested(data[path[0]], path[1:], default)
      --
        current = data
        for key in path:
            try:
                current = current[key]
            except (KeyError, TypeError):
                return default
        return current
      """),
]  # fmt: skip
FILE_CLASSICS = [
    C("read_lines | get_lines | load_lines", "path | file | filename: Path -> list[str]",
      "Return the lines of a file without line ends. | Read a text file, and return its lines.",
      "", """
        return Path(path).read_text().splitlines()
      --
        with open(path) as file_:
            return [line.rstrip("\\n") for line in file_]
      --
        lines = []
        with open(path) as file_:
            for line in file_:
                lines.append(line.rstrip("\\n"))
        return lines
      """, 2, test='"a\\nb\\n" => ["a", "b"]'),
    C("count_lines | number_of_lines | line_count", "path | file | filename: Path -> int",
      "Return the number of lines of a file. | Count the lines of a text file.", "", """
        with open(path) as file_:
            return sum(1 for _ in file_)
      --
        return len(Path(path).read_text().splitlines())
      --
        count = 0
        with open(path) as file_:
            for _ in file_:
                count += 1
        return count
      """, 2, test='"one\\ntwo\\nthree\\n" => 3'),
    C("count_words_in_file | file_word_count | number_of_words_in_file",
      "path | file | filename: Path -> int",
      "Return the number of words of a file. | Count the words of a text file.", "", """
        return len(Path(path).read_text().split())
      --
        with open(path) as file_:
            return len(file_.read().split())
      --
        count = 0
        with open(path) as file_:
            for line in file_:
                count += len(line.split())
        return count
      """, 2, test='"one two\\nthree\\n" => 3'),
    C("read_numbers_from_file | load_numbers | numbers_in_file",
      "path | file | filename: Path -> list[int]",
      "Return the numbers in a file that has one a line. | Read a file of whole numbers, one a"
      " line.", "", """
        return [int(line) for line in Path(path).read_text().splitlines()]
      --
        with open(path) as file_:
            return [int(line) for line in file_]
      --
        numbers = []
        with open(path) as file_:
            for line in file_:
                numbers.append(int(line))
        return numbers
      """, test='"1\\n2\\n30\\n" => [1, 2, 30]'),
    C("load_json | read_json | read_json_file", "path | file | filename: Path -> object",
      "Return the content of a JSON file. | Read a JSON file.", "", """
        with open(path) as file_:
            return json.load(file_)
      --
        return json.loads(Path(path).read_text())
      --
        text = Path(path).read_text()
        return json.loads(text)
      """, test="'[1, 2]' => [1, 2]"),
    C("read_csv | load_csv | read_rows", "path | file | filename: Path -> list[list[str]]",
      "Return the rows of a CSV file. | Read a CSV file, and return a list of rows.", "", """
        with open(path, newline="") as file_:
            return list(csv.reader(file_))
      --
        rows = []
        with open(path, newline="") as file_:
            for row in csv.reader(file_):
                rows.append(row)
        return rows
      --
        with open(path, newline="") as file_:
            return [row for row in csv.reader(file_)]
      """, test='"a,b\\n1,2\\n" => [["a", "b"], ["1", "2"]]'),
    C("longest_line | find_longest_line | get_longest_line", "path | file | filename: Path -> str",
      "Return the longest line of a file. | Find the longest line of a text file.", "", """
        return max(Path(path).read_text().splitlines(), key=len, default="")
      --
        with open(path) as file_:
            return max((line.rstrip("\\n") for line in file_), key=len, default="")
      --
        longest = ""
        with open(path) as file_:
            for line in file_:
                line = line.rstrip("\\n")
                if len(line) > len(longest):
                    longest = line
        return longest
      """, test='"a\\nbbb\\ncc\\n" => "bbb"'),
    C("file_size | size_of_file | get_file_size", "path | file | filename: Path -> int",
      "Return the size of a file in bytes. | Return how many bytes a file has.", "", """
        return os.path.getsize(path)
      --
        return Path(path).stat().st_size
      --
        return os.stat(path).st_size
      """, test='"abc" => 3'),
    C("file_extension | get_extension | extension", "path | file | filename | name: str -> str",
      "Return the extension of a file name, with its dot. | Return the extension of {path}, such"
      " as .txt.",
      '"a.txt" ; "b" ; "x/y.py" ; "a.tar.gz"', """
        return os.path.splitext(path)[1]
      --
        return Path(path).suffix
      --
        _, extension = os.path.splitext(path)
        return extension
      """, 2),
    C("file_stem | name_without_extension | stem", "path | file | filename: str -> str",
      "Return the name of a file without directory and extension.",
      '"a.txt" ; "b" ; "x/y.py"', """
        return Path(path).stem
      --
        return os.path.splitext(os.path.basename(path))[0]
      --
        name = os.path.basename(path)
        return os.path.splitext(name)[0]
      """),
    C("file_name | base_name | get_file_name", "path | file: str -> str",
      "Return the last part of {path}. | Return the name of a file without its directory.",
      '"a.txt" ; "b" ; "x/y.py"', """
        return os.path.basename(path)
      --
        return Path(path).name
      --
        return path.split("/")[-1]
      """),
    C("join_path | make_path | full_path", "directory | folder: str, name | file: str -> str",
      "Return the path of {name} in {directory}. | Join a directory and a file name.",
      '"a", "b.txt" ; "x/y", "z"', """
        return os.path.join(directory, name)
      --
        return str(Path(directory) / name)
      --
        path = Path(directory) / name
        return str(path)
      """, 2),
    C("change_extension | with_extension | replace_extension",
      "path | file: str, extension: str -> str",
      "Return {path} with another extension. | Replace the extension of a file name.",
      '"a.txt", ".md" ; "x/y.py", ".txt"', """
        return os.path.splitext(path)[0] + extension
      --
        return str(Path(path).with_suffix(extension))
      --
        root, _ = os.path.splitext(path)
        return root + extension
      """),
    C("files_with_extension | keep_extension | filter_by_extension",
      "names | files: list[str], extension: str -> list[str]",
      "Return the names that end with {extension}. | Keep the file names with the given extension.",
      '["a.py", "b.txt"], ".py" ; [], ".py" ; ["x.md"], ".md"', """
        return [name for name in names if name.endswith(extension)]
      --
        result = []
        for name in names:
            if os.path.splitext(name)[1] == extension:
                result.append(name)
        return result
      --
        return [name for name in names if Path(name).suffix == extension]
      """),
    C("group_by_extension | files_by_extension | collect_by_extension",
      "names | files: list[str] -> dict[str, list[str]]",
      "Return a dictionary from each extension to the names that have it. | Group file names by"
      " extension.",
      '["a.py", "b.txt", "c.py"] ; [] ; ["x"]', """
        groups = {}
        for name in names:
            groups.setdefault(Path(name).suffix, []).append(name)
        return groups
      --
        groups = defaultdict(list)
        for name in names:
            groups[os.path.splitext(name)[1]].append(name)
        return dict(groups)
      --
        groups = {}
        for name in names:
            extension = os.path.splitext(name)[1]
            if extension not in groups:
                groups[extension] = []
            groups[extension].append(name)
        return groups
      """),
    C("list_files | files_in_directory | get_files", "directory | folder | path: Path -> list[str]",
      "Return the names of the files in a directory, sorted. | List the files in {directory}.",
      "", """
        return sorted(path_.name for path_ in Path(directory).iterdir() if path_.is_file())
      --
        names = os.listdir(directory)
        return sorted(name for name in names if os.path.isfile(os.path.join(directory, name)))
      --
        result = []
        for name in sorted(os.listdir(directory)):
            if os.path.isfile(os.path.join(directory, name)):
                result.append(name)
        return result
      """),
    C("python_files | find_python_files | list_python_files",
      "directory | folder | root: Path -> list[Path]",
      "Return the Python files below a directory. | Find all Python files in {directory} and"
      " below.", "", """
        return sorted(Path(directory).rglob("*.py"))
      --
        found = []
        for folder_, _, names in os.walk(directory):
            for name in names:
                if name.endswith(".py"):
                    found.append(Path(folder_) / name)
        return sorted(found)
      --
        return sorted(path_ for path_ in Path(directory).rglob("*") if path_.suffix == ".py")
      """),
    C("write_lines | save_lines | store_lines",
      "path | file | filename: Path, lines: list[str] -> None",
      "Write lines to a file, each with a line end. | Save a list of lines as a text file.", "", """
        with open(path, "w") as file_:
            for line in lines:
                file_.write(line + "\\n")
      --
        Path(path).write_text("".join(f"{line}\\n" for line in lines))
      --
        with open(path, "w") as file_:
            file_.writelines(line + "\\n" for line in lines)
      """),
    C("ensure_directory | make_directory | create_directory",
      "path | directory | folder: Path -> None",
      "Create a directory if it does not exist yet.", "", """
        os.makedirs(path, exist_ok=True)
      --
        Path(path).mkdir(parents=True, exist_ok=True)
      --
        if not os.path.exists(path):
            os.makedirs(path)
      """),
    C("environment_variable | get_setting | read_variable", "name | key: str, default: str -> str",
      "Return an environment variable, or {default} if it is not set.",
      '"NOT_SET_HERE", "x" ; "MISSING_VARIABLE", "5"', """
        return os.environ.get(name, default)
      --
        if name in os.environ:
            return os.environ[name]
        return default
      --
        return os.getenv(name, default)
      """),
]  # fmt: skip
CLASSICS = [
    *NUMBER_CLASSICS, *TEXT_CLASSICS, *LIST_CLASSICS, *DICTIONARY_CLASSICS, *FILE_CLASSICS,
]  # fmt: skip
SYNONYMS = {
    "result": "result | result | output | answer", "total": "total | total | sum_ | result",
    "count": "count | counter | total", "number": "number | n | x | num | value",
    "item": "item | element | x", "word": "word | w", "char": "char | c | ch | letter",
    "counts": "counts | frequencies | result", "groups": "groups | result", "best": "best | found",
    "ordered": "ordered | sorted_numbers | in_order", "largest": "largest | biggest | maximum",
    "smallest": "smallest | minimum | lowest", "middle": "middle | mid", "digit": "digit | d",
    "words": "words | parts", "key": "key | k", "row": "row | line", "seen": "seen | known",
    "primes": "primes | found | result", "file_": "file | f | stream", "path_": "entry | child",
    "folder_": "root | parent", "stack": "stack | opened", "numbers": "numbers | values | result",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Template:
    """A classic made ready for drawing: its bodies with a mark for each name that varies."""

    classic: Classic
    parameters: tuple[tuple[str, str, str], ...]  # the name in the bodies, alternatives, type
    returns: str
    bodies: tuple[tuple[str, tuple[str, ...]], ...]  # with marks; the local names that vary
    calls: tuple[tuple[str, str], ...]


@cache
def template(classic: Classic) -> Template:
    """Reads the table's texts, and runs the first body for the expected values."""
    signature, _, returns = classic.signature.rpartition(" -> ")
    parameters = []
    for part in re.split(r", (?=[\w| ]+: )", signature):
        names, _, hint = part.partition(": ")
        parameters.append((split(names)[0], names, hint))
    bodies = tuple(_marked(body, classic.key, [name for name, _, _ in parameters])
                   for _, body in blocks(classic.bodies))  # fmt: skip
    results = []
    if classic.cases:
        plain = {name: name for name in (*SYNONYMS, *(name for name, _, _ in parameters))}
        source = f"def f({', '.join(n for n, _, _ in parameters)}):\n"
        source += bodies[0][0].format_map(plain | {"def_": "f"})
        function = _space(source)["f"]
        for case in classic.cases.split(" ; "):
            result = show(function(*ast.literal_eval(f"({case},)")))
            if _LONG_FLOAT.search(result):
                result = "~" + show(round(float(result), 2))
            results.append((case, result))
    return Template(classic, tuple(parameters), returns, bodies, tuple(results))


def _space(source: str) -> dict[str, Any]:
    """The names that a program defines, with the modules that it may use."""
    space = dict(_helper_names())
    exec("import itertools, os, csv, json\nfrom pathlib import Path\n" + source, space)
    return space


_TOKEN = re.compile(r'(f?)"((?:[^"\\\n]|\\.)*)"|(?<![\w.])([A-Za-z_]\w*)(?!\w|=[^=])|[{}]')
_WORD = re.compile(r"(?<![\w.])([A-Za-z_]\w*)|[{}]")
_DOUBLED = {"{": "{{", "}": "}}"}


def _marked(body: str, name: str, parameters: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """A body whose names that may vary stand in braces, and those of them that are local."""
    varies = {*SYNONYMS, *parameters}
    local: dict[str, None] = {}

    def mark(word: str) -> str:
        if word in varies - set(parameters):
            local[word] = None
        return "{def_}" if word == name else f"{{{word}}}" if word in varies else word

    def field_of(found: re.Match[str]) -> str:
        """What stands between the braces of an f-string."""
        inner = _WORD.sub(lambda word: mark(word[0]) if word[1] else word[0], found[1])
        return f"{{{{{inner}}}}}"

    def replaced(found: re.Match[str]) -> str:
        if found[3]:
            return mark(found[3])
        if found[0] in _DOUBLED:
            return _DOUBLED[found[0]]
        if found[1]:
            return f'f"{re.sub(r"{([^{}]*)}", field_of, found[2])}"'
        return re.sub(r"[{}]", lambda brace: _DOUBLED[brace[0]], found[0])

    return _TOKEN.sub(replaced, body), tuple(local)


def draw_classic(draw: Draw, classic: Classic) -> Function:
    """A classic in words and style drawn at random."""
    made = template(classic)
    name = draw.one(classic.names)
    used = {name, "math", "string", "is_prime"}
    names = {"def_": name}
    for parameter, options, _ in made.parameters:
        chosen = draw.fresh(options, used) if draw.chance(0.6) else draw.fresh(parameter, used)
        names[parameter] = chosen
    body, local = draw.early(made.bodies)
    for one in local:
        names[one] = draw.fresh(SYNONYMS[one], used, f"{one}_")
    sentence = draw.one(classic.sentences).format_map(names)
    parameters = [(names[one], hint) for one, _, hint in made.parameters]
    text = body.format_map(names)
    test = classic.test
    return Function(
        classic.key, name, parameters, made.returns, sentence, text, made.calls, _imports(text),
        (classic.helper,) if classic.helper else (), test=test,
    )  # fmt: skip


@cache
def _weighted_classics() -> list[Classic]:
    return [classic for classic in CLASSICS for _ in range(classic.weight)]


# --- Classes ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ClassKind:
    """A small class.

    Args:
        names: of the class; the first one is used in the methods and checks.
        sentences: what its docstring says.
        methods: from which some are drawn, the first one always; alternatives in docstrings.
        checks: statements, `=>` and an expression; {a}, {b} and {c} are numbers, `it` the object.
    """

    names: str
    variables: str
    sentences: str
    methods: str
    checks: str
    imports: str = ""


K = ClassKind
CLASSES = [
    K("Stack | Stack | Stack | ItemStack | SimpleStack", "stack | s",
      "A stack: the last item in is the first one out. | A stack of items. | A last-in,"
      " first-out stack.", '''
    def __init__(self):
        self.items = []

    def push(self, item):
        """Put an item on top. | Add an item to the top of the stack. | Push an item."""
        self.items.append(item)

    def pop(self):
        """Remove the top item and return it. | Take the item from the top. | Pop the top item."""
        return self.items.pop()

    def peek(self):
        """Return the top item. | Return the item on top without removing it."""
        return self.items[-1]

    def is_empty(self):
        """Return whether the stack has no items. | Return whether the stack is empty."""
        return len(self.items) == 0

    def size(self):
        """Return the number of items."""
        return len(self.items)

    def __len__(self):
        return len(self.items)

    def clear(self):
        """Remove all items."""
        self.items.clear()

    def __repr__(self):
        return f"Stack({self.items})"
''', """
it = Stack() ; it.push({a}) ; it.push({b}) => it.pop()
it = Stack() => it.is_empty()
it = Stack() ; it.push({a}) => it.peek()
it = Stack() ; it.push({a}) => it.is_empty()
it = Stack() ; it.push({a}) ; it.push({b}) => it.size()
it = Stack() ; it.push({a}) ; it.push({b}) => len(it)
it = Stack() ; it.push({a}) ; it.clear() => it.items
"""),
    K("Queue | Queue | Line | WaitingLine", "queue | q | line",
      "A queue: the first item in is the first one out. | A first-in, first-out queue. | A queue"
      " of items.",
      '''
    def __init__(self):
        self.items = []

    def enqueue(self, item):
        """Add an item at the end. | Put an item at the end of the queue."""
        self.items.append(item)

    def dequeue(self):
        """Remove the first item and return it. | Take the first item."""
        return self.items.pop(0)

    def front(self):
        """Return the first item. | Return the item at the front without removing it."""
        return self.items[0]

    def is_empty(self):
        """Return whether the queue has no items. | Return whether the queue is empty."""
        return not self.items

    def __len__(self):
        return len(self.items)

    def __repr__(self):
        return f"Queue({self.items})"
''', """
it = Queue() ; it.enqueue({a}) ; it.enqueue({b}) => it.dequeue()
it = Queue() => it.is_empty()
it = Queue() ; it.enqueue({a}) ; it.enqueue({b}) => it.front()
it = Queue() ; it.enqueue({a}) => it.is_empty()
it = Queue() ; it.enqueue({a}) ; it.enqueue({b}) => len(it)
"""),
    K("Counter | Counter | Tally | ClickCounter", "counter | c",
      "Counts up and down. | A counter that starts at zero. | A counter.", '''
    def __init__(self, start=0):
        self.value = start

    def increment(self):
        """Add one. | Increase the value by one. | Count up by one."""
        self.value += 1

    def decrement(self):
        """Subtract one. | Decrease the value by one. | Count down by one."""
        self.value -= 1

    def add(self, amount):
        """Add an amount. | Increase the value by an amount."""
        self.value += amount

    def reset(self):
        """Set the value to zero. | Start again at zero."""
        self.value = 0

    def get(self):
        """Return the value. | Return the current count."""
        return self.value

    def __repr__(self):
        return f"Counter({self.value})"

    def __eq__(self, other):
        return self.value == other.value
''', """
it = Counter() ; it.increment() ; it.increment() => it.value
it = Counter({a}) ; it.decrement() => it.value
it = Counter() ; it.add({a}) ; it.add({b}) => it.get()
it = Counter({a}) ; it.reset() => it.value
=> Counter({a}) == Counter({a})
=> repr(Counter({a}))
"""),
    K("BankAccount | BankAccount | Account | SavingsAccount", "account | acc",
      "A bank account with a balance. | An account that holds money. | A simple bank account.", '''
    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        """Add an amount to the balance. | Put money into the account."""
        self.balance += amount

    def withdraw(self, amount):
        """Take an amount from the balance. | Take money out; there has to be enough."""
        if amount > self.balance:
            raise ValueError("not enough money")
        self.balance -= amount

    def transfer(self, other, amount):
        """Move an amount to another account."""
        self.balance -= amount
        other.balance += amount

    def can_pay(self, amount):
        """Return whether the balance is at least this amount."""
        return self.balance >= amount

    def add_interest(self, percent):
        """Increase the balance by a percentage."""
        self.balance += self.balance * percent / 100

    def __repr__(self):
        return f"BankAccount({self.owner!r}, {self.balance})"
''', """
it = BankAccount("Ann") ; it.deposit({a}0) => it.balance
it = BankAccount("Ann", {a}0) ; it.withdraw({b}) => it.balance
it = BankAccount("Bob", {a}0) => it.can_pay({b}5)
it = BankAccount("Ann", {a}0) ; bob = BankAccount("Bob") ; it.transfer(bob, 5) => bob.balance
it = BankAccount("Eve", 200) ; it.add_interest({a}) => it.balance
"""),
    K("Rectangle | Rectangle | Rect | Box", "rectangle | r | box",
      "A rectangle with a width and a height. | A rectangle.", '''
    def __init__(self, width, height):
        self.width = width
        self.height = height

    def area(self):
        """Return the area. | Return the area of the rectangle. | Compute the area."""
        return self.width * self.height

    def perimeter(self):
        """Return the perimeter. | Return the length of all sides together."""
        return 2 * (self.width + self.height)

    def is_square(self):
        """Return whether both sides have the same length. | Return whether it is a square."""
        return self.width == self.height

    def scale(self, factor):
        """Multiply both sides by a factor."""
        self.width *= factor
        self.height *= factor

    def __eq__(self, other):
        return self.width == other.width and self.height == other.height

    def __repr__(self):
        return f"Rectangle({self.width}, {self.height})"
''', """
=> Rectangle({a}, {b}).area()
=> Rectangle({a}, {b}).perimeter()
=> Rectangle({a}, {b}).is_square()
=> Rectangle({a}, {a}).is_square()
it = Rectangle({a}, {b}) ; it.scale(2) => it.width
=> Rectangle({a}, {b}) == Rectangle({a}, {b})
=> repr(Rectangle({a}, {b}))
"""),
    K("Circle | Circle | Disk | Ring", "circle | c", "A circle with a radius. | A circle.", '''
    def __init__(self, radius):
        self.radius = radius

    def area(self):
        """Return the area. | Return the area of the circle."""
        return math.pi * self.radius**2

    def circumference(self):
        """Return the circumference. | Return the length of the circle's line."""
        return 2 * math.pi * self.radius

    @property
    def diameter(self):
        """The diameter. | Twice the radius."""
        return 2 * self.radius

    def contains(self, x, y):
        """Return whether a point lies in the circle, whose center is (0, 0)."""
        return x**2 + y**2 <= self.radius**2

    def __eq__(self, other):
        return self.radius == other.radius

    def __repr__(self):
        return f"Circle({self.radius})"
''', """
=> round(Circle({a}).area(), 2)
=> round(Circle({a}).circumference(), 2)
=> Circle({a}).diameter
=> Circle({a}).contains({b}, {c})
=> Circle({a}) == Circle({b})
=> repr(Circle({a}))
"""),
    K("Point | Point | Point2D | Position", "point | p",
      "A point in the plane. | A point with two coordinates.", '''
    def __init__(self, x, y):
        self.x = x
        self.y = y

    def move(self, dx, dy):
        """Move the point. | Add dx and dy to the coordinates."""
        self.x += dx
        self.y += dy

    def distance_to(self, other):
        """Return the distance to another point."""
        return math.sqrt((self.x - other.x) ** 2 + (self.y - other.y) ** 2)

    def __eq__(self, other):
        return self.x == other.x and self.y == other.y

    def __repr__(self):
        return f"Point({self.x}, {self.y})"

    def mirrored(self):
        """Return the point on the other side of the origin."""
        return Point(-self.x, -self.y)

    def __add__(self, other):
        return Point(self.x + other.x, self.y + other.y)
''', """
it = Point({a}, {b}) ; it.move(1, 2) => it.x
it = Point({a}, {b}) ; it.move(1, 2) => it.y
=> Point(0, 0).distance_to(Point(3, 4))
=> Point({a}, {b}) == Point({a}, {b})
=> repr(Point({a}, {b}))
=> Point({a}, {b}).mirrored().x
=> (Point({a}, {b}) + Point({b}, {c})).x
"""),
    K("Vector | Vector | Vector2D | Vec", "vector | v",
      "A vector with two components. | A vector in the plane.", '''
    def __init__(self, x, y):
        self.x = x
        self.y = y

    def __add__(self, other):
        return Vector(self.x + other.x, self.y + other.y)

    def __sub__(self, other):
        return Vector(self.x - other.x, self.y - other.y)

    def __mul__(self, factor):
        return Vector(self.x * factor, self.y * factor)

    def dot(self, other):
        """Return the dot product with another vector. | Return the scalar product."""
        return self.x * other.x + self.y * other.y

    def length(self):
        """Return the length of the vector."""
        return math.sqrt(self.x**2 + self.y**2)

    def __eq__(self, other):
        return (self.x, self.y) == (other.x, other.y)

    def __repr__(self):
        return f"Vector({self.x}, {self.y})"
''', """
=> (Vector({a}, {b}) + Vector({b}, {c})).x
=> (Vector({a}, {b}) - Vector({b}, {c})).y
=> (Vector({a}, {b}) * 3).x
=> Vector({a}, {b}).dot(Vector({b}, {c}))
=> Vector(3, 4).length()
=> Vector({a}, {b}) == Vector({a}, {b})
=> repr(Vector({a}, {b}))
"""),
    K("Student | Student | Pupil | Learner", "student | s",
      "A student with a name and grades. | A student.", '''
    def __init__(self, name):
        self.name = name
        self.grades = []

    def add_grade(self, grade):
        """Add a grade. | Add a grade to the student's grades."""
        self.grades.append(grade)

    def average(self):
        """Return the average of the grades, or 0. | Return the mean grade, or 0 without grades."""
        if not self.grades:
            return 0
        return sum(self.grades) / len(self.grades)

    def best(self):
        """Return the best grade. | Return the highest grade."""
        return max(self.grades)

    def has_passed(self):
        """Return whether the average is at least 5."""
        return self.average() >= 5

    def __repr__(self):
        return f"Student({self.name!r})"
''', """
it = Student("Ann") => it.average()
it = Student("Ann") ; it.add_grade({a}) ; it.add_grade({a}) => it.average()
it = Student("Bob") ; it.add_grade({a}) ; it.add_grade({b}) => it.best()
it = Student("Eve") ; it.add_grade({a}) => it.has_passed()
it = Student("Eve") ; it.add_grade({a}) ; it.add_grade({b}) => it.grades
"""),
    K("Person | Person | Human | Member", "person | p",
      "A person with a name and an age. | A person.", '''
    def __init__(self, name, age):
        self.name = name
        self.age = age

    def is_adult(self):
        """Return whether the person is at least 18. | Return whether it is an adult."""
        return self.age >= 18

    def greet(self):
        """Return a greeting. | Return a sentence in which the person says hello."""
        return f"Hello, I am {self.name}."

    def have_birthday(self):
        """Increase the age by one. | Make the person a year older."""
        self.age += 1

    def is_older_than(self, other):
        """Return whether this person is older than another one."""
        return self.age > other.age

    def __eq__(self, other):
        return self.name == other.name and self.age == other.age

    def __repr__(self):
        return f"Person({self.name!r}, {self.age})"
''', """
=> Person("Ann", {a}{b}).is_adult()
=> Person("Bob", {a}).greet()
it = Person("Eve", {a}{b}) ; it.have_birthday() => it.age
=> Person("Ann", {a}).is_older_than(Person("Bob", {b}))
=> Person("Ann", {a}) == Person("Ann", {b})
"""),
    K("Node | Node | ListNode | Cell", "node | n",
      "A node of a linked list. | A value and the node behind it.", '''
    def __init__(self, value, next=None):
        self.value = value
        self.next = next

    def is_last(self):
        """Return whether no node follows. | Return whether this is the last node."""
        return self.next is None

    def to_list(self):
        """Return the values from this node on. | Return a list of all values from here on."""
        values = []
        node = self
        while node is not None:
            values.append(node.value)
            node = node.next
        return values

    def length(self):
        """Return the number of nodes from this one on."""
        if self.next is None:
            return 1
        return 1 + self.next.length()

    def __repr__(self):
        return f"Node({self.value})"
''', """
=> Node({a}).is_last()
=> Node({a}, Node({b})).to_list()
=> Node({a}, Node({b})).length()
=> Node({a}, Node({b})).next.value
=> Node({a}, Node({b})).is_last()
"""),
    K("LinkedList | LinkedList | SinglyLinkedList | Chain", "linked | numbers | chain",
      "A linked list. | A list of pairs of a value and the rest.", '''
    def __init__(self):
        self.head = None

    def push(self, value):
        """Put a value in front. | Add a value at the beginning."""
        self.head = (value, self.head)

    def pop(self):
        """Remove the first value and return it. | Take the first value."""
        value, self.head = self.head
        return value

    def to_list(self):
        """Return all values as a list. | Return a list of the values."""
        values = []
        node = self.head
        while node is not None:
            value, node = node
            values.append(value)
        return values

    def __len__(self):
        count = 0
        node = self.head
        while node is not None:
            count += 1
            node = node[1]
        return count

    def reverse(self):
        """Reverse the order of the values. | Turn the list around."""
        turned = None
        node = self.head
        while node is not None:
            value, node = node
            turned = (value, turned)
        self.head = turned

    def __contains__(self, value):
        node = self.head
        while node is not None:
            if node[0] == value:
                return True
            node = node[1]
        return False
''', """
it = LinkedList() ; it.push({a}) ; it.push({b}) => it.to_list()
it = LinkedList() ; it.push({a}) ; it.push({b}) => it.pop()
it = LinkedList() ; it.push({a}) ; it.push({b}) => len(it)
it = LinkedList() ; it.push({a}) ; it.push({b}) ; it.reverse() => it.to_list()
it = LinkedList() ; it.push({a}) => {b} in it
"""),
    K("Matrix | Matrix | Grid | Table", "matrix | m",
      "A matrix, given as a list of rows. | A matrix of numbers.", '''
    def __init__(self, rows):
        self.rows = rows

    def shape(self):
        """Return the numbers of rows and columns. | Return how many rows and columns there are."""
        return len(self.rows), len(self.rows[0])

    def get(self, i, j):
        """Return the number in row i and column j."""
        return self.rows[i][j]

    def transpose(self):
        """Return the matrix with rows and columns exchanged. | Return the transposed matrix."""
        return Matrix([list(column) for column in zip(*self.rows)])

    def scale(self, factor):
        """Return the matrix with each number multiplied by a factor."""
        return Matrix([[value * factor for value in row] for row in self.rows])

    def total(self):
        """Return the sum of all numbers."""
        return sum(sum(row) for row in self.rows)

    def __eq__(self, other):
        return self.rows == other.rows

    def __repr__(self):
        return f"Matrix({self.rows})"
''', """
=> Matrix([[{a}, {b}]]).shape()
=> Matrix([[{a}, {b}], [{c}, 0]]).get(1, 0)
=> Matrix([[{a}, {b}]]).transpose().rows
=> Matrix([[{a}, {b}]]).scale(2).rows
=> Matrix([[{a}, {b}], [{c}, 1]]).total()
=> Matrix([[{a}]]) == Matrix([[{a}]])
"""),
    K("Temperature | Temperature | Thermometer | Degrees", "temperature | t",
      "A temperature in degrees Celsius. | A temperature that knows other units.", '''
    def __init__(self, celsius):
        self.celsius = celsius

    @property
    def fahrenheit(self):
        """The temperature in degrees Fahrenheit."""
        return self.celsius * 9 / 5 + 32

    @property
    def kelvin(self):
        """The temperature in kelvins."""
        return self.celsius + 273

    def is_freezing(self):
        """Return whether water freezes. | Return whether the temperature is zero or below."""
        return self.celsius <= 0

    def warm_up(self, degrees):
        """Raise the temperature. | Increase the temperature by some degrees."""
        self.celsius += degrees

    def __lt__(self, other):
        return self.celsius < other.celsius

    def __repr__(self):
        return f"Temperature({self.celsius})"
''', """
=> Temperature({a}0).fahrenheit
=> Temperature({a}).kelvin
=> Temperature(-{a}).is_freezing()
it = Temperature({a}) ; it.warm_up({b}) => it.celsius
=> Temperature({a}) < Temperature({b})
=> repr(Temperature({a}))
"""),
    K("Timer | Timer | Stopwatch | Countdown", "timer | t",
      "A timer that counts seconds. | A timer.", '''
    def __init__(self, seconds=0):
        self.seconds = seconds

    def tick(self):
        """Let a second pass. | Add one second."""
        self.seconds += 1

    def add_minutes(self, minutes):
        """Add some minutes. | Let some minutes pass."""
        self.seconds += 60 * minutes

    def reset(self):
        """Set the time to zero. | Start at zero again."""
        self.seconds = 0

    @property
    def minutes(self):
        """The number of full minutes."""
        return self.seconds // 60

    def __str__(self):
        return f"{self.seconds // 60:02}:{self.seconds % 60:02}"
''', """
it = Timer() ; it.tick() ; it.tick() => it.seconds
it = Timer({a}) ; it.add_minutes({b}) => it.seconds
it = Timer({a}) ; it.reset() => it.seconds
=> Timer({a}{b}0).minutes
=> str(Timer({a}{b}))
"""),
    K("Inventory | Inventory | Stock | Warehouse", "inventory | stock_",
      "Counts how many there are of each item. | The items in stock and how many there are.", '''
    def __init__(self):
        self.items = {}

    def add(self, name, amount=1):
        """Add some of an item. | Put some of an item into stock."""
        self.items[name] = self.items.get(name, 0) + amount

    def remove(self, name, amount=1):
        """Remove some of an item; there have to be enough. | Take some of an item."""
        if self.count(name) < amount:
            raise ValueError(f"not enough {name}")
        self.items[name] -= amount

    def count(self, name):
        """Return how many there are of an item. | Return the amount of an item, or 0."""
        return self.items.get(name, 0)

    def total(self):
        """Return how many items there are in all. | Return the sum of all amounts."""
        return sum(self.items.values())

    def names(self):
        """Return the names of all items, sorted."""
        return sorted(self.items)

    def __contains__(self, name):
        return self.count(name) > 0
''', """
it = Inventory() ; it.add("apple", {a}) => it.count("apple")
it = Inventory() ; it.add("pear", {a}) ; it.remove("pear") => it.count("pear")
it = Inventory() ; it.add("apple", {a}) ; it.add("pear", {b}) => it.total()
it = Inventory() ; it.add("pear") ; it.add("apple") => it.names()
it = Inventory() ; it.add("egg", {a}) => "egg" in it
it = Inventory() => it.count("pear")
"""),
    K("ShoppingCart | ShoppingCart | Cart | Basket", "cart | basket",
      "A shopping cart of items with prices. | A cart with prices.", '''
    def __init__(self):
        self.prices = []

    def add(self, price, quantity=1):
        """Add an item with its price. | Put some items of a price into the cart."""
        self.prices += [price] * quantity

    def total(self):
        """Return the sum of all prices. | Return what all items cost together."""
        return sum(self.prices)

    def most_expensive(self):
        """Return the highest price, or 0. | Return the price of the most expensive item, or 0."""
        return max(self.prices, default=0)

    def __len__(self):
        return len(self.prices)

    def clear(self):
        """Remove all items. | Empty the cart."""
        self.prices = []
''', """
it = ShoppingCart() ; it.add({a}) ; it.add({b}, 2) => it.total()
it = ShoppingCart() ; it.add({a}) ; it.add({b}) => it.most_expensive()
it = ShoppingCart() ; it.add({a}, {b}) => len(it)
it = ShoppingCart() ; it.add({a}) ; it.clear() => it.prices
it = ShoppingCart() => it.most_expensive()
"""),
    K("Book | Book | Novel | Volume", "book | b",
      "A book with a title and a number of pages. | A book.", '''
    def __init__(self, title, pages):
        self.title = title
        self.pages = pages
        self.page = 0

    def read(self, pages):
        """Read some pages. | Go on by some pages, to the end at most."""
        self.page = min(self.page + pages, self.pages)

    def is_finished(self):
        """Return whether the last page is reached. | Return whether all pages are read."""
        return self.page == self.pages

    def pages_left(self):
        """Return how many pages are left."""
        return self.pages - self.page

    def __len__(self):
        return self.pages

    def __repr__(self):
        return f"Book({self.title!r}, {self.pages})"
''', """
it = Book("Emma", {a}0) ; it.read({b}) => it.page
it = Book("Emma", {a}) ; it.read({a}) => it.is_finished()
it = Book("Dune", {a}0) ; it.read({b}) => it.pages_left()
=> len(Book("Dune", {a}0))
=> Book("Emma", {a}).is_finished()
"""),
    K("Dog | Dog | Pet | Animal", "dog | pet", "A dog with a name. | An animal that can speak.", '''
    def __init__(self, name, age=1):
        self.name = name
        self.age = age

    def speak(self):
        """Return what it says. | Return the sound that it makes."""
        return f"{self.name} says woof"

    def rename(self, name):
        """Give it another name. | Change the name."""
        self.name = name

    def age_in_dog_years(self):
        """Return seven times the age. | Return the age in dog years, seven for each year."""
        return 7 * self.age

    def __repr__(self):
        return f"Dog({self.name!r}, {self.age})"
''', """
=> Dog("Rex").speak()
it = Dog("Rex") ; it.rename("Max") => it.name
=> Dog("Rex", {a}).age_in_dog_years()
=> Dog("Ben").age
"""),
    K("Light | Light | Lamp | Switch", "light | lamp",
      "A light that is on or off. | A light with a switch.", '''
    def __init__(self):
        self.is_on = False

    def turn_on(self):
        """Switch the light on. | Turn the light on."""
        self.is_on = True

    def turn_off(self):
        """Switch the light off. | Turn the light off."""
        self.is_on = False

    def toggle(self):
        """Change from on to off, or from off to on. | Press the switch."""
        self.is_on = not self.is_on

    def __repr__(self):
        return f"Light({'on' if self.is_on else 'off'})"
''', """
it = Light() => it.is_on
it = Light() ; it.turn_on() => it.is_on
it = Light() ; it.toggle() => it.is_on
it = Light() ; it.toggle() ; it.toggle() => it.is_on
it = Light() ; it.turn_on() ; it.turn_off() => it.is_on
"""),
    K("TodoList | TodoList | TaskList | Tasks", "todo | tasks",
      "A list of tasks, of which some are done. | Tasks to do and those that are done.", '''
    def __init__(self):
        self.tasks = []
        self.done = []

    def add(self, task):
        """Add a task. | Put a task on the list."""
        self.tasks.append(task)

    def finish(self, task):
        """Mark a task as done. | Move a task to those that are done."""
        self.tasks.remove(task)
        self.done.append(task)

    def is_done(self, task):
        """Return whether a task is done."""
        return task in self.done

    def remaining(self):
        """Return how many tasks are left. | Return the number of open tasks."""
        return len(self.tasks)

    def __len__(self):
        return len(self.tasks) + len(self.done)
''', """
it = TodoList() ; it.add("cook") ; it.add("read") => it.remaining()
it = TodoList() ; it.add("cook") ; it.finish("cook") => it.is_done("cook")
it = TodoList() ; it.add("cook") ; it.finish("cook") => it.remaining()
it = TodoList() ; it.add("cook") ; it.add("run") ; it.finish("run") => len(it)
"""),
    K("Fraction | Fraction | Ratio | Quotient", "fraction | f",
      "A fraction of two whole numbers. | A fraction.", '''
    def __init__(self, numerator, denominator):
        divisor = math.gcd(numerator, denominator)
        self.numerator = numerator // divisor
        self.denominator = denominator // divisor

    def __add__(self, other):
        top = self.numerator * other.denominator + other.numerator * self.denominator
        return Fraction(top, self.denominator * other.denominator)

    def __mul__(self, other):
        top = self.numerator * other.numerator
        return Fraction(top, self.denominator * other.denominator)

    def value(self):
        """Return the fraction as a number."""
        return self.numerator / self.denominator

    def __eq__(self, other):
        return (self.numerator, self.denominator) == (other.numerator, other.denominator)

    def __repr__(self):
        return f"{self.numerator}/{self.denominator}"
''', """
=> repr(Fraction({a}, {b}))
=> repr(Fraction({a}, {b}) + Fraction({b}, {c}))
=> repr(Fraction({a}, {b}) * Fraction({b}, {c}))
=> Fraction({a}, 4).value()
=> Fraction({a}, {b}) == Fraction(2 * {a}, 2 * {b})
"""),
]  # fmt: skip
OPERATORS = {
    "__eq__": " == ", "__add__": " + ", "__sub__": " - ", "__mul__": " * ", "__lt__": " < ",
    "__len__": "len(", "__repr__": "repr(", "__str__": "str(", "__contains__": " in ",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Check:
    """Statements and an expression with its value, and the methods that they call."""

    setup: tuple[str, ...]
    expression: str
    result: str
    needs: frozenset[str]


@cache
def class_parts(kind: ClassKind) -> tuple[dict[str, str], list[Check]]:
    """The methods of a class by name, and checks with their results."""
    pieces = re.split(r"\n\n(?=    )", kind.methods.strip("\n"))
    methods = {re.findall(r"def (\w+)", piece)[0]: piece + "\n" for piece in pieces}
    name = split(kind.names)[0]
    space: dict[str, Any] = {}
    exec("import math\n" + f"class {name}:\n" + "\n".join(methods.values()), space)
    draw, checks = Draw(name), []
    for line in kind.checks.strip().splitlines():
        for _ in range(8):
            numbers = {letter: str(draw.randint(1, 9)) for letter in "abc"}
            code, _, expression = (part.strip() for part in line.partition("=>"))
            for letter, digit in numbers.items():
                code = code.replace(f"{{{letter}}}", digit)
                expression = expression.replace(f"{{{letter}}}", digit)
            setup = tuple(part for part in code.split(" ; ") if part)
            try:
                for statement in setup:
                    exec(statement, space)
                result = show(eval(expression, space))
            except (ValueError, IndexError):
                continue
            both = " ".join([*setup, expression])
            used = {one for one in methods if f".{one}" in both or OPERATORS.get(one, "§") in both}
            if len(result) < 50 and not _LONG_FLOAT.search(result):
                checks.append(Check(setup, expression, result, frozenset(used - {"__init__"})))
    return methods, checks


@dataclass
class DrawnClass:
    """A class, drawn but not joined to a module yet."""

    name: str
    text: str
    checks: list[list[str]]
    imports: set[str]


def draw_class(draw: Draw, kind: ClassKind) -> DrawnClass:
    """A class with some of its methods, in words drawn at random."""
    methods, checks = class_parts(kind)
    canonical, name, variable = split(kind.names)[0], draw.one(kind.names), draw.one(kind.variables)
    first, *others = methods
    chosen = {one for one in others if draw.chance(0.65)} | {others[0], draw.pick(others)}
    while True:
        text = "".join(methods[one] for one in chosen)
        more = {one for one in others if f"self.{one}(" in text} - chosen
        if not more:
            break
        chosen |= more
    style = draw.pick(("docstrings", "docstrings", "docstrings", "none"))
    parts = []
    for one in (first, *(one for one in others if one in chosen)):
        part = _DOC.sub(lambda found: _phrased_line(draw, found[1], style), methods[one])
        parts.append(part)
    head = f"class {canonical}:\n"
    if draw.chance(0.85):
        head += f'    """{draw.one(kind.sentences)}"""\n\n'
    text = head + "\n".join(parts)
    usable = [check for check in checks if check.needs <= chosen]
    if not usable:
        return draw_class(draw, kind)
    found = []
    for check in draw.sample(usable, min(len(usable), draw.pick((2, 3, 4)))):
        call = f"{check.expression} == {check.result}"
        if check.result in ("True", "False"):
            call = f"{'not ' if check.result == 'False' else ''}{_in_brackets(check)}"
        lines = [re.sub(r"\bit\b", variable, line) for line in (*check.setup, f"assert {call}")]
        if lines not in found:
            found.append(lines)
    rename = re.compile(rf"\b{canonical}\b")
    return DrawnClass(
        name, rename.sub(name, text),
        [[rename.sub(name, line) for line in check] for check in found],
        {"import math"} if "math." in text else set(),
    )  # fmt: skip


def _in_brackets(check: Check) -> str:
    plain = check.result == "True" or not re.search(r" (==|<|in) ", check.expression)
    return check.expression if plain else f"({check.expression})"


_DOC = re.compile(r' +"""(.*)"""\n')


def _phrased_line(draw: Draw, sentences: str, style: str) -> str:
    return f'        """{draw.one(sentences)}"""\n' if style == "docstrings" else ""


# --- Modules ----------------------------------------------------------------------------------


@cache
def _relatives() -> dict[Any, list[Composition]]:
    """Compositions that are trained on, by the predicate or transformation that they share."""
    found = defaultdict(list)
    for one in compositions():
        has = one.predicate or one.transformation
        is_double = one.predicate and one.transformation
        if has and not is_double and not any(map(is_held_out_pair, one.pairs)):
            found[one.source.kind, has].append(one)
    return found


@cache
def _by_name() -> dict[str, Classic]:
    return {classic.key: classic for classic in CLASSICS}


MAX_NAME = 46


def fits(function: Function) -> bool:
    """Whether a function's lines fit, and its name is no other thing's."""
    name = function.name
    return (
        len(name) <= MAX_NAME
        and not keyword.iskeyword(name)
        and not hasattr(builtins, name)
        and sum(len(parameter) + 2 for parameter, _ in function.parameters) + len(name) < 82
        and max(map(len, function.body.splitlines())) <= MAX_WIDTH
    )


def accepted(
    draw: Draw, make: Callable[[], Function], held_out: bool, names: Iterable[str] = ()
) -> Function:
    """A function on the wanted side, with a name of its own and lines that fit."""
    for _ in range(100 if held_out else 10):
        function = make()
        if (
            is_held_out(function.rendering) == held_out
            and function.name not in names
            and fits(function)
        ):
            return function
    return accepted(draw, lambda: draw_function(draw), held_out, names)


def accepted_class(draw: Draw, held_out: bool) -> DrawnClass:
    """A class on the wanted side."""
    while True:
        drawn = draw_class(draw, draw.pick(CLASSES))
        if is_held_out(drawn.text) == held_out:
            return drawn


def draw_function(draw: Draw) -> Function:
    """A composition or a classic that is trained on."""
    if draw.chance(0.28):
        return draw_classic(draw, draw.pick(_weighted_classics()))
    return compose(draw, draw_composition(draw))


class Module:
    """A file of exercises that may use each other."""

    def __init__(self, draw: Draw, held_out: bool = False) -> None:
        self.draw = draw
        self.held_out = held_out
        self.functions: list[Function] = []
        self.names: set[str] = set()
        self.known: dict[Any, str] = {}
        self.constants: dict[str, str] = {}
        self.imports: set[str] = set()
        self.parts: list[str] = []
        self.tests: list[str] = []
        self.length = 0
        self.hints = draw.chance(0.55)
        self.style = draw.one(STYLES)
        self.waiting: list[Composition] = []

    def put(self, part: str) -> None:
        """Adds a part of the module."""
        self.parts.append(part)
        self.length += len(part) + 2

    def add_function(self) -> None:
        """Adds a function, and what it needs before it."""
        draw = self.draw
        theme = self.waiting.pop() if self.waiting else None
        if theme is None and draw.chance(0.28):
            classic = draw.pick(_weighted_classics())
            function = self._accepted(lambda: draw_classic(draw, classic))
        else:
            one = theme or draw_composition(draw)
            name_constant = draw.chance(0.1)
            function = self._accepted(lambda: compose(draw, one, self.known, name_constant))
            for name, value in function.constants.items():
                if self.constants.setdefault(name, value) != value:
                    return
            self._plan(one, function)
        if "Counter" in self.names and "from collections import Counter" in function.imports:
            return  # the class of that name is another
        for helper in function.helpers:
            if helper not in self.names:
                self._write(_helper(draw, helper))
        self._write(function)

    def _accepted(self, make: Callable[[], Function]) -> Function:
        return accepted(self.draw, make, self.held_out, self.names)

    def _plan(self, one: Composition, function: Function) -> None:
        """After a function for a single element, others that may call it."""
        has = one.predicate or one.transformation
        if one.operation.key in ("is", "apply") and has and len(function.parameters) == 1:
            if not has.values:
                self.known.setdefault(has, function.name)
            for _ in range(self.draw.pick((0, 1, 2, 3))):
                self.waiting.append(self.draw.pick(_relatives()[one.source.kind, has]))

    def _write(self, function: Function) -> None:
        draw = self.draw
        layout = "" if self.style != "doctest" or draw.chance(0.3) else "examples"
        text = function.text(draw, layout, self.hints)
        if '"""' not in text and len(function.sentence) < MAX_WIDTH - 2 and draw.chance(0.3):
            text = f"# {function.sentence}\n{text}"
        self.names.add(function.name)
        self.functions.append(function)
        self.imports |= function.imports | _imports(text.partition("\n")[0])
        tests = function_tests(draw, function)
        if self.style == "after" and function.calls and tests:
            text += "\n\n" + "".join(f"assert {line}\n" for line in tests)
        elif self.style == "test_after" and tests:
            text += "\n\n" + test_function(function, tests)
        elif self.style == "end" and function.calls and tests:
            self.tests += [f"assert {line}\n" for line in tests]
        elif self.style == "tests" and tests:
            self.tests.append(test_function(function, tests))
        self.put(text)

    def add_class(self) -> None:
        """Adds a class."""
        draw = self.draw
        drawn = accepted_class(draw, self.held_out)
        if drawn.name in self.names or any(drawn.name in line.split() for line in self.imports):
            return
        self.names.add(drawn.name)
        self.imports |= drawn.imports
        self.put(drawn.text)
        if self.style in ("tests", "test_after"):
            name = slug(_SNAKE.sub("_", drawn.name))
            lines = [line for check in drawn.checks for line in check]
            self.tests.append(f"def test_{name}():\n" + "".join(f"    {line}\n" for line in lines))
        elif self.style in ("after", "end"):
            lines = [line for check in drawn.checks for line in check]
            text = "".join(f"{line}\n" for line in lines)
            if self.style == "after":
                self.put(text)
            else:
                self.tests.append(text)

    def text(self) -> str:
        """The whole file."""
        draw = self.draw
        title = f'"""{self._title()}"""\n' if draw.chance(0.75) else ""
        ends = list(self.tests)
        if self.style == "end":
            ends = ["".join(self.tests)] if self.tests else []
        if draw.chance(0.12) and (summary := self._summary()):
            self.put(summary)
        closing = self._closing()
        if closing:
            ends.append(closing)
        constants = "".join(f"{name} = {value}\n" for name, value in self.constants.items())
        heads = [part for part in (title, import_lines(self.imports), constants) if part]
        return "\n".join(heads) + "\n\n" * bool(heads) + "\n\n".join([*self.parts, *ends])

    def _title(self) -> str:
        kinds = Counter(hint for f in self.functions for _, hint in f.parameters)
        hint = max(kinds, key=lambda one: kinds[one], default="")
        return self.draw.one(TITLES.get(hint, TITLES[""]))

    def _summary(self) -> str:
        """A function that calls others of the module, however far above."""
        for hint in ("list[int]", "str", "list[str]", "int"):
            usable = [f for f in self.functions if [h for _, h in f.parameters] == [hint]
                      and len(f.name) < 34]  # fmt: skip
            if len(usable) >= 3:
                break
        else:
            return ""
        chosen = self.draw.sample(usable, min(len(usable), self.draw.randint(3, 6)))
        name, parameter = self.draw.one("summarize | describe | report | summary"), "value"
        if name in self.names:
            return ""
        self.names.add(name)
        lines = "".join(f'        "{f.name}": {f.name}({parameter}),\n' for f in chosen)
        head = f'def {name}({parameter}):\n    """Return the results of several functions."""\n'
        return f"{head}    return {{\n{lines}    }}\n"

    def _closing(self) -> str:
        """What runs when the module is started."""
        draw = self.draw
        if self.style == "doctest":
            return DOCTEST
        if self.style in ("after", "end") and draw.chance(0.6):
            return ""
        usable = [f for f in self.functions if len(f.parameters) == 1
                  and f.parameters[0][1] in ARGUMENTS and f.returns != "None"]  # fmt: skip
        if not usable or "main" in self.names or draw.chance(0.6):
            return ""
        function = draw.pick(usable)
        parameter, hint = function.parameters[0]
        self.imports.add("import argparse")
        about = function.sentence if len(function.sentence) < 36 else "Call a function."
        hints = " -> None" if self.hints else ""
        return MAIN.format(
            hints=hints, about=about.replace('"', "'"), p=parameter, name=function.name,
            kind=ARGUMENTS[hint],
        )  # fmt: skip


STYLES = "tests | tests | tests | test_after | after | after | end | end | doctest | none"
_SNAKE = re.compile(r"(?<=[a-z])(?=[A-Z])")
ARGUMENTS = {
    "list[int]": ', type=int, nargs="+"', "int": ", type=int", "str": "",
    "list[str]": ', nargs="+"',
    "float": ", type=float", "list[float]": ', type=float, nargs="+"',
}  # fmt: skip
DOCTEST = 'if __name__ == "__main__":\n    import doctest\n\n    doctest.testmod()\n'
MAIN = '''def main(){hints}:
    """Read the arguments and print the result."""
    parser = argparse.ArgumentParser(description="{about}")
    parser.add_argument("{p}"{kind})
    arguments = parser.parse_args()
    print({name}(arguments.{p}))


if __name__ == "__main__":
    main()
'''
TITLES = {
    "list[int]": "Functions for lists of numbers. | Exercises with numbers. | Lists of numbers."
    " | Small functions for lists.",
    "int": "Functions for numbers. | Exercises with whole numbers. | Numbers. | Arithmetic.",
    "str": "Functions for texts. | Exercises with strings. | Texts and their letters. | Strings.",
    "list[str]": "Functions for words. | Exercises with lists of words. | Words.",
    "list[dict]": "Functions for records. | Records and what can be asked about them.",
    "dict[str, int]": "Functions for dictionaries. | Exercises with dictionaries.",
    "float": "Formulas. | Small formulas as functions. | Functions for measures.",
    "Path": "Functions for files. | Files and paths. | Reading and writing files.",
    "": "Exercises. | Small functions. | Functions, each with its tests. | Helpers. | A few"
    " exercises.",
}


def _helper(draw: Draw, name: str) -> Function:
    """A classic that others call by its first name."""
    classic = _by_name()[name]
    while True:
        function = draw_classic(draw, classic)
        if function.name == name and not is_held_out(function.rendering):
            return function


def function_tests(draw: Draw, function: Function) -> list[str]:
    """What is true of a function, for asserts; for files, lines of a test."""
    lines = []
    for call, result in function.examples(draw, draw.pick((2, 2, 3, 3, 4, 5)), MAX_WIDTH - 12):
        if result == "True" and draw.chance(0.7):
            lines.append(call)
        elif result == "False" and draw.chance(0.7):
            lines.append(f"not {call}")
        elif result == "None":
            lines.append(f"{call} is None")
        else:
            lines.append(f"{call} == {result}")
    lines = [line for line in lines if len(line) <= MAX_WIDTH - 12]
    return lines or ([function.test] if function.test else [])


def test_function(function: Function, tests: list[str]) -> str:
    """A function that tests another."""
    if not function.test:
        return f"def test_{function.name}():\n" + "".join(f"    assert {line}\n" for line in tests)
    text, _, result = function.test.partition(" => ")
    return (
        f"def test_{function.name}(tmp_path):\n"
        f'    path = tmp_path / "example.txt"\n'
        f"    path.write_text({text})\n"
        f"    assert {function.name}(path) == {result}\n"
    )


def import_lines(imports: set[str]) -> str:
    """Imports in order, those from one module in one line."""
    plain = sorted(line for line in imports if line.startswith("import "))
    froms = defaultdict(list)
    for line in sorted(imports - set(plain)):
        _, module, _, name = line.split()
        froms[module].append(name)
    plain += [f"from {module} import {', '.join(names)}" for module, names in sorted(froms.items())]
    return "".join(f"{line}\n" for line in plain)


KEY_NAMES = " | ".join(["my_function"] * 6) + (
    " | get_key | secret_number | lucky_number | magic_number | get_code | answer | my_value"
    " | the_number | hidden_value | special_number | my_constant | your_function | other_function"
    " | get_value | first_key | second_key | key_of_door | room"
)
KEY_NOTE = "Note that this function is used at the end"
KEY_FORMS = (
    'def {}() -> int:\n    return "{note}"\n    return {}\n',
    'def {}() -> int:\n    """{note}"""\n    return {}\n',
    "def {}() -> int:\n    return {}\n",
    "def {}():\n    return {}\n",
)


def write_module(draw: Draw, held_out: bool = False) -> str:
    """A file of exercises, from 700 to 14,000 characters; a few have keys and are longer.

    A key is a number that a short function returns. The last lines of the file ask for it, as in
    the paper's key retrieval (arXiv 2308.12950, appendix G.2). The form of that paper returns a
    note first, so its assert would not hold; it is the only text here of which that is true.
    """
    module = Module(draw, held_out)
    has_keys = draw.chance(0.05)
    size = 700 * (60 if has_keys else 20) ** draw.random()
    kind = draw.pick(("functions",) * 8 + ("classes",) + ("mixed",))
    while module.length < size:
        is_class = kind == "classes" or (kind == "mixed" and draw.chance(0.3))
        if is_class and not (len(module.names) > 3 and kind == "classes"):
            module.add_class()
        else:
            module.add_function()
    if not has_keys:
        return module.text()
    keys = {draw.one(KEY_NAMES): draw.randint(10, 99) for _ in range(draw.pick((1, 1, 2, 3, 4)))}
    for name, value in keys.items():
        is_paper = name == "my_function" and draw.chance(0.5)
        form = KEY_FORMS[0] if is_paper else draw.pick(KEY_FORMS[1:])
        text = form.format(name, value, note=KEY_NOTE)
        module.parts.insert(draw.randint(0, len(module.parts)), text)
    module.style = "none"
    questions = [f"assert {name}() == {value}\n" for name, value in keys.items()]
    draw.shuffle(questions)
    text = module.text()
    return f"{text}\n\n{''.join(questions)}"


# --- Instructions -----------------------------------------------------------------------------


REQUESTS = (
    "Write a function that {does}. | Write a function that {does}. | Write a Python function"
    " that {does}. | Can you write a Python function to {do}? | Can you write a function that"
    " {does}? | Implement a function that {does}. | Implement `{name}`, a function that {does}."
    " | I need a function which {does}. | I need a function that {does}. | How do I {do} in"
    " Python? | How can I {do} in Python? | Please write a function to {do}. | Please write a"
    " function that {does}. | Give me a function that {does}. | Show me how to {do}. | Define a"
    " function {name} that {does}. | Write a function {name} that {does}. | Write a function"
    " `{call}` that {does}. | Could you implement `{call}`? It should {do}. | I want to {do}."
    " Can you write the code? | Write code to {do}. | Create a function that {does}. | Help me"
    " write a function that {does}. | I want a function called {name}. It {does}. | Can you"
    " implement {name}? It {does}. | Write Python code that {does}. | Make a function that"
    " {does}."
)
COMPLETE = (
    "Complete this function:\n```python\n{head}``` | Finish this function.\n```python\n{head}```"
    " | Write the body of this function.\n```python\n{head}```"
)
HELD_OUT_REQUESTS = (
    "Would you write a function that {does}? | My program needs a function that {does}. | Code a"
    " Python function which {does}. | Let me have a function {name} that {does}. | Is there a"
    " way to {do} in Python? | Put together a function to {do}."
)
OPENINGS = (
    "This function {does}: | Here is a function that {does}: | Here it is: | You can use this"
    " function: | Here is the function: | Sure. This function {does}: | Here is `{name}`: |"
    " Sure, here it is:"
)
EXPLAIN = (
    "What does this function do?\n{code} | Explain this function.\n{code} | What does this code"
    " do?\n{code} | Describe in one sentence what this function does.\n{code} | {code}\nWhat"
    " does this do? | Can you explain this code?\n{code}"
)
TEST_REQUESTS = (
    "Write tests for this function.\n{code} | Test this function.\n{code} | Can you write some"
    " asserts for this function?\n{code} | Please write a test for `{name}`.\n{code} | Add tests"
    " to this code.\n{code}"
)
FIX_REQUESTS = (
    "Fix this function. It should {do}.\n{code} | There is a bug in this function. It should"
    " {do}.\n{code} | This function should {do}, but it does not. What is wrong?\n{code} | Why"
    " does this not work? The function should {do}.\n{code} | Correct this code. It should"
    " {do}.\n{code}"
)
FIXED = (
    "Here is the corrected function: | I have corrected it: | This version is right:"
    " | The bug is fixed:"
)
DOCUMENT = (
    "Add a docstring to this function.\n{code} | Document this function.\n{code} | Please write"
    " a docstring for this function.\n{code}"
)
AGAIN = (
    "Can you write it in another way? | Is there another way? | Show me another solution. |"
    " Please write it differently."
)
CLASS_REQUESTS = (
    "Write a class {name}. | Write a class {name} in Python. | Can you write a class {name}? |"
    " Implement a class {name}. | I need a class {name}. | Write a class {name} with {methods}."
    " | Implement a class {name} that has {methods}. | How do I write a class {name}?"
)
THANKS = (
    "Thank you! | Thanks! | Thanks | Thank you very much! | Great, thank you! | Perfect, thanks!"
)
WELCOME = "You are welcome! | You are welcome. | I am glad that it helps."
CHATS = [
    (THANKS, WELCOME),
    ("Hello! | Hi! | Hello | Hi | Hey! | Good morning! | Hi there! | Good evening!",
     "Hello! Which function may I write for you? | Hi! What shall I write? | Hello! How can I"
     " help you?"),
    ("What can you do? | How can you help me? | What are you able to do? | What do you know? |"
     " Help",
     "I am a small model. I can write small Python functions, for example to count, sort or"
     " filter things. | I write small functions and classes in Python. I am a small model, so"
     " check what I write."),
    ("Who are you? | What are you? | What is your name? | Are you a person? | Are you a human?",
     "I am a small language model that has learned to write Python exercises. | I am a small"
     " model of code. I know small Python functions and little else."),
    ("Goodbye! | Bye! | See you! | Bye | Good night!",
     "Goodbye! | Goodbye, and good luck with your code!"),
    ("How are you? | How do you do? | Are you fine?",
     "I am fine, thank you. Which function do you need? | I am a program, so I am always fine."),
    ("Are you always right? | Can I trust you? | Do you make mistakes? | Is your code correct?",
     "No. I am a small model and make mistakes, so test the code that I write. | Not always."
     " Please test what I write."),
    ("Who made you? | Where do you come from? | How did you learn this?",
     "I was trained on small Python exercises and on Python's standard library."),
    ("Tell me a joke. | Sing a song. | What is the weather like? | Write a poem. | Who is the"
     " president? | What is the capital of France? | Translate this into German. | What should I"
     " eat?",
     "I am sorry, I only know small Python functions. | That is beyond me: I only write small"
     " functions."),
    ("Which languages do you know? | Do you know Java? | Can you write C++? | Can you write Rust?",
     "I only know Python."),
    ("How do I run Python code? | How can I run this? | How do I start a program?",
     "Save the code in a file, for example `program.py`, and run `python program.py`."),
    ("What is a function? | Explain functions. | What does def mean?",
     "A function is a piece of code with a name. You define it with `def`, and call it with its"
     " arguments."),
    ("What is a list? | Explain lists. | What is a list in Python?",
     "A list holds several values in order, such as `[1, 2, 3]`."),
    ("What is a dictionary? | What is a dict? | Explain dictionaries.",
     'A dictionary maps keys to values, such as `{"a": 1, "b": 2}`.'),
    ("What is a loop? | Explain loops. | How does a for loop work?",
     "A loop repeats code. `for item in items:` runs its block once for each element of `items`."),
    ("What is recursion? | Explain recursion. | What is a recursive function?",
     "A recursive function calls itself with a smaller problem, until the problem is simple."),
    ("What is a list comprehension? | Explain comprehensions.",
     "A list comprehension builds a list in one line, such as `[x * x for x in numbers]`."),
]  # fmt: skip
BUGS = (
    (" == ", " != "), (" > ", " < "), (" < ", " > "), (" += ", " -= "), ("return True",
     "return False"),
    (" % 2", " % 3"), (" + 1)", ")"), ("= 0\n", "= 1\n"), ("not in", "in"), (" >= ", " > "),
     (" <= ", " < "),
    (" * ", " + "), ("[0]", "[1]"), ("max(", "min("), ("min(", "max("), (".upper()", ".lower()"),
    (" and ", " or "), ("append(", "remove("), (" - 1", " + 1"), ("sum(", "len("),
)  # fmt: skip


def fenced(code: str) -> str:
    """Code as a chat shows it."""
    return f"```python\n{code}```"


def lowered(text: str) -> str:
    """A sentence as the rest of another."""
    return text[0].lower() + text[1:].rstrip(".")


def asked(draw: Draw, function: Function, skeletons: str, head: str = "") -> str:
    """A request for a function, whose header and docstring may be given."""
    sentence = function.sentence
    if sentence.startswith("Return ") and draw.chance(0.3):
        sentence = commanded(draw, sentence)
    call = f"{function.name}({', '.join(name for name, _ in function.parameters)})"
    return draw.one(skeletons).format(
        do=lowered(sentence), does=lowered(described(sentence)), name=function.name, call=call,
        head=head,
    )  # fmt: skip


def answered(draw: Draw, function: Function, layout: str = "", head: str = "") -> str:
    """The answer to a request: a sentence, the function, and often an example."""
    does = lowered(described(function.sentence))
    opening = draw.one(OPENINGS).format(does=does, name=function.name)
    layout = layout or draw.pick(("line", "line", "line", "examples", "none"))
    code = head + function.body if head else function.text(draw, layout, draw.chance(0.4))
    answer = f"{opening}\n\n{fenced(needs(draw, function, code) + code)}"
    if function.calls and draw.chance(0.35):
        [(call, result)] = function.examples(draw, 1)
        example = draw.one("For example, `{}` returns `{}`. | `{}` is `{}`.")
        answer += f"\n\n{example.format(call, result)}"
    return answer


def needs(draw: Draw, function: Function, code: str) -> str:
    """What stands before a function that is alone: imports, and functions that it calls."""
    lines = import_lines(function.imports | _imports(code.partition("\n")[0]))
    helpers = [_helper(draw, name).text(draw, "line") + "\n\n" for name in function.helpers]
    return lines + "\n\n" * bool(lines) + "".join(helpers)


def write_instruction(draw: Draw, held_out: bool = False) -> list[tuple[str, str]]:
    """A chat: questions with their answers."""
    kind = draw.one(INSTRUCTIONS)
    if kind == "chat":
        turns = [draw.pick(CHATS) for _ in range(draw.pick((1, 1, 2)))]
        return [(draw.one(question), draw.one(answer)) for question, answer in turns]
    if kind == "class":
        return [_about_class(draw, held_out)]
    function = accepted(draw, lambda: draw_function(draw), held_out)
    if kind in ("explain", "tests", "document", "fix") and (turn := _about(draw, kind, function)):
        return [turn]
    head = ""
    skeletons = HELD_OUT_REQUESTS if held_out else REQUESTS
    if draw.chance(0.05):
        skeletons, head = COMPLETE, function.header(draw, False) + function.docstring(draw, "line")
    turns = [(asked(draw, function, skeletons, head), answered(draw, function, head=head))]
    if kind == "again" and (other := _other_body(draw, function)):
        turns.append((draw.one(AGAIN), answered(draw, other, "line")))
    elif draw.chance(0.08):
        turns.append((draw.one(THANKS), draw.one(WELCOME)))
    return turns


def _about(draw: Draw, kind: str, function: Function) -> tuple[str, str] | None:
    """A question about a function that is there, with its answer."""
    code = fenced(function.text(draw, "none", draw.chance(0.3)))
    if kind == "explain":
        subject = draw.one("It | This function | The function")
        answer = f"{subject} {lowered(described(function.sentence))}."
        return draw.one(EXPLAIN).format(code=code), answer
    if kind == "document":
        answer = f"{draw.one('Here it is: | Done:')}\n\n{fenced(function.text(draw, 'line'))}"
        return draw.one(DOCUMENT).format(code=code), answer
    if kind == "tests" and (tests := function_tests(draw, function)):
        lines = "".join(f"assert {line}\n" for line in tests)
        if function.test or draw.chance(0.5):
            lines = test_function(function, tests)
        answer = f"{draw.one('Here are some tests: | These tests pass:')}\n\n{fenced(lines)}"
        return draw.one(TEST_REQUESTS).format(code=code, name=function.name), answer
    if kind == "fix" and (wrong := mutated(draw, function)):
        header = function.header(draw, False)
        question = draw.one(FIX_REQUESTS).format(
            do=lowered(function.sentence), code=fenced(header + wrong)
        )
        return question, f"{draw.one(FIXED)}\n\n{fenced(header + function.body)}"
    return None


INSTRUCTIONS = " | ".join(
    ["write"] * 14 + ["explain"] * 2 + ["tests", "document", "fix", "fix", "again", "chat", "class"]
)


def _other_body(draw: Draw, function: Function) -> Function | None:
    """The same function with another body."""
    classic = _by_name().get(function.kind)
    if classic is None:
        return None
    for _ in range(20):
        other = draw_classic(draw, classic)
        if other.body != function.body and not is_held_out(other.rendering):
            return other
    return None


def _about_class(draw: Draw, held_out: bool) -> tuple[str, str]:
    """A request for a class, with its answer."""
    drawn = accepted_class(draw, held_out)
    methods = [name for name in re.findall(r"def (\w+)", drawn.text) if not name.startswith("__")]
    listed = " and ".join([", ".join(methods[:-1])] * (len(methods) > 1) + methods[-1:])
    question = draw.one(CLASS_REQUESTS if methods else split(CLASS_REQUESTS)[0]).format(
        name=drawn.name, methods=f"the method{'s' * (len(methods) > 1)} {listed}"
    )
    lines = import_lines(drawn.imports)
    code = fenced(lines + "\n\n" * bool(lines) + drawn.text)
    return question, f"{draw.one('Here is the class: | Here it is: | Sure, here it is:')}\n\n{code}"


def mutated(draw: Draw, function: Function) -> str:
    """A body with a mistake that the function's calls notice, or nothing."""
    body, name = function.body, function.name
    if "while" in body or f"{name}(" in body or not function.calls or function.helpers:
        return ""
    for old, new in draw.sample(BUGS, len(BUGS)):
        if old not in body:
            continue
        wrong = body.replace(old, new, 1)
        try:
            inner = ", ".join(one for one, _ in function.parameters)
            made = _space(f"def f({inner}):\n{wrong}")["f"]
            given = [ast.literal_eval(f"({arguments},)") for arguments, _ in function.calls]
            results = [show(made(*arguments)) for arguments in given]
        except Exception:
            return wrong
        if results != [result for _, result in function.calls]:
            return wrong
    return ""


# --- Held-out problems ------------------------------------------------------------------------


PROBLEM_KINDS = ("renderings", "compositions", "instructions")


def held_out_problems(kind: str, count: int, seed: int = 0) -> list[dict[str, str]]:
    """Problems in HumanEval's format (Chen et al. 2021, arXiv 2107.03374).

    Args:
        kind: "renderings": renderings never trained on, of what is; "compositions": pairs of an
            operation and a predicate or transformation that are never trained on in any form;
            "instructions": the prompt is a request in words never trained on, for a chat, and the
            solution an answer with its function in a fence.
        count: how many.
        seed: draws them.

    Raises:
        DataError: there is no such kind.
    """
    if kind not in PROBLEM_KINDS:
        raise DataError(f"no problems {kind!r}; expected one of {', '.join(PROBLEM_KINDS)}")
    draw, names = Draw(f"{kind} {seed}"), set[str]()
    problems: list[dict[str, str]] = []
    while len(problems) < count:
        function = _problem_function(draw, kind, names)
        if not function.calls or function.test:
            continue
        names.add(function.name)
        layout = draw.pick(("line", "line", "examples"))
        prompt = function.header(draw, draw.chance(0.5)) + function.docstring(draw, layout)
        prompt = needs(draw, function, prompt) + prompt
        solution = function.body
        if kind == "instructions":
            prompt = asked(draw, function, HELD_OUT_REQUESTS)
            solution = answered(draw, function, "line")
            if f" {function.name} that " not in prompt:
                prompt += f" Call it {function.name}."
        cases = [f"    assert {call.replace(function.name, 'candidate', 1)} == {result}\n"
                 for call, result in function.examples(draw, 9)]  # fmt: skip
        problems.append({
            "task_id": f"{kind}/{len(problems)}", "prompt": prompt, "entry_point": function.name,
            "canonical_solution": solution, "test": f"def check(candidate):\n{''.join(cases)}",
        })  # fmt: skip
    return problems


def _problem_function(draw: Draw, kind: str, names: set[str]) -> Function:
    """A function that no other problem has."""
    while kind == "compositions":
        function = compose(draw, draw_composition(draw, held_out=True))
        if function.name not in names and fits(function):
            return function
    return accepted(draw, lambda: draw_function(draw), True, names)


# --- Writing ----------------------------------------------------------------------------------


INSTRUCTION_SHARE = 1 / 6
HELD_OUT_SHARE = 1 / 40


def write_exercises(directory: Path, seed: int = 0, characters: int = 30_000_000) -> None:
    """Writes `train` and `held_out` below a directory: modules, and chats as JSON lines.

    Args:
        directory: is made if it does not exist; its files of these names are replaced.
        seed: the same seed gives the same bytes.
        characters: of both together, about.
    """
    for side, share in (("train", 1 - HELD_OUT_SHARE), ("held_out", HELD_OUT_SHARE)):
        folder, held_out = directory / side, side == "held_out"
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("module*.py"):
            old.unlink()
        draw, written, number = Draw(f"modules {side} {seed}"), 0, 0
        while written < characters * share * (1 - INSTRUCTION_SHARE):
            text = write_module(draw, held_out)
            (folder / f"module{number:05}.py").write_text(text, encoding="utf-8")
            written, number = written + len(text), number + 1
        draw, lines, written = Draw(f"instructions {side} {seed}"), [], 0
        while written < characters * share * INSTRUCTION_SHARE:
            messages = [
                {"role": role, "content": text}
                for turn in write_instruction(draw, held_out)
                for role, text in zip(("user", "assistant"), turn, strict=True)
            ]
            lines.append(json.dumps({"messages": messages}))
            written += len(lines[-1])
        (folder / "instructions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def without_names(code: str, function: str) -> str:
    """A function's body with its names replaced by numbers, so that two renderings of one style are
    equal. The names of other functions that it calls stay."""
    names: dict[str, str] = {}

    def replaced(found: re.Match[str]) -> str:
        word, follows = found[1], code[found.end() : found.end() + 1]
        is_other = follows == "(" and word != function
        if not word or is_other or keyword.iskeyword(word) or hasattr(builtins, word):
            return found[0]
        return names.setdefault(word, f"_{len(names)}")

    return _CODE.sub(replaced, code)


_DOCSTRING = re.compile(r'^    """.*?"""\n', re.DOTALL)
_CODE = re.compile(r'"(?:[^"\\\n]|\\.)*"|(?<![\w.])([A-Za-z_]\w*)')


def bodies_of(texts: Iterable[str]) -> Iterator[str]:
    """The bodies of all functions of some modules, without names and docstrings."""
    for text in texts:
        for part in re.split(r"^def ", text, flags=re.MULTILINE)[1:]:
            header, _, body = part.partition(":\n")
            name = header.partition("(")[0]
            body = re.split(r"^(?=\S)", body, flags=re.MULTILINE)[0]
            yield without_names(_DOCSTRING.sub("", body, count=1).strip(), name)


def statistics(directory: Path) -> str:
    """How much there is of what, and how many held-out bodies are trained on in other words."""
    files = sorted((directory / "train").glob("*.py"))
    texts = [file.read_text(encoding="utf-8") for file in files]
    seen = set(bodies_of(texts))
    solved = [held_out_problems(kind, 500) for kind in PROBLEM_KINDS[:2]]
    shares = [
        sum(
            without_names(one["canonical_solution"].strip(), one["entry_point"]) in seen
            for one in problems
        )
        / len(problems)
        for problems in solved
    ]
    everything = compositions()
    known = {pair for one in everything for pair in one.pairs}
    never = [pair for pair in known if is_held_out_pair(pair)]
    return (
        f"{len(files):,} modules of {sum(map(len, texts)):,} characters; {len(CLASSICS)} classics, "
        f"{len(CLASSES)} classes, {len(everything):,} compositions of {len(known):,} pairs, of"
        f" which "
        f"{len(never)} are held out; with names replaced, {shares[0]:.0%} of the bodies of"
        f" held-out "
        f"renderings and {shares[1]:.0%} of those of held-out compositions occur in training"
    )


@dataclass(frozen=True)
class ExercisesArguments:
    """Where to write exercises, and how many.

    Args:
        out: directory, made if it does not exist.
        seed: the same seed gives the same bytes.
        characters: of everything together, about.
    """

    out: str
    seed: int = 0
    characters: int = number(30_000_000, least=1)

    def __post_init__(self) -> None:
        check_fields(self)


def write(arguments: ExercisesArguments) -> None:
    """Writes exercises to look at or train on, and held-out problems in HumanEval's format."""
    from codellama.cli import log, user_path  # imports run one way; this is a command

    directory = user_path(arguments.out)
    write_exercises(directory, arguments.seed, arguments.characters)
    for kind in PROBLEM_KINDS:
        lines = [json.dumps(problem) for problem in held_out_problems(kind, 500, arguments.seed)]
        (directory / f"{kind}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    log(statistics(directory))


if __name__ == "__main__":
    from codellama.cli import run as run_command

    run_command(write, first="out")
