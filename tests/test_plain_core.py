"""What is left without `codellama/fast`: an ordinary model that does all that is promised."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import ROOT
from torch import nn

from codellama import CodeLlama, Tokenizer, load_model
from codellama.model.attention import Attention, grouped_query_attention
from codellama.model.kv_cache import KVCache
from codellama.model.norm import RMSNorm

ORDINARY = {nn.Linear, nn.Embedding, RMSNorm}


def assert_plain(model: nn.Module) -> None:
    leaves = [module for module in model.modules() if not list(module.children())]
    assert {type(module) for module in leaves} == ORDINARY
    attention = [module for module in model.modules() if isinstance(module, Attention)]
    assert {type(module) for module in attention} == {Attention}
    assert {module.attend for module in attention} == {grouped_query_attention}
    assert type(model.new_cache()) is KVCache
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_a_loaded_model_is_made_of_ordinary_layers(checkpoint, dtype):
    assert_plain(load_model(checkpoint, "cpu", dtype))
    assert_plain(CodeLlama.load(checkpoint, "cpu", dtype, fast=False).model)


def test_generating_changes_nothing_of_the_model(checkpoint):
    model = load_model(checkpoint, "cpu", torch.bfloat16)
    before = {name: (weight, weight.clone()) for name, weight in model.named_parameters()}
    llm = CodeLlama(model, Tokenizer(checkpoint / "tokenizer.model"))
    assert llm.model is model
    llm.complete(["def f(", ""], max_new_tokens=4, speculate=2)
    assert_plain(model)
    assert not model.training
    for name, weight in model.named_parameters():
        kept, copy = before[name]
        assert weight is kept and torch.equal(weight, copy) and weight.requires_grad


IMPORT = """
import sys, warnings
import torch, sentencepiece, safetensors.torch, numpy, tqdm

def state():
    return [
        [str(one) for one in warnings.filters if "SymPy" not in str(one)],  # PyTorch's own import
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.backends.mkldnn.enabled,
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.initial_seed(),
        bytes(torch.get_rng_state()).hex()[:64],
        sorted(name for name in torch._C._dispatch_get_all_op_names() if "codellama" in name),
    ]

before = state()
import codellama
assert state() == before, [pair for pair in zip(before, state()) if pair[0] != pair[1]]
assert before[-1] == []
loaded = sorted(name for name in sys.modules if name.startswith("codellama.fast"))
assert not loaded, loaded
"""
LOAD_PLAIN = """
llm = codellama.CodeLlama.load(sys.argv[1], "cpu", torch.bfloat16, fast=False)
llm.complete(["def f(", ""], max_new_tokens=4, temperature=1.0, seed=0)
assert state() == before, [pair for pair in zip(before, state()) if pair[0] != pair[1]]
loaded = sorted(name for name in sys.modules if name.startswith("codellama.fast"))
assert not loaded, loaded
"""


HIDE = """
import sys

class Hidden:
    def find_spec(name, *_):
        if name.startswith("codellama.fast"):
            raise ModuleNotFoundError(f"{name} is hidden", name=name)

