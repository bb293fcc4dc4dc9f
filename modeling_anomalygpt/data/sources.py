"""Where training samples come from: good photographs, labelled pictures, plain conversations.

A source turns a row, a version and a generator into an `Example`; knows no tokens, no tensors and no model.
"""

import copy
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets.fingerprint import Hasher
from PIL import Image

from ..errors import describe_error
from ..images import MASK_THRESHOLD, PictureError, load_mask, load_picture
from ..synthesis.anomaly import shrunk
from ..synthesis.dataset import ANOMALOUS, NORMAL, NormalPictures, RecentPictures
from ..synthesis.synthesizer import Mixture, nsa
from .fingerprint import split_fingerprint

Pool = NormalPictures | RecentPictures


@dataclass
class Example:
    """One picture and what is known about it, before any processing.

    Attributes:
        picture (`PIL.Image.Image`): RGB, of any size.
        image_id (`str`): Name of its row.
        category (`str`, *optional*, defaults to `"object"`): What it shows.
        mask (`np.ndarray` of shape `(height, width)`, *optional*): `bool`, the defects; `None` where no pixel target
            is known.
        anomalous (`bool`, *optional*): The label; `None` in plain conversations.
        defect_types (`tuple[str, ...]`, *optional*, defaults to `()`): Kinds of defect, in the words of the data set.
        messages (`list[dict[str, str]]`, *optional*): The conversation where it is given; else it is made of the
            facts.
        good_picture (`PIL.Image.Image`, *optional*): The same part without the defect: the picture itself where it is
            normal.
        references (`list[PIL.Image.Image]`, *optional*, defaults to `[]`): Good photographs for the few-shot map.
        quarter_turns (`int`, *optional*, defaults to 0): By how many right angles the references are rotated.
    """

    picture: Image.Image
    image_id: str
    category: str = "object"
    mask: np.ndarray | None = None
    anomalous: bool | None = None
    defect_types: tuple[str, ...] = ()
    messages: list[dict[str, str]] | None = None
    good_picture: Image.Image | None = None
    references: list[Image.Image] = field(default_factory=list)
    quarter_turns: int = 0


class SourceRows:
    """A data set in the columns of inspection data sets, with what can be known of it without opening a picture.

    Args:
        dataset (`datasets.Dataset`): Rows with a column `image`, and what `required` names.
        name (`str`): What messages call it.
        required (`tuple[str, ...]`, *optional*, defaults to `("image",)`): Columns that must be there.

    Attributes:
        labels (`list[int]`): 0 normal, 1 anomalous; 0 where there is no such column.
        categories (`list[str]`): `"object"` where unknown.
        image_ids (`list[str]`): Names of the rows; `"row 7"` where there is no such column.
        normals (`NormalPictures`): Its good photographs by category.

    Raises:
        ValueError: If the data set is empty or lacks a column.
        TypeError: If it has no length or no columns.
    """

    def __init__(self, dataset: Any, name: str, required: tuple[str, ...] = ("image",)):
        columns = getattr(dataset, "column_names", None)
        if columns is None or not hasattr(dataset, "__len__"):
            raise TypeError(f"`dataset` {name!r} must be a `datasets.Dataset`, got {type(dataset).__name__}.")
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
        values = dataset.select_columns(wanted).with_format(None)[:] if wanted else {}
        length = len(dataset)
        self.labels = values.get("label", [NORMAL] * length)
        self.categories = [category or "object" for category in values.get("category", ["object"] * length)]
        self.image_ids = [str(name) for name in values.get("image_id", [f"row {index}" for index in range(length)])]
        self.normals = NormalPictures(self.picture, self.labels, self.categories, self.image_ids)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self.dataset[int(index)]
        except Exception as error:  # whatever Pillow and the file system raise
            raise unreadable(self.image_ids[index], self.name, error) from error

    def picture(self, index: int) -> Image.Image:
        """The picture of a row, RGB; raises `PictureError` if it cannot be read."""
        try:
            return load_picture(self[index]["image"])
        except FileNotFoundError as error:
            raise unreadable(self.image_ids[index], self.name, error) from error

    def where(self, *labels: int) -> "SourceRows":
        """The rows with one of these labels, 0 or 1; may be none."""
        chosen = [index for index, value in enumerate(self.labels) if value in labels]
        rows = copy.copy(self)
        rows.dataset = self.dataset.select(chosen)
        for names in ("labels", "categories", "image_ids"):
            setattr(rows, names, [getattr(self, names)[index] for index in chosen])
        rows.normals = NormalPictures(rows.picture, rows.labels, rows.categories, rows.image_ids)
        return rows

    def labelled(self) -> "SourceRows":
        """The rows with a label; warns of the others, of which nothing is known. `ValueError` if there is none."""
        rows = self.where(NORMAL, ANOMALOUS)
        if not len(rows):
            raise ValueError(
                f"`dataset` {self.name!r} must hold rows with a label, 0 (normal) or 1 (anomalous), got none among "
                f"{len(self)}. Label them, or sort the pictures into folders."
            )
        if len(rows) < len(self):
            warnings.warn(
                f"{len(self) - len(rows)} of the {len(self)} rows of {self.name!r} have no label, 0 (normal) or 1 "
                "(anomalous), and are left out.",
                stacklevel=3,
            )
        return rows

    def check_references(self, categories: Iterable[str], warn: bool = True) -> None:
        """Refuses (`ValueError`) categories without a normal picture; warns of those with a single one."""
        counts = {category: len(self.normals.rows.get(category, ())) for category in sorted(set(categories))}
        lacking = [category for category, count in counts.items() if count == 0]
        if lacking:
            raise ValueError(
                f"`dataset` {self.name!r} must hold normal pictures (label 0) of {', '.join(lacking)} as references, "
                "got none. Give `references`, or `reference_share=0` to train without them."
            )
        alone = [category for category, count in counts.items() if count == 1]
        if alone and warn:
            warnings.warn(
                f"Only one normal picture of {', '.join(alone)} in {self.name!r}: where it is asked about, a turned "
                "copy of it stands as its own reference. Two or more photographs train better.",
                stacklevel=3,
            )


