"""Pretrained vision and language models as parts of a new AnomalyGPT: load, derive the configuration, install."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from .configuration_anomalygpt import AnomalyGPTConfig


@dataclass
class PretrainedParts:
    """Loaded parts; the projections are those of a dual encoder (CLIP), or `None`."""

    vision_tower: PreTrainedModel
    text_tower: PreTrainedModel | None
    visual_projection: nn.Linear | None
    text_projection: nn.Linear | None
    language_model: PreTrainedModel

    @classmethod
    def load(cls, vision: str, language: str, text_tower: str | None, dtype: torch.dtype | str) -> "PretrainedParts":
        """Loads each part from its folder or Hub id; of a dual encoder, the half that is asked for."""
        whole_vision = AutoModel.from_pretrained(vision, dtype=dtype)
        whole_text = AutoModel.from_pretrained(text_tower, dtype=dtype) if text_tower is not None else None
        visual_projection = getattr(whole_vision, "visual_projection", None)
        text_projection = getattr(whole_text, "text_projection", None)
        projected = isinstance(visual_projection, nn.Linear) and isinstance(text_projection, nn.Linear)
        return cls(
            vision_tower=getattr(whole_vision, "vision_model", whole_vision),
            text_tower=getattr(whole_text, "text_model", whole_text),
            visual_projection=visual_projection if projected else None,
            text_projection=text_projection if projected else None,
            language_model=AutoModelForCausalLM.from_pretrained(language, dtype=dtype),
        )

    def config(self, **fields) -> AnomalyGPTConfig:
        """The configuration that fits the parts; `fields` override what is derived."""
        derived = {"image_token_index": self.language_model.get_input_embeddings().num_embeddings}
        depth = getattr(self.vision_tower.config, "num_hidden_layers", None)
        if isinstance(depth, int):
            derived["out_indices"] = sorted({max(1, depth * quarter // 4) for quarter in (1, 2, 3, 4)})
        if self.text_tower is not None:
            derived["project_towers"] = self.text_projection is not None
            text_config = self.text_tower.config
            own_width = getattr(text_config, "projection_size", None) or text_config.hidden_size
            derived["projection_dim"] = self.text_projection.out_features if self.text_projection else own_width
        return AnomalyGPTConfig(
            vision_config=self.vision_tower.config,
            text_tower_config=self.text_tower.config if self.text_tower is not None else None,
            text_config=self.language_model.config.get_text_config(),
            **(derived | fields),
        )

    def install(self, model: PreTrainedModel) -> None:
        """Puts the parts into a model on the meta device; new ones start in the dtype of their neighbours."""
        image_token_id = model.config.image_token_id
        if image_token_id >= self.language_model.get_input_embeddings().num_embeddings:
            self.language_model.resize_token_embeddings(image_token_id + 1)
            model.config.text_config.vocab_size = image_token_id + 1
        model.model.vision_tower = self.vision_tower
        model.model.text_tower = self.text_tower
        if self.visual_projection is not None:
            model.model.visual_projection = self.visual_projection
            model.model.text_projection = self.text_projection
        model.model.language_model = getattr(self.language_model, self.language_model.base_model_prefix)
        model.lm_head = self.language_model.get_output_embeddings()
        model.tie_weights()
        for part in model.model.children():
            if any(parameter.is_meta for parameter in part.parameters()):
                part.to_empty(device=self.language_model.device)
                part.apply(model._init_weights)
        for part in (model.model.prompt_learner, model.model.multi_modal_projector):
            part.to(self.language_model.dtype)
        if model.model.visual_projection is not None:
            model.model.visual_projection.to(self.vision_tower.dtype)
        if model.model.text_projection is not None:
            model.model.text_projection.to(self.text_tower.dtype)


__all__ = ["PretrainedParts"]
