"""Notebook 10: accuracy against labels for four ways to a classifier, calibration, a mystery."""

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from course_lib import bert, data, language
from course_lib.batches import Example, collate
from course_lib.experiments.results import run_missing
from course_lib.freezing import linear_probe
from course_lib.lora import ATTENTION, add_lora
from course_lib.trainer import Settings, Trainer

SHIPPED = "experiments/data_efficiency.json"
METHODS = ("scratch", "probe", "LoRA", "full")
LABELS = {
    "sentiment": (10, 30, 100, 300, 1000, 3000),
    "order": (100, 300, 1000, 3000),
}
TEST_TEXTS = 2000
PENALTY = 10.0  # of the probe's weights
LORA = {"r": 8, "alpha": 16}
# The best of three or within a point of it, at 300 labels (scratch and full on "order": 600) of
# texts that are used nowhere else, one seed.
RATES = {
    "sentiment": {"scratch": 1e-3, "LoRA": 5e-3, "full": 5e-4},
    "order": {"scratch": 2e-3, "LoRA": 5e-3, "full": 2e-3},
}
# For a BERT of ordinary size: Devlin et al. 2019, A.3, and Hu et al. 2022, table 9.
FULL_RATES = {"scratch": 1e-4, "LoRA": 5e-4, "full": 5e-5}


@dataclass(frozen=True)
class Task:
    """Texts with classes to learn from, in a random order, and to test on.

    bayes: accuracy of the ideal reader on the test texts, None for real text.
    rates: learning rate by method.
    """

    texts: list[str]
    labels: Tensor  # (N,)
    test_texts: list[str]
    test_labels: Tensor  # (M,)
    bayes: float | None
    rates: dict[str, float]


def _sentiment(number: int, seed: int) -> tuple[list[str], Tensor]:
    """Reviews; 1 is positive."""
    documents = language.sample_documents(number, seed, domain="reviews")
    return [d.text for d in documents], torch.tensor([d.sentiment for d in documents])


def _order(number: int, seed: int) -> tuple[list[str], Tensor]:
    """Documents; 1 is as written, 0 has its two sentences swapped."""
    documents = language.sample_documents(number, seed)
    chance = np.random.default_rng([seed, 1])  # seed alone is the stream of the documents
    written = chance.random(number) < 0.5
    texts = [
        d.text if kept else f"{d.second} {d.first}"
        for d, kept in zip(documents, written, strict=True)
    ]
    return texts, torch.from_numpy(written.astype(np.int64))


GENERATED = {"sentiment": _sentiment, "order": _order}


def task(name: str, seed: int, labels: int = 3000, scale: str = "lite") -> Task:
    """Sentiment of reviews, or the order of the two sentences of a document.

    lite: generated; the seed draws the texts to learn from, the 2 000 test texts are always the
    same. full: sentiment of SST-2, see `data.load`; the seed draws the texts to learn from.
    Raises ValueError for another name or scale, and what `data.load` raises.
    """
    if scale == "full" and name == "sentiment":
        splits = data.load("reviews", "full")
        train, test = splits["train"].shuffle(seed=seed)[:labels], splits["test"][:TEST_TEXTS]
        return Task(
            list(train["text"]),
            torch.tensor(train["label"]),
            list(test["text"]),
            torch.tensor(test["label"]),
            None,
            FULL_RATES,
        )
    if scale != "lite" or name not in GENERATED:
        raise ValueError(
            f"wanted one of {', '.join(GENERATED)} at scale lite, or sentiment at scale full, got "
            f"{name!r} at {scale!r}."
        )
    texts, classes = GENERATED[name](labels, 1000 + seed)
    test_texts, test_classes = GENERATED[name](TEST_TEXTS, 999)
    guesses = language.label_posterior(test_texts, name).argmax(axis=1)
    bayes = float((guesses == test_classes.numpy()).mean())
    return Task(texts, classes, test_texts, test_classes, bayes, RATES[name])


