"""Pre-training: exactly resumable, atomic, careful with what it finds, and rightly measured."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from course_lib import bert
from course_lib.experiments import pretraining
from course_lib.grammar import CLS, MASK, PAD, SEP
from course_lib.language import encode, masked_log_probs, sample_documents
from course_lib.mlm import mask_tokens

REPOSITORY = Path(__file__).resolve().parent.parent
TINY = {
    "steps": 24, "documents": 200, "batch_size": 8, "evaluate_every": 9, "save_every": 5,
    "progress": False,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def small_evaluation():
    """Probe and held-out text so small that an evaluation takes milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "PROBE_SAMPLES", ((120, 1), (30, 2)))
        patch.setattr(pretraining, "PROBE_LABELS", {20: 2, 100: 1})
        patch.setattr(pretraining, "Evaluation", partial(pretraining.Evaluation, documents=20))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without an interruption: its folder and its history."""
    out = tmp_path_factory.mktemp("runs") / "deeper" / "whole"
    return out, pretraining.pretrain(out, **TINY)


@pytest.fixture(scope="module")
def ids():
    return torch.from_numpy(encode(sample_documents(16, seed=4)))


def corrupt(rate=0.3):
    return partial(mask_tokens, mask_id=MASK, vocab_size=len(bert.vocabulary()), p=rate)


def timeless(history):
    return [{name: row[name] for name in row if name != "seconds"} for row in history]


def digest(folder):
    return pretraining.weights_digest(bert.load(folder)[0])


def stop_at(monkeypatch, step, error=KeyboardInterrupt):
    """Let the step with this number raise."""
    calls = iter(range(1, 10**6))
    real = pretraining.training_step

    def counted(*arguments):
        if next(calls) == step:
            raise error
        return real(*arguments)

    monkeypatch.setattr(pretraining, "training_step", counted)
    return lambda: monkeypatch.setattr(pretraining, "training_step", real)


# --- one run ------------------------------------------------------------------------------------


def test_a_run_leaves_an_ordinary_folder_and_its_history(whole):
    out, history = whole
    assert [row["step"] for row in history] == [0, 9, 18, 24]
    assert json.loads((out / "history.json").read_text("utf-8")) == history
    settings = json.loads((out / "settings.json").read_text("utf-8"))
    assert settings["steps"] == 24 and settings["mask_rate"] == 0.3 and settings["seed"] == 0
    assert os.listdir(out.parent) == ["whole"]
    assert pretraining.weights_digest(BertForMaskedLM.from_pretrained(out)) == digest(out)
    assert {"loss", "floor", "train_loss", "probe_20", "probe_100"} < set(history[-1])
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(row["loss"] > row["floor"] for row in history)
    assert all(0 <= row["probe_20"] <= 1 for row in history)


def test_a_run_depends_on_its_seed_only_and_leaves_global_chance_alone(whole, tmp_path):
    out, history = whole
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = pretraining.pretrain(tmp_path / "again", **TINY)
    assert torch.equal(torch.get_rng_state(), before)
    assert timeless(again) == timeless(history)
    assert digest(tmp_path / "again") == digest(out)
    pretraining.pretrain(tmp_path / "other", seed=1, **TINY)
    assert digest(tmp_path / "other") != digest(out)


def test_the_progress_bar_shows_loss_and_floor(tmp_path, capfd):
    pretraining.pretrain(tmp_path / "run", **(TINY | {"progress": True}))
    shown = capfd.readouterr()
    assert "pretrain: 100%" in shown.err
    assert "floor=" in shown.err
    assert "Writing" not in shown.err
    assert shown.out == ""


# --- interrupted and resumed --------------------------------------------------------------------


@pytest.mark.parametrize("step", [3, 12, 24])
def test_an_interrupted_run_goes_on_to_the_same_result(whole, tmp_path, monkeypatch, step):
    out, history = whole
    repair = stop_at(monkeypatch, step)
    with pytest.raises(KeyboardInterrupt):
        pretraining.pretrain(tmp_path / "cut", **TINY)
    assert not (tmp_path / "cut").exists()
    repair()
    found = pretraining.pretrain(tmp_path / "cut", **TINY)
    assert timeless(found) == timeless(history)
    assert digest(tmp_path / "cut") == digest(out)
    assert not (tmp_path / "cut.partial").exists()


KILLED = """
import os, signal, sys
from functools import partial
from course_lib.experiments import pretraining

