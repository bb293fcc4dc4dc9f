"""Facts for tests, drawn or made by hand."""

import numpy as np

from modeling_anomalygpt.conversations.grounded import draw_facts
from modeling_anomalygpt.regions import Region, regions_of_mask
from modeling_anomalygpt.wording import MeasuredFacts


def region(row: int, column: int, width: int = 20, height: int = 10) -> Region:
    """A region in the middle of a cell of a picture of 90 x 90 pixels."""
    mask = np.zeros((90, 90), bool)
    y, x = 30 * row + 15 - height // 2, 30 * column + 15 - width // 2
    mask[y : y + height, x : x + width] = True
    return regions_of_mask(mask)[0]


def some_facts(count: int, seed: int = 0) -> list[MeasuredFacts]:
    """Facts of pictures that nobody took, half of them with one to four boxes."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        mask = np.zeros((90, 120), bool)
        for _ in range(int(rng.choice([0, 0, 0, 1, 2, 4]))):
            y, x = rng.integers(0, 80, 2)
            mask[y : y + rng.integers(3, 10), x : x + rng.integers(3, 20)] = True
        found.append(draw_facts(rng, tuple(regions_of_mask(mask)), mask.shape, "hinge pin"))
    return found
