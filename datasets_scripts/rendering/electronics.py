"""Printed things: circuit boards with components, and labels with text and bar codes."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import Backdrop, Canvas, Design, Scene, box, changed_silhouette, circle, turned
from .noise import View, cast_shadow, noise_field, relief, to_uint8
from .surfaces import vary

_PAD = np.array([198.0, 186, 150])


def _component(rng: np.random.Generator, kind: str) -> dict:
    """Draws the size, colours and marking of one component."""
    size = rng.uniform(0.85, 1.2)
    width, height, colour, marks = {
        "chip": (0.42 * size, 0.34 * size, (42, 42, 46), "IC"),
        "resistor": (0.2 * size, 0.1 * size, (34, 34, 38), "R"),
        "capacitor": (0.2 * size, 0.11 * size, (176, 148, 108), "C"),
        "can": (0.26 * size, 0.26 * size, (190, 192, 196), "C"),
        "led": (0.17 * size, 0.12 * size, [(216, 60, 48), (70, 190, 90), (236, 206, 90)][rng.integers(3)], "D"),
        "header": (0.16 * int(rng.integers(3, 6)) * 0.8, 0.14, (30, 30, 32), "J"),
        "crystal": (0.34 * size, 0.15 * size, (188, 190, 194), "X"),
    }[kind]
    return {
        "kind": kind,
        "size": (width, height),
        "colour": vary(colour, rng, 5),
        "name": f"{marks}{rng.integers(1, 30)}",
        "pins": int(rng.integers(4, 8)),
        "upright": rng.random() < 0.4,
    }


def _draw_component(
    canvas: Canvas, part: dict, centre: np.ndarray, angle: float, bent: int = -1, lean: float = 0.0
) -> None:
    """Draws one component; pin number `bent` leans by `lean` radians."""
    width, height = part["size"]
    colour, kind = part["colour"], part["kind"]

    def place(points: np.ndarray) -> np.ndarray:
        return turned(points, angle) + centre

    if kind == "chip":
        step = width / part["pins"]
        for index in range(2 * part["pins"]):
            side = 1 if index < part["pins"] else -1
            x = (index % part["pins"] - (part["pins"] - 1) / 2) * step
            pin = turned(box((0, 0.05 * side), step * 0.45, 0.1), lean if index == bent else 0.0)
            canvas.polygon(place(pin + [x, side * height / 2]), (206, 206, 210), 90)
        canvas.polygon(place(box((0, 0), width, height)), colour, 200)
        canvas.disc(place(np.array([[-width * 0.38, height * 0.3]]))[0], 0.018, colour * 1.7)
        if canvas.image is not None:
            canvas.text(part["name"], centre, 0.05, (168, 168, 170), angle, 0, 2)
    elif kind == "can":
        canvas.disc(centre, width / 2, colour, 240)
        if canvas.image is not None:
            arc = np.linspace(-0.9, 0.9, 9)
            canvas.polygon(place(np.stack([np.cos(arc), np.sin(arc)], 1) * width * 0.46), (40, 40, 44))
    elif kind == "header":
        canvas.polygon(place(box((0, 0), width, height)), colour, 170)
        count = max(int(width / 0.11), 2)
        for index in range(count):
            x = (index - (count - 1) / 2) * width / count
            pin = turned(box((0, 0), 0.045, 0.045), lean if index == bent else 0)
            shift = [0.0, 0.07 * np.sign(lean)] if index == bent else [0.0, 0.0]
            canvas.polygon(place(pin + [x, 0] + shift), (222, 192, 110), 250)
    else:
        cap = width * 0.22
        canvas.polygon(place(box((0, 0), width, height)), (204, 204, 206), 130)
        canvas.polygon(place(box((0, 0), width - 2 * cap, height * (1.0 if kind != "led" else 0.9))), colour, 140)
        if kind == "crystal" and canvas.image is not None:
            canvas.polygon(place(box((0, 0), width * 0.96, height * 0.9)), colour, 180)


def _draw_pads(canvas: Canvas, part: dict, centre: np.ndarray, angle: float) -> None:
    width, height = part["size"]
    if part["kind"] == "chip":
        step = width / part["pins"]
        spots = [
            box(((i - (part["pins"] - 1) / 2) * step, s * (height / 2 + 0.05)), step * 0.6, 0.13)
            for i in range(part["pins"])
            for s in (-1, 1)
        ]
    else:
        spots = [box((s * width * 0.42, 0), width * 0.36, height * 1.2) for s in (-1, 1)]
    for spot in spots:
        canvas.polygon(turned(spot, angle) + centre, _PAD, 20)


def circuit_board(rng: np.random.Generator) -> Design:
    """Populated circuit board: tracks, vias, pads, silk screen, components."""
    name, name_zh, base = [
        ("green", "绿色", (30, 98, 58)),
        ("blue", "蓝色", (28, 62, 128)),
        ("black", "黑色", (34, 36, 40)),
        ("red", "红色", (150, 34, 36)),
        ("white", "白色", (216, 216, 212)),
    ][rng.choice(5, p=[0.45, 0.2, 0.15, 0.1, 0.1])]
    board = vary(base, rng, 6)
    silk = np.array([40.0, 40, 44]) if name == "white" else np.array([226.0, 228, 224])
    track_colour = np.clip(board * 1.25 + 14, 0, 255)
    rows, columns = int(rng.integers(3, 5)), int(rng.integers(3, 5))
    kinds = ["chip", "resistor", "capacitor", "can", "led", "header", "crystal"]
    parts, places = [], []
    for row in range(rows):
        for column in range(columns):
            if rng.random() < 0.12:
                continue
            kind = str(rng.choice(kinds, p=[0.2, 0.24, 0.2, 0.1, 0.1, 0.08, 0.08]))
            part = _component(rng, kind)
            cell = np.array([2.0 / columns, 2.0 / rows])
            part["size"] = tuple(
                np.minimum(part["size"], cell.min() * 0.72 if kind in ("chip", "can") else cell[0] * 0.8)
            )
            where = (np.array([column, row]) + 0.5) * cell - 1 + rng.uniform(-0.1, 0.1, 2) * cell
            parts.append(part)
            places.append((where * 0.98, np.pi / 2 if part["upright"] and kind not in ("header",) else 0.0))
    tracks = []
    for _ in range(int(rng.integers(10, 20))):
        start, end = rng.uniform(-1.3, 1.3, 2), rng.uniform(-1.3, 1.3, 2)
        step = end - start
        short = np.sign(step) * np.abs(step).min()
        tracks.append(np.array([start, start + short, end]))
    width = rng.uniform(0.014, 0.03)
    vias = rng.uniform(-1.1, 1.1, (int(rng.integers(6, 18)), 2))
    title = "".join(rng.choice(list("ABCDEFXZ"), 2)) + f"-{rng.integers(10, 999)}"
    title_place = rng.uniform(-0.4, 0.4), float(rng.choice([-0.93, 0.93]))
    gloss = rng.uniform(0.1, 0.45)

    def names(canvas: Canvas, index: int, text: str) -> None:
        where, angle = places[index]
        reach = parts[index]["size"][0 if angle else 1] / 2 + 0.1
        canvas.text(text, where + [0, -reach], 0.055, silk, 0.0, 0, 2)

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size, texture = view.size, view.texture
        ground = np.broadcast_to(board.astype(np.float32), (size, size, 3))
        canvas = Canvas(view, to_uint8(ground + (noise_field(texture, size, 80, 2) * 2)[..., None]))
        for track in tracks:
            canvas.stroke(track, width, track_colour, 8)
        for via in vias:
            canvas.disc(via, 0.035, _PAD, 14)
            canvas.disc(via, 0.016, (20, 20, 22), 1)
        altered, change, words = -1, None, None
        where = angle = None
        bent, lean = -1, 0.0
        pool = [i for i, (p, _) in enumerate(places) if np.abs(p).max() < 0.85]
        if defect == "bent_part":
            pool = [i for i in range(len(parts)) if parts[i]["kind"] in ("chip", "header")]
        if defect in ("missing_part", "misplaced_part", "bent_part") and pool:
            altered = pool[int(choice.integers(len(pool)))]
            old_where, old_angle = places[altered]
            where, angle = old_where, old_angle
            part = parts[altered]
            if defect == "misplaced_part":
                aside = choice.uniform(0, 2 * np.pi)
                where = where + np.array([np.cos(aside), np.sin(aside)]) * choice.uniform(0.02, 0.09)
                angle = angle + choice.choice([-1, 1]) * choice.uniform(0.3, 0.9)
                words = ("a component placed askew", "一个元件贴装歪斜")
            elif defect == "bent_part":
                count = 2 * part["pins"] if part["kind"] == "chip" else max(int(part["size"][0] / 0.11), 2)
                bent, lean = int(choice.integers(count)), float(choice.choice([-1, 1]) * choice.uniform(0.6, 1.1))
                words = ("a bent pin", "一个引脚弯曲")
            else:
                words = ("a missing component", "缺少一个元件")
            new = None if defect == "missing_part" else (lambda c: _draw_component(c, part, where, angle, bent, lean))
            change = changed_silhouette(view, lambda c: _draw_component(c, part, old_where, old_angle), new)
            if defect == "bent_part":
                change = cv2.dilate(change.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        misprint = int(choice.integers(len(parts))) if defect == "print_error" else -1
        for index, part in enumerate(parts):
            if index == misprint:
                text = part["name"]
                wrong = "" if choice.random() < 0.5 else text[::-1] + "8"
                words = (
                    ("a missing silk-screen mark", "缺少丝印标记")
                    if not wrong
                    else ("a wrong silk-screen mark", "丝印标记错误")
                )
                spots = [Canvas(view), Canvas(view)]
                names(spots[0], index, text)
                if wrong:
                    names(spots[1], index, wrong)
                    names(canvas, index, wrong)
                reach = max(2, round(0.03 * view.scale))
                change = (
                    cv2.dilate(cv2.bitwise_or(spots[0].height, spots[1].height), np.ones((reach, reach), np.uint8)) > 0
                )
            else:
                names(canvas, index, part["name"])
            _draw_pads(canvas, part, *places[index])
        canvas.text(title, title_place, 0.08, silk, 0.0, 1, 2)
        for index, part in enumerate(parts):
            if index != altered:
                _draw_component(canvas, part, *places[index])
            elif defect != "missing_part":
                _draw_component(canvas, part, where, angle, bent, lean)
        image = canvas.image.astype(np.float32)
        raised = (canvas.height > 80).astype(np.uint8)
        cast_shadow(image, raised, view.light, 0.035 * view.scale, 0.5)
        level = cv2.GaussianBlur(canvas.height.astype(np.float32), (0, 0), max(0.6, 0.008 * view.scale))
        out = relief(image, level * np.float32(0.035 * view.scale / 255), view.light, gloss, 22, 0.55)
        return Scene(out, None, change, words)

    able = any(part["kind"] in ("chip", "header") for part in parts)
    structural = ("missing_part", "misplaced_part", "print_error") + (("bent_part",) if able else ())
    return Design(
        draw,
        f"a {name} circuit board with {len(parts)} components, each in its place and soldered straight",
        f"装有{len(parts)}个元件的{name_zh}电路板，元件应齐全、位置端正",
        structural,
    )


_WORDS = (
    "BATCH",
    "MODEL",
    "SERIAL",
    "NET WT",
    "VOLTAGE",
    "POWER",
    "LOT",
    "DATE",
    "TYPE",
    "CLASS",
    "ITEM",
    "GRADE",
    "FILTER",
    "VALVE",
    "SENSOR",
    "PUMP",
    "MOTOR",
    "SWITCH",
    "SEAL",
    "DRIVE",
    "LENS",
    "RELAY",
)


def printed_label(rng: np.random.Generator) -> Design:
    """Label on a part: heading, lines of text, a bar code or a symbol, a frame."""
    paper = vary(
        [(238, 236, 230), (226, 196, 70), (206, 210, 214), (240, 240, 240), (60, 100, 160), (40, 40, 44)][
            rng.integers(6)
        ],
        rng,
        5,
    )
    ink = np.array([28.0, 28, 32]) if paper.mean() > 115 else np.array([232.0, 232, 230])
    accent = vary([(190, 40, 40), (30, 80, 160), (30, 120, 70), tuple(ink)][rng.integers(4)], rng, 5)
    if np.abs(accent - paper).max() < 70:
        accent = ink
    backdrop = Backdrop.draw(rng)
    half = np.array([rng.uniform(0.72, 0.9), rng.uniform(0.5, 0.85)])
    heading = str(rng.choice(_WORDS[12:])) + f" {rng.integers(10, 99)}"
    lines = [f"{rng.choice(_WORDS[:12])} {rng.integers(100, 99999)}" for _ in range(int(rng.integers(2, 5)))]
    font, frame, bar = int(rng.integers(4)), rng.random() < 0.5, rng.random() < 0.65
    symbol = int(rng.integers(3))
    widths = rng.choice([1, 1, 2, 3], 40).astype(float)
    stripe = rng.random() < 0.4

    def elements() -> list[tuple]:
        top = -half[1]
        rows = []
        letter = min(0.15, half[0] * 1.6 / (len(heading) * 0.95))
        rows.append(("text", heading, np.array([0, top + 0.2]), letter, accent if not stripe else ink, 3))
        room = (2 * half[1] - 0.42 - (0.3 if bar else 0.0)) / len(lines)
        size = min(0.085, room * 0.6)
        for index, line in enumerate(lines):
            rows.append(("text", line, np.array([-half[0] * 0.12, top + 0.4 + room * (index + 0.3)]), size, ink, 2))
        if bar:
            rows.append(("bars", None, np.array([0, half[1] - 0.2]), 0.2, ink, 0))
        rows.append(("symbol", None, np.array([half[0] * 0.78, top + 0.52]), 0.1, accent, 0))
        return rows

    rows = elements()

    def put(canvas: Canvas, row: tuple, shift: tuple[float, float] = (0.0, 0.0), text: str | None = None) -> None:
        kind, words, centre, letter, colour, weight = row
        centre = centre + np.asarray(shift)
        if kind == "text":
            canvas.text(words if text is None else text, centre, letter, colour, 0.0, font, weight, words)
        elif kind == "bars":
            steps = np.concatenate([[0], np.cumsum(widths)]) / widths.sum() * half[0] * 1.5 - half[0] * 0.75
            for index in range(0, len(widths), 2):
                left, right = steps[index], steps[index + 1]
                canvas.polygon(box(centre + [(left + right) / 2, 0], right - left, letter), colour)
        elif symbol == 0:
            canvas.polygon(circle(centre, letter, 3), colour)
        elif symbol == 1:
            canvas.disc(centre, letter, colour)
            canvas.disc(centre, letter * 0.6, paper)
        else:
            canvas.polygon(box(centre, letter * 1.6, letter * 1.6), colour)
            canvas.polygon(box(centre, letter * 0.7, letter * 0.7, np.pi / 4), paper)

    def draw(view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size, texture = view.size, view.texture
        canvas = Canvas(view, backdrop.paint(view))
        canvas.polygon(box((0, 0), *(2 * half)), paper, 120)
        if stripe:
            canvas.polygon(box((0, -half[1] + 0.2), 2 * half[0], 0.36), np.clip(accent * 0.4 + paper * 0.6, 0, 255))
        if frame:
            corners = box((0, 0), *(2 * half - 0.08))
            canvas.stroke(np.concatenate([corners, corners[:1]]), 0.016, ink)
        altered, change, words, shift, text = -1, None, None, (0.0, 0.0), None
        if defect in ("print_error", "missing_part", "misplaced_part"):
            altered = int(choice.integers(len(rows)))
            row = rows[altered]
            if defect == "misplaced_part":
                aside = choice.uniform(0, 2 * np.pi)
                shift = tuple(np.array([np.cos(aside), np.sin(aside)]) * choice.uniform(0.05, 0.12))
                words = ("print out of place", "印刷位置偏移")
            elif defect == "missing_part":
                words = {
                    "text": ("a missing line of text", "缺少一行文字"),
                    "bars": ("the bar code is missing", "缺少条形码"),
                    "symbol": ("the symbol is missing", "缺少图标"),
                }[row[0]]
            else:
                if row[0] != "text":
                    altered = int(choice.integers(1 + len(lines)))
                    row = rows[altered]
                place = int(choice.integers(len(row[1])))
                place = place if row[1][place] != " " else 0
                kind = int(choice.integers(3))
                letter = str(choice.choice([c for c in "AEGKMQSWX34698" if c != row[1][place]]))
                text = [
                    row[1][:place] + " " + row[1][place + 1 :],
                    row[1][:place] + letter + row[1][place + 1 :],
                    None,
                ][kind]
                words = [
                    ("a missing letter", "缺少一个字符"),
                    ("a wrong letter", "一个字符印刷错误"),
                    ("a doubled, blurred print", "印刷重影"),
                ][kind]
            before, after = Canvas(view), Canvas(view)
            put(before, row)
            if text is None and defect == "print_error":
                shift = tuple(choice.choice([-1, 1], 2) * choice.uniform(0.02, 0.035, 2))
                put(canvas, row, shift)
                put(after, row, shift)
                change = cv2.bitwise_or(before.height, after.height)
                shift = (0.0, 0.0)
            else:
                if defect != "missing_part":
                    put(after, row, shift, text)
                change = cv2.bitwise_xor(before.height, after.height)
            reach = max(3, round(0.035 * view.scale))
            change = cv2.morphologyEx(change, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
            if row[0] == "text" and text is not None:  # thin differences of the outlines do not count
                change = cv2.morphologyEx(change, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
            change = cv2.dilate(change, np.ones((2, 2), np.uint8)) > 0
        for index, row in enumerate(rows):
            if index == altered and defect == "missing_part":
                continue
            put(canvas, row, *((shift, text) if index == altered else ()))
        solid = (canvas.height > 0).astype(np.uint8)
        image = canvas.image.astype(np.float32)
        image *= (1 + np.float32(0.012) * noise_field(texture, size, 60, 2))[..., None]
        cast_shadow(image, solid, view.light, 0.012 * view.scale, 0.4)
        curl = cv2.GaussianBlur(canvas.height.astype(np.float32), (0, 0), 1.0) * np.float32(0.004)
        return Scene(relief(image, curl, view.light, 0.0, 1, 0.6), solid > 0, change, words)

    return Design(
        draw,
        f"a printed label headed {heading} with {len(lines)} lines of text; print complete, sharp and clean",
        f"标题为{heading}、含{len(lines)}行文字的印刷标签；印刷应完整、清晰、洁净",
        ("print_error", "missing_part", "misplaced_part"),
    )
