"""Synthetic anomalies on the fly: a data set of normal pictures becomes one of normal and anomalous pictures.

What a row becomes is a function of `(seed, epoch, index)` alone: the number of workers and processes, the order of
access and restarts do not matter. The epoch lies in shared memory, so that workers that stay alive see it change.
"""

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..images import load_picture
from .anomaly import SyntheticAnomaly, shrunk, unchanged
from .synthesizer import Mixture

NORMAL, ANOMALOUS = 0, 1
# Normal pictures a stream remembers for each category.
_REMEMBERED = 8

Method = Callable[[np.ndarray, np.ndarray, np.random.Generator], SyntheticAnomaly]


def with_synthetic_anomalies(
    dataset: Any,
    mixture: Method,
    seed: int = 0,
    *,
    anomalous_share: float = 0.5,
    short_side: int | None = None,
) -> "SyntheticAnomalyDataset | SyntheticAnomalyStream":
    """Gives a share of a data set's normal pictures a synthetic anomaly each time they are read.

    Rows keep their columns and get three more: `normal_image`, the picture without the anomaly (`PIL.Image`), so
    that a pair of both can be made; `regions`, one `bool` mask a defect; `intensity`, the soft label (`float32`).
    In changed rows `image`, `mask` (`PIL.Image` of mode `L`, 0 and 255), `label` (1) and `defect_type` are
    replaced; rows left normal get a mask of zeros. Rows that were anomalous already pass unchanged, with
    `normal_image` `None`. A row counts as normal where `label` is 0, or where there is no such column.

    Args:
        dataset (`datasets.Dataset`, `datasets.IterableDataset` or sequence of `dict`): rows with `image` and, if
            known, `category`, `label` and `image_id`. It may be selected, shuffled or split before; a data set with a
            length is read by index, any other is streamed.
        mixture (`Callable`): a `Mixture` or any function `(image, source, rng) -> SyntheticAnomaly`. The source is
            another normal picture of the same category, the picture itself if there is no other.
        seed (`int`, *optional*, defaults to 0): not negative.
        anomalous_share (`float`, *optional*, defaults to 0.5): probability that a normal row is changed; 1 changes all
            (for pairs with `normal_image`).
        short_side (`int`, *optional*): pictures with a longer short side are shrunk to it first, in pixels. Synthesis
            at the size the model sees is much faster than at full size.

    Returns:
        [`SyntheticAnomalyDataset`] with a length and items by index, or [`SyntheticAnomalyStream`] to iterate over;
        both have `set_epoch(epoch)`.

    Raises:
        ValueError: if `seed` is negative, `anomalous_share` is not in [0, 1] or `short_side` is below 32.

    Example:
        >>> from modeling_anomalygpt.synthesis.synthesizer import cut_paste
        >>> noise = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
        >>> rows = [{"image": Image.fromarray(picture), "label": 0, "category": "tile"} for picture in noise]
        >>> pictures = with_synthetic_anomalies(rows, cut_paste, seed=7, anomalous_share=1.0)
        >>> len(pictures), pictures[1]["label"], pictures[1]["defect_type"], pictures[1]["mask"].size
        (3, 1, 'pasted_patch', (48, 48))
    """
    if seed < 0:
        raise ValueError(f"`seed` must not be negative, got {seed}. Use 0 or more.")
    if not 0 <= anomalous_share <= 1:
        raise ValueError(f"`anomalous_share` must be in [0, 1], got {anomalous_share}. It is a probability.")
    if short_side is not None and short_side < 32:
        raise ValueError(f"`short_side` must be at least 32 pixels, got {short_side}. Use the model's picture size.")
    kind = SyntheticAnomalyDataset if hasattr(dataset, "__len__") else SyntheticAnomalyStream
    return kind(dataset, _RowMaker(mixture, anomalous_share, short_side), seed)


