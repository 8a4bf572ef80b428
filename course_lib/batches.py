"""From tokenised examples to batches: what fits a model, little padding, -100 where none counts."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from course_lib.mlm import IGNORED

POOL = 50  # batches whose examples are sorted by length together

Example = Mapping[str, list[int] | int | float]  # input_ids, labels (or start_ and end_positions)
Batch = dict[str, Tensor]


def collate(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """Examples as tensors, padded to the longest of them; labels of tokens with -100."""
    longest = max(len(example["input_ids"]) for example in examples)
    filling = {"input_ids": pad_token_id, "attention_mask": 0, "token_type_ids": 0}
    batch = {}
    rows = [{"attention_mask": [1] * len(e["input_ids"])} | dict(e) for e in examples]
    for name in rows[0]:
        values = [row[name] for row in rows]
        if isinstance(values[0], (list, tuple)):
            fill = filling.get(name, IGNORED)
            values = [list(value) + [fill] * (longest - len(value)) for value in values]
        batch[name] = torch.tensor(values)
    return batch


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The rows of every batch of an epoch: random, but with examples of like length together.

    Rows are shuffled, sorted by length within pools of 50 batches, and cut; then the batches are
    shuffled. So there is little padding, and still a new order in every epoch.
    """
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    size = POOL * batch_size
    pools = [order[first : first + size] for first in range(0, len(order), size)]
    rows = [row for pool in pools for row in sorted(pool, key=lambda row: lengths[row])]
    batches = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def check_examples(model: PreTrainedModel, examples: Sequence[Example], name: str) -> None:
    """Raise ValueError, naming the first example that the model cannot be trained on."""
    if not len(examples):
        raise ValueError(f"{name} is empty.")
    longest = getattr(model.config, "max_position_embeddings", None) or math.inf
    classes = model.config.num_labels
    for row, example in enumerate(examples):
        length = len(example["input_ids"])
        if not 1 <= length <= longest:
            raise ValueError(
                f"{name}, example {row}: {length} tokens; the model reads 1 to {longest}. Truncate."
            )
        labels = example.get("labels")
        if labels is None:
            spans = [example.get("start_positions"), example.get("end_positions")]
            if None in spans or not 0 <= spans[0] <= spans[1] < length:
                raise ValueError(
                    f"{name}, example {row}: wanted labels, or start_positions and end_positions "
                    f"within its {length} tokens, got {spans[0]} and {spans[1]}."
                )
            continue
        if isinstance(labels, (list, tuple)) and len(labels) != length:
            raise ValueError(
                f"{name}, example {row}: {len(labels)} labels for {length} tokens; wanted one each."
            )
        for label in labels if isinstance(labels, (list, tuple)) else [labels]:
            if isinstance(label, int) and label != IGNORED and not 0 <= label < classes:
                raise ValueError(
                    f"{name}, example {row}: label {label}, but the model has the classes 0 to "
                    f"{classes - 1}."
                )


def labels_in(batch: Batch) -> int:
    """How many terms the mean of the loss has."""
    labels = batch.get("labels")
    return len(batch["input_ids"]) if labels is None else int((labels != IGNORED).sum())
