"""The published ImageBind, Vicuna, PandaGPT and AnomalyGPT files become one folder for `from_pretrained`.

Knows the order of a conversion: look at all files, refuse what does not fit, then stream tensor by tensor. Key names
are in published_layout, refusals in conversion_checks, file formats in checkpoint_streams.
"""

import argparse
import json
import math
import os
import re
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors.torch import save_file
from tqdm.auto import tqdm
from transformers import GenerationConfig

from .checkpoint_streams import Checkpoint, SafetensorsWriter, parse_size
from .configuration_anomalygpt import AnomalyGPTConfig
from .conversion_checks import (
    ConversionReport,
    check_delta,
    check_is_complete_model,
    check_kind,
    check_language_width,
    check_llama_config,
    check_rotary_frequencies,
    check_vocabulary,
    compare_keys,
)
from .image_processing_anomalygpt import AnomalyGPTImageProcessor
from .modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from .processing_anomalygpt import AnomalyGPTProcessor
from .published_layout import (
    IGNORED_LLAMA_KEYS,
    Origin,
    PublishedSizes,
    Shapes,
    adapter_key,
    infer_sizes,
    lora_keys,
    parameter_origins,
)
from .published_tokenizers import clip_tokenizer, llama_tokenizer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DEFAULT_CLIP_BPE = "openai/clip-vit-large-patch14"
_FP32_PREFIX = "model.localizer."  # the model keeps its localizer in float32 whatever the dtype
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TARGET_MODULES = r".*language_model\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"


class LanguageModelFiles:
    r"""
    Vicuna as one collection of tensors: a complete model, or LLaMA with Vicuna's delta added on the way.

    Args:
        folder (`Path`):
            `config.json`, `tokenizer.model` and weights as transformers saves them.
        delta_folder (`Path`, *optional*):
            The same for Vicuna's delta; `folder` is then LLaMA.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the model is not Vicuna v0, **or** delta and base do not belong together.
    """

    def __init__(self, folder: Path, delta_folder: Path | None = None):
        self.base = Checkpoint(folder)
        check_kind("language_model", self.base.shapes, folder)
        self.delta = Checkpoint(delta_folder) if delta_folder else None
        top = delta_folder or folder
        config_file = top / "config.json"
        if not config_file.is_file():
            raise FileNotFoundError(f"No config.json in '{top}'. Download the whole folder of the language model.")
        self.config: dict = json.loads(config_file.read_text())
        candidates = [path / "tokenizer.model" for path in (folder, delta_folder) if path]
        self.tokenizer_file = next((path for path in candidates if path.is_file()), None)
        if self.tokenizer_file is None:
            raise FileNotFoundError(f"No tokenizer.model in '{folder}'. It is part of LLaMA's and Vicuna's downloads.")
        norm = "model.norm.weight"
        if self.delta:
            check_kind("language_model", self.delta.shapes, delta_folder)
            if norm in self.delta:
                check_delta(self.base.shapes, self.delta.shapes, self.delta[norm], delta_folder)
        elif norm in self.base:
            check_is_complete_model(self.base[norm], folder)
        check_llama_config(self.config, top)
        for key in self.base.shapes:
            if IGNORED_LLAMA_KEYS.match(key):
                check_rotary_frequencies(self.base[key], key)
        self.close()

    @property
    def shapes(self) -> Shapes:
        """Shapes by key, in the order of the files; of a delta and its base, the keys of both."""
        if not self.delta:
            return self.base.shapes
        frequencies = {key: shape for key, shape in self.base.shapes.items() if IGNORED_LLAMA_KEYS.match(key)}
        return {key: self.delta.shapes[key] for key in self.base.shapes if key in self.delta} | frequencies

    def __getitem__(self, key: str) -> torch.Tensor:
        """The tensor; a delta's extra vocabulary rows have no base and stand for themselves (FastChat v0.1.10)."""
        if not self.delta:
            return self.base[key]
        tensor, base = self.delta[key].float(), self.base[key]
        tensor[: len(base)] += base.float()
        return tensor

    def close(self) -> None:
        """Unmap all files."""
        self.base.close()
        if self.delta:
            self.delta.close()


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
            Heads of both ImageBind towers, the only size that no tensor tells.
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
    files["language_model"] = _open_language_model(vicuna, llama, vicuna_delta)
    published = {name: file.shapes for name, file in files.items()}

    class_tokenizer = clip_tokenizer(_clip_merges(clip_bpe))
    config, sizes, tokenizer = _configuration(files["language_model"], published, num_attention_heads)
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
        (folder / "conversion_report.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n")
        config.save_pretrained(folder)
    return report


