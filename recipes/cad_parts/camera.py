"""From linear light to the file of an inspection camera: exposure, lens, sensor noise, tone curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter


@dataclass(frozen=True)
class Lens:
    """How one picture was taken.

    Args:
        exposure (`float`): Factor of the light.
        defocus (`float`): Deviation of the blur in pixels.
        vignetting (`float`): Loss of light in the corners, 0 to 1.
        noise (`float`): Deviation of the noise at mid grey, of 1.
        mono (`bool`): The camera sees grey.
        seed (`int`): Seed of the noise.
    """

    exposure: float
    defocus: float
    vignetting: float
    noise: float
    mono: bool
    seed: int


def draw_lens(rng: np.random.Generator, exposure: float, mono: bool) -> Lens:
    """Camera of one picture; some are slightly out of focus."""
    return Lens(
        exposure=exposure * float(np.exp(rng.normal(0, 0.04))),
        defocus=float(rng.choice([0.35, 0.55, 0.9], p=[0.5, 0.35, 0.15]) * rng.uniform(0.8, 1.2)),
        vignetting=float(rng.uniform(0.03, 0.14)),
        noise=float(rng.uniform(0.003, 0.011)),
        mono=mono,
        seed=int(rng.integers(2**31)),
    )


def exposure_for(linear: np.ndarray) -> float:
    """Factor that brings a picture's bright parts near white without losing its middle."""
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    return float(min(0.78 / max(np.percentile(luminance, 97.5), 1e-4), 0.3 / max(float(luminance.mean()), 1e-4)))


def develop(linear: np.ndarray, lens: Lens) -> np.ndarray:
    """Make the 8-bit picture.

    Args:
        linear (`np.ndarray` of shape `(height, width, 3)`): Linear light.
        lens ([`Lens`]): How it is taken.

    Returns:
        `np.ndarray` of shape `(height, width, 3)`, uint8: The picture.
    """
    height, width = linear.shape[:2]
    light = np.maximum(linear * lens.exposure, 0)
    light = np.minimum(light, 4.0)
    light = gaussian_filter(light, (lens.defocus, lens.defocus, 0))
    y, x = np.mgrid[:height, :width]
    radius = np.hypot((x - width / 2) / (width / 2), (y - height / 2) / (height / 2))
    light = light * (1 - lens.vignetting * np.clip(radius, 0, 1.5) ** 2 / 2)[..., None]
    light = np.where(light > 0.8, 0.8 + 0.2 * np.tanh((light - 0.8) / 0.45), light)  # the sensor saturates softly
    if lens.mono:
        light = np.repeat((light @ np.array([0.25, 0.6, 0.15]))[..., None], 3, 2)
    rng = np.random.default_rng(lens.seed)
    shape = light.shape if not lens.mono else (*light.shape[:2], 1)
    light = light + rng.normal(0, 1, shape) * lens.noise * np.sqrt(0.15 + np.clip(light, 0, 1))
    light = np.clip(light, 0, 1)
    tone = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(tone * 255).astype(np.uint8)
