"""Fasteners: bolts, screws, nuts, washers, and a bolted plate."""

from __future__ import annotations

import numpy as np

from .materials import Mark, metal, one_of, plastic
from .meshes import (
    Mesh,
    circle,
    cylinder,
    drilled,
    extrude,
    rectangle,
    regular,
    revolve,
    sphere,
    sweep,
    thread,
    union,
    without,
)
from .parts import Body, Part


def _lying(mesh: Mesh) -> Mesh:
    """A part made upright, lying along x on the table."""
    lain = mesh.turned("y", 90)
    return lain.moved(x=-lain.centre[0], z=-lain.bounds[0, 2])


def _thread_switches(part: Part) -> Part:
    """The thread may be missing on a stretch, or wholly."""

    def stretch(numbers: dict, rng: np.random.Generator) -> None:
        low, high = numbers["thread"]
        length = rng.uniform(0.12, 0.4) * (high - low)
        start = rng.uniform(low + 0.1 * (high - low), high - length)
        numbers["gap"] = (start, start + length)

    def whole(numbers: dict, rng: np.random.Generator) -> None:
        numbers["gap"] = (numbers["thread"][0] - 1, numbers["thread"][1] + 1)

    part.can_have("worn thread", "damaged_thread", "missing", "the thread is missing on a stretch", stretch)
    return part.can_have("no thread", "missing_thread", "missing", "the thread is missing", whole)


def hex_bolt(rng: np.random.Generator) -> Part:
    size = float(rng.choice([5, 6, 8, 10]))
    n = {"d": size, "length": size * rng.uniform(2.8, 5), "pitch": 0.18 * size, "gap": None}
    n["thread"] = (n["length"] * rng.uniform(0.1, 0.5), n["length"])
    finish = one_of(rng, "steel", "zinc", "black", "brass")

    def build(n: dict) -> list[Body]:
        d, (low, high) = n["d"], n["thread"]
        head = extrude(regular(6, 1.65 * d), -0.65 * d, 0, 0.0, 0.09 * d) ^ revolve(
            [(0, 0), (0.93 * d, 0), (0.93 * d, -0.5 * d), (0.78 * d, -0.65 * d), (0, -0.65 * d)], 64
        )
        rod = union([head, cylinder(0.48 * d, -0.1, low), thread(d / 2, low - 0.01, high, n["pitch"], gap=n["gap"])])
        return [Body("bolt", _lying(rod), "metal", "bolt")]

    part = Part("hexagon bolt", n, build, {"metal": metal(finish)}, bends="bolt", fill=0.78, tilt=(0, 15))
    return _thread_switches(part)


def machine_screw(rng: np.random.Generator) -> Part:
    size = float(rng.choice([3, 4, 5, 6]))
    n = {"d": size, "length": size * rng.uniform(2.5, 5), "pitch": 0.2 * size, "gap": None, "drive": 1}
    n["thread"] = (0.3 * size, n["length"])
    shape = one_of(rng, "pan", "countersunk", "socket", "cheese")
    finish = one_of(rng, "steel", "zinc", "black", "brass")

    def screw(n: dict) -> Mesh:
        d, (low, high) = n["d"], n["thread"]
        outline = {
            "pan": [(0, 0), (d, 0), (d, -0.25 * d), (0.8 * d, -0.5 * d), (0.45 * d, -0.62 * d), (0, -0.66 * d)],
            "countersunk": [(0, 0.5 * d), (0.5 * d, 0.5 * d), (d, 0.02 * d), (d, -0.06 * d), (0, -0.06 * d)],
            "socket": [(0, 0), (0.8 * d, 0), (0.8 * d, -0.9 * d), (0.72 * d, -d), (0, -d)],
            "cheese": [(0, 0), (0.85 * d, 0), (0.8 * d, -0.55 * d), (0.7 * d, -0.62 * d), (0, -0.62 * d)],
        }[shape]
        head = revolve(outline, 64)
        top = min(z for _, z in outline)
        if n["drive"]:
            if shape == "socket":
                head = head - extrude(regular(6, 0.85 * d), top - 1, top + 0.5 * d)
            else:
                bars = [rectangle(1.1 * d, 0.22 * d), rectangle(0.22 * d, 1.1 * d)][: 1 if shape == "cheese" else 2]
                head = without(head, [extrude(bar, top - 1, top + 0.3 * d) for bar in bars])
        rod = union([head, cylinder(0.45 * d, -0.01, low + 0.1), thread(d / 2, low, high, n["pitch"], gap=n["gap"])])
        return _lying(rod).turned("y", 12)

    def build(n: dict) -> list[Body]:
        rest = screw(n | {"gap": None}).bounds[0, 2]  # with its thread it touches the table
        return [Body("screw", screw(n).moved(z=-rest), "metal", "screw")]

    part = Part(f"{shape} head screw", n, build, {"metal": metal(finish)}, bends="screw", fill=0.76, tilt=(15, 35))
    return _thread_switches(part)


