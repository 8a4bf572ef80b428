"""Generated pictures, real pictures, augmentations and the encoders that read them."""

import io
import math
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.path import Path as Polygon
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from torch import nn

from course_lib import augmentations, data, encoders, images

REAL_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
GENERATED = {
    "A": lambda number, seed: images.shapes(number, seed, "A"),
    "B": lambda number, seed: images.shapes(number, seed, "B"),
    "C": lambda number, seed: images.shapes(number, seed, "C"),
    "textures": images.textures,
}


def generator(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


# --- generated pictures -------------------------------------------------------------------------


@pytest.mark.parametrize("make", GENERATED.values(), ids=GENERATED)
def test_pictures_have_the_promised_form_and_balanced_labels(make):
    pictures, labels = make(1234, 5)
    assert pictures.shape == (1234, 3, 16, 16) and pictures.dtype == torch.float32
    assert labels.shape == (1234,) and labels.dtype == torch.int64
    assert pictures.min() >= 0 and pictures.max() <= 1
    for end in (10, 100, 1234):  # every beginning is balanced
        counts = labels[:end].bincount(minlength=10)
        assert counts.max() - counts.min() <= 1
    assert (labels[:1230].reshape(-1, 10).diff(dim=1) == 1).all(dim=1).sum() < 3  # and not sorted


@pytest.mark.parametrize("make", GENERATED.values(), ids=GENERATED)
def test_a_seed_is_a_picture_and_a_shorter_set_is_the_beginning_of_a_longer_one(make):
    pictures, labels = make(1100, 3)  # more than one chunk
    again, labels_again = make(1100, 3)
    assert torch.equal(pictures, again) and torch.equal(labels, labels_again)
    first, first_labels = make(1037, 3)
    assert torch.equal(pictures[:1037], first) and torch.equal(labels[:1037], first_labels)
    other, other_labels = make(1100, 4)
    assert not torch.equal(labels, other_labels)
    assert (pictures - other).abs().mean() > 0.1
    assert len({picture.numpy().tobytes() for picture in pictures}) == 1100


# First ten labels and mean of the first four pictures at seed 7.
FINGERPRINTS = {
    "A": ([1, 8, 6, 5, 9, 2, 4, 7, 0, 3], [0.28262, 0.703923, 0.744552, 0.397284]),
    "B": ([1, 8, 6, 5, 9, 2, 4, 7, 0, 3], [0.328003, 0.352059, 0.314849, 0.412009]),
    "C": ([1, 8, 6, 5, 9, 2, 4, 7, 0, 3], [0.243934, 0.730824, 0.768044, 0.365067]),
    "textures": ([1, 8, 6, 5, 9, 2, 4, 7, 0, 3], [0.455865, 0.434334, 0.483301, 0.448877]),
}


@pytest.mark.parametrize("name", GENERATED)
def test_pictures_are_the_same_on_every_machine(name):
    pictures, labels = GENERATED[name](50, 7)
    wanted_labels, wanted_means = FINGERPRINTS[name]
    assert labels[:10].tolist() == wanted_labels
    means = pictures[:4].mean(dim=(1, 2, 3)).tolist()
    assert means == pytest.approx(wanted_means, abs=1e-5)


def test_numpy_and_torch_random_states_are_left_alone():
    np.random.seed(1)
    torch.manual_seed(1)
    before = np.random.get_state()[1].tobytes(), torch.get_rng_state()
    images.shapes(20, 0)
    images.textures(20, 0)
    augmentations.two_views(images.shapes(20, 0)[0], generator())
    assert np.random.get_state()[1].tobytes() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_thousands_of_pictures_a_second():
    start = time.perf_counter()
    images.shapes(2000, 0)
    images.textures(2000, 0)
    assert time.perf_counter() - start < 4  # 0.2 s on one busy core


def corners(*points):
    return np.array(points, float)


def star_corners():
    turns = np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
    return np.stack([radii * np.sin(turns), radii * np.cos(turns)], axis=1)


root = math.sqrt(3)
OUTLINES = {  # the same shapes by their corners, for matplotlib's point-in-polygon test
    "square": [corners((-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7))],
    "triangle": [corners((-root / 2, -0.5), (root / 2, -0.5), (0, 1))],
    "plus": [
        corners((-0.85, -0.28), (0.85, -0.28), (0.85, 0.28), (-0.85, 0.28)),
        corners((-0.28, -0.85), (0.28, -0.85), (0.28, 0.85), (-0.28, 0.85)),
    ],
    "star": [star_corners()],
    "bars": [
        corners((-0.8, 0.25), (0.8, 0.25), (0.8, 0.75), (-0.8, 0.75)),
        corners((-0.8, -0.25), (0.8, -0.25), (0.8, -0.75), (-0.8, -0.75)),
    ],
    "ell": [
        corners((-0.71, -0.8), (-0.19, -0.8), (-0.19, 0.8), (-0.71, 0.8)),
        corners((-0.7, -0.81), (0.7, -0.81), (0.7, -0.29), (-0.7, -0.29)),
    ],
}


@pytest.mark.parametrize("name", OUTLINES)
def test_the_inside_of_a_shape_is_the_inside_of_its_polygon(name):
    points = np.random.default_rng(0).uniform(-1.2, 1.2, (4000, 2))
    distance = images._SIGNED_DISTANCES[name](points[:, 0], points[:, 1])
    inside = np.any([Polygon(c).contains_points(points) for c in OUTLINES[name]], axis=0)
    clear = np.abs(distance) > 1e-6
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(distance[clear] < 0, inside[clear])


@pytest.mark.parametrize("name", images.SHAPES)
def test_a_distance_changes_by_no_more_than_the_step(name):
    """What makes edges of equal softness: a distance function has slope 1 or less."""
    shape = images._SIGNED_DISTANCES[name]
    points = np.random.default_rng(1).uniform(-1.2, 1.2, (4000, 2))
    steps = np.random.default_rng(2).normal(size=(4000, 2)) * 0.05
    before, after = shape(*points.T), shape(*(points + steps).T)
    assert (np.abs(after - before) <= np.linalg.norm(steps, axis=1) + 1e-6).all()
    assert (before < 0).any() and (before > 0).any()


def test_raw_pixels_are_above_chance_and_far_from_enough():
    """The classes are there for a linear model to find, but position and colour hide most."""
    (pictures, labels), (test, test_labels) = images.shapes(600, 1), images.shapes(600, 2)
    model = LogisticRegression(max_iter=200, C=0.01).fit(pictures.flatten(1), labels)
    assert model.score(test.flatten(1), test_labels) < 0.5


@pytest.mark.parametrize("make", [GENERATED["A"], images.textures], ids=["A", "textures"])
def test_colours_say_nothing_about_the_class(make):
    pictures, labels = make(3000, 6)
    means = torch.stack([pictures[labels == c].mean(dim=(0, 2, 3)) for c in range(10)])
    within = pictures.mean(dim=(2, 3)).std(dim=0)
    # The spread over classes, of a mean over 300 pictures: 0.06 is expected of equal classes.
    assert (means.std(dim=0) / within).max() < 0.15


@pytest.mark.parametrize(
    "arguments, error, sentence",
    [
        ((-1, 0), ValueError, "number must be at least 0, got -1"),
        ((10, -3), ValueError, "seed must be at least 0, got -3"),
        ((10.0, 0), TypeError, "number must be an integer, got float 10.0"),
        ((10, None), TypeError, "seed must be an integer, got NoneType"),
        ((True, 0), TypeError, "number must be an integer, got bool"),
        ((10, 0, "D"), ValueError, "domain must be one of A, B, C, got 'D'"),
    ],
)
def test_bad_numbers_seeds_and_domains_are_named(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        images.shapes(*arguments)


def test_no_pictures_is_a_set_too():
    pictures, labels = images.shapes(0, 0)
    assert pictures.shape == (0, 3, 16, 16) and labels.shape == (0,)


# --- real pictures ------------------------------------------------------------------------------


def test_digits_are_scikit_learns_in_the_layout_of_the_shapes():
    from sklearn.datasets import load_digits

    pictures, labels = images.digits()
    original = load_digits()
    assert pictures.shape == (1797, 3, 16, 16) and pictures.dtype == torch.float32
    assert labels.tolist() == original.target.tolist() and labels.dtype == torch.int64
    for channel in range(3):
        for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)):
            got = pictures[:, channel, row::2, column::2] * 16
            np.testing.assert_array_equal(got.numpy(), original.images)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_cifar(folder, split, entries, labels, **extra):
    path = folder / "cifar10" / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"img": entries, "label": labels} | extra), path)


