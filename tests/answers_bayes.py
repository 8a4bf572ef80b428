"""Right answers to the exercises of notebook 01, each written differently, and other wordings of
known mistakes. tests/test_check_banks.py puts them through the checks."""

import math

import torch
from torch.nn import functional as F

# ------------------------------------------------------------------------------ gaussian_posterior


def posterior_by_cholesky_of_precisions(X, y, prior_mean, prior_cov, noise_var):
    prior_root = torch.linalg.cholesky(prior_cov)
    precision = torch.cholesky_inverse(prior_root) + X.T @ X / noise_var
    shift = torch.cholesky_solve(prior_mean[:, None], prior_root) + X.T @ y[:, None] / noise_var
    root = torch.linalg.cholesky(precision)
    return torch.cholesky_solve(shift, root)[:, 0], torch.cholesky_inverse(root)


def posterior_by_cholesky_solves_against_identity(X, y, prior_mean, prior_cov, noise_var):
    identity = torch.eye(len(prior_mean), dtype=X.dtype)
    prior_precision = torch.cholesky_solve(identity, torch.linalg.cholesky(prior_cov))
    root = torch.linalg.cholesky(prior_precision + X.T @ X / noise_var)
    residual = X.T @ (y - X @ prior_mean) / noise_var
    mean = prior_mean + torch.cholesky_solve(residual.unsqueeze(1), root).squeeze(1)
    return mean, torch.cholesky_solve(identity, root)


def posterior_by_gain(X, y, prior_mean, prior_cov, noise_var):
    cross = X @ prior_cov
    innovation = cross @ X.T + noise_var * torch.eye(len(y), dtype=X.dtype)
    gain = torch.linalg.solve(innovation, cross).T
    return prior_mean + gain @ (y - X @ prior_mean), prior_cov - gain @ cross


def posterior_by_cholesky_of_innovation(X, y, prior_mean, prior_cov, noise_var):
    innovation = X @ prior_cov @ X.T + noise_var * torch.eye(X.shape[0], dtype=X.dtype)
    root = torch.linalg.cholesky(innovation)
    scaled = torch.linalg.solve_triangular(root, X @ prior_cov, upper=False)
    residual = torch.linalg.solve_triangular(root, (y - X @ prior_mean)[:, None], upper=False)
    return prior_mean + (scaled.T @ residual)[:, 0], prior_cov - scaled.T @ scaled


def posterior_in_joseph_form(X, y, prior_mean, prior_cov, noise_var):
    innovation = X @ prior_cov @ X.T + noise_var * torch.eye(X.shape[0], dtype=X.dtype)
    gain = torch.linalg.solve(innovation, X @ prior_cov).T
    kept = torch.eye(X.shape[1], dtype=X.dtype) - gain @ X
    cov = kept @ prior_cov @ kept.T + noise_var * gain @ gain.T
    return prior_mean + gain @ (y - X @ prior_mean), cov


def posterior_one_label_at_a_time(X, y, prior_mean, prior_cov, noise_var):
    mean, cov = prior_mean.clone(), prior_cov.clone()
    for x, label in zip(X, y, strict=True):
        direction = cov @ x
        spread = x @ direction + noise_var
        mean += direction * (label - x @ mean) / spread
        cov -= torch.outer(direction, direction) / spread
    return mean, cov


def posterior_by_whitening(X, y, prior_mean, prior_cov, noise_var):
    root = torch.linalg.cholesky(prior_cov)
    whitened = X @ root / math.sqrt(noise_var)
    inner = torch.eye(len(prior_mean), dtype=X.dtype) + whitened.T @ whitened
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), root.T, upper=False)
    cov = half.T @ half
    return prior_mean + cov @ X.T @ (y - X @ prior_mean) / noise_var, cov


def posterior_without_prior_precision(X, y, prior_mean, prior_cov, noise_var):
    inner = torch.eye(len(prior_mean), dtype=X.dtype) + prior_cov @ X.T @ X / noise_var
    step = torch.linalg.solve(inner, prior_cov @ X.T @ (y - X @ prior_mean) / noise_var)
    return [prior_mean + step, torch.linalg.solve(inner, prior_cov)]


