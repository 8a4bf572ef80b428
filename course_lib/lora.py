"""LoRA: low-rank updates of frozen weights, in plain modules on plain `nn.Linear` (notebook 08).

W' = W + (alpha / r) B A. Hu et al. 2022 (2106.09685), equation 3.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import linear
from transformers import AutoModel, PretrainedConfig

from course_lib.injection import head_and_extras, modules_named, put, restore, train_only

ATTENTION = (  # q, k, v and o of a BERT
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
)

Targets = Iterable[str] | Callable[[str, nn.Module], bool]


class LowRank(nn.Module):
    """The update (alpha / r) B A of one `nn.Linear`, in its dtype and on its device.

    A is (r, d_in), uniform within 1 / sqrt(d_in); B is (d_out, r), zero, so the start changes
    nothing. Differs from the paper in: A is Gaussian there, and as here in the authors' code.
    """

    def __init__(self, base: nn.Linear, r: int, alpha: float, dropout: float, generator=None):
        super().__init__()
        self.r, self.alpha, self.dropout, self.scale = r, alpha, dropout, alpha / r
        A = torch.empty(r, base.in_features, dtype=torch.float32)
        nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator)
        self.A = nn.Parameter(A.to(base.weight))
        self.B = nn.Parameter(base.weight.new_zeros(base.out_features, r))

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        """out + scale B A x.  x: (..., d_in).  out: (..., d_out), what the base made of x."""
        if self.dropout:
            x = drop(x, self.dropout, self.training)
        low = linear(x, self.A)  # (..., r)
        rows = out.reshape(-1, out.shape[-1])
        # one operation for the product, the scale and the sum
        rows = torch.addmm(rows, low.reshape(-1, self.r), self.B.T, alpha=self.scale)
        return rows.view(out.shape)

    def delta(self) -> Tensor:
        """scale B A, (d_out, d_in), in float32 at least."""
        wide = torch.promote_types(self.A.dtype, torch.float32)
        return self.scale * (self.B.to(wide) @ self.A.to(wide))


class LoRALinear(nn.Module):
    """A frozen `nn.Linear` with low-rank updates, of which one or none is in use.

    base: stays as it is to the last bit, and has no gradient.  r: rank.  alpha: the update's scale
    is alpha / r.  dropout: on the input of the update alone.  name: of the first update.
    generator: on the CPU, for A.
    Raises TypeError for a base that is no plain `nn.Linear`; ValueError for r outside 1 to the
    smaller width, alpha that is not above 0, dropout outside [0, 1), or an impossible name.
    """

    def __init__(
        self,
        base: nn.Linear,
        r: int,
        alpha: float,
        dropout: float = 0.0,
        name: str = "default",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        _check(base, r, alpha, dropout)
        self.base = base
        self.adapters = nn.ModuleDict()
        self.active: str | None = None
        self.register_buffer("merged_weight", None, persistent=False)
        self.add(name, r, alpha, dropout, generator)
        self.train(base.training)
        base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., d_in).  Returns (..., d_out)."""
        if self.merged_weight is not None:
            return linear(x, self.merged_weight, self.base.bias)
        out = self.base(x)
        return out if self.active is None else self.adapters[self.active](x, out)

    def add(self, name: str, r: int, alpha: float, dropout: float = 0.0, generator=None) -> None:
        """One more update, from now on the one in use. Raises what the constructor raises."""
        _check(self.base, r, alpha, dropout)
        _check_name(name, self.adapters)
        adapter = LowRank(self.base, r, alpha, dropout, generator)
        self.adapters[name] = adapter.train(self.training)
        self.use(name)

    def use(self, name: str | None) -> None:
        """Switch to an update, the one that is trained too; None: to the base alone. Unmerges.

        Raises ValueError for a name that it has not.
        """
        if name is not None and name not in self.adapters:
            raise ValueError(f"There is no adapter {name!r}, but {list(self.adapters)}.")
        self.unmerge()
        self.active = name
        for key, adapter in self.adapters.items():
            adapter.requires_grad_(key == name)

    @torch.no_grad()
    def merge(self) -> None:
        """Fold the update in use into one matrix: no more cost than a plain layer.

        W + (alpha / r) B A is summed in float32 at least and rounded to the base's dtype once. It
        lies beside the base's own weights, which stay as they are: so there is nothing to subtract
        later, and merging twice is merging once.
        Raises ValueError if no update is in use.
        """
        delta = self.in_use.delta()
        self.merged_weight = (self.base.weight.to(delta.dtype) + delta).to(self.base.weight.dtype)

    def unmerge(self) -> None:
        """Back to base and update apart, both with the very bits of before; at once, and for free.

        Differs from W' - (alpha / r) B A, which is W only up to rounding, in bfloat16 visibly.
        """
        self.merged_weight = None

    def train(self, mode: bool = True) -> "LoRALinear":
        """As of any module; training mode unmerges, since a merged update has no gradient."""
        if mode:
            self.unmerge()
        return super().train(mode)

    @property
    def in_use(self) -> LowRank:
        """Raises ValueError if it is the base alone."""
        if self.active is None:
            raise ValueError("No adapter is in use here; choose one with use(name).")
        return self.adapters[self.active]

    @property
    def weight(self) -> Tensor:
        """(d_out, d_in), of the base or merged; some models look at their layers' weights."""
        return self.base.weight if self.merged_weight is None else self.merged_weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def A(self) -> nn.Parameter:
        """(r, d_in), of the update in use."""
        return self.in_use.A

    @property
    def B(self) -> nn.Parameter:
        """(d_out, r), of the update in use."""
        return self.in_use.B


