"""From observations to a verdict: points per property, and the name of the mistake."""

from collections.abc import Sequence
from functools import partial

from course_lib.checks.exercise import Case, Exercise, Failure, Mistake, Observation, Verdict
from course_lib.checks.observe import same

# Two runs of one mistake agree to rounding; two different mistakes hardly ever come this close.
RTOL, ATOL = 1e-4, 1e-7


def judge(
    exercise: Exercise, cases: Sequence[Case], observations: Sequence[Observation]
) -> Verdict:
    """Judge what an answer did on the cases; needs the observations only, not the answer.

    A property holds when it holds on every case of its kinds. Without the first property nothing
    counts. A property that no case examines is taken to hold when all others do.
    """
    if len(cases) != len(observations):
        raise ValueError(f"{len(cases)} cases need as many observations, got {len(observations)}.")
    verdict = Verdict(exercise.name, 0.0, exercise.max_points, "wrong", {})
    if any(seen.called_reference for seen in observations):
        verdict.outcome = "refused"
        return verdict
    if all(seen.error.startswith("NotImplementedError") for seen in observations):
        verdict.outcome = "not attempted"
        return verdict
    expected = [exercise.observe(exercise.reference, case) for case in cases]
    failures = {
        item.name: _failures(item, cases, observations, expected) for item in exercise.properties
    }
    examined = {
        item.name
        for item in exercise.properties
        if not item.kinds or any(case.kind in item.kinds for case in cases)
    }
    verdict.properties = {name: not failures[name] for name in failures if name in examined}
    first = next((item for item in exercise.properties if failures[item.name]), None)
    if first is None:
        verdict.points, verdict.outcome = exercise.max_points, "right"
        return verdict
    if first is not exercise.properties[0]:
        held = [name for name, holds in verdict.properties.items() if holds]
        verdict.points = float(sum(p.points for p in exercise.properties if p.name in held))
        verdict.outcome = "partly" if verdict.points else "wrong"
    index, verdict.failure = next(iter(failures[first.name].items()))
    verdict.failed, verdict.case = first.name, cases[index]
    verdict.error, verdict.error_line = observations[index].error, observations[index].error_line
    failing = list(failures[first.name])
    verdict.mistake = _recognise(exercise, cases, observations, expected, failing, first)
    return verdict


def _failures(item, cases, observations, expected) -> dict[int, Failure]:
    """Where a property fails: index of the case -> how."""
    found = {}
    for index, (case, seen, wanted) in enumerate(zip(cases, observations, expected, strict=True)):
        if item.kinds and case.kind not in item.kinds:
            continue
        failure = Failure("a result", seen.error) if seen.error else item.test(case, seen, wanted)
        if failure:
            found[index] = failure
    return found


def _recognise(exercise, cases, observations, expected, failing, failed) -> Mistake | None:
    """The known mistake that does the same as the answer on every case that fails.

    Of several the one that agrees on most cases, then the first of the bank.
    """
    best, most = None, -1
    for mistake in exercise.mistakes:
        if mistake.fails not in ("", failed.name):
            continue
        if mistake.recognise is not None:
            agreement = len(cases) if mistake.recognise(cases, observations) else -1
        else:
            theirs = partial(exercise.observe, mistake.answer)
            agreement = _agreement(theirs, cases, observations, expected, failing, failed.aspect)
        if agreement > most:
            best, most = mistake, agreement
    return best


def _agreement(observe, cases, observations, expected, failing, aspect) -> int:
    """On how many cases answer and mistake agree; -1 unless they do on all that fail.

    observe: case -> what the mistake does on it; not asked for more once they disagree.
    """
    theirs = {}
    for index in failing:
        theirs[index] = observe(cases[index])
        if not alike(observations[index], theirs[index], aspect):
            return -1
    # Where the mistake happens to be right it explains nothing.
    if all(alike(theirs[index], expected[index], aspect) for index in failing):
        return -1
    agreement = 0
    for index, case in enumerate(cases):
        pair = observations[index], theirs[index] if index in theirs else observe(case)
        agreement += sum(alike(*pair, field) for field in ("output", "gradients", "changed"))
    return agreement


def alike(left: Observation, right: Observation, aspect: str) -> bool:
    """Whether two observations agree in one aspect; an error agrees with one of its own type."""
    if left.error or right.error:
        return left.error.partition(":")[0] == right.error.partition(":")[0]
    return same(getattr(left, aspect), getattr(right, aspect), RTOL, ATOL)
