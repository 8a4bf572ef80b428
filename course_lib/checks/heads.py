"""Checks of notebook 10, heads: labels for pieces of words, and the best span of an answer."""

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import torch
from torch import Tensor

from course_lib import heads
from course_lib.checks.exercise import Case, Exercise, Failure, Observation, Property
from course_lib.checks.observe import leaves, observe_call, observe_steps
from course_lib.checks.properties import describe, number, unchanged_inputs


def _whole(generator: torch.Generator, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _as_whole(leaf) -> int | None:
    """A whole number, or a tensor of one, as an int; None for anything else."""
    if isinstance(leaf, Tensor):
        whole = leaf.numel() == 1 and not leaf.is_floating_point() and not leaf.is_complex()
        return int(leaf) if whole and leaf.dtype != torch.bool else None
    return leaf if isinstance(leaf, int) and not isinstance(leaf, bool) else None


def _as_wholes(output) -> list[int] | None:
    """A list or a tensor of whole numbers as a list; None for anything else."""
    if isinstance(output, Tensor) and output.ndim == 1:
        output = list(output)
    if not isinstance(output, list):
        return None
    found = [_as_whole(leaf) for leaf in output]
    return None if None in found else found


# align_labels

PIECES, SPECIALS, TRUNCATED, WINDOW = "pieces", "padded", "cut off", "a later window"
LOST, BARE, WHOLE = "a word without tokens", "no special tokens", "whole words"
ALIGNED = (PIECES, SPECIALS, TRUNCATED, WINDOW, LOST, BARE, WHOLE)


def _text(generator: torch.Generator, words: Sequence[int], most: int = 3) -> list[int]:
    """Numbers of words, each as often as the word has pieces; at least one has several."""
    counts = [_whole(generator, 1, most) for _ in words]
    counts[_whole(generator, 0, len(counts) - 1)] = most
    return [word for word, count in zip(words, counts, strict=True) for _ in range(count)]


def _word_labels(generator: torch.Generator, count: int) -> list[int]:
    """Labels 0 to 6 with two equal neighbours, and a first word whose label is not 0."""
    labels = [_whole(generator, 0, 6) for _ in range(count)]
    labels[0] = _whole(generator, 1, 6)
    if count > 2:
        labels[2] = labels[1]
        labels[-1] = (labels[-2] + 1) % 7
    return labels


def _align_case(kind: str, labels: Sequence[int], ids: Sequence[int | None]) -> Case:
    shown = f"labels {labels}, word_ids {ids}"
    text = shown if len(shown) < 90 else f"{len(labels)} labels for {len(ids)} tokens ({kind})"
    return Case(kind, {"word_labels": list(labels), "word_ids": list(ids)}, text=text)


def _align_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed)
    count = _whole(generator, 4, 5)
    labels = _word_labels(generator, count)
    tokens = _text(generator, range(count))
    padding = [None] * _whole(generator, 2, 3)
    later = [None, *_text(generator, range(2, count)), None]
    lost = [*range(1), *range(2, count)]
    return [
        _align_case(WHOLE, labels[:3], [None, 0, 1, 2, None]),
        _align_case(PIECES, labels, [None, *tokens, None]),
        _align_case(SPECIALS, labels, [None, *tokens, None, *padding]),
        _align_case(TRUNCATED, labels + [1, 2], [None, *tokens, None]),
        _align_case(TRUNCATED, labels, [None, 0, 1, 1, 1, None]),
        _align_case(WINDOW, labels, later),
        _align_case(LOST, labels, [None, *_text(generator, lost), None]),
        _align_case(BARE, labels[:1], [0, 0, 0]),
        _align_case(BARE, labels[:2], [0, 1, 1]),
    ]


