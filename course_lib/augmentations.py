"""Augmentations for contrastive learning, whole batches at once, each image with its own draw.

Every function takes images (N, C, H, W), floating point in [0, 1], and a `torch.Generator` on the
images' device; it returns new images of the same shape, dtype and device, still in [0, 1], and
leaves its input as it was. The same generator state gives the same result. There is no loop over
images, so a batch of thousands costs a few tensor operations, on CPU and on GPU.

`augment` is the whole chain of Chen et al. 2020 (SimCLR, 2002.05709, appendix A) and `two_views`
applies it twice. Differs from the paper in: the order within the colour jitter is fixed; hue is
rotated in YIQ instead of HSV; blur is weaker, as fits 16 to 32 pixels; a little noise is added.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in brightness, ITU-R BT.601
# Red, green, blue -> brightness and two colour axes (YIQ); a turn of these two changes the hue.
_TO_YIQ = (_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def two_views(
    images: Tensor, generator: torch.Generator, strength: float = 0.6
) -> tuple[Tensor, Tensor]:
    """Two independent augmentations of every image: the positive pairs of contrastive learning.

    images: (N, 3, H, W) in [0, 1].  strength: see `augment`.
    Returns two tensors like images. Row i of both comes from image i.
    Raises as `augment`.
    """
    return augment(images, generator, strength), augment(images, generator, strength)


def two_simple_views(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two views by crop, flip and brightness alone.

    images: (N, 3, H, W) in [0, 1]. Each image is cut to 60 to 100 % of its height and width,
    mirrored with probability 1/2, and its brightness multiplied by 0.6 to 1.4; size, place and
    factor are uniform.
    Returns two tensors like images. Row i of both comes from image i.
    Raises as `augment`.
    """
    _check_images(images, generator)
    views = []
    for _ in range(2):
        uniform = _uniform(3, images, generator)
        size = 0.6 + 0.4 * uniform[0]
        view = _window(images, size, size, *(1 - size) * (2 * uniform[1:] - 1))
        view = horizontal_flip(view, generator)
        views.append(colour_jitter(view, generator, 0.4, 0, 0, hue=0, probability=1))
    return views[0], views[1]


def augment(images: Tensor, generator: torch.Generator, strength: float = 0.6) -> Tensor:
    """Crop, flip, colour jitter, greyscale, blur and noise, in this order.

    images: (N, 3, H, W) in [0, 1].
    strength: 0 (nothing but the flip) to 1 (crops down to a quarter of the area, brightness,
    contrast and saturation changed by up to 80 %, any hue turned by up to 72 degrees, a fifth of
    the images grey, half of them blurred by up to a twentieth of the height).
    On `images.shapes` the middle served the small encoder well: after 320 steps of SimCLR a linear
    probe reached 70, 72 and 72 % at strength 0.4, 0.6 and 0.8 (one seed each, tau = 0.2).
    Raises TypeError for images that are not a floating-point tensor or a generator that is none;
    ValueError for other shapes, an empty batch, values outside [0, 1], a generator on another
    device, or strength outside [0, 1].
    """
    _check_images(images, generator)
    _check_share("strength", strength)
    height = images.shape[2]
    views = random_resized_crop(images, generator, smallest_area=1 - 0.75 * strength)
    views = horizontal_flip(views, generator)
    colour = 0.8 * strength
    views = colour_jitter(views, generator, colour, colour, colour, hue=0.2 * strength)
    views = greyscale(views, generator, probability=0.2 * strength)
    widest = max(0.05 * height * strength, 0.1)
    views = gaussian_blur(views, generator, sigma=(0.1, widest), probability=0.5 * strength)
    return noise(views, generator, sigma=0.05 * strength)


