"""What the models with and without a head share: configuration class, initialisation, abilities, adapters."""

import dataclasses
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.loading_report import LoadStateDictInfo

from .configuration_anomalygpt import AnomalyGPTConfig
from .localization import AnomalyLocalizer
from .prompt_adapter import install_prompt_adapter, read_prompt_adapter
from .prompt_learner import PromptLearner
from .virtual_tokens import VirtualTokens


class AnomalyGPTPreTrainedModel(PreTrainedModel):
    """What both models share: configuration class, initialisation, what transformers may do with them."""

    config_class = AnomalyGPTConfig
    config: AnomalyGPTConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _no_split_modules = ["AnomalyLocalizer", "PromptLearner"]
    _keep_in_fp32_modules_strict = ["localizer"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PromptLearner):
            init.normal_(module.base_prompts, std=self.config.initializer_range)
            for convolution in module.convolutions:  # small weights would let the map fade on its way through
                init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                init.zeros_(convolution.bias)
        elif isinstance(module, AnomalyLocalizer) and module.state_embeds is not None:
            init.normal_(module.state_embeds, std=self.config.initializer_range)
        elif isinstance(module, VirtualTokens):
            init.normal_(module.embeds, std=self.config.initializer_range)

    def load_adapter(self, peft_model_id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, and also for adapters of prompt tuning: their vectors become part of the model."""
        load_config = kwargs.get("load_config")
        download = dict(getattr(load_config, "download_kwargs", None) or {}) | (kwargs.get("adapter_kwargs") or {})
        weights = read_prompt_adapter(peft_model_id, **download)
        if weights is None:
            return super().load_adapter(peft_model_id, *args, **kwargs)
        install_prompt_adapter(self, weights)
        return LoadStateDictInfo(**{field.name: set() for field in dataclasses.fields(LoadStateDictInfo)})


__all__ = ["AnomalyGPTPreTrainedModel"]
