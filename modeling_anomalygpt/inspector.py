"""Inspection as a person does it: keep good references in mind, look at a part, say what is wrong and where.

Owns one model, one processor and the memory bank. Knows nothing of training, data sets or user interfaces.
"""

import datetime
import json
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from .checkpoints import CheckpointError, load_checkpoint
from .dialogue import Dialogue, first_turn
from .image_processing_anomalygpt import place
from .images import load_picture
from .localization import few_shot_anomaly_map
from .memory_bank import MemoryBank, PatchFeatures, best_matches, unit_length
from .prompts import check_language, default_question, describe
from .references import (
    Comparability,
    NormalScores,
    load_bank,
    picture_brightness,
    picture_traits,
    scores_of,
    view_references,
)
from .regions import Region
from .results import InspectionResult, ResultsFile, inspect_in_batches
from .scoring import CONFIDENCE, Judge, evidence_limit, normals_needed, supported_false_alarm_rate

Box = tuple[int, int, int, int]


def tile_boxes(height: int, width: int, tile: int, overlap: int | None = None) -> list[Box]:
    """Boxes of equal size that cover a picture, evenly spread, neighbours overlapping at least by `overlap`.

    All tiles have the same size, so one scale holds for all of them. A side shorter than `tile` is covered by one tile
    of that side.

    Args:
        height (`int`): Rows of the picture.
        width (`int`): Columns of the picture.
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
        raise ValueError(f"`height` and `width` must be positive, got {height} and {width}. Give the picture's size.")
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
    """One map of the whole picture from the maps of its tiles.

    Each tile counts most at its middle and fades to its edges; the weights at every pixel sum to one. So a tile's edge
    leaves no step, a value that all tiles agree on is kept, and nothing exceeds the highest tile.

    Args:
        maps (`list[np.ndarray]`): Each tile's map `(y1 - y0, x1 - x0)`, in the picture's pixels.
        boxes (`list[tuple[int, int, int, int]]`): `(x0, y0, x1, y1)` of each tile, as `tile_boxes` gives them.
        size (`tuple[int, int]`): `(height, width)` of the picture.

    Returns:
        `np.ndarray` of shape `(height, width)`: float32.

    Raises:
        ValueError: If maps and boxes do not fit each other, or the boxes leave a pixel uncovered.
    """
    if len(maps) != len(boxes):
        raise ValueError(f"`maps` must hold one map for each of the {len(boxes)} boxes, got {len(maps)}.")
    total = np.zeros(tuple(size), dtype=np.float32)
    weights = np.zeros_like(total)
    for one, (x0, y0, x1, y1) in zip(maps, boxes, strict=True):
        if np.shape(one) != (y1 - y0, x1 - x0):
            raise ValueError(
                f"`maps` must have the sizes of their boxes, got {np.shape(one)} for the box {(x0, y0, x1, y1)}. "
                "Bring each map to its tile's pixels before merging."
            )
        window = _fade(y1 - y0)[:, None] * _fade(x1 - x0)[None, :]
        total[y0:y1, x0:x1] += np.asarray(one, dtype=np.float32) * window
        weights[y0:y1, x0:x1] += window
    if not weights.all():
        raise ValueError(f"`boxes` must cover the whole picture of {tuple(size)}. Take those of `tile_boxes`.")
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
        self.match_exposure = model.config.decision["match_exposure"]
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
        return scores_of(viewed, config.map_size, config.decision["prior_normal_score"]), Comparability.of(viewed)

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


# Share of a missed picture's patches, those that stand out most, whose nearest good patches are taken out.
_STANDING_OUT = 0.02


def without_matches(bank: MemoryBank, missed: MemoryBank) -> MemoryBank:
    r"""
    The bank without the good patches that made a defect look good.

    Args:
        bank ([`MemoryBank`]):
            The good patches.
        missed ([`MemoryBank`]):
            Patches of one picture with a defect that was called normal.

    Returns:
        [`MemoryBank`]: Without the nearest matches of those 2 % of the picture's patches that stand out most.
    """
    kept = []
    for good, bad in zip(bank.features, missed.features, strict=True):
        best, rows = best_matches(unit_length(bad).to(good), good)
        count = max(1, int(_STANDING_OUT * len(bad)))
        keep = torch.ones(len(good), dtype=torch.bool, device=good.device)
        keep[rows[best.argsort()[:count]]] = False
        kept.append(keep if keep.any() else ~keep)
    return replace(
        bank,
        features=tuple(layer[keep] for layer, keep in zip(bank.features, kept, strict=True)),
        sources=tuple(layer[keep] for layer, keep in zip(bank.sources, kept, strict=True)),
    )


class FeedbackHistory:
    r"""
    The banks before each piece of feedback, and the file that tells what was said.

    Args:
        audit_file (`str` or `os.PathLike`, *optional*):
            JSON-lines file; a line for each change, appended at once. `None`: nothing is written.
    """

    def __init__(self, audit_file: str | os.PathLike | None = None):
        self.audit_file = None if audit_file is None else pathlib.Path(audit_file)
        self._earlier: list[MemoryBank] = []

    def __len__(self) -> int:
        return len(self._earlier)

    def record(self, before: MemoryBank, after: MemoryBank, row: dict[str, Any]) -> None:
        """Notes a change: writes its line first, so that no change goes unrecorded."""
        changed = sum(map(len, after.features)) - sum(map(len, before.features))
        self._write({**row, "patches": changed})
        self._earlier.append(before)

    def undo(self) -> MemoryBank:
        """The bank before the last change.

        Raises:
            RuntimeError: If there is nothing to undo.
        """
        if not self._earlier:
            raise RuntimeError("There is no feedback to undo. Give some with `feedback(result, is_normal)` first.")
        self._write({"undo": True})
        return self._earlier.pop()

    def _write(self, row: dict[str, Any]) -> None:
        if self.audit_file is None:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line = json.dumps({"time": now, **row}, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with self.audit_file.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


MAX_NEW_TOKENS = 128
_TURNS = (0, 90, 180, 270)
# A limit below this would call pictures anomalous that look quite normal, on the word of a few good ones.
_LOWEST_EVIDENCE_LIMIT = -2.0


class AnomalyInspector:
    r"""
    Inspects pictures with one checkpoint and, if given, with good references.

    Args:
        model ([`AnomalyGPTForConditionalGeneration`]):
            In evaluation mode.
        processor ([`AnomalyGPTProcessor`]):
            Its processor.
        tile (`int`, *optional*):
            Side in pixels of the tiles into which larger pictures (queries and references alike) are split.

    Example:
    ```python
    inspector = AnomalyInspector.from_pretrained()
    inspector.set_references(["good_1.png", "good_2.png"], category="bolt")
    result = inspector.inspect("query.png")
    print(result.verdict, result.answer, inspector.ask(result, "Where is the defect?"))
    ```
    """

    def __init__(self, model: torch.nn.Module, processor: Any, tile: int | None = None):
        self.model = model
        self.processor = processor
        self.observer = Observer(model, processor, tile)
        self.dialogue = Dialogue(model, processor)
        self.feedback_history = FeedbackHistory()
        self.category = "object"
        self.description: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        quantization_config: Any = None,
        tile: int | None = None,
    ) -> "AnomalyInspector":
        """Loads a folder, a Hub id or, by default, the embedded checkpoint; see [`load_checkpoint`]."""
        return cls(*load_checkpoint(model, device, dtype, quantization_config), tile=tile)

    @property
    def num_references(self) -> int:
        """Pictures (tiles, rotated copies) in the memory bank."""
        return 0 if self.memory_bank is None else self.memory_bank.num_references

    @property
    def region_threshold(self) -> float:
        """Map value from which a pixel belongs to a region: the references' limit, else the checkpoint's."""
        return self._judge("auto", "en").threshold

    @property
    def memory_bank(self) -> MemoryBank | None:
        """Good patches of the references; `None` before there are any."""
        return self.observer.memory_bank

    def set_references(
        self,
        pictures: Sequence[Any],
        category: str = "object",
        description: str | None = None,
        rotations: bool = False,
        max_patches: int | None = None,
    ) -> None:
        r"""
        Learns what good looks like; replaces earlier references.

        Args:
            pictures (`list`):
                One or more good pictures: paths, PIL pictures or arrays.
            category (`str`, defaults to `"object"`):
                What they show, in any words.
            description (`str`, *optional*):
                A sentence that says how a good one looks; `None`: the known one of the category, or none.
            rotations (`bool`, defaults to `False`):
                Whether copies turned by 90, 180 and 270 degrees are added, for parts that lie in any direction.
            max_patches (`int`, *optional*):
                Keep at most so many patches a layer (greedy k-centre), to bound time and memory.

        Raises:
            PictureError: If a picture cannot be used; names it.
            ValueError: If there is no picture.
        """
        pictures = list(pictures)
        if not pictures:
            raise ValueError("`pictures` must hold at least one good picture, got none. One is enough to start.")
        bank, references = None, []
        for picture in tqdm(pictures, desc="references", disable=len(pictures) < 9, leave=False):
            image = load_picture(picture)
            references.append([image.rotate(angle, expand=True) for angle in _TURNS[: 4 if rotations else 1]])
            part = self.observer.build_bank(references[-1])
            bank = part if bank is None else bank.extend(part)
        bank = bank if max_patches is None else bank.reduce(max_patches)
        scores, comparability = self.observer.study(references)
        notes = {"normal_scores": json.dumps(asdict(scores))}
        if all(len(self.observer.boxes(image)) == 1 for turned in references for image in turned):
            sizes = [(turned[0].height, turned[0].width) for turned in references]
            notes |= {"comparability": comparability.to_json(), "copies": json.dumps([len(references[0]), sizes])}
        self.observer.memory_bank = replace(bank, limit=scores.limit, notes=notes)
        self.category, self.description = category, description

    def save_references(self, path: str | os.PathLike) -> None:
        """Writes the memory bank to a safetensors file."""
        if self.memory_bank is None:
            raise RuntimeError("The memory bank is empty. Call `set_references` before `save_references`.")
        self.memory_bank.save(path)

    def load_references(
        self, path: str | os.PathLike, category: str = "object", description: str | None = None
    ) -> None:
        """Reads a memory bank; one that another encoder or geometry made is refused."""
        self.observer.memory_bank = load_bank(path, self.observer.fingerprint()).to(self.model.device)
        self.category, self.description = category, description

    def calibrate(
        self, normals: Sequence[Any], max_false_alarm: float = 0.02, batch_size: int = 8, progress: bool = True
    ) -> dict[str, Any]:
        r"""
        Sets the limits by more good pictures, none of them a reference, so that a false-alarm rate is kept.

        Args:
            normals (`list`):
                Good pictures. 29 / 59 / 149 / 299 of them support a rate of 10 / 5 / 2 / 1 % at 95 % confidence.
            max_false_alarm (`float`, defaults to 0.02):
                The rate asked for; with too few pictures the highest of them is the limit.
            batch_size (`int`, defaults to 8):
                Pictures that go through the model together.
            progress (`bool`, defaults to `True`):
                Whether a progress bar is shown.

        Returns:
            `dict`: `num_normals`, `max_false_alarm`, `supported_false_alarm_rate` (which may be higher than asked
            for), `confidence`, `enough` and `needed` (pictures for the rate asked for).

        Raises:
            RuntimeError: If there are no references.
            ValueError: If no picture can be read, or the rate is not between 0 and 1.
        """
        if self.memory_bank is None:
            raise RuntimeError("The memory bank is empty. Call `set_references` before `calibrate`.")
        needed = normals_needed(max_false_alarm)
        notes = {name: text for name, text in self.memory_bank.notes.items() if name != "calibration"}
        self.observer.memory_bank = replace(self.memory_bank, notes=notes)
        options = {"batch_size": batch_size, "progress": progress, "answer": False}
        scores = [row.pred_score for row in self.inspect_many(normals, use_language=False, **options) if not row.error]
        if not scores:
            raise ValueError("`normals` must hold at least one good picture that can be read, got none.")
        limit = self.memory_bank.limit * max(evidence_limit(scores, max_false_alarm), 1e-3)
        self.observer.memory_bank = replace(self.memory_bank, limit=limit)
        judged = [row for row in self.inspect_many(normals, **options) if not row.error]
        evidences = [row.evidence["evidence"] for row in judged]
        learned = {
            "num_normals": len(judged),
            "max_false_alarm": max_false_alarm,
            "supported_false_alarm_rate": max(supported_false_alarm_rate(len(judged)), max_false_alarm),
            "confidence": CONFIDENCE,
            "enough": len(judged) >= needed,
            "needed": needed,
            "evidence_limit": max(evidence_limit(evidences, max_false_alarm), _LOWEST_EVIDENCE_LIMIT),
        }
        notes = self.memory_bank.notes | {"calibration": json.dumps(learned)}
        self.observer.memory_bank = replace(self.memory_bank, notes=notes)
        return learned

    def feedback(self, result: InspectionResult, is_normal: bool, picture: Any = None) -> None:
        r"""
        Tells whether a verdict was right; the next ones follow. `audit_file` of [`FeedbackHistory`] keeps a record.

        Args:
            result ([`InspectionResult`]):
                Of the picture.
            is_normal (`bool`):
                `True`: the part is good, its patches join the bank. `False`: it has a defect; good patches that look
                like what stands out most in it are taken out.
            picture (*optional*):
                The picture again, where the result names no file.

        Raises:
            RuntimeError: If there are no references.
            ValueError: If there is no picture.
        """
        picture = result.image if picture is None else picture
        if picture is None:
            raise ValueError("`picture` must be given for a result that names no file, got None.")
        if self.memory_bank is None:
            raise RuntimeError("The memory bank is empty. Call `set_references` before `feedback`.")
        before, seen = self.memory_bank, self.observer.build_bank([load_picture(picture)], as_queries=True)
        after = before.extend(seen) if is_normal else without_matches(before, seen)
        row = {"image": result.image, "verdict": result.verdict, "is_normal": is_normal}
        self.feedback_history.record(before, after, row)
        self.observer.memory_bank = after

    def undo_feedback(self) -> None:
        """Takes the last feedback back; `RuntimeError` where there is none."""
        self.observer.memory_bank = self.feedback_history.undo()

    def inspect(self, picture: Any, **options: Any) -> InspectionResult:
        r"""
        Inspects one picture.

        Args:
            picture (path, `PIL.Image.Image` or `np.ndarray`):
                The picture.
            options:
                See [`AnomalyInspector.inspect_many`].

        Returns:
            [`InspectionResult`]

        Raises:
            PictureError: If the picture cannot be used.
        """
        options = self._checked(options)
        return self._inspect_batch([(picture, load_picture(picture))], **options)[0]

    def inspect_many(
        self,
        pictures: Iterable[Any],
        batch_size: int = 1,
        progress: bool = True,
        results_file: str | os.PathLike | None = None,
        resume: bool = False,
        **options: Any,
    ) -> Iterator[InspectionResult]:
        r"""
        Inspects any number of pictures, in order, one result each; a bad picture gives a row with its error.

        Args:
            pictures (iterable of paths, `PIL.Image.Image` or `np.ndarray`):
                Read as they are needed.
            batch_size (`int`, defaults to 1):
                Pictures that go through the model together.
            progress (`bool`, defaults to `True`):
                Whether a progress bar is shown on stderr.
            results_file (`str` or `os.PathLike`, *optional*):
                JSON-lines file to which each result is appended at once.
            resume (`bool`, defaults to `False`):
                Whether pictures already in `results_file` are taken from it; such results have no map.
            question (`str`, *optional*):
                What is asked; `None`: whether there is any anomaly.
            language (`str`, defaults to `"en"`):
                `"en"` or `"zh"`.
            category, description (`str`, *optional*):
                `None`: those of the references.
            localization (`str`, defaults to `"auto"`):
                `"auto"`: by the references where there are any, else by the state vectors; or `"text"`,
                `"reference"`, `"mean"`.
            answer (`bool`, defaults to `True`):
                Whether the answer is generated; without it the language model still gives its log-odds.
            use_language (`bool`, defaults to `True`):
                Whether the language model is asked at all. Without it the map decides: a peak at or above the
                checkpoint's region threshold is anomalous.
            mm_per_pixel (`float`, *optional*):
                Scale, for sizes in millimetres.

        Yields:
            [`InspectionResult`]
        """
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        options = self._checked(options)
        rows = ResultsFile(results_file, resume) if results_file is not None else None
        total = len(pictures) if hasattr(pictures, "__len__") else None
        bar = tqdm(total=total, desc="inspecting", unit="picture", disable=not progress)
        stream = inspect_in_batches(
            pictures,
            partial(self._inspect_batch, **options),
            partial(_failed, options=options),
            {} if rows is None else rows.finished,
            batch_size,
        )
        with bar:
            for result in stream:
                if rows is not None and "resumed" not in result.evidence:
                    rows.append(result)
                bar.update()
                yield result

    def ask(
        self, result: InspectionResult, question: str, stream: bool = False, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> str | Iterator[str]:
        r"""
        Asks a further question about an inspected picture; the turns so far are part of it.

        Args:
            result ([`InspectionResult`]):
                From [`AnomalyInspector.inspect`] of this process.
            question (`str`):
                In English or Chinese.
            stream (`bool`, defaults to `False`):
                Whether the answer comes piece by piece.
            max_new_tokens (`int`, defaults to 128):
                Longest answer.

        Returns:
            `str`, or an iterator of its pieces when `stream`. The turn is added to `result.conversation`.

        Raises:
            ValueError: If the question is empty **or** the result holds no picture any more.
        """
        if not question.strip():
            raise ValueError("`question` must hold words, got an empty text.")
        if result.image_tokens is None:
            raise ValueError("`result` must hold what the model saw, got one from a file or an error. Inspect again.")
        turns = [*result.conversation, {"role": "user", "content": question}]
        pieces = self._ask(result, turns, max_new_tokens)
        return pieces if stream else "".join(pieces)

    def _ask(self, result: InspectionResult, turns: list[dict[str, str]], max_new_tokens: int) -> Iterator[str]:
        answer = ""
        for piece in self.dialogue.stream(turns, result.image_tokens, max_new_tokens, result.category):
            answer += piece
            yield piece
        result.conversation = [*turns, {"role": "assistant", "content": answer}]

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options with their defaults; refused here, before the first picture is read."""
        defaults = {
            "question": None, "language": "en", "category": None, "description": None, "localization": "auto",
            "answer": True, "use_language": True, "mm_per_pixel": None,
        }  # fmt: skip
        unknown = sorted(set(options) - set(defaults))
        if unknown:
            raise TypeError(f"Options must be among {', '.join(defaults)}, got {', '.join(unknown)}.")
        options = defaults | options
        check_language(options["language"])
        if options["mm_per_pixel"] is not None and not options["mm_per_pixel"] > 0:
            raise ValueError(f"`mm_per_pixel` must be above 0, got {options['mm_per_pixel']}.")
        if options["localization"] in ("reference", "mean") and self.memory_bank is None:
            raise RuntimeError(
                f"The memory bank is empty, but localization={options['localization']!r} needs references. "
                "Call `set_references` with one or more good pictures first."
            )
        options["category"] = options["category"] or self.category
        options["question"] = options["question"] or default_question(options["language"])
        if options["description"] is None:
            known = options["category"] != "object" or self.description is not None
            options["description"] = (
                describe(options["category"], options["language"], self.description) if known else None
            )
        return options

    @torch.inference_mode()
    def _inspect_batch(
        self,
        batch: list[tuple[Any, Image.Image]],
        question: str,
        language: str,
        category: str,
        description: str | None,
        localization: str,
        answer: bool,
        use_language: bool,
        mm_per_pixel: float | None,
    ) -> list[InspectionResult]:
        start = time.perf_counter()
        images = [image for _, image in batch]
        look = self.observer.look(images, category, localization)
        turns = first_turn(question, description, language)
        answers, log_odds = [""] * len(batch), [None] * len(batch)
        if use_language:
            longest = MAX_NEW_TOKENS if answer else 1
            answers, log_odds = self.dialogue.answer([turns] * len(batch), look.image_tokens, language, longest)
        seconds = (time.perf_counter() - start) / len(batch)
        judge = self._judge(localization, language)
        results = []
        for index, (picture, image) in enumerate(batch):
            words, patches, doubts = answers[index] if answer else "", look.patches[index], look.doubts[index]
            judgement = judge.judge(look.maps[index], log_odds[index], doubts, mm_per_pixel, look.relit[index])
            regions = [self._with_nearest_good(region, patches, image) for region in judgement.regions]
            results.append(
                InspectionResult(
                    image=str(picture) if isinstance(picture, str | os.PathLike) else None,
                    verdict=judgement.verdict,
                    pred_score=judgement.pred_score,
                    log_odds=log_odds[index],
                    answer=words,
                    regions=regions if judge.calibrated else judgement.regions,
                    anomaly_map=look.maps[index],
                    evidence=judgement.evidence,
                    question=question,
                    category=category,
                    language=language,
                    seconds=seconds,
                    conversation=[*turns, {"role": "assistant", "content": words}] if words else [],
                    image_tokens=look.image_tokens[index : index + 1].clone() if use_language else None,
                )
            )
        return results

    def _judge(self, localization: str, language: str) -> Judge:
        decision = self.model.config.decision
        return Judge(
            self.memory_bank, localization, decision["normalised_maps"], decision["region_threshold"], language
        )

    def _with_nearest_good(self, region: Region, patches: PatchFeatures | None, image: Image.Image) -> Region:
        x, y = (round(value) for value in region.centroid)
        return replace(region, nearest_good=self.observer.nearest_good(patches, (image.height, image.width), x, y))


def _failed(picture: Any, line: str, options: dict[str, Any]) -> InspectionResult:
    return InspectionResult(
        image=str(picture) if isinstance(picture, str | os.PathLike) else None,
        verdict="error",
        error=line,
        category=options["category"],
        question=options["question"],
        language=options["language"],
    )


__all__ = [
    "AnomalyInspector",
    "Box",
    "FeedbackHistory",
    "Observer",
    "merge_tile_maps",
    "tile_boxes",
    "without_matches",
]
