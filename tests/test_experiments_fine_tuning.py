"""Notebook 10's experiments, at tiny sizes."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from course_lib import bert, language
from course_lib.experiments import fine_tuning as experiment
from course_lib.experiments.results import runs_of, shipped
from course_lib.lora import lora_layers


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    normal = experiment.settings_for
    monkeypatch.setattr(experiment, "TEST_TEXTS", 60)
    monkeypatch.setattr(
        experiment,
        "settings_for",
        lambda *arguments: dataclasses.replace(normal(*arguments), epochs=2),
    )


@pytest.mark.parametrize("name", experiment.GENERATED)
def test_a_task_is_drawn_by_its_seed_and_tested_on_the_same_texts(name):
    first, again, other = (experiment.task(name, seed, 40) for seed in (0, 0, 1))
    assert first.texts == again.texts and torch.equal(first.labels, again.labels)
    assert first.texts != other.texts and first.test_texts == other.test_texts
    assert len(first.texts) == len(first.labels) == 40 and len(first.test_texts) == 60
    assert 0.8 < first.bayes <= 1


def test_the_order_of_sentences_says_nothing_about_the_rest():
    """Else the task would be solved by the topic: labels and documents must not share chance."""
    labels = experiment.GENERATED["order"](2000, 0)[1].float()
    documents = language.sample_documents(2000, 0)
    for what in ("domain", "sentiment", "topic"):
        values = [getattr(document, what) for document in documents]
        for value in set(values):
            chosen = torch.tensor([one == value for one in values])
            # Four standard errors of a tossed coin.
            assert abs(labels[chosen].mean() - 0.5) < 2 / chosen.sum() ** 0.5, value
    assert 0.45 < labels.float().mean() < 0.55


def test_every_method_learns_from_a_few_texts_and_is_measured():
    given = experiment.task("sentiment", 0, 32)
    for method in experiment.METHODS:
        found = experiment.accuracy_of(method, given, 32)
        assert 0 <= found <= 1
    assert experiment.accuracy_of("probe", given, 32) > 0.7


def test_the_methods_differ_in_what_they_train():
    shipped_weights = bert.load(head=None)[0].state_dict()
    models = {name: experiment.classifier(name, 0)[0] for name in ("scratch", "LoRA", "full")}
    trainable = {
        name: {key for key, p in model.named_parameters() if p.requires_grad}
        for name, model in models.items()
    }
    assert trainable["full"] == {key for key, _ in models["full"].named_parameters()}
    assert len(lora_layers(models["LoRA"])) == 8
    assert all(
        key.endswith((".A", ".B")) or "pooler" in key or "classifier" in key
        for key in trainable["LoRA"]
    )
    name = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(models["full"].bert.state_dict()[name], shipped_weights[name])
    assert not torch.equal(models["scratch"].bert.state_dict()[name], shipped_weights[name])


def test_measurements_are_written_run_by_run_and_go_on(tmp_path):
    wanted = {"sentiment": (16,), "order": (16,)}
    out = tmp_path / "out.json"
    first = experiment.compare_methods(out, {"sentiment": (16,)}, seeds=1, progress=False)
    both = experiment.compare_methods(out, wanted, seeds=1, progress=False)
    assert both["runs"][:4] == first["runs"] and len(both["runs"]) == 8
    assert json.loads(out.read_text()) == both


@pytest.mark.parametrize(
    "accuracy, wanted", [(0.6, 10), (0.75, 10**1.5), (0.8, 100), (0.9, 1000), (0.95, None)]
)
def test_labels_are_read_off_a_curve(accuracy, wanted):
    found = experiment.labels_to_reach(accuracy, (10, 100, 1000), (0.7, 0.8, 0.9))
    assert found == (None if wanted is None else pytest.approx(wanted))


@pytest.mark.parametrize("patience", [None, 1])
def test_predictions_of_a_run_that_is_watched(patience):
    found = experiment.trained_to_the_end(labels=16, epochs=3, patience=patience)
    assert found.logits.shape == (60, 2) and found.validation_logits.shape == (500, 2)
    assert len(found.history) == 3 if patience is None else len(found.history) <= 3
    assert {"train_loss", "validation_loss", "accuracy"} <= found.history[0].keys()


def test_the_mystery_is_balanced_and_no_direction_of_the_features():
    given = experiment.mystery_task()
    assert (len(given.texts), len(given.test_texts)) == (150, 300)
    assert 0.4 < given.labels.float().mean() < 0.6
    assert experiment.mystery_task(20).texts == given.texts[:20]
    with pytest.raises(ValueError, match="from 1 to 150, got 151"):
        experiment.mystery_task(151)


def test_what_is_not_there_is_named():
    with pytest.raises(ValueError, match="got 'mood' at 'lite'"):
        experiment.task("mood", 0)
    with pytest.raises(ValueError, match="got 'order' at 'full'"):
        experiment.task("order", 0, scale="full")
    given = experiment.task("order", 0, 8)
    with pytest.raises(ValueError, match="from 1 to 8, got 9"):
        experiment.accuracy_of("probe", given, 9)
    with pytest.raises(ValueError, match="got 'luck'"):
        experiment.accuracy_of("luck", given, 8)


def test_the_shipped_result_is_complete():
    result = shipped(experiment.SHIPPED)
    for name, numbers in experiment.LABELS.items():
        for method in experiment.METHODS:
            for labels in numbers:
                runs = runs_of(result, task=name, method=method, labels=labels)
                assert [run["seed"] for run in runs] == [0, 1, 2]
                assert np.isfinite([run["accuracy"] for run in runs]).all()
