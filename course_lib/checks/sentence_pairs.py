"""Checks of notebook 02 (`course_lib.sentence_pairs`): pairs for NSP and SOP."""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from course_lib import sentence_pairs as reference
from course_lib.checks.exercise import Case, Chance, Exercise, Failure, Observation, Property
from course_lib.checks.observe import TWO_CALLS, observe_call, same
from course_lib.checks.properties import (
    describe,
    ignores_generator,
    own_generator,
    unchanged_inputs,
)

# Exact balance and fair coins are both right. Of 840 coins the share of heads has a standard
# deviation of 0.017; it passes within 6 of them (a right answer fails once in 10^8 checks). A coin
# of one third is 3.9 beyond the border in each of two cases, so it passes as rarely.
SIGMAS = 6

NSP = ("few nsp", "many nsp", "two documents nsp")
SOP = ("few sop", "many sop", "two documents sop")
SHORT = ("short nsp", "short sop")


def _case(kind, task, generator, lengths: Sequence[int]):
    """Documents of these lengths; sentence 3 of document 2 reads "d2s3", so all are unique."""
    documents = [
        [f"d{d}s{s}" for s in range(1, length + 1)] for d, length in enumerate(lengths, start=1)
    ]
    chance = Chance(int(torch.randint(2**31, (), generator=generator)))
    arguments = {"documents": documents, "kind": task, "generator": chance}
    shown = ", ".join(map(str, lengths)) if len(lengths) < 8 else f"{min(lengths)} or more"
    text = f"{task!r}, documents of {shown} sentences, d2s1 is the first of document 2"
    return Case(kind, arguments, text=text)


def _for_both_tasks(generator, lengths_of_kinds: dict[str, list[int]]) -> list[Case]:
    return [
        _case(kind if kind == TWO_CALLS else f"{kind} {task}", task, generator, lengths)
        for kind, lengths in lengths_of_kinds.items()
        for task in ("nsp", "sop")
    ]


def _lengths(generator, documents: int, shortest: int, longest: int) -> list[int]:
    return torch.randint(shortest, longest + 1, (documents,), generator=generator).tolist()


def _cases(seed):
    generator = torch.Generator().manual_seed(seed)
    few, several = _lengths(generator, 3, 4, 7), _lengths(generator, 6, 5, 9)
    short = [*_lengths(generator, 20, 2, 5), *10 * [1, 0, 0], *_lengths(generator, 20, 2, 5), 0, 1]
    many = _lengths(generator, 6, 141, 170)
    return _for_both_tasks(
        generator, {"few": few, TWO_CALLS: several, "short": short, "many": many}
    )


def _hidden_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    two = _lengths(generator, 2, 20, 30)
    short = [*20 * [0], *_lengths(generator, 40, 1, 3), *20 * [0], 2]
    many = [1, *_lengths(generator, 3, 81, 120)]
    return _for_both_tasks(generator, {"two documents": two, "short": short, "many": many})


class Pair(NamedTuple):
    """A pair by its places in the documents: (document, sentence), both from 0."""

    first: tuple[int, int]
    second: tuple[int, int]
    label: int
    text: str

    @property
    def same_document(self) -> bool:
        return self.first[0] == self.second[0]

    @property
    def follows(self) -> bool:
        return self.same_document and self.second[1] == self.first[1] + 1

    @property
    def swapped(self) -> bool:
        return self.same_document and self.first[1] == self.second[1] + 1


def _places(case: Case) -> dict[str, tuple[int, int]]:
    return {
        sentence: (d, s)
        for d, document in enumerate(case.arguments["documents"])
        for s, sentence in enumerate(document)
    }


def _pairs(case: Case, seen: Observation) -> list[Pair] | Failure:
    """The pairs of an answer, or what is wrong with their form."""
    wanted = "a list of (sentence, sentence, 0 or 1)"
    if not isinstance(seen.output, list):
        return Failure(wanted, describe(seen.output))
    places, pairs = _places(case), []
    for item in seen.output:
        if not isinstance(item, list) or len(item) != 3:
            return Failure(wanted, f"an entry {item!r:.40}")
        first, second, label = item
        if not all(
            isinstance(sentence, str) and sentence in places for sentence in (first, second)
        ):
            return Failure(wanted, f"an entry {item!r:.40}")
        if isinstance(label, torch.Tensor) and label.numel() == 1:
            label = label.item()
        if not isinstance(label, int | float) or label not in (0, 1):
            return Failure(wanted, f"an entry {item!r:.40}")
        text = f"({first}, {second}, {int(label)})"
        pairs.append(Pair(places[first], places[second], int(label), text))
    return pairs


