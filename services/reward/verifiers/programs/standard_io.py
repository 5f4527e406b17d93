"""Scripts that read standard input and print: run once for each test, and compared outside of their sandbox."""

import signal
from contextlib import ExitStack
from dataclasses import dataclass, replace

from services.reward.verifiers.programs.formats import StandardIO
from services.reward.verifiers.programs.settings import CodeSettings, ProgramVerdict, shown, with_errors
from services.reward.verifiers.sandbox.inside.judge.equality import is_same_output
from services.reward.verifiers.sandbox.isolation import ResourceLimits
from services.reward.verifiers.sandbox.program import file_of, text_of
from services.reward.verifiers.sandbox.session import Sandbox, SandboxWatch, sandbox


@dataclass(frozen=True, slots=True)
class _Run:
    """What became of one test."""

    output: str
    errors: str
    cause: str  # why it was no orderly end; '' for one
    is_last: bool  # nothing can be run after it


def run_tests(program: str, tests: StandardIO, settings: CodeSettings) -> ProgramVerdict:
    """Raises `IsolationError` where programs cannot be isolated."""
    num_passed, problems = 0, []
    with sandbox(program, limits=_limits(tests, settings.limits)) as box:
        for number, (given, expected) in enumerate(zip(tests.inputs, tests.outputs, strict=True), 1):
            run = _run(box, given, settings)
            if problem := _problem(run, expected, settings.tolerance):
                place = f"test {number} of {len(tests.inputs)}, with input {shown(given)}"
                problems.append(with_errors(f"{place}: {problem}", run.errors))
            num_passed += not problem
            if run.is_last or (problem and not settings.has_partial_credit):
                break
    return ProgramVerdict(num_passed, len(tests.inputs), problems[0] if problems else "")


def _limits(tests: StandardIO, limits: ResourceLimits) -> ResourceLimits:
    """A right program can print all that is expected."""
    most = max(len(expected.encode(errors="replace")) for expected in tests.outputs)
    return replace(limits, output_bytes=max(limits.output_bytes, 1 << (2 * most).bit_length()))


def _run(box: Sandbox, given: str, settings: CodeSettings) -> _Run:
    with ExitStack() as stack:
        stdin, stdout, stderr = (stack.enter_context(file_of(text)) for text in (given, "", ""))
        supervisor = SandboxWatch([box], settings.seconds)
        box.begin("script", (stdin, stdout, stderr))
        cause, is_last = supervisor.wait(box.process.control), False
        if cause:
            is_last = True
        elif (code := box.exit_code()) is None:
            cause, is_last = "the program ended its sandbox", True
        elif code:
            cause = f"exit code {code}" if code > 0 else f"ended by {_signal_name(-code)}"
        return _Run(text_of(stdout), text_of(stderr), cause, is_last)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _problem(run: _Run, expected: str, tolerance: float) -> str:
    if run.cause:
        return f"expected {shown(expected)}, {run.cause}"
    if is_same_output(expected, run.output, tolerance):
        return ""
    return f"expected {shown(expected)}, got {shown(run.output)}"
