"""Data set builder of pictures rendered from CAD: many instances of one part, defects in geometry or material.

The pictures lie beside this file as Parquet (`cad_parts_data/`); `recipes/cad_parts` renders them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.dataset

from .anomaly_builder import AnomalyConfig, dataset_info, schema_features
from .anomaly_files import check_category, check_data_dir, files_fingerprint

CAD_PARTS_FACTS: dict[str, str] = {
    "kind": "string",
    "words": "string",
    "object": "string",
    "part_kind": "string",
    "held_back": "bool",
    "size_mm": "float32",
    "area_share": "float32",
    "pixel_mm": "float32",
}
"""Columns beyond the schema: kind of the defect, the defect and the part in words, kind of part, whether that kind is
kept for measuring, size of the defect in millimetres, share of the picture under the mask, millimetres a pixel."""

_DATA = Path(__file__).parent / "cad_parts_data"
_LAYOUT = "cad_parts-*.parquet files as `python -m recipes.cad_parts.pack` writes them"


def cad_parts_features() -> datasets.Features:
    """Column types: the schema's and [`CAD_PARTS_FACTS`]."""
    facts = {name: datasets.Value(dtype) for name, dtype in CAD_PARTS_FACTS.items()}
    return datasets.Features({**schema_features(), **facts})


@dataclass
class CadPartsConfig(AnomalyConfig):
    """Configuration of [`CadParts`].

    Args:
        category (`str`, *optional*): The only part to read (`"spur_gear_2"`); `None` reads all of the configuration.
        held_back (`bool`, *optional*): Whether kinds kept for measuring are read; `None` reads both.
    """

    version: datasets.Version = datasets.Version("1.0.0")
    held_back: bool | None = None


class CadParts(datasets.GeneratorBasedBuilder):
    """Path-traced pictures of parts: `category` is one part (a kind with its dimensions), of which all are instances.

    `train` holds the first half of each part's good pictures, `test` the other half and those with a defect.
    Configurations: `all`, `training` and `held_back` kinds of parts (their `category` never overlaps).

    Args:
        cache_dir (`str`, *optional*): Folder of the prepared data.
        data_dir (`str` or `os.PathLike`, *optional*): Folder of Parquet files; default: those of the package.
        hash (`str`, *optional*): Joined to the fingerprint of the files.
        kwargs: Options of [`CadPartsConfig`], and as for `datasets.GeneratorBasedBuilder`.

    Raises:
        FileNotFoundError: If there are no such files.
        ValueError: If the category is unknown.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = CadPartsConfig
    BUILDER_CONFIGS = [
        CadPartsConfig(name="all"),
        CadPartsConfig(name="training", held_back=False),
        CadPartsConfig(name="held_back", held_back=True),
    ]
    DEFAULT_CONFIG_NAME = "all"

    def __init__(
        self,
        cache_dir: str | None = None,
        *,
        data_dir: str | os.PathLike | None = None,
        hash: str | None = None,
        **kwargs: Any,
    ) -> None:
        folder = check_data_dir(_DATA if data_dir is None else data_dir, _LAYOUT)
        self.shards = sorted(folder.glob("cad_parts-*.parquet"))
        if not self.shards:
            raise FileNotFoundError(f"`data_dir` must hold {_LAYOUT}, got {str(folder)!r} without any.")
        hash = (hash or "") + files_fingerprint(None, [*self.shards, Path(__file__)])
        super().__init__(cache_dir=cache_dir, data_dir=None if data_dir is None else str(folder), hash=hash, **kwargs)
        if self.config.category is not None:
            check_category(self.config.category, self._categories())

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=cad_parts_features(), **dataset_info("cad_parts"))

    def _categories(self) -> list[str]:
        names = pyarrow.dataset.dataset([str(shard) for shard in self.shards]).to_table(["category"])["category"]
        return sorted(names.unique().to_pylist())

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        shards = [str(shard) for shard in self.shards]
        return [
            datasets.SplitGenerator(name, gen_kwargs={"shards": shards, "split": name}) for name in ("train", "test")
        ]

    def _generate_examples(self, shards: list[str], split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        column = pyarrow.dataset.field
        wanted = column("split") == split
        if self.config.category is not None:
            wanted &= column("category") == self.config.category
        if self.config.held_back is not None:
            wanted &= column("held_back") == self.config.held_back
        for shard in shards:
            for batch in pyarrow.dataset.dataset(shard).to_batches(filter=wanted, batch_size=64):
                for row in batch.to_pylist():
                    yield row["image_id"], row
