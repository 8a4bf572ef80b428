"""Batches: every row once, little padding, nothing padded counts."""

import torch

from course_lib.batches import collate, epoch_batches
from course_lib.mlm import IGNORED


def test_every_row_comes_once_and_neighbours_in_length_come_together():
    lengths = torch.randint(1, 100, (1000,), generator=torch.Generator().manual_seed(0)).tolist()
    batches = epoch_batches(lengths, 8, seed=0, epoch=0)
    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    padded = sum(max(lengths[row] for row in batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)
    assert batches != epoch_batches(lengths, 8, seed=0, epoch=1)
    assert batches == epoch_batches(lengths, 8, seed=0, epoch=0)
    means = [sum(lengths[row] for row in batch) / len(batch) for batch in batches]
    assert means != sorted(means)  # short batches do not come first


def test_padding_is_masked_and_does_not_count():
    batch = collate([{"input_ids": [3, 4], "labels": [0, 1]}, {"input_ids": [5], "labels": [1]}], 9)
    assert batch["input_ids"].tolist() == [[3, 4], [5, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["labels"].tolist() == [[0, 1], [1, IGNORED]]
