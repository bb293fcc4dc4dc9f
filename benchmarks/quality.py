"""Few-shot quality on folders of photographs in the MVTec layout: maps, scores and verdicts against the labels.

    python -m benchmarks.quality --data DIR [--model DIR_OR_ID] [--k-shot 1 4] [--seeds 0 1 2] [--output CSV]
    python -m benchmarks.quality --table CSV

Each sub-folder of --data is one set (`train/good`, `test/<kind>`, `ground_truth/<kind>/<stem>_mask.png`). References
are drawn from `train/good` by seed. One row a set, k-shot and seed; rows already in the CSV are not measured again.

image AUROC: of the score. Pixel AUROC: over all pixels of all test pictures with known masks, at 256 x 256.
Verdict, from the references alone, no threshold is chosen: false alarms are the part of the good pictures called
anomalous, misses the part of the defective ones called normal, uncertain the part of all that is not decided; balanced
accuracy is taken over the decided ones. Beside it the balanced accuracy of every picture forced to one of two: by the
language model's sign alone, by the map's limit alone, by both; and the oracle's, the best that any one threshold on
the score could have reached on these very pictures.
"""

import argparse
import csv
import pathlib
import statistics
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from modeling_anomalygpt import AnomalyInspector, load_picture

SIDE = 256
FIELDS = (
    "set", "k_shot", "seed", "model", "pictures", "image_auroc", "pixel_auroc", "balanced_accuracy", "false_alarms",
    "misses", "uncertain", "language_only", "map_only", "both", "oracle", "seconds_per_picture", "torch_threads",
)  # fmt: skip
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def measure(inspector: AnomalyInspector, folder: pathlib.Path, k_shot: int, seed: int, answer: bool) -> dict:
    """One row: the set in `folder` with `k_shot` references; with none, the state vectors decide."""
    category = folder.name.replace("_", " ")
    if k_shot == 0:
        inspector = AnomalyInspector(inspector.model, inspector.processor)
    else:
        train = pictures_in(folder / "train" / "good")
        chosen = np.random.default_rng(seed).choice(len(train), k_shot, replace=False)
        inspector.set_references([train[index] for index in chosen], category=category)
    test = pictures_in(folder / "test")
    labels = np.array([file.parent.name != "good" for file in test])
    results = list(inspector.inspect_many(test, batch_size=8, answer=answer, category=category))
    scores = np.array([result.pred_score for result in results])
    verdicts = np.array([result.verdict for result in results])
    log_odds = np.array([result.log_odds for result in results])
    evidence = np.array([result.evidence.get("evidence", result.log_odds) for result in results])
    maps, masks = [], []
    for file, label, result in zip(test, labels, results, strict=True):
        mask = mask_of(folder, file, bool(label))
        if mask is not None:
            masks.append(cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 0)
            maps.append(cv2.resize(result.anomaly_map, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR))
    has_masks = any(mask.any() for mask in masks)
    decided = verdicts != "uncertain"
    return {
        "set": folder.name,
        "k_shot": k_shot,
        "seed": seed,
        "pictures": len(test),
        "image_auroc": roc_auc_score(labels, scores),
        "pixel_auroc": roc_auc_score(np.ravel(masks), np.ravel(maps)) if has_masks else None,
        "balanced_accuracy": balanced(labels[decided], verdicts[decided] == "anomalous"),
        "false_alarms": float((verdicts[~labels] == "anomalous").mean()),
        "misses": float((verdicts[labels] == "normal").mean()),
        "uncertain": float((~decided).mean()),
        "language_only": balanced(labels, log_odds > 0),
        "map_only": balanced(labels, scores >= 1) if k_shot else None,
        "both": balanced(labels, evidence > 0),
        "oracle": max(balanced(labels, scores >= threshold) for threshold in scores),
        "seconds_per_picture": statistics.median(result.seconds for result in results),
        "torch_threads": torch.get_num_threads(),
    }


def balanced(labels: np.ndarray, alarms: np.ndarray) -> float | None:
    """Mean of the parts of the good and of the defective pictures that are called so; `None` of one kind alone."""
    if labels.all() or not labels.any():
        return None
    return float((alarms[labels].mean() + (~alarms[~labels]).mean()) / 2)


def pictures_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """All pictures below a folder, sorted."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURES)


def mask_of(folder: pathlib.Path, file: pathlib.Path, anomalous: bool) -> np.ndarray | None:
    """The picture's mask; empty for a good one, `None` where a defective one has no mask file."""
    if not anomalous:
        return np.zeros((SIDE, SIDE), np.uint8)
    path = folder / "ground_truth" / file.parent.name / f"{file.stem}_mask.png"
    return np.asarray(load_picture(path).convert("L")) if path.exists() else None


QUALITY = ("image_auroc", "pixel_auroc", "balanced_accuracy", "false_alarms", "misses", "uncertain")
DECISIONS = ("language_only", "map_only", "both", "oracle")
TEACHER = ("image_auroc", "balanced_accuracy", "false_alarms", "uncertain", "map_only", "both", "oracle")


def table(rows: list[dict], columns: Sequence[str] = QUALITY) -> str:
    """Means over the seeds as a Markdown table, a set a line."""
    shots = sorted({int(row["k_shot"]) for row in rows})
    names = sorted({row["set"] for row in rows})
    head = ["set"] + [f"{shot}-shot {column.replace('_', ' ')}" for shot in shots for column in columns]
    lines = [head, ["---"] * len(head)]
    for name in [*names, "**mean**"]:
        line = [name]
        for shot in shots:
            for column in columns:
                chosen = [row for row in rows if int(row["k_shot"]) == shot and name in (row["set"], "**mean**")]
                values = [float(row[column]) for row in chosen if row[column] not in (None, "")]
                line.append(f"{statistics.mean(values):.3f}" if values else "-")
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, help="folder of sets in the MVTec layout")
    parser.add_argument("--model", help="folder or Hub id (default: the embedded checkpoint)")
    parser.add_argument("--k-shot", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--answer", action="store_true", help="generate the answers as well (for the time they take)")
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results" / "quality_inspection.csv"
    )
    parser.add_argument("--table", type=pathlib.Path, metavar="CSV", help="print the table of a finished CSV and stop")
    options = parser.parse_args(arguments)
    if options.table:
        with options.table.open(newline="") as file:
            print(table(list(csv.DictReader(file))))
        return
    if not options.data:
        parser.error("--data or --table must be given")
    inspector = AnomalyInspector.from_pretrained(options.model)
    rows = []
    if options.output.exists():
        with options.output.open(newline="") as file:
            rows = list(csv.DictReader(file))
    done = {(row["set"], int(row["k_shot"]), int(row["seed"]), row["model"]) for row in rows}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    model = str(options.model or "embedded")
    for folder in sorted(path for path in options.data.iterdir() if (path / "train" / "good").is_dir()):
        for k_shot in options.k_shot:
            for seed in options.seeds:
                if (folder.name, k_shot, seed, model) in done:
                    continue
                row = measure(inspector, folder, k_shot, seed, options.answer) | {"model": model}
                rows.append({name: round(v, 4) if isinstance(v := row[name], float) else v for name in FIELDS})
                temporary = options.output.with_suffix(".tmp")
                with temporary.open("w", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS)
                    writer.writeheader()
                    writer.writerows(rows)
                temporary.replace(options.output)
    print(table([row for row in rows if row["model"] == model]))


if __name__ == "__main__":
    main()
