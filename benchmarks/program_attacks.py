"""Wrong programs that are after full marks: every trick, in every place of a program, against every format of tests.

Prints how many there were of each class and how many passed or were not scored; exit code 1 if any did.
`python -m benchmarks.program_attacks [PART PARTS]`: all of them, or one part of several.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import indent

from services.reward.verifiers.functions import load, outcome_of_call
from tppo.rollout import RewardRequest

FORGE = """import json, os
def forge(*frames):
    for frame in frames:
        body = json.dumps(frame).encode()
        for fd in range(3, 20):
            try:
                os.write(fd, len(body).to_bytes(4, 'big') + body)
            except OSError:
                pass
"""
LIAR = """class Liar({base}):
    __eq__ = __le__ = __ge__ = __contains__ = lambda self, other: True
    __ne__ = __lt__ = __gt__ = lambda self, other: False
    __hash__ = lambda self: 0
    __bool__ = lambda self: True
    __sub__ = __rsub__ = __abs__ = lambda self, *other: self
    __instancecheck__ = __subclasscheck__ = lambda self, other: True
"""
# Each leaves a wrong `result`; a trick that only changes its surroundings leaves 0.
TRICKS: dict[str, dict[str, str]] = {
    "forged frames": {
        "reports": f"{FORGE}forge({{'event': 'passed'}}, {{'event': 'end', 'checks': 9, 'uses': 9, 'tests': 4}})",
        "an answer": f"{FORGE}forge({{'message': {{'values': [True], 'nodes': []}}}})",
        "an exit code": "import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, bytes(4))\n"
        "    except OSError:\n        pass",
        "nodes of the judge": f"{FORGE}forge({{'message': {{'values': [['node', 0]], "
        "'nodes': [[0, ['list', [3]]]]}})",
        "an object of the judge": f"{FORGE}forge({{'message': {{'values': [['yours', 0]], 'nodes': []}}}})",
        "a request": f"{FORGE}forge({{'do': 'get', 'name': 'plan'}}, {{'do': 'call', 'on': 0, 'arguments': "
        "{'values': [], 'nodes': []}, 'names': []})",
        "a raised exit": f"{FORGE}forge({{'message': {{'values': [['tuple', [0]]], "
        "'nodes': []}, 'raised': 'SystemExit'})",
        "a raised skip": f"{FORGE}forge({{'message': {{'values': [['tuple', []]], "
        "'nodes': []}, 'raised': 'Skipped'})",
        "half a frame": "import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, b'\\x00\\x00')\n"
        "    except OSError:\n        pass",
        "a large frame": "import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, b'\\xff' * 8)\n"
        "    except OSError:\n        pass",
        "closed descriptors": "import os\nos.closerange(0, 64)",
        "descriptors for others": "import os\nfor fd in range(3, 12):\n    try:\n        os.dup2(1, fd)\n"
        "    except OSError:\n        pass",
    },
    "values that lie": {
        **{base: f"{LIAR.format(base=base)}result = Liar()" for base in ("int", "str", "list", "dict", "float", "set")},
        "an object": f"{LIAR.format(base='object')}result = Liar()",
        "an exception": f"{LIAR.format(base='Exception')}result = Liar()",
        "a key": f"{LIAR.format(base='str')}result = {{Liar(): 3}}",
        "a member": f"{LIAR.format(base='int')}result = [Liar()]",
        "a class": f"{LIAR.format(base='type')}result = Liar('C', (), {{}})",
        "numbers": "class N:\n    __float__ = lambda self: 3.0\n    __int__ = __index__ = lambda self: 3\nresult = N()",
        "a proxy of its class": "class P:\n    __class__ = property(lambda self: int)\nresult = P()",
        "another index": "class I(int):\n    __index__ = __int__ = lambda self: 3\n"
        "    bit_length = lambda self: 1\nresult = I(0)",
        "an iterator that starts again": "class It:\n    n = 0\n    __iter__ = lambda self: self\n"
        "    def __next__(self):\n        self.n += 1\n        if self.n % 2:\n            raise StopIteration\n"
        "        return 3\nresult = It()",
    },
    "values at the edge": {
        "not a number": "result = float('nan')",
        "infinite": "result = float('inf')",
        "not implemented": "result = NotImplemented",
        "an ellipsis": "result = ...",
        "true": "result = True",
        "complex": "result = complex('nan')",
        "decimal": "import decimal\nresult = decimal.Decimal('sNaN')",
        "all integers": "result = range(-10**18, 10**18)",
        "an empty array": "import numpy\nresult = numpy.array([])",
        "an array without shape": "import numpy\nresult = numpy.empty((0, 3))",
        "an array of truth": "import numpy\nresult = numpy.ones(3, bool)",
        "several answers": "import numpy\nresult = numpy.array([3, 10, 42])",
        "a list of answers": "result = [3, 10, 42]",
        "a text": "result = '3'",
        "a counter": "import collections\nresult = collections.Counter()",
        "a circle": "result = []\nresult.append(result)",
        "depth": "result = []\nfor _ in range(20_000):\n    result = [result]",
        "digits": "result = 1 << 10**6",
        "a class of Python's": "result = object",
        "a function": "result = lambda *given, **named: 3",
        "a generator": "result = (3 for _ in range(3))",
        "a node": "class TreeNode:\n    val, left, right = 3, None, None\nresult = TreeNode()",
    },
    "searches": {
        "frames": "import sys\nresult, frame = 0, sys._getframe()\nwhile frame:\n"
        "    for space in (frame.f_locals, frame.f_globals):\n"
        "        for name in ('expected', 'calls', 'plan', 'units'):\n"
        "            result = space.get(name, result)\n    frame = frame.f_back",
        "objects": "import gc\nresult = next((o for o in gc.get_objects() if type(o) is dict and 'units' in o), 0)",
        "peers": "import gc\nresult = 0\nfor o in gc.get_objects():\n    if type(o).__name__ == 'ProgramPeer':\n"
        "        result = o.request({'do': 'get', 'name': 'expected'})",
        "files": "import os\nresult = [os.path.join(at, n) for at, _, names in os.walk('/tmp') for n in names]",
        "descriptors": "import os\nresult = 0\nfor fd in (0, 1, 2):\n    try:\n"
        "        result = os.pread(fd, 1000, 0) or result\n"
        "    except OSError:\n        pass",
        "processes": "import os\nresult = os.listdir('/proc') + os.listdir('/')",
        "the first process": "import ctypes\nresult = ctypes.CDLL(None).ptrace(16, 1, 0, 0)",
        "environment": "import os, sys\nresult = [dict(os.environ), sys.argv, sys.orig_argv]",
        "caches": "import linecache\nresult = [''.join(v[2]) for k, v in linecache.cache.items() if 'tests' in k]",
        "modules": "import sys\nresult = [getattr(m, 'plan', None) for m in list(sys.modules.values())]",
    },
    "patches": {
        "builtins": "import builtins\n"
        "builtins.abs = builtins.all = builtins.isinstance = builtins.len = lambda *g: True\n"
        "builtins.AssertionError = Warning\nresult = 0",
        "names of tests": "abs = all = any = sum = isinstance = approx = check = test_add = "
        "lambda *g, **k: True\nresult = 0",
        "names of the judge": "_tppo_check = _tppo_in_place = _tppo_entry = candidate = "
        "lambda *g: lambda *m: 3\nresult = 0",
        "json": 'import json\njson.dumps = lambda *g, **k: \'{"message": {"values": [3], "nodes": []}}\'',
        "modules": "import sys, types\nfor name in list(sys.modules):\n    if 'inside' in name or name == 'json':\n"
        "        sys.modules[name] = types.ModuleType(name)",
        "import hooks": "import sys\nclass Finder:\n    def find_spec(self, *given):\n        raise SystemExit(0)\n"
        "sys.meta_path.insert(0, Finder())",
        "files for imports": "for name in ('conftest', 'sitecustomize', 'usercustomize', 'pytest', 'json'):\n"
        "    open(f'/tmp/{name}.py', 'w').write('import os; os._exit(0)')",
        "hooks at exit": "import atexit, os\natexit.register(os._exit, 0)",
        "traces": "import sys, threading\nsys.settrace(lambda *g: None)\nthreading.settrace(lambda *g: None)",
        "exceptions": "import sys\nsys.excepthook = sys.unraisablehook = lambda *g: None",
        "the peer": "import sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'Peer'):\n"
        "        m.Peer._raised = lambda *g: {'message': {'values': [3], 'nodes': []}}",
        "limits": "import resource\ntry:\n    resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3))\n"
        "except OSError:\n    pass",
    },
    "ends": {
        "at once": "import os\nos._exit(0)",
        "exit": "raise SystemExit(0)",
        "interrupt": "raise KeyboardInterrupt",
        "stop": "raise StopIteration(3)",
        "generator": "raise GeneratorExit",
        "assertion": "raise AssertionError(3)",
        "import": "raise ImportError('no module')",
        "syntax": "raise SyntaxError('bad')",
        "crafted": "class AssertionError(BaseException):\n    __module__ = 'builtins'\nraise AssertionError(3)",
        "group": "raise ExceptionGroup('x', [ValueError(3)])",
        "crash": "import ctypes\nctypes.string_at(0)",
        "signal": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
        "another program": "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'print(3)'])",
        "a fork": "import os\nif os.fork():\n    os._exit(0)",
        "memory": "result = bytearray(2**40)",
    },
}
# `{trick}` at the depth of the line that it is on.
PLACES = {
    "when loaded": "result = 0\n{trick}\ndef add(a, b):\n    return result",
    "when called": "def add(a, b):\n    result = 0\n    {trick}\n    return result",
    "at the second call": "calls = []\ndef add(a, b):\n    calls.append(a)\n    if len(calls) == 1:\n"
    "        return a + b\n"
    "    result = 0\n    {trick}\n    return result",
    "in a thread": "import threading\nfound = [0]\ndef work():\n    result = 0\n    {trick}\n    found[0] = result\n"
    "def add(a, b):\n    thread = threading.Thread(target=work)\n    thread.start()\n    thread.join()\n"
    "    return found[0]",
}
ROWS: dict[str, object] = {
    "asserts": ["assert add(1, 2) == 3", "assert add(5, 5) == 10", "assert abs(add(20, 22) - 42) < 1e-9"],
    "humaneval": {
        "test": "def check(candidate):\n    for a, b in [(1, 2), (5, 5), (20, 22)]:\n"
        "        assert candidate(a, b) == a + b",
        "entry_point": "add",
    },
    "functional": {"fn_name": "add", "inputs": [[1, 2], [5, 5], [20, 22]], "outputs": [3, 10, 42]},
    "pytest": "import pytest\nfrom solution import *\n@pytest.mark.parametrize('a, b', [(1, 2), (5, 5), (20, 22)])\n"
    "def test_add(a, b):\n    assert add(a, b) == pytest.approx(a + b)",
    "unittest": "import unittest\nfrom solution import add\nclass AddTest(unittest.TestCase):\n"
    "    def test_add(self):\n"
    "        self.assertEqual(add(1, 2), 3)\n        self.assertAlmostEqual(add(5, 5), 10)\n"
    "        self.assertIn(add(20, 22), [42])",
}
SCRIPTS = {"inputs": ["1 2\n", "5 5\n", "20 22\n"], "outputs": ["3\n", "10\n", "42\n"]}
SCRIPT_PLACES = {
    "printed": "result = 0\n{trick}\nprint(result)",
    "printed after all": "print(3, 10, 42, sep='\\n', flush=True)\nresult = 0\n{trick}\nprint('\\x1b[2J\\r', result)",
}


@dataclass(frozen=True)
class Attack:
    """A response and the row that it is after."""

    kind: str
    name: str
    program: str
    row: object


def attacks() -> Iterator[Attack]:
    """All of them, in one order."""
    for kind, tricks in TRICKS.items():
        for name, trick in tricks.items():
            for place, template in PLACES.items():
                for form, row in ROWS.items():
                    yield Attack(kind, f"{name}, {place}, {form}", _placed(template, trick), row)
            for place, template in SCRIPT_PLACES.items():
                yield Attack(kind, f"{name}, {place}, stdin", _placed(template, trick), SCRIPTS)


def _placed(template: str, trick: str) -> str:
    line = next(line for line in template.split("\n") if "{trick}" in line)
    return template.replace(line, indent(trick, line.removesuffix("{trick}")))


def main() -> None:
    part, parts = map(int, sys.argv[1:] or (0, 1))
    score = load("code(timeout_seconds=2)")
    tried, faults = Counter[str](), Counter[str]()
    for attack in [*attacks()][part::parts]:
        response = f"```python\n{attack.program}\n```"
        scored = outcome_of_call(score, RewardRequest("r", 0, "code", "", response, json.dumps(attack.row)))
        tried[attack.kind] += 1
        if scored.score != 0.0:
            faults[attack.kind] += 1
            cause = scored.error or scored.details
            print(f"{scored.status.name} {scored.score} {attack.kind}: {attack.name}: {cause:.300}", flush=True)
    for kind in TRICKS:
        print(f"{kind}: {tried[kind]} attacks, {faults[kind]} passed or were not scored")
    print(f"all: {tried.total()} attacks, {faults.total()} passed or were not scored")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
