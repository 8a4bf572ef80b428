"""NT-Xent against the paper's formula, its memory, processes and chunks; MoCo's three parts."""

import copy
import gc
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import NTXentLoss
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from course_lib import contrastive
from course_lib.contrastive import (
    KeyQueue,
    encode_in_chunks,
    gather_keys,
    gathered_nt_xent,
    moco_loss,
    momentum_update,
    nt_xent,
)


def make_views(n=6, d=5, dtype=torch.float32, seed=0, spread=1.0):
    """Two views of n examples; a small spread makes them close to each other."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(n, d, generator=generator)
    noise = torch.randn(2, n, d, generator=generator)
    return tuple((centres + spread * part).to(dtype).requires_grad_() for part in noise)


def papers_nt_xent(z1, z2, temperature):
    """Chen et al. 2020, eq. 1 and algorithm 1, term by term in float64."""
    z = [row.double() for row in torch.cat([z1, z2])]
    cosine = [[a @ b / (a.norm() * b.norm()) for b in z] for a in z]
    total = 0.0
    for i in range(len(z)):
        pair = (i + len(z1)) % len(z)
        others = [cosine[i][k] / temperature for k in range(len(z)) if k != i]
        total = total + torch.stack(others).logsumexp(0) - cosine[i][pair] / temperature
    return total / len(z)


def plain_nt_xent(z1, z2, temperature):
    """The same in one matrix, for sizes at which the loops take too long."""
    z = F.normalize(torch.cat([z1, z2]).double(), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def gradients(loss, inputs, *arguments):
    return torch.autograd.grad(loss(*inputs, *arguments), inputs)


def assert_same_gradients(ours, theirs, relative):
    """Close relative to the largest entry: small ones are differences of large terms."""
    for own, wanted in zip(ours, theirs, strict=True):
        largest = float(wanted.abs().max())
        torch.testing.assert_close(own.double(), wanted.double(), rtol=0, atol=relative * largest)


class LargestTensor(TorchDispatchMode):
    """Records the most entries of any tensor made while it is active."""

    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.entries = max(self.entries, leaf.numel())
        return result


class MostBytes(TorchDispatchMode):
    """Records the most bytes that tensors made while it is active take up at once."""

    def __init__(self):
        super().__init__()
        self.peak = 0
        self.storages = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        alive = {k: v for k, v in self.storages.items() if not v[0].expired()}
        self.storages = alive
        self.peak = max(self.peak, sum(size for _, size in alive.values()))
        return result


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of three rows, so that a few rows make several blocks and a part of one.

    Of 12 points the first two blocks, 36 and 27 entries, are kept, and the other two are not.
    """
    monkeypatch.setattr(contrastive, "BLOCK_ROWS", 3)
    monkeypatch.setattr(contrastive, "KEPT_ENTRIES", 70)


# nt_xent


@pytest.mark.parametrize("temperature", [0.01, 0.07, 0.5, 10])
@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_nt_xent_is_the_papers_formula(small_blocks, n, temperature):
    views = make_views(n, dtype=torch.float64)
    torch.testing.assert_close(nt_xent(*views, temperature), papers_nt_xent(*views, temperature))
    torch.testing.assert_close(
        gradients(nt_xent, views, temperature), gradients(papers_nt_xent, views, temperature)
    )


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1])
def test_nt_xent_agrees_with_pytorch_metric_learning(temperature):
    views = make_views(8, dtype=torch.float64)
    labels = torch.arange(8).repeat(2)
    peer = NTXentLoss(temperature)
    torch.testing.assert_close(nt_xent(*views, temperature), peer(torch.cat(views), labels))
    theirs = torch.autograd.grad(peer(torch.cat(views), labels), views)
    torch.testing.assert_close(gradients(nt_xent, views, temperature), theirs)


@pytest.mark.parametrize("n", [1, 4])
def test_nt_xent_passes_gradcheck(small_blocks, n):
    views = make_views(n, 3, torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3), views)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1, 10])
@pytest.mark.parametrize("spread", [0.01, 1])
def test_nt_xent_in_float32_over_many_blocks(temperature, spread):
    """Logits reach 1 / temperature; float32 rounds them, and so the softmax, to 6e-8 of that."""
    n, tolerance = 300, 1e-6 * max(1, 1 / temperature)
    views = make_views(n, 16, spread=spread)
    loss, wanted = nt_xent(*views, temperature), plain_nt_xent(*views, temperature)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), wanted, rtol=0, atol=tolerance)
    ours = gradients(nt_xent, views, temperature)
    theirs = gradients(plain_nt_xent, views, temperature)
    for own, exact in zip(ours, theirs, strict=True):
        full_size = 1 / (2 * n * temperature)  # of the gradient at a softmax of 1
        torch.testing.assert_close(own, exact, rtol=0, atol=tolerance * full_size)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.01, 0.5, 10])
