"""Looking at pictures with one model: maps in the pictures' own pixels, and what the language model sees of them.

Owns the memory bank and splits large pictures into tiles. Knows nothing of verdicts, words or files of results.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from .calibration import NormalScores, scores_of, view_references
from .checkpoints import CheckpointError
from .comparability import Comparability, picture_brightness, picture_traits
from .image_processing_anomalygpt import place
from .localization import few_shot_anomaly_map
from .memory_bank import MemoryBank, PatchFeatures, best_matches, unit_length
from .tiling import merge_tile_maps, tile_boxes

_TILES_AT_A_TIME = 8
# References from which limits are estimated; more would cost time and change little.
_MOST_STUDIED = 24


@dataclass(frozen=True)
class Look:
    r"""
    What one look at a batch of pictures found.

    Args:
        maps (`list[np.ndarray]`):
            Each `(height, width)`, float32 in [0, 1], in each picture's own pixels.
        image_tokens (`torch.Tensor` of shape `(batch_size, num_vectors, text_width)`):
            For the language model.
        doubts (`list[list[str]]`):
            Why each picture may not be comparable with the references, see [`Comparability`].
        patches (`list[PatchFeatures]`):
            Each picture's finest layer as it was compared, `(num_patches, dim)`; `None` for tiled pictures.
        relit (`list[bool]`):
            Whether each picture was seen in the references' light instead of its own.
    """

    maps: list[np.ndarray]
    image_tokens: torch.Tensor
    doubts: list[list[str]]
    patches: list[PatchFeatures | None]
    relit: list[bool]


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
        self.match_exposure = model.config.match_exposure
        self.memory_bank: MemoryBank | None = None
        self._text_embeds: dict[str, torch.Tensor] = {}

    def fingerprint(self) -> str:
        """Names everything on which a memory bank depends: encoder, settings and geometry."""
        images = self.processor.image_processor
        size = f"{images.size['height']}x{images.size['width']}"
        return f"{self.model.model.encoder_fingerprint()}-{images.geometry}-{size}-tile{self.tile or 0}"

    def build_bank(self, images: list[Image.Image], as_queries: bool = False) -> MemoryBank:
        """Memory bank of good pictures, tile by tile; `as_queries`: as they are seen beside the present references."""
        tiles = [image.crop(box) for image in images for box in self.boxes(image)]
        comparability = self._comparability() if as_queries and len(tiles) == len(images) else None
        bank = None
        with torch.inference_mode():
            for start in range(0, len(tiles), _TILES_AT_A_TIME):
                pixel_values = self._inputs(tiles[start : start + _TILES_AT_A_TIME])["pixel_values"]
                seen, _ = self._in_light(pixel_values, comparability)
                layers = self.model.model.get_patch_features(seen)
                part = MemoryBank.build(layers, self.fingerprint())
                bank = part if bank is None else bank.extend(part)
        return bank

    @torch.inference_mode()
    def study(self, references: list[list[Image.Image]]) -> tuple[NormalScores, Comparability]:
        """What good pictures reach, and what comparable ones are like; each reference with its turned copies."""
        kept = references[:: -(-len(references) // _MOST_STUDIED)]
        tiles = [
            (group, image.crop(box))
            for group, images in enumerate(kept)
            for image in images
            for box in self.boxes(image)
        ]
        pixels = [
            self._inputs([tile for _, tile in tiles[start : start + _TILES_AT_A_TIME]])["pixel_values"]
            for start in range(0, len(tiles), _TILES_AT_A_TIME)
        ]
        model, config = self.model.model, self.model.config
        viewed = view_references(model.get_patch_features, torch.cat(pixels), [group for group, _ in tiles])
        return scores_of(viewed, config.map_size, config.normal_distance), Comparability.of(viewed)

    @torch.inference_mode()
    def look(self, images: list[Image.Image], category: str, localization: str) -> Look:
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
            [`Look`]

        Raises:
            CheckpointError: If a map holds NaN or infinity.
        """
        comparability = self._comparability()
        features = self._features(images, category, localization, None if localization == "text" else comparability)
        sizes = [(image.height, image.width) for image in images]
        maps = self._to_pictures(features.anomaly_map, sizes)
        image_tokens = features.pooler_output
        tiled = [index for index, image in enumerate(images) if len(self.boxes(image)) > 1]
        for index in tiled:
            maps[index] = self._tiled_map(images[index], category, localization)
        if tiled:
            model = self.model.model
            side = (model.config.map_size, model.config.map_size)
            shrunk = [torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(one)[None], side)[0] for one in maps]
            whole = features.anomaly_map.clone()
            whole[tiled] = torch.stack([shrunk[index] for index in tiled]).to(whole)
            image_tokens = model.embed_evidence(features.image_embeds, whole)
        patches = self._patches(features, tiled)
        relit = [one and index not in tiled for index, one in enumerate(features.relit)]
        return Look(maps, image_tokens, self._doubts(features, tiled, comparability), patches, relit)

    def nearest_good(self, patches: PatchFeatures | None, size: tuple[int, int], x: int, y: int) -> dict | None:
        r"""
        The good patch that is most like what lies at a point of a picture.

        Args:
            patches ([`PatchFeatures`], *optional*):
                Of the picture, from [`Look`].
            size (`tuple[int, int]`):
                `(height, width)` of the picture.
            x, y (`int`):
                The point, in pixels.

        Returns:
            `dict`, *optional*: `reference`, its number from 0, and `box`, `[x0, y0, x1, y1]` as parts of that
            picture's width and height, a patch and its neighbours. `None` for tiles and turned copies.
        """
        bank = self.memory_bank
        if patches is None or bank is None or "copies" not in bank.notes:
            return None
        images = self.processor.image_processor
        canvas = (images.size["height"], images.size["width"])
        at = place(size, canvas, images.geometry)
        rows, columns = patches.grid
        row = int(((y + 0.5) / size[0] * at.height + at.top) / canvas[0] * rows)
        column = int(((x + 0.5) / size[1] * at.width + at.left) / canvas[1] * columns)
        if not (0 <= row < rows and 0 <= column < columns):
            return None
        query = unit_length(patches.vectors[row * columns + column]).unsqueeze(0)
        _, found = best_matches(query.to(bank.features[0]), bank.features[0])
        picture, patch = divmod(int(bank.sources[0][found]), rows * columns)
        copies, reference_sizes = json.loads(bank.notes["copies"])
        reference, copy = divmod(picture, copies)
        if copy or reference >= len(reference_sizes):  # a picture that feedback has added
            return None
        height, width = reference_sizes[reference]
        at = place((height, width), canvas, images.geometry)
        edges = (patch % columns - 1, patch // columns - 1, patch % columns + 2, patch // columns + 2)
        across = [(edge / columns * canvas[1] - at.left) / at.width for edge in edges[::2]]
        down = [(edge / rows * canvas[0] - at.top) / at.height for edge in edges[1::2]]
        box = [across[0], down[0], across[1], down[1]]
        return {"reference": reference, "box": [round(min(1.0, max(0.0, edge)), 4) for edge in box]}

    def _doubts(self, features: Any, tiled: list[int], comparability: Comparability | None) -> list[list[str]]:
        """Why each picture may not be comparable; not asked of tiled ones."""
        if comparability is None:
            return [[] for _ in features.anomaly_map]
        last = self.model.model.localizer.comparable(features.patch_features)[-1]
        traits = picture_traits(features.pixel_values, last, features.brightness)
        doubts = comparability.doubts(traits, self.match_exposure)
        return [[] if index in tiled else own for index, own in enumerate(doubts)]

    def _comparability(self) -> Comparability | None:
        """What pictures must be like; `None` without references, or with tiled ones."""
        notes = {} if self.memory_bank is None else self.memory_bank.notes
        return Comparability.from_json(notes["comparability"]) if "comparability" in notes else None

    def _patches(self, features: Any, tiled: list[int]) -> list[PatchFeatures | None]:
        first = self.model.model.localizer.comparable(features.patch_features)[0]
        return [
            None if index in tiled else PatchFeatures(vectors.cpu(), first.grid)
            for index, vectors in enumerate(first.vectors)
        ]

    def _tiled_map(self, image: Image.Image, category: str, localization: str) -> np.ndarray:
        boxes = self.boxes(image)
        maps = []
        for start in range(0, len(boxes), _TILES_AT_A_TIME):
            tiles = [image.crop(box) for box in boxes[start : start + _TILES_AT_A_TIME]]
            features = self._features(tiles, category, localization)
            maps += self._to_pictures(features.anomaly_map, [(tile.height, tile.width) for tile in tiles])
        return merge_tile_maps(maps, boxes, (image.height, image.width))

    def _in_light(
        self, pixel_values: torch.Tensor, comparability: Comparability | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures in the references' light ([`Comparability.relit`]), where that is wanted and brings them nearer.

        A lamp may have changed in more than its strength, so each is compared both ways; the lower median decides.
        Returned as well: which pictures were changed, `(batch_size,)`.
        """
        none = torch.zeros(len(pixel_values), dtype=torch.bool, device=pixel_values.device)
        if comparability is None or not self.match_exposure:
            return pixel_values, none
        images = self.processor.image_processor
        black = -torch.tensor(images.image_mean) / torch.tensor(images.image_std)
        relit = comparability.relit(pixel_values, black.to(pixel_values))
        other = (relit != pixel_values).flatten(1).any(1)
        if not other.any():
            return pixel_values, none
        model = self.model.model
        layers = model.get_patch_features(torch.cat([pixel_values[other], relit[other]]))
        maps = few_shot_anomaly_map(layers, self.memory_bank.features, model.config.map_size)
        as_it_is, brought = maps.flatten(1).median(1).values.chunk(2)
        nearer = none.masked_scatter(other, brought < as_it_is)
        return torch.where(nearer[:, None, None, None], relit, pixel_values), nearer

    def _features(
        self, images: list[Image.Image], category: str, localization: str, comparability: Comparability | None = None
    ) -> Any:
        inputs = self._inputs(images, category=category)
        if "state_prompt_ids" in inputs and category not in self._text_embeds:
            self._text_embeds[category] = self.model.model.get_text_embeds(
                inputs["state_prompt_ids"][:1], inputs["state_prompt_labels"][:1]
            )
        pixel_values = inputs["pixel_values"]
        seen, relit = self._in_light(pixel_values, comparability)
        features = self.model.get_image_features(
            seen,
            text_embeds=self._text_embeds.get(category),
            memory_bank=self.memory_bank,
            localization=localization,
            return_dict=True,
        )
        features["pixel_values"], features["brightness"] = seen, picture_brightness(pixel_values)
        features["relit"] = relit.tolist()
        if not torch.isfinite(features.anomaly_map).all():
            raise CheckpointError(
                "The anomaly map must be finite, got NaN or infinity. The checkpoint is damaged, or its numbers "
                "overflow in this dtype; try float32."
            )
        return features

    def _inputs(self, images: list[Image.Image], **texts: str) -> Any:
        return self.processor(images=images, return_tensors="pt", **texts).to(self.model.device)

    def boxes(self, image: Image.Image) -> list[tuple[int, int, int, int]]:
        """The tiles of a picture as `(left, top, right, bottom)`; the whole picture where it is not split."""
        if self.tile is None or max(image.size) <= self.tile:
            return [(0, 0, *image.size)]
        return tile_boxes(image.height, image.width, self.tile)

    def _to_pictures(self, maps: torch.Tensor, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
        return self.processor.image_processor.post_process_anomaly_map(maps, sizes)


__all__ = ["Observer"]
