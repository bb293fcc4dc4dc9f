"""What the vision model sees of many pictures, for the state vectors: patch features and masks, in one file.

    python -m recipes.tiny.evidence --checkpoint DIR --output FILE.npz [--products 500] [--photographs DIR --views 300]

Rendered pictures show products of the training families: one product with one, two or four references, sometimes two
products mixed among references and queries. Photographs of any kind are compared with other exposures of themselves,
a synthetic anomaly in one of the two. Each group gives a good and a bad picture.
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
REFERENCES = (1, 2, 2, 4)
Queries = list[tuple[np.ndarray, np.ndarray]]  # a good and a bad picture, with their masks
Group = tuple[list[np.ndarray], Queries]


def read_evidence(paths: Sequence[str | pathlib.Path], num_layers: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Patch features of each layer, float16, and the packed masks of their pictures, of all files together."""
    parts = [np.load(path) for path in paths]
    layers = [np.concatenate([part[f"features_{layer}"] for part in parts]) for layer in range(num_layers)]
    return layers, np.concatenate([part["masks"] for part in parts])


def rendered_groups(number: int, seed: int) -> Iterator[Group]:
    """References and queries of rendered products, families in turn; every eighth group may mix two."""
    for index in range(number):
        rng = np.random.default_rng([seed, 1, index])
        family, shots = TRAINING_FAMILIES[index % len(TRAINING_FAMILIES)], int(rng.choice(REFERENCES))
        mixed = shots > 1 and index % 8 == 0
        products = [render_product(family, rng, SIZE) for _ in range(2 if mixed else 1)]
        references = [products[shot % len(products)].photograph(rng).image for shot in range(shots)]
        queries = []
        for defect in (None, "random"):
            part = products[int(rng.integers(len(products)))].photograph(rng, defect)
            queries.append((part.image, part.mask))
        yield references, queries


def photograph_groups(folder: pathlib.Path, number: int, seed: int) -> Iterator[Group]:
    """Exposures of ordinary photographs as references and queries; the second query has a synthetic anomaly."""
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
        good = relit(exposed(thing, rng, play, bend), rng)
        image = exposed(thing, rng, play, bend)
        if rng.random() < 0.5:
            made = apply_defect(image, str(rng.choice(list(SURFACE_DEFECTS))), rng)
        else:
            made = SYNTHESIS(image, other, rng)
        yield references, [(good, np.zeros(good.shape[:2], bool)), (relit(made.image, rng), made.mask)]


@torch.inference_mode()
def look(model, processor, references: list[np.ndarray], queries: Queries) -> list[dict]:
    """What the model sees of the pictures of a group: patch features and mask of each."""
    good = processor(images=references, return_tensors="pt")["pixel_values"]
    pixel_values = processor(images=[image for image, _ in queries], return_tensors="pt")["pixel_values"]
    bank = MemoryBank.build(model.model.get_patch_features(good))
    seen = model.get_image_features(pixel_values, memory_bank=bank, return_dict=True)
    return [
        {
            "mask": np.packbits(mask, axis=-1),
            "features": [layer.vectors[index].half().numpy() for layer in seen.patch_features],
        }
        for index, (_, mask) in enumerate(queries)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.tiny.evidence", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True, help="model with a trained vision tower")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="file to write (.npz)")
    parser.add_argument("--products", type=int, default=500, help="rendered groups, two pictures each")
    parser.add_argument("--photographs", type=pathlib.Path, help="folder of ordinary photographs")
    parser.add_argument("--views", type=int, default=300, help="photographs to use, two pictures each")
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
