"""From an example to arrays: its words, its geometry, its pixel target; and a labelled split to measure on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..conversations.facts import Facts
from ..conversations.grounded import Question, draw_question, load_questions, marked_answer
from ..conversations.instructions import conversation, fixed_turn
from ..dialogue import with_facts
from ..image_processing_anomalygpt import place
from ..images import MASK_THRESHOLD
from ..processing_anomalygpt import AnomalyGPTProcessor
from ..prompts import check_language, default_question, opening_question
from ..regions import regions_of_mask
from ..wording import MeasuredFacts
from .sources import Example, SourceRows, labelled_example


@dataclass(frozen=True)
class Wording:
    """How conversations about training pictures are worded.

    Attributes:
        languages (`Mapping[str, float]`, *optional*, defaults to `{"en": 1.0}`): Shares of `"en"` and `"zh"`.
        max_turns (`int`, *optional*, defaults to 3): At most so many questions; 1 as published.
        varied (`bool`, *optional*, defaults to `True`): Whether topics and wording vary. If not, every conversation is
            the description of a good object, the question whether there is an anomaly, and the answer with the places
            (the published unsupervised training).
        descriptions (`Mapping[str, str]`, *optional*): A sentence for each category that says how a good object looks.
            Those of MVTec AD and VisA are known.
        grounded (`bool`, *optional*, defaults to `False`): For models with `answering="grounded"`: each picture has
            one question, told what the mask shows as if it had been measured.
    """

    languages: Mapping[str, float] = field(default_factory=lambda: {"en": 1.0})
    max_turns: int = 3
    varied: bool = True
    descriptions: Mapping[str, str] = field(default_factory=dict)
    grounded: bool = False

    def __post_init__(self) -> None:
        for language, share in self.languages.items():
            check_language(language)
            if not 0 <= share < float("inf"):
                raise ValueError(f"`languages` must have shares of at least 0, got {share} for {language!r}.")
        if not sum(self.languages.values()) > 0:
            raise ValueError(f"`languages` must have a positive share, got {dict(self.languages)}. Try {{'en': 1}}.")
        if self.max_turns < 1:
            raise ValueError(f"`max_turns` must be at least 1, got {self.max_turns}. The published training has 1.")

    def messages(self, example: Example, rng: np.random.Generator) -> list[dict[str, str]]:
        """Questions and answers in turn: the conversation an example has, else one in words that `rng` draws."""
        if example.messages is not None:
            return example.messages
        facts = facts_of(example, self.descriptions.get(example.category))
        shares = np.array(list(self.languages.values()), dtype=float)
        language = list(self.languages)[int(rng.choice(len(shares), p=shares / shares.sum()))]
        if self.grounded:
            return grounded_messages(facts, language, rng if self.varied else None, len(example.references))
        if self.varied:
            return conversation(facts, rng, language, self.max_turns)
        return fixed_messages(facts, language)


def fixed_messages(facts: Facts, language: str = "en") -> list[dict[str, str]]:
    """The question of the paper, after the description of a good object, and its answer; `"en"` or `"zh"`."""
    question, answer = fixed_turn(facts, "presence", language)
    description = facts.description if isinstance(facts.description, str) else None
    content = opening_question(facts.category, language, description, question)
    return [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]


def grounded_messages(
    facts: Facts, language: str, rng: np.random.Generator | None = None, num_references: int = 1
) -> list[dict[str, str]]:
    """One question after what the mask shows, and its answer with fields, as a grounded model is asked.

    Args:
        facts ([`Facts`]): Of the picture. Where there is no mask of an anomaly, the whole picture counts as one.
        language (`str`): `"en"` or `"zh"`.
        rng (`np.random.Generator`, *optional*): Draws topic, wording and strength; `None`: the usual question.
        num_references (`int`, *optional*, defaults to 1): Good pictures; at least one is spoken of.
    """
    drawn = rng if rng is not None else np.random.default_rng(0)
    regions = tuple(facts.regions)
    if facts.anomalous and not regions:
        regions = tuple(regions_of_mask(np.ones(facts.image_size, dtype=bool)))
    measured = MeasuredFacts(
        "anomalous" if facts.anomalous else "normal",
        regions,
        facts.image_size,
        float(1.1 + drawn.gamma(1.2, 0.8) if facts.anomalous else drawn.uniform(0.2, 0.95)),
        num_references=max(1, num_references),
        category=facts.category,
        description=facts.description if isinstance(facts.description, str) else None,
    )
    question = Question(default_question(language), "presence")
    if rng is not None and rng.random() < 0.8:
        topics = list(load_questions(language))
        question = draw_question(rng, topics[int(rng.integers(len(topics)))], measured, language)
    asked = with_facts(question.messages, measured, language)
    return [*asked, {"role": "assistant", "content": marked_answer(question, measured, language)}]


def facts_of(example: Example, description: str | None = None) -> Facts:
    """Facts of an example with a label; what is said follows from its mask, in pixels of the picture."""
    has_mask = example.mask is not None and bool(example.mask.any())
    return Facts(
        example.category,
        (example.picture.height, example.picture.width),
        regions_of_mask(example.mask) if has_mask else (),
        example.defect_types,
        description=description,
        anomalous=None if has_mask else example.anomalous,
    )


def seen_part(mask: np.ndarray, canvas_size: tuple[int, int], geometry: str) -> np.ndarray:
    """A mask without what the model does not see of the picture.

    Args:
        mask (`np.ndarray` of shape `(height, width)`): `bool`.
        canvas_size (`tuple[int, int]`): `(height, width)` of the model's input.
        geometry (`str`): `"square"`, `"center_crop"` or `"letterbox"`; only the second cuts.

    Returns:
        `np.ndarray` of shape `(height, width)`: `bool`.
    """
    at = place(mask.shape, canvas_size, geometry)
    if at.top >= 0 and at.left >= 0:
        return mask
    sides = zip((at.top, at.left), (at.height, at.width), canvas_size, mask.shape, strict=True)
    rows, columns = (
        slice(round(max(-corner, 0) / resized * side), round(min(resized, canvas - corner) / resized * side))
        for corner, resized, canvas, side in sides
    )
    seen = np.zeros_like(mask)
    seen[rows, columns] = mask[rows, columns]
    return seen


class ExampleEncoder:
    """Turns an example and a conversation about it into arrays.

    Args:
        processor (`AnomalyGPTProcessor`): Its image processor gives picture, mask and references the same geometry.
        map_size (`int`, *optional*): Side of the pixel target, in pixels: `config.map_size` of the model. Defaults to
            the pictures' height.
        max_length (`int`, *optional*, defaults to 1024): Conversations are cut after so many tokens, as published.

    Raises:
        ValueError: If `map_size` or `max_length` is not positive.
    """

    def __init__(self, processor: AnomalyGPTProcessor, map_size: int | None = None, max_length: int = 1024):
        size = processor.image_processor.size
        self.processor = processor
        self.canvas_size = (size["height"], size["width"])
        self.map_size = size["height"] if map_size is None else map_size
        self.max_length = max_length
        for name in ("map_size", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}. Use the model's.")

    def __call__(self, example: Example, words: Callable[[Example], list[dict[str, str]]]) -> dict[str, Any]:
        """Encodes one sample. A defect that the geometry cuts away is not spoken of: the picture is good then.

        Args:
            example (`Example`): The picture and what is known of it; changed where its defect is cut away.
            words (`Callable`): Gives questions and answers in turn for an example.

        Returns:
            `dict`: `input_ids`, `labels` (lists of `T`), `pixel_values` `(3, H, W)`, `mask_labels` `(M, M)` int64 or
            `None`, its side `map_size`, `reference_pixel_values` `(K, 3, H, W)` or `None`, `use_reference` (`bool`),
            `image_id`, and with a class tokenizer `state_prompt_ids` `(P, L)`, `state_prompt_labels` `(P,)`.
        """
        if example.mask is not None and example.mask.any():
            example.mask = seen_part(example.mask, self.canvas_size, self.processor.image_processor.geometry)
            if not example.mask.any():
                example.anomalous, example.defect_types = False, ()
        sample = dict(self.processor.encode_conversation(words(example), max_length=self.max_length))
        encoded = self.processor(images=example.picture, category=example.category, masks=[example.mask])
        sample["pixel_values"] = np.asarray(encoded["pixel_values"][0], dtype=np.float32)
        sample["mask_labels"] = self._target(example, encoded["mask_labels"][0])
        for name in ("state_prompt_ids", "state_prompt_labels"):
            if name in encoded:
                sample[name] = encoded[name][0]
        sample["use_reference"] = bool(example.references)
        sample["reference_pixel_values"] = self.references(example.references, example.quarter_turns)
        sample["map_size"] = self.map_size
        sample["image_id"] = example.image_id
        return sample

    def references(self, pictures: list[Image.Image], quarter_turns: int = 0) -> np.ndarray | None:
        """Good photographs `(K, 3, H, W)`, rotated on the canvas by right angles as the original does.

        By 180 degrees only where the canvas is not square. `None` without pictures.
        """
        if not pictures:
            return None
        values = np.stack(self.processor.image_processor(pictures)["pixel_values"]).astype(np.float32)
        if self.canvas_size[0] != self.canvas_size[1]:
            quarter_turns = 2 * min(quarter_turns, 1)
        return np.ascontiguousarray(np.rot90(values, quarter_turns, axes=(2, 3)))

    def _target(self, example: Example, on_canvas: np.ndarray) -> np.ndarray | None:
        """The pixel target: where the defects cover more of a pixel than the published threshold."""
        if example.mask is None or (example.anomalous and not on_canvas.any()):
            return None  # a picture that is called anomalous must not be trained with an empty target
        size = (self.map_size, self.map_size)
        if on_canvas.shape == size:
            return on_canvas
        covered = np.asarray(Image.fromarray(on_canvas.astype(np.float32)).resize(size, Image.Resampling.BOX))
        target = covered > MASK_THRESHOLD
        if on_canvas.any() and not target.any():
            target = covered >= covered.max()  # a defect smaller than a pixel of the map
        return target.astype(np.int64)


class EvaluationExamples(torch.utils.data.Dataset):
    """Samples of a labelled split, the same at every evaluation.

    The question is that of the paper, after the description of a good object; the answer follows from the mask. With
    `labels` on the answer one forward pass gives the loss, the token accuracy and the log-odds of Yes and No: with
    `prefix, yes, no = processor.yes_no_token_ids(language)` and `first`, the first position whose label is not -100,
    the logits at `first - 1 + len(prefix)` decide. Items are as those of `TrainingExamples`, with `image_label`
    (0 normal, 1 anomalous) beside them.

    Args:
        dataset (`datasets.Dataset`): Rows with `image` and `label`, and if known `mask`, `category`, `defect_type`,
            `image_id`. Rows without a label are left out, with a warning.
        processor (`AnomalyGPTProcessor`): Of the model.
        name (`str`, *optional*, defaults to `"evaluation"`): What messages call the data set.
        references (`datasets.Dataset`, *optional*): Good photographs, usually the train split. `None`: text-guided
            maps.
        shots (`int`, *optional*, defaults to 1): References of each category, drawn once.
        seed (`int`, *optional*, defaults to 0): Draws the references and, with `num_examples`, the rows.
        map_size (`int`, *optional*): `config.map_size` of the model.
        wording ([`Wording`], *optional*): Its first language, descriptions and `grounded` count.
        num_examples (`int`, *optional*): Takes so many rows, half of them anomalous where there are enough, instead of
            all.

    Raises:
        ValueError: If a column is missing, no row has a label, `shots` or `num_examples` is below 1, or there are too
            few normal pictures.
    """

    def __init__(
        self,
        dataset: Any,
        processor: AnomalyGPTProcessor,
        *,
        name: str = "evaluation",
        references: Any = None,
        shots: int = 1,
        seed: int = 0,
        map_size: int | None = None,
        wording: Wording | None = None,
        num_examples: int | None = None,
    ):
        if shots < 1:
            raise ValueError(f"`shots` must be at least 1, got {shots}. Leave `references` out for text-guided maps.")
        if num_examples is not None and num_examples < 1:
            raise ValueError(f"`num_examples` must be at least 1, got {num_examples}. Leave it out to take all.")
        self.rows, wording = SourceRows(dataset, name, ("image", "label")).labelled(), wording or Wording()
        self.wording = replace(wording, languages={next(iter(wording.languages)): 1.0}, varied=False)
        self.chosen = chosen_rows(self.rows.labels, num_examples, seed)
        self._encode = ExampleEncoder(processor, map_size)
        self._references: dict[str, np.ndarray] = {}
        if references is not None:
            good, rng = SourceRows(references, f"references of {name}"), np.random.default_rng(seed)
            categories = sorted({self.rows.categories[index] for index in self.chosen})
            good.check_references(categories, warn=False)
            for category in categories:
                self._references[category] = self._encode.references(_some(good, category, shots, rng))

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.chosen[index]
        example = labelled_example(self.rows[row], self.rows.image_ids[row], self.rows.name)
        sample = self._encode(example, lambda example: self.wording.messages(example, np.random.default_rng(0)))
        reference = self._references.get(self.rows.categories[row])
        return sample | {
            "image_label": int(bool(example.anomalous)),
            "reference_pixel_values": reference,
            "use_reference": reference is not None,
        }


def _some(rows: SourceRows, category: str, count: int, rng: np.random.Generator) -> list[Image.Image]:
    """Several different good photographs of a category."""
    numbers = rows.normals.rows[category]
    if count > len(numbers):
        raise ValueError(
            f"`shots` must be at most {len(numbers)}, the normal pictures of {category!r} in {rows.name!r}, got "
            f"{count}. Lower it or add photographs."
        )
    return [rows.picture(numbers[index]) for index in rng.permutation(len(numbers))[:count]]


def chosen_rows(labels: list[int], count: int | None, seed: int) -> list[int]:
    """Numbers of `count` rows to evaluate (`None`: all), in order: half of them anomalous where there are enough."""
    if count is None or count >= len(labels):
        return list(range(len(labels)))
    order = np.random.default_rng([seed, 1]).permutation(len(labels)).tolist()
    groups = [[index for index in order if labels[index] == label] for label in (1, 0)]
    first = min(len(groups[0]), max(count // 2, count - len(groups[1])))
    return sorted(groups[0][:first] + groups[1][: count - first])
