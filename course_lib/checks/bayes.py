"""Checks of notebook 01 (`course_lib.bayes`)."""

from collections.abc import Callable, Sequence

import torch

from course_lib import bayes
from course_lib.checks.exercise import Case, Exercise, Failure, Observation, Property
from course_lib.checks.observe import observe_call, same
from course_lib.checks.properties import (
    compare,
    describe,
    dtype,
    gradient,
    number,
    returns,
    unchanged_inputs,
    value,
)


def _between(generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def _size(generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def _normal(generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# ------------------------------------------------------------------------------ gaussian_posterior
# What a condition number of 1e10 does in float64, over 300 seeds of the badly conditioned cases
# below (600 of each kind; the reference is 6e-6 off exact arithmetic, see tests/test_bayes.py).
# "Off" is the relative error of the variance in the direction where that is worst, reading one
# triangle of the covariance as torch.linalg.cholesky does.
#   NEARLY_CERTAIN (half of the variances 1e-10). At most 1e-4 off: Cholesky solves of the
#     precisions, the gain form, one label at a time, solve with I + prior_cov X'X / noise_var, QR.
#     At least 5 off, with negative variances: torch.linalg.inv, solve against the identity, eigh,
#     pinv; their two triangles differ by more than 1e-10. Where only prior_cov is inverted, the
#     Cholesky factorisation of the precision stops (597 of 600) or is 0.99 off. An inverse that is
#     made symmetric afterwards is 1e-5 off: as good as Cholesky, so it passes.
#   NEARLY_FLAT (half of the variances 1e10). At most 2e-3 off: all of these. At least 60 000 off:
#     the gain form with an inverse of X prior_cov X' + noise_var I.
# Means are off by at most 2e-4 of their length; by 5e-3 with an inverse of I + prior_cov X'X /
# noise_var, which passes as well.
NEARLY_CERTAIN, NEARLY_FLAT = "nearly certain prior", "nearly flat prior"
ORDINARY, FEW_LABELS, NO_LABELS, SINGLE = "ordinary", "few labels", "no labels", "float32"
VARIANCE_TOLERANCE, MEAN_TOLERANCE = 0.05, 0.02


def _regression_case(kind, generator, n, d, variances=None, noise_var=None, text="") -> Case:
    """Labels that a weight vector from the prior gives, for a prior with rotated axes."""
    if variances is None:
        variances = torch.logspace(-0.7, 0.4, d, dtype=torch.float64)
    if noise_var is None:
        noise_var = _between(generator, 0.2, 0.5)
    rotation = torch.linalg.qr(_normal(generator, d, d)).Q
    prior_cov = rotation @ torch.diag(variances) @ rotation.mT
    prior_cov = (prior_cov + prior_cov.mT) / 2
    X, prior_mean = _normal(generator, n, d), 1 + 0.5 * _normal(generator, d)
    weights = prior_mean + rotation @ (variances.sqrt() * _normal(generator, d))
    arguments = {
        "X": X,
        "y": X @ weights + noise_var**0.5 * _normal(generator, n),
        "prior_mean": prior_mean,
        "prior_cov": prior_cov,
        "noise_var": noise_var,
    }
    return Case(kind, arguments, text=text)


def _badly_conditioned_cases(generator, extra: int) -> list[Case]:
    few, many = 2 * _size(generator, 2, 3) + extra, 2 * _size(generator, 4, 5) + extra
    return [
        _badly_conditioned_case(NEARLY_CERTAIN, generator, n=3, d=many, low=1e-10, high=1.0),
        _badly_conditioned_case(NEARLY_FLAT, generator, n=2 * few, d=few, low=1.0, high=1e10),
    ]


def _badly_conditioned_case(kind, generator, n, d, low, high) -> Case:
    variances = torch.tensor([high] * (d // 2) + [low] * (d - d // 2), dtype=torch.float64)
    text = f"prior_cov of condition number 1e10, d = {d}, {n} labels, noise_var 0.5"
    return _regression_case(kind, generator, n, d, variances, noise_var=0.5, text=text)


def _as_float32(case: Case) -> Case:
    arguments = {
        name: given.float() if isinstance(given, torch.Tensor) else given
        for name, given in case.arguments.items()
    }
    return Case(case.kind, arguments)


def _regression_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed)
    d = _size(generator, 3, 5)
    return [
        _regression_case(ORDINARY, generator, _size(generator, 4, 6), 2),
        _regression_case(ORDINARY, generator, d + _size(generator, 3, 6), d),
        _regression_case(FEW_LABELS, generator, d - 1, d + 1),
        _regression_case(NO_LABELS, generator, 0, d),
        *_badly_conditioned_cases(generator, extra=0),
    ]


def _hidden_regression_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed + 1)
    d = _size(generator, 6, 9)
    transposed = _regression_case(ORDINARY, generator, 3 * d, d)
    transposed.arguments["X"] = transposed.arguments["X"].mT.contiguous().mT
    return [
        transposed,
        _regression_case(ORDINARY, generator, _size(generator, 150, 250), d),
        _regression_case(ORDINARY, generator, d + 3, d, noise_var=_between(generator, 4, 9)),
        _regression_case(FEW_LABELS, generator, 1, d),
        _regression_case(FEW_LABELS, generator, 2, 1 + d),
        _regression_case(NO_LABELS, generator, 0, 1),
        _as_float32(_regression_case(SINGLE, generator, 2 * d, d)),
        *_badly_conditioned_cases(generator, extra=1),
    ]


def _part(index: int, name: str, points: float, kinds: tuple[str, ...]) -> Property:
    """One of the two results equals the reference's."""

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        if describe(observed.output) != describe(expected.output):
            return Failure(describe(expected.output), describe(observed.output))
        failure = compare(expected.output[index], observed.output[index], rtol=1e-4, atol=1e-6)
        which = ("mean", "cov")[index]
        return failure and Failure(f"{which} {failure.expected}", f"{which} {failure.got}")

    return Property(name, points, test, kinds=kinds)


def _holds_when_badly_conditioned(case, observed, expected) -> Failure | None:
    """The variance in every direction is right to 5 %, by either triangle of the covariance."""
    if describe(observed.output) != describe(expected.output):
        return Failure(describe(expected.output), describe(observed.output))
    mean, cov = observed.output
    right_mean, right_cov = expected.output
    if not all(leaf.isfinite().all() for leaf in (mean, cov)):
        return Failure("finite numbers", "NaN or infinity")
    error = ((mean - right_mean).norm() / right_mean.norm()).item()
    if error > MEAN_TOLERANCE:
        return Failure("the right mean", f"a mean that is off by {number(error)} of its length")
    variances, directions = torch.linalg.eigh(right_cov)
    whiten = directions / variances.sqrt()
    for triangle, name in ((cov.tril(), "lower"), (cov.mT.tril(), "upper")):
        symmetric = triangle + triangle.tril(-1).mT
        ratios = torch.linalg.eigvalsh(whiten.mT @ symmetric.double() @ whiten)
        for ratio in (ratios.min().item(), ratios.max().item()):
            if abs(ratio - 1) > VARIANCE_TOLERANCE:
                return Failure(
                    "the right variance in every direction",
                    f"{number(ratio)} times the right one in some direction "
                    f"(by the {name} triangle of cov)",
                )
    return None


gaussian_posterior = Exercise(
    name="gaussian_posterior",
    reference=bayes.gaussian_posterior,
    cases=_regression_cases,
    hidden_cases=_hidden_regression_cases,
    properties=(
        returns(0.5, kinds=(ORDINARY,), name="shapes"),
        _part(0, "posterior mean", 1.5, kinds=(ORDINARY,)),
        _part(1, "posterior covariance", 1.5, kinds=(ORDINARY,)),
        # Before all that is not about ordinary cases: see _breaks_down_when_badly_conditioned.
        Property(
            "badly conditioned prior",
            1,
            _holds_when_badly_conditioned,
            kinds=(NEARLY_CERTAIN, NEARLY_FLAT),
        ),
        value(0.5, kinds=(FEW_LABELS, NO_LABELS), name="few or no labels"),
        dtype(0.5, kinds=(ORDINARY, SINGLE)),
        unchanged_inputs(0.5, kinds=(ORDINARY,)),
    ),
    observe=observe_call,
)


@gaussian_posterior.mistake(
    "the prior's mean has dropped out of the posterior mean",
    why="without it this is ridge regression towards zero: what pre-training found is forgotten.",
    look_at="without any labels, what should the posterior mean be, and what does yours give?",
)
def drops_prior_mean(X, y, prior_mean, prior_cov, noise_var):
    precision = torch.linalg.inv(prior_cov) + X.T @ X / noise_var
    cov = torch.linalg.inv(precision)
    return cov @ (X.T @ y) / noise_var, cov


@gaussian_posterior.mistake(
    "it adds covariances, where precisions add",
    why="evidence sharpens: after seeing labels the posterior is narrower than the prior, and the "
    "sum of two covariances is wider than either.",
    look_at="which of the two, covariance or precision, is the matrix in the Gaussian's exponent?",
)
def adds_covariances(X, y, prior_mean, prior_cov, noise_var):
    cov = prior_cov + noise_var * torch.linalg.inv(X.T @ X)
    mean = cov @ (torch.linalg.solve(prior_cov, prior_mean) + X.T @ y / noise_var)
    return mean, cov


@gaussian_posterior.mistake(
    "a covariance is added to a precision",
    why="prior_cov is in units of the weights squared and X'X / noise_var in one over that: their "
    "sum means nothing, and a wide prior would count as a confident one.",
    look_at="which of the two terms of the posterior precision is not a precision yet?",
)
def takes_covariance_for_precision(X, y, prior_mean, prior_cov, noise_var):
    cov = torch.linalg.inv(prior_cov + X.T @ X / noise_var)
    return cov @ (prior_cov @ prior_mean + X.T @ y / noise_var), cov


@gaussian_posterior.mistake(
    "the noise variance is forgotten",
    why="it says how much one label is worth: with noisy labels the prior should count for more.",
    look_at="how does your answer change when noise_var grows a hundredfold, and how should it?",
)
def forgets_noise_variance(X, y, prior_mean, prior_cov, noise_var):
    prior_precision = torch.linalg.inv(prior_cov)
    cov = torch.linalg.inv(prior_precision + X.T @ X)
    return cov @ (prior_precision @ prior_mean + X.T @ y), cov


@gaussian_posterior.mistake(
    "the noise variance is forgotten in the mean",
    why="the labels then enter the mean with another weight than they have in the covariance.",
    look_at="compare what X'X and X'y are divided by.",
)
def forgets_noise_variance_in_mean(X, y, prior_mean, prior_cov, noise_var):
    prior_precision = torch.linalg.inv(prior_cov)
    cov = torch.linalg.inv(prior_precision + X.T @ X / noise_var)
    return cov @ (prior_precision @ prior_mean + X.T @ y), cov


@gaussian_posterior.mistake(
    "it multiplies by the noise variance, where it has to divide",
    why="noisier labels would count for more.",
    look_at="is noise_var the variance of one label or its precision?",
)
def multiplies_by_noise_variance(X, y, prior_mean, prior_cov, noise_var):
    prior_precision = torch.linalg.inv(prior_cov)
    cov = torch.linalg.inv(prior_precision + noise_var * X.T @ X)
    return cov @ (prior_precision @ prior_mean + noise_var * X.T @ y), cov


@gaussian_posterior.mistake(
    "noise_var is squared, as if it were a standard deviation",
    why="the labels get a weight that is off by a factor of noise_var.",
    look_at="what does the docstring say that noise_var is, and in which units?",
)
def squares_noise_variance(X, y, prior_mean, prior_cov, noise_var):
    prior_precision = torch.linalg.inv(prior_cov)
    cov = torch.linalg.inv(prior_precision + X.T @ X / noise_var**2)
    return cov @ (prior_precision @ prior_mean + X.T @ y / noise_var**2), cov


@gaussian_posterior.mistake(
    "the labels are averaged, where their evidence adds up",
    why="a thousand labels would then say no more about the weights than one of them does.",
    look_at="how does your covariance change when every label is given twice, and how should it?",
)
def averages_the_labels(X, y, prior_mean, prior_cov, noise_var):
    n = len(y)
    prior_precision = torch.linalg.inv(prior_cov)
    cov = torch.linalg.inv(prior_precision + X.T @ X / (n * noise_var))
    return cov @ (prior_precision @ prior_mean + X.T @ y / (n * noise_var)), cov


@gaussian_posterior.mistake(
    "the second result is the precision, not the covariance",
    why="its diagonal should be the variance that is left in each weight; this grows with labels.",
    look_at="does your second result get smaller or larger when labels are added?",
)
def returns_precision(X, y, prior_mean, prior_cov, noise_var):
    prior_precision = torch.linalg.inv(prior_cov)
    precision = prior_precision + X.T @ X / noise_var
    return torch.linalg.solve(precision, prior_precision @ prior_mean + X.T @ y / noise_var), (
        precision
    )


@gaussian_posterior.mistake(
    "mean and covariance have changed places",
    why="whoever unpacks the result takes one for the other.",
    look_at="in which order does the docstring name them?",
)
def returns_covariance_first(X, y, prior_mean, prior_cov, noise_var):
    prior_precision = torch.linalg.inv(prior_cov)
    cov = torch.linalg.inv(prior_precision + X.T @ X / noise_var)
    return cov, cov @ (prior_precision @ prior_mean + X.T @ y / noise_var)


@gaussian_posterior.mistake(
    "the prior's mean goes in without its precision",
    why="a mean counts for as much as it is certain; here a vague prior pulls as hard as a sharp "
    "one.",
    look_at="what multiplies X'y, and what multiplies prior_mean?",
)
def forgets_prior_precision_in_mean(X, y, prior_mean, prior_cov, noise_var):
    cov = torch.linalg.inv(torch.linalg.inv(prior_cov) + X.T @ X / noise_var)
    return cov @ (prior_mean + X.T @ y / noise_var), cov


@gaussian_posterior.mistake(
    "the prior's mean is weighed with its covariance, not with its precision",
    why="a mean counts for as much as it is certain; here a vague prior pulls harder than a sharp "
    "one.",
    look_at="without any labels, what should the posterior mean be, and what does yours give?",
)
def weighs_prior_mean_with_covariance(X, y, prior_mean, prior_cov, noise_var):
    cov = torch.linalg.inv(torch.linalg.inv(prior_cov) + X.T @ X / noise_var)
    return cov @ (prior_cov @ prior_mean + X.T @ y / noise_var), cov


@gaussian_posterior.mistake(
    "the prior's mean is added to a fit of all of y",
    why="what prior_mean already explains is counted twice.",
    look_at="starting from prior_mean, which part of y is still to be explained?",
)
def counts_prior_mean_twice(X, y, prior_mean, prior_cov, noise_var):
    cov = torch.linalg.inv(torch.linalg.inv(prior_cov) + X.T @ X / noise_var)
    return prior_mean + cov @ X.T @ y / noise_var, cov


def _breaks_down_when_badly_conditioned(
    cases: Sequence[Case], observations: Sequence[Observation]
) -> bool:
    """Right where float64 forgives everything, and wrong or stopped where it does not."""
    breaks_down = False
    for case, seen in zip(cases, observations, strict=True):
        wanted = gaussian_posterior.observe(bayes.gaussian_posterior, case)
        if case.kind in (NEARLY_CERTAIN, NEARLY_FLAT):
            if seen.error and "LinAlgError" not in seen.error:
                return False
            failure = seen.error or _holds_when_badly_conditioned(case, seen, wanted)
            breaks_down = breaks_down or bool(failure)
        elif case.kind == ORDINARY and (
            seen.error or not same(seen.output, wanted.output, rtol=1e-4, atol=1e-6)
        ):
            return False
    return breaks_down


@gaussian_posterior.mistake(
    "it loses the smallest variances when prior_cov is badly conditioned",
    why="the variances differ by a factor of up to 1e10: a rounding error, or a little on the "
    "diagonal, that is nothing beside the largest is more than the smallest. Some direction gets a "
    "wrong variance, often a negative one, and nobody can sample from such a posterior.",
    look_at="each inverse, each difference of two nearly equal covariances, and anything you add "
    "to the diagonal. Which factorisation of a covariance is symmetric by construction, and can "
    "solve and invert?",
    recognise=_breaks_down_when_badly_conditioned,
)
def inverts_explicitly(X, y, prior_mean, prior_cov, noise_var):
    prior_precision = torch.linalg.inv(prior_cov)
    cov = torch.linalg.inv(prior_precision + X.T @ X / noise_var)
    return cov @ (prior_precision @ prior_mean + X.T @ y / noise_var), cov


# --------------------------------------------------------------------------------------- l2_anchor
LIVE_ANCHOR, NEW_HEAD = "anchor with gradients", "new head"
NO_STRENGTH, NOT_MOVED = "no strength", "nothing has moved"


def _anchor_case(kind, generator, shapes: dict, strength: float, new: tuple[str, ...] = ()) -> Case:
    """Parameters that have moved away from an anchor; those named in `new` have none."""
    anchor = {name: _normal(generator, *shape) for name, shape in shapes.items()}
    params = {
        name: start + 0.5 * _normal(generator, *start.shape) for name, start in anchor.items()
    }
    anchor = {name: start for name, start in anchor.items() if name not in new}
    listed = ", ".join(
        f"{name!r} {tuple(shape)}{' (new)' if name in new else ''}"
        for name, shape in shapes.items()
    )
    return Case(
        kind,
        {"params": params, "anchor": anchor, "strength": strength},
        differentiate=("params", "anchor") if kind == LIVE_ANCHOR else ("params",),
        text=f"params {listed}, strength {number(strength)}",
    )


def _anchor_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed)
    d, k = _size(generator, 3, 5), _size(generator, 6, 8)

    def strength():
        return _between(generator, 0.2, 0.8)

    return [
        _anchor_case(ORDINARY, generator, {"weight": (3,)}, strength()),
        _anchor_case(ORDINARY, generator, {"weight": (k, d), "bias": (k,)}, strength()),
        _anchor_case(LIVE_ANCHOR, generator, {"weight": (d, k), "bias": (d,)}, strength()),
        _anchor_case(
            NEW_HEAD,
            generator,
            {"encoder.weight": (d, k), "head.weight": (d,), "encoder.bias": (d,)},
            strength(),
            new=("head.weight",),
        ),
    ]


def _hidden_anchor_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed + 1)
    d, k = _size(generator, 6, 9), _size(generator, 2, 4)
    encoder = {
        "embeddings": (3 * d, d),
        "layer.0.weight": (d, d),
        "layer.0.bias": (d,),
        "scale": (),
        "layer.1.weight": (k, d, 3),
        "layer.1.bias": (k,),
    }
    heads = {"head.weight": (k, d), "head.bias": (k,)}
    not_moved = _anchor_case(NOT_MOVED, generator, encoder, 0.5)
    not_moved.arguments["params"] = not_moved.arguments["anchor"]
    return [
        not_moved,
        _anchor_case(ORDINARY, generator, encoder, _between(generator, 2, 5)),
        _anchor_case(NO_STRENGTH, generator, {"weight": (d, k), "bias": (k,)}, 0.0),
        _anchor_case(LIVE_ANCHOR, generator, encoder, _between(generator, 0.01, 0.05)),
        _anchor_case(NEW_HEAD, generator, heads | encoder, 0.3, new=tuple(heads)),
    ]


l2_anchor = Exercise(
    name="l2_anchor",
    reference=bayes.l2_anchor,
    cases=_anchor_cases,
    hidden_cases=_hidden_anchor_cases,
    properties=(
        returns(0.5, kinds=(ORDINARY,)),
        value(1, kinds=(ORDINARY, NO_STRENGTH, NOT_MOVED)),
        gradient(1, kinds=(ORDINARY, NO_STRENGTH, NOT_MOVED), name="gradient of the parameters"),
        gradient(0.5, kinds=(LIVE_ANCHOR,), name="no gradient in the anchor"),
        value(0.5, kinds=(NEW_HEAD,), name="a new head is left free"),
        unchanged_inputs(0.5),
    ),
    observe=observe_call,
)


@l2_anchor.mistake(
    "it pulls towards zero, not towards the anchor",
    why="that is weight decay: it pulls the model away from what pre-training found.",
    look_at="what should the penalty be for a model that has not moved at all?",
)
def anchors_to_zero(params, anchor, strength):
    return strength * sum((params[name] ** 2).sum() for name in anchor)


@l2_anchor.mistake(
    "there is a factor of 1/2 that this definition does not have",
    why="strength would mean half of what it means everywhere else in the course, and the "
    "strengths that papers report could not be compared.",
    look_at="compare your formula with the one in the docstring, factor by factor.",
)
def adds_a_half(params, anchor, strength):
    return (
        strength / 2 * sum(((params[name] - anchor[name].detach()) ** 2).sum() for name in anchor)
    )


@l2_anchor.mistake(
    "it averages over the entries of each tensor, where the definition sums",
    why="each entry has a prior of its own, and independent log-probabilities add: with a mean the "
    "prior gets weaker the larger a layer is.",
    look_at="does the penalty double when a tensor is twice as long?",
)
def averages_each_tensor(params, anchor, strength):
    return strength * sum(((params[name] - anchor[name].detach()) ** 2).mean() for name in anchor)


@l2_anchor.mistake(
    "it averages over all entries, where the definition sums",
    why="each entry has a prior of its own, and independent log-probabilities add: with a mean the "
    "prior gets weaker the larger the model is.",
    look_at="does the penalty double when the model is twice as large?",
)
def averages_all_entries(params, anchor, strength):
    steps = [(params[name] - anchor[name].detach()).flatten() for name in anchor]
    return strength * (torch.cat(steps) ** 2).mean()


@l2_anchor.mistake(
    "it averages over the tensors, where the definition sums",
    why="independent log-probabilities add: with a mean the prior gets weaker the more layers "
    "there are.",
    look_at="does the penalty grow when another tensor has moved as well?",
)
def averages_the_tensors(params, anchor, strength):
    terms = [((params[name] - anchor[name].detach()) ** 2).sum() for name in anchor]
    return strength * torch.stack(terms).mean()


@l2_anchor.mistake(
    "gradients flow into the anchor",
    why="the anchor is what was found before; if it can be trained it runs after the parameters, "
    "and both meet in the middle at no cost.",
    look_at="what in your formula should autograd treat as a constant?",
)
def trains_the_anchor(params, anchor, strength):
    return strength * sum(((params[name] - anchor[name]) ** 2).sum() for name in anchor)


@l2_anchor.mistake(
    "no gradient reaches the parameters",
    why="the value is right, but training never feels it: the penalty is a number without a graph.",
    look_at="where does your result leave autograd (item, float, detach, data, no_grad)?",
)
def cuts_the_graph(params, anchor, strength):
    with torch.no_grad():
        return strength * sum(((params[name] - anchor[name]) ** 2).sum() for name in anchor)


@l2_anchor.mistake(
    "it takes the distance, not its square",
    why="the negative log of a Gaussian is quadratic: it hardly minds small steps and minds large "
    "ones a lot. A distance pulls equally hard everywhere.",
    look_at="what does a norm function return, and what does the formula ask for?",
)
def forgets_the_square(params, anchor, strength):
    return strength * sum((params[name] - anchor[name].detach()).norm() for name in anchor)


@l2_anchor.mistake(
    "it takes absolute values, not squares",
    why="that is the prior of a Laplace distribution, which wants most entries not to move at all.",
    look_at="which function of the difference is in the exponent of a Gaussian?",
)
def takes_absolute_values(params, anchor, strength):
    return strength * sum((params[name] - anchor[name].detach()).abs().sum() for name in anchor)


@l2_anchor.mistake(
    "it squares the sum, where the definition sums squares",
    why="steps in opposite directions cancel, so a model can move far at no cost.",
    look_at="what is the penalty when one entry moves by +1 and another by -1?",
)
def squares_the_sum(params, anchor, strength):
    return strength * sum((params[name] - anchor[name].detach()).sum() ** 2 for name in anchor)


@l2_anchor.mistake(
    "only the last tensor counts",
    why="all other layers are free to forget.",
    look_at="what happens to the earlier terms each time the loop goes round?",
)
def keeps_only_the_last(params, anchor, strength):
    for name in anchor:
        penalty = strength * ((params[name] - anchor[name].detach()) ** 2).sum()
    return penalty


@l2_anchor.mistake(
    "only the first tensor counts",
    why="all other layers are free to forget.",
    look_at="when does your function return?",
)
def returns_in_the_loop(params, anchor, strength):
    penalty = 0.0
    for name in anchor:
        penalty = penalty + strength * ((params[name] - anchor[name].detach()) ** 2).sum()
        return penalty


@l2_anchor.mistake(
    "strength has no effect",
    why="it says how much pre-training is trusted, and has to be tuned for each task.",
    look_at="where does strength appear in your code?",
)
def forgets_strength(params, anchor, strength):
    return sum(((params[name] - anchor[name].detach()) ** 2).sum() for name in anchor)


@l2_anchor.mistake(
    "it needs an anchor for every parameter, and a new head has none",
    why="fine-tuning puts a fresh head on the model; pre-training says nothing about it.",
    look_at="which of the two dictionaries do you loop over?",
)
def needs_an_anchor_for_all(params, anchor, strength):
    return strength * sum(((params[name] - anchor[name].detach()) ** 2).sum() for name in params)


@l2_anchor.mistake(
    "a new head is pulled towards zero",
    why="here the prior speaks only about what pre-training has seen; a new head is left free.",
    look_at="what do you take as the anchor of a parameter that has none?",
)
def decays_the_new_head(params, anchor, strength):
    penalty = 0.0
    for name, parameter in params.items():
        start = anchor[name].detach() if name in anchor else torch.zeros_like(parameter)
        penalty = penalty + strength * ((parameter - start) ** 2).sum()
    return penalty


@l2_anchor.mistake(
    "parameters and anchors are paired by position, not by name",
    why="a new head in between shifts the pairs: layers are pulled towards other layers' weights.",
    look_at="what do the two dictionaries have in common if not their order?",
)
def pairs_by_position(params, anchor, strength):
    pairs = zip(params.values(), anchor.values(), strict=False)
    return strength * sum(((live - start.detach()) ** 2).sum() for live, start in pairs)


# ------------------------------------------------------------------------------------- prior_share
FAR_APART = "one side has nearly all the evidence"


def _share_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed)

    def case(kind, n):
        # The variances differ by a factor of 2 to 6, so that no two mistakes give the same.
        narrow, wide = _between(generator, 0.5, 0.9), _between(generator, 1.8, 3.0)
        prior_var, noise_var = (wide, narrow) if n % 2 else (narrow, wide)
        return Case(kind, {"n": n, "prior_var": prior_var, "noise_var": noise_var})

    return [
        case(ORDINARY, 3),
        case(ORDINARY, _size(generator, 4, 9)),
        case(NO_LABELS, 0),
    ]


