"""What an installed package consists of, and that it works away from its sources."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata

import pytest
from commands import ROOT
from packaging.requirements import Requirement


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
    zipfile.ZipFile(wheel).extractall(site)
    script = (
        "import codellama.generate, codellama.training.recipe as recipe, sys\n"
        "print(codellama.__file__, *sorted(path.stem for path in recipe.PACKAGED.iterdir()))\n"
        "sys.argv = ['generate', '--prompt', 'def', '--json', '--quiet']\n"
        "codellama.generate.run(codellama.generate.generate)"
    )
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = python("-c", script, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    where, result = done.stdout.splitlines()
    assert where == f"{site / 'codellama' / '__init__.py'} finetune instruct paper tiny"
    assert json.loads(result)["text"].strip()


def test_the_sdist_has_all_that_is_needed_to_build_and_nothing_else_large(built):
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("codellama/**/*.py")}
    expected |= {"LICENSE", "README.md", "checkpoints/tiny/params.json"}
    assert expected <= names
    assert sdist.stat().st_size < 30e6


def test_the_requirements_are_met_where_this_runs():
    needed = [Requirement(line) for line in metadata.requires("codellama")]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate()]
    assert {one.name for one in needed} >= {"torch", "sentencepiece", "safetensors", "numpy"}
    for one in needed:
        assert one.specifier.contains(metadata.version(one.name).partition("+")[0])
