"""Noise fields, light and camera for drawing pictures of industrial parts with NumPy and OpenCV.

Units: a part lives in the plane, its own units reaching from -1 to 1 along each axis (x to the right, y down); a
[`View`] maps them to pixels. Images are `uint8` RGB of shape `(size, size, 3)`, heights are `float32` in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Light:
    """Where the light of a picture comes from and how it falls.

    Args:
        azimuth (`float`): Direction the light comes from in the image plane, in radians.
        tilt (`float`): Angle from the optical axis, in radians, 0 to 1.3; larger means more grazing.
        level (`float`): Brightness factor of the whole picture.
        warmth (`float`): Red against blue, -0.15 (cold) to 0.15 (warm).
        slope (`float`): Relative fall of brightness from the lit edge to the far edge, 0 to 0.5.
        vignette (`float`): Relative darkening of the corners, 0 to 0.5.
    """

    azimuth: float = 3.9
    tilt: float = 0.7
    level: float = 1.0
    warmth: float = 0.0
    slope: float = 0.1
    vignette: float = 0.1


@dataclass(frozen=True)
class Camera:
    """What the camera adds to a picture.

    Args:
        blur (`float`): Standard deviation of the blur in pixels of a 224 pixel picture.
        noise (`float`): Standard deviation of the sensor noise in grey levels.
        jpeg (`int`): JPEG quality, 1 to 100; 0 stores the picture without loss.
    """

    blur: float = 0.4
    noise: float = 2.0
    jpeg: int = 90

    def expose(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Blurs a `uint8` RGB picture `(height, width, 3)`, adds noise and compresses it, as the camera stores it."""
        height, width = image.shape[:2]
        sigma = self.blur * width / 224
        if sigma > 0.2:
            image = cv2.GaussianBlur(image, (0, 0), sigma)
        if self.noise > 0:
            grain = rng.standard_normal((height, width, 1), dtype=np.float32) * self.noise
            chroma = rng.standard_normal((height // 2 + 1, width // 2 + 1, 3), dtype=np.float32) * (self.noise * 0.4)
            grain = grain + cv2.resize(chroma, (width, height), interpolation=cv2.INTER_LINEAR)
            image = to_uint8(image + grain)
        if self.jpeg:
            bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self.jpeg])
            image = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return image


@dataclass
class View:
    """How one photograph sees a part: the map from part units to pixels, the light, and the part's own texture.

    Args:
        size (`int`): Width and height of the picture in pixels.
        matrix (`np.ndarray`): Affine map of shape `(2, 3)` from part units to pixels.
        light (`Light`): The light.
        texture (`np.random.Generator`): Source of everything that differs between two pieces of one product.
    """

    size: int
    matrix: np.ndarray
    light: Light
    texture: np.random.Generator

    @property
    def scale(self) -> float:
        """Pixels of one part unit."""
        return float(np.hypot(self.matrix[0, 0], self.matrix[1, 0]))

    @property
    def angle(self) -> float:
        """Rotation of the part in the picture, in radians."""
        return float(np.arctan2(self.matrix[1, 0], self.matrix[0, 0]))

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Maps points `(N, 2)` in part units to pixel positions `(N, 2)`."""
        return np.asarray(points, np.float64) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """Part coordinates x and y of every pixel, two `float32` arrays of shape `(size, size)`."""
        inverse = np.linalg.inv(self.matrix[:, :2]).astype(np.float32)
        along = np.arange(self.size, dtype=np.float32)
        dx, dy = along - np.float32(self.matrix[0, 2]), along - np.float32(self.matrix[1, 2])
        x = inverse[0, 0] * dx[None, :] + inverse[0, 1] * dy[:, None]
        y = inverse[1, 0] * dx[None, :] + inverse[1, 1] * dy[:, None]
        return x, y

    def turn(self, field: np.ndarray) -> np.ndarray:
        """Turns a field drawn on a square of part units -1.5 to 1.5 into this view (edges are mirrored)."""
        step = 3.0 / field.shape[0]
        onto = np.array([[step, 0, -1.5 + step / 2], [0, step, -1.5 + step / 2], [0, 0, 1]])
        shape, mirrored = (self.size, self.size), cv2.BORDER_REFLECT_101
        return cv2.warpAffine(field, self.matrix @ onto, shape, flags=cv2.INTER_LINEAR, borderMode=mirrored)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Rounds and clips to `uint8`.

    ```python
    >>> import numpy as np
    >>> to_uint8(np.array([-3.0, 12.4, 300.0], dtype=np.float32)).tolist()
    [0, 12, 255]

    ```
    """
    image = np.ascontiguousarray(image, dtype=np.float32)
    flat = cv2.convertScaleAbs(np.maximum(image, 0).reshape(image.shape[0], -1))
    return flat.reshape(image.shape)