def _hidden_share_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed + 1)

    def case(kind, n, prior_var, noise_var):
        scale = _between(generator, 1, 2)
        return Case(kind, {"n": n, "prior_var": scale * prior_var, "noise_var": noise_var})

    return [
        case(ORDINARY, 1, 0.7, 2.9),
        case(ORDINARY, _size(generator, 900, 1100), 0.02, 0.3),
        case(FAR_APART, 10**6, 3.0, 2e-3),
        case(FAR_APART, 7, 1e-9, 5.0),
        case(NO_LABELS, 0, 1e-3, 40.0),
    ]


prior_share = Exercise(
    name="prior_share",
    reference=bayes.prior_share,
    cases=_share_cases,
    hidden_cases=_hidden_share_cases,
    properties=(
        returns(0.5, kinds=(ORDINARY,)),
        # The share of the prior after a million labels is about 1e-10: no absolute tolerance.
        value(1.5, kinds=(ORDINARY, FAR_APART), rtol=1e-5, atol=0.0),
        value(1, kinds=(NO_LABELS,), name="no labels at all"),
    ),
    observe=observe_call,
)


@prior_share.mistake(
    "it is the share of the variances, not of the precisions",
    why="a narrow prior is a confident one: the smaller its variance, the more it must weigh. What "
    "you have is the labels' weight.",
    look_at="what is added when independent pieces of evidence are combined?",
)
def shares_variances(n, prior_var, noise_var):
    return prior_var / (prior_var + noise_var / n)