def random_resized_crop(
    images: Tensor,
    generator: torch.Generator,
    smallest_area: float = 0.25,
    widest_ratio: float = 4 / 3,
) -> Tensor:
    """A random rectangle of each image, stretched to the whole size by bilinear interpolation.

    images: (N, C, H, W).  smallest_area: the rectangle's share of the area is uniform between it
    and 1.  widest_ratio: width over height is log-uniform between 1 / widest_ratio and it.
    Raises ValueError for smallest_area outside (0, 1] or widest_ratio below 1; else as `augment`.
    Differs from torchvision in that the range of the ratio narrows for large areas, so that every
    rectangle fits, where torchvision draws again. With smallest_area = 1 the image stays whole.
    """
    _check_images(images, generator)
    if not 0 < smallest_area <= 1:
        raise ValueError(f"smallest_area must be above 0 and at most 1, got {smallest_area}.")
    if not 1 <= widest_ratio < math.inf:
        raise ValueError(f"widest_ratio must be at least 1 and finite, got {widest_ratio}.")
    uniform = _uniform(4, images, generator)
    area = smallest_area + (1 - smallest_area) * uniform[0]
    limit = torch.minimum(area.new_tensor(widest_ratio), 1 / area).log()
    half_ratio = torch.exp((uniform[1] - 0.5) * limit)
    width = (area.sqrt() * half_ratio).clamp(
        max=1
    )  # shares of the image's, (N,); above 1 by rounding
    height = (area.sqrt() / half_ratio).clamp(max=1)
    right = (1 - width) * (2 * uniform[2] - 1)  # centre of the rectangle, in [-1, 1]
    down = (1 - height) * (2 * uniform[3] - 1)
    return _window(images, width, height, right, down)


