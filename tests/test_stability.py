"""The gradient of NT-Xent, the temperature, the bound and the monitor of notebook 04."""

import math
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from course_lib import contrastive, plots, stability
from course_lib.stability import (
    CorrelatedGaussians,
    StabilityMonitor,
    TrainingDiverged,
    candidate_weights,
    info_nce_bound,
    info_nce_losses,
    information_estimates,
    nt_xent_gradient,
    temperature_at,
)


def embeddings(n=5, d=4, dtype=torch.float64, seed=0, length=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (length * torch.randn(2 * n, d, generator=generator, dtype=torch.float64)).to(dtype)


# ------------------------------------------------------------------------------- nt_xent_gradient


def papers_gradient(z, temperature):
    """Chen et al. 2020, eq. 1, term by term in float64, differentiated by autograd."""
    rows = z.detach().double().requires_grad_()
    n, total = len(rows) // 2, 0.0
    for i in range(2 * n):
        cosines = [rows[i] @ row / (rows[i].norm() * row.norm()) / temperature for row in rows]
        others = torch.stack([cosines[k] for k in range(2 * n) if k != i])
        total = total + others.logsumexp(0) - cosines[(i + n) % (2 * n)]
    return torch.autograd.grad(total / (2 * n), rows)[0]


def librarys_gradient(z, temperature):
    z = z.detach().clone().requires_grad_()
    return torch.autograd.grad(contrastive.nt_xent(*z.chunk(2), temperature), z)[0]


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (7, 4)])
def test_gradient_is_that_of_the_papers_formula(temperature, shape):
    z = embeddings(*shape, seed=3)
    ours = nt_xent_gradient(z, temperature)
    torch.testing.assert_close(ours, papers_gradient(z, temperature), rtol=1e-9, atol=1e-12)


def test_gradient_is_that_of_a_cross_entropy_of_the_whole_matrix():
    z = embeddings(50, 16).requires_grad_()
    u = F.normalize(z, dim=1)
    logits = (u @ u.T / 0.1).fill_diagonal_(-math.inf)
    loss = F.cross_entropy(logits, torch.arange(100).roll(50))
    expected = torch.autograd.grad(loss, z)[0]
    torch.testing.assert_close(nt_xent_gradient(z.detach(), 0.1), expected)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 12),
    d=st.integers(1, 9),
    temperature=st.floats(1e-3, 1e3),
    length=st.sampled_from([1e-25, 1e-3, 1.0, 1e25]),
    seed=st.integers(0, 99),
)
def test_gradient_is_that_of_the_librarys_loss(n, d, temperature, length, seed):
    z = embeddings(n, d, seed=seed, length=length)
    expected = librarys_gradient(z, temperature)
    # The loss of one pair, or of d = 1, is flat; what autograd leaves there is rounding.
    scale = (1 / temperature + 1) / length
    torch.testing.assert_close(
        nt_xent_gradient(z, temperature), expected, rtol=1e-7, atol=1e-12 * scale
    )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 3e-6), (torch.bfloat16, 3e-6)]
)
def test_gradient_in_lower_precision_is_computed_in_float32(dtype, tolerance):
    z = embeddings(20, 8, dtype=dtype, seed=1)
    ours = nt_xent_gradient(z, 0.07)
    assert ours.dtype == torch.float32
    expected = papers_gradient(z, 0.07)  # of the rounded embeddings
    assert (ours - expected).abs().max() < tolerance * expected.abs().max() * 10


def test_gradient_under_autocast_is_not_rounded():
    z = embeddings(20, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent_gradient(z, 0.1)
    assert torch.equal(inside, nt_xent_gradient(z, 0.1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1e-36, 1e-20, 1e20, 1e36])
def test_gradient_of_very_short_and_very_long_embeddings_is_finite(dtype, length):
    z = embeddings(6, 3, dtype=dtype, length=length)
    ours, theirs = nt_xent_gradient(z, 0.5), librarys_gradient(z, 0.5)
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 / max(length, 1))


def test_gradient_of_a_zero_vector_is_that_of_the_loss():
    z = embeddings(4, 3)
    z[1], z[6] = 0, 0
    torch.testing.assert_close(nt_xent_gradient(z, 0.2), librarys_gradient(z, 0.2))


def test_gradient_is_orthogonal_to_the_embeddings_and_halves_when_they_double():
    z = embeddings(8, 5)
    gradient = nt_xent_gradient(z, 0.1)
    along = (gradient * z).sum(dim=1)
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-12, rtol=0)
    torch.testing.assert_close(nt_xent_gradient(2 * z, 0.1), gradient / 2)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 20), temperature=st.floats(1e-2, 10), seed=st.integers(0, 99))
