"""Writes the published files at a small size: every tensor follows from its name by a rule, nothing is stored.

Reads `checkpoint_spec.json` of a golden folder. The draws must agree to the last bit with those that made the golden
outputs: MT19937 seeded by the CRC-32 of "<seed>:<file>:<key>", scaled by what kind of tensor it is.
"""

import json
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch

FILES = {
    "imagebind": "imagebind_huge.pth",
    "vicuna": "vicuna/pytorch_model.bin",
    "pandagpt_delta": "pandagpt/pytorch_model.pt",
    "anomalygpt_delta": "anomalygpt/pytorch_model.pt",
}
TOKENIZER_CONFIG = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def rescale(values: np.ndarray, name: str) -> np.ndarray:
    """A standard normal draw as a weight: matrices are divided by their fan-in, scales of norms lie around 1."""
    if values.ndim >= 2 and not name.endswith(("pos_embed", "cls_token", "base_prompts")):
        is_embedding = name.endswith(("token_embedding.weight", "embed_tokens.weight"))
        return 0.5 * values if is_embedding else values / np.sqrt(np.prod(values.shape[1:]))
    if re.search(r"norm.*\.weight$|modality_heads\.(vision\.0|text\.proj\.0)\.weight$", name):
        return 1 + 0.1 * values
    return 0.3 * values


def draw_tensor(seed: str, file: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The float32 tensor `name` of `file`."""
    generator = np.random.RandomState(zlib.crc32(f"{seed}:{file}:{name}".encode()))
    values = rescale(generator.standard_normal(shape), f"{file}:{name}")
    return torch.from_numpy(np.ascontiguousarray(values)).float()


def tensors_of(spec: dict, file: str) -> dict[str, torch.Tensor]:
    """All tensors of one of the four files."""
    tensors = {}
    for name, entry in spec["files"][file].items():
        if entry["rule"] == "given":
            tensors[name] = torch.tensor(entry["value"])
        elif entry["rule"] == "causal_mask":
            tensors[name] = torch.full(entry["shape"], -torch.inf).triu(diagonal=1)
        else:
            tensors[name] = draw_tensor(spec["seed"], file, name, tuple(entry["shape"]))
    return tensors


def write_checkpoints(golden: Path, folder: Path) -> dict:
    """Write the four files of `golden` as a user has them, with Vicuna's configuration; returns the specification."""
    spec = json.loads((golden / "checkpoint_spec.json").read_text())
    for name, file in FILES.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tensors_of(spec, name), path)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **spec["llama_config"]}
    (folder / "vicuna" / "config.json").write_text(json.dumps(config))
    (folder / "vicuna" / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    shutil.copy(golden / "vicuna" / "tokenizer.model", folder / "vicuna" / "tokenizer.model")
    return spec


def full_size_shapes(
    golden: Path, language_width: int, language_depth: int, language_mlp: int, vocabulary: int = 32001
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of files with ImageBind-Huge and any language model: names as in the small ones, repeated and widened."""
    spec = json.loads((golden / "checkpoint_spec.json").read_text())
    widths = {
        "vision": {64: 1280, 192: 3840, 256: 5120, 40: 1024},
        "text": {48: 1024, 144: 3072, 192: 4096, 40: 1024},
        "pandagpt": {64: language_width, 40: 1024, 4: 32},
        "image_decoder": {64: 1280, 40: 1024},
        "language_model": {64: language_width, 128: language_mlp, 512: vocabulary},
    }
    depths = {"vision": 32, "text": 24, "pandagpt": language_depth, "language_model": language_depth}
    names = {"pandagpt": "pandagpt_delta", "anomalygpt": "anomalygpt_delta", "language_model": "vicuna"}
    shapes = {}
    for file in ("imagebind", "pandagpt", "anomalygpt", "language_model"):
        shapes[file] = {}
        for key, entry in spec["files"][names.get(file, file)].items():
            kind = next((kind for kind in ("vision", "text", "image_decoder") if f"{kind}." in key), file)
            shape = tuple(widths.get(kind, {}).get(size, size) for size in entry["shape"])
            if key == "prompt_learner.base_prompts":
                shape = (9, language_width)
            elif key.startswith("prompt_learner.meta_net.15."):
                shape = (language_width, *entry["shape"][1:])
            block = re.search(r"(?<=blocks\.)0(?=\.)|(?<=layers\.)0(?=\.)", key)
            if block is None:
                if not re.search(r"(blocks|layers)\.[1-9]", key):
                    shapes[file][key] = shape
                continue
            for i in range(depths.get(kind, 1)):
                shapes[file][f"{key[: block.start()]}{i}{key[block.end() :]}"] = shape
    return shapes


def write_imagebind_huge(golden: Path, folder: Path) -> dict[str, Path]:
    """Published files with ImageBind-Huge at full size (4.8 GB) and the small language model; paths by part."""
    write_checkpoints(golden, folder)
    spec = json.loads((golden / "checkpoint_spec.json").read_text())
    small = spec["llama_config"]
    shapes = full_size_shapes(golden, small["hidden_size"], 2, small["intermediate_size"], small["vocab_size"])
    given = {key for key, entry in spec["files"]["imagebind"].items() if entry["rule"] != "random"}
    for part, file in (("imagebind", "imagebind"), ("pandagpt", "pandagpt_delta"), ("anomalygpt", "anomalygpt_delta")):
        kept = {key: value for key, value in tensors_of(spec, file).items() if key in given}
        tensors = kept | {
            key: draw_tensor(spec["seed"], file, key, shape) for key, shape in shapes[part].items() if key not in given
        }
        torch.save(tensors, folder / FILES[file])
    return {
        "imagebind": folder / FILES["imagebind"],
        "vicuna": folder / "vicuna",
        "pandagpt": folder / FILES["pandagpt_delta"],
        "anomalygpt": folder / FILES["anomalygpt_delta"],
    }
