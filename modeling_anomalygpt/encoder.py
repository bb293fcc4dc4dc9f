"""Images through the model, each once (large ones tile by tile): features, and maps in the images' own pixels.

Knows one model, its processor and the references of the call. Knows no verdict and no words.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from .checkpoints import CheckpointError
from .image_processing_anomalygpt import paste, place
from .localization import defect_features
from .memory_bank import MemoryBank, PatchFeatures, best_matches, unit_length
from .pose import LEAST_CORRELATION, MOST_VIEWS, Pose, find_pose, has_pose, view
from .references import (
    DomainGate,
    ImageTraits,
    References,
    encode_in_batches,
    joined,
    mean_brightness,
    same_picture,
    study_references,
    thumbnail,
)
from .region_of_interest import fitted, foreground, load_roi, patches_inside

Box = tuple[int, int, int, int]
_TILES_AT_A_TIME = 8
_FAR_HIGHER = 2  # what covers a place also hides what was there; missing is said where that is most of it
_LEAST_COMPARED = 0.5  # part of what counts that an image in another pose must show
# References from which scores are estimated; more would cost time and change little.
_MOST_STUDIED = 24
_ANGLES = (0, 90, 180, 270)
_CATEGORIES_KEPT = 256  # whose state vectors are remembered, of a few kilobytes each
# A fingerprint names these settings where they differ from those of the embedded checkpoint, whose banks were saved
# before it named any.
_UNNAMED = {
    "map_size": 56,
    "self_similarity": 0.3,
    "map_smoothing": 2,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": tuple(OPENAI_CLIP_MEAN),
    "image_std": tuple(OPENAI_CLIP_STD),
}


def tile_boxes(height: int, width: int, tile: int) -> list[Box]:
    """Boxes of equal size that cover an image, evenly spread, neighbours overlapping by a quarter at least.

    All tiles have the same size, so one scale holds for all of them. A side shorter than `tile` is covered by one tile
    of that side.

    Args:
        height (`int`): Rows of the image.
        width (`int`): Columns of the image.
        tile (`int`): Side of a tile in pixels.

    Returns:
        `list[tuple[int, int, int, int]]`: `(x0, y0, x1, y1)`, ends exclusive, row by row.

    Example:
    ```python
    >>> tile_boxes(100, 220, tile=100)
    [(0, 0, 100, 100), (60, 0, 160, 100), (120, 0, 220, 100)]

    ```
    """
    rows, columns = _starts(height, tile), _starts(width, tile)
    return [(x, y, x + min(tile, width), y + min(tile, height)) for y in rows for x in columns]


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
    """
    total = np.zeros(tuple(size), dtype=np.float32)
    weights = np.zeros_like(total)
    for tile_map, (x0, y0, x1, y1) in zip(maps, boxes, strict=True):
        window = _fade(y1 - y0)[:, None] * _fade(x1 - x0)[None, :]
        total[y0:y1, x0:x1] += tile_map * window
        weights[y0:y1, x0:x1] += window
    return total / weights


