"""The training mix: several sources by weight, one sample at a time, reproducible from seed, epoch and index.

Knows sources, words and the processor; knows no weights and no trainer.
"""

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from datasets.distributed import split_dataset_by_node
from PIL import Image

from ..data.examples import ExampleEncoder, Wording, facts_of
from ..data.fingerprint import split_fingerprint
from ..data.sources import (
    Example,
    PlainConversations,
    TrainingSource,
    checked_weight,
    conversation_example,
    labelled_example,
)
from ..processing_anomalygpt import AnomalyGPTProcessor
from ..synthesis.dataset import SharedEpoch, with_synthetic_anomalies
from ..synthesis.synthesizer import nsa

_REMEMBERED = 8


@dataclass
class StreamedSource:
    """A stream of rows and what is made of them.

    Attributes:
        dataset (`datasets.IterableDataset`):
            Rows in the columns of inspection data sets, or of conversations.
        labels (`str`):
            `"synthetic"` (good rows become pairs), `"supervised"` (rows as they are) or `"conversations"`.
        name (`str`, *optional*, defaults to `"stream"`):
            Name in messages.
        weight (`float`, *optional*, defaults to 1.0):
            Share of the samples, relative to the other sources.
        mixture (`Callable`, *optional*):
            As for `SyntheticPairs`.
        short_side (`int`, *optional*, defaults to 224):
            As for `SyntheticPairs`.
    """

    dataset: Any
    labels: Literal["synthetic", "supervised", "conversations"]
    name: str = "stream"
    weight: float = 1.0
    mixture: Callable[..., Any] = nsa
    short_side: int | None = 224

    def __post_init__(self) -> None:
        checked_weight(self.weight)
        if self.labels not in ("synthetic", "supervised", "conversations"):
            raise ValueError(
                f"`labels` must be synthetic, supervised or conversations, got {self.labels!r}. Choose one of them."
            )


