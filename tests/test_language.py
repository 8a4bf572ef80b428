"""The generated language: exact answers against brute force, and against what the sampler draws."""

import itertools
import math
import re
from collections import defaultdict

import numpy as np
import pytest

from course_lib import language
from course_lib.grammar import (
    CLS,
    DAYS_LATER,
    DOMAINS,
    MASK,
    PAD,
    SEP,
    WEEKDAYS,
    ZIPF_EXPONENT,
    build_grammar,
    english,
    weekday_pairs,
    zipf,
)

# A language so small that all its documents can be written down: every kind of slot, negation,
# general words, and forms of different lengths that add up to the same length.
TOPIC_WORDS = {
    "reviews": {"NOUN": {"film": "film movie", "hotel": "hotel", "general": "visit"}},
    "finance": {"FIRM": {"banking": "bank lender", "energy": "driller"}},
}
CUE_WORDS = {
    "reviews": {"ADJ": ("bad poor", "good")},
    "finance": {"ROSE": ("fell", "rose gained")},
}
NEUTRAL_WORDS = {"reviews": {}, "finance": {"WHO": "we they"}}
FORMS = {
    "reviews": ((3, "DAY ADJ NOUN ."), (2, "NOUN not ~ADJ DAY ."), (1, "ADJ DAY , a ADJ NOUN .")),
    "finance": ((1, "FIRM ROSE DAY ."), (2, "FIRM never ~ROSE on DAY .")),
}
NOISE, IRONY, FINANCE_SHARE = 0.2, 0.1, 0.3
GENERAL_SHARE = 0.25


def slot_law(name, domain, topic, tone):
    """P(word) of one slot, from the lists above and the formulas of the docstrings alone."""

    def ranked(words):
        words = words.split()
        weights = [rank**-ZIPF_EXPONENT for rank in range(1, len(words) + 1)]
        return {word: weight / sum(weights) for word, weight in zip(words, weights, strict=True)}

    def mixed(first, second, share):
        law = defaultdict(float)
        for part, weight in ((first, 1 - share), (second, share)):
            for word, probability in ranked(part).items():
                law[word] += weight * probability
        return law

    if name in TOPIC_WORDS[domain]:
        lists = TOPIC_WORDS[domain][name]
        share = GENERAL_SHARE if "general" in lists else 0.0
        return mixed(lists[topic], lists.get("general", lists[topic]), share)
    if name.lstrip("~") in CUE_WORDS[domain]:
        said = 1 - tone if name[0] == "~" else tone
        lists = CUE_WORDS[domain][name.lstrip("~")]
        return mixed(lists[said], lists[1 - said], NOISE)
    if name in NEUTRAL_WORDS[domain]:
        return ranked(NEUTRAL_WORDS[domain][name])
    return {name: 1.0}


def cells():
    for domain, share in (("reviews", 1 - FINANCE_SHARE), ("finance", FINANCE_SHARE)):
        names = [t for t in next(iter(TOPIC_WORDS[domain].values())) if t != "general"]
        for topic, tone in itertools.product(names, (0, 1)):
            yield domain, topic, tone, share / len(names) / 2


def day_law():
    for later, probability in DAYS_LATER.items():
        starts = len(WEEKDAYS) - later
        for day in range(starts):
            yield (WEEKDAYS[day], WEEKDAYS[day + later]), probability / starts


def sentences(domain, topic, tone):
    """Every sentence of a cell as (words with DAY in place of the weekday, probability)."""
    total = sum(weight for weight, _ in FORMS[domain])
    for weight, template in FORMS[domain]:
        laws = [
            slot_law(name, domain, topic, tone) if name != "DAY" else {"DAY": 1.0}
            for name in template.split()
        ]
        for words in itertools.product(*(law.items() for law in laws)):
            yield (
                [word for word, _ in words],
                weight / total * math.prod(probability for _, probability in words),
            )


