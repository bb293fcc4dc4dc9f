"""Pictures in another light than the references, judged as they are and in the references' light (`match_exposure`).

    python -m benchmarks.exposure --data DIR [--model DIR_OR_ID] [--k-shot 1 4] [--draws 2] [--output JSON]

Good pictures of --data (`<set>/train/good`) are inspected with others of them as references, once as they are and once
with a synthetic anomaly, every pixel multiplied by a factor. No picture of a test split is read. Printed: balanced
accuracy of the verdict forced to one of two, false alarms and misses, means over the sets; and the same of the
pictures whose brightness lies so many standard deviations outside that of the references.
"""

import argparse
import json
import pathlib
import statistics
from collections.abc import Sequence
from itertools import product

import numpy as np
from tqdm import tqdm

from benchmarks.decision_weights import parts
from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.references import Comparability

FACTORS = (0.2, 0.3, 0.45, 0.65, 1.0, 1.3)
EDGES = (0.0, 0.3, 0.8, 1.2, 1.5, 2.0)
MOST_PICTURES = 10


def measure(inspector: AnomalyInspector, part: tuple, k_shot: int, draw: int) -> list[dict]:
    """Rows of one part: every picture under every factor, both ways."""
    _, category, good, bad = part
    order = np.random.default_rng([k_shot, draw]).permutation(len(good)).tolist()
    inspector.set_references([good[index] for index in order[:k_shot]], category=category)
    light = Comparability.from_json(inspector.memory_bank.notes["comparability"]).light
    shown = [(good[index], False) for index in order[k_shot:][:MOST_PICTURES]]
    shown += [(image, True) for beneath, image in bad if beneath not in order[:k_shot]][:MOST_PICTURES]
    rows = []
    for factor, matched in product(FACTORS, (False, True)):
        pictures = [np.clip(image * np.float32(factor), 0, 255).astype(np.uint8) for image, _ in shown]
        inspector.observer.match_exposure = matched
        results = list(inspector.inspect_many(pictures, batch_size=8, answer=False, category=category, progress=False))
        values = inspector.processor(images=pictures, return_tensors="pt")["pixel_values"].mean((1, 2, 3)).tolist()
        for result, brightness, (_, anomalous) in zip(results, values, shown, strict=True):
            rows.append(
                {
                    "category": category,
                    "k_shot": k_shot,
                    "factor": factor,
                    "matched": matched,
                    "outside": max(light[0] - brightness, brightness - light[1], 0.0),
                    "evidence": result.evidence["evidence"],
                    "anomalous": anomalous,
                }
            )
    return rows


def told(rows: list[dict]) -> str:
    """Balanced accuracy, false alarms and misses, means over the parts that have both kinds."""
    figures = []
    for category in sorted({row["category"] for row in rows}):
        good, bad = (
            [row["evidence"] > 0 for row in rows if row["category"] == category and row["anomalous"] == wanted]
            for wanted in (False, True)
        )
        if good and bad:
            figures.append((statistics.mean(good), 1 - statistics.mean(bad)))
    if not figures:
        return "-"
    false_alarms, misses = (statistics.mean(column) for column in zip(*figures, strict=True))
    return f"{1 - (false_alarms + misses) / 2:.3f} (false alarms {false_alarms:.2f}, misses {misses:.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exposure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of sets")
    parser.add_argument("--model", help="folder or Hub id (default: the embedded checkpoint)")
    parser.add_argument("--k-shot", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--draws", type=int, default=2, help="draws of the references")
    parser.add_argument("--output", type=pathlib.Path, help="file for the rows (JSON)")
    options = parser.parse_args(arguments)
    inspector = AnomalyInspector.from_pretrained(options.model)
    real = (part for part in parts(options.data) if part[0] == "real")
    rows = [
        row
        for part in tqdm(real, desc="parts")
        for k_shot in options.k_shot
        for draw in range(options.draws)
        for row in measure(inspector, part, k_shot, draw)
    ]
    if options.output:
        options.output.write_text(json.dumps(rows) + "\n")
    for k_shot in options.k_shot:
        chosen = [row for row in rows if row["k_shot"] == k_shot]
        for factor, matched in product(FACTORS, (False, True)):
            same = [row for row in chosen if (row["factor"], row["matched"]) == (factor, matched)]
            print(f"k_shot {k_shot}, light x {factor}, {'matched' if matched else 'as it is'}: {told(same)}")
        for low, high in zip(EDGES, (*EDGES[1:], np.inf), strict=True):
            for matched in (False, True):
                same = [row for row in chosen if row["matched"] == matched and low < row["outside"] <= high]
                print(
                    f"k_shot {k_shot}, {low} to {high} outside, {'matched' if matched else 'as it is'}: "
                    f"{told(same)}, {len(same)} pictures"
                )


if __name__ == "__main__":
    main()
