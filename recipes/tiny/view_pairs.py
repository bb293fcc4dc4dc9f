"""Exposures of one photograph: moved, turned, bent, relit, with synthetic anomalies."""

import cv2
import numpy as np

from modeling_anomalygpt.synthesis.synthesizer import Mixture, cut_paste, cut_paste_scar, nsa, perlin_texture

SYNTHESIS = Mixture([nsa, cut_paste, cut_paste_scar, perlin_texture], weights=[3, 1, 1, 1])


def square_crop(image: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """A square part of a photograph, at least half of its short side, turned by quarters, `size` pixels wide."""
    side = int(min(image.shape[:2]) * rng.uniform(0.5, 1))
    top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
    crop = np.rot90(image[top : top + side, left : left + side], int(rng.integers(4)))
    return cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=cv2.INTER_CUBIC)


def exposed(image: np.ndarray, rng: np.random.Generator, play: float, bend: float) -> np.ndarray:
    """The picture moved by up to `play` pixels, turned by as many degrees, bent smoothly by about `bend` pixels."""
    size = image.shape[0]
    matrix = cv2.getRotationMatrix2D(
        (size / 2, size / 2), rng.uniform(-play, play), 1 + rng.uniform(-play, play) / 150
    )
    matrix[:, 2] += rng.uniform(-play, play, 2)
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    x, y = (matrix[i, 0] * columns + matrix[i, 1] * rows + matrix[i, 2] for i in (0, 1))
    if bend:
        knots = rng.normal(0, bend, (int(rng.integers(3, 7)),) * 2 + (2,)).astype(np.float32)
        field = cv2.resize(knots, (size, size), interpolation=cv2.INTER_CUBIC)
        x, y = x + field[..., 0], y + field[..., 1]
    return cv2.remap(
        image, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )


def relit(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another light, sharpness, noise and compression."""
    lit = image.astype(np.float32)
    mean = lit.mean()
    lit = (mean + (lit - mean) * rng.uniform(0.9, 1.1)) * rng.uniform(0.9, 1.1) * rng.uniform(0.97, 1.03, 3)
    if rng.random() < 0.3:
        lit = cv2.GaussianBlur(lit, (0, 0), rng.uniform(0.3, 0.9))
    lit = np.clip(lit + rng.normal(0, rng.uniform(0.3, 4), lit.shape), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        _, data = cv2.imencode(".jpg", lit, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))])
        lit = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return lit
