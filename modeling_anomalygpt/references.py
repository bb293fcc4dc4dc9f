"""What is known of the good pictures: their patches, the scores good parts reach, what comparable pictures look like.

One typed object, made from pictures that are encoded once, saved as one file. Knows patch features, normalised pixels
and files; knows no verdict and no words.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn
from torch.nn import functional

from .files import write_atomically
from .localization import self_distances
from .memory_bank import FORMATS, MemoryBank, PatchFeatures, unit_length
from .pose import MOST_VIEWS, VIEW_SIZE
from .reference_views import NUM_VIEWS, augmented_views, synthetic_anomalies
from .region_of_interest import mean_inside, patches_inside

Encoder = Callable[[torch.Tensor], tuple[PatchFeatures, ...]]

# References that are compared with the others and kept for the domain gate; images encoded together.
_THUMBNAIL = 32  # pixels a side
_MOST_COMPARED, _MOST_GATED, _BATCH_SIZE = 24, 24, 8
# Exponent of the synthetic anomalies in what one reference tells of the threshold; the picture itself has the rest.
_SYNTHETIC_SHARE = 0.75
# Good pictures that differ less than this share of what photographs of one part vary are one photograph, cut or moved
# a little. Chosen on training pictures of ten sets: cut by one of 256 pixels 0.05 to 0.52, by three 0.19 to 0.67;
# different good parts 0.44 and more (one in ten 0.6 to 0.9 where a fixture holds them).
_SAME_PHOTOGRAPH = 0.4
# Least and most by which the light of a picture is multiplied, and the difference of brightness (standard deviations
# of the normalised pixels) from which on it is.
_GAINS, _OTHER_LIGHT = (0.4, 2.5), 0.3


@dataclass(frozen=True)
class NormalScores:
    """Maxima of the few-shot maps of pictures that are known to be good.

    Args:
        augmented_scores (`tuple[float]`): Of augmented views of the references against all references: how much
            photographs of one part vary.
        leave_one_out_scores (`tuple[float]`): Of each reference against the others: how much good parts differ. Empty
            with one reference.
        synthetic_scores (`tuple[float]`): Of synthetic anomalies on augmented views, against all references.
        self_distance (`float`): Mean distance of the references' patches from the nearest elsewhere in the same
            picture ([`self_distances`]).
    """

    augmented_scores: tuple[float, ...]
    leave_one_out_scores: tuple[float, ...]
    synthetic_scores: tuple[float, ...] = ()
    self_distance: float = 0.0

    def threshold(self, decision: Mapping[str, float]) -> float:
        """The score that separates normal from anomalous pictures of this part.

        Comparisons show how much good parts differ; each of `k` references has `k - 1`. Beside them stands one guess,
        from how strongly synthetic anomalies show on this part and how much it differs from place to place; it decides
        alone where there is one reference, and fades with more.

        Args:
            decision (`Mapping[str, float]`): The `decision` group of the configuration.

        Returns:
            `float`: Above 0.
        """
        synthetic = max(float(np.median(self.synthetic_scores or 0)), 1e-6)
        guess = synthetic**_SYNTHETIC_SHARE * max(self.self_distance, 1e-6) ** (1 - _SYNTHETIC_SHARE)
        count = max(1, len(self.leave_one_out_scores))
        comparisons = _geometric_mean(self.leave_one_out_scores) ** (count - 1)
        return decision["threshold_factor"] * (guess * comparisons) ** (1 / count)


@dataclass(frozen=True)
class ImageTraits:
    """What images are like as a whole.

    Args:
        features (`torch.Tensor` of shape `(batch_size, dim)`): Mean patch vectors of the last layer, unit length.
        brightness (`torch.Tensor` of shape `(batch_size,)`): Mean of the normalised pixels.
        sharpness (`torch.Tensor` of shape `(batch_size,)`): Natural logarithm of the mean difference of a pixel from
            its surroundings.
    """

    features: torch.Tensor
    brightness: torch.Tensor
    sharpness: torch.Tensor

    @classmethod
    def of(
        cls,
        pixel_values: torch.Tensor,
        last_layer: PatchFeatures,
        brightness: torch.Tensor | None = None,
        inside: torch.Tensor | None = None,
    ) -> "ImageTraits":
        """Traits of images as the vision model saw them.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): Normalised images.
            last_layer ([`PatchFeatures`]): Their last layer.
            brightness (`torch.Tensor` of shape `(batch_size,)`, *optional*): Theirs before
                [`DomainGate.match_exposure`]; of `pixel_values` by default.
            inside (`torch.BoolTensor` of shape `(batch_size, height, width)`, *optional*): The region of interest,
                outside which nothing counts.
        """
        grey = pixel_values.float().mean(1, keepdim=True)
        around = functional.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False)
        roughness, vectors = (grey - around).abs(), last_layer.vectors
        if inside is not None:
            weights = functional.adaptive_avg_pool2d(inside[:, None].to(vectors), last_layer.grid)
            vectors = vectors * weights.flatten(1)[..., None]  # their sum has the direction of the mean
        return cls(
            features=unit_length(vectors.mean(1)),
            brightness=mean_brightness(pixel_values, inside) if brightness is None else brightness,
            sharpness=_mean(roughness, inside).clamp(min=1e-6).log(),
        )


def mean_brightness(pixel_values: torch.Tensor, inside: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of the normalised pixels, `(batch_size,)`; of those in the region of interest where there is one."""
    return _mean(pixel_values.float(), inside)


