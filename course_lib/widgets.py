"""Interactive figures of the notebooks: sliders above a picture.

A picture is an HTML widget, not an Output widget: it has an alternative text, and a notebook that
shows one gives the same outputs every time.
"""

from collections.abc import Callable, Mapping

import ipywidgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_lib import plots
from course_lib.bayes import gaussian_posterior, prior_share


def interactive_figure(
    draw: Callable[..., tuple[Figure, str]], controls: Mapping[str, ipywidgets.ValueWidget]
) -> ipywidgets.VBox:
    """Controls above the figure that `draw` makes of their values.

    draw: keyword arguments named like the controls -> the figure and its alternative text.
    """
    picture = ipywidgets.HTML()

    def redraw(_=None):
        values = {name: control.value for name, control in controls.items()}
        picture.value = plots.markup(*draw(**values))

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([*controls.values(), picture])


WEIGHTS = (1.0, 0.5)  # the true ones of the two-weight regression


def posterior_ellipses() -> ipywidgets.VBox:
    """Two regression weights: number of labels, prior variance and prior error -> 95 % ellipses."""
    wide = {"style": {"description_width": "initial"}, "layout": {"width": "30em"}}
    return interactive_figure(
        draw_posterior_ellipses,
        {
            "n": ipywidgets.IntSlider(4, 0, 60, description="labels n", **wide),
            "prior_var": ipywidgets.FloatLogSlider(
                0.1, min=-2, max=0.5, step=0.25, readout_format=".2f",
                description="prior variance", **wide,
            ),
            "prior_error": ipywidgets.FloatSlider(
                0.5, min=0, max=3, step=0.25, readout_format=".2f",
                description="prior error (distance from the truth)", **wide,
            ),
        },
    )  # fmt: skip


def draw_posterior_ellipses(n: int, prior_var: float, prior_error: float) -> tuple[Figure, str]:
    """The figure of `posterior_ellipses` and its alternative text.

    y = x'w + noise of variance 1; the two inputs are correlated, so the labels alone say little
    about one direction. The first n of always the same 60 labels are used. The prior's mean lies
    `prior_error` away from the true weights.
    """
    generator = torch.Generator().manual_seed(4)
    X = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    X = X @ torch.tensor([[1.0, 0.9], [0.0, 0.45]], dtype=torch.float64)
    truth = torch.tensor(WEIGHTS, dtype=torch.float64)
    y = X @ truth + torch.randn(60, generator=generator, dtype=torch.float64)
    prior_mean = truth + prior_error * torch.tensor([-0.8, 0.6], dtype=torch.float64)
    prior_cov = prior_var * torch.eye(2, dtype=torch.float64)
    mean, cov = gaussian_posterior(X[:n], y[:n], prior_mean, prior_cov, noise_var=1.0)

    off = (mean - truth).norm().item()
    title = f"95 % regions; posterior mean {off:.2f} from the true weights"
    figure, [axis] = plots.panels(1, [title])
    _ellipse(axis, prior_mean, prior_cov, "prior", series=1)
    if n > 2:  # with fewer labels a whole line of weights fits them all
        alone = torch.linalg.inv(X[:n].T @ X[:n])
        _ellipse(axis, alone @ X[:n].T @ y[:n], alone, "labels alone", series=2)
    outline = _ellipse(axis, mean, cov, "posterior", series=0)
    axis.fill(*outline, color="#000000", alpha=0.1, linewidth=0)
    axis.plot(*WEIGHTS, "*", color="#000000", markersize=11, label="true weights")
    axis.set(xlabel="first weight", ylabel="second weight", xlim=(-3.5, 4), ylim=(-2.5, 3.5))
    axis.set_aspect("equal")
    axis.legend(fontsize=8, loc="lower left")

    share = prior_share(n, prior_var, noise_var=1.0)
    return figure, (
        f"Ellipses of prior, labels alone and posterior for {n} labels, prior variance "
        f"{prior_var:.2g} and prior error {prior_error:.2g}. The posterior's mean is {off:.2f} "
        f"from the true weights; for one weight the prior's share would be {share:.2f}."
    )


def _ellipse(
    axis: Axes, mean: torch.Tensor, cov: torch.Tensor, label: str, series: int
) -> np.ndarray:  # (2, T)
    """Draw the smallest region that holds 95 % of a Gaussian of two variables, and its mean."""
    angle = np.linspace(0, 2 * np.pi, 100)
    circle = 5.991**0.5 * np.stack([np.cos(angle), np.sin(angle)])  # chi-squared, 2 degrees
    outline = mean.numpy()[:, None] + torch.linalg.cholesky(cov).numpy() @ circle
    style = plots.SERIES[series]
    axis.plot(*outline, color=style["color"], linestyle=style["linestyle"], label=label)
    axis.plot(*mean.numpy(), style["marker"], color=style["color"], markersize=4)
    return outline
