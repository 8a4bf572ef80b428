"""What a learner, an instructor and a plain test get to see of a verdict."""

import html
import importlib
import sys
import textwrap
from collections.abc import Callable

import torch

from course_lib.checks.exercise import Case, Exercise, Verdict
from course_lib.checks.judge import judge
from course_lib.checks.properties import NOTHING, describe, number

# The modules beside this one that hold a bank.
TOPICS = (
    "bayes",
    "mlm",
    "sentence_pairs",
    "contrastive",
    "stability",
    "freezing",
    "layerwise",
    "heads",
    "diagnostics",
)
VERDICT = "application/vnd.course.verdict+json"
WIDTH = 96
MARGIN = 18  # where the text behind a label starts
COLOURS = {"right": "#1a7f37", "partly": "#b35900", "not attempted": "#6e7781"}
RED = "#cf222e"


class CheckFailed(AssertionError):
    """An answer is not right yet; its text is the whole message, and IPython shows no traceback."""

    def _render_traceback_(self):
        return str(self).splitlines()


def get_exercise(name: str) -> Exercise:
    """The exercise of this name. Raises ValueError, with the names there are, for another one."""
    names = []
    for topic in TOPICS:
        for exercise in importlib.import_module(f"course_lib.checks.{topic}").EXERCISES:
            if exercise.name == name:
                return exercise
            names.append(exercise.name)
    raise ValueError(f"There is no exercise {name!r}; there are: {', '.join(names)}.")


def check(name: str, answer: Callable, seed: int = 0) -> float:
    """Check an answer and show what is right, and which mistake it makes if it is not.

    Returns the points, so that it can stand last in a cell that nbgrader grades.
    """
    exercise = get_exercise(name)
    verdict = examine(exercise, answer, exercise.cases(seed))
    _show(verdict, message(verdict, seed), {})
    return verdict.points


def grade(name: str, answer: Callable, seed: int) -> float:
    """Check an answer on the hidden cases too; shows points and the mistake, but no numbers.

    Returns the points for nbgrader's gradebook. The verdict is also put out as data.
    """
    exercise = get_exercise(name)
    verdict = examine(exercise, answer, exercise.cases(seed) + exercise.hidden_cases(seed))
    text = message(verdict)
    _show(verdict, text, {VERDICT: as_data(verdict, text)})
    return verdict.points


def require(name: str, answer: Callable, seed: int = 0) -> None:
    """Raise CheckFailed, an AssertionError, with the whole message unless the answer is right."""
    exercise = get_exercise(name)
    verdict = examine(exercise, answer, exercise.cases(seed))
    if verdict.outcome != "right":
        raise CheckFailed(message(verdict, seed))


def examine(exercise: Exercise, answer: Callable, cases: list[Case]) -> Verdict:
    """Run an answer on the cases and judge it; calling the course's implementation is refused."""
    if not callable(answer):
        raise TypeError(f"{exercise.name} must be a function, got {type(answer).__name__}.")
    home = exercise.home or sys.modules[exercise.reference.__module__]
    forbidden = frozenset({home.__file__})
    return judge(exercise, cases, [exercise.observe(answer, case, forbidden) for case in cases])


def as_data(verdict: Verdict, text: str) -> dict:
    """A verdict as JSON-ready data, for reports on top of the gradebook."""
    return {
        "exercise": verdict.exercise,
        "points": verdict.points,
        "max_points": verdict.max_points,
        "outcome": verdict.outcome,
        "mistake": verdict.mistake.name if verdict.mistake else None,
        "properties": verdict.properties,
        "message": text,
    }


