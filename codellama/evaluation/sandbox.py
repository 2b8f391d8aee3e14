"""Asks a generated program for answers, from a process that it can neither see nor touch.

`execution` starts this file by itself: it imports nothing of the package. Three processes result.
The launcher gives up root's rights and makes user, process, mount, network and IPC namespaces. The
judge, the first process inside them, executes the test. The program runs in a third process, a new
`python -I` that holds nothing of the test. It receives the arguments of each call and sends back
the result as JSON, from which the judge makes plain values of Python's own types. So a test
compares what only the judge has made, and a program passes by right answers alone. When the judge
ends, the kernel kills every process of the namespace.

Linux only: `unshare(2)`, `mount_setattr(2)` (5.12), `prctl(2)`, process counts by namespace (5.14).
"""

from __future__ import annotations

import builtins
import ctypes
import json
import os
import resource
import signal
import stat
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOBODY = 65534
NAMESPACES = 0x10000000 | 0x20000 | 0x20000000 | 0x40000000 | 0x8000000  # user mnt pid net ipc
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442  # numbers of system calls
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = 1, 4
RDONLY, NOSUID_NODEV = 1, 2 | 4  # MS_ and MOUNT_ATTR_ alike
LONG_INTEGERS = "-Xint_max_str_digits=0"  # of any length
REQUESTS, ANSWERS = 62, 63  # descriptors of the program's process
MAX_ANSWER = 2**24
GROUPS: dict[str, Any] = {
    kind.__name__: kind for kind in (list, tuple, set, frozenset, dict, bytes, complex)
}


def encode(value: Any, key_of: Callable[[Any], Any]) -> Any:
    """A value as JSON can hold it; what is no plain value is named by `key_of`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    for name, kind in GROUPS.items():
        if isinstance(value, kind):
            parts = value.items() if kind is dict else value
            parts = (value.real, value.imag) if kind is complex else parts
            return [name, [encode(part, key_of) for part in parts]]
    return ["object", key_of(value)]


def decode(data: Any, object_of: Callable[[Any], Any]) -> Any:
    """The value of exactly a built-in type that `encode` has written; `object_of` gives others."""
    if not isinstance(data, list):
        return data
    name, content = data
    if name == "object":
        return object_of(content)
    parts = [decode(part, object_of) for part in content]
    return complex(*parts) if name == "complex" else GROUPS[name](parts)


class Remote:
    """A function or object of the program, seen from the test. It equals nothing but itself."""

    def __init__(self, judge: Judge, key: Any) -> None:
        vars(self).update(judge=judge, key=key)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return vars(self)["judge"].ask(vars(self)["key"], args, kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return vars(self)["judge"].ask("getattr", (self, name), {})
        except RuntimeError as error:
            if str(error).startswith("AttributeError"):
                raise AttributeError(str(error)) from None
            raise

    def __setattr__(self, name: str, value: Any) -> None:
        vars(self)["judge"].ask("setattr", (self, name, value), {})


class Judge:
    """Starts the program, and calls its functions for the test."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.answered = False
        (theirs, requests), (answers, also_theirs) = os.pipe(), os.pipe()
        channels = (theirs, REQUESTS), (also_theirs, ANSWERS)
        command = [sys.executable, "-I", LONG_INTEGERS, "-c", job["sandbox"], "program"]
        opened = [(os.POSIX_SPAWN_DUP2, *channel) for channel in channels]
        os.posix_spawn(command[0], command, {}, file_actions=opened, setsid=True)
        for channel, _ in channels:
            os.close(channel)
        self.requests, self.answers = os.fdopen(requests, "w"), os.fdopen(answers)
        self._send(job["program"])

    def _send(self, message: Any) -> None:
        self.requests.write(json.dumps(message) + "\n")
        self.requests.flush()

    def ask(self, key: Any, args: Any, kwargs: Any) -> Any:
        """What the program's function or object of that name or number returns."""
        given = [encode(part, lambda remote: vars(remote)["key"]) for part in (args, kwargs)]
        self._send([key, *given])
        line = self.answers.readline(MAX_ANSWER)
        if not line.endswith("\n"):
            raise RuntimeError("the program ended, or its answer is too long")
        returned, value = json.loads(line)
        if returned is not True:
            raise RuntimeError(str(value))
        self.answered = True
        return decode(value, lambda key: Remote(self, key))


