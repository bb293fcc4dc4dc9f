"""Few-shot AUROC of a vision model alone, before an AnomalyGPT is put around it.

    python -m benchmarks.vision_candidates --vision DIR --data DIR [--size 256] [--windows 1 3] [--smoothing 0]
        [--top-share 0] [--note TEXT] [--output CSV]

DIR of --vision is a folder of `recipes.tiny.vision` or `recipes.tiny.comparing`; sets, references and masks as in
`benchmarks.quality`. Adds one row: means over the sets, of the means over the draws of the references.
"""

import argparse
import csv
import functools
import pathlib
import statistics
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from transformers import AutoModel

from benchmarks.quality import SIDE, mask_of, pictures_in
from modeling_anomalygpt.image_processing_anomalygpt import AnomalyGPTImageProcessor
from modeling_anomalygpt.localization import AnomalyLocalizer, few_shot_anomaly_map
from modeling_anomalygpt.memory_bank import MemoryBank, PatchFeatures
from modeling_anomalygpt.vision_features import read_vision_tower

LAYERS = [2, 3]
MAP_SIZE = 56
FIELDS = (
    "candidate", "size", "windows", "smoothing", "top_share",
    "image_1", "pixel_1", "image_4", "pixel_4", "by_set",
)  # fmt: skip


class Eyes:
    """A vision model with its projections: pictures to comparable patches, and these to maps."""

    def __init__(self, vision: pathlib.Path, size: int, windows: list[int]):
        self.tower = AutoModel.from_pretrained(vision, dtype=torch.float32).eval()
        projections = load_file(vision / "projections.safetensors")
        shapes = [projections[f"reference_projections.{index}.weight"].shape for index in range(len(LAYERS))]
        self.localizer = AnomalyLocalizer([s[1] for s in shapes], 1, True, [s[0] for s in shapes], windows)
        self.localizer.load_state_dict(projections, strict=False)
        self.processor = AnomalyGPTImageProcessor(size={"height": size, "width": size})

    @torch.inference_mode()
    def see(self, pictures: Sequence[pathlib.Path | np.ndarray]) -> list[tuple[PatchFeatures, ...]]:
        """Comparable patches of each picture."""
        seen = []
        for picture in pictures:
            image = str(picture) if isinstance(picture, pathlib.Path) else picture
            pixel_values = self.processor(image, return_tensors="pt")["pixel_values"]
            seen.append(self.localizer.comparable(read_vision_tower(self.tower, pixel_values, LAYERS)[1]))
        return seen


def bank_of(references: Sequence[tuple[PatchFeatures, ...]]) -> MemoryBank:
    """The good patches of all references."""
    return functools.reduce(MemoryBank.extend, map(MemoryBank.build, references))


def measure(eyes: Eyes, folder: pathlib.Path, smoothing: float, top_share: float) -> dict[int, tuple]:
    """Image and pixel AUROC (`None` without masks) with 1 and with 4 references, means of three draws."""
    train, test = pictures_in(folder / "train" / "good"), pictures_in(folder / "test")
    labels = np.array([file.parent.name != "good" for file in test])
    masks = [mask_of(folder, file, bool(label)) for file, label in zip(test, labels, strict=True)]
    masks = [mask if mask is None else cv2.resize(mask, (SIDE, SIDE), interpolation=0) > 0 for mask in masks]
    known = [index for index, mask in enumerate(masks) if mask is not None]
    has_masks = any(masks[index].any() for index in known)
    queries, results = eyes.see(test), {}
    for k_shot in (1, 4):
        image, pixel = [], []
        for seed in range(3):
            chosen = np.random.default_rng(seed).choice(len(train), k_shot, replace=False)
            bank = bank_of(eyes.see([train[index] for index in chosen]))
            maps = [few_shot_anomaly_map(layers, bank.features, MAP_SIZE)[0].numpy() for layers in queries]
            if smoothing:
                maps = [cv2.GaussianBlur(one, (0, 0), smoothing, borderType=cv2.BORDER_REPLICATE) for one in maps]
            count = max(1, round(top_share * MAP_SIZE**2))
            image.append(roc_auc_score(labels, [np.sort(one, axis=None)[-count:].mean() for one in maps]))
            if has_masks:
                large = [cv2.resize(maps[index], (SIDE, SIDE)) for index in known]
                pixel.append(roc_auc_score(np.ravel([masks[index] for index in known]), np.ravel(large)))
        results[k_shot] = statistics.mean(image), statistics.mean(pixel) if pixel else None
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vision_candidates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vision", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of sets in the MVTec layout")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 3], help="see `reference_pooling`")
    parser.add_argument("--smoothing", type=float, default=0.0, help="sigma of a Gaussian on the 56 x 56 map")
    parser.add_argument(
        "--top-share", type=float, default=0.0, help="score: mean of that share of the map; 0: maximum"
    )
    parser.add_argument("--note", help="name of the candidate (default: the folder's)")
    parser.add_argument("--output", type=pathlib.Path, help="CSV file that gets one more row")
    options = parser.parse_args(arguments)
    eyes = Eyes(options.vision, options.size, options.windows)
    folders = sorted(path for path in options.data.iterdir() if (path / "train" / "good").is_dir())
    results = {folder.name: measure(eyes, folder, options.smoothing, options.top_share) for folder in folders}
    row = {"candidate": options.note or options.vision.name, "size": options.size, "smoothing": options.smoothing}
    row |= {"windows": "+".join(map(str, options.windows)), "top_share": options.top_share}
    for k_shot in (1, 4):
        for position, name in enumerate(("image", "pixel")):
            values = [result[k_shot][position] for result in results.values() if result[k_shot][position] is not None]
            row[f"{name}_{k_shot}"] = f"{statistics.mean(values):.3f}"
    row["by_set"] = "; ".join(
        f"{name} "
        + " ".join("/".join(f"{value:.3f}" for value in pair if value is not None) for pair in result.values())
        for name, result in results.items()
    )
    print(row)
    if options.output:
        new = not options.output.exists()
        with options.output.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if new:
                writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
