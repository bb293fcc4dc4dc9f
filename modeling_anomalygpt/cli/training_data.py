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

    def load(self, split: str, option: str = "--dataset") -> Any:
        """Opens a split; `TrainingError` where there is no such folder or split."""
        builder = self._builder(option)
        if split.isidentifier() and split not in builder.info.splits:
            raise TrainingError(
                f"`{option}` {self.name} must have a {split} split, got {', '.join(builder.info.splits) or 'none'}. "
                "Good pictures belong into train/good, labelled ones into test/<kind>; `anomalygpt evaluate` can take "
                "--references-from test."
            )
        return builder.as_dataset(split=split)

    def good_rows(self) -> Any:
        """The split that references are drawn from when a set is inspected; `None` where it has no such split."""
        builder = self._builder()
        return builder.as_dataset(split="train") if "train" in builder.info.splits else None

    def _builder(self, option: str = "--dataset") -> Any:
        from datasets_scripts import load_builder

        if self.folder is not None and not pathlib.Path(self.folder).is_dir():
            raise TrainingError(
                f"`{option}` {self.name} must name a folder, got {self.folder!r}, which does not exist. Check the "
                "path."
            )
        builder = load_builder(self.name, self.folder, **self.options)
        builder.download_and_prepare()
        return builder


def parse_dataset(text: str) -> NamedDataset:
    """Reads the name of a data set; `TrainingError` where it is unknown or an option is malformed.

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
                found.options[key] = value if key == "category" else _value(value)  # parts have numbers for names
    except ValueError as error:
        raise TrainingError(
            f"The options of {text!r} must read key=value&key=value, got others ({error}). Correct them."
        ) from error
    if found.labels not in ("synthetic", "real"):
        raise TrainingError(
            f"`labels` of {text!r} must be synthetic or real, got {found.labels!r}. Choose one of them."
        )
    return found


def training_sources(arguments: DataArguments) -> list[Any]:
    """Opens everything that is trained on, as sources for [`TrainingExamples`]; `TrainingError` where it cannot be."""
    from ..data.sources import LabelledPictures, PlainConversations, SyntheticPairs

    if not (arguments.good or arguments.dataset or arguments.conversations):
        raise TrainingError("Nothing to train on. Give --good FOLDER, --dataset NAME=DIR or --conversations JSON.")
    pairs = {"mixture": _mixture(arguments.mixture), "short_side": arguments.short_side}
    sources: list[Any] = []
    for folder in arguments.good:
        category = arguments.category
        name = category if category != "object" else pathlib.Path(folder).resolve().name
        sources.append(SyntheticPairs(good_pictures(folder, category), name, "good", **pairs))
    for text in arguments.dataset:
        named = parse_dataset(text)
        if named.labels == "real":
            split = named.split or "test"
            rows = named.load(split)
            references = named.good_rows() if split != "train" and arguments.reference_share > 0 else None
            sources.append(LabelledPictures(rows, named.name, split, named.weight, references))
        else:
            split = named.split or "train"
            sources.append(SyntheticPairs(named.load(split), named.name, split, named.weight, **pairs))
    if arguments.conversations:
        path = pathlib.Path(arguments.conversations)
        if not path.is_file():
            raise TrainingError(
                f"`--conversations` must be a JSON file, got {str(path)!r}, which does not exist. Check the path."
            )
        named = NamedDataset("conversations", str(path.parent), options={"json_file": path.name})
        sources.append(PlainConversations(named.load("train"), weight=arguments.conversation_weight))
    return sources


def training_examples(arguments: DataArguments, processor: Any, config: Any, seed: int) -> Any:
    """The mix of [`training_sources`] as [`TrainingExamples`] for a model with this configuration."""
    from ..training.data import TrainingExamples

    return TrainingExamples(
        training_sources(arguments),
        processor,
        seed=seed,
        map_size=config.map_size,
        reference_share=arguments.reference_share,
        wording=_wording(arguments, config),
        max_length=arguments.max_length,
        length=arguments.samples_per_epoch,
    )


def _wording(arguments: DataArguments, config: Any) -> Any:
    """How conversations about pictures are worded."""
    from ..data.examples import Wording

    languages = dict.fromkeys(arguments.languages.split(","), 1.0)
    if arguments.description and arguments.dataset and arguments.category == "object":
        raise TrainingError("`--description` must come with --category, the one of the pictures that it describes.")
    descriptions = {arguments.category: arguments.description} if arguments.description else {}
    return Wording(languages, arguments.max_turns, arguments.varied, descriptions, config.answering == "grounded")


def evaluation_sets(arguments: DataArguments, processor: Any, config: Any, seed: int) -> Any:
    """The labelled pictures of `eval_dataset`, `None` without; the seed draws references and pictures."""
    from torch.utils.data import ConcatDataset

    from ..data.examples import EvaluationExamples

    sets = []
    for text in arguments.eval_dataset:
        named = parse_dataset(text)
        shots = arguments.eval_references
        shown = {"references": named.load("train", option="--eval_dataset"), "shots": shots} if shots > 0 else {}
        examples = EvaluationExamples(
            named.load(named.split or "test", option="--eval_dataset"),
            processor,
            name=named.name,
            seed=seed,
            map_size=config.map_size,
            num_examples=arguments.eval_samples,
            wording=_wording(arguments, config),
            **shown,
        )
        sets.append(examples)
    return ConcatDataset(sets) if sets else None


def good_pictures(folder: str, category: str) -> Any:
    """A folder of good photographs, with all below, as a data set: `image`, `label` (0), `category`, `image_id`."""
    import datasets

    from datasets_scripts.anomaly_builder import image_cells

    from ..images import find_pictures

    root = pathlib.Path(folder)
    if not root.is_dir():
        raise TrainingError(
            f"`--good` must be a folder of good photographs, got {folder!r}, which does not exist. Check the path."
        )
    files = find_pictures([str(root)])
    if not files:
        raise TrainingError(f"`--good` must hold good photographs, got none in {folder!r}. Put some there.")
    if files.remark:
        warnings.warn(files.remark, UserWarning, stacklevel=2)
    rows = {
        "image": image_cells(files),
        "label": [0] * len(files),
        "category": [category] * len(files),
        "image_id": [str(pathlib.Path(file).relative_to(root)) for file in files],
    }
    kinds = {"label": "int64", "category": "string", "image_id": "string"}
    features = {"image": datasets.Image(), **{name: datasets.Value(kind) for name, kind in kinds.items()}}
    return datasets.Dataset.from_dict(rows, datasets.Features(features))


def _mixture(name: str) -> Any:
    from ..synthesis.synthesizer import Mixture
    from .made_pictures import METHODS, PHOTOGRAPH_DEFAULT

    return METHODS["nsa"] if name == "nsa" else Mixture([METHODS[method] for method in PHOTOGRAPH_DEFAULT])


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return tuple(text.split(",")) if "," in text else text