def test_half_precision_is_computed_in_float32(dtype, temperature):
    views = make_views(40, 16, dtype)
    loss = nt_xent(*views, temperature)
    assert loss.dtype == torch.float32
    wanted = plain_nt_xent(*views, temperature)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-4, atol=0)
    ours = gradients(nt_xent, views, temperature)
    assert {gradient.dtype for gradient in ours} == {dtype}
    rounding = torch.finfo(dtype).eps  # only the gradient itself is rounded to half precision
    assert_same_gradients(ours, gradients(plain_nt_xent, views, temperature), rounding)


def test_autocast_does_not_lower_the_precision():
    views = make_views(40, 16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(*views, 0.05)
        computed = torch.autograd.grad(inside, views)
    assert torch.equal(inside, nt_xent(*views, 0.05))
    assert all(map(torch.equal, computed, gradients(nt_xent, views, 0.05)))


def test_temperature_can_be_learned():
    views = make_views(dtype=torch.float64)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(nt_xent(*views, temperature), temperature)
    (wanted,) = torch.autograd.grad(papers_nt_xent(*views, temperature), temperature)
    torch.testing.assert_close(slope, wanted)


@pytest.mark.parametrize("length", [0.0, 1e-37, 1e-25, 1e25, 1e37])
def test_vectors_of_any_length_give_a_finite_loss_and_gradient(length):
    first, second = (view.detach() for view in make_views())
    first[2] *= length
    views = first.requires_grad_(), second.requires_grad_()
    for temperature in (1e-6, 0.01, 1e6):
        assert nt_xent(*views, temperature).isfinite()
        assert all(part.isfinite().all() for part in gradients(nt_xent, views, temperature))


def test_a_zero_vector_has_similarity_zero_to_all():
    first, second = torch.zeros(3, 4), torch.zeros(3, 4)
    assert float(nt_xent(first, second, 0.1)) == pytest.approx(math.log(5))


def test_lengths_do_not_matter():
    first, second = make_views()
    torch.testing.assert_close(nt_xent(first * 7, second / 9, 0.2), nt_xent(first, second, 0.2))


@pytest.mark.parametrize("seed", range(5))
def test_rounding_makes_no_loss_of_a_low_temperature_negative(seed):
    views = make_views(40, 16, seed=seed, spread=1e-3)
    assert 0 <= nt_xent(*views, 0.01).item() < 1e-3


def test_both_ways_to_exponentiate_meet_where_one_takes_over():
    """The gradient of opposite views is largest: every softmax misses its positive."""
    first, _ = make_views(30, 16, dtype=torch.float64)
    limit = 1 / contrastive.SAFE_EXPONENT
    for temperature in (0.999 * limit, 1.001 * limit):
        for second in (first, -first):
            views = [v.detach().float().requires_grad_() for v in (first, second)]
            torch.testing.assert_close(
                nt_xent(*views, temperature).double(),
                plain_nt_xent(*views, temperature),
                rtol=0,
                atol=1e-4,
            )
            for own, exact in zip(
                gradients(nt_xent, views, temperature),
                gradients(plain_nt_xent, views, temperature),
                strict=True,
            ):
                torch.testing.assert_close(own, exact, rtol=0, atol=1e-4)


def test_one_example_has_no_negatives_and_nothing_to_learn():
    views = make_views(1)
    for temperature in (0.01, 0.1, 1):
        assert nt_xent(*views, temperature).item() == pytest.approx(0, abs=1e-6)
        for part in gradients(nt_xent, views, temperature):
            torch.testing.assert_close(part, torch.zeros_like(part), rtol=0, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    order=st.permutations(range(7)),
    swapped=st.booleans(),
    temperature=st.floats(0.01, 10),
)
def test_order_of_examples_and_of_views_does_not_matter(order, swapped, temperature):
    views = make_views(7, dtype=torch.float64)
    shuffled = [view[list(order)] for view in (views[::-1] if swapped else views)]
    torch.testing.assert_close(nt_xent(*shuffled, temperature), nt_xent(*views, temperature))


def test_the_matrix_of_similarities_is_never_held():
    n = 1024
    views = make_views(n, 8)
    with LargestTensor() as largest:
        nt_xent(*views, 0.1).backward()
    assert largest.entries == contrastive.BLOCK_ROWS * 2 * n


@pytest.mark.parametrize("room", [600_000, 1_200_000])
def test_blocks_are_kept_for_the_backward_pass_within_their_room(monkeypatch, room):
    """The first blocks have 524 288 and 458 752 entries of 4 bytes."""

    def peak(entries):
        monkeypatch.setattr(contrastive, "KEPT_ENTRIES", entries)
        with MostBytes() as most:
            nt_xent(*make_views(1024, 8), 0.1).backward()
        return most.peak

    assert 0.5 * 4 * room < peak(room) - peak(0) <= 4 * room


def test_the_backward_pass_can_run_twice():
    views = make_views()
    loss = nt_xent(*views, 0.1)
    once = torch.autograd.grad(loss, views, retain_graph=True)
    assert all(map(torch.equal, once, torch.autograd.grad(loss, views)))


def test_the_recorder_sees_a_matrix():
    with LargestTensor() as largest:
        plain_nt_xent(*make_views(50, 8), 0.1).backward()
    assert largest.entries == 100 * 100


def test_inputs_and_incoming_gradient_stay_as_they_are():
    views = make_views()
    before = [view.detach().clone() for view in views]
    scale = torch.tensor(3.0)
    nt_xent(*views, 0.1).backward(scale)
    assert scale == 3
    assert all(map(torch.equal, views, before))
    once = gradients(nt_xent, views, 0.1)
    torch.testing.assert_close([view.grad for view in views], [3 * part for part in once])


def test_one_view_may_be_without_gradient_and_strided():
    first, second = make_views(6, 6)
    loss = nt_xent(first.T, second.detach().T, 0.3)
    torch.testing.assert_close(loss.double(), papers_nt_xent(first.T, second.T, 0.3))
    loss.backward()
    assert first.grad is not None and second.grad is None


def test_a_second_derivative_is_refused():
    views = make_views()
    with pytest.raises(RuntimeError, match="no second derivative: .* without create_graph"):
        torch.autograd.grad(nt_xent(*views, 0.1), views, create_graph=True)


@pytest.mark.parametrize(
    ("first", "second", "temperature", "error", "message"),
    [
        ((4, 3), (5, 3), 0.1, ValueError, "one shape .*, got .4, 3. and .5, 3."),
        ((4,), (4,), 0.1, ValueError, "one shape"),
        ((0, 3), (0, 3), 0.1, ValueError, "at least 1"),
        ((4, 3), (4, 3), 0, ValueError, "temperature must be between .*, got 0"),
        ((4, 3), (4, 3), -1.0, ValueError, "temperature"),
        ((4, 3), (4, 3), math.nan, ValueError, "temperature"),
        ((4, 3), (4, 3), math.inf, ValueError, "temperature"),
    ],
)
@pytest.mark.parametrize("loss", [nt_xent, gathered_nt_xent])
def test_bad_input_is_refused_with_a_sentence(loss, first, second, temperature, error, message):
    with pytest.raises(error, match=message):
        loss(torch.ones(first), torch.ones(second), temperature)


@pytest.mark.parametrize("dtypes", [(torch.long, torch.long), (torch.float, torch.double)])
def test_integers_and_mixed_types_are_refused(dtypes):
    first, second = (torch.ones(4, 3, dtype=dtype) for dtype in dtypes)
    for call in (
        lambda: nt_xent(first, second, 0.1),
        lambda: moco_loss(first, second, torch.ones(2, 3), 0.1),
    ):
        with pytest.raises(TypeError, match=re.escape(f"got {dtypes[0]} and {dtypes[1]}.")):
            call()


# across processes


class Encoder(nn.Module):
    """Two layers and dropout, which needs the same random numbers when it runs again."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 20), nn.Tanh(), nn.Dropout(dropout), nn.Linear(20, 4)
        )

    def forward(self, inputs):
        return self.layers(inputs)


def one_process(rank, world, address, batch, encoder, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    contrastive.BLOCK_ROWS = 3
    parallel = nn.parallel.DistributedDataParallel(encoder)
    first, second = (view.chunk(world)[rank] for view in batch)
    embeddings = parallel(torch.cat([first, second])).chunk(2)
    loss = gathered_nt_xent(*embeddings, 0.2)
    loss.backward()
    uneven = torch.ones(2 + rank, 4)
    try:
        gathered_nt_xent(uneven, uneven, 0.2)
        message = ""
    except ValueError as error:
        message = str(error)
    slopes = [parameter.grad.clone() for parameter in encoder.parameters()]
    moco = moco_step(parallel, encoder, first, second)
    torch.save((loss.detach(), slopes, message, moco), results / f"{rank}.pt")
    # What holds the group keeps its threads alive, and a thread that outlives its group aborts.
    del parallel, embeddings, loss
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def moco_step(parallel, encoder, first, second):
    """Loss, gradient and what the queue holds afterwards."""
    encoder.zero_grad()
    queue = KeyQueue(12, 4).to(first.dtype)
    queue.enqueue(torch.eye(4, dtype=first.dtype))
    keys = encoder(second).detach()
    loss = moco_loss(parallel(first), keys, queue.keys.clone(), 0.2)
    loss.backward()
    queue.enqueue(gather_keys(keys))
    slopes = [parameter.grad.clone() for parameter in encoder.parameters()]
    return loss.detach(), slopes, queue.oldest_first()


@pytest.mark.parametrize("world", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_together_have_the_loss_and_gradient_of_the_whole_batch(tmp_path, world):
    torch.manual_seed(0)
    encoder = Encoder().double()
    batch = [view.detach() for view in make_views(8, 6, torch.float64)]
    arguments = (world, (tmp_path / "meeting").as_uri(), batch, encoder, tmp_path)
    multiprocessing.spawn(one_process, arguments, nprocs=world)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]

    wanted = papers_nt_xent(*(encoder(view) for view in batch), 0.2)
    slopes = torch.autograd.grad(wanted, list(encoder.parameters()))
    losses = torch.stack([loss for loss, _, _, _ in results])
    torch.testing.assert_close(losses.mean(), wanted.detach())
    moco = moco_step(encoder, encoder, *batch)
    torch.testing.assert_close(torch.stack([own[0] for *_, own in results]).mean(), moco[0])
    for _, computed, message, (_, moco_slopes, queue) in results:
        torch.testing.assert_close(computed, list(slopes))
        torch.testing.assert_close(moco_slopes, moco[1])
        torch.testing.assert_close(queue, moco[2])
        assert (message == "") == (world == 1)
        assert world == 1 or "one shape in all processes, got [[2, 4], [3, 4]" in message


def test_without_processes_gathering_changes_nothing():
    views = make_views()
    assert torch.equal(gathered_nt_xent(*views, 0.2), nt_xent(*views, 0.2))


# in chunks


def test_chunks_give_the_gradient_of_the_whole_batch():
    torch.manual_seed(0)
    encoder = Encoder().double()
    batch = make_views(10, 6, torch.float64)
    sources = [*batch, *encoder.parameters()]
    whole = nt_xent(*(encoder(view) for view in batch), 0.2)
    chunked = nt_xent(*(encode_in_chunks(encoder, view, 4) for view in batch), 0.2)
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(
        torch.autograd.grad(chunked, sources), torch.autograd.grad(whole, sources)
    )


def test_chunks_run_again_with_the_same_dropout():
    torch.manual_seed(0)
    encoder = Encoder(dropout=0.5).double()
    inputs = torch.randn(6, 6, dtype=torch.float64)
    torch.manual_seed(7)
    encode_in_chunks(encoder, inputs, 2).square().sum().backward()
    computed = [parameter.grad for parameter in encoder.parameters()]
    torch.manual_seed(7)
    wanted = torch.cat([encoder(part) for part in inputs.split(2)]).square().sum()
    torch.testing.assert_close(computed, list(torch.autograd.grad(wanted, encoder.parameters())))


def test_a_batch_trains_in_the_activation_memory_of_one_chunk():
    """Beside them there are the gradients, summed and of one chunk, and all embeddings."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(4, 500), nn.Tanh(), nn.Linear(500, 500), nn.Linear(500, 2))
    inputs = torch.randn(2048, 4)
    peaks = []
    for rows, encode in (
        (32, encoder),
        (2048, encoder),
        (2048, lambda batch: encode_in_chunks(encoder, batch, 32)),
    ):
        encoder.zero_grad(set_to_none=True)
        with MostBytes() as most:
            encode(inputs[:rows]).square().sum().backward()
        peaks.append(most.peak)
    one_chunk, at_once, in_chunks = peaks
    slopes = sum(parameter.nbytes for parameter in encoder.parameters())
    embeddings = encoder(inputs).nbytes
    assert in_chunks < one_chunk + 2 * slopes + 8 * embeddings < at_once / 3


@pytest.mark.parametrize(("inputs", "size"), [(torch.ones(4, 6), 0), (torch.ones(0, 6), 2)])
def test_chunks_that_cannot_be_are_refused(inputs, size):
    with pytest.raises(ValueError, match=f"got chunk_size {size} and {len(inputs)} inputs"):
        encode_in_chunks(Encoder(), inputs, size)


# momentum_update


def make_encoders():
    torch.manual_seed(0)
    query = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    key = copy.deepcopy(query)
    for _ in range(2):
        query(torch.randn(8, 4) + 3)
    with torch.no_grad():
        for parameter in query.parameters():
            parameter.add_(torch.randn_like(parameter))
    return key, query


def test_momentum_moves_parameters_and_buffers_in_place_without_a_graph():
    key, query = make_encoders()
    before, wanted = copy.deepcopy(key.state_dict()), copy.deepcopy(query.state_dict())
    places = {name: value.data_ptr() for name, value in key.state_dict().items()}
    assert momentum_update(key, query, 0.9) is None
    for name, value in key.state_dict().items():
        assert value.data_ptr() == places[name]
        expected = 0.9 * before[name].double() + 0.1 * wanted[name].double()
        if not value.is_floating_point():
            expected = wanted[name]
            assert expected == 2
        torch.testing.assert_close(value, expected.to(value.dtype))
        assert torch.equal(query.state_dict()[name], wanted[name])
    for parameter in key.parameters():
        assert parameter.is_leaf and parameter.requires_grad and parameter.grad is None


@pytest.mark.parametrize(("m", "follows"), [(1, "key"), (0, "query")])
def test_momentum_at_its_ends_keeps_or_copies(m, follows):
    key, query = make_encoders()
    wanted = copy.deepcopy({"key": key, "query": query}[follows])
    momentum_update(key, query, m)
    assert all(map(torch.equal, key.parameters(), wanted.parameters()))


def test_parameters_in_two_places_move_once():
    query = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    query[1].weight = query[0].weight
    key = copy.deepcopy(query)
    with torch.no_grad():
        key[0].weight.zero_()
        query[0].weight.fill_(1)
    momentum_update(key, query, 0.75)
    assert torch.equal(key[0].weight, torch.full((2, 2), 0.25))


@pytest.mark.parametrize("m", [-0.1, 1.1, math.nan])
def test_momentum_outside_zero_and_one_is_refused(m):
    with pytest.raises(ValueError, match=r"m must be in \[0, 1\], got"):
        momentum_update(*make_encoders(), m)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (nn.Linear(5, 3), "weight is .3, 5. in the key encoder and .3, 4. in the query"),
        (nn.Linear(4, 3, bias=False), "bias is missing in the key encoder and .3,. in the query"),
    ],
)
def test_encoders_that_differ_are_refused_unchanged(key, message):
    before = key.weight.detach().clone()
    with pytest.raises(ValueError, match=message):
        momentum_update(key, nn.Linear(4, 3), 0.9)
    assert torch.equal(key.weight, before)


