"""What every synthesis method returns, and the labels they share: changed pixels, disk median, logistic intensity.

Nothing here modifies its input.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image

# Patches are shares of the picture; below this side they are too small for the Poisson solver of OpenCV.
MIN_SIDE = 32

_DISK_RADIUS = 5
_DISK_ROWS, _DISK_COLUMNS = np.nonzero(
    np.hypot(*np.mgrid[-_DISK_RADIUS : _DISK_RADIUS + 1, -_DISK_RADIUS : _DISK_RADIUS + 1]) <= _DISK_RADIUS
)
_MIDDLE = len(_DISK_ROWS) // 2


@dataclass(frozen=True, eq=False)
class SyntheticAnomaly:
    """A picture with a synthetic defect, and everything that is known about the defect.

    Attributes:
        image (`np.ndarray` of shape `(height, width, 3)`, `uint8`): the picture after the change.
        mask (`np.ndarray` of shape `(height, width)`, `bool`): anomalous pixels, the target of training. Empty when no
            visible defect could be made; such a picture is to be treated as normal.
        intensity (`np.ndarray` of shape `(height, width)`, `float32`): soft label in [0, 1]; `mask` is where it is
            above `MASK_THRESHOLD`.
        regions (`list` of `np.ndarray` of shape `(height, width)`, `bool`): one mask a defect. Together they are
            `mask`, no two overlap, none is empty (except with `compat="original"`, see `nsa`).
        defect_type (`str`): the kind of defect, such as `"blended_patch"`; `"good"` when `mask` is empty.
    """

    image: np.ndarray
    mask: np.ndarray
    intensity: np.ndarray
    regions: list[np.ndarray] = field(default_factory=list)
    defect_type: str = "good"

    @property
    def is_anomalous(self) -> bool:
        """Whether the target has at least one pixel."""
        return bool(self.mask.any())


def shrunk(image: Image.Image, short_side: int | None) -> Image.Image:
    """The picture, resized to this short side (in pixels) if its own is longer."""
    if short_side is None or min(image.size) <= short_side:
        return image
    factor = short_side / min(image.size)
    width, height = (max(round(side * factor), short_side) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)


def unchanged(image: np.ndarray) -> SyntheticAnomaly:
    """Wraps a picture in which no visible defect could be made: a copy, with an empty target."""
    size = image.shape[:2]
    return SyntheticAnomaly(image.copy(), np.zeros(size, bool), np.zeros(size, np.float32))


def confined(anomaly: SyntheticAnomaly, image: np.ndarray, foreground: np.ndarray) -> SyntheticAnomaly:
    """Keeps of a defect on `image` what lies on the part, whose pixels are `foreground` (`bool`, of its size).

    Unchanged where less than a quarter of the defect, or less than 4 pixels, would remain.
    """
    mask = anomaly.mask & foreground
    if mask.sum() < max(4, anomaly.mask.sum() / 4):
        return unchanged(image)
    regions = [region & foreground for region in anomaly.regions]
    return SyntheticAnomaly(
        np.where(foreground[..., None], anomaly.image, image),
        mask,
        anomaly.intensity * foreground,
        [region for region in regions if region.any()],
        anomaly.defect_type,
    )


def check_inputs(image: np.ndarray, source: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Checks what a synthesis method was given and brings the source to the picture's size.

    Args:
        image (`np.ndarray` of shape `(height, width, 3)`, `uint8`): the picture to change.
        source (`np.ndarray` of shape `(any, any, 3)`, `uint8`): the picture to take material from.
        rng (`np.random.Generator`): draws everything.

    Returns:
        `np.ndarray` of shape `(height, width, 3)`, `uint8`: the source, resized when its size differs.

    Raises:
        TypeError: if `rng` is not a `np.random.Generator`.
        ValueError: if a picture is not `uint8`, not `(height, width, 3)`, or has a side below 32 pixels.
    """
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"`rng` must be a numpy Generator, got {type(rng).__name__}. Make one with np.random.default_rng(seed)."
        )
    for name, picture in (("image", image), ("source", source)):
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
            kind = picture.dtype if isinstance(picture, np.ndarray) else type(picture).__name__
            raise ValueError(f"`{name}` must be a uint8 array, got {kind}. Convert it with np.asarray(picture).")
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"`{name}` must have shape (height, width, 3), got {picture.shape}. Convert the picture to RGB."
            )
        if min(picture.shape[:2]) < MIN_SIDE:
            raise ValueError(
                f"`{name}` must have sides of at least {MIN_SIDE} pixels, got {picture.shape[:2]}. "
                "Use a larger picture."
            )
    if source.shape == image.shape:
        return source
    height, width = image.shape[:2]
    shrinks = source.shape[0] >= height and source.shape[1] >= width
    return cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def channel_sum(image: np.ndarray) -> np.ndarray:
    """Sum of the three colour channels of a picture, `uint16`: 0 to 765, three times the mean brightness."""
    first, second, third = cv2.split(image)
    return np.add(first, second, dtype=np.uint16) + third


