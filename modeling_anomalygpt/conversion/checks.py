"""Does a converted folder work? Three questions in order, each relying on one more of the published files.

Knows what the answers of a working model look like; knows nothing of the published files' layouts.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from transformers import AutoModelForImageTextToText

from ..checkpoints import register
from ..modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from ..processing_anomalygpt import AnomalyGPTProcessor
from .layout import IGNORED_IMAGEBIND_KEYS, IGNORED_LLAMA_KEYS, Origin, Shapes, lora_keys

# What each published file is recognised by, and how it is called in messages.
_SIGNS = {
    "imagebind": (re.compile(r"modality_(trunks|preprocessors)\."), "an ImageBind checkpoint"),
    "pandagpt": (re.compile(r"llama_proj\.|llama_model\..*\.lora_[AB]\."), "a PandaGPT delta"),
    "anomalygpt": (re.compile(r"image_decoder\.|prompt_learner\."), "an AnomalyGPT delta"),
    "language_model": (re.compile(r"model\.(embed_tokens|layers)\."), "a LLaMA language model (Vicuna)"),
}
_OPTIONS = {name: f"--{name}" for name in ("imagebind", "pandagpt", "anomalygpt")} | {"language_model": "--vicuna"}

# LLaMA as Vicuna v0 was built on it; Llama-2, Vicuna v1.5 and later models differ in at least one.
_ROPE_BASE, _NORM_EPS, _LONGEST_CONTEXT = 10000.0, 1e-6, 2048
_LLAMA_VOCABULARY = 32000
_SHOWN = 8


@dataclass
class ConversionReport:
    """What was read from where, what was found wrong by name, and what was left out for which reason."""

    files: dict[str, str] = field(default_factory=dict)
    num_tensors: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, object] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    num_parameters: int = 0
    output: str = ""

    @property
    def is_clean(self) -> bool:
        """Whether every expected key was there in its shape, and no other."""
        return not (self.missing or self.unexpected or self.misshapen)

    def raise_if_wrong(self) -> None:
        """Raise a `ValueError` that names the keys when anything is missing, unexpected or misshapen."""
        if self.is_clean:
            return
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "misshapen": self.misshapen}
        found = "; ".join(f"{len(keys)} {kind} ({_listed(keys, 2)})" for kind, keys in kinds.items() if keys)
        raise ValueError(f"The published files do not fit together: {found}. Nothing was written.\n{self}")

    def __str__(self) -> str:
        lines = [f"{name}: {self.num_tensors.get(name, 0)} tensors from {path}" for name, path in self.files.items()]
        lines += [f"sizes: {', '.join(f'{name} {value}' for name, value in self.sizes.items())}"] if self.sizes else []
        for kind in ("missing", "unexpected", "misshapen"):
            keys = getattr(self, kind)
            lines += [f"{kind} ({len(keys)}):"] + [f"  {key}" for key in keys[:_SHOWN]] if keys else []
            lines += [f"  ... and {len(keys) - _SHOWN} more"] if len(keys) > _SHOWN else []
        lines += [f"left out: {count} x {reason}" for reason, count in self.ignored.items()]
        lines += self.notes
        lines += [f"written: {self.num_parameters:,} parameters to {self.output}"] if self.output else []
        return "\n".join(lines)


def check_kind(expected: str, shapes: Shapes, path: object) -> None:
    """Refuse a file that is not what its option says, a key of `_SIGNS`, and say what it is instead."""
    pattern, wanted = _SIGNS[expected]
    if any(pattern.match(key) for key in shapes):
        return
    option = _OPTIONS[expected]
    for kind, (pattern, name) in _SIGNS.items():
        if any(pattern.match(key) for key in shapes):
            raise ValueError(
                f"`{option}` must be {wanted}, got '{path}', which is {name}. Pass that file as `{_OPTIONS[kind]}`."
            )
    some = ", ".join(sorted(shapes)[:3]) or "no keys"
    raise ValueError(f"`{option}` must be {wanted}, got '{path}' with the keys {some}. Check the download.")


def check_llama_config(config: Mapping, path: object, option: str = "--vicuna") -> None:
    """Refuses language models on which PandaGPT's and AnomalyGPT's deltas produce gibberish; names all deviations.

    Vicuna v0 is LLaMA with one more vocabulary entry (32001), rotary base 10000 without scaling, normalisation epsilon
    1e-6 and 2048 positions. Vicuna v1.x has 32000 entries; Llama-2 and what is built on it differ in the others too.

    Args:
        config (`Mapping`): The language model's `config.json`.
        path (`object`): For the message.
        option (`str`, defaults to `"--vicuna"`): `"--llama"`: the base of a delta, which has LLaMA's vocabulary; all
            else is checked alike.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    base = rope.get("rope_theta", config.get("rope_theta", _ROPE_BASE))
    positions = config.get("max_position_embeddings", config.get("max_sequence_length", _LONGEST_CONTEXT))
    heads = config.get("num_attention_heads")
    wrong = []
    if config.get("model_type", "llama") != "llama":
        wrong.append(f"model_type '{config['model_type']}' instead of 'llama'")
    if option == "--vicuna" and config.get("vocab_size") == _LLAMA_VOCABULARY:
        wrong.append("vocabulary 32000 instead of 32001 (Vicuna v1.x, Llama-2 and plain LLaMA have 32000)")
    if not math.isclose(float(config.get("rms_norm_eps", _NORM_EPS)), _NORM_EPS):
        wrong.append(f"rms_norm_eps {config['rms_norm_eps']} instead of 1e-06 (Llama-2, Vicuna v1.5: 1e-05)")
    if rope_type != "default":
        wrong.append(f"scaled rotary positions ('{rope_type}') instead of none")
    if float(base) != _ROPE_BASE:
        wrong.append(f"rotary base {base} instead of 10000")
    if positions > _LONGEST_CONTEXT:
        wrong.append(f"context {positions} instead of 2048 (Llama-2, Vicuna v1.5: 4096)")
    if config.get("num_key_value_heads") not in (None, heads):
        wrong.append(f"{config['num_key_value_heads']} key-value heads instead of {heads}")
    if wrong:
        wanted = "Vicuna version 0" if option == "--vicuna" else "the first LLaMA"
        raise ValueError(
            f"`{option}` must be {wanted}, got '{path}' with {'; '.join(wrong)}. The published deltas "
            "give gibberish on any other model. Use Vicuna v0, or the first LLaMA as `--llama` with the delta "
            "lmsys/vicuna-7b-delta-v0."
        )


