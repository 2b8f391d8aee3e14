"""Processes that a launcher has started."""

import pytest
import torch

from codellama.distributed import init_mesh
from codellama.errors import RequestError


@pytest.mark.parametrize("gpus", [1, 3])
def test_more_processes_than_gpus_are_refused(monkeypatch, gpus):
    names = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 4}
    names |= {"MASTER_ADDR": "x", "MASTER_PORT": 1}
    for name, value in names.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(RequestError, match=f"4 processes were started, but .* {gpus} GPUs"):
        init_mesh(torch.device("cuda"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert init_mesh(torch.device("cuda")) is None