@prior_share.mistake(
    "it is the labels' share, not the prior's",
    why="the two add up to 1; without any labels the prior's must be all of it.",
    look_at="which of the two precisions belongs in the numerator?",
)
def returns_the_labels_share(n, prior_var, noise_var):
    return n / noise_var / (1 / prior_var + n / noise_var)


@prior_share.mistake(
    "the two variances have changed places",
    why="noisier labels would make the prior weigh less.",
    look_at="does your share rise or fall when noise_var grows?",
)
def swaps_the_variances(n, prior_var, noise_var):
    return prior_var / (prior_var + n * noise_var)


@prior_share.mistake(
    "it is off by one: the prior is counted as one label more",
    why="the prior is worth noise_var / prior_var labels, which is in the formula already.",
    look_at="try n = 0: how much evidence do the labels hold then?",
)
def counts_one_label_too_many(n, prior_var, noise_var):
    return noise_var / (noise_var + (n + 1) * prior_var)


@prior_share.mistake(
    "it is off by one: one label is not counted",
    why="n - 1 belongs to an estimated variance; here the variances are given.",
    look_at="try n = 1: does the first label have any weight?",
)
def counts_one_label_too_few(n, prior_var, noise_var):
    return noise_var / (noise_var + (n - 1) * prior_var)


