"""The MMAD benchmark: multiple-choice questions about industrial pictures (https://arxiv.org/abs/2410.09453).

`mmad.json` (https://github.com/jam-cc/MMAD) maps a picture's path to its `conversation`, a list of `Question`,
`Options` (letter to text), `Answer` (a letter) and `type`, and to `random_templates` and `similar_templates`, paths of
good pictures of the same kind. Eight types make seven subtasks. Each option is scored by its likelihood, so every
question has an answer and nothing is read out of free text.
"""

import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..dialogue import with_facts
from ..files import read_json_lines
from ..images import load_picture
from ..inspector import AnomalyInspector
from ..modeling_anomalygpt import AnomalyGPTImageFeatures
from ..prompts import default_question


@torch.inference_mode()
def answer_likelihoods(
    model: torch.nn.Module,
    processor: Any,
    messages: Sequence[dict[str, str]],
    answers: Sequence[str],
    image_tokens: torch.Tensor,
) -> list[float]:
    """Mean log-probability of the tokens of each answer, its end included; not the sum, so that length does not count.

    Args:
        model ([`AnomalyGPTForConditionalGeneration`]): In evaluation mode.
        processor ([`AnomalyGPTProcessor`]): Its processor.
        messages (`list[dict[str, str]]`): `role` and `content` each; the last one is the question.
        answers (`list[str]`): At least one.
        image_tokens (`torch.Tensor` of shape `(1, num_vectors, text_width)`): What the language model sees of the
            picture.

    Returns:
        `list[float]`: Natural logarithms, at most 0.
    """
    encoded = [processor.encode_conversation([*messages, {"role": "assistant", "content": text}]) for text in answers]
    batch = processor.pad_conversations(encoded).to(model.device)
    features = AnomalyGPTImageFeatures(pooler_output=image_tokens.to(model.device).repeat(len(answers), 1, 1))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = model(**inputs, mm_encoder_outputs={"image": features}).logits
    likelihoods = []
    for row, labels in zip(logits.float().log_softmax(-1)[:, :-1], batch["labels"][:, 1:], strict=True):
        places = torch.nonzero(labels != -100).flatten()
        breaks = torch.nonzero(places.diff() > 1).flatten()  # earlier answers in the same conversation
        last = places[int(breaks[-1]) + 1 :] if len(breaks) else places
        likelihoods.append(float(row[last].gather(1, labels[last, None]).mean()))
    return likelihoods


DETECTION = "Anomaly Detection"
SUBTASKS = (
    DETECTION, "Defect Classification", "Defect Localization", "Defect Description", "Defect Analysis",
    "Object Classification", "Object Analysis",
)  # fmt: skip
"""The seven subtasks, in the order of the paper."""

SCORES = ("text", "letter")
"""How options are weighed: by their own words, or by their letter after the list of all of them."""

TEMPLATES = ("random", "similar")
"""Which good pictures are references: any, or those most like the query."""

SOURCES = {"DS-MVTec": "mvtec_ad", "MVTec-AD": "mvtec_ad", "VisA": "visa", "MVTec-LOCO": "mvtec_loco"}
"""Data sets from which the pictures come, by the first part of the path; `GoodsAD` has no builder here."""

_MERGED = {"Object Structure": "Object Analysis", "Object Details": "Object Analysis"}


class MMADError(ValueError):
    """Questions or pictures that cannot be read; the message is one line that says which and what to do."""


@dataclass(frozen=True)
class Question:
    """One multiple-choice question.

    Args:
        image (`str`): Path of the picture inside the benchmark's folder.
        number (`int`): Of the question about this picture, from 0.
        subtask (`str`): One of `SUBTASKS`.
        text (`str`): What is asked.
        options (`dict[str, str]`): Letter to text.
        answer (`str`): The right letter.
    """

    image: str
    number: int
    subtask: str
    text: str
    options: Mapping[str, str]
    answer: str

    @property
    def dataset(self) -> str:
        """Data set of the picture: the first part of its path."""
        return self.image.split("/")[0]

    @property
    def is_normal(self) -> bool:
        """Whether the picture shows a good object: such paths hold the word."""
        return "good" in self.image


