"""Keys and shapes of the four published files, and which parameter of ours each becomes.

Knows names, shapes and the five ways in which a tensor is rearranged; knows nothing of files, folders or tokenizers.
The layouts: ImageBind-Huge, PandaGPT's delta (LoRA and image projection), AnomalyGPT's delta (localizer and prompt
learner), and LLaMA as transformers names it (Vicuna).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

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
_POOLED = 3  # indices per block of the published prompt net: convolution, activation, pooling


@dataclass(frozen=True)
class Origin:
    """Where a parameter comes from: `file` (one of the four parts), `key` in it, and how it is rearranged."""

    file: str
    key: str
    change: str = "none"

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        """
        Rearrange the published tensor into our parameter.

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


@dataclass(frozen=True)
class PublishedSizes:
    """Every size of the model that its tensors tell. Heads are not among them: all published towers have 16."""

    vision_width: int
    vision_depth: int
    vision_mlp_width: int
    patch_size: int
    image_size: int
    text_width: int
    text_depth: int
    text_mlp_width: int
    text_vocabulary: int
    text_context: int
    projection_dim: int
    language_width: int
    lora_rank: int
    num_layer_maps: int
    num_base_prompts: int
    prompt_channels: tuple[int, ...]
    prompt_kernel: int

    @property
    def num_map_prompts(self) -> int:
        """Prompt vectors made from the map: what the last convolution leaves of the halved map."""
        return ((self.image_size >> len(self.prompt_channels)) - self.prompt_kernel + 1) ** 2


def infer_sizes(imagebind: Shapes, pandagpt: Shapes, anomalygpt: Shapes) -> PublishedSizes:
    r"""
    Read every size of the model off the tensors' shapes.

    Args:
        imagebind (`Mapping[str, tuple[int, ...]]`):
            Shapes by published key, of ImageBind's file.
        pandagpt (`Mapping[str, tuple[int, ...]]`):
            The same of PandaGPT's delta.
        anomalygpt (`Mapping[str, tuple[int, ...]]`):
            The same of AnomalyGPT's delta.

    Returns:
        `PublishedSizes`: The sizes.

    Raises:
        ValueError: If a tensor that tells a size is missing, **or** the patches form no square.
    """
    vision, text = "modality_trunks.vision.blocks.", "modality_trunks.text.blocks."
    stem = _shape(imagebind, "imagebind", "modality_preprocessors.vision.rgbt_stem.proj.1.weight")
    positions = _shape(imagebind, "imagebind", "modality_preprocessors.vision.pos_embedding_helper.pos_embed")
    vocabulary = _shape(imagebind, "imagebind", "modality_preprocessors.text.token_embedding.weight")
    head = _shape(imagebind, "imagebind", "modality_heads.vision.2.weight")
    base_prompts = _shape(anomalygpt, "anomalygpt", "prompt_learner.base_prompts")
    convolutions = prompt_net_indices(anomalygpt)
    if not convolutions:
        raise ValueError("`anomalygpt` must hold keys prompt_learner.meta_net.*, got none. Is it an AnomalyGPT delta?")
    kernels = [_shape(anomalygpt, "anomalygpt", f"prompt_learner.meta_net.{i}.weight") for i in convolutions]
    side = round((positions[1] - 1) ** 0.5)
    if side**2 != positions[1] - 1:
        raise ValueError(f"`imagebind` must have a square number of patches, got {positions[1] - 1}.")
    ranks = {shape[0] for key, shape in pandagpt.items() if ".lora_A." in key}
    if len(ranks) != 1:
        raise ValueError(
            f"`pandagpt` must hold LoRA matrices of one rank, got ranks {sorted(ranks)}. Is it a PandaGPT delta?"
        )
    return PublishedSizes(
        vision_width=stem[0],
        vision_depth=_depth(imagebind, "imagebind", vision),
        vision_mlp_width=_shape(imagebind, "imagebind", f"{vision}0.mlp.fc1.weight")[0],
        patch_size=stem[-1],
        image_size=side * stem[-1],
        text_width=vocabulary[1],
        text_depth=_depth(imagebind, "imagebind", text),
        text_mlp_width=_shape(imagebind, "imagebind", f"{text}0.mlp.fc1.weight")[0],
        text_vocabulary=vocabulary[0],
        text_context=_shape(imagebind, "imagebind", "modality_preprocessors.text.pos_embed")[1],
        projection_dim=head[0],
        language_width=base_prompts[1],
        lora_rank=ranks.pop(),
        num_layer_maps=_depth(anomalygpt, "anomalygpt", "image_decoder.fc."),
        num_base_prompts=base_prompts[0],
        prompt_channels=tuple(kernel[0] for kernel in kernels[:-1]),
        prompt_kernel=kernels[-1][-1],
    )


def prompt_net_indices(anomalygpt: Shapes) -> list[int]:
    """Indices of the convolutions in the published prompt net: 0, 3, 6, ... (activation and pooling between)."""
    pattern = re.compile(r"prompt_learner\.meta_net\.(\d+)\.weight$")
    found = [int(match[1]) for match in map(pattern.match, anomalygpt) if match]
    return list(range(0, max(found, default=-1) + 1, _POOLED))


