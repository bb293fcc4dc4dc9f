"""Does a converted folder work? Three questions in order, each relying on one more of the published files.

Knows what the answers of a working model look like; knows nothing of the published files' layouts.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from transformers import AutoModelForImageTextToText

from .modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from .processing_anomalygpt import AnomalyGPTProcessor
from .registration import register

_FACT = ("What is the capital of France?", "The capital of France is Paris.")
_SCENE = ("What is shown in the image?", "The image shows a red circle on a white background.")
_ANOMALY = "Is there any anomaly in the image?"
_MAX_NEW_TOKENS = 40


@dataclass(frozen=True)
class Stage:
    """One stage of the self-test: what was asked and answered, whether it passed, what a failure means."""

    name: str
    passed: bool
    answer: str
    measured: str
    failure_means: str

    def __str__(self) -> str:
        verdict = "passed" if self.passed else f"FAILED: {self.failure_means}"
        return f"{self.name}: {verdict}\n  measured: {self.measured}\n  answer: {self.answer!r}"


def verify(folder: str | Path, device: str | None = None) -> list[Stage]:
    r"""
    Load a converted folder and test it in three stages.

    A right sentence must be likelier than guessing: its mean surprise must be below half of that of a uniform guess
    over the vocabulary (a working 7B model is far below, gibberish is above). Read the answers as well: no number
    replaces that.

    Args:
        folder (`str` or `Path`):
            Output of [`convert`], or its `lora` folder.
        device (`str`, *optional*):
            Such as `"cuda"`; the GPU when there is one, by default.

    Returns:
        `list[Stage]`: Language model; picture; anomaly. A stage fails when its answer is not that of a working model.
    """
    register()
    folder = Path(folder)
    is_adapter = (folder / "adapter_config.json").is_file()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    loader = AutoModelForImageTextToText if is_adapter else AnomalyGPTForConditionalGeneration
    model = loader.from_pretrained(folder, dtype="auto").to(device).eval()
    processor = AnomalyGPTProcessor.from_pretrained(folder.parent if is_adapter else folder)
    limit = math.log(model.config.text_config.vocab_size) / 2

    question, fact = _FACT
    surprise = _surprise(model, processor, None, question, fact)
    language = Stage(
        "1 language model",
        surprise < limit,
        _answer(model, processor, None, question),
        f"surprise {surprise:.2f} nats a token for {fact!r}, limit {limit:.2f}",
        "the language model itself answers badly: not Vicuna version 0, a delta that was not added to its base, "
        "or a LoRA of another model.",
    )
    picture = _red_circle()
    question, scene = _SCENE
    surprise = _surprise(model, processor, picture, question, scene)
    image = Stage(
        "2 picture",
        surprise < limit,
        _answer(model, processor, picture, question),
        f"surprise {surprise:.2f} nats a token for {scene!r}, limit {limit:.2f}",
        "the language model answers, but not about pictures: ImageBind or PandaGPT's projection do not belong to it.",
    )
    inputs = processor(images=picture, text=_ANOMALY, category="object", return_tensors="pt").to(device)
    with torch.no_grad():
        outputs = model(**inputs)
    answer = _answer(model, processor, picture, _ANOMALY)
    anomaly_map = outputs.anomaly_map
    in_range = bool(anomaly_map.isfinite().all() and anomaly_map.min() >= 0 and anomaly_map.max() <= 1)
    anomaly = Stage(
        "3 anomaly",
        in_range and answer.lower().startswith(("yes", "no")),
        answer,
        f"map from {float(anomaly_map.min()):.3f} to {float(anomaly_map.max()):.3f}",
        "pictures are described, but the anomaly question is not answered with Yes or No: AnomalyGPT's localizer and "
        "prompt learner were trained for another model.",
    )
    return [language, image, anomaly]


def _red_circle() -> Image.Image:
    picture = Image.new("RGB", (224, 224), "white")
    ImageDraw.Draw(picture).ellipse((52, 52, 172, 172), fill="red")
    return picture


def _inputs(model, processor, picture, question: str):
    if picture is not None:
        return processor(images=picture, text=question, return_tensors="pt").to(model.device)
    return processor(text=question, return_tensors="pt").to(model.device)


def _answer(model, processor, picture, question: str) -> str:
    inputs = _inputs(model, processor, picture, question)
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=_MAX_NEW_TOKENS)
    return processor.strip_answer(output[0, inputs["input_ids"].shape[1] :])


def _surprise(model, processor, picture, question: str, answer: str) -> float:
    """Mean negative log-likelihood of the answer's tokens, in nats."""
    inputs = _inputs(model, processor, picture, question)
    ids = processor.tokenizer(answer, add_special_tokens=False, return_tensors="pt").input_ids.to(model.device)
    prompt = inputs.pop("input_ids")
    mask = inputs.pop("attention_mask")
    with torch.no_grad():
        logits = model(
            input_ids=torch.cat([prompt, ids], dim=1),
            attention_mask=torch.cat([mask, torch.ones_like(ids)], dim=1),
            logits_to_keep=ids.shape[1] + 1,
            **inputs,
        ).logits
    return float(torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0]))


__all__ = ["Stage", "verify"]
