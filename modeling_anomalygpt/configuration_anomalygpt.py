"""Configuration of AnomalyGPT: sub-models, how maps are computed and become prompts, how verdicts are reached."""

import math
import re
from typing import Any, Literal

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

# The first half of DINOv2-small: its middle tells parts from each other best.
_DINOV2_SMALL = {
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "image_size": 224,
    "patch_size": 14,
}

# Entries of `decision`: default, lowest and highest value. They belong to a checkpoint's features and language model;
# the defaults were fitted with the embedded checkpoint (docs/decision.md).
_DECISION = {
    "normalised_maps": (False, None, None),
    "match_exposure": (False, None, None),
    "needs_references": (False, None, None),
    "region_threshold": (0.5, 1e-3, 0.999),
    "region_extent": (1.0, 0.1, 1.0),
    "region_connection": (1.0, 0.1, 1.0),
    "region_peak": (0.0, 0.0, 1.0),
    "map_contrast": (1.0, 0.1, 10.0),
    "threshold_factor": (1.025, 1e-3, 100.0),
    "map_weight": (2.0, 0.0, 1000.0),
    "language_weight": (1 / 16, 0.0, 1000.0),
    "max_language": (4.0, 0.0, 1000.0),
    "undecided_margin": (0.15, 0.0, 100.0),
    "false_alarm_weight": (1.0, 1e-3, 1000.0),
    "out_of_domain_distance": (0.07, 0.0, 2.0),
    "out_of_domain_factor": (1.3, 1.0, 100.0),
    "exposure_range": (0.8, 0.0, 100.0),
    "matched_exposure_range": (1.5, 0.0, 100.0),
    "blur_range": (0.7, 0.0, 100.0),
    "kind_confidence": (0.9, 0.0, 1.0),
}
# Entries that were fields of their own in configuration files written before the group existed.
_FORMER_FIELDS = {
    "relative_maps": "normalised_maps",
    "match_exposure": "match_exposure",
    "region_threshold": "region_threshold",
}

# What earlier versions had and nothing reads any more.
_DROPPED_ENTRIES = {
    "prior_normal_score",
    "one_reference_factor",
    "several_references_factor",
    "growth_per_doubling",
    "max_growth",
    "bank_size_exponent",
}

# Fields that count something. What is above belongs to no model: it would hang or fill the memory.
_COUNTS = {
    "projection_dim": (1, 65536),
    "map_size": (1, 4096),
    "num_base_prompts": (1, 4096),
    "num_map_prompts": (1, 4096),
    "num_image_tokens": (1, 4096),
    "num_virtual_tokens": (0, 4096),
    "map_smoothing": (0, 64),
    "kind_width": (0, 4096),
}
_PARTS_IN_PARTS = re.compile(r"(\w*_layers?|layers|num_\w*(blocks|stages|experts)|depths?)$")
_MOST_PARTS = 1024

# Attributes that transformers itself writes beside the fields of a configuration, or gives on the way.
_OF_TRANSFORMERS = {
    "attn_implementation", "auto_map", "custom_pipelines", "experts_implementation", "model_type", "name_or_path",
    "output_attentions", "quantization_config", "transformers_version", "transformers_weights", "use_cache",
}  # fmt: skip


@strict
class AnomalyGPTVisionConfig(PreTrainedConfig):
    """Configuration of [`AnomalyGPTVisionModel`]; the defaults are EfficientNet-Lite0 and half of DINOv2-small.

    Args:
        image_size (`int`, defaults to 256): Side of the pictures in pixels.
        stem_width (`int`, defaults to 32): Channels after the first convolution.
        stages (`list[list[int]]`): Of the convolutional network: kernel, stride, expansion, channels and number of
            blocks of each stage.
        read_blocks (`list[int]`, defaults to `[7, 10]`): Blocks, counted from 0, whose output is read.
        transformer_config (`dict` or `PreTrainedConfig`, *optional*): Any vision transformer of transformers with
            class and register tokens first; its last hidden state is read.
    """

    model_type = "anomalygpt_vision"
    sub_configs = {"transformer_config": AutoConfig}

    image_size: int = 256
    stem_width: int = 32
    stages: list[list[int]] | tuple = (
        (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3)
    )  # fmt: skip
    read_blocks: list[int] | tuple[int, ...] = (7, 10)
    transformer_config: dict | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs):
        self.transformer_config = _sub_config(self.transformer_config or _DINOV2_SMALL, "transformer_config")
        self.stages, self.read_blocks = [list(stage) for stage in self.stages], list(self.read_blocks)
        count = sum(stage[4] for stage in self.stages)
        if not self.read_blocks or not 0 <= min(self.read_blocks) <= max(self.read_blocks) < min(count, _MOST_PARTS):
            raise ValueError(
                f"`read_blocks` must be indices of the {count} blocks, got {self.read_blocks}. Count from 0."
            )
        super().__post_init__(**kwargs)

    @property
    def layer_widths(self) -> list[int]:
        """Width of each hidden state: the channels of the blocks that are read, then the transformer's."""
        channels = [stage[3] for stage in self.stages for _ in range(stage[4])]
        return [channels[block] for block in self.read_blocks] + [self.transformer_config.hidden_size]


