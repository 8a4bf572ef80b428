"""Is the run healthy? Calibration, three signs of overfitting, early stopping (notebook 10)."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

GAP, PATIENCE, OVERCONFIDENCE = 0.2, 2, 0.05  # nats, evaluations, share


class Reliability(NamedTuple):
    """Predictions by confidence, a row a bin; 0 where a bin is empty.

    share: (B,) of all predictions.  confidence, accuracy: (B,), means over the bin.
    """

    share: Tensor
    confidence: Tensor
    accuracy: Tensor


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 10) -> Reliability:
    """Sort predictions by their confidence, the largest probability, into bins of equal width.

    What a reliability diagram draws; see Guo et al. 2017 (1706.04599), section 2.

    probabilities: (N, C), rows sum to 1.  labels: (N,) integers.  bins: intervals (a, b].
    Raises ValueError for shapes that do not fit, no predictions, rows that do not sum to 1, labels
    outside 0 to C - 1, or bins below 1.
    """
    _check_predictions(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}.")
    confidence, guess = probabilities.double().max(dim=1)
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1  # (N,)

    def summed(values: Tensor) -> Tensor:  # (N,) -> (B,)
        empty = torch.zeros(bins, dtype=torch.float64, device=place.device)
        return empty.index_add_(0, place, values)

    number = summed(torch.ones_like(confidence))
    each = number.clamp(min=1)
    right = (guess == labels).double()
    return Reliability(number / len(labels), summed(confidence) / each, summed(right) / each)


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 10) -> float:
    """How far confidence and accuracy are apart, on average over the predictions.

    Each bin of `reliability` counts |accuracy - mean confidence| with its share of the
    predictions; an empty bin counts nothing. Guo et al. 2017 (1706.04599), eq. 3.

    Arguments and Raises as for `reliability`.  Returns a number from 0 to 1.
    """
    found = reliability(probabilities, labels, bins)
    return (found.share * (found.accuracy - found.confidence).abs()).sum().item()


def calibrating_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T for which softmax(logits / T) has the lowest cross-entropy on held-out predictions.

    Above 1 the model is over-confident. No guess changes, only how sure it is.
    Guo et al. 2017 (1706.04599), section 4.2. The loss is convex in 1 / T, so bisection on the
    sign of its slope finds the minimum; it is looked for between T = 0.001 and 1000.

    logits: (N, C), of texts that the model was not trained on.  labels: (N,) integers.
    Raises ValueError for shapes that do not fit, no predictions, labels outside 0 to C - 1, or
    logits that are not finite.
    """
    if not logits.isfinite().all():
        raise ValueError("logits must be finite; they hold NaN or infinity.")
    scores = logits.detach().double()
    _check_predictions(scores.softmax(dim=1), labels)
    of_label = scores.gather(1, labels[:, None])[:, 0]
    low, high = -3.0, 3.0  # log10 of 1 / T
    for _ in range(60):
        middle = (low + high) / 2
        expected = ((scores * 10**middle).softmax(dim=1) * scores).sum(dim=1)
        low, high = (low, middle) if (expected - of_label).mean() > 0 else (middle, high)
    return 10 ** -((low + high) / 2)


@dataclass(frozen=True)
class OverfittingReport:
    """The three signs, and which of them are there.

    gap: validation minus training loss at the end, in nats.
    since_best: evaluations since the lowest validation loss.
    overconfidence: mean confidence minus accuracy.  calibration_error: see
    `expected_calibration_error`.  signs: names of the signs that are there, none for a healthy run.
    """

    gap: float
    since_best: int
    overconfidence: float
    calibration_error: float
    signs: tuple[str, ...]


def overfitting_report(
    history: Sequence[Mapping[str, float]], probabilities: Tensor, labels: Tensor
) -> OverfittingReport:
    """Look for the three signs of overfitting at the end of a run.

    The sign "gap" is a validation loss 0.2 nats above the training loss; "plateau", a validation
    loss that has not been at its lowest for two evaluations or more; "overconfidence", a mean
    confidence 0.05 above the accuracy. The thresholds are rules of thumb.

    history: one entry an evaluation, with `train_loss` and `validation_loss` in nats.
    probabilities: (N, C) on the validation set, at the end.  labels: (N,).
    Raises ValueError for an empty history, a loss that is not finite, and what
    `expected_calibration_error` raises.
    """
    if not history:
        raise ValueError("history must have at least one evaluation.")
    losses = [float(entry["validation_loss"]) for entry in history]
    last = float(history[-1]["train_loss"])
    if not all(map(math.isfinite, [*losses, last])):
        raise ValueError(f"All losses must be finite, got {[*losses, last]}.")
    error = expected_calibration_error(probabilities, labels)
    confidence, guess = probabilities.double().max(dim=1)
    over = (confidence.mean() - (guess == labels).double().mean()).item()
    gap, since_best = losses[-1] - last, len(losses) - 1 - losses.index(min(losses))
    present = {
        "gap": gap > GAP,
        "plateau": since_best >= PATIENCE,
        "overconfidence": over > OVERCONFIDENCE,
    }
    signs = tuple(name for name, there in present.items() if there)
    return OverfittingReport(gap, since_best, over, error, signs)


class EarlyStopping:
    """Stops a run that no longer gets better, and keeps the weights of its best moment.

    patience: evaluations without an improvement after which to stop.
    higher_is_better: False for losses, True for accuracies.
    min_delta: by how much a value has to be better to count.
    Raises ValueError for a patience below 1 or a negative min_delta.
    """

    def __init__(self, patience: int, higher_is_better: bool = False, min_delta: float = 0.0):
        if patience < 1 or not min_delta >= 0:
            raise ValueError(
                "patience must be at least 1 and min_delta at least 0, got "
                f"{patience} and {min_delta}."
            )
        self.patience, self.sign, self.min_delta = (
            patience,
            1 if higher_is_better else -1,
            min_delta,
        )
        self.best: float | None = None
        self.since_best = 0
        self.weights: dict[str, Tensor] | None = None

    def update(self, value: float, model: nn.Module) -> bool:
        """Record an evaluation; True when it is time to stop.

        Raises ValueError for a value that is NaN.
        """
        if math.isnan(value):
            raise ValueError("The value to watch is NaN.")
        if self.best is None or self.sign * (value - self.best) > self.min_delta:
            self.best, self.since_best = value, 0
            self.weights = copy.deepcopy(
                {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
            )
        else:
            self.since_best += 1
        return self.since_best >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Give a model the best weights back. Raises ValueError before the first update."""
        if self.weights is None:
            raise ValueError("There are no best weights before the first update.")
        model.load_state_dict(self.weights)

    def state_dict(self) -> dict:
        """What a checkpoint needs of it."""
        return {"best": self.best, "since_best": self.since_best, "weights": self.weights}

    def load_state_dict(self, state: Mapping) -> None:
        """Take up where `state_dict` left."""
        self.best, self.since_best = state["best"], state["since_best"]
        self.weights = state["weights"]


def _check_predictions(probabilities: Tensor, labels: Tensor) -> None:
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            "probabilities must be (N, C) and labels (N,), N at least 1, got "
            f"{tuple(probabilities.shape)} and {tuple(labels.shape)}."
        )
    sums = probabilities.double().sum(dim=1)
    if not ((sums - 1).abs() < 1e-2).all() or not (probabilities >= 0).all():
        raise ValueError("Every row of probabilities must sum to 1 and hold nothing below 0.")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(
            f"labels must be from 0 to {probabilities.shape[1] - 1}, got {labels.min().item()} to "
            f"{labels.max().item()}."
        )
