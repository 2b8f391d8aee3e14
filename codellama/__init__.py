"""Code Llama in pure PyTorch, from Meta's raw files (Rozière et al. 2023, arXiv 2308.12950)."""

from codellama.errors import (
    CheckpointError,
    CodeLlamaError,
    ConfigError,
    DataError,
    PromptError,
    RequestError,
    TokenizerError,
)
from codellama.inference.codellama import CodeLlama
from codellama.inference.generation import generate_tokens
from codellama.inference.requests import Completion, CompletionStream, Options
from codellama.model.config import ModelConfig
from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer
from codellama.text import prompts
from codellama.text.tokenizer import Tokenizer
from codellama.weights.checkpoint import save_checkpoint
from codellama.weights.loading import LoadOptions, load_model
from codellama.weights.variants import EMBEDDED

__all__ = [
    "EMBEDDED",
    "CheckpointError",
    "CodeLlama",
    "CodeLlamaError",
    "Completion",
    "CompletionStream",
    "ConfigError",
    "DataError",
    "KVCache",
    "LoadOptions",
    "ModelConfig",
    "Options",
    "PromptError",
    "RequestError",
    "Tokenizer",
    "TokenizerError",
    "Transformer",
    "generate_tokens",
    "load_model",
    "prompts",
    "save_checkpoint",
]
