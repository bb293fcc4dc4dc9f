"""Per-set table of eyes and decision on folders in MVTec layout, slopes and constant chosen on the other folders.

    python -m recipes.eyes.measure WEIGHTS FOLDER FOLDER... [--good 30] [--defective 40] [--draws 3]

References are drawn from `train/good`, four a draw, of which the first is the single one. Test pictures are spread
evenly over `test`. Each folder's threshold uses slopes (quarters that add to one) and a constant that have the least
mean of misses + false alarms over the other folders. Balanced accuracy is forced: every picture is called one or the
other; the oracle's is that of the best threshold for these very pictures.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from modeling_anomalygpt.evaluation.metrics import auroc

from .eyes import Eyes, Features, anomaly_maps, load_eyes, pick, reference_evidence, synthetic_anomalies
from .weights import PICTURES

SHOTS, MASK_SIZE = (1, 4), 128
SLOPES = np.arange(5) / 4
CONSTANTS = np.linspace(-3, 2.5, 221)


class Episode(NamedTuple):
    """One draw of references of one set, and what they make of its test pictures."""

    scores: np.ndarray
    labels: np.ndarray
    evidence: tuple[float, float]
    pixel_auroc: float


def pictures_in(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)


def evenly(files: list[tuple[pathlib.Path, str]], most: int) -> list[tuple[pathlib.Path, str]]:
    """At most so many, evenly spread."""
    places = np.linspace(0, len(files) - 1, min(len(files), most)).round().astype(int)
    return [files[place] for place in np.unique(places)]


def read_mask(file: pathlib.Path, kind: str) -> np.ndarray | None:
    """`(128, 128)` of `bool`, or `None` where a defective picture has no mask."""
    if kind == "good":
        return np.zeros((MASK_SIZE, MASK_SIZE), bool)
    path = file.parents[2] / "ground_truth" / kind / f"{file.stem}_mask.png"
    if not path.is_file():
        return None
    share = np.asarray(Image.open(path).convert("L").resize((MASK_SIZE, MASK_SIZE), Image.BOX))
    return share > 100 if (share > 100).any() else share > 20  # a thin defect is not lost


def pixel_auroc(maps: torch.Tensor, masks: Sequence[np.ndarray | None]) -> float:
    """Of `(count, 64, 64)` maps on the pictures that have masks; `nan` where no defective one has."""
    kept = [index for index, mask in enumerate(masks) if mask is not None]
    truth = np.stack([masks[index] for index in kept])
    if not truth.any():
        return float("nan")
    large = F.interpolate(maps[kept][:, None], (MASK_SIZE, MASK_SIZE), mode="bilinear", align_corners=False)
    return auroc(truth.ravel().astype(int), large.numpy().ravel())


def features(eyes: Eyes, files: Sequence[pathlib.Path], batch: int = 8) -> Features:
    """Features of picture files."""
    parts = [
        eyes([np.asarray(Image.open(file).convert("RGB")) for file in files[start : start + batch]])
        for start in range(0, len(files), batch)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def episodes(eyes: Eyes, folder: pathlib.Path, good: int, defective: int, draws: int) -> dict[int, list[Episode]]:
    """Of each number of references, one episode a draw."""
    train = pictures_in(folder / "train" / "good")
    if len(train) < max(SHOTS):
        raise ValueError(f"`folder` must have {max(SHOTS)} pictures in train/good, got {len(train)} in {folder}.")
    kinds = sorted(one.name for one in (folder / "test").iterdir() if one.is_dir())
    every = [(file, kind) for kind in kinds for file in pictures_in(folder / "test" / kind)]
    test = evenly([one for one in every if one[1] == "good"], good)
    test += evenly([one for one in every if one[1] != "good"], defective)
    labels = np.array([int(kind != "good") for _, kind in test])
    masks = [read_mask(file, kind) for file, kind in test]
    queries = features(eyes, [file for file, _ in test])
    drawn = [np.random.default_rng([seed, 77]).permutation(len(train))[: max(SHOTS)].tolist() for seed in range(draws)]
    needed = sorted({index for one in drawn for index in one})
    references = features(eyes, [train[index] for index in needed])
    anomalies = {
        index: eyes(synthetic_anomalies(np.asarray(Image.open(train[index]).convert("RGB")), index))
        for index in needed
    }
    found: dict[int, list[Episode]] = {shots: [] for shots in SHOTS}
    for shots, one in ((shots, one[:shots]) for shots in SHOTS for one in drawn):
        chosen = pick(references, [needed.index(index) for index in one])
        maps, scores = anomaly_maps(chosen, queries)
        evidence = reference_evidence(chosen, [anomalies[index] for index in one])
        found[shots].append(Episode(scores.numpy(), labels, evidence, pixel_auroc(maps, masks)))
    return found


def mistakes(episode: Episode) -> np.ndarray:
    """Misses and false alarms by slope and constant: `(2, 5, 221)`."""
    first, second = np.log(episode.evidence)
    limits = SLOPES[:, None] * first + (1 - SLOPES[:, None]) * second + CONSTANTS
    scores = np.log(episode.scores)
    defective, normal = np.sort(scores[episode.labels == 1]), np.sort(scores[episode.labels == 0])
    misses = np.searchsorted(defective, limits, side="right") / len(defective)
    return np.stack([misses, 1 - np.searchsorted(normal, limits, side="right") / len(normal)])


def choose(costs: np.ndarray) -> tuple[int, int]:
    """Places of slope and constant with the least cost.

    Args:
        costs (`np.ndarray` of shape `(sets, 5, 221)`): Misses + false alarms.

    Returns:
        `tuple[int, int]`: After a mean over nine neighbouring constants, so that no lucky spike wins.
    """
    wide = np.pad(costs.mean(0), ((0, 0), (4, 4)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(wide, 9, axis=1).mean(-1)
    slope, constant = np.unravel_index(smooth.argmin(), smooth.shape)
    return int(slope), int(constant)


def oracle(episode: Episode) -> float:
    """Balanced accuracy of the best threshold for these very pictures."""
    limits = np.append(episode.scores, -np.inf)[:, None]
    called = episode.scores > limits
    caught, alarms = called[:, episode.labels == 1].mean(1), called[:, episode.labels == 0].mean(1)
    return float(((1 + caught - alarms) / 2).max())


def rows(sets: list[list[Episode]]) -> tuple[np.ndarray, tuple[float, float]]:
    """Figures by set, image and pixel AUROC, forced, oracle, misses, false alarms; slope and constant of all sets."""
    grids = np.stack([np.mean([mistakes(one) for one in drawn], 0) for drawn in sets])
    figures = []
    for place, drawn in enumerate(sets):
        slope, constant = choose(np.delete(grids, place, 0).sum(1))
        misses, alarms = grids[place, :, slope, constant]
        image = np.mean([auroc(one.labels, one.scores) for one in drawn])
        pixel = np.mean([one.pixel_auroc for one in drawn])
        best = np.mean([oracle(one) for one in drawn])
        figures.append((image, pixel, 1 - (misses + alarms) / 2, best, misses, alarms))
    slope, constant = choose(grids.sum(1))
    return np.array(figures), (float(SLOPES[slope]), float(CONSTANTS[constant]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Per-set table of eyes and decision.")
    parser.add_argument("weights", type=pathlib.Path, help="eyes.safetensors")
    parser.add_argument("folders", type=pathlib.Path, nargs="+", help="at least two, in MVTec layout")
    parser.add_argument("--good", type=int, default=30, help="most good test pictures of a set")
    parser.add_argument("--defective", type=int, default=40, help="most defective test pictures of a set")
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    if len(arguments.folders) < 2:
        parser.error("`folders` must be at least two: each is decided with what the others choose.")
    eyes = load_eyes(arguments.weights)
    sets = [
        episodes(eyes, folder, arguments.good, arguments.defective, arguments.draws) for folder in arguments.folders
    ]
    figures, chosen = zip(*(rows([one[shots] for one in sets]) for shots in SHOTS), strict=True)
    print("| set | image | pixel | forced | oracle | misses | false alarms |\n|---|---|---|---|---|---|---|")
    both = np.stack(figures, -1)
    worst = np.concatenate([np.nanmin(both[:, :4], 0), np.nanmax(both[:, 4:], 0)])
    names = [folder.name for folder in arguments.folders] + ["**mean**", "worst"]
    for name, row in zip(names, [*both, np.nanmean(both, 0), worst], strict=True):
        print(f"| {name} | " + " | ".join(" / ".join(f"{value:.3f}" for value in cell) for cell in row) + " |")
    for shots, (slope, constant) in zip(SHOTS, chosen, strict=True):
        print(f"{shots} references, all sets choose: slope {slope:.2f}, constant {constant:.3f}")


if __name__ == "__main__":
    main()