def parameter_origins(sizes: PublishedSizes, language_depth: int) -> dict[str, Origin]:
    r"""
    Where every parameter of `AnomalyGPTForConditionalGeneration` comes from, LoRA aside.

    Args:
        sizes (`PublishedSizes`):
            Depths of the towers, number of layer maps and of convolutions.
        language_depth (`int`):
            Blocks of the language model.

    Returns:
        `dict[str, Origin]`: Our parameter names and their origins, ordered by file.
    """
    origins = _vision_origins(sizes.vision_depth) | _text_tower_origins(sizes.text_depth)
    for side in ("weight", "bias"):
        origins[f"model.multi_modal_projector.{side}"] = Origin("pandagpt", f"llama_proj.{side}")
        for i in range(sizes.num_layer_maps):
            origins[f"model.localizer.layers.{i}.{side}"] = Origin("anomalygpt", f"image_decoder.fc.{i}.{side}")
        for i in range(len(sizes.prompt_channels) + 1):
            key = f"prompt_learner.meta_net.{_POOLED * i}.{side}"
            origins[f"model.prompt_learner.convolutions.{i}.{side}"] = Origin("anomalygpt", key)
    origins["model.prompt_learner.base_prompts"] = Origin("anomalygpt", "prompt_learner.base_prompts")
    for key in llama_keys(language_depth):
        ours = key if key == "lm_head.weight" else key.replace("model.", "model.language_model.", 1)
        origins[ours] = Origin("language_model", key)
    return origins


def llama_keys(depth: int) -> list[str]:
    """The keys of a LLaMA checkpoint with `depth` blocks."""
    parts = [f"self_attn.{name}" for name in _LORA_PROJECTIONS]
    parts += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]
    blocks = [f"model.layers.{i}.{part}.weight" for i in range(depth) for part in parts]
    return ["model.embed_tokens.weight", *blocks, "model.norm.weight", "lm_head.weight"]


def lora_keys(language_depth: int) -> dict[str, tuple[str, str]]:
    r"""
    LLaMA keys that PandaGPT's LoRA changes, with the keys of its two matrices (down, up).

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
    r"""
    The name PEFT gives to one of PandaGPT's LoRA matrices when it is kept as an adapter of our model.

    Example:
    ```python
    >>> adapter_key("llama_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight")
    'base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight'

    ```
    """
    key = published_key.removeprefix("llama_model.base_model.model.model.").replace(".default.", ".")
    return f"base_model.model.model.language_model.{key}"


def _vision_origins(depth: int) -> dict[str, Origin]:
    stem, tower = "modality_preprocessors.vision", "model.vision_tower"
    origins = {
        f"{tower}.embeddings.class_embedding": Origin("imagebind", f"{stem}.cls_token", "squeeze"),
        f"{tower}.embeddings.patch_embedding.weight": Origin(
            "imagebind", f"{stem}.rgbt_stem.proj.1.weight", "sum_time"
        ),
        f"{tower}.embeddings.position_embedding.weight": Origin(
            "imagebind", f"{stem}.pos_embedding_helper.pos_embed", "squeeze"
        ),
        "model.visual_projection.weight": Origin("imagebind", "modality_heads.vision.2.weight"),
    }
    for side in ("weight", "bias"):
        key = f"modality_trunks.vision.pre_transformer_layer.0.{side}"
        origins[f"{tower}.pre_layrnorm.{side}"] = Origin("imagebind", key)
        origins[f"{tower}.post_layernorm.{side}"] = Origin("imagebind", f"modality_heads.vision.0.{side}")
    return origins | _block_origins("modality_trunks.vision", tower, depth)


def _text_tower_origins(depth: int) -> dict[str, Origin]:
    stem, tower = "modality_preprocessors.text", "model.text_tower"
    origins = {
        f"{tower}.embeddings.token_embedding.weight": Origin("imagebind", f"{stem}.token_embedding.weight"),
        f"{tower}.embeddings.position_embedding.weight": Origin("imagebind", f"{stem}.pos_embed", "squeeze"),
        "model.text_projection.weight": Origin("imagebind", "modality_heads.text.proj.1.weight"),
    }
    for side in ("weight", "bias"):
        origins[f"{tower}.final_layer_norm.{side}"] = Origin("imagebind", f"modality_heads.text.proj.0.{side}")
    return origins | _block_origins("modality_trunks.text", tower, depth)


def _block_origins(trunk: str, tower: str, depth: int) -> dict[str, Origin]:
    names = {"attn.out_proj": "self_attn.out_proj", "norm_1": "layer_norm1", "norm_2": "layer_norm2"}
    names |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    origins = {}
    for i in range(depth):
        theirs, ours = f"{trunk}.blocks.{i}", f"{tower}.encoder.layers.{i}"
        for side in ("weight", "bias"):
            for part in ("query", "key", "value"):
                name = f"{ours}.self_attn.{part[0]}_proj.{side}"
                origins[name] = Origin("imagebind", f"{theirs}.attn.in_proj_{side}", part)
            for their_name, our_name in names.items():
                origins[f"{ours}.{our_name}.{side}"] = Origin("imagebind", f"{theirs}.{their_name}.{side}")
    return origins


def _shape(shapes: Shapes, file: str, key: str) -> tuple[int, ...]:
    if key not in shapes:
        raise ValueError(f"`{file}` must hold the key '{key}', which tells the model's size. It is missing.")
    return shapes[key]


def _depth(shapes: Shapes, file: str, prefix: str) -> int:
    indices = [int(key[len(prefix) :].split(".")[0]) for key in shapes if key.startswith(prefix)]
    if not indices:
        raise ValueError(f"`{file}` must hold keys '{prefix}*', got none.")
    return max(indices) + 1


__all__ = [
    "IGNORED_IMAGEBIND_KEYS",
    "IGNORED_LLAMA_KEYS",
    "Origin",
    "PublishedSizes",
    "Shapes",
    "adapter_key",
    "infer_sizes",
    "llama_keys",
    "lora_keys",
    "parameter_origins",
    "prompt_net_indices",
]
