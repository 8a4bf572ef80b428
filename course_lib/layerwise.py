"""A learning rate for every layer, the lower the nearer to the input (notebook 06)."""

from torch import nn
from transformers import PreTrainedModel


def layerwise_lrs(base_lr: float, num_layers: int, decay: float = 2.6) -> list[float]:
    """A learning rate for the embeddings, every block and the head.

    Block l of L has base_lr / decay^(L - l), so the top block has base_lr; the head has it as
    well, and the embeddings count as block 0. Howard and Ruder 2018 (1801.06146), section 3.2.

    base_lr: of the head.  num_layers: L, Transformer blocks.  decay: 1 gives all the same rate.
    Returns L + 2 rates: embeddings, blocks 1 to L, head.
    Raises ValueError for a base_lr that is not above 0, no layers, or a decay below 1.
    """
    if not base_lr > 0:
        raise ValueError(f"base_lr must be above 0, got {base_lr}.")
    if num_layers < 1:
        raise ValueError(f"num_layers must be at least 1, got {num_layers}.")
    if not decay >= 1:
        raise ValueError(f"decay must be at least 1, got {decay}.")
    blocks = [base_lr / decay ** (num_layers - layer) for layer in range(num_layers + 1)]
    return [*blocks, base_lr]


def layers_of(model: PreTrainedModel) -> list[dict[str, nn.Parameter]]:
    """The parameters of a model by layer: embeddings, blocks 1 to L, head.

    model: any `transformers` encoder, with or without a head. What its base model registers before
    the blocks belongs to the embeddings, what it registers behind them (a pooler) to the head.
    A tied weight is where it comes first.
    Returns L + 2 dicts, name -> parameter; every parameter of the model is in exactly one.
    Raises ValueError for a model without a list of config.num_hidden_layers blocks.
    """
    base = model.base_model
    blocks = _blocks(base)
    depth = len(blocks)
    within = {
        id(parameter): layer
        for layer, block in enumerate(blocks, start=1)
        for parameter in block.parameters()
    }
    names = list(base.named_parameters())
    first = next(i for i, (_, parameter) in enumerate(names) if id(parameter) in within)
    before = {id(parameter) for _, parameter in names[:first]}
    layers: list[dict[str, nn.Parameter]] = [{} for _ in range(depth + 2)]
    for name, parameter in model.named_parameters():
        layer = 0 if id(parameter) in before else within.get(id(parameter), depth + 1)
        layers[layer][name] = parameter
    return layers


def parameter_groups(
    model: PreTrainedModel, base_lr: float, decay: float = 2.6, weight_decay: float = 0.01
) -> list[dict]:
    """Groups for an optimiser: a learning rate per layer, weight decay for matrices alone.

    Biases and the parameters of normalisation layers (all that have one dimension) are not
    decayed. Devlin et al. 2019 (1810.04805), A.2 and their code. Frozen parameters are left out.

    model: see `layers_of`.  base_lr, decay: see `layerwise_lrs`.
    Returns dicts with `params`, `lr`, `weight_decay`, and `layer` (0 is the embeddings, L + 1 the
    head); none is empty.
    Raises what `layers_of` and `layerwise_lrs` raise, and ValueError for a negative weight_decay
    or a model without a trainable parameter.
    """
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}.")
    layers = layers_of(model)
    rates = layerwise_lrs(base_lr, len(layers) - 2, decay)
    groups = []
    for layer, (parameters, rate) in enumerate(zip(layers, rates, strict=True)):
        trainable = [parameter for parameter in parameters.values() if parameter.requires_grad]
        for strength, chosen in (
            (weight_decay, [parameter for parameter in trainable if parameter.ndim > 1]),
            (0.0, [parameter for parameter in trainable if parameter.ndim <= 1]),
        ):
            if chosen:
                group = {"params": chosen, "lr": rate, "weight_decay": strength, "layer": layer}
                groups.append(group)
    if not groups:
        raise ValueError("The model has no trainable parameter; all of them are frozen.")
    return groups


def _blocks(base: nn.Module) -> nn.ModuleList:
    number = getattr(base.config, "num_hidden_layers", None)
    for module in base.modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return module
    raise ValueError(
        f"{type(base).__name__} has no list of {number} blocks; wanted a Transformer encoder of "
        "the transformers library."
    )
