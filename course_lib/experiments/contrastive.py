"""Notebook 03: what SimCLR learns without labels, beside other features; MoCo beside SimCLR."""

import copy
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from course_lib.augmentations import greyscale, two_views
from course_lib.contrastive import KeyQueue, gather_keys, moco_loss, momentum_update, nt_xent
from course_lib.encoders import resnet18_cifar, small_encoder
from course_lib.experiments.results import run_missing
from course_lib.freezing import linear_probe
from course_lib.images import SHAPES, cifar10, shapes

EMBEDDING = 32  # entries of z
STRENGTH = 0.6  # of the augmentation, see `augmentations.augment`
PENALTY = 10.0  # of the probe's weights
LABELS = (100, 300, 1000, 4096)  # how many a probe or a supervised network gets
SHIPPED_FEATURES = "experiments/contrastive_features.json"
SHIPPED_MOCO = "experiments/moco.json"

Temperature = Callable[[int, int], float]  # (step, total steps) -> tau
MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
MakeViews = Callable[[Tensor, torch.Generator], Sequence[Tensor]]  # two like the pictures
adam = functools.partial(torch.optim.Adam, lr=3e-3)
simclr_views = functools.partial(two_views, strength=STRENGTH)


@dataclass(frozen=True)
class Task:
    """Pictures with labels to train and to test on, and an untrained encoder for them."""

    images: Tensor  # (N, 3, H, W)
    labels: Tensor  # (N,)
    test_images: Tensor  # (M, 3, H, W)
    test_labels: Tensor  # (M,)
    make_encoder: Callable[[], nn.Module]


def task(scale: str = "lite", device: str = "cpu") -> Task:
    """The ten shapes and a small encoder, or ("full") CIFAR-10 and ResNet-18.

    lite: 4 096 pictures to train on and 2 000 to test on, see `images.shapes`.
    Raises ValueError for another scale, and at scale "full" what `images.cifar10` raises.
    """
    if scale == "lite":
        parts, make_encoder = (*shapes(4096, seed=1), *shapes(2000, seed=2)), small_encoder
    elif scale == "full":
        parts, make_encoder = (*cifar10("train"), *cifar10("test")), resnet18_cifar
    else:
        raise ValueError(f"scale must be lite or full, got {scale!r}.")
    return Task(*(part.to(device) for part in parts), make_encoder)


class Step(NamedTuple):
    """What happened in one step of training; the first has number 0."""

    number: int
    loss: float
    grad_norm: float


def constant(temperature: float) -> Temperature:
    """The schedule that keeps a temperature."""
    return lambda step, total_steps: temperature


def projected(encoder: nn.Module) -> nn.Sequential:
    """Encoder and projection head, for training only: the probe looks at the encoder's output.

    Chen et al. 2020 (2002.05709), section 4.2.
    """
    head = nn.Sequential(nn.Linear(encoder.dim, 64), nn.ReLU(), nn.Linear(64, EMBEDDING))
    return nn.Sequential(encoder, head)


def simclr_run(
    model: nn.Module,
    images: Tensor,
    steps: int,
    temperature: Temperature,
    make_optimizer: MakeOptimizer = adam,
    batch_size: int = 128,
    seed: int = 0,
    make_views: MakeViews = simclr_views,
) -> Iterator[Step]:
    """Train on two views of every picture with NT-Xent, and yield what happens in each step.

    The learning rate falls to 0 along half a cosine. Chen et al. 2020 (2002.05709), algorithm 1.

    model: images -> embeddings (B, d), in training mode; it is trained in place.
    images: (N, 3, H, W), on the model's device.  seed: of the batches and views.
    make_views: (pictures of a batch, generator) -> two views of each.
    """

    def loss_of(rows: Tensor, step: int, generator: torch.Generator) -> Tensor:
        views = [channels_last(view) for view in make_views(images[rows], generator)]
        z1, z2 = model(torch.cat(views)).chunk(2)
        return nt_xent(z1, z2, temperature(step, steps))

    return training(model, images, steps, loss_of, make_optimizer, batch_size, seed)


