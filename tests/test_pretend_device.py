"""The tests of devices on a pretend accelerator, in a process of their own."""

import os
import subprocess
import sys

import pretend_device
import pytest
from commands import ROOT


@pytest.mark.slow  # test_devices.py is quick on the devices that there are
@pytest.mark.skipif(
    not pretend_device.IS_AVAILABLE, reason="this PyTorch has no device that Python stands for"
)
def test_what_runs_on_devices_runs_on_a_pretend_one():
    options = ["-n", "0", "-p", "no:cacheprovider", "-p", "pretend_device", "-rs"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "tests/test_devices.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert all("torch.compile" in line or "two GPUs" in line for line in skipped), skipped
