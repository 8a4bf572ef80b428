"""Right answers of other wordings, and known mistakes in other words, for the bank `heads`."""

import itertools

import numpy as np
import torch

# align_labels, right


def by_a_set_of_words(word_labels, word_ids):
    seen, labels = {None}, []
    for word in word_ids:
        labels.append(-100 if word in seen else int(word_labels[word]))
        seen.add(word)
    return labels


def neighbours(word_labels, word_ids):
    pairs = zip([None, *word_ids], word_ids, strict=False)
    return [-100 if word in (None, before) else word_labels[word] for before, word in pairs]


def into_a_tensor(word_labels, word_ids):
    labels = torch.full((len(word_ids),), -100)
    for word, label in enumerate(word_labels):
        if word in word_ids:
            labels[word_ids.index(word)] = label
    return labels


def grouped(word_labels, word_ids):
    labels = []
    for word, pieces in itertools.groupby(word_ids):
        rest = len(list(pieces)) - 1
        first = -100 if word is None else word_labels[word]
        labels += [first] + [-100] * rest
    return labels


# align_labels, wrong


def every_piece_like_the_one_before(word_labels, word_ids):
    labels = []
    for word in word_ids:
        if word is None:
            labels.append(-100)
            continue
        labels.append(word_labels[word])
    return torch.tensor(labels)


def inside_labels(word_labels, word_ids):
    """Further pieces have a class of their own."""
    labels, previous = [], None
    for word in word_ids:
        labels.append(-100 if word is None else 7 if word == previous else word_labels[word])
        previous = word
    return labels


def specials_as_the_word_before(word_labels, word_ids):
    labels, previous, last = [], None, 0
    for word in word_ids:
        if word is None:
            labels.append(last)
        elif word != previous:
            labels.append(word_labels[word])
            last = word_labels[word]
        else:
            labels.append(-100)
        previous = word
    return labels


def zero_for_what_does_not_count(word_labels, word_ids):
    labels = by_a_set_of_words(word_labels, word_ids)
    return [0 if label == -100 else label for label in labels]


def none_for_what_does_not_count(word_labels, word_ids):
    labels = by_a_set_of_words(word_labels, word_ids)
    return [-1 if label == -100 else label for label in labels]


def word_zero_was_there_before(word_labels, word_ids):
    labels, previous = [], 0
    for word in word_ids:
        if word is None:
            labels.append(-100)
            continue
        labels.append(-100 if word == previous else word_labels[word])
        previous = word
    return labels


def first_word_is_false(word_labels, word_ids):
    labels = [-100] * len(word_ids)
    for place in range(len(word_ids)):
        word = word_ids[place]
        if not word:
            continue
        if place == 0 or word_ids[place - 1] != word:
            labels[place] = word_labels[word]
    return labels


def overwrites_from_the_left(word_labels, word_ids):
    place_of = {word: place for place, word in enumerate(word_ids)}
    labels = [-100] * len(word_ids)
    for word, place in place_of.items():
        if word is not None:
            labels[place] = word_labels[word]
    return labels


def takes_the_next_label(word_labels, word_ids):
    rest, labels, previous = iter(word_labels), [], None
    for word in word_ids:
        labels.append(-100 if word in (None, previous) else next(rest))
        previous = word
    return labels


def pops_labels(word_labels, word_ids):
    waiting, labels, before = list(word_labels), [], None
    for word in word_ids:
        if word is not None and word != before:
            labels.append(waiting.pop(0))
        else:
            labels.append(-100)
        before = word
    return labels


# best_span, right


def whole_table(start_logits, end_logits, context_mask, max_length):
    tokens = len(start_logits)
    inside = context_mask.bool()
    scores = start_logits.float()[:, None] + end_logits.float()[None, :]
    keep = torch.ones(tokens, tokens, dtype=torch.bool).triu().tril(max_length - 1)
    runs = torch.zeros(tokens + 1, dtype=torch.long)
    runs[1:] = inside.long().cumsum(0)
    inside_count = runs[1:][None, :] - runs[:-1][:, None]
    length = torch.arange(tokens)[None, :] - torch.arange(tokens)[:, None] + 1
    scores = scores.masked_fill(~(keep & (inside_count == length)), float("-inf"))
    best = int(torch.argmax(scores))
    return best // tokens, best % tokens


def one_loop_over_starts(start_logits, end_logits, context_mask, max_length):
    best, span = -float("inf"), None
    inside = context_mask.bool()
    for i in range(start_logits.shape[0]):
        if not inside[i]:
            continue
        here = inside[i : i + max_length]
        stop = len(here) if here.all() else int((~here).int().argmax())
        scores = start_logits[i] + end_logits[i : i + stop]
        j = scores.argmax()
        if scores[j] > best:
            best, span = scores[j].item(), (i, i + j.item())
    return span


def one_loop_over_lengths(start_logits, end_logits, context_mask, max_length):
    context = context_mask != 0
    candidates, open_ = [], context
    for extra in range(min(max_length, len(context))):
        if extra > 0:
            open_ = open_[:-1] & context[extra:]
        if not open_.any():
            break
        sums = start_logits[: len(open_)] + end_logits[extra:]
        sums = torch.where(open_, sums, torch.tensor(-torch.inf, dtype=sums.dtype))
        place = int(sums.argmax())
        candidates.append((-float(sums[place]), place, extra))
    _, start, extra = min(candidates)
    return torch.tensor([start, start + extra])