def _neighbours(case: Case) -> int:
    return sum(max(len(document) - 1, 0) for document in case.arguments["documents"])


def _about_pairs(name: str, points: float, test: Callable, kinds: tuple[str, ...]) -> Property:
    """A property of the pairs of a case: test(case, pairs) -> Failure or None."""

    def whole_test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        pairs = _pairs(case, observed)
        return pairs if isinstance(pairs, Failure) else test(case, pairs)

    return Property(name, points, whole_test, kinds=kinds)


def _test_form(case: Case, pairs: list[Pair]) -> Failure | None:
    return None if pairs else Failure(f"{_neighbours(case)} pairs", "an empty list")


def _test_positives(case: Case, pairs: list[Pair]) -> Failure | None:
    for pair in pairs:
        if pair.label == reference.FOLLOWS and not pair.follows:
            return Failure("label 1 where the second follows the first", pair.text)
    return None


def _test_nsp_negatives(case: Case, pairs: list[Pair]) -> Failure | None:
    negatives = _negatives(pairs)
    for pair in negatives:
        if pair.same_document:
            return Failure("label 0 where the second is from another document", pair.text)
    if not negatives and case.kind == "many nsp":
        return Failure("pairs with label 0", "none")
    firsts, documents = Counter(pair.first for pair in pairs), case.arguments["documents"]
    for pair in negatives:
        document, sentence = pair.first
        if firsts[pair.first] > 1 or sentence == len(documents[document]) - 1:
            return Failure("every first sentence of two neighbours once", pair.text)
    distances = {pair.second[0] - pair.first[0] for pair in negatives}
    if case.kind == "many nsp" and len(distances) < 3:
        return Failure("negatives from any other document", f"only {len(distances)} documents away")
    if case.kind == "many nsp" and _one_place_each(case, negatives):
        return Failure(
            "negatives from all over their documents",
            f"only {len({pair.second for pair in negatives})} different second sentences",
        )
    return None


def _one_place_each(case: Case, negatives: list[Pair]) -> bool:
    """Whether no more sentences are drawn than there are documents.

    With 80 or more draws from 240 or more sentences, a right answer draws dozens.
    """
    return 0 < len({pair.second for pair in negatives}) <= len(case.arguments["documents"])


def _test_sop_negatives(case: Case, pairs: list[Pair]) -> Failure | None:
    negatives = _negatives(pairs)
    for pair in negatives:
        if not pair.swapped:
            return Failure("label 0 where two neighbours are swapped", pair.text)
    return None if negatives or case.kind != "many sop" else Failure("pairs with label 0", "none")


def _negatives(pairs: list[Pair]) -> list[Pair]:
    return [pair for pair in pairs if pair.label == reference.DOES_NOT_FOLLOW]


def _test_number(case: Case, pairs: list[Pair]) -> Failure | None:
    wanted = _neighbours(case)
    return None if len(pairs) == wanted else Failure(f"{wanted} pairs", f"{len(pairs)} pairs")


def _test_balance(case: Case, pairs: list[Pair]) -> Failure | None:
    if _balanced(pairs):
        return _test_number(case, pairs)
    return Failure("label 1 in 50 % of the pairs", f"in {100 * _positive_share(pairs):.0f} %")


def _balanced(pairs: list[Pair]) -> bool:
    border = SIGMAS * 0.5 / math.sqrt(max(len(pairs), 1))
    return abs(_positive_share(pairs) - 0.5) <= border


def _positive_share(pairs: list[Pair]) -> float:
    return sum(pair.label == reference.FOLLOWS for pair in pairs) / max(len(pairs), 1)


