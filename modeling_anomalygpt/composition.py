"""Composes an AnomalyGPT and its processor from pretrained parts: a vision model, a language model, a text tower."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from .configuration_anomalygpt import AnomalyGPTConfig
from .image_processing_anomalygpt import AnomalyGPTImageProcessor
from .processing_anomalygpt import IMAGE_PLACEHOLDER, AnomalyGPTProcessor


def compose(
    model_class: type[PreTrainedModel],
    vision: str,
    language: str,
    text_tower: str | None,
    dtype: torch.dtype | str,
    **fields: Any,
) -> PreTrainedModel:
    """See [`AnomalyGPTForConditionalGeneration.from_vision_language_pretrained`], whose class is `model_class`."""
    language_model = _language_model(language, dtype)
    whole_vision = AutoModel.from_pretrained(vision, dtype=dtype)
    whole_text = AutoModel.from_pretrained(text_tower, dtype=dtype) if text_tower is not None else None
    parts = {  # of a dual encoder (CLIP, SigLIP) the half that is asked for
        "vision_tower": getattr(whole_vision, "vision_model", whole_vision),
        "text_tower": getattr(whole_text, "text_model", whole_text),
    }
    projections = [getattr(whole_vision, "visual_projection", None), getattr(whole_text, "text_projection", None)]
    if all(isinstance(projection, nn.Linear) for projection in projections):
        parts["visual_projection"], parts["text_projection"] = projections
    tokenizer, image_token = _tokenizer(language, fields.get("image_token_index"))
    fields["image_token_index"] = tokenizer.convert_tokens_to_ids(image_token)
    config = _config(parts, language_model, fields)
    with torch.device("meta"):  # no memory for the random weights that the parts replace
        model = model_class(config)
    _install(model, parts, language_model)
    class_tokenizer = None if text_tower is None else AutoTokenizer.from_pretrained(text_tower)
    return _with_processor(model, _image_processor(config, vision), tokenizer, image_token, class_tokenizer)


def with_language_model(
    eyes: PreTrainedModel, processor: Any, language: str, dtype: torch.dtype | str
) -> PreTrainedModel:
    """The eyes of a checkpoint with another language model.

    Vision model, maps, decision and kinds of defects stay as they are. Prompt learner and projector, which lead to
    the language model, start from random values.

    Args:
        eyes ([`AnomalyGPTForConditionalGeneration`]): Whose eyes; taken over, so do not use it further.
        processor ([`AnomalyGPTProcessor`]): Its processor.
        language (`str`): Folder or Hub id of a causal language model.
        dtype (`torch.dtype` or `str`): Of the language model, as in `from_pretrained`.

    Returns:
        [`AnomalyGPTForConditionalGeneration`]: Its `save_pretrained` writes a complete folder, with the processor.

    Raises:
        ValueError: If `language` has no tokenizer, **or** does not speak inside this model as it does alone.
    """
    language_model = _language_model(language, dtype)
    tokenizer, image_token = _tokenizer(language, None)
    fields = {name: value for name, value in eyes.config.to_dict().items() if name in eyes.config._field_names()}
    fields |= {"text_config": language_model.config.get_text_config(), "num_virtual_tokens": 0}
    fields["image_token_index"] = tokenizer.convert_tokens_to_ids(image_token)
    config = type(eyes.config)(**fields)
    with torch.device("meta"):
        model = type(eyes)(config)
    kept = ("vision_tower", "visual_projection", "text_tower", "text_projection", "localizer", "kind_head")
    parts = {name: getattr(eyes.model, name) for name in kept if getattr(eyes.model, name) is not None}
    _install(model, parts, language_model)
    return _with_processor(model, processor.image_processor, tokenizer, image_token)


def _with_processor(
    model: PreTrainedModel, image_processor: Any, tokenizer: Any, image_token: str, class_tokenizer: Any = None
) -> PreTrainedModel:
    counts = {name: getattr(model.config, name) for name in ("num_image_tokens", "num_prompt_tokens")}
    model.processor = AnomalyGPTProcessor(
        image_processor, tokenizer, class_tokenizer, image_token=image_token, **counts
    )
    model.generation_config.eos_token_id = model.processor.stop_token_ids
    return model


def _config(parts: dict[str, nn.Module], language_model: PreTrainedModel, fields: dict[str, Any]) -> AnomalyGPTConfig:
    """The configuration that fits the parts; `fields` override what is derived."""
    vision_config, text_tower = parts["vision_tower"].config, parts["text_tower"]
    derived = {}
    depth = getattr(vision_config, "num_hidden_layers", None)
    stages = len(getattr(vision_config, "depths", None) or ())
    if isinstance(depth, int):
        derived["out_indices"] = sorted({max(1, depth * quarter // 4) for quarter in (1, 2, 3, 4)})
    elif stages:  # the middle ones: the first sees edges only, the last hardly where
        derived["out_indices"] = list(range(max(1, stages - 2), max(2, stages)))
    if text_tower is not None:
        projection = parts.get("text_projection")
        own_width = getattr(text_tower.config, "projection_size", None) or text_tower.config.hidden_size
        derived["project_towers"] = projection is not None
        derived["projection_dim"] = own_width if projection is None else projection.out_features
    return AnomalyGPTConfig(
        vision_config=vision_config,
        text_tower_config=None if text_tower is None else text_tower.config,
        text_config=language_model.config.get_text_config(),
        **(derived | fields),
    )


def _install(model: PreTrainedModel, parts: dict[str, nn.Module], language_model: PreTrainedModel) -> None:
    """Puts the parts into a model on the meta device; new ones start in the dtype of their neighbours."""
    image_token_id = model.config.image_token_id
    if image_token_id >= language_model.get_input_embeddings().num_embeddings:
        language_model.resize_token_embeddings(image_token_id + 1)
        model.config.text_config.vocab_size = image_token_id + 1
    base = getattr(language_model, language_model.base_model_prefix, None)
    head = language_model.get_output_embeddings()
    head_fits = getattr(head, "in_features", None) == model.lm_head.in_features
    if type(base) is not type(model.model.language_model) or not head_fits:
        raise _refusal(language_model)
    for name, part in parts.items():
        setattr(model.model, name, part)
    model.model.language_model, model.lm_head = base, head
    model.tie_weights()
    for part in model.model.children():
        if any(parameter.is_meta for parameter in part.parameters()):
            part.to_empty(device=language_model.device)
            part.apply(model._init_weights)
    neighbours = {
        "prompt_learner": language_model,
        "multi_modal_projector": language_model,
        "visual_projection": parts["vision_tower"],
        "text_projection": parts.get("text_tower"),
    }
    for name, neighbour in neighbours.items():
        if getattr(model.model, name) is not None:
            getattr(model.model, name).to(neighbour.dtype)
    if not _speaks_as_alone(model, language_model):
        raise _refusal(language_model)


def _language_model(language: str, dtype: torch.dtype | str) -> PreTrainedModel:
    """The causal language model; its configuration says whether the head has a bias, as only some do by themselves."""
    model = AutoModelForCausalLM.from_pretrained(language, dtype=dtype)
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        model.config.get_text_config().lm_head_bias = True
    return model


@torch.no_grad()
def _speaks_as_alone(model: PreTrainedModel, language_model: PreTrainedModel) -> bool:
    ids = torch.arange(4, device=language_model.device)[None]
    expected = language_model(input_ids=ids).logits
    try:
        logits = model(input_ids=ids).logits
    except (AttributeError, TypeError):  # no decoder with keys and values of the past
        return False
    return torch.allclose(logits, expected, rtol=0, atol=1e-2 * expected.abs().max().item(), equal_nan=True)


def _refusal(language_model: PreTrainedModel) -> ValueError:
    return ValueError(
        "`language` must be a decoder whose scores are those of a linear head on a last hidden state as wide as its "
        "embeddings (Llama, Qwen, Mistral, Gemma, Granite, Cohere, Phi, GPT-2 and others), got one of the kind "
        f"{language_model.config.model_type!r} that differs. Take another one."
    )


def _tokenizer(language: str, image_token_id: int | None) -> tuple[Any, str]:
    """The language model's tokenizer, and its placeholder: the token with this id, by default `<image>`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(language)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`language` must have a tokenizer beside its weights, got none that can be read in {str(language)!r}. "
            "Save it there with `tokenizer.save_pretrained`."
        ) from error
    if image_token_id is not None and image_token_id < len(tokenizer):
        token = tokenizer.convert_ids_to_tokens(image_token_id)
    else:
        token = IMAGE_PLACEHOLDER
        if image_token_id is not None and (image_token_id > len(tokenizer) or token in tokenizer.get_vocab()):
            raise ValueError(
                f"`image_token_index` must be a token of the tokenizer or {len(tokenizer)}, the next one, got "
                f"{image_token_id}. Leave it out for a new token {token!r}."
            )
    tokenizer.add_special_tokens({"extra_special_tokens": [token]}, replace_extra_special_tokens=False)
    return tokenizer, token


def _image_processor(config: AnomalyGPTConfig, vision: str) -> AnomalyGPTImageProcessor:
    """The size and statistics that the vision model was trained with, of whole pictures."""
    try:
        trained_on, _ = BaseImageProcessor.get_image_processor_dict(vision)
    except OSError:  # a bare model: transformers' usual statistics
        trained_on = {}
    images = {name: trained_on[name] for name in ("image_mean", "image_std", "resample") if trained_on.get(name)}
    if trained_on.get("do_normalize") is False:
        images |= {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    size = trained_on.get("crop_size") or trained_on.get("size") or getattr(config.vision_config, "image_size", None)
    if isinstance(size, dict):
        size = [size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge"))]
    height, width = [size] * 2 if isinstance(size, int) else size or (224, 224)
    return AnomalyGPTImageProcessor(size={"height": height, "width": width}, **images)