def message(verdict: Verdict, seed: int | None = None) -> str:
    """The one-screen message; without a seed it gives no numbers of the cases away."""
    name = verdict.exercise if seed is not None else f"{verdict.exercise}, graded"
    score = f"{number(verdict.points)} of {number(verdict.max_points)} points"
    if verdict.outcome == "right":
        note = "" if seed is None else " Grading also tries cases that are not shown here."
        return _wrap(f"{name}: right. {score}: {_held(verdict)}.{note}")
    if verdict.outcome == "not attempted":
        todo = "still to do. Replace the line that raises NotImplementedError, then run this again."
        return _wrap(f"{name}: {todo} {score}.")
    if verdict.outcome == "refused":
        return "\n".join(
            [
                _wrap(f"{name}: not counted. It calls the course's own implementation."),
                _labelled("What to do", "Write the steps yourself, without course_lib."),
                f"  {score}.",
            ]
        )
    held = _held(verdict)
    lines = [_headline(name, verdict), *([_numbers(verdict, seed)] if seed is not None else [])]
    if verdict.error and seed is not None and verdict.error_line:
        lines.append(_labelled("Stopped at", verdict.error_line))
    if verdict.mistake:
        lines.append(_labelled("Why it matters", verdict.mistake.why))
        lines.append(_labelled("Look at", verdict.mistake.look_at))
    elif verdict.failure.got.startswith(NOTHING):
        lines.append(_labelled("Look at", 'is there a "return" on every path?'))
    lines.append(_wrap(f"  {score}: {held}." if verdict.points and held else f"  {score}."))
    return "\n".join(lines)


def _headline(name: str, verdict: Verdict) -> str:
    if verdict.mistake:
        what = f"This is a known mistake: {verdict.mistake.sentence}"
    elif verdict.error:
        what = f"It stops with {verdict.error}"
    else:
        what = f"The first thing that fails: {verdict.failed}"
    return _wrap(f"{name}: not yet. {what.rstrip('.')}.")


def _numbers(verdict: Verdict, seed: int) -> str:
    """Expected and got on the smallest failing case, and what that case is."""
    case = verdict.case.text or describe_arguments(verdict.case)
    failure = verdict.failure
    line = f"  expected {failure.expected}   got {failure.got}   ({case}, seed {seed})"
    if len(line) <= WIDTH:
        return line
    return "\n".join(
        [
            _labelled("expected", failure.expected),
            _labelled("got", failure.got),
            _labelled("for", f"{case}, seed {seed}"),
        ]
    )


def describe_arguments(case: Case) -> str:
    """The arguments of a case with shapes and numbers: "X of shape (5, 3), noise_var 0.5"."""
    parts = []
    for name, given in case.arguments.items():
        if isinstance(given, torch.Tensor):
            parts.append(f"{name} of {describe(given)}" if given.ndim else f"{name} {given:.4g}")
        elif isinstance(given, int | float) and not isinstance(given, bool):
            parts.append(f"{name} {number(given)}")
        elif isinstance(given, str | bool):
            parts.append(f"{name} {given!r}")
    return ", ".join(parts) or case.kind


def _held(verdict: Verdict) -> str:
    """ "shape, gradient and dtype are right", of the properties that hold."""
    names = [name for name, holds in verdict.properties.items() if holds]
    if not names:
        return ""
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    return f"{listed} {'are' if len(names) > 1 else 'is'} right"


def _labelled(label: str, text: str) -> str:
    start = f"  {label:<{MARGIN - 2}}"
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * MARGIN)


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ")


def _show(verdict: Verdict, text: str, data: dict) -> None:
    """Show a message: coloured in a notebook, plain elsewhere."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel"):
        print(text)
        return
    from IPython.display import display

    display({"text/plain": text, "text/html": as_html(verdict, text), **data}, raw=True)


def as_html(verdict: Verdict, text: str) -> str:
    """The message as a box with a coloured edge; readable in light and dark themes."""
    colour = COLOURS.get(verdict.outcome, RED)
    state, dot, rest = html.escape(text).partition(".")  # "mlm_loss: not yet"
    return (
        f'<div role="status" style="border-left: 5px solid {colour}; padding: 2px 0 2px 12px">'
        '<pre style="margin: 0; padding: 0; border: 0; white-space: pre-wrap; background: none">'
        f"<strong>{state}{dot}</strong>{rest}</pre></div>"
    )
