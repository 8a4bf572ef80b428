"""Notebook 05: what to train, by the number of labels and the distance of the task."""

import copy
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from course_lib.bayes import l2_anchor
from course_lib.encoders import small_encoder
from course_lib.experiments.contrastive import (
    adam,
    channels_last,
    features,
    finish,
    supervised_run,
    training,
)
from course_lib.experiments.results import run_missing
from course_lib.freezing import freeze, layers_to_train, linear_probe, train_mode
from course_lib.images import SHAPES, shapes, textures
from course_lib.layerwise import layerwise_lrs

SHIPPED_STRATEGIES = "experiments/freezing_strategies.json"
SOURCE = (4096, 320)  # pictures and steps of the pre-training
TEST = 2000  # pictures
LABELS = (30, 100, 300, 1000, 3000, 10_000)
RATE, BATCH = 3e-3, 64
TARGETS: dict[str, Callable[[int, int], tuple[Tensor, Tensor]]] = {
    "smaller shapes": functools.partial(shapes, domain="C"),
    "outlines": functools.partial(shapes, domain="B"),
    "textures": textures,
}
FROZEN = {  # stages of the encoder that each strategy leaves as they are
    "freeze bottom": ("0.stages.0", "0.stages.1"),
    "freeze middle": ("0.stages.1",),
    "gradual": (),
    "full": (),
    "discriminative": (),
    "scratch": (),
}
STRATEGIES = ("probe", *FROZEN)
STRENGTHS = (0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Target:
    """A new task: pictures with labels to fine-tune on, in a random order, and to test on."""

    images: Tensor  # (N, 3, H, W)
    labels: Tensor  # (N,)
    test_images: Tensor  # (M, 3, H, W)
    test_labels: Tensor  # (M,)


def target(name: str, seed: int = 0, labels: int = max(LABELS)) -> Target:
    """One of TARGETS; the seed draws the pictures to train on, the test set is always the same.

    Raises ValueError for another name.
    """
    if name not in TARGETS:
        raise ValueError(f"name must be one of {', '.join(TARGETS)}, got {name!r}.")
    return Target(*TARGETS[name](labels, 100 + seed), *TARGETS[name](TEST, 99))


def classifier(encoder: nn.Module, seed: int) -> nn.Sequential:
    """Encoder and a fresh linear head with the random weights of a seed."""
    torch.manual_seed(seed)
    model = nn.Sequential(encoder, nn.Linear(encoder.dim, len(SHAPES)))
    return model.to(memory_format=torch.channels_last).train()


def fresh_encoder(seed: int) -> nn.Module:
    """The encoder with the random weights of a seed."""
    torch.manual_seed(seed)
    return small_encoder()


def pretrained_encoder(seed: int = 0, pictures: int = SOURCE[0], steps: int = SOURCE[1]):
    """The encoder of a classifier that learned the ten filled shapes (domain A) with labels."""
    model = classifier(fresh_encoder(seed), seed)
    run = supervised_run(model, *shapes(pictures, seed=1), steps, seed=seed)
    finish(run, steps, "pre-training")
    return model[0]


def steps_for(labels: int) -> int:
    """Six epochs, but at least 200 steps: long enough for few labels and for many."""
    return max(200, round(6 * labels / BATCH))


def fine_tuned(
    encoder: nn.Module, given: Target, labels: int, strategy: str, seed: int = 0
) -> nn.Sequential:
    """A classifier for the first so many labels, from a copy of the encoder.

    strategy: one of FROZEN; "scratch" takes the architecture alone. All have Adam at 3e-3 and a
    cosine decay; "discriminative" has 3e-3 for the head and the top stage and 2.6 times less for
    each stage below; "gradual" trains the head for a quarter of the steps, then one stage more in
    every further quarter.
    Raises ValueError for another strategy.
    """
    if strategy not in FROZEN:
        raise ValueError(f"strategy must be one of {', '.join(FROZEN)}, got {strategy!r}.")
    start = fresh_encoder(seed) if strategy == "scratch" else copy.deepcopy(encoder)
    model = classifier(start, seed)
    if FROZEN[strategy]:
        freeze(model, FROZEN[strategy])
    layers = [*model[0].stages, model[1]]
    make_optimizer = functools.partial(torch.optim.Adam, lr=RATE)
    if strategy == "discriminative":
        rates = layerwise_lrs(RATE, len(layers) - 2)
        groups = [
            {"params": list(layer.parameters()), "lr": rate}
            for layer, rate in zip(layers, rates, strict=True)
        ]
        make_optimizer = lambda parameters: torch.optim.Adam(groups)  # noqa: E731
    train_mode(model)
    steps = steps_for(labels)
    batch = min(BATCH, labels)
    images, answers = given.images[:labels], given.labels[:labels]
    run = supervised_run(model, images, answers, steps, make_optimizer, batch, seed)
    for step in range(steps):
        if strategy == "gradual" and step % (steps // 4) == 0:
            _train_only(model, layers, layers_to_train(4 * step // steps, len(layers) - 2))
        next(run)
    return model


def _train_only(model: nn.Module, layers: Sequence[nn.Module], chosen: Sequence[int]) -> None:
    for number, layer in enumerate(layers):
        layer.requires_grad_(number in chosen)
    train_mode(model)


def accuracy(model: nn.Module, given: Target) -> float:
    """On the test set, 0 to 1."""
    guesses = features(model, given.test_images).argmax(dim=1)
    return (guesses == given.test_labels).float().mean().item()


def strategy_accuracy(
    encoder: nn.Module, given: Target, labels: int, strategy: str, seed: int = 0
) -> float:
    """Test accuracy of one of STRATEGIES with the first so many labels."""
    if strategy == "probe":
        train, test = (
            features(encoder, part) for part in (given.images[:labels], given.test_images)
        )
        return linear_probe(train, given.labels[:labels], test, given.test_labels, 10.0, 300)
    return accuracy(fine_tuned(encoder, given, labels, strategy, seed), given)


def compare_strategies(out: str | Path, seeds: int = 3, progress: bool = True) -> dict:
    """Measure every strategy on every target with every number of labels, and write it to `out`.

    Returns what `results.run_missing` returns; a run has `target`, `strategy`, `labels`, `seed`,
    `seconds` and `accuracy`. A seed draws the pre-training, the labelled pictures, the head and
    the batches.
    """
    encoder_of = functools.cache(lambda seed: pretrained_encoder(seed, *SOURCE))
    target_of = functools.lru_cache(len(TARGETS))(
        lambda name, seed: target(name, seed, max(LABELS))
    )
    wanted = [
        {"target": name, "strategy": strategy, "labels": labels, "seed": seed}
        for seed in range(seeds)
        for name in TARGETS
        for labels in LABELS
        for strategy in STRATEGIES
    ]

    def measure(run: dict) -> dict:
        encoder, given = encoder_of(run["seed"]), target_of(run["target"], run["seed"])
        started = time.perf_counter()
        found = strategy_accuracy(encoder, given, run["labels"], run["strategy"], run["seed"])
        return {"seconds": round(time.perf_counter() - started, 1), "accuracy": found}

    settings = {"source": list(SOURCE), "rate": RATE, "batch_size": BATCH}
    return run_missing(out, settings, wanted, measure, progress)


def crossing(labels: Sequence[int], first: np.ndarray, second: np.ndarray) -> float | None:
    """The number of labels at which `second` overtakes `first`, between two measurements.

    first, second: mean accuracy by labels.  Interpolated on a logarithmic axis of labels.
    Returns None if it is never behind, or never ahead afterwards.
    """
    ahead = np.asarray(second) - np.asarray(first)
    for i in range(len(labels) - 1):
        if ahead[i] < 0 <= ahead[i + 1]:
            share = ahead[i] / (ahead[i] - ahead[i + 1])
            return float(labels[i] * (labels[i + 1] / labels[i]) ** share)
    return None


@dataclass(frozen=True)
class AnchorSweep:
    """accuracy, moved: (S, K), a row a seed.  frozen: (S,), accuracy of the frozen encoder.

    moved: |theta - theta_pre| / |theta_pre| of the encoder at the end.
    """

    strengths: Sequence[float]
    accuracy: np.ndarray
    moved: np.ndarray
    frozen: np.ndarray


def anchor_sweep(
    encoder: nn.Module,
    name: str = "smaller shapes",
    labels: int = 100,
    strengths: Sequence[float] = STRENGTHS,
    seeds: int = 2,
) -> AnchorSweep:
    """Fine-tuning with the penalty strength * |theta - theta_pre|^2 beside a frozen encoder.

    The encoder is in evaluation mode in all of them, so that BatchNorm's statistics, which no
    penalty holds back, are the same. A seed draws the labelled pictures, the head and the batches.
    """
    shape = (seeds, len(strengths))
    accuracies, moved, frozen = np.zeros(shape), np.zeros(shape), np.zeros(seeds)
    with tqdm(total=seeds * (len(strengths) + 1), desc="anchor", leave=False) as bar:
        for seed in range(seeds):
            given = target(name, seed, labels)
            for column, strength in enumerate(strengths):
                model = _anchored(encoder, given, strength, seed)
                accuracies[seed, column] = accuracy(model, given)
                moved[seed, column] = _distance(model[0], encoder)
                bar.update()
            frozen[seed] = accuracy(_anchored(encoder, given, None, seed), given)
            bar.update()
    return AnchorSweep(strengths, accuracies, moved, frozen)


def _anchored(encoder: nn.Module, given: Target, strength: float | None, seed: int):
    """A classifier trained with the anchor; None is a frozen encoder."""
    model = classifier(copy.deepcopy(encoder), seed)
    if strength is None:
        freeze(model, ["0"])
    model[0].eval()
    live = dict(model[0].named_parameters())
    anchor = {name: parameter.detach().clone() for name, parameter in live.items()}

    def loss_of(rows: Tensor, step: int, generator: torch.Generator) -> Tensor:
        loss = F.cross_entropy(model(channels_last(given.images[rows])), given.labels[rows])
        return loss + l2_anchor(live, anchor, strength) if strength else loss

    size = min(BATCH, len(given.images))
    steps = steps_for(len(given.images))
    for _ in training(model, given.images, steps, loss_of, adam, size, seed):
        pass  # `anchor_sweep` has the progress bar
    return model


@torch.no_grad()
def _distance(model: nn.Module, start: nn.Module) -> float:
    pairs = list(zip(model.parameters(), start.parameters(), strict=True))
    far = sum((live - before).square().sum() for live, before in pairs)
    return (far / sum(before.square().sum() for _, before in pairs)).sqrt().item()
