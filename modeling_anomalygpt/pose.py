"""Brings an image into the pose of the good ones: rotated and moved in its plane, never stretched.

A part that lies any way is compared as if it lay as the good ones do; its map is brought back to where it lies.
Knows grey pixels and no model. Needs OpenCV.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

try:  # a checkpoint's own code must do without it
    import cv2
except ImportError:
    cv2 = None

Size = tuple[int, int]
VIEW_SIZE = 160
"""Side of the grey square copies in which a pose is looked for."""
MOST_VIEWS = 4
"""Good images in whose pose an image is looked for."""
LEAST_CORRELATION = 0.5
"""With the good image that it is most like: below it, an image has no pose."""
_COARSE_SIZE, _STEP = 64, 15  # pixels, degrees: half a step away the phase correlation still finds its peak
_REFINED = 4  # so many coarse poses are refined
_LEAST_GAIN = 0.03  # a pose is taken where the correlation rises by so much
_LEAST_OVERLAP = 0.6  # part of the good image that the other must cover
_NARROWEST = 16  # least side of an image in its view, in pixels
_SAME_FORM = 0.03  # images whose proportions differ by less have one form
_PATCHES = 16  # on a side of the coarsest grid that is compared


@dataclass(frozen=True)
class Pose:
    """How an image is brought into the pose of the good ones.

    Args:
        matrix (`np.ndarray` of shape `(2, 3)`): From the image's pixels `(x, y, 1)` to those of the aligned one.
        size (`tuple[int, int]`): `(height, width)` of the image.
        aligned_size (`tuple[int, int]`): That of the aligned one, in the form of the good ones.
    """

    matrix: np.ndarray
    size: Size
    aligned_size: Size

    @property
    def degrees(self) -> int:
        """By how much the part is rotated counter-clockwise beside the good ones, 0 to 359."""
        return round(math.degrees(math.atan2(self.matrix[1, 0], self.matrix[0, 0]))) % 360

    def aligned(self, image: Image.Image) -> Image.Image:
        """The image in the pose of the good ones; what it does not show is filled from its edges."""
        pixels = cv2.warpAffine(
            np.asarray(image), self.matrix, self.aligned_size[::-1], borderMode=cv2.BORDER_REPLICATE
        )
        return Image.fromarray(pixels)

    def aligned_mask(self, mask: np.ndarray) -> np.ndarray:
        """A boolean mask `(height, width)` of the image in the pose of the good ones."""
        flat = cv2.warpAffine(mask.astype(np.uint8), self.matrix, self.aligned_size[::-1], flags=cv2.INTER_NEAREST)
        return flat > 0

    def aligned_point(self, x: float, y: float) -> tuple[int, int]:
        """Where a pixel of the image lies in the aligned one; within it."""
        height, width = self.aligned_size
        across, down = self.matrix @ (x, y, 1)
        return round(min(max(across, 0), width - 1)), round(min(max(down, 0), height - 1))

    def compared(self) -> np.ndarray:
        """Which pixels of the aligned image are the image's own, half a patch away from what was filled in.

        Returns:
            `np.ndarray` of shape `aligned_size`: Boolean.
        """
        covered = self.aligned_mask(np.ones(self.size, bool)).astype(np.uint8)
        height, width = (2 * (side // (2 * _PATCHES)) + 1 for side in self.aligned_size)
        return cv2.erode(covered, np.ones((height, width), np.uint8)) > 0

    def restored(self, values: np.ndarray) -> np.ndarray:
        """Values of the aligned image `(height, width)` where the image shows them; 0 where it shows others."""
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(values.astype(np.float32), self.matrix, self.size[::-1], flags=flags)

    def compared_share(self) -> float:
        """Part of the image's pixels that is compared with the good ones, 0 to 1."""
        return float(self.restored(self.compared()).mean())


def view(image: Image.Image) -> np.ndarray:
    """The grey square copy of an image in which a pose is looked for.

    Returns:
        `np.ndarray` of shape `(160, 160)`: uint8; the image in its middle, around it what its edges show.
    """
    (height, width), (left, top) = _placed((image.height, image.width))
    small = np.asarray(image.convert("L").resize((width, height), Image.Resampling.BOX))
    edges = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    square = np.full((VIEW_SIZE, VIEW_SIZE), np.median(edges).astype(np.uint8))
    square[top : top + height, left : left + width] = small
    return square