class TrainingSource:
    """A data set, or a stream of rows, and what samples are made of its rows.

    Args:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): The rows; a stream is for `StreamedExamples`,
            anything with a length for `TrainingExamples`.
        name (`str`): Name in summaries and in `training_data.json`.
        split (`str`): Name of the split there.
        weight (`float`): Share of the samples, relative to the other sources.
        required (`tuple[str, ...]`): Columns that must be there.

    Raises:
        ValueError: If the weight is not positive, a column is missing or there is no row.

    Attributes:
        rows (`SourceRows`, *optional*): `None` of a stream.
        reference_rows (`SourceRows`, *optional*): Rows whose good photographs are the references.
        labels (`str`): `"synthetic"`, `"supervised"`, `"defects"` or `"conversations"`.
        versions (`int`): Samples that one row gives.
        takes (`tuple[int, ...]`): Labels of the rows that samples are made of; others are left out.
    """

    versions = 1
    labels = "supervised"
    takes = (NORMAL, ANOMALOUS)

    def __init__(self, dataset: Any, name: str, split: str, weight: float, required: tuple[str, ...]):
        if not 0 < weight < float("inf"):
            raise ValueError(f"`weight` must be positive, got {weight}. Leave a source out that shall not be used.")
        self.name, self.split, self.weight = name, split, float(weight)
        is_stream = hasattr(dataset, "__iter__") and not hasattr(dataset, "__len__")
        self.stream = dataset if is_stream else None
        self.rows = self.reference_rows = None if is_stream else SourceRows(dataset, name, required)

    def example(
        self, row: dict[str, Any], image_id: str, version: int, normals: Pool, rng: np.random.Generator
    ) -> Example:
        """One example, without references.

        Args:
            row (`dict`): Of the data set; `image_id` is its name.
            version (`int`): In `[0, versions)`.
            normals (`NormalPictures` or `RecentPictures`): Other good pictures of the source.
            rng (`np.random.Generator`): Draws everything.
        """
        return labelled_example(row, image_id, self.name)

    def settings(self) -> dict[str, Any]:
        """What decides its samples beside its rows, JSON-ready; not of a stream."""
        own = self.reference_rows is self.rows
        return {"references": None if own else split_fingerprint(self.reference_rows.dataset)}


