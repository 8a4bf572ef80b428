"""Adapters: small bottlenecks between the frozen layers of a BERT (notebook 08).

Houlsby et al. 2019 (1902.00751), section 2.1 and figure 2.
"""

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.nn.functional import gelu
from transformers import PretrainedConfig, PreTrainedModel

from course_lib.injection import head_and_extras, put, restore, train_only


class Adapter(nn.Module):
    """h + W_up sigma(W_down h + b_down) + b_up, the identity at the start.

    W_up and both biases are exactly zero, so that the first output is h to the last bit; W_down is
    drawn as `nn.Linear` does, so that W_up has a gradient from the first step.
    Differs from the paper in: there both matrices are near zero at the start.

    d: width.  m: of the bottleneck.  activation: sigma, the GELU of the authors' code.
    Raises ValueError for m outside 1 to d.
    """

    def __init__(self, d: int, m: int, activation: Callable[[Tensor], Tensor] = gelu):
        super().__init__()
        _check(d, m)
        self.down, self.up, self.activation = nn.Linear(d, m), nn.Linear(m, d), activation
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, h: Tensor) -> Tensor:
        """h: (..., d).  Returns (..., d)."""
        return h + self.up(self.activation(self.down(h)))


def add_adapters(
    model: PreTrainedModel,
    m: int,
    per_block: int = 2,
    activation: Callable[[Tensor], Tensor] = gelu,
    extras: Iterable[str] = (),
) -> list[nn.Parameter]:
    """Put adapters into every block, in place, and freeze everything else but the head.

    An adapter is behind the dropout of a sub-layer's output, before the sum with its input and
    the LayerNorm, as in the paper's figure 2.
    Differs from the paper in: LayerNorms are trained only if `extras` names them.

    model: a BERT of `transformers`, or one built alike (RoBERTa).  m: of the bottleneck.
    per_block: 1, behind the feed-forward layers alone, or 2, behind the attention as well.
    extras: names of modules to train whole, beside the head, as in `lora.add_lora`, for example
    ["attention.output.LayerNorm", "output.LayerNorm"].
    Returns what to train, for the optimiser.
    Raises ValueError for another m or per_block, a model with adapters or LoRA, a name that no
    module has, or a model built otherwise. The model is untouched then.
    """
    if hasattr(model, "before_tuning"):
        raise ValueError("The model has adapters or LoRA already; remove them first.")
    d = model.config.hidden_size
    _check(d, m, per_block)
    places = _places(model, per_block)
    train_only(model, head_and_extras(model, extras))
    for name, dropout in places.items():
        weight = model.get_submodule(name.removesuffix("dropout") + "dense").weight
        adapter = Adapter(d, m, activation).to(weight)
        put(model, name, nn.Sequential(dropout, adapter).train(dropout.training))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def remove_adapters(model: PreTrainedModel) -> None:
    """Take the adapters out: the model is what it was before `add_adapters`, to the last bit.

    Head and extras too, trained or not. Raises ValueError if it has none.
    """
    places = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[1], Adapter)
    }
    if not places:
        raise ValueError(f"This {type(model).__name__} has no adapters.")
    for name, (dropout, _) in places.items():
        put(model, name, dropout)
    restore(model)


def adapter_parameters(config: PretrainedConfig, m: int, per_block: int = 2) -> int:
    """How many parameters the adapters have: per_block L (2 d m + d + m).

    With m = 64 that is 1.09 % of BERT-base's 109.5 M with one per block, 2.17 % with two. Head and
    extras are not counted.

    config: of the encoder.  m, per_block: see `add_adapters`, which says what is raised.
    """
    d = config.hidden_size
    _check(d, m, per_block)
    return per_block * config.num_hidden_layers * (2 * d * m + d + m)


def _places(model: PreTrainedModel, per_block: int) -> dict[str, nn.Module]:
    """The dropouts of the sub-layers' outputs, by their full names."""
    ends = ("output.dropout", "attention.output.dropout")[:per_block]
    base = "" if model.base_model is model else f"{model.base_model_prefix}."
    blocks = range(model.config.num_hidden_layers)
    names = [f"{base}encoder.layer.{block}.{end}" for block in blocks for end in ends]
    modules = dict(model.named_modules())
    missing = [name for name in names if name not in modules]
    if missing:
        raise ValueError(f"{type(model).__name__} is not built like a BERT: no {missing[0]!r}.")
    return {name: modules[name] for name in names}


def _check(d: int, m: int, per_block: int = 1) -> None:
    if not isinstance(m, int) or not 1 <= m <= d:
        raise ValueError(f"m must be an integer from 1 to {d}, the width, got {m!r}.")
    if per_block not in (1, 2):
        raise ValueError(f"per_block must be 1 or 2, got {per_block!r}.")
