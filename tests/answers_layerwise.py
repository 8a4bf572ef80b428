"""Other answers to the exercises of notebook 06: right ones, and known mistakes reworded."""

import math
import re
from collections import defaultdict

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

# layerwise_lrs, right


def from_the_top_down(base_lr, num_layers, decay=2.6):
    rates = [base_lr, base_lr]
    for _ in range(num_layers):
        rates.append(rates[-1] / decay)
    return rates[::-1]


def powers_of_the_inverse(base_lr, num_layers, decay=2.6):
    rates = [base_lr * (1 / decay) ** (num_layers - layer) for layer in range(num_layers + 1)]
    return [*rates, base_lr]


def in_float32(base_lr, num_layers, decay=2.6):
    exponents = torch.arange(num_layers, -1, -1, dtype=torch.float32)
    return [*(base_lr * decay**-exponents).tolist(), base_lr]


def exponentials_of_numpy(base_lr, num_layers, decay=2.6):
    below = np.maximum(num_layers - np.arange(num_layers + 2), 0)
    return list(base_lr * np.exp(-below * math.log(decay)))


# layerwise_lrs, wrong


def rates_reversed_by_slicing(base_lr, num_layers, decay=2.6):
    return [base_lr / decay**down for down in range(num_layers + 1)] + [base_lr]


def reversed_with_the_head_below(base_lr, num_layers, decay=2.6):
    return [base_lr / decay**layer for layer in range(num_layers + 2)]


def negative_exponent_twice(base_lr, num_layers, decay=2.6):
    return [base_lr / decay ** -(num_layers - i) for i in range(num_layers + 1)] + [base_lr]


def head_as_low_as_the_embeddings(base_lr, num_layers, decay=2.6):
    rates = from_the_top_down(base_lr, num_layers, decay)
    return [*rates[:-1], rates[0]]


def everything_below_the_head_once(base_lr, num_layers, decay=2.6):
    return [base_lr / decay for _ in range(num_layers + 1)] + [base_lr]


def copies_the_first_block(base_lr, num_layers, decay=2.6):
    rates = from_the_top_down(base_lr, num_layers, decay)
    rates[0] = rates[1]
    return rates


def counts_the_head_as_a_layer(base_lr, num_layers, decay=2.6):
    top = num_layers + 1
    return [base_lr * decay ** (layer - top) for layer in range(top + 1)]


def top_block_forgotten(base_lr, num_layers, decay=2.6):
    return [base_lr / decay ** (num_layers - layer) for layer in range(num_layers)] + [base_lr]


def rises_by_one_factor_to_the_head(base_lr, num_layers, decay=2.6):
    rates = [base_lr / decay**num_layers]
    while len(rates) < num_layers + 2:
        rates.append(rates[-1] * decay)
    return rates


# parameter_groups, right


def number_in_the_name(name, depth):
    block = re.search(r"\blayer\.(\d+)\.", name)
    return 0 if "embeddings" in name else int(block[1]) + 1 if block else depth + 1


