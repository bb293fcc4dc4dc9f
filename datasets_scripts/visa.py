"""VisA as a `datasets` builder: 12 categories, split by the three csv files of its archive."""

from dataclasses import dataclass
from pathlib import Path

from .anomaly_builder import FACTS, AnomalyBuilder, AnomalyConfig, category_configs, dataset_info
from .anomaly_files import AnomalyRecord, check_category, check_files_exist, closest, read_table, resolve_inside

VISA_CATEGORIES = tuple(FACTS["visa"]["categories"])
VISA_PROTOCOLS = ("1cls", "2cls_fewshot", "2cls_highshot")
_COLUMNS = ("object", "split", "label", "image", "mask")
_LABELS = {"normal": 0, "anomaly": 1}


@dataclass
class VisAConfig(AnomalyConfig):
    """What can be chosen of VisA.

    Args:
        category (`str`, *optional*): The only category to read; `None` reads all.
        protocol (`str`, defaults to `"1cls"`): The split file: `1cls` trains on normal pictures only, `2cls_fewshot`
            and `2cls_highshot` on both classes.
    """

    protocol: str = "1cls"


class VisA(AnomalyBuilder):
    """VisA (https://github.com/amazon-science/spot-diff), split by one of its own three files.

    `defect_type` comes from a category's `image_anno.csv`; it may name several kinds, separated by commas.

    Args:
        data_dir (`str` or `os.PathLike`): Folder of the unpacked archive: categories and `split_csv`.
        config_name (`str`, *optional*, defaults to `"all"`): `all` or one of `VISA_CATEGORIES`.
        protocol (`str`, *optional*, defaults to `"1cls"`): One of `VISA_PROTOCOLS`.
    """

    BUILDER_CONFIG_CLASS = VisAConfig
    BUILDER_CONFIGS = category_configs(VISA_CATEGORIES, VisAConfig)
    DEFAULT_CONFIG_NAME = "all"
    LAYOUT = (
        "<data_dir>/split_csv/{1cls,2cls_fewshot,2cls_highshot}.csv, <category>/Data/Images/{Normal,Anomaly}/*.JPG, "
        "<category>/Data/Masks/Anomaly/*.png, <category>/image_anno.csv"
    )
    INFO = dataset_info("visa")

    def find_records(self, data_dir: Path, category: str | None) -> list[AnomalyRecord]:
        protocol = self.config.protocol
        if protocol not in VISA_PROTOCOLS:
            raise ValueError(
                f"`protocol` must be one of {', '.join(VISA_PROTOCOLS)}, got {protocol!r}."
                f"{closest(protocol, VISA_PROTOCOLS)}"
            )
        check_category(category, VISA_CATEGORIES, "Other names are read by `anomaly_folder`.")
        split_file = data_dir / "split_csv" / f"{protocol}.csv"
        if not split_file.is_file():
            raise FileNotFoundError(
                f"`data_dir` must hold 'split_csv/{protocol}.csv', got {str(data_dir)!r}. "
                f"Expected layout: {self.LAYOUT}."
            )
        rows = [{**dict.fromkeys(_COLUMNS, ""), **row} for _, row in read_table(split_file, _COLUMNS)]
        rows = [row for row in rows if category in (None, row["object"])]
        if not rows:
            raise ValueError(f"Category {category!r} must hold pictures, got no row in {str(split_file)!r}.")
        named = [row[key] for row in rows for key in ("image", "mask") if row[key]]
        check_files_exist([resolve_inside(data_dir, name, split_file.name) for name in named], repr(str(split_file)))
        kinds: dict[str, str] = {}
        for name in dict.fromkeys(row["object"] for row in rows):
            annotations = data_dir / name / "image_anno.csv"
            if annotations.is_file():
                table = [row for _, row in read_table(annotations, ("image", "label"))]
                kinds.update((row["image"], row["label"]) for row in table if {"image", "label"} <= row.keys())
        return [self._record(data_dir, row, kinds, split_file) for row in rows]

    def _record(self, data_dir: Path, row: dict[str, str], kinds: dict[str, str], split_file: Path) -> AnomalyRecord:
        """Turn one row of a split file into a record."""
        if row["label"] not in _LABELS or row["split"] not in ("train", "test"):
            raise ValueError(
                f"`label` must be normal or anomaly and `split` train or test, got {row['label']!r} and "
                f"{row['split']!r} for {row['image']!r} in {str(split_file)!r}. Use the split files of the archive."
            )
        label, image = _LABELS[row["label"]], resolve_inside(data_dir, row["image"], split_file.name)
        if label and not row["mask"]:
            raise ValueError(
                f"Every anomalous picture must have a mask, got none for {row['image']!r} in {str(split_file)!r}."
            )
        masks = (str(resolve_inside(data_dir, row["mask"], split_file.name)),) if label else ()
        kind = kinds.get(row["image"], "anomaly") if label else "good"
        return AnomalyRecord(str(image), label, row["object"], kind, row["image"], row["split"], masks)
