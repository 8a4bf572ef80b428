"""Right answers of other wordings, and known mistakes in other words, for `diagnostics`."""

import copy
import math

import numpy as np
import torch

THRESHOLDS = {"gap": 0.2, "since_best": 1.5, "overconfidence": 0.05}
NAMES = {"gap": "gap", "since_best": "plateau", "overconfidence": "overconfidence"}


def report(gap, since_best, overconfidence, error, thresholds=THRESHOLDS):
    numbers = {"gap": gap, "since_best": since_best, "overconfidence": overconfidence}
    return numbers | {
        "calibration_error": error,
        "signs": [NAMES[name] for name, limit in thresholds.items() if numbers[name] > limit],
    }


def last_gap(history):
    return history[-1]["validation_loss"] - history[-1]["train_loss"]


def since_lowest(history):
    losses = torch.tensor([entry["validation_loss"] for entry in history], dtype=torch.float64)
    return len(history) - 1 - int(losses.argmin())


# overfitting_report, right


def in_buckets(history, probabilities, labels):
    confidence, guess = probabilities.max(dim=-1)
    right = guess.eq(labels).to(confidence.dtype)
    place = torch.bucketize(confidence, torch.linspace(0.1, 0.9, 9, dtype=confidence.dtype))
    error = torch.tensor(0.0)
    for bucket in place.unique():
        inside = place == bucket
        weight = inside.sum() / len(labels)
        error = error + weight * (right[inside].mean() - confidence[inside].mean()).abs()
    overconfidence = confidence.mean() - right.mean()
    return report(last_gap(history), since_lowest(history), overconfidence, error)


def in_numpy(history, probabilities, labels):
    p, y = probabilities.numpy().astype(float), labels.numpy()
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    place = np.clip(np.ceil(confidence * 10 - 1e-9).astype(int) - 1, 0, 9)
    off = np.bincount(place, weights=confidence - right, minlength=10)
    return report(
        np.float64(last_gap(history)),
        since_lowest(history),
        (confidence - right).mean(),
        np.abs(off).sum() / len(y),
    )


def with_plain_python(history, probabilities, labels):
    best, when = math.inf, 0
    for number, entry in enumerate(history):
        if entry["validation_loss"] < best:
            best, when = entry["validation_loss"], number
    bins = {}
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        sure = max(row)
        hits = bins.setdefault(min(int(sure * 10), 9), [])
        hits.append((sure, 1.0 if row.index(sure) == label else 0.0))
    error = sure_in_sum = right_in_sum = 0.0
    for members in bins.values():
        confidence = sum(sure for sure, _ in members) / len(members)
        accuracy = sum(hit for _, hit in members) / len(members)
        error += len(members) / len(labels) * abs(accuracy - confidence)
        sure_in_sum += sum(sure for sure, _ in members)
        right_in_sum += sum(hit for _, hit in members)
    over = (sure_in_sum - right_in_sum) / len(labels)
    return report(last_gap(history), len(history) - 1 - when, over, error)


# overfitting_report, wrong


def reporting(gap=last_gap, since=since_lowest, over=None, error=None, thresholds=THRESHOLDS):
    """An answer that differs from a right one in one of its parts."""

    def answer(history, probabilities, labels):
        right = in_buckets(history, probabilities, labels)
        confidence, guess = probabilities.max(dim=1)
        hit = (guess == labels).float()
        return report(
            gap(history),
            since(history),
            over(confidence, hit) if over else float(right["overconfidence"]),
            error(confidence, hit) if error else float(right["calibration_error"]),
            thresholds,
        )

    return answer


def binned(combine, empty=0.0):
    def error(confidence, hit):
        edges = torch.arange(11) / 10
        rows = []
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            inside = (confidence > low) & (confidence <= high)
            if inside.any() or math.isnan(empty):
                rows.append((confidence[inside].mean() - hit[inside].mean(), inside.float().mean()))
        return combine(*map(torch.stack, zip(*rows, strict=True)))

    return error


def divides_by_zero(history, probabilities, labels):
    right = with_plain_python(history, probabilities, labels)
    rows = [[] for _ in range(10)]
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        rows[min(int(10 * max(row)), 9)].append((max(row), row[label] == max(row)))
    error = sum(
        abs(sum(sure - hit for sure, hit in members) / len(members)) * len(members) / len(labels)
        for members in rows
    )
    return right | {"calibration_error": error}


# EarlyStopping, right


class CopiesTheModel:
    def __init__(self, patience, higher_is_better=False):
        self.patience, self.sign = patience, -1 if higher_is_better else 1
        self.lowest, self.waited = math.inf, 0

    def update(self, value, model):
        if self.sign * value < self.lowest:
            self.lowest, self.waited, self.model = self.sign * value, 0, copy.deepcopy(model)
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore(self, model):
        model.load_state_dict(self.model.state_dict())


