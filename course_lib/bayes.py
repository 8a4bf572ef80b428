"""Pre-training as a prior: conjugate regression, L2 anchor, mutual information (notebook 01)."""

from collections.abc import Mapping

import torch
from torch import Tensor


def gaussian_posterior(
    X: Tensor, y: Tensor, prior_mean: Tensor, prior_cov: Tensor, noise_var: float
) -> tuple[Tensor, Tensor]:
    """Posterior of the weights in y = X w + noise under a Gaussian prior.

    Precisions add:   cov^-1 = prior_cov^-1 + X'X / noise_var
                      cov^-1 mean = prior_cov^-1 prior_mean + X'y / noise_var
    Bishop 2006, Pattern Recognition and Machine Learning, eq. 3.50 and 3.51.

    X: (n, d), n = 0 allowed.  y: (n,).  prior_mean: (d,).  prior_cov: (d, d), symmetric positive
    definite.  noise_var: variance of the noise, in y's units squared.
    Returns mean (d,) and cov (d, d), symmetric positive definite, on X's device.
    Raises ValueError for other shapes, numbers that are not finite, a noise variance that is not
    positive, or a covariance that is not symmetric positive definite; TypeError for mixed dtypes.
    Differs from the book in that nothing is inverted or squared: with prior_cov = L L' and
    w = prior_mean + L u it is ridge regression for u, solved by QR. So it holds where prior_cov
    has a condition number of 1e10, and where the noise is tiny.
    """
    _check_regression(X, y, prior_mean, prior_cov, noise_var)
    result_dtype = X.dtype
    X, y, prior_mean, prior_cov = map(_at_least_float32, (X, y, prior_mean, prior_cov))
    n, d = X.shape
    L = _cholesky(prior_cov)  # (d, d)
    ridge = noise_var**0.5 * torch.eye(d, dtype=X.dtype, device=X.device)
    Q, R = torch.linalg.qr(torch.cat([X @ L, ridge]))  # (n + d, d): R'R = L'X'XL + noise_var I
    projected = Q[:n].mT @ (y - X @ prior_mean)  # (d,)
    u = torch.linalg.solve_triangular(R, projected.unsqueeze(1), upper=True).squeeze(1)
    root = noise_var**0.5 * torch.linalg.solve_triangular(R.mT, L.mT, upper=False)  # cov's, (d, d)
    return (prior_mean + L @ u).to(result_dtype), (root.mT @ root).to(result_dtype)


def _check_regression(X, y, prior_mean, prior_cov, noise_var) -> None:
    n, d = X.shape if X.ndim == 2 else (0, 0)
    if d < 1 or y.shape != (n,) or prior_mean.shape != (d,) or prior_cov.shape != (d, d):
        raise ValueError(
            "wanted X (n, d), y (n,), prior_mean (d,) and prior_cov (d, d), got "
            f"{tuple(X.shape)}, {tuple(y.shape)}, {tuple(prior_mean.shape)} and "
            f"{tuple(prior_cov.shape)}."
        )
    given = {"X": X, "y": y, "prior_mean": prior_mean, "prior_cov": prior_cov}
    if len({tensor.dtype for tensor in given.values()}) > 1 or not X.is_floating_point():
        dtypes = ", ".join(f"{name} {tensor.dtype}" for name, tensor in given.items())
        raise TypeError(f"wanted one floating-point dtype for all tensors, got {dtypes}.")
    if not 0 < noise_var < float("inf") or _at_least_float32(X).new_tensor(noise_var**0.5) == 0:
        raise ValueError(f"noise_var must be positive and finite, got {noise_var} ({X.dtype}).")
    for name, tensor in given.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} must hold finite numbers, got NaN or infinity.")


def _cholesky(cov: Tensor) -> Tensor:
    """The lower triangular L with cov = L L'."""
    rounding = torch.finfo(cov.dtype).eps ** 0.5 * cov.abs().amax()
    if ((cov - cov.mT).abs() > rounding).any():
        raise ValueError("prior_cov must be symmetric; it is not.")
    L, failed = torch.linalg.cholesky_ex(cov)
    if failed:
        raise ValueError(f"prior_cov must be positive definite; in {cov.dtype} it is not.")
    return L


