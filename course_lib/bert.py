"""Tokenizer and BERT models of the course: the embedded tiny checkpoint, or any other BERT.

Everything here is an ordinary `transformers` object. `load()` reads the checkpoint under
`data/tiny_bert` without any network; a Hub id or a local folder takes its place.
Architecture: Devlin et al. 2019 (1810.04805), shrunk to 2 layers of width 128. Differs from the
paper in: no dropout, weights drawn with standard deviation 0.06 (0.02 is too small at width 128:
the signal vanishes in the residual stream), no next-sentence head.
"""

import tempfile
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizerFast,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from course_lib.data import data_folder
from course_lib.language import vocabulary

HEADS = {
    None: BertModel,
    "masked_lm": BertForMaskedLM,
    "sequence_classification": BertForSequenceClassification,
    "token_classification": BertForTokenClassification,
    "question_answering": BertForQuestionAnswering,
}
MAX_TOKENS = 64


def tiny_bert_config(**changes) -> BertConfig:
    """2 layers, width 128, feed-forward 256, 4 heads: about 0.35 M parameters.

    changes: any `BertConfig` entry, for example `num_labels=3`.
    """
    settings = {
        "vocab_size": len(vocabulary()),
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "max_position_embeddings": MAX_TOKENS,
        "initializer_range": 0.06,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 0,
    }
    return BertConfig(**(settings | changes))


def build_tokenizer() -> BertTokenizerFast:
    """BERT's WordPiece tokenizer (lower-casing) with the language's words as whole pieces.

    Other lower-case text falls back to letters and digits ("zebra" -> z ##e ##b ##r ##a), so it
    can be read too, only at great length: longer than 64 tokens is cut off.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
        return BertTokenizerFast.from_pretrained(
            folder, do_lower_case=True, model_max_length=MAX_TOKENS
        )


def random_weights(seed: int, head: str | None = "masked_lm", **changes) -> PreTrainedModel:
    """A tiny BERT that has learned nothing: the control for everything pre-training claims.

    The same seed gives the same weights; torch's global random state is left as it was.
    changes: any `BertConfig` entry, for example `num_labels=10`.
    Raises ValueError for an unknown head.
    """
    model_class = _model_class(head)
    with _seeded(seed):
        return model_class(tiny_bert_config(**changes)).eval()


def load(
    path_or_hub_id: str | Path | None = None,
    head: str | None = "masked_lm",
    num_labels: int = 2,
    seed: int = 0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A pre-trained BERT in eval mode and float32 with its tokenizer.

    path_or_hub_id: None for the embedded checkpoint (never contacts the Hub), a folder that
        `from_pretrained` reads, or a Hub id such as "google-bert/bert-base-uncased".
    head: None (encoder only), "masked_lm", "sequence_classification", "token_classification" or
        "question_answering"; weights that the checkpoint lacks are drawn from `seed`.
    Raises ValueError for an unknown head or a model which is not a BERT; FileNotFoundError for a
    missing folder or file; OSError for a damaged one, or a Hub that cannot be reached.
    """
    model_class = _model_class(head)
    source = data_folder() / "tiny_bert" if path_or_hub_id is None else path_or_hub_id
    local = _is_local(source, path_or_hub_id)
    options = {"local_files_only": True} if local else {}
    try:
        config = BertConfig.get_config_dict(source, **options)[0]
    except Exception as error:
        raise _unreadable(source, local, error) from error
    if config.get("model_type") != "bert":
        raise ValueError(
            f"{source} holds a model of type {config.get('model_type')!r}; this course needs "
            "'bert' (for example google-bert/bert-base-uncased)."
        )
    labels = {"num_labels": num_labels} if head in _CLASSIFIERS else {}
    try:
        # A download from the Hub keeps its progress bar.
        with quiet() if local else nullcontext(), _seeded(seed):
            model, report = model_class.from_pretrained(
                source, **options, **labels, output_loading_info=True
            )
            tokenizer = BertTokenizerFast.from_pretrained(source, **options)
    except Exception as error:
        raise _unreadable(source, local, error) from error
    # A BERT-like folder with other names in its weights would load as noise, silently.
    body = ("encoder.", "embeddings.")
    missing = sorted(
        name for name in report["missing_keys"] if name.removeprefix("bert.").startswith(body)
    )
    if missing:
        raise ValueError(f"{source} lacks weights of the encoder, the first is {missing[0]!r}.")
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"{source}: the tokenizer has {len(tokenizer)} tokens, the model only "
            f"{model.config.vocab_size} embeddings; they do not belong together."
        )
    return model.float().eval(), tokenizer


@contextmanager
def quiet():
    """Without progress bars and warnings of `transformers`: a fresh head is expected, not news."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@torch.no_grad()
def embed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch_size: int = 256,
) -> torch.Tensor:
    """Mean over the tokens of the last hidden layer, (N, d) float32 on the CPU.

    Padding is left out of the mean, [CLS] and [SEP] are in it. Texts longer than the model can
    read are cut off. Dropout is off while it runs; the model's train/eval mode is restored.
    Raises TypeError unless `texts` is a list of strings, ValueError for a batch size below 1.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError("texts must be a list of strings.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    encoder = getattr(model, model.base_model_prefix, model)
    device = next(encoder.parameters()).device
    longest = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    texts = list(texts)
    features = torch.zeros(len(texts), encoder.config.hidden_size)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # less padding in a batch
    was_training = encoder.training
    encoder.eval()
    try:
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            batch = tokenizer(
                [texts[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            ).to(device)
            hidden = encoder(**batch).last_hidden_state  # (B, T, d)
            weight = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
            mean = (hidden * weight).sum(dim=1) / weight.sum(dim=1)
            features[rows] = mean.float().cpu()
    finally:
        encoder.train(was_training)
    return features


_CLASSIFIERS = ("sequence_classification", "token_classification")


@contextmanager
def _seeded(seed: int):
    """Chance on the CPU comes from `seed`; the global random states are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the GPU's too
        yield


def _model_class(head: str | None) -> type[PreTrainedModel]:
    if head not in HEADS:
        names = ", ".join(repr(name) for name in HEADS)
        raise ValueError(f"head must be one of {names}, got {head!r}.")
    return HEADS[head]


def _is_local(source: str | Path, given: str | Path | None) -> bool:
    """Whether to read a folder; raises FileNotFoundError for a folder that cannot be one."""
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"{path} has no config.json; wanted a folder written by save_pretrained "
                "(config.json, model.safetensors, tokenizer.json)."
            )
        if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
            raise FileNotFoundError(f"{path} has no weights; wanted model.safetensors.")
        if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
            raise FileNotFoundError(f"{path} has no tokenizer.json or vocab.txt.")
        return True
    text = str(source)
    looks_like_path = isinstance(source, Path) or text.startswith((".", "/", "~")) or "\\" in text
    if given is None or looks_like_path or text.count("/") > 1 or not text:
        raise FileNotFoundError(
            f"{text!r} is not a folder; wanted a folder written by save_pretrained or a Hub id "
            "such as google-bert/bert-base-uncased."
        )
    return False


def _unreadable(source, local: bool, error: Exception) -> OSError:
    reason = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
    if local:
        return OSError(
            f"{source} cannot be read as a BERT checkpoint, it may be damaged or cut short; copy "
            f"it again or write it with save_pretrained ({reason})."
        )
    return OSError(
        f"{source!r} is neither a folder here nor a BERT that the Hugging Face Hub would give; "
        f"check the name and the network, or give a local folder ({reason})."
    )
