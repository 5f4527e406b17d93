"""The judge's side: runs a row's tests in a process that the program does not share, and reports on each.

Reports are frames as between `Peer`s, on a socket of their own:
    {"event": "begin", "test": TEXT}         what follows is about this test
    {"event": "passed"}
    {"event": "failed", "why": TEXT}
    {"event": "refused", "why": TEXT}        the tests are at fault, whatever the program is
    {"event": "end", "checks": N, "uses": N, "tests": N}
"""

import json
import linecache
import os
import socket
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ..calls import solution
from ..calls.leetcode import HELPERS
from ..calls.remote import ClosedError
from .equality import are_same, refuse_empty_arrays
from .judged_program import (
    ALIASES,
    Failed,
    JudgePeer,
    Program,
    ProgramHere,
    cause_of,
    function_of,
    in_place,
    share_seeds,
    shown,
)

CHECK, IN_PLACE, ENTRY = "_tppo_check", "_tppo_in_place", "_tppo_entry"  # what tests are given by these names
BOUND = "_tppo"  # and the module that a file of tests imports them from
LOADING = "loading the program"
MAX_WHY_CHARS = 1000
TESTS = "<tests "  # begins the names of their files


class Refused(Exception):  # noqa: N818  no error of this program
    """The row's tests cannot judge any program."""


class Reports:
    """The judge's end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def send(self, frame: dict[str, Any]) -> None:
        body = json.dumps(frame).encode()
        self._connection.sendall(len(body).to_bytes(4, "big") + body)

    def begin(self, test: str) -> None:
        """What follows is about this test, whose time begins."""
        self.send({"event": "begin", "test": test[:MAX_WHY_CHARS]})

    def passed(self) -> None:
        self.send({"event": "passed"})

    def failed(self, why: str) -> None:
        self.send({"event": "failed", "why": why[:MAX_WHY_CHARS]})


class Checks:
    """Counts the checks that were reached, in all and in this test."""

    def __init__(self) -> None:
        self.total = 0
        self.of_test = 0

    def __call__(self) -> None:
        self.total += 1
        self.of_test += 1


@dataclass(frozen=True)
class Trial:
    """What is judged, by what, and who hears of it."""

    plan: Mapping[str, Any]
    program: Program
    names: list[str]  # which the program defines
    checks: Checks
    reports: Reports


def judge(plan: Mapping[str, Any], connection: socket.socket, report_socket: socket.socket) -> NoReturn:
    """Run the tests of the plan against the program at the other end."""
    reports = Reports(report_socket)
    reports.begin(LOADING)
    _judged(plan, JudgePeer(connection), reports)


def judge_here(plan: Mapping[str, Any], source: str, report_socket: socket.socket) -> NoReturn:
    """Run tests that need the program's own classes in the program's own process, which can therefore cheat."""
    reports = Reports(report_socket)
    reports.begin(LOADING)
    _judged(plan, ProgramHere(solution.load(source)), reports)


def _judged(plan: Mapping[str, Any], program: Program, reports: Reports) -> NoReturn:
    checks = Checks()
    try:
        trial = Trial(plan, program, _names(program), checks, reports)
        num_tests = KINDS[plan["kind"]](trial)
        if program.unsendable:
            raise Refused(
                f"the tests give the program an object of their class {program.unsendable}, and only data leaves their "
                "process: mark the row with own_classes = true to run them in the program's"
            )
        reports.send({"event": "end", "checks": checks.total, "uses": program.num_uses, "tests": num_tests})
    except Refused as refused:
        reports.send({"event": "refused", "why": str(refused)})
    except Failed as failed:
        reports.failed(str(failed))
    os._exit(0)


def _names(program: Program) -> list[str]:
    try:
        return program.names()
    except (Exception, ClosedError) as error:
        raise Failed(cause_of(error, program)) from None


def _calls(trial: Trial) -> int:
    """One function, its arguments and what it has to return."""
    name, calls = trial.plan["function"], trial.plan["calls"]
    for arguments, expected in calls:
        trial.reports.begin(f"{name}({', '.join(map(shown, arguments))})")
        trial.checks()
        if problem := _problem_of_call(trial, name, arguments, expected):
            trial.reports.failed(f"expected {shown(expected)}, {problem}")
            if not trial.plan["partial"]:
                break
        else:
            trial.reports.passed()
    return len(calls)


def _problem_of_call(trial: Trial, name: str, arguments: list[Any], expected: Any) -> str:
    program, plan = trial.program, trial.plan
    assert isinstance(program, JudgePeer)
    try:
        value = program.called_as_leetcode(function_of(program, name, trial.names), arguments)
        allowed = [] if plan["counts"] == "element" else [expected]
        allowed += [] if plan["counts"] == "whole" else expected
        is_right = any(are_same(one, value, tolerance=plan["tolerance"]) for one in allowed)
        return "" if is_right else f"got {shown(value)}"
    except (Exception, ClosedError) as error:
        return cause_of(error, program)


def _statements(trial: Trial) -> int:
    """Python code, statement by statement; those with a check are the tests."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    _bind(trial, vars(module))
    units = trial.plan["units"]
    for number, unit in enumerate(units, 1):
        if unit["is_test"]:
            trial.reports.begin(unit["label"])
        problem = _problem_of_statement(trial, unit, f"{TESTS}{number}>", vars(module))
        if problem:
            trial.reports.failed(problem)
        elif unit["is_test"]:
            trial.reports.passed()
        if problem and not (trial.plan["partial"] and unit["is_test"]):
            break
    return sum(unit["is_test"] for unit in units)