@prior_share.mistake(
    "it divides by n, which is zero before the first label",
    why="without labels the prior is all there is: its share is 1, not an error.",
    look_at="which quantity of the labels is zero at n = 0, their variance or their precision?",
)
def divides_by_zero_labels(n, prior_var, noise_var):
    variance_of_mean = noise_var / n
    return variance_of_mean / (variance_of_mean + prior_var)


@prior_share.mistake(
    "it weighs with standard deviations, not with variances",
    why="what adds up for independent pieces of evidence is one over the variance.",
    look_at="what is a precision?",
)
def weighs_with_standard_deviations(n, prior_var, noise_var):
    prior_weight, label_weight = prior_var**-0.5, noise_var**-0.5
    return prior_weight / (prior_weight + n * label_weight)


@prior_share.mistake(
    "the number of labels has no effect",
    why="the whole point is that the prior's share shrinks as labels come in.",
    look_at="how much evidence do n labels hold, if one holds 1 / noise_var?",
)
def forgets_n(n, prior_var, noise_var):
    return (1 / prior_var) / (1 / prior_var + 1 / noise_var)


# ------------------------------------------------------------------------------ mutual_information
TABLE, COUNTS, INDEPENDENT = "probabilities", "counts", "independent variables"
EMPTY_CELLS, EMPTY_ROWS = "empty cells", "empty rows or columns"