def test_one_encoder_given_twice_is_refused():
    encoder = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="a copy of the query encoder"):
        momentum_update(encoder, encoder, 0.9)


# KeyQueue


def numbered(start, count, dim=2):
    return torch.arange(start, start + count).float()[:, None].expand(count, dim)


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 7), data=st.data())
def test_queue_holds_the_last_keys_in_their_order(size, data):
    queue, came = KeyQueue(size, 2), 0
    for count in data.draw(st.lists(st.integers(0, size), max_size=8)):
        queue.enqueue(numbered(came, count))
        came += count
        held = min(came, size)
        assert len(queue) == held
        assert torch.equal(queue.oldest_first(), numbered(came - held, held))
        assert sorted(queue.keys[:, 0].tolist()) == list(range(came - held, came))


def test_queue_wraps_around_slot_by_slot():
    queue = KeyQueue(5, 2)
    queue.enqueue(numbered(0, 4))
    queue.enqueue(numbered(4, 3))
    assert queue.keys[:, 0].tolist() == [5, 6, 2, 3, 4]


def test_queue_copies_keys_and_drops_their_graph():
    queue = KeyQueue(4, 2)
    keys = torch.ones(2, 2, requires_grad=True)
    queue.enqueue(keys * 3)
    assert not queue.keys.requires_grad
    with torch.no_grad():
        keys.zero_()
    assert torch.equal(queue.keys, torch.full((2, 2), 3.0))


