"""Any vision model as the eyes of the methods that AnomalyGPT is compared with: pictures in, patch vectors out.

Knows vision models, their geometry and their layers; knows no references and no scores.
"""

import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoModel

from .image_processing_anomalygpt import AnomalyGPTImageProcessor
from .memory_bank import PatchFeatures, unit_length, weights_fingerprint
from .vision_features import read_vision_tower

_USUAL_SIZE = 224
_NEIGHBOURHOOD = 3  # PatchCore and its relatives average a patch with its neighbours


class Backbone:
    r"""
    A vision model with the geometry of its pictures and the layers that are compared.

    Args:
        name (`str`):
            As it stands in the table.
        tower (`torch.nn.Module`):
            A vision model of transformers, in evaluation mode.
        image_processor ([`AnomalyGPTImageProcessor`]):
            Brings pictures to its input and maps back.
        out_indices (`list[int]`):
            Hidden states that are compared.

    `facts` name its weights in the table where they are not those of the checkpoint.
    """

    def __init__(
        self,
        name: str,
        tower: torch.nn.Module,
        image_processor: AnomalyGPTImageProcessor,
        out_indices: Sequence[int],
    ):
        self.name, self.tower, self.image_processor = name, tower, image_processor
        self.out_indices = list(out_indices)
        self.facts: dict[str, str] = {}

    @classmethod
    def load(
        cls,
        source: str | os.PathLike,
        size: int | None = None,
        out_indices: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> "Backbone":
        r"""
        Loads a vision model, or the vision half of a dual encoder.

        Args:
            source (`str` or `os.PathLike`):
                Folder or Hub id. Mean and deviation come from its `preprocessor_config.json`, where there is one.
            size (`int`, *optional*):
                Side of the pictures in pixels; `None`: the model's own, 224 where it has none.
            out_indices (`list[int]`, *optional*):
                `None`: of models whose grid shrinks the last hidden states of strides 8 and 16, of others those at a
                half and at three quarters of the depth.
            device (`torch.device` or `str`, defaults to `"cpu"`):
                Where it runs.

        Returns:
            [`Backbone`]

        Raises:
            ValueError: If it cannot be loaded, **or** has no such layers.
        """
        try:
            whole = AutoModel.from_pretrained(source, dtype=torch.float32)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            line = str(error).strip().splitlines()[0]
            raise ValueError(f"`--backbone` must be a vision model, got {os.fspath(source)!r}: {line}") from error
        tower = getattr(whole, "vision_model", whole).eval().to(device)
        if size is None:
            own = getattr(tower.config, "image_size", None)
            size = own if isinstance(own, int) else _USUAL_SIZE
        options: dict[str, Any] = {"size": {"height": size, "width": size}}
        file = pathlib.Path(source) / "preprocessor_config.json"
        if file.is_file():
            known = json.loads(file.read_text(encoding="utf-8"))
            options |= {name: known[name] for name in ("image_mean", "image_std") if name in known}
        if out_indices is None:
            out_indices = _usual_layers(tower, size)
        found = cls(pathlib.PurePath(source).name, tower, AnomalyGPTImageProcessor(**options), out_indices)
        settings = (found.out_indices, size, options.get("image_mean"), options.get("image_std"))
        weights = weights_fingerprint([tower], settings)
        found.facts = {"checkpoint": found.name, "checkpoint_hash": weights, "saw_test_pictures": "not recorded"}
        return found

    @torch.inference_mode()
    def look(self, images: Sequence[Image.Image]) -> tuple[torch.Tensor, PatchFeatures]:
        r"""
        Looks at a batch of pictures.

        Args:
            images (`list[PIL.Image.Image]`):
                RGB pictures of any sizes.

        Returns:
            `tuple(torch.Tensor, PatchFeatures)`: Global vectors `(batch_size, dim)`, and for each patch of the finest
            grid all layers, averaged over 3 x 3 neighbours, enlarged to that grid, each of unit length, side by side
            (https://arxiv.org/abs/2106.08265, section 3.1).
        """
        pixel_values = self.image_processor(list(images), return_tensors="pt")["pixel_values"]
        device = next(self.tower.parameters()).device
        pooled, layers = read_vision_tower(self.tower, pixel_values.to(device), self.out_indices)
        finest = max((layer.grid for layer in layers), key=lambda grid: grid[0] * grid[1])
        joined = [_on_grid(layer, finest) for layer in layers]
        return pooled.float(), PatchFeatures(torch.cat(joined, dim=-1), finest)

    def to_pictures(self, maps: torch.Tensor, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Maps `(batch_size, height, width)` of the input, at any resolution, in the pixels of the pictures."""
        return self.image_processor.post_process_anomaly_map(maps, [(one.height, one.width) for one in images])


def in_batches(pictures: Iterable[Image.Image], batch_size: int) -> Iterator[list[Image.Image]]:
    """Pictures in lists of at most so many."""
    stream = iter(pictures)
    while batch := list(islice(stream, batch_size)):
        yield batch


def _on_grid(layer: PatchFeatures, grid: tuple[int, int]) -> torch.Tensor:
    maps = layer.vectors.float().transpose(1, 2).unflatten(2, layer.grid)
    maps = functional.avg_pool2d(maps, _NEIGHBOURHOOD, stride=1, padding=_NEIGHBOURHOOD // 2, count_include_pad=False)
    if layer.grid != grid:
        maps = functional.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
    return unit_length(maps.flatten(2).transpose(1, 2))


@torch.inference_mode()
def _usual_layers(tower: torch.nn.Module, size: int) -> list[int]:
    device = next(tower.parameters()).device
    channels = getattr(tower.config, "num_channels", 3)
    picture = torch.zeros(1, channels, size, size, device=device)
    states = tower(picture, output_hidden_states=True, return_dict=True).hidden_states
    if all(state.dim() == 4 for state in states):
        strides = {size // max(1, state.shape[-1]): index for index, state in enumerate(states)}
        found = [index for stride, index in sorted(strides.items()) if stride in (8, 16)]
        if not found:
            raise ValueError(
                f"`--backbone` must have layers of stride 8 or 16, got strides {sorted(strides)}. "
                "Choose layers with --backbone-layers."
            )
        return found
    depth = len(states) - 1
    return sorted({max(1, depth // 2), max(1, 3 * depth // 4)})


__all__ = ["Backbone", "in_batches"]
