"""Notebook 06: uniform against discriminative learning rates; what warm-up does to the encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm.auto import tqdm

from course_lib import bert, data
from course_lib.batches import Example
from course_lib.layerwise import layers_of
from course_lib.trainer import Settings, Trainer

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
DECAYS = (1.0, 2.6)
LABELS, TEST_TEXTS = 100, 1000
SETTINGS = {"epochs": 8, "batch_size": 16}
ENCODER = ("bert.embeddings", "bert.encoder")
HEAD_RATE = 3e-3  # of a head that is trained alone


@dataclass(frozen=True)
class FineTuned:
    """What fine-tuning did.

    accuracy: on held-out reviews.  drift: (T,) how far the encoder had moved after every step,
    |theta - theta_pre| / |theta_pre|.  by_layer: the same at the end, for the embeddings and
    every block.
    """

    accuracy: float
    drift: list[float]
    by_layer: list[float]


def reviews(seed: int, labels: int = LABELS) -> tuple[list[Example], list[Example]]:
    """Tokenised reviews with their sentiment: `labels` drawn by the seed, and 1 000 to test on."""
    splits, tokenizer = data.load("reviews"), bert.build_tokenizer()

    def examples(split, number: int) -> list[Example]:
        rows = split[:number]
        ids = tokenizer(list(rows["text"]))["input_ids"]
        pairs = zip(ids, rows["label"], strict=True)
        return [{"input_ids": row, "labels": label} for row, label in pairs]

    train = examples(splits["train"].shuffle(seed=seed), labels)
    return train, examples(splits["test"], TEST_TEXTS)


def fine_tuned(
    train: Sequence[Example],
    test: Sequence[Example],
    settings: Settings,
    head_epochs: int = 0,
) -> FineTuned:
    """Fine-tune the shipped checkpoint, with a head drawn from the settings' seed.

    head_epochs: for so long the head is trained alone before that, with the encoder frozen.
    """
    model, _ = bert.load(head="sequence_classification", seed=settings.seed)
    if head_epochs:
        alone = replace(settings, epochs=head_epochs, learning_rate=HEAD_RATE, frozen=ENCODER)
        Trainer(model, alone, train).fit(progress=False)
        model.requires_grad_(True)
    encoder = [list(layer.values()) for layer in layers_of(model)[:-1]]
    start = [[parameter.detach().clone() for parameter in layer] for layer in encoder]
    drift = []

    def moved(layers, origins) -> float:
        pairs = [
            pair
            for layer, origin in zip(layers, origins, strict=True)
            for pair in zip(layer, origin, strict=True)
        ]
        far = sum((live.detach() - before).square().sum() for live, before in pairs)
        return (far / sum(before.square().sum() for _, before in pairs)).sqrt().item()

    trainer = Trainer(model, settings, train)
    trainer.fit(progress=False, after_step=lambda: drift.append(moved(encoder, start)))
    by_layer = [moved([layer], [origin]) for layer, origin in zip(encoder, start, strict=True)]
    return FineTuned(trainer.evaluate(test)[1], drift, by_layer)


@dataclass(frozen=True)
class RateSweep:
    """accuracy: decay -> (S, R), a row a seed.  by_layer: decay -> (S, R, L + 1), final drift."""

    rates: Sequence[float]
    accuracy: dict[float, np.ndarray]
    by_layer: dict[float, np.ndarray]


def rate_sweep(
    rates: Sequence[float] = RATES,
    decays: Sequence[float] = DECAYS,
    seeds: int = 3,
    labels: int = LABELS,
    **changes,
) -> RateSweep:
    """Sentiment from a few labels at several learning rates, uniform and discriminative.

    decays: xi, 1 for the same rate in all layers.  changes: of `trainer.Settings`.
    A seed draws the labelled reviews, the head and the order of the batches.
    """
    runs = {decay: np.empty((seeds, len(rates)), dtype=object) for decay in decays}
    with tqdm(total=seeds * len(rates) * len(decays), desc="rates", leave=False) as bar:
        for seed in range(seeds):
            texts = reviews(seed, labels)
            for decay in decays:
                for column, rate in enumerate(rates):
                    chosen = {"learning_rate": rate, "layer_decay": decay, "seed": seed}
                    settings = Settings(**SETTINGS | chosen | changes)
                    runs[decay][seed, column] = fine_tuned(*texts, settings)
                    bar.update()
    return RateSweep(
        rates=rates,
        accuracy={d: np.vectorize(lambda run: run.accuracy)(table) for d, table in runs.items()},
        by_layer={
            decay: np.array([[run.by_layer for run in row] for row in table])
            for decay, table in runs.items()
        },
    )


@dataclass(frozen=True)
class Start:
    """How a run begins.

    learning_rate: at the peak.  warmup: share of the steps.  head_epochs: see `fine_tuned`.
    """

    learning_rate: float = 1e-2
    warmup: float = 0.0
    head_epochs: int = 0


STARTS = {
    "no warm-up": Start(),
    "10 % warm-up": Start(warmup=0.1),
    "no warm-up, trained head": Start(head_epochs=8),
    "no warm-up, rate 0.007": Start(learning_rate=7e-3),
}


@dataclass(frozen=True)
class WarmupDrift:
    """drift: name of a start -> (S, T), a row a seed.  accuracy: name of a start -> (S,)."""

    drift: dict[str, np.ndarray]
    accuracy: dict[str, np.ndarray]


def warmup_drift(
    starts: Mapping[str, Start] = STARTS,
    seeds: int = 3,
    labels: int = LABELS,
    **changes,
) -> WarmupDrift:
    """How far the encoder moves when a run begins in several ways, and what comes of it.

    starts: name -> how to begin.  changes: of `trainer.Settings`.
    """
    runs: dict[str, list[FineTuned]] = {name: [] for name in starts}
    with tqdm(total=seeds * len(starts), desc="warm-up", leave=False) as bar:
        for seed in range(seeds):
            texts = reviews(seed, labels)
            for name, start in starts.items():
                chosen = {"learning_rate": start.learning_rate, "warmup_fraction": start.warmup}
                settings = Settings(**SETTINGS | chosen | {"seed": seed} | changes)
                runs[name].append(fine_tuned(*texts, settings, start.head_epochs))
                bar.update()
    return WarmupDrift(
        drift={name: np.array([run.drift for run in found]) for name, found in runs.items()},
        accuracy={name: np.array([run.accuracy for run in found]) for name, found in runs.items()},
    )
