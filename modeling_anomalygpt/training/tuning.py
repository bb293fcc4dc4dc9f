"""What is trained: four modes, from the paper's two parts to every weight. Knows PEFT and names of parts, no data.

`paper`, `prompt` and `lora` give a PEFT model whose own parts are saved with the adapter; `full` gives the model.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

TUNING_MODES = ("paper", "prompt", "lora", "full")
OWN_PARTS = ("localizer", "prompt_learner", "multi_modal_projector")
# Projections before matching make the few-shot maps; no loss says how those should be.
_ALWAYS_FROZEN = re.compile(r"(^|\.)reference_projections\.")
_LANGUAGE_LAYERS = r".*language_model.*\.({})"


@dataclass
class TuningArguments:
    r"""
    What is trained.

    Args:
        tuning (`str`, defaults to `"prompt"`):
            `paper`: localizer and prompt learner. `prompt`: those, the projector and virtual tokens before the text
            (PEFT prompt tuning). `lora`: low-rank changes of the language model instead of virtual tokens. `full`:
            every weight; the result is a whole checkpoint.
        train_parts (`list[str]`, *optional*):
            Own parts that are trained and saved; default: those of the mode.
        num_virtual_tokens (`int`, defaults to 9):
            Virtual tokens of mode `prompt`.
        lora_rank (`int`, defaults to 8):
            Rank of the changes of mode `lora`.
        lora_alpha (`int`, defaults to 16):
            Their scale, divided by the rank.
        lora_dropout (`float`, defaults to 0.0):
            Dropout before them, in [0, 1).
        lora_target (`list[str]`, defaults to `["q_proj", "v_proj"]`):
            Names of the language model's linear layers that are changed.
    """

    tuning: str = field(default="prompt", metadata={"help": "what is trained: paper, prompt, lora or full"})
    train_parts: list[str] | None = field(
        default=None, metadata={"help": "own parts to train: localizer prompt_learner multi_modal_projector"}
    )
    num_virtual_tokens: int = field(default=9, metadata={"help": "virtual tokens of --tuning prompt"})
    lora_rank: int = field(default=8, metadata={"help": "rank of --tuning lora"})
    lora_alpha: int = field(default=16, metadata={"help": "scale of --tuning lora, divided by the rank"})
    lora_dropout: float = field(default=0.0, metadata={"help": "dropout of --tuning lora"})
    lora_target: list[str] = field(
        default_factory=lambda: ["q_proj", "v_proj"],
        metadata={"help": "linear layers of the language model that --tuning lora changes"},
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


def prepare_for_tuning(model: nn.Module, arguments: TuningArguments) -> nn.Module:
    r"""
    Freezes what is not trained and adds what the mode adds.

    Args:
        model ([`AnomalyGPTForConditionalGeneration`]):
            Changed in place.
        arguments ([`TuningArguments`]):
            Mode and sizes.

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
            linear = {name.rsplit(".", 1)[-1] for name, module in language_layers(model)}
            raise ValueError(
                f"`lora_target` must be among the language model's layers {', '.join(sorted(linear))}, "
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


def language_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers of the language model, with their names."""
    for name, module in model.named_modules():
        if "language_model" in name and isinstance(module, nn.Linear):
            yield name, module


def trainable_names(model: nn.Module) -> list[str]:
    """Names of the parameters that are trained."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def describe_tuning(model: nn.Module, tuning: str) -> str:
    r"""
    One line: what is trained and how many parameters that are.

    Args:
        model (`nn.Module`):
            As [`prepare_for_tuning`] returned it.
        tuning (`str`):
            The mode.

    Returns:
        `str`: Such as `"prompt: trains 390,208 of 6,567,552 parameters (5.9 %): localizer 65,728, ..."`.
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


def wake_states(localizer: nn.Module, layer_maps: torch.Tensor, temperature: float, seed: int = 0) -> bool:
    r"""
    Lets two learned state vectors begin side by side where no gradient would reach them.

    Cosines are divided by a small temperature: vectors that were drawn at random lie far apart, every pixel is then
    certain of one of them, and neither focal nor dice loss moves anything.

    Args:
        localizer ([`AnomalyLocalizer`]):
            Its `state_embeds` are changed in place.
        layer_maps (`torch.Tensor` of shape `(batch_size, num_layers, 2, height, width)`):
            What it gives on some pictures with and without anomalies.
        temperature (`float`):
            `config.map_temperature`.
        seed (`int`, defaults to 0):
            Draws the small difference.

    Returns:
        `bool`: Whether they were changed: there are learned vectors and every pixel is certain to 1 in 10,000.
    """
    states = getattr(localizer, "state_embeds", None)
    if states is None or not states.requires_grad or (layer_maps[:, :, 0] * layer_maps[:, :, 1]).max() > 1e-4:
        return False
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        middle = torch.randn(states.shape[1], generator=generator)
        middle /= middle.norm()
        apart = 0.5 * temperature * torch.randn(states.shape, generator=generator)
        states.copy_(middle + apart)
    return True


class FrozenInEvaluationMode:
    r"""
    Keeps what is not trained in evaluation mode: no dropout, and batch statistics never move, in no mode.

    Args:
        model (`nn.Module`):
            As [`prepare_for_tuning`] returned it.
    """

    def __init__(self, model: nn.Module):
        self.modules = [
            module
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._NormBase)
            or not any(parameter.requires_grad for parameter in module.parameters())
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


__all__ = [
    "OWN_PARTS",
    "TUNING_MODES",
    "FrozenInEvaluationMode",
    "TuningArguments",
    "describe_tuning",
    "language_layers",
    "prepare_for_tuning",
    "trainable_names",
    "wake_states",
]