def test_gradient_is_bounded_by_four_over_the_temperature(n, temperature, seed):
    z = F.normalize(embeddings(n, 3, seed=seed), dim=1)
    assert nt_xent_gradient(z, temperature).norm() <= 4 / temperature + 1e-12
    z[n:] = -z[:n]  # the worst alignment
    assert nt_xent_gradient(z, temperature).norm() <= 4 / temperature + 1e-12


def test_gradient_is_zero_without_negatives_and_at_infinite_heat():
    pair = embeddings(1, 4)
    torch.testing.assert_close(nt_xent_gradient(pair, 0.1), torch.zeros_like(pair))
    z = embeddings(30, 4)
    assert nt_xent_gradient(z, 1e4).norm() < 1e-3


def test_weights_are_those_of_a_softmax_without_the_own_place():
    z = embeddings(3, 4)
    weights = candidate_weights(z, 0.3)
    cosines = F.cosine_similarity(z[:, None], z[None], dim=-1)
    raw = torch.exp(cosines / 0.3)
    for i in range(6):
        others = sum(raw[i, k] for k in range(6) if k != i)
        for j in range(6):
            assert weights[i, j] == pytest.approx(0 if i == j else raw[i, j] / others)


def test_inputs_are_left_alone_and_may_be_views_of_other_memory():
    z = embeddings(5, 4).T.contiguous().T
    before = z.clone()
    gradient = nt_xent_gradient(z, 0.1)
    assert torch.equal(z, before) and not z.is_contiguous()
    torch.testing.assert_close(gradient, nt_xent_gradient(z.contiguous(), 0.1))


@pytest.mark.parametrize("function", [nt_xent_gradient, candidate_weights])
def test_embeddings_that_do_not_fit_are_refused(function):
    for shape in ((3, 4), (0, 4), (4, 0), (4,), (2, 2, 2)):
        with pytest.raises(ValueError, match=re.escape(str(shape[-1]))):
            function(torch.zeros(shape), 0.1)
    with pytest.raises(TypeError, match="floating"):
        function(torch.ones(4, 3, dtype=torch.long), 0.1)
    for temperature in (0.0, -1.0, math.nan, 1e9):
        with pytest.raises(ValueError, match="temperature"):
            function(torch.ones(4, 3), temperature)


# --------------------------------------------------------------------------------- temperature_at


def test_temperature_follows_half_a_cosine_and_stays():
    assert temperature_at(0, 1000) == 0.5
    assert temperature_at(50, 1000) == pytest.approx((0.5 + 0.07) / 2)
    angle = 25 / 100 * math.pi
    assert temperature_at(25, 1000) == pytest.approx(0.07 + 0.43 * (1 + math.cos(angle)) / 2)
    for step in (100, 101, 500, 1000, 5000):
        assert temperature_at(step, 1000) == 0.07


def test_temperature_is_that_of_torchs_cosine_annealing():
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=32, eta_min=0.07)
    for step in range(33):
        assert temperature_at(step, 320) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


@given(
    total=st.integers(1, 500),
    fraction=st.floats(0, 1),
    ends=st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)),
)
def test_temperature_moves_one_way_and_stays_between_its_ends(total, fraction, ends):
    start, end = ends
    course = [temperature_at(s, total, start, end, fraction) for s in range(total + 1)]
    assert course[-1] == end
    moves = np.diff(course)
    assert (moves <= 1e-12).all() if start >= end else (moves >= -1e-12).all()
    assert min(start, end) - 1e-12 <= min(course) <= max(course) <= max(start, end) + 1e-12


def test_a_run_shorter_than_ten_steps_warms_up_too():
    assert temperature_at(0, 5) == 0.5  # w is half a step
    assert temperature_at(1, 5) == 0.07
    assert temperature_at(0, 1, warmup_fraction=0) == 0.07
    assert temperature_at(1, 15) == pytest.approx(0.07 + 0.43 * (1 + math.cos(math.pi / 1.5)) / 2)


@pytest.mark.parametrize(
    "arguments",
    [
        (-1, 10),
        (math.nan, 10),
        (0, 0),
        (0, 10, 0.0),
        (0, 10, -0.5),
        (0, 10, math.inf),
        (0, 10, 0.5, 0.0),
        (0, 10, 0.5, math.nan),
        (0, 10, 0.5, 0.07, 1.1),
        (0, 10, 0.5, 0.07, -0.1),
        (0, 10, 0.5, 0.07, math.nan),
    ],
)
def test_schedules_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError, match=r"got|at least"):
        temperature_at(*arguments)


