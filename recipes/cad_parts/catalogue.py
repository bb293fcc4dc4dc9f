"""All parts: every kind, several times with other dimensions."""

from __future__ import annotations

import functools

import numpy as np

from . import kinds_fasteners, kinds_goods, kinds_machine
from .parts import Part

KINDS = {**kinds_fasteners.KINDS, **kinds_machine.KINDS, **kinds_goods.KINDS}
"""Kinds of parts by name."""

VARIANTS = 3
PART_NAMES = tuple(f"{kind}_{number}" for kind in KINDS for number in range(1, VARIANTS + 1))


@functools.cache
def make_part(name: str) -> Part:
    """A part by its name, always with the same dimensions."""
    kind, _, number = name.rpartition("_")
    rng = np.random.default_rng([sum(map(ord, kind)) * 131 + len(kind), int(number)])
    return KINDS[kind](rng)
