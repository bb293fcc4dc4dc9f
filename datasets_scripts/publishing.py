"""From a loaded data set to a Hub data set: parquet files with the pictures inside, and a data card beside them.

What stands there is read by plain `load_dataset` and shown by the Hub's viewer, without any of this code.
"""

import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
from datasets.table import embed_table_storage
from huggingface_hub import DatasetCardData

from .anomaly_builder import FACTS

_ROWS_PER_GROUP = 64
_LICENCES = ("apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc0-1.0", "mit", "unknown")
_CARD = """\
---
{front}
---

# {title}

{description}

{source}Licence of the pictures: {licence}. It binds whoever passes them on.

| column | what |
|---|---|
{columns}

| split | rows |
|---|---|
{rows}
{citation}"""


def data_card(name: str, dataset: datasets.DatasetDict, title: str | None = None) -> str:
    """Write the text of a data card: front matter, licence, columns, counts, citation.

    Args:
        name (`str`): Name of the data set as in `load_anomaly_dataset`; it gives the title.
        dataset (`datasets.DatasetDict`): The splits; their `info` gives description, licence, home page and citation.
        title (`str`, *optional*): Another title.

    Returns:
        `str`: The text of a README.md.
    """
    if not dataset:
        raise ValueError("`dataset` must hold at least one split, got none. Load it without `split=`.")
    first = next(iter(dataset.values()))
    info, licence, title = first.info, first.info.license or "unknown", title or FACTS.get(name, {}).get("title", name)
    talks, known = "messages" in first.features, licence in _LICENCES
    files = [{"split": split, "path": f"data/{split}-*"} for split in dataset]
    front = DatasetCardData(
        pretty_name=title,
        license=licence if known else "other",
        license_name=None if known else licence,
        task_categories=["image-text-to-text"] if talks else ["image-classification", "image-segmentation"],
        tags=["conversations"] if talks else ["anomaly-detection", "industrial-inspection"],
        size_categories=[_size_category(sum(map(len, dataset.values())))],
        configs=[{"config_name": "default", "data_files": files}],
    )
    return _CARD.format(
        front=front.to_yaml(),
        title=title,
        description=info.description or "",
        source=f"Source: {info.homepage}\n\n" if info.homepage else "",
        licence=licence,
        columns="\n".join(f"| `{column}` | {FACTS['columns'].get(column, '')} |" for column in first.features),
        rows="\n".join(f"| {split} | {len(rows)} |" for split, rows in dataset.items()),
        citation=f"\n## Citation\n\n```bibtex\n{info.citation.strip()}\n```\n" if info.citation else "",
    )


def save_parquet(
    dataset: datasets.DatasetDict,
    folder: str | os.PathLike,
    name: str,
    title: str | None = None,
    max_shard_bytes: int = 500_000_000,
) -> list[Path]:
    """Save a data set as a folder ready for the Hub: `data/<split>-*.parquet` with the pictures inside, and README.md.

    Read it with `load_dataset(folder)`; upload it with `huggingface_hub.upload_folder`. (`dataset.push_to_hub` writes
    the same files straight to the Hub; upload the card first, it keeps what stands there.)

    Args:
        dataset (`datasets.DatasetDict`): The splits.
        folder (`str` or `os.PathLike`): Folder to write; made if missing.
        name (`str`): Name of the data set as in `load_anomaly_dataset`.
        title (`str`, *optional*): Title of the card.
        max_shard_bytes (`int`, defaults to 500 MB): A new file is begun after so many bytes of pictures.

    Returns:
        `list[Path]`: The files, README.md last.

    Raises:
        TypeError: If `dataset` is a single split or a stream.
        FileExistsError: If `folder/data` already holds parquet files.
    """
    if not isinstance(dataset, datasets.DatasetDict):
        raise TypeError(
            f"`dataset` must be a DatasetDict, got {type(dataset).__name__}. Load it without `split=`, `streaming=`."
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
                writer, written = pq.ParquetWriter(paths[-1], rows.features.arrow_schema), 0
            writer.write_table(table)
            written += table.nbytes
    finally:
        if writer is not None:
            writer.close()
    return paths


def _size_category(rows: int) -> str:
    """Name the Hub's size class of a number of rows."""
    limits = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
    return next((name for limit, name in limits if rows < limit), "100K<n<1M")
