"""Other answers to the exercises of notebook 03: right ones, and known mistakes reworded."""

import copy
import random

import torch
from torch import nn
from torch.nn import functional as F

# two_views, right


def cut(images, size, right, down):
    """As in the notebook: a window of each image, stretched to the whole size."""
    zero = torch.zeros_like(size)
    rows = [torch.stack([size, zero, right], 1), torch.stack([zero, size, down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def one_rand_per_view(images, generator):
    def view():
        uniform = torch.rand(5, len(images), generator=generator)
        size = 0.6 + 0.4 * uniform[0]
        result = cut(images, size, *(1 - size) * (2 * uniform[1:3] - 1))
        result = torch.where((uniform[3] < 0.5)[:, None, None, None], result.flip(3), result)
        return (result * (0.6 + 0.8 * uniform[4])[:, None, None, None]).clamp(0, 1)

    return view(), view()


def image_by_image(images, generator):
    """Windows of whole pixels, stretched by interpolate."""

    def uniform(low, high):
        return low + (high - low) * torch.rand((), generator=generator).item()

    def view(image):
        _, height, width = image.shape
        size = uniform(0.6, 1)
        tall, wide = max(round(size * height), 1), max(round(size * width), 1)
        top = int(torch.randint(height - tall + 1, (), generator=generator))
        left = int(torch.randint(width - wide + 1, (), generator=generator))
        window = image[None, :, top : top + tall, left : left + wide]
        result = F.interpolate(window, (height, width), mode="bilinear", align_corners=False)[0]
        if uniform(0, 1) < 0.5:
            result = result.flip(-1)
        return torch.clamp(uniform(0.6, 1.4) * result, 0, 1)

    pairs = [(view(image), view(image)) for image in images]
    return torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])


def mirror_in_the_grid(images, generator):
    """Both views at once, from a batch of 2N, with the flip as a negative width."""
    twice = torch.cat([images, images])
    uniform = torch.rand(len(twice), 5, generator=generator)
    size = 0.6 + 0.4 * uniform[:, 0]
    theta = torch.zeros(len(twice), 2, 3)
    theta[:, 0, 0] = size * torch.where(uniform[:, 3] < 0.5, 1.0, -1.0)
    theta[:, 1, 1] = size
    theta[:, :, 2] = (1 - size)[:, None] * (2 * uniform[:, 1:3] - 1)
    grid = F.affine_grid(theta, twice.shape, align_corners=False)
    views = F.grid_sample(twice, grid, padding_mode="border", align_corners=False)
    views = views.mul(0.6 + 0.8 * uniform[:, 4, None, None, None]).clamp(0, 1)
    return list(views.chunk(2))


def brightness_first_in_place_on_a_copy(images, generator):
    n, views = len(images), []
    for _ in range(2):
        view = images.clone()
        view *= torch.empty(n, 1, 1, 1).uniform_(0.6, 1.4, generator=generator)
        view.clamp_(0, 1)
        flipped = torch.bernoulli(torch.full((n,), 0.5), generator=generator).bool()
        view[flipped] = view[flipped].flip(-1)
        size = torch.empty(n).uniform_(0.6, 1, generator=generator)
        right = (1 - size) * torch.empty(n).uniform_(-1, 1, generator=generator)
        down = (1 - size) * torch.empty(n).uniform_(-1, 1, generator=generator)
        views.append(cut(view, size, right, down))
    return views[0], views[1]


# two_views, mistakes


def augmented(images, generator, uniform=None):
    if uniform is None:
        uniform = torch.rand(5, len(images), generator=generator)
    size = 0.6 + 0.4 * uniform[0]
    view = cut(images, size, *(1 - size) * (2 * uniform[1:3] - 1))
    view = torch.where((uniform[3] < 0.5)[:, None, None, None], view.flip(3), view)
    return (view * (0.6 + 0.8 * uniform[4])[:, None, None, None]).clamp(0, 1)


def mirrors_in_place(images, generator):
    flipped = torch.rand(len(images), generator=generator) < 0.5
    images[flipped] = images[flipped].flip(3)
    return augmented(images, generator), augmented(images, generator)


def same_numbers_for_both(images, generator):
    uniform = torch.rand(5, len(images), generator=generator)
    return augmented(images, generator, uniform), augmented(images, generator, uniform)


def copies_the_view(images, generator):
    view = augmented(images, generator)
    return view, view.clone()


def image_as_second_view(images, generator):
    return augmented(images, generator), images


def nested_views(images, generator):
    first = augmented(images, generator)
    return first, augmented(first, generator)


def same_brightness_in_both(images, generator):
    uniform, others = torch.rand(2, 5, len(images), generator=generator)
    others[4] = uniform[4]
    return augmented(images, generator, uniform), augmented(images, generator, others)


def same_mirror_in_both(images, generator):
    uniform, others = torch.rand(2, 5, len(images), generator=generator)
    others[3] = uniform[3]
    return augmented(images, generator, uniform), augmented(images, generator, others)


def one_brightness_for_the_batch(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        uniform[4] = torch.rand((), generator=generator)
        views.append(augmented(images, generator, uniform))
    return tuple(views)


def one_window_for_the_batch(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        uniform[:3] = torch.rand(3, 1, generator=generator)
        views.append(augmented(images, generator, uniform))
    return tuple(views)


def two_after_the_other(images, generator):
    views = []
    for image in images:
        for _ in range(2):
            uniform = torch.rand(5, generator=generator)
            size = 0.6 + 0.4 * uniform[:1]
            view = cut(image[None], size, *(1 - size) * (2 * uniform[1:3, None] - 1))
            view = view.flip(3) if uniform[3] < 0.5 else view
            views.append((view * (0.6 + 0.8 * uniform[4])).clamp(0, 1))
    return tuple(torch.cat(views).chunk(2))


def flips_the_batch(images, generator):
    def view():
        uniform = torch.rand(5, len(images), generator=generator)
        return augmented(images.flip(0), generator, uniform)

    return augmented(images, generator), view()


def shuffles(images, generator):
    order = torch.randperm(len(images), generator=generator)
    while torch.equal(order, torch.arange(len(images))) and len(images) > 1:
        order = torch.randperm(len(images), generator=generator)
    return augmented(images, generator), augmented(images[order], generator)


def clamps_below_only(images, generator):
    views = []
    for _ in range(2):
        factor = 0.6 + 0.8 * torch.rand(len(images), 1, 1, 1, generator=generator)
        uniform = torch.rand(5, len(images), generator=generator)
        uniform[4] = 0.5
        views.append((augmented(images, generator, uniform) * factor).clamp(min=0))
    return tuple(views)


def flips_rows(images, generator):
    def view():
        uniform = torch.rand(5, len(images), generator=generator)
        turned = torch.where((uniform[3] < 0.5)[:, None, None, None], images.flip(-2), images)
        uniform[3] = 1.0
        return augmented(turned, generator, uniform)

    return view(), view()


def never_crops(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        uniform[0] = 1.0
        views.append(augmented(images, generator, uniform))
    return tuple(views)


def never_brightens(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        uniform[4] = 0.5
        views.append(augmented(images, generator, uniform))
    return tuple(views)


def python_chance(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        uniform[3] = torch.tensor([random.random() for _ in images])
        views.append(augmented(images, generator, uniform))
    return tuple(views)


def own_seed(images, generator):
    own = torch.Generator().manual_seed(0)
    return augmented(images, own), augmented(images, own)


def child_generators_of_one_seed(images, generator):
    seed = generator.initial_seed()
    return tuple(augmented(images, torch.Generator().manual_seed(seed + i)) for i in range(2))


def one_size_for_the_batch(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        uniform[0] = torch.rand((), generator=generator)
        views.append(augmented(images, generator, uniform))
    return tuple(views)


def one_place_for_the_batch(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        uniform[1:3] = torch.rand(2, 1, generator=generator)
        views.append(augmented(images, generator, uniform))
    return tuple(views)


def one_flip_for_the_batch(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        uniform[3] = torch.rand((), generator=generator)
        views.append(augmented(images, generator, uniform))
    return tuple(views)


def same_size_in_both(images, generator):
    uniform, others = torch.rand(2, 5, len(images), generator=generator)
    others[0] = uniform[0]
    return augmented(images, generator, uniform), augmented(images, generator, others)


def same_height_in_both(images, generator):
    uniform, others = torch.rand(2, 5, len(images), generator=generator)
    others[2] = uniform[2]
    return augmented(images, generator, uniform), augmented(images, generator, others)


def opposite_draws(images, generator):
    uniform = torch.rand(5, len(images), generator=generator)
    return augmented(images, generator, uniform), augmented(images, generator, 1 - uniform)


def mirrors_the_first_view(images, generator):
    uniform = torch.rand(5, len(images), generator=generator)
    uniform[3] = 0.0
    return augmented(images, generator, uniform), augmented(images, generator)


def changed(images, generator, resize=None, place=None, mirror=None, brighten=None):
    """A view with one step replaced by another one."""
    uniform = torch.rand(5, len(images), generator=generator)
    size = 0.6 + 0.4 * uniform[0] if resize is None else resize(uniform)
    places = (1 - size) * (2 * uniform[1:3] - 1) if place is None else place(uniform, size)
    view = cut(images, size, *places)
    mirrored = (uniform[3] < 0.5)[:, None, None, None]
    view = torch.where(mirrored, view.flip(3), view) if mirror is None else mirror(mirrored, view)
    if brighten is not None:
        return brighten(uniform, view)
    return (view * (0.6 + 0.8 * uniform[4])[:, None, None, None]).clamp(0, 1)


def in_both(**steps):
    """An answer that makes both views with these steps replaced."""

    def answer(images, generator):
        return changed(images, generator, **steps), changed(images, generator, **steps)

    return answer


def crops_unless_mirrored(images, generator):
    def mirror(mirrored, view):
        return torch.where(mirrored, images.flip(3), view)

    return changed(images, generator, mirror=mirror), changed(images, generator, mirror=mirror)


def brightens_the_mirrored(images, generator):
    def brighten(uniform, view):
        factor = (0.6 + 0.8 * uniform[4])[:, None, None, None]
        mirrored = (uniform[3] < 0.5)[:, None, None, None]
        return torch.where(mirrored, view * factor, view).clamp(0, 1)

    return changed(images, generator, brighten=brighten), changed(
        images, generator, brighten=brighten
    )


def brightness_by_channel(images, generator):
    def brighten(uniform, view):
        return (view * (0.6 + 0.8 * torch.rand(len(view), 3, 1, 1, generator=generator))).clamp(
            0, 1
        )

    return changed(images, generator, brighten=brighten), changed(
        images, generator, brighten=brighten
    )


def normal_brightness(images, generator):
    def brighten(uniform, view):
        return (view * (1 + 0.23 * torch.randn(len(view), 1, 1, 1, generator=generator))).clamp(
            0, 1
        )

    return changed(images, generator, brighten=brighten), changed(
        images, generator, brighten=brighten
    )


def _factors(uniform):
    return (0.6 + 0.8 * uniform[4])[:, None, None, None]


def _over_the_batch(uniform, view):
    view = view * _factors(uniform)
    return view / view.amax().clamp(min=1)


def _over_the_image(uniform, view):
    view = view * _factors(uniform)
    return view / view.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1)


off_the_edge_to_the_right = in_both(place=lambda uniform, size: uniform[1:3])
off_the_edge_of_large_windows = in_both(place=lambda uniform, size: 0.4 * (2 * uniform[1:3] - 1))
off_the_edge_by_two = in_both(place=lambda uniform, size: (1 - size) * 2 * uniform[1:3])
half_as_far = in_both(place=lambda uniform, size: (1 - size) * (uniform[1:3] - 0.5))
in_the_middle = in_both(place=lambda uniform, size: 0 * uniform[1:3])
always_small = in_both(resize=lambda uniform: torch.full_like(uniform[0], 0.6))
smaller_windows = in_both(resize=lambda uniform: 0.2 + 0.8 * uniform[0])
share_of_the_area = in_both(resize=lambda uniform: (0.6 + 0.4 * uniform[0]).sqrt())
brightness_of_the_flip = in_both(
    brighten=lambda uniform, view: (view * (0.6 + 0.8 * uniform[3, :, None, None, None])).clamp(
        0, 1
    )
)
divides_by_the_batch_maximum = in_both(brighten=_over_the_batch)
divides_by_the_image_maximum = in_both(brighten=_over_the_image)
darker_only = in_both(
    brighten=lambda uniform, view: view * (0.6 + 0.4 * uniform[4, :, None, None, None])
)
adds_brightness = in_both(
    brighten=lambda uniform, view: (view + 0.8 * uniform[4, :, None, None, None] - 0.4).clamp(0, 1)
)


def flip_of_the_size(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        uniform[3] = uniform[0]
        views.append(augmented(images, generator, uniform))
    return tuple(views)


def one_place_for_both_directions(images, generator):
    """Mirrored before the window is cut."""

    def view():
        uniform = torch.rand(4, len(images), generator=generator)
        mirrored = (uniform[2] < 0.5)[:, None, None, None]
        size = 0.6 + 0.4 * uniform[0]
        place = (1 - size) * (2 * uniform[1] - 1)
        result = cut(torch.where(mirrored, images.flip(3), images), size, place, place)
        return (result * (0.6 + 0.8 * uniform[3])[:, None, None, None]).clamp(0, 1)

    return view(), view()


def flips_channels_in_place(images, generator):
    def view():
        uniform = torch.rand(5, len(images), generator=generator)
        flipped, uniform[3] = uniform[3] < 0.5, 1.0
        result = augmented(images, generator, uniform)
        result[flipped] = result[flipped].flip(-3)
        return result

    return view(), view()


def in_float64(images, generator):
    return augmented(images, generator), augmented(images, generator).double()


def bytes_of_views(images, generator):
    return tuple((255 * augmented(images, generator)).byte() for _ in range(2))


# nt_xent, right


def cross_entropy_in_float32(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]).float(), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def row_by_row(z1, z2, temperature):
    z = [*F.normalize(z1, dim=1), *F.normalize(z2, dim=1)]
    total = 0.0
    for i in range(len(z)):
        others = torch.stack([z[i] @ z[k] for k in range(len(z)) if k != i]) / temperature
        positive = z[i] @ z[(i + len(z1)) % len(z)] / temperature
        total = total + torch.logsumexp(others, dim=0) - positive
    return total / len(z)


def four_blocks_in_float64(z1, z2, temperature):
    a, b = (v.double() / torch.linalg.vector_norm(v.double(), dim=1)[:, None] for v in (z1, z2))
    itself = torch.eye(len(a), dtype=torch.bool)
    aa = torch.einsum("id,kd->ik", a, a).div(temperature).masked_fill(itself, -torch.inf)
    bb = torch.einsum("id,kd->ik", b, b).div(temperature).masked_fill(itself, -torch.inf)
    ab = torch.einsum("id,kd->ik", a, b).div(temperature)
    rows = torch.cat([torch.cat([ab, aa], 1), torch.cat([ab.T, bb], 1)])
    loss = F.cross_entropy(rows, torch.arange(len(a)).repeat(2))
    return loss.to(z1.dtype)


def diagonal_removed(z1, z2, temperature):
    n, z = len(z1), torch.cat([z1, z2])
    similarities = F.cosine_similarity(z[:, None].float(), z[None].float(), dim=-1) / temperature
    others = similarities[~torch.eye(2 * n, dtype=torch.bool)].reshape(2 * n, 2 * n - 1)
    partners = torch.cat([torch.arange(n) + n - 1, torch.arange(n)])
    return -torch.log_softmax(others, dim=1).gather(1, partners[:, None]).mean()


def largest_subtracted(z1, z2, temperature):
    z = torch.cat([z1, z2])
    z = z / z.norm(dim=1, keepdim=True)
    logits = z @ z.T / temperature
    positives = torch.cat([logits.diagonal(len(z1)), logits.diagonal(-len(z1))])
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    largest = logits.max(dim=1, keepdim=True).values
    return (torch.exp(logits - largest).sum(dim=1).log() + largest[:, 0] - positives).mean()


# nt_xent, mistakes


def normalises_with_underscore(z1, z2, temperature):
    z1.div_(z1.norm(dim=1, keepdim=True))
    return cross_entropy_in_float32(z1, z2, temperature)


def raw_sums_with_self(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    weights = torch.exp(z @ z.T / temperature)
    positives = weights[torch.arange(len(z)), torch.arange(len(z)).roll(len(z1))]
    return -torch.log(positives / weights.sum(dim=1)).mean()


def zero_on_the_diagonal(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(0)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def minus_one_on_the_diagonal(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T).fill_diagonal_(-1) / temperature
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def inner_products(z1, z2, temperature):
    z = torch.cat([z1, z2])
    logits = torch.einsum("id,kd->ik", z, z) / temperature
    return F.cross_entropy(logits.fill_diagonal_(-1e4), torch.arange(len(z)).roll(len(z1)))


def normalises_each_view_down(z1, z2, temperature):
    return inner_products(F.normalize(z1, dim=0), F.normalize(z2, dim=0), temperature)


def second_views_only(z1, z2, temperature):
    z = F.normalize(torch.cat([z2, z1]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)[: len(z1)]
    return F.cross_entropy(logits, torch.arange(len(z1)) + len(z1))


def clip_one_way(z1, z2, temperature):
    logits = F.normalize(z1, dim=1) @ F.normalize(z2, dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(z1)))


def times_temperature(z1, z2, temperature):
    return cross_entropy_in_float32(z1, z2, 1 / temperature)


def temperature_of_one(z1, z2, temperature):
    return cross_entropy_in_float32(z1, z2, 1.0)


def temperature_below_only(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return (logits.logsumexp(dim=1) - F.cosine_similarity(z1, z2).repeat(2)).mean()


def own_index(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z1)).repeat(2))


def label_not_shifted(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    others = ~torch.eye(len(z), dtype=torch.bool)
    logits = (z @ z.T / temperature)[others].reshape(len(z), len(z) - 1)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def next_row(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, (torch.arange(len(z)) + len(z1) + 1) % len(z))


def negatives_below(z1, z2, temperature):
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = z @ z.T / temperature
    own = torch.eye(2 * n, dtype=torch.bool)
    positives = F.cosine_similarity(z1, z2, dim=1).repeat(2) / temperature
    negatives = logits.masked_fill(own | own.roll(n, dims=1), -torch.inf)
    return (torch.logsumexp(negatives, dim=1) - positives).mean()


def adds_up(z1, z2, temperature):
    return 2 * len(z1) * cross_entropy_in_float32(z1, z2, temperature)


def twice_the_mean(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    first, second = logits.log_softmax(dim=1).chunk(2)
    both = first[:, len(z1) :].diagonal() + second[:, : len(z1)].diagonal()
    return -both.mean()


def log_probability(z1, z2, temperature):
    return -cross_entropy_in_float32(z1, z2, temperature)


def under_no_grad(z1, z2, temperature):
    with torch.no_grad():
        return cross_entropy_in_float32(z1, z2, temperature)


def a_float(z1, z2, temperature):
    return cross_entropy_in_float32(z1, z2, temperature).item()


def stops_the_first(z1, z2, temperature):
    return cross_entropy_in_float32(z1.detach(), z2, temperature)


def log_of_softmax(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    p = torch.softmax((z @ z.T / temperature).fill_diagonal_(-torch.inf), dim=1)
    return -p[torch.arange(len(z)), torch.arange(len(z)).roll(len(z1))].log().mean()


def log_with_a_little(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    p = torch.softmax((z @ z.T / temperature).fill_diagonal_(-torch.inf), dim=1)
    return -(p[torch.arange(len(z)), torch.arange(len(z)).roll(len(z1))] + 1e-6).log().mean()


def masked_fill_constant(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T).masked_fill(torch.eye(len(z), dtype=torch.bool), -9e15) / temperature
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def clamps_logits(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).clamp(-50, 50).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def square_root_of_a_sum(z1, z2, temperature):
    z = torch.cat([z1, z2])
    z = z / (z * z).sum(dim=1, keepdim=True).sqrt()
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def complex_loss(z1, z2, temperature):
    return cross_entropy_in_float32(z1, z2, temperature) * (1 + 0j)


# moco_loss, right


def concatenated(query, positive_key, queue, temperature):
    query = F.normalize(query.float(), dim=1)
    key = F.normalize(positive_key.detach().float(), dim=1)
    negatives = F.normalize(queue.detach().float(), dim=1)
    positives = torch.einsum("bd,bd->b", query, key).unsqueeze(-1)
    logits = torch.cat([positives, torch.einsum("bd,kd->bk", query, negatives)], dim=1)
    return F.cross_entropy(logits / temperature, torch.zeros(len(logits), dtype=torch.long))


def query_by_query(query, positive_key, queue, temperature):
    positive_key, queue = positive_key.detach().double(), queue.detach().double()
    losses = []
    for q, k in zip(query.double(), positive_key, strict=True):
        candidates = torch.cat([k[None], queue])
        logits = F.cosine_similarity(q[None], candidates, dim=1) / temperature
        losses.append(torch.logsumexp(logits, dim=0) - logits[0])
    return torch.stack(losses).mean()


def everything_under_no_grad_but_the_query(query, positive_key, queue, temperature):
    with torch.no_grad():
        key = positive_key / positive_key.norm(dim=1, keepdim=True)
        negatives = queue / queue.norm(dim=1, keepdim=True)
    query = query / query.norm(dim=1, keepdim=True)
    positive = (query * key).sum(-1) / temperature
    negative = query @ negatives.T / temperature
    everyone = torch.cat([negative, positive[:, None]], dim=1)
    return (torch.logsumexp(everyone.float(), dim=1) - positive.float()).mean()


# moco_loss, mistakes


def overwrites_the_query(query, positive_key, queue, temperature):
    query /= query.norm(dim=1, keepdim=True)
    return concatenated(query, positive_key, queue, temperature)


def logits_of(query, positive_key, queue, temperature):
    query, key = F.normalize(query, dim=1), F.normalize(positive_key.detach(), dim=1)
    positives = (query * key).sum(dim=1, keepdim=True)
    negatives = query @ F.normalize(queue.detach(), dim=1).T
    return torch.cat([positives, negatives], dim=1) / temperature


def labels_as_in_simclr(query, positive_key, queue, temperature):
    logits = logits_of(query, positive_key, queue, temperature)
    return F.cross_entropy(logits, torch.arange(len(logits)))


def labels_at_the_end(query, positive_key, queue, temperature):
    logits = logits_of(query, positive_key, queue, temperature)
    return F.cross_entropy(logits, torch.full((len(logits),), len(queue)))


def outer_product_of_positives(query, positive_key, queue, temperature):
    query, key = F.normalize(query, dim=1), F.normalize(positive_key.detach(), dim=1)
    everyone = torch.cat([key, F.normalize(queue.detach(), dim=1)])
    return -torch.log_softmax(query @ everyone.T / temperature, dim=1)[:, 0].mean()


def enqueues_first(query, positive_key, queue, temperature):
    longer = torch.cat([queue, positive_key])
    return concatenated(query, positive_key, longer, temperature)


def keys_with_gradient(query, positive_key, queue, temperature):
    everyone = [F.normalize(v, dim=1) for v in (query, positive_key, queue)]
    positives = torch.einsum("bd,bd->b", everyone[0], everyone[1])[:, None]
    logits = torch.cat([positives, everyone[0] @ everyone[2].T], dim=1) / temperature
    return -torch.log_softmax(logits, dim=1)[:, 0].mean()


def positive_with_gradient(query, positive_key, queue, temperature):
    return keys_with_gradient(query, positive_key, queue.detach(), temperature)


def everything_under_no_grad(query, positive_key, queue, temperature):
    with torch.no_grad():
        return concatenated(query, positive_key, queue, temperature)


def trusts_the_queue(query, positive_key, queue, temperature):
    query, key = F.normalize(query, dim=1), F.normalize(positive_key.detach(), dim=1)
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.detach().T], 1)
    return -torch.log_softmax(logits / temperature, dim=1)[:, 0].mean()


def normalises_the_queue_only(query, positive_key, queue, temperature):
    queue = F.normalize(queue.detach(), dim=1)
    logits = torch.cat([(query * positive_key.detach()).sum(1, keepdim=True), query @ queue.T], 1)
    return F.cross_entropy(logits / temperature, torch.zeros(len(query), dtype=torch.long))


def temperature_upside_down(query, positive_key, queue, temperature):
    return concatenated(query, positive_key, queue, 1 / temperature)


def temperature_for_the_positive(query, positive_key, queue, temperature):
    logits = logits_of(query, positive_key, queue, 1.0)
    logits = torch.cat([logits[:, :1] / temperature, logits[:, 1:]], dim=1)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def no_temperature_at_all(query, positive_key, queue, temperature):
    return concatenated(query, positive_key, queue, 1.0)


def sum_of_losses(query, positive_key, queue, temperature):
    return -logits_of(query, positive_key, queue, temperature).log_softmax(dim=1)[:, 0].sum()


def likelihood(query, positive_key, queue, temperature):
    return logits_of(query, positive_key, queue, temperature).log_softmax(dim=1)[:, 0].mean()


def log_of_the_softmax(query, positive_key, queue, temperature):
    return -logits_of(query, positive_key, queue, temperature).softmax(dim=1)[:, 0].log().mean()


def lowest_temperature(query, positive_key, queue, temperature):
    return concatenated(query, positive_key, queue, max(temperature, 0.05))


def sum_of_squares(query, positive_key, queue, temperature):
    vectors = (query, positive_key.detach(), queue.detach())
    query, key, queue = (v / (v * v).sum(dim=1, keepdim=True).sqrt() for v in vectors)
    logits = torch.cat([(query * key).sum(dim=1, keepdim=True), query @ queue.T], dim=1)
    return F.cross_entropy(logits / temperature, torch.zeros(len(query), dtype=torch.long))


# momentum_update, right


@torch.no_grad()
def lerp_by_name(key_encoder, query_encoder, m):
    queries = {**dict(query_encoder.named_parameters()), **dict(query_encoder.named_buffers())}
    keys = {**dict(key_encoder.named_parameters()), **dict(key_encoder.named_buffers())}
    for name, key in keys.items():
        if key.dtype == torch.long:
            key.copy_(queries[name])
        else:
            key.lerp_(queries[name], 1 - m)


def through_data(key_encoder, query_encoder, m):
    for key, query in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
        key.data = m * key.data + (1 - m) * query.data
    for key, query in zip(key_encoder.buffers(), query_encoder.buffers(), strict=True):
        if key.is_floating_point():
            key.data = m * key.data + (1 - m) * query.data
        else:
            key.data = query.data.clone()


def new_state_loaded(key_encoder, query_encoder, m):
    keys, queries = key_encoder.state_dict(), query_encoder.state_dict()
    new = {
        name: m * key + (1 - m) * queries[name] if key.is_floating_point() else queries[name]
        for name, key in keys.items()
    }
    key_encoder.load_state_dict(new)


def states_in_place(key_encoder, query_encoder, m):
    queries = query_encoder.state_dict()
    for name, key in key_encoder.state_dict().items():
        if torch.is_floating_point(key):
            key.mul_(m)
            key.add_(queries[name], alpha=1 - m)
        else:
            key.fill_(queries[name])


# momentum_update, mistakes


def query_follows_key(key_encoder, query_encoder, m):
    states_in_place(query_encoder, key_encoder, m)


def shares_swapped(key_encoder, query_encoder, m):
    states_in_place(key_encoder, query_encoder, 1 - m)


def only_the_query_is_weighted(key_encoder, query_encoder, m):
    for key, query in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
        key.data.add_((1 - m) * query.data)


def copies_parameters(key_encoder, query_encoder, m):
    for key, query in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
        key.data.copy_(query.data)


def works_on_a_copy(key_encoder, query_encoder, m):
    moved = copy.deepcopy(key_encoder)
    states_in_place(moved, query_encoder, m)
    return moved


def copies_a_graph(key_encoder, query_encoder, m):
    for key, query in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
        key.copy_(m * key + (1 - m) * query)
    for key, query in zip(key_encoder.buffers(), query_encoder.buffers(), strict=True):
        key.copy_(m * key + (1 - m) * query if key.is_floating_point() else query)


def deletes_and_registers(key_encoder, query_encoder, m):
    states_in_place(key_encoder, query_encoder, m)
    for module in key_encoder.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            new = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            module.register_parameter(name, new)


def data_of_parameters_only(key_encoder, query_encoder, m):
    for key, query in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
        key.data = m * key.data + (1 - m) * query.data


def buffers_as_they_are(key_encoder, query_encoder, m):
    data_of_parameters_only(key_encoder, query_encoder, m)
    key_encoder.load_state_dict(
        {**query_encoder.state_dict(), **dict(key_encoder.named_parameters())}
    )


def skips_integers(key_encoder, query_encoder, m):
    for key, query in zip(
        key_encoder.state_dict().values(), query_encoder.state_dict().values(), strict=True
    ):
        if key.is_floating_point():
            key.copy_(m * key + (1 - m) * query)


def multiplies_the_counter(key_encoder, query_encoder, m):
    queries = query_encoder.state_dict()
    for name, key in key_encoder.state_dict().items():
        key.mul_(m).add_(queries[name], alpha=1 - m)


def skips_what_is_frozen(key_encoder, query_encoder, m):
    keys, queries = (
        {**dict(e.named_parameters()), **dict(e.named_buffers())}
        for e in (key_encoder, query_encoder)
    )
    buffers = dict(key_encoder.named_buffers())
    with torch.no_grad():
        for name, key in keys.items():
            if name in buffers or key.requires_grad:
                new = m * key + (1 - m) * queries[name]
                key.copy_(new if key.is_floating_point() else queries[name])


def weights_of_the_children(key_encoder, query_encoder, m):
    """The buffers at any depth, the parameters of the encoder's own layers only."""
    with torch.no_grad():
        for layer, other in zip(key_encoder, query_encoder, strict=True):
            own = zip(layer.parameters(recurse=False), other.parameters(recurse=False), strict=True)
            for key, query in own:
                key.lerp_(query, 1 - m)
        for key, query in zip(key_encoder.buffers(), query_encoder.buffers(), strict=True):
            key.copy_(m * key + (1 - m) * query if key.is_floating_point() else query)


def parameters_without_gradients(key_encoder, query_encoder, m):
    for parameter in query_encoder.parameters():
        parameter.requires_grad = False
    states_in_place(key_encoder, query_encoder, m)


def counter_of_the_query(key_encoder, query_encoder, m):
    states_in_place(key_encoder, query_encoder, m)
    for layer, other in zip(key_encoder.modules(), query_encoder.modules(), strict=True):
        if isinstance(layer, nn.BatchNorm1d):
            layer.num_batches_tracked = other.num_batches_tracked


def in_eval_mode(key_encoder, query_encoder, m):
    query_encoder.eval()
    states_in_place(key_encoder, query_encoder, m)


def without_layers(key_encoder, query_encoder, m):
    del key_encoder[:]


# KeyQueue, right


class RingBuffer:
    def __init__(self, size, dim):
        self.slots = torch.zeros(size, dim)
        self.enqueued = 0

    def oldest_first(self):
        size = len(self.slots)
        if self.enqueued < size:
            return self.slots[: self.enqueued]
        start = self.enqueued % size
        return torch.cat([self.slots[start:], self.slots[:start]])

    def enqueue(self, keys):
        places = (self.enqueued + torch.arange(len(keys))) % len(self.slots)
        self.slots[places] = keys.detach()
        self.enqueued += len(keys)


class KeyByKey(RingBuffer):
    @torch.no_grad()
    def enqueue(self, keys):
        for key in keys:
            self.slots[self.enqueued % len(self.slots)] = key
            self.enqueued += 1


class InTwoPieces(RingBuffer):
    def enqueue(self, keys):
        keys, size = keys.detach(), len(self.slots)
        start = self.enqueued % size
        behind = keys[: size - start]
        self.slots[start : start + len(behind)] = behind
        self.slots[: len(keys) - len(behind)] = keys[len(behind) :]
        self.enqueued += len(keys)


class Concatenates:
    def __init__(self, size, dim):
        self.size = size
        self.keys = torch.empty(0, dim)

    def enqueue(self, keys):
        self.keys = torch.cat([self.keys, keys.detach()])[-self.size :]

    def oldest_first(self):
        return self.keys


class ModuleWithRolledBuffer(nn.Module):
    """The newest key is always in the last slot."""

    def __init__(self, size, dim):
        super().__init__()
        self.register_buffer("slots", torch.zeros(size, dim))
        self.register_buffer("held", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys):
        self.slots = self.slots.roll(-len(keys), 0)
        self.slots[len(self.slots) - len(keys) :] = keys
        self.held = (self.held + len(keys)).clamp(max=len(self.slots))

    def oldest_first(self):
        return self.slots[len(self.slots) - int(self.held) :].clone()


# KeyQueue, mistakes


class LosesTheRest(RingBuffer):
    def enqueue(self, keys):
        for place, key in enumerate(keys.detach(), start=self.enqueued % len(self.slots)):
            if place < len(self.slots):
                self.slots[place] = key
        self.enqueued += len(keys)


class ZeroWhenFull(RingBuffer):
    def enqueue(self, keys):
        start = self.enqueued % len(self.slots)
        if len(keys) > len(self.slots) - start:
            self.slots[: len(keys)] = keys.detach()
        else:
            self.slots[start : start + len(keys)] = keys.detach()
        self.enqueued += len(keys)


class WritesASlice(RingBuffer):
    def enqueue(self, keys):
        start = self.enqueued % len(self.slots)
        self.slots[start : start + keys.shape[0]].copy_(keys.detach())
        self.enqueued += keys.shape[0]


class ReplacesTheLast(Concatenates):
    def enqueue(self, keys):
        excess = max(len(self.keys) + len(keys) - self.size, 0)
        full = len(self.keys) + len(keys) > self.size
        kept = self.keys[: self.size - len(keys)] if full and excess else self.keys
        self.keys = torch.cat([kept, keys.detach()])


class CutsOffTheNew(Concatenates):
    def enqueue(self, keys):
        self.keys = torch.cat([self.keys, keys.detach()])[: self.size]


class NeverForgets(Concatenates):
    def enqueue(self, keys):
        self.keys = torch.cat([self.keys, keys.detach()])


class PutsNewInFront(Concatenates):
    def enqueue(self, keys):
        self.keys = torch.cat([keys.detach(), self.keys])[: self.size]


class ConcatenatesGraphs(Concatenates):
    def enqueue(self, keys):
        self.keys = torch.cat([self.keys, keys])[-self.size :]


class ListOfKeys(Concatenates):
    def __init__(self, size, dim):
        super().__init__(size, dim)
        self.batches = []

    def enqueue(self, keys):
        self.batches.append(keys.data)

    def oldest_first(self):
        return torch.cat(self.batches)[-self.size :]


class ModuloAtOnce(RingBuffer):
    def enqueue(self, keys):
        for key in keys.detach():
            self.slots[self.enqueued] = key
            self.enqueued = (self.enqueued + 1) % len(self.slots)


class NeverMoreThanSize(RingBuffer):
    @torch.no_grad()
    def enqueue(self, keys):
        for place, key in enumerate(keys, start=self.enqueued):
            self.slots[place % len(self.slots)] = key
        self.enqueued = min(self.enqueued + len(keys), len(self.slots))


class OneAhead(RingBuffer):
    def enqueue(self, keys):
        self.enqueued = self.enqueued + len(keys)
        for place, key in enumerate(keys.detach(), start=self.enqueued):
            self.slots[place % len(self.slots)] = key


class DetachesInPlace(RingBuffer):
    def enqueue(self, keys):
        for key in keys.detach_().clone():
            self.slots[self.enqueued % len(self.slots)] = key
            self.enqueued += 1


class TakesWholeBatches(RingBuffer):
    def enqueue(self, keys):
        if len(keys) == len(self.slots):
            self.slots = keys.detach()
            self.enqueued = len(keys)
        else:
            super().enqueue(keys)


RIGHT = {
    "two_views": [
        one_rand_per_view,
        image_by_image,
        mirror_in_the_grid,
        brightness_first_in_place_on_a_copy,
    ],
    "nt_xent": [
        cross_entropy_in_float32,
        row_by_row,
        four_blocks_in_float64,
        diagonal_removed,
        largest_subtracted,
    ],
    "momentum_update": [lerp_by_name, through_data, new_state_loaded, states_in_place],
    "KeyQueue": [RingBuffer, KeyByKey, InTwoPieces, Concatenates, ModuleWithRolledBuffer],
    "moco_loss": [concatenated, query_by_query, everything_under_no_grad_but_the_query],
}
VARIANTS = {
    "two_views": {
        "changes_its_images": [mirrors_in_place],
        "same_view_twice": [same_numbers_for_both, copies_the_view],
        "leaves_one_view_alone": [image_as_second_view],
        "augments_the_first_view_again": [nested_views],
        "crops_once_for_both": [
            same_brightness_in_both,
            same_mirror_in_both,
            same_size_in_both,
            same_height_in_both,
            opposite_draws,
        ],
        "one_draw_for_the_batch": [
            one_brightness_for_the_batch,
            one_window_for_the_batch,
            one_size_for_the_batch,
            one_place_for_the_batch,
            one_flip_for_the_batch,
        ],
        "mirrors_every_image": [mirrors_the_first_view],
        "mixes_up_the_rows": [two_after_the_other, flips_the_batch, shuffles],
        "leaves_the_range": [clamps_below_only],
        "flips_upside_down": [flips_rows],
        "forgets_a_change": [never_crops, never_brightens],
        "exchanges_colours": [flips_channels_in_place],
        "mirrors_or_crops": [crops_unless_mirrored, brightens_the_mirrored],
        "leaves_the_image": [
            off_the_edge_to_the_right,
            off_the_edge_of_large_windows,
            off_the_edge_by_two,
        ],
        "reuses_a_number": [
            flip_of_the_size,
            brightness_of_the_flip,
            one_place_for_both_directions,
        ],
        "prefers_some_places": [half_as_far, in_the_middle],
        "ignores_the_generator": [python_chance],
        "repeats_its_draws": [own_seed, child_generators_of_one_seed],
    },
    "nt_xent": {
        "normalises_in_place": [normalises_with_underscore],
        "keeps_self_similarity": [raw_sums_with_self],
        "masks_with_zero": [zero_on_the_diagonal, minus_one_on_the_diagonal],
        "no_normalisation": [inner_products],
        "normalises_columns": [normalises_each_view_down],
        "one_direction_only": [second_views_only],
        "cross_view_negatives_only": [clip_one_way],
        "multiplies_by_temperature": [times_temperature],
        "forgets_the_temperature": [temperature_of_one, temperature_below_only],
        "positive_index_off": [own_index, label_not_shifted, next_row],
        "positive_not_in_denominator": [negatives_below],
        "sums_the_losses": [adds_up],
        "divides_by_pairs": [twice_the_mean],
        "forgets_the_minus": [log_probability],
        "loses_the_graph": [under_no_grad, a_float],
        "detaches_one_view": [stops_the_first],
        "clamps_the_temperature": [clamps_logits],
        "exp_sum_log": [log_of_softmax, log_with_a_little],
        "mask_constant_breaks_in_half": [masked_fill_constant],
    },
    "momentum_update": {
        "moves_the_query_encoder": [query_follows_key],
        "swaps_the_shares": [shares_swapped],
        "misses_a_share": [only_the_query_is_weighted],
        "copies_the_query_encoder": [copies_parameters],
        "assigns_to_a_name": [works_on_a_copy],
        "moves_the_buffers_only": [skips_what_is_frozen],
        "stops_at_the_children": [weights_of_the_children],
        "freezes_the_query_encoder": [parameters_without_gradients],
        "builds_a_graph": [copies_a_graph],
        "remakes_the_parameters": [deletes_and_registers],
        "shares_the_counter": [counter_of_the_query],
        "forgets_the_buffers": [data_of_parameters_only],
        "copies_the_buffers": [buffers_as_they_are],
        "forgets_the_counter": [skips_integers],
        "averages_the_counter": [multiplies_the_counter],
    },
    "KeyQueue": {
        "CutsAtTheEnd": [LosesTheRest],
        "StartsAgainAtZero": [ZeroWhenFull],
        "StopsAtTheWrap": [WritesASlice],
        "OverwritesTheNewest": [ReplacesTheLast],
        "DropsTheNew": [CutsOffTheNew],
        "KeepsEverything": [NeverForgets],
        "NewestFirst": [PutsNewInFront],
        "KeepsTheGraph": [ConcatenatesGraphs],
        "CountsModuloTheSize": [ModuloAtOnce],
        "StopsCounting": [NeverMoreThanSize],
        "CountsBeforeWriting": [OneAhead],
        "CutsTheCallersGraph": [DetachesInPlace],
        "KeepsTheCallersTensors": [ListOfKeys, TakesWholeBatches],
    },
    "moco_loss": {
        "normalises_the_keys_in_place": [overwrites_the_query],
        "positive_not_at_the_label": [labels_as_in_simclr, labels_at_the_end],
        "all_keys_for_all_queries": [outer_product_of_positives],
        "positive_among_the_negatives": [enqueues_first],
        "gradient_into_keys": [keys_with_gradient],
        "gradient_into_the_positive": [positive_with_gradient],
        "stops_the_query": [everything_under_no_grad],
        "queue_not_normalised": [trusts_the_queue],
        "nothing_normalised": [normalises_the_queue_only],
        "multiplies_logits_by_temperature": [temperature_upside_down],
        "no_temperature": [temperature_for_the_positive, no_temperature_at_all],
        "sums_over_the_batch": [sum_of_losses],
        "no_minus": [likelihood],
        "clamps_the_logits": [lowest_temperature],
        "exp_then_log": [log_of_the_softmax],
    },
}
# Wrong answers without a name of their own: the property that they fail first, in grading.
UNNAMED = {
    "two_views": {
        "shape": [in_float64, bytes_of_views],
        "a draw for each image": [always_small],
        "brightness": [
            brightness_by_channel,
            normal_brightness,
            divides_by_the_batch_maximum,
            divides_by_the_image_maximum,
            darker_only,
            adds_brightness,
        ],
        "crop and flip": [smaller_windows, share_of_the_area],
    },
    "nt_xent": {"shape": [complex_loss], "half precision": [square_root_of_a_sum]},
    "momentum_update": {
        "parameters": [without_layers],
        "query encoder left alone": [in_eval_mode],
    },
    "moco_loss": {"number range": [sum_of_squares]},
}