def group_per_parameter(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    return [
        {
            "params": [parameter],
            "lr": base_lr / decay ** max(0, depth - number_in_the_name(name, depth)),
            "weight_decay": weight_decay if parameter.ndim > 1 else 0.0,
        }
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]


def by_the_names_of_what_is_not_decayed(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers
    groups = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spared = "LayerNorm" in name or name.endswith(".bias")
            groups[number_in_the_name(name, depth), spared].append(parameter)
    rates = from_the_top_down(base_lr, depth, decay)
    return [
        {"params": found, "lr": rates[layer], "weight_decay": 0.0 if spared else weight_decay}
        for (layer, spared), found in groups.items()
    ]


def module_by_module(model, base_lr, decay=2.6, weight_decay=0.01):
    """Walks down the modules; a tied weight stays where it was seen first."""
    base = model.base_model
    layers = [base.embeddings, *base.encoder.layer, model]
    rates, groups, seen = from_the_top_down(base_lr, len(layers) - 2, decay), [], set()
    for rate, module in zip(rates, layers, strict=True):
        both = {weight_decay: [], 0: []}
        for parameter in module.parameters():
            if id(parameter) not in seen and parameter.requires_grad:
                both[weight_decay if len(parameter.shape) == 2 else 0].append(parameter)
            seen.add(id(parameter))
        groups += [
            {"params": iter(found), "lr": torch.tensor(rate), "weight_decay": strength}
            for strength, found in both.items()
        ]
    return tuple(groups)


def one_group_after_another(model, base_lr, decay=2.6, weight_decay=0.01):
    """A generator, with pairs of name and parameter, and with empty groups."""
    depth = model.config.num_hidden_layers
    for layer in range(depth + 2):
        for matrices in (True, False):
            found = [
                (name, parameter)
                for name, parameter in model.named_parameters()
                if number_in_the_name(name, depth) == layer
                and parameter.requires_grad
                and (parameter.dim() >= 2) == matrices
            ]
            lr = base_lr / decay ** max(depth - layer, 0)
            yield {"params": found, "lr": lr, "weight_decay": weight_decay * matrices}


# parameter_groups, wrong: variations of the right answer with one thing changed


def grouped(layer_of=number_in_the_name, rate=None, strength=None, takes=None):
    """An answer that differs from a right one in one of its rules."""

    def answer(model, base_lr, decay=2.6, weight_decay=0.01):
        depth = model.config.num_hidden_layers
        groups = []
        for name, parameter in model.named_parameters():
            if not (takes(name, parameter) if takes else parameter.requires_grad):
                continue
            layer = layer_of(name, depth)
            lr = base_lr / decay ** max(0, depth - layer)
            decayed = strength(name, parameter) if strength else parameter.ndim > 1
            groups.append(
                {
                    "params": [parameter],
                    "lr": rate(base_lr, decay, layer, depth) if rate else lr,
                    "weight_decay": weight_decay if decayed else 0.0,
                }
            )
        return groups

    return answer


def first_block_that_matches(name, depth):
    if "embeddings" in name:
        return 0
    return next((i + 1 for i in range(depth) if f"encoder.layer.{i}" in name), depth + 1)


def only_the_classifier(name, parameter):
    known = "embeddings" in name or ".layer." in name or "classifier" in name
    return known and parameter.requires_grad


def loses_the_last_of_the_blocks(model, base_lr, decay=2.6, weight_decay=0.01):
    depth = model.config.num_hidden_layers

    def takes(name, parameter):
        return parameter.requires_grad and f".layer.{depth - 1}." not in name

    return grouped(takes=takes)(model, base_lr, decay, weight_decay)


def rises_to_the_head(lr, decay, layer, depth):
    return lr * decay ** (layer - depth)


def pooler_with_the_blocks(name, depth):
    return depth - 1 if "pooler" in name else number_in_the_name(name, depth)


def names_count_from_zero(name, depth):
    block = re.search(r"\blayer\.(\d+)\.", name)
    return 0 if "embeddings" in name else int(block[1]) if block else depth


def modules_and_a_head_of_all_others(model, base_lr, decay=2.6, weight_decay=0.01):
    """Iterates over modules, and does not notice a tied weight."""
    base, groups = model.base_model, []
    names = {id(p) for p in base.embeddings.parameters()} | {
        id(p) for p in base.encoder.parameters()
    }
    head = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.LayerNorm))]
    outer = [m for m in head if id(m.bias) not in names]
    members = [[base.embeddings], *([block] for block in base.encoder.layer), outer]
    depth = len(members) - 2
    for layer, modules in enumerate(members):
        for module in modules:
            for parameter in module.parameters():
                if parameter.requires_grad:
                    lr = base_lr / decay ** max(0, depth - layer)
                    strength = weight_decay if parameter.ndim > 1 else 0.0
                    groups.append({"params": parameter, "lr": lr, "weight_decay": strength})
    return groups


def adds_the_classifier_again(model, base_lr, decay=2.6, weight_decay=0.01):
    head = model.cls if hasattr(model, "cls") else model.classifier
    again = {"params": list(head.parameters()), "lr": base_lr, "weight_decay": weight_decay}
    return [*group_per_parameter(model, base_lr, decay, weight_decay), again]


# warmup_then_decay, right


def as_in_transformers(step, warmup_steps, total_steps, shape="linear"):
    if step < warmup_steps:
        return float(step) / float(max(1, warmup_steps))
    over = min(1.0, float(step - warmup_steps) / float(max(1, total_steps - warmup_steps)))
    return 1.0 - over if shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * over))


