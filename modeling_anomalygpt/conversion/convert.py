"""The published ImageBind, Vicuna, PandaGPT and AnomalyGPT files become one folder for `from_pretrained`.

Knows the order of a conversion: look at all files, refuse what does not fit, then stream tensor by tensor. Key names
are in published_layout, sizes in published_configuration, refusals in conversion_checks, file formats in
checkpoint_streams, folders and Hub ids in published_sources.
"""

import json
import math
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm.auto import tqdm
from transformers import GenerationConfig

from ..image_processing_anomalygpt import AnomalyGPTImageProcessor
from ..processing_anomalygpt import AnomalyGPTProcessor
from .checks import ConversionReport, check_kind, check_language_width, check_vocabulary, compare_keys
from .configuration import parameter_shapes, published_config
from .layout import Origin, Shapes, adapter_key, infer_sizes, lora_keys, parameter_origins
from .streams import (
    DEFAULT_CLIP_BPE,
    Checkpoint,
    LanguageModelFiles,
    SafetensorsWriter,
    clip_merges_file,
    open_language_model,
    parse_size,
)
from .tokenizers import clip_tokenizer, llama_tokenizer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_FP32_PREFIX = "model.localizer."  # the model keeps its localizer in float32 whatever the dtype
_TARGET_MODULES = r".*language_model\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"

_MODEL_CARD = """---
license: cc-by-nc-sa-4.0
library_name: transformers
pipeline_tag: image-text-to-text
tags:
- anomaly-detection
---

# AnomalyGPT, converted from the published weights

Made by `anomalygpt convert` of the files below. Their makers' licences all apply: ImageBind CC BY-NC-SA 4.0, LLaMA's
first licence (research, non-commercial), PandaGPT CC BY-NC 4.0, AnomalyGPT CC BY-NC-SA 4.0, CLIP's vocabulary MIT.
Weights named `train_supervised` have seen the test images of MVTec AD and VisA: no results on these sets with them.

{report}
"""


