"""A labelled split for evaluation during training: fixed questions, fixed answers, fixed references."""

from typing import Any

import numpy as np
import torch

from .example_encoding import ExampleEncoder
from .processing_anomalygpt import AnomalyGPTProcessor
from .source_rows import NormalPictures, SourceRows
from .training_facts import facts_of, fixed_messages
from .training_sources import labelled_example


def evaluation_examples(
    dataset: Any,
    processor: AnomalyGPTProcessor,
    *,
    name: str = "evaluation",
    references: Any = None,
    shots: int = 1,
    seed: int = 0,
    map_size: int | None = None,
    language: str = "en",
    num_examples: int | None = None,
) -> "EvaluationExamples":
    """Samples of a labelled split, the same at every evaluation.

    The question is that of the paper, after the description of a good object; the answer follows from the mask. With
    `labels` on the answer one forward pass gives the loss, the token accuracy and the log-odds of Yes and No: with
    `prefix, yes, no = processor.yes_no_token_ids(language)` and `first`, the first position whose label is not -100,
    the logits at `first - 1 + len(prefix)` decide.

    Args:
        dataset (`datasets.Dataset`):
            Rows with `image` and `label`, and if known `mask`, `category`, `defect_type`, `image_id`.
        processor (`AnomalyGPTProcessor`):
            Of the model.
        name (`str`, *optional*, defaults to `"evaluation"`):
            What messages call the data set.
        references (`datasets.Dataset`, *optional*):
            Good photographs, usually the train split. `None`: text-guided maps.
        shots (`int`, *optional*, defaults to 1):
            References of each category, drawn once.
        seed (`int`, *optional*, defaults to 0):
            Draws the references and, with `num_examples`, the rows.
        map_size (`int`, *optional*):
            `config.map_size` of the model.
        language (`str`, *optional*, defaults to `"en"`):
            Of question and answer, `"en"` or `"zh"`.
        num_examples (`int`, *optional*):
            Takes so many rows, half of them anomalous where there are enough, instead of all.

    Returns:
        [`EvaluationExamples`]

    Raises:
        ValueError: If a column is missing, `shots` or `num_examples` is below 1, or there are too few normal pictures.
    """
    if shots < 1:
        raise ValueError(f"`shots` must be at least 1, got {shots}. Leave `references` out for text-guided maps.")
    if num_examples is not None and num_examples < 1:
        raise ValueError(f"`num_examples` must be at least 1, got {num_examples}. Leave it out to take all.")
    rows = SourceRows(dataset, name, ("image", "label"))
    chosen = chosen_rows(rows.labels, num_examples, seed)
    encode = ExampleEncoder(processor, map_size)
    drawn = {}
    if references is not None:
        categories = sorted({rows.categories[index] for index in chosen})
        normals = NormalPictures(SourceRows(references, f"references of {name}"), categories, warn=False)
        rng = np.random.default_rng(seed)
        drawn = {one: encode.references(normals.some(one, shots, rng)) for one in categories}
    return EvaluationExamples(rows, chosen, encode, drawn, language)


class EvaluationExamples(torch.utils.data.Dataset):
    """Made by `evaluation_examples`, which describes its samples.

    Items are as those of `TrainingExamples`, with `image_label` (0 normal, 1 anomalous) beside them.
    """

    def __init__(
        self,
        rows: SourceRows,
        chosen: list[int],
        encode: ExampleEncoder,
        references: dict[str, np.ndarray],
        language: str,
    ):
        self.rows, self.chosen, self.language = rows, chosen, language
        self._encode, self._references = encode, references

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.chosen[index]
        example = labelled_example(self.rows[row], self.rows.image_ids[row], self.rows.name)
        example = self._encode.without_unseen(example)
        sample = self._encode(example, fixed_messages(facts_of(example), self.language))
        reference = self._references.get(self.rows.categories[row])
        return sample | {
            "image_label": int(bool(example.anomalous)),
            "reference_pixel_values": reference,
            "use_reference": reference is not None,
        }


def chosen_rows(labels: list[int], count: int | None, seed: int) -> list[int]:
    """Rows to evaluate, in their order: half of them anomalous where there are enough.

    Args:
        labels (`list[int]`): 0 normal, 1 anomalous.
        count (`int`, *optional*): How many rows; `None` takes all.
        seed (`int`): Draws them.

    Returns:
        `list[int]`: Their numbers.
    """
    if count is None or count >= len(labels):
        return list(range(len(labels)))
    order = np.random.default_rng([seed, 1]).permutation(len(labels)).tolist()
    groups = [[index for index in order if labels[index] == label] for label in (1, 0)]
    first = min(len(groups[0]), max(count // 2, count - len(groups[1])))
    return sorted(groups[0][:first] + groups[1][: count - first])


__all__ = ["EvaluationExamples", "chosen_rows", "evaluation_examples"]
