"""Masked language modelling and its causal cousin: corruption and losses (notebook 02)."""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100  # the label of a position without loss, as everywhere in PyTorch and transformers
MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1  # of the chosen tokens; the rest is kept


def mask_tokens(
    ids: Tensor,
    special_tokens_mask: Tensor,
    mask_id: int,
    vocab_size: int,
    p: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Corrupt token ids for masked language modelling.

    Each ordinary token is chosen with probability p. Of the chosen, 80 % become [MASK], 10 % a
    token drawn uniformly from the vocabulary, 10 % stay. Devlin et al. 2019, section 3.1.

    ids: (B, T) integers, left unchanged.  special_tokens_mask: (B, T), 1 or True at [CLS], [SEP]
    and padding, which are never chosen.  generator: source of all chance, on ids' device.
    Returns inputs (B, T), the corrupted ids, and labels (B, T): the original id where a token was
    chosen (kept ones included), -100 elsewhere.
    Raises ValueError for other shapes, ids that are not int32 or int64, p outside [0, 1], or a
    mask_id outside the vocabulary.
    Differs from the paper in that tokens are chosen independently, not a fixed number a sequence.
    """
    if ids.ndim != 2 or special_tokens_mask.shape != ids.shape:
        raise ValueError(
            "ids and special_tokens_mask must have one shape (B, T), got "
            f"{tuple(ids.shape)} and {tuple(special_tokens_mask.shape)}."
        )
    if ids.dtype not in (torch.int32, torch.int64):  # unsigned ones cannot hold -100
        raise ValueError(f"ids must be int32 or int64, got {ids.dtype}.")
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a probability, got {p}.")
    if not 0 <= mask_id < vocab_size:
        raise ValueError(f"mask_id must be in [0, {vocab_size}), got {mask_id}.")
    options = {"generator": generator, "device": ids.device}
    chosen = (torch.rand(ids.shape, **options) < p) & ~special_tokens_mask.bool()
    fate = torch.rand(ids.shape, **options)  # one draw decides between the three
    masked = chosen & (fate < MASKED_SHARE)
    replaced = chosen & (fate >= MASKED_SHARE) & (fate < MASKED_SHARE + RANDOM_SHARE)
    words = torch.randint(vocab_size, ids.shape, dtype=ids.dtype, **options)
    inputs = torch.where(replaced, words, ids.masked_fill(masked, mask_id))
    return inputs, ids.masked_fill(~chosen, IGNORED)


def mlm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log P(x_i | corrupted x) over the chosen positions, in nats.

    Devlin et al. 2019, section 3.1.

    logits: (..., V), for example (B, T, V).  labels: (...), -100 where there is no loss.
    Returns a scalar; 0 with a gradient of 0 when nothing is chosen. Half precision is added up
    in float32, and the scalar is float32 then.
    Raises ValueError for shapes that do not fit or a label outside the vocabulary.
    """
    if logits.ndim < 1 or labels.shape != logits.shape[:-1]:
        raise ValueError(
            "wanted logits (..., V) and labels (...), got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}."
        )
    chosen = labels != IGNORED
    if (chosen & ((labels < 0) | (labels >= logits.shape[-1]))).any():
        raise ValueError(f"labels must be -100 or in [0, {logits.shape[-1]}).")
    return _mean_cross_entropy(logits, labels, chosen)


def causal_lm_loss(logits: Tensor, ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean of -log P(x_t | x_<t) over the tokens that have a predecessor, in nats.

    The logits at t - 1 predict the token at t. Radford et al. 2018, eq. 1.

    logits: (B, T, V).  ids: (B, T).  attention_mask: (B, T), 1 at tokens, 0 at padding (on either
    side); a pair counts when both its tokens are real.
    Returns a scalar; 0 with a gradient of 0 when no pair counts. Half precision is added up in
    float32, and the scalar is float32 then.
    Raises ValueError for shapes that do not fit, or a token outside the vocabulary.
    """
    if logits.ndim != 3 or ids.shape != logits.shape[:2] or attention_mask.shape != ids.shape:
        raise ValueError(
            "wanted logits (B, T, V), ids (B, T) and attention_mask (B, T), got "
            f"{tuple(logits.shape)}, {tuple(ids.shape)} and {tuple(attention_mask.shape)}."
        )
    real = attention_mask.bool()
    if (real & ((ids < 0) | (ids >= logits.shape[-1]))).any():
        raise ValueError(f"ids must be in [0, {logits.shape[-1]}) where attention_mask is 1.")
    return _mean_cross_entropy(logits[:, :-1], ids[:, 1:], real[:, 1:] & real[:, :-1])


def _mean_cross_entropy(logits: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """Cross-entropy averaged over the counted positions; 0 when there are none."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    total = F.cross_entropy(
        logits.flatten(0, -2),
        targets.masked_fill(~counted, IGNORED).flatten().long(),
        ignore_index=IGNORED,
        reduction="sum",
    )
    return total / counted.sum().clamp(min=1)
