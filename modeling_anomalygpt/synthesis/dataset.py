"""Synthetic anomalies on the fly: a data set of normal pictures becomes one of normal and anomalous pictures.

What a row becomes is a function of `(seed, epoch, index)` alone: the number of workers and processes, the order of
access and restarts do not matter. The epoch lies in shared memory, so that workers that stay alive see it change.
"""

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..images import load_picture
from .synthesizer import Mixture, SyntheticAnomaly

_NORMAL, _ANOMALOUS = 0, 1
# Normal pictures a stream remembers for each category, as sources of patches.
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
        >>> made = with_synthetic_anomalies(rows, cut_paste, seed=7, anomalous_share=1.0)
        >>> len(made), made[1]["label"], made[1]["defect_type"], made[1]["mask"].size
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


class _RowMaker:
    """Turns a normal row and a source into a row with its anomaly; all randomness comes from the generator."""

    def __init__(self, mixture: Method, anomalous_share: float, short_side: int | None):
        self.mixture = mixture if isinstance(mixture, Mixture) else Mixture([mixture])
        self.anomalous_share = anomalous_share
        self.short_side = short_side

    def picture(self, row: Mapping[str, Any]) -> Image.Image:
        image = load_picture(row["image"])
        if self.short_side is None or min(image.size) <= self.short_side:
            return image
        factor = self.short_side / min(image.size)
        width, height = (max(round(side * factor), self.short_side) for side in image.size)
        return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)

    def anomalous(
        self, row: dict[str, Any], normal: Image.Image, source: Image.Image, rng: np.random.Generator
    ) -> dict:
        made = self.mixture(np.asarray(normal), np.asarray(source), rng, category=row.get("category"))
        if not made.is_anomalous:
            return self.normal(row, normal)
        row.update(
            image=Image.fromarray(made.image),
            mask=Image.fromarray(made.mask.astype(np.uint8) * 255),
            label=_ANOMALOUS,
            defect_type=made.defect_type,
            normal_image=normal,
            regions=made.regions,
            intensity=made.intensity,
        )
        return row

    def normal(self, row: dict[str, Any], normal: Image.Image) -> dict[str, Any]:
        width, height = normal.size
        row.update(
            image=normal,
            mask=Image.new("L", normal.size),
            label=_NORMAL,
            defect_type="good",
            normal_image=normal,
            regions=[],
            intensity=np.zeros((height, width), np.float32),
        )
        return row


def _is_normal(row: Mapping[str, Any]) -> bool:
    return row.get("label", _NORMAL) == _NORMAL


def _as_found(row: dict[str, Any]) -> dict[str, Any]:
    row.update(normal_image=None, regions=None, intensity=None)
    return row


class SharedEpoch:
    """The epoch, in shared memory: workers that are alive see it change."""

    def __init__(self):
        self._value = torch.zeros((), dtype=torch.int64).share_memory_()

    def set(self, epoch: int) -> None:
        """Sets the epoch for all workers.

        Args:
            epoch (`int`): counted from 0.

        Raises:
            ValueError: if it is negative.
        """
        if epoch < 0:
            raise ValueError(f"`epoch` must not be negative, got {epoch}. Count epochs from 0.")
        self._value.fill_(epoch)

    def get(self) -> int:
        """The epoch, counted from 0."""
        return int(self._value)


