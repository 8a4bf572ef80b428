"""Pre-train the tiny BERT on the generated language and watch it against what is possible.

The recipe: masked language modelling only (Devlin et al. 2019, without next-sentence prediction),
30 % of tokens chosen and 80/10/10 corrupted, AdamW (0.9, 0.98), linear warm-up then linear decay.
Measured on the way: masked-LM loss on held-out text with pure [MASK] beside its entropy floor
(both in nats and over the same positions), and a linear probe for sentiment of reviews.
"""

import functools
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from course_lib.bert import build_tokenizer, embed, quiet, random_weights
from course_lib.files import replacing
from course_lib.freezing import linear_probe
from course_lib.grammar import CLS, MASK, PAD, SEP
from course_lib.language import encode, entropy_floor, sample_documents
from course_lib.mlm import IGNORED, mask_tokens, mlm_loss

logger = logging.getLogger(__name__)

PROBE_LABELS = {20: 10, 100: 5, 1000: 1}  # number of labels -> draws that are averaged
HELD_OUT_SEED = 900_001
PROBE_SAMPLES = ((1000, 900_002), (2000, 900_003))  # (documents, seed) to train and to test on
WARMUP_FRACTION = 0.1
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0


def pretrain(
    out: str | Path,
    steps: int = 2000,
    seed: int = 0,
    documents: int = 100_000,
    finance_share: float = 0.5,
    mask_rate: float = 0.3,
    batch_size: int = 32,
    learning_rate: float = 1.5e-3,
    resume: bool = True,
    evaluate_every: int = 200,
    save_every: int = 200,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Pre-train from random weights, write a `from_pretrained` folder to `out`, return the history.

    out: a new folder; it appears at the end, complete, with model, tokenizer, history.json and
        settings.json. Until then the state lies in `<out>.partial`.
    steps, batch_size: optimiser steps, and documents in each.  documents: size of the corpus.
    finance_share: share of finance documents in it.  mask_rate: share of tokens to predict.
    resume: go on from `<out>.partial` if it is there; the result on a CPU is the same as without
        the interruption. False throws the old state away.
    history: one dict per evaluation with `step`, `seconds`, `train_loss` (corrupted text),
        `loss` and `floor` (held out, nats per masked token), `probe_20`, `probe_100`,
        `probe_1000` (accuracy on reviews).
    A finished `out` with the same settings is not trained again.
    Raises ValueError for settings out of range, or another run's state or result in the way;
    FloatingPointError if the loss stops being finite; OSError for a state that cannot be read.
    """
    settings = {
        "steps": steps,
        "seed": seed,
        "documents": documents,
        "finance_share": finance_share,
        "mask_rate": mask_rate,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "evaluate_every": evaluate_every,
    }
    _check_settings(settings, save_every)
    out = Path(out)
    partial = out.with_name(out.name + ".partial")
    if out.exists():
        return _finished(out, settings)
    if not resume and partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)

    tokenizer = build_tokenizer()
    corpus = torch.from_numpy(encode(sample_documents(documents, seed, None, finance_share)))
    evaluation = Evaluation(tokenizer, finance_share, mask_rate)
    model = random_weights(seed).train()
    optimizer = build_optimizer(model, learning_rate)
    corrupt = functools.partial(mask_tokens, mask_id=MASK, vocab_size=len(tokenizer), p=mask_rate)
    generator = torch.Generator().manual_seed(seed)
    state = Progress(partial / "state.pt", settings)
    step, history, seconds, losses = state.restore(model, optimizer, generator)
    if not history:
        history.append({"step": 0, "seconds": 0.0} | evaluation(model))
    started = time.perf_counter()
    with tqdm(total=steps, initial=step, disable=not progress, desc="pretrain") as bar:
        while step < steps:
            scale = learning_rate_scale(step, steps)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * scale
            rows = torch.randint(documents, (batch_size,), generator=generator)
            loss = training_step(model, optimizer, corpus[rows], corrupt, generator)
            step += 1
            if not np.isfinite(loss):
                raise FloatingPointError(
                    f"The loss or its gradient became infinite or NaN at step {step}; take a "
                    f"smaller learning_rate than {learning_rate}."
                )
            losses.append(loss)
            bar.update()
            now = seconds + time.perf_counter() - started
            if step % evaluate_every == 0 or step == steps:
                row = {"step": step, "seconds": round(now, 1)}
                row |= {"train_loss": round(float(np.mean(losses)), 4)} | evaluation(model)
                history.append(row)
                losses = []
                bar.set_postfix(loss=row["loss"], floor=row["floor"], probe=row["probe_100"])
            if step % save_every == 0:
                state.save(step, history, now, losses, model, optimizer, generator)
    write_folder(out, model, tokenizer, settings, history)
    shutil.rmtree(partial)
    return history


def build_optimizer(model, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW as the recipe has it."""
    return torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY
    )