def noise_field(
    rng: np.random.Generator, size: int, cells: float | tuple[float, float], octaves: int = 1, gain: float = 0.5
) -> np.ndarray:
    """Smooth random field, `float32` `(size, size)`, with mean near 0 and standard deviation near 1.

    Args:
        rng (`np.random.Generator`): Source of the draw.
        size (`int`): Width and height in pixels.
        cells (`float` or `tuple[float, float]`): Lattice cells of the coarsest octave along the rows and columns;
            unequal numbers give fibres.
        octaves (`int`, *optional*, defaults to 1): Number of octaves, each of twice the frequency.
        gain (`float`, *optional*, defaults to 0.5): Amplitude of an octave relative to the one before.
    """
    rows, columns = (cells, cells) if np.isscalar(cells) else cells
    total, power = None, 0.0
    for octave in range(octaves):
        shape = (min(int(rows * 2**octave) + 2, size), min(int(columns * 2**octave) + 2, size))
        layer = rng.standard_normal(shape, dtype=np.float32)
        layer = cv2.resize(layer, (size, size), interpolation=cv2.INTER_CUBIC)
        amplitude = gain**octave
        total = layer if total is None else total + amplitude * layer
        power += amplitude**2
    return total * np.float32(1.25 / np.sqrt(power))


