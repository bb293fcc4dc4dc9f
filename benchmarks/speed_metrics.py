"""Pixel metrics of many maps against scikit-learn and a naive AUPRO, in one process.

    OMP_NUM_THREADS=1 python -m benchmarks.speed_metrics [--maps 100] [--side 512] [--rounds 3]

Ours gives AUROC, AP, F1-max and two AUPROs in one pass over the maps, one map at a time; scikit-learn gives AUROC and
AP of all pixels at once; the naive AUPRO thresholds all maps 200 times, as is usual, and so differs from the
exact curve, that of ours, by about 1e-4. The last line printed is the result as JSON.
"""

import argparse
import json

import cv2
import numpy as np
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.measuring import extra_memory, in_turns, ratio, summary
from modeling_anomalygpt.evaluation.metrics import PixelMetrics

THRESHOLDS, LIMIT = 200, 0.3


def drawn(number: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps with a few blobs where the masks are, and noise; float32 and bool."""
    rng = np.random.default_rng(0)
    masks, maps = np.zeros((number, side, side), bool), np.empty((number, side, side), np.float32)
    for mask, anomaly_map in zip(masks, maps, strict=True):
        for _ in range(rng.integers(0, 4)):
            row, column = rng.integers(0, side - side // 8, 2)
            mask[row : row + side // 10, column : column + side // 16] = True
        noise = rng.normal(0.3, 0.1, (side // 8, side // 8)).astype(np.float32)
        anomaly_map[:] = cv2.resize(noise, (side, side)) + 0.2 * cv2.blur(mask.astype(np.float32), (15, 15))
    return masks, maps.clip(0, 1)


def naive_aupro(masks: np.ndarray, maps: np.ndarray, limit: float) -> float:
    """Mean overlap of the regions over the false-positive rate up to `limit`, threshold by threshold."""
    regions = []
    for index, mask in enumerate(masks):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [(index, labels == label) for label in range(1, count + 1)]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.linspace(maps.max(), maps.min(), THRESHOLDS):
        found = maps >= threshold
        rates.append((found & ~masks).sum() / (~masks).sum())
        overlaps.append(np.mean([found[index][region].mean() for index, region in regions]))
    rates, overlaps = np.array(rates), np.array(overlaps)
    ends = np.interp(limit, rates, overlaps)
    kept = rates < limit
    return float(np.trapezoid([*overlaps[kept], ends], [*rates[kept], limit]) / limit)


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_metrics", description=__doc__.split("\n")[0])
    parser.add_argument("--maps", type=int, default=100)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    masks, maps = drawn(options.maps, options.side)

    def ours() -> dict[str, float]:
        metrics = PixelMetrics((LIMIT, 0.05))
        for mask, anomaly_map in zip(masks, maps, strict=True):
            metrics.update(mask[None], anomaly_map[None])
        return metrics.compute()

    def scikit_learn() -> tuple[float, float]:
        labels, scores = masks.ravel(), maps.ravel()
        return roc_auc_score(labels, scores), average_precision_score(labels, scores)

    calls = {"ours": ours, "scikit_learn": scikit_learn, "naive_aupro": lambda: naive_aupro(masks, maps, LIMIT)}
    times = in_turns(calls, options.rounds, warm_up=0)
    together = [sum(pair) for pair in zip(times["scikit_learn"], times["naive_aupro"], strict=True)]
    result = {
        "maps": options.maps,
        "side": options.side,
        "times": {name: summary(seconds) for name, seconds in times.items()},
        "extra_megabytes": {name: round(extra_memory(calls[name]) / 1e6, 1) for name in ("ours", "scikit_learn")},
        "scikit_learn_to_ours": ratio(times["scikit_learn"], times["ours"]),
        "naive_aupro_to_ours": ratio(times["naive_aupro"], times["ours"]),
        "together_to_ours": ratio(together, times["ours"]),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
