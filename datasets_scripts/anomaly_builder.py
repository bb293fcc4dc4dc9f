"""What all builders of anomaly data sets have in common: the schema, checks, a cache that sees changes.

Knows `datasets` and records. Does not know any data set's layout: a builder's `find_records` does.
"""

import abc
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import yaml
from PIL import Image

import modeling_anomalygpt.images
from modeling_anomalygpt.images import bit_depth, load_mask, load_picture, opens_plainly, picture_size

from .anomaly_files import (
    AnomalyRecord,
    check_category,
    check_data_dir,
    check_masks,
    files_fingerprint,
    read_mask,
    warn_about_duplicates,
)

COLUMNS: tuple[str, ...] = ("image", "mask", "label", "category", "defect_type", "image_id", "split")
"""The columns of all inspection data sets, in order."""

LABEL_NAMES: tuple[str, str] = ("normal", "anomalous")
"""Names of the two labels."""


FACTS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("facts.yaml").read_text(encoding="utf-8"))
"""What there is to say about each data set and each column."""


def dataset_info(name: str) -> dict[str, str]:
    """Description, citation, homepage and licence of a data set, as `datasets.DatasetInfo` takes them."""
    return {key: FACTS[name][key] for key in ("description", "citation", "homepage", "license") if key in FACTS[name]}


def schema_features() -> datasets.Features:
    """Column types that every builder yields.

    Returns:
        [`~datasets.Features`]: `image` in RGB; `mask`, one channel of 0 and 255, null where no pixel annotation
        exists; `label` (0 normal, 1 anomalous); `category`; `defect_type` (`"good"` without defect); `image_id`,
        unique in the data set; `split`.

    Example:
    ```python
    >>> schema_features()["label"].names
    ['normal', 'anomalous']

    ```
    """
    types = (datasets.Image(mode="RGB"), datasets.Image(mode="L"), datasets.ClassLabel(names=list(LABEL_NAMES)))
    text = datasets.Value("string")
    return datasets.Features(dict(zip(COLUMNS, (*types, text, text, text, text), strict=True)))


@dataclass
class AnomalyConfig(datasets.BuilderConfig):
    """What can be chosen of an anomaly data set.

    Args:
        category (`str`, *optional*): The only category to read; `None` reads all.
    """

    category: str | None = None


def category_configs(categories: tuple[str, ...], config_class: type[AnomalyConfig] = AnomalyConfig) -> list:
    """The configurations of a data set with fixed categories: `all`, and one of each category's name."""
    version = FolderBuilder.VERSION
    configs = [config_class(name="all", version=version)]
    return configs + [config_class(name=category, version=version, category=category) for category in categories]


def encode_picture(picture: np.ndarray | Image.Image, name: str) -> dict[str, Any]:
    """A picture, or a bool mask as 0 and 255, as the PNG that an `Image` column stores: `{"bytes", "path"}`."""
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture.astype(np.uint8) * 255)
    image.save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": name}


def image_cells(files: Sequence[str], bits: int | None = None) -> list[dict[str, Any]]:
    """What an `Image` column stores of pictures: the path of a file that any program shows alike, else a PNG.

    Args:
        files (`Sequence[str]`): Files, or pages of files.
        bits (`int`, *optional*): Depth of deep values; by default that of all the files together.

    Returns:
        `list[dict]`: `{"bytes", "path"}` each; a damaged file is refused when it is opened.
    """
    plain = [_is_plain(file) for file in files]
    if bits is None and not all(plain):
        bits = bit_depth(file for file, is_plain in zip(files, plain, strict=True) if not is_plain)
    return [
        {"bytes": None, "path": file} if is_plain else encode_picture(load_picture(file, bits), os.path.basename(file))
        for file, is_plain in zip(files, plain, strict=True)
    ]


def _is_plain(file: str) -> bool:
    try:
        return opens_plainly(file)
    except ValueError:
        return True