class ClonesTensors:
    def __init__(self, patience, higher_is_better=False):
        self.patience = patience
        self.higher_is_better = higher_is_better
        self.values = []
        self.kept = {}

    def update(self, value, model):
        self.values.append(float(value))
        choose = max if self.higher_is_better else min
        best = self.values.index(choose(self.values))
        if best == len(self.values) - 1:
            self.kept = {name: t.detach().clone() for name, t in model.state_dict().items()}
        return len(self.values) - 1 - best >= self.patience

    @torch.no_grad()
    def restore(self, model):
        for name, tensor in model.state_dict().items():
            tensor.copy_(self.kept[name])


class CountsDown:
    def __init__(self, patience, higher_is_better=False):
        self.patience = self.left = patience
        self.better = (lambda a, b: a > b) if higher_is_better else (lambda a, b: a < b)

    def update(self, value, model):
        value = torch.as_tensor(value, dtype=torch.float64)
        if not hasattr(self, "best") or self.better(value, self.best):
            self.best, self.left = value, self.patience
            everything = [*model.parameters(), *model.buffers()]
            self.copies = [tensor.detach().clone() for tensor in everything]
        else:
            self.left -= 1
        return torch.tensor(self.left <= 0)

    def restore(self, model):
        live = [*model.parameters(), *model.buffers()]
        for tensor, kept in zip(live, self.copies, strict=True):
            tensor.data.copy_(kept)


# EarlyStopping, wrong: variations of a right answer


class ShallowCopy(CopiesTheModel):
    def update(self, value, model):
        stop = super().update(value, model)
        if self.waited == 0:
            self.kept = dict(model.state_dict())
        return stop

    def restore(self, model):
        model.load_state_dict(self.kept)


class RestoresNothing(CopiesTheModel):
    def restore(self, model):
        model = self.model  # noqa: F841


class KeepsEveryTime(CopiesTheModel):
    def update(self, value, model):
        stop = super().update(value, model)
        self.model = copy.deepcopy(model)
        return stop


class ComparesWithThePreviousOne(CopiesTheModel):
    def update(self, value, model):
        stop = super().update(value, model)
        self.lowest = self.sign * value
        return stop


class SignForgotten(CopiesTheModel):
    def __init__(self, patience, higher_is_better=False):
        super().__init__(patience, not higher_is_better)


class OnlyParameters(ClonesTensors):
    @torch.no_grad()
    def restore(self, model):
        for name, parameter in model.named_parameters():
            parameter.copy_(self.kept[name])


class NotStrictlyBetter(CopiesTheModel):
    def update(self, value, model):
        if self.sign * value == self.lowest:
            self.waited = -1
        return super().update(value, model)


RIGHT = {
    "overfitting_report": [in_buckets, in_numpy, with_plain_python],
    "EarlyStopping": [CopiesTheModel, ClonesTensors, CountsDown],
}
VARIANTS = {
    "overfitting_report": {
        "gap_reversed": [reporting(gap=lambda history: -last_gap(history))],
        "gap_of_absolute_value": [reporting(gap=lambda history: abs(last_gap(history)))],
        "gap_at_the_best": [
            reporting(
                gap=lambda history: (
                    min(entry["validation_loss"] for entry in history) - history[-1]["train_loss"]
                )
            )
        ],
        "counts_one_too_many": [reporting(since=lambda history: since_lowest(history) + 1)],
        "underconfidence": [reporting(over=lambda confidence, hit: hit.mean() - confidence.mean())],
        "unweighted_bins": [
            reporting(error=binned(lambda off, share: off.abs().mean())),
            reporting(error=binned(lambda off, share: off.abs().sum() / 10)),
        ],
        "signed_bins": [
            reporting(error=binned(lambda off, share: (off * share).sum())),
            reporting(error=lambda confidence, hit: (confidence.mean() - hit.mean()).abs()),
        ],
        "worst_bin": [reporting(error=binned(lambda off, share: off.abs().max()))],
        "empty_bins_are_nan": [
            reporting(error=binned(lambda off, share: (off.abs() * share).sum(), math.nan)),
            divides_by_zero,
        ],
        "flags_any_gap": [reporting(thresholds=THRESHOLDS | {"gap": 0.01})],
        "flags_the_first_bad_evaluation": [reporting(thresholds=THRESHOLDS | {"since_best": 0})],
        "waits_for_three": [reporting(thresholds=THRESHOLDS | {"since_best": 2})],
        "flags_a_healthy_run": [
            reporting(thresholds={"gap": 0.05, "since_best": 0.5, "overconfidence": 0.05})
        ],
    },
    "EarlyStopping": {
        "keeps_the_last": [ShallowCopy, RestoresNothing, KeepsEveryTime],
        "counts_from_the_value_before": [ComparesWithThePreviousOne],
        "wrong_sign": [SignForgotten],
        "forgets_the_buffers": [OnlyParameters],
        "equal_counts_as_better": [NotStrictlyBetter],
    },
}
