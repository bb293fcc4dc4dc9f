"""From a loaded data set to a Hub data set: parquet files with the pictures inside, and a data card beside them.

What stands there is read by plain `load_dataset` and shown by the Hub's viewer, without any of this code.
"""

import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
from datasets.table import embed_table_storage

__all__ = ["data_card", "save_parquet"]

_ROWS_PER_GROUP = 64
_LICENCES = ("apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc0-1.0", "mit", "unknown")
_TITLES = {
    "mvtec_ad": "MVTec AD",
    "visa": "VisA",
    "mvtec_loco": "MVTec LOCO AD",
    "crack_forest": "CrackForest",
    "anomaly_folder": "Own pictures",
    "conversations": "PandaGPT visual instructions",
    "rendered_parts": "Rendered parts",
    "cad_parts": "CAD parts",
}
_COLUMNS = {
    "image": "the picture",
    "mask": "0 normal, 255 anomalous, in the picture's own pixels; null where there is none",
    "label": "0 normal, 1 anomalous; null where unknown",
    "category": "what the picture shows",
    "defect_type": "kind of defect; `good` for normal pictures, null where unknown",
    "image_id": "name of the picture in its source",
    "split": "train, validation or test",
    "kind": "what sort of defect: missing, extra, misplaced, broken, deformed, surface, colour, contamination, print",
    "words": "the defect in words",
    "object": "the part in words",
    "part_kind": "kind of part; its parts differ in dimensions and station",
    "held_back": "whether the kind of part is kept for measuring",
    "size_mm": "size of the defect in millimetres",
    "area_share": "share of the picture under the mask",
    "pixel_mm": "millimetres a pixel",
    "messages": "turns with `role` (user, assistant) and `content`",
    "region_masks": "each mask file of the picture by itself",
    "region_names": "kind of each region",
    "region_saturation_areas": "pixels after which a region counts as found whole (sPRO)",
}


def data_card(name: str, dataset: datasets.DatasetDict, title: str | None = None) -> str:
    """
    Write the text of a data card: front matter, licence, columns, counts, citation.

    Args:
        name (`str`):
            Name of the data set as in `load_anomaly_dataset`; it gives title and tasks.
        dataset (`datasets.DatasetDict`):
            The splits; their `info` gives description, licence, home page and citation.
        title (`str`, *optional*):
            Another title.

    Returns:
        `str`: The text of a README.md.
    """
    if not dataset:
        raise ValueError("`dataset` must hold at least one split, got none. Load it without `split=`.")
    first = next(iter(dataset.values()))
    info = first.info
    stated = info.license or "unknown"
    talks = "messages" in first.features
    tasks = ["image-text-to-text"] if talks else ["image-classification", "image-segmentation"]
    tags = ["conversations"] if talks else ["anomaly-detection", "industrial-inspection"]
    rows = sum(len(split) for split in dataset.values())
    title = title or _TITLES.get(name, name)
    front = [f"pretty_name: {title}"]
    if stated in _LICENCES:
        front.append(f"license: {stated}")
    else:
        front += ["license: other", f'license_name: "{stated}"']
    front += ["task_categories:", *(f"- {task}" for task in tasks), "tags:", *(f"- {tag}" for tag in tags)]
    front += [f"size_categories:\n- {_size_category(rows)}", "configs:\n- config_name: default\n  data_files:"]
    front += [f"  - split: {split}\n    path: data/{split}-*" for split in dataset]
    lines = ["---", *front, "---", "", f"# {title}", "", info.description or "", ""]
    if info.homepage:
        lines += [f"Source: {info.homepage}", ""]
    lines += [
        f"Licence of the pictures: {stated}. It binds whoever passes them on.",
        "",
        "| column | what |",
        "|---|---|",
    ]
    lines += [f"| `{column}` | {_COLUMNS.get(column, '')} |" for column in first.features]
    lines += [
        "",
        "| split | rows |",
        "|---|---|",
        *(f"| {split} | {len(rows_)} |" for split, rows_ in dataset.items()),
    ]
    if info.citation:
        lines += ["", "## Citation", "", "```bibtex", info.citation.strip(), "```"]
    return "\n".join(lines) + "\n"


def save_parquet(
    dataset: datasets.DatasetDict,
    folder: str | os.PathLike,
    name: str,
    title: str | None = None,
    max_shard_bytes: int = 500_000_000,
) -> list[Path]:
    """
    Save a data set as a folder ready for the Hub: `data/<split>-*.parquet` with the pictures inside, and README.md.

    Read it with `load_dataset(folder)`; upload it with `huggingface_hub.upload_folder`. (`dataset.push_to_hub` writes
    the same files straight to the Hub; upload the card first, it keeps what stands there.)

    Args:
        dataset (`datasets.DatasetDict`):
            The splits.
        folder (`str` or `os.PathLike`):
            Folder to write; made if missing.
        name (`str`):
            Name of the data set as in `load_anomaly_dataset`.
        title (`str`, *optional*):
            Title of the card.
        max_shard_bytes (`int`, defaults to 500 MB):
            A new file is begun after so many bytes of pictures.

    Returns:
        `list[Path]`: The files, README.md last.

    Raises:
        TypeError: If `dataset` is a single split or a stream.
        FileExistsError: If `folder/data` already holds parquet files.
    """
    if not isinstance(dataset, datasets.DatasetDict):
        raise TypeError(
            f"`dataset` must be a DatasetDict, got {type(dataset).__name__}. "
            "Load it without `split=` and `streaming=`."
        )
    card = data_card(name, dataset, title)
    data = Path(folder) / "data"
    if any(data.glob("*.parquet")):
        raise FileExistsError(f"`folder` must hold no parquet files yet, got {str(data)!r}. Choose or empty a folder.")
    data.mkdir(parents=True, exist_ok=True)
    files = []
    for split, rows in dataset.items():
        shards = _write_shards(rows, data, split, max_shard_bytes)
        for number, shard in enumerate(shards):
            files.append(shard.rename(data / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"))
    readme = Path(folder) / "README.md"
    readme.write_text(card, encoding="utf-8")
    return [*files, readme]


def _write_shards(rows: datasets.Dataset, folder: Path, split: str, max_shard_bytes: int) -> list[Path]:
    """Write one split as parquet files under passing names, with the bytes of the pictures."""
    paths: list[Path] = []
    writer: Any = None
    written = 0
    try:
        for batch in rows.with_format("arrow").iter(batch_size=_ROWS_PER_GROUP):
            table = embed_table_storage(batch.cast(rows.features.arrow_schema))
            if writer is None or written + table.nbytes > max_shard_bytes:
                if writer is not None:
                    writer.close()
                paths.append(folder / f"{split}-{len(paths):05d}.partial")
                writer = pq.ParquetWriter(paths[-1], rows.features.arrow_schema)
                written = 0
            writer.write_table(table)
            written += table.nbytes
    finally:
        if writer is not None:
            writer.close()
    return paths


def _size_category(rows: int) -> str:
    """Name the Hub's size class of a number of rows."""
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")):
        if rows < limit:
            return name
    return "100K<n<1M"