def _mean(values: torch.Tensor, inside: torch.Tensor | None) -> torch.Tensor:
    return values.mean((1, 2, 3)) if inside is None else mean_inside(values.mean(1), inside)


def _filled(pixel_values: torch.Tensor) -> torch.Tensor:
    """Where the picture is, `(batch_size, 1, height, width)`: around a letterboxed one all is 0."""
    return (pixel_values.abs() > 1e-5).any(1, keepdim=True)


def _part_filled(pixel_values: torch.Tensor, inside: torch.Tensor | None) -> torch.Tensor:
    return _mean(_filled(pixel_values).float(), inside).clamp(min=1e-3)


@dataclass(frozen=True)
class DomainGate:
    """What images must be like to be compared with these references.

    Args:
        features (`torch.Tensor` of shape `(num_references, dim)`): Mean patch vectors of up to 24 references.
        max_distance (`float`): Largest cosine distance from the nearest of them.
        brightness_range (`tuple[float, float]`): Lowest and highest mean of the normalised pixels of the references
            and their views.
        min_sharpness (`float`): Lowest sharpness.
    """

    features: torch.Tensor
    max_distance: float
    brightness_range: tuple[float, float]
    min_sharpness: float

    def match_exposure(
        self, pixel_values: torch.Tensor, black: torch.Tensor, inside: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Images that are darker or brighter by 0.3 than all references and their views, in the nearest light.

        As a longer or shorter exposure would: every pixel is multiplied by the same number, from 0.4 to 2.5.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): Normalised images.
            black (`torch.Tensor` of shape `(3,)`): What black is after normalisation, `-mean / std`.
            inside (`torch.BoolTensor` of shape `(batch_size, height, width)`, *optional*): The region of interest,
                whose light counts.

        Returns:
            `torch.Tensor` of shape `(batch_size, 3, height, width)`: the others are untouched.
        """
        brightness, level = mean_brightness(pixel_values, inside), black.mean()
        wanted = brightness.clamp(*self.brightness_range)
        filled = _filled(pixel_values)
        part = _part_filled(pixel_values, inside)
        gains = ((wanted / part - level) / (brightness / part - level).clamp(min=1e-3)).clamp(*_GAINS)
        black = black[:, None, None]
        matched = (black + gains[:, None, None, None] * (pixel_values - black)).to(pixel_values)
        other = (wanted - brightness).abs() > _OTHER_LIGHT
        return torch.where(other[:, None, None, None] & filled, matched, pixel_values)

    def compare(
        self,
        traits: ImageTraits,
        pixel_values: torch.Tensor,
        black: torch.Tensor,
        inside: torch.Tensor | None = None,
    ) -> list[dict[str, float]]:
        """What images are like beside the references, in numbers that a slow change of the line moves.

        Args:
            traits ([`ImageTraits`]): Of the images.
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): The images as they were compared.
            black (`torch.Tensor` of shape `(3,)`): See [`DomainGate.match_exposure`].
            inside (`torch.Tensor`, *optional*): As there.

        Returns:
            `list[dict[str, float]]`: For each image `distance` (from the nearest reference; 1: the most that is
            comparable), `exposure` (0.8: as the middle of the references, every pixel multiplied by 0.8) and
            `sharpness` (were it as bright as they are; 1: the least that is comparable).
        """
        part, level = _part_filled(pixel_values, inside), black.mean()
        middle = (sum(self.brightness_range) / 2 / part - level).clamp(min=1e-3)
        exposure = ((traits.brightness / part - level) / middle).clamp(min=0)
        seen = ((mean_brightness(pixel_values, inside) / part - level) / middle).clamp(min=1e-3)
        distances = self._distances(traits)
        columns = {
            "distance": distances.clamp(min=0) / max(self.max_distance, 1e-6),
            "exposure": exposure,
            "sharpness": (traits.sharpness - self.min_sharpness).exp() / seen,
        }
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        return [{name: round(value, 4) for name, value in zip(columns, row, strict=True)} for row in rows]

    def out_of_domain_reasons(self, traits: ImageTraits, exposure_range: float) -> list[list[str]]:
        """Why images may not be comparable with the references.

        Args:
            traits ([`ImageTraits`]): Of the images.
            exposure_range (`float`): By how much they may be darker or brighter, in standard deviations of the
                normalised pixels.

        Returns:
            `list[list[str]]`: For each image any of `"unlike"`, `"exposure"`, `"blur"`; empty where there is none.
        """
        distances = self._distances(traits)
        low, high = self.brightness_range
        reasons = {
            "unlike": distances > self.max_distance,
            "exposure": (traits.brightness < low - exposure_range) | (traits.brightness > high + exposure_range),
            "blur": traits.sharpness < self.min_sharpness,
        }
        return [[name for name, found in reasons.items() if found[index]] for index in range(len(distances))]

    def extended(self, traits: ImageTraits, exposure_range: float) -> "DomainGate":
        """The gate that one image passes too, which a person has called good; only what kept it out is widened.

        Args:
            traits ([`ImageTraits`]): Of the image.
            exposure_range (`float`): As for [`DomainGate.out_of_domain_reasons`].
        """
        (reasons,), (low, high) = self.out_of_domain_reasons(traits, exposure_range), self.brightness_range
        changes: dict[str, Any] = {}
        if "unlike" in reasons:
            changes["features"] = torch.cat([self.features, traits.features.to(self.features)])
        if "exposure" in reasons:
            brightness = float(traits.brightness)
            changes["brightness_range"] = min(low, brightness), max(high, brightness)
        if "blur" in reasons:
            changes["min_sharpness"] = float(traits.sharpness) - 1e-3  # a batch rounds otherwise
        return replace(self, **changes)

    def _distances(self, traits: ImageTraits) -> torch.Tensor:
        return 1 - (traits.features @ self.features.to(traits.features).T).max(1).values


@dataclass(frozen=True)
class Calibration:
    """What [`AnomalyInspector.calibrate`] learned from further good pictures.

    Args:
        num_normals (`int`): Distinct good pictures.
        max_false_alarm (`float`): Share of good pictures that may be called anomalous, as asked for.
        supported_false_alarm_rate (`float`): The share that so many pictures can promise, at `confidence`; at least
            `max_false_alarm`.
        num_stopped (`int`): How many of these pictures are not called normal: anomalous or uncertain.
        confidence (`float`): In (0, 1).
        enough (`bool`): Whether the pictures support what was asked for.
        needed (`int`): How many would.
        decision_threshold (`float`): What the decision score of good pictures reaches.
    """

    num_normals: int
    max_false_alarm: float
    supported_false_alarm_rate: float
    num_stopped: int
    confidence: float
    enough: bool
    needed: int
    decision_threshold: float


@dataclass(frozen=True)
class References:
    """Everything that was learned from good pictures of one part.

    Args:
        bank ([`MemoryBank`]): Their patches and the threshold.
        normal_scores ([`NormalScores`], *optional*): What good pictures reach. `None`: a bank from elsewhere.
        domain_gate ([`DomainGate`], *optional*): What comparable pictures look like. `None`: tiled references or a
            bank from elsewhere.
        calibration ([`Calibration`], *optional*): Learned from further good pictures.
        image_sizes (`tuple[tuple[int, int]]`): `(height, width)` of each reference; empty for tiled ones.
        copies (`int`): Pictures in the bank for each reference: 4 with rotated copies.
        given (`tuple[int]`): Which of the pictures that were given each reference is; empty where none was left out.
        thumbnails (`tuple[bytes]`): Of each reference and each picture that feedback added, by which copies are
            recognised.
        category (`str`), description (`str`, *optional*): What they show, as the user wrote it.
        bits (`int`, *optional*): Depth of deep pictures, see [`bit_depth`]; all pictures that are compared with these
            are opened with it.
        roi (`np.ndarray` of shape `(height, width)`, *optional*): Boolean: the region of interest in the pixels of the
            first reference, in pictures of other sizes in proportion. Outside it nothing counts.
        views (`np.ndarray` of shape `(count, 160, 160)`, *optional*): Grey copies, uint8, into whose pose each picture
            is brought, see [`find_pose`]; `None`: pictures are compared as they lie.
        frame (`tuple[int, int]`): `(height, width)` of the first reference, where there are views.
    """

    bank: MemoryBank
    normal_scores: NormalScores | None = None
    domain_gate: DomainGate | None = None
    calibration: Calibration | None = None
    image_sizes: tuple[tuple[int, int], ...] = ()
    copies: int = 1
    given: tuple[int, ...] = ()
    thumbnails: tuple[bytes, ...] = ()
    category: str = "object"
    description: str | None = None
    bits: int | None = None
    roi: np.ndarray | None = None
    views: np.ndarray | None = None
    frame: tuple[int, int] = (1, 1)

    @property
    def num_compared(self) -> int:
        """Good parts that were compared with each other; copies and tiles of one count once."""
        return max(1, len(self.normal_scores.leave_one_out_scores)) if self.normal_scores else 1

    @property
    def num_pictures(self) -> int:
        """Good pictures; copies and tiles of one count once."""
        return len(self.thumbnails) or self.bank.num_references

    def to(self, device: torch.device | str) -> "References":
        """The references with their bank on another device."""
        return replace(self, bank=self.bank.to(device))

    def fingerprint(self) -> str:
        """Digest of all that decides about a picture: patches, region, thresholds; 16 hexadecimal digits."""
        digest = hashlib.sha256(json.dumps(self._facts(), sort_keys=True).encode())
        digest.update(repr((self.bank.fingerprint, self.bank.threshold)).encode())
        for layer in self.bank.features:
            digest.update(layer.cpu().numpy().tobytes())
        if self.roi is not None:
            digest.update(np.packbits(self.roi).tobytes())
        if self.views is not None:
            digest.update(self.views.tobytes())
        if self.bank.presence:
            digest.update(b"presence")
        return digest.hexdigest()[:16]

    def save(self, path: str | os.PathLike) -> None:
        """Writes everything as one safetensors file, whole or not at all."""
        tensors, metadata = self.bank.to_tensors()
        if self.domain_gate is not None:
            tensors["domain_features"] = self.domain_gate.features.cpu().contiguous()
        if self.roi is not None:
            tensors["roi"] = torch.from_numpy(np.packbits(self.roi))
        if self.views is not None:
            tensors["views"] = torch.from_numpy(self.views)
        number = 4 if self.bank.presence else 3 if self.views is not None else 1 if self.roi is None else 2
        metadata |= {"format": FORMATS[number], "references": json.dumps(self._facts())}
        write_atomically(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike, fingerprint: str | None = None) -> "References":
        """Reads what [`References.save`] or [`MemoryBank.save`] wrote, also in earlier versions.

        Raises:
            ValueError: If the file is of another kind or encoder, **or** holds values that cannot be; says which.
        """
        bank, metadata, tensors = MemoryBank.read(path, fingerprint)
        try:
            facts = json.loads(metadata["references"]) if "references" in metadata else _facts_of_notes(metadata)
            features = facts.pop("domain_features", None) or tensors.get("domain_features")
            roi = _checked_roi(facts.pop("roi_size", None), tensors.get("roi"))
            views, frame = _checked_views(tensors.get("views"), facts.pop("frame", (1, 1)))
            return cls(bank, roi=roi, views=views, frame=frame, **_checked_facts(facts, features, bank))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            reason = str(error).splitlines()[0] if isinstance(error, ValueError) else type(error).__name__
            raise ValueError(
                f"`path` must hold references that an inspector wrote, got {os.fspath(path)!r} ({reason:.90}). "
                "Make them again."
            ) from error

    def _facts(self) -> dict[str, Any]:
        gate = self.domain_gate
        return {
            "normal_scores": self.normal_scores and asdict(self.normal_scores),
            "domain_gate": gate and {name: value for name, value in vars(gate).items() if name != "features"},
            "calibration": self.calibration and asdict(self.calibration),
            "image_sizes": self.image_sizes,
            "copies": self.copies,
            "thumbnails": [thumbnail.hex() for thumbnail in self.thumbnails],
            "category": self.category,
            "description": self.description,
            "bits": self.bits,
            **({} if self.roi is None else {"roi_size": self.roi.shape}),
            **({"given": self.given} if self.given else {}),
            **({} if self.views is None else {"frame": self.frame}),
        }


def _facts_of_notes(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The facts of a bank of earlier versions, which kept them as notes."""
    notes = {name[5:]: json.loads(value) for name, value in metadata.items() if name.startswith("note.")}
    facts: dict[str, Any] = {}
    if scores := notes.get("normal_scores"):
        facts["normal_scores"] = {
            "augmented_scores": scores.get("views", []),
            "leave_one_out_scores": scores["crossed"],
        }
    if gate := notes.get("comparability"):
        facts["domain_features"] = gate["vectors"]
        facts["domain_gate"] = {
            "max_distance": gate["farthest"],
            "brightness_range": gate["light"],
            "min_sharpness": gate["sharpness"],
        }
    if "copies" in notes:
        facts["copies"], facts["image_sizes"] = notes["copies"]
    if learned := notes.get("calibration"):
        learned["decision_threshold"] = learned.pop("evidence_limit")
        facts["calibration"] = {
            "num_stopped": 0,
            "max_false_alarm": 1.0,
            "enough": False,
            "needed": 0,
            **learned,
        }
    return facts


