"""Stable contrastive training: gradient, temperature, bound and a monitor (notebook 04)."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from course_lib import plots
from course_lib.contrastive import SHORTEST, check_embeddings, unit

ROUNDING = 1e-3  # nats by which rounding may push a loss below 0
SHARPEST = 10.0  # nats a dimension; beyond, 1 - rho^2 is lost in float64's rounding
ENTRIES_AT_ONCE = 2**22  # of the score matrices held at once, 32 MiB in float64
HEALTHY = (1.0, 10.0)  # gradient norms
POINTS = 512  # of a monitor's picture, whatever the length of the run


def candidate_weights(z: Tensor, temperature: float) -> Tensor:
    """The weight p_ij that row i of NT-Xent gives to candidate j: softmax of cos(z_i, z_j) / tau.

    Chen et al. 2020 (2002.05709), eq. 1 and appendix (the gradient of NT-Xent).

    z: (2N, d), floating point, any lengths; rows i and i + N are two views of one example.
    temperature: tau.
    Returns (2N, 2N): rows sum to 1, the diagonal is 0. Half precision is computed in float32.
    Raises what `contrastive.nt_xent` raises, and ValueError for an odd number of rows.
    """
    _check_views(z, temperature)
    with torch.autocast(z.device.type, enabled=False):
        return _weights(unit(z), temperature)


def nt_xent_gradient(z: Tensor, temperature: float) -> Tensor:
    """The gradient of NT-Xent with respect to the embeddings, in closed form.

    With u_i = z_i / |z_i|, the candidate weights P and the matrix Q that is 1 where i and j are a
    pair, the gradient with respect to all u is (P + P^T - 2 Q) u / (2N tau): P for the candidates
    of row i, P^T because i is a candidate of the other rows. The normalisation then removes what
    points along u_i and divides by the length: (g_i - u_i (u_i . g_i)) / |z_i|.
    Chen et al. 2020 (2002.05709), eq. 1, differentiated.

    z: (2N, d), floating point, any lengths; rows i and i + N are two views of one example.
    temperature: tau.
    Returns (2N, d), the gradient of `contrastive.nt_xent(z[:N], z[N:], temperature)`; its norm is
    at most 4 / tau where all |z_i| are 1. Half precision is computed in float32, and the gradient
    is float32 then. The 2N x 2N weights are held in memory.
    Raises what `contrastive.nt_xent` raises, and ValueError for an odd number of rows.
    """
    _check_views(z, temperature)
    with torch.autocast(z.device.type, enabled=False):
        units = unit(z)
        weights = _weights(units, temperature)
        partners = units.roll(len(z) // 2, 0)
        pulls = weights @ units + weights.T @ units - 2 * partners
        gradient = pulls / (len(z) * temperature)
        along = units * (units * gradient).sum(dim=1, keepdim=True)
        lengths = (units * z).sum(dim=1, keepdim=True)
        return (gradient - along) / torch.where(lengths < SHORTEST, 1, lengths)


def temperature_at(
    step: float,
    total_steps: int,
    start: float = 0.5,
    end: float = 0.07,
    warmup_fraction: float = 0.1,
) -> float:
    """The temperature that warms the training up: from `start` to `end` along half a cosine.

    end + (start - end) (1 + cos(pi step / w)) / 2 up to step w = warmup_fraction total_steps,
    then end. w is not rounded.

    step: 0 is the first.  total_steps: of the whole run.  start, end: temperatures above 0.
    Returns a number; with warmup_fraction 0 it is `end` throughout.
    Raises ValueError for a step below 0, no steps, temperatures that are not above 0 and finite,
    or a fraction outside [0, 1].
    """
    if not step >= 0 or not total_steps >= 1:
        raise ValueError(
            "temperature_at needs a step of at least 0 and total_steps of at least 1, got "
            f"{step} and {total_steps}."
        )
    if not (0 < start < math.inf and 0 < end < math.inf):
        raise ValueError(f"Temperatures must be above 0 and finite, got {start} and {end}.")
    if not 0 <= warmup_fraction <= 1:
        raise ValueError(f"warmup_fraction must be in [0, 1], got {warmup_fraction}.")
    warmup_steps = warmup_fraction * total_steps
    if step >= warmup_steps:
        return float(end)
    return end + (start - end) * (1 + math.cos(math.pi * step / warmup_steps)) / 2


def info_nce_bound(loss: float | Tensor, candidates: int) -> float | Tensor:
    """What a contrastive loss proves about the information that two views share, in nats.

    I(z; z+) >= log K - L. It never proves more than log K. van den Oord et al. 2018 (1807.03748),
    eq. 5 and appendix A.1; Poole et al. 2019 (1905.06922), eq. 11.

    loss: L, the mean InfoNCE loss in nats; a number or a tensor of any shape, which keeps its
    gradient.  candidates: K, the terms in the denominator with the positive among them: 2N - 1
    for NT-Xent, the queue and 1 for MoCo.
    Returns log K - loss.
    Raises ValueError for K below 1, and for a loss that is NaN or below 0, which a cross-entropy
    of K candidates with the positive among them cannot be.
    """
    if not candidates >= 1:
        raise ValueError(f"candidates must be at least 1, the positive itself, got {candidates}.")
    values = loss.detach() if isinstance(loss, Tensor) else torch.tensor(float(loss))
    if not (values >= -ROUNDING).all():
        raise ValueError(
            f"An InfoNCE loss is never below 0 or NaN, got {values.min().item():g}: is the "
            "positive among the candidates?"
        )
    return math.log(candidates) - loss


class CorrelatedGaussians:
    """Pairs (x, y) of Gaussian vectors that share a known amount of information.

    Entry k of x and of y have correlation rho, all else is independent, so that
    I(x; y) = -(dim / 2) log(1 - rho^2). Poole et al. 2019 (1905.06922), section 4.

    dim: entries of x and of y.  mutual_information: I(x; y) in nats.
    Raises ValueError for a dim below 1, a negative information, or one above 10 nats a dimension,
    where float64 no longer holds 1 - rho^2.
    """

    def __init__(self, dim: int, mutual_information: float):
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}.")
        if not 0 <= mutual_information <= SHARPEST * dim:
            raise ValueError(
                f"mutual_information must be from 0 to {SHARPEST:g} nats a dimension, got "
                f"{mutual_information} for {dim} dimensions."
            )
        self.dim, self.mutual_information = dim, mutual_information
        self.unexplained = math.exp(-2 * mutual_information / dim)  # 1 - rho^2
        self.rho = math.sqrt(1 - self.unexplained)

    def sample(self, *size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x and y, both (*size, dim) in float64; the last but one axis holds independent pairs."""
        noise = torch.randn(2, *size, self.dim, generator=generator, dtype=torch.float64)
        return noise[0], self.rho * noise[0] + math.sqrt(self.unexplained) * noise[1]

    def log_ratio(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(y_j | x_i) / p(y_j) of all combinations: the best scores that InfoNCE can have.

        x: (..., A, dim).  y: (..., B, dim).
        Returns (..., A, B).
        """
        own_x, own_y = (-(self.rho**2) / 2 * v.square().sum(-1, keepdim=True) for v in (x, y))
        rows = torch.cat([self.rho * x, own_x, torch.ones_like(own_x)], dim=-1)
        columns = torch.cat([y, torch.ones_like(own_y), own_y], dim=-1)
        # One product adds the three terms up, without a matrix (A, B) for each.
        return (rows / self.unexplained @ columns.mT).add_(self.mutual_information)


def info_nce_losses(scores: Tensor) -> Tensor:
    """The InfoNCE loss of each row, -log softmax at the positive, in nats.

    van den Oord et al. 2018 (1807.03748), eq. 4.

    scores: (..., K, K); the positive of row i is column i.
    Returns (..., K).
    """
    return scores.logsumexp(dim=-1) - scores.diagonal(dim1=-2, dim2=-1)


def information_estimates(
    gaussians: CorrelatedGaussians, candidates: int, batches: int, generator: torch.Generator
) -> Tensor:
    """What InfoNCE with the best scores proves about Gaussians, from one batch after another.

    candidates: K, pairs of a batch, each a candidate for all.  batches: independent ones.
    Returns (batches,): log K minus the mean loss of a batch, in nats.
    Raises ValueError for no candidates or no batches.
    """
    if candidates < 1 or batches < 1:
        raise ValueError(
            f"candidates and batches must be at least 1, got {candidates} and {batches}."
        )
    at_once = max(1, ENTRIES_AT_ONCE // candidates**2)
    losses = []
    for first in range(0, batches, at_once):
        x, y = gaussians.sample(min(at_once, batches - first), candidates, generator=generator)
        losses.append(info_nce_losses(gaussians.log_ratio(x, y)).mean(dim=-1))
    return info_nce_bound(torch.cat(losses), candidates)


class TrainingDiverged(FloatingPointError):
    """A gradient norm is NaN or infinite; IPython shows the sentence without a traceback."""

    def _render_traceback_(self):
        return [f"{type(self).__name__}: {self}"]


@dataclass
class Stretch:
    """Neighbouring steps of a run, merged for a picture."""

    first_step: int
    lowest: float
    highest: float
    alarms: int

    def merged(self, later: "Stretch") -> "Stretch":
        return Stretch(
            self.first_step,
            min(self.lowest, later.lowest),
            max(self.highest, later.highest),
            self.alarms + later.alarms,
        )


class StabilityMonitor:
    """Watches the gradient norms of a training run: an alarm early on, a stop at NaN.

    It holds the last `window` norms and a picture of the whole run in at most 512 points, so its
    memory does not grow with the run.

    steps_per_epoch: an alarm is given in the first epoch only, in steps 0 to steps_per_epoch - 1.
    limit: the largest norm without an alarm.  window: norms kept in `recent`.
    Raises ValueError for steps_per_epoch or window below 1, or a limit that is not above 0.
    """

    def __init__(self, steps_per_epoch: int, limit: float = 100.0, window: int = 100):
        if steps_per_epoch < 1 or window < 1 or not limit > 0:
            raise ValueError(
                "steps_per_epoch and window must be at least 1 and limit above 0, got "
                f"{steps_per_epoch}, {window} and {limit}."
            )
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self._recent: deque[float] = deque(maxlen=window)
        self._stretches: list[Stretch] = []
        self._per_stretch, self._updates, self.alarms = 1, 0, 0

    @property
    def recent(self) -> list[float]:
        """The last `window` norms, oldest first."""
        return list(self._recent)

    def update(self, step: int, grad_norm: float | Tensor) -> bool:
        """Record the gradient norm of a step, counted from 0.

        grad_norm: a number or a tensor of one entry, for example what
        `torch.nn.utils.clip_grad_norm_` returns.
        Returns True for an alarm: a norm above the limit in the first epoch.
        Raises TrainingDiverged, a FloatingPointError, for a norm that is NaN or infinite, and
        ValueError for a negative step or norm, or for more than one number.
        """
        if isinstance(grad_norm, Tensor) and grad_norm.numel() != 1:
            raise ValueError(f"grad_norm must be one number, got shape {tuple(grad_norm.shape)}.")
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise TrainingDiverged(self._what_to_try(step, norm))
        if step < 0 or norm < 0:
            raise ValueError(f"step and grad_norm must be at least 0, got {step} and {norm}.")
        alarm = step < self.steps_per_epoch and norm > self.limit
        self.alarms += alarm
        self._recent.append(norm)
        self._add_to_picture(Stretch(step, norm, norm, int(alarm)))
        return alarm

    def figure(self) -> tuple[Figure, str]:
        """The norms of the whole run on a logarithmic axis, and the picture in words.

        Where steps are merged, the line is the largest norm of each stretch and the band reaches
        down to the smallest. The words name powers of ten only, so that they are the same on
        every machine.
        """
        figure, [axis] = plots.panels(1, ["gradient norm"])
        steps = [stretch.first_step for stretch in self._stretches]
        floor = HEALTHY[0] / 1e6  # a norm of 0 has no place on the axis
        lows, highs = (
            [max(norm, floor) for norm in norms]
            for norms in (
                [stretch.lowest for stretch in self._stretches],
                [stretch.highest for stretch in self._stretches],
            )
        )
        axis.set(yscale="log", xlabel="step", ylabel="norm")
        plots.line(axis, steps, highs, "gradient norm")
        axis.fill_between(steps, lows, highs, color="#000000", alpha=0.15, linewidth=0)
        alarmed = [(s.first_step, s.highest) for s in self._stretches if s.alarms]
        if alarmed:
            axis.plot(*zip(*alarmed, strict=True), "x", color="#d55e00", label="alarm")
            axis.legend(fontsize=8)
        plots.limit(axis, HEALTHY[0], "healthy from here")
        plots.limit(axis, HEALTHY[1], "healthy up to here")
        plots.limit(axis, self.limit, "limit")
        return figure, self._in_words(lows, highs)

    @contextmanager
    def live(self, total_steps: int) -> Iterator[Callable[[int, float | Tensor], bool]]:
        """Watch a run while it trains: a bar with the latest norm, the figure below it.

        `with monitor.live(total_steps) as update:` gives an `update(step, grad_norm)` that calls
        the monitor's and moves the bar. At the end, and after an error too, the last figure stays.
        Outside a notebook there is the bar alone.
        """
        from tqdm.auto import tqdm

        with (
            tqdm(total=total_steps, desc="training", leave=False) as bar,
            plots.live(self.figure) as redraw,
        ):

            def update(step: int, grad_norm: float | Tensor) -> bool:
                alarm = self.update(step, grad_norm)
                bar.set_postfix(norm=f"{float(grad_norm):.3g}", refresh=False)
                bar.update()
                redraw()
                return alarm

            yield update

    def _add_to_picture(self, latest: Stretch) -> None:
        """Every stretch holds `_per_stretch` updates, the last one perhaps fewer."""
        stretches = self._stretches
        if self._updates % self._per_stretch:
            stretches[-1] = stretches[-1].merged(latest)
        else:
            if len(stretches) == POINTS:
                pairs = zip(stretches[::2], stretches[1::2], strict=True)
                stretches[:] = [earlier.merged(later) for earlier, later in pairs]
                self._per_stretch *= 2
            stretches.append(latest)
        self._updates += 1

    def _what_to_try(self, step: int, norm: float) -> str:
        before = f"the last finite one was {self._recent[-1]:.3g}" if self._recent else "the first"
        return (
            f"The gradient norm of step {step} is {norm} ({before}). Try a lower learning rate, a "
            "learning-rate warm-up, a warmer temperature at the start, or float32."
        )

    def _in_words(self, lows: list[float], highs: list[float]) -> str:
        if not lows:
            return "An empty picture: no gradient norm has been recorded yet."
        low, high = math.floor(math.log10(min(lows))), math.ceil(math.log10(max(highs)))
        alarms = {0: "no alarm", 1: "1 alarm"}.get(self.alarms, f"{self.alarms} alarms")
        return (
            f"Gradient norms on a logarithmic axis, {self._updates} recorded, all between "
            f"{10.0**low:g} and {10.0**high:g}. Lines at {HEALTHY[0]:g} and {HEALTHY[1]:g}, "
            f"between which they are healthy, and at the limit of {self.limit:g}; {alarms}."
        )


def _check_views(z: Tensor, temperature: float) -> None:
    if z.ndim != 2 or len(z) % 2:
        raise ValueError(
            f"z must be (2N, d), rows i and i + N two views of one example, got {tuple(z.shape)}."
        )
    first, second = z.chunk(2) if len(z) else (z, z)
    check_embeddings({"z[:N]": first, "z[N:]": second}, temperature)


def _weights(units: Tensor, temperature: float) -> Tensor:
    """The candidate weights of embeddings of length 1 (or 0), (2N, 2N)."""
    return (units @ units.T / temperature).fill_diagonal_(-math.inf).softmax(dim=1)
