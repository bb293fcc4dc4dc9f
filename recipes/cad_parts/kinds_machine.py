"""Machine elements: bearings, gears, flanges, fittings, springs, shafts, pulleys, housings, seals."""

from __future__ import annotations

import numpy as np
from shapely.affinity import rotate, translate
from shapely.geometry import LineString

from .materials import RUBBER, Mark, Material, metal, one_of, paint, plastic
from .meshes import (
    Mesh,
    block,
    circle,
    cylinder,
    drilled,
    extrude,
    gear_outline,
    rectangle,
    revolve,
    ring_of,
    sphere,
    sweep,
    thread,
    union,
    without,
)
from .parts import Body, Part


def _bearing_ring(inner: float, outer: float, width: float) -> Mesh:
    """A ring of a bearing with broken edges."""
    c = 0.12 * (outer - inner)
    low = [(inner, c), (inner + c, 0), (outer - c, 0), (outer, c)]
    return revolve([*low, *((r, width - z) for r, z in reversed(low))])


def ball_bearing(rng: np.random.Generator) -> Part:
    outer, shielded = 10.0 * float(rng.uniform(2.2, 2.9)), bool(rng.random() < 0.4)
    n = {"bore": 5.0, "outer": outer / 2, "width": 0.32 * outer}
    n |= {"balls": int(rng.integers(7, 11)), "start": float(rng.uniform(0, 40))}

    def build(n: dict) -> list[Body]:
        gap = (n["outer"] - n["bore"]) / 3.4
        middle, w = (n["outer"] + n["bore"]) / 2, n["width"]
        turns = np.linspace(0, 2 * np.pi, 24)[:-1]
        groove = revolve([(middle + 0.62 * gap * np.cos(a), w / 2 + 0.62 * gap * np.sin(a)) for a in turns])
        inner = _bearing_ring(n["bore"], middle - 0.32 * gap, w) - groove
        bodies = [
            Body("inner ring", inner, "ring", "inner ring"),
            Body("outer ring", _bearing_ring(middle + 0.32 * gap, n["outer"], w) - groove, "ring", "outer ring"),
        ]
        if shielded:
            disc = drilled(circle(middle + 0.42 * gap, sides=96), [(0, 0, middle - 0.4 * gap)])
            return [*bodies, Body("shield", extrude(disc, 0.8 * w, 0.93 * w, 0.04 * w), "shield", "shield", True)]
        disc = drilled(circle(middle + 0.16 * gap, sides=96), [(0, 0, middle - 0.16 * gap)])
        bodies.append(Body("cage", extrude(disc, 0.42 * w, 0.74 * w), "cage", "cage"))
        for k, (x, y) in enumerate(ring_of(n["balls"], middle, n["start"])):
            bodies.append(Body(f"ball {k + 1}", sphere(0.6 * gap, 16).moved(x, y, w / 2), "ball", "ball", True))
        return bodies

    shield = RUBBER if rng.random() < 0.5 else metal("zinc")
    text = Mark("text", 0, -0.42 * outer, 0.055 * outer, f"{rng.integers(6000, 6400)}-2RS", (0.1, 0.1, 0.1))
    materials = {
        "ring": metal("steel", "turned").with_marks(text),
        "cage": metal(one_of(rng, "brass", "zinc")),
        "ball": Material((0.7, 0.7, 0.7), 1, 0.12),
        "shield": shield,
    }
    return Part("ball bearing", n, build, materials, fill=0.62, tilt=(0, 25))