def training_step(model, optimizer, ids, corrupt: Callable, generator) -> float:
    """One optimiser step on a batch of token ids (B, T); returns the loss in nats per token.

    corrupt: (ids, special_tokens_mask, generator=...) -> (inputs, labels), as `mlm.mask_tokens`.
    Returns NaN and leaves the weights as they were if the loss or a gradient is not finite.
    """
    ids = ids[:, : int((ids != PAD).sum(dim=1).max())]  # what is padding in every row costs time
    inputs, labels = corrupt(ids, _special(ids), generator=generator)
    hidden = model.bert(inputs, attention_mask=(ids != PAD).long()).last_hidden_state  # (B, T, d)
    chosen = labels != IGNORED  # only these need the (V,) logits: a third of the time saved
    loss = mlm_loss(model.cls(hidden[chosen]), labels[chosen])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    if not torch.isfinite(loss.detach() + norm):
        return float("nan")
    optimizer.step()
    return float(loss.detach())


def learning_rate_scale(step: int, steps: int) -> float:
    """Linear warm-up over the first tenth of `steps`, then linear decay to 0; step from 0."""
    warmup = max(1, int(steps * WARMUP_FRACTION))
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / max(1, steps - warmup)


class Evaluation:
    """What is measured again and again, on fixed held-out documents.

    The masked-LM loss is taken on pure [MASK] inputs, so that model and ideal reader see the same
    thing and the floor is a bound (`language.entropy_floor`).
    """

    def __init__(self, tokenizer, finance_share: float, mask_rate: float, documents: int = 1000):
        self.tokenizer = tokenizer
        held_out = sample_documents(documents, HELD_OUT_SEED, None, finance_share)
        self.ids = torch.from_numpy(encode(held_out))  # (N, T)
        uniform = np.random.default_rng(HELD_OUT_SEED).random(self.ids.shape)
        self.masked = torch.from_numpy(uniform < mask_rate) & ~_special(self.ids).bool()
        self.floor = entropy_floor(self.ids.numpy(), self.masked.numpy(), finance_share)
        train, test = (sample_documents(*sample, domain="reviews") for sample in PROBE_SAMPLES)
        self.probe_texts = [document.text for document in train + test]
        self.probe_labels = np.array([document.sentiment for document in train + test])

    def loss(self, model) -> float:
        """Mean masked-LM loss in nats over the held-out masked tokens."""
        inputs = self.ids.masked_fill(self.masked, MASK)
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(inputs), 250):
                rows = slice(start, start + 250)
                attention = (self.ids[rows] != PAD).long()
                logits = model(inputs[rows], attention_mask=attention).logits  # (B, T, V)
                masked = self.masked[rows]
                total += torch.nn.functional.cross_entropy(
                    logits[masked], self.ids[rows][masked], reduction="sum"
                ).item()
        return total / int(self.masked.sum())

    def probe(self, model) -> dict[str, float]:
        """Accuracy of a linear probe for sentiment from 20, 100 and 1 000 labelled reviews."""
        features = embed(model, self.tokenizer, self.probe_texts).numpy()
        train = PROBE_SAMPLES[0][0]
        accuracy = {}
        for number, draws in PROBE_LABELS.items():
            parts = [slice(i * number, (i + 1) * number) for i in range(draws)]
            scores = [
                linear_probe(
                    features[:train][part],
                    self.probe_labels[:train][part],
                    features[train:],
                    self.probe_labels[train:],
                    regularisation=10.0,
                )
                for part in parts
            ]
            accuracy[f"probe_{number}"] = round(float(np.mean(scores)), 4)
        return accuracy

    def __call__(self, model) -> dict[str, float]:
        was_training = model.training
        model.eval()
        row = {"loss": round(self.loss(model), 4), "floor": round(self.floor, 4)}
        row |= self.probe(model)
        model.train(was_training)
        return row


