"""`metadata.jsonl` and `metadata.csv` beside own pictures: rows of paths and facts to records.

Columns: `file_name`, and where known `mask_file_name`, `label`, `category`, `defect_type`, `split`. Knows this format
alone.
"""

import csv
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .anomaly_files import AnomalyRecord, read_mask, resolve_inside
from .validation import check_files_exist, closest

__all__ = ["METADATA_COLUMNS", "NORMAL_KINDS", "find_metadata", "read_metadata"]

METADATA_COLUMNS = ("file_name", "mask_file_name", "label", "category", "defect_type", "split")
NORMAL_KINDS = ("good", "normal", "ok")
_LABELS = {
    **dict.fromkeys((*NORMAL_KINDS, "0", "false"), 0),
    **dict.fromkeys(("anomalous", "anomaly", "abnormal", "defective", "defect", "bad", "1", "true"), 1),
}
_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}


def find_metadata(data_dir: Path) -> Path | None:
    """
    Find the metadata file of a folder.

    Args:
        data_dir (`Path`): The folder.

    Returns:
        `Path`, *optional*: `metadata.jsonl` or `metadata.csv`, `None` where there is neither.

    Raises:
        ValueError: If there are both.
    """
    found = [path for name in ("metadata.jsonl", "metadata.csv") if (path := data_dir / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"`data_dir` must hold one metadata file, got two in {str(data_dir)!r}. Take one out.")
    return found[0] if found else None


def read_metadata(path: Path, default_category: str) -> list[AnomalyRecord]:
    """
    Read a metadata file.

    A label that is not given follows from `defect_type` (`good`, `normal`, `ok` are normal), else from the mask, else
    it stays unknown. A split that is not given is `train`. `mask_file_name` may be a list in jsonl.

    Args:
        path (`Path`): The file; its paths are relative to its folder.
        default_category (`str`): Category of rows that name none.

    Returns:
        `list[AnomalyRecord]`: The pictures, in the order of the file.

    Raises:
        ValueError: If a line cannot be read, a path leaves the folder, a picture is named twice, a label or split is
            unknown, or a normal picture has a mask that marks something.
        FileNotFoundError: If files are missing.
    """
    rows = list(_read_rows(path))
    if not rows:
        raise ValueError(f"{str(path)!r} must name at least one picture, got none.")
    unknown = sorted({str(key) for _, row in rows for key in row} - set(METADATA_COLUMNS))
    if unknown:
        named = ", ".join(name + closest(name, METADATA_COLUMNS) for name in unknown)
        warnings.warn(
            f"{str(path)!r} has columns that are not read: {named} Known: {', '.join(METADATA_COLUMNS)}.",
            UserWarning,
            stacklevel=2,
        )
    files = []
    for where, row in rows:
        if not isinstance(row.get("file_name"), str) or not row["file_name"]:
            raise ValueError(f"`file_name` must name a picture, got {row.get('file_name')!r} ({where}).")
        names = (row["file_name"], *_mask_names(row, where))
        files.append(tuple(resolve_inside(path.parent, name, where) for name in names))
    check_files_exist([file for row_files in files for file in row_files], repr(str(path)))
    records = []
    first_line: dict[Path, str] = {}
    for (where, row), (image, *masks) in zip(rows, files, strict=True):
        if image in first_line:
            raise ValueError(
                f"A picture must be named once, got {row['file_name']!r} in {first_line[image]} and {where}."
            )
        first_line[image] = where
        mask_paths = tuple(str(mask) for mask in masks)
        label = _label(row, mask_paths, where)
        defect_type = str(row["defect_type"]) if row.get("defect_type") else ("good" if label == 0 else None)
        records.append(
            AnomalyRecord(
                image=str(image),
                label=label,
                category=str(row.get("category") or default_category),
                defect_type=defect_type,
                image_id=image.relative_to(path.parent).as_posix(),
                split=_split(row, where),
                masks=mask_paths,
            )
        )
    return records


def _read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row with the place it stands at; empty cells are left out."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":
            reader = csv.DictReader(file)
            for row in reader:
                where = f"{path.name}, line {reader.line_num}"
                if None in row:
                    raise ValueError(
                        f"Rows must have as many cells as the header, got more ({where}). Quote the commas."
                    )
                yield where, {key: value.strip() for key, value in row.items() if value and value.strip()}
            return
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path.name}, line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"Lines must be JSON objects, got {line.strip()[:60]!r} ({where}: {error.msg})."
                ) from error
            if not isinstance(row, dict):
                raise ValueError(f"Lines must be JSON objects, got {line.strip()[:60]!r} ({where}).")
            yield where, {key: value for key, value in row.items() if value is not None and value != ""}


def _mask_names(row: dict[str, Any], where: str) -> list[str]:
    """List the mask files a row names."""
    value = row.get("mask_file_name", [])
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`mask_file_name` must be a path or a list of paths, got {value!r} ({where}).")
    return names


def _label(row: dict[str, Any], masks: tuple[str, ...], where: str) -> int | None:
    """Read the label of a row, or infer it from the kind of defect or the mask."""
    defect_type = str(row.get("defect_type", "")).casefold()
    if "label" in row:
        written = str(row["label"]).strip().casefold()
        if written not in _LABELS:
            raise ValueError(
                f"`label` must be normal or anomalous (or 0 or 1), got {row['label']!r} ({where})."
                f"{closest(written, _LABELS)} Kinds of defects stand in `defect_type`."
            )
        label = _LABELS[written]
    elif defect_type:
        label = int(defect_type not in NORMAL_KINDS)
    else:
        return int(read_mask(masks).any()) if masks else None
    if label == 0 and masks and read_mask(masks).any():
        raise ValueError(
            f"The mask of a normal picture must be empty, got anomalous pixels in {masks[0]!r} ({where})."
        )
    return label


def _split(row: dict[str, Any], where: str) -> str:
    """Read the split of a row."""
    written = str(row.get("split", "train")).casefold()
    if written not in _SPLITS:
        raise ValueError(
            f"`split` must be train, validation or test, got {row['split']!r} ({where}).{closest(written, _SPLITS)}"
        )
    return _SPLITS[written]