@strict
class AnomalyGPTConfig(PreTrainedConfig):
    """Configuration of [`AnomalyGPTModel`] and [`AnomalyGPTForConditionalGeneration`].

    The defaults are the published sizes: ImageBind-Huge, Vicuna-7B v0, nine base prompts and nine map prompts.
    A misspelt field is refused.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*): Any vision model of transformers. Its hidden states
            may be token sequences or feature maps.
        text_tower_config (`dict` or `PreTrainedConfig`, *optional*): The text encoder that embeds the state prompts.
            `None`: two state vectors are learned instead.
        text_config (`dict` or `PreTrainedConfig`, *optional*): Any causal language model of transformers.
        projection_dim (`int`, defaults to 1024): Width of the space that image, patch and state vectors share.
        project_towers (`bool`, defaults to `True`): Whether the towers' pooled outputs are projected linearly into
            that space (CLIP, ImageBind). `False`: they lie in it already (SigLIP).
        out_indices (`list[int]`, defaults to `[8, 16, 24, 32]`): Which hidden states of the vision model are read out;
            `i` is the output of block `i`, 0 the embeddings.
        map_temperature (`float`, defaults to 0.01): Cosine similarities with the state vectors are divided by it.
        map_size (`int`, defaults to 224): Height and width of the anomaly map in pixels.
        reference_pooling (`int` or `list[int]`, defaults to 1): Odd side of the window over which patch features are
            averaged before they are compared with references. Of several windows the few-shot map is the mean; the
            memory bank holds the patches of each.
        reference_dims (`list[int]`, *optional*): Widths of learned linear projections, one per layer, applied before
            that comparison. `None`: features as they are (published).
        self_similarity (`float`, defaults to 0.0, in [0, 1]): how much it counts that a patch is found again in its
            own picture, which defects seldom are. With the distance `r` from the nearest good patch and `z` from the
            nearest patch elsewhere in the picture, a patch scores `r ** (1 - s) * min(r, 1.25 * z) ** s`. 0: `r`
            alone (published).
        map_smoothing (`int`, defaults to 0): how many times the few-shot map is averaged over 3 x 3 pixels.
        kind_width (`int`, defaults to 0): Width of the head that tells what kind of defect a region is
            ([`DefectKindHead`]). 0: there is none (published).
        num_base_prompts (`int`, defaults to 9): Learned prompt vectors that do not depend on the picture.
        prompt_channels (`list[int]`, defaults to `[4, 16, 64, 256, 1024]`): Channels of the prompt learner's
            convolutions; each halves the map.
        num_map_prompts (`int`, defaults to 9): Prompt vectors made from the map; a square number.
        num_image_tokens (`int`, defaults to 1): Language-model positions filled from the picture's global vector.
        num_virtual_tokens (`int`, defaults to 0): Learned vectors before every text; a merged adapter of prompt tuning
            has some.
        image_token_index (`int`, defaults to 32000): Id of the placeholder that image and prompt vectors replace.
        max_history (`int`, *optional*): How many earlier follow-up questions, with their answers, the language model
            is given beside the first one. `None`: as many as fit into its positions.
        loss_weights (`dict[str, float]`, *optional*): Weights of `lm`, `focal` and `dice`; 1 each, as in the paper
            (equation 7).
        answering (`str`, defaults to `"paper"`): Who answers. `"paper"`: the language model, from what it sees
            (published). `"grounded"`: the language model as well, after the decision and from what was measured
            ([`MeasuredFacts`]), told the last two questions; trained with such facts.
        decision (`dict`, *optional*): How maps and log-odds become a verdict; entries that are not given keep their
            value. Maps:
            - `normalised_maps` (`bool`, `False`): few-shot maps are given relative to what is normal on the part, so
              that the language model sees the same evidence on every part. `False`: as they are (published).
            - `match_exposure` (`bool`, `False`): [`AnomalyInspector`] sees pictures that are darker or brighter than
              all references in the references' light, where that brings them nearer. `False`: as they are (published).
            - `needs_references` (`bool`, `False`): without references there is no verdict, since the state vectors
              tell too little. `False`: the language model's word decides then (published).
            - `region_threshold` (`float`, 0.5, in [0.001, 0.999]): map value from which a pixel belongs to a region
              where no reference says what is normal.
            - `region_extent` (`float`, 1.0, in [0.1, 1]): part of that threshold down to which such a region extends.
            - `region_connection` (`float`, 1.0, in [0.1, 1]): part of that threshold above which the map between
              several places makes them one region, if one reaches the threshold; no more than `region_extent` counts.
            - `region_peak` (`float`, 0, in [0, 1]): part of the map's highest value that a region must reach as well.
            - `map_contrast` (`float`, 1.0): how steeply normalised maps rise at the threshold ([`normalised_map`]).

            What is normal on a part, from the maps of its references ([`NormalScores.threshold`]):
            - `threshold_factor` (`float`, 1.025): the threshold is this times what the references tell.

            The verdict from `map_weight * log(score) + language_weight * log_odds`:
            - `map_weight` (`float`, 2.0) and `language_weight` (`float`, 1/16); `max_language` (`float`, 4.0): the
              log-odds are held within it, on both sides.
            - `undecided_margin` (`float`, 0.15): nearer to the threshold than this nothing is decided.
            - `false_alarm_weight` (`float`, 1.0, in [0.001, 1000]): cost of a false alarm against that of a miss.

            What is not comparable with the references:
            - `out_of_domain_distance` (`float`, 0.07, to 2) and `out_of_domain_factor` (`float`, 1.3, at least 1):
              a picture is another part when its mean patch vector lies farther than this cosine distance, and by this
              factor farther than references and their views from each other.
            - `exposure_range` (`float`, 0.8) and, where the exposure is matched, `matched_exposure_range` (`float`,
              1.5): standard deviations of the pixels that a picture may be darker or brighter.
            - `blur_range` (`float`, 0.7): powers of e that it may be less sharp.

            What kind of defect it is:
            - `kind_confidence` (`float`, 0.9, in [0, 1]): a kind is named from this probability on.
        tie_word_embeddings (`bool`, defaults to `False`): Taken from `text_config` when that ties its embeddings.

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
    _auto_class = "AutoConfig"
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
    reference_pooling: int | list[int] | tuple[int, ...] = 1
    reference_dims: list[int] | tuple[int, ...] | None = None
    self_similarity: float = 0.0
    map_smoothing: int = 0
    kind_width: int = 0
    num_base_prompts: int = 9
    prompt_channels: list[int] | tuple[int, ...] = (4, 16, 64, 256, 1024)
    num_map_prompts: int = 9
    num_image_tokens: int = 1
    num_virtual_tokens: int = 0
    image_token_index: int = 32000
    max_history: int | None = None
    loss_weights: dict[str, float] | None = None
    answering: Literal["paper", "grounded"] = "paper"
    decision: dict | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __setattr__(self, key: str, value: Any) -> None:
        if key == "decision":  # on every way in: the constructor, an override of `from_pretrained`, an assignment
            value = {name: entry for name, entry in (value or {}).items() if name not in _DROPPED_ENTRIES}
            value = _checked_decision({**(self.decision or {}), **value})
        super().__setattr__(key, value)

    def __post_init__(self, **kwargs):
        for former in ("normal_distance", "guided_answers"):
            kwargs.pop(former, None)
        self.decision = {name: kwargs.pop(former) for former, name in _FORMER_FIELDS.items() if former in kwargs}
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
        known = vars(PreTrainedConfig).keys() | PreTrainedConfig.__annotations__.keys() | _OF_TRANSFORMERS
        unknown = [key for key in kwargs if key not in known and not key.startswith("_")]
        if unknown:
            raise ValueError(
                f"`AnomalyGPTConfig` fields must be among {sorted(self._field_names())}, got {sorted(unknown)}. "
                "Correct the spelling."
            )
        try:
            super().__post_init__(**kwargs)
        except AttributeError as error:  # transformers reads its own fields (`id2label`, `dtype`) unchecked
            raise ValueError(
                f"`AnomalyGPTConfig` fields must be of their kinds, got one that is not ({error}). Correct it."
            ) from error
        self._check_ranges()

    @classmethod
    def _field_names(cls) -> list[str]:
        return [name for name in cls.__annotations__ if not name.startswith("_")]

    def _check_ranges(self) -> None:
        for name, (lowest, highest) in _COUNTS.items():
            if not lowest <= getattr(self, name) <= highest:
                raise ValueError(
                    f"`{name}` must be between {lowest} and {highest}, got {getattr(self, name)}. The default is "
                    f"{getattr(type(self), name)}."
                )
        if self.max_history is not None and self.max_history < 0:
            raise ValueError(f"`max_history` must not be negative, got {self.max_history}. None is no limit.")
        for name in ("vision_config", "text_tower_config", "text_config"):
            if getattr(self, name) is not None:
                _check_parts(name, getattr(self, name).to_dict())
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
        if not 0 <= self.self_similarity <= 1:
            raise ValueError(f"`self_similarity` must be between 0 and 1, got {self.self_similarity}. Published: 0.")
        if not self.map_temperature > 0:
            raise ValueError(f"`map_temperature` must be above 0, got {self.map_temperature}. Published: 0.01.")
        if not self.out_indices or min(self.out_indices) < 0:
            raise ValueError(
                f"`out_indices` must be one or more indices from 0 up, got {self.out_indices}. 0 is the embeddings."
            )
        depth = getattr(self.vision_config, "num_hidden_layers", None)
        if isinstance(depth, int) and max(self.out_indices) > depth:
            raise ValueError(
                f"`out_indices` must be at most {depth}, the depth of `vision_config`, got {self.out_indices}. "
                f"The published choice is the quarters of the depth."
            )
        if not self.prompt_channels or min(self.prompt_channels) < 1:
            raise ValueError(
                f"`prompt_channels` must be one or more positive numbers, got {self.prompt_channels}. Each is a width."
            )
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
            raise ValueError(
                f"`loss_weights` must have keys lm, focal, dice, got {sorted(wrong)}. Correct the spelling."
            )
        for name, weight in self.loss_weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(
                    f"`loss_weights[{name!r}]` must be finite and at least 0, got {weight}. 0 leaves this loss out."
                )

    @property
    def prompt_side(self) -> int:
        """Rows (= columns) of the grid of map prompts."""
        return round(self.num_map_prompts**0.5)

    @property
    def num_prompt_tokens(self) -> int:
        """Base prompts plus map prompts: 18 in the published model."""
        return self.num_base_prompts + self.num_map_prompts


def _checked_decision(entries: dict[str, Any]) -> dict[str, bool | float]:
    """All entries of `decision`, those that are not given with their defaults."""
    for name, value in entries.items():
        if name not in _DECISION:
            raise ValueError(
                f"`decision` entries must be among {sorted(_DECISION)}, got {name!r}. Correct the spelling."
            )
        default, lowest, highest = _DECISION[name]
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise ValueError(
                    f"`decision[{name!r}]` must be true or false, got {value!r}. The default is {default}."
                )
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"`decision[{name!r}]` must be a number, got {value!r}. The default is {default:g}.")
        elif not lowest <= value <= highest:
            raise ValueError(
                f"`decision[{name!r}]` must be between {lowest:g} and {highest:g}, got {value}. The default is "
                f"{default:g}."
            )
    return {name: entries.get(name, default) for name, (default, _, _) in _DECISION.items()}


def _check_parts(name: str, value: Any) -> None:
    """Refuses a part of millions of layers, whatever its configuration calls them."""
    if isinstance(value, dict):
        for key, entry in value.items():
            _check_parts(f"{name}.{key}", entry)
    elif isinstance(value, list | tuple):
        if len(value) > _MOST_PARTS:
            raise ValueError(f"`{name}` must have at most {_MOST_PARTS} entries, got {len(value)}. Shorten it.")
        for entry in value:
            _check_parts(name, entry)
    elif isinstance(value, int) and not 0 <= value <= _MOST_PARTS and _PARTS_IN_PARTS.search(name):
        raise ValueError(f"`{name}` must be between 0 and {_MOST_PARTS}, got {value}. Correct it.")


def _sub_config(value: dict | PreTrainedConfig, key: str) -> PreTrainedConfig:
    """The configuration object of a part that was given as an object or as a dictionary with `model_type`."""
    if not isinstance(value, dict):
        return value
    model_type = value.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"`{key}` must name a `model_type` that transformers knows, got {model_type!r}. Correct or update it."
        )
    return CONFIG_MAPPING[model_type](**{name: entry for name, entry in value.items() if name != "model_type"})


AutoConfig.register(AnomalyGPTVisionConfig.model_type, AnomalyGPTVisionConfig, exist_ok=True)

__all__ = ["AnomalyGPTConfig", "AnomalyGPTVisionConfig"]
