"""The sizes of the embedded checkpoint: which parts it has, and how they are put together untrained."""

import pathlib

from transformers import AutoTokenizer

from modeling_anomalygpt import AnomalyGPTConfig, AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor
from modeling_anomalygpt.image_processing_anomalygpt import AnomalyGPTImageProcessor

IMAGE_SIZE = 256
MAP_SIZE = 56


def tiny_configuration(vision_config: dict, vocab_size: int) -> AnomalyGPTConfig:
    """A Llama of nine layers behind the given vision model."""
    return AnomalyGPTConfig(
        vision_config=vision_config,
        text_tower_config=None,
        text_config={
            "model_type": "llama",
            "vocab_size": vocab_size,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 9,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "max_position_embeddings": 1024,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": True,
        },
        out_indices=[0, 1, 2],
        projection_dim=64,
        map_size=MAP_SIZE,
        self_similarity=0.3,
        map_smoothing=2,
        decision={
            "normalised_maps": True,
            "match_exposure": True,
            "needs_references": True,
            "map_contrast": 3.0,
            "region_connection": 0.6,
            "region_extent": 0.9,
            "region_peak": 0.8,
            "language_weight": 0.0,
            "undecided_margin": 0.1,
            "out_of_domain_distance": 0.25,
            "out_of_domain_factor": 1.5,
        },
        answering="grounded",
        prompt_channels=[16, 40, 96],
        image_token_index=3,
    )


def untrained(
    vision_config: dict, tokenizer_dir: pathlib.Path
) -> tuple[AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor]:
    """Model with random weights, and its processor."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    config = tiny_configuration(vision_config, len(tokenizer))
    processor = AnomalyGPTProcessor(
        AnomalyGPTImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}),
        tokenizer,
        num_image_tokens=config.num_image_tokens,
        num_prompt_tokens=config.num_prompt_tokens,
    )
    return AnomalyGPTForConditionalGeneration(config), processor
