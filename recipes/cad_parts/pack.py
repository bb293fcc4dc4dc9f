"""Packs rendered pictures into the Parquet files that the builder `cad_parts` reads.

    python -m recipes.cad_parts.pack --pictures DIR [--output datasets_scripts/cad_parts_data] [--megabytes 38]

Takes what is there, so a set may be packed while it is still being rendered. The JPEG quality is the best with which
all fits. Prints the counts, areas and sizes of the data card (docs/cad_parts.md).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HELD_BACK = ("wing_nut", "spur_gear", "pipe_fitting", "bracket", "cable_end", "pill_tray", "buckle", "printed_carton")
"""Kinds of parts for measuring, a fifth of all: no model is trained on them."""

QUALITIES = (92, 90, 88, 86, 84, 82, 80, 78, 76, 74, 72, 70, 67, 64, 60)
SHARD_BYTES = 20_000_000

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [
        ("image", IMAGE), ("mask", IMAGE), ("label", pa.int64()), ("category", pa.string()),
        ("defect_type", pa.string()), ("image_id", pa.string()), ("split", pa.string()), ("kind", pa.string()),
        ("words", pa.string()), ("object", pa.string()), ("part_kind", pa.string()), ("held_back", pa.bool_()),
        ("size_mm", pa.float32()), ("area_share", pa.float32()), ("pixel_mm", pa.float32()),
    ]
)  # fmt: skip


def find(folder: pathlib.Path) -> list[tuple[pathlib.Path, dict]]:
    """Finished pictures with their facts, in a fixed order."""
    found = []
    for path in sorted(folder.glob("*/*.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not facts.get("failed"):
            found.append((path.with_suffix(".png"), facts))
    return found


def encoded(path: pathlib.Path, quality: int) -> bytes:
    """A picture as JPEG."""
    file = io.BytesIO()
    image = Image.open(path).convert("RGB")
    grey = np.asarray(image)
    if (grey[..., 0] == grey[..., 1]).all() and (grey[..., 0] == grey[..., 2]).all():
        image = image.convert("L")
    image.save(file, "JPEG", quality=quality, optimize=True, progressive=True)
    return file.getvalue()


def best_quality(found: Sequence[tuple[pathlib.Path, dict]], limit: float) -> int:
    """The best JPEG quality with which a sample says that all stays below `limit` bytes."""
    sample = random.Random(0).sample(list(found), min(150, len(found)))
    for quality in QUALITIES:
        made = [row(path, facts, quality, False) for path, facts in sample]
        if sum(map(stored, made)) / len(sample) * len(found) < limit:
            return quality
    return QUALITIES[-1]


def stored(one: dict) -> int:
    """About how many bytes a row takes."""
    return len(one["image"]["bytes"]) + len((one["mask"] or {"bytes": b""})["bytes"]) + 200


def row(path: pathlib.Path, facts: dict, quality: int, train: bool) -> dict:
    """A row of the schema."""
    name = f"{facts['part']}/{path.stem}"
    mask = None
    if facts["label"]:
        file = io.BytesIO()
        Image.open(path.with_name(path.stem + "_mask.png")).convert("1").save(file, "PNG", optimize=True)
        mask = {"bytes": file.getvalue(), "path": f"{name}_mask.png"}
    return {
        "image": {"bytes": encoded(path, quality), "path": f"{name}.jpg"}, "mask": mask, "label": facts["label"],
        "category": facts["part"], "defect_type": facts["defect_type"], "image_id": name,
        "split": "train" if train else "test", "kind": facts["kind"], "words": facts["words"],
        "object": facts["object"], "part_kind": facts["part_kind"], "held_back": facts["part_kind"] in HELD_BACK,
        "size_mm": facts["size_mm"], "area_share": facts["area_share"], "pixel_mm": facts["pixel_mm"],
    }  # fmt: skip


def write(rows: list[dict], folder: pathlib.Path) -> list[pathlib.Path]:
    """Write the shards under passing names, then put them in place of the old ones."""
    folder.mkdir(parents=True, exist_ok=True)
    groups: list[list[dict]] = [[]]
    size = 0
    for one in rows:
        if size > SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(one)
        size += stored(one)
    paths = []
    for number, group in enumerate(groups):
        path = folder / f"cad_parts-{number:05d}-of-{len(groups):05d}.parquet"
        table = pa.Table.from_pylist(group, SCHEMA)
        pq.write_table(table, path.with_suffix(".partial"), compression="zstd", row_group_size=256)
        paths.append(path)
    for old in set(folder.glob("cad_parts-*.parquet")) - set(paths):
        old.unlink()
    for path in paths:
        os.replace(path.with_suffix(".partial"), path)
    return paths


def statistics(rows: list[dict]) -> str:
    """Counts, areas and sizes as the tables of the data card."""
    bad = [one for one in rows if one["label"]]
    area, size = (np.array([one[name] for one in bad]) for name in ("area_share", "size_mm"))
    pixel = [one["pixel_mm"] for one in rows]
    held = [one for one in rows if one["held_back"]]
    lines = [
        f"{len(rows)} pictures of {len({one['category'] for one in rows})} parts of "
        f"{len({one['part_kind'] for one in rows})} kinds; {len(rows) - len(bad)} good, {len(bad)} with a defect; "
        f"{len(held)} pictures of {len({one['part_kind'] for one in held})} kinds held back.",
        f"Share of the picture under the mask: mean {area.mean():.2%}, median {np.median(area):.2%}, tenth to "
        f"ninetieth percentile {np.percentile(area, 10):.2%} to {np.percentile(area, 90):.2%}; below 2 %: "
        f"{(area < 0.02).mean():.0%}, below 0.5 %: {(area < 0.005).mean():.0%}.",
        f"Size: mean {size.mean():.1f} mm, median {np.median(size):.1f} mm, tenth to ninetieth percentile "
        f"{np.percentile(size, 10):.1f} to {np.percentile(size, 90):.1f} mm; a pixel is {min(pixel):.2f} to "
        f"{max(pixel):.2f} mm.",
        "",
        "| kind | pictures | mean area | median area | below 2 % | mean size (mm) | median size (mm) | types |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, count in Counter(one["kind"] for one in bad).most_common():
        of = [one for one in bad if one["kind"] == kind]
        types = ", ".join(f"{name} {n}" for name, n in Counter(one["defect_type"] for one in of).most_common())
        shares, sizes = (np.array([one[name] for one in of]) for name in ("area_share", "size_mm"))
        areas = f"{shares.mean():.2%} | {np.median(shares):.2%} | {(shares < 0.02).mean():.0%}"
        lines.append(f"| {kind} | {count} | {areas} | {sizes.mean():.1f} | {np.median(sizes):.1f} | {types} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m recipes.cad_parts.pack", description=__doc__, formatter_class=plain)
    parser.add_argument("--pictures", type=pathlib.Path, required=True, help="folder of `recipes.cad_parts.render`")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("datasets_scripts/cad_parts_data"))
    parser.add_argument("--megabytes", type=float, default=38, help="largest size of all files together")
    options = parser.parse_args(arguments)
    found = find(options.pictures)
    if not found:
        parser.error(
            f"`--pictures` must hold finished pictures, got {options.pictures} without any. Render them first."
        )
    quality = best_quality(found, options.megabytes * 1e6)
    good: Counter[str] = Counter(facts["part"] for _, facts in found if not facts["label"])
    seen: Counter[str] = Counter()
    rows = []
    for path, facts in found:  # the first half of a part's good pictures is for training
        train = not facts["label"] and seen[facts["part"]] < good[facts["part"]] / 2
        seen[facts["part"]] += not facts["label"]
        rows.append(row(path, facts, quality, train))
    paths = write(rows, options.output)
    sizes = ", ".join(f"{path.stat().st_size / 1e6:.1f}" for path in paths)
    print(f"JPEG quality {quality}; {len(paths)} files of {sizes} MB\n\n{statistics(rows)}")


if __name__ == "__main__":
    main()
