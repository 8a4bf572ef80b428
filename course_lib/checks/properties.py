"""Properties that many exercises share: shape, value, dtype, gradient, untouched inputs, chance."""

import math
from collections.abc import Callable, Sequence

import torch

from course_lib.checks.exercise import Case, Chance, Failure, Foreign, Observation, Property
from course_lib.checks.observe import TWO_CALLS, as_tensor, leaves, same

MOST_ENTRIES = 4  # of a tensor, in a message
NOTHING = "nothing (None)"


def returns(points: float, kinds: tuple[str, ...] = (), name: str = "shape") -> Property:
    """The result has the structure and the shapes that are asked for."""

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        wanted, got = describe(expected.output), describe(observed.output)
        return None if wanted == got else Failure(wanted, got)

    return Property(name, points, test, kinds=kinds)


def value(
    points: float,
    kinds: tuple[str, ...] = (),
    name: str = "value",
    rtol: float = 1e-4,
    atol: float = 1e-6,
) -> Property:
    """The result equals the reference's to tolerance."""

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        return compare(expected.output, observed.output, rtol, atol)

    return Property(name, points, test, kinds=kinds)


def gradient(
    points: float,
    kinds: tuple[str, ...] = (),
    name: str = "gradient",
    rtol: float = 1e-3,
    atol: float = 1e-6,
) -> Property:
    """The gradients with respect to a case's `differentiate` equal the reference's.

    No gradient and a gradient of zero are the same thing.
    """

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        wanted, got = expected.gradients or {}, observed.gradients or {}
        for argument in case.differentiate:
            given = leaves(case.arguments[argument])
            sides = [
                [
                    torch.zeros_like(leaf) if found is None else found
                    for leaf, found in zip(given, leaves(side[argument]), strict=True)
                ]
                if argument in side
                else [torch.zeros_like(leaf) for leaf in given]
                for side in (wanted, got)
            ]
            failure = compare(*sides, rtol, atol)
            if failure:
                about = f"gradient of {argument} "
                return Failure(about + failure.expected, about + failure.got)
        return None

    return Property(name, points, test, aspect="gradients", kinds=kinds)


def dtype(points: float, kinds: tuple[str, ...] = (), name: str = "dtype") -> Property:
    """The result's tensors have the reference's dtypes."""

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        wanted, got = (
            [leaf.dtype for leaf in leaves(side.output) if isinstance(leaf, torch.Tensor)]
            for side in (expected, observed)
        )
        return None if wanted == got else Failure(_names(wanted), _names(got))

    return Property(name, points, test, kinds=kinds)


def unchanged_inputs(
    points: float, kinds: tuple[str, ...] = (), name: str = "inputs left alone"
) -> Property:
    """The answer does not write into its arguments."""

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        if not observed.changed:
            return None
        return Failure("arguments as they were", f"changed: {', '.join(observed.changed)}")

    return Property(name, points, test, aspect="changed", kinds=kinds)


def own_generator(
    points: float, kinds: tuple[str, ...] = (), name: str = "the generator decides"
) -> Property:
    """All chance comes from the generator: the same twice, and global random states untouched.

    In a case of kind TWO_CALLS the second call must give something else: the generator moved on.
    """

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        return _other_chance(case, observed)

    return Property(name, points, test, aspect="used_global_random", kinds=kinds)


