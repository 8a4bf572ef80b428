"""Checks of notebook 05: freezing, gradual unfreezing, the linear probe, what to do first."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from course_lib import freezing
from course_lib.checks.exercise import Case, Exercise, Failure, Foreign, Observation, Property
from course_lib.checks.observe import observe_steps, plain
from course_lib.checks.properties import describe, number, show


def _whole(generator: torch.Generator, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _attempt(answer: Callable, arguments: Iterable):
    """What an answer returns, or {"raised": the type of the error} where one is wanted."""
    try:
        return answer(*arguments)
    except NotImplementedError:
        raise
    except Exception as error:
        return {"raised": "ValueError" if isinstance(error, ValueError) else type(error).__name__}


def _raised(seen: Observation) -> str:
    """The type of the error that an answer refused a case with; empty if it did not."""
    return seen.output.get("raised", "") if isinstance(seen.output, dict) else ""


# freeze: the models are small, and have everything that can be frozen badly.

PLAIN, BEFORE, EVALUATION, UNKNOWN = "plain", "frozen before", "evaluation mode", "unknown name"
TIED, NO_LAYERS = "tied weight", "no layers"
HEAD = "classifier"


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(0.1)


class _Encoder(nn.Module):
    def __init__(self, depth: int, width: int):
        super().__init__()
        self.layer = nn.ModuleList(_Block(width) for _ in range(depth))


class _Classifier(nn.Module):
    """Has the names of a BERT with a head; it is never called."""

    def __init__(self, depth: int, width: int, tied: bool):
        super().__init__()
        self.embeddings = nn.Sequential()
        self.embeddings.words = nn.Embedding(width, width)
        self.embeddings.norm = nn.LayerNorm(width)
        self.embeddings.dropout = nn.Dropout(0.1)
        self.encoder = _Encoder(depth, width)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(width, width))
        if tied:
            self.classifier[1].weight = self.embeddings.words.weight


def _freeze_case(kind, generator, depth, layers, before=()):
    arguments = {
        "layers": list(layers),
        "depth": depth,
        "width": _whole(generator, 3, 6),
        "before": list(before),
    }
    parts = [f"a model with {depth} blocks, layers {list(layers)}"]
    if before:
        parts.append(f"{' and '.join(before)} frozen before")
    if kind == EVALUATION:
        parts.append("the model in evaluation mode")
    if kind == TIED:
        parts.append("the classifier's weight is the word embedding")
    return Case(kind, arguments, text="; ".join(parts))


def _freeze_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    depth = _whole(generator, 2, 4)
    bottom, top = ["embeddings", "encoder.layer.0"], f"encoder.layer.{depth - 1}"
    deep = _whole(generator, 11, 13)
    return [
        _freeze_case(PLAIN, generator, depth, bottom),
        _freeze_case(PLAIN, generator, deep, ["encoder.layer.1", "norm"]),
        _freeze_case(BEFORE, generator, depth, bottom[:1], [top]),
        _freeze_case(EVALUATION, generator, depth, bottom),
        _freeze_case(TIED, generator, depth, bottom),
        _freeze_case(UNKNOWN, generator, depth, ["embeddings", "encoder.layers.0"]),
    ]


def _hidden_freeze_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    depth = _whole(generator, 5, 8)
    return [
        _freeze_case(PLAIN, generator, 1, ["encoder"]),
        _freeze_case(PLAIN, generator, depth, ["norm", "encoder.layer.3.dense", "embeddings"]),
        _freeze_case(PLAIN, generator, depth, ["encoder", "encoder.layer.2"]),
        _freeze_case(BEFORE, generator, depth, ["encoder.layer.0"], ["encoder.layer.1.norm"]),
        _freeze_case(EVALUATION, generator, depth, ["encoder.layer.4"]),
        _freeze_case(TIED, generator, depth, ["embeddings"]),
        _freeze_case(NO_LAYERS, generator, depth, []),
        _freeze_case(UNKNOWN, generator, depth, ["layer.0", "embeddings"]),
        _freeze_case(UNKNOWN, generator, depth, [f"encoder.layer.{depth}"]),
    ]


def _under(name: str, layers: Sequence[str]) -> bool:
    """Whether a parameter or module belongs to one of the layers, going by whole names."""
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)


def _observe_freeze(answer, case, forbidden=frozenset()) -> Observation:
    """Record what is frozen, in which mode every module is, and what comes back.

    The output has `parameters` (all names), `frozen` (names without a gradient), `modes` (module ->
    whether it is in training mode), `noisy` (modules with dropout or moving statistics),
    `returned` (a name for each time that a parameter comes back), `strangers` (tensors that are no
    parameters), `moved` (frozen names among these with a gradient, if only of 0, so that weight
    decay moves them), `rewritten` (names with another value than before); and `malformed`, what
    came back instead of parameters, or "".
    """
    given = case.arguments
    with torch.random.fork_rng():
        model = _Classifier(given["depth"], given["width"], tied=case.kind == TIED)
    for name in given["before"]:
        model.get_submodule(name).requires_grad_(False)
    model.train(case.kind != EVALUATION)
    for parameter in model.parameters():  # what zero_grad(set_to_none=False) leaves behind
        parameter.grad = torch.zeros_like(parameter)

    def steps(arguments):
        values = {name: value.clone() for name, value in model.state_dict().items()}
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        given_model = model, arguments["layers"]
        back = _attempt(answer, given_model) if case.kind == UNKNOWN else answer(*given_model)
        if isinstance(back, dict) and "raised" in back:
            return back
        rewritten = [n for n, value in model.state_dict().items() if not value.equal(values[n])]
        items = _tensors(back)
        given_back = {id(item) for item in items or []}
        frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
        modes = {name: module.training for name, module in model.named_modules()}
        noisy = [n for n, m in model.named_modules() if isinstance(m, nn.Dropout | nn.BatchNorm1d)]
        return {
            "parameters": list(names.values()),
            "frozen": list(frozen),
            "modes": modes,
            "noisy": noisy,
            "returned": [names[id(item)] for item in items or [] if id(item) in names],
            "strangers": sum(id(item) not in names for item in items or []),
            "moved": [n for n, p in frozen.items() if id(p) in given_back and p.grad is not None],
            "rewritten": rewritten,
            "malformed": "" if items is not None else _described_return(back),
        }

    return observe_steps(steps, answer, case, forbidden)


def _tensors(back) -> list | None:
    """What came back as a list of tensors; None when it is anything else."""
    if isinstance(back, torch.Tensor | str | dict) or not isinstance(back, Iterable):
        return None
    # An optimiser takes pairs of a name and a parameter as well.
    items = [item[-1] if isinstance(item, tuple) and len(item) == 2 else item for item in back]
    return items if all(isinstance(item, torch.Tensor) for item in items) else None


def _described_return(back) -> str:
    if isinstance(back, dict):
        return "a dict"
    if isinstance(back, list | tuple) and back:
        for kind, name in ((str, "strings"), (dict, "dicts"), (nn.Module, "modules")):
            if all(isinstance(item, kind) for item in back):
                return f"a list of {name}"
    return describe(plain(back))


class Freezing(NamedTuple):
    """What an answer did to a model."""

    kind: str
    layers: list[str]
    before: list[str]
    seen: dict

    @property
    def parameters(self) -> set[str]:
        return set(self.seen["parameters"])

    @property
    def frozen(self) -> set[str]:
        return set(self.seen["frozen"])

    @property
    def named(self) -> set[str]:
        """The parameters of the layers."""
        return {name for name in self.parameters if _under(name, self.layers)}

    @property
    def earlier(self) -> set[str]:
        """What was frozen before."""
        return {name for name in self.parameters if _under(name, self.before)}

    @property
    def missing(self) -> set[str]:
        return self.named - self.frozen

    @property
    def extra(self) -> set[str]:
        return self.frozen - self.named - self.earlier

    @property
    def still_training(self) -> list[str]:
        """Modules of the layers in training mode."""
        modes = self.seen["modes"]
        return [name for name in modes if modes[name] and _under(name, self.layers)]

    @property
    def other_mode(self) -> list[str]:
        """Modules outside the layers that are not in the mode in which they came.

        One whose parameters are all frozen may be in either mode.
        """
        modes = self.seen["modes"]
        frozen = self.named | self.earlier
        return [
            name
            for name in modes
            if not _under(name, self.layers)
            and modes[name] == (self.kind == EVALUATION)
            and not self._all_frozen(name, frozen)
        ]

    def _all_frozen(self, module: str, frozen: set[str]) -> bool:
        inside = {name for name in self.parameters if not module or _under(name, [module])}
        return bool(inside) and inside <= frozen


def _freezing(case: Case, seen: Observation) -> Freezing | None:
    """None when the answer stopped, or refused."""
    if seen.error or _raised(seen):
        return None
    return Freezing(case.kind, case.arguments["layers"], case.arguments["before"], seen.output)


def _about_freezing(name: str, points: float, test: Callable, kinds=()) -> Property:
    """A property of what was frozen: test(freezing) -> Failure or None."""

    def whole_test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        return test(_freezing(case, observed))

    return Property(name, points, whole_test, kinds=kinds)


def _some(names: Iterable[str]) -> str:
    """The first of many names, and how many more there are."""
    names = list(names)
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _in_order(freezing: Freezing, names: set[str]) -> list[str]:
    return [name for name in freezing.seen["parameters"] if name in names]


def _test_named(freezing: Freezing) -> Failure | None:
    if not freezing.missing:
        return None
    which = _some(_in_order(freezing, freezing.missing))
    return Failure("all parameters of the layers frozen", f"still trainable: {which}")


def _test_rest(freezing: Freezing) -> Failure | None:
    if freezing.extra:
        which = _some(_in_order(freezing, freezing.extra))
        return Failure("nothing else frozen", f"frozen: {which}")
    if freezing.seen["rewritten"]:
        got = f"other values: {_some(freezing.seen['rewritten'])}"
        return Failure("weights and statistics as they were", got)
    return None


def _test_earlier(freezing: Freezing) -> Failure | None:
    thawed = freezing.earlier - freezing.frozen
    if not thawed:
        return None
    which = _some(_in_order(freezing, thawed))
    return Failure("what was frozen stays frozen", f"trainable again: {which}")


def _test_modes(freezing: Freezing) -> Failure | None:
    if freezing.still_training:
        noisy = [name for name in freezing.still_training if name in freezing.seen["noisy"]]
        got = f"in training mode: {_some(noisy or freezing.still_training)}"
        return Failure("the layers in evaluation mode", got)
    if freezing.other_mode:
        mode = "training" if freezing.kind == EVALUATION else "evaluation"
        named = [name for name in freezing.other_mode if name in freezing.seen["noisy"]]
        got = f"in {mode} mode: {_some(named or [n or 'the model' for n in freezing.other_mode])}"
        return Failure("the other modules in the mode in which they came", got)
    return None


def _test_left(freezing: Freezing) -> Failure | None:
    seen = freezing.seen
    if seen["malformed"]:
        return Failure("a list of parameters", seen["malformed"])
    if seen["strangers"]:
        got = f"{seen['strangers']} tensors that are not"
        return Failure("the model's own parameters", got)
    returned = seen["returned"]
    handed_over = _in_order(freezing, freezing.frozen & set(returned))
    if handed_over:
        moves = handed_over[0] in seen["moved"]
        note = "; weight decay moves it" if moves and len(handed_over) == 1 else ""
        note = "; weight decay moves them" if moves and len(handed_over) > 1 else note
        return Failure("no frozen parameter returned", f"{_some(handed_over)}{note}")
    forgotten = _in_order(freezing, freezing.parameters - freezing.frozen - set(returned))
    if forgotten:
        return Failure("every trainable parameter returned", f"missing: {_some(forgotten)}")
    twice = [name for name in dict.fromkeys(returned) if returned.count(name) > 1]
    return Failure("every parameter once", f"twice: {_some(twice)}") if twice else None


def _test_unknown(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    return None if _raised(observed) else Failure("an error for a name that is none", "no error")


LEFT = "parameters left to train"
freeze = Exercise(
    name="freeze",
    reference=freezing.freeze,
    cases=_freeze_cases,
    hidden_cases=_hidden_freeze_cases,
    properties=(
        _about_freezing("what is named", 1, _test_named, (PLAIN,)),
        _about_freezing("the rest", 1, _test_rest, (PLAIN, NO_LAYERS)),
        _about_freezing("frozen before", 0.5, _test_earlier, (BEFORE,)),
        _about_freezing("mode", 1, _test_modes, (PLAIN, EVALUATION)),
        _about_freezing(LEFT, 1, _test_left, (PLAIN, BEFORE, TIED, NO_LAYERS)),
        Property("unknown names", 0.5, _test_unknown, kinds=(UNKNOWN,)),
    ),
    observe=_observe_freeze,
)


def _freezing_mistake(sentence: str, why: str, look_at: str, when: Callable, fails: str):
    """A mistake that shows in what was done to the models: when(freezings) -> bool."""

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        pairs = [p for p in zip(cases, observations, strict=True) if p[0].kind != UNKNOWN]
        done = [_freezing(*pair) for pair in pairs]
        return None not in done and when(done)

    return freeze.mistake(sentence, why, look_at, recognise, fails)


def _where(done: Sequence[Freezing], asked: Callable, holds: Callable) -> bool:
    """Whether something holds wherever it can be asked, and it can be asked somewhere."""
    chosen = [freezing for freezing in done if asked(freezing)]
    return bool(chosen) and all(holds(freezing) for freezing in chosen)


def _plain_ones(freezing: Freezing) -> bool:
    return freezing.kind == PLAIN


@_freezing_mistake(
    "nothing is frozen",
    why="the names in layers are of modules; those of parameters are longer, such as "
    '"embeddings.words.weight".',
    look_at="print one name of model.named_parameters() beside one of layers.",
    when=lambda done: _where(done, _plain_ones, lambda f: f.missing == f.named and not f.extra),
    fails="what is named",
)
def freezes_nothing(model, layers):
    for name, parameter in model.named_parameters():
        if name in layers:
            parameter.requires_grad = False
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@_freezing_mistake(
    "the modules inside a frozen one still train",
    why="a block has hardly any parameters of its own; they are in its parts, and in their parts.",
    look_at="which parameters does your code reach that lie two levels below a named module?",
    when=lambda done: _where(
        done, _plain_ones, lambda f: f.missing == {n for n in f.named if not _is_own(f, n)}
    ),
    fails="what is named",
)
def freezes_own_parameters_only(model, layers):
    for layer in layers:
        module = model.get_submodule(layer)
        module.eval()
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad = False
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _is_own(freezing: Freezing, name: str) -> bool:
    """Whether a parameter belongs to a named module itself, and to no module inside it."""
    return name.rpartition(".")[0] in freezing.layers


@_freezing_mistake(
    "the biases of the frozen layers still train",
    why="a layer whose biases move does not compute what it computed before.",
    look_at="which parameters of a named module does your code leave out?",
    when=lambda done: _where(
        done,
        _plain_ones,
        lambda f: f.missing == {n for n in f.named if n.endswith("bias")} and not f.extra,
    ),
    fails="what is named",
)
def leaves_the_biases(model, layers):
    for layer in layers:
        module = model.get_submodule(layer)
        module.eval()
        for part in module.modules():
            if hasattr(part, "weight"):
                part.weight.requires_grad = False
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@_freezing_mistake(
    "it is the wrong way round: the named layers train, and all others are frozen",
    why="layers are those to freeze; what has to learn is the rest, the new head above all.",
    look_at="for which parameters is your condition true?",
    when=lambda done: _where(
        done, _plain_ones, lambda f: f.missing == f.named and f.extra == f.parameters - f.named
    ),
    fails="what is named",
)
def freezes_the_others(model, layers):
    for layer in layers:
        model.get_submodule(layer).eval()
    for name, parameter in model.named_parameters():
        inside = any(name.startswith(layer + ".") for layer in layers)
        parameter.requires_grad = inside
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@_freezing_mistake(
    "everything is frozen, the new head as well",
    why="the head starts from random weights. If it cannot learn, nothing can.",
    look_at="which parameters does your loop go over, and which of them belong to layers?",
    when=lambda done: _where(done, _plain_ones, lambda f: f.frozen == f.parameters),
    fails="the rest",
)
def freezes_the_head_too(model, layers):
    for layer in layers:
        model.get_submodule(layer).eval()
    for parameter in model.parameters():
        parameter.requires_grad = False
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@_freezing_mistake(
    "everything but the head is frozen, whatever layers says",
    why="that is a linear probe. Which other layers stay free is for the caller to say.",
    look_at="where in your code does layers appear?",
    when=lambda done: _where(
        done,
        _plain_ones,
        lambda f: f.parameters - f.frozen == {n for n in f.parameters if _under(n, [HEAD])},
    ),
    fails="the rest",
)
def freezes_all_but_the_head(model, layers):
    for name, parameter in model.named_parameters():
        if not name.startswith("classifier"):
            parameter.requires_grad = False
    for layer in layers:
        model.get_submodule(layer).eval()
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _begins_like(freezing: Freezing) -> set[str]:
    """Parameters outside the layers whose names begin like one of them."""
    others = freezing.parameters - freezing.named - freezing.earlier
    return {name for name in others if name.startswith(tuple(freezing.layers))}


def _holds_a_layer(freezing: Freezing) -> set[str]:
    """Parameters outside the layers with one of their names somewhere in their own."""
    others = freezing.parameters - freezing.named - freezing.earlier
    return {name for name in others if any(layer in name for layer in freezing.layers)}


@_freezing_mistake(
    '"encoder.layer.1" is also the beginning of "encoder.layer.10" and "encoder.layer.11"',
    why="with more than ten blocks, some at the top are frozen that should train.",
    look_at="what follows the number of the block in a parameter's name?",
    when=lambda done: (
        any(f.extra for f in done if f.kind == PLAIN)
        and _where(done, _plain_ones, lambda f: f.extra == _begins_like(f))
    ),
    fails="the rest",
)
def takes_layer_10_for_1(model, layers):
    for layer in layers:
        model.get_submodule(layer).eval()
    for name, parameter in model.named_parameters():
        if any(name.startswith(layer) for layer in layers):
            parameter.requires_grad = False
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@_freezing_mistake(
    'the names are looked for anywhere: "layer.1" is in "layer.10", "norm" in "layer.0.norm"',
    why="parts of other layers are frozen that should train.",
    look_at="where in a parameter's name must its layer stand, and what comes after it?",
    when=lambda done: (
        any(f.extra - _begins_like(f) for f in done if f.kind == PLAIN)
        and _where(done, _plain_ones, lambda f: f.extra == _holds_a_layer(f))
    ),
    fails="the rest",
)
def finds_names_anywhere(model, layers):
    for layer in layers:
        model.get_submodule(layer).eval()
    for name, parameter in model.named_parameters():
        if any(layer in name for layer in layers):
            parameter.requires_grad = False
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@_freezing_mistake(
    "what was frozen before trains again",
    why="whoever froze it had a reason; freezing one more layer must not thaw the others.",
    look_at="which value does requires_grad get for a parameter that is in none of the layers?",
    when=lambda done: _where(
        done,
        lambda f: f.kind == BEFORE and bool(f.earlier - f.named),
        lambda f: bool(f.earlier - f.frozen),
    ),
    fails="frozen before",
)
def thaws_the_others(model, layers):
    for layer in layers:
        model.get_submodule(layer).eval()
    for name, parameter in model.named_parameters():
        inside = any(name.startswith(layer + ".") for layer in layers)
        parameter.requires_grad = not inside
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@_freezing_mistake(
    "dropout and batch statistics of the frozen part stay in training mode",
    why="requires_grad is for the optimiser. Dropout still drops, and BatchNorm still moves its "
    "running statistics, so the frozen part gives another output every time.",
    look_at="what, besides the weights, decides what a block with Dropout and BatchNorm computes?",
    when=lambda done: _where(
        done, _plain_ones, lambda f: any(name in f.seen["noisy"] for name in f.still_training)
    ),
    fails="mode",
)
def stays_in_training_mode(model, layers):
    for layer in layers:
        model.get_submodule(layer).requires_grad_(False)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@_freezing_mistake(
    "the whole model is in evaluation mode, the part that learns as well",
    why="what still trains loses its dropout, and with few labels it needs that most.",
    look_at="on which module do you call eval()?",
    when=lambda done: _where(
        done, _plain_ones, lambda f: not f.still_training and "" in f.other_mode
    ),
    fails="mode",
)
def whole_model_in_evaluation_mode(model, layers):
    for layer in layers:
        model.get_submodule(layer).requires_grad_(False)
    model.eval()
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@_freezing_mistake(
    "a model that comes in evaluation mode is put into training mode",
    why="freezing is no reason to start training; the rest of the model stays as it came.",
    look_at="which of your lines changes the mode of a module that is not in layers?",
    when=lambda done: (
        _where(done, lambda f: f.kind == EVALUATION, lambda f: "" in f.other_mode)
        and _where(done, _plain_ones, lambda f: not f.other_mode)
    ),
    fails="mode",
)
def wakes_the_model(model, layers):
    model.train()
    for layer in layers:
        model.get_submodule(layer).requires_grad_(False).eval()
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@_freezing_mistake(
    "frozen parameters are returned too, and an optimiser that gets them may move them",
    why="weight decay pulls on every parameter that has a gradient, and a gradient of 0 from an "
    "earlier step is enough.",
    look_at="when do you collect what you return, and does requires_grad have a say in it?",
    when=lambda done: (
        _where(done, _plain_ones, lambda f: f.named <= set(f.seen["returned"]) or not f.named)
        and all(f.parameters - f.frozen <= set(f.seen["returned"]) for f in done)
    ),
    fails=LEFT,
)
def hands_over_frozen(model, layers):
    for layer in layers:
        model.get_submodule(layer).requires_grad_(False).eval()
    return list(model.parameters())


def _hands_over(freezing: Freezing) -> bool:
    """Whether all that is left to train comes back, and something frozen with it."""
    returned = set(freezing.seen["returned"])
    return freezing.parameters - freezing.frozen <= returned and bool(freezing.frozen & returned)


@_freezing_mistake(
    "what was frozen before is returned as well",
    why="it is not left to train either, and an optimiser with weight decay may move it.",
    look_at="do you ask a parameter whether it is trainable, or only whether its layer is named?",
    when=lambda done: (
        _where(done, lambda f: f.kind == BEFORE, _hands_over)
        and not any(_hands_over(f) for f in done if f.kind == PLAIN)
    ),
    fails=LEFT,
)
def returns_what_was_frozen_before(model, layers):
    for layer in layers:
        model.get_submodule(layer).requires_grad_(False).eval()
    return [
        parameter
        for name, parameter in model.named_parameters()
        if not any(name.startswith(layer + ".") for layer in layers)
    ]


@_freezing_mistake(
    "a tied weight is returned though it is frozen: it belongs to a layer that trains, too",
    why="it is one tensor in two modules, so frozen in one place it is frozen in the other.",
    look_at="do you ask the parameter whether it is trainable, and after all freezing is done?",
    when=lambda done: (
        _where(done, lambda f: f.kind == TIED, _hands_over)
        and not any(_hands_over(f) for f in done if f.kind != TIED)
    ),
    fails=LEFT,
)
def returns_a_tied_weight(model, layers):
    left = []
    for name, module in model.named_modules():
        if not any(f"{name}.".startswith(f"{layer}.") for layer in layers):
            left += [p for p in module.parameters(recurse=False) if p.requires_grad]
    for layer in layers:
        model.get_submodule(layer).requires_grad_(False).eval()
    return left


@_freezing_mistake(
    "the frozen parameters are returned, not those left to train",
    why="what comes back is for the optimiser, which should get what may move.",
    look_at="which parameters does the docstring want back?",
    when=lambda done: _where(
        done, _plain_ones, lambda f: set(f.seen["returned"]) == f.frozen and bool(f.frozen)
    ),
    fails=LEFT,
)
def returns_the_frozen(model, layers):
    for layer in layers:
        model.get_submodule(layer).requires_grad_(False).eval()
    return [parameter for parameter in model.parameters() if not parameter.requires_grad]


@_freezing_mistake(
    "names are returned, and an optimiser wants the parameters themselves",
    why="torch.optim.AdamW cannot look up a name.",
    look_at="the two things that model.named_parameters() gives you in each round.",
    when=lambda done: _where(
        done, _plain_ones, lambda f: f.seen["malformed"] == "a list of strings"
    ),
    fails=LEFT,
)
def returns_names(model, layers):
    for layer in layers:
        model.get_submodule(layer).requires_grad_(False).eval()
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@_freezing_mistake(
    "copies of the parameters are returned",
    why="an optimiser that gets copies moves the copies, and the model stays as it is.",
    look_at="what makes a new tensor out of each parameter on its way into your list?",
    when=lambda done: _where(
        done, _plain_ones, lambda f: f.seen["strangers"] > 0 and not f.seen["returned"]
    ),
    fails=LEFT,
)
def returns_copies(model, layers):
    for layer in layers:
        model.get_submodule(layer).requires_grad_(False).eval()
    return [p.detach().clone() for p in model.parameters() if p.requires_grad]


@freeze.mistake(
    "a name that is no module of the model is passed over in silence",
    why='with a typo such as "encoder.layers.0" nothing is frozen, and nobody notices.',
    look_at="what does your code do with a name in layers that matches nothing?",
    recognise=lambda cases, observations: all(
        not seen.error and not _raised(seen)
        for case, seen in zip(cases, observations, strict=True)
        if case.kind == UNKNOWN
    ),
    fails="unknown names",
)
def ignores_unknown_names(model, layers):
    for name, module in model.named_modules():
        if name in layers:
            module.requires_grad_(False).eval()
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


# layers_to_train

FIRST, LATER, COMPLETE, PAST = "first epoch", "later", "complete", "past the end"
ONE_BLOCK = "later, one block"


def _unfreezing_case(epoch: int, depth: int) -> Case:
    """kind: how far unfreezing has come; complete is the epoch that reaches the embeddings."""
    kind = FIRST if epoch == 0 else LATER if epoch <= depth else PAST
    kind = COMPLETE if epoch == depth + 1 else kind
    kind = ONE_BLOCK if kind == LATER and depth == 1 else kind
    return Case(kind, {"epoch": epoch, "num_layers": depth})


def _unfreezing_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    depth = _whole(generator, 3, 5)
    return [
        *(_unfreezing_case(epoch, depth) for epoch in range(depth + 4)),
        _unfreezing_case(0, 12),
        _unfreezing_case(_whole(generator, 2, 11), 12),
    ]


def _hidden_unfreezing_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    depth = _whole(generator, 6, 11)
    return [
        *(_unfreezing_case(epoch, 1) for epoch in range(4)),
        *(_unfreezing_case(epoch, 2) for epoch in range(6)),
        *(_unfreezing_case(epoch, depth) for epoch in range(depth + 3)),
        _unfreezing_case(1000, 24),
    ]


def _observe_layers(answer, case, forbidden=frozenset()) -> Observation:
    """Like `observe_call`, but a range and a row of whole numbers are lists."""

    def steps(arguments):
        back = answer(*arguments.values())
        if isinstance(back, torch.Tensor | np.ndarray) and back.ndim == 1:
            return back.tolist()
        if isinstance(back, list | tuple | range):
            return [_entry(item) for item in back]
        return back

    return observe_steps(steps, answer, case, forbidden)


def _entry(item):
    """A tensor of one whole number as that number; anything else as it is."""
    single = isinstance(item, torch.Tensor) and item.numel() == 1
    return item.item() if single else item


def _as_layers(output) -> list[int] | None:
    """The layers of an answer; None when they are not a list of whole numbers."""
    if not isinstance(output, list):
        return None
    whole = all(isinstance(layer, int) and not isinstance(layer, bool) for layer in output)
    return output if whole else None


def _test_layers_shape(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    layers = _as_layers(observed.output)
    if layers is None:
        got = observed.output
        kinds = {type(entry).__name__ for entry in got} if isinstance(got, list) else set()
        shown = f"a list with entries of type {min(kinds)}" if kinds else describe(got)
        return Failure("a list of whole numbers", shown)
    return None


def _test_layers(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    failure = _test_layers_shape(case, observed, expected)
    if failure:
        return failure
    got = observed.output
    return None if got == expected.output else Failure(_row(expected.output), _row(got))


def _row(layers: Sequence[int]) -> str:
    shown = ", ".join(map(str, layers[:8]))
    return f"[{shown}, ... ({len(layers)})]" if len(layers) > 8 else f"[{shown}]"


layers_to_train = Exercise(
    name="layers_to_train",
    reference=freezing.layers_to_train,
    cases=_unfreezing_cases,
    hidden_cases=_hidden_unfreezing_cases,
    properties=(
        Property("a list", 0.5, _test_layers_shape, kinds=(FIRST, LATER)),
        Property("the first epoch", 0.5, _test_layers, kinds=(FIRST,)),
        Property("one more every epoch", 1, _test_layers, kinds=(LATER, ONE_BLOCK)),
        Property("down to the embeddings", 0.5, _test_layers, kinds=(COMPLETE,)),
        Property("past the end", 0.5, _test_layers, kinds=(PAST,)),
    ),
    observe=_observe_layers,
)


def _unfreezing_mistake(sentence: str, why: str, look_at: str, rule: Callable, kinds=()):
    """A mistake that follows a rule, (epoch, depth) -> layers, in all cases of these kinds."""

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        return all(
            not seen.error and _as_layers(seen.output) == list(rule(*case.arguments.values()))
            for case, seen in zip(cases, observations, strict=True)
            if not kinds or case.kind in kinds
        )

    return layers_to_train.mistake(sentence, why, look_at, recognise)


@_unfreezing_mistake(
    "it unfreezes from the bottom up",
    why="the head is new and has to learn first; the embeddings are the most general of all.",
    look_at="which number has the head, and is it in your list for epoch 0?",
    rule=lambda epoch, depth: range(min(epoch + 1, depth + 2)),
    kinds=(FIRST, LATER),
)
def bottom_up(epoch, num_layers):
    return list(range(min(epoch + 1, num_layers + 2)))


@_unfreezing_mistake(
    "all layers train from the first epoch on",
    why="the gradients of the random head then reach every layer at once.",
    look_at="where in your code does epoch appear?",
    rule=lambda epoch, depth: range(depth + 2),
)
def all_at_once(epoch, num_layers):
    return list(range(num_layers + 2))


@_unfreezing_mistake(
    "after the head, all layers are unfrozen at once",
    why="gradual means one more in every epoch, from the top down.",
    look_at="how many layers does your list have in epoch 1, and how many should it have?",
    rule=lambda epoch, depth: range(depth + 2) if epoch else [depth + 1],
)
def head_then_all(epoch, num_layers):
    if epoch == 0:
        return [num_layers + 1]
    return list(range(num_layers + 2))


@_unfreezing_mistake(
    "the embeddings are never reached",
    why="they are layer 0, below the first block, and are unfrozen last.",
    look_at="the smallest number in your list after very many epochs.",
    rule=lambda epoch, depth: range(max(depth + 1 - epoch, 1), depth + 2),
)
def never_reaches_the_embeddings(epoch, num_layers):
    return list(range(max(num_layers + 1 - epoch, 1), num_layers + 2))


@_unfreezing_mistake(
    "epoch 0 is one layer short: nothing trains in it",
    why="the first epoch has the number 0, and the head trains in it already.",
    look_at="your list for epoch 0.",
    rule=lambda epoch, depth: range(max(depth + 2 - epoch, 0), depth + 2),
    kinds=(FIRST, LATER),
)
def nothing_in_epoch_0(epoch, num_layers):
    return list(range(max(num_layers + 2 - epoch, 0), num_layers + 2))


@_unfreezing_mistake(
    "epoch 0 is one layer ahead: the top block trains with the head already",
    why="the head should have an epoch to itself, to stop being random.",
    look_at="your list for epoch 0; how many layers should it have?",
    rule=lambda epoch, depth: range(max(depth - epoch, 0), depth + 2),
    kinds=(FIRST, LATER),
)
def two_in_epoch_0(epoch, num_layers):
    return list(range(max(num_layers - epoch, 0), num_layers + 2))


@_unfreezing_mistake(
    "only the newest layer trains, and those above it are frozen again",
    why="gradual unfreezing adds layers; what trains once goes on training.",
    look_at="how many layers train in epoch 1?",
    rule=lambda epoch, depth: [max(depth + 1 - epoch, 0)],
    kinds=(FIRST, LATER),
)
def only_the_newest(epoch, num_layers):
    return [max(num_layers + 1 - epoch, 0)]


@_unfreezing_mistake(
    "the list has negative numbers once everything is unfrozen",
    why="there are no layers below the embeddings, which are number 0.",
    look_at="the smallest number in your list after very many epochs.",
    rule=lambda epoch, depth: range(depth + 1 - epoch, depth + 2),
)
def below_the_embeddings(epoch, num_layers):
    return list(range(num_layers + 1 - epoch, num_layers + 2))


@_unfreezing_mistake(
    "a negative index counts from the end, so after the last layer most are frozen again",
    why="training goes on after everything is unfrozen, and then all layers train.",
    look_at="where does your slice begin when epoch is larger than num_layers + 1?",
    rule=lambda epoch, depth: list(range(depth + 2))[depth + 1 - epoch :],
)
def slice_from_the_end(epoch, num_layers):
    return list(range(num_layers + 2))[num_layers + 1 - epoch :]


@_unfreezing_mistake(
    "the head is not in the list",
    why="it is number num_layers + 1, and a range ends before its second argument.",
    look_at="the largest number in your list.",
    rule=lambda epoch, depth: range(max(depth + 1 - epoch, 0), depth + 1),
    kinds=(FIRST, LATER),
)
def head_left_out(epoch, num_layers):
    return list(range(max(num_layers + 1 - epoch, 0), num_layers + 1))


@_unfreezing_mistake(
    "the head has the number of the top block",
    why="0 is the embeddings and the blocks are 1 to num_layers, so the head comes behind them.",
    look_at="for one block: how many layers are there, and which numbers do they have?",
    rule=lambda epoch, depth: range(max(depth - epoch, 0), depth + 1),
    kinds=(FIRST, LATER),
)
def head_numbered_like_a_block(epoch, num_layers):
    return list(range(max(num_layers - epoch, 0), num_layers + 1))


@_unfreezing_mistake(
    "the list begins with the head",
    why="the layers are wanted with the lowest first, as in all lists of layers of this course.",
    look_at="in which order does the docstring ask for them?",
    rule=lambda epoch, depth: range(depth + 1, max(depth + 1 - epoch, 0) - 1, -1),
    kinds=(FIRST, LATER),
)
def head_first(epoch, num_layers):
    return list(range(num_layers + 1, max(num_layers + 1 - epoch, 0) - 1, -1))


# linear_probe: the encoder scales its inputs, and has moving statistics and dropout.

UNITS = 6  # features of most cases; class k lies in the direction of feature k
APART = 3.0  # distance of a class from the origin, in standard deviations of its features
TOLERANCE = 0.06  # of an accuracy: other solvers, other held-out parts, one fit more or less
AWAKE, ASLEEP, DEAD = "encoder in training mode", "encoder in evaluation mode", "dead unit"
SHARES, SCALES, OUTLIER, ONE_TEST = "other shares", "scales", "outlier", "one test example"
WRONG_TEST, NOISY, MIDDLE, ONE_C = (
    "wrong test labels", "noisy training labels", "the middle is best", "one choice",
)  # fmt: skip
CHOICES = (WRONG_TEST, NOISY, MIDDLE, ONE_C)
STANDARDISED = (SHARES, SCALES, OUTLIER, ONE_TEST)
BAD, GOOD = 1e-4, 1.0  # values of C; the bad one leaves nothing but the largest class


def _draw(generator: torch.Generator, counts: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """So many examples of each class, in random order: (N, UNITS) and (N,)."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=generator)]
    inputs = torch.randn(len(labels), UNITS, generator=generator)
    return inputs + APART * F.one_hot(labels, UNITS), labels