def hex_nut(rng: np.random.Generator) -> Part:
    size = float(rng.choice([6, 8, 10, 12]))
    n = {"d": size, "thread": (0.0, 0.8 * size), "pitch": 0.17 * size, "gap": None}
    finish, flanged = one_of(rng, "steel", "zinc", "black", "brass"), bool(rng.random() < 0.4)

    def build(n: dict) -> list[Body]:
        d, height = n["d"], 0.8 * n["d"]
        low, high = [(0, 0), (0.84 * d, 0), (0.955 * d, 0.12 * d)], [(0.84 * d, height), (0, height)]
        body = extrude(regular(6, 1.65 * d), 0, height) ^ revolve([*low, (0.955 * d, height - 0.12 * d), *high], 72)
        if flanged:
            body = body + revolve([(0, 0), (1.15 * d, 0), (1.15 * d, 0.1 * d), (0.8 * d, 0.35 * d), (0, 0.35 * d)], 72)
        gap = n["gap"] and tuple(g - 1.0 for g in n["gap"])
        bore = thread(0.5 * d, -1, height + 1.5 * d, n["pitch"], gap=gap)
        top, below = height + 0.01, height - 0.12 * d
        bevel = revolve([(0, top), (0.56 * d, top), (0.44 * d, below), (0, below)], 48)
        return [Body("nut", without(body, [bore, bevel]), "metal", "nut")]

    part = Part("flange nut" if flanged else "hexagon nut", n, build, {"metal": metal(finish)}, fill=0.6)

    def whole(numbers: dict, rng: np.random.Generator) -> None:
        numbers["gap"] = (-5 * size, 9 * size)

    return part.can_have("no thread", "missing_thread", "missing", "the thread of the nut is missing", whole)


def washer(rng: np.random.Generator) -> Part:
    size = float(rng.choice([6, 8, 10, 12]))
    shape = one_of(rng, "plain", "toothed", "spring", "fender")
    n = {"d": size, "outer": size * (1.6 if shape == "fender" else 1.05), "teeth": 16, "gone": [], "split": 14.0}
    finish = one_of(rng, "steel", "zinc", "copper", "brass")

    def build(n: dict) -> list[Body]:
        d, outer = n["d"], n["outer"]
        disc = drilled(circle(outer, sides=96), [(0, 0, 0.55 * d)])
        if shape in ("plain", "fender"):
            return [Body("washer", extrude(disc, 0, 0.16 * d, 0.03 * d, 0.03 * d), "metal", "washer")]
        if shape == "spring":
            angles = np.radians(np.linspace(n["split"] / 2, 360 - n["split"] / 2, 90))
            middle, wire = 0.8 * d, 0.2 * d
            path = np.stack([middle * np.cos(angles), middle * np.sin(angles), wire + 0.1 * d * angles / 6.3], 1)
            return [Body("washer", sweep(path, wire, 16, 0.8), "metal", "washer")]
        ring, teeth = extrude(drilled(circle(0.78 * d, sides=96), [(0, 0, 0.55 * d)]), 0, 0.12 * d), []
        for index in range(n["teeth"]):
            if index not in n["gone"]:
                tooth = extrude(rectangle(0.34 * d, 0.2 * d), 0, 0.12 * d, 0.02 * d).turned("x", 14).moved(x=0.9 * d)
                teeth.append(tooth.turned("z", index * 360 / n["teeth"]))
        return [Body("washer", union([ring, *teeth]).moved(z=0.05 * d), "metal", "washer")]

    part = Part(f"{shape} washer", n, build, {"metal": metal(finish, one_of(rng, "plain", "turned"))}, fill=0.58)
    if shape == "toothed":

        def lose(numbers: dict, rng: np.random.Generator) -> None:
            numbers["gone"] = rng.choice(16, int(rng.integers(1, 4)), replace=False).tolist()

        part.can_have("tooth", "missing_tooth", "missing", "teeth of the washer are missing", lose)
    return part


