"""What a part is: bodies of meshes and materials, built from numbers that a defect may change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .materials import Material
from .meshes import Mesh


@dataclass
class Body:
    """A piece of a part.

    Args:
        name (`str`): Unique in the part.
        mesh ([`Mesh`]): Shape in the part's coordinates, the table at z = 0.
        material (`str`): Name of its material in the part.
        noun (`str`): What it is called ("pin").
        loose (`bool`): It may be missing, doubled, moved, or of another colour, by itself.
        surplus (`tuple[float, float, float]`, *optional*): Where, relative to it, one more would lie; none if `None`.
    """

    name: str
    mesh: Mesh
    material: str
    noun: str = ""
    loose: bool = False
    surplus: tuple[float, float, float] | None = None


@dataclass
class Part:
    """A kind of part with its dimensions fixed.

    Args:
        words (`str`): Name in words ("hexagon bolt").
        numbers (`dict`): Dimensions and lists of features that `build` reads.
        build (`Callable`): From `numbers` to the bodies.
        materials (`dict[str, Material]`): Surfaces by name.
        features (`dict[str, str]`): Lists in `numbers` whose items (`(x, y, size)`) a defect may drop, move or
            resize, with the noun of an item.
        switches (`dict[str, tuple[str, str, str, Callable]]`): Further changes of numbers that are defects: name ->
            (defect type, kind, words, function `(numbers, rng) -> None` that changes numbers in place).
        free (`bool`): It lies in any turn.
        tilt (`tuple[float, float]`): Range of the camera's tilt from the vertical in degrees.
        bends (`str`): Name of the body that bends, or "" if none does.
        fill (`float`): Share of the picture's side that the part takes.
    """

    words: str
    numbers: dict[str, Any]
    build: Callable[[dict[str, Any]], list[Body]]
    materials: dict[str, Material]
    features: dict[str, str] = field(default_factory=dict)
    switches: dict[str, tuple[str, str, str, Callable]] = field(default_factory=dict)
    free: bool = True
    tilt: tuple[float, float] = (0.0, 25.0)
    bends: str = ""
    fill: float = 0.66

    def bodies(self) -> list[Body]:
        """The bodies as designed."""
        return self.build(copy.deepcopy(self.numbers))

    def can_have(self, switch: str, defect_type: str, kind: str, words: str, change: Callable) -> Part:
        """Adds a change of the numbers that is a defect; returns the part."""
        self.switches[switch] = (defect_type, kind, words, change)
        return self
