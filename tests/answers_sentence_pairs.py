"""Other answers to `sentence_pairs`: right ones, and known mistakes in other words."""

import random

import torch

# Right


def coin_for_every_pair(documents, kind, generator=None):
    pairs = []
    for d, document in enumerate(documents):
        others = [other for e, other in enumerate(documents) if e != d and other]
        for s in range(len(document) - 1):
            first, second = document[s], document[s + 1]
            if torch.rand(1, generator=generator).item() < 0.5:
                pairs.append((first, second, 1))
            elif kind == "sop":
                pairs.append((second, first, 0))
            else:
                other = others[torch.randint(len(others), (1,), generator=generator).item()]
                place = torch.randint(len(other), (1,), generator=generator).item()
                pairs.append((first, other[place], 0))
    return pairs


def balanced_exactly_and_shuffled(documents, kind, generator=None):
    text = [(s, d) for d, document in enumerate(documents) for s in document]
    neighbours = [(a, b, d) for (a, d), (b, e) in zip(text, text[1:], strict=False) if d == e]
    order = torch.randperm(len(neighbours), generator=generator).tolist()
    pairs = []
    for rank, place in enumerate(order):
        first, second, d = neighbours[place]
        if rank % 2:
            pairs.append([first, second, True])
        elif kind == "sop":
            pairs.append([second, first, False])
        else:
            e = d
            while e == d:
                other, e = text[int(torch.randint(len(text), (), generator=generator))]
            pairs.append([first, other, False])
    return pairs


def draws_everything_at_once(documents, kind, generator=None):
    neighbours = [
        (d, *pair)
        for d, document in enumerate(documents)
        for pair in zip(document[:-1], document[1:], strict=True)
    ]
    labels = torch.randint(2, (len(neighbours),), generator=generator)
    draws = torch.rand(len(neighbours), generator=generator)
    others = {
        d: [s for e, other in enumerate(documents) if e != d for s in other]
        for d in range(len(documents))
    }
    pairs = []
    for (d, first, second), label, draw in zip(neighbours, labels, draws, strict=True):
        if not label and kind == "nsp":
            second = others[d][int(draw * len(others[d]))]
        elif not label:
            first, second = second, first
        pairs.append((first, second, label))
    return pairs


def seeds_pythons_random(documents, kind, generator=None):
    chance = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    pairs = []
    for document in documents:
        elsewhere = [s for other in documents if other is not document for s in other]
        for first, second in zip(document[:-1], document[1:], strict=True):
            label = chance.randrange(2)
            negative = (second, first, 0) if kind == "sop" else (first, chance.choice(elsewhere), 0)
            pairs.append((first, second, 1) if label else negative)
    return pairs


# Wrong


def relabelled(answer, label):
    """An answer whose labels are changed."""

    def changed(documents, kind, generator=None):
        return [(a, b, label(c)) for a, b, c in answer(documents, kind, generator)]

    return changed


def shuffles_the_documents(documents, kind, generator=None):
    order = torch.randperm(len(documents), generator=generator).tolist()
    documents[:] = [documents[d] for d in order]
    return coin_for_every_pair(documents, kind, generator)


def joins_all_documents(documents, kind, generator=None):
    text = [(s, d) for d, document in enumerate(documents) for s in document]
    pairs = []
    for s in range(1, len(text)):
        (first, d), (second, _) = text[s - 1], text[s]
        if torch.randint(2, (), generator=generator):
            pairs.append((first, second, 1))
        elif kind == "sop":
            pairs.append((second, first, 0))
        else:
            e = d
            while e == d:
                second, e = text[int(torch.randint(len(text), (), generator=generator))]
            pairs.append((first, second, 0))
    return pairs


def negatives_with(choose):
    """NSP negatives from another sentence of the same document, chosen by `choose`."""

    def answer(documents, kind, generator=None):
        pairs = []
        for document in documents:
            for s in range(len(document) - 1):
                if torch.rand((), generator=generator) < 0.5:
                    pairs.append((document[s], document[s + 1], 1))
                elif kind == "sop":
                    pairs.append((document[s + 1], document[s], 0))
                else:
                    pairs.append((document[s], choose(document, s, generator), 0))
        return pairs

    return answer


def not_the_next_one(document, s, generator):
    others = [sentence for t, sentence in enumerate(document) if t not in (s, s + 1)]
    others = others or document
    return others[int(torch.randint(len(others), (), generator=generator))]


def the_one_before(document, s, generator):
    return document[s - 1]


def any_document(documents, kind, generator=None):
    full = [document for document in documents if document]
    pairs = []
    for document in documents:
        for s in range(len(document) - 1):
            if torch.rand((), generator=generator) < 0.5:
                pairs.append((document[s], document[s + 1], 1))
            elif kind == "sop":
                pairs.append((document[s + 1], document[s], 0))
            else:
                other = full[int(torch.randint(len(full), (), generator=generator))]
                place = int(torch.randint(len(other), (), generator=generator))
                pairs.append((document[s], other[place], 0))
    return pairs


