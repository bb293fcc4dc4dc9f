"""Published files in, shards out: lazily read checkpoints, folders and Hub ids, Vicuna as LLaMA and a delta."""

import json
import math
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from ..errors import describe_error
from .checks import check_delta, check_is_complete_model, check_kind, check_llama_config, check_rotary_frequencies
from .layout import IGNORED_LLAMA_KEYS, Origin, Shapes, adapter_key, lora_keys

# Pages of a mapped file stay in memory once read. A file is mapped anew after this many bytes, so that a conversion's
# peak depends neither on the size of the checkpoint nor on that of its shards.
_REMAP_AFTER_BYTES = 512 * 2**20

_LORA_MODULES = r".*language_model\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)"
_SAFETENSORS_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class CheckpointFile:
    """One file of named tensors, read lazily; `file[key]` loads one tensor.

    Args:
        path (`str` or `Path`): A `.safetensors` file, or one of `torch.save` that holds a flat dictionary of tensors
            and nothing else.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"No file at '{self.path}'. Check the path and that the download is complete.")
        self._touched = 0
        self._tensors = None
        self._map()
        self.shapes: dict[str, tuple[int, ...]] = dict(self._shapes())

    def __getitem__(self, key: str) -> torch.Tensor:
        if self._touched > _REMAP_AFTER_BYTES:
            self.close()
        if self._tensors is None:
            self._map()
        tensor = self._tensors.get_tensor(key) if self._is_safetensors else self._tensors[key]
        self._touched += tensor.numel() * tensor.element_size()
        return tensor

    def close(self) -> None:
        """Unmap the file; the next access maps it again."""
        self._tensors = None
        self._touched = 0

    @property
    def _is_safetensors(self) -> bool:
        return self.path.suffix == ".safetensors"

    def _map(self) -> None:
        if self._is_safetensors:
            try:
                self._tensors = safe_open(str(self.path), framework="pt")
            except Exception as error:
                raise ValueError(_damaged(self.path, error)) from error
            return
        self._tensors = _load_pickle(self.path)
        for key, value in self._tensors.items():
            if not isinstance(key, str) or not isinstance(value, torch.Tensor):
                raise ValueError(
                    f"'{self.path}' must be a flat dictionary of tensors, got {type(value).__name__} under {key!r}. "
                    "Pass the weights alone, without optimizer states or nested dictionaries."
                )

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        if self._is_safetensors:
            for key in self._tensors.keys():  # noqa: SIM118 (no mapping, only a `keys` method)
                yield key, tuple(self._tensors.get_slice(key).get_shape())
        else:
            for key, tensor in self._tensors.items():
                yield key, tuple(tensor.shape)


class Checkpoint:
    """One file, or a folder of shards, as a single collection of named tensors.

    Args:
        path (`str` or `Path`): A file, or a folder with `model*.safetensors` or `pytorch_model*.bin` (safetensors
            preferred).
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.files = [CheckpointFile(file) for file in _weight_files(self.path)]
        self._file_of: dict[str, CheckpointFile] = {}
        for file in self.files:
            for key in file.shapes:
                if key in self._file_of:
                    raise ValueError(
                        f"Key '{key}' is in '{self._file_of[key].path.name}' and in '{file.path.name}' of "
                        f"'{self.path}'. Remove the files of the other version."
                    )
                self._file_of[key] = file
            file.close()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, in the order of the files."""
        return {key: file.shapes[key] for key, file in self._file_of.items()}

    def __contains__(self, key: str) -> bool:
        return key in self._file_of

    def __getitem__(self, key: str) -> torch.Tensor:
        return self._file_of[key][key]

    def close(self) -> None:
        """Unmap all files."""
        for file in self.files:
            file.close()


class SafetensorsWriter:
    """Writes safetensors shards whose tensors arrive in any order, one at a time.

    Shapes and dtypes are given first, so every tensor's place in its file is known before the first arrives.

    Args:
        folder (`Path`): An existing folder.
        tensors (`dict[str, tuple[tuple[int, ...], torch.dtype]]`): Shape and dtype of every tensor, in the order of
            the shards.
        max_shard_bytes (`int`): Largest size of a shard in bytes; a larger tensor gets a shard of its own.
    """

    def __init__(
        self, folder: Path, tensors: dict[str, tuple[tuple[int, ...], torch.dtype]], max_shard_bytes: int = 2 * 10**9
    ):
        self.folder = folder
        self.tensors = tensors
        shards = list(_split(tensors, max_shard_bytes))
        names = (
            ["model.safetensors"]
            if len(shards) == 1
            else [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
        )
        self._place: dict[str, tuple[str, int]] = {}
        for name, keys in zip(names, shards, strict=True):
            self._start_shard(name, keys)

    def write(self, key: str, tensor: torch.Tensor) -> None:
        """Write one tensor in its planned dtype."""
        shape, dtype = self.tensors[key]
        if tuple(tensor.shape) != shape:
            raise ValueError(f"`tensor` '{key}' must have shape {shape}, got {tuple(tensor.shape)}.")
        name, offset = self._place[key]
        data = tensor.detach().to(dtype).contiguous().reshape(-1).view(torch.uint8)
        with open(self.folder / name, "r+b") as file:
            file.seek(offset)
            file.write(memoryview(data.numpy()))

    def finish(self) -> None:
        """Write the index when there are several shards."""
        files = {key: name for key, (name, _) in self._place.items()}
        if len(set(files.values())) > 1:
            total = sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.tensors.values())
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
            (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")

    def _start_shard(self, name: str, keys: list[str]) -> None:
        """Write the header (JSON, padded to 8 bytes) and reserve the space; wide dtypes first keep all aligned."""
        header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
        end = 0
        for key in sorted(keys, key=lambda key: -self.tensors[key][1].itemsize):
            shape, dtype = self.tensors[key]
            start, end = end, end + math.prod(shape) * dtype.itemsize
            header[key] = {"dtype": _SAFETENSORS_DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        for key in keys:
            self._place[key] = (name, 8 + len(text) + header[key]["data_offsets"][0])
        with open(self.folder / name, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)


def parse_size(size: int | str) -> int:
    """Number of bytes in a size such as `"2GB"` (decimal units, as in transformers) or `"512MiB"`.

    Example:
    ```python
    >>> parse_size("2GB"), parse_size("1MiB"), parse_size(4096)
    (2000000000, 1048576, 4096)

    ```
    """
    if isinstance(size, int) and size > 0:
        return size
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B", str(size), re.IGNORECASE)
    if not match or float(match[1]) == 0:
        raise ValueError(f"`max_shard_size` must be a size such as '2GB' or '500MB', got {size!r}.")
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def _load_pickle(path: Path) -> dict:
    """The dictionary of a `torch.save` file, mapped where that can be; nothing but tensors is unpickled."""
    try:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            loaded = torch.load(path, map_location="cpu", weights_only=True)  # of PyTorch before 1.6
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"'{path}' must hold tensors only, got a pickle with other objects or no pickle at all. It was not "
            "loaded, because unpickling arbitrary objects can run any code. Download the file again from its source."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(_damaged(path, error)) from error
    if not isinstance(loaded, dict):
        raise ValueError(
            f"'{path}' must be a dictionary of tensors, got {type(loaded).__name__}. Pass the weights alone."
        )
    return loaded


def _damaged(path: Path, error: Exception) -> str:
    return (
        f"'{path}' must be a complete checkpoint file, got {path.stat().st_size:,} bytes that cannot be read "
        f"({describe_error(error)}). Download it again."
    )


def _weight_files(path: Path) -> list[Path]:
    """The weight files of a folder, complete according to its index; a file stands for itself."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"No file or folder at '{path}'. Check the path.")
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        index = path / f"{stem}{suffix}.index.json"
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            missing = [name for name in names if not (path / name).is_file()]
            if missing:
                raise FileNotFoundError(
                    f"'{path}' lacks {len(missing)} of the {len(names)} shards that {index.name} names: "
                    f"{', '.join(missing)}. Finish the download."
                )
            return [path / name for name in names]
        files = sorted(path.glob(f"{stem}*{suffix}"))
        if files:
            return files
    raise FileNotFoundError(
        f"No weights in '{path}'. Expected model*.safetensors or pytorch_model*.bin, as transformers saves them."
    )


