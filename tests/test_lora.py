"""LoRA against the paper's formula in float64 and against peft; what goes in comes out again."""

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForTokenClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from course_lib.bert import random_weights
from course_lib.layerwise import parameter_groups
from course_lib.lora import (
    ATTENTION,
    LoRALinear,
    add_lora,
    fold_lora,
    lora_layers,
    lora_parameters,
    remove_lora,
    use_lora,
)
from course_lib.trainer import Settings, Trainer

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
IDS = torch.arange(5, 45).reshape(4, 10)


def classifier(**changes):
    return random_weights(0, "sequence_classification", num_labels=3, **changes)


def layer(d_in=6, d_out=4, r=3, alpha=5.0, dtype=torch.float64, bias=True, **options):
    """A layer as after some training: B is not zero."""
    torch.manual_seed(1)
    made = LoRALinear(nn.Linear(d_in, d_out, bias=bias, dtype=dtype), r, alpha, **options)
    nn.init.normal_(made.B)
    return made


def shake(model, seed=2):
    """Something else than the start: B of every layer in use, and the head."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not name.endswith(".A"):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def flags(model):
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def same(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


# --- one layer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6), (0, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_paper_s_formula(dtype, shape, bias):
    found = layer(dtype=dtype, bias=bias)
    x = torch.randn(shape, dtype=dtype)
    weight, a, b = found.base.weight.double(), found.A.double(), found.B.double()
    wanted = x.double() @ (weight + 5.0 / 3 * b @ a).T
    if bias:
        wanted = wanted + found.base.bias.double()
    output = found(x)
    assert output.dtype == dtype and output.shape == (*shape[:-1], 4)
    scale = 1 + wanted.abs().max().item() if wanted.numel() else 1
    torch.testing.assert_close(output.double(), wanted, rtol=0, atol=scale * ROUNDING[dtype])


@pytest.mark.parametrize("dtype", ROUNDING)
def test_gradients_are_those_of_the_formula(dtype):
    """dB = s g^T (x A^T), dA = s B^T g^T x, dx = g (W + s B A)."""
    found = layer(dtype=dtype)
    x = torch.randn(2, 5, 6, dtype=dtype, requires_grad=True)
    upstream = torch.randn(2, 5, 4, dtype=dtype)
    found(x).backward(upstream)
    g, rows = upstream.double().reshape(-1, 4), x.detach().double().reshape(-1, 6)
    weight, a, b = (p.detach().double() for p in (found.base.weight, found.A, found.B))
    s = 5.0 / 3
    wanted = [s * g.T @ (rows @ a.T), s * b.T @ g.T @ rows, (g @ (weight + s * b @ a))]
    for grad, want in zip((found.B.grad, found.A.grad, x.grad.reshape(-1, 6)), wanted, strict=True):
        assert grad.dtype == dtype
        atol = ROUNDING[dtype] * (1 + want.abs().max().item())
        torch.testing.assert_close(grad.double(), want, rtol=0, atol=atol)
    assert found.base.weight.grad is None and found.base.bias.grad is None


def test_numerical_gradients():
    found = layer()
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, a, b: _with(found, a, b)(x), (x, found.A, found.B))


def _with(found, a, b):
    tensors = {"adapters.default.A": a, "adapters.default.B": b}
    return lambda x: torch.func.functional_call(found, tensors, (x,))


def test_it_is_peft_s_layer():
    for r, alpha in ((1, 1), (3, 16)):
        mine = layer(r=r, alpha=alpha, dtype=torch.float32)
        theirs = get_peft_model(
            nn.Sequential(copy.deepcopy(mine.base)),
            LoraConfig(r=r, lora_alpha=alpha, target_modules=["0"]),
        ).base_model.model[0]
        with torch.no_grad():
            theirs.lora_A["default"].weight.copy_(mine.A)
            theirs.lora_B["default"].weight.copy_(mine.B)
        x = torch.randn(7, 6)
        torch.testing.assert_close(mine(x), theirs(x))
        mine(x).square().sum().backward()
        theirs(x).square().sum().backward()
        torch.testing.assert_close(mine.A.grad, theirs.lora_A["default"].weight.grad)
        torch.testing.assert_close(mine.B.grad, theirs.lora_B["default"].weight.grad)
        mine.merge()
        theirs.merge()
        torch.testing.assert_close(mine.weight, theirs.base_layer.weight)


def test_the_start_changes_nothing_and_learns_from_the_first_step():
    base = nn.Linear(50, 20)
    found = LoRALinear(copy.deepcopy(base), 4, 8.0)
    x = torch.randn(9, 50)
    assert torch.equal(found(x), base(x))
    found(x).sum().backward()
    assert found.B.grad.abs().min() > 0 and not found.A.grad.any()


def test_a_is_uniform_with_fan_in_of_the_input_and_b_is_zero():
    found = LoRALinear(nn.Linear(400, 1000), 200, 1.0)
    assert found.A.shape == (200, 400) and found.B.shape == (1000, 200)
    assert not found.B.any()
    assert 0.999 / 20 < found.A.abs().max() <= 1 / 20
    # uniform within b has variance b^2 / 3; 80 000 draws know it to 0.3 % (one deviation)
    assert found.A.var().item() == pytest.approx(1 / 400 / 3, rel=0.02)


def test_a_generator_is_all_the_chance_there_is():
    def drawn(dtype):
        generator = torch.Generator().manual_seed(3)
        return LoRALinear(nn.Linear(8, 8, dtype=dtype), 2, 1.0, generator=generator).A

    base = nn.Linear(8, 8)
    before = torch.get_rng_state()
    LoRALinear(base, 2, 1.0, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn(torch.float32), drawn(torch.float32))
    assert torch.equal(drawn(torch.float32).bfloat16(), drawn(torch.bfloat16))


def saved_for_backward(module, x):
    """Elements that autograd keeps, each storage once, the module's own parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no address repeats
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = module(x)
    assert result.requires_grad
    return sum(tensor.numel() for tensor in kept.values())


