"""Other answers to the exercises of notebook 05: right ones, and known mistakes reworded."""

import copy

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

# freeze, right


def one_submodule_after_another(model, layers):
    for layer in layers:
        module = model.get_submodule(layer)
        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad = False
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def whole_names_of_everything(model, layers):
    """Goes by names, and returns a filter."""
    known = dict(model.named_modules())
    for layer in layers:
        if layer not in known:
            raise ValueError(f"{layer} is no module.")
    for name, parameter in model.named_parameters():
        if name.startswith(tuple(f"{layer}." for layer in layers)):
            parameter.requires_grad_(False)
    for name, module in known.items():
        if any(name == layer or name.startswith(f"{layer}.") for layer in layers):
            module.training = False
    return filter(lambda parameter: parameter.requires_grad, model.parameters())


def by_identity(model, layers):
    """Collects first, and thinks of tied weights and of what was frozen before."""
    modules = dict(model.named_modules())
    frozen = {id(p) for layer in layers for p in modules[layer].parameters()}
    left = []
    for parameter in model.parameters():
        if id(parameter) in frozen:
            parameter.requires_grad = False
            parameter.grad = None
        elif parameter.requires_grad:
            left.append(parameter)
    for layer in layers:
        modules[layer].apply(lambda module: module.train(False))
    return left


def pairs_of_name_and_parameter(model, layers):
    """Frozen part by part, with getattr; optimisers take such pairs too."""
    for layer in layers:
        module = model
        for part in layer.split("."):
            module = getattr(module, part)
        module.requires_grad_(requires_grad=False)
        module.train(mode=False)
    return tuple((name, p) for name, p in model.named_parameters() if p.requires_grad)


# freeze, wrong: a right answer with one thing changed


def freezing_with(
    inside=lambda name, layer: f"{name}.".startswith(f"{layer}."),
    mode=lambda model, found: [module.eval() for module in found],
    left=lambda model, frozen: [p for p in model.parameters() if p.requires_grad],
    takes=lambda name: True,
    strict=True,
):
    def answer(model, layers):
        modules = dict(model.named_modules())
        if strict:
            assert all(layer in modules for layer in layers)
        frozen = []
        for name, parameter in model.named_parameters():
            if takes(name) and any(inside(name, layer) for layer in layers):
                parameter.requires_grad = False
                frozen.append(parameter)
        mode(model, [modules[layer] for layer in layers if layer in modules])
        return left(model, frozen)

    return answer


def all_frozen_then_nothing_thawed(model, layers):
    model.requires_grad_(False)
    for layer in layers:
        model.get_submodule(layer).eval()
    return list(filter(lambda parameter: parameter.requires_grad, model.parameters()))


def sets_every_parameter(model, layers):
    modules = dict(model.named_modules())
    for parameter in model.parameters():
        parameter.requires_grad = True
    for layer in layers:
        modules[layer].requires_grad_(False).eval()
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def collects_before_it_freezes(model, layers):
    left = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for layer in layers:
        model.get_submodule(layer).requires_grad_(False).eval()
    return left


def outermost_mode_only(model, layers):
    for layer in layers:
        model.get_submodule(layer).requires_grad_(False).training = False
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def eval_then_train_the_head(model, layers):
    model.eval()
    for layer in layers:
        model.get_submodule(layer).requires_grad_(False)
    model.classifier.train()
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def trains_all_but_the_layers(model, layers):
    for module in model.modules():
        module.training = True
    for layer in layers:
        model.get_submodule(layer).requires_grad_(False).eval()
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


# layers_to_train, right


def the_last_of_all(epoch, num_layers):
    return list(range(num_layers + 2))[-(epoch + 1) :]


def grown_from_the_head(epoch, num_layers):
    layers = [num_layers + 1]
    for _ in range(epoch):
        if layers[0] > 0:
            layers.insert(0, layers[0] - 1)
    return layers


def by_a_condition(epoch, num_layers):
    return [layer for layer in range(num_layers + 2) if layer + epoch > num_layers]


def row_of_numpy(epoch, num_layers):
    return np.arange(max(num_layers + 1 - epoch, 0), num_layers + 2)


