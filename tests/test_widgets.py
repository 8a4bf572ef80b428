"""The interactive figures, moved without a browser."""

import re

import ipywidgets
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from transformers import BertConfig, BertForSequenceClassification

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
    assert f"{num_layers} block{'s' if num_layers > 1 else ''} and" in alt and "nan" not in alt


@pytest.mark.filterwarnings("error")
def test_layer_rates_draw_the_same_low_rate_for_all_layers_without_a_warning():
    figure, _ = widgets.draw_layer_rates(1.0, 12, 1e-6)
    assert figure.axes[0].get_ylim()[0] < 1e-6


@pytest.mark.parametrize(("name", "value"), [("what trains", "linear probe"), ("blocks", 3)])
def test_trained_layers_change_with_each_control(name, value):
    box = widgets.trained_layers()
    before = picture(box).value, alternative_text(box)
    control = next(c for label, c in controls(box).items() if label.startswith(name))
    assert control.style.description_width == "initial"
    control.value = value
    assert picture(box).value != before[0]
    assert alternative_text(box) != before[1]


def trained_share(pattern, num_layers) -> list[float]:
    """Layers in epoch 0, epochs and layers at the end, and millions at both ends and of all."""
    alt = widgets.draw_trained_layers(pattern, num_layers)[1]
    layers = re.search(r"(\d+) of \d+ layers train in epoch 0 and (\d+) in epoch", alt)
    millions = re.search(r"([\d.]+) million in .* and ([\d.]+) million .* of ([\d.]+) million", alt)
    return [float(value) for value in (*layers.groups(), *millions.groups())]


def test_trained_layers_of_bert_base_are_those_of_its_patterns():
    # transformers counts 109 483 778 parameters in BERT-base with two classes.
    assert trained_share("full fine-tuning", 12) == [14, 14, 109.5, 109.5, 109.5]
    assert trained_share("linear probe", 12) == [1, 1, 0.6, 0.6, 109.5]
    assert trained_share("gradual unfreezing", 12) == [1, 14, 0.6, 109.5, 109.5]
    assert trained_share("freeze the bottom half", 12)[:2] == [7, 7]


@pytest.mark.parametrize("pattern", widgets.PATTERNS)
@pytest.mark.parametrize("num_layers", [1, 2, 24])
def test_trained_layers_can_be_drawn_everywhere(pattern, num_layers):
    figure, alt = widgets.draw_trained_layers(pattern, num_layers)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[0] == "embeddings" and names[-1] == "head" and "nan" not in alt


def test_sizes_of_bert_base_are_those_of_transformers():
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig())
    sizes = {
        widgets.EMBEDDING_SIZE: model.bert.embeddings,
        widgets.BLOCK_SIZE: model.bert.encoder.layer[0],
    }
    for size, module in sizes.items():
        assert sum(parameter.numel() for parameter in module.parameters()) == size
    assert model.num_parameters() == sum(
        (widgets.EMBEDDING_SIZE, 12 * widgets.BLOCK_SIZE, widgets.HEAD_SIZE)
    )


@pytest.mark.parametrize(("name", "value"), [("temperature", 3.0), ("bins", 4)])
def test_reliability_diagram_changes_with_each_control(name, value):
    box = widgets.reliability_diagram()
    before = picture(box).value, alternative_text(box)
    control = next(c for label, c in controls(box).items() if label.startswith(name))
    control.value = value
    assert picture(box).value != before[0] and alternative_text(box) != before[1]
    assert control.style.description_width == "initial"


@pytest.mark.parametrize("temperature", [0.5, 5.0])
@pytest.mark.parametrize("bins", [1, 50])
def test_reliability_diagram_can_be_drawn_everywhere(temperature, bins):
    figure, alt = widgets.draw_reliability_diagram(temperature, bins)
    assert f"{bins} bins" in alt and "nan" not in alt
    right, many = figure.axes
    shares = [bar.get_height() for bar in many.patches]
    assert len(shares) == bins and sum(shares) == pytest.approx(1)
    assert all(0 <= bar.get_height() <= 1 for bar in right.patches)


def told(temperature, bins) -> dict[str, float]:
    """The numbers in the text of the reliability diagram."""
    alt = widgets.draw_reliability_diagram(temperature, bins)[1]
    names = ("Mean confidence", "accuracy", "calibration error", "loss")
    return {name: float(re.search(rf"{name} (\d+\.\d+)", alt)[1]) for name in names}


def test_reliability_diagram_tells_the_notebooks_story():
    cold, right, hot = (told(temperature, 10) for temperature in (1.0, 2.5, 5.0))
    assert cold["Mean confidence"] > cold["accuracy"] + 0.1  # as it comes out of the model
    assert abs(right["Mean confidence"] - right["accuracy"]) < 0.03
    assert hot["Mean confidence"] < hot["accuracy"] - 0.1
    assert right["calibration error"] < min(cold["calibration error"], hot["calibration error"]) / 2
    assert right["loss"] < min(cold["loss"], hot["loss"])
    assert cold["accuracy"] == right["accuracy"] == hot["accuracy"]
    assert told(1.8, 1)["calibration error"] < told(1.8, 50)["calibration error"]