@pytest.fixture
def cifar_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def test_cifar_from_a_folder_is_what_was_written(cifar_folder, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    labels = [i % 10 for i in range(12)]
    write_cifar(cifar_folder, "train", [png(p) for p in pixels], labels)
    write_cifar(cifar_folder, "test", [png(p) for p in pixels[:5]], labels[:5])
    pictures, got = images.cifar10()
    assert pictures.shape == (12, 3, 32, 32) and pictures.dtype == torch.float32
    assert pictures.is_contiguous()
    np.testing.assert_allclose(pictures.numpy(), pixels.transpose(0, 3, 1, 2) / 255, atol=1e-7)
    assert got.tolist() == labels and got.dtype == torch.int64
    assert capsys.readouterr().out == f"cifar10 (full) from {cifar_folder / 'cifar10'}: 12 train\n"
    assert len(images.cifar10("test")[0]) == 5


def test_cifar_from_the_hub_is_asked_for_by_name(monkeypatch, capsys):
    monkeypatch.delenv(data.FOLDER_VARIABLE, raising=False)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    rows = datasets.Dataset.from_dict(
        {"img": [Image.fromarray(p) for p in pixels], "label": [3, 1, 9, 0]},
        features=datasets.Features(
            {"img": datasets.Image(), "label": datasets.ClassLabel(names=list(images.CIFAR10))}
        ),
    )

    def load_dataset(path):
        assert path == "uoft-cs/cifar10"
        return datasets.DatasetDict(train=rows, test=rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    pictures, labels = images.cifar10("test")
    np.testing.assert_allclose(pictures.numpy(), pixels.transpose(0, 3, 1, 2) / 255, atol=1e-7)
    assert labels.tolist() == [3, 1, 9, 0]
    assert "Hugging Face Hub: 4 test" in capsys.readouterr().out


def test_cifar_without_a_network_is_a_sentence(monkeypatch):
    monkeypatch.delenv(data.FOLDER_VARIABLE, raising=False)

    def unreachable(**arguments):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(OSError, match="set COURSE_DATA_DIR to a folder that holds cifar10/"):
        images.cifar10()


GOOD_PIXELS = np.zeros((32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    "entries, labels, error, sentence",
    [
        ([png(GOOD_PIXELS)], [10], ValueError, "labels must be integers from 0 to 9"),
        ([png(GOOD_PIXELS)], [-1], ValueError, "labels must be integers from 0 to 9"),
        ([png(GOOD_PIXELS)], [None], ValueError, "labels must be integers from 0 to 9"),
        ([png(GOOD_PIXELS)], [0.0], ValueError, "labels must be integers from 0 to 9"),
        ([png(GOOD_PIXELS)], ["cat"], ValueError, "labels must be integers from 0 to 9"),
        ([png(GOOD_PIXELS[:28])], [0], ValueError, "row 0: wanted .* 32 x 32 pixels, got 32 x 28"),
        ([{"bytes": b"no image"}], [0], OSError, "row 0: the picture cannot be decoded"),
        ([{"bytes": png(GOOD_PIXELS)["bytes"][:60]}], [0], OSError, "cannot be decoded"),
        ([png(GOOD_PIXELS), None], [0, 1], ValueError, "row 1: img must hold the bytes"),
        (["a path"], [0], ValueError, "row 0: img must hold the bytes"),
        ([{"path": "x.png"}], [0], ValueError, "row 0: img must hold the bytes"),
    ],
)
def test_bad_cifar_files_are_named(cifar_folder, entries, labels, error, sentence):
    write_cifar(cifar_folder, "train", entries, labels)
    with pytest.raises(error, match=sentence) as caught:
        images.cifar10()
    assert "cifar10, split train" in str(caught.value)


def test_a_missing_column_file_or_split_is_named(cifar_folder):
    with pytest.raises(ValueError, match="split must be train or test, got 'validation'"):
        images.cifar10("validation")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        images.cifar10()
    path = cifar_folder / "cifar10" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    with pytest.raises(FileNotFoundError, match="no split 'train'"):
        images.cifar10()
    pq.write_table(pa.table({"image": [png(GOOD_PIXELS)], "label": [0]}), path)
    with pytest.raises(ValueError, match="column 'img' is missing, got image, label"):
        images.cifar10()


def test_cifar_on_the_real_data(monkeypatch, capsys):
    if not REAL_DATA.is_dir():
        pytest.skip(f"the real data sets are not beside the repository ({REAL_DATA.name})")
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(REAL_DATA))
    pictures, labels = images.cifar10("test")
    assert pictures.shape == (10_000, 3, 32, 32)
    assert labels.bincount().tolist() == [1000] * 10
    # The known means of red, green and blue (training set: 0.491, 0.482, 0.447).
    assert pictures.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0.494, 0.485, 0.450], abs=0.005)