def _noisy_draw(generator: torch.Generator, number: int, wrong: float, units: int = 150):
    """Two classes told apart by many weak features; a share of the labels is wrong."""
    labels = torch.arange(number) % 2
    labels = labels[torch.randperm(number, generator=generator)]
    inputs = torch.randn(number, units, generator=generator) + (labels - 0.5).unsqueeze(1)
    for label in (0, 1):
        members = (labels == label).nonzero().flatten()
        chosen = members[torch.randperm(len(members), generator=generator)]
        labels = labels.index_put((chosen[: round(wrong * len(members))],), torch.tensor(2 + label))
    return inputs, torch.where(labels >= 2, 3 - labels, labels)


def _relabelled(generator: torch.Generator, examples, share: float):
    """The same examples, a share of them with the label of the next class.

    So no two cases have the same accuracy, and a number that is made up fits none of them.
    """
    inputs, labels = examples
    changed = torch.rand(len(labels), generator=generator) < share
    return inputs, torch.where(changed, (labels + 1) % (int(labels.max()) + 1), labels)


def _probe_case(kind, train, test, choices, scale=None, text=""):
    arguments = {
        "train_inputs": train[0],
        "train_labels": train[1],
        "test_inputs": test[0],
        "test_labels": test[1],
        "Cs": list(choices),
        "scale": torch.ones(train[0].shape[1]) if scale is None else scale,
    }
    number_of = f"{len(train[0])} training and {len(test[0])} test examples"
    listed = ", ".join(map(number, choices))
    text = f"; {text}" if text else ""
    return Case(kind, arguments, text=f"{number_of}, Cs [{listed}]{text}")


