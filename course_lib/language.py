"""A generated language with known answers: what an ideal reader would know about every text.

A document is two sentences about one topic, in one of two domains (reviews, finance news), with a
latent tone, negative or positive. Given (domain, topic, tone) and the forms of the two sentences
all words are independent, apart from the two weekdays (the second is one to three days after the
first). The label `sentiment` is the tone, but for 4 % ironic documents, whose author means the
opposite of every word. No reader can tell these, so no accuracy on sentiment exceeds 0.96.
So everything a model can hope to learn has an exact value, computed here by enumeration:

- the posterior of a label given a text                 `label_posterior`
- the best accuracy any classifier can reach            `bayes_accuracy`
- the distribution of masked words given the visible    `masked_log_probs`
- the lowest masked-LM loss any model can reach         `entropy_floor`

The tone is written several times into a document (redundant cues). Each cue word comes from the
other tone's list with probability `grammar.CUE_NOISE`; in negated clauses ("was not ...") and in
the first half of contrasts ("although ..., ...") it is flipped.

Randomness: one `numpy.random.Generator` (PCG64) from the seed, used only through `random()` and
inverse distribution functions, so a seed gives the same text on every machine. Entropies and
log-probabilities are in nats. A model reads `[CLS] first second [SEP]`, at most 30 tokens.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from course_lib.grammar import CLS, DOMAINS, MASK, PAD, SEP, WEEKDAYS, Grammar, english

LABELS = ("sentiment", "topic", "domain", "order")
_CHUNK = 128  # documents enumerated at once: bounds memory to some 100 MB


@dataclass(frozen=True)
class Document:
    """Two sentences with their latent labels; `text` is what a reader sees."""

    first: str
    second: str
    domain: str
    topic: str
    sentiment: int  # index into grammar.SENTIMENTS: 0 negative, 1 positive; what the author means

    @property
    def text(self) -> str:
        return f"{self.first} {self.second}"


def vocabulary() -> list[str]:
    """All word pieces in the order of their token ids: special tokens, words, characters."""
    return list(english().words)


def topics(domain: str | None = None) -> list[str]:
    """Topic names, reviews before finance; only those of `domain` if it is named."""
    _check_domain(domain)
    return list(dict.fromkeys(c[1] for c in english().cells if domain in (None, c[0])))


def sample_documents(
    number: int,
    seed: int,
    domain: str | None = None,
    finance_share: float = 0.5,
    grammar: Grammar | None = None,
) -> list[Document]:
    """Draw `number` independent documents; the same seed gives the same text everywhere.

    domain: "reviews", "finance", or None for a mixture with `finance_share` of finance.
    Raises ValueError for a negative number, an unknown domain or a share outside [0, 1].
    """
    grammar = grammar or english()
    _check_domain(domain)
    if number < 0:
        raise ValueError(f"number of documents must be at least 0, got {number}.")
    generator = np.random.default_rng(seed)
    prior = grammar.prior(_share(domain, finance_share))
    cell = _draw(np.cumsum(prior), generator.random(number))  # (N,)
    pair = _draw(np.cumsum(grammar.day_pairs), generator.random(number))  # (N,)
    days = np.stack(np.divmod(pair, len(grammar.weekdays)), axis=1)  # (N, 2)
    form_table = np.cumsum([form.probability for form in grammar.forms], axis=0)  # (F, C)
    longest = max(len(form.slots) for form in grammar.forms)
    sentences = []
    for which in range(2):
        uniform = generator.random((number, 1 + longest))
        form = (form_table[:, cell] <= uniform[:, 0]).sum(axis=0)  # (N,)
        ids = np.full((number, longest), PAD)
        for f, layout in enumerate(grammar.forms):
            rows = np.flatnonzero(form == f)
            for position, kind in enumerate(layout.slots):
                table = np.cumsum(grammar.emission[kind], axis=1)[cell[rows]]  # (n, V)
                ids[rows, position] = _draw(table, uniform[rows, 1 + position])
            ids[rows, layout.day] = grammar.weekdays[days[rows, which]]
        words = np.array(grammar.words, dtype=object)[ids]
        sizes = (ids != PAD).sum(axis=1).tolist()
        sentences.append([_spell(row[:n]) for row, n in zip(words.tolist(), sizes, strict=True)])
    ironic = generator.random(number) < grammar.irony
    labels = [grammar.cells[c] for c in cell.tolist()]
    rows = zip(*sentences, labels, ironic.tolist(), strict=True)
    return [
        Document(first, second, domain, topic, 1 - tone if meant_otherwise else tone)
        for first, second, (domain, topic, tone), meant_otherwise in rows
    ]


def _draw(cumulative: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Inverse distribution function: index of the word in which each uniform number falls."""
    scaled = uniform[:, None] * cumulative[..., -1:]  # the last entry is 1 up to rounding
    return (cumulative <= scaled).sum(axis=-1)