def _starts(side: int, tile: int) -> list[int]:
    if side <= tile:
        return [0]
    overlap = tile // 4
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
        patches (`tuple[PatchFeatures]`): The layers as they were compared, `(num_patches, dim)`, the finest first;
            empty for tiled images.
        remarks (`list[str]`): `"is_reference"` for one of the references or a copy of it, `"exposure_matched"` where
            it was seen in the references' light instead of its own, `"absent"` where what is missing makes its map
            twice as high.
        traits (`dict[str, float]`): See [`DomainGate.compare`]; empty for tiled images and without a gate.
        pose ([`Pose`], *optional*): How the image was brought into the pose of the references, which `patches` have;
            `None`: it was compared as it lies.
    """

    anomaly_map: np.ndarray
    image_tokens: torch.Tensor
    out_of_domain_reasons: list[str]
    patches: tuple[PatchFeatures, ...]
    remarks: list[str]
    traits: dict[str, float]
    pose: Pose | None = None


class PoseError(ValueError):
    """Good images that cannot be brought into one pose.

    Args:
        number (`int`): Which of them has none, or not that of the first.
        message (`str`): Says so.
    """

    def __init__(self, number: int, message: str = ""):
        super().__init__(message)
        self.number = number


@dataclass(frozen=True)
class _Posed:
    """An image as it is compared: in the references' pose, what counts of it `(height, width)` (`None`: all of it)."""

    image: Image.Image
    counts: np.ndarray | None = None
    pose: Pose | None = None
    comparable: bool = True


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
        """Names everything on which a memory bank and the scores against it depend: encoder, settings and geometry."""
        images, localizer = self.processor.image_processor, self.model.model.localizer
        size = f"{images.size['height']}x{images.size['width']}"
        name = f"{self.model.model.encoder_fingerprint()}-{images.geometry}-{size}"
        for setting, unnamed in _UNNAMED.items():
            value = getattr(localizer if hasattr(localizer, setting) else images, setting)
            value = tuple(value) if isinstance(value, list) else value
            name += "" if value == unnamed else f"-{setting}={value}"
        return f"{name}-tile{self.tile or 0}"

    def boxes(self, image: Image.Image) -> list[Box]:
        """The tiles of an image as `(left, top, right, bottom)`; the whole image where it is not split."""
        if self.tile is None or max(image.size) <= self.tile:
            return [(0, 0, *image.size)]
        return tile_boxes(image.height, image.width, self.tile)

    def inside(self, sizes: Sequence[tuple[int, int]], roi: np.ndarray) -> torch.Tensor:
        """The region of interest on the model's canvas, for images of these sizes `(height, width)`.

        Returns:
            `torch.BoolTensor` of shape `(batch_size, canvas_height, canvas_width)`
        """
        return torch.stack([self._on_canvas(fitted(roi, size)) for size in sizes])

    def as_compared(self, image: Image.Image, references: References) -> tuple[Image.Image, torch.Tensor | None]:
        """An image in the pose of references.

        Returns:
            `tuple[PIL.Image.Image, torch.Tensor | None]`: And what counts of it on the model's canvas, boolean
            `(1, canvas_height, canvas_width)`; `None`: all of it.
        """
        posed = self._posed(image, references)
        return posed.image, None if posed.counts is None else self._on_canvas(posed.counts)[None]

    @staticmethod
    def _posed(image: Image.Image, references: References | None) -> _Posed:
        if references is None or references.views is None:
            roi = None if references is None else references.roi
            return _Posed(image, None if roi is None else fitted(roi, (image.height, image.width)))
        pose, correlation = find_pose(image, references.views, references.frame)
        return _in_pose(image, pose, references.roi, correlation >= LEAST_CORRELATION)

    def _on_canvas(self, mask: np.ndarray) -> torch.Tensor:
        images = self.processor.image_processor
        canvas = np.zeros((images.size["height"], images.size["width"]), dtype=bool)
        at = place(mask.shape, canvas.shape, images.geometry)
        paste(fitted(mask, (at.height, at.width)), canvas, at)
        return torch.from_numpy(canvas).to(self.model.device)

    def _all_on_canvas(self, masks: Sequence[np.ndarray]) -> torch.Tensor | None:
        return torch.stack([self._on_canvas(mask) for mask in masks]) if masks else None

    def _pieces(self, image: Image.Image, roi: np.ndarray | None) -> list[tuple[Box, Image.Image, np.ndarray | None]]:
        """The tiles of an image that count, with their boxes and the region of interest in each."""
        boxes = self.boxes(image)
        if roi is None:
            return [(box, image.crop(box), None) for box in boxes]
        mask = fitted(roi, (image.height, image.width))
        parts = [(box, mask[box[1] : box[3], box[0] : box[2]]) for box in boxes]
        return [(box, image.crop(box), part) for box, part in parts if part.any()]

    def _pixels(
        self, pieces: Sequence[tuple[Box, Image.Image, np.ndarray | None]]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tiles as the model takes them, and the region of interest in each on its canvas, where there is one."""
        inside = self._all_on_canvas([mask for _, _, mask in pieces if mask is not None])
        return self._inputs([tile for _, tile, _ in pieces])["pixel_values"], inside

    @torch.inference_mode()
    def find_foreground(self, images: Sequence[Image.Image]) -> np.ndarray | None:
        """Where good images show the part, in any of them, and a patch around it.

        Args:
            images (`list[PIL.Image.Image]`): Good RGB images.

        Returns:
            `np.ndarray` of shape `(height, width)`, *optional*: Boolean, in the pixels of the first image; `None`
            where part and ground cannot be told apart.
        """
        features = encode_in_batches(self.model.model.get_patch_features, self._inputs(images)["pixel_values"])[-1]
        found = foreground(unit_length(features.vectors), features.grid)
        if found is None:
            return None
        around = patches_inside(found.any(0, keepdim=True), features.grid, margin=1)
        size = (images[0].height, images[0].width)
        return self.processor.image_processor.post_process_anomaly_map(around, [size])[0] > 0.5

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
        roi: Any = None,
        align: bool = False,
        presence: bool = False,
    ) -> References:
        """Learns what good looks like; every image and tile goes through the model once.

        Args:
            images (iterable of `PIL.Image.Image`): Good RGB images of any sizes, taken one by one.
            count (`int`): How many there are at most.
            rotations (`bool`): Whether copies rotated by 90, 180 and 270 degrees are added.
            max_patches (`int`, *optional*): Keep at most so many patches a layer.
            category (`str`), description (`str`, *optional*), bits (`int`, *optional*): Kept with the references.
            roi (*optional*): Region of interest, drawn on the first image, see [`load_roi`].
            align (`bool`, defaults to `False`): Whether all are brought into the pose of the first, and queries too.
            presence (`bool`, defaults to `False`): Whether what all show must be there, see [`missing_scores`].

        Returns:
            [`References`]

        Raises:
            ValueError: If the region cannot be used.
            PoseError: If images cannot be brought into one pose.
        """
        fingerprint, angles = self.fingerprint(), _ANGLES if rotations else _ANGLES[:1]
        step = -(-count // _MOST_STUDIED)
        parts, studied, sizes, thumbnails, views, tiled, moved = [], [], [], [], [], False, False
        for number, image in enumerate(images):
            if number == 0:
                frame = (image.height, image.width)
                roi = None if roi is None else load_roi(roi, frame)
            thumbnails.append(thumbnail(image))
            counts = roi
            if align:
                posed = self._posed_reference(image, views, frame, roi, number)
                image, counts, moved = posed.image, posed.counts, moved or posed.pose is not None
                views.append(view(image))
            copies = [image.rotate(angle, expand=True) for angle in angles]
            tiled |= any(len(self.boxes(copy)) > 1 for copy in copies)
            tiles = [self._pieces(copy, counts) for copy in copies]
            pieces = [piece for one in tiles for piece in one]
            for start in range(0, len(pieces), _TILES_AT_A_TIME):
                pixel_values, inside = self._pixels(pieces[start : start + _TILES_AT_A_TIME])
                if inside is not None and not inside.flatten(1).any(1).all():
                    raise ValueError("`roi` must lie where the model looks, got a place that is cut off. Crop before.")
                layers = self.model.model.get_patch_features(pixel_values)
                parts.append(MemoryBank.build(layers, fingerprint, inside))
                if number % step == 0:
                    upright = [index < len(tiles[0]) for index in range(start, start + len(pixel_values))]
                    studied.append((pixel_values, layers, [number] * len(pixel_values), inside, upright))
            sizes.append((image.height, image.width))
        bank, config = parts[0].extend(*parts[1:]), self.model.config
        if presence:
            if bank.num_references < 2:
                raise ValueError(
                    "`presence` must be given with at least two good pictures, got 1: one does not tell in what good "
                    "parts may differ. Add another, or do without."
                )
            bank = bank.requiring_presence()
        features = joined([one[1] for one in studied])
        pixel_values, groups = torch.cat([one[0] for one in studied]), [number for one in studied for number in one[2]]
        inside = None if studied[0][3] is None else torch.cat([one[3] for one in studied])
        upright = [stands for one in studied for stands in one[4]]
        few = None
        if max_patches is not None:  # of those that are studied the same share
            bank, few = bank.reduce(max_patches), max(1, max_patches * len(set(groups)) // len(sizes))
        scores, gate = study_references(self.model.model, pixel_values, features, groups, upright, inside, few)
        return References(
            bank=replace(bank, threshold=scores.threshold(config.decision)),
            normal_scores=scores,
            domain_gate=None if tiled else gate,
            image_sizes=() if tiled or moved else tuple(sizes),
            copies=len(angles),
            thumbnails=tuple(thumbnails),
            category=category,
            description=description,
            bits=bits,
            roi=roi,
            views=np.stack(views[:: -(-len(views) // MOST_VIEWS)]) if views else None,
            frame=frame if views else (1, 1),
        )

    @staticmethod
    def _posed_reference(
        image: Image.Image, views: Sequence[np.ndarray], frame: tuple[int, int], roi: np.ndarray | None, number: int
    ) -> _Posed:
        """A good image in the pose of the first."""
        pose, correlation = find_pose(image, views[:1], frame) if views else (None, float(has_pose(image)))
        posed = _in_pose(image, pose, roi, correlation >= LEAST_CORRELATION)
        if not posed.comparable:
            raise PoseError(number)
        return posed

    @torch.inference_mode()
    def encode_as_query(self, image: Image.Image, references: References, margin: int = 0) -> MemoryBank:
        """The patches of one image as they are compared with the references, in their light; tile by tile.

        Where there is a region of interest: its patches, and so many around it.
        """
        posed = self._posed(image, references)
        if not posed.comparable:
            raise ValueError(
                "`image` must show the part of the good pictures, got one that cannot be brought into its pose. Take "
                "it again, as they were taken."
            )
        image = posed.image
        gate = references.domain_gate if len(self.boxes(image)) == 1 else None
        pieces, parts, fingerprint = self._pieces(image, posed.counts), [], self.fingerprint()
        for start in range(0, len(pieces), _TILES_AT_A_TIME):
            pixel_values, inside = self._pixels(pieces[start : start + _TILES_AT_A_TIME])
            pixel_values, _ = self._match_exposure(pixel_values, gate, references, inside)
            layers = self.model.model.get_patch_features(pixel_values)
            parts.append(MemoryBank.build(layers, fingerprint, inside, margin))
        return parts[0].extend(*parts[1:])

    @torch.inference_mode()
    def extended_gate(self, image: Image.Image, references: References) -> DomainGate | None:
        """The domain gate of references that an image passes too, which a person has called good."""
        gate = references.domain_gate
        if gate is None:
            return None
        image, inside = self.as_compared(image, references)
        pixel_values = self._inputs([image])["pixel_values"]
        brightness = mean_brightness(pixel_values, inside)
        pixel_values, _ = self._match_exposure(pixel_values, gate, references, inside)
        last_layer = self.model.model.get_patch_features(pixel_values)[-1]
        return gate.extended(ImageTraits.of(pixel_values, last_layer, brightness, inside), self._exposure_range)

    @property
    def _exposure_range(self) -> float:
        decision = self.model.config.decision
        return decision["matched_exposure_range" if decision["match_exposure"] else "exposure_range"]

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
        given, known = images, references
        if references is not None and localization == "text":  # the pose counts only where images are compared
            known = replace(references, views=None)
        posed = [self._posed(image, known) for image in images]
        images, gate = [one.image for one in posed], None if references is None else references.domain_gate
        pixel_values = self._inputs(images)["pixel_values"]
        sizes = [(image.height, image.width) for image in images]
        masks = [one.counts for one in posed if one.counts is not None]
        inside = self._all_on_canvas(masks)
        brightness = mean_brightness(pixel_values, inside)
        matched = torch.zeros(len(images), dtype=torch.bool)
        if gate is not None and localization != "text":
            pixel_values, matched = self._match_exposure(pixel_values, gate, references, inside)
        features = self._features(pixel_values, references, category, localization)
        maps = self.processor.image_processor.post_process_anomaly_map(features.anomaly_map, sizes)
        image_tokens = features.pooler_output
        tiled = [index for index, image in enumerate(images) if len(self.boxes(image)) > 1]
        for index in tiled:
            maps[index] = self._tiled_map(posed[index], references, category, localization)
        if masks:
            maps = [one * mask for one, mask in zip(maps, masks, strict=True)]
        maps = [one if at.pose is None else at.pose.restored(one) for one, at in zip(maps, posed, strict=True)]
        if changed := range(len(images)) if masks else tiled:
            image_tokens = self._tokens_of_changed_maps(features, maps, changed)
        reasons: list[list[str]] = [[] for _ in images]
        compared: list[dict[str, float]] = [{} for _ in images]
        layers = features.matching_features or ()
        absent = self._absent(layers, references, inside) if layers else [False] * len(images)
        if gate is not None and layers:
            traits = ImageTraits.of(pixel_values, layers[-1], brightness, inside)
            reasons = gate.out_of_domain_reasons(traits, self._exposure_range)
            compared = gate.compare(traits, pixel_values, self._black().to(pixel_values), inside)
        return [
            EncodedImage(
                anomaly_map=maps[index],
                image_tokens=image_tokens[index : index + 1],
                out_of_domain_reasons=["unlike"] if not one.comparable else [] if index in tiled else reasons[index],
                patches=()
                if index in tiled
                else tuple(PatchFeatures(layer.vectors[index].cpu(), layer.grid) for layer in layers),
                remarks=self._remarks(given[index], references, bool(matched[index]) and index not in tiled)
                + ["absent"] * (absent[index] and index not in tiled),
                traits={} if index in tiled else compared[index],
                pose=one.pose,
            )
            for index, one in enumerate(posed)
        ]

    def _absent(
        self, layers: tuple[PatchFeatures, ...], references: References, inside: torch.Tensor | None
    ) -> list[bool]:
        """Whether each image's map is far higher by what is missing; what is new also hides what was there."""
        bank, compare = references.bank.to(layers[0].vectors.device), self.model.model.localizer.compare
        if not bank.presence:
            return [False] * len(layers[0].vectors)
        maps = torch.stack([compare(layers, bank.features, required=bank.required), compare(layers, bank.features)])
        if inside is not None:
            maps = maps * patches_inside(inside, tuple(maps.shape[2:]))
        whole, new = maps.flatten(2).amax(2)
        return (whole > _FAR_HIGHER * new).tolist()

    @staticmethod
    def _remarks(image: Image.Image, references: References | None, exposure_matched: bool) -> list[str]:
        kept = () if references is None else references.thumbnails
        own = thumbnail(image) if kept else b""
        remarks = ["is_reference"] if any(same_picture(own, one) for one in kept) else []
        return remarks + ["exposure_matched"] * exposure_matched

    def nearest_good(
        self,
        patches: Sequence[PatchFeatures],
        references: References | None,
        size: tuple[int, int],
        x: int,
        y: int,
    ) -> dict | None:
        """The good patch that is most like what lies at a point of an image.

        Args:
            patches (`tuple[PatchFeatures]`): Of the image, from [`EncodedImage`].
            references ([`References`], *optional*): Those that it was compared with.
            size (`tuple[int, int]`): `(height, width)` of the image.
            x, y (`int`): The point, in pixels.

        Returns:
            `dict`, *optional*: `reference`, its number from 0 among the pictures that were given, and `box`,
            `[x0, y0, x1, y1]` as parts of that picture's width and height, a patch and its neighbours. `None` for
            tiles and rotated copies.
        """
        if not patches or references is None or not references.image_sizes:
            return None
        bank, images = references.bank, self.processor.image_processor
        canvas = (images.size["height"], images.size["width"])
        at = place(size, canvas, images.geometry)
        rows, columns = patches[0].grid
        row = int(((y + 0.5) / size[0] * at.height + at.top) / canvas[0] * rows)
        column = int(((x + 0.5) / size[1] * at.width + at.left) / canvas[1] * columns)
        if not (0 <= row < rows and 0 <= column < columns):
            return None
        query = unit_length(patches[0].vectors[row * columns + column]).unsqueeze(0)
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
        reference = references.given[reference] if references.given else reference
        return {"reference": reference, "box": [round(min(1.0, max(0.0, edge)), 4) for edge in box]}

    @torch.inference_mode()
    def defect_features(
        self, patches: Sequence[PatchFeatures], references: References, region: np.ndarray
    ) -> torch.Tensor | None:
        """What the [`DefectKindHead`] is told about a region of an image.

        Args:
            patches (`tuple[PatchFeatures]`): Of the image, from [`EncodedImage`].
            references ([`References`]): Those that it was compared with.
            region (`np.ndarray` of shape `(height, width)`): Boolean, in the image's pixels.

        Returns:
            `torch.Tensor` of shape `(2 * sum(dims),)`, *optional*; `None` where the model does not see the region.
        """
        canvas = self._on_canvas(region).float()[None, None]
        weights = [torch.nn.functional.adaptive_avg_pool2d(canvas, one.grid).flatten().cpu() for one in patches]
        if not weights or not all(one.any() for one in weights):
            return None
        return defect_features(patches, [layer.cpu() for layer in references.bank.features], weights)

    def _tiled_map(self, posed: _Posed, references: References | None, category: str, localization: str) -> np.ndarray:
        if references is not None:  # a tile does not show all that must be there
            references = replace(references, bank=replace(references.bank, tolerance=None))
        image = posed.image
        boxes = self.boxes(image)
        maps = {(x0, y0, x1, y1): np.zeros((y1 - y0, x1 - x0), np.float32) for x0, y0, x1, y1 in boxes}
        pieces = self._pieces(image, posed.counts)
        for start in range(0, len(pieces), _TILES_AT_A_TIME):
            some = pieces[start : start + _TILES_AT_A_TIME]
            pixel_values, _ = self._pixels(some)
            features = self._features(pixel_values, references, category, localization)
            sizes = [(tile.height, tile.width) for _, tile, _ in some]
            made = self.processor.image_processor.post_process_anomaly_map(features.anomaly_map, sizes)
            maps |= zip((box for box, _, _ in some), made, strict=True)
        return merge_tile_maps([maps[box] for box in boxes], boxes, (image.height, image.width))

    def _tokens_of_changed_maps(self, features: Any, maps: list[np.ndarray], changed: Iterable[int]) -> torch.Tensor:
        """What the language model sees: merged maps, and what lies in the region, shrunk so that no peak is lost."""
        model = self.model.model
        side = (model.config.map_size, model.config.map_size)
        whole = features.anomaly_map.clone()
        for index in changed:
            shrunk = torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(maps[index])[None], side)
            whole[index] = shrunk[0].to(whole)
        return model.embed_evidence(features.image_embeds, whole)

    def _match_exposure(
        self, pixel_values: torch.Tensor, gate: DomainGate | None, references: References, inside: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images in the references' light ([`DomainGate.match_exposure`]), where that brings them nearer.

        A lamp may have changed in more than its strength, so each is compared both ways; the lower median decides.
        Returned as well: which images were changed, `(batch_size,)`.
        """
        changed = torch.zeros(len(pixel_values), dtype=torch.bool, device=pixel_values.device)
        if gate is None or not self.model.config.decision["match_exposure"]:
            return pixel_values, changed
        matched = gate.match_exposure(pixel_values, self._black().to(pixel_values), inside)
        other = (matched != pixel_values).flatten(1).any(1)
        if not other.any():
            return pixel_values, changed
        model = self.model.model
        layers = model.get_patch_features(torch.cat([pixel_values[other], matched[other]]))
        maps = model.localizer.compare(layers, references.bank.features)
        if inside is not None:
            outside = ~patches_inside(inside[other], tuple(maps.shape[1:])).repeat(2, 1, 1)
            maps = maps.masked_fill(outside, torch.nan)
        as_it_is, in_their_light = maps.flatten(1).nanmedian(1).values.chunk(2)
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
        """State vectors of a category, remembered; `None` for a model without a text tower."""
        if self.model.model.text_tower is None:
            return None
        embeds = self._text_embeds.get(category)
        if embeds is None:
            inputs = self._inputs([Image.new("RGB", (32, 32))], category=category)
            embeds = self.model.model.get_text_embeds(inputs["state_prompt_ids"], inputs["state_prompt_labels"])
            if len(self._text_embeds) >= _CATEGORIES_KEPT:  # a service may be asked about any number
                self._text_embeds.clear()
            self._text_embeds[category] = embeds
        return embeds

    def _inputs(self, images: list[Image.Image], **texts: str) -> Any:
        return self.processor(images=images, return_tensors="pt", **texts).to(self.model.device)


def _in_pose(image: Image.Image, pose: Pose | None, roi: np.ndarray | None, comparable: bool) -> _Posed:
    """The image in a pose, and what counts of it: the region of interest, as far as the image shows it."""
    image = image if pose is None else pose.aligned(image)
    size = (image.height, image.width)
    counts = np.ones(size, bool) if roi is None else fitted(roi, size)
    if pose is not None:
        shown = counts & pose.compared()
        comparable = comparable and shown.sum() >= _LEAST_COMPARED * counts.sum()
        counts = shown
    return _Posed(image, counts, pose, comparable)


__all__ = ["Box", "EncodedImage", "ImageEncoder", "PoseError", "merge_tile_maps", "tile_boxes"]
