"""Anomaly maps drawn without pictures, so that the language model learns to read maps before it sees real ones.

A map has a background as uneven as real maps have, and spots that stand out from it wherever the mask is set. The mask
alone decides what is true.
"""

import cv2
import numpy as np

from modeling_anomalygpt.descriptions import DESCRIPTIONS
from modeling_anomalygpt.facts import Facts
from modeling_anomalygpt.regions import regions_of_mask

MASK_SIZE = 224
CATEGORIES = (*DESCRIPTIONS, "object", "bracket", "hinge", "bearing", "seal ring", "housing", "valve", "connector")


def draw_mask(rng: np.random.Generator, size: int = MASK_SIZE) -> np.ndarray:
    """A mask of one to four separate marks: spots, strokes and patches of 0.1 % to 10 % of the picture."""
    mask = np.zeros((size, size), np.uint8)
    for _ in range(rng.choice([1, 2, 3, 4], p=[0.62, 0.23, 0.1, 0.05])):
        x, y = (int(value) for value in rng.integers(6, size - 6, 2))
        kind = rng.random()
        if kind < 0.5:
            axes = (int(rng.gamma(2.5, 5)) + 3, int(rng.gamma(2.5, 5)) + 3)
            cv2.ellipse(mask, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        elif kind < 0.75:
            steps = rng.normal(0, 1, (int(rng.integers(2, 6)), 2)).cumsum(0) * rng.uniform(6, 22)
            points = (np.array([x, y]) + steps).astype(np.int32)
            cv2.polylines(mask, [points], False, 1, int(rng.integers(2, 8)))
        else:
            corners = rng.normal(0, rng.uniform(6, 20), (int(rng.integers(3, 7)), 2)) + (x, y)
            cv2.fillConvexPoly(mask, cv2.convexHull(corners.astype(np.int32)), 1)
    return mask.astype(bool)


def draw_map(mask: np.ndarray, rng: np.random.Generator, map_size: int) -> np.ndarray:
    """A map in [0, 1] that shows the mask over an uneven background; no spot without mask is as bright."""
    size = len(mask)
    level = rng.uniform(0.02, 0.35)
    noise = np.zeros((size, size), np.float32)
    for cells in rng.choice([4, 7, 14, 28], size=2, replace=False):
        noise += cv2.resize(
            rng.normal(0, 1, (cells, cells)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
        )
    noise /= max(1e-6, np.abs(noise).max())
    background = level * (1 + rng.uniform(0.1, 0.9) * noise)
    if rng.random() < 0.5:  # the part lies on a calm ground
        ground = np.zeros((size, size), np.float32)
        radius = int(rng.integers(size // 4, size // 2))
        cv2.circle(ground, tuple(int(value) for value in rng.integers(size // 3, 2 * size // 3, 2)), radius, 1, -1)
        background *= rng.uniform(0.2, 0.6) + ground * 0.8
    result = np.clip(background, 0, 1)
    if mask.any():
        ceiling = max(float(result.max()), 0.05)
        count, labels = cv2.connectedComponents(mask.astype(np.uint8))
        for index in range(1, count):
            height = min(0.98, ceiling * rng.uniform(1.25, 3) + rng.uniform(0.05, 0.3))
            spot = cv2.GaussianBlur((labels == index).astype(np.float32), (0, 0), float(rng.uniform(3, 7)))
            result = np.maximum(result, height * spot / spot.max())
    return cv2.resize(result, (map_size, map_size), interpolation=cv2.INTER_AREA).astype(np.float32)


def draw_evidence(rng: np.random.Generator, map_size: int) -> tuple[np.ndarray, Facts]:
    """One map `(map_size, map_size)` and the facts it shows; half of them are of good parts."""
    mask = draw_mask(rng) if rng.random() < 0.5 else np.zeros((MASK_SIZE, MASK_SIZE), bool)
    facts = Facts(str(rng.choice(CATEGORIES)), (MASK_SIZE, MASK_SIZE), regions_of_mask(mask))
    return draw_map(mask, rng, map_size), facts
