"""Checks of notebook 06: rates by layer, groups for the optimiser, warm-up, accumulated steps."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from course_lib import layerwise, schedules, trainer
from course_lib.checks.exercise import Case, Exercise, Failure, Observation, Property
from course_lib.checks.observe import observe_call, observe_steps, plain
from course_lib.checks.properties import describe, number, show

# Answers may compute in float32: 2.6^13 is then right to about 1e-6.
RTOL = 1e-4
DEFAULT_DECAY = 2.6


def _whole(generator: torch.Generator, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _between(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _as_number(value) -> float | None:
    """A number, or a tensor of one entry, as a float; None for anything else."""
    if isinstance(value, torch.Tensor):
        return None if value.numel() != 1 or value.is_complex() else float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _near(left, right, rtol: float = RTOL, atol: float = 0.0) -> bool:
    left, right = _as_number(left), _as_number(right)
    if left is None or right is None:
        return False
    return math.isclose(left, right, rel_tol=rtol, abs_tol=atol)


# layerwise_lrs


def _rates_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    base, decay = _between(generator, 1e-3, 1e-2), _between(generator, 1.4, 2.2)
    depth = _whole(generator, 3, 5)
    return [
        Case("rates", {"base_lr": base, "num_layers": depth, "decay": decay}),
        Case("rates", {"base_lr": 2e-5, "num_layers": 12, "decay": decay + 1}),
        Case("default", {"base_lr": base, "num_layers": depth + 1}),
    ]


def _hidden_rates_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    base, decay = _between(generator, 1e-5, 1e-4), _between(generator, 1.2, 3.5)
    return [
        Case("rates", {"base_lr": base, "num_layers": _whole(generator, 6, 24), "decay": decay}),
        Case("one block", {"base_lr": base, "num_layers": 1, "decay": decay}),
        Case("no decay", {"base_lr": base, "num_layers": _whole(generator, 2, 9), "decay": 1}),
        Case("default", {"base_lr": 1.0, "num_layers": 12}),
    ]


def _as_rates(output) -> list[float] | None:
    """The rates of an answer as numbers; None when they are not a row of numbers."""
    if isinstance(output, torch.Tensor) and output.ndim == 1:
        output = list(output)
    if not isinstance(output, list):
        return None
    rates = [_as_number(rate) for rate in output]
    return None if None in rates else rates


def _test_rates_shape(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    rates, wanted = _as_rates(observed.output), len(expected.output)
    if rates is None:
        return Failure(f"a list of {wanted} numbers", describe(observed.output))
    if len(rates) != wanted:
        return Failure(f"{wanted} rates: embeddings, blocks, head", f"{len(rates)} rates")
    return None


def _part_of_rates(name: str, points: float, first: int, last: int | None, kinds=()) -> Property:
    """The rates from `first` to before `last`, as in a slice."""

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        failure = _test_rates_shape(case, observed, expected)
        if failure:
            return failure
        got, wanted = _as_rates(observed.output), expected.output
        for layer in range(len(wanted))[first:last]:
            if not _near(got[layer], wanted[layer]):
                where = _layer_name(layer, len(wanted) - 2)
                return Failure(f"{number(wanted[layer])} for {where}", number(got[layer]))
        return None

    return Property(name, points, test, kinds=kinds)


def _layer_name(layer: int, depth: int) -> str:
    if layer == 0:
        return "the embeddings"
    return "the head" if layer > depth else f"block {layer} of {depth}"


layerwise_lrs = Exercise(
    name="layerwise_lrs",
    reference=layerwise.layerwise_lrs,
    cases=_rates_cases,
    hidden_cases=_hidden_rates_cases,
    properties=(
        Property("shape", 0.5, _test_rates_shape, kinds=("rates",)),
        _part_of_rates("blocks", 1, 1, -1, ("rates", "one block", "no decay")),
        _part_of_rates("embeddings", 0.5, 0, 1, ("rates", "one block", "no decay")),
        _part_of_rates("head", 0.5, -1, None, ("rates", "one block", "no decay")),
        _part_of_rates("default decay", 0.5, 0, None, ("default",)),
    ),
    observe=observe_call,
)


@layerwise_lrs.mistake(
    "the exponent runs the wrong way: the embeddings have the highest rate",
    why="the layers nearest the input are the most general; they should move least.",
    look_at="which l gives a factor of 1 in eta / xi^(L - l), and which the smallest rate?",
    recognise=lambda cases, observations: _falls_from_the_input(cases, observations),
)
def exponent_reversed(base_lr, num_layers, decay=2.6):
    return [base_lr / decay**layer for layer in range(num_layers + 1)] + [base_lr]


def _falls_from_the_input(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    """Whether all but the head's rates are reversed; that one may be anything."""
    for case, seen in zip(cases, observations, strict=True):
        base, depth, decay = (*case.arguments.values(), DEFAULT_DECAY)[:3]
        got = _as_rates(seen.output)
        if got is None or len(got) != depth + 2:
            return False
        if not all(_near(got[layer], base / decay**layer) for layer in range(depth + 1)):
            return False
    return True


@layerwise_lrs.mistake(
    "the rates rise above base_lr towards the input, where they should fall below it",
    why="the embeddings of BERT-base would get 2.6^12, about 95 000, times the rate of the head.",
    look_at="the sign of the exponent: is xi^(L - l) above or below 1?",
)
def multiplies_by_the_decay(base_lr, num_layers, decay=2.6):
    return [base_lr * decay ** (num_layers - layer) for layer in range(num_layers + 1)] + [base_lr]


@layerwise_lrs.mistake(
    "the list starts with the head and ends with the embeddings",
    why="whoever uses it would give the head the lowest rate and the embeddings the highest.",
    look_at="in which order does the docstring ask for them?",
)
def head_first(base_lr, num_layers, decay=2.6):
    return [base_lr, *(base_lr / decay**down for down in range(num_layers + 1))]


@layerwise_lrs.mistake(
    "the head is decayed",
    why="it starts from random weights and has most to learn; it keeps the full base_lr.",
    look_at="the last entry of your list.",
    recognise=lambda cases, observations: _only_the_head_is_lower(cases, observations),
)
def head_decayed(base_lr, num_layers, decay=2.6):
    rates = [base_lr / decay ** (num_layers - layer) for layer in range(num_layers + 1)]
    return [*rates, base_lr / decay]


