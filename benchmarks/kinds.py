"""Kinds of defects: how often one is named, and how often rightly, on parts that chose nothing.

    python -m benchmarks.kinds [--model DIR_OR_ID] [--photographs DIR ...] [--output JSON]

`held_back`: CAD parts of the kinds that no training has, two good pictures each; the most conspicuous region of every
anomalous verdict whose middle part lies on the defect. `photographs`: of each folder of defects of these sets, what
the most conspicuous region is called; its name is for a reader to compare.
"""

import argparse
import json
import pathlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from benchmarks.measuring import RESULTS, good_pair, photograph_sets, write_result
from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.regions import core
from recipes.tiny.kinds import parts_of

UNNAMED = "not named"


def held_back(inspector: AnomalyInspector) -> dict[str, float | int | dict]:
    """Of the regions that lie on a defect: the share that is named, and of these the share that is right."""
    named = defaultdict(Counter)
    for category, references, rows in parts_of("held_back", 2, "good"):
        inspector.set_references(references, category=category)
        for row in rows:
            result = inspector.inspect(row["image"].convert("RGB"), answer=False, use_language=False)
            mask = np.array(row["mask"].convert("L")) > 0
            if result.verdict == "anomalous" and (core(result.regions[0], result.anomaly_map) & mask).any():
                named[row["kind"]][result.regions[0].kind or UNNAMED] += 1
    regions = sum(map(Counter.total, named.values()))
    told = regions - sum(found[UNNAMED] for found in named.values())
    right = sum(found[kind] for kind, found in named.items())
    return {
        "regions": regions,
        "named": round(told / max(1, regions), 3),
        "right": round(right / max(1, told), 3),
        "names": {kind: dict(found.most_common()) for kind, found in sorted(named.items())},
    }


def photographed(inspector: AnomalyInspector, folder: pathlib.Path) -> dict[str, dict[str, int]]:
    """What defects of a set are called, by their folder."""
    inspector.set_references(good_pair(folder, np.random.default_rng(0)), category=folder.name)
    found = {}
    for defects in sorted(path for path in (folder / "test").iterdir() if path.name != "good"):
        names: Counter = Counter()
        for path in sorted(defects.iterdir()):
            result = inspector.inspect(path, answer=False, use_language=False)
            if result.verdict == "anomalous":
                names[result.regions[0].kind or UNNAMED] += 1
        found[defects.name] = dict(names.most_common())
    return found


def table(rows: dict) -> str:
    """Both parts of kinds.json in Markdown."""
    parts, sets = rows["held_back"], rows["photographs"]
    lines = ["| set | regions | named | of these right |", "|---|---|---|---|"]
    lines.append(f"| CAD parts held back | {parts['regions']} | {parts['named']:.2f} | {parts['right']:.2f} |")
    for name, folders in sets.items():
        found = [(kind, count) for folder in folders.values() for kind, count in folder.items()]
        regions = sum(count for _, count in found)
        named = regions - sum(count for kind, count in found if kind == UNNAMED)
        said = ", ".join(
            f"{folder}: {kind} {count}"
            for folder, kinds in folders.items()
            for kind, count in kinds.items()
            if kind != UNNAMED
        )
        lines.append(f"| {name} | {regions} | {named / max(1, regions):.2f} | {said or '-'} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kinds", description=__doc__, formatter_class=plain)
    parser.add_argument("--model", help="folder or Hub id (default: the embedded checkpoint)")
    parser.add_argument("--photographs", type=pathlib.Path, nargs="*", default=[], help="folders with sets")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS / "kinds.json")
    options = parser.parse_args(arguments)
    inspector = AnomalyInspector.from_pretrained(options.model)
    rows = {"held_back": held_back(inspector)}
    sets = tqdm(photograph_sets(options.photographs), desc="photographs")
    rows["photographs"] = {path.name: photographed(inspector, path) for path in sets}
    write_result(options.output, rows)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
