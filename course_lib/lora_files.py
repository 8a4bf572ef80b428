"""LoRAs as files, in the layout that `peft` reads and writes (notebook 08)."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from course_lib.lora import add_lora, lora_layers, plain

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
OTHER_KINDS = (  # switches of peft's that change what the two factors mean
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "use_rslora",
    "velora_config",
)
# the one value, or values, that keep to this module's formula and leave the base as it is
SAME_KIND = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, "gaussian", "eva", "orthogonal"),
}


def save_lora(model: nn.Module, folder: str | Path, name: str = "default") -> None:
    """Write a LoRA, with head and extras, as `adapter_model.safetensors` and `adapter_config.json`.

    The layout is that of `peft`: `PeftModel.from_pretrained(plain_model, folder)` reads it.
    The files are complete or not there, whatever happens meanwhile; new weights never lie beside
    the config of older ones.
    Raises ValueError if the model has no such LoRA, OSError if it cannot be written.
    """
    layers = {k: v.adapters[name] for k, v in lora_layers(model).items() if name in v.adapters}
    if not layers:
        raise ValueError(f"The model has no LoRA {name!r}.")
    tensors = {}
    for where, adapter in layers.items():
        tensors[f"{where}.lora_A.weight"] = adapter.A
        tensors[f"{where}.lora_B.weight"] = adapter.B
    for module in model.before_tuning.trained:
        tensors |= model.get_submodule(module).state_dict(prefix=f"{module}.")
    tensors = {PREFIX + key: value.detach().cpu().clone() for key, value in tensors.items()}
    any_adapter = next(iter(layers.values()))
    config = {
        "peft_type": "LORA",
        "r": any_adapter.r,
        "lora_alpha": any_adapter.alpha,
        "lora_dropout": any_adapter.dropout,
        "target_modules": list(layers),
        "modules_to_save": list(model.before_tuning.trained) or None,
        "bias": "none",
    }
    text = json.dumps(config, indent=2) + "\n"
    contents = {WEIGHTS: to_bytes(tensors, {"format": "pt"}), CONFIG: text.encode()}
    _write(Path(folder), contents)


def load_lora(model: nn.Module, folder: str | Path, name: str = "default") -> list[nn.Parameter]:
    """Put a LoRA that `save_lora` or `peft` wrote on a model, in place; head and extras too.

    model: the plain one, or one with other LoRAs.  name: its name from now on.
    Returns what to train, as `add_lora` does.
    Raises OSError for files that are missing, damaged or cut short; ValueError for a LoRA of
    another architecture, one of a kind that this module does not have (DoRA, rank patterns), or
    a name that is taken. The model is untouched then.
    """
    config, tensors = _read(Path(folder))
    factors: dict[str, dict[str, Tensor]] = {}
    trained = {}
    for key, tensor in tensors.items():
        parameter = key.removeprefix(PREFIX)
        where, found, factor = parameter.partition(".lora_")
        if found:
            factors.setdefault(where, {})[factor] = tensor
        else:
            trained[parameter] = tensor
    modules = dict(model.named_modules())
    for where, pair in factors.items():
        _check_factors(plain(modules.get(where)), where, pair, config["r"])
    weights = model.state_dict()
    for key, tensor in trained.items():
        if key not in weights or weights[key].shape != tensor.shape:
            there = tuple(weights[key].shape) if key in weights else "not there"
            raise ValueError(
                f"{folder} has {key} of shape {tuple(tensor.shape)}, which in this "
                f"{type(model).__name__} is {there}."
            )
    r, alpha, dropout = config["r"], config["lora_alpha"], config["lora_dropout"]
    extras = {key.rpartition(".")[0] for key in trained}
    left = add_lora(model, list(factors), r, alpha, dropout, name, sorted(extras))
    with torch.no_grad():
        for where, pair in factors.items():
            adapter = model.get_submodule(where).adapters[name]
            adapter.A.copy_(pair["A.weight"])
            adapter.B.copy_(pair["B.weight"])
        for key, tensor in trained.items():
            weights[key].copy_(tensor)  # the tensors of a state_dict are the model's own
    return left


def _check_factors(layer: nn.Module | None, where: str, pair: dict[str, Tensor], r: int) -> None:
    if type(layer) is not nn.Linear:
        raise ValueError(f"The LoRA is for an nn.Linear {where}, which this model does not have.")
    wanted = {"A.weight": (r, layer.in_features), "B.weight": (layer.out_features, r)}
    shapes = {factor: tuple(tensor.shape) for factor, tensor in pair.items()}
    if shapes != wanted:
        raise ValueError(f"The LoRA of {where} has shapes {shapes}, this model wants {wanted}.")


def _read(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} has no {file}; wanted a folder from save_lora.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except Exception as error:
        raise OSError(
            f"The LoRA in {folder} is damaged or cut short; copy it again ({error})."
        ) from error
    if not isinstance(config, dict):
        raise OSError(f"{folder / CONFIG} is a {type(config).__name__}; wanted names and values.")
    config = {"lora_dropout": 0.0} | config
    for key in ("r", "lora_alpha", "lora_dropout"):
        if not isinstance(config.get(key), (int, float)):
            raise OSError(f"In {folder / CONFIG} {key} is {config.get(key)!r}; wanted a number.")
    if not any(".lora_" in key for key in tensors):
        raise ValueError(f"{folder / WEIGHTS} has no LoRA in it.")
    for key in (*SAME_KIND, *OTHER_KINDS):
        if config.get(key) and config[key] not in SAME_KIND.get(key, ()):
            raise ValueError(
                f"{folder} has a LoRA of a kind that is not supported: {key} is {config[key]!r}."
            )
    return config, tensors


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    partial = {file: folder / f"{file}.partial" for file in contents}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in contents.items():
            with partial[file].open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        (folder / CONFIG).unlink(missing_ok=True)
        for file in contents:
            os.replace(partial[file], folder / file)
    except OSError as error:
        for path in partial.values():
            if path.is_file():
                path.unlink()
        raise OSError(f"The LoRA could not be written to {folder} ({error}).") from error