def posterior_by_symmetric_inverse(X, y, prior_mean, prior_cov, noise_var):
    """As good as Cholesky in the checks' worst cases; measured in checks/bayes.py."""
    prior_precision = torch.linalg.inv(prior_cov)
    cov = torch.linalg.inv(prior_precision + X.mT @ X / noise_var)
    mean = cov @ (prior_precision @ prior_mean + X.mT @ y / noise_var)
    return mean, (cov + cov.mT) / 2


def posterior_by_conditioning(X, y, prior_mean, prior_cov, noise_var):
    """Weights and labels are jointly Gaussian; condition on the labels, in double precision."""
    n, d = X.shape
    both = torch.cat([torch.eye(d, dtype=torch.float64), X.double()])
    joint = torch.einsum("id,de,je->ij", both, prior_cov.double(), both)
    joint[d:, d:] += noise_var * torch.eye(n, dtype=torch.float64)
    gain = torch.linalg.lstsq(joint[d:, d:], joint[d:, :d], driver="gelsd").solution.T
    mean = prior_mean.double() + gain @ (y.double() - X.double() @ prior_mean.double())
    return mean.to(X.dtype), (joint[:d, :d] - gain @ joint[d:, :d]).to(X.dtype)


# --------------------------------------------------------------------------------------- l2_anchor


def anchor_by_loop(params, anchor, strength):
    penalty = 0.0
    for name, start in anchor.items():
        penalty += ((params[name] - start.detach()) ** 2).sum()
    return strength * penalty


def anchor_by_vectors(params, anchor, strength):
    live = torch.cat([params[name].reshape(-1) for name in anchor])
    start = torch.cat([anchor[name].reshape(-1) for name in anchor]).detach()
    step = live - start
    return strength * step @ step


def anchor_by_mse(params, anchor, strength):
    terms = [
        F.mse_loss(parameter, anchor[name].data, reduction="sum")
        for name, parameter in params.items()
        if name in anchor
    ]
    return torch.stack(terms).sum().mul(strength)


def anchor_by_norms(params, anchor, strength):
    with torch.no_grad():
        fixed = {name: start.clone() for name, start in anchor.items()}
    norms = [torch.linalg.vector_norm(params[name] - fixed[name]) for name in fixed]
    return strength * torch.linalg.vector_norm(torch.stack(norms)) ** 2


def anchor_by_einsum(params, anchor, strength):
    total = torch.zeros((), dtype=torch.float64)
    for name in anchor:
        step = (params[name] - anchor[name].detach()).double()
        total = total + torch.einsum("...,...->", step, step)
    return total * strength


# ------------------------------------------------------------------------------------- prior_share


def share_of_precisions(n, prior_var, noise_var):
    prior_precision = 1 / prior_var
    return prior_precision / (prior_precision + n / noise_var)


def share_in_pseudo_labels(n, prior_var, noise_var):
    worth = noise_var / prior_var
    return worth / (worth + n)


def share_by_updates(n, prior_var, noise_var):
    posterior_var = 1 / (1 / prior_var + n / noise_var)
    return posterior_var / prior_var


def share_as_tensor(n, prior_var, noise_var):
    n, prior_var, noise_var = (
        torch.tensor(float(value), dtype=torch.float64) for value in (n, prior_var, noise_var)
    )
    return torch.reciprocal(1 + n * prior_var / noise_var)


def share_with_a_special_case(n, prior_var, noise_var):
    if n == 0:
        return 1
    return (noise_var / n) / (noise_var / n + prior_var)


# ------------------------------------------------------------------------------ mutual_information


def information_from_entropies(joint):
    def entropy(q):
        return -torch.xlogy(q, q).sum()

    p = joint.double() / joint.double().sum()
    return entropy(p.sum(dim=0)) + entropy(p.sum(dim=1)) - entropy(p)


def information_by_loop(joint):
    total = joint.sum().item()
    rows = [sum(row) / total for row in joint.tolist()]
    columns = [sum(column) / total for column in joint.T.tolist()]
    information = 0.0
    for a, row in enumerate(joint.tolist()):
        for b, count in enumerate(row):
            if count > 0:
                information += count / total * math.log(count / total / (rows[a] * columns[b]))
    return information


def information_by_masking(joint):
    p = joint / joint.sum()
    independent = torch.outer(p.sum(dim=1), p.sum(dim=0))
    filled = p > 0
    return (p[filled] * (p[filled] / independent[filled]).log()).sum()


