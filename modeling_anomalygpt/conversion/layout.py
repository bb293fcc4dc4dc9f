"""Keys and shapes of the four published files, the configuration they tell, and which parameter of ours each becomes.

Knows names, shapes and the five ways in which a tensor is rearranged; knows nothing of files, folders or tokenizers.
The layouts: ImageBind-Huge, PandaGPT's delta (LoRA and image projection), AnomalyGPT's delta (localizer and prompt
learner), and LLaMA as transformers names it (Vicuna).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ..configuration_anomalygpt import AnomalyGPTConfig
from ..modeling_anomalygpt import AnomalyGPTForConditionalGeneration

Shapes = Mapping[str, tuple[int, ...]]

# Parts of ImageBind that AnomalyGPT has no use for. The text temperature multiplies all prompts of an ensemble alike
# and cancels when their mean is brought to unit length; the mask is the causal one that a text tower builds itself.
IGNORED_IMAGEBIND_KEYS = re.compile(
    r"modality_(preprocessors|trunks|heads|postprocessors)\.(audio|depth|thermal|imu)\."
    r"|modality_postprocessors\.text\.1\.log_logit_scale$|modality_preprocessors\.text\.mask$"
)
# Computed from the configuration by today's transformers, stored by those of 2023.
IGNORED_LLAMA_KEYS = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$")

_LORA_KEY = "llama_model.base_model.model.{module}.lora_{side}.default.weight"
_LORA_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_NOT_OF_LLAMA = {
    "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "use_cache",
    "max_sequence_length", "pad_token_id", "rope_scaling", "rope_theta", "rope_parameters",
}  # fmt: skip
_POOLED = 3  # indices per block of the published prompt net: convolution, activation, pooling


@dataclass(frozen=True)
class Origin:
    """Where a parameter comes from: `file` (one of the four parts), `key` in it, and how it is rearranged."""

    file: str
    key: str
    change: str = "none"

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        """Rearrange the published tensor into our parameter.

        `query`, `key`, `value`: a third of the rows of a fused projection. `squeeze`: leading axes of length one are
        dropped. `sum_time`: a 3-D kernel over an image that was repeated in time is a 2-D kernel, summed over time.
        """
        if self.change in ("query", "key", "value"):
            return tensor.chunk(3)[("query", "key", "value").index(self.change)]
        if self.change == "squeeze":
            return tensor.reshape(self.shape(tuple(tensor.shape)))
        return tensor.float().sum(2) if self.change == "sum_time" else tensor

    def shape(self, published: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of our parameter for a published tensor of shape `published`."""
        if self.change in ("query", "key", "value"):
            return (published[0] // 3, *published[1:])
        if self.change == "squeeze":
            while len(published) > 1 and published[0] == 1:
                published = published[1:]
            return published
        return published[:2] + published[3:] if self.change == "sum_time" else published


def published_config(
    published: Mapping[str, Shapes],
    llama_config: dict,
    image_token_index: int,
    num_attention_heads: int = 16,
    out_indices: list[int] | None = None,
) -> AnomalyGPTConfig:
    """The configuration of a published model: the sizes that its tensors tell, and the values that no tensor tells.

    Args:
        published (`Mapping[str, Mapping[str, tuple[int, ...]]]`): Shapes by published key, of each file.
        llama_config (`dict`): `config.json` of the language model.
        image_token_index (`int`): Id of the placeholder.
        num_attention_heads, out_indices: See [`convert`].

    Raises:
        ValueError: If a tensor that tells a size is missing, **or** the patches form no square, **or** a width is no
            multiple of the heads, **or** the depth has no quarters, **or** there are not as many read-out blocks as
            layers of the localizer.
    """

    def shape(file: str, key: str) -> tuple[int, ...]:
        if key not in published[file]:
            raise ValueError(f"`{file}` must hold the key '{key}', got none. Is it the right file?")
        return published[file][key]

    def depth(file: str, prefix: str) -> int:
        indices = [int(key[len(prefix) :].split(".")[0]) for key in published[file] if key.startswith(prefix)]
        if not indices:
            raise ValueError(f"`{file}` must hold keys '{prefix}*', got none. Is it the right file?")
        return max(indices) + 1

    base_prompts, kernels = shape("anomalygpt", "prompt_learner.base_prompts"), _prompt_kernels(shape, published)
    num_layer_maps = depth("anomalygpt", "image_decoder.fc.")
    patch_width, *_, patch_size = shape("imagebind", "modality_preprocessors.vision.rgbt_stem.proj.1.weight")
    num_patches = shape("imagebind", "modality_preprocessors.vision.pos_embedding_helper.pos_embed")[1] - 1
    side = round(num_patches**0.5)
    if side**2 != num_patches:
        raise ValueError(f"`imagebind` must have a square number of patches, got {num_patches}. Check the file.")
    vocabulary, text_width = shape("imagebind", "modality_preprocessors.text.token_embedding.weight")
    towers = {}
    for part, width in (("vision", patch_width), ("text", text_width)):
        if width % num_attention_heads:
            raise ValueError(
                f"`num_attention_heads` must divide the {part} tower's width {width}, got {num_attention_heads}. "
                "ImageBind-Huge has 16."
            )
        towers[part] = {
            "model_type": f"clip_{part}_model",
            "hidden_size": width,
            "intermediate_size": shape("imagebind", f"modality_trunks.{part}.blocks.0.mlp.fc1.weight")[0],
            "num_hidden_layers": depth("imagebind", f"modality_trunks.{part}.blocks."),
            "num_attention_heads": num_attention_heads,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "projection_dim": shape("imagebind", "modality_heads.vision.2.weight")[0],
        }
    towers["vision"] |= {"image_size": side * patch_size, "patch_size": patch_size}
    towers["text"] |= {
        "vocab_size": vocabulary,
        "max_position_embeddings": shape("imagebind", "modality_preprocessors.text.pos_embed")[1],
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
    map_size, channels = side * patch_size, [kernel[0] for kernel in kernels[:-1]]
    return AnomalyGPTConfig(
        vision_config=towers["vision"],
        text_tower_config=towers["text"],
        text_config={"model_type": "llama"}
        | {key: value for key, value in llama_config.items() if key not in _NOT_OF_LLAMA}
        | {"bos_token_id": 1, "eos_token_id": 2},  # some LLaMA conversions of 2023 have 0 and 1
        projection_dim=towers["vision"]["projection_dim"],
        out_indices=_read_out_blocks(towers["vision"]["num_hidden_layers"], num_layer_maps, out_indices),
        map_size=map_size,
        num_base_prompts=base_prompts[0],
        prompt_channels=channels,
        # What the last convolution leaves of the map, halved after each of the others.
        num_map_prompts=((map_size >> len(channels)) - kernels[-1][-1] + 1) ** 2,
        image_token_index=image_token_index,
    )


def _prompt_kernels(shape: Callable, published: Mapping[str, Shapes]) -> list[tuple[int, ...]]:
    pattern = re.compile(r"prompt_learner\.meta_net\.(\d+)\.weight$")
    indices = [int(match[1]) for match in map(pattern.match, published["anomalygpt"]) if match]
    if not indices:
        raise ValueError("`anomalygpt` must hold keys prompt_learner.meta_net.*, got none. Is it an AnomalyGPT delta?")
    return [shape("anomalygpt", f"prompt_learner.meta_net.{i}.weight") for i in range(0, max(indices) + 1, _POOLED)]


def _read_out_blocks(depth: int, num_layer_maps: int, out_indices: list[int] | None) -> list[int]:
    if out_indices is None and depth % 4:
        raise ValueError(
            f"`imagebind` must have a depth of four equal parts, got {depth} blocks. Is the download incomplete? "
            "Else name the read-out blocks in `out_indices`."
        )
    out_indices = out_indices or [depth * quarter // 4 for quarter in (1, 2, 3, 4)]
    if len(out_indices) != num_layer_maps:
        raise ValueError(
            f"`anomalygpt` must have one image_decoder layer for each of the read-out blocks {out_indices}, got "
            f"{num_layer_maps}. Name as many in `out_indices`."
        )
    return out_indices


def lora_rank(pandagpt: Shapes) -> int:
    """The rank of PandaGPT's LoRA matrices; `ValueError` where they have none in common."""
    ranks = {shape[0] for key, shape in pandagpt.items() if ".lora_A." in key}
    if len(ranks) != 1:
        raise ValueError(
            f"`pandagpt` must hold LoRA matrices of one rank, got ranks {sorted(ranks)}. Is it a PandaGPT delta?"
        )
    return ranks.pop()


def parameter_shapes(config: AnomalyGPTConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters of the model, found without memory on the meta device."""
    with torch.device("meta"):
        model = AnomalyGPTForConditionalGeneration(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def parameter_origins(config: AnomalyGPTConfig) -> dict[str, Origin]:
    """Where every parameter of the model comes from, LoRA aside."""
    origins = _tower_origins("vision", config.vision_config.num_hidden_layers)
    origins |= _tower_origins("text", config.text_tower_config.num_hidden_layers)
    for side in ("weight", "bias"):
        origins[f"model.multi_modal_projector.{side}"] = Origin("pandagpt", f"llama_proj.{side}")
        for i in range(len(config.out_indices)):
            origins[f"model.localizer.layers.{i}.{side}"] = Origin("anomalygpt", f"image_decoder.fc.{i}.{side}")
        for i in range(len(config.prompt_channels) + 1):
            key = f"prompt_learner.meta_net.{_POOLED * i}.{side}"
            origins[f"model.prompt_learner.convolutions.{i}.{side}"] = Origin("anomalygpt", key)
    origins["model.prompt_learner.base_prompts"] = Origin("anomalygpt", "prompt_learner.base_prompts")
    for key in _llama_keys(config.text_config.num_hidden_layers):
        ours = key if key == "lm_head.weight" else key.replace("model.", "model.language_model.", 1)
        origins[ours] = Origin("language_model", key)
    return origins


def _llama_keys(depth: int) -> list[str]:
    """The keys of a LLaMA checkpoint with `depth` blocks."""
    parts = [f"self_attn.{name}" for name in _LORA_PROJECTIONS]
    parts += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]
    blocks = [f"model.layers.{i}.{part}.weight" for i in range(depth) for part in parts]
    return ["model.embed_tokens.weight", *blocks, "model.norm.weight", "lm_head.weight"]


def lora_keys(language_depth: int) -> dict[str, tuple[str, str]]:
    """LLaMA keys that PandaGPT's LoRA changes, with the keys of its two matrices (down, up).

    Example:
    ```python
    >>> lora_keys(1)["model.layers.0.self_attn.q_proj.weight"][0]
    'llama_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight'

    ```
    """
    modules = [f"model.layers.{i}.self_attn.{name}" for i in range(language_depth) for name in _LORA_PROJECTIONS]
    return {
        f"{module}.weight": (_LORA_KEY.format(module=module, side="A"), _LORA_KEY.format(module=module, side="B"))
        for module in modules
    }


def adapter_key(published_key: str) -> str:
    """The name PEFT gives to one of PandaGPT's LoRA matrices when it is kept as an adapter of our model.

    Example:
    ```python
    >>> adapter_key("llama_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight")
    'base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight'

    ```
    """
    key = published_key.removeprefix("llama_model.base_model.model.model.").replace(".default.", ".")
    return f"base_model.model.model.language_model.{key}"


# Our parameter and the published key with its change, of each tower; {side} is weight and bias.
_TOWERS = {
    "vision": {
        "vision_tower.embeddings.class_embedding": ("preprocessors.vision.cls_token", "squeeze"),
        "vision_tower.embeddings.patch_embedding.weight": ("preprocessors.vision.rgbt_stem.proj.1.weight", "sum_time"),
        "vision_tower.embeddings.position_embedding.weight": (
            "preprocessors.vision.pos_embedding_helper.pos_embed",
            "squeeze",
        ),
        "vision_tower.pre_layrnorm.{side}": ("trunks.vision.pre_transformer_layer.0.{side}", "none"),
        "vision_tower.post_layernorm.{side}": ("heads.vision.0.{side}", "none"),
        "visual_projection.weight": ("heads.vision.2.weight", "none"),
    },
    "text": {
        "text_tower.embeddings.token_embedding.weight": ("preprocessors.text.token_embedding.weight", "none"),
        "text_tower.embeddings.position_embedding.weight": ("preprocessors.text.pos_embed", "squeeze"),
        "text_tower.final_layer_norm.{side}": ("heads.text.proj.0.{side}", "none"),
        "text_projection.weight": ("heads.text.proj.1.weight", "none"),
    },
}
_BLOCK = {
    "self_attn.out_proj": "attn.out_proj", "layer_norm1": "norm_1", "layer_norm2": "norm_2", "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}  # fmt: skip


def _tower_origins(tower: str, depth: int) -> dict[str, Origin]:
    origins = {}
    for side in ("weight", "bias"):
        for ours, (key, change) in _TOWERS[tower].items():
            origins[f"model.{ours.format(side=side)}"] = Origin(
                "imagebind", f"modality_{key.format(side=side)}", change
            )
        for i in range(depth):
            theirs, block = f"modality_trunks.{tower}.blocks.{i}", f"model.{tower}_tower.encoder.layers.{i}"
            for part in ("query", "key", "value"):
                name = f"{block}.self_attn.{part[0]}_proj.{side}"
                origins[name] = Origin("imagebind", f"{theirs}.attn.in_proj_{side}", part)
            for ours, name in _BLOCK.items():
                origins[f"{block}.{ours}.{side}"] = Origin("imagebind", f"{theirs}.{name}.{side}")
    return origins
