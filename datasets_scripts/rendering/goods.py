"""Families of single goods: wood screw on its side, biscuit, nut kernel, painted block."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import Backdrop, Canvas, Design, Scene, changed_silhouette, circle, turned
from .noise import View, cast_shadow, dome, noise_field, relief
from .surfaces import METALS, vary


def _lit(view: View, image: np.ndarray, solid: np.ndarray, edge: float, depth: float, gloss: float) -> np.ndarray:
    """Shades bodies with rounded edges (`edge` and `depth` in part units) that lie on a backdrop."""
    image = np.ascontiguousarray(image, np.float32)
    cast_shadow(image, solid, view.light, 0.06 * view.scale)
    height = dome(solid, edge * view.scale) * np.float32(depth * view.scale)
    height = cv2.GaussianBlur(height, (0, 0), max(1.0, 0.25 * min(edge, 0.2) * view.scale))
    return relief(image, height, view.light, gloss, 24, 0.5, solid)


def screw(rng: np.random.Generator) -> Design:
    """Wood screw seen from the side: head, shank, thread, tip."""
    name, name_zh, base = METALS[rng.integers(len(METALS))]
    colour = vary(base, rng)
    backdrop = Backdrop.draw(rng)
    long = rng.uniform(1.35, 1.75)
    thick = rng.uniform(0.16, 0.26)
    head, head_long = thick * rng.uniform(1.7, 2.2), thick * rng.uniform(0.6, 1.0)
    countersunk = rng.random() < 0.6
    shank = rng.uniform(0.0, 0.35)
    pitch = thick * rng.uniform(0.35, 0.6)
    tip = thick * rng.uniform(0.9, 1.6)
    deep = thick * rng.uniform(0.16, 0.24)
    gloss = rng.uniform(0.25, 0.6)
    start = -long / 2
    thread_from = start + head_long + shank * long
    crests = np.arange(thread_from + pitch, long / 2 - tip * 0.35, pitch)

    def radius(x: np.ndarray) -> np.ndarray:
        return thick / 2 * np.clip((long / 2 - x) / tip, 0.04, 1)

    def bend(points: np.ndarray, sag: float) -> np.ndarray:
        points = points.copy()
        points[:, 1] += sag * np.maximum(points[:, 0] + 0.2, 0) ** 2
        return points

    def draw_all(canvas: Canvas, sag: float, end: float, stripped: tuple[float, float], no_head: bool) -> None:
        x = np.linspace(start + head_long * 0.9, min(end, long / 2), 40)
        core = radius(x) - np.where(x > thread_from, deep * np.clip((long / 2 - x) / tip, 0, 1), 0)
        core = np.maximum(core, 0.012)
        body = np.concatenate([np.stack([x, core], 1), np.stack([x, -core], 1)[::-1]])
        canvas.polygon(bend(body, sag), colour * 0.82, 170)
        if not no_head:
            inner = thick / 2 if countersunk else head / 2
            points = np.array(
                [[start, -head / 2], [start + head_long, -inner], [start + head_long, inner], [start, head / 2]]
            )
            canvas.polygon(points, colour, 230)
        for crest in crests:
            if crest > end or stripped[0] < crest < stripped[1]:
                continue
            reach, lean = float(radius(np.array(crest))), pitch * 0.28
            ridge = np.array(
                [
                    [crest - lean - pitch * 0.1, -reach * 0.8],
                    [crest - lean, -reach],
                    [crest - lean + pitch * 0.2, -reach * 0.8],
                    [crest + lean + pitch * 0.1, reach * 0.8],
                    [crest + lean, reach],
                    [crest + lean - pitch * 0.2, reach * 0.8],
                ]
            )
            canvas.polygon(bend(ridge, sag), colour * 1.08, 240)

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        canvas = Canvas(view, backdrop.paint(view))
        sag, end, stripped, no_head = 0.0, 9.0, (9.0, 9.0), False
        words, change = None, None
        if defect == "bent_part":
            sag = float(choice.choice([-1, 1]) * choice.uniform(0.07, 0.25))
            words = ("a bent screw", "螺钉弯曲")
        elif defect == "missing_part":
            kind = int(choice.integers(3))
            if kind == 0:
                end = long / 2 - tip * choice.uniform(0.5, 1.5)
                words = ("the tip is broken off", "螺钉尖端断裂")
            elif kind == 1 and len(crests) > 4:
                first = int(choice.integers(len(crests) - 3))
                stripped = (
                    crests[first] - 0.01,
                    crests[min(first + int(choice.integers(2, 5)), len(crests) - 1)] + 0.01,
                )
                words = ("stripped thread", "螺纹滑牙缺损")
            else:
                no_head = True
                words = ("the head is missing", "螺钉头部缺失")
        if defect:
            change = changed_silhouette(
                view,
                lambda c: draw_all(c, 0.0, 9.0, (9.0, 9.0), False),
                lambda c: draw_all(c, sag, end, stripped, no_head),
            )
        draw_all(canvas, sag, end, stripped, no_head)
        solid = (canvas.height > 0).astype(np.uint8)
        image = canvas.image + (noise_field(view.texture, view.size, 100) * 3 * solid)[..., None]
        image = np.ascontiguousarray(image, np.float32)
        cast_shadow(image, solid, view.light, 0.07 * view.scale)
        fine = cv2.GaussianBlur(canvas.height.astype(np.float32), (0, 0), 0.8) * np.float32(0.045 * view.scale / 255)
        level = dome(solid, thick / 2 * view.scale) * np.float32(thick * 0.4 * view.scale) + fine
        out = relief(image, cv2.GaussianBlur(level, (0, 0), 0.7), view.light, gloss, 20, 0.5, solid)
        return Scene(out, solid > 0, change, words)

    return Design(
        draw,
        f"a straight {name} screw with a whole head, an even thread and a sharp tip",
        f"笔直的{name_zh}螺钉，头部完整，螺纹均匀，尖端完好",
        ("bent_part", "missing_part"),
    )


def _bite(points: np.ndarray, choice: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Breaks a piece off an outline along a rough line."""
    at = choice.uniform(0, 2 * np.pi)
    normal = np.array([np.cos(at), np.sin(at)])
    along = points @ normal
    limit = along.max() - choice.uniform(low, high) * np.ptp(along)
    over = along > limit + choice.normal(0, 0.012, len(points))
    cut = points.copy()
    cut[over] += (limit - along[over] + choice.normal(0, 0.02, over.sum()))[:, None] * normal
    return cut


