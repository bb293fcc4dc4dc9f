"""Looking at pictures with one model: maps in the pictures' own pixels, and what the language model sees of them.

Owns the memory bank and splits large pictures into tiles. Knows nothing of verdicts, words or files of results.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image

from .calibration import NormalScores, normal_scores
from .checkpoints import CheckpointError
from .memory_bank import MemoryBank
from .tiling import merge_tile_maps, tile_boxes

_TILES_AT_A_TIME = 8
# References from which the limit of normal scores is estimated; more would cost time and change little.
_MOST_CALIBRATED = 24


class Observer:
    r"""
    Compares pictures with the references of its memory bank, or with the state vectors where there are none.

    Args:
        model ([`AnomalyGPTForConditionalGeneration`]):
            In evaluation mode.
        processor ([`AnomalyGPTProcessor`]):
            Its processor.
        tile (`int`, *optional*):
            Side in pixels of the tiles into which larger pictures (queries and references alike) are split.
    """

    def __init__(self, model: torch.nn.Module, processor: Any, tile: int | None = None):
        if tile is not None and tile < 32:
            raise ValueError(f"`tile` must be at least 32 pixels, got {tile}. Try 448.")
        self.model = model
        self.processor = processor
        self.tile = tile
        self.memory_bank: MemoryBank | None = None
        self._text_embeds: dict[str, torch.Tensor] = {}

    def fingerprint(self) -> str:
        """Names everything on which a memory bank depends: encoder, settings and geometry."""
        images = self.processor.image_processor
        size = f"{images.size['height']}x{images.size['width']}"
        return f"{self.model.model.encoder_fingerprint()}-{images.geometry}-{size}-tile{self.tile or 0}"

    def build_bank(self, images: list[Image.Image]) -> MemoryBank:
        """Memory bank of good pictures, tile by tile."""
        tiles = [image.crop(box) for image in images for box in self._boxes(image)]
        bank = None
        with torch.inference_mode():
            for start in range(0, len(tiles), _TILES_AT_A_TIME):
                inputs = self._inputs(tiles[start : start + _TILES_AT_A_TIME])
                layers = self.model.model.get_patch_features(inputs["pixel_values"])
                part = MemoryBank.build(layers, self.fingerprint())
                bank = part if bank is None else bank.extend(part)
        return bank

    @torch.inference_mode()
    def normal_scores(self, references: list[list[Image.Image]]) -> NormalScores:
        """What good pictures reach; each reference with its turned copies, tile by tile."""
        kept = references[:: -(-len(references) // _MOST_CALIBRATED)]
        tiles = [
            (group, image.crop(box))
            for group, images in enumerate(kept)
            for image in images
            for box in self._boxes(image)
        ]
        pixels = [
            self._inputs([tile for _, tile in tiles[start : start + _TILES_AT_A_TIME]])["pixel_values"]
            for start in range(0, len(tiles), _TILES_AT_A_TIME)
        ]
        model = self.model.model
        groups = [group for group, _ in tiles]
        return normal_scores(model.get_patch_features, torch.cat(pixels), model.config.map_size, groups)

    @torch.inference_mode()
    def look(
        self, images: list[Image.Image], category: str, localization: str
    ) -> tuple[list[np.ndarray], torch.Tensor]:
        r"""
        Looks once at each picture (and once at each tile of the large ones).

        Args:
            images (`list[PIL.Image.Image]`):
                RGB pictures of any sizes.
            category (`str`):
                Enters the state prompts of a text tower.
            localization (`str`):
                See [`AnomalyGPTModel.get_image_features`].

        Returns:
            `tuple(list[np.ndarray], torch.Tensor)`: Maps `(height, width)` float32 in [0, 1] in each picture's own
            pixels, and vectors `(batch_size, num_vectors, text_width)` for the language model.

        Raises:
            CheckpointError: If a map holds NaN or infinity.
        """
        features = self._features(images, category, localization)
        sizes = [(image.height, image.width) for image in images]
        maps = self._to_pictures(features.anomaly_map, sizes)
        image_tokens = features.pooler_output
        tiled = [index for index, image in enumerate(images) if len(self._boxes(image)) > 1]
        for index in tiled:
            maps[index] = self._tiled_map(images[index], category, localization)
        if tiled:
            model = self.model.model
            side = (model.config.map_size, model.config.map_size)
            shrunk = [torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(one)[None], side)[0] for one in maps]
            whole = features.anomaly_map.clone()
            whole[tiled] = torch.stack([shrunk[index] for index in tiled]).to(whole)
            image_tokens = model.embed_evidence(features.image_embeds, whole)
        return maps, image_tokens

    def _tiled_map(self, image: Image.Image, category: str, localization: str) -> np.ndarray:
        boxes = self._boxes(image)
        maps = []
        for start in range(0, len(boxes), _TILES_AT_A_TIME):
            tiles = [image.crop(box) for box in boxes[start : start + _TILES_AT_A_TIME]]
            features = self._features(tiles, category, localization)
            maps += self._to_pictures(features.anomaly_map, [(tile.height, tile.width) for tile in tiles])
        return merge_tile_maps(maps, boxes, (image.height, image.width))

    def _features(self, images: list[Image.Image], category: str, localization: str) -> Any:
        inputs = self._inputs(images, category=category)
        if "state_prompt_ids" in inputs and category not in self._text_embeds:
            self._text_embeds[category] = self.model.model.get_text_embeds(
                inputs["state_prompt_ids"][:1], inputs["state_prompt_labels"][:1]
            )
        features = self.model.get_image_features(
            inputs["pixel_values"],
            text_embeds=self._text_embeds.get(category),
            memory_bank=self.memory_bank,
            localization=localization,
            return_dict=True,
        )
        if not torch.isfinite(features.anomaly_map).all():
            raise CheckpointError(
                "The anomaly map must be finite, got NaN or infinity. The checkpoint is damaged, or its numbers "
                "overflow in this dtype; try float32."
            )
        return features

    def _inputs(self, images: list[Image.Image], **texts: str) -> Any:
        return self.processor(images=images, return_tensors="pt", **texts).to(self.model.device)

    def _boxes(self, image: Image.Image) -> list[tuple[int, int, int, int]]:
        if self.tile is None or max(image.size) <= self.tile:
            return [(0, 0, *image.size)]
        return tile_boxes(image.height, image.width, self.tile)

    def _to_pictures(self, maps: torch.Tensor, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
        return self.processor.image_processor.post_process_anomaly_map(maps, sizes)


__all__ = ["Observer"]
