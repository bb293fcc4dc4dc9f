"""Families of single mechanical objects: gear, hexagonal nut, bottle from above, cable in cross-section."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import Backdrop, Canvas, Design, Scene, box, changed_silhouette, circle, turned
from .noise import View, cast_shadow, noise_field, relief
from .surfaces import METALS, threaded_bore, vary


def _finish(
    canvas: Canvas,
    view: View,
    outline: np.ndarray,
    edge: float,
    depth: float,
    gloss: float,
    shadow: float,
    texture: float,
) -> np.ndarray:
    """Shades a canvas whose heights are flat levels: bevelled edges, metal texture, shadow on the backdrop."""
    image = canvas.image.astype(np.float32)
    solid = (outline > 0).astype(np.float32)
    if texture:
        image += (noise_field(view.texture, view.size, 110) * np.float32(texture) * solid)[..., None]
        image += (noise_field(view.texture, view.size, 4, 2) * np.float32(texture * 0.7) * solid)[..., None]
    cast_shadow(image, outline, view.light, shadow * view.scale)
    level = canvas.height.astype(np.float32) * np.float32(1 / 255)
    level = cv2.GaussianBlur(level, (0, 0), max(0.6, edge * view.scale)) * np.float32(depth * view.scale)
    return relief(image, level, view.light, gloss, 20, 0.5, outline)


def _radial_glare(view: View, strength: float, start: float) -> np.ndarray:
    """Brightness of a face turned on a lathe: two bright and two dark sectors and fine grooves."""
    x, y = view.coordinates()
    radii, angle = cv2.cartToPolar(x, y)
    grooves = np.interp(np.linspace(0, 2.5, 512), np.linspace(0, 2.5, 256), view.texture.standard_normal(256))
    place = np.minimum(radii * np.float32(511 / 2.5), 511)
    fine = cv2.remap(grooves[None].astype(np.float32), place, np.zeros_like(place), cv2.INTER_LINEAR)
    glare = np.cos(2 * (angle - np.float32(view.light.azimuth + start))) + np.float32(0.35) * fine
    return 1 + np.float32(strength) * glare


def gear(rng: np.random.Generator) -> Design:
    """Spur gear of metal or plastic with a bore, a keyway and openings."""
    plastic = rng.random() < 0.3
    if plastic:
        name, name_zh, base = [
            ("white plastic", "白色塑料", (222, 220, 212)),
            ("black plastic", "黑色塑料", (52, 52, 54)),
            ("blue plastic", "蓝色塑料", (56, 92, 168)),
        ][rng.integers(3)]
    else:
        name, name_zh, base = METALS[rng.integers(len(METALS))]
    colour = vary(base, rng)
    backdrop = Backdrop.draw(rng)
    teeth = int(rng.integers(12, 34))
    outer = rng.uniform(0.7, 0.88)
    depth = rng.uniform(0.07, 0.14) * (24 / teeth) ** 0.4
    tip, root = rng.uniform(0.3, 0.45), rng.uniform(0.6, 0.75)
    bore = rng.uniform(0.12, 0.26)
    openings = int(rng.choice([0, 0, 4, 5, 6]))
    inner = outer - depth
    opening_radius = min(0.13, (inner - bore) * 0.3)
    opening_place = (inner + bore) / 2
    groove = rng.random() < 0.5
    keyway = rng.random() < 0.6
    strength = 0.0 if plastic else rng.uniform(0.05, 0.16)
    glare_start = rng.uniform(0, np.pi)
    gloss = rng.uniform(0.1, 0.5)
    ground = np.asarray(backdrop.colour)

    def tooth(index: int, lean: float = 0.0, shrink: float = 1.0) -> np.ndarray:
        step = 2 * np.pi / teeth
        angles = np.array([-root / 2, -tip / 2, tip / 2, root / 2]) * step
        angles[1:3] += lean * step
        angles = angles + index * step
        radii = np.array([inner * 0.97, inner + depth * shrink, inner + depth * shrink, inner * 0.97])
        return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        canvas = Canvas(view, backdrop.paint(view))
        shapes, change, words = {}, None, None
        if defect in ("missing_part", "bent_part"):
            first, number = (
                int(choice.integers(teeth)),
                int(choice.choice([1, 1, 2, 3] if teeth < 22 else [1, 2, 3, 4])),
            )
            lean, plural = choice.choice([-1, 1]), "teeth" if number > 1 else "tooth"
            for index in range(first, first + number):
                if defect == "bent_part":
                    shapes[index % teeth] = tooth(index, lean * choice.uniform(0.3, 0.6), choice.uniform(0.7, 0.95))
                else:
                    shapes[index % teeth] = tooth(index, 0.0, choice.uniform(0.05, 0.4))
            if defect == "bent_part":
                words = (f"{number} bent gear {plural}", f"{number}个轮齿弯曲")
            else:
                words = (f"{number} broken gear {plural}", f"{number}个轮齿断裂缺失")
            change = changed_silhouette(
                view,
                lambda c: [c.polygon(tooth(index), colour) for index in shapes],
                lambda c: [c.polygon(shape, colour) for shape in shapes.values()],
            )
        for index in range(teeth):
            canvas.polygon(shapes.get(index, tooth(index)), colour, 200)
        canvas.polygon(circle((0, 0), inner, 90), colour, 200)
        if groove:
            canvas.polygon(circle((0, 0), inner * 0.9, 72), colour * 0.88, 150)
            canvas.polygon(circle((0, 0), bore * 1.7, 60), colour, 200)
        lost = int(choice.integers(openings)) if defect == "misplaced_part" and openings else -1
        for index in range(openings):
            angle = 2 * np.pi * index / openings + 0.3
            centre = np.array([np.cos(angle), np.sin(angle)]) * opening_place
            if index == lost:
                old = centre
                aside = angle + np.pi / 2
                centre = centre + choice.choice([-1, 1]) * choice.uniform(0.06, 0.12) * np.array(
                    [np.cos(aside), np.sin(aside)]
                )
                new = centre
                change = changed_silhouette(
                    view,
                    lambda c, at=old: c.disc(at, opening_radius, colour),
                    lambda c, at=new: c.disc(at, opening_radius, colour),
                )
                words = ("an opening out of place", "一个减重孔位置偏移")
            canvas.disc(centre, opening_radius, ground * 0.8, 1)
        canvas.polygon(circle((0, 0), bore, 48), ground * 0.75, 1)
        if keyway:
            canvas.polygon(box((bore, 0), bore * 0.5, bore * 0.5), ground * 0.75, 1)
        outline = Canvas(view)
        outline.height[:] = (canvas.height > 1) * np.uint8(255)
        if strength:
            glare = _radial_glare(view, strength, glare_start)
            canvas.image = np.where(outline.height[..., None] > 0, canvas.image * glare[..., None], canvas.image)
        out = _finish(canvas, view, outline.height, 0.008, 0.09, gloss, 0.05, 0 if plastic else 3)
        return Scene(out, outline.height > 0, change, words)

    structural = ("missing_part", "bent_part") + (("misplaced_part",) if openings else ())
    return Design(
        draw,
        f"a {name} gear with {teeth} teeth, all of which should be whole and evenly spaced",
        f"带有{teeth}个齿的{name_zh}齿轮，所有轮齿应完整且分布均匀",
        structural,
    )


def hex_nut(rng: np.random.Generator) -> Design:
    """Hexagonal nut with chamfer and thread, with or without a flange or a stamped mark."""
    name, name_zh, base = METALS[rng.integers(len(METALS))]
    colour = vary(base, rng)
    backdrop = Backdrop.draw(rng)
    across = rng.uniform(0.62, 0.8)
    bore = across * rng.uniform(0.42, 0.56)
    flange = rng.random() < 0.35
    stamp = str(rng.choice(["", "8", "10", "M8", "A2"]))
    stamp_place = across * 0.72
    if bore > across * 0.5:
        stamp = ""
    strength = rng.uniform(0.04, 0.14)
    glare_start = rng.uniform(0, np.pi)
    gloss = rng.uniform(0.2, 0.6)

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        canvas = Canvas(view, backdrop.paint(view))
        hexagon = circle((0, 0), across / np.cos(np.pi / 6), 6)
        change, words = None, None
        if flange:
            canvas.polygon(circle((0, 0), across * 1.3, 72), colour * 0.8, 70)
        solid = hexagon
        if defect == "missing_part":  # a corner broken off
            at = int(choice.integers(6))
            cut = choice.uniform(0.2, 0.5)
            here, before, after = hexagon[at], hexagon[at - 1], hexagon[(at + 1) % 6]
            jag = [
                here + (before - here) * cut,
                here * choice.uniform(0.74, 0.86) + choice.normal(0, 0.02, 2),
                here + (after - here) * cut * choice.uniform(0.6, 1.2),
            ]
            solid = np.concatenate([hexagon[:at], np.array(jag), hexagon[at + 1 :]])
            words = ("a corner is broken off", "一个角断裂缺失")
        elif defect == "bent_part":
            at = int(choice.integers(6))
            solid = hexagon.copy()
            solid[at] = solid[at] * choice.uniform(0.86, 0.92) + turned(solid[at : at + 1], np.pi / 2)[
                0
            ] * choice.choice([-1, 1]) * choice.uniform(0.06, 0.14)
            words = ("a crushed corner", "一个角被压变形")
        if solid is not hexagon:
            change = changed_silhouette(view, lambda c: c.polygon(hexagon, colour), lambda c: c.polygon(solid, colour))
        canvas.polygon(solid, colour * 0.8, 190)
        rim = Canvas(view, np.zeros((view.size, view.size, 3), np.uint8))
        rim.polygon(solid, (255, 255, 255), 1)
        inner = Canvas(view, np.zeros((view.size, view.size, 3), np.uint8))
        inner.polygon(circle((0, 0), across * 0.985, 72), (255, 255, 255), 1)
        face = cv2.min(inner.image, rim.image)[..., :1].astype(np.float32) / 255
        glare = _radial_glare(view, strength, glare_start)[..., None]
        canvas.image = (canvas.image + face * (colour.astype(np.float32) * glare - canvas.image)).astype(np.float32)
        canvas.image = np.ascontiguousarray(np.clip(canvas.image, 0, 255).astype(np.uint8))
        canvas.height = np.where(face[..., 0] > 0.5, np.uint8(215), canvas.height)
        if stamp:
            place = (0.0, -stamp_place)
            if defect == "print_error":
                words, change = (
                    ("the stamped mark is missing", "缺少压印标记"),
                    changed_silhouette(view, lambda c: c.text(stamp, place, 0.12, (0, 0, 0), 0, 0, 3), None),
                )
                change = cv2.dilate(change.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            else:
                canvas.text(stamp, place, 0.12, colour * 0.45, 0, 0, 3)
        canvas.polygon(circle((0, 0), bore * 1.1, 48), np.clip(colour * 1.12, 0, 255), 200)
        threaded_bore(canvas, (0, 0), bore, colour)
        outline = (canvas.height > 1).astype(np.uint8) * 255
        out = _finish(canvas, view, outline, 0.012, 0.12, gloss, 0.08, 3)
        return Scene(out, outline > 0, change, words)

    structural = ("missing_part", "bent_part") + (("print_error",) if stamp else ())
    return Design(
        draw,
        f"a {name} hexagonal nut with a clean thread and six whole corners",
        f"{name_zh}六角螺母，螺纹干净，六个角完整",
        structural,
    )


def bottle_top(rng: np.random.Generator) -> Design:
    """Open bottle seen from above: rings of glass around a dark inside."""
    name, name_zh, base = [
        ("brown glass", "棕色玻璃", (108, 62, 26)),
        ("green glass", "绿色玻璃", (46, 102, 56)),
        ("clear glass", "透明玻璃", (176, 186, 186)),
        ("blue glass", "蓝色玻璃", (52, 82, 140)),
    ][rng.integers(4)]
    colour = vary(base, rng, 6)
    backdrop = Backdrop((238.0, 238.0, 236.0), 1.0, 6) if rng.random() < 0.6 else Backdrop.draw(rng)
    body = rng.uniform(0.78, 0.93)
    neck, mouth = body * rng.uniform(0.66, 0.8), body * rng.uniform(0.42, 0.55)
    lights = int(rng.choice([2, 4, 6]))
    start = rng.uniform(0, np.pi)
    inside = colour * rng.uniform(0.05, 0.3)
    rings = [
        (body, 0.55),
        (body * 0.94, 0.95),
        ((body + neck) / 2, 0.7),
        (neck * 1.04, 0.4),
        (neck, 1.35),
        (neck * 0.95, 1.0),
        ((neck + mouth) / 2, 1.25),
        (mouth * 1.06, 0.55),
    ]

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        canvas = Canvas(view, backdrop.paint(view))
        for radius, tone in rings:
            canvas.polygon(
                circle((0, 0), radius, 90),
                np.clip(colour * tone + 18 * (tone > 1), 0, 255),
                255 if radius <= neck else 120,
            )
        canvas.polygon(circle((0, 0), mouth, 72), inside, 2)
        canvas.polygon(circle((0.02, 0.03), mouth * 0.6, 60), inside * 1.7 + 4, 2)
        x, y = view.coordinates()
        radii, angle = cv2.cartToPolar(x, y)
        glare = np.maximum(np.cos(lights * (angle - np.float32(start))), 0) ** 3
        band = np.exp(-(((radii - np.float32((neck + mouth) / 2)) / np.float32(0.045)) ** 2))
        band += np.float32(0.7) * np.exp(-(((radii - np.float32(body * 0.9)) / np.float32(0.025)) ** 2))
        image = canvas.image + (glare * band * 120)[..., None] * np.array([0.95, 1, 1.0], np.float32)
        change, words = None, None
        solid = canvas.height > 0
        if defect in ("missing_part", "bent_part"):
            at, half = choice.uniform(0, 2 * np.pi), choice.uniform(0.15, 0.55)
            angles = np.linspace(at - half, at + half, 14)
            if defect == "missing_part":
                deep = (neck - mouth) * choice.uniform(0.5, 1.0)
                radius = neck * 1.02 - deep * np.sqrt(np.maximum(1 - ((angles - at) / half) ** 2, 0))
                radius += choice.normal(0, 0.018, 14)
                words = ("a piece of the rim is broken off", "瓶口边缘有缺口")
            else:
                radius = neck * 1.02 - 0.5 * (neck - mouth) + choice.normal(0, 0.03, 14)
                words = ("a rough, badly formed rim", "瓶口边缘粗糙、成形不良")
            far = np.full(14, neck * 1.02) if defect == "missing_part" else radius - choice.uniform(0.06, 0.12)
            ring = np.concatenate(
                [
                    np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1),
                    np.stack([far * np.cos(angles), far * np.sin(angles)], 1)[::-1],
                ]
            )
            chip = Canvas(view, np.zeros_like(canvas.image))
            chip.polygon(ring, (255, 255, 255), 1)
            change = chip.height > 0
            cover = chip.image[..., :1].astype(np.float32) / 255
            fracture = noise_field(view.texture, view.size, 40, 2)[..., None] * 30
            tone = (
                colour.astype(np.float32) * (0.4 if choice.random() < 0.5 or colour.mean() > 140 else 2.2)
                + fracture
                + 10
            )
            image = image + cover * (tone - image)
        image = np.ascontiguousarray(image, np.float32)
        cast_shadow(image, canvas.height, view.light, 0.03 * view.scale, 0.35)
        level = cv2.GaussianBlur(canvas.height.astype(np.float32), (0, 0), 0.018 * view.scale)
        out = relief(image, level * np.float32(0.06 * view.scale / 255), view.light, 0.3, 24, 0.6, canvas.height)
        return Scene(out, solid, change, words)

    return Design(
        draw,
        f"an open {name} bottle seen from above; the rim should be round, whole and clean",
        f"从上方看的{name_zh}瓶口；瓶口应圆整、完好、洁净",
        ("missing_part", "bent_part"),
    )


def cable(rng: np.random.Generator) -> Design:
    """Cable in cross-section: a sheath around insulated conductors of many copper strands."""
    backdrop = Backdrop.draw(rng)
    count = int(rng.choice([2, 3, 3, 4, 5]))
    sheath = vary([(200, 198, 192), (58, 58, 60), (196, 116, 40), (150, 152, 156)][rng.integers(4)], rng)
    filler = np.clip(sheath * rng.uniform(0.45, 0.8), 0, 255)
    choices = [
        (150, 96, 54),
        (60, 92, 170),
        (112, 156, 60),
        (52, 52, 54),
        (186, 60, 52),
        (206, 206, 204),
        (224, 190, 60),
    ]
    insulation = [vary(choices[index], rng, 6) for index in rng.permutation(7)[:count]]
    metal = vary([(206, 138, 88), (196, 196, 200)][rng.integers(2)], rng, 6)
    outer = rng.uniform(0.78, 0.92)
    wall = rng.uniform(0.07, 0.13)
    ring = (outer - wall) * np.sin(np.pi / count) / (1 + np.sin(np.pi / count)) * 0.97
    place = outer - wall - ring
    core = ring * rng.uniform(0.55, 0.74)
    strand = core / rng.choice([3.2, 4.2, 5.2])
    offsets = np.array(
        [(strand * 2 * (i + 0.5 * (j % 2)), strand * np.sqrt(3) * j) for i in range(-6, 7) for j in range(-6, 7)]
    )
    offsets = offsets[np.hypot(*offsets.T) < core - strand * 0.9]

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        canvas = Canvas(view, backdrop.paint(view))
        canvas.polygon(circle((0, 0), outer, 90), sheath, 150)
        canvas.polygon(circle((0, 0), outer - wall, 80), filler, 60)
        texture = view.texture
        centres = [np.array([np.cos(a), np.sin(a)]) * place for a in 2 * np.pi * np.arange(count) / count]
        order = list(range(count))
        change, words = None, None
        shifts = np.zeros((count, len(offsets), 2))
        altered = int(choice.integers(count))
        radius = ring * 0.96
        squeeze = np.zeros((count, 2))
        squeeze[:] = 1
        if defect == "missing_part":
            change = changed_silhouette(view, lambda c: c.disc(centres[altered], radius, (0, 0, 0)), None)
            words = ("a missing wire", "缺少一根芯线")
        elif defect == "misplaced_part":
            other = (altered + 1) % count
            order[altered], order[other] = order[other], order[altered]
            both = Canvas(view)
            for index in (altered, other):
                both.disc(centres[index], radius, (0, 0, 0))
            change = both.height > 0
            words = ("two wires are swapped", "两根芯线位置互换")
        elif defect == "bent_part":
            shifts[altered] = choice.normal(0, strand * 0.9, (len(offsets), 2))
            shifts[altered] += choice.normal(0, 1, 2) * strand * 1.6
            room = (radius - strand) / np.maximum(np.hypot(*(offsets + shifts[altered]).T), 1e-6)
            shifts[altered] = (offsets + shifts[altered]) * np.minimum(room, 1)[:, None] - offsets
            words = ("bent strands in a conductor", "一根导体的铜丝弯曲散乱")
        for index in range(count):
            if index == altered and defect == "missing_part":
                canvas.disc(centres[index], radius, filler * 0.45, 20)
                continue
            centre = centres[index]
            tone = insulation[order[index]]
            canvas.disc(centre, radius, tone, 170)
            canvas.disc(centre, core * 1.02, metal * 0.4, 120)
            tones = texture.uniform(0.75, 1.15, len(offsets))
            jitter = texture.normal(0, strand * 0.12, (len(offsets), 2)) + shifts[index]
            for spot, level in zip(centre + offsets + jitter, tones, strict=True):
                canvas.disc(spot, strand * 0.95, np.clip(metal * level, 0, 255), 210)
        if defect == "bent_part":
            spread = [Canvas(view), Canvas(view)]
            for spot in offsets:
                spread[0].disc(centres[altered] + spot, strand, (0, 0, 0))
            for spot in offsets + shifts[altered]:
                spread[1].disc(centres[altered] + spot, strand, (0, 0, 0))
            change = cv2.dilate(cv2.bitwise_xor(spread[0].height, spread[1].height), np.ones((3, 3), np.uint8)) > 0
        outline = (canvas.height > 0).astype(np.uint8) * 255
        out = _finish(canvas, view, outline, 0.01, 0.07, 0.15, 0.05, 3)
        return Scene(out, outline > 0, change, words)

    return Design(
        draw,
        f"a cut cable with {count} wires; all wires should be present, in order and undamaged",
        f"含{count}根芯线的电缆截面；芯线应齐全、次序正确且完好",
        ("missing_part", "misplaced_part", "bent_part"),
    )