# --- augmentations ------------------------------------------------------------------------------

SINGLE = {
    "crop": augmentations.random_resized_crop,
    "flip": augmentations.horizontal_flip,
    "colour": augmentations.colour_jitter,
    "grey": augmentations.greyscale,
    "blur": augmentations.gaussian_blur,
    "noise": augmentations.noise,
    "chain": augmentations.augment,
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("change", SINGLE.values(), ids=SINGLE)
def test_same_form_in_range_input_untouched_and_repeatable(change, dtype, device):
    pictures = images.shapes(40, 0)[0].to(device, dtype)
    before = pictures.clone()
    views = change(pictures, generator(1, device))
    assert views.shape == pictures.shape and views.dtype == dtype and views.device == before.device
    assert views.min() >= 0 and views.max() <= 1
    assert torch.equal(pictures, before)
    assert views.data_ptr() != pictures.data_ptr()
    assert torch.equal(views, change(pictures, generator(1, device)))
    assert not torch.equal(views, change(pictures, generator(2, device)))


@pytest.mark.parametrize("change", SINGLE.values(), ids=SINGLE)
def test_every_image_gets_parameters_of_its_own(change):
    """One image repeated comes out in many ways; flip and greyscale have just two."""
    batch = images.shapes(1, 0)[0].expand(64, -1, -1, -1)
    different = {view.numpy().tobytes() for view in change(batch, generator())}
    switches = change in (augmentations.horizontal_flip, augmentations.greyscale)
    assert len(different) == 2 if switches else len(different) > 10


@pytest.mark.parametrize("change", SINGLE.values(), ids=SINGLE)
def test_images_need_not_be_square(change):
    assert change(torch.rand(4, 3, 9, 14), generator()).shape == (4, 3, 9, 14)


def test_two_simple_views_change_place_side_and_brightness_and_no_colour():
    colour = torch.tensor([0.3, 0.5, 0.1])[:, None, None].expand(3, 8, 8)
    pictures = torch.cat([colour[None], images.shapes(30, 0)[0][:, :, :8, :8]])
    first, second = augmentations.two_simple_views(pictures, generator())
    assert first.shape == second.shape == pictures.shape and not torch.equal(first, second)
    for view in (first, second):
        factor = view[0] / colour
        assert factor.max() - factor.min() < 1e-5 and 0.6 <= factor.mean() <= 1.4
        assert view.min() >= 0 and view.max() <= 1


def test_two_views_differ_from_each_other_and_keep_the_order():
    pictures = images.shapes(200, 0)[0]
    first, second = augmentations.two_views(pictures, generator(), strength=0.3)
    assert (first - second).abs().flatten(1).amax(dim=1).gt(0.01).all()
    again = augmentations.two_views(pictures, generator(), strength=0.3)
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])
    # Row i of both comes from image i: on average over pixels it is nearest to it.
    spread = torch.cdist(first.mean(dim=(2, 3)), second.mean(dim=(2, 3)))
    assert spread.diagonal().mean() < 0.5 * spread.mean()


