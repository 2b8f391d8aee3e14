"""Processes that a launcher has started."""

import pytest
import torch

from codellama import distributed
from codellama.distributed import DistributedContext, init_mesh
from codellama.errors import DataError, RequestError

ALONE = DistributedContext(torch.device("cpu"))


class Two:
    """The mesh of two processes, seen from one of them."""

    def __init__(self, rank):
        self.size, self.get_rank = lambda: 2, lambda: rank


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


def test_a_process_alone_is_the_first():
    assert (ALONE.rank, ALONE.size) == (0, 1)
    assert ALONE.on_rank_zero(lambda: 3) == 3
    with pytest.raises(DataError, match="no text"):
        ALONE.on_rank_zero(new_error)


@pytest.mark.parametrize("outcome", [(3, None), (None, DataError("no text"))])
def test_other_processes_get_or_raise_what_the_first_does(monkeypatch, outcome):
    monkeypatch.setattr(distributed, "broadcast", lambda *_: outcome)
    second = DistributedContext(torch.device("cpu"), mesh=Two(1))
    if outcome[1]:
        with pytest.raises(DataError, match="no text"):
            second.on_rank_zero(lambda: pytest.fail("is not the first"))
    else:
        assert second.on_rank_zero(lambda: pytest.fail("is not the first")) == 3


def new_error():
    raise DataError("no text")


def test_rows_are_shared_out_in_equal_numbers():
    rows = torch.arange(15).view(5, 3)
    shards = [
        DistributedContext(torch.device("cpu"), mesh=Two(rank)).shard(rows, -1) for rank in (0, 1)
    ]
    assert torch.equal(shards[0], rows[::2])
    assert torch.equal(shards[1], torch.cat([rows[1::2], torch.full((1, 3), -1)]))


@pytest.mark.parametrize("is_fast", [True, False])
def test_products_are_in_bfloat16_where_that_is_fast(monkeypatch, is_fast):
    for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, check, lambda: is_fast, raising=False)
    context = DistributedContext.join(torch.device("cpu"))
    assert context.mesh is None
    assert context.dtype == (torch.bfloat16 if is_fast else None)
