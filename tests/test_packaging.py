"""What an installed package consists of."""

import pytest
from commands import ROOT


def test_every_chapter_and_the_small_model_are_installed():
    tomllib = pytest.importorskip("tomllib")
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    chapters = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in ROOT.glob("codellama/**/__init__.py")
    }
    assert set(setuptools["packages"]) == chapters | {"codellama.checkpoints"}
    assert setuptools["package-dir"] == {"codellama.checkpoints": "checkpoints"}
    assert "tiny/*" in setuptools["package-data"]["codellama.checkpoints"]