def spur_gear(rng: np.random.Generator) -> Part:
    teeth, module = int(rng.integers(14, 34)), 1.5
    radius = teeth * module / 2
    n = {"teeth": teeth, "gone": [], "bore": 0.22 * radius, "web": [], "height": 0.35 * radius}
    spokes = int(rng.integers(3, 7))
    n["web"] = [(x, y, 0.16 * radius) for x, y in ring_of(spokes, 0.58 * radius)]

    def build(n: dict) -> list[Body]:
        outline = drilled(gear_outline(n["teeth"], module, n["gone"]), [(0, 0, n["bore"]), *[h[:3] for h in n["web"]]])
        outline = outline.difference(translate(rectangle(0.5 * n["bore"], 1.35 * n["bore"]), 0, 0.675 * n["bore"]))
        hub = extrude(drilled(circle(1.75 * n["bore"]), [(0, 0, n["bore"])]), 0, 1.25 * n["height"], 0.03 * radius)
        return [Body("gear", union([extrude(outline, 0, n["height"], 0.025 * radius), hub]), "gear", "gear")]

    material = metal(one_of(rng, "steel", "brass", "iron"), one_of(rng, "plain", "turned"))
    if rng.random() < 0.4:
        material = plastic(paint(rng, "white", "black", "grey", "blue", "green"), 0.4)
    part = Part("spur gear", n, build, {"gear": material}, {"web": "hole"}, fill=0.64)

    def lose(numbers: dict, rng: np.random.Generator) -> None:
        start = int(rng.integers(teeth))
        numbers["gone"] = [(start + k) % teeth for k in range(int(rng.integers(1, 4)))]

    return part.can_have("tooth", "missing_tooth", "missing", "teeth of the gear are missing", lose)


def flange(rng: np.random.Generator) -> Part:
    radius, bolts = float(rng.uniform(30, 45)), int(rng.choice([4, 6, 8]))
    n = {"r": radius, "bore": radius * float(rng.uniform(0.3, 0.42))}
    n["holes"] = [(x, y, 0.1 * radius) for x, y in ring_of(bolts, 0.78 * radius, 15)]
    finish = one_of(rng, "steel", "aluminium", "iron", "bronze")

    def build(n: dict) -> list[Body]:
        r, b = n["r"], n["bore"]
        plate = extrude(drilled(circle(r, sides=128), [(0, 0, b), *n["holes"]]), 0, 0.22 * r, 0.02 * r)
        neck = revolve(
            [(b, 0.2 * r), (b + 0.2 * r, 0.2 * r), (b + 0.14 * r, 0.5 * r), (b + 0.12 * r, 0.55 * r), (b, 0.55 * r)]
        )
        return [Body("flange", union([plate, neck]), "metal", "flange")]

    material = metal(finish, one_of(rng, "turned", "cast"))
    return Part("flange", n, build, {"metal": material}, {"holes": "bolt hole"}, fill=0.66, tilt=(0, 28))


def pipe_fitting(rng: np.random.Generator) -> Part:
    r, shape = float(rng.uniform(6, 9)), one_of(rng, "elbow", "tee")
    n = {"r": r, "gap": None, "thread": (2.1 * r, 3.4 * r)}
    finish = one_of(rng, "brass", "steel", "copper", "bronze")

    def arm(n: dict, angle: float, threaded: bool) -> Mesh:
        r = n["r"]
        body = cylinder(1.15 * r, 0, 2.1 * r, 0.02 * r)
        if threaded:
            end = thread(1.1 * r, 2.05 * r, 3.4 * r, 0.26 * r, gap=n["gap"])
        else:
            end = cylinder(1.35 * r, 1.6 * r, 2.8 * r, 0.1 * r)
        return union([body, end]).turned("y", 90).turned("z", angle)

    def build(n: dict) -> list[Body]:
        r = n["r"]
        angles = [0, 90] if shape == "elbow" else [0, 90, 180]
        solid = union([sphere(1.2 * r, 24), *(arm(n, a, k == 0) for k, a in enumerate(angles))])
        bores = [cylinder(0.78 * r, 0, 4 * r).turned("y", 90).turned("z", a) for a in angles]
        made = without(solid, bores).moved(-0.8 * r if shape == "elbow" else 0, -0.8 * r, 1.35 * r)
        return [Body("fitting", made, "metal", "fitting")]

    material = metal(finish, one_of(rng, "plain", "cast"))
    part = Part(f"pipe {shape}", n, build, {"metal": material}, fill=0.66, tilt=(10, 35))
    gone, words = {"gap": (0.0, 9 * r)}, "the thread of the fitting is missing"
    return part.can_have("thread", "missing_thread", "missing", words, lambda m, _: m.update(gone))