def biscuit(rng: np.random.Generator) -> Design:
    """Baked biscuit: round, square or scalloped, with or without pricked holes or chocolate drops."""
    tone = vary([(206, 160, 98), (186, 132, 74), (222, 186, 128), (92, 60, 42)][rng.integers(4)], rng, 8).astype(
        np.float32
    )
    backdrop = Backdrop.draw(rng)
    kind = str(rng.choice(["round", "square", "scalloped"]))
    kind_zh = {"round": "圆形", "square": "方形", "scalloped": "花边"}[kind]
    reach = rng.uniform(0.62, 0.82)
    angles = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    if kind == "square":
        outline = (
            np.stack(
                [
                    np.sign(np.cos(angles)) * np.abs(np.cos(angles)) ** 0.28,
                    np.sign(np.sin(angles)) * np.abs(np.sin(angles)) ** 0.28 * rng.uniform(0.7, 1),
                ],
                1,
            )
            * reach
        )
    else:
        waves = 0.04 * np.cos(int(rng.integers(14, 26)) * angles) if kind == "scalloped" else 0
        outline = (
            np.stack([np.cos(angles), np.sin(angles)], 1) * (reach * (1 + waves))[:, None]
            if kind == "scalloped"
            else (np.stack([np.cos(angles), np.sin(angles)], 1) * reach)
        )
    number = int(rng.choice([0, 3, 4, 5]))
    lattice = (np.arange(number) - (number - 1) / 2) * reach * 1.5 / max(number, 1)
    pricks = np.stack(np.meshgrid(lattice, lattice), -1).reshape(-1, 2)
    pricks = pricks[np.hypot(*pricks.T) < reach * 0.85]
    drops = number == 0 and rng.random() < 0.6
    rough = rng.uniform(0.3, 1.0)

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        texture = view.texture
        canvas = Canvas(view, backdrop.paint(view))
        own = outline * (
            1 + 0.012 * np.interp(np.arange(120), np.arange(0, 130, 10), texture.standard_normal(13))[:, None]
        )
        actual, change, words = own, None, None
        if defect == "missing_part":
            actual = _bite(own, choice, 0.08, 0.28)
            change = changed_silhouette(view, lambda c: c.polygon(own, tone), lambda c: c.polygon(actual, tone))
            words = ("a piece is broken off", "缺了一块")
        canvas.polygon(actual, tone, 200)
        solid = (canvas.height > 0).astype(np.uint8)
        plain = canvas.image.copy()
        for prick in pricks:
            canvas.disc(prick + texture.normal(0, 0.008, 2), 0.022, tone * 0.45, 60)
        if drops:
            for _ in range(int(texture.integers(9, 16))):
                angle, away = texture.uniform(0, 2 * np.pi), reach * np.sqrt(texture.uniform(0, 0.72))
                place = np.array([np.cos(angle), np.sin(angle)]) * away
                canvas.polygon(circle(place, texture.uniform(0.03, 0.07), 7), (58, 36, 26), 255)
        canvas.image[solid == 0] = plain[solid == 0]  # nothing pricked or dropped beside the biscuit
        canvas.height *= solid
        size = view.size
        rim = dome(solid, 0.16 * view.scale)
        crumb = noise_field(texture, size, 60, 2, 0.8)
        cloud = noise_field(texture, size, 6, 2)
        shade = 1 + solid * (0.05 * crumb + 0.06 * cloud - 0.28 * (1 - rim))
        image = canvas.image * shade[..., None]
        image = np.ascontiguousarray(image, np.float32)
        cast_shadow(image, solid, view.light, 0.06 * view.scale)
        fine = (canvas.height.astype(np.float32) * np.float32(1 / 200) + np.float32(0.12 * rough) * crumb) * solid
        level = rim * np.float32(0.07 * view.scale) + cv2.GaussianBlur(fine, (0, 0), 0.8) * np.float32(
            0.02 * view.scale
        )
        out = relief(image, cv2.GaussianBlur(level, (0, 0), 0.8), view.light, 0.0, 1, 0.5, solid)
        return Scene(out, solid > 0, change, words)

    extra, extra_zh = (" with chocolate drops", "，带巧克力粒") if drops else ("", "")
    return Design(
        draw,
        f"a {kind} biscuit{extra}, whole, evenly baked and without foreign matter",
        f"{kind_zh}饼干{extra_zh}，完整、烘烤均匀、无异物",
        ("missing_part",),
    )


