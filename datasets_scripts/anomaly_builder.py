"""What all builders of anomaly data sets have in common: checks, the rows of the schema, a cache that sees changes.

Knows `datasets` and records. Does not know any data set's layout: a builder's `find_records` does.
"""

import abc
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
from PIL import Image

from .anomaly_files import AnomalyRecord, files_fingerprint, picture_size, read_mask
from .validation import check_category, check_data_dir, check_masks, check_pictures, warn_about_duplicates

__all__ = ["AnomalyBuilder", "AnomalyConfig", "category_configs", "encode_mask", "source_files"]

_SHARED_SOURCES = ("anomaly_builder", "anomaly_files", "mvtec_layout", "own_metadata", "schema", "validation")


@dataclass
class AnomalyConfig(datasets.BuilderConfig):
    """
    What can be chosen of an anomaly data set.

    Args:
        category (`str`, *optional*):
            The only category to read; `None` reads all.
    """

    category: str | None = None


def category_configs(
    categories: tuple[str, ...], version: datasets.Version, config_class: type[AnomalyConfig] = AnomalyConfig
) -> list[AnomalyConfig]:
    """
    Make the configurations of a data set with fixed categories: `all`, and one of each category's name.

    Args:
        categories (`tuple[str, ...]`): The categories.
        version (`datasets.Version`): Version of the builder.
        config_class (`type[AnomalyConfig]`): Class of the configurations.

    Returns:
        `list[AnomalyConfig]`: The configurations, `all` first.
    """
    configs = [config_class(name="all", version=version)]
    return configs + [config_class(name=category, version=version, category=category) for category in categories]


def encode_mask(mask: np.ndarray, name: str) -> dict[str, Any]:
    """
    Write a mask as the PNG an `Image` column stores: one channel, 0 normal and 255 anomalous.

    Args:
        mask (`np.ndarray` of shape `(height, width)`, bool): True on the anomaly.
        name (`str`): File name kept beside the bytes.

    Returns:
        `dict`: `{"bytes", "path"}`.
    """
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": name}


def source_files(builder_class: type) -> list[Path]:
    """
    List the code a builder's rows depend on.

    Args:
        builder_class (`type`): The builder.

    Returns:
        `list[Path]`: Its own file and the shared ones beside it.
    """
    folder = Path(__file__).parent
    names = (*_SHARED_SOURCES, builder_class.__module__.rpartition(".")[2])
    return [path for path in (folder / f"{name}.py" for name in names) if path.is_file()]


class AnomalyBuilder(datasets.GeneratorBasedBuilder):
    """
    A builder whose rows are pictures on disk. A data set gives its facts and `find_records`.

    The cache is left when a file or the code changes. Masks are merged into one picture of 0 and 255; without any the
    column is null.

    Args:
        cache_dir (`str`, *optional*):
            Folder of the prepared data.
        data_dir (`str` or `os.PathLike`, *optional*):
            Folder that holds the data set.
        hash (`str`, *optional*):
            What `datasets` 3 hands to scripts; joined to the fingerprint of the files.
        kwargs:
            As for `datasets.GeneratorBasedBuilder`: `config_name`, `category`, ...
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = AnomalyConfig
    LAYOUT: ClassVar[str] = ""
    FEATURES: ClassVar[datasets.Features]
    INFO: ClassVar[dict[str, str]] = {}  # description, citation, homepage, license

    def __init__(
        self,
        cache_dir: str | None = None,
        *,
        data_dir: str | os.PathLike | None = None,
        hash: str | None = None,
        **kwargs: Any,
    ) -> None:
        if data_dir is not None:
            data_dir = os.path.abspath(check_data_dir(data_dir, self.LAYOUT))
            hash = (hash or "") + files_fingerprint(data_dir, source_files(type(self)))
        config_name = kwargs.get("config_name")
        if config_name is not None and self.BUILDER_CONFIGS:
            check_category(config_name, list(self.builder_configs))
        super().__init__(cache_dir=cache_dir, data_dir=data_dir, hash=hash, **kwargs)

    @abc.abstractmethod
    def find_records(self, data_dir: Path, category: str | None) -> list[AnomalyRecord]:
        """
        Find the pictures, and check the layout.

        Args:
            data_dir (`Path`): Folder that holds the data set.
            category (`str`, *optional*): The only category to read.

        Returns:
            `list[AnomalyRecord]`: The pictures of all splits, in a fixed order.
        """

    def mask_size(self, path: str) -> tuple[int, int]:
        """
        Read the size of a mask file.

        Args:
            path (`str`): A mask file.

        Returns:
            `tuple[int, int]`: `(height, width)`.
        """
        return picture_size(path)

    def read_mask(self, record: AnomalyRecord) -> np.ndarray:
        """
        Read the mask files of a picture as one.

        Args:
            record (`AnomalyRecord`): A picture with masks.

        Returns:
            `np.ndarray` of shape `(height, width)`, bool: True on the anomaly.
        """
        return read_mask(record.masks)

    def make_row(self, record: AnomalyRecord) -> dict[str, Any]:
        """
        Make the row of one picture.

        Args:
            record (`AnomalyRecord`): The picture.

        Returns:
            `dict`: The columns of the schema.
        """
        mask = encode_mask(self.read_mask(record), os.path.basename(record.masks[0])) if record.masks else None
        return {
            "image": record.image,
            "mask": mask,
            "label": record.label,
            "category": record.category,
            "defect_type": record.defect_type,
            "image_id": record.image_id,
            "split": record.split,
        }

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=self.FEATURES, **self.INFO)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        data_dir = check_data_dir(self.config.data_dir, self.LAYOUT)
        records = self.find_records(data_dir, self.config.category)
        check_pictures(records)
        check_masks(records, self.mask_size)
        warn_about_duplicates(records)
        by_split: dict[str, list[AnomalyRecord]] = {}
        for record in records:
            by_split.setdefault(record.split, []).append(record)
        # `datasets` shards lists: over processes, over the workers of a stream, and when a stream is shuffled.
        return [datasets.SplitGenerator(name=name, gen_kwargs={"records": rows}) for name, rows in by_split.items()]

    def _generate_examples(self, records: list[AnomalyRecord]) -> Iterator[tuple[str, dict[str, Any]]]:
        for record in records:
            yield record.image_id, self.make_row(record)
