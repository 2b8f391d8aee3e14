"""From a checkpoint directory to a model and a tokenizer in memory.

A parameter passes three stops. The format (`meta.py`, `huggingface.py`) knows its name in the
files, how it was sharded, and the order of its rows. `load_model` asks for one parameter after the
other. A `WeightLoader` puts each into a model that was built without memory.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from codellama.errors import (
    CheckpointError,
    RequestError,
    TokenizerError,
    check_fields,
    choice,
)
from codellama.model.transformer import Transformer
from codellama.text.tokenizer import TOKENIZER, Tokenizer
from codellama.weights.checkpoint import PARAMS, SHARD, Checkpoint
from codellama.weights.downloads import Progress, check_download
from codellama.weights.huggingface import CONFIG, HuggingFaceCheckpoint
from codellama.weights.huggingface_tokenizer import FILES, read_added_tokens
from codellama.weights.meta import MetaCheckpoint
from codellama.weights.recognised import not_a_checkpoint
from codellama.weights.variants import EMBEDDED

MAX_PADDING = 256
"""Rows of an embedding without an id."""
QUANTIZED = "quantized.safetensors"
"""The file of a checkpoint whose matrices are 8-bit or 4-bit integers."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPES |= {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class LoadOptions:
    """How a model is held in memory.

    Args:
        device: cpu, cuda, cuda:1 or mps; without it, the best there is.
        dtype: bfloat16, float16 or float32; without it, that of the files.
        quantize: int8 or int4: round the matrices to so many bits while they are read.
        kv_dtype: int8: round keys and values in the KV cache, for half its memory.
        lora: one or more directories of adapters in PEFT's format, merged while loading.
        compile: prepare for many or long texts: matrices in the order that the processor's library
            reads fastest, decoding steps fused by torch.compile. Takes seconds to minutes at first.

    Raises:
        RequestError: a value is none of these, or this machine has no such device.
    """

    device: str | torch.device | None = None
    dtype: str | torch.dtype | None = None
    quantize: str | None = choice(None, among=("int8", "int4"))
    kv_dtype: str | None = choice(None, among=("int8",))
    lora: tuple[str, ...] = ()
    compile: bool = False

    def __post_init__(self) -> None:
        torch_device(self.device)
        torch_dtype(self.dtype)
        adapters = [self.lora] if isinstance(self.lora, str | Path) else self.lora
        object.__setattr__(self, "lora", tuple(map(str, adapters)))
        check_fields(self)


WeightLoader = Callable[[Transformer, str, Callable[..., Tensor]], None]
"""Puts the parameter of a name into a model whose parameters have no memory yet.

It is called as `weight_loader(model, name, read)`. `read()` gives the whole parameter in its final
dtype, on its device; `read(slices)` reads only those from disk. A weight loader may put something
else into the model, such as a layer of integers: memory then never holds two forms of more than
one matrix.
"""


