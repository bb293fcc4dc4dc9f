"""Where training samples come from: good photographs, labelled pictures, plain conversations.

A source turns a row, a version and a generator into an `Example`; knows no tokens, no tensors and no model.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from ..images import PictureError, load_mask, load_picture
from ..synthesis.dataset import with_synthetic_anomalies
from ..synthesis.synthesizer import nsa

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


@dataclass
class Example:
    """One picture and what is known about it, before any processing.

    Attributes:
        picture (`PIL.Image.Image`):
            RGB, of any size.
        image_id (`str`):
            Name of its row.
        category (`str`, *optional*, defaults to `"object"`):
            What it shows.
        mask (`np.ndarray` of shape `(height, width)`, *optional*):
            `bool`, the defects; `None` where no pixel target is known.
        anomalous (`bool`, *optional*):
            The label; `None` in plain conversations.
        defect_types (`tuple[str, ...]`, *optional*, defaults to `()`):
            Kinds of defect, in the words of the data set.
        messages (`list[dict[str, str]]`, *optional*):
            The conversation where it is given; else it is made of the facts.
        references (`list[PIL.Image.Image]`, *optional*, defaults to `[]`):
            Good photographs for the few-shot map.
        turns (`int`, *optional*, defaults to 0):
            Quarter turns of the references.
    """

    picture: Image.Image
    image_id: str
    category: str = "object"
    mask: np.ndarray | None = None
    anomalous: bool | None = None
    defect_types: tuple[str, ...] = ()
    messages: list[dict[str, str]] | None = None
    references: list[Image.Image] = field(default_factory=list)
    turns: int = 0


class SyntheticPairs:
    """Good photographs, each once as it is and once with a synthetic defect (paper section 3.3).

    Args:
        dataset (`datasets.Dataset`):
            Rows with `image`, and if known `label`, `category`, `image_id`. Anomalous rows are left out.
        name (`str`):
            Name in summaries and in `training_data.json`.
        split (`str`, *optional*, defaults to `"train"`):
            Name of the split there.
        weight (`float`, *optional*, defaults to 1.0):
            Share of the samples, relative to the other sources.
        mixture (`Callable`, *optional*):
            A `Mixture` or a method `(image, source, rng) -> SyntheticAnomaly`. Defaults to `nsa`, as published.
        short_side (`int`, *optional*, defaults to 224):
            Larger pictures are shrunk to this short side before synthesis, in pixels; `None` keeps their size.

    Raises:
        ValueError: If there is no normal picture, a column is missing, or an option is out of range.
    """

    versions = 2
    labels = "synthetic"

    def __init__(
        self,
        dataset: Any,
        name: str,
        split: str = "train",
        weight: float = 1.0,
        mixture: Callable[..., Any] = nsa,
        short_side: int | None = 224,
    ):
        self.name, self.split, self.weight = name, split, checked_weight(weight)
        self.rows = SourceRows(dataset, name).where(NORMAL)
        if not len(self.rows):
            raise ValueError(
                f"`dataset` {name!r} must hold normal pictures (label 0) to make defects on, got none. Add good "
                "photographs, or train with the labels it has (supervised)."
            )
        self._pairs = with_synthetic_anomalies(self.rows, mixture, anomalous_share=1.0, short_side=short_side)
        self._normals: NormalPictures | None = None

    def prepare_references(self) -> None:
        """Checks, before the first sample, that references can be drawn."""
        self._normals = NormalPictures(self.rows, self.rows.categories)

    def example(self, row: int, version: int, referenced: bool, rng: np.random.Generator) -> Example:
        """One sample.

        Args:
            row (`int`): In `[0, len(rows))`.
            version (`int`): 0 as it is, 1 with a defect.
            referenced (`bool`): Whether it gets a reference.
            rng (`np.random.Generator`): Draws everything else.

        Returns:
            `Example`: With a mask.
        """
        made = self._pairs.version(row, version == 1, rng)
        name = self.rows.image_ids[row]
        example = Example(
            made["image"],
            f"{name} (synthetic)" if version else name,
            self.rows.categories[row],
            np.asarray(made["mask"]) > 0,
            made["label"] == ANOMALOUS,
            (made["defect_type"],),
        )
        if referenced:
            reference, example.turns = self._normals.another(example.category, name, rng)
            example.references = [reference]
        return example


class LabelledPictures:
    """Pictures with real labels, masks and kinds of defect: the supervised sets, or sets of defects alone.

    What is trained on the test pictures of a benchmark may not be measured on them: `training_data.json` names the
    split and `"supervised"`.

    Args:
        dataset (`datasets.Dataset`):
            Rows with `image`, `label` and `mask`, and if known `category`, `defect_type`, `image_id`.
        name (`str`):
            Name in summaries and in `training_data.json`.
        split (`str`, *optional*, defaults to `"test"`):
            Name of the split there.
        weight (`float`, *optional*, defaults to 1.0):
            Share of the samples, relative to the other sources.
        references (`datasets.Dataset`, *optional*):
            Good photographs for references; defaults to the set's own normal rows.
        require_masks (`bool`, *optional*, defaults to `True`):
            Whether every anomalous row must have a mask. Without one a picture has no pixel target and its
            conversation names no place.

    Raises:
        ValueError: If a column or a mask is missing.
    """

    versions = 1

    def __init__(
        self,
        dataset: Any,
        name: str,
        split: str = "test",
        weight: float = 1.0,
        references: Any = None,
        require_masks: bool = True,
    ):
        self.name, self.split, self.weight = name, split, checked_weight(weight)
        self.rows = SourceRows(dataset, name, ("image", "label", "mask") if require_masks else ("image", "label"))
        self.labels = "supervised" if NORMAL in self.rows.labels else "defects"
        if require_masks:
            self._check_masks()
        self._good = self.rows if references is None else SourceRows(references, f"references of {name}")
        self._normals: NormalPictures | None = None

    def prepare_references(self) -> None:
        """Checks, before the first sample, that references can be drawn."""
        self._normals = NormalPictures(self._good, self.rows.categories)

    def example(self, row: int, version: int, referenced: bool, rng: np.random.Generator) -> Example:
        """One sample.

        Args:
            row (`int`): In `[0, len(rows))`.
            version (`int`): 0.
            referenced (`bool`): Whether it gets a reference.
            rng (`np.random.Generator`): Draws the reference.

        Returns:
            `Example`: With a mask where the row has one or is normal.
        """
        example = labelled_example(self.rows[row], self.rows.image_ids[row], self.name)
        if referenced:
            reference, example.turns = self._normals.another(example.category, example.image_id, rng)
            example.references = [reference]
        return example

    def _check_masks(self) -> None:
        position, lacking = 0, []
        masks = self.rows.select_columns(["mask"]).with_format("arrow")
        for table in masks.iter(batch_size=256):
            for is_null in table.column("mask").is_null().to_pylist():
                if is_null and self.rows.labels[position] == ANOMALOUS:
                    lacking.append(self.rows.image_ids[position])
                position += 1
        if lacking:
            raise ValueError(
                f"`mask` must be given for every anomalous row of {self.name!r}, got none for {len(lacking)} of them, "
                f"first {lacking[0]!r}. Add the masks, or pass `require_masks=False` to train without pixel targets."
            )


class PlainConversations:
    """Conversations about ordinary pictures, which keep the language model able to talk about everything else.

    Args:
        dataset (`datasets.Dataset`):
            Rows with `image` and `messages` (`role` and `content` in turn).
        name (`str`, *optional*, defaults to `"conversations"`):
            Name in summaries and in `training_data.json`.
        split (`str`, *optional*, defaults to `"train"`):
            Name of the split there.
        weight (`float`, *optional*, defaults to 1.0):
            Share of the samples, relative to the other sources.

    Raises:
        ValueError: If a column is missing.
    """

    versions = 1
    labels = "conversations"

    def __init__(self, dataset: Any, name: str = "conversations", split: str = "train", weight: float = 1.0):
        self.name, self.split, self.weight = name, split, checked_weight(weight)
        self.rows = SourceRows(dataset, name, ("image", "messages"))

    def prepare_references(self) -> None:
        """Plain conversations have no references."""

    def example(self, row: int, version: int, referenced: bool, rng: np.random.Generator) -> Example:
        """One sample.

        Args:
            row (`int`): In `[0, len(rows))`.
            version (`int`): 0.
            referenced (`bool`): Without effect.
            rng (`np.random.Generator`): Not used.

        Returns:
            `Example`: Without a mask.
        """
        return conversation_example(self.rows[row], self.rows.image_ids[row], self.name)


TrainingSource = SyntheticPairs | LabelledPictures | PlainConversations


def labelled_example(row: dict[str, Any], image_id: str, name: str) -> Example:
    """An example of a labelled row.

    Args:
        row (`dict`): `image`, `label`, and if known `mask`, `category`, `defect_type`.
        image_id (`str`): Name of the row.
        name (`str`): Name of the data set.

    Returns:
        `Example`: Its mask is empty in normal rows, `None` in anomalous rows without one.

    Raises:
        ValueError: If a normal row has a mask that is not empty.
        PictureError: If picture or mask cannot be read.
    """
    try:
        picture = load_picture(row["image"])
        mask = None if row.get("mask") is None else load_mask(row["mask"])
    except (ValueError, FileNotFoundError) as error:
        raise unreadable(image_id, name, error) from error
    anomalous = row["label"] == ANOMALOUS
    mask = None if mask is None else mask > 0.3
    if mask is not None and mask.shape != (picture.height, picture.width):
        raise ValueError(
            f"`mask` of {image_id!r} in {name!r} must have the size of its picture, {picture.height} x "
            f"{picture.width}, got {mask.shape[0]} x {mask.shape[1]}. Give the mask that was drawn on this picture."
        )
    if not anomalous:
        if mask is not None and mask.any():
            raise ValueError(
                f"`mask` of {image_id!r} in {name!r} must be empty where the label is normal, got "
                f"{int(mask.sum())} anomalous pixels. Correct the label or the mask."
            )
        mask = np.zeros((picture.height, picture.width), bool)
    kinds = (row["defect_type"],) if row.get("defect_type") else ()
    return Example(picture, image_id, row.get("category") or "object", mask, anomalous, kinds)


def conversation_example(row: dict[str, Any], image_id: str, name: str) -> Example:
    """An example of a row with a conversation.

    Args:
        row (`dict`): `image` and `messages`.
        image_id (`str`): Name of the row.
        name (`str`): Name of the data set.

    Returns:
        `Example`: Without mask and label.

    Raises:
        ValueError: If the messages are not questions and answers in turn.
        PictureError: If the picture cannot be read.
    """
    messages = row["messages"]
    fits = isinstance(messages, list) and len(messages) > 0 and len(messages) % 2 == 0
    for number, message in enumerate(messages if fits else ()):
        role = "assistant" if number % 2 else "user"
        fits &= isinstance(message, dict) and message.get("role") == role and isinstance(message.get("content"), str)
    if not fits:
        text = repr(messages)
        raise ValueError(
            f"`messages` of {image_id!r} in {name!r} must be questions (role 'user') and answers ('assistant') in "
            f"turn, got {text if len(text) <= 80 else text[:77] + '...'}. Correct the row."
        )
    try:
        picture = load_picture(row["image"])
    except (ValueError, FileNotFoundError) as error:
        raise unreadable(image_id, name, error) from error
    return Example(picture, image_id, messages=messages)


def checked_weight(weight: float) -> float:
    """The weight of a source.

    Args:
        weight (`float`): Share of the samples, relative to the other sources.

    Returns:
        `float`: The same.

    Raises:
        ValueError: If it is not positive.
    """
    if not 0 < weight < float("inf"):
        raise ValueError(f"`weight` must be positive, got {weight}. Leave a source out that shall not be used.")
    return float(weight)


__all__ = [
    "ANOMALOUS",
    "NORMAL",
    "Example",
    "LabelledPictures",
    "NormalPictures",
    "PlainConversations",
    "SourceRows",
    "SyntheticPairs",
    "TrainingSource",
    "checked_weight",
    "conversation_example",
    "labelled_example",
    "unreadable",
]
