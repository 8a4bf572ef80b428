"""Notebook 05's experiments, at tiny sizes."""

import json

import numpy as np
import pytest
import torch

from course_lib.experiments import freezing as experiment
from course_lib.experiments.results import runs_of, shipped


@pytest.fixture(scope="module")
def encoder():
    return experiment.pretrained_encoder(pictures=256, steps=6)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(experiment, "steps_for", lambda labels: 8)
    monkeypatch.setattr(experiment, "TEST", 100)


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before, module):
    return {
        name
        for name, tensor in module.state_dict().items()
        if not torch.equal(tensor, before[name])
    }


def stages(names):
    return {name.split(".")[1] for name in names}


@pytest.mark.parametrize(
    "strategy, trained",
    [
        ("freeze bottom", {"2"}),
        ("freeze middle", {"0", "2"}),
        ("gradual", {"0", "1", "2"}),
        ("full", {"0", "1", "2"}),
        ("discriminative", {"0", "1", "2"}),
    ],
)
def test_a_strategy_trains_its_stages_and_leaves_the_encoder_it_was_given(
    encoder, strategy, trained
):
    before = weights(encoder)
    given = experiment.target("smaller shapes", labels=40)
    model = experiment.fine_tuned(encoder, given, 40, strategy)
    assert stages(changed(before, model[0])) == trained
    assert not changed(before, encoder)


def test_from_scratch_nothing_of_the_encoder_is_left(encoder):
    given = experiment.target("textures", labels=40)
    one, other = (experiment.fine_tuned(e, given, 40, "scratch") for e in (encoder, None))
    assert not changed(weights(one), other)


def test_gradual_unfreezing_starts_with_the_head_alone(encoder, monkeypatch):
    seen = []
    only = experiment._train_only
    monkeypatch.setattr(
        experiment,
        "_train_only",
        lambda model, layers, chosen: (seen.append(chosen), only(model, layers, chosen)),
    )
    experiment.fine_tuned(encoder, experiment.target("outlines", labels=40), 40, "gradual")
    assert seen == [[3], [2, 3], [1, 2, 3], [0, 1, 2, 3]]


def test_discriminative_rates_move_the_bottom_least(encoder):
    given = experiment.target("smaller shapes", labels=64)
    model = experiment.fine_tuned(encoder, given, 64, "discriminative")
    moved = [
        experiment._distance(live, start)
        for live, start in zip(model[0].stages, encoder.stages, strict=True)
    ]
    uniform = experiment.fine_tuned(encoder, given, 64, "full")
    assert moved[0] < 0.5 * experiment._distance(uniform[0].stages[0], encoder.stages[0])


def test_a_strong_anchor_ends_where_freezing_does(encoder):
    sweep = experiment.anchor_sweep(encoder, labels=40, strengths=(0.0, 0.1, 100.0), seeds=1)
    free, held, fixed = sweep.moved[0]
    assert free > held > fixed and fixed < 0.02
    assert sweep.accuracy.shape == (1, 3) and sweep.frozen.shape == (1,)


@pytest.mark.parametrize(
    "second, wanted", [([0, 2, 3], 10), ([0, 1, 2], 100), ([2, 2, 2], None), ([0, 0, 0], None)]
)
def test_where_one_method_overtakes_another(second, wanted):
    found = experiment.crossing([1, 100, 10_000], [1, 1, 1], second)
    assert found == (None if wanted is None else pytest.approx(wanted))


def test_what_is_measured_is_written_run_by_run(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "SOURCE", (128, 2))
    monkeypatch.setattr(experiment, "LABELS", (30,))
    monkeypatch.setattr(experiment, "STRATEGIES", ("probe", "full"))
    monkeypatch.setattr(experiment, "TARGETS", {"textures": experiment.textures})
    result = experiment.compare_strategies(tmp_path / "out.json", seeds=1, progress=False)
    assert [run["strategy"] for run in result["runs"]] == ["probe", "full"]
    assert all(0 <= run["accuracy"] <= 1 for run in result["runs"])
    assert json.loads((tmp_path / "out.json").read_text()) == result


def test_what_is_not_there_is_named(encoder):
    with pytest.raises(ValueError, match="got 'faces'"):
        experiment.target("faces")
    with pytest.raises(ValueError, match="got 'guess'"):
        experiment.fine_tuned(encoder, experiment.target("textures", labels=10), 10, "guess")


def test_the_shipped_result_is_complete():
    result = shipped(experiment.SHIPPED_STRATEGIES)
    for name in experiment.TARGETS:
        for strategy in experiment.STRATEGIES:
            for labels in experiment.LABELS:
                runs = runs_of(result, target=name, strategy=strategy, labels=labels)
                assert [run["seed"] for run in runs] == [0, 1, 2]
                assert np.isfinite([run["accuracy"] for run in runs]).all()
