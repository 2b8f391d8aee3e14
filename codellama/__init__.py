"""Code Llama in pure PyTorch, from Meta's raw files (Rozière et al. 2023, arXiv 2308.12950)."""

from codellama.inference.generation import CodeLlama
from codellama.inference.requests import Completion, CompletionStream, Options, RequestError
from codellama.model.config import ConfigError, ModelConfig
from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer
from codellama.text import prompts
from codellama.text.prompts import PromptError
from codellama.text.tokenizer import Tokenizer, TokenizerError
from codellama.weights.downloads import CheckpointError
from codellama.weights.loading import load_model

__all__ = [
    "CheckpointError",
    "CodeLlama",
    "Completion",
    "CompletionStream",
    "ConfigError",
    "KVCache",
    "ModelConfig",
    "Options",
    "PromptError",
    "RequestError",
    "Tokenizer",
    "TokenizerError",
    "Transformer",
    "load_model",
    "prompts",
]
