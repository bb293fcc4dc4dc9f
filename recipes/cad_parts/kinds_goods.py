"""Sheets, electrical parts, packaging and goods."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from shapely.affinity import translate
from shapely.geometry import LineString, Polygon

from .materials import CARD, CERAMIC, GLASS, PAPER, WOOD, Mark, Material, metal, one_of, paint, plastic
from .meshes import (
    Mesh,
    block,
    circle,
    cylinder,
    drilled,
    extrude,
    rectangle,
    regular,
    revolve,
    ring_of,
    slot,
    sphere,
    sweep,
    together,
    union,
    without,
)
from .parts import Body, Part


def _grid(columns: int, rows: int, pitch: float) -> list[tuple[float, float]]:
    """Places about the origin, row by row."""
    xs, ys = ([(k - (count - 1) / 2) * pitch for k in range(count)] for count in (columns, rows))
    return [(x, y) for y in ys for x in xs]


def perforated_sheet(rng: np.random.Generator) -> Part:
    columns, rows, pitch = int(rng.integers(6, 10)), int(rng.integers(5, 8)), 8.0
    size = float(rng.uniform(1.8, 2.9))
    odd = 0.5 if rng.random() < 0.5 else 0.0
    holes = [
        ((c - (columns - 1) / 2 + (odd * (r % 2) - odd / 2)) * pitch, (r - (rows - 1) / 2) * pitch, size)
        for r in range(rows)
        for c in range(columns)
    ]
    n = {"size": (columns * pitch + 8, rows * pitch + 6), "holes": holes}

    def build(n: dict) -> list[Body]:
        outline = drilled(rectangle(*n["size"], 2), [h[:3] for h in n["holes"]])
        return [Body("sheet", extrude(outline, 0, 1.5, 0.25), "metal", "sheet")]

    if rng.random() < 0.7:
        material = metal(one_of(rng, "steel", "aluminium", "brass"), "brushed")
    else:
        material = plastic(paint(rng, "white", "black", "grey"), 0.35)
    features = {"holes": "hole"}
    return Part("perforated sheet", n, build, {"metal": material}, features, free=False, fill=0.84, tilt=(0, 12))


def stamped_plate(rng: np.random.Generator) -> Part:
    length, w = float(rng.uniform(50, 70)), float(rng.uniform(25, 38))
    holes = [(-0.36 * length, 0.0, 0.13 * w), (0.36 * length, 0.0, 0.13 * w), (0.0, 0.25 * w, 0.08 * w)]
    slots = [(-0.12 * length, -0.12 * w, 0.09 * w), (0.12 * length, -0.12 * w, 0.09 * w)]
    n = {"size": (length, w), "holes": holes, "slots": slots}
    notch = float(rng.uniform(0.12, 0.22))

    def build(n: dict) -> list[Body]:
        length, w = n["size"]
        outline = rectangle(length, w, 0.22 * w)
        for x, y in ((0, 0.55 * w), (0.2 * length, -0.55 * w)):
            outline = outline.difference(circle(notch * w, x, y))
        outline = drilled(outline, [h[:3] for h in n["holes"]])
        for x, y, s in n["slots"]:
            outline = outline.difference(slot(4 * s, 1.4 * s, x, y, 90))
        return [Body("plate", extrude(outline, 0, 2, 0.3), "metal", "plate")]

    material = metal(one_of(rng, "steel", "zinc", "copper", "brass"), one_of(rng, "plain", "brushed"))
    if rng.random() < 0.5:
        text = f"{rng.integers(10, 99)} {one_of(rng, 'ML', 'KX', 'ST')} {rng.integers(100, 999)}"
        material = material.with_marks(Mark("text", 0.0, 0.05 * w, 0.12 * w, text, (0.12, 0.12, 0.12)))
    features = {"holes": "hole", "slots": "slot"}
    return Part("stamped plate", n, build, {"metal": material}, features, fill=0.8, tilt=(0, 12))


def pin_connector(rng: np.random.Generator) -> Part:
    columns, rows, pitch = int(rng.integers(4, 9)), int(rng.integers(1, 3)), 2.54
    n = {"grid": (columns, rows)}

    def build(n: dict) -> list[Body]:
        columns, rows = n["grid"]
        w, h = columns * pitch + 3, rows * pitch + 3
        floor = extrude(rectangle(w, h, 0.6), 0, 3, 0.2)
        key = translate(rectangle(3.2, 2.4), 0, -h / 2)
        ring = rectangle(w, h, 0.6).difference(rectangle(w - 2, h - 2)).difference(key)
        bodies = [Body("shell", union([floor, extrude(ring, 0, 7, 0.2)]), "shell", "shell")]
        tip = union([block((0.64, 0.64, 6.2), chamfer=0.15)]).moved(z=3)
        for k, (x, y) in enumerate(_grid(columns, rows, pitch)):
            bodies.append(Body(f"pin {k + 1}", tip.scaled((1.25, 1.25, 1)).moved(x, y), "pin", "pin", True))
        return bodies

    materials = {
        "shell": plastic(paint(rng, "black", "white", "green", "blue", "beige"), 0.4),
        "pin": metal(one_of(rng, "gold", "zinc")),
    }
    return Part("pin connector", n, build, materials, free=False, fill=0.84, tilt=(8, 30), bends="*")


def _places(rng: np.random.Generator, w: float, h: float) -> list[tuple[str, float, float, float]]:
    """Components of a board: what, where, turn; none overlaps another."""
    taken: list[tuple[float, float, float]] = []
    items: list[tuple[str, float, float, float]] = []
    kinds = (("chip", 6.0, 2), ("capacitor", 3.6, 3), ("resistor", 2.3, 9), ("connector", 5.5, 1), ("led", 1.8, 3))
    for what, radius, count in kinds:
        for _ in range(count):
            for _ in range(60):
                x, y = (float(rng.uniform(-side / 2 + radius + 1, side / 2 - radius - 1)) for side in (w, h))
                if all(np.hypot(x - a, y - b) > radius + c for a, b, c in taken):
                    taken.append((x, y, radius))
                    items.append((what, x, y, float(rng.choice([0, 90]))))
                    break
    return items


def circuit_board(rng: np.random.Generator) -> Part:
    w, h = float(rng.uniform(50, 62)), float(rng.uniform(36, 46))
    items = _places(rng, w, h)
    n = {"size": (w, h), "items": items}

    def build(n: dict) -> list[Body]:
        w, h = n["size"]
        corners = [(sx * (w / 2 - 2.6), sy * (h / 2 - 2.6), 1.4) for sx in (-1, 1) for sy in (-1, 1)]
        bodies = [Body("board", extrude(drilled(rectangle(w, h, 1.5), corners), 0, 1.6), "board", "board")]
        for k, (what, x, y, turn) in enumerate(n["items"]):
            for name, mesh, material in _component(what):
                own, mesh = name == "body", mesh.turned("z", turn).moved(x, y, 1.6)
                title = f"{what} {k + 1}" if own else f"{what} {k + 1} {name}"
                bodies.append(Body(title, mesh, material, what if own else "", own))
        return bodies

    mask = paint(rng, "dark green", "green", "blue", "black", "red")
    named = [(what, x, y, f"{what[0].upper()}{k}") for k, (what, x, y, _) in enumerate(items) if what != "led"]
    marks = [Mark("text", x, y + 4.2, 1.5, text, (0.75, 0.75, 0.72)) for _, x, y, text in named[:10]]
    track = tuple(1.6 * np.asarray(mask) + 0.04)
    for _ in range(9):
        x, y = float(rng.uniform(-0.4, 0.4) * w), float(rng.uniform(-0.4, 0.4) * h)
        turn, length = float(rng.choice([0, 45, 90])), float(rng.uniform(8, 22))
        marks.append(Mark("line", x, y, 0.5, "", track, turn, length))
    chips = [(k, x, y, turn) for k, (what, x, y, turn) in enumerate(items) if what == "chip"]
    names = [Mark("text", x, y, 1.6, f"U{k}", (0.5, 0.5, 0.5), turn) for k, x, y, turn in chips]
    materials = {
        "board": plastic(mask, 0.35).with_marks(*marks),
        "black": plastic((0.03, 0.03, 0.032), 0.45).with_marks(*names),
        "metal": metal("zinc"),
        "can": metal("aluminium"),
        "ceramic": plastic((0.5, 0.36, 0.2), 0.5),
        "white": plastic((0.75, 0.75, 0.72), 0.4),
        "red": plastic((0.6, 0.05, 0.04), 0.2),
    }
    return Part("circuit board", n, build, materials, free=False, fill=0.86, tilt=(0, 22))


def _component(what: str) -> list[tuple[str, Mesh, str]]:
    """Meshes of a component about the origin."""
    if what == "chip":
        legs = [block((0.5, 1.6, 0.5)).moved(x=(k - 2.5) * 1.27, y=s * 3.4) for k in range(6) for s in (-1, 1)]
        return [("body", block((8.2, 5.6, 1.6), 0.2, 0.25, 0.2), "black"), ("legs", together(legs), "metal")]
    if what == "capacitor":
        profile = [(0, 0), (2.8, 0), (2.8, 1.0), (2.65, 1.3), (2.8, 1.6), (2.8, 5), (2.5, 5.3), (0, 5.3)]
        return [("body", revolve(profile, 48), "can")]
    if what == "resistor":
        ends = [block((0.6, 1.7, 0.85)).moved(x=s * 1.35) for s in (-1, 1)]
        return [("body", block((2.1, 1.6, 0.8)), "ceramic"), ("ends", together(ends), "metal")]
    if what == "led":
        return [("body", block((2.2, 1.6, 1.0), 0.3, 0.2), "red")]
    return [("body", without(block((9, 5.5, 5), 0.3, 0.3), [block((7.4, 3.8, 9), bottom=1.2)]), "white")]


def cable_end(rng: np.random.Generator) -> Part:
    r, shape = float(rng.uniform(1.6, 2.4)), one_of(rng, "ring", "fork", "ferrule")
    n = {"r": r, "strip": 1.0, "sleeve": 1}
    bow = float(rng.uniform(-0.15, 0.15))

    def build(n: dict) -> list[Body]:
        r = n["r"]
        x = np.linspace(-18 * r, -4 * r, 40)
        path = np.stack([x, bow * (x + 4 * r) ** 2 / (6 * r), 0 * x + 1.2 * r], 1)
        bodies = [Body("cable", sweep(path, 1.15 * r, 20), "jacket", "cable")]
        path = np.stack([np.linspace(-4.2 * r, -1 * r, 8), np.zeros(8), np.full(8, 1.2 * r)], 1)
        bodies.append(Body("strands", sweep(path, 0.75 * r, 16), "copper", "wire"))
        if n["sleeve"]:
            tube = extrude(drilled(circle(1.5 * r), [(0, 0, 1.2 * r)]), 0, 5 * r, 0.1 * r)
            tube = tube.turned("y", 90).moved(-6.5 * r, 0, 1.5 * r)
            bodies.append(Body("sleeve", tube, "sleeve", "sleeve", True))
        if shape == "ferrule":
            lug = extrude(circle(0.95 * r), 0, 6 * r, 0.1 * r).turned("y", 90).moved(-1.6 * r, 0, 1.2 * r)
        else:
            eye = circle(3 * r, 5 * r, 0).union(translate(rectangle(6 * r, 2 * r), 1.5 * r, 0))
            eye = drilled(eye, [(5 * r, 0, 1.5 * r)])
            if shape == "fork":
                eye = eye.difference(translate(rectangle(4 * r, 2.4 * r), 7 * r, 0))
            barrel = extrude(circle(1.1 * r), 0, 3 * r).turned("y", 90).moved(-1.6 * r, 0, 1.2 * r)
            lug = union([extrude(eye, 0.9 * r, 1.4 * r, 0.08 * r), barrel])
        bodies.append(Body("lug", lug, "lug", "terminal", True))
        return [replace(b, mesh=b.mesh.moved(x=6 * r)) for b in bodies]

    materials = {
        "jacket": plastic(paint(rng, "red", "black", "blue", "yellow", "grey"), 0.45),
        "copper": metal("copper"),
        "sleeve": plastic(paint(rng, "red", "blue", "yellow", "black"), 0.35),
        "lug": metal(one_of(rng, "zinc", "copper", "gold")),
    }
    words = f"cable end with {shape}" + (" terminal" if shape != "ferrule" else "")
    return Part(words, n, build, materials, free=bool(rng.random() < 0.5), fill=0.8, bends="lug")


def glass_fuse(rng: np.random.Generator) -> Part:
    r, length = 2.6, float(rng.uniform(18, 26))
    n = {"r": r, "length": length, "wire": 1}

    def build(n: dict) -> list[Body]:
        r, length = n["r"], n["length"]
        end = length / 2 - 4
        tube = revolve([(0.0, -end), (0.94 * r, -end), (0.94 * r, end), (0.0, end)], 48).turned("y", 90).moved(z=r)
        bodies, cap = [Body("tube", tube, "glass", "tube")], [(0, 0), (0.85 * r, 0), (r, 0.5), (r, 5.2), (0, 5.2)]
        for k, s in ((1, 1), (2, -1)):
            mesh = revolve(cap, 48).turned("y", 90 * s).moved(x=-s * length / 2, z=r)
            bodies.append(Body(f"cap {k}", mesh, "cap", "cap", True))
        x = np.linspace(-length / 2 + 3, length / 2 - 3, 30)
        pieces = {"wire": x} if n["wire"] else {"wire 1": x[:12], "wire 2": x[20:]}
        for name, part in pieces.items():
            path = np.stack([part, 0.25 * r * np.sin(part / 3), r + 0 * part], 1)
            bodies.append(Body(name, sweep(path, 0.17 * r, 8), "wire", "wire"))
        return bodies

    materials = {"glass": GLASS, "cap": metal(one_of(rng, "zinc", "brass")), "wire": metal("copper")}
    part = Part("glass fuse", n, build, materials, free=bool(rng.random() < 0.4), fill=0.76)
    words = "the wire of the fuse is broken"
    return part.can_have("wire", "broken_wire", "broken", words, lambda m, r: m.update(wire=0))


def terminal_block(rng: np.random.Generator) -> Part:
    count = int(rng.integers(3, 6))
    n = {"count": count}
    turns = rng.uniform(0, 180, count).tolist()

    def build(n: dict) -> list[Body]:
        pitch, count = 8.0, n["count"]
        w = pitch * count
        body = block((w, 16, 12), 0.8, 0.5)
        wells = [cylinder(2.8, 3, 20).moved((k - (count - 1) / 2) * pitch, -2) for k in range(count)]
        mouths = [block((4.6, 6, 4.6)).moved((k - (count - 1) / 2) * pitch, 7, 3) for k in range(count)]
        grooves = [block((0.7, 30, 5), bottom=10.5).moved(x=(k - count / 2 + 1) * pitch) for k in range(count - 1)]
        bodies = [Body("block", without(body, [*wells, *mouths, *grooves]), "shell", "block")]
        for k in range(count):
            screw = cylinder(2.5, 2.9, 9.2, 0.35, 32) - extrude(rectangle(6, 0.8), 8.2, 12)
            screw = screw.turned("z", turns[k]).moved((k - (count - 1) / 2) * pitch, -2)
            bodies.append(Body(f"screw {k + 1}", screw, "screw", "screw", True))
        return bodies

    marks = [Mark("text", (k - (count - 1) / 2) * 8.0, 5.6, 2.0, f"{k + 1}") for k in range(count)]
    colour = paint(rng, "grey", "white", "light blue", "orange", "green", "beige")
    materials = {"shell": plastic(colour, 0.4).with_marks(*marks), "screw": metal("zinc")}
    return Part("terminal block", n, build, materials, free=False, fill=0.82, tilt=(0, 28))


def bottle_cap(rng: np.random.Generator) -> Part:
    r, ribs = float(rng.uniform(13, 20)), int(rng.choice([36, 48, 60]))
    n = {"r": r, "ribs": ribs}

    def build(n: dict) -> list[Body]:
        r = n["r"]
        angles = np.arange(n["ribs"] * 4) * 2 * np.pi / (n["ribs"] * 4)
        radius = r * (1 - 0.028 * (np.arange(len(angles)) % 4 < 2))
        outline = Polygon(np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1))
        skirt = extrude(outline, 0, 0.62 * r, 0.05 * r)
        top = revolve([(0, 0.55 * r), (0.93 * r, 0.55 * r), (0.93 * r, 0.66 * r), (0.87 * r, 0.71 * r), (0, 0.71 * r)])
        band = revolve([(0, -0.02), (1.03 * r, -0.02), (1.03 * r, 0.12 * r), (0, 0.12 * r)]).moved(z=0.02)
        return [Body("cap", union([skirt, top, band]), "cap", "cap")]

    text = one_of(rng, "AQUA", "NOVA", "PURE", "ORIS", "SOLE")
    ink = (0.8, 0.8, 0.78)
    colour = paint(rng, "red", "blue", "green", "orange", "black", "white", "violet")
    if np.mean(colour) > 0.5:
        ink = (0.05, 0.1, 0.4)
    marks = [Mark("text", 0, 0, 0.34 * r, text, ink), Mark("ring", 0, 0, 1.55 * r, "", ink)]
    if rng.random() < 0.5:
        marks.append(Mark("text", 0, -0.42 * r, 0.16 * r, f"L{rng.integers(1000, 9999)}", ink))
    cap, free = plastic(colour, 0.35).with_marks(*marks), bool(rng.random() < 0.6)
    return Part("bottle cap", n, build, {"cap": cap}, free=free, fill=0.62, tilt=(0, 25))


def bottle(rng: np.random.Generator) -> Part:
    r, h = float(rng.uniform(11, 15)), float(rng.uniform(48, 62))
    n = {"r": r, "h": h, "label": 0.0, "cap": 0.0}

    def build(n: dict) -> list[Body]:
        r, h = n["r"], n["h"]
        profile = [(0, 0), (0.9 * r, 0), (r, 0.08 * r), (r, 0.66 * h), (0.93 * r, 0.72 * h), (0.5 * r, 0.82 * h)]
        body = revolve([*profile, (0.45 * r, 0.86 * h), (0.45 * r, 0.95 * h), (0, 0.95 * h)], 96)
        cap = revolve([(0, 0.87 * h), (0.58 * r, 0.87 * h), (0.58 * r, 0.985 * h), (0.53 * r, h), (0, h)], 64)
        profile = [(0.96 * r, 0.16 * h), (1.012 * r, 0.16 * h), (1.012 * r, 0.58 * h), (0.96 * r, 0.58 * h)]
        label = revolve(profile, 96).moved(z=n["label"])
        lay = [
            Body("bottle", body, "body", "bottle"),
            Body("label", label, "label", "label"),
            Body("cap", cap.moved(z=n["cap"]), "cap", "cap", True),
        ]
        return [replace(b, mesh=b.mesh.turned("y", 90).moved(x=-h / 2, z=r)) for b in lay]

    ink = paint(rng, "blue", "red", "dark green", "black")
    x0 = -h / 2 + 0.37 * h
    marks = [
        Mark("text", x0, 0.25 * r, 0.3 * r, one_of(rng, "VITAL", "CLEAN", "FRESH", "MEDI"), ink),
        Mark("field", x0, -0.1 * r, 0.1 * r, "", ink, 0, 0.32 * h),
        Mark("text", x0, -0.35 * r, 0.15 * r, f"LOT {rng.integers(10000, 99999)}", (0.05, 0.05, 0.05)),
        Mark("text", x0, 0.58 * r, 0.13 * r, f"{rng.choice([50, 75, 100])} ml", (0.05, 0.05, 0.05)),
    ]
    body = Material(paint(rng, "white", "brown", "dark green", "light blue", "beige"), 0, 0.25)
    materials = {
        "body": body,
        "label": PAPER.with_marks(*marks),
        "cap": plastic(paint(rng, "white", "black", "blue", "red"), 0.35),
    }
    part = Part("bottle with label", n, build, materials, free=False, fill=0.84, tilt=(0, 15))

    def shift(numbers: dict, rng: np.random.Generator) -> None:
        numbers["label"] = float(rng.choice([-1, 1]) * rng.uniform(0.06, 0.12)) * h

    def lift(numbers: dict, rng: np.random.Generator) -> None:
        numbers["cap"] = float(rng.uniform(0.03, 0.08)) * h

    part.can_have("label", "misplaced_label", "misplaced", "the label sits too high or too low", shift)
    return part.can_have("cap", "unseated_cap", "misplaced", "the cap is not fully seated", lift)


def blister_pack(rng: np.random.Generator) -> Part:
    columns, rows, pitch = int(rng.integers(4, 6)), int(rng.integers(2, 4)), 14.0
    n = {"grid": (columns, rows)}
    shape = one_of(rng, "round", "oblong")

    def build(n: dict) -> list[Body]:
        columns, rows = n["grid"]
        w, h = columns * pitch + 4, rows * pitch + 4
        bodies = [Body("foil", extrude(rectangle(w, h, 4), 0, 0.6), "foil", "foil")]
        pill = revolve([(0, 0), (3.4, 0), (4.1, 0.7), (4.1, 1.7), (3.2, 2.6), (1.6, 2.95), (0, 3.05)], 48)
        if shape == "oblong":
            pill = pill.scaled((0.75, 1.25, 1.0))
        bubble = revolve([(0, 0), (5.6, 0), (5.4, 2.2), (4.6, 3.9), (3, 4.6), (0, 4.7)], 48)
        films = []
        for k, (x, y) in enumerate(_grid(columns, rows, pitch)):
            bodies.append(Body(f"pill {k + 1}", pill.moved(x, y, 0.6), "pill", "pill", True))
            films.append(bubble.moved(x, y, 0.65))
        bodies.append(Body("film", together(films), "film", "film"))
        return bodies

    colour = paint(rng, "white", "white", "yellow", "pink", "light blue", "orange")
    text = "  ".join(["FORTE 200"] * (columns - 2))
    mark = Mark("text", 0, 0.5 * pitch * (rows % 2 == 0), 2.2, text, (0.05, 0.1, 0.35))
    foil = metal("aluminium", "brushed").with_marks(mark)
    materials = {"foil": foil, "pill": Material(colour, 0, 0.45), "film": GLASS}
    return Part("blister pack", n, build, materials, free=False, fill=0.88, tilt=(0, 15))


def pill_tray(rng: np.random.Generator) -> Part:
    columns, rows, pitch = int(rng.integers(3, 5)), int(rng.integers(3, 5)), 16.0
    n = {"grid": (columns, rows)}
    capsule = bool(rng.random() < 0.5)

    def build(n: dict) -> list[Body]:
        columns, rows = n["grid"]
        slab = block((columns * pitch + 6, rows * pitch + 6, 6), 3, 0.5)
        dips, bodies = [], []
        for k, (x, y) in enumerate(_grid(columns, rows, pitch), 1):
            dips.append(sphere(9, 20).moved(x, y, 10.5))
            if capsule:
                t = np.linspace(-1, 1, 20)
                radius = 2.6 * np.sqrt(np.clip(1 - np.abs(t) ** 6, 0.02, 1))
                piece = sweep(np.stack([4.6 * t, 0 * t, 0 * t], 1), radius, 20)
                halves = [piece ^ block((20, 20, 20), bottom=-10).moved(x=s * 10) for s in (-1, 1)]
                one, two = (half.turned("z", 40).moved(x, y, 4.3) for half in halves)
                bodies.append(Body(f"capsule {k}", one, "pill", "capsule", True))
                bodies.append(Body(f"half {k}", two, "half", "capsule", False))
            else:
                tablet = revolve([(0, 0), (3.6, 0), (4.3, 0.8), (4.3, 1.8), (3.4, 2.6), (0, 3.1)], 48)
                tablet = tablet - extrude(rectangle(10, 0.6), 2.8, 5)
                bodies.append(Body(f"tablet {k}", tablet.moved(x, y, 2.6), "pill", "tablet", True))
        return [Body("tray", without(slab, dips), "tray", "tray"), *bodies]

    materials = {
        "tray": plastic(paint(rng, "white", "black", "grey", "blue"), 0.4),
        "pill": Material(paint(rng, "white", "yellow", "pink", "orange", "red"), 0, 0.4),
        "half": Material(paint(rng, "white", "beige", "blue"), 0, 0.25),
    }
    words = f"tray with {'capsules' if capsule else 'tablets'}"
    return Part(words, n, build, materials, free=False, fill=0.86, tilt=(0, 20))


def control_knob(rng: np.random.Generator) -> Part:
    r = float(rng.uniform(11, 16))
    n = {"r": r, "flutes": int(rng.choice([6, 8, 12, 18])), "line": 1}

    def build(n: dict) -> list[Body]:
        r = n["r"]
        profile = [(0, 0), (1.25 * r, 0), (1.25 * r, 0.12 * r), (r, 0.22 * r), (0.92 * r, 0.95 * r)]
        body = revolve([*profile, (0.8 * r, 1.02 * r), (0, 1.02 * r)])
        flutes = [cylinder(0.11 * r, 0.24 * r, 2 * r, sides=24).moved(x, y) for x, y in ring_of(n["flutes"], 1.0 * r)]
        bodies = [Body("knob", without(body, flutes), "body", "knob")]
        bodies.append(Body("cap", cylinder(0.55 * r, r, 1.08 * r, 0.03 * r), "cap", "cap", True))
        return bodies

    ink = (0.8, 0.8, 0.78)
    colour = paint(rng, "black", "grey", "black", "white", "red")
    if np.mean(colour) > 0.4:
        ink = (0.03, 0.03, 0.03)
    marks = [Mark("line", 0, 0.72 * r, 0.3 * r, "", ink, 0, 0.08 * r)]
    dots = [(1.13 * r * np.cos(a), 1.13 * r * np.sin(a)) for a in np.radians(np.arange(-30, 211, 60))]
    marks += [Mark("disc", x, y, 0.09 * r, "", ink) for x, y in dots]
    if rng.random() < 0.6:
        cap = metal("aluminium", "turned")
    else:
        cap = plastic(paint(rng, "red", "blue", "orange", "green"), 0.3)
    materials = {"body": plastic(colour, 0.4).with_marks(*marks), "cap": cap}
    free = bool(rng.random() < 0.4)
    return Part("control knob", n, build, materials, free=free, fill=0.62, tilt=(0, 28))


def buckle(rng: np.random.Generator) -> Part:
    w, h = float(rng.uniform(30, 42)), float(rng.uniform(24, 32))
    n = {"size": (w, h), "bar": 1, "prong": 1}

    def build(n: dict) -> list[Body]:
        w, h = n["size"]
        frame = extrude(rectangle(w, h, 5).difference(rectangle(w - 9, h - 9, 2.5)), 0, 4, 1.0, 1.0)
        bodies = [Body("frame", frame, "frame", "frame")]
        if n["bar"]:
            bar = cylinder(1.5, -h / 2 + 3, h / 2 - 3, sides=32).turned("x", 90).moved(x=0, z=2.2)
            bodies.append(Body("bar", bar, "pin", "bar", True))
        if n["prong"]:
            t = np.linspace(0, 1, 20)
            path = np.stack([(w / 2 - 1) * t, 0 * t, 3.4 + 1.6 * t], 1)
            bodies.append(Body("prong", sweep(path, 1.3 - 0.4 * t, 14), "pin", "prong", True))
        return bodies

    if rng.random() < 0.6:
        frame = metal(one_of(rng, "brass", "zinc", "black", "bronze"))
    else:
        frame = plastic(paint(rng, "black", "brown", "beige"), 0.3)
    return Part("buckle", n, build, {"frame": frame, "pin": metal("zinc")}, fill=0.66, bends="prong")


def spring_clip(rng: np.random.Generator) -> Part:
    shape = one_of(rng, "paper clip", "hose clip", "hairpin cotter")
    n = {"wire": float(rng.uniform(0.55, 0.8)), "open": 0.0}

    def build(n: dict) -> list[Body]:
        w = n["wire"]
        if shape == "paper clip":
            line = LineString([(-6, 3), (10, 3), (10, -3), (-10, -3), (-10, 2), (7, 2), (7, -1.6), (-5, -1.6)])
            smooth = np.asarray(line.segmentize(0.4).coords)
            for _ in range(14):
                smooth[1:-1] = 0.25 * smooth[:-2] + 0.5 * smooth[1:-1] + 0.25 * smooth[2:]
            z = w + 1.1 * w * (np.linspace(0, 1, len(smooth)) > 0.55)
            path = np.column_stack([smooth, z])
            path[-30:, 1] += n["open"] * np.linspace(0, 1, 30) * 4
        elif shape == "hose clip":
            angle = np.radians(np.linspace(20 - 30 * n["open"], 340, 120))
            ring = np.stack([8 * np.cos(angle), 8 * np.sin(angle), 0 * angle + w + 0.002 * angle], 1)
            ear = np.stack([np.linspace(11.5, 8, 12), np.full(12, 2.8), np.full(12, w)], 1)
            path = np.concatenate([ear[:-3] + [0, ring[0, 1] - 2.8, 0], ring, ear[::-1][3:] * [1, -1, 1]])
        else:
            x = np.linspace(-14, 10, 60)
            lower = np.stack([x, 0 * x - 2.2, 0 * x + w], 1)
            bend = np.radians(np.linspace(-90, 90, 30))
            loop = np.stack([10 + 2.6 * np.cos(bend), 2.2 * np.sin(bend), 0 * bend + w], 1)
            back = x[::-1]
            upper = 2.2 + 1.3 * np.sin(back * 0.55) - 1.2 + n["open"] * (10 - back) * 0.12
            upper = np.stack([back, upper, 0 * x + w], 1)
            path = np.concatenate([lower, loop[1:-1], upper])
        return [Body("clip", sweep(path, w, 12), "wire", "clip")]

    wire = metal(one_of(rng, "steel", "zinc", "brass", "copper"))
    part = Part(shape, n, build, {"wire": wire}, bends="clip", fill=0.72)

    def bend(numbers: dict, rng: np.random.Generator) -> None:
        numbers["open"] = float(rng.uniform(0.5, 1.0))

    return part.can_have("open", "deformed", "deformed", f"the {shape} is bent open", bend)


def parts_box(rng: np.random.Generator) -> Part:
    columns, rows = int(rng.integers(2, 4)), 2
    cell = 22.0
    what = one_of(rng, "nuts", "balls", "pegs", "washers")
    n = {"grid": (columns, rows)}
    turns = rng.uniform(0, 360, 12).tolist()

    def item() -> tuple[Mesh, str]:
        if what == "nuts":
            return extrude(drilled(regular(6, 11), [(0, 0, 3.2)]), 0, 5.5, 0.5, 0.5), "nut"
        if what == "balls":
            return sphere(5.5, 20).moved(z=5.5), "ball"
        if what == "pegs":
            return cylinder(4.2, 0, 9, 0.7, 40), "peg"
        return extrude(drilled(circle(6.5), [(0, 0, 3)]), 0, 1.6, 0.3, 0.3), "washer"

    def build(n: dict) -> list[Body]:
        columns, rows = n["grid"]
        w, h = columns * cell + 3, rows * cell + 3
        slab = block((w, h, 14), 2, 0.5)
        wells, bodies, (mesh, noun) = [], [], item()
        for k, (x, y) in enumerate(_grid(columns, rows, cell)):
            wells.append(block((cell - 2.4, cell - 2.4, 20), 1.5, bottom=2).moved(x, y))
            placed = mesh.turned("z", turns[k]).moved(x - 2.5, y - 2.5, 2)
            bodies.append(Body(f"{noun} {k + 1}", placed, "item", noun, True, (5.5, 5.5, 1.0)))
        return [Body("box", without(slab, wells), "box", "box"), *bodies]

    box = plastic(paint(rng, "grey", "blue", "black", "white", "yellow"), 0.4)
    box = [box, WOOD, CARD][int(rng.choice([0, 0, 1, 2]))]
    items = WOOD if what == "pegs" else metal(one_of(rng, "zinc", "brass", "black", "steel"))
    return Part(f"box with {what}", n, build, {"box": box, "item": items}, free=False, fill=0.86, tilt=(0, 15))


def wooden_toy(rng: np.random.Generator) -> Part:
    w, h = float(rng.uniform(42, 55)), float(rng.uniform(28, 36))
    pegs = [((k - 1) * 0.3 * w, 0.0, 3.6) for k in range(3)]
    n = {"size": (w, h), "holes": [(x, -0.28 * h, 2.6) for x in (-0.3 * w, 0.0, 0.3 * w)], "pegs": pegs}

    def build(n: dict) -> list[Body]:
        slab = extrude(drilled(rectangle(*n["size"], 3), [p[:3] for p in n["holes"]]), 0, 9, 0.7)
        bodies = [Body("board", slab, "wood", "board")]
        for k, (x, y, r) in enumerate(n["pegs"]):
            peg = union([cylinder(r, 8.9, 15, 0.2, 48), sphere(1.25 * r, 20).moved(z=16)])
            bodies.append(Body(f"peg {k + 1}", peg.moved(x, y + 0.12 * h), f"paint {k}", "peg", True))
        return bodies

    colours = ("red", "blue", "yellow", "green", "orange")
    materials = {"wood": WOOD} | {f"paint {k}": Material(paint(rng, *colours), 0, 0.25) for k in range(3)}
    free, features = bool(rng.random() < 0.4), {"holes": "hole"}
    return Part("wooden peg board", n, build, materials, features, free=free, fill=0.72, tilt=(0, 25))


def printed_carton(rng: np.random.Generator) -> Part:
    w, h = float(rng.uniform(55, 75)), float(rng.uniform(36, 48))
    n = {"size": (w, h), "flap": 0.0}

    def build(n: dict) -> list[Body]:
        w, h = n["size"]
        box = block((w, h, 11), 0.6, 0.3)
        flap = block((w * 0.12, h * 0.92, 0.8), 1.5).moved(x=w * 0.06)
        flap = flap.turned("y", -n["flap"]).moved(x=w / 2 - 0.2, z=9.6)
        return [Body("carton", box, "card", "carton"), Body("flap", flap, "card", "flap")]

    ink = paint(rng, "blue", "red", "green", "violet", "black")
    second, dark = paint(rng, "orange", "blue", "dark green", "black"), (0.04, 0.04, 0.04)
    name = one_of(rng, "NORDIN 500", "PAXOL FORTE", "CALMIN B6", "VERTA PLUS")
    count = f"{rng.choice([10, 20, 30, 50])} tablets"
    date = f"EXP {rng.integers(1, 12):02d}/20{rng.integers(27, 32)}"
    marks = [
        Mark("field", 0, 0.33 * h, 0.22 * h, "", ink, 0, 0.84 * w),
        Mark("text", 0, 0.33 * h, 0.12 * h, name, (0.8, 0.8, 0.78)),
        Mark("text", -0.16 * w, 0.05 * h, 0.085 * h, count, second),
        Mark("text", -0.16 * w, -0.12 * h, 0.06 * h, date, dark),
        Mark("bars", 0.24 * w, -0.18 * h, 0.3 * h, f"{rng.integers(10**6)}", (0.03, 0.03, 0.03), 0, 0.3 * w),
        Mark("disc", -0.36 * w, -0.3 * h, 0.16 * h, "", second),
    ]
    base = PAPER if rng.random() < 0.7 else CARD
    part = Part("printed carton", n, build, {"card": base.with_marks(*marks)}, free=False, fill=0.84, tilt=(0, 15))

    def lift(numbers: dict, rng: np.random.Generator) -> None:
        numbers["flap"] = float(rng.uniform(25, 60))

    return part.can_have("flap", "open_flap", "misplaced", "the flap of the carton stands open", lift)


def keypad(rng: np.random.Generator) -> Part:
    columns, rows, pitch = 3, int(rng.choice([3, 4])), 13.0
    n = {"grid": (columns, rows)}

    def build(n: dict) -> list[Body]:
        columns, rows = n["grid"]
        base = block((columns * pitch + 5, rows * pitch + 5, 4), 3, 0.6)
        bodies = [Body("base", base, "base", "base")]
        for k, (x, y) in enumerate(_grid(columns, rows, pitch)):
            key = block((10.4, 10.4, 4.5), 2, 0.8, bottom=3.9).moved(x, -y)
            bodies.append(Body(f"key {k + 1}", key, "key", "key", True))
        return bodies

    labels = [*"123456789", "*", "0", "#"]
    key = paint(rng, "white", "grey", "black", "beige")
    ink = (0.03, 0.03, 0.03) if np.mean(key) > 0.2 else (0.8, 0.8, 0.78)
    places = zip(labels, _grid(columns, rows, pitch), strict=False)
    marks = [Mark("text", x, -y, 4.6, label, ink) for label, (x, y) in places]
    materials = {"base": plastic(paint(rng, "black", "grey", "blue"), 0.4)}
    materials["key"] = plastic(key, 0.45).with_marks(*marks)
    return Part("keypad", n, build, materials, free=False, fill=0.84, tilt=(0, 22))


def glazed_tile(rng: np.random.Generator) -> Part:
    s = float(rng.uniform(40, 55))
    n = {"s": s}

    def build(n: dict) -> list[Body]:
        return [Body("tile", block((n["s"], n["s"], 5), 0.8, 0.6), "glaze", "tile")]

    glaze = Material(paint(rng, "white", "light blue", "beige", "dark green", "grey"), 0, 0.12, "plain", 0.0, 0.6)
    if rng.random() < 0.4:
        glaze = CERAMIC
    ink = tuple(0.35 * np.asarray(glaze.colour) + [0.02, 0.04, 0.1])
    marks = [Mark("ring", 0, 0, 0.7 * s, "", ink), Mark("ring", 0, 0, 0.36 * s, "", ink)]
    marks += [Mark("disc", x, y, 0.12 * s, "", ink) for x, y in ring_of(4, 0.52 * s, 45)]
    return Part("glazed tile", n, build, {"glaze": glaze.with_marks(*marks)}, free=False, fill=0.8, tilt=(0, 20))


KINDS = {
    make.__name__: make
    for make in (
        perforated_sheet, stamped_plate, pin_connector, circuit_board, cable_end, glass_fuse, terminal_block,
        bottle_cap, bottle, blister_pack, pill_tray, control_knob, buckle, spring_clip, parts_box, wooden_toy,
        printed_carton, keypad, glazed_tile,
    )
}  # fmt: skip
