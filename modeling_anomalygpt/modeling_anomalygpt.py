"""AnomalyGPT: vision tower, text tower, localizer, prompt learner and language model, in this order (paper figure 2).

Tensors in, named outputs out. Knows nothing of paths, pictures, words, data sets or metrics.
"""

import torch
from torch import nn
from transformers import AutoModel, GenerationMixin
from transformers.cache_utils import Cache
from transformers.utils import can_return_tuple

from .base_anomalygpt import AnomalyGPTPreTrainedModel
from .configuration_anomalygpt import AnomalyGPTConfig
from .localization import (
    AnomalyLocalizer,
    combine_maps,
    in_float32,
    maps_needed,
    state_vectors,
    text_guided_layer_maps,
)
from .losses import pixel_losses
from .memory_bank import MemoryBank, PatchFeatures, unit_length, weights_fingerprint
from .outputs_anomalygpt import AnomalyGPTImageFeatures, AnomalyGPTOutput
from .placeholders import fill_placeholders
from .pretrained_parts import PretrainedParts
from .prompt_learner import PromptLearner
from .reference_maps import map_by_references
from .text_tower import new_text_tower
from .virtual_tokens import VirtualTokens
from .vision_features import read_vision_tower, vision_tower_widths


class AnomalyGPTModel(AnomalyGPTPreTrainedModel):
    r"""
    The parts without a language-model head: pictures and token ids in, hidden states and maps out.

    Args:
        config ([`AnomalyGPTConfig`]):
            The configuration.
    """

    _keys_to_ignore_on_load_unexpected = [r"lm_head"]

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
        )
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
        r"""
        Embeds the state prompts and averages them into one vector for each state (paper section 3.1).

        Args:
            state_prompt_ids (`torch.LongTensor` of shape `(batch_size, num_prompts, length)`):
                Token ids for the text tower.
            state_prompt_labels (`torch.LongTensor` of shape `(batch_size, num_prompts)`):
                0 for a prompt of a normal part, 1 of an anomalous one, -1 for padding.

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
        r"""
        Looks at each picture once: map, score, and the vectors that tell the language model about them.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`):
                Normalised pictures.
            state_prompt_ids, state_prompt_labels (*optional*):
                See [`AnomalyGPTModel.get_text_embeds`]. Needed for the text-guided map of a model with a text tower.
            text_embeds (`torch.FloatTensor` of shape `(batch_size, 2, projection_dim)`, *optional*):
                State vectors computed before, instead of the prompts.
            memory_bank ([`MemoryBank`], *optional*):
                Good patches, for all pictures.
            reference_pixel_values (`torch.FloatTensor` of shape `(batch_size, k_shot, 3, height, width)`, *optional*):
                Good pictures, for each picture its own.
            use_reference (`torch.BoolTensor` of shape `(batch_size,)`, *optional*):
                Which pictures take the few-shot map; all by default. The others take the text-guided one.
            localization (`str`, defaults to `"auto"`):
                `"auto"`: few-shot where references are given (published), else text-guided. `"text"`, `"reference"`:
                one of them. `"mean"`: their average.
            return_layer_maps (`bool`, defaults to `False`):
                Whether the text-guided maps of the layers are computed even when the map does not need them.

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

        layer_maps = few_shot_map = None
        if by_text or return_layer_maps:
            text_embeds = self._state_embeds(len(pixel_values), state_prompt_ids, state_prompt_labels, text_embeds)
            with in_float32(pixel_values):
                embedded = self.localizer.embed(patch_features)
                layer_maps = text_guided_layer_maps(
                    embedded, text_embeds, self.config.map_temperature, self.config.map_size
                )
        if by_reference:
            with in_float32(pixel_values):
                few_shot_map = map_by_references(self, patch_features, memory_bank, reference_pixel_values)
        text_map = layer_maps[:, :, 1].mean(1) if by_text else None
        anomaly_map = combine_maps(text_map, few_shot_map, use_reference, mean=localization == "mean")

        return AnomalyGPTImageFeatures(
            pooler_output=self.embed_evidence(image_embeds, anomaly_map),
            anomaly_map=anomaly_map,
            pred_score=anomaly_map.flatten(1).amax(1),
            layer_maps=layer_maps,
            image_embeds=image_embeds,
            patch_features=patch_features,
        )

    def embed_evidence(self, image_embeds: torch.Tensor, anomaly_map: torch.Tensor) -> torch.Tensor:
        r"""
        Puts what was seen into the language model's space: the picture first, then base and map prompts.

        Args:
            image_embeds (`torch.Tensor` of shape `(batch_size, projection_dim)`):
                Global vectors of unit length.
            anomaly_map (`torch.Tensor` of shape `(batch_size, map_size, map_size)`):
                Maps in [0, 1].

        Returns:
            `torch.Tensor` of shape `(batch_size, num_image_tokens + num_prompt_tokens, text_width)`
        """
        tokens = self.multi_modal_projector(image_embeds.to(self.multi_modal_projector.weight.dtype))
        prompts = self.prompt_learner(anomaly_map)
        tokens = tokens.unflatten(1, (self.config.num_image_tokens, -1)).to(prompts)
        return torch.cat([tokens, prompts], dim=1)

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
        r"""
        Embeds the tokens, replaces the placeholders by what was seen, and runs the language model.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Token ids; each picture has `num_image_tokens + num_prompt_tokens` placeholders.
            mm_encoder_outputs (`dict[str, AnomalyGPTImageFeatures]`, *optional*):
                `{"image": ...}` from [`AnomalyGPTModel.get_image_features`], instead of pictures: no second look.
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


class AnomalyGPTForConditionalGeneration(AnomalyGPTPreTrainedModel, GenerationMixin):
    r"""
    The whole of AnomalyGPT: a picture and a question in, a map, a score and an answer out.

    Args:
        config ([`AnomalyGPTConfig`]):
            The configuration.
    """

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    # The pixel losses are means over samples: they must not be rescaled by the number of answer tokens.
    accepts_loss_kwargs = False

    def __init__(self, config: AnomalyGPTConfig):
        super().__init__(config)
        self.model = AnomalyGPTModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()
        if self.generation_config is not None:
            # A generated placeholder would be taken for a picture at the next step.
            self.generation_config.suppress_tokens = [config.image_token_id]

    @classmethod
    def from_vision_language_pretrained(
        cls, vision: str, language: str, text_tower: str | None = None, dtype: torch.dtype | str = "auto", **kwargs
    ) -> "AnomalyGPTForConditionalGeneration":
        r"""
        Composes pretrained parts; localizer, prompt learner and projector start from random values.

        Args:
            vision (`str`):
                Folder or Hub id of a vision model, or of a model with a `vision_model` (CLIP, SigLIP).
            language (`str`):
                Folder or Hub id of a causal language model.
            text_tower (`str`, *optional*):
                Folder or Hub id of the text tower, usually the same as `vision`. `None`: two learned state vectors.
            dtype (`torch.dtype` or `str`, defaults to `"auto"`):
                As in `from_pretrained`.
            kwargs:
                Fields of [`AnomalyGPTConfig`]. `image_token_index` defaults to a new token after the vocabulary,
                `out_indices` to the quarters of the depth.

        Returns:
            [`AnomalyGPTForConditionalGeneration`]
        """
        parts = PretrainedParts.load(vision, language, text_tower, dtype)
        with torch.device("meta"):  # no memory for the random weights that the parts replace
            model = cls(parts.config(**kwargs))
        parts.install(model)
        return model

    def get_image_features(self, *args, **kwargs) -> AnomalyGPTImageFeatures:
        """See [`AnomalyGPTModel.get_image_features`]."""
        return self.model.get_image_features(*args, **kwargs)

    def _expand_multimodal_outputs(self, input_ids, mm_encoder_output, *args, **kwargs):
        # transformers repeats the features for the beams in place; the caller's must stay as they are.
        copies = {modality: type(output)(**output) for modality, output in mm_encoder_output.items()}
        return super()._expand_multimodal_outputs(input_ids, copies, *args, **kwargs)

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """Saves as usual; with custom code, `AutoModel` finds the model without a head as well."""
        if self._auto_class is not None:
            base = {"AutoModel": "modeling_anomalygpt.AnomalyGPTModel"}
            self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **base}
        super().save_pretrained(save_directory, **kwargs)

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
        r"""
        Like [`AnomalyGPTModel.forward`], with the head and the losses.

        Args:
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Answer tokens; -100 elsewhere.
            mask_labels (`torch.Tensor` of shape `(batch_size, map_size, map_size)`, *optional*):
                1 where anomalous, 0 elsewhere; a sample filled with -1 has no pixel target.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0):
                How many last positions get logits; 0 for all.

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
        logits = self.lm_head(outputs.last_hidden_state[:, kept])

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


__all__ = ["AnomalyGPTForConditionalGeneration", "AnomalyGPTModel", "AnomalyGPTPreTrainedModel"]
