"""Notebook 04's experiments at tiny sizes."""

import functools
import json

import pytest

from course_lib import images
from course_lib.encoders import small_encoder
from course_lib.experiments import results, stability
from course_lib.experiments.contrastive import Task


@pytest.fixture
def tiny(monkeypatch):
    make_encoder = functools.partial(small_encoder, 2)
    tiny = Task(*images.shapes(60, 1), *images.shapes(40, 2), make_encoder)
    monkeypatch.setattr(stability, "task", lambda: tiny)
    monkeypatch.setattr(stability, "BATCH_SIZE", 20)
    monkeypatch.setattr(stability, "BATCH_SIZES", (10, 20, 40))
    monkeypatch.setattr(stability, "PROBE_LABELS", (20, 60))
    return tiny


def test_the_schedules_are_the_articles_three():
    at = {
        name: [f(step, 100) for step in (0, 5, 10, 99)] for name, f in stability.SCHEDULES.items()
    }
    assert at["constant 0.5"] == [0.5] * 4 and at["constant 0.07"] == [0.07] * 4
    assert at["cosine 0.5 to 0.07"] == pytest.approx([0.5, 0.285, 0.07, 0.07])


def test_a_cold_temperature_has_the_larger_gradient_at_first(tiny):
    cold, warm = (
        stability.schedule_run(tiny, name, 0.01, seed=0, steps=3)
        for name in ("constant 0.07", "constant 0.5")
    )
    assert len(cold["norms"]) == 3 and cold["norms"][0] > 2 * warm["norms"][0]
    assert list(cold["accuracy"]) == ["20", "60"]


def test_the_warmed_schedule_starts_like_the_warm_one(tiny):
    warmed, warm = (
        stability.schedule_run(tiny, name, 0.01, seed=0, steps=3)["norms"][0]
        for name in ("cosine 0.5 to 0.07", "constant 0.5")
    )
    assert warmed == warm


def test_an_unknown_schedule_is_refused_by_name(tiny):
    with pytest.raises(ValueError, match="constant 0.5, .*got 'hot'"):
        stability.schedule_run(tiny, "hot", 0.1, 0)


def test_schedules_are_compared_at_every_learning_rate_and_seed(tiny, tmp_path):
    out = tmp_path / "schedules.json"
    result = stability.compare_schedules(out, steps=2, seeds=2, progress=False)
    made = [(run["schedule"], run["learning_rate"], run["seed"]) for run in result["runs"]]
    assert len(set(made)) == len(made) == 2 * len(stability.LEARNING_RATES) * 3
    assert json.loads(out.read_text("utf-8")) == result
    assert stability.compare_schedules(out, steps=2, seeds=2, progress=False) == result


def test_batch_sizes_are_compared_at_equal_steps_and_at_equal_epochs(tiny, tmp_path):
    result = stability.compare_batch_sizes(tmp_path / "sizes.json", 4, seeds=1, progress=False)
    made = [(run["batch_size"], run["steps"]) for run in result["runs"]]
    assert made == [(10, 4), (10, 8), (20, 4), (40, 2), (40, 4)]


def test_the_shipped_schedules_are_complete():
    result = results.shipped(stability.SHIPPED_SCHEDULES)
    assert len(result["runs"]) == 3 * 3 * len(stability.LEARNING_RATES)
    for name in stability.SCHEDULES:
        for rate in stability.LEARNING_RATES:
            runs = results.runs_of(result, schedule=name, learning_rate=rate)
            assert [run["seed"] for run in runs] == [0, 1, 2]
            for run in runs:
                assert len(run["norms"]) == stability.EARLY and min(run["norms"]) > 0
                assert all(0.08 < accuracy < 1 for accuracy in run["accuracy"].values())


def test_the_shipped_batch_sizes_are_complete():
    result = results.shipped(stability.SHIPPED_BATCH_SIZES)
    steps = result["settings"]["equal_steps"]
    for size in stability.BATCH_SIZES:
        for taken in {steps, steps * stability.BATCH_SIZE // size}:
            runs = results.runs_of(result, batch_size=size, steps=taken)
            assert [run["seed"] for run in runs] == [0, 1, 2]
            assert all(0.08 < a < 1 for run in runs for a in run["accuracy"].values())
