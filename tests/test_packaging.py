"""What an installed package consists of, and that it works away from its sources."""

import json
import os
import subprocess
import sys
import tarfile

import pytest
from commands import ROOT


def python(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A directory with an sdist, and the wheel that was built from it."""
    directory = tmp_path_factory.mktemp("built")
    done = python("-m", "build", "--outdir", directory, ROOT)
    if done.returncode and "No matching distribution" in done.stdout + done.stderr:
        pytest.skip("needs a package registry to get setuptools from")
    assert done.returncode == 0, done.stderr
    return directory


def test_every_chapter_and_the_small_model_are_installed():
    tomllib = pytest.importorskip("tomllib")
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    chapters = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in ROOT.glob("codellama/**/__init__.py")
    }
    assert set(setuptools["packages"]) == chapters | {"codellama.checkpoints"}


def test_a_wheel_in_a_directory_of_its_own_generates(built, tmp_path):
    [wheel] = built.glob("*.whl")
    site = tmp_path / "site"
    installed = python("-m", "pip", "install", "--no-deps", "--target", site, wheel)
    assert installed.returncode == 0, installed.stderr
    away = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(site)}}
    where = python("-c", "import codellama; print(codellama.__file__)", **away)
    assert where.stdout.startswith(str(site))
    done = python("-m", "codellama.generate", "--prompt", "def", "--json", "--quiet", **away)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"].strip()
    described = python("-m", "codellama.train", "--recipe", "absent", "--out", "x", **away)
    assert "expected finetune, paper, tiny" in described.stderr


def test_the_sdist_has_all_that_is_needed_to_build_and_nothing_else_large(built):
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("codellama/**/*.py")}
    expected |= {"LICENSE", "README.md", "checkpoints/tiny/params.json"}
    assert expected <= names
    assert sdist.stat().st_size < 30e6


def test_the_requirements_are_met_where_this_runs():
    lines = python("-m", "pip", "check").stdout.splitlines()
    assert [line for line in lines if line.startswith("codellama ")] == []