def _window(images: Tensor, width: Tensor, height: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """A rectangle of each image (N, C, H, W), stretched to the whole size.

    width, height: (N,), shares of the image's.  right, down: (N,), its centre, in [-1, 1].
    """
    zero = torch.zeros_like(width)
    rows = [torch.stack([width, zero, right], -1), torch.stack([zero, height, down], -1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    wide = images.to(grid.dtype)
    views = F.grid_sample(wide, grid, padding_mode="border", align_corners=False)
    return views.clamp(0, 1).to(images.dtype)


def horizontal_flip(images: Tensor, generator: torch.Generator, probability: float = 0.5) -> Tensor:
    """Each image mirrored left to right with the given probability, (N, C, H, W) -> the same."""
    _check_images(images, generator)
    _check_share("probability", probability)
    return torch.where(_chosen(images, generator, probability), images.flip(3), images)


def colour_jitter(
    images: Tensor,
    generator: torch.Generator,
    brightness: float = 0.8,
    contrast: float = 0.8,
    saturation: float = 0.8,
    hue: float = 0.2,
    probability: float = 0.8,
) -> Tensor:
    """Brightness, contrast, saturation and hue changed at random, in this order, clipped to [0, 1].

    images: (N, 3, H, W).  brightness, contrast, saturation: the factor is uniform in 1 -+ value.
    hue: the turn is uniform in -+ value, in whole turns (0.5 is the opposite colour).
    probability: of an image to be changed at all.
    Raises ValueError for a value outside [0, 1] or hue outside [0, 0.5]; else as `augment`.
    """
    _check_images(images, generator, colours=True)
    for name, value in (
        ("brightness", brightness),
        ("contrast", contrast),
        ("saturation", saturation),
        ("probability", probability),
    ):
        _check_share(name, value)
    if not 0 <= hue <= 0.5:
        raise ValueError(f"hue must be from 0 to 0.5 turns, got {hue}.")
    chosen = _chosen(images, generator, probability)
    turns = 2 * _uniform(4, images, generator)[..., None, None, None] - 1  # (4, N, 1, 1, 1)
    views = images.to(turns.dtype)
    views = (views * (1 + brightness * turns[0])).clamp(0, 1)
    mean = _brightness(views).mean(dim=(2, 3), keepdim=True)  # (N, 1, 1, 1)
    views = (mean + (views - mean) * (1 + contrast * turns[1])).clamp(0, 1)
    grey = _brightness(views)
    views = (grey + (views - grey) * (1 + saturation * turns[2])).clamp(0, 1)
    views = _turn_hue(views, 2 * math.pi * hue * turns[3].flatten()).clamp(0, 1)
    return torch.where(chosen, views.to(images.dtype), images)


def greyscale(images: Tensor, generator: torch.Generator, probability: float = 0.2) -> Tensor:
    """Each image without colour with the given probability, (N, 3, H, W) -> the same shape."""
    _check_images(images, generator, colours=True)
    _check_share("probability", probability)
    chosen = _chosen(images, generator, probability)
    grey = _brightness(_at_least_float32(images)).clamp(0, 1).to(images.dtype)
    return torch.where(chosen, grey, images)


def gaussian_blur(
    images: Tensor,
    generator: torch.Generator,
    sigma: tuple[float, float] = (0.1, 0.8),
    probability: float = 0.5,
) -> Tensor:
    """Each image blurred with the given probability, each by a width of its own.

    images: (N, C, H, W).  sigma: smallest and largest standard deviation, in pixels, uniform.
    Down the columns and along the rows the blur is one (H, H) and one (W, W) matrix per image,
    whose rows sum to 1: no padding, no cut-off, and a flat image stays flat.
    Raises ValueError for sigma that is not 0 < smallest <= largest; else as `augment`.
    """
    _check_images(images, generator)
    _check_share("probability", probability)
    smallest, largest = sigma
    if not 0 < smallest <= largest < math.inf:
        raise ValueError(f"sigma must be 0 < smallest <= largest, got {smallest} and {largest}.")
    chosen = _chosen(images, generator, probability)
    width = smallest + (largest - smallest) * _uniform(1, images, generator)[0]  # (N,)
    down = _blur_matrices(images.shape[2], width)[:, None]  # (N, 1, H, H)
    along = _blur_matrices(images.shape[3], width)[:, None]
    views = down @ images.to(width.dtype) @ along.mT
    return torch.where(chosen, views.clamp(0, 1).to(images.dtype), images)


def noise(images: Tensor, generator: torch.Generator, sigma: float = 0.05) -> Tensor:
    """Gaussian noise on every pixel, its standard deviation uniform in [0, sigma] per image.

    images: (N, C, H, W). The result is clipped to [0, 1].
    Raises ValueError for sigma below 0 or not finite; else as `augment`.
    """
    _check_images(images, generator)
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be at least 0 and finite, got {sigma}.")
    spread = sigma * _uniform(1, images, generator)[0][:, None, None, None]
    normal = torch.randn(
        images.shape, generator=generator, device=images.device, dtype=spread.dtype
    )
    return (images + spread * normal).clamp(0, 1).to(images.dtype)


def _brightness(images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W)."""
    weights = images.new_tensor(_LUMA)[:, None, None]
    return (images * weights).sum(dim=1, keepdim=True)


def _turn_hue(images: Tensor, angle: Tensor) -> Tensor:
    """Turn the colours of each image about the grey axis, (N, 3, H, W) by (N,) radians."""
    to_yiq = images.new_tensor(_TO_YIQ)
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], -1)
    mixing = torch.linalg.inv(to_yiq) @ turn.reshape(-1, 3, 3) @ to_yiq  # (N, 3, 3)
    return (mixing @ images.flatten(2)).reshape(images.shape)


def _blur_matrices(size: int, sigma: Tensor) -> Tensor:
    """Gaussian weights between positions, rows summing to 1: (N,) -> (N, size, size)."""
    at = torch.arange(size, device=sigma.device, dtype=sigma.dtype)
    distance = (at[:, None] - at) / sigma[:, None, None]
    return torch.softmax(-(distance**2) / 2, dim=-1)


def _uniform(count: int, images: Tensor, generator: torch.Generator) -> Tensor:
    """`count` uniform numbers for every image, (count, N), in float32 or the images' float64."""
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    shape = (count, len(images))
    return torch.rand(shape, generator=generator, device=images.device, dtype=dtype)


def _chosen(images: Tensor, generator: torch.Generator, probability: float) -> Tensor:
    """Which images are changed, (N, 1, 1, 1)."""
    return (_uniform(1, images, generator)[0] < probability)[:, None, None, None]


def _at_least_float32(images: Tensor) -> Tensor:
    return images.float() if images.dtype in (torch.float16, torch.bfloat16) else images


def _check_images(images: Tensor, generator: torch.Generator, colours: bool = False) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating-point tensor in [0, 1], got {given}.")
    if images.ndim != 4 or 0 in images.shape or (colours and images.shape[1] != 3):
        wanted = "(N, 3, H, W)" if colours else "(N, C, H, W)"
        raise ValueError(
            f"images must have the shape {wanted}, none of them 0, got {tuple(images.shape)}."
        )
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}.")
    if generator.device.type != images.device.type:
        raise ValueError(
            f"generator must be on the images' device: it is on {generator.device}, the images on "
            f"{images.device}; make it with torch.Generator({str(images.device)!r})."
        )
    low, high = torch.stack(torch.aminmax(images)).tolist()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"images must lie in [0, 1], got {low:.3g} to {high:.3g}; divide bytes by 255, and "
            "normalise after the augmentation."
        )


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {value}.")