def test_strength_nought_leaves_only_the_flip_and_more_strength_changes_more():
    pictures = images.shapes(300, 0)[0]
    views = augmentations.augment(pictures, generator(), strength=0)
    same = (views - pictures).abs().flatten(1).amax(1) < 1e-5
    flipped = (views - pictures.flip(3)).abs().flatten(1).amax(1) < 1e-5
    assert (same | flipped).all() and 0.4 < same.float().mean() < 0.6
    # Against pictures that are their own mirror image, so that the flip does not count.
    even = (pictures + pictures.flip(3)) / 2
    changes = [
        (augmentations.augment(even, generator(), strength) - even).abs().mean()
        for strength in (0, 0.3, 0.6, 1)
    ]
    assert changes[0] < 1e-5 and changes == sorted(changes)


def test_crops_are_rectangles_inside_the_image_of_the_promised_areas():
    """On ramps every pixel says where it was taken from, so a crop tells its own rectangle."""
    number, size = 2000, 32
    along = (torch.arange(size) + 0.5) / size
    ramps = torch.stack([along.expand(size, size), along[:, None].expand(size, size)])
    ramps = ramps.expand(number, 2, size, size)
    views = augmentations.random_resized_crop(ramps, generator(), 0.2, 1.5).double()
    middle = size // 2
    sides, centres = [], []
    for channel, view in ((0, views[:, 0, middle]), (1, views[:, 1, :, middle])):
        # Inside the ramp interpolation is exact; at its ends the border is repeated.
        sides.append((view[:, middle + 4] - view[:, middle - 5]) / 9 * size)
        centres.append((view[:, middle] + view[:, middle - 1]) / 2)
        other = views[:, channel].diff(dim=channel + 1).abs()
        assert other.max() < 1e-5  # no rotation, no shear
    width, height = sides
    for side, centre in zip(sides, centres, strict=True):
        assert (centre - side / 2).min() > -1e-4 and (centre + side / 2).max() < 1 + 1e-4
    area, ratio = width * height, width / height
    assert area.min() > 0.2 - 1e-3 and area.max() < 1 + 1e-3
    assert area.mean() == pytest.approx(0.6, abs=0.03)  # uniform on 0.2 to 1: error 0.005
    assert ratio.min() > 1 / 1.5 - 1e-3 and ratio.max() < 1.5 + 1e-3
    assert ratio.min() < 0.72 and ratio.max() > 1.4
    assert ratio.log().mean().abs() < 0.02
    assert centres[0].std() > 0.05 and centres[1].std() > 0.05
    assert torch.corrcoef(torch.stack(centres))[0, 1].abs() < 0.1