def _at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor, in float32 where it has half precision or integers: to sum and to factorise."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def l2_anchor(
    params: Mapping[str, Tensor], anchor: Mapping[str, Tensor], strength: float
) -> Tensor:
    """Pull parameters back to where pre-training left them.

    strength * sum_i (theta_i - theta_pre,i)^2           L2-SP, Li et al. 2018

    This is -log of a Gaussian prior around the anchor with variance 1 / (2 strength), up to a
    constant; anchored to zero it would be weight decay.

    params: name -> live tensor.  anchor: name -> tensor of the same shape; no gradient reaches it.
    Names only in `params` (a new head) are left free.
    Returns a scalar in nats, on the parameters' device; float32 for half-precision parameters.
    Raises ValueError for a name that `params` lacks, another shape, or a negative strength.
    Differs from the paper in that `strength` stands for its alpha / 2, and in that a new head gets
    no term of its own.
    """
    if not 0 <= strength < float("inf"):
        raise ValueError(f"strength must be finite and at least 0, got {strength}.")
    if not anchor:
        raise ValueError("anchor must name at least one parameter, got none.")
    terms = []
    for name, target in anchor.items():
        if name not in params:
            raise ValueError(f"anchor has {name!r}, which params lacks.")
        if params[name].shape != target.shape:
            raise ValueError(
                f"{name!r} has shape {tuple(params[name].shape)} in params and "
                f"{tuple(target.shape)} in anchor; wanted the same."
            )
        step = _at_least_float32(params[name]) - _at_least_float32(target.detach())
        terms.append(step.square().sum())
    return strength * torch.stack(terms).sum()


def prior_share(n: float, prior_var: float, noise_var: float) -> float:
    """The prior mean's weight in the posterior mean of one number after n noisy observations.

    (1 / prior_var) / (1 / prior_var + n / noise_var) = 1 / (1 + n prior_var / noise_var)
    Gelman et al. 2013, Bayesian Data Analysis, eq. 2.11 and 2.12.

    n: number of observations, at least 0.  prior_var, noise_var: variances, positive.
    Returns a share between 0 and 1: 1 without observations, 1/2 at n = noise_var / prior_var.
    Raises ValueError for a negative n or a variance that is not positive and finite.
    """
    if not n >= 0:
        raise ValueError(f"n must be at least 0, got {n}.")
    for name, value in (("prior_var", prior_var), ("noise_var", noise_var)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value}.")
    return 1 / (1 + n * prior_var / noise_var)


def mutual_information(joint: Tensor) -> Tensor:
    """I(A; B) = sum_ab p(a, b) log( p(a, b) / (p(a) p(b)) ), in nats.

    Cover & Thomas 2006, Elements of Information Theory, eq. 2.28, with 0 log 0 = 0.

    joint: (A, B) table of counts or probabilities, any positive total; it is normalised here.
    Returns a scalar >= 0; float32 for integer counts and half precision.
    Raises ValueError for another shape, a negative or non-finite entry, or a table of zeros.
    """
    if joint.ndim != 2:
        raise ValueError(f"joint must be a table (A, B), got shape {tuple(joint.shape)}.")
    if not torch.isfinite(joint).all() or (joint < 0).any() or not (joint > 0).any():
        raise ValueError("joint must hold finite numbers >= 0 and at least one > 0.")
    joint = _at_least_float32(joint)
    p = joint / joint.amax()  # first to a maximum of 1: the sum of large counts may overflow
    p = p / p.sum()
    possible = p > 0

    def log(q):  # 0 where p is 0: those cells count nothing, and have no gradient of infinity
        return torch.where(possible, q, 1.0).log()

    pointwise = log(p) - log(p.sum(dim=1, keepdim=True)) - log(p.sum(dim=0, keepdim=True))
    return (p * pointwise).sum().clamp(min=0.0)
