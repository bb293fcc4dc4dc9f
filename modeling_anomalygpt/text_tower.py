"""Makes the text tower from its configuration, also where transformers has no auto class for it."""

import transformers
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel


def new_text_tower(config: PreTrainedConfig) -> PreTrainedModel:
    r"""
    A text tower with new weights.

    `AutoModel` knows CLIP's text half; those of SigLIP and others exist as classes only, named like their
    configurations.

    Args:
        config (`PreTrainedConfig`):
            Configuration of a text encoder.

    Returns:
        `PreTrainedModel`

    Raises:
        ValueError: If transformers has no model for `config`.
    """
    if type(config) in AutoModel._model_mapping:
        return AutoModel.from_config(config)
    model_class = getattr(transformers, type(config).__name__.replace("Config", "Model"), None)
    if model_class is None:
        raise ValueError(
            f"`text_tower_config` must be of a text encoder that transformers has, got {config.model_type!r}. "
            "CLIP's and SigLIP's are tested."
        )
    return model_class._from_config(config)


__all__ = ["new_text_tower"]