def interpolates(step, warmup_steps, total_steps, shape="linear"):
    if step < warmup_steps:
        return torch.tensor(step / warmup_steps)
    left = torch.tensor(max(0, total_steps - step) / max(1, total_steps - warmup_steps))
    return left if shape == "linear" else torch.sin(math.pi / 2 * left) ** 2


def smaller_of_two(step, warmup_steps, total_steps, shape="linear"):
    rise = step / warmup_steps if warmup_steps > 0 else 1
    left = (total_steps - step) / max(total_steps - warmup_steps, 1e-9)
    left = np.clip(left, 0, 1)
    return min(rise, {"linear": left, "cosine": (1 - np.cos(np.pi * left)) / 2}[shape])


def at_the_end_one_when_all_is_warm_up(step, warmup_steps, total_steps, shape="linear"):
    """Asks "after the end" with > , so that step T of a run that is all warm-up is at the peak."""
    if step > total_steps:
        return 0.0
    if step < warmup_steps:
        return step / warmup_steps
    if warmup_steps == total_steps:
        return 1.0
    over = (step - warmup_steps) / (total_steps - warmup_steps)
    return 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2


# warmup_then_decay, wrong


def scheduled(rise=None, over=None, fall=None):
    """An answer that differs from a right one in one of its parts."""

    def answer(step, warmup_steps, total_steps, shape="linear"):
        if step >= total_steps and over is None:
            return 0.0
        if step < warmup_steps:
            return rise(step, warmup_steps, total_steps) if rise else step / warmup_steps
        share = (
            over(step, warmup_steps, total_steps)
            if over
            else (step - warmup_steps) / (total_steps - warmup_steps)
        )
        if fall:
            return fall(share, shape)
        return 1 - share if shape == "linear" else (1 + math.cos(math.pi * share)) / 2

    return answer


def cosine_alone_jumps(step, warmup_steps, total_steps, shape="linear"):
    if shape == "linear":
        return as_in_transformers(step, warmup_steps, total_steps, shape)
    if step < warmup_steps:
        return step / warmup_steps
    return (1 + math.cos(math.pi * min(step / total_steps, 1))) / 2


def straight_down_without_a_floor(step, warmup_steps, total_steps, shape="linear"):
    if step < warmup_steps:
        return step / warmup_steps
    if shape == "linear":
        return (total_steps - step) / max(1, total_steps - warmup_steps)
    return as_in_transformers(step, warmup_steps, total_steps, shape)


def divides_by_nothing_at_the_end(step, warmup_steps, total_steps, shape="linear"):
    if step > total_steps:
        return 0.0
    if step < warmup_steps:
        return step / warmup_steps
    over = (step - warmup_steps) / (total_steps - warmup_steps)
    return 1 - over if shape == "linear" else (1 + math.cos(math.pi * over)) / 2


def smaller_of_rise_and_fall(step, warmup_steps, total_steps, shape="linear"):
    left = max(0.0, 1 - step / total_steps)
    fall = left if shape == "linear" else (1 - math.cos(math.pi * left)) / 2
    return min(fall, step / warmup_steps if warmup_steps else 1.0)


def divides_first(step, warmup_steps, total_steps, shape="linear"):
    rise = step / warmup_steps
    if step < warmup_steps:
        return rise
    return as_in_transformers(step, warmup_steps, total_steps, shape)


# accumulated_step, right


def sum_over_all_labels(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad(set_to_none=False)
    total = int((labels != -100).sum())
    for x, y in zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / total
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


def share_of_each_mean(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    for parameter in model.parameters():
        parameter.grad = None
    total = (labels != -100).sum().item()
    for start in range(0, len(inputs), micro_batch_size):
        y = labels[start : start + micro_batch_size]
        count = (y != -100).sum().item()
        if count == 0:
            continue
        mean = F.cross_entropy(model(inputs[start : start + micro_batch_size]), y)
        scaler.scale(mean.float() * (count / total)).backward()
    scaler.unscale_(optimizer)
    group = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in group]))
    for parameter in group:
        parameter.grad *= min(1.0, clip_norm / (norm.item() + 1e-6))
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()