def test_a_crop_of_the_whole_area_is_the_image():
    pictures = images.shapes(20, 0)[0]
    views = augmentations.random_resized_crop(pictures, generator(), smallest_area=1)
    torch.testing.assert_close(views, pictures, rtol=0, atol=1e-5)


def test_a_flip_mirrors_left_to_right_with_its_probability():
    pictures = images.shapes(1000, 0)[0]
    views = augmentations.horizontal_flip(pictures, generator(), probability=0.3)
    flipped = (views == pictures.flip(3)).flatten(1).all(1)
    assert (flipped | (views == pictures).flatten(1).all(1)).all()
    assert flipped.float().mean() == pytest.approx(0.3, abs=0.06)  # four standard errors
    assert torch.equal(augmentations.horizontal_flip(pictures, generator(), 0), pictures)
    assert torch.equal(augmentations.horizontal_flip(pictures, generator(), 1), pictures.flip(3))


def brightness(pictures):
    red, green, blue = pictures.unbind(1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def jitter(pictures, **values):
    nothing = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "probability": 1}
    return augmentations.colour_jitter(pictures, generator(), **nothing | values)


@pytest.fixture
def dull():
    """Pictures of middle greys and weak colours: no change below reaches 0 or 1."""
    return 0.4 + 0.1 * images.shapes(500, 0)[0].double()


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_a_colour_change_is_one_factor_an_image(dull, name):
    views = jitter(dull, **{name: 0.5})
    around = {
        "brightness": torch.zeros_like(dull),
        "contrast": brightness(dull).mean(dim=(1, 2))[:, None, None, None].expand_as(dull),
        "saturation": brightness(dull)[:, None].expand_as(dull),
    }[name]
    was, now = (dull - around).flatten(1), (views - around).flatten(1)
    factor = (was * now).sum(1) / (was * was).sum(1)
    torch.testing.assert_close(now, factor[:, None] * was, rtol=0, atol=1e-9)
    assert factor.min() > 0.5 - 1e-9 and factor.max() < 1.5 + 1e-9
    assert factor.mean() == pytest.approx(1, abs=0.06)  # standard error 0.013
    assert factor.std() == pytest.approx(1 / math.sqrt(12), rel=0.1)


