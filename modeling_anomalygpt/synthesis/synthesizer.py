"""Synthetic anomalies: made defects on pictures without any, with their masks. NumPy and OpenCV, no torch.

A method is any function `method(image, source, rng) -> SyntheticAnomaly`; `image` is the picture to change, `source`
another normal picture to take material from (both `uint8` RGB of any size from 32 pixels on), `rng` a NumPy generator.
Methods are pure: the same arguments give the same result, and the arguments are never modified.

| method | what is made |
|---|---|
| `nsa` | a patch of the source, blended in by Poisson's equation; with `compat="original"` as AnomalyGPT was trained |
| `cut_paste` | a rectangle of the picture at another place |
| `cut_paste_scar` | a thin, rotated strip of the picture at another place |
| `perlin_texture` | blobs of Perlin noise covered with a foreign texture |
| `Mixture` | one of several methods, drawn by weight |
"""

import inspect
from collections.abc import Callable, Sequence

import numpy as np

from .anomaly import SyntheticAnomaly, check_inputs, unchanged
from .nsa import NSA_SETTINGS, NSASettings, nsa, nsa_settings
from .pasted import cut_paste, cut_paste_scar, perlin_texture


class Mixture:
    """One of several synthesis methods, drawn by weight for each picture; itself a method.

    Args:
        methods (`Sequence[Callable]`): functions `(image, source, rng) -> SyntheticAnomaly`. Those with a parameter
            `category` are given the category too. Options are bound with `functools.partial`.
        weights (`Sequence[float]`, *optional*): one a method, not negative; their sum need not be 1. Equal by default.

    Raises:
        ValueError: if there is no method, or the weights do not fit the methods.
        TypeError: if a method cannot be called.

    Example:
        >>> mixture = Mixture([nsa, cut_paste, perlin_texture], weights=[2, 1, 1])
        >>> picture, other = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
        >>> mixture(picture, other, np.random.default_rng(0), category="carpet").is_anomalous
        True
    """

    def __init__(self, methods: Sequence[Callable[..., SyntheticAnomaly]], weights: Sequence[float] | None = None):
        self.methods = tuple(methods)
        if not self.methods:
            raise ValueError("`methods` must hold at least one method, got none. Pass for example [nsa, cut_paste].")
        for method in self.methods:
            if not callable(method):
                raise TypeError(
                    f"`methods` must hold functions (image, source, rng) -> SyntheticAnomaly, got {method!r}. "
                    "Pass the function itself, not its name."
                )
        share = np.ones(len(self.methods)) if weights is None else np.asarray(weights, dtype=float)
        fits = share.shape == (len(self.methods),) and np.isfinite(share).all() and (share >= 0).all()
        if not fits or share.sum() == 0:
            raise ValueError(
                f"`weights` must be {len(self.methods)} numbers, none negative and not all zero, got {weights}. "
                "Give one for each method."
            )
        self.weights = tuple(share / share.sum())
        self._takes_category = tuple("category" in inspect.signature(method).parameters for method in self.methods)

    def __call__(
        self, image: np.ndarray, source: np.ndarray, rng: np.random.Generator, category: str | None = None
    ) -> SyntheticAnomaly:
        """Makes one anomaly.

        If the drawn method can make nothing that is seen (a patch of black on black), another one is drawn.

        Args:
            image (`np.ndarray` of shape `(height, width, 3)`, `uint8`): the picture to change.
            source (`np.ndarray` of shape `(any, any, 3)`, `uint8`): another normal picture.
            rng (`np.random.Generator`): decides everything that is drawn.
            category (`str`, *optional*): passed on to the methods that take it.

        Returns:
            [`SyntheticAnomaly`]: unchanged and `"good"` if no method of the mixture can make a visible anomaly.

        Raises:
            TypeError: if `rng` is not a Generator.
            ValueError: if a picture is not `uint8` RGB of at least 32 pixels.
        """
        check_inputs(image, source, rng)
        order = rng.choice(len(self.methods), size=np.count_nonzero(self.weights), replace=False, p=self.weights)
        for number in order:
            named = {"category": category} if self._takes_category[number] else {}
            made = self.methods[number](image, source, rng, **named)
            if made.is_anomalous:
                return made
        return unchanged(image)


__all__ = [
    "NSA_SETTINGS",
    "Mixture",
    "NSASettings",
    "SyntheticAnomaly",
    "cut_paste",
    "cut_paste_scar",
    "nsa",
    "nsa_settings",
    "perlin_texture",
]
