"""Notebook 03's experiments at tiny sizes."""

import functools
import json

import pytest
import torch
from torch import nn

from course_lib import images
from course_lib.encoders import small_encoder
from course_lib.experiments import contrastive, results
from course_lib.experiments.contrastive import (
    FEATURES,
    MOCO_SETTINGS,
    Task,
    constant,
    features,
    moco_run,
    simclr_run,
    supervised_run,
    untrained,
)


@pytest.fixture
def tiny():
    """Sixty pictures and an encoder of 1 200 parameters."""
    make_encoder = functools.partial(small_encoder, 2)
    return Task(*images.shapes(60, 1), *images.shapes(40, 2), make_encoder)


def test_the_lite_task_is_what_its_docstring_says():
    lite = contrastive.task()
    assert lite.images.shape == (4096, 3, 16, 16) and lite.test_images.shape == (2000, 3, 16, 16)
    assert lite.make_encoder().dim == 256
    with pytest.raises(ValueError, match="lite or full, got 'huge'"):
        contrastive.task("huge")


def test_the_full_task_trains_resnet18_on_cifar10(monkeypatch):
    """On pictures that only look like CIFAR-10; `images.cifar10` has tests of its own."""
    drawn = torch.Generator().manual_seed(0)
    pictures = torch.rand(12, 3, 32, 32, generator=drawn), torch.arange(12) % 10
    monkeypatch.setattr(contrastive, "cifar10", lambda split: pictures)
    full = contrastive.task("full")
    model = untrained(full, 0)
    [step] = simclr_run(model, full.images, 1, constant(0.5), batch_size=4)
    assert step.grad_norm > 0 and features(model[0], full.test_images).shape == (12, 512)


@pytest.mark.parametrize("method", [simclr_run, functools.partial(moco_run, queue_size=64)])
def test_a_run_learns_and_repeats_itself(tiny, method):
    def losses(seed):
        model = untrained(tiny, 0)
        run = method(model, tiny.images, 30, constant(0.2), batch_size=20, seed=seed)
        return [step.loss for step in run]

    first = losses(5)
    late = first[20:] if method is simclr_run else first[25:]
    early = first[:5] if method is simclr_run else first[5:10]  # MoCo's queue fills up at first
    assert sum(late) / len(late) < sum(early) / len(early)
    assert losses(5) == first
    assert losses(6) != first


def test_a_run_counts_its_steps_and_measures_the_whole_gradient(tiny):
    model = untrained(tiny, 0)
    steps = []
    for step in simclr_run(model, tiny.images, 3, constant(0.2), batch_size=10):
        squares = sum(parameter.grad.square().sum() for parameter in model.parameters())
        assert step.grad_norm == pytest.approx(float(squares) ** 0.5, rel=1e-5)
        steps.append(step.number)
    assert steps == [0, 1, 2]


def test_the_temperature_of_each_step_is_asked_for(tiny):
    asked = []

    def schedule(step, total):
        asked.append((step, total))
        return 0.5

    list(simclr_run(untrained(tiny, 0), tiny.images, 3, schedule, batch_size=10))
    assert asked == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize("size", [1, 61])
def test_batches_that_cannot_be_are_refused(tiny, size):
    with pytest.raises(ValueError, match=f"from 2 to .* 60, got {size}"):
        next(simclr_run(untrained(tiny, 0), tiny.images, 1, constant(0.2), batch_size=size))


def test_a_run_that_is_no_longer_finite_stops_with_a_sentence(tiny):
    model = untrained(tiny, 0)
    with torch.no_grad():
        model[1][2].bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite at step 0"):
        next(simclr_run(model, tiny.images, 1, constant(0.2), batch_size=10))


def test_moco_trains_queries_only_and_moves_its_own_keys(tiny):
    model = untrained(tiny, 0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    list(moco_run(model, tiny.images, 4, constant(0.2), batch_size=20, queue_size=40))
    changed = [not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)]
    assert all(changed)


def test_mocos_keys_belong_to_their_queries_although_they_were_shuffled(tiny, monkeypatch):
    """With views that are the pictures themselves and m = 0, a key is its query."""
    seen = []

    def recorded(queries, keys, queue, temperature):
        unit = nn.functional.normalize(queries.detach(), dim=1)
        seen.append((unit * keys).sum(dim=1))
        return contrastive.nt_xent(queries, keys, temperature)

    monkeypatch.setattr(contrastive, "moco_loss", recorded)
    settings = {"batch_size": 20, "queue_size": 40, "momentum": 0.0, "groups": 1}
    settings["make_views"] = lambda pictures, _: (pictures, pictures)
    list(moco_run(untrained(tiny, 0), tiny.images, 3, constant(0.2), **settings))
    assert (torch.cat(seen) > 0.999).all()


