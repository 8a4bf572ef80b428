"""Notebook 06's experiments at tiny sizes."""

import numpy as np
import pytest

from course_lib.experiments import layerwise
from course_lib.trainer import Settings

TINY = {"epochs": 1, "batch_size": 4}


@pytest.fixture(autouse=True)
def few_tests(monkeypatch):
    monkeypatch.setattr(layerwise, "TEST_TEXTS", 20)


def test_reviews_are_tokenised_and_drawn_by_the_seed():
    train, test = layerwise.reviews(0, 8)
    assert len(train) == 8 and len(test) == 20
    assert {"input_ids", "labels"} == train[0].keys() and train[0]["labels"] in (0, 1)
    assert layerwise.reviews(1, 8)[0] != train and layerwise.reviews(1, 8)[1] == test


def test_the_lower_layers_move_less_with_discriminative_rates():
    texts = layerwise.reviews(0, 8)
    uniform, discriminative = (
        layerwise.fine_tuned(*texts, Settings(learning_rate=1e-3, layer_decay=decay, **TINY))
        for decay in (1.0, 10.0)
    )
    assert len(uniform.drift) == 2 and len(uniform.by_layer) == 3
    assert discriminative.by_layer[0] < 0.3 * uniform.by_layer[0]
    assert discriminative.by_layer[2] == pytest.approx(uniform.by_layer[2], rel=0.3)
    assert 0 <= uniform.accuracy <= 1


def test_the_first_step_of_a_warm_up_moves_nothing():
    starts = {"cold": layerwise.Start(1e-3), "warm": layerwise.Start(1e-3, warmup=0.5)}
    found = layerwise.warmup_drift(starts, seeds=1, labels=8, **TINY)
    assert found.drift["cold"].shape == (1, 2) and found.accuracy["warm"].shape == (1,)
    assert found.drift["warm"][0, 0] == 0 < found.drift["cold"][0, 0]


def test_a_trained_head_changes_the_run_but_not_the_length_of_its_first_step():
    texts = layerwise.reviews(0, 8)
    settings = Settings(learning_rate=1e-3, warmup_fraction=0.0, **TINY)
    random, trained = (layerwise.fine_tuned(*texts, settings, epochs) for epochs in (0, 2))
    assert trained.drift != random.drift  # another head, so other gradients
    assert trained.drift[0] == pytest.approx(random.drift[0], rel=0.3)  # Adam's step is as long
    assert all(moved > 0 for moved in trained.by_layer)


def test_a_sweep_has_a_row_a_seed_and_a_column_a_rate():
    sweep = layerwise.rate_sweep((1e-3, 1e-2), (1.0, 2.6), seeds=2, labels=8, **TINY)
    assert {decay: table.shape for decay, table in sweep.accuracy.items()} == {
        1.0: (2, 2),
        2.6: (2, 2),
    }
    assert sweep.by_layer[1.0].shape == (2, 2, 3)
    assert (sweep.by_layer[1.0][:, 1] > sweep.by_layer[1.0][:, 0]).all()
    assert np.isfinite(sweep.accuracy[2.6]).all()
