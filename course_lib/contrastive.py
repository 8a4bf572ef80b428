"""Contrastive pre-training: NT-Xent without its matrix, and MoCo's parts (notebook 03)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from course_lib.processes import gathered, rank_and_size

BLOCK_ROWS = 256  # rows of similarities held at once; 64 to 512 differ by a tenth in time
KEPT_ENTRIES = 2**22  # similarities kept for the backward pass at most, whatever N: 16 MiB
SAFE_EXPONENT = 60.0  # exp(60), exp(-60) and sums and products of the two fit float32
SHORTEST = 1e-30  # vectors with no entry above this count as zero
COLDEST, HOTTEST = 1e-6, 1e6  # temperatures for which similarities / temperature fit float32


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross-entropy of two views of a batch, in nats.

    The mean over all 2N embeddings z_i, with z_i+ the other view of the same example, of
    -log( exp(cos(z_i, z_i+) / temperature) / sum_{k != i} exp(cos(z_i, z_k) / temperature) ).
    Chen et al. 2020 (2002.05709), eq. 1.

    z1, z2: (N, d), floating point, any lengths; row i of both comes from example i.
    temperature: a number, or a scalar tensor, which may have a gradient.
    Returns a scalar. Half precision is computed in float32, and the scalar is float32 then.
    The 2N x 2N similarities are computed block by block, in the forward pass for their
    log-sum-exps and again in the backward pass, but for a few blocks that are kept, so memory
    grows with N d and not with N^2. A zero vector has similarity 0 to all. The gradient cannot be
    differentiated again.
    Raises ValueError for shapes or temperatures that do not fit, TypeError for integers or two
    dtypes.
    """
    check_embeddings({"z1": z1, "z2": z2}, temperature)
    with torch.autocast(z1.device.type, enabled=False):
        return _NTXent.apply(_scaled_views(z1, z2, temperature))


def gathered_nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """NT-Xent of a process's own rows, with the embeddings of all processes as candidates.

    Averaged over the processes, as DistributedDataParallel averages gradients, the loss and the
    gradient of the parameters are those of `nt_xent` on the whole batch. For that the gradient at
    an embedding holds what it does as a candidate of other processes, too.
    Chen et al. 2020 (2002.05709), eq. 1 and section 2.2.

    z1, z2: (N, d), this process's part; N and d the same in every process.
    Returns a scalar, the mean over this process's 2N rows. Every process must call this function,
    and scale its loss alike. Without a process group it is `nt_xent`.
    Raises what `nt_xent` raises, and ValueError in every process when their shapes differ.
    """
    if rank_and_size()[1] == 1:
        return nt_xent(z1, z2, temperature)
    check_embeddings({"z1": z1, "z2": z2}, temperature)
    shapes = gathered(torch.tensor([z1.shape], device=z1.device)).tolist()
    if shapes.count(shapes[0]) != len(shapes):
        raise ValueError(f"z1 must have one shape in all processes, got {shapes}.")
    with torch.autocast(z1.device.type, enabled=False):
        return _GatheredNTXent.apply(_scaled_views(z1, z2, temperature))


def encode_in_chunks(encoder: nn.Module, inputs: Tensor, chunk_size: int) -> Tensor:
    """Encode a large batch with the activation memory of a small one.

    Only the embeddings are kept. The backward pass takes the loss's gradient at all of them, then
    runs the encoder on one chunk after another a second time, with the same random numbers.
    Gao et al. 2021 (2101.06983), section 3.

    inputs: (N, ...).  chunk_size: examples encoded at once.
    Returns encoder(inputs), (N, ...).
    Raises ValueError for a chunk_size below 1 or no inputs.
    An encoder that looks at the whole batch sees a chunk instead: in training mode BatchNorm
    normalises by chunk, and counts every chunk twice in its running statistics.
    """
    if chunk_size < 1 or not len(inputs):
        raise ValueError(
            "encode_in_chunks needs a chunk_size of at least 1 and at least one input, got "
            f"chunk_size {chunk_size} and {len(inputs)} inputs."
        )
    chunks = inputs.split(chunk_size)
    return torch.cat([checkpoint(encoder, chunk, use_reentrant=False) for chunk in chunks])