def ignores_generator(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    """Recognises an answer with chance from elsewhere, in some case that gives a generator."""
    return any(
        _other_chance(case, seen) is not None
        for case, seen in zip(cases, observations, strict=True)
        if not seen.error and any(isinstance(leaf, Chance) for leaf in leaves(case.arguments))
    )


def wrong_only_in(kind: str, loss: Callable, wrong: Callable, unless: str = ""):
    """Recognises an answer that is right except in the cases of one kind.

    wrong: (observation, value of the loss) -> bool.  unless: another kind that does not matter.
    """

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        for case, seen in zip(cases, observations, strict=True):
            if case.kind == unless:
                continue
            if seen.error or describe(seen.output) != "a number":
                return False
            wanted, got = float(loss(*case.arguments.values())), float(seen.output)
            if case.kind == kind:
                if not wrong(seen, wanted):
                    return False
            elif abs(got - wanted) > 0.01 * abs(wanted) + 1e-5:  # log(softmax + 1e-6) is near
                return False
        return True

    return recognise


def _other_chance(case: Case, observed: Observation) -> Failure | None:
    if observed.used_global_random:
        return Failure("global random state untouched", "it was used")
    if not same(observed.output, observed.again):
        return Failure("the same result for the same generator", "two different results")
    if case.kind == TWO_CALLS and same(*observed.output):
        return Failure("another result from a second call", "the same result again")
    return None


def compare(expected, got, rtol: float, atol: float) -> Failure | None:
    """The first leaf in which two pieces of plain data differ, or None.

    A number and a tensor of shape () are the same thing.
    """
    if describe(expected) != describe(got):
        return Failure(describe(expected), describe(got))
    pairs = list(zip(leaves(expected), leaves(got), strict=True))
    for position, (left, right) in enumerate(pairs):
        if same(left, right, rtol, atol):
            continue
        where = f" in result {position + 1} of {len(pairs)}" if len(pairs) > 1 else ""
        return Failure(*(f"{text}{where}" for text in _difference(left, right, rtol, atol)))
    return None


def _difference(expected, got, rtol: float, atol: float) -> tuple[str, str]:
    """Where two leaves of one shape differ: at the entry with the largest error, if many."""
    expected, got = as_tensor(expected), as_tensor(got)
    if not isinstance(expected, torch.Tensor):
        return show(expected), show(got)
    if expected.numel() <= MOST_ENTRIES:
        return show(expected), show(got)
    left, right = expected.double().flatten(), got.double().flatten()
    error = (left - right).abs() - rtol * left.abs() - atol
    # NaN or infinity where none is wanted counts as the largest error.
    worst = int(error.nan_to_num(nan=math.inf, posinf=math.inf).argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(worst), expected.shape)]
    return f"{number(left[worst])} at {place}", f"{number(right[worst])} at {place}"


def describe(value) -> str:
    """The structure of plain data with shapes: "(d, d)" tensors, numbers, lists, dicts."""
    if isinstance(value, torch.Tensor):
        kind = "a number" if value.ndim == 0 else f"shape {tuple(value.shape)}"
        return f"{kind} (complex)" if value.is_complex() else kind
    if isinstance(value, dict):
        inside = ", ".join(f"{key}: {describe(item)}" for key, item in value.items())
        return f"a dict of {inside}" if inside else "an empty dict"
    if isinstance(value, list | tuple):
        parts = [describe(item) for item in value]
        if len(parts) > MOST_ENTRIES and len(set(parts)) == 1:
            return f"{len(parts)} times {parts[0]}"
        return f"({'; '.join(parts)})"
    if isinstance(value, bool):
        return "a bool"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, Foreign):
        return f"an object of type {value.type_name}"
    return NOTHING if value is None else "a string"


def show(value) -> str:
    """A small value as a learner reads it."""
    if isinstance(value, torch.Tensor):
        if value.ndim == 0:
            return number(value.item())
        return f"[{', '.join(number(entry) for entry in value.flatten().tolist())}]"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value.type_name if isinstance(value, Foreign) else repr(value)
    return number(value)


def number(value: float) -> str:
    """Four significant digits; whole numbers in full."""
    value = float(value)
    if math.isfinite(value) and abs(value) < 1e15 and value == int(value):
        return str(int(value))
    return f"{value:.4g}"


def _names(dtypes) -> str:
    return ", ".join(str(item).removeprefix("torch.") for item in dtypes) or "no tensor"