def convert(
    imagebind: str | Path,
    pandagpt: str | Path,
    anomalygpt: str | Path,
    output: str | Path,
    vicuna: str | Path | None = None,
    llama: str | Path | None = None,
    vicuna_delta: str | Path | None = None,
    clip_bpe: str | Path = DEFAULT_CLIP_BPE,
    keep_lora: bool = False,
    dtype: str = "bfloat16",
    max_shard_size: int | str = "2GB",
    num_attention_heads: int = 16,
    out_indices: list[int] | None = None,
    progress: bool = True,
) -> ConversionReport:
    r"""
    Convert the published files into one folder that `from_pretrained` loads.

    Nothing is written before every key of every file was compared with the model; the folder appears under its name
    only when it is complete. Tensors are streamed: memory does not grow with the size of the model.

    Args:
        imagebind (`str` or `Path`):
            `imagebind_huge.pth`.
        pandagpt (`str` or `Path`):
            PandaGPT's `pytorch_model.pt` of the same size as the language model (7B, 13B).
        anomalygpt (`str` or `Path`):
            AnomalyGPT's `pytorch_model.pt`: `train_mvtec`, `train_visa` or `train_supervised`.
        output (`str` or `Path`):
            Folder to make; must not exist, or be empty.
        vicuna (`str` or `Path`, *optional*):
            Folder or Hub id of Vicuna version 0. Or give `llama` and `vicuna_delta`.
        llama (`str` or `Path`, *optional*):
            Folder or Hub id of the first LLaMA, in the layout of transformers.
        vicuna_delta (`str` or `Path`, *optional*):
            Folder or Hub id of Vicuna's delta, version 0.
        clip_bpe (`str` or `Path`, defaults to `"openai/clip-vit-large-patch14"`):
            `bpe_simple_vocab_16e6.txt.gz` of ImageBind's source, or the Hub id (or folder) of a CLIP model.
        keep_lora (`bool`, defaults to `False`):
            Whether PandaGPT's LoRA is written as a PEFT adapter to `output/lora` instead of being merged.
        dtype (`str`, defaults to `"bfloat16"`):
            `"float32"`, `"float16"` or `"bfloat16"`. The localizer is always float32.
        max_shard_size (`int` or `str`, defaults to `"2GB"`):
            Largest file of the output.
        num_attention_heads (`int`, defaults to 16):
            Heads of both ImageBind towers; no tensor tells them.
        out_indices (`list[int]`, *optional*):
            Read-out blocks of the vision tower, counted from 1; the quarters of its depth by default, as published.
        progress (`bool`, defaults to `True`):
            Whether a progress bar is shown.

    Returns:
        [`ConversionReport`]: What was read from where; also written to `output/conversion_report.json`.

    Raises:
        FileNotFoundError: If a file is missing.
        FileExistsError: If `output` has contents.
        OSError: If the disk is too small.
        ValueError: If a file is not what it should be; the message names keys, files and what to do.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    output, shard_bytes = Path(output), parse_size(max_shard_size)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"`output` must be a new or empty folder, got '{output}', which has contents.")

    files = {}
    for name, path in (("imagebind", imagebind), ("pandagpt", pandagpt), ("anomalygpt", anomalygpt)):
        files[name] = Checkpoint(path)
        check_kind(name, files[name].shapes, path)
    files["language_model"] = open_language_model(vicuna, llama, vicuna_delta)
    published = {name: file.shapes for name, file in files.items()}

    class_tokenizer = clip_tokenizer(clip_merges_file(clip_bpe))
    config, sizes, tokenizer = _configuration(files["language_model"], published, num_attention_heads, out_indices)
    config.dtype, config.architectures = dtype, ["AnomalyGPTForConditionalGeneration"]
    parameters = parameter_shapes(config)
    depth = config.text_config.num_hidden_layers
    origins = parameter_origins(sizes, depth)
    report = _report(files, (imagebind, pandagpt, anomalygpt), vicuna, llama, vicuna_delta, sizes, config)
    compare_keys(report, origins, parameters, published, depth)
    report.raise_if_wrong()
    report.num_parameters = sum(math.prod(shape) for shape in parameters.values())
    report.output = str(output)

    processor = AnomalyGPTProcessor(AnomalyGPTImageProcessor(), tokenizer, class_tokenizer)
    with _atomic_folder(output) as folder:
        _check_free_space(folder, parameters, DTYPES[dtype])
        order = _reading_order(origins, published)
        plan = {
            name: (parameters[name], torch.float32 if name.startswith(_FP32_PREFIX) else DTYPES[dtype])
            for name in order
        }
        writer = SafetensorsWriter(folder, plan, shard_bytes)
        adapters = {} if keep_lora else lora_keys(depth)
        _stream(writer, {name: origins[name] for name in order}, files, adapters, progress)
        writer.finish()
        if keep_lora:
            _save_adapter(folder / "lora", output, files["pandagpt"], depth, sizes.lora_rank)
            report.notes.append(f"LoRA kept as an adapter: load '{output / 'lora'}', not the folder alone.")
        processor.save_pretrained(folder)
        _generation_config(processor).save_pretrained(folder)
        (folder / "README.md").write_text(
            _MODEL_CARD.format(report="\n".join(f"    {line}" for line in str(report).split("\n")))
        )
        (folder / "conversion_report.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n")
        config.save_pretrained(folder)
    return report


def _configuration(language_model: LanguageModelFiles, published: dict[str, Shapes], heads: int, out_indices):
    """Configuration, sizes and tokenizer; whatever does not fit is refused on the way."""
    sizes = infer_sizes(published["imagebind"], published["pandagpt"], published["anomalygpt"])
    embedding = published["language_model"].get("model.embed_tokens.weight")
    if embedding is None:
        raise ValueError(
            "`--vicuna` must hold the key 'model.embed_tokens.weight'. It is missing: is a shard missing?"
        )
    check_language_width(sizes, published["pandagpt"], embedding[1])
    tokenizer = llama_tokenizer(language_model.tokenizer_file, embedding[0])
    image_token_index = tokenizer.convert_tokens_to_ids("<image>")
    check_vocabulary(image_token_index or embedding[0], embedding[0])
    config = published_config(sizes, language_model.config, image_token_index, heads, out_indices)
    return config, sizes, tokenizer


def _report(files, paths, vicuna, llama, vicuna_delta, sizes, config) -> ConversionReport:
    language = str(vicuna) if vicuna else f"{llama} + {vicuna_delta}"
    names = dict(zip(("imagebind", "pandagpt", "anomalygpt"), map(str, paths), strict=True))
    text = config.text_config
    return ConversionReport(
        files=names | {"language_model": language},
        num_tensors={name: len(file.shapes) for name, file in files.items()},
        sizes={
            "vision": f"{sizes.vision_width} x {sizes.vision_depth} blocks",
            "text": f"{sizes.text_width} x {sizes.text_depth} blocks",
            "language model": f"{text.hidden_size} x {text.num_hidden_layers} blocks, vocabulary {text.vocab_size}",
            "LoRA rank": sizes.lora_rank,
            "read-out blocks": config.out_indices,
        },
    )


def _reading_order(origins: dict[str, Origin], published: dict[str, Shapes]) -> list[str]:
    """Parameters file by file and, within a file, in its own order: shards are read once, front to back."""
    position = {(file, key): (i, j) for i, file in enumerate(published) for j, key in enumerate(published[file])}
    return sorted(origins, key=lambda name: position[(origins[name].file, origins[name].key)])


def _stream(writer, origins: dict[str, Origin], files, adapters: dict[str, tuple[str, str]], progress: bool) -> None:
    total = sum(math.prod(shape) * dtype.itemsize for shape, dtype in writer.tensors.values())
    current = None
    with tqdm(total=total, unit="B", unit_scale=True, disable=None if progress else True) as bar:
        for name, origin in origins.items():
            if origin.file != current and current is not None:
                files[current].close()
            current = origin.file
            bar.set_description(origin.file)
            tensor = origin.apply(files[origin.file][origin.key])
            if origin.file == "language_model" and origin.key in adapters:
                # lora_alpha equals the rank in PandaGPT, so the scale is 1.
                down, up = (files["pandagpt"][key].float() for key in adapters[origin.key])
                tensor = tensor.float() + up @ down
            shape, dtype = writer.tensors[name]
            tensor = tensor.to(dtype)
            if not tensor.isfinite().all():
                raise ValueError(
                    f"`{origin.file}` must hold finite numbers, got infinite or undefined ones in '{origin.key}' as "
                    f"{dtype}. Download the file again, or choose another `dtype`."
                )
            writer.write(name, tensor)
            bar.update(math.prod(shape) * dtype.itemsize)
    for file in files.values():
        file.close()


def _save_adapter(folder: Path, base: Path, pandagpt: Checkpoint, depth: int, rank: int) -> None:
    """PandaGPT's LoRA in the layout of PEFT."""
    folder.mkdir()
    keys = [key for pair in lora_keys(depth).values() for key in pair]
    save_file(
        {adapter_key(key): pandagpt[key].float().contiguous() for key in keys}, folder / "adapter_model.safetensors"
    )
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base.resolve()),
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.1,
        "bias": "none",
        "target_modules": _TARGET_MODULES,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _generation_config(processor: AnomalyGPTProcessor) -> GenerationConfig:
    """Greedy; stops at the end token and where `###`, which ends an answer in Vicuna v0, begins in either encoding."""
    return GenerationConfig(
        bos_token_id=processor.tokenizer.bos_token_id,
        eos_token_id=processor.stop_token_ids,
        pad_token_id=processor.tokenizer.eos_token_id,
        suppress_tokens=[processor.image_token_id],
    )


def _check_free_space(folder: Path, parameters: dict[str, tuple[int, ...]], dtype: torch.dtype) -> None:
    needed = sum(math.prod(shape) for shape in parameters.values()) * dtype.itemsize
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"`output` needs {needed / 1e9:.1f} GB, got {free / 1e9:.1f} GB free on the disk of '{folder.parent}'. "
            "Choose another disk."
        )


@contextmanager
def _atomic_folder(output: Path):
    """A hidden sibling that takes the name `output` at the end, or disappears with the error."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.parent / f".{output.name}.unfinished-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        if output.is_dir():
            output.rmdir()
        folder.rename(output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


__all__ = ["convert"]
