"""The published ImageBind, Vicuna, PandaGPT and AnomalyGPT files become one folder for `from_pretrained`.

The order of a conversion: look at all files, refuse what does not fit, then stream tensor by tensor. Key names and
sizes are in layout.py, refusals in checks.py, file formats, folders and Hub ids in streams.py. What needs torch is
imported where it is used, so that `anomalygpt convert --help` answers at once.
"""

import json
import math
import shutil
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_atomically

if TYPE_CHECKING:
    from .checks import ConversionReport

DTYPES = ("bfloat16", "float16", "float32")
DEFAULT_CLIP_BPE = "openai/clip-vit-large-patch14"
_FP32_PREFIX = "model.localizer."  # the model keeps its localizer in float32 whatever the dtype

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
) -> "ConversionReport":
    """Convert the published files into one folder that `from_pretrained` loads.

    Nothing is written before every key of every file was compared with the model; the folder appears under its name
    only when it is complete. Tensors are streamed: memory does not grow with the size of the model.

    Args:
        imagebind (`str` or `Path`): `imagebind_huge.pth`.
        pandagpt (`str` or `Path`): PandaGPT's `pytorch_model.pt` of the same size as the language model (7B, 13B).
        anomalygpt (`str` or `Path`): AnomalyGPT's `pytorch_model.pt`: `train_mvtec`, `train_visa` or
            `train_supervised`.
        output (`str` or `Path`): Folder to make; must not exist, or be empty.
        vicuna (`str` or `Path`, *optional*): Folder or Hub id of Vicuna version 0. Or give `llama` and `vicuna_delta`.
        llama (`str` or `Path`, *optional*): Folder or Hub id of the first LLaMA, in the layout of transformers.
        vicuna_delta (`str` or `Path`, *optional*): Folder or Hub id of Vicuna's delta, version 0.
        clip_bpe (`str` or `Path`, defaults to `"openai/clip-vit-large-patch14"`): `bpe_simple_vocab_16e6.txt.gz` of
            ImageBind's source, or the Hub id (or folder) of a CLIP model.
        keep_lora (`bool`, defaults to `False`): Whether PandaGPT's LoRA is written as a PEFT adapter to `output/lora`
            instead of being merged.
        dtype (`str`, defaults to `"bfloat16"`): `"float32"`, `"float16"` or `"bfloat16"`. The localizer is always
            float32.
        max_shard_size (`int` or `str`, defaults to `"2GB"`): Largest file of the output.
        num_attention_heads (`int`, defaults to 16): Heads of both ImageBind towers; no tensor tells them.
        out_indices (`list[int]`, *optional*): Read-out blocks of the vision tower, counted from 1; the quarters of its
            depth by default, as published.
        progress (`bool`, defaults to `True`): Whether a progress bar is shown.

    Returns:
        [`ConversionReport`]: What was read from where; also written to `output/conversion_report.json`.

    Raises:
        FileNotFoundError: If a file is missing.
        FileExistsError: If `output` has contents.
        OSError: If the disk is too small.
        ValueError: If a file is not what it should be; the message names keys, files and what to do.
    """
    import torch
    from transformers import GenerationConfig

    from ..checkpoints import new_folder
    from ..image_processing_anomalygpt import AnomalyGPTImageProcessor
    from ..processing_anomalygpt import AnomalyGPTProcessor
    from . import checks, layout, streams
    from .tokenizers import clip_tokenizer

    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}. Choose one of them.")
    output, shard_bytes = Path(output), streams.parse_size(max_shard_size)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"`output` must be a new or empty folder, got '{output}'. Choose another one.")

    paths, files = {"imagebind": str(imagebind), "pandagpt": str(pandagpt), "anomalygpt": str(anomalygpt)}, {}
    for name, path in paths.items():
        files[name] = streams.Checkpoint(path)
        checks.check_kind(name, files[name].shapes, path)
    paths["language_model"] = str(vicuna) if vicuna else f"{llama} + {vicuna_delta}"
    files["language_model"] = streams.open_language_model(vicuna, llama, vicuna_delta)
    published = {name: file.shapes for name, file in files.items()}

    class_tokenizer = clip_tokenizer(streams.clip_merges_file(clip_bpe))
    config, tokenizer = _configuration(files["language_model"], published, num_attention_heads, out_indices)
    config.dtype, config.architectures = dtype, ["AnomalyGPTForConditionalGeneration"]
    parameters, origins = layout.parameter_shapes(config), layout.parameter_origins(config)
    depth, rank = config.text_config.num_hidden_layers, layout.lora_rank(published["pandagpt"])
    report = _report(paths, published, config, rank)
    checks.compare_keys(report, origins, parameters, published, depth)
    report.raise_if_wrong()
    report.num_parameters, report.output = sum(map(math.prod, parameters.values())), str(output)

    processor = AnomalyGPTProcessor(AnomalyGPTImageProcessor(), tokenizer, class_tokenizer)
    # Greedy; stops at the end token and where `###`, which ends an answer in Vicuna v0, begins in either encoding.
    generation = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=processor.stop_token_ids,
        pad_token_id=tokenizer.eos_token_id,
        suppress_tokens=[processor.image_token_id],
    )
    # File by file and, within a file, in its own order: shards are read once, front to back.
    position = {(file, key): (i, j) for i, file in enumerate(published) for j, key in enumerate(published[file])}
    order = sorted(origins, key=lambda name: position[origins[name].file, origins[name].key])
    kept = getattr(torch, dtype)
    plan = {name: (parameters[name], torch.float32 if name.startswith(_FP32_PREFIX) else kept) for name in order}
    with new_folder(output) as partial:
        folder = Path(partial)
        folder.mkdir(parents=True)
        _check_free_space(folder, sum(math.prod(shape) * kind.itemsize for shape, kind in plan.values()))
        writer = streams.SafetensorsWriter(folder, plan, shard_bytes)
        adapters = {} if keep_lora else layout.lora_keys(depth)
        streams.copy_tensors(writer, {name: origins[name] for name in order}, files, adapters, progress)
        if keep_lora:
            streams.save_adapter(folder / "lora", output, processor, files["pandagpt"], depth, rank)
            report.notes.append(f"LoRA kept as an adapter: load '{output / 'lora'}', not the folder alone.")
        for part in (processor, generation, config):
            part.save_pretrained(folder)
        write_atomically(folder / "README.md", _MODEL_CARD.format(report=textwrap.indent(str(report), "    ")))
        (folder / "conversion_report.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
    return report


def _configuration(language_model: Any, published: dict[str, Any], heads: int, out_indices: list[int] | None) -> tuple:
    """Configuration and tokenizer; whatever does not fit is refused on the way."""
    from . import checks, layout
    from .tokenizers import llama_tokenizer

    embedding = published["language_model"].get("model.embed_tokens.weight")
    if embedding is None:
        raise ValueError(
            "`--vicuna` must hold the key 'model.embed_tokens.weight'. It is missing: is a shard missing?"
        )
    checks.check_language_width(published["pandagpt"], published["anomalygpt"], embedding[1])
    tokenizer = llama_tokenizer(language_model.tokenizer_file, embedding[0])
    image_token_index = tokenizer.convert_tokens_to_ids("<image>")
    checks.check_vocabulary(image_token_index or embedding[0], embedding[0])
    config = layout.published_config(published, language_model.config, image_token_index, heads, out_indices)
    return config, tokenizer


def _report(paths: dict[str, str], published: dict[str, Any], config: Any, rank: int) -> "ConversionReport":
    from .checks import ConversionReport

    vision, states, text = config.vision_config, config.text_tower_config, config.text_config
    return ConversionReport(
        files=paths,
        num_tensors={name: len(shapes) for name, shapes in published.items()},
        sizes={
            "vision": f"{vision.hidden_size} x {vision.num_hidden_layers} blocks",
            "text": f"{states.hidden_size} x {states.num_hidden_layers} blocks",
            "language model": f"{text.hidden_size} x {text.num_hidden_layers} blocks, vocabulary {text.vocab_size}",
            "LoRA rank": rank,
            "read-out blocks": config.out_indices,
        },
    )


def _check_free_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"`output` needs {needed / 1e9:.1f} GB, got {free / 1e9:.1f} GB free on the disk of '{folder.parent}'. "
            "Choose another disk."
        )