def information_by_kl_div(joint):
    p = joint.double() / joint.sum()
    independent = torch.einsum("ab,ac->bc", p.sum(dim=1)[None], p.sum(dim=0)[None])
    impossible = independent == 0
    return F.kl_div(independent.masked_fill(impossible, 1).log(), p, reduction="sum")


def information_as_conditional_entropies(joint):
    p = joint / joint.sum()
    entropy = torch.special.entr(p.sum(dim=1)).sum()
    given = p / p.sum(dim=0, keepdim=True).clamp(min=1e-300)
    return entropy - (p.sum(dim=0) * torch.special.entr(given).sum(dim=0)).sum()


def information_by_nansum(joint):
    p = joint.clone().double()
    p /= p.sum()
    ratio = p / (p.sum(dim=1, keepdim=True) * p.sum(dim=0, keepdim=True))
    return torch.nansum(p * ratio.log())


def information_with_epsilon(joint):
    p = joint / joint.sum()
    independent = p.sum(1)[:, None] * p.sum(0)[None, :]
    return (p * torch.log((p + 1e-12) / (independent + 1e-12))).sum().item()


RIGHT = {
    "gaussian_posterior": [
        posterior_by_cholesky_of_precisions,
        posterior_by_cholesky_solves_against_identity,
        posterior_by_gain,
        posterior_by_cholesky_of_innovation,
        posterior_in_joseph_form,
        posterior_one_label_at_a_time,
        posterior_by_whitening,
        posterior_without_prior_precision,
        posterior_by_symmetric_inverse,
        posterior_by_conditioning,
    ],
    "l2_anchor": [
        anchor_by_loop,
        anchor_by_vectors,
        anchor_by_mse,
        anchor_by_norms,
        anchor_by_einsum,
    ],
    "prior_share": [
        share_of_precisions,
        share_in_pseudo_labels,
        share_by_updates,
        share_as_tensor,
        share_with_a_special_case,
    ],
    "mutual_information": [
        information_from_entropies,
        information_by_loop,
        information_by_masking,
        information_by_kl_div,
        information_as_conditional_entropies,
        information_by_nansum,
        information_with_epsilon,
    ],
}


# ---------------------------------------------------------------------- other wordings of mistakes


def prior_mean_dropped_by_cholesky(X, y, prior_mean, prior_cov, noise_var):
    prior_precision = torch.cholesky_inverse(torch.linalg.cholesky(prior_cov))
    root = torch.linalg.cholesky(prior_precision + X.mT @ X / noise_var)
    return torch.cholesky_solve((X.mT @ y / noise_var)[:, None], root)[:, 0], (
        torch.cholesky_inverse(root)
    )


def prior_mean_dropped_from_gain(X, y, prior_mean, prior_cov, noise_var):
    innovation = X @ prior_cov @ X.T + noise_var * torch.eye(len(y), dtype=X.dtype)
    gain = torch.linalg.solve(innovation, X @ prior_cov).T
    return gain @ y, prior_cov - gain @ X @ prior_cov


def covariances_added_by_solve(X, y, prior_mean, prior_cov, noise_var):
    identity = torch.eye(X.shape[1], dtype=X.dtype)
    cov = torch.linalg.solve(X.T @ X / noise_var, identity) + prior_cov
    return cov @ (torch.linalg.inv(prior_cov) @ prior_mean + X.T @ y / noise_var), cov


def prior_cov_as_precision_by_solve(X, y, prior_mean, prior_cov, noise_var):
    precision = X.T @ X / noise_var + prior_cov
    mean = torch.linalg.solve(precision, X.T @ y / noise_var + prior_cov @ prior_mean)
    return mean, torch.linalg.inv(precision)


def noise_forgotten_in_gain(X, y, prior_mean, prior_cov, noise_var):
    innovation = X @ prior_cov @ X.T + torch.eye(len(y), dtype=X.dtype)
    gain = torch.linalg.solve(innovation, X @ prior_cov).T
    return prior_mean + gain @ (y - X @ prior_mean), prior_cov - gain @ X @ prior_cov


def noise_as_a_precision(X, y, prior_mean, prior_cov, noise_var):
    return posterior_by_whitening(X, y, prior_mean, prior_cov, 1 / noise_var)


def noise_squared_in_gain(X, y, prior_mean, prior_cov, noise_var):
    innovation = X @ prior_cov @ X.T + noise_var**2 * torch.eye(len(y), dtype=X.dtype)
    gain = torch.linalg.solve(innovation, X @ prior_cov).T
    return prior_mean + gain @ (y - X @ prior_mean), prior_cov - gain @ X @ prior_cov


