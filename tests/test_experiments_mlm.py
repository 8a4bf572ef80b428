"""Notebook 02's experiment on masked language models, at tiny sizes."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from course_lib import cli
from course_lib.bert import random_weights
from course_lib.experiments import mlm, results
from course_lib.grammar import CLS, MASK, PAD, SEP
from course_lib.language import (
    bayes_accuracy,
    encode,
    masked_log_probs,
    sample_documents,
    vocabulary,
)
from course_lib.mlm import IGNORED, mask_tokens

V = len(vocabulary())


class OneNumberEvaluation:
    """Stands in for the real one, which measures for seconds; its own tests are elsewhere."""

    def __init__(self, tokenizer, finance_share, mask_rate):
        self.ids = mlm.corpus(4)

    def __call__(self, model):
        with torch.no_grad():
            logits = model(self.ids, attention_mask=(self.ids != PAD).long()).logits
        return {"loss": float(logits.logsumexp(-1).mean())}


@pytest.fixture
def quick(monkeypatch):
    """`mask_rates` with two settings and tiny runs."""
    monkeypatch.setattr(mlm, "Evaluation", OneNumberEvaluation)
    monkeypatch.setattr(mlm, "SETTINGS", ((0.15, "80/10/10"), (0.15, "[MASK] only")))
    return functools.partial(
        mlm.mask_rates, steps=3, seeds=2, evaluate_every=2, documents=20, progress=False
    )


def without_times(result):
    return [
        {key: value for key, value in run.items() if key != "seconds"} for run in result["runs"]
    ]


def test_mask_only_chooses_the_same_tokens_and_masks_them_all():
    ids = mlm.corpus(200)
    special = (~mlm.ordinary_tokens(ids)).long()
    both = [
        function(ids, special, MASK, V, 0.4, torch.Generator().manual_seed(1))
        for function in (mask_tokens, mlm.only_mask_tokens)
    ]
    (mixed, labels), (inputs, same_labels) = both
    assert torch.equal(labels, same_labels)
    chosen = labels != IGNORED
    assert (inputs[chosen] == MASK).all() and torch.equal(inputs[~chosen], ids[~chosen])
    assert 0.7 < (mixed[chosen] == MASK).float().mean() < 0.9


def test_an_unknown_corruption_is_refused_by_name():
    with pytest.raises(ValueError, match="80/10/10.*got 'never'"):
        mlm.corruption("never", 0.15, V)


def test_a_training_run_learns_and_repeats_itself():
    ids = mlm.corpus(64)

    def losses(seed):
        run = mlm.training_run(random_weights(0), ids, 12, mlm.corruption("80/10/10", 0.3, V), seed)
        return list(run)

    first = losses(5)
    assert [step for step, _ in first] == list(range(1, 13))
    assert first[-1][1] < first[0][1] - 0.5
    assert losses(5) == first
    assert losses(6) != first


def test_a_training_run_that_blows_up_stops_with_a_sentence():
    model = random_weights(0)
    with torch.no_grad():
        next(model.bert.parameters()).fill_(float("nan"))
    run = mlm.training_run(model, mlm.corpus(40), 2, mlm.corruption("80/10/10", 0.3, V), 0)
    with pytest.raises(FloatingPointError, match="step 1"):
        next(run)


def test_mask_rates_runs_every_setting_with_every_seed(quick, tmp_path):
    result = quick(tmp_path / "deep" / "rates.json")
    made = [(run["mask_rate"], run["corruption"], run["seed"]) for run in result["runs"]]
    assert made == [(0.15, name, seed) for seed in (0, 1) for name in ("80/10/10", "[MASK] only")]
    for run in result["runs"]:
        assert [row["step"] for row in run["history"]] == [0, 2, 3]
        assert 0 < run["own_word"] < 1
    same_weights = {run["history"][0]["loss"] for run in result["runs"] if run["seed"] == 0}
    assert len(same_weights) == 1
    assert json.loads((tmp_path / "deep" / "rates.json").read_text("utf-8")) == result
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["rates.json"]


def test_mask_rates_goes_on_where_it_was_stopped(quick, tmp_path, monkeypatch):
    whole = quick(tmp_path / "whole.json")
    calls = []
    real = mlm.training_run

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(mlm, "training_run", stopped)
    with pytest.raises(KeyboardInterrupt):
        quick(tmp_path / "rates.json")
    assert len(json.loads((tmp_path / "rates.json").read_text("utf-8"))["runs"]) == 2
    resumed = quick(tmp_path / "rates.json")
    assert len(calls) == 5  # three before and at the stop, two after it
    assert without_times(resumed) == without_times(whole)
    quick(tmp_path / "rates.json")
    assert len(calls) == 5


def test_mask_rates_does_not_touch_a_file_that_is_not_its_own(quick, tmp_path):
    out = tmp_path / "rates.json"
    quick(out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match="'steps': 3.*not.*'steps': 4"):
        quick(out, steps=4)
    assert out.read_bytes() == before
    for text in ("", "[]", '{"settings": {}, "runs": [{"seed": 0}]}'):
        out.write_text(text, "utf-8")
        with pytest.raises(ValueError, match="no result of this experiment"):
            quick(out)
        assert out.read_text("utf-8") == text


@pytest.mark.parametrize("name", ["steps", "seeds", "evaluate_every", "documents"])
def test_mask_rates_refuses_numbers_below_one(quick, tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        quick(tmp_path / "rates.json", **{name: 0})
    assert not list(tmp_path.iterdir())


def test_a_setting_is_found_again_in_the_results(quick, tmp_path):
    result = quick(tmp_path / "rates.json")
    result["runs"].reverse()
    runs = results.runs_of(result, mask_rate=0.15, corruption="[MASK] only")
    assert [run["seed"] for run in runs] == [0, 1]
    assert {run["corruption"] for run in runs} == {"[MASK] only"}
    losses = mlm.course_of(result, "loss", 0.15, "[MASK] only")
    assert losses.shape == (2, 3) and losses[1, 2] == runs[1]["history"][2]["loss"]
    with pytest.raises(ValueError, match="no run with .*0.3"):
        results.runs_of(result, mask_rate=0.3, corruption="80/10/10")


def test_the_command_hands_its_file_on(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(mlm, "mask_rates", lambda out: asked.append(out) or {"runs": [1, 2]})
    out = str(tmp_path / "rates.json")
    result = CliRunner().invoke(cli.app, ["experiment", "mask-rates", "--out", out])
    assert result.exit_code == 0 and "2 runs" in result.output
    assert [str(path) for path in asked] == [out]
    assert CliRunner().invoke(cli.app, ["experiment", "unknown", "--out", out]).exit_code == 2


def test_own_word_probability_of_a_copier_and_of_a_guesser():
    ids = mlm.corpus(3)

    def model(scale):
        def answer(rows, attention_mask):
            one_hot = torch.nn.functional.one_hot(rows, V).float()
            return SimpleNamespace(logits=scale * one_hot)

        answer.training, answer.eval, answer.train = True, lambda: None, lambda mode: None
        return answer

    assert mlm.own_word_probability(model(100.0), ids) == pytest.approx(1.0)
    assert mlm.own_word_probability(model(0.0), ids) == pytest.approx(1 / V)


def test_own_word_probability_leaves_the_model_as_it_was():
    model = random_weights(0).train()
    assert 0 < mlm.own_word_probability(model, mlm.corpus(3)) < 0.1
    assert model.training


def test_the_loss_curve_lies_between_guessing_and_the_floor():
    curve = mlm.loss_against_floor(steps=5, evaluate_every=2)
    assert curve.steps == [0, 2, 4, 5]
    assert curve.guessing == pytest.approx(np.log(V))
    assert curve.floor < curve.frequencies < curve.guessing
    assert curve.floor < curve.loss[-1] < curve.loss[0]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        mlm.loss_against_floor(steps=0)


def test_the_loss_by_kind_of_word_adds_up_to_the_whole():
    model = random_weights(0)
    kinds = mlm.loss_by_kind(model, documents=60)
    assert [part.kind for part in kinds] == ["topic words", "tone words", "weekdays", "the rest"]
    assert sum(part.share for part in kinds) == pytest.approx(1)
    whole = mlm.Evaluation(None, 0.5, 0.3, 60)
    assert sum(part.share * part.model for part in kinds) == pytest.approx(whole.loss(model))
    assert sum(part.share * part.ideal for part in kinds) == pytest.approx(whole.floor)


def test_every_kind_of_word_is_in_the_vocabulary_once():
    words = [word for kind in mlm.WORD_KINDS.values() for word in set(kind)]
    assert set(words) <= set(vocabulary())
    assert len(words) == len(set(words))


def test_context_floors_equal_a_slow_computation():
    floors = mlm.context_floors(documents=12, last=7, every=3)
    assert floors.positions == [1, 4, 7]
    ids = encode(sample_documents(12, mlm.HELD_OUT_SEED, None, 0.5))
    for place, both_sides, left_only in zip(
        floors.positions, floors.both_sides, floors.left_only, strict=True
    ):
        entropies = {"both": [], "left": []}
        for row in ids:
            for name, last in (("both", place), ("left", len(row) - 1)):
                masked = np.zeros((1, len(row)), dtype=bool)
                masked[0, place : last + 1] = True
                masked[0] &= ~np.isin(row, (PAD, CLS, SEP))
                p = np.exp(masked_log_probs(row[None], masked)[0])
                entropies[name].append(-sum(value * np.log(value) for value in p if value > 0))
        assert both_sides == pytest.approx(np.mean(entropies["both"]), abs=1e-9)
        assert left_only == pytest.approx(np.mean(entropies["left"]), abs=1e-9)
        assert both_sides <= left_only


def test_context_floors_refuse_what_no_text_reaches():
    with pytest.raises(ValueError, match="No text has a word at position 40"):
        mlm.context_floors(documents=2, last=40, every=39)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        mlm.context_floors(documents=0)


def test_the_shipped_mask_rates_are_complete_and_possible():
    result = results.shipped(mlm.SHIPPED_MASK_RATES)
    made = {(run["mask_rate"], run["corruption"], run["seed"]) for run in result["runs"]}
    assert made == {(*setting, seed) for setting in mlm.SETTINGS for seed in range(3)}
    assert len(result["runs"]) == len(made)
    # 2 000 test reviews: four standard deviations of an accuracy are at most 0.045.
    best = bayes_accuracy("sentiment", "reviews") + 0.045
    for run in result["runs"]:
        assert run["history"][-1]["step"] == result["settings"]["steps"]
        for row in run["history"]:
            assert row["loss"] > row["floor"]
            assert all(0.4 < row[f"probe_{n}"] < best for n in (20, 100, 1000))


def test_shipped_says_what_is_missing_or_damaged(monkeypatch, tmp_path):
    monkeypatch.setattr(results, "data_folder", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match="history.json is missing"):
        results.shipped(mlm.SHIPPED_HISTORY)
    (tmp_path / "tiny_bert").mkdir()
    (tmp_path / "tiny_bert" / "history.json").write_text("[{", "utf-8")
    with pytest.raises(ValueError, match="damaged"):
        results.shipped(mlm.SHIPPED_HISTORY)
