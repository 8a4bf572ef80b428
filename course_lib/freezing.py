"""What to train: freezing, unfreezing, and the probe that trains a head alone (notebook 05)."""

from collections.abc import Iterable

import numpy as np
from torch import nn

MANY_LABELS = 1000  # a class
STRATEGIES = {  # (similarity of source and target, whether labels are many)
    ("high", False): "freeze the bottom, tune the top",
    ("high", True): "tune everything",
    ("low", False): "freeze the middle, tune bottom and top, or LoRA",
    ("low", True): "tune everything with discriminative learning rates",
}


def freeze(model: nn.Module, layers: Iterable[str]) -> list[nn.Parameter]:
    """Freeze parts of a model, in place: no gradient, no dropout, no moving statistics.

    It is the limit of an L2 anchor whose strength goes to infinity (`bayes.l2_anchor`).

    layers: names of modules as `named_modules` has them, for example "bert.embeddings" or
    "bert.encoder.layer.0"; whole names, so "layer.1" is not "layer.10".
    Returns the parameters that are left to train. Give these to the optimiser: weight decay moves
    a frozen parameter as well, if its gradient is 0 and not None.
    Raises TypeError for one string, ValueError for a name that is no module of the model or if
    nothing is left to train; the model is untouched then.
    `model.train()` would wake dropout and statistics up again: call `train_mode(model)` instead.
    """
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list of names, got the string {layers!r}.")
    modules, layers = dict(model.named_modules()), list(layers)
    unknown = [name for name in layers if name not in modules or not name]
    if unknown:
        raise ValueError(
            f"{type(model).__name__} has no module {unknown[0]!r}; model.named_modules() has the "
            "names."
        )
    frozen = {id(p) for name in layers for p in modules[name].parameters()}
    left = [p for p in model.parameters() if p.requires_grad and id(p) not in frozen]
    if not left:
        raise ValueError("Nothing would be left to train.")
    for name in layers:
        modules[name].requires_grad_(False).eval()
    return left


def train_mode(model: nn.Module) -> None:
    """Put a model into training mode but for its frozen parts, which stay in evaluation mode.

    A module is frozen when it has parameters and none of them is trainable.
    """
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def layers_to_train(epoch: int, num_layers: int) -> list[int]:
    """Gradual unfreezing: the head alone at first, then one more layer below it every epoch.

    Howard and Ruder 2018 (1801.06146), section 3.3.

    epoch: 0 is the first.  num_layers: L, Transformer blocks.
    Returns the numbers of the layers to train, lowest first: 0 is the embeddings, 1 to L are the
    blocks, L + 1 is the head (as in `layerwise.layers_of`). From epoch L + 1 on all are trained.
    Raises ValueError for a negative epoch or no layers.
    """
    if epoch < 0 or num_layers < 1:
        raise ValueError(
            f"epoch must be at least 0 and num_layers at least 1, got {epoch} and {num_layers}."
        )
    return list(range(max(num_layers + 1 - epoch, 0), num_layers + 2))


def recommend_strategy(similarity: str, labels_per_class: int) -> str:
    """What to try first for a new task; one of the values of STRATEGIES.

    similarity: of the new task to the pre-training, "high" or "low".
    labels_per_class: fewer than 1 000 are few.
    Raises ValueError for another similarity or a negative number.
    """
    if similarity not in ("high", "low"):
        raise ValueError(f"similarity must be high or low, got {similarity!r}.")
    if not labels_per_class >= 0:
        raise ValueError(f"labels_per_class must be at least 0, got {labels_per_class}.")
    return STRATEGIES[similarity, labels_per_class >= MANY_LABELS]


def linear_probe(
    train_features,
    train_labels,
    test_features,
    test_labels,
    regularisation: float = 1.0,
    max_iterations: int = 1000,
) -> float:
    """Test accuracy (0 to 1) of multinomial logistic regression on frozen features.

    Features are standardised with the mean and standard deviation of the *training* set: using
    the test set's would leak it. Constant features are left at zero. Nothing is tuned on the test
    set; `regularisation` is the strength of the L2 penalty on the weights (1 / C in scikit-learn;
    two classes share one weight vector).
    Alain & Bengio 2016 (1610.01644).

    train_features: (N, d).  train_labels: (N,) integers.  test_*: (M, d) and (M,). Arrays or
    tensors without gradient.
    Raises ValueError for shapes that do not fit, features that are not finite, labels that are not
    integers, an empty set, or fewer than two classes in the training labels.
    """
    from sklearn.linear_model import LogisticRegression

    if not (np.isfinite(regularisation) and regularisation > 0):
        raise ValueError(f"regularisation must be a positive number, got {regularisation}.")
    train_features, train_labels = _checked(train_features, train_labels, "train")
    test_features, test_labels = _checked(test_features, test_labels, "test")
    if train_features.shape[1] != test_features.shape[1]:
        raise ValueError(
            f"train and test features must have one width, got {train_features.shape[1]} "
            f"and {test_features.shape[1]}."
        )
    if len(np.unique(train_labels)) < 2:
        raise ValueError("linear_probe needs at least two classes in train_labels, got one.")
    mean = train_features.mean(axis=0)
    deviation = train_features.std(axis=0)
    deviation[deviation == 0] = np.inf
    probe = LogisticRegression(C=1 / regularisation, max_iter=max_iterations)
    probe.fit((train_features - mean) / deviation, train_labels)
    return float(probe.score((test_features - mean) / deviation, test_labels))


def _checked(features, labels, name: str) -> tuple[np.ndarray, np.ndarray]:
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if features.ndim != 2 or labels.shape != (len(features),) or not len(features):
        raise ValueError(
            f"{name} features must be (N, d) and labels (N,) with N at least 1, got "
            f"{features.shape} and {labels.shape}."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} labels must be integers, got {labels.dtype}.")
    if not np.isfinite(features).all():
        raise ValueError(f"{name} features must be finite; they hold NaN or infinity.")
    return features, labels
