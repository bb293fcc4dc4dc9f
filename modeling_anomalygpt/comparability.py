"""Whether a picture can be compared with the references at all: same part, same light, as sharp.

A wrong part or a moved camera lights the whole map up; that is no anomaly of the part. Another light can be taken
back, up to a point. Knows pictures as tensors and patch features; knows no maps and no verdicts.
"""

import json
from dataclasses import asdict, dataclass

import torch
from torch.nn import functional

from .calibration import ViewedReferences
from .memory_bank import PatchFeatures, unit_length

# A picture is unlike when it is this much farther than references and their views are from each other, and at least
# this far: other good pictures of the same part were never farther than .051, other kinds of photographed parts hardly
# ever nearer than .07; drawn parts come as near as .02 (python -m benchmarks.normal_limits), so not all are caught.
_FARTHER, _FAR = 1.3, 0.07
# Standard deviations of the normalised pixels, as they are and where the light is matched; powers of e of the mean
# difference of a pixel from its surroundings.
_EXPOSURE, _MATCHED_EXPOSURE, _BLUR = 0.8, 1.5, 0.7
# From which difference on light is matched (the embedded vision model learned to bear a tenth more or less light), and
# least and most by which it is multiplied.
_OTHER_LIGHT, _GAINS = 0.3, (0.4, 2.5)
_MOST_KEPT = 24


@dataclass(frozen=True)
class Traits:
    r"""
    What a picture is like as a whole.

    Args:
        vectors (`torch.Tensor` of shape `(batch_size, dim)`):
            Mean patch vectors of the last layer, unit length.
        brightness (`torch.Tensor` of shape `(batch_size,)`):
            Mean of the normalised pixels.
        sharpness (`torch.Tensor` of shape `(batch_size,)`):
            Natural logarithm of the mean difference of a pixel from its surroundings.
    """

    vectors: torch.Tensor
    brightness: torch.Tensor
    sharpness: torch.Tensor


def picture_traits(
    pixel_values: torch.Tensor, last_layer: PatchFeatures, brightness: torch.Tensor | None = None
) -> Traits:
    r"""
    Traits of pictures as the vision model saw them.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`):
            Normalised pictures.
        last_layer ([`PatchFeatures`]):
            Their last layer.
        brightness (`torch.Tensor` of shape `(batch_size,)`, *optional*):
            Theirs before [`Comparability.relit`]; of `pixel_values` by default.

    Returns:
        [`Traits`]
    """
    grey = pixel_values.float().mean(1, keepdim=True)
    around = functional.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False)
    return Traits(
        vectors=unit_length(last_layer.vectors.mean(1)),
        brightness=picture_brightness(pixel_values) if brightness is None else brightness,
        sharpness=(grey - around).abs().mean((1, 2, 3)).clamp(min=1e-6).log(),
    )


def picture_brightness(pixel_values: torch.Tensor) -> torch.Tensor:
    """Mean of the normalised pixels, `(batch_size,)`."""
    return pixel_values.float().mean((1, 2, 3))


@dataclass(frozen=True)
class Comparability:
    r"""
    What pictures must be like to be compared with these references.

    Args:
        vectors (`list[list[float]]`):
            Mean patch vectors of up to 24 references.
        farthest (`float`):
            Largest cosine distance from the nearest of them.
        light (`tuple[float, float]`):
            Lowest and highest mean of the normalised pixels of the references and their views.
        sharpness (`float`):
            Lowest sharpness.
    """

    vectors: list[list[float]]
    farthest: float
    light: tuple[float, float]
    sharpness: float

    @classmethod
    def of(cls, references: ViewedReferences) -> "Comparability":
        """Limits from the references and their views."""
        good = picture_traits(references.pixel_values, references.good[-1])
        views = picture_traits(references.view_pixel_values, references.views[-1])
        firsts = references.firsts[:_MOST_KEPT]
        similar = good.vectors[firsts] @ good.vectors[firsts].T
        apart = [1 - float((views.vectors @ good.vectors.T).max(1).values.min())]
        if len(firsts) > 1:
            apart.append(1 - float(similar.fill_diagonal_(-1).max(1).values.min()))
        light = torch.cat([good.brightness, views.brightness])
        return cls(
            vectors=[[round(value, 5) for value in row] for row in good.vectors[firsts].tolist()],
            farthest=max(_FAR, _FARTHER * max(apart)),
            light=(float(light.min()), float(light.max())),
            sharpness=float(torch.cat([good.sharpness, views.sharpness]).min()) - _BLUR,
        )

    def relit(self, pixel_values: torch.Tensor, black: torch.Tensor) -> torch.Tensor:
        r"""
        Pictures that are darker or brighter by 0.3 than all references and their views, in the nearest light of these.

        As a longer or shorter exposure would: every pixel is multiplied by the same number, from 0.4 to 2.5.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`):
                Normalised pictures.
            black (`torch.Tensor` of shape `(3,)`):
                What black is after normalisation, `-mean / std`.

        Returns:
            `torch.Tensor` of shape `(batch_size, 3, height, width)`: the others are untouched.
        """
        brightness, level = picture_brightness(pixel_values), black.mean()
        wanted = brightness.clamp(*self.light)
        filled = (pixel_values.abs() > 1e-5).any(1, keepdim=True)  # around a letterboxed picture all is 0
        part = filled.float().mean((1, 2, 3)).clamp(min=1e-3)
        gains = ((wanted / part - level) / (brightness / part - level).clamp(min=1e-3)).clamp(*_GAINS)
        black = black[:, None, None]
        brought = (black + gains[:, None, None, None] * (pixel_values - black)).to(pixel_values)
        other = (wanted - brightness).abs() > _OTHER_LIGHT
        return torch.where(other[:, None, None, None] & filled, brought, pixel_values)

    def doubts(self, traits: Traits, matched: bool = False) -> list[list[str]]:
        r"""
        Why pictures may not be comparable.

        Args:
            traits ([`Traits`]):
                Of the pictures.
            matched (`bool`, defaults to `False`):
                Whether they were compared in the references' light; a greater difference is let pass then.

        Returns:
            `list[list[str]]`: For each picture any of `"unlike"`, `"exposure"`, `"blur"`; empty where there is none.
        """
        good = torch.tensor(self.vectors).to(traits.vectors)
        distances = 1 - (traits.vectors @ unit_length(good).T).max(1).values
        play = _MATCHED_EXPOSURE if matched else _EXPOSURE
        found = []
        for distance, brightness, sharpness in zip(
            distances.tolist(), traits.brightness.tolist(), traits.sharpness.tolist(), strict=True
        ):
            doubts = ["unlike"] * (distance > self.farthest)
            doubts += ["exposure"] * (not self.light[0] - play <= brightness <= self.light[1] + play)
            doubts += ["blur"] * (sharpness < self.sharpness)
            found.append(doubts)
        return found

    def to_json(self) -> str:
        """For the notes of a memory bank."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Comparability":
        """Reads [`Comparability.to_json`] back."""
        row = json.loads(text)
        return cls(row["vectors"], row["farthest"], tuple(row["light"]), row["sharpness"])


__all__ = ["Comparability", "Traits", "picture_brightness", "picture_traits"]
