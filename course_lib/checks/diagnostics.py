"""Checks of notebook 10, diagnostics: a report on overfitting, and early stopping."""

import copy
import math
import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from course_lib import diagnostics
from course_lib.checks.exercise import Case, Exercise, Failure, Observation, Property
from course_lib.checks.observe import observe_call, observe_steps, same
from course_lib.checks.properties import describe, number

# Answers may compute in float32.
RTOL, ATOL = 1e-4, 1e-5


def _between(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _whole(generator: torch.Generator, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


# overfitting_report: most cases have one thing that could be taken for a sign, so that a sign that
# is found too easily gives itself away.

HEALTHY, BAD_ONCE, EASIER, UNSURE = "healthy", "one bad evaluation", "below training", "unsure"
GAP, PLATEAU, TWO, SURE = "gap", "plateau", "plateau of two", "overconfident"
ALL_THREE, CERTAIN, TWICE = "all three", "certain predictions", "lowest twice"
SINGLE, MANY_CLASSES, NO_ERROR = "one evaluation", "many classes", "no error"

LOSSES = {  # kind -> training and validation losses
    HEALTHY: ([0.69, 0.50, 0.40], [0.68, 0.54, 0.49]),
    BAD_ONCE: ([0.69, 0.50, 0.42], [0.68, 0.50, 0.54]),
    EASIER: ([0.95, 0.85, 0.80], [0.70, 0.52, 0.45]),
    GAP: ([0.60, 0.30, 0.10], [0.60, 0.52, 0.48]),
    PLATEAU: ([0.62, 0.53, 0.50, 0.47, 0.45], [0.60, 0.50, 0.56, 0.52, 0.54]),
    TWO: ([0.62, 0.53, 0.50, 0.47], [0.60, 0.50, 0.56, 0.52]),
    ALL_THREE: ([0.60, 0.30, 0.10, 0.05], [0.55, 0.45, 0.60, 0.90]),
}
# Of a bin each: confidence at its middle, number of predictions, and how many of them are right.
MIXED = ((0.55, 10, 7), (0.75, 20, 13), (0.95, 30, 28))
UNDER = ((0.55, 20, 16), (0.65, 20, 17), (0.85, 20, 20))
OVER = ((0.55, 8, 4), (0.85, 22, 14), (0.95, 30, 22))
FULL = ((0.55, 10, 5), (0.75, 15, 12), (1.0, 25, 23))
LOW_TOO = ((0.35, 12, 4), (0.55, 10, 7), (0.75, 20, 13), (0.95, 30, 28))
RIGHT_AND_SURE = ((0.95, 12, 12), (0.85, 9, 9), (1.0, 5, 5))


def _history(generator, train: Sequence[float], validation: Sequence[float]) -> list[dict]:
    """Losses as the trainer's history has them; a little different for every seed."""
    offset = _between(generator, 0, 0.05)
    entries = []
    for epoch, pair in enumerate(zip(train, validation, strict=True)):
        train_loss, validation_loss = (
            loss + offset + _between(generator, -0.004, 0.004) for loss in pair
        )
        entries.append(
            {"epoch": epoch, "train_loss": train_loss, "validation_loss": validation_loss}
        )
    return entries


def _predictions(generator, groups, classes: int = 2, dtype=torch.float32):
    """Probabilities and labels with the given share of right answers at each confidence."""
    rows, labels = [], []
    for middle, count, right in groups:
        for place in range(count):
            near = 1.0 if middle == 1 else middle + _between(generator, -0.03, 0.03)
            guess = _whole(generator, 0, classes - 1)
            row = [(1 - near) / (classes - 1)] * classes
            row[guess] = near
            other = (guess + _whole(generator, 1, classes - 1)) % classes
            rows.append(row)
            labels.append(guess if place < right else other)
    order = torch.randperm(len(rows), generator=generator)
    return torch.tensor(rows, dtype=dtype)[order], torch.tensor(labels)[order]


def _report_case(kind: str, history: list[dict], predictions: tuple[Tensor, Tensor]) -> Case:
    probabilities, labels = predictions
    losses = [entry["validation_loss"] for entry in history]
    shown = ", ".join(f"{loss:.3g}" for loss in losses[:8])
    text = (
        f"{kind}: validation losses {shown}, training loss {history[-1]['train_loss']:.3g} at the "
        f"end, probabilities of shape {tuple(probabilities.shape)}"
    )
    arguments = {"history": history, "probabilities": probabilities, "labels": labels}
    return Case(kind, arguments, text=text)


def _report_cases(seed: int) -> list[Case]:
    g = torch.Generator().manual_seed(seed)

    def case(kind, groups=MIXED, losses=None):
        history = _history(g, *LOSSES[losses or kind])
        return _report_case(kind, history, _predictions(g, groups))

    twice = _history(g, *LOSSES[PLATEAU])
    twice[-1]["validation_loss"] = twice[1]["validation_loss"]
    return [
        case(HEALTHY),
        case(BAD_ONCE),
        case(EASIER),
        case(UNSURE, UNDER, HEALTHY),
        case(GAP),
        case(PLATEAU),
        case(TWO),
        case(SURE, OVER, HEALTHY),
        case(ALL_THREE, OVER),
        case(CERTAIN, FULL, HEALTHY),
        _report_case(TWICE, twice, _predictions(g, MIXED)),
    ]


def _hidden_report_cases(seed: int) -> list[Case]:
    g = torch.Generator().manual_seed(seed + 1)
    classes = _whole(g, 4, 7)
    many = _predictions(g, LOW_TOO * 3, classes, torch.float64)
    length = _whole(g, 15, 25)
    best = _whole(g, 4, 9)
    falling = [1.0 - 0.04 * epoch for epoch in range(length)]
    valley = [0.55 + 0.03 * abs(epoch - best) for epoch in range(length)]
    return [
        _report_case(MANY_CLASSES, _history(g, *LOSSES[HEALTHY]), many),
        _report_case(SINGLE, _history(g, [0.6], [0.65]), _predictions(g, MIXED)),
        _report_case(SINGLE, _history(g, [0.6], [0.95]), _predictions(g, ((0.75, 1, 0),))),
        _report_case(ALL_THREE, _history(g, falling, valley), _predictions(g, OVER, 3)),
        _report_case(NO_ERROR, _history(g, *LOSSES[BAD_ONCE]), _predictions(g, RIGHT_AND_SURE)),
    ]


NUMBERS = ("gap", "since_best", "overconfidence", "calibration_error")


def _reference_report(history, probabilities, labels) -> dict:
    """The library's report as a dict."""
    report = diagnostics.overfitting_report(history, probabilities, labels)
    return {name: getattr(report, name) for name in NUMBERS} | {"signs": list(report.signs)}


def _as_number(leaf) -> float | None:
    """A number, or a tensor of one entry, as a float; None for anything else."""
    if isinstance(leaf, Tensor):
        return float(leaf) if leaf.numel() == 1 and not leaf.is_complex() else None
    return float(leaf) if isinstance(leaf, int | float) and not isinstance(leaf, bool) else None


def _entry(seen: Observation, name: str):
    """An entry of the observed report: a number, or sorted signs; None if it is not there."""
    report = seen.output
    if seen.error or not isinstance(report, dict):
        return None
    entry = report.get(name)
    if name != "signs":
        return _as_number(entry)
    texts = isinstance(entry, list) and all(isinstance(sign, str) for sign in entry)
    return sorted(entry) if texts else None


def _test_form(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    report = observed.output
    names = ", ".join((*NUMBERS, "signs"))
    if not isinstance(report, dict):
        return Failure(f"a dict with {names}", describe(report))
    wrong = set(report) ^ {*NUMBERS, "signs"}
    if wrong:
        return Failure(
            f"a dict with {names}", f"one with {', '.join(map(str, report)) or 'nothing'}"
        )
    for name in (*NUMBERS, "signs"):
        if _entry(observed, name) is None:
            wanted = "a list of texts" if name == "signs" else "a number"
            return Failure(f"{wanted} for {name}", describe(report[name]))
    return None


def _entry_property(name: str, points: float, entry: str) -> Property:
    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        wanted, got = _entry(expected, entry), _entry(observed, entry)
        if got is None:
            return _test_form(case, observed, expected) or Failure(f"a {entry}", "something else")
        if entry == "signs":
            return None if wanted == got else Failure(_listed(wanted), _listed(got))
        if math.isclose(wanted, got, rel_tol=RTOL, abs_tol=ATOL):
            return None
        return Failure(f"{entry} {number(wanted)}", number(got))

    return Property(name, points, test)


def _listed(signs: Sequence[str]) -> str:
    return f"signs: {', '.join(signs) or 'none'}"


overfitting_report = Exercise(
    name="overfitting_report",
    reference=_reference_report,
    cases=_report_cases,
    hidden_cases=_hidden_report_cases,
    properties=(
        Property("form", 0.5, _test_form, kinds=(HEALTHY,)),
        _entry_property("gap", 0.5, "gap"),
        _entry_property("evaluations since the best", 1, "since_best"),
        _entry_property("overconfidence", 0.5, "overconfidence"),
        _entry_property("calibration error", 1.5, "calibration_error"),
        _entry_property("signs", 1, "signs"),
    ),
    observe=observe_call,
    home=diagnostics,
)
PROPERTY_OF = {"gap": "gap", "since_best": "evaluations since the best"} | {
    "overconfidence": "overconfidence",
    "calibration_error": "calibration error",
    "signs": "signs",
}


def _report_mistake(entry: str, sentence: str, why: str, look_at: str, wordings=()):
    """A mistake by one entry of the report, in one of several wordings."""

    def add(answer):
        def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
            return any(_agrees(entry, way, cases, observations) for way in (answer, *wordings))

        fails = PROPERTY_OF[entry]
        return overfitting_report.mistake(sentence, why, look_at, recognise, fails)(answer)

    return add


def _agrees(entry: str, answer: Callable, cases, observations) -> bool:
    """Whether an observed entry is that of `answer` in every case, and wrong in some."""
    found = [_entry(seen, entry) for seen in observations]
    for case, got in zip(cases, found, strict=True):
        theirs = _entry(Observation(output=answer(*case.arguments.values())), entry)
        if got is None or not same(theirs, got, RTOL, ATOL):
            return False
    right = (_reference_report(*case.arguments.values()) for case in cases)
    right = (_entry(Observation(output=report), entry) for report in right)
    return not all(same(*pair, RTOL, ATOL) for pair in zip(right, found, strict=True))


def _divided_by_all_bins(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside) / len(inside)) / 10
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


def _all_rises(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = sum(now > before for before, now in zip(losses, losses[1:], strict=False))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


def _gap_where_it_is_best(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    best = losses.index(min(losses))
    gap = losses[best] - history[best]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


def _one_bin(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = abs(overconfidence)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "gap",
    "the gap has the wrong sign: training minus validation loss",
    why="a run that learns by heart has the lower loss in training, so its gap has to be above 0.",
    look_at="which of the two losses is larger when a model overfits?",
)
def gap_reversed(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = history[-1]["train_loss"] - losses[-1]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "gap",
    "the gap has lost its sign",
    why="with dropout, or early in a run, the training loss is the higher one, and that is no"
    " overfitting.",
    look_at="what is your gap when the validation loss is the lower one?",
)
def gap_of_absolute_value(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = abs(losses[-1] - history[-1]["train_loss"])
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "gap",
    "the gap is not taken at the end of the run",
    why="the lowest validation loss is of an earlier moment; together with the last training "
    "loss it belongs to no model that ever was.",
    look_at="of which evaluations are the two losses that you subtract?",
    wordings=(_gap_where_it_is_best,),
)
def gap_at_the_best(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = min(losses) - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "gap",
    "the gap is a mean over the run, not that of its end",
    why="early evaluations, when nothing has been learned by heart yet, water it down.",
    look_at="how many evaluations enter your gap?",
)
def mean_gap(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gaps = [entry["validation_loss"] - entry["train_loss"] for entry in history]
    gap = sum(gaps) / len(gaps)
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "since_best",
    "one evaluation too many is counted since the best one",
    why="a run that is at its best now has 0 evaluations since.",
    look_at="what do you get when the last evaluation is the best?",
)
def counts_one_too_many(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "since_best",
    "only the rises at the end are counted, not all evaluations since the best",
    why="one small dip on the way up sets such a count back to 0, though the best loss is far"
    " away.",
    look_at="with which loss do you compare: the one before, or the lowest?",
    wordings=(_all_rises,),
)
def counts_rises_in_a_row(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = 0
    while since_best < len(losses) - 1 and losses[-1 - since_best] > losses[-2 - since_best]:
        since_best += 1
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "since_best",
    "it is the training loss whose best evaluation is looked for",
    why="the training loss falls on and on, so it never shows a plateau; that is what the "
    "validation set is for.",
    look_at="which list do you look for the lowest value in?",
)
def plateau_of_the_training_loss(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    train = [entry["train_loss"] for entry in history]
    since_best = len(train) - 1 - train.index(min(train))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "since_best",
    "it counts from the last time that the lowest loss was there, not from the first",
    why="to come back to the same loss is no improvement, and early stopping does not take it"
    " for one.",
    look_at="which of two equal losses does your code find?",
)
def counts_from_the_last_lowest(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    best = min(losses)
    since_best = max(i for i, loss in enumerate(losses) if loss == best)
    since_best = len(losses) - 1 - since_best
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "since_best",
    "the highest loss is taken for the best",
    why="losses are better the lower they are.",
    look_at="does your code take min or max?",
)
def looks_for_the_highest(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(max(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "overconfidence",
    "the sign is wrong: accuracy minus confidence",
    why="overconfidence is to be above 0 when the model is surer than it is right.",
    look_at="a model is 90 % sure and right in 70 %. What does your code give?",
)
def underconfidence(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(right) - sum(confidence)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "overconfidence",
    "the confidence is the probability of the right class, not of the predicted one",
    why="a model that is 95 % sure of a wrong answer would count as modest.",
    look_at="which entry of a row of probabilities is the confidence?",
)
def confidence_of_the_label(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    confidence = probabilities.gather(1, labels[:, None])[:, 0].tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "overconfidence",
    "overconfidence has lost its sign",
    why="a model that is less sure than it is right is not overconfident.",
    look_at="what do you get for a model that is 60 % sure and right in 80 %?",
)
def overconfidence_without_a_sign(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = abs(sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@overfitting_report.mistake(
    "a bin without predictions makes the calibration error NaN",
    why="the mean of nothing is 0 / 0. With two classes the bins below 0.5 are always empty.",
    look_at="what does your code do with a bin in which no confidence falls?",
    recognise=lambda cases, observations: _is_nan_or_divided_by_zero(observations),
)
def empty_bins_are_nan(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        error += float(torch.tensor(inside).mean().abs()) * len(inside) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


ONLY_THE_LAST = [False, False, False, True]  # of NUMBERS is NaN


def _is_nan_or_divided_by_zero(observations: Sequence[Observation]) -> bool:
    if all(seen.error.startswith("ZeroDivisionError") for seen in observations):
        return True
    found = [[_entry(seen, name) for name in NUMBERS] for seen in observations]
    return all(None not in row and list(map(math.isnan, row)) == ONLY_THE_LAST for row in found)


@_report_mistake(
    "calibration_error",
    "all bins count alike, however many predictions they have",
    why="a bin with two predictions would weigh as much as one with two hundred; a bin counts"
    " with its share |B| / N.",
    look_at="by what do you multiply the difference of a bin before you add it up?",
    wordings=(_divided_by_all_bins,),
)
def unweighted_bins(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error, filled = 0.0, 0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error, filled = error + abs(sum(inside) / len(inside)), filled + 1
    error = error / filled
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "calibration_error",
    "the differences of the bins are added with their signs",
    why="a bin that is too sure and one that is too modest cancel then: what is left is the "
    "overconfidence once more.",
    look_at="can one of your bins make the calibration error smaller?",
    wordings=(_one_bin,),
)
def signed_bins(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += sum(inside) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "calibration_error",
    "it is the largest difference of a bin, not the mean over the predictions",
    why="that is the maximum calibration error, which a single prediction can decide.",
    look_at="how do you get one number from those of the bins?",
)
def worst_bin(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error = max(error, abs(sum(inside) / len(inside)))
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "calibration_error",
    "the differences are squared, not taken as they are",
    why="the result is no longer a probability, and small errors hardly count; Guo et al. "
    "take the absolute value.",
    look_at="in which unit is your calibration error, if a bin is 0.1 off?",
)
def squared_differences(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += (sum(inside) / len(inside)) ** 2 * len(inside) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "calibration_error",
    "each prediction is compared with its own outcome, without bins",
    why="a prediction with confidence 0.8 that is right is not 0.2 wrong: among ten like it, "
    "eight should be right.",
    look_at="over which predictions is the accuracy taken that you subtract?",
)
def mean_of_single_differences(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    differences = [abs(sure - hit) for sure, hit in zip(confidence, right, strict=True)]
    error = sum(differences) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "calibration_error",
    "the bins lie between the smallest and the largest confidence, not between 0 and 1",
    why="then they are different bins for each model, and two models cannot be compared.",
    look_at="where do your first and your last bin begin and end?",
)
def bins_between_the_extremes(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error, low = 0.0, min(confidence)
    width = (max(confidence) - low) / 10 or 1.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if min(int((sure - low) / width), 9) == place]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "calibration_error",
    "predictions with a confidence of exactly 1 are in no bin",
    why="softmax gives exactly 1 in float32 when a model is very sure, and these are the "
    "predictions to worry about.",
    look_at="in which of your bins is a confidence of 1?",
)
def drops_certain_predictions(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.floor(10 * sure) == place]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@overfitting_report.mistake(
    "a confidence of exactly 1 falls into a bin behind the last one",
    why="softmax gives exactly 1 in float32 when a model is very sure, and then the report stops.",
    look_at="which number of a bin comes out for a confidence of 1, and how many bins are there?",
    recognise=lambda cases, observations: _stops_at_one_only(cases, observations),
)
def index_beyond_the_last_bin(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    off = [0.0] * 10
    for sure, hit in zip(confidence, right, strict=True):
        off[int(sure * 10)] += sure - hit
    error = sum(map(abs, off)) / len(labels)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


def _stops_at_one_only(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    """Whether it stops wherever a probability is 1, and nowhere else."""
    return all(
        bool(seen.error) == bool((case.arguments["probabilities"] == 1).any())
        for case, seen in zip(cases, observations, strict=True)
    )


@_report_mistake(
    "signs",
    "any gap is taken for a sign, and so a healthy run is flagged",
    why="nearly every run has a somewhat lower loss on what it was trained on; a warning that"
    " always comes warns of nothing.",
    look_at="which gap is the smallest that your code reports?",
)
def flags_any_gap(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "signs",
    "a validation loss far below the training loss is taken for overfitting, and so a "
    "healthy run is flagged",
    why="with dropout the training loss is measured with part of the model missing, and is "
    "often the higher one.",
    look_at="does your code ask how large the gap is, or how far from 0?",
)
def flags_a_gap_of_either_sign(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if abs(gap) > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "signs",
    "a single evaluation that is not the best is taken for a plateau, and so a healthy "
    "run is flagged",
    why="validation losses are noisy; two in a row are asked for.",
    look_at="for which smallest number of evaluations since the best do you report a plateau?",
)
def flags_the_first_bad_evaluation(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 1:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "signs",
    "two evaluations since the best are not yet taken for a plateau",
    why="the sign is there from two evaluations on, those included.",
    look_at="is your comparison true for exactly two?",
)
def waits_for_three(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best > 2:
        signs.append("plateau")
    if overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "signs",
    "any overconfidence is taken for a sign, and so a healthy run is flagged",
    why="on a few hundred predictions confidence and accuracy differ by some percent by "
    "chance alone.",
    look_at="which overconfidence is the smallest that your code reports?",
)
def flags_any_overconfidence(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if overconfidence > 0:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "signs",
    "a model that is less sure than it is right is taken for overconfident, and so a "
    "healthy run is flagged",
    why="modest predictions are no sign of learning by heart.",
    look_at="does your code ask for overconfidence above 0.05, or for anything far from 0?",
)
def flags_a_modest_model(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if abs(overconfidence) > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "signs",
    "the third sign is asked of the calibration error, not of the overconfidence",
    why="the calibration error is never below 0, and it is large for a model that is too "
    "modest, too.",
    look_at="which of your four numbers decides on the third sign?",
)
def judges_by_the_calibration_error(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    if since_best >= 2:
        signs.append("plateau")
    if error > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@_report_mistake(
    "signs",
    "at most one sign is reported",
    why="a run may have all three, and each has another remedy.",
    look_at="can your code append more than one name?",
)
def only_the_first_sign(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.2:
        signs.append("gap")
    elif since_best >= 2:
        signs.append("plateau")
    elif overconfidence > 0.05:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


@overfitting_report.mistake(
    "a healthy run is flagged",
    why="a warning that comes for healthy runs as well is soon ignored.",
    look_at="the three thresholds: 0.2 nats, two evaluations, 0.05.",
    recognise=lambda cases, observations: _flags_too_much(cases, observations),
    fails="signs",
)
def flags_a_healthy_run(history, probabilities, labels):
    losses = [entry["validation_loss"] for entry in history]
    gap = losses[-1] - history[-1]["train_loss"]
    since_best = len(losses) - 1 - losses.index(min(losses))
    confidence, guess = probabilities.max(dim=1)
    confidence, right = confidence.tolist(), (guess == labels).tolist()
    overconfidence = (sum(confidence) - sum(right)) / len(right)
    error = 0.0
    for place in range(10):
        pairs = zip(confidence, right, strict=True)
        inside = [sure - hit for sure, hit in pairs if math.ceil(10 * sure) == place + 1]
        if inside:
            error += abs(sum(inside)) / len(right)
    signs = []
    if gap > 0.02:
        signs.append("gap")
    if since_best >= 1:
        signs.append("plateau")
    if overconfidence > 0.005:
        signs.append("overconfidence")
    return {
        "gap": gap,
        "since_best": since_best,
        "overconfidence": overconfidence,
        "calibration_error": error,
        "signs": signs,
    }


def _flags_too_much(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    """Whether all signs that are there are found, and others in healthy runs."""
    for case, seen in zip(cases, observations, strict=True):
        got, wanted = _entry(seen, "signs"), _reference_report(*case.arguments.values())["signs"]
        if got is None or not set(wanted) <= set(got):
            return False
    return True


# EarlyStopping: in every case all weights and buffers of a small model hold the number of the
# evaluation, so that one sees which evaluation's weights come back.

FALLING, RISING, NOISY, RESET = "losses", "scores", "noisy losses", "better again"
EQUAL, IMPATIENT, IMPROVING = "equal losses", "patience of 1", "always better"
NEGATIVE, LARGE, SECOND = "scores below 0", "large losses", "a second one"
FIRST_IS_BEST, AGAIN, TIED, LONG = "best at first", "restored twice", "tied weights", "a long run"

RUNS = (  # kind, values, patience, higher is better
    (FALLING, [0.9, 0.7, 0.6, 0.65, 0.7], 2, False),
    (RISING, [0.6, 0.8, 0.9, 0.85, 0.7], 2, True),
    (NOISY, [0.9, 0.5, 0.8, 0.7, 0.6], 3, False),
    (RESET, [0.9, 1.0, 0.8, 0.85, 0.82], 2, False),
    (EQUAL, [0.5, 0.5, 0.5], 2, False),
    (IMPATIENT, [0.9, 0.8, 0.85], 1, False),
    (IMPROVING, [0.9, 0.8, 0.7], 1, False),
    (FIRST_IS_BEST, [0.4, 0.6, 0.5], 2, False),
    (NEGATIVE, [-5.0, -3.0, -4.0, -3.5], 2, True),
    (LARGE, [5e6, 4e6, 4.5e6, 4.2e6], 2, False),
    (SECOND, [0.9, 0.8, 0.85, 0.9], 2, False),
    (AGAIN, [0.9, 0.7, 0.8, 0.75], 2, False),
)


def _stopping_case(kind: str, values: Sequence[float], patience: int, higher: bool) -> Case:
    shown = ", ".join(map(number, values[:8])) + (" ..." if len(values) > 8 else "")
    text = f"patience {patience}, higher_is_better {higher}, values {shown} ({kind})"
    arguments = {"patience": patience, "higher_is_better": higher, "values": list(values)}
    return Case(kind, arguments, text=text)


def _stopping_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed)
    factor = round(_between(generator, 0.8, 1.2), 2)
    return [
        _stopping_case(kind, [value * factor for value in values], patience, higher)
        for kind, values, patience, higher in RUNS
    ]


def _hidden_stopping_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed + 1)
    cases = [
        _stopping_case(TIED, [3.0, 2.0, 2.5], 1, False),
        _stopping_case(SECOND, [0.1, 0.0, 0.2, 0.3], 2, False),  # 0 is a value, not a lack of one
        _stopping_case(NEGATIVE, [-0.2, 0.0, -0.1, -0.3], 2, True),
    ]
    for higher in (False, True):
        patience, values = _whole(generator, 4, 6), []
        stopping = diagnostics.EarlyStopping(patience, higher)
        model, stop = nn.Linear(1, 1), False
        while not stop and len(values) < 60:
            values.append(round(_between(generator, -1, 1), 3))
            stop = stopping.update(values[-1], model)
        cases.append(_stopping_case(LONG, values, patience, higher))
    return cases


class _Small(nn.Module):
    """A frozen layer, BatchNorm with its buffers, and a head, which may share its weight."""

    def __init__(self, tied: bool):
        super().__init__()
        self.encoder = nn.Linear(3, 3).requires_grad_(False)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 3)
        if tied:
            self.head.weight = self.encoder.weight


@torch.no_grad()
def _fill(model: nn.Module, number_of_evaluation: int) -> None:
    """Change all weights in place, as an optimiser does."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.fill_(number_of_evaluation)


def _weights(model: nn.Module) -> dict[str, float]:
    """Which evaluation's numbers each tensor holds; NaN if they are not all the same."""
    return {
        name: float(tensor.flatten()[0]) if len(tensor.unique()) == 1 else math.nan
        for name, tensor in model.state_dict().items()
    }


def _observe_stopping(answer: Callable, case: Case, forbidden=frozenset()) -> Observation:
    """Report the values one after another, then restore.

    The output is a dict of `said`, `weights` after the restoring, whether the model's parameters
    are still the `same` tensors, and `again`, the weights after they have been changed and
    restored once more.
    """

    def steps(arguments):
        return _run(answer, case.kind, *arguments.values())

    return observe_steps(steps, answer, case, forbidden)


def _run(answer: Callable, kind: str, patience: int, higher: bool, values: Sequence[float]) -> dict:
    with torch.random.fork_rng():
        model = _Small(kind == TIED)
    parameters = list(model.parameters())
    if kind == SECOND:
        first = answer(patience, higher)
        for value in (0.1, 0.2):
            first.update(value, model)
    stopping, said = answer(patience, higher), []
    for place, value in enumerate(values, start=1):
        _fill(model, place)
        said.append(_as_bool(stopping.update(value, model)))
    stopping.restore(model)
    weights = _weights(model)
    now = list(model.parameters())
    identical = len(now) == len(parameters) and all(map(operator.is_, now, parameters))
    _fill(model, len(values) + 1)
    stopping.restore(model)
    return {"said": said, "weights": weights, "same": identical, "again": _weights(model)}


def _as_bool(said):
    """True or False, of whatever type; anything else as it is."""
    if isinstance(said, Tensor) and said.numel() == 1 and said.dtype == torch.bool:
        return bool(said)
    return said


def _test_said_form(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    odd = next((said for said in observed.output["said"] if not isinstance(said, bool)), True)
    if isinstance(odd, bool):
        return None
    return Failure("True or False from each update", describe(odd))


def _test_said(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    failure = _test_said_form(case, observed, expected)
    if failure or same(expected.output["said"], observed.output["said"]):
        return failure
    wanted, got = (
        f"to stop at evaluation {said.index(True) + 1}" if True in said else "not to stop"
        for said in (expected.output["said"], observed.output["said"])
    )
    return Failure(wanted, got)


def _weights_property(name: str, points: float, tensors: Callable[[str], bool], kinds=()):
    """The right evaluation's numbers are in the tensors that are asked for, by their names."""

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        for tensor, wanted in expected.output["weights"].items():
            got = observed.output["weights"].get(tensor)
            if tensors(tensor) and not same(wanted, got):
                found = "others" if got is None or math.isnan(got) else f"those of {number(got)}"
                return Failure(f"{tensor} of evaluation {number(wanted)}", found)
        return None

    return Property(name, points, test, kinds=kinds)


def _is_buffer(name: str) -> bool:
    return "running" in name or "num_batches" in name


def _test_in_place(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    if observed.output["same"]:
        return None
    return Failure("the model's own parameters, with other numbers", "other tensors in their place")


def _test_again(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    if not observed.output["same"]:
        return _test_in_place(case, observed, expected)
    for tensor, wanted in expected.output["again"].items():
        got = observed.output["again"].get(tensor)
        if not same(wanted, got) and same(expected.output["weights"], observed.output["weights"]):
            return Failure(f"{tensor} of evaluation {number(wanted)} again", f"{number(got)}")
    return None


LOWER = (FALLING, NOISY, RESET, IMPATIENT, IMPROVING, FIRST_IS_BEST, LARGE, SECOND, TIED)

early_stopping = Exercise(
    name="EarlyStopping",
    reference=diagnostics.EarlyStopping,
    cases=_stopping_cases,
    hidden_cases=_hidden_stopping_cases,
    properties=(
        Property("form", 0.5, _test_said_form, kinds=(FALLING,)),
        Property("stops in time (losses)", 1, _test_said, kinds=LOWER),
        Property("stops in time (scores)", 1, _test_said, kinds=(RISING, NEGATIVE, LONG)),
        Property("equal values", 0.5, _test_said, kinds=(EQUAL,)),
        _weights_property("best weights", 1, lambda name: not _is_buffer(name)),
        _weights_property("buffers", 0.5, _is_buffer, (FALLING, RISING)),
        Property("restored in place", 0.5, _test_again, kinds=(FALLING, AGAIN)),
    ),
    observe=_observe_stopping,
)


def _stopping_mistake(part: str, sentence: str, why: str, look_at: str, wordings=()):
    """A mistake by one part of the output in all cases: what was said, or which weights came."""

    def add(answer):
        def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
            return any(
                _does_the_same(part, way, cases, observations) for way in (answer, *wordings)
            )

        return early_stopping.mistake(sentence, why, look_at, recognise)(answer)

    return add


def _does_the_same(part: str, answer: Callable, cases, observations) -> bool:
    """Whether a part of the output is that of `answer` in every case, and wrong in some.

    Of weights the rest has to be right.
    """
    if any(seen.error for seen in observations):
        return False
    found = [seen.output for seen in observations]
    for case, got in zip(cases, found, strict=True):
        try:
            theirs = _run(answer, case.kind, *case.arguments.values())
        except Exception:  # a mistake may stop where the observed answer does not
            return False
        if not same(got[part], theirs[part]):
            return False
    reference = diagnostics.EarlyStopping
    right = [_run(reference, case.kind, *case.arguments.values()) for case in cases]
    pairs = list(zip(right, found, strict=True))
    if part != "said" and not all(same(left["said"], got["said"]) for left, got in pairs):
        return False
    return not all(same(left[part], got[part]) for left, got in pairs)


class _minus_one_and_hundred:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = (-1.0 if higher_is_better else 100.0), 0, None

    def update(self, value, model):
        if self.weights is None:
            self.weights = copy.deepcopy(model.state_dict())
        if self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def is_better(self, value):
        return value > self.best if self.higher_is_better else value < self.best

    def restore(self, model):
        model.load_state_dict(self.weights)


@_stopping_mistake(
    "said",
    "better and worse are the wrong way round: lower scores and higher losses count as better",
    why="the run stops while it gets better, and the weights that it keeps are the worst.",
    look_at="with higher_is_better = False, does 0.5 after 0.7 count as an improvement?",
)
class wrong_sign:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = None, 0, None

    def update(self, value, model):
        if self.best is None or self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def is_better(self, value):
        return value < self.best if self.higher_is_better else value > self.best

    def restore(self, model):
        model.load_state_dict(self.weights)


@_stopping_mistake(
    "said",
    "higher always counts as better, for losses too",
    why="a loss that falls is the aim; such a run stops after a few evaluations, and keeps "
    "the weights with the highest loss.",
    look_at="where does your code use higher_is_better?",
)
class always_takes_higher:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = None, 0, None

    def update(self, value, model):
        if self.best is None or self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def is_better(self, value):
        return value > self.best

    def restore(self, model):
        model.load_state_dict(self.weights)


@_stopping_mistake(
    "said",
    "lower always counts as better, for accuracies too",
    why="an accuracy that rises is the aim; such a run stops after a few evaluations.",
    look_at="where does your code use higher_is_better?",
)
class always_takes_lower:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = None, 0, None

    def update(self, value, model):
        if self.best is None or self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def is_better(self, value):
        return value < self.best

    def restore(self, model):
        model.load_state_dict(self.weights)


@_stopping_mistake(
    "said",
    "a value is compared with the one before it, not with the best so far",
    why="after a bad evaluation a slightly less bad one would count as an improvement, and "
    "the run never ends.",
    look_at="with the losses 0.5, 0.8, 0.7: is 0.7 an improvement?",
)
class counts_from_the_value_before:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = None, 0, None

    def update(self, value, model):
        if self.best is None or self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.since_best += 1
        self.best = value
        return self.since_best >= self.patience

    def is_better(self, value):
        return value > self.best if self.higher_is_better else value < self.best

    def restore(self, model):
        model.load_state_dict(self.weights)


@_stopping_mistake(
    "said",
    "after every evaluation the count begins again only if it beat the one before; an "
    "improvement does not set it back to 0",
    why="the patience is for evaluations since the best one; those from before it are over.",
    look_at="what happens to your counter when a new best value comes?",
)
class best_is_always_replaced:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = None, 0, None

    def update(self, value, model):
        if self.best is None or self.is_better(value):
            self.best = value
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def is_better(self, value):
        return value > self.best if self.higher_is_better else value < self.best

    def restore(self, model):
        model.load_state_dict(self.weights)


@_stopping_mistake(
    "said",
    "a value equal to the best counts as an improvement",
    why="a run that stands still would never be stopped.",
    look_at="is your comparison true for two equal values?",
)
class equal_counts_as_better:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = None, 0, None

    def update(self, value, model):
        if self.best is None or self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def is_better(self, value):
        return value >= self.best if self.higher_is_better else value <= self.best

    def restore(self, model):
        model.load_state_dict(self.weights)


@_stopping_mistake(
    "said",
    "it stops one evaluation too late",
    why="patience is the number of evaluations without an improvement after which the run stops.",
    look_at="with a patience of 1: after how many bad evaluations does your code say True?",
)
class waits_one_longer:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = None, 0, None

    def update(self, value, model):
        if self.best is None or self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.since_best += 1
        return self.since_best > self.patience

    def is_better(self, value):
        return value > self.best if self.higher_is_better else value < self.best

    def restore(self, model):
        model.load_state_dict(self.weights)


@_stopping_mistake(
    "said",
    "it stops one evaluation too early",
    why="patience is the number of evaluations without an improvement that have to come first.",
    look_at="with a patience of 2: after how many bad evaluations does your code say True?",
)
class stops_one_early:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = None, 0, None

    def update(self, value, model):
        if self.best is None or self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.since_best += 1
        return self.since_best >= max(1, self.patience - 1)

    def is_better(self, value):
        return value > self.best if self.higher_is_better else value < self.best

    def restore(self, model):
        model.load_state_dict(self.weights)


@_stopping_mistake(
    "said",
    "it stops at the first evaluation that is not better",
    why="evaluations are noisy; one bad one says little, and that is what the patience is for.",
    look_at="where does your code use patience?",
)
class ignores_patience:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = None, 0, None

    def update(self, value, model):
        if self.best is None or self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.since_best += 1
        return self.since_best > 0

    def is_better(self, value):
        return value > self.best if self.higher_is_better else value < self.best

    def restore(self, model):
        model.load_state_dict(self.weights)


@_stopping_mistake(
    "said",
    "the best value is 0 before anything has been seen",
    why="no loss is ever below 0, and a log-likelihood never above; then nothing counts as an"
    " improvement.",
    look_at="what is the best value before the first update?",
)
class starts_from_zero:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = 0, 0, None

    def update(self, value, model):
        if self.weights is None:
            self.weights = copy.deepcopy(model.state_dict())
        if self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def is_better(self, value):
        return value > self.best if self.higher_is_better else value < self.best

    def restore(self, model):
        model.load_state_dict(self.weights)


@_stopping_mistake(
    "said",
    "the best value before anything has been seen is some number, not the first value",
    why="sums of losses run into the millions, and log-likelihoods lie far below 0.",
    look_at="what is the best value before the first update, and what could be worse than that?",
    wordings=(_minus_one_and_hundred,),
)
class starts_from_a_guess:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = (0.0 if higher_is_better else 1000.0), 0, None

    def update(self, value, model):
        if self.weights is None:
            self.weights = copy.deepcopy(model.state_dict())
        if self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def is_better(self, value):
        return value > self.best if self.higher_is_better else value < self.best

    def restore(self, model):
        model.load_state_dict(self.weights)


@_stopping_mistake(
    "weights",
    "the last weights come back, not the best",
    why="state_dict() holds the live tensors, not copies: what training changes afterwards is"
    " changed in it as well.",
    look_at="are the numbers you keep your own, or the ones that the optimiser goes on changing?",
)
class keeps_the_last:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = None, 0, None

    def update(self, value, model):
        if self.best is None or self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = model.state_dict()
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def is_better(self, value):
        return value > self.best if self.higher_is_better else value < self.best

    def restore(self, model):
        model.load_state_dict(self.weights)


@_stopping_mistake(
    "weights",
    "the first weights come back, not the best",
    why="the model would be thrown back to its first evaluation, whatever it has learned since.",
    look_at="on which evaluations does your code store weights?",
)
class keeps_the_first:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = None, 0, None

    def update(self, value, model):
        if self.best is None or self.is_better(value):
            self.best, self.since_best = value, 0
            if self.weights is None:
                self.weights = copy.deepcopy(model.state_dict())
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def is_better(self, value):
        return value > self.best if self.higher_is_better else value < self.best

    def restore(self, model):
        model.load_state_dict(self.weights)


@_stopping_mistake(
    "weights",
    "only parameters are kept; buffers stay as they are at the end",
    why="the running means of BatchNorm are buffers, and they belong to the weights that were"
    " trained with them.",
    look_at="what does state_dict() hold that parameters() does not?",
)
class forgets_the_buffers:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = None, 0, None

    def update(self, value, model):
        if self.best is None or self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = [p.detach().clone() for p in model.parameters()]
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def is_better(self, value):
        return value > self.best if self.higher_is_better else value < self.best

    def restore(self, model):
        with torch.no_grad():
            for parameter, best in zip(model.parameters(), self.weights, strict=True):
                parameter.copy_(best)


@_stopping_mistake(
    "weights",
    "only trainable parameters are kept",
    why="frozen weights may be unfrozen on the way, and buffers change in any case; the best "
    "moment is all of the model.",
    look_at="which tensors of the model does your code leave out?",
)
class forgets_what_is_frozen:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = None, 0, None

    def update(self, value, model):
        if self.best is None or self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = {
                name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
            }
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def is_better(self, value):
        return value > self.best if self.higher_is_better else value < self.best

    def restore(self, model):
        model.load_state_dict(self.weights, strict=False)


@_stopping_mistake(
    "same",
    "the model gets new parameters in the place of its own",
    why="an optimiser, and whoever else knows the old ones, goes on with tensors that the "
    "model no longer uses.",
    look_at="do you write other numbers into the tensors, or other tensors into the model?",
)
class replaces_the_parameters:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = None, 0, None

    def update(self, value, model):
        if self.best is None or self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def is_better(self, value):
        return value > self.best if self.higher_is_better else value < self.best

    def restore(self, model):
        model.load_state_dict(copy.deepcopy(self.weights), assign=True)


@_stopping_mistake(
    "again",
    "the model goes on training in the stored weights themselves",
    why="after restoring, model and store are one and the same tensor, so the best weights "
    "are gone with the next step.",
    look_at="are numbers copied when you restore, or is only another name given to your tensor?",
)
class trains_on_in_what_was_kept:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.higher_is_better = patience, higher_is_better
        self.best, self.since_best, self.weights = None, 0, None

    def update(self, value, model):
        if self.best is None or self.is_better(value):
            self.best, self.since_best = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def is_better(self, value):
        return value > self.best if self.higher_is_better else value < self.best

    def restore(self, model):
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            tensor.data = self.weights[name]


EXERCISES = (overfitting_report, early_stopping)
