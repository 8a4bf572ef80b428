"""Interactive figures of the notebooks: controls above a picture or a table.

It is an HTML widget, not an Output widget: it has an alternative text, and a notebook that
shows one gives the same outputs every time.
"""

import html
from collections.abc import Callable, Mapping

import ipywidgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.nn import functional as F

from course_lib import images, plots
from course_lib.augmentations import two_views
from course_lib.bayes import gaussian_posterior, prior_share
from course_lib.freezing import layers_to_train
from course_lib.language import masked_log_probs, sample_documents, vocabulary
from course_lib.mlm import IGNORED, mask_tokens


def interactive_figure(
    draw: Callable[..., tuple[Figure, str]], controls: Mapping[str, ipywidgets.ValueWidget]
) -> ipywidgets.VBox:
    """Controls above the figure that `draw` makes of their values.

    draw: keyword arguments named like the controls -> the figure and its alternative text.
    """
    return interactive_html(lambda **values: plots.markup(*draw(**values)), controls)


def interactive_html(
    write: Callable[..., str], controls: Mapping[str, ipywidgets.ValueWidget]
) -> ipywidgets.VBox:
    """Controls above the HTML that `write` makes of their values.

    write: keyword arguments named like the controls -> HTML, with all text escaped.
    """
    picture = ipywidgets.HTML()

    def redraw(_=None):
        values = {name: control.value for name, control in controls.items()}
        picture.value = write(**values)

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
                description="prior error", **wide,
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


GUESSES = 3  # per masked position
SMALLEST_SHOWN = 0.005  # what would be printed as 0.00 is left out


def masked_guesses(model, tokenizer) -> ipywidgets.VBox:
    """A text, a mask rate and a draw -> what a masked-LM model and the ideal reader guess.

    model, tokenizer: as `bert.load()` returns them.
    """
    wide = {"style": {"description_width": "initial"}}
    return interactive_html(
        lambda **values: write_masked_guesses(model, tokenizer, **values),
        {
            "text": ipywidgets.Text(
                sample_documents(1, seed=14, domain="reviews")[0].text,
                description="text (Enter to read it)", continuous_update=False,
                layout={"width": "55em"}, **wide,
            ),
            "mask_rate": ipywidgets.FloatSlider(
                0.2, min=0, max=0.9, step=0.05, description="mask rate p", readout_format=".2f",
                layout={"width": "30em"}, **wide,
            ),
            "draw": ipywidgets.IntSlider(
                0, 0, 50, description="draw (other words are masked)",
                layout={"width": "30em"}, **wide,
            ),
        },
    )  # fmt: skip


def write_masked_guesses(model, tokenizer, text: str, mask_rate: float, draw: int) -> str:
    """The HTML of `masked_guesses`: the masked text above a table, a row for each [MASK].

    Each chosen word becomes [MASK], so that model and ideal reader see the same; a [MASK] that
    the text has already is asked about too. draw: seed of the choice.
    """
    longest = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    ids = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")["input_ids"]
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))  # (1, T)
    generator = torch.Generator().manual_seed(draw)
    options = (tokenizer.mask_token_id, len(tokenizer), mask_rate, generator)
    chosen = mask_tokens(ids, special, *options)[1] != IGNORED
    masked = chosen | (ids == tokenizer.mask_token_id)
    if not masked.any():
        return "<p>No word is masked. Raise the mask rate, move the draw, or type other words.</p>"
    with torch.no_grad():
        logits = model(ids.masked_fill(masked, tokenizer.mask_token_id)).logits[masked]  # (M, V)
    readers = {"the model guesses": logits.softmax(dim=-1)}
    note = ""
    try:
        readers["the ideal reader guesses"] = _ideal_reader(tokenizer, ids, masked)
    except ValueError:
        note = "<p>This is no text of the generated language, so it has no ideal reader.</p>"
    return (
        _masked_text(tokenizer, ids, masked) + _guess_table(tokenizer, ids[masked], readers) + note
    )


