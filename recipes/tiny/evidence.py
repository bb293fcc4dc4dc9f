"""What the small vision model sees of many pictures, written to one file: global vectors, maps, masks and facts.

    python -m recipes.tiny.evidence --checkpoint DIR --output FILE.npz --rendered 6000 [--photographs DIR --real 3000]

Rendered pictures show products of the training families, with references of the same product. Photographs of any kind
are compared with another view of themselves (shifted, turned, relit), a synthetic anomaly in one of the two.
"""

import json
import pathlib

import numpy as np

from modeling_anomalygpt.facts import Facts
from modeling_anomalygpt.regions import regions_of_mask


class EvidenceFile:
    """Reads such a file; samples come back as the language model needs them."""

    def __init__(self, path: str | pathlib.Path):
        with np.load(path) as file:
            self.image_embeds = file["image_embeds"]
            self.maps = file["maps"]
            self.masks = file["masks"]
            self.facts = json.loads(str(file["facts"]))

    def __len__(self) -> int:
        return len(self.maps)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Facts]:
        """Global vector, map and facts of one sample, drawn at random."""
        index = int(rng.integers(len(self)))
        row = self.facts[index]
        mask = np.unpackbits(self.masks[index], axis=-1).astype(bool)
        facts = Facts(row["category"], mask.shape, regions_of_mask(mask), row["defect_types"], row["description"])
        return self.image_embeds[index], self.maps[index].astype(np.float32), facts