def moco_run(
    model: nn.Module,
    images: Tensor,
    steps: int,
    temperature: Temperature,
    make_optimizer: MakeOptimizer = adam,
    batch_size: int = 128,
    seed: int = 0,
    queue_size: int = 1024,
    momentum: float = 0.99,
    groups: int = 4,
    make_views: MakeViews = simclr_views,
) -> Iterator[Step]:
    """Train on one view as query and one as key, with a queue of old keys as negatives.

    He et al. 2020 (1911.05722), algorithm 1. Arguments as for `simclr_run`.

    groups: BatchNorm works on so many parts of a batch, of queries in their order and of keys in
    another. It stands for the paper's "shuffling BN" across GPUs (section 3.3): with the same
    statistics for a query and its key, the network could tell them by those.
    Differs from the paper in that the queue starts empty.
    """
    key_model = copy.deepcopy(model).requires_grad_(False)
    queue = KeyQueue(queue_size, EMBEDDING).to(images.device)
    shuffling = torch.Generator(images.device).manual_seed(seed)

    def loss_of(rows: Tensor, step: int, generator: torch.Generator) -> Tensor:
        first, second = make_views(images[rows], generator)
        queries = torch.cat([model(part) for part in channels_last(first).chunk(groups)])
        order = torch.randperm(len(second), generator=shuffling, device=images.device)
        shuffled = channels_last(second[order])
        with torch.no_grad():
            momentum_update(key_model, model, momentum)
            keys = torch.cat([key_model(part) for part in shuffled.chunk(groups)])
            keys = F.normalize(keys[order.argsort()], dim=1)
        loss = moco_loss(queries, keys, queue.keys.clone(), temperature(step, steps))
        queue.enqueue(gather_keys(keys))
        return loss

    return training(model, images, steps, loss_of, make_optimizer, batch_size, seed)


def supervised_run(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    steps: int,
    make_optimizer: MakeOptimizer = adam,
    batch_size: int = 128,
    seed: int = 0,
) -> Iterator[Step]:
    """Train a classifier, images -> logits, on pictures as they are; else as `simclr_run`."""

    def loss_of(rows: Tensor, step: int, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(channels_last(images[rows])), labels[rows])

    size = min(batch_size, len(images))
    return training(model, images, steps, loss_of, make_optimizer, size, seed)


def features(encoder: nn.Module, images: Tensor) -> Tensor:
    """The encoder's output on pictures as they are, (N, dim), in evaluation mode, on the CPU."""
    was_training = encoder.training
    encoder.eval()
    with torch.no_grad():
        parts = [encoder(channels_last(part)) for part in images.split(512)]
    encoder.train(was_training)
    return torch.cat(parts).cpu()


def probe(encoder: nn.Module, task: Task, labels: Sequence[int] = LABELS) -> dict[str, float]:
    """Test accuracy of a linear probe on frozen features, for the first so many labels."""
    return _probe(features(encoder, task.images), features(encoder, task.test_images), task, labels)


def _probe(train: Tensor, test: Tensor, task: Task, labels: Sequence[int]) -> dict[str, float]:
    train_labels, test_labels = task.labels.cpu(), task.test_labels.cpu()
    return {
        str(number): linear_probe(
            train[:number], train_labels[:number], test, test_labels, PENALTY, 300
        )
        for number in labels
    }


def simclr(task: Task, seed: int, steps: int = 320) -> nn.Sequential:
    """Encoder and head trained by SimCLR with tau = 0.1, in batches of 128 or of all there are."""
    model = untrained(task, seed)
    size = min(128, len(task.images))
    run = simclr_run(model, task.images, steps, constant(0.1), batch_size=size, seed=seed)
    finish(run, steps, "SimCLR")
    return model


def untrained(task: Task, seed: int) -> nn.Sequential:
    """Encoder and projection head with the random weights of a seed, in training mode."""
    torch.manual_seed(seed)
    model = projected(task.make_encoder()).to(task.images.device)
    return model.to(memory_format=torch.channels_last).train()


def settled(task: Task, seed: int) -> nn.Module:
    """A random encoder whose BatchNorm has the statistics of the pictures, and nothing else."""
    encoder = untrained(task, seed)[0]
    with torch.no_grad():
        for part in task.images.split(512):
            encoder(channels_last(part))
    return encoder