def _spell(words: list[str]) -> str:
    """Write a sentence with capitals and with punctuation closed up."""
    text = " ".join(word.capitalize() if word in WEEKDAYS else word for word in words)
    text = re.sub(r" ([.,:])", r"\1", text)
    return text[:1].upper() + text[1:]


def encode(texts: Iterable[str | Document], grammar: Grammar | None = None) -> np.ndarray:
    """Token ids (N, T) of `[CLS] text [SEP]`, padded with 0, as the course's tokenizer gives them.

    Raises ValueError for a word which the language does not have.
    """
    grammar = grammar or english()
    index = {word: i for i, word in enumerate(grammar.words)}
    rows = []
    for text in texts:
        text = text.text if isinstance(text, Document) else text
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        unknown = [word for word in words if word not in index]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not a word of the generated language: {text!r}.")
        rows.append([CLS, *(index[word] for word in words), SEP])
    ids = np.full((len(rows), max(map(len, rows), default=2)), PAD)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    return ids


@dataclass
class _Enumeration:
    """Weights of all explanations (form, form, cell) of a batch of partly hidden documents."""

    evidence: np.ndarray  # (B,) P(visible tokens)
    cells: np.ndarray  # (B, C) P(cell | visible)
    forms: tuple[np.ndarray, np.ndarray]  # per sentence (B, F, C): P(form, cell | visible)
    days: tuple[np.ndarray, np.ndarray]  # per sentence (B, F, D): P(form, weekday | visible)


def _enumerate(grammar, ids, hidden, lengths, finance_share, day_pairs=None) -> _Enumeration:
    """Sum over every pair of forms that fits the length, every cell and every weekday pair.

    ids, hidden: (B, T) without [CLS]; lengths: (B,) tokens of the two sentences together.
    Sentence one starts at the left, sentence two ends at the right: given the two forms the
    boundary is known, so a hidden full stop needs no special case.
    """
    pairs = grammar.day_pairs if day_pairs is None else day_pairs
    batch, unseen = len(ids), len(grammar.words)
    cells, number_days, number_forms = len(grammar.cells), len(pairs), len(grammar.forms)
    ids = np.where(hidden, unseen, ids)
    # One more row than words: a hidden token is explained by everything with probability 1.
    emission = np.concatenate(
        [grammar.emission.transpose(0, 2, 1), np.ones((len(grammar.kinds), 1, cells))], axis=1
    )  # (K, V + 1, C)
    is_day = np.zeros((unseen + 1, number_days))
    is_day[grammar.weekdays, np.arange(number_days)] = 1.0
    is_day[unseen] = 1.0
    score = np.zeros((2, batch, number_forms, cells))
    day = np.zeros((2, batch, number_forms, number_days))
    for f, form in enumerate(grammar.forms):
        fits = lengths >= len(form.slots)
        for which in range(2):
            start = (lengths - len(form.slots)) * which
            columns = np.clip(start[:, None] + np.arange(len(form.slots)), 0, ids.shape[1] - 1)
            tokens = np.take_along_axis(ids, columns, axis=1)  # (B, L)
            product = fits[:, None] * form.probability
            for position, kind in enumerate(form.slots):
                if position != form.day:
                    product = product * emission[kind][tokens[:, position]]
            score[which, :, f] = product
            day[which, :, f] = is_day[tokens[:, form.day]]
    sizes = np.array([len(form.slots) for form in grammar.forms])
    fit = sizes[:, None] + sizes[None, :] == lengths[:, None, None]  # (B, F, F)
    after = np.einsum("ij,bgj->bgi", pairs, day[1])  # P(second sentence's day seen | first day)
    before = np.einsum("bfi,ij->bfj", day[0], pairs)
    both = fit * np.einsum("bfi,bgi->bfg", day[0], after)
    prior = grammar.prior(finance_share)
    second = np.einsum("bfg,bgc->bfc", both, score[1])
    first = np.einsum("bfg,bfc->bgc", both, score[0])
    joint = score[0] * second * prior  # (B, F, C)
    evidence = joint.sum(axis=(1, 2))
    scale = 1.0 / np.where(evidence > 0, evidence, 1.0)[:, None, None]
    shared = fit * np.einsum("bfc,bgc->bfg", score[0] * prior, score[1])
    days = (
        day[0] * np.einsum("bfg,bgi->bfi", shared, after) * scale,
        day[1] * np.einsum("bfg,bfj->bgj", shared, before) * scale,
    )
    forms = (joint * scale, score[1] * first * prior * scale)
    return _Enumeration(evidence, forms[0].sum(axis=1), forms, days)