sentence_pairs = Exercise(
    name="sentence_pairs",
    reference=reference.sentence_pairs,
    cases=_cases,
    hidden_cases=_hidden_cases,
    properties=(
        _about_pairs("form", 0.5, _test_form, ("few nsp", "few sop")),
        unchanged_inputs(0.5, kinds=(*NSP, *SOP), name="untouched documents"),
        _about_pairs("positives", 0.5, _test_positives, (*NSP, *SOP)),
        _about_pairs("NSP negatives", 1, _test_nsp_negatives, NSP),
        _about_pairs("SOP negatives", 1, _test_sop_negatives, SOP),
        _about_pairs("number and balance", 0.5, _test_balance, (*NSP, *SOP)),
        _about_pairs("short documents", 0.5, _test_number, SHORT),
        own_generator(0.5, kinds=("few nsp", "few sop", TWO_CALLS)),
    ),
    observe=observe_call,
)


def _pair_mistake(sentence: str, why: str, look_at: str, when: Callable, fails: str = ""):
    """A mistake that shows in the places of the pairs: when(case, pairs) -> bool, in any case."""

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        for case, seen in zip(cases, observations, strict=True):
            if case.kind == TWO_CALLS or seen.error:
                continue
            pairs = _pairs(case, seen)
            if isinstance(pairs, Failure):
                return False
            if when(case, pairs):
                return True
        return False

    return sentence_pairs.mistake(sentence, why, look_at, recognise, fails)


@sentence_pairs.mistake(
    "it changes the documents it was given",
    why="the caller's next epoch would find other documents, or none.",
    look_at="which of the methods that you call on a list change that list?",
    recognise=lambda cases, observations: any(seen.changed for seen in observations),
    fails="untouched documents",
)
def changes_the_documents(documents, kind, generator=None):
    pairs = []
    for document in documents:
        while len(document) > 1:
            first, second = document.pop(0), document[0]
            if torch.rand((), generator=generator) < 0.5:
                pairs.append((first, second, 1))
            elif kind == "sop":
                pairs.append((second, first, 0))
            else:
                others = [s for other in documents if other is not document for s in other]
                place = int(torch.randint(len(others), (), generator=generator))
                pairs.append((first, others[place], 0))
    return pairs


@_pair_mistake(
    "the labels are swapped",
    why="here 1 says that the second sentence follows. BERT's own code has it the other way round, "
    "so look up which convention a model was trained with.",
    look_at="what does the description say label 1 stands for?",
    when=lambda case, pairs: (
        case.kind in ("many nsp", "many sop")
        and all(pair.follows == (pair.label == reference.DOES_NOT_FOLLOW) for pair in pairs)
    ),
    fails="positives",
)
def swaps_the_labels(documents, kind, generator=None):
    pairs = []
    for d, document in enumerate(documents):
        others = [s for e, other in enumerate(documents) if e != d for s in other]
        for first, second in zip(document[:-1], document[1:], strict=True):
            if torch.rand((), generator=generator) < 0.5:
                pairs.append((first, second, 0))
            elif kind == "sop":
                pairs.append((second, first, 1))
            else:
                place = int(torch.randint(len(others), (), generator=generator))
                pairs.append((first, others[place], 1))
    return pairs


@_pair_mistake(
    "a pair reaches across a document's end",
    why="the first sentence of a document does not follow the last one of the document before.",
    look_at="what is the last first sentence that a document can give?",
    when=lambda case, pairs: _reaches_across(case, pairs),
)
def pairs_across_documents(documents, kind, generator=None):
    text = [(s, d) for d, document in enumerate(documents) for s in document]
    pairs = []
    for (first, d), (second, _) in zip(text[:-1], text[1:], strict=True):
        if torch.rand((), generator=generator) < 0.5:
            pairs.append((first, second, 1))
        elif kind == "sop":
            pairs.append((second, first, 0))
        else:
            others = [s for s, e in text if e != d]
            place = int(torch.randint(len(others), (), generator=generator))
            pairs.append((first, others[place], 0))
    return pairs


def _reaches_across(case: Case, pairs: list[Pair]) -> bool:
    """One pair too many for every further document, and some between two documents."""
    lengths = [len(document) for document in case.arguments["documents"]]
    between = any(not pair.same_document and 0 in (pair.first[1], pair.second[1]) for pair in pairs)
    return between and len(pairs) == sum(lengths) - 1 > _neighbours(case)


