"""The training mix: several sources by weight, one sample at a time, reproducible from seed, epoch and index.

Knows sources, words and the processor; knows no weights and no trainer.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from datasets.distributed import split_dataset_by_node

from ..data.examples import ExampleEncoder, Wording
from ..data.fingerprint import fingerprint, split_fingerprint
from ..data.sources import NORMAL, Example, PlainConversations, Pool, TrainingSource
from ..processing_anomalygpt import AnomalyGPTProcessor
from ..synthesis.dataset import FollowsEpoch, RecentPictures, number_of

Generator = np.random.Generator


class TrainingMix(FollowsEpoch):
    """What both kinds of training data share: how a row of a source becomes a sample.

    Args:
        sources (`Sequence[TrainingSource]`): At least one.
        processor (`AnomalyGPTProcessor`): Of the model.
        seed (`int`, *optional*, defaults to 0): Not negative.
        map_size (`int`, *optional*): `config.map_size` of the model; defaults to the processor's picture height.
        reference_share (`float`, *optional*, defaults to 0.5): Probability that a sample gets the few-shot map of
            another good photograph, in [0, 1].
        wording (`Wording`, *optional*): Of conversations that are made.
        max_length (`int`, *optional*, defaults to 1024): Conversations are cut after so many tokens.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        sources: Sequence[TrainingSource],
        processor: AnomalyGPTProcessor,
        *,
        seed: int = 0,
        map_size: int | None = None,
        reference_share: float = 0.5,
        wording: Wording | None = None,
        max_length: int = 1024,
    ):
        super().__init__()
        if not sources:
            raise ValueError("`sources` must hold at least one source, got none. Give a data set.")
        if seed < 0:
            raise ValueError(f"`seed` must not be negative, got {seed}. Use 0 or more.")
        if not 0 <= reference_share <= 1:
            raise ValueError(
                f"`reference_share` must be in [0, 1], got {reference_share}. The published value is 0.5."
            )
        self.sources, self.seed, self.reference_share = list(sources), seed, reference_share
        self.wording = wording or Wording()
        self._encode = ExampleEncoder(processor, map_size, max_length)

    def _example(
        self, source: TrainingSource, row: dict[str, Any], image_id: str, version: int, normals: Pool, rng: Generator
    ) -> Example:
        """One example, with a reference where it is its turn and there is one.

        The reference is another good picture of the category, rotated by any right angle; where there is no other, the
        picture itself without its defect, rotated by 90, 180 or 270 degrees.
        """
        referenced = rng.random() < self.reference_share
        example = source.example(row, image_id, version, normals, rng)
        if referenced and example.anomalous is not None:
            reference = normals.another(example.category, image_id, rng)
            example.quarter_turns = int(rng.integers(reference is None, 4))
            reference = reference or example.good_picture
            example.references = [] if reference is None else [reference]
        return example

    def _sample(self, source: TrainingSource, example: Example, rng: Generator) -> dict[str, Any]:
        return self._encode(example, lambda seen: self.wording.messages(seen, rng)) | {"source": source.name}


def _alternating(weights: Sequence[float]) -> Iterator[int]:
    """Numbers of sources for ever, each spread as evenly as its weight lets it be."""
    given = np.zeros(len(weights))
    while True:
        number = int(np.argmin((given + 0.5) / weights))
        given[number] += 1
        yield number


