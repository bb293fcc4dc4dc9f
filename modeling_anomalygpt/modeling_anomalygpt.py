"""AnomalyGPT: vision tower, text tower, localizer, prompt learner and language model, in this order (paper figure 2).

Tensors in, named outputs out.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import AutoModel, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput
from transformers.utils import cached_file, can_return_tuple
from transformers.utils.loading_report import LoadStateDictInfo

from .composition import compose
from .configuration_anomalygpt import AnomalyGPTConfig
from .localization import (
    AnomalyLocalizer,
    DefectKindHead,
    combine_maps,
    in_float32,
    maps_needed,
    state_vectors,
    text_guided_layer_maps,
)
from .memory_bank import MemoryBank, PatchFeatures, normalised_map, unit_length, weights_fingerprint
from .processing_anomalygpt import AnomalyGPTProcessor
from .references import reference_threshold
from .regions import DEFECT_KINDS
from .vision_features import read_vision_tower, vision_tower_widths


@dataclass
class AnomalyGPTImageFeatures(ModelOutput):
    """What one look at a batch of pictures yields.

    Args:
        pooler_output (`torch.FloatTensor` of shape `(batch_size, num_image_tokens + num_prompt_tokens, text_width)`):
            Vectors that replace the placeholders: the picture, then the base prompts, then the map prompts.
        anomaly_map (`torch.FloatTensor` of shape `(batch_size, map_size, map_size)`): float32 in [0, 1].
        pred_score (`torch.FloatTensor` of shape `(batch_size,)`): The map's maximum (paper section 4.1).
        layer_maps (`torch.FloatTensor` of shape `(batch_size, num_layers, 2, map_size, map_size)`, *optional*):
            Text-guided probabilities of normal and anomalous, layer by layer.
        image_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`): Global vectors of unit length.
        patch_features (`tuple[PatchFeatures]`): The read-out layers, as the vision tower made them.
        matching_features (`tuple[PatchFeatures]`, *optional*): The same as they were compared with references
            ([`AnomalyLocalizer.comparable`]).
    """

    pooler_output: torch.FloatTensor | None = None
    anomaly_map: torch.FloatTensor | None = None
    pred_score: torch.FloatTensor | None = None
    layer_maps: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    patch_features: tuple | None = None
    matching_features: tuple | None = None


@dataclass
class AnomalyGPTOutput(ModelOutput):
    """Output of both models; the fields of [`AnomalyGPTImageFeatures`] are repeated where a picture was given.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*): Weighted sum of the three losses that were asked for.
        logits (`torch.FloatTensor` of shape `(batch_size, sequence_length, vocab_size)`): Scores of the next token.
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, text_width)`): The language
            model's output before the head ([`AnomalyGPTModel`] only).
        loss_lm, loss_focal, loss_dice (`torch.FloatTensor` of shape `(1,)`, *optional*): The parts of the loss,
            detached; the pixel losses are summed over the layers (paper section 3.4).
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    anomaly_map: torch.FloatTensor | None = None
    pred_score: torch.FloatTensor | None = None
    layer_maps: torch.FloatTensor | None = None
    loss_lm: torch.FloatTensor | None = None
    loss_focal: torch.FloatTensor | None = None
    loss_dice: torch.FloatTensor | None = None


class PromptLearner(nn.Module):
    """Turns an anomaly map into prompt vectors for the language model, beside learned ones (paper section 3.2).

    Args:
        config ([`AnomalyGPTConfig`]): Gives the number of prompts, the channels and the widths.
    """

    def __init__(self, config: AnomalyGPTConfig):
        super().__init__()
        width = config.text_config.hidden_size
        channels = [1, *config.prompt_channels]
        last_side = config.map_size >> len(config.prompt_channels)
        self.base_prompts = nn.Parameter(torch.empty(config.num_base_prompts, width))
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(a, b, kernel_size=3, padding=1) for a, b in zip(channels, channels[1:], strict=False)]
            + [nn.Conv2d(channels[-1], width, kernel_size=last_side - config.prompt_side + 1)]
        )

    def forward(self, anomaly_map: torch.Tensor) -> torch.Tensor:
        """Prompts `(batch_size, num_prompt_tokens, text_width)` for maps `(batch_size, map_size, map_size)`."""
        hidden = anomaly_map.unsqueeze(1).to(self.base_prompts.dtype)
        for convolution in self.convolutions[:-1]:
            hidden = functional.max_pool2d(functional.relu(convolution(hidden)), 2)
        map_prompts = self.convolutions[-1](hidden).flatten(2).transpose(1, 2)
        return torch.cat([self.base_prompts.expand(len(map_prompts), -1, -1), map_prompts], dim=1)