def _probe_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    size = _whole(generator, 8, 12)
    train = _draw(generator, (8 * size, 5 * size, 3 * size))
    test = _draw(generator, (90, 60, 50))
    dead = torch.ones(UNITS)
    dead[UNITS - 1] = 0
    return [
        _probe_case(AWAKE, train, test, (0.5, 2.0)),
        _probe_case(ASLEEP, train, test, (1.0,), text="the encoder in evaluation mode"),
        _probe_case(
            DEAD, train, _relabelled(generator, test, 0.3), (1.0,), dead, "one feature is always 0"
        ),
        *_standardised_cases(generator, train),
        *_choice_cases(generator, train, test),
    ]


def _standardised_cases(generator, train):
    scale = torch.tensor([1e-3, 1e-3, 1e-3, 10.0, 100.0, 1.0])
    test = _relabelled(generator, _draw(generator, (70, 70, 60)), 0.2)
    outlier = test[0].index_put((torch.tensor(3),), torch.tensor(1e6))
    few = _relabelled(generator, _draw(generator, (0, 30, 170)), 0.4)
    return [
        _probe_case(SHARES, train, few, (1.0,), text="other shares of the classes in the test set"),
        _probe_case(SCALES, train, test, (1.0,), scale, "features of very different size"),
        _probe_case(OUTLIER, train, (outlier, test[1]), (1.0,), text="an outlier in the test set"),
    ]