pretraining.PROBE_SAMPLES, pretraining.PROBE_LABELS = ((120, 1), (30, 2)), {20: 2, 100: 1}
pretraining.Evaluation = partial(pretraining.Evaluation, documents=20)
real, save, calls = pretraining.training_step, pretraining.torch.save, iter(range(10**6))

def dying(state, path):
    save(state, path)
    if next(calls) == 2:  # the third state is written, but not yet moved to its place
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

pretraining.torch.save = dying
pretraining.pretrain(sys.argv[1], **eval(sys.argv[2]))
"""


def test_a_killed_process_leaves_a_state_that_goes_on_to_the_same_result(whole, tmp_path):
    out, history = whole
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "cut"), repr(TINY)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode != 0
    state = torch.load(tmp_path / "cut.partial" / "state.pt", weights_only=True)
    assert state["step"] == 10
    found = pretraining.pretrain(tmp_path / "cut", **TINY)
    assert timeless(found) == timeless(history)
    assert digest(tmp_path / "cut") == digest(out)


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """A run that stopped at step 12 with a state of step 10."""
    repair = stop_at(monkeypatch, 12)
    with pytest.raises(KeyboardInterrupt):
        pretraining.pretrain(tmp_path / "run", **TINY)
    repair()
    return tmp_path / "run"


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"steps": 30}, {"mask_rate": 0.15}, {"finance_share": 0.1}, {"batch_size": 4}],
)
def test_the_state_of_another_run_is_refused_and_kept(unfinished, change):
    (name, value) = next(iter(change.items()))
    state = unfinished.with_name("run.partial") / "state.pt"
    before = state.read_bytes()
    with pytest.raises(ValueError, match=f"{name}=.*not {value}; give another out or resume"):
        pretraining.pretrain(unfinished, **(TINY | change))
    assert state.read_bytes() == before


def test_resume_false_starts_again(whole, unfinished):
    with pytest.raises(ValueError, match="seed=0, not 5"):
        pretraining.pretrain(unfinished, **(TINY | {"seed": 5}))
    history = pretraining.pretrain(unfinished, resume=False, **(TINY | {"seed": 5}))
    assert [row["step"] for row in history] == [0, 9, 18, 24]
    assert timeless(history)[0] != timeless(whole[1])[0]  # other weights from the start


@pytest.mark.parametrize("content", [b"", b"not a state", "cut"])
def test_a_damaged_state_is_a_sentence(unfinished, content):
    state = unfinished.with_name("run.partial") / "state.pt"
    state.write_bytes(state.read_bytes()[:3000] if content == "cut" else content)
    with pytest.raises(OSError, match="state.pt cannot be read.*resume=False"):
        pretraining.pretrain(unfinished, **TINY)


# --- what is already there ----------------------------------------------------------------------


def test_a_finished_run_is_not_trained_again_and_not_overwritten(whole, monkeypatch):
    out, history = whole
    stop_at(monkeypatch, 1, AssertionError)
    assert pretraining.pretrain(out, **TINY) == history
    with pytest.raises(ValueError, match="learning_rate=0.0015, not 0.1; give another folder"):
        pretraining.pretrain(out, **(TINY | {"learning_rate": 0.1}))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is no finished run of pretrain"):
        pretraining.pretrain(tmp_path, **TINY)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_out_appears_complete_or_not_at_all(tmp_path, monkeypatch):
    def no_space(*arguments, **options):
        raise OSError("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(json, "dumps", no_space)  # after the weights are written
        with pytest.raises(OSError, match="No space"):
            pretraining.pretrain(tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()
    assert len(pretraining.pretrain(tmp_path / "run", **TINY)) == 4
    assert os.listdir(tmp_path) == ["run"]


# --- bad settings and bad numbers ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"documents": 0}, "documents must be at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1"),
        ({"evaluate_every": 0}, "evaluate_every must be at least 1, got 0"),
        ({"save_every": 0}, "save_every must be at least 1, got 0"),
        ({"mask_rate": 0.0}, r"mask_rate must be in \(0, 1\], got 0.0"),
        ({"mask_rate": 1.1}, "mask_rate must be"),
        ({"mask_rate": float("nan")}, "mask_rate must be"),
        ({"finance_share": -0.1}, r"finance_share must be in \[0, 1\], got -0.1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0.0"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
    ],
)
def test_settings_out_of_range_are_a_sentence_and_write_nothing(tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        pretraining.pretrain(tmp_path / "run", **(TINY | change))
    assert os.listdir(tmp_path) == []


def test_a_run_that_diverges_stops_with_a_sentence_and_without_a_model(tmp_path):
    with pytest.raises(FloatingPointError, match="at step .*smaller learning_rate than 1e\\+30"):
        pretraining.pretrain(tmp_path / "run", **(TINY | {"learning_rate": 1e30}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_leaves_the_weights(ids, where):
    model = bert.random_weights(0).train()
    optimizer = pretraining.build_optimizer(model, 1e-3)
    if where == "loss":
        with torch.no_grad():
            model.cls.predictions.bias[0] = torch.nan
    else:
        model.cls.predictions.bias.register_hook(lambda gradient: gradient * torch.inf)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss = pretraining.training_step(
        model, optimizer, ids, corrupt(), torch.Generator().manual_seed(0)
    )
    assert np.isnan(loss)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.nan_to_num(), before[name].nan_to_num()), name


# --- the parts ----------------------------------------------------------------------------------


def test_a_step_is_the_one_that_transformers_and_torch_would_make(ids):
    """The shortcut (logits at the chosen tokens only) against the model's own loss."""
    models = [bert.random_weights(0).train() for _ in range(2)]
    optimizers = [pretraining.build_optimizer(model, 1e-3) for model in models]
    generators = [torch.Generator().manual_seed(9) for _ in range(2)]
    found = pretraining.training_step(models[0], optimizers[0], ids, corrupt(), generators[0])

    special = sum(ids == token for token in (PAD, CLS, SEP))
    inputs, labels = corrupt()(ids, special, generator=generators[1])
    loss = models[1](inputs, attention_mask=(ids != PAD).long(), labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(models[1].parameters(), 1.0)
    optimizers[1].step()
    assert found == pytest.approx(loss.item(), rel=1e-6)
    # Sums in another order; AdamW's first step makes a sign of 1e-8 in a gradient into 1e-3.
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        close = torch.isclose(one, other, atol=1e-5)
        assert close.float().mean() > 0.999


def test_learning_rate_rises_for_a_tenth_and_falls_to_zero():
    scales = [pretraining.learning_rate_scale(step, 100) for step in range(100)]
    np.testing.assert_allclose(scales[:10], np.arange(1, 11) / 10)
    np.testing.assert_allclose(np.diff(scales[10:]), -1 / 90)
    assert scales[10] == 1
    assert scales[-1] == pytest.approx(1 / 90)
    for steps in (1, 2, 5):
        assert all(0 < pretraining.learning_rate_scale(step, steps) <= 1 for step in range(steps))


def test_the_measured_loss_and_floor_are_over_the_same_masked_tokens():
    evaluation = pretraining.Evaluation(bert.build_tokenizer(), 0.3, 0.2)
    model = bert.random_weights(1)
    losses, floors = [], []
    for ids, masked in zip(evaluation.ids, evaluation.masked, strict=True):  # alone, in float64
        ids, masked = ids[ids != PAD], masked[ids != PAD]
        if masked.any():
            with torch.no_grad():
                logits = model.double()(ids.masked_fill(masked, MASK)[None]).logits[0]
            losses.append(-logits.log_softmax(-1)[masked, ids[masked]])
            ideal = masked_log_probs(ids[None].numpy(), masked[None].numpy(), 0.3)
            floors.append(-ideal[np.arange(len(ideal)), ids[masked].numpy()])
    assert evaluation.loss(model.float()) == pytest.approx(
        torch.cat(losses).mean().item(), rel=1e-5
    )
    assert evaluation.floor == pytest.approx(np.concatenate(floors).mean(), rel=1e-9)
    rate = evaluation.masked.sum() / (evaluation.ids > SEP).sum()
    assert 0.1 < rate < 0.3


def test_an_evaluation_restores_the_mode_and_says_the_same_twice():
    evaluation = pretraining.Evaluation(bert.build_tokenizer(), 0.5, 0.3)
    model = bert.random_weights(1).train()
    assert evaluation(model) == evaluation(model)
    assert model.training


def test_the_digest_sees_one_changed_weight():
    model = bert.random_weights(1)
    before = pretraining.weights_digest(model)
    assert before == pretraining.weights_digest(bert.random_weights(1))
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[7, 3] += 1e-7
    assert pretraining.weights_digest(model) != before
