"""Synthetic anomalies: defects on pictures that have none, with their masks. NumPy and OpenCV, no torch.

A method is any function `method(image, source, rng) -> SyntheticAnomaly`; `image` is the picture to change, `source`
another normal picture to take material from (both `uint8` RGB `(height, width, 3)` with sides of 32 pixels or more;
the source may have another size), `rng` a NumPy generator that decides everything. Methods are pure: the same
arguments give the same result, and they are never modified. Wrong arguments raise `ValueError`, or `TypeError`
for the generator. With a parameter `category` they know the settings and the background of MVTec AD's categories.

| method | what it does |
|---|---|
| `nsa` | a patch of the source, blended in by Poisson's equation; with `compat="original"` as AnomalyGPT was trained |
| `cut_paste` | a rectangle of the picture at another place |
| `cut_paste_scar` | a thin, rotated strip of the picture at another place |
| `perlin_texture` | blobs of Perlin noise covered with a foreign texture |
| `drawn_defect` | a scratch, stain, ... of a renderer |
| `Mixture` | one of several methods, drawn by weight; on the part alone where its `foreground` is given |
"""

import inspect
from collections.abc import Callable, Sequence

import numpy as np

from .anomaly import SyntheticAnomaly, check_inputs, confined, unchanged
from .nsa import NSA_SETTINGS, NSASettings, nsa, nsa_settings
from .pasted import cut_paste, cut_paste_scar, drawn_defect, perlin_texture

# Defects that miss the part are drawn again so often, by each method.
_PLACEMENTS = 50


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
        self,
        image: np.ndarray,
        source: np.ndarray,
        rng: np.random.Generator,
        category: str | None = None,
        foreground: np.ndarray | None = None,
    ) -> SyntheticAnomaly:
        """Makes one anomaly.

        If the drawn method can make nothing that is seen (a patch of black on black), another one is drawn.

        Args:
            image (`np.ndarray` of shape `(height, width, 3)`, `uint8`): the picture to change.
            source (`np.ndarray` of shape `(any, any, 3)`, `uint8`): another normal picture.
            rng (`np.random.Generator`): decides everything that is drawn.
            category (`str`, *optional*): passed on to the methods that take it.
            foreground (`np.ndarray` of shape `(height, width)`, `bool`, *optional*): the pixels of the part; nothing
                is changed beside it, and a defect that lies mostly beside it is drawn again, up to fifty times.

        Returns:
            [`SyntheticAnomaly`]: unchanged and `"good"` if no method of the mixture can make a visible anomaly.

        Raises:
            TypeError: if `rng` is not a Generator.
            ValueError: if a picture is not `uint8` RGB of 32 pixels or more, or the foreground no mask of its size.
        """
        check_inputs(image, source, rng)
        if foreground is not None and (foreground.shape != image.shape[:2] or foreground.dtype != bool):
            raise ValueError(
                f"`foreground` must be a bool mask of shape {image.shape[:2]}, got {foreground.dtype} of shape "
                f"{foreground.shape}. Give the part's pixels in this picture."
            )
        order = rng.choice(len(self.methods), size=np.count_nonzero(self.weights), replace=False, p=self.weights)
        for number in order:
            named = {"category": category} if self._takes_category[number] else {}
            for _ in range(1 if foreground is None else _PLACEMENTS):
                anomaly = self.methods[number](image, source, rng, **named)
                if foreground is not None:
                    anomaly = confined(anomaly, image, foreground)
                if anomaly.is_anomalous:
                    return anomaly
        return unchanged(image)


__all__ = [
    "NSA_SETTINGS",
    "Mixture",
    "NSASettings",
    "SyntheticAnomaly",
    "cut_paste",
    "cut_paste_scar",
    "drawn_defect",
    "nsa",
    "nsa_settings",
    "perlin_texture",
]
