"""Read code and prose side by side: one web page of the package's chapters.

    python examples/annotate.py OUT.html

The files come in the order of the README's reading guide, docstrings and comments on the left, the
lines that they are about on the right. The page is one file, for any browser. Papers and their
sections become links. With pygments installed the code has colours.
"""

from __future__ import annotations

import ast
import html
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import codellama
from codellama.cli import run
from codellama.errors import RequestError

try:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer
except ImportError:
    highlight = None

TITLE = "Code Llama, read side by side"
ABOUT = """The chapters of the package codellama that make up Code Llama (arXiv 2308.12950), in the
order in which they build on each other: what is computed beside how. The prose is that of the
files themselves."""
CODE_LLAMA = "2308.12950"
EDITIONS = {
    CODE_LLAMA: f"https://arxiv.org/html/{CODE_LLAMA}",
    "2307.09288": "https://ar5iv.labs.arxiv.org/html/2307.09288",
}
"""Papers with an HTML edition, whose sections have addresses."""
PAPER = re.compile(r"\barXiv (\d{4}\.\d{4,5})\b")
NUMBER = r"\b(?:\d+|[A-Z])(?:\.\d+)*\b"
SECTIONS = re.compile(rf"\b(?:[Ss]ections?|[Aa]ppendix) {NUMBER}(?:(?:,| and) {NUMBER})*")
PACKAGE = Path(codellama.__file__).parent
CHAPTERS = {
    "model": "config norm rotary feed_forward kv_cache attention transformer",
    "text": "tokenizer prompts",
    "weights": "variants downloads checkpoint meta huggingface loading",
    "inference": "sampling generation requests prefill speculative scheduler codellama",
}
STYLE = """
:root { --line: #d8dbe0; --soft: #f5f6f8; --ink: #1c2430; --faint: #5c6673; --link: #1a56b0; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); font: 16px/1.55 Georgia, serif; background: #fff; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
header { padding: 2rem 1.5rem 1rem; max-width: 50rem; }
nav { padding: 0 1.5rem 1.5rem; font: 14px/1.9 system-ui, sans-serif; }
nav b { display: inline-block; min-width: 6rem; } nav a { margin-right: .9rem; }
h2 { margin: 2.5rem 0 0; padding: .6rem 1.5rem; background: var(--ink); color: #fff; }
h3 { margin: 0; padding: .5rem 1.5rem; background: var(--soft); position: sticky; top: 0; }
h3, h2 { font: 600 1rem/1.4 system-ui, sans-serif; } h2 { font-size: 1.25rem; }
h3 { border: solid var(--line); border-width: 1px 0; z-index: 1; }
.row { display: grid; grid-template-columns: minmax(0, 26rem) minmax(0, 1fr); }
.row > div + div { background: var(--soft); border-left: 1px solid var(--line); }
.prose { padding: .35rem 1.2rem .35rem 1.5rem; font-size: .95rem; }
.prose p { margin: .35rem 0; } .prose p.args { padding-left: 1.1rem; text-indent: -.7rem; }
.prose code { font: .85em/1.4 ui-monospace, Menlo, Consolas, monospace; background: var(--soft); }
.prose .head { margin-bottom: 0; font: 600 .8rem system-ui, sans-serif; color: var(--faint); }
pre { margin: 0; padding: .45rem 1rem; overflow-x: auto; background: var(--soft); }
pre, pre code { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; }
@media (max-width: 800px) {
  .row { display: block; } .row > div + div { border: 0; } .prose { padding: .5rem 1rem 0; }
  header, nav, h2, h3 { padding-left: 1rem; padding-right: 1rem; }
  nav b { display: block; } pre { font-size: 12px; }
}
"""


@dataclass(frozen=True)
class Page:
    """Where to write.

    Args:
        out: the HTML file.
    """

    out: str


def segments(source: str) -> Iterator[tuple[str, str]]:
    """Cuts a file into pieces of prose, each with the code that it is about; together they hold
    every line of the file."""
    lines = source.splitlines()
    pieces = sorted(prose_of(source))
    starts = [start for start, _, _ in pieces] + [len(lines)]
    yield "", "\n".join(lines[: starts[0]])
    for (start, first, last), end in zip(pieces, starts[1:], strict=True):
        prose = textwrap.dedent("\n".join(lines[first:last])).strip()
        if prose.startswith("#"):
            prose = "\n".join(line.removeprefix("#").strip() for line in prose.splitlines())
        yield prose.strip('"'), "\n".join(lines[start:first] + lines[last:end])


