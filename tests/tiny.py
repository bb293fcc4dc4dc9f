"""The smallest AnomalyGPT that has every part, for tests."""

import torch

from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTConfig

IMAGE_TOKEN = 96
TEXT_CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION_CONFIG = {
    "model_type": "clip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
    "hidden_act": "gelu",
}
TEXT_TOWER_CONFIG = {
    "model_type": "clip_text_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 53,
    "max_position_embeddings": 12,
    "eos_token_id": 2,
}


def tiny_config(**changes) -> AnomalyGPTConfig:
    fields = {
        "vision_config": VISION_CONFIG,
        "text_tower_config": TEXT_TOWER_CONFIG,
        "text_config": TEXT_CONFIG,
        "projection_dim": 20,
        "out_indices": [2, 4],
        "map_size": 28,
        "num_base_prompts": 3,
        "prompt_channels": [4, 8],
        "num_map_prompts": 4,
        "image_token_index": IMAGE_TOKEN,
    }
    return AnomalyGPTConfig(**(fields | changes))


def tiny_inputs(config: AnomalyGPTConfig, batch_size: int = 2, text_length: int = 6, size: int = 28, seed: int = 0):
    """Random pictures, prompts and state prompts that fit `config`."""
    generator = torch.Generator().manual_seed(seed)
    placeholders = config.num_image_tokens + config.num_prompt_tokens
    text = torch.randint(3, 90, (batch_size, text_length), generator=generator)
    image = torch.full((batch_size, placeholders), config.image_token_id)
    inputs = {
        "input_ids": torch.cat([torch.ones(batch_size, 1, dtype=torch.long), image, text], dim=1),
        "pixel_values": torch.randn(batch_size, 3, size, size, generator=generator),
    }
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if config.text_tower_config is not None:
        inputs["state_prompt_ids"] = torch.randint(3, 50, (batch_size, 5, 8), generator=generator)
        inputs["state_prompt_labels"] = torch.tensor([[0, 0, 0, 1, 1]]).expand(batch_size, -1)
    return inputs
