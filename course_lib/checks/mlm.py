"""Checks of notebook 02 (`course_lib.mlm`): masking tokens, and the two losses."""

import math
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import NamedTuple

import torch
from torch.nn import functional as F

from course_lib import mlm
from course_lib.checks.exercise import Case, Chance, Exercise, Failure, Observation, Property
from course_lib.checks.observe import TWO_CALLS, as_tensor, leaves, observe_call, same
from course_lib.checks.properties import (
    describe,
    gradient,
    ignores_generator,
    number,
    own_generator,
    show,
    unchanged_inputs,
    value,
    wrong_only_in,
)

# mask_tokens: what happens to a token is chance, so most properties look at shares. With 160 000
# chosen tokens the standard deviation of the [MASK] share is 0.0010 and of the random share
# 0.00075. A share passes within 6 of them (a right answer fails once in 10^8 checks), and what
# mistakes give is at least 0.01 off (81/9/10 instead of 80/10/10): more than 7 beyond the border.
SIGMAS = 6
CLS, SEP, PAD, FIRST_WORD = 1, 2, 0, 5
CLOSE = 0.004  # of a share to what a known mistake gives, with every token chosen


def _tokens(generator, rows: int, columns: int, vocab_size: int):
    """Ids with [CLS], [SEP] and padding, and their special_tokens_mask.

    The words are from the lower half of the vocabulary, so that "random" words that are drawn
    from the text give themselves away.
    """
    ids = torch.randint(FIRST_WORD, vocab_size // 2, (rows, columns), generator=generator)
    lengths = torch.randint(columns - columns // 4, columns + 1, (rows, 1), generator=generator)
    place = torch.arange(columns)
    ids[:, 0] = CLS
    ids[place == lengths - 1] = SEP
    ids[place >= lengths] = PAD
    return ids, ((place == 0) | (place >= lengths - 1)).long()


def _masking_case(kind, generator, rows, columns, vocab_size, mask_id, p, special=None, text=""):
    ids, mask = _tokens(generator, rows, columns, vocab_size)
    arguments = {
        "ids": ids,
        "special_tokens_mask": mask if special is None else special(mask),
        "mask_id": mask_id,
        "vocab_size": vocab_size,
        "p": p,
        "generator": Chance(int(torch.randint(2**31, (), generator=generator))),
    }
    return Case(kind, arguments, text=text)


def _sizes(generator, *smallest: int) -> list[int]:
    """Whole numbers up to a quarter larger than these, so that no two seeds look alike."""
    return [size + int(torch.randint(size // 4 + 1, (), generator=generator)) for size in smallest]


def _masking_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    rows, columns, words = _sizes(generator, 3, 12, 40)
    many, long, vocabulary = _sizes(generator, 4800, 40, 500)
    return [
        _masking_case("ordinary", generator, rows, columns, words, 4, 0.5),
        _masking_case("boolean mask", generator, rows, columns, words, 3, 0.3, torch.Tensor.bool),
        _masking_case(TWO_CALLS, generator, 8, 2 * columns, words, 4, 0.5),
        _masking_case("every token", generator, many, long, vocabulary, 3, 1.0),
        _masking_case("p = 0.15", generator, 600, 40, vocabulary, 4, 0.15),
    ]


def _hidden_masking_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    rows, columns, words = _sizes(generator, 5, 20, 60)
    many, long, vocabulary = _sizes(generator, 1000, 40, 900)
    left_out = _masking_case("defaults", generator, 100, 2 * columns, 30_000, 103, 0.15)
    for name in ("p", "generator"):
        del left_out.arguments[name]
    transposed = _masking_case("transposed", generator, rows, columns, words, words - 1, 0.4)
    for name in ("ids", "special_tokens_mask"):
        transposed.arguments[name] = transposed.arguments[name].T.contiguous().T
    return [
        _masking_case("p = 0", generator, rows, columns, words, 4, 0.0),
        _masking_case("all special", generator, 2, columns, words, 4, 0.9, torch.ones_like),
        transposed,
        left_out,
        # The last id is [MASK] here, as in a vocabulary to which it was added.
        _masking_case("p = 0.4", generator, many, long, vocabulary, vocabulary - 1, 0.4),
    ]


ONE_CALL = (
    *("ordinary", "p = 0.15", "every token"),
    *("p = 0", "all special", "transposed", "defaults", "p = 0.4"),
)


class Corruption(NamedTuple):
    """What an answer made of a case."""

    ids: torch.Tensor
    ordinary: torch.Tensor  # True where a token may be chosen
    inputs: torch.Tensor
    labels: torch.Tensor
    mask_id: int
    vocab_size: int
    p: float

    @property
    def count(self) -> int:
        return int(self.ordinary.sum())

    @property
    def labelled(self) -> float:
        """Share of the ordinary tokens that have a label."""
        return _share(self.labels[self.ordinary] != mlm.IGNORED)

    @property
    def fates(self) -> tuple[float, float, float]:
        """Shares of [MASK], random and kept, of as many tokens as p chooses on average.

        They do not depend on the labels; what is left over is taken to be kept.
        """
        chosen = self.p * self.count or 1.0
        inputs, ids = self.inputs[self.ordinary], self.ids[self.ordinary]
        masked = int((inputs == self.mask_id).sum()) / chosen
        replaced = int(((inputs != self.mask_id) & (inputs != ids)).sum()) / chosen
        return masked, replaced, 1 - masked - replaced

    @property
    def words(self) -> torch.Tensor:
        """What the replaced tokens became."""
        inputs = self.inputs[self.ordinary]
        return inputs[(inputs != self.mask_id) & (inputs != self.ids[self.ordinary])]


def _share(truths: torch.Tensor) -> float:
    return float(truths.double().mean()) if truths.numel() else 0.0


def _corruption(case: Case, seen: Observation) -> Corruption | None:
    """None when the answer did not return two integer tensors like ids."""
    given, output = case.arguments, seen.output
    whole = all(isinstance(t, torch.Tensor) and not t.is_floating_point() for t in leaves(output))
    if not whole or describe(output) != describe([given["ids"], given["ids"]]):
        return None
    return Corruption(
        ids=given["ids"],
        ordinary=~given["special_tokens_mask"].bool(),
        inputs=output[0].long(),
        labels=output[1].long(),
        mask_id=given["mask_id"],
        vocab_size=given["vocab_size"],
        p=given.get("p", 0.15),
    )


def _about_corruption(name: str, points: float, test: Callable, kinds=ONE_CALL) -> Property:
    """A property of what was made of a case: test(corruption) -> Failure or None."""

    def whole_test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        made = _corruption(case, observed)
        if made is None:
            tensors = (t for t in leaves(observed.output) if isinstance(t, torch.Tensor))
            types = ", ".join(str(t.dtype).removeprefix("torch.") for t in tensors)
            return Failure(
                f"{describe(expected.output)} of integers", f"{describe(observed.output)} {types}"
            )
        return test(made)

    return Property(name, points, whole_test, kinds=kinds)


def _border(share: float, count: int) -> float:
    """How far a share of `count` independent draws may be off; none at all where it is 0 or 1."""
    if not 0 < share < 1:
        return 0.0
    # The last term is for small counts, where the tails are longer than a Gaussian's.
    return SIGMAS * (math.sqrt(share * (1 - share) / count) + 1 / count)


def _test_something_chosen(made: Corruption) -> Failure | None:
    # With 24 ordinary tokens or more and p = 0.5 a right answer chooses at least one.
    if (made.labels == mlm.IGNORED).all() and torch.equal(made.inputs, made.ids):
        return Failure("some tokens chosen", "the ids as they were and no label")
    return None


def _test_labels(made: Corruption) -> Failure | None:
    labelled = made.ordinary & (made.labels != mlm.IGNORED)
    for wrong, wanted in (
        (labelled & (made.labels != made.ids), "label {} or -100 at {}"),
        (made.ordinary & ~labelled & (made.inputs != made.ids), "label {} (changed token) at {}"),
    ):
        if wrong.any():
            place = tuple(wrong.nonzero()[0].tolist())
            found = number(made.labels[place])
            return Failure(wanted.format(int(made.ids[place]), list(place)), f"label {found}")
    if made.count and abs(made.labelled - made.p) > _border(made.p, made.count):
        wanted = f"a label on {_percent(made.p)} of the ordinary tokens"
        return Failure(wanted, f"on {_percent(made.labelled, 1)}")
    return None


def _test_specials(made: Corruption) -> Failure | None:
    changed = int((made.inputs != made.ids)[~made.ordinary].sum())
    labelled = int((made.labels != mlm.IGNORED)[~made.ordinary].sum())
    if not changed and not labelled:
        return None
    wanted = "[CLS], [SEP] and padding as they were, label -100"
    return Failure(wanted, f"{changed} changed, {labelled} labelled")


def _test_fates(made: Corruption) -> Failure | None:
    # A random word is the token itself, or [MASK], once in V; that moves the shares by 0.1 / V
    # each, and an answer that avoids it is right too: so much is allowed on top.
    if not made.count or not made.p:
        return None
    wanted = (mlm.MASKED_SHARE, mlm.RANDOM_SHARE)
    for share, found in zip(wanted, made.fates, strict=False):
        border = _border(share * made.p, made.count) / made.p
        if abs(found - share) > border + 2 * mlm.RANDOM_SHARE / made.vocab_size:
            return Failure(_fates(*wanted, 1 - sum(wanted), decimals=0), _fates(*made.fates))
    return None


def _fates(masked: float, replaced: float, kept: float, decimals: int = 1) -> str:
    total = masked + replaced + max(kept, 0.0)
    shares = (_percent(max(share, 0.0) / total, decimals) for share in (masked, replaced, kept))
    return "{} [MASK], {} random, {} kept".format(*shares)


def _percent(share: float, decimals: int = 0) -> str:
    return f"{100 * share:.{decimals}f} %"


def _test_words(made: Corruption) -> Failure | None:
    words, last = made.words, made.vocab_size - 1
    wanted = f"random ids from 0 to {last}"
    if _outside(made):
        return Failure(wanted, f"ids from {int(words.min())} to {int(words.max())}")
    if made.p == 1 and not len(words):
        return Failure(wanted, "none")
    # Every id comes 20 times or more on average where this is asked; some answers leave out a few
    # special tokens, so the parts of the vocabulary are large.
    if len(words) < 20 * made.vocab_size:
        return None
    parts = 8
    counts = torch.bincount(words * parts // made.vocab_size, minlength=parts) / len(words)
    if float((counts - 1 / parts).abs().max()) > 0.02:
        shares = ", ".join(_percent(count) for count in counts.tolist())
        return Failure(f"{wanted}, equally often", f"per eighth of the vocabulary {shares}")
    if last - (made.mask_id == last) not in words:
        return Failure(wanted, f"ids from {int(words.min())} to {int(words.max())}")
    return None


def _outside(made: Corruption) -> bool:
    return bool(((made.words < 0) | (made.words >= made.vocab_size)).any())


mask_tokens = Exercise(
    name="mask_tokens",
    reference=mlm.mask_tokens,
    cases=_masking_cases,
    hidden_cases=_hidden_masking_cases,
    properties=(
        _about_corruption("shape", 0.5, _test_something_chosen, ("ordinary",)),
        unchanged_inputs(0.5, kinds=ONE_CALL),
        _about_corruption("labels", 1, _test_labels),
        _about_corruption("special tokens", 1, _test_specials, ("boolean mask", *ONE_CALL)),
        _about_corruption("shares of the fates", 2, _test_fates),
        _about_corruption("random words", 0.5, _test_words),
        own_generator(0.5, kinds=("ordinary", TWO_CALLS, "p = 0.15")),
    ),
    observe=observe_call,
)


def _masking_mistake(sentence: str, why: str, look_at: str, when: Callable, fails: str = ""):
    """A mistake that shows in the statistics: when(corruptions by kind of the case) -> bool."""

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        made = {
            case.kind: _corruption(case, seen)
            for case, seen in zip(cases, observations, strict=True)
            if case.kind in ONE_CALL
        }
        if any(made[kind] is None for kind in ("ordinary", "p = 0.15", "every token")):
            return False
        return when({kind: corruption for kind, corruption in made.items() if corruption})

    return mask_tokens.mistake(sentence, why, look_at, recognise, fails)


@mask_tokens.mistake(
    "it writes into the tensors it was given",
    why="the caller's text is gone: the next epoch masks what this one has masked already.",
    look_at="which of your tensors are copies, and which are other names of ids?",
    recognise=lambda cases, observations: any(seen.changed for seen in observations),
    fails="inputs left alone",
)
def changes_its_input(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    chosen = torch.rand(ids.shape, generator=generator) < p
    chosen = chosen & (special_tokens_mask == 0)
    labels = ids.clone()
    labels[~chosen] = -100
    fate = torch.rand(ids.shape, generator=generator)
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    ids[chosen & (fate < 0.8)] = mask_id
    replaced = chosen & (fate >= 0.8) & (fate < 0.9)
    ids[replaced] = words[replaced]
    return ids, labels


@_masking_mistake(
    "an integer mask is used as an index, so rows 0 and 1 are written instead of positions",
    why="PyTorch takes 0 and 1 as rows to write to, and True and False as what to change; "
    "~ turns the integer 1 into -2.",
    look_at="the dtype of what you have between square brackets, and of special_tokens_mask.",
    when=lambda made: _writes_rows(made["p = 0.15"]),
)
def writes_whole_rows(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    chosen = (torch.rand(ids.shape, generator=generator) < p) & ~special_tokens_mask
    fate = torch.rand(ids.shape, generator=generator)
    inputs, labels = ids.clone(), ids.clone()
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    replaced = chosen & (fate >= 0.8) & (fate < 0.9)
    inputs[chosen & (fate < 0.8)] = mask_id
    inputs[replaced] = words[replaced]
    labels[~chosen] = -100
    return inputs, labels


def _writes_rows(made: Corruption) -> bool:
    changed = made.inputs != made.ids
    return bool(changed[:2].any()) and not changed[2:].any()


@_masking_mistake(
    "the two results are swapped",
    why="the model would read -100, which is no token, and learn to predict [MASK].",
    look_at="in which order are inputs and labels asked for?",
    when=lambda made: (
        bool((made["p = 0.15"].inputs == mlm.IGNORED).any())
        and not (made["p = 0.15"].labels == mlm.IGNORED).any()
    ),
    fails="labels",
)
def returns_labels_first(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    chosen = torch.rand(ids.shape, generator=generator) < p
    chosen = chosen & (special_tokens_mask == 0)
    fate = torch.rand(ids.shape, generator=generator)
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs = torch.where(chosen & (fate < 0.8), mask_id, ids)
    inputs = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), words, inputs)
    return torch.where(chosen, ids, -100), inputs


@_masking_mistake(
    "the labels hold the corrupted tokens, not the original ones",
    why="the model is then asked for [MASK] where it sees [MASK]: nothing is left to learn.",
    look_at="what is in the tensor at the moment the labels are taken from it?",
    when=lambda made: _labels_are_inputs(made["every token"]),
    fails="labels",
)
def labels_after_corruption(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    chosen = torch.rand(ids.shape, generator=generator) < p
    chosen = chosen & (special_tokens_mask == 0)
    fate = torch.rand(ids.shape, generator=generator)
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs = torch.where(chosen & (fate < 0.8), mask_id, ids)
    inputs = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), words, inputs)
    return inputs, torch.where(chosen, inputs, -100)


def _labels_are_inputs(made: Corruption) -> bool:
    labelled = made.ordinary & (made.labels != mlm.IGNORED)
    inputs, labels = made.inputs[labelled], made.labels[labelled]
    return bool((inputs != made.ids[labelled]).any()) and torch.equal(inputs, labels)


@_masking_mistake(
    "positions that were not chosen keep their label",
    why="the model sees those tokens, so their loss is next to nothing and drowns the rest.",
    look_at="which value tells the loss to leave a position out, and where does it belong?",
    when=lambda made: made["p = 0.15"].labelled > 0.99,
    fails="labels",
)
def labels_everywhere(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    chosen = torch.rand(ids.shape, generator=generator) < p
    chosen = chosen & (special_tokens_mask == 0)
    fate = torch.rand(ids.shape, generator=generator)
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs = torch.where(chosen & (fate < 0.8), mask_id, ids)
    inputs = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), words, inputs)
    return inputs, ids.clone()


@_masking_mistake(
    "chosen tokens that stay as they are have no label",
    why="without loss on them, the model learns that a token which is not [MASK] needs no thought; "
    "at fine-tuning time no token is [MASK].",
    look_at="is a label for every token that was chosen, or for every one that was changed?",
    when=lambda made: _forgets_the_kept(made["every token"]),
    fails="labels",
)
def no_loss_on_the_kept(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    chosen = torch.rand(ids.shape, generator=generator) < p
    chosen = chosen & (special_tokens_mask == 0)
    fate = torch.rand(ids.shape, generator=generator)
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    masked = chosen & (fate < 0.8)
    replaced = chosen & (fate >= 0.8) & (fate < 0.9)
    inputs = torch.where(masked, mask_id, ids)
    inputs = torch.where(replaced, words, inputs)
    return inputs, torch.where(masked | replaced, ids, -100)


def _forgets_the_kept(made: Corruption) -> bool:
    kept = made.ordinary & (made.inputs == made.ids)
    return 0.05 < made.fates[2] < 0.5 and _share(made.labels[kept] != mlm.IGNORED) < 0.1


@_masking_mistake(
    "special tokens or padding are chosen too",
    why="[CLS] and [SEP] mark where a text starts and ends, and nobody can guess padding.",
    look_at="which positions may be chosen, and for which may there be a label?",
    when=lambda made: any(_test_specials(corruption) for corruption in made.values()),
    fails="special tokens",
)
def masks_special_tokens(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    chosen = torch.rand(ids.shape, generator=generator) < p
    fate = torch.rand(ids.shape, generator=generator)
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs = torch.where(chosen & (fate < 0.8), mask_id, ids)
    inputs = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), words, inputs)
    return inputs, torch.where(chosen, ids, -100)


@_masking_mistake(
    "every chosen token becomes [MASK]",
    why="fine-tuning never shows a [MASK], so the model must not learn to think only there.",
    look_at="what happens to the other 20 % of the chosen tokens?",
    when=lambda made: made["every token"].fates[0] > 0.999 and made["p = 0.15"].fates[0] > 0.9,
    fails="shares of the fates",
)
def always_masks(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    chosen = torch.rand(ids.shape, generator=generator) < p
    chosen = chosen & (special_tokens_mask == 0)
    return torch.where(chosen, mask_id, ids), torch.where(chosen, ids, -100)


@_masking_mistake(
    "one draw decides whether a token is chosen and also what becomes of it",
    why="a draw that is below p = 0.15 is below 0.8 as well, so a chosen token is always masked.",
    look_at="given that a token is chosen, which values can the number still have that you test?",
    when=lambda made: made["p = 0.15"].fates[1] < 0.01 and _close(made["every token"], [BERT]),
    fails="shares of the fates",
)
def one_draw_for_both(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    draw = torch.rand(ids.shape, generator=generator)
    chosen = (draw < p) & (special_tokens_mask == 0)
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs = torch.where(chosen & (draw < 0.8), mask_id, ids)
    inputs = torch.where(chosen & (draw >= 0.8) & (draw < 0.9), words, inputs)
    return inputs, torch.where(chosen, ids, -100)


@_masking_mistake(
    "[MASK], random and kept are drawn independently of one another",
    why="the draws overlap, so the later one takes from the earlier and 80/10/10 comes out as "
    "something else (81/9/10, for one).",
    look_at="can one token be picked by two of your draws? Of which tokens is each share a share?",
    when=lambda made: _close(made["every token"], OVERLAPPING),
)
def draws_fates_independently(
    ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None
):
    chosen = torch.rand(ids.shape, generator=generator) < p
    chosen = chosen & (special_tokens_mask == 0)
    kept = chosen & (torch.rand(ids.shape, generator=generator) < 0.1)
    replaced = chosen & ~kept & (torch.rand(ids.shape, generator=generator) < 0.1)
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs = torch.where(chosen & ~kept & ~replaced, mask_id, ids)
    inputs = torch.where(replaced, words, inputs)
    return inputs, torch.where(chosen, ids, -100)


def _overlapping() -> list[tuple[float, ...]]:
    """Shares of [MASK], random and kept when each is drawn for all tokens, and one goes first.

    A token that no draw picks gets the fate that has no draw of its own, or stays.
    """
    chances = {"masked": mlm.MASKED_SHARE, "replaced": mlm.RANDOM_SHARE}
    chances["kept"] = 1 - sum(chances.values())
    found = []
    for order in [*permutations(chances, 2), *permutations(chances, 3)]:
        shares, left = dict.fromkeys(chances, 0.0), 1.0
        for fate in order:
            shares[fate] = left * chances[fate]
            left -= shares[fate]
        rest = next(iter(chances.keys() - set(order)), "kept")
        shares[rest] += left
        found.append(tuple(shares.values()))
    return found


def _close(made: Corruption, candidates: Sequence[tuple[float, ...]]) -> bool:
    """Whether the fates have one of these triples of shares."""
    return any(
        max(abs(a - b) for a, b in zip(made.fates, shares, strict=True)) < CLOSE
        for shares in candidates
    )


BERT = (mlm.MASKED_SHARE, mlm.RANDOM_SHARE, 1 - mlm.MASKED_SHARE - mlm.RANDOM_SHARE)
# Where [MASK] still has all of its share, the others got a share of the rest.
OF_THE_REST = [shares for shares in _overlapping() if shares[0] == mlm.MASKED_SHARE]
# The last is Bernoulli(1/2) for "random" that also takes tokens which are masked already.
OVERLAPPING = [*(set(_overlapping()) - set(OF_THE_REST)), (0.4, 0.5, 0.1)]


@_masking_mistake(
    "the 10 % are taken from what is left over",
    why="10 % of the 20 % that are not [MASK] is 2 % of the chosen tokens, not 10 %.",
    look_at="of which tokens should each share be a share, and of which is yours?",
    when=lambda made: _close(made["every token"], OF_THE_REST),
    fails="shares of the fates",
)
def takes_shares_of_the_rest(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    chosen = torch.rand(ids.shape, generator=generator) < p
    chosen = chosen & (special_tokens_mask == 0)
    masked = chosen & (torch.rand(ids.shape, generator=generator) < 0.8)
    replaced = chosen & ~masked & (torch.rand(ids.shape, generator=generator) < 0.1)
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs = torch.where(masked, mask_id, ids)
    inputs = torch.where(replaced, words, inputs)
    return inputs, torch.where(chosen, ids, -100)


@_masking_mistake(
    "no chosen token stays as it is",
    why="a token that is its own answer now and then keeps the model honest about visible tokens.",
    look_at="the three shares must add up to 1; which one is left when you add up two of yours?",
    when=lambda made: made["every token"].fates[2] < 0.01 < made["every token"].fates[0],
    fails="shares of the fates",
)
def keeps_none(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    chosen = torch.rand(ids.shape, generator=generator) < p
    chosen = chosen & (special_tokens_mask == 0)
    fate = torch.rand(ids.shape, generator=generator)
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    inputs = torch.where(chosen & (fate < 0.8), mask_id, ids)
    inputs = torch.where(chosen & (fate >= 0.8), words, inputs)
    return inputs, torch.where(chosen, ids, -100)


@_masking_mistake(
    "some random ids are outside the vocabulary",
    why="the embedding table has rows 0 to vocab_size - 1; another id stops the model or worse.",
    look_at="which of its two ends does torch.randint include?",
    when=lambda made: any(_outside(corruption) for corruption in made.values()),
    fails="random words",
)
def random_ids_outside(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    chosen = torch.rand(ids.shape, generator=generator) < p
    chosen = chosen & (special_tokens_mask == 0)
    fate = torch.rand(ids.shape, generator=generator)
    words = torch.randint(1, vocab_size + 1, ids.shape, generator=generator)
    inputs = torch.where(chosen & (fate < 0.8), mask_id, ids)
    inputs = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), words, inputs)
    return inputs, torch.where(chosen, ids, -100)


@mask_tokens.mistake(
    "not all chance comes from the generator",
    why="two people who use the same seed should get the same masks, and so should you after a "
    "restart.",
    look_at="every call that draws something: does it get the generator?",
    recognise=ignores_generator,
    fails="the generator decides",
)
def ignores_the_generator(ids, special_tokens_mask, mask_id, vocab_size, p=0.15, generator=None):
    chosen = torch.rand(ids.shape) < p
    chosen = chosen & (special_tokens_mask == 0)
    fate = torch.rand(ids.shape)
    words = torch.randint(vocab_size, ids.shape)
    inputs = torch.where(chosen & (fate < 0.8), mask_id, ids)
    inputs = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), words, inputs)
    return inputs, torch.where(chosen, ids, -100)


# The two losses


def _labels(generator, rows: int, columns: int, words: int) -> torch.Tensor:
    """Labels with 1 to columns - 1 chosen positions, a different number in neighbouring rows."""
    labels = torch.randint(words, (rows, columns), generator=generator)
    for row in range(rows):
        chosen = 1 + row % 2 + int(torch.randint(columns - 3, (), generator=generator)) // 2 * 2
        left_out = torch.randperm(columns, generator=generator)[chosen:]
        labels[row, left_out] = mlm.IGNORED
    return labels


def _logits(generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


def _wide_logits(generator, *shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Logits from -1000 to 1000: the softmax of most is less than even float64 can hold."""
    return (2000 * torch.rand(shape, generator=generator) - 1000).to(dtype)


WIDE = "logits from -1000 to 1000 of shape"


def _mlm_case(kind, logits, labels, text=""):
    return Case(kind, {"logits": logits, "labels": labels}, ("logits",), text)


def _mlm_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    rows, columns, words = _sizes(generator, 2, 6, 9)
    labels = _labels(generator, rows, columns, words)
    many = words + 110  # so many that -100 is a valid index from the end
    nothing = torch.full_like(labels, mlm.IGNORED)
    wide = _wide_logits(generator, 4, columns, words, dtype=torch.float16)
    return [
        _mlm_case("ordinary", _logits(generator, rows, columns, words), labels),
        _mlm_case(
            "ordinary",
            _logits(generator, rows + 1, columns, many),
            _labels(generator, rows + 1, columns, many),
        ),
        _mlm_case("flat", _logits(generator, columns, words), labels[0]),
        _mlm_case(
            "nothing", _logits(generator, rows, columns, words), nothing, "every label is -100"
        ),
        _mlm_case(
            "large",
            wide,
            _labels(generator, 4, columns, words),
            f"float16 {WIDE} {tuple(wide.shape)}",
        ),
    ]


def _hidden_mlm_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    rows, columns, words = _sizes(generator, 4, 9, 40)
    labels = _labels(generator, rows, columns, words)
    one = torch.full_like(labels, mlm.IGNORED)
    one[-1, 0] = words - 1
    transposed = _logits(generator, columns, rows, words).transpose(0, 1)
    single = _wide_logits(generator, rows, columns, words, dtype=torch.float32)
    brain = _wide_logits(generator, rows, columns, words, dtype=torch.bfloat16)
    nothing = torch.full((rows * columns,), mlm.IGNORED)
    return [
        _mlm_case("one label", _logits(generator, rows, columns, words), one),
        _mlm_case("float64", _logits(generator, rows, columns, words).double(), labels),
        _mlm_case("transposed", transposed, labels),
        _mlm_case("nothing", _logits(generator, rows * columns, words), nothing),
        _mlm_case("large", single, labels),
        _mlm_case("large", brain, labels),
    ]


def scalar_with_gradient(points: float, kinds: tuple[str, ...]) -> Property:
    """The result is a number through which the gradient reaches the logits."""

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        wanted, got = describe(expected.output), describe(observed.output)
        if wanted != got:
            return Failure(wanted, got)
        found = (observed.gradients or {}).get("logits")
        if found is None or not found.any():
            return Failure("a number with a gradient", "no gradient reaches the logits")
        return None

    return Property("shape", points, test, kinds=kinds)


def zero_of_nothing(points: float, name: str) -> Property:
    """The mean over no positions is 0, with a gradient of 0."""

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        got = observed.output
        if not same(got, 0.0):
            return Failure("0", show(got) if describe(got) == "a number" else describe(got))
        if observed.gradients is None:
            return Failure("0 with a gradient of 0", "0 without a gradient: backward() stops here")
        found = observed.gradients["logits"]
        if found is not None and found.any():
            return Failure("a gradient of 0", f"a gradient of {number(found.flatten()[0])}")
        return None

    return Property(name, points, test, aspect="gradients", kinds=("nothing",))


def large_logits(points: float) -> Property:
    # bfloat16 has a relative precision of 1/256; an answer that stays in it is right too.
    return value(points, kinds=("large",), name="large logits", rtol=0.02)


def refuses_the_classes(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    """Whether `cross_entropy` stopped because the classes are not in the second dimension."""
    return any("Expected target size" in seen.error for seen in observations)


def has_nan(seen: Observation, wanted: float) -> bool:
    found = [as_tensor(leaf) for leaf in [seen.output, *leaves(seen.gradients or {})]]
    return any(isinstance(leaf, torch.Tensor) and bool(leaf.isnan().any()) for leaf in found)


def infinite_or_cut_off(seen: Observation, wanted: float) -> bool:
    got = float(seen.output)
    return not math.isfinite(got) or got < 0.9 * wanted


CLASSES_LAST = (
    "cross_entropy looks for the classes in the second dimension, and here they are in the last",
    "for logits (B, T, V) it takes T for the number of classes; were T and V equal, it would "
    "give a wrong number without a word.",
    "which shapes does torch.nn.functional.cross_entropy ask for?",
)
NAN_OF_NOTHING = (
    "it divides 0 by 0 when there is nothing to average over",
    "one batch without a chosen token turns every weight of the model into NaN.",
    "what do you divide by, and which is the smallest value that it may have?",
)
ROWS_FIRST = (
    "every row is averaged first, and then the rows",
    "a token in a row with few terms would count more than another.",
    "does each term of the batch have the same weight in the mean?",
)
NO_GRAPH = (
    "the loss of nothing is a constant without a gradient",
    "backward() stops with an error on a batch without a chosen token.",
    "does the value that you return then still depend on the logits?",
)
EXP_BEFORE_LOG = (
    "it takes exp first and log afterwards, and in between numbers run out of range",
    "the probability of an unlikely token becomes 0 (in float32 too, only later), and its "
    "logarithm infinite, or stuck at the logarithm of what you added to it.",
    "which single function of PyTorch gives log-probabilities straight from logits?",
)

mlm_loss = Exercise(
    name="mlm_loss",
    reference=mlm.mlm_loss,
    cases=_mlm_cases,
    hidden_cases=_hidden_mlm_cases,
    properties=(
        scalar_with_gradient(0.5, ("ordinary",)),
        value(1, kinds=("ordinary", "flat", "one label", "float64")),
        gradient(0.5, kinds=("ordinary", "transposed")),
        zero_of_nothing(1, "no chosen token"),
        large_logits(1),
    ),
    observe=observe_call,
)


@mlm_loss.mistake(*CLASSES_LAST, recognise=refuses_the_classes)
def does_not_flatten(logits, labels):
    return F.cross_entropy(logits, labels)


def _counts_ignored(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    """Whether -100 was used as a token: taken to be 0, 100 or an index from the end, or refused."""
    found = []
    for case, seen in zip(cases, observations, strict=True):
        if case.kind != "ordinary":
            continue
        if seen.error:
            found.append(any(word in seen.error for word in ("bound", "-100", "negative")))
            continue
        if describe(seen.output) != "a number":
            return False
        logits, labels = (tensor.flatten(0, 1) for tensor in case.arguments.values())
        ignored, words = labels == mlm.IGNORED, logits.shape[-1]
        sums = [
            float(F.cross_entropy(logits, labels.masked_fill(ignored, token), reduction="sum"))
            for token in {0, -mlm.IGNORED, mlm.IGNORED % words}
            if token < words
        ]
        counts = (len(labels), int((~ignored).sum()))
        wanted = [total / count for total in sums for count in counts]
        found.append(any(abs(float(seen.output) - w) < 1e-4 * w for w in wanted))
    return all(found)


@mlm_loss.mistake(
    "positions with the label -100 are counted",
    why="there the model is asked for a token that nobody chose (and -100 is an index to Python).",
    look_at="what does your code do with a label of -100 before, and after, it picks a column?",
    recognise=_counts_ignored,
)
def counts_ignored_labels(logits, labels):
    log_probabilities = torch.log_softmax(logits, dim=-1)
    picked = log_probabilities.gather(-1, labels.clamp(min=0).unsqueeze(-1))
    return -picked.mean()


@mlm_loss.mistake(
    "the sum is divided by the number of all positions",
    why="the loss then shrinks with the mask rate, and so does the learning rate in effect.",
    look_at="over how many positions is the sum, and what do you divide it by?",
)
def averages_over_all_positions(logits, labels):
    log_probabilities = torch.log_softmax(logits, dim=-1)
    chosen = labels != -100
    picked = log_probabilities.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -(picked * chosen).mean()


@mlm_loss.mistake(*ROWS_FIRST)
def averages_rows_first(logits, labels):
    log_probabilities = torch.log_softmax(logits, dim=-1)
    chosen = labels != -100
    picked = log_probabilities.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    rows = -(picked * chosen).sum(dim=-1) / chosen.sum(dim=-1).clamp(min=1)
    return rows.mean()


@mlm_loss.mistake(
    "the losses are added up, not averaged",
    why="a batch with more chosen tokens would take a larger step.",
    look_at="the definition says a mean; over what?",
)
def sums_the_losses(logits, labels):
    log_probabilities = torch.log_softmax(logits, dim=-1)
    chosen = labels != -100
    picked = log_probabilities.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -(picked * chosen).sum()


@mlm_loss.mistake(
    *NAN_OF_NOTHING, recognise=wrong_only_in("nothing", mlm.mlm_loss, has_nan, "large")
)
def nan_without_chosen_tokens(logits, labels):
    chosen = labels != -100
    log_probabilities = torch.log_softmax(logits[chosen], dim=-1)
    return -log_probabilities.gather(-1, labels[chosen].unsqueeze(-1)).mean()


@mlm_loss.mistake(*NO_GRAPH)
def constant_without_chosen_tokens(logits, labels):
    chosen = labels != -100
    if not chosen.any():
        return torch.tensor(0.0)
    log_probabilities = torch.log_softmax(logits[chosen], dim=-1)
    return -log_probabilities.gather(-1, labels[chosen].unsqueeze(-1)).mean()


@mlm_loss.mistake(
    *EXP_BEFORE_LOG, recognise=wrong_only_in("large", mlm.mlm_loss, infinite_or_cut_off, "nothing")
)
def log_of_softmax(logits, labels):
    chosen = labels != -100
    probabilities = torch.softmax(logits, dim=-1)
    picked = probabilities.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    losses = torch.where(chosen, -torch.log(picked), torch.zeros_like(picked))
    return losses.sum() / chosen.sum().clamp(min=1)


def _padded(lengths: Sequence[int], columns: int, left: bool = False) -> torch.Tensor:
    """An attention mask: 1 at tokens, 0 at the padding on the right, or on the left."""
    mask = (torch.arange(columns) < torch.tensor(lengths).unsqueeze(-1)).long()
    return mask.flip(-1) if left else mask


def _causal_case(kind, generator, logits, mask, text=""):
    ids = torch.randint(1, logits.shape[-1], mask.shape, generator=generator) * mask
    arguments = {"logits": logits, "ids": ids, "attention_mask": mask}
    return Case(kind, arguments, ("logits",), text)


def _causal_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    rows, columns, words = _sizes(generator, 2, 6, 9)
    shape = (rows, columns, words)
    lengths = [columns - 1 - 2 * (row % 2) for row in range(rows)]
    one, some = _padded([1] * rows, columns), _padded(lengths, columns)
    wide = _wide_logits(generator, 4, columns, words, dtype=torch.float16)
    padded = f"logits of shape {shape}, with padding on the"
    return [
        _causal_case("full", generator, _logits(generator, *shape), torch.ones(shape[:2]).long()),
        _causal_case("padded", generator, _logits(generator, *shape), some, f"{padded} right"),
        _causal_case(
            "padded",
            generator,
            _logits(generator, *shape),
            _padded(lengths, columns, left=True),
            f"{padded} left",
        ),
        _causal_case(
            "nothing", generator, _logits(generator, *shape), one, "one token in every row"
        ),
        _causal_case(
            "large",
            generator,
            wide,
            _padded([columns - 1, columns, 3, columns], columns),
            f"float16 {WIDE} {tuple(wide.shape)}",
        ),
    ]


def _hidden_causal_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    rows, columns, words = _sizes(generator, 4, 9, 40)
    shape = (rows, columns, words)
    lengths = [columns - (row % 4) * 2 for row in range(rows)]
    full, some = torch.ones(shape[:2]).long(), _padded(lengths, columns)
    mixed = torch.where(
        torch.arange(rows).unsqueeze(-1) % 2 == 0, some, _padded(lengths, columns, left=True)
    )
    transposed = _logits(generator, columns, rows, words).transpose(0, 1)
    single = _wide_logits(generator, *shape, dtype=torch.float32)
    brain = _wide_logits(generator, *shape, dtype=torch.bfloat16)
    return [
        _causal_case("float64", generator, _logits(generator, *shape).double(), full),
        _causal_case("padded", generator, _logits(generator, *shape), mixed),
        _causal_case("transposed", generator, transposed, full),
        _causal_case("nothing", generator, _logits(generator, rows, 1, words), full[:, :1]),
        _causal_case("large", generator, single, some),
        _causal_case("large", generator, brain, full),
    ]


causal_lm_loss = Exercise(
    name="causal_lm_loss",
    reference=mlm.causal_lm_loss,
    cases=_causal_cases,
    hidden_cases=_hidden_causal_cases,
    properties=(
        scalar_with_gradient(0.5, ("full",)),
        value(1, kinds=("full", "float64"), name="shift"),
        value(1, kinds=("padded",), name="padding"),
        gradient(0.5, kinds=("full", "transposed")),
        zero_of_nothing(0.5, "no token with a predecessor"),
        large_logits(0.5),
    ),
    observe=observe_call,
)


@causal_lm_loss.mistake(*CLASSES_LAST, recognise=refuses_the_classes)
def does_not_flatten_the_shifted(logits, ids, attention_mask):
    labels = ids.masked_fill(attention_mask == 0, -100)
    return F.cross_entropy(logits[:, :-1], labels[:, 1:])


@causal_lm_loss.mistake(
    "every position predicts its own token",
    why="the model sees that token, so the loss falls to zero and it learns to copy.",
    look_at="which token do the logits at position t - 1 speak about?",
)
def no_shift(logits, ids, attention_mask):
    picked = torch.log_softmax(logits, dim=-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    counted = attention_mask.bool()
    return -(picked * counted).sum() / counted.sum().clamp(min=1)


@causal_lm_loss.mistake(
    "it shifts the wrong way: the logits predict the token before",
    why="that token has been read already; the model would learn to repeat, not to go on.",
    look_at="write down t for the first logits that you use, and for the first id.",
)
def shifts_the_wrong_way(logits, ids, attention_mask):
    picked = torch.log_softmax(logits[:, 1:], dim=-1).gather(-1, ids[:, :-1].unsqueeze(-1))
    counted = attention_mask[:, 1:].bool() & attention_mask[:, :-1].bool()
    return -(picked.squeeze(-1) * counted).sum() / counted.sum().clamp(min=1)


@causal_lm_loss.mistake(
    "the last position of a row is asked for its first token",
    why="nothing follows the last token, and torch.roll brings the first one round to its place.",
    look_at="which token comes after the last one of a row, and which does your code take?",
)
def asks_the_last_for_the_first(logits, ids, attention_mask):
    following = torch.roll(ids, -1, dims=1)
    counted = attention_mask.bool() & torch.roll(attention_mask, -1, dims=1).bool()
    picked = torch.log_softmax(logits, dim=-1).gather(-1, following.unsqueeze(-1)).squeeze(-1)
    return -(picked * counted).sum() / counted.sum().clamp(min=1)


@causal_lm_loss.mistake(
    "an integer mask is used as an index, so it picks rows 0 and 1",
    why="PyTorch takes 0 and 1 as positions to fetch, and True and False as what to keep.",
    look_at="the dtype of the tensor between your square brackets.",
)
def indexes_with_integers(logits, ids, attention_mask):
    picked = torch.log_softmax(logits[:, :-1], dim=-1).gather(-1, ids[:, 1:].unsqueeze(-1))
    return -picked.squeeze(-1)[attention_mask[:, 1:] * attention_mask[:, :-1]].mean()


@causal_lm_loss.mistake(
    "padding is counted like text",
    why="the model spends its effort on predicting padding, more so the shorter the text.",
    look_at="where is attention_mask in your sum, and in what you divide by?",
)
def counts_padding(logits, ids, attention_mask):
    picked = torch.log_softmax(logits[:, :-1], dim=-1).gather(-1, ids[:, 1:].unsqueeze(-1))
    return -picked.sum() / max(picked.numel(), 1)


@causal_lm_loss.mistake(
    "the last token of a row still has to predict padding",
    why="a pair counts when both its tokens are real; here only the first one is looked at.",
    look_at="which two positions does one term of the sum belong to? Are both real?",
)
def counts_first_padding(logits, ids, attention_mask):
    picked = torch.log_softmax(logits[:, :-1], dim=-1).gather(-1, ids[:, 1:].unsqueeze(-1))
    counted = attention_mask[:, :-1].bool()
    return -(picked.squeeze(-1) * counted).sum() / counted.sum().clamp(min=1)


@causal_lm_loss.mistake(
    "with padding on the left, the first token is predicted from padding",
    why="a pair counts when both its tokens are real; here only the second one is looked at.",
    look_at="which two positions does one term of the sum belong to? Are both real?",
)
def predicts_from_padding(logits, ids, attention_mask):
    picked = torch.log_softmax(logits[:, :-1], dim=-1).gather(-1, ids[:, 1:].unsqueeze(-1))
    counted = attention_mask[:, 1:].bool()
    return -(picked.squeeze(-1) * counted).sum() / counted.sum().clamp(min=1)


@causal_lm_loss.mistake(
    "the sum is divided by the number of all positions, padding included",
    why="the more padding a batch has, the smaller its loss would look.",
    look_at="how many pairs are in your sum, and what do you divide it by?",
)
def averages_over_padding(logits, ids, attention_mask):
    picked = torch.log_softmax(logits[:, :-1], dim=-1).gather(-1, ids[:, 1:].unsqueeze(-1))
    counted = attention_mask[:, 1:].bool() & attention_mask[:, :-1].bool()
    return -(picked.squeeze(-1) * counted).sum() / max(counted.numel(), 1)


@causal_lm_loss.mistake(*ROWS_FIRST)
def averages_rows_before_the_batch(logits, ids, attention_mask):
    picked = torch.log_softmax(logits[:, :-1], dim=-1).gather(-1, ids[:, 1:].unsqueeze(-1))
    counted = attention_mask[:, 1:].bool() & attention_mask[:, :-1].bool()
    rows = -(picked.squeeze(-1) * counted).sum(dim=-1) / counted.sum(dim=-1).clamp(min=1)
    return rows.mean()


@causal_lm_loss.mistake(
    *NAN_OF_NOTHING, recognise=wrong_only_in("nothing", mlm.causal_lm_loss, has_nan, "large")
)
def nan_without_pairs(logits, ids, attention_mask):
    counted = attention_mask[:, 1:].bool() & attention_mask[:, :-1].bool()
    log_probabilities = torch.log_softmax(logits[:, :-1][counted], dim=-1)
    return -log_probabilities.gather(-1, ids[:, 1:][counted].unsqueeze(-1)).mean()


@causal_lm_loss.mistake(*NO_GRAPH)
def constant_without_pairs(logits, ids, attention_mask):
    counted = attention_mask[:, 1:].bool() & attention_mask[:, :-1].bool()
    if not counted.any():
        return torch.tensor(0.0)
    log_probabilities = torch.log_softmax(logits[:, :-1][counted], dim=-1)
    return -log_probabilities.gather(-1, ids[:, 1:][counted].unsqueeze(-1)).mean()


@causal_lm_loss.mistake(
    *EXP_BEFORE_LOG,
    recognise=wrong_only_in("large", mlm.causal_lm_loss, infinite_or_cut_off, "nothing"),
)
def log_of_softmax_of_next(logits, ids, attention_mask):
    counted = attention_mask[:, 1:].bool() & attention_mask[:, :-1].bool()
    probabilities = torch.softmax(logits[:, :-1][counted], dim=-1)
    picked = probabilities.gather(-1, ids[:, 1:][counted].unsqueeze(-1))
    return -torch.log(picked).sum() / counted.sum().clamp(min=1)


EXERCISES = (mask_tokens, mlm_loss, causal_lm_loss)