def supervised_accuracy(task: Task, labels: int, seed: int, steps: int = 320) -> float:
    """Test accuracy of a network trained from random weights on the first so many labels."""
    encoder = untrained(task, seed)[0]
    model = nn.Sequential(encoder, nn.Linear(encoder.dim, int(task.labels.max()) + 1))
    model.to(task.images.device)
    images, given = task.images[:labels], task.labels[:labels]
    finish(supervised_run(model, images, given, steps, seed=seed), steps, f"{labels} labels")
    right = features(model, task.test_images).argmax(dim=1) == task.test_labels.cpu()
    return right.float().mean().item()


FEATURES = ("SimCLR", "random weights", "raw pixels", "supervised")


def measure_features(
    task: Task, name: str, seed: int, steps: int = 320, labels: Sequence[int] = LABELS
) -> dict[str, float]:
    """Test accuracy by number of labels, of a probe on features or of a supervised network.

    name: one of FEATURES.
    Raises ValueError for another name.
    """
    if name == "SimCLR":
        return probe(simclr(task, seed, steps)[0], task, labels)
    if name == "random weights":
        return probe(settled(task, seed), task, labels)
    if name == "raw pixels":
        return _probe(task.images.flatten(1).cpu(), task.test_images.flatten(1).cpu(), task, labels)
    if name == "supervised":
        return {str(n): supervised_accuracy(task, n, seed, steps) for n in labels}
    raise ValueError(f"name must be one of {', '.join(FEATURES)}, got {name!r}.")


def compare_features(
    out: str | Path, steps: int = 320, seeds: int = 5, progress: bool = True
) -> dict:
    """Measure all of FEATURES with every seed, at scale "lite", and write it to `out`.

    Returns what `results.run_missing` returns; a run has `features`, `seed`, `seconds` and
    `accuracy` by number of labels.
    """
    lite = task()
    settings = {"steps": steps, "labels": list(LABELS)}
    wanted = [{"features": name, "seed": seed} for seed in range(seeds) for name in FEATURES]

    def measure(run: dict) -> dict:
        started = time.perf_counter()
        accuracy = measure_features(lite, run["features"], run["seed"], steps)
        return {"seconds": round(time.perf_counter() - started), "accuracy": accuracy}

    return run_missing(out, settings, wanted, measure, progress)


def remembered(model: nn.Sequential, task: Task, seed: int = 0) -> dict[str, dict[str, float]]:
    """Whether probes can tell what the views of SimCLR changed: mirrored? grey? And which shape?

    Half of the pictures are changed, by a draw from the seed. Only ells and crescents are asked for
    mirrors: these shapes are never mirrored otherwise, and the others look alike both ways.
    Chen et al. 2020 (2002.05709), section 4.2 and table 3.

    model: encoder and projection head.
    Returns question -> {"features": test accuracy, "embeddings": the same after the head}.
    """
    generator = torch.Generator().manual_seed(seed)
    one_sided = torch.tensor([SHAPES.index("ell"), SHAPES.index("crescent")])
    sides = ((task.images, task.labels), (task.test_images, task.test_labels))
    exams: dict[str, list[tuple[Tensor, Tensor]]] = {"mirrored?": [], "grey?": [], "shape?": []}
    for images, labels in sides:
        for question, chosen, change in (
            ("mirrored?", torch.isin(labels.cpu(), one_sided), lambda pictures: pictures.flip(3)),
            ("grey?", slice(None), lambda pictures: greyscale(pictures, generator, 1.0)),
        ):
            pictures = images[chosen].cpu()
            changed = torch.rand(len(pictures), generator=generator) < 0.5
            mixed = torch.where(changed[:, None, None, None], change(pictures), pictures)
            exams[question].append((mixed, changed.long()))
        exams["shape?"].append((images.cpu(), labels.cpu()))
    found = {}
    for question, ((train, train_labels), (test, test_labels)) in exams.items():
        found[question] = {
            name: linear_probe(
                features(reader, train), train_labels, features(reader, test), test_labels, PENALTY
            )
            for name, reader in (("features", model[0]), ("embeddings", model))
        }
    return found