def check_vocabulary(num_pieces: int, num_embeddings: int) -> None:
    """Refuse an embedding without a row for each piece of the tokenizer, or one more (`[PAD]` of Vicuna v0)."""
    allowed = [num_pieces + 1] if num_pieces == _LLAMA_VOCABULARY else [num_pieces, num_pieces + 1]
    if num_embeddings not in allowed:
        raise ValueError(
            f"`--vicuna` must have {' or '.join(map(str, allowed))} vocabulary rows for a tokenizer of {num_pieces} "
            f"pieces, got {num_embeddings}. Use Vicuna version 0 (32001 rows) with LLaMA's tokenizer.model."
        )


def check_rotary_frequencies(frequencies: torch.Tensor, key: str) -> None:
    """Refuse stored rotary frequencies other than 10000 ** (-2i / d) for dimension pair i of a head."""
    expected = _ROPE_BASE ** (-torch.arange(len(frequencies)).double() / len(frequencies))
    if not torch.allclose(frequencies.double(), expected, rtol=1e-2, atol=1e-4):
        raise ValueError(
            f"`{key}` must be the rotary frequencies of base 10000 without scaling, got a last value of "
            f"{float(frequencies[-1]):.3g} instead of {float(expected[-1]):.3g}. Use Vicuna version 0."
        )


def check_is_complete_model(final_norm: torch.Tensor, path: object) -> None:
    """Refuse a Vicuna delta in the place of a model: scales of a normalisation are about 1, a delta's are about 0."""
    mean = float(final_norm.float().abs().mean())
    if mean < 0.1:
        raise ValueError(
            f"`--vicuna` must be a complete language model, got '{path}' with final normalisation scales around "
            f"{mean:.2g}: this is a Vicuna delta. Pass it as `--vicuna-delta`, with LLaMA as `--llama`."
        )