def _table(generator, rows: int, columns: int) -> torch.Tensor:
    """Positive probabilities of two variables that depend on each other."""
    table = torch.exp(0.7 * _normal(generator, rows, columns)) + 4 * torch.eye(rows, columns)
    return table / table.sum()


def _counts(generator, rows: int, columns: int, total: int) -> torch.Tensor:
    return (total * _table(generator, rows, columns)).long() + 1


def _information_case(kind: str, joint: torch.Tensor) -> Case:
    return Case(kind, {"joint": joint})


def _information_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = _size(generator, 2, 3), _size(generator, 4, 6)
    holes = _table(generator, rows, columns)
    holes[0, 1] = 0
    return [
        _information_case(TABLE, _table(generator, 2, 2)),
        _information_case(TABLE, _table(generator, rows, columns)),
        _information_case(COUNTS, _counts(generator, columns, rows, 40)),
        _information_case(EMPTY_CELLS, holes / holes.sum()),
    ]


def _hidden_information_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed + 1)
    rows, columns = _size(generator, 5, 8), _size(generator, 3, 4)
    independent = _table(generator, rows, 1) * _table(generator, 1, columns)
    empty_row = _table(generator, rows, columns)
    empty_row[2] = 0
    empty_column = _table(generator, columns, rows).mT
    empty_column[:, 1] = 0
    return [
        _information_case(TABLE, _table(generator, columns, rows).mT),
        _information_case(TABLE, _table(generator, rows, columns).float()),
        _information_case(INDEPENDENT, independent),
        _information_case(INDEPENDENT, _table(generator, 1, columns)),
        _information_case(COUNTS, _counts(generator, rows, columns, 5_000_000)),
        _information_case(COUNTS, _counts(generator, rows, columns, 100).double()),
        _information_case(COUNTS, 1e-3 * _table(generator, columns, rows)),
        _information_case(EMPTY_CELLS, torch.eye(columns, dtype=torch.float64) / columns),
        _information_case(EMPTY_ROWS, empty_row / empty_row.sum()),
        _information_case(EMPTY_ROWS, empty_column / empty_column.sum()),
    ]