def compression_spring(rng: np.random.Generator) -> Part:
    n = {"coils": float(rng.integers(6, 11)), "radius": float(rng.uniform(6, 8)), "uneven": 0.0}
    n |= {"wire": float(rng.uniform(0.7, 1.2)), "length": float(rng.uniform(32, 45))}

    def build(n: dict) -> list[Body]:
        t = np.linspace(0, 1, int(40 * n["coils"]))
        angle = 2 * np.pi * n["coils"] * t
        dense = np.clip(np.minimum(t, 1 - t) * n["coils"] / 1.2, 0, 1)
        z = np.cumsum(0.25 + 0.75 * dense)
        z = z / z[-1] + n["uneven"] * np.exp(-((t - 0.55) ** 2) / 0.01) * 0.5
        x, y = z * n["length"] - n["length"] / 2, n["radius"] * np.cos(angle)
        path = np.stack([x, y, n["radius"] * np.sin(angle) + n["radius"] + n["wire"]], 1)
        return [Body("spring", sweep(path, n["wire"], 10), "wire", "spring")]

    material = metal(one_of(rng, "steel", "zinc", "black", "copper"))
    part = Part("compression spring", n, build, {"wire": material}, bends="spring", fill=0.76)

    def coil(numbers: dict, rng: np.random.Generator) -> None:
        numbers["uneven"] = float(rng.choice([-0.28, 0.3]))

    def short(numbers: dict, rng: np.random.Generator) -> None:
        numbers["coils"] += float(rng.choice([-2, 2]))

    part.can_have("uneven", "uneven_pitch", "deformed", "the coils of the spring are spaced unevenly", coil)
    return part.can_have("coils", "wrong_count", "deformed", "the spring has a wrong number of coils", short)


def turned_shaft(rng: np.random.Generator) -> Part:
    lengths, radii = rng.uniform(9, 20, 4), rng.uniform(3.5, 8, 4)
    n = {"lengths": lengths.tolist(), "radii": radii.tolist(), "groove": 1, "key": 1, "lift": float(radii.max())}

    def build(n: dict) -> list[Body]:
        profile, z = [(0.0, 0.0)], 0.0
        for length, radius in zip(n["lengths"], n["radii"], strict=True):
            c = 0.5
            profile += [(radius - c, z), (radius, z + c), (radius, z + length - c), (radius - c, z + length)]
            z += length
        profile.append((0.0, z))
        shaft = revolve(profile, 72)
        r0, r2 = n["radii"][0], n["radii"][2]
        if n["groove"]:
            at = n["lengths"][0] * 0.6
            shaft = shaft - revolve([(0.78 * r0, at), (2 * r0, at), (2 * r0, at + 1.3), (0.78 * r0, at + 1.3)], 72)
        lain = shaft.turned("y", 90).moved(x=-z / 2, z=n["lift"])
        if n["key"]:
            start, half = sum(n["lengths"][:2]) - z / 2 + n["lengths"][2] / 2, 0.3 * n["lengths"][2]
            key = LineString([(start - half, 0), (start + half, 0)]).buffer(0.24 * r2)
            lain = lain - extrude(key, n["lift"] + 0.62 * r2, 40)
        return [Body("shaft", lain, "metal", "shaft")]

    materials = {"metal": metal(one_of(rng, "steel", "aluminium", "brass"), "turned")}
    free = bool(rng.random() < 0.5)
    part = Part("turned shaft", n, build, materials, free=free, fill=0.82, tilt=(0, 20), bends="shaft")
    for key, noun in (("groove", "groove"), ("key", "keyway")):
        words = f"the {noun} of the shaft is missing"
        part.can_have(key, f"missing_{noun}", "missing", words, lambda m, r, key=key: m.update({key: 0}))

    def step(numbers: dict, rng: np.random.Generator) -> None:
        k = int(rng.integers(4))
        numbers["radii"][k] *= float(rng.choice([0.75, 1.3]))

    return part.can_have("step", "wrong_size", "deformed", "a step of the shaft has the wrong diameter", step)


def pulley(rng: np.random.Generator) -> Part:
    r = float(rng.uniform(18, 28))
    n = {"r": r, "holes": [(x, y, 0.13 * r) for x, y in ring_of(int(rng.integers(3, 7)), 0.55 * r)], "bore": 0.2 * r}
    n["screw"] = 1

    def build(n: dict) -> list[Body]:
        r = n["r"]
        profile = [(n["bore"], 0), (r, 0), (r, 0.06 * r), (0.82 * r, 0.2 * r), (r, 0.34 * r), (r, 0.4 * r)]
        profile += [(0.86 * r, 0.4 * r), (0.8 * r, 0.28 * r), (0.42 * r, 0.28 * r)]
        profile += [(0.36 * r, 0.6 * r), (n["bore"], 0.6 * r)]
        wheel = without(revolve(profile), [cylinder(h[2], -1, r).moved(h[0], h[1]) for h in n["holes"]])
        return [Body("pulley", wheel, "wheel", "pulley")]

    is_metal = rng.random() < 0.6
    material = metal("aluminium", "turned") if is_metal else plastic(paint(rng, "black", "white", "grey"), 0.4)
    return Part("pulley", n, build, {"wheel": material}, {"holes": "hole"}, fill=0.64, tilt=(0, 25))


