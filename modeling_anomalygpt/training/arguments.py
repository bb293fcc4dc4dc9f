"""Settings of a training run, and where they come from: defaults, a recipe file, the command line, in this order.

A recipe is a flat YAML or JSON file with the names of the command line; it may also be one of those in the package.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from ..errors import did_you_mean
from .checkpoints import TrainingError


def option(default: Any, text: str) -> Any:
    """A field with its line of help."""
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """Which model is trained, and in what numbers its frozen part is kept; each field's help says what it is."""

    model: str | None = option(None, "checkpoint folder or Hub id (default: the embedded one)")
    dtype: str = option("float32", "of the frozen weights: float32 or bfloat16")
    load_in_4bit: bool = option(False, "keep the frozen language model in 4 bits (needs bitsandbytes)")
    loss_weight_lm: float | None = option(None, "weight of the answers' loss (default: the model's)")
    loss_weight_focal: float | None = option(None, "weight of the maps' focal loss (default: the model's)")
    loss_weight_dice: float | None = option(None, "weight of the maps' dice loss (default: the model's)")

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"`dtype` must be float32 or bfloat16, got {self.dtype!r}.")
        for name in ("loss_weight_lm", "loss_weight_focal", "loss_weight_dice"):
            weight = getattr(self, name)
            if weight is not None and not 0 <= weight < float("inf"):
                raise ValueError(
                    f"`{name}` must be a finite number of at least 0, got {weight}. Leave it out for the model's."
                )


@dataclass
class DataArguments:
    """What is trained on.

    Data sets are written `NAME=DIR`, with options after a question mark:
    `mvtec_ad=/data/mvtec?category=bottle&weight=2`, `rendered_parts?families=screw,gear&num_train=16`. Each gets
    synthetic defects on its normal training pictures, or, with `labels=real`, its labels and masks (split `test`
    unless `split=` says otherwise). Each field's help says what it is.
    """

    good: list[str] = option([], "folders of good photographs; defects are synthesised on them")
    dataset: list[str] = option([], "data set NAME=DIR[?option=value&...], repeatable")
    conversations: str | None = option(
        None, "JSON file of plain conversations (PandaGPT's layout), pictures in images/"
    )
    conversation_weight: float = option(1.0, "share of plain conversations, relative to a data set")
    eval_dataset: list[str] = option([], "labelled data set NAME=DIR to measure on during training")
    eval_references: int = option(1, "good photographs for the map of each picture measured; 0: none")
    eval_samples: int | None = option(None, "measure on at most so many pictures, half of them anomalous")
    category: str = option("object", "what the photographs of --good show, in any words")
    description: str | None = option(None, "a sentence that says how a good one looks")
    mixture: str = option("mixed", "synthetic defects: nsa (published) or mixed")
    reference_share: float = option(0.5, "share of samples with a map from another good photograph")
    languages: str = option("en", "of the conversations: en, zh or en,zh")
    max_turns: int = option(3, "most questions about a picture")
    varied: bool = option(True, "whether questions and words vary; else the published question and answers")
    max_length: int = option(1024, "tokens after which a conversation is cut")
    short_side: int = option(224, "side in pixels to which pictures are shrunk before defects are made")
    samples_per_epoch: int | None = option(None, "samples of an epoch (default: every picture twice)")

    def __post_init__(self) -> None:
        if self.mixture not in ("nsa", "mixed"):
            raise ValueError(f"`mixture` must be nsa or mixed, got {self.mixture!r}.")
        if isinstance(self.languages, list):  # a recipe's [en, zh]
            self.languages = ",".join(map(str, self.languages))


@dataclass
class AnomalyTrainingArguments(TrainingArguments):
    """`TrainingArguments` of transformers with other defaults and a few more options; every one can be given."""

    output_dir: str | None = option("anomalygpt-trained", "folder of checkpoints and result")
    resume: bool = option(False, "go on from the last whole checkpoint in --output_dir, if there is one")
    learning_rate: float = option(1e-3, "highest learning rate")
    lr_scheduler_type: str = option("cosine", "course of the learning rate")
    warmup_steps: float = option(0.05, "steps of rising learning rate; below 1: share of all steps")
    per_device_train_batch_size: int = option(8, "samples of a step on each device")
    per_device_eval_batch_size: int = option(8, "samples measured at once on each device")
    logging_steps: float = option(10, "steps between two lines of losses")
    save_steps: float = option(100, "steps between two checkpoints")
    save_total_limit: int | None = option(2, "checkpoints that are kept")
    train_sampling_strategy: str = option("sequential", "the data are mixed already, pairs stand together")


def read_recipe(name: str) -> dict[str, Any]:
    """Reads a YAML or JSON file, or one of the package's recipes by its name.

    Raises:
        TrainingError: If there is no such recipe, **or** it cannot be read, **or** it is no list of settings.
    """
    path, packaged = pathlib.Path(name), sorted(pathlib.Path(__file__).with_name("recipes").glob("*.yaml"))
    shown = str(path)
    if not path.is_file():
        path = next((one for one in packaged if one.stem == name), None)
        if path is None:
            names = [one.stem for one in packaged]
            raise TrainingError(
                f"`recipe` must be a file or one of {', '.join(names)}, got {name!r}.{did_you_mean(name, names)}"
            )
        shown = path.name
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        if shown.endswith(".json"):
            settings = json.loads(text)
        else:
            import yaml

            settings = yaml.safe_load(text)
    except ImportError as error:
        raise TrainingError(
            f"A recipe in YAML needs the package pyyaml. Install it, or write {shown} as JSON."
        ) from error
    except Exception as error:  # PyYAML raises errors of its own, ValueError for dates, RecursionError and others
        kind, where = "JSON" if shown.endswith(".json") else "YAML", " ".join(str(error).split())
        raise TrainingError(f"The recipe {shown} is not readable {kind}: {where}. Correct it.") from error
    if not isinstance(settings, dict):
        raise TrainingError(f"The recipe {shown} must hold `name: value` lines, got {type(settings).__name__}.")
    return settings


def check_recipe(settings: Mapping[str, Any], classes: Iterable[type]) -> None:
    """Refuses a recipe with a field that none of the dataclasses has; names the closest one."""
    known = {one.name for cls in classes for one in dataclasses.fields(cls) if one.init}
    for name in settings:
        if name not in known:
            raise TrainingError(
                f"The recipe's fields must be among those of `anomalygpt train --help`, got {name!r}."
                f"{did_you_mean(str(name), sorted(known))}"
            )
