"""Sentence pairs for next-sentence prediction and sentence-order prediction (notebook 02)."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch

FOLLOWS, DOES_NOT_FOLLOW = 1, 0


class SentencePair(NamedTuple):
    """Two sentences; label 1 when the second follows the first in a document, else 0."""

    first: str
    second: str
    label: int


def sentence_pairs(
    documents: Sequence[Sequence[str]], kind: str, generator: torch.Generator | None = None
) -> list[SentencePair]:
    """One labelled pair for every two neighbouring sentences of a document, half of them negative.

    "nsp" (next sentence, Devlin et al. 2019, section 3.1): a negative's second sentence comes from
    another document, drawn uniformly.  "sop" (sentence order, Lan et al. 2020, section 3.1): a
    negative is the same two sentences swapped. No pair reaches across a document's end.

    documents: lists of sentences; a document of one sentence gives no pair.
    Returns pairs in the order of the text; the numbers of positives and negatives differ by at
    most one.
    Raises ValueError for another kind, no neighbouring sentences at all, or "nsp" with fewer than
    two documents that hold a sentence; TypeError for a document that is one long string.
    Differs from the papers in that the classes are balanced exactly, not in expectation.
    """
    if kind not in ("nsp", "sop"):
        raise ValueError(f"kind must be 'nsp' or 'sop', got {kind!r}.")
    if isinstance(documents, str) or any(isinstance(document, str) for document in documents):
        raise TypeError("a document must be a list of sentences, got one string.")
    places = [(d, s) for d, document in enumerate(documents) for s in range(len(document) - 1)]
    if not places:
        raise ValueError("documents hold no two neighbouring sentences.")
    sentences = [sentence for document in documents for sentence in document]
    starts = [0, *accumulate(len(document) for document in documents)]
    if kind == "nsp" and any(len(document) == len(sentences) for document in documents):
        raise ValueError("'nsp' takes its negatives from other documents, and there is only one.")
    negative = torch.randperm(len(places), generator=generator) < len(places) // 2
    pairs = []
    for (d, s), is_negative in zip(places, negative.tolist(), strict=True):
        first, second = documents[d][s], documents[d][s + 1]
        if not is_negative:
            pairs.append(SentencePair(first, second, FOLLOWS))
        elif kind == "sop":
            pairs.append(SentencePair(second, first, DOES_NOT_FOLLOW))
        else:
            elsewhere = len(sentences) - len(documents[d])
            draw = int(torch.randint(elsewhere, (), generator=generator))
            draw += len(documents[d]) if draw >= starts[d] else 0  # step over document d
            pairs.append(SentencePair(first, sentences[draw], DOES_NOT_FOLLOW))
    return pairs
