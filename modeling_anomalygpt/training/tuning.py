"""What is trained: the model as training loads it, and four modes, from the paper's two parts to every weight.

`paper`, `prompt` and `lora` give a PEFT model whose own parts are saved with the adapter; `full` gives the model.
"""

import contextlib
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..checkpoints import (
    ADAPTER_CONFIG,
    EMBEDDED_CHECKPOINT,
    SMALL,
    SMALL_BASE,
    UNQUANTIZED_MODULES,
    adapter_base,
    load_checkpoint,
)
from ..errors import needs_connection
from .arguments import option
from .checkpoints import TrainingError

TUNING_MODES = ("paper", "prompt", "lora", "full")
OWN_PARTS = ("localizer", "prompt_learner", "multi_modal_projector")
# Projections before matching make the few-shot maps; no loss says how those should be.
_ALWAYS_FROZEN = re.compile(r"(^|\.)reference_projections\.")
_LANGUAGE_LAYERS = r".*language_model.*\.({})"


@dataclass
class TuningArguments:
    """What is trained.

    `paper`: localizer and prompt learner. `prompt`: those, the projector and virtual tokens before the text (PEFT's
    prompt tuning). `lora`: low-rank changes of the language model instead of virtual tokens. `full`: every weight; the
    result is a whole checkpoint. Each field's help says what it is.
    """

    tuning: str = option("prompt", "what is trained: paper, prompt, lora or full")
    train_parts: list[str] | None = option(None, "own parts to train: localizer prompt_learner multi_modal_projector")
    num_virtual_tokens: int = option(9, "virtual tokens of --tuning prompt")
    lora_rank: int = option(8, "rank of --tuning lora")
    lora_alpha: int = option(16, "scale of --tuning lora, divided by the rank")
    lora_dropout: float = option(0.0, "dropout of --tuning lora")
    lora_target: list[str] = option(
        ["q_proj", "v_proj"], "linear layers of the language model that --tuning lora changes"
    )

    def __post_init__(self) -> None:
        if self.tuning not in TUNING_MODES:
            raise ValueError(f"`tuning` must be one of {', '.join(TUNING_MODES)}, got {self.tuning!r}.")
        for name in ("num_virtual_tokens", "lora_rank", "lora_alpha"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"`lora_dropout` must be in [0, 1), got {self.lora_dropout}.")

    @property
    def parts(self) -> list[str]:
        """Own parts that are trained."""
        if self.train_parts is not None:
            return list(self.train_parts)
        return ["localizer", "prompt_learner"] if self.tuning == "paper" else list(OWN_PARTS)


def load_for_training(arguments: Any) -> tuple[torch.nn.Module, Any]:
    """Loads the model and the processor that [`ModelArguments`] name: on the CPU, or where its 4-bit weights are.

    Raises:
        TrainingError: If the model is an adapter or `"small"`, **or** 4 bits are asked for without bitsandbytes.
        CheckpointError: If it cannot be loaded.
    """
    source = arguments.model or str(EMBEDDED_CHECKPOINT)
    if source == SMALL:
        raise TrainingError(
            "`model` must be a whole checkpoint, got 'small', which is put together when it is loaded. "
            f"Compose one first: anomalygpt compose --language {SMALL_BASE} --output DIR"
        )
    if _is_adapter(source):
        raise TrainingError(
            f"`model` must be a whole checkpoint, got the adapter {source!r}. "
            f"Merge it first: anomalygpt merge {source} --output DIR"
        )
    source = os.path.abspath(source) if os.path.isdir(source) else source  # the adapter names it
    quantization, device = None, "cpu"
    if arguments.load_in_4bit:
        quantization = _four_bits(arguments.dtype)
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    model, processor = load_checkpoint(source, device, arguments.dtype, quantization)
    weights = {name: getattr(arguments, f"loss_weight_{name}") for name in ("lm", "focal", "dice")}
    model.config.loss_weights = model.config.loss_weights | {
        name: value for name, value in weights.items() if value is not None
    }
    return model, processor


def _is_adapter(source: str) -> bool:
    """Also on the Hub. What cannot be read there is refused by `load_checkpoint`, in one line."""
    if os.path.isdir(source):
        return os.path.isfile(os.path.join(source, ADAPTER_CONFIG))
    with contextlib.suppress(Exception):
        needs_connection(source)
        return adapter_base(source) is not None
    return False


def _four_bits(dtype: str) -> Any:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise TrainingError("`load_in_4bit` needs bitsandbytes. Install it: pip install bitsandbytes.") from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=UNQUANTIZED_MODULES,
    )


