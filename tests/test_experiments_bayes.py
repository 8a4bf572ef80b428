"""The experiments of notebook 01, at sizes that take seconds."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from course_lib import bert, language
from course_lib.bayes import gaussian_posterior
from course_lib.experiments import bayes as experiments
from course_lib.experiments.bayes import (
    DIMENSION,
    NOISE_VAR,
    PRIOR_VAR,
    MeanPooledClassifier,
    descent,
    feature_information,
    fine_tuning_curves,
    first_reaching,
    label_efficiency,
)

LABELS = (1, 10, 50, 5000)


@pytest.fixture(scope="module")
def efficiency():
    return label_efficiency(LABELS, seeds=4, tasks=6)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder like the embedded checkpoint, whose model has learned nothing."""
    folder = tmp_path_factory.mktemp("model")
    bert.random_weights(7).save_pretrained(folder)
    bert.build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def small(monkeypatch):
    """Fine-tuning on 8 texts for one epoch of two steps, evaluated on 20."""
    settings = replace(
        experiments.FINE_TUNING["lite"], labels=8, epochs=1, batch_size=4, test_texts=20
    )
    monkeypatch.setattr(experiments, "FINE_TUNING", {"lite": settings, "full": settings})


# ------------------------------------------------------------------------------- label efficiency
def test_risk_of_the_right_prior_is_what_its_posterior_says(efficiency):
    # 24 tasks, each risk with a relative deviation of about sqrt(2 / 20): 3 standard errors.
    tolerance = 3 * (2 / DIMENSION) ** 0.5 / 24**0.5
    measured = efficiency.risk["right"].mean(axis=0)
    assert measured == pytest.approx(efficiency.bayes, rel=tolerance)


def test_limit_agrees_with_inverting_the_precision_on_fresh_inputs(efficiency):
    generator = np.random.default_rng(0)
    for n, limit in zip(LABELS, efficiency.bayes, strict=True):
        traces = []
        for _ in range(50):
            X = generator.standard_normal((n, DIMENSION))
            precision = np.eye(DIMENSION) / PRIOR_VAR + X.T @ X / NOISE_VAR
            traces.append(np.trace(np.linalg.inv(precision)))
        assert np.mean(traces) == pytest.approx(limit, rel=0.02)


def test_a_wrong_prior_hurts_with_few_labels_and_washes_out(efficiency):
    risk = {prior: runs.mean(axis=0) for prior, runs in efficiency.risk.items()}
    assert risk["right"][0] < risk["flat"][0] < risk["wrong"][0]
    assert risk["wrong, doubted"][2] < risk["wrong"][2] / 3
    assert risk["wrong"][-1] < 2 * risk["right"][-1]
    assert risk["flat"][-1] == pytest.approx(risk["right"][-1], rel=0.1)