mutual_information = Exercise(
    name="mutual_information",
    reference=bayes.mutual_information,
    cases=_information_cases,
    hidden_cases=_hidden_information_cases,
    properties=(
        returns(0.5, kinds=(TABLE,)),
        value(1, kinds=(TABLE, INDEPENDENT), name="tables of probabilities"),
        value(1, kinds=(COUNTS,), name="tables of counts"),
        value(1, kinds=(EMPTY_CELLS, EMPTY_ROWS), name="cells that are zero"),
        unchanged_inputs(0.5),
    ),
    observe=observe_call,
)


def _gives(*combinations: tuple[int, int, int]) -> Callable[..., bool]:
    """Recognises a H(A) + b H(B) + c H(A, B) for one (a, b, c) on every table of probabilities."""

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        tables = [
            (case.arguments["joint"].double(), seen)
            for case, seen in zip(cases, observations, strict=True)
            if case.kind == TABLE
        ]
        if any(seen.error for _, seen in tables):
            return False
        return any(
            all(same(seen.output, _combined(table, weights), 1e-4, 1e-5) for table, seen in tables)
            for weights in combinations
        )

    return recognise


def _combined(table: torch.Tensor, weights: tuple[int, int, int]) -> float:
    parts = (table.sum(dim=1), table.sum(dim=0), table.flatten())
    entropies = [torch.special.entr(part).sum().item() for part in parts]
    return sum(weight * entropy for weight, entropy in zip(weights, entropies, strict=True))