def test_the_base_has_no_memory_for_gradients():
    """Kept are the input (for A) and the r numbers a row (for B), which is what peft keeps."""
    found = LoRALinear(nn.Linear(100, 90), 2, 1.0)
    theirs = get_peft_model(
        nn.Sequential(nn.Linear(100, 90)), LoraConfig(r=2, target_modules=["0"])
    )
    x = torch.randn(70, 100)
    assert saved_for_backward(found, x) == 70 * (100 + 2) <= saved_for_backward(theirs, x)
    found(x).sum().backward()
    assert all(parameter.grad is None for parameter in found.base.parameters())


def test_dropout_is_on_the_update_alone_and_in_training_alone():
    found = layer(d_in=40, d_out=3, dropout=0.5, dtype=torch.float32)
    x = torch.randn(2, 40)
    expanded = x.expand(20000, 2, 40)
    assert torch.equal(found.eval()(x), layer(d_in=40, d_out=3, dtype=torch.float32)(x))
    outputs = found.train()(expanded)
    assert outputs.std(dim=0).min() > 0.1
    error = outputs.mean(dim=0) - found.eval()(x)
    assert (error.abs() < 5 * outputs.std(dim=0) / 20000**0.5).all()
    nn.init.zeros_(found.B)
    assert torch.equal(found.train()(x), found.base(x))


def test_a_new_layer_is_in_the_mode_of_its_base():
    found = LoRALinear(nn.Linear(4, 4).eval(), 1, 1.0)
    assert not any(module.training for module in found.modules())
    found.add("other", 1, 1.0)
    assert not any(module.training for module in found.modules())
    assert all(module.training for module in LoRALinear(nn.Linear(4, 4), 1, 1.0).modules())


