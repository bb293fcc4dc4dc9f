"""Pairs of pictures of the same kind of thing with synthetic anomalies, to learn comparing with references.

Half of the pairs are two exposures of one photograph (moved, turned, bent, relit), the others two photographs of a
rendered product's different pieces. Either picture may have anomalies; what both share is normal, also when it was
pasted into the photograph before the exposures, so that pasted edges alone do not tell an anomaly.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from datasets_scripts import TRAINING_FAMILIES, render_product
from datasets_scripts.rendering.defects import SURFACE_DEFECTS, apply_defect
from modeling_anomalygpt.synthesis.synthesizer import Mixture, cut_paste, cut_paste_scar, nsa, perlin_texture

SYNTHESIS = Mixture([nsa, cut_paste, cut_paste_scar, perlin_texture], weights=[3, 1, 1, 1])


class ViewPairs(torch.utils.data.Dataset):
    """Pair `i` is a pure function of the seed and `i`.

    Args:
        pictures (`Sequence[np.ndarray]`): Ordinary photographs, `uint8` RGB, short side at least `size`.
        length (`int`): Number of pairs.
        size (`int`): Side of the pictures in pixels.
        seed (`int`): Source of all draws.
        rendered (`float`): Share of rendered pairs.
    """

    def __init__(self, pictures: Sequence[np.ndarray], length: int, size: int, seed: int, rendered: float = 0.5):
        self.pictures, self.length, self.size, self.seed, self.rendered = pictures, length, size, seed, rendered

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Two pictures `(2, 3, size, size)` uint8 and their masks `(2, size, size)` bool."""
        cv2.setNumThreads(1)
        rng = np.random.default_rng([self.seed, 7, index])
        made = self._rendered_pair(rng) if rng.random() < self.rendered else self._photographed_pair(rng)
        images, masks = (np.stack(part) for part in zip(*made, strict=True))
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(masks)

    def _photographed_pair(self, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        thing, other = (
            square_crop(self.pictures[int(i)], rng, self.size) for i in rng.integers(len(self.pictures), size=2)
        )
        if rng.random() < 0.6:
            for _ in range(int(rng.integers(1, 4))):
                thing, _ = _spoil(thing, other, rng)
        play, bend = float(rng.choice([0.5, 2, 6])), float(rng.choice([0, 1, 2, 4]))
        made = []
        for _ in range(2):
            image, mask = exposed(thing, rng, play, bend), np.zeros(thing.shape[:2], bool)
            if rng.random() < 0.7:
                image, mask = _spoil(image, other, rng)
            made.append((relit(image, rng), mask))
        return made

    def _rendered_pair(self, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        product = render_product(str(rng.choice(TRAINING_FAMILIES)), rng, 224)
        made = []
        for _ in range(2):
            kind = rng.random()
            part = product.photograph(rng, defect="random" if kind < 0.5 else None)
            image, mask = part.image, part.mask
            if kind > 0.75:
                other = self.pictures[int(rng.integers(len(self.pictures)))]
                image, mask = _spoil(image, other, rng)
            image = cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA)
            mask = cv2.resize(mask.astype(np.float32), (self.size, self.size), interpolation=cv2.INTER_AREA) > 0.3
            made.append((image, mask))
        return made


def square_crop(image: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """A square part of a photograph, at least half of its short side, turned by quarters, `size` pixels wide."""
    side = int(min(image.shape[:2]) * rng.uniform(0.5, 1))
    top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
    crop = np.rot90(image[top : top + side, left : left + side], int(rng.integers(4)))
    return cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=cv2.INTER_CUBIC)


def _spoil(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A synthetic anomaly of any kind, and its mask."""
    if rng.random() < 0.35:
        made = apply_defect(image, str(rng.choice(list(SURFACE_DEFECTS))), rng, tries=3)
    else:
        made = SYNTHESIS(image, other, rng)
    return made.image, made.mask


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
