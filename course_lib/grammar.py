"""Words, templates and probability tables of the generated language (see `course_lib.language`).

A *form* is a template of one sentence; its slots are filled with one word each, independently
given the *cell* (domain, topic, tone). Only the two weekdays of a document are drawn as a pair.

What a small model needs to learn from so little text, measured: most tokens carry content (with
long frames of function words it learned frames and word counts only), a sentence has three cues
for the tone and they mostly agree, and word frequencies fall with rank as rank ** -1.2 (Zipf).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

DOMAINS = ("reviews", "finance")
SENTIMENTS = ("negative", "positive")
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
PUNCTUATION = ".,;:!?'\"()-%$&/"
ZIPF_EXPONENT = 1.2
GENERAL_SHARE = 0.25  # of topic slots filled with a word that fits any topic of the domain
CUE_NOISE = 0.10  # share of cue words that come from the other tone's list
IRONY = 0.04  # share of documents whose author means the opposite of the tone
DAYS_LATER = {1: 0.5, 2: 0.3, 3: 0.2}  # from the first sentence's weekday to the second's

# slot name -> words of one topic, most frequent first; "general" words fit every topic.
TOPIC_WORDS = {
    "reviews": {
        "NOUN": {
            "film": "film movie thriller comedy documentary sequel remake western",
            "restaurant": "restaurant meal dinner buffet bistro lunch brunch cafe",
            "hotel": "hotel suite resort hostel motel lodge cottage villa",
            "phone": "phone smartwatch handset headset tablet charger speaker camera",
            "book": "book novel biography memoir paperback trilogy poem diary",
            "game": "game puzzle racer sandbox platformer console remaster arcade",
            "general": "experience product visit choice",
        },
        "PART": {
            "film": "plot actor scene script director ending cast dialogue soundtrack villain",
            "restaurant": "food waiter menu soup chef dessert pizza wine kitchen sauce",
            "hotel": "room bed view breakfast pool lobby balcony bathroom shower reception",
            "phone": "screen battery keyboard display sensor button microphone update lens case",
            "book": "chapter author prose narrator cover preface poet glossary epilogue binding",
            "game": "level controller quest map tutorial campaign engine boss joystick dungeon",
            "general": "quality price design style atmosphere result",
        },
    },
    "finance": {
        "FIRM": {
            "banking": "bank lender insurer broker fund trust creditor underwriter",
            "energy": "utility refiner driller producer miner pipeline refinery supplier",
            "technology": "chipmaker startup developer vendor manufacturer platform foundry",
            "retail": "retailer supermarket grocer chain wholesaler store brand franchise",
            "general": "company firm group corporation",
        },
        "UNIT": {
            "banking": "loan credit mortgage deposit pension insurance bond card",
            "energy": "oil gas power solar coal fuel wind petrol",
            "technology": "software chip cloud laptop server network tablet smartphone",
            "retail": "fashion grocery clothing furniture toy shoe jewelry cosmetics",
            "general": "quarterly annual domestic foreign monthly",
        },
    },
}
# slot name -> (negative words, positive words). What may follow "a" starts with a consonant.
CUE_WORDS = {
    "reviews": {
        "ADJ": (
            "bad poor terrible disappointing weak dreadful dull boring miserable dismal lousy "
            "horrible mediocre pathetic",
            "good great superb brilliant strong wonderful lovely perfect delightful remarkable "
            "terrific splendid charming solid",
        ),
        "THING": (
            "failure disaster setback disappointment mess mistake letdown flop",
            "success triumph joy pleasure treat delight winner masterpiece",
        ),
        "FELT": (
            "disappointed upset annoyed frustrated worried bored irritated confused",
            "impressed pleased delighted surprised encouraged thrilled charmed amused",
        ),
        "LUCK": (
            "sadly unfortunately regrettably alas",
            "happily fortunately luckily thankfully",
        ),
        "LIKED": (
            "criticized hated condemned disliked mocked shunned despised loathed",
            "praised liked applauded loved admired welcomed enjoyed recommended",
        ),
    },
    "finance": {
        "ADJ": (
            "bad poor terrible disappointing weak dreadful gloomy painful bleak dismal worrying "
            "costly",
            "good great superb brilliant strong robust healthy promising bright remarkable record "
            "solid",
        ),
        "NEWS": (
            "loss failure setback decline slump disaster slowdown deficit",
            "profit success gain recovery rebound triumph surplus dividend",
        ),
        "FELT": (
            "disappointed upset annoyed frustrated worried alarmed frightened unsettled",
            "impressed pleased delighted surprised encouraged reassured cheered calmed",
        ),
        "ROSE": (
            "fell dropped declined slipped tumbled sank plunged slumped",
            "rose climbed gained jumped grew surged soared rallied",
        ),
        "LIKED": (
            "criticized hated condemned dumped mocked shunned doubted sold",
            "praised liked applauded backed admired welcomed favored bought",
        ),
    },
}
NEUTRAL_WORDS = {
    "reviews": {
        "SUBJECT": "we everyone people critics visitors customers friends",
        "OBJECT": "us everyone people me critics visitors friends",
    },
    "finance": {
        "METRIC": "sales profits earnings revenues orders margins volumes exports",
        "TRADERS": "investors analysts traders shareholders experts brokers",
    },
}
# (weight, template): words as they stand, SLOTS filled, ~ flips the tone of a cue.
FORMS = {
    "reviews": (
        (19, "ADJ NOUN , ADJ PART : SUBJECT LIKED it on DAY ."),
        (20, "the ADJ NOUN FELT OBJECT on DAY with its ADJ PART ."),
        (19, "LUCK the ADJ PART FELT OBJECT on DAY , a ADJ THING ."),
        (19, "on DAY SUBJECT LIKED the ADJ NOUN and its ADJ PART ."),
        (5, "the NOUN was not ~ADJ on DAY and its ADJ PART FELT OBJECT ."),
        (5, "nobody ~LIKED the NOUN on DAY : ADJ PART , a THING ."),
        (5, "the PART was never ~ADJ and the ADJ NOUN FELT OBJECT on DAY ."),
        (4, "although the PART was ~ADJ , the ADJ NOUN FELT OBJECT on DAY ."),
        (4, "on DAY the PART was ~ADJ , but SUBJECT LIKED the ADJ NOUN ."),
    ),
    "finance": (
        (20, "FIRM ROSE on DAY after ADJ UNIT METRIC FELT TRADERS ."),
        (19, "FIRM posted ADJ NEWS on DAY as UNIT METRIC ROSE ."),
        (19, "TRADERS LIKED ADJ FIRM on DAY as UNIT METRIC ROSE ."),
        (19, "ADJ NEWS at FIRM on DAY FELT TRADERS , UNIT METRIC ROSE ."),
        (8, "UNIT METRIC hardly ~ROSE on DAY and ADJ NEWS FELT FIRM TRADERS ."),
        (7, "no ~ADJ ~NEWS at FIRM on DAY as UNIT METRIC ROSE ."),
        (4, "although UNIT METRIC ~ROSE , FIRM ROSE on DAY after ADJ NEWS ."),
        (4, "~ADJ NEWS on DAY at FIRM , but TRADERS LIKED UNIT METRIC ."),
    ),
}


@dataclass(frozen=True)
class Form:
    slots: tuple[int, ...]  # index into Grammar.kinds, one a token
    probability: np.ndarray  # (C,): P(form | cell)
    day: int  # position of the weekday


@dataclass(frozen=True)
class Grammar:
    """The language as tables. A *cell* is one (domain, topic, tone)."""

    cells: tuple[tuple[str, str, int], ...]  # length C
    words: tuple[str, ...]  # length V: the special tokens first, then every word piece
    kinds: tuple[str, ...]  # length K: names of slots and fixed words
    emission: np.ndarray  # (K, C, V): P(word | slot, cell); rows of weekdays are zero
    forms: tuple[Form, ...]
    weekdays: np.ndarray  # (D,): their indices into words
    day_pairs: np.ndarray  # (D, D): P(first sentence's weekday, second's)
    irony: float  # P(sentiment of the author is not the tone)

    def prior(self, finance_share: float) -> np.ndarray:  # (C,)
        """P(cell): domain by `finance_share`, topic and tone uniform."""
        if not 0 <= finance_share <= 1:
            raise ValueError(f"finance_share must be between 0 and 1, got {finance_share!r}.")
        share = {"reviews": 1 - finance_share, "finance": finance_share}
        count = {name: sum(cell[0] == name for cell in self.cells) for name in DOMAINS}
        return np.array([share[cell[0]] / count[cell[0]] for cell in self.cells])


def zipf(number: int) -> np.ndarray:
    """P(rank) proportional to rank ** -1.2, ranks 1 .. number; sums to 1."""
    weights = np.arange(1, number + 1, dtype=np.float64) ** -ZIPF_EXPONENT
    return weights / weights.sum()


def weekday_pairs(number: int = len(WEEKDAYS)) -> np.ndarray:
    """(D, D) joint distribution of the two weekdays; the second is always the later one."""
    pairs = np.zeros((number, number))
    for later, probability in DAYS_LATER.items():
        starts = number - later
        for day in range(max(starts, 0)):
            pairs[day, day + later] = probability / starts
    return pairs / pairs.sum()


def build_grammar(topic_words, cue_words, neutral_words, forms, noise, irony) -> Grammar:
    """Tables of a language from word lists and templates (the constants of this module)."""
    cells = tuple(
        (domain, topic, tone)
        for domain in DOMAINS
        for topic in next(iter(topic_words[domain].values()))
        if topic != "general"
        for tone in range(2)
    )
    fixed = [w for d in DOMAINS for _, form in forms[d] for w in form.split() if w != w.upper()]
    slot_words = [
        word
        for domain in DOMAINS
        for entry in [
            *(words for slot in topic_words[domain].values() for words in slot.values()),
            *(words for pair in cue_words[domain].values() for words in pair),
            *neutral_words[domain].values(),
        ]
        for word in entry.split()
    ]
    known = dict.fromkeys([*SPECIAL_TOKENS, *WEEKDAYS, *fixed, *slot_words])
    words = tuple(
        dict.fromkeys([*known, *PUNCTUATION, *CHARACTERS, *(f"##{c}" for c in CHARACTERS)])
    )
    index = {word: i for i, word in enumerate(words)}

    def row(text: str) -> np.ndarray:
        listed = text.split()
        values = np.zeros(len(words))
        values[[index[word] for word in listed]] = zipf(len(listed))
        return values

    def emission(name: str, cell) -> np.ndarray:
        domain, topic, tone = cell
        slot = name.lstrip("~")
        if slot in topic_words[domain]:
            lists = topic_words[domain][slot]
            share = GENERAL_SHARE if "general" in lists else 0.0
            general = row(lists["general"]) if share else 0.0
            return (1 - share) * row(lists[topic]) + share * general
        if slot in cue_words[domain]:
            said = 1 - tone if name.startswith("~") else tone
            own, other = cue_words[domain][slot][said], cue_words[domain][slot][1 - said]
            return (1 - noise) * row(own) + noise * row(other)
        if slot in neutral_words[domain]:
            return row(neutral_words[domain][slot])
        values = np.zeros(len(words))  # a fixed word; a slot of the other domain stays empty
        if name in index and name != name.upper() or name in PUNCTUATION:
            values[index[name]] = 1.0
        return values

    kinds = tuple(dict.fromkeys(w for d in DOMAINS for _, form in forms[d] for w in form.split()))
    table = np.array([[emission(kind, cell) for cell in cells] for kind in kinds])
    compiled = []
    for domain in DOMAINS:
        total = sum(weight for weight, _ in forms[domain])
        for weight, template in forms[domain]:
            names = template.split()
            probability = np.array([weight / total * (cell[0] == domain) for cell in cells])
            slots = tuple(kinds.index(name) for name in names)
            compiled.append(Form(slots, probability, names.index("DAY")))
    days = np.array([index[day] for day in WEEKDAYS])
    pairs = weekday_pairs()
    return Grammar(cells, words, kinds, table, tuple(compiled), days, pairs, irony)


@lru_cache(maxsize=1)
def english() -> Grammar:
    """The course's language, compiled once."""
    return build_grammar(TOPIC_WORDS, CUE_WORDS, NEUTRAL_WORDS, FORMS, CUE_NOISE, IRONY)
