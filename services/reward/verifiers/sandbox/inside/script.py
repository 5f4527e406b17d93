"""The program as a script, and what every way to run it has in common."""

import atexit
import builtins
import contextlib
import functools
import gc
import io
import linecache
import os
import sys
import threading
import traceback
import types
from typing import Any, NoReturn

PROGRAM = "<program>"
MAX_TRACE_CHARS = 10_000
FLUSH_FAILED = 120  # Python's own code for that
STANDARD_FILES = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}  # which no sandbox has


def run(source: str) -> NoReturn:
    """The program's end is the process's end."""
    sys.argv[:] = [PROGRAM]
    builtins.open = io.open = _with_standard_files(builtins.open)
    exit_code = 0
    try:
        execute(source, new_module("__main__"))
    except SystemExit as ended:
        exit_code = _code_of(ended)
    _end(exit_code)


def _end(exit_code: int) -> NoReturn:
    """What the interpreter does at its end, without taking itself apart."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        _flush_open_files()
    except BaseException as error:
        print_error(error)
        exit_code = exit_code or FLUSH_FAILED
    os._exit(exit_code)


def _flush_open_files() -> None:
    """Those that the program left to the interpreter to close, as in `out = open(1, "w")`; texts before their bytes."""
    objects = gc.get_objects()
    for kind in (io.TextIOWrapper, io.BufferedWriter):
        for one in objects:
            if issubclass(type(one), kind):
                with contextlib.suppress(Exception):  # closed, detached, or only read
                    one.flush()


def _with_standard_files(known: Any) -> Any:
    """`open("/dev/stdin")` as `open(0)`."""

    @functools.wraps(known)
    def opened(file: Any, *args: Any, **kwargs: Any) -> Any:
        return known(STANDARD_FILES.get(file, file) if isinstance(file, str) else file, *args, **kwargs)

    return opened


def _code_of(ended: SystemExit) -> int:
    if ended.code is None or isinstance(ended.code, int):
        return (ended.code or 0) & 0xFF
    sys.stderr.write(f"{ended.code}\n")
    return 1


def new_module(name: str) -> types.ModuleType:
    """An empty one, which imports find."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module


def execute(source: str, module: types.ModuleType) -> None:
    """Run the source in the module; an exception ends the process, as that of a script does."""
    sys.set_int_max_str_digits(0)  # an older Python had no limit, and a test's time is one
    linecache.cache[PROGRAM] = (len(source), None, source.splitlines(keepends=True), PROGRAM)
    try:
        exec(compile(source, PROGRAM, "exec"), vars(module))
    except SystemExit:
        raise
    except BaseException as error:
        print_error(error)
        sys.exit(1)


def print_error(error: BaseException) -> None:
    """To standard error, from the program's first line on; whatever a program made of both."""
    try:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != PROGRAM:
            trace = trace.tb_next
        text = "".join(traceback.format_exception(type(error), error, trace))
        os.write(2, text[-MAX_TRACE_CHARS:].encode(errors="replace"))
    except BaseException:
        return
