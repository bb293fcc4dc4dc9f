"""Configuration of AnomalyGPT: three sub-models, how maps are computed, how they become language-model prompts.

Knows its fields and their limits; knows nothing of files, devices or data.
"""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# Sizes of the published model: ImageBind-Huge's vision tower and Vicuna-7B v0 (paper section 4.1).
_IMAGEBIND_HUGE_VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "projection_dim": 1024,
}
_VICUNA_7B_V0 = {
    "model_type": "llama",
    "vocab_size": 32001,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
}

# Attributes that transformers itself writes beside the fields of a configuration.
_WRITTEN_BY_TRANSFORMERS = {
    "auto_map",
    "custom_pipelines",
    "model_type",
    "quantization_config",
    "transformers_version",
    "transformers_weights",
    "use_cache",
}


@strict
class AnomalyGPTConfig(PreTrainedConfig):
    r"""
    Configuration of [`AnomalyGPTModel`] and [`AnomalyGPTForConditionalGeneration`].

    The defaults are the published sizes: ImageBind-Huge, Vicuna-7B v0, nine base prompts and nine map prompts.
    A misspelt field is refused.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*):
            Any vision model of transformers. Its hidden states may be token sequences or feature maps.
        text_tower_config (`dict` or `PreTrainedConfig`, *optional*):
            The text encoder that embeds the state prompts. `None`: two state vectors are learned instead.
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            Any causal language model of transformers.
        projection_dim (`int`, defaults to 1024):
            Width of the space that image, patch and state vectors share.
        project_towers (`bool`, defaults to `True`):
            Whether the towers' pooled outputs are projected linearly into that space (CLIP, ImageBind). `False`:
            they lie in it already (SigLIP).
        out_indices (`list[int]`, defaults to `[8, 16, 24, 32]`):
            Which hidden states of the vision model are read out; `i` is the output of block `i`, 0 the embeddings.
        map_temperature (`float`, defaults to 0.01):
            Cosine similarities with the state vectors are divided by it.
        map_size (`int`, defaults to 224):
            Height and width of the anomaly map in pixels.
        region_threshold (`float`, defaults to 0.5):
            Map value from which a pixel belongs to a region; belongs to the checkpoint, nobody sets it by hand.
        reference_pooling (`int` or `list[int]`, defaults to 1):
            Odd side of the window over which patch features are averaged before they are compared with references.
            Of several windows the few-shot map is the mean; the memory bank holds the patches of each.
        relative_maps (`bool`, defaults to `False`):
            Whether few-shot maps are given relative to what is normal on the part ([`relative_map`]), so that the
            language model sees the same evidence on every part. `False`: as they are (published).
        normal_distance (`float`, defaults to 0.0):
            Map value, in [0, 1], that good photographs of real parts seldom exceed beside one reference, for this
            vision model. One reference cannot show how much good parts differ: the limit is this, and follows the
            references the more of them there are. 0: unknown.
        match_exposure (`bool`, defaults to `False`):
            Whether [`AnomalyInspector`] looks at pictures that are darker or brighter than all references in the
            references' light, where that brings them nearer. `False`: as they are (published).
        reference_dims (`list[int]`, *optional*):
            Widths of learned linear projections, one per layer, applied before that comparison. `None`: features as
            they are (published).
        num_base_prompts (`int`, defaults to 9):
            Learned prompt vectors that do not depend on the picture.
        prompt_channels (`list[int]`, defaults to `[4, 16, 64, 256, 1024]`):
            Channels of the prompt learner's convolutions; each halves the map.
        num_map_prompts (`int`, defaults to 9):
            Prompt vectors made from the map; a square number.
        num_image_tokens (`int`, defaults to 1):
            Language-model positions filled from the picture's global vector.
        num_virtual_tokens (`int`, defaults to 0):
            Learned vectors before every text; a merged adapter of prompt tuning has some.
        image_token_index (`int`, defaults to 32000):
            Id of the placeholder that image and prompt vectors replace.
        loss_weights (`dict[str, float]`, *optional*):
            Weights of `lm`, `focal` and `dice`; 1 each, as in the paper (equation 7).
        tie_word_embeddings (`bool`, defaults to `False`):
            Taken from `text_config` when that ties its embeddings.

    Raises:
        ValueError: If a field is unknown **or** its value is out of range. The message names the field and the value.

    Example:
    ```python
    >>> config = AnomalyGPTConfig(map_size=64, prompt_channels=[4, 8], num_map_prompts=4)
    >>> config.num_prompt_tokens, config.vision_config.hidden_size
    (13, 1280)

    ```
    """

    model_type = "anomalygpt"
    attribute_map = {"image_token_id": "image_token_index"}
    sub_configs = {"vision_config": AutoConfig, "text_tower_config": AutoConfig, "text_config": AutoConfig}
    keys_to_ignore_at_inference = ["past_key_values", "hidden_states", "attentions", "layer_maps", "patch_features"]

    vision_config: dict | PreTrainedConfig | None = None
    text_tower_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 1024
    project_towers: bool = True
    out_indices: list[int] | tuple[int, ...] = (8, 16, 24, 32)
    map_temperature: float = 0.01
    map_size: int = 224
    region_threshold: float = 0.5
    reference_pooling: int | list[int] | tuple[int, ...] = 1
    relative_maps: bool = False
    normal_distance: float = 0.0
    match_exposure: bool = False
    reference_dims: list[int] | tuple[int, ...] | None = None
    num_base_prompts: int = 9
    prompt_channels: list[int] | tuple[int, ...] = (4, 16, 64, 256, 1024)
    num_map_prompts: int = 9
    num_image_tokens: int = 1
    num_virtual_tokens: int = 0
    image_token_index: int = 32000
    loss_weights: dict[str, float] | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        for key, default in (("vision_config", _IMAGEBIND_HUGE_VISION), ("text_config", _VICUNA_7B_V0)):
            setattr(self, key, _sub_config(getattr(self, key) or default, key))
        if self.text_tower_config is not None:
            self.text_tower_config = _sub_config(self.text_tower_config, "text_tower_config")
        self.out_indices = list(self.out_indices)
        if not isinstance(self.reference_pooling, int):
            self.reference_pooling = list(self.reference_pooling)
        self.prompt_channels = list(self.prompt_channels)
        self.loss_weights = {"lm": 1.0, "focal": 1.0, "dice": 1.0} | (self.loss_weights or {})
        if getattr(self.text_config, "tie_word_embeddings", False):
            self.tie_word_embeddings = True
        known_to_transformers = vars(PreTrainedConfig).keys() | PreTrainedConfig.__annotations__.keys()
        unknown = [
            key
            for key in kwargs
            if key not in known_to_transformers | _WRITTEN_BY_TRANSFORMERS
            and key not in ("attn_implementation", "experts_implementation", "output_attentions", "name_or_path")
            and not key.startswith("_")
        ]
        if unknown:
            raise ValueError(
                f"`AnomalyGPTConfig` fields must be among {sorted(self._field_names())}, got {sorted(unknown)}. "
                "Correct the spelling."
            )
        try:
            super().__post_init__(**kwargs)
        except AttributeError as error:  # transformers reads its own fields (`id2label`, `dtype`) unchecked
            raise ValueError(
                f"`AnomalyGPTConfig` fields must be of their kinds, got one that is not: {error}."
            ) from error
        self._check_ranges()

    @classmethod
    def _field_names(cls) -> list[str]:
        return [name for name in cls.__annotations__ if not name.startswith("_")]

    def _check_ranges(self) -> None:
        counts = ("num_base_prompts", "num_map_prompts", "num_image_tokens")
        for name in ("projection_dim", "map_size", *counts):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.normal_distance <= 1:
            raise ValueError(f"`normal_distance` must be between 0 and 1, got {self.normal_distance}. 0 is unknown.")
        if self.num_virtual_tokens < 0:
            raise ValueError(f"`num_virtual_tokens` must not be negative, got {self.num_virtual_tokens}.")
        if self.reference_dims is not None and len(self.reference_dims) != len(self.out_indices):
            raise ValueError(
                f"`reference_dims` must be None or one width for each of the {len(self.out_indices)} `out_indices`, "
                f"got {self.reference_dims}."
            )
        windows = [self.reference_pooling] if isinstance(self.reference_pooling, int) else self.reference_pooling
        if not windows or any(window < 1 or window % 2 == 0 for window in windows):
            raise ValueError(
                f"`reference_pooling` must be odd, one window or several, got {self.reference_pooling}. Use 1, 3 or 5."
            )
        if not self.map_temperature > 0:
            raise ValueError(f"`map_temperature` must be above 0, got {self.map_temperature}. Published: 0.01.")
        if not 0 < self.region_threshold < 1:
            raise ValueError(f"`region_threshold` must be between 0 and 1, got {self.region_threshold}.")
        if not self.out_indices or min(self.out_indices) < 0:
            raise ValueError(f"`out_indices` must be one or more indices from 0 up, got {self.out_indices}.")
        depth = getattr(self.vision_config, "num_hidden_layers", None)
        if isinstance(depth, int) and max(self.out_indices) > depth:
            raise ValueError(
                f"`out_indices` must be at most {depth}, the depth of `vision_config`, got {self.out_indices}. "
                f"The published choice is the quarters of the depth."
            )
        if not self.prompt_channels or min(self.prompt_channels) < 1:
            raise ValueError(f"`prompt_channels` must be one or more positive numbers, got {self.prompt_channels}.")
        if self.prompt_side**2 != self.num_map_prompts:
            raise ValueError(f"`num_map_prompts` must be a square number, got {self.num_map_prompts}. Use 4, 9 or 16.")
        if self.map_size >> len(self.prompt_channels) < self.prompt_side:
            raise ValueError(
                f"`map_size` must be at least {self.prompt_side << len(self.prompt_channels)} for "
                f"{len(self.prompt_channels)} halvings and {self.num_map_prompts} map prompts, got {self.map_size}. "
                "Enlarge it or shorten `prompt_channels`."
            )
        wrong = set(self.loss_weights) - {"lm", "focal", "dice"}
        if wrong:
            raise ValueError(f"`loss_weights` must have keys lm, focal, dice, got {sorted(wrong)}.")

    @property
    def prompt_side(self) -> int:
        """Rows (= columns) of the grid of map prompts."""
        return round(self.num_map_prompts**0.5)

    @property
    def num_prompt_tokens(self) -> int:
        """Base prompts plus map prompts: 18 in the published model."""
        return self.num_base_prompts + self.num_map_prompts


def _sub_config(value: dict | PreTrainedConfig, key: str) -> PreTrainedConfig:
    """The configuration object of a part that was given as an object or as a dictionary with `model_type`."""
    if not isinstance(value, dict):
        return value
    model_type = value.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"`{key}` must name a `model_type` that transformers knows, got {model_type!r}.")
    return CONFIG_MAPPING[model_type](**{name: entry for name, entry in value.items() if name != "model_type"})


__all__ = ["AnomalyGPTConfig"]