# linear_probe, right


def features_of(encoder, *inputs):
    training = encoder.training
    encoder.eval()
    with torch.inference_mode():
        found = [encoder(x).double().numpy() for x in inputs]
    encoder.train(training)
    return found


def cross_validated(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    train, test = features_of(encoder, train_inputs, test_inputs)
    scaler = StandardScaler().fit(train)
    probe = LogisticRegressionCV(Cs=Cs, cv=4, max_iter=500, use_legacy_attributes=False)
    probe.fit(scaler.transform(train), train_labels.numpy())
    return probe.score(scaler.transform(test), test_labels.numpy())


def grid_of_pipelines(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    train, test = features_of(encoder, train_inputs, test_inputs)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    search = GridSearchCV(pipeline, {"logisticregression__C": list(Cs)}, cv=3)
    search.fit(train, train_labels.numpy())
    return torch.tensor(search.score(test, test_labels.numpy()))


def last_fifth_of_a_copy(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    frozen = copy.deepcopy(encoder).eval().requires_grad_(False)
    train = torch.cat([frozen(part) for part in train_inputs.split(32)])
    test = torch.cat([frozen(part) for part in test_inputs.split(32)])
    cut = len(train) * 4 // 5
    deviation, mean = torch.std_mean(train, dim=0)
    deviation = torch.where(deviation > 0, deviation, 1)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    best, best_accuracy = None, -1.0
    for C in Cs:
        probe = LogisticRegression(C=C, max_iter=2000).fit(train[:cut], train_labels[:cut])
        accuracy = probe.score(train[cut:], train_labels[cut:])
        if accuracy > best_accuracy:
            best, best_accuracy = C, accuracy
    probe = LogisticRegression(C=best, max_iter=2000).fit(train, train_labels)
    return (torch.from_numpy(probe.predict(test)) == test_labels).float().mean()


def minimised_with_torch(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    train, test = (torch.from_numpy(x) for x in features_of(encoder, train_inputs, test_inputs))
    mean, deviation = train.mean(dim=0), train.std(dim=0) + 1e-12
    train, test = (train - mean) / deviation, (test - mean) / deviation

    def fit(x, y, C):
        probe = nn.Linear(x.shape[1], int(train_labels.max()) + 1).double()
        nn.init.zeros_(probe.weight)
        optimizer = torch.optim.LBFGS(
            probe.parameters(), max_iter=100, line_search_fn="strong_wolfe"
        )

        def objective():
            optimizer.zero_grad()
            penalty = probe.weight.square().sum() / (2 * C * len(x))
            loss = F.cross_entropy(probe(x), y) + penalty
            loss.backward()
            return loss

        optimizer.step(objective)
        return probe

    def accuracy(probe, x, y):
        return (probe(x).argmax(dim=1) == y).double().mean().item()

    order = torch.randperm(len(train))
    out, rest = order[: len(train) // 3], order[len(train) // 3 :]

    def held_out_accuracy(C):
        return accuracy(fit(train[rest], train_labels[rest], C), train[out], train_labels[out])

    best = max(Cs, key=held_out_accuracy)
    return accuracy(fit(train, train_labels, best), test, test_labels)


# linear_probe, wrong: a right answer with one thing changed


def held_out(train, labels, Cs, test, test_labels):
    cut = len(train) // 5
    fits = [LogisticRegression(C=C, max_iter=1000).fit(train[cut:], labels[cut:]) for C in Cs]
    scores = [fit.score(train[:cut], labels[:cut]) for fit in fits]
    return Cs[int(np.argmax(scores))]


def with_the_training_set(train, test):
    return [StandardScaler().fit(train).transform(x) for x in (train, test)]


def probing(
    read=features_of,
    standardise=with_the_training_set,
    choose=held_out,
    result=lambda probe, test, labels: probe.score(test, labels),
):
    def answer(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
        train, test = standardise(*read(encoder, train_inputs, test_inputs))
        C = choose(train, train_labels, Cs, test, test_labels)
        probe = LogisticRegression(C=C, max_iter=1000).fit(train, train_labels)
        return result(probe, test, test_labels)

    return answer


def awake(encoder, *inputs):
    return [encoder(x).detach() for x in inputs]


def test_set_awake(encoder, train_inputs, test_inputs):
    encoder.eval()
    train = encoder(train_inputs).detach()
    encoder.train()
    return train, encoder(test_inputs).detach()


def asleep_for_ever(encoder, *inputs):
    return [encoder.eval()(x).detach() for x in inputs]


def awake_in_the_end(encoder, *inputs):
    found = asleep_for_ever(encoder, *inputs)
    encoder.train(True)
    return found


def each_by_itself(*sets):
    return [StandardScaler().fit_transform(x) for x in sets]


def both_together(*sets):
    scaler = StandardScaler().fit(np.concatenate(sets))
    return [scaler.transform(x) for x in sets]


def by_plain_numpy(train, test):
    return [(x - train.mean(0)) / train.std(0) for x in (train, test)]


def best_on(pick):
    """Chooses C by the accuracy of fits on the training set, on what `pick` gives."""

    def choose(train, labels, Cs, test, test_labels):
        fits = [LogisticRegression(C=C, max_iter=1000).fit(train, labels) for C in Cs]
        scores = [fit.score(*pick(train, labels, test, test_labels)) for fit in fits]
        return Cs[int(np.argmax(scores))]

    return choose


# recommend_strategy, right

FREEZE_BOTTOM, FREEZE_MIDDLE = (
    "freeze the bottom, tune the top",
    "freeze the middle, tune bottom and top, or LoRA",
)
TUNE, DISCRIMINATIVE = "tune everything", "tune everything with discriminative learning rates"


def nested_conditions(similarity, labels_per_class):
    if similarity == "high":
        if labels_per_class < 1000:
            return FREEZE_BOTTOM
        return TUNE
    if similarity == "low":
        if labels_per_class < 1000:
            return FREEZE_MIDDLE
        return DISCRIMINATIVE
    raise ValueError("similarity is high or low")


def matched(similarity, labels_per_class):
    match similarity, labels_per_class >= 1000:
        case "high", False:
            return "Freeze the bottom, tune the top."
        case "high", True:
            return TUNE
        case "low", False:
            return FREEZE_MIDDLE
        case "low", True:
            return DISCRIMINATIVE
    raise ValueError(similarity)


def looked_up(similarity, labels_per_class):
    rows = {"high": (FREEZE_BOTTOM, TUNE), "low": (FREEZE_MIDDLE, DISCRIMINATIVE)}
    if similarity not in rows:
        raise ValueError(f"no row {similarity!r}")
    return rows[similarity][int(not labels_per_class < 1000)]


# recommend_strategy, wrong


def from_table(rows, few=lambda count: count < 1000, word=lambda similarity: similarity):
    def answer(similarity, labels_per_class):
        similarity = word(similarity)
        if similarity not in rows:
            raise ValueError(similarity)
        return rows[similarity][0 if few(labels_per_class) else 1]

    return answer


ROWS = {"high": (FREEZE_BOTTOM, TUNE), "low": (FREEZE_MIDDLE, DISCRIMINATIVE)}

RIGHT = {
    "freeze": [
        one_submodule_after_another,
        whole_names_of_everything,
        by_identity,
        pairs_of_name_and_parameter,
    ],
    "layers_to_train": [the_last_of_all, grown_from_the_head, by_a_condition, row_of_numpy],
    "linear_probe": [
        last_fifth_of_a_copy,
        cross_validated,
        grid_of_pipelines,
        minimised_with_torch,
    ],
    "recommend_strategy": [nested_conditions, matched, looked_up],
}
VARIANTS = {
    "freeze": {
        "freezes_nothing": [freezing_with(inside=lambda name, layer: name == layer)],
        "leaves_the_biases": [freezing_with(takes=lambda name: "weight" in name)],
        "freezes_own_parameters_only": [
            freezing_with(inside=lambda name, layer: name.rsplit(".", 1)[0] == layer)
        ],
        "freezes_the_head_too": [
            all_frozen_then_nothing_thawed,
            freezing_with(inside=lambda name, layer: True),
        ],
        "takes_layer_10_for_1": [freezing_with(inside=lambda name, layer: name.startswith(layer))],
        "finds_names_anywhere": [freezing_with(inside=lambda name, layer: layer in name)],
        "thaws_the_others": [sets_every_parameter],
        "stays_in_training_mode": [
            outermost_mode_only,
            freezing_with(mode=lambda model, found: None),
        ],
        "whole_model_in_evaluation_mode": [
            eval_then_train_the_head,
            freezing_with(mode=lambda model, found: model.train(False)),
        ],
        "wakes_the_model": [trains_all_but_the_layers],
        "hands_over_frozen": [
            collects_before_it_freezes,
            freezing_with(left=lambda model, frozen: model.parameters()),
            freezing_with(left=lambda model, frozen: list(model.named_parameters())),
        ],
        "returns_the_frozen": [freezing_with(left=lambda model, frozen: frozen)],
        "returns_copies": [
            freezing_with(
                left=lambda model, frozen: [
                    nn.Parameter(p) for p in model.parameters() if p.requires_grad
                ]
            )
        ],
        "ignores_unknown_names": [freezing_with(strict=False)],
    },
    "layers_to_train": {
        "all_at_once": [lambda epoch, num_layers: [*range(num_layers + 1), num_layers + 1]],
        "bottom_up": [lambda epoch, num_layers: list(range(num_layers + 2))[: epoch + 1]],
        "never_reaches_the_embeddings": [
            lambda epoch, num_layers: list(range(1, num_layers + 2))[-(epoch + 1) :]
        ],
        "nothing_in_epoch_0": [
            lambda epoch, num_layers: [
                n for n in range(num_layers + 2) if n + epoch > num_layers + 1
            ]
        ],
        "two_in_epoch_0": [lambda epoch, num_layers: list(range(num_layers + 2))[-(epoch + 2) :]],
        "head_left_out": [
            lambda epoch, num_layers: [n for n in range(num_layers + 1) if n > num_layers - epoch]
        ],
        "head_numbered_like_a_block": [
            lambda epoch, num_layers: list(range(num_layers + 1))[-(epoch + 1) :]
        ],
    },
    "linear_probe": {
        "dropout_on": [probing(read=awake), probing(read=test_set_awake)],
        "left_in_evaluation_mode": [probing(read=asleep_for_ever)],
        "always_put_into_training_mode": [probing(read=awake_in_the_end)],
        "divides_by_a_deviation_of_0": [probing(standardise=by_plain_numpy)],
        "standardises_with_the_test_set": [probing(standardise=each_by_itself)],
        "standardises_with_both_sets": [probing(standardise=both_together)],
        "does_not_standardise": [probing(standardise=lambda *sets: sets)],
        "tunes_on_the_test_set": [
            probing(choose=best_on(lambda train, labels, *test: test)),
        ],
        "tunes_on_the_training_set": [
            probing(choose=best_on(lambda train, labels, *test: (train, labels))),
        ],
        "ignores_the_choices": [probing(choose=lambda train, labels, Cs, *test: 2.0)],
        "takes_the_last": [probing(choose=lambda train, labels, Cs, *test: Cs[-1])],
        "takes_the_first": [probing(choose=lambda train, labels, Cs, *test: Cs[0])],
        "error_rate": [probing(result=lambda *given: 1 - given[0].score(*given[1:]))],
    },
    "recommend_strategy": {
        "ignores_similarity": [from_table(ROWS | {"high": ROWS["low"]})],
        "ignores_the_labels": [from_table(ROWS, few=lambda count: False)],
        "similarity_the_wrong_way_round": [
            from_table({"high": ROWS["low"], "low": ROWS["high"]}, few=lambda count: count <= 1000)
        ],
        "labels_the_wrong_way_round": [from_table(ROWS, few=lambda count: count >= 1000)],
        "one_thousand_is_few": [from_table(ROWS, few=lambda count: not count > 1000)],
        "takes_any_other_word": [
            from_table(ROWS, word=lambda similarity: "low" if similarity == "low" else "high"),
            from_table(ROWS, word=lambda similarity: "high" if similarity == "high" else "low"),
        ],
    },
}