def _choice_cases(generator, train, test):
    inputs, labels = _draw(generator, (100, 100))
    wrong = inputs, torch.zeros_like(labels)
    noisy, clean = _noisy_draw(generator, 400, 0.2), _noisy_draw(generator, 200, 0.0)
    noise = "a fifth of the training labels is wrong"
    half = "half of the test labels are wrong"
    return [
        _probe_case(MIDDLE, train, test, (BAD, GOOD, BAD / 10)),
        _probe_case(WRONG_TEST, train, wrong, (GOOD, BAD), text=half),
        _probe_case(ONE_C, train, test, (BAD,)),
        _probe_case(NOISY, noisy, clean, (GOOD, 1e-3), text=noise),
    ]


def _hidden_probe_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    size = _whole(generator, 40, 60)
    train, test = _draw(generator, (2 * size, size)), _draw(generator, (140, 70))
    dead = torch.ones(UNITS)
    dead[UNITS - 2 :] = 0
    one = APART * F.one_hot(torch.tensor([1]), UNITS).float(), torch.tensor([1])
    shares = "other shares of the classes in the test set"
    return [
        _probe_case(AWAKE, train, _relabelled(generator, test, 0.25), (1.0, 0.5)),
        _probe_case(DEAD, train, _relabelled(generator, test, 0.4), (2.0,), dead),
        _probe_case(ONE_TEST, train, one, (1.0,)),
        _probe_case(SHARES, train, _draw(generator, (10, 200)), (2.0, 1.0), text=shares),
        _probe_case(MIDDLE, train, test, (1e-5, 2.0, 1e-6)),
    ]