def housing(rng: np.random.Generator) -> Part:
    w, h = float(rng.uniform(50, 75)), float(rng.uniform(35, 50))
    x, y = w / 2 - 6, h / 2 - 6
    n = {"size": (w, h, 16.0), "bosses": [(sx * x, sy * y, 3.6) for sx in (-1, 1) for sy in (-1, 1)]}
    n |= {"ribs": int(rng.integers(2, 5)), "rib_gone": -1}
    port = float(rng.uniform(-0.2, 0.2)) * w
    n["ports"] = [(port, 0.0, 5.0), (port + 0.24 * w, 0.1 * h, 3.0)]

    def build(n: dict) -> list[Body]:
        w, h, d = n["size"]
        floor = extrude(drilled(rectangle(w, h, 5), [p[:3] for p in n["ports"]]), 0, 2.2)
        ring = rectangle(w, h, 5).difference(rectangle(w - 5, h - 5, 3.5))
        wall = extrude(ring, 0, d, 0.5)
        bosses = [
            extrude(drilled(circle(b[2]), [(0, 0, 0.42 * b[2])]), 0, 0.86 * d, 0.3).moved(b[0], b[1])
            for b in n["bosses"]
        ]
        ribs = [
            block((1.4, h - 4, 0.4 * d)).moved(x=(k + 1) * w / (n["ribs"] + 1) - w / 2)
            for k in range(n["ribs"])
            if k != n["rib_gone"]
        ]
        ports = [cylinder(p[2], -5, 2 * d).moved(p[0], p[1]) for p in n["ports"]]
        return [Body("housing", without(union([floor, wall, *bosses, *ribs]), ports), "shell", "housing")]

    material = plastic(paint(rng, "black", "grey", "white", "blue", "beige", "orange"), 0.4, "grain")
    if rng.random() < 0.4:
        material = metal("aluminium", "cast")
    features = {"bosses": "screw boss", "ports": "opening"}
    part = Part("housing", n, build, {"shell": material}, features, free=False, fill=0.8, tilt=(0, 25))

    def lose(numbers: dict, rng: np.random.Generator) -> None:
        numbers["rib_gone"] = int(rng.integers(numbers["ribs"]))

    return part.can_have("rib", "missing_rib", "missing", "a rib of the housing is missing", lose)


def heat_sink(rng: np.random.Generator) -> Part:
    w, h, fins = float(rng.uniform(40, 60)), float(rng.uniform(30, 45)), int(rng.integers(7, 12))
    n = {"size": (w, h), "fins": fins, "gone": -1}
    n["holes"] = [(0.5 * w + 4, 0.32 * h, 2.0), (-0.5 * w - 4, -0.32 * h, 2.0)]

    def build(n: dict) -> list[Body]:
        w, h = n["size"]
        base = extrude(drilled(rectangle(w + 17, h, 2), [p[:3] for p in n["holes"]]), 0, 4, 0.3)
        bodies, fin = [Body("base", base, "metal", "base plate")], (0.3 * w / n["fins"], h, 13)
        for k in range(n["fins"]):
            if k != n["gone"]:
                mesh = block(fin, chamfer=0.2, bottom=3.9).moved(x=(k + 0.5) / n["fins"] * w - w / 2)
                bodies.append(Body(f"fin {k + 1}", mesh, "metal", "fin"))
        return bodies

    material = metal(one_of(rng, "aluminium", "aluminium", "black", "copper"), "brushed")
    part = Part(
        "heat sink", n, build, {"metal": material}, {"holes": "mounting hole"}, free=False, fill=0.82, tilt=(5, 30)
    )

    def lose(numbers: dict, rng: np.random.Generator) -> None:
        numbers["gone"] = int(rng.integers(fins))

    return part.can_have("fin", "missing_fin", "missing", "a fin of the heat sink is missing", lose)