class FollowsEpoch:
    """Data that differ from epoch to epoch. The epoch lies in shared memory: workers that are alive see it change."""

    def __init__(self):
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch, counted from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch; streams follow from their next iteration on.

        Args:
            epoch (`int`): counted from 0. Under distributed training every process sets it.

        Raises:
            ValueError: if it is negative.
        """
        if epoch < 0:
            raise ValueError(f"`epoch` must not be negative, got {epoch}. Count epochs from 0.")
        self._epoch.fill_(epoch)


class NormalPictures:
    """The normal pictures of a table by category, of which another one than that at hand can be drawn.

    Args:
        read (`Callable[[int], PIL.Image.Image]`): gives the picture of a row.
        labels (`Sequence[int]`), categories (`Sequence[str | None]`): of all rows.
        keys (`Sequence[Hashable]`): name the rows within their category.

    Attributes:
        rows (`dict[str | None, list[int]]`): numbers of the normal rows of each category.
    """

    def __init__(
        self,
        read: Callable[[int], Image.Image],
        labels: Sequence[int],
        categories: Sequence[str | None],
        keys: Sequence[Hashable],
    ):
        self.read = read
        self.rows: dict[str | None, list[int]] = {}
        self._number = {}
        for number, (label, category, key) in enumerate(zip(labels, categories, keys, strict=True)):
            if label == NORMAL:
                self.rows.setdefault(category, []).append(number)
                self._number[category, key] = number

    def another(self, category: str | None, key: Hashable, rng: np.random.Generator) -> Image.Image | None:
        """Draws a normal picture of a category, never that of the row `key`; `None` if there is no other."""
        numbers = self.rows.get(category, [])
        itself = self._number.get((category, key))
        others = len(numbers) - (itself is not None)
        if others < 1:
            return None
        drawn = numbers[rng.integers(others)]
        return self.read(numbers[-1] if drawn == itself else drawn)


class RecentPictures:
    """The last eight normal pictures of each category that were read from a stream."""

    def __init__(self):
        self._pictures = defaultdict(lambda: deque(maxlen=_REMEMBERED))

    def add(self, category: str | None, picture: Image.Image) -> None:
        """Remembers a normal picture."""
        self._pictures[category].append(picture)

    def another(self, category: str | None, key: Hashable, rng: np.random.Generator) -> Image.Image | None:
        """Draws one of them; `None` if the category has not been seen."""
        pictures = self._pictures[category]
        return pictures[rng.integers(len(pictures))] if pictures else None


class _RowMaker:
    """Turns a row into one with an anomaly, or into one without; all randomness comes from the generator."""

    def __init__(self, mixture: Method, anomalous_share: float, short_side: int | None):
        self.mixture = mixture if isinstance(mixture, Mixture) else Mixture([mixture])
        self.anomalous_share = anomalous_share
        self.short_side = short_side

    def __call__(
        self, row: Mapping[str, Any], key: Hashable, normals: NormalPictures | RecentPictures, rng: np.random.Generator
    ) -> dict[str, Any]:
        if row.get("label", NORMAL) != NORMAL:
            return dict(row) | {"normal_image": None, "regions": None, "intensity": None}
        normal = shrunk(load_picture(row["image"]), self.short_side)
        anomaly = unchanged(np.asarray(normal))
        if rng.random() < self.anomalous_share:
            source = shrunk(normals.another(row.get("category"), key, rng) or normal, self.short_side)
            anomaly = self.mixture(np.asarray(normal), np.asarray(source), rng, category=row.get("category"))
        return dict(row) | {
            "image": Image.fromarray(anomaly.image) if anomaly.is_anomalous else normal,
            "mask": Image.fromarray(anomaly.mask.astype(np.uint8) * 255),
            "label": ANOMALOUS if anomaly.is_anomalous else NORMAL,
            "defect_type": anomaly.defect_type,
            "normal_image": normal,
            "regions": anomaly.regions,
            "intensity": anomaly.intensity,
        }


class SyntheticAnomalyDataset(FollowsEpoch, torch.utils.data.Dataset):
    """Map-style form; made by `with_synthetic_anomalies`, which describes its rows."""

    def __init__(self, dataset: Any, maker: _RowMaker, seed: int):
        super().__init__()
        self.dataset, self.seed, self._maker = dataset, seed, maker
        self._normals = NormalPictures(self._picture, *_labels_and_categories(dataset), range(len(dataset)))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be in [0, {len(self)}), got {index}.")
        index = int(index) % len(self)
        rng = np.random.default_rng([self.seed, self.epoch, index])
        return self._maker(self.dataset[index], index, self._normals, rng)

    def _picture(self, index: int) -> Image.Image:
        return load_picture(self.dataset[index]["image"])


class SyntheticAnomalyStream(FollowsEpoch, torch.utils.data.IterableDataset):
    """Streaming form; made by `with_synthetic_anomalies`, which describes its rows.

    A row's draws depend on `(seed, epoch, image_id)`, without `image_id` on its position in the stream of its worker.
    The source is one of the last eight normal pictures of the category that this worker has read (the first has only
    itself), so it depends on how the stream is shuffled and dealt out.
    """

    def __init__(self, dataset: Any, maker: _RowMaker, seed: int):
        super().__init__()
        self.dataset, self.seed, self._maker = dataset, seed, maker

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch = self.epoch
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)  # in the worker's own copy: the caller's call does not reach it
        worker = torch.utils.data.get_worker_info()
        recent = RecentPictures()
        for position, row in enumerate(self.dataset):
            if row.get("image_id") is None:
                key = [0 if worker is None else worker.id, position]
            else:
                key = [number_of(str(row["image_id"]))]
            changed = self._maker(row, position, recent, np.random.default_rng([self.seed, epoch, *key]))
            if changed["normal_image"] is not None:
                recent.add(row.get("category"), changed["normal_image"])
            yield changed


def number_of(name: str) -> int:
    """A number of 64 bits for a name, the same in every process, to seed generators with."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def _labels_and_categories(dataset: Any) -> tuple[list[int], list[str | None]]:
    """Reads two columns without decoding a picture where the data set has columns."""
    length = len(dataset)
    if hasattr(dataset, "select_columns"):
        wanted = [name for name in ("label", "category") if name in dataset.column_names]
        columns = dataset.select_columns(wanted).with_format(None)[:] if wanted else {}
        return columns.get("label", [NORMAL] * length), columns.get("category", [None] * length)
    rows = [dataset[index] for index in range(length)]
    return [row.get("label", NORMAL) for row in rows], [row.get("category") for row in rows]
