"""Notebook 02: masked-LM loss against its floor; mask rates; 80/10/10 against [MASK] alone."""

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from course_lib.bert import build_tokenizer, random_weights
from course_lib.experiments.pretraining import (
    HELD_OUT_SEED,
    Evaluation,
    build_optimizer,
    learning_rate_scale,
    training_step,
)
from course_lib.experiments.results import run_missing, runs_of
from course_lib.grammar import CLS, CUE_WORDS, MASK, PAD, SEP, TOPIC_WORDS, WEEKDAYS
from course_lib.language import encode, masked_log_probs, sample_documents, vocabulary
from course_lib.mlm import IGNORED, mask_tokens

CORPUS_SEED, DOCUMENTS = 0, 100_000
BATCH_SIZE, LEARNING_RATE = 32, 1.5e-3
FINANCE_SHARE = 0.5
HELD_OUT_RATE = 0.15  # of the masks on which every model is examined, however it was trained
WORD_KINDS = {
    "topic words": [
        word
        for slots in TOPIC_WORDS.values()
        for topics in slots.values()
        for words in topics.values()
        for word in words.split()
    ],
    "tone words": [
        word
        for slots in CUE_WORDS.values()
        for pair in slots.values()
        for words in pair
        for word in words.split()
    ],
    "weekdays": list(WEEKDAYS),
}
SHIPPED_HISTORY, SHIPPED_MASK_RATES = "tiny_bert/history.json", "experiments/mask_rates.json"