def _checked_facts(facts: dict[str, Any], features: Any, bank: MemoryBank) -> dict[str, Any]:
    """Typed parts from JSON that a stranger may have written: wrong values raise here, not while a part is judged."""
    scores, gate, calibration = (facts.get(name) for name in ("normal_scores", "domain_gate", "calibration"))
    sizes, copies = facts.get("image_sizes", ()), facts.get("copies", 1)
    if scores is not None:
        scores = NormalScores(
            **{
                name: _number(row) if name == "self_distance" else tuple(_number(value) for value in row)
                for name, row in scores.items()
            }
        )
    if gate is not None:
        features = torch.as_tensor(features, dtype=torch.float32)
        if features.dim() != 2 or not len(features) or features.shape[1] != bank.features[-1].shape[1]:
            raise ValueError(f"features of the domain gate have the shape {tuple(features.shape)}")
        if ((features.norm(dim=1) - 1).abs() > 1e-3).any():  # a second time it would not give the same bits
            features = unit_length(features)
        low, high = (_number(value) for value in gate["brightness_range"])
        distance, sharpness = _number(gate["max_distance"]), _number(gate["min_sharpness"])
        gate = DomainGate(features, distance, (low, high), sharpness)
    if calibration is not None:
        for value in calibration.values():
            _number(value)
        calibration = Calibration(**calibration)
    if type(copies) is not int or not 1 <= copies <= bank.num_references:
        raise ValueError(f"`copies` is {copies!r:.40}")
    sizes = tuple((height, width) for height, width in sizes)
    if any(type(side) is not int or side < 1 for size in sizes for side in size):
        raise ValueError("an image has no size")
    if copies * len(sizes) > bank.num_references:  # feedback adds pictures, never sizes
        raise ValueError("there are more sizes than references")
    category, description = facts.get("category", "object"), facts.get("description")
    if not isinstance(category, str) or not isinstance(description, str | None):
        raise ValueError("`category` and `description` must be words")
    bits = facts.get("bits")
    if bits is not None and (type(bits) is not int or not 1 <= bits <= 16):
        raise ValueError(f"`bits` is {bits!r:.40}")
    given = tuple(facts.get("given", ()))
    if any(type(number) is not int or number < 0 for number in given):
        raise ValueError("`given` must be whole numbers")
    thumbnails = tuple(bytes.fromhex(text) for text in facts.get("thumbnails", ()))
    if any(len(one) != _THUMBNAIL**2 for one in thumbnails):
        raise ValueError("a thumbnail has another size")
    return {
        "normal_scores": scores, "domain_gate": gate, "calibration": calibration, "image_sizes": sizes,
        "copies": copies, "given": given, "thumbnails": thumbnails, "category": category, "description": description,
        "bits": bits,
    }  # fmt: skip


