"""Notebook 02's experiment on sentence pairs, at tiny sizes."""

import re
from collections import Counter

import numpy as np
import pytest
import torch

from course_lib.experiments import sentence_pairs as experiment
from course_lib.grammar import PAD, WEEKDAYS, english
from course_lib.language import encode, sample_documents, vocabulary
from course_lib.sentence_pairs import sentence_pairs


@pytest.fixture(scope="module")
def texts():
    return [[document.first, document.second] for document in sample_documents(3000, 7)]


def columns(pairs):
    return [list(column) for column in zip(*pairs, strict=True)]


def test_word_counts_are_counts(texts):
    sentences = [texts[0][0], texts[1][1], " ".join(texts[2])]
    counts = experiment.word_counts(sentences)
    for sentence, row in zip(sentences, counts, strict=True):
        words = re.sub(r"([.,:])", r" \1", sentence).lower().split()
        assert {vocabulary()[i]: row[i] for i in np.flatnonzero(row)} == Counter(words)
    with pytest.raises(ValueError, match="zebra"):
        experiment.word_counts(["the zebra was good"])


def test_what_two_sentences_share_does_not_depend_on_their_order(texts):
    vectors = experiment.TopicVectors([" ".join(text) for text in texts[:300]], dimensions=8)
    firsts, seconds = (list(side) for side in zip(*texts[:20], strict=True))
    forth, back = vectors.shared(firsts, seconds), vectors.shared(seconds, firsts)
    assert forth.shape == (20, 16)
    np.testing.assert_array_equal(forth, back)
    assert not np.allclose(forth, vectors.shared(firsts, seconds[1:] + seconds[:1]))


def likelihoods(sentence):
    """P(form and words without the weekday | cell), by plain loops."""
    grammar = english()
    ids = [i for i in encode([sentence])[0, 1:-1] if i != PAD]
    result = []
    for cell in range(len(grammar.cells)):
        total = 0.0
        for form in grammar.forms:
            if len(form.slots) != len(ids):
                continue
            product = form.probability[cell]
            for position, (kind, word) in enumerate(zip(form.slots, ids, strict=True)):
                if position != form.day:
                    product *= grammar.emission[kind][cell, word]
            total += product
        result.append(total)
    return np.array(result)


def test_the_evidence_of_words_equals_a_slow_computation(texts):
    generator = torch.Generator().manual_seed(0)
    firsts, seconds, _ = columns(sentence_pairs(texts[:40], "nsp", generator))
    words, _ = experiment.next_sentence_evidence(firsts, seconds, finance_share=0.3)
    prior = english().prior(0.3)
    for first, second, found in zip(firsts, seconds, words, strict=True):
        left, right = likelihoods(first), likelihoods(second)
        together, apart = (prior * left * right).sum(), (prior @ left) * (prior @ right)
        with np.errstate(divide="ignore"):
            assert found == pytest.approx(np.log(together / apart), rel=1e-9)


def test_the_ideal_readers_probabilities_are_calibrated(texts):
    pairs = sentence_pairs(texts, "nsp", torch.Generator().manual_seed(1))
    firsts, seconds, labels = columns(pairs)
    words, weekdays = experiment.next_sentence_evidence(firsts, seconds)
    for log_odds in (words + weekdays, words, weekdays):
        with np.errstate(over="ignore"):
            probability = 1 / (1 + np.exp(-log_odds))
        for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.0)):
            inside = (probability >= low) & (probability <= high)
            if inside.sum() < 50:
                continue
            wanted = probability[inside].mean()
            error = 4 * np.sqrt((probability[inside] * (1 - probability[inside])).sum())
            found = np.array(labels)[inside].mean()
            assert abs(found - wanted) <= error / inside.sum() + 1e-12


def test_weekdays_in_the_wrong_order_cannot_follow(texts):
    firsts, seconds = (list(side) for side in zip(*texts[:200], strict=True))
    words, weekdays = experiment.next_sentence_evidence(firsts, seconds)
    assert np.isfinite(words).all() and np.isfinite(weekdays).all()
    # Where the second sentence's day could open a document, swapping breaks nothing but the order.
    days = [next(day for day in WEEKDAYS if day in second.lower()) for second in seconds]
    rows = [row for row, day in enumerate(days) if day != "sunday"]
    assert len(rows) > 50
    swapped = [[side[row] for row in rows] for side in (seconds, firsts)]
    words_back, weekdays_back = experiment.next_sentence_evidence(*swapped)
    assert (weekdays_back == -np.inf).all()
    np.testing.assert_allclose(words_back, words[rows])


def test_sentences_of_another_language_are_refused(texts):
    first, second = texts[0]
    day = next(day for day in WEEKDAYS if day in first.lower())
    undated = re.sub(day, "good", first, flags=re.IGNORECASE)
    for wrong in (undated, f"{first} {first}", " ".join(reversed(first.rstrip(".").split()))):
        with pytest.raises(ValueError, match="cannot be a first sentence"):
            experiment.next_sentence_evidence([wrong], [second])


def test_topic_solves_nsp_and_order_needs_sides():
    result = experiment.pair_accuracy(seeds=1, documents=1500, test_documents=600)
    assert result.shared["nsp"][0] > 0.65
    # 600 pairs: three standard deviations of chance are 0.06.
    assert abs(result.shared["sop"][0] - 0.5) < 0.07
    assert result.sides["sop"][0] > 0.9
    assert result.ideal["sop"] == 1.0
    assert result.ideal_without_weekdays["nsp"] < result.ideal["nsp"] < 1
    assert result.shared["nsp"][0] < result.ideal["nsp"]


@pytest.mark.parametrize(
    "numbers", [{"seeds": 0}, {"documents": 9}, {"test_documents": 9}], ids=lambda n: str(*n)
)
def test_too_little_to_measure_is_refused(numbers):
    with pytest.raises(ValueError, match="wanted seeds of at least 1"):
        experiment.pair_accuracy(**numbers)