def test_hue_turns_colours_and_keeps_brightness_and_greys(dull):
    views = jitter(dull, hue=0.5)
    # Four digits of the YIQ matrix are given, so brightness is kept to four digits.
    torch.testing.assert_close(brightness(views), brightness(dull), rtol=0, atol=1e-4)
    grey = brightness(dull)[:, None].expand_as(dull)
    torch.testing.assert_close(jitter(grey, hue=0.5), grey, rtol=0, atol=1e-4)
    colour_before, colour_after = dull - grey, views - grey
    assert (colour_before - colour_after).abs().mean() > 0.5 * colour_before.abs().mean()
    pure = torch.tensor([0.6, 0.4, 0.4]).double()[None, :, None, None].expand(400, 3, 2, 2)
    turned = jitter(pure, hue=0.5)[:, :, 0, 0]
    assert set(turned.argmax(dim=1).tolist()) == {0, 1, 2}  # red becomes green and blue as well


def test_colours_are_left_alone_with_the_complement_of_the_probability(dull):
    views = augmentations.colour_jitter(dull, generator(), probability=0.3)
    same = (views == dull).flatten(1).all(1).float().mean()
    assert same == pytest.approx(0.7, abs=0.09)  # four standard errors


def test_grey_is_the_brightness_in_every_channel():
    pictures = images.shapes(1000, 0)[0]
    every = augmentations.greyscale(pictures, generator(), probability=1)
    wanted = brightness(pictures)[:, None].expand_as(pictures)
    torch.testing.assert_close(every, wanted, rtol=0, atol=1e-6)
    some = augmentations.greyscale(pictures, generator(), probability=0.2)
    grey = (some[:, 0] == some[:, 2]).flatten(1).all(1)
    assert grey.float().mean() == pytest.approx(0.2, abs=0.05)  # four standard errors
    assert torch.equal(some[~grey], pictures[~grey])


