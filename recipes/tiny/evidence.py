"""What the small vision model sees of many pictures, written to one file: global vectors, maps, masks and facts.

    python -m recipes.tiny.evidence --checkpoint DIR --output FILE.npz --rendered 6000 [--photographs DIR --real 3000]

Rendered pictures show products of the training families, with references of the same product. Photographs of any kind
are compared with another view of themselves (shifted, turned, relit), a synthetic anomaly in one of the two.
"""

import argparse
import json
import os
import pathlib
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from tqdm import tqdm

from datasets_scripts import TRAINING_FAMILIES, render_product
from datasets_scripts.part_defects import SURFACE_DEFECTS, apply_defect
from modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor, load_picture
from modeling_anomalygpt.anomaly_synthesis import Mixture, cut_paste, nsa, perlin_texture
from modeling_anomalygpt.facts import Facts
from modeling_anomalygpt.regions import regions_of_mask

SIZE = 224
REFERENCES_PER_PRODUCT, QUERIES_PER_PRODUCT, QUERIES_PER_PHOTOGRAPH = 2, 6, 3


class EvidenceFiles:
    """Reads such files as one; samples come back as the language model needs them."""

    def __init__(self, paths: Sequence[str | pathlib.Path]):
        parts = [np.load(path) for path in paths]  # arrays are read when they are asked for; features stay on disk
        self.image_embeds, self.maps, self.masks = (
            np.concatenate([part[name] for part in parts]) for name in ("image_embeds", "maps", "masks")
        )
        self.facts = [row for part in parts for row in json.loads(str(part["facts"]))]
        self.parts = parts

    def features(self, num_layers: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Patch features of each layer, float16, and the packed masks of their pictures."""
        layers = [np.concatenate([part[f"features_{layer}"] for part in self.parts]) for layer in range(num_layers)]
        return layers, np.concatenate([part["masks"][part["featured"]] for part in self.parts])

    def __len__(self) -> int:
        return len(self.maps)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Facts]:
        """Global vector, map and facts of one sample, drawn at random."""
        index = int(rng.integers(len(self)))
        row = self.facts[index]
        mask = np.unpackbits(self.masks[index], axis=-1).astype(bool)
        facts = Facts(row["category"], mask.shape, regions_of_mask(mask), row["defect_types"], row["description"])
        return self.image_embeds[index], self.maps[index].astype(np.float32), facts


def rendered_groups(number: int, seed: int) -> Iterator[tuple[list[np.ndarray], list[dict]]]:
    """References and queries of rendered products, the families of training in turn."""
    for index in range(number):
        rng = np.random.default_rng([seed, 1, index])
        product = render_product(TRAINING_FAMILIES[index % len(TRAINING_FAMILIES)], rng, SIZE)
        references = [product.photograph(rng).image for _ in range(REFERENCES_PER_PRODUCT)]
        queries = []
        for query in range(QUERIES_PER_PRODUCT):
            part = product.photograph(rng, defect="random" if query % 2 else None)
            queries.append(
                {
                    "image": part.image,
                    "mask": part.mask,
                    "category": part.category,
                    "defect_types": [part.defect_type] if part.mask.any() else [],
                    "description": {"en": part.description, "zh": part.description_zh},
                }
            )
        yield references, queries


def photograph_groups(folder: pathlib.Path, number: int, seed: int) -> Iterator[tuple[list[np.ndarray], list[dict]]]:
    """Views of ordinary photographs as references and queries; all queries but the first have a synthetic anomaly."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    mixture = Mixture([nsa, cut_paste, perlin_texture], weights=[2, 1, 1])
    for index in range(number):
        rng = np.random.default_rng([seed, 2, index])
        chosen, other = (np.asarray(load_picture(files[i])) for i in rng.choice(len(files), 2, replace=False))
        chosen, other = _crop(chosen, rng), _crop(other, rng)
        play = float(rng.choice([0.5, 2, 6]))
        references = [_view(chosen, rng, play) for _ in range(REFERENCES_PER_PRODUCT)]
        queries = []
        for query in range(QUERIES_PER_PHOTOGRAPH):
            image, mask, kinds = _view(chosen, rng, play), np.zeros((SIZE, SIZE), bool), []
            if query:
                if rng.random() < 0.5:
                    kind = str(rng.choice(list(SURFACE_DEFECTS)))
                    made = apply_defect(image, kind, rng)
                    image, mask, kinds = made.image, made.mask, [kind]
                else:
                    made = mixture(image, other, rng)
                    image, mask = made.image, made.mask
            queries.append(
                {"image": image, "mask": mask, "category": "object", "defect_types": kinds, "description": None}
            )
        yield references, queries


def _crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square part of a photograph, at least half of its short side, a little larger than a view."""
    side = int(min(image.shape[:2]) * rng.uniform(0.5, 1))
    top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
    return cv2.resize(image[top : top + side, left : left + side], (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def _view(image: np.ndarray, rng: np.random.Generator, play: float) -> np.ndarray:
    """The picture as another exposure shows it: moved by up to `play` pixels, turned, relit, with noise."""
    matrix = cv2.getRotationMatrix2D(
        (SIZE / 2, SIZE / 2), rng.uniform(-play, play), 1 + rng.uniform(-play, play) / 200
    )
    matrix[:, 2] += rng.uniform(-play, play, 2)
    moved = cv2.warpAffine(image, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    lit = moved * rng.uniform(0.9, 1.1) + rng.normal(0, rng.uniform(0.5, 4), moved.shape)
    return np.clip(lit, 0, 255).astype(np.uint8)


@torch.inference_mode()
def look(model, processor, references: list[np.ndarray], queries: list[dict], rng: np.random.Generator) -> list[dict]:
    """What the model sees of a group: global vector, few-shot map and, of two queries, the patch features."""
    pixel_values = processor(images=[*references, *(query["image"] for query in queries)], return_tensors="pt")[
        "pixel_values"
    ]
    shots = int(rng.integers(1, len(references) + 1))
    bank = pixel_values[:shots][None].expand(len(queries), -1, -1, -1, -1)
    seen = model.get_image_features(pixel_values[len(references) :], reference_pixel_values=bank, return_dict=True)
    return [
        {
            "pooled": seen.image_embeds[index].numpy(),
            "map": seen.anomaly_map[index].numpy().astype(np.float16),
            "mask": np.packbits(query["mask"], axis=-1),
            "facts": {name: query[name] for name in ("category", "defect_types", "description")},
            # The first two, one good and one bad, teach the localizer as well.
            "features": [layer.vectors[index].half().numpy() for layer in seen.patch_features] if index < 2 else None,
        }
        for index, query in enumerate(queries)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.tiny.evidence", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, help="model with a trained vision tower")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="file to write (.npz)")
    parser.add_argument("--products", type=int, default=700, help="rendered products, six pictures each")
    parser.add_argument("--photographs", type=pathlib.Path, help="folder of ordinary photographs")
    parser.add_argument("--views", type=int, default=700, help="photographs to use, three pictures each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = AnomalyGPTForConditionalGeneration.from_pretrained(options.checkpoint, dtype=torch.float32).eval()
    processor = AnomalyGPTProcessor.from_pretrained(options.checkpoint)
    groups = [(rendered_groups(options.products, options.seed), options.products)]
    if options.photographs:
        groups.append((photograph_groups(options.photographs, options.views, options.seed), options.views))
    rows, rng = [], np.random.default_rng([options.seed, 3])
    for group, number in groups:
        for references, queries in tqdm(group, total=number):
            rows += look(model, processor, references, queries, rng)
    featured = [index for index, row in enumerate(rows) if row["features"] is not None]
    temporary = options.output.with_suffix(".tmp.npz")
    np.savez(
        temporary,
        featured=np.array(featured),
        **{
            f"features_{layer}": np.stack([rows[index]["features"][layer] for index in featured])
            for layer in range(len(model.config.out_indices))
        },
        image_embeds=np.stack([row["pooled"] for row in rows]),
        maps=np.stack([row["map"] for row in rows]),
        masks=np.stack([row["mask"] for row in rows]),
        facts=json.dumps([row["facts"] for row in rows], ensure_ascii=False),
    )
    os.replace(temporary, options.output)


if __name__ == "__main__":
    main()