class SyntheticPairs(TrainingSource):
    """Good photographs, each once as it is and once with a synthetic defect (paper section 3.3).

    Args:
        dataset, name, split, weight: See [`TrainingSource`]; rows with `image`, and if known `label`, `category`,
            `image_id`. Anomalous rows are left out.
        mixture (`Callable`, *optional*): A `Mixture` or a method `(image, source, rng) -> SyntheticAnomaly`. Defaults
            to `nsa`, as published.
        short_side (`int`, *optional*, defaults to 224): Larger pictures are shrunk to this short side before
            synthesis, in pixels; `None` keeps their size.

    Raises:
        ValueError: If there is no normal picture.
    """

    versions = 2
    labels = "synthetic"
    takes = (NORMAL,)

    def __init__(
        self,
        dataset: Any,
        name: str,
        split: str = "train",
        weight: float = 1.0,
        mixture: Callable[..., Any] = nsa,
        short_side: int | None = 224,
    ):
        super().__init__(dataset, name, split, weight, ("image",))
        if short_side is not None and short_side < 32:
            raise ValueError(f"`short_side` must be at least 32 pixels, got {short_side}. Use the picture size.")
        self.mixture = mixture if isinstance(mixture, Mixture) else Mixture([mixture])
        self.short_side = short_side
        if self.rows is not None:
            self.rows = self.reference_rows = self.rows.where(NORMAL)
            if not len(self.rows):
                raise ValueError(
                    f"`dataset` {name!r} must hold normal pictures (label 0) to make defects on, got none. Add good "
                    "photographs, or train with the labels it has (supervised)."
                )

    def example(
        self, row: dict[str, Any], image_id: str, version: int, normals: Pool, rng: np.random.Generator
    ) -> Example:
        """Version 0 is the picture as it is, version 1 with a defect; see [`TrainingSource.example`]."""
        example = labelled_example(row | {"label": NORMAL, "mask": None, "defect_type": "good"}, image_id, self.name)
        example.picture = example.good_picture = good = shrunk(example.picture, self.short_side)
        example.mask = np.zeros((good.height, good.width), bool)
        if version:
            source = shrunk(normals.another(example.category, image_id, rng) or good, self.short_side)
            anomaly = self.mixture(np.asarray(good), np.asarray(source), rng, category=row.get("category"))
            example.picture, example.mask = Image.fromarray(anomaly.image), anomaly.mask
            example.anomalous, example.defect_types = anomaly.is_anomalous, (anomaly.defect_type,)
            example.image_id = f"{image_id} (synthetic)"
        return example

    def settings(self) -> dict[str, Any]:
        """Methods, their weights and options, and the short side as well; see [`TrainingSource.settings`]."""
        return super().settings() | {"mixture": Hasher.hash(self.mixture), "short_side": self.short_side}


class LabelledPictures(TrainingSource):
    """Pictures with real labels, masks and kinds of defect: the supervised sets, or sets of defects alone.

    What is trained on the test pictures of a benchmark may not be measured on them: `training_data.json` names the
    split and `"supervised"`.

    Args:
        dataset, name, split, weight: See [`TrainingSource`]; rows with `image`, `label` and `mask`, and if known
            `category`, `defect_type`, `image_id`. Rows without a label are left out, with a warning.
        references (`datasets.Dataset`, *optional*): Good photographs for references; defaults to the set's own normal
            rows.
        require_masks (`bool`, *optional*, defaults to `True`): Whether every anomalous row must have a mask. Without
            one a picture has no pixel target and its conversation names no place.

    Raises:
        ValueError: If no row has a label, a mask is missing **or** `references` are given with a stream.
    """

    def __init__(
        self,
        dataset: Any,
        name: str,
        split: str = "test",
        weight: float = 1.0,
        references: Any = None,
        require_masks: bool = True,
    ):
        columns = ("image", "label", "mask") if require_masks else ("image", "label")
        super().__init__(dataset, name, split, weight, columns)
        if self.rows is not None:
            self.rows = self.reference_rows = self.rows.labelled()
        if references is not None:
            if self.rows is None:
                raise ValueError(
                    f"`references` must be None with a stream, got some for {name!r}: a stream's references are the "
                    "good pictures that it has shown. Give a data set with a length."
                )
            self.reference_rows = SourceRows(references, f"references of {name}")
        if self.rows is not None:
            self.labels = "supervised" if NORMAL in self.rows.labels else "defects"
            if require_masks:
                self._check_masks()

    def _check_masks(self) -> None:
        absent = self.rows.dataset.select_columns(["mask"]).with_format("arrow")
        absent = [one for table in absent.iter(batch_size=256) for one in table.column("mask").is_null().to_pylist()]
        names = zip(absent, self.rows.labels, self.rows.image_ids, strict=True)
        lacking = [name for is_absent, label, name in names if is_absent and label == ANOMALOUS]
        if lacking:
            raise ValueError(
                f"`mask` must be given for every anomalous row of {self.name!r}, got none for {len(lacking)} of them, "
                f"first {lacking[0]!r}. Add the masks or leave these pictures out; in Python, `require_masks=False` "
                "trains without pixel targets."
            )