# --------------------------------------------------------------------------------- info_nce_bound


def test_bound_is_log_k_minus_the_loss():
    assert info_nce_bound(1.0, 8) == pytest.approx(math.log(8) - 1)
    assert info_nce_bound(5.0, 8) < 0  # proves nothing, which is no error
    assert info_nce_bound(0.0, 1) == 0.0
    loss = torch.tensor(1.5, requires_grad=True)
    bound = info_nce_bound(loss, 8)
    bound.backward()
    assert bound.item() == pytest.approx(math.log(8) - 1.5) and loss.grad == -1


def test_bound_of_many_losses():
    losses = torch.tensor([0.0, 1.0, 2.0])
    torch.testing.assert_close(info_nce_bound(losses, 16), math.log(16) - losses)


def test_a_bound_above_log_k_is_refused():
    assert info_nce_bound(-1e-6, 8) == pytest.approx(math.log(8))  # rounding
    for loss in (-0.1, math.nan, torch.tensor([1.0, -0.1]), torch.tensor(math.nan)):
        with pytest.raises(ValueError, match="never below 0"):
            info_nce_bound(loss, 8)
    for candidates in (0, -3, math.nan):
        with pytest.raises(ValueError, match="candidates"):
            info_nce_bound(1.0, candidates)


@given(n=st.integers(2, 20), seed=st.integers(0, 99), temperature=st.floats(0.05, 2))
def test_nt_xent_proves_at_most_log_of_its_candidates(n, seed, temperature):
    z = embeddings(n, 6, seed=seed)
    bound = info_nce_bound(contrastive.nt_xent(z[:n], z[n:], temperature), 2 * n - 1)
    assert bound <= math.log(2 * n - 1) + 1e-12


# ---------------------------------------------------------------------------- correlated Gaussians


def test_gaussians_have_the_correlation_that_gives_the_information():
    gaussians = CorrelatedGaussians(20, 2.0)
    assert -20 / 2 * math.log(1 - gaussians.rho**2) == pytest.approx(2.0)
    generator = torch.Generator().manual_seed(0)
    x, y = gaussians.sample(20_000, generator=generator)
    covariance = np.cov(x[:, 0], y[:, 0])
    # Four standard deviations of a correlation of 20 000 pairs.
    assert np.abs(covariance - [[1, gaussians.rho], [gaussians.rho, 1]]).max() < 4 / 20_000**0.5


@pytest.mark.parametrize("information", [0.0, 0.5, 12.0])
def test_log_ratio_is_that_of_torchs_distributions(information):
    gaussians = CorrelatedGaussians(3, information)
    x, y = gaussians.sample(2, 5, generator=torch.Generator().manual_seed(1))
    ours = gaussians.log_ratio(x, y[:, :4])
    for batch in range(2):
        for i in range(5):
            for j in range(4):
                spread = math.sqrt(gaussians.unexplained)
                given_x = torch.distributions.Normal(gaussians.rho * x[batch, i], spread)
                alone = torch.distributions.Normal(0.0, 1.0)
                ratio = given_x.log_prob(y[batch, j]) - alone.log_prob(y[batch, j])
                assert ours[batch, i, j].item() == pytest.approx(ratio.sum().item(), abs=1e-8)


def test_mean_log_ratio_of_pairs_is_the_information():
    gaussians = CorrelatedGaussians(8, 3.0)
    x, y = gaussians.sample(4000, 1, generator=torch.Generator().manual_seed(2))
    ratios = gaussians.log_ratio(x, y).flatten()
    assert abs(ratios.mean() - 3.0) < 4 * ratios.std() / 4000**0.5


def test_losses_are_the_cross_entropies_of_the_diagonal():
    scores = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(3))
    expected = torch.stack([F.cross_entropy(s, torch.arange(6), reduction="none") for s in scores])
    torch.testing.assert_close(info_nce_losses(scores), expected)


def test_estimates_stay_below_both_the_information_and_log_k_and_tighten():
    generator = torch.Generator().manual_seed(4)
    sizes = (4, 16, 64, 256)
    runs = {
        information: {
            size: information_estimates(CorrelatedGaussians(20, information), size, 40, generator)
            for size in sizes
        }
        for information in (2.0, 8.0)
    }
    for information, estimates in runs.items():
        means = [estimates[size].mean().item() for size in sizes]
        errors = [estimates[size].std().item() / 40**0.5 for size in sizes]
        assert means == sorted(means)
        for size, mean, error in zip(sizes, means, errors, strict=True):
            assert mean < information + 4 * error
            assert (estimates[size] <= math.log(size) + 1e-9).all()
    assert runs[2.0][256].std() < runs[2.0][4].std() / 3
    assert runs[8.0][64].mean() > 0.9 * math.log(64)  # saturated


