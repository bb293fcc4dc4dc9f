"""Families of medicines: capsules and pills, single or in rows."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import Backdrop, Canvas, Design, Scene, changed_silhouette, circle, stadium, turned
from .noise import View, cast_shadow, dome, noise_field, relief
from .surfaces import vary

_TONES = (
    ("white", "白色", (228, 226, 220)),
    ("red", "红色", (186, 46, 44)),
    ("yellow", "黄色", (226, 188, 66)),
    ("blue", "蓝色", (54, 96, 176)),
    ("green", "绿色", (70, 142, 86)),
    ("orange", "橙色", (224, 126, 48)),
    ("pink", "粉色", (222, 150, 160)),
    ("brown", "棕色", (132, 86, 58)),
    ("cream", "米色", (232, 214, 180)),
)


def _layout(rng: np.random.Generator, most: int) -> tuple[np.ndarray, float]:
    """Centres `(N, 2)` of the pieces in part units and the room (radius) of each."""
    kind = rng.random()
    if kind < 0.35:
        return np.zeros((1, 2)), 0.85
    columns = int(rng.integers(2, most + 1))
    rows = int(rng.integers(1 if columns < 4 else 2, most + 1))
    span = max(columns, rows)
    room = 0.92 / span
    x = (np.arange(columns) - (columns - 1) / 2) * 2 * room
    y = (np.arange(rows) - (rows - 1) / 2) * 2 * room
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    return grid, room


def _shade(
    view: View, image: np.ndarray, bodies: np.ndarray, radius: float, gloss: float, rounding: float
) -> np.ndarray:
    """Lights rounded bodies lying on a backdrop."""
    image = image.astype(np.float32)
    cast_shadow(image, bodies, view.light, radius * 0.25, 0.5)
    height = dome(bodies, radius) * np.float32(radius * rounding)
    return relief(image, cv2.GaussianBlur(height, (0, 0), max(0.7, radius * 0.08)), view.light, gloss, 28, 0.5, bodies)


def capsules(rng: np.random.Generator) -> Design:
    """Two-coloured gelatine capsules, one or an array, with or without an imprint."""
    first, second = (_TONES[index] for index in rng.choice(len(_TONES), 2, replace=False))
    cap, body = vary(first[2], rng, 6), vary(second[2], rng, 6)
    centres, room = _layout(rng, 4)
    backdrop = Backdrop.draw(rng)
    heading = 0.0 if rng.random() < 0.6 else rng.uniform(0, np.pi)
    length = room * 1.75
    width = length * rng.uniform(0.34, 0.46)
    scatter = rng.uniform(0, 0.1)
    imprint = "".join(rng.choice(list("ABDEKLMPRT125780"), int(rng.integers(2, 4)))) if len(centres) < 5 else ""
    ink = np.array([30.0, 30, 34]) if cap.mean() + body.mean() > 180 else np.array([225.0, 225, 225])
    gloss = rng.uniform(0.3, 0.7)
    count = len(centres)

    def piece(
        canvas: Canvas, place: np.ndarray, angle: float, bend: float, colours: tuple, text: str, squeeze: float
    ) -> None:
        canvas.polygon(stadium(place, length, width * squeeze, angle, bend), colours[1], 200)
        along = np.array([np.cos(angle), np.sin(angle)])
        half = stadium((0, 0), length, width * squeeze * 1.03, 0.0, bend)
        half = half[half[:, 0] >= -0.02 * length]
        order = np.argsort(np.arctan2(half[:, 1], half[:, 0] - length * 0.2))
        edge = np.array([[0.03 * length, -width * squeeze * 0.515], [0.03 * length, width * squeeze * 0.515]])
        ring = np.concatenate([edge[:1], half[order], edge[1:]])
        canvas.polygon(turned(ring, angle) + place, colours[0], 200)
        seam = turned(edge, angle) + place
        canvas.stroke(seam, 0.012 * length, np.asarray(colours[0]) * 0.7)
        if text:
            canvas.text(text, place - along * length * 0.22, width * 0.36, ink, angle, 0, 2)

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        texture = view.texture
        canvas = Canvas(view, backdrop.paint(view))
        jitter = texture.normal(0, scatter * room * 0.6, (count, 2))
        turns = heading + texture.normal(0, scatter, count)
        altered = int(choice.integers(count)) if defect else -1
        change, words = None, None
        for index in range(count):
            plain = (centres[index] + jitter[index], turns[index], 0.0, (cap, body), imprint, 1.0)
            if index != altered:
                piece(canvas, *plain)
                continue
            actual = list(plain)
            if defect == "missing_part":
                if count > 1 and choice.random() < 0.6:
                    actual = None
                    words = ("a missing capsule", "缺少一粒胶囊")
                else:  # only one half lies there
                    words = ("half of a capsule is missing", "一粒胶囊缺了一半")
            elif defect == "misplaced_part":
                actual[0] = plain[0] + choice.normal(0, 0.12 * room, 2)
                actual[1] = plain[1] + choice.choice([-1, 1]) * choice.uniform(0.5, 1.57)
                words = ("a capsule lies askew", "一粒胶囊歪斜")
            elif defect == "bent_part":
                actual[2], actual[5] = (
                    choice.choice([-1, 1]) * choice.uniform(0.12, 0.25) * length,
                    choice.uniform(0.75, 0.95),
                )
                words = ("a deformed capsule", "一粒胶囊变形")
            elif defect == "print_error":
                actual[4] = "" if choice.random() < 0.4 else imprint[::-1] + "I"
                words = ("a wrong imprint", "印字错误") if actual[4] else ("the imprint is missing", "缺少印字")
            if words and words[0].startswith("half"):
                end = plain[0] - np.array([np.cos(plain[1]), np.sin(plain[1])]) * length * 0.27

                def half(c: Canvas, end=end, plain=plain) -> None:
                    c.polygon(stadium(end, length * 0.46, width * 0.98, plain[1]), body, 200)

                half(canvas)
                change = changed_silhouette(view, lambda c, plain=plain: piece(c, *plain), half)
            elif defect == "print_error":
                old, new = Canvas(view), Canvas(view)
                spot = plain[0] - np.array([np.cos(plain[1]), np.sin(plain[1])]) * length * 0.22
                old.text(imprint, spot, width * 0.36, ink, plain[1], 0, 2)
                if actual[4]:
                    new.text(actual[4], spot, width * 0.36, ink, plain[1], 0, 2)
                reach = max(1, round(width * 0.1 * view.scale))
                change = cv2.dilate(cv2.bitwise_or(old.height, new.height), np.ones((reach, reach), np.uint8)) > 0
                piece(canvas, *actual)
            else:
                if actual is not None:
                    piece(canvas, *actual)
                change = changed_silhouette(
                    view,
                    lambda c, plain=plain: piece(c, *plain),
                    None if actual is None else lambda c, actual=actual: piece(c, *actual),
                )
        bodies = canvas.height
        out = _shade(view, canvas.image, bodies, width / 2 * view.scale, gloss, 0.75)
        return Scene(out, bodies > 0, change, words)

    structural = ("missing_part", "bent_part") + (("misplaced_part",) if count > 1 else ())
    structural += ("print_error",) if imprint else ()
    plural = "capsules" if count > 1 else "capsule"
    lead = f"{count} {first[0]} and {second[0]} {plural}" if count > 1 else f"a {first[0]} and {second[0]} {plural}"
    return Design(
        draw,
        f"{lead} of the same shape, whole, closed and clean",
        f"{count}粒{first[1]}与{second[1]}双色胶囊，外形一致、完整、闭合、洁净",
        structural,
    )


def pills(rng: np.random.Generator) -> Design:
    """Round or oval tablets, one or an array, with score line, imprint or speckles."""
    name, name_zh, base = _TONES[rng.integers(len(_TONES))]
    tone = vary(base, rng, 6)
    centres, room = _layout(rng, 4)
    backdrop = Backdrop.draw(rng)
    oval = rng.random() < 0.4
    length = room * 1.6
    width = length * (rng.uniform(0.5, 0.7) if oval else 1.0)
    heading = rng.uniform(0, np.pi) if oval else 0.0
    scatter = rng.uniform(0, 0.08)
    mark = str(rng.choice(["", "score", "imprint", "both"]))
    letters = "".join(rng.choice(list("ABDEFHKMNPRTZ2457"), 2))
    printed = rng.random() < 0.4
    speckles = rng.random() < 0.4
    fleck = vary(tone * 0.6, rng, 20).astype(np.float32)
    rounding = rng.uniform(0.25, 0.6)
    edge = rng.uniform(0.25, 0.6)
    gloss = rng.uniform(0.0, 0.4)
    count = len(centres)
    ink = (
        np.array([40.0, 40, 60])
        if printed and tone.mean() > 110
        else (np.array([235.0, 235, 235]) if printed else tone * 0.68)
    )
    blister = rng.random() < 0.3 and count > 1

    def shape(place: np.ndarray, angle: float, bite: np.ndarray | None = None) -> np.ndarray:
        points = circle((0, 0), 1.0, 48)
        if bite is not None:
            points = points * bite[:, None]
        return turned(points * [length / 2, width / 2], angle) + place

    def lettering(canvas: Canvas, place: np.ndarray, angle: float, text: str) -> None:
        canvas.text(text, place, width * 0.26, ink, angle, 1, 3)

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        texture = view.texture
        canvas = Canvas(view, backdrop.paint(view))
        jitter = texture.normal(0, scatter * room * 0.5, (count, 2))
        turns = heading + texture.normal(0, scatter, count)
        altered = int(choice.integers(count)) if defect else -1
        change, words = None, None
        if blister:
            for centre in centres:
                canvas.polygon(
                    circle(centre, room * 0.96, 40), np.clip(np.asarray(backdrop.colour) * 0.86 + 12, 0, 255)
                )
        for index in range(count):
            place, angle = centres[index] + jitter[index], turns[index]
            text = letters if mark in ("imprint", "both") else ""
            score = mark in ("score", "both")
            outline = plain = shape(place, angle)
            if index == altered:
                if defect == "missing_part":
                    if count > 1 and choice.random() < 0.5:
                        outline = None
                        words = ("a missing pill", "缺少一粒药片")
                    else:
                        at, half = choice.uniform(0, 2 * np.pi), choice.uniform(0.3, 0.8)
                        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
                        away = np.abs(np.angle(np.exp(1j * (angles - at))))
                        bite = np.where(away < half, np.cos(half) / np.cos(np.minimum(away, half)), 1.0)
                        bite = np.where(away < half, bite + choice.normal(0, 0.03, 48), bite)
                        outline = shape(place, angle, bite)
                        words = ("a piece of a pill is broken off", "药片缺了一块")
                elif defect == "misplaced_part":
                    aside = choice.uniform(0, 2 * np.pi)
                    place = place + np.array([np.cos(aside), np.sin(aside)]) * room * choice.uniform(0.3, 0.6)
                    angle += choice.choice([-1, 1]) * choice.uniform(0.5, 1.3)
                    outline = shape(place, angle)
                    words = ("a pill out of place", "一粒药片位置偏移")
                elif defect == "print_error":
                    spot = Canvas(view)
                    lettering(spot, place, angle, text)
                    kind = choice.integers(3)
                    text = ["", text[::-1] + "I", text[:1]][kind]
                    words = [
                        ("the imprint is missing", "缺少印字"),
                        ("a wrong imprint", "印字错误"),
                        ("an incomplete imprint", "印字不完整"),
                    ][kind]
                    new = Canvas(view)
                    if text:
                        lettering(new, place, angle, text)
                    reach = max(2, round(width * 0.08 * view.scale))
                    different = cv2.bitwise_xor(spot.height, new.height)
                    change = cv2.morphologyEx(different, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8)) > 0
                if defect != "print_error":
                    change = changed_silhouette(
                        view,
                        lambda c, plain=plain: c.polygon(plain, tone),
                        None if outline is None else lambda c, outline=outline: c.polygon(outline, tone),
                    )
            if outline is None:
                continue
            canvas.polygon(outline, np.clip(tone * texture.uniform(0.97, 1.03), 0, 255), 200)
            if score:
                bar = turned(np.array([[0, -width / 2], [0, width / 2]]) * 0.98, angle) + place
                canvas.stroke(bar, width * 0.05, tone * 0.68, 120)
            if text:
                if score and not printed:
                    for letter, side in zip(text, (-1, 1), strict=False):
                        lettering(
                            canvas, place + turned(np.array([[side * length * 0.25, 0]]), angle)[0], angle, letter
                        )
                else:
                    lettering(canvas, place, angle, text)
        solid = (canvas.height > 0).astype(np.uint8)
        image = canvas.image.astype(np.float32)
        if speckles:
            field = noise_field(texture, view.size, 70)
            image += (np.clip(field - 1.3, 0, 1) * solid)[..., None] * (fleck - image)
        image += (noise_field(texture, view.size, 110) * 2.0 * solid)[..., None]
        out = _shade(view, image, solid, width / 2 * edge * view.scale, gloss, rounding)
        return Scene(out, solid > 0, change, words)

    structural = (
        ("missing_part",)
        + (("misplaced_part",) if count > 1 else ())
        + (("print_error",) if mark in ("imprint", "both") and (printed or mark == "imprint") else ())
    )
    lead = f"{count} {name} pills" if count > 1 else f"a {name} pill"
    return Design(
        draw, f"{lead} of the same shape, whole and clean", f"{count}粒{name_zh}药片，外形一致、完整、洁净", structural
    )
