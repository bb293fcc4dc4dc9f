"""Families made of yarn and wire: woven fabric, knitted fabric, wire grid, zipper."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import Canvas, Design, Scene, box, changed_silhouette, turned
from .noise import View, cast_shadow, dome, noise_field, relief
from .surfaces import METALS, vary

_DYES = (
    ("grey", "灰色", (138, 138, 140)),
    ("blue", "蓝色", (62, 86, 140)),
    ("beige", "米色", (202, 186, 158)),
    ("black", "黑色", (48, 48, 52)),
    ("red", "红色", (160, 52, 50)),
    ("green", "绿色", (74, 112, 84)),
    ("white", "白色", (224, 222, 216)),
    ("ochre", "赭色", (188, 142, 66)),
)


def _wavy(view: View, amount: float) -> tuple[np.ndarray, np.ndarray]:
    """Part coordinates, gently distorted like cloth is, by `amount` part units."""
    x, y = view.coordinates()
    x = x + noise_field(view.texture, view.size, 3, 2) * np.float32(amount)
    y = y + noise_field(view.texture, view.size, 3, 2) * np.float32(amount)
    return x, y


def _clean(mask: np.ndarray, reach: int) -> np.ndarray:
    """Closes the gaps of a mask of thin parts."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel) > 0


def woven_fabric(rng: np.random.Generator) -> Design:
    """Cloth in plain, twill or satin weave, plain or striped or checked."""
    name, name_zh, base = _DYES[rng.integers(len(_DYES))]
    weave = str(rng.choice(["plain", "twill", "satin"]))
    weave_zh = {"plain": "平纹", "twill": "斜纹", "satin": "缎纹"}[weave]
    period, step = {"plain": (2, 1), "twill": (4, 1), "satin": (5, 2)}[weave]
    threads = rng.uniform(14, 32)  # per part unit
    warp = vary(base, rng, 6)
    weft = (
        vary(warp * rng.uniform(0.8, 1.15), rng, 5) if rng.random() < 0.7 else vary(_DYES[rng.integers(8)][2], rng, 5)
    )
    pattern = str(rng.choice(["none", "none", "stripes", "checks"]))
    repeat = int(rng.integers(6, 16))
    other = vary(_DYES[rng.integers(len(_DYES))][2], rng, 6)
    bands = rng.random(repeat) < 0.35
    wave = rng.uniform(0.002, 0.012)

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size, texture = view.size, view.texture
        x, y = _wavy(view, wave)
        u, v = x * np.float32(threads), y * np.float32(threads)
        i, j = np.floor(u), np.floor(v)
        fu, fv = u - i, v - j
        column, row = i.astype(np.int32), j.astype(np.int32)
        over = np.mod(column + step * row, period) < max(1, period // 2)
        change, words, gap = None, None, None
        if defect in ("missing_part", "misplaced_part"):
            along, across = (row, column) if choice.random() < 0.5 else (column, row)
            at = int(choice.integers(-int(threads * 0.6), int(threads * 0.6)))
            first = int(choice.integers(-int(threads), int(threads * 0.3)))
            width = 1 if threads < 20 else 2
            run = (across >= at) & (across < at + width) & (along >= first)
            run &= along < first + int(threads * choice.uniform(0.4, 1.4))
            change = run
            if defect == "missing_part":
                gap = run
                over = np.where(run, across is row, over)
                words = ("a missing thread in the weave", "织物中缺少一根纱线")
            else:  # a float: the thread does not interlace
                over = np.where(run, across is column, over)
                words = ("a thread that is not woven in", "一根纱线未正确交织")
        warp_colours = np.where((bands & (pattern != "none"))[:, None], other, warp).astype(np.float32)
        weft_colours = np.where((bands & (pattern == "checks"))[:, None], other, weft).astype(np.float32)
        tones = texture.normal(1, 0.03, (2, 512)).astype(np.float32)
        image = np.where(over[..., None], warp_colours[np.mod(column, repeat)], weft_colours[np.mod(row, repeat)])
        image = image * np.where(over, tones[0][np.mod(column, 512)], tones[1][np.mod(row, 512)])[..., None]
        side = np.where(over, fu, fv) - np.float32(0.5)
        lie = np.where(over, fv, fu) - np.float32(0.5)
        height = np.sqrt(np.maximum(1 - 3.4 * side * side, 0.05)) * (1 - 0.9 * lie * lie)
        if gap is not None:
            height = np.where(gap, height * 0.2, height)
            image = np.where(gap[..., None], image * np.float32(choice.uniform(0.4, 0.75)), image)
        pixels = np.float32(view.scale / threads)
        image *= (0.62 + 0.38 * height)[..., None]
        image *= (1 + 0.05 * noise_field(texture, size, 110))[..., None]
        out = relief(
            image,
            cv2.GaussianBlur(height, (0, 0), max(0.4, pixels * 0.12)) * pixels * np.float32(0.35),
            view.light,
            0.0,
            1,
            0.55,
        )
        return Scene(out, None, change, words)

    return Design(
        draw,
        f"{name} cloth in {weave} weave; the threads should run evenly, without gaps, pulls or stains",
        f"{name_zh}{weave_zh}织物；纱线应均匀，没有断纱、抽丝或污渍",
        ("missing_part", "misplaced_part"),
    )


def knitted_fabric(rng: np.random.Generator) -> Design:
    """Jersey knit: columns of V-shaped stitches, plain or with coloured rows."""
    name, name_zh, base = _DYES[rng.integers(len(_DYES))]
    columns = rng.uniform(7, 14)
    aspect = rng.uniform(1.1, 1.5)
    main, second = vary(base, rng, 6), vary(_DYES[rng.integers(len(_DYES))][2], rng, 6)
    repeat = int(rng.integers(4, 12))
    bands = (rng.random(repeat) < 0.4) & (rng.random() < 0.45)
    fuzz = rng.uniform(0.03, 0.09)
    wave = rng.uniform(0.004, 0.015)

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size, texture = view.size, view.texture
        x, y = _wavy(view, wave)
        u, v = x * np.float32(columns), y * np.float32(columns * aspect)
        column = np.floor(u).astype(np.int32)
        s = u - column - np.float32(0.5)
        lifted = v - np.float32(1.3) * np.abs(s) * np.float32(-1)
        row = np.floor(lifted).astype(np.int32)
        t = lifted - row - np.float32(0.5)
        arm = (np.abs(s) - np.float32(0.25)) * 4
        height = np.sqrt(np.maximum(1 - 3.6 * t * t, 0)) * np.sqrt(np.maximum(1 - 0.75 * arm * arm, 0.02))
        ply = 0.08 * np.sin((lifted * 3 + np.abs(s) * 14) * np.float32(2))
        colours = np.where(bands[:, None], second, main).astype(np.float32)
        image = colours[np.mod(row, repeat)]
        change, words = None, None
        if defect == "missing_part":
            at = int(choice.integers(-int(columns * 0.6), int(columns * 0.6)))
            first = int(choice.integers(-int(columns), int(columns * 0.5)))
            change = (column == at) & (row >= first) & (row < first + int(choice.integers(2, 9)))
            rung = np.maximum(1 - np.abs(v - np.floor(v) - 0.5) * 5, 0)
            height = np.where(change, 0.45 * rung, height)
            words = ("a dropped stitch with a ladder", "有漏针并形成脱线")
        image = image * (0.3 + 0.7 * height + ply * height)[..., None]
        image = image * (1 + np.float32(fuzz) * noise_field(texture, size, 100, 2, 0.8))[..., None]
        pixels = np.float32(view.scale / columns)
        smooth = cv2.GaussianBlur(height, (0, 0), max(0.5, float(pixels) * 0.06))
        return Scene(relief(image, smooth * pixels * np.float32(0.16), view.light, 0.0, 1, 0.55), None, change, words)

    return Design(
        draw,
        f"{name} knitted fabric; the stitches should be regular, without dropped stitches, holes or stains",
        f"{name_zh}针织面料；线圈应规则，没有漏针、破洞或污渍",
        ("missing_part",),
    )


def wire_grid(rng: np.random.Generator) -> Design:
    """Wire mesh: crossing wires, square or diamond, interlaced, or a perforated sheet look by thick wires."""
    name, name_zh, base = METALS[rng.integers(len(METALS))]
    cells = rng.uniform(3.0, 7.5)  # per part unit
    ratio = rng.uniform(0.75, 1.3)
    skew = float(rng.choice([0.0, 0.0, rng.uniform(0.2, 0.6)]))
    thick = rng.uniform(0.16, 0.36)
    interlaced = rng.random() < 0.6
    colour = vary(base, rng)
    ground = vary(rng.choice([(22, 22, 24), (60, 60, 62), (140, 138, 134), (214, 212, 206)]), rng, 6).astype(
        np.float32
    )
    gloss = rng.uniform(0.2, 0.6)
    unevenness = rng.uniform(0.001, 0.006)

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size, texture = view.size, view.texture
        x, y = _wavy(view, unevenness)
        spot = choice.uniform(-0.65, 0.65, 2).astype(np.float32)

        def wires(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
            u = (x + np.float32(skew) * y) * np.float32(cells)
            v = (y - np.float32(skew) * x) * np.float32(cells * ratio)
            i, j = np.rint(u), np.rint(v)
            return (u - i) / np.float32(thick), (v - j) / np.float32(thick * ratio), i, j, u, v

        du, dv, i, j, u, v = wires(x, y)
        keep_u = keep_v = True
        change, words = None, None
        if defect == "bent_part":
            reach = np.float32(choice.uniform(0.12, 0.3))
            near = np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * reach * reach))
            push = choice.uniform(0.45, 0.9) / cells * np.array([np.cos(a := choice.uniform(0, 6.28)), np.sin(a)])
            straight = (np.abs(du) < 0.5) | (np.abs(dv) < 0.5)
            du, dv, i, j, u, v = wires(x - near * np.float32(push[0]), y - near * np.float32(push[1]))
            bent = (np.abs(du) < 0.5) | (np.abs(dv) < 0.5)
            change = _clean((straight ^ bent) & (near > 0.15), max(1, round(0.25 * view.scale / cells)))
            words = ("bent wires", "金属丝弯曲变形")
        elif defect in ("missing_part", "misplaced_part"):
            at_u = np.rint((spot[0] + skew * spot[1]) * cells)
            at_v = np.rint((spot[1] - skew * spot[0]) * cells * ratio)
            span = choice.uniform(0.8, 2.6)
            lost = (i == at_u) & (np.abs(v - at_v) < span)
            if defect == "missing_part":
                change = lost & (np.abs(du) < 0.5)
                keep_u = ~lost
                words = ("a broken wire with a piece missing", "一段金属丝断裂缺失")
            else:
                shift = np.float32(choice.choice([-1, 1]) * choice.uniform(0.3, 0.5) / thick)
                part = np.abs(v - at_v) < span
                moved = np.where(part & (np.abs(u - at_u) < 0.95), (u - at_u) / np.float32(thick) - shift, du)
                change = _clean((np.abs(moved) < 0.5) ^ (np.abs(du) < 0.5), 1)
                du = moved
                words = ("a displaced piece of wire", "一段金属丝错位")
        shape_u = np.sqrt(np.maximum(1 - 4 * du * du, 0)) * keep_u
        shape_v = np.sqrt(np.maximum(1 - 4 * dv * dv, 0)) * keep_v
        if interlaced:
            sway = np.float32(0.35) * np.cos(np.pi * (u + j)) * np.cos(np.pi * (v + i))
            top_u, top_v = shape_u * (1 + sway), shape_v * (1 - sway)
        else:
            top_u, top_v = shape_u, shape_v * np.float32(0.98)
        height = np.maximum(top_u, top_v)
        wire = (height > 0).astype(np.uint8)
        image = np.broadcast_to(ground, (size, size, 3)) * (1 + 0.05 * noise_field(texture, size, 40, 2))[..., None]
        cast_shadow(image, wire, view.light, 0.08 * view.scale * (0.3 + thick), 0.5)
        solid = np.clip(height * 2.5, 0, 1)[..., None]
        tint = colour.astype(np.float32) * (0.55 + 0.5 * height)[..., None]
        tint *= (1 + 0.04 * noise_field(texture, size, 90))[..., None]
        image = image + solid * (tint - image)
        pixels = view.scale / cells * thick
        out = relief(
            image, cv2.GaussianBlur(height, (0, 0), 0.6) * np.float32(pixels * 0.3), view.light, gloss, 18, 0.5
        )
        return Scene(out, None, change, words)

    return Design(
        draw,
        f"a {name} wire grid with regular meshes, without bent, broken or dirty wires",
        f"{name_zh}丝网，网孔规则，金属丝不应弯曲、断裂或脏污",
        ("bent_part", "missing_part", "misplaced_part"),
    )