@pytest.fixture(scope="module")
def tiny():
    return build_grammar(TOPIC_WORDS, CUE_WORDS, NEUTRAL_WORDS, FORMS, NOISE, IRONY)


@pytest.fixture(scope="module")
def documents():
    """All documents: words -> {(domain, topic, sentiment): probability}."""
    found = defaultdict(lambda: defaultdict(float))
    for domain, topic, tone, prior in cells():
        said = list(sentences(domain, topic, tone))
        for (first, p), (second, q) in itertools.product(said, said):
            for (early, late), r in day_law():
                words = [early if word == "DAY" else word for word in first]
                words += [late if word == "DAY" else word for word in second]
                joint = prior * p * q * r
                found[tuple(words)][domain, topic, tone] += joint * (1 - IRONY)
                found[tuple(words)][domain, topic, 1 - tone] += joint * IRONY
    return found


@pytest.fixture(scope="module")
def some_documents(documents):
    """A fixed sample of the documents, for what costs a pass over all of them each."""
    chosen = np.random.default_rng(0).permutation(len(documents))[:40]
    every = list(documents)
    return [every[i] for i in chosen]


def token_ids(grammar, words, length=0):
    row = [CLS, *(grammar.words.index(word) for word in words), SEP]
    return np.array(row + [PAD] * (length - len(row)))


def test_the_tiny_language_has_documents_of_every_kind_and_probability_one(documents):
    assert sum(sum(joint.values()) for joint in documents.values()) == pytest.approx(1, abs=1e-12)
    assert len({len(words) for words in documents}) > 3


@pytest.mark.parametrize("label", ["sentiment", "topic", "domain"])
def test_posterior_of_a_label_is_that_of_the_enumeration(tiny, documents, some_documents, label):
    part = {"domain": 0, "topic": 1, "sentiment": 2}[label]
    classes = {"domain": DOMAINS, "topic": ["film", "hotel", "banking", "energy"]}
    found = language.label_posterior(
        [" ".join(words) for words in some_documents], label, FINANCE_SHARE, tiny
    )
    for words, row in zip(some_documents, found, strict=True):
        joint = documents[words]
        wanted = [
            sum(p for cell, p in joint.items() if cell[part] == name) / sum(joint.values())
            for name in classes.get(label, (0, 1))
        ]
        np.testing.assert_allclose(row, wanted, atol=1e-12)


@pytest.mark.parametrize("label", ["sentiment", "topic", "domain"])
@pytest.mark.parametrize("domain", [None, *DOMAINS])
def test_bayes_accuracy_is_that_of_the_enumeration(tiny, documents, label, domain):
    part = {"domain": 0, "topic": 1, "sentiment": 2}[label]
    share = {"reviews": 1 - FINANCE_SHARE, "finance": FINANCE_SHARE, None: 1.0}[domain]
    correct = 0.0
    for joint in documents.values():
        classes = defaultdict(float)
        for cell, probability in joint.items():
            if domain in (None, cell[0]):
                classes[cell[part]] += probability
        correct += max(classes.values(), default=0.0)
    found = language.bayes_accuracy(label, domain, FINANCE_SHARE, tiny)
    assert found == pytest.approx(correct / share, abs=1e-9)


@pytest.mark.parametrize("rate", [0.15, 0.5, 1.0])
def test_masked_words_have_the_probabilities_of_the_enumeration(
    tiny, documents, some_documents, rate
):
    generator = np.random.default_rng(int(100 * rate))
    by_length = defaultdict(list)
    for words, joint in documents.items():
        by_length[len(words)].append((words, sum(joint.values())))
    for words in some_documents[:8]:
        hidden = generator.random(len(words)) < rate
        hidden[generator.integers(len(words))] = True
        law = np.zeros((len(words), len(tiny.words)))
        for other, probability in by_length[len(words)]:
            if all(h or a == b for h, a, b in zip(hidden, words, other, strict=True)):
                for position, word in enumerate(other):
                    law[position, tiny.words.index(word)] += probability
        law /= law.sum(axis=1, keepdims=True)
        ids = token_ids(tiny, words)[None]
        masked = np.concatenate([[False], hidden, [False]])[None]
        found = language.masked_log_probs(ids, masked, FINANCE_SHARE, tiny)
        np.testing.assert_allclose(np.exp(found), law[hidden], atol=1e-12)
        own = [law[i, tiny.words.index(words[i])] for i in np.flatnonzero(hidden)]
        floor = language.entropy_floor(ids, masked, FINANCE_SHARE, tiny)
        assert floor == pytest.approx(-np.mean(np.log(own)), abs=1e-10)