def scattered_points(rng: np.random.Generator, size: int, spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells around points scattered with about `spacing` pixels between them (a jittered lattice).

    The distance of every pixel to its nearest point (`float32`, pixels) and the number of that point (`int32`, from
    0), both `(size, size)`; and the points `(N, 2)` as column and row (`float32`).
    """
    count = int(np.ceil(size / spacing)) + 1
    lattice = (np.arange(count) + 0.5) * spacing - spacing / 2
    rows, columns = np.meshgrid(lattice, lattice, indexing="ij")
    jitter = rng.uniform(-0.42, 0.42, (2, count, count)) * spacing
    rows = np.clip(np.rint(rows + jitter[0]), 0, size - 1).astype(np.intp)
    columns = np.clip(np.rint(columns + jitter[1] + (np.arange(count) % 2)[:, None] * spacing / 2), 0, size - 1)
    columns = columns.astype(np.intp)
    seeds = np.full((size, size), 255, np.uint8)
    seeds[rows, columns] = 0
    distance, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    labels -= 1
    points = np.zeros((int(labels.max()) + 1, 2), np.float32)
    points[labels[rows, columns]] = np.stack([columns, rows], -1)
    return distance, labels, points


def dome(mask: np.ndarray, radius: float) -> np.ndarray:
    """Rounds a `uint8` silhouette: a `float32` height from 0 at its edge to 1 at `radius` pixels inside."""
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    rest = 1 - np.minimum(inside / np.float32(max(radius, 1.0)), 1)
    return np.sqrt(1 - rest * rest)


def relief(
    image: np.ndarray,
    height: np.ndarray,
    light: Light,
    gloss: float = 0.0,
    shininess: float = 24.0,
    ambient: float = 0.4,
    inside: np.ndarray | None = None,
) -> np.ndarray:
    """Shades a coloured height map by Lambert's law with a Blinn-Phong highlight.

    Args:
        image (`np.ndarray`): Colours, `(size, size, 3)`, `uint8` or `float32` in 0 to 255.
        height (`np.ndarray`): `float32` height in pixels, `(size, size)`.
        light (`Light`): The light.
        gloss (`float`, *optional*, defaults to 0): Strength of the highlight, 0 to 1.
        shininess (`float`, *optional*, defaults to 24): Exponent of the highlight.
        ambient (`float`, *optional*, defaults to 0.4): Share of the light that comes from everywhere.
        inside (`np.ndarray`, *optional*): Silhouette, outside of which all keeps its colours.

    Returns:
        `np.ndarray`: `float32` colours, not yet clipped; a level surface keeps its colour (without gloss).
    """
    image = np.asarray(image, np.float32)
    height = np.ascontiguousarray(height, np.float32)
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=0.125)
    length = 1.0 / np.sqrt(1 + dx * dx + dy * dy)
    sine, cosine = np.sin(light.tilt), np.cos(light.tilt)
    lx, ly = np.float32(np.cos(light.azimuth) * sine), np.float32(np.sin(light.azimuth) * sine)
    facing = np.maximum((-lx * dx - ly * dy + np.float32(cosine)) * length, 0)
    shade = np.float32(ambient) + np.float32((1 - ambient) / max(cosine, 0.2)) * facing
    cover = None
    if inside is not None:
        cover = cv2.GaussianBlur((inside > 0).astype(np.float32), (0, 0), 0.7)
        shade = 1 + (shade - 1) * cover
    out = image * shade[..., None]
    if gloss > 0:
        hz = np.cos(light.tilt / 2)
        reach = np.sin(light.tilt / 2) / max(sine, 1e-3)
        spark = np.maximum((-lx * reach * dx - ly * reach * dy + hz) * length, 0).astype(np.float32)
        level = hz**shininess  # what a flat surface already shows is part of its colour
        highlight = np.float32(255 * gloss) * (cv2.pow(spark, shininess) - np.float32(level))
        out += (highlight if cover is None else highlight * cover)[..., None]
    return out


def cast_shadow(image: np.ndarray, mask: np.ndarray, light: Light, length: float, strength: float = 0.45) -> None:
    """Darkens, in place, what lies beside a silhouette on the side away from the light.

    Colours are `float32` `(size, size, 3)`, `length` is in pixels, `strength` 0 to 1.
    """
    solid = (mask > 0).astype(np.float32)
    dx, dy = -np.cos(light.azimuth) * length, -np.sin(light.azimuth) * length
    moved = cv2.warpAffine(solid, np.array([[1, 0, dx], [0, 1, dy]]), solid.shape[::-1])
    moved = cv2.GaussianBlur(np.maximum(moved, solid), (0, 0), max(length * 0.45, 0.6))
    image *= (1 - np.float32(strength) * moved * (1 - solid))[..., None]


def illuminate(image: np.ndarray, light: Light) -> np.ndarray:
    """Applies the level, colour, slope and vignette of the light to a `float32` picture; returns `uint8`."""
    size = image.shape[0]
    along = np.linspace(-1, 1, size, dtype=np.float32)
    fall = np.float32(light.slope * 0.5) * (
        np.float32(np.cos(light.azimuth)) * along[None, :] + np.float32(np.sin(light.azimuth)) * along[:, None]
    )
    radius = along[None, :] ** 2 + along[:, None] ** 2
    field = np.float32(light.level) * (1 + fall) * (1 - np.float32(light.vignette * 0.5) * radius)
    tint = np.array([1 + light.warmth, 1, 1 - light.warmth], np.float32)
    return to_uint8(image * (field[..., None] * tint))
