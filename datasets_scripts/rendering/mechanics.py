"""Families of single mechanical objects: gear, hexagonal nut, bottle from above, cable in cross-section."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import BLACK, FAMILIES, Backdrop, Canvas, Design, Scene, any_of, changed_silhouette, grown, silhouette
from .noise import View, cast_shadow, noise_field, relief
from .outlines import box, circle, ray, turned
from .shapes import tinted


def _bevelled(
    canvas: Canvas, outline: np.ndarray, edge: float, depth: float, gloss: float, shadow: float, grain: float
) -> np.ndarray:
    """Shades a canvas whose heights are flat levels: bevelled edges, metal grain, shadow on the backdrop."""
    view, image = canvas.view, canvas.image.astype(np.float32)
    solid = (outline > 0).astype(np.float32)
    if grain:
        image += (noise_field(view.texture, view.size, 110) * np.float32(grain) * solid)[..., None]
        image += (noise_field(view.texture, view.size, 4, 2) * np.float32(grain * 0.7) * solid)[..., None]
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


class Gear(Design):
    """Spur gear of metal or plastic with a bore, a keyway and openings."""

    family = "gear"

    def __init__(self, rng: np.random.Generator):
        self.plastic = rng.random() < 0.3
        name, name_zh, base = any_of(self.data["plastics"] if self.plastic else FAMILIES["metals"], rng)
        self.colour = tinted(base, rng)
        self.backdrop = Backdrop.draw(rng)
        self.teeth = int(rng.integers(12, 34))
        outer = rng.uniform(0.7, 0.88)
        self.depth = rng.uniform(0.07, 0.14) * (24 / self.teeth) ** 0.4
        self.tip, self.root = rng.uniform(0.3, 0.45), rng.uniform(0.6, 0.75)
        self.bore = rng.uniform(0.12, 0.26)
        self.openings = int(rng.choice([0, 0, 4, 5, 6]))
        self.inner = outer - self.depth
        self.opening_radius = min(0.13, (self.inner - self.bore) * 0.3)
        self.groove = rng.random() < 0.5
        self.keyway = rng.random() < 0.6
        self.strength = 0.0 if self.plastic else rng.uniform(0.05, 0.16)
        self.glare_start = rng.uniform(0, np.pi)
        self.gloss = rng.uniform(0.1, 0.5)
        self.ground = np.asarray(self.backdrop.colour)
        structural = ("missing_part", "bent_part", "misplaced_part")[: 3 if self.openings else 2]
        self.describe(structural, name=name, name_zh=name_zh, teeth=self.teeth)

    def _tooth(self, index: int, lean: float = 0.0, shrink: float = 1.0) -> np.ndarray:
        step = 2 * np.pi / self.teeth
        angles = np.array([-self.root / 2, -self.tip / 2, self.tip / 2, self.root / 2]) * step
        angles[1:3] += lean * step
        angles = angles + index * step
        low, high = self.inner * 0.97, self.inner + self.depth * shrink
        radii = np.array([low, high, high, low])
        return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)

    def _altered_teeth(self, defect: str, choice: np.random.Generator) -> dict[int, np.ndarray]:
        """Outlines of one to four neighbouring teeth that are bent or broken off, by number."""
        first = int(choice.integers(self.teeth))
        number = int(choice.choice([1, 1, 2, 3] if self.teeth < 22 else [1, 2, 3, 4]))
        lean, shapes = choice.choice([-1, 1]), {}
        for index in range(first, first + number):
            if defect == "bent_part":
                shape = self._tooth(index, lean * choice.uniform(0.3, 0.6), choice.uniform(0.7, 0.95))
            else:
                shape = self._tooth(index, 0.0, choice.uniform(0.05, 0.4))
            shapes[index % self.teeth] = shape
        return shapes

    def _centres(self, lost: int, choice: np.random.Generator) -> list[np.ndarray]:
        """Centres of the openings, one of them out of place."""
        angles = [2 * np.pi * index / self.openings + 0.3 for index in range(self.openings)]
        centres = [ray(angle) * ((self.inner + self.bore) / 2) for angle in angles]
        if lost >= 0:
            aside = choice.choice([-1, 1]) * choice.uniform(0.06, 0.12)
            centres[lost] = centres[lost] + aside * ray(angles[lost] + np.pi / 2)
        return centres

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        canvas, colour = Canvas(view, self.backdrop.paint(view)), self.colour
        shapes, change, words = {}, None, None
        if defect in ("missing_part", "bent_part"):
            shapes = self._altered_teeth(defect, choice)
            words = self.words(defect, number=len(shapes), teeth="teeth" if len(shapes) > 1 else "tooth")
            change = changed_silhouette(
                view,
                lambda c: [c.polygon(self._tooth(index)) for index in shapes],
                lambda c: [c.polygon(shape) for shape in shapes.values()],
            )
        for index in range(self.teeth):
            canvas.polygon(shapes.get(index, self._tooth(index)), colour, 200)
        canvas.polygon(circle((0, 0), self.inner, 90), colour, 200)
        if self.groove:
            canvas.polygon(circle((0, 0), self.inner * 0.9, 72), colour * 0.88, 150)
            canvas.polygon(circle((0, 0), self.bore * 1.7, 60), colour, 200)
        lost = int(choice.integers(self.openings)) if defect == "misplaced_part" and self.openings else -1
        designed, actual = self._centres(-1, choice), self._centres(lost, choice)
        for centre in actual:
            canvas.disc(centre, self.opening_radius, self.ground * 0.8, 1)
        if lost >= 0:
            words = self.words(defect)
            change = changed_silhouette(
                view, *(lambda c, at=at[lost]: c.disc(at, self.opening_radius) for at in (designed, actual))
            )
        canvas.polygon(circle((0, 0), self.bore, 48), self.ground * 0.75, 1)
        if self.keyway:
            canvas.polygon(box((self.bore, 0), self.bore * 0.5, self.bore * 0.5), self.ground * 0.75, 1)
        outline = (canvas.height > 1) * np.uint8(255)
        if self.strength:
            glare = _radial_glare(view, self.strength, self.glare_start)
            canvas.image = np.where(outline[..., None] > 0, canvas.image * glare[..., None], canvas.image)
        out = _bevelled(canvas, outline, 0.008, 0.09, self.gloss, 0.05, 0 if self.plastic else 3)
        return Scene(out, outline > 0, change, words)


class HexNut(Design):
    """Hexagonal nut with chamfer and thread, with or without a flange or a stamped mark."""

    family = "hex_nut"

    def __init__(self, rng: np.random.Generator):
        name, name_zh, base = any_of(FAMILIES["metals"], rng)
        self.colour = tinted(base, rng)
        self.backdrop = Backdrop.draw(rng)
        self.across = rng.uniform(0.62, 0.8)
        self.bore = self.across * rng.uniform(0.42, 0.56)
        self.flange = rng.random() < 0.35
        stamp = str(rng.choice(["", "8", "10", "M8", "A2"]))
        self.stamp = "" if self.bore > self.across * 0.5 else stamp
        self.strength = rng.uniform(0.04, 0.14)
        self.glare_start = rng.uniform(0, np.pi)
        self.gloss = rng.uniform(0.2, 0.6)
        self.hexagon = circle((0, 0), self.across / np.cos(np.pi / 6), 6)
        structural = ("missing_part", "bent_part", "print_error")[: 3 if self.stamp else 2]
        self.describe(structural, name=name, name_zh=name_zh)

    def _damaged(self, defect: str, choice: np.random.Generator) -> np.ndarray:
        """The hexagon with a corner broken off or crushed."""
        hexagon, at = self.hexagon, int(choice.integers(6))
        if defect == "missing_part":
            cut = choice.uniform(0.2, 0.5)
            here, before, after = hexagon[at], hexagon[at - 1], hexagon[(at + 1) % 6]
            tip = here * choice.uniform(0.74, 0.86) + choice.normal(0, 0.02, 2)
            jag = [here + (before - here) * cut, tip, here + (after - here) * cut * choice.uniform(0.6, 1.2)]
            return np.concatenate([hexagon[:at], np.array(jag), hexagon[at + 1 :]])
        solid = hexagon.copy()
        along = turned(solid[at : at + 1], np.pi / 2)[0]
        solid[at] = solid[at] * choice.uniform(0.86, 0.92)
        solid[at] += along * choice.choice([-1, 1]) * choice.uniform(0.06, 0.14)
        return solid

    def _turned_face(self, canvas: Canvas, solid: np.ndarray) -> None:
        """Paints the bright round face that the chamfer leaves of the hexagon."""
        view, covers = canvas.view, []
        for points in (circle((0, 0), self.across * 0.985, 72), solid):
            covers.append(Canvas(view, np.zeros((view.size, view.size, 3), np.uint8)))
            covers[-1].polygon(points, (255, 255, 255), 1)
        face = cv2.min(*(cover.image for cover in covers))[..., :1].astype(np.float32) / 255
        glare = _radial_glare(view, self.strength, self.glare_start)[..., None]
        image = canvas.image + face * (self.colour.astype(np.float32) * glare - canvas.image)
        canvas.image = np.ascontiguousarray(np.clip(image.astype(np.float32), 0, 255).astype(np.uint8))
        canvas.height = np.where(face[..., 0] > 0.5, np.uint8(215), canvas.height)

    def _thread(self, canvas: Canvas) -> None:
        """Rings of light and shade that end in the dark."""
        canvas.polygon(circle((0, 0), self.bore * 1.1, 48), np.clip(self.colour * 1.12, 0, 255), 200)
        for index in range(4):
            share = 1 - 0.2 * index / 4
            tone = self.colour * (0.75 if index % 2 else 0.4)
            canvas.polygon(circle((0, 0), self.bore * share, 48), tone, 90 - 15 * index)
        canvas.polygon(circle((0, 0), self.bore * 0.8, 48), self.colour * 0.12, 1)

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        canvas, change = Canvas(view, self.backdrop.paint(view)), None
        if self.flange:
            canvas.polygon(circle((0, 0), self.across * 1.3, 72), self.colour * 0.8, 70)
        solid = self.hexagon
        if defect in ("missing_part", "bent_part"):
            solid = self._damaged(defect, choice)
            change = changed_silhouette(view, lambda c: c.polygon(self.hexagon), lambda c: c.polygon(solid))
        canvas.polygon(solid, self.colour * 0.8, 190)
        self._turned_face(canvas, solid)
        place = (0.0, -self.across * 0.72)
        if defect == "print_error":
            change = changed_silhouette(view, lambda c: c.text(self.stamp, place, 0.12, BLACK, 0, 0, 3), None)
            change = grown(change, 3)
        elif self.stamp:
            canvas.text(self.stamp, place, 0.12, self.colour * 0.45, 0, 0, 3)
        self._thread(canvas)
        outline = (canvas.height > 1).astype(np.uint8) * 255
        out = _bevelled(canvas, outline, 0.012, 0.12, self.gloss, 0.08, 3)
        return Scene(out, outline > 0, change, self.words(defect) if defect else None)


class BottleTop(Design):
    """Open bottle seen from above: rings of glass around a dark inside."""

    family = "bottle_top"

    def __init__(self, rng: np.random.Generator):
        name, name_zh, base = any_of(self.data["materials"], rng)
        self.colour = tinted(base, rng, 6)
        self.backdrop = Backdrop((238.0, 238.0, 236.0), 1.0, 6) if rng.random() < 0.6 else Backdrop.draw(rng)
        self.body = body = rng.uniform(0.78, 0.93)
        self.neck, self.mouth = neck, mouth = body * rng.uniform(0.66, 0.8), body * rng.uniform(0.42, 0.55)
        self.lights = int(rng.choice([2, 4, 6]))
        self.start = rng.uniform(0, np.pi)
        self.inside = self.colour * rng.uniform(0.05, 0.3)
        self.rings = (
            (body, 0.55), (body * 0.94, 0.95), ((body + neck) / 2, 0.7), (neck * 1.04, 0.4), (neck, 1.35),
            (neck * 0.95, 1.0), ((neck + mouth) / 2, 1.25), (mouth * 1.06, 0.55),
        )  # fmt: skip
        self.describe(("missing_part", "bent_part"), name=name, name_zh=name_zh)

    def _glass(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """The whole bottle: its picture with the reflections of the lamps, and its height."""
        canvas = Canvas(view, self.backdrop.paint(view))
        for radius, tone in self.rings:
            colour = np.clip(self.colour * tone + 18 * (tone > 1), 0, 255)
            canvas.polygon(circle((0, 0), radius, 90), colour, 255 if radius <= self.neck else 120)
        canvas.polygon(circle((0, 0), self.mouth, 72), self.inside, 2)
        canvas.polygon(circle((0.02, 0.03), self.mouth * 0.6, 60), self.inside * 1.7 + 4, 2)
        x, y = view.coordinates()
        radii, angle = cv2.cartToPolar(x, y)
        glare = np.maximum(np.cos(self.lights * (angle - np.float32(self.start))), 0) ** 3
        band = np.exp(-(((radii - np.float32((self.neck + self.mouth) / 2)) / np.float32(0.045)) ** 2))
        band += np.float32(0.7) * np.exp(-(((radii - np.float32(self.body * 0.9)) / np.float32(0.025)) ** 2))
        image = canvas.image + (glare * band * 120)[..., None] * np.array([0.95, 1, 1.0], np.float32)
        return image, canvas.height

    def _broken_rim(self, defect: str, choice: np.random.Generator) -> np.ndarray:
        """Outline of a piece broken out of the rim, or of a badly formed stretch of it."""
        neck, wide = self.neck, self.neck - self.mouth
        at, half = choice.uniform(0, 2 * np.pi), choice.uniform(0.15, 0.55)
        angles = np.linspace(at - half, at + half, 14)
        if defect == "missing_part":
            deep = wide * choice.uniform(0.5, 1.0)
            near = neck * 1.02 - deep * np.sqrt(np.maximum(1 - ((angles - at) / half) ** 2, 0))
            near += choice.normal(0, 0.018, 14)
            far = np.full(14, neck * 1.02)
        else:
            near = neck * 1.02 - 0.5 * wide + choice.normal(0, 0.03, 14)
            far = near - choice.uniform(0.06, 0.12)
        edges = [np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1) for radius in (near, far)]
        return np.concatenate([edges[0], edges[1][::-1]])

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        image, height = self._glass(view)
        change = None
        if defect is not None:
            chip = Canvas(view, np.zeros((view.size, view.size, 3), np.uint8))
            chip.polygon(self._broken_rim(defect, choice), (255, 255, 255), 1)
            change = chip.height > 0
            cover = chip.image[..., :1].astype(np.float32) / 255
            fracture = noise_field(view.texture, view.size, 40, 2)[..., None] * 30
            shine = 0.4 if choice.random() < 0.5 or self.colour.mean() > 140 else 2.2
            image = image + cover * (self.colour.astype(np.float32) * shine + fracture + 10 - image)
        image = np.ascontiguousarray(image, np.float32)
        cast_shadow(image, height, view.light, 0.03 * view.scale, 0.35)
        level = cv2.GaussianBlur(height.astype(np.float32), (0, 0), 0.018 * view.scale)
        out = relief(image, level * np.float32(0.06 * view.scale / 255), view.light, 0.3, 24, 0.6, height)
        return Scene(out, height > 0, change, self.words(defect) if defect else None)


class Cable(Design):
    """Cable in cross-section: a sheath around insulated conductors of many copper strands."""

    family = "cable"

    def __init__(self, rng: np.random.Generator):
        self.backdrop = Backdrop.draw(rng)
        self.count = count = int(rng.choice([2, 3, 3, 4, 5]))
        self.sheath = tinted(any_of(self.data["sheaths"], rng), rng)
        self.filler = np.clip(self.sheath * rng.uniform(0.45, 0.8), 0, 255)
        colours = self.data["insulations"]
        self.insulation = [tinted(colours[index], rng, 6) for index in rng.permutation(7)[:count]]
        self.metal = tinted(any_of(self.data["conductors"], rng), rng, 6)
        self.outer = rng.uniform(0.78, 0.92)
        self.wall = rng.uniform(0.07, 0.13)
        ring = (self.outer - self.wall) * np.sin(np.pi / count) / (1 + np.sin(np.pi / count)) * 0.97
        self.radius = ring * 0.96
        self.core = ring * rng.uniform(0.55, 0.74)
        self.strand = strand = self.core / rng.choice([3.2, 4.2, 5.2])
        lattice = [(i + 0.5 * (j % 2), j) for i in range(-6, 7) for j in range(-6, 7)]
        offsets = np.array([(strand * 2 * x, strand * np.sqrt(3) * y) for x, y in lattice])
        self.offsets = offsets[np.hypot(*offsets.T) < self.core - strand * 0.9]
        place = self.outer - self.wall - ring
        self.centres = [ray(angle) * place for angle in 2 * np.pi * np.arange(count) / count]
        self.describe(("missing_part", "misplaced_part", "bent_part"), count=count)

    def _bent_strands(self, choice: np.random.Generator) -> np.ndarray:
        """Places of the strands of a conductor that are bent, within its insulation."""
        shift = choice.normal(0, self.strand * 0.9, (len(self.offsets), 2))
        shift += choice.normal(0, 1, 2) * self.strand * 1.6
        room = (self.radius - self.strand) / np.maximum(np.hypot(*(self.offsets + shift).T), 1e-6)
        return (self.offsets + shift) * np.minimum(room, 1)[:, None] - self.offsets

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        canvas, centres, strand = Canvas(view, self.backdrop.paint(view)), self.centres, self.strand
        canvas.polygon(circle((0, 0), self.outer, 90), self.sheath, 150)
        canvas.polygon(circle((0, 0), self.outer - self.wall, 80), self.filler, 60)
        order, change = list(range(self.count)), None
        shifts = np.zeros((self.count, len(self.offsets), 2))
        altered = int(choice.integers(self.count))
        if defect == "missing_part":
            change = changed_silhouette(view, lambda c: c.disc(centres[altered], self.radius), None)
        elif defect == "misplaced_part":
            pair = altered, (altered + 1) % self.count
            order[pair[0]], order[pair[1]] = order[pair[1]], order[pair[0]]
            change = silhouette(view, *(lambda c, at=at: c.disc(centres[at], self.radius) for at in pair)) > 0
        elif defect == "bent_part":
            shifts[altered] = self._bent_strands(choice)
            strands = [
                silhouette(view, lambda c, at=at: [c.disc(centres[altered] + spot, strand) for spot in at])
                for at in (self.offsets, self.offsets + shifts[altered])
            ]
            change = grown(cv2.bitwise_xor(*strands), 3)
        for index, centre in enumerate(centres):
            if index == altered and defect == "missing_part":
                canvas.disc(centre, self.radius, self.filler * 0.45, 20)
                continue
            canvas.disc(centre, self.radius, self.insulation[order[index]], 170)
            canvas.disc(centre, self.core * 1.02, self.metal * 0.4, 120)
            tones = view.texture.uniform(0.75, 1.15, len(self.offsets))
            jitter = view.texture.normal(0, strand * 0.12, (len(self.offsets), 2)) + shifts[index]
            for spot, level in zip(centre + self.offsets + jitter, tones, strict=True):
                canvas.disc(spot, strand * 0.95, np.clip(self.metal * level, 0, 255), 210)
        outline = (canvas.height > 0).astype(np.uint8) * 255
        out = _bevelled(canvas, outline, 0.01, 0.07, 0.15, 0.05, 3)
        return Scene(out, outline > 0, change, self.words(defect) if defect else None)