class SyntheticAnomalyDataset(torch.utils.data.Dataset):
    """Map-style form; made by `with_synthetic_anomalies`, which describes its rows."""

    def __init__(self, dataset: Any, maker: _RowMaker, seed: int):
        self.dataset = dataset
        self.seed = seed
        self._maker = maker
        self._epoch = SharedEpoch()
        labels, self._categories = _labels_and_categories(dataset)
        sources = defaultdict(list)
        for index, (label, category) in enumerate(zip(labels, self._categories, strict=True)):
            if label == _NORMAL:
                sources[category].append(index)
        self._sources = dict(sources)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be in [0, {len(self)}), got {index}.")
        index = int(index) % len(self)
        row = dict(self.dataset[index])
        if not _is_normal(row):
            return _as_found(row)
        rng = np.random.default_rng([self.seed, self._epoch.get(), index])
        normal = self._maker.picture(row)
        if rng.random() >= self._maker.anomalous_share:
            return self._maker.normal(row, normal)
        return self._maker.anomalous(row, normal, self._source(index, normal, rng), rng)

    def version(self, index: int, anomalous: bool, rng: np.random.Generator) -> dict[str, Any]:
        """One of the two versions of a normal picture, drawn by the caller's generator.

        Args:
            index (`int`): of a normal row, in `[0, len(self))`.
            anomalous (`bool`): whether an anomaly is made; if not, nothing is drawn.
            rng (`np.random.Generator`): decides on the source and the anomaly; seed and epoch play no part.

        Returns:
            `dict`: the row, with the columns that `with_synthetic_anomalies` describes.
        """
        row = dict(self.dataset[index])
        normal = self._maker.picture(row)
        if not anomalous:
            return self._maker.normal(row, normal)
        return self._maker.anomalous(row, normal, self._source(index, normal, rng), rng)

    def _source(self, index: int, normal: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Another normal picture of the category, the picture itself if there is no other."""
        candidates = self._sources[self._categories[index]]
        if len(candidates) == 1:
            return normal
        # Any but the picture itself: one draw among the others.
        drawn = candidates[rng.integers(len(candidates) - 1)]
        if drawn == index:
            drawn = candidates[-1]
        return self._maker.picture(self.dataset[drawn])

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose anomalies are made; workers that are alive follow.

        Args:
            epoch (`int`): counted from 0. Under distributed training every process sets it.

        Raises:
            ValueError: if it is negative.
        """
        self._epoch.set(epoch)


class SyntheticAnomalyStream(torch.utils.data.IterableDataset):
    """Streaming form; made by `with_synthetic_anomalies`, which describes its rows.

    A row's draws depend on `(seed, epoch, image_id)`, without `image_id` on its position in the stream of its worker.
    The source is one of the last eight normal pictures of the category that this worker has read (the first has only
    itself), so it depends on how the stream is shuffled and dealt out.
    """

    def __init__(self, dataset: Any, maker: _RowMaker, seed: int):
        self.dataset = dataset
        self.seed = seed
        self._maker = maker
        self._epoch = SharedEpoch()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch = self._epoch.get()
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)  # in the worker's own copy: the caller's call does not reach it
        worker = torch.utils.data.get_worker_info()
        remembered = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        for position, row in enumerate(self.dataset):
            row = dict(row)
            if not _is_normal(row):
                yield _as_found(row)
                continue
            if row.get("image_id") is None:
                key = [0 if worker is None else worker.id, position]
            else:
                key = [int.from_bytes(hashlib.sha256(str(row["image_id"]).encode()).digest()[:8], "little")]
            rng = np.random.default_rng([self.seed, epoch, *key])
            normal = self._maker.picture(row)
            seen = remembered[row.get("category")]
            if rng.random() < self._maker.anomalous_share:
                source = seen[rng.integers(len(seen))] if seen else normal
                made = self._maker.anomalous(row, normal, source, rng)
            else:
                made = self._maker.normal(row, normal)
            seen.append(normal)
            yield made

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose anomalies are made, from the next iteration on; passed on to the stream.

        Args:
            epoch (`int`): counted from 0. Under distributed training every process sets it.

        Raises:
            ValueError: if it is negative.
        """
        self._epoch.set(epoch)


def _labels_and_categories(dataset: Any) -> tuple[list[int], list[str | None]]:
    """Reads two columns without decoding a picture where the data set has columns."""
    length = len(dataset)
    if hasattr(dataset, "select_columns"):
        wanted = [name for name in ("label", "category") if name in dataset.column_names]
        columns = dataset.select_columns(wanted).with_format(None)[:] if wanted else {}
        return columns.get("label", [_NORMAL] * length), columns.get("category", [None] * length)
    rows = [dataset[index] for index in range(length)]
    return [row.get("label", _NORMAL) for row in rows], [row.get("category") for row in rows]