class _Features(nn.Module):
    """An encoder that notes for every call whether its dropout was on, also of a copy."""

    def __init__(self, scale: torch.Tensor, note: Callable[[bool], None]):
        super().__init__()
        self.norm = nn.BatchNorm1d(len(scale))
        self.dropout = nn.Dropout(0.5)
        self.norm.weight.data.copy_(scale)
        self.note = note

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:  # (N, d) -> (N, d)
        self.note(self.dropout.training or self.norm.training)
        return self.dropout(self.norm(inputs))


def _observe_probe(answer, case, forbidden=frozenset()) -> Observation:
    """Record the accuracy, and what happened to the encoder.

    The output has `result`, `awake` (for every call of the encoder, whether dropout or batch
    statistics were on), `changed` (weights and statistics), and `training` (the mode in the end).
    """
    calls: list[bool] = []
    encoder = _Features(case.arguments["scale"], lambda awake: calls.append(awake))
    encoder.train(case.kind != ASLEEP)

    def steps(arguments):
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        given = [value for name, value in arguments.items() if name != "scale"]
        result = answer(encoder, *given)
        after = encoder.state_dict()
        return {
            "result": result,
            "awake": calls,
            "changed": [name for name, value in before.items() if not value.equal(after[name])],
            "training": [module.training for module in encoder.modules()],
        }

    return observe_steps(steps, answer, case, forbidden)