def nsp_for_both(documents, kind, generator=None):
    return coin_for_every_pair(documents, "nsp", generator)


def swaps_after_drawing(documents, kind, generator=None):
    pairs = coin_for_every_pair(documents, "nsp", generator)
    return [(b, a, c) if kind == "sop" and not c else (a, b, c) for a, b, c in pairs]


def with_share_of_positives(share):
    def answer(documents, kind, generator=None):
        pairs = []
        for d, document in enumerate(documents):
            others = [s for e, other in enumerate(documents) if e != d for s in other]
            for s in range(len(document) - 1):
                if torch.rand((), generator=generator) < share:
                    pairs.append((document[s], document[s + 1], 1))
                elif kind == "sop":
                    pairs.append((document[s + 1], document[s], 0))
                else:
                    place = int(torch.randint(len(others), (), generator=generator))
                    pairs.append((document[s], others[place], 0))
        return pairs

    return answer


def chooses_from_an_empty_document(documents, kind, generator=None):
    chance = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    pairs = []
    for document in documents:
        elsewhere = [other for other in documents if other is not document]
        for s in range(len(document) - 1):
            first, second = document[s], document[s + 1]
            if chance.random() < 0.5:
                pairs.append((first, second, 1))
            elif kind == "sop":
                pairs.append((second, first, 0))
            else:
                pairs.append((first, chance.choice(chance.choice(elsewhere)), 0))
    return pairs


def looks_at_the_first_sentence(documents, kind, generator=None):
    by_start = {document[0]: document for document in documents}
    return coin_for_every_pair(list(by_start.values()), kind, generator)


def takes_turns(documents, kind, generator=None):
    pairs = []
    for d, document in enumerate(documents):
        others = [s for e, other in enumerate(documents) if e != d for s in other]
        for s in range(len(document) - 1):
            if len(pairs) % 2:
                pairs.append((document[s], document[s + 1], 1))
            elif kind == "sop":
                pairs.append((document[s + 1], document[s], 0))
            else:
                pairs.append((document[s], others[len(pairs) % len(others)], 0))
    return pairs


def draws_the_first(documents, kind, generator=None):
    if kind == "sop":
        return coin_for_every_pair(documents, kind, generator)
    pairs = []
    for document in documents:
        others = [other for other in documents if other is not document and other]
        for s in range(1, len(document)):
            label = int(torch.randint(2, (), generator=generator))
            other = others[int(torch.randint(len(others), (), generator=generator))]
            drawn = other[int(torch.randint(len(other), (), generator=generator))]
            pairs.append((document[s - 1] if label else drawn, document[s], label))
    return pairs


def always_a_sentence(place):
    """NSP negatives that are the sentence at this place of another document."""

    def answer(documents, kind, generator=None):
        pairs = []
        for d, document in enumerate(documents):
            others = [other for e, other in enumerate(documents) if e != d and other]
            for s in range(len(document) - 1):
                if torch.rand((), generator=generator) < 0.5:
                    pairs.append((document[s], document[s + 1], 1))
                elif kind == "sop":
                    pairs.append((document[s + 1], document[s], 0))
                else:
                    other = others[int(torch.randint(len(others), (), generator=generator))]
                    pairs.append((document[s], other[place], 0))
        return pairs

    return answer


def coin_without_generator(documents, kind, generator=None):
    return coin_for_every_pair(documents, kind)


RIGHT = {
    "sentence_pairs": [
        coin_for_every_pair,
        balanced_exactly_and_shuffled,
        draws_everything_at_once,
        seeds_pythons_random,
    ],
}
VARIANTS = {
    "sentence_pairs": {
        "changes_the_documents": [shuffles_the_documents],
        "swaps_the_labels": [relabelled(balanced_exactly_and_shuffled, lambda c: 1 - c)],
        "pairs_across_documents": [joins_all_documents],
        "nsp_from_the_same_document": [
            negatives_with(not_the_next_one),
            negatives_with(the_one_before),
        ],
        "nsp_from_any_document": [any_document],
        "sop_from_another_document": [nsp_for_both, swaps_after_drawing],
        "unbalanced_classes": [
            with_share_of_positives(0.25),
            with_share_of_positives(0.667),
            with_share_of_positives(1.0),
            with_share_of_positives(0.0),
        ],
        "stopped_by_an_empty_document": [
            chooses_from_an_empty_document,
            looks_at_the_first_sentence,
        ],
        "nsp_replaces_the_first": [draws_the_first],
        "nsp_always_the_first_sentence": [
            always_a_sentence(0),
            always_a_sentence(-1),
        ],
        "alternates_the_labels": [takes_turns],
        "ignores_the_generator": [coin_without_generator],
    }
}
