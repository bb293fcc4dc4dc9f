"""Whether a bundle does what the model does, and how fast, before it goes to the line."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bundle import Bundle, BundleError
from .export import Agreement, compare, example_inputs, map_path
from .runtimes import load_exported

LARGEST_DIFFERENCE = 1e-3
LEAST_AGREEMENT = 0.95
"""Part of the verdicts that a bundle of 8 bits must share with PyTorch, whose map values it cannot reach."""

_CALLS, _WARM_UP = 20, 2


@dataclass(frozen=True)
class Validation:
    """What was measured.

    Args:
        agreement ([`Agreement`]): Maps and verdicts beside PyTorch's.
        seconds (`list[float]`): Of 20 calls with one picture each, sorted.
    """

    agreement: Agreement
    seconds: list[float]


def validate(bundle: Bundle, inspector: Any, pictures: Sequence[Any] | None = None) -> Validation:
    """Runs a bundle and the model it was made of on the same pictures.

    Args:
        bundle ([`Bundle`]): From [`read_bundle`].
        inspector ([`AnomalyInspector`]): With the model of the export; gets the bundle's references.
        pictures (`list`, *optional*): Paths, PIL images or arrays; `None`: two of noise.

    Returns:
        [`Validation`]

    Raises:
        BundleError: If the model is another one, the file cannot be run, its map differs from PyTorch's by more than
            `LARGEST_DIFFERENCE` **or**, with 8 bits, it shares less than `LEAST_AGREEMENT` of the verdicts.
        ImportError: If the runtime is not installed; says how to install it.
        PictureError: If a picture cannot be used; names it.
    """
    made, given = bundle.description.get("model"), inspector.encoder.fingerprint()
    if made != given:
        raise BundleError(
            f"The bundle was made with another model ({made}), not with this one ({given}). Give --model."
        )
    if bundle.references is not None:
        inspector.load_references(bundle.references)
    path, bank = map_path(inspector, bundle.description.get("memory_bank") == "input")
    example, extra = example_inputs(inspector, path, bank)
    run = _loaded(bundle)
    height, width = example.shape[2:]
    noise = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    agreement = compare(inspector, path, run, list(noise) if pictures is None else pictures, extra)
    _refuse_if_far(agreement, bundle.description.get("precision") == "int8")
    return Validation(agreement, _seconds(run, [one.numpy() for one in (example[:1], *extra)]))


def _loaded(bundle: Bundle) -> Callable[..., list[np.ndarray]]:
    try:
        return load_exported(bundle.file)
    except ImportError:
        raise
    except Exception as error:  # of whatever kind the runtime's own are
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise BundleError(f"{str(bundle.file)!r} cannot be run here: {lines[0]}") from error


def _refuse_if_far(agreement: Agreement, int8: bool) -> None:
    if int8:
        if agreement.same_verdicts < LEAST_AGREEMENT * agreement.pictures:
            raise BundleError(
                f"At least {LEAST_AGREEMENT:.0%} of the verdicts must be PyTorch's, got {agreement.same_verdicts} of "
                f"{agreement.pictures}. Export it without --int8."
            )
    elif not agreement.largest_difference <= LARGEST_DIFFERENCE:
        raise BundleError(
            f"The map must be within {LARGEST_DIFFERENCE} of PyTorch's, got a difference of "
            f"{agreement.largest_difference:.2g}. Export it again with the model that is used."
        )


def _seconds(run: Callable[..., Any], arrays: Sequence[np.ndarray]) -> list[float]:
    seconds = []
    for number in range(-_WARM_UP, _CALLS):
        start = time.perf_counter()
        run(*arrays)
        if number >= 0:
            seconds.append(time.perf_counter() - start)
    return sorted(seconds)


__all__ = ["LARGEST_DIFFERENCE", "LEAST_AGREEMENT", "Validation", "validate"]
