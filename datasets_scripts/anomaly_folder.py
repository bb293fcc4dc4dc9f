"""Own pictures as a `datasets` builder: a folder in MVTec's layout, or with `metadata.jsonl` or `metadata.csv`."""

import warnings
from pathlib import Path

from .anomaly_builder import AnomalyBuilder
from .anomaly_files import AnomalyRecord, list_folders
from .mvtec_layout import MVTEC_LAYOUT, find_categories, is_category, scan_category
from .own_metadata import METADATA_COLUMNS, NORMAL_KINDS, find_metadata, read_metadata
from .schema import schema_features
from .validation import check_category, some_of

__all__ = ["AnomalyFolder"]


class AnomalyFolder(AnomalyBuilder):
    """
    Own pictures. Any category names; masks and labels are optional; a set of defects alone is allowed.

    Three layouts are read:

    - one category: `train/good/*.png`, `test/<kind>/*.png`, masks in `ground_truth/<kind>/<stem>_mask.png`;
    - several of these, each in a folder of its name;
    - `metadata.jsonl` or `metadata.csv` with `file_name` and where known `mask_file_name`, `label`, `category`,
      `defect_type`, `split`; paths are relative to the folder and stay inside it.

    Kinds named `good`, `normal` or `ok` are normal. Pictures directly in `train`, `validation` or `test` are
    unlabelled.

    Args:
        data_dir (`str` or `os.PathLike`):
            The folder.
        category (`str`, *optional*):
            Of several categories the one to read; of one category the name to give it (default: the folder's name).
    """

    LAYOUT = f"{MVTEC_LAYOUT}; the same without <category>; or metadata.jsonl/csv with {', '.join(METADATA_COLUMNS)}"
    FEATURES = schema_features()
    INFO = {"description": "Own pictures for anomaly detection.", "license": "unknown"}

    def find_records(self, data_dir: Path, category: str | None) -> list[AnomalyRecord]:
        """
        Find the pictures, and check the layout.

        Args:
            data_dir (`Path`): The folder.
            category (`str`, *optional*): The only category to read, or the name of the one there is.

        Returns:
            `list[AnomalyRecord]`: The pictures of all splits.
        """
        metadata = find_metadata(data_dir)
        if metadata is not None:
            records = read_metadata(metadata, default_category=data_dir.name)
            if category is not None:
                check_category(category, sorted({record.category for record in records}))
                records = [record for record in records if record.category == category]
            return records
        if is_category(data_dir):
            return scan_category(data_dir, category or data_dir.name, data_dir, NORMAL_KINDS, own_pictures=True)
        names = find_categories(data_dir)
        others = [folder.name for folder in list_folders(data_dir) if folder.name not in names]
        if not names:
            inside = some_of(others) or "no folder"
            raise FileNotFoundError(
                f"`data_dir` must hold pictures in a layout known here, got {inside} in {str(data_dir)!r}. "
                f"Expected layout: {self.LAYOUT}."
            )
        if category is not None:
            check_category(category, names)
            names = [category]
        elif others:
            warnings.warn(
                f"Folders without train, validation or test are not read: {', '.join(others)}",
                UserWarning,
                stacklevel=2,
            )
        return [
            record
            for name in names
            for record in scan_category(data_dir / name, name, data_dir, NORMAL_KINDS, own_pictures=True)
        ]
