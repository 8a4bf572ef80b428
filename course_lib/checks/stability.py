"""Checks of notebook 04 (`course_lib.stability`): gradient, temperature, bound and monitor."""

import contextlib
import inspect
import math
import re
import sys
import types
from collections import deque
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from torch.nn import functional as F

from course_lib import stability
from course_lib.checks.exercise import Case, Exercise, Failure, Foreign, Observation, Property
from course_lib.checks.observe import observe_call, observe_steps, same
from course_lib.checks.properties import (
    compare,
    describe,
    gradient,
    number,
    returns,
    show,
    unchanged_inputs,
    value,
)


def _between(generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def _size(generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


# nt_xent_gradient. The cases are in float32, PyTorch's default, but for those of kind DOUBLE: who
# builds a matrix without saying in which dtype should lose the points for that alone.
UNIT, ANY_LENGTH, ONE_PAIR, DOUBLE = "length 1", "any length", "one pair", "float64"
COLD, TRANSPOSED = "cold", "transposed"


def _embeddings(generator, pairs: int, d: int) -> torch.Tensor:
    """Two views that lean towards each other, (2 pairs, d), in lengths from about 0.3 to 6."""
    examples = torch.randn(pairs, d, generator=generator, dtype=torch.float64)
    z = examples.repeat(2, 1) + torch.randn(2 * pairs, d, generator=generator, dtype=torch.float64)
    return z * (0.3 + 1.7 * torch.rand(2 * pairs, 1, generator=generator, dtype=torch.float64))


def _for_the_cold(z: torch.Tensor) -> torch.Tensor:
    """The first pair nearly alike, so that exp(cos / tau) overflows; the others torn apart.

    Without the latter each view's nearest neighbour would be its positive, and the gradient 0.
    """
    first, second = z.chunk(2)
    return torch.cat([first, first[:1] + 0.01 * second[:1], second[1:].roll(1, 0)])


def _gradient_case(kind, z, temperature, text="") -> Case:
    z = z if kind == DOUBLE else z.float()
    return Case(kind, {"z": z, "temperature": temperature}, text=text)


def _gradient_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed)
    d, pairs = _size(generator, 4, 6), _size(generator, 3, 5)
    small = F.normalize(_embeddings(generator, 2, d), dim=1)
    larger = F.normalize(_embeddings(generator, pairs, d), dim=1)
    cold = _for_the_cold(_embeddings(generator, pairs, d))
    return [
        _gradient_case(UNIT, small, 0.5, f"z of shape {(4, d)}, rows of length 1, temperature 0.5"),
        _gradient_case(UNIT, larger, _between(generator, 0.2, 0.4)),
        _gradient_case(ANY_LENGTH, _embeddings(generator, pairs, d), _between(generator, 0.3, 0.7)),
        _gradient_case(COLD, cold, 0.01),
        _gradient_case(
            DOUBLE,
            _embeddings(generator, 2, d),
            0.5,
            f"z of shape {(4, d)} in float64, temperature 0.5",
        ),
    ]


def _hidden_gradient_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed + 1)
    d, pairs = _size(generator, 7, 12), _size(generator, 8, 16)
    transposed = _embeddings(generator, pairs, 2 * pairs).T.contiguous().T
    return [
        _gradient_case(ONE_PAIR, _embeddings(generator, 1, d), 0.3),
        _gradient_case(TRANSPOSED, transposed, _between(generator, 0.1, 0.2)),
        _gradient_case(ANY_LENGTH, _embeddings(generator, 2 * pairs, d), 2.0),
        _gradient_case(ANY_LENGTH, _embeddings(generator, pairs, 2), _between(generator, 0.2, 0.3)),
        _gradient_case(COLD, _for_the_cold(_embeddings(generator, pairs, d)), 0.01),
        _gradient_case(DOUBLE, _embeddings(generator, pairs, d), _between(generator, 0.1, 0.2)),
    ]


def _observe_by_hand(answer, case, forbidden=frozenset()) -> Observation:
    """Like `observe_call`, but without autograd: the exercise asks for the formula."""

    def steps(arguments):
        with torch.inference_mode(), _no_autograd():
            return answer(*arguments.values())

    return observe_steps(steps, answer, case, forbidden)


BY_AUTOGRAD = "this exercise asks for the formula, not for autograd"
# Every way to a derivative leads through one of these, those of torch.func too.
DERIVATIVES = frozenset(
    function.__code__
    for function in (
        torch.autograd.backward,
        torch.autograd.grad,
        torch.autograd.forward_ad.make_dual,
        torch.autograd.functional.jacobian,
        torch.autograd.functional.vjp,
    )
)


@contextlib.contextmanager
def _no_autograd():
    """Stop an answer that differentiates, also where it has switched the graph on again.

    Whatever watches calls already goes on watching.
    """
    outer = sys.getprofile()

    def on_call(frame, event, argument):
        if event == "call" and frame.f_code in DERIVATIVES:
            raise RuntimeError(BY_AUTOGRAD)
        if outer is not None:
            outer(frame, event, argument)

    sys.setprofile(on_call)
    try:
        yield
    finally:
        sys.setprofile(outer)


# Entries are about 1 / (2N tau), hence 0.01 and more; two right answers differ by 2e-7 at most.
GRADIENT_TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}

nt_xent_gradient = Exercise(
    name="nt_xent_gradient",
    reference=stability.nt_xent_gradient,
    cases=_gradient_cases,
    hidden_cases=_hidden_gradient_cases,
    properties=(
        returns(0.5, kinds=(UNIT,)),
        unchanged_inputs(0.5, kinds=(UNIT, ANY_LENGTH)),
        value(1, kinds=(UNIT,), name="embeddings of length 1", **GRADIENT_TOLERANCE),
        value(
            1,
            kinds=(ANY_LENGTH, TRANSPOSED, ONE_PAIR),
            name="embeddings of any length",
            **GRADIENT_TOLERANCE,
        ),
        # At tau = 0.01 one rounding of a cosine in float32 moves a weight by 1e-5.
        value(0.5, kinds=(COLD,), name="a cold temperature", rtol=1e-3, atol=1e-4),
        value(0.5, kinds=(DOUBLE,), name="float64", **GRADIENT_TOLERANCE),
    ),
    observe=_observe_by_hand,
)