def divides_the_gradients_in_the_end(
    model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm
):
    optimizer.zero_grad()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(inputs, labels), batch_size=micro_batch_size
    )
    count = 0
    for x, y in loader:
        logs = F.log_softmax(model(x), dim=1)
        picked = logs.gather(1, y.clamp(min=0).unsqueeze(1)).squeeze(1)
        scaler.scale(-(picked * (y != -100)).sum()).backward()
        count += (y != -100).sum()
    scaler.unscale_(optimizer)
    for parameter in model.parameters():
        parameter.grad.div_(count)
    nn.utils.clip_grad_norm_(list(model.parameters()), max_norm=clip_norm)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()
    optimizer.zero_grad()


# accumulated_step, wrong


def stepping(
    weight="sum", zero="first", drop=False, scales=True, link=lambda loss: loss, in_loop=(),
    then=("unscale", "clip", "step", "update", "schedule"),
):  # fmt: skip
    """An answer put together from its calls, in any order."""

    def answer(model, inputs, labels, micro_batch_size, optimizer, scheduler, scaler, clip_norm):
        def divide():
            for parameter in model.parameters():
                parameter.grad.div_(scaler.get_scale())

        calls = {
            "zero": optimizer.zero_grad,
            "divide": divide,
            "eval": model.eval,
            "unscale": lambda: scaler.unscale_(optimizer),
            "clip": lambda: nn.utils.clip_grad_norm_(model.parameters(), clip_norm),
            "step": lambda: scaler.step(optimizer),
            "own step": optimizer.step,
            "update": scaler.update,
            "schedule": scheduler.step,
        }
        if zero == "first":
            optimizer.zero_grad()
        total = (labels != -100).sum()
        parts = [*zip(inputs.split(micro_batch_size), labels.split(micro_batch_size), strict=True)]
        if drop and len(parts[-1][0]) < micro_batch_size:
            parts = parts[:-1]
        for x, y in parts:
            mean = F.cross_entropy(model(x), y)
            loss = {
                "sum": F.cross_entropy(model(x), y, reduction="sum") / total,
                "mean": mean,
                "mean / k": mean / len(parts),
                "mean / size": mean / micro_batch_size,
            }[weight]
            (scaler.scale(link(loss)) if scales else loss).backward()
            for call in in_loop:
                calls[call]()
        for call in then:
            calls[call]()

    return answer