def _reference_probe(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    """`freezing.linear_probe` with the best of Cs on a held-out quarter of the training set."""
    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        train, test = encoder(train_inputs), encoder(test_inputs)
    encoder.train(training)
    held_out = len(train) // 4

    def held_out_accuracy(C):
        fitted_on = train[held_out:], train_labels[held_out:]
        return freezing.linear_probe(
            *fitted_on, train[:held_out], train_labels[:held_out], regularisation=1 / C
        )

    best = max(Cs, key=held_out_accuracy) if len(Cs) > 1 else Cs[0]
    return freezing.linear_probe(train, train_labels, test, test_labels, regularisation=1 / best)


def _accuracy(seen: Observation) -> float | None:
    """The accuracy that came back; None for what is no number."""
    result = seen.output["result"]
    if isinstance(result, torch.Tensor):
        return float(result) if result.numel() == 1 and not result.is_complex() else None
    if isinstance(result, bool) or not isinstance(result, int | float):
        return None
    return float(result)


def _test_number(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    got, wanted = _accuracy(observed), _accuracy(expected)
    if got is None:
        return Failure("a number", describe(observed.output["result"]))
    # An answer with another flaw, such as dropout, is still an accuracy; a percentage is not.
    return None if abs(got - wanted) < 0.4 else Failure(f"about {wanted:.2f}", number(got))


def _test_accuracy(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    got, wanted = _accuracy(observed), _accuracy(expected)
    if got is None:
        return Failure("a number", describe(observed.output["result"]))
    return None if abs(got - wanted) <= TOLERANCE else Failure(f"about {wanted:.2f}", number(got))


def _test_features(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    awake = observed.output["awake"]
    if not awake:
        return Failure("features of the encoder", "the encoder is never called")
    if any(awake):
        got = f"on in {sum(awake)} of {len(awake)} calls of the encoder"
        return Failure("dropout and batch statistics off", got)
    return None


def _test_encoder(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    changed = observed.output["changed"]
    if changed:
        return Failure("the encoder as it was", f"changed: {', '.join(changed)}")
    if observed.output["training"] != expected.output["training"]:
        modes = {True: "training mode", False: "evaluation mode"}
        wanted = expected.output["training"][0]
        return Failure(f"the encoder in {modes[wanted]}, as it came", modes[not wanted])
    return None


linear_probe = Exercise(
    name="linear_probe",
    reference=_reference_probe,
    home=freezing,
    cases=_probe_cases,
    hidden_cases=_hidden_probe_cases,
    properties=(
        Property("a number", 0.5, _test_number, kinds=(AWAKE,)),
        Property("features", 1, _test_features, kinds=(AWAKE, ASLEEP)),
        Property("encoder left alone", 0.5, _test_encoder, kinds=(AWAKE, ASLEEP)),
        Property("accuracy", 0.5, _test_accuracy, kinds=(AWAKE, ASLEEP)),
        Property("dead unit", 0.5, _test_accuracy, kinds=(DEAD,)),
        Property("standardisation", 1, _test_accuracy, kinds=STANDARDISED),
        Property("choice of C", 1, _test_accuracy, kinds=CHOICES),
    ),
    observe=_observe_probe,
)


def _probe_mistake(sentence: str, why: str, look_at: str, fails: str, kinds: Sequence[str]):
    """A mistake whose accuracies an answer also has, in all cases of these kinds."""

    def add(wrong):
        def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
            return all(
                _nearly(seen, _observe_probe(wrong, case))
                for case, seen in zip(cases, observations, strict=True)
                if case.kind in kinds
            )

        return linear_probe.mistake(sentence, why, look_at, recognise, fails)(wrong)

    return add


def _nearly(seen: Observation, other: Observation) -> bool:
    if seen.error or other.error:
        return seen.error.partition(":")[0] == other.error.partition(":")[0]
    accuracies = _accuracy(seen), _accuracy(other)
    return None not in accuracies and abs(accuracies[0] - accuracies[1]) <= TOLERANCE


def _probe_log_mistake(sentence: str, why: str, look_at: str, fails: str, kind: str, when):
    """A mistake that shows in what happened to the encoder in cases of one kind."""

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        return all(
            not seen.error and when(seen.output)
            for case, seen in zip(cases, observations, strict=True)
            if case.kind == kind
        )

    return linear_probe.mistake(sentence, why, look_at, recognise, fails)


@_probe_mistake(
    "it returns per cent, not a share",
    why="an accuracy is between 0 and 1 everywhere in this course.",
    look_at="the largest number that can come out.",
    fails="a number",
    kinds=(AWAKE,),
)
def in_per_cent(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    from sklearn.linear_model import LogisticRegression

    encoder.eval()
    with torch.no_grad():
        train, test = encoder(train_inputs), encoder(test_inputs)
    mean, deviation = train.mean(dim=0), train.std(dim=0).clamp(min=1e-8)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    probe = LogisticRegression(C=Cs[0], max_iter=1000).fit(train, train_labels)
    return 100 * probe.score(test, test_labels)


@_probe_mistake(
    "it returns the share that is wrong",
    why="the accuracy is the share that is right; the two add up to 1.",
    look_at="is a large result good news?",
    fails="a number",
    kinds=(AWAKE,),
)
def error_rate(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    from sklearn.linear_model import LogisticRegression

    encoder.eval()
    with torch.no_grad():
        train, test = encoder(train_inputs), encoder(test_inputs)
    mean, deviation = train.mean(dim=0), train.std(dim=0).clamp(min=1e-8)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    probe = LogisticRegression(C=Cs[0], max_iter=1000).fit(train, train_labels)
    return (probe.predict(test) != test_labels.numpy()).mean()


@_probe_log_mistake(
    "the features are taken with dropout on",
    why="half of them are zero, other ones in every call, and the batch statistics of the encoder "
    "move while it is read.",
    look_at="in which mode is the encoder when you call it, for both sets?",
    fails="features",
    kind=AWAKE,
    when=lambda output: any(output["awake"]),
)
def dropout_on(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    from sklearn.linear_model import LogisticRegression

    with torch.no_grad():
        train, test = encoder(train_inputs), encoder(test_inputs)
    mean, deviation = train.mean(dim=0), train.std(dim=0).clamp(min=1e-8)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    part = len(train) // 4
    scores = []
    for C in Cs:
        probe = LogisticRegression(C=C, max_iter=1000).fit(train[part:], train_labels[part:])
        scores.append(probe.score(train[:part], train_labels[:part]))
    best = Cs[scores.index(max(scores))]
    probe = LogisticRegression(C=best, max_iter=1000).fit(train, train_labels)
    return probe.score(test, test_labels)


@_probe_log_mistake(
    "the encoder is never asked",
    why="a probe says what an encoder knows, so it has to be fitted on the encoder's features.",
    look_at="where in your code does encoder appear?",
    fails="features",
    kind=AWAKE,
    when=lambda output: not output["awake"],
)
def never_asks_the_encoder(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    from sklearn.linear_model import LogisticRegression

    mean, deviation = train_inputs.mean(dim=0), train_inputs.std(dim=0).clamp(min=1e-8)
    train, test = (train_inputs - mean) / deviation, (test_inputs - mean) / deviation
    probe = LogisticRegression(C=Cs[0], max_iter=1000).fit(train, train_labels)
    return probe.score(test, test_labels)


@_probe_log_mistake(
    "the encoder is trained along with the probe",
    why="then it is fine-tuning. A probe asks what the encoder knew before.",
    look_at="which parameters does your optimiser have, and may gradients reach the encoder?",
    fails="encoder left alone",
    kind=AWAKE,
    when=lambda output: {"norm.weight", "norm.bias"} & set(output["changed"]),
)
def trains_the_encoder(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    encoder.eval()
    classes = int(train_labels.max()) + 1
    head = torch.nn.Linear(train_inputs.shape[1], classes)
    parameters = [*encoder.parameters(), *head.parameters()]
    for _ in range(20):
        logits = head(encoder(train_inputs))
        loss = torch.nn.functional.cross_entropy(logits, train_labels)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.3 * gradient
    with torch.no_grad():
        found = head(encoder(test_inputs)).argmax(dim=1)
    encoder.train()
    return (found == test_labels).float().mean().item()


@_probe_log_mistake(
    "the encoder is left in evaluation mode",
    why="whoever goes on training it would do so without dropout, and not know why.",
    look_at="in which mode is the encoder when your function returns, and how did it come?",
    fails="encoder left alone",
    kind=AWAKE,
    when=lambda output: not any(output["training"]) and not output["changed"],
)
def left_in_evaluation_mode(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    from sklearn.linear_model import LogisticRegression

    encoder.eval()
    with torch.no_grad():
        train, test = encoder(train_inputs), encoder(test_inputs)
    mean, deviation = train.mean(dim=0), train.std(dim=0).clamp(min=1e-8)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    part = len(train) // 4
    scores = []
    for C in Cs:
        probe = LogisticRegression(C=C, max_iter=1000).fit(train[part:], train_labels[part:])
        scores.append(probe.score(train[:part], train_labels[:part]))
    best = Cs[scores.index(max(scores))]
    probe = LogisticRegression(C=best, max_iter=1000).fit(train, train_labels)
    return probe.score(test, test_labels)


@_probe_log_mistake(
    "an encoder that came in evaluation mode is left in training mode",
    why="its next user would get features with dropout, without having asked for training.",
    look_at="do you remember the mode in which the encoder came?",
    fails="encoder left alone",
    kind=ASLEEP,
    when=lambda output: any(output["training"]) and not output["changed"],
)
def always_put_into_training_mode(
    encoder, train_inputs, train_labels, test_inputs, test_labels, Cs
):
    from sklearn.linear_model import LogisticRegression

    encoder.eval()
    with torch.no_grad():
        train, test = encoder(train_inputs), encoder(test_inputs)
    encoder.train()
    mean, deviation = train.mean(dim=0), train.std(dim=0).clamp(min=1e-8)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    part = len(train) // 4
    scores = []
    for C in Cs:
        probe = LogisticRegression(C=C, max_iter=1000).fit(train[part:], train_labels[part:])
        scores.append(probe.score(train[:part], train_labels[:part]))
    best = Cs[scores.index(max(scores))]
    probe = LogisticRegression(C=best, max_iter=1000).fit(train, train_labels)
    return probe.score(test, test_labels)


@_probe_mistake(
    "a feature that never varies makes everything NaN",
    why="its standard deviation is 0, and 0 divided by 0 is not a number. Dead units are common "
    "behind a ReLU.",
    look_at="what do you divide by, and can it be 0?",
    fails="dead unit",
    kinds=(DEAD,),
)
def divides_by_a_deviation_of_0(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    from sklearn.linear_model import LogisticRegression

    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        train, test = encoder(train_inputs), encoder(test_inputs)
    encoder.train(training)
    mean, deviation = train.mean(dim=0), train.std(dim=0)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    part = len(train) // 4
    scores = []
    for C in Cs:
        probe = LogisticRegression(C=C, max_iter=1000).fit(train[part:], train_labels[part:])
        scores.append(probe.score(train[:part], train_labels[:part]))
    best = Cs[scores.index(max(scores))]
    probe = LogisticRegression(C=best, max_iter=1000).fit(train, train_labels)
    return probe.score(test, test_labels)


@_probe_mistake(
    "the test set is standardised with its own mean and deviation",
    why="the probe learned on another scale; and the answer for one example would depend on which "
    "others are in the test set.",
    look_at="from which set come the mean and the deviation that you apply to test?",
    fails="standardisation",
    kinds=(SHARES,),
)
def standardises_with_the_test_set(
    encoder, train_inputs, train_labels, test_inputs, test_labels, Cs
):
    from sklearn.linear_model import LogisticRegression

    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        train, test = encoder(train_inputs), encoder(test_inputs)
    encoder.train(training)
    train = (train - train.mean(dim=0)) / train.std(dim=0).clamp(min=1e-8)
    test = (test - test.mean(dim=0)) / test.std(dim=0, correction=0).clamp(min=1e-8)
    part = len(train) // 4
    scores = []
    for C in Cs:
        probe = LogisticRegression(C=C, max_iter=1000).fit(train[part:], train_labels[part:])
        scores.append(probe.score(train[:part], train_labels[:part]))
    best = Cs[scores.index(max(scores))]
    probe = LogisticRegression(C=best, max_iter=1000).fit(train, train_labels)
    return probe.score(test, test_labels)


@_probe_mistake(
    "mean and deviation come from both sets together",
    why="the test set then has a say in how the probe is fitted. One outlier in it is enough to "
    "spoil the probe for all others.",
    look_at="which examples do the mean and the deviation know?",
    fails="standardisation",
    kinds=(OUTLIER, SHARES),
)
def standardises_with_both_sets(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    from sklearn.linear_model import LogisticRegression

    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        train, test = encoder(train_inputs), encoder(test_inputs)
    encoder.train(training)
    both = torch.cat([train, test])
    mean, deviation = both.mean(dim=0), both.std(dim=0).clamp(min=1e-8)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    part = len(train) // 4
    scores = []
    for C in Cs:
        probe = LogisticRegression(C=C, max_iter=1000).fit(train[part:], train_labels[part:])
        scores.append(probe.score(train[:part], train_labels[:part]))
    best = Cs[scores.index(max(scores))]
    probe = LogisticRegression(C=best, max_iter=1000).fit(train, train_labels)
    return probe.score(test, test_labels)


@_probe_mistake(
    "the features are not standardised",
    why="the penalty then weighs on the small features alone, however much they know.",
    look_at="what is the standard deviation of each feature that the probe gets?",
    fails="standardisation",
    kinds=(SCALES,),
)
def does_not_standardise(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    from sklearn.linear_model import LogisticRegression

    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        train, test = encoder(train_inputs), encoder(test_inputs)
    encoder.train(training)
    part = len(train) // 4
    scores = []
    for C in Cs:
        probe = LogisticRegression(C=C, max_iter=1000).fit(train[part:], train_labels[part:])
        scores.append(probe.score(train[:part], train_labels[:part]))
    best = Cs[scores.index(max(scores))]
    probe = LogisticRegression(C=best, max_iter=1000).fit(train, train_labels)
    return probe.score(test, test_labels)


@_probe_mistake(
    "C is chosen on the test set",
    why="the test accuracy is then the best of several tries, and promises more than a new example "
    "will get.",
    look_at="which labels decide which C is taken?",
    fails="choice of C",
    kinds=CHOICES,
)
def tunes_on_the_test_set(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    from sklearn.linear_model import LogisticRegression

    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        train, test = encoder(train_inputs), encoder(test_inputs)
    encoder.train(training)
    mean, deviation = train.mean(dim=0), train.std(dim=0).clamp(min=1e-8)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    probes = [LogisticRegression(C=C, max_iter=1000).fit(train, train_labels) for C in Cs]
    return max(probe.score(test, test_labels) for probe in probes)


@_probe_mistake(
    "C is chosen on the examples that the probe was fitted on",
    why="there the weakest penalty looks best: it also learns the labels that are wrong.",
    look_at="are the examples that decide about C among those of the fit?",
    fails="choice of C",
    kinds=CHOICES,
)
def tunes_on_the_training_set(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    from sklearn.linear_model import LogisticRegression

    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        train, test = encoder(train_inputs), encoder(test_inputs)
    encoder.train(training)
    mean, deviation = train.mean(dim=0), train.std(dim=0).clamp(min=1e-8)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    probes = [LogisticRegression(C=C, max_iter=1000).fit(train, train_labels) for C in Cs]
    best = max(probes, key=lambda probe: probe.score(train, train_labels))
    return best.score(test, test_labels)


@_probe_mistake(
    "it does not use Cs",
    why="how strong the penalty must be depends on the encoder and on the number of labels.",
    look_at="where in your code does Cs appear?",
    fails="choice of C",
    kinds=CHOICES,
)
def ignores_the_choices(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    from sklearn.linear_model import LogisticRegression

    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        train, test = encoder(train_inputs), encoder(test_inputs)
    encoder.train(training)
    mean, deviation = train.mean(dim=0), train.std(dim=0).clamp(min=1e-8)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    probe = LogisticRegression(max_iter=1000).fit(train, train_labels)
    return probe.score(test, test_labels)


@_probe_mistake(
    "it takes the first of Cs",
    why="they are in no order; which is best has to be found out.",
    look_at="what does your code do with the second of Cs?",
    fails="choice of C",
    kinds=CHOICES,
)
def takes_the_first(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    from sklearn.linear_model import LogisticRegression

    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        train, test = encoder(train_inputs), encoder(test_inputs)
    encoder.train(training)
    mean, deviation = train.mean(dim=0), train.std(dim=0).clamp(min=1e-8)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    probe = LogisticRegression(C=Cs[0], max_iter=1000).fit(train, train_labels)
    return probe.score(test, test_labels)


@_probe_mistake(
    "it takes the last of Cs",
    why="they are in no order; which is best has to be found out.",
    look_at="which probe is left when your loop over Cs is over?",
    fails="choice of C",
    kinds=CHOICES,
)
def takes_the_last(encoder, train_inputs, train_labels, test_inputs, test_labels, Cs):
    from sklearn.linear_model import LogisticRegression

    training = encoder.training
    encoder.eval()
    with torch.no_grad():
        train, test = encoder(train_inputs), encoder(test_inputs)
    encoder.train(training)
    mean, deviation = train.mean(dim=0), train.std(dim=0).clamp(min=1e-8)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    for C in Cs:
        probe = LogisticRegression(C=C, max_iter=1000).fit(train, train_labels)
    return probe.score(test, test_labels)


# recommend_strategy

CELL, BOUNDARY, OTHER_WORD = "cell", "boundary", "other word"


def _strategy_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    few, many = _whole(generator, 5, 400), _whole(generator, 2000, 90_000)
    return [
        *(
            Case(CELL, {"similarity": similarity, "labels_per_class": count})
            for similarity in ("high", "low")
            for count in (few, many)
        ),
        *(
            Case(BOUNDARY, {"similarity": similarity, "labels_per_class": count})
            for similarity in ("high", "low")
            for count in (999, 1000, 1001)
        ),
        Case(OTHER_WORD, {"similarity": "medium", "labels_per_class": few}),
    ]


def _hidden_strategy_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    few, many = _whole(generator, 401, 900), _whole(generator, 1100, 1900)
    return [
        *(
            Case(kind, {"similarity": similarity, "labels_per_class": count})
            for similarity in ("high", "low")
            for kind, count in (
                (CELL, few), (CELL, many), ("extremes", 0), ("extremes", 10**7), (BOUNDARY, 999.5),
            )
        ),
        Case(OTHER_WORD, {"similarity": "", "labels_per_class": many}),
        Case(OTHER_WORD, {"similarity": "higher", "labels_per_class": many}),
    ]  # fmt: skip


def _observe_strategy(answer, case, forbidden=frozenset()) -> Observation:
    """Like `observe_call`; of another word, an error is a result: its type's name."""

    def steps(arguments):
        given = arguments.values()
        back = _attempt(answer, given) if case.kind == OTHER_WORD else answer(*given)
        return _canonical(back) if isinstance(back, str) else back

    return observe_steps(steps, answer, case, forbidden)


def _canonical(strategy: str) -> str:
    """One of STRATEGIES, whatever its capitals, spaces and full stop; other text as it is."""
    known = {text.lower(): text for text in freezing.STRATEGIES.values()}
    return known.get(" ".join(strategy.lower().split()).rstrip("."), strategy)


def _test_one_of_four(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    if observed.output in freezing.STRATEGIES.values():
        return None
    got = observed.output
    return Failure(
        "one of the four strategies", show(got) if isinstance(got, str) else describe(got)
    )


def _test_strategy(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    failure = _test_one_of_four(case, observed, expected)
    if failure or observed.output == expected.output:
        return failure
    return Failure(show(expected.output), show(observed.output))


def _test_other_word(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    if _raised(observed) == "ValueError":
        return None
    got = observed.output
    if isinstance(got, Foreign):
        return Failure("a ValueError that is raised", f"a returned {got.type_name}")
    returned = show(got) if isinstance(got, str) else "no error"
    return Failure("a ValueError", _raised(observed) or returned)


recommend_strategy = Exercise(
    name="recommend_strategy",
    reference=freezing.recommend_strategy,
    cases=_strategy_cases,
    hidden_cases=_hidden_strategy_cases,
    properties=(
        Property("one of the four", 0.5, _test_one_of_four, kinds=(CELL,)),
        Property("the matrix", 1, _test_strategy, kinds=(CELL, "extremes")),
        Property("the boundary", 1, _test_strategy, kinds=(BOUNDARY,)),
        Property("other words", 0.5, _test_other_word, kinds=(OTHER_WORD,)),
    ),
    observe=_observe_strategy,
)


def _strategy_mistake(sentence: str, why: str, look_at: str, when: Callable, fails="the matrix"):
    """A mistake that shows in all answers: when((similarity, labels) -> strategy) -> bool."""

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        pairs = [p for p in zip(cases, observations, strict=True) if p[0].kind != OTHER_WORD]
        if any(seen.error for _, seen in pairs):
            return False
        return when({tuple(case.arguments.values()): seen.output for case, seen in pairs})

    return recommend_strategy.mistake(sentence, why, look_at, recognise, fails)


def _cell(similarity: str, count: float) -> str:
    return freezing.STRATEGIES[similarity, count >= freezing.MANY_LABELS]


def _follows(rule: Callable, but: Sequence[float] = ()) -> Callable:
    """Whether all answers are those of a rule, (similarity, labels) -> strategy."""
    return lambda table: all(
        rule(*given) == strategy for given, strategy in table.items() if given[1] not in but
    )


EDGE = (999, 999.5, 1000, 1001)


@_strategy_mistake(
    "similarity has no say",
    why="features of the bottom are worth keeping where source and target are alike; far from the "
    "source they may be the wrong ones.",
    look_at="where in your code does similarity appear?",
    when=lambda table: all(table["high", n] == table["low", n] for s, n in table),
)
def ignores_similarity(similarity, labels_per_class):
    if similarity not in ("high", "low"):
        raise ValueError(similarity)
    if labels_per_class < 1000:
        return "freeze the bottom, tune the top"
    return "tune everything"


@_strategy_mistake(
    "the number of labels has no say",
    why="few labels can move few parameters without overfitting; many can move all of them.",
    look_at="where in your code does labels_per_class appear?",
    when=lambda table: len({(s, strategy) for (s, _), strategy in table.items()}) == 2,
)
def ignores_the_labels(similarity, labels_per_class):
    if similarity not in ("high", "low"):
        raise ValueError(similarity)
    if similarity == "high":
        return "freeze the bottom, tune the top"
    return "freeze the middle, tune bottom and top, or LoRA"


def _other(similarity: str) -> str:
    return "low" if similarity == "high" else "high"


@_strategy_mistake(
    "high and low similarity are the wrong way round",
    why="the more alike source and target are, the more of the bottom can stay as it is.",
    look_at="which branch of your code is for which similarity?",
    when=_follows(lambda similarity, count: _cell(_other(similarity), count), EDGE),
)
def similarity_the_wrong_way_round(similarity, labels_per_class):
    if similarity not in ("high", "low"):
        raise ValueError(similarity)
    few = labels_per_class < 1000
    if similarity == "low":
        return "freeze the bottom, tune the top" if few else "tune everything"
    if few:
        return "freeze the middle, tune bottom and top, or LoRA"
    return "tune everything with discriminative learning rates"


@_strategy_mistake(
    "few and many labels are the wrong way round",
    why="it is with few labels that most of the model should stay frozen.",
    look_at="which branch of your code is for 10 labels in a class?",
    when=_follows(lambda similarity, count: _cell(similarity, 0 if count >= 1000 else 10**6), EDGE),
)
def labels_the_wrong_way_round(similarity, labels_per_class):
    if similarity not in ("high", "low"):
        raise ValueError(similarity)
    few = labels_per_class > 1000
    if similarity == "high":
        return "freeze the bottom, tune the top" if few else "tune everything"
    if few:
        return "freeze the middle, tune bottom and top, or LoRA"
    return "tune everything with discriminative learning rates"


@_strategy_mistake(
    "with many labels everything is tuned at one rate, also far from the source",
    why="the lower layers still know something; a smaller rate lets them keep it where the labels "
    "do not object.",
    look_at="the cell for low similarity and many labels.",
    when=_follows(
        lambda similarity, count: "tune everything" if count >= 1000 else _cell(similarity, count),
        EDGE,
    ),
)
def one_rate_far_from_the_source(similarity, labels_per_class):
    if similarity not in ("high", "low"):
        raise ValueError(similarity)
    if labels_per_class >= 1000:
        return "tune everything"
    if similarity == "high":
        return "freeze the bottom, tune the top"
    return "freeze the middle, tune bottom and top, or LoRA"


@_strategy_mistake(
    "with few labels the bottom is frozen, also far from the source",
    why="the bottom reads the input, and far from the source it is the input that has changed.",
    look_at="the cell for low similarity and few labels.",
    when=_follows(
        lambda similarity, count: _cell("high" if count < 1000 else similarity, count), EDGE
    ),
)
def freezes_the_bottom_far_from_the_source(similarity, labels_per_class):
    if similarity not in ("high", "low"):
        raise ValueError(similarity)
    if labels_per_class < 1000:
        return "freeze the bottom, tune the top"
    if similarity == "high":
        return "tune everything"
    return "tune everything with discriminative learning rates"


@_strategy_mistake(
    "1 000 labels in a class count as few",
    why="fewer than 1 000 are few, so 1 000 themselves are many.",
    look_at="what does your comparison say of 1 000 itself?",
    when=_follows(lambda similarity, count: _cell(similarity, 0 if count <= 1000 else count)),
    fails="the boundary",
)
def one_thousand_is_few(similarity, labels_per_class):
    if similarity not in ("high", "low"):
        raise ValueError(similarity)
    few = labels_per_class <= 1000
    if similarity == "high":
        return "freeze the bottom, tune the top" if few else "tune everything"
    if few:
        return "freeze the middle, tune bottom and top, or LoRA"
    return "tune everything with discriminative learning rates"


@_strategy_mistake(
    "999 labels in a class count as many",
    why="fewer than 1 000 are few.",
    look_at="what does your comparison say of 999?",
    when=_follows(lambda similarity, count: _cell(similarity, 10**6 if count >= 999 else count)),
    fails="the boundary",
)
def nine_hundred_ninety_nine_are_many(similarity, labels_per_class):
    if similarity not in ("high", "low"):
        raise ValueError(similarity)
    few = labels_per_class < 999
    if similarity == "high":
        return "freeze the bottom, tune the top" if few else "tune everything"
    if few:
        return "freeze the middle, tune bottom and top, or LoRA"
    return "tune everything with discriminative learning rates"


@recommend_strategy.mistake(
    "any other word is taken for high or for low",
    why='"medium", or "High" with a capital, gets an answer that nobody has asked for.',
    look_at='what comes out for similarity = "medium"?',
    recognise=lambda cases, observations: all(
        isinstance(seen.output, str)
        for case, seen in zip(cases, observations, strict=True)
        if case.kind == OTHER_WORD
    ),
    fails="other words",
)
def takes_any_other_word(similarity, labels_per_class):
    few = labels_per_class < 1000
    if similarity == "high":
        return "freeze the bottom, tune the top" if few else "tune everything"
    if few:
        return "freeze the middle, tune bottom and top, or LoRA"
    return "tune everything with discriminative learning rates"


EXERCISES = (freeze, layers_to_train, linear_probe, recommend_strategy)