def _asks_autograd(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    signs = (BY_AUTOGRAD, "does not require grad", "requires_grad", "autograd.Function")
    return any(sign in seen.error for seen in observations for sign in signs)


@nt_xent_gradient.mistake(
    "it asks autograd, which is what your formula will be compared with",
    why="autograd gives the number, not the reason: which weights pull, and what tau does to them.",
    look_at="the derivation above; each of its steps is one line of code.",
    recognise=_asks_autograd,
)
def asks_autograd(z, temperature):
    z = z.detach().requires_grad_()
    u = z / z.norm(dim=1, keepdim=True)
    logits = (u @ u.T / temperature).fill_diagonal_(float("-inf"))
    pair = torch.arange(len(z)).roll(len(z) // 2)
    loss = torch.nn.functional.cross_entropy(logits, pair)
    return torch.autograd.grad(loss, z)[0]


def _one_of(*answers: Callable, kind: str) -> Callable[..., bool]:
    """Recognises whoever gives what one of these wrong answers gives, in the cases of a kind."""

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        pairs = [
            (case.arguments.values(), seen)
            for case, seen in zip(cases, observations, strict=True)
            if case.kind == kind
        ]
        return any(
            all(not o.error and same(o.output, answer(*given), 1e-4, 1e-6) for given, o in pairs)
            for answer in answers
        )

    return recognise


def _with(
    pulls=lambda p, q, pairs: (p + p.T - 2 * q) / (2 * pairs),
    project=lambda g, u, z: g - u * (u * g).sum(dim=1, keepdim=True),
    over=1,
    pair=lambda rows: rows.roll(len(rows) // 2, 0),
) -> Callable:
    """The right answer, with one step replaced.

    pulls: (P, Q, pairs) -> what multiplies U.  project: (dL/dU, U, z) -> its part across.
    over: the axis of the lengths.  pair: row numbers -> the partners'.
    """

    def answer(z, temperature):
        length = z.norm(dim=over, keepdim=True)
        u = z / length
        p = (u @ u.T / temperature).fill_diagonal_(-math.inf).softmax(dim=1)
        q = torch.eye(len(z), dtype=z.dtype)[pair(torch.arange(len(z)))]
        return project(pulls(p, q, len(z) // 2) @ u / temperature, u, z) / length

    return answer


def _breaks_when_cold(cases, observations) -> bool:
    """Whether NaN comes out of a cold temperature, and out of nothing else."""
    results = [
        (case.kind == COLD, seen.output)
        for case, seen in zip(cases, observations, strict=True)
        if isinstance(seen.output, torch.Tensor)
    ]
    cold = [result for is_cold, result in results if is_cold]
    others = [result for is_cold, result in results if not is_cold]
    return any(result.isnan().any() for result in cold) and not any(
        result.isnan().any() for result in others
    )


def _first_rows_only(p, q, pairs):
    errors = torch.cat([(p - q)[:pairs], torch.zeros_like(p[pairs:])])
    return (errors + errors.T) / pairs


@nt_xent_gradient.mistake(
    "the factor 1 / tau is missing",
    why="it is what makes the gradients of a cold start large: at tau = 0.07 it is 14.",
    look_at="what is the derivative of s / tau with respect to s?",
)
def no_temperature_factor(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / len(u)
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "it divides by tau twice",
    why="the gradient grows as 1 / tau; with the square it would explode in the cold.",
    look_at="in which of your lines is the temperature, besides the exponent of the softmax?",
)
def divides_by_temperature_twice(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature**2 * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "it multiplies by tau where it should divide",
    why="the gradient would shrink as the temperature falls; in truth it grows.",
    look_at="what is the derivative of s / tau with respect to s?",
)
def multiplies_by_temperature(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = temperature * (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / len(u)
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "z_i moves its own row's loss only, but it is a candidate in all other rows too",
    why="what the other rows do to z_i is as large as what its own row does.",
    look_at="in which rows of the (2N, 2N) matrix does z_i appear, besides row i?",
)
def own_row_only(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u - u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "z_i moves the losses of the other rows only, but it has a row of its own too",
    why="its own row is where it is pushed away from its hardest negatives.",
    look_at="how does z_i enter l_i, the loss of its own row?",
)
def other_rows_only(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p.T @ u - u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "the own row counts twice (or is divided by N), and the other rows do not count",
    why="s_ij is symmetric, p_ij is not: each row has a sum of its own below the line. What the "
    "other rows do to z_i is therefore not the same as what its own row does.",
    look_at="is p_ij the same number as p_ji?",
)
def doubles_the_own_row(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = 2 * (p @ u - u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "the pull to the positive is counted once, but the pair occurs in two rows",
    why="with half of the pull missing, the embeddings drift apart even where all is well.",
    look_at="in how many rows is s of z_i and its positive the positive's similarity?",
)
def one_pull_to_the_positive(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u + p.T @ u - u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "nothing pulls a view towards its positive",
    why="with the pushes alone all embeddings only move apart, the pairs as well.",
    look_at="which row of u do you subtract from row 0, and is it another one than row 0?",
)
def no_pull_to_the_positive(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u + p.T @ u) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "the positive pushes, where it should pull",
    why="a step against this gradient tears the pairs apart.",
    look_at="which sign does q_ij have in the derivative of l_i?",
)
def positive_pushes(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u + p.T @ u + 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "one of the two views counts as an anchor, the other does not",
    why="each of the 2N rows has a loss of its own, and a positive of its own.",
    look_at="how many rows of the (2N, 2N) matrix have a 1 in your Q, or a sum of 1 in your P?",
    recognise=_one_of(
        _with(pulls=_first_rows_only),
        _with(pulls=lambda p, q, pairs: (p + p.T - 2 * q.triu()) / (2 * pairs)),
        kind=UNIT,
    ),
    fails="embeddings of length 1",
)
def one_view_is_the_anchor(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    pairs = len(u) // 2
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    errors = p - torch.eye(2 * pairs, dtype=z.dtype).roll(pairs, 0)
    errors[pairs:] = 0
    g = (errors + errors.T) @ u / (temperature * pairs)
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "the projection through the normalisation is missing",
    why="making z_i longer does not change a cosine, so the gradient has no part along z_i; "
    "with that part, every step would lengthen or shorten the embeddings.",
    look_at="what is the derivative of z / |z|? It has two parts.",
)
def no_projection(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return g / length


@nt_xent_gradient.mistake(
    "it stops at the gradient with respect to u = z / |z|",
    why="z itself is asked for: what points along it does nothing, and a long z_i turns less.",
    look_at="the last step of the chain, from u to z.",
)
def stops_at_the_unit_vectors(z, temperature):
    u = z / z.norm(dim=1, keepdim=True)
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    return (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))


@nt_xent_gradient.mistake(
    "the division by |z_i| is missing",
    why="the same step turns a long vector by less than a short one.",
    look_at="if z_i were twice as long, how much would a small step turn it?",
    fails="embeddings of any length",
)
def no_division_by_the_length(z, temperature):
    u = z / z.norm(dim=1, keepdim=True)
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return g - u * (u * g).sum(dim=1, keepdim=True)


@nt_xent_gradient.mistake(
    "it divides by |z_i| once more than it should",
    why="a vector that is twice as long turns half as much, not a quarter.",
    look_at="how often does your code divide by the length after the projection?",
    fails="embeddings of any length",
)
def divides_by_the_length_twice(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length**2


@nt_xent_gradient.mistake(
    "the inner product u_i . g_i is not one number for each row",
    why="each embedding has a direction of its own, so each row needs its own product.",
    look_at="over which axis does the sum run, and which shape does it leave?",
    recognise=_one_of(
        _with(project=lambda g, u, z: g - u * (u * g).sum(dim=0, keepdim=True)),
        _with(project=lambda g, u, z: g - u * (u * g).sum()),
        kind=UNIT,
    ),
    fails="embeddings of length 1",
)
def projects_over_the_rows(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=0, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "it projects with z, where the unit vector u belongs",
    why="z (z . g) is |z|^2 times what points along z, so too much or too little is taken away.",
    look_at="which length do the two vectors have that you project with?",
    recognise=_one_of(
        _with(project=lambda g, u, z: g - z * (z * g).sum(dim=1, keepdim=True)),
        _with(project=lambda g, u, z: g - u * (z * g).sum(dim=1, keepdim=True)),
        _with(project=lambda g, u, z: g - z * (u * g).sum(dim=1, keepdim=True)),
        kind=ANY_LENGTH,
    ),
    fails="embeddings of any length",
)
def projects_with_z(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - z * (z * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "it uses dot products; NT-Xent compares directions",
    why="with lengths in play, a model can lower its loss by growing its embeddings.",
    look_at="what is sim(z_i, z_j) in the loss, and which vectors do you multiply?",
    fails="embeddings of any length",
)
def dot_products(z, temperature):
    p = (z @ z.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ z + p.T @ z - 2 * z.roll(len(z) // 2, 0)) / (temperature * len(z))
    u = z / z.norm(dim=1, keepdim=True)
    return g - u * (u * g).sum(dim=1, keepdim=True)


@nt_xent_gradient.mistake(
    "the weights multiply z, where the unit vectors u belong",
    why="s_ij is a product of unit vectors, so its derivative by u_i is u_j and not z_j; a long "
    "negative would push harder than a short one.",
    look_at="which vectors are in U?",
    fails="embeddings of any length",
)
def weighs_the_embeddings(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ z + p.T @ z - 2 * z.roll(len(z) // 2, 0)) / (temperature * len(z))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "the lengths are taken over the wrong axis",
    why="each row of z is one embedding, and becomes a vector of length 1.",
    look_at="which shape do your lengths have, and how long is a row of u?",
    recognise=_one_of(_with(over=0), _with(over=(0, 1)), kind=UNIT),
    fails="embeddings of length 1",
)
def normalises_the_columns(z, temperature):
    length = z.norm(dim=0, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "it is NaN from end to end, as after infinity times 0",
    why="one NaN in a row of logits makes all of the row's weights NaN.",
    look_at="which of your lines has an infinity in it, and is it multiplied by anything?",
    fails="embeddings of length 1",
)
def multiplies_infinity(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature - torch.eye(len(u)) * float("inf")).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "a view still competes with itself in the softmax",
    why="cos(z_i, z_i) = 1 is the largest entry of its row and takes most of the weight.",
    look_at="which entry of row i of the (2N, 2N) matrix is no candidate?",
)
def keeps_itself_as_candidate(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "the own logit is set to 0, and exp(0) = 1 is a candidate like any other",
    why="a view would still compete with itself, as if its cosine with itself were 0.",
    look_at="which logit becomes a weight of 0 in a softmax?",
)
def zeroes_the_own_logit(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(0).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "the positive is missing from the candidates",
    why="it is one of the 2N - 1 terms below the line; its weight is what slows the pull down "
    "when the two views are close already.",
    look_at="for which k does the sum in the denominator run?",
)
def positive_is_no_candidate(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    logits = (u @ u.T / temperature).fill_diagonal_(float("-inf"))
    rows = torch.arange(len(u))
    logits[rows, rows.roll(len(u) // 2)] = float("-inf")
    p = logits.softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "it is the gradient of the sum of the losses, not of their mean",
    why="its size would grow with the batch, and no learning rate would fit two batch sizes.",
    look_at="how many losses l_i are there, and what does NT-Xent do with them?",
)
def gradient_of_the_sum(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / temperature
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "it is divided by N; there are 2N rows",
    why="both views of each example have a row and a loss of their own.",
    look_at="over how many rows of the matrix is the mean taken?",
)
def divides_by_pairs(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u) / 2)
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "the sign is turned round",
    why="it is the direction of descent; an optimiser subtracts the gradient by itself.",
    look_at="does the loss rise or fall when z_i moves towards its positive?",
)
def turns_the_sign(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (2 * u.roll(len(u) // 2, 0) - p @ u - p.T @ u) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "it takes the wrong rows for pairs, neighbours for example",
    why="here the first views of all examples come first, then the second views.",
    look_at="which row holds the second view of the example in row 0? And of that in row 1?",
    recognise=_one_of(
        _with(pair=lambda rows: rows ^ 1),
        _with(pair=lambda rows: rows.roll(1)),
        _with(pair=lambda rows: rows.roll(-1)),
        _with(pair=lambda rows: rows.flip(0)),
        kind=UNIT,
    ),
    fails="embeddings of length 1",
)
def pairs_neighbours(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    positive = u[torch.arange(len(u)) ^ 1]
    g = (p @ u + p.T @ u - 2 * positive) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "the softmax is taken without the temperature",
    why="tau decides how the weight is shared out: at 0.07 the hardest negatives get nearly all.",
    look_at="what is the exponent in p_ij?",
)
def softmax_without_temperature(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "the exponentials leave the range of floats when it is cold",
    why="exp(1 / tau) is beyond float32 at tau = 0.011, and infinity over infinity is NaN, as is "
    "infinity times 0; exp(-1 / tau) is 0, and 0 over 0 is NaN too.",
    look_at="which function of PyTorch takes out the largest exponent of a row before it starts?",
    recognise=_breaks_when_cold,
    fails="a cold temperature",
)
def overflows_when_cold(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    raw = torch.exp(u @ u.T / temperature).fill_diagonal_(0)
    p = raw / raw.sum(dim=1, keepdim=True)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "it makes a float32 matrix whatever the dtype of z",
    why="torch.eye and torch.zeros give float32 unless told otherwise, and a product of float32 "
    "and float64 is an error. A gradient is often checked in float64.",
    look_at="which of your tensors is new, and from where could it have its dtype?",
    recognise=lambda cases, observations: any(
        case.kind == DOUBLE and seen.error.startswith("RuntimeError") and "dtype" in seen.error
        for case, seen in zip(cases, observations, strict=True)
    ),
    fails="float64",
)
def builds_in_float32(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z / length
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    partners = torch.eye(len(u)).roll(len(u) // 2, 0) @ u
    g = (p @ u + p.T @ u - 2 * partners) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


@nt_xent_gradient.mistake(
    "it writes into the embeddings it was given",
    why="the caller's z has another length afterwards, and the next step starts from it.",
    look_at="which of your lines end in an underscore or have an index on the left?",
    fails="inputs left alone",
)
def normalises_in_place(z, temperature):
    length = z.norm(dim=1, keepdim=True)
    u = z.div_(length)
    p = (u @ u.T / temperature).fill_diagonal_(float("-inf")).softmax(dim=1)
    g = (p @ u + p.T @ u - 2 * u.roll(len(u) // 2, 0)) / (temperature * len(u))
    return (g - u * (u * g).sum(dim=1, keepdim=True)) / length


# temperature_at
DURING, AFTER, OTHER, SHORT = "during the warm-up", "after it", "other arguments", "short run"
LONG_WARMUP = "a long warm-up"
SHORT_OR_NONE = "short runs and no warm-up"


def _temperature_case(kind, step, total_steps, *others) -> Case:
    """others: start, end and warmup_fraction, where they are not left to their defaults."""
    names = ("step", "total_steps", "start", "end", "warmup_fraction")
    values = (step, total_steps, *others)
    return Case(kind, dict(zip(names, values, strict=False)))


def _temperature_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed)
    total = 10 * _size(generator, 90, 110)
    start, end = _between(generator, 0.8, 1.2), _between(generator, 0.1, 0.3)
    return [
        _temperature_case(DURING, total // 40, total),
        _temperature_case(DURING, 0, total),
        _temperature_case(DURING, _size(generator, 60, 80), total),
        _temperature_case(DURING, 95 * total // 1000, total),
        _temperature_case(AFTER, total // 10, total),
        _temperature_case(AFTER, _size(generator, 3 * total // 20, 17 * total // 100), total),
        _temperature_case(AFTER, total, total),
        _temperature_case(OTHER, total // 9, total, start, end, 0.3),
        _temperature_case(OTHER, total // 2, total, start, end, 0.3),
        _temperature_case(SHORT, 0, _size(generator, 5, 9)),
        _temperature_case(SHORT, 1, 15),
        _temperature_case(SHORT, 0, _size(generator, 40, 80), start, end, 0.0),
    ]


def _hidden_temperature_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed + 1)
    total = 10 * _size(generator, 900, 1100)
    start, end = _between(generator, 0.1, 0.2), _between(generator, 0.03, 0.05)
    return [
        _temperature_case(LONG_WARMUP, 1, total),
        _temperature_case(LONG_WARMUP, total // 10 - 1, total),
        _temperature_case(AFTER, total // 10 + 1, total),
        _temperature_case(AFTER, total - 1, total),
        _temperature_case(AFTER, 2 * total, total),
        _temperature_case(OTHER, _size(generator, 100, 900), total, start, end, 1.0),
        _temperature_case(OTHER, total // 4, total, start, start, 0.5),
        _temperature_case(OTHER, total // 4, total, end, start, 0.5),
        _temperature_case(SHORT, 0, 1),
        _temperature_case(SHORT, 1, 1),
        _temperature_case(SHORT, 2, 27),
        _temperature_case(SHORT, 3, 5, start, end, 0.0),
    ]


temperature_at = Exercise(
    name="temperature_at",
    reference=stability.temperature_at,
    cases=_temperature_cases,
    hidden_cases=_hidden_temperature_cases,
    properties=(
        returns(0.5, kinds=(DURING,), name="a number"),
        value(1, kinds=(DURING, LONG_WARMUP), name=DURING),
        value(0.5, kinds=(AFTER,), name=AFTER),
        value(0.5, kinds=(OTHER,), name=OTHER),
        value(0.5, kinds=(SHORT,), name=SHORT_OR_NONE),
    ),
    observe=observe_call,
)


def _follows(*courses: Callable[..., float], kinds: tuple[str, ...] = ()) -> Callable[..., bool]:
    """Recognises an answer that follows one of these courses, the same one on every case.

    courses: functions with the arguments of `temperature_at`.  kinds: of the cases that count;
    all when empty.
    """

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        return any(
            all(
                _same_or_zero_division(course, case, seen)
                for case, seen in zip(cases, observations, strict=True)
                if not kinds or case.kind in kinds
            )
            for course in courses
        )

    return recognise


def _same_or_zero_division(course: Callable, case: Case, seen: Observation) -> bool:
    try:
        wanted = course(**case.arguments)
    except ZeroDivisionError:
        return seen.error.startswith("ZeroDivisionError")
    return not seen.error and same(seen.output, wanted, 1e-6, 1e-9)


@temperature_at.mistake(
    "it falls in a straight line",
    why="a cosine starts and ends with a slope of 0, so that nothing jolts at step 0 or at w.",
    look_at="which function of step / w is level at both of its ends?",
    fails=DURING,
)
def falls_linearly(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step >= warmup_steps:
        return end
    return start + (end - start) * step / warmup_steps


@temperature_at.mistake(
    "it falls by the same factor each step, not along a cosine",
    why="it starts with its steepest part, just where the embeddings are still random.",
    look_at="which function of step / w is level at both of its ends?",
    fails=DURING,
)
def falls_exponentially(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step >= warmup_steps:
        return end
    return start * (end / start) ** (step / warmup_steps)


@temperature_at.mistake(
    "it keeps falling over the whole run",
    why="most of the run is meant to be trained at the final temperature.",
    look_at="at which step is the cosine at its lowest point?",
    fails=DURING,
)
def keeps_falling(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    progress = min(step / total_steps, 1)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


@temperature_at.mistake(
    "it swings back up after the warm-up",
    why="a cosine does not stop by itself: at step 2w you would be at the start temperature again.",
    look_at="what does your formula give at twice the warm-up's length?",
    fails=AFTER,
)
def swings_back(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if warmup_steps == 0:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / warmup_steps)) / 2


@temperature_at.mistake(
    "it rises where it should fall",
    why="the start would be cold, which is what the warm-up is there to avoid.",
    look_at="put in step 0: which of the two temperatures comes out?",
    fails=DURING,
)
def rises(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step >= warmup_steps:
        return end
    return start + (end - start) * (1 + math.cos(math.pi * step / warmup_steps)) / 2


@temperature_at.mistake(
    "start and end have changed places",
    why="the start would be cold and the rest of the run warm.",
    look_at="put in step 0: which of the two temperatures comes out?",
    fails=DURING,
)
def swaps_start_and_end(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step >= warmup_steps:
        return start
    return start + (end - start) * (1 + math.cos(math.pi * step / warmup_steps)) / 2


@temperature_at.mistake(
    "it goes through a whole period of the cosine",
    why="it comes down and up again, and then has to jump to the end.",
    look_at="between which two angles does a cosine fall from 1 to -1?",
    fails=DURING,
)
def goes_through_a_whole_period(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step >= warmup_steps:
        return end
    return end + (start - end) * (1 + math.cos(2 * math.pi * step / warmup_steps)) / 2


def _shared(share: Callable[[float], float]) -> Callable[..., float]:
    """The course end + (start - end) share(pi step / w) up to w, then end."""

    def course(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
        warmup_steps = warmup_fraction * total_steps
        if step >= warmup_steps:
            return end
        return end + (start - end) * share(math.pi * step / warmup_steps)

    return course


@temperature_at.mistake(
    "it goes through a quarter of the period",
    why="it would arrive with its steepest slope, or half-way up, and stop dead.",
    look_at="between which two angles does a cosine fall from 1 to -1?",
    recognise=_follows(
        _shared(lambda angle: math.cos(angle / 2)),
        _shared(lambda angle: (1 + math.cos(angle / 2)) / 2),
        _shared(lambda angle: 1 - math.sin(angle / 2)),
    ),
    fails=DURING,
)
def goes_through_a_quarter(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step >= warmup_steps:
        return end
    return end + (start - end) * math.cos(math.pi / 2 * step / warmup_steps)


@temperature_at.mistake(
    "the angle is in degrees, and math.cos takes radians",
    why="180 radians are 28 turns: the temperature would jump about.",
    look_at="what is math.cos(180)?",
    fails=DURING,
)
def angle_in_degrees(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step >= warmup_steps:
        return end
    return end + (start - end) * (1 + math.cos(180 * step / warmup_steps)) / 2


@temperature_at.mistake(
    "the cosine has twice its height",
    why="1 + cos runs from 2 to 0, so the start is far too warm.",
    look_at="put in step 0: what is the sum that you multiply by?",
    fails=DURING,
)
def forgets_the_half(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step >= warmup_steps:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / warmup_steps))


@temperature_at.mistake(
    "it falls towards 0, and then jumps to the end",
    why="near the end of the warm-up it would be colder than ever after, and 1 / tau explode.",
    look_at="what does your formula give just before w?",
    fails=DURING,
)
def falls_to_zero(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step >= warmup_steps:
        return end
    return start * (1 + math.cos(math.pi * step / warmup_steps)) / 2


@temperature_at.mistake(
    "it falls towards 0, and is only caught at the end temperature",
    why="the cosine has not reached its level part by then: the course has a kink, and is too "
    "cold before it.",
    look_at="what does your formula give just before w, where nothing has caught it yet?",
    fails=DURING,
)
def stops_its_fall_at_the_end(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step >= warmup_steps:
        return end
    return max(end, start * (1 + math.cos(math.pi * step / warmup_steps)) / 2)


@temperature_at.mistake(
    "it falls by start - end, but nothing is added below that",
    why="it would start too cold, and end the warm-up at 0, where 1 / tau explodes.",
    look_at="put in step 0: which temperature comes out?",
    fails=DURING,
)
def forgets_to_add_the_end(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step >= warmup_steps:
        return end
    return (start - end) * (1 + math.cos(math.pi * step / warmup_steps)) / 2


@temperature_at.mistake(
    "it multiplies by start, where start - end belongs",
    why="it would start at start + end, warmer than asked for.",
    look_at="put in step 0: which temperature comes out?",
    fails=DURING,
)
def falls_by_the_whole_start(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step >= warmup_steps:
        return end
    return end + start * (1 + math.cos(math.pi * step / warmup_steps)) / 2


@temperature_at.mistake(
    "half of the sum 1 + cos is not what it takes",
    why="(1 + cos) / 2 goes from 1 to 0. 1 + cos / 2 goes from 1.5 to 0.5, cos alone from 1 to -1.",
    look_at="put in step 0 and step w: which numbers is start - end multiplied by?",
    recognise=_follows(
        _shared(lambda angle: 1 + math.cos(angle) / 2), _shared(math.cos), kinds=(DURING,)
    ),
    fails=DURING,
)
def misplaces_the_bracket(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step >= warmup_steps:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / warmup_steps) / 2)


@temperature_at.mistake(
    "the angle goes from 0 to 1, not to pi",
    why="a cosine has hardly fallen at an angle of 1, so that the rest would be a jump.",
    look_at="at which angle is a cosine at -1?",
    fails=DURING,
)
def forgets_pi(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step >= warmup_steps:
        return end
    return end + (start - end) * (1 + math.cos(step / warmup_steps)) / 2


@temperature_at.mistake(
    "the fraction is taken for the number of steps",
    why="w is a number of steps; after 0.1 steps, so from step 1 on, the warm-up would be over.",
    look_at="which of your arguments is w made of?",
    recognise=_follows(
        lambda step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1: (
            stability.temperature_at(step, 1, start, end, warmup_fraction)
        ),
        kinds=(DURING,),
    ),
    fails=DURING,
)
def takes_the_fraction_for_steps(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    if step >= warmup_fraction:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / warmup_fraction)) / 2


@temperature_at.mistake(
    "it stays at the start, and falls only after the warm-up",
    why="the warm-up is the fall itself; then most of the run is at the end temperature.",
    look_at="for which t is the cosine meant, and for which t is tau the end temperature?",
    fails=DURING,
)
def falls_after_the_warmup(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step < warmup_steps:
        return start
    rest = max(total_steps - warmup_steps, 1)
    progress = min((step - warmup_steps) / rest, 1)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


@temperature_at.mistake(
    "nothing comes back after the warm-up",
    why="most of the run is after it.",
    look_at="which return is reached when step is at least w?",
    recognise=lambda cases, observations: all(
        seen.output is None and not seen.error
        for case, seen in zip(cases, observations, strict=True)
        if case.kind == AFTER
    ),
    fails=AFTER,
)
def returns_nothing_after(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step < warmup_steps:
        return end + (start - end) * (1 + math.cos(math.pi * step / warmup_steps)) / 2


@temperature_at.mistake(
    "after the warm-up it goes back to the start",
    why="most of the run is after it, and it is the cold end that is wanted there.",
    look_at="which of the two temperatures do you return when the warm-up is over?",
    fails=AFTER,
)
def goes_back_to_the_start(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step > warmup_steps or warmup_steps == 0:
        return start
    return end + (start - end) * (1 + math.cos(math.pi * step / warmup_steps)) / 2


@temperature_at.mistake(
    "it is one step ahead",
    why="steps count from 0, so the first one should have the start temperature.",
    look_at="put in step 0: is your angle 0?",
    fails=DURING,
)
def one_step_ahead(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step + 1 >= warmup_steps:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * (step + 1) / warmup_steps)) / 2


def _hard_coded(*names: str, after: bool = False) -> Callable[..., float]:
    """The right course, but with some arguments left at their defaults (the end only after w)."""
    defaults = {"start": 0.5, "end": 0.07, "warmup_fraction": 0.1}

    def course(step, total_steps, **given):
        arguments = defaults | given
        if after:
            right = stability.temperature_at(step, total_steps, **arguments)
            over = step >= arguments["warmup_fraction"] * total_steps
            return defaults["end"] if over else right
        used = arguments | {name: defaults[name] for name in names}
        return stability.temperature_at(step, total_steps, **used)

    return course


@temperature_at.mistake(
    "it does not use all of the start, end and fraction it is given",
    why="another data set wants other temperatures.",
    look_at="which numbers in your code are written out?",
    recognise=_follows(
        _hard_coded(after=True),
        *(
            _hard_coded(*names)
            for count in (1, 2, 3)
            for names in combinations(("start", "end", "warmup_fraction"), count)
        ),
        kinds=(DURING, LONG_WARMUP, AFTER, OTHER),
    ),
    fails=OTHER,
)
def ignores_its_arguments(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = 0.1 * total_steps
    if step >= warmup_steps:
        return 0.07
    return 0.07 + 0.43 * (1 + math.cos(math.pi * step / warmup_steps)) / 2


@temperature_at.mistake(
    "it divides by zero when the run is short or has no warm-up",
    why="a test run of five steps, or one without warm-up, should run like any other.",
    look_at="how long is your warm-up when total_steps is 5, and when the fraction is 0?",
    recognise=lambda cases, observations: any(
        seen.error.startswith("ZeroDivisionError") for seen in observations
    ),
    fails=SHORT_OR_NONE,
)
def divides_by_zero(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    progress = min(step / int(warmup_fraction * total_steps), 1)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _starts_without_warmup(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    """Whether step 0 has the start temperature where the fraction is 0, and all else is right."""
    wrong = False
    for case, seen in zip(cases, observations, strict=True):
        given = case.arguments
        none = given.get("warmup_fraction") == 0
        at_start = none and same(seen.output, given["start"], 1e-6)
        if seen.error or not (
            at_start or same(seen.output, stability.temperature_at(**given), 1e-6, 1e-9)
        ):
            return False
        wrong = wrong or at_start
    return wrong


@temperature_at.mistake(
    "with a fraction of 0 it still begins at the start temperature",
    why="without a warm-up there is no warm step, not even the first.",
    look_at="what is w when the fraction is 0, and is step 0 before it or not?",
    recognise=_starts_without_warmup,
    fails=SHORT_OR_NONE,
)
def starts_without_a_warmup(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = warmup_fraction * total_steps
    if step == 0:
        return start
    if step >= warmup_steps:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / warmup_steps)) / 2


def _rounded(rounding: Callable[[float], int]) -> Callable[..., float]:
    def course(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
        warmup_steps = rounding(warmup_fraction * total_steps)
        if step >= warmup_steps:
            return end
        return stability.temperature_at(step, warmup_steps, start, end, warmup_fraction=1.0)

    return course


@temperature_at.mistake(
    "the length of the warm-up is rounded to whole steps",
    why="in a run of five steps half a step becomes none, and the start is as cold as the rest.",
    look_at="does w have to be a whole number for step / w to make sense?",
    recognise=_follows(
        _rounded(math.floor),
        _rounded(round),
        _rounded(math.ceil),
        _rounded(lambda length: max(math.floor(length), 1)),
        _rounded(lambda length: max(round(length), 1)),
        _rounded(lambda length: max(math.floor(length), length > 0)),
        _rounded(lambda length: max(round(length), length > 0)),
        _rounded(lambda length: math.floor(length) if length < 1 else length),
    ),
    fails=SHORT_OR_NONE,
)
def rounds_the_warmup(step, total_steps, start=0.5, end=0.07, warmup_fraction=0.1):
    warmup_steps = int(warmup_fraction * total_steps)
    if step >= warmup_steps:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / warmup_steps)) / 2


# info_nce_bound
PROVES, NOTHING_PROVED, ALONE = "a bound", "a loss above log K", "one candidate"
TENSOR, ZERO, IMPOSSIBLE = "a tensor", "a loss of 0", "an impossible loss"


def _bound_case(kind, loss, candidates) -> Case:
    differentiate = ("loss",) if isinstance(loss, torch.Tensor) and kind == TENSOR else ()
    return Case(kind, {"loss": loss, "candidates": candidates}, differentiate)


def _bound_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed)

    def loss(low, high):
        return torch.tensor(_between(generator, low, high), dtype=torch.float64)

    candidates = _size(generator, 7, 12)
    return [
        _bound_case(PROVES, _between(generator, 0.8, 1.2), candidates),
        _bound_case(PROVES, _between(generator, 0.8, 3.0), 2 * _size(generator, 100, 200) - 1),
        _bound_case(NOTHING_PROVED, _between(generator, 3.0, 4.0), candidates),
        _bound_case(TENSOR, loss(0.5, 1.5), candidates + 4),
        _bound_case(ZERO, 0.0, 2 * candidates),
        _bound_case(IMPOSSIBLE, -_between(generator, 0.4, 0.9), candidates),
        _bound_case(IMPOSSIBLE, loss(-0.9, -0.4), candidates),
        _bound_case(IMPOSSIBLE, math.nan, candidates),
    ]


def _hidden_bound_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed + 1)
    return [
        _bound_case(ZERO, torch.tensor(0.0), _size(generator, 20, 40)),
        _bound_case(PROVES, _between(generator, 5, 9), 65_537),
        _bound_case(ALONE, 0.0, 1),
        _bound_case(TENSOR, torch.tensor(_between(generator, 4, 5)), 2 * 4096 - 1),
        _bound_case(IMPOSSIBLE, -0.05, 12),
        _bound_case(IMPOSSIBLE, torch.tensor(math.nan), 8),
        _bound_case(IMPOSSIBLE, torch.tensor(-3.5), 300),
    ]


def _observe_refusals(answer, case, forbidden=frozenset()) -> Observation:
    """Like `observe_call`; where a loss is impossible, an error is a result: its type's name."""

    def steps(arguments):
        try:
            return answer(*arguments.values())
        except NotImplementedError:
            raise
        except Exception as error:
            if case.kind != IMPOSSIBLE:
                raise
            name = type(error).__name__
            return {"raised": "ValueError" if isinstance(error, ValueError) else name}

    return observe_steps(steps, answer, case, forbidden)


def _raised(seen: Observation) -> str:
    """The type of the error with which an impossible loss was refused; empty if it was not."""
    return seen.output.get("raised", "") if isinstance(seen.output, dict) else ""


def _test_refusal(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    got = observed.output
    if _raised(observed) == "ValueError":
        return None
    if _raised(observed):
        return Failure("a ValueError", _raised(observed))
    if got is None:
        return Failure("a ValueError", "no error")
    if isinstance(got, Foreign):
        return Failure("a ValueError that is raised", f"a returned {got.type_name}")
    return Failure("a ValueError", show(got) if describe(got) == "a number" else describe(got))


info_nce_bound = Exercise(
    name="info_nce_bound",
    reference=stability.info_nce_bound,
    cases=_bound_cases,
    hidden_cases=_hidden_bound_cases,
    properties=(
        returns(0.5, kinds=(PROVES,), name="a number"),
        value(1, kinds=(PROVES, NOTHING_PROVED, ZERO, ALONE), name="value"),
        gradient(0.5, kinds=(TENSOR,)),
        Property("impossible losses", 1, _test_refusal, kinds=(IMPOSSIBLE,)),
    ),
    observe=_observe_refusals,
)


def _refuse_impossible(loss):
    """What the wrong answers below share, so that each has one fault."""
    if not loss >= 0:
        raise ValueError("an InfoNCE loss is not below 0")


@info_nce_bound.mistake(
    "it counts the negatives only",
    why="K is the number of terms in the denominator, and the positive is one of them. With one "
    "too few you claim less than you have proved.",
    look_at="how many terms does the sum in the denominator have?",
    recognise=lambda cases, observations: _offset(cases, observations, lambda k: math.log(k - 1)),
)
def counts_negatives_only(loss, candidates):
    _refuse_impossible(loss)
    return math.log(max(candidates - 1, 1)) - loss


@info_nce_bound.mistake(
    "the positive is counted once more",
    why="candidates has it already, so you claim more than you have proved.",
    look_at="is the positive among the candidates that you are given?",
)
def counts_the_positive_twice(loss, candidates):
    _refuse_impossible(loss)
    return math.log(candidates + 1) - loss


@info_nce_bound.mistake(
    "K is worked out from N once more",
    why="candidates is 2N - 1 already. With 2K - 1 or 2K you claim more than you have proved.",
    look_at="is candidates the number of pairs, or of terms in the denominator?",
    recognise=lambda cases, observations: any(
        _offset(cases, observations, of)
        for of in (lambda k: math.log(2 * k - 1), lambda k: math.log(2 * k))
    ),
)
def doubles_the_candidates(loss, candidates):
    _refuse_impossible(loss)
    return math.log(2 * candidates - 1) - loss


@info_nce_bound.mistake(
    "it counts examples, (K + 1) / 2, not candidates",
    why="each example is there in two views, and both of them are candidates.",
    look_at="how many terms does the sum in the denominator have?",
)
def counts_examples(loss, candidates):
    _refuse_impossible(loss)
    return math.log((candidates + 1) / 2) - loss


@info_nce_bound.mistake(
    "the result is in bits, in part or as a whole",
    why="the loss is in nats: one nat is 1.44 bits, and a difference needs one unit.",
    look_at="which base does your logarithm have, and which has the loss?",
    recognise=lambda cases, observations: any(
        _gives(cases, observations, formula)
        for formula in (
            lambda loss, k: math.log2(k) - loss,
            lambda loss, k: math.log(k) - loss / math.log(2),
            lambda loss, k: (math.log(k) - loss) / math.log(2),
        )
    ),
)
def measures_in_bits(loss, candidates):
    _refuse_impossible(loss)
    return math.log2(candidates) - loss


def _offset(cases, observations, of: Callable[[int], float]) -> bool:
    """Whether of(K) - loss is given wherever a bound is asked for."""
    return _gives(cases, observations, lambda loss, k: of(k) - loss)


def _gives(cases, observations, formula: Callable[[float, int], float]) -> bool:
    pairs = [
        (formula(float(case.arguments["loss"]), case.arguments["candidates"]), seen)
        for case, seen in zip(cases, observations, strict=True)
        if case.kind in (PROVES, NOTHING_PROVED, TENSOR)
    ]
    return all(not seen.error and same(seen.output, wanted, 1e-5, 1e-6) for wanted, seen in pairs)


@info_nce_bound.mistake(
    "the logarithm has base 10",
    why="the loss is in nats, which the natural logarithm gives; a difference needs one unit.",
    look_at="which base does your logarithm have, and which has the loss?",
)
def takes_log10(loss, candidates):
    _refuse_impossible(loss)
    return math.log10(candidates) - loss


@info_nce_bound.mistake(
    "the logarithm is missing",
    why="K candidates that look alike have a loss of log K, not of K.",
    look_at="what is the loss of a model that gives each candidate the same weight?",
)
def takes_no_logarithm(loss, candidates):
    _refuse_impossible(loss)
    return candidates - loss


@info_nce_bound.mistake(
    "the loss is added, so the bound claims more than log K",
    why="a worse model would prove more; and no batch of K candidates can prove more than log K.",
    look_at="what should happen to the bound when the loss goes up?",
)
def adds_the_loss(loss, candidates):
    _refuse_impossible(loss)
    return math.log(candidates) + loss


@info_nce_bound.mistake(
    "the sign is turned round",
    why="a model that knows nothing has a loss of log K and proves 0; a better one proves more.",
    look_at="what should happen to the bound when the loss goes down?",
)
def subtracts_the_wrong_way(loss, candidates):
    _refuse_impossible(loss)
    return loss - math.log(candidates)


@info_nce_bound.mistake(
    "a loss above log K gives 0 instead of a negative number",
    why="a bound below 0 proves nothing, but it says how far off a model is, and it has a "
    "gradient; a mean over batches with the negative ones cut off is too large.",
    look_at="what does the formula give for a loss above log K? Is that an error?",
)
def cuts_off_at_zero(loss, candidates):
    _refuse_impossible(loss)
    return (math.log(candidates) - loss) * (loss < math.log(candidates))


@info_nce_bound.mistake(
    "a loss above log K is refused",
    why="an untrained model is often worse than an even guess; its bound is negative, proves "
    "nothing, and is no error.",
    look_at="which losses can a cross-entropy not have: small ones, large ones, or both?",
)
def refuses_a_loss_above_log_k(loss, candidates):
    problem = ValueError("the bound must be between 0 and log K")
    if not 0 <= loss <= math.log(candidates):
        raise problem
    return math.log(candidates) - loss


def _refuses_zero(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    return any(
        case.kind == ZERO and seen.error.startswith("ValueError")
        for case, seen in zip(cases, observations, strict=True)
    ) and not any(
        seen.error
        for case, seen in zip(cases, observations, strict=True)
        if case.kind not in (ZERO, ALONE)
    )


@info_nce_bound.mistake(
    "a loss of exactly 0 is refused",
    why="it is the best loss there is, and where rounding helps it does occur; it proves log K.",
    look_at="does a loss of 0 pass your comparison?",
    recognise=_refuses_zero,
    fails="value",
)
def refuses_zero(loss, candidates):
    problem = ValueError("an InfoNCE loss is above 0")
    if not loss > 0:
        raise problem
    return math.log(candidates) - loss


@info_nce_bound.mistake(
    "it claims more than log K: an impossible loss gives a bound",
    why="a cross-entropy is never below 0. Such a loss is a bug upstream, for instance a positive "
    "that is missing from the denominator, and the bound would hide it.",
    look_at="what comes out for a loss of -0.5, and for NaN? Could either be right?",
    fails="impossible losses",
)
def claims_more_than_log_k(loss, candidates):
    return math.log(candidates) - loss


@info_nce_bound.mistake(
    "an impossible loss is cut off at log K without a word",
    why="the largest bound there is would be the report of a bug.",
    look_at="what should a reader of your number learn when the loss is below 0?",
    recognise=lambda cases, observations: all(
        not seen.error and same(seen.output, math.log(case.arguments["candidates"]), 1e-5)
        for case, seen in zip(cases, observations, strict=True)
        if case.kind == IMPOSSIBLE and case.arguments["loss"] < 0
    ),
    fails="impossible losses",
)
def cuts_off_at_log_k(loss, candidates):
    if loss < 0:
        return math.log(candidates)
    return math.log(candidates) - loss


@info_nce_bound.mistake(
    "the sign of an impossible loss is dropped",
    why="a loss of -0.5 is a bug upstream, and would now pass for one of 0.5.",
    look_at="what should a reader of your number learn when the loss is below 0?",
    fails="impossible losses",
)
def drops_the_sign(loss, candidates):
    return math.log(candidates) - abs(loss)


def _says_it_without_raising(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    """Whether a loss below 0 ends in nothing, in words, in NaN or 0: in no bound, and no error."""
    ends = [
        seen.output
        for case, seen in zip(cases, observations, strict=True)
        if case.kind == IMPOSSIBLE and case.arguments["loss"] < 0
    ]
    return bool(ends) and all(
        end is None
        or isinstance(end, Foreign | str | bool)
        or (describe(end) == "a number" and (math.isnan(end) or end == 0))
        for end in ends
    )


@info_nce_bound.mistake(
    "an impossible loss is noticed, but no error is raised",
    why="a message on the screen or a special return value is easily missed; an error is not.",
    look_at="which statement makes an error stop the caller?",
    recognise=_says_it_without_raising,
    fails="impossible losses",
)
def notices_without_raising(loss, candidates):
    if not loss >= 0:
        return None
    return math.log(candidates) - loss


@info_nce_bound.mistake(
    "it stops with another error than ValueError",
    why="whoever calls it can only catch what was agreed on; and an assert can be switched off.",
    look_at="which exception is asked for?",
    recognise=lambda cases, observations: any(
        _raised(seen) not in ("", "ValueError") for seen in observations
    ),
    fails="impossible losses",
)
def stops_with_another_error(loss, candidates):
    assert loss >= 0
    return math.log(candidates) - loss


@info_nce_bound.mistake(
    "NaN gets through",
    why="every comparison with NaN is false, so a test for a loss that is too small lets it pass.",
    look_at="what is float('nan') < 0? And float('nan') >= 0?",
    fails="impossible losses",
)
def lets_nan_through(loss, candidates):
    if loss < 0:
        raise ValueError("an InfoNCE loss is not below 0")
    return math.log(candidates) - loss


@info_nce_bound.mistake(
    "the gradient is lost on the way",
    why="the bound can be trained on, and for that it has to hang on the loss's graph.",
    look_at="which call turns the tensor into a plain number?",
    fails="gradient",
)
def loses_the_gradient(loss, candidates):
    _refuse_impossible(loss)
    return math.log(candidates) - float(loss)


# StabilityMonitor
EARLY, AT_THE_LIMIT, LATER, RESUMED = "early", "at the limit", "later", "resumed"
FILLED, TWO_MONITORS, TENSORS, LONG = "more than a window", "two monitors", "tensors", "long"
WINDOW_OF_ONE = "a window of 1"
DIVERGED = "diverged"
# Updates of a LONG case. The first run fills a picture of 3000 points; the second is four times as
# long, so that one that halves itself when it is full is as large as before.
SHORT_RUN, LONG_RUN = 4000, 16_000
GROWTH = 0.05  # numbers more per update; a right answer's stay within its window and its picture
MOST_NORMS = 500  # of recent in an observation; the largest window of a case is 100
STOPPED = "FloatingPointError"


def _monitor_case(kind, steps_per_epoch, limit, window, norms, first_step=0, text="") -> Case:
    arguments = {
        "steps_per_epoch": steps_per_epoch,
        "limit": limit,
        "window": window,
        "norms": norms,
        "first_step": first_step,
    }
    shown = ", ".join(map(number, norms)) if len(norms) < 9 else f"{len(norms)} of them"
    text = text or (
        f"steps_per_epoch {steps_per_epoch}, limit {number(limit)}, window {window}, "
        f"norms {shown} from step {first_step} on"
    )
    return Case(kind, arguments, text=text)


def _norms(generator, count: int, low: float = 0.5, high: float = 9.5) -> list[float]:
    return (low + (high - low) * torch.rand(count, generator=generator)).tolist()


def _monitor_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed)
    window, limit = _size(generator, 4, 6), 10.0 * _size(generator, 3, 9)
    calm = _norms(generator, 3)
    loud = [limit + norm for norm in _norms(generator, 3)]
    early = [loud[0], calm[0], calm[1], loud[1], calm[2], loud[2]]
    epoch = len(early)  # so that its first and its last step are loud
    filled = _norms(generator, 3 * window + 1)
    return [
        _monitor_case(EARLY, epoch, limit, 50, early),
        _monitor_case(AT_THE_LIMIT, 4, limit, 50, [calm[0], limit, loud[0]]),
        _monitor_case(LATER, 2, limit, 50, [calm[0], loud[0], loud[1], calm[1], loud[2]]),
        _monitor_case(RESUMED, 5, limit, 50, [loud[0], calm[0], loud[1]], first_step=40),
        _monitor_case(DIVERGED, 9, limit, 50, [calm[0], calm[1], math.nan], first_step=3),
        _monitor_case(DIVERGED, 9, limit, 50, [calm[0], calm[1], math.inf], first_step=3),
        _monitor_case(DIVERGED, 2, limit, 50, [calm[2], math.nan], first_step=17),
        _monitor_case(FILLED, 8, 100.0, window, filled),
        _monitor_case(
            TWO_MONITORS, 3, 100.0, window, calm, text="3 norms to one monitor, none to another"
        ),
        _monitor_case(TENSORS, 3, limit, window, [calm[0], loud[0], calm[1]]),
        _monitor_case(LONG, 10, 100.0, 20, [], text=f"{SHORT_RUN} and {LONG_RUN} updates"),
    ]


def _hidden_monitor_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed + 1)
    limit = _between(generator, 2.0, 5.0)
    steps = _size(generator, 20, 40)
    mixed = _norms(generator, steps, 0.1, 2 * limit)
    return [
        _monitor_case(EARLY, steps, limit, 100, mixed),
        _monitor_case(AT_THE_LIMIT, 1, 100.0, 7, [100.0]),
        _monitor_case(LATER, steps // 2, limit, 100, mixed),
        _monitor_case(LATER, 1, limit, 100, [2 * limit, 3 * limit]),
        _monitor_case(DIVERGED, 1, limit, 5, [math.inf], first_step=12_345),
        _monitor_case(DIVERGED, 50, limit, 5, [1.0] * 20 + [math.nan]),
        _monitor_case(WINDOW_OF_ONE, 5, 100.0, 1, _norms(generator, 4)),
        _monitor_case(FILLED, 5, 100.0, 12, _norms(generator, 12)),
        _monitor_case(FILLED, 5, 100.0, 30, _norms(generator, steps + 25)),
    ]


def _observe_monitor(answer, case, forbidden=frozenset()) -> Observation:
    """Make a monitor, feed it, and look at what it says and what it holds.

    The output is a dict of `alarms` (one a step), `recent` and, by the kind of the case, `stopped`
    (how a NaN ended it), `held` (numbers in the monitor after a short and a long run) and
    `attached` (whether a norm in `recent` hangs on a graph).
    """

    def steps(arguments):
        *settings, norms, first_step = arguments.values()
        monitor = answer(*settings)
        if case.kind == LONG:
            return {"held": _held_after_runs(monitor)}
        if case.kind == DIVERGED:
            return {"stopped": _stop(monitor, norms, first_step)}
        if case.kind == TENSORS:
            weight = torch.ones((), requires_grad=True)
            norms = [weight * norm for norm in norms]
        alarms = [_as_bool(monitor.update(first_step + i, norm)) for i, norm in enumerate(norms)]
        if case.kind == TWO_MONITORS:
            monitor = answer(*settings)
        if callable(monitor.recent):
            raise TypeError("recent is a method here; it should be an attribute, or a property")
        recent = list(monitor.recent)[-MOST_NORMS:]
        attached = any(isinstance(norm, torch.Tensor) and norm.requires_grad for norm in recent)
        return {"alarms": alarms, "recent": recent, "attached": attached}

    return observe_steps(steps, answer, case, forbidden)


def _as_bool(alarm):
    """Anything that is true or false, as a bool; nothing stays nothing, and a text a text."""
    return alarm if alarm is None or isinstance(alarm, str) else bool(alarm)


def _stop(monitor, norms: Sequence[float], first_step: int) -> dict:
    """What happens at the last norm: the error's type, and whether its text names the step."""
    *healthy, last = norms
    for i, norm in enumerate(healthy):
        monitor.update(first_step + i, norm)
    step = first_step + len(healthy)
    try:
        alarm = monitor.update(step, last)
    except NotImplementedError:
        raise
    except Exception as error:
        kind = STOPPED if isinstance(error, FloatingPointError) else type(error).__name__
        text = str(error)
        joined = re.sub(r"(?<=\d)[,_](?=\d{3})", "", text)  # "12,345"
        named = step in _whole_numbers(text) | _whole_numbers(joined)
        return {"how": kind, "names the step": named}
    return {"how": "it went on", "alarm": _as_bool(alarm)}


def _whole_numbers(text: str) -> set[int]:
    """The whole numbers in a text: 5 of "5" and "5.0", but neither 0 nor 5 of "0.5" or "1e-5"."""
    whole = r"(?<![\d.])(?<![eE][-+])\d+(?!\d|\.\d*[1-9]|[eE][-+])"
    return {int(digits) for digits in re.findall(whole, text)}


def _held_after_runs(monitor) -> list[int]:
    """About how much a monitor holds after each run; to a hundred, as one name more is no news."""
    held = []
    for step in range(LONG_RUN):
        if step == SHORT_RUN:
            held.append(round(_held(monitor), -2))
        monitor.update(step, 1.0 + step / LONG_RUN)
    return [*held, round(_held(monitor), -2)]


METHODS = ("__init__", "__setattr__")  # of the names with two underscores, those worth a look


def _held(monitor) -> int:
    """Numbers and strings that an object holds, in itself, in its class and in what they hold."""
    count, seen = 0, set()
    shared = {k: v for k, v in vars(type(monitor)).items() if k in METHODS or k[:2] != "__"}
    todo = [monitor, shared]
    while todo:
        thing = todo.pop()
        if isinstance(thing, bool | int | float | str | bytes | np.generic):
            count += 1 if not isinstance(thing, str | bytes) else 1 + len(thing) // 8
        elif id(thing) not in seen:
            seen.add(id(thing))
            if isinstance(thing, torch.Tensor):
                count += thing.numel()
            elif isinstance(thing, np.ndarray) and thing.dtype.kind != "O":
                count += thing.size
            else:
                todo.extend(_inside(thing))
    return count


def _inside(thing) -> list:
    """What a container or an object made of attributes holds."""
    if isinstance(thing, dict):
        return [*thing.keys(), *thing.values()]
    if isinstance(thing, list | tuple | set | frozenset | deque | np.ndarray):
        return list(thing)
    if isinstance(thing, types.FunctionType):
        return _behind(thing)
    if isinstance(thing, property):
        return [thing.fget]
    if isinstance(thing, type) or callable(thing):
        return []
    slots = [name for base in type(thing).__mro__ for name in _slots(base)]
    return [
        *getattr(thing, "__dict__", {}).values(),
        *(getattr(thing, name) for name in slots if hasattr(thing, name)),
    ]


def _behind(function: types.FunctionType) -> list:
    """The containers that a function reaches from outside: in its closure and among the globals."""
    cells = inspect.getclosurevars(function)
    reached = [*cells.nonlocals.values(), *cells.globals.values()]
    return [thing for thing in reached if isinstance(thing, list | dict | set | deque)]


def _slots(base: type) -> tuple[str, ...]:
    slots = vars(base).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _part(name: str, points: float, part: str, kinds: tuple[str, ...]) -> Property:
    """One entry of the output is the reference's."""

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        wanted, got = expected.output[part], observed.output[part]
        if len(wanted) != len(got):
            return Failure(*(f"{len(norms)} norms in recent" for norms in (wanted, got)))
        failure = compare(wanted, got, 1e-5, 0.0)
        if failure and len(got) < 9:
            return Failure(_listed(wanted), _listed(got))
        return failure

    return Property(name, points, test, kinds=kinds)


def _listed(entry: list) -> str:
    return f"[{', '.join(map(show, entry))}]"


def _test_form(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    got = observed.output
    odd = next((alarm for alarm in got["alarms"] if not isinstance(alarm, bool)), True)
    if not isinstance(odd, bool):
        return Failure("True or False from each update", describe(odd))
    if not got["recent"]:
        return Failure("numbers in recent", "an empty one")
    newest = describe(got["recent"][-1])
    return None if newest == "a number" else Failure("a number at the end of recent", newest)


def _test_stop(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    got = observed.output["stopped"]
    if got["how"] != STOPPED:
        return Failure(f"a {STOPPED}", got["how"])
    if not got["names the step"]:
        step = case.arguments["first_step"] + len(case.arguments["norms"]) - 1
        return Failure(f"an error that names step {step}", "one without this number")
    return None


def _test_memory(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    if case.kind == TENSORS:
        attached = observed.output["attached"]
        return Failure("norms without a graph", "norms with their graph") if attached else None
    short, long = observed.output["held"]
    if not _grows(short, long):
        return None
    return Failure(
        "the monitor to stay small",
        f"about {short} numbers in it, and {long} after the long run",
    )


def _grows(short: int, long: int) -> bool:
    """Whether numbers held after the two runs grow with the number of updates."""
    return long - short > GROWTH * (LONG_RUN - SHORT_RUN)


stability_monitor = Exercise(
    name="StabilityMonitor",
    reference=stability.StabilityMonitor,
    cases=_monitor_cases,
    hidden_cases=_hidden_monitor_cases,
    properties=(
        Property("form", 0.5, _test_form, kinds=(EARLY,)),
        _part("alarms in the first epoch", 1, "alarms", (EARLY, AT_THE_LIMIT)),
        _part("quiet after it", 0.5, "alarms", (LATER, RESUMED)),
        Property("NaN and infinity stop the run", 1, _test_stop, kinds=(DIVERGED,)),
        _part("recent norms", 1, "recent", (FILLED, WINDOW_OF_ONE, TWO_MONITORS, TENSORS)),
        Property("bounded memory", 1, _test_memory, kinds=(LONG, TENSORS)),
    ),
    observe=_observe_monitor,
)


@stability_monitor.mistake(
    "NaN and infinity are not looked for",
    why="every comparison with NaN is false, so it passes any limit, and the run goes on with "
    "weights that are NaN.",
    look_at="what is float('nan') > 100? Which function says whether a number is finite?",
    fails="NaN and infinity stop the run",
)
class MissesNan:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        self.recent.append(float(grad_norm))
        return step < self.steps_per_epoch and float(grad_norm) > self.limit


@stability_monitor.mistake(
    "infinity stops the run, NaN does not",
    why="the gradient of a loss that overflowed is as often NaN as infinite.",
    look_at="what is float('nan') == float('inf')? Which function catches both?",
    fails="NaN and infinity stop the run",
)
class CatchesInfinityAlone:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if norm == float("inf"):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        return step < self.steps_per_epoch and norm > self.limit


@stability_monitor.mistake(
    "NaN stops the run, infinity does not",
    why="an infinite gradient makes the weights NaN in the very next step.",
    look_at="is infinity NaN? Which function catches both?",
    fails="NaN and infinity stop the run",
)
class CatchesNanAlone:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if math.isnan(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        return step < self.steps_per_epoch and norm > self.limit


@stability_monitor.mistake(
    "a norm that is not finite gives an alarm, and the run goes on",
    why="an alarm asks for a look; NaN has ruined the weights already, so it must stop the run.",
    look_at="what is asked for when a norm is NaN: a return value or an error?",
    fails="NaN and infinity stop the run",
)
class AlarmsInsteadOfStopping:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            return True
        self.recent.append(norm)
        return step < self.steps_per_epoch and norm > self.limit


@stability_monitor.mistake(
    "NaN stops the run in the first epoch only",
    why="a run can diverge at any time; the first epoch matters for the alarm alone.",
    look_at="which of your two tests is inside the other?",
    fails="NaN and infinity stop the run",
)
class StopsInTheFirstEpochOnly:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        self.recent.append(norm)
        if step < self.steps_per_epoch:
            if not math.isfinite(norm):
                raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
            return norm > self.limit
        return False


@stability_monitor.mistake(
    "it stops with another error than FloatingPointError",
    why="a training loop that wants to save its last weights has to know what to catch.",
    look_at="which exception is asked for?",
    recognise=lambda cases, observations: _stops_with(cases, observations, other=True),
    fails="NaN and infinity stop the run",
)
class RaisesAnotherError:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise ValueError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        return step < self.steps_per_epoch and norm > self.limit


@stability_monitor.mistake(
    "the error does not name the step it happened at, or names another one",
    why="whoever reads the log in the morning wants to know when to look at what.",
    look_at="which number is in your sentence, and is it the step that update was given?",
    recognise=lambda cases, observations: _stops_with(cases, observations, other=False),
    fails="NaN and infinity stop the run",
)
class DoesNotNameTheStep:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError("the gradient is not finite")
        self.recent.append(norm)
        return step < self.steps_per_epoch and norm > self.limit


def _stops_with(cases, observations, other: bool) -> bool:
    """Whether a NaN ends in an error of another type, or all in the right one, but unnamed."""
    stops = [
        seen.output["stopped"]
        for case, seen in zip(cases, observations, strict=True)
        if case.kind == DIVERGED and not seen.error
    ]
    if other:
        return any("names the step" in stop and stop["how"] != STOPPED for stop in stops)
    return all(stop["how"] == STOPPED for stop in stops) and not all(
        stop["names the step"] for stop in stops
    )


@stability_monitor.mistake(
    "an alarm stops the run",
    why="one large norm is a reason to look, and the run often recovers; NaN alone is the end.",
    look_at="what is asked for when a norm is too large, and what when it is not finite?",
    fails="form",
)
class StopsAtAnAlarm:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm) or (step < self.steps_per_epoch and norm > self.limit):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        return False


@stability_monitor.mistake(
    "it alarms after the first epoch too",
    why="later on a large norm is a bad batch as a rule; what the alarm is for is a bad start.",
    look_at="what does step have to be compared with?",
)
class AlarmsInEveryEpoch:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.limit = limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        return norm > self.limit


@stability_monitor.mistake(
    "the first epoch is one step too long",
    why="steps count from 0, so step steps_per_epoch is the first one of the second epoch.",
    look_at="which is the last step of an epoch of 2 steps?",
)
class OneStepTooMany:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        return step <= self.steps_per_epoch and norm > self.limit


@stability_monitor.mistake(
    "the first epoch ends one step early",
    why="steps count from 0, so step steps_per_epoch - 1 is the last one of the first epoch.",
    look_at="which is the last step of an epoch of 2 steps?",
    fails="alarms in the first epoch",
)
class EndsOneStepEarly:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        return step < self.steps_per_epoch - 1 and norm > self.limit


@stability_monitor.mistake(
    "step 0 gives no alarm",
    why="a run that starts badly shows it in its very first gradient.",
    look_at="which is the first step of the first epoch?",
    fails="alarms in the first epoch",
)
class QuietAtStepZero:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        return 0 < step < self.steps_per_epoch and norm > self.limit


@stability_monitor.mistake(
    "it alarms in the wrong epochs: after the first one, and not in it",
    why="the start is where a cold temperature does its damage.",
    look_at="for which steps is your comparison true?",
)
class AlarmsInTheWrongEpochs:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        return step >= self.steps_per_epoch and norm > self.limit


@stability_monitor.mistake(
    "it counts its own calls instead of using step",
    why="a run that goes on from a checkpoint starts at a later step, and is in no first epoch.",
    look_at="what does update know about where the run is?",
    fails="quiet after it",
)
class CountsItsCalls:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)
        self.calls = 0

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        self.calls += 1
        return self.calls <= self.steps_per_epoch and norm > self.limit


@stability_monitor.mistake(
    "a norm that just reaches the limit gives an alarm",
    why="the limit is the largest norm that is still accepted, for example one set by clipping.",
    look_at="is a norm that equals the limit above it?",
    fails="alarms in the first epoch",
)
class AlarmsAtTheLimit:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        return step < self.steps_per_epoch and norm >= self.limit


@stability_monitor.mistake(
    "the limit it was given is not used",
    why="what is large depends on the model; 100 is a default, not a law.",
    look_at="which number do you compare with?",
    fails="alarms in the first epoch",
)
class IgnoresTheLimit:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch = steps_per_epoch
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        return step < self.steps_per_epoch and norm > 100.0


@stability_monitor.mistake(
    "after the first alarm it never stops",
    why="update says whether this step is out of bounds; otherwise nobody sees that it is over.",
    look_at="what does update return for a healthy norm that comes after a large one?",
    fails="alarms in the first epoch",
)
class StaysAlarmed:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)
        self.alarm = False

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        if step < self.steps_per_epoch and norm > self.limit:
            self.alarm = True
        return self.alarm


@stability_monitor.mistake(
    "it compares the mean of the window, not the norm of this step",
    why="a single explosion drowns in the mean, and is long past when the mean has risen.",
    look_at="what exactly has to be above the limit?",
    fails="alarms in the first epoch",
)
class AveragesFirst:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        mean = sum(self.recent) / len(self.recent)
        return step < self.steps_per_epoch and mean > self.limit


@stability_monitor.mistake(
    "recent never forgets: it holds all norms, not the last window of them",
    why="it grows with the run, and a mean over it says less and less about now.",
    look_at="what happens to recent when it has `window` norms and another one comes?",
    recognise=lambda cases, observations: _keeps_more(cases, observations, growing=True),
    fails="recent norms",
)
class RecentNeverForgets:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = []

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        return step < self.steps_per_epoch and norm > self.limit


@stability_monitor.mistake(
    "the window it was given is not used",
    why="how much of the past is of interest depends on the run; 100 is a default.",
    look_at="what decides how many norms recent holds?",
    recognise=lambda cases, observations: _keeps_more(cases, observations, growing=False),
    fails="recent norms",
)
class IgnoresTheWindow:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=100)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        return step < self.steps_per_epoch and norm > self.limit


def _second_has(cases, observations, the_first: bool) -> bool:
    """Whether a monitor that was told nothing has norms: those of the first monitor, or others."""
    for case, seen in zip(cases, observations, strict=True):
        if case.kind == TWO_MONITORS and not seen.error and seen.output["recent"]:
            recent = seen.output["recent"]
            norms = case.arguments["norms"]
            inside = all(any(same(norm, entry, 1e-5) for entry in recent) for norm in norms)
            return inside == the_first
    return False


def _keeps_more(cases, observations, growing: bool) -> bool:
    """Whether recent holds all norms of a short run, and those of a long one or not."""
    seen_in = {case.kind: (case, seen) for case, seen in zip(cases, observations, strict=True)}
    (filled, of_filled), (_, of_long) = seen_in[FILLED], seen_in[LONG]
    if of_filled.error or of_long.error:
        return False
    holds_all = same(of_filled.output["recent"], filled.arguments["norms"], 1e-5)
    return holds_all and _grows(*of_long.output["held"]) == growing


@stability_monitor.mistake(
    "what it keeps grows with the run",
    why="recent is right, but beside it something gets longer and longer. A monitor must not be "
    "what fills the memory of a long run.",
    look_at="what does update add to that is longer after a million steps than after a thousand?",
    recognise=lambda cases, observations: any(
        not seen.error and _grows(*seen.output["held"])
        for case, seen in zip(cases, observations, strict=True)
        if case.kind == LONG
    ),
    fails="bounded memory",
)
class KeepsEveryNorm:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit, self.window = steps_per_epoch, limit, window
        self.norms = []
        self.recent = []

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.norms.append(norm)
        self.recent = self.norms[-self.window :]
        return step < self.steps_per_epoch and norm > self.limit


@stability_monitor.mistake(
    "it keeps the graph of every norm in its window",
    why="a norm that still hangs on its graph holds the activations of its step in memory.",
    look_at="what is in recent when norms come as tensors: numbers, or tensors with a gradient?",
    fails="bounded memory",
)
class KeepsTheGraph:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        if not math.isfinite(grad_norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {float(grad_norm)}")
        self.recent.append(grad_norm)
        return step < self.steps_per_epoch and bool(grad_norm > self.limit)


@stability_monitor.mistake(
    "recent holds the first norms of the run, not the last",
    why="once it is full, nothing new gets in, and what you look at is the start for ever.",
    look_at="when the window is full, which norm has to go?",
    fails="recent norms",
)
class KeepsTheFirstNorms:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit, self.window = steps_per_epoch, limit, window
        self.recent = []

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        if len(self.recent) < self.window:
            self.recent.append(norm)
        return step < self.steps_per_epoch and norm > self.limit


@stability_monitor.mistake(
    "recent gets no norms after the first epoch",
    why="only the alarm ends with the first epoch; a run can go wrong later, and then you want to "
    "see its last norms.",
    look_at="does update reach the line that records the norm in every epoch?",
    fails="recent norms",
)
class RecordsTheFirstEpochOnly:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        if step >= self.steps_per_epoch:
            return False
        self.recent.append(norm)
        return norm > self.limit


@stability_monitor.mistake(
    "a norm that gives an alarm is not recorded",
    why="the large norms are those you will want to see.",
    look_at="does update reach the line that records the norm when it returns True?",
    fails="recent norms",
)
class DoesNotRecordAlarms:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        if step < self.steps_per_epoch and norm > self.limit:
            return True
        self.recent.append(norm)
        return False


@stability_monitor.mistake(
    "recent is filled before anything was recorded",
    why="what nobody measured is no norm: a mean or a plot of recent would show it as one.",
    look_at="what is in recent right after __init__?",
    recognise=lambda cases, observations: _second_has(cases, observations, the_first=False),
    fails="recent norms",
)
class StartsFull:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque([0.0] * window, maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        return step < self.steps_per_epoch and norm > self.limit


def _out_of_order(cases, observations) -> bool:
    """Whether recent holds the last norms of every full window, but neither in order nor reversed.

    What is right is sorted, for the comparison.
    """
    turned = False
    for case, seen in zip(cases, observations, strict=True):
        if case.kind not in (FILLED, TENSORS):
            continue
        if seen.error or {describe(entry) for entry in seen.output["recent"]} != {"a number"}:
            return False
        got = [float(entry) for entry in seen.output["recent"]]
        wanted = case.arguments["norms"][-case.arguments["window"] :]
        if not same(sorted(got), sorted(wanted), 1e-5):
            return False
        turned = turned or not any(same(got, line, 1e-5) for line in (wanted, wanted[::-1]))
    return turned


@stability_monitor.mistake(
    "recent is in no order once it is full",
    why="a ring that is written round and round begins anywhere; a plot of it would have a jump.",
    look_at="where in your list is the oldest norm when the newest went into the middle?",
    recognise=_out_of_order,
    fails="recent norms",
)
class WritesARing:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit, self.window = steps_per_epoch, limit, window
        self.recent, self.count = [], 0

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        if self.count < self.window:
            self.recent.append(norm)
        else:
            self.recent[self.count % self.window] = norm
        self.count += 1
        return step < self.steps_per_epoch and norm > self.limit


@stability_monitor.mistake(
    "recent has the newest norm first",
    why="the order asked for is the order in time, so that it can be plotted as it is.",
    look_at="at which end does a new norm go in?",
    fails="recent norms",
)
class NewestFirst:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit = steps_per_epoch, limit
        self.recent = deque(maxlen=window)

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.appendleft(norm)
        return step < self.steps_per_epoch and norm > self.limit


@stability_monitor.mistake(
    "the window is emptied when it is full, instead of losing its oldest norm",
    why="right after that, recent says next to nothing.",
    look_at="how many norms are there in recent one step after it was full?",
    fails="recent norms",
)
class EmptiesTheWindow:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit, self.window = steps_per_epoch, limit, window
        self.recent = []

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        if len(self.recent) == self.window:
            self.recent = []
        self.recent.append(norm)
        return step < self.steps_per_epoch and norm > self.limit


@stability_monitor.mistake(
    "the window is off by one",
    why="recent has to hold exactly `window` norms once there are as many.",
    look_at="do you make room before the new norm goes in, or after? Count with a window of 1.",
    recognise=lambda cases, observations: any(
        not seen.error
        and abs(len(seen.output["recent"]) - case.arguments["window"]) == 1
        and same(seen.output["recent"], case.arguments["norms"][-len(seen.output["recent"]) :])
        for case, seen in zip(cases, observations, strict=True)
        if case.kind == FILLED and len(case.arguments["norms"]) > 2 * case.arguments["window"]
    ),
    fails="recent norms",
)
class WindowOffByOne:
    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit, self.window = steps_per_epoch, limit, window
        self.recent = []

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        if len(self.recent) > self.window:
            self.recent.pop(0)
        self.recent.append(norm)
        return step < self.steps_per_epoch and norm > self.limit


@stability_monitor.mistake(
    "two monitors share one recent",
    why="a list in the class belongs to all of its instances, so the second run starts with the "
    "norms of the first.",
    look_at="where is recent made: in the class, as a default value, or in __init__?",
    recognise=lambda cases, observations: _second_has(cases, observations, the_first=True),
    fails="recent norms",
)
class SharesItsNorms:
    recent = []

    def __init__(self, steps_per_epoch, limit=100.0, window=100):
        self.steps_per_epoch, self.limit, self.window = steps_per_epoch, limit, window

    def update(self, step, grad_norm):
        norm = float(grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm of step {step} is {norm}")
        self.recent.append(norm)
        del self.recent[: -self.window]
        return step < self.steps_per_epoch and norm > self.limit


EXERCISES = (nt_xent_gradient, temperature_at, info_nce_bound, stability_monitor)
