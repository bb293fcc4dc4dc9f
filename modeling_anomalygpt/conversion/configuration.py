"""From the sizes of published tensors to a configuration, and from a configuration to the parameters it has.

Knows which values of the published model no tensor tells; knows no file.
"""

import torch

from ..configuration_anomalygpt import AnomalyGPTConfig
from ..modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from .layout import PublishedSizes


def parameter_shapes(config: AnomalyGPTConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters of the model, found without memory on the meta device."""
    with torch.device("meta"):
        model = AnomalyGPTForConditionalGeneration(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def published_config(
    sizes: PublishedSizes,
    llama_config: dict,
    image_token_index: int,
    num_attention_heads: int = 16,
    out_indices: list[int] | None = None,
) -> AnomalyGPTConfig:
    r"""
    The configuration of a published model.

    Args:
        sizes (`PublishedSizes`):
            What the tensors tell.
        llama_config (`dict`):
            `config.json` of the language model.
        image_token_index (`int`):
            Id of the placeholder.
        num_attention_heads (`int`, defaults to 16):
            Heads of both towers.
        out_indices (`list[int]`, *optional*):
            Read-out blocks, counted from 1; the quarters of the vision tower's depth by default.

    Returns:
        [`AnomalyGPTConfig`]: The configuration.

    Raises:
        ValueError: If a width is no multiple of the heads, **or** the depth has no quarters, **or** there are not as
            many read-out blocks as layers of the localizer.
    """
    for part, width in (("vision", sizes.vision_width), ("text", sizes.text_width)):
        if width % num_attention_heads:
            raise ValueError(
                f"`num_attention_heads` must divide the {part} tower's width {width}, got {num_attention_heads}."
            )
    if out_indices is None and sizes.vision_depth % 4:
        raise ValueError(
            f"`imagebind` must have a depth of four equal parts, got {sizes.vision_depth} blocks. Is the download "
            "incomplete? Else name the read-out blocks in `out_indices`."
        )
    out_indices = out_indices or [sizes.vision_depth * quarter // 4 for quarter in (1, 2, 3, 4)]
    if len(out_indices) != sizes.num_layer_maps:
        raise ValueError(
            f"`anomalygpt` must have one image_decoder layer for each of the read-out blocks {out_indices}, got "
            f"{sizes.num_layer_maps}."
        )
    tower = {"num_attention_heads": num_attention_heads, "hidden_act": "gelu", "layer_norm_eps": 1e-6}
    tower["projection_dim"] = sizes.projection_dim
    left_out = {"architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "_name_or_path"}
    left_out |= {"max_sequence_length", "pad_token_id", "rope_scaling", "rope_theta", "rope_parameters", "use_cache"}
    return AnomalyGPTConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": sizes.vision_width,
            "intermediate_size": sizes.vision_mlp_width,
            "num_hidden_layers": sizes.vision_depth,
            "image_size": sizes.image_size,
            "patch_size": sizes.patch_size,
            **tower,
        },
        text_tower_config={
            "model_type": "clip_text_model",
            "hidden_size": sizes.text_width,
            "intermediate_size": sizes.text_mlp_width,
            "num_hidden_layers": sizes.text_depth,
            "vocab_size": sizes.text_vocabulary,
            "max_position_embeddings": sizes.text_context,
            "bos_token_id": sizes.text_vocabulary - 2,
            "eos_token_id": sizes.text_vocabulary - 1,
            "pad_token_id": sizes.text_vocabulary - 1,
            **tower,
        },
        text_config={"model_type": "llama"}
        | {key: value for key, value in llama_config.items() if key not in left_out}
        | {"bos_token_id": 1, "eos_token_id": 2},  # some LLaMA conversions of 2023 have 0 and 1
        projection_dim=sizes.projection_dim,
        out_indices=out_indices,
        map_size=sizes.image_size,
        num_base_prompts=sizes.num_base_prompts,
        prompt_channels=list(sizes.prompt_channels),
        num_map_prompts=sizes.num_map_prompts,
        image_token_index=image_token_index,
    )


__all__ = ["parameter_shapes", "published_config"]