def _only_the_head_is_lower(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    for case, seen in zip(cases, observations, strict=True):
        wanted, got = layerwise.layerwise_lrs(*case.arguments.values()), _as_rates(seen.output)
        if got is None or len(got) != len(wanted):
            return False
        below = all(map(_near, got[:-1], wanted[:-1]))
        if not below or (case.arguments.get("decay") != 1 and got[-1] >= wanted[-1]):
            return False
    return True


@layerwise_lrs.mistake(
    "the top block is decayed too: every block is one step too low",
    why="with l = L the exponent L - l is 0, so the top block learns as fast as the head.",
    look_at="the exponent of the top block. From which number do your blocks count?",
)
def top_block_decayed(base_lr, num_layers, decay=2.6):
    return [base_lr / decay ** (num_layers + 1 - layer) for layer in range(num_layers + 2)]


@layerwise_lrs.mistake(
    "the blocks are counted from 0, so the embeddings share a rate with the first block",
    why="block l of L is divided by xi^(L - l) with l from 1 on; the embeddings are l = 0.",
    look_at="which value of l do the embeddings have in your code, and which the first block?",
)
def blocks_from_zero(base_lr, num_layers, decay=2.6):
    blocks = [base_lr / decay ** (num_layers - layer) for layer in range(num_layers)]
    return [blocks[0], *blocks, base_lr]


@layerwise_lrs.mistake(
    "the embeddings share the first block's rate",
    why="they lie below it and are the most general of all: one more division by xi.",
    look_at="by how many factors xi do your first two entries differ?",
)
def embeddings_share_the_first_block(base_lr, num_layers, decay=2.6):
    blocks = [base_lr / decay ** (num_layers - layer) for layer in range(1, num_layers + 1)]
    return [blocks[0], *blocks, base_lr]


@layerwise_lrs.mistake(
    "the rate is divided once only, not once more for every layer below",
    why="the factor xi lies between neighbours, so the rates fall geometrically.",
    look_at="by how many factors xi do your first and your second block differ?",
    recognise=lambda cases, observations: _is_flat_below(cases, observations),
)
def divides_once_only(base_lr, num_layers, decay=2.6):
    return [base_lr / decay] * num_layers + [base_lr, base_lr]


def _is_flat_below(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    for case, seen in zip(cases, observations, strict=True):
        base, depth, decay = (*case.arguments.values(), DEFAULT_DECAY)[:3]
        got = _as_rates(seen.output)
        if got is None or len(got) != depth + 2:
            return False
        if not all(_near(rate, base / decay) for rate in got[:-2]):
            return False
    return True


@layerwise_lrs.mistake(
    "the rates fall as 1 / (xi times the distance), not as a power of xi",
    why="between any two neighbours lies the same factor; a product grows far more slowly.",
    look_at="the ratio of each of your rates to the one before.",
)
def divides_by_a_multiple(base_lr, num_layers, decay=2.6):
    return [base_lr / max(1, decay * (num_layers - layer)) for layer in range(num_layers + 1)] + [
        base_lr
    ]


@layerwise_lrs.mistake(
    "the decay is always 2.6, whatever is given",
    why="xi is a setting that people tune; 1 must give all layers the same rate.",
    look_at="where in your code does the argument decay appear?",
)
def decay_is_fixed(base_lr, num_layers, decay=2.6):
    return [base_lr / 2.6 ** (num_layers - layer) for layer in range(num_layers + 1)] + [base_lr]


@layerwise_lrs.mistake(
    "one rate is missing: the embeddings'",
    why="there are num_layers + 2 of them: the embeddings have parameters as well.",
    look_at="how many entries has your list for one block?",
)
def no_rate_for_the_embeddings(base_lr, num_layers, decay=2.6):
    return [base_lr / decay ** (num_layers - layer) for layer in range(1, num_layers + 1)] + [
        base_lr
    ]


@layerwise_lrs.mistake(
    "one rate is missing: base_lr has to be there twice, for the top block and for the head",
    why="there are num_layers + 2 of them: the embeddings', one a block, and the head's.",
    look_at="how many entries has your list for one block, and whose is each of them?",
)
def base_lr_once_only(base_lr, num_layers, decay=2.6):
    return [base_lr / decay ** (num_layers - layer) for layer in range(num_layers + 1)]


@layerwise_lrs.mistake(
    "the head is put at l = L + 1, so its rate is above base_lr",
    why="the formula is for the blocks; the head has base_lr, the highest rate that there is.",
    look_at="the exponent of your last entry.",
)
def head_one_step_above(base_lr, num_layers, decay=2.6):
    return [base_lr / decay ** (num_layers - layer) for layer in range(num_layers + 2)]


# parameter_groups: what counts is which rate and decay each parameter gets, not how many groups
# there are. A block is found in a parameter's name, which differs from how the reference does it.

MODELS = {
    "classifier": BertForSequenceClassification,
    "masked LM": BertForMaskedLM,
    "untied masked LM": BertForMaskedLM,
    "token classifier": BertForTokenClassification,
}
TINY = {
    "hidden_size": 4,
    "num_attention_heads": 1,
    "intermediate_size": 4,
    "vocab_size": 8,
    "max_position_embeddings": 4,
}
MANY_BLOCKS = 10  # with as many blocks or more, "layer.1" is also in "layer.10"


def _groups_case(kind, generator, model, depth, decay, frozen=()):
    arguments = {
        "model": model,
        "num_layers": depth,
        "frozen": list(frozen),
        "base_lr": _between(generator, 1e-4, 1e-2),
        "decay": decay,
        "weight_decay": _between(generator, 0.02, 0.2),
    }
    name = MODELS[model].__name__
    untied = ", tie_word_embeddings=False" if model == "untied masked LM" else ""
    rest = f"base_lr {number(arguments['base_lr'])}, decay {number(decay)}"
    if kind == "default":
        arguments |= {"decay": DEFAULT_DECAY, "weight_decay": 0.01}
        rest = f"base_lr {number(arguments['base_lr'])}, nothing else given"
    text = f"{name} with {depth} blocks{untied}, {rest}"
    if frozen:
        text += f"; frozen: names with {' or '.join(frozen)}"
    return Case(kind, arguments, text=text)


def _groups_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    depth, decay = _whole(generator, 2, 4), _between(generator, 1.5, 2.5)
    frozen = ("embeddings", "layer.0.", "layer.1.output.dense")
    return [
        _groups_case("plain", generator, "classifier", depth, decay),
        _groups_case("plain", generator, "masked LM", depth + 1, 2.6),
        _groups_case("frozen", generator, "classifier", depth, decay, frozen),
        _groups_case("default", generator, "classifier", depth, DEFAULT_DECAY),
        _groups_case("plain", generator, "classifier", _whole(generator, 11, 12), 1.3),
    ]


def _hidden_groups_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    depth, decay = _whole(generator, 3, 6), _between(generator, 1.2, 3.0)
    return [
        _groups_case("no pooler", generator, "token classifier", 1, decay),
        _groups_case("no pooler", generator, "untied masked LM", depth, decay),
        _groups_case("frozen", generator, "masked LM", depth, decay, ("word_embeddings",)),
        _groups_case("frozen", generator, "classifier", depth, 1.0, ("pooler", "LayerNorm")),
    ]


def _observe_groups(answer, case, forbidden=frozenset()) -> Observation:
    """Record, for every parameter of a small model, the rates and decays that it gets.

    The output has `trainable` (names), `frozen` (names), `placed` (name -> a [lr, weight_decay]
    for each time that it is in a group), `strangers` (tensors that are no parameters of the
    model) and `switched` (names whose requires_grad the answer has changed); or `malformed`, what
    came instead of groups. In a case of kind "default" only base_lr is given.
    """

    built = [case.arguments[name] for name in ("model", "num_layers", "frozen")]
    with torch.random.fork_rng():
        model = _small_bert(*built)

    def steps(arguments):
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        trainable = [name for name, p in model.named_parameters() if p.requires_grad]
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        given = ("base_lr",) if case.kind == "default" else ("base_lr", "decay", "weight_decay")
        groups = answer(model, *(arguments[name] for name in given))
        listed = _listed(groups)
        if listed is None:
            return {"malformed": describe(plain(groups))}
        if not all(isinstance(group, dict) and "params" in group for group in listed):
            wrong = next(g for g in listed if not (isinstance(g, dict) and "params" in g))
            keys = ", ".join(map(str, wrong)) if isinstance(wrong, dict) else ""
            return {"malformed": f"a dict with {keys}" if keys else describe(plain(wrong))}
        placed = {name: [] for name in names.values()}
        strangers = 0
        for group in listed:
            for parameter in _listed(group["params"]) or []:
                if isinstance(parameter, tuple):  # ("name", parameter), which optimisers accept
                    parameter = parameter[-1]
                if id(parameter) not in names:
                    strangers += 1
                    continue
                settings = [plain(group.get(key)) for key in ("lr", "weight_decay")]
                placed[names[id(parameter)]].append(settings)
        now = {name for name, p in model.named_parameters() if p.requires_grad}
        return {
            "trainable": trainable,
            "frozen": frozen,
            "placed": placed,
            "strangers": strangers,
            "switched": sorted(now.symmetric_difference(trainable)),
        }

    return observe_steps(steps, answer, case, forbidden)


def _small_bert(model: str, depth: int, frozen: Sequence[str]) -> nn.Module:
    tied = model != "untied masked LM"
    built = MODELS[model](BertConfig(num_hidden_layers=depth, tie_word_embeddings=tied, **TINY))
    for name, parameter in built.named_parameters():
        parameter.requires_grad_(not any(part in name for part in frozen))
    return built


def _listed(value) -> list | None:
    """What an optimiser would iterate over; None for what is no collection."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict | str) or not isinstance(value, Iterable):
        return None
    return list(value)


class Placing(NamedTuple):
    """Where the parameters of a case ended up."""

    depth: int
    base_lr: float
    decay: float
    weight_decay: float
    trainable: list[str]
    frozen: list[str]
    placed: dict[str, list]  # name -> [[lr, weight_decay], ...]
    strangers: int
    switched: list[str]

    @property
    def missing(self) -> set[str]:
        return {name for name in self.trainable if not self.placed[name]}

    @property
    def twice(self) -> set[str]:
        return {name for name in self.trainable if len(self.placed[name]) > 1}

    def layer(self, name: str) -> int:
        """0 for the embeddings, then the blocks, and depth + 1 for what is behind them."""
        block = re.search(r"\.layer\.(\d+)\.", name)
        if block:
            return int(block[1]) + 1
        return 0 if "embeddings" in name else self.depth + 1

    def rate(self, name: str) -> float:
        """The rate that a parameter should have."""
        return self.base_lr / self.decay ** max(0, self.depth - self.layer(name))

    def strength(self, name: str) -> float:
        """The weight decay that a parameter should have."""
        return 0.0 if name.endswith("bias") or "LayerNorm" in name else self.weight_decay

    def rates(self, name: str) -> list:
        return [settings[0] for settings in self.placed[name]]

    def strengths(self, name: str) -> list:
        return [settings[1] for settings in self.placed[name]]

    @property
    def wrong_rates(self) -> set[str]:
        return {
            name
            for name in self.trainable
            if not all(_near(rate, self.rate(name)) for rate in self.rates(name))
        }

    @property
    def wrong_strengths(self) -> set[str]:
        return {
            name
            for name in self.trainable
            if not all(_near(s, self.strength(name), atol=1e-12) for s in self.strengths(name))
        }


def _placing(case: Case, seen: Observation) -> Placing | None:
    """None when the answer stopped, or did not return groups."""
    if seen.error or "placed" not in seen.output:
        return None
    settings = (case.arguments[n] for n in ("num_layers", "base_lr", "decay", "weight_decay"))
    names = ("trainable", "frozen", "placed", "strangers", "switched")
    return Placing(*settings, *(seen.output[name] for name in names))


def _about_placing(name: str, points: float, test: Callable, kinds=()) -> Property:
    """A property of where the parameters are: test(placing) -> Failure or None."""

    def whole_test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        placing = _placing(case, observed)
        if placing is None:
            return Failure(
                'a list of dicts with "params", "lr" and "weight_decay"',
                observed.output["malformed"],
            )
        return test(placing)

    return Property(name, points, whole_test, kinds=kinds)


def _some(names: set[str]) -> str:
    """One of many names, and how many there are."""
    first = min(names)
    return first if len(names) == 1 else f"{first} and {len(names) - 1} more"


def _test_groups(placing: Placing) -> Failure | None:
    if any(placing.placed[name] for name in placing.trainable):
        return None
    if placing.strangers:
        return Failure("the model's own parameters", "copies, or other tensors")
    return Failure("groups with the model's parameters", "no parameter in any group")


def _test_once(placing: Placing) -> Failure | None:
    wanted = "every trainable parameter in one group"
    if placing.missing:
        return Failure(wanted, f"in none: {_some(placing.missing)}")
    if placing.twice:
        return Failure(wanted, f"twice: {_some(placing.twice)}")
    if placing.strangers:
        return Failure(wanted, f"{placing.strangers} tensors that are no parameters of the model")
    return None


def _test_group_rates(placing: Placing) -> Failure | None:
    wrong = placing.wrong_rates
    for name in placing.trainable:
        if name in wrong:
            got = next(r for r in placing.rates(name) if not _near(r, placing.rate(name)))
            return Failure(f"lr {number(placing.rate(name))} for {name}", _shown(got, "lr"))
    return None


def _test_strengths(placing: Placing) -> Failure | None:
    wrong = placing.wrong_strengths
    for name in placing.trainable:
        if name in wrong:
            wanted = placing.strength(name)
            got = next(s for s in placing.strengths(name) if not _near(s, wanted, atol=1e-12))
            expected = f"weight_decay {number(wanted)} for {name}"
            return Failure(expected, _shown(got, "weight_decay"))
    return None


def _shown(value, key: str) -> str:
    if value is None:
        return f'a group without "{key}"'
    return show(value) if describe(value) == "a number" else describe(value)


def _test_frozen(placing: Placing) -> Failure | None:
    handed_over = {name for name in placing.frozen if placing.placed[name]}
    if handed_over:
        return Failure("no frozen parameter in a group", _some(handed_over))
    if placing.switched:
        return Failure("requires_grad as it was", f"changed: {_some(set(placing.switched))}")
    return None


parameter_groups = Exercise(
    name="parameter_groups",
    reference=layerwise.parameter_groups,
    cases=_groups_cases,
    hidden_cases=_hidden_groups_cases,
    properties=(
        _about_placing("groups", 0.5, _test_groups, ("plain",)),
        _about_placing("every parameter once", 1, _test_once),
        _about_placing("learning rates", 1, _test_group_rates),
        _about_placing("weight decay", 1, _test_strengths),
        _about_placing("frozen parameters", 0.5, _test_frozen, ("frozen",)),
    ),
    observe=_observe_groups,
)


def _placing_mistake(sentence: str, why: str, look_at: str, when: Callable, fails: str):
    """A mistake that shows in the placings: when(placings of all cases) -> bool."""

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        placings = [_placing(*pair) for pair in zip(cases, observations, strict=True)]
        return None not in placings and when(placings)

    return parameter_groups.mistake(sentence, why, look_at, recognise, fails)


def _all_where(placings: Sequence[Placing], asked: Callable, holds: Callable) -> bool:
    """Whether something holds in all the cases in which it can be asked, and in one at least."""
    chosen = [placing for placing in placings if asked(placing)]
    return bool(chosen) and all(holds(placing) for placing in chosen)


def _first_not_once(placings: Sequence[Placing]) -> Placing:
    """The case that the message tells of, where a parameter is missing or there twice."""
    return next(p for p in placings if p.missing or p.twice or p.strangers)


def _only_twice(placings: Sequence[Placing]) -> bool:
    """Whether the message tells of parameters in two groups, and nothing else is wrong there."""
    first = _first_not_once(placings)
    return bool(first.twice) and not first.missing and not any(p.strangers for p in placings)


def _has_decay(placing: Placing) -> bool:
    return placing.decay != 1


def _deep(placing: Placing) -> bool:
    return placing.depth > MANY_BLOCKS


def _behind_ten(placing: Placing) -> set[str]:
    return {n for n in placing.trainable if MANY_BLOCKS < placing.layer(n) <= placing.depth}


def _confuses_blocks(placings: Sequence[Placing]) -> bool:
    """Whether blocks with numbers of two digits are missing or twice, and nothing in others."""
    return _all_where(
        placings, _deep, lambda p: _behind_ten(p) in (p.twice, p.missing | p.twice)
    ) and not any(p.missing or p.twice for p in placings if not _deep(p))


@_placing_mistake(
    '"layer.1" is also in "layer.10" and "layer.11"',
    why="with more than ten blocks, the top ones are taken for the second one as well.",
    look_at="what follows the number of the block in a parameter's name?",
    when=_confuses_blocks,
    fails="every parameter once",
)
def confuses_layer_1_and_10(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    layers = [[(n, p) for n, p in named if "embeddings" in n]]
    layers += [[(n, p) for n, p in named if f"layer.{i}" in n] for i in range(depth)]
    layers += [[(n, p) for n, p in named if "embeddings" not in n and ".layer." not in n]]
    groups = []
    for layer, members in enumerate(layers):
        lr = base_lr / decay ** max(0, depth - layer)
        matrices = [p for _, p in members if p.ndim > 1]
        rest = [p for _, p in members if p.ndim <= 1]
        groups.append({"params": matrices, "lr": lr, "weight_decay": weight_decay})
        groups.append({"params": rest, "lr": lr, "weight_decay": 0.0})
    return groups


@_placing_mistake(
    '"layer.1" is also in "layer.10" and "layer.11", so the top blocks get the second one\'s rate',
    why="with more than ten blocks, some of the highest would learn as slowly as the lowest.",
    look_at="what follows the number of the block in a parameter's name?",
    when=lambda placings: (
        _all_where(placings, _deep, lambda p: p.wrong_rates == _behind_ten(p))
        and not any(p.wrong_rates for p in placings if not _deep(p))
    ),
    fails="learning rates",
)
def takes_layer_10_for_1(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0 if "embeddings" in name else depth + 1
        for block in range(depth):
            if f".layer.{block}" in name:
                layer = block + 1
                break
        lr = base_lr / decay ** max(0, depth - layer)
        strength = weight_decay if parameter.ndim > 1 else 0.0
        groups.append({"params": [parameter], "lr": lr, "weight_decay": strength})
    return groups


@_placing_mistake(
    "the blocks are looked for from 1 on, but their names start at layer.0",
    why="the first block is then in no group, and never learns.",
    look_at="print the names of model.named_parameters(); which number has the first block?",
    when=lambda placings: _all_where(
        placings,
        lambda p: any(p.layer(name) == 1 for name in p.trainable),
        lambda p: p.missing == {n for n in p.trainable if p.layer(n) == 1},
    ),
    fails="every parameter once",
)
def loses_the_first_block(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    layers = [[(n, p) for n, p in named if "embeddings" in n]]
    layers += [[(n, p) for n, p in named if f".layer.{i}." in n] for i in range(1, depth + 1)]
    layers += [[(n, p) for n, p in named if "embeddings" not in n and ".layer." not in n]]
    groups = []
    for layer, members in enumerate(layers):
        lr = base_lr / decay ** max(0, depth - layer)
        matrices = [p for _, p in members if p.ndim > 1]
        rest = [p for _, p in members if p.ndim <= 1]
        groups.append({"params": matrices, "lr": lr, "weight_decay": weight_decay})
        groups.append({"params": rest, "lr": lr, "weight_decay": 0.0})
    return groups


@_placing_mistake(
    "the top block is in no group",
    why="it would stay as pre-training left it, while all layers around it learn.",
    look_at="where does your range over the blocks end, and what is the last one called?",
    when=lambda placings: _all_where(
        placings,
        lambda p: any(p.layer(name) == p.depth for name in p.trainable),
        lambda p: p.missing == {n for n in p.trainable if p.layer(n) == p.depth},
    ),
    fails="every parameter once",
)
def loses_the_top_block(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    layers = [[(n, p) for n, p in named if "embeddings" in n]]
    layers += [[(n, p) for n, p in named if f".layer.{i - 1}." in n] for i in range(1, depth)]
    layers += [[], [(n, p) for n, p in named if "embeddings" not in n and ".layer." not in n]]
    groups = []
    for layer, members in enumerate(layers):
        lr = base_lr / decay ** max(0, depth - layer)
        matrices = [p for _, p in members if p.ndim > 1]
        rest = [p for _, p in members if p.ndim <= 1]
        groups.append({"params": matrices, "lr": lr, "weight_decay": weight_decay})
        groups.append({"params": rest, "lr": lr, "weight_decay": 0.0})
    return groups


@_placing_mistake(
    "part of what lies behind the blocks is in no group (a pooler, say, or another head)",
    why="what no group holds never learns, and nothing tells you.",
    look_at="which names are neither embeddings nor in a block? Let your code take all of them.",
    when=lambda placings: (
        bool(_first_not_once(placings).missing)
        and all(p.layer(name) > p.depth for p in placings for name in p.missing)
    ),
    fails="every parameter once",
)
def loses_the_pooler(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if "embeddings" in name:
            layer = 0
        elif ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0]) + 1
        elif "classifier" in name or "cls" in name:
            layer = depth
        else:
            continue
        strength = weight_decay if parameter.ndim > 1 else 0.0
        lr = base_lr / decay ** (depth - layer)
        groups.append({"params": [parameter], "lr": lr, "weight_decay": strength})
    return groups


TIED = {"bert.embeddings.word_embeddings.weight", "cls.predictions.bias"}


@_placing_mistake(
    "a tied weight is in two groups",
    why="the output layer of a masked LM is the word embedding itself: one tensor under two "
    "names. An optimiser refuses it twice, or moves it twice.",
    look_at="which modules share a tensor, and does model.named_parameters() list it twice?",
    when=lambda placings: _only_twice(placings) and all(p.twice <= TIED for p in placings),
    fails="every parameter once",
)
def tied_weight_in_two_groups(model, base_lr, decay=2.6, weight_decay=0.01):
    base = model.base_model
    depth = len(base.encoder.layer)
    heads = [module for _, module in model.named_children() if module is not base]
    pooler = [base.pooler] if base.pooler is not None else []
    layers = [[base.embeddings], *([block] for block in base.encoder.layer), pooler + heads]
    groups = []
    for layer, modules in enumerate(layers):
        lr = base_lr / decay ** max(0, depth - layer)
        for module in modules:
            for parameter in module.parameters():
                if parameter.requires_grad:
                    strength = weight_decay if parameter.ndim > 1 else 0.0
                    group = {"params": [parameter], "lr": lr, "weight_decay": strength}
                    groups.append(group)
    return groups


@_placing_mistake(
    "the head is in two groups",
    why="an optimiser refuses a parameter that is in two groups.",
    look_at="does your list of all parameters have those of the head in it already?",
    when=lambda placings: (
        _only_twice(placings)
        and all(p.layer(name) > p.depth or name in TIED for p in placings for name in p.twice)
    ),
    fails="every parameter once",
)
def head_in_two_groups(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0 if "embeddings" in name else depth
        if ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0]) + 1
        lr = base_lr / decay ** (depth - layer)
        strength = weight_decay if parameter.ndim > 1 else 0.0
        groups.append({"params": [parameter], "lr": lr, "weight_decay": strength})
        if not name.startswith(model.base_model_prefix):
            groups.append({"params": [parameter], "lr": base_lr, "weight_decay": strength})
    return groups


@_placing_mistake(
    "the parameters without decay are in two groups: with all others, and once more alone",
    why="an optimiser refuses a parameter that is in two groups.",
    look_at="where you make the group with weight decay: which parameters should it leave out?",
    when=lambda placings: _all_where(
        placings,
        lambda p: p.weight_decay > 0,
        lambda p: bool(p.twice) and p.twice <= {n for n in p.trainable if p.strength(n) == 0},
    ),
    fails="every parameter once",
)
def undecayed_in_two_groups(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0 if "embeddings" in name else depth + 1
        if ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0]) + 1
        lr = base_lr / decay ** max(0, depth - layer)
        groups.append({"params": [parameter], "lr": lr, "weight_decay": weight_decay})
        if "bias" in name or "LayerNorm" in name:
            groups.append({"params": [parameter], "lr": lr, "weight_decay": 0.0})
    return groups


def _has_rates(expected: Callable) -> Callable:
    """Whether all rates are those of another rule: expected(placing, layer) -> rate."""

    def holds(placing: Placing) -> bool:
        return all(
            _near(rate, expected(placing, placing.layer(name)))
            for name in placing.trainable
            for rate in placing.rates(name)
        )

    return lambda placings: _all_where(placings, _has_decay, holds)


@_placing_mistake(
    "the rates run the wrong way: the embeddings have the highest",
    why="the layers nearest the input are the most general; they should move least.",
    look_at="which layer has an exponent of 0 in your code?",
    when=_has_rates(lambda p, layer: p.base_lr / p.decay ** (layer if layer <= p.depth else 0)),
    fails="learning rates",
)
def groups_reversed(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0
        if ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0]) + 1
        assert layer <= depth
        strength = weight_decay if parameter.ndim > 1 else 0.0
        lr = base_lr / decay**layer
        groups.append({"params": [parameter], "lr": lr, "weight_decay": strength})
    return groups


@_placing_mistake(
    "every layer has the same rate",
    why="that is ordinary fine-tuning; the exercise asks for base_lr / decay^(L - l).",
    look_at='what does "lr" depend on in your code?',
    when=_has_rates(lambda p, layer: p.base_lr),
    fails="learning rates",
)
def one_rate_for_all(model, base_lr, decay=2.6, weight_decay=0.01):
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for _, p in named if p.ndim > 1]
    rest = [p for _, p in named if p.ndim <= 1]
    return [
        {"params": matrices, "lr": base_lr, "weight_decay": weight_decay},
        {"params": rest, "lr": base_lr, "weight_decay": 0.0},
    ]


@_placing_mistake(
    "the decay is always 2.6, whatever is given",
    why="xi is a setting that people tune; 1 must give all layers the same rate.",
    look_at="where in your code does the argument decay appear?",
    when=lambda placings: all(
        _near(rate, p.base_lr / DEFAULT_DECAY ** max(0, p.depth - p.layer(name)))
        for p in placings
        for name in p.trainable
        for rate in p.rates(name)
    ),
    fails="learning rates",
)
def group_decay_is_fixed(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0 if "embeddings" in name else depth
        if ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0]) + 1
        strength = weight_decay if parameter.ndim > 1 else 0.0
        lr = base_lr / 2.6 ** (depth - layer)
        groups.append({"params": [parameter], "lr": lr, "weight_decay": strength})
    return groups


@_placing_mistake(
    "the blocks count from 0 as in their names, so each is one step too low",
    why="layer.0 is block 1 of the formula; the top block, l = L, learns as fast as the head.",
    look_at="which l has the block called layer.0, and which l is left for the embeddings?",
    when=_has_rates(
        lambda p, layer: (
            p.base_lr / p.decay ** (p.depth - max(0, layer - 1) if layer <= p.depth else 0)
        )
    ),
    fails="learning rates",
)
def blocks_one_step_low(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0 if "embeddings" in name else depth
        if ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0])
        strength = weight_decay if parameter.ndim > 1 else 0.0
        lr = base_lr / decay ** (depth - layer)
        groups.append({"params": [parameter], "lr": lr, "weight_decay": strength})
    return groups


@_placing_mistake(
    "the top block is decayed too: everything below the head is one step too low",
    why="with l = L the exponent L - l is 0, so the top block learns as fast as the head.",
    look_at="the exponent of the top block. From which number do you count down?",
    when=_has_rates(
        lambda p, layer: p.base_lr / p.decay ** (p.depth + 1 - layer if layer <= p.depth else 0)
    ),
    fails="learning rates",
)
def all_below_the_head_one_step_low(model, base_lr, decay=2.6, weight_decay=0.01):
    head = model.config.num_hidden_layers + 1
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0 if "embeddings" in name else head
        if ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0]) + 1
        strength = weight_decay if parameter.ndim > 1 else 0.0
        lr = base_lr / decay ** (head - layer)
        groups.append({"params": [parameter], "lr": lr, "weight_decay": strength})
    return groups


def _wrong_only_in_embeddings(p: Placing) -> bool:
    shared = p.base_lr / p.decay ** (p.depth - 1)
    embeddings = {n for n in p.trainable if p.layer(n) == 0}
    same = all(_near(rate, shared) for name in embeddings for rate in p.rates(name))
    return p.wrong_rates == embeddings and same


@_placing_mistake(
    "the embeddings share the first block's rate",
    why="they are layer 0, one below block 1, so they are divided by decay once more.",
    look_at="which exponent have the embeddings in your code, and which has layer.0?",
    when=lambda placings: _all_where(
        placings,
        lambda p: _has_decay(p) and any(p.layer(n) == 0 for n in p.trainable),
        _wrong_only_in_embeddings,
    ),
    fails="learning rates",
)
def embeddings_with_the_first_block(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0 if "embeddings" in name else depth - 1
        if ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0])
        strength = weight_decay if parameter.ndim > 1 else 0.0
        lr = base_lr / decay ** (depth - 1 - layer)
        groups.append({"params": [parameter], "lr": lr, "weight_decay": strength})
    return groups


def _wrong_only_in_the_head(placings: Sequence[Placing], holds: Callable) -> bool:
    """Whether all wrong rates, and there are some, are the head's: holds(placing, rate)."""
    wrong = [(p, name) for p in placings for name in p.wrong_rates]
    return bool(wrong) and all(
        p.layer(name) > p.depth
        and _as_number(rate) is not None
        and (_near(rate, p.base_lr) or holds(p, _as_number(rate)))
        for p, name in wrong
        for rate in p.rates(name)
    )


@_placing_mistake(
    "the head is put at l = L + 1, so its rate is above base_lr",
    why="the formula is for the blocks; the head has base_lr, the highest rate that there is.",
    look_at="which l, or which exponent, does your code give the head?",
    when=lambda placings: _wrong_only_in_the_head(placings, lambda p, rate: rate > p.base_lr),
    fails="learning rates",
)
def head_group_one_step_above(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0 if "embeddings" in name else depth + 1
        if ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0]) + 1
        strength = weight_decay if parameter.ndim > 1 else 0.0
        lr = base_lr / decay ** (depth - layer)
        groups.append({"params": [parameter], "lr": lr, "weight_decay": strength})
    return groups


@_placing_mistake(
    "part of what lies behind the blocks (a pooler, say) has a rate below base_lr",
    why="all of it belongs to the head: it is what has most to learn, and keeps the full rate.",
    look_at="which names are neither embeddings nor in a block, and where does your code put them?",
    when=lambda placings: _wrong_only_in_the_head(placings, lambda p, rate: rate < p.base_lr),
    fails="learning rates",
)
def pooler_below_the_head(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0
        if ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0]) + 1
        elif name.startswith("classifier") or name.startswith("cls"):
            layer = depth
        strength = weight_decay if parameter.ndim > 1 else 0.0
        lr = base_lr / decay ** (depth - layer)
        groups.append({"params": [parameter], "lr": lr, "weight_decay": strength})
    return groups