def zipper(rng: np.random.Generator) -> Design:
    """A closed zipper between two tapes of cloth."""
    name, name_zh, base = _DYES[rng.integers(len(_DYES))]
    tape = vary(base, rng, 6).astype(np.float32)
    metal = rng.random() < 0.6
    tooth = vary(METALS[rng.integers(4)][2], rng) if metal else vary(_DYES[rng.integers(len(_DYES))][2], rng)
    pitch = rng.uniform(0.14, 0.22)
    reach, thick = rng.uniform(0.15, 0.24), pitch * rng.uniform(0.42, 0.47)
    threads = rng.uniform(22, 36)
    seam = rng.uniform(0.38, 0.5)
    number = int(2.6 / pitch)

    def outline(index: int, moved: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
        side = -1 if index % 2 else 1
        y = (index // 2 - number / 2) * pitch + (pitch / 2 if side < 0 else 0)
        points = np.array(
            [[-0.04, -0.5], [reach * 0.7, -0.5], [reach, -0.25], [reach, 0.25], [reach * 0.7, 0.5], [-0.04, 0.5]]
        ) * [1, thick]
        points = turned(points, moved[2]) * [side, 1]
        return points + [-side * reach * 0.66 + moved[0], y + moved[1]]

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size, texture = view.size, view.texture
        x, y = _wavy(view, 0.006)
        u, v = x * np.float32(threads), y * np.float32(threads)
        rib = 1 - np.abs(np.mod(u, 1) - 0.5) * (0.5 + 0.3 * (np.mod(v + np.floor(u), 2) < 1))
        image = tape * (0.55 + 0.45 * rib)[..., None] * (1 + 0.05 * noise_field(texture, size, 90, 2))[..., None]
        image *= (1 - 0.55 * np.exp(-((np.abs(x) / np.float32(0.06)) ** 2)))[..., None]
        stitch = (np.abs(np.abs(x) - np.float32(seam)) < 0.014) & (np.mod(y * 9, 1) < 0.7)
        image = np.where(stitch[..., None], np.clip(tape * 1.25 + 18, 0, 255), image)
        canvas = Canvas(view, np.zeros((size, size, 3), np.uint8))
        altered, moved, change, words = -1, None, None, None
        if defect is not None:
            altered = int(choice.integers(2 * int(0.22 * number), 2 * int(0.78 * number)))
            if defect == "misplaced_part":
                moved = (
                    float(choice.choice([-1, 1]) * choice.uniform(0.05, 0.1)),
                    pitch * choice.uniform(-0.3, 0.3),
                    0.0,
                )
                words = ("a zipper tooth out of line", "一个拉链齿错位")
            elif defect == "bent_part":
                moved = (0.0, 0.0, float(choice.choice([-1, 1]) * choice.uniform(0.45, 0.9)))
                words = ("a bent zipper tooth", "一个拉链齿歪斜")
            else:
                words = ("a missing zipper tooth", "缺少一个拉链齿")
        for index in range(2 * number):
            if index == altered and moved is None:
                continue
            canvas.polygon(outline(index, moved if index == altered else (0, 0, 0)), (255, 255, 255), 200)
        if defect is not None:
            change = changed_silhouette(
                view,
                lambda c: c.polygon(outline(altered), (0, 0, 0)),
                None if moved is None else lambda c: c.polygon(outline(altered, moved), (0, 0, 0)),
            )
        cast_shadow(image, canvas.height, view.light, 0.03 * view.scale, 0.5)
        cover = canvas.image[..., :1].astype(np.float32) / 255
        image = image + cover * (tooth.astype(np.float32) - image)
        height = dome(canvas.height, 0.03 * view.scale) * np.float32(0.035 * view.scale) * cover[..., 0]
        out = relief(image, cv2.GaussianBlur(height, (0, 0), 0.6), view.light, 0.5 if metal else 0.25, 20)
        band = Canvas(view)
        band.polygon(box((0, 0), 1.5, 4), (0, 0, 0))
        return Scene(out, band.height > 0, change, words)

    return Design(
        draw,
        f"a closed zipper on {name} tape; every tooth should be in place and the cloth whole",
        f"{name_zh}布带上闭合的拉链；链齿应齐全整齐，布带完好",
        ("missing_part", "misplaced_part", "bent_part"),
    )