class FolderBuilder(datasets.GeneratorBasedBuilder):
    """A builder of files in a folder, whose cache is left when a file or the code changes.

    Args:
        cache_dir (`str`, *optional*): Folder of the prepared data.
        data_dir (`str` or `os.PathLike`, *optional*): Folder that holds the data set.
        hash (`str`, *optional*): Joined to the fingerprint of the files.
        kwargs: As for `datasets.GeneratorBasedBuilder`: `config_name`, `category`, ...
    """

    VERSION = datasets.Version("1.0.0")
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
            code = [path for path in sorted(Path(__file__).parent.iterdir()) if path.suffix in (".py", ".yaml")]
            hash = (hash or "") + files_fingerprint(data_dir, [*code, modeling_anomalygpt.images.__file__])
        if self.BUILDER_CONFIGS:
            check_category(kwargs.get("config_name"), list(self.builder_configs))
        super().__init__(cache_dir=cache_dir, data_dir=data_dir, hash=hash, **kwargs)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=self.FEATURES, **self.INFO)


class AnomalyBuilder(FolderBuilder):
    """A builder whose rows are pictures on disk. A data set gives its facts and `find_records`.

    Masks are merged into one picture of 0 and 255; without any the column is null. Pictures that not every program
    shows as `load_picture` does (deep values, cut-outs, pages) stand in the rows as PNG; the depth of their values is
    found once a category, from its training pictures where there are any.
    """

    BUILDER_CONFIG_CLASS = AnomalyConfig
    FEATURES = schema_features()
    # Whether a test picture with an empty mask counts as one without, with a warning: sets from elsewhere have such.
    EMPTY_MASKS_IN_TEST: ClassVar[bool] = False

    @abc.abstractmethod
    def find_records(self, data_dir: Path, category: str | None) -> list[AnomalyRecord]:
        """Find the pictures, and check the layout.

        Args:
            data_dir (`Path`): Folder that holds the data set.
            category (`str`, *optional*): The only category to read.

        Returns:
            `list[AnomalyRecord]`: The pictures of all splits, in a fixed order.
        """

    def mask_size(self, path: str) -> tuple[int, int]:
        """The size `(height, width)` of a mask file."""
        return load_mask(path).shape if path.endswith(".json") else picture_size(path)

    def read_mask(self, record: AnomalyRecord) -> np.ndarray:
        """The mask files of a picture as one, `bool`, True on the anomaly."""
        return read_mask(record.masks)

    def make_row(self, record: AnomalyRecord) -> dict[str, Any]:
        """The row of one picture; raises a ValueError if the mask of an anomalous one is empty."""
        (image,), mask = image_cells([record.image], self._bits.get(record.category)), None
        if record.masks:
            mask = self.read_mask(record)
            empty = record.label == 1 and not mask.any()
            text = (
                f"The mask of an anomalous picture must mark something, got an empty one: {record.masks[0]!r} for "
                f"{record.image!r}. "
            )
            if empty and not (self.EMPTY_MASKS_IN_TEST and record.split == "test"):
                raise ValueError(f"{text}Draw it, take the mask out, or call the picture good.")
            if empty:
                warnings.warn(f"{text}It counts as a picture without a mask.", UserWarning, stacklevel=2)
            mask = None if empty else encode_picture(mask, os.path.basename(record.masks[0]))
        facts = (record.label, record.category, record.defect_type, record.image_id, record.split)
        return dict(zip(COLUMNS, (image, mask, *facts), strict=True))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        data_dir = check_data_dir(self.config.data_dir, self.LAYOUT)
        records = self.find_records(data_dir, self.config.category)
        check_masks(records, self.mask_size)
        warn_about_duplicates(records)
        self._bits = _bit_depths(records)
        by_split: dict[str, list[AnomalyRecord]] = {}
        for record in records:
            by_split.setdefault(record.split, []).append(record)
        # `datasets` shards lists: over processes, over the workers of a stream, and when a stream is shuffled.
        return [datasets.SplitGenerator(name=name, gen_kwargs={"records": rows}) for name, rows in by_split.items()]

    def _generate_examples(self, records: list[AnomalyRecord]) -> Iterator[tuple[str, dict[str, Any]]]:
        for record in records:
            yield record.image_id, self.make_row(record)


def _bit_depths(records: list[AnomalyRecord]) -> dict[str, int | None]:
    """How many bits the pictures of each category use, where it has any that are not plain."""
    pictures: dict[str, dict[str, list[str]]] = {}
    for record in records:
        if not _is_plain(record.image):
            pictures.setdefault(record.category, {}).setdefault(record.split, []).append(record.image)
    return {name: bit_depth(splits.get("train") or sum(splits.values(), [])) for name, splits in pictures.items()}