@pytest.mark.parametrize("dtype", ROUNDING)
def test_merging_is_the_sum_and_unmerging_gives_back_every_bit(dtype):
    found = layer(d_in=64, d_out=48, r=8, dtype=dtype)
    x = torch.randn(5, 64, dtype=dtype)
    before, output, state = weights(found), found(x), found.state_dict()
    exact = found.base.weight.double() + 5.0 / 8 * found.B.double() @ found.A.double()
    found.merge()
    assert found.weight.dtype == dtype and not found.weight.requires_grad
    # Rounded to the dtype once, after sums of 9 terms in float32 or float64.
    unit, wide = (torch.finfo(t).eps for t in (dtype, torch.promote_types(dtype, torch.float32)))
    atol = 4 * wide * exact.abs().max().item()
    torch.testing.assert_close(found.weight.double(), exact, rtol=unit / 2, atol=atol)
    atol = ROUNDING[dtype] * (1 + output.abs().max().item())
    torch.testing.assert_close(found(x), output, rtol=0, atol=atol)
    assert same(found.state_dict(), before)
    once = found.weight.clone()
    found.merge()
    assert torch.equal(found.weight, once)
    for _ in range(2):
        found.unmerge()
        assert same(found.state_dict(), before) and torch.equal(found(x), output)
        assert found.weight is found.base.weight
    assert all(state[name].data_ptr() == found.state_dict()[name].data_ptr() for name in state)


def test_merged_it_is_one_product_and_moves_with_the_module():
    found = layer()
    found.merge()
    x = torch.randn(3, 6)
    found.float()
    assert torch.equal(found(x), nn.functional.linear(x, found.weight, found.bias))
    assert found.weight.dtype == torch.float32


def test_training_mode_unmerges_so_that_nothing_is_trained_in_vain():
    found = layer().eval()
    x = torch.randn(3, 6, dtype=torch.float64)
    found.merge()
    assert not found(x).requires_grad
    nn.Sequential(found).train()
    found(x).sum().backward()
    assert found.A.grad.any() and found.B.grad.any()


def test_two_updates_on_one_base_are_switched_without_copies():
    found = layer()
    x = torch.randn(3, 6, dtype=torch.float64)
    first = found(x)
    found.add("other", 2, 1.0)
    nn.init.normal_(found.B)
    second = found(x)
    addresses = [p.data_ptr() for p in found.parameters()]
    assert not torch.allclose(first, second)
    for name, wanted in (("default", first), ("other", second), (None, found.base(x))) * 2:
        found.use(name)
        assert torch.equal(found(x), wanted)
        trained = {key for key, parameter in found.named_parameters() if parameter.requires_grad}
        assert trained == ({f"adapters.{name}.A", f"adapters.{name}.B"} if name else set())
    assert [p.data_ptr() for p in found.parameters()] == addresses


def test_switching_does_not_leave_the_other_one_merged():
    found = layer()
    found.add("other", 2, 1.0)
    x = torch.randn(3, 6, dtype=torch.float64)
    wanted = found(x)
    found.use("default")
    found.merge()
    found.use("other")
    assert torch.equal(found(x), wanted)
    found.use(None)
    for call in (found.merge, lambda: found.A, lambda: found.B):
        with pytest.raises(ValueError, match="No adapter is in use here"):
            call()
    with pytest.raises(ValueError, match=r"no adapter 'third', but \['default', 'other'\]"):
        found.use("third")


def test_mixed_precision_and_per_example_gradients():
    found = layer(dtype=torch.float32)
    x = torch.randn(4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = found(x)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), found(x), rtol=0, atol=0.1)
    output.float().sum().backward()
    assert found.A.grad.dtype == torch.float32
    trained = {n: p.detach() for n, p in found.named_parameters() if p.requires_grad}

    def loss(parameters, row):
        return torch.func.functional_call(found, parameters, (row,)).square().sum()

    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(trained, x)
    for i, row in enumerate(x):
        for name, grad in torch.func.grad(loss)(trained, row).items():
            torch.testing.assert_close(together[name][i], grad)


