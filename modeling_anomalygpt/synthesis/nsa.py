"""Natural synthetic anomalies: a patch of another normal picture, blended in by solving Poisson's equation.

The method of Schlüter et al., "Natural Synthetic Anomalies for Self-Supervised Anomaly Detection and Localization"
(https://arxiv.org/abs/2109.15222), with the values AnomalyGPT uses (https://arxiv.org/abs/2308.15366, section 3.2).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import cv2
import numpy as np

from ..images import MASK_THRESHOLD
from .anomaly import (
    SyntheticAnomaly,
    channel_sum,
    check_inputs,
    intensity_label,
    majority,
    unchanged,
)

# The published search gives up at this draw, even if the draw fits.
_PLACEMENT_ATTEMPTS = 200
# Patches that cannot be seen are drawn again so often.
_PATCH_ATTEMPTS = 40
# A patch of which less is a target (share of the picture; 15 pixels of 224 x 224) counts as not seen.
_MIN_TARGET = 0.0003
# OpenCV's solver fails on smaller patches; the published code then goes without the patch.
_MIN_BLENDED_PIXELS = 50
_MIN_PATCH_SIDE = 5
# The first patch is certain, the second has probability 1/2.
_PATCHES = 2
# Shape, scale and offset of the gamma distribution of the half sides, as shares of the picture.
_GAMMA = (2, 0.05, 0.03)
# Share of the patch's object that must fall on the object, exclusive.
_MIN_OVERLAP = 0.25

Bounds = tuple[float, float]


@dataclass(frozen=True)
class NSASettings:
    """Values of NSA for one category.

    Attributes:
        size_bounds (`tuple[Bounds, Bounds]`): smallest and largest half height and half width of the patch that is cut
            out, as shares of the picture. The resized patch keeps its *whole* sides within them, as in the original.
        logistic (`tuple[float, float]`): steepness per grey level and middle in grey levels of the soft label.
        background (`tuple[float, float]`, *optional*): brightness of the background and the tolerance around it, in
            grey levels. `None`: the object fills the picture.
        resize_bounds (`Bounds`): smallest and largest factor of the resizing; drawn around 1 with deviation 0.5.
    """

    size_bounds: tuple[Bounds, Bounds] = ((0.03, 0.4), (0.03, 0.4))
    logistic: tuple[float, float] = (1 / 12, 24)
    background: tuple[float, float] | None = None
    resize_bounds: Bounds = (0.5, 2.0)

    def __post_init__(self):
        for low, high in self.size_bounds:
            if not 0 < low <= high <= 0.45:
                raise ValueError(
                    f"`size_bounds` must be increasing shares in (0, 0.45], got {self.size_bounds}. "
                    "They are half sides: 0.4 cuts out up to 0.8 of the picture."
                )


_FULL = (0.03, 0.4)
_OBJECT = (0.7, 1.3)
_BRIGHT, _DARK = (200, 60), (20, 20)

# Appendix of the NSA paper; background, bounds and logistic values are those AnomalyGPT trains with.
NSA_SETTINGS = {
    "bottle": NSASettings((_FULL, _FULL), (1 / 12, 24), _BRIGHT, _OBJECT),
    "cable": NSASettings(((0.05, 0.4), (0.05, 0.4)), (1 / 12, 24), None, _OBJECT),
    "capsule": NSASettings(((0.03, 0.15), _FULL), (1 / 2, 4), _BRIGHT, _OBJECT),
    "carpet": NSASettings((_FULL, _FULL), (1 / 3, 7)),
    "grid": NSASettings((_FULL, _FULL), (1 / 3, 7)),
    "hazelnut": NSASettings(((0.03, 0.35), (0.03, 0.35)), (1 / 12, 24), _DARK, _OBJECT),
    "leather": NSASettings((_FULL, _FULL), (1 / 3, 7)),
    "metal_nut": NSASettings((_FULL, _FULL), (1 / 3, 7), _DARK, _OBJECT),
    "pill": NSASettings(((0.03, 0.2), _FULL), (1 / 3, 7), _DARK, _OBJECT),
    "screw": NSASettings(((0.03, 0.12), (0.03, 0.12)), (1, 3), _BRIGHT, _OBJECT),
    "tile": NSASettings((_FULL, _FULL), (1 / 3, 7)),
    "toothbrush": NSASettings((_FULL, (0.03, 0.2)), (1 / 6, 15), _DARK, _OBJECT),
    "transistor": NSASettings((_FULL, _FULL), (1 / 6, 15), None, _OBJECT),
    "wood": NSASettings((_FULL, _FULL), (1 / 6, 15)),
    "zipper": NSASettings((_FULL, (0.03, 0.2)), (1 / 6, 15), _BRIGHT, _OBJECT),
}


def nsa_settings(category: str | None) -> NSASettings:
    """The published values of a category in MVTec AD's spelling, the neutral ones of any other name.

    Example:
        >>> nsa_settings("screw").logistic
        (1, 3)
        >>> nsa_settings("door hinge") == NSASettings()
        True
    """
    return NSA_SETTINGS.get(category, NSASettings())


def object_mask(image: np.ndarray, background: tuple[float, float] | None) -> np.ndarray:
    """Pixels whose brightness is not the background's, cleaned by a 7 x 7 median.

    Args:
        image (`np.ndarray` of shape `(height, width, 3)`, `uint8`): the picture.
        background (`tuple[float, float]`, *optional*): brightness and tolerance in grey levels; `None`: the object
            fills the picture.

    Returns:
        `np.ndarray` of shape `(height, width)`, `uint8`: 1 on the object, 0 on the background.
    """
    if background is None:
        return np.ones(image.shape[:2], np.uint8)
    brightness, tolerance = background
    total = channel_sum(image)
    far = (total < 3 * (brightness - tolerance)) | (total > 3 * (brightness + tolerance))
    return majority(far, 7).view(np.uint8)


def nsa(
    image: np.ndarray,
    source: np.ndarray,
    rng: np.random.Generator,
    category: str | None = None,
    *,
    settings: NSASettings | None = None,
    blending: Literal["normal", "mixed"] = "normal",
    compat: Literal["original"] | None = None,
) -> SyntheticAnomaly:
    """Blends up to two patches of another normal picture into a picture.

    Args:
        category (`str`, *optional*): chooses the values from `NSA_SETTINGS`; unknown names get the neutral ones.
        settings (`NSASettings`, *optional*): own values instead of the category's.
        blending (`str`, *optional*, defaults to `"normal"`): `"normal"` keeps the patch's gradients, `"mixed"` the
            stronger of patch and picture at each pixel.
        compat (`str`, *optional*): `"original"` draws exactly as the published code does, with its faults: the second
            patch's mask overwrites the first's, targets may be empty, and `regions` are the rectangles from which it
            tells the positions, the second of them being the box around both patches. By default the masks are united,
            a patch that can hardly be seen (less than 0.03 % of the picture above the target's threshold) is drawn
            again, and each region has its own mask.

    Returns:
        [`SyntheticAnomaly`]: of type `"blended_patch"`. By default the target is empty only if no patch could be seen
        after forty attempts (two pictures of one colour).

    Raises:
        ValueError: if a choice is unknown.
    """
    source = check_inputs(image, source, rng)
    if blending not in ("normal", "mixed"):
        raise ValueError(f"`blending` must be 'normal' or 'mixed', got {blending!r}. Choose one of them.")
    if compat not in (None, "original"):
        raise ValueError(f"`compat` must be 'original' or None, got {compat!r}. Leave it out for the mended labels.")
    if settings is None:
        settings = nsa_settings(category)
    mode = cv2.NORMAL_CLONE if blending == "normal" else cv2.MIXED_CLONE
    objects = object_mask(image, settings.background), object_mask(source, settings.background)
    blend = partial(_blend_patch, source=source, objects=objects, settings=settings, mode=mode, rng=rng)
    coin = partial(rng.integers, 2)
    if compat == "original":
        return _as_published(image, blend, coin, settings)
    steepness, middle = settings.logistic
    least_change = middle + np.log(MASK_THRESHOLD / (1 - MASK_THRESHOLD)) / steepness
    return _mended(image, partial(blend, least_change=least_change), coin, settings)


Box = tuple[slice, slice]
Blend = Callable[[np.ndarray], "_Patch | None"]


@dataclass(frozen=True, eq=False)
class _Patch:
    """A picture with one more patch, the box of the patch, and which pixels of the box are a target (`uint8`)."""

    image: np.ndarray
    box: Box
    mask: np.ndarray


def _as_published(image: np.ndarray, blend: Blend, coin: Callable[[], int], settings: NSASettings) -> SyntheticAnomaly:
    result, regions = image, []
    pasted = np.zeros(image.shape[:2], np.uint8)
    around = None  # the box around all patches so far
    for number in range(_PATCHES):
        patch = None if number > 0 and coin() == 0 else blend(result)
        if patch is None:
            continue
        result = patch.image
        pasted[patch.box] = patch.mask
        around = patch.box if around is None else tuple(map(_hull, around, patch.box))
        region = np.zeros(image.shape[:2], bool)
        region[around] = True
        regions.append(region)
    intensity = intensity_label(image, result, pasted, settings.logistic)
    result = image.copy() if result is image else result
    return SyntheticAnomaly(result, intensity > MASK_THRESHOLD, intensity, regions, "blended_patch")


def _mended(image: np.ndarray, blend: Blend, coin: Callable[[], int], settings: NSASettings) -> SyntheticAnomaly:
    result, boxes, near = image, [], False
    pasted = np.zeros(image.shape[:2], np.uint8)
    intensity = np.zeros(image.shape[:2], np.float32)
    for number in range(_PATCHES):
        for _ in range(0 if number > 0 and coin() == 0 else _PATCH_ATTEMPTS):
            patch = blend(result)
            if patch is None:
                continue
            target = np.zeros_like(pasted)
            target[patch.box] = patch.mask
            label = intensity_label(result, patch.image, target, settings.logistic)
            if np.count_nonzero(label > MASK_THRESHOLD) >= _MIN_TARGET * label.size:
                result = patch.image
                near |= bool(pasted[_grown(patch.box, 8)].any())
                pasted |= target
                intensity += label
                boxes.append(patch.box)
                break
    if near:  # such patches see each other through the filters, otherwise their labels just add up
        intensity = intensity_label(image, result, pasted, settings.logistic)
    mask = intensity > MASK_THRESHOLD
    if not mask.any():  # nothing can be seen, or patches undo each other
        return unchanged(image)
    return SyntheticAnomaly(result, mask, intensity, _region_of_each(boxes, mask), "blended_patch")


def _hull(one: slice, other: slice) -> slice:
    return slice(min(one.start, other.start), max(one.stop, other.stop))


def _grown(box: Box, pixels: int) -> Box:
    return tuple(slice(max(side.start - pixels, 0), side.stop + pixels) for side in box)


def _region_of_each(boxes: list[Box], mask: np.ndarray) -> list[np.ndarray]:
    """Splits the target among its patches; patches that overlap or touch are one defect to the eye."""
    groups = np.zeros(mask.shape, np.uint8)
    for box in boxes:
        groups[_grown(box, 2)] = 1
    count, groups = cv2.connectedComponents(groups, connectivity=8)
    regions = [mask & (groups == group) for group in range(1, count)]
    return [region for region in regions if region.any()]


def _blend_patch(
    image: np.ndarray,
    source: np.ndarray,
    objects: tuple[np.ndarray, np.ndarray],
    settings: NSASettings,
    mode: int,
    rng: np.random.Generator,
    least_change: float | None = None,
) -> _Patch | None:
    """Adds one patch, drawing in the published order: half sides, place in the source, scale, place in the picture.

    With `least_change` (in grey levels), patches are refused that cannot change the picture so much; this saves
    solving for patches of an even surface on an even surface.
    """
    size = image.shape[:2]
    bounds = zip(settings.size_bounds, size, strict=True)
    limits = [(round(low * side), round(high * side)) for (low, high), side in bounds]
    cut = _place_in_source(limits, objects[1], rng)
    if cut is None:
        return None
    height, width = _resized(source[cut].shape, limits, settings.resize_bounds, rng)
    patch = cv2.resize(source[cut], (width, height))
    patch_object = cv2.resize(objects[1][cut], (width, height))
    box = _place_in_picture(objects[0], patch_object, rng)
    # The object of the patch, that of the picture and the background of both make up the whole rectangle.
    blended = np.zeros((height, width), np.uint8)
    blended[1:-1, 1:-1] = 255
    too_small = min(height, width) < _MIN_PATCH_SIDE or cv2.countNonZero(blended) < _MIN_BLENDED_PIXELS
    if box is None or too_small:
        return None
    if least_change is not None and not _can_change(image[box], patch, least_change):
        return None
    rows, columns = box
    center = (columns.stop - width // 2, rows.start + height // 2)
    return _Patch(cv2.seamlessClone(patch, image, blended, center, mode), box, patch_object | objects[0][box])


def _can_change(under: np.ndarray, patch: np.ndarray, least: float) -> bool:
    """Bounds the change by the maximum principle.

    Blending adds to the picture the difference of both minus the harmonic function with the difference's border
    values; that function stays between the border's extremes, so the change is at most the range of the difference.
    It is taken over 12 x 12 means, because the label's filters remove what is finer.
    """
    small = (12, 12)
    difference = cv2.subtract(
        cv2.resize(patch, small, interpolation=cv2.INTER_AREA),
        cv2.resize(under, small, interpolation=cv2.INTER_AREA),
        dtype=cv2.CV_16S,
    )
    return float(np.ptp(difference.reshape(-1, 3), axis=0).mean()) >= least


def _place_in_source(limits: list[tuple[int, int]], source_object: np.ndarray, rng: np.random.Generator) -> Box | None:
    size = source_object.shape
    shape, scale, offset = _GAMMA
    halves = [
        int(np.clip((offset + rng.gamma(shape, scale)) * side, low, high))
        for side, (low, high) in zip(size, limits, strict=True)
    ]

    def draw() -> Box:
        centers = [int(rng.integers(low, side - low)) for side, (low, _) in zip(size, limits, strict=True)]
        return tuple(
            slice(max(center - half, 0), min(center + half, side))
            for center, half, side in zip(centers, halves, size, strict=True)
        )

    return _first_that_fits(draw, lambda cut: bool(source_object[cut].any()))


def _first_that_fits(draw: Callable[[], Box], fits: Callable[[Box], bool]) -> Box | None:
    for attempt in range(_PLACEMENT_ATTEMPTS):
        box = draw()
        if fits(box) and attempt < _PLACEMENT_ATTEMPTS - 1:
            return box
    return None


def _resized(
    shape: tuple[int, ...], limits: list[tuple[int, int]], bounds: Bounds, rng: np.random.Generator
) -> tuple[int, int]:
    """Draws a scale; keeps the aspect ratio as far as the limits let it."""
    height, width = shape[:2]
    scale = np.clip(rng.normal(1, 0.5), *bounds)
    new_height = np.clip(scale * height, *limits[0])
    new_width = int(np.clip(int(new_height / height * width), *limits[1]))
    return int(np.clip(int(new_width / width * height), *limits[0])), new_width


def _place_in_picture(picture_object: np.ndarray, patch_object: np.ndarray, rng: np.random.Generator) -> Box | None:
    pixels = cv2.countNonZero(patch_object)

    def draw() -> Box:
        return tuple(
            slice(center - length // 2, center + (length + 1) // 2)
            for side, length in zip(picture_object.shape, patch_object.shape, strict=True)
            for center in [int(rng.integers(length // 2 + 1, side - length // 2 - 1))]
        )

    def fits(box: Box) -> bool:
        return pixels > 0 and cv2.countNonZero(picture_object[box] & patch_object) / pixels > _MIN_OVERLAP

    return _first_that_fits(draw, fits)
