"""A vision model on training pictures: does one threshold serve all parts? No picture of a test split is read.

    python -m benchmarks.vision_levels --vision DIR [--vision DIR ...] --data DIR

DIR of --vision is a folder of `recipes.tiny`. Good pictures of --data (`<set>/train/good`) with others of them as
references, once as they are and once with a synthetic anomaly; rendered products of the training families and of the
held-back ones with the defects they are drawn with. Printed for 1, 2 and 4 references, means over the parts: image
AUROC within a part, balanced accuracy with the best single threshold for all parts, that with the best one for each
part and draw, and the standard deviation over the parts of the logarithm of what 85 % of their good pictures stay
below.
"""

import argparse
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from benchmarks.decision_weights import parts
from benchmarks.vision_candidates import MAP_SIZE, Eyes, bank_of
from datasets_scripts import HELD_BACK_FAMILIES, render_product
from modeling_anomalygpt.localization import few_shot_anomaly_map

SIZE, WINDOWS, DRAWS, PRODUCTS = 256, [1, 3], {1: 6, 2: 3, 4: 3}, 3
Scores = list[tuple[np.ndarray, np.ndarray]]  # of each draw, good and bad pictures


def all_parts(data: pathlib.Path | None) -> Iterator[tuple[str, str, list, list]]:
    """Those of `decision_weights`, and products of the held-back families."""
    yield from parts(data)
    for number, family in enumerate(HELD_BACK_FAMILIES):
        for product_number in range(PRODUCTS):
            rng = np.random.default_rng([12, number, product_number])
            product = render_product(family, rng, 224)
            good = [product.photograph(rng).image for _ in range(10)]
            bad = [(None, product.photograph(rng, defect="random").image) for _ in range(12)]
            yield "held back", f"{family} {product_number}", good, bad


@torch.inference_mode()
def scores_of_part(eyes: Eyes, good: list, bad: list) -> dict[int, Scores]:
    """Maxima of the maps for every number of references."""
    beneath = [number for number, _ in bad]
    seen, spoiled = eyes.see(good), eyes.see([image for _, image in bad])
    results = {}
    for k_shot, draws in DRAWS.items():
        results[k_shot] = []
        for draw in range(draws):
            order = np.random.default_rng([k_shot, draw]).permutation(len(good))
            chosen = order[:k_shot].tolist()
            bank = bank_of([seen[number] for number in chosen])
            queries = [seen[number] for number in order[k_shot:]]
            others = [layers for number, layers in zip(beneath, spoiled, strict=True) if number not in chosen]
            results[k_shot].append(
                tuple(
                    np.array([float(few_shot_anomaly_map(one, bank.features, MAP_SIZE).max()) for one in group])
                    for group in (queries, others)
                )
            )
    return results


def balanced_accuracy(good: np.ndarray, bad: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """For each threshold."""
    return ((bad[:, None] > thresholds).mean(0) + (good[:, None] <= thresholds).mean(0)) / 2


def figures(by_part: Sequence[Scores]) -> dict[str, float]:
    """The four figures, every part counting the same."""
    everything = np.concatenate([group for draws in by_part for pair in draws for group in pair])
    thresholds = np.quantile(everything, np.linspace(0.05, 0.95, 91))
    levels = [np.mean([np.quantile(good, 0.85) for good, _ in draws]) for draws in by_part]
    each = {
        "image AUROC": lambda good, bad: roc_auc_score([0] * len(good) + [1] * len(bad), [*good, *bad]),
        "one for each": lambda good, bad: balanced_accuracy(good, bad, np.array([0, *good, *bad])).max(),
        "one threshold": lambda good, bad: balanced_accuracy(good, bad, thresholds),
    }
    means = {
        name: np.mean([np.mean([of(*pair) for pair in draws], 0) for draws in by_part], 0) for name, of in each.items()
    }
    return {name: float(np.max(mean)) for name, mean in means.items()} | {"spread": float(np.std(np.log(levels)))}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vision_levels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vision", type=pathlib.Path, required=True, action="append", help="folder; several can be")
    parser.add_argument("--data", type=pathlib.Path, help="folder of sets; none: rendered parts only")
    options = parser.parse_args(arguments)
    models = {folder.name: Eyes(folder, SIZE, WINDOWS) for folder in options.vision}
    results: dict[tuple[str, str], list] = {}
    for kind, _, good, bad in tqdm(all_parts(options.data), desc="parts"):
        for name, eyes in models.items():
            results.setdefault((name, kind), []).append(scores_of_part(eyes, good, bad))
    for (name, kind), by_part in results.items():
        for k_shot in DRAWS:
            found = figures([part[k_shot] for part in by_part])
            print(f"{name}, {kind}, {k_shot}:", ", ".join(f"{what} {value:.3f}" for what, value in found.items()))


if __name__ == "__main__":
    main()
