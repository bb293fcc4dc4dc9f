"""Families of medicines: capsules and pills, single or in rows."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import FAMILIES, Backdrop, Canvas, Design, Scene, any_of, changed_silhouette, grown, silhouette
from .noise import View, cast_shadow, dome, noise_field, relief
from .outlines import circle, ray, stadium, turned
from .shapes import tinted


def _layout(rng: np.random.Generator, most: int) -> tuple[np.ndarray, float]:
    """Centres `(N, 2)` of the pieces in part units and the room (radius) of each."""
    if rng.random() < 0.35:
        return np.zeros((1, 2)), 0.85
    columns = int(rng.integers(2, most + 1))
    rows = int(rng.integers(1 if columns < 4 else 2, most + 1))
    room = 0.92 / max(columns, rows)
    x = (np.arange(columns) - (columns - 1) / 2) * 2 * room
    y = (np.arange(rows) - (rows - 1) / 2) * 2 * room
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2), room


def _rounded(
    view: View, image: np.ndarray, bodies: np.ndarray, radius: float, gloss: float, rounding: float
) -> np.ndarray:
    """Lights rounded bodies lying on a backdrop."""
    image = image.astype(np.float32)
    cast_shadow(image, bodies, view.light, radius * 0.25, 0.5)
    height = dome(bodies, radius) * np.float32(radius * rounding)
    return relief(image, cv2.GaussianBlur(height, (0, 0), max(0.7, radius * 0.08)), view.light, gloss, 28, 0.5, bodies)


class Capsules(Design):
    """Two-coloured gelatine capsules, one or an array, with or without an imprint."""

    family = "capsules"

    def __init__(self, rng: np.random.Generator):
        coatings = FAMILIES["coatings"]
        first, second = (coatings[index] for index in rng.choice(len(coatings), 2, replace=False))
        self.colours = tinted(first[2], rng, 6), tinted(second[2], rng, 6)
        self.centres, self.room = _layout(rng, 4)
        self.backdrop = Backdrop.draw(rng)
        self.heading = 0.0 if rng.random() < 0.6 else rng.uniform(0, np.pi)
        self.length = self.room * 1.75
        self.width = self.length * rng.uniform(0.34, 0.46)
        self.scatter = rng.uniform(0, 0.1)
        self.imprint, count = "", len(self.centres)
        if count < 5:
            self.imprint = "".join(rng.choice(list("ABDEKLMPRT125780"), int(rng.integers(2, 4))))
        bright = self.colours[0].mean() + self.colours[1].mean() > 180
        self.ink = np.array([30.0, 30, 34]) if bright else np.array([225.0, 225, 225])
        self.gloss = rng.uniform(0.3, 0.7)
        structural = ("missing_part", "bent_part") + (("misplaced_part",) if count > 1 else ())
        structural += ("print_error",) if self.imprint else ()
        lead, noun = (count, "capsules") if count > 1 else ("a", "capsule")
        names = dict(zip(("first", "first_zh", "second", "second_zh"), (*first[:2], *second[:2]), strict=True))
        self.describe(structural, count=count, lead=lead, noun=noun, **names)

    def _piece(self, canvas: Canvas, place: np.ndarray, angle: float, bend: float, text: str, squeeze: float) -> None:
        """Draws one capsule."""
        cap, body = self.colours
        length, wide = self.length, self.width * squeeze
        canvas.polygon(stadium(place, length, wide, angle, bend), body, 200)
        half = stadium((0, 0), length, wide * 1.03, 0.0, bend)
        half = half[half[:, 0] >= -0.02 * length]
        order = np.argsort(np.arctan2(half[:, 1], half[:, 0] - length * 0.2))
        edge = np.array([[0.03 * length, -wide * 0.515], [0.03 * length, wide * 0.515]])
        ring = np.concatenate([edge[:1], half[order], edge[1:]])
        canvas.polygon(turned(ring, angle) + place, cap, 200)
        canvas.stroke(turned(edge, angle) + place, 0.012 * length, cap * 0.7)
        self._print(canvas, place, angle, text)

    def _print(self, canvas: Canvas, place: np.ndarray, angle: float, text: str) -> None:
        if text:
            canvas.text(text, place - ray(angle) * self.length * 0.22, self.width * 0.36, self.ink, angle, 0, 2)

    def _half(self, canvas: Canvas, place: np.ndarray, angle: float) -> None:
        """Draws what is left of a capsule that lost its cap."""
        end = place - ray(angle) * self.length * 0.27
        canvas.polygon(stadium(end, self.length * 0.46, self.width * 0.98, angle), self.colours[1], 200)

    def _altered(self, canvas: Canvas, place: np.ndarray, angle: float, defect: str, choice: np.random.Generator):
        """Draws a capsule with a defect; gives where it differs from a good one, and the words."""
        good, words = (place, angle, 0.0, self.imprint, 1.0), defect
        if defect == "print_error":
            text = "" if choice.random() < 0.4 else self.imprint[::-1] + "I"
            self._piece(canvas, place, angle, 0.0, text, 1.0)
            prints = (lambda c, t=t: self._print(c, place, angle, t) for t in (text, self.imprint))
            reach = max(1, round(self.width * 0.1 * canvas.view.scale))
            return grown(silhouette(canvas.view, *prints), reach), self.words(defect if text else "no_print")
        if defect == "missing_part" and len(self.centres) > 1 and choice.random() < 0.6:
            actual = None
        elif defect == "missing_part":  # only one half lies there
            actual, words = (lambda c: self._half(c, place, angle)), "half"
        elif defect == "misplaced_part":
            moved = place + choice.normal(0, 0.12 * self.room, 2)
            askew = angle + choice.choice([-1, 1]) * choice.uniform(0.5, 1.57)
            actual = lambda c: self._piece(c, moved, askew, 0.0, self.imprint, 1.0)  # noqa: E731
        else:
            bend = choice.choice([-1, 1]) * choice.uniform(0.12, 0.25) * self.length
            squeeze = choice.uniform(0.75, 0.95)
            actual = lambda c: self._piece(c, place, angle, bend, self.imprint, squeeze)  # noqa: E731
        if actual is not None:
            actual(canvas)
        return changed_silhouette(canvas.view, lambda c: self._piece(c, *good), actual), self.words(words)

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        canvas, count = Canvas(view, self.backdrop.paint(view)), len(self.centres)
        jitter = view.texture.normal(0, self.scatter * self.room * 0.6, (count, 2))
        angles = self.heading + view.texture.normal(0, self.scatter, count)
        altered = int(choice.integers(count)) if defect else -1
        change, words = None, None
        for index in range(count):
            place, angle = self.centres[index] + jitter[index], angles[index]
            if index == altered:
                change, words = self._altered(canvas, place, angle, defect, choice)
            else:
                self._piece(canvas, place, angle, 0.0, self.imprint, 1.0)
        out = _rounded(view, canvas.image, canvas.height, self.width / 2 * view.scale, self.gloss, 0.75)
        return Scene(out, canvas.height > 0, change, words)


class Pills(Design):
    """Round or oval tablets, one or an array, with score line, imprint or speckles."""

    family = "pills"

    def __init__(self, rng: np.random.Generator):
        name, name_zh, base = any_of(FAMILIES["coatings"], rng)
        self.tone = tone = tinted(base, rng, 6)
        self.centres, self.room = _layout(rng, 4)
        count = len(self.centres)
        self.backdrop = Backdrop.draw(rng)
        oval = rng.random() < 0.4
        self.length = self.room * 1.6
        self.width = self.length * (rng.uniform(0.5, 0.7) if oval else 1.0)
        self.heading = rng.uniform(0, np.pi) if oval else 0.0
        self.scatter = rng.uniform(0, 0.08)
        mark = str(rng.choice(["", "score", "imprint", "both"]))
        letters = "".join(rng.choice(list("ABDEFHKMNPRTZ2457"), 2))
        self.score, self.imprint = mark in ("score", "both"), letters if mark in ("imprint", "both") else ""
        self.printed = rng.random() < 0.4
        self.speckles = rng.random() < 0.4
        self.fleck = tinted(tone * 0.6, rng, 20).astype(np.float32)
        self.rounding = rng.uniform(0.25, 0.6)
        self.edge = rng.uniform(0.25, 0.6)
        self.gloss = rng.uniform(0.0, 0.4)
        inks = np.array([40.0, 40, 60]), np.array([235.0, 235, 235])
        self.ink = inks[int(tone.mean() <= 110)] if self.printed else tone * 0.68
        self.blister = rng.random() < 0.3 and count > 1
        structural = ("missing_part",) + (("misplaced_part",) if count > 1 else ())
        structural += ("print_error",) if self.imprint and (self.printed or mark == "imprint") else ()
        lead, noun = (count, "pills") if count > 1 else ("a", "pill")
        self.describe(structural, lead=lead, name=name, noun=noun, count=count, name_zh=name_zh)

    def _outline(self, place: np.ndarray, angle: float, bite: np.ndarray | float = 1.0) -> np.ndarray:
        points = circle((0, 0), 1.0, 48) * np.reshape(bite, (-1, 1))
        return turned(points * [self.length / 2, self.width / 2], angle) + place

    def _print(self, canvas: Canvas, place: np.ndarray, angle: float, text: str) -> None:
        if text:
            canvas.text(text, place, self.width * 0.26, self.ink, angle, 1, 3)

    def _bite(self, choice: np.random.Generator) -> np.ndarray:
        """Factors of the radius of a pill that a piece is broken off from."""
        at, half = choice.uniform(0, 2 * np.pi), choice.uniform(0.3, 0.8)
        away = np.abs(np.angle(np.exp(1j * (np.linspace(0, 2 * np.pi, 48, endpoint=False) - at))))
        bite = np.where(away < half, np.cos(half) / np.cos(np.minimum(away, half)), 1.0)
        return np.where(away < half, bite + choice.normal(0, 0.03, 48), bite)

    def _misprint(self, view: View, place: np.ndarray, angle: float, choice: np.random.Generator):
        """A text that is not the imprint, where the two differ, and the words."""
        kind = choice.integers(3)
        text = ("", self.imprint[::-1] + "I", self.imprint[:1])[kind]
        prints = [silhouette(view, lambda c, t=t: self._print(c, place, angle, t)) for t in (self.imprint, text)]
        reach = max(2, round(self.width * 0.08 * view.scale))
        change = cv2.morphologyEx(cv2.bitwise_xor(*prints), cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8)) > 0
        return text, change, self.words(("no_print", "wrong_print", "incomplete_print")[kind])

    def _piece(self, canvas: Canvas, place: np.ndarray, angle: float, outline: np.ndarray, text: str) -> None:
        """Draws one pill."""
        canvas.polygon(outline, np.clip(self.tone * canvas.view.texture.uniform(0.97, 1.03), 0, 255), 200)
        if self.score:
            bar = turned(np.array([[0, -self.width / 2], [0, self.width / 2]]) * 0.98, angle) + place
            canvas.stroke(bar, self.width * 0.05, self.tone * 0.68, 120)
        if self.score and not self.printed:
            for letter, side in zip(text, (-1, 1), strict=False):
                aside = turned(np.array([[side * self.length * 0.25, 0]]), angle)[0]
                self._print(canvas, place + aside, angle, letter)
        else:
            self._print(canvas, place, angle, text)

    def _altered(self, canvas: Canvas, place: np.ndarray, angle: float, defect: str, choice: np.random.Generator):
        """Draws a pill with a defect; gives where it differs from a good one, and the words."""
        good, words = self._outline(place, angle), defect
        if defect == "print_error":
            text, change, words = self._misprint(canvas.view, place, angle, choice)
            self._piece(canvas, place, angle, good, text)
            return change, words
        if defect == "missing_part" and len(self.centres) > 1 and choice.random() < 0.5:
            return changed_silhouette(canvas.view, lambda c: c.polygon(good), None), self.words(words)
        if defect == "missing_part":
            outline, words = self._outline(place, angle, self._bite(choice)), "bite"
        else:
            aside = choice.uniform(0, 2 * np.pi)
            place = place + ray(aside) * self.room * choice.uniform(0.3, 0.6)
            angle += choice.choice([-1, 1]) * choice.uniform(0.5, 1.3)
            outline = self._outline(place, angle)
        self._piece(canvas, place, angle, outline, self.imprint)
        change = changed_silhouette(canvas.view, lambda c: c.polygon(good), lambda c: c.polygon(outline))
        return change, self.words(words)

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        texture, count = view.texture, len(self.centres)
        canvas = Canvas(view, self.backdrop.paint(view))
        jitter = texture.normal(0, self.scatter * self.room * 0.5, (count, 2))
        angles = self.heading + texture.normal(0, self.scatter, count)
        altered = int(choice.integers(count)) if defect else -1
        change, words = None, None
        if self.blister:
            foil = np.clip(np.asarray(self.backdrop.colour) * 0.86 + 12, 0, 255)
            for centre in self.centres:
                canvas.polygon(circle(centre, self.room * 0.96, 40), foil)
        for index in range(count):
            place, angle = self.centres[index] + jitter[index], angles[index]
            if index == altered:
                change, words = self._altered(canvas, place, angle, defect, choice)
            else:
                self._piece(canvas, place, angle, self._outline(place, angle), self.imprint)
        solid = (canvas.height > 0).astype(np.uint8)
        image = canvas.image.astype(np.float32)
        if self.speckles:
            field = noise_field(texture, view.size, 70)
            image += (np.clip(field - 1.3, 0, 1) * solid)[..., None] * (self.fleck - image)
        image += (noise_field(texture, view.size, 110) * 2.0 * solid)[..., None]
        out = _rounded(view, image, solid, self.width / 2 * self.edge * view.scale, self.gloss, self.rounding)
        return Scene(out, solid > 0, change, words)
