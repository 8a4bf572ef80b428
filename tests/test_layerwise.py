"""Learning rates by layer on several transformers encoders."""

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForTokenClassification,
)

from course_lib.layerwise import layers_of, layerwise_lrs, parameter_groups

SMALL = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
MODELS = {
    "BERT": lambda: BertForSequenceClassification(BertConfig(num_hidden_layers=3, **SMALL)),
    "masked LM": lambda: BertForMaskedLM(BertConfig(num_hidden_layers=3, **SMALL)),
    "RoBERTa": lambda: RobertaForTokenClassification(RobertaConfig(num_hidden_layers=3, **SMALL)),
    "DistilBERT": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(n_layers=3, dim=8, n_heads=2, hidden_dim=16, vocab_size=20)
    ),
}


def test_bert_base_goes_from_the_head_to_the_embeddings_by_a_factor_of_2_6_a_block():
    rates = layerwise_lrs(2e-5, 12)
    assert len(rates) == 14
    assert rates[-1] == rates[-2] == 2e-5
    assert rates[0] == pytest.approx(2e-5 / 2.6**12)
    for lower, upper in zip(rates[:-2], rates[1:-1], strict=True):
        assert upper / lower == pytest.approx(2.6)


def test_a_decay_of_one_is_the_same_rate_everywhere():
    assert layerwise_lrs(0.1, 2, decay=1) == [0.1] * 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 2), "base_lr must be above 0, got 0"),
        ((float("nan"), 2), "base_lr .*got nan"),
        ((0.1, 0), "num_layers must be at least 1, got 0"),
        ((0.1, 2, 0.5), "decay must be at least 1, got 0.5"),
    ],
)
def test_bad_rates_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        layerwise_lrs(*arguments)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_in_exactly_one_layer(name):
    model = MODELS[name]()
    layers = layers_of(model)
    assert len(layers) == 5
    found = [id(parameter) for layer in layers for parameter in layer.values()]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters())
    assert all("embeddings" in key for key in layers[0]) and layers[0]
    for block in range(3):
        assert all(f"layer.{block}." in key for key in layers[block + 1]) and layers[block + 1]
    assert not any("layer." in key for key in layers[4])


def test_pooler_and_classifier_are_the_head_and_a_tied_decoder_is_an_embedding():
    head = layers_of(MODELS["BERT"]())[-1]
    assert {key.split(".")[-2] for key in head} == {"dense", "classifier"}
    masked = MODELS["masked LM"]()
    layers = layers_of(masked)
    assert any(p is masked.get_output_embeddings().weight for p in layers[0].values())


@pytest.mark.parametrize("name", MODELS)
def test_groups_hold_each_trainable_parameter_once(name):
    model = MODELS[name]()
    next(model.parameters()).requires_grad_(False)
    groups = parameter_groups(model, 1e-3)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    wanted = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(found) == sorted(wanted)
    torch.optim.AdamW(groups)  # which refuses a parameter that is in two groups


def test_biases_and_normalisation_are_not_decayed():
    model = MODELS["BERT"]()
    decayed = {
        id(parameter)
        for group in parameter_groups(model, 1e-3, weight_decay=0.1)
        if group["weight_decay"] == 0.1
        for parameter in group["params"]
    }
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            expected = name != "bias" and not isinstance(module, nn.LayerNorm)
            assert (id(parameter) in decayed) == expected


def test_groups_have_the_rates_of_their_layers():
    rates = layerwise_lrs(1e-3, 3, 2.0)
    for group in parameter_groups(MODELS["BERT"](), 1e-3, 2.0):
        assert group["lr"] == rates[group["layer"]]


def test_models_that_cannot_be_grouped_are_refused():
    model = MODELS["BERT"]()
    with pytest.raises(ValueError, match="weight_decay must be at least 0, got -1"):
        parameter_groups(model, 1e-3, weight_decay=-1)
    with pytest.raises(ValueError, match="no trainable parameter"):
        parameter_groups(model.requires_grad_(False), 1e-3)
    model.bert.encoder.layer = model.bert.encoder.layer[:2]
    with pytest.raises(ValueError, match="no list of 3 blocks"):
        layers_of(model)
