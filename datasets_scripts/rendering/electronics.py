"""Printed things: circuit boards with components, and labels with text and bar codes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from .canvas import FAMILIES, Backdrop, Canvas, Design, Scene, any_of, changed_silhouette, grown, silhouette
from .noise import View, cast_shadow, noise_field, relief, to_uint8
from .outlines import box, circle, ray, turned
from .shapes import tinted

_PAD = np.array([198.0, 186, 150])
_MARKS = {"chip": "IC", "resistor": "R", "capacitor": "C", "can": "C", "led": "D", "header": "J", "crystal": "X"}
_SHARES = {"chip": 0.2, "resistor": 0.24, "capacitor": 0.2, "can": 0.1, "led": 0.1, "header": 0.08, "crystal": 0.08}


@dataclass(frozen=True)
class _Component:
    """One component of a board: its kind, size in part units, colour, marking, and where it is soldered."""

    kind: str
    size: tuple[float, float]
    colour: np.ndarray
    name: str
    pins: int
    upright: bool
    centre: np.ndarray | None = None
    angle: float = 0.0

    @classmethod
    def random(cls, rng: np.random.Generator, kind: str) -> _Component:
        size = rng.uniform(0.85, 1.2)
        width, height, colour = {
            "chip": (0.42 * size, 0.34 * size, (42, 42, 46)),
            "resistor": (0.2 * size, 0.1 * size, (34, 34, 38)),
            "capacitor": (0.2 * size, 0.11 * size, (176, 148, 108)),
            "can": (0.26 * size, 0.26 * size, (190, 192, 196)),
            "led": (0.17 * size, 0.12 * size, any_of(FAMILIES["circuit_board"]["led_colours"], rng)),
            "header": (0.16 * int(rng.integers(3, 6)) * 0.8, 0.14, (30, 30, 32)),
            "crystal": (0.34 * size, 0.15 * size, (188, 190, 194)),
        }[kind]
        colour, name = tinted(colour, rng, 5), f"{_MARKS[kind]}{rng.integers(1, 30)}"
        return cls(kind, (width, height), colour, name, int(rng.integers(4, 8)), rng.random() < 0.4)

    @property
    def legs(self) -> int:
        """How many pins there are to bend."""
        return 2 * self.pins if self.kind == "chip" else max(int(self.size[0] / 0.11), 2)

    def _placed(self, points: np.ndarray) -> np.ndarray:
        return turned(points, self.angle) + self.centre

    def draw(self, canvas: Canvas, bent: int = -1, lean: float = 0.0) -> None:
        """Draws it; pin number `bent` leans by `lean` radians."""
        if self.kind == "chip":
            self._draw_chip(canvas, bent, lean)
        elif self.kind == "header":
            self._draw_header(canvas, bent, lean)
        elif self.kind == "can":
            canvas.disc(self.centre, self.size[0] / 2, self.colour, 240)
            if canvas.image is not None:
                arc = np.linspace(-0.9, 0.9, 9)
                sector = np.stack([np.cos(arc), np.sin(arc)], 1) * self.size[0] * 0.46
                canvas.polygon(self._placed(sector), (40, 40, 44))
        else:
            (width, height), cap = self.size, self.size[0] * 0.22
            body = box((0, 0), width - 2 * cap, height * (1.0 if self.kind != "led" else 0.9))
            canvas.polygon(self._placed(box((0, 0), width, height)), (204, 204, 206), 130)
            canvas.polygon(self._placed(body), self.colour, 140)
            if self.kind == "crystal" and canvas.image is not None:
                canvas.polygon(self._placed(box((0, 0), width * 0.96, height * 0.9)), self.colour, 180)

    def _draw_chip(self, canvas: Canvas, bent: int, lean: float) -> None:
        width, height = self.size
        step = width / self.pins
        for index in range(2 * self.pins):
            side = 1 if index < self.pins else -1
            x = (index % self.pins - (self.pins - 1) / 2) * step
            pin = turned(box((0, 0.05 * side), step * 0.45, 0.1), lean if index == bent else 0.0)
            canvas.polygon(self._placed(pin + [x, side * height / 2]), (206, 206, 210), 90)
        canvas.polygon(self._placed(box((0, 0), width, height)), self.colour, 200)
        canvas.disc(self._placed(np.array([[-width * 0.38, height * 0.3]]))[0], 0.018, self.colour * 1.7)
        if canvas.image is not None:
            canvas.text(self.name, self.centre, 0.05, (168, 168, 170), self.angle, 0, 2)

    def _draw_header(self, canvas: Canvas, bent: int, lean: float) -> None:
        canvas.polygon(self._placed(box((0, 0), *self.size)), self.colour, 170)
        for index in range(self.legs):
            x = (index - (self.legs - 1) / 2) * self.size[0] / self.legs
            pin = turned(box((0, 0), 0.045, 0.045), lean if index == bent else 0)
            shift = [0.0, 0.07 * np.sign(lean)] if index == bent else [0.0, 0.0]
            canvas.polygon(self._placed(pin + [x, 0] + shift), (222, 192, 110), 250)

    def draw_pads(self, canvas: Canvas) -> None:
        """Draws what it is soldered to."""
        width, height = self.size
        if self.kind == "chip":
            step = width / self.pins
            places = [(i - (self.pins - 1) / 2) * step for i in range(self.pins)]
            spots = [box((x, s * (height / 2 + 0.05)), step * 0.6, 0.13) for x in places for s in (-1, 1)]
        else:
            spots = [box((s * width * 0.42, 0), width * 0.36, height * 1.2) for s in (-1, 1)]
        for spot in spots:
            canvas.polygon(self._placed(spot), _PAD, 20)


class CircuitBoard(Design):
    """Populated circuit board: tracks, vias, pads, silk screen, components."""

    family = "circuit_board"

    def __init__(self, rng: np.random.Generator):
        name, name_zh, base = self.data["materials"][rng.choice(5, p=[0.45, 0.2, 0.15, 0.1, 0.1])]
        self.board = tinted(base, rng, 6)
        self.silk = np.array([40.0, 40, 44]) if name == "white" else np.array([226.0, 228, 224])
        self.parts = self._components(rng)
        self.tracks = []
        for _ in range(int(rng.integers(10, 20))):
            start, end = rng.uniform(-1.3, 1.3, 2), rng.uniform(-1.3, 1.3, 2)
            step = end - start
            self.tracks.append(np.array([start, start + np.sign(step) * np.abs(step).min(), end]))
        self.track_width = rng.uniform(0.014, 0.03)
        self.vias = rng.uniform(-1.1, 1.1, (int(rng.integers(6, 18)), 2))
        self.title = "".join(rng.choice(list("ABCDEFXZ"), 2)) + f"-{rng.integers(10, 999)}"
        self.title_place = rng.uniform(-0.4, 0.4), float(rng.choice([-0.93, 0.93]))
        self.gloss = rng.uniform(0.1, 0.45)
        self.pinned = [index for index, part in enumerate(self.parts) if part.kind in ("chip", "header")]
        structural = ("missing_part", "misplaced_part", "print_error") + (("bent_part",) if self.pinned else ())
        self.describe(structural, name=name, name_zh=name_zh, count=len(self.parts))

    def _components(self, rng: np.random.Generator) -> list[_Component]:
        """Components on a grid with gaps, each as large as its cell allows."""
        rows, columns = int(rng.integers(3, 5)), int(rng.integers(3, 5))
        cell = np.array([2.0 / columns, 2.0 / rows])
        parts = []
        for row, column in np.ndindex(rows, columns):
            if rng.random() < 0.12:
                continue
            kind = str(rng.choice(list(_SHARES), p=list(_SHARES.values())))
            part = _Component.random(rng, kind)
            most = cell.min() * 0.72 if kind in ("chip", "can") else cell[0] * 0.8
            where = (np.array([column, row]) + 0.5) * cell - 1 + rng.uniform(-0.1, 0.1, 2) * cell
            angle = np.pi / 2 if part.upright and kind != "header" else 0.0
            parts.append(replace(part, size=tuple(np.minimum(part.size, most)), centre=where * 0.98, angle=angle))
        return parts

    def _name(self, canvas: Canvas, part: _Component, text: str) -> None:
        """Prints a text where the name of a component stands."""
        if text:
            reach = part.size[0 if part.angle else 1] / 2 + 0.1
            canvas.text(text, part.centre + [0, -reach], 0.055, self.silk, 0.0, 0, 2)

    def _alter(self, view: View, defect: str | None, choice: np.random.Generator):
        """A component with a defect: its number, how it is drawn then, where that differs."""
        pool = [i for i, part in enumerate(self.parts) if np.abs(part.centre).max() < 0.85]
        pool = self.pinned if defect == "bent_part" else pool
        if defect not in ("missing_part", "misplaced_part", "bent_part") or not pool:
            return -1, None, None
        altered = any_of(pool, choice)
        part = self.parts[altered]
        if defect == "missing_part":
            return altered, None, changed_silhouette(view, part.draw, None)
        if defect == "misplaced_part":
            aside = choice.uniform(0, 2 * np.pi)
            centre = part.centre + ray(aside) * choice.uniform(0.02, 0.09)
            actual = replace(part, centre=centre, angle=part.angle + choice.choice([-1, 1]) * choice.uniform(0.3, 0.9))
            return altered, actual.draw, changed_silhouette(view, part.draw, actual.draw)
        bent, lean = int(choice.integers(part.legs)), float(choice.choice([-1, 1]) * choice.uniform(0.6, 1.1))

        def draw_bent(canvas: Canvas) -> None:
            part.draw(canvas, bent, lean)

        return altered, draw_bent, grown(changed_silhouette(view, part.draw, draw_bent), 3)

    def _print_names(self, canvas: Canvas, defect: str | None, choice: np.random.Generator):
        """Prints the silk screen and the pads; gives where a misprint differs, and the words."""
        misprint = int(choice.integers(len(self.parts))) if defect == "print_error" else -1
        change, words = None, None
        for index, part in enumerate(self.parts):
            text = part.name
            if index == misprint:
                text = "" if choice.random() < 0.5 else part.name[::-1] + "8"
                words = self.words("print_error" if text else "no_print")
                texts = (part.name, text)
                prints = silhouette(canvas.view, *(lambda c, p=part, t=t: self._name(c, p, t) for t in texts))
                change = grown(prints, max(2, round(0.03 * canvas.view.scale)))
            self._name(canvas, part, text)
            part.draw_pads(canvas)
        canvas.text(self.title, self.title_place, 0.08, self.silk, 0.0, 1, 2)
        return change, words

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size = view.size
        ground = np.broadcast_to(self.board.astype(np.float32), (size, size, 3))
        canvas = Canvas(view, to_uint8(ground + (noise_field(view.texture, size, 80, 2) * 2)[..., None]))
        for track in self.tracks:
            canvas.stroke(track, self.track_width, np.clip(self.board * 1.25 + 14, 0, 255), 8)
        for via in self.vias:
            canvas.disc(via, 0.035, _PAD, 14)
            canvas.disc(via, 0.016, (20, 20, 22), 1)
        altered, draw_altered, change = self._alter(view, defect, choice)
        misprinted, words = self._print_names(canvas, defect, choice)
        for index, part in enumerate(self.parts):
            if index != altered:
                part.draw(canvas)
            elif draw_altered is not None:
                draw_altered(canvas)
        if altered >= 0:
            words = self.words(defect)
        image = canvas.image.astype(np.float32)
        raised = (canvas.height > 80).astype(np.uint8)
        cast_shadow(image, raised, view.light, 0.035 * view.scale, 0.5)
        level = cv2.GaussianBlur(canvas.height.astype(np.float32), (0, 0), max(0.6, 0.008 * view.scale))
        out = relief(image, level * np.float32(0.035 * view.scale / 255), view.light, self.gloss, 22, 0.55)
        return Scene(out, None, change if misprinted is None else misprinted, words)


@dataclass(frozen=True)
class _Print:
    """Something printed on a label: a line of text, the bar code or the symbol."""

    kind: str
    text: str
    centre: np.ndarray
    letter: float
    colour: np.ndarray
    weight: int = 0


class PrintedLabel(Design):
    """Label on a part: heading, lines of text, a bar code or a symbol, a frame."""

    family = "printed_label"

    def __init__(self, rng: np.random.Generator):
        self.paper = paper = tinted(any_of(self.data["papers"], rng), rng, 5)
        self.ink = np.array([28.0, 28, 32]) if paper.mean() > 115 else np.array([232.0, 232, 230])
        accent = tinted(any_of([*self.data["accents"], tuple(self.ink)], rng), rng, 5)
        self.accent = self.ink if np.abs(accent - paper).max() < 70 else accent
        self.backdrop = Backdrop.draw(rng)
        self.half = np.array([rng.uniform(0.72, 0.9), rng.uniform(0.5, 0.85)])
        heading = str(rng.choice(self.data["headings"])) + f" {rng.integers(10, 99)}"
        fields = self.data["fields"]
        lines = [f"{rng.choice(fields)} {rng.integers(100, 99999)}" for _ in range(int(rng.integers(2, 5)))]
        self.font, self.frame, bars = int(rng.integers(4)), rng.random() < 0.5, rng.random() < 0.65
        self.symbol = int(rng.integers(3))
        self.widths = rng.choice([1, 1, 2, 3], 40).astype(float)
        self.stripe = rng.random() < 0.4
        self.rows = self._rows(heading, lines, bars)
        self.describe(("print_error", "missing_part", "misplaced_part"), heading=heading, count=len(lines))

    def _rows(self, heading: str, lines: list[str], bars: bool) -> list[_Print]:
        """Everything printed, the texts first."""
        (wide, high), ink = self.half, self.ink
        letter = min(0.15, wide * 1.6 / (len(heading) * 0.95))
        colour = ink if self.stripe else self.accent
        rows = [_Print("text", heading, np.array([0, -high + 0.2]), letter, colour, 3)]
        room = (2 * high - 0.42 - (0.3 if bars else 0.0)) / len(lines)
        size = min(0.085, room * 0.6)
        for index, line in enumerate(lines):
            place = np.array([-wide * 0.12, -high + 0.4 + room * (index + 0.3)])
            rows.append(_Print("text", line, place, size, ink, 2))
        if bars:
            rows.append(_Print("bars", "", np.array([0, high - 0.2]), 0.2, ink))
        return [*rows, _Print("symbol", "", np.array([wide * 0.78, -high + 0.52]), 0.1, self.accent)]

    def _put(self, canvas: Canvas, row: _Print, shift: np.ndarray | float = 0.0, text: str | None = None) -> None:
        """Draws one of the rows, moved aside or with another text."""
        centre, letter, colour = row.centre + shift, row.letter, row.colour
        if row.kind == "text":
            words = row.text if text is None else text
            canvas.text(words, centre, letter, colour, 0.0, self.font, row.weight, row.text)
        elif row.kind == "bars":
            wide = self.half[0]
            steps = np.concatenate([[0], np.cumsum(self.widths)]) / self.widths.sum() * wide * 1.5 - wide * 0.75
            for left, right in zip(steps[:-1:2], steps[1::2], strict=True):
                canvas.polygon(box(centre + [(left + right) / 2, 0], right - left, letter), colour)
        elif self.symbol == 0:
            canvas.polygon(circle(centre, letter, 3), colour)
        elif self.symbol == 1:
            canvas.disc(centre, letter, colour)
            canvas.disc(centre, letter * 0.6, self.paper)
        else:
            canvas.polygon(box(centre, letter * 1.6, letter * 1.6), colour)
            canvas.polygon(box(centre, letter * 0.7, letter * 0.7, np.pi / 4), self.paper)

    def _alter(
        self, defect: str, choice: np.random.Generator
    ) -> tuple[int, np.ndarray, str | None, np.ndarray | None]:
        """The row with the defect: its number, how far it is moved, another text, how far its double print is."""
        altered, still = int(choice.integers(len(self.rows))), np.zeros(2)
        if defect == "misplaced_part":
            return altered, ray(choice.uniform(0, 2 * np.pi)) * choice.uniform(0.05, 0.12), None, None
        if defect == "missing_part":
            return altered, still, None, None
        if self.rows[altered].kind != "text":
            altered = int(choice.integers(sum(row.kind == "text" for row in self.rows)))
        text = self.rows[altered].text
        place = int(choice.integers(len(text)))
        place = place if text[place] != " " else 0
        kind = int(choice.integers(3))
        letter = str(choice.choice([c for c in "AEGKMQSWX34698" if c != text[place]]))
        if kind == 2:
            return altered, still, None, choice.choice([-1, 1], 2) * choice.uniform(0.02, 0.035, 2)
        return altered, still, text[:place] + (" ", letter)[kind] + text[place + 1 :], None

    def _change(self, view: View, row: _Print, defect: str, shift: np.ndarray, text: str | None) -> np.ndarray:
        """Where an altered row differs."""
        before = silhouette(view, lambda c: self._put(c, row))
        after = silhouette(view, None if defect == "missing_part" else lambda c: self._put(c, row, shift, text))
        doubled = defect == "print_error" and text is None
        change = cv2.bitwise_or(before, after) if doubled else cv2.bitwise_xor(before, after)
        reach = max(3, round(0.035 * view.scale))
        change = cv2.morphologyEx(change, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
        if text is not None:  # thin differences of the outlines do not count
            change = cv2.morphologyEx(change, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        return grown(change, 2)

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        canvas = Canvas(view, self.backdrop.paint(view))
        canvas.polygon(box((0, 0), *(2 * self.half)), self.paper, 120)
        if self.stripe:
            place, colour = (0, -self.half[1] + 0.2), np.clip(self.accent * 0.4 + self.paper * 0.6, 0, 255)
            canvas.polygon(box(place, 2 * self.half[0], 0.36), colour)
        if self.frame:
            corners = box((0, 0), *(2 * self.half - 0.08))
            canvas.stroke(np.concatenate([corners, corners[:1]]), 0.016, self.ink)
        altered, change, words = -1, None, None
        if defect is not None:
            altered, shift, text, double = self._alter(defect, choice)
            row = self.rows[altered]
            if double is not None:
                self._put(canvas, row, double)
            change = self._change(view, row, defect, shift if double is None else double, text)
            key = {"misplaced_part": defect, "missing_part": f"no_{row.kind}"}.get(defect, "doubled")
            if text is not None:
                key = "missing_letter" if text.count(" ") > row.text.count(" ") else "wrong_letter"
            words = self.words(key)
        for index, row in enumerate(self.rows):
            if index != altered:
                self._put(canvas, row)
            elif defect != "missing_part":
                self._put(canvas, row, shift, text)
        solid = (canvas.height > 0).astype(np.uint8)
        image = canvas.image.astype(np.float32)
        image *= (1 + np.float32(0.012) * noise_field(view.texture, view.size, 60, 2))[..., None]
        cast_shadow(image, solid, view.light, 0.012 * view.scale, 0.4)
        curl = cv2.GaussianBlur(canvas.height.astype(np.float32), (0, 0), 1.0) * np.float32(0.004)
        return Scene(relief(image, curl, view.light, 0.0, 1, 0.6), solid > 0, change, words)
