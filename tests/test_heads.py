"""Spans and token labels; every head trained, saved, and run by a transformers pipeline."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    pipeline,
)

from course_lib import bert, language
from course_lib.grammar import WEEKDAYS
from course_lib.heads import IGNORED, align_labels, best_span
from course_lib.sentence_pairs import sentence_pairs
from course_lib.trainer import Settings, Trainer


def by_trying_all(starts, ends, mask, max_length):
    best, found = -float("inf"), None
    for i in range(len(starts)):
        for j in range(i, min(i + max_length, len(starts))):
            inside = all(mask[i : j + 1])
            if inside and (found is None or starts[i] + ends[j] > best):
                best, found = starts[i] + ends[j], (i, j)
    return found


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.booleans()), min_size=1, max_size=12
    ),
    max_length=st.integers(1, 14),
)
def test_the_best_span_is_found_among_all(rows, max_length):
    starts, ends, mask = zip(*rows, strict=True)
    if any(mask):
        tensors = torch.tensor(starts).float(), torch.tensor(ends).float(), torch.tensor(mask)
        assert best_span(*tensors, max_length) == by_trying_all(starts, ends, mask, max_length)


def test_an_end_before_the_start_is_no_span():
    starts, ends = torch.tensor([0.0, 9.0, 0.0]), torch.tensor([9.0, 0.0, 1.0])
    assert best_span(starts, ends, torch.ones(3), 3) == (1, 2)


def test_question_and_padding_are_no_answer():
    logits = torch.tensor([9.0, 1.0, 2.0, 9.0])
    assert best_span(logits, logits, torch.tensor([0, 1, 1, 0]), 4) == (2, 2)


def test_logits_of_minus_infinity_still_give_a_span_of_the_context():
    nothing = torch.full((4,), -torch.inf)
    assert best_span(nothing, nothing, torch.tensor([0, 0, 1, 1]), 2) == (2, 2)


@pytest.mark.parametrize(
    "starts, mask, max_length, message",
    [
        (torch.zeros(3), torch.ones(4), 2, r"one shape \(T,\), got \(3,\), \(3,\) and \(4,\)"),
        (torch.zeros(3), torch.ones(3), 0, "max_length must be at least 1, got 0"),
        (torch.zeros(3), torch.zeros(3), 2, "No token is in the context"),
        (torch.tensor([0.0, float("nan")]), torch.ones(2), 2, "NaN"),
    ],
)
def test_spans_that_cannot_be_are_refused(starts, mask, max_length, message):
    with pytest.raises(ValueError, match=message):
        best_span(starts, starts, mask, max_length)


def test_only_the_first_piece_of_a_word_is_labelled():
    assert align_labels([3, 0, 5], [None, 0, 0, 1, 2, 2, None]) == [
        IGNORED, 3, IGNORED, 0, 5, IGNORED, IGNORED,
    ]  # fmt: skip


def test_labels_of_a_real_tokenizer_survive_truncation():
    tokenizer = bert.build_tokenizer()
    words = ["the", "zebra", "was", "good", "."]
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=7)
    labels = align_labels([0, 1, 2, 3, 4], encoded.word_ids())
    pieces = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    assert [label for label in labels if label != IGNORED] == [0, 1]
    assert pieces[labels.index(1)] == "z" and len(labels) == 7
    collator = DataCollatorForTokenClassification(tokenizer)  # reads the same convention
    batch = collator([{"input_ids": encoded["input_ids"], "labels": labels}])
    assert batch["labels"].tolist() == [labels]


def test_a_word_without_a_label_is_refused():
    with pytest.raises(ValueError, match="a token of word 2, but 2 labels"):
        align_labels([0, 1], [0, 1, 2])


# --- all four heads, from training to a pipeline --------------------------------------------------

RUN = Settings(epochs=4, batch_size=16, learning_rate=1e-3, seed=1)


def trained(head, rows, tests, tmp_path, **changes):
    model, tokenizer = bert.load(head=head, **changes)
    trainer = Trainer(model, RUN, rows)
    trainer.fit(progress=False)
    accuracy = trainer.evaluate(tests)[1]
    model.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return accuracy, model, tokenizer


def documents(number, seed):
    return language.sample_documents(number, seed=seed, domain="reviews")


def test_classification_of_reviews(tmp_path):
    tokenizer = bert.build_tokenizer()

    def rows(number, seed):
        return [
            {"input_ids": tokenizer(document.text)["input_ids"], "labels": int(document.sentiment)}
            for document in documents(number, seed)
        ]

    tests = rows(200, 2)
    accuracy, _, tokenizer = trained("sequence_classification", rows(100, 1), tests, tmp_path)
    assert accuracy > 0.85
    classify = pipeline("text-classification", model=str(tmp_path))
    texts = [document.text for document in documents(20, 2)]
    guesses = [int(found["label"].split("_")[1]) for found in classify(texts)]
    right = [guess == row["labels"] for guess, row in zip(guesses, tests, strict=False)]
    assert sum(right) >= 16


def test_sentence_pairs_in_their_order(tmp_path):
    tokenizer = bert.build_tokenizer()

    def rows(number, seed):
        texts = [[document.first, document.second] for document in documents(number, seed)]
        pairs = sentence_pairs(texts, "sop", torch.Generator().manual_seed(seed))
        return [{**tokenizer(pair.first, pair.second), "labels": pair.label} for pair in pairs]

    settings = dataclasses.replace(RUN, epochs=6)
    model, tokenizer = bert.load(head="sequence_classification")
    trainer = Trainer(model, settings, rows(600, 1))
    trainer.fit(progress=False)
    assert trainer.evaluate(rows(200, 2))[1] > 0.7
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    row = {name: torch.tensor([value]) for name, value in tokenizer("a", "b").items()}
    torch.testing.assert_close(again(**row).logits, model.eval()(**row).logits)


def test_tags_of_words(tmp_path):
    """Is a word a weekday?"""
    tokenizer = bert.build_tokenizer()
    days = {day.lower() for day in WEEKDAYS}

    def rows(number, seed):
        made = []
        for document in documents(number, seed):
            words = document.text.lower().replace(",", " ,").replace(".", " .").split()
            encoded = tokenizer(words, is_split_into_words=True)
            labels = align_labels([int(word in days) for word in words], encoded.word_ids())
            made.append({"input_ids": encoded["input_ids"], "labels": labels})
        return made

    tests = rows(100, 2)
    share = sum(label == 1 for row in tests for label in row["labels"])
    total = sum(label != IGNORED for row in tests for label in row["labels"])
    accuracy, model, _ = trained("token_classification", rows(100, 1), tests, tmp_path)
    assert accuracy > 1 - 0.2 * share / total  # always saying no would be wrong in 1 of them
    again = AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert again.config.num_labels == model.config.num_labels == 2
    found = pipeline("token-classification", model=str(tmp_path))(documents(1, 5)[0].text)
    named = {entry["word"] for entry in found if entry["entity"] == "LABEL_1"}
    assert named and named <= days


def test_spans_of_answers(tmp_path):
    """On which day did it happen? The answer is the first weekday."""
    tokenizer = bert.build_tokenizer()
    days = {tokenizer.convert_tokens_to_ids(day.lower()) for day in WEEKDAYS}

    def rows(number, seed):
        made = []
        for document in documents(number, seed):
            ids = tokenizer("on", document.text)["input_ids"]
            place = next(i for i, token in enumerate(ids) if token in days)
            made.append({"input_ids": ids, "start_positions": place, "end_positions": place})
        return made

    tests = rows(100, 2)
    accuracy, model, _ = trained("question_answering", rows(200, 1), tests, tmp_path)
    assert accuracy > 0.8  # one place of about thirty by chance
    again = AutoModelForQuestionAnswering.from_pretrained(tmp_path).eval()
    ids = torch.tensor([tests[0]["input_ids"]])
    output = again(ids)
    context = torch.ones(ids.shape[1], dtype=torch.bool)
    context[:3] = context[-1] = False
    start, end = best_span(output.start_logits[0], output.end_logits[0], context, 4)
    assert tests[0]["start_positions"] == start <= end