sys.meta_path.insert(0, Hidden)
"""


def python(*arguments: object, root: Path = ROOT, code: int = 0) -> str:
    """What a fresh process prints that finds the package in `root`: a script, or `-m` a module."""
    flags = [] if arguments[0] == "-m" else ["-c"]
    done = subprocess.run(
        [sys.executable, *flags, *map(str, arguments)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def test_importing_and_running_the_plain_model_imports_nothing_fast_and_changes_nothing(checkpoint):
    python(IMPORT + LOAD_PLAIN, checkpoint)


@pytest.fixture(scope="module")
def without_fast(tmp_path_factory) -> Path:
    """A directory with a copy of the package that lacks `codellama/fast`."""
    root = tmp_path_factory.mktemp("without_fast")
    left_out = shutil.ignore_patterns("fast", "__pycache__")
    shutil.copytree(ROOT / "codellama", root / "codellama", ignore=left_out)
    # An editable installation would find the folder in its own place.
    (root / "sitecustomize.py").write_text(HIDE)
    python(
        "import codellama, importlib.util as i; i.find_spec('codellama.fast')", root=root, code=1
    )
    return root


WORK = {
    "completion": "llm.complete(['def f(', ''], max_new_tokens=6, logprobs=True)",
    "infilling": "llm.infill([('def f(x):', '    return y')], max_new_tokens=6)",
    "infilling, suffix first": "llm.infill([('a', 'b')], suffix_first=True, max_new_tokens=6)",
    "chat": "llm.chat([[{'role': 'user', 'content': 'Hi'}]], max_new_tokens=6)",
    "the generation loop": "list(codellama.generate_tokens(llm.model, [1, 5, 6], 6))",
    "streaming": "list(llm.stream('def f(', max_new_tokens=6))",
    "a chat that goes on": "[list(llm.stream_chat(chat[:end], max_new_tokens=6))"
    " for end in (1, 3)]",
    "ragged batches": "llm.generate([[1], [1, *range(40, 51)], [1, 5]], max_new_tokens=6,"
    " batch_size=2)",
    "seeds": "llm.complete(['def f('], temperature=1.0, seed=3, num_samples=3, max_new_tokens=6)",
    "drafts": "llm.complete(['a = 1\\na = 1\\n'], speculate=3, max_new_tokens=6)",
    "healing": "llm.complete(['def fib(n):\\n    retu'], heal=True, max_new_tokens=6)",
    "logits": "codellama.load_model(sys.argv[1], 'cpu')(torch.tensor([[1, 5, 6]])).tolist()",
    "layers by default": "{type(module).__name__ for module in codellama.CodeLlama.load("
    "sys.argv[1], 'cpu', 'bfloat16').model.modules()}",
    "needless imports": "[name for name in ('torch.distributed.tensor', 'torch._dynamo',"
    " 'transformers', 'matplotlib') if name in sys.modules]",
    "every other module": "[importlib.import_module(module.name).__name__ for module in"
    " pkgutil.walk_packages(codellama.__path__, 'codellama.')"
    " if not re.search('fast|checkpoints|__main__', module.name)]",
}
"""What to try, as expressions: other chapters of the package are a line each."""

SETTING = """
import importlib, json, pkgutil, re, sys
import torch, codellama

chat = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "Hey"},
]
llm = codellama.CodeLlama.load(sys.argv[1], "cpu", fast=False)
print(json.dumps({name: repr(eval(work)) for name, work in json.loads(sys.argv[2]).items()}))
"""


@pytest.fixture(scope="module")
def results(checkpoint, without_fast):
    """What comes of all work in a package without the folder, and in one with it."""
    roots = (without_fast, ROOT)
    return [json.loads(python(SETTING, checkpoint, json.dumps(WORK), root=r)) for r in roots]


@pytest.mark.parametrize("work", WORK)
def test_without_the_folder_the_plain_model_does_the_same(results, work):
    without, with_ = results
    if work == "layers by default":
        assert "SingleRowLinear" in with_[work]
        assert "SingleRowLinear" not in without[work]
    else:
        assert without[work] == with_[work]


def test_one_process_on_one_device_imports_nothing_it_does_not_need(results):
    assert results[1]["needless imports"] == "[]"


COMMANDS = {
    "generate": ("--plain", "--prompt", "def f(", "--max_new_tokens", "4", "--device", "cpu"),
    "describe": (),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_without_the_folder_the_commands_run(checkpoint, without_fast, name):
    arguments = ["-m", f"codellama.{name}", "--ckpt", checkpoint, *COMMANDS[name]]
    without, with_ = (python(*arguments, root=root) for root in (without_fast, ROOT))
    assert without == with_ != ""