def check_delta(base: Shapes, delta: Shapes, delta_norm: torch.Tensor, path: object) -> None:
    """Refuse a Vicuna delta that does not fit its base: of v1.x, of another width, or a complete model."""
    (rows, width), (base_rows, base_width) = delta["model.embed_tokens.weight"], base["model.embed_tokens.weight"]
    if width != base_width:
        raise ValueError(
            f"`--vicuna-delta` must have the width of `--llama`, {base_width}, got {width} in '{path}'. 7B has width "
            "4096, 13B has 5120."
        )
    if rows != base_rows + 1:
        raise ValueError(
            f"`--vicuna-delta` must have {base_rows + 1} vocabulary rows, one more than `--llama`, got {rows} in "
            f"'{path}'. The deltas of Vicuna v1.1 have as many rows as LLaMA: use version 0."
        )
    mean = float(delta_norm.float().abs().mean())
    if mean > 0.5:
        raise ValueError(
            f"`--vicuna-delta` must be a delta, got '{path}' with final normalisation scales around {mean:.2g}: this "
            "is a complete model. Pass it as `--vicuna`, without `--llama`."
        )


def check_language_width(pandagpt: Shapes, anomalygpt: Shapes, language_width: int) -> None:
    """Refuse deltas that were trained for a language model of another width; name the size that has it."""
    names = {4096: "7B", 5120: "13B"}
    for option, width in (
        ("--pandagpt", pandagpt.get("llama_proj.weight", (language_width,))[0]),
        ("--anomalygpt", anomalygpt.get("prompt_learner.base_prompts", (0, language_width))[1]),
    ):
        if width != language_width:
            raise ValueError(
                f"`{option}` must be trained for a language model of width {language_width} "
                f"({names.get(language_width, 'as given')}), got a delta for width {width} "
                f"({names.get(width, 'another size')}). Use the delta of the same size."
            )


def compare_keys(
    report: ConversionReport,
    origins: Mapping[str, Origin],
    parameters: Shapes,
    published: Mapping[str, Shapes],
    language_depth: int,
) -> None:
    """Enter into `report` every key that is missing, unexpected, misshapen or left out.

    Args:
        report ([`ConversionReport`]): Is filled.
        origins (`Mapping[str, Origin]`): Where each parameter comes from.
        parameters (`Mapping[str, tuple[int, ...]]`): Shapes of the parameters of the model that is to be filled.
        published (`Mapping[str, Mapping[str, tuple[int, ...]]]`): Shapes by file and published key.
        language_depth (`int`): Blocks of the language model.
    """
    used: dict[str, set[str]] = {file: set() for file in published}
    for name in sorted(parameters.keys() - origins.keys()):
        report.missing.append(f"{name} (no published tensor fills it)")
    for name, origin in origins.items():
        used[origin.file].add(origin.key)
        shape = published[origin.file].get(origin.key)
        label = f"{origin.file}: {origin.key}"
        if name not in parameters:
            report.unexpected.append(f"{label} (the model has no {name})")
        elif shape is None:
            report.missing.append(label)
        elif origin.shape(shape) != parameters[name]:
            report.misshapen.append(f"{label} is {shape}, which gives {origin.shape(shape)} for {parameters[name]}")
    for weight, (down, up) in lora_keys(language_depth).items():
        _compare_lora(report, published, weight, down, up)
        used["pandagpt"] |= {down, up}
    for file, shapes in published.items():
        for key in shapes.keys() - used[file]:
            reason = _reason_to_ignore(file, key)
            if reason:
                report.ignored[reason] = report.ignored.get(reason, 0) + 1
            else:
                report.unexpected.append(f"{file}: {key}")
    for keys in (report.missing, report.unexpected, report.misshapen):
        keys[:] = sorted(set(keys))


def _compare_lora(report: ConversionReport, published: Mapping[str, Shapes], weight: str, down: str, up: str) -> None:
    rows, columns = published["language_model"].get(weight, (None, None))
    shapes = published["pandagpt"]
    for key, axis, size in ((down, 1, columns), (up, 0, rows)):
        if key not in shapes:
            report.missing.append(f"pandagpt: {key}")
        elif size is not None and shapes[key][axis] != size:
            report.misshapen.append(f"pandagpt: {key} is {shapes[key]}, axis {axis} must be {size}")


def _reason_to_ignore(file: str, key: str) -> str | None:
    if file == "imagebind" and IGNORED_IMAGEBIND_KEYS.match(key):
        return "ImageBind keys that AnomalyGPT does not use (other modalities, text mask and temperature)"
    if file == "language_model" and IGNORED_LLAMA_KEYS.match(key):
        return "rotary frequencies of the language model (checked, then computed)"
    return None


def _listed(keys: list[str], shown: int) -> str:
    return ", ".join(keys[:shown]) + (", ..." if len(keys) > shown else "")