def kernel(rng: np.random.Generator) -> Design:
    """Nut kernel or bean: an uneven rounded body with a striped or mottled skin."""
    name, name_zh, base, ratio = [
        ("hazelnut", "榛子", (150, 98, 58), 0.95),
        ("almond", "杏仁", (168, 108, 62), 0.6),
        ("cashew", "腰果", (224, 196, 150), 0.55),
        ("bean", "豆子", (188, 166, 128), 0.62),
    ][rng.integers(4)]
    tone = vary(base, rng, 8).astype(np.float32)
    backdrop = Backdrop.draw(rng)
    reach = rng.uniform(0.6, 0.8)
    point = 0.16 if name == "almond" else 0.0
    sag = 0.6 if name == "cashew" else (0.15 if name == "bean" else 0.0)
    stripes = rng.uniform(0.04, 0.12)
    gloss = rng.uniform(0.1, 0.4)

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        texture, size = view.texture, view.size
        angles = np.linspace(0, 2 * np.pi, 100, endpoint=False)
        waves = np.cos(angles[:, None] * np.arange(2, 5) + texture.uniform(0, 6.28, 3)) @ texture.normal(0, 0.02, 3)
        radius = reach * (1 + waves) * (1 + point * np.maximum(np.cos(angles), 0) ** 6)
        own = np.stack([radius * np.cos(angles), radius * np.sin(angles) * ratio], 1)
        own[:, 1] += sag * (own[:, 0] ** 2 - 0.25 * reach)
        actual, change, words = own, None, None
        if defect == "missing_part":
            actual = _bite(own, choice, 0.08, 0.3)
            change = changed_silhouette(view, lambda c: c.polygon(own, tone), lambda c: c.polygon(actual, tone))
            words = ("a piece is broken off", "缺了一块")
        canvas = Canvas(view, backdrop.paint(view))
        canvas.polygon(actual, tone, 200)
        solid = (canvas.height > 0).astype(np.uint8)
        skin = view.turn(noise_field(texture, size, (90, 7), 2)) * np.float32(stripes * 0.7)
        skin += np.float32(0.04) * noise_field(texture, size, 9, 3)
        image = canvas.image * (1 + skin * solid)[..., None]
        if name == "hazelnut":
            x, y = view.coordinates()
            cap = np.clip((np.float32(0.36) - np.hypot(x + reach * 0.55, y)) * 14, 0, 1) * solid
            image = image + cap[..., None] * (np.array([204, 176, 134], np.float32) * (1 + skin[..., None]) - image)
        return Scene(_lit(view, image, solid, reach * ratio * 0.95, reach * 0.4, gloss), solid > 0, change, words)

    return Design(
        draw,
        f"a {name}, whole and clean, without cracks, cuts or holes",
        f"一粒{name_zh}，完整洁净，没有裂纹、切口或孔洞",
        ("missing_part",),
    )


