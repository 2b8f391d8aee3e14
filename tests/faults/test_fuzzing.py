"""Files and prompts with random faults: each gives a result or one short sentence.

Every test starts from something valid and changes it at random. What a longer search has found is a
row in the tables of `test_checkpoints.py` and `test_use.py`.
"""

import contextlib
import io
import json
import shutil
import signal
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codellama import CodeLlama, CodeLlamaError, prompts
from codellama.describe import describe_checkpoint
from codellama.errors import MAX_LENGTH
from codellama.weights.huggingface import INDEX
from codellama.weights.huggingface_tokenizer import tokenizer_files
from codellama.weights.huggingface_writing import write_huggingface
from codellama.weights.loading import load_tokenizer, open_checkpoint

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's /proc"
)
resource = pytest.importorskip("resource")
SHARD = "consolidated.00.pth"
MEMORY = 2**30
SECONDS = 10

FUZZ = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
# A few examples of each kind at every run, and many now and then.
EXAMPLES = pytest.mark.parametrize("examples", [20, pytest.param(200, marks=pytest.mark.slow)])


def fuzz(examples: int, strategy: st.SearchStrategy, act: Callable[..., object]) -> None:
    """Calls `act` with what the strategy draws, for a number of examples."""
    settings(FUZZ, max_examples=examples)(given(strategy)(lambda drawn: act(drawn)))()


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Ends in an exception that is not the package's where more memory or time is asked for."""

    def too_long(*_: object) -> None:
        raise TimeoutError("it hangs")

    lines = Path("/proc/self/status").read_text().splitlines()
    [status] = [line for line in lines if line.startswith("VmSize")]
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int(status.split()[1]) * 1024 + MEMORY, limits[1]))
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def check_sentence(text: str) -> None:
    assert text.isprintable(), text[:2000]
    assert 0 < len(text) <= MAX_LENGTH, text[:2000]
    if SHARD not in text:  # PyTorch reserves what a pickle asks for, without using it
        assert "does not fit into memory" not in text, text


def attempt(act: Callable[[], object]) -> None:
    """Calls `act`, which has to return, or to raise an error of the package in one sentence."""
    with bounded(), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            act()
        except CodeLlamaError as error:
            check_sentence(str(error))
    for warning in told:
        check_sentence(str(warning.message))


def use(directory: Path) -> None:
    """All that reads a checkpoint directory; a failure of one part does not hide the next."""
    attempt(lambda: describe_checkpoint(open_checkpoint(directory)))
    attempt(
        lambda: CodeLlama.load(directory, "cpu", "float32", fast=False).complete(
            ["def"], max_new_tokens=1
        )
    )


@pytest.fixture(scope="module")
def formats(checkpoint, tmp_path_factory) -> dict[str, Path]:
    """One model in the formats that are read, with the files of a fine-tune beside them."""
    root = tmp_path_factory.mktemp("formats")
    meta, hf, legacy = (Path(shutil.copytree(checkpoint, root / name)) for name in "mhl")
    source = open_checkpoint(checkpoint)
    shutil.rmtree(hf)
    write_huggingface(hf, source.config, source.read, file_bytes=200_000)
    for name, content in tokenizer_files(load_tokenizer(checkpoint, 512)).items():
        (hf / name).write_bytes(content)
    tensors = torch.load(checkpoint / SHARD, weights_only=True)
    torch.save(tensors, legacy / SHARD, _use_new_zipfile_serialization=False)
    return {"meta": meta, "hf": hf, "legacy": legacy}


@contextlib.contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    """Other contents of a file for a while."""
    before = path.read_bytes()
    path.unlink()  # models of earlier examples may have it mapped
    path.write_bytes(content)
    try:
        yield
    finally:
        path.unlink()
        path.write_bytes(before)


NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**24, 2**31, 2**63, 2**64, 10**400, 1e308, 1e-320, -0.0, 1.0, 64.0]),
)
TEXTS = st.one_of(
    st.text(st.characters(), max_size=20),  # with surrogates and control characters
    st.sampled_from(["", "\0", "\x1b[31m\n", "\ud800", "../x", "/etc/passwd", "x" * 100_000, ".."]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def edited_json(draw: st.DrawFn, content: object) -> str:
    """JSON with some values, at any depth, replaced, removed, renamed or doubled."""
    content = json.loads(json.dumps(content))
    extra = ""
    for _ in range(draw(st.integers(1, 3))):
        target = content
        while True:
            key = draw(st.sampled_from(sorted(target)) if target else TEXTS)
            inner = target.get(key)
            if not isinstance(inner, dict) or draw(st.booleans()):
                break
            target = inner
        change = draw(st.sampled_from(["replace", "replace", "replace", "add", "remove", "double"]))
        if change == "replace":
            target[key] = draw(VALUES)
        elif change == "add":
            target[draw(TEXTS)] = draw(VALUES)
        elif change == "remove":
            target.pop(key, None)
        else:
            extra = f"{json.dumps(key)}: {json.dumps(draw(VALUES))}, "
    text = json.dumps(content)
    return "{" + extra + text[1:] if extra and len(text) > 2 else text


@st.composite
def edited_bytes(draw: st.DrawFn, content: bytes, most: int = 4) -> bytes:
    """Bytes that are flipped, cut out, inserted, doubled, or replaced by extreme numbers."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, len(changed)))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 100]))
        change = draw(st.sampled_from(["set", "set", "set", "number", "cut", "insert", "end"]))
        if change == "set":
            changed[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif change == "number":
            number = draw(st.sampled_from([0, 1, 2**31 - 1, 2**32 - 1, 2**62, 2**64 - 1]))
            packed = struct.pack("<Q", number)[: max(length % 9, 1)]
            changed[at : at + len(packed)] = packed
        elif change == "cut":
            del changed[at : at + length]
        elif change == "insert":
            changed[at:at] = draw(st.binary(max_size=8)) or changed[at : at + length]
        else:
            del changed[max(at, 1) :]
    return bytes(changed)


JSON_FILES = {
    "params.json": "meta",
    "config.json": "hf",
    INDEX: "hf",
    "tokenizer_config.json": "hf",
    "generation_config.json": "hf",
}


@EXAMPLES
@pytest.mark.parametrize("name", JSON_FILES)
def test_a_file_may_hold_any_json(formats, name, examples):
    directory = formats[JSON_FILES[name]]
    content = json.loads((directory / name).read_bytes())

    def act(text: str) -> None:
        with replaced(directory / name, text.encode(errors="replace")):
            use(directory)

    fuzz(examples, edited_json(content), act)


@EXAMPLES
def test_a_safetensors_header_may_hold_any_json(formats, examples):
    path = sorted(formats["hf"].glob("*.safetensors"))[0]
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")

    def act(text: str) -> None:
        header = text.encode()
        with replaced(path, struct.pack("<Q", len(header)) + header + content[start:]):
            use(formats["hf"])

    fuzz(examples, edited_json(json.loads(content[8:start])), act)


BYTES = {  # which part of a file is changed
    "params": ("meta", "params.json", slice(None)),
    "a shard's directory": ("meta", SHARD, slice(-4000, None)),
    "a shard from before archives": ("legacy", SHARD, slice(0, 8000)),
    "a safetensors header": ("hf", "model-00001-of-00004.safetensors", slice(0, 1500)),
    "a vocabulary": ("meta", "tokenizer.model", slice(None)),
    "a vocabulary's settings": ("meta", "tokenizer.model", slice(-200, None)),
}


@EXAMPLES
@pytest.mark.parametrize("kind", BYTES)
def test_a_file_may_hold_any_bytes(formats, kind, examples):
    name, file, part = BYTES[kind]
    path = formats[name] / file
    content = path.read_bytes()
    start, stop, _ = part.indices(len(content))

    def act(changed: bytes) -> None:
        with replaced(path, content[:start] + changed + content[stop:]):
            use(path.parent)

    fuzz(examples, edited_bytes(content[part]), act)


@EXAMPLES
def test_a_shard_may_hold_any_pickle(formats, examples):
    path = formats["meta"] / SHARD
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    [name] = [name for name in entries if name.endswith("data.pkl")]

    def act(changed: bytes) -> None:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for entry, data in (entries | {name: changed}).items():
                archive.writestr(entry, data)
        with replaced(path, content.getvalue()):
            use(path.parent)

    fuzz(examples, edited_bytes(entries[name]), act)


ODD_TEXTS = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("\0\ud800\udfff\u200b\u202e\ufeff▁☺\x1b\r\u2028é́🏳\u200d🌈\U0010ffff"),
    ),
    max_size=30,
)
TAGGED = st.lists(
    ODD_TEXTS
    | st.sampled_from(["<FILL_ME>", " <PRE>", "▁<MID>", " <SUF>", " <EOT>", *prompts.CONTROL_TAGS]),
    max_size=5,
).map("".join)


@EXAMPLES
def test_a_prompt_may_be_any_text(llm, examples):
    def act(texts: tuple[str, str]) -> None:
        attempt(lambda: list(llm.each(texts[:1], max_new_tokens=1)))
        attempt(lambda: llm.infill([texts], max_new_tokens=1))
        attempt(lambda: llm.tokenizer.decode(llm.tokenizer.encode(texts[0])))

    fuzz(examples, st.tuples(TAGGED, TAGGED), act)


MESSAGES = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(["user", "assistant", "system"]) | TAGGED,
                "content": TAGGED | VALUES,
            },
            optional={"destination": TAGGED | VALUES},
        ),
        VALUES,
    ),
    max_size=4,
)


CHATS = MESSAGES | TAGGED.map(lambda text: [{"role": "user", "content": text}]) | st.lists(VALUES)


@EXAMPLES
def test_a_dialog_may_be_anything(llm, examples):
    fuzz(
        examples,
        CHATS,
        lambda messages: attempt(lambda: llm.chat([messages], max_new_tokens=1)),
    )