def test_independent_gaussians_prove_nothing():
    generator = torch.Generator().manual_seed(0)
    estimates = information_estimates(CorrelatedGaussians(5, 0.0), 32, 3, generator)
    torch.testing.assert_close(estimates, torch.zeros(3, dtype=torch.float64))


def test_estimates_do_not_depend_on_how_many_batches_are_held_at_once(monkeypatch):
    def estimates():
        generator = torch.Generator().manual_seed(5)
        return information_estimates(CorrelatedGaussians(2, 1.0), 8, 1000, generator)

    at_once = estimates()
    monkeypatch.setattr(stability, "ENTRIES_AT_ONCE", 64)
    one_by_one = estimates()
    assert one_by_one.shape == at_once.shape == (1000,)
    error = at_once.std() / 1000**0.5
    assert abs(at_once.mean() - one_by_one.mean()) < 6 * error


def test_gaussians_that_cannot_be_are_refused():
    for arguments in ((0, 1.0), (3, -0.1), (1, 11.0), (3, math.nan)):
        with pytest.raises(ValueError, match="must be"):
            CorrelatedGaussians(*arguments)
    for arguments in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            information_estimates(CorrelatedGaussians(2, 1.0), *arguments, torch.Generator())


# ------------------------------------------------------------------------------- StabilityMonitor


def test_alarm_is_a_norm_above_the_limit_in_the_first_epoch():
    monitor = StabilityMonitor(steps_per_epoch=3, limit=10.0)
    norms = [10.0, 10.5, 2.0, 50.0, 1e9]
    alarms = [monitor.update(step, norm) for step, norm in enumerate(norms)]
    assert alarms == [False, True, False, False, False]
    assert monitor.alarms == 1
    assert monitor.recent == norms


@pytest.mark.parametrize("norm", [math.nan, math.inf, -math.inf, torch.tensor(math.nan)])
@pytest.mark.parametrize("step", [0, 7])
def test_a_norm_that_is_no_number_stops_the_run_with_one_sentence(norm, step):
    monitor = StabilityMonitor(steps_per_epoch=2)
    if step:
        monitor.update(step - 1, 3.25)
    with pytest.raises(FloatingPointError, match=rf"step {step} ") as stopped:
        monitor.update(step, norm)
    text = str(stopped.value)
    assert "\n" not in text and "warmer temperature" in text
    assert ("3.25" in text) == (step > 0)
    assert stopped.value._render_traceback_() == [f"TrainingDiverged: {text}"]
    assert len(monitor.recent) == (step > 0)


def test_norms_may_be_tensors():
    monitor = StabilityMonitor(steps_per_epoch=1)
    assert monitor.update(0, torch.tensor(101.0, dtype=torch.float16)) is True
    assert monitor.update(1, torch.tensor([2.5])) is False
    parameter = torch.ones(2, requires_grad=True)
    parameter.sum().backward()
    monitor.update(2, torch.nn.utils.clip_grad_norm_([parameter], 1.0))
    assert monitor.recent == [101.0, 2.5, pytest.approx(2**0.5)]
    assert all(type(norm) is float for norm in monitor.recent)


def test_recent_is_the_last_norms_oldest_first():
    monitor = StabilityMonitor(steps_per_epoch=1, window=3)
    for step in range(5):
        monitor.update(step, float(step))
    assert monitor.recent == [2.0, 3.0, 4.0]
    monitor.recent.append(9.0)
    assert monitor.recent == [2.0, 3.0, 4.0]


def test_memory_does_not_grow_with_the_run():
    monitor = StabilityMonitor(steps_per_epoch=10)
    norms = torch.rand(100_000, generator=torch.Generator().manual_seed(0)).tolist()
    sizes = {}
    for step, norm in enumerate(norms, start=1):
        monitor.update(step, norm)
        if step % 5000 == 0:
            sizes[step] = len(pickle.dumps(monitor))
    # A picture has between 256 and 512 points, of about 60 bytes each.
    assert max(sizes.values()) < 2.2 * sizes[10_000]
    assert max(sizes.values()) < 100 * (stability.POINTS + 100)


def drawn(monitor):
    figure, alt = monitor.figure()
    [axis] = figure.axes
    norms = next(line for line in axis.lines if line.get_label() == "gradient norm")
    return axis, norms.get_xdata(), norms.get_ydata(), alt


