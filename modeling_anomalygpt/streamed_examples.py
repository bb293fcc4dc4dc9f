"""The training mix from streams: for data that are read as they come and never counted.

Samples depend on the order of the stream: a defect's source and a reference are among the last eight good pictures of
the category that the same worker has read. Run again with the same shuffling, the same number of processes and the
same number of workers, a stream gives the same samples; otherwise it does not. Where that matters, or a run shall be
resumed exactly, take `TrainingExamples`.
"""

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from datasets.distributed import split_dataset_by_node
from PIL import Image

from .anomaly_synthesis import nsa
from .example_encoding import ExampleEncoder
from .processing_anomalygpt import AnomalyGPTProcessor
from .synthetic_dataset import SharedEpoch, with_synthetic_anomalies
from .training_facts import Wording, facts_of
from .training_sources import Example, checked_weight, conversation_example, labelled_example

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


__all__ = ["StreamedExamples", "StreamedSource"]
