"""Small pictures with known classes, and real ones to compare.

- `shapes`    ten shapes on textured or blocky backgrounds, generated on the fly
- `textures`  ten textures without a shape, from the same colours: a task that shares little
- `digits`    scikit-learn's 1 797 handwritten digits, in the same layout
- `cifar10`   the real thing for scale "full", from COURSE_DATA_DIR or the Hugging Face Hub

Pictures are float32 in [0, 1], shape (N, 3, height, width); labels int64, shape (N,). What reads
them is in `course_lib.encoders`, what changes them in `course_lib.augmentations`.

Nothing of `shapes` and `textures` is stored: each picture is computed from a seed by numpy's PCG64
through `random()` alone, so a seed gives the same pictures on every machine, up to the rounding of
sine, cosine and arc tangent. Picture i takes the i-th block of random numbers whatever `number`
is: `shapes(100, seed)` are the first hundred of `shapes(1000, seed)`.
"""

import functools
import io
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from course_lib.data import read_full

SIZE = 16  # pixels a side
SHAPES = (
    "disk",
    "square",
    "triangle",
    "plus",
    "ring",
    "star",
    "crescent",
    "bars",
    "ell",
    "heart",
)
TEXTURES = (
    "rows",
    "columns",
    "slants",
    "checks",
    "dots",
    "circles",
    "rays",
    "waves",
    "blotches",
    "grain",
)
CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
DOMAINS = ("A", "B", "C")
_GEOMETRY = {  # smallest and largest scale, largest rotation either way
    "A": (0.55, 0.85, np.pi / 9),
    "B": (0.55, 0.85, np.pi / 9),
    "C": (0.45, 0.70, np.pi / 6),
}
_CHUNK = 1024  # pictures drawn at once: bounds memory to some 30 MB
_PIXEL = 2 / SIZE  # a picture spans [-1, 1] x [-1, 1]
_BLOBS = 2  # pieces of clutter in a picture of domain A
# Uniform numbers a picture takes, by what they decide.
_SHAPE_DRAWS = {
    "centre": 2,
    "scale": 1,
    "angle": 1,
    "dark": 3,
    "bright": 3,
    "polarity": 1,
    "slope": 2,
    "grating": 4,
    "fill": 4,
    "blobs": 6 * _BLOBS,
    "blocks": 3 * 16,
    "line": 4,
    "noise": 3 * SIZE * SIZE,
}
_TEXTURE_DRAWS = {
    "centre": 2,
    "frequency": 1,
    "angle": 1,
    "phase": 2,
    "side": 1,
    "dark": 3,
    "bright": 3,
    "polarity": 1,
    "slope": 2,
    "coarse": 36,
    "fine": SIZE * SIZE,
    "noise": 3 * SIZE * SIZE,
}

Draws = dict[str, np.ndarray]
Geometry = tuple[float, float, float]


# --- generated pictures -------------------------------------------------------------------------


def shapes(number: int, seed: int, domain: str = "A") -> tuple[Tensor, Tensor]:
    """`number` pictures of the ten SHAPES and their labels; the same seed gives the same pictures.

    domain: "A", filled shapes on a textured background with a colour gradient and blobs of
    clutter; "B", pale outlines on dark blocks; "C", as A, but smaller and turned further. In all,
    position, scale (0.55 to 0.85 of half the picture, in C 0.45 to 0.70), rotation (20 degrees
    either way, in C 30), colours and noise are random.
    Returns images (number, 3, 16, 16), float32 in [0, 1], and labels (number,), int64. Every ten
    labels in a row are a permutation of 0 to 9, so the classes are balanced.
    Raises ValueError for a number or seed below 0 and an unknown domain, TypeError if number or
    seed is not an integer.
    """
    if domain not in DOMAINS:
        raise ValueError(f"domain must be one of {', '.join(DOMAINS)}, got {domain!r}.")
    paint = _outlined if domain == "B" else _filled
    paint = functools.partial(paint, geometry=_GEOMETRY[domain])
    return _generate(number, seed, _SHAPE_DRAWS, paint)