def test_features_are_those_of_evaluation_mode_and_leave_the_mode(tiny):
    encoder = untrained(tiny, 0)[0]
    statistics = encoder.stages[0].bn1.running_mean.clone()
    whole = features(encoder, tiny.images)
    assert encoder.training and torch.equal(statistics, encoder.stages[0].bn1.running_mean)
    torch.testing.assert_close(features(encoder, tiny.images[:7]), whole[:7])
    assert whole.shape == (60, encoder.dim) and not whole.requires_grad


def test_supervised_training_fits_a_few_labels(tiny):
    model = nn.Sequential(tiny.make_encoder(), nn.Linear(32, 10))
    steps = list(supervised_run(model, tiny.images[:10], tiny.labels[:10], 60, seed=1))
    assert steps[-1].loss < 0.5 * steps[0].loss


@pytest.mark.parametrize("name", FEATURES)
def test_each_kind_of_features_has_an_accuracy_per_number_of_labels(tiny, name):
    accuracy = contrastive.measure_features(tiny, name, seed=0, steps=2, labels=(20, 60))
    assert list(accuracy) == ["20", "60"] and all(0 <= a <= 1 for a in accuracy.values())


def test_what_an_encoder_passes_on_is_remembered_and_what_a_head_drops_is_not(tiny):
    """The encoder hands the pixels on; the head keeps only whether there is colour."""

    def colourfulness(pixels):
        colours = pixels.unflatten(1, (3, -1))
        return (colours - colours.mean(dim=1, keepdim=True)).abs().mean(dim=(1, 2))[:, None]

    class Lambda(nn.Module):
        def forward(self, pixels):
            return colourfulness(pixels).repeat(1, 2)

    found = contrastive.remembered(nn.Sequential(nn.Flatten(), Lambda()), tiny)
    assert list(found) == ["mirrored?", "grey?", "shape?"]
    assert found["grey?"]["embeddings"] > 0.8
    assert all(0 <= share <= 1 for question in found.values() for share in question.values())


def test_unknown_features_are_refused_by_name(tiny):
    with pytest.raises(ValueError, match="SimCLR, .*got 'magic'"):
        contrastive.measure_features(tiny, "magic", 0)


@pytest.mark.parametrize(
    "compare, settings",
    [
        (contrastive.compare_features, [{"features": name} for name in FEATURES]),
        (contrastive.compare_moco, list(MOCO_SETTINGS)),
    ],
)
def test_comparisons_measure_every_setting_once(tiny, tmp_path, monkeypatch, compare, settings):
    monkeypatch.setattr(contrastive, "task", lambda: tiny)
    monkeypatch.setattr(contrastive, "LABELS", (20, 60))
    monkeypatch.setattr(contrastive.probe, "__defaults__", ((20, 60),))
    monkeypatch.setattr(contrastive.measure_features, "__defaults__", (2, (20, 60)))
    monkeypatch.setattr(contrastive, "SMALL_BATCH", 8)
    out = tmp_path / "results.json"
    result = compare(out, steps=2, seeds=1, progress=False)
    keys = settings[0].keys()
    assert [{key: run[key] for key in keys} for run in result["runs"]] == settings
    assert json.loads(out.read_text("utf-8")) == result
    assert compare(out, steps=2, seeds=1, progress=False) == result


@pytest.mark.parametrize(
    "file, settings, seeds",
    [
        (contrastive.SHIPPED_FEATURES, [{"features": name} for name in FEATURES], 5),
        (contrastive.SHIPPED_MOCO, MOCO_SETTINGS, 3),
    ],
)
def test_the_shipped_results_are_complete(file, settings, seeds):
    result = results.shipped(file)
    assert len(result["runs"]) == seeds * len(settings)
    for setting in settings:
        runs = results.runs_of(result, **setting)
        assert [run["seed"] for run in runs] == list(range(seeds))
        for run in runs:
            assert list(run["accuracy"]) == [str(number) for number in contrastive.LABELS]
            assert all(0.08 < accuracy < 1 for accuracy in run["accuracy"].values())