def parameter_shapes(config: AnomalyGPTConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters of the model, found without memory on the meta device."""
    with torch.device("meta"):
        model = AnomalyGPTForConditionalGeneration(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def published_config(
    sizes: PublishedSizes, llama_config: dict, image_token_index: int, num_attention_heads: int = 16
) -> AnomalyGPTConfig:
    r"""
    The configuration of a published model.

    Args:
        sizes (`PublishedSizes`):
            What the tensors tell.
        llama_config (`dict`):
            `config.json` of the language model.
        image_token_index (`int`):
            Id of the placeholder.
        num_attention_heads (`int`, defaults to 16):
            Heads of both towers.

    Returns:
        [`AnomalyGPTConfig`]: Read-out blocks are the quarters of the vision tower's depth.

    Raises:
        ValueError: If a width is no multiple of the heads, **or** the depth has no quarters.
    """
    for part, width in (("vision", sizes.vision_width), ("text", sizes.text_width)):
        if width % num_attention_heads:
            raise ValueError(
                f"`num_attention_heads` must divide the {part} tower's width {width}, got {num_attention_heads}."
            )
    if sizes.vision_depth % 4 or sizes.num_layer_maps != 4:
        raise ValueError(
            f"`imagebind` must have a depth of four equal parts and `anomalygpt` four layers of image_decoder, got "
            f"{sizes.vision_depth} blocks and {sizes.num_layer_maps} layers. Is a download incomplete?"
        )
    tower = {"num_attention_heads": num_attention_heads, "hidden_act": "gelu", "layer_norm_eps": 1e-6}
    tower["projection_dim"] = sizes.projection_dim
    left_out = {"architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "_name_or_path"}
    left_out |= {"max_sequence_length", "pad_token_id", "rope_scaling", "rope_theta", "rope_parameters", "use_cache"}
    return AnomalyGPTConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": sizes.vision_width,
            "intermediate_size": sizes.vision_mlp_width,
            "num_hidden_layers": sizes.vision_depth,
            "image_size": sizes.image_size,
            "patch_size": sizes.patch_size,
            **tower,
        },
        text_tower_config={
            "model_type": "clip_text_model",
            "hidden_size": sizes.text_width,
            "intermediate_size": sizes.text_mlp_width,
            "num_hidden_layers": sizes.text_depth,
            "vocab_size": sizes.text_vocabulary,
            "max_position_embeddings": sizes.text_context,
            "bos_token_id": sizes.text_vocabulary - 2,
            "eos_token_id": sizes.text_vocabulary - 1,
            "pad_token_id": sizes.text_vocabulary - 1,
            **tower,
        },
        text_config={"model_type": "llama"}
        | {key: value for key, value in llama_config.items() if key not in left_out}
        | {"bos_token_id": 1, "eos_token_id": 2},  # some LLaMA conversions of 2023 have 0 and 1
        projection_dim=sizes.projection_dim,
        out_indices=[sizes.vision_depth * quarter // 4 for quarter in (1, 2, 3, 4)],
        map_size=sizes.image_size,
        num_base_prompts=sizes.num_base_prompts,
        prompt_channels=list(sizes.prompt_channels),
        num_map_prompts=sizes.num_map_prompts,
        image_token_index=image_token_index,
    )


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `anomalygpt convert`."""
    parser.add_argument("--imagebind", required=True, metavar="FILE", help="imagebind_huge.pth")
    parser.add_argument("--vicuna", metavar="DIR_OR_ID", help="Vicuna version 0 (vocabulary 32001)")
    parser.add_argument("--llama", metavar="DIR_OR_ID", help="the first LLaMA, when only Vicuna's delta is at hand")
    parser.add_argument("--vicuna-delta", metavar="DIR_OR_ID", help="Vicuna's delta version 0, added to --llama")
    parser.add_argument("--pandagpt", required=True, metavar="FILE", help="PandaGPT's pytorch_model.pt")
    parser.add_argument("--anomalygpt", required=True, metavar="FILE", help="AnomalyGPT's pytorch_model.pt")
    parser.add_argument(
        "--clip-bpe",
        default=DEFAULT_CLIP_BPE,
        metavar="FILE_OR_ID",
        help="bpe_simple_vocab_16e6.txt.gz, or the Hub id of a CLIP model (default: %(default)s)",
    )
    parser.add_argument("--keep-lora", action="store_true", help="write the LoRA to OUTPUT/lora instead of merging it")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16", help="default: %(default)s")
    parser.add_argument("--max-shard-size", default="2GB", metavar="SIZE", help="default: %(default)s")
    parser.add_argument("--verify", action="store_true", help="load the result and test it in three stages")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to make")


def run_convert(args: argparse.Namespace) -> int:
    """Run `anomalygpt convert`; 0 when all went well, 1 when `--verify` found a stage that fails."""
    report = convert(
        imagebind=args.imagebind,
        vicuna=args.vicuna,
        llama=args.llama,
        vicuna_delta=args.vicuna_delta,
        pandagpt=args.pandagpt,
        anomalygpt=args.anomalygpt,
        clip_bpe=args.clip_bpe,
        keep_lora=args.keep_lora,
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
        output=args.output,
    )
    sys.stdout.write(f"{report}\n")
    if not args.verify:
        return 0
    from .conversion_selftest import verify  # loads the model: only on request

    stages = verify(Path(args.output) / "lora" if args.keep_lora else args.output)
    sys.stdout.writelines(f"{stage}\n" for stage in stages)
    return 0 if all(stage.passed for stage in stages) else 1


def _open_language_model(vicuna, llama, vicuna_delta) -> LanguageModelFiles:
    if vicuna and not (llama or vicuna_delta):
        return LanguageModelFiles(_folder_or_hub(vicuna, "vicuna"))
    if llama and vicuna_delta and not vicuna:
        return LanguageModelFiles(_folder_or_hub(llama, "llama"), _folder_or_hub(vicuna_delta, "vicuna-delta"))
    given = [
        f"--{name}" for name, path in (("vicuna", vicuna), ("llama", llama), ("vicuna-delta", vicuna_delta)) if path
    ]
    raise ValueError(
        f"`--vicuna` must be given, or `--llama` together with `--vicuna-delta`, got {' and '.join(given) or 'none'}. "
        "A delta is of no use without its base."
    )


def _folder_or_hub(path_or_id: str | Path, option: str) -> Path:
    path = Path(path_or_id)
    if path.is_dir():
        return path
    if path.is_file():
        raise ValueError(f"`--{option}` must be a folder with config.json and weights, got the file '{path}'.")
    if not _HUB_ID.fullmatch(str(path_or_id)):
        raise FileNotFoundError(f"No folder at '{path}' for `--{option}`, and it is no Hub id (owner/name).")
    return Path(snapshot_download(str(path_or_id), allow_patterns=["*.json", "*.model", "*.bin", "*.safetensors"]))


def _clip_merges(file_or_id: str | Path) -> Path:
    path = Path(file_or_id)
    if path.is_dir():
        path = path / "merges.txt"
    if path.is_file():
        return path
    if not _HUB_ID.fullmatch(str(file_or_id)):
        raise FileNotFoundError(
            f"No file at '{path}' for `--clip-bpe`. Give bpe_simple_vocab_16e6.txt.gz or the Hub id of a CLIP model."
        )
    return Path(hf_hub_download(str(file_or_id), "merges.txt"))


def _configuration(language_model: LanguageModelFiles, published: dict[str, Shapes], num_attention_heads: int):
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
    config = published_config(sizes, language_model.config, image_token_index, num_attention_heads)
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


__all__ = [
    "LanguageModelFiles",
    "add_convert_arguments",
    "convert",
    "parameter_shapes",
    "published_config",
    "run_convert",
]