def labels_averaged_in_gain(X, y, prior_mean, prior_cov, noise_var):
    return posterior_by_gain(X, y, prior_mean, prior_cov, noise_var * X.shape[0])


def precision_returned_by_cholesky(X, y, prior_mean, prior_cov, noise_var):
    prior_root = torch.linalg.cholesky(prior_cov)
    precision = torch.cholesky_inverse(prior_root) + X.T @ X / noise_var
    shift = torch.cholesky_solve(prior_mean[:, None], prior_root)[:, 0] + X.T @ y / noise_var
    return torch.linalg.solve(precision, shift), precision


def covariance_first_from_gain(X, y, prior_mean, prior_cov, noise_var):
    mean, cov = posterior_by_gain(X, y, prior_mean, prior_cov, noise_var)
    return cov, mean


def residual_without_prior_mean(X, y, prior_mean, prior_cov, noise_var):
    innovation = X @ prior_cov @ X.T + noise_var * torch.eye(len(y), dtype=X.dtype)
    gain = torch.linalg.solve(innovation, X @ prior_cov).T
    return prior_mean + gain @ y, prior_cov - gain @ X @ prior_cov


def inverse_by_solve(X, y, prior_mean, prior_cov, noise_var):
    identity = torch.eye(len(prior_mean), dtype=X.dtype)
    prior_precision = torch.linalg.solve(prior_cov, identity)
    precision = prior_precision + X.T @ X / noise_var
    mean = torch.linalg.solve(precision, prior_precision @ prior_mean + X.T @ y / noise_var)
    return mean, torch.linalg.solve(precision, identity)


def inverse_of_prior_only(X, y, prior_mean, prior_cov, noise_var):
    prior_precision = prior_cov.inverse()
    root = torch.linalg.cholesky(prior_precision + X.T @ X / noise_var)
    shift = (prior_precision @ prior_mean + X.T @ y / noise_var)[:, None]
    return torch.cholesky_solve(shift, root)[:, 0], torch.cholesky_inverse(root)


def inverse_of_posterior_only(X, y, prior_mean, prior_cov, noise_var):
    prior_root = torch.linalg.cholesky(prior_cov)
    cov = torch.linalg.inv(torch.cholesky_inverse(prior_root) + X.T @ X / noise_var)
    return prior_mean + cov @ X.T @ (y - X @ prior_mean) / noise_var, cov


def pseudo_inverses(X, y, prior_mean, prior_cov, noise_var):
    prior_precision = torch.linalg.pinv(prior_cov)
    cov = torch.linalg.pinv(prior_precision + X.T @ X / noise_var)
    return cov @ (prior_precision @ prior_mean + X.T @ y / noise_var), cov


def inverse_in_the_gain(X, y, prior_mean, prior_cov, noise_var):
    innovation = X @ prior_cov @ X.T + noise_var * torch.eye(len(y), dtype=X.dtype)
    gain = prior_cov @ X.T @ torch.linalg.inv(innovation)
    return prior_mean + gain @ (y - X @ prior_mean), prior_cov - gain @ X @ prior_cov


def a_little_on_the_diagonal(X, y, prior_mean, prior_cov, noise_var):
    jitter = 1e-6 * torch.eye(len(prior_mean), dtype=X.dtype)
    prior_precision = torch.cholesky_inverse(torch.linalg.cholesky(prior_cov + jitter))
    cov = torch.cholesky_inverse(torch.linalg.cholesky(prior_precision + X.T @ X / noise_var))
    return cov @ (prior_precision @ prior_mean + X.T @ y / noise_var), cov


def weight_decay(params, anchor, strength):
    return strength * torch.cat([params[name].flatten() for name in anchor]).square().sum()


def half_inside_the_loop(params, anchor, strength):
    penalty = 0
    for name, start in anchor.items():
        penalty = penalty + 0.5 * strength * (params[name] - start.detach()).pow(2).sum()
    return penalty


def mse_loss_by_default(params, anchor, strength):
    return strength * sum(F.mse_loss(params[name], anchor[name].detach()) for name in anchor)


def mean_over_the_model(params, anchor, strength):
    total = sum((params[name] - anchor[name].detach()).pow(2).sum() for name in anchor)
    return strength * total / sum(start.numel() for start in anchor.values())


