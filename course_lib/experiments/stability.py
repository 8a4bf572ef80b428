"""Notebook 04: temperature schedules over learning rates, and batch sizes."""

import functools
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from course_lib.experiments.contrastive import (
    Step,
    Task,
    constant,
    probe,
    simclr_run,
    task,
    untrained,
)
from course_lib.experiments.results import run_missing
from course_lib.stability import temperature_at

SCHEDULES = {
    "constant 0.5": constant(0.5),
    "constant 0.07": constant(0.07),
    "cosine 0.5 to 0.07": temperature_at,
}
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
EARLY = 32  # steps whose gradient norms are kept, an epoch at batch size 128
PROBE_LABELS = (100, 4096)
BATCH_SIZES = (16, 32, 64, 128, 256, 512)
STEPS, BATCH_SIZE = 320, 128  # 10 epochs of 4 096 pictures
SHIPPED_SCHEDULES = "experiments/temperature_schedules.json"
SHIPPED_BATCH_SIZES = "experiments/batch_sizes.json"


def schedule_run(
    given: Task, schedule: str, learning_rate: float, seed: int, steps: int = STEPS
) -> dict:
    """Train SimCLR by SGD (momentum 0.9) under one of SCHEDULES.

    SGD and not Adam, because Adam divides the size of the gradient out, which is what a
    temperature changes most.
    Returns `accuracy` of a probe by number of labels and `norms`, the gradient norms of the first
    EARLY steps.
    Raises ValueError for an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}.")
    sgd = functools.partial(torch.optim.SGD, lr=learning_rate, momentum=0.9)
    model = untrained(given, seed)
    run = simclr_run(model, given.images, steps, SCHEDULES[schedule], sgd, BATCH_SIZE, seed)
    norms = [step.grad_norm for step in _watched(run, steps, schedule)]
    return {
        "accuracy": probe(model[0], given, PROBE_LABELS),
        "norms": [round(norm, 3) for norm in norms[:EARLY]],
    }


def compare_schedules(
    out: str | Path, steps: int = STEPS, seeds: int = 3, progress: bool = True
) -> dict:
    """Measure every one of SCHEDULES at every one of LEARNING_RATES, and write it to `out`.

    Returns what `results.run_missing` returns; a run has `schedule`, `learning_rate`, `seed`,
    `seconds` and what `schedule_run` returns.
    """
    lite = task()
    wanted = [
        {"schedule": name, "learning_rate": rate, "seed": seed}
        for seed in range(seeds)
        for rate in LEARNING_RATES
        for name in SCHEDULES
    ]

    def measure(run: dict) -> dict:
        started = time.perf_counter()
        result = schedule_run(lite, run["schedule"], run["learning_rate"], run["seed"], steps)
        return {"seconds": round(time.perf_counter() - started)} | result

    return run_missing(out, {"steps": steps, "batch_size": BATCH_SIZE}, wanted, measure, progress)


def compare_batch_sizes(
    out: str | Path, steps: int = STEPS, seeds: int = 3, progress: bool = True
) -> dict:
    """Measure every one of BATCH_SIZES at equal steps and at equal epochs, and write it to `out`.

    SimCLR with Adam at tau = 0.1. `steps` are those of every batch size at equal steps, and of
    BATCH_SIZE at equal epochs; the others take more or fewer, in proportion.
    Returns what `results.run_missing` returns; a run has `batch_size`, `steps`, `seed`, `seconds`
    and `accuracy` of a probe by number of labels.
    """
    lite = task()
    wanted = [
        {"batch_size": size, "steps": taken, "seed": seed}
        for seed in range(seeds)
        for size in BATCH_SIZES
        for taken in sorted({steps, steps * BATCH_SIZE // size})
    ]

    def measure(run: dict) -> dict:
        started = time.perf_counter()
        model = untrained(lite, run["seed"])
        training = simclr_run(
            model,
            lite.images,
            run["steps"],
            constant(0.1),
            batch_size=run["batch_size"],
            seed=run["seed"],
        )
        for _ in _watched(training, run["steps"], f"batch {run['batch_size']}"):
            pass
        accuracy = probe(model[0], lite, PROBE_LABELS)
        return {"seconds": round(time.perf_counter() - started), "accuracy": accuracy}

    return run_missing(out, {"equal_steps": steps}, wanted, measure, progress)


def _watched(run, steps: int, name: str) -> list[Step]:
    """All steps of a run, with a progress bar."""
    return list(tqdm(run, total=steps, desc=name, leave=False))
