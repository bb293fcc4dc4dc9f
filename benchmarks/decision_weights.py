"""On what the weights of `decision.py` rest: how much the map's ratio and the language model's log-odds say.

    python -m benchmarks.decision_weights --data DIR [--model DIR_OR_ID] [--k-shot 1 2 4] [--draws 2] [--output JSON]

Good pictures of --data (`<set>/train/good`) are inspected with others of them as references, once as they are and once
with a synthetic anomaly (never in a picture that is a reference itself); rendered products of the training families
with the defects that they are drawn with. No picture of a test split is read. Printed: a logistic regression of
"anomalous" on the logarithm of the ratio and the log-odds (held in bounds as the decision holds them), every part
weighing the same; the balanced accuracy of each piece of evidence alone and of the decision, forced to one of two;
that of twice the logarithm plus the log-odds times other weights; and with other values of `normal_distance` (0: the
limit from the references alone) that of the map alone, that of the decision, and the part of the good pictures that it
calls anomalous.
"""

import argparse
import json
import pathlib
import statistics
from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

from benchmarks.quality import pictures_in
from datasets_scripts import TRAINING_FAMILIES, render_product
from modeling_anomalygpt import AnomalyInspector, load_picture
from modeling_anomalygpt.references import NormalScores
from modeling_anomalygpt.scoring import decide, evidence_of
from modeling_anomalygpt.synthesis.synthesizer import Mixture, cut_paste, nsa, perlin_texture

