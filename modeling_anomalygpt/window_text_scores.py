"""Windows of a picture between two sentences: WinCLIP's idea (https://arxiv.org/abs/2303.14814), for text towers.

Each window is cut out, brought to the model's size and compared with "good" and "damaged" in words; where there are
references, with their windows too. WinCLIP itself masks tokens instead of cutting out, which only a ViT can.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from .detectors import Detection
from .memory_bank import unit_length
from .vision_features import read_vision_tower

_CELLS = 6  # cells a side of the map
_WINDOWS = ((3, 1), (2, 1))  # side and step of the windows, in cells: a half and a third of the picture


class WindowTextScores:
    r"""
    WinCLIP-style scores of an AnomalyGPT checkpoint with a text tower.

    Args:
        model ([`AnomalyGPTForConditionalGeneration`]):
            With a text tower.
        processor ([`AnomalyGPTProcessor`]):
            Its processor.

    Raises:
        ValueError: If the model has no text tower.
    """

    name, shots = "winclip", (0, "some")

    def __init__(self, model: torch.nn.Module, processor: Any):
        if model.model.text_tower is None:
            raise ValueError(
                "`--methods` winclip needs a checkpoint with a text tower, got one without. Leave it out, or take a "
                "checkpoint whose vision model is the half of a dual encoder (CLIP, ImageBind)."
            )
        self.model, self.processor = model.model, processor

    @torch.inference_mode()
    def learn(self, references: Iterable[Image.Image], category: str, description: str) -> None:
        """See [`Detector`]."""
        blank = Image.new("RGB", (8, 8))
        inputs = self.processor(images=[blank], category=category, return_tensors="pt").to(self.model.device)
        self.states = self.model.get_text_embeds(inputs["state_prompt_ids"], inputs["state_prompt_labels"])[0]
        good = [self._windows(one) for one in references]
        self.good = [torch.cat(scale) for scale in zip(*good, strict=True)] if good else []

    @torch.inference_mode()
    def detect(self, pictures: Iterable[Image.Image]) -> Iterator[Detection]:
        """See [`Detector`]."""
        for picture in pictures:
            scales = self._windows(picture)
            whole, *windows = [self._by_text(vectors) for vectors in scales]
            maps = [harmonic_map(values, side, step) for values, (side, step) in zip(windows, _WINDOWS, strict=True)]
            everywhere = np.full_like(maps[0], whole[0])
            found = harmonic_mean([everywhere, *maps])
            score = float(whole[0])
            if self.good:
                apart = [
                    ((1 - (vectors @ good.T).max(1).values) / 2).cpu().numpy()
                    for vectors, good in zip(scales, self.good, strict=True)
                ]
                seen = [mean_map(values, side, step) for values, (side, step) in zip(apart[1:], _WINDOWS, strict=True)]
                by_references = np.mean([np.full_like(seen[0], apart[0][0]), *seen], axis=0)
                found = (found + by_references) / 2
                score = (score + float(by_references.max())) / 2
            yield Detection(score, cv2.resize(found.astype(np.float32), picture.size, interpolation=cv2.INTER_LINEAR))

    def _by_text(self, vectors: torch.Tensor) -> np.ndarray:
        """Probability of "anomalous" for each vector."""
        cosines = vectors @ self.states.T / self.model.config.map_temperature
        return cosines.softmax(1)[:, 1].cpu().numpy()

    def _windows(self, picture: Image.Image) -> list[torch.Tensor]:
        """Unit-length vectors of the whole picture and of the windows of each size, rows left to right."""
        found = [self._embed([picture])]
        for side, step in _WINDOWS:
            edges = range(0, _CELLS - side + 1, step)
            boxes = [
                tuple(
                    round(cell / _CELLS * length)
                    for cell, length in zip((column, row, column + side, row + side), picture.size * 2, strict=True)
                )
                for row in edges
                for column in edges
            ]
            found.append(self._embed([picture.crop(box) for box in boxes]))
        return found

    def _embed(self, images: list[Image.Image]) -> torch.Tensor:
        pixel_values = self.processor.image_processor(images, return_tensors="pt")["pixel_values"]
        pooled, _ = read_vision_tower(
            self.model.vision_tower, pixel_values.to(self.model.device), self.model.config.out_indices
        )
        if self.model.visual_projection is not None:
            pooled = self.model.visual_projection(pooled)
        return unit_length(pooled)


def harmonic_map(values: np.ndarray, side: int, step: int) -> np.ndarray:
    """Harmonic mean, for each of 6 x 6 cells, of the windows that cover it (WinCLIP, equation 4)."""
    return 1 / mean_map(1 / np.maximum(values, 1e-6), side, step)


def harmonic_mean(maps: list[np.ndarray]) -> np.ndarray:
    """Harmonic mean of maps of one shape."""
    return 1 / np.mean([1 / np.maximum(one, 1e-6) for one in maps], axis=0)


def mean_map(values: np.ndarray, side: int, step: int) -> np.ndarray:
    """Mean, for each of 6 x 6 cells, of the windows that cover it; rows of windows left to right."""
    total, count = np.zeros((_CELLS, _CELLS)), np.zeros((_CELLS, _CELLS))
    edges = range(0, _CELLS - side + 1, step)
    places = [(row, column) for row in edges for column in edges]
    for value, (row, column) in zip(values, places, strict=True):
        total[row : row + side, column : column + side] += value
        count[row : row + side, column : column + side] += 1
    return total / count


__all__ = ["WindowTextScores", "harmonic_map", "harmonic_mean", "mean_map"]