class VirtualTokens(nn.Module):
    """Calls a language model with learned vectors before its input; the caller sees nothing of them.

    Text positions count on after the virtual tokens, whatever padding lies between, so that a padded row gives the
    same as the row alone.

    Args:
        count (`int`): Number of virtual tokens.
        width (`int`): Width of the language model.
    """

    def __init__(self, count: int, width: int):
        super().__init__()
        self.embeds = nn.Parameter(torch.empty(count, width))

    def forward(
        self,
        language_model: nn.Module,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs,
    ) -> Any:
        """The language model's output for `inputs_embeds` alone; its cache holds the virtual tokens as well."""
        batch_size, count = len(inputs_embeds), len(self.embeds)
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        length = inputs_embeds.shape[1]
        seen = past + length - (count if past else 0)  # tokens of text, as the caller counts them
        if attention_mask is not None:
            fits = attention_mask.dim() == 2 and attention_mask.shape[1] == seen
        else:
            fits = position_ids is None or not past or int(position_ids.max()) + 1 == seen
        if not fits:
            raise ValueError(
                "`past_key_values` must be a dynamic cache of the same `generate` call when the model has virtual "
                "tokens, got another. Pass the whole conversation without a cache."
            )
        if position_ids is not None:
            position_ids = position_ids + count
        if attention_mask is not None:
            attention_mask = torch.cat([attention_mask.new_ones(batch_size, count), attention_mask], dim=1)
        if not past:
            first = self.embeds.to(inputs_embeds).expand(batch_size, -1, -1)
            inputs_embeds = torch.cat([first, inputs_embeds], dim=1)
            if position_ids is not None:
                begin = torch.arange(count, device=position_ids.device).expand(len(position_ids), -1)
                position_ids = torch.cat([begin, position_ids], dim=1)
        outputs = language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        if not past:
            outputs.last_hidden_state = outputs.last_hidden_state[:, count:]
            if outputs.hidden_states is not None:
                outputs.hidden_states = tuple(hidden[:, count:] for hidden in outputs.hidden_states)
        return outputs


def fill_placeholders(
    vectors: torch.Tensor,
    input_ids: torch.LongTensor | None,
    inputs_embeds: torch.Tensor,
    image_token_id: int,
    embeddings: nn.Module,
) -> torch.Tensor:
    """Replaces the embeddings of placeholders, row by row and from left to right.

    Args:
        vectors (`torch.Tensor` of shape `(batch_size, num_vectors, text_width)`): What replaces the placeholders.
        input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): Token ids. `None`:
            placeholders are recognised by their embedding.
        inputs_embeds (`torch.Tensor` of shape `(batch_size, sequence_length, text_width)`): Embeddings of the tokens.
        image_token_id (`int`): Id of the placeholder.
        embeddings (`nn.Module`): The language model's token embeddings.

    Returns:
        `torch.Tensor` of shape `(batch_size, sequence_length, text_width)`

    Raises:
        ValueError: If a row has not `num_vectors` placeholders.
    """
    if input_ids is not None:
        placeholders = input_ids == image_token_id
    else:
        token = torch.tensor(image_token_id, device=inputs_embeds.device)
        placeholders = (inputs_embeds == embeddings(token)).all(-1)
    counts = placeholders.sum(1)
    if len(placeholders) != len(vectors) or (counts != vectors.shape[1]).any():
        raise ValueError(
            f"`input_ids` must hold {vectors.shape[1]} placeholders in each of {len(vectors)} rows, got "
            f"{counts.tolist()}. Put one picture into each prompt; `AnomalyGPTProcessor` writes the placeholders."
        )
    vectors = vectors.to(inputs_embeds.device, inputs_embeds.dtype)
    return inputs_embeds.masked_scatter(placeholders.unsqueeze(-1), vectors)


def focal_loss(
    probability: torch.Tensor, target: torch.Tensor, gamma: float = 2.0, smooth: float = 1e-5
) -> torch.Tensor:
    """Cross entropy that weighs down pixels already right, https://arxiv.org/abs/1708.02002.

    With the target's one-hot vector `t` clamped to `[smooth, 1 - smooth]` and `p = sum(t * probability) + smooth`, a
    pixel costs `-(1 - p) ** gamma * log(p)`; this smoothing is the published training's.

    Args:
        probability (`torch.Tensor` of shape `(batch_size, 2, height, width)`): Probabilities of normal (channel 0) and
            anomalous (channel 1), in [0, 1].
        target (`torch.Tensor` of shape `(batch_size, height, width)`): 1 where anomalous, 0 elsewhere.
        gamma (`float`, defaults to 2.0): Focusing exponent.
        smooth (`float`, defaults to 1e-5): Keeps the logarithm finite.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`: The mean over the pixels of each sample, float32.

    Example:
    ```python
    >>> certain = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    >>> focal_loss(certain, torch.ones(1, 1, 1)).item() < 1e-6 < focal_loss(certain, torch.zeros(1, 1, 1)).item()
    True

    ```
    """
    anomalous = target.float().clamp(smooth, 1 - smooth)
    probability = probability.float()
    agreement = (1 - anomalous) * probability[:, 0] + anomalous * probability[:, 1] + smooth
    return (-((1 - agreement) ** gamma) * agreement.log()).flatten(1).mean(1)