SYNTHESIS = Mixture([nsa, cut_paste, perlin_texture])
MOST_LANGUAGE, MOST_PICTURES, TRIES = 4.0, 20, 6
LANGUAGE_WEIGHTS = (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
USUAL_DISTANCES = (0.0, 0.2, 0.25, 0.28, 0.3, 0.32, 0.34, 0.36, 0.38, 0.4, 0.45)


def parts(data: pathlib.Path | None) -> Iterator[tuple[str, str, list, list]]:
    """Kind, category, good pictures and anomalous ones of each part, these with the number of the good one beneath."""
    for folder in sorted(data.iterdir()) if data else []:
        if (folder / "train" / "good").is_dir():
            good = [np.asarray(load_picture(file)) for file in pictures_in(folder / "train" / "good")[:MOST_PICTURES]]
            category = folder.name.replace("_", " ")
            made = enumerate(map(with_anomaly, range(len(good)), good))
            yield "real", category, good, [(index, image) for index, image in made if image is not None]
    for number, family in enumerate(TRAINING_FAMILIES):
        rng = np.random.default_rng([11, number])
        product = render_product(family, rng, 224)
        good = [product.photograph(rng) for _ in range(10)]
        bad = [(None, product.photograph(rng, defect="random").image) for _ in range(8)]
        yield "rendered", good[0].category, [part.image for part in good], bad


def with_anomaly(index: int, image: np.ndarray) -> np.ndarray | None:
    """The picture with a synthetic anomaly; `None` where none of some tries can be seen."""
    rng = np.random.default_rng([7, index])
    for _ in range(TRIES):
        made = SYNTHESIS(image, image[:, ::-1], rng, category="object")
        if made.is_anomalous and made.mask.mean() > 0.002:
            return made.image
    return None


def measure(inspector: AnomalyInspector, part: tuple, k_shot: int, draw: int) -> dict:
    """Logarithms of ratios, log-odds and labels of one part with references drawn at random."""
    kind, category, good, bad = part
    order = np.random.default_rng([k_shot, draw]).permutation(len(good))
    inspector.set_references([good[index] for index in order[:k_shot]], category=category)
    rest = [good[index] for index in order[k_shot:]]
    bad = [image for beneath, image in bad if beneath not in order[:k_shot].tolist()]
    results = list(inspector.inspect_many(rest + bad, batch_size=8, answer=False, category=category, progress=False))
    return {
        "kind": kind,
        "category": category,
        "k_shot": k_shot,
        "limit": inspector.memory_bank.limit,
        "normal_scores": json.loads(inspector.memory_bank.notes["normal_scores"]),
        "ratios": [result.pred_score for result in results],
        "log_odds": [result.log_odds for result in results],
        "anomalous": [0] * len(rest) + [1] * len(bad),
    }


def balanced_accuracy(values: Sequence[float], labels: Sequence[int]) -> float:
    said, truth = np.array(values) > 0, np.array(labels) > 0
    return float((said[truth].mean() + (~said[~truth]).mean()) / 2)


def with_weight(row: dict, weight: float) -> float:
    """Balanced accuracy if the log-odds weighed so much."""
    bounded = np.clip(row["log_odds"], -MOST_LANGUAGE, MOST_LANGUAGE)
    return balanced_accuracy(2 * np.log(np.maximum(row["ratios"], 1e-3)) + weight * bounded, row["anomalous"])


def with_usual(row: dict, usual: float) -> tuple[float, float, float]:
    """If `normal_distance` were this: balanced accuracy of map and decision, false alarms among the good pictures."""
    known = NormalScores(row["normal_scores"]["views"], row["normal_scores"]["crossed"], usual)
    ratios = [ratio * row["limit"] / known.limit for ratio in row["ratios"]]
    evidence = [evidence_of(*pair) for pair in zip(ratios, row["log_odds"], strict=True)]
    alarms = [decide(one) == "anomalous" for one, bad in zip(evidence, row["anomalous"], strict=True) if not bad]
    return (
        balanced_accuracy([ratio - 1 for ratio in ratios], row["anomalous"]),
        balanced_accuracy(evidence, row["anomalous"]),
        statistics.mean(alarms),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decision_weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=pathlib.Path, help="folder of sets; none: rendered parts only")
    parser.add_argument("--model", help="folder or Hub id (default: the embedded checkpoint)")
    parser.add_argument("--k-shot", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--draws", type=int, default=2, help="draws of the references")
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args(arguments)
    inspector = AnomalyInspector.from_pretrained(options.model)
    rows = [
        measure(inspector, part, k_shot, draw)
        for part in tqdm(parts(options.data), desc="parts")
        for k_shot in options.k_shot
        for draw in range(options.draws)
    ]
    if options.output:
        options.output.write_text(json.dumps(rows) + "\n")
    for k_shot in options.k_shot:
        chosen = [row for row in rows if row["k_shot"] == k_shot]
        features, labels, weights = [], [], []
        for row in chosen:
            truth = np.array(row["anomalous"])
            bounded = np.clip(row["log_odds"], -MOST_LANGUAGE, MOST_LANGUAGE)
            features.append(np.stack([np.log(np.maximum(row["ratios"], 1e-3)), bounded], 1))
            labels.append(truth)
            weights.append(np.where(truth, 1 / max(1, truth.sum()), 1 / max(1, (1 - truth).sum())))
        fit = LogisticRegression().fit(np.concatenate(features), np.concatenate(labels), np.concatenate(weights) * 10)
        print(
            f"k_shot {k_shot}: ratio {fit.coef_[0, 0]:.2f}, language {fit.coef_[0, 1]:.2f}, {fit.intercept_[0]:+.2f}"
        )
        for kind in ("real", "rendered"):
            same = [row for row in chosen if row["kind"] == kind]
            if same:
                evidence = {
                    "map": [[ratio - 1 for ratio in row["ratios"]] for row in same],
                    "language": [row["log_odds"] for row in same],
                    "decision": [
                        [evidence_of(*pair) for pair in zip(row["ratios"], row["log_odds"], strict=True)]
                        for row in same
                    ],
                }
                told = {
                    name: round(statistics.mean(map(balanced_accuracy, values, [row["anomalous"] for row in same])), 3)
                    for name, values in evidence.items()
                }
                print(f"  {kind}: balanced accuracy {told}")
                by_weight = {
                    weight: round(statistics.mean(with_weight(row, weight) for row in same), 3)
                    for weight in LANGUAGE_WEIGHTS
                }
                print(f"  {kind}: by weight of the log-odds {by_weight}")
                for usual in USUAL_DISTANCES:
                    columns = zip(*(with_usual(row, usual) for row in same), strict=True)
                    means = [round(statistics.mean(column), 3) for column in columns]
                    print(f"  {kind}: normal_distance {usual}: map, decision, false alarms {means}")


if __name__ == "__main__":
    main()