def majority(mask: np.ndarray, size: int) -> np.ndarray:
    """Median filter of a mask: a vote among `size` x `size` pixels (odd, 15 at most), border pixels repeated."""
    votes = cv2.boxFilter(mask.view(np.uint8), -1, (size, size), normalize=False, borderType=cv2.BORDER_REPLICATE)
    return votes > size * size // 2


def disk_median(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Median over a disk of 11 pixels diameter (81 pixels), computed at chosen pixels only.

    Equal, value for value, to a median filter of the whole array with that footprint and repeated border pixels, which
    is what the original computes; its cost is proportional to the chosen pixels instead of to the array.

    Args:
        values (`np.ndarray` of shape `(height, width)`): any real type; integers of 16 bits are the fastest.
        where (`np.ndarray` of shape `(height, width)`, `bool`): pixels whose median is wanted.

    Returns:
        `np.ndarray` of shape `(number of chosen pixels,)`: medians in row-major order, of the type of `values`.
    """
    padded = np.pad(values, _DISK_RADIUS, mode="edge")
    width = padded.shape[1]
    rows, columns = np.nonzero(where)
    corners = rows * width + columns  # of the windows, in the padded array
    window = _DISK_ROWS * width + _DISK_COLUMNS
    medians = np.empty(len(corners), values.dtype)
    step = 1024  # keeps the gathered windows within the processor's cache
    for start in range(0, len(corners), step):
        gathered = padded.ravel().take(corners[start : start + step, None] + window)
        gathered.partition(_MIDDLE, axis=1)
        medians[start : start + step] = gathered[:, _MIDDLE]
    return medians


def intensity_label(
    before: np.ndarray, after: np.ndarray, pasted: np.ndarray, logistic: tuple[float, float]
) -> np.ndarray:
    """Soft label of NSA: a logistic function of the median-filtered change of intensity.

    A pixel counts as changed where the mean absolute difference of the channels is above 1 inside `pasted`, cleaned by
    a 5 x 5 median; the change itself is filtered by the disk median; the label is `1 / (1 + exp(-k (change - x0)))`.
    Source: https://arxiv.org/abs/2109.15222, section 3.3.

    Args:
        before, after (`np.ndarray` of shape `(height, width, 3)`, `uint8`): the picture without and with the change.
        pasted (`np.ndarray` of shape `(height, width)`, `bool` or `uint8`): where the change was made; what lies
            outside is no target.
        logistic (`tuple[float, float]`): steepness `k` per grey level, and `x0`, the change in grey levels whose label
            is 0.5.

    Returns:
        `np.ndarray` of shape `(height, width)`, `float32`: labels in [0, 1].
    """
    label = np.zeros(before.shape[:2], np.float32)
    x, y, width, height = cv2.boundingRect(pasted.view(np.uint8))
    if width == 0:
        return label
    # Cleaning may fill corners between two patches, never more than two pixels away from them.
    box = (slice(max(y - 2, 0), y + height + 2), slice(max(x - 2, 0), x + width + 2))
    change = channel_sum(cv2.absdiff(before[box], after[box]))
    changed = majority((change > 3) & (pasted[box] > 0), 5)
    # The outermost pixels of the box are zero or the picture's own border, so the box filters like the whole picture.
    medians = disk_median(np.where(changed, change, np.uint16(0)), changed)
    steepness, middle = logistic
    label[box][changed] = 1 / (1 + np.exp(-steepness * (medians / 3.0 - middle)))
    return label


def changed_pixels(before: np.ndarray, after: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Pixels of a pasted shape that can be seen: more than 5 grey levels changed, specks removed, pinholes closed.

    Args:
        before, after (`np.ndarray` of shape `(height, width, 3)`, `uint8`): the picture without and with the change.
        shape (`np.ndarray` of shape `(height, width)`, `bool`): where the change was made.

    Returns:
        `np.ndarray` of shape `(height, width)`, `bool`: the visible part of `shape`.
    """
    changed = majority((channel_sum(cv2.absdiff(before, after)) > 3 * 5) & shape, 5)
    return (cv2.morphologyEx(changed.view(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8)) > 0) & shape


def separate_regions(mask: np.ndarray, min_area: int = 1) -> list[np.ndarray]:
    """Connected parts of a mask (8 neighbours) of `min_area` pixels or more, largest first: one mask each."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    order = 1 + np.argsort(-areas, kind="stable")
    return [parts == part for part in order if areas[part - 1] >= min_area]
