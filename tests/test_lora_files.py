"""LoRAs as files: to peft and back, and what is damaged or of another model."""

import copy
import json
import os

import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file

from course_lib import lora_files
from course_lib.bert import random_weights
from course_lib.lora import ATTENTION, add_lora, lora_layers, remove_lora, use_lora
from course_lib.lora_files import load_lora, save_lora

IDS = torch.arange(5, 45).reshape(4, 10)


def classifier(**changes):
    return random_weights(0, "sequence_classification", num_labels=3, **changes)


def tuned(model, seed=2, **options):
    """The model with a LoRA as after some training."""
    settings = {"targets": ATTENTION, "r": 3, "alpha": 12.0} | options
    add_lora(model, **settings)
    shake(model, seed)
    return model


def shake(model, seed=2):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not name.endswith((".A", "lora_A.default.weight")):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def change_config(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weights(folder, change):
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_is_loaded_to_the_last_bit(dtype, tmp_path):
    model = tuned(classifier().to(dtype), extras=["bert.pooler"], dropout=0.1)
    model.eval()
    save_lora(model, tmp_path / "a" / "b")
    again = classifier().to(dtype)
    before = weights(again)
    left = load_lora(again, tmp_path / "a" / "b", name="other")
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(left) == len(trained) and all(map(torch.equal, left, trained))
    assert next(iter(lora_layers(again).values())).adapters["other"].dropout == 0.1
    remove_lora(again)
    assert same(again.state_dict(), before)


@pytest.mark.parametrize("head", ["sequence_classification", "masked_lm", None])
def test_peft_reads_it(head, tmp_path):
    model = tuned(random_weights(0, head))
    save_lora(model, tmp_path)
    theirs = PeftModel.from_pretrained(random_weights(0, head), tmp_path).eval()
    torch.testing.assert_close(theirs(input_ids=IDS)[0], model(IDS)[0])
    plain = random_weights(0, head)(IDS)[0]
    assert not torch.allclose(model(IDS)[0], plain, atol=1e-2)
    merged = theirs.merge_and_unload()
    torch.testing.assert_close(merged(input_ids=IDS)[0], model(IDS)[0], rtol=0, atol=1e-4)


def peft_config(**changes):
    settings = {"r": 4, "lora_alpha": 10, "target_modules": ["query", "output.dense"]}
    return LoraConfig(**(settings | changes))


@pytest.mark.parametrize(
    "head, changes",
    [
        ("sequence_classification", {"task_type": TaskType.SEQ_CLS}),
        ("token_classification", {"task_type": TaskType.TOKEN_CLS, "lora_dropout": 0.1}),
        ("sequence_classification", {"modules_to_save": ["classifier", "pooler"]}),
        ("masked_lm", {}),
        (None, {"init_lora_weights": "gaussian"}),
    ],
)
def test_what_peft_writes_is_read(head, changes, tmp_path):
    theirs = get_peft_model(random_weights(0, head), peft_config(**changes)).eval()
    shake(theirs)
    theirs.save_pretrained(tmp_path)
    model = random_weights(0, head)
    before = weights(model)
    load_lora(model, tmp_path)
    torch.testing.assert_close(model(IDS)[0], theirs(input_ids=IDS)[0])
    assert not torch.allclose(model(IDS)[0], random_weights(0, head)(IDS)[0], atol=1e-2)
    remove_lora(model)
    assert same(model.state_dict(), before)


def test_there_and_back_again_is_the_same_file(tmp_path):
    save_lora(tuned(classifier()), tmp_path / "mine")
    theirs = PeftModel.from_pretrained(classifier(), tmp_path / "mine")
    theirs.save_pretrained(tmp_path / "theirs")
    file = "adapter_model.safetensors"
    one, other = load_file(tmp_path / "mine" / file), load_file(tmp_path / "theirs" / file)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_two_files_on_one_base(tmp_path):
    """Each is saved alone, and brings its head."""
    first = tuned(classifier(), name="first")
    save_lora(first, tmp_path / "first", name="first")
    second = tuned(classifier(), seed=3, targets=["intermediate.dense"], r=1)
    save_lora(second, tmp_path / "second")
    model = classifier()
    load_lora(model, tmp_path / "first", name="first")
    assert torch.equal(model(IDS).logits, first(IDS).logits)
    load_lora(model, tmp_path / "second", name="second")
    assert torch.equal(model(IDS).logits, second(IDS).logits)
    use_lora(model, "first")
    assert torch.equal(model.bert(IDS)[0], first.bert(IDS)[0])
    save_lora(model, tmp_path / "again", name="second")
    one, other = (
        load_file(tmp_path / n / "adapter_model.safetensors") for n in ("second", "again")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_merged_lora_is_saved_as_it_is(tmp_path):
    model = tuned(classifier())
    logits = model(IDS).logits
    for layer in lora_layers(model).values():
        layer.merge()
    save_lora(model, tmp_path)
    again = classifier()
    load_lora(again, tmp_path)
    assert torch.equal(again(IDS).logits, logits)


def test_saving_needs_that_lora(tmp_path):
    for model in (classifier(), tuned(classifier(), name="other")):
        with pytest.raises(ValueError, match="The model has no LoRA 'default'"):
            save_lora(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_no_half_files(fails, tmp_path, monkeypatch):
    save_lora(tuned(classifier()), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(lora_files.os, fails, full)
    with pytest.raises(OSError, match="could not be written to .*No space left"):
        save_lora(tuned(classifier(), seed=3), tmp_path)
    monkeypatch.undo()
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    if fails == "fsync":  # nothing was replaced yet
        assert after == before
    else:  # never new weights beside an old config
        assert after == {k: v for k, v in before.items() if k != "adapter_config.json"}
        with pytest.raises(FileNotFoundError, match="no adapter_config.json"):
            load_lora(classifier(), tmp_path)
    save_lora(tuned(classifier()), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(before)


def test_a_file_in_the_folder_s_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="could not be written"):
        save_lora(tuned(classifier()), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def cut(file):
    def change(folder):
        os.truncate(folder / file, (folder / file).stat().st_size * 2 // 3)

    return change


def without(key):
    return lambda folder: change_weights(
        folder, lambda tensors: {k: v for k, v in tensors.items() if key not in k}
    )


def wider_rank(folder):
    """One layer of rank 5 among those of rank 3."""

    def change(tensors):
        name = next(key for key in tensors if key.endswith("query.lora_A.weight"))
        return tensors | {name: torch.zeros(5, 128)}

    change_weights(folder, change)


DAMAGE = {
    "weights cut short": (cut("adapter_model.safetensors"), OSError, "damaged or cut short"),
    "config cut short": (cut("adapter_config.json"), OSError, "damaged or cut short"),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        FileNotFoundError,
        "has no adapter_model.safetensors",
    ),
    "no config": (
        lambda folder: (folder / "adapter_config.json").unlink(),
        FileNotFoundError,
        "has no adapter_config.json",
    ),
    "a list": (
        lambda folder: (folder / "adapter_config.json").write_text("[]"),
        OSError,
        "is a list; wanted names and values",
    ),
    "a factor is missing": (without("0.attention.self.key.lora_B"), ValueError, "self.key has sha"),
    "no LoRA": (without("lora_"), ValueError, "has no LoRA in it"),
    "another rank": (wider_rank, ValueError, "query has shapes .*5, 128.*wants .*3, 128"),
    "rank 0": (lambda folder: change_config(folder, r=0), ValueError, "wants"),
    "alpha 0": (lambda folder: change_config(folder, lora_alpha=0), ValueError, "alpha must be"),
    "no alpha": (
        lambda folder: change_config(folder, lora_alpha=None),
        OSError,
        "lora_alpha is None; wanted a number",
    ),
    "alpha text": (
        lambda folder: change_config(folder, lora_alpha="x"),
        OSError,
        "lora_alpha is 'x'; wanted a number",
    ),
    "DoRA": (lambda folder: change_config(folder, use_dora=True), ValueError, "use_dora is True"),
    "LoHa": (lambda f: change_config(f, peft_type="LOHA"), ValueError, "peft_type is 'LOHA'"),
    "PiSSA": (
        lambda folder: change_config(folder, init_lora_weights="pissa"),
        ValueError,
        "init_lora_weights is 'pissa'",
    ),
    "alphas": (
        lambda folder: change_config(folder, alpha_pattern={"query": 3}),
        ValueError,
        "alpha_pattern is",
    ),
    "biases": (lambda folder: change_config(folder, bias="all"), ValueError, "bias is 'all'"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_cannot_be_read_leaves_the_model_alone(name, tmp_path):
    change, error, message = DAMAGE[name]
    save_lora(tuned(classifier()), tmp_path)
    change(tmp_path)
    refused(classifier(), tmp_path, error, message)


def refused(model, folder, error, message, **options):
    before, modules = weights(model), dict(model.named_modules())
    frozen = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(error, match=message):
        load_lora(model, folder, **options)
    assert same(model.state_dict(), before)
    assert list(dict(model.named_modules()).items()) == list(modules.items())
    assert [parameter.requires_grad for parameter in model.parameters()] == frozen


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: classifier(hidden_size=64), r"layer.0.* has shapes .*3, 128.*model wants .*3, 64"),
        (lambda: classifier(num_hidden_layers=1), "nn.Linear bert.encoder.layer.1.attention"),
        (lambda: random_weights(0, None), "nn.Linear bert.encoder.layer.0.* does not have"),
        (lambda: random_weights(0), r"classifier.bias of shape \(3,\).*is not there"),
        (
            lambda: random_weights(0, "sequence_classification", num_labels=2),
            r"classifier.bias of shape \(3,\), which in this .* is \(2,\)",
        ),
    ],
)
def test_a_lora_of_another_model_is_refused(make, message, tmp_path):
    save_lora(tuned(classifier()), tmp_path)
    refused(make(), tmp_path, ValueError, message)


def test_a_lora_of_an_encoder_alone_is_none_of_a_classifier(tmp_path):
    """Its names are ends of the classifier's, so that they look right."""
    save_lora(tuned(random_weights(0, None)), tmp_path)
    refused(classifier(), tmp_path, ValueError, "for an nn.Linear encoder.layer.0")


def test_a_lora_on_embeddings_is_refused(tmp_path):
    targets = ["word_embeddings", "query"]
    get_peft_model(classifier(), peft_config(target_modules=targets)).save_pretrained(tmp_path)
    refused(classifier(), tmp_path, ValueError, "nn.Linear bert.embeddings.word_embeddings")


def test_a_name_that_is_taken_is_refused(tmp_path):
    model = tuned(classifier())
    save_lora(model, tmp_path)
    refused(model, tmp_path, ValueError, "'default' is taken")
    twin = copy.deepcopy(model)
    load_lora(twin, tmp_path, name="second")
    assert torch.equal(twin(IDS).logits, model(IDS).logits)
