"""Right programs in the styles that models write them in: none gets a zero."""

import pytest

from tests.reward.verifiers.programs.scoring import outcome

pytestmark = pytest.mark.process

MEMO = (
    "class memo:\n    def __init__(self, function):\n        self.function, self.known = function, {}\n"
    "    def __call__(self, *given):\n        if given not in self.known:\n"
    "            self.known[given] = self.function(*given)\n        return self.known[given]\n"
    "@memo\ndef fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
)
CHATTY = "def f(x):\n    print('x' * 60_000)\n    return x"
FLOOR = "import math\ndef f(x):\n    return math.floor(x)"
SCRIPTS = {
    "a file left open": "out = open(1, 'w')\nout.write(input())",
    "a buffer left open": "import io\nout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, 'w')))\nout.write(input())",
    "standard output closed": "import sys\nprint(input())\nsys.stdout.close()",
    "a thread with a deep stack": "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(2**27)\n"
    "def depth(n):\n    return n and 1 + depth(n - 1)\n"
    "def main():\n    assert depth(10**5) == 10**5\n    print(input())\n"
    "thread = threading.Thread(target=main)\nthread.start()\nthread.join()",
    "a thread not joined": "import threading\nthreading.Thread(target=lambda: print(input())).start()",
    "at exit": "import atexit\ntext = input()\natexit.register(lambda: print(text))",
    "asynchronous": "import asyncio\nasync def main():\n    await asyncio.sleep(0.01)\n    print(input())\n"
    "asyncio.run(main())",
    "main and exit": "import sys\ndef main():\n    sys.stdout.write(sys.stdin.readline())\n"
    "if __name__ == '__main__':\n    main()\n    sys.exit(0)",
    "exit without a module": "print(input())\nexit()",
    "bytes": "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())",
    "descriptors": "import os\nos.write(1, os.read(0, 100))",
    "file input": "import fileinput\nfor line in fileinput.input():\n    print(line, end='', flush=True)",
}
FUNCTIONS = {
    "a decorator that is a class": (MEMO, "assert fib(30) == 832040"),
    "much printed, functional": (CHATTY, {"fn_name": "f", "inputs": [[n] for n in range(60)], "outputs": [*range(60)]}),
    "much printed, asserts": (CHATTY, "for n in range(60):\n    assert f(n) == n"),
    "a module beside the function, star": (FLOOR, "from solution import *\nassert f(2.5) == 2"),
    "a module beside the function, pytest": (
        FLOOR,
        "import pytest\nfrom solution import *\ndef test_f():\n    assert f(2.5) == 2",
    ),
    "arrays": (
        "import numpy as np\ndef f(x):\n    return np.array(x) / 3",
        "import numpy as np\nimport pytest\ndef test_f():\n    assert f(1) == pytest.approx(1 / 3)\n"
        "    assert np.allclose(f([1, 2]), [1 / 3, 2 / 3])\n    assert np.allclose(f([]), [])",
    ),
}


@pytest.mark.parametrize("program", SCRIPTS.values(), ids=list(SCRIPTS))
def test_scripts_of_every_style_pass(program: str) -> None:
    scored = outcome(program, {"inputs": ["3 é\n", "4 é"], "outputs": ["3 é\n", "4 é"]})

    assert (scored.score, scored.details) == (1.0, "")


@pytest.mark.parametrize(("program", "tests"), FUNCTIONS.values(), ids=list(FUNCTIONS))
def test_functions_of_every_style_pass(program: str, tests: object) -> None:
    scored = outcome(program, tests)

    assert (scored.score, scored.details, scored.error) == (1.0, "", "")