def test_queue_is_saved_with_its_place_in_the_ring():
    queue, restored = KeyQueue(5, 2), KeyQueue(5, 2)
    queue.enqueue(numbered(0, 4))
    restored.load_state_dict(queue.state_dict())
    restored.enqueue(numbered(4, 3))
    assert restored.oldest_first()[:, 0].tolist() == [2, 3, 4, 5, 6]


def test_queue_has_room_for_the_papers_65536_keys():
    queue = KeyQueue(65_536, 2)
    for start in range(0, 70_000, 10_000):
        queue.enqueue(numbered(start, 10_000))
    assert torch.equal(queue.oldest_first(), numbered(70_000 - 65_536, 65_536))


@pytest.mark.parametrize("shape", [(3,), (3, 4), (1, 3, 2)])
def test_queue_refuses_keys_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"keys must be \(B, 2\), got"):
        KeyQueue(5, 2).enqueue(torch.ones(shape))


def test_queue_refuses_a_batch_larger_than_itself():
    with pytest.raises(ValueError, match="The queue holds 5 keys, got 6 at once"):
        KeyQueue(5, 2).enqueue(torch.ones(6, 2))


@pytest.mark.parametrize(("size", "dim"), [(0, 2), (3, 0)])
def test_queue_refuses_to_have_no_room(size, dim):
    with pytest.raises(ValueError, match=f"got {size} and {dim}"):
        KeyQueue(size, dim)