@mutual_information.mistake(
    "the result is in bits",
    why="this course measures in nats; one nat is 1.44 bits, so bounds and losses would not fit.",
    look_at="which logarithm do nats ask for?",
)
def measures_in_bits(joint):
    p = joint / joint.sum()
    independent = p.sum(dim=1, keepdim=True) * p.sum(dim=0, keepdim=True)
    filled = p > 0
    return (p[filled] * torch.log2(p[filled] / independent[filled])).sum()


@mutual_information.mistake(
    "a cell that is zero makes it NaN",
    why="real tables have pairs that never occur; they add nothing, because x log x goes to 0.",
    look_at="what is 0 times log 0 for your computer, and what is it in the limit?",
)
def nan_where_a_cell_is_zero(joint):
    p = joint / joint.sum()
    independent = p.sum(dim=1, keepdim=True) * p.sum(dim=0, keepdim=True)
    return (p * torch.log(p / independent)).sum()


@mutual_information.mistake(
    "counts are not turned into probabilities",
    why="information does not depend on how many examples were counted, only on their shares.",
    look_at="what happens to your result when all counts double?",
)
def does_not_normalise(joint):
    p = joint.double()
    independent = p.sum(dim=1, keepdim=True) * p.sum(dim=0, keepdim=True)
    filled = p > 0
    return (p[filled] * torch.log(p[filled] / independent[filled])).sum()


