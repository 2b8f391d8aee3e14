"""The small checkpoint that comes with the package: what it is, and what it can do."""

import ast
import contextlib
import os
import subprocess
import sys

import pytest
import torch
from commands import ROOT

from codellama import CodeLlama, prompts
from codellama.evaluation.infilling import from_files
from codellama.evaluation.perplexity import perplexity
from codellama.training.documents import find_documents, read_document

TINY = ROOT / "checkpoints" / "tiny"


@pytest.fixture(scope="module")
def tiny():
    return CodeLlama.load(TINY, device="cpu", dtype=torch.float32)


def test_it_is_small_and_has_code_llamas_parts():
    llm = CodeLlama.load(TINY, device="cpu")
    config = llm.model.config
    assert sum(file.stat().st_size for file in TINY.iterdir()) <= 24e6
    assert {weight.dtype for weight in llm.model.parameters()} == {torch.bfloat16}
    assert config.n_kv_heads < config.n_heads
    assert config.rope_theta == 1e6
    assert config.max_seq_len >= 16384
    assert llm.tokenizer.can_infill


def held_out() -> dict[str, str]:
    """The texts of held-out files by name."""
    texts = {str(path): read_document(path) for path in find_documents().held_out}
    return {name: text for name, text in texts.items() if text}


def test_it_compresses_python_that_it_was_not_trained_on(tiny):
    texts = sorted(held_out().values(), key=len)[40:80:16]  # of middle sizes
    found = perplexity(tiny, dict(enumerate(texts)))
    assert found["bits_per_byte"] < 1.45


def first_token_nats(llm, task, prefix):
    """What the first token of a gap costs behind its suffix, when this is the prefix."""
    prompt = prompts.infilling(llm.tokenizer, prefix, task.suffix)
    with torch.no_grad():
        logits = llm.model(torch.tensor([prompt]))[0, -1]
    first = llm.tokenizer.encode_continuation(task.solution)[0]
    return -torch.log_softmax(logits, -1)[first].item()


def test_prefix_first_it_reads_the_prefix_of_a_gap(tiny):
    tasks = from_files(held_out(), tiny.tokenizer, count=60, context=200)
    saved = [
        first_token_nats(tiny, task, prefix="") - first_token_nats(tiny, task, task.prefix)
        for task in tasks
    ]
    assert sum(saved) / len(saved) > 1


def begins_with_a_function(code: str) -> bool:
    """Whether some of the first lines, more than one, are a function that Python accepts."""
    lines = code.splitlines()
    for end in range(len(lines), 1, -1):
        with contextlib.suppress(SyntaxError):
            return isinstance(ast.parse("\n".join(lines[:end])).body[0], ast.FunctionDef)
    return False


def test_many_of_its_samples_are_functions(tiny):
    prompt = "def fibonacci(n):"
    samples = tiny.complete(
        [prompt], max_new_tokens=64, temperature=0.9, seed=0, num_samples=20, batch_size=20
    )
    assert sum(begins_with_a_function(prompt + sample.text) for sample in samples) >= 7


def test_the_command_fills_a_gap_with_python_from_any_directory(tmp_path):
    class_ = 'class Test(TestCase):\n    def setUp(self):\n        self.file = open("words")\n\n'
    prompt = f"{class_}    def tearDown(self):\n<FILL_ME>\n"
    options = ["--suffix_first", "--stop", "\n", "--prompt", prompt]
    done = subprocess.run(
        [sys.executable, "-m", "codellama.generate", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    [test_case] = ast.parse(done.stdout).body
    _, tear_down = test_case.body
    [filled] = tear_down.body
    assert "self.file" in ast.unparse(filled)