def _split(tensors: dict[str, tuple[tuple[int, ...], torch.dtype]], max_shard_bytes: int) -> Iterable[list[str]]:
    """Names grouped in order, each group at most `max_shard_bytes` unless a single tensor is larger."""
    group, size = [], 0
    for key, (shape, dtype) in tensors.items():
        num_bytes = math.prod(shape) * dtype.itemsize
        if group and size + num_bytes > max_shard_bytes:
            yield group
            group, size = [], 0
        group.append(key)
        size += num_bytes
    yield group


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class LanguageModelFiles:
    """Vicuna as one collection of tensors: a complete model, or LLaMA with Vicuna's delta added on the way.

    Args:
        folder (`Path`): `config.json`, `tokenizer.model` and weights as transformers saves them.
        delta_folder (`Path`, *optional*): The same for Vicuna's delta; `folder` is then LLaMA.
    """

    def __init__(self, folder: Path, delta_folder: Path | None = None):
        self.base = Checkpoint(folder)
        check_kind("language_model", self.base.shapes, folder)
        self.delta = Checkpoint(delta_folder) if delta_folder else None
        top = delta_folder or folder
        config_file = top / "config.json"
        if not config_file.is_file():
            raise FileNotFoundError(f"No config.json in '{top}'. Download the whole folder of the language model.")
        self.config: dict = json.loads(config_file.read_text(encoding="utf-8"))
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
        if self.delta and (folder / "config.json").is_file():
            check_llama_config(json.loads((folder / "config.json").read_text(encoding="utf-8")), folder, "--llama")
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


