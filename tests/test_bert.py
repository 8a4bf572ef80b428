"""Loading BERTs, drawing random ones, and their mean-pooled features."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
)
from transformers.utils import logging as transformers_logging

from course_lib import bert
from course_lib.language import encode, sample_documents, vocabulary

TEXTS = [document.text for document in sample_documents(20, seed=5)]


@pytest.fixture(scope="module")
def tokenizer():
    return bert.build_tokenizer()


@pytest.fixture
def wider(tmp_path, tokenizer):
    """A BERT of another width and depth, as `save_pretrained` writes it."""
    torch.manual_seed(0)
    config = bert.tiny_bert_config(hidden_size=48, num_hidden_layers=1, num_attention_heads=2)
    folder = tmp_path / "wider"
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- tokenizer ----------------------------------------------------------------------------------


def test_the_tokenizer_gives_the_ids_of_the_language(tokenizer):
    documents = sample_documents(500, seed=6)
    batch = tokenizer([document.text for document in documents], padding=True, return_tensors="np")
    np.testing.assert_array_equal(batch["input_ids"], encode(documents))
    assert len(tokenizer) == len(vocabulary())
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == vocabulary()


def test_unknown_words_fall_back_to_letters_and_long_texts_are_cut(tokenizer):
    assert tokenizer.tokenize("Zebra film 42!") == [
        "z", "##e", "##b", "##r", "##a", "film", "4", "##2", "!",
    ]  # fmt: skip
    assert len(tokenizer("zebra " * 50, truncation=True)["input_ids"]) == bert.MAX_TOKENS


# --- random weights -----------------------------------------------------------------------------


def test_random_weights_come_from_the_seed_and_leave_global_chance_alone():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    model = bert.random_weights(7)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(weights(model), weights(bert.random_weights(7)))
    assert not same(weights(model), weights(bert.random_weights(8)))
    assert not model.training


def test_the_tiny_architecture():
    model = bert.random_weights(0)
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (2, 128, 256)
    assert 0.3e6 < sum(p.numel() for p in model.parameters()) < 0.4e6
    spread = model.bert.encoder.layer[0].intermediate.dense.weight.std().item()
    assert spread == pytest.approx(0.06, rel=0.05)
    model.train()
    ids = torch.from_numpy(encode(TEXTS[:2]))
    first, second = (model(ids).logits for _ in range(2))
    assert torch.equal(first, second)  # no dropout


@pytest.mark.parametrize(
    ("head", "kind", "shape"),
    [
        (None, BertModel, (2, 7, 128)),
        ("masked_lm", BertForMaskedLM, (2, 7, len(vocabulary()))),
        ("sequence_classification", BertForSequenceClassification, (2, 5)),
        ("token_classification", BertForTokenClassification, (2, 7, 5)),
        ("question_answering", BertForQuestionAnswering, (2, 7)),
    ],
)
def test_every_head_is_the_class_of_transformers(head, kind, shape):
    model = bert.random_weights(0, head, **({"num_labels": 5} if "class" in str(head) else {}))
    assert type(model) is kind
    assert model(torch.full((2, 7), 10))[0].shape == shape


def test_an_unknown_head_is_refused_with_the_known_ones(wider):
    for call in (lambda: bert.random_weights(0, "mlm"), lambda: bert.load(wider, "mlm")):
        with pytest.raises(ValueError, match="'masked_lm'.*got 'mlm'"):
            call()


# --- loading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_text", [False, True])
def test_any_local_bert_is_loaded(wider, as_text):
    model, tokenizer = bert.load(str(wider) if as_text else wider)
    assert same(weights(model), weights(BertForMaskedLM.from_pretrained(wider)))
    assert not model.training
    assert tokenizer.tokenize("a good film") == ["a", "good", "film"]
    assert bert.embed(model, tokenizer, TEXTS[:3]).shape == (3, 48)


def test_loading_is_silent_and_leaves_the_librarys_settings(wider, capfd):
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.enable_progress_bar()
    capfd.readouterr()
    bert.load(wider, "sequence_classification")
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.get_verbosity() == verbosity
    assert transformers_logging.is_progress_bar_enabled()


def test_a_fresh_head_comes_from_the_seed_and_the_body_from_the_folder(wider):
    before = torch.get_rng_state()
    one, again, other = (
        bert.load(wider, "sequence_classification", num_labels=4, seed=seed)[0]
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert one.classifier.weight.shape == (4, 48)
    assert same(weights(one), weights(again))
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    stored = BertModel.from_pretrained(wider, add_pooling_layer=False)
    assert same(weights(one.bert.encoder), weights(stored.encoder))


def test_half_precision_files_are_loaded_as_float32(wider):
    BertForMaskedLM.from_pretrained(wider).half().save_pretrained(wider)
    model, _ = bert.load(wider)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_what_the_embedded_checkpoint_lacks_is_never_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(bert, "data_folder", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match="tiny_bert' is not a folder"):
        bert.load()


@pytest.mark.parametrize("place", ["./nowhere", "nowhere/at/all", Path("nowhere"), "~/nowhere"])
def test_a_missing_folder_is_a_sentence(place):
    with pytest.raises(FileNotFoundError, match="nowhere.*is not a folder.*Hub id"):
        bert.load(place)


def test_a_hub_that_cannot_be_reached_is_a_sentence(monkeypatch):
    def unreachable(*arguments, **options):
        raise OSError("We couldn't connect to 'https://huggingface.co'\nand so on")

    monkeypatch.setattr(BertConfig, "get_config_dict", unreachable)
    with pytest.raises(OSError, match="neither a folder here nor a BERT.*check the name") as caught:
        bert.load("google-bert/bert-base-uncased")
    assert "and so on" not in str(caught.value)


def remove(*names):
    def change(folder):
        for name in names:
            for path in folder.glob(name):
                path.unlink()

    return change


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def write_weights(content):
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def change_config(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")

    return change


def rename_weights(folder):
    path = folder / "model.safetensors"
    tensors = {name.replace("bert.", "roberta."): t for name, t in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def drop_embeddings(folder):
    path = folder / "model.safetensors"
    tensors = {name: t for name, t in load_file(path).items() if "word_embeddings" not in name}
    save_file(tensors, path, metadata={"format": "pt"})


def other_architecture(folder):
    shutil.rmtree(folder)
    config = DistilBertConfig(vocab_size=50, dim=8, n_heads=1, n_layers=1, hidden_dim=8)
    DistilBertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("[UNK]\n", "utf-8")


@pytest.mark.parametrize(
    ("damage", "error", "sentence"),
    [
        (remove("config.json"), FileNotFoundError, "has no config.json; wanted a folder"),
        (remove("model.safetensors"), FileNotFoundError, "has no weights"),
        (remove("tokenizer*", "vocab.txt"), FileNotFoundError, "no tokenizer.json or vocab.txt"),
        (cut_weights, OSError, "damaged or cut short"),
        (write_weights(b""), OSError, "damaged or cut short"),
        (write_weights(b"not weights at all, only text"), OSError, "damaged or cut short"),
        (lambda folder: (folder / "config.json").write_text("{"), OSError, "damaged or cut short"),
        (lambda f: (f / "tokenizer.json").write_text("{"), OSError, "damaged or cut short"),
        (change_config(hidden_size=64), OSError, "damaged or cut short"),
        (change_config(num_hidden_layers=3), ValueError, "lacks weights of the encoder"),
        (change_config(model_type="gpt2"), ValueError, "a model of type 'gpt2'"),
        (other_architecture, ValueError, "a model of type 'distilbert'.*needs 'bert'"),
        (rename_weights, ValueError, "lacks weights of the encoder"),
        (drop_embeddings, ValueError, "lacks weights of the encoder.*word_embeddings"),
    ],
)
def test_a_folder_that_is_no_whole_bert_is_a_sentence(wider, damage, error, sentence, capfd):
    damage(wider)
    capfd.readouterr()
    with pytest.raises(error, match=sentence) as caught:
        bert.load(wider)
    assert str(wider) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_tokenizer_of_another_model_is_refused(wider):
    config = bert.tiny_bert_config(vocab_size=100, hidden_size=16, num_attention_heads=1)
    BertForMaskedLM(config).save_pretrained(wider)
    with pytest.raises(ValueError, match="only 100 embeddings; they do not belong together"):
        bert.load(wider)


# --- features -----------------------------------------------------------------------------------


def test_features_are_the_mean_over_the_tokens_of_each_text_alone(tokenizer):
    model = bert.random_weights(3).double()
    found = bert.embed(model, tokenizer, TEXTS, batch_size=7)
    assert found.dtype == torch.float32
    for text, row in zip(TEXTS, found, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            hidden = model.bert(ids).last_hidden_state[0]
        torch.testing.assert_close(row, hidden.mean(dim=0).float(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_features_do_not_depend_on_the_batches(tokenizer, batch_size):
    model = bert.random_weights(3)
    together = bert.embed(model, tokenizer, TEXTS)
    found = bert.embed(model, tokenizer, TEXTS, batch_size)
    torch.testing.assert_close(found, together, atol=1e-5, rtol=1e-5)


def test_features_are_the_same_with_any_head_and_without_gradient(tokenizer, wider):
    wanted = bert.embed(*bert.load(wider, None), TEXTS)
    for head in ("masked_lm", "sequence_classification", "question_answering"):
        found = bert.embed(*bert.load(wider, head), TEXTS)
        assert torch.equal(found, wanted)
        assert not found.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_is_restored(tokenizer, training):
    model = bert.random_weights(3, hidden_dropout_prob=0.5).train(training)
    first, second = (bert.embed(model, tokenizer, TEXTS) for _ in range(2))
    assert torch.equal(first, second)
    assert model.training == training
    assert model.bert.training == training


def test_texts_that_are_long_short_or_none(tokenizer):
    model = bert.random_weights(3)
    tokenizer_without_limit = bert.build_tokenizer()
    tokenizer_without_limit.model_max_length = 10**30
    for each in (tokenizer, tokenizer_without_limit):
        features = bert.embed(model, each, ["film " * 200, "", "film"])
        assert torch.isfinite(features).all()
    assert bert.embed(model, tokenizer, []).shape == (0, 128)


def test_bad_texts_and_batch_sizes_are_a_sentence(tokenizer):
    model = bert.random_weights(3)
    for texts in ("one text", [1, 2], [None]):
        with pytest.raises(TypeError, match="list of strings"):
            bert.embed(model, tokenizer, texts)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        bert.embed(model, tokenizer, TEXTS, batch_size=0)


def test_a_folder_written_from_a_loaded_model_is_an_ordinary_one(wider, tmp_path):
    model, tokenizer = bert.load(wider, None)
    model.save_pretrained(tmp_path / "copy")
    tokenizer.save_pretrained(tmp_path / "copy")
    assert same(weights(model), weights(AutoModel.from_pretrained(tmp_path / "copy")))
    again, _ = bert.load(tmp_path / "copy", None)
    assert same(weights(model), weights(again))