def test_label_efficiency_is_the_same_every_time_and_leaves_chance_alone():
    state = torch.get_rng_state()
    one, two = (label_efficiency((2, 4), seeds=2, tasks=2) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert one.labels == (2, 4)
    for prior, runs in one.risk.items():
        assert runs.shape == (2, 2)
        np.testing.assert_array_equal(runs, two.risk[prior])


@pytest.mark.parametrize("arguments", [((),), ((0, 5),), ((5,), 0), ((5,), 1, 0)])
def test_label_efficiency_refuses_numbers_below_one(arguments):
    with pytest.raises(ValueError, match="must be at least 1"):
        label_efficiency(*arguments)


# ----------------------------------------------------------------------------------------- descent
def test_the_start_is_a_prior_and_the_anchor_keeps_it():
    found = descent(seeds=4, tasks=20)
    risk = {start: runs.mean(axis=0) for start, runs in found.risk.items()}
    start, anchored = risk["from theta_pre"], risk["from theta_pre, anchored"]
    # 80 tasks, each risk with a relative deviation of about sqrt(2 / 20): 3 standard errors.
    tolerance = 3 * (2 / DIMENSION) ** 0.5 / 80**0.5
    assert start[0] == anchored[0] == pytest.approx(DIMENSION * PRIOR_VAR, rel=tolerance)
    assert anchored[-1] == pytest.approx(found.bayes, rel=tolerance)
    assert start.min() < 1.1 * anchored[-1] < start[-1]
    assert risk["from zero"].min() > 5 * start.max()


def test_anchored_descent_ends_at_the_posterior_mean():
    generator = torch.Generator().manual_seed(0)
    prior = experiments._priors(generator)["right"]
    weights, X, y = experiments._regression_task(prior[0], 10, generator)
    mean, _ = gaussian_posterior(X, y, *prior, NOISE_VAR)
    [risk] = descent(seeds=1, tasks=1).risk["from theta_pre, anchored"]
    assert risk[-1] == pytest.approx((mean - weights).square().sum().item(), rel=1e-6)


def test_descent_refuses_numbers_below_one_and_a_rate_that_diverges():
    with pytest.raises(ValueError, match="must be at least 1, got 0, 100, 10 and 20"):
        descent(labels=0)
    with pytest.raises(FloatingPointError, match="smaller rate than 10"):
        descent(rate=10.0, steps=300, seeds=1, tasks=1)


# --------------------------------------------------------------------------------- first reaching
def test_first_reaching_lies_on_the_line_between_two_points():
    x, y = [0, 10, 20, 30], [8.0, 4.0, 2.0, 3.0]
    assert first_reaching(x, y, 6.0) == pytest.approx(5.0)
    assert first_reaching(x, y, 4.0) == pytest.approx(10.0)
    assert first_reaching(x, y, 2.5) == pytest.approx(17.5)  # the first time, not the second
    assert first_reaching(x, y, 9.0) == 0.0


def test_first_reaching_says_that_a_curve_never_gets_there():
    with pytest.raises(ValueError, match=r"never falls to 1; it ends at 3"):
        first_reaching([0, 10, 20], [8.0, 2.0, 3.0], 1.0)


# -------------------------------------------------------------------------------------- fine-tuning
def test_classifier_starts_undecided_and_ignores_padding():
    classifier = MeanPooledClassifier(bert.random_weights(0, head=None), classes=3)
    ids = torch.tensor([[2, 20, 21, 3]])
    mask = torch.ones_like(ids)
    assert torch.equal(classifier(ids, mask), torch.zeros(1, 3))
    torch.nn.init.normal_(classifier.head.weight, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(ids, (0, 5)), torch.nn.functional.pad(mask, (0, 5))
    torch.testing.assert_close(classifier(*padded), classifier(ids, mask))


@pytest.mark.usefixtures("small")
def test_fine_tuning_curves_have_one_row_a_seed_and_start_at_log_two(checkpoint):
    found = fine_tuning_curves(seeds=2, checkpoint=checkpoint)
    assert found.steps == [0, 2]
    for curves in (found.loss, found.accuracy):
        assert {start: runs.shape for start, runs in curves.items()} == {
            "pre-trained": (2, 2),
            "from scratch": (2, 2),
        }
    for runs in found.loss.values():
        assert runs[:, 0] == pytest.approx(np.log(2))
        assert (runs[:, 1] != runs[:, 0]).all()
    assert found.bayes_accuracy == language.bayes_accuracy("sentiment", domain="reviews")


@pytest.mark.usefixtures("small")
def test_bayes_loss_is_the_ideal_readers_on_the_texts_that_are_tested(checkpoint):
    found = fine_tuning_curves(seeds=1, checkpoint=checkpoint)
    test = experiments.data.load("reviews")["test"][:20]
    rows = zip(language.label_posterior(list(test["text"])), test["label"], strict=True)
    assert found.bayes_loss == pytest.approx(-np.mean([np.log(p[y]) for p, y in rows]))


@pytest.mark.usefixtures("small")
def test_fine_tuning_is_the_same_every_time_and_leaves_chance_alone(checkpoint):
    state = torch.get_rng_state()
    one, two = (fine_tuning_curves(seeds=1, checkpoint=checkpoint) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    for start, runs in one.loss.items():
        np.testing.assert_array_equal(runs, two.loss[start])


@pytest.mark.usefixtures("small")
def test_full_scale_reads_a_local_folder_and_knows_no_bayes_limit(
    checkpoint, tmp_path, monkeypatch
):
    (tmp_path / "sst2").mkdir()
    for split in ("train", "validation"):
        rows = {"sentence": [f"film {i}" for i in range(100)], "label": [0, 1] * 50}
        pq.write_table(pa.table(rows), tmp_path / "sst2" / f"{split}-00000-of-00001.parquet")
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    found = fine_tuning_curves("full", seeds=1, checkpoint=checkpoint)
    assert found.bayes_loss is None and found.bayes_accuracy is None
    assert found.steps == [0, 2]


def test_fine_tuning_refuses_an_unknown_scale_and_no_seed(checkpoint):
    with pytest.raises(ValueError, match="scale must be one of lite, full, got 'huge'"):
        fine_tuning_curves("huge")
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        fine_tuning_curves(seeds=0, checkpoint=checkpoint)


def test_the_embedded_checkpoint_is_sooner_and_lower_as_the_notebook_says():
    found = fine_tuning_curves(seeds=1)
    pretrained, scratch = (found.loss[start][0] for start in ("pre-trained", "from scratch"))
    assert found.accuracy["pre-trained"][0, 1] > 0.85 > 0.7 > found.accuracy["from scratch"][0, 1]
    assert found.bayes_loss < pretrained.min() < scratch.min() - 0.05
    sooner = first_reaching(found.steps, pretrained, scratch.min())
    assert sooner < 0.75 * found.steps[int(scratch.argmin())]


# ------------------------------------------------------------------------------ feature information
@pytest.fixture(scope="module")
def information(checkpoint):
    return feature_information((20, 100), draws=2, test_texts=300, checkpoint=checkpoint)


def test_information_lies_between_nothing_and_the_texts_own(information):
    assert information.spaces == ("domain", "topic", "sentiment", "order")
    assert information.labels == (20, 100)
    limit = information.limit[:, None]
    for runs in (*information.information.values(), information.shuffled):
        assert runs.shape == (2, 4, 2)
        assert (runs >= 0).all()
        # (10 - 1)^2 / (2 x 300) = 0.135: how far a plug-in estimate of ten topics may be too high.
        assert (runs <= limit + 0.15).all()


def test_limits_are_those_of_the_language(information):
    limit = dict(zip(information.spaces, information.limit, strict=True))
    assert limit["domain"] == pytest.approx(np.log(2), abs=0.01)
    assert limit["order"] == pytest.approx(np.log(2), abs=0.01)
    # Fresh texts with their true labels: E log P(y | x) / P(y).
    entropies = {"sentiment": np.log(2), "topic": np.log(2) + (np.log(6) + np.log(4)) / 2}
    documents = language.sample_documents(2000, seed=5)
    names = language.topics()
    truths = {
        "sentiment": [document.sentiment for document in documents],
        "topic": [names.index(document.topic) for document in documents],
    }
    for space, entropy in entropies.items():
        posterior = language.label_posterior(documents, space)
        expected = np.log(posterior[np.arange(2000), truths[space]]).mean() + entropy
        assert limit[space] == pytest.approx(expected, abs=0.05)


def test_even_random_features_tell_the_domain_and_shuffled_labels_tell_nothing(information):
    found = dict(
        zip(information.spaces, information.information["random"].mean(axis=0), strict=True)
    )
    shuffled = dict(zip(information.spaces, information.shuffled.mean(axis=0), strict=True))
    assert found["domain"][1] > 0.4
    assert found["domain"][1] > found["domain"][0]
    # Domain and topic must not leak into who was swapped.
    for nothing in (found["order"], shuffled["domain"], shuffled["sentiment"]):
        assert (nothing < 0.03).all()


@pytest.mark.parametrize("arguments", [((),), ((0,),), ((5,), 0), ((5,), 1, 0)])
def test_feature_information_refuses_numbers_below_one(arguments):
    with pytest.raises(ValueError, match="must be at least 1"):
        feature_information(*arguments)


def test_the_embedded_checkpoint_tells_what_the_notebook_says():
    found = feature_information()
    few, many = 0, 1
    pretrained, random = (
        dict(zip(found.spaces, found.information[name].mean(axis=0), strict=True))
        for name in ("pre-trained", "random")
    )
    assert pretrained["sentiment"][few] > 3 * random["sentiment"][few]
    assert pretrained["sentiment"][many] > 1.5 * random["sentiment"][many]
    assert pretrained["topic"][few] > 1.3 * random["topic"][few]
    assert pretrained["topic"][many] == pytest.approx(random["topic"][many], rel=0.1)
    for encoder in (pretrained, random):
        assert encoder["domain"][many] > 0.95 * np.log(2)
        assert (encoder["order"] < 0.05).all()
    assert (found.shuffled < 0.05).all()