SMALL_BATCH, SMALL_BATCH_STEPS = 32, 640
SIMCLR = {"method": "SimCLR", "momentum": None, "queue_size": None, "groups": None}
MOCO = {"method": "MoCo", "momentum": 0.99, "queue_size": 1024, "groups": 4}
MOCO_SETTINGS = (
    SIMCLR,
    *(MOCO | {"momentum": m} for m in (0.0, 0.9, 0.95, 0.99, 0.999)),
    *(MOCO | {"queue_size": size} for size in (64, 256, 4096)),
    MOCO | {"groups": 1},
)


def small_batch_encoder(
    given: Task,
    seed: int,
    method: str,
    momentum: float | None,
    queue_size: int | None,
    groups: int | None,
    steps: int = SMALL_BATCH_STEPS,
) -> nn.Module:
    """An encoder trained in batches of 32 at tau = 0.1, by one of MOCO_SETTINGS.

    Adam at 3e-3 for SimCLR and at 1e-3 for MoCo, the better of the two for each (one seed).
    """
    model = untrained(given, seed)
    shared = {"batch_size": SMALL_BATCH, "seed": seed}
    if method == "SimCLR":
        run = simclr_run(model, given.images, steps, constant(0.1), **shared)
    else:
        slower = functools.partial(torch.optim.Adam, lr=1e-3)
        own = {"queue_size": queue_size, "momentum": momentum, "groups": groups}
        run = moco_run(model, given.images, steps, constant(0.1), slower, **shared, **own)
    finish(run, steps, method)
    return model[0]


def compare_moco(
    out: str | Path, steps: int = SMALL_BATCH_STEPS, seeds: int = 3, progress: bool = True
) -> dict:
    """Measure every one of MOCO_SETTINGS by a probe, at scale "lite", and write it to `out`.

    Returns what `results.run_missing` returns; a run has the setting, `seed`, `seconds` and
    `accuracy` of a probe by number of labels.
    """
    lite = task()
    wanted = [setting | {"seed": seed} for seed in range(seeds) for setting in MOCO_SETTINGS]

    def measure(run: dict) -> dict:
        started = time.perf_counter()
        accuracy = probe(small_batch_encoder(lite, **run, steps=steps), lite)
        return {"seconds": round(time.perf_counter() - started), "accuracy": accuracy}

    return run_missing(out, {"steps": steps, "batch_size": SMALL_BATCH}, wanted, measure, progress)


def training(
    model: nn.Module,
    images: Tensor,
    steps: int,
    loss_of: Callable[[Tensor, int, torch.Generator], Tensor],
    make_optimizer: MakeOptimizer,
    batch_size: int,
    seed: int,
) -> Iterator[Step]:
    """The loop of all methods. loss_of: (rows of a batch, step, source of chance) -> loss."""
    if not 2 <= batch_size <= len(images):
        raise ValueError(
            f"batch_size must be from 2 to the number of pictures, {len(images)}, got {batch_size}."
        )
    optimizer = make_optimizer(list(model.parameters()))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator(images.device).manual_seed(seed)
    rows = _batches(len(images), batch_size, generator)
    for number in range(steps):
        yield _step(number, loss_of(next(rows), number, generator), model, optimizer, schedule)


def channels_last(pictures: Tensor) -> Tensor:
    """The same pictures in the memory order in which convolutions are faster on a CPU."""
    return pictures.contiguous(memory_format=torch.channels_last)


def _step(number: int, loss: Tensor, model: nn.Module, optimizer, schedule) -> Step:
    optimizer.zero_grad()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients).item()
    if not (math.isfinite(norm) and math.isfinite(loss.item())):
        raise FloatingPointError(f"The loss or its gradient is not finite at step {number}.")
    optimizer.step()
    schedule.step()
    return Step(number, loss.item(), norm)


def _batches(number: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of full batches without end, in a new order every time through the data."""
    while True:
        order = torch.randperm(number, generator=generator, device=generator.device)
        for first in range(0, number - batch_size + 1, batch_size):
            yield order[first : first + batch_size]


def finish(run: Iterator[Step], steps: int, name: str) -> None:
    """Train to the end with a progress bar."""
    for _ in tqdm(run, total=steps, desc=name, leave=False):
        pass