def gasket(rng: np.random.Generator) -> Part:
    shape = one_of(rng, "ring", "plate")
    r = float(rng.uniform(15, 25))
    n = {"r": r, "ears": ring_of(int(rng.choice([3, 4, 6])), 1.05 * r, 30), "wave": 0.0}
    n["holes"] = [(x, y, 0.09 * r) for x, y in n["ears"]]

    def build(n: dict) -> list[Body]:
        r = n["r"]
        if shape == "ring":
            angles = np.linspace(0, 2 * np.pi, 121)
            radius = r * (1 + n["wave"] * np.exp(-((angles - 2) ** 2) / 0.1))
            path = np.stack([radius * np.cos(angles), radius * np.sin(angles), 0 * angles + 0.13 * r], 1)
            return [Body("seal", sweep(path, 0.13 * r, 20), "rubber", "seal")]
        ears = circle(1.0 * r, sides=96)
        for x, y in n["ears"]:
            ears = ears.union(circle(0.24 * r, x, y))
        outline = drilled(ears.buffer(0.1 * r).buffer(-0.1 * r), [(0, 0, 0.72 * r), *[h[:3] for h in n["holes"]]])
        return [Body("gasket", extrude(outline, 0, 0.08 * r, 0.01 * r), "rubber", "gasket")]

    material = RUBBER
    if rng.random() >= 0.5:
        material = plastic(paint(rng, "green", "red", "blue", "brown"), 0.7, "grain")
    if shape == "plate":
        return Part("gasket", n, build, {"rubber": material}, {"holes": "hole"}, fill=0.62)

    def kink(numbers: dict, rng: np.random.Generator) -> None:
        numbers["wave"] = float(rng.choice([-0.22, 0.2]))

    part = Part("sealing ring", n, build, {"rubber": material}, fill=0.62)
    return part.can_have("kink", "kinked", "deformed", "the sealing ring is kinked", kink)


def bracket(rng: np.random.Generator) -> Part:
    w, length, t = float(rng.uniform(22, 34)), float(rng.uniform(30, 45)), float(rng.uniform(2, 3))
    n = {"w": w, "length": length, "t": t, "angle": 0.0, "wall": [(0.0, 0.45 * length, 3.0)]}
    n["holes"] = [(0.3 * length, s * 0.22 * w, 2.6) for s in (-1, 1)]

    def build(n: dict) -> list[Body]:
        w, length, t = n["w"], n["length"], n["t"]
        flat = drilled(rectangle(length, w, 3), [(x - 0.1 * length, y, s) for x, y, s in n["holes"]])
        foot = extrude(flat, 0, t, 0.3).moved(x=length / 2)
        flat = drilled(rectangle(0.9 * length, w, 3), [(y - 0.45 * length, x, s) for x, y, s in n["wall"]])
        wall = extrude(flat, 0, t, 0.3).moved(x=0.45 * length).turned("y", -90 + n["angle"]).moved(x=t)
        flat = rotate(translate(rectangle(0.3 * length, 0.3 * length), 0, 0), 45)
        gusset = extrude(flat, -1.2, 1.2).turned("x", 90).moved(t, 0, t)
        keep = block((2 * length, 2 * w, 2 * length)).moved(x=length + 0.5 * t)
        made = union([foot, wall, gusset ^ keep])
        return [Body("bracket", made.moved(x=-length / 2), "metal", "bracket")]

    if rng.random() < 0.65:
        material = metal(one_of(rng, "zinc", "steel", "aluminium"), one_of(rng, "plain", "brushed"))
    else:
        material = plastic(paint(rng, "black", "white", "red"), 0.3)
    free = bool(rng.random() < 0.5)
    part = Part("bracket", n, build, {"metal": material}, {"holes": "hole"}, free=free, fill=0.66, tilt=(12, 35))

    def bend(numbers: dict, rng: np.random.Generator) -> None:
        numbers["angle"] = float(rng.choice([-1, 1]) * rng.uniform(8, 22))

    return part.can_have("angle", "bent", "deformed", "the wall of the bracket is bent", bend)


KINDS = {
    make.__name__: make
    for make in (
        ball_bearing, spur_gear, flange, pipe_fitting, compression_spring, turned_shaft, pulley, housing,
        heat_sink, gasket, bracket,
    )
}  # fmt: skip
