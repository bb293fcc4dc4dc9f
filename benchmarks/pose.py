"""Parts that lie any way: what following their pose gains.

    python -m benchmarks.pose FOLDER ... [--pictures 24]

FOLDER holds photographs of one part (train/good, test/...). Two good pictures are the references; each test picture
is rotated by any angle and moved by up to a twentieth of its width, on the ground that its edges show. Compared: the
pictures as they are; moved; moved, with rotated copies of the references (`--rotations`); moved, with their pose
followed (`--align`). Prints a table and writes benchmarks/results/pose.json. A set whose good pictures cannot be
brought into one pose has no last column.
"""

import argparse
import pathlib
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.measuring import RESULTS, machine, write_result
from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.encoder import PoseError
from modeling_anomalygpt.evaluation.metrics import auroc
from modeling_anomalygpt.images import find_pictures, load_picture
from modeling_anomalygpt.inspector import InspectionOptions

WAYS = {
    "as they lie": {}, "moved": {}, "moved, rotated copies": {"rotations": True}, "moved, aligned": {"align": True},
}  # fmt: skip
METRICS = {"auroc": "image AUROC", "false_alarms": "false alarms", "misses": "misses"}


def moved(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image rotated by any angle and moved a little, on its own ground."""
    pixels = np.asarray(image)
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    shift = tuple(int(value) for value in rng.uniform(-0.05, 0.05, 2) * image.width)
    ground = tuple(int(value) for value in np.median(edges, axis=0))
    return image.rotate(float(rng.uniform(0, 360)), Image.Resampling.BICUBIC, translate=shift, fillcolor=ground)


def measure(inspector: AnomalyInspector, folder: pathlib.Path, pictures: int) -> dict[str, dict]:
    """Each way's figures for one set."""
    rng = np.random.default_rng([5, zlib.crc32(folder.name.encode())])
    good = find_pictures([str(folder / "train" / "good")])
    good = [good[index] for index in rng.permutation(len(good))[:2]]
    test = find_pictures([str(folder / "test")])
    labels = np.array([pathlib.Path(path).parent.name != "good" for path in test])
    chosen = [index for label in (0, 1) for index in rng.permutation(np.nonzero(labels == label)[0])[: pictures // 2]]
    images = [load_picture(test[index]) for index in chosen]
    lying, labels, rows = [moved(image, rng) for image in images], labels[chosen], {}
    options = InspectionOptions(answer=False, use_language=False)
    for way, how in WAYS.items():
        try:
            inspector.set_references(good, **how)
        except PoseError:
            continue
        given = images if way == "as they lie" else lying
        results = list(inspector.inspect_many(given, options, progress=False))
        verdicts = np.array([result.verdict for result in results])
        rows[way] = {
            "auroc": round(float(auroc(labels, [result.pred_score for result in results])), 3),
            "false_alarms": round(float((verdicts[labels == 0] == "anomalous").mean()), 3),
            "misses": round(float((verdicts[labels == 1] == "normal").mean()), 3),
            "uncertain": round(float((verdicts == "uncertain").mean()), 3),
        }
    return rows


def table(found: dict) -> str:
    """The rows of pose.json in Markdown."""
    lines = [f"| set | {' | '.join(f'{metric}: {way}' for metric in METRICS.values() for way in WAYS)} |"]
    lines.append("|---" * (1 + len(METRICS) * len(WAYS)) + "|")
    complete = [ways for ways in found["sets"].values() if len(ways) == len(WAYS)]
    mean = {way: {key: float(np.mean([one[way][key] for one in complete])) for key in METRICS} for way in WAYS}
    for name, ways in (found["sets"] | {f"mean of {len(complete)}": mean}).items():
        cells = [f"{ways[way][key]:.2f}" if way in ways else "-" for key in METRICS for way in WAYS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pose", description=__doc__.split("\n")[0])
    parser.add_argument("photographs", nargs="+", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--pictures", type=int, default=24, help="of each set, half of them defective (default: 24)")
    options = parser.parse_args(arguments)
    inspector, sets = AnomalyInspector.from_pretrained(), {}
    for folder in tqdm(options.photographs, desc="sets"):
        sets[folder.name] = measure(inspector, folder, options.pictures)
    found = {"sets": sets, "pictures": options.pictures, "machine": machine()}
    write_result(RESULTS / "pose.json", found)
    print(table(found))


if __name__ == "__main__":
    main()