def only_mask_tokens(
    ids: Tensor,
    special_tokens_mask: Tensor,
    mask_id: int,
    vocab_size: int,
    p: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Like `mlm.mask_tokens` with the same tokens chosen, but every chosen token becomes [MASK]."""
    labels = mask_tokens(ids, special_tokens_mask, mask_id, vocab_size, p, generator)[1]
    return ids.masked_fill(labels != IGNORED, mask_id), labels


CORRUPTIONS = {"80/10/10": mask_tokens, "[MASK] only": only_mask_tokens}
SETTINGS = (  # (mask rate, corruption)
    (0.05, "80/10/10"),
    (0.15, "80/10/10"),
    (0.40, "80/10/10"),
    (0.60, "80/10/10"),
    (0.15, "[MASK] only"),
    (0.40, "[MASK] only"),
)


def corpus(documents: int = DOCUMENTS) -> Tensor:
    """Token ids (N, T) of the text that the experiments train on, half reviews, half finance."""
    return torch.from_numpy(encode(sample_documents(documents, CORPUS_SEED, None, FINANCE_SHARE)))


def training_run(
    model, ids: Tensor, steps: int, corrupt: Callable, seed: int
) -> Iterator[tuple[int, float]]:
    """Train on random batches of `ids` (N, T) and yield step and training loss after each step.

    corrupt: (ids, special_tokens_mask, generator=...) -> (inputs, labels).
    seed: of the batches and the masks; the model brings its weights along.
    Raises FloatingPointError when the loss or its gradient stops being finite.
    """
    optimizer = build_optimizer(model, LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_scale(step, steps)
        rows = torch.randint(len(ids), (BATCH_SIZE,), generator=generator)
        loss = training_step(model, optimizer, ids[rows], corrupt, generator)
        if not np.isfinite(loss):
            raise FloatingPointError(f"The loss or its gradient is not finite at step {step + 1}.")
        yield step + 1, loss


def corruption(name: str, mask_rate: float, vocab_size: int) -> Callable:
    """One of CORRUPTIONS with its mask rate filled in, ready for `training_run`."""
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption must be one of {', '.join(CORRUPTIONS)}, got {name!r}.")
    return functools.partial(CORRUPTIONS[name], mask_id=MASK, vocab_size=vocab_size, p=mask_rate)


@dataclass(frozen=True)
class LossCurve:
    """Masked-LM loss of a short run on held-out text, in nats per masked token.

    steps, loss: one entry an evaluation.  floor: of the ideal reader on the same tokens.
    frequencies: of a reader who only knows how often each word occurs.  guessing: log V.
    """

    steps: list[int]
    loss: list[float]
    floor: float
    frequencies: float
    guessing: float


def loss_against_floor(
    steps: int = 300, evaluate_every: int = 50, seed: int = 0, mask_rate: float = 0.3
) -> LossCurve:
    """Pre-train from random weights for a few steps and watch the loss on held-out text.

    The documents and masks of the examination are those of `pretraining.pretrain`, so the curve
    can stand beside the history of the shipped checkpoint.
    Raises ValueError for steps or evaluate_every below 1.
    """
    if min(steps, evaluate_every) < 1:
        raise ValueError(
            f"steps and evaluate_every must be at least 1, got {steps} and {evaluate_every}."
        )
    ids = corpus(BATCH_SIZE * steps)
    evaluation = Evaluation(build_tokenizer(), FINANCE_SHARE, mask_rate)
    model = random_weights(seed)
    corrupt = corruption("80/10/10", mask_rate, model.config.vocab_size)
    seen, losses = [0], [evaluation.loss(model)]
    run = training_run(model, ids, steps, corrupt, seed)
    for step, _ in tqdm(run, total=steps, desc="pre-training", leave=False):
        if step % evaluate_every == 0 or step == steps:
            seen.append(step)
            losses.append(evaluation.loss(model))
    targets = evaluation.ids[evaluation.masked]  # (M,)
    words = ids[ordinary_tokens(ids)]
    counts = torch.bincount(words, minlength=len(vocabulary())).double() + 1  # never log 0
    frequencies = -(counts / counts.sum()).log()[targets].mean().item()
    return LossCurve(seen, losses, evaluation.floor, frequencies, float(np.log(len(counts))))


@dataclass(frozen=True)
class KindLoss:
    """Masked-LM loss on words of one kind: their share of all, and nats per word."""

    kind: str
    share: float
    model: float
    ideal: float


def loss_by_kind(model, mask_rate: float = 0.3, documents: int = 1000) -> list[KindLoss]:
    """On which words a model of the course's language is worse than the ideal reader.

    The exam of `pretraining.pretrain`, its masked words sorted into topic words, tone words,
    weekdays and the rest (function words, punctuation, degrees and people).
    """
    evaluation = Evaluation(build_tokenizer(), FINANCE_SHARE, mask_rate, documents)
    ids, masked = evaluation.ids, evaluation.masked  # (N, T)
    targets = ids[masked]  # (M,)
    inputs = ids.masked_fill(masked, MASK)
    with torch.no_grad():
        logits = [
            model(rows, attention_mask=(rows != PAD).long()).logits[where]
            for rows, where in zip(inputs.split(250), masked.split(250), strict=True)
        ]
    losses = torch.nn.functional.cross_entropy(torch.cat(logits), targets, reduction="none")
    ideal = masked_log_probs(ids.numpy(), masked.numpy(), FINANCE_SHARE)  # (M, V)
    floors = -torch.from_numpy(ideal).gather(1, targets.unsqueeze(1)).squeeze(1)
    index = {word: number for number, word in enumerate(vocabulary())}
    left, found = torch.ones(len(targets), dtype=torch.bool), []
    for kind, words in WORD_KINDS.items():
        of_kind = torch.isin(targets, torch.tensor([index[word] for word in words])) & left
        left &= ~of_kind
        found.append((kind, of_kind))
    return [
        KindLoss(
            kind,
            rows.double().mean().item(),
            losses[rows].mean().item(),
            floors[rows].mean().item(),
        )
        for kind, rows in [*found, ("the rest", left)]
        if rows.any()
    ]


@dataclass(frozen=True)
class ContextFloors:
    """Lowest loss at one position of a text, in nats, for an ideal reader of two kinds.

    positions: T places, 1 is the first word.  both_sides: (T,), every other word is seen.
    left_only: (T,), the words before it are seen, and how long the text is.
    """

    positions: list[int]
    both_sides: list[float]
    left_only: list[float]


def context_floors(documents: int = 150, last: int = 17, every: int = 2) -> ContextFloors:
    """What it costs not to see the words to the right: exact, by enumeration over the language.

    The mean over held-out documents of the entropy of the word at each place.
    Raises ValueError for numbers below 1, or a last position that no text reaches.
    """
    if min(documents, last, every) < 1:
        raise ValueError(
            f"documents, last and every must be at least 1, got {documents}, {last} and {every}."
        )
    ids = encode(sample_documents(documents, HELD_OUT_SEED, None, FINANCE_SHARE))  # (N, T)
    ordinary = ordinary_tokens(torch.from_numpy(ids)).numpy()
    floors = ContextFloors(list(range(1, last + 1, every)), [], [])
    for position in tqdm(floors.positions, desc="ideal readers", leave=False):
        rows = ordinary[:, position] if position < ids.shape[1] else np.array([False])
        if not rows.any():
            raise ValueError(f"No text has a word at position {position}.")
        places = np.arange(ids.shape[1])
        floors.both_sides.append(_first_entropy(ids[rows], ordinary[rows] & (places == position)))
        floors.left_only.append(_first_entropy(ids[rows], ordinary[rows] & (places >= position)))
    return floors


def _first_entropy(ids: np.ndarray, masked: np.ndarray) -> float:
    """Mean entropy in nats of the first masked token of each row."""
    log_probs = masked_log_probs(ids, masked, FINANCE_SHARE)  # (M, V)
    number = masked.sum(axis=1)
    first = log_probs[np.cumsum(number) - number]  # (N, V)
    possible = np.where(np.isfinite(first), first, 0.0)
    return float(-(np.exp(first) * possible).sum(axis=1).mean())


def mask_rates(
    out: str | Path,
    steps: int = 2000,
    seeds: int = 3,
    evaluate_every: int = 500,
    documents: int = DOCUMENTS,
    progress: bool = True,
) -> dict:
    """Pre-train with every one of SETTINGS at equal steps, and write what they reach to `out`.

    out: a JSON file, replaced after each run; runs that it holds already are not made again.
    Returns {"settings": ..., "runs": [...]}, a run with `mask_rate`, `corruption`, `seed`,
    `seconds`, `own_word` (see `own_word_probability`) and `history`: per evaluation the `step`,
    `loss` and `floor` (nats per token, held-out text with 15 % pure [MASK], the same for all) and
    `probe_20`, `probe_100`, `probe_1000` (accuracy on the sentiment of reviews). Step 0 is the
    model with random weights.
    Raises ValueError for settings out of range, or an `out` that is no such file or one with
    other settings.
    """
    settings = {
        "steps": steps,
        "evaluate_every": evaluate_every,
        "documents": documents,
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "held_out_mask_rate": HELD_OUT_RATE,
    }
    for name, value in {**settings, "seeds": seeds}.items():
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}.")
    wanted = [
        {"mask_rate": rate, "corruption": name, "seed": seed}
        for seed in range(seeds)
        for rate, name in SETTINGS
    ]

    @functools.cache
    def exam() -> tuple[Tensor, Evaluation]:  # made when the first run needs it
        return corpus(documents), Evaluation(build_tokenizer(), FINANCE_SHARE, HELD_OUT_RATE)

    def measure(run: dict) -> dict:
        ids, evaluation = exam()
        started = time.perf_counter()
        model = random_weights(run["seed"])
        corrupt = corruption(run["corruption"], run["mask_rate"], model.config.vocab_size)
        history = [{"step": 0} | evaluation(model)]
        training = training_run(model, ids, steps, corrupt, run["seed"])
        for step, _ in tqdm(training, total=steps, disable=not progress, leave=False):
            if step % evaluate_every == 0 or step == steps:
                history.append({"step": step} | evaluation(model))
        return {
            "seconds": round(time.perf_counter() - started),
            "own_word": round(own_word_probability(model, evaluation.ids), 4),
            "history": history,
        }

    return run_missing(out, settings, wanted, measure, progress)


def course_of(result: dict, measure: str, mask_rate: float, corruption: str) -> np.ndarray:
    """(S, T): a measure of `history`, such as "probe_100", per seed and evaluation."""
    runs = runs_of(result, mask_rate=mask_rate, corruption=corruption)
    return np.array([[row[measure] for row in run["history"]] for run in runs])


@torch.no_grad()
def own_word_probability(model, ids: Tensor) -> float:
    """Mean probability that the model gives to the word it sees, on text without any [MASK].

    ids: (N, T) token ids; special tokens and padding do not count. A model that was only ever
    asked about [MASK] has no reason to keep the words it can see.
    """
    ordinary = ordinary_tokens(ids)
    was_training = model.training
    model.eval()
    total = 0.0
    for rows, counted in zip(ids.split(250), ordinary.split(250), strict=True):
        logits = model(rows, attention_mask=(rows != PAD).long()).logits[counted]  # (M, V)
        probability = logits.softmax(dim=-1).gather(1, rows[counted].unsqueeze(1))
        total += probability.sum().item()
    model.train(was_training)
    return total / int(ordinary.sum())


def ordinary_tokens(ids: Tensor) -> Tensor:  # (N, T) -> (N, T) bool
    """Where a document has words, not [CLS], [SEP] or padding."""
    return ~torch.isin(ids, torch.tensor([PAD, CLS, SEP]))