def test_what_stands_under_a_mask_is_not_looked_at(tiny, some_documents):
    ids = token_ids(tiny, some_documents[0])[None]
    masked = np.zeros(ids.shape, dtype=bool)
    masked[0, [1, 3]] = True
    changed = np.where(masked, MASK, ids)
    first, second = (
        language.masked_log_probs(i, masked, FINANCE_SHARE, tiny) for i in (ids, changed)
    )
    np.testing.assert_array_equal(first, second)


def test_a_batch_longer_than_a_chunk_gives_what_its_rows_give(tiny, some_documents):
    rows = (some_documents * 4)[:140]
    longest = max(map(len, rows)) + 2
    ids = np.stack([token_ids(tiny, words, longest) for words in rows])
    masked = np.zeros(ids.shape, dtype=bool)
    masked[:, 2] = True
    together = language.masked_log_probs(ids, masked, FINANCE_SHARE, tiny)
    for row in (0, 127, 128, 139):
        alone = language.masked_log_probs(
            ids[row : row + 1], masked[row : row + 1], FINANCE_SHARE, tiny
        )
        np.testing.assert_allclose(np.exp(together[row : row + 1]), np.exp(alone), atol=1e-14)


# --- the course's language ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample():
    return language.sample_documents(6000, seed=11)


@pytest.mark.parametrize("domain", [None, *DOMAINS])
def test_bayes_accuracy_of_sentiment_is_about_95_percent(domain):
    assert 0.952 < language.bayes_accuracy("sentiment", domain) < 0.958


@pytest.mark.parametrize("label", ["sentiment", "topic"])
def test_sampled_labels_agree_with_posterior_and_bayes_accuracy(sample, label):
    posterior = language.label_posterior(sample, label)
    names = {"sentiment": [0, 1], "topic": language.topics()}[label]
    labels = np.array([names.index(getattr(document, label)) for document in sample])
    np.testing.assert_allclose(posterior.sum(axis=1), 1, atol=1e-12)
    exact = language.bayes_accuracy(label)
    correct = posterior.argmax(axis=1) == labels
    assert abs(correct.mean() - exact) < 4 * np.sqrt(exact * (1 - exact) / len(sample))
    # The posterior's own opinion of how often it is right has far less noise than a count of hits.
    certainty = posterior.max(axis=1)
    assert abs(certainty.mean() - exact) < 4 * certainty.std() / np.sqrt(len(sample))
    # Calibrated: of the texts given probabilities p_i of a label, sum p_i have it.
    own = posterior[:, 0]
    for rows in (own < 0.3, own >= 0.3):
        noise = np.sqrt((own[rows] * (1 - own[rows])).sum())
        assert abs((labels[rows] == 0).sum() - own[rows].sum()) < 4 * noise + 1e-9


def test_the_floor_is_the_mean_entropy_of_the_ideal_reader(sample):
    ids = language.encode(sample[:1500])
    special = np.isin(ids, (PAD, CLS, SEP))
    masked = (np.random.default_rng(5).random(ids.shape) < 0.3) & ~special
    log_probs = language.masked_log_probs(ids, masked)
    probs = np.exp(log_probs)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-10)
    entropy = -(probs * np.where(probs > 0, log_probs, 0)).sum(axis=1)
    surprise = -log_probs[np.arange(len(log_probs)), ids[masked]]
    assert np.isfinite(surprise).all()
    difference = surprise - entropy
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))
    assert language.entropy_floor(ids, masked) == pytest.approx(surprise.mean())


