"""The model card: facts about a model in, the README.md of its page on the Hub out.

A pure function of facts; knows no weights and no network. Fields of the front matter:
https://huggingface.co/docs/hub/model-cards.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

TAGS = ("anomaly-detection", "industrial-inspection", "anomalygpt")
SCORES = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "aupro_0.3": "AUPRO .3",
    "image_f1_max": "image F1-max",
    "pixel_f1_max": "pixel F1-max",
    "balanced_accuracy": "balanced accuracy of the verdict",
}
"""Columns of rows of `anomalygpt evaluate` that go into the card, and their names."""
_HUB_ID = r"\w[\w.-]*/\w[\w.-]*"
_OF_PIXELS = ("pixel_auroc", "aupro_0.3", "pixel_f1_max")

_USE = """```python
from transformers import pipeline

pipe = pipeline("anomaly-detection", model="{id}", trust_remote_code=True)
result = pipe("query.png", references=["good_1.png", "good_2.png"], category="{category}")
print(result["verdict"], result["answer"], [region["position"] for region in result["regions"]])
result["anomaly_map"].save("map.png")
```

With the package, also from the command line: `anomalygpt inspect photos/ --references good/ --model {id}`."""
_USE_ADAPTER = """```python
from modeling_anomalygpt import AnomalyInspector

inspector = AnomalyInspector.from_pretrained("{id}")  # loads {base} and this adapter
inspector.set_references(["good_1.png", "good_2.png"], category="{category}")
result = inspector.inspect("query.png")
print(result.verdict, result.answer)
```"""
_PURPOSE = (
    "It compares a photograph of a part with a few good ones and says whether something is wrong, where, and answers "
    "questions about it in English and Chinese."
)
_LIMITS = (
    "It compares with good photographs of the same part, taken alike; without any it is much worse.",
    "It says nothing about what the picture does not show, and is no safety device.",
    "Kinds, places and counts of defects are told by a language model and can be wrong where the map is right.",
)


@dataclass
class ModelFacts:
    """What a card says.

    Args:
        repo_id (`str`): `"user/name"` on the Hub; its last part is the heading.
        base_models (`list[str]`): Hub ids of what it was made of.
        parts (`list[tuple[str, str]]`): Part and what it is, for the table.
        licences (`dict[str, str]`): Licence of each part, by the Hub's short names (`"apache-2.0"`). Several different
            ones make the whole `other`; none makes it `unknown`.
        adapter (`bool`, defaults to `False`): Whether only an adapter is in the repository; its model is the first of
            `base_models`.
        datasets (`list[str]`): What it was trained on.
        training (`dict[str, Any]`): Settings worth telling, name and value.
        limits (`list[str]`): Sentences beside those that hold for every model of this kind.
        category (`str`, defaults to `"object"`): What it is shown with in the section "Use".
    """

    repo_id: str
    base_models: list[str] = field(default_factory=list)
    parts: list[tuple[str, str]] = field(default_factory=list)
    licences: dict[str, str] = field(default_factory=dict)
    adapter: bool = False
    datasets: list[str] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    limits: list[str] = field(default_factory=list)
    category: str = "object"


def model_card(facts: ModelFacts) -> str:
    """The card: front matter and text. Sections of which nothing is known are left out.

    Example:
    ```python
    >>> card = model_card(ModelFacts("me/bolts", licences={"all": "apache-2.0"}))
    >>> "pipeline_tag: image-text-to-text" in card, "# bolts" in card
    (True, True)

    ```
    """
    if facts.adapter and not facts.base_models:
        raise ValueError("`base_models` must name the model of an adapter, got none.")
    title = facts.repo_id.rsplit("/", 1)[-1]
    kinds = sorted(set(facts.licences.values()))
    data = ModelCardData(
        license=kinds[0] if len(kinds) == 1 else "other" if kinds else "unknown",
        library_name="peft" if facts.adapter else "transformers",
        pipeline_tag="image-text-to-text",
        base_model=facts.base_models or None,
        language=["en", "zh"],
        tags=list(TAGS),
        datasets=[name for name in facts.datasets if name.count("/") == 1] or None,
    )
    purpose = f"An adapter for {facts.base_models[0]}. {_PURPOSE}" if facts.adapter else _PURPOSE
    lines = ["---", data.to_yaml(), "---", "", f"# {title}", "", purpose, ""]
    lines += ["## Use", "", _use(facts.repo_id, facts.base_models[0] if facts.adapter else None, facts.category), ""]
    lines += _table("## Parts", ("part", "what"), facts.parts)
    lines += _table("## Licences", ("part", "licence"), facts.licences.items())
    lines += _table("## Training", ("setting", "value"), facts.training.items())
    if facts.datasets:
        lines += [f"Trained on: {', '.join(facts.datasets)}.", ""]
    lines += ["## Limits", "", *(f"- {_cell(sentence)}" for sentence in (*_LIMITS, *facts.limits)), ""]
    lines += ["Method: AnomalyGPT, https://arxiv.org/abs/2308.15366.", ""]
    return "\n".join(lines)


def readdressed(card: str, repo_id: str, adapter_of: str | None = None, licence: str | None = None) -> str:
    """A card that was written before its model had a place on the Hub, with that place in its metadata and its use.

    Args:
        card (`str`): A README.md with front matter; without a section "Use" of [`model_card`] its text stays as it is.
        repo_id (`str`): Where it goes.
        adapter_of (`str`, *optional*): Hub id of the adapter's model; `None` for a whole model (also one that an
            adapter was merged into).
        licence (`str`, *optional*): Replaces the one that stands there.

    Returns:
        `str`: The card. Names of base models that are no Hub ids are left out of the front matter.
    """
    parsed = ModelCard(card, ignore_metadata_errors=True)
    pattern = r"(?<=\n## Use\n\n).*?(?=\n\n## )"
    written = re.search(pattern, parsed.text, flags=re.DOTALL)
    if written:
        category = re.search(r'category="([^"]*)"', parsed.text)
        use = _use(repo_id, adapter_of, category[1] if category else "object")
        parsed.text = re.sub(pattern, lambda _: use, parsed.text, count=1, flags=re.DOTALL)
    data = parsed.data
    named = [data.base_model] if isinstance(data.base_model, str) else data.base_model or []
    data.base_model = (
        [adapter_of] if adapter_of else [name for name in named if re.fullmatch(_HUB_ID, str(name))] or None
    )
    data.library_name = "peft" if adapter_of else "transformers"
    data.license = licence or data.license
    return str(parsed)


def evaluation_results(rows: Iterable[dict[str, Any]]) -> list[EvalResult]:
    """Benchmark rows as entries of a card's `model-index`, averaged over the seeds.

    Args:
        rows (`list[dict]`): Of `anomalygpt evaluate`: `category`, `k_shot` and columns of `SCORES`; text (from CSV)
            or numbers; empty cells are left out.

    Returns:
        `list[EvalResult]`: One for each data set, number of references and score.
    """
    return [
        EvalResult(
            task_type="image-segmentation" if column in _OF_PIXELS else "image-classification",
            task_name="anomaly detection",
            dataset_type=name,
            dataset_name=f"{name}, {shots} reference{'s' if str(shots) != '1' else ''}",
            dataset_config=f"{shots}-shot",
            dataset_split="test",
            metric_type=column,
            metric_name=SCORES[column],
            metric_value=round(value, 4),
        )
        for (name, shots), scores in _means(rows).items()
        for column, value in scores.items()
    ]


def with_results(card: str, rows: Sequence[dict[str, Any]], model_name: str) -> str:
    """A card with the benchmark rows (see [`evaluation_results`]) in its front matter; its text stays as it is."""
    parsed = ModelCard(card, ignore_metadata_errors=True)
    data = parsed.data.to_dict() | {"model_name": model_name, "eval_results": evaluation_results(rows)}
    data.pop("model-index", None)
    return f"---\n{ModelCardData(**data).to_yaml()}\n---\n{parsed.text}"


def _means(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str], dict[str, float]]:
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for column in SCORES:
            if row.get(column) not in (None, ""):
                found[str(row["category"]), str(row["k_shot"])][column].append(float(row[column]))
    return {
        key: {column: sum(values) / len(values) for column, values in scores.items()} for key, scores in found.items()
    }


def _use(repo_id: str, adapter_of: str | None, category: str) -> str:
    category = re.sub(r'["\\\s]+', " ", category)  # it stands between quotes in code
    return (_USE_ADAPTER if adapter_of else _USE).format(id=repo_id, base=adapter_of, category=category)


def _table(heading: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    body = [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]
    if not body:
        return []
    return [heading, "", f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns), *body, ""]


def _cell(value: Any) -> str:
    """Text that cannot leave its cell or become markup."""
    text = " ".join(str(value).split())
    return text.replace("|", "\\|").replace("<", "&lt;")