@_pair_mistake(
    "the negatives of NSP come from the same document",
    why="both sentences are then about one thing, and some of these pairs even are neighbours.",
    look_at="from which documents may the second sentence of a negative be drawn?",
    when=lambda case, pairs: (
        case.kind == "many nsp"
        and sum(pair.same_document for pair in _negatives(pairs)) > 0.9 * len(_negatives(pairs)) > 0
    ),
    fails="NSP negatives",
)
def nsp_from_the_same_document(documents, kind, generator=None):
    pairs = []
    for document in documents:
        for first, second in zip(document[:-1], document[1:], strict=True):
            if torch.rand((), generator=generator) < 0.5:
                pairs.append((first, second, 1))
            elif kind == "sop":
                pairs.append((second, first, 0))
            else:
                place = int(torch.randint(len(document), (), generator=generator))
                pairs.append((first, document[place], 0))
    return pairs


@_pair_mistake(
    "a negative of NSP may come from the same document by chance",
    why="now and then such a pair is a pair of neighbours with the label 0.",
    look_at="from which documents is the second sentence drawn? Is the first one's among them?",
    when=lambda case, pairs: (
        case.kind == "many nsp" and any(pair.same_document for pair in _negatives(pairs))
    ),
    fails="NSP negatives",
)
def nsp_from_any_document(documents, kind, generator=None):
    sentences = [s for document in documents for s in document]
    pairs = []
    for document in documents:
        for first, second in zip(document[:-1], document[1:], strict=True):
            if torch.rand((), generator=generator) < 0.5:
                pairs.append((first, second, 1))
            elif kind == "sop":
                pairs.append((second, first, 0))
            else:
                place = int(torch.randint(len(sentences), (), generator=generator))
                pairs.append((first, sentences[place], 0))
    return pairs


@_pair_mistake(
    "a negative of NSP replaces the first sentence and keeps the second",
    why="the question is what follows a given sentence, so the first one is given and the second "
    "one is drawn.",
    look_at="compare the first sentences of all your pairs with those of the documents.",
    when=lambda case, pairs: case.kind == "many nsp" and _keeps_the_second(pairs),
    fails="NSP negatives",
)
def nsp_replaces_the_first(documents, kind, generator=None):
    pairs = []
    for d, document in enumerate(documents):
        others = [s for e, other in enumerate(documents) if e != d for s in other]
        for first, second in zip(document[:-1], document[1:], strict=True):
            if torch.rand((), generator=generator) < 0.5:
                pairs.append((first, second, 1))
            elif kind == "sop":
                pairs.append((second, first, 0))
            else:
                place = int(torch.randint(len(others), (), generator=generator))
                pairs.append((others[place], second, 0))
    return pairs


def _keeps_the_second(pairs: list[Pair]) -> bool:
    """Whether every second sentence comes once, as it does where all first ones are drawn."""
    return len({pair.second for pair in pairs}) == len(pairs) > len({pair.first for pair in pairs})


@_pair_mistake(
    "a negative of NSP always takes the same sentence of a document, such as its first",
    why="first sentences are titles and greetings; a model would learn to know them, and need not "
    "read the other one.",
    look_at="which sentences of another document can your draw give, and which never?",
    when=lambda case, pairs: case.kind == "many nsp" and _one_place_each(case, _negatives(pairs)),
    fails="NSP negatives",
)
def nsp_always_the_first_sentence(documents, kind, generator=None):
    pairs = []
    for d, document in enumerate(documents):
        others = [other for e, other in enumerate(documents) if e != d and other]
        for first, second in zip(document[:-1], document[1:], strict=True):
            if torch.rand((), generator=generator) < 0.5:
                pairs.append((first, second, 1))
            elif kind == "sop":
                pairs.append((second, first, 0))
            else:
                place = int(torch.randint(len(others), (), generator=generator))
                pairs.append((first, others[place][0], 0))
    return pairs


@_pair_mistake(
    "the negatives of SOP come from another document",
    why="then the topic gives the answer away, as in NSP; SOP was made to ask for order alone.",
    look_at="which two sentences does a negative of SOP hold, and what is wrong with them?",
    when=lambda case, pairs: (
        case.kind == "many sop" and any(not pair.same_document for pair in _negatives(pairs))
    ),
    fails="SOP negatives",
)
def sop_from_another_document(documents, kind, generator=None):
    pairs = []
    for d, document in enumerate(documents):
        others = [s for e, other in enumerate(documents) if e != d for s in other]
        for first, second in zip(document[:-1], document[1:], strict=True):
            if torch.rand((), generator=generator) < 0.5:
                pairs.append((first, second, 1))
            else:
                place = int(torch.randint(len(others), (), generator=generator))
                pairs.append((first, others[place], 0))
    return pairs