def _has_strengths(decayed: Callable) -> Callable:
    """Whether exactly the parameters are decayed whose name another rule chooses."""

    def holds(placing: Placing) -> bool:
        return all(
            _near(strength, placing.weight_decay if decayed(name) else 0.0, atol=1e-12)
            for name in placing.trainable
            for strength in placing.strengths(name)
        )

    return lambda placings: all(holds(placing) for placing in placings)


def _is_bias(name: str) -> bool:
    return name.endswith("bias")


NOT_DECAYED = (
    "pulling a bias or the gain of a normalisation towards 0 only shifts and shrinks what the "
    "layer computes; it does not make it simpler."
)


@_placing_mistake(
    "biases and LayerNorm are decayed like everything else",
    NOT_DECAYED,
    look_at="which parameters have more than one dimension?",
    when=_has_strengths(lambda name: True),
    fails="weight decay",
)
def decays_everything(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0 if "embeddings" in name else depth
        if ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0]) + 1
        lr = base_lr / decay ** (depth - layer)
        groups.append({"params": [parameter], "lr": lr, "weight_decay": weight_decay})
    return groups


@_placing_mistake(
    "the weights of LayerNorm are decayed",
    NOT_DECAYED,
    look_at='the names with "LayerNorm" that do not end in "bias".',
    when=_has_strengths(lambda name: not _is_bias(name)),
    fails="weight decay",
)
def decays_normalisation(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0 if "embeddings" in name else depth
        if ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0]) + 1
        lr = base_lr / decay ** (depth - layer)
        strength = 0.0 if "bias" in name else weight_decay
        groups.append({"params": [parameter], "lr": lr, "weight_decay": strength})
    return groups


