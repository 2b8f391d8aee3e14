"""Damaged, hostile and odd checkpoints: each gets one sentence, exit code 2, and nothing is run."""

import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import commands
import pytest
import torch

SHARD = "consolidated.00.pth"


@pytest.fixture
def damaged(checkpoint, tmp_path) -> Path:
    """A copy of a checkpoint, to be damaged."""
    return Path(shutil.copytree(checkpoint, tmp_path / "damaged"))


def change_tensors(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        tensors = torch.load(directory / SHARD, weights_only=True)
        change(tensors)
        torch.save(tensors, directory / SHARD)

    return damage


def rewrite_entries(
    change: Callable[[zipfile.ZipInfo, bytes], bytes], method: int = zipfile.ZIP_STORED
) -> Callable[[Path], None]:
    """Changes the contents of an archive; a change may rename an entry in its `info`."""

    def damage(directory: Path) -> None:
        with zipfile.ZipFile(directory / SHARD) as old:
            entries = [(info, old.read(info)) for info in old.infolist()]
        with zipfile.ZipFile(directory / SHARD, "w", method) as new:
            for info, content in entries:
                content = change(info, content)
                new.writestr(info.filename, content)

    return damage


def rewrite_bytes(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        content = change((directory / name).read_bytes())
        (directory / name).unlink()
        (directory / name).write_bytes(content)

    return damage


def rewrite_pickle(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return rewrite_entries(
        lambda info, content: change(content) if info.filename.endswith("data.pkl") else content
    )


def call(name: str, argument: bytes) -> Callable[[Path], None]:
    """A pickle that calls a function which PyTorch allows, and keeps the result as a weight."""
    module, _, function = name.rpartition(".")
    pickled = b"\x80\x02}X\x04\0\0\0normc" + f"{module}\n{function}\n".encode() + argument
    return rewrite_pickle(lambda _: pickled + b"\x85Rs.")


def rename(info: zipfile.ZipInfo, content: bytes) -> bytes:
    info.filename = f"../../{info.filename}"
    return content


def many_disks(content: bytes) -> bytes:
    locator = content.rindex(b"PK\x06\x07")
    return content[: locator + 16] + b"\x09" + content[locator + 17 :]


def from_before_archives(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        tensors = torch.load(directory / SHARD, weights_only=True)
        torch.save(tensors, directory / SHARD, _use_new_zipfile_serialization=False)
        rewrite_bytes(SHARD, change)(directory)

    return damage


TERABYTES = b"\x8a\x06\0\0\0\0\0\x20"  # as a pickled number
ELEMENTS = b"M\0\x80"  # of the embedding: 512 x 64


def fifo(directory: Path) -> None:
    (directory / SHARD).unlink()
    os.mkfifo(directory / SHARD)


def tar_of_text(directory: Path) -> None:
    with tarfile.open(directory / SHARD, "w") as archive:
        content = b"hello"
        info = tarfile.TarInfo("storages")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))


def flip_a_piece(directory: Path) -> None:
    path = directory / "tokenizer.model"
    content = bytearray(path.read_bytes())
    content[content.index("▁".encode(), 2000) + 2] = 0xFF
    path.write_bytes(content)


class Payload:
    """Would make a file if it were unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def payload(directory: Path) -> None:
    torch.save({"norm.weight": Payload(directory / "run")}, directory / SHARD)


def hidden_payload(directory: Path) -> None:
    tensors = torch.load(directory / SHARD, weights_only=True)
    tensors["norm.weight"] = {"deep": [(1, Payload(directory / "run"))]}
    torch.save(tensors, directory / SHARD, _use_new_zipfile_serialization=False)


def long_params(directory: Path) -> None:
    params = json.loads((directory / "params.json").read_text())
    (directory / "params.json").write_text(
        json.dumps({**params, "dim": "\x1b[31m" + "9" * 100_000})
    )


FAULTS = {
    "an entry shorter than declared": (
        rewrite_entries(
            lambda info, content: content[:-64] if "/data/0" in info.filename else content
        ),
        "damaged",
    ),
    "a sparse tensor": (
        change_tensors(lambda t: t.update({"norm.weight": t["norm.weight"].to_sparse()})),
        "named, dense tensors",
    ),
    "a complex tensor": (
        change_tensors(lambda t: t.update({"norm.weight": t["norm.weight"].to(torch.complex64)})),
        "expected floating-point numbers",
    ),
    "escapes in a name": (
        change_tensors(lambda t: t.update({"\x1b[31mnorm\n.weight": torch.ones(1)})),
        r"unexpected: \x1b[31mnorm\n.weight",
    ),
    "NaN in a weight": (change_tensors(lambda t: t["norm.weight"].fill_(torch.nan)), "not finite"),
    "a FIFO as shard": (fifo, "is no file"),
    "text in a tar archive": (tar_of_text, "is damaged, or unpickling it could run code"),
    "a flipped byte in a piece": (flip_a_piece, "damaged"),
    "a pickle that runs code": (payload, "could run code"),
    "a pickle from before archives that runs code": (hidden_payload, "could run code"),
    "a value of 100 KB": (long_params, "dim is"),
    "two equal pieces that are not UTF-8": (
        rewrite_bytes("tokenizer.model", lambda content: content + 2 * b"\n\x03\n\x01\xff"),
        "is not a SentencePiece model",
    ),
    "a vocabulary without an end of text": (
        rewrite_bytes("tokenizer.model", lambda content: content + b"\x12\x06\xfa\x02\x03abc"),
        "damaged",
    ),
    "entries that lead out of the archive": (rewrite_entries(rename), "damaged"),
    "an archive on many disks": (rewrite_bytes(SHARD, many_disks), "damaged"),
    "an entry whose name is not UTF-8": (
        rewrite_bytes(SHARD, lambda c: c.replace(b"consolidated.00/data/1", b"\xff" * 22)),
        "damaged",
    ),
    "deflated entries": (
        rewrite_entries(lambda _, content: content, zipfile.ZIP_DEFLATED),
        "damaged (its entries are compressed)",
    ),
    "a storage of terabytes": (
        rewrite_pickle(lambda content: content.replace(ELEMENTS, TERABYTES)),
        "damaged",
    ),
    "a storage of terabytes from before archives": (
        from_before_archives(lambda content: content.replace(ELEMENTS, TERABYTES, 1)),
        "does not fit into memory",
    ),
    "a weight that repeats one number": (
        change_tensors(lambda t: t.update({"norm.weight": torch.ones(1).expand(64)})),
        "named, dense tensors",
    ),
    "an array of terabytes": (call("__builtin__.bytearray", TERABYTES), "does not fit into memory"),
    "a tensor of terabytes": (call("torch.FloatTensor", TERABYTES), "does not fit into memory"),
    "an unknown encoding": (call("_codecs.encode", b"U\x03abcU\x03abc\x86"), "damaged"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_in_a_sentence(damaged, fault):
    damage, says = FAULTS[fault]
    damage(damaged)
    done = commands.run("generate", "--ckpt", damaged, "--prompt", "def", "--quiet")
    assert (done.returncode, done.stdout.strip()) == (2, ""), done
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert says in done.stderr
    assert len(done.stderr) < 1000 and "\x1b" not in done.stderr
    assert "weights_only=False" not in done.stderr
    assert not (damaged / "run").exists()


def test_a_check_names_the_weight_that_is_not_finite(damaged):
    change_tensors(lambda t: t["layers.1.ffn_norm.weight"].fill_(torch.inf))(damaged)
    done = commands.run("describe", "--ckpt", damaged, "--check")
    assert done.returncode == 2
    assert "layers.1.ffn_norm.weight holds NaN or infinity" in done.stderr