def in_numpy(start_logits, end_logits, context_mask, max_length):
    starts, ends = start_logits.double().numpy(), end_logits.double().numpy()
    inside = context_mask.numpy().astype(bool)
    scores = np.add.outer(starts, ends)
    i, j = np.indices(scores.shape)
    holes = np.cumsum(~inside)
    bad = (j < i) | (j - i >= max_length) | ~inside[i] | (holes[j] != holes[i])
    scores[bad] = -np.inf
    start, end = np.unravel_index(scores.argmax(), scores.shape)
    return int(start), int(end)


# best_span, wrong


def table(possible=None, score=None):
    """An answer over the table of all pairs that differs from a right one in one of its rules."""

    def answer(start_logits, end_logits, context_mask, max_length):
        inside = context_mask.bool()
        place = torch.arange(len(inside))
        length = place - place[:, None] + 1
        holes = (~inside).cumsum(0)
        rules = {
            "order": length >= 1,
            "length": length <= max_length,
            "start": inside[:, None].expand(length.shape),
            "end": inside.expand(length.shape),
            "between": holes == holes[:, None],
        }
        rules |= possible(length, max_length, inside) if possible else {}
        allowed = torch.stack(list(rules.values())).all(dim=0)
        pair = score or torch.add
        scores = pair(start_logits[:, None], end_logits).masked_fill(~allowed, -torch.inf)
        return divmod(int(scores.argmax()), len(inside))

    return answer


def everywhere(length, max_length, inside):
    true = torch.ones_like(length, dtype=torch.bool)
    return {"start": true, "end": true, "between": true}


def only_upper_triangle_forgotten(length, max_length, inside):
    return {"order": length == length, "between": length == length}


def span_from(first_score, first_span):
    def answer(start_logits, end_logits, context_mask, max_length):
        best, span = first_score, first_span
        for i in range(len(start_logits)):
            here = context_mask[i : i + max_length].bool().int().cumprod(0)
            stop = int(here.sum())
            if stop:
                scores = start_logits[i] + end_logits[i : i + stop]
                if scores.max() > best:
                    best, span = scores.max(), (i, i + int(scores.argmax()))
        return span

    return answer


def loop_over_lists(start_logits, end_logits, context_mask, max_length):
    starts, ends, inside = start_logits.tolist(), end_logits.tolist(), context_mask.tolist()
    pairs = (
        (starts[i] + ends[j], -i, -j)
        for i in range(len(starts))
        for j in range(i, min(i + max_length, len(ends)))
        if all(inside[i : j + 1])
    )
    _, i, j = max(pairs)
    return -i, -j


def while_loop(start_logits, end_logits, context_mask, max_length):
    best, found, i = None, None, 0
    while i < len(start_logits):
        j = i
        while j < len(end_logits) and j - i < max_length and bool(context_mask[j]):
            score = start_logits[i] + end_logits[j]
            if best is None or score > best:
                best, found = score, (i, j)
            j += 1
        i += 1
    return found


def in_place_on_the_mask(start_logits, end_logits, context_mask, max_length):
    span = whole_table(start_logits, end_logits, context_mask, max_length)
    start_logits.masked_fill_(~context_mask.bool(), -torch.inf)
    return span


RIGHT = {
    "align_labels": [by_a_set_of_words, neighbours, into_a_tensor, grouped],
    "best_span": [whole_table, one_loop_over_starts, one_loop_over_lengths, in_numpy],
}
VARIANTS = {
    "align_labels": {
        "labels_further_pieces": [every_piece_like_the_one_before],
        "numbers_further_pieces": [inside_labels],
        "labels_special_tokens": [specials_as_the_word_before],
        "another_number_than_ignored": [
            zero_for_what_does_not_count,
            none_for_what_does_not_count,
        ],
        "takes_word_zero_for_none": [first_word_is_false, word_zero_was_there_before],
        "labels_the_last_piece": [overwrites_from_the_left],
        "counts_the_words_itself": [takes_the_next_label, pops_labels],
    },
    "best_span": {
        "end_before_start": [table(only_upper_triangle_forgotten)],
        "multiplies_the_logits": [table(score=torch.mul)],
        "ignores_the_mask": [table(everywhere)],
        "masks_one_end_only": [
            table(
                lambda length, most, inside: {
                    "start": length == length,
                    "between": length == length,
                }
            )
        ],
        "runs_across_a_gap": [table(lambda length, most, inside: {"between": length == length})],
        "ignores_max_length": [table(lambda length, most, inside: {"length": length == length})],
        "one_token_too_long": [table(lambda length, most, inside: {"length": length <= most + 1})],
        "one_token_too_short": [table(lambda length, most, inside: {"length": length < most})],
        "starts_the_search_from_zero": [span_from(0, None), span_from(-1.0, (0, 0))],
        "quadratic_loop": [loop_over_lists, while_loop],
        "writes_into_the_logits": [in_place_on_the_mask],
    },
}