@torch.no_grad()
def momentum_update(key_encoder: nn.Module, query_encoder: nn.Module, m: float) -> None:
    """Move the key encoder towards the query encoder: theta_k <- m theta_k + (1 - m) theta_q.

    In place and without a graph. He et al. 2020 (1911.05722), eq. 2.

    m: momentum in [0, 1], 0.999 in the paper. Keep the key encoder in float32: in bfloat16 a step
    of 0.001 is rounded away.
    Raises ValueError for an m outside [0, 1], one encoder given twice, or encoders whose parameters
    or buffers differ in name or shape.
    Differs from the paper in that floating-point buffers (BatchNorm's statistics) move in the same
    way and integer buffers (its counter) are copied; the paper speaks of parameters alone.
    """
    if not 0 <= m <= 1:
        raise ValueError(f"m must be in [0, 1], got {m}.")
    if key_encoder is query_encoder:
        raise ValueError("The key encoder must be a copy of the query encoder, not the same one.")
    keys, queries = _state(key_encoder), _state(query_encoder)
    shapes, wanted = ({name: tuple(t.shape) for name, t in s.items()} for s in (keys, queries))
    if shapes != wanted:
        names = {**wanted, **shapes}
        name = next(name for name in names if shapes.get(name) != wanted.get(name))
        raise ValueError(
            "The encoders must have the same parameters and buffers, but "
            f"{name} is {shapes.get(name, 'missing')} in the key encoder and "
            f"{wanted.get(name, 'missing')} in the query encoder."
        )
    for name, key in keys.items():
        if key.is_floating_point():
            key.lerp_(queries[name].to(key), 1 - m)
        else:
            key.copy_(queries[name])


