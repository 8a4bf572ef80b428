"""The reference implementations of notebook 01, against two oracles each, and what must hold."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct
from sklearn.metrics import mutual_info_score

from course_lib.bayes import gaussian_posterior, l2_anchor, mutual_information, prior_share
from course_lib.checks import bayes as bank
from course_lib.checks.report import examine, get_exercise

HALF = (torch.bfloat16, torch.float16)
seeds = st.integers(0, 2**31 - 1)


def regression(seed, n=6, d=3, noise_var=0.4):
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(d, 2 * d, generator=generator, dtype=torch.float64)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return {
        "X": X,
        "y": torch.randn(n, generator=generator, dtype=torch.float64),
        "prior_mean": torch.randn(d, generator=generator, dtype=torch.float64),
        "prior_cov": factor @ factor.mT / d,
        "noise_var": noise_var,
    }


def by_the_book(X, y, prior_mean, prior_cov, noise_var):
    """Bishop 2006, eq. 3.50 and 3.51, as they stand there (S_0, S_N, m_0, m_N, beta, Phi, t)."""
    S_0, m_0, beta, Phi, t = prior_cov, prior_mean, 1 / noise_var, X, y
    S_N = torch.linalg.inv(torch.linalg.inv(S_0) + beta * Phi.T @ Phi)
    return S_N @ (torch.linalg.inv(S_0) @ m_0 + beta * Phi.T @ t), S_N


def exactly(X, y, prior_mean, prior_cov, noise_var):
    """The posterior without any rounding until the end: the gain form in rational numbers."""
    rows, prior = exact_rows(X), exact_rows(prior_cov)
    prior_mean, labels = exact_rows(prior_mean[None])[0], exact_rows(y[None])[0]
    cross = [[dot(row, column) for column in prior] for row in rows]  # X prior_cov
    noise = Fraction(noise_var)
    innovation = [
        [dot(left, right) + (noise if i == j else 0) for j, right in enumerate(rows)]
        for i, left in enumerate(cross)
    ]
    residual = [[label - dot(row, prior_mean)] for row, label in zip(rows, labels, strict=True)]
    right = [line + rest for line, rest in zip(cross, residual, strict=True)]
    solved = exact_solve(innovation, right)  # (n, d + 1)
    d = len(prior_mean)
    mean = [
        m + sum(c[i] * s[d] for c, s in zip(cross, solved, strict=True))
        for i, m in enumerate(prior_mean)
    ]
    cov = [
        [
            prior[i][j] - sum(c[i] * s[j] for c, s in zip(cross, solved, strict=True))
            for j in range(d)
        ]
        for i in range(d)
    ]
    return as_float64([mean])[0], as_float64(cov)


def exact_rows(matrix):
    return [[Fraction(entry) for entry in row] for row in matrix.tolist()]


def dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))


def exact_solve(matrix, right):
    """Gauss-Jordan elimination; a positive definite matrix needs no pivoting in exact numbers."""
    rows = [list(left) + list(extra) for left, extra in zip(matrix, right, strict=True)]
    for k, pivot in enumerate(rows):
        pivot[:] = [entry / pivot[k] for entry in pivot]
        for i, row in enumerate(rows):
            if i != k:
                row[:] = [a - row[k] * b for a, b in zip(row, pivot, strict=True)]
    return [row[len(matrix) :] for row in rows]


def as_float64(rows):
    return torch.tensor([[float(entry) for entry in row] for row in rows], dtype=torch.float64)


def assert_posteriors_agree(got, wanted, rtol=1e-9, atol=1e-11):
    for left, right in zip(got, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=rtol, atol=atol)


class TestGaussianPosterior:
    @given(seeds, st.integers(0, 9), st.integers(1, 6), st.floats(1e-2, 1e2))
    @settings(max_examples=60, deadline=None)
    def test_it_is_the_books_formula(self, seed, n, d, noise_var):
        case = regression(seed, n, d, noise_var)
        assert_posteriors_agree(gaussian_posterior(**case), by_the_book(**case), 1e-7, 1e-9)

    @pytest.mark.parametrize(("n", "d"), [(8, 3), (2, 4), (1, 1)])
    def test_it_agrees_with_scikit_learns_gaussian_process(self, n, d):
        """A process with the kernel x'x' has weights from N(0, I), so give it whitened inputs."""
        case = regression(n, n, d)
        X, y, prior_mean, prior_cov, noise_var = case.values()
        root = torch.linalg.cholesky(prior_cov)
        process = GaussianProcessRegressor(
            DotProduct(sigma_0=0, sigma_0_bounds="fixed"), alpha=noise_var, optimizer=None
        ).fit((X @ root).numpy(), (y - X @ prior_mean).numpy())
        step, cov = process.predict(root.numpy(), return_cov=True)  # what it says of each weight
        theirs = prior_mean + torch.from_numpy(step), torch.from_numpy(cov)
        assert_posteriors_agree(gaussian_posterior(**case), theirs)

    @pytest.mark.parametrize("seed", range(3))
    def test_it_is_right_to_rounding_in_ordinary_cases(self, seed):
        case = regression(seed)
        assert_posteriors_agree(gaussian_posterior(**case), exactly(**case), 1e-12, 1e-13)

    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize("hidden", [False, True])
    def test_it_holds_for_a_prior_of_condition_number_1e10(self, seed, hidden):
        make = bank._hidden_regression_cases if hidden else bank._regression_cases
        for case in make(seed):
            if case.kind not in (bank.NEARLY_CERTAIN, bank.NEARLY_FLAT):
                continue
            assert torch.linalg.cond(case.arguments["prior_cov"]) > 0.99e10
            mean, cov = gaussian_posterior(**case.arguments)
            right_mean, right_cov = exactly(**case.arguments)
            assert (mean - right_mean).norm() < 1e-10 * right_mean.norm()
            variances, directions = torch.linalg.eigh(right_cov)
            whiten = directions / variances.sqrt()
            # An entry of 1 is rounded to 1e-16, which is 1e-6 of a variance of 1e-10.
            in_right_units = whiten.mT @ cov @ whiten
            identity = torch.eye(len(mean), dtype=torch.float64)
            torch.testing.assert_close(in_right_units, identity, rtol=0, atol=2e-5)
            torch.distributions.MultivariateNormal(mean, cov).sample()

    @pytest.mark.parametrize("noise_var", [1e-10, 1e-100, 1e-310])
    def test_it_holds_with_hardly_any_noise(self, noise_var):
        """Fewer labels than weights: some directions are known exactly, others not at all."""
        case = regression(5, n=2, d=4, noise_var=noise_var)
        assert_posteriors_agree(gaussian_posterior(**case), exactly(**case), 1e-9, 1e-12)

    def test_without_labels_the_posterior_is_the_prior(self):
        case = regression(0, n=0)
        mean, cov = gaussian_posterior(**case)
        torch.testing.assert_close(mean, case["prior_mean"])
        torch.testing.assert_close(cov, case["prior_cov"])

    def test_with_endless_noise_the_posterior_is_the_prior(self):
        case = regression(0, noise_var=1e300)
        mean, cov = gaussian_posterior(**case)
        torch.testing.assert_close(mean, case["prior_mean"])
        torch.testing.assert_close(cov, case["prior_cov"])

    def test_with_a_flat_prior_the_mean_is_the_least_squares_fit(self):
        case = regression(1, n=9)
        case["prior_cov"] = 1e12 * torch.eye(3, dtype=torch.float64)
        fit = torch.linalg.lstsq(case["X"], case["y"][:, None]).solution[:, 0]
        torch.testing.assert_close(gaussian_posterior(**case)[0], fit, rtol=1e-8, atol=1e-8)

    @given(seeds, st.integers(0, 6))
    @settings(max_examples=30, deadline=None)
    def test_today_s_posterior_is_tomorrow_s_prior(self, seed, first):
        """Pre-training and fine-tuning in two steps is the same as learning from all at once."""
        case = regression(seed, n=6)
        X, y, noise_var = case["X"], case["y"], case["noise_var"]
        before = gaussian_posterior(
            X[:first], y[:first], case["prior_mean"], case["prior_cov"], noise_var
        )
        after = gaussian_posterior(X[first:], y[first:], *before, noise_var)
        assert_posteriors_agree(after, gaussian_posterior(**case), 1e-8, 1e-10)

    @given(seeds, st.integers(1, 8), st.integers(1, 5))
    @settings(max_examples=30, deadline=None)
    def test_labels_narrow_every_direction_and_keep_a_covariance(self, seed, n, d):
        case = regression(seed, n, d)
        _, cov = gaussian_posterior(**case)
        torch.testing.assert_close(cov, cov.mT, rtol=1e-12, atol=1e-14)
        assert torch.linalg.eigvalsh(cov)[0] > 0
        assert torch.linalg.eigvalsh(case["prior_cov"] - cov)[0] > -1e-10

    def test_it_changes_with_the_units_as_it_should(self):
        case = regression(2)
        scale = torch.tensor([0.1, 3.0, 20.0], dtype=torch.float64)  # the weights in other units
        mean, cov = gaussian_posterior(**case)
        scaled = gaussian_posterior(
            case["X"] / scale,
            case["y"],
            case["prior_mean"] * scale,
            case["prior_cov"] * torch.outer(scale, scale),
            case["noise_var"],
        )
        assert_posteriors_agree(scaled, (mean * scale, cov * torch.outer(scale, scale)))

    @pytest.mark.parametrize(
        ("dtype", "tolerance"),
        [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)],
    )
    def test_it_works_in_other_precisions(self, dtype, tolerance):
        case = regression(3)
        low = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in case.items()}
        wanted = [
            leaf.to(dtype)
            for leaf in by_the_book(
                **{k: v.double() if isinstance(v, torch.Tensor) else v for k, v in low.items()}
            )
        ]
        got = gaussian_posterior(**low)
        assert [leaf.dtype for leaf in got] == [dtype, dtype]
        assert_posteriors_agree(got, wanted, tolerance, tolerance)

    def test_autograd_goes_through_it(self):
        X, y, prior_mean, factor, noise_var = regression(4).values()
        tensors = [t.clone().requires_grad_() for t in (X, y, prior_mean, factor)]

        def posterior(X, y, prior_mean, factor):
            return gaussian_posterior(X, y, prior_mean, factor @ factor.mT, noise_var)

        assert torch.autograd.gradcheck(posterior, tensors)

    def test_its_arguments_stay_as_they_are(self):
        case = regression(0)
        before = {k: v.clone() for k, v in case.items() if isinstance(v, torch.Tensor)}
        gaussian_posterior(**case)
        assert all(torch.equal(case[name], given) for name, given in before.items())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"X": torch.zeros(6, dtype=torch.float64)}, r"wanted X \(n, d\).* got \(6,\)"),
            ({"X": torch.zeros(6, 0, dtype=torch.float64)}, "wanted X"),
            ({"y": torch.zeros(6, 1, dtype=torch.float64)}, r"y \(n,\).*\(6, 1\)"),
            ({"y": torch.zeros(5, dtype=torch.float64)}, "wanted X"),
            ({"prior_mean": torch.zeros(2, dtype=torch.float64)}, "wanted X"),
            ({"prior_cov": torch.ones(3, dtype=torch.float64)}, "wanted X"),
            ({"noise_var": 0.0}, "noise_var must be positive and finite, got 0.0"),
            ({"noise_var": -1.0}, "noise_var must be positive"),
            ({"noise_var": math.inf}, "noise_var must be positive and finite"),
            ({"noise_var": math.nan}, "noise_var must be positive and finite"),
            ({"y": torch.full((6,), math.nan, dtype=torch.float64)}, "y must hold finite"),
            ({"prior_cov": -torch.eye(3, dtype=torch.float64)}, "positive definite"),
            ({"prior_cov": torch.ones(3, 3, dtype=torch.float64)}, "positive definite"),
            ({"prior_cov": torch.ones(3, 3, dtype=torch.float64).tril()}, "symmetric"),
        ],
    )
    def test_bad_input_is_refused_with_a_sentence(self, change, message):
        with pytest.raises(ValueError, match=message):
            gaussian_posterior(**regression(0) | change)

    @pytest.mark.parametrize(
        "change", [{"y": torch.zeros(6)}, {"X": torch.zeros(6, 3, dtype=torch.int64)}]
    )
    def test_mixed_dtypes_are_refused(self, change):
        with pytest.raises(TypeError, match="one floating-point dtype"):
            gaussian_posterior(**regression(0) | change)

    def test_noise_that_float32_cannot_hold_is_refused(self):
        case = regression(0, noise_var=1e-100)
        low = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in case.items()}
        with pytest.raises(ValueError, match="noise_var must be positive"):
            gaussian_posterior(**low)


def network(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"weight": (4, 3), "bias": (4,), "scale": ()}
    params, anchor = (
        {
            k: torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)
            for k, s in shapes.items()
        }
        for _ in range(2)
    )
    return {name: p.requires_grad_() for name, p in params.items()}, anchor


class TestL2Anchor:
    def test_it_is_the_papers_sum(self):
        params, anchor = network()
        wanted = 0.0
        for name in params:
            pairs = zip(
                params[name].flatten().tolist(), anchor[name].flatten().tolist(), strict=True
            )
            wanted += sum((live - start) ** 2 for live, start in pairs)
        assert l2_anchor(params, anchor, 0.7).item() == pytest.approx(0.7 * wanted, rel=1e-12)

    @pytest.mark.parametrize("strength", [0.05, 3.0])
    def test_it_is_the_negative_log_of_a_gaussian_prior(self, strength):
        params, anchor = network()
        spread = (1 / (2 * strength)) ** 0.5
        loss = {
            name: torch.distributions.Normal(anchor[name], spread).log_prob(live).sum()
            for name, live in params.items()
        }
        at_the_anchor = sum(
            torch.distributions.Normal(start, spread).log_prob(start).sum()
            for start in anchor.values()
        )
        penalty = l2_anchor(params, anchor, strength)
        torch.testing.assert_close(penalty, at_the_anchor - sum(loss.values()))

    def test_anchored_to_zero_it_is_weight_decay(self):
        params, anchor = network()
        twin = [p.detach().clone().requires_grad_() for p in params.values()]
        zero = {name: torch.zeros_like(start) for name, start in anchor.items()}
        l2_anchor(params, zero, 0.3).backward()
        torch.optim.SGD(params.values(), lr=0.1).step()
        for p in twin:
            p.grad = torch.zeros_like(p)
        torch.optim.SGD(twin, lr=0.1, weight_decay=2 * 0.3).step()
        for live, decayed in zip(params.values(), twin, strict=True):
            torch.testing.assert_close(live, decayed)

    def test_the_gradient_pulls_parameters_and_leaves_the_anchor(self):
        params, anchor = network()
        for start in anchor.values():
            start.requires_grad_()
        l2_anchor(params, anchor, 0.7).backward()
        for name, live in params.items():
            torch.testing.assert_close(live.grad, 1.4 * (live - anchor[name]).detach())
            assert anchor[name].grad is None

    def test_what_has_not_moved_costs_nothing(self):
        params, _ = network()
        penalty = l2_anchor(params, {k: p.detach().clone() for k, p in params.items()}, 5.0)
        penalty.backward()
        assert penalty.item() == 0
        assert all((p.grad == 0).all() for p in params.values())

    def test_a_new_head_is_left_free(self):
        params, anchor = network()
        head = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
        with_head = l2_anchor(params | {"head": head}, anchor, 0.7)
        torch.testing.assert_close(with_head, l2_anchor(params, anchor, 0.7))
        with_head.backward()
        assert head.grad is None

    def test_it_takes_a_modules_parameters(self):
        model = torch.nn.Linear(3, 2)
        anchor = {name: p.detach().clone() for name, p in model.named_parameters()}
        with torch.no_grad():
            model.weight += 0.5
        penalty = l2_anchor(dict(model.named_parameters()), anchor, 2.0)
        assert penalty.item() == pytest.approx(2.0 * 6 * 0.25, rel=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_the_result_has_the_parameters_dtype(self, dtype):
        assert l2_anchor(*network(dtype=dtype), 1.0).dtype == dtype

    @pytest.mark.parametrize("dtype", HALF)
    def test_half_precision_neither_overflows_nor_loses_small_steps(self, dtype):
        anchor = {"w": torch.zeros(100_000, dtype=dtype)}
        for step in (2**-14, 4.0):  # their squares: 0 in float16, and a sum of 1 600 000
            params = {"w": torch.full((100_000,), step, dtype=dtype, requires_grad=True)}
            penalty = l2_anchor(params, anchor, 1.0)
            assert penalty.dtype == torch.float32
            assert penalty.item() == pytest.approx(100_000 * step**2, rel=1e-3)
            penalty.backward()
            assert (params["w"].grad == 2 * step).all()

    def test_its_arguments_stay_as_they_are(self):
        params, anchor = network()
        before = [t.detach().clone() for t in (*params.values(), *anchor.values())]
        l2_anchor(params, anchor, 0.7)
        after = (*params.values(), *anchor.values())
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))

    @pytest.mark.parametrize(
        ("params", "anchor", "strength", "message"),
        [
            ({"w": torch.zeros(2)}, {"v": torch.zeros(2)}, 1.0, "'v', which params lacks"),
            ({"w": torch.zeros(2)}, {"w": torch.zeros(1)}, 1.0, r"\(2,\) in params and \(1,\)"),
            ({"w": torch.zeros(2)}, {}, 1.0, "at least one parameter"),
            ({"w": torch.zeros(2)}, {"w": torch.zeros(2)}, -1.0, "at least 0, got -1.0"),
            ({"w": torch.zeros(2)}, {"w": torch.zeros(2)}, math.nan, "strength must be finite"),
            ({"w": torch.zeros(2)}, {"w": torch.zeros(2)}, math.inf, "strength must be finite"),
        ],
    )
    def test_bad_input_is_refused_with_a_sentence(self, params, anchor, strength, message):
        with pytest.raises(ValueError, match=message):
            l2_anchor(params, anchor, strength)


variances = st.floats(1e-6, 1e6)


class TestPriorShare:
    @given(st.integers(0, 10**6), variances, variances)
    def test_it_is_the_share_of_the_precisions(self, n, prior_var, noise_var):
        prior, labels = 1 / Fraction(prior_var), n / Fraction(noise_var)
        wanted = float(prior / (prior + labels))
        assert prior_share(n, prior_var, noise_var) == pytest.approx(wanted, rel=1e-12)

    @given(seeds, st.integers(1, 30), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
    @settings(max_examples=30, deadline=None)
    def test_it_weighs_the_prior_in_the_posterior_of_one_number(
        self, seed, n, prior_var, noise_var
    ):
        generator = torch.Generator().manual_seed(seed)
        y = torch.randn(n, generator=generator, dtype=torch.float64)
        prior_mean = torch.tensor([2.5], dtype=torch.float64)
        X, prior_cov = torch.ones(n, 1, dtype=torch.float64), torch.full((1, 1), prior_var).double()
        mean, cov = gaussian_posterior(X, y, prior_mean, prior_cov, noise_var)
        share = prior_share(n, prior_cov.item(), noise_var)
        torch.testing.assert_close(mean, share * prior_mean + (1 - share) * y.mean())
        torch.testing.assert_close(cov, share * prior_cov)

    def test_it_starts_at_one_and_is_a_half_when_the_labels_are_worth_the_prior(self):
        assert prior_share(0, 2.0, 3.0) == 1
        assert prior_share(4, 0.5, 2.0) == 0.5
        assert prior_share(1.5, 2.0, 3.0) == 0.5

    @pytest.mark.parametrize(
        ("n", "prior_var", "noise_var", "share"),
        [
            (0, 1e300, 1e-300, 1.0),
            (1, 1e300, 1e-300, 0.0),
            (1, 1e-300, 1e300, 1.0),
            (1, 1e308, 1e308, 0.5),
            (math.inf, 1.0, 1.0, 0.0),
        ],
    )
    def test_it_stays_a_share_at_the_ends_of_float64(self, n, prior_var, noise_var, share):
        assert prior_share(n, prior_var, noise_var) == share

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((-1, 1.0, 1.0), "n must be at least 0, got -1"),
            ((math.nan, 1.0, 1.0), "n must be at least 0"),
            ((1, 0.0, 1.0), "prior_var must be positive and finite, got 0.0"),
            ((1, 1.0, -2.0), "noise_var must be positive and finite, got -2.0"),
            ((1, math.inf, 1.0), "prior_var must be positive and finite"),
            ((1, 1.0, math.nan), "noise_var must be positive and finite"),
        ],
    )
    def test_bad_input_is_refused_with_a_sentence(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            prior_share(*arguments)


tables = (
    st.integers(1, 6)
    .flatmap(
        lambda columns: st.lists(
            st.lists(st.integers(0, 50), min_size=columns, max_size=columns), min_size=1, max_size=6
        )
    )
    .filter(lambda rows: any(map(any, rows)))
)


def by_definition(rows):
    """Cover & Thomas 2006, eq. 2.28, cell by cell."""
    total = sum(map(sum, rows))
    information = 0.0
    for row in rows:
        for b, count in enumerate(row):
            if count:
                column = sum(other[b] for other in rows)
                information += count / total * math.log(count * total / (sum(row) * column))
    return information


class TestMutualInformation:
    @given(tables)
    def test_it_is_the_definition(self, rows):
        joint = torch.tensor(rows, dtype=torch.float64)
        assert mutual_information(joint).item() == pytest.approx(by_definition(rows), abs=1e-12)

    @given(tables)
    def test_it_agrees_with_scikit_learn(self, rows):
        joint = torch.tensor(rows, dtype=torch.float64)
        theirs = mutual_info_score(None, None, contingency=joint.numpy())
        assert mutual_information(joint).item() == pytest.approx(theirs, abs=1e-10)

    @given(tables)
    def test_it_lies_between_zero_and_the_smaller_entropy_and_is_symmetric(self, rows):
        joint = torch.tensor(rows, dtype=torch.float64)
        information = mutual_information(joint)
        assert 0 <= information <= math.log(min(joint.shape)) + 1e-12
        p = joint / joint.sum()
        for marginal in (p.sum(dim=0), p.sum(dim=1)):
            assert information <= torch.special.entr(marginal).sum() + 1e-12
        torch.testing.assert_close(mutual_information(joint.mT), information)
        torch.testing.assert_close(mutual_information(joint.flip(0)), information)

    @pytest.mark.parametrize("scale", [1e-300, 1e-3, 1e3, 1e300])
    def test_only_the_shares_count(self, scale):
        joint = torch.tensor([[3.0, 1.0, 0.0], [2.0, 5.0, 4.0]], dtype=torch.float64)
        torch.testing.assert_close(mutual_information(scale * joint), mutual_information(joint))

    def test_known_values(self):
        assert mutual_information(torch.ones(3, 4)) == 0
        independent = torch.outer(torch.tensor([0.2, 0.8]), torch.tensor([0.1, 0.3, 0.6]))
        assert mutual_information(independent).item() == pytest.approx(0, abs=1e-7)
        for k in (1, 2, 10):
            assert mutual_information(torch.eye(k)).item() == pytest.approx(math.log(k), abs=1e-6)

    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, *HALF])
    def test_counts_and_half_precision_give_float32(self, dtype):
        joint = torch.tensor([[30, 10, 0], [20, 50, 100]])
        information = mutual_information(joint.to(dtype))
        assert (information.shape, information.dtype) == ((), torch.float32)
        assert information.item() == pytest.approx(by_definition(joint.tolist()), rel=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_the_result_has_the_tables_dtype(self, dtype):
        assert mutual_information(torch.ones(2, 2, dtype=dtype)).dtype == dtype

    def test_many_counts_do_not_overflow(self):
        joint = torch.full((100, 100), 60_000.0)
        joint.fill_diagonal_(0.0)
        wanted = mutual_information(joint.double()).item()
        assert mutual_information(joint.half()).item() == pytest.approx(wanted, rel=1e-2)
        assert mutual_information(joint.long()).item() == pytest.approx(wanted, rel=1e-2)

    def test_autograd_goes_through_it(self):
        joint = torch.tensor([[3.0, 1.0], [2.0, 5.0]], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(mutual_information, joint)

    def test_the_gradient_is_finite_where_a_cell_is_zero(self):
        joint = torch.tensor([[3.0, 0.0], [0.0, 0.0]], requires_grad=True)
        mutual_information(joint).backward()
        assert joint.grad.isfinite().all()

    def test_its_argument_stays_as_it_is(self):
        joint = torch.tensor([[3.0, 1.0], [2.0, 5.0]])
        before = joint.clone()
        mutual_information(joint)
        assert torch.equal(joint, before)

    @pytest.mark.parametrize(
        ("joint", "message"),
        [
            (torch.ones(3), r"table \(A, B\), got shape \(3,\)"),
            (torch.ones(2, 2, 2), "table"),
            (torch.zeros(2, 2), "at least one > 0"),
            (torch.ones(0, 3), "at least one > 0"),
            (torch.tensor([[1.0, -1.0]]), "numbers >= 0"),
            (torch.tensor([[1.0, math.nan]]), "finite"),
            (torch.tensor([[1.0, math.inf]]), "finite"),
        ],
    )
    def test_bad_input_is_refused_with_a_sentence(self, joint, message):
        with pytest.raises(ValueError, match=message):
            mutual_information(joint)


class TestPartialCredit:
    """What is right still counts when something else is wrong."""

    @pytest.mark.parametrize(
        ("exercise", "mistake", "points"),
        [
            ("gaussian_posterior", "inverts_explicitly", 5.0),
            ("gaussian_posterior", "drops_prior_mean", 3.0),
            ("gaussian_posterior", "returns_covariance_first", 0.0),
            ("l2_anchor", "trains_the_anchor", 3.5),
            ("l2_anchor", "decays_the_new_head", 3.5),
            ("l2_anchor", "cuts_the_graph", 2.5),
            ("prior_share", "divides_by_zero_labels", 2.0),
            ("mutual_information", "nan_where_a_cell_is_zero", 3.0),
            ("mutual_information", "does_not_normalise", 3.0),
        ],
    )
    def test_points(self, exercise, mistake, points):
        exercise = get_exercise(exercise)
        answer = next(known.answer for known in exercise.mistakes if known.name == mistake)
        cases = exercise.cases(3) + exercise.hidden_cases(3)
        assert examine(exercise, answer, cases).points == points

    def test_points_per_exercise(self):
        points = {exercise.name: exercise.max_points for exercise in bank.EXERCISES}
        assert points == {
            "gaussian_posterior": 6.0,
            "l2_anchor": 4.0,
            "prior_share": 3.0,
            "mutual_information": 4.0,
        }