BAD_LAYERS = [
    ((nn.Linear(6, 4), 0, 1.0), {}, ValueError, "r must be an integer from 1 to 4.*got 0"),
    ((nn.Linear(6, 4), -1, 1.0), {}, ValueError, "got -1"),
    ((nn.Linear(6, 4), 5, 1.0), {}, ValueError, "from 1 to 4, the smaller width.*got 5"),
    ((nn.Linear(6, 4), 2.0, 1.0), {}, ValueError, "an integer.*got 2.0"),
    ((nn.Linear(6, 4), 2, 0.0), {}, ValueError, "alpha must be above 0.*got 0.0"),
    ((nn.Linear(6, 4), 2, float("nan")), {}, ValueError, "alpha must be.*got nan"),
    ((nn.Linear(6, 4), 2, 1.0, 1.0), {}, ValueError, r"dropout in \[0, 1\), got 1.0 and 1.0"),
    ((nn.Linear(6, 4), 2, 1.0), {"name": "a.b"}, ValueError, "'a.b' is taken, or cannot be"),
    ((nn.Linear(6, 4), 2, 1.0), {"name": ""}, ValueError, "'' is taken, or cannot be"),
    ((nn.Linear(6, 4), 2, 1.0), {"name": "keys"}, ValueError, "'keys' is taken, or cannot be"),
    ((nn.Embedding(6, 4), 2, 1.0), {}, TypeError, "plain nn.Linear, got a Embedding"),
]


@pytest.mark.parametrize("arguments, options, error, message", BAD_LAYERS)
def test_a_layer_that_cannot_be_is_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        LoRALinear(*arguments, **options)
    assert all(parameter.requires_grad for parameter in arguments[0].parameters())


def test_a_second_update_of_the_same_name_is_refused():
    found = layer()
    with pytest.raises(ValueError, match="'default' is taken"):
        found.add("default", 1, 1.0)


# --- a model --------------------------------------------------------------------------------------

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 50}
MODELS = {
    "BERT": (lambda: BertForSequenceClassification(BertConfig(**SMALL)), ATTENTION),
    "RoBERTa": (lambda: RobertaForTokenClassification(RobertaConfig(**SMALL)), ["query", "value"]),
    "DistilBERT": (
        lambda: DistilBertForSequenceClassification(
            DistilBertConfig(n_layers=2, dim=16, n_heads=2, hidden_dim=24, vocab_size=50)
        ),
        ["q_lin", "ffn.lin2"],
    ),
    "masked LM": (lambda: random_weights(0), ATTENTION),
    "T5": (
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
        ),
        ["q", "wo"],
    ),
}


def test_the_layers_are_those_of_exactly_these_names():
    model = classifier(num_hidden_layers=11)
    left = add_lora(model, ["layer.1.attention.self.query", "attention.output.dense"], 2, 4.0)
    wanted = {f"bert.encoder.layer.{block}.attention.output.dense" for block in range(11)}
    wanted.add("bert.encoder.layer.1.attention.self.query")
    assert set(lora_layers(model)) == wanted
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {
        *(f"{name}.adapters.default.{factor}" for name in wanted for factor in "AB"),
        "classifier.weight",
        "classifier.bias",
    }
    assert {id(p) for p in left} == {id(p) for p in model.parameters() if p.requires_grad}
    assert not any(isinstance(m, LoRALinear) for m in model.bert.encoder.layer[10].output.modules())


def test_an_end_of_a_name_is_whole_words_and_a_full_name_is_that_module_alone():
    model = classifier()
    add_lora(model, ["bert.encoder.layer.0.output.dense"], 2, 4.0)
    assert list(lora_layers(model)) == ["bert.encoder.layer.0.output.dense"]
    for name in ("uery", "self.quer", ".query", ""):
        with pytest.raises(ValueError, match="No module is called"):
            add_lora(model, [name], 2, 4.0, name="second")


