"""What the models return, field by field."""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput


@dataclass
class AnomalyGPTImageFeatures(ModelOutput):
    r"""
    What one look at a batch of pictures yields.

    Args:
        pooler_output (`torch.FloatTensor` of shape `(batch_size, num_image_tokens + num_prompt_tokens, text_width)`):
            Vectors that replace the placeholders: the picture, then the base prompts, then the map prompts.
        anomaly_map (`torch.FloatTensor` of shape `(batch_size, map_size, map_size)`):
            float32 in [0, 1].
        pred_score (`torch.FloatTensor` of shape `(batch_size,)`):
            The map's maximum (paper section 4.1).
        layer_maps (`torch.FloatTensor` of shape `(batch_size, num_layers, 2, map_size, map_size)`, *optional*):
            Text-guided probabilities of normal and anomalous, layer by layer.
        image_embeds (`torch.FloatTensor` of shape `(batch_size, projection_dim)`):
            Global vectors of unit length.
        patch_features (`tuple[PatchFeatures]`):
            The read-out layers, as the vision tower made them.
    """

    pooler_output: torch.FloatTensor | None = None
    anomaly_map: torch.FloatTensor | None = None
    pred_score: torch.FloatTensor | None = None
    layer_maps: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    patch_features: tuple | None = None


@dataclass
class AnomalyGPTOutput(ModelOutput):
    r"""
    Output of both models; the fields of [`AnomalyGPTImageFeatures`] are repeated where a picture was given.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*):
            Weighted sum of the three losses that were asked for.
        logits (`torch.FloatTensor` of shape `(batch_size, sequence_length, vocab_size)`):
            Scores of the next token.
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, sequence_length, text_width)`):
            The language model's output before the head ([`AnomalyGPTModel`] only).
        loss_lm, loss_focal, loss_dice (`torch.FloatTensor` of shape `(1,)`, *optional*):
            The parts of the loss, detached; the pixel losses are summed over the layers (paper section 3.4).
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


__all__ = ["AnomalyGPTImageFeatures", "AnomalyGPTOutput"]