@pytest.mark.parametrize("number", [1, 511, 512, 513, 1024, 1500, 10_000])
def test_picture_of_a_long_run_keeps_its_peaks_and_its_order(number):
    monitor = StabilityMonitor(steps_per_epoch=number)
    for step in range(number):
        monitor.update(step, 250.0 if step == number * 2 // 3 else 1.0 + step / number)
    axis, steps, norms, alt = drawn(monitor)
    assert 1 <= len(steps) <= stability.POINTS
    assert steps[0] == 0 and (np.diff(steps) > 0).all()
    assert max(norms) == 250.0
    assert number < 512 or len(steps) > stability.POINTS // 4
    assert f"{number} recorded" in alt and alt.endswith("; 1 alarm.")
    marked = next(line for line in axis.lines if line.get_label() == "alarm")
    assert len(marked.get_xdata()) == 1 and marked.get_ydata()[0] == 250.0


def test_picture_has_a_logarithmic_axis_and_the_limits():
    monitor = StabilityMonitor(steps_per_epoch=5, limit=77.0)
    for step, norm in enumerate([0.0, 0.4, 3.0]):
        monitor.update(step, norm)
    axis, _, norms, alt = drawn(monitor)
    assert axis.get_yscale() == "log" and min(norms) > 0
    assert {line.get_ydata()[0] for line in axis.lines[1:]} >= {1.0, 10.0, 77.0}
    assert "no alarm" in alt and "limit of 77" in alt


def test_picture_of_nothing_can_be_drawn():
    figure, alt = StabilityMonitor(steps_per_epoch=1).figure()
    assert "no gradient norm" in alt
    assert plots.png(figure)


@pytest.mark.parametrize("arguments", [(0,), (1, 0.0), (1, math.nan), (1, 10.0, 0)])
def test_monitors_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError, match="at least 1 and limit above 0"):
        StabilityMonitor(*arguments)


@pytest.mark.parametrize("arguments", [(-1, 1.0), (0, -1.0), (0, torch.ones(2))])
def test_updates_that_make_no_sense_are_refused(arguments):
    monitor = StabilityMonitor(steps_per_epoch=1)
    with pytest.raises(ValueError, match=r"must be"):
        monitor.update(*arguments)
    assert monitor.recent == []


# -------------------------------------------------------------------------------------------- live


class Displays:
    """Stands in for IPython's display: remembers what is on the screen."""

    def __init__(self):
        self.screen, self.updates = [], 0

    def __call__(self, content, raw, display_id=None):
        assert raw
        self.screen.append(content)
        place, displays = len(self.screen) - 1, self

        class Handle:
            def update(self, content, raw):
                displays.screen[place] = content
                displays.updates += 1

        return Handle() if display_id else None


@pytest.fixture
def notebook(monkeypatch):
    import IPython

    class Shell:
        kernel = None

    displays = Displays()
    monkeypatch.setattr(IPython, "get_ipython", Shell)
    monkeypatch.setattr("IPython.display.display", displays)
    return displays


def test_live_figure_leaves_the_last_state_alone(notebook):
    monitor = StabilityMonitor(steps_per_epoch=2)
    with monitor.live(3) as update:
        assert [update(step, 10.0 * step) for step in range(3)] == [False, False, False]
    moving, last = notebook.screen
    assert moving == {"text/html": "", "text/plain": ""}
    assert "3 recorded" in last["text/plain"] and "<img" in last["text/html"]
    assert monitor.recent == [0.0, 10.0, 20.0]


def test_live_figure_is_drawn_again_when_time_has_passed(notebook):
    states = iter(range(100))

    def draw():
        return plots.panels()[0], f"state {next(states)}"

    with plots.live(draw, seconds=0.0) as redraw:
        redraw()
        assert notebook.screen[0]["text/plain"] == "Figure: state 0"
        redraw()
        assert notebook.screen[0]["text/plain"] == "Figure: state 1"
    assert notebook.screen[1]["text/plain"] == "Figure: state 2"
    before = notebook.updates
    with plots.live(draw, seconds=1000.0) as redraw:
        for _ in range(50):
            redraw()
    assert notebook.updates == before + 1  # the moving picture was emptied, nothing else


def test_live_figure_is_left_after_a_diverged_run_too(notebook):
    monitor = StabilityMonitor(steps_per_epoch=2)
    with pytest.raises(TrainingDiverged), monitor.live(3) as update:
        update(0, 5.0)
        update(1, math.nan)
    assert "1 recorded" in notebook.screen[-1]["text/plain"]


def test_outside_a_notebook_there_is_no_figure(capsys):
    monitor = StabilityMonitor(steps_per_epoch=1)
    with monitor.live(2) as update:
        assert update(0, 1e3)
        update(1, 1.0)
    assert capsys.readouterr().out == ""