def test_a_predicate_is_asked_for_every_linear_layer_outside_head_and_extras():
    model, asked = classifier(), {}
    add_lora(model, lambda name, m: asked.setdefault(name, m) is m, 2, 4.0, extras=["bert.pooler"])
    linear = {n for n, m in classifier().named_modules() if isinstance(m, nn.Linear)}
    assert set(asked) == set(lora_layers(model)) == linear - {"classifier", "bert.pooler.dense"}
    assert all(type(module) is nn.Linear for module in asked.values())
    assert all(parameter.requires_grad for parameter in model.bert.pooler.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_any_transformers_model_computes_the_same_at_first_and_is_itself_again(name):
    make, targets = MODELS[name]
    model = make().eval()
    next(model.parameters()).requires_grad_(False)  # something was frozen before
    modules, before, frozen = dict(model.named_modules()), weights(model), flags(model)
    inputs = {"input_ids": IDS} | ({"decoder_input_ids": IDS} if name == "T5" else {})
    logits = model(**inputs).logits
    add_lora(model, targets, 2, 4.0)
    start = model(**inputs).logits
    # torch chooses another kernel for some products if a weight is frozen: T5 differs by rounding
    torch.testing.assert_close(start, logits, rtol=0, atol=1e-5)
    use_lora(model, None)
    assert torch.equal(model(**inputs).logits, start)
    use_lora(model, "default")
    shake(model)
    assert not torch.allclose(model(**inputs).logits, logits, atol=1e-4)
    for layer in lora_layers(model).values():
        layer.merge()
    add_lora(model, targets, 1, 4.0, name="second")
    shake(model)
    remove_lora(model)
    assert torch.equal(model(**inputs).logits, logits)
    assert same(model.state_dict(), before) and flags(model) == frozen
    assert list(modules.items()) == list(dict(model.named_modules()).items())
    assert not hasattr(model, "before_tuning")


def test_on_a_bert_it_is_peft():
    mine = classifier()
    theirs = get_peft_model(
        copy.deepcopy(mine),
        LoraConfig(
            r=4, lora_alpha=16, target_modules=list(ATTENTION), modules_to_save=["classifier"]
        ),
    )
    left = add_lora(mine, ATTENTION, 4, 16)
    shake(mine)
    counted = sum(parameter.numel() for parameter in left)
    assert counted == theirs.get_nb_trainable_parameters()[0]
    with torch.no_grad():
        for name, layer in lora_layers(mine).items():
            other = theirs.base_model.model.get_submodule(name)
            other.lora_A["default"].weight.copy_(layer.A)
            other.lora_B["default"].weight.copy_(layer.B)
        head = theirs.base_model.model.classifier.modules_to_save["default"]
        head.load_state_dict(mine.classifier.state_dict())
    labels = torch.tensor([0, 1, 2, 0])
    one, other = mine(IDS, labels=labels), theirs(input_ids=IDS, labels=labels)
    torch.testing.assert_close(one.logits, other.logits)
    one.loss.backward()
    other.loss.backward()
    for name, layer in lora_layers(mine).items():
        grads = theirs.base_model.model.get_submodule(name)
        torch.testing.assert_close(layer.A.grad, grads.lora_A["default"].weight.grad)
        torch.testing.assert_close(layer.B.grad, grads.lora_B["default"].weight.grad)
    torch.testing.assert_close(mine.classifier.weight.grad, head.weight.grad)
    assert {id(p) for p in mine.parameters() if p.grad is not None} == {id(p) for p in left}


def examples(number, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(5, 50, (number, 8), generator=generator)
    return [{"input_ids": row.tolist(), "labels": int(row[0] > 27)} for row in rows]


def test_the_trainer_trains_it_and_removing_it_gives_back_even_the_head():
    model = random_weights(0, "sequence_classification", hidden_dropout_prob=0.1)
    before, modules = weights(model), dict(model.named_modules())
    left = add_lora(model, ATTENTION, 8, 16, dropout=0.1, extras=["bert.pooler"])
    groups = parameter_groups(model, 1e-3, decay=2.0)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, left))
    assert {group["layer"] for group in groups} == {1, 2, 3}
    trainer = Trainer(model, Settings(epochs=6, learning_rate=5e-3), examples(200, 1))
    modes = []
    history = trainer.fit(
        progress=False,
        after_step=lambda: modes.append({n: m.training for n, m in model.named_modules()}),
    )
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    assert trainer.evaluate(examples(200, 2))[1] > 0.75
    query = "bert.encoder.layer.0.attention.self.query"
    assert modes[0][f"{query}.adapters.default"] and not modes[0][f"{query}.base"]
    assert not modes[0]["bert.embeddings.dropout"]
    state = model.state_dict()
    for name, tensor in before.items():
        trained = name.startswith(("classifier", "bert.pooler"))
        plain = name if name in state else ".base.".join(name.rsplit(".", 1))
        assert torch.equal(state[plain], tensor) != trained, name
    remove_lora(model)
    assert same(model.state_dict(), before)
    assert list(modules.items()) == list(dict(model.named_modules()).items())


