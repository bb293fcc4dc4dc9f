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

VIEW_SIZE = 160
"""Longer side of the grey copies in which a pose is looked for."""
_COARSE_SIZE, _STEP = 64, 15  # pixels, degrees: half a step away the phase correlation still finds its peak
_REFINED = 4  # so many coarse poses are refined
MOST_VIEWS = 4
"""Good images in whose pose an image is looked for."""
# A pose is taken where the correlation with the good image rises by so much, to at least so much.
_LEAST_GAIN, LEAST_CORRELATION = 0.03, 0.5
_LEAST_OVERLAP = 0.6  # part of the good image that the other must cover


@dataclass(frozen=True)
class Pose:
    """How an image is brought into the pose of the good ones.

    Args:
        matrix (`np.ndarray` of shape `(2, 3)`): From the image's pixels `(x, y, 1)` to those of the aligned one.
        size (`tuple[int, int]`): `(height, width)` of the image and of the aligned one.
    """

    matrix: np.ndarray
    size: tuple[int, int]

    @property
    def degrees(self) -> int:
        """By how much the part is rotated counter-clockwise beside the good ones, 0 to 359."""
        return round(math.degrees(math.atan2(self.matrix[1, 0], self.matrix[0, 0]))) % 360

    def aligned(self, image: Image.Image) -> Image.Image:
        """The image in the pose of the good ones; what it does not show is filled from its edges."""
        pixels = cv2.warpAffine(
            np.asarray(image), self.matrix, self.size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        return Image.fromarray(pixels)

    def aligned_mask(self, mask: np.ndarray) -> np.ndarray:
        """A boolean mask `(height, width)` of the image in the pose of the good ones."""
        return self._warped(mask.astype(np.uint8), cv2.INTER_NEAREST) > 0

    def aligned_point(self, x: float, y: float) -> tuple[int, int]:
        """Where a pixel of the image lies in the aligned one; within it."""
        across, down = self.matrix @ (x, y, 1)
        return round(min(max(across, 0), self.size[1] - 1)), round(min(max(down, 0), self.size[0] - 1))

    def restored(self, anomaly_map: np.ndarray) -> np.ndarray:
        """A map `(height, width)` of the aligned image where the image shows it.

        0 where the image was not compared: outside the frame, and beside what was filled in, about a patch wide.
        """
        covered = self._warped(np.ones(self.size, np.uint8), cv2.INTER_NEAREST)
        width = 2 * (max(self.size) // 32) + 1
        covered = cv2.erode(covered, np.ones((width, width), np.uint8))
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(anomaly_map * covered, self.matrix, self.size[::-1], flags=flags)

    def _warped(self, values: np.ndarray, flags: int) -> np.ndarray:
        return cv2.warpAffine(values, self.matrix, self.size[::-1], flags=flags)


def view(image: Image.Image) -> np.ndarray:
    """The grey copy of an image in which a pose is looked for, uint8 `(height, width)`, the longer side 160 pixels."""
    scale = VIEW_SIZE / max(image.size)
    size = tuple(max(8, round(side * scale)) for side in image.size)
    return np.asarray(image.convert("L").resize(size, Image.Resampling.BOX))


def find_pose(image: Image.Image, views: Sequence[np.ndarray]) -> tuple[Pose | None, float]:
    """The rotation and shift by which an image looks most like a good one.

    Coarsely by phase correlation of rotated copies, then by the enhanced correlation coefficient (Evangelidis and
    Psarakis, 2008). Light and contrast do not count.

    Args:
        image (`PIL.Image.Image`): RGB.
        views (`list[np.ndarray]`): Of one to four good images, from [`view`].

    Returns:
        `tuple[Pose | None, float]`: `None` where it looks most like them as it lies; and the correlation that is
        reached, 1 for the same image.

    Raises:
        ImportError: Without OpenCV.

    Example:
    ```python
    >>> part = Image.new("RGB", (96, 96))
    >>> part.paste((255, 255, 255), (20, 30, 50, 40))
    >>> part.paste((128, 128, 128), (40, 40, 50, 80))
    >>> pose, _ = find_pose(part.rotate(33), [view(part)])
    >>> pose.degrees
    33

    ```
    """
    if cv2 is None:
        raise ImportError("Following the pose of a part needs OpenCV. Run: pip install opencv-python-headless")
    own = view(image)
    goods = [cv2.resize(one, own.shape[::-1], interpolation=cv2.INTER_AREA) for one in views]
    unmoved = np.eye(2, 3)
    as_it_lies = max(_correlation(own, good, unmoved) for good in goods)
    best, matrix = as_it_lies, None
    for number, coarse in _coarse_poses(own, goods):
        refined = _refined(own, goods[number], coarse)
        reached = _correlation(own, goods[number], refined)
        if reached > best:
            best, matrix = reached, refined
    if matrix is None or best < max(as_it_lies + _LEAST_GAIN, LEAST_CORRELATION):
        return None, as_it_lies
    scale = max(image.size) / VIEW_SIZE
    matrix = np.float64(matrix)
    middle = (scale - 1) / 2  # pixels are squares: their middles lie half a pixel in
    matrix[:, 2] = scale * matrix[:, 2] + middle - matrix[:, :2] @ (middle, middle)
    return Pose(matrix, (image.height, image.width)), best


def _coarse_poses(own: np.ndarray, goods: Sequence[np.ndarray]) -> list[tuple[int, np.ndarray]]:
    """Numbers of good views, and matrices to them, the most promising first."""
    scale = _COARSE_SIZE / max(own.shape)
    small, *others = (cv2.resize(one, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for one in (own, *goods))
    height, width = small.shape
    middle = ((width - 1) / 2, (height - 1) / 2)
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    windowed = [(other - np.float32(other.mean())) * window for other in others]
    found = []
    for degrees in range(0, 360, _STEP):
        rotation = cv2.getRotationMatrix2D(middle, degrees, 1.0)
        rotated = cv2.warpAffine(small, rotation, (width, height), borderMode=cv2.BORDER_REPLICATE)
        rotated = (rotated - np.float32(rotated.mean())) * window
        for number, other in enumerate(windowed):
            shift, _ = cv2.phaseCorrelate(rotated, other)
            matrix = rotation + [[0, 0, shift[0]], [0, 0, shift[1]]]
            found.append((_correlation(small, others[number], matrix), number, matrix))
    found.sort(key=lambda one: -one[0])
    middle = (1 / scale - 1) / 2
    poses = []
    for _, number, matrix in found[:_REFINED]:
        matrix[:, 2] = matrix[:, 2] / scale + middle - matrix[:, :2] @ (middle, middle)
        poses.append((number, matrix))
    return poses


def _refined(own: np.ndarray, good: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The matrix after some steps uphill; as it was where these lead nowhere."""
    size, steps = good.shape[::-1], (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
    moved = cv2.warpAffine(own, matrix, size, borderMode=cv2.BORDER_REPLICATE)  # OpenCV's steps lose angles above 90
    covered = cv2.warpAffine(np.ones(own.shape, np.uint8), matrix, size, flags=cv2.INTER_NEAREST)
    rest = np.eye(2, 3, dtype=np.float32)
    try:
        _, rest = cv2.findTransformECC(good, moved, rest, cv2.MOTION_EUCLIDEAN, steps, covered, 5)
    except cv2.error:  # it does not converge
        return matrix
    rest = cv2.invertAffineTransform(np.float64(rest))
    refined = np.column_stack([rest[:, :2] @ matrix[:, :2], rest[:, :2] @ matrix[:, 2] + rest[:, 2]])
    return refined if _correlation(own, good, refined) > _correlation(own, good, matrix) else matrix


def _correlation(own: np.ndarray, good: np.ndarray, matrix: np.ndarray) -> float:
    """How alike a moved view and a good one are where both show something, -1 to 1."""
    size = good.shape[::-1]
    covered = cv2.warpAffine(np.ones(own.shape, np.uint8), matrix, size, flags=cv2.INTER_NEAREST) > 0
    if covered.mean() < _LEAST_OVERLAP:
        return -1.0
    moved, still = np.float32(cv2.warpAffine(own, matrix, size)[covered]), np.float32(good[covered])
    moved, still = moved - moved.mean(), still - still.mean()
    return float((moved * still).mean() / (moved.std() * still.std() + 1e-3))


__all__ = ["LEAST_CORRELATION", "MOST_VIEWS", "VIEW_SIZE", "Pose", "find_pose", "view"]
