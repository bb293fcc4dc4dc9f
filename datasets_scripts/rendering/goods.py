"""Families of single goods: wood screw on its side, biscuit, nut kernel, painted block."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import FAMILIES, Backdrop, Canvas, Design, Scene, any_of, changed_silhouette, silhouette
from .noise import View, cast_shadow, dome, noise_field, relief
from .outlines import circle, turned
from .shapes import tinted


def _lit(view: View, image: np.ndarray, solid: np.ndarray, edge: float, depth: float, gloss: float) -> np.ndarray:
    """Shades bodies with rounded edges (`edge` and `depth` in part units) that lie on a backdrop."""
    image = np.ascontiguousarray(image, np.float32)
    cast_shadow(image, solid, view.light, 0.06 * view.scale)
    height = dome(solid, edge * view.scale) * np.float32(depth * view.scale)
    height = cv2.GaussianBlur(height, (0, 0), max(1.0, 0.25 * min(edge, 0.2) * view.scale))
    return relief(image, height, view.light, gloss, 24, 0.5, solid)


def _rounded_square(angles: np.ndarray, power: float, height: float = 1.0) -> np.ndarray:
    """Points `(N, 2)` of a square with round corners; the smaller the power, the sharper."""
    sides = [np.sign(wave) * np.abs(wave) ** power for wave in (np.cos(angles), np.sin(angles))]
    return np.stack([sides[0], sides[1] * height], 1)


def _bitten(points: np.ndarray, choice: np.random.Generator, low: float, high: float) -> np.ndarray:
    """An outline with a piece broken off along a rough line."""
    at = choice.uniform(0, 2 * np.pi)
    normal = np.array([np.cos(at), np.sin(at)])
    along = points @ normal
    limit = along.max() - choice.uniform(low, high) * np.ptp(along)
    over = along > limit + choice.normal(0, 0.012, len(points))
    cut = points.copy()
    cut[over] += (limit - along[over] + choice.normal(0, 0.02, over.sum()))[:, None] * normal
    return cut


class Screw(Design):
    """Wood screw seen from the side: head, shank, thread, tip."""

    family = "screw"

    def __init__(self, rng: np.random.Generator):
        name, name_zh, base = any_of(FAMILIES["metals"], rng)
        self.colour = tinted(base, rng)
        self.backdrop = Backdrop.draw(rng)
        self.long = rng.uniform(1.35, 1.75)
        self.thick = thick = rng.uniform(0.16, 0.26)
        self.head, self.head_long = thick * rng.uniform(1.7, 2.2), thick * rng.uniform(0.6, 1.0)
        self.countersunk = rng.random() < 0.6
        shank = rng.uniform(0.0, 0.35)
        self.pitch = thick * rng.uniform(0.35, 0.6)
        self.tip = thick * rng.uniform(0.9, 1.6)
        self.deep = thick * rng.uniform(0.16, 0.24)
        self.gloss = rng.uniform(0.25, 0.6)
        self.start = -self.long / 2
        self.thread_from = self.start + self.head_long + shank * self.long
        self.crests = np.arange(self.thread_from + self.pitch, self.long / 2 - self.tip * 0.35, self.pitch)
        self.describe(("bent_part", "missing_part"), name=name, name_zh=name_zh)

    def _ridge(self, crest: float) -> np.ndarray:
        """Outline of one turn of the thread."""
        pitch, lean = self.pitch, self.pitch * 0.28
        reach = float(self.thick / 2 * np.clip((self.long / 2 - np.array(crest)) / self.tip, 0.04, 1))
        left, right = crest - lean, crest + lean
        return np.array(
            [
                [left - pitch * 0.1, -reach * 0.8], [left, -reach], [left + pitch * 0.2, -reach * 0.8],
                [right + pitch * 0.1, reach * 0.8], [right, reach], [right - pitch * 0.2, reach * 0.8],
            ]
        )  # fmt: skip

    def _draw_screw(
        self,
        canvas: Canvas,
        sag: float = 0.0,
        end: float = 9.0,
        stripped: tuple[float, float] = (9.0, 9.0),
        with_head: bool = True,
    ) -> None:
        """Draws it, bent by `sag`, broken off at `end`, without the thread between two places."""

        def bend(points: np.ndarray) -> np.ndarray:
            points[:, 1] += sag * np.maximum(points[:, 0] + 0.2, 0) ** 2
            return points

        start, half, colour = self.start, self.long / 2, self.colour
        x = np.linspace(start + self.head_long * 0.9, min(end, half), 40)
        core = self.thick / 2 * np.clip((half - x) / self.tip, 0.04, 1)
        core = core - np.where(x > self.thread_from, self.deep * np.clip((half - x) / self.tip, 0, 1), 0)
        core = np.maximum(core, 0.012)
        body = np.concatenate([np.stack([x, core], 1), np.stack([x, -core], 1)[::-1]])
        canvas.polygon(bend(body), colour * 0.82, 170)
        if with_head:
            inner, outer = self.thick / 2 if self.countersunk else self.head / 2, self.head / 2
            neck = start + self.head_long
            canvas.polygon(np.array([[start, -outer], [neck, -inner], [neck, inner], [start, outer]]), colour, 230)
        for crest in self.crests:
            if crest <= end and not stripped[0] < crest < stripped[1]:
                canvas.polygon(bend(self._ridge(crest)), colour * 1.08, 240)

    def _damage(self, defect: str, choice: np.random.Generator) -> tuple[dict[str, object], str]:
        """How the screw is drawn with a defect, and the key of its words."""
        crests = self.crests
        if defect == "bent_part":
            return {"sag": float(choice.choice([-1, 1]) * choice.uniform(0.07, 0.25))}, defect
        kind = int(choice.integers(3))
        if kind == 0:
            return {"end": self.long / 2 - self.tip * choice.uniform(0.5, 1.5)}, "no_tip"
        if kind == 1 and len(crests) > 4:
            first = int(choice.integers(len(crests) - 3))
            last = min(first + int(choice.integers(2, 5)), len(crests) - 1)
            return {"stripped": (crests[first] - 0.01, crests[last] + 0.01)}, "no_thread"
        return {"with_head": False}, "no_head"

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        canvas = Canvas(view, self.backdrop.paint(view))
        damage, words, change = {}, None, None
        if defect:
            damage, key = self._damage(defect, choice)
            words = self.words(key)
            change = changed_silhouette(view, self._draw_screw, lambda c: self._draw_screw(c, **damage))
        self._draw_screw(canvas, **damage)
        solid, scale = (canvas.height > 0).astype(np.uint8), view.scale
        image = canvas.image + (noise_field(view.texture, view.size, 100) * 3 * solid)[..., None]
        image = np.ascontiguousarray(image, np.float32)
        cast_shadow(image, solid, view.light, 0.07 * scale)
        fine = cv2.GaussianBlur(canvas.height.astype(np.float32), (0, 0), 0.8) * np.float32(0.045 * scale / 255)
        level = dome(solid, self.thick / 2 * scale) * np.float32(self.thick * 0.4 * scale) + fine
        out = relief(image, cv2.GaussianBlur(level, (0, 0), 0.7), view.light, self.gloss, 20, 0.5, solid)
        return Scene(out, solid > 0, change, words)


class Biscuit(Design):
    """Baked biscuit: round, square or scalloped, with or without pricked holes or chocolate drops."""

    family = "biscuit"

    def __init__(self, rng: np.random.Generator):
        self.tone = tinted(any_of(self.data["doughs"], rng), rng, 8).astype(np.float32)
        self.backdrop = Backdrop.draw(rng)
        shapes = self.data["shapes"]
        kind = str(rng.choice(list(shapes)))
        self.reach = reach = rng.uniform(0.62, 0.82)
        angles = np.linspace(0, 2 * np.pi, 120, endpoint=False)
        if kind == "square":
            self.outline = _rounded_square(angles, 0.28, rng.uniform(0.7, 1)) * reach
        elif kind == "scalloped":
            waves = 0.04 * np.cos(int(rng.integers(14, 26)) * angles)
            self.outline = circle((0, 0), 1.0, 120) * (reach * (1 + waves))[:, None]
        else:
            self.outline = circle((0, 0), 1.0, 120) * reach
        number = int(rng.choice([0, 3, 4, 5]))
        lattice = (np.arange(number) - (number - 1) / 2) * reach * 1.5 / max(number, 1)
        pricks = np.stack(np.meshgrid(lattice, lattice), -1).reshape(-1, 2)
        self.pricks = pricks[np.hypot(*pricks.T) < reach * 0.85]
        self.drops = number == 0 and rng.random() < 0.6
        self.rough = rng.uniform(0.3, 1.0)
        extra, extra_zh = (" with chocolate drops", "，带巧克力粒") if self.drops else ("", "")
        self.describe(("missing_part",), kind=kind, kind_zh=shapes[kind], extra=extra, extra_zh=extra_zh)

    def _top(self, canvas: Canvas) -> None:
        """Pricks holes or puts drops on top."""
        texture = canvas.view.texture
        for prick in self.pricks:
            canvas.disc(prick + texture.normal(0, 0.008, 2), 0.022, self.tone * 0.45, 60)
        for _ in range(int(texture.integers(9, 16)) if self.drops else 0):
            angle, away = texture.uniform(0, 2 * np.pi), self.reach * np.sqrt(texture.uniform(0, 0.72))
            place = np.array([np.cos(angle), np.sin(angle)]) * away
            canvas.polygon(circle(place, texture.uniform(0.03, 0.07), 7), (58, 36, 26), 255)

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        texture, size, scale = view.texture, view.size, view.scale
        canvas = Canvas(view, self.backdrop.paint(view))
        uneven = np.interp(np.arange(120), np.arange(0, 130, 10), texture.standard_normal(13))
        whole = actual = self.outline * (1 + 0.012 * uneven[:, None])
        change = None
        if defect == "missing_part":
            actual = _bitten(whole, choice, 0.08, 0.28)
            change = changed_silhouette(view, lambda c: c.polygon(whole), lambda c: c.polygon(actual))
        canvas.polygon(actual, self.tone, 200)
        solid = (canvas.height > 0).astype(np.uint8)
        plain = canvas.image.copy()
        self._top(canvas)
        canvas.image[solid == 0] = plain[solid == 0]  # nothing pricked or dropped beside the biscuit
        canvas.height *= solid
        rim = dome(solid, 0.16 * scale)
        crumb = noise_field(texture, size, 60, 2, 0.8)
        cloud = noise_field(texture, size, 6, 2)
        shade = 1 + solid * (0.05 * crumb + 0.06 * cloud - 0.28 * (1 - rim))
        image = np.ascontiguousarray(canvas.image * shade[..., None], np.float32)
        cast_shadow(image, solid, view.light, 0.06 * scale)
        fine = (canvas.height.astype(np.float32) * np.float32(1 / 200) + np.float32(0.12 * self.rough) * crumb) * solid
        level = rim * np.float32(0.07 * scale) + cv2.GaussianBlur(fine, (0, 0), 0.8) * np.float32(0.02 * scale)
        out = relief(image, cv2.GaussianBlur(level, (0, 0), 0.8), view.light, 0.0, 1, 0.5, solid)
        return Scene(out, solid > 0, change, self.words(defect) if defect else None)


class Kernel(Design):
    """Nut kernel or bean: an uneven rounded body with a striped or mottled skin."""

    family = "kernel"

    def __init__(self, rng: np.random.Generator):
        self.name, name_zh, base, self.ratio, self.point, self.sag = any_of(self.data["materials"], rng)
        self.tone = tinted(base, rng, 8).astype(np.float32)
        self.backdrop = Backdrop.draw(rng)
        self.reach = rng.uniform(0.6, 0.8)
        self.stripes = rng.uniform(0.04, 0.12)
        self.gloss = rng.uniform(0.1, 0.4)
        self.describe(("missing_part",), name=self.name, name_zh=name_zh)

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        texture, size, reach = view.texture, view.size, self.reach
        angles = np.linspace(0, 2 * np.pi, 100, endpoint=False)
        waves = np.cos(angles[:, None] * np.arange(2, 5) + texture.uniform(0, 6.28, 3)) @ texture.normal(0, 0.02, 3)
        radius = reach * (1 + waves) * (1 + self.point * np.maximum(np.cos(angles), 0) ** 6)
        whole = np.stack([radius * np.cos(angles), radius * np.sin(angles) * self.ratio], 1)
        whole[:, 1] += self.sag * (whole[:, 0] ** 2 - 0.25 * reach)
        actual, change = whole, None
        if defect == "missing_part":
            actual = _bitten(whole, choice, 0.08, 0.3)
            change = changed_silhouette(view, lambda c: c.polygon(whole), lambda c: c.polygon(actual))
        canvas = Canvas(view, self.backdrop.paint(view))
        canvas.polygon(actual, self.tone, 200)
        solid = (canvas.height > 0).astype(np.uint8)
        skin = view.turn(noise_field(texture, size, (90, 7), 2)) * np.float32(self.stripes * 0.7)
        skin += np.float32(0.04) * noise_field(texture, size, 9, 3)
        image = canvas.image * (1 + skin * solid)[..., None]
        if self.name == "hazelnut":
            x, y = view.coordinates()
            cap = np.clip((np.float32(0.36) - np.hypot(x + reach * 0.55, y)) * 14, 0, 1) * solid
            image = image + cap[..., None] * (np.array([204, 176, 134], np.float32) * (1 + skin[..., None]) - image)
        out = _lit(view, image, solid, reach * self.ratio * 0.95, reach * 0.4, self.gloss)
        return Scene(out, solid > 0, change, self.words(defect) if defect else None)


class Block(Design):
    """Painted or plain wooden or plastic blocks with a printed sign, one or several in a row."""

    family = "block"

    def __init__(self, rng: np.random.Generator):
        name, name_zh, base = any_of(self.data["materials"], rng)
        self.tone = tinted(base, rng, 8)
        self.backdrop = Backdrop.draw(rng)
        count = int(rng.choice([1, 1, 2, 3, 4]))
        self.side = {1: 1.2, 2: 0.78, 3: 0.54, 4: 0.42}[count] * rng.uniform(0.85, 1.05)
        gap = self.side * rng.uniform(1.05, 1.2)
        self.centres = np.stack([(np.arange(count) - (count - 1) / 2) * gap, np.zeros(count)], 1)
        letters = list("ABCDEFGHKMRS23456789")
        self.signs = [str(rng.choice(letters)) if rng.random() < 0.8 else "" for _ in range(count)]
        self.signs[0] = self.signs[0] or "A"
        self.ink = np.array([250.0, 248, 240]) if self.tone.mean() < 130 else np.array([40.0, 36, 34])
        self.font = int(rng.integers(4))
        self.grain = rng.uniform(0.02, 0.08)
        self.edge, self.gloss = rng.uniform(0.03, 0.1), rng.uniform(0.05, 0.5)
        lead = f"{count} {name} blocks in a row" if count > 1 else f"a {name} block"
        structural = ("missing_part", "print_error") + (("misplaced_part",) if count > 1 else ())
        self.describe(structural, lead=lead, count=count, name_zh=name_zh)

    def _outline(self, place: np.ndarray, angle: float) -> np.ndarray:
        corners = _rounded_square(np.linspace(0, 2 * np.pi, 60, endpoint=False), 0.18)
        return turned(corners * self.side / 2, angle) + place

    def _print(self, canvas: Canvas, place: np.ndarray, angle: float, sign: str) -> None:
        if sign:
            canvas.text(sign, place, self.side * 0.5, self.ink, angle, self.font, 3)

    def _piece(self, canvas: Canvas, outline: np.ndarray, place: np.ndarray, angle: float, sign: str) -> None:
        """Draws one block."""
        canvas.polygon(outline, np.clip(self.tone * canvas.view.texture.uniform(0.96, 1.04), 0, 255), 200)
        self._print(canvas, place, angle, sign)

    def _altered(
        self, canvas: Canvas, place: np.ndarray, angle: float, sign: str, defect: str, choice: np.random.Generator
    ) -> tuple[np.ndarray, tuple[str, str]]:
        """Draws a block with a defect; gives where it differs from a good one, and the words."""
        view, plain, words = canvas.view, self._outline(place, angle), defect
        if defect == "print_error":
            wrong = "" if choice.random() < 0.4 else str(choice.choice([c for c in "XWNPTY" if c != sign]))
            prints = [silhouette(view, lambda c, s=s: self._print(c, place, angle, s)) for s in (sign, wrong)]
            self._piece(canvas, plain, place, angle, wrong)
            change = cv2.morphologyEx(cv2.bitwise_xor(*prints), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0
            return change, self.words(words if wrong else "no_print")
        if defect == "missing_part":
            outline = _bitten(plain, choice, 0.06, 0.2)
        else:
            angle += choice.choice([-1, 1]) * choice.uniform(0.2, 0.7)
            place = place + choice.normal(0, 0.04, 2)
            outline = self._outline(place, angle)
        self._piece(canvas, outline, place, angle, sign)
        change = changed_silhouette(view, lambda c: c.polygon(plain), lambda c: c.polygon(outline))
        return change, self.words(words)

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        texture, count = view.texture, len(self.centres)
        canvas = Canvas(view, self.backdrop.paint(view))
        altered = int(choice.integers(count)) if defect else -1
        jitter = texture.normal(0, 0.012, (count, 2))
        angles = texture.normal(0, 0.015, count)
        change, words = None, None
        if defect == "print_error":
            altered = int(choice.choice([i for i in range(count) if self.signs[i]]))
        for index, sign in enumerate(self.signs):
            place, angle = self.centres[index] + jitter[index], angles[index]
            if index == altered:
                change, words = self._altered(canvas, place, angle, sign, defect, choice)
            else:
                self._piece(canvas, self._outline(place, angle), place, angle, sign)
        solid = (canvas.height > 0).astype(np.uint8)
        fibres = view.turn(noise_field(texture, view.size, (70, 3), 2)) * np.float32(self.grain)
        image = canvas.image * (1 + fibres * solid)[..., None]
        return Scene(_lit(view, image, solid, self.edge, self.edge * 0.7, self.gloss), solid > 0, change, words)