RIGHT = {
    "layerwise_lrs": [from_the_top_down, powers_of_the_inverse, in_float32, exponentials_of_numpy],
    "parameter_groups": [
        group_per_parameter,
        by_the_names_of_what_is_not_decayed,
        module_by_module,
        one_group_after_another,
    ],
    "warmup_then_decay": [
        as_in_transformers,
        interpolates,
        smaller_of_two,
        at_the_end_one_when_all_is_warm_up,
    ],
    "accumulated_step": [sum_over_all_labels, share_of_each_mean, divides_the_gradients_in_the_end],
}
VARIANTS = {
    "layerwise_lrs": {
        "exponent_reversed": [rates_reversed_by_slicing, reversed_with_the_head_below],
        "multiplies_by_the_decay": [negative_exponent_twice],
        "head_decayed": [head_as_low_as_the_embeddings],
        "divides_once_only": [everything_below_the_head_once],
        "embeddings_share_the_first_block": [copies_the_first_block],
        "top_block_decayed": [counts_the_head_as_a_layer],
        "base_lr_once_only": [top_block_forgotten],
        "head_one_step_above": [rises_by_one_factor_to_the_head],
    },
    "parameter_groups": {
        "takes_layer_10_for_1": [grouped(layer_of=first_block_that_matches)],
        "loses_the_top_block": [loses_the_last_of_the_blocks],
        "loses_the_pooler": [grouped(takes=only_the_classifier)],
        "head_in_two_groups": [adds_the_classifier_again],
        "group_decay_is_fixed": [
            grouped(rate=lambda lr, decay, layer, depth: lr * 2.6 ** -max(0, depth - layer))
        ],
        "tied_weight_in_two_groups": [modules_and_a_head_of_all_others],
        "groups_reversed": [
            grouped(rate=lambda lr, decay, layer, depth: lr / decay ** (layer % (depth + 1)))
        ],
        "one_rate_for_all": [grouped(rate=lambda lr, decay, layer, depth: lr)],
        "blocks_one_step_low": [grouped(layer_of=names_count_from_zero)],
        "embeddings_with_the_first_block": [
            grouped(layer_of=lambda name, depth: max(1, number_in_the_name(name, depth)))
        ],
        "all_below_the_head_one_step_low": [
            grouped(
                rate=lambda lr, decay, layer, depth: lr * decay ** min(0, layer - depth - 1),
            )
        ],
        "head_group_one_step_above": [grouped(rate=rises_to_the_head)],
        "pooler_below_the_head": [grouped(layer_of=pooler_with_the_blocks)],
        "decays_everything": [grouped(strength=lambda name, parameter: True)],
        "decays_normalisation": [grouped(strength=lambda name, parameter: "bias" not in name)],
        "decays_biases": [grouped(strength=lambda name, parameter: "Norm" not in name)],
        "hands_over_frozen": [grouped(takes=lambda name, parameter: True)],
    },
    "warmup_then_decay": {
        "warms_up_one_step_ahead": [
            scheduled(rise=lambda step, warmup, total: min(1, (step + 1) / warmup))
        ],
        "jumps_at_the_joint": [
            scheduled(over=lambda step, warmup, total: min(1, step / max(1, total))),
            cosine_alone_jumps,
        ],
        "decay_cuts_into_the_warm_up": [smaller_of_rise_and_fall],
        "divides_by_zero_without_decay": [divides_by_nothing_at_the_end],
        "never_leaves_zero": [
            scheduled(rise=lambda step, warmup, total: 0),
            scheduled(rise=lambda step, warmup, total: torch.zeros(())),
        ],
        "negative_past_the_end": [straight_down_without_a_floor],
        "divides_by_zero_without_warm_up": [divides_first],
        "quarter_of_a_cosine": [
            scheduled(
                fall=lambda share, shape: (
                    1 - share if shape == "linear" else math.sin(math.pi / 2 * (1 - share))
                )
            )
        ],
    },
    "accumulated_step": {
        "not_divided": [stepping("mean")],
        "divides_twice": [stepping("mean / size")],
        "never_steps": [stepping(then=())],
        "no_gradient_at_the_step": [
            stepping("mean", in_loop=("zero",)),
            stepping(then=("zero", "unscale", "clip", "step", "update", "schedule")),
            stepping(link=lambda loss: loss.detach()),
            stepping(link=lambda loss: torch.tensor(loss.item(), requires_grad=True)),
        ],
        "never_scales": [
            stepping(scales=False),
            stepping(scales=False, then=("step", "update", "schedule")),
        ],
        "updates_too_early": [
            stepping(in_loop=("update",), then=("unscale", "clip", "step", "schedule")),
            stepping(then=("clip", "own step", "update", "schedule")),
            stepping(then=("clip", "update", "step", "schedule")),
        ],
        "updates_before_the_step": [
            stepping(then=("unscale", "update", "clip", "step", "schedule")),
            stepping(then=("unscale", "clip", "update", "schedule", "step")),
        ],
        "unscales_once_too_often": [
            stepping(then=("divide", "clip", "step", "update", "schedule")),
            stepping(then=("unscale", "divide", "clip", "step", "update", "schedule")),
        ],
        "puts_into_evaluation_mode": [
            stepping(in_loop=("eval",)),
            stepping(then=("unscale", "clip", "step", "update", "schedule", "eval")),
        ],
        "mean_of_means": [stepping("mean / k")],
        "steps_every_micro_batch": [
            stepping(in_loop=("unscale", "clip", "step", "update", "zero"), then=("schedule",)),
            stepping(in_loop=("unscale", "clip", "step", "update", "schedule", "zero"), then=()),
        ],
        "clips_before_unscaling": [
            stepping(then=("clip", "unscale", "step", "update", "schedule"))
        ],
        "clips_every_micro_batch": [
            stepping(in_loop=("clip",)),
            stepping(in_loop=("clip",), then=("step", "update", "schedule")),
        ],
        "never_clips": [stepping(then=("unscale", "step", "clip", "update", "schedule"))],
        "schedules_every_micro_batch": [
            stepping(in_loop=("schedule",), then=("unscale", "clip", "step", "update"))
        ],
        "drops_the_last_partial": [stepping(drop=True)],
        "never_zeroes": [stepping(zero="never")],
        "zeroes_afterwards": [
            stepping(zero="never", then=("unscale", "clip", "step", "update", "schedule", "zero"))
        ],
        "steps_past_the_scaler": [
            stepping(then=("unscale", "clip", "own step", "update", "schedule"))
        ],
        "never_updates_the_scaler": [stepping(then=("unscale", "clip", "step", "schedule"))],
    },
}