def has_pose(image: Image.Image) -> bool:
    """Whether a pose can be told by a good image at all: it is not too narrow, and shows something."""
    (height, width), (left, top) = _placed((image.height, image.width))
    shown = view(image)[top : top + height, left : left + width]
    return min(height, width) >= _NARROWEST and float(shown.std()) > 2


def find_pose(image: Image.Image, views: Sequence[np.ndarray], frame: Size) -> tuple[Pose | None, float]:
    """The rotation and shift by which an image looks most like a good one.

    Coarsely by phase correlation of rotated copies, then by the enhanced correlation coefficient (Evangelidis and
    Psarakis, 2008). Light and contrast do not count. The longer sides of images show the same length.

    Args:
        image (`PIL.Image.Image`): RGB.
        views (`list[np.ndarray]`): Of one to four good images, from [`view`].
        frame (`tuple[int, int]`): `(height, width)` of the good images.

    Returns:
        `tuple[Pose | None, float]`: `None` where it looks most like them as it lies, or has no pose; and the
        correlation that is reached, 1 for the same image.

    Raises:
        ImportError: Without OpenCV.

    Example:
    ```python
    >>> part = Image.new("RGB", (96, 96))
    >>> part.paste((255, 255, 255), (20, 30, 50, 40))
    >>> part.paste((128, 128, 128), (40, 40, 50, 80))
    >>> pose, _ = find_pose(part.rotate(33), [view(part)], (96, 96))
    >>> pose.degrees
    33

    ```
    """
    if cv2 is None:
        raise ImportError("Following the pose of a part needs OpenCV. Run: pip install opencv-python-headless")
    size = (image.height, image.width)
    if not has_pose(image):
        return None, 0.0
    own = view(image)
    area, wanted = _area(size), _area(frame)
    unmoved = np.eye(2, 3)
    as_it_lies = max(_correlation(own, area, good, wanted, unmoved) for good in views)
    best, matrix = as_it_lies, None
    for number, coarse in _coarse_poses(own, area, views, wanted):
        refined = _refined(own, area, views[number], wanted, coarse)
        reached = _correlation(own, area, views[number], wanted, refined)
        if reached > best:
            best, matrix = reached, refined
    if best < LEAST_CORRELATION:
        return None, best
    if matrix is None or best < as_it_lies + _LEAST_GAIN:
        if abs(math.log(size[0] * frame[1] / (size[1] * frame[0]))) < _SAME_FORM:
            return None, as_it_lies
        matrix = unmoved if matrix is None else matrix
    return _in_pixels(matrix, size, frame), best


