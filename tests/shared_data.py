"""Real vocabularies and weights for tests; they are others' work and no part of the project."""

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("CODELLAMA_TEST_DATA") or Path(__file__).parents[2] / "shared")


def shared(path: str) -> Path:
    """The path of a data file; skips the test that asks for it where there is none."""
    if not (ROOT / path).exists():
        pytest.skip(f"needs {path} in the directory that CODELLAMA_TEST_DATA names")
    return ROOT / path
