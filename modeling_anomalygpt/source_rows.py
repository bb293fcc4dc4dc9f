"""Rows of a data set for training: columns checked once, pictures that cannot be read named by their row.

Knows columns and pictures; knows no words, no tensors and no model.
"""

import warnings
from collections import defaultdict
from typing import Any

import numpy as np
from PIL import Image

from .pictures import PictureError, load_picture

NORMAL, ANOMALOUS = 0, 1


class SourceRows:
    """A data set in the columns of inspection data sets, with what can be known of it without opening a picture.

    Args:
        dataset (`datasets.Dataset`):
            Rows with a column `image`, and what `required` names.
        name (`str`):
            What messages call it.
        required (`tuple[str, ...]`, *optional*, defaults to `("image",)`):
            Columns that must be there.

    Attributes:
        labels (`list[int]`): 0 normal, 1 anomalous; 0 where there is no such column.
        categories (`list[str]`): `"object"` where unknown.
        image_ids (`list[str]`): Names of the rows; `"row 7"` where there is no such column.

    Raises:
        ValueError: If the data set is empty or lacks a column.
        TypeError: If it has no length or no columns.
    """

    def __init__(self, dataset: Any, name: str, required: tuple[str, ...] = ("image",)):
        columns = getattr(dataset, "column_names", None)
        if columns is None or not hasattr(dataset, "__len__"):
            raise TypeError(
                f"`dataset` {name!r} must be a `datasets.Dataset`, got {type(dataset).__name__}. Streams belong into "
                "`StreamedExamples`."
            )
        missing = [column for column in required if column not in columns]
        if missing:
            raise ValueError(
                f"`dataset` {name!r} must have the columns {', '.join(required)}, got {', '.join(columns) or 'none'}. "
                f"Add {', '.join(missing)}, or load it with `load_anomaly_dataset`."
            )
        if len(dataset) == 0:
            raise ValueError(f"`dataset` {name!r} must hold rows, got none. Check its folder and split.")
        self.dataset, self.name = dataset, name
        wanted = [column for column in ("label", "category", "image_id") if column in columns]
        read = dataset.select_columns(wanted).with_format(None)[:] if wanted else {}
        length = len(dataset)
        self.labels = read.get("label", [NORMAL] * length)
        self.categories = [category or "object" for category in read.get("category", ["object"] * length)]
        self.image_ids = [str(one) for one in read.get("image_id", [f"row {index}" for index in range(length)])]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self.dataset[int(index)]
        except Exception as error:  # whatever Pillow and the file system raise
            raise unreadable(self.image_ids[index], self.name, error) from error

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return self.dataset.column_names

    def select_columns(self, names: list[str]) -> Any:
        """The data set with these columns alone, as `datasets.Dataset.select_columns`."""
        return self.dataset.select_columns(names)

    def picture(self, index: int) -> Image.Image:
        """The picture of a row.

        Args:
            index (`int`): Of the row.

        Returns:
            `PIL.Image.Image`: RGB.

        Raises:
            PictureError: If it cannot be read.
        """
        try:
            return load_picture(self[index]["image"])
        except FileNotFoundError as error:
            raise unreadable(self.image_ids[index], self.name, error) from error

    def where(self, label: int) -> "SourceRows":
        """The rows with a label.

        Args:
            label (`int`): 0 or 1.

        Returns:
            `SourceRows`: May be without rows.
        """
        chosen = [index for index, one in enumerate(self.labels) if one == label]
        rows = object.__new__(SourceRows)
        rows.dataset, rows.name = self.dataset.select(chosen), self.name
        for names in ("labels", "categories", "image_ids"):
            setattr(rows, names, [getattr(self, names)[index] for index in chosen])
        return rows


class NormalPictures:
    """Good photographs by category, of which one is drawn as the reference of another picture.

    Args:
        rows (`SourceRows`):
            Rows of which the normal ones are used.
        needed_for (`list[str]`):
            Categories that must have a normal picture.
        warn (`bool`, *optional*, defaults to `True`):
            Whether to warn of categories with one normal picture alone.

    Raises:
        ValueError: If a category has none.
    """

    def __init__(self, rows: SourceRows, needed_for: list[str], warn: bool = True):
        self.rows = rows
        found = defaultdict(list)
        for index, (label, category) in enumerate(zip(rows.labels, rows.categories, strict=True)):
            if label == NORMAL:
                found[category].append(index)
        self._by_category = dict(found)
        lacking = sorted(set(needed_for) - set(found))
        if lacking:
            raise ValueError(
                f"`dataset` {rows.name!r} must hold normal pictures (label 0) of {', '.join(lacking)} as references, "
                "got none. Give `references`, or `reference_share=0` to train without them."
            )
        alone = sorted(category for category in set(needed_for) if len(found[category]) == 1)
        if alone and warn:
            warnings.warn(
                f"Only one normal picture of {', '.join(alone)} in {rows.name!r}: where it is asked about, a turned "
                "copy of it stands as its own reference. Two or more photographs train better.",
                stacklevel=4,
            )

    def another(self, category: str, image_id: str, rng: np.random.Generator) -> tuple[Image.Image, int]:
        """A good photograph of a category that is not the one named, and how far it is to be turned.

        Args:
            category (`str`): Of the picture asked about.
            image_id (`str`): Of the picture asked about, which is never the answer unless there is no other.
            rng (`np.random.Generator`): Draws picture and turn.

        Returns:
            `tuple[PIL.Image.Image, int]`: The picture and quarter turns, 0 to 3; 1 to 3 for the picture itself.
        """
        all_of_it = self._by_category[category]
        others = [index for index in all_of_it if self.rows.image_ids[index] != image_id]
        if not others:
            return self.rows.picture(all_of_it[0]), int(rng.integers(1, 4))
        return self.rows.picture(others[rng.integers(len(others))]), int(rng.integers(4))

    def some(self, category: str, count: int, rng: np.random.Generator) -> list[Image.Image]:
        """Several different good photographs of a category.

        Args:
            category (`str`): Any that was asked for.
            count (`int`): How many.
            rng (`np.random.Generator`): Draws them.

        Returns:
            `list[PIL.Image.Image]`: `count` pictures.

        Raises:
            ValueError: If there are fewer.
        """
        all_of_it = self._by_category[category]
        if count > len(all_of_it):
            raise ValueError(
                f"`shots` must be at most {len(all_of_it)}, the normal pictures of {category!r} in "
                f"{self.rows.name!r}, got {count}. Lower it or add photographs."
            )
        return [self.rows.picture(all_of_it[index]) for index in rng.permutation(len(all_of_it))[:count]]


def unreadable(image_id: str, name: str, error: Exception) -> PictureError:
    """The error that names the row whose picture cannot be read.

    Args:
        image_id (`str`): Name of the row.
        name (`str`): Name of the data set.
        error (`Exception`): What was raised.

    Returns:
        `PictureError`: To be raised.
    """
    reason = " ".join(str(error).split()) or type(error).__name__
    return PictureError(
        f"`image` of {image_id!r} in {name!r} must be readable, got: {reason}. Replace the file or leave the row out."
    )


__all__ = ["ANOMALOUS", "NORMAL", "NormalPictures", "SourceRows", "unreadable"]