def _placed(size: Size) -> tuple[Size, tuple[int, int]]:
    """`(height, width)` of an image of this size in its view, and `(left, top)`."""
    scale = VIEW_SIZE / max(size)
    height, width = (max(1, round(side * scale)) for side in size)
    return (height, width), ((VIEW_SIZE - width) // 2, (VIEW_SIZE - height) // 2)


def _area(size: Size) -> np.ndarray:
    """Where an image of this size lies in its view, uint8 `(160, 160)`."""
    (height, width), (left, top) = _placed(size)
    area = np.zeros((VIEW_SIZE, VIEW_SIZE), np.uint8)
    area[top : top + height, left : left + width] = 1
    return area


def _in_pixels(matrix: np.ndarray, size: Size, frame: Size) -> Pose:
    """A matrix between views as one between an image's pixels and those of its aligned copy."""
    (height, width), _ = _placed(frame)
    scale = max(size) / VIEW_SIZE
    aligned_size = (max(1, round(height * scale)), max(1, round(width * scale)))
    whole = np.linalg.inv(_to_view(aligned_size, frame)) @ np.vstack([matrix, [0, 0, 1]]) @ _to_view(size, size)
    return Pose(whole[:2], size, aligned_size)


def _to_view(size: Size, shape: Size) -> np.ndarray:
    """From the pixels of an image of this size to those of a view in which it lies as one of the other size does."""
    (height, width), (left, top) = _placed(shape)
    down, across = height / size[0], width / size[1]
    # Pixels are squares: their middles lie half a pixel in.
    return np.array([[across, 0, left + across / 2 - 0.5], [0, down, top + down / 2 - 0.5], [0, 0, 1]])


def _coarse_poses(
    own: np.ndarray, area: np.ndarray, goods: Sequence[np.ndarray], wanted: np.ndarray
) -> list[tuple[int, np.ndarray]]:
    """Numbers of good views, and matrices to them, the most promising first."""
    side, scale = (_COARSE_SIZE, _COARSE_SIZE), _COARSE_SIZE / VIEW_SIZE
    small, area, wanted, *others = (
        cv2.resize(one, side, interpolation=cv2.INTER_AREA) for one in (own, area, wanted, *goods)
    )
    middle = ((_COARSE_SIZE - 1) / 2, (_COARSE_SIZE - 1) / 2)
    window = cv2.createHanningWindow(side, cv2.CV_32F)
    windowed = [(other - np.float32(other.mean())) * window for other in others]
    found = []
    for degrees in range(0, 360, _STEP):
        rotation = cv2.getRotationMatrix2D(middle, degrees, 1.0)
        rotated = cv2.warpAffine(small, rotation, side, borderMode=cv2.BORDER_REPLICATE)
        rotated = (rotated - np.float32(rotated.mean())) * window
        for number, other in enumerate(windowed):
            shift, _ = cv2.phaseCorrelate(rotated, other)
            matrix = rotation + [[0, 0, shift[0]], [0, 0, shift[1]]]
            found.append((_correlation(small, area, others[number], wanted, matrix), number, matrix))
    found.sort(key=lambda one: -one[0])
    half = (1 / scale - 1) / 2
    poses = []
    for _, number, matrix in found[:_REFINED]:
        matrix[:, 2] = matrix[:, 2] / scale + half - matrix[:, :2] @ (half, half)
        poses.append((number, matrix))
    return poses


def _refined(
    own: np.ndarray, area: np.ndarray, good: np.ndarray, wanted: np.ndarray, matrix: np.ndarray
) -> np.ndarray:
    """The matrix after some steps uphill; as it was where these lead nowhere."""
    size, steps = good.shape[::-1], (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
    moved = cv2.warpAffine(own, matrix, size, borderMode=cv2.BORDER_REPLICATE)  # OpenCV's steps lose angles above 90
    covered = cv2.warpAffine(area, matrix, size, flags=cv2.INTER_NEAREST)
    rest = np.eye(2, 3, dtype=np.float32)
    try:
        _, rest = cv2.findTransformECC(good, moved, rest, cv2.MOTION_EUCLIDEAN, steps, covered, 5)
    except cv2.error:  # it does not converge
        return matrix
    rest = cv2.invertAffineTransform(np.float64(rest))
    refined = np.column_stack([rest[:, :2] @ matrix[:, :2], rest[:, :2] @ matrix[:, 2] + rest[:, 2]])
    better = _correlation(own, area, good, wanted, refined) > _correlation(own, area, good, wanted, matrix)
    return refined if better else matrix


def _correlation(own: np.ndarray, area: np.ndarray, good: np.ndarray, wanted: np.ndarray, matrix: np.ndarray) -> float:
    """How alike a moved view and a good one are where both show something, -1 to 1."""
    size = good.shape[::-1]
    covered = (cv2.warpAffine(area, matrix, size, flags=cv2.INTER_NEAREST) > 0) & (wanted > 0)
    if covered.sum() < _LEAST_OVERLAP * np.count_nonzero(wanted):
        return -1.0
    moved, still = np.float32(cv2.warpAffine(own, matrix, size)[covered]), np.float32(good[covered])
    moved, still = moved - moved.mean(), still - still.mean()
    return float((moved * still).mean() / (moved.std() * still.std() + 1e-3))


__all__ = ["LEAST_CORRELATION", "MOST_VIEWS", "VIEW_SIZE", "Pose", "find_pose", "has_pose", "view"]
