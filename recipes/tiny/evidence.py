"""What the vision model sees of many pictures, for the state vectors: patch features and masks, in one file.

    python -m recipes.tiny.evidence --checkpoint DIR --output FILE.npz [--products 500] [--photographs DIR --views 300]

Rendered pictures show products of the training families: one product with one, two or four references, sometimes two
products mixed among references and queries. Photographs of any kind are compared with other exposures of themselves,
a synthetic anomaly in one of the two. Of each group the first good and the first bad picture are kept.
"""

import argparse
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tqdm import tqdm

from datasets_scripts import TRAINING_FAMILIES, render_product
from datasets_scripts.rendering.defects import SURFACE_DEFECTS, apply_defect
from modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor, load_picture
from modeling_anomalygpt.memory_bank import MemoryBank
from recipes.tiny.view_pairs import SYNTHESIS, exposed, relit, square_crop

SIZE = 224
REFERENCES, QUERIES = (1, 2, 2, 4), 10


def read_evidence(paths: Sequence[str | pathlib.Path], num_layers: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Patch features of each layer, float16, and the packed masks of their pictures, of all files together."""
    parts = [np.load(path) for path in paths]
    layers = [np.concatenate([part[f"features_{layer}"] for part in parts]) for layer in range(num_layers)]
    return layers, np.concatenate([part["masks"] for part in parts])


def rendered_groups(number: int, seed: int) -> Iterator[tuple[list[np.ndarray], list[dict]]]:
    """References and queries of rendered products, families in turn; every eighth group may mix two."""
    for index in range(number):
        rng = np.random.default_rng([seed, 1, index])
        family, shots = TRAINING_FAMILIES[index % len(TRAINING_FAMILIES)], int(rng.choice(REFERENCES))
        mixed = shots > 1 and index % 8 == 0
        products = [render_product(family, rng, SIZE) for _ in range(2 if mixed else 1)]
        references = [products[shot % len(products)].photograph(rng).image for shot in range(shots)]
        queries = []
        for query in range(QUERIES):
            product = products[int(rng.integers(len(products)))]
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
    """Exposures of ordinary photographs as references and queries; every other query has a synthetic anomaly."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for index in range(number):
        rng = np.random.default_rng([seed, 2, index])
        thing, other = (
            square_crop(np.asarray(load_picture(files[i])), rng, SIZE)
            for i in rng.choice(len(files), 2, replace=False)
        )
        play, bend = float(rng.choice([0.5, 2, 6])), float(rng.choice([0, 1, 3]))
        shots = int(rng.choice(REFERENCES))
        references = [relit(exposed(thing, rng, play, bend), rng) for _ in range(shots)]
        queries = []
        for query in range(QUERIES):
            image, kinds = exposed(thing, rng, play, bend), []
            mask = np.zeros(image.shape[:2], bool)
            if query % 2 and rng.random() < 0.5:
                kinds = [str(rng.choice(list(SURFACE_DEFECTS)))]
                made = apply_defect(image, kinds[0], rng)
                image, mask = made.image, made.mask
            elif query % 2:
                made = SYNTHESIS(image, other, rng)
                image, mask = made.image, made.mask
            image = relit(image, rng)
            queries.append(
                {"image": image, "mask": mask, "category": "object", "defect_types": kinds, "description": None}
            )
        yield references, queries


@torch.inference_mode()
def look(model, processor, references: list[np.ndarray], queries: list[dict]) -> list[dict]:
    """What the model sees of the first two pictures of a group, one good and one bad: patch features and mask."""
    good = processor(images=references, return_tensors="pt")["pixel_values"]
    shown = queries[:2]
    pixel_values = processor(images=[query["image"] for query in shown], return_tensors="pt")["pixel_values"]
    bank = MemoryBank.build(model.model.get_patch_features(good))
    seen = model.get_image_features(pixel_values, memory_bank=bank, return_dict=True)
    return [
        {
            "mask": np.packbits(query["mask"], axis=-1),
            "features": [layer.vectors[index].half().numpy() for layer in seen.patch_features],
        }
        for index, query in enumerate(shown)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.tiny.evidence", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, help="model with a trained vision tower")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="file to write (.npz)")
    parser.add_argument("--products", type=int, default=500, help="rendered groups, ten pictures each")
    parser.add_argument("--photographs", type=pathlib.Path, help="folder of ordinary photographs")
    parser.add_argument("--views", type=int, default=300, help="photographs to use, ten pictures each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = AnomalyGPTForConditionalGeneration.from_pretrained(options.checkpoint, dtype=torch.float32).eval()
    processor = AnomalyGPTProcessor.from_pretrained(options.checkpoint)
    groups = [(rendered_groups(options.products, options.seed), options.products)]
    if options.photographs:
        groups.append((photograph_groups(options.photographs, options.views, options.seed), options.views))
    rows = []
    for group, number in groups:
        for references, queries in tqdm(group, total=number):
            rows += look(model, processor, references, queries)
    temporary = options.output.with_suffix(".tmp.npz")
    layers = range(len(model.config.out_indices))
    features = {f"features_{layer}": np.stack([row["features"][layer] for row in rows]) for layer in layers}
    np.savez(temporary, masks=np.stack([row["mask"] for row in rows]), **features)
    os.replace(temporary, options.output)


if __name__ == "__main__":
    main()
