"""Own pictures as a `datasets` builder: a folder in MVTec's layout, or with `metadata.jsonl` or `metadata.csv`."""

import json
import warnings
from pathlib import Path
from typing import Any

from modeling_anomalygpt.images import picture_pages

from .anomaly_builder import AnomalyBuilder, dataset_info
from .anomaly_files import (
    AnomalyRecord,
    check_category,
    check_files_exist,
    closest,
    list_folders,
    read_mask,
    read_table,
    resolve_inside,
    some_of,
)
from .mvtec_ad import MVTEC_LAYOUT, find_categories, is_category, scan_category

METADATA_COLUMNS = ("file_name", "mask_file_name", "label", "category", "defect_type", "split")
NORMAL_KINDS = ("good", "normal", "ok")
_LABELS = {
    **dict.fromkeys((*NORMAL_KINDS, "0", "false"), 0),
    **dict.fromkeys(("anomalous", "anomaly", "abnormal", "defective", "defect", "bad", "1", "true"), 1),
}
_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}


class AnomalyFolder(AnomalyBuilder):
    """Own pictures. Any category names; masks and labels are optional; a set of defects alone is allowed.

    Three layouts are read:

    - one category: `train/good/*.png`, `test/<kind>/*.png`, masks in `ground_truth/<kind>/<stem>_mask.png`, or drawn
      with labelme as `<stem>.json` there or beside the picture;
    - several of these, each in a folder of its name;
    - `metadata.jsonl` or `metadata.csv` with `file_name` and where known `mask_file_name`, `label`, `category`,
      `defect_type`, `split`; paths are relative to the folder and stay inside it.

    Kinds named `good`, `normal` or `ok` are normal. Pictures directly in `train`, `validation` or `test` are
    unlabelled.

    Args:
        data_dir (`str` or `os.PathLike`): The folder.
        category (`str`, *optional*): Of several categories the one to read; of one category the name to give it
            (default: the folder's name).
    """

    LAYOUT = f"{MVTEC_LAYOUT}; the same without <category>; or metadata.jsonl/csv with {', '.join(METADATA_COLUMNS)}"
    INFO = dataset_info("anomaly_folder")
    EMPTY_MASKS_IN_TEST = True

    def find_records(self, data_dir: Path, category: str | None) -> list[AnomalyRecord]:
        files = [path for name in ("metadata.jsonl", "metadata.csv") if (path := data_dir / name).is_file()]
        if len(files) > 1:
            raise ValueError(f"`data_dir` must hold one metadata file, got two in {str(data_dir)!r}. Take one out.")
        if files:
            records = read_metadata(files[0], default_category=data_dir.name)
            check_category(category, sorted({record.category for record in records}))
            return [record for record in records if category in (None, record.category)]
        if is_category(data_dir):
            return scan_category(data_dir, category or data_dir.name, data_dir, NORMAL_KINDS, own_pictures=True)
        names = find_categories(data_dir)
        others = [folder.name for folder in list_folders(data_dir) if folder.name not in names]
        if not names:
            raise FileNotFoundError(
                f"`data_dir` must hold pictures in a layout known here, got {some_of(others) or 'no folder'} in "
                f"{str(data_dir)!r}. Expected layout: {self.LAYOUT}."
            )
        check_category(category, names)
        if others and category is None:
            text = f"Folders without train, validation or test are not read: {', '.join(others)}"
            warnings.warn(text, UserWarning, stacklevel=2)
        return [
            record
            for name in names
            if category in (None, name)
            for record in scan_category(data_dir / name, name, data_dir, NORMAL_KINDS, own_pictures=True)
        ]


def read_metadata(path: Path, default_category: str) -> list[AnomalyRecord]:
    """Read a metadata file.

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
    rows = [(f"{path.name}, line {number}", row) for number, row in _read_rows(path)]
    if not rows:
        raise ValueError(f"{str(path)!r} must name at least one picture, got none.")
    unknown = sorted({str(key) for _, row in rows for key in row} - set(METADATA_COLUMNS))
    if unknown:
        named = ", ".join(name + closest(name, METADATA_COLUMNS) for name in unknown)
        text = f"{str(path)!r} has columns that are not read: {named} Known: {', '.join(METADATA_COLUMNS)}."
        warnings.warn(text, UserWarning, stacklevel=2)
    files = [[resolve_inside(path.parent, name, where) for name in _file_names(row, where)] for where, row in rows]
    check_files_exist(sum(files, []), repr(str(path)))
    records = []
    first_line: dict[Path, str] = {}
    for (where, row), (image, *masks) in zip(rows, files, strict=True):
        if first_line.setdefault(image, where) is not where:
            raise ValueError(
                f"A picture must be named once, got {row['file_name']!r} in {first_line[image]} and {where}."
            )
        mask_paths = tuple(map(str, masks))
        label = _label(row, mask_paths, where)
        defect_type = str(row["defect_type"]) if row.get("defect_type") else ("good" if label == 0 else None)
        facts = label, str(row.get("category") or default_category), defect_type
        pages = picture_pages(str(image))
        if masks and len(pages) > 1:
            raise ValueError(f"A mask must fit one page, got {len(pages)} ({where}). Name {pages[0]!r} and so on.")
        for page in pages:
            image_id = Path(page).relative_to(path.parent).as_posix()
            records.append(AnomalyRecord(page, *facts, image_id, _split(row, where), mask_paths))
    return records


def _read_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Each row with its line; empty cells are left out."""
    if path.suffix == ".csv":
        return read_table(path)
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            row = str(error)[:80]
        if not isinstance(row, dict):
            reason = f": {row}" if isinstance(row, str) else ""
            raise ValueError(
                f"Lines must be JSON objects, got {line.strip()[:60]!r} ({path.name}, line {number}{reason})."
            )
        rows.append((number, {key: value for key, value in row.items() if value is not None and value != ""}))
    return rows


def _file_names(row: dict[str, Any], where: str) -> list[str]:
    """The picture a row names, and its masks."""
    if not isinstance(row.get("file_name"), str):
        raise ValueError(f"`file_name` must name a picture, got {row.get('file_name')!r} ({where}).")
    value = row.get("mask_file_name", [])
    masks = [value] if isinstance(value, str) else value
    if not isinstance(masks, list) or not all(isinstance(name, str) for name in masks):
        raise ValueError(f"`mask_file_name` must be a path or a list of paths, got {value!r} ({where}).")
    return [row["file_name"], *masks]


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