def slow_blur(picture, sigma):
    """Every pixel the mean of all, weighted by a Gaussian of the distance; (C, H, W), float64."""
    channels, height, width = picture.shape
    result = np.zeros_like(picture)
    for row in range(height):
        for column in range(width):
            total = 0.0
            for i in range(height):
                for j in range(width):
                    squared = (row - i) ** 2 + (column - j) ** 2
                    weight = math.exp(-squared / (2 * sigma**2))
                    total += weight
                    result[:, row, column] += weight * picture[:, i, j]
            result[:, row, column] /= total
    return result


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_blur_is_the_weighted_mean_and_scipys(sigma):
    pictures = torch.rand(2, 3, 9, 12, generator=generator(), dtype=torch.float64)
    views = augmentations.gaussian_blur(pictures, generator(), (sigma, sigma), probability=1)
    for picture, view in zip(pictures.numpy(), views.numpy(), strict=True):
        np.testing.assert_allclose(view, slow_blur(picture, sigma), atol=1e-12)
        options = {"sigma": (0, sigma, sigma), "mode": "constant", "truncate": 60}
        scipys = gaussian_filter(picture, **options) / gaussian_filter(picture * 0 + 1, **options)
        np.testing.assert_allclose(view, scipys, atol=1e-12)


def test_blur_widths_differ_between_images_and_a_flat_image_stays_flat():
    point = torch.zeros(500, 1, 31, 31, dtype=torch.float64)
    point[:, :, 15, 15] = 1
    views = augmentations.gaussian_blur(point, generator(), (0.5, 2.0), probability=1)
    assert torch.allclose(views.sum(dim=(1, 2, 3)), torch.ones(500).double(), atol=1e-6)
    sigma = (2 * math.pi * views[:, 0, 15, 15]).rsqrt()  # of a sampled Gaussian, near enough
    assert sigma.min() < 0.6 and 1.95 < sigma.max() < 2.01
    assert sigma.mean() == pytest.approx(1.25, abs=0.1)  # uniform: error 0.02
    flat = torch.full((8, 3, 16, 16), 0.3, dtype=torch.float64)
    blurred = augmentations.gaussian_blur(flat, generator(), (0.1, 3.0), probability=1)
    torch.testing.assert_close(blurred, flat)


def test_noise_has_no_mean_and_a_spread_of_its_own_for_every_image():
    flat = torch.full((400, 3, 16, 16), 0.5, dtype=torch.float64)
    views = augmentations.noise(flat, generator(), sigma=0.1)
    spread = views.std(dim=(1, 2, 3))
    assert spread.min() < 0.01 and 0.09 < spread.max() < 0.11
    assert spread.mean() == pytest.approx(0.05, abs=0.006)  # uniform: error 0.0015
    assert (views - flat).mean().abs() < 1e-3
    assert torch.equal(augmentations.noise(flat, generator(), sigma=0), flat)


PICTURES = torch.full((4, 3, 8, 8), 0.5)


@pytest.mark.parametrize("change", SINGLE.values(), ids=SINGLE)
@pytest.mark.parametrize(
    "given, random, error, sentence",
    [
        (PICTURES.numpy(), generator(), TypeError, "floating-point tensor .*, got ndarray"),
        ((PICTURES * 255).byte(), generator(), TypeError, "floating-point .*, got torch.uint8"),
        (PICTURES[0], generator(), ValueError, r"have the shape .*, got \(3, 8, 8\)"),
        (PICTURES[:0], generator(), ValueError, r"none of them 0, got \(0, 3, 8, 8\)"),
        (PICTURES[..., :0], generator(), ValueError, r"have the shape .*, got \(4, 3, 8, 0\)"),
        (PICTURES * 255, generator(), ValueError, r"must lie in \[0, 1\], got 128 to 128"),
        (PICTURES - 1, generator(), ValueError, r"must lie in \[0, 1\], got -0.5 to -0.5"),
        (PICTURES * math.nan, generator(), ValueError, r"must lie in \[0, 1\], got nan"),
        (PICTURES, 0, TypeError, "generator must be a torch.Generator, got int"),
        (PICTURES.to("meta"), generator(), ValueError, "generator must be on the images' dev"),
    ],
)
def test_bad_images_and_generators_are_named(change, given, random, error, sentence):
    with pytest.raises(error, match=sentence):
        change(given, random)


