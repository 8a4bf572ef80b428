"""The interactive figures, moved without a browser."""

import re

import ipywidgets
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from course_lib import bert, widgets
from course_lib.language import encode, masked_log_probs, sample_documents, vocabulary


def alternative_text(box: ipywidgets.VBox) -> str:
    return re.search(r'alt="([^"]*)"', picture(box).value)[1]


def picture(box: ipywidgets.VBox) -> ipywidgets.HTML:
    return box.children[-1]


def controls(box: ipywidgets.VBox) -> dict[str, ipywidgets.ValueWidget]:
    return {control.description: control for control in box.children[:-1]}


def test_figure_is_drawn_from_the_controls_and_again_when_one_moves():
    drawn = []

    def draw(height):
        drawn.append(height)
        return Figure(), f"height {height}"

    box = widgets.interactive_figure(draw, {"height": ipywidgets.IntSlider(3, 0, 9)})
    assert drawn == [3] and alternative_text(box) == "height 3"
    box.children[0].value = 7
    assert drawn == [3, 7] and alternative_text(box) == "height 7"


@pytest.mark.parametrize("name", ["labels n", "prior variance", "prior error"])
def test_posterior_ellipses_change_with_each_control(name):
    box = widgets.posterior_ellipses()
    before = picture(box).value, alternative_text(box)
    control = next(c for label, c in controls(box).items() if label.startswith(name))
    control.value = control.max if name != "prior variance" else 10**control.max
    assert picture(box).value != before[0]
    assert alternative_text(box) != before[1]


def test_posterior_ellipses_have_labelled_sliders():
    sliders = (ipywidgets.IntSlider, ipywidgets.FloatSlider, ipywidgets.FloatLogSlider)
    for label, control in controls(widgets.posterior_ellipses()).items():
        assert isinstance(control, sliders)  # the browser's arrow keys move these
        assert label and control.style.description_width == "initial"  # not cut off


@pytest.mark.parametrize("n", [0, 1, 2, 3, 60])
@pytest.mark.parametrize("prior_var", [0.01, 10**0.5])
@pytest.mark.parametrize("prior_error", [0.0, 3.0])
def test_posterior_ellipses_can_be_drawn_everywhere(n, prior_var, prior_error):
    figure, alt = widgets.draw_posterior_ellipses(n, prior_var, prior_error)
    assert f"for {n} labels" in alt and "nan" not in alt
    [axis] = figure.axes
    names = [text.get_text() for text in axis.get_legend().get_texts()]
    # One or two labels leave a whole line of weights (or an infinitely long ellipse) open.
    alone = ["labels alone"] if n > 2 else []
    assert names == ["prior", *alone, "posterior", "true weights"]


def distance(n, prior_var, prior_error) -> float:
    alt = widgets.draw_posterior_ellipses(n, prior_var, prior_error)[1]
    return float(re.search(r"mean is (\d+\.\d+) from", alt)[1])


def test_posterior_ellipses_tell_the_notebooks_story():
    assert distance(0, 0.1, 0.5) == 0.5  # nothing but the prior
    assert distance(4, 0.01, 0.0) < distance(4, 10**0.5, 0.0)  # a right prior, sure or vague
    assert distance(8, 0.01, 3.0) > distance(8, 10**0.5, 3.0)  # a wrong prior, sure or vague
    assert distance(60, 0.1, 3.0) < distance(6, 0.1, 3.0)  # labels wash it out


DOCUMENT = sample_documents(1, seed=3, domain="reviews")[0]
REVIEW = DOCUMENT.text


@pytest.fixture(scope="module")
def reader():
    return bert.random_weights(0), bert.build_tokenizer()


def table(page: str) -> list[list[str]]:
    """Rows of cells as text, the header first."""
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    return [[re.sub(r"<[^>]*>", "", c) for c in re.findall(r"<t[hd].*?</t[hd]>", r)] for r in rows]


