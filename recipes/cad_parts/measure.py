"""Image and pixel AUROC on parts of held-back kinds, by kind of defect, with few references.

    python -m recipes.cad_parts.measure [--mobilenet FILE] [--data DIR] [--parts 24] [--draws 1] [--output CSV]
                                        [--card docs/cad_parts.md]

Compared are the embedded checkpoint (its score and map) and, with `--mobilenet` (weights as for
`recipes.cad_parts.mobilenet`), MobileNetV2 as it comes: blocks 4 and 11, 3 x 3 means, cosine distance from the
nearest patch of the references, the map's maximum as score. References are good pictures of the train split; of the
test split each kind of defect is measured against the part's good pictures. Means over parts and draws, and the lowest
of a part in one draw. `--card` writes the table into the data card, between its two markers.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from datasets_scripts import load_anomaly_dataset
from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.evaluation.metrics import auroc
from recipes.cad_parts.mobilenet import load_mobilenet

Scored = list[tuple[float, np.ndarray]]
Method = Callable[[list[Image.Image], list[Image.Image], str], Scored]


def embedded(references: list[Image.Image], queries: list[Image.Image], name: str) -> Scored:
    """Scores and maps of the embedded checkpoint."""
    inspector = AnomalyInspector.from_pretrained()
    inspector.set_references(references, category=name)
    results = inspector.inspect_many(queries, batch_size=8, progress=False, answer=False)
    return [(result.pred_score, result.anomaly_map) for result in results]


def mobilenet(file: pathlib.Path) -> Method:
    """Scores and maps of MobileNetV2 as it comes."""
    tower = load_mobilenet(file)

    @torch.inference_mode()
    def patches(images: list[Image.Image]) -> list[torch.Tensor]:
        shrunk = (one.convert("RGB").resize((256, 256), Image.BICUBIC) for one in images)
        arrays = np.stack([np.asarray(one, np.float32) for one in shrunk])
        pixels = torch.from_numpy(arrays / 127.5 - 1).permute(0, 3, 1, 2)
        states = tower(pixels, output_hidden_states=True).hidden_states
        means = [torch.nn.functional.avg_pool2d(states[layer], 3, 1, 1, count_include_pad=False) for layer in (4, 11)]
        return [torch.nn.functional.normalize(mean, dim=1) for mean in means]

    @torch.inference_mode()
    def score(references: list[Image.Image], queries: list[Image.Image], name: str) -> Scored:
        banks = [layer.permute(0, 2, 3, 1).flatten(0, 2) for layer in patches(references)]
        scored = []
        for start in range(0, len(queries), 8):
            maps = 0.0
            for layer, bank in zip(patches(queries[start : start + 8]), banks, strict=True):
                own = layer.permute(0, 2, 3, 1)
                far = 1 - (own.flatten(0, 2) @ bank.T).max(1).values.view(own.shape[:3])
                maps = maps + torch.nn.functional.interpolate(far[:, None], (320, 320), mode="bilinear") / 2
            scored += [(float(one.max()), one[0].numpy()) for one in maps]
        return scored

    return score


def measure_part(
    method: Method, train: list[dict], test: list[dict], shots: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Image and pixel AUROC of one part: of all defects, and of each kind against the good pictures."""
    chosen = np.random.default_rng(seed).choice(len(train), min(shots, len(train)), replace=False)
    scored = method([train[k]["image"] for k in chosen], [one["image"] for one in test], test[0]["object"])
    masks = [
        np.asarray(one["mask"]) > 0 if one["label"] else np.zeros(found.shape, bool)
        for one, (_, found) in zip(test, scored, strict=True)
    ]
    results = {}
    for kind in ("all", *sorted({one["kind"] for one in test if one["label"]})):
        use = [k for k, one in enumerate(test) if not one["label"] or kind in ("all", one["kind"])]
        labels = np.array([test[k]["label"] for k in use])
        image = auroc(labels, np.array([scored[k][0] for k in use]))
        every = [(masks[k][::2, ::2], scored[k][1][::2, ::2]) for k in use]
        pixel = auroc(np.concatenate([m.ravel() for m, _ in every]), np.concatenate([s.ravel() for _, s in every]))
        results[kind] = (image, pixel)
    return results


MARKERS = ("<!-- table: python -m recipes.cad_parts.measure --card -->", "<!-- end of table -->")


def insert(table: str, card: pathlib.Path) -> None:
    """Put the table between the markers of the data card."""
    before, found, rest = card.read_text(encoding="utf-8").partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not found or not end:
        raise SystemExit(f"`--card` must hold the lines {MARKERS[0]} and {MARKERS[1]}, got {card}. Add them.")
    card.write_text(f"{before}{MARKERS[0]}\n\n{table}\n\n{MARKERS[1]}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m recipes.cad_parts.measure", description=__doc__, formatter_class=plain)
    parser.add_argument("--mobilenet", type=pathlib.Path, help="weights of MobileNetV2, safetensors")
    parser.add_argument("--data", type=pathlib.Path, help="folder of recipes.cad_parts.pack (default: the package's)")
    parser.add_argument("--parts", type=int, default=24, help="parts at most")
    parser.add_argument("--draws", type=int, default=1, help="draws of the references")
    parser.add_argument("--output", type=pathlib.Path, help="CSV file of the table")
    parser.add_argument("--card", type=pathlib.Path, help="data card to write the table into (docs/cad_parts.md)")
    options = parser.parse_args(arguments)
    loaded = load_anomaly_dataset("cad_parts", options.data, config_name="held_back")
    by_part: dict[str, dict[str, list[int]]] = defaultdict(lambda: {"train": [], "test": []})
    for split in loaded:
        for index, name in enumerate(loaded[split]["category"]):
            by_part[name][split].append(index)
    methods: dict[str, Method] = {"embedded": embedded}
    if options.mobilenet:
        methods["mobilenet_v2"] = mobilenet(options.mobilenet)
    found: dict[tuple[str, int, str], list[tuple[float, float]]] = defaultdict(list)
    for name in sorted(by_part)[: options.parts]:
        train, test = ([loaded[split][k] for k in by_part[name][split]] for split in ("train", "test"))
        for method, score in methods.items():
            for shots in (1, 4):
                for draw in range(options.draws):
                    for kind, pair in measure_part(score, train, test, shots, draw).items():
                        found[method, shots, kind].append(pair)
    rows = [["method", "references", "kind", "image_auroc", "worst", "pixel_auroc", "worst", "parts"]]
    for (method, shots, kind), pairs in sorted(found.items()):
        figures = np.stack([np.mean(pairs, 0), np.min(pairs, 0)], axis=1).flatten()  # image, worst, pixel, worst
        rows.append([method, str(shots), kind, *(f"{one:.3f}" for one in figures), str(len(pairs) // options.draws)])
    table = "\n".join("| " + " | ".join(one) + " |" for one in [rows[0], ["---"] * len(rows[0]), *rows[1:]])
    print(table)
    if options.card:
        insert(table, options.card)
    if options.output:
        with options.output.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main()