def _checked_roi(size: Any, bits: torch.Tensor | None) -> np.ndarray | None:
    if size is None:
        return None
    height, width = size
    if any(type(side) is not int or not 1 <= side <= 2**16 for side in size):
        raise ValueError(f"the region of interest has the size {size!r:.40}")
    if bits is None or bits.dtype != torch.uint8 or bits.shape != ((height * width + 7) // 8,):
        raise ValueError("the region of interest and its size do not belong together")
    roi = np.unpackbits(bits.numpy(), count=height * width).reshape(height, width).astype(bool)
    if not roi.any():
        raise ValueError("the region of interest is empty")
    return roi


def _checked_views(views: torch.Tensor | None, frame: Sequence[int]) -> tuple[np.ndarray | None, tuple[int, int]]:
    height, width = frame
    if any(type(side) is not int or not 1 <= side <= 2**16 for side in frame):
        raise ValueError(f"the good pictures have the size {frame!r:.40}")
    if views is None:
        return None, (height, width)
    if views.dtype != torch.uint8 or views.shape[1:] != (VIEW_SIZE, VIEW_SIZE) or not 1 <= len(views) <= MOST_VIEWS:
        raise ValueError(f"the views have the shape {tuple(views.shape)}")
    return views.numpy(), (height, width)


def _number(value: Any) -> float:
    if type(value) not in (int, float, bool) or not math.isfinite(value):
        raise ValueError(f"a number is {value!r:.40}")
    return value


def thumbnail(image: Image.Image) -> bytes:
    """A grey 32 x 32 copy of an image: what [`same_picture`] compares."""
    return image.convert("L").resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC).tobytes()


