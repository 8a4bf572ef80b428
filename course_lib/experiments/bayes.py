"""What notebook 01 measures: what a prior is worth in labels, in fine-tuning and in features."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss
from tqdm.auto import tqdm

from course_lib import bert, data, language
from course_lib.bayes import gaussian_posterior, l2_anchor, mutual_information
from course_lib.experiments.pretraining import learning_rate_scale
from course_lib.grammar import DOMAINS

LABEL_COUNTS = (1, 2, 5, 10, 15, 20, 30, 50, 100, 200, 500, 1000, 2000, 5000)
DIMENSION = 20
NOISE_VAR = 1.0
PRIOR_VAR = 0.04  # worth NOISE_VAR / PRIOR_VAR = 25 labels
FLAT_VAR = 100.0  # wide beside the weights, whose variance is 1
INFORMATION_SEED = 300_001  # of the texts on which the features are read


@dataclass(frozen=True)
class LabelEfficiency:
    """Risk of the posterior mean against the number of labels.

    labels: T numbers.  risk: prior -> (S, T), one row a seed, each the mean over its tasks.
    bayes: (T,), the risk that no method can go below.
    """

    labels: tuple[int, ...]
    risk: dict[str, np.ndarray]
    bayes: np.ndarray


def label_efficiency(
    label_counts: Sequence[int] = LABEL_COUNTS, seeds: int = 10, tasks: int = 10
) -> LabelEfficiency:
    """Bayesian linear regression with the right, a wrong, a doubted wrong and a flat prior.

    Pre-training has left a mean theta_pre; the weights of each new task are drawn around it,
    w ~ N(theta_pre, PRIOR_VAR I), and its labels are y = x'w + noise with x ~ N(0, I) and noise of
    variance NOISE_VAR. The wrong prior is as sure (PRIOR_VAR) about the weights of an unrelated
    task; the doubted one has the same mean and variance 1. Risk is E_x (x'mean - x'w)^2 =
    |mean - w|^2: the squared error on new inputs beyond NOISE_VAR.

    The limit is the trace of the posterior covariance under the right prior, averaged over the
    same inputs: given these it *is* the expected risk of the posterior mean, in closed form.
    Raises ValueError for no label counts, or a count, seeds or tasks below 1.
    """
    if not label_counts or min(*label_counts, seeds, tasks) < 1:
        raise ValueError(
            "label_counts, seeds and tasks must be at least 1, got "
            f"{tuple(label_counts)}, {seeds} and {tasks}."
        )
    risk, bayes = [], []
    for seed in tqdm(range(seeds), desc="label efficiency", leave=False):
        generator = torch.Generator().manual_seed(seed)
        priors = _priors(generator)
        for _ in range(tasks):
            weights, X, y = _regression_task(priors["right"][0], max(label_counts), generator)
            for prior in priors.values():
                posteriors = [
                    gaussian_posterior(X[:n], y[:n], *prior, NOISE_VAR) for n in label_counts
                ]
                risk.append([(mean - weights).square().sum().item() for mean, _ in posteriors])
                if prior is priors["right"]:
                    bayes.append([cov.trace().item() for _, cov in posteriors])
    table = np.array(risk).reshape(seeds, tasks, len(priors), -1).mean(axis=1)  # (S, priors, T)
    by_prior = {name: table[:, i] for i, name in enumerate(priors)}
    return LabelEfficiency(tuple(label_counts), by_prior, np.mean(bayes, axis=0))


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _priors(generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> mean (d,) and covariance (d, d)."""
    pretrained, unrelated = _normal(generator, 2, DIMENSION)
    eye = torch.eye(DIMENSION, dtype=torch.float64)
    return {
        "right": (pretrained, PRIOR_VAR * eye),
        "wrong": (unrelated, PRIOR_VAR * eye),
        "wrong, doubted": (unrelated, eye),
        "flat": (torch.zeros(DIMENSION, dtype=torch.float64), FLAT_VAR * eye),
    }