def _hidden_align_cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed + 1)
    count = _whole(generator, 30, 40)
    labels = _word_labels(generator, count)
    tokens = _text(generator, range(count), 5)
    first = count // 3
    return [
        _align_case(PIECES, labels, [None, *tokens, None]),
        _align_case(SPECIALS, labels, [None] * 4 + [*tokens, None]),  # padded on the left
        _align_case(TRUNCATED, labels, [None, *tokens[: count // 2], None]),
        _align_case(WINDOW, labels, [None, *_text(generator, range(first, count - 4)), None]),
        _align_case(BARE, labels, tokens),
        _align_case("nothing to read", [], []),
        _align_case("specials alone", labels[:2], [None, None]),
    ]


ROLES = ("first piece", "further piece", "special")


def _roles(case: Case) -> list[str]:
    """Of each token, one of `ROLES`."""
    found, previous = [], None
    for word in case.arguments["word_ids"]:
        found.append(ROLES[2] if word is None else ROLES[1] if word == previous else ROLES[0])
        previous = word
    return found


def _test_label_shape(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    labels, wanted = _as_wholes(observed.output), len(expected.output)
    if labels is None:
        return Failure(f"a list of {wanted} whole numbers", _described(observed.output))
    if len(labels) != wanted:
        return Failure(f"a label for each of the {wanted} tokens", f"{len(labels)} labels")
    return None


def _described(output) -> str:
    """What came instead of whole numbers, with its types where they matter."""
    if isinstance(output, Tensor):
        return f"{describe(output)} of {str(output.dtype).removeprefix('torch.')}"
    odd = [leaf for leaf in leaves(output) if _as_whole(leaf) is None]
    if not isinstance(output, list) or not odd:
        return describe(output)
    return f"{describe(output)}, with a {type(odd[0]).__name__} in it"


def _labels_of(name: str, points: float, roles: Sequence[str], kinds: Sequence[str]) -> Property:
    """The labels of the tokens in some roles are right."""

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        failure = _test_label_shape(case, observed, expected)
        if failure:
            return failure
        rows = zip(_roles(case), expected.output, _as_wholes(observed.output), strict=True)
        for place, (role, wanted, got) in enumerate(rows):
            if role in roles and wanted != got:
                return Failure(f"{wanted} for token {place} ({role})", str(got))
        return None

    return Property(name, points, test, kinds=tuple(kinds))


PLAIN = (WHOLE, PIECES, SPECIALS, "specials alone")

align_labels = Exercise(
    name="align_labels",
    reference=heads.align_labels,
    cases=_align_cases,
    hidden_cases=_hidden_align_cases,
    properties=(
        Property("shape", 0.5, _test_label_shape, kinds=(WHOLE, PIECES)),
        _labels_of("first pieces", 1, ROLES[:1], PLAIN),
        _labels_of("further pieces", 0.5, ROLES[1:2], PLAIN),
        _labels_of("special tokens and padding", 0.5, ROLES[2:], PLAIN),
        _labels_of("words that are missing", 1, ROLES, (TRUNCATED, WINDOW, LOST)),
        _labels_of("no special tokens", 0.5, ROLES, (BARE, "nothing to read")),
    ),
    observe=observe_call,
)


def _off_in(*roles: str):
    """Recognises labels that are right in all roles but these, and wrong in all of these."""

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        wrong = set()
        for case, seen in zip(cases, observations, strict=True):
            if case.kind not in PLAIN:
                continue
            got = _as_wholes(seen.output)
            wanted = heads.align_labels(*case.arguments.values())
            if got is None or len(got) != len(wanted):
                return False
            rows = zip(_roles(case), wanted, got, strict=True)
            wrong |= {role for role, right, label in rows if right != label}
        return wrong == set(roles)

    return recognise


def _found_at(
    roles: Sequence[str], cases: Sequence[Case], observations: Sequence[Observation]
) -> Iterator[tuple[int | None, int]]:
    """Of each token in one of the roles: the label of its word, and the label it was given."""
    for case, seen in zip(cases, observations, strict=True):
        if case.kind in PLAIN:
            labels, words = case.arguments.values()
            rows = zip(_roles(case), words, _as_wholes(seen.output), strict=True)
            for role, word, got in rows:
                if role in roles:
                    yield (None if word is None else labels[word]), got


def _gives_further_pieces_their_word(
    cases: Sequence[Case], observations: Sequence[Observation]
) -> bool:
    """Whether further pieces alone are wrong, and each has the label of its word."""
    return _off_in("further piece")(cases, observations) and all(
        label == got for label, got in _found_at(["further piece"], cases, observations)
    )


def _gives_another_number(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    """Whether all that should not count has one and the same number, and the rest is right."""
    if not _off_in("further piece", "special")(cases, observations):
        return False
    return len({got for _, got in _found_at(ROLES[1:], cases, observations)}) == 1


@align_labels.mistake(
    "every piece of a word has its label, not the first one alone",
    why="a word of five pieces would count five times in the loss and in the accuracy; Devlin "
    "et al. predict each word once, from its first piece.",
    look_at="how does your code know that a token goes on with the word before it?",
    recognise=_gives_further_pieces_their_word,
)
def labels_further_pieces(word_labels, word_ids):
    return [-100 if word is None else word_labels[word] for word in word_ids]


@align_labels.mistake(
    "further pieces have a number of their own, where they should not count",
    why="cross_entropy leaves out -100 and nothing else, so a word of five pieces would count five "
    "times.",
    look_at="what does your list hold at the second piece of a word?",
    recognise=_off_in("further piece"),
)
def numbers_further_pieces(word_labels, word_ids):
    labels, previous = [], None
    for word in word_ids:
        labels.append(-100 if word is None else -1 if word == previous else word_labels[word])
        previous = word
    return labels


@align_labels.mistake(
    "tokens that belong to no word have a label",
    why="[CLS], [SEP] and padding would be taught to be a class; with much padding that class "
    "is most of the loss.",
    look_at="what does your code return where the number of the word is None?",
    recognise=_off_in("special"),
)
def labels_special_tokens(word_labels, word_ids):
    labels, previous = [], None
    for word in word_ids:
        if word is None:
            labels.append(0)
        else:
            labels.append(-100 if word == previous else word_labels[word])
        previous = word
    return labels


@align_labels.mistake(
    "what should not count has another number than -100",
    why="cross_entropy leaves out -100 and nothing else: 0 is a class, and -1 is an error.",
    look_at="the number that your code gives to tokens without a label.",
    recognise=_gives_another_number,
)
def another_number_than_ignored(word_labels, word_ids):
    labels, previous = [], None
    for word in word_ids:
        labels.append(word_labels[word] if word not in (None, previous) else -1)
        previous = word
    return labels


@align_labels.mistake(
    "the first word has no label, as if word 0 were no word or had been there before",
    why="0 is false in Python, just like None, and a variable that starts at 0 looks as if a token "
    "of word 0 had been read; so the first word of every text is lost.",
    look_at="how do you ask whether a token belongs to a word, and what does your code believe "
    "stood before the first one?",
)
def takes_word_zero_for_none(word_labels, word_ids):
    labels, previous = [], None
    for word in word_ids:
        labels.append(word_labels[word] if word and word != previous else -100)
        previous = word
    return labels


@align_labels.mistake(
    "the last piece of a word has its label, not the first one",
    why="by convention it is the first; a collator or a score that follows it would look at "
    "another token than your loss.",
    look_at="do you compare a token with its neighbour on the left, or on the right?",
)
def labels_the_last_piece(word_labels, word_ids):
    following = [*word_ids[1:], None]
    return [
        word_labels[word] if word is not None and word != after else -100
        for word, after in zip(word_ids, following, strict=True)
    ]


@align_labels.mistake(
    "a word whose label is the same as that of the word before is taken for a further piece",
    why="two neighbours often have one label, and all but the first of them would be lost.",
    look_at="what do you compare to find out that a new word begins: labels, or word numbers?",
)
def compares_labels_not_words(word_labels, word_ids):
    labels, previous = [], None
    for word in word_ids:
        label = None if word is None else word_labels[word]
        labels.append(-100 if label is None or label == previous else label)
        previous = label
    return labels


@align_labels.mistake(
    "the words are counted, where word_ids says which one it is",
    why="when words are missing, at the start of a later window or because the tokenizer reads "
    "nothing in them, every label from there on is that of another word.",
    look_at="where does your code use the number in word_ids, other than to see that it changes?",
)
def counts_the_words_itself(word_labels, word_ids):
    labels, previous, next_label = [], None, 0
    for word in word_ids:
        if word is None or word == previous:
            labels.append(-100)
        else:
            labels.append(word_labels[next_label])
            next_label += 1
        previous = word
    return labels


@align_labels.mistake(
    "labels of words that were cut off slide onto [SEP] and padding",
    why="a word that was cut off has no token; its label moves everything behind it by one.",
    look_at="does your code go over the words, or over the tokens? Which of them are all there?",
)
def labels_slide_after_truncation(word_labels, word_ids):
    labels = []
    for word in word_ids:
        if word is not None:
            break
        labels.append(-100)
    for word, label in enumerate(word_labels):
        labels += [label] + [-100] * (word_ids.count(word) - 1)
    return (labels + [-100] * len(word_ids))[: len(word_ids)]


@align_labels.mistake(
    "the first token is compared with the last one",
    why="in Python index -1 is the end of the list, so a text of one word without special tokens "
    "has no first piece.",
    look_at="what is the neighbour of token 0 in your code?",
    fails="no special tokens",
)
def compares_the_first_with_the_last(word_labels, word_ids):
    return [
        word_labels[word] if word is not None and word != word_ids[place - 1] else -100
        for place, word in enumerate(word_ids)
    ]


@align_labels.mistake(
    "a token of word 0 is believed to stand in front of the first token",
    why="a text without special tokens begins with word 0, which then looks like a further piece.",
    look_at="what does your code believe stood before the first token?",
    fails="no special tokens",
)
def starts_in_word_zero(word_labels, word_ids):
    labels, previous = [], 0
    for word in word_ids:
        labels.append(word_labels[word] if word is not None and word != previous else -100)
        previous = word
    return labels


@align_labels.mistake(
    "tokens without a label are left out of the list",
    why="labels and tokens go into the model side by side; the lists must have one length.",
    look_at="how many entries has your list, and how many has word_ids?",
)
def leaves_tokens_out(word_labels, word_ids):
    labels, previous = [], None
    for word in word_ids:
        if word is not None and word != previous:
            labels.append(word_labels[word])
        previous = word
    return labels


@align_labels.mistake(
    "special tokens are left out of the list",
    why="labels and tokens go into the model side by side; the lists must have one length.",
    look_at="how many entries has your list, and how many has word_ids?",
)
def leaves_special_tokens_out(word_labels, word_ids):
    labels, previous = [], None
    for word in word_ids:
        if word is None:
            continue
        labels.append(-100 if word == previous else word_labels[word])
        previous = word
    return labels


@align_labels.mistake(
    "it returns the numbers of the words, not their labels",
    why="word_ids says where to look; the class of a word is in word_labels.",
    look_at="what is appended to your list at the first piece of a word?",
)
def gives_the_number_of_the_word(word_labels, word_ids):
    labels, previous = [], None
    for word in word_ids:
        labels.append(-100 if word is None or word == previous else word)
        previous = word
    return labels


@align_labels.mistake(
    "the labels are one token too far to the left",
    why="[CLS] would have the label of the first word, and every word that of its neighbour.",
    look_at="which token is the first entry of your list for?",
)
def labels_one_token_early(word_labels, word_ids):
    labels, previous = [], None
    for word in [*word_ids[1:], None]:
        labels.append(-100 if word is None or word == previous else word_labels[word])
        previous = word
    return labels


# best_span: every kind of case asks for one thing, so that an answer that is wrong in two things is
# named for the first. Scores differ by MARGIN or more where the best span has to be found, far
# beyond what rounding could turn around.

SIMPLE, CROSSED, DECOYS = "simple", "crossed", "decoys"
OUTSIDE, GAP, INTEGERS = "question and padding", "a gap", "integer mask"
SHORT, LOW, NEGATIVE, HALF = "short answers", "far below 0", "below 0", "float16"
EQUAL, LONG, DOUBLE, SINGLE = "equal scores", "long text", "float64", "one token"
MARGIN = 0.5
MOST_TRIES = 1000
# Lines of Python that may run for each token of a long text. A loop over starts or lengths of 30
# lines is well within; one over all pairs of 512 tokens runs 256 times as many as it has lines.
LINES_PER_TOKEN = 60
LONG_TOKENS = 512

Arguments = dict[str, Tensor | int]


def _scores(arguments: Arguments) -> Tensor:  # (T, T)
    """start_logits[i] + end_logits[j] where i to j can be an answer, -inf elsewhere."""
    starts, ends, mask, max_length = arguments.values()
    place = torch.arange(len(starts))
    outside = (~mask.bool()).cumsum(0)  # spans with as many before i as up to j are all inside
    whole = outside[None, :] - outside[:, None] == 0
    length = place[None, :] - place[:, None] + 1
    possible = whole & mask.bool()[:, None] & (length >= 1) & (length <= max_length)
    return (starts.double()[:, None] + ends.double()[None, :]).masked_fill(~possible, -torch.inf)


def _clear(arguments: Arguments) -> bool:
    """Whether one span is better than 0, and than all others, by MARGIN."""
    best, second = _scores(arguments).flatten().topk(2).values.tolist()
    return best - max(second, 0) > MARGIN


def _best(arguments: Arguments, **changes) -> tuple[int, int]:
    return heads.best_span(**arguments | changes)


def _sampled(make: Callable[[], Arguments], *wanted: Callable[[Arguments], bool]) -> Arguments:
    """Arguments with a clear best span for which all of `wanted` is true."""
    for _ in range(MOST_TRIES):
        arguments = make()
        if _clear(arguments) and all(test(arguments) for test in wanted):
            return arguments
    raise AssertionError("No such case was found.")


def _logits(generator: torch.Generator, tokens: int, spread: float = 6.0) -> Tensor:
    return spread * (2 * torch.rand(tokens, generator=generator) - 1)


def _arguments(generator, tokens: int, mask: Tensor | None = None, max_length: int | None = None):
    return {
        "start_logits": _logits(generator, tokens),
        "end_logits": _logits(generator, tokens),
        "context_mask": torch.ones(tokens, dtype=torch.bool) if mask is None else mask,
        "max_length": max_length or tokens + 3,
    }


def _crosses(given: Arguments) -> bool:
    """Whether the best start and end alone make no span, and picking one after the other fails.

    So does taking products, and each of these gives another span.
    """
    starts, ends = given["start_logits"], given["end_logits"]
    start, end = int(starts.argmax()), int(ends.argmax())
    if end >= start:
        return False
    possible, best = _scores(given) > -torch.inf, _best(given)
    products = (starts[:, None] * ends).masked_fill(~possible, -torch.inf)
    after, before = start + int(ends[start:].argmax()), int(starts[: end + 1].argmax())
    wrong = [(start, after), (before, end), (end, start), (start, start), (end, end)]
    return len({best, *wrong, divmod(int(products.argmax()), len(starts))}) == len(wrong) + 2


def _idle_mask(given: Arguments) -> bool:
    """Whether the mask changes nothing: no high logits outside."""
    inside = given["context_mask"]
    highest = [int(given[name].argmax()) for name in ("start_logits", "end_logits")]
    everywhere = _best(given, context_mask=torch.ones_like(inside))
    return bool(inside[highest].all()) and everywhere == _best(given)


def _fits(given: Arguments) -> bool:
    return _best(given) == (int(given["start_logits"].argmax()), int(given["end_logits"].argmax()))


def _needs_the_mask(given: Arguments) -> bool:
    """Whether leaving it out, at either end or at both, gives other spans."""
    mask = given["context_mask"]
    scores = _scores(given | {"context_mask": torch.ones_like(mask)})
    one_end = scores.masked_fill(~mask[:, None], -torch.inf), scores.masked_fill(~mask, -torch.inf)
    tables = (scores, *one_end, _scores(given))
    return len({int(table.argmax()) for table in tables}) == len(tables)


def _crosses_the_gap(given: Arguments) -> bool:
    mask, tokens = given["context_mask"], len(given["context_mask"])
    scores = _scores(given | {"context_mask": torch.ones_like(mask)})
    both = scores.masked_fill(~(mask[:, None] & mask), -torch.inf)
    return divmod(int(both.argmax()), tokens) != _best(given)


def _is_long(given: Arguments) -> bool:
    """Whether the best span has more than one token."""
    start, end = _best(given)
    return start < end


def _lies_behind_the_gap(given: Arguments) -> bool:
    return _best(given)[0] > int(given["context_mask"].long().argmin())


def _uses_the_length(given: Arguments) -> bool:
    """Whether the best span is as long as allowed, and longer ones would be better."""
    (start, end), most = _best(given), given["max_length"]
    longer, longest = (_best(given, max_length=n) for n in (most + 1, len(given["start_logits"])))
    return end - start + 1 == most and len({(start, end), longer, longest}) == 3


def _is_tied(given: Arguments) -> bool:
    """Whether several spans are best, with different starts and, for the first, lengths."""
    scores = _scores(given)
    starts, ends = (scores == scores.max()).nonzero(as_tuple=True)
    return int((starts == starts[0]).sum()) > 1 and len(set(starts.tolist())) > 1


def _context(tokens: int, question: int, padding: int) -> Tensor:
    place = torch.arange(tokens)
    return (place >= question) & (place < tokens - padding)


def _starts_late(given: Arguments) -> bool:
    return _best(given)[0] > 0


def _low(given: Arguments, offset: float) -> Arguments:
    """The same, best span included, with logits lower by `offset` in the context."""
    lower = {
        name: torch.where(given["context_mask"], given[name] - offset, given[name])
        for name in ("start_logits", "end_logits")
    }
    return given | lower


def _crossed(generator: torch.Generator, tokens: int) -> Arguments:
    """The best end lies in front of the best start, and the best span between them.

    Token 0 and the last one are not in the context.
    """
    given = _arguments(generator, tokens, _context(tokens, 1, 1))
    starts, ends = (_logits(generator, tokens, 2.0) for _ in range(2))
    early, late = 3, tokens - 3
    starts[: early + 1] -= 8
    ends[late:] -= 8
    starts[early - 1] -= 10  # where the largest product is
    starts[early] -= 4  # the best start for the best end is another token
    ends[late] -= 4
    starts[late] = ends[early] = 8.0
    first = _whole(generator, early + 1, late - 2)
    starts[first] = ends[first + 1] = 6.0
    starts[[0, -1]] = ends[[0, -1]] = -20.0
    return given | {"start_logits": starts, "end_logits": ends}


def _decoyed(generator: torch.Generator, decoys: int, room: int) -> Arguments:
    """Many high ends at the front and high starts at the back, none of which goes together."""
    given = _arguments(generator, 2 * decoys + room)
    given["end_logits"][:decoys] += 25
    given["start_logits"][-decoys:] += 25
    given["start_logits"][:decoys] -= 40  # the high ends are of no use
    given["end_logits"][-decoys:] -= 40  # nor are the high starts
    return given


def _short(generator: torch.Generator, tokens: int, most: int) -> Arguments:
    """A span of `most` tokens is best among those, and longer ones would be better."""
    given = _arguments(generator, tokens, max_length=most)
    starts, ends = (_logits(generator, tokens, 1.0) for _ in range(2))
    start = _whole(generator, 0, tokens - most - 2)
    starts[start] += 5
    for longer, bonus in enumerate((3, 6, 9)):
        ends[start + most - 1 + longer] += bonus
    return given | {"start_logits": starts, "end_logits": ends}


def _long(generator: torch.Generator) -> Arguments:
    """As many tokens as BERT reads, with one span far ahead of all others."""
    given = _arguments(generator, LONG_TOKENS, None, LONG_TOKENS)
    start = _whole(generator, 50, LONG_TOKENS // 2)
    given["start_logits"][start] += 20
    given["end_logits"][start + _whole(generator, 1, 200)] += 20
    return given


def _tied(generator: torch.Generator, tokens: int) -> Arguments:
    """Whole numbers as logits, so that many spans are equal, and a sum has no rounding."""
    given = _arguments(generator, tokens)
    for _ in range(MOST_TRIES):
        for name in ("start_logits", "end_logits"):
            given[name] = torch.randint(0, 3, (tokens,), generator=generator).float()
        if _is_tied(given):
            return given
    raise AssertionError("No such case was found.")


def _span_case(kind: str, arguments: Arguments) -> Case:
    mask, tokens = arguments["context_mask"], len(arguments["context_mask"])
    inside = mask.bool().nonzero().flatten().tolist()
    gap = ", with a gap" if len(inside) != inside[-1] - inside[0] + 1 else ""
    context = f"context {inside[0]} to {inside[-1]}{gap}"
    text = f"{kind}: {tokens} tokens, {context}, max_length {arguments['max_length']}"
    return Case(kind, arguments, text=text)


def _span_cases(seed: int) -> list[Case]:
    g = torch.Generator().manual_seed(seed)
    tokens, most = _whole(g, 8, 10), _whole(g, 2, 3)
    mask = _context(tokens + 2, _whole(g, 2, 3), _whole(g, 2, 3))
    short = _context(5, 1, 1)
    beginning = _context(tokens, 0, 3)  # no question in front
    gap = torch.ones(tokens, dtype=torch.bool)
    gap[tokens // 2] = False
    outside = _sampled(lambda: _arguments(g, tokens + 2, mask), _needs_the_mask, _is_long)
    in_front = _sampled(lambda: _arguments(g, tokens, beginning), _starts_late)
    behind = _sampled(lambda: _arguments(g, tokens + 2, mask))
    return [
        _span_case(SIMPLE, _sampled(lambda: _arguments(g, 5, short), _idle_mask, _fits)),
        _span_case(CROSSED, _sampled(lambda: _crossed(g, tokens + 2), _crosses, _idle_mask)),
        _span_case(DECOYS, _sampled(lambda: _decoyed(g, 25, tokens))),
        _span_case(OUTSIDE, outside),
        _span_case(INTEGERS, outside | {"context_mask": outside["context_mask"].long()}),
        _span_case(SHORT, _sampled(lambda: _short(g, tokens, most), _uses_the_length)),
        _span_case(NEGATIVE, _low(in_front, 12.5)),
        _span_case(LOW, _low(in_front, 2e4)),
        _span_case(LOW, _low(behind, 2e4)),
        _span_case(HALF, _in_half(behind)),
        _span_case(GAP, _sampled(lambda: _arguments(g, tokens, gap), _crosses_the_gap)),
        _span_case(EQUAL, _tied(g, tokens)),
        _span_case(LONG, _long(g)),
    ]


def _raised(given: Arguments) -> Arguments:
    """The same with logits above 0."""
    return given | {name: given[name].abs() for name in ("start_logits", "end_logits")}


def _in_half(given: Arguments) -> Arguments:
    return {
        name: value.half() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in given.items()
    }


def _hidden_span_cases(seed: int) -> list[Case]:
    g = torch.Generator().manual_seed(seed + 1)
    tokens = _whole(g, 15, 20)
    mask = _context(tokens, _whole(g, 3, 5), _whole(g, 3, 5))
    gap = torch.ones(tokens, dtype=torch.bool)
    gap[[tokens // 3, tokens // 2]] = False
    double = _sampled(lambda: _arguments(g, tokens, mask), _needs_the_mask)
    double |= {name: double[name].double() for name in ("start_logits", "end_logits")}
    integers = _sampled(lambda: _arguments(g, tokens, mask), _needs_the_mask, _is_long)
    integers |= {"context_mask": integers["context_mask"].long()}
    single = _context(tokens, tokens // 2, tokens - tokens // 2 - 1)
    return [
        _span_case(CROSSED, _sampled(lambda: _crossed(g, tokens + 2), _crosses)),
        _span_case(OUTSIDE, _sampled(lambda: _arguments(g, tokens, mask), _needs_the_mask)),
        _span_case(INTEGERS, integers),
        _span_case(DOUBLE, double),
        _span_case(GAP, _sampled(lambda: _arguments(g, tokens, gap), _crosses_the_gap)),
        _span_case(
            GAP,
            _sampled(lambda: _arguments(g, tokens, gap), _crosses_the_gap, _lies_behind_the_gap),
        ),
        _span_case(SHORT, _sampled(lambda: _short(g, tokens, 4), _uses_the_length)),
        _span_case(SHORT, _sampled(lambda: _short(g, 9, 1), _uses_the_length)),
        _span_case(SINGLE, _raised(_arguments(g, 1))),
        _span_case(SINGLE, _raised(_arguments(g, tokens, single))),
        _span_case(EQUAL, _tied(g, tokens)),
    ]


class _TooManyLines(BaseException):
    """Ends an answer that has run more lines than a long text may take."""


def _observe_span(answer: Callable, case: Case, forbidden=frozenset()) -> Observation:
    """Call the answer; for a long text count the lines of Python that it runs.

    The output of a long text is a dict of `span` and `too_many` lines; the answer is stopped when
    there are too many. Unlike a time, the number of lines is the same on every machine.
    """
    if case.kind != LONG:
        return observe_call(answer, case, forbidden)
    limit = LINES_PER_TOKEN * len(case.arguments["start_logits"])

    def steps(arguments):
        before = sys.gettrace()
        try:
            sys.settrace(_line_counter(limit))
            span = answer(*arguments.values())
        except _TooManyLines:
            return {"span": None, "too_many": True}
        finally:
            sys.settrace(before)
        return {"span": span, "too_many": False}

    return observe_steps(steps, answer, case, forbidden)


def _line_counter(limit: int) -> Callable:
    """A trace function that raises _TooManyLines; what PyTorch runs inside does not count."""
    count, inside = 0, os.path.dirname(torch.__file__)

    def count_line(frame: FrameType, event: str, _):
        nonlocal count
        count += event == "line"
        if count > limit:
            raise _TooManyLines
        return count_line

    def trace(frame: FrameType, event: str, _):
        return None if frame.f_code.co_filename.startswith(inside) else count_line

    return trace


def _as_span(output) -> tuple[int, int] | None:
    found = _as_wholes(output)
    return None if found is None or len(found) != 2 else (found[0], found[1])


def _test_span_shape(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    if _as_span(observed.output) is not None:
        return None
    return Failure("two whole numbers, start and end", _described(observed.output))


def _test_span(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    failure = _test_span_shape(case, observed, expected)
    if failure:
        return failure
    wanted, got = _as_span(expected.output), _as_span(observed.output)
    return None if wanted == got else Failure(_explain(case, wanted), _explain(case, got))


def _explain(case: Case, span: tuple[int, int]) -> str:
    """ "3 to 5 (score 7.1)", or why it cannot be an answer."""
    start, end = span
    starts, ends, mask, max_length = case.arguments.values()
    if not (0 <= start < len(starts) and 0 <= end < len(starts)):
        note = "not within the text"
    elif end < start:
        note = "ends before it starts"
    elif not mask[start : end + 1].all():
        note = "not within the context"
    elif end - start >= max_length:
        note = f"{end - start + 1} tokens"
    else:
        note = f"score {number(float(starts[start]) + float(ends[end]))}"
    return f"{start} to {end} ({note})"


def _test_lines(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    if observed.output["too_many"]:
        wanted = f"at most {LINES_PER_TOKEN} lines of Python run for each token"
        return Failure(wanted, "more, so it was stopped")
    span, wanted = _as_span(observed.output["span"]), _as_span(expected.output["span"])
    return None if span == wanted else Failure(_explain(case, wanted), _shown(case, span))


def _shown(case: Case, span: tuple[int, int] | None) -> str:
    return "something else" if span is None else _explain(case, span)


TOGETHER, CONTEXT = (SIMPLE, CROSSED, DECOYS), (OUTSIDE, INTEGERS, DOUBLE, SINGLE)
SIZES = (NEGATIVE, LOW, HALF)

best_span = Exercise(
    name="best_span",
    reference=heads.best_span,
    cases=_span_cases,
    hidden_cases=_hidden_span_cases,
    properties=(
        Property("shape", 0.5, _test_span_shape, kinds=(SIMPLE,)),
        Property("start and end together", 1, _test_span, kinds=TOGETHER),
        Property("context only", 1, _test_span, kinds=CONTEXT),
        Property("longest answer", 0.5, _test_span, kinds=(SHORT,)),
        Property("scores of any size", 0.5, _test_span, kinds=SIZES),
        Property("in one piece", 0.5, _test_span, kinds=(GAP,)),
        Property("equal scores", 0.5, _test_span, kinds=(EQUAL,)),
        unchanged_inputs(0.5, kinds=(SIMPLE, OUTSIDE, SHORT, GAP)),
        Property("long texts", 1, _test_lines, kinds=(LONG,)),
    ),
    observe=_observe_span,
)


def _span_mistake(sentence: str, why: str, look_at: str, kinds: Sequence[str], wordings=()):
    """A mistake by the spans that it gives in some kinds of cases, in one of several wordings.

    If one property looks at all these kinds, it has to be the first that fails.
    """

    def add(answer):
        def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
            pairs = [
                (case, seen)
                for case, seen in zip(cases, observations, strict=True)
                if case.kind in kinds
            ]
            return any(_agrees(wording, pairs) for wording in (answer, *wordings))

        fails = [
            item.name
            for item in best_span.properties
            if item.test is _test_span and set(kinds) <= set(item.kinds)
        ]
        return best_span.mistake(sentence, why, look_at, recognise, *fails)(answer)

    return add


def _agrees(answer: Callable, pairs: Sequence[tuple[Case, Observation]]) -> bool:
    """Whether an answer gives the observed spans, or errors, some of which are wrong."""
    wrong = False
    for case, seen in pairs:
        theirs, error = None, ""
        try:
            theirs = answer(*_copies(case))
        except (RuntimeError, IndexError) as raised:
            error = type(raised).__name__
        if error or seen.error:
            if error != seen.error.partition(":")[0]:
                return False
            wrong = True
            continue
        span = _as_span(list(theirs))
        if span is None or span != _as_span(seen.output):
            return False
        wrong = wrong or span != _best(case.arguments)
    return wrong


def _copies(case: Case) -> list:
    given = case.arguments.values()
    return [value.clone() if isinstance(value, Tensor) else value for value in given]


def _swaps_the_ends(start_logits, end_logits, context_mask, max_length):
    inside = context_mask.bool()
    start = start_logits.masked_fill(~inside, -torch.inf).argmax().item()
    end = end_logits.masked_fill(~inside, -torch.inf).argmax().item()
    return min(start, end), max(start, end)


def _start_twice(start_logits, end_logits, context_mask, max_length):
    start, end = start_logits.argmax().item(), end_logits.argmax().item()
    return (start, end) if start <= end else (start, start)


def _end_twice(start_logits, end_logits, context_mask, max_length):
    start, end = start_logits.argmax().item(), end_logits.argmax().item()
    return (start, end) if start <= end else (end, end)


def _nothing_if_crossed(start_logits, end_logits, context_mask, max_length):
    start, end = start_logits.argmax().item(), end_logits.argmax().item()
    return (start, end) if start <= end else (0, 0)


@_span_mistake(
    "the best start and the best end are looked for each on its own",
    why="nothing keeps the end behind the start then, and mending it afterwards does not give "
    "the best pair: a good answer may have the second best start.",
    look_at="does your code compare sums of a start and an end, for i <= j only?",
    kinds=(SIMPLE, CROSSED),
    wordings=(_swaps_the_ends, _start_twice, _end_twice, _nothing_if_crossed),
)
def end_before_start(start_logits, end_logits, context_mask, max_length):
    inside = context_mask.bool()
    start = start_logits.masked_fill(~inside, -torch.inf).argmax()
    end = end_logits.masked_fill(~inside, -torch.inf).argmax()
    return int(start), int(end)


def _end_first(start_logits, end_logits, context_mask, max_length):
    end = int(end_logits.argmax())
    return int(start_logits[: end + 1].argmax()), end


@_span_mistake(
    "one end of the span is fixed first, and the other one then chosen to fit",
    why="the highest start may lie where no good end follows; it is the sum that should be "
    "highest.",
    look_at="how many starts does your code try?",
    kinds=(SIMPLE, CROSSED),
    wordings=(_end_first,),
)
def one_end_after_the_other(start_logits, end_logits, context_mask, max_length):
    outside = ~context_mask.bool()
    starts = start_logits.masked_fill(outside, -torch.inf)
    ends = end_logits.masked_fill(outside, -torch.inf)
    start = int(starts.argmax())
    return start, start + int(ends[start : start + max_length].argmax())


@_span_mistake(
    "the scores of start and end are multiplied",
    why="logits are logarithms of probabilities, up to a constant: to multiply probabilities, "
    "add them. Two negative numbers have a large product.",
    look_at="how does your code put start_logits[i] and end_logits[j] together?",
    kinds=(SIMPLE, CROSSED),
)
def multiplies_the_logits(start_logits, end_logits, context_mask, max_length):
    scores = start_logits[:, None] * end_logits
    possible = torch.ones_like(scores).triu() - torch.ones_like(scores).triu(max_length)
    possible = possible.bool() & context_mask.bool()[:, None] & context_mask.bool()
    return divmod(int(scores.masked_fill(~possible, -torch.inf).argmax()), len(start_logits))


@best_span.mistake(
    "only the few best starts and ends are tried",
    why="none of them need go together; then a good answer further down the list is not found.",
    look_at="how many starts and ends does your code keep, and what if no pair of them fits?",
    recognise=lambda cases, observations: _wrong_among_decoys_only(cases, observations),
    fails="start and end together",
)
def tries_only_the_best_few(start_logits, end_logits, context_mask, max_length):
    few = min(20, len(start_logits))
    best, found = -math.inf, (0, 0)
    for start in start_logits.topk(few).indices.tolist():
        for end in end_logits.topk(few).indices.tolist():
            if not (start <= end < start + max_length and context_mask[start : end + 1].all()):
                continue
            score = float(start_logits[start] + end_logits[end])
            if score > best:
                best, found = score, (start, end)
    return found


def _wrong_among_decoys_only(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    for case, seen in zip(cases, observations, strict=True):
        if case.kind in (SIMPLE, CROSSED, DECOYS) and not seen.error:
            right = _as_span(seen.output) == _best(case.arguments)
            if right == (case.kind == DECOYS):
                return False
    return True


@_span_mistake(
    "the end is one too far, as in a slice",
    why="both ends belong to the answer here, as in the labels of the training data.",
    look_at="what does your code return for an answer of one token?",
    kinds=(SIMPLE, CROSSED),
)
def end_is_exclusive(start_logits, end_logits, context_mask, max_length):
    place = torch.arange(len(start_logits))
    length, before = place - place[:, None], (~context_mask.bool()).cumsum(0)
    possible = (length >= 0) & (length < max_length) & (before == before[:, None])
    possible = possible & context_mask.bool()[:, None]
    scores = (start_logits[:, None] + end_logits).masked_fill(~possible, -torch.inf)
    start, end = divmod(int(scores.argmax()), len(start_logits))
    return start, end + 1


@_span_mistake(
    "the mask is not used: answers may lie in the question or in the padding",
    why="the question's words have high scores too, and padding has any; neither can be quoted.",
    look_at="where does context_mask come in?",
    kinds=(OUTSIDE,),
)
def ignores_the_mask(start_logits, end_logits, context_mask, max_length):
    scores = start_logits[:, None] + end_logits
    length = torch.arange(len(start_logits)) - torch.arange(len(start_logits))[:, None]
    impossible = (length < 0) | (length >= max_length)
    return divmod(int(scores.masked_fill(impossible, -torch.inf).argmax()), len(start_logits))


def _masks_the_end_alone(start_logits, end_logits, context_mask, max_length):
    scores = start_logits[:, None] + end_logits.masked_fill(~context_mask.bool(), -torch.inf)
    length = torch.arange(len(start_logits)) - torch.arange(len(start_logits))[:, None]
    impossible = (length < 0) | (length >= max_length)
    return divmod(int(scores.masked_fill(impossible, -torch.inf).argmax()), len(start_logits))


@_span_mistake(
    "one end of the span is kept within the context, the other one is not",
    why="an answer that begins in the question, or ends in the padding, cannot be quoted.",
    look_at="to which of the two logits, or to which side of the table, is the mask applied?",
    kinds=(OUTSIDE,),
    wordings=(_masks_the_end_alone,),
)
def masks_one_end_only(start_logits, end_logits, context_mask, max_length):
    scores = start_logits.masked_fill(~context_mask.bool(), -torch.inf)[:, None] + end_logits
    length = torch.arange(len(start_logits)) - torch.arange(len(start_logits))[:, None]
    impossible = (length < 0) | (length >= max_length)
    return divmod(int(scores.masked_fill(impossible, -torch.inf).argmax()), len(start_logits))


@_span_mistake(
    "the mask is read upside down: the answer lies where it must not",
    why="true marks the context. (In a key_padding_mask of PyTorch true marks what to leave out.)",
    look_at="which tokens does your code rule out: those with true, or those with false?",
    kinds=(SIMPLE, CROSSED),
)
def mask_upside_down(start_logits, end_logits, context_mask, max_length):
    allowed = ~context_mask.bool()
    place = torch.arange(len(start_logits))
    length = place - place[:, None]
    outside = (~allowed).long().cumsum(0)
    whole = (outside == outside[:, None]) & allowed[:, None]
    possible = whole & (length >= 0) & (length < max_length)
    scores = (start_logits[:, None] + end_logits).masked_fill(~possible, -torch.inf)
    return divmod(int(scores.argmax()), len(start_logits))


@_span_mistake(
    "the tokens are counted from the start of the context, not of the whole input",
    why="whoever takes input_ids[start:end + 1] gets other words.",
    look_at="what is token 0 for your code after the question has been taken away?",
    kinds=(SIMPLE, CROSSED),
)
def counts_from_the_context(start_logits, end_logits, context_mask, max_length):
    starts, ends = start_logits[context_mask.bool()], end_logits[context_mask.bool()]
    scores = starts[:, None] + ends
    length = torch.arange(len(starts)) - torch.arange(len(starts))[:, None]
    impossible = (length < 0) | (length >= max_length)
    return divmod(int(scores.masked_fill(impossible, -torch.inf).argmax()), len(starts))


@_span_mistake(
    "~ is applied to an integer mask",
    why="~ turns True into False, but the integers 1 and 0 into -2 and -1; as an index these are "
    "the last two tokens.",
    look_at="what does ~context_mask hold when the mask is of dtype int64?",
    kinds=(OUTSIDE, INTEGERS),
)
def inverts_an_integer_mask(start_logits, end_logits, context_mask, max_length):
    starts, ends = start_logits.clone(), end_logits.clone()
    starts[~context_mask] = -torch.inf
    ends[~context_mask] = -torch.inf
    scores = starts[:, None] + ends
    length = torch.arange(len(starts)) - torch.arange(len(starts))[:, None]
    impossible = (length < 0) | (length >= max_length)
    return divmod(int(scores.masked_fill(impossible, -torch.inf).argmax()), len(starts))


@_span_mistake(
    "both ends lie in the context, but the answer may run across what is not",
    why="an answer is quoted as one piece; all of its tokens have to be in the context.",
    look_at="what does your code know about the tokens between the two ends?",
    kinds=(GAP,),
)
def runs_across_a_gap(start_logits, end_logits, context_mask, max_length):
    inside = context_mask.bool()
    scores = start_logits[:, None] + end_logits
    length = torch.arange(len(start_logits)) - torch.arange(len(start_logits))[:, None]
    possible = (length >= 0) & (length < max_length) & inside[:, None] & inside
    return divmod(int(scores.masked_fill(~possible, -torch.inf).argmax()), len(start_logits))


@_span_mistake(
    "max_length is not used",
    why="a start here and an end a page later add up well by chance; answers are short.",
    look_at="where does max_length come in?",
    kinds=(SHORT,),
)
def ignores_max_length(start_logits, end_logits, context_mask, max_length):
    place = torch.arange(len(start_logits))
    outside = (~context_mask.bool()).cumsum(0)
    possible = (place >= place[:, None]) & (outside == outside[:, None])
    possible = possible & context_mask.bool()[:, None]
    scores = (start_logits[:, None] + end_logits).masked_fill(~possible, -torch.inf)
    return divmod(int(scores.argmax()), len(start_logits))


@_span_mistake(
    "an answer may be one token longer than max_length",
    why="from i to j, both included, there are j - i + 1 tokens.",
    look_at="how many tokens has the longest span that your code allows if max_length is 1?",
    kinds=(SHORT,),
)
def one_token_too_long(start_logits, end_logits, context_mask, max_length):
    place = torch.arange(len(start_logits))
    outside = (~context_mask.bool()).cumsum(0)
    length = place - place[:, None]
    possible = (length >= 0) & (length <= max_length) & (outside == outside[:, None])
    possible = possible & context_mask.bool()[:, None]
    scores = (start_logits[:, None] + end_logits).masked_fill(~possible, -torch.inf)
    return divmod(int(scores.argmax()), len(start_logits))


@_span_mistake(
    "an answer has to be shorter than max_length",
    why="max_length is how many tokens an answer may have at most; with 1 there must be answers.",
    look_at="how many tokens has the longest span that your code allows if max_length is 1?",
    kinds=(SHORT,),
)
def one_token_too_short(start_logits, end_logits, context_mask, max_length):
    place = torch.arange(len(start_logits))
    outside = (~context_mask.bool()).cumsum(0)
    length = place - place[:, None] + 1
    possible = (length >= 1) & (length < max_length) & (outside == outside[:, None])
    possible = possible & context_mask.bool()[:, None]
    scores = (start_logits[:, None] + end_logits).masked_fill(~possible, -torch.inf)
    return divmod(int(scores.argmax()), len(start_logits))


@_span_mistake(
    "what may not be chosen has the score 0",
    why="logits may all be below 0, and then a 0 wins. Only -inf loses against everything.",
    look_at="what does a product with the mask, or a triu, leave in the places that it clears?",
    kinds=(SIMPLE, CROSSED, OUTSIDE, NEGATIVE, LOW),
    wordings=(lambda *arguments: _clears_the_table(*arguments),),
)
def multiplies_by_the_mask(start_logits, end_logits, context_mask, max_length):
    inside = context_mask.to(start_logits.dtype)
    starts, ends = start_logits * inside, end_logits * inside
    length = torch.arange(len(starts)) - torch.arange(len(starts))[:, None]
    impossible = (length < 0) | (length >= max_length)
    scores = (starts[:, None] + ends).masked_fill(impossible, -torch.inf)
    return divmod(int(scores.argmax()), len(starts))


def _clears_the_table(start_logits, end_logits, context_mask, max_length):
    inside = context_mask.to(start_logits.dtype)
    scores = (start_logits[:, None] + end_logits) * inside[:, None] * inside
    scores = scores.triu().tril(max_length - 1)
    return divmod(int(scores.argmax()), len(start_logits))


@best_span.mistake(
    "a score has to be above some fixed number to be found",
    why="logits mean nothing by themselves: only differences count, and all may be below 0.",
    look_at="with which score does your search begin, before it has seen a span?",
    recognise=lambda cases, observations: _always_the_same_when_low(cases, observations),
    fails="scores of any size",
)
def starts_the_search_from_zero(start_logits, end_logits, context_mask, max_length):
    best, found = 0.0, (0, 0)
    inside = context_mask.tolist()
    for start in range(len(start_logits)):
        end = start
        while end < min(start + max_length, len(inside)) and inside[end]:
            end += 1
        if end > start and (top := end_logits[start:end].max() + start_logits[start]) > best:
            best, found = top, (start, start + int(end_logits[start:end].argmax()))
    return found


def _always_the_same_when_low(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    """Whether nothing is found below 0: nothing at all, or what the search began with."""
    low = [
        (case, seen)
        for case, seen in zip(cases, observations, strict=True)
        if case.kind in (NEGATIVE, LOW) and _as_span(seen.output) != _best(case.arguments)
    ]
    spans = {_as_span(seen.output) for _, seen in low}
    return bool(low) and len(spans) == 1 and spans <= {(0, 0), (-1, -1), None, (0, -1)}


@_span_mistake(
    "the number that rules a token out is not low enough",
    why="logits of a model in trouble, or ones with a mask of their own, may lie below it; only "
    "-inf is below everything.",
    look_at="which number does your code write where no answer may lie?",
    kinds=(LOW,),
    wordings=(lambda *arguments: _adds_a_constant(*arguments),),
)
def constant_not_low_enough(start_logits, end_logits, context_mask, max_length):
    outside = ~context_mask.bool()
    starts = start_logits.masked_fill(outside, -1e4)
    ends = end_logits.masked_fill(outside, -1e4)
    length = torch.arange(len(starts)) - torch.arange(len(starts))[:, None]
    impossible = (length < 0) | (length >= max_length)
    scores = (starts[:, None] + ends).masked_fill(impossible, -torch.inf)
    return divmod(int(scores.argmax()), len(starts))


def _adds_a_constant(start_logits, end_logits, context_mask, max_length):
    penalty = -1e4 * (~context_mask.bool()).to(start_logits.dtype)
    starts, ends = start_logits + penalty, end_logits + penalty
    length = torch.arange(len(starts)) - torch.arange(len(starts))[:, None]
    impossible = (length < 0) | (length >= max_length)
    scores = (starts[:, None] + ends).masked_fill(impossible, -torch.inf)
    return divmod(int(scores.argmax()), len(starts))


@_span_mistake(
    "the number that rules a token out does not fit into float16",
    why="float16 ends at 65 504; logits of a model in mixed precision come in that type.",
    look_at="can a float16 tensor hold -1e9? Can it hold -inf?",
    kinds=(HALF,),
)
def constant_too_large_for_float16(start_logits, end_logits, context_mask, max_length):
    outside = ~context_mask.bool()
    starts = start_logits.masked_fill(outside, -1e9)
    ends = end_logits.masked_fill(outside, -1e9)
    length = torch.arange(len(starts)) - torch.arange(len(starts))[:, None]
    impossible = (length < 0) | (length >= max_length)
    scores = (starts[:, None] + ends).masked_fill(impossible, -torch.inf)
    return divmod(int(scores.argmax()), len(starts))


@_span_mistake(
    "probabilities are multiplied, and those of all spans of the context round to 0",
    why="the softmax over the whole input gives the context next to nothing when a token outside "
    "is far ahead. The sum of the logits has the same order, and does not underflow.",
    look_at="what is softmax([0, -200]) in float32?",
    kinds=(LOW,),
)
def probabilities_underflow(start_logits, end_logits, context_mask, max_length):
    p, q = start_logits.softmax(dim=0), end_logits.softmax(dim=0)
    length = torch.arange(len(p)) - torch.arange(len(p))[:, None]
    outside = (~context_mask.bool()).cumsum(0)
    possible = (length >= 0) & (length < max_length) & (outside == outside[:, None])
    possible = possible & context_mask.bool()[:, None]
    return divmod(int((p[:, None] * q).masked_fill(~possible, -1.0).argmax()), len(p))


@_span_mistake(
    "of equal spans the last one is taken, not the first",
    why="which of them does not matter, but everybody has to take the same one: then two runs, "
    "and two implementations, can be compared.",
    look_at="does your code replace the best span by one that is equal to it?",
    kinds=(EQUAL,),
)
def last_of_equal_spans(start_logits, end_logits, context_mask, max_length):
    best, found = -torch.inf, None
    inside = context_mask.tolist()
    for start in range(len(inside)):
        stop = start
        while stop < min(start + max_length, len(inside)) and inside[stop]:
            stop += 1
        if stop == start:
            continue
        ends = end_logits[start:stop]
        top = float(ends.max() + start_logits[start])
        if top >= best:
            best, found = top, (start, start + int((ends == ends.max()).nonzero()[-1]))
    return found


@best_span.mistake(
    "it writes into the logits it was given",
    why="the caller may want them again, for the second best answer or for a score without an "
    "answer.",
    look_at="which of your tensors are copies? What does an underscore or [...] = do?",
    recognise=lambda cases, observations: any(seen.changed for seen in observations),
    fails="inputs left alone",
)
def writes_into_the_logits(start_logits, end_logits, context_mask, max_length):
    outside = ~context_mask.bool()
    start_logits[outside] = -torch.inf
    end_logits[outside] = -torch.inf
    scores = start_logits[:, None] + end_logits
    place = torch.arange(len(outside))
    length, before = place - place[:, None], outside.cumsum(0)
    impossible = (length < 0) | (length >= max_length) | (before != before[:, None])
    return divmod(int(scores.masked_fill(impossible, -torch.inf).argmax()), len(outside))


@best_span.mistake(
    "a loop in Python goes over all pairs of a start and an end",
    why="512 tokens have 131 328 pairs. One tensor operation compares thousands of them in the "
    "time that a loop needs for one.",
    look_at="which of your two loops can become one operation on a whole row, or on a diagonal?",
    recognise=lambda cases, observations: _runs_too_many_lines(cases, observations),
    fails="long texts",
)
def quadratic_loop(start_logits, end_logits, context_mask, max_length):
    best, found = -math.inf, None
    for start in range(len(start_logits)):
        for end in range(start, min(start + max_length, len(end_logits))):
            if not context_mask[end]:
                break
            score = float(start_logits[start] + end_logits[end])
            if context_mask[start] and score > best:
                best, found = score, (start, end)
    return found


def _runs_too_many_lines(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    return any(
        case.kind == LONG and not seen.error and seen.output["too_many"]
        for case, seen in zip(cases, observations, strict=True)
    )


EXERCISES = (align_labels, best_span)
