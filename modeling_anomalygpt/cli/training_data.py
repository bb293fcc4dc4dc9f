"""From the words of the command line to training examples: folders, named data sets, conversations.

The only place where training and `datasets_scripts` meet.
"""

import pathlib
import urllib.parse
import warnings
from dataclasses import dataclass, field
from typing import Any

from ..training.arguments import DataArguments
from ..training.checkpoints import TrainingError


@dataclass
class NamedDataset:
    """A data set as the command line names it: `NAME[=DIR][?option=value&...]`."""

    name: str
    folder: str | None = None
    split: str | None = None
    weight: float = 1.0
    labels: str = "synthetic"
    options: dict[str, Any] = field(default_factory=dict)


def parse_dataset(text: str) -> NamedDataset:
    r"""
    Reads the name of a data set.

    Args:
        text (`str`):
            Such as `"mvtec_ad=/data/mvtec?category=bottle&weight=2"`.

    Returns:
        [`NamedDataset`]

    Raises:
        TrainingError: If the name is unknown or an option is malformed.

    Example:
    ```python
    >>> parse_dataset("rendered_parts?families=screw,gear&num_train=8").options
    {'families': ('screw', 'gear'), 'num_train': 8}

    ```
    """
    from datasets_scripts import DATASET_NAMES

    address, _, query = text.partition("?")
    name, _, folder = address.partition("=")
    if name not in DATASET_NAMES:
        raise TrainingError(
            f"`--dataset` must begin with one of {', '.join(DATASET_NAMES)}, got {name!r}. "
            "Write NAME=DIR, or give a folder of good photographs with --good."
        )
    found = NamedDataset(name, folder or None)
    try:
        pairs = urllib.parse.parse_qsl(query, strict_parsing=True, keep_blank_values=True) if query else []
        for key, value in pairs:
            if key in ("split", "labels"):
                setattr(found, key, value)
            elif key == "weight":
                found.weight = float(value)
            else:
                found.options[key] = _value(value)
    except ValueError as error:
        raise TrainingError(f"The options of {text!r} must read key=value&key=value: {error}.") from error
    if found.labels not in ("synthetic", "real"):
        raise TrainingError(f"`labels` of {text!r} must be synthetic or real, got {found.labels!r}.")
    return found


def training_sources(arguments: DataArguments) -> list[Any]:
    r"""
    Opens everything that is trained on.

    Args:
        arguments ([`DataArguments`]):
            At least one of `good`, `dataset`, `conversations`.

    Returns:
        `list`: Sources for [`TrainingExamples`].

    Raises:
        TrainingError, ValueError, FileNotFoundError: If there is nothing, **or** something is missing.
    """
    from ..data.sources import LabelledPictures, PlainConversations, SyntheticPairs

    if not (arguments.good or arguments.dataset or arguments.conversations):
        raise TrainingError("Nothing to train on. Give --good FOLDER, --dataset NAME=DIR or --conversations JSON.")
    pairs = {"mixture": _mixture(arguments.mixture), "short_side": arguments.short_side}
    sources: list[Any] = [
        SyntheticPairs(
            good_pictures(folder, arguments.category), _name_of(folder, arguments.category), "good", **pairs
        )
        for folder in arguments.good
    ]
    for text in arguments.dataset:
        named = parse_dataset(text)
        if named.labels == "real":
            split = named.split or "test"
            rows = _load(named, split)
            references = _good_rows_of_train(named) if split != "train" and arguments.reference_share > 0 else None
            sources.append(LabelledPictures(rows, named.name, split, named.weight, references))
        else:
            split = named.split or "train"
            sources.append(SyntheticPairs(_load(named, split), named.name, split, named.weight, **pairs))
    if arguments.conversations:
        path = pathlib.Path(arguments.conversations)
        if not path.is_file():
            raise TrainingError(f"`--conversations` must be a JSON file, got {str(path)!r}, which does not exist.")
        named = NamedDataset("conversations", str(path.parent), options={"json_file": path.name})
        sources.append(PlainConversations(_load(named, "train"), weight=arguments.conversation_weight))
    return sources