def test_switching_a_model_between_loras_with_other_layers_and_ranks():
    model = classifier()
    plain = model(IDS).logits
    add_lora(model, ["query", "value"], 2, 4.0, name="first")
    head = weights(model.classifier)
    shake(model)
    model.classifier.load_state_dict(head)
    first = model(IDS).logits
    add_lora(model, ["intermediate.dense", "query"], 3, 1.0, name="second")
    torch.testing.assert_close(model(IDS).logits, plain, rtol=0, atol=0)
    shake(model, seed=3)
    model.classifier.load_state_dict(head)
    second = model(IDS).logits
    trained = {"first": 2 * 2 * 2 * 256, "second": 2 * 3 * (256 + 384)}
    for name, wanted in (("first", first), ("second", second), (None, plain)) * 2:
        use_lora(model, name)
        assert torch.equal(model(IDS).logits, wanted)
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert count == trained.get(name, 0) + 3 * 128 + 3
    with pytest.raises(ValueError, match="no LoRA 'third'"):
        use_lora(model, "third")
    twin = copy.deepcopy(model)
    use_lora(twin, "first")
    assert torch.equal(twin(IDS).logits, first) and torch.equal(model(IDS).logits, plain)
    remove_lora(twin)
    assert torch.equal(twin(IDS).logits, plain)


def test_extras_of_the_first_lora_are_trained_with_the_second_too():
    model = classifier()
    add_lora(model, ["query"], 2, 4.0, name="first", extras=["bert.pooler"])
    left = add_lora(model, ["value"], 2, 4.0, name="second")
    assert {id(p) for p in model.bert.pooler.parameters()} <= {id(p) for p in left}
    with pytest.raises(ValueError, match="'bert.pooler.dense' is trained whole"):
        add_lora(model, ["pooler.dense"], 2, 4.0, name="third")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folding_leaves_a_plain_model_that_save_pretrained_saves(dtype, tmp_path):
    model = classifier().to(dtype)
    keys, frozen = list(model.state_dict()), flags(model)
    add_lora(model, ATTENTION, 2, 4.0)
    shake(model)
    logits = model(IDS).logits
    fold_lora(model)
    torch.testing.assert_close(model(IDS).logits, logits, rtol=0, atol=30 * ROUNDING[dtype])
    assert list(model.state_dict()) == keys and flags(model) == frozen
    model.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path, dtype=dtype)
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_a_layer_tied_to_the_embeddings_leaves_these_alone():
    model = random_weights(0)
    tied = model.get_input_embeddings().weight
    assert model.cls.predictions.decoder.weight is tied
    before = tied.clone()
    add_lora(model, ["cls.predictions.decoder"], 2, 4.0)
    shake(model)
    logits = model(IDS).logits
    model.cls.predictions.decoder.merge()
    torch.testing.assert_close(model(IDS).logits, logits, rtol=0, atol=1e-4)
    assert torch.equal(tied, before)
    remove_lora(model)
    assert model.cls.predictions.decoder.weight is tied


