"""What to train: freezing, and the linear probe that trains nothing but the head (notebook 05)."""

import numpy as np


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
