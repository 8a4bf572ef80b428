"""Four heads on one encoder: classes, token tags, answer spans, sentence pairs (notebook 10).

The heads themselves are those of `transformers` (`bert.HEADS`), so that whatever is trained here is
saved with `save_pretrained`, read by the Auto classes and run by `pipeline`. This module has what
stands between a head and its task: labels for pieces of words, and the best span.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from course_lib.mlm import IGNORED


def align_labels(word_labels: Sequence[int], word_ids: Sequence[int | None]) -> list[int]:
    """Labels of words as labels of tokens: the first piece of a word has its label.

    Further pieces, and tokens that belong to no word, have -100 and do not count.
    Devlin et al. 2019 (1810.04805), section 5.3.

    word_labels: one for each word of the text; words that were cut off may be left over.
    word_ids: for each token the number of its word, None for [CLS], [SEP] and padding, as
    `tokenizer(words, is_split_into_words=True).word_ids()` gives them.
    Returns a label for each token.
    Raises ValueError for a word without a label.
    """
    labels, previous = [], None
    for word in word_ids:
        if word is not None and not 0 <= word < len(word_labels):
            raise ValueError(f"There is a token of word {word}, but {len(word_labels)} labels.")
        new = word is not None and word != previous
        labels.append(int(word_labels[word]) if new else IGNORED)
        previous = word
    return labels


def best_span(
    start_logits: Tensor, end_logits: Tensor, context_mask: Tensor, max_length: int
) -> tuple[int, int]:
    """The span with the highest start_logits[i] + end_logits[j] that can be an answer.

    i <= j < i + max_length, and all of i to j lies in the context. Of equal ones the first, then
    the shortest. Devlin et al. 2019 (1810.04805), section 4.2.
    Differs from the paper in that the length is limited and the question is left out.

    start_logits, end_logits: (T,).  context_mask: (T,), true where an answer may lie.
    max_length: tokens of an answer at most.
    Returns i and j, both inclusive. It takes time T * max_length, and memory T.
    Raises ValueError for shapes that do not fit, a max_length below 1, no token of the context, or
    logits in the context that are NaN.
    """
    shape = start_logits.shape
    if len(shape) != 1 or end_logits.shape != shape or context_mask.shape != shape:
        raise ValueError(
            "start_logits, end_logits and context_mask must have one shape (T,), got "
            f"{tuple(shape)}, {tuple(end_logits.shape)} and {tuple(context_mask.shape)}."
        )
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}.")
    inside = context_mask.bool()
    if not inside.any():
        raise ValueError("No token is in the context, so there is no span to choose.")
    starts, ends = start_logits.double(), end_logits.double()
    if starts[inside].isnan().any() or ends[inside].isnan().any():
        raise ValueError("There is a NaN among the logits of the context.")
    # (T,) the best end for each start, one longer span after another
    best = torch.full_like(starts, -torch.inf)
    length = torch.zeros(len(starts), dtype=torch.long, device=starts.device)
    possible = inside.clone()
    for longer in range(min(max_length, len(starts))):
        if longer:
            possible = possible[:-1] & inside[longer:]
        score = starts[: len(possible)] + ends[longer:]
        better = possible & (score > best[: len(possible)])
        best[: len(possible)][better] = score[better]
        length[: len(possible)][better] = longer
    start = int(best.argmax())
    if best[start] == -torch.inf:  # every span scores -inf
        start = int(inside.int().argmax())
    return start, start + int(length[start])