class StreamedExamples(torch.utils.data.IterableDataset):
    """Samples of several streams, mixed by weight; each process and worker reads its own part.

    Plain conversations start anew when they end; with `repeat` so does every other stream, shuffled anew, so the
    trainer needs `max_steps`. Samples are those of `TrainingExamples`, without a reference until a category has shown
    another good picture. `AnomalyTrainer` splits it by process. Elsewhere hand it to a plain `DataLoader` in every
    process: neither accelerate's dispatching nor its sharding shall divide it a second time.

    Args:
        sources (`Sequence[StreamedSource]`):
            At least one.
        processor (`AnomalyGPTProcessor`):
            Of the model.
        seed (`int`, *optional*, defaults to 0):
            Not negative.
        map_size (`int`, *optional*):
            `config.map_size` of the model.
        reference_share (`float`, *optional*, defaults to 0.5):
            Probability that a sample gets a reference, where there is one.
        wording (`Wording`, *optional*):
            Of conversations that are made.
        max_length (`int`, *optional*, defaults to 1024):
            Conversations are cut after so many tokens.
        num_processes (`int`, *optional*, defaults to 1), process_index (`int`, *optional*, defaults to 0):
            World size and rank: the streams are split by `datasets.distributed.split_dataset_by_node`.
        repeat (`bool`, *optional*, defaults to `True`):
            Whether to go on when a stream ends; if not, the first that ends ends the samples.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        sources: Sequence[StreamedSource],
        processor: AnomalyGPTProcessor,
        *,
        seed: int = 0,
        map_size: int | None = None,
        reference_share: float = 0.5,
        wording: Wording | None = None,
        max_length: int = 1024,
        num_processes: int = 1,
        process_index: int = 0,
        repeat: bool = True,
    ):
        if not sources:
            raise ValueError("`sources` must hold at least one source, got none. Give a stream.")
        if seed < 0:
            raise ValueError(f"`seed` must not be negative, got {seed}. Use 0 or more.")
        if not 0 <= reference_share <= 1:
            raise ValueError(f"`reference_share` must be in [0, 1], got {reference_share}. It is a probability.")
        self.sources, self.seed, self.repeat = list(sources), seed, repeat
        self.reference_share = reference_share
        self.wording = wording or Wording()
        self.split_by_process(process_index, num_processes)
        self._encode = ExampleEncoder(processor, map_size, max_length)
        self._epoch = SharedEpoch()

    def split_by_process(self, process_index: int, num_processes: int) -> None:
        """Chooses this process's part of the streams, from the next iteration on.

        Args:
            process_index (`int`): Rank.
            num_processes (`int`): World size.

        Raises:
            ValueError: If the rank is not in `[0, num_processes)`.
        """
        if not 0 <= process_index < num_processes:
            raise ValueError(
                f"`process_index` must be in [0, {num_processes}), got {process_index}. Give rank and world size."
            )
        self._node = (process_index, num_processes)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch from the next iteration on.

        Args:
            epoch (`int`): Counted from 0. Under distributed training every process sets it.

        Raises:
            ValueError: If it is negative.
        """
        self._epoch.set(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch = self._epoch.get()
        streams = [self._passes(number, epoch) for number in range(len(self.sources))]
        given = np.zeros(len(streams))
        weights = np.array([source.weight for source in self.sources])
        while True:
            number = int(np.argmin((given + 0.5) / weights))
            given[number] += 1
            found = next(streams[number], None)
            if found is None:
                return
            example, rng = found
            example = self._encode.without_unseen(example)
            messages = example.messages
            if messages is None:
                messages = self.wording.messages(facts_of(example, self.wording.description(example.category)), rng)
            yield self._encode(example, messages) | {"source": self.sources[number].name}

    def _passes(self, number: int, epoch: int) -> Iterator[tuple[Example, np.random.Generator]]:
        """A source's examples and their generators, pass after pass."""
        source, turn = self.sources[number], 0
        endless = self.repeat or source.labels == "conversations"
        while True:
            empty = True
            # A fresh object for each pass: its epoch is its own, not shared with the other workers.
            rows = split_dataset_by_node(source.dataset, *self._node)
            key = [self.seed, number, epoch, turn]
            for example, version, good in _examples(source, rows, self.seed, epoch + turn):
                empty = False
                name = int.from_bytes(hashlib.sha256(example.image_id.encode()).digest()[:8], "little")
                rng = np.random.default_rng([*key, name, version])
                if good and rng.random() < self.reference_share:
                    example.references = [good[rng.integers(len(good))]]
                    example.turns = int(rng.integers(4))
                yield example, rng
            turn += 1
            if empty or not endless:  # a worker without a shard has nothing to repeat
                return


def _examples(
    source: StreamedSource, rows: Any, seed: int, epoch: int
) -> Iterator[tuple[Example, int, list[Image.Image]]]:
    """Examples of one pass, their versions, and the good pictures of the category read before."""
    remembered: dict[str, deque] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
    if source.labels == "synthetic":
        rows = with_synthetic_anomalies(rows, source.mixture, seed, anomalous_share=1.0, short_side=source.short_side)
    if hasattr(rows, "set_epoch"):
        rows.set_epoch(epoch)
    for position, row in enumerate(rows):
        name = str(row.get("image_id") or f"row {position}")
        if source.labels == "conversations":
            yield conversation_example(row, name, source.name), 0, []
            continue
        seen = remembered[row.get("category") or "object"]
        good = list(seen)
        if source.labels == "supervised":
            example = labelled_example(row, name, source.name)
            yield example, 0, good
            if not example.anomalous:
                seen.append(example.picture)
        elif row["normal_image"] is not None:
            normal = row["normal_image"]
            yield labelled_example(row | {"image": normal, "label": 0, "mask": None}, name, source.name), 0, good
            yield labelled_example(row, name, source.name), 1, good
            seen.append(normal)


_PERMUTATIONS_KEPT = 8


class TrainingExamples(torch.utils.data.Dataset):
    """Samples of several sources, mixed by weight.

    The sources alternate in a fixed pattern that follows the weights exactly, so every batch is mixed. Each source
    goes through its rows in passes, shuffled anew for each pass, over all epochs; a small source comes round more
    often. Sample `index` is a function of `(seed, epoch, index)` alone: neither the number of workers or processes nor
    the order of access matters, and workers that stay alive follow `set_epoch`.

    Both pictures of a pair (see [`SyntheticPairs`]) are neighbours among their source's samples: read in order
    (`TrainingArguments(train_sampling_strategy="sequential")`) they come into one batch, as published; the order is
    shuffled already.

    Args:
        sources (`Sequence[SyntheticPairs | LabelledPictures | PlainConversations]`):
            At least one.
        processor (`AnomalyGPTProcessor`):
            Of the model.
        seed (`int`, *optional*, defaults to 0):
            Not negative.
        map_size (`int`, *optional*):
            `config.map_size` of the model; defaults to the processor's picture height.
        reference_share (`float`, *optional*, defaults to 0.5):
            Probability that a sample gets the few-shot map of another good photograph, in [0, 1].
        wording (`Wording`, *optional*):
            Of conversations that are made.
        max_length (`int`, *optional*, defaults to 1024):
            Conversations are cut after so many tokens.
        length (`int`, *optional*):
            Samples of an epoch. By default as many that the sources other than plain conversations give each of
            their samples once, on average.

    Raises:
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
        seed: int = 0,
        map_size: int | None = None,
        reference_share: float = 0.5,
        wording: Wording | None = None,
        max_length: int = 1024,
        length: int | None = None,
    ):
        if not sources:
            raise ValueError("`sources` must hold at least one source, got none. Give a data set.")
        if seed < 0:
            raise ValueError(f"`seed` must not be negative, got {seed}. Use 0 or more.")
        if not 0 <= reference_share <= 1:
            raise ValueError(
                f"`reference_share` must be in [0, 1], got {reference_share}. The published value is 0.5."
            )
        if length is not None and length < 1:
            raise ValueError(f"`length` must be at least 1, got {length}. Leave it out to use all pictures.")
        self.sources = list(sources)
        self.seed = seed
        self.reference_share = reference_share
        self.wording = wording or Wording()
        self._encode = ExampleEncoder(processor, map_size, max_length)
        if reference_share > 0:
            for source in self.sources:
                source.prepare_references()
        self._epoch = SharedEpoch()
        self._counts = _counts(self.sources, length)
        self._source_of, self._position_of = _pattern(self._counts)
        self._permutations: dict[tuple[int, int], np.ndarray] = {}
        self._fingerprints: list[str] | None = None

    def __len__(self) -> int:
        return len(self._source_of)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample, see [`ExampleEncoder`]; `source` is the name of its data set."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be in [0, {len(self)}), got {index}.")
        index = int(index) % len(self)
        number = int(self._source_of[index])
        source = self.sources[number]
        position = self._epoch.get() * self._counts[number] + int(self._position_of[index])
        row, version = self._row(number, position)
        rng = np.random.default_rng([self.seed, number, position])
        referenced = bool(rng.random() < self.reference_share)
        example = self._encode.without_unseen(source.example(row, version, referenced, rng))
        messages = example.messages
        if messages is None:
            messages = self.wording.messages(facts_of(example, self.wording.description(example.category)), rng)
        return self._encode(example, messages) | {"source": source.name}

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch; workers that are alive follow.

        Args:
            epoch (`int`): Counted from 0. Under distributed training every process sets it.

        Raises:
            ValueError: If it is negative.
        """
        self._epoch.set(epoch)

    @property
    def fingerprint(self) -> str:
        """Names what decides the samples: contents of the sources, weights, seed and options; 16 digits."""
        told = {
            "sources": self.training_data()["datasets"],
            "counts": self._counts,
            "seed": self.seed,
            "reference_share": self.reference_share,
            "languages": dict(self.wording.languages),
            "wording": [self.wording.max_turns, self.wording.varied, dict(self.wording.descriptions)],
            "encoding": [self._encode.map_size, self._encode.max_length],
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def training_data(self) -> dict[str, list[dict[str, Any]]]:
        """What `training_data.json` says of the data a checkpoint was trained with.

        Returns:
            `dict`: `{"datasets": [{"name", "split", "num_rows", "fingerprint", "labels"}]}`; `labels` is
            `"synthetic"` (good photographs only), `"supervised"`, `"defects"` or `"conversations"`.
        """
        if self._fingerprints is None:
            self._fingerprints = [split_fingerprint(source.rows.dataset) for source in self.sources]
        return {
            "datasets": [
                {
                    "name": source.name,
                    "split": source.split,
                    "num_rows": len(source.rows),
                    "fingerprint": fingerprint,
                    "labels": source.labels,
                }
                for source, fingerprint in zip(self.sources, self._fingerprints, strict=True)
            ]
        }

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
        turn, place = divmod(unit, len(source.rows))
        if (number, turn) not in self._permutations:
            if len(self._permutations) >= _PERMUTATIONS_KEPT:
                self._permutations.pop(next(iter(self._permutations)))
            # Three numbers more than a sample's key has, so that no sample draws the same values.
            order = np.random.default_rng([self.seed, number, turn, 0, 0, 1]).permutation(len(source.rows))
            self._permutations[number, turn] = order
        return int(self._permutations[number, turn][place]), version


def _counts(sources: list[TrainingSource], length: int | None) -> list[int]:
    """Samples of each source in an epoch: by weight, whole pairs, at least one pair or picture."""
    total = sum(source.weight for source in sources)
    if length is None:
        pictures = [source for source in sources if not isinstance(source, PlainConversations)] or sources
        samples = sum(len(source.rows) * source.versions for source in pictures)
        length = round(samples * total / sum(source.weight for source in pictures))
    return [max(1, round(length * source.weight / total / source.versions)) * source.versions for source in sources]


def _pattern(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """For each sample of an epoch its source and its position there; sources alternate as evenly as they can."""
    due = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    source = np.repeat(np.arange(len(counts)), counts)
    position = np.concatenate([np.arange(count) for count in counts])
    order = np.lexsort((source, due))
    return source[order], position[order]


__all__ = ["StreamedExamples", "StreamedSource", "TrainingExamples"]