def _problem_of_statement(trial: Trial, unit: Mapping[str, Any], file: str, scope: dict[str, Any]) -> str:
    """Why it did not pass; '' when it did."""
    source = unit["source"]
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    trial.checks.of_test = 0
    try:
        exec(compile(source, file, "exec"), scope)
    except SystemExit as error:
        return "" if error.code in (None, 0) else f"the tests exited with {error.code!r:.100}"
    except BaseException as error:
        if isinstance(error, ImportError) and not hasattr(error, "of_program"):
            raise Refused(f"the tests import what is not there: {error}") from None
        return f"{_place(error, unit['label'])}{cause_of(error, trial.program)}"
    if trial.program.has_ended:
        return "the program ended"
    if unit["has_check"] and not trial.checks.of_test:
        return "no check of this test was reached"
    return ""


def _place(error: BaseException, label: str) -> str:
    """The line of the tests at which it was raised, when the test's own line does not say it."""
    lines = [one.line or "" for one in traceback.extract_tb(error.__traceback__) if one.filename.startswith(TESTS)]
    return f"at `{lines[-1][:200]}`: " if lines and lines[-1] != label else ""


def _bind(trial: Trial, scope: dict[str, Any]) -> None:
    """What the tests find beside their own names."""
    plan, program = trial.plan, trial.program
    missing = [name for name in plan["names"] if name not in trial.names]
    if missing:
        unknown = [name for name in missing if name not in plan["required"]]
        if unknown and len(missing) < len(plan["names"]):
            raise Refused(f"the tests use {', '.join(unknown)}, which neither they nor the program define")
        raise Failed(f"the program defines no {', '.join(missing)}")
    if "numpy" in plan["imports"]:
        refuse_empty_arrays()
    share_seeds(program)
    for name in ALIASES:
        sys.modules[name] = program.as_module(name)
    scope.update({CHECK: trial.checks, IN_PLACE: in_place})
    scope.update({name: helper for name, helper in HELPERS.items() if name in plan["helpers"]})
    try:
        if plan["entry"]:
            scope[ENTRY] = scope["candidate"] = function_of(program, plan["entry"], trial.names)
        scope.update({name: program.get(name) for name in plan["names"]})
    except (Exception, ClosedError) as error:
        raise Failed(cause_of(error, program)) from None


def _pytest(trial: Trial) -> int:
    """Test functions and classes, by pytest itself."""
    try:
        from .pytest_run import run
    except ImportError as error:
        raise Refused(f"the tests need pytest: {error}; expected pip install 'tppo[reward]'") from None
    bound = types.ModuleType(BOUND)
    _bind(trial, vars(bound))
    sys.modules[BOUND] = bound
    return run(trial)


KINDS: dict[str, Callable[[Trial], int]] = {"calls": _calls, "statements": _statements, "pytest": _pytest}