@pytest.mark.parametrize(
    ("name", "value"), [("text", REVIEW), ("mask rate", 0.6), ("draw", 3), ("text", "zebra")]
)
def test_masked_guesses_change_with_each_control(reader, name, value):
    box = widgets.masked_guesses(*reader)
    before = picture(box).value
    control = next(c for label, c in controls(box).items() if label.startswith(name))
    control.value = value
    assert table(picture(box).value) != table(before)
    assert control.style.description_width == "initial"


def test_masked_guesses_start_with_a_text_that_the_ideal_reader_knows(reader):
    head, *rows = table(picture(widgets.masked_guesses(*reader)).value)
    assert head == ["[MASK]", "was", "the model guesses", "the ideal reader guesses"]
    assert len(rows) >= 3 and all(row[3] for row in rows)


def test_masked_guesses_are_those_of_the_model_and_of_the_ideal_reader(reader):
    model, tokenizer = reader
    hidden = REVIEW.rstrip(".").split()[-1]
    text = REVIEW.replace(hidden, "[MASK]")
    _, [number, was, guessed, ideal] = table(widgets.write_masked_guesses(*reader, text, 0.0, 0))
    assert (number, was) == ("1", "?")
    ids = torch.from_numpy(encode([REVIEW]))
    masked = ids == vocabulary().index(hidden)
    with torch.no_grad():
        logits = model(ids.masked_fill(masked, tokenizer.mask_token_id)).logits[masked][0]
    best = logits.softmax(dim=0).topk(widgets.GUESSES)
    for index, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True):
        assert f"{vocabulary()[index]} {probability:.2f}" in guessed
    p = np.exp(masked_log_probs(ids.numpy(), masked.numpy())[0])
    for index in np.argsort(p)[::-1][: widgets.GUESSES]:
        assert f"{vocabulary()[index]} {p[index]:.2f}" in ideal


def test_the_guess_that_is_right_is_marked_without_colour(reader):
    rows = table(widgets.write_masked_guesses(*reader, REVIEW, 0.6, 0))[1:]
    assert any(f"{row[1]} " in row[3] and "✓" in row[3] for row in rows)


def test_sentences_in_an_order_that_cannot_be_have_no_ideal_reader(reader):
    swapped = f"{DOCUMENT.second} {DOCUMENT.first[:-1]} [MASK]"
    assert "no ideal reader" in widgets.write_masked_guesses(*reader, swapped, 0.0, 0)
    in_order = f"{DOCUMENT.first} {DOCUMENT.second[:-1]} [MASK]"
    assert "no ideal reader" not in widgets.write_masked_guesses(*reader, in_order, 0.0, 0)


@pytest.mark.parametrize(
    "text",
    ["zebra 😀 crossing", "<b>&", "[MASK] [PAD] [SEP] film", "film " * 300, "[MASK]"],
)
def test_any_text_gets_a_table_and_none_gets_into_the_page(reader, text):
    page = widgets.write_masked_guesses(*reader, text, 0.9, 1)
    assert len(table(page)) > 1
    assert "no ideal reader" in page and len(table(page)[0]) == 3
    assert "<b>" not in page


@pytest.mark.parametrize(
    ("text", "mask_rate"), [("", 0.9), ("   ", 0.9), (REVIEW, 0.0), ("Привет 😀", 0.9)]
)
def test_with_nothing_masked_it_says_what_to_do(reader, text, mask_rate):
    assert "Raise the mask rate" in widgets.write_masked_guesses(*reader, text, mask_rate, 0)


def test_another_vocabulary_has_no_ideal_reader(reader, tmp_path):
    words = [*vocabulary()[:5], *reversed(vocabulary()[5:])]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    other = type(reader[1]).from_pretrained(tmp_path, model_max_length=64)
    page = widgets.write_masked_guesses(reader[0], other, REVIEW, 0.5, 0)
    assert "no ideal reader" in page


