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


def gradient_with_the_matrix_q(z, temperature):
    """Q in z's dtype, and the largest exponent of each row taken out by hand."""
    n = len(z)
    u = z / z.norm(dim=1, keepdim=True)
    logits = (u @ u.T / temperature).fill_diagonal_(float("-inf"))
    raw = (logits - logits.max(dim=1, keepdim=True).values).exp()
    p = raw / raw.sum(dim=1, keepdim=True)
    q = torch.zeros(n, n).to(z)
    for row in range(n):
        q[row, row - n // 2] = 1
    with torch.no_grad():
        g = (p @ u + p.T @ u - 2 * q @ u) / (n * temperature)
    return (g - torch.einsum("id,id->i", u, g)[:, None] * u).div(z.norm(dim=1, keepdim=True))


def gradient_without_the_diagonal(z, temperature):
    size, pairs = len(z), len(z) // 2
    u = F.normalize(z)
    others = ~torch.eye(size, dtype=torch.bool)
    p = torch.zeros_like(u @ u.T)
    p[others] = (u @ u.T / temperature)[others].view(size, size - 1).softmax(dim=1).flatten()
    g = ((p + p.T) @ u - 2 * torch.cat([u[pairs:], u[:pairs]])) / temperature / size
    return (g - (g * u).sum(1, keepdim=True) * u) / z.norm(dim=1, keepdim=True)


# nt_xent_gradient, wrong


def _loss(z, temperature):
    u = F.normalize(z)
    logits = (u @ u.T / temperature).masked_fill(torch.eye(len(z)).bool(), -math.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z) // 2))


def functional_gradient(z, temperature):
    return torch.func.grad(_loss)(z, temperature)


def functional_jacobian(z, temperature):
    return torch.autograd.functional.jacobian(lambda rows: _loss(rows, temperature), z)


def forward_mode(z, temperature):
    return torch.func.jacfwd(_loss)(z, temperature)


def graph_switched_on_again(z, temperature):
    with torch.inference_mode(False):
        leaf = z.clone().requires_grad_()
        return torch.autograd.grad(_loss(leaf, temperature), leaf)[0]


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


def own_row_divided_by_pairs(z, temperature):
    return _gradient(z, temperature, lambda p, q: p - q, 2 / (temperature * len(z)), _through)


def rolled_by_2n(z, temperature):
    return _gradient(
        z, temperature, lambda p, q: p + p.T - 2 * q @ q, 1 / (temperature * len(z)), _through
    )


def half_of_the_pairs(z, temperature):
    scale = 1 / (temperature * len(z))
    return _gradient(z, temperature, lambda p, q: p + p.T - 2 * q.triu(), scale, _through)


def one_product_for_all(z, temperature):
    scale = 1 / (temperature * len(z))
    return _gradient(
        z,
        temperature,
        lambda p, q: p + p.T - 2 * q,
        scale,
        lambda g, u, lengths: (g - u * (g * u).sum()) / lengths,
    )


def squared_length(z, temperature):
    scale = 1 / (temperature * len(z))
    return _gradient(
        z,
        temperature,
        lambda p, q: p + p.T - 2 * q,
        scale,
        lambda g, u, lengths: (g - (g * u).sum(1, keepdim=True) * u) / lengths.square(),
    )


def projects_with_z_and_u(z, temperature):
    scale = 1 / (temperature * len(z))
    return _gradient(
        z,
        temperature,
        lambda p, q: p + p.T - 2 * q,
        scale,
        lambda g, u, lengths: (g - (g * z).sum(1, keepdim=True) * u) / lengths,
    )


def rolled_by_one(z, temperature):
    return _gradient(
        z,
        temperature,
        lambda p, q: p + p.T - 2 * torch.eye(len(z), dtype=z.dtype).roll(1, 0),
        1 / (temperature * len(z)),
        _through,
    )


def one_length_for_all(z, temperature):
    length = z.norm()
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(-math.inf).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return _through(g, u, length)


def _from_weights(z, temperature, weights):
    u = F.normalize(z)
    p = weights(u @ u.T / temperature)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return _through(g, u, z.norm(dim=1, keepdim=True))


def masked_after_the_exponential(z, temperature):
    def weights(logits):
        raw = torch.exp(logits) * (1 - torch.eye(len(z), dtype=z.dtype))
        return raw / raw.sum(1, keepdim=True)

    return _from_weights(z, temperature, weights)


def diagonal_subtracted(z, temperature):
    def weights(logits):
        raw = logits.exp()
        raw = raw - torch.diag(raw.diag())
        return raw / raw.sum(1, keepdim=True)

    return _from_weights(z, temperature, weights)


def zeros_for_q(z, temperature):
    q = torch.zeros(len(z), len(z))
    rows = torch.arange(len(z))
    q[rows, rows.roll(len(z) // 2)] = 1
    u = F.normalize(z)
    p = (u @ u.T / temperature).fill_diagonal_(-math.inf).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * (q @ u)) / (temperature * len(u))
    return _through(g, u, z.norm(dim=1, keepdim=True))


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


def caught_at_the_end(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    length = warmup_fraction * total_steps
    fall = start / 2 * (1 + math.cos(math.pi * step / length)) if step < length else end
    return fall if fall > end else end


def at_least_one_warm_step(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    length = max(warmup_fraction * total_steps, 1)
    if step >= length:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / length)) / 2


def a_little_more_than_zero(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    progress = min(step / (warmup_fraction * total_steps + 1e-8), 1.0)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def fraction_zero_means_warm(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    if warmup_fraction == 0:
        return start
    length = warmup_fraction * total_steps
    if step >= length:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / length)) / 2


def compares_with_the_fraction(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    if step < warmup_fraction:
        return end + (start - end) * (1 + math.cos(math.pi * step / warmup_fraction)) / 2
    return end


def without_the_end(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    length = warmup_fraction * total_steps
    fall = start - end
    return end if step >= length else fall / 2 + fall / 2 * math.cos(math.pi * step / length)


def tenth_of_the_run(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    length = total_steps / 10
    if step >= length:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / length)) / 2


def always_to_007(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    length = warmup_fraction * total_steps
    if step >= length:
        return 0.07
    return 0.07 + (start - 0.07) * (1 + math.cos(math.pi * step / length)) / 2


def ends_at_007(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    length = warmup_fraction * total_steps
    if step >= length:
        return 0.07
    return end + (start - end) * (1 + math.cos(math.pi * step / length)) / 2


def cosine_alone(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    length = warmup_fraction * total_steps
    if step >= length:
        return end
    return end + (start - end) * math.cos(math.pi * step / length)


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


def asserts_and_lets_nan_through(loss, candidates):
    assert not loss < 0, "impossible"
    return math.log(candidates) - loss


def type_error_for_impossible(loss, candidates):
    if not loss >= 0:
        raise TypeError("impossible")
    return math.log(candidates) - loss


def returns_the_error(loss, candidates):
    if not loss >= 0:
        return ValueError("impossible")
    return math.log(candidates) - loss


def returns_nan(loss, candidates):
    return math.log(candidates) - loss if loss >= 0 else math.nan


def prints_and_returns_nothing(loss, candidates):
    if loss >= 0:
        return math.log(candidates) - loss
    print("impossible")


def twice_the_candidates(loss, candidates):
    if not loss >= 0:
        raise ValueError("impossible")
    return math.log(2) + math.log(candidates) - loss


def loss_in_bits(loss, candidates):
    if not loss >= 0:
        raise ValueError("impossible")
    return math.log(candidates) - loss / math.log(2)


def zero_is_impossible(loss, candidates):
    if math.isnan(loss) or loss <= 0:
        raise ValueError("impossible")
    return math.log(candidates) - loss


def tolerates_a_little(loss, candidates):
    """Right in all visible cases; a loss of -0.05 is refused only in grading."""
    if not loss >= -0.3:
        raise ValueError("impossible")
    return math.log(candidates) - loss


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


class WithAPicture:
    """Holds more than its window, but no more for a longer run."""

    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit, self.window = steps_per_epoch, limit, window
        self.norms = deque(maxlen=max(3000, window))

    @property
    def recent(self):
        return list(self.norms)[-self.window :]

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"Step {step:,}: the norm is {norm}. Try a lower rate.")
        self.norms.append(norm)
        return step // self.steps_per_epoch == 0 and norm > self.limit


# StabilityMonitor, wrong


class _Base:
    """A right monitor; each of the classes below changes one step of it."""

    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit, self.window = steps_per_epoch, limit, window
        self.recent = deque(maxlen=window)
        self.prepare()

    def prepare(self):
        pass

    def stop(self, step, norm):
        if not math.isfinite(norm):
            raise FloatingPointError(f"step {step}: {norm}")

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        self.stop(step, norm)
        self.recent.append(norm)
        return step < self.steps_per_epoch and norm > self.limit


class FullOfNan(_Base):
    def prepare(self):
        self.recent.extend([math.nan] * self.window)


class FullOfNone(_Base):
    def prepare(self):
        self.recent.extend([None] * self.window)


class TensorOfZeros(_Base):
    def prepare(self):
        self.recent = torch.zeros(self.window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        self.stop(step, norm)
        self.recent = torch.cat([self.recent[1:], torch.tensor([norm])])
        return step < self.steps_per_epoch and norm > self.limit


class NamesTheNextStep(_Base):
    def stop(self, step, norm):
        super().stop(step + 1, norm)


class NamesItsOwnCount(_Base):
    def prepare(self):
        self.count = 0

    def stop(self, step, norm):
        super().stop(self.count, norm)
        self.count += 1


class NamesOtherNumbers(_Base):
    def stop(self, step, norm):
        if not math.isfinite(norm):
            raise FloatingPointError(f"{norm} after 0.5, 0.18 and {list(self.recent)}")


class EveryTenth(_Base):
    def prepare(self):
        self.history = []

    def update(self, step, grad_norm):
        if step % 10 == 0:
            self.history.append(float(grad_norm))
        return super().update(step, grad_norm)


class LargestOfEachEpoch(_Base):
    def prepare(self):
        self.largest = {}

    def update(self, step, grad_norm):
        epoch = step // self.steps_per_epoch
        self.largest[epoch] = max(float(grad_norm), self.largest.get(epoch, 0.0))
        return super().update(step, grad_norm)


class HistoryInAClosure(_Base):
    def prepare(self):
        history = []
        self.remember = lambda norm: history.append(norm)

    def update(self, step, grad_norm):
        self.remember(float(grad_norm))
        return super().update(step, grad_norm)


class CountsTheNextStep(_Base):
    def update(self, step, grad_norm):
        super().update(step, grad_norm)
        return step + 1 < self.steps_per_epoch and self.recent[-1] > self.limit


class WantsAStepThatIsTrue(_Base):
    def update(self, step, grad_norm):
        alarm = super().update(step, grad_norm)
        return bool(step and alarm)


class SilentAfterTheFirstEpoch(_Base):
    def update(self, step, grad_norm):
        if step < self.steps_per_epoch or not math.isfinite(float(grad_norm)):
            return super().update(step, grad_norm)
        return False


class ReturnsBeforeItRecords(_Base):
    def update(self, step, grad_norm):
        norm = float(grad_norm)
        self.stop(step, norm)
        if norm > self.limit and step < self.steps_per_epoch:
            return True
        self.recent.append(norm)
        return False


class OverflowForInfinity(_Base):
    def stop(self, step, norm):
        if math.isinf(norm):
            raise OverflowError(f"step {step}")
        super().stop(step, norm)


class RaisesTheAlarm(_Base):
    def update(self, step, grad_norm):
        if super().update(step, grad_norm):
            raise FloatingPointError(f"step {step} is above the limit")
        return False


class RingByPlace(_Base):
    def prepare(self):
        self.recent, self.place = [], 0

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        self.stop(step, norm)
        self.recent[self.place : self.place + 1] = [norm]
        self.place = (self.place + 1) % self.window
        return step < self.steps_per_epoch and norm > self.limit


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
        gradient_with_the_matrix_q,
        gradient_without_the_diagonal,
    ],
    "temperature_at": [
        temperature_with_clamped_progress,
        temperature_by_half_angle,
        temperature_in_torch,
    ],
    "info_nce_bound": [bound_with_a_negated_comparison, bound_in_torch, bound_in_numpy],
    "StabilityMonitor": [WithSlots, WithARing, WithAnErrorOfItsOwn, WithAPicture],
}
VARIANTS = {
    "nt_xent_gradient": {
        "asks_autograd": [
            backward_of_a_clone,
            functional_gradient,
            functional_jacobian,
            forward_mode,
            graph_switched_on_again,
        ],
        "doubles_the_own_row": [own_row_divided_by_pairs],
        "no_pull_to_the_positive": [rolled_by_2n],
        "one_view_is_the_anchor": [half_of_the_pairs],
        "projects_over_the_rows": [one_product_for_all],
        "divides_by_the_length_twice": [squared_length],
        "projects_with_z": [projects_with_z_and_u],
        "pairs_neighbours": [rolled_by_one],
        "normalises_the_columns": [one_length_for_all],
        "overflows_when_cold": [masked_after_the_exponential, diagonal_subtracted],
        "builds_in_float32": [zeros_for_q],
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
        "stops_its_fall_at_the_end": [caught_at_the_end],
        "starts_without_a_warmup": [
            at_least_one_warm_step,
            a_little_more_than_zero,
            fraction_zero_means_warm,
        ],
        "takes_the_fraction_for_steps": [compares_with_the_fraction],
        "forgets_to_add_the_end": [without_the_end],
        "ignores_its_arguments": [tenth_of_the_run, always_to_007, ends_at_007],
        "misplaces_the_bracket": [cosine_alone],
    },
    "info_nce_bound": {
        "counts_negatives_only": [negatives_without_a_guard],
        "measures_in_bits": [all_in_bits, loss_in_bits],
        "doubles_the_candidates": [twice_the_candidates],
        "refuses_zero": [zero_is_impossible],
        "notices_without_raising": [returns_the_error, returns_nan, prints_and_returns_nothing],
        "cuts_off_at_zero": [largest_of_bound_and_zero],
        "claims_more_than_log_k": [unguarded_in_torch, tolerates_a_little],
        "cuts_off_at_log_k": [clipped_to_log_k],
        "loses_the_gradient": [item_first],
        "refuses_a_loss_above_log_k": [wants_a_positive_bound],
        "stops_with_another_error": [
            runtime_error_for_impossible,
            type_error_for_impossible,
            asserts_and_lets_nan_through,
        ],
    },
    "StabilityMonitor": {
        "MissesNan": [NoTestAtAll],
        "RaisesAnotherError": [Asserts, OverflowForInfinity],
        "StopsAtAnAlarm": [RaisesTheAlarm],
        "DoesNotNameTheStep": [NamesTheNextStep, NamesItsOwnCount, NamesOtherNumbers],
        "EndsOneStepEarly": [CountsTheNextStep],
        "QuietAtStepZero": [WantsAStepThatIsTrue],
        "RecordsTheFirstEpochOnly": [SilentAfterTheFirstEpoch],
        "DoesNotRecordAlarms": [ReturnsBeforeItRecords],
        "StartsFull": [FullOfNan, FullOfNone, TensorOfZeros],
        "WritesARing": [RingByPlace],
        "IgnoresTheWindow": [WindowOfAHundred],
        "RecentNeverForgets": [EverythingInRecent],
        "KeepsEveryNorm": [
            LogsEverything,
            HistoryBehindAProperty,
            GrowingTensor,
            EveryTenth,
            LargestOfEachEpoch,
            HistoryInAClosure,
        ],
        "WindowOffByOne": [ShortByOne],
        "SharesItsNorms": [_shared_default()],
        "OneStepTooMany": [CountsFromOne],
    },
}