def add_lora(
    model: nn.Module,
    targets: Targets,
    r: int,
    alpha: float,
    dropout: float = 0.0,
    name: str = "default",
    extras: Iterable[str] = (),
    generator: torch.Generator | None = None,
) -> list[nn.Parameter]:
    """Put a LoRA on layers of a model, in place, and freeze everything else but the head.

    model: any `transformers` model, or any other module.
    targets: names (see `modules_named`), for example ATTENTION; or (name, layer) -> bool, which is
    asked for every plain `nn.Linear` outside head and extras.
    r, alpha, dropout, generator: see `LoRALinear`.
    name: of the LoRA. A second one under another name shares base and head; see `use_lora`.
    extras: names of modules to train whole, as the head is (see `injection.HEADS`), for example
    "bert.pooler" if that is new.
    Returns what to train, for the optimiser.
    Raises TypeError for one string or a target that is no plain `nn.Linear`; ValueError for a name
    that no module has, no target, a LoRA of that name, or what `LoRALinear` refuses. The model is
    untouched then.
    """
    layers = lora_layers(model)
    if hasattr(model, "before_tuning") and not layers:
        raise ValueError("The model has adapters; remove_adapters(model) first.")
    _check_name(name, nn.ModuleDict(), *(layer.adapters for layer in layers.values()))
    trained = head_and_extras(model, extras)
    chosen = linear_targets(model, targets, trained)
    for layer in chosen.values():
        _check(plain(layer), r, alpha, dropout)
    train_only(model, trained)
    for where, layer in chosen.items():
        if isinstance(layer, LoRALinear):
            layer.add(name, r, alpha, dropout, generator)
        else:
            put(model, where, LoRALinear(layer, r, alpha, dropout, name, generator))
    use_lora(model, name)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def remove_lora(model: nn.Module) -> None:
    """Take every LoRA out: the model is what it was before the first `add_lora`, to the last bit.

    Same modules, same weights (those of the head and the extras too, trained or not), same
    requires_grad. Save first what you want to keep. Raises ValueError if there is none.
    """
    for name, layer in _lora_layers(model).items():
        put(model, name, layer.base)
    restore(model)