def same_picture(first: bytes, second: bytes) -> bool:
    """Whether two thumbnails are of one picture, perhaps resized or saved again.

    Between copies (half or a third of the size, JPEG quality 60) the root mean square difference stayed below 1.12
    grey levels, between photographs of different good parts on the same mount it was never below 1.45 (the training
    pictures of ten sets). Pictures that show little are held to less.

    Args:
        first, second (`bytes`): From [`thumbnail`].
    """
    one, other = (np.frombuffer(data, dtype=np.uint8).astype(np.float32) for data in (first, second))
    difference = float(np.sqrt(((one - other) ** 2).mean()))
    return difference < min(1.25, 0.02 * float(one.std()) + 0.3)


def nearest_rotation(own: bytes, known: Sequence[bytes]) -> int:
    """By how many degrees counter-clockwise a picture must be rotated to look most like one of the known ones.

    Light and contrast do not count.

    Args:
        own (`bytes`), known (`list[bytes]`): From [`thumbnail`].

    Returns:
        `int`: 0, 90, 180 or 270; 0 where none is known, as with references that earlier versions saved.

    Example:
    ```python
    >>> upright = Image.fromarray(np.arange(0, 256, 8, dtype=np.uint8)[:, None].repeat(32, axis=1))
    >>> nearest_rotation(thumbnail(upright.rotate(90)), [thumbnail(upright)])
    270

    ```
    """
    one, *others = (_standardised(data) for data in (own, *known))
    turned = [np.rot90(one, turn) for turn in range(4)]
    return 90 * int(
        np.argmax([max((float((copy * other).mean()) for other in others), default=0.0) for copy in turned])
    )