@_pair_mistake(
    "one class is more frequent than the other",
    why="a model that always gives the larger class looks better than chance.",
    look_at="how likely is each label for one pair of neighbours?",
    when=lambda case, pairs: not _balanced(pairs),
)
def unbalanced_classes(documents, kind, generator=None):
    pairs = []
    for d, document in enumerate(documents):
        others = [s for e, other in enumerate(documents) if e != d for s in other]
        for first, second in zip(document[:-1], document[1:], strict=True):
            if torch.randint(3, (), generator=generator) > 0:
                pairs.append((first, second, 1))
            elif kind == "sop":
                pairs.append((second, first, 0))
            else:
                place = int(torch.randint(len(others), (), generator=generator))
                pairs.append((first, others[place], 0))
    return pairs


@sentence_pairs.mistake(
    "a document of one sentence, or of none, stops it",
    why="real collections hold both: titles, and files that were empty.",
    look_at="what does each of your draws do when the list it draws from is empty?",
    recognise=lambda cases, observations: (
        {case.kind for case, seen in zip(cases, observations, strict=True) if seen.error}
        in ({"short nsp"}, {"short sop"}, set(SHORT))
    ),
    fails="short documents",
)
def stopped_by_an_empty_document(documents, kind, generator=None):
    pairs = []
    for d, document in enumerate(documents):
        for first, second in zip(document[:-1], document[1:], strict=True):
            if torch.rand((), generator=generator) < 0.5:
                pairs.append((first, second, 1))
            elif kind == "sop":
                pairs.append((second, first, 0))
            else:
                e = int(torch.randint(len(documents) - 1, (), generator=generator))
                other = documents[e + (e >= d)]
                place = int(torch.randint(len(other), (), generator=generator))
                pairs.append((first, other[place], 0))
    return pairs


def _takes_turns(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    """Whether two calls give the same pairs somewhere, with labels that alternate."""
    for case, seen in zip(cases, observations, strict=True):
        if case.kind == TWO_CALLS and not seen.error and same(*seen.output):
            pairs = _pairs(case, Observation(output=seen.output[0]))
            if not isinstance(pairs, Failure):
                return all(left.label != right.label for left, right in pairwise(pairs))
    return False


@sentence_pairs.mistake(
    "nothing random decides the label",
    why="a model could read the label off the place of the pair, without reading the sentences, "
    "and every epoch would ask the same questions.",
    look_at="what does the label of one pair depend on? Is there a draw in it?",
    recognise=_takes_turns,
    fails="the generator decides",
)
def alternates_the_labels(documents, kind, generator=None):
    pairs = []
    for d, document in enumerate(documents):
        others = [s for e, other in enumerate(documents) if e != d for s in other]
        for first, second in zip(document[:-1], document[1:], strict=True):
            if len(pairs) % 2 == 0:
                pairs.append((first, second, 1))
            elif kind == "sop":
                pairs.append((second, first, 0))
            else:
                place = int(torch.randint(len(others), (), generator=generator))
                pairs.append((first, others[place], 0))
    return pairs


@sentence_pairs.mistake(
    "not all chance comes from the generator",
    why="two people who use the same seed should get the same pairs, and so should you after a "
    "restart.",
    look_at="what decides between the labels, and which sentence a negative gets?",
    recognise=ignores_generator,
    fails="the generator decides",
)
def ignores_the_generator(documents, kind, generator=None):
    pairs = []
    for d, document in enumerate(documents):
        others = [s for e, other in enumerate(documents) if e != d for s in other]
        for first, second in zip(document[:-1], document[1:], strict=True):
            if random.random() < 0.5:
                pairs.append((first, second, 1))
            elif kind == "sop":
                pairs.append((second, first, 0))
            else:
                pairs.append((first, random.choice(others), 0))
    return pairs


EXERCISES = (sentence_pairs,)
