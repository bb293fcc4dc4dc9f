"""What `presence` gains on missing pieces and costs elsewhere, on the CAD parts that no training has.

    python -m benchmarks.presence [--model DIR_OR_ID] [--output JSON]

Four good pictures of each held-back part; each of its test pictures with and without it. By kind of defect: image
AUROC beside the part's good pictures, misses, and how many are said to lack a piece (with it); of the good pictures:
false alarms. How patches are compared was chosen on the other parts; the figures of these were looked at beside.
"""

import argparse
import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.measuring import RESULTS, machine, write_result
from modeling_anomalygpt import AnomalyInspector
from recipes.tiny.kinds import parts_of

PRESENCE = RESULTS / "presence.json"


def measure(inspector: AnomalyInspector) -> dict[str, dict[str, dict[str, float | int]]]:
    """Figures by kind of defect, without (`"off"`) and with (`"on"`)."""
    found = {name: defaultdict(list) for name in ("off", "on")}
    for category, references, rows in parts_of("held_back", 4):
        for name, judged in found.items():
            inspector.set_references(references, category=category, presence=name == "on")
            results = [(row["kind"], inspector.inspect(row["image"].convert("RGB"), answer=False)) for row in rows]
            normal = [result for kind, result in results if kind == "good"]
            for kind, result in results:
                named = bool(result.regions) and result.regions[0].kind == "missing"
                judged[kind].append((result.pred_score, result.verdict, [one.pred_score for one in normal], named))
    return {name: {kind: figures(kind, rows) for kind, rows in sorted(by.items())} for name, by in found.items()}


def figures(kind: str, rows: Sequence[tuple[float, str, list[float], bool]]) -> dict[str, float | int]:
    """Of the pictures of a kind: how many, how often above a good picture of their part, wrong verdicts, names."""
    wrong = "anomalous" if kind == "good" else "normal"
    row: dict[str, float | int] = {
        "pictures": len(rows),
        "wrong": round(float(np.mean([verdict == wrong for _, verdict, *_ in rows])), 3),
        "called_missing": sum(named for *_, named in rows),
    }
    if kind != "good":
        above = [np.mean([(score > one) + 0.5 * (score == one) for one in normal]) for score, _, normal, _ in rows]
        row["image_auroc"] = round(float(np.mean(above)), 3)
    return row


def table(rows: Mapping) -> str:
    """presence.json in Markdown."""
    lines = ["| defect | pictures | image AUROC: off / on | misses: off / on | said to lack a piece |"]
    lines.append("|---|---|---|---|---|")
    for kind, off in rows["off"].items():
        on = rows["on"][kind]
        wrong, lacks = f"{off['wrong']:.2f} / {on['wrong']:.2f}", on["called_missing"]
        if kind == "good":
            last = f"| none | {off['pictures']} | | false alarms: {wrong} | {lacks} |"
        else:
            order = f"{off['image_auroc']:.2f} / {on['image_auroc']:.2f}"
            lines.append(f"| {kind} | {off['pictures']} | {order} | {wrong} | {lacks} |")
    return "\n".join([*lines, last])


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.presence", description=__doc__, formatter_class=plain)
    parser.add_argument("--model", help="folder or Hub id (default: the embedded checkpoint)")
    parser.add_argument("--output", type=pathlib.Path, default=PRESENCE)
    options = parser.parse_args(arguments)
    rows = measure(AnomalyInspector.from_pretrained(options.model)) | {"machine": machine()}
    write_result(options.output, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
