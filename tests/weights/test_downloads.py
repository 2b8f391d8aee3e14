import hashlib

import pytest

from codellama import CheckpointError
from codellama.weights.downloads import check_download, read_checklist, verify_checklist


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"\n  <HTML><head>", "is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
            "Git LFS pointer",
        ),
    ],
)
def test_what_a_download_turned_out_to_be_is_named(tmp_path, content, says):
    path = tmp_path / "consolidated.00.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as error:
        check_download(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "content", [b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02", b'{"dim": 64}', b"<", b"PK\0\0\0\0\0\0{}"]
)
def test_other_files_pass(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    check_download(path)


def test_a_checklist_tells_files_that_are_as_published_from_others(tmp_path):
    (tmp_path / "good").write_bytes(b"as published")
    (tmp_path / "bad").write_bytes(b"something else")
    md5 = hashlib.md5(b"as published").hexdigest()
    lines = f"{md5}  good\n{md5.upper()}  bad\n\n{md5} *absent\n"
    (tmp_path / "checklist.chk").write_text(lines)
    progress = []
    verdicts = verify_checklist(tmp_path, lambda *done: progress.append(done))
    assert verdicts == {"good": "ok", "bad": "differs", "absent": "missing"}
    assert progress == [(12, 26), (26, 26)]


def test_without_a_checklist_there_is_nothing_to_verify(tmp_path):
    assert verify_checklist(tmp_path) == {}


@pytest.mark.parametrize("line", ["nonsense", "0" * 32, "0" * 32 + "  ../elsewhere"])
def test_a_line_that_is_no_checksum_is_refused(tmp_path, line):
    (tmp_path / "checklist.chk").write_text(line)
    with pytest.raises(CheckpointError, match="not an md5 sum"):
        read_checklist(tmp_path)
