"""Throughput of `course_lib.trainer` beside the transformers Trainer and a bare loop, on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/trainer.py

Prints a Markdown table. All train the same tiny BERT with the same optimiser, schedule, clipping,
batch size and precision on the same texts, once of one length and once of mixed lengths. They take
turns, and medians are taken over the rounds. The transformers Trainer takes part where `accelerate`
is installed; it pads each batch to its longest text, in the order in which they were shuffled.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time

import torch
from transformers import get_linear_schedule_with_warmup

from course_lib.batches import collate
from course_lib.bert import quiet, random_weights
from course_lib.trainer import Settings, Trainer

BATCH, RATE, WARMUP, DECAY, CLIP = 32, 5e-4, 0.1, 0.01, 1.0


def make_texts(number, shortest, longest):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(shortest, longest + 1, (number,), generator=generator).tolist()
    return [
        {
            "input_ids": torch.randint(5, 400, (length,), generator=generator).tolist(),
            "labels": row % 2,
        }
        for row, length in enumerate(lengths)
    ]


def model():
    return random_weights(0, "sequence_classification", num_labels=2).train()


def ours(texts):
    settings = Settings(
        epochs=1, batch_size=BATCH, learning_rate=RATE, warmup_fraction=WARMUP,
        weight_decay=DECAY, clip_norm=CLIP,
    )  # fmt: skip
    run = Trainer(model(), settings, texts)
    return lambda: run.fit(progress=False)


def bare(texts):
    """Forward, backward and step on batches that are collated beforehand, in our order."""
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    run = Trainer(net, Settings(epochs=1, batch_size=BATCH), texts)
    batches = [collate([texts[row] for row in rows], 0) for [rows] in run._steps_of(0)]
    schedule = get_linear_schedule_with_warmup(
        optimizer, round(WARMUP * len(batches)), len(batches)
    )

    def train():
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            net(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            optimizer.step()
            schedule.step()

    return train


def theirs(texts):
    from transformers import DataCollatorWithPadding, PrinterCallback, TrainingArguments
    from transformers import Trainer as TheirTrainer

    from course_lib.bert import build_tokenizer

    folder = tempfile.mkdtemp()
    arguments = TrainingArguments(
        folder, num_train_epochs=1, per_device_train_batch_size=BATCH, learning_rate=RATE,
        warmup_steps=WARMUP, weight_decay=DECAY, max_grad_norm=CLIP, use_cpu=True,
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
        optim="adamw_torch",
    )  # fmt: skip
    rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in texts]
    collator = DataCollatorWithPadding(build_tokenizer())
    run = TheirTrainer(model(), arguments, train_dataset=rows, data_collator=collator)
    run.remove_callback(PrinterCallback)
    return run.train


def median_times(texts, rounds):
    """Median seconds of an epoch, in rounds in which each contestant runs once."""
    contestants = {"bare loop": bare, "course_lib": ours}
    if importlib.util.find_spec("accelerate"):
        contestants["transformers Trainer"] = theirs
    times = {name: [] for name in contestants}
    for _ in range(rounds + 1):  # the first warms up
        for name, make in contestants.items():
            with quiet():
                train = make(texts)
                start = time.perf_counter()
                train()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=1920)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| lengths | loop | s | texts a second | times the bare loop |")
    print("|---|---|---|---|---|")
    for name, lengths in (("32", (32, 32)), ("4 to 60", (4, 60))):
        times = median_times(make_texts(options.texts, *lengths), options.rounds)
        for loop, taken in sorted(times.items(), key=lambda item: item[1]):
            share = taken / times["bare loop"]
            speed = options.texts / taken
            print(f"| {name} | {loop} | {taken:.2f} | {speed:.0f} | {share:.2f} |", flush=True)


if __name__ == "__main__":
    main()