def prepare_for_tuning(model: nn.Module, arguments: TuningArguments) -> nn.Module:
    """Freezes what is not trained and adds what the mode adds.

    Args:
        model ([`AnomalyGPTForConditionalGeneration`]): Changed in place.
        arguments ([`TuningArguments`]): Mode and sizes.

    Returns:
        `peft.PeftModel`, or the model itself in mode `full`. Trained weights are float32, whatever the others are.

    Raises:
        ValueError: If the model has not the asked part, or no layer of the asked names, **or** every weight is to be
            trained of a model in 4 bits.
    """
    for part in arguments.parts:
        module = getattr(model.model, part, None)
        if part not in OWN_PARTS or not isinstance(module, nn.Module) or not any(True for _ in module.parameters()):
            has = [name for name in OWN_PARTS if getattr(model.model, name, None) is not None]
            raise ValueError(
                f"`train_parts` must be among the model's own parts {', '.join(has)}, got {part!r}. "
                "Leave it out or choose another `tuning`."
            )
    if arguments.tuning == "full":
        if getattr(model, "is_quantized", False):
            raise ValueError(
                "`tuning` full must train a model in float32 or bfloat16, got one in 4 bits. "
                "Use --tuning lora or prompt."
            )
        return model.float().requires_grad_(True)
    import peft

    shared = {"modules_to_save": arguments.parts, "task_type": "CAUSAL_LM"}
    if arguments.tuning == "prompt":
        text = model.config.get_text_config()
        shared |= {"token_dim": text.hidden_size, "num_layers": text.num_hidden_layers}
        config = peft.PromptTuningConfig(
            num_virtual_tokens=arguments.num_virtual_tokens, num_attention_heads=text.num_attention_heads, **shared
        )
    elif arguments.tuning == "lora":
        target = _LANGUAGE_LAYERS.format("|".join(re.escape(name) for name in arguments.lora_target))
        if not any(re.fullmatch(target, name) for name, _ in model.named_modules()):
            linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
            layers = sorted({name.rsplit(".", 1)[-1] for name in linear if "language_model" in name})
            raise ValueError(
                f"`lora_target` must be among the language model's layers {', '.join(layers)}, "
                f"got {', '.join(arguments.lora_target)}."
            )
        config = peft.LoraConfig(
            r=arguments.lora_rank,
            lora_alpha=arguments.lora_alpha,
            lora_dropout=arguments.lora_dropout,
            target_modules=target,
            **shared,
        )
    else:  # PEFT's word for "no layer": only the own parts are trained and saved
        config = peft.LoraConfig(target_modules="dummy-target-modules", **shared)
    adapted = peft.get_peft_model(model, config)
    if arguments.tuning == "prompt":
        _start_prompts(adapted, model)
    for name, parameter in adapted.named_parameters():
        if _ALWAYS_FROZEN.search(name):
            parameter.requires_grad_(False)
        elif parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def trainable_names(model: nn.Module) -> list[str]:
    """Names of the parameters that are trained."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def describe_tuning(model: nn.Module, tuning: str) -> str:
    """One line: what is trained and how many parameters that are, for a model that was prepared in a mode.

    Such as `"prompt: trains 390,208 of 6,567,552 parameters (5.9 %): localizer 65,728, ..."`.
    """
    counts: dict[str, int] = defaultdict(int)
    total = 0
    for name, parameter in model.named_parameters():
        size = parameter.numel()
        total += 0 if ".original_module." in name else size
        if parameter.requires_grad:
            counts[_part_of(name)] += size
    trained = sum(counts.values())
    parts = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    return f"{tuning}: trains {trained:,} of {total:,} parameters ({100 * trained / max(total, 1):.1f} %): {parts}"


class FrozenInEvaluationMode:
    """Keeps what is not trained in evaluation mode: no dropout, and batch statistics never move, in no mode."""

    def __init__(self, model: nn.Module):
        # The dropout before a low-rank change has no parameters and yet belongs to what is trained.
        adapted = [module.lora_dropout for module in model.modules() if hasattr(module, "lora_dropout")]
        dropouts = {dropout for module in adapted for dropout in module.modules()}
        self.modules = [
            module
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._NormBase)
            or not (module in dropouts or any(parameter.requires_grad for parameter in module.parameters()))
        ]
        # Activations are dropped and computed again only by layers that believe they are training.
        self.checkpointed = [module for module in self.modules if hasattr(module, "gradient_checkpointing")]

    def apply(self) -> None:
        """Call after `model.train()`."""
        for module in self.modules:
            module.training = False
        for module in self.checkpointed:
            module.training = bool(module.gradient_checkpointing)


def _start_prompts(adapted: nn.Module, model: nn.Module) -> None:
    """Virtual tokens begin near the start token, where a language model expects nothing in particular."""
    embeddings = model.get_input_embeddings()
    adapted.word_embeddings = embeddings  # PEFT takes the first weight that is as long as the vocabulary
    start = model.config.get_text_config().bos_token_id
    weight = adapted.prompt_encoder[adapted.active_adapter].embedding.weight
    with torch.no_grad():
        base = embeddings.weight[start if isinstance(start, int) else 0].to(weight)
        noise = torch.empty_like(weight).normal_(std=float(embeddings.weight.float().std()))
        weight.copy_(base + noise)


def _part_of(name: str) -> str:
    for part in (*OWN_PARTS, "vision_tower", "text_tower"):
        if f".{part}." in f".{name}":
            return part
    if "prompt_encoder" in name:
        return "virtual tokens"
    return "low-rank language model" if ".lora_" in name else "language model"
