"""Whether the program of a response passes the tests of its row."""

from dataclasses import asdict
from typing import Any

from services.reward.verifiers.programs.extraction import program_of
from services.reward.verifiers.programs.formats import Calls, StandardIO, tests_of
from services.reward.verifiers.programs.judging import JudgeError, JudgeHost, judged, judged_here
from services.reward.verifiers.programs.python_tests import PythonTests, entry_of
from services.reward.verifiers.programs.settings import CodeSettings, ProgramVerdict
from services.reward.verifiers.programs.standard_io import run_tests
from services.reward.verifiers.programs.syntax import defined_names, parsed
from services.reward.verifiers.sandbox.inside.judge.trial import ENTRY
from tppo.rollout import RewardRequest

NO_PROGRAM = ProgramVerdict(0, 1, "the response has no block of Python")


class Judging:
    """What scores a response."""

    def __init__(self, settings: CodeSettings) -> None:
        self._settings = settings
        self._host = JudgeHost(settings.limits)

    def verdict(self, request: RewardRequest) -> ProgramVerdict:
        """Raises ValueError where the row's tests judge no program, and `IsolationError` where no sandbox comes up."""
        tests = tests_of(request, form=self._settings.form)
        reads_input = isinstance(tests, StandardIO) and any(tests.inputs)
        program = program_of(request.response, names=_names(tests), reads_input=reads_input, prompt=request.prompt)
        if isinstance(tests, PythonTests) and tests.inside and not tests.is_marked:
            raise JudgeError(
                f"the tests use {tests.inside}: mark the row with own_classes = true to run them in the program's "
                "own (docs/rewards.md)"
            )
        if program is None:
            return NO_PROGRAM
        if isinstance(tests, StandardIO):
            return run_tests(program, tests, self._settings)
        if isinstance(tests, Calls):
            return judged(program, self._plan_of_calls(tests), self._host, self._settings)
        plan = self._plan_of_code(tests, program)
        if tests.is_marked:
            return judged_here(program, plan, self._settings)
        imports = {*tests.imports, *(["pytest"] if tests.kind == "pytest" else [])}
        return judged(program, plan, self._host, self._settings, imports=imports)

    def _plan_of_calls(self, tests: Calls) -> dict[str, Any]:
        return {
            "kind": "calls",
            "function": tests.function,
            "calls": tests.calls,
            "counts": tests.counts,
            "tolerance": self._settings.tolerance,
            "partial": self._settings.has_partial_credit,
        }

    def _plan_of_code(self, tests: PythonTests, program: str) -> dict[str, Any]:
        tree = parsed(program)
        defined = list(defined_names(tree)) if tree else []
        entry = (tests.row.entry_point or entry_of(defined, tests.row)) if tests.has_entry else ""
        units = [{**unit, "label": unit["label"].replace(ENTRY, entry)} for unit in tests.units]
        given = {name: value for name, value in asdict(tests).items() if name != "row"}
        return {**given, "units": units, "entry": entry, "partial": self._settings.has_partial_credit}


def _names(tests: StandardIO | Calls | PythonTests) -> list[str]:
    """By which the program among several blocks is known."""
    if isinstance(tests, Calls):
        return [tests.function.rpartition(".")[2], "Solution"]
    if isinstance(tests, PythonTests):
        entry = tests.row.entry_point
        return [*tests.names, *(["Solution"] if "Solution" in entry else []), *([entry] if entry else [])]
    return []