class KeyQueue(nn.Module):
    """The last `size` keys, in a ring buffer: a new batch takes the place of the oldest keys.

    A module without parameters, so that it moves to a device and is saved with a model.
    He et al. 2020 (1911.05722), section 3.2; 65 536 keys there.

    size: keys held at most.  dim: d, entries of a key.
    Raises ValueError for a size or dim below 1.
    Differs from the paper's code in that it starts empty, not with random keys.
    """

    def __init__(self, size: int, dim: int):
        super().__init__()
        if size < 1 or dim < 1:
            raise ValueError(f"size and dim must be at least 1, got {size} and {dim}.")
        self.register_buffer("slots", torch.zeros(size, dim))
        self.register_buffer("enqueued", torch.zeros((), dtype=torch.long))  # ever, not now

    def __len__(self) -> int:
        return min(int(self.enqueued), len(self.slots))

    @property
    def keys(self) -> Tensor:
        """The keys held, (len(self), d), in the order of their slots; a view, nothing is copied."""
        return self.slots[: len(self)]

    def oldest_first(self) -> Tensor:
        """A copy of the keys held, (len(self), d), in the order in which they came."""
        return self.keys.roll(-(int(self.enqueued) % len(self)), 0) if len(self) else self.keys

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Store a copy of keys (B, d), without their graph; the oldest make room.

        Raises ValueError for another shape, or for more keys than the queue holds.
        """
        size, dim = self.slots.shape
        if keys.ndim != 2 or keys.shape[1] != dim:
            raise ValueError(f"keys must be (B, {dim}), got {tuple(keys.shape)}.")
        if len(keys) > size:
            raise ValueError(f"The queue holds {size} keys, got {len(keys)} at once.")
        places = (self.enqueued + torch.arange(len(keys), device=self.slots.device)) % size
        self.slots[places] = keys.to(self.slots)
        self.enqueued += len(keys)


def gather_keys(keys: Tensor) -> Tensor:
    """The keys of all processes in the order of their ranks, for `KeyQueue.enqueue`.

    So that the queues of all processes stay the same, and hold the keys of the whole batch.
    He et al. 2020 (1911.05722), their code; the loss itself needs no gathering, because a query
    meets its own key and the queue, and DistributedDataParallel averages its gradient.

    keys: (B, d), this process's; B and d the same in every process, and every process must call.
    Returns (W B, d) without a graph; the keys themselves where there is no process group.
    """
    return gathered(keys)


def moco_loss(query: Tensor, positive_key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """InfoNCE of queries against their positive key and a queue of negatives, in nats.

    The mean over the batch of the cross-entropy of the logits
    [cos(q, k+), cos(q, queue_1), ..., cos(q, queue_K)] / temperature, with the positive at index 0.
    He et al. 2020 (1911.05722), eq. 1. Only the query has a gradient.

    query, positive_key: (B, d); row i of both comes from example i.  queue: (K, d), for example
    `KeyQueue.keys`. Any lengths; all are normalised. K may be 0: the loss is 0 then.
    Returns a scalar. Half precision is computed in float32, and the scalar is float32 then.
    Raises ValueError for shapes or temperatures that do not fit, TypeError for integers or two
    dtypes of query and positive_key.
    """
    check_embeddings({"query": query, "positive_key": positive_key}, temperature)
    if queue.ndim != 2 or queue.shape[1] != query.shape[1]:
        raise ValueError(f"queue must be (K, {query.shape[1]}), got {tuple(queue.shape)}.")
    with torch.autocast(query.device.type, enabled=False):
        query = unit(query)
        positive_key, queue = unit(positive_key.detach()), unit(queue.detach().to(query.device))
        positives = (query * positive_key).sum(dim=1, keepdim=True)  # (B, 1)
        logits = torch.cat([positives, query @ queue.to(query).T], dim=1) / temperature
        return F.cross_entropy(logits, torch.zeros_like(logits[:, 0], dtype=torch.long))


class _NTXent(torch.autograd.Function):
    """NT-Xent of points (2N, d) whose inner products are the logits; i and i + N are a pair.

    The logits are symmetric: a block of rows starts at its own first column, and what lies right
    of its diagonal square serves both its rows and, transposed, its columns.
    """

    @staticmethod
    def forward(ctx, points: Tensor) -> Tensor:
        ctx.safe = _exponents_are_safe(points)
        half = len(points) // 2
        normaliser = points.new_full((len(points),), -math.inf)  # (2N,) log-sum-exps
        positives = points.new_empty(half)
        kept, room = [], KEPT_ENTRIES if ctx.safe and ctx.needs_input_grad[0] else 0
        for own in _blocks(points):
            logits = _logits(points[own], points[own.start :], 0)
            pairs = logits.diagonal(half)  # of the rows in the first half
            positives[own.start : own.start + len(pairs)] = pairs
            of_rows, of_columns = _log_sums(logits, ctx.safe)
            torch.logaddexp(normaliser[own], of_rows, out=normaliser[own])
            torch.logaddexp(normaliser[own.stop :], of_columns, out=normaliser[own.stop :])
            if len(kept) == own.start // BLOCK_ROWS and logits.numel() <= room:
                room -= logits.numel()
                kept.append(logits)
        ctx.save_for_backward(points, normaliser, *kept)
        return (normaliser - positives.repeat(2)).mean()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        _refuse_second_derivative()
        points, normaliser, *kept = ctx.saved_tensors  # kept: exponentials of the first blocks
        half = len(points) // 2
        pulls = torch.zeros_like(points)
        with torch.autocast(points.device.type, enabled=False):
            for block, own in enumerate(_blocks(points)):
                of_rows, of_columns = normaliser[own], normaliser[own.start :]
                if block < len(kept):
                    weights = kept[block] * _inverses(of_rows, of_columns)
                else:
                    logits = _logits(points[own], points[own.start :], 0)
                    weights = _weights(logits, of_rows, of_columns, ctx.safe)
                weights.diagonal(half).sub_(2)  # a pair counts in the rows of both its points
                weights.diagonal(-half).sub_(2)  # inside a diagonal square only
                pulls[own].addmm_(weights, points[own.start :])
                pulls[own.stop :].addmm_(weights[:, len(weights) :].T, points[own])
        return pulls.mul_(gradient / len(points))


class _GatheredNTXent(torch.autograd.Function):
    """NT-Xent of this process's points (2N, d) among those of all processes (W 2N, d)."""

    @staticmethod
    def forward(ctx, points: Tensor) -> Tensor:
        everyone = gathered(points)
        # Where this process's points are among everyone's.
        first = rank_and_size()[0] * len(points)
        partners = torch.arange(len(points), device=points.device).roll(len(points) // 2) + first
        normaliser, positives = points.new_empty(2, len(points))
        for own in _blocks(points):
            logits = _logits(points[own], everyone, first + own.start)
            positives[own] = logits.gather(1, partners[own, None])[:, 0]
            normaliser[own] = logits.logsumexp(dim=1)
        ctx.save_for_backward(points, everyone, partners, normaliser, gathered(normaliser))
        ctx.first, ctx.safe = first, _exponents_are_safe(everyone)
        return (normaliser - positives).mean()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        _refuse_second_derivative()
        points, everyone, partners, normaliser, normalisers = ctx.saved_tensors
        pulls = torch.empty_like(points)
        with torch.autocast(points.device.type, enabled=False):
            for own in _blocks(points):
                logits = _logits(points[own], everyone, ctx.first + own.start)
                weights = _weights(logits, normaliser[own], normalisers, ctx.safe)
                pair = partners[own, None]
                weights.scatter_add_(1, pair, weights.new_full(pair.shape, -2))
                torch.mm(weights, everyone, out=pulls[own])
        return pulls.mul_(gradient / len(points))


def _blocks(points: Tensor) -> list[slice]:
    """The rows of points, BLOCK_ROWS at a time."""
    starts = range(0, len(points), BLOCK_ROWS)
    return [slice(start, min(start + BLOCK_ROWS, len(points))) for start in starts]


def _logits(rows: Tensor, columns: Tensor, first: int) -> Tensor:
    """Inner products; -inf where row i meets itself, column first + i."""
    logits = rows @ columns.T
    logits[:, first : first + len(rows)].fill_diagonal_(-math.inf)
    return logits


def _exponents_are_safe(points: Tensor) -> bool:
    """Whether every logit, hence every log-sum-exp, can be exponentiated without a shift.

    No inner product exceeds the largest squared length, 1 / temperature. Then one exponential
    serves a logit's row and its column; with a shift of their own each would need another.
    """
    return points.square().sum(dim=1).max().item() <= SAFE_EXPONENT


def _log_sums(logits: Tensor, safe: bool) -> tuple[Tensor, Tensor]:
    """Log-sum-exps of the rows, and of the columns right of the square. Overwrites the logits."""
    columns = logits[:, len(logits) :]
    if safe:
        logits.exp_()
        return logits.sum(dim=1).log_(), columns.sum(dim=0).log_()
    return logits.logsumexp(dim=1), columns.logsumexp(dim=0)


def _weights(logits: Tensor, of_rows: Tensor, of_columns: Tensor, safe: bool) -> Tensor:
    """Row i's softmax at column j plus column j's softmax at row i. Overwrites the logits."""
    if safe:
        return logits.exp_().mul_(_inverses(of_rows, of_columns))
    weights = (logits - of_rows[:, None]).exp_()
    return weights.add_(logits.sub_(of_columns).exp_())


def _inverses(of_rows: Tensor, of_columns: Tensor) -> Tensor:
    """The sum of a row's and a column's 1 / sum of exponentials, from their logarithms."""
    return of_rows.neg().exp()[:, None] + of_columns.neg().exp()


def _refuse_second_derivative() -> None:
    """The backward pass is no graph of operations; with create_graph it would be a constant."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "NT-Xent without its matrix has no second derivative: call backward or grad without "
            "create_graph, or write the loss as a cross-entropy of the whole matrix."
        )


def _scaled_views(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Points (2N, d) whose inner products are cosine similarities / temperature."""
    return unit(torch.cat([z1, z2])) / temperature**0.5


def unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1, at least in float32; a zero vector stays zero.

    The largest entry is divided out first, so that no square over- or underflows. The direction
    does not depend on it, hence no gradient through it. What is left has a length of at least 1.
    """
    if vectors.dtype in (torch.float16, torch.bfloat16):
        vectors = vectors.float()
    largest = vectors.detach().abs().amax(dim=1, keepdim=True)
    vectors = vectors / torch.where(largest < SHORTEST, 1, largest)
    return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp(min=1)


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def check_embeddings(pair: dict[str, Tensor], temperature: float) -> None:
    """Raise unless two named tensors are embeddings (N, d) alike and the temperature is sane.

    Raises ValueError for shapes or a temperature that do not fit, TypeError for dtypes.
    """
    (first_name, first), (second_name, second) = pair.items()
    if first.ndim != 2 or first.shape != second.shape or not first.numel():
        raise ValueError(
            f"{first_name} and {second_name} must have one shape (N, d), N and d at least 1, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    if not first.is_floating_point() or first.dtype != second.dtype:
        raise TypeError(
            f"{first_name} and {second_name} must be of one floating-point type, got "
            f"{first.dtype} and {second.dtype}."
        )
    if not COLDEST <= temperature <= HOTTEST:
        raise ValueError(
            f"temperature must be between {COLDEST:g} and {HOTTEST:g}, got {temperature}."
        )
