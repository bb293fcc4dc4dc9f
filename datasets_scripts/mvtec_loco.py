"""MVTec LOCO AD as a `datasets` builder: logical and structural anomalies, several masks, saturation areas."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from .anomaly_builder import FACTS, AnomalyBuilder, AnomalyConfig, category_configs, dataset_info, encode_picture
from .anomaly_files import AnomalyRecord, read_mask
from .mvtec_ad import MVTEC_LAYOUT, scan_categories

MVTEC_LOCO_CATEGORIES = tuple(FACTS["mvtec_loco"]["categories"])
_KINDS = ("logical_anomalies", "structural_anomalies")


@dataclass(frozen=True)
class SaturationRule:
    """How much of a region must be found for the region to count as found whole (LOCO paper, section 4.2, sPRO).

    Args:
        defect_name (`str`): Kind of defect, finer than logical or structural.
        threshold (`float`): Pixels, or a share of the region in [0, 1] when `relative`.
        relative (`bool`): Whether `threshold` is a share.
    """

    defect_name: str
    threshold: float
    relative: bool

    def area(self, region_area: int) -> int:
        """Give the number of pixels after which a region is saturated.

        Returns:
            `int`: Pixels, at least 1 and at most `region_area`.

        Example:
        ```python
        >>> SaturationRule("missing_pushpin", 400, relative=False).area(1000)
        400
        >>> SaturationRule("missing_pushpin", 0.25, relative=True).area(1000)
        250

        ```
        """
        area = math.floor(self.threshold * region_area) if self.relative else int(self.threshold)
        return max(1, min(area, region_area))


def read_saturation_rules(path: str | os.PathLike) -> dict[int, SaturationRule]:
    """Read a category's `defects_config.json`.

    Args:
        path (`str` or `os.PathLike`): The file: a list of `defect_name`, `pixel_value`, `saturation_threshold` and
            `relative_saturation`.

    Returns:
        `dict[int, SaturationRule]`: Value of the mask's pixels to the rule.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a list.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"`with_regions` must find {str(path)!r}, got no such file. Take it from the archive.")
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        return {
            int(entry["pixel_value"]): SaturationRule(
                str(entry["defect_name"]), float(entry["saturation_threshold"]), bool(entry["relative_saturation"])
            )
            for entry in entries
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} must be a list of defect_name, pixel_value, saturation_threshold and relative_saturation, "
            f"got {type(error).__name__}: {error}. Take the file of the archive."
        ) from error


@dataclass
class MVTecLOCOConfig(AnomalyConfig):
    """What can be chosen of MVTec LOCO AD.

    Args:
        category (`str`, *optional*): The only category to read; `None` reads all.
        with_regions (`bool`, defaults to `False`): Add the columns `region_masks`, `region_names` and
            `region_saturation_areas` (pixels): each mask file by itself, as sPRO needs them.
    """

    with_regions: bool = False


class MVTecLOCO(AnomalyBuilder):
    """MVTec LOCO AD (https://www.mvtec.com/company/research/datasets/mvtec-loco): train, validation and test.

    Several mask files may belong to a picture; `mask` is their union. `defect_type` is `logical_anomalies` or
    `structural_anomalies`.

    Args:
        data_dir (`str` or `os.PathLike`): Folder that holds the unpacked categories.
        config_name (`str`, *optional*, defaults to `"all"`): `all` or one of `MVTEC_LOCO_CATEGORIES`.
        with_regions (`bool`, *optional*, defaults to `False`): Add a column for each mask file, its finer kind and its
            saturation area.
    """

    BUILDER_CONFIG_CLASS = MVTecLOCOConfig
    BUILDER_CONFIGS = category_configs(MVTEC_LOCO_CATEGORIES, MVTecLOCOConfig)
    DEFAULT_CONFIG_NAME = "all"
    LAYOUT = MVTEC_LAYOUT.replace("<stem>_mask.png", "<stem>/*.png") + ", <category>/defects_config.json"
    INFO = dataset_info("mvtec_loco")

    def find_records(self, data_dir: Path, category: str | None) -> list[AnomalyRecord]:
        records = scan_categories(data_dir, category, MVTEC_LOCO_CATEGORIES)
        strange = sorted({str(record.defect_type) for record in records if record.label} - set(_KINDS))
        if strange:
            raise ValueError(
                f"Kinds of anomalies in MVTec LOCO must be {' and '.join(_KINDS)}, got {', '.join(strange)}. "
                "Read other data with `anomaly_folder`."
            )
        if self.config.with_regions:
            names = dict.fromkeys(record.category for record in records)
            self._rules = {name: read_saturation_rules(data_dir / name / "defects_config.json") for name in names}
            for record in records:
                for path in record.masks:
                    self._rule(record.category, path)
        return records

    def make_row(self, record: AnomalyRecord) -> dict[str, Any]:
        row = super().make_row(record)
        if self.config.with_regions:
            masks, names, areas = [], [], []
            for path in record.masks:
                rule = self._rule(record.category, path)
                region = read_mask([path])
                masks.append(encode_picture(region, os.path.basename(path)))
                names.append(rule.defect_name)
                areas.append(rule.area(int(region.sum())))
            row.update(region_masks=masks, region_names=names, region_saturation_areas=areas)
        return row

    def _rule(self, category: str, path: str) -> SaturationRule:
        """Find the rule for a mask file: it holds one region, marked with the value of its kind."""
        with Image.open(path) as file:
            value = int(np.asarray(file).max())
        if value not in self._rules[category]:
            known = ", ".join(map(str, sorted(self._rules[category])))
            raise ValueError(
                f"Values in masks must stand in the defects_config.json of {category!r} ({known}), got {value} in "
                f"{path!r}. Take both from the same archive."
            )
        return self._rules[category][value]

    def _info(self) -> datasets.DatasetInfo:
        info = super()._info()
        if self.config.with_regions:
            info.features = datasets.Features(
                {
                    **info.features,
                    "region_masks": [datasets.Image(mode="L")],
                    "region_names": [datasets.Value("string")],
                    "region_saturation_areas": [datasets.Value("int64")],
                }
            )
        return info