# moco_loss


def papers_info_nce(query, positive_key, queue, temperature):
    """He et al. 2020, eq. 1, query by query in float64, all vectors of length 1."""
    losses = []
    for q, positive in zip(query.double(), positive_key.double(), strict=True):
        keys = torch.stack([positive, *queue.double()])
        logits = (keys @ q) / (keys.norm(dim=1) * q.norm() * temperature)
        losses.append(logits.logsumexp(0) - logits[0])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("temperature", [0.01, 0.07, 10])
def test_moco_loss_is_the_papers_formula(temperature):
    query, positive = make_views(dtype=torch.float64)
    queue = 5 * torch.randn(9, 5, dtype=torch.float64)
    loss = moco_loss(query, positive, queue, temperature)
    wanted = papers_info_nce(query, positive, queue, temperature)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(torch.autograd.grad(loss, query), torch.autograd.grad(wanted, query))


def test_moco_loss_has_no_gradient_into_keys():
    query, positive = make_views()
    queue = torch.randn(9, 5, requires_grad=True)
    moco_loss(query, positive, queue, 0.1).backward()
    assert query.grad is not None and positive.grad is None and queue.grad is None


def test_queue_may_move_on_before_the_backward_pass():
    query, positive = make_views()
    queue = KeyQueue(6, 5)
    queue.enqueue(torch.randn(6, 5))
    (wanted,) = torch.autograd.grad(moco_loss(query, positive, queue.keys, 0.1), query)
    loss = moco_loss(query, positive, queue.keys, 0.1)
    queue.enqueue(positive)
    loss.backward()
    assert torch.equal(query.grad, wanted)


