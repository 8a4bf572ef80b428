"""Figures of the notebooks: one style, seeds as bands, limits as lines, alt text always.

Nothing here touches pyplot or its global state: a figure is made, drawn, shown and forgotten.
"""

import base64
import html
import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours of Okabe & Ito 2008 from dark to light, so that they differ in greyscale too, and each
# with a line style and a marker of its own.
SERIES = (
    {"color": "#000000", "linestyle": "-", "marker": "o"},
    {"color": "#0072b2", "linestyle": "--", "marker": "s"},
    {"color": "#d55e00", "linestyle": "-.", "marker": "^"},
    {"color": "#009e73", "linestyle": ":", "marker": "D"},
    {"color": "#cc79a7", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#e69f00", "linestyle": (0, (1, 1)), "marker": "P"},
)
LIMIT = {"color": "#555555", "linestyle": (0, (6, 3)), "linewidth": 1.2, "zorder": 1}
WIDTH, HEIGHT, DPI = 4.6, 3.4, 110  # of one panel, in inches, and dots per inch


def panels(number: int = 1, titles: Sequence[str] = (), **share) -> tuple[Figure, list[Axes]]:
    """A row of `number` panels with a light grid; `share` as for `Figure.subplots`."""
    figure = Figure(figsize=(WIDTH * number + 0.4, HEIGHT), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, number, squeeze=False, **share)[0].tolist()
    for axis in axes:
        axis.grid(alpha=0.3, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(title, fontsize=10)
    return figure, axes


def pictures(images, row_names: Sequence[str], column_names: Sequence[str] = ()) -> Figure:
    """A grid of pictures, (rows, columns, 3, H, W) in [0, 1], with names at its left and top."""
    images = np.moveaxis(np.asarray(images, dtype=float), 2, -1)
    rows, columns = images.shape[:2]
    figure = Figure(
        figsize=(columns * 1.05 + 1.0, rows * 1.05 + 0.4), dpi=DPI, layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, image in zip(axes.flat, images.reshape(-1, *images.shape[2:]), strict=True):
        axis.imshow(image, vmin=0, vmax=1, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
    for axis, name in zip(axes[:, 0], row_names, strict=True):
        axis.set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
    for axis, name in zip(axes[0], column_names, strict=False):
        axis.set_title(name, fontsize=9)
    return figure


def line(axis: Axes, x, y, label: str, series: int = 0) -> None:
    """One curve: x and y of length T, in the style of `SERIES[series]`."""
    markers = max(1, len(np.asarray(x)) // 12)  # not one on every point of a long curve
    axis.plot(x, y, label=label, markersize=4, markevery=markers, **SERIES[series])


def band(axis: Axes, x, runs, label: str, series: int = 0) -> None:
    """Mean over seeds with a band of one standard deviation.

    x: (T,).  runs: (S, T), one row a seed.
    """
    runs = np.asarray(runs, dtype=float)
    mean, deviation = runs.mean(axis=0), runs.std(axis=0)
    line(axis, x, mean, label, series)
    colour = SERIES[series]["color"]
    axis.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)


def limit(axis: Axes, y: float, text: str) -> None:
    """A dashed horizontal line at what theory allows, with its name on it at the left."""
    axis.axhline(y, **LIMIT)
    axis.annotate(
        text, (0.01, y), xycoords=("axes fraction", "data"), xytext=(0, 3),
        textcoords="offset points", fontsize=8, color=LIMIT["color"],
    )  # fmt: skip


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def markup(figure: Figure, alt: str) -> str:
    """The figure as an HTML image with a text for those who cannot see it.

    Raises ValueError for an empty text.
    """
    if not alt.strip():
        raise ValueError("alt must say what the figure shows, got an empty text.")
    picture = base64.b64encode(png(figure)).decode()
    image = f'<img src="data:image/png;base64,{picture}" alt="{html.escape(alt)}"'
    return f'{image} style="max-width: 100%; height: auto">'


def show(figure: Figure, alt: str) -> None:
    """Display a figure with its alternative text.

    It goes out as HTML, because Jupyter front ends give an image/png no alternative text.
    """
    from IPython.display import display

    display(_content(figure, alt), raw=True)


@contextmanager
def live(
    draw: Callable[[], tuple[Figure, str]], seconds: float = 2.0
) -> Iterator[Callable[[], None]]:
    """A figure that is drawn again while something runs.

    draw: gives the figure as it is now, and its alternative text.
    `with live(draw) as redraw:` gives a `redraw()` to be called as often as one likes: it draws
    at most every `seconds`. At the end, and after an error too, the last state is shown, as
    `show` does. Outside a notebook nothing is drawn.
    """
    from IPython import get_ipython
    from IPython.display import display

    if not hasattr(get_ipython(), "kernel"):
        yield lambda: None
        return
    # The moving picture is gone in the end and the last state is an output of its own, because
    # updates of an output are not compared by nbval, nor kept by every front end.
    nothing = {"text/html": "", "text/plain": ""}
    picture = display(nothing, raw=True, display_id=True)
    drawn = time.monotonic()

    def redraw() -> None:
        nonlocal drawn
        if time.monotonic() - drawn >= seconds:
            picture.update(_content(*draw()), raw=True)
            drawn = time.monotonic()

    try:
        yield redraw
    finally:
        picture.update(nothing, raw=True)
        show(*draw())


def _content(figure: Figure, alt: str) -> dict[str, str]:
    return {"text/html": markup(figure, alt), "text/plain": f"Figure: {alt}"}