@pytest.mark.parametrize("change", [augmentations.colour_jitter, augmentations.greyscale])
def test_colours_need_three_channels(change):
    with pytest.raises(ValueError, match=r"shape \(N, 3, H, W\), .* got \(4, 1, 8, 8\)"):
        change(PICTURES[:, :1], generator())


@pytest.mark.parametrize(
    "change, values, sentence",
    [
        ("chain", {"strength": 1.1}, "strength must be from 0 to 1, got 1.1"),
        ("chain", {"strength": math.nan}, "strength must be from 0 to 1, got nan"),
        ("crop", {"smallest_area": 0}, "smallest_area must be above 0 and at most 1, got 0"),
        ("crop", {"widest_ratio": 0.5}, "widest_ratio must be at least 1 and finite, got 0.5"),
        ("flip", {"probability": -0.1}, "probability must be from 0 to 1, got -0.1"),
        ("colour", {"contrast": 2}, "contrast must be from 0 to 1, got 2"),
        ("colour", {"hue": 0.6}, "hue must be from 0 to 0.5 turns, got 0.6"),
        ("grey", {"probability": 2}, "probability must be from 0 to 1, got 2"),
        ("blur", {"sigma": (0, 1)}, "sigma must be 0 < smallest <= largest, got 0 and 1"),
        ("blur", {"sigma": (2, 1)}, "sigma must be 0 < smallest <= largest, got 2 and 1"),
        ("noise", {"sigma": -1}, "sigma must be at least 0 and finite, got -1"),
    ],
)
def test_bad_settings_are_named(change, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        SINGLE[change](PICTURES, generator(), **values)


# --- encoders -----------------------------------------------------------------------------------


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_resnet18_has_the_known_size():
    """Well known with a head for ten classes: 11 173 962 parameters, 5 130 of them the head's."""
    model = encoders.resnet18_cifar()
    assert size(model) == 11_173_962 - (512 * 10 + 10)
    assert sum(isinstance(layer, nn.Conv2d) for layer in model.modules()) == 17 + 3  # and shortcuts
    with torch.no_grad():
        assert model.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 512)
    assert model.dim == 512


@pytest.mark.parametrize("width, parameters", [(8, 18_296), (16, 72_304)])
def test_small_encoders_are_small_and_read_any_size(width, parameters):
    model = encoders.small_encoder(width)
    assert size(model) == parameters and model.dim == 16 * width
    for height, across in ((16, 16), (32, 32), (15, 9), (8, 8)):
        assert model(torch.rand(3, 3, height, across)).shape == (3, 16 * width)


def test_an_encoder_starts_with_features_of_order_one_and_gradients_everywhere():
    torch.manual_seed(0)
    model = encoders.small_encoder()
    features = model(images.shapes(64, 0)[0])
    assert features.isfinite().all() and 0.1 < features.std() < 10
    features.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    torch.manual_seed(0)
    again = encoders.small_encoder()
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_width_of_nought_is_named():
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        encoders.small_encoder(0)


def test_a_small_encoder_learns_the_shapes_above_chance():
    """Two passes over 2 000 pictures; ten over 4 096 reach 88 %, chance is 10 %."""
    torch.manual_seed(0)
    pictures, labels = images.shapes(2000, 1)
    model = encoders.small_encoder(8)
    head = nn.Linear(model.dim, 10)
    optimiser = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=1e-2)
    for _ in range(2):
        for batch in torch.randperm(2000, generator=generator()).split(50):
            loss = nn.functional.cross_entropy(head(model(pictures[batch])), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    test, test_labels = images.shapes(1000, 2)
    model.eval()
    with torch.no_grad():
        accuracy = (head(model(test)).argmax(1) == test_labels).float().mean()
    assert accuracy > 0.2  # 0.32 to 0.57 over four seeds