def open_language_model(
    vicuna: str | Path | None, llama: str | Path | None = None, vicuna_delta: str | Path | None = None
) -> LanguageModelFiles:
    """Open Vicuna, or LLaMA with Vicuna's delta, each a folder or a Hub id; `ValueError` for anything in between."""
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
        raise ValueError(
            f"`--{option}` must be a folder with config.json and weights, got the file '{path}'. Give its folder."
        )
    if not _HUB_ID.fullmatch(str(path_or_id)):
        raise FileNotFoundError(
            f"No folder at '{path}' for `--{option}`, and it is no Hub id (owner/name). Check the path."
        )
    return Path(snapshot_download(str(path_or_id), allow_patterns=["*.json", "*.model", "*.bin", "*.safetensors"]))


def clip_merges_file(file_or_id: str | Path) -> Path:
    """The merge list of CLIP: the file itself, `merges.txt` of a folder, or that of a Hub id."""
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


def copy_tensors(
    writer: "SafetensorsWriter",
    origins: Mapping[str, Origin],
    files: Mapping[str, Any],
    adapters: Mapping[str, tuple[str, str]],
    progress: bool,
) -> None:
    """Stream every tensor from its published file to the writer, in the order of `origins`; close and finish all.

    `adapters` are keys of the language model with the keys of the LoRA matrices that are added to them.
    """
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
    writer.finish()


def save_adapter(folder: Path, base: Path, processor: Any, pandagpt: Checkpoint, depth: int, rank: int) -> None:
    """PandaGPT's LoRA in the layout of PEFT, and the processor, which whoever loads it looks for beside it."""
    folder.mkdir()
    processor.save_pretrained(folder)
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
        "target_modules": _LORA_MODULES,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
