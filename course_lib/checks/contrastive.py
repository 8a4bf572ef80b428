"""Checks of notebook 03 (`course_lib.contrastive`, `course_lib.augmentations`)."""

import math
from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib import augmentations, contrastive
from course_lib.checks.exercise import Case, Chance, Exercise, Failure, Observation, Property
from course_lib.checks.observe import TWO_CALLS, observe_call, observe_steps, plain, same
from course_lib.checks.properties import (
    compare,
    describe,
    gradient,
    number,
    own_generator,
    unchanged_inputs,
    value,
    wrong_only_in,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # two ways to compute the same thing in float32


def _sizes(generator, *smallest: int) -> list[int]:
    """Whole numbers up to a quarter larger than these, so that no two seeds look alike."""
    return [size + int(torch.randint(size // 4 + 1, (), generator=generator)) for size in smallest]


def _normal(generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


# two_views: any crop, flip and brightness will do, so nearly everything is measured on a test
# card, whose colours tell afterwards what was done to it: green is flat (brightness), red rises
# to the right and blue to the bottom (mirrored or not, size and place of the crop). On the bright
# card blue is flat too, and so bright that a large factor takes it beyond 1.
DARKEST, RANGE, FLAT, BRIGHT = 0.1, 0.4, 0.5, 0.9  # red and blue rise from 0.1 to 0.5
# With 200 copies the share of mirrored ones has a standard deviation of 0.035, and the correlation
# of independent draws one of 0.071. Both pass within 6 of them (a right answer fails once in 10^8
# views); of a view that was made from the other one the correlation is about 0.7.
COPIES, SIGMAS = 200, 6
# No brightness and no exchange of red and blue makes one of these from another one.
COLOURS = (
    *((0.9, 0.2, 0.3), (0.4, 0.7, 0.2), (0.4, 0.3, 0.9), (0.8, 0.6, 0.2)),
    *((0.3, 0.9, 0.7), (0.7, 0.25, 0.5), (0.4, 0.5, 0.6)),
)
UNCLEAR = 0.05  # a window smaller than that has no left and right
VISIBLE = 1e-3  # a part that differs by less is the same: bilinear sampling in float32
CARDS, BRIGHT_CARD = ("test card", "wide images"), "bright card"
FEW_CARDS = "few cards"  # shows whether what is constant in one call is so in all
IMAGE_KINDS = ("ordinary", *CARDS, BRIGHT_CARD, "flat images", "one image", "transposed")


def _views_case(kind: str, generator, images: Tensor, text: str) -> Case:
    chance = Chance(int(torch.randint(2**31, (), generator=generator)))
    return Case(kind, {"images": images, "generator": chance}, text=text)


def _noise(generator, number_of: int, height: int, width: int) -> Tensor:
    return torch.rand((number_of, 3, height, width), generator=generator)


def _cards(number_of: int, height: int, width: int) -> Tensor:
    """Copies of the test card, (N, 3, H, W)."""
    right = (DARKEST + RANGE * (torch.arange(width) + 0.5) / width).expand(height, width)
    down = (DARKEST + RANGE * (torch.arange(height) + 0.5) / height)[:, None].expand(height, width)
    return torch.stack([right, torch.full_like(right, FLAT), down]).repeat(number_of, 1, 1, 1)


def _bright_cards(number_of: int, size: int) -> Tensor:
    cards = _cards(number_of, size, size)
    cards[:, 2] = BRIGHT
    return cards


def _flats(generator) -> Tensor:
    """Images of one colour each, in a random order, (7, 3, 16, 16)."""
    colours = torch.tensor(COLOURS)[torch.randperm(len(COLOURS), generator=generator)]
    return colours[:, :, None, None].expand(-1, -1, 16, 16).contiguous()


def _views_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    several, size = _sizes(generator, 5, 12)
    text = f"images of shape {(several, 3, size, size)}"
    card = f"{COPIES} times the same test card, images of shape {(COPIES, 3, 16, 16)}"
    bright = f"{COPIES} times the same picture with a blue of {BRIGHT}"
    return [
        _views_case("ordinary", generator, _noise(generator, several, size, size), text),
        _views_case("flat images", generator, _flats(generator), "7 images of one colour each"),
        _views_case(TWO_CALLS, generator, _cards(several, 12, 12), "two calls"),
        _views_case(BRIGHT_CARD, generator, _bright_cards(COPIES, 12), bright),
        _views_case("test card", generator, _cards(COPIES, 16, 16), card),
        *(_views_case(FEW_CARDS, generator, _cards(6, 12, 12), "6 test cards") for _ in range(3)),
    ]


def _hidden_views_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    several, height, width = _sizes(generator, 4, 12, 24)
    transposed = _noise(generator, several, width, height).transpose(2, 3)
    return [
        _views_case("one image", generator, _noise(generator, 1, height, height), "one image"),
        _views_case("transposed", generator, transposed, "images that are not contiguous"),
        _views_case("wide images", generator, _cards(COPIES, height, width), "wide test cards"),
        _views_case("flat images", generator, _flats(generator), "7 images of one colour each"),
    ]


class Parts(NamedTuple):
    """What a view did to each copy of the test card, (N,) each."""

    brightness: Tensor  # factor
    mirrored: Tensor  # 1 where right and left are exchanged, else 0
    upside_down: Tensor
    right: Tensor  # centre of the crop, 0 to 1 from left to right
    down: Tensor
    width: Tensor  # of the crop, as a share of the image's
    height: Tensor

    @property
    def draws(self) -> dict[str, Tensor]:
        """The five numbers behind a view; a place from -1 to 1, of all that the window has."""
        return {
            "brightness": self.brightness,
            "flip": self.mirrored,
            "size": self.width,
            "place from left to right": _share_of_room(self.right, self.width),
            "place from top to bottom": _share_of_room(self.down, self.height),
        }


PLACES = ("place from left to right", "place from top to bottom")


def _parts(view: Tensor) -> Parts:
    view = view.double()
    brightness = view[:, 1].mean(dim=(1, 2)) / FLAT
    safe = brightness.clamp(min=1e-6)[:, None, None]
    right, width = _place(view[:, 0].mean(dim=1) / safe[..., 0])
    down, height = _place(view[:, 2].mean(dim=2) / safe[..., 0])
    return Parts(
        brightness,
        (width < -UNCLEAR).double(),
        (height < -UNCLEAR).double(),
        right,
        down,
        width.abs(),
        height.abs(),
    )


def _place(profile: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and signed length of the piece of the ramp that profiles (N, T) show.

    Of a straight line through the inner half: the edges may hold repeated pixels.
    """
    size = profile.shape[1]
    inner = (profile[:, size // 4 : size - size // 4] - DARKEST) / RANGE
    steps = torch.arange(inner.shape[1], dtype=inner.dtype)
    steps = steps - steps.mean()
    return inner.mean(dim=1), size * (inner @ steps) / steps.square().sum()


def _share_of_room(centre: Tensor, length: Tensor) -> Tensor:
    """Centres 0 to 1 as -1 to 1, of all centres that fit; NaN where there is hardly any room."""
    return torch.where(length < 0.95, (2 * centre - 1) / (1 - length), torch.nan)


def _wrong_form(images: Tensor, output) -> Failure | None:
    """Unless an output is two tensors like the images, with finite entries."""
    wanted, got = describe([images, images]), describe(output)
    if wanted != got:
        return Failure(wanted, got)
    for view in output:
        if view.dtype != images.dtype:
            return Failure(f"two tensors of {images.dtype}", f"one of {view.dtype}")
        if not view.isfinite().all():
            return Failure("finite pixels", "NaN or infinity")
    return None


def _about_views(name: str, points: float, test: Callable, kinds=IMAGE_KINDS) -> Property:
    """A property of the two views: test(case, first view, second view) -> Failure or None."""

    def whole_test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        failure = _wrong_form(case.arguments["images"], observed.output)
        return failure or test(case, *observed.output)

    return Property(name, points, whole_test, kinds=kinds)


def _test_form(case: Case, first: Tensor, second: Tensor) -> Failure | None:
    return None  # every property of the views looks at their form


def _test_range(case: Case, first: Tensor, second: Tensor) -> Failure | None:
    for view in (first, second):
        low, high = float(view.min()), float(view.max())
        if low < -1e-5 or high > 1 + 1e-5:
            return Failure("pixels from 0 to 1", f"{number(low)} to {number(high)}")
    return None


def _test_two(case: Case, first: Tensor, second: Tensor) -> Failure | None:
    images, alike = case.arguments["images"], _alike(first, second)
    if alike > 0:
        return Failure("two different views of every image", f"{alike} of {len(images)} alike")
    for name, view in (("first", first), ("second", second)):
        if len(images) > 1 and torch.equal(view, images):
            return Failure("two augmented views", f"the images themselves as the {name} view")
    return None


def _test_independent(case: Case, first: Tensor, second: Tensor) -> Failure | None:
    failure = _test_two(case, first, second)
    if failure:
        return failure
    one, other = _parts(first).draws, _parts(second).draws
    for left, right in product(one, other):
        found = _correlation(one[left], other[right])
        if abs(found) > SIGMAS / math.sqrt(len(first)):
            what = f"{left} in the first view and {right} in the second"
            return Failure(
                "independent draws for the two views", f"a correlation of {number(found)}: {what}"
            )
    return None


def _correlation(left: Tensor, right: Tensor) -> float:
    """Of the rows where both are known; 0 when one of them hardly varies."""
    known = left.isfinite() & right.isfinite()
    left, right = left[known], right[known]
    if min(_spread(left), _spread(right)) < VISIBLE:
        return 0.0
    return float(torch.corrcoef(torch.stack([left, right]))[0, 1])


def _alike(first: Tensor, second: Tensor) -> int:
    """How many rows are the same in two views."""
    return int(((first - second).abs().flatten(1).amax(dim=1) < 1e-6).sum())


def _test_own_draws(case: Case, first: Tensor, second: Tensor) -> Failure | None:
    for name, view in (("first", first), ("second", second)):
        for draw, found in _constants(view).items():
            # A change that never happens is missing, not shared.
            if abs(found - UNCHANGED[draw]) > 0.02:
                copies = f"in all {len(view)} copies of one image"
                return Failure(
                    "a draw of its own for every image", f"{name} view: the same {draw} {copies}"
                )
    return None


UNCHANGED = {"brightness": 1.0, "flip": 0.0, "size": 1.0, **dict.fromkeys(PLACES, 0.0)}


def _constants(view: Tensor) -> dict[str, float]:
    """The draws that are the same in all rows of a view of the test card, and their value."""
    draws = _parts(view).draws
    # A place is known less well the less room there is for it.
    limits = {name: 0.01 if name in PLACES else VISIBLE for name in draws}
    return {
        name: float(draw.nanmean())
        for name, draw in draws.items()
        if not draw.isnan().all() and _spread(draw) < limits[name]
    }


def _spread(part: Tensor) -> float:
    """The standard deviation of the rows where it is known."""
    part = part[part.isfinite()]
    return float(part.std()) if len(part) > 1 else 0.0


def _test_rows(case: Case, first: Tensor, second: Tensor) -> Failure | None:
    images = case.arguments["images"]
    for name, view in (("first", first), ("second", second)):
        for row, image in _moved_rows(images, view).items():
            return Failure(
                f"row {row} of the {name} view from image {row}", f"it comes from image {image}"
            )
    return None


def _moved_rows(images: Tensor, view: Tensor) -> dict[int, int]:
    """Which rows of a view of flat images have the colour of another image -> which."""
    colours, found = images.mean(dim=(2, 3)), view.mean(dim=(2, 3))
    moved = {}
    for row, colour in enumerate(found):
        if _comes_from(colour, colours[row]):
            continue
        others = [image for image, given in enumerate(colours) if _comes_from(colour, given)]
        if others:
            moved[row] = others[0]
    return moved


def _comes_from(found: Tensor, colour: Tensor) -> bool:
    """Whether a colour (3,) is another one times a factor, cut off at 1."""
    darkest = colour.argmin()
    brightened = (colour * found[darkest] / colour[darkest]).clamp(max=1)
    return bool((found - brightened).abs().max() < VISIBLE)


def _test_brightness(case: Case, first: Tensor, second: Tensor) -> Failure | None:
    for name, view in (("first", first), ("second", second)):
        draws = _parts(view).draws
        factors, where = draws.pop("brightness"), f"in the {name} view"
        low, high, mean = float(factors.min()), float(factors.max()), float(factors.mean())
        # Of 200 uniform factors none is below 0.75 once in 10^11, and none above 1.25. They have
        # a standard deviation of 0.23, and its square one of 0.0034.
        full = 0.59 < low < 0.75 and 1.25 < high < 1.41 and 0.18 < _spread(factors) < 0.28
        if not full or abs(mean - 1) > SIGMAS * 0.23 / math.sqrt(len(factors)):
            spread = f"mean {number(mean)}, standard deviation {number(_spread(factors))}"
            return Failure(
                "factors from 0.6 to 1.4, mean 1, standard deviation 0.23",
                f"{_range(factors)}, {spread} {where}",
            )
        if case.kind == BRIGHT_CARD:
            failure = _test_channels(view, factors)
        else:
            others = {other: draws[other] for other in ("flip", "size", *PLACES)}
            failure = _test_own_number("brightness", factors, others, draws["flip"])
        if failure:
            return Failure(failure.expected, f"{failure.got} {where}")
    return None


def _test_channels(view: Tensor, factors: Tensor) -> Failure | None:
    """Whether the blue of the bright card got the factor of its green, cut off at 1."""
    blue, wanted = view[:, 2].double().mean(dim=(1, 2)), (BRIGHT * factors).clamp(max=1)
    row = int((blue - wanted).abs().argmax())
    if abs(blue[row] - wanted[row]) < VISIBLE:
        return None
    green = f"where the green of {FLAT} becomes {number(FLAT * factors[row])}"
    return Failure(f"the blue of {BRIGHT} becomes {number(wanted[row])} {green}", number(blue[row]))


def _test_own_number(
    name: str, draw: Tensor, others: dict[str, Tensor], mirrored: Tensor
) -> Failure | None:
    """Whether a draw tells nothing of others of the same view, nor varies with the flip."""
    for other, numbers in others.items():
        found = _correlation(draw, numbers)
        if abs(found) > SIGMAS / math.sqrt(len(draw)):
            wanted = f"{name} and {other} from two numbers"
            return Failure(wanted, f"a correlation of {number(found)}")
    # The variance of 100 uniform numbers is within 54 % of the right one.
    spreads = [_spread(draw[mirrored == side]) for side in (0, 1)]
    if 0 < mirrored.mean() < 1 and min(spreads) < 0.5 * max(spreads):
        wanted = f"the same {name} for mirrored images and others"
        return Failure(wanted, "a standard deviation of {:.2g} and {:.2g}".format(*spreads[::-1]))
    return None


def _test_crop_and_flip(case: Case, first: Tensor, second: Tensor) -> Failure | None:
    pixel = 1 / min(first.shape[2:])
    for name, view in (("first", first), ("second", second)):
        parts = _parts(view)
        failure = (
            _test_flip(parts)
            or _test_inside(parts, pixel)
            or _test_sizes(parts, pixel)
            or _test_places(parts)
            or _test_numbers(parts)
        )
        if failure:
            return Failure(failure.expected, f"{failure.got} in the {name} view")
    return None


def _test_flip(parts: Parts) -> Failure | None:
    share, turned = float(parts.mirrored.mean()), float(parts.upside_down.mean())
    if turned > 0:
        return Failure("no image upside down", f"{100 * turned:.0f} %")
    if abs(share - 0.5) > SIGMAS * 0.5 / math.sqrt(len(parts.mirrored)):
        return Failure("half of the images mirrored left to right", f"{100 * share:.0f} %")
    return None


def _test_sizes(parts: Parts, pixel: float) -> Failure | None:
    """Sizes from 0.6 to 1; a window rounded down to whole pixels may seem a pixel smaller."""
    border = SIGMAS * 0.1155 / math.sqrt(len(parts.width))  # of a mean of uniform sizes
    for sizes in (parts.width, parts.height):
        low, high, mean = float(sizes.min()), float(sizes.max()), float(sizes.mean())
        inside = 0.6 - 1.5 * pixel < low and high < 1 + pixel
        if (
            not inside
            or not -border - pixel < mean - 0.8 < border
            or not 0.08 < _spread(sizes) < 0.16
        ):
            got = f"{_range(sizes)}, mean {number(mean)}, standard deviation "
            return Failure(
                "sizes from 0.6 to 1, mean 0.8, standard deviation 0.12",
                got + number(_spread(sizes)),
            )
    return None


def _test_inside(parts: Parts, pixel: float) -> Failure | None:
    """Windows inside the image, to a pixel; a few are measured badly where pixels were repeated."""
    for centre, length in ((parts.right, parts.width), (parts.down, parts.height)):
        beyond = (centre - 0.5).abs() - (1 - length) / 2
        share = float((beyond > pixel).double().mean())
        if share > 0.05:
            return Failure("windows inside the image", f"{100 * share:.0f} % reach beyond it")
    return None


def _test_places(parts: Parts) -> Failure | None:
    """Places uniform from -1 to 1 where there is room: mean 0, standard deviation 0.58."""
    for name in PLACES:
        place = parts.draws[name]
        place = place[place.isfinite()]
        # In windows of whole pixels few places have some room, so they vary a little more.
        border = SIGMAS * 0.75 / math.sqrt(max(len(place), 1))
        if abs(float(place.mean())) > border or _spread(place) < 0.42:
            mean, spread = number(place.mean()), number(_spread(place))
            return Failure(
                f"a {name} evenly over where the window fits (-1 to 1: mean 0, standard "
                "deviation 0.58)",
                f"mean {mean}, standard deviation {spread}",
            )
    return None


def _test_numbers(parts: Parts) -> Failure | None:
    """Whether size, place and flip come from four numbers."""
    draws = parts.draws
    right, down = (draws[name] for name in PLACES)
    return (
        _test_own_number("size", draws["size"], {"flip": parts.mirrored}, parts.mirrored)
        or _test_own_number(
            PLACES[0], right, {"flip": parts.mirrored, "size": parts.width}, parts.mirrored
        )
        or _test_own_number(
            PLACES[1],
            down,
            {"flip": parts.mirrored, "size": parts.height, PLACES[0]: right},
            parts.mirrored,
        )
        # Whoever mirrors first, and then cuts, has right and left exchanged in half of the rows.
        or _test_own_number(PLACES[1], down.abs(), {PLACES[0]: right.abs()}, parts.mirrored)
    )


def _range(part: Tensor) -> str:
    return f"{number(part.min())} to {number(part.max())}"


two_views = Exercise(
    name="two_views",
    reference=augmentations.two_simple_views,
    cases=_views_cases,
    hidden_cases=_hidden_views_cases,
    properties=(
        _about_views("shape", 0.5, _test_form, ("ordinary",)),
        unchanged_inputs(0.5, kinds=IMAGE_KINDS),
        _about_views("two views", 0.5, _test_two, ("ordinary", "transposed", "one image")),
        _about_views("independent views", 0.5, _test_independent, CARDS),
        _about_views("a draw for each image", 0.5, _test_own_draws, CARDS),
        _about_views("rows", 0.5, _test_rows, ("flat images",)),
        _about_views("range", 0.5, _test_range, ("ordinary", "one image", "transposed")),
        _about_views("brightness", 0.5, _test_brightness, (BRIGHT_CARD, *CARDS)),
        _about_views("crop and flip", 0.5, _test_crop_and_flip, CARDS),
        own_generator(0.5, kinds=("ordinary", TWO_CALLS)),
    ),
    observe=observe_call,
)


def _views_of(case: Case, seen: Observation) -> list[tuple[Tensor, Tensor]]:
    """The two views of each call in a case; none where they are not two tensors like the images."""
    calls = seen.output if case.kind == TWO_CALLS else [seen.output]
    if seen.error or any(_wrong_form(case.arguments["images"], views) for views in calls):
        return []
    return [tuple(views) for views in calls]


def _views_mistake(sentence: str, why: str, look_at: str, when: Callable, fails: str = ""):
    """A mistake that shows in the views of some case: when(case, first view, second view)."""

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        return any(
            when(case, *views)
            for case, seen in zip(cases, observations, strict=True)
            if case.kind != TWO_CALLS
            for views in _views_of(case, seen)
        )

    return two_views.mistake(sentence, why, look_at, recognise, fails)


def cut(images, size, right, down):
    """As in the notebook: a window of each image, stretched to the whole size."""
    zero = torch.zeros_like(size)
    rows = [torch.stack([size, zero, right], 1), torch.stack([zero, size, down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@two_views.mistake(
    "it changes the images it was given",
    why="the second view is then made from the first one, and the next epoch from both.",
    look_at="which lines write into images, or into something that shares its memory?",
    recognise=lambda cases, observations: any(seen.changed for seen in observations),
    fails="inputs left alone",
)
def changes_its_images(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        size = 0.6 + 0.4 * uniform[0]
        images *= (0.6 + 0.8 * uniform[4])[:, None, None, None]
        view = cut(images, size, *(1 - size) * (2 * uniform[1:3] - 1)).clamp(0, 1)
        views.append(torch.where((uniform[3] < 0.5)[:, None, None, None], view.flip(3), view))
    return tuple(views)


@_views_mistake(
    "both views of an image are the same view",
    why="the network would have nothing to learn: it cannot but give both the same embedding.",
    look_at="how often is each random number drawn: once, or once for either view?",
    when=lambda case, first, second: (
        case.kind == "ordinary" and _alike(first, second) == len(first)
    ),
    fails="two views",
)
def same_view_twice(images, generator):
    uniform = torch.rand(5, len(images), generator=generator)
    size = 0.6 + 0.4 * uniform[0]
    view = cut(images, size, *(1 - size) * (2 * uniform[1:3] - 1))
    view = torch.where((uniform[3] < 0.5)[:, None, None, None], view.flip(3), view)
    view = (view * (0.6 + 0.8 * uniform[4])[:, None, None, None]).clamp(0, 1)
    return view, view


@_views_mistake(
    "one of the two views is the image itself",
    why="SimCLR asks for two augmented views: with the image itself in every pair, the network "
    "never has to match two crops with one another.",
    look_at="what was done to each of the two tensors that you return?",
    when=lambda case, first, second: (
        case.kind in CARDS
        and any(torch.equal(view, case.arguments["images"]) for view in (first, second))
    ),
    fails="two views",
)
def leaves_one_view_alone(images, generator):
    uniform = torch.rand(5, len(images), generator=generator)
    size = 0.6 + 0.4 * uniform[0]
    view = cut(images, size, *(1 - size) * (2 * uniform[1:3] - 1))
    view = torch.where((uniform[3] < 0.5)[:, None, None, None], view.flip(3), view)
    view = (view * (0.6 + 0.8 * uniform[4])[:, None, None, None]).clamp(0, 1)
    return images.clone(), view


@_views_mistake(
    "one view is made from the other one",
    why="the second view shares the first one's crop and brightness, and changes them twice as "
    "much; the two should be equally far from the image.",
    look_at="from which tensor does the second view start?",
    when=lambda case, first, second: case.kind in CARDS and _one_is_further(first, second),
    fails="independent views",
)
def augments_the_first_view_again(images, generator):
    views = [images]
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        size = 0.6 + 0.4 * uniform[0]
        view = cut(views[-1], size, *(1 - size) * (2 * uniform[1:3] - 1))
        view = torch.where((uniform[3] < 0.5)[:, None, None, None], view.flip(3), view)
        views.append((view * (0.6 + 0.8 * uniform[4])[:, None, None, None]).clamp(0, 1))
    return views[1], views[2]


def _one_is_further(first: Tensor, second: Tensor) -> bool:
    """Whether brightness varies more in one view, and goes along with the other view's."""
    one, other = _parts(first).brightness, _parts(second).brightness
    lower, upper = sorted([_spread(one), _spread(other)])
    return lower > VISIBLE and upper > 1.15 * lower and _correlation(one, other) > 0.4


@_views_mistake(
    "the two views share a draw",
    why="what both views have in common the network need not learn to see through.",
    look_at="which random numbers are drawn before the two views part ways?",
    when=lambda case, first, second: case.kind in CARDS and _share_a_draw(first, second),
    fails="independent views",
)
def crops_once_for_both(images, generator):
    uniform = torch.rand(3, len(images), generator=generator)
    size = 0.6 + 0.4 * uniform[0]
    crops = cut(images, size, *(1 - size) * (2 * uniform[1:3] - 1))
    views = []
    for _ in range(2):
        mirrored, factor = torch.rand(2, len(images), generator=generator)
        view = torch.where((mirrored < 0.5)[:, None, None, None], crops.flip(3), crops)
        views.append((view * (0.6 + 0.8 * factor)[:, None, None, None]).clamp(0, 1))
    return tuple(views)


def _share_a_draw(first: Tensor, second: Tensor) -> bool:
    one, other = _parts(first).draws.values(), _parts(second).draws.values()
    return any(abs(_correlation(left, right)) > 0.9 for left, right in product(one, other))


def _constants_of_calls(
    cases: Sequence[Case], observations: Sequence[Observation]
) -> list[list[dict[str, float]]]:
    """For the first and for the second view: the constants of each call with test cards."""
    calls = [
        [_constants(view) for view in views]
        for case, seen in zip(cases, observations, strict=True)
        if case.kind in (*CARDS, FEW_CARDS, TWO_CALLS)
        for views in _views_of(case, seen)
    ]
    return [list(constants) for constants in zip(*calls, strict=True)]


def _one_draw_a_call(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    """Whether something is the same in all rows of a view, but not in all calls."""
    for calls in _constants_of_calls(cases, observations):
        for draw in UNCHANGED:
            found = [call[draw] for call in calls if draw in call]
            if len(found) == len(calls) and max(found) - min(found) > 0.02:
                return True
    return False


@two_views.mistake(
    "the images of a batch share a draw",
    why="what all images share tells none of them from the others: darken all alike, and the "
    "brightest stays the brightest, so the network need not overlook brightness.",
    look_at="how many numbers does each of your draws give: one, or one for every image?",
    recognise=_one_draw_a_call,
)
def one_draw_for_the_batch(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, generator=generator)
        size = (0.6 + 0.4 * uniform[0]).expand(len(images))
        view = cut(images, size, *(1 - size) * (2 * uniform[1:3, None] - 1))
        if uniform[3] < 0.5:
            view = view.flip(3)
        views.append((view * (0.6 + 0.8 * uniform[4])).clamp(0, 1))
    return tuple(views)


@two_views.mistake(
    "a view has all of its images mirrored, not half of them",
    why="the network would learn from one side of things only, and left from right by which view "
    "it is.",
    look_at="how does your code choose the images to mirror, and how many of 200 does it choose?",
    recognise=lambda cases, observations: any(
        all(call.get("flip") == 1 for call in calls)
        for calls in _constants_of_calls(cases, observations)
    ),
)
def mirrors_every_image(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        size = 0.6 + 0.4 * uniform[0]
        view = cut(images, size, *(1 - size) * (2 * uniform[1:3] - 1)).flip(3)
        views.append((view * (0.6 + 0.8 * uniform[4])[:, None, None, None]).clamp(0, 1))
    return tuple(views)


@_views_mistake(
    "the rows are mixed up: a row of the two views comes from two images",
    why="row i of both views is taken for a pair, so the network would learn to pull different "
    "images together.",
    look_at="does anything move images along dimension 0, such as flip, roll, cat or reshape?",
    when=lambda case, first, second: (
        case.kind == "flat images"
        and any(_moved_rows(case.arguments["images"], view) for view in (first, second))
    ),
    fails="rows",
)
def mixes_up_the_rows(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        size = 0.6 + 0.4 * uniform[0]
        view = cut(images, size, *(1 - size) * (2 * uniform[1:3] - 1))
        view = torch.where((uniform[3] < 0.5)[:, None, None, None], view.flip(3), view)
        views.append((view * (0.6 + 0.8 * uniform[4])[:, None, None, None]).clamp(0, 1))
    return tuple(torch.stack(views, dim=1).flatten(0, 1).chunk(2))


@_views_mistake(
    "red and blue are exchanged where an image should be mirrored",
    why="a red ball would count as another view of a blue one, so the network would have to "
    "overlook colours.",
    look_at="images have the shape (N, 3, H, W). Which dimension runs from left to right, and what "
    "runs along dimension 1?",
    when=lambda case, first, second: (
        case.kind == "flat images"
        and any(_exchanged_colours(case.arguments["images"], view) for view in (first, second))
    ),
)
def exchanges_colours(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        size = 0.6 + 0.4 * uniform[0]
        view = cut(images, size, *(1 - size) * (2 * uniform[1:3] - 1))
        view = torch.where((uniform[3] < 0.5)[:, None, None, None], view.flip(1), view)
        views.append((view * (0.6 + 0.8 * uniform[4])[:, None, None, None]).clamp(0, 1))
    return tuple(views)


def _exchanged_colours(images: Tensor, view: Tensor) -> bool:
    """Whether a row of a view of flat images has its own colour with red and blue exchanged."""
    pairs = zip(view.mean(dim=(2, 3)), images.mean(dim=(2, 3)), strict=True)
    return any(
        _comes_from(found, colour.flip(0)) and not _comes_from(found, colour)
        for found, colour in pairs
    )


@_views_mistake(
    "pixels leave the range from 0 to 1",
    why="what comes next (a display, another augmentation, a normalisation) counts on it.",
    look_at="how large can a pixel of 0.9 become, and what keeps it below 1?",
    when=lambda case, first, second: _test_range(case, first, second) is not None,
    fails="range",
)
def leaves_the_range(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        size = 0.6 + 0.4 * uniform[0]
        view = cut(images, size, *(1 - size) * (2 * uniform[1:3] - 1))
        view = torch.where((uniform[3] < 0.5)[:, None, None, None], view.flip(3), view)
        views.append(view * (0.6 + 0.8 * uniform[4])[:, None, None, None])
    return tuple(views)


@_views_mistake(
    "images are turned upside down, not mirrored left to right",
    why="photos come in both left-right versions; upside down is a view that no photo shows.",
    look_at="images have the shape (N, 3, H, W). Which dimension runs from left to right?",
    when=lambda case, first, second: (
        case.kind in CARDS and float(_parts(first).upside_down.mean()) > 0.2
    ),
    fails="crop and flip",
)
def flips_upside_down(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        size = 0.6 + 0.4 * uniform[0]
        view = cut(images, size, *(1 - size) * (2 * uniform[1:3] - 1))
        view = torch.where((uniform[3] < 0.5)[:, None, None, None], view.flip(2), view)
        views.append((view * (0.6 + 0.8 * uniform[4])[:, None, None, None]).clamp(0, 1))
    return tuple(views)


@_views_mistake(
    "one of the three changes never happens",
    why="position, side and brightness are what this augmentation should make the network "
    "overlook; what never changes it will go by.",
    look_at="take one image many times: do crop, flip and brightness each differ among its views?",
    when=lambda case, first, second: (
        case.kind in CARDS and any(_lacks_a_change(view) for view in (first, second))
    ),
)
def forgets_a_change(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(4, len(images), generator=generator)
        size = 0.6 + 0.4 * uniform[0]
        view = cut(images, size, *(1 - size) * (2 * uniform[1:3] - 1))
        views.append((view * (0.6 + 0.8 * uniform[3])[:, None, None, None]).clamp(0, 1))
    return tuple(views)


def _lacks_a_change(view: Tensor) -> bool:
    parts = _parts(view)
    if float(parts.width.min()) < UNCLEAR:
        return False
    never = [parts.brightness - 1, parts.mirrored + parts.upside_down, parts.width - 1]
    return any(float(part.abs().max()) < VISIBLE for part in never)


@_views_mistake(
    "mirrored images and the others are not treated alike: one sort misses the crop, or the "
    "brightness",
    why="half of the images are then augmented less than you mean them to be, and the flip gives "
    "away which.",
    look_at="torch.where takes each row from one of two tensors. What has been done to the one, "
    "and what to the other?",
    when=lambda case, first, second: (
        case.kind in CARDS and any(_lacks_on_one_side(view) for view in (first, second))
    ),
)
def mirrors_or_crops(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        size = 0.6 + 0.4 * uniform[0]
        view = cut(images, size, *(1 - size) * (2 * uniform[1:3] - 1))
        view = torch.where((uniform[3] < 0.5)[:, None, None, None], view.flip(3), images)
        views.append((view * (0.6 + 0.8 * uniform[4])[:, None, None, None]).clamp(0, 1))
    return tuple(views)


def _lacks_on_one_side(view: Tensor) -> bool:
    """Whether the crop or the brightness never happens to mirrored images, or to the others."""
    parts = _parts(view)
    sides = [parts.mirrored == side for side in (0, 1)]
    if min(int(side.sum()) for side in sides) < 10:
        return False
    for change in (parts.brightness - 1, parts.width - 1):
        largest = sorted(float(change[side].abs().max()) for side in sides)
        if largest[0] < VISIBLE and largest[1] > 0.1:
            return True
    return False


@_views_mistake(
    "windows reach beyond the edge of the image",
    why="what lies beyond is no picture: the pixels at the edge are repeated there, as stripes.",
    look_at="how far may the centre of a window of size 0.9 move, and how far does yours?",
    when=lambda case, first, second: (
        case.kind in CARDS and any(_leaves_the_image(view) for view in (first, second))
    ),
    fails="crop and flip",
)
def leaves_the_image(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        size = 0.6 + 0.4 * uniform[0]
        view = cut(images, size, *(2 * uniform[1:3] - 1))
        view = torch.where((uniform[3] < 0.5)[:, None, None, None], view.flip(3), view)
        views.append((view * (0.6 + 0.8 * uniform[4])[:, None, None, None]).clamp(0, 1))
    return tuple(views)


def _leaves_the_image(view: Tensor) -> bool:
    return _test_inside(_parts(view), 1 / min(view.shape[2:])) is not None


@_views_mistake(
    "one random number decides two things of a view",
    why="the two always come together then: of all combinations of size, place, side and "
    "brightness, most are never seen.",
    look_at="count the things that are decided for a view of an image, and the numbers drawn.",
    when=lambda case, first, second: (
        case.kind in CARDS and any(_reuses_a_number(view) for view in (first, second))
    ),
)
def reuses_a_number(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(4, len(images), generator=generator)
        size = 0.6 + 0.4 * uniform[0]
        place = (1 - size) * (2 * uniform[1] - 1)
        view = cut(images, size, place, place)
        view = torch.where((uniform[2] < 0.5)[:, None, None, None], view.flip(3), view)
        views.append((view * (0.6 + 0.8 * uniform[3])[:, None, None, None]).clamp(0, 1))
    return tuple(views)


def _reuses_a_number(view: Tensor) -> bool:
    draws = _parts(view).draws
    if not 0.5 < draws["brightness"].min() <= draws["brightness"].max() < 1.5:
        return False  # something else than a factor, so that the rest is measured badly
    pairs = [*combinations(draws.values(), 2), tuple(draws[name].abs() for name in PLACES)]
    return any(abs(_correlation(left, right)) > 0.8 for left, right in pairs)


@_views_mistake(
    "windows are not spread evenly over the places where they fit",
    why="what lies near some edges is seen less often than the rest, or never.",
    look_at="between which two numbers does the centre of a window of size 0.6 lie, and which "
    "values does yours take?",
    when=lambda case, first, second: (
        case.kind in CARDS
        and any(_test_places(_parts(view)) is not None for view in (first, second))
    ),
    fails="crop and flip",
)
def prefers_some_places(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        size = 0.6 + 0.4 * uniform[0]
        view = cut(images, size, *(1 - size) * uniform[1:3])
        view = torch.where((uniform[3] < 0.5)[:, None, None, None], view.flip(3), view)
        views.append((view * (0.6 + 0.8 * uniform[4])[:, None, None, None]).clamp(0, 1))
    return tuple(views)


@two_views.mistake(
    "not all chance comes from the generator",
    why="two people who use the same seed should get the same views, and so should you after a "
    "restart.",
    look_at="which of your draws does not get the generator?",
    recognise=lambda cases, observations: any(
        seen.used_global_random or not same(seen.output, seen.again)
        for seen in observations
        if not seen.error
    ),
    fails="the generator decides",
)
def ignores_the_generator(images, generator):
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images))
        size = 0.6 + 0.4 * uniform[0]
        view = cut(images, size, *(1 - size) * (2 * uniform[1:3] - 1))
        view = torch.where((uniform[3] < 0.5)[:, None, None, None], view.flip(3), view)
        views.append((view * (0.6 + 0.8 * uniform[4])[:, None, None, None]).clamp(0, 1))
    return tuple(views)


@two_views.mistake(
    "every call draws the same numbers: the generator is set back, or another one is used",
    why="an image would look the same in every epoch; a generator that is used goes on by itself.",
    look_at="is there a seed, a state or a generator of its own in your function? What should a "
    "second call with the same generator give?",
    recognise=lambda cases, observations: any(
        case.kind == TWO_CALLS and not seen.error and same(*seen.output)
        for case, seen in zip(cases, observations, strict=True)
    ),
    fails="the generator decides",
)
def repeats_its_draws(images, generator):
    generator.manual_seed(0)
    views = []
    for _ in range(2):
        uniform = torch.rand(5, len(images), generator=generator)
        size = 0.6 + 0.4 * uniform[0]
        view = cut(images, size, *(1 - size) * (2 * uniform[1:3] - 1))
        view = torch.where((uniform[3] < 0.5)[:, None, None, None], view.flip(3), view)
        views.append((view * (0.6 + 0.8 * uniform[4])[:, None, None, None]).clamp(0, 1))
    return tuple(views)


# The two losses.


def _learns(seen: Observation, name: str) -> bool:
    """Whether a gradient other than 0 reaches this argument."""
    found = (seen.gradients or {}).get(name)
    return found is not None and bool(found.any())


def _loss_with_gradient(points: float, leads: tuple[str, ...]) -> Property:
    """The result is a number through which the gradient reaches one of these arguments."""

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        wanted, got = describe(expected.output), describe(observed.output)
        if wanted != got:
            return Failure(wanted, got)
        if not any(_learns(observed, name) for name in leads):
            return Failure("a number with a gradient", f"no gradient reaches {' or '.join(leads)}")
        return None

    return Property("shape", points, test, kinds=("ordinary",))


def gives_one_of(*losses: Callable) -> Callable:
    """Recognises an answer that gives what one of these does on all ordinary cases."""

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        pairs = [
            (case.arguments.values(), seen)
            for case, seen in zip(cases, observations, strict=True)
            if case.kind == "ordinary"
        ]
        if any(seen.error for _, seen in pairs):
            return False
        return any(
            all(same(seen.output, plain(loss(*given)), **CLOSE) for given, seen in pairs)
            for loss in losses
        )

    return recognise


def _infinite_or_cut_off(seen: Observation, wanted: float) -> bool:
    """Whether a sum or a probability ran out of range.

    A probability kept above 1e-12 costs 28 at most, where up to 198 is wanted; most clamps of the
    logits leave more.
    """
    got = float(seen.output)
    return not math.isfinite(got) or got < 0.25 * wanted


def clamped_like(loss: Callable) -> Callable:
    """Recognises a loss with a limit, by what it gives in the cold cases.

    loss: (*arguments of the case, largest logit) -> value.
    """
    # (smallest temperature, largest logit), of which one is no limit.
    limits = [(floor, math.inf) for floor in (0.015, *(0.01 * i for i in range(2, 11)))]
    limits += [(0.0, top) for top in (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 88.0)]

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        cold = [
            (list(case.arguments.values()), seen.output)
            for case, seen in zip(cases, observations, strict=True)
            if case.kind == "cold"
        ]
        return any(
            all(
                same(output, plain(loss(*vectors, max(temperature, floor), top)), 1e-3, 1e-4)
                for (*vectors, temperature), output in cold
            )
            for floor, top in limits
        )

    return recognise


def stops_with(*words: str, only: str = "") -> Callable:
    """Recognises an answer that stops with one of these words in the error.

    only: the kind of case in which it stops, and nowhere else; in all ordinary cases when empty.
    """

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        if not only:
            errors = [
                seen.error
                for case, seen in zip(cases, observations, strict=True)
                if case.kind == "ordinary"
            ]
        else:
            stopped = [
                (case.kind, seen.error)
                for case, seen in zip(cases, observations, strict=True)
                if seen.error
            ]
            errors = [error if kind == only else "" for kind, error in stopped]
        return bool(errors) and all(any(word in error for word in words) for error in errors)

    return recognise


def _xent_case(kind: str, z1: Tensor, z2: Tensor, temperature: float, text: str = "") -> Case:
    arguments = {"z1": z1, "z2": z2, "temperature": temperature}
    differentiate = ("z1", "z2") if kind in ("ordinary", "lengths", "transposed") else ()
    return Case(kind, arguments, differentiate, text)


def _pairs_of_vectors(generator, count: int, width: int) -> tuple[Tensor, Tensor]:
    """Two views that have something in common, (N, d) each."""
    common = _normal(generator, count, width)
    noise = _normal(generator, 2, count, width)
    return common + 0.7 * noise[0], common + 0.7 * noise[1]


def _extreme_pairs(generator, count: int, width: int) -> tuple[Tensor, Tensor]:
    """Pairs nearly alike, but the first, which are opposite and beside somebody else.

    With temperature 0.01 a similarity of 0.98 is exp(98), and one of -1 against it exp(-198):
    too large and too small for float32.
    """
    z1 = _normal(generator, count, width)
    z2 = z1 + 0.05 * _normal(generator, count, width)
    z1[1] = z1[0] + 0.05 * _normal(generator, width)
    return z1, torch.cat([-z2[:1], z2[1:]])


def _xent_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    few, several, width = _sizes(generator, 3, 6, 8)
    half = [z.half() for z in _pairs_of_vectors(generator, several, width)]
    shape = (several, width)
    return [
        _xent_case("ordinary", *_pairs_of_vectors(generator, few, width), 0.5),
        _xent_case("ordinary", *_pairs_of_vectors(generator, several, width), 0.2),
        _xent_case("cold", *_extreme_pairs(generator, several, width), 0.01),
        _xent_case("half", *half, 0.5, f"z1, z2 in float16 of shape {shape}, temperature 0.5"),
    ]


def _hidden_xent_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    several, many, width = _sizes(generator, 5, 24, 12)
    lengths = 10 ** (4 * torch.rand(2, several, 1, generator=generator) - 2)
    long = [
        z * length
        for z, length in zip(_pairs_of_vectors(generator, several, width), lengths, strict=True)
    ]
    columns = [z.T.contiguous().T for z in _pairs_of_vectors(generator, several, width)]
    double = [z.double() for z in _pairs_of_vectors(generator, many, width)]
    brain = [z.bfloat16() for z in _pairs_of_vectors(generator, several, width)]
    rows = [_long_rows(z) for z in _pairs_of_vectors(generator, several, width)]
    return [
        _xent_case("one pair", *_pairs_of_vectors(generator, 1, width), 0.5),
        _xent_case("lengths", *long, 0.3),
        _xent_case("transposed", *columns, 1.0),
        _xent_case("float64", *double, 0.1),
        _xent_case("cold", *_extreme_pairs(generator, many, width), 0.01),
        _xent_case("half", *brain, 0.3),
        _xent_case("half", *rows, 0.5),
    ]


def _long_rows(vectors: Tensor) -> Tensor:
    """The same directions in float16, with a length whose square is too large for it."""
    return (500 * F.normalize(vectors, dim=1)).half()


# float16 has a relative precision of 1/2048 and bfloat16 of 1/256; similarities are divided by 0.3
# and more, so an answer that stays in bfloat16 is off by a few hundredths, and right all the same.
HALF = {"rtol": 0.03, "atol": 0.03}
ORDINARY = ("ordinary", "lengths", "transposed")
COLD = "small temperature"

nt_xent = Exercise(
    name="nt_xent",
    reference=contrastive.nt_xent,
    cases=_xent_cases,
    hidden_cases=_hidden_xent_cases,
    properties=(
        _loss_with_gradient(0.5, ("z1", "z2")),
        value(2, kinds=(*ORDINARY, "one pair", "float64"), **CLOSE),
        gradient(0.5, kinds=ORDINARY),
        unchanged_inputs(0.5, kinds=ORDINARY),
        value(1, kinds=("cold",), name=COLD, rtol=1e-3),
        value(0.5, kinds=("half",), name="half precision", **HALF),
    ),
    observe=observe_call,
)

INTO_PLACE = (
    "it normalises its inputs in place",
    "the embeddings are needed as they were: autograd refuses to overwrite them, and the caller "
    "would find other numbers in them.",
    "which operations end in an underscore, or in an assignment such as /= ?",
)


@nt_xent.mistake(*INTO_PLACE, recognise=stops_with("in-place"))
def normalises_in_place(z1, z2, temperature):
    z1 /= z1.norm(dim=1, keepdim=True)
    z2 /= z2.norm(dim=1, keepdim=True)
    z = torch.cat([z1, z2])
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


@nt_xent.mistake(
    "a view still competes with itself",
    why="sim(z_i, z_i) = 1 is the largest entry of its row, so it drowns the negatives.",
    look_at="which entry of row i of the (2N, 2N) matrix is not a candidate?",
)
def keeps_self_similarity(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    return F.cross_entropy(z @ z.T / temperature, torch.arange(len(z)).roll(len(z1)))


def _masks_with(entry: float) -> Callable:
    """NT-Xent where a view's similarity with itself is replaced, before the division."""

    def loss(z1, z2, temperature):
        z = F.normalize(torch.cat([z1, z2]), dim=1)
        similarities = (z @ z.T).fill_diagonal_(entry)
        return F.cross_entropy(similarities / temperature, torch.arange(len(z)).roll(len(z1)))

    return loss


@nt_xent.mistake(
    "a view's similarity with itself is set to a number, and the number still counts",
    why="a masked similarity of 0 leaves exp(0) = 1 in the denominator, as one more negative.",
    look_at="what is the exponential of the number that you put on the diagonal?",
    recognise=gives_one_of(_masks_with(0.0), _masks_with(-1.0)),
)
def masks_with_zero(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = z @ z.T * (1 - torch.eye(len(z)))
    return F.cross_entropy(similarities / temperature, torch.arange(len(z)).roll(len(z1)))


@nt_xent.mistake(
    "the embeddings are not normalised",
    why="without it the loss falls when vectors just grow longer, and nothing is learned by that.",
    look_at="sim is the cosine. What is missing between the inner product and the cosine?",
)
def no_normalisation(z1, z2, temperature):
    z = torch.cat([z1, z2])
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def _normalises_views_down(z1, z2, temperature):
    z = torch.cat([F.normalize(z1, dim=0), F.normalize(z2, dim=0)])
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def _normalises_all_down(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=0)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


@nt_xent.mistake(
    "columns have length 1 where rows should",
    why="an embedding is a row; normalised by columns, its length still depends on the image.",
    look_at="over which dimension is the length taken, and how many lengths are there?",
    recognise=gives_one_of(_normalises_views_down, _normalises_all_down),
)
def normalises_columns(z1, z2, temperature):
    z = torch.cat([z1, z2])
    z = z / z.norm(dim=0)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


@nt_xent.mistake(
    "only the first views are asked for their partner",
    why="every one of the 2N views has a loss l_i; the mean goes over all of them.",
    look_at="how many rows go into your mean?",
    recognise=gives_one_of(
        lambda z1, z2, temperature: one_direction_only(z1, z2, temperature),
        lambda z1, z2, temperature: one_direction_only(z2, z1, temperature),
    ),
)
def one_direction_only(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits[: len(z1)], torch.arange(len(z1)) + len(z1))


def _across_one_way(z1, z2, temperature):
    logits = F.normalize(z1, dim=1) @ F.normalize(z2, dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(z1)))


def _across_the_other_way(z1, z2, temperature):
    return _across_one_way(z2, z1, temperature)


@nt_xent.mistake(
    "only views of the other kind are candidates",
    why="a row then has N candidates; NT-Xent has 2N - 1: all other views, of both kinds. (The "
    "loss of CLIP is the one you wrote.)",
    look_at="how many candidates does one row of your matrix have?",
    recognise=gives_one_of(
        _across_one_way, _across_the_other_way, lambda *given: cross_view_negatives_only(*given)
    ),
)
def cross_view_negatives_only(z1, z2, temperature):
    logits = F.normalize(z1, dim=1) @ F.normalize(z2, dim=1).T / temperature
    labels = torch.arange(len(z1))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@nt_xent.mistake(
    "similarities are multiplied by the temperature",
    why="a small temperature should sharpen the softmax; this flattens it.",
    look_at="a cosine of 0.9 at temperature 0.1: is the logit 9, or 0.09?",
)
def multiplies_by_temperature(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T * temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def _cools_the_positive_only(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    similarities = (z @ z.T).fill_diagonal_(-torch.inf)
    positives = F.cosine_similarity(z1, z2).repeat(2) / temperature
    return (similarities.logsumexp(dim=1) - positives).mean()


def _cools_the_candidates_only(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return (logits.logsumexp(dim=1) - F.cosine_similarity(z1, z2).repeat(2)).mean()


@nt_xent.mistake(
    "the temperature is missing, everywhere or in one of the two places",
    why="cosines reach from -1 to 1 only: their softmax is nearly flat, whatever is learned.",
    look_at="where does temperature come into the numerator, and where into the denominator?",
    recognise=gives_one_of(
        _cools_the_positive_only,
        _cools_the_candidates_only,
        lambda *given: forgets_the_temperature(*given),
    ),
)
def forgets_the_temperature(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def _partner_is(partner: Callable) -> Callable:
    """NT-Xent with another row as the positive of row i: partner(i, N) -> row."""

    def loss(z1, z2, temperature):
        z = F.normalize(torch.cat([z1, z2]), dim=1)
        logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
        partners = [partner(i, len(z1)) % len(z) for i in range(len(z))]
        return F.cross_entropy(logits, torch.tensor(partners))

    return loss


def _without_the_diagonal(z1, z2, temperature):
    """Each row is one entry shorter; its label is where the partner was before."""
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    others = ~torch.eye(len(z), dtype=torch.bool)
    logits = (z @ z.T / temperature)[others].reshape(len(z), -1)
    partners = torch.arange(len(z)).roll(len(z1)).clamp(max=len(z) - 2)
    return F.cross_entropy(logits, partners)


_WRONG_PARTNERS = gives_one_of(
    _without_the_diagonal,
    _partner_is(lambda i, n: i ^ 1),
    _partner_is(lambda i, n: i),
    _partner_is(lambda i, n: i % n),
    _partner_is(lambda i, n: i % n + n),
    _partner_is(lambda i, n: i + n - 1),
    _partner_is(lambda i, n: i + n + 1),
    _partner_is(lambda i, n: i + (n - 1 if i < n else n)),
    _partner_is(lambda i, n: 2 * n - 1 - i),
    _partner_is(lambda i, n: i + 1),
    _partner_is(lambda i, n: 0),
)


@nt_xent.mistake(
    "a row is asked for the wrong positive",
    why="the loss then pulls views of two different images together.",
    look_at="z1 lies above z2. In which row is the partner of row 0, and that of row N? Does "
    "anything you remove before shift it?",
    recognise=lambda cases, observations: (
        _WRONG_PARTNERS(cases, observations) or stops_with("out of bounds")(cases, observations)
    ),
)
def positive_index_off(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)) ^ 1)


@nt_xent.mistake(
    "the positive is missing from the denominator",
    why="the denominator goes over all k != i, and the partner is one of them. Without it the "
    "loss is no cross-entropy and has no lower limit.",
    look_at="which k does the sum in the denominator leave out?",
)
def positive_not_in_denominator(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = z @ z.T / temperature
    positives = logits.diagonal(len(z1)).repeat(2)
    partners = torch.arange(len(z)).roll(len(z1))
    negatives = logits.fill_diagonal_(-torch.inf).index_put(
        (torch.arange(len(z)), partners), torch.tensor(-torch.inf, dtype=logits.dtype)
    )
    return (negatives.logsumexp(dim=1) - positives).mean()


@nt_xent.mistake(
    "the losses are added up, not averaged",
    why="a batch of twice the size would take a step of twice the size.",
    look_at="the loss is a mean; over how many terms?",
)
def sums_the_losses(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)), reduction="sum")


@nt_xent.mistake(
    "2N losses are added up and divided by N",
    why="every image has two views, and each of them has a loss of its own in the mean.",
    look_at="how many terms are in your sum, and what do you divide it by?",
)
def divides_by_pairs(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    partners = torch.arange(len(z)).roll(len(z1))
    return F.cross_entropy(logits, partners, reduction="sum") / len(z1)


OUT_OF_RANGE = (
    "it takes exp first and log afterwards, and in between numbers run out of range",
    "exp(1 / 0.01) is more than float32 can hold, and the smallest probabilities become 0, whose "
    "logarithm is infinite.",
    "which function of PyTorch takes logits, and does exp, sum and log in one?",
)
CLAMPED = (
    "the temperature, the similarities or the logits are kept from going beyond some limit",
    "the loss is another one wherever the limit holds: smaller temperatures act like the limit, "
    "and logits beyond theirs get no gradient.",
    "is there a clamp, a max or a min in your code, and what is it for?",
)
NO_MINUS = (
    "the sign is wrong: the logarithm comes without its minus",
    "training minimises the loss, so it would push pairs apart.",
    "the logarithm of a probability is negative. Can your loss be?",
)


@nt_xent.mistake(*NO_MINUS)
def forgets_the_minus(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return -F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def _number_without_a_graph(*names: str) -> Callable:
    """Recognises an answer whose loss none of these arguments can learn from."""

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        return all(
            describe(seen.output) == "a number" and not any(_learns(seen, name) for name in names)
            for case, seen in zip(cases, observations, strict=True)
            if case.kind == "ordinary"
        )

    return recognise


@nt_xent.mistake(
    "the loss is a number without a graph",
    why="backward() cannot start from it, so nothing would be trained.",
    look_at="is there an item(), a detach(), a no_grad() or a torch.tensor(...) on the way?",
    recognise=_number_without_a_graph("z1", "z2"),
    fails="shape",
)
def loses_the_graph(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    loss = F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))
    return torch.tensor(loss.item())


@nt_xent.mistake(
    "one of the two views gets no gradient",
    why="in SimCLR both views go through the encoder that is trained, and both are moved.",
    look_at="is there a detach, an item() or a no_grad() on the way of one view?",
    recognise=lambda cases, observations: all(
        _learns(seen, "z1") != _learns(seen, "z2")
        for case, seen in zip(cases, observations, strict=True)
        if case.kind == "ordinary"
    ),
    fails="gradient",
)
def detaches_one_view(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2.detach()]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def _clamped_xent(z1, z2, temperature, largest):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).clamp(-largest, largest).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


@nt_xent.mistake(*CLAMPED, recognise=clamped_like(_clamped_xent), fails=COLD)
def clamps_the_temperature(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / max(temperature, 0.05)).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


@nt_xent.mistake(
    *OUT_OF_RANGE,
    recognise=wrong_only_in("cold", contrastive.nt_xent, _infinite_or_cut_off, "half"),
    fails=COLD,
)
def exp_sum_log(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    weights = torch.exp(z @ z.T / temperature) * (1 - torch.eye(len(z), dtype=z.dtype))
    positives = weights[torch.arange(len(z)), torch.arange(len(z)).roll(len(z1))]
    return -torch.log(positives / weights.sum(dim=1)).mean()


@nt_xent.mistake(
    "the number that masks the diagonal does not fit into float16",
    why="the largest float16 is 65504, so the same code stops once it runs in half precision.",
    look_at="which value is below every number, in every floating-point type?",
    recognise=stops_with("overflow", only="half"),
    fails="half precision",
)
def mask_constant_breaks_in_half(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-1e9)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z1)))


def _moco_case(kind: str, query, positive_key, queue, temperature: float, text="") -> Case:
    arguments = {
        "query": query,
        "positive_key": positive_key,
        "queue": queue,
        "temperature": temperature,
    }
    leads = ("query", "positive_key", "queue") if kind in ("ordinary", "lengths") else ()
    return Case(kind, arguments, leads, text)


def _moco_inputs(generator, batch: int, keys: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, d), keys that have something in common with them (B, d), and a queue (K, d)."""
    return (*_pairs_of_vectors(generator, batch, width), _normal(generator, keys, width))


def _moco_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    few, keys, several, width = _sizes(generator, 3, 6, 5, 8)
    half = [vectors.half() for vectors in _moco_inputs(generator, several, keys, width)]
    text = f"float16 of shapes {(several, width)} and {(keys, width)}, temperature 0.5"
    query, key = _extreme_pairs(generator, several, width)
    queue = torch.cat([query[:1] + 0.05 * _normal(generator, width), -query])
    return [
        _moco_case("ordinary", *_moco_inputs(generator, few, keys, width), 0.5),
        _moco_case("ordinary", *_moco_inputs(generator, several, 3 * keys, width), 0.2),
        _moco_case("cold", query, key, queue, 0.01),
        _moco_case("half", *half, 0.5, text),
    ]


def _hidden_moco_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    several, keys, width = _sizes(generator, 6, 40, 12)
    inputs = _moco_inputs(generator, several, keys, width)
    long = [v * 10 ** (4 * torch.rand(len(v), 1, generator=generator) - 2) for v in inputs]
    double = [vectors.double() for vectors in _moco_inputs(generator, several, 20 * keys, width)]
    brain = [vectors.bfloat16() for vectors in _moco_inputs(generator, several, keys, width)]
    rows = [_long_rows(vectors) for vectors in _moco_inputs(generator, several, keys, width)]
    return [
        _moco_case("one query", *_moco_inputs(generator, 1, keys, width), 0.3),
        _moco_case("empty queue", *_moco_inputs(generator, several, 0, width), 0.5),
        _moco_case("lengths", *long, 0.3),
        _moco_case("float64", *double, 0.1),
        _moco_case("half", *brain, 0.3),
        _moco_case("half", *rows, 0.5),
    ]


moco_loss = Exercise(
    name="moco_loss",
    reference=contrastive.moco_loss,
    cases=_moco_cases,
    hidden_cases=_hidden_moco_cases,
    properties=(
        _loss_with_gradient(0.5, ("query", "positive_key", "queue")),
        value(1.5, kinds=("ordinary", "lengths", "one query", "float64", "empty queue"), **CLOSE),
        gradient(1, kinds=("ordinary", "lengths")),
        unchanged_inputs(0.5, kinds=("ordinary", "lengths")),
        value(0.5, kinds=("cold", "half"), name="number range", rtol=0.03, atol=0.03),
    ),
    observe=observe_call,
)


@moco_loss.mistake(*INTO_PLACE, recognise=stops_with("in-place"))
def normalises_the_keys_in_place(query, positive_key, queue, temperature):
    query, positive_key = F.normalize(query, dim=1), F.normalize(positive_key, dim=1)
    queue /= queue.norm(dim=1, keepdim=True)
    positives = (query * positive_key).sum(dim=1, keepdim=True)
    logits = torch.cat([positives, query @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def _with_labels(labels: Callable) -> Callable:
    """The loss with the positive at index 0, and other labels: labels(B, K) -> (B,)."""

    def loss(query, positive_key, queue, temperature):
        query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1)
        positives = (query * keys).sum(dim=1, keepdim=True)
        logits = torch.cat([positives, query @ F.normalize(queue, dim=1).T], dim=1) / temperature
        return F.cross_entropy(logits, labels(len(query), len(queue)))

    return loss


@moco_loss.mistake(
    "the labels do not point at the positive key",
    why="the loss would pull a query towards a key of the queue, a view of another image.",
    look_at="in which column of the logits is the positive key of the first query, and of the "
    "second?",
    recognise=lambda cases, observations: (
        gives_one_of(
            _with_labels(lambda batch, keys: torch.arange(batch)),
            _with_labels(lambda batch, keys: torch.full((batch,), keys)),
            _with_labels(lambda batch, keys: torch.ones(batch, dtype=torch.long)),
            lambda *given: positive_not_at_the_label(*given),
        )(cases, observations)
        or stops_with("out of bounds")(cases, observations)
    ),
)
def positive_not_at_the_label(query, positive_key, queue, temperature):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1).detach()
    positives = (query * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([query @ F.normalize(queue, dim=1).T, positives], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


@moco_loss.mistake(
    "every query gets all keys of the batch as positives, and is asked for the first",
    why="column 0 then holds the key of image 0 for every query; each has a key of its own.",
    look_at="what shape does the block of positives have: (B, 1), or (B, B)?",
)
def all_keys_for_all_queries(query, positive_key, queue, temperature):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1).detach()
    negatives = query @ F.normalize(queue, dim=1).detach().T
    logits = torch.cat([query @ keys.T, negatives], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


@moco_loss.mistake(
    "the keys of the batch are taken for negatives as well, the positive among them",
    why="the negatives are the queue alone. A positive key that stands among them pulls and "
    "pushes at once.",
    look_at="how many candidates has a query, and is one of them there twice?",
)
def positive_among_the_negatives(query, positive_key, queue, temperature):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1).detach()
    positives = (query * keys).sum(dim=1, keepdim=True)
    negatives = query @ torch.cat([keys, F.normalize(queue, dim=1).detach()]).T
    logits = torch.cat([positives, negatives], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


@moco_loss.mistake(
    "the other keys of the batch are taken for negatives too",
    why="a query has 1 + K candidates in MoCo: its own key, and the queue.",
    look_at="how many columns do your logits have, and how many does the definition have?",
)
def batch_as_negatives(query, positive_key, queue, temperature):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1).detach()
    logits = query @ torch.cat([keys, F.normalize(queue, dim=1).detach()]).T / temperature
    return F.cross_entropy(logits, torch.arange(len(query)))


@moco_loss.mistake(
    "the gradient flows into the keys",
    why="keys come from the momentum encoder, which follows by averaging; a gradient there would "
    "cost memory, and move the queue's past.",
    look_at="which of the three tensors is still part of a graph when you multiply?",
    fails="gradient",
)
def gradient_into_keys(query, positive_key, queue, temperature):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1)
    positives = (query * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([positives, query @ F.normalize(queue, dim=1).T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


@moco_loss.mistake(
    "the gradient flows into the positive key, though not into the queue",
    why="the positive key comes from the momentum encoder too.",
    look_at="which tensors came out of the key encoder?",
    fails="gradient",
)
def gradient_into_the_positive(query, positive_key, queue, temperature):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1)
    positives = (query * keys).sum(dim=1, keepdim=True)
    negatives = query @ F.normalize(queue, dim=1).detach().T
    logits = torch.cat([positives, negatives], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


@moco_loss.mistake(
    "it stops the gradient of the query",
    why="the query is the one thing in this loss that learns.",
    look_at="which tensors may be constants here, and which may not?",
    recognise=_number_without_a_graph("query"),
)
def stops_the_query(query, positive_key, queue, temperature):
    with torch.no_grad():
        query = F.normalize(query, dim=1)
    keys = F.normalize(positive_key, dim=1)
    positives = (query * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([positives, query @ F.normalize(queue, dim=1).T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


@moco_loss.mistake(
    "the queue is not normalised",
    why="long keys would count more than short ones, and the loss is made for cosines.",
    look_at="which of the three tensors have rows of length 1 when you multiply them?",
)
def queue_not_normalised(query, positive_key, queue, temperature):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1).detach()
    positives = (query * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([positives, query @ queue.detach().T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def _normalises_some(query: bool, keys: bool, queue: bool) -> Callable:
    def loss(*given):
        *vectors, temperature = given
        chosen = zip(vectors, (query, keys, queue), strict=True)
        q, k, negatives = (F.normalize(v, dim=1) if yes else v for v, yes in chosen)
        logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ negatives.T], dim=1)
        return F.cross_entropy(logits / temperature, torch.zeros(len(q), dtype=torch.long))

    return loss


@moco_loss.mistake(
    "the query, or its key, is not normalised",
    why="without it the loss falls when vectors just grow longer, and nothing is learned by that.",
    look_at="which of the three tensors have rows of length 1 when you multiply them?",
    recognise=gives_one_of(
        _normalises_some(False, False, False),
        _normalises_some(False, False, True),
        _normalises_some(False, True, True),
        _normalises_some(True, False, True),
        _normalises_some(False, True, False),
        _normalises_some(True, False, False),
    ),
)
def nothing_normalised(query, positive_key, queue, temperature):
    positives = (query * positive_key.detach()).sum(dim=1, keepdim=True)
    logits = torch.cat([positives, query @ queue.detach().T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def _tempered(positive_power: int, negative_power: int) -> Callable:
    """The loss with logits times temperature to these powers; -1 and -1 are right."""

    def loss(query, positive_key, queue, temperature):
        query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1)
        positives = (query * keys).sum(dim=1, keepdim=True) * temperature**positive_power
        negatives = query @ F.normalize(queue, dim=1).T * temperature**negative_power
        logits = torch.cat([positives, negatives], dim=1)
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))

    return loss


@moco_loss.mistake(
    "similarities are multiplied by the temperature",
    why="a small temperature should sharpen the softmax; this flattens it.",
    look_at="a cosine of 0.9 at temperature 0.1: is the logit 9, or 0.09?",
    recognise=gives_one_of(_tempered(1, 1)),
)
def multiplies_logits_by_temperature(query, positive_key, queue, temperature):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1).detach()
    positives = (query * keys).sum(dim=1, keepdim=True)
    negatives = query @ F.normalize(queue, dim=1).detach().T
    logits = torch.cat([positives, negatives], dim=1) * temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


@moco_loss.mistake(
    "the temperature is missing, for the positive, the negatives or both",
    why="all logits are cosines divided by the same temperature, or they cannot be compared.",
    look_at="which columns of your logits have been divided by the temperature?",
    recognise=gives_one_of(_tempered(0, 0), _tempered(0, -1), _tempered(-1, 0)),
)
def no_temperature(query, positive_key, queue, temperature):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1).detach()
    positives = (query * keys).sum(dim=1, keepdim=True)
    negatives = query @ F.normalize(queue, dim=1).detach().T / temperature
    logits = torch.cat([positives, negatives], dim=1)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def _without_positive(query, positive_key, queue, temperature):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1)
    positives = (query * keys).sum(dim=1) / temperature
    negatives = query @ F.normalize(queue, dim=1).T / temperature
    return (negatives.logsumexp(dim=1) - positives).mean()


@moco_loss.mistake(
    "the positive is missing from the denominator",
    why="the loss is a cross-entropy among 1 + K candidates; without the positive it has no lower "
    "limit, and with an empty queue no value.",
    look_at="how many terms are in the denominator?",
    recognise=gives_one_of(_without_positive),
)
def only_negatives_in_denominator(query, positive_key, queue, temperature):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1).detach()
    positives = (query * keys).sum(dim=1) / temperature
    negatives = query @ F.normalize(queue, dim=1).detach().T / temperature
    return (negatives.logsumexp(dim=1) - positives).mean()


@moco_loss.mistake(
    "the losses are added up, not averaged",
    why="a batch of twice the size would take a step of twice the size.",
    look_at="the loss is a mean; over how many queries?",
    recognise=gives_one_of(
        lambda *given: len(given[0]) * _with_labels(_zeros)(*given),
    ),
)
def sums_over_the_batch(query, positive_key, queue, temperature):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1).detach()
    positives = (query * keys).sum(dim=1, keepdim=True)
    negatives = query @ F.normalize(queue, dim=1).detach().T
    logits = torch.cat([positives, negatives], dim=1) / temperature
    labels = torch.zeros(len(logits), dtype=torch.long)
    return F.cross_entropy(logits, labels, reduction="sum")


def _zeros(batch: int, keys: int) -> Tensor:
    return torch.zeros(batch, dtype=torch.long)


@moco_loss.mistake(*NO_MINUS, recognise=gives_one_of(lambda *given: -_with_labels(_zeros)(*given)))
def no_minus(query, positive_key, queue, temperature):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1).detach()
    positives = (query * keys).sum(dim=1, keepdim=True)
    negatives = query @ F.normalize(queue, dim=1).detach().T
    logits = torch.cat([positives, negatives], dim=1) / temperature
    return torch.log_softmax(logits, dim=1)[:, 0].mean()


def _clamped_moco(query, positive_key, queue, temperature, largest):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1)
    positives = (query * keys).sum(dim=1, keepdim=True)
    logits = torch.cat([positives, query @ F.normalize(queue, dim=1).T], dim=1) / temperature
    labels = torch.zeros(len(logits), dtype=torch.long)
    return F.cross_entropy(logits.clamp(-largest, largest), labels)


@moco_loss.mistake(*CLAMPED, recognise=clamped_like(_clamped_moco), fails="number range")
def clamps_the_logits(query, positive_key, queue, temperature):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1).detach()
    positives = (query * keys).sum(dim=1, keepdim=True)
    negatives = query @ F.normalize(queue, dim=1).detach().T
    logits = (torch.cat([positives, negatives], dim=1) / temperature).clamp(-50, 50)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


@moco_loss.mistake(
    *OUT_OF_RANGE,
    recognise=wrong_only_in("cold", contrastive.moco_loss, _infinite_or_cut_off, "half"),
    fails="number range",
)
def exp_then_log(query, positive_key, queue, temperature):
    query, keys = F.normalize(query, dim=1), F.normalize(positive_key, dim=1).detach()
    positive = torch.exp((query * keys).sum(dim=1) / temperature)
    negatives = torch.exp(query @ F.normalize(queue, dim=1).detach().T / temperature)
    return -torch.log(positive / (positive + negatives.sum(dim=1))).mean()


# momentum_update: a case holds two states, and observing builds the modules from them.


def _state(generator, layers: Sequence, dtype=torch.float32) -> dict[str, Tensor]:
    """A state of Linear layers (in, out), BatchNorm layers (features,) and lists of such layers."""
    state = {}
    for place, sizes in enumerate(layers):
        if isinstance(sizes, list):
            inner = _state(generator, sizes, dtype)
            state |= {f"{place}.{name}": tensor for name, tensor in inner.items()}
            continue
        shape = sizes if len(sizes) == 1 else (sizes[1], sizes[0])
        state[f"{place}.weight"] = _normal(generator, *shape).to(dtype)
        state[f"{place}.bias"] = _normal(generator, shape[0]).to(dtype)
        if len(sizes) == 1:
            state[f"{place}.running_mean"] = _normal(generator, *shape).to(dtype)
            state[f"{place}.running_var"] = 0.5 + torch.rand(shape, generator=generator).to(dtype)
            counted = torch.randint(100, 1000, (), generator=generator)
            state[f"{place}.num_batches_tracked"] = counted
    return state


def _encoder(state: dict[str, Tensor]) -> nn.Module:
    """The module whose state this is."""
    layers = {}
    for name, tensor in state.items():
        place, _, rest = name.partition(".")
        layers.setdefault(place, {})[rest] = tensor
    encoder = nn.Sequential(*map(_layer, layers.values()))
    encoder.load_state_dict(state)
    return encoder


def _layer(state: dict[str, Tensor]) -> nn.Module:
    weight = state.get("weight")
    if weight is None:
        return _encoder(state)
    if weight.ndim == 1:
        return nn.BatchNorm1d(len(weight), dtype=weight.dtype)
    return nn.Linear(*weight.shape[::-1], dtype=weight.dtype)


def _update_case(kind, generator, layers, m: float, dtype=torch.float32) -> Case:
    text = f"two encoders of {_names(layers)}, m {number(m)}".replace(",)", ")")
    arguments = {
        "key_encoder": _state(generator, layers, dtype),
        "query_encoder": _state(generator, layers, dtype),
        "m": m,
    }
    return Case(kind, arguments, text=text)


def _names(layers: Sequence) -> str:
    kinds = {1: "BatchNorm1d", 2: "Linear"}
    return ", ".join(
        f"Sequential({_names(sizes)})" if isinstance(sizes, list) else f"{kinds[len(sizes)]}{sizes}"
        for sizes in layers
    )


def _update_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    first, hidden, last = _sizes(generator, 3, 4, 2)
    normalised = [(first, hidden), (hidden,), (hidden, last)]
    return [
        _update_case("parameters", generator, [(first, 2)], 0.9),
        _update_case("parameters", generator, [(first, hidden), (hidden, last)], 0.99),
        _update_case("layers in layers", generator, [(first, hidden), [(hidden, last)]], 0.99),
        _update_case("buffers", generator, normalised, 0.9),
    ]


def _hidden_update_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    first, hidden, last = _sizes(generator, 5, 8, 4)
    plain_layers = [(first, hidden), (hidden, last)]
    normalised = [(first, hidden), (hidden,), [(hidden, hidden), (hidden,)]]
    return [
        _update_case("parameters", generator, plain_layers, 0.999),
        _update_case("parameters", generator, plain_layers, 0.0),
        _update_case("parameters", generator, plain_layers, 1.0),
        _update_case("buffers", generator, normalised, 0.7, torch.float64),
        _update_case("trainable keys", generator, normalised, 0.9),
    ]


def _observe_update(answer, case, forbidden=frozenset()) -> Observation:
    """Update once, and look at what became of both encoders.

    As in MoCo, the keys' parameters do not ask for gradients, but in the kind "trainable keys".
    """

    def steps(arguments):
        key, query = (_encoder(arguments[name]) for name in ("key_encoder", "query_encoder"))
        key.requires_grad_(case.kind == "trainable keys")
        asked = {name: tensor.requires_grad for name, tensor in key.named_parameters()}
        before = dict(key.named_parameters())
        settings = _settings(key, query)
        answer(key, query, arguments["m"])
        after = dict(key.named_parameters())
        made = {
            "parameters": after,
            "buffers": {k: b for k, b in key.named_buffers() if b.is_floating_point()},
            "counters": {k: b for k, b in key.named_buffers() if not b.is_floating_point()},
            "query": query.state_dict(),
            "remade": [name for name in before if after.get(name) is not before[name]],
            "in graph": [
                name
                for name, tensor in [*after.items(), *key.named_buffers()]
                if tensor.grad_fn is not None
                or (tensor.requires_grad and not asked.get(name, False))
            ],
            "settings": [
                name for name, now in _settings(key, query).items() if now != settings[name]
            ],
        }
        return plain(made) | {"shared": _shared(key, query)}

    return observe_steps(steps, answer, case, forbidden)


def _settings(key: nn.Module, query: nn.Module) -> dict[str, bool]:
    """What an update should leave as it is, besides the query encoder's numbers."""
    return {
        "requires_grad of the query encoder": all(p.requires_grad for p in query.parameters()),
        "train or eval mode of the query encoder": query.training,
        "train or eval mode of the key encoder": key.training,
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
    }


def _shared(key: nn.Module, query: nn.Module) -> list[str]:
    """Tensors of the key encoder that change when somebody writes into the query encoder."""
    before = plain(key.state_dict())
    with torch.no_grad():
        for tensor in query.state_dict().values():
            tensor.add_(1)
    return [name for name, tensor in key.state_dict().items() if not same(tensor, before[name])]


def _about_update(name: str, points: float, parts: Sequence[str], kinds) -> Property:
    """These parts of what became of the encoders are as they should be."""

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        for part in parts:
            failure = compare(expected.output[part], observed.output[part], 1e-5, 1e-6)
            if failure:
                about = f"{part} of the key encoder: "
                return Failure(about + failure.expected, about + failure.got)
        return None

    return Property(name, points, test, kinds=kinds)


def _nothing_listed(name: str, points: float, parts: Sequence[str], wanted: str, kinds) -> Property:
    """The lists of tensors with which something is wrong are empty."""

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        for part in parts:
            found = observed.output[part]
            if found:
                return Failure(wanted, f"{part}: {', '.join(found)}")
        return None

    return Property(name, points, test, kinds=kinds)


def _test_query(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    if not same(case.arguments["query_encoder"], observed.output["query"]):
        return Failure("the query encoder as it was", "other numbers in it")
    if observed.output["settings"]:
        return Failure("everything else as it was", f"changed: {observed.output['settings'][0]}")
    return None


UPDATES = ("parameters", "layers in layers", "buffers", "trainable keys")

momentum_update = Exercise(
    name="momentum_update",
    reference=contrastive.momentum_update,
    cases=_update_cases,
    hidden_cases=_hidden_update_cases,
    properties=(
        _about_update("parameters", 0.5, ["parameters"], ("parameters",)),
        _about_update("layers in layers", 0.5, ["parameters"], ("layers in layers",)),
        _nothing_listed("no graph", 1, ["in graph"], "tensors without a graph", UPDATES),
        Property("query encoder left alone", 0.5, _test_query, kinds=UPDATES),
        _nothing_listed(
            "same tensors", 0.5, ["remade", "shared"], "the key encoder's own tensors", UPDATES
        ),
        _about_update("buffers", 1, ["buffers", "counters"], ("buffers", "trainable keys")),
    ),
    observe=_observe_update,
)


MEASURABLE = UPDATES[:3]  # with keys that do not ask for gradients


def _update_mistake(sentence: str, why: str, look_at: str, when: Callable, fails: str = ""):
    """A mistake that shows in what became of the encoders.

    when(case, made, expected by the definition) -> bool, in every case where it can be seen: m is
    0.5 to 0.99 there and nothing stopped.
    """

    def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
        pairs = [
            (case, seen)
            for case, seen in zip(cases, observations, strict=True)
            if case.kind in MEASURABLE and 0.5 < case.arguments["m"] < 0.995
        ]
        if fails == "buffers":
            pairs = [(case, seen) for case, seen in pairs if case.kind == "buffers"]
        return all(
            not seen.error and _whole(case, seen.output) and when(case, seen.output)
            for case, seen in pairs
        )

    return momentum_update.mistake(sentence, why, look_at, recognise, fails)


def _whole(case: Case, made: dict) -> bool:
    """Whether the key encoder has the tensors that it had, by name."""
    parts = [made[part] for part in ("parameters", "buffers", "counters")]
    return {name for part in parts for name in part} == set(case.arguments["key_encoder"])


def _mixture(case: Case, of_key: float, of_query: float) -> dict[str, Tensor]:
    """of_key * key + of_query * query, for all tensors of a case."""
    key, query = case.arguments["key_encoder"], case.arguments["query_encoder"]
    return {name: of_key * key[name] + of_query * query[name] for name in key}


def _average(case: Case) -> dict[str, Tensor]:
    """What the definition gives, for all tensors of a case."""
    return _mixture(case, case.arguments["m"], 1 - case.arguments["m"])


def _holds(part: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return all(same(tensor, wanted[name], 1e-4, 1e-5) for name, tensor in part.items())


@_update_mistake(
    "the query encoder is moved, not the key encoder",
    why="the query encoder learns by gradients; it is the key encoder that follows it, slowly.",
    look_at="which module's tensors stand on the left of your assignments?",
    when=lambda case, made: (
        not same(made["query"], case.arguments["query_encoder"])
        and _holds(made["parameters"], case.arguments["key_encoder"])
    ),
)
def moves_the_query_encoder(key_encoder, query_encoder, m):
    with torch.no_grad():
        for key, query in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
            query.mul_(1 - m).add_(key, alpha=m)


@_update_mistake(
    "m and 1 - m are swapped",
    why="with m = 0.999 the key encoder would be a copy of the query encoder after one step, and "
    "the keys in the queue would no longer fit together.",
    look_at="with m = 0.999, which share of the key encoder should a step keep?",
    when=lambda case, made: _holds(
        made["parameters"], _mixture(case, 1 - case.arguments["m"], case.arguments["m"])
    ),
)
def swaps_the_shares(key_encoder, query_encoder, m):
    with torch.no_grad():
        for key, query in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
            key.mul_(1 - m).add_(query, alpha=m)


@_update_mistake(
    "one of the two shares is missing",
    why="m and 1 - m add up to 1, so that the result lies between the two; otherwise the weights "
    "grow, or shrink, with every step.",
    look_at="which number is each of the two tensors multiplied by?",
    when=lambda case, made: any(
        _holds(made["parameters"], _mixture(case, *shares))
        for m in [case.arguments["m"]]
        for shares in ((m, 1), (1, 1 - m), (1, m), (1 - m, 1), (m, m), (1 - m, 1 - m), (1, 1))
    ),
)
def misses_a_share(key_encoder, query_encoder, m):
    with torch.no_grad():
        for key, query in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
            key.mul_(m).add_(query)


@_update_mistake(
    "the key encoder becomes a copy of the query encoder",
    why="without inertia, the keys of two steps come from two different encoders.",
    look_at="where does m come into the result?",
    when=lambda case, made: _holds(made["parameters"], case.arguments["query_encoder"]),
)
def copies_the_query_encoder(key_encoder, query_encoder, m):
    key_encoder.load_state_dict(query_encoder.state_dict())


@_update_mistake(
    "nothing changes: the new values never get into the module",
    why="a name in a loop is not the tensor: giving the name a new value leaves the module as it "
    "was.",
    look_at="which operations write into a tensor, and which make a new one?",
    when=lambda case, made: all(
        _holds(made[part], case.arguments["key_encoder"])
        for part in ("parameters", "buffers", "counters")
    ),
)
def assigns_to_a_name(key_encoder, query_encoder, m):
    for key, query in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
        key = m * key + (1 - m) * query


@_update_mistake(
    "the buffers move, but the parameters stay as they were",
    why="keys would come from the weights of the start, whatever the query encoder learns.",
    look_at="do the key encoder's parameters ask for gradients, and does your code look at that? "
    "Which of its lines writes into them?",
    when=lambda case, made: (
        _holds(made["parameters"], case.arguments["key_encoder"])
        and (case.kind != "buffers" or not _holds(made["buffers"], case.arguments["key_encoder"]))
    ),
)
def moves_the_buffers_only(key_encoder, query_encoder, m):
    with torch.no_grad():
        for key, query in zip(key_encoder.buffers(), query_encoder.buffers(), strict=True):
            if key.is_floating_point():
                key.mul_(m).add_(query, alpha=1 - m)
            else:
                key.copy_(query)


def _stops_at_the_children(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    """Whether layers inside a Sequential inside the encoder are missed, and no others."""
    inner_layers = False
    for case, seen in zip(cases, observations, strict=True):
        if case.kind not in MEASURABLE or not 0.5 < case.arguments["m"] < 0.995:
            continue
        if seen.error or not _whole(case, seen.output):
            return False
        for name, tensor in seen.output["parameters"].items():
            inside = name.count(".") > 1
            inner_layers = inner_layers or inside
            wanted = case.arguments["key_encoder"] if inside else _average(case)
            if not same(tensor, wanted[name], 1e-4, 1e-5):
                return False
    return inner_layers


@momentum_update.mistake(
    "layers inside of other layers stay as they were",
    why="a ResNet keeps nearly all of its layers in blocks inside of blocks.",
    look_at="the encoder holds a Sequential here. Does your loop get to the layers in it?",
    recognise=_stops_at_the_children,
)
def stops_at_the_children(key_encoder, query_encoder, m):
    with torch.no_grad():
        pairs = zip(key_encoder.children(), query_encoder.children(), strict=True)
        for layer, other in pairs:
            keys, queries = ({**a._parameters, **a._buffers} for a in (layer, other))
            for name, key in keys.items():
                if key.is_floating_point():
                    key.mul_(m).add_(queries[name], alpha=1 - m)
                else:
                    key.copy_(queries[name])


@_update_mistake(
    "the query encoder no longer asks for gradients",
    why="it is the one that is trained: the next backward() would find nothing to learn.",
    look_at="is there a requires_grad in your code, and whose? What else keeps an operation out of "
    "the graph?",
    when=lambda case, made: any("requires_grad" in name for name in made["settings"]),
    fails="query encoder left alone",
)
def freezes_the_query_encoder(key_encoder, query_encoder, m):
    query_encoder.requires_grad_(False)
    queries = query_encoder.state_dict()
    for name, key in key_encoder.state_dict().items():
        if key.is_floating_point():
            key.mul_(m).add_(queries[name], alpha=1 - m)
        else:
            key.copy_(queries[name])


def _builds_a_graph(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    return any(
        "leaf Variable" in seen.error if seen.error else bool(seen.output["in graph"])
        for seen in observations
    )


@momentum_update.mistake(
    "the update is recorded in a graph",
    why="the graph of one step hangs on that of the step before, so memory grows until it is "
    "full, and backward() would run through the keys' past.",
    look_at="do the query encoder's parameters ask for gradients while you compute with them?",
    recognise=_builds_a_graph,
    fails="no graph",
)
def builds_a_graph(key_encoder, query_encoder, m):
    for key, query in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
        key.mul_(m).add_((1 - m) * query)


@_update_mistake(
    "the parameters are replaced by new ones",
    why="whatever holds the old tensors, such as an optimiser or a second name of the module, "
    "goes on with them and never sees the new ones.",
    look_at="is the parameter after your update the same object as before, with other numbers?",
    when=lambda case, made: bool(made["remade"]),
    fails="same tensors",
)
def remakes_the_parameters(key_encoder, query_encoder, m):
    queries = dict(query_encoder.named_parameters())
    for name, key in list(key_encoder.named_parameters()):
        owner, _, own_name = name.rpartition(".")
        new = m * key.detach() + (1 - m) * queries[name].detach()
        setattr(key_encoder.get_submodule(owner), own_name, nn.Parameter(new, key.requires_grad))


@momentum_update.mistake(
    "a tensor of the key encoder shares its memory with the query encoder's",
    why="it is one tensor with two names from then on: every step of training changes both.",
    look_at="which of your lines copies numbers, and which gives tensors another name?",
    recognise=lambda cases, observations: any(
        not seen.error and seen.output["shared"] for seen in observations
    ),
    fails="same tensors",
)
def shares_the_counter(key_encoder, query_encoder, m):
    with torch.no_grad():
        for key, query in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
            key.mul_(m).add_(query, alpha=1 - m)
        for key, query in zip(key_encoder.buffers(), query_encoder.buffers(), strict=True):
            if key.is_floating_point():
                key.mul_(m).add_(query, alpha=1 - m)
            else:
                key.data = query.data


@_update_mistake(
    "buffers are forgotten",
    why="BatchNorm's running statistics are no parameters, so the key encoder would normalise by "
    "the statistics of a network that is long gone as soon as it is in eval mode.",
    look_at="what else is in a module's state_dict besides its parameters?",
    when=lambda case, made: _holds(made["buffers"], case.arguments["key_encoder"]),
    fails="buffers",
)
def forgets_the_buffers(key_encoder, query_encoder, m):
    with torch.no_grad():
        for key, query in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
            key.mul_(m).add_(query, alpha=1 - m)


@_update_mistake(
    "floating-point buffers are copied, not averaged",
    why="the key encoder's weights lag behind the query encoder's, so their statistics should as "
    "well.",
    look_at="which rule does the exercise give for running_mean, and which for the counter?",
    when=lambda case, made: _holds(made["buffers"], case.arguments["query_encoder"]),
    fails="buffers",
)
def copies_the_buffers(key_encoder, query_encoder, m):
    with torch.no_grad():
        for key, query in zip(key_encoder.parameters(), query_encoder.parameters(), strict=True):
            key.mul_(m).add_(query, alpha=1 - m)
        for key, query in zip(key_encoder.buffers(), query_encoder.buffers(), strict=True):
            key.copy_(query)


@_update_mistake(
    "the counter of batches is left as it was",
    why="num_batches_tracked counts the batches behind the statistics; it is a buffer too.",
    look_at="which buffers of BatchNorm are integers?",
    when=lambda case, made: (
        _holds(made["counters"], case.arguments["key_encoder"])
        and _holds(made["buffers"], _average(case))
    ),
    fails="buffers",
)
def forgets_the_counter(key_encoder, query_encoder, m):
    with torch.no_grad():
        queries = query_encoder.state_dict()
        for name, key in key_encoder.state_dict().items():
            if key.is_floating_point():
                key.mul_(m).add_(queries[name], alpha=1 - m)


def _averages_the_counter(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    """Whether it stops at an integer, or the counter is an average cut or rounded to an integer."""
    for case, seen in zip(cases, observations, strict=True):
        if case.kind != "buffers":
            continue
        if seen.error:
            return "can't be cast" in seen.error
        if not _whole(case, seen.output):
            return False
        average = _average(case)
        return all(
            abs(float(counter) - float(average[name])) <= 1.01
            for name, counter in seen.output["counters"].items()
        )
    return False


@momentum_update.mistake(
    "the counter of batches is averaged like a weight",
    why="num_batches_tracked is an integer; an average of two counts is a count of nothing.",
    look_at="which buffers of BatchNorm are integers, and which rule does the exercise give them?",
    recognise=_averages_the_counter,
)
def averages_the_counter(key_encoder, query_encoder, m):
    keys, queries = key_encoder.state_dict(), query_encoder.state_dict()
    key_encoder.load_state_dict({name: m * keys[name] + (1 - m) * queries[name] for name in keys})


# KeyQueue: a case holds batches, which are enqueued one after another.


def _queue_case(kind: str, generator, size: int, dim: int, counts: Sequence[int]) -> Case:
    batches = [_normal(generator, count, dim) for count in counts]
    text = f"KeyQueue({size}, {dim}), batches of {', '.join(map(str, counts))} keys"
    return Case(kind, {"size": size, "dim": dim, "batches": batches}, text=text)


def _queue_cases(seed):
    generator = torch.Generator().manual_seed(seed)
    batch, dim, rest = _sizes(generator, 3, 4, 1)
    size = 2 * batch + rest  # the third batch reaches across the end
    return [
        _queue_case("filling", generator, size, dim, [batch, batch]),
        _queue_case("wrapping", generator, size, dim, [batch] * 5),
        _queue_case("fitting", generator, 3 * batch, dim, [batch] * 5),
        _queue_case("reused memory", generator, 3 * batch, dim, [batch, batch]),
        _queue_case("reused memory", generator, batch, dim, [batch]),
    ]


def _hidden_queue_cases(seed):
    generator = torch.Generator().manual_seed(seed + 1)
    size, dim = _sizes(generator, 12, 6)
    uneven = [5, 1, 4, 7, 2, 9, 3]
    return [
        _queue_case("filling", generator, size, dim, [1, 2, 3]),
        _queue_case("uneven batches", generator, size, dim, uneven),
        _queue_case("whole queue", generator, 6, dim, [6, 6, 2, 6]),
        _queue_case("one slot", generator, 1, dim, [1, 1, 1]),
        _queue_case("many rounds", generator, 16, 2, [5] * 40),
    ]


def _observe_queue(answer, case, forbidden=frozenset()) -> Observation:
    """Enqueue the batches, and read what is held after each.

    In the kind "reused memory" the caller writes other numbers into each batch afterwards.
    """

    def steps(arguments):
        queue = answer(arguments["size"], arguments["dim"])
        held, attached, cut = [], False, False
        for batch in arguments["batches"]:
            keys = batch.clone().requires_grad_() * 1.0  # as they come out of an encoder
            queue.enqueue(keys)
            cut = cut or not keys.requires_grad
            if case.kind == "reused memory":
                keys.data.fill_(-7.0)
            found = queue.oldest_first()
            held.append(plain(found))
            attached = attached or (isinstance(found, Tensor) and found.requires_grad)
        return {"held": held, "attached": attached, "cut": cut}

    return observe_steps(steps, answer, case, forbidden)


def _about_queue(name: str, points: float, kinds: tuple[str, ...]) -> Property:
    """The queue holds what it should, oldest first, after each batch."""

    def test(case: Case, observed: Observation, expected: Observation) -> Failure | None:
        batches = zip(expected.output["held"], observed.output["held"], strict=True)
        for turn, (wanted, got) in enumerate(batches, start=1):
            if not same(wanted, got):
                return _explain(case, turn, wanted, got)
        return None

    return Property(name, points, test, kinds=kinds)


def _explain(case: Case, turn: int, wanted: Tensor, got) -> Failure:
    """By the numbers of the keys: key 1 came first."""
    if describe(wanted) != describe(got):
        return Failure(f"{describe(wanted)} after batch {turn}", describe(got))
    came = torch.cat(case.arguments["batches"])
    names = [
        str(int(found[0]) + 1) if len(found := (came == key).all(dim=1).nonzero()) else "?"
        for key in got
    ]
    total = sum(len(batch) for batch in case.arguments["batches"][:turn])
    right = [str(total - len(wanted) + place + 1) for place in range(len(wanted))]
    return Failure(f"keys {' '.join(right)} after batch {turn}", f"keys {' '.join(names)}")


def _test_detached(case: Case, observed: Observation, expected: Observation) -> Failure | None:
    if observed.output["attached"]:
        return Failure("keys without a graph", "keys that hold on to the graph they came from")
    if observed.output["cut"]:
        return Failure("the caller's keys as they were", "cut off from their graph")
    return None


WRAPPING = ("wrapping", "fitting", "uneven batches", "whole queue", "one slot", "many rounds")

key_queue = Exercise(
    name="KeyQueue",
    reference=contrastive.KeyQueue,
    cases=_queue_cases,
    hidden_cases=_hidden_queue_cases,
    properties=(
        _about_queue("filling", 0.5, ("filling",)),
        _about_queue("wrap-around", 1.5, WRAPPING),
        Property("no graph", 0.5, _test_detached, kinds=("filling", *WRAPPING)),
        _about_queue("copies", 0.5, ("reused memory",)),
    ),
    observe=_observe_queue,
)


def _held_in(seen: Observation):
    """What is held after each batch, or the type of the error."""
    return seen.error.partition(":")[0] if seen.error else seen.output["held"]


def _queue_mistake(sentence: str, why: str, look_at: str):
    """A mistake that shows in the keys held in the visible kinds, whatever else is wrong."""

    def add(answer):
        def recognise(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
            pairs = [
                (case, seen)
                for case, seen in zip(cases, observations, strict=True)
                if case.kind in ("filling", "wrapping", "fitting")
            ]
            return all(
                same(_held_in(_observe_queue(answer, case)), _held_in(seen)) for case, seen in pairs
            )

        return key_queue.mistake(sentence, why, look_at, recognise)(answer)

    return add


class _Queue:
    """What the notebook gives: where the keys are, and how they are read."""

    def __init__(self, size, dim):
        self.slots = torch.zeros(size, dim)
        self.enqueued = 0

    def oldest_first(self):
        size = len(self.slots)
        if self.enqueued < size:
            return self.slots[: self.enqueued]
        start = self.enqueued % size
        return torch.cat([self.slots[start:], self.slots[:start]])


@_queue_mistake(
    "a batch is cut off at the end of the slots, and the rest of it is lost",
    why="the oldest keys stay where the lost ones belong, so the order is wrong from there on.",
    look_at="where do the keys go that do not fit behind the last one?",
)
class CutsAtTheEnd(_Queue):
    def enqueue(self, keys):
        size = len(self.slots)
        start = self.enqueued % size
        fitting = keys.detach()[: size - start]
        self.slots[start : start + len(fitting)] = fitting
        self.enqueued += len(keys)


@_queue_mistake(
    "a batch that does not fit behind the last key starts again at slot 0",
    why="the slots at the end keep old keys, which are then taken for others.",
    look_at="with 2 slots left and 3 keys to store, into which slots should they go?",
)
class StartsAgainAtZero(_Queue):
    def enqueue(self, keys):
        size = len(self.slots)
        start = self.enqueued % size
        if start + len(keys) > size:
            start = 0
        self.slots[start : start + len(keys)] = keys.detach()
        self.enqueued += len(keys)


@_queue_mistake(
    "it stops at a batch that reaches across the end of the slots",
    why="MoCo's own code asks that the batch size divide the queue's; yours must do without, as "
    "the last batch of an epoch is often a smaller one.",
    look_at="which slots does your assignment name when 2 are left and 3 keys come?",
)
class StopsAtTheWrap(_Queue):
    def enqueue(self, keys):
        start = self.enqueued % len(self.slots)
        self.slots[start : start + len(keys)] = keys.detach()
        self.enqueued += len(keys)


@_queue_mistake(
    "when the queue is full, the newest keys are overwritten",
    why="the queue would keep its oldest keys for ever, from an encoder that is long gone.",
    look_at="which keys should make room for a new batch, and where are they?",
)
class OverwritesTheNewest(_Queue):
    def enqueue(self, keys):
        held = torch.cat([self.slots[: self.enqueued], keys.detach()])
        if len(held) > len(self.slots):
            held = torch.cat([self.slots[: len(self.slots) - len(keys)], keys.detach()])
        self.slots[: len(held)] = held
        self.enqueued = len(held)


@_queue_mistake(
    "when the queue is full, new keys are dropped",
    why="the queue would keep its oldest keys for ever, from an encoder that is long gone.",
    look_at="which end of the queue is cut off, the old one or the new one?",
)
class DropsTheNew(_Queue):
    def enqueue(self, keys):
        held = torch.cat([self.slots[: self.enqueued], keys.detach()])[: len(self.slots)]
        self.slots[: len(held)] = held
        self.enqueued = len(held)


@_queue_mistake(
    "the queue grows without end",
    why="it should hold `size` keys at most: older ones are of no use, and memory is limited.",
    look_at="what happens to the oldest keys when the queue is full?",
)
class KeepsEverything(_Queue):
    def enqueue(self, keys):
        self.slots = torch.cat([self.slots[: self.enqueued], keys.detach()])
        self.enqueued += len(keys)

    def oldest_first(self):
        return self.slots


@_queue_mistake(
    "the newest keys come first",
    why="the order says which keys are to be replaced next: the oldest come first.",
    look_at="on which side of the keys held do the new ones go?",
)
class NewestFirst(_Queue):
    def enqueue(self, keys):
        held = torch.cat([keys.detach(), self.slots[: self.enqueued]])[: len(self.slots)]
        self.slots[: len(held)] = held
        self.enqueued = len(held)

    def oldest_first(self):
        return self.slots[: self.enqueued]


@_queue_mistake(
    "the number of keys that came is not counted on",
    why="every batch is then written to the same slots, and the queue takes itself for empty.",
    look_at="what is self.enqueued after two batches, and what should it be?",
)
class ForgetsToCount(_Queue):
    def enqueue(self, keys):
        size = len(self.slots)
        self.slots[(self.enqueued + torch.arange(len(keys))) % size] = keys.detach()


@_queue_mistake(
    "batches are counted, not keys",
    why="the next batch then starts one slot further, and overwrites the batch before.",
    look_at="by how much does self.enqueued grow when a batch of 3 keys comes?",
)
class CountsBatches(_Queue):
    def enqueue(self, keys):
        size = len(self.slots)
        self.slots[(self.enqueued + torch.arange(len(keys))) % size] = keys.detach()
        self.enqueued += 1


@_queue_mistake(
    "the count starts again when the queue is full",
    why="oldest_first takes the queue for nearly empty then, and gives the first few slots only.",
    look_at="self.enqueued counts all keys that ever came. How large is it after three batches?",
)
class CountsModuloTheSize(_Queue):
    def enqueue(self, keys):
        size = len(self.slots)
        self.slots[(self.enqueued + torch.arange(len(keys))) % size] = keys.detach()
        self.enqueued = (self.enqueued + len(keys)) % size


@_queue_mistake(
    "the count stops at the size of the queue",
    why="once the queue is full, every batch is written to the first slots.",
    look_at="self.enqueued counts all keys that ever came, also those that are gone. How large is "
    "it after three batches?",
)
class StopsCounting(_Queue):
    def enqueue(self, keys):
        size = len(self.slots)
        self.slots[(self.enqueued + torch.arange(len(keys))) % size] = keys.detach()
        self.enqueued = min(self.enqueued + len(keys), size)


@_queue_mistake(
    "keys are counted before they are written, so they land behind their slots",
    why="slots stay empty at the start, and oldest_first gives the zeros in them for keys.",
    look_at="in which slot does the first key of all belong, and what is self.enqueued when you "
    "write it?",
)
class CountsBeforeWriting(_Queue):
    def enqueue(self, keys):
        size = len(self.slots)
        self.enqueued += len(keys)
        self.slots[(self.enqueued + torch.arange(len(keys))) % size] = keys.detach()


@key_queue.mistake(
    "the keys hold on to the graph that they came from",
    why="thousands of graphs stay in memory, and backward() would run through past encoders.",
    look_at="what does requires_grad say of a key before, and after, you store it?",
    recognise=lambda cases, observations: any(
        not seen.error and seen.output["attached"] for seen in observations
    ),
    fails="no graph",
)
class KeepsTheGraph(_Queue):
    def enqueue(self, keys):
        size = len(self.slots)
        self.slots[(self.enqueued + torch.arange(len(keys))) % size] = keys
        self.enqueued += len(keys)


@key_queue.mistake(
    "the caller's own keys lose their graph",
    why="the queue should store copies without a graph; whoever made the keys may still want "
    "theirs.",
    look_at="does your way to drop the graph give a new tensor, or change the one it is called on?",
    recognise=lambda cases, observations: any(
        not seen.error and seen.output["cut"] for seen in observations
    ),
    fails="no graph",
)
class CutsTheCallersGraph(_Queue):
    def enqueue(self, keys):
        size = len(self.slots)
        keys.detach_()
        self.slots[(self.enqueued + torch.arange(len(keys))) % size] = keys
        self.enqueued += len(keys)


def _shares_memory(cases: Sequence[Case], observations: Sequence[Observation]) -> bool:
    return any(
        case.kind == "reused memory"
        and not seen.error
        and any(
            isinstance(keys, Tensor) and bool((keys == -7.0).any()) for keys in seen.output["held"]
        )
        for case, seen in zip(cases, observations, strict=True)
    )


@key_queue.mistake(
    "the queue holds the caller's own tensors, not copies",
    why="whoever writes into a batch later changes the past; detach() gives a tensor that shares "
    "its memory.",
    look_at="which of your operations copies numbers, and which gives old ones a new name?",
    recognise=_shares_memory,
    fails="copies",
)
class KeepsTheCallersTensors:
    def __init__(self, size, dim):
        self.size, self.dim = size, dim
        self.rows = []

    def enqueue(self, keys):
        self.rows.extend(keys.detach())
        self.rows = self.rows[-self.size :]

    def oldest_first(self):
        return torch.stack(self.rows)


EXERCISES = (two_views, nt_xent, momentum_update, key_queue, moco_loss)
