"""The trainer: exact accumulation, resuming to the bit, processes, bad input, full disks."""

import dataclasses
import functools
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from course_lib import trainer
from course_lib.batches import collate
from course_lib.bert import random_weights
from course_lib.layerwise import layers_of
from course_lib.mlm import IGNORED
from course_lib.trainer import Settings, Trainer, accumulated_step

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def classifier(seed=0, **changes):
    return random_weights(seed, "sequence_classification", num_labels=3, **SMALL, **changes)


def texts(number=30, seed=0):
    """Rows of 3 to 12 tokens whose class is written in their second token."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for row in range(number):
        length = int(torch.randint(3, 13, (), generator=generator))
        ids = torch.randint(10, 60, (length,), generator=generator).tolist()
        ids[1] = 5 + row % 3
        rows.append({"input_ids": ids, "labels": row % 3})
    return rows


def tagged(number=12, seed=0):
    """Token labels: the parity of the token, and some that do not count."""
    rows = texts(number, seed)
    return [
        {
            "input_ids": row["input_ids"],
            "labels": [IGNORED if token % 5 == 0 else token % 2 for token in row["input_ids"]],
        }
        for row in rows
    ]


QUICK = Settings(epochs=2, batch_size=5, learning_rate=1e-2, warmup_fraction=0.2, seed=3)


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# --- learning -----------------------------------------------------------------------------------


def test_it_learns_and_keeps_the_best_weights():
    model = classifier()
    settings = dataclasses.replace(QUICK, epochs=15)
    run = Trainer(model, settings, texts(60), texts(30, 1))
    history = run.fit(progress=False)
    assert [entry["epoch"] for entry in history] == list(range(15))
    losses = [entry["validation_loss"] for entry in history]
    assert min(losses) < 0.5 * losses[0]
    assert run.evaluate(texts(30, 1))[0] == pytest.approx(min(losses), rel=1e-5)
    assert history[-1]["accuracy"] > 0.8
    assert history[-1]["learning_rate"] == pytest.approx(0, abs=1e-9)


def test_it_stops_early_and_goes_back_to_the_best():
    model = classifier()
    settings = dataclasses.replace(QUICK, epochs=40, learning_rate=0.05, patience=2)
    noise = [row | {"labels": i * 7 % 3} for i, row in enumerate(texts(12, 9))]
    run = Trainer(model, settings, texts(30), noise)
    history = run.fit(progress=False)
    losses = [entry["validation_loss"] for entry in history]
    assert len(losses) < 40 and losses.index(min(losses)) == len(losses) - 3
    assert run.evaluate(noise)[0] == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize("head", ["token_classification", "question_answering"])
def test_other_heads_learn(head):
    if head == "token_classification":
        rows, model = tagged(40), random_weights(0, head, num_labels=2, **SMALL)
    else:
        rows = [
            {"input_ids": row["input_ids"], "start_positions": 1, "end_positions": 2}
            for row in texts(40)
        ]
        model = random_weights(0, head, **SMALL)
    history = Trainer(model, dataclasses.replace(QUICK, epochs=6), rows, rows).fit(progress=False)
    assert history[-1]["validation_loss"] < 0.7 * history[0]["validation_loss"]
    assert history[-1]["accuracy"] > 0.6


# --- accumulation -------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[12], [4, 4, 4], [7, 4, 1]])
@pytest.mark.parametrize("kind", ["classes", "tokens"])
def test_batches_of_any_size_make_the_step_of_one_batch(sizes, kind):
    def step(sizes):
        if kind == "classes":
            rows, model = texts(12), classifier()
        else:
            rows, model = tagged(12), random_weights(0, "token_classification", **SMALL)
        model.double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        parts = [rows[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        batches = [collate(part, 0) for part in parts]
        return accumulated_step(model, batches, optimizer, clip_norm=0.5), weights(model)

    result, after = step(sizes)
    whole, wanted = step([12])
    assert result.loss == pytest.approx(whole.loss, rel=1e-12)
    assert result.grad_norm == pytest.approx(whole.grad_norm, rel=1e-12)
    for name in after:
        torch.testing.assert_close(after[name], wanted[name], rtol=1e-10, atol=1e-12)


def test_a_batch_without_labels_changes_nothing():
    silent = [{"input_ids": [5, 6, 7], "labels": [IGNORED] * 3}]

    def step(batches):
        model = random_weights(0, "token_classification", **SMALL)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return accumulated_step(model, batches, optimizer).loss, weights(model)

    loss, after = step([collate(tagged(6), 0), collate(silent, 0)])
    alone, wanted = step([collate(tagged(6), 0)])
    assert loss == alone
    assert_same_weights(after, wanted)
    with pytest.raises(ValueError, match="every label is -100"):
        step([collate(silent, 0)])


def test_clipping_looks_at_the_whole_gradient():
    model = classifier()
    before = weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    result = accumulated_step(model, [collate(texts(6), 0)], optimizer, clip_norm=0.01)
    moved = sum((model.state_dict()[n] - before[n]).double().square().sum() for n in before)
    assert result.grad_norm > 0.1 and float(moved) ** 0.5 == pytest.approx(0.01, rel=1e-3)


def test_a_last_group_that_is_not_full_takes_its_step():
    run = Trainer(classifier(), dataclasses.replace(QUICK, accumulation=4), texts(30))
    assert run.steps_per_epoch == 2
    run.fit(progress=False)
    assert run.step == 4


def test_a_diverging_run_stops_with_the_weights_of_the_step_before():
    model = classifier()
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("inf")
    before = weights(model)
    with pytest.raises(FloatingPointError, match="Step 0 of 12: The loss is inf.* lower learning"):
        Trainer(model, QUICK, texts()).fit(progress=False)
    assert_same_weights(weights(model), before)


# --- what is trained ----------------------------------------------------------------------------


def test_gradual_unfreezing_reaches_the_embeddings_last(monkeypatch):
    model = classifier()
    layers = [list(layer.values()) for layer in layers_of(model)]
    seen = []

    class Watched(Trainer):
        def _end_epoch(self, epoch):
            seen.append([layer[0].requires_grad for layer in layers])
            super()._end_epoch(epoch)

    before = weights(model)
    settings = dataclasses.replace(QUICK, epochs=5, gradual=True, weight_decay=0.5)
    run = Watched(model, settings, texts())
    run.fit(progress=False)
    assert seen == [
        [False, False, False, True],
        [False, False, True, True],
        [False, True, True, True],
        [True] * 4,
        [True] * 4,
    ]
    assert not torch.equal(before["bert.embeddings.word_embeddings.weight"],
                           model.bert.embeddings.word_embeddings.weight)  # fmt: skip


def test_layers_not_yet_unfrozen_do_not_move_at_all():
    model = classifier()
    before = weights(model)
    settings = dataclasses.replace(QUICK, epochs=1, gradual=True, weight_decay=0.5)
    Trainer(model, settings, texts()).fit(progress=False)
    for name, tensor in weights(model).items():
        head = name.startswith(("classifier", "bert.pooler"))
        assert torch.equal(tensor, before[name]) != head, name


def test_frozen_modules_stay_frozen_under_gradual_unfreezing():
    model = classifier()
    before = weights(model)
    settings = dataclasses.replace(QUICK, epochs=5, gradual=True, frozen=("bert.embeddings",))
    Trainer(model, settings, texts()).fit(progress=False)
    for name, tensor in weights(model).items():
        assert torch.equal(tensor, before[name]) == name.startswith("bert.embeddings"), name


def test_the_anchor_holds_the_encoder_back():
    def drift(strength):
        model = classifier()
        start = weights(model)
        Trainer(model, dataclasses.replace(QUICK, anchor=strength), texts()).fit(progress=False)
        names = [name for name, _ in model.named_parameters() if name.startswith("bert.")]
        return sum((model.state_dict()[n] - start[n]).square().sum().item() for n in names)

    assert drift(10.0) < 0.5 * drift(0.0)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_like_float32(precision):
    def last_loss(precision):
        model = classifier()
        settings = dataclasses.replace(QUICK, epochs=6, precision=precision)
        return Trainer(model, settings, texts(60)).fit(progress=False)[-1]["train_loss"]

    assert last_loss(precision) == pytest.approx(last_loss("float32"), abs=0.15)


# --- stopping and going on ----------------------------------------------------------------------

LONG = dataclasses.replace(QUICK, epochs=3, save_every=2, accumulation=2, gradual=True, anchor=0.01)


def dropout_classifier():
    return classifier(hidden_dropout_prob=0.3)


def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, monkeypatch):
    whole = dropout_classifier()
    history = Trainer(whole, LONG, texts(), texts(9, 1), folder=tmp_path / "a").fit(progress=False)

    calls = []
    real = trainer.accumulated_step

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(trainer, "accumulated_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        Trainer(dropout_classifier(), LONG, texts(), texts(9, 1), folder=tmp_path / "b").fit(False)
    monkeypatch.setattr(trainer, "accumulated_step", real)
    torch.rand(7)  # whatever happened in between
    model = classifier(seed=5, hidden_dropout_prob=0.3)
    resumed = Trainer(model, LONG, texts(), texts(9, 1), folder=tmp_path / "b").fit(progress=False)
    assert resumed == history
    assert_same_weights(weights(model), weights(whole))


def test_a_killed_process_goes_on_to_the_same_bits(tmp_path):
    """kill -9 in the middle of the second epoch, then the same command again."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, signal, sys
            import torch
            torch.set_num_threads(1)
            sys.path.insert(0, sys.argv[1])
            import test_trainer as t
            from course_lib.trainer import Trainer

            class Killed(Trainer):
                def _train_on(self, forward, batches):
                    if self.step == int(sys.argv[3]):
                        os.kill(os.getpid(), signal.SIGKILL)
                    super()._train_on(forward, batches)

            model = t.dropout_classifier()
            Killed(model, t.LONG, t.texts(), t.texts(9, 1), folder=sys.argv[2]).fit(progress=False)
            torch.save(model.state_dict(), sys.argv[2] + "/final.pt")
            """
        ),
        "utf-8",
    )

    def run(folder, killed_at):
        command = [sys.executable, str(script), str(Path(__file__).parent), str(folder)]
        return subprocess.run([*command, str(killed_at)], capture_output=True, text=True)

    assert run(tmp_path / "cut", 5).returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / "final.pt").exists()
    assert run(tmp_path / "cut", -1).returncode == 0
    assert run(tmp_path / "whole", -1).returncode == 0
    states = [torch.load(tmp_path / name / "final.pt") for name in ("cut", "whole")]
    assert_same_weights(*states)


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    history = Trainer(classifier(), QUICK, texts(), folder=tmp_path).fit(progress=False)
    monkeypatch.setattr(trainer, "accumulated_step", None)
    assert Trainer(classifier(), QUICK, texts(), folder=tmp_path).fit(progress=False) == history


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    run = Trainer(classifier(), QUICK, texts(), folder=tmp_path)
    run.save()
    before = run.file.read_bytes()

    def full(state, file):
        file.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="could not be written .*No space left.* as it was"):
        run.save()
    assert run.file.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_checkpoints_of_something_else_are_refused(tmp_path):
    Trainer(classifier(), QUICK, texts(), folder=tmp_path).fit(progress=False)
    other = dataclasses.replace(QUICK, learning_rate=0.5)
    with pytest.raises(ValueError, match="learning_rate = 0.01, not 0.5"):
        Trainer(classifier(), other, texts(), folder=tmp_path).fit(progress=False)
    deeper = classifier(num_hidden_layers=3)
    with pytest.raises(ValueError, match="another architecture"):
        Trainer(deeper, QUICK, texts(), folder=tmp_path).fit(progress=False)
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(OSError, match="cannot be read as a checkpoint"):
        Trainer(classifier(), QUICK, texts(), folder=tmp_path).fit(progress=False)


# --- several processes --------------------------------------------------------------------------

SHARED = dataclasses.replace(QUICK, accumulation=4, batch_size=3)


def shared_run(folder=None):
    """In float64; the last step has one batch, so that one of two processes has none."""
    model = classifier().double()
    run = Trainer(model, SHARED, texts(27), texts(9, 1), folder=folder)
    return run.fit(progress=False), model.state_dict()


def in_process(rank, world, folder):
    torch.set_num_threads(1)
    address = (folder / "meeting").as_uri()
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    torch.save(shared_run(folder / "run"), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_train_like_one(tmp_path):
    multiprocessing.spawn(in_process, (2, tmp_path), nprocs=2)
    history, weights_of_one = shared_run()
    for rank in range(2):
        shared, state = torch.load(tmp_path / f"{rank}.pt")
        for entry, own in zip(shared, history, strict=True):
            assert entry == pytest.approx(own, rel=1e-8)
        for name, tensor in weights_of_one.items():
            # Adam divides by the gradient's size, so a gradient of rounding errors moves too.
            torch.testing.assert_close(state[name], tensor, rtol=1e-6, atol=1e-6)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "train is empty"),
        ([{"input_ids": [5, 6], "labels": 3}], "example 0: label 3, .*classes 0 to 2"),
        ([{"input_ids": [5] * 65, "labels": 0}], "65 tokens; the model reads 1 to 64"),
        ([{"input_ids": [], "labels": 0}], "0 tokens"),
        ([{"input_ids": [5, 6], "labels": [0]}], "1 labels for 2 tokens"),
        ([{"input_ids": [5, 6]}], "wanted labels, or start_positions"),
        (
            [{"input_ids": [5, 6], "start_positions": 1, "end_positions": 0}],
            "within its 2 tokens, got 1 and 0",
        ),
    ],
)
def test_examples_that_cannot_be_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        Trainer(classifier(), QUICK, rows)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"precision": "float8"}, "float32, bfloat16, float16, got 'float8'"),
        ({"clip_norm": 0}, "clip_norm must be above 0 or None, got 0"),
        ({"warmup_fraction": 1.5}, "got 1.5"),
        ({"anchor": -1}, "got 0.2 and -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(QUICK, **changes)


def test_the_progress_bar_counts_optimiser_steps(capsys):
    Trainer(classifier(), dataclasses.replace(QUICK, epochs=1), texts(10)).fit()
    assert "2/2" in capsys.readouterr().err


def test_a_compiled_model_trains_to_the_same_weights(monkeypatch):
    # Without code generation, which takes a C++ compiler and half a minute.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    found = []
    for compiled in (False, True):
        model = classifier()
        settings = dataclasses.replace(QUICK, compile=compiled)
        Trainer(model, settings, texts()).fit(progress=False)
        found.append(weights(model))
    assert_same_weights(*found)