class Progress:
    """The state of an unfinished run in one file, replaced atomically."""

    def __init__(self, path: Path, settings: dict):
        self.path, self.settings = path, settings

    def save(self, step, history, seconds, losses, model, optimizer, generator) -> None:
        state = {
            "settings": self.settings,
            "step": step,
            "history": history,
            "seconds": seconds,
            "losses": losses,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "generator": generator.get_state(),
        }
        with replacing(self.path) as partial:
            torch.save(state, partial)

    def restore(self, model, optimizer, generator) -> tuple[int, list, float, list]:
        """Load the state if there is one; returns step, history, seconds and recent losses."""
        if not self.path.exists():
            return 0, [], 0.0, []
        try:
            state = torch.load(self.path, weights_only=True)
            settings = state["settings"]
        except Exception as error:
            raise OSError(
                f"{self.path} cannot be read as a training state; delete it or start with "
                f"resume=False ({type(error).__name__})."
            ) from error
        _check_same(settings, self.settings, self.path, "give another out or resume=False")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        logger.info("resuming from step %d of %s", state["step"], self.path)
        return state["step"], state["history"], state["seconds"], state["losses"]


def write_folder(out: Path, model, tokenizer, settings: dict, history: list[dict]) -> None:
    """Write the checkpoint beside `out` and move it there in one step."""
    temporary = out.with_name(f"{out.name}.writing")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    with quiet():
        model.eval().save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    (temporary / "history.json").write_text(json.dumps(history, indent=1) + "\n", "utf-8")
    (temporary / "settings.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
    os.replace(temporary, out)


def weights_digest(model) -> str:
    """SHA-256 over all weights: two models are the same exactly if it is equal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _special(ids: torch.Tensor) -> torch.Tensor:  # (B, T) -> (B, T), 1 at [PAD], [CLS], [SEP]
    return torch.isin(ids, torch.tensor([PAD, CLS, SEP])).long()


def _check_settings(settings: dict, save_every: int) -> None:
    for name in ("steps", "documents", "batch_size", "evaluate_every"):
        if settings[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {settings[name]}.")
    if save_every < 1:
        raise ValueError(f"save_every must be at least 1, got {save_every}.")
    if not 0 < settings["mask_rate"] <= 1:
        raise ValueError(f"mask_rate must be in (0, 1], got {settings['mask_rate']}.")
    if not 0 <= settings["finance_share"] <= 1:
        raise ValueError(f"finance_share must be in [0, 1], got {settings['finance_share']}.")
    if not 0 < settings["learning_rate"] < float("inf"):
        raise ValueError(
            f"learning_rate must be positive and finite, got {settings['learning_rate']}."
        )


def _finished(out: Path, settings: dict) -> list[dict]:
    try:
        found = json.loads((out / "settings.json").read_text("utf-8"))
        history = json.loads((out / "history.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{out} exists and is no finished run of pretrain; give another folder."
        ) from error
    _check_same(found, settings, out, "give another folder")
    logger.info("%s is already finished", out)
    return history


def _check_same(found: dict, wanted: dict, where: Path, advice: str) -> None:
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ValueError(
                f"{where} belongs to a run with {name}={found.get(name)!r}, not {value!r}; "
                f"{advice}."
            )
