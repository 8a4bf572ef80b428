"""Sentence pairs: where the two sentences of a pair come from decides its label."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.sentence_pairs import DOES_NOT_FOLLOW, FOLLOWS, SentencePair, sentence_pairs


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_documents(lengths):
    return [[f"{d}.{s}" for s in range(length)] for d, length in enumerate(lengths)]


def place(sentence):
    d, s = sentence.split(".")
    return int(d), int(s)


lengths = st.lists(st.integers(0, 6), min_size=2, max_size=8).filter(
    lambda found: max(found) > 1 and sum(length > 0 for length in found) > 1
)


@settings(max_examples=200, deadline=None)
@given(lengths=lengths, kind=st.sampled_from(["nsp", "sop"]), seed=st.integers(0, 10**6))
def test_every_two_neighbours_give_one_pair_with_the_label_that_their_places_say(
    lengths, kind, seed
):
    """Against brute force: all pairs of neighbours in order, and what may replace the second."""
    documents = make_documents(lengths)
    pairs = sentence_pairs(documents, kind, seeded(seed))
    neighbours = [
        (documents[d][s], documents[d][s + 1])
        for d in range(len(documents))
        for s in range(lengths[d] - 1)
    ]
    assert len(pairs) == len(neighbours)
    for pair, (first, second) in zip(pairs, neighbours, strict=True):
        assert isinstance(pair, SentencePair)
        if pair.label == FOLLOWS:
            assert pair[:2] == (first, second)
        elif kind == "sop":
            assert pair == (second, first, DOES_NOT_FOLLOW)
        else:
            assert pair.first == first and pair.label == DOES_NOT_FOLLOW
            assert place(pair.second)[0] != place(first)[0]
    labels = Counter(pair.label for pair in pairs)
    assert labels[FOLLOWS] - labels[DOES_NOT_FOLLOW] in (0, 1)


def test_negatives_are_uniform_over_all_sentences_of_other_documents():
    documents = make_documents([401, 5, 0, 1, 4])
    drawn = Counter()
    for seed in range(20):
        pairs = sentence_pairs(documents, "nsp", seeded(seed))
        drawn.update(p.second for p in pairs if not p.label and place(p.first)[0] == 0)
    elsewhere = {sentence for document in documents[1:] for sentence in document}
    assert set(drawn) == elsewhere
    average = drawn.total() / len(elsewhere)  # about 400
    deviation = sum((n - average) ** 2 / average for n in drawn.values())
    assert deviation < 35  # chi-square with 9 degrees of freedom: p < 1e-4


def test_which_pairs_are_negative_is_decided_by_the_generator_alone():
    documents = make_documents([30, 20])
    state = torch.get_rng_state()
    for kind in ("nsp", "sop"):
        first, again, other = (sentence_pairs(documents, kind, seeded(s)) for s in (0, 0, 1))
        assert first == again
        assert [pair.label for pair in first] != [pair.label for pair in other]
    assert torch.equal(torch.get_rng_state(), state)


def test_every_place_is_negative_half_of_the_time():
    documents = make_documents([6, 5])
    counts = torch.zeros(9)
    for seed in range(400):
        counts += torch.tensor([p.label for p in sentence_pairs(documents, "sop", seeded(seed))])
    # 5 of 9 are positive; the standard deviation of a share is 0.025.
    assert (counts / 400 - 5 / 9).abs().max() < 5 * 0.025


def test_documents_stay_as_they_are_and_may_be_tuples():
    documents = make_documents([4, 0, 1, 3])
    before = [list(document) for document in documents]
    pairs = sentence_pairs(documents, "nsp", seeded())
    assert documents == before
    assert sentence_pairs(tuple(map(tuple, documents)), "nsp", seeded()) == pairs


def test_repeated_sentences_do_not_confuse_places():
    documents = [["yes"] * 30, ["no"] * 20]
    pairs = sentence_pairs(documents, "nsp", seeded(3))
    assert len(pairs) == 48
    assert all((pair.first == pair.second) == (pair.label == FOLLOWS) for pair in pairs)


def test_without_a_generator_the_global_one_decides():
    documents = make_documents([20, 20])
    with torch.random.fork_rng():
        made = []
        for _ in range(2):
            torch.manual_seed(1)
            made.append(sentence_pairs(documents, "nsp"))
    assert made[0] == made[1]


def test_one_document_is_enough_for_sentence_order():
    (pair,) = sentence_pairs([["a", "b"]], "sop", seeded())
    assert pair == ("a", "b", FOLLOWS)


@pytest.mark.parametrize(
    ("documents", "kind", "error", "words"),
    [
        ([["a", "b"], ["c"]], "NSP", ValueError, "'nsp' or 'sop', got 'NSP'"),
        ([["a"], ["b"], []], "sop", ValueError, "no two neighbouring"),
        ([], "nsp", ValueError, "no two neighbouring"),
        ([["a", "b"], []], "nsp", ValueError, "only one"),
        (["one. two.", "three."], "nsp", TypeError, "list of sentences"),
        ("one. two.", "sop", TypeError, "list of sentences"),
    ],
)
def test_bad_arguments_are_refused_with_a_sentence(documents, kind, error, words):
    with pytest.raises(error, match=words):
        sentence_pairs(documents, kind, seeded())