def dice_loss(probability: torch.Tensor, target: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
    """One minus the overlap of probability and target, https://arxiv.org/abs/1606.04797.

    Args:
        probability (`torch.Tensor` of shape `(batch_size, height, width)`): Probability of anomalous, in [0, 1].
        target (`torch.Tensor` of shape `(batch_size, height, width)`): 1 where anomalous, 0 elsewhere.
        smooth (`float`, defaults to 1.0): Added to both sides of the fraction, in pixels: an empty target that is met
            costs nothing.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`: One loss a sample, float32.

    Example:
    ```python
    >>> square = torch.eye(2).view(1, 2, 2)
    >>> dice_loss(square, square).item(), round(dice_loss(1 - square, square).item(), 2)
    (0.0, 0.8)

    ```
    """
    probability, target = probability.float().flatten(1), target.float().flatten(1)
    overlap = (probability * target).sum(1)
    return 1 - (2 * overlap + smooth) / (probability.sum(1) + target.sum(1) + smooth)


def pixel_losses(layer_maps: torch.Tensor | None, mask_labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Focal and dice loss, summed over the layers and averaged over the samples that have a pixel target."""
    if layer_maps is None:
        raise ValueError(
            "`mask_labels` must come with pictures whose layer maps are known, got none. Pass `pixel_values`, or "
            "encode them with `return_layer_maps=True`."
        )
    has_target = (mask_labels >= 0).flatten(1).all(1)
    if not has_target.any():
        zero = layer_maps.sum() * 0.0  # keeps every process's graph the same
        return {"focal": zero, "dice": zero}
    layers = layer_maps[has_target].unbind(1)
    target = mask_labels[has_target]
    return {
        "focal": sum(focal_loss(layer, target).mean() for layer in layers),
        "dice": sum(dice_loss(layer[:, 1], target).mean() for layer in layers),
    }


_UPLOADING = ("repo_id", "commit_message", "commit_description", "private", "revision", "create_pr", "tags")


class AnomalyGPTPreTrainedModel(PreTrainedModel):
    """What both models share: configuration class, initialisation, what transformers may do with them."""

    config_class = AnomalyGPTConfig
    config: AnomalyGPTConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _no_split_modules = ["AnomalyLocalizer", "PromptLearner"]
    _keep_in_fp32_modules_strict = ["localizer"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True
    processor: AnomalyGPTProcessor | None = None
    """Saved beside the weights; only a composed model has one."""

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PromptLearner):
            init.normal_(module.base_prompts, std=self.config.initializer_range)
            for convolution in module.convolutions:  # small weights would let the map fade on its way through
                init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                init.zeros_(convolution.bias)
        elif isinstance(module, AnomalyLocalizer) and module.state_embeds is not None:
            # Side by side, apart by what the temperature can tell: between vectors that are drawn apart every pixel is
            # certain of one of them, and neither focal nor dice loss moves anything.
            middle = unit_length(torch.randn_like(module.state_embeds[0]))
            apart = 0.5 * self.config.map_temperature * torch.randn_like(module.state_embeds)
            init.copy_(module.state_embeds, middle + apart)
        elif isinstance(module, VirtualTokens):
            init.normal_(module.embeds, std=self.config.initializer_range)

    def load_adapter(self, peft_model_id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, and also for adapters of prompt tuning: their vectors become part of the model."""
        load_config = kwargs.get("load_config")
        download = dict(getattr(load_config, "download_kwargs", None) or {}) | (kwargs.get("adapter_kwargs") or {})
        if kwargs.get("local_files_only"):
            download["local_files_only"] = True
        if not load_prompt_adapter(self, peft_model_id, **download):
            return super().load_adapter(peft_model_id, *args, **kwargs)
        return LoadStateDictInfo(**{field.name: set() for field in dataclasses.fields(LoadStateDictInfo)})

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Saves as usual, with the code that loads it anywhere and, of a composed model, the processor."""
        upload = kwargs.pop("push_to_hub", False)  # only when all of that is there
        where = {name: kwargs.pop(name) for name in _UPLOADING if name in kwargs}
        here = pathlib.Path(__file__).parent
        self.config.auto_map = {
            "AutoModel": "modeling_anomalygpt.AnomalyGPTModel",
            "AutoModelForImageTextToText": "modeling_anomalygpt.AnomalyGPTForConditionalGeneration",
        }
        if not (here / "pipeline_anomalygpt.py").is_file():  # this code came from a repository, where it stays behind
            self.config.custom_pipelines = {}
        super().save_pretrained(save_directory, **kwargs)
        if not kwargs.get("is_main_process", True):
            return
        folder = pathlib.Path(save_directory)
        for path in here.glob("*.py"):
            if path.name != "__init__.py":
                shutil.copyfile(path, folder / path.name)
        for path in folder.glob("*.safetensors"):  # safetensors lets nobody else read them
            path.chmod(folder.stat().st_mode & 0o666)
        if self.processor is not None:
            self.processor.save_pretrained(folder)
        if upload:
            self.push_to_hub(where.pop("repo_id", folder.name), **where)


class AnomalyGPTModel(AnomalyGPTPreTrainedModel):
    """The parts without a language-model head: pictures and token ids in, hidden states and maps out.

    Args:
        config ([`AnomalyGPTConfig`]): The configuration.
    """

    _keys_to_ignore_on_load_unexpected = [r"lm_head"]
    _auto_class = "AutoModel"

    def __init__(self, config: AnomalyGPTConfig):
        super().__init__(config)
        text_width = config.text_config.hidden_size
        pooled_dim, feature_dims = vision_tower_widths(config.vision_config, config.out_indices)
        image_dim = config.projection_dim if config.project_towers else pooled_dim
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.visual_projection = (
            nn.Linear(pooled_dim, config.projection_dim, bias=False) if config.project_towers else None
        )
        self.text_tower = None
        self.text_projection = None
        if config.text_tower_config is not None:
            self.text_tower = new_text_tower(config.text_tower_config)
            if config.project_towers:
                state_dim = config.text_tower_config.hidden_size
                self.text_projection = nn.Linear(state_dim, config.projection_dim, bias=False)
        self.localizer = AnomalyLocalizer(
            feature_dims,
            config.projection_dim,
            learned_states=config.text_tower_config is None,
            reference_dims=config.reference_dims,
            reference_pooling=config.reference_pooling,
            map_size=config.map_size,
            self_similarity=config.self_similarity,
            map_smoothing=config.map_smoothing,
        )
        widths = (config.reference_dims or feature_dims) * len(self.localizer.windows)
        self.kind_head = DefectKindHead(widths, config.kind_width, len(DEFECT_KINDS)) if config.kind_width else None
        self.prompt_learner = PromptLearner(config)
        self.multi_modal_projector = nn.Linear(image_dim, config.num_image_tokens * text_width)
        self.language_model = AutoModel.from_config(config.text_config)
        count = config.num_virtual_tokens
        self.virtual_tokens = VirtualTokens(count, text_width) if count else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the language model's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def encoder_fingerprint(self) -> str:
        """Names the weights and settings on which a memory bank depends; 16 hexadecimal digits."""
        settings = (self.config.out_indices, self.config.reference_pooling)
        return weights_fingerprint([self.vision_tower, self.localizer.reference_projections], settings)

    def get_text_embeds(self, state_prompt_ids: torch.Tensor, state_prompt_labels: torch.Tensor) -> torch.Tensor:
        """Embeds the state prompts and averages them into one vector for each state (paper section 3.1).

        Args:
            state_prompt_ids (`torch.LongTensor` of shape `(batch_size, num_prompts, length)`): Token ids for the text
                tower.
            state_prompt_labels (`torch.LongTensor` of shape `(batch_size, num_prompts)`): 0 for a prompt of a normal
                part, 1 of an anomalous one, -1 for padding.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, 2, projection_dim)`: Unit-length vectors, float32.
        """
        pooled = self.text_tower(state_prompt_ids.flatten(0, 1)).pooler_output
        if self.text_projection is not None:
            pooled = self.text_projection(pooled)
        return state_vectors(unit_length(pooled).unflatten(0, state_prompt_ids.shape[:2]), state_prompt_labels)

    def get_patch_features(self, pixel_values: torch.Tensor) -> tuple[PatchFeatures, ...]:
        """The layers of references, ready for [`MemoryBank.build`]."""
        _, patch_features = read_vision_tower(self.vision_tower, pixel_values, self.config.out_indices)
        with in_float32(pixel_values):
            return self.localizer.comparable(patch_features)

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.FloatTensor,
        state_prompt_ids: torch.LongTensor | None = None,
        state_prompt_labels: torch.LongTensor | None = None,
        text_embeds: torch.FloatTensor | None = None,
        memory_bank: MemoryBank | None = None,
        reference_pixel_values: torch.FloatTensor | None = None,
        use_reference: torch.BoolTensor | None = None,
        localization: str = "auto",
        return_layer_maps: bool = False,
        **kwargs,
    ) -> AnomalyGPTImageFeatures:
        """Looks at each picture once: map, score, and the vectors that tell the language model about them.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`): Normalised pictures.
            state_prompt_ids, state_prompt_labels (*optional*): See [`AnomalyGPTModel.get_text_embeds`]. Needed for the
                text-guided map of a model with a text tower.
            text_embeds (`torch.FloatTensor` of shape `(batch_size, 2, projection_dim)`, *optional*): State vectors
                computed before, instead of the prompts.
            memory_bank ([`MemoryBank`], *optional*): Good patches, for all pictures.
            reference_pixel_values (`torch.FloatTensor` of shape `(batch_size, k_shot, 3, height, width)`, *optional*):
                Good pictures, for each picture its own.
            use_reference (`torch.BoolTensor` of shape `(batch_size,)`, *optional*): Which pictures take the few-shot
                map; all by default. The others take the text-guided one.
            localization (`str`, defaults to `"auto"`): `"auto"`: few-shot where references are given (published), else
                text-guided. `"text"`, `"reference"`: one of them. `"mean"`: their average.
            return_layer_maps (`bool`, defaults to `False`): Whether the text-guided maps of the layers are computed
                even when the map does not need them.

        Returns:
            [`AnomalyGPTImageFeatures`]

        Raises:
            ValueError: If references are asked for but not given, **or** given twice, **or** the state prompts are
                missing, **or** `localization` is unknown.
        """
        has_reference = memory_bank is not None or reference_pixel_values is not None
        by_reference, by_text = maps_needed(localization, has_reference, use_reference)
        if memory_bank is not None and reference_pixel_values is not None:
            raise ValueError("`memory_bank` must be None when `reference_pixel_values` is given, got both. Pass one.")

        pooled, patch_features = read_vision_tower(self.vision_tower, pixel_values, self.config.out_indices)
        if self.visual_projection is not None:
            pooled = self.visual_projection(pooled)
        image_embeds = unit_length(pooled)

        layer_maps = few_shot_map = matching_features = None
        if by_text or return_layer_maps:
            text_embeds = self._state_embeds(len(pixel_values), state_prompt_ids, state_prompt_labels, text_embeds)
            with in_float32(pixel_values):
                embedded = self.localizer.embed(patch_features)
                layer_maps = text_guided_layer_maps(
                    embedded, text_embeds, self.config.map_temperature, self.config.map_size
                )
        if by_reference:
            with in_float32(pixel_values):
                matching_features = self.localizer.comparable(patch_features)
                few_shot_map = self._few_shot_map(matching_features, memory_bank, reference_pixel_values)
        text_map = layer_maps[:, :, 1].mean(1) if by_text else None
        anomaly_map = combine_maps(text_map, few_shot_map, use_reference, mean=localization == "mean")

        return AnomalyGPTImageFeatures(
            pooler_output=self.embed_evidence(image_embeds, anomaly_map),
            anomaly_map=anomaly_map,
            pred_score=anomaly_map.flatten(1).amax(1),
            layer_maps=layer_maps,
            image_embeds=image_embeds,
            patch_features=patch_features,
            matching_features=matching_features,
        )

    def embed_evidence(self, image_embeds: torch.Tensor, anomaly_map: torch.Tensor) -> torch.Tensor:
        """Puts what was seen into the language model's space: the picture first, then base and map prompts.

        Args:
            image_embeds (`torch.Tensor` of shape `(batch_size, projection_dim)`): Global vectors of unit length.
            anomaly_map (`torch.Tensor` of shape `(batch_size, map_size, map_size)`): Maps in [0, 1].

        Returns:
            `torch.Tensor` of shape `(batch_size, num_image_tokens + num_prompt_tokens, text_width)`
        """
        tokens = self.multi_modal_projector(image_embeds.to(self.multi_modal_projector.weight.dtype))
        prompts = self.prompt_learner(anomaly_map)
        tokens = tokens.unflatten(1, (self.config.num_image_tokens, -1)).to(prompts)
        return torch.cat([tokens, prompts], dim=1)

    def _few_shot_map(
        self,
        queries: tuple[PatchFeatures, ...],
        memory_bank: MemoryBank | None,
        reference_pixel_values: torch.Tensor | None,
    ) -> torch.Tensor:
        """Normalised by what is normal on the part where the configuration says so and it is known."""
        decision = self.config.decision
        if memory_bank is not None:
            memory_bank.check(memory_bank.fingerprint, tuple(layer.grid for layer in queries))
            bank = memory_bank.to(queries[0].vectors.device)
            anomaly_map = self.localizer.compare(queries, bank.features, required=bank.required)
            if not decision["normalised_maps"] or memory_bank.threshold is None:
                return anomaly_map
            return normalised_map(anomaly_map, memory_bank.threshold, decision["map_contrast"])
        batch_size, shape = len(queries[0].vectors), reference_pixel_values.shape
        if len(shape) != 5 or shape[0] != batch_size:
            raise ValueError(
                "`reference_pixel_values` must have shape (batch_size, k_shot, 3, height, width) with the batch "
                f"size {batch_size}, got {tuple(shape)}."
            )
        layers = self.get_patch_features(reference_pixel_values.flatten(0, 1))
        layers = tuple(PatchFeatures(layer.vectors.unflatten(0, shape[:2]), layer.grid) for layer in layers)
        bank = tuple(unit_length(layer.vectors).flatten(1, 2) for layer in layers)
        anomaly_map = self.localizer.compare(queries, bank)
        if not decision["normalised_maps"]:
            return anomaly_map
        thresholds = []
        for index, images in enumerate(reference_pixel_values):
            features = tuple(PatchFeatures(layer.vectors[index], layer.grid) for layer in layers)
            thresholds.append(reference_threshold(self, images, features))
        return normalised_map(anomaly_map, anomaly_map.new_tensor(thresholds), decision["map_contrast"])

    def _state_embeds(self, batch_size, state_prompt_ids, state_prompt_labels, text_embeds) -> torch.Tensor:
        for name, given in (("state_prompt_ids", state_prompt_ids), ("text_embeds", text_embeds)):
            if given is not None and len(given) not in (1, batch_size):
                raise ValueError(
                    f"`{name}` must have one row, or one for each of {batch_size} pictures, got {len(given)}."
                )
        if text_embeds is not None:
            return unit_length(text_embeds).expand(batch_size, -1, -1)
        if self.text_tower is None:
            return unit_length(self.localizer.state_embeds).expand(batch_size, -1, -1)
        if state_prompt_ids is None or state_prompt_labels is None:
            raise ValueError(
                "`state_prompt_ids` and `state_prompt_labels` must be given for a text-guided map, got None. "
                "`AnomalyGPTProcessor` makes them from `category`; or pass `text_embeds`."
            )
        return self.get_text_embeds(state_prompt_ids, state_prompt_labels).expand(batch_size, -1, -1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        state_prompt_ids: torch.LongTensor | None = None,
        state_prompt_labels: torch.LongTensor | None = None,
        text_embeds: torch.FloatTensor | None = None,
        memory_bank: MemoryBank | None = None,
        reference_pixel_values: torch.FloatTensor | None = None,
        use_reference: torch.BoolTensor | None = None,
        localization: str = "auto",
        return_layer_maps: bool = False,
        mm_encoder_outputs: dict[str, AnomalyGPTImageFeatures] | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs,
    ) -> AnomalyGPTOutput:
        """Embeds the tokens, replaces the placeholders by what was seen, and runs the language model.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): Token ids; each
                picture has `num_image_tokens + num_prompt_tokens` placeholders.
            mm_encoder_outputs (`dict[str, AnomalyGPTImageFeatures]`, *optional*): `{"image": ...}` from
                [`AnomalyGPTModel.get_image_features`], instead of pictures: no second look.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, text_width)`, *optional*):
                Embeddings instead of ids; placeholders are recognised by the embedding of the placeholder token.

        The other arguments are those of [`AnomalyGPTModel.get_image_features`] and of the language model.

        Raises:
            ValueError: If not exactly one of `input_ids` and `inputs_embeds` is given, **or** pictures are given both
                raw and encoded, **or** the placeholders do not match the pictures.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("`input_ids` must be given when `inputs_embeds` is not, got both or none. Pass one.")
        features = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None and features is not None:
            raise ValueError("`pixel_values` must be None when `mm_encoder_outputs` is given, got both. Pass one.")
        embeddings = self.get_input_embeddings()
        if inputs_embeds is None:
            inputs_embeds = embeddings(input_ids)
        if pixel_values is not None:
            references = (memory_bank, reference_pixel_values, use_reference)
            states = (state_prompt_ids, state_prompt_labels, text_embeds)
            features = self.get_image_features(
                pixel_values, *states, *references, localization, return_layer_maps, return_dict=True
            )
        if features is not None:
            token = self.config.image_token_id
            inputs_embeds = fill_placeholders(features.pooler_output, input_ids, inputs_embeds, token, embeddings)
        kwargs |= {"attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
        if self.virtual_tokens is None:
            outputs = self.language_model(**kwargs)
        else:
            outputs = self.virtual_tokens(self.language_model, **kwargs)
        return AnomalyGPTOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **({name: features[name] for name in ("anomaly_map", "pred_score", "layer_maps") if name in features}
               if features is not None else {}),
        )  # fmt: skip


def scaled_logits(logits: torch.Tensor, text_config: PreTrainedConfig) -> torch.Tensor:
    """Scores `(batch_size, sequence_length, vocab_size)` as the language model has them after its head.

    Those of Cohere are multiplied, those of Granite divided, those of Gemma 2 kept within a bound.
    """
    if (factor := getattr(text_config, "logit_scale", None)) is not None:
        logits = logits * factor
    if (divisor := getattr(text_config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (bound := getattr(text_config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / bound) * bound
    return logits


def new_text_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """`AutoModel` knows CLIP's text half; those of SigLIP and others are classes named like their configurations."""
    if type(config) in AutoModel._model_mapping:
        return AutoModel.from_config(config)
    model_class = getattr(transformers, type(config).__name__.replace("Config", "Model"), None)
    if model_class is None:
        raise ValueError(
            f"`text_tower_config` must be of a text encoder that transformers has, got {config.model_type!r}. "
            "CLIP's and SigLIP's are tested."
        )
    return model_class._from_config(config)


class AnomalyGPTForConditionalGeneration(AnomalyGPTPreTrainedModel, GenerationMixin):
    """The whole of AnomalyGPT: a picture and a question in, a map, a score and an answer out.

    Args:
        config ([`AnomalyGPTConfig`]): The configuration.
    """

    # The pixel losses are means over samples: they must not be rescaled by the number of answer tokens.
    accepts_loss_kwargs = False
    _auto_class = "AutoModelForImageTextToText"

    def __init__(self, config: AnomalyGPTConfig):
        super().__init__(config)
        self.model = AnomalyGPTModel(config)
        text_config, embeddings = config.text_config, self.get_input_embeddings()
        has_bias = getattr(text_config, "lm_head_bias", False)
        self.lm_head = nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=has_bias)
        name = next(name for name, module in self.named_modules() if module is embeddings)  # differs by language model
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self.post_init()
        if self.generation_config is not None:
            # A generated placeholder would be taken for a picture at the next step.
            self.generation_config.suppress_tokens = [config.image_token_id]

    @classmethod
    def from_vision_language_pretrained(
        cls, vision: str, language: str, text_tower: str | None = None, dtype: torch.dtype | str = "auto", **kwargs
    ) -> "AnomalyGPTForConditionalGeneration":
        """Composes pretrained parts; localizer, prompt learner and projector start from random values.

        Args:
            vision (`str`): Folder or Hub id of a vision model, or of a model with a `vision_model` (CLIP, SigLIP).
            language (`str`): Folder or Hub id of a causal language model.
            text_tower (`str`, *optional*): Folder or Hub id of the text tower, usually the same as `vision`. `None`:
                two learned state vectors.
            dtype (`torch.dtype` or `str`, defaults to `"auto"`): As in `from_pretrained`.
            kwargs: Fields of [`AnomalyGPTConfig`]. `image_token_index` defaults to the tokenizer's `<image>`, a new
                token if it has none; `out_indices` to the quarters of the depth, of staged models to the middle.

        Returns:
            [`AnomalyGPTForConditionalGeneration`]: Its `save_pretrained` writes a complete folder, with the processor.

        Raises:
            ValueError: If `language` has no tokenizer, **or** is of a kind that does not speak inside this model as it
                does alone, **or** a field does not fit the parts.
        """
        return compose(cls, vision, language, text_tower, dtype, **kwargs)

    def get_image_features(self, *args, **kwargs) -> AnomalyGPTImageFeatures:
        """See [`AnomalyGPTModel.get_image_features`]."""
        return self.model.get_image_features(*args, **kwargs)

    def _expand_multimodal_outputs(self, input_ids, mm_encoder_output, *args, **kwargs):
        # transformers repeats the features for the beams in place; the caller's must stay as they are.
        copies = {modality: type(output)(**output) for modality, output in mm_encoder_output.items()}
        return super()._expand_multimodal_outputs(input_ids, copies, *args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        state_prompt_ids: torch.LongTensor | None = None,
        state_prompt_labels: torch.LongTensor | None = None,
        text_embeds: torch.FloatTensor | None = None,
        memory_bank: MemoryBank | None = None,
        reference_pixel_values: torch.FloatTensor | None = None,
        use_reference: torch.BoolTensor | None = None,
        localization: str = "auto",
        return_layer_maps: bool = False,
        mm_encoder_outputs: dict[str, AnomalyGPTImageFeatures] | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        mask_labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> AnomalyGPTOutput:
        """Like [`AnomalyGPTModel.forward`], with the head and the losses.

        Args:
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*): Answer tokens; -100
                elsewhere.
            mask_labels (`torch.Tensor` of shape `(batch_size, map_size, map_size)`, *optional*): 1 where anomalous, 0
                elsewhere; a sample filled with -1 has no pixel target.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0): How many last positions get logits; 0 for all.

        Returns:
            [`AnomalyGPTOutput`]
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values=pixel_values,
            state_prompt_ids=state_prompt_ids,
            state_prompt_labels=state_prompt_labels,
            text_embeds=text_embeds,
            memory_bank=memory_bank,
            reference_pixel_values=reference_pixel_values,
            use_reference=use_reference,
            localization=localization,
            return_layer_maps=return_layer_maps or mask_labels is not None,
            mm_encoder_outputs=mm_encoder_outputs,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = scaled_logits(self.lm_head(outputs.last_hidden_state[:, kept]), self.config.text_config)

        losses = {}
        if labels is not None:
            losses["lm"] = self.loss_function(logits, labels, vocab_size=self.config.text_config.vocab_size)
        if mask_labels is not None:
            losses |= pixel_losses(outputs.layer_maps, mask_labels)
        weights = self.config.loss_weights
        return AnomalyGPTOutput(
            loss=sum(weights[name] * value for name, value in losses.items()) if losses else None,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            anomaly_map=outputs.anomaly_map,
            pred_score=outputs.pred_score,
            layer_maps=outputs.layer_maps,
            **{f"loss_{name}": value.detach() for name, value in losses.items()},
        )


def load_prompt_adapter(model: PreTrainedModel, source: str | None, **download: Any) -> bool:
    """Gives a model the virtual tokens and the other trained parts of an adapter of prompt tuning.

    Args:
        model ([`AnomalyGPTForConditionalGeneration`]): Changed in place, its configuration as well.
        source (`str`, *optional*): Folder or Hub id of an adapter.
        download: As in `from_pretrained`: `revision`, `token`, `local_files_only`, ...

    Returns:
        `bool`: Whether it is such an adapter; the model is untouched by one of another kind.

    Raises:
        ValueError: If the model has virtual tokens already, **or** a weight has no place or another shape in it.
    """
    optional = {"_raise_exceptions_for_missing_entries": False}
    settings = None if source is None else cached_file(source, "adapter_config.json", **optional, **download)
    if settings is None or json.loads(pathlib.Path(settings).read_text("utf-8")).get("peft_type") != "PROMPT_TUNING":
        return False
    if model.config.num_virtual_tokens:
        raise ValueError(
            f"`num_virtual_tokens` must be 0 before an adapter is loaded, got {model.config.num_virtual_tokens}. "
            "Load the adapter into the model that it was trained from."
        )
    weights = load_file(cached_file(source, "adapter_model.safetensors", **download))
    weights = {name.removeprefix("base_model."): tensor for name, tensor in weights.items()}
    prompts = weights.pop("prompt_embeddings")
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    shapes["the virtual tokens"] = (len(prompts), model.config.text_config.hidden_size)
    for name, tensor in (*weights.items(), ("the virtual tokens", prompts)):
        if shapes.get(name) != tensor.shape:
            raise ValueError(
                f"The adapter must fit the model, got {name} of shape {tuple(tensor.shape)} for "
                f"{tuple(shapes[name]) if name in shapes else 'no such weight'}. "
                "Load the model that it was trained from."
            )
    model.load_state_dict(weights, strict=False)
    model.config.num_virtual_tokens = len(prompts)
    anchor = model.get_input_embeddings().weight
    model.model.virtual_tokens = VirtualTokens(*prompts.shape).to(anchor.device, anchor.dtype).requires_grad_(False)
    with torch.no_grad():
        model.model.virtual_tokens.embeds.copy_(prompts)
    return True


__all__ = [
    "AnomalyGPTForConditionalGeneration",
    "AnomalyGPTImageFeatures",
    "AnomalyGPTModel",
    "dice_loss",
    "fill_placeholders",
    "focal_loss",
    "load_prompt_adapter",
    "new_text_tower",
    "pixel_losses",
]
