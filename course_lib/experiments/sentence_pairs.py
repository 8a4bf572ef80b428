"""Notebook 02: what next-sentence and sentence-order prediction ask of a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from course_lib.freezing import linear_probe
from course_lib.grammar import CLS, PAD, SEP, Grammar, english
from course_lib.language import bayes_accuracy, encode, sample_documents
from course_lib.sentence_pairs import sentence_pairs

TASKS = ("nsp", "sop")
TOPIC_DIMENSIONS = 20


@dataclass(frozen=True)
class PairAccuracy:
    """Test accuracy of linear models on sentence pairs, and what an ideal reader reaches.

    shared: task -> S numbers, one a seed: features of what the two sentences have in common.
    sides: task -> S numbers: one bag of words for each side.
    ideal: task -> expected accuracy of the ideal reader.
    ideal_without_weekdays: the same if the weekdays are hidden.
    """

    shared: dict[str, list[float]]
    sides: dict[str, list[float]]
    ideal: dict[str, float]
    ideal_without_weekdays: dict[str, float]


def pair_accuracy(seeds: int = 3, documents: int = 8000, test_documents: int = 2000):
    """Train linear models on bags of words to tell real pairs of sentences from false ones.

    Each seed draws documents of its own and makes one pair of each, half of them negative.
    Returns a PairAccuracy. The order limit is exact; the one of next sentences is the mean over
    the test pairs of the ideal reader's probability of being right.
    Raises ValueError for seeds below 1 or fewer than 10 documents to train or test on.
    """
    if seeds < 1 or min(documents, test_documents) < 10:
        raise ValueError(
            "wanted seeds of at least 1 and 10 documents or more, got "
            f"{seeds}, {documents} and {test_documents}."
        )
    shared, sides = {task: [] for task in TASKS}, {task: [] for task in TASKS}
    certainty, certainty_of_words = [], []
    for seed in tqdm(range(seeds), desc="sentence pairs", leave=False):
        drawn = sample_documents(documents + test_documents, seed)
        texts = [[document.first, document.second] for document in drawn]
        train, test = texts[:documents], texts[documents:]
        vectors = TopicVectors([" ".join(text) for text in train])
        generator = torch.Generator().manual_seed(seed)
        for task in TASKS:
            parts = [_columns(sentence_pairs(part, task, generator)) for part in (train, test)]
            labels = [part[2] for part in parts]
            common = [vectors.shared(*part[:2]) for part in parts]
            bags = [np.hstack([word_counts(side) for side in part[:2]]) for part in parts]
            shared[task].append(linear_probe(common[0], labels[0], common[1], labels[1]))
            sides[task].append(linear_probe(bags[0], labels[0], bags[1], labels[1]))
            if task == "nsp":
                words, weekdays = next_sentence_evidence(*parts[1][:2])
                certainty.append(_probability_of_being_right(words + weekdays))
                certainty_of_words.append(_probability_of_being_right(words))
    return PairAccuracy(
        shared,
        sides,
        {"nsp": float(np.mean(certainty)), "sop": bayes_accuracy("order")},
        {"nsp": float(np.mean(certainty_of_words)), "sop": 0.5},
    )


class TopicVectors:
    """Latent semantic analysis: words that share documents get similar vectors.

    Truncated singular value decomposition of the counts of words in documents, rare words
    weighted up (idf). Deerwester et al. 1990. No label is used.
    """

    def __init__(self, texts: Sequence[str], dimensions: int = TOPIC_DIMENSIONS):
        from sklearn.decomposition import TruncatedSVD

        counts = word_counts(texts)
        documents_with = (counts > 0).sum(axis=0)
        self.weights = np.log(len(counts) / np.maximum(documents_with, 1)) * (documents_with > 0)
        self.projection = TruncatedSVD(dimensions, random_state=0).fit(counts * self.weights)

    def __call__(self, sentences: Sequence[str]) -> np.ndarray:  # (N, dimensions)
        return self.projection.transform(word_counts(sentences) * self.weights)

    def shared(self, firsts: Sequence[str], seconds: Sequence[str]) -> np.ndarray:
        """(N, 2 * dimensions): products and distances, the same whichever sentence comes first."""
        left, right = self(firsts), self(seconds)
        return np.hstack([left * right, np.abs(left - right)])


def word_counts(sentences: Sequence[str]) -> np.ndarray:
    """(N, V) how often each word occurs; special tokens do not count.

    Raises ValueError for a word which the language does not have.
    """
    ids = encode(sentences)  # (N, T)
    counts = np.zeros((len(ids), len(english().words)))
    for column in ids.T:
        np.add.at(counts, (np.arange(len(ids)), column), 1.0)
    counts[:, [PAD, CLS, SEP]] = 0.0
    return counts


def next_sentence_evidence(
    firsts: Sequence[str], seconds: Sequence[str], finance_share: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Log odds, in nats, that the second sentence follows the first rather than comes from another
    document: of all words but the weekday, and of the weekdays, (N,) each.

    Given the topic and the tone the weekdays depend on nothing else, so the two add up. The
    alternative is any sentence of another document, first or second. -inf: it cannot follow.
    Raises ValueError for a sentence which the language cannot say, or no first sentence.
    """
    grammar = english()
    prior = grammar.prior(finance_share)  # (C,)
    (first, first_day), (second, second_day) = (
        _likelihood(grammar, sentences) for sentences in (firsts, seconds)
    )
    pairs = grammar.day_pairs
    days_first, days_any = pairs.sum(axis=1), (pairs.sum(axis=1) + pairs.sum(axis=0)) / 2
    apart = (first @ prior) * (second @ prior)
    apart_days = days_first[first_day] * days_any[second_day]
    if (apart <= 0).any() or (apart_days <= 0).any():
        row = int(np.flatnonzero((apart <= 0) | (apart_days <= 0))[0])
        raise ValueError(
            "These cannot be a first sentence and another one of the generated language: "
            f"{firsts[row]!r} and {seconds[row]!r}."
        )
    with np.errstate(divide="ignore"):
        words = np.log((first * second) @ prior / apart)
        weekdays = np.log(pairs[first_day, second_day] / apart_days)
    return words, weekdays


def _likelihood(grammar: Grammar, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """P(words without the weekday | cell) (N, C), and the weekday (N,)."""
    ids = encode(sentences)[:, 1:]  # (N, T) without [CLS]
    lengths = ((ids != PAD) & (ids != SEP)).sum(axis=1)
    likelihood = np.zeros((len(ids), len(grammar.cells)))
    for form in grammar.forms:
        rows = np.flatnonzero(lengths == len(form.slots))
        if not len(rows):
            continue
        dated = np.isin(ids[rows, form.day], grammar.weekdays)
        product = dated[:, None] * form.probability
        for position, kind in enumerate(form.slots):
            if position != form.day:
                product = product * grammar.emission[kind][:, ids[rows, position]].T
        likelihood[rows] += product
    day = (ids[:, :, None] == grammar.weekdays).any(axis=1).argmax(axis=1)
    return likelihood, day


def _columns(pairs) -> tuple[list[str], list[str], np.ndarray]:
    firsts, seconds, labels = zip(*pairs, strict=True)
    return list(firsts), list(seconds), np.array(labels)


def _probability_of_being_right(log_odds: np.ndarray) -> float:
    return float((1 / (1 + np.exp(-np.abs(log_odds)))).mean())
