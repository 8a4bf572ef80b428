"""Learning rates over the steps of a run: warm-up, then decay (notebook 06)."""

import math

SHAPES = ("linear", "cosine")


def warmup_then_decay(
    step: int, warmup_steps: int, total_steps: int, shape: str = "linear"
) -> float:
    """The share of the peak learning rate at a step: a linear rise to 1, then a fall to 0.

    step / warmup_steps before step warmup_steps, where it is 1; then, with p the share of the
    remaining steps that is over, 1 - p ("linear", Devlin et al. 2019, 1810.04805, A.2) or
    (1 + cos(pi p)) / 2 ("cosine", Loshchilov and Hutter 2017, 1608.03983, eq. 5, one period).

    step: optimiser steps taken so far, so step 0 has the rate of the first one.
    warmup_steps: 0 starts at the peak.  total_steps: from here on the rate is 0.
    Returns a number from 0 to 1, to be multiplied with the peak rate (for `LambdaLR`).
    Raises ValueError for a negative step, warmup_steps outside [0, total_steps], total_steps
    below 1, or an unknown shape.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}.")
    if not step >= 0:
        raise ValueError(f"step must be at least 0, got {step}.")
    if not (total_steps >= 1 and 0 <= warmup_steps <= total_steps):
        raise ValueError(
            "total_steps must be at least 1 and warmup_steps from 0 to total_steps, got "
            f"{total_steps} and {warmup_steps}."
        )
    if step >= total_steps:
        return 0.0
    if step < warmup_steps:
        return step / warmup_steps
    over = (step - warmup_steps) / (total_steps - warmup_steps)
    return 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2