def masked_log_probs(
    token_ids: np.ndarray,
    masked: np.ndarray,
    finance_share: float = 0.5,
    grammar: Grammar | None = None,
) -> np.ndarray:
    """log P(token | visible tokens) at each masked position, for an ideal reader.

    token_ids: (B, T) integers, `[CLS] first second [SEP]` and padding.
    masked: (B, T) bool; True where the reader sees [MASK]. What `token_ids` holds there is not
    looked at. The reader knows the language, `finance_share`, and which positions are masked.
    Returns (M, V) in nats, rows in the order of `masked.nonzero()`; exp sums to 1 in each row,
    impossible tokens have -inf.
    Raises ValueError for another shape, a masked special token, or tokens the language cannot say.
    """
    grammar = grammar or english()
    token_ids, masked = np.asarray(token_ids), np.asarray(masked, dtype=bool)
    if token_ids.ndim != 2 or token_ids.shape != masked.shape:
        raise ValueError(
            "token_ids and masked must have one shape (B, T), got "
            f"{token_ids.shape} and {masked.shape}."
        )
    result = [np.zeros((0, len(grammar.words)))]
    for start in range(0, len(token_ids), _CHUNK):
        rows = slice(start, start + _CHUNK)
        result.append(_masked_chunk(grammar, token_ids[rows], masked[rows], finance_share))
    return np.concatenate(result)


def _masked_chunk(grammar, token_ids, masked, finance_share):
    ids, lengths = _words(token_ids, masked)
    hidden = masked[:, 1 : 1 + ids.shape[1]]
    found = _enumerate(grammar, ids, hidden, lengths, finance_share)
    _check_evidence(grammar, found.evidence, token_ids)
    number = int(hidden.sum())
    slot = np.full(hidden.shape, -1)
    slot[hidden] = np.arange(number)
    kinds, cells, words = grammar.emission.shape
    weight = np.zeros((number, kinds, cells))  # P(slot, cell | visible) at each masked position
    probability = np.zeros((number, words))
    for f, form in enumerate(grammar.forms):
        for which in range(2):
            start = (lengths - len(form.slots)) * which
            possible = np.flatnonzero(found.forms[which][:, f].sum(axis=1))
            for position, kind in enumerate(form.slots):
                target = slot[possible, start[possible] + position]
                rows, target = possible[target >= 0], target[target >= 0]
                if position == form.day:
                    probability[target[:, None], grammar.weekdays] += found.days[which][rows, f]
                else:
                    weight[target, kind] += found.forms[which][rows, f]
    probability += np.tensordot(weight, grammar.emission, axes=2)
    with np.errstate(divide="ignore"):
        return np.log(probability)


def entropy_floor(
    token_ids: np.ndarray,
    masked: np.ndarray,
    finance_share: float = 0.5,
    grammar: Grammar | None = None,
) -> float:
    """Mean -log P(token | visible tokens) of the ideal reader over the masked positions, in nats.

    No model that sees `[MASK]` at exactly the `masked` positions can have a lower masked-LM loss
    in expectation. The reader is told which positions count. So compare with a model evaluated on
    pure [MASK] inputs: under 80/10/10 corruption the kept and replaced tokens carry information
    (a kept token *is* its label) and the problem is another one.
    Raises ValueError where `masked_log_probs` does, and if nothing is masked.
    """
    token_ids, masked = np.asarray(token_ids), np.asarray(masked, dtype=bool)
    log_probs = masked_log_probs(token_ids, masked, finance_share, grammar)
    if not len(log_probs):
        raise ValueError("entropy_floor needs at least one masked position, got none.")
    return float(-log_probs[np.arange(len(log_probs)), token_ids[masked]].mean())


def label_posterior(
    texts: Sequence[str | Document],
    label: str = "sentiment",
    finance_share: float = 0.5,
    grammar: Grammar | None = None,
) -> np.ndarray:
    """P(label | text) (N, number of classes) of the ideal reader.

    label: "sentiment" (negative, positive), "topic" (in the order of `topics()`), "domain"
    (reviews, finance) or "order" (P(swapped), P(as written)), where the two sentences were
    swapped with probability 1/2.
    Raises ValueError for another label, or a text which the language cannot say.
    """
    grammar = grammar or english()
    ids = encode(texts, grammar)
    groups = np.eye(2) if label == "order" else _groups(grammar, label)  # (C or 2, classes)
    result = [np.zeros((0, groups.shape[1]))]
    for start in range(0, len(ids), _CHUNK):
        words, lengths = _words(ids[start : start + _CHUNK], None)
        hidden = np.zeros(words.shape, dtype=bool)
        arguments = (grammar, words, hidden, lengths, finance_share)
        found = _enumerate(*arguments)
        weight = found.cells
        if label == "order":
            swapped = _enumerate(*arguments, day_pairs=grammar.day_pairs.T).evidence
            weight = np.stack([swapped, found.evidence], axis=1)
        _check_evidence(grammar, weight.sum(axis=1), ids[start : start + _CHUNK])
        result.append(weight / weight.sum(axis=1, keepdims=True) @ groups)
    return np.concatenate(result)