@_placing_mistake(
    "the biases of the linear layers are decayed",
    NOT_DECAYED,
    look_at='the names that end in "bias", outside LayerNorm.',
    when=_has_strengths(lambda name: "LayerNorm" not in name),
    fails="weight decay",
)
def decays_biases(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0 if "embeddings" in name else depth
        if ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0]) + 1
        lr = base_lr / decay ** (depth - layer)
        strength = 0.0 if "LayerNorm" in name else weight_decay
        groups.append({"params": [parameter], "lr": lr, "weight_decay": strength})
    return groups


@_placing_mistake(
    "the two decays are swapped: biases and LayerNorm are decayed, and the matrices are not",
    NOT_DECAYED,
    look_at="which side of your condition gets weight_decay?",
    when=_has_strengths(lambda name: _is_bias(name) or "LayerNorm" in name),
    fails="weight decay",
)
def decays_swapped(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0 if "embeddings" in name else depth
        if ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0]) + 1
        lr = base_lr / decay ** (depth - layer)
        strength = 0.0 if parameter.ndim > 1 else weight_decay
        groups.append({"params": [parameter], "lr": lr, "weight_decay": strength})
    return groups


@_placing_mistake(
    "no parameter is decayed",
    why="the matrices should get the weight_decay that is given.",
    look_at="where in your code does the argument weight_decay appear?",
    when=_has_strengths(lambda name: False),
    fails="weight decay",
)
def decays_nothing(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = 0 if "embeddings" in name else depth
        if ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0]) + 1
        lr = base_lr / decay ** (depth - layer)
        groups.append({"params": [parameter], "lr": lr, "weight_decay": 0.0})
    return groups


