"""On what the constants of `calibration.py` and `comparability.py` rest: good pictures only, and rendered ones.

    python -m benchmarks.normal_limits --data DIR [--model DIR_OR_ID] [--draws 3] [--output JSON]

Good pictures of --data (`<set>/train/good`, at most 20 of each) and of rendered products of the training families are
compared with one, two and four others of their kind. Printed for each number of references: the 50 % and 90 % points
of the good pictures' scores over the geometric mean of the references' views (views), of the references against each
other (crossed), and over the limit that the inspector would set. Last: how far the mean patch of a good picture lies
from the nearest reference of its part, and how near a picture of another part comes.
"""

import argparse
import json
import pathlib
import statistics
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.quality import pictures_in
from datasets_scripts import TRAINING_FAMILIES, render_product
from modeling_anomalygpt import AnomalyInspector, load_picture
from modeling_anomalygpt.localization import few_shot_anomaly_map
from modeling_anomalygpt.memory_bank import PatchFeatures, unit_length
from modeling_anomalygpt.references import scores_of, view_references

K_SHOTS, MOST_PICTURES = (1, 2, 4), 20


def groups(data: pathlib.Path | None, products: int) -> Iterator[tuple[str, list]]:
    """Name and good pictures of each part."""
    for folder in sorted(data.iterdir()) if data else []:
        if (folder / "train" / "good").is_dir():
            files = pictures_in(folder / "train" / "good")[:MOST_PICTURES]
            yield f"real/{folder.name}", [load_picture(file) for file in files]
    for number, family in enumerate(TRAINING_FAMILIES):
        for product in range(products):
            rng = np.random.default_rng([5, product, number])
            made = render_product(family, rng, 224)
            yield f"rendered/{family}", [made.photograph(rng).image for _ in range(10)]


def geometric_mean(values: Sequence[float]) -> float:
    return float(np.exp(np.log(np.maximum(values, 1e-6)).mean()))


@torch.inference_mode()
def measure(inspector: AnomalyInspector, pictures: list, draws: int) -> tuple[dict[int, list[dict]], torch.Tensor]:
    """Ratios for each number of references, and the mean patch of every picture."""
    model = inspector.model.model
    pixel_values = inspector.processor(images=pictures, return_tensors="pt")["pixel_values"].float()
    parts = [model.get_patch_features(batch) for batch in pixel_values.split(8)]
    layers = [
        PatchFeatures(torch.cat([layer.vectors for layer in same]), same[0].grid) for same in zip(*parts, strict=True)
    ]
    rows: dict[int, list[dict]] = {}
    for k_shot in K_SHOTS:
        for draw in range(draws):
            chosen = np.random.default_rng([k_shot, draw]).permutation(len(pictures))
            references, rest = chosen[:k_shot], chosen[k_shot:]
            viewed = view_references(model.get_patch_features, pixel_values[references])
            scores = scores_of(viewed, model.config.map_size, model.config.decision["prior_normal_score"])
            bank = tuple(unit_length(layer.vectors[references].flatten(0, 1)) for layer in layers)
            queries = tuple(PatchFeatures(layer.vectors[rest], layer.grid) for layer in layers)
            normal = few_shot_anomaly_map(queries, bank, model.config.map_size).flatten(1).amax(1).numpy()
            bases = {"views": geometric_mean(scores.views), "limit": scores.limit}
            if scores.crossed:
                bases["crossed"] = geometric_mean(scores.crossed)
            rows.setdefault(k_shot, []).append(
                {name: np.quantile(normal / base, [0.5, 0.9]).tolist() for name, base in bases.items()}
                | {"above": float((normal > scores.limit).mean())}
            )
    return rows, unit_length(layers[-1].vectors.mean(1))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.normal_limits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=pathlib.Path, help="folder of sets; none: rendered parts only")
    parser.add_argument("--model", help="folder or Hub id (default: the embedded checkpoint)")
    parser.add_argument("--draws", type=int, default=3, help="draws of the references")
    parser.add_argument("--products", type=int, default=1, help="rendered products of each family")
    parser.add_argument("--output", type=pathlib.Path)
    options = parser.parse_args(arguments)
    inspector = AnomalyInspector.from_pretrained(options.model)
    made, means = {}, {}
    for name, pictures in tqdm(groups(options.data, options.products), desc="parts"):
        made.setdefault(name, []).append(None)
        made[name][-1], vectors = measure(inspector, pictures, options.draws)
        means[f"{name} {len(made[name])}"] = vectors
    table = []
    for kind in ("real", "rendered"):
        for k_shot in K_SHOTS:
            rows = [
                row for name, parts in made.items() if name.startswith(kind) for part in parts for row in part[k_shot]
            ]
            line = {"kind": kind, "references": k_shot}
            for base in ("views", "crossed", "limit"):
                found = [row[base] for row in rows if base in row]
                line[base] = [round(statistics.median(values), 2) for values in zip(*found, strict=True)]
            line["above"] = round(statistics.mean(row["above"] for row in rows), 3) if rows else None
            table.append(line)
            print(line)
    distances = []
    for name, vectors in means.items():
        others = torch.cat([other for key, other in means.items() if key.split()[0] != name.split()[0]])
        own = 1 - vectors @ vectors[:2].T
        distances.append(
            {
                "part": name,
                "farthest_good": round(float(own[2:].amin(1).max()), 3),
                "nearest_other": round(float((1 - others @ vectors[:2].T).min()), 3),
            }
        )
        print(distances[-1])
    if options.output:
        options.output.write_text(json.dumps({"ratios": table, "distances": distances}, indent=1) + "\n")


if __name__ == "__main__":
    main()