def test_counts():
    for r, millions in ((1, 0.07), (2, 0.15), (4, 0.29), (8, 0.59), (16, 1.18)):
        assert lora_parameters(BertConfig(), r, ATTENTION) == 73_728 * r
        assert round(73_728 * r / 1e6, 2) == millions
    assert lora_parameters(BertConfig(), 3, ["intermediate.dense"]) == 12 * 3 * (768 + 3072)
    names = ["encoder.layer.3.attention.self.key", "encoder.layer.4.output.dense"]
    assert lora_parameters(BertConfig(), 2, names) == 2 * (768 + 768) + 2 * (768 + 3072)
    model = classifier()
    for targets in (ATTENTION, lambda name, _: "output" in name):
        add_lora(model, targets, 5, 1.0)
        layers = lora_layers(model).values()
        counted = sum(layer.A.numel() + layer.B.numel() for layer in layers)
        assert counted == lora_parameters(model.config, 5, targets)
        remove_lora(model)
    with pytest.raises(ValueError, match="from 1 to 768.*got 769"):
        lora_parameters(BertConfig(), 769, ATTENTION)
    with pytest.raises(ValueError, match="No module is called 'attention.query'"):
        lora_parameters(BertConfig(), 1, ["attention.query"])


BAD_MODELS = [
    ({"targets": "query"}, TypeError, "not the string 'query'"),
    ({"extras": "bert"}, TypeError, "not the string 'bert'"),
    ({"targets": ["query", "quarry"]}, ValueError, "called 'quarry'"),
    ({"targets": []}, ValueError, "No layer of BertForSequenceClassification is a target"),
    ({"targets": lambda name, module: False}, ValueError, "No layer of"),
    ({"targets": ["query", "LayerNorm"]}, TypeError, "plain nn.Linear, got a LayerNorm"),
    ({"targets": ["layer.1"]}, TypeError, "got a BertLayer"),
    ({"targets": ["query", "classifier"]}, ValueError, "'classifier' is trained whole"),
    ({"extras": ["layer.0"]}, ValueError, "layer.0.attention.self.query' is trained whole"),
    ({"extras": ["puller"]}, ValueError, "called 'puller'"),
    ({"r": 0}, ValueError, "got 0"),
    ({"r": 129}, ValueError, "from 1 to 128.*got 129"),
    ({"alpha": -1.0}, ValueError, "got -1.0"),
    ({"dropout": -0.1}, ValueError, "got 1.0 and -0.1"),
    ({"name": "a.b"}, ValueError, "'a.b' is taken"),
    ({"name": "first"}, ValueError, "'first' is taken"),
]


@pytest.mark.parametrize("change, error, message", BAD_MODELS)
def test_a_lora_that_cannot_be_leaves_the_model_alone(change, error, message):
    arguments = {"targets": ATTENTION, "r": 2, "alpha": 1.0} | change
    plain, tuned = classifier(), classifier()
    add_lora(tuned, ["query"], 2, 4.0, name="first")
    shake(tuned)
    for model in [tuned] if change.get("name") == "first" else [plain, tuned]:
        before, frozen, modules = weights(model), flags(model), dict(model.named_modules())
        with pytest.raises(error, match=message):
            add_lora(model, **arguments)
        assert same(weights(model), before) and flags(model) == frozen
        assert list(dict(model.named_modules()).items()) == list(modules.items())
    assert not hasattr(plain, "before_tuning")
    remove_lora(tuned)
    assert same(weights(tuned), weights(plain))


def test_there_has_to_be_a_lora():
    for function in (remove_lora, fold_lora, lambda model: use_lora(model, "default")):
        with pytest.raises(ValueError, match="This BertForSequenceClassification has no LoRA"):
            function(classifier())


def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = classifier()
        add_lora(model, ATTENTION, 2, 4.0)
        model(IDS, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        fold_lora(model)