def bayes_accuracy(
    label: str = "sentiment",
    domain: str | None = None,
    finance_share: float = 0.5,
    grammar: Grammar | None = None,
) -> float:
    """Highest accuracy any classifier of whole documents can reach, computed exactly.

    sum over documents of max_y P(document, y). Documents with the same posterior are merged
    while the sum is built slot by slot, so a few hundred classes remain instead of 10^20 texts.
    This needs every document to have one pair of forms; the tests prove that it has.
    """
    grammar = grammar or english()
    _check_domain(domain)
    if label == "order":
        swapped = np.minimum(grammar.day_pairs, grammar.day_pairs.T).sum()
        return float(1 - swapped / 2)
    groups = _groups(grammar, label)
    by_form = []
    for form in grammar.forms:
        law = form.probability[None]
        for position, kind in enumerate(form.slots):
            if position != form.day:  # weekdays do not depend on the cell
                law = _product(law, _merge(grammar.emission[kind].T))
        by_form.append(law)
    sentence = _merge(np.concatenate(by_form))  # (outcomes, C): P(outcome | cell)
    joint = _product(sentence, sentence) * grammar.prior(_share(domain, finance_share))
    return float((joint @ groups).max(axis=1).sum())


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Law of two independent observations."""
    return _merge((left[:, None] * right[None]).reshape(-1, left.shape[1]))


def _merge(law: np.ndarray) -> np.ndarray:
    """Add up outcomes whose likelihoods are proportional: they leave the same posterior."""
    law = law[law.sum(axis=1) > 0]
    direction = np.round(law / law.sum(axis=1, keepdims=True), 10) + 0.0
    _, inverse = np.unique(direction, axis=0, return_inverse=True)
    merged = np.zeros((inverse.max() + 1, law.shape[1]))
    np.add.at(merged, inverse.ravel(), law)
    return merged


def _groups(grammar: Grammar, label: str) -> np.ndarray:  # (C, classes)
    """P(class | cell): the domain and the topic are part of the cell, sentiment is almost."""
    if label == "domain":
        return np.array([[float(cell[0] == name) for name in DOMAINS] for cell in grammar.cells])
    if label == "topic":
        names = dict.fromkeys(cell[1] for cell in grammar.cells)
        return np.array([[float(cell[1] == name) for name in names] for cell in grammar.cells])
    if label == "sentiment":
        meant = np.array([[1 - grammar.irony, grammar.irony], [grammar.irony, 1 - grammar.irony]])
        return meant[[cell[2] for cell in grammar.cells]]
    raise ValueError(f"label must be one of {', '.join(LABELS)}, got {label!r}.")


def _words(token_ids: np.ndarray, masked: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Strip [CLS], [SEP] and padding: (B, T - 2) word ids and (B,) lengths."""
    lengths = (token_ids != PAD).sum(axis=1) - 2
    ends = token_ids[np.arange(len(token_ids)), np.clip(lengths + 1, 0, None)]
    if (lengths < 1).any() or (token_ids[:, 0] != CLS).any() or (ends != SEP).any():
        raise ValueError("token_ids must be [CLS] first second [SEP], padded with 0 on the right.")
    if masked is not None:
        special = np.isin(token_ids, (PAD, CLS, SEP))
        if (special & masked).any():
            raise ValueError("masked must be False at [CLS], [SEP] and padding.")
        if ((token_ids == MASK) & ~masked).any():
            raise ValueError("token_ids holds [MASK] at a position that is not in masked.")
    return token_ids[:, 1 : 1 + max(int(lengths.max(initial=1)), 1)], lengths


def _check_evidence(grammar: Grammar, evidence: np.ndarray, token_ids: np.ndarray) -> None:
    if (evidence <= 0).any():
        row = int(np.flatnonzero(evidence <= 0)[0])
        words = grammar.words
        text = " ".join(words[i] if i < len(words) else "?" for i in token_ids[row] if i != PAD)
        raise ValueError(f"Document {row} cannot occur in the generated language: {text!r}.")


def _check_domain(domain: str | None) -> None:
    if domain not in (None, *DOMAINS):
        raise ValueError(f"domain must be reviews, finance or None, got {domain!r}.")


def _share(domain: str | None, finance_share: float) -> float:
    return finance_share if domain is None else float(domain == "finance")