def program() -> None:
    """The program's process: executes it, then answers calls to its functions."""
    module, objects = types.ModuleType("program"), list[Any]()
    sys.modules["program"] = module

    def key_of(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    with os.fdopen(REQUESTS) as lines, os.fdopen(ANSWERS, "w") as out:
        exec(compile(json.loads(lines.readline()), "program", "exec"), vars(module))
        for line in lines:
            key, args, kwargs = (decode(part, objects.__getitem__) for part in json.loads(line))
            try:
                known = {**vars(builtins), **vars(module)}
                function = objects[key] if isinstance(key, int) else known[key]
                answer = [True, encode(function(*args, **kwargs), key_of)]
            except Exception as error:
                answer = [False, f"{type(error).__name__}: {error}"[:300]]
            out.write(json.dumps(answer) + "\n")
            out.flush()


def check(result: int, what: str) -> int:
    """The result of a system call. Raises OSError if that has failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


def private_directory() -> Path | None:
    """The first directory on the way to the interpreter that its owner alone may enter."""
    base = Path(sys.base_prefix)
    way = (*reversed(base.parents), base)
    return next((path for path in way if not path.stat().st_mode & stat.S_IXOTH), None)


def clone_interpreter(libc: Any) -> int:
    """The descriptor of a copy of the interpreter's mount, which can be put elsewhere."""
    flags = OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC
    path = sys.base_prefix.encode()
    return check(libc.syscall(OPEN_TREE, AT_FDCWD, path, flags), "open_tree")


def hide_files(libc: Any, interpreter: int) -> None:
    """Makes all files read-only and no device usable, /tmp empty and writable, and empties /proc
    and /run. Of a private directory on the way to the interpreter only the interpreter stays."""

    def mount(target: Path, flags: int = NOSUID_NODEV) -> None:
        options = str(target).encode(), b"tmpfs", ctypes.c_ulong(flags), b"size=64m,mode=755"
        check(libc.mount(b"tmpfs", *options), f"mount {target}")

    if hidden := private_directory():
        mount(hidden)
        Path(sys.base_prefix).mkdir(parents=True, exist_ok=True)
        back = AT_FDCWD, sys.base_prefix.encode(), MOVE_MOUNT_F_EMPTY_PATH
        check(libc.syscall(MOVE_MOUNT, interpreter, b"", *back), "move_mount")
    attributes = (ctypes.c_uint64 * 4)(RDONLY | NOSUID_NODEV)
    changed = libc.syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, 32)
    check(changed, "mount_setattr")
    mount(Path("/tmp"))
    for place in filter(Path.exists, map(Path, ("/run", "/proc"))):
        mount(place, NOSUID_NODEV | RDONLY)
    os.chdir("/tmp")


def judge(libc: Any, interpreter: int) -> None:
    """The judge's process: sets the limits, runs the test and writes the verdict to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # now no signal from inside reaches it
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    job = json.load(sys.stdin)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))  # should nobody wait any more
    signal.alarm(job["limits"]["CPU"] + 1)
    Path("/proc/self/oom_score_adj").write_text("1000")  # the first to go where memory runs out
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # nobody traces it or reads its memory
    verdict, null = os.dup(1), os.open(os.devnull, os.O_RDWR)
    hide_files(libc, interpreter)
    for limit, value in job["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (value, value))
    for number in (0, 1, 2):
        os.dup2(null, number)
    reason, names = "the test asks the program for nothing", {"__name__": "test"}
    try:
        asked = Judge(job)
        exec(job["reference"], names)
        names.update({name: Remote(asked, name) for name in job["names"]})
        exec(job["test"], names)
        reason = "" if asked.answered else reason
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"[:300]
    os.write(verdict, json.dumps({"nonce": job["nonce"], "reason": reason}).encode())
    os._exit(0)


def launch() -> None:
    """The launcher's process: enters the namespaces, starts the judge and waits for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    is_root, hidden = os.geteuid() == 0, private_directory() is not None
    interpreter = clone_interpreter(libc) if is_root and hidden else -1
    if is_root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # or /proc/self would belong to root
    uid, gid = os.getuid(), os.getgid()
    check(libc.unshare(NAMESPACES), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    if hidden and not is_root:
        interpreter = clone_interpreter(libc)
    if child := os.fork():
        os.waitpid(child, 0)
    else:
        judge(libc, interpreter)


if __name__ == "__main__":
    program() if sys.argv[1:] else launch()