def _standardised(small: bytes) -> np.ndarray:
    pixels = np.frombuffer(small, dtype=np.uint8).reshape(_THUMBNAIL, _THUMBNAIL).astype(np.float32)
    return (pixels - pixels.mean()) / (pixels.std() + 1e-3)


@dataclass(frozen=True)
class _Encoded:
    """Encoded images, and the region of interest in each `(num_images, height, width)`; `None`: all of them counts."""

    layers: tuple[PatchFeatures, ...]
    inside: torch.Tensor | None = None
    max_patches: int | None = None

    def __getitem__(self, images: torch.Tensor | list[int]) -> "_Encoded":
        chosen = torch.as_tensor(images, device=self.layers[0].vectors.device)
        return _Encoded(
            tuple(PatchFeatures(layer.vectors[chosen], layer.grid) for layer in self.layers),
            None if self.inside is None else self.inside[chosen],
            self.max_patches,
        )

    def bank(self) -> tuple[torch.Tensor, ...]:
        bank = MemoryBank.build(self.layers, inside=self.inside)
        return (bank if self.max_patches is None else bank.reduce(self.max_patches)).features

    def maps(self, model: nn.Module, bank: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Each image's map against a bank, `(num_images, height, width)`; 0 outside the region."""
        maps = model.localizer.compare(self.layers, bank)
        return maps if self.inside is None else maps * patches_inside(self.inside, tuple(maps.shape[1:]))

    def maxima(self, model: nn.Module, bank: tuple[torch.Tensor, ...]) -> list[float]:
        """The highest value of each image's map against a bank, within the region."""
        return self.maps(model, bank).flatten(1).amax(1).tolist()


@torch.no_grad()
def study_references(
    model: nn.Module,
    pixel_values: torch.Tensor,
    features: tuple[PatchFeatures, ...],
    groups: Sequence[int],
    upright: Sequence[bool],
    inside: torch.Tensor | None = None,
    max_patches: int | None = None,
) -> tuple[NormalScores, DomainGate]:
    """Compares good images with each other, with augmented views of themselves and with synthetic anomalies on these.

    Args:
        model ([`AnomalyGPTModel`]): Encodes the views and compares.
        pixel_values (`torch.Tensor` of shape `(num_images, 3, height, width)`): Normalised good images.
        features (`tuple[PatchFeatures]`): Theirs, from [`AnomalyGPTModel.get_patch_features`].
        groups (`list[int]`): Which reference each image belongs to; rotated copies and tiles share one.
        upright (`list[bool]`): Whether each image is an upright reference or a tile of one, whose score is the highest
            of its tiles; the others are rotated copies.
        inside (`torch.BoolTensor` of shape `(num_images, height, width)`, *optional*): The region of interest in each,
            outside which nothing counts; it stays where it is while the views move.
        max_patches (`int`, *optional*): Every bank is reduced to so many patches a layer, as that of the queries is.

    Returns:
        `tuple(NormalScores, DomainGate)`
    """
    numbers = torch.as_tensor(groups)
    originals = [index for index, stands in enumerate(upright) if stands]
    encoded, shown = _Encoded(features, inside), _shown(originals)
    views, around = augmented_views(pixel_values[shown]), None if inside is None else inside[shown]
    seen = _Encoded(encode_in_batches(model.get_patch_features, views), around)
    augmented = seen.maxima(model, encoded.bank())
    usual, few = _geometric_mean(augmented), _evenly(numbers.unique().tolist(), _MOST_COMPARED)
    compared = [index for index in originals if int(numbers[index]) in few]
    leave_one_out = _leave_one_out(model, encoded, numbers, compared)
    if any(score < _SAME_PHOTOGRAPH * usual for score in leave_one_out):
        merged = _grouped_by_photograph(model, encoded, numbers, compared, _SAME_PHOTOGRAPH * usual)
        pairs = list(zip(merged[compared].tolist(), numbers[compared].tolist(), strict=True))
        first = set(dict(reversed(pairs)).values())  # of each photograph one reference
        compared, numbers = [index for index in compared if int(numbers[index]) in first], merged
        leave_one_out = _leave_one_out(model, encoded, numbers, compared)
    if max_patches is not None:  # whole banks tell what one photograph is
        encoded = replace(encoded, max_patches=max_patches)
        augmented = seen.maxima(model, encoded.bank())
        leave_one_out = _leave_one_out(model, encoded, numbers, compared)
    good = ImageTraits.of(pixel_values, features[-1], inside=inside)
    view_traits = ImageTraits.of(views, seen.layers[-1], inside=around)
    gate = _domain_gate(good, view_traits, originals[:_MOST_GATED], model.config.decision)
    return NormalScores(tuple(augmented), tuple(leave_one_out), *_guesses(model, views, encoded, originals)), gate


@torch.no_grad()
def reference_threshold(model: nn.Module, pixel_values: torch.Tensor, features: tuple[PatchFeatures, ...]) -> float:
    """The threshold that [`study_references`] finds, for different photographs and without encoding their views.

    Args:
        model ([`AnomalyGPTModel`]): Encodes the synthetic anomalies and compares.
        pixel_values (`torch.Tensor` of shape `(num_images, 3, height, width)`): Normalised good images.
        features (`tuple[PatchFeatures]`): Theirs, from [`AnomalyGPTModel.get_patch_features`].

    Returns:
        `float`: Above 0.
    """
    images, encoded = list(range(len(pixel_values))), _Encoded(features)
    views = augmented_views(pixel_values[_shown(images)])
    leave_one_out = _leave_one_out(model, encoded, torch.tensor(images), _evenly(images, _MOST_COMPARED))
    scores = NormalScores((), tuple(leave_one_out), *_guesses(model, views, encoded, images))
    return scores.threshold(model.config.decision)


def _guesses(
    model: nn.Module, views: torch.Tensor, encoded: _Encoded, originals: list[int]
) -> tuple[tuple[float, ...], float]:
    """What each reference tells alone: scores of synthetic anomalies, mean distance within a picture."""
    inside = None if encoded.inside is None else encoded.inside[_shown(originals)]
    anomalies, surroundings = synthetic_anomalies(views, inside)
    seen = _Encoded(encode_in_batches(model.get_patch_features, anomalies), inside)
    maps = seen.maps(model, encoded.bank())
    near = functional.interpolate(surroundings.to(maps), tuple(maps.shape[1:])) > 0
    only = near | ~near.any(1, keepdim=True)  # around one, and where there is none
    scores = (maps[:, None] * only).amax((2, 3)).flatten().tolist()
    own = []
    for one in (encoded[[index]] for index in originals):  # each compares all patches of an image with each other
        for distances in map(self_distances, one.layers):
            own.append(float(distances.mean() if inside is None else mean_inside(distances, one.inside)))
    return tuple(scores), float(np.mean(own))


def _leave_one_out(model: nn.Module, encoded: _Encoded, groups: torch.Tensor, images: list[int]) -> list[float]:
    """The highest score of each group's images against all of other groups; none where there is one group."""
    if groups.unique().numel() < 2:
        return []
    return [
        max(encoded[own].maxima(model, encoded[groups != group].bank()))
        for group, own in _images_of_groups(groups, images).items()
    ]


def _grouped_by_photograph(
    model: nn.Module, encoded: _Encoded, groups: torch.Tensor, images: list[int], limit: float
) -> torch.Tensor:
    """The groups; those of two references that differ by less than the limit become one."""
    merged, images_of = groups.clone(), _images_of_groups(groups, images)
    for group, own in images_of.items():
        for other, others in images_of.items():
            known = merged[others[0]]
            if other >= group or merged[own[0]] == known:
                continue
            if max(encoded[own].maxima(model, encoded[merged == known].bank())) < limit:
                merged[merged == merged[own[0]]] = int(known)
    return merged


def _images_of_groups(groups: torch.Tensor, images: list[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for index in images:
        found.setdefault(int(groups[index]), []).append(index)
    return found


def _domain_gate(
    good: ImageTraits, views: ImageTraits, originals: list[int], decision: Mapping[str, float]
) -> DomainGate:
    kept = good.features[originals]
    distances = [1 - float((views.features @ good.features.T).max(1).values.min())]
    if len(originals) > 1:
        distances.append(1 - float((kept @ kept.T).fill_diagonal_(-1).max(1).values.min()))
    brightness = torch.cat([good.brightness, views.brightness])
    return DomainGate(
        features=kept,
        max_distance=max(decision["out_of_domain_distance"], decision["out_of_domain_factor"] * max(distances)),
        brightness_range=(float(brightness.min()), float(brightness.max())),
        min_sharpness=float(torch.cat([good.sharpness, views.sharpness]).min()) - decision["blur_range"],
    )


def encode_in_batches(encode: Encoder, pixel_values: torch.Tensor) -> tuple[PatchFeatures, ...]:
    """Patch features of any number of images, a few at a time."""
    return joined([encode(batch) for batch in pixel_values.split(_BATCH_SIZE)])


def joined(batches: Sequence[tuple[PatchFeatures, ...]]) -> tuple[PatchFeatures, ...]:
    """Patch features of several batches as those of one."""
    return tuple(
        PatchFeatures(torch.cat([layer.vectors for layer in layers]), layers[0].grid)
        for layers in zip(*batches, strict=True)
    )


def _shown(images: list[int]) -> list[int]:
    """The image that each augmented view shows."""
    some = _evenly(images, NUM_VIEWS)
    return [some[number % len(some)] for number in range(NUM_VIEWS)]


def _evenly(items: list[int], most: int) -> list[int]:
    """At most so many of them, spread evenly."""
    return items if len(items) <= most else [items[number * len(items) // most] for number in range(most)]


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(max(value, 1e-6)) for value in values) / len(values)) if values else 1e-6


__all__ = [
    "Calibration",
    "DomainGate",
    "ImageTraits",
    "NormalScores",
    "References",
    "encode_in_batches",
    "joined",
    "mean_brightness",
    "nearest_rotation",
    "reference_threshold",
    "same_picture",
    "study_references",
    "thumbnail",
]