@pytest.mark.parametrize(("name", "value"), [("augmentation strength", 1.0), ("draw", 3)])
def test_augmented_views_change_with_each_control(name, value):
    box = widgets.augmented_views()
    before = picture(box).value, alternative_text(box)
    control = next(c for label, c in controls(box).items() if label.startswith(name))
    control.value = value
    assert picture(box).value != before[0]
    assert alternative_text(box) != before[1]
    assert control.style.description_width == "initial"


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0])
def test_augmented_views_show_pictures_above_two_views_of_them(strength):
    figure, alt = widgets.draw_augmented_views(strength, 0)
    assert [axis.get_ylabel() for axis in figure.axes[:: widgets.VIEWED]] == [
        "picture", "view 1", "view 2",
    ]  # fmt: skip
    assert f"strength {strength:.1f}" in alt and figure.axes[0].get_title() in alt
    shown = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
    assert all(image.shape == (16, 16, 3) for image in shown)


def view_distances(strength) -> list[float]:
    alt = widgets.draw_augmented_views(strength, 0)[1]
    return [float(found) for found in re.findall(r"by (\d\.\d+)", alt)]


def test_augmented_views_of_a_picture_part_with_strength_and_stay_nearer_than_others():
    (gentle, apart), (strong, apart_too) = view_distances(0.1), view_distances(1.0)
    assert gentle < strong < min(apart, apart_too)


@pytest.mark.parametrize(("name", "value"), [("temperature", 0.05), ("negatives", 1022)])
def test_negative_weights_change_with_each_control(name, value):
    box = widgets.negative_weights()
    before = picture(box).value, alternative_text(box)
    control = next(c for label, c in controls(box).items() if label.startswith(name))
    control.value = value
    assert picture(box).value != before[0] and alternative_text(box) != before[1]
    assert control.style.description_width == "initial"


@pytest.mark.parametrize("temperature", [0.01, 10.0])
@pytest.mark.parametrize("negatives", [14, 2**13 - 2])
def test_negative_weights_can_be_drawn_everywhere(temperature, negatives):
    figure, alt = widgets.draw_negative_weights(temperature, negatives)
    assert f"of {negatives} negatives" in alt and "nan" not in alt
    assert len(figure.axes) == 2


def counting(temperature, negatives) -> int:
    """The effective number of negatives at these settings, as the text says it."""
    alt = widgets.draw_negative_weights(temperature, negatives)[1]
    return int(re.search(r"number of negatives is (\d+)", alt)[1])


def test_negative_weights_tell_the_notebooks_story():
    assert counting(0.01, 254) <= 3  # cold: a handful, whatever the batch
    assert counting(0.01, 2**13 - 2) <= 20
    assert counting(10.0, 254) == 254  # hot: all alike
    course = [counting(temperature, 254) for temperature in (0.02, 0.05, 0.1, 0.2, 0.5, 2.0)]
    assert course == sorted(course)


@pytest.mark.parametrize(
    ("name", "value"), [("decay", 1.5), ("blocks", 3), ("base learning rate", 1e-3)]
)
def test_layer_rates_change_with_each_control(name, value):
    box = widgets.layer_rates()
    before = picture(box).value, alternative_text(box)
    control = next(c for label, c in controls(box).items() if label.startswith(name))
    control.value = value
    assert picture(box).value != before[0] and alternative_text(box) != before[1]
    assert control.style.description_width == "initial"


@pytest.mark.parametrize("decay", [1.0, 4.0])
@pytest.mark.parametrize("num_layers", [1, 24])
def test_layer_rates_have_a_bar_for_every_layer(decay, num_layers):
    figure, alt = widgets.draw_layer_rates(decay, num_layers, 1e-4)
    [axis] = figure.axes
    heights = [bar.get_height() for bar in axis.patches]
    assert len(heights) == num_layers + 2
    assert heights[-1] == heights[-2] == 1e-4
    assert heights[0] == pytest.approx(1e-4 / decay**num_layers)
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert (labels[0], labels[-1]) == ("emb.", "head")
    assert axis.get_ylim()[0] < heights[0]
    assert f"{num_layers} blocks" in alt and "nan" not in alt