def test_every_document_has_one_pair_of_forms():
    """What `bayes_accuracy` relies on: two pairs of forms of one length never meet in a text."""
    grammar = english()
    support = (grammar.emission > 0).any(axis=1).astype(int)  # (K, V)
    meets = support @ support.T > 0  # (K, K): some word fits both slots
    kinds = list(grammar.kinds)
    meets[kinds.index("DAY"), kinds.index("DAY")] = True
    for domain in range(2):
        cell = domain * (len(grammar.cells) - 1)
        forms = [form.slots for form in grammar.forms if form.probability[cell] > 0]
        texts = [first + second for first in forms for second in forms]
        for one, other in itertools.combinations(texts, 2):
            if len(one) == len(other):
                assert not all(meets[a, b] for a, b in zip(one, other, strict=True))


def test_tables_are_probabilities_and_frequencies_fall_with_rank():
    grammar = english()
    sums = grammar.emission.sum(axis=2)  # (K, C)
    used = np.zeros(sums.shape, dtype=bool)
    for form in grammar.forms:
        for position, kind in enumerate(form.slots):
            if position != form.day:
                used[kind] |= form.probability > 0
    np.testing.assert_allclose(sums[used], 1, atol=1e-12)
    forms = np.sum([form.probability for form in grammar.forms], axis=0)
    np.testing.assert_allclose(forms, 1, atol=1e-12)
    assert zipf(4) == pytest.approx(np.array([1, 2**-1.2, 3**-1.2, 4**-1.2]) / zipf(4)[0] ** -1)
    pairs = weekday_pairs()
    assert pairs.sum() == pytest.approx(1)
    assert np.all(np.triu(pairs, 1) == pairs)
    assert 350 < len([word for word in language.vocabulary() if len(word) > 1]) < 550


def test_the_same_seed_gives_the_same_text_and_another_seed_other_text():
    assert language.sample_documents(50, 3) == language.sample_documents(50, 3)
    assert language.sample_documents(50, 3) != language.sample_documents(50, 4)


def test_a_seed_gives_this_text_on_every_machine():
    first, second = language.sample_documents(2, seed=0)
    assert [first.text, second.text] == [
        "Annual profits hardly climbed on Monday and solid failure frustrated utility "
        "shareholders. Investors hated gloomy firm on Tuesday as solar sales dropped.",
        "Sadly the weak button annoyed visitors on Monday, a weak disaster. "
        "Nobody praised the phone on Tuesday: miserable screen, a failure.",
    ]


def test_text_is_two_english_sentences_with_their_weekdays_in_order(sample):
    known = set(language.vocabulary())
    for document in sample[:2000]:
        days = []
        for sentence in (document.first, document.second):
            assert re.fullmatch(r"[A-Z][A-Za-z ,:]*\.", sentence)
            assert not re.search(r" [.,:]|  |\ba [aeiou]", sentence)
            days += re.findall("|".join(day.capitalize() for day in WEEKDAYS), sentence)
        early, late = (WEEKDAYS.index(day.lower()) for day in days)
        assert 1 <= late - early <= 3
        words = re.findall(r"\w+|[.,:]", document.text.lower())
        assert known.issuperset(words)
        assert len(words) + 2 <= 32
        assert document.topic in language.topics(document.domain)


def test_the_shares_of_domains_topics_and_sentiments_are_those_asked_for():
    number = 8000
    drawn = language.sample_documents(number, 21, finance_share=0.05)
    finance = sum(document.domain == "finance" for document in drawn) / number
    assert abs(finance - 0.05) < 4 * np.sqrt(0.05 * 0.95 / number)
    positive = np.mean([document.sentiment for document in drawn])
    assert abs(positive - 0.5) < 4 * 0.5 / np.sqrt(number)
    for domain in DOMAINS:
        only = language.sample_documents(300, 22, domain=domain)
        assert {document.topic for document in only} == set(language.topics(domain))
    assert language.topics() == language.topics("reviews") + language.topics("finance")


