"""Fine-tuning in one readable loop, for any `transformers` model with a head (notebooks 06, 10)."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from course_lib.batches import Batch, Example, check_examples, collate, epoch_batches, labels_in
from course_lib.bayes import l2_anchor
from course_lib.diagnostics import EarlyStopping
from course_lib.files import replacing
from course_lib.freezing import freeze, layers_to_train, train_mode
from course_lib.layerwise import layers_of, parameter_groups
from course_lib.processes import rank_and_size, sum_gradients, summed
from course_lib.schedules import warmup_then_decay

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Settings:
    """How to fine-tune.

    batch_size: examples of one forward pass.  accumulation: batches of one optimiser step, over
    all processes.  layer_decay: see `layerwise.layerwise_lrs`; 1 is one rate for all.
    warmup_fraction: share of the steps.  shape: of the decay, see `schedules`.
    clip_norm: largest gradient norm, None for no clipping.  precision: of the forward pass.
    frozen: modules, see `freezing.freeze`.  gradual: unfreeze one layer more in every epoch.
    anchor: strength of the pull to the starting weights of the encoder, see `bayes.l2_anchor`.
    patience: evaluations without a better validation loss before stopping; None never stops.
    save_every: steps between checkpoints; one is written after every epoch in any case.
    """

    epochs: int = 3
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float = 2e-5
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    warmup_fraction: float = 0.1
    shape: str = "linear"
    clip_norm: float | None = 1.0
    precision: str = "float32"
    frozen: tuple[str, ...] = ()
    gradual: bool = False
    anchor: float = 0.0
    patience: int | None = None
    save_every: int | None = None
    compile: bool = False
    seed: int = 0

    def __post_init__(self):
        for name in ("epochs", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("patience", "save_every", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0 or None, got {value}.")
        if not 0 <= self.warmup_fraction <= 1 or not self.anchor >= 0:
            raise ValueError(
                "warmup_fraction must be in [0, 1] and anchor at least 0, got "
                f"{self.warmup_fraction} and {self.anchor}."
            )
        if self.precision not in PRECISIONS:
            names = ", ".join(PRECISIONS)
            raise ValueError(f"precision must be one of {names}, got {self.precision!r}.")


class StepResult(NamedTuple):
    """loss: mean over what is labelled, in nats.  grad_norm: before clipping."""

    loss: float
    grad_norm: float


def accumulated_step(
    model: nn.Module,
    batches: Sequence[Batch],
    optimizer: torch.optim.Optimizer,
    clip_norm: float | None = None,
    precision: str = "float32",
    scaler: torch.amp.GradScaler | None = None,
    penalty: Callable[[], Tensor] | None = None,
) -> StepResult:
    """One optimiser step on several batches, equal to the step on all of them at once.

    Each batch's loss counts with its share of all labels, so batches may be of unequal size; across
    processes the gradients are added up. The order is: all backward passes, unscale, clip, step.

    model: (**batch) -> an output with `loss`, the mean over the labels of the batch.
    scaler: for float16.  penalty: () -> a scalar that is added to the loss once.
    Raises ValueError if nothing is labelled; FloatingPointError, before any weight has changed, for
    a loss or (without a scaler, which skips such a step) a gradient that is not finite.
    """
    device = next(model.parameters()).device
    counts = [labels_in(batch) for batch in batches]
    total = summed(torch.tensor(sum(counts), device=device)).item()
    if total == 0:
        raise ValueError("Nothing in these batches is labelled; every label is -100.")
    scale = scaler.scale if scaler else lambda loss: loss
    optimizer.zero_grad(set_to_none=True)
    # The same dtype in a process that has no batch.
    dtype = torch.promote_types(next(model.parameters()).dtype, torch.float32)
    mean = torch.zeros((), device=device, dtype=dtype)
    for batch, count in zip(batches, counts, strict=True):
        if count == 0:
            continue
        with _autocast(device, precision):
            loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
        share = loss.to(torch.promote_types(loss.dtype, torch.float32)) * (count / total)
        scale(share).backward()
        mean = mean + share.detach()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sum_gradients(parameters)
    mean = summed(mean)
    if penalty:
        extra = penalty()
        scale(extra).backward()
        mean = mean + extra.detach()
    if not mean.isfinite():
        optimizer.zero_grad(set_to_none=True)
        raise FloatingPointError(f"The loss is {mean.item()}.")
    if scaler:
        scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, clip_norm or math.inf)
    if not norm.isfinite() and not scaler:
        optimizer.zero_grad(set_to_none=True)
        raise FloatingPointError(f"The gradient norm is {norm.item()}.")
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    return StepResult(mean.item(), norm.item())


class Trainer:
    """Fine-tunes a model and can be stopped at any moment.

    model: a `transformers` model with a head, which computes its own loss; trained in place.
    train, validation: examples with `input_ids` and `labels` (a class, a number, or one class per
    token with -100 where none counts), or `start_positions` and `end_positions`. Without a
    validation set the last weights are kept, else those with the lowest validation loss.
    folder: where checkpoints go. If one of the same run is there already, `fit` goes on from it,
    on a CPU to the same bits as without the interruption.
    With `torchrun` the batches of a step are shared out among the processes.
    Raises ValueError for an empty set, a sequence longer than the model, or a label that it has no
    class for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: Settings,
        train: Sequence[Example],
        validation: Sequence[Example] = (),
        pad_token_id: int = 0,
        folder: str | Path | None = None,
    ):
        check_examples(model, train, "train")
        if validation:
            check_examples(model, validation, "validation")
        self.model, self.settings, self.pad_token_id = model, settings, pad_token_id
        self.train, self.validation = train, validation
        self.file = Path(folder) / CHECKPOINT if folder is not None else None
        self.rank, self.processes = rank_and_size()
        if settings.accumulation % self.processes:
            raise ValueError(
                f"accumulation must be a multiple of the {self.processes} processes, got "
                f"{settings.accumulation}."
            )
        torch.manual_seed(settings.seed + self.rank)  # of dropout
        if settings.frozen:
            freeze(model, settings.frozen)
        self._trainable = {name for name, p in model.named_parameters() if p.requires_grad}
        groups = parameter_groups(
            model, settings.learning_rate, settings.layer_decay, settings.weight_decay
        )
        self.optimizer = torch.optim.AdamW(groups)
        batches = -(-len(train) // settings.batch_size)
        self.steps_per_epoch = -(-batches // settings.accumulation)
        self.total_steps = settings.epochs * self.steps_per_epoch
        warmup = round(settings.warmup_fraction * self.total_steps)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: warmup_then_decay(step, warmup, self.total_steps, settings.shape),
        )
        device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type) if settings.precision == "float16" else None
        self.stopping = EarlyStopping(settings.patience or settings.epochs + 1)
        self.start = {
            name: p.detach().clone() for name, p in model.base_model.named_parameters()
        } if settings.anchor else {}  # fmt: skip
        self.step, self.losses, self.history, self.finished = 0, [], [], False

    def fit(
        self, progress: bool = True, after_step: Callable[[], None] = lambda: None
    ) -> list[dict]:
        """Train, or go on training, to the end; return the history.

        after_step: called after every optimiser step, to look at the model.
        history: an entry an epoch with `epoch`, `step`, `learning_rate` (of the head) and
        `train_loss`, and with a validation set `validation_loss` and `accuracy`.
        Raises FloatingPointError if the run diverges; OSError if a checkpoint cannot be written or
        read, ValueError if it belongs to another model or other settings. The last checkpoint and
        its file stay as they were.
        """
        if self.file is not None and self.file.exists():
            self._load()
        forward = torch.compile(self.model) if self.settings.compile else self.model
        quiet = not progress or self.rank > 0
        with tqdm(total=self.total_steps, initial=self.step, desc="training", disable=quiet) as bar:
            while not self.finished:
                epoch, position = divmod(self.step, self.steps_per_epoch)
                self._choose_layers(epoch)
                steps = self._steps_of(epoch)
                for batches in steps[position:]:
                    self._train_on(forward, batches)
                    after_step()
                    bar.set_postfix(loss=f"{self.losses[-1]:.3f}", refresh=False)
                    bar.update()
                    at_end = self.step % self.steps_per_epoch == 0
                    every = self.settings.save_every
                    if every and self.step % every == 0 and not at_end:
                        self.save()
                self._end_epoch(epoch)
                self.save()
        if self.validation:
            self.stopping.restore(self.model)
        return self.history

    @torch.no_grad()
    def evaluate(self, examples: Sequence[Example]) -> tuple[float, float]:
        """Mean loss in nats and accuracy over everything that is labelled."""
        was_training, device = self.model.training, next(self.model.parameters()).device
        self.model.eval()
        loss = right = total = 0.0
        order = sorted(range(len(examples)), key=lambda row: len(examples[row]["input_ids"]))
        for first in range(0, len(order), self.settings.batch_size):
            rows = order[first : first + self.settings.batch_size]
            batch = collate([examples[row] for row in rows], self.pad_token_id)
            count = labels_in(batch)
            if count:
                batch = {name: tensor.to(device) for name, tensor in batch.items()}
                with _autocast(device, self.settings.precision):
                    output = self.model(**batch)
                loss += output.loss.item() * count
                right += _right_in(output, batch)
                total += count
        self.model.train(was_training)
        return loss / total, right / total

    def save(self) -> None:
        """Write a checkpoint: all of it or nothing, whatever happens meanwhile."""
        if self.file is None or self.rank > 0:
            return
        state = {
            "settings": asdict(self.settings),
            "shapes": _shapes(self.model),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "stopping": self.stopping.state_dict(),
            "start": self.start,
            "progress": [self.step, self.losses, self.history, self.finished],
            "random": _random_state(),
        }
        try:
            with replacing(self.file) as partial:
                torch.save(state, partial)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise OSError(
                f"The checkpoint {self.file} could not be written ({error}); the one before it is "
                "as it was."
            ) from error

    def _load(self) -> None:
        device = next(self.model.parameters()).device
        try:
            state = torch.load(self.file, map_location="cpu", weights_only=True)
            settings, shapes = state["settings"], state["shapes"]
        except Exception as error:
            raise OSError(f"{self.file} cannot be read as a checkpoint: {error}") from error
        if shapes != _shapes(self.model):
            raise ValueError(f"{self.file} is of another architecture than this model.")
        wanted = asdict(self.settings)
        other = [name for name in wanted if settings.get(name) != wanted[name]]
        if other:
            raise ValueError(
                f"{self.file} is of a run with {other[0]} = {settings.get(other[0])!r}, not "
                f"{wanted[other[0]]!r}; give another folder."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])
        self.stopping.load_state_dict(state["stopping"])
        self.start = {name: tensor.to(device) for name, tensor in state["start"].items()}
        self.step, self.losses, self.history, self.finished = state["progress"]
        _restore_random_state(state["random"])

    def _choose_layers(self, epoch: int) -> None:
        if self.settings.gradual:
            layers = layers_of(self.model)
            chosen = layers_to_train(epoch, len(layers) - 2)
            for number, parameters in enumerate(layers):
                for name, parameter in parameters.items():
                    parameter.requires_grad_(number in chosen and name in self._trainable)
        train_mode(self.model)

    def _steps_of(self, epoch: int) -> list[list[list[int]]]:
        """The rows of this process's batches, step by step."""
        lengths = [len(example["input_ids"]) for example in self.train]
        batches = epoch_batches(lengths, self.settings.batch_size, self.settings.seed, epoch)
        size = self.settings.accumulation
        steps = [batches[first : first + size] for first in range(0, len(batches), size)]
        return [step[self.rank :: self.processes] for step in steps]

    def _train_on(self, forward: nn.Module, batches: list[list[int]]) -> None:
        collated = [collate([self.train[i] for i in rows], self.pad_token_id) for rows in batches]
        s = self.settings
        penalty = self._anchor_penalty if s.anchor else None
        try:
            result = accumulated_step(
                forward, collated, self.optimizer, s.clip_norm, s.precision, self.scaler, penalty
            )
        except FloatingPointError as error:
            raise FloatingPointError(
                f"Step {self.step} of {self.total_steps}: {error} The weights are those of the "
                "step before. Try a lower learning rate, a longer warm-up, or float32."
            ) from None
        self.scheduler.step()
        self.step += 1
        self.losses.append(result.loss)

    def _anchor_penalty(self) -> Tensor:
        live = {n: p for n, p in self.model.base_model.named_parameters() if p.requires_grad}
        if not live:
            return next(self.model.parameters()).new_zeros((), requires_grad=True)
        return l2_anchor(live, {name: self.start[name] for name in live}, self.settings.anchor)

    def _end_epoch(self, epoch: int) -> None:
        entry = {
            "epoch": epoch,
            "step": self.step,
            "learning_rate": self.scheduler.get_last_lr()[-1],
            "train_loss": sum(self.losses) / len(self.losses),
        }
        stop = False
        if self.validation:
            loss, accuracy = self.evaluate(self.validation)
            if not math.isfinite(loss):
                raise FloatingPointError(f"The validation loss after epoch {epoch} is {loss}.")
            entry |= {"validation_loss": loss, "accuracy": accuracy}
            stop = self.stopping.update(loss, self.model)
        self.history.append(entry)
        self.losses = []
        self.finished = stop or self.step >= self.total_steps


def _right_in(output, batch: Batch) -> int:
    """How many labels (or spans, both ends) the model gets right."""
    if "labels" not in batch:
        starts = output.start_logits.argmax(dim=-1) == batch["start_positions"]
        return int((starts & (output.end_logits.argmax(dim=-1) == batch["end_positions"])).sum())
    if batch["labels"].is_floating_point():
        return 0
    return int((output.logits.argmax(dim=-1) == batch["labels"]).sum())


def _autocast(device: torch.device, precision: str):
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


def _shapes(model: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


def _restore_random_state(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    torch.cuda.set_rng_state_all(states[1:])