def read_questions(
    path: str | os.PathLike, templates: str = "random", limit: int | None = None
) -> dict[str, tuple[list[Question], list[str]]]:
    """Reads `mmad.json`.

    Args:
        path (`str` or `os.PathLike`): The file.
        templates (`str`, defaults to `"random"`): One of `TEMPLATES`.
        limit (`int`, *optional*): Pictures, spread evenly over the file.

    Returns:
        `dict`: Picture to its questions and the paths of its templates.

    Raises:
        MMADError: If the file is missing, or an entry lacks something.
    """
    if templates not in TEMPLATES:
        raise ValueError(
            f"`--templates` must be one of {', '.join(TEMPLATES)}, got {templates!r}. Choose one of them."
        )
    try:
        entries = json.loads(pathlib.Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise MMADError(
            f"There is no {os.fspath(path)!r}. Get mmad.json and the pictures from "
            "https://huggingface.co/datasets/jiang-cc/MMAD, or say where it is with --json."
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise MMADError(f"{os.fspath(path)!r} must be JSON, got something else: {error}. Get it again.") from error
    if not isinstance(entries, dict) or not entries:
        raise MMADError(
            f"{os.fspath(path)!r} must map pictures to conversations, got {type(entries).__name__}. Get it again."
        )
    images = list(entries)
    if limit is not None and limit < len(images):
        images = [images[number * len(images) // limit] for number in range(limit)]
    questions = {}
    for image in images:
        entry = entries[image]
        try:
            asked = [_question(image, number, row) for number, row in enumerate(entry["conversation"])]
            questions[image] = asked, [str(path) for path in entry.get(f"{templates}_templates") or []]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise MMADError(
                f"The entry {image!r} of {os.fspath(path)!r} must have a conversation of Question, Options, Answer "
                f"and type: {type(error).__name__} {error}. Get the file again."
            ) from error
    return questions


def _question(image: str, number: int, row: Mapping[str, Any]) -> Question:
    subtask = _MERGED.get(row["type"], row["type"])
    if subtask not in SUBTASKS:
        raise ValueError(f"type {row['type']!r} is unknown")
    options = {str(letter): str(text) for letter, text in row["Options"].items()}
    if row["Answer"] not in options:
        raise ValueError(f"answer {row['Answer']!r} is none of the options")
    return Question(image, number, subtask, str(row["Question"]), options, str(row["Answer"]))


class MMADAnswerer:
    """Answers the questions about pictures with one inspector.

    Args:
        inspector ([`AnomalyInspector`]): Its references are replaced.
        folder (`str` or `os.PathLike`): The benchmark's folder.
        k_shot (`int`, defaults to 1): Templates taken as references; 0 for none.
        score (`str`, defaults to `"text"`): One of `SCORES`.

    Raises:
        ValueError: If `score` is unknown or `k_shot` negative.
    """

    def __init__(self, inspector: AnomalyInspector, folder: str | os.PathLike, k_shot: int = 1, score: str = "text"):
        if score not in SCORES:
            raise ValueError(f"`--score` must be one of {', '.join(SCORES)}, got {score!r}. Choose one of them.")
        if k_shot < 0:
            raise ValueError(f"`--k-shot` must be at least 0, got {k_shot}. 0 is without references.")
        self.inspector, self.folder = inspector, pathlib.Path(folder)
        self.k_shot, self.score = k_shot, score
        self._references: list[str] | None = None

    def answer(self, questions: Sequence[Question], templates: Sequence[str]) -> list[dict[str, Any]]:
        """Answers all questions about one picture, each for itself.

        Returns:
            `list[dict]`: For each question its fields, the letter `given` and the `likelihoods` of the options.

        Raises:
            MMADError: If there are too few templates.
            PictureError: If a picture cannot be read.
        """
        if not questions:
            return []
        image, templates = questions[0].image, list(templates[: self.k_shot])
        if len(templates) < self.k_shot:
            raise MMADError(f"{image!r} must have {self.k_shot} templates, got {len(templates)}. Lower --k-shot.")
        if templates != self._references:
            if templates:
                self.inspector.set_references([self.folder / one for one in templates])
            else:
                self.inspector.references = None
            self._references = templates
        # The object is not named: a later question asks for it.
        if self.inspector.grounded:
            seen = self.inspector.inspect(self.folder / image, answer=False)
            if seen.verdict == "unknown":
                raise MMADError("`--k-shot` must be at least 1 for a model that compares with good pictures, got 0.")
        else:
            encoder, references = self.inspector.encoder, self.inspector.references
            (seen,) = encoder.encode([load_picture(self.folder / image)], references, "object", "auto")
        return [asdict(question) | self._one(question, seen) for question in questions]

    def _one(self, question: Question, seen: Any) -> dict[str, Any]:
        letters, options = list(question.options), list(question.options.values())
        text, answers = question.text, options
        if self.score == "letter":
            text += "".join(f"\n{letter}. {words}" for letter, words in question.options.items())
            text, answers = text + "\nAnswer with the option's letter.", letters
        if question.subtask == DETECTION and self.score == "text":
            if self.inspector.grounded:  # the language model is asked after the decision and has no part in it
                log_odds = seen.evidence.get("decision_score", 1.0 if seen.verdict == "anomalous" else -1.0)
            else:
                # The question that the model was trained for; its Yes and No are weighed at the first word.
                messages = [{"role": "user", "content": default_question("en")}]
                _, (log_odds,) = self.inspector.dialogue.answer([messages], seen.image_tokens, "en", 1)
            signs = [1 if words.strip().lower().startswith("yes") else -1 for words in options]
            likelihoods = [sign * log_odds / 2 for sign in signs]
        else:
            messages = [{"role": "user", "content": text}]
            if self.inspector.grounded:
                messages = with_facts(messages, seen.facts, "en")
            model, processor = self.inspector.model, self.inspector.processor
            likelihoods = answer_likelihoods(model, processor, messages, answers, seen.image_tokens)
        best = max(range(len(letters)), key=likelihoods.__getitem__)
        return {"given": letters[best], "likelihoods": [round(value, 4) for value in likelihoods]}


def summarize_answers(answers: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Accuracy of the seven subtasks, a data set a row, as the benchmark counts.

    Detection counts as the mean of the accuracies on good and on defective pictures. `overkill` is the part of the
    good pictures called anomalous, `miss` that of the defective ones called good.

    Returns:
        `dict[str, dict]`: Data set to its accuracies, to `average` (their mean), `overkill`, `miss` and `questions`;
        the last row, `Average`, holds the means over the data sets. `None` where there are no such questions.
    """
    counts: dict[str, dict[tuple[str, bool], list[int]]] = {}
    for row in answers:
        question = Question(**{name: row[name] for name in Question.__dataclass_fields__})
        kind = question.subtask, question.is_normal if question.subtask == DETECTION else False
        counts.setdefault(question.dataset, {}).setdefault(kind, []).append(int(row["given"] == question.answer))
    table = {}
    for dataset, kinds in counts.items():
        good, bad = (_mean(kinds.get((DETECTION, normal), [])) for normal in (True, False))
        sides = [value for value in (good, bad) if value is not None]
        row = {DETECTION: sum(sides) / len(sides) if sides else None}
        row |= {subtask: _mean(kinds.get((subtask, False), [])) for subtask in SUBTASKS[1:]}
        row["average"] = _mean([row[subtask] for subtask in SUBTASKS if row[subtask] is not None])
        row["overkill"] = None if good is None else 1 - good
        row["miss"] = None if bad is None else 1 - bad
        row["questions"] = sum(len(values) for values in kinds.values())
        table[dataset] = row
    if table:
        names = (*SUBTASKS, "average", "overkill", "miss")
        table["Average"] = {
            name: _mean([row[name] for row in table.values() if row[name] is not None]) for name in names
        } | {"questions": sum(row["questions"] for row in table.values())}
    return table


def finished_answers(path: str | os.PathLike) -> dict[str, list[dict[str, Any]]]:
    """Whole lines of a file of answers, by picture; what was cut off or is of another kind is left out."""
    rows = read_json_lines(path) if os.path.exists(path) else []
    return {row["image"]: row["answers"] for row in rows if isinstance(row.get("image"), str) and "answers" in row}


def answered(
    answerer: MMADAnswerer,
    questions: Mapping[str, tuple[list[Question], list[str]]],
    finished: Mapping[str, list[dict[str, Any]]],
) -> Iterator[tuple[str, list[dict[str, Any]], bool]]:
    """Each picture, its answers, and whether they are new."""
    for image, (asked, templates) in questions.items():
        if image in finished:
            yield image, finished[image], False
        else:
            yield image, answerer.answer(asked, templates), True


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