def examples(texts: Sequence[str], labels: Tensor, tokenizer) -> list[Example]:
    """What the trainer reads: token ids, cut at the model's length, and a class."""
    ids = tokenizer(list(texts), truncation=True)["input_ids"]
    return [{"input_ids": row, "labels": int(y)} for row, y in zip(ids, labels, strict=True)]


def settings_for(labels: int, learning_rate: float, seed: int = 0) -> Settings:
    """6 000 texts seen, but 3 epochs at least and 20 at most; batches of 16, warm-up, decay."""
    epochs = min(20, max(3, 6000 // labels))
    return Settings(epochs=epochs, batch_size=16, learning_rate=learning_rate, seed=seed)


def classifier(method: str, seed: int, checkpoint: str | Path | None = None):
    """A model with a fresh head, ready to be trained by one of METHODS, and its tokenizer.

    LoRA has rank 8 on query, key, value and output of every block, and a fresh pooler beside the
    head.
    Raises ValueError for a method without training.
    """
    model, tokenizer = bert.load(checkpoint, head="sequence_classification", seed=seed)
    if method == "scratch":
        fresh = model.config.to_dict()
        model = bert.random_weights(seed, head="sequence_classification", **fresh)
    elif method == "LoRA":
        chance = torch.Generator().manual_seed(seed)
        add_lora(model, ATTENTION, **LORA, extras=["bert.pooler"], generator=chance)
    elif method != "full":
        raise ValueError(f"method must be scratch, LoRA or full, got {method!r}.")
    return model, tokenizer


def accuracy_of(
    method: str,
    given: Task,
    labels: int,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
) -> float:
    """Test accuracy, 0 to 1, of one of METHODS with the first so many labels.

    Raises ValueError for more labels than there are.
    """
    if not 1 <= labels <= len(given.texts):
        raise ValueError(f"labels must be from 1 to {len(given.texts)}, got {labels}.")
    texts, classes = given.texts[:labels], given.labels[:labels]
    if method == "probe":
        encoder, tokenizer = bert.load(checkpoint, head=None)
        encoder.to(device)
        train, test = (bert.embed(encoder, tokenizer, some) for some in (texts, given.test_texts))
        return linear_probe(train, classes, test, given.test_labels, PENALTY)
    model, tokenizer = classifier(method, seed, checkpoint)
    settings = settings_for(labels, given.rates[method], seed)
    trainer = Trainer(model.to(device), settings, examples(texts, classes, tokenizer))
    trainer.fit(progress=False)
    return trainer.evaluate(examples(given.test_texts, given.test_labels, tokenizer))[1]


def compare_methods(
    out: str | Path,
    labels: Mapping[str, Sequence[int]] = MappingProxyType(LABELS),
    seeds: int = 3,
    checkpoint: str | Path | None = None,
    scale: str = "lite",
    device: str = "cpu",
    progress: bool = True,
) -> dict:
    """Measure every method on every task with every number of labels, and write it to `out`.

    labels: task -> numbers of labels.  checkpoint: None for the course's, a folder, or a Hub id.
    Returns what `results.run_missing` returns; a run has `task`, `method`, `labels`, `seed`,
    `seconds`, `accuracy` and `bayes`. A seed draws the labelled texts, the fresh weights and the
    batches.
    """
    read = functools.lru_cache(maxsize=len(labels))(task)
    wanted = [
        {"task": name, "method": method, "labels": number, "seed": seed}
        for seed in range(seeds)
        for name, numbers in labels.items()
        for number in numbers
        for method in METHODS
    ]

    def measure(run: dict) -> dict:
        given = read(run["task"], run["seed"], max(labels[run["task"]]), scale)
        started = time.perf_counter()
        found = accuracy_of(run["method"], given, run["labels"], run["seed"], checkpoint, device)
        seconds = round(time.perf_counter() - started, 1)
        return {"seconds": seconds, "accuracy": found, "bayes": given.bayes}

    settings = {"scale": scale, "checkpoint": str(checkpoint or "tiny_bert"), "lora": LORA}
    return run_missing(out, settings, wanted, measure, progress)


def labels_to_reach(accuracy: float, labels: Sequence[int], curve: Sequence[float]) -> float | None:
    """How many labels a method needs for an accuracy, read off its measured curve.

    labels, curve: numbers of labels in rising order, and the mean accuracy with each.
    Interpolated on a logarithmic axis of labels. Returns None if the curve never gets there, and
    the first of `labels` if it starts there.
    """
    if curve[0] >= accuracy:
        return float(labels[0])
    for i in range(len(labels) - 1):
        if curve[i] < accuracy <= curve[i + 1]:
            share = (accuracy - curve[i]) / (curve[i + 1] - curve[i])
            return float(labels[i] * (labels[i + 1] / labels[i]) ** share)
    return None


@dataclass(frozen=True)
class Predictions:
    """What a fine-tuned model says.

    history: an entry an epoch with `train_loss`, `validation_loss` and `accuracy` (validation).
    validation_logits, validation_labels: (V, C) and (V,).  logits, labels: (N, C) and (N,) on
    texts that nothing was chosen on.
    """

    history: list[dict]
    validation_logits: Tensor
    validation_labels: Tensor
    logits: Tensor
    labels: Tensor


def trained_to_the_end(
    labels: int = 100,
    epochs: int = 20,
    seed: int = 0,
    patience: int | None = None,
    learning_rate: float = 1e-3,
) -> Predictions:
    """Full fine-tuning on a few reviews, with 500 others to validate on.

    patience: None trains for all epochs and keeps the last weights, however well the training
    texts are known by heart; a number stops early and keeps the best weights, see
    `diagnostics.EarlyStopping`.
    """
    given = task("sentiment", seed, labels + 500)
    model, tokenizer = classifier("full", seed)
    rows = examples(given.texts, given.labels, tokenizer)
    train, validation = rows[:labels], rows[labels:]
    settings = settings_for(labels, learning_rate, seed)
    settings = replace(settings, epochs=epochs, patience=patience)
    if patience is None:  # with a validation set the trainer would go back to the best weights
        trainer, measured = Trainer(model, settings, train), []

        def after_step() -> None:
            if trainer.step % trainer.steps_per_epoch == 0:
                measured.append(trainer.evaluate(validation))

        history = [
            entry | {"validation_loss": loss, "accuracy": accuracy}
            for entry, (loss, accuracy) in zip(
                trainer.fit(after_step=after_step), measured, strict=True
            )
        ]
    else:
        history = Trainer(model, settings, train, validation).fit()
    test = examples(given.test_texts, given.test_labels, tokenizer)
    return Predictions(
        history,
        class_logits(model, validation),
        given.labels[labels:],
        class_logits(model, test),
        given.test_labels,
    )


@torch.no_grad()
def class_logits(model, rows: Sequence[Example], batch_size: int = 100) -> Tensor:
    """(N, C), in evaluation mode."""
    model.eval()
    parts = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return torch.cat([model(**collate(part, 0)).logits for part in parts])


def mystery_task(labels: int = 150) -> Task:
    """A task nobody explains: labelled texts, and 300 others to compare strategies on.

    What the classes mean is in the code below; look when you have chosen.
    Raises ValueError for labels outside 1 to 150.
    """
    if not 1 <= labels <= 150:
        raise ValueError(f"labels must be from 1 to 150, got {labels}.")
    documents = language.sample_documents(450, seed=4321)
    texts = [document.text for document in documents]
    # Sentiment xor domain: the encoder knows both, but no direction of its space is their xor.
    classes = torch.tensor([d.sentiment ^ (d.domain == "finance") for d in documents])
    known = slice(0, labels), slice(150, None)
    parts = [part for rows in known for part in (texts[rows], classes[rows].long())]
    return Task(*parts, None, RATES["sentiment"])