def _regression_task(
    pretrained: Tensor, number: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (d,) of a new task, inputs (number, d) and labels (number,)."""
    weights = pretrained + PRIOR_VAR**0.5 * _normal(generator, DIMENSION)
    X = _normal(generator, number, DIMENSION)
    return weights, X, X @ weights + NOISE_VAR**0.5 * _normal(generator, number)


def first_reaching(x: Sequence[float], y: Sequence[float], target: float) -> float:
    """The x at which a falling curve first gets down to `target`.

    x, y: of one length, x increasing; between two points the curve is a straight line.
    Raises ValueError if the curve never gets that low.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    below = np.flatnonzero(y <= target)
    if not len(below):
        raise ValueError(f"the curve never falls to {target:.3g}; it ends at {y[-1]:.3g}.")
    after = below[0]
    before = max(after - 1, 0)
    return float(np.interp(-target, -y[[before, after]], x[[before, after]]))


@dataclass(frozen=True)
class Descent:
    """Risk of gradient descent after every step.

    risk: variant -> (S, T), one row a seed, each the mean over its tasks; column 0 is the start.
    bayes: the risk that no method can go below.
    """

    risk: dict[str, np.ndarray]
    bayes: float


def descent(
    labels: int = 10, steps: int = 100, rate: float = 0.005, seeds: int = 10, tasks: int = 20
) -> Descent:
    """Gradient descent on the tasks of `label_efficiency` from zero, from theta_pre, and anchored.

    The loss is -log P(y | X, theta) = |y - X theta|^2 / (2 NOISE_VAR), up to a constant; anchored,
    with the right prior's penalty `l2_anchor` of strength 1 / (2 PRIOR_VAR) on top.
    rate: learning rate, the same for all.
    Raises ValueError for a number below 1, and FloatingPointError if the descent diverges.
    """
    if min(labels, steps, seeds, tasks) < 1:
        raise ValueError(
            f"labels, steps, seeds and tasks must be at least 1, got {labels}, {steps}, {seeds} "
            f"and {tasks}."
        )
    runs, bayes = [], []
    for seed in tqdm(range(seeds), desc="descent", leave=False):
        generator = torch.Generator().manual_seed(seed)
        prior = _priors(generator)["right"]
        drawn = [_regression_task(prior[0], labels, generator) for _ in range(tasks)]
        weights, X, y = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        bayes += [gaussian_posterior(*task[1:], *prior, NOISE_VAR)[1].trace() for task in drawn]
        pretrained = prior[0].expand(tasks, DIMENSION)
        runs.append(
            [
                _descend(start, anchor, X, y, weights, steps, rate)
                for start, anchor in (
                    (torch.zeros_like(pretrained), {}),
                    (pretrained, {}),
                    (pretrained, {"theta": pretrained}),
                )
            ]
        )
    table = np.array(runs)  # (S, variants, T)
    if not np.isfinite(table).all():
        raise FloatingPointError(f"gradient descent diverged; take a smaller rate than {rate}.")
    names = ("from zero", "from theta_pre", "from theta_pre, anchored")
    risk = {name: table[:, i] for i, name in enumerate(names)}
    return Descent(risk, torch.stack(bayes).mean().item())


def _descend(start, anchor, X, y, weights, steps, rate) -> list[float]:
    """Mean risk of the tasks at the start and after each step; start, weights: (tasks, d)."""
    theta = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([theta], lr=rate)
    risk = [(start - weights).square().sum(dim=1).mean().item()]
    for _ in range(steps):
        loss = (y - (X @ theta.unsqueeze(-1)).squeeze(-1)).square().sum() / (2 * NOISE_VAR)
        if anchor:
            loss = loss + l2_anchor({"theta": theta}, anchor, strength=1 / (2 * PRIOR_VAR))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        risk.append((theta.detach() - weights).square().sum(dim=1).mean().item())
    return risk


@dataclass(frozen=True)
class FineTuningSettings:
    """How much of everything; learning rates are peaks."""

    checkpoint: str | None
    labels: int
    epochs: int
    batch_size: int
    test_texts: int
    pretrained_rate: float
    scratch_rate: float


FINE_TUNING = {
    "lite": FineTuningSettings(None, 100, 10, 20, 300, 5e-4, 1e-3),
    "full": FineTuningSettings("google-bert/bert-base-uncased", 1000, 6, 16, 872, 2e-5, 1e-4),
}


@dataclass(frozen=True)
class FineTuning:
    """Held-out curves of fine-tuning from a checkpoint and of the same model from random weights.

    steps: T optimiser steps, from 0.  loss: start -> (S, T) cross-entropy in nats, one row a seed.
    accuracy: the same.  bayes_loss: the ideal reader's on the same texts.  bayes_accuracy: the
    ideal reader's over all texts. Both are None for real text, where nobody knows them.
    """

    steps: list[int]
    loss: dict[str, np.ndarray]
    accuracy: dict[str, np.ndarray]
    bayes_loss: float | None
    bayes_accuracy: float | None


class MeanPooledClassifier(nn.Module):
    """Mean of an encoder's last hidden layer over the tokens, then a linear layer that starts at 0.

    At 0 every class is as likely as any other, whatever the encoder: the loss starts at log C.
    """

    def __init__(self, encoder: nn.Module, classes: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.utils.skip_init(nn.Linear, encoder.config.hidden_size, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:  # (B, T) -> (B, C)
        hidden = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
        return self.head((hidden * weight).sum(dim=1) / weight.sum(dim=1))


def fine_tuning_curves(
    scale: str = "lite", seeds: int = 3, checkpoint: str | Path | None = None
) -> FineTuning:
    """Sentiment of reviews from few labels: from pre-trained and from random weights.

    The same architecture, head, labels and order of batches; each start has the learning rate
    that suits it. A seed draws the labelled texts, their order and the random weights.
    scale: "lite" or "full" (see `data.load`).  checkpoint: None for the one in FINE_TUNING.
    Raises ValueError for an unknown scale or fewer than one seed, and what `data.load` and
    `bert.load` raise.
    """
    if scale not in FINE_TUNING:
        raise ValueError(f"scale must be one of {', '.join(FINE_TUNING)}, got {scale!r}.")
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}.")
    settings = FINE_TUNING[scale]
    checkpoint = settings.checkpoint if checkpoint is None else checkpoint
    splits = data.load("reviews", scale)
    test = _head(splits["test"], settings.test_texts)
    curves = {"pre-trained": [], "from scratch": []}
    with tqdm(total=2 * seeds, desc="fine-tuning", leave=False) as bar:
        for seed in range(seeds):
            train = _head(splits["train"].shuffle(seed=seed), settings.labels)
            encoder, tokenizer = bert.load(checkpoint, head=None)
            fresh = bert.random_weights(seed, head=None, **encoder.config.to_dict())
            for start, model, rate in (
                ("pre-trained", encoder, settings.pretrained_rate),
                ("from scratch", fresh, settings.scratch_rate),
            ):
                with torch.random.fork_rng():  # dropout, where the checkpoint has it
                    torch.manual_seed(seed)
                    curve = _fine_tune(model, tokenizer, train, test, rate, settings, seed)
                curves[start].append(curve)
                bar.update()
    table = {start: np.array(runs) for start, runs in curves.items()}  # (S, T, 3)
    bayes_loss = bayes_accuracy = None
    if scale == "lite":
        texts, labels = test
        posterior = torch.from_numpy(language.label_posterior(texts))
        bayes_loss = nll_loss(posterior.log(), labels).item()
        bayes_accuracy = language.bayes_accuracy("sentiment", domain="reviews")
    return FineTuning(
        steps=table["pre-trained"][0, :, 0].astype(int).tolist(),
        loss={start: runs[:, :, 1] for start, runs in table.items()},
        accuracy={start: runs[:, :, 2] for start, runs in table.items()},
        bayes_loss=bayes_loss,
        bayes_accuracy=bayes_accuracy,
    )


def _head(split, number: int) -> tuple[list[str], Tensor]:
    """The first texts of a split with their labels (N,)."""
    rows = split[:number]
    return list(rows["text"]), torch.tensor(rows["label"])


def _fine_tune(model, tokenizer, train, test, rate, settings, seed) -> list[tuple]:
    """Train on `train`; (step, loss, accuracy) on `test` at the start and after every epoch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    classifier = MeanPooledClassifier(model, classes=2).to(device)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=rate, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    texts, labels = train
    total = settings.epochs * -(-len(texts) // settings.batch_size)
    step, curve = 0, [(0, *_evaluate(classifier, tokenizer, *test))]
    for _ in range(settings.epochs):
        classifier.train()
        for rows in torch.randperm(len(texts), generator=generator).split(settings.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = rate * learning_rate_scale(step, total)
            logits = _logits(classifier, tokenizer, [texts[row] for row in rows])
            loss = cross_entropy(logits, labels[rows].to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
            optimizer.step()
            step += 1
        curve.append((step, *_evaluate(classifier, tokenizer, *test)))
    return curve


def _logits(classifier, tokenizer, texts: list[str]) -> Tensor:  # (B, C)
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    batch = batch.to(classifier.head.weight.device)
    return classifier(batch["input_ids"], batch["attention_mask"])


@torch.no_grad()
def _evaluate(classifier, tokenizer, texts, labels) -> tuple[float, float]:
    """Mean cross-entropy in nats and accuracy."""
    classifier.eval()
    logits = _logits(classifier, tokenizer, texts).cpu()
    accuracy = (logits.argmax(dim=1) == labels).float().mean().item()
    return cross_entropy(logits, labels).item(), accuracy


@dataclass(frozen=True)
class FeatureInformation:
    """What a linear probe reads about each label out of an encoder's features, in nats.

    spaces: names of the K label spaces.  labels: numbers of labels that the probe learned from.
    information: encoder -> (S, K, len(labels)), one row a draw of the labelled texts.
    shuffled: (S, K, len(labels)), the estimate for the pre-trained encoder with the held-out
        labels permuted: what it gives where there is nothing to find.
    limit: (K,), I(X; Y) of the text itself.
    """

    spaces: tuple[str, ...]
    labels: tuple[int, ...]
    information: dict[str, np.ndarray]
    shuffled: np.ndarray
    limit: np.ndarray


def feature_information(
    label_counts: Sequence[int] = (30, 500),
    draws: int = 3,
    test_texts: int = 1500,
    checkpoint: str | Path | None = None,
) -> FeatureInformation:
    """I(f(X); Y) of pre-trained and of random features for the four label spaces of the language.

    f(X) is continuous, so it is made discrete: a linear probe learns Y from a few labelled texts
    and on texts that it has not seen its prediction takes f(X)'s place. A prediction is a function
    of f(X), f(X) one of X, so by the data-processing inequality (Cover & Thomas 2006, theorem
    2.8.1) I(prediction; Y) <= I(f(X); Y) <= I(X; Y). The first is the plug-in estimate of
    (prediction, Y), which is too high by about (C - 1)^2 / 2N nats with C classes and N texts;
    the last comes from the exact posterior of each text.
    Raises ValueError for a number below 1 or so few labels that they are all of one class, and
    what `bert.load` raises.
    """
    if not label_counts or min(*label_counts, draws, test_texts) < 1:
        raise ValueError(
            "label_counts, draws and test_texts must be at least 1, got "
            f"{tuple(label_counts)}, {draws} and {test_texts}."
        )
    pretrained, tokenizer = bert.load(checkpoint, head=None)
    encoders = {
        "pre-trained": pretrained,
        "random": bert.random_weights(0, head=None, **pretrained.config.to_dict()),
    }
    longest = max(label_counts)
    pool = draws * longest
    texts, reordered, labels = _labelled_texts(pool + test_texts)
    shape = (draws, len(labels), len(label_counts))
    information = {name: np.zeros(shape) for name in encoders}
    shuffled = np.zeros(shape)
    chance = np.random.default_rng(0)
    bar = tqdm(total=len(encoders) * len(labels), desc="feature information", leave=False)
    for name, encoder in encoders.items():
        plain = bert.embed(encoder, tokenizer, texts).numpy()
        swapped = bert.embed(encoder, tokenizer, reordered).numpy()
        for k, (space, codes) in enumerate(labels.items()):
            features = swapped if space == "order" else plain
            for draw, i in np.ndindex(draws, len(label_counts)):
                rows = slice(draw * longest, draw * longest + label_counts[i])
                probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
                predicted = probe.fit(features[rows], codes[rows]).predict(features[pool:])
                information[name][draw, k, i] = _plug_in(predicted, codes[pool:])
                if name == "pre-trained":
                    permuted = chance.permutation(codes[pool:])
                    shuffled[draw, k, i] = _plug_in(predicted, permuted)
            bar.update()
    bar.close()
    limit = [_text_information(reordered if s == "order" else texts, s) for s in labels]
    return FeatureInformation(
        tuple(labels), tuple(label_counts), information, shuffled, np.array(limit)
    )


def _labelled_texts(number: int) -> tuple[list[str], list[str], dict[str, np.ndarray]]:
    """Texts, the same with sentences in either order, and label space -> codes (number,).

    Codes are those of `language.label_posterior`; "order" belongs to the reordered texts.
    """
    documents = language.sample_documents(number, seed=INFORMATION_SEED)
    as_written = np.random.default_rng(INFORMATION_SEED + 1).random(number) < 0.5
    reordered = [
        document.text if kept else f"{document.second} {document.first}"
        for document, kept in zip(documents, as_written, strict=True)
    ]
    topics = language.topics()
    labels = {
        "domain": [DOMAINS.index(document.domain) for document in documents],
        "topic": [topics.index(document.topic) for document in documents],
        "sentiment": [document.sentiment for document in documents],
        "order": as_written.astype(int),
    }
    texts = [document.text for document in documents]
    return texts, reordered, {space: np.array(codes) for space, codes in labels.items()}


def _text_information(texts: Sequence[str], space: str) -> float:
    """I(X; Y) = H(Y) - E_x H(Y | x) in nats, from the exact posterior of each text."""
    prior = np.full(2, 0.5)
    if space == "topic":
        counts = [len(language.topics(domain)) for domain in DOMAINS]
        prior = np.repeat([0.5 / count for count in counts], counts)
    return _entropy(prior) - _entropy(language.label_posterior(texts, space))


def _entropy(probabilities: np.ndarray) -> float:
    """In nats, of distributions (..., C); the mean over them."""
    certain = np.where(probabilities > 0, probabilities, 1.0)
    return float(-(probabilities * np.log(certain)).sum(axis=-1).mean())


def _plug_in(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mutual information of two integer codes (N,) from the table of their counts, in nats."""
    joint = np.zeros((predicted.max() + 1, labels.max() + 1))
    np.add.at(joint, (predicted, labels), 1)
    return mutual_information(torch.from_numpy(joint)).item()