# The question without and with a picture, and a sentence that a working model finds likely.
_FACT = ("What is the capital of France?", "The capital of France is Paris.")
_SCENE = ("What is shown in the image?", "The image shows a red circle on a white background.")
_ANOMALY = "Is there any anomaly in the image?"
_FAILURES = (
    "the language model itself answers badly: not Vicuna version 0, a delta that was not added to its base, "
    "or a LoRA of another model.",
    "the language model answers, but not about pictures: ImageBind or PandaGPT's projection do not belong to it.",
    "pictures are described, but the anomaly question is not answered with Yes or No: AnomalyGPT's localizer and "
    "prompt learner were trained for another model.",
)


@dataclass(frozen=True)
class Stage:
    """One stage of the self-test: what was measured and answered, whether it passed, what a failure means."""

    name: str
    passed: bool
    answer: str
    measured: str
    failure_means: str

    def __str__(self) -> str:
        verdict = "passed" if self.passed else f"FAILED: {self.failure_means}"
        return f"{self.name}: {verdict}\n  measured: {self.measured}\n  answer: {self.answer!r}"


def verify(folder: str | Path, device: str | None = None) -> list[Stage]:
    """Load a converted folder and test it in three stages.

    A right sentence must be likelier than guessing: its mean surprise must be below half of that of a uniform guess
    over the vocabulary (a working 7B model is far below, gibberish is above). Read the answers as well: no number
    replaces that.

    Args:
        folder (`str` or `Path`): Output of [`convert`], or its `lora` folder.
        device (`str`, *optional*): Such as `"cuda"`; the GPU when there is one, by default.

    Returns:
        `list[Stage]`: Language model; picture; anomaly. A stage fails when its answer is not that of a working model.
    """
    register()
    folder = Path(folder)
    is_adapter = (folder / "adapter_config.json").is_file()
    loader = AutoModelForImageTextToText if is_adapter else AnomalyGPTForConditionalGeneration
    model = loader.from_pretrained(folder, dtype="auto").eval()
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    processor = AnomalyGPTProcessor.from_pretrained(folder.parent if is_adapter else folder)
    limit = math.log(model.config.text_config.vocab_size) / 2
    circle = Image.new("RGB", (224, 224), "white")
    ImageDraw.Draw(circle).ellipse((52, 52, 172, 172), fill="red")
    stages = []
    for name, image, (question, sentence), failure in (
        ("1 language model", None, _FACT, _FAILURES[0]),
        ("2 picture", circle, _SCENE, _FAILURES[1]),
    ):
        surprise = _surprise(model, processor, image, question, sentence)
        measured = f"surprise {surprise:.2f} nats a token for {sentence!r}, limit {limit:.2f}"
        answer = _answer(model, processor, image, question)
        stages.append(Stage(name, surprise < limit, answer, measured, failure))
    with torch.no_grad():
        inputs = processor(images=circle, text=_ANOMALY, category="object", return_tensors="pt")
        anomaly_map = model(**inputs.to(model.device)).anomaly_map
    answer = _answer(model, processor, circle, _ANOMALY)
    in_range = bool(anomaly_map.isfinite().all() and anomaly_map.min() >= 0 and anomaly_map.max() <= 1)
    measured = f"map from {float(anomaly_map.min()):.3f} to {float(anomaly_map.max()):.3f}"
    passed = in_range and answer.lower().startswith(("yes", "no"))
    return [*stages, Stage("3 anomaly", passed, answer, measured, _FAILURES[2])]


def _inputs(model, processor, image, question: str):
    given = {} if image is None else {"images": image}
    return processor(text=question, return_tensors="pt", **given).to(model.device)


def _answer(model, processor, image, question: str) -> str:
    inputs = _inputs(model, processor, image, question)
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=40)
    return processor.strip_answer(output[0, inputs["input_ids"].shape[1] :])


def _surprise(model, processor, image, question: str, answer: str) -> float:
    """Mean negative log-likelihood of the answer's tokens, in nats."""
    inputs = _inputs(model, processor, image, question)
    ids = processor.tokenizer(answer, add_special_tokens=False, return_tensors="pt").input_ids.to(model.device)
    prompt, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
    with torch.no_grad():
        logits = model(
            input_ids=torch.cat([prompt, ids], dim=1),
            attention_mask=torch.cat([mask, torch.ones_like(ids)], dim=1),
            logits_to_keep=ids.shape[1] + 1,
            **inputs,
        ).logits
    return float(torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0]))
