"""Other answers to the exercises of `course_lib.stability`: right ones, and known mistakes
reworded. tests/test_check_banks.py puts them through the checks."""

import math
from collections import deque

import numpy as np
import torch
from torch.nn import functional as F

# nt_xent_gradient, right


def gradient_row_by_row(z, temperature):
    size = len(z)
    u = [row / row.norm() for row in z]
    p = torch.zeros(size, size, dtype=z.dtype)
    for i in range(size):
        others = [j for j in range(size) if j != i]
        logits = torch.stack([u[i] @ u[j] / temperature for j in others])
        p[i, others] = torch.softmax(logits, dim=0)
    gradient = torch.zeros_like(z)
    for i in range(size):
        positive = (i + size // 2) % size
        total = torch.zeros_like(z[i])
        for j in range(size):
            if j != i:
                total += (p[i, j] + p[j, i]) * u[j]
        total = (total - 2 * u[positive]) / (size * temperature)
        gradient[i] = (total - u[i] * (u[i] @ total)) / z[i].norm()
    return gradient


def gradient_by_einsum_in_float64(z, temperature):
    u = F.normalize(z.double(), dim=1)
    logits = torch.einsum("id,jd->ij", u, u) / temperature
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
    errors = logits.softmax(-1) - torch.eye(len(z)).roll(len(z) // 2, 0)
    g = torch.einsum("ij,jd->id", errors + errors.T, u) / temperature / len(z)
    jacobian = torch.eye(z.shape[1]) - torch.einsum("id,ie->ide", u, u)
    g = torch.einsum("ide,ie->id", jacobian, g) / z.double().norm(dim=1)[:, None]
    return g.to(z.dtype)


def gradient_through_the_cosines(z, temperature):
    """dL/ds_ij times ds_ij/dz_i, with ds/dz_i = (u_j - s u_i) / |z_i|."""
    u = z / z.pow(2).sum(1, keepdim=True).sqrt()
    s = u @ u.mT
    n = len(z) // 2
    logits = s / temperature
    logits.fill_diagonal_(torch.finfo(s.dtype).min)
    p = torch.exp(logits - torch.logsumexp(logits, 1, keepdim=True))
    p[torch.arange(2 * n), (torch.arange(2 * n) + n) % (2 * n)] -= 1
    by_cosine = (p + p.T) / (2 * n * temperature)
    towards = by_cosine @ u - (by_cosine * s).sum(dim=1, keepdim=True) * u
    return towards / z.norm(dim=1, keepdim=True)


def gradient_in_numpy(z, temperature):
    a = z.numpy().astype(np.float64)
    u = a / np.linalg.norm(a, axis=1, keepdims=True)
    s = u @ u.T / temperature
    np.fill_diagonal(s, -np.inf)
    p = np.exp(s - s.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    g = (p @ u + p.T @ u - 2 * np.roll(u, len(u) // 2, axis=0)) / (len(u) * temperature)
    g -= u * (u * g).sum(axis=1, keepdims=True)
    return torch.from_numpy(g / np.linalg.norm(a, axis=1, keepdims=True))


# nt_xent_gradient, wrong


def backward_of_a_clone(z, temperature):
    leaf = z.clone()
    leaf.requires_grad = True
    with torch.enable_grad():
        u = F.normalize(leaf)
        logits = (u @ u.T / temperature).masked_fill(torch.eye(len(z)).bool(), -math.inf)
        F.cross_entropy(logits, torch.arange(len(z)).roll(len(z) // 2)).backward()
    return leaf.grad


def _gradient(z, temperature, pulls, scale, finish):
    """The shape that the reworded mistakes share; each puts one thing wrong."""
    lengths = z.norm(dim=1, keepdim=True)
    u = F.normalize(z, dim=1)
    mask = torch.eye(len(z), dtype=torch.bool)
    p = torch.softmax((u @ u.T / temperature).masked_fill(mask, -math.inf), dim=-1)
    q = torch.eye(len(z), dtype=z.dtype).roll(len(z) // 2, 1)
    return finish(pulls(p, q) @ u * scale, u, lengths)


def _through(g, u, lengths):
    return (g - (g * u).sum(1, keepdim=True) * u) / lengths


def no_factor_in_one_matrix(z, temperature):
    return _gradient(z, temperature, lambda p, q: p + p.T - 2 * q, 1 / len(z), _through)


def own_row_in_one_matrix(z, temperature):
    return _gradient(z, temperature, lambda p, q: p - q, 1 / (temperature * len(z)), _through)


def mean_of_rows_without_projection(z, temperature):
    scale = 1 / (temperature * len(z))
    return _gradient(
        z, temperature, lambda p, q: p + p.T - 2 * q, scale, lambda g, u, lengths: g / lengths
    )


def unit_gradient_in_one_matrix(z, temperature):
    scale = 1 / (temperature * len(z))
    return _gradient(z, temperature, lambda p, q: p + p.T - 2 * q, scale, lambda g, u, lengths: g)


def sum_in_one_matrix(z, temperature):
    return _gradient(z, temperature, lambda p, q: p + p.T - 2 * q, 1 / temperature, _through)


# temperature_at, right


def temperature_with_clamped_progress(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    length = warmup_fraction * total_steps
    progress = 1.0 if step >= length else step / length
    return start + (end - start) * (1 - math.cos(math.pi * progress)) / 2


def temperature_by_half_angle(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    length = warmup_fraction * total_steps
    if length > 0:
        angle = min(step / length, 1) * math.pi / 2
        return end * math.sin(angle) ** 2 + start * math.cos(angle) ** 2
    return end


def temperature_in_torch(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    length = warmup_fraction * total_steps
    progress = torch.tensor(step / length if step < length else 1.0, dtype=torch.float64)
    return (end + (start - end) * 0.5 * (1 + torch.cos(torch.pi * progress))).item()


# temperature_at, wrong


def line_by_interpolation(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    length = warmup_fraction * total_steps
    return float(np.interp(step, [0, length], [start, end])) if length else end


def whole_run_without_clamp(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    share = step / total_steps if step < total_steps else 1.0
    return start + (end - start) * (1 - math.cos(math.pi * share)) / 2


def raised_quarter(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    length = warmup_fraction * total_steps
    if step >= length:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / length / 2)) / 2


def at_least_one_step(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    length = max(1, int(warmup_fraction * total_steps))
    if warmup_fraction == 0 or step >= length:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / length)) / 2


def rounded_to_the_nearest(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    length = round(warmup_fraction * total_steps)
    if step >= length:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / length)) / 2


def zero_fraction_divides(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    progress = min(1, step / (warmup_fraction * total_steps))
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def halves_nothing(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    length = warmup_fraction * total_steps
    if step >= length:
        return end
    return end + (start - end) + (start - end) * math.cos(math.pi * step / length)


# info_nce_bound, right


def bound_with_a_negated_comparison(loss, candidates):
    if not loss >= 0:
        raise ValueError(f"a loss of {loss} is impossible")
    return math.log(candidates) - loss


def bound_in_torch(loss, candidates):
    loss = torch.as_tensor(loss, dtype=torch.float64)
    if torch.isnan(loss) or loss < -1e-6:
        raise ValueError("impossible")
    return -(loss - torch.log(torch.tensor(candidates, dtype=torch.float64)))


def bound_in_numpy(loss, candidates):
    number = loss.item() if isinstance(loss, torch.Tensor) else loss
    if np.isnan(number) or number < 0:
        raise ValueError("impossible")
    return np.log(candidates).item() - loss


# info_nce_bound, wrong


def negatives_without_a_guard(loss, candidates):
    if math.isnan(loss) or loss < 0:
        raise ValueError("impossible")
    return math.log(candidates - 1) - loss


def all_in_bits(loss, candidates):
    if not loss >= 0:
        raise ValueError("impossible")
    return (math.log(candidates) - loss) / math.log(2)


def largest_of_bound_and_zero(loss, candidates):
    if not loss >= 0:
        raise ValueError("impossible")
    bound = math.log(candidates) - loss
    return bound if bound > 0 else 0.0


def unguarded_in_torch(loss, candidates):
    return torch.log(torch.tensor(float(candidates), dtype=torch.float64)) - loss


def clipped_to_log_k(loss, candidates):
    return math.log(candidates) - (loss if loss > 0 else 0.0)


def item_first(loss, candidates):
    number = loss.item() if isinstance(loss, torch.Tensor) else loss
    if not number >= 0:
        raise ValueError("impossible")
    return math.log(candidates) - number


def wants_a_positive_bound(loss, candidates):
    bound = math.log(candidates) - loss
    if bound < 0 or not loss >= 0:
        raise ValueError("not a bound")
    return bound


def runtime_error_for_impossible(loss, candidates):
    if not loss >= 0:
        raise RuntimeError("impossible")
    return math.log(candidates) - loss


# StabilityMonitor, right


class WithSlots:
    __slots__ = ("first_epoch", "limit", "recent", "window")

    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.first_epoch, self.limit, self.window = range(steps_per_epoch), limit, window
        self.recent = []

    def update(self, step, grad_norm):
        norm = grad_norm.item() if isinstance(grad_norm, torch.Tensor) else grad_norm
        if math.isnan(norm) or math.isinf(norm):
            last = f", the last was {self.recent[-1]}" if self.recent else ""
            raise FloatingPointError(f"step {step}: the norm is {norm}{last}")
        self.recent = [*self.recent, norm][-self.window :]
        return norm > self.limit and step in self.first_epoch


class WithARing:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.ring, self.count = torch.zeros(window, dtype=torch.float64), 0

    @property
    def recent(self):
        size = len(self.ring)
        return self.ring.roll(-(self.count % size))[max(size - self.count, 0) :]

    def update(self, step, grad_norm):
        norm = torch.as_tensor(grad_norm).detach()
        if not torch.isfinite(norm):
            raise FloatingPointError(f"not finite at step {step}")
        self.ring[self.count % len(self.ring)] = norm
        self.count += 1
        return (norm > self.limit) & (step < self.steps_per_epoch)


class Diverged(FloatingPointError):
    pass


class WithAnErrorOfItsOwn:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.settings = {"steps_per_epoch": steps_per_epoch, "limit": limit}
        self.recent = deque([], window)
        self.largest = self.total = 0.0

    def update(self, step, grad_norm):
        if not np.isfinite(float(grad_norm)):
            raise Diverged(f"step {step}: {float(grad_norm)}")
        self.recent.append(float(grad_norm))
        self.largest = max(self.largest, self.recent[-1])
        self.total += self.recent[-1]
        if step >= self.settings["steps_per_epoch"]:
            return False
        return self.recent[-1] > self.settings["limit"]


# StabilityMonitor, wrong


class NoTestAtAll:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit, self.window = steps_per_epoch, limit, window
        self.recent = []

    def update(self, step, grad_norm):
        self.recent = (self.recent + [float(grad_norm)])[-self.window :]
        return self.limit < self.recent[-1] and self.steps_per_epoch > step


class Asserts:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        assert math.isfinite(norm), f"step {step}"
        self.recent.append(norm)
        return step < self.steps_per_epoch and norm > self.limit


class WindowOfAHundred:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.first, self.limit = steps_per_epoch, limit
        self.recent, self.window, self.seen = [], 100, 0

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"step {step}: {norm}")
        self.recent = [*self.recent[-self.window + 1 :], norm]
        return step < self.first and norm > self.limit


class EverythingInRecent:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.settings = (steps_per_epoch, limit, window)
        self.recent = deque()

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"step {step}: {norm}")
        self.recent.append(norm)
        return step < self.settings[0] and norm > self.settings[1]


class LogsEverything:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)
        self.log = {}

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"step {step}: {norm}")
        self.recent.append(norm)
        self.log[step] = norm
        return step < self.steps_per_epoch and norm > self.limit


class HistoryBehindAProperty:
    __slots__ = ("history", "limit", "steps_per_epoch", "window")

    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit, self.window = steps_per_epoch, limit, window
        self.history = []

    @property
    def recent(self):
        return [norm for _, norm in self.history[-self.window :]]

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"step {step}: {norm}")
        self.history.append((step, norm))
        return step < self.steps_per_epoch and norm > self.limit


class GrowingTensor:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit, self.window = steps_per_epoch, limit, window
        self.norms = torch.zeros(0)

    @property
    def recent(self):
        return self.norms[-self.window :].tolist()

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"step {step}: {norm}")
        self.norms = torch.cat([self.norms, torch.tensor([norm])])
        return step < self.steps_per_epoch and norm > self.limit


class ShortByOne:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit, self.window = steps_per_epoch, limit, window
        self.recent = []

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"step {step}: {norm}")
        self.recent.append(norm)
        if len(self.recent) >= self.window:
            self.recent.pop(0)
        return step < self.steps_per_epoch and norm > self.limit


def _shared_default():
    class SharedDefault:
        def __init__(self, steps_per_epoch, limit=100.0, window=100, norms=[]):  # noqa: B006
            self.steps_per_epoch, self.limit, self.window = steps_per_epoch, limit, window
            self.recent = norms

        def update(self, step, grad_norm):
            norm = float(grad_norm)
            if not math.isfinite(norm):
                raise FloatingPointError(f"step {step}: {norm}")
            self.recent.append(norm)
            del self.recent[: -self.window]
            return step < self.steps_per_epoch and norm > self.limit

    return SharedDefault


class CountsFromOne:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"step {step}: {norm}")
        self.recent.append(norm)
        return norm > self.limit and not step > self.steps_per_epoch


RIGHT = {
    "nt_xent_gradient": [
        gradient_row_by_row,
        gradient_by_einsum_in_float64,
        gradient_through_the_cosines,
        gradient_in_numpy,
    ],
    "temperature_at": [
        temperature_with_clamped_progress,
        temperature_by_half_angle,
        temperature_in_torch,
    ],
    "info_nce_bound": [bound_with_a_negated_comparison, bound_in_torch, bound_in_numpy],
    "StabilityMonitor": [WithSlots, WithARing, WithAnErrorOfItsOwn],
}
VARIANTS = {
    "nt_xent_gradient": {
        "asks_autograd": [backward_of_a_clone],
        "no_temperature_factor": [no_factor_in_one_matrix],
        "own_row_only": [own_row_in_one_matrix],
        "no_projection": [mean_of_rows_without_projection],
        "stops_at_the_unit_vectors": [unit_gradient_in_one_matrix],
        "gradient_of_the_sum": [sum_in_one_matrix],
    },
    "temperature_at": {
        "falls_linearly": [line_by_interpolation],
        "keeps_falling": [whole_run_without_clamp],
        "goes_through_a_quarter": [raised_quarter],
        "rounds_the_warmup": [at_least_one_step, rounded_to_the_nearest],
        "divides_by_zero": [zero_fraction_divides],
        "forgets_the_half": [halves_nothing],
    },
    "info_nce_bound": {
        "counts_negatives_only": [negatives_without_a_guard],
        "measures_in_bits": [all_in_bits],
        "cuts_off_at_zero": [largest_of_bound_and_zero],
        "claims_more_than_log_k": [unguarded_in_torch],
        "cuts_off_at_log_k": [clipped_to_log_k],
        "loses_the_gradient": [item_first],
        "refuses_a_loss_above_log_k": [wants_a_positive_bound],
        "stops_with_another_error": [runtime_error_for_impossible],
    },
    "StabilityMonitor": {
        "MissesNan": [NoTestAtAll],
        "RaisesAnotherError": [Asserts],
        "IgnoresTheWindow": [WindowOfAHundred],
        "RecentNeverForgets": [EverythingInRecent],
        "KeepsEveryNorm": [LogsEverything, HistoryBehindAProperty, GrowingTensor],
        "WindowOffByOne": [ShortByOne],
        "SharesItsNorms": [_shared_default()],
        "OneStepTooMany": [CountsFromOne],
    },
}