def fold_lora(model: nn.Module) -> None:
    """Write the LoRA in use into the weights, and take all LoRAs out: a plain model again.

    The head stays as trained, and `save_pretrained` saves a model that needs no LoRA. There is no
    way back. Raises ValueError if there is no LoRA.
    """
    for layer in _lora_layers(model).values():
        if layer.active is not None:
            layer.merge()
            layer.base.weight = nn.Parameter(layer.merged_weight, requires_grad=False)
    model.before_tuning.trained.clear()
    remove_lora(model)


def use_lora(model: nn.Module, name: str | None) -> None:
    """Switch all layers to one LoRA, which is the one trained too; None: to the base alone.

    Nothing is copied, and the head is the same for all. Layers without that LoRA are the base
    alone. Raises ValueError if no layer has it.
    """
    layers = _lora_layers(model)
    if name is not None and not any(name in layer.adapters for layer in layers.values()):
        raise ValueError(f"The model has no LoRA {name!r}.")
    for layer in layers.values():
        layer.use(name if name in layer.adapters else None)


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The layers with a LoRA, by the names that the plain layers have in the model."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoRALinear)}


def lora_parameters(config: PretrainedConfig, r: int, targets: Targets) -> int:
    """How many parameters a LoRA has: r (d_in + d_out) for each layer; 73 728 r for BERT-base's
    ATTENTION. Head and extras are not counted; no weights are made.

    config: of a `transformers` encoder.  r, targets: see `add_lora`, with names as in the model
    without a head ("encoder.layer.0.attention.self.query").
    Raises what `add_lora` raises.
    """
    with torch.device("meta"):
        layers = linear_targets(AutoModel.from_config(config), targets).values()
    for layer in layers:
        _check(layer, r, alpha=1, dropout=0)
    return sum(r * (layer.in_features + layer.out_features) for layer in layers)


def linear_targets(
    model: nn.Module, targets: Targets, trained: Iterable[str] = ()
) -> dict[str, nn.Module]:
    """The layers that are meant, plain or with LoRAs already.

    trained: names of modules that are trained whole, so that nothing in them can have a LoRA.
    """
    layers = lora_layers(model)
    inside = tuple(f"{name}." for name in layers)
    modules = {name: m for name, m in model.named_modules() if name and not name.startswith(inside)}
    whole = tuple(f"{name}." for name in trained)
    if callable(targets):
        chosen = [
            name
            for name, layer in modules.items()
            if type(plain(layer)) is nn.Linear
            and not f"{name}.".startswith(whole)
            and targets(name, plain(layer))
        ]
    else:
        chosen = modules_named(modules, targets)
    for name in [*layers, *chosen]:
        if f"{name}.".startswith(whole):
            raise ValueError(f"{name!r} is trained whole, as head or extra; it can have no LoRA.")
    if not chosen:
        raise ValueError(f"No layer of {type(model).__name__} is a target.")
    return {name: modules[name] for name in chosen}


def plain(layer: nn.Module) -> nn.Module:
    """The layer without its LoRAs, if it has any."""
    return layer.base if isinstance(layer, LoRALinear) else layer


def _lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    layers = lora_layers(model)
    if not layers:
        raise ValueError(f"This {type(model).__name__} has no LoRA.")
    return layers


def _check(base: nn.Module, r: int, alpha: float, dropout: float) -> None:
    if type(base) is not nn.Linear:
        raise TypeError(f"LoRA is for a plain nn.Linear, got a {type(base).__name__}.")
    width = min(base.in_features, base.out_features)
    if not isinstance(r, int) or not 1 <= r <= width:
        raise ValueError(
            f"r must be an integer from 1 to {width}, the smaller width of the layer, got {r!r}."
        )
    if not 0 < alpha < math.inf or not 0 <= dropout < 1:
        raise ValueError(
            f"alpha must be above 0 and finite, dropout in [0, 1), got {alpha} and {dropout}."
        )


def _check_name(name: str, *taken: nn.ModuleDict) -> None:
    # a ModuleDict cannot hold the names of its own methods either
    if not name or "." in name or any(hasattr(adapters, name) for adapters in taken):
        raise ValueError(f"{name!r} is taken, or cannot be a LoRA's name; give another.")
