"""New parts in a frozen model, and out again without a trace: what LoRA and adapters share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

HEADS = ("classifier", "score", "qa_outputs")  # of the models of `transformers`; new for a task


@dataclass
class BeforeTuning:
    """requires_grad: of every parameter.  trained: state_dicts of head and extras."""

    requires_grad: dict[str, bool]
    trained: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def modules_named(modules: Mapping[str, nn.Module], wanted: Iterable[str]) -> list[str]:
    """The full names that are meant, in the model's order.

    wanted: a full name, or an end of full names at a dot: "attention.self.query" is that layer in
    every block, and "layer.1" is not "layer.10".
    Raises TypeError for one string, ValueError for a name that no module has.
    """
    if isinstance(wanted, str):
        raise TypeError(f"Give a list of names, not the string {wanted!r}.")
    chosen = set()
    for name in wanted:
        found = [name] if name in modules else [m for m in modules if m.endswith(f".{name}")]
        if not name or not found:
            raise ValueError(f"No module is called {name!r}; model.named_modules() has the names.")
        chosen.update(found)
    return [name for name in modules if name in chosen]


def head_and_extras(model: nn.Module, extras: Iterable[str]) -> list[str]:
    """The full names of the modules to train whole: its head, `extras`, and those so far.

    extras: names, see `modules_named`, which says what is raised.
    """
    if isinstance(extras, str):
        raise TypeError(f"Give a list of names, not the string {extras!r}.")
    modules = dict(model.named_modules())
    so_far = model.before_tuning.trained if hasattr(model, "before_tuning") else ()
    heads = [name for name in HEADS if name in modules]
    return modules_named(modules, [*heads, *so_far, *extras])


def train_only(model: nn.Module, trained: Iterable[str]) -> None:
    """Freeze everything but these modules; note how everything was, for `restore`.

    trained: from `head_and_extras`.
    """
    if not hasattr(model, "before_tuning"):
        flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        model.before_tuning = BeforeTuning(flags)
    model.requires_grad_(False)
    for name in trained:
        module = model.get_submodule(name).requires_grad_(True)
        if name not in model.before_tuning.trained:
            state = {key: tensor.clone() for key, tensor in module.state_dict().items()}
            model.before_tuning.trained[name] = state


def restore(model: nn.Module) -> None:
    """Undo `train_only`: head, extras and requires_grad are as they were, to the last bit.

    Parts that were put in have to be out again.
    """
    for name, state in model.before_tuning.trained.items():
        model.get_submodule(name).load_state_dict(state)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(model.before_tuning.requires_grad[name])
    del model.before_tuning


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the module of that name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
