"""Images through the model, each once (large ones tile by tile): features, and maps in the images' own pixels.

Knows one model, its processor and the references of the call. Knows no verdict and no words.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from .checkpoints import CheckpointError
from .image_processing_anomalygpt import place
from .memory_bank import MemoryBank, PatchFeatures, best_matches, unit_length
from .references import (
    DomainGate,
    ImageTraits,
    References,
    mean_brightness,
    same_picture,
    study_references,
    thumbnail,
)

Box = tuple[int, int, int, int]
_TILES_AT_A_TIME = 8
# References from which scores are estimated; more would cost time and change little.
_MOST_STUDIED = 24
_ANGLES = (0, 90, 180, 270)


def tile_boxes(height: int, width: int, tile: int, overlap: int | None = None) -> list[Box]:
    """Boxes of equal size that cover an image, evenly spread, neighbours overlapping at least by `overlap`.

    All tiles have the same size, so one scale holds for all of them. A side shorter than `tile` is covered by one tile
    of that side.

    Args:
        height (`int`): Rows of the image.
        width (`int`): Columns of the image.
        tile (`int`): Side of a tile in pixels.
        overlap (`int`, *optional*, defaults to a quarter of `tile`): Least number of pixels that neighbours share.

    Returns:
        `list[tuple[int, int, int, int]]`: `(x0, y0, x1, y1)`, ends exclusive, row by row.

    Raises:
        ValueError: If a size is not positive, or `overlap` is not smaller than `tile`.

    Example:
    ```python
    >>> tile_boxes(100, 220, tile=100, overlap=20)
    [(0, 0, 100, 100), (60, 0, 160, 100), (120, 0, 220, 100)]

    ```
    """
    overlap = tile // 4 if overlap is None else overlap
    if min(height, width) < 1:
        raise ValueError(f"`height` and `width` must be positive, got {height} and {width}. Give the image's size.")
    if tile < 1:
        raise ValueError(f"`tile` must be a positive number of pixels, got {tile}. Try 448.")
    if not 0 <= overlap < tile:
        raise ValueError(f"`overlap` must be from 0 to less than `tile` = {tile}, got {overlap}. Try {tile // 4}.")
    return [
        (x, y, x + min(tile, width), y + min(tile, height))
        for y in _starts(height, tile, overlap)
        for x in _starts(width, tile, overlap)
    ]


def merge_tile_maps(maps: Sequence[np.ndarray], boxes: Sequence[Box], size: Sequence[int]) -> np.ndarray:
    """One map of the whole image from the maps of its tiles.

    Each tile counts most at its middle and fades to its edges; the weights at every pixel sum to one. So a tile's edge
    leaves no step, a value that all tiles agree on is kept, and nothing exceeds the highest tile.

    Args:
        maps (`list[np.ndarray]`): Each tile's map `(y1 - y0, x1 - x0)`, in the image's pixels.
        boxes (`list[tuple[int, int, int, int]]`): `(x0, y0, x1, y1)` of each tile, as `tile_boxes` gives them.
        size (`tuple[int, int]`): `(height, width)` of the image.

    Returns:
        `np.ndarray` of shape `(height, width)`: float32.

    Raises:
        ValueError: If maps and boxes do not fit each other, or the boxes leave a pixel uncovered.
    """
    if len(maps) != len(boxes):
        raise ValueError(f"`maps` must hold one map for each of the {len(boxes)} boxes, got {len(maps)}.")
    total = np.zeros(tuple(size), dtype=np.float32)
    weights = np.zeros_like(total)
    for tile_map, (x0, y0, x1, y1) in zip(maps, boxes, strict=True):
        if np.shape(tile_map) != (y1 - y0, x1 - x0):
            raise ValueError(
                f"`maps` must have the sizes of their boxes, got {np.shape(tile_map)} for the box {(x0, y0, x1, y1)}. "
                "Bring each map to its tile's pixels before merging."
            )
        window = _fade(y1 - y0)[:, None] * _fade(x1 - x0)[None, :]
        total[y0:y1, x0:x1] += np.asarray(tile_map, dtype=np.float32) * window
        weights[y0:y1, x0:x1] += window
    if not weights.all():
        raise ValueError(f"`boxes` must cover the whole image of {tuple(size)}. Take those of `tile_boxes`.")
    return total / weights


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    if side <= tile:
        return [0]
    count = -(-(side - overlap) // (tile - overlap))
    return [round(i * (side - tile) / (count - 1)) for i in range(count)]


def _fade(side: int) -> np.ndarray:
    """Weights that rise linearly from the edges to the middle; never zero."""
    position = np.arange(side, dtype=np.float32) + 0.5
    return np.minimum(position, side - position)


@dataclass(frozen=True)
class EncodedImage:
    """What one pass through the model found in an image.

    Args:
        anomaly_map (`np.ndarray` of shape `(height, width)`): float32 in [0, 1], in the image's own pixels.
        image_tokens (`torch.Tensor` of shape `(1, num_vectors, text_width)`): For the language model.
        out_of_domain_reasons (`list[str]`): Why it may not be comparable with the references, see [`DomainGate`].
        patches ([`PatchFeatures`], *optional*): The finest layer as it was compared, `(num_patches, dim)`; `None` for
            tiled images.
        remarks (`list[str]`): `"is_reference"` for one of the references or a copy of it, `"exposure_matched"` where
            it was seen in the references' light instead of its own.
        traits (`dict[str, float]`): See [`DomainGate.compare`]; empty for tiled images and without a gate.
    """

    anomaly_map: np.ndarray
    image_tokens: torch.Tensor
    out_of_domain_reasons: list[str]
    patches: PatchFeatures | None
    remarks: list[str]
    traits: dict[str, float]


class ImageEncoder:
    """Brings images through the vision model, beside references or alone.

    Args:
        model ([`AnomalyGPTForConditionalGeneration`]): In evaluation mode.
        processor ([`AnomalyGPTProcessor`]): Its processor.
        tile (`int`, *optional*): Side in pixels of the tiles into which larger images (queries and references alike)
            are split.
    """

    def __init__(self, model: torch.nn.Module, processor: Any, tile: int | None = None):
        if tile is not None and tile < 32:
            raise ValueError(f"`tile` must be at least 32 pixels, got {tile}. Try 448.")
        self.model = model
        self.processor = processor
        self.tile = tile
        self._text_embeds: dict[str, torch.Tensor] = {}

    def fingerprint(self) -> str:
        """Names everything on which a memory bank depends: encoder, settings and geometry."""
        images = self.processor.image_processor
        size = f"{images.size['height']}x{images.size['width']}"
        return f"{self.model.model.encoder_fingerprint()}-{images.geometry}-{size}-tile{self.tile or 0}"

    def boxes(self, image: Image.Image) -> list[Box]:
        """The tiles of an image as `(left, top, right, bottom)`; the whole image where it is not split."""
        if self.tile is None or max(image.size) <= self.tile:
            return [(0, 0, *image.size)]
        return tile_boxes(image.height, image.width, self.tile)

    @torch.inference_mode()
    def encode_references(
        self,
        images: Iterable[Image.Image],
        count: int,
        rotations: bool,
        max_patches: int | None,
        category: str,
        description: str | None,
        bits: int | None,
    ) -> References:
        """Learns what good looks like; every image and tile goes through the model once.

        Args:
            images (iterable of `PIL.Image.Image`): Good RGB images of any sizes, taken one by one.
            count (`int`): How many there are at most.
            rotations (`bool`): Whether copies rotated by 90, 180 and 270 degrees are added.
            max_patches (`int`, *optional*): Keep at most so many patches a layer.
            category (`str`), description (`str`, *optional*), bits (`int`, *optional*): Kept with the references.

        Returns:
            [`References`]
        """
        angles = _ANGLES if rotations else _ANGLES[:1]
        step = -(-count // _MOST_STUDIED)
        bank, studied, sizes, thumbnails, tiled = None, [], [], [], False
        for number, image in enumerate(images):
            copies = [image.rotate(angle, expand=True) for angle in angles]
            tiles = [copy.crop(box) for copy in copies for box in self.boxes(copy)]
            tiled |= len(tiles) > len(copies)
            for start in range(0, len(tiles), _TILES_AT_A_TIME):
                pixel_values = self._inputs(tiles[start : start + _TILES_AT_A_TIME])["pixel_values"]
                layers = self.model.model.get_patch_features(pixel_values)
                part = MemoryBank.build(layers, self.fingerprint())
                bank = part if bank is None else bank.extend(part)
                if number % step == 0:
                    studied.append((pixel_values, layers, [number] * len(pixel_values)))
            sizes.append((image.height, image.width))
            thumbnails.append(thumbnail(image))
        config = self.model.config
        features = tuple(
            PatchFeatures(torch.cat([layer.vectors for layer in layers]), layers[0].grid)
            for layers in zip(*(layers for _, layers, _ in studied), strict=True)
        )
        pixel_values, groups = torch.cat([pixels for pixels, _, _ in studied]), [n for _, _, ns in studied for n in ns]
        scores, gate = study_references(self.model.model, pixel_values, features, groups)
        bank = bank if max_patches is None else bank.reduce(max_patches)
        return References(
            bank=MemoryBank(**(vars(bank) | {"threshold": scores.threshold(config.decision)})),
            normal_scores=scores,
            domain_gate=None if tiled else gate,
            image_sizes=() if tiled else tuple(sizes),
            copies=len(angles),
            thumbnails=tuple(thumbnails),
            category=category,
            description=description,
            bits=bits,
        )

    @torch.inference_mode()
    def encode_as_query(self, image: Image.Image, references: References) -> MemoryBank:
        """The patches of one image as they are compared with the references, in their light; tile by tile."""
        boxes = self.boxes(image)
        gate = references.domain_gate if len(boxes) == 1 else None
        bank = None
        for start in range(0, len(boxes), _TILES_AT_A_TIME):
            tiles = [image.crop(box) for box in boxes[start : start + _TILES_AT_A_TIME]]
            pixel_values, _ = self._match_exposure(self._inputs(tiles)["pixel_values"], gate, references)
            part = MemoryBank.build(self.model.model.get_patch_features(pixel_values), self.fingerprint())
            bank = part if bank is None else bank.extend(part)
        return bank

    @torch.inference_mode()
    def encode(
        self, images: list[Image.Image], references: References | None, category: str, localization: str
    ) -> list[EncodedImage]:
        """Looks once at each image (and once at each tile of the large ones).

        Args:
            images (`list[PIL.Image.Image]`): RGB images of any sizes.
            references ([`References`], *optional*): What they are compared with; `None`: with the state vectors.
            category (`str`): Enters the state prompts of a text tower.
            localization (`str`): See [`AnomalyGPTModel.get_image_features`].

        Returns:
            `list[EncodedImage]`

        Raises:
            CheckpointError: If a map holds NaN or infinity.
        """
        gate = None if references is None else references.domain_gate
        pixel_values = self._inputs(images)["pixel_values"]
        brightness = mean_brightness(pixel_values)
        matched = torch.zeros(len(images), dtype=torch.bool)
        if gate is not None and localization != "text":
            pixel_values, matched = self._match_exposure(pixel_values, gate, references)
        features = self._features(pixel_values, references, category, localization)
        sizes = [(image.height, image.width) for image in images]
        maps = self.processor.image_processor.post_process_anomaly_map(features.anomaly_map, sizes)
        image_tokens = features.pooler_output
        tiled = [index for index, image in enumerate(images) if len(self.boxes(image)) > 1]
        if tiled:
            for index in tiled:
                maps[index] = self._tiled_map(images[index], references, category, localization)
            image_tokens = self._tokens_of_tiled_maps(features, maps, tiled)
        reasons: list[list[str]] = [[] for _ in images]
        compared: list[dict[str, float]] = [{} for _ in images]
        finest = None if features.matching_features is None else features.matching_features[0]
        if gate is not None and finest is not None:
            decision = self.model.config.decision
            play = decision["matched_exposure_range" if decision["match_exposure"] else "exposure_range"]
            traits = ImageTraits.of(pixel_values, features.matching_features[-1], brightness)
            reasons = gate.out_of_domain_reasons(traits, play)
            compared = gate.compare(traits, pixel_values, self._black().to(pixel_values))
        return [
            EncodedImage(
                anomaly_map=maps[index],
                image_tokens=image_tokens[index : index + 1],
                out_of_domain_reasons=[] if index in tiled else reasons[index],
                patches=None
                if index in tiled or finest is None
                else PatchFeatures(finest.vectors[index].cpu(), finest.grid),
                remarks=self._remarks(image, references, bool(matched[index]) and index not in tiled),
                traits={} if index in tiled else compared[index],
            )
            for index, image in enumerate(images)
        ]

    @staticmethod
    def _remarks(image: Image.Image, references: References | None, exposure_matched: bool) -> list[str]:
        kept = () if references is None else references.thumbnails
        own = thumbnail(image) if kept else b""
        remarks = ["is_reference"] if any(same_picture(own, one) for one in kept) else []
        return remarks + ["exposure_matched"] * exposure_matched

    def nearest_good(
        self, patches: PatchFeatures | None, references: References | None, size: tuple[int, int], x: int, y: int
    ) -> dict | None:
        """The good patch that is most like what lies at a point of an image.

        Args:
            patches ([`PatchFeatures`], *optional*): Of the image, from [`EncodedImage`].
            references ([`References`], *optional*): Those that it was compared with.
            size (`tuple[int, int]`): `(height, width)` of the image.
            x, y (`int`): The point, in pixels.

        Returns:
            `dict`, *optional*: `reference`, its number from 0, and `box`, `[x0, y0, x1, y1]` as parts of that
            picture's width and height, a patch and its neighbours. `None` for tiles and rotated copies.
        """
        if patches is None or references is None or not references.image_sizes:
            return None
        bank, images = references.bank, self.processor.image_processor
        canvas = (images.size["height"], images.size["width"])
        at = place(size, canvas, images.geometry)
        rows, columns = patches.grid
        row = int(((y + 0.5) / size[0] * at.height + at.top) / canvas[0] * rows)
        column = int(((x + 0.5) / size[1] * at.width + at.left) / canvas[1] * columns)
        if not (0 <= row < rows and 0 <= column < columns):
            return None
        query = unit_length(patches.vectors[row * columns + column]).unsqueeze(0)
        _, best = best_matches(query.to(bank.features[0]), bank.features[0])
        picture, patch = divmod(int(bank.sources[0][best]), rows * columns)
        reference, copy = divmod(picture, references.copies)
        if copy or reference >= len(references.image_sizes):  # a picture that feedback has added
            return None
        at = place(references.image_sizes[reference], canvas, images.geometry)
        edges = (patch % columns - 1, patch // columns - 1, patch % columns + 2, patch // columns + 2)
        across = [(edge / columns * canvas[1] - at.left) / at.width for edge in edges[::2]]
        down = [(edge / rows * canvas[0] - at.top) / at.height for edge in edges[1::2]]
        box = [across[0], down[0], across[1], down[1]]
        return {"reference": reference, "box": [round(min(1.0, max(0.0, edge)), 4) for edge in box]}

    def _tiled_map(
        self, image: Image.Image, references: References | None, category: str, localization: str
    ) -> np.ndarray:
        boxes, maps = self.boxes(image), []
        for start in range(0, len(boxes), _TILES_AT_A_TIME):
            tiles = [image.crop(box) for box in boxes[start : start + _TILES_AT_A_TIME]]
            features = self._features(self._inputs(tiles)["pixel_values"], references, category, localization)
            sizes = [(tile.height, tile.width) for tile in tiles]
            maps += self.processor.image_processor.post_process_anomaly_map(features.anomaly_map, sizes)
        return merge_tile_maps(maps, boxes, (image.height, image.width))

    def _tokens_of_tiled_maps(self, features: Any, maps: list[np.ndarray], tiled: list[int]) -> torch.Tensor:
        """What the language model sees: the merged maps, shrunk so that no peak is lost."""
        model = self.model.model
        side = (model.config.map_size, model.config.map_size)
        whole = features.anomaly_map.clone()
        for index in tiled:
            shrunk = torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(maps[index])[None], side)
            whole[index] = shrunk[0].to(whole)
        return model.embed_evidence(features.image_embeds, whole)

    def _match_exposure(
        self, pixel_values: torch.Tensor, gate: DomainGate | None, references: References
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images in the references' light ([`DomainGate.match_exposure`]), where that brings them nearer.

        A lamp may have changed in more than its strength, so each is compared both ways; the lower median decides.
        Returned as well: which images were changed, `(batch_size,)`.
        """
        changed = torch.zeros(len(pixel_values), dtype=torch.bool, device=pixel_values.device)
        if gate is None or not self.model.config.decision["match_exposure"]:
            return pixel_values, changed
        matched = gate.match_exposure(pixel_values, self._black().to(pixel_values))
        other = (matched != pixel_values).flatten(1).any(1)
        if not other.any():
            return pixel_values, changed
        model = self.model.model
        layers = model.get_patch_features(torch.cat([pixel_values[other], matched[other]]))
        maps = model.localizer.compare(layers, references.bank.features)
        as_it_is, in_their_light = maps.flatten(1).median(1).values.chunk(2)
        changed = changed.masked_scatter(other, in_their_light < as_it_is)
        return torch.where(changed[:, None, None, None], matched, pixel_values), changed

    def _black(self) -> torch.Tensor:
        """What black is after normalisation, `(3,)`."""
        images = self.processor.image_processor
        return -torch.tensor(images.image_mean) / torch.tensor(images.image_std)

    def _features(
        self, pixel_values: torch.Tensor, references: References | None, category: str, localization: str
    ) -> Any:
        features = self.model.get_image_features(
            pixel_values,
            text_embeds=self._state_embeds(category),
            memory_bank=None if references is None else references.bank,
            localization=localization,
            return_dict=True,
        )
        if not torch.isfinite(features.anomaly_map).all():
            raise CheckpointError(
                "The anomaly map must be finite, got NaN or infinity. The checkpoint is damaged, or its numbers "
                "overflow in this dtype; try float32."
            )
        return features

    def _state_embeds(self, category: str) -> torch.Tensor | None:
        """State vectors of a category, computed once; `None` for a model without a text tower."""
        if self.model.model.text_tower is None:
            return None
        if category not in self._text_embeds:
            blank = Image.new("RGB", (32, 32))
            inputs = self._inputs([blank], category=category)
            self._text_embeds[category] = self.model.model.get_text_embeds(
                inputs["state_prompt_ids"], inputs["state_prompt_labels"]
            )
        return self._text_embeds[category]

    def _inputs(self, images: list[Image.Image], **texts: str) -> Any:
        return self.processor(images=images, return_tensors="pt", **texts).to(self.model.device)


__all__ = ["Box", "EncodedImage", "ImageEncoder", "merge_tile_maps", "tile_boxes"]