class TrainingExamples(TrainingMix, torch.utils.data.Dataset):
    """Samples of several sources, mixed by weight.

    The sources alternate in a fixed pattern that follows the weights exactly, so every batch is mixed. Each source
    goes through its rows in passes, shuffled anew for each pass, over all epochs; a small source comes round more
    often. Sample `index` is a function of `(seed, epoch, index)` alone: neither the number of workers or processes nor
    the order of access matters, and workers that stay alive follow `set_epoch`.

    Both pictures of a pair (see [`SyntheticPairs`]) are neighbours among their source's samples: read in order
    (`TrainingArguments(train_sampling_strategy="sequential")`) they come into one batch, as published; the order is
    shuffled already.

    Args:
        sources, processor, **sampling: See [`TrainingMix`]; the sources are data sets with a length.
        length (`int`, *optional*): Samples of an epoch. By default as many that the sources other than plain
            conversations give each of their samples once, on average.

    Raises:
        TypeError: If a source is a stream.
        ValueError: If an argument is out of range **or** references are asked for where there are no good
            photographs.

    Example:
    ```python
    examples = TrainingExamples(
        [SyntheticPairs(parts, "own_parts"), PlainConversations(chat)], processor, map_size=model.config.map_size
    )
    ```
    """

    def __init__(
        self,
        sources: Sequence[TrainingSource],
        processor: AnomalyGPTProcessor,
        *,
        length: int | None = None,
        **sampling: Any,
    ):
        super().__init__(sources, processor, **sampling)
        if length is not None and length < 1:
            raise ValueError(f"`length` must be at least 1, got {length}. Leave it out to use all pictures.")
        for source in self.sources:
            if source.rows is None:
                raise TypeError(f"`sources` must have a length, got the stream {source.name!r}. Use StreamedExamples.")
            if self.reference_share > 0 and not isinstance(source, PlainConversations):
                source.reference_rows.check_references(source.rows.categories)
        self._counts = _counts(self.sources, length)
        self._source_of = np.fromiter(_alternating(self._counts), int, sum(self._counts))
        self._position_of = np.empty_like(self._source_of)
        for number, count in enumerate(self._counts):
            self._position_of[self._source_of == number] = np.arange(count)

    def __len__(self) -> int:
        return len(self._source_of)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample, see [`ExampleEncoder`]; `source` is the name of its data set."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be in [0, {len(self)}), got {index}.")
        index = int(index) % len(self)
        number = int(self._source_of[index])
        source = self.sources[number]
        position = self.epoch * self._counts[number] + int(self._position_of[index])
        row, version = self._row(number, position)
        rng = np.random.default_rng([self.seed, number, position])
        normals = source.reference_rows.normals
        example = self._example(source, source.rows[row], source.rows.image_ids[row], version, normals, rng)
        return self._sample(source, example, rng)

    @property
    def categories(self) -> list[str]:
        """What the pictures of inspection show."""
        pictures = [source for source in self.sources if not isinstance(source, PlainConversations)]
        return sorted({category for source in pictures for category in source.rows.categories})

    @property
    def fingerprint(self) -> str:
        """Names what decides the samples: sources and their settings, weights, seed, options, processor; 16 digits."""
        words = dataclasses.asdict(self.wording) | {"languages": list(self.wording.languages.items())}  # in order
        return fingerprint(
            {
                "sources": self.training_data()["datasets"],
                "settings": [source.settings() for source in self.sources],
                "counts": self._counts,
                "seed": self.seed,
                "reference_share": self.reference_share,
                "wording": words,
                "encoding": [self._encode.map_size, self._encode.max_length, _settings(self._encode.processor)],
            }
        )

    def training_data(self) -> dict[str, list[dict[str, Any]]]:
        """What `training_data.json` says of the data a checkpoint was trained with.

        Returns:
            `dict`: `{"datasets": [{"name", "split", "num_rows", "fingerprint", "labels"}]}`; `labels` is
            `"synthetic"` (good photographs only), `"supervised"`, `"defects"` or `"conversations"`.
        """
        columns = ("name", "split", "num_rows", "fingerprint", "labels")
        rows = (
            (source.name, source.split, len(source.rows), name, source.labels)
            for source, name in zip(self.sources, self._fingerprints, strict=True)
        )
        return {"datasets": [dict(zip(columns, row, strict=True)) for row in rows]}

    @functools.cached_property
    def _fingerprints(self) -> list[str]:
        return [split_fingerprint(source.rows.dataset) for source in self.sources]

    def summary(self) -> str:
        """One line for each source: name, split, rows, labels and samples of an epoch."""
        lines = []
        for source, count in zip(self.sources, self._counts, strict=True):
            rows = f"{len(source.rows):,} rows"
            share = f"{count:,} of {len(self):,} samples an epoch ({count / len(self):.0%})"
            lines.append(f"{source.name} ({source.split}, {source.labels}): {rows}, {share}")
        return "\n".join(lines)

    def _row(self, number: int, position: int) -> tuple[int, int]:
        """Row and version of a source's sample, counted over all epochs."""
        source = self.sources[number]
        unit, version = divmod(position, source.versions)
        passes, place = divmod(unit, len(source.rows))
        return int(_permutation(self.seed, number, passes, len(source.rows))[place]), version


@functools.lru_cache(maxsize=8)
def _permutation(seed: int, number: int, passes: int, length: int) -> np.ndarray:
    """The order of a source's rows in one pass."""
    # Three numbers more than a sample's key has, so that no sample draws the same values.
    return np.random.default_rng([seed, number, passes, 0, 0, 1]).permutation(length)


def _counts(sources: list[TrainingSource], length: int | None) -> list[int]:
    """Samples of each source in an epoch: by weight, whole pairs, at least one pair or picture."""
    total = sum(source.weight for source in sources)
    if length is None:
        pictures = [source for source in sources if not isinstance(source, PlainConversations)] or sources
        samples = sum(len(source.rows) * source.versions for source in pictures)
        length = round(samples * total / sum(source.weight for source in pictures))
    return [max(1, round(length * source.weight / total / source.versions)) * source.versions for source in sources]