def textures(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """`number` pictures of the ten TEXTURES and their labels: no shape, nothing to localise.

    Returns and Raises as `shapes`, which uses colours from the same distribution.
    """
    return _generate(number, seed, _TEXTURE_DRAWS, _textured)


def _generate(
    number: int, seed: int, layout: dict[str, int], paint: Callable[[Draws, np.ndarray], np.ndarray]
) -> tuple[Tensor, Tensor]:
    _check_count("number", number)
    _check_count("seed", seed)
    streams = np.random.SeedSequence(int(seed)).spawn(2)
    for_labels, for_pictures = (np.random.default_rng(stream) for stream in streams)
    blocks = for_labels.random((-(-number // len(SHAPES)), len(SHAPES)))
    labels = blocks.argsort(axis=1, kind="stable").reshape(-1)[:number]
    images = np.empty((number, 3, SIZE, SIZE), np.float32)
    ends = np.cumsum(list(layout.values()))
    for start in range(0, number, _CHUNK):
        rows = slice(start, min(start + _CHUNK, number))
        uniform = for_pictures.random((rows.stop - start, ends[-1])).astype(np.float32)
        parts = np.split(uniform, ends[:-1], axis=1)
        draws = dict(zip(layout, parts, strict=True))
        noise = draws["noise"].reshape(-1, 3, SIZE, SIZE) - np.float32(0.5)
        images[rows] = np.clip(paint(draws, labels[rows]) + np.float32(0.15) * noise, 0, 1)
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__} {value!r}.")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, got {value}.")


def _plane() -> tuple[np.ndarray, np.ndarray]:
    """x to the right and y upwards at the pixels' centres, each (1, H, W)."""
    along = (np.arange(SIZE, dtype=np.float32) + np.float32(0.5)) * np.float32(_PIXEL) - 1
    return along[None, None, :], -along[None, :, None]


def _column(uniform: np.ndarray, low: float, high: float) -> np.ndarray:
    """(N,) numbers in [0, 1) -> (N, 1, 1) in [low, high)."""
    return (low + (high - low) * uniform)[:, None, None].astype(np.float32)


def _turned(x: np.ndarray, y: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cosine, sine = np.cos(angle), np.sin(angle)
    return cosine * x + sine * y, cosine * y - sine * x


def _distance(draws: Draws, labels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Signed distance of every pixel from its picture's shape, negative inside, (N, H, W)."""
    smallest, largest, turn = geometry
    scale = _column(draws["scale"][:, 0], smallest, largest)
    room = 1 - scale  # only corners may stick out of the picture
    x, y = _plane()
    x = x - _column(draws["centre"][:, 0], -1, 1) * room
    y = y - _column(draws["centre"][:, 1], -1, 1) * room
    x, y = _turned(x, y, _column(draws["angle"][:, 0], -turn, turn))
    x, y = x / scale, y / scale
    result = np.empty_like(x)
    for label, name in enumerate(SHAPES):
        rows = labels == label
        result[rows] = _SIGNED_DISTANCES[name](x[rows], y[rows])
    return result * scale


def _coverage(distance: np.ndarray) -> np.ndarray:
    """Share of each pixel inside, (N, H, W) -> (N, 1, H, W): the edge is one pixel wide."""
    return np.clip(0.5 - distance / np.float32(_PIXEL), 0, 1)[:, None]


def _two_colours(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Background and foreground, (N, 3, 1, 1) each: one dark, one bright, either way round."""
    half = np.float32(0.5)
    dark, bright = half * draws["dark"], half + half * draws["bright"]
    dark_behind = draws["polarity"] < half
    back, front = np.where(dark_behind, dark, bright), np.where(dark_behind, bright, dark)
    return back[:, :, None, None], front[:, :, None, None]


def _gradient(draws: Draws) -> np.ndarray:
    """A linear change of brightness over the picture, (N, 1, H, W)."""
    x, y = _plane()
    across, up = (_column(draws["slope"][:, axis], -0.2, 0.2) for axis in range(2))
    return (across * x + up * y)[:, None]


def _grating(uniform: np.ndarray) -> np.ndarray:
    """Stripes of random strength, direction, frequency and phase, (N, 4) -> (N, 1, H, W)."""
    strength = _column(uniform[:, 0], 0.0, 0.12)
    x, _ = _turned(*_plane(), _column(uniform[:, 1], 0, np.pi))
    frequency = _column(uniform[:, 2], 2, 12)
    phase = _column(uniform[:, 3], 0, 2 * np.pi)
    return (strength * np.sin(frequency * x + phase))[:, None]


def _mix(under: np.ndarray, over: np.ndarray, share: np.ndarray) -> np.ndarray:
    return under + share * (over - under)


def _filled(draws: Draws, labels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Domains A and C, (N, 3, H, W): background, clutter, then the shape on top."""
    back, front = _two_colours(draws)
    picture = back + _gradient(draws) + _grating(draws["grating"])
    x, y = _plane()
    for blob in np.split(draws["blobs"], _BLOBS, axis=1):
        horizontal, vertical = (_column(blob[:, axis], -1, 1) for axis in range(2))
        radius = _column(blob[:, 2], 0.1, 0.2)
        covered = _coverage(np.hypot(x - horizontal, y - vertical) - radius)
        picture = _mix(picture, blob[:, 3:, None, None], covered)
    return _mix(
        picture, front + _grating(draws["fill"]), _coverage(_distance(draws, labels, geometry))
    )


def _outlined(draws: Draws, labels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Domain B, (N, 3, H, W): dark blocks four pixels wide under a pale outline."""
    blocks = np.float32(0.55) * draws["blocks"].reshape(-1, 3, 4, 4)
    picture = blocks.repeat(SIZE // 4, axis=2).repeat(SIZE // 4, axis=3) + _gradient(draws)
    pale = np.float32(0.65) + np.float32(0.35) * draws["line"][:, 1:, None, None]
    width = _column(draws["line"][:, 0], 0.06, 0.1)  # half the line's
    return _mix(picture, pale, _coverage(np.abs(_distance(draws, labels, geometry)) - width))


def _textured(draws: Draws, labels: np.ndarray) -> np.ndarray:
    """A texture over the whole picture, (N, 3, H, W), between two colours."""
    x, y = _plane()
    x = x - _column(draws["centre"][:, 0], -0.4, 0.4)
    y = y - _column(draws["centre"][:, 1], -0.4, 0.4)
    x, y = _turned(x, y, _column(draws["angle"][:, 0], -np.pi / 9, np.pi / 9))
    frequency = _column(draws["frequency"][:, 0], 7, 12)
    first, second = (_column(draws["phase"][:, which], 0, 2 * np.pi) for which in range(2))
    side = np.where(draws["side"] < 0.5, -1, 1).astype(np.float32)[:, :, None]
    coarse = draws["coarse"].reshape(-1, 6, 6)
    weights = _bilinear(6)
    smooth = weights @ coarse @ weights.T
    fine = draws["fine"].reshape(-1, SIZE, SIZE)
    waves = {
        "rows": lambda r: np.sin(frequency[r] * y[r] + first[r]),
        "columns": lambda r: np.sin(frequency[r] * x[r] + first[r]),
        "slants": lambda r: np.sin(
            frequency[r] * (x[r] + side[r] * y[r]) * np.float32(0.7) + first[r]
        ),
        "checks": lambda r: (
            2 * np.sin(frequency[r] * x[r] + first[r]) * np.sin(frequency[r] * y[r] + second[r])
        ),
        "dots": lambda r: (
            np.sin(frequency[r] * x[r] + first[r]) + np.sin(frequency[r] * y[r] + second[r]) - 0.7
        ),
        "circles": lambda r: np.sin(frequency[r] * np.hypot(x[r], y[r]) + first[r]),
        "rays": lambda r: np.sin(6 * np.arctan2(y[r], x[r]) + first[r]),
        "waves": lambda r: np.sin(
            frequency[r] * y[r] + np.float32(2) * np.sin(5 * x[r] + second[r]) + first[r]
        ),
        "blotches": lambda r: 6 * (smooth[r] - np.float32(0.5)),
        "grain": lambda r: 2 * (fine[r] - np.float32(0.5)),
    }
    wave = np.empty_like(smooth)
    for label, name in enumerate(TEXTURES):
        rows = labels == label
        wave[rows] = waves[name](rows)
    share = np.clip(np.float32(0.5) + wave, 0, 1)[:, None]
    back, front = _two_colours(draws)
    return _mix(back, front, share) + _gradient(draws)


def _bilinear(knots: int) -> np.ndarray:
    """(SIZE, knots) weights that interpolate `knots` values linearly over the pixels."""
    at = np.linspace(0, knots - 1, SIZE, dtype=np.float32)
    return np.clip(1 - np.abs(at[:, None] - np.arange(knots, dtype=np.float32)), 0, 1)


# --- signed distances: (x, y) in the shape's own frame, about [-1, 1] -> negative inside ---------


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    across, up = np.abs(x) - np.float32(half_width), np.abs(y) - np.float32(half_height)
    outside = np.hypot(np.maximum(across, 0), np.maximum(up, 0))
    return outside + np.minimum(np.maximum(across, up), 0)


def _disk(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.hypot(x, y) - np.float32(radius)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    slanted = np.float32(np.sqrt(0.75)) * np.abs(x) + np.float32(0.5) * y
    return np.maximum(slanted, -y) - np.float32(0.5)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five tips: fold the plane to a tenth, where the edge is one straight line."""
    tenth = np.pi / 5
    radius, angle = np.hypot(x, y), np.arctan2(x, y)  # from the upper tip
    folded = np.abs((angle + tenth) % (2 * tenth) - tenth)
    tip = np.array([1.0, 0.0])
    notch = 0.45 * np.array([np.cos(tenth), np.sin(tenth)])
    normal = np.array([notch[1] - tip[1], tip[0] - notch[0]]) / np.hypot(*(notch - tip))
    along = np.float32(normal[0]) * np.cos(folded) + np.float32(normal[1]) * np.sin(folded)
    return radius * along - np.float32(normal @ tip)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A square standing on its corner with half a disk on each upper side."""
    half = np.float32(0.65)
    x, y = np.abs(x), y + np.float32(0.07)
    diamond = (x + np.abs(y) - half) / np.float32(np.sqrt(2))
    return np.minimum(diamond, _disk(x - half / 2, y - half / 2, half / np.sqrt(2)))


_SIGNED_DISTANCES = {
    "disk": lambda x, y: _disk(x, y, 0.8),
    "square": lambda x, y: _box(x, y, 0.7, 0.7),
    "triangle": _triangle,
    "plus": lambda x, y: np.minimum(_box(x, y, 0.85, 0.28), _box(x, y, 0.28, 0.85)),
    "ring": lambda x, y: np.abs(_disk(x, y, 0.63)) - np.float32(0.2),
    "star": _star,
    "crescent": lambda x, y: np.maximum(_disk(x, y, 0.85), -_disk(x - 0.45, y - 0.1, 0.68)),
    "bars": lambda x, y: _box(x, np.abs(y) - np.float32(0.5), 0.8, 0.25),
    "ell": lambda x, y: np.minimum(_box(x + 0.45, y, 0.26, 0.8), _box(x, y + 0.55, 0.7, 0.26)),
    "heart": _heart,
}


# --- real pictures ------------------------------------------------------------------------------


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's handwritten digits in the layout of `shapes`: every pixel doubled, grey.

    Returns images (1797, 3, 16, 16), float32 in [0, 1], and labels (1797,), int64.
    The original is 8 x 8 with 17 shades (Alpaydin and Kaynak 1998, UCI repository).
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(pixels / 16).float().reshape(-1, 1, 8, 8)
    doubled = grey.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return doubled.repeat(1, 3, 1, 1), torch.from_numpy(labels.astype(np.int64))


def cifar10(split: str = "train") -> tuple[Tensor, Tensor]:
    """CIFAR-10 (Krizhevsky 2009) for scale "full", pictures of 32 x 32.

    split: "train" (50 000) or "test" (10 000).
    Read from `cifar10/` in the folder that COURSE_DATA_DIR names, laid out like the Hub
    (`<split>-00000-of-00001.parquet`, columns img and label), else from the Hugging Face Hub,
    uoft-cs/cifar10. Prints one line that says which.
    Returns images (N, 3, 32, 32), float32 in [0, 1] (0.6 GB for train), and labels (N,), int64.
    Raises ValueError for an unknown split, columns, labels or sizes which do not fit;
    FileNotFoundError for a missing folder or split; OSError for a damaged file or no network.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be train or test, got {split!r}.")
    hub = {"path": "uoft-cs/cifar10"}
    tables, origin, said = read_full("cifar10", hub, (split,), ("img", "label"))
    table = tables[split]
    labels = np.array(table["label"].to_pylist())
    if labels.dtype.kind != "i" or labels.min() < 0 or labels.max() >= len(CIFAR10):
        raise ValueError(f"{origin}, split {split}: labels must be integers from 0 to 9.")
    pixels = np.empty((len(table), 32, 32, 3), np.uint8)
    for row, entry in enumerate(table["img"].to_pylist()):
        pixels[row] = _decode(entry, f"{origin}, split {split}, row {row}")
    print(f"cifar10 (full) from {said}: {len(table)} {split}")
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float().div_(255)
    return images, torch.from_numpy(labels.astype(np.int64))


def _decode(entry: dict | None, where: str) -> np.ndarray:
    """A row of column img, {"bytes", "path"} -> (32, 32, 3) of bytes."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(entry["bytes"])) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (TypeError, KeyError) as error:
        raise ValueError(f"{where}: img must hold the bytes of a PNG or JPEG file.") from error
    except (UnidentifiedImageError, OSError) as error:
        raise OSError(f"{where}: the picture cannot be decoded, it may be damaged.") from error
    if pixels.shape != (32, 32, 3):
        height, width = pixels.shape[:2]
        raise ValueError(f"{where}: wanted a picture of 32 x 32 pixels, got {width} x {height}.")
    return pixels
