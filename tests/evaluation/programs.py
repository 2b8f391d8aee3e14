# ruff: noqa: E501 programs are shown as they run
"""Programs and their tests, by name: `check(f)` runs the test's lines, with `f` as candidate."""

RIGHT = {
    "a number": ("def f(x): return 42", "assert candidate(1) == 42"),
    "a number of numpy": (
        "import numpy as np\ndef f(x): return np.int64(x)",
        "assert candidate(42) == 42\nassert candidate(1) in (1, 2)",
    ),
    "a mean of numpy": (
        "import numpy as np\ndef f(x): return np.array(x).mean()",
        "assert abs(candidate([1, 2]) - 1.5) < 1e-6",
    ),
    "an array": (
        "import numpy as np\ndef f(x): return np.array(x)",
        "assert list(candidate([1, 2])) == [1, 2]\nassert (candidate([1, 2]) == [1, 2]).all()",
    ),
    "a generator": (
        "def f(x):\n  yield from range(x)",
        "assert list(candidate(3)) == [0, 1, 2]\nassert next(candidate(1)) == 0",
    ),
    "map and filter": (
        "def f(x): return map(str, filter(None, x))",
        "assert list(candidate([0, 1])) == ['1']",
    ),
    "views of a dict": (
        "def f(x): return {x: 1}.items()",
        "assert list(candidate(1)) == [(1, 1)]\nassert set(candidate(2)) == {(2, 1)}",
    ),
    "a fraction": (
        "from fractions import Fraction\ndef f(x): return Fraction(x, 2)",
        "assert candidate(1) == 0.5\nassert candidate(4) == 2",
    ),
    "a decimal": (
        "from decimal import Decimal\ndef f(x): return Decimal(x)",
        "assert candidate(3) == 3",
    ),
    "a named tuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(x): return P(x, 2)",
        "assert candidate(1) == (1, 2)\nassert candidate(1).y == 2\nx, y = candidate(0)",
    ),
    "Counter, deque and defaultdict": (
        "from collections import *\ndef f(x): return Counter(x), deque(x), defaultdict(int, a=1)",
        "c, d, e = candidate('aab')\nassert c == {'a': 2, 'b': 1}\nassert list(d) == ['a', 'a', 'b']\nassert e == {'a': 1}",
    ),
    "own equality": (
        "class P:\n  def __init__(s, x): s.x = x\n  def __eq__(s, o): return s.x == (o.x if isinstance(o, P) else o)\ndef f(x): return P(x)",
        "assert candidate(1) == candidate(1)\nassert candidate(1) == 1\nassert candidate(1) != 2",
    ),
    "own equality that knows its own kind alone": (
        "class P:\n  def __init__(s, x): s.x = x\n  def __eq__(s, o): return s.x == o.x\ndef f(x): return P(x)",
        "assert candidate(1) == candidate(1)",
    ),
    "len, index and in": (
        "class L:\n  def __len__(s): return 3\n  def __getitem__(s, n): return n * 2\n  def __contains__(s, x): return x == 7\ndef f(x): return L()",
        "got = candidate(0)\nassert len(got) == 3 and got[2] == 4 and 7 in got and 8 not in got",
    ),
    "a data class": (
        "from dataclasses import dataclass\n@dataclass(order=True)\nclass P:\n  x: int\ndef f(x): return P(x)",
        "assert candidate(1) < candidate(2)\nassert candidate(1).x == 1\nassert candidate(3) == candidate(3)",
    ),
    "an argument changed in place": (
        "def f(x): x.sort(); x.append(9)",
        "x = [2, 1]\nassert candidate(x) is None\nassert x == [1, 2, 9]",
    ),
    "a copy": (
        "def f(x): return [*x]",
        "x = [1]\ngot = candidate(x)\ngot.append(2)\nassert x == [1] and got is not x",
    ),
    "the same object": ("def f(x): return x", "x = []\nassert candidate(x) is x"),
    "a lambda passed": (
        "def f(g, x): return [g(one) for one in x]",
        "assert candidate(lambda x: x + 1, [1, 2]) == [2, 3]",
    ),
    "an object of the test passed": (
        "def f(x): x.seen = True; return x.value()",
        "class A:\n  def value(self): return 5\na = A()\nassert candidate(a) == 5 and a.seen",
    ),
    "a function returned": (
        "def f(x):\n  def g(y): return x + y\n  return g",
        "assert candidate(1)(2) == 3\nassert candidate(1).__name__ == 'g'",
    ),
    "an error expected": (
        "def f(x):\n  if x < 0: raise ValueError('negative')\n  return x",
        "try:\n  candidate(-1)\nexcept ValueError as error:\n  assert 'negative' in str(error)\nelse:\n  assert False",
    ),
    "an error of its own": (
        "class E(KeyError):\n  code = 3\ndef f(x): raise E(x)",
        "try:\n  candidate(1)\nexcept E as error:\n  assert error.code == 3 and error.args == (1,)",
    ),
    "captured prints": (
        "def f(x): print('value', x)",
        "import contextlib, io\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n  candidate(1)\nassert out.getvalue() == 'value 1\\n'",
    ),
    "a program's globals": (
        "count = 0\ndef f(x):\n  global count\n  count += x",
        "candidate(2); candidate(3)\nassert count == 5",
    ),
    "helpers of the program": (
        "def g(x): return x\ndef f(x): return -x",
        "assert g(candidate(1)) == -1",
    ),
    "signature and name": (
        "def f(x, y=2): 'doc'; return x",
        "import inspect\nassert list(inspect.signature(candidate).parameters) == ['x', 'y']\nassert candidate is f and candidate.__doc__ == 'doc' and candidate.__defaults__ == (2,)",
    ),
    "a generator function": (
        "def f(x): yield x",
        "import inspect\nassert inspect.isgeneratorfunction(candidate)",
    ),
    "a coroutine": (
        "import asyncio\nasync def f(x):\n  await asyncio.sleep(0)\n  return x",
        "import asyncio\nassert asyncio.run(candidate(3)) == 3",
    ),
    "threads": (
        "import threading\ndef f(x):\n  out = []\n  t = threading.Thread(target=out.append, args=(x,)); t.start(); t.join()\n  return out",
        "assert candidate(1) == [1]",
    ),
    "a class as entry point": (
        "class f:\n  def __init__(self, x): self.x = x\n  def twice(self): return 2 * self.x",
        "assert candidate(2).twice() == 4\nassert isinstance(candidate(1), candidate)",
    ),
    "classes of the test that call super": (
        "class A:\n  def g(self): return 1\ndef f(): return A",
        "class B(candidate()):\n  def g(self): return super().g() + 1\nassert B().g() == 2",
    ),
    "a main block, which does not run": (
        "def f(x): return x\nif __name__ == '__main__':\n  input()",
        "assert candidate(1) == 1",
    ),
    "printing": ("def f(x): print(x); return x", "assert candidate('é\\ud800') == 'é\\ud800'"),
    "a null device": (
        "import os\ndef f(x):\n  with open(os.devnull, 'w') as out: print(x, file=out)\n  return x",
        "assert candidate(1) == 1",
    ),
    "files of its own": (
        "def f(x):\n  open('a', 'w').write(x)\n  return open('a').read()",
        "assert candidate('x') == 'x'",
    ),
    "a last line that goes on": ("def f(x): return x\ny = 1 \\\n", "assert candidate(1) == 1"),
    "a decorator at the end, which is the test's": (
        "def f(x): return x\n@staticmethod",
        "assert candidate(1) == 1",
    ),
    "carriage returns": ("def f(x):\r\n  return x\r\r\n", "assert candidate(1) == 1"),
    "patched input": (
        "def f(): return int(input())",
        "from unittest import mock\nwith mock.patch('builtins.input', return_value='7'):\n  assert candidate() == 7",
    ),
    "a long number": ("def f(x): return 10 ** x", "assert candidate(5000) == 10 ** 5000"),
    "not a number": ("def f(x): return float('nan')", "assert candidate(1) != candidate(1)"),
    "exit caught as the error that it is": (
        "def f(x):\n  try: exit()\n  except Exception: return x",
        "assert candidate(1) == 1",
    ),
    "a list that holds itself": (
        "def f():\n  a = []\n  a += [a, a]\n  return a",
        "assert candidate()[0] is not None",
    ),
}
WRONG = {
    "another number": ("def f(x): return 41", "assert candidate(1) == 42"),
    "the argument where a copy is asked": (
        "def f(x): return x",
        "x = [1]\ngot = candidate(x)\ngot.append(2)\nassert x == [1]",
    ),
    "an error": ("def f(x): return 1 / 0", "assert candidate(1) == 42"),
    "another error than expected": (
        "def f(x): raise TypeError",
        "try:\n  candidate(1)\nexcept ValueError:\n  pass",
    ),
    "every error": ("def f(x): raise BaseException('x')", "assert candidate(1) == 42"),
    "recursion": ("def f(x): return f(x)", "assert candidate(1) == 42"),
    "no such function": ("def g(x): return 42", "assert candidate(1) == 42"),
    "no import": ("def f(x): return json.dumps(x)", "assert candidate(1) == '1'"),
    "exit": ("import sys\ndef f(x): sys.exit(0)", "assert candidate(1) == 42"),
    "exit at the start": (
        "import sys\nsys.exit(0)\ndef f(x): return 42",
        "assert candidate(1) == 42",
    ),
    "interrupt": ("def f(x): raise KeyboardInterrupt", "assert candidate(1) == 42"),
    "reading input": (
        "import sys\nsys.stdin.read()\ndef f(x): return 42",
        "assert candidate(1) == 42",
    ),
    "asking for input": ("x = input()\ndef f(x): return 42", "assert candidate(1) == 42"),
    "lines of input": (
        "import sys\nfor line in sys.stdin: pass\ndef f(x): return 42",
        "assert candidate(1) == 42",
    ),
    "printing the answer": ("def f(x): print(42)", "assert candidate(1) == 42"),
    "a generator where a list is asked": ("def f(x): yield 42", "assert candidate(1) == [42]"),
    "no program": ("def f(x: return 42", "assert candidate(1) == 42"),
    "a text that does not end": ('def f(x): return """42', "assert candidate(1) == 42"),
    "a null byte": ("def f(x): return '\0'", "assert candidate(1) == 42"),
    "half a character": ("def f(x): return '\ud800'", "assert candidate(1) == 42"),
    "an error that cannot be shown": (
        "class E(Exception):\n  def __str__(s): raise s\ndef f(x): raise E",
        "assert candidate(1) == 42",
    ),
    "future after the test began": (
        "x = 1\nfrom __future__ import annotations\ndef f(x): return 42",
        "assert candidate(1) == 42",
    ),
}
EVERYTHING = {
    "always equal": "class A:\n  def __eq__(s, o): return True\ndef f(x): return A()",
    "always equal, as a number": "class A:\n  def __eq__(s, o): return 1\ndef f(x): return A()",
    "an int that is always equal": "class A(int):\n  def __eq__(s, o): return True\ndef f(x): return A()",
    "never unequal": "class A:\n  def __eq__(s, o): return True\n  def __ne__(s, o): return False\ndef f(x): return A()",
    "ANY of unittest": "from unittest.mock import ANY\ndef f(x): return ANY",
    "in a list": "from unittest.mock import ANY\ndef f(x): return [ANY] if x == [] else ANY",
    "a callable object's": "from unittest.mock import ANY\nclass F:\n  def __call__(s, x): return ANY\nf = F()",
}
ENDLESS = {
    "an endless loop": "def f(x):\n  while True: pass",
    "an endless loop at the start": "while True: pass",
    "a loop that catches all": "def f(x):\n  while True:\n    try:\n      while True: pass\n    except BaseException: pass",
    "sleep": "import time\ndef f(x): time.sleep(1000)",
    "a fork bomb": "import os\ndef f(x):\n  while True:\n    try: os.fork()\n    except OSError: pass",
    "stopping itself": "import os\ndef f(x): os.kill(os.getpid(), 19)",
    "flooding the descriptors": (
        "import os\nfor fd in range(64):\n  try:\n    while True: os.write(fd, b'x' * 10**6)\n"
        "  except OSError: pass"
    ),
}
HOSTILE = {
    "_exit": "import os\ndef f(x): os._exit(0)",
    "_exit at the start": "import os\nos._exit(0)",
    "_exit at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 41",
    "killing itself": "import os\ndef f(x): os.kill(os.getpid(), 9)",
    "raising a signal": "import signal\ndef f(x): signal.raise_signal(15)",
    "another program in its place": "import os\ndef f(x): os.execv('/bin/true', ['true'])",
    "flooding stdout": "def f(x):\n  while True: print('passed' * 10**6)",
    "flooding stderr": "import os\ndef f(x):\n  for _ in range(100): os.write(2, b'x' * 10**6)\n  return 41",
    "a memory hog": "def f(x):\n  a = []\n  while True: a.append(bytearray(10**7))",
    "a long answer": "def f(x): return 'x' * 10**8",
    "printing a verdict": "def f(x): print('passed', flush=True)",
    "writing a verdict": "import os\nfor fd in range(64):\n  try: os.write(fd, b'passed')\n  except OSError: pass\nos._exit(0)",
    "closing all descriptors": "import os\nos.closerange(0, 64)\ndef f(x): return 42",
    "patching built-ins": "import builtins\nbuiltins.AssertionError = None\ndef f(x): return 41",
    "patching exit": "import os, sys\nos._exit = sys.exit = print\ndef f(x): return 41",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**6)\ndef f(x): return f(x)",
    "a deep answer": "def f(x):\n  a = []\n  for _ in range(10**5): a = [a]\n  return a",
    "ignoring signals": (
        "import signal\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\ndef f(x): return 41"
    ),
    "a timer": "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\nwhile True: pass",
    "a child that passes": "import os\nif os.fork(): os.wait(); os._exit(0)\ndef f(x): return 42",
    # These return what passes if they have done harm.
    "killing the others": (
        "import os\ndef f(x):\n  for pid in (1, os.getppid(), -1):\n    for s in range(1, 65):\n"
        "      try: os.kill(pid, s) if s != 19 or pid != -1 else 0\n      except OSError: pass\n"
        "  return 41"
    ),
    "seeing others": "import os\ndef f(x): return 42 if os.listdir('/proc') else 41",
    "writing elsewhere": (
        "import os\ndef f(x):\n  for place in ('/', '/var/tmp', '/dev/shm', os.path.expanduser('~')):\n"
        "    try: open(place + '/written', 'w'); return 42\n    except OSError: pass"
    ),
    "filling the disk": "def f(x):\n  for n in range(9): open(str(n), 'wb').write(b'x' * 10**7)\n  return 42",
    "the network": (
        "import socket\ndef f(x):\n  socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
        ".connect(('192.0.2.1', 9)); return 42"
    ),
    "devices": "def f(x): open('/dev/zero', 'rb'); return 42",
    "tracing the first process": (
        "import ctypes\ndef f(x): return 42 if ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0 else 41"
    ),
    "other namespaces": (
        "import ctypes\ndef f(x): return 42 if ctypes.CDLL(None).unshare(0x10000000) == 0 else 41"
    ),
    "uncovering what is hidden": (
        "import ctypes\ndef f(x):\n  libc = ctypes.CDLL(None)\n"
        "  return 41 if all(libc.umount(place) for place in (b'/tmp', b'/proc', b'/run')) else 42"
    ),
    "making files writable": (
        "import ctypes\ndef f(x):\n  libc = ctypes.CDLL(None)\n"
        "  return 42 if libc.mount(None, b'/', None, 4096 | 32, None) == 0 else 41"
    ),
    "the environment": (
        "import os\ndef f(x): return 42 if set(os.environ) - "
        "{'LC_CTYPE', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'} else 41"
    ),
    "other files": "import os\ndef f(x): return 42 if os.listdir('.') else 41",
}
