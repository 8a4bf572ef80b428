"""Freezing, and the linear probe against a plain minimiser and scikit-learn's pipeline."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from course_lib import freezing
from course_lib.bert import random_weights
from course_lib.freezing import (
    freeze,
    layers_to_train,
    linear_probe,
    recommend_strategy,
    train_mode,
)


def overlapping_classes(seed, number=150, classes=3, width=5):
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=number)
    centres = generator.normal(size=(classes, width))
    return centres[labels] + 1.5 * generator.normal(size=(number, width)), labels


def by_gradient_descent(train_features, train_labels, test_features, test_labels, strength):
    """sum_i -log softmax(W x_i + b)[y_i] + strength / 2 ||W||^2, minimised to the end.

    With two classes the first one's weights are zero, as in logistic regression.
    """
    mean, deviation = train_features.mean(0), train_features.std(0)
    x, z = (torch.from_numpy((f - mean) / deviation) for f in (train_features, test_features))
    classes = int(train_labels.max()) + 1
    free = 1 if classes == 2 else classes
    weight = torch.zeros(x.shape[1], free, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(free, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=2000, line_search_fn="strong_wolfe")

    def logits(features):
        found = features @ weight + bias
        return torch.nn.functional.pad(found, (classes - free, 0))

    def objective():
        optimizer.zero_grad()
        log_probs = logits(x).log_softmax(dim=1)
        loss = -log_probs[torch.arange(len(x)), torch.from_numpy(train_labels)].sum()
        loss = loss + strength / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    return (logits(z).argmax(dim=1).numpy() == test_labels).mean()


@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_it_is_regularised_logistic_regression(strength, classes):
    train, test = overlapping_classes(1, 60, classes), overlapping_classes(1, 400, classes)
    found = linear_probe(*train, *test, regularisation=strength)
    # Both stop near the optimum, not at it: one of the 400 may fall on the other side.
    assert found == pytest.approx(by_gradient_descent(*train, *test, strength), abs=1 / 400)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=1 / strength, max_iter=1000))
    assert found == pipeline.fit(*train).score(*test)
    assert 0.3 < found < 1


def test_statistics_come_from_the_training_set():
    """So every test example is judged alone: the whole is the mean of its parts."""
    train, (features, labels) = overlapping_classes(2), overlapping_classes(3, number=40)
    alone = [
        linear_probe(*train, features[i : i + 1], labels[i : i + 1]) for i in range(len(labels))
    ]
    assert set(alone) <= {0.0, 1.0}
    assert linear_probe(*train, features, labels) == pytest.approx(np.mean(alone))
    assert linear_probe(*train, features + 100, labels) != pytest.approx(np.mean(alone))


def test_scale_and_constant_features_do_not_matter():
    (train, train_labels), (test, test_labels) = overlapping_classes(4), overlapping_classes(5)
    wanted = linear_probe(train, train_labels, test, test_labels)
    scale = np.array([1e-6, 1.0, 1e3, 10.0, 1e6])
    scaled = linear_probe(train * scale, train_labels, test * scale, test_labels)
    assert scaled == pytest.approx(wanted, abs=1 / 150)
    constant = [np.hstack([features, np.full((150, 1), 7.0)]) for features in (train, test)]
    assert linear_probe(constant[0], train_labels, constant[1], test_labels) == wanted


def test_tensors_are_as_good_as_arrays_and_inputs_stay_as_they_were():
    train, test = overlapping_classes(6), overlapping_classes(7)
    wanted = linear_probe(*train, *test)
    tensors = [torch.from_numpy(each) for each in (*train, *test)]
    copies = [each.clone() for each in tensors]
    assert linear_probe(*tensors) == wanted
    assert all(torch.equal(one, other) for one, other in zip(tensors, copies, strict=True))


def test_labels_it_never_saw_count_as_wrong():
    train, (features, labels) = overlapping_classes(8), overlapping_classes(9, number=20)
    assert linear_probe(*train, features, labels + 10) == 0.0


GOOD = {
    "train_features": np.eye(4, 3),
    "train_labels": np.array([0, 1, 0, 1]),
    "test_features": np.ones((2, 3)),
    "test_labels": np.array([0, 1]),
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"train_features": np.ones(4)}, r"train features must be \(N, d\).*got \(4,\)"),
        ({"train_labels": np.array([0, 1])}, r"train features.*\(4, 3\) and \(2,\)"),
        ({"test_labels": np.array([[0, 1]])}, "test features"),
        ({"test_features": np.ones((2, 5))}, "one width, got 3 and 5"),
        (
            {"test_features": np.ones((0, 3)), "test_labels": np.zeros(0, dtype=int)},
            "N at least 1",
        ),
        ({"train_labels": np.zeros(4, dtype=int)}, "at least two classes"),
        ({"train_labels": np.array([0, 1, np.nan, 1])}, "labels must be integers, got float64"),
        ({"train_features": np.full((4, 3), np.nan)}, "train features must be finite"),
        ({"test_features": np.full((2, 3), np.inf)}, "test features must be finite"),
        ({"regularisation": 0.0}, "positive number, got 0.0"),
        ({"regularisation": float("nan")}, "positive number, got nan"),
    ],
)
def test_bad_input_is_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        linear_probe(**(GOOD | change))


# --- freezing -----------------------------------------------------------------------------------


def classifier(**changes):
    return random_weights(0, "sequence_classification", num_labels=3, **changes)


def test_what_is_frozen_gets_no_gradient_and_the_rest_is_returned():
    model = classifier()
    left = freeze(model, ["bert.embeddings", "bert.encoder.layer.0"])
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith(("bert.embeddings", "bert.encoder.layer.0.")) for name in names)
    assert {"classifier.weight", "bert.pooler.dense.bias"} <= names
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert list(map(id, left)) == list(map(id, trainable))


def test_an_optimiser_with_weight_decay_moves_only_what_is_left():
    model = classifier()
    left = freeze(model, ["bert.embeddings", "bert.encoder"])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(left, lr=0.1, weight_decay=0.5)
    model(torch.randint(5, 50, (4, 6)), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("bert.embeddings", "bert.encoder"))
        assert torch.equal(parameter, before[name]) == frozen, name


def test_layer_1_is_not_layer_10():
    model = classifier(num_hidden_layers=11)
    freeze(model, ["bert.encoder.layer.1"])
    blocks = model.bert.encoder.layer
    trained = [all(p.requires_grad for p in block.parameters()) for block in blocks]
    assert trained == [True, False] + [True] * 9


def test_frozen_parts_have_no_dropout_even_in_training_mode():
    model = classifier(hidden_dropout_prob=0.5)
    freeze(model, ["bert.embeddings"])
    train_mode(model)
    ids = torch.randint(5, 50, (4, 6))
    assert torch.equal(model.bert.embeddings(ids), model.bert.embeddings(ids))
    assert not torch.equal(model(ids).logits, model(ids).logits)
    assert model.training and model.classifier.training


def test_frozen_statistics_do_not_move():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    freeze(model, ["0", "1"])
    train_mode(model)
    before = model[1].running_mean.clone()
    model(torch.randn(8, 3))
    assert torch.equal(model[1].running_mean, before)


@pytest.mark.parametrize(
    "layers, error, message",
    [
        (["bert.encoder.layer.7"], ValueError, "no module 'bert.encoder.layer.7'"),
        (["encoder"], ValueError, "no module 'encoder'"),
        ([""], ValueError, "no module ''"),
        ("bert", TypeError, "a list of names, got the string 'bert'"),
        (["bert", "classifier"], ValueError, "Nothing would be left"),
    ],
)
def test_freezing_that_cannot_be_leaves_the_model_alone(layers, error, message):
    model = classifier()
    with pytest.raises(error, match=message):
        freeze(model, layers)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_unfreezing_goes_from_the_head_to_the_embeddings():
    assert [layers_to_train(epoch, 2) for epoch in range(5)] == [
        [3],
        [2, 3],
        [1, 2, 3],
        [0, 1, 2, 3],
        [0, 1, 2, 3],
    ]
    for epoch, layers in ((-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"got {epoch} and {layers}"):
            layers_to_train(epoch, layers)


def test_the_decision_matrix():
    wanted = {
        ("high", 999): "freeze the bottom, tune the top",
        ("high", 1000): "tune everything",
        ("low", 999): "freeze the middle, tune bottom and top, or LoRA",
        ("low", 1000): "tune everything with discriminative learning rates",
    }
    assert {key: recommend_strategy(*key) for key in wanted} == wanted
    assert set(wanted.values()) == set(freezing.STRATEGIES.values())
    with pytest.raises(ValueError, match="high or low, got 'medium'"):
        recommend_strategy("medium", 5)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        recommend_strategy("low", -1)