@_placing_mistake(
    "frozen parameters are handed to the optimiser",
    why="a gradient that is left from before would move them, and weight decay along with it.",
    look_at="how do you see from a parameter that it is frozen?",
    when=lambda placings: any(p.placed[name] for p in placings for name in p.frozen),
    fails="frozen parameters",
)
def hands_over_frozen(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        layer = 0 if "embeddings" in name else depth
        if ".layer." in name:
            layer = int(name.split(".layer.")[1].split(".")[0]) + 1
        lr = base_lr / decay ** (depth - layer)
        strength = weight_decay if parameter.ndim > 1 else 0.0
        groups.append({"params": [parameter], "lr": lr, "weight_decay": strength})
    return groups


# warmup_then_decay: a case is a stretch of steps, each a call of its own.


def _schedule_case(kind, steps, warmup, total, shape=None):
    """A case; without a shape the answer is called without one."""
    arguments = {"steps": list(steps), "warmup_steps": warmup, "total_steps": total}
    if shape is not None:
        arguments["shape"] = shape
    given = "no shape given" if shape is None else f"shape {shape!r}"
    return Case(kind, arguments, text=f"warmup_steps {warmup}, total_steps {total}, {given}")


def _schedule_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    warmup = _whole(generator, 4, 7)
    total = warmup + 2 * _whole(generator, 5, 9) + 1
    long = warmup + 4  # a warm-up that is most of the run
    after = range(warmup, total)
    beyond = [total, total + 1, total + 3, 2 * total, 5 * total + 2]
    return [
        _schedule_case("warm-up", range(warmup), warmup, total, "linear"),
        _schedule_case("warm-up", range(warmup), warmup, total, "cosine"),
        _schedule_case("warm-up", range(long), long, long + 2, "linear"),
        _schedule_case("linear", after, warmup, total, "linear"),
        _schedule_case("cosine", after, warmup, total, "cosine"),
        _schedule_case("default", after, warmup, total),
        _schedule_case("end", beyond, warmup, total, "linear"),
        _schedule_case("end", beyond, warmup, total, "cosine"),
        _schedule_case("no warm-up", range(total), 0, total, "linear"),
        _schedule_case("no warm-up", range(total), 0, total, "cosine"),
        _schedule_case("only warm-up", range(total + 2), total, total, "linear"),
        _schedule_case("only warm-up", range(total + 2), total, total, "cosine"),
    ]


def _hidden_schedule_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    warmup, total = _whole(generator, 20, 60), _whole(generator, 400, 900)
    some = torch.randint(warmup, total, (12,), generator=generator).tolist()
    return [
        _schedule_case("warm-up", range(0, warmup, 3), warmup, total, "cosine"),
        _schedule_case("linear", sorted(some), warmup, total, "linear"),
        _schedule_case("cosine", sorted(some), warmup, total, "cosine"),
        _schedule_case("linear", [1, 2, 3], 1, 4, "linear"),
        _schedule_case("cosine", [total - 1], total - 1, total, "cosine"),
        _schedule_case("end", [total, total + 1], warmup, total, "cosine"),
        _schedule_case("one step", [0, 1, 2], 0, 1, "linear"),
        _schedule_case("only warm-up", [0, 1, 2], 1, 1, "cosine"),
    ]


def _observe_schedule(answer, case, forbidden=frozenset()) -> Observation:
    def steps(arguments):
        stretch, *settings = arguments.values()
        return [answer(step, *settings) for step in stretch]

    return observe_steps(steps, answer, case, forbidden)


def _test_share(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    for step, got in zip(case.arguments["steps"], observed.output, strict=True):
        if _as_number(got) is None:
            return Failure("a number", f"{describe(got)} at step {step}")
    return None


def _accepted(case: Case, step: int, right: float) -> tuple[float, ...]:
    """The shares that are right at a step; the formulas leave a choice at one alone.

    In a run that is all warm-up, its last step is both where the warm-up has got to the peak and
    where the run is over. No optimiser step is taken with that rate.
    """
    only_warm_up = step == case.arguments["warmup_steps"] == case.arguments["total_steps"]
    return (0.0, 1.0) if only_warm_up else (right,)


def _schedule_property(name: str, points: float, kinds: tuple[str, ...]) -> Property:
    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        runs = zip(case.arguments["steps"], expected.output, observed.output, strict=True)
        for step, wanted, got in runs:
            right = _accepted(case, step, wanted)
            # A cosine in float32 is right to about 1e-7 of its largest value.
            if not any(_near(got, share, atol=1e-5) for share in right):
                found = _as_number(got)
                shown = describe(got) if found is None else number(found)
                return Failure(f"{' or '.join(map(number, right))} at step {step}", shown)
        return None

    return Property(name, points, test, kinds=kinds)


warmup_then_decay = Exercise(
    name="warmup_then_decay",
    reference=schedules.warmup_then_decay,
    cases=_schedule_cases,
    hidden_cases=_hidden_schedule_cases,
    properties=(
        Property("number", 0.5, _test_share, kinds=("warm-up", "linear")),
        _schedule_property("warm-up", 1, ("warm-up",)),
        _schedule_property("decay", 1, ("linear", "cosine", "default")),
        _schedule_property("the end", 0.5, ("end",)),
        _schedule_property("no warm-up", 0.5, ("no warm-up", "one step")),
        _schedule_property("nothing but warm-up", 0.5, ("only warm-up",)),
    ),
    observe=_observe_schedule,
)


def _fall(shape: str, over: float) -> float:
    """The decay from 1 to 0, by the share of it that is over, as the formulas say."""
    return 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2


def _schedule_mistake(sentence: str, why: str, look_at: str, fails: str, wrong: Callable, kinds=()):
    """A mistake by what it gives: wrong(step, warmup, total, shape) -> share, in these kinds."""

    def gives(case: Case, seen: Observation, rule: Callable) -> bool:
        stretch, *settings = case.arguments.values()
        shares = zip(stretch, seen.output, strict=True)
        return all(_near(got, rule(step, *settings), atol=1e-5) for step, got in shares)

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        asked = [p for p in zip(cases, observations, strict=True) if p[0].kind in kinds]
        if any(seen.error for _, seen in asked):
            return False
        # In one shape alone is the same mistake; then all cases of the other one are right.
        differing = [pair for pair in asked if not gives(*pair, schedules.warmup_then_decay)]
        return bool(differing) and all(gives(*pair, wrong) for pair in differing)

    return warmup_then_decay.mistake(sentence, why, look_at, recognise, fails)


@_schedule_mistake(
    "the rate never leaves 0 during the warm-up",
    why="the whole warm-up is wasted, and then the rate jumps to its peak: no warm-up at all.",
    look_at="what does your code give at step 3 of a warm-up of 10 steps?",
    fails="warm-up",
    wrong=lambda step, warmup, total, shape: 0.0,
    kinds=("warm-up",),
)
def never_leaves_zero(step, warmup_steps, total_steps, shape="linear"):
    if step >= total_steps:
        return 0.0
    if step < warmup_steps:
        return step // warmup_steps
    over = (step - warmup_steps) / (total_steps - warmup_steps)
    return 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2


@_schedule_mistake(
    "the warm-up starts one step ahead: step 0 does not have rate 0",
    why="step counts the steps taken so far, so the rise is from 0 at step 0 to 1 at warmup_steps.",
    look_at="what should step 0 give, and what does your numerator give there?",
    fails="warm-up",
    wrong=lambda step, warmup, total, shape: (step + 1) / warmup,
    kinds=("warm-up",),
)
def warms_up_one_step_ahead(step, warmup_steps, total_steps, shape="linear"):
    if step >= total_steps:
        return 0.0
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    over = (step - warmup_steps) / (total_steps - warmup_steps)
    return 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2


@_schedule_mistake(
    "the warm-up goes up with the share of all steps, so it never gets to the peak",
    why="at the end of the warm-up the rate jumps to 1 from far below.",
    look_at="which number should step be divided by, so that it is 1 when the warm-up ends?",
    fails="warm-up",
    wrong=lambda step, warmup, total, shape: step / total,
    kinds=("warm-up",),
)
def warms_up_over_the_whole_run(step, warmup_steps, total_steps, shape="linear"):
    if step >= total_steps:
        return 0.0
    if step < warmup_steps:
        return step / total_steps
    over = (step - warmup_steps) / (total_steps - warmup_steps)
    return 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2


@_schedule_mistake(
    "there is no warm-up: the decay starts at step 0",
    why="the first steps, in which gradients are least to be trusted, are the largest of all.",
    look_at="what does your code do while step is below warmup_steps?",
    fails="warm-up",
    wrong=lambda step, warmup, total, shape: _fall(shape, step / total),
    kinds=("warm-up",),
)
def never_warms_up(step, warmup_steps, total_steps, shape="linear"):
    over = min(1.0, step / total_steps)
    return 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2


@_schedule_mistake(
    "the decay counts from step 0, so it cuts the top off the warm-up",
    why="the rate never gets to its peak.",
    look_at="which share of the decay is over at the step at which the warm-up ends?",
    fails="warm-up",
    wrong=lambda step, warmup, total, shape: min(step / warmup, _fall(shape, step / total)),
    kinds=("warm-up",),
)
def decay_cuts_into_the_warm_up(step, warmup_steps, total_steps, shape="linear"):
    over = min(1.0, step / total_steps)
    fall = 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2
    return fall if warmup_steps == 0 else min(step / warmup_steps, fall)


@_schedule_mistake(
    "the rate is constant during the warm-up",
    why="the first steps, in which gradients are least to be trusted, are at full rate.",
    look_at="which two values lie at the two ends of the warm-up?",
    fails="warm-up",
    wrong=lambda step, warmup, total, shape: 1.0,
    kinds=("warm-up",),
)
def flat_during_the_warm_up(step, warmup_steps, total_steps, shape="linear"):
    if step >= total_steps:
        return 0.0
    over = max(0, step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2


@_schedule_mistake(
    "the rate jumps at the joint: the decay counts from step 0, not from the end of the warm-up",
    why="when the warm-up ends at 1, the decay is below 1 already.",
    look_at="which share of the decay is over at the step at which the warm-up ends?",
    fails="decay",
    wrong=lambda step, warmup, total, shape: _fall(shape, step / total),
    kinds=("linear", "cosine"),
)
def jumps_at_the_joint(step, warmup_steps, total_steps, shape="linear"):
    if step < warmup_steps:
        return step / warmup_steps
    over = min(1.0, step / total_steps)
    return 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2


@_schedule_mistake(
    "the decay is too long: it is not over at total_steps",
    why="total_steps counts the warm-up too, so what is left for the decay is shorter by it.",
    look_at="how many steps lie between the end of the warm-up and total_steps?",
    fails="decay",
    wrong=lambda step, warmup, total, shape: _fall(shape, (step - warmup) / total),
    kinds=("linear", "cosine"),
)
def decays_over_too_many_steps(step, warmup_steps, total_steps, shape="linear"):
    if step >= total_steps:
        return 0.0
    if step < warmup_steps:
        return step / warmup_steps
    over = (step - warmup_steps) / total_steps
    return 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2


@_schedule_mistake(
    "the decay reaches 0 one step early",
    why="the last step of the run, total_steps - 1, then changes nothing.",
    look_at="at which step should the rate be 0, and what does your denominator make of it?",
    fails="decay",
    wrong=lambda step, warmup, total, shape: _fall(
        shape, min(1.0, (step - warmup) / max(1, total - 1 - warmup))
    ),
    kinds=("linear", "cosine"),
)
def reaches_zero_early(step, warmup_steps, total_steps, shape="linear"):
    if step >= total_steps:
        return 0.0
    if step < warmup_steps:
        return step / warmup_steps
    over = min(1.0, (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps))
    return 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2


@_schedule_mistake(
    "the decay rises: it is the share that is over, not the share that is left",
    why="the rate falls to 0 at once after the warm-up and is largest at the end.",
    look_at="what does your decay give right after the warm-up?",
    fails="decay",
    wrong=lambda step, warmup, total, shape: (
        (step - warmup) / (total - warmup)
        if shape == "linear"
        else (1 - math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    ),
    kinds=("linear", "cosine"),
)
def decay_rises(step, warmup_steps, total_steps, shape="linear"):
    if step >= total_steps:
        return 0.0
    if step < warmup_steps:
        return step / warmup_steps
    over = (step - warmup_steps) / (total_steps - warmup_steps)
    return over if shape == "linear" else (1 - math.cos(math.pi * over)) / 2


def _in_cosines(fall: Callable) -> Callable:
    """Another decay, of the share that is over, in "cosine"; "linear" is right."""

    def wrong(step, warmup, total, shape):
        over = (step - warmup) / (total - warmup)
        return fall(over) if shape == "cosine" else 1 - over

    return wrong


@_schedule_mistake(
    "the shape is ignored: the decay is always linear",
    why='"cosine" stays longer near the peak and comes down more gently at the end.',
    look_at="where in your code does the argument shape appear?",
    fails="decay",
    wrong=_in_cosines(lambda over: 1 - over),
    kinds=("linear", "cosine"),
)
def always_linear(step, warmup_steps, total_steps, shape="linear"):
    if step >= total_steps:
        return 0.0
    if step < warmup_steps:
        return step / warmup_steps
    return (total_steps - step) / (total_steps - warmup_steps)


@_schedule_mistake(
    "the cosine goes from 1 to -1: it is not moved up and halved",
    why="a negative rate climbs the loss instead of descending.",
    look_at="the values of cos(0) and cos(pi), and those that you want instead.",
    fails="decay",
    wrong=_in_cosines(lambda over: math.cos(math.pi * over)),
    kinds=("linear", "cosine"),
)
def cosine_below_zero(step, warmup_steps, total_steps, shape="linear"):
    if step >= total_steps:
        return 0.0
    if step < warmup_steps:
        return step / warmup_steps
    over = (step - warmup_steps) / (total_steps - warmup_steps)
    return 1 - over if shape == "linear" else math.cos(math.pi * over)


@_schedule_mistake(
    "the cosine runs over a quarter of its period, not over half of it",
    why="it comes down to 0 with its steepest slope; half a period is level at both ends.",
    look_at="at which angle should the decay end?",
    fails="decay",
    wrong=_in_cosines(lambda over: math.cos(math.pi / 2 * over)),
    kinds=("linear", "cosine"),
)
def quarter_of_a_cosine(step, warmup_steps, total_steps, shape="linear"):
    if step >= total_steps:
        return 0.0
    if step < warmup_steps:
        return step / warmup_steps
    over = (step - warmup_steps) / (total_steps - warmup_steps)
    return 1 - over if shape == "linear" else math.cos(math.pi / 2 * over)


@_schedule_mistake(
    "the cosine runs over a whole period: it falls to 0 half-way and rises again",
    why="the run would end at full rate.",
    look_at="at which angle should the decay end?",
    fails="decay",
    wrong=_in_cosines(lambda over: (1 + math.cos(2 * math.pi * over)) / 2),
    kinds=("linear", "cosine"),
)
def whole_cosine(step, warmup_steps, total_steps, shape="linear"):
    if step >= total_steps:
        return 0.0
    if step < warmup_steps:
        return step / warmup_steps
    over = (step - warmup_steps) / (total_steps - warmup_steps)
    return 1 - over if shape == "linear" else (1 + math.cos(2 * math.pi * over)) / 2


def _negative_past_the_end(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    lowest = [
        min(_as_number(got) or 0.0 for got in seen.output)
        for case, seen in zip(cases, observations, strict=True)
        if case.kind == "end" and not seen.error
    ]
    return bool(lowest) and min(lowest) < -1e-5


@warmup_then_decay.mistake(
    "the rate is negative past the end",
    why="one step too many, and the model climbs its loss instead of descending.",
    look_at="what does your linear decay give at step total_steps + 1?",
    recognise=_negative_past_the_end,
    fails="the end",
)
def negative_past_the_end(step, warmup_steps, total_steps, shape="linear"):
    if step < warmup_steps:
        return step / warmup_steps
    over = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2


def _rises_past_the_end(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    for case, seen in zip(cases, observations, strict=True):
        if case.kind != "end" or case.arguments["shape"] != "cosine":
            continue
        if seen.error or not all(
            _near(got, _fall("cosine", (step - case.arguments["warmup_steps"]) / (
                case.arguments["total_steps"] - case.arguments["warmup_steps"])), atol=1e-5)
            for step, got in zip(case.arguments["steps"], seen.output, strict=True)
        ):  # fmt: skip
            return False
    return True


@warmup_then_decay.mistake(
    "the cosine rises again past the end",
    why="a run that goes on a little longer would suddenly be at a high rate again.",
    look_at="what does your cosine give at step 2 * total_steps?",
    recognise=_rises_past_the_end,
    fails="the end",
)
def cosine_rises_past_the_end(step, warmup_steps, total_steps, shape="linear"):
    if step < warmup_steps:
        return step / warmup_steps
    over = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return max(0.0, 1 - over) if shape == "linear" else (1 + math.cos(math.pi * over)) / 2


def _divides_by_zero(kind: str) -> Callable:
    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        return any(
            case.kind == kind and seen.error.startswith("ZeroDivisionError")
            for case, seen in zip(cases, observations, strict=True)
        )

    return recognise


@warmup_then_decay.mistake(
    "it divides by zero when there is no warm-up",
    why="warmup_steps = 0 is a common setting: it starts at the peak.",
    look_at="in which order do you compute, and ask whether step is below warmup_steps?",
    recognise=_divides_by_zero("no warm-up"),
    fails="no warm-up",
)
def divides_by_zero_without_warm_up(step, warmup_steps, total_steps, shape="linear"):
    if step >= total_steps:
        return 0.0
    over = max(0, step - warmup_steps) / max(1, total_steps - warmup_steps)
    fall = 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2
    return min(step / warmup_steps, fall)


@_schedule_mistake(
    "without a warm-up, step 0 still has rate 0",
    why="the first step of the run changes nothing; warmup_steps = 0 starts at the peak.",
    look_at="is step 0 part of a warm-up of 0 steps?",
    fails="no warm-up",
    wrong=lambda step, warmup, total, shape: 0.0 if step == 0 else _fall(shape, step / total),
    kinds=("no warm-up",),
)
def starts_at_zero_without_warm_up(step, warmup_steps, total_steps, shape="linear"):
    if step >= total_steps or step == 0:
        return 0.0
    if step < warmup_steps:
        return step / warmup_steps
    over = (step - warmup_steps) / (total_steps - warmup_steps)
    return 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2


@warmup_then_decay.mistake(
    "it divides by zero when the whole run is warm-up",
    why="with warmup_steps = total_steps no step is left for the decay.",
    look_at="what do you divide by in the decay, and when is it 0?",
    recognise=_divides_by_zero("only warm-up"),
    fails="nothing but warm-up",
)
def divides_by_zero_without_decay(step, warmup_steps, total_steps, shape="linear"):
    if step < warmup_steps:
        return step / warmup_steps
    over = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
    return 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2


# accumulated_step: the change of the weights is compared, since an update that is a thousand times
# too small hardly shows in the weights themselves.

STEP_RTOL = 1e-3  # of the largest change; an answer that computes in float32 is right to 1e-5
NO_LABEL = -100
RATE = 0.5
SCALE = 256.0
CLIPPED = 0.05  # a norm that the gradients of all cases exceed fourfold
NOT_CLIPPED = 1e6  # one that even scaled gradients do not reach


def _step_case(kind, generator, count, size, clip_norm=NOT_CLIPPED, unlabelled=(), **other):
    """count examples, taken `size` at a time; unlabelled: the rows without a label."""
    features, classes = _whole(generator, 3, 5), _whole(generator, 3, 4)
    labels = torch.randint(classes, (count,), generator=generator)
    inputs = torch.randn(count, features, generator=generator, dtype=torch.float64)
    # Examples differ in size, so that no two micro-batches have gradients alike.
    inputs *= 0.3 + 3 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    labels[list(unlabelled)] = NO_LABEL
    shapes = [(4, features), (4,), (classes, 4), (classes,)]
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    arguments = {
        "inputs": inputs,
        "labels": labels,
        "micro_batch_size": size,
        "clip_norm": clip_norm,
        "weights": weights,
        "calls": 1,
        "falling_rate": False,
        "gradients_before": False,
        "overflows": False,
        "scaler_on": True,
    } | other
    text = f"{count} examples, {size} at a time, clip_norm {number(clip_norm)}"
    if len(unlabelled):
        text += f", {len(unlabelled)} labels of -100"
    if arguments["calls"] > 1:
        text += f", {arguments['calls']} calls"
    if arguments["gradients_before"]:
        text += ", with the gradients of something else in .grad"
    if arguments["overflows"]:
        text += ", with gradients that overflow"
    return Case(kind, arguments, text=text)


def _step_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    size = _whole(generator, 3, 4)
    parts = size + 1  # not as many as a micro-batch has examples, lest the two be confused
    count, partial = size * parts, size * parts + _whole(generator, 1, size - 1)
    second = range(size, 2 * size)
    return [
        _step_case("one micro-batch", generator, size + 2, size + 2),
        _step_case("equal", generator, count, size),
        _step_case("unequal", generator, partial, size),
        _step_case("labels missing", generator, partial, size, unlabelled=range(1, size)),
        _step_case("no labels", generator, count, size, unlabelled=second),
        _step_case("clipped", generator, count, size, CLIPPED),
        _step_case("clipped", generator, partial, size, 2 * CLIPPED),
        _step_case("overflow", generator, count, size, overflows=True),
        _step_case("schedule", generator, count, size, calls=3, falling_rate=True),
        _step_case("gradients before", generator, count, size, gradients_before=True),
        _step_case("two calls in a row", generator, count, size, calls=2),
    ]


def _hidden_step_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    size = _whole(generator, 5, 8)
    count = 3 * size + _whole(generator, 1, size - 2)
    some = torch.randperm(count, generator=generator)[: count // 3].tolist()
    clip = 2 * CLIPPED
    return [
        _step_case("one by one", generator, 6, 1),
        _step_case("more than there are", generator, size, 3 * size),
        _step_case("unequal", generator, 2 * size + 1, size),
        _step_case("labels missing", generator, count, size, unlabelled=some),
        _step_case("no labels", generator, count, size, unlabelled=range(3 * size, count)),
        _step_case("clipped", generator, count, size, CLIPPED, unlabelled=some),
        _step_case("clipped without scaling", generator, count, size, clip, scaler_on=False),
        _step_case("schedule", generator, count, size, calls=2, falling_rate=True),
        _step_case("two calls in a row", generator, count, size, calls=3),
    ]


class _Watched(nn.Module):
    """Two layers that write down what goes through them: "F" forward, "B" backward."""

    def __init__(self, weights: Sequence[torch.Tensor], overflows: bool):
        super().__init__()
        width, features = weights[0].shape
        self.first = nn.Linear(features, width, dtype=torch.float64)
        self.head = nn.Linear(width, len(weights[2]), dtype=torch.float64)
        with torch.no_grad():
            for parameter, weight in zip(self.parameters(), weights, strict=True):
                parameter.copy_(weight)
        self.sizes, self.order, self.overflows = [], [], overflows
        self.was_in_evaluation_mode = False

    def forward(self, inputs):
        self.sizes.append(len(inputs))
        self.note_mode()
        logits = self.head(torch.tanh(self.first(inputs)))
        if logits.requires_grad:
            self.order.append("F")
            logits.register_hook(self._backward)
        return logits

    def note_mode(self):
        self.was_in_evaluation_mode |= not self.training

    def _backward(self, gradient):
        self.order.append("B")
        return torch.full_like(gradient, math.inf) if self.overflows else None


class _Run:
    """A model with all that a step needs, in the state in which training starts."""

    def __init__(self, arguments: dict, weights: Sequence[torch.Tensor]):
        self.model = _Watched(weights, arguments["overflows"])
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE)
        self.rates = []  # of the steps of the optimiser
        self.optimizer.register_step_pre_hook(
            lambda optimizer, *_: self.rates.append(optimizer.param_groups[0]["lr"])
        )
        falling = arguments["falling_rate"]
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: 1 / (1 + step) if falling else 1.0
        )
        self.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, enabled=arguments["scaler_on"])
        self.data = [arguments[name] for name in ("inputs", "labels", "micro_batch_size")]
        self.clip_norm = arguments["clip_norm"]

    def weights(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]

    def step(self, answer) -> torch.Tensor:
        """The change of all weights in one call."""
        before = self.weights()
        answer(self.model, *self.data, self.optimizer, self.scheduler, self.scaler, self.clip_norm)
        self.model.note_mode()
        after = self.weights()
        return torch.cat([(b - a).flatten() for a, b in zip(before, after, strict=True)])


def _observe_step(answer, case, forbidden=frozenset()) -> Observation:
    """Record steps of a small model in float64, with SGD and a real GradScaler.

    The output has `change` (of the weights, in the last call) and `fresh_change` (of another model
    that starts with the same weights, and without gradients), `sizes` (of the micro-batches),
    `order` ("FBFB"), `evaluation_mode` (whether the model, in training mode at first, was put into
    it), `rates` (of the optimiser's steps), `scale` (by which factor the scaler's has changed) and
    `schedule_steps` (how often the scheduler moved on).
    """

    def steps(arguments):
        run = _Run(arguments, arguments["weights"])
        if arguments["gradients_before"]:
            for parameter in run.model.parameters():
                parameter.grad = torch.full_like(parameter, 0.7 * SCALE)
        for _ in range(arguments["calls"] - 1):
            run.step(answer)
        fresh_change = None
        if case.kind in LEFT_OVER:
            fresh_change = _Run(arguments, run.weights()).step(answer)
        scale = run.scaler.get_scale()
        return {
            "change": run.step(answer),
            "fresh_change": fresh_change,
            "sizes": run.model.sizes,
            "order": "".join(run.model.order),
            "evaluation_mode": run.model.was_in_evaluation_mode,
            "rates": run.rates,
            "scale": run.scaler.get_scale() / scale,
            "schedule_steps": run.scheduler.last_epoch,
        }

    return observe_steps(steps, answer, case, forbidden)


LEFT_OVER = ("gradients before", "two calls in a row")


class _WithLoss(nn.Module):
    """A model that computes its own loss, as `trainer.accumulated_step` wants it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids, labels):
        return SimpleNamespace(loss=F.cross_entropy(self.model(input_ids), labels))


def _reference_step(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    """`trainer.accumulated_step` with the arguments of the exercise."""
    parts = zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True)
    batches = [{"input_ids": x, "labels": y} for x, y in parts]
    trainer.accumulated_step(_WithLoss(model), batches, optimizer, clip_norm, scaler=scaler)
    scheduler.step()


def _alike(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    """Whether two changes of all weights are the same one."""
    if left is None or right is None or not left.isfinite().all():
        return left is right
    return float((left - right).abs().max()) <= STEP_RTOL * float(right.abs().max()) + 1e-12


def _test_something_moves(case, observed: Observation, expected: Observation) -> Failure | None:
    change = observed.output["change"]
    if not change.isfinite().all():
        return Failure("a step", "weights that are NaN or infinite")
    return None if change.any() else Failure("a step", "weights as they were")


def _change_property(name: str, points: float, kinds: tuple[str, ...]) -> Property:
    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        return _compare_changes(observed.output["change"], expected.output["change"])

    return Property(name, points, test, kinds=kinds)


def _compare_changes(got: torch.Tensor, wanted: torch.Tensor) -> Failure | None:
    if _alike(got, wanted):
        return None
    expected = f"a step of length {number(wanted.norm())}"
    if not got.isfinite().all():
        return Failure(expected, "weights that are NaN or infinite")
    if math.isclose(got.norm(), wanted.norm(), rel_tol=STEP_RTOL):
        return Failure(expected, "the same length in another direction")
    return Failure(expected, number(got.norm()))


def _test_calls(case, observed: Observation, expected: Observation) -> Failure | None:
    size, sizes = case.arguments["micro_batch_size"], observed.output["sizes"]
    if max(sizes, default=0) != min(size, len(case.arguments["inputs"])):
        return Failure(f"{size} examples at a time", f"{max(sizes, default=0)} in a forward pass")
    if "BB" in observed.output["order"]:
        return Failure("a backward pass per micro-batch", "one through several of them")
    if observed.output["evaluation_mode"]:
        return Failure("the model in training mode, as it was given", "in evaluation mode")
    return None


def _test_overflow(case, observed: Observation, expected: Observation) -> Failure | None:
    change = observed.output["change"]
    if not change.isfinite().all():
        return Failure("the step skipped", "weights that are NaN or infinite")
    if change.any():
        return Failure("the step skipped", "a step")
    scale = observed.output["scale"]
    return None if scale == 0.5 else Failure("a scale halved by the scaler", f"{number(scale)} x")


def _test_schedule(case, observed: Observation, expected: Observation) -> Failure | None:
    calls, moves = case.arguments["calls"], observed.output["schedule_steps"]
    if moves != calls:
        return Failure(f"{calls} moves of the scheduler in {calls} calls", f"{moves} moves")
    wanted, got = expected.output["rates"], observed.output["rates"]
    if len(got) == len(wanted) and not all(map(_near, got, wanted)):
        return Failure(f"steps with rates {_row(wanted)}", _row(got))
    return None


def _row(rates: Sequence[float]) -> str:
    return ", ".join(map(number, rates))


def _test_left_over(case, observed: Observation, expected: Observation) -> Failure | None:
    return _compare_changes(observed.output["change"], observed.output["fresh_change"])


CLIPPING = ("clipped", "clipped without scaling")

accumulated_step = Exercise(
    name="accumulated_step",
    reference=_reference_step,
    cases=_step_cases,
    hidden_cases=_hidden_step_cases,
    properties=(
        Property("a step is taken", 0.5, _test_something_moves, kinds=("one micro-batch",)),
        _change_property("equal micro-batches", 1, ("one micro-batch", "equal", "one by one")),
        _change_property(
            "unequal micro-batches", 1, ("unequal", "labels missing", "more than there are")
        ),
        _change_property("a micro-batch without labels", 0.5, ("no labels",)),
        Property("calls of the model", 0.5, _test_calls, kinds=("equal", "unequal")),
        _change_property("clipping", 1, CLIPPING),
        Property("overflow", 0.5, _test_overflow, kinds=("overflow",)),
        Property("schedule", 0.5, _test_schedule, kinds=("schedule",)),
        Property("left-over gradients", 0.5, _test_left_over, kinds=LEFT_OVER),
    ),
    observe=_observe_step,
    home=trainer,
)


def _step_mistake(sentence, why, look_at, fails: str, kinds: Sequence[str], wordings=()):
    """A mistake by the change of the weights in some kinds of cases, in one of several wordings."""

    def add(answer):
        def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
            pairs = [pair for pair in zip(cases, observations, strict=True) if _is_asked(pair[0])]
            if not pairs or any(seen.error for _, seen in pairs):
                return False
            return any(_does_the_same(wording, pairs) for wording in (answer, *wordings))

        return accumulated_step.mistake(sentence, why, look_at, recognise, fails)(answer)

    def _is_asked(case: Case) -> bool:
        return case.kind in kinds

    return add


def _does_the_same(answer, pairs: Sequence[tuple[Case, Observation]]) -> bool:
    """Whether an answer changes the weights like the observed one, in a case where it is wrong."""
    differs = False
    for case, seen in pairs:
        theirs = _observe_step(answer, case)
        if theirs.error or not _alike(seen.output["change"], theirs.output["change"]):
            return False
        right = _observe_step(_reference_step, case)
        differs |= not _alike(seen.output["change"], right.output["change"])
    return differs


def _step_log_mistake(sentence, why, look_at, fails: str, kinds: Sequence[str], when: Callable):
    """A mistake that shows in the output: when(case, output) -> bool, in all cases of the kinds."""

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        pairs = [
            (case, seen) for case, seen in zip(cases, observations, strict=True)
            if case.kind in kinds
        ]  # fmt: skip
        return bool(pairs) and all(
            not seen.error and when(case, seen.output) for case, seen in pairs
        )

    return accumulated_step.mistake(sentence, why, look_at, recognise, fails)


def _parts_of(case: Case) -> int:
    return -(-len(case.arguments["inputs"]) // case.arguments["micro_batch_size"])


@_step_log_mistake(
    "the optimiser takes a step after every micro-batch",
    why="these are k small steps, each as noisy as its few examples, not one step of the batch.",
    look_at="which of your lines run k times, and which once?",
    fails="equal micro-batches",
    kinds=("equal",),
    when=lambda case, output: len(output["rates"]) == _parts_of(case) > 1,
)
def steps_every_micro_batch(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        scaler.step(optimizer)
        scaler.update()
    scheduler.step()


@_step_mistake(
    "the mean losses of the micro-batches are added up, not averaged",
    why="k micro-batches give a gradient that is k times too large: the same as k times the rate.",
    look_at="what is the loss of the whole batch, and what is the sum of your losses?",
    fails="equal micro-batches",
    kinds=("equal",),
)
def not_divided(model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm):
    optimizer.zero_grad()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        scaler.scale(F.cross_entropy(model(x), y)).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@_step_mistake(
    "the losses of all examples are added up, and divided by nothing",
    why="a batch with more examples would take a larger step.",
    look_at="what is the loss of the whole batch, and what is the sum of your losses?",
    fails="equal micro-batches",
    kinds=("equal",),
)
def sums_the_losses(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        scaler.scale(F.cross_entropy(model(x), y, reduction="sum")).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


def _divides_the_mean_by_the_size(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    """A wording of `divides_twice`."""
    optimizer.zero_grad()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        scaler.scale(F.cross_entropy(model(x), y) / micro_batch_size).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@_step_mistake(
    "a mean is divided by the number of examples once more",
    why="the step is smaller by the size of a micro-batch.",
    look_at="does your cross-entropy add up or average, and what do you divide it by?",
    fails="equal micro-batches",
    kinds=("equal",),
    wordings=(_divides_the_mean_by_the_size,),
)
def divides_twice(model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        scaler.scale(F.cross_entropy(model(x), y) / total).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


def _zeroes_in_the_loop(total_of):
    """A wording: zeroes in the loop, and divides by total_of(y, labels)."""

    def answer(model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm):
        for x, y in zip(
            inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True
        ):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y, reduction="sum") / total_of(y, labels)
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()

    return answer


@_step_mistake(
    "the gradients are zeroed for every micro-batch",
    why="only the last micro-batch is left when the step is taken; the others were for nothing.",
    look_at="what is in .grad when the second micro-batch begins?",
    fails="equal micro-batches",
    kinds=("equal",),
    wordings=(_zeroes_in_the_loop(lambda y, labels: (y != NO_LABEL).sum()),),
)
def zeroes_every_micro_batch(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


def _updates_before_the_step(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    """Whether the step is too small by the scale, and a second call finds the first one open."""
    seen_in = {case.kind: (case, seen) for case, seen in zip(cases, observations, strict=True)}
    case, seen = seen_in["one micro-batch"]
    overflow, second = seen_in["overflow"][1], seen_in["two calls in a row"][1]
    if seen.error or overflow.error:
        return False
    right = _observe_step(_reference_step, case).output["change"]
    unscaled_twice = _alike(SCALE * seen.output["change"], right)
    updated = overflow.output["scale"] == 0.5
    return unscaled_twice and updated and "called after step()" in second.error


@accumulated_step.mistake(
    "update() of the scaler comes before its step(), which divides by the scale once more then",
    why="update() ends a step: it forgets that the gradients have been unscaled, and they come out "
    "too small by the scale.",
    look_at="which of the calls of the scaler has to be the last one?",
    recognise=_updates_before_the_step,
    fails="equal micro-batches",
)
def updates_before_the_step(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.update()
    scaler.step(optimizer)
    scheduler.step()


@_step_mistake(
    "the gradients are divided by the scale once too often",
    why="the step is smaller by the scale, thousands of times in float16.",
    look_at="does every loss go through scale() right before its backward()? And which of your "
    "lines divide by the scale, step() of the scaler included?",
    fails="equal micro-batches",
    kinds=("one micro-batch", "equal"),
)
def unscales_once_too_often(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss)
        loss.backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@_step_mistake(
    "the gradients are never unscaled: the optimiser steps with the scaled ones",
    why="the step is larger by the scale, thousands of times in float16.",
    look_at="who divides by the scale again, scaler.step(optimizer) or optimizer.step()?",
    fails="equal micro-batches",
    kinds=("one micro-batch", "equal"),
)
def never_unscales(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    scheduler.step()


@_step_log_mistake(
    "the optimiser never takes a step",
    why="the gradients are there, but no weight moves.",
    look_at="which call moves the weights, and does your code come to it?",
    fails="a step is taken",
    kinds=("one micro-batch", "equal"),
    when=lambda case, output: not output["rates"] and not output["change"].any(),
)
def never_steps(model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.update()
    scheduler.step()


UNSCALED_BEFORE = "unscale_() has already been called"  # what torch says


def _stops_with(kind: str, *messages: str) -> Callable:
    """Recognises an answer that stops in a case of a kind with one of torch's messages."""

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        return any(
            message in seen.error
            for case, seen in zip(cases, observations, strict=True)
            if case.kind == kind
            for message in messages
        )

    return recognise


@accumulated_step.mistake(
    "no loss has been through scale() of the scaler when its unscale_() or step() is called",
    why="they would divide the gradients by a factor that was never there, so the scaler refuses.",
    look_at="which method of the scaler does a loss go through before its backward()?",
    recognise=_stops_with("one micro-batch", "Attempted unscale_ but", "Attempted step but"),
    fails="a step is taken",
)
def never_scales(model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        (F.cross_entropy(model(x), y, reduction="sum") / total).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@accumulated_step.mistake(
    "update() of the scaler is called, but neither its unscale_() nor its step() before it",
    why="update() ends a step, once: it chooses the next scale by what these two have found in the "
    "gradients, and refuses if they have not looked yet.",
    look_at="which calls of the scaler come before update(), and how often does it run?",
    recognise=_stops_with("one micro-batch", "recorded prior to update", "Attempted update but"),
    fails="a step is taken",
)
def updates_too_early(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
        scaler.update()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scheduler.step()


@accumulated_step.mistake(
    "no gradient has reached the weights when the step is to be taken",
    why="either zero_grad() has thrown away what backward() computed, or the loss had no link to "
    "the weights any more (item(), detach(), no_grad()).",
    look_at="is there anything in .grad right after backward(), and is it still there right before "
    "the step?",
    recognise=_stops_with("one micro-batch", "recorded for this optimizer", "not require grad"),
    fails="a step is taken",
)
def no_gradient_at_the_step(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
        optimizer.zero_grad()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@accumulated_step.mistake(
    "the gradients are unscaled once for every micro-batch",
    why="they add up over the micro-batches, so the first ones would be divided again and again; "
    "a GradScaler refuses that.",
    look_at="which of your lines run k times, and which once?",
    recognise=lambda cases, observations: (
        _stops_with("equal", UNSCALED_BEFORE)(cases, observations)
        and not _stops_with("one micro-batch", UNSCALED_BEFORE)(cases, observations)
    ),
)
def unscales_every_micro_batch(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@_step_mistake(
    "the micro-batches' means are averaged, as if all had the same number of labels",
    why="an example in a small micro-batch would count more than one in a large one.",
    look_at="which share of all labels does each micro-batch have?",
    fails="unequal micro-batches",
    kinds=("unequal",),
)
def mean_of_means(model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm):
    optimizer.zero_grad()
    parts = list(zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True))
    for x, y in parts:
        scaler.scale(F.cross_entropy(model(x), y) / len(parts)).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


def _drops(total_of):
    """A wording: the last partial micro-batch is left out; total_of(labels, size)."""

    def answer(model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm):
        optimizer.zero_grad()
        total = total_of(labels, micro_batch_size)
        for i in range(len(inputs) // micro_batch_size):
            part = slice(i * micro_batch_size, (i + 1) * micro_batch_size)
            loss = F.cross_entropy(model(inputs[part]), labels[part], reduction="sum") / total
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()

    return answer


@_step_mistake(
    "the last micro-batch is dropped, because it is not full",
    why="its examples are never learned from, and the sum of the others is no mean any more.",
    look_at="how many micro-batches do 10 examples make, 4 at a time?",
    fails="unequal micro-batches",
    kinds=("unequal",),
    wordings=(_drops(lambda labels, size: len(labels) // size * size),),
)
def drops_the_last_partial(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for i in range(len(inputs) // micro_batch_size):
        part = slice(i * micro_batch_size, (i + 1) * micro_batch_size)
        loss = F.cross_entropy(model(inputs[part]), labels[part], reduction="sum") / total
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@_step_mistake(
    "a micro-batch counts with its examples, and not with those that have a label",
    why="the mean is over labels; an example with -100 has no term in it.",
    look_at="over how many terms does cross_entropy average, where some labels are -100?",
    fails="unequal micro-batches",
    kinds=("labels missing",),
)
def weights_by_examples(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        if (y != -100).any():
            scaler.scale(F.cross_entropy(model(x), y) * len(y) / len(labels)).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@_step_mistake(
    "the sum is divided by the number of all examples, and not of those that have a label",
    why="the step shrinks with the share of examples that are not labelled.",
    look_at="over how many terms does cross_entropy average, where some labels are -100?",
    fails="unequal micro-batches",
    kinds=("labels missing",),
)
def divides_by_all_examples(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        scaler.scale(F.cross_entropy(model(x), y, reduction="sum") / len(labels)).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


def _loses_the_step(case: Case, output: dict) -> bool:
    # A GradScaler skips the step that has NaN in it.
    change = output["change"]
    return not change.any() or not bool(change.isfinite().all())


@_step_log_mistake(
    "a micro-batch without labels makes it divide 0 by 0",
    why="a share of 0 does not help: 0 times NaN is NaN, and the whole step is lost.",
    look_at="what is the mean of no losses, and what is their sum?",
    fails="a micro-batch without labels",
    kinds=("no labels",),
    when=_loses_the_step,
)
def nan_of_no_labels(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        labelled = y != -100
        logs = F.log_softmax(model(x), dim=1).gather(1, y.clamp(min=0).unsqueeze(1)).squeeze(1)
        mean = -(logs * labelled).sum() / labelled.sum()
        scaler.scale(mean * labelled.sum() / total).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@_step_log_mistake(
    "the whole batch goes through the model at once",
    why="accumulation is for a batch that does not fit into memory.",
    look_at="how many rows does the model get in one call?",
    fails="calls of the model",
    kinds=("equal",),
    when=lambda case, output: max(output["sizes"], default=0) == len(case.arguments["inputs"]),
)
def one_large_pass(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    scaler.scale(F.cross_entropy(model(inputs), labels)).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@_step_log_mistake(
    "there is one backward pass for all micro-batches at the end",
    why="until then every graph stays in memory, which is what accumulation is to avoid.",
    look_at="which of your lines run k times, and which once?",
    fails="calls of the model",
    kinds=("equal",),
    when=lambda case, output: "BB" in output["order"],
)
def one_backward_pass(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    loss = 0.0
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = loss + F.cross_entropy(model(x), y, reduction="sum")
    scaler.scale(loss / (labels != -100).sum()).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@_step_log_mistake(
    "the model is put into evaluation mode",
    why="dropout is off then, in this step or in all that follow; a training step leaves the mode "
    "as it is.",
    look_at="which of your lines changes the mode of the model, and do you need it?",
    fails="calls of the model",
    kinds=("equal",),
    when=lambda case, output: output["evaluation_mode"],
)
def puts_into_evaluation_mode(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    model.eval()
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@_step_mistake(
    "it clips before it unscales",
    why="scaled gradients are far above any clip_norm, so the step becomes smaller by the scale.",
    look_at="are the gradients multiplied by the scale at the moment at which you clip them?",
    fails="clipping",
    kinds=("clipped",),
)
def clips_before_unscaling(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


def _clips_scaled(model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm):
    """A wording of `clips_every_micro_batch` that takes the scale into account."""
    optimizer.zero_grad()
    total = (labels != NO_LABEL).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm * scaler.get_scale())
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


def _clips_once_more_at_the_end(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    """A wording of `clips_every_micro_batch` that also does it right, too late."""
    optimizer.zero_grad()
    total = (labels != NO_LABEL).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@_step_mistake(
    "it clips after every micro-batch",
    why="what the first micro-batches have to say shrinks again and again; the direction of the "
    "step is then that of the last ones.",
    look_at="which of your lines run k times, and which once?",
    fails="clipping",
    kinds=("clipped",),
    wordings=(_clips_scaled, _clips_once_more_at_the_end),
)
def clips_every_micro_batch(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@_step_mistake(
    "the gradients are not clipped when the step is taken",
    why="one outlier in the batch may throw the weights far away.",
    look_at="where is clip_norm used, and does the optimiser step before or after it?",
    fails="clipping",
    kinds=("clipped",),
)
def never_clips(model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@_step_mistake(
    "every parameter is clipped by itself",
    why="clip_norm is for the norm of the whole gradient; clipped one by one, the parameters' "
    "gradients no longer point where the loss falls fastest.",
    look_at="over which parameters is the norm taken that you compare with clip_norm?",
    fails="clipping",
    kinds=("clipped",),
)
def clips_one_by_one(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    for parameter in model.parameters():
        nn.utils.clip_grad_norm_(parameter, clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@_step_mistake(
    "the entries of the gradient are clipped, not its norm",
    why="large entries are cut and small ones stay, so the step points somewhere else.",
    look_at="what is clip_norm the largest value of?",
    fails="clipping",
    kinds=("clipped",),
)
def clips_the_entries(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_value_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@_step_log_mistake(
    "the step is taken past the scaler",
    why="in float16 gradients overflow now and then; scaler.step() skips such a step, and "
    "optimizer.step() puts NaN into every weight.",
    look_at="who calls the optimiser's step, you or the scaler?",
    fails="overflow",
    kinds=("overflow",),
    when=lambda case, output: not bool(output["change"].isfinite().all()),
)
def steps_past_the_scaler(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    scaler.update()
    scheduler.step()


@_step_log_mistake(
    "the scaler is not updated",
    why="after an overflow the scale must come down; it stays, so that every later step overflows "
    "and is skipped as well.",
    look_at="which call ends a step of a GradScaler?",
    fails="overflow",
    kinds=("overflow",),
    when=lambda case, output: not output["change"].any() and output["scale"] == 1,
)
def never_updates_the_scaler(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scheduler.step()


@_step_log_mistake(
    "the scheduler moves on with every micro-batch",
    why="it counts steps of the optimiser; the rate would fall k times too fast, and the warm-up "
    "be over k times too soon.",
    look_at="which of your lines run k times, and which once?",
    fails="schedule",
    kinds=("schedule",),
    when=lambda case, output: output["schedule_steps"] >= case.arguments["calls"] * _parts_of(case),
)
def schedules_every_micro_batch(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
        scheduler.step()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()


@_step_log_mistake(
    "the scheduler never moves on",
    why="the rate stays where it is; with a warm-up, that is 0 for ever.",
    look_at="what do you do with scheduler?",
    fails="schedule",
    kinds=("schedule",),
    when=lambda case, output: output["schedule_steps"] == 0,
)
def never_schedules(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()


@_step_log_mistake(
    "the scheduler moves on before the optimiser has taken its step",
    why="the first rate of the schedule is skipped, and all others come one step early.",
    look_at="which rate does the optimiser use in the very first step?",
    fails="schedule",
    kinds=("schedule",),
    when=lambda case, output: (
        output["schedule_steps"] == case.arguments["calls"] and _near(output["rates"][0], RATE / 2)
    ),
)
def schedules_before_the_step(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    total = (labels != -100).sum()
    scheduler.step()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()


def _keeps(cases: Sequence[Case], observations: Sequence[Observation]) -> dict[str, bool]:
    """Whether gradients are left over, by the kind of the case."""
    return {
        case.kind: not _alike(seen.output["change"], seen.output["fresh_change"])
        for case, seen in zip(cases, observations, strict=True)
        if case.kind in LEFT_OVER and not seen.error
    }


@accumulated_step.mistake(
    "the gradients are never zeroed",
    why="every step then also contains those of all steps before it.",
    look_at="what is in .grad when your function is called for the second time?",
    recognise=lambda cases, observations: all(
        _keeps(cases, observations).get(kind, False) for kind in LEFT_OVER
    ),
    fails="left-over gradients",
)
def never_zeroes(model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm):
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


@accumulated_step.mistake(
    "the gradients are zeroed after the step, and not before",
    why="what somebody else left in .grad (an evaluation, an interrupted step) goes into the step.",
    look_at="what is in .grad when your function is called for the first time?",
    recognise=lambda cases, observations: (
        _keeps(cases, observations) == {"gradients before": True, "two calls in a row": False}
    ),
    fails="left-over gradients",
)
def zeroes_afterwards(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    total = (labels != -100).sum()
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()
    optimizer.zero_grad()


EXERCISES = (layerwise_lrs, parameter_groups, warmup_then_decay, accumulated_step)