def training_examples(arguments: DataArguments, processor: Any, map_size: int, seed: int) -> Any:
    """The mix of [`training_sources`] as [`TrainingExamples`]."""
    from ..data.examples import Wording
    from ..training.data import TrainingExamples

    languages = dict.fromkeys(arguments.languages.split(","), 1.0)
    descriptions = {arguments.category: arguments.description} if arguments.description else {}
    return TrainingExamples(
        training_sources(arguments),
        processor,
        seed=seed,
        map_size=map_size,
        reference_share=arguments.reference_share,
        wording=Wording(languages, arguments.max_turns, arguments.varied, descriptions),
        max_length=arguments.max_length,
        length=arguments.samples_per_epoch,
    )


def evaluation_sets(arguments: DataArguments, processor: Any, map_size: int, seed: int) -> Any:
    r"""
    The labelled pictures to measure on.

    Args:
        arguments ([`DataArguments`]):
            With `eval_dataset`.
        processor ([`AnomalyGPTProcessor`]):
            Of the model.
        map_size (`int`):
            Of the model.
        seed (`int`):
            Draws the references, and the pictures where not all are taken.

    Returns:
        `torch.utils.data.Dataset`: `None` when there is no set.
    """
    from torch.utils.data import ConcatDataset

    from ..data.examples import evaluation_examples

    sets = []
    for text in arguments.eval_dataset:
        named = parse_dataset(text)
        shots = arguments.eval_references
        options = {"references": _load(named, "train", "--eval_dataset"), "shots": shots} if shots > 0 else {}
        rows = _load(named, named.split or "test", "--eval_dataset")
        options |= {"name": named.name, "seed": seed, "map_size": map_size, "num_examples": arguments.eval_samples}
        sets.append(evaluation_examples(rows, processor, language=arguments.languages.split(",")[0], **options))
    return ConcatDataset(sets) if sets else None


def good_pictures(folder: str, category: str) -> Any:
    r"""
    A folder of good photographs as a data set.

    Args:
        folder (`str`):
            Read with its sub-folders.
        category (`str`):
            What they show.

    Returns:
        `datasets.Dataset`: Columns `image`, `label` (0), `category`, `image_id`.

    Raises:
        TrainingError: If the folder is missing or empty.
    """
    import datasets

    from datasets_scripts.anomaly_builder import image_cells

    from ..images import find_pictures

    root = pathlib.Path(folder)
    if not root.is_dir():
        raise TrainingError(f"`--good` must be a folder of good photographs, got {folder!r}, which does not exist.")
    files = find_pictures([str(root)])
    if not files:
        raise TrainingError(f"`--good` must hold good photographs, got none in {folder!r}.")
    if files.remark:
        warnings.warn(files.remark, UserWarning, stacklevel=2)
    rows = {
        "image": image_cells(files),
        "label": [0] * len(files),
        "category": [category] * len(files),
        "image_id": [str(pathlib.Path(file).relative_to(root)) for file in files],
    }
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def _good_rows_of_train(named: NamedDataset) -> Any:
    """The split that references are drawn from when a set is inspected; `None` where the set has no such split."""
    from datasets_scripts import load_builder

    builder = load_builder(named.name, named.folder, **named.options)
    builder.download_and_prepare()
    return builder.as_dataset(split="train") if "train" in builder.info.splits else None


def _name_of(folder: str, category: str) -> str:
    return category if category != "object" else pathlib.Path(folder).resolve().name


def _load(named: NamedDataset, split: str, option: str = "--dataset") -> Any:
    from datasets_scripts import load_anomaly_dataset

    if named.folder is not None and not pathlib.Path(named.folder).is_dir():
        raise TrainingError(f"`{option}` {named.name} must name a folder, got {named.folder!r}, which does not exist.")
    return load_anomaly_dataset(named.name, named.folder, split=split, **named.options)


def _mixture(name: str) -> Any:
    from ..synthesis.synthesizer import nsa

    if name == "nsa":
        return nsa
    from ..synthesis.synthesizer import Mixture
    from .made_pictures import METHODS, PHOTOGRAPH_DEFAULT

    return Mixture([METHODS[method] for method in PHOTOGRAPH_DEFAULT])


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return tuple(text.split(",")) if "," in text else text


__all__ = [
    "NamedDataset",
    "evaluation_sets",
    "good_pictures",
    "parse_dataset",
    "training_examples",
    "training_sources",
]
