"""The smallest AnomalyGPT that has every part, for tests."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedTokenizerFast

from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTConfig
from modeling_anomalygpt.image_processing_anomalygpt import AnomalyGPTImageProcessor
from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from modeling_anomalygpt.processing_anomalygpt import AnomalyGPTProcessor

IMAGE_TOKEN = 96
TEXT_CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION_CONFIG = {
    "model_type": "clip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
    "hidden_act": "gelu",
}
TEXT_TOWER_CONFIG = {
    "model_type": "clip_text_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 53,
    "max_position_embeddings": 12,
    "eos_token_id": 2,
}


def tiny_config(**changes) -> AnomalyGPTConfig:
    fields = {
        "vision_config": VISION_CONFIG,
        "text_tower_config": TEXT_TOWER_CONFIG,
        "text_config": TEXT_CONFIG,
        "projection_dim": 20,
        "out_indices": [2, 4],
        "map_size": 28,
        "num_base_prompts": 3,
        "prompt_channels": [4, 8],
        "num_map_prompts": 4,
        "image_token_index": IMAGE_TOKEN,
    }
    return AnomalyGPTConfig(**(fields | changes))


def tiny_inputs(config: AnomalyGPTConfig, batch_size: int = 2, text_length: int = 6, size: int = 28, seed: int = 0):
    """Random pictures, prompts and state prompts that fit `config`."""
    generator = torch.Generator().manual_seed(seed)
    placeholders = config.num_image_tokens + config.num_prompt_tokens
    text = torch.randint(3, 90, (batch_size, text_length), generator=generator)
    image = torch.full((batch_size, placeholders), config.image_token_id)
    inputs = {
        "input_ids": torch.cat([torch.ones(batch_size, 1, dtype=torch.long), image, text], dim=1),
        "pixel_values": torch.randn(batch_size, 3, size, size, generator=generator),
    }
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if config.text_tower_config is not None:
        inputs["state_prompt_ids"] = torch.randint(3, 50, (batch_size, 5, 8), generator=generator)
        inputs["state_prompt_labels"] = torch.tensor([[0, 0, 0, 1, 1]]).expand(batch_size, -1)
    return inputs


def tiny_tokenizer(vocab_size: int = 300) -> PreTrainedTokenizerFast:
    """Byte-level tokenizer without merges worth mentioning: every text is representable."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Yes, there is an anomaly in the image. No, there is no anomaly."], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )


def tiny_pair(**changes) -> tuple[AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor]:
    """A random model without a text tower, and its processor; the pictures are 28 px."""
    tokenizer = tiny_tokenizer()
    text_config = TEXT_CONFIG | {"vocab_size": len(tokenizer) + 7}
    token = tokenizer.convert_tokens_to_ids("<image>")
    fields = {"text_config": text_config, "text_tower_config": None, "image_token_index": token}
    config = tiny_config(**(fields | changes))
    torch.manual_seed(0)
    model = AnomalyGPTForConditionalGeneration(config).eval()
    processor = AnomalyGPTProcessor(
        AnomalyGPTImageProcessor(size={"height": 28, "width": 28}),
        tokenizer,
        num_image_tokens=config.num_image_tokens,
        num_prompt_tokens=config.num_prompt_tokens,
    )
    return model, processor


def lively_model(seed: int = 0, **changes) -> AnomalyGPTForConditionalGeneration:
    """A random model whose weights are large enough that pictures, prompts and words change what it says."""
    torch.manual_seed(seed)
    return enlivened(AnomalyGPTForConditionalGeneration(tiny_config(**changes)).eval())


def enlivened(model: torch.nn.Module) -> torch.nn.Module:
    """The same model with five times the weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return model


def left_padded(inputs: dict[str, torch.Tensor], missing: list[int], pad_token_id: int = 0) -> dict[str, torch.Tensor]:
    """The same batch with the last `missing[i]` tokens of row `i` left out and the rows padded on the left."""
    padded = dict(inputs)
    ids = [row[: len(row) - count] for row, count in zip(inputs["input_ids"], missing, strict=True)]
    length = max(len(row) for row in ids)
    padded["input_ids"] = torch.stack(
        [torch.cat([row.new_full((length - len(row),), pad_token_id), row]) for row in ids]
    )
    padded["attention_mask"] = torch.stack(
        [torch.cat([row.new_zeros(length - len(row)), torch.ones_like(row)]) for row in ids]
    )
    return padded


def one_row(inputs: dict[str, torch.Tensor], row: int, missing: int = 0) -> dict[str, torch.Tensor]:
    """Row `row` alone, without its last `missing` tokens."""
    single = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
    for name in ("input_ids", "attention_mask"):
        single[name] = single[name][:, : single[name].shape[1] - missing]
    return single


class DtypeRecorder(TorchDispatchMode):
    """Collects, inside a `with` block, the dtypes of all tensors that are computed (backwards as well)."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        self.dtypes |= {result.dtype for result in tree_leaves(results) if isinstance(result, torch.Tensor)}
        return results


class CallCounter:
    """Counts how often a module is called, inside a `with` block."""

    def __init__(self, module: torch.nn.Module):
        self.module, self.calls = module, 0

    def __enter__(self) -> "CallCounter":
        self.hook = self.module.register_forward_hook(self.count)
        return self

    def count(self, *_) -> None:
        self.calls += 1

    def __exit__(self, *_) -> None:
        self.hook.remove()