def _ideal_reader(tokenizer, ids: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:  # (M, V)
    """Raises ValueError for a text, or the token ids of a tokenizer, of another language."""
    if tokenizer.convert_ids_to_tokens(range(len(tokenizer))) != vocabulary():
        raise ValueError("the tokenizer has another vocabulary than the generated language.")
    return torch.from_numpy(np.exp(masked_log_probs(ids.numpy(), masked.numpy())))


def _masked_text(tokenizer, ids: torch.Tensor, masked: torch.Tensor) -> str:
    """The text as the model reads it, with its [MASK]s numbered."""
    words = [html.escape(word) for word in tokenizer.convert_ids_to_tokens(ids[0].tolist())]
    places = masked[0].nonzero().flatten().tolist()
    for number, place in enumerate(places, start=1):
        words[place] = f"<strong>[MASK {number}]</strong>"
    return f"<p>{' '.join(words)}</p>"


def _guess_table(tokenizer, hidden: torch.Tensor, readers: Mapping[str, torch.Tensor]) -> str:
    """hidden: (M,) the masked words.  readers: name -> (M, V) probabilities."""
    cell = 'style="text-align: left; padding: 1px 16px 1px 0"'
    head = "".join(f'<th scope="col" {cell}>{name}</th>' for name in ("[MASK]", "was", *readers))
    rows = []
    for number, word in enumerate(hidden.tolist(), start=1):
        own = "?" if word == tokenizer.mask_token_id else tokenizer.convert_ids_to_tokens(word)
        cells = [f'<th scope="row" {cell}>{number}</th><td {cell}>{html.escape(own)}</td>']
        for probability in readers.values():
            best = probability[number - 1].topk(GUESSES)
            pieces = tokenizer.convert_ids_to_tokens(best.indices.tolist())
            guesses = [
                f"<strong>{html.escape(piece)} {value:.2f} ✓</strong>"
                if piece == own
                else f"{html.escape(piece)} {value:.2f}"
                for piece, value in zip(pieces, best.values.tolist(), strict=True)
                if value >= SMALLEST_SHOWN
            ]
            cells.append(f"<td {cell}>{' &nbsp; '.join(guesses) or 'no word in particular'}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    caption = f"The {GUESSES} likeliest words for each [MASK], with their probability; ✓: it was so"
    return (
        f'<table style="border-collapse: collapse"><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


VIEWED = 7  # pictures above their views


def augmented_views() -> ipywidgets.VBox:
    """Augmentation strength and a draw -> pictures of `images.shapes`, each above two views."""
    wide = {"style": {"description_width": "initial"}, "layout": {"width": "32em"}}
    return interactive_figure(
        draw_augmented_views,
        {
            "strength": ipywidgets.FloatSlider(
                0.6, min=0, max=1, step=0.1, readout_format=".1f",
                description="augmentation strength", **wide,
            ),
            "draw": ipywidgets.IntSlider(
                0, 0, 50, description="draw (other views)", **wide
            ),
        },
    )  # fmt: skip


def draw_augmented_views(strength: float, draw: int) -> tuple[Figure, str]:
    """The figure of `augmented_views` and its alternative text.

    The distances are means of the absolute difference per pixel, over these pictures.
    """
    pictures, labels = images.shapes(VIEWED, seed=3)
    first, second = two_views(pictures, torch.Generator().manual_seed(draw), strength)
    apart = (first[:, None] - second[None]).abs().mean(dim=(2, 3, 4))  # (VIEWED, VIEWED)
    pair = apart.diagonal().mean().item()
    others = (apart.sum() - apart.trace()).item() / (VIEWED * (VIEWED - 1))
    names = [images.SHAPES[label] for label in labels.tolist()]
    figure = plots.pictures(
        torch.stack([pictures, first, second]).numpy(), ["picture", "view 1", "view 2"], names
    )
    figure.suptitle(
        f"pixels differ by {pair:.2f} in a pair, by {others:.2f} between pictures", fontsize=10
    )
    return figure, (
        f"{VIEWED} small pictures, {', '.join(names)}, each above two views of it with "
        f"augmentation strength {strength:.1f}. The two views of a picture differ by {pair:.2f} "
        f"per pixel on average, views of two different pictures by {others:.2f}."
    )


DIRECTIONS = 32  # dimensions of the random embeddings


def negative_weights() -> ipywidgets.VBox:
    """Temperature and number of negatives -> how much each of them weighs in NT-Xent."""
    wide = {"style": {"description_width": "initial"}, "layout": {"width": "30em"}}
    return interactive_figure(
        draw_negative_weights,
        {
            "temperature": ipywidgets.FloatLogSlider(
                0.5, min=-2, max=1, step=0.05, readout_format=".2f",
                description="temperature tau", **wide,
            ),
            "negatives": ipywidgets.SelectionSlider(
                options=[2**power - 2 for power in range(4, 14)], value=254,
                description="negatives (2N - 2)", **wide,
            ),
        },
    )  # fmt: skip


def draw_negative_weights(temperature: float, negatives: int) -> tuple[Figure, str]:
    """The figure of `negative_weights` and its alternative text.

    One embedding among `negatives` others, the first of always the same random directions: their
    softmax weights, apart from the positive's.
    """
    generator = torch.Generator().manual_seed(8)
    cosines = F.normalize(torch.randn(2**13, DIRECTIONS, generator=generator), dim=1)[:negatives, 0]
    weights = (cosines.double() / temperature).softmax(dim=0).sort(descending=True).values
    counting = torch.special.entr(weights).sum().exp().item()
    tenth = weights[: round(negatives / 10)].sum().item()

    title = f"effective number: {counting:.0f} of {negatives}"
    figure, [one_by_one, added] = plots.panels(2, [title, "added up"])
    plots.line(one_by_one, range(1, negatives + 1), weights, "weight")
    plots.limit(one_by_one, 1 / negatives, "all alike")
    one_by_one.set(
        xscale="log", yscale="log", ylim=(1e-6, 2), xlim=(0.9, 2**13),
        xlabel="negative, the hardest first", ylabel="share of the weight",
    )  # fmt: skip
    share = torch.arange(1, negatives + 1) / negatives
    plots.line(added, share, weights.cumsum(dim=0), f"temperature {temperature:.2g}")
    added.plot([0, 1], [0, 1], label="all alike", **plots.LIMIT)
    added.set(
        xlabel="share of the negatives, the hardest first", ylabel="share of the weight",
        xlim=(-0.02, 1.02), ylim=(-0.02, 1.02),
    )  # fmt: skip
    added.legend(fontsize=8, loc="lower right")
    return figure, (
        f"Softmax weights of {negatives} negatives at temperature {temperature:.2g}, the hardest "
        f"first, one by one and added up. The hardest tenth has {100 * tenth:.0f} % of the weight; "
        f"the effective number of negatives is {counting:.0f}."
    )


SMALLEST_RATE = 1e-11  # the axis of `layer_rates` goes down to here, or further if it has to


def layer_rates() -> ipywidgets.VBox:
    """Decay, number of blocks and base rate -> a bar for the learning rate of every layer."""
    wide = {"style": {"description_width": "initial"}, "layout": {"width": "30em"}}
    return interactive_figure(
        draw_layer_rates,
        {
            "decay": ipywidgets.FloatSlider(
                2.6, min=1, max=4, step=0.1, readout_format=".1f", description="decay xi", **wide
            ),
            "num_layers": ipywidgets.IntSlider(12, 1, 24, description="blocks L", **wide),
            "base_lr": ipywidgets.FloatLogSlider(
                2e-5, min=-6, max=-2, step=0.1, readout_format=".1e",
                description="base learning rate", **wide,
            ),
        },
    )  # fmt: skip


def draw_layer_rates(decay: float, num_layers: int, base_lr: float) -> tuple[Figure, str]:
    """The figure of `layer_rates` and its alternative text; rates on a logarithmic axis."""
    # Imported here because it takes transformers along, which notebooks 01 and 03 do without.
    from course_lib.layerwise import layerwise_lrs

    rates = layerwise_lrs(base_lr, num_layers, decay)
    slow = sum(rate < base_lr / 100 for rate in rates)
    title = f"embeddings at {rates[0]:.1e}; {slow} of {len(rates)} layers below base / 100"
    figure, [axis] = plots.panels(1, [title])
    places = range(len(rates))
    axis.set_yscale("log")  # before the bars: their limits are of no use on a linear axis
    axis.bar(places, rates, color=plots.SERIES[1]["color"], edgecolor="#000000", linewidth=0.5)
    plots.limit(axis, base_lr, "base learning rate")
    every = -(-num_layers // 8)
    # Next to "head" there is room for a number only if there are few.
    last = num_layers if every == 1 else num_layers - 1
    numbered = [layer for layer in range(1, last + 1) if layer % every == 0]
    names = ["emb.", *map(str, numbered), "head"]
    axis.set_xticks([0, *numbered, num_layers + 1], names, fontsize=8)
    lowest = min(SMALLEST_RATE, rates[0] / 3)
    axis.set(ylim=(lowest, 0.1), ylabel="learning rate")
    axis.set_xlabel("layer, from the input to the head")
    blocks = f"{num_layers} block{'' if num_layers == 1 else 's'}"
    return figure, (
        f"Learning rates of the embeddings, {blocks} and the head as bars on a "
        f"logarithmic axis, with decay {decay:.1f} and base rate {base_lr:.1e}. The head and the "
        f"top block have the base rate, the embeddings have {rates[0]:.1e}. {slow} of the "
        f"{len(rates)} layers {'has' if slow == 1 else 'have'} less than a hundredth of the base "
        "rate."
    )


WIDTH = 768  # of BERT-base and of the layers below
EMBEDDING_SIZE = (30_522 + 512 + 2) * WIDTH + 2 * WIDTH  # words, positions, segments; the norm
BLOCK_SIZE = 12 * WIDTH**2 + 13 * WIDTH  # attention, feed-forward, two norms
HEAD_SIZE = (WIDTH + 1) * WIDTH + 2 * (WIDTH + 1)  # pooler, and a classifier of two classes
PATTERNS = {  # (epoch, number of blocks L) -> layers that train; 0 embeddings, L + 1 head
    "linear probe": lambda epoch, depth: [depth + 1],
    "freeze the bottom half": lambda epoch, depth: list(range(depth // 2 + 1, depth + 2)),
    "gradual unfreezing": layers_to_train,
    "full fine-tuning": lambda epoch, depth: list(range(depth + 2)),
}


def trained_layers() -> ipywidgets.VBox:
    """What to train and number of blocks -> which layers train in which epoch, and how much."""
    wide = {"style": {"description_width": "initial"}, "layout": {"width": "30em"}}
    return interactive_figure(
        draw_trained_layers,
        {
            "pattern": ipywidgets.Dropdown(
                options=list(PATTERNS), value="gradual unfreezing",
                description="what trains", **wide,
            ),
            "num_layers": ipywidgets.IntSlider(12, 1, 24, description="blocks L", **wide),
        },
    )  # fmt: skip


def draw_trained_layers(pattern: str, num_layers: int) -> tuple[Figure, str]:
    """The figure of `trained_layers` and its alternative text.

    A BERT of width 768 with two classes; 12 blocks make BERT-base. Epochs 0 to L + 2.
    """
    epochs = range(num_layers + 3)
    sizes = np.array([EMBEDDING_SIZE, *[BLOCK_SIZE] * num_layers, HEAD_SIZE]) / 1e6
    trains = np.zeros((num_layers + 2, len(epochs)))
    for epoch in epochs:
        trains[PATTERNS[pattern](epoch, num_layers), epoch] = 1
    millions = sizes @ trains  # (epochs,)

    figure, [which, many] = plots.panels(2, ["dark: the layer trains", "trainable parameters"])
    which.pcolormesh(
        np.arange(len(epochs) + 1) - 0.5, np.arange(num_layers + 3) - 0.5, trains,
        cmap="Greys", vmin=0, vmax=1.4, edgecolors="#999999", linewidth=0.4,
    )  # fmt: skip
    every = -(-num_layers // 8)
    last = num_layers if every == 1 else num_layers - 1
    numbered = [layer for layer in range(1, last + 1) if layer % every == 0]
    names = ["embeddings", *(f"block {layer}" for layer in numbered), "head"]
    which.set_yticks([0, *numbered, num_layers + 1], names, fontsize=8)
    plots.line(many, epochs, millions, pattern)
    plots.limit(many, sizes.sum(), "all")
    many.set(ylabel="millions", ylim=(0, 1.15 * sizes.sum()))
    for axis in (which, many):
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    which.grid(False)
    first, final = (f"{count:.1f}" for count in (millions[0], millions[-1]))
    return figure, (
        f"Left: a grid of layers, embeddings to head with {num_layers} blocks, against epochs; for "
        f"the pattern {pattern}, {trains[:, 0].sum():.0f} of {num_layers + 2} layers train in "
        f"epoch 0 and {trains[:, -1].sum():.0f} in epoch {epochs[-1]}. Right: the trainable "
        f"parameters, {first} million in epoch 0 and {final} million at the end, of "
        f"{sizes.sum():.1f} million."
    )


SHARPNESS = 2.5  # the logits of the model below are so many times too large
PREDICTIONS, CLASSES = 1000, 3


def reliability_diagram() -> ipywidgets.VBox:
    """Temperature and number of bins -> confidence beside accuracy of an over-confident model."""
    wide = {"style": {"description_width": "initial"}, "layout": {"width": "30em"}}
    return interactive_figure(
        draw_reliability_diagram,
        {
            "temperature": ipywidgets.FloatSlider(
                1.0, min=0.5, max=5, step=0.1, readout_format=".1f",
                description="temperature T", **wide,
            ),
            "bins": ipywidgets.IntSlider(10, 1, 50, description="bins", **wide),
        },
    )  # fmt: skip


def draw_reliability_diagram(temperature: float, bins: int) -> tuple[Figure, str]:
    """The figure of `reliability_diagram` and its alternative text.

    Always the same 1 000 predictions of three classes: labels are drawn from a softmax, and the
    model's logits are 2.5 times those of that softmax.
    """
    # Imported here like `layerwise` above.
    from course_lib.diagnostics import expected_calibration_error, reliability

    generator = torch.Generator().manual_seed(12)
    true = 1.5 * torch.randn(PREDICTIONS, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(true.softmax(dim=1), 1, generator=generator)[:, 0]
    probabilities = (SHARPNESS * true / temperature).softmax(dim=1)
    found = reliability(probabilities, labels, bins)
    share, confidence, height = (each.numpy() for each in found)
    error = expected_calibration_error(probabilities, labels, bins)
    loss = F.nll_loss(probabilities.log(), labels).item()
    accuracy = (probabilities.argmax(dim=1) == labels).double().mean().item()

    titles = [f"calibration error {error:.3f}, loss {loss:.4f} nats", f"accuracy {accuracy:.2f}"]
    figure, [right, many] = plots.panels(2, titles)
    left = np.arange(bins) / bins
    bars = {"width": 1 / bins, "align": "edge", "edgecolor": "#000000", "linewidth": 0.5}
    right.bar(left, height, color=plots.SERIES[1]["color"], label="accuracy", **bars)
    filled = share > 0
    right.plot(
        confidence[filled], height[filled], "o", color="#000000", markersize=4,
        label="mean confidence of a bin",
    )  # fmt: skip
    right.plot([0, 1], [0, 1], label="as sure as right", **plots.LIMIT)
    right.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    # Below the panel: with many bins there are bars everywhere in it.
    right.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
    many.bar(left, share, color=plots.SERIES[2]["color"], **bars)
    many.set(xlabel="confidence", ylabel="share of the predictions", xlim=(0, 1), ylim=(0, None))
    sure = (share * confidence).sum()
    return figure, (
        f"Reliability diagram with {bins} bins at temperature {temperature:.1f}, and the share of "
        f"the predictions in each bin. Mean confidence {sure:.2f}, accuracy {accuracy:.2f}, "
        f"calibration error {error:.3f}, loss {loss:.4f} nats."
    )
