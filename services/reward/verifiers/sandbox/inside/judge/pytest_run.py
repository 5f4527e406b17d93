"""Runs a file of tests by pytest, in the judge's process."""

import os
import sys
import tempfile
from typing import Any

import pytest

from .equality import refuse_empty_approximations
from .judged_program import Failed

OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--import-mode=importlib", "--tb=short")
FILE = "test_program.py"


def run(trial: Any) -> int:
    """The number of tests; each is reported."""
    from .trial import Refused

    plan = trial.plan
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.dont_write_bytecode = True
    refuse_empty_approximations(type(pytest.approx(1.0)))
    plugin = _Reporter(trial)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, FILE)
        with open(path, "w") as file:
            file.write(plan["source"])
        stop = () if plan["partial"] else ("-x",)
        code = pytest.main([*OPTIONS, *stop, f"--rootdir={folder}", "-c", os.devnull, path], plugins=[plugin])
    if plugin.broken:
        raise Refused(plugin.broken)
    if plugin.problem_of_collection:
        raise Failed(plugin.problem_of_collection)
    if code in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise Refused(f"pytest ran no test: {pytest.ExitCode(code).name}")
    if plugin.num_judged == 0:
        raise Refused("pytest skipped all tests")
    return plugin.num_tests


class _Reporter:
    """Hooks of pytest."""

    def __init__(self, trial: Any) -> None:
        self._trial = trial
        self._problem = ""
        self._is_skipped = False
        self._is_checked = False
        self._uses_before = 0
        self.num_tests = 0
        self.num_judged = 0
        self.broken = ""
        self.problem_of_collection = ""

    def pytest_exception_interact(self, call: Any, report: Any) -> None:
        """What ends the collection: the tests' own fault, or the program's where they call it on the way."""
        if report.when != "collect" or self.broken or self.problem_of_collection:
            return
        error = call.excinfo.value
        error = error.__cause__ or error
        text = f"{type(error).__name__}: {error}"[:500]
        if isinstance(error, ImportError | SyntaxError) and not hasattr(error, "of_program"):
            self.broken = f"the tests cannot be collected: {text}"
        else:
            self.problem_of_collection = text

    def pytest_collection_finish(self, session: Any) -> None:
        self.num_tests = len(session.items)

    def pytest_runtest_setup(self, item: Any) -> None:
        self._is_checked = getattr(item, "originalname", item.name) in self._trial.plan["checked"]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._trial.reports.begin(nodeid.partition("::")[2])
        self._problem, self._is_skipped, self._trial.checks.of_test = "", False, 0
        self._uses_before = self._trial.program.num_uses

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._is_skipped = self._is_skipped or report.skipped
        is_by_program = self._trial.program.num_uses > self._uses_before and not hasattr(report, "wasxfail")
        if report.skipped and is_by_program:
            self._problem = self._problem or "the test skipped itself after it had called the program"
        if report.failed and not self._problem:
            self._problem = self._cause(report)

    def pytest_runtest_logfinish(self) -> None:
        if self._is_skipped and not self._problem:
            self.num_tests -= 1
            return
        self.num_judged += 1
        if not self._problem and self._is_checked and not self._trial.checks.of_test:
            self._problem = "no check of this test was reached"
        if self._trial.program.has_ended:
            self._problem = "the program ended"
        if self._problem:
            self._trial.reports.failed(self._problem)
        else:
            self._trial.reports.passed()

    def _cause(self, report: Any) -> str:
        lines = [line.removeprefix("E").strip() for line in report.longreprtext.splitlines() if line.startswith("E ")]
        returned = self._trial.program.returned
        seen = f"; the program returned {returned}" if returned else ""
        return f"{' '.join(lines[:8]) or report.longreprtext.strip()[-300:]}{seen}"