def block(rng: np.random.Generator) -> Design:
    """Painted or plain wooden or plastic blocks with a printed sign, one or several in a row."""
    name, name_zh, base = [
        ("red", "红色", (196, 48, 44)),
        ("blue", "蓝色", (48, 92, 180)),
        ("yellow", "黄色", (230, 190, 60)),
        ("green", "绿色", (70, 146, 80)),
        ("wooden", "木质", (212, 172, 118)),
    ][rng.integers(5)]
    tone = vary(base, rng, 8)
    backdrop = Backdrop.draw(rng)
    count = int(rng.choice([1, 1, 2, 3, 4]))
    side = {1: 1.2, 2: 0.78, 3: 0.54, 4: 0.42}[count] * rng.uniform(0.85, 1.05)
    gap = side * rng.uniform(1.05, 1.2)
    centres = np.stack([(np.arange(count) - (count - 1) / 2) * gap, np.zeros(count)], 1)
    signs = [str(rng.choice(list("ABCDEFGHKMRS23456789"))) if rng.random() < 0.8 else "" for _ in range(count)]
    signs[0] = signs[0] or "A"
    ink = np.array([250.0, 248, 240]) if tone.mean() < 130 else np.array([40.0, 36, 34])
    font = int(rng.integers(4))
    grain = rng.uniform(0.02, 0.08)
    edge, gloss = rng.uniform(0.03, 0.1), rng.uniform(0.05, 0.5)

    def shape(place: np.ndarray, angle: float) -> np.ndarray:
        around = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        power = 0.18
        corner = np.stack(
            [
                np.sign(np.cos(around)) * np.abs(np.cos(around)) ** power,
                np.sign(np.sin(around)) * np.abs(np.sin(around)) ** power,
            ],
            1,
        )
        return turned(corner * side / 2, angle) + place

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        texture = view.texture
        canvas = Canvas(view, backdrop.paint(view))
        altered = int(choice.integers(count)) if defect else -1
        jitter = texture.normal(0, 0.012, (count, 2))
        turns = texture.normal(0, 0.015, count)
        change, words = None, None
        if defect == "print_error":
            altered = int(choice.choice([i for i in range(count) if signs[i]]))
        for index in range(count):
            place, angle, sign = centres[index] + jitter[index], turns[index], signs[index]
            plain = outline = shape(place, angle)
            if index == altered and defect == "missing_part":
                outline = _bite(plain, choice, 0.06, 0.2)
                words = ("a corner or edge is broken off", "边角缺损")
            elif index == altered and defect == "misplaced_part":
                angle += choice.choice([-1, 1]) * choice.uniform(0.2, 0.7)
                place = place + choice.normal(0, 0.04, 2)
                outline = shape(place, angle)
                words = ("a block lies askew", "一个积木块歪斜")
            elif index == altered and defect == "print_error":
                wrong = "" if choice.random() < 0.4 else str(choice.choice([c for c in "XWNPTY" if c != sign]))
                words = ("a wrong sign", "印刷符号错误") if wrong else ("the printed sign is missing", "缺少印刷符号")
                spots = [Canvas(view), Canvas(view)]
                for spot, text in zip(spots, (sign, wrong), strict=True):
                    if text:
                        spot.text(text, place, side * 0.5, ink, angle, font, 3)
                change = cv2.bitwise_xor(spots[0].height, spots[1].height)
                change = cv2.morphologyEx(change, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0
                sign = wrong
            if outline is not plain:
                change = changed_silhouette(
                    view,
                    lambda c, points=plain: c.polygon(points, tone),
                    lambda c, points=outline: c.polygon(points, tone),
                )
            canvas.polygon(outline, np.clip(tone * texture.uniform(0.96, 1.04), 0, 255), 200)
            if sign:
                canvas.text(sign, place, side * 0.5, ink, angle, font, 3)
        solid = (canvas.height > 0).astype(np.uint8)
        fibres = view.turn(noise_field(texture, view.size, (70, 3), 2)) * np.float32(grain)
        image = canvas.image * (1 + fibres * solid)[..., None]
        return Scene(_lit(view, image, solid, edge, edge * 0.7, gloss), solid > 0, change, words)

    lead = f"{count} {name} blocks in a row" if count > 1 else f"a {name} block"
    return Design(
        draw,
        f"{lead} with printed signs, whole, straight and clean",
        f"{count}个{name_zh}积木块，带印刷符号，完整、端正、洁净",
        ("missing_part", "print_error") + (("misplaced_part",) if count > 1 else ()),
    )
