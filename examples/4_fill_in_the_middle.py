"""Lesson 4: filling in the middle, and why suffix first breaks on words cut in two.

    python examples/4_fill_in_the_middle.py [--tasks 100] [--ckpt DIR] [--plot FILE.png]

The model reads what stands before and after a gap, in one of two orders, and writes the middle
(arXiv 2308.12950, sections 2.3 and 3.2, appendix E). The gaps are lines, and words
cut in two, of files that the small model has never seen (Table 14 in miniature).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lesson import Picture, title

from codellama import CodeLlama, Tokenizer, prompts
from codellama.cli import checkpoint_directory, run
from codellama.errors import number
from codellama.training.documents import find_documents, read_document

CONTEXT = 300
"""Characters on each side of a gap."""
WAYS = {
    "prefix first": {},
    "suffix first": {"suffix_first": True},
    "suffix first, healed": {"suffix_first": True, "heal": True},
}
Gap = tuple[str, str, str]


@dataclass(frozen=True)
class Tasks:
    """How much is measured.

    Args:
        tasks: gaps of each kind.
        ckpt: checkpoint directory; without it, the small one that comes with the package.
    """

    tasks: int = number(100, least=1)
    ckpt: str | None = None


def draw_gaps(count: int, cut: bool) -> list[Gap]:
    """Prefix, middle and suffix around pieces of held-out files.

    Args:
        cut: take the end of a word, so that the prefix ends inside it; otherwise a whole line.
    """
    numbers, gaps = random.Random(0), list[Gap]()
    texts = [read_document(path) for path in find_documents().held_out]
    texts = [text for text in texts if len(text) > 4 * CONTEXT]
    pattern = re.compile(r"(?<=[ .(])[A-Za-z]{6,}" if cut else r"(?<=\n) *[^\s#].*\S(?=\n)")
    while len(gaps) < count:
        text = numbers.choice(texts)
        start = numbers.randrange(CONTEXT, len(text) - 2 * CONTEXT)
        if found := pattern.search(text, start, start + CONTEXT):
            at = found.start() + (numbers.randrange(2, len(found[0]) - 2) if cut else 0)
            before, after = text[at - CONTEXT : at], text[found.end() :][:CONTEXT]
            gaps.append((before, text[at : found.end()], after))
    return gaps


def exact(llm: CodeLlama, gaps: Sequence[Gap], **way: bool) -> float:
    """The share of gaps that the model fills exactly: the line, or what is left of the word."""
    asked = [(before, after) for before, _, after in gaps]
    filled = llm.infill(asked, max_new_tokens=24, stop=["\n"], batch_size=16, **way)
    pattern = r"[A-Za-z]*" if gaps[0][1].isalpha() else r".*"
    found = [re.match(pattern, completion.text)[0].strip() for completion in filled]
    return sum(text == gap[1].strip() for text, gap in zip(found, gaps, strict=True)) / len(gaps)


def spell(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Pieces, separated by bars."""
    return "|".join(tokenizer.piece(id) for id in ids).replace("<0x0A>", "\\n")


def fill_in_the_middle(tasks: Tasks, picture: Picture) -> None:
    """See what the model reads, and measure how well it fills gaps."""
    llm = CodeLlama.load(checkpoint_directory(tasks.ckpt), dtype="float32")
    tokenizer = llm.tokenizer

    title("What the model reads")
    prefix, suffix = prompts.split_fill(
        "for index, name in enu<FILL_ME>(names):\n    print(name)\n"
    )
    for way, suffix_first in (("prefix first (PSM)", False), ("suffix first (SPM)", True)):
        ids = prompts.infilling(tokenizer, prefix, suffix, suffix_first=suffix_first)
        print(f"{way}:\n    {spell(tokenizer, ids)}")
    print("The middle comes next, and ends with ▁<EOT>. Suffix first, it goes on where the prefix")
    print("ends: in training, prefix and middle were encoded as one text.")

    title("A word cut in two")
    print(f"enumerate in one text:  {spell(tokenizer, tokenizer.encode(prefix + 'merate'))}")
    print(f"the prefix alone:       {spell(tokenizer, tokenizer.encode(prefix))}")
    print("Suffix first, training never showed the second way to go on with `merate`:\n")
    for way, how in WAYS.items():
        [completion] = llm.infill([(prefix, suffix)], max_new_tokens=6, **how)
        print(f"{way:21} enu{completion.text!r}")
    print("\nHealing takes the prompt's last token back, and lets the model choose any token that")
    print("begins with it. Code Llama needs none prefix first: its training cut words there.")

    title(f"{tasks.tasks} gaps of each kind in held-out files, filled exactly")
    shares = {
        kind: {way: exact(llm, gaps, **how) for way, how in WAYS.items()}
        for kind, gaps in (
            ("a line", draw_gaps(tasks.tasks, cut=False)),
            ("the rest of a word", draw_gaps(tasks.tasks, cut=True)),
        )
    }
    print(" " * 21 + "".join(f"{kind:>20}" for kind in shares))
    for way in WAYS:
        print(f"{way:21}" + "".join(f"{shares[kind][way]:20.1%}" for kind in shares))
    cut = shares["the rest of a word"]
    assert cut["suffix first, healed"] > cut["suffix first"]
    print("\nExpect: lines 8 % in each way; the rest of a word 0 % prefix first, 7 % suffix first,")
    print(
        "51 % healed. The small model learned prefix first with whole lines, and begins a new one."
    )
    print(
        "Code Llama 7B fills 59.7 % of random spans prefix first, 39.0 % suffix first (Table 14)."
    )
    print("\nExercise 1: heal prefix first as well. Why does it change nothing?")
    print("Exercise 2: cut after a space instead (`before` ends with it). Which order suffers?")
    if picture.plot:
        with picture.axes(1, 6, 3.5) as [axes]:
            for number, way in enumerate(WAYS):
                bars = [100 * share[way] for share in shares.values()]
                places = [kind + number / 4 for kind in range(2)]
                axes.bar_label(axes.bar(places, bars, width=0.22, label=way), fmt="%.0f")
            axes.set(ylabel="filled exactly, %", title="Gaps in files that were held out")
            axes.set_xticks([0.25, 1.25], list(shares))
            axes.legend()


if __name__ == "__main__":
    run(fill_in_the_middle)