@mutual_information.mistake(
    "the entropies are put together with a wrong sign",
    why="the information is what the two entropies have in common: both count, and what they hold "
    "together is taken away. It is never negative.",
    look_at="draw H(A) and H(B) as two overlapping circles: which areas give the overlap?",
    recognise=_gives(
        *((a, b, c) for a in (1, -1) for b in (1, -1) for c in (1, -1) if (a, b, c) != (1, 1, -1))
    ),
)
def subtracts_entropies(joint):
    def entropy(q):
        q = q[q > 0]
        return -(q * q.log()).sum()

    p = joint / joint.sum()
    return entropy(p) - entropy(p.sum(dim=1)) - entropy(p.sum(dim=0))


@mutual_information.mistake(
    "it is a conditional entropy, not the information",
    why="that is what stays uncertain about one variable when the other is known; the information "
    "is what is no longer uncertain.",
    look_at="what should come out for two independent variables?",
    recognise=_gives((0, -1, 1), (-1, 0, 1), (0, 1, -1), (1, 0, -1)),
)
def returns_conditional_entropy(joint):
    def entropy(q):
        q = q[q > 0]
        return -(q * q.log()).sum()

    p = joint / joint.sum()
    return entropy(p) - entropy(p.sum(dim=0))


@mutual_information.mistake(
    "each row is normalised by itself",
    why="that gives p(b | a) and makes all rows equally frequent; the joint table sums to 1 as a "
    "whole.",
    look_at="over which entries does a joint distribution sum to 1?",
)
def normalises_each_row(joint):
    p = joint / joint.sum(dim=1, keepdim=True)
    independent = p.sum(dim=1, keepdim=True) * p.sum(dim=0, keepdim=True)
    filled = p > 0
    return (p[filled] * torch.log(p[filled] / independent[filled])).sum()


@mutual_information.mistake(
    "the marginals are multiplied entry by entry, not each with each",
    why="under independence cell (a, b) holds p(a) p(b), one product for every cell of the table.",
    look_at="what shape does the product of your two marginals have?",
)
def multiplies_marginals_entrywise(joint):
    p = joint / joint.sum()
    independent = p.sum(dim=1) * p.sum(dim=0)
    return torch.where(p > 0, p * torch.log(p / independent), 0.0).sum()


@mutual_information.mistake(
    "the cells are not weighted by how often they occur",
    why="the information is an average under the joint distribution; unweighted, the rarest pairs "
    "count as much as the most frequent.",
    look_at="by what is each logarithm multiplied before you sum?",
)
def forgets_the_weights(joint):
    p = joint / joint.sum()
    independent = p.sum(dim=1, keepdim=True) * p.sum(dim=0, keepdim=True)
    filled = p > 0
    return torch.log(p[filled] / independent[filled]).sum()


@mutual_information.mistake(
    "the logarithms are averaged over the cells, not over the joint distribution",
    why="the information is an average under p(a, b); over cells the rarest pairs count as much as "
    "the most frequent.",
    look_at="what does your mean divide by?",
)
def averages_over_cells(joint):
    p = joint / joint.sum()
    independent = p.sum(dim=1, keepdim=True) * p.sum(dim=0, keepdim=True)
    filled = p > 0
    return torch.log(p[filled] / independent[filled]).mean()


@mutual_information.mistake(
    "the divergence is taken in the wrong direction",
    why="a Kullback-Leibler divergence is not symmetric, and this one is infinite as soon as a "
    "pair never occurs.",
    look_at="under which of the two distributions is the average taken?",
)
def reverses_the_divergence(joint):
    p = joint / joint.sum()
    independent = p.sum(dim=1, keepdim=True) * p.sum(dim=0, keepdim=True)
    return (independent * torch.log(independent / p)).sum()


@mutual_information.mistake(
    "it writes into the table that it was given",
    why="whoever counted still needs the counts; and a table of integers cannot hold shares.",
    look_at="each operation that changes a tensor in place.",
)
def writes_into_the_table(joint):
    joint /= joint.sum()
    independent = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0, keepdim=True)
    filled = joint > 0
    return (joint[filled] * torch.log(joint[filled] / independent[filled])).sum()


EXERCISES = (gaussian_posterior, l2_anchor, prior_share, mutual_information)