class PlainConversations(TrainingSource):
    """Conversations about ordinary pictures, which keep the language model able to talk about everything else.

    Args:
        dataset, name, split, weight: See [`TrainingSource`]; rows with `image` and `messages` (`role` and `content` in
            turn).
    """

    labels = "conversations"

    def __init__(self, dataset: Any, name: str = "conversations", split: str = "train", weight: float = 1.0):
        super().__init__(dataset, name, split, weight, ("image", "messages"))

    def example(
        self, row: dict[str, Any], image_id: str, version: int, normals: Pool, rng: np.random.Generator
    ) -> Example:
        """The picture and the conversation as written; see [`TrainingSource.example`]."""
        messages = row["messages"]
        fits = isinstance(messages, list) and len(messages) > 0 and len(messages) % 2 == 0
        for message, role in zip(messages if fits else (), ("user", "assistant") * len(messages), strict=False):
            fits &= isinstance(message, dict) and message.get("role") == role
            fits = fits and isinstance(message.get("content"), str)
        if not fits:
            text = repr(messages)
            raise ValueError(
                f"`messages` of {image_id!r} in {self.name!r} must be questions (role 'user') and answers "
                f"('assistant') in turn, got {text if len(text) <= 80 else text[:77] + '...'}. Correct the row."
            )
        try:
            return Example(load_picture(row["image"]), image_id, messages=messages)
        except (ValueError, FileNotFoundError) as error:
            raise unreadable(image_id, self.name, error) from error


def labelled_example(row: dict[str, Any], image_id: str, name: str) -> Example:
    """An example of the row `image_id` of the data set `name`.

    The row has `image`, `label`, and if known `mask`, `category`, `defect_type`. The example's mask is empty in normal
    rows, `None` in anomalous rows without one.

    Raises:
        ValueError: If the mask is not that of the picture: of another size, empty where the label is anomalous, **or**
            not empty where it is normal.
        PictureError: If picture or mask cannot be read.
    """
    try:
        picture = load_picture(row["image"])
        mask = None if row.get("mask") is None else load_mask(row["mask"]) > MASK_THRESHOLD
    except (ValueError, FileNotFoundError) as error:
        raise unreadable(image_id, name, error) from error
    anomalous, size = row["label"] == ANOMALOUS, (picture.height, picture.width)
    if mask is not None and mask.shape != size:
        raise ValueError(
            f"`mask` of {image_id!r} in {name!r} must have the size of its picture, {picture.height} x "
            f"{picture.width}, got {mask.shape[0]} x {mask.shape[1]}. Give the mask that was drawn on this picture."
        )
    if mask is not None and mask.any() != anomalous:
        expected = "mark a pixel where the label is anomalous" if anomalous else "be empty where the label is normal"
        raise ValueError(
            f"`mask` of {image_id!r} in {name!r} must {expected}, got {int(mask.sum())} anomalous pixels. Correct the "
            "label or the mask."
        )
    if not anomalous:
        mask = np.zeros(size, bool)
    kinds = tuple(filter(None, (kind.strip() for kind in (row.get("defect_type") or "").split(","))))
    category = row.get("category") or "object"
    return Example(picture, image_id, category, mask, anomalous, kinds, good_picture=None if anomalous else picture)


def unreadable(image_id: str, name: str, error: Exception) -> PictureError:
    """The error that names the row `image_id` of the data set `name`, whose picture cannot be read."""
    return PictureError(
        f"`image` of {image_id!r} in {name!r} must be readable, got: {describe_error(error).rstrip('.')}. Replace the "
        "file or leave the row out."
    )