def wing_nut(rng: np.random.Generator) -> Part:
    size = float(rng.choice([5, 6, 8]))
    n = {"d": size, "wings": [0.0, 180.0], "length": float(rng.uniform(1.5, 2.0))}
    finish = one_of(rng, "zinc", "brass", "black")

    def build(n: dict) -> list[Body]:
        d = n["d"]
        hub = revolve([(0, 0), (0.9 * d, 0), (0.75 * d, 0.9 * d), (0.65 * d, d), (0, d)], 64)
        wings = []
        for angle in n["wings"]:
            wing = extrude(rectangle(n["length"] * d, 0.9 * d, 0.4 * d), -0.13 * d, 0.13 * d, 0.06 * d, 0.06 * d)
            wing = wing.turned("x", 90).turned("y", -24).moved(x=1.25 * d, z=0.95 * d)
            wings.append(wing.turned("z", angle))
        bore = thread(0.5 * d, -1, 3 * d, 0.17 * d)
        return [Body("nut", without(union([hub, *wings]), [bore]), "metal", "wing nut")]

    def lose(numbers: dict, rng: np.random.Generator) -> None:
        numbers["wings"] = [float(rng.choice(numbers["wings"]))]

    part = Part("wing nut", n, build, {"metal": metal(finish, "cast")}, fill=0.7, tilt=(0, 30))
    return part.can_have("wing", "missing_wing", "missing", "a wing of the nut is missing", lose)


def riveted_seam(rng: np.random.Generator) -> Part:
    count, size = int(rng.integers(3, 6)), float(rng.uniform(3, 5))
    pitch = 3.4 * size
    n = {"d": size, "count": count, "pitch": pitch}
    finish = one_of(rng, "aluminium", "copper", "steel")
    paint = metal("aluminium", "brushed") if rng.random() < 0.5 else plastic((0.3, 0.33, 0.36), 0.4)

    def build(n: dict) -> list[Body]:
        d, width = n["d"], n["pitch"] * (n["count"] - 1) + 3.2 * n["d"]
        plate = extrude(rectangle(width, 2.4 * n["pitch"], d), 0, 0.5 * d, 0.08 * d)
        seam = extrude(rectangle(width, 1.15 * n["pitch"], 0.1 * d), 0.5 * d, 0.9 * d, 0.06 * d)
        seam = seam.moved(y=-0.6 * n["pitch"])
        bodies = [Body("plate", plate, "plate", "plate"), Body("upper plate", seam, "plate", "plate")]
        head = sphere(0.95 * d, 20) ^ cylinder(2 * d, 0.35 * d, d)
        for k in range(n["count"]):
            x = (k - (n["count"] - 1) / 2) * n["pitch"]
            place = head.moved(x, -0.6 * n["pitch"], 0.5 * d)
            bodies.append(Body(f"rivet {k + 1}", place, "rivet", "rivet", True, (0.0, 1.1 * n["pitch"], -0.38 * d)))
        return bodies

    return Part("riveted seam", n, build, {"plate": paint, "rivet": metal(finish)}, free=False, fill=0.82)


def bolted_plate(rng: np.random.Generator) -> Part:
    width, height, d = float(rng.uniform(50, 80)), float(rng.uniform(40, 60)), float(rng.choice([5, 6, 8]))
    x, y = width / 2 - 1.6 * d, height / 2 - 1.6 * d
    n = {"d": d, "size": (width, height)}
    n["bolts"] = [(sx * x, sy * y, float(rng.uniform(0, 60))) for sx in (-1, 1) for sy in (-1, 1)]
    n["bore"] = float(rng.uniform(0.16, 0.26)) * height
    plate = metal("aluminium", "brushed") if rng.random() < 0.5 else plastic((0.05, 0.12, 0.25), 0.35)
    text = f"PN {rng.integers(1000, 9999)}-{rng.choice(list('ABC'))}"
    mark = Mark("text", 0, -n["bore"] - 0.08 * height, 0.075 * height, text)
    bolt = metal(one_of(rng, "zinc", "black", "steel"))
    colours = {"plate": plate.with_marks(mark), "bolt": bolt, "washer": metal("steel", "turned")}

    def build(n: dict) -> list[Body]:
        d = n["d"]
        outline = drilled(rectangle(*n["size"], d), [(0, 0, n["bore"])])
        bodies = [Body("plate", extrude(outline, 0, 0.9 * d, 0.12 * d), "plate", "plate")]
        for k, (x, y, turn) in enumerate(n["bolts"]):
            ring = extrude(drilled(circle(1.05 * d), [(0, 0, 0.52 * d)]), 0.9 * d, 1.05 * d, 0.03 * d).moved(x, y)
            head = extrude(regular(6, 1.65 * d), 1.05 * d, 1.7 * d) ^ revolve(
                [(0, 0), (0.95 * d, 0), (0.95 * d, 1.58 * d), (0.8 * d, 1.7 * d), (0, 1.7 * d)], 64
            )
            bodies.append(Body(f"washer {k + 1}", ring, "washer", "washer", True))
            bodies.append(Body(f"bolt {k + 1}", head.turned("z", turn).moved(x, y), "bolt", "bolt", True))
        return bodies

    return Part("plate with four bolts", n, build, colours, free=False, fill=0.8, tilt=(0, 20))


KINDS = {
    make.__name__: make
    for make in (
        hex_bolt, machine_screw, hex_nut, washer, wing_nut, riveted_seam, bolted_plate,
    )
}  # fmt: skip