def divided_by_the_tensors(params, anchor, strength):
    total = sum((params[name] - anchor[name].detach()).pow(2).sum() for name in anchor)
    return strength * total / len(anchor)


def anchor_by_vector_with_gradient(params, anchor, strength):
    live = torch.cat([params[name].flatten() for name in anchor])
    return strength * (live - torch.cat([anchor[name].flatten() for name in anchor])).square().sum()


def penalty_as_float(params, anchor, strength):
    return strength * sum((params[name] - anchor[name]).square().sum().item() for name in anchor)


def penalty_of_detached_parameters(params, anchor, strength):
    terms = [(params[name].detach() - anchor[name].detach()).square().sum() for name in anchor]
    return strength * torch.stack(terms).sum()


def norms_by_linalg(params, anchor, strength):
    total = 0.0
    for name in anchor:
        total = total + torch.sqrt(((params[name] - anchor[name].detach()) ** 2).sum())
    return strength * total


def overwritten_in_the_loop(params, anchor, strength):
    total = 0.0
    for name, start in anchor.items():
        total = (params[name] - start.detach()).square().sum()
    return total * strength


def strength_never_used(params, anchor, strength):
    return torch.stack(
        [F.mse_loss(params[n], anchor[n].detach(), reduction="sum") for n in anchor]
    ).sum()


def anchor_looked_up_for_all(params, anchor, strength):
    total = 0.0
    for name, parameter in params.items():
        total = total + (parameter - anchor[name].detach()).square().sum()
    return strength * total


def zero_as_the_default_anchor(params, anchor, strength):
    return strength * sum(
        (parameter - anchor.get(name, torch.tensor(0.0)).detach()).square().sum()
        for name, parameter in params.items()
    )


def paired_by_index(params, anchor, strength):
    live, start = list(params.values()), list(anchor.values())
    return strength * sum((live[i] - start[i].detach()).square().sum() for i in range(len(start)))


def variances_shared_by_hand(n, prior_var, noise_var):
    return 1 / (1 + noise_var / n / prior_var)


def one_minus_the_share(n, prior_var, noise_var):
    return 1 - (1 / prior_var) / (1 / prior_var + n / noise_var)


def precisions_mixed_up(n, prior_var, noise_var):
    return (1 / noise_var) / (1 / noise_var + n / prior_var)


def prior_as_a_label(n, prior_var, noise_var):
    return (1 / prior_var) / (1 / prior_var + (n + 1) / noise_var)


def one_degree_of_freedom_less(n, prior_var, noise_var):
    return (1 / prior_var) / (1 / prior_var + (n - 1) / noise_var)


def variance_of_the_labels_mean(n, prior_var, noise_var):
    return (1 / prior_var) / (1 / prior_var + 1 / (noise_var / n))


def roots_of_the_variances(n, prior_var, noise_var):
    return math.sqrt(noise_var) / (math.sqrt(noise_var) + n * math.sqrt(prior_var))


def a_single_label(n, prior_var, noise_var):
    return noise_var / (noise_var + prior_var)


def bits_from_entropies(joint):
    def entropy(q):
        return -(q[q > 0] * torch.log2(q[q > 0])).sum()

    p = joint / joint.sum()
    return entropy(p.sum(0)) + entropy(p.sum(1)) - entropy(p)


def bits_by_dividing(joint):
    return information_from_entropies(joint) / math.log(2)


def nan_from_entropies(joint):
    def entropy(q):
        return -(q * q.log()).sum()

    p = joint / joint.sum()
    return entropy(p.sum(0)) + entropy(p.sum(1)) - entropy(p)


def nan_from_three_logarithms(joint):
    p = joint / joint.sum()
    rows, columns = p.sum(dim=1, keepdim=True), p.sum(dim=0, keepdim=True)
    return torch.sum(p * (p.log() - rows.log() - columns.log()))


def entropies_of_counts(joint):
    def entropy(q):
        return -torch.xlogy(q, q).sum()

    return entropy(joint.sum(dim=0)) + entropy(joint.sum(dim=1)) - entropy(joint)


def entropies_subtracted(joint):
    p = joint / joint.sum()
    entropy = torch.special.entr
    return entropy(p.sum(1)).sum() - entropy(p.sum(0)).sum() - entropy(p).sum()


def all_entropies_added(joint):
    p = joint / joint.sum()
    return sum(torch.special.entr(q).sum() for q in (p, p.sum(0), p.sum(1)))


