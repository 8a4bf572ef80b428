"""Calibration, the report on overfitting, and early stopping."""

import math

import pytest
import torch
from torch import nn

from course_lib.diagnostics import (
    EarlyStopping,
    calibrating_temperature,
    expected_calibration_error,
    overfitting_report,
    reliability,
)


def binned_by_hand(probabilities, labels, bins):
    """Guo et al. 2017, eq. 3, bin by bin."""
    rows = [(max(p), p.index(max(p)) == y) for p, y in zip(probabilities, labels, strict=True)]
    total = 0.0
    for b in range(bins):
        inside = [row for row in rows if b / bins < row[0] <= (b + 1) / bins]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            total += len(inside) / len(rows) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("bins", [1, 5, 10, 15])
def test_the_calibration_error_is_the_papers_formula(bins):
    generator = torch.Generator().manual_seed(bins)
    logits = 3 * torch.randn(200, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (200,), generator=generator)
    probabilities = logits.softmax(dim=1)
    wanted = binned_by_hand(probabilities.tolist(), labels.tolist(), bins)
    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(wanted)


def test_a_calibrated_and_an_overconfident_predictor():
    half = torch.tensor([[0.5, 0.5]] * 10)
    labels = torch.tensor([0, 1] * 5)
    assert expected_calibration_error(half, labels) == pytest.approx(0)
    sure = torch.tensor([[1.0, 0.0]] * 10)
    assert expected_calibration_error(sure, labels) == pytest.approx(0.5)
    assert expected_calibration_error(sure, torch.zeros(10, dtype=torch.long)) == 0


@pytest.mark.parametrize(
    "probabilities, labels, bins, message",
    [
        (torch.ones(3, 2), torch.zeros(3).long(), 10, "must sum to 1"),
        (torch.tensor([[1.5, -0.5]]), torch.zeros(1).long(), 10, "nothing below 0"),
        (torch.full((3, 2), 0.5), torch.zeros(2).long(), 10, r"got \(3, 2\) and \(2,\)"),
        (torch.zeros(0, 2), torch.zeros(0).long(), 10, "N at least 1"),
        (torch.full((1, 2), 0.5), torch.tensor([2]), 10, "from 0 to 1, got 2 to 2"),
        (torch.full((1, 2), 0.5), torch.tensor([0]), 0, "bins must be at least 1, got 0"),
    ],
)
def test_predictions_that_cannot_be_are_refused(probabilities, labels, bins, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(probabilities, labels, bins)


def test_the_bins_of_a_reliability_diagram():
    rows = [[0.75, 0.25], [0.8, 0.2], [0.4, 0.6], [1.0, 0.0]]
    probabilities = torch.tensor(rows, dtype=torch.float64)
    found = reliability(probabilities, torch.tensor([0, 1, 1, 0]), bins=5)
    assert found.share.tolist() == pytest.approx([0, 0, 0.25, 0.5, 0.25])
    assert found.confidence.tolist() == pytest.approx([0, 0, 0.6, 0.775, 1])
    assert found.accuracy.tolist() == pytest.approx([0, 0, 1, 0.5, 1])


def overconfident(scale, number=4000, seed=0):
    """Logits `scale` times those that the labels were drawn from."""
    generator = torch.Generator().manual_seed(seed)
    true = 2 * torch.randn(number, 3, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(true.softmax(dim=1), 1, generator=generator)[:, 0]
    return scale * true, labels


@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_the_calibrating_temperature_is_a_minimum_and_near_the_scale_of_the_logits(scale):
    logits, labels = overconfident(scale)
    found = calibrating_temperature(logits, labels)
    assert found == pytest.approx(scale, rel=0.1)
    best = nn.functional.cross_entropy(logits / found, labels)
    for factor in (0.99, 1.01):  # an oracle that knows no slope
        assert nn.functional.cross_entropy(logits / (factor * found), labels) > best


def test_a_calibrated_model_is_calibrated_on_other_texts_too():
    logits, labels = overconfident(7.0)
    temperature = calibrating_temperature(logits[:2000], labels[:2000])
    before, after = (
        expected_calibration_error(scaled.softmax(dim=1), labels[2000:])
        for scaled in (logits[2000:], logits[2000:] / temperature)
    )
    assert before > 0.1 and after < 0.03


def test_the_calibrating_temperature_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="must be finite"):
        calibrating_temperature(torch.tensor([[1.0, math.inf]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="from 0 to 1, got 2 to 2"):
        calibrating_temperature(torch.zeros(1, 2), torch.tensor([2]))


def history(train, validation):
    pairs = zip(train, validation, strict=True)
    return [{"train_loss": t, "validation_loss": v} for t, v in pairs]


HONEST = torch.tensor([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 1])


def test_a_healthy_run_has_no_sign():
    report = overfitting_report(history([0.6, 0.4, 0.3], [0.6, 0.45, 0.4]), *HONEST)
    assert report.signs == () and report.since_best == 0
    assert report.gap == pytest.approx(0.1) and report.overconfidence == pytest.approx(0)


def test_each_sign_is_found_by_itself():
    gap = overfitting_report(history([0.6, 0.1], [0.6, 0.5]), *HONEST)
    assert gap.signs == ("gap",)
    plateau = overfitting_report(history([0.6, 0.5, 0.45], [0.5, 0.55, 0.56]), *HONEST)
    assert plateau.signs == ("plateau",) and plateau.since_best == 2
    sure = torch.tensor([[0.95, 0.05]] * 4), HONEST[1]
    over = overfitting_report(history([0.6], [0.6]), *sure)
    assert over.signs == ("overconfidence",)
    assert over.overconfidence == pytest.approx(0.2) == over.calibration_error


def test_histories_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="at least one evaluation"):
        overfitting_report([], *HONEST)
    with pytest.raises(ValueError, match="must be finite, got .*nan"):
        overfitting_report(history([0.5], [math.nan]), *HONEST)


@pytest.mark.parametrize("higher, values", [(False, [3, 1, 2, 2]), (True, [1, 3, 2, 2])])
def test_early_stopping_counts_from_the_best_and_gives_its_weights_back(higher, values):
    model = nn.Linear(1, 1)
    stopping = EarlyStopping(patience=2, higher_is_better=higher)
    said = []
    for step, value in enumerate(values):
        nn.init.constant_(model.weight, step)
        said.append(stopping.update(value, model))
    assert said == [False, False, False, True]
    stopping.restore(model)
    assert model.weight.item() == 1 and stopping.best == values[1]


def test_an_improvement_has_to_be_large_enough():
    model = nn.Linear(1, 1)
    stopping = EarlyStopping(patience=1, min_delta=0.1)
    assert not stopping.update(1.0, model)
    assert stopping.update(0.95, model)


def test_early_stopping_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="got 0 and 0.0"):
        EarlyStopping(0)
    stopping = EarlyStopping(1)
    with pytest.raises(ValueError, match="before the first update"):
        stopping.restore(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="NaN"):
        stopping.update(math.nan, nn.Linear(1, 1))
