"""Anomaly maps drawn without pictures, so that the language model learns to read maps before it sees real ones.

They look as relative maps do: 0.5 is the most that a good part of this kind shows. A good part lies between 0.1 and
0.45, with a form of its own (a part on its ground, edges, repeated structure); what is not as it should be stands out
with a halo, some of it much, some hardly. The mask alone decides what is true.
"""

import cv2
import numpy as np

from modeling_anomalygpt.conversations.facts import Facts
from modeling_anomalygpt.prompts import DESCRIPTIONS
from modeling_anomalygpt.regions import regions_of_mask
from recipes.tiny.inspection_vocabulary import CHINESE, ENGLISH

MASK_SIZE = 224
_WORDS, _CHARACTERS = ENGLISH.split(), "".join(CHINESE.split())


def draw_category(rng: np.random.Generator) -> str:
    """A name of an object: a known one, or a made one of one or two words, so that names are copied, not recalled."""
    kind = rng.random()
    if kind < 0.3:
        return str(rng.choice(list(DESCRIPTIONS)))
    if kind < 0.7:
        return " ".join(rng.choice(_WORDS, size=int(rng.integers(1, 3))))
    return "".join(rng.choice(list(_CHARACTERS), size=int(rng.integers(2, 5))))


def draw_mask(rng: np.random.Generator, size: int = MASK_SIZE) -> np.ndarray:
    """A mask of one to five separate marks: spots, strokes and patches of 0.1 % to 10 % of the picture."""
    mask = np.zeros((size, size), np.uint8)
    largest = rng.choice([7, 13, 22])
    for _ in range(rng.choice([1, 2, 3, 4, 5], p=[0.55, 0.25, 0.12, 0.05, 0.03])):
        for _ in range(8):  # marks that nearly touch would be one to the eye and two to the count
            mark, (x, y) = np.zeros_like(mask), (int(value) for value in rng.integers(4, size - 4, 2))
            kind = rng.random()
            if kind < 0.5:
                axes = tuple(int(value) + 2 for value in rng.uniform(1, largest * 1.3, 2))
                cv2.ellipse(mark, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
            elif kind < 0.75:
                steps = rng.normal(0, 1, (int(rng.integers(2, 6)), 2)).cumsum(0) * rng.uniform(0.6, 1.4) * largest
                cv2.polylines(mark, [(np.array([x, y]) + steps).astype(np.int32)], False, 1, int(rng.integers(2, 7)))
            else:
                corners = rng.normal(0, largest * rng.uniform(0.5, 1), (int(rng.integers(3, 7)), 2)) + (x, y)
                cv2.fillConvexPoly(mark, cv2.convexHull(corners.astype(np.int32)), 1)
            if not (cv2.dilate(mark, np.ones((25, 25), np.uint8)) & mask).any():
                mask |= mark
                break
    return mask.astype(bool)


def draw_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """What a good part shows, on any scale: level, noise, the part's form, its edges, a pattern that repeats."""
    level = np.full((size, size), rng.uniform(0.5, 1), np.float32)
    if rng.random() < 0.6:  # a part, or several, on a ground that is calmer or rougher
        parts = np.zeros((size, size), np.uint8)
        for _ in range(int(rng.choice([1, 1, 1, 2, 4, 9]))):
            center = tuple(int(value) for value in rng.uniform(0.15, 0.85, 2) * size)
            axes = tuple(int(value) + 2 for value in rng.uniform(0.04, 0.5, 2) * size)
            if rng.random() < 0.5:
                cv2.ellipse(parts, center, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
            else:
                turned = float(rng.choice([0, rng.uniform(0, 90)]))
                box = cv2.boxPoints((center, (2.0 * axes[0], 2.0 * axes[1]), turned))
                cv2.fillPoly(parts, [box.astype(np.int32)], 1)
        level *= np.where(parts > 0, 1, rng.choice([rng.uniform(0.15, 0.9), rng.uniform(1, 1.5)])).astype(np.float32)
        if rng.random() < 0.5:
            edges = cv2.morphologyEx(parts, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).astype(np.float32)
            level *= 1 + rng.uniform(0.1, 0.6) * edges
    if rng.random() < 0.2:
        along, period = rng.uniform(0, np.pi), rng.uniform(4, 20)
        wave = np.add.outer(np.sin(along) * np.arange(size), np.cos(along) * np.arange(size)) * 2 * np.pi / period
        level *= (1 + rng.uniform(0.05, 0.25) * np.sin(wave)).astype(np.float32)
    noise = np.zeros((size, size), np.float32)
    for cells in rng.choice([4, 7, 14, 14, 28], size=3, replace=False):
        coarse = rng.normal(0, rng.uniform(0.2, 1), (cells, cells)).astype(np.float32)
        noise += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return cv2.GaussianBlur(level, (0, 0), 1.2) * np.exp(rng.uniform(0.05, 0.3) * noise)


def draw_map(mask: np.ndarray, rng: np.random.Generator, map_size: int) -> np.ndarray:
    """A relative map in [0, 1) that shows the mask over the map of a good part."""
    background = draw_background(rng, map_size)
    peak = rng.normal(0.8, 0.17) * rng.choice([1, 1, 1, 0.7])  # in limits; few good parts pass 1
    ratio = background * float(np.clip(peak, 0.25, 1.25) / background.max())
    count, labels = cv2.connectedComponents(mask.astype(np.uint8))
    strength, halo = 0.95 + rng.gamma(1.5, 0.8), rng.uniform(1, 3.2)  # in limits; in pixels of the map
    for index in range(1, count):
        own = np.float32(labels == index)
        spot = cv2.resize(own, (map_size, map_size), interpolation=cv2.INTER_AREA)
        spot = cv2.GaussianBlur(spot, (0, 0), halo)
        spot *= rng.uniform(0.65, 1.1) * strength / spot.max()
        if rng.random() < 0.3:  # the middle of a large spot may look good, its border not
            spot = np.minimum(spot, spot * rng.uniform(0.6, 1.2, spot.shape).astype(np.float32))
        ratio = np.maximum(ratio, spot + rng.uniform(0, 0.5) * ratio * (spot > 0.1))
    return (ratio / (1 + ratio)).astype(np.float32)


def draw_evidence(rng: np.random.Generator, map_size: int) -> tuple[np.ndarray, Facts]:
    """One map `(map_size, map_size)` and the facts it shows; half of them are of good parts."""
    mask = draw_mask(rng) if rng.random() < 0.5 else np.zeros((MASK_SIZE, MASK_SIZE), bool)
    facts = Facts(draw_category(rng), mask.shape, regions_of_mask(mask))
    return draw_map(mask, rng, map_size), facts