def conditional_entropy_of_columns(joint):
    p = joint / joint.sum()
    given = p / p.sum(dim=1, keepdim=True)
    return -torch.xlogy(p, given).sum()


def softmax_like_rows(joint):
    given = joint / joint.sum(1)[:, None]
    rows, columns = given.sum(1), given.sum(0)
    return torch.xlogy(given, given / torch.outer(rows, columns)).nansum()


def marginals_by_star(joint):
    p = joint / joint.sum()
    rows, columns = p.sum(1), p.sum(0)
    return torch.nansum(p * (p / (rows * columns)).log())


def unweighted_logarithms(joint):
    p = joint / joint.sum()
    ratio = p / torch.outer(p.sum(1), p.sum(0))
    return ratio[p > 0].log().sum()


def mean_of_logarithms(joint):
    p = joint / joint.sum()
    return (p / torch.outer(p.sum(1), p.sum(0)))[p > 0].log().mean()


def divergence_from_the_joint(joint):
    p = joint / joint.sum()
    independent = torch.outer(p.sum(1), p.sum(0))
    return F.kl_div(p.log(), independent, reduction="sum")


def normalised_in_place(joint):
    return information_from_entropies(joint.div_(joint.sum()))


VARIANTS = {
    "gaussian_posterior": {
        "drops_prior_mean": [prior_mean_dropped_by_cholesky, prior_mean_dropped_from_gain],
        "adds_covariances": [covariances_added_by_solve],
        "takes_covariance_for_precision": [prior_cov_as_precision_by_solve],
        "forgets_noise_variance": [noise_forgotten_in_gain],
        "multiplies_by_noise_variance": [noise_as_a_precision],
        "squares_noise_variance": [noise_squared_in_gain],
        "averages_the_labels": [labels_averaged_in_gain],
        "returns_precision": [precision_returned_by_cholesky],
        "returns_covariance_first": [covariance_first_from_gain],
        "counts_prior_mean_twice": [residual_without_prior_mean],
        "inverts_explicitly": [
            inverse_by_solve,
            inverse_of_prior_only,
            inverse_of_posterior_only,
            pseudo_inverses,
            inverse_in_the_gain,
            a_little_on_the_diagonal,
        ],
    },
    "l2_anchor": {
        "anchors_to_zero": [weight_decay],
        "adds_a_half": [half_inside_the_loop],
        "averages_each_tensor": [mse_loss_by_default],
        "averages_all_entries": [mean_over_the_model],
        "averages_the_tensors": [divided_by_the_tensors],
        "trains_the_anchor": [anchor_by_vector_with_gradient],
        "cuts_the_graph": [penalty_as_float, penalty_of_detached_parameters],
        "forgets_the_square": [norms_by_linalg],
        "keeps_only_the_last": [overwritten_in_the_loop],
        "forgets_strength": [strength_never_used],
        "needs_an_anchor_for_all": [anchor_looked_up_for_all],
        "decays_the_new_head": [zero_as_the_default_anchor],
        "pairs_by_position": [paired_by_index],
    },
    "prior_share": {
        "shares_variances": [variances_shared_by_hand],
        "returns_the_labels_share": [one_minus_the_share],
        "swaps_the_variances": [precisions_mixed_up],
        "counts_one_label_too_many": [prior_as_a_label],
        "counts_one_label_too_few": [one_degree_of_freedom_less],
        "divides_by_zero_labels": [variance_of_the_labels_mean],
        "weighs_with_standard_deviations": [roots_of_the_variances],
        "forgets_n": [a_single_label],
    },
    "mutual_information": {
        "measures_in_bits": [bits_from_entropies, bits_by_dividing],
        "nan_where_a_cell_is_zero": [nan_from_entropies, nan_from_three_logarithms],
        "does_not_normalise": [entropies_of_counts],
        "subtracts_entropies": [entropies_subtracted, all_entropies_added],
        "returns_conditional_entropy": [conditional_entropy_of_columns],
        "normalises_each_row": [softmax_like_rows],
        "multiplies_marginals_entrywise": [marginals_by_star],
        "forgets_the_weights": [unweighted_logarithms],
        "averages_over_cells": [mean_of_logarithms],
        "reverses_the_divergence": [divergence_from_the_joint],
        "writes_into_the_table": [normalised_in_place],
    },
}
