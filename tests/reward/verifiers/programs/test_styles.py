"""The same task in the styles of programming contests, course work and models: each program is right."""

import pytest

from tests.reward.verifiers.programs.scoring import outcome

pytestmark = pytest.mark.process

FAST_IO = """import os, sys
from io import BytesIO, IOBase
BUFSIZE = 8192
class FastIO(IOBase):
    newlines = 0
    def __init__(self, file):
        self._fd = file.fileno()
        self.buffer = BytesIO()
        self.writable = "x" in file.mode or "r" not in file.mode
        self.write = self.buffer.write if self.writable else None
    def read(self):
        while True:
            b = os.read(self._fd, max(os.fstat(self._fd).st_size, BUFSIZE))
            if not b:
                break
            ptr = self.buffer.tell()
            self.buffer.seek(0, 2), self.buffer.write(b), self.buffer.seek(ptr)
        self.newlines = 0
        return self.buffer.read()
    def readline(self):
        while self.newlines == 0:
            b = os.read(self._fd, max(os.fstat(self._fd).st_size, BUFSIZE))
            self.newlines = b.count(b"\\n") + (not b)
            ptr = self.buffer.tell()
            self.buffer.seek(0, 2), self.buffer.write(b), self.buffer.seek(ptr)
        self.newlines -= 1
        return self.buffer.readline()
    def flush(self):
        if self.writable:
            os.write(self._fd, self.buffer.getvalue())
            self.buffer.truncate(0), self.buffer.seek(0)
class IOWrapper(IOBase):
    def __init__(self, file):
        self.buffer = FastIO(file)
        self.flush = self.buffer.flush
        self.writable = self.buffer.writable
        self.write = lambda s: self.buffer.write(s.encode("ascii"))
        self.read = lambda: self.buffer.read().decode("ascii")
        self.readline = lambda: self.buffer.readline().decode("ascii")
sys.stdin, sys.stdout = IOWrapper(sys.stdin), IOWrapper(sys.stdout)
input = lambda: sys.stdin.readline().rstrip("\\r\\n")
print(sum(map(int, input().split())))
"""
BOOTSTRAP = """from types import GeneratorType
def bootstrap(f, stack=[]):
    def wrapped(*args, **kwargs):
        if stack:
            return f(*args, **kwargs)
        to = f(*args, **kwargs)
        while True:
            if type(to) is GeneratorType:
                stack.append(to)
                to = next(to)
            else:
                stack.pop()
                if not stack:
                    break
                to = stack[-1].send(to)
        return to
    return wrapped
@bootstrap
def depth(n):
    yield (1 + (yield depth(n - 1))) if n else 0
a, b = map(int, input().split())
assert depth(20000) == 20000
print(a + b)
"""
# Each prints the sum of two numbers.
SCRIPTS = {
    "deep recursion": "import sys\nsys.setrecursionlimit(10**6)\ndef add(a, b, n=50000):\n"
    "    return add(a, b, n - 1) if n else a + b\nprint(add(*map(int, input().split())))",
    "recursion by generators": BOOTSTRAP,
    "a thread for a stack of 256 MiB": "import sys, threading\nthreading.stack_size(2**28)\n"
    "sys.setrecursionlimit(2**20)\n"
    "def main():\n    print(sum(map(int, input().split())))\nt = threading.Thread(target=main)\nt.start()\nt.join()",
    "a larger stack by a limit": "import resource, sys\n"
    "resource.setrlimit(resource.RLIMIT_STACK, (resource.getrlimit(resource.RLIMIT_STACK)[1],) * 2)\n"
    "print(sum(map(int, input().split())))",
    "a class": "class Adder:\n    def __init__(self):\n        self.total = 0\n    def add(self, n):\n"
    "        self.total += n\n        return self\na, b = map(int, input().split())\n"
    "print(Adder().add(a).add(b).total)",
    "a dataclass": "from dataclasses import dataclass, field\n@dataclass(order=True)\nclass Pair:\n    a: int\n"
    "    b: int = field(default=0)\nprint((lambda p: p.a + p.b)(Pair(*map(int, input().split()))))",
    "a named tuple": "from typing import NamedTuple\nclass Pair(NamedTuple):\n    a: int\n    b: int\n"
    "print(sum(Pair(*map(int, input().split()))))",
    "an enumeration": "import enum\nclass Op(enum.Enum):\n    ADD = '+'\n"
    "print(sum(map(int, input().split())) if Op.ADD else 0)",
    "a generator": "def numbers():\n    yield from map(int, input().split())\nprint(sum(numbers()))",
    "all of standard input": "import sys\nprint(sum(map(int, sys.stdin.read().split())))",
    "bytes of standard input": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))",
    "lines of standard input": "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())))",
    "readlines": "import sys\nprint(*[sum(map(int, line.split())) for line in sys.stdin.readlines()], sep='\\n')",
    "readline bound to input": "import sys\ninput = sys.stdin.readline\na, b = map(int, input().split())\n"
    "sys.stdout.write(str(a + b) + '\\n')",
    "readline of the buffer": "import sys\nread = sys.stdin.buffer.readline\nprint(sum(map(int, read().split())))",
    "an iterator over the words": "import sys\ndata = iter(sys.stdin.read().split())\n"
    "next_int = lambda: int(next(data))\n"
    "print(next_int() + next_int())",
    "os.read": "import os\nprint(sum(map(int, os.read(0, 10**7).split())))",
    "descriptor 0 opened": "print(sum(map(int, open(0).read().split())))",
    "/dev/stdin": "print(sum(map(int, open('/dev/stdin').read().split())))",
    "/dev/stdin and /dev/stdout": "with open('/dev/stdin') as given, open('/dev/stdout', 'w') as out:\n"
    "    out.write(f'{sum(map(int, given.readline().split()))}\\n')",
    "mmap": "import mmap\nm = mmap.mmap(0, 0, prot=mmap.PROT_READ)\nprint(sum(map(int, m.readline().split())))",
    "numpy reads the input": "import sys\nimport numpy as np\n"
    "print(np.array(sys.stdin.read().split(), np.int64).sum())",
    "numpy.loadtxt": "import sys\nimport numpy as np\nprint(int(np.loadtxt(sys.stdin).sum()))",
    "fast input and output": FAST_IO,
    "input in a comprehension": "a, b = [int(x) for x in input().split()]\nprint(a + b)",
    "a star": "a, *rest = map(int, input().split())\nprint(a + sum(rest))",
    "a walrus": "if (line := input()):\n    print(sum(map(int, line.split())))",
    "until the end of the file": "while True:\n    try:\n        print(sum(map(int, input().split())))\n"
    "    except EOFError:\n        break",
    "sep and end": "import sys\nprint(sum(map(int, input().split())), end='')\nprint('', '', sep=' ', end='\\n"
    "\\n')\nsys.exit()",
    "trailing spaces": "print(sum(map(int, input().split())), '  ')",
    "windows line ends": "import sys\nsys.stdout.reconfigure(newline='\\r\\n')\nprint(sum(map(int, input().split())))",
    "output at once": "out = []\nout.append(str(sum(map(int, input().split()))))\nprint('\\n'.join(out))",
    "output buffered by itself": "import io, os\nout = io.StringIO()\nprint(sum(map(int, input().split())), file=out)\n"
    "os.write(1, out.getvalue().encode())",
    "standard output replaced": "import io, sys\nold, sys.stdout = sys.stdout, io.StringIO()\n"
    "print(sum(map(int, input().split())))\nold.write(sys.stdout.getvalue())",
    "print of the standard library replaced": "import sys\nfrom functools import partial\n"
    "print = partial(print, flush=True)\n"
    "print(sum(map(int, input().split())))",
    "main without a guard": "def main():\n    a, b = map(int, input().split())\n    print(a + b)\nmain()",
    "main with a guard": "def main() -> None:\n    print(sum(map(int, input().split())))\n\n\n"
    "if __name__ == '__main__':\n    main()",
    "main that returns its exit code": "import sys\ndef main():\n    print(sum(map(int, input().split())))\n"
    "    return 0\n"
    "if __name__ == '__main__':\n    sys.exit(main())",
    "exit(0)": "print(sum(map(int, input().split())))\nexit(0)",
    "quit": "print(sum(map(int, input().split())))\nquit()",
    "os._exit after a flush": "import os\nprint(sum(map(int, input().split())), flush=True)\nos._exit(0)",
    "global state": "total = 0\ndef add(n):\n    global total\n    total += n\nfor n in input().split():\n"
    "    add(int(n))\n"
    "print(total)",
    "many imports": "import math, heapq, bisect, string, re, random\n"
    "import itertools, functools, collections, operator, typing\n"
    "from typing import List, Optional, Dict\nfrom collections import defaultdict, deque, Counter, OrderedDict\n"
    "from functools import lru_cache, reduce, cmp_to_key\nprint(reduce(operator.add, map(int, input().split())))",
    "a heap": "import heapq\nh = list(map(int, input().split()))\nheapq.heapify(h)\n"
    "print(heapq.heappop(h) + heapq.heappop(h))",
    "decimals": "from decimal import Decimal, getcontext\ngetcontext().prec = 50\n"
    "print(sum(map(Decimal, input().split())))",
    "fractions": "from fractions import Fraction\nprint(sum(map(Fraction, input().split())))",
    "a match statement": "match input().split():\n    case [a, b]:\n        print(int(a) + int(b))",
    "a pool of threads": "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as pool:\n"
    "    print(sum(pool.map(int, input().split())))",
    "a process": "import multiprocessing\ndef f(line, pipe):\n    pipe.send(sum(map(int, line.split())))\n"
    "if __name__ == '__main__':\n    ours, theirs = multiprocessing.get_context('fork').Pipe()\n"
    "    p = multiprocessing.get_context('fork').Process(target=f, args=(input(), theirs))\n    p.start()\n"
    "    print(ours.recv())\n    p.join()",
    "exec": "code = 'print(sum(map(int, input().split())))'\nexec(code)",
    "warnings and standard error": "import sys, warnings\nwarnings.warn('slow')\nprint('debug', file=sys.stderr)\n"
    "print(sum(map(int, input().split())))",
    "an escape that warns": "import re\nprint(sum(map(int, re.findall('\\d+', input()))))",
    "a docstring and a shebang": "#!/usr/bin/env python3\n# -*- coding: utf-8 -*-\n'''Adds — zwei Zahlen 两个.'''\n"
    "print(sum(map(int, input().split())))",
    "from __future__": "from __future__ import annotations\nprint(sum(map(int, input().split())))",
    "tabs": "def f(a, b):\n\treturn a + b\nprint(f(*map(int, input().split())))",
    "names in another script": "сумма = sum(map(int, input().split()))\nprint(сумма)",
    "a local in a loop of tests": "t = 1\nfor _ in range(t):\n    a, b = map(int, input().split())\n"
    "    print(f'{a + b}')",
    "a pause": "import time\ntime.sleep(0.05)\nprint(sum(map(int, input().split())))",
    "garbage collection off": "import gc\ngc.disable()\nprint(sum(map(int, input().split())))",
    "signals": "import signal\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\nprint(sum(map(int, input().split())))",
}
# Programs, what they get and what they print.
OTHERS = {
    "an integer of ten thousand digits": ("print(10 ** int(input()))", "10000", "1" + "0" * 10000),
    "an integer of ten thousand digits, read": ("print(int(input()) % 7)", "1" + "0" * 10000, str(10**10000 % 7)),
    "output of two megabytes": ("print('x' * int(input()))", "2000000", "x" * 2_000_000),
    "many lines": ("for n in range(int(input())):\n    print(n)", "50000", "\n".join(map(str, range(50000)))),
    "unicode": ("print(input()[::-1])", "é漢😀", "😀漢é"),
    "no line end": ("import sys\nsys.stdout.write(input())", "a", "a"),
    "windows line ends in the input": ("print(input() + input())", "a\r\nb\r\n", "ab"),
    "empty lines at the end": ("print(input())\nprint()\nprint()", "a", "a\n"),
}
FUNCTIONS = {
    "a cached function": "import functools\n@functools.cache\ndef add(a, b):\n    return a + b",
    "a lambda": "add = lambda a, b: a + b",
    "a partial": "import functools, operator\nadd = functools.partial(operator.add)",
    "an inner function": "def add(a, b):\n    def inner():\n        nonlocal a\n        a += b\n"
    "        return a\n    return inner()",
    "type variables": "from typing import TypeVar, Union\nT = TypeVar('T', int, float)\n"
    "def add(a: T, b: T) -> Union[int, float]:\n"
    "    return a + b",
    "defaults and keywords": "def add(a=0, /, b=0, *rest, scale=1, **more):\n    return (a + b) * scale",
    "numpy's integers": "import numpy as np\ndef add(a, b):\n    return np.int64(a) + np.int64(b)",
    "a call of itself at the end": "def add(a, b):\n    return a if b == 0 else add(a + 1, b - 1)\n\nprint(add(1, 1))\n"
    "assert add(2, 2) == 4",
    "a guard with tests": "def add(a, b):\n    return a + b\nif __name__ == '__main__':\n    import doctest\n"
    "    doctest.testmod()\n"
    "    print(add(*map(int, input().split())))",
    "a recursion limit": "import sys\nsys.setrecursionlimit(10**6)\ndef add(a, b, n=20000):\n"
    "    return add(a, b, n - 1) if n else a + b",
    "a class that is called": "class Add:\n    def __call__(self, a, b):\n        return a + b\nadd = Add()",
    "a method": "class Solution:\n    def __init__(self):\n        self.seen = {}\n"
    "    def add(self, a: int, b: int) -> int:\n"
    "        return a + b\nadd = Solution().add",
}


@pytest.mark.parametrize("program", SCRIPTS.values(), ids=list(SCRIPTS))
def test_a_sum_in_every_style_is_right(program: str) -> None:
    scored = outcome(program, {"inputs": ["1 2\n", "30 4\n"], "outputs": ["3\n", "34\n"]})

    assert (scored.score, scored.details) == (1.0, "")


@pytest.mark.parametrize(("program", "given", "expected"), OTHERS.values(), ids=list(OTHERS))
def test_scripts_with_much_or_odd_output_are_right(program: str, given: str, expected: str) -> None:
    scored = outcome(program, {"inputs": [given], "outputs": [expected]})

    assert (scored.score, scored.details) == (1.0, "")


@pytest.mark.parametrize("program", FUNCTIONS.values(), ids=list(FUNCTIONS))
def test_a_function_in_every_style_is_right(program: str) -> None:
    scored = outcome(program, ["assert add(1, 2) == 3", "assert add(30, 4) == 34"])

    assert (scored.score, scored.details, scored.error) == (1.0, "", "")
