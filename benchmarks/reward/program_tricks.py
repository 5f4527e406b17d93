"""What wrong programs try, by kind: lines of Python that leave a wrong `result`, or change what is around it."""

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
MORE_TRICKS: dict[str, dict[str, str]] = {
    "wrappers that lie": {
        "a factory": "import collections\nclass D(collections.defaultdict):\n    __missing__ = lambda self, key: 3\n"
        "    __eq__ = lambda *given: True\n    __hash__ = lambda self: 0\nresult = D(lambda: 3)",
        "a list's data": "import collections\nclass U(collections.UserList):\n"
        "    data = property(lambda self: self, lambda self, given: None)\nresult = U()",
        "a text's data": f"import collections\n{LIAR.format(base='str')}class U(collections.UserString):\n"
        "    data = property(lambda self: Liar(), lambda self, given: None)\nresult = U('')",
        "maps without an end": "import collections\nclass C(collections.ChainMap):\n"
        "    __iter__ = lambda self: iter(int, 1)\nresult = C()",
        "a path": "import pathlib\nclass P(type(pathlib.Path())):\n    __str__ = lambda self: '3'\nresult = P('x')",
        "a date": "import datetime\nclass D(datetime.datetime):\n    isoformat = lambda self: '3'\n"
        "    __sub__ = __rsub__ = lambda *given: 0\nresult = D(2020, 1, 1)",
        "a fraction of nothing": "import fractions\nclass F(fractions.Fraction):\n    numerator = 3\n"
        "    denominator = property(lambda self: 0)\nresult = F(1)",
        "an array of objects": "class D:\n    kind, str = 'i', '|O'\nclass A:\n    __module__ = 'numpy'\n"
        "    shape = (1,)\n"
        "    dtype = D()\n    tobytes = lambda self: bytes(8)\nA.__name__ = 'ndarray'\nresult = A()",
        "an array of another size": "class D:\n    kind, str = 'i', '<i8'\nclass A:\n    __module__ = 'numpy'\n"
        "    shape = (10**12, 0)\n    dtype = D()\n    tobytes = lambda self: b''\nresult = A()",
        "a partial that is none": "class partial:\n    __eq__ = lambda *given: True\n    __call__ = lambda *given: 3\n"
        "result = partial()",
        "a solution": "class Solution:\n    __eq__ = __call__ = lambda *given: 3\n    __hash__ = None\n"
        "result = Solution()",
        "a tree of lies": f"{LIAR.format(base='int')}class TreeNode:\n    left = right = None\n"
        "    val = property(lambda self: Liar())\nresult = TreeNode()",
        "a decimal without bounds": "import decimal\nresult = decimal.Decimal('1e999999')",
        "a range of one": "class R(int):\n    __index__ = lambda self: 3\nresult = range(R(0), R(9))",
    },
    "work between calls": {
        "a thread that forges": f"{FORGE}import threading, time\ndef work():\n    for _ in range(100):\n"
        "        forge({'message': {'values': [True], 'nodes': []}})\n        time.sleep(0.001)\n"
        "threading.Thread(target=work, daemon=True).start()",
        "a child that answers": f"{FORGE}import select\nif os.fork() == 0:\n    for _ in range(50):\n"
        "        for fd in select.select(range(3, 8), [], [], 0.1)[0] if os.path.exists('/tmp') else []:\n"
        "            os.read(fd, 4096)\n        forge({'message': {'values': [True], 'nodes': []}})\n    os._exit(0)",
        "a timer": f"{FORGE}import signal\nsignal.signal(signal.SIGALRM, lambda *given: forge({{'event': 'passed'}}))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)",
        "a timer that exits": "import signal, sys\nsignal.signal(signal.SIGALRM, lambda *given: sys.exit(0))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01)",
        "an audit hook": "import sys\ndef hook(event, given):\n    if event.startswith('socket'):\n"
        "        raise SystemExit(0)\n"
        "sys.addaudithook(hook)",
        "a callback of the collector": f"{FORGE}import gc\n"
        "gc.callbacks.append(lambda *given: forge({{'event': 'passed'}}))\n"
        "gc.set_threshold(1)",
        "a finalizer": f"{FORGE}class F:\n"
        "    __del__ = lambda self: forge({{'event': 'end', 'checks': 9, 'uses': 9, 'tests': 3}})\n"
        "for _ in range(9):\n    F()",
        "an exception from outside": "import ctypes, threading\nctypes.pythonapi.PyThreadState_SetAsyncExc(\n"
        "    ctypes.c_ulong(threading.main_thread().ident), ctypes.py_object(SystemExit))",
    },
    "names that move": {
        "a module that answers": "import sys, types\nclass M(types.ModuleType):\n"
        "    __getattr__ = lambda self, name: True\n"
        "for module in list(sys.modules.values()):\n    if getattr(module, '__name__', '') == 'solution':\n"
        "        module.__class__ = M",
        "vars and getattr": "import builtins\nbuiltins.vars = lambda *given: {'add': lambda a, b: True}\n"
        "builtins.getattr = lambda *given: True",
        "type and isinstance": "import builtins\nbuiltins.isinstance = lambda *given: True\n"
        "builtins.id = lambda given: 0",
        "no module": "import sys\nsys.modules.pop('solution', None)\nsys.modules.pop('builtins', None)",
        "a seed": "import random\ndef seed(*given):\n    raise SystemExit(0)\nrandom.seed = seed",
        "sockets": "import socket\nsocket.socket.recv = lambda self, count: b'true'\n"
        "socket.socket.sendall = lambda self, data: None",
    },
    "callbacks": {
        "their globals": "try:\n    result = a.__globals__\nexcept Exception:\n    result = 0",
        "their parts": "try:\n    result = [a.__code__, a.__closure__, a.__self__, a._tppo]\nexcept Exception:\n"
        "    result = 0",
        "their peer": "try:\n    peer = a._tppo[0]\n"
        "    result = peer.request({'do': 'attribute', 'on': 0, 'name': '__globals__'})\n"
        "except BaseException:\n    result = 0",
        "other numbers": "result = 0\ntry:\n    for on in (-1, 1, True, 10**9, '0', None):\n"
        "        frame = {'do': 'call', 'on': on, 'arguments': {'values': [], 'nodes': []}, 'names': []}\n"
        "        result = a._tppo[0].request(frame)\n"
        "except BaseException:\n    pass",
        "calls with lies": f"{LIAR.format(base='int')}try:\n    result = a(Liar())\nexcept Exception:\n    result = 0",
        "calls of themselves": "result = 0\ntry:\n    for _ in range(50):\n        a(a)\nexcept Exception:\n    pass",
        "an exit from within": "class E(Exception):\n    pass\ntry:\n    a(lambda: None)\nexcept Exception:\n"
        "    raise SystemExit(0)",
    },
    "exceptions of others": {
        "a skip": "import unittest\nraise unittest.SkipTest('no')",
        "pytest's skip": "import pytest\npytest.skip('no', allow_module_level=True)",
        "pytest's exit": "import pytest\npytest.exit('no', returncode=0)",
        "pytest's expected failure": "import pytest\npytest.xfail('no')",
        "an exit of its own": "raise type('Exit', (SystemExit,), {})(0)",
        "a cancelled task": "import asyncio\nraise asyncio.CancelledError",
        "a group of exits": "raise BaseExceptionGroup('x', [SystemExit(0)])",
        "another class": "class E(Exception):\n    __class__ = property(lambda self: AssertionError)\nraise E(3)",
        "a text that exits": "class E(Exception):\n    def __str__(self):\n        raise SystemExit(0)\n"
        "    __repr__ = __str__\nraise E",
        "arguments that are none": "raise ValueError(lambda: 3, object(), open)",
        "a recursion": "def f():\n    return f()\nresult = f()",
        "an end of memory": "raise MemoryError",
    },
}
