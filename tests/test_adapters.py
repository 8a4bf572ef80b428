"""Adapters against the paper's formula, and a BERT's block with them written out."""

import copy

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaForTokenClassification,
)

from course_lib.adapters import Adapter, adapter_parameters, add_adapters, remove_adapters
from course_lib.bert import random_weights
from course_lib.layerwise import parameter_groups
from course_lib.lora import ATTENTION, add_lora, remove_lora
from course_lib.trainer import Settings, Trainer

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 5e-3}
IDS = torch.arange(5, 45).reshape(4, 10)


def classifier(**changes):
    return random_weights(0, "sequence_classification", num_labels=3, **changes)


def adapters_of(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, Adapter)}


def shake(model):
    """Something else than the start."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def flags(model):
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def same(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


# --- one adapter ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("activation", [nn.functional.gelu, torch.tanh])
@pytest.mark.parametrize("shape", [(6,), (2, 3, 6), (0, 6)])
def test_it_is_the_paper_s_formula(dtype, activation, shape):
    torch.manual_seed(1)
    found = Adapter(6, 3, activation).to(dtype)
    shake(found)
    h = torch.randn(shape, dtype=dtype)
    down, up = found.down.weight.double(), found.up.weight.double()
    inner = activation(h.double() @ down.T + found.down.bias.double())
    wanted = h.double() + inner @ up.T + found.up.bias.double()
    output = found(h)
    assert output.dtype == dtype and output.shape == shape
    torch.testing.assert_close(output.double(), wanted, rtol=0, atol=ROUNDING[dtype])


def test_numerical_gradients():
    found = Adapter(5, 2).double()
    shake(found)
    h = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*found.named_parameters(), strict=True)

    def call(h, *tensors):
        return torch.func.functional_call(found, dict(zip(names, tensors, strict=True)), (h,))

    assert torch.autograd.gradcheck(call, (h, *parameters))


@pytest.mark.parametrize("dtype", ROUNDING)
def test_the_start_is_the_identity_and_learns_from_the_first_step(dtype):
    found, h = Adapter(40, 8).to(dtype), torch.randn(7, 40, dtype=dtype)
    assert torch.equal(found(h), h)
    assert not found.up.weight.any() and not found.up.bias.any() and not found.down.bias.any()
    found(h).square().sum().backward()
    assert found.up.weight.grad.abs().max() > 0


@pytest.mark.parametrize("m", [0, -1, 7, 2.0])
def test_a_bottleneck_that_is_none_is_refused(m):
    with pytest.raises(ValueError, match=f"m must be an integer from 1 to 6, the width, got {m}"):
        Adapter(6, m)


# --- a model --------------------------------------------------------------------------------------


def block_by_hand(block, hidden, per_block):
    """A block of the paper's figure 2 in evaluation mode, from a BERT's own matrices."""

    def adapted(part, x, use):
        output = part.dense(x)
        return part.dropout[1](output) if use else output

    attention = block.attention
    context = attention.self(hidden)[0]
    middle = attention.output.LayerNorm(
        hidden + adapted(attention.output, context, use=per_block == 2)
    )
    inner = nn.functional.gelu(block.intermediate.dense(middle))
    return block.output.LayerNorm(middle + adapted(block.output, inner, use=True))


@pytest.mark.parametrize("per_block", [1, 2])
def test_they_are_before_the_sum_and_the_normalisation(per_block):
    model = classifier(hidden_dropout_prob=0.1)
    add_adapters(model, 8, per_block)
    assert len(adapters_of(model)) == 2 * per_block
    shake(model)
    hidden = model.bert.embeddings(IDS)
    for block in model.bert.encoder.layer:
        hidden = block_by_hand(block, hidden, per_block)
    torch.testing.assert_close(model.bert(IDS).last_hidden_state, hidden)


@pytest.mark.parametrize("per_block", [1, 2])
def test_the_start_changes_nothing_and_head_and_adapters_are_left_to_train(per_block):
    model = classifier()
    logits = model(IDS).logits
    left = add_adapters(model, 8, per_block)
    assert torch.equal(model(IDS).logits, logits)
    wanted = {f"{name}.{p}" for name, m in adapters_of(model).items() for p in m.state_dict()}
    wanted |= {"classifier.weight", "classifier.bias"}
    assert {name for name, trained in flags(model).items() if trained} == wanted
    assert {id(p) for p in left} == {id(p) for p in model.parameters() if p.requires_grad}
    counted = sum(parameter.numel() for parameter in left) - (3 * 128 + 3)
    assert counted == adapter_parameters(model.config, 8, per_block)


def test_new_adapters_are_in_the_mode_of_the_model():
    for mode in (False, True):
        model = classifier().train(mode)
        add_adapters(model, 8)
        assert all(module.training == mode for module in model.modules())


def test_layer_norms_are_trained_as_in_the_paper_if_they_are_named():
    model = classifier()
    add_adapters(model, 8, extras=["attention.output.LayerNorm", "output.LayerNorm"])
    for name, trained in flags(model).items():
        if "LayerNorm" in name:
            assert trained == ("embeddings" not in name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_removing_them_gives_back_every_bit(dtype):
    bert = classifier().to(dtype)
    roberta = RobertaForTokenClassification(
        RobertaConfig(hidden_size=16, num_attention_heads=2, intermediate_size=24, vocab_size=50)
    )
    encoder = random_weights(0, None)
    for model in (bert, roberta.eval(), encoder):
        next(model.parameters()).requires_grad_(False)  # something was frozen before
        modules, before, frozen = dict(model.named_modules()), weights(model), flags(model)
        output = model(IDS)[0]
        add_adapters(model, 4, extras=["output.LayerNorm"])
        shake(model)
        assert not torch.allclose(model(IDS)[0], output, atol=1e-2)
        twin = copy.deepcopy(model)
        remove_adapters(model)
        assert torch.equal(model(IDS)[0], output)
        assert same(model.state_dict(), before) and flags(model) == frozen
        assert list(modules.items()) == list(dict(model.named_modules()).items())
        assert not hasattr(model, "before_tuning")
        remove_adapters(twin)
        assert same(twin.state_dict(), before)


def examples(number, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(5, 50, (number, 8), generator=generator)
    return [{"input_ids": row.tolist(), "labels": int(row[0] > 27)} for row in rows]


def test_the_trainer_trains_them():
    model = random_weights(0, "sequence_classification", hidden_dropout_prob=0.1)
    before = weights(model)
    left = add_adapters(model, 16, extras=["bert.pooler"])
    groups = parameter_groups(model, 1e-3)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, left))
    trainer = Trainer(model, Settings(epochs=6, learning_rate=5e-3), examples(200, 1))
    history = trainer.fit(progress=False)
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    assert trainer.evaluate(examples(200, 2))[1] > 0.75
    for name, tensor in before.items():
        trained = name.startswith(("classifier", "bert.pooler"))
        assert torch.equal(model.state_dict()[name], tensor) != trained, name
    remove_adapters(model)
    assert same(model.state_dict(), before)


def test_counts_of_bert_base():
    with torch.device("meta"):
        encoder, whole = BertModel(BertConfig()), BertForPreTraining(BertConfig())
    encoder, whole = (sum(p.numel() for p in model.parameters()) for model in (encoder, whole))
    one, two = (adapter_parameters(BertConfig(), 64, number) for number in (1, 2))
    assert one == 12 * (2 * 768 * 64 + 768 + 64) == 1_189_632 and two == 2 * one
    assert (round(100 * one / encoder, 2), round(100 * two / encoder, 2)) == (1.09, 2.17)
    assert (round(100 * one / whole, 2), round(100 * two / whole, 2)) == (1.08, 2.16)
    with pytest.raises(ValueError, match="m must be an integer from 1 to 768, the width, got 769"):
        adapter_parameters(BertConfig(), 769)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"m": 0}, ValueError, "m must be an integer from 1 to 128, the width, got 0"),
        ({"m": 129}, ValueError, "got 129"),
        ({"per_block": 3}, ValueError, "per_block must be 1 or 2, got 3"),
        ({"extras": ["puller"]}, ValueError, "called 'puller'"),
        ({"extras": "bert"}, TypeError, "not the string 'bert'"),
    ],
)
def test_adapters_that_cannot_be_leave_the_model_alone(change, error, message):
    model = classifier()
    before, modules = weights(model), dict(model.named_modules())
    with pytest.raises(error, match=message):
        add_adapters(model, **({"m": 8} | change))
    assert same(model.state_dict(), before) and all(flags(model).values())
    assert list(modules.items()) == list(dict(model.named_modules()).items())
    assert not hasattr(model, "before_tuning")


def test_another_architecture_is_refused():
    model = DistilBertModel(DistilBertConfig(n_layers=1, dim=16, n_heads=2, hidden_dim=24))
    with pytest.raises(ValueError, match="DistilBertModel is not built like a BERT: no 'encoder"):
        add_adapters(model, 2)


def test_adapters_and_lora_do_not_share_a_model():
    model = classifier()
    before = weights(model)
    add_adapters(model, 8)
    with pytest.raises(ValueError, match="has adapters or LoRA already"):
        add_adapters(model, 8)
    with pytest.raises(ValueError, match=r"remove_adapters\(model\) first"):
        add_lora(model, ATTENTION, 2, 4.0)
    with pytest.raises(ValueError, match="has no LoRA"):
        remove_lora(model)
    remove_adapters(model)
    add_lora(model, ATTENTION, 2, 4.0)
    with pytest.raises(ValueError, match="has adapters or LoRA already"):
        add_adapters(model, 8)
    with pytest.raises(ValueError, match="has no adapters"):
        remove_adapters(model)
    remove_lora(model)
    assert same(model.state_dict(), before)