def prose_of(source: str) -> Iterator[tuple[int, int, int]]:
    """Docstrings and comments: the line where what they are about begins, where they begin, and
    where they have ended. Lines count from 0."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for before, part in pairwise([None, *body] if isinstance(body, list) else []):
            value = part.value if isinstance(part, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                about = before or node
                decorators = getattr(about, "decorator_list", ())
                line = min(getattr(one, "lineno", 1) for one in (*decorators, about))
                yield line - 1, part.lineno - 1, part.end_lineno or part.lineno
    lines = [line.lstrip() for line in source.splitlines()]
    comments = [number for number, line in enumerate(lines) if line.startswith("# ")]
    for first in (number for number in comments if number - 1 not in comments):
        last = next(n for n in range(first, first + len(comments) + 1) if n not in comments)
        yield first, first, last


def prose_html(prose: str) -> str:
    """Paragraphs, and lists of arguments below their headings, as HTML."""
    paragraphs: list[tuple[str, str]] = []  # opening tags and text
    apart = True
    for line in prose.splitlines():
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if re.fullmatch(r"[A-Z]\w+:", line):
            paragraphs.append(("<p class=head>", text.removesuffix(":")))
        elif text and (apart or indent == 4):
            paragraphs.append(("<p class=args>" if indent else "<p>", text))
        elif text:
            paragraphs[-1] = paragraphs[-1][0], f"{paragraphs[-1][1]} {text}"
        apart = not text or paragraphs[-1][0] == "<p class=head>"
    return "\n".join(f"{tags}{inline_html(text)}" for tags, text in paragraphs)


def inline_html(text: str) -> str:
    """Names in backticks, and links to papers and to their sections."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    text = SECTIONS.sub(section_links, text)
    return PAPER.sub(r"<a href='https://arxiv.org/abs/\1'>arXiv \1</a>", text)


def section_links(found: re.Match[str]) -> str:
    """Sections belong to the last paper in the same parenthesis; without one, to Code Llama's."""
    before = found.string[: found.start()].rpartition(")")[2]
    papers = [CODE_LLAMA, *PAPER.findall(before)]
    link = "<a href='{}'>{}</a>".format
    return re.sub(NUMBER, lambda at: link(address(papers[-1], at[0]), at[0]), found[0])


def address(paper: str, section: str) -> str:
    """Where a section is: `2.3` has the anchor `S2.SS3` in an HTML edition, appendix `G.2` has
    `A7.SS2`. A paper without one has its PDF."""
    if paper not in EDITIONS:
        return f"https://arxiv.org/pdf/{paper}"
    first, *rest = section.split(".")
    start = f"S{first}" if first.isdigit() else f"A{ord(first) - ord('A') + 1}"
    deeper = (f".{'S' * depth}{number}" for depth, number in enumerate(rest, 2))
    return f"{EDITIONS[paper]}#{start}{''.join(deeper)}"


def code_html(code: str) -> str:
    """Code, in colours where pygments is installed."""
    code = code.strip("\n")
    if highlight is None:
        return html.escape(code, quote=False)
    return highlight(code, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True))


def files(chapter: str) -> list[Path]:
    """The files of a chapter: those of the reading guide in its order, then all others."""
    names = ["__init__", *CHAPTERS[chapter].split()]
    listed = [PACKAGE / chapter / f"{name}.py" for name in names]
    others = sorted({*(PACKAGE / chapter).glob("*.py")} - {*listed})
    return [path for path in listed if path.exists()] + others


def annotate(page: Page) -> None:
    """Write a page with the package's code and prose side by side."""
    if Path(page.out).suffix not in (".html", ".htm"):
        raise RequestError(f"{page.out} is to be an HTML file; expected a name that ends in .html")
    colours = HtmlFormatter(style="default").get_style_defs("pre") if highlight else ""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{TITLE}</title>",
        "<meta name=viewport content='width=device-width, initial-scale=1'>",
        f"<style>{colours}{STYLE}</style><header><h1>{TITLE}</h1><p>{inline_html(ABOUT)}</p>",
        "</header><nav>",
    ]
    for chapter in CHAPTERS:
        links = (f"<a href='#{chapter}-{path.stem}'>{path.stem}</a>" for path in files(chapter))
        parts.append(f"<div><b>{chapter}/</b> {' '.join(links)}</div>")
    parts.append("</nav>")
    for chapter in CHAPTERS:
        parts.append(f"<h2>{chapter}/</h2>")
        for path in files(chapter):
            parts.append(f"<h3 id='{chapter}-{path.stem}'>{chapter}/{path.name}</h3>")
            for prose, code in segments(path.read_text("utf-8")):
                if prose or code.strip():
                    shown = f"<pre><code>{code_html(code)}</code></pre>" if code.strip() else ""
                    row = f"<div class=prose>{prose_html(prose)}</div><div>{shown}</div>"
                    parts.append(f"<div class=row>{row}</div>")
    Path(page.out).write_text("\n".join(parts), "utf-8")
    print(f"{page.out}: open it in a browser")


if __name__ == "__main__":
    run(annotate, first="out")