@pytest.mark.parametrize(
    ("text", "sentiment"),
    [
        ("The film was not bad on Monday and its great plot impressed us. "
         "Great film, superb cast: people praised it on Tuesday.", 1),
        ("Nobody praised the hotel on Monday: poor room, a failure. "
         "The view was never good and the terrible hotel upset us on Wednesday.", 0),
        ("Although the screen was great, the bad phone annoyed us on Monday. "
         "On Tuesday the battery was good, but people criticized the terrible phone.", 0),
        ("Loan sales hardly fell on Monday and good profit pleased bank investors. "
         "No bad loss at bank on Tuesday as loan sales rose.", 1),
    ],
)  # fmt: skip
def test_negation_and_contrast_are_read_rightly(text, sentiment):
    (posterior,) = language.label_posterior([text])
    assert posterior.argmax() == sentiment
    assert posterior.max() == pytest.approx(1 - english().irony, abs=0.01)


def test_swapped_sentences_are_recognised_by_their_weekdays(sample):
    swapped = [f"{document.second} {document.first}" for document in sample[:50]]
    written = [document.text for document in sample[:50]]
    np.testing.assert_allclose(language.label_posterior(swapped, "order")[:, 0], 1)
    np.testing.assert_allclose(language.label_posterior(written, "order")[:, 1], 1)
    assert language.bayes_accuracy("order") == pytest.approx(1)


def test_nothing_asked_is_nothing_given():
    assert language.sample_documents(0, 1) == []
    assert language.encode([]).shape == (0, 2)
    assert language.label_posterior([], "topic").shape == (0, 10)
    empty = language.masked_log_probs(np.zeros((0, 5), int), np.zeros((0, 5), bool))
    assert empty.shape == (0, len(language.vocabulary()))


TEXT = "Great film, superb cast: people praised it on Tuesday."


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: language.sample_documents(-1, 0), "at least 0, got -1"),
        (lambda: language.sample_documents(1, 0, domain="sport"), "got 'sport'"),
        (lambda: language.sample_documents(1, 0, finance_share=1.5), "between 0 and 1, got 1.5"),
        (lambda: language.sample_documents(1, 0, finance_share=float("nan")), "got nan"),
        (lambda: language.topics("sport"), "got 'sport'"),
        (lambda: language.label_posterior([TEXT], "mood"), "one of sentiment, topic"),
        (lambda: language.bayes_accuracy("mood"), "one of sentiment, topic"),
        (lambda: language.bayes_accuracy(domain="sport"), "got 'sport'"),
        (lambda: language.encode(["A zebra."]), "'a' is not|'zebra' is not a word"),
        (lambda: language.label_posterior([TEXT]), "Document 0 cannot occur.*great film"),
        (lambda: language.label_posterior([""]), "first second"),
    ],
)
def test_bad_input_gets_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_bad_masks_get_a_sentence(sample):
    ids = language.encode(sample[:2])
    none = np.zeros(ids.shape, dtype=bool)
    with pytest.raises(ValueError, match="one shape"):
        language.masked_log_probs(ids, none[:, 1:])
    with pytest.raises(ValueError, match="at least one masked"):
        language.entropy_floor(ids, none)
    special = none.copy()
    special[0, 0] = True
    with pytest.raises(ValueError, match="must be False at"):
        language.masked_log_probs(ids, special)
    with pytest.raises(ValueError, match=r"\[MASK\] at a position"):
        language.masked_log_probs(np.where(np.arange(ids.shape[1]) == 2, MASK, ids), none)
    with pytest.raises(ValueError, match=r"must be \[CLS\]"):
        language.masked_log_probs(ids[:, 1:], none[:, 1:])