class StreamedExamples(TrainingMix, torch.utils.data.IterableDataset):
    """Samples of several streams, mixed by weight; each process and worker reads its own part.

    Plain conversations start anew when they end; with `repeat` so does every other stream, shuffled anew, so the
    trainer needs `max_steps`. Samples are those of `TrainingExamples`, but references and the sources of defects are
    among the last eight good pictures of the category that the same worker has read. `AnomalyTrainer` splits the
    streams by process. Elsewhere hand this to a plain `DataLoader` in every process: neither accelerate's dispatching
    nor its sharding shall divide it a second time.

    Args:
        sources, processor, **sampling: See [`TrainingMix`]; the sources are `datasets.IterableDataset`s.
        num_processes (`int`, *optional*, defaults to 1), process_index (`int`, *optional*, defaults to 0): World size
            and rank: the streams are split by `datasets.distributed.split_dataset_by_node`.
        repeat (`bool`, *optional*, defaults to `True`): Whether to go on when a stream ends; if not, the first that
            ends ends the samples.

    Raises:
        TypeError: If a source is no stream.
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        sources: Sequence[TrainingSource],
        processor: AnomalyGPTProcessor,
        *,
        num_processes: int = 1,
        process_index: int = 0,
        repeat: bool = True,
        **sampling: Any,
    ):
        super().__init__(sources, processor, **sampling)
        for source in self.sources:
            if source.stream is None:
                raise TypeError(f"`sources` must be streams, got {source.name!r}. Use `.to_iterable_dataset()`.")
        self.repeat = repeat
        self.split_by_process(process_index, num_processes)

    def split_by_process(self, process_index: int, num_processes: int) -> None:
        """Chooses this process's part of the streams, from the next iteration on.

        Raises:
            ValueError: If the rank is not in `[0, num_processes)`.
        """
        if not 0 <= process_index < num_processes:
            raise ValueError(
                f"`process_index` must be in [0, {num_processes}), got {process_index}. Give rank and world size."
            )
        self._node = (process_index, num_processes)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        streams = [self._samples(number, self.epoch) for number in range(len(self.sources))]
        for number in _alternating([source.weight for source in self.sources]):
            sample = next(streams[number], None)
            if sample is None:
                return
            yield sample

    def _samples(self, number: int, epoch: int) -> Iterator[dict[str, Any]]:
        """A source's samples, pass after pass."""
        source, worker = self.sources[number], torch.utils.data.get_worker_info()
        # Positions are counted by each reader.
        reader = self._node[0] if worker is None else self._node[0] * worker.num_workers + worker.id
        for finished in itertools.count():
            recent, empty = RecentPictures(), True
            for position, row in enumerate(self._rows(source.stream, epoch + finished)):
                if source.labels != "conversations" and row.get("label", NORMAL) not in source.takes:
                    continue
                empty = False
                name = str(row.get("image_id") or f"row {position} of reader {reader}")
                for version in range(source.versions):
                    rng = np.random.default_rng([self.seed, number, epoch, finished, number_of(name), version])
                    example = self._example(source, row, name, version, recent, rng)
                    yield self._sample(source, example, rng)
                if example.good_picture is not None:
                    recent.add(example.category, example.good_picture)
            endless = self.repeat or source.labels == "conversations"
            if empty or not endless:
                return

    def _rows(self, stream: Any, epoch: int) -> Iterator[dict[str, Any]]:
        """The rows of this process and worker: whole shards, or every n-th row where a worker would have no shard."""
        # A fresh object for each pass: its epoch is not shared with the other workers.
        rows, worker = split_dataset_by_node(stream, *self._node), torch.utils.data.get_worker_info()
        has_shards = worker is None or rows.num_shards >= worker.num_workers
        if not has_shards:
            rows = split_dataset_by_node(rows, worker.id, worker.num_workers)
        rows.set_epoch(epoch)
        if has_shards:
            yield from rows
        else:  # `iter(rows)` would divide the shards among the workers
            for batch in rows.iter(batch_size=1):
                yield {name: values[0] for name, values in batch.items()}


def _settings(processor: AnomalyGPTProcessor) -> dict[str, Any]:
    """What a processor does; `auto_map` stands in it or not by where it was loaded from."""
    settings = processor.to_dict()
    settings["image_processor"] = {
        key: value for key, value in settings["image_processor"].items() if key != "auto_map"
    }
    return {key: value for key, value in settings.items() if key != "auto_map"}