def test_an_empty_queue_has_no_negatives():
    query, positive = make_views()
    assert moco_loss(query, positive, KeyQueue(6, 5).keys, 0.1).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_moco_loss_in_half_precision_is_computed_in_float32(dtype):
    query, positive = make_views(dtype=dtype)
    queue = torch.randn(9, 5)
    with torch.autocast("cpu", torch.bfloat16):
        loss = moco_loss(query, positive, queue, 0.02)
    assert loss.dtype == torch.float32
    wanted = papers_info_nce(query, positive, queue, 0.02)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=0)


def test_moco_loss_of_zero_vectors_is_finite():
    query = torch.zeros(3, 4, requires_grad=True)
    loss = moco_loss(query, torch.zeros(3, 4), torch.zeros(2, 4), 0.01)
    assert loss.item() == pytest.approx(math.log(3))
    loss.backward()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("queue", [(9,), (9, 4)])
def test_moco_loss_refuses_a_queue_of_another_width(queue):
    with pytest.raises(ValueError, match=r"queue must be \(K, 5\), got"):
        moco_loss(*make_views(), torch.ones(queue), 0.1)


def test_moco_loss_refuses_keys_of_another_shape():
    with pytest.raises(ValueError, match=r"one shape .* got \(6, 5\) and \(5, 5\)"):
        moco_loss(torch.ones(6, 5), torch.ones(5, 5), torch.ones(9, 5), 0.1)