def default_weight_loader(model: Transformer, name: str, read: Callable[..., Tensor]) -> None:
    """The plain `WeightLoader`: an ordinary parameter."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.Parameter(read()))


def load_model(
    directory: str | Path | Checkpoint = EMBEDDED,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    *,
    mmap: bool = False,
    progress: Progress | None = None,
    weight_loader: WeightLoader = default_weight_loader,
) -> Transformer:
    """Builds the model of a checkpoint directory, weights in place, in evaluation mode.

    Memory grows by the weights and one parameter, however many files there are. The files may be
    written anew afterwards, unless `mmap` leaves weights in them.

    Args:
        directory: a checkpoint in any format, or what `open_checkpoint` made of it; without it, the
            embedded model.
        device: where the weights go; None picks CUDA, else MPS, else the CPU.
        dtype: None keeps the stored one, if there is one for all weights.
        mmap: on a CPU, leave each parameter on disk, to be read when used, if one file holds it in
            that dtype. It is there at once, and takes no memory of its own; but whoever writes to
            that file writes to the model.
        progress: told bytes done and bytes in all, after each parameter.
        weight_loader: puts each parameter into the model.

    Raises:
        CheckpointError: as `open_checkpoint` and `Checkpoint.read`.
        RequestError: there is no such device or dtype.
    """
    target = torch_device(device) or default_device()
    checkpoint = directory if isinstance(directory, Checkpoint) else open_checkpoint(directory)
    kind = torch_dtype(dtype) or checkpoint.dtype
    with torch.device("meta"):
        model = Transformer(checkpoint.config)
    total = checkpoint.config.parameter_count * kind.itemsize
    done = 0
    for name, parameter in dict(model.named_parameters()).items():
        read = partial(checkpoint.read, name, dtype=kind, device=target, mmap=mmap)
        weight_loader(model, name, read)
        done += parameter.numel() * kind.itemsize
        if progress:
            progress(done, total)
    return model.eval()


def open_checkpoint(directory: str | Path) -> Checkpoint:
    """Reads the headers of a checkpoint, not its tensors, and checks that they fit together.

    Raises:
        CheckpointError: there is no such directory, or it is not one whole checkpoint.
    """
    directory = Path(directory)
    if not directory.is_dir():
        found = "is a file" if directory.exists() else "is no directory"
        expected = f"expected a directory with {PARAMS} and {SHARD.format(0)}, or with {CONFIG}"
        raise not_a_checkpoint(directory, f"{found}; {expected} and safetensors")
    files = {path.name for path in directory.iterdir()}
    if QUANTIZED not in files:
        if CONFIG in files and not {PARAMS, SHARD.format(0)} <= files:
            return HuggingFaceCheckpoint(directory)
        if PARAMS in files:
            return MetaCheckpoint(directory)
        raise not_a_checkpoint(directory, f"has neither {PARAMS} nor {CONFIG}; it is no checkpoint")
    if (fast := fast_module("quantized_checkpoint")) is None:
        raise CheckpointError(
            f"{directory} is quantized, which codellama/fast reads; put that folder back, or load "
            "the checkpoint that it was made from"
        )
    return fast.QuantizedCheckpoint(directory)


def fast_module(name: str) -> ModuleType | None:
    """A module of `codellama.fast`, on which nothing here depends; None where that is left out."""
    try:
        return importlib.import_module(f"codellama.fast.{name}")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("codellama.fast"):
            return None
        raise


def load_tokenizer(directory: str | Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a checkpoint directory whose embedding has `vocab_size` rows.

    Tokens that a fine-tune has added, and its further end-of-sequence ids, are taken from the files
    that transformers writes beside it. The embedding may have some rows more, as padding.

    Raises:
        CheckpointError: the file is missing, damaged, or of a vocabulary of another size.
    """
    directory = Path(directory)
    path = directory / TOKENIZER
    if not path.exists():
        found = "; tokenizer.json is not read" if (directory / "tokenizer.json").exists() else ""
        raise CheckpointError(
            f"{path} is missing{found}: copy {TOKENIZER} from the download of the model, or of the "
            "base model that this one was made from, to this directory"
        )
    check_download(path)
    added, special, eos_ids = read_added_tokens(directory)
    added = {id: text for id, text in added.items() if id < vocab_size}  # others have no weights
    try:
        tokenizer = Tokenizer(path, added, special, eos_ids)
    except TokenizerError as error:
        if re.match(rb"[\w+/]+=* \d+\n", path.read_bytes()[:999]):
            raise CheckpointError(
                f"{path} is Llama 3's vocabulary, in tiktoken's format; Code Llama has one of "
                "SentencePiece: take it from the model's own download"
            ) from None
        raise CheckpointError(str(error)) from None
    is_other_variant = (tokenizer.vocab_size, vocab_size) == (32000, 32016)
    if not 0 <= vocab_size - tokenizer.vocab_size <= MAX_PADDING or is_other_variant:
        raise CheckpointError(
            f"{path} has {tokenizer.vocab_size} ids, but the model has {vocab_size}; it is "
            "probably the tokenizer of another variant (32016: 7B and 13B base and Instruct, and "
            "70B; 32000: 7B and 13B Python, and 34B)"
        )
    for name in FILES:
        if (directory / name).is_file():
            tokenizer.files[name] = (directory / name).read_bytes()
    return tokenizer


def weight_bytes(model: Transformer) -> int:
    """Memory that a model's weights take in this process, in bytes. A module that keeps weights
    outside of tensors has their size in an attribute `weight_bytes`."""
    tensors = [
        one.to_local() if hasattr(one, "to_local") else one  # of several processes
        for one in (*model.parameters(), *model.buffers())
    ]
    others = (getattr(module, "weight_bytes", 0) for module in model.modules())
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors) + sum(others)


def default_device() -> torch.device:
    """CUDA if there is one, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def torch_device(name: str | torch.device | None) -> torch.device | None:
    """The device of that name, or a RequestError if this machine has none; None stays None."""
    if name is None:
        return None
    try:
        device = torch.empty(0, device=name).device
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("no device for models")
        return device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = re.split(r"[\n.]", str(error))[0]
        raise RequestError(
            f"device is {str(name)!r}: {reason}; expected cpu, cuda, cuda:1 or mps"
        ) from None


def torch_dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    """The dtype of that name, or a RequestError; floating-point dtypes and None stay as is."""
    if name is None or (isinstance(name, torch.dtype) and name.is_floating_point):
        return name
    if name not in DTYPES:
        raise RequestError(f"dtype is {str(name)!r}; expected one of {', '.join(DTYPES)}")
    return DTYPES[str(name)]
