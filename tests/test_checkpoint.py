"""The shipped checkpoint is what its card says, and an ordinary folder of `transformers`."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForMaskedLM, AutoTokenizer

from course_lib import bert
from course_lib.data import data_folder
from course_lib.experiments.pretraining import PROBE_LABELS, Evaluation, weights_digest
from course_lib.language import bayes_accuracy

FOLDER = data_folder() / "tiny_bert"
# Sums of float32 in another order move the loss by about 1e-6. A probe's accuracy moves by whole
# test examples (1 of 2000): the solver stops a little earlier or later, and borderline ones flip.
LOSS_TOLERANCE, PROBE_TOLERANCE = 2e-4, 0.003


@pytest.fixture(scope="module")
def card():
    front_matter = (FOLDER / "README.md").read_text("utf-8").split("---\n")[1]
    return yaml.safe_load(front_matter)["measured"]


@pytest.fixture(scope="module")
def settings():
    return json.loads((FOLDER / "settings.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def shipped():
    return bert.load()


@pytest.fixture(scope="module")
def evaluation(shipped, settings):
    return Evaluation(shipped[1], settings["finance_share"], settings["mask_rate"])


def test_the_shipped_weights_reach_the_figures_of_the_card(card, shipped, evaluation):
    found = evaluation(shipped[0])
    assert found["loss"] == pytest.approx(card["loss"], abs=LOSS_TOLERANCE)
    assert found["floor"] == pytest.approx(card["floor"], abs=1e-4)
    for number in PROBE_LABELS:
        name = f"probe_{number}"
        assert found[name] == pytest.approx(card[name], abs=PROBE_TOLERANCE)
    assert card["bayes_accuracy"] == pytest.approx(bayes_accuracy("sentiment", "reviews"), abs=5e-5)


def test_the_control_with_random_weights_is_that_of_the_card(card, settings, evaluation):
    found = evaluation.probe(bert.random_weights(settings["seed"]))
    for number in PROBE_LABELS:
        claimed = card[f"random_probe_{number}"]
        assert found[f"probe_{number}"] == pytest.approx(claimed, abs=PROBE_TOLERANCE)
        assert claimed < card[f"probe_{number}"]


def test_the_history_ends_where_the_card_says(card, settings):
    history = json.loads((FOLDER / "history.json").read_text("utf-8"))
    assert card["step"] == settings["steps"] == history[-1]["step"]
    for name in ("loss", "floor", *(f"probe_{number}" for number in PROBE_LABELS)):
        assert history[-1][name] == card[name]
    for number in PROBE_LABELS:
        assert history[0][f"probe_{number}"] == card[f"random_probe_{number}"]
    assert [row["step"] for row in history] == list(range(0, 10_001, settings["evaluate_every"]))


def test_the_card_tells_the_command_that_makes_it(card, settings):
    text = (FOLDER / "README.md").read_text("utf-8")
    (steps,) = re.findall(r"pretrain --out data/tiny_bert --steps (\d+)", text)
    assert int(steps) == settings["steps"]
    overview = (data_folder() / "README.md").read_text("utf-8")
    assert f"pretrain --out data/tiny_bert --steps {steps}`" in overview


def test_the_tokenizer_is_the_one_that_the_code_builds(shipped):
    built, stored = bert.build_tokenizer(), shipped[1]
    assert built.get_vocab() == stored.get_vocab()
    assert built.model_max_length == stored.model_max_length == bert.MAX_TOKENS
    text = "Zebras aren't GREAT; naïve film, 42 %."
    assert built(text)["input_ids"] == stored(text)["input_ids"]


def test_transformers_own_auto_classes_read_the_folder(shipped):
    model = AutoModelForMaskedLM.from_pretrained(FOLDER, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)
    assert weights_digest(model) == weights_digest(shipped[0])
    text = "Great film, superb cast: people praised it on Tuesday."
    assert tokenizer(text)["input_ids"] == shipped[1](text)["input_ids"]


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("[MASK] hotel, poor room: we disliked it on Monday. "
         "Sadly the bad view upset us on Tuesday, a terrible failure.", "terrible", "superb"),
        ("Nobody [MASK] the hotel on Monday: poor room, a failure. "
         "Sadly the bad view upset us on Tuesday, a terrible failure.", "liked", "hated"),
        ("Bank [MASK] on Monday after good loan sales pleased investors. "
         "Lender rose on Tuesday after superb credit orders impressed traders.", "rose", "fell"),
    ],
)  # fmt: skip
def test_it_reads_the_tone_and_its_negation(shipped, text, right, wrong):
    model, tokenizer = shipped
    batch = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits[0]
    (position,) = np.flatnonzero(batch["input_ids"][0] == tokenizer.mask_token_id)
    chosen, other = tokenizer.convert_tokens_to_ids([right, wrong])
    assert logits[position, chosen] - logits[position, other] > 1  # odds of e to one at least


def test_all_embedded_data_are_small():
    assert sum(path.stat().st_size for path in data_folder().rglob("*") if path.is_file()) < 10e6
    for folder in Path(data_folder()).iterdir():
        if folder.name in ("reviews", "finance", "tiny_bert"):
            assert (folder / "README.md").is_file()
