"""Families made of yarn and wire: woven fabric, knitted fabric, wire grid, zipper."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import FAMILIES, Canvas, Design, Scene, any_of, changed_silhouette, closed, silhouette
from .noise import View, cast_shadow, dome, noise_field, relief
from .outlines import box, turned
from .shapes import tinted


def _wavy(view: View, amount: float) -> tuple[np.ndarray, np.ndarray]:
    """Part coordinates, gently distorted like cloth is, by `amount` part units."""
    x, y = view.coordinates()
    x = x + noise_field(view.texture, view.size, 3, 2) * np.float32(amount)
    y = y + noise_field(view.texture, view.size, 3, 2) * np.float32(amount)
    return x, y


class WovenFabric(Design):
    """Cloth in plain, twill or satin weave, plain or striped or checked."""

    family = "woven_fabric"

    def __init__(self, rng: np.random.Generator):
        name, name_zh, base = any_of(FAMILIES["dyes"], rng)
        weaves = self.data["weaves"]
        weave = str(rng.choice(list(weaves)))
        weave_zh, self.period, self.step = weaves[weave]
        self.threads = rng.uniform(14, 32)  # per part unit
        self.warp = tinted(base, rng, 6)
        if rng.random() < 0.7:
            self.weft = tinted(self.warp * rng.uniform(0.8, 1.15), rng, 5)
        else:
            self.weft = tinted(any_of(FAMILIES["dyes"], rng)[2], rng, 5)
        self.pattern = str(rng.choice(["none", "none", "stripes", "checks"]))
        repeat = int(rng.integers(6, 16))
        self.other = tinted(any_of(FAMILIES["dyes"], rng)[2], rng, 6)
        self.bands = rng.random(repeat) < 0.35
        self.wave = rng.uniform(0.002, 0.012)
        structural = ("missing_part", "misplaced_part")
        self.describe(structural, name=name, name_zh=name_zh, weave=weave, weave_zh=weave_zh)

    def _run(self, row: np.ndarray, column: np.ndarray, choice: np.random.Generator) -> tuple[np.ndarray, bool]:
        """A stretch of one or two neighbouring threads, and whether they are weft threads, which run along rows."""
        threads = self.threads
        weft = choice.random() >= 0.5
        along, across = (column, row) if weft else (row, column)
        at = int(choice.integers(-int(threads * 0.6), int(threads * 0.6)))
        first = int(choice.integers(-int(threads), int(threads * 0.3)))
        run = (across >= at) & (across < at + (1 if threads < 20 else 2)) & (along >= first)
        return run & (along < first + int(threads * choice.uniform(0.4, 1.4))), weft

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        texture, bands = view.texture, self.bands
        x, y = _wavy(view, self.wave)
        u, v = x * np.float32(self.threads), y * np.float32(self.threads)
        i, j = np.floor(u), np.floor(v)
        column, row = i.astype(np.int32), j.astype(np.int32)
        over = np.mod(column + self.step * row, self.period) < max(1, self.period // 2)
        change, words = None, None
        if defect is not None:
            change, weft = self._run(row, column, choice)
            words = self.words(defect)
            # a missing thread shows the other ones, a float does not interlace
            over = np.where(change, weft == (defect == "missing_part"), over)
        warp_colours = np.where((bands & (self.pattern != "none"))[:, None], self.other, self.warp).astype(np.float32)
        weft_colours = np.where((bands & (self.pattern == "checks"))[:, None], self.other, self.weft)
        warp = warp_colours[np.mod(column, len(bands))]
        weft = weft_colours.astype(np.float32)[np.mod(row, len(bands))]
        tones = texture.normal(1, 0.03, (2, 512)).astype(np.float32)
        image = np.where(over[..., None], warp, weft)
        image = image * np.where(over, tones[0][np.mod(column, 512)], tones[1][np.mod(row, 512)])[..., None]
        side = np.where(over, u - i, v - j) - np.float32(0.5)
        lie = np.where(over, v - j, u - i) - np.float32(0.5)
        height = np.sqrt(np.maximum(1 - 3.4 * side * side, 0.05)) * (1 - 0.9 * lie * lie)
        if defect == "missing_part":
            height = np.where(change, height * 0.2, height)
            image = np.where(change[..., None], image * np.float32(choice.uniform(0.4, 0.75)), image)
        pixels = np.float32(view.scale / self.threads)
        image *= (0.62 + 0.38 * height)[..., None]
        image *= (1 + 0.05 * noise_field(texture, view.size, 110))[..., None]
        level = cv2.GaussianBlur(height, (0, 0), max(0.4, pixels * 0.12)) * pixels * np.float32(0.35)
        return Scene(relief(image, level, view.light, 0.0, 1, 0.55), None, change, words)


class KnittedFabric(Design):
    """Jersey knit: columns of V-shaped stitches, plain or with coloured rows."""

    family = "knitted_fabric"

    def __init__(self, rng: np.random.Generator):
        name, name_zh, base = any_of(FAMILIES["dyes"], rng)
        self.columns = rng.uniform(7, 14)
        self.aspect = rng.uniform(1.1, 1.5)
        self.main, self.second = tinted(base, rng, 6), tinted(any_of(FAMILIES["dyes"], rng)[2], rng, 6)
        repeat = int(rng.integers(4, 12))
        self.bands = (rng.random(repeat) < 0.4) & (rng.random() < 0.45)
        self.fuzz = rng.uniform(0.03, 0.09)
        self.wave = rng.uniform(0.004, 0.015)
        self.describe(("missing_part",), name=name, name_zh=name_zh)

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        columns = self.columns
        x, y = _wavy(view, self.wave)
        u, v = x * np.float32(columns), y * np.float32(columns * self.aspect)
        column = np.floor(u).astype(np.int32)
        s = u - column - np.float32(0.5)
        lifted = v - np.float32(1.3) * np.abs(s) * np.float32(-1)
        row = np.floor(lifted).astype(np.int32)
        t = lifted - row - np.float32(0.5)
        arm = (np.abs(s) - np.float32(0.25)) * 4
        height = np.sqrt(np.maximum(1 - 3.6 * t * t, 0)) * np.sqrt(np.maximum(1 - 0.75 * arm * arm, 0.02))
        ply = 0.08 * np.sin((lifted * 3 + np.abs(s) * 14) * np.float32(2))
        colours = np.where(self.bands[:, None], self.second, self.main).astype(np.float32)
        image = colours[np.mod(row, len(self.bands))]
        change, words = None, None
        if defect == "missing_part":
            at = int(choice.integers(-int(columns * 0.6), int(columns * 0.6)))
            first = int(choice.integers(-int(columns), int(columns * 0.5)))
            change = (column == at) & (row >= first) & (row < first + int(choice.integers(2, 9)))
            rung = np.maximum(1 - np.abs(v - np.floor(v) - 0.5) * 5, 0)
            height = np.where(change, 0.45 * rung, height)
            words = self.words(defect)
        image = image * (0.3 + 0.7 * height + ply * height)[..., None]
        image = image * (1 + np.float32(self.fuzz) * noise_field(view.texture, view.size, 100, 2, 0.8))[..., None]
        pixels = np.float32(view.scale / columns)
        level = cv2.GaussianBlur(height, (0, 0), max(0.5, float(pixels) * 0.06)) * pixels * np.float32(0.16)
        return Scene(relief(image, level, view.light, 0.0, 1, 0.55), None, change, words)


class WireGrid(Design):
    """Wire mesh: crossing wires, square or diamond, interlaced, or a perforated sheet look by thick wires."""

    family = "wire_grid"

    def __init__(self, rng: np.random.Generator):
        name, name_zh, base = any_of(FAMILIES["metals"], rng)
        self.cells = rng.uniform(3.0, 7.5)  # per part unit
        self.ratio = rng.uniform(0.75, 1.3)
        self.skew = float(rng.choice([0.0, 0.0, rng.uniform(0.2, 0.6)]))
        self.thick = rng.uniform(0.16, 0.36)
        self.interlaced = rng.random() < 0.6
        self.colour = tinted(base, rng)
        self.ground = tinted(rng.choice(self.data["grounds"]), rng, 6).astype(np.float32)
        self.gloss = rng.uniform(0.2, 0.6)
        self.unevenness = rng.uniform(0.001, 0.006)
        self.describe(("bent_part", "missing_part", "misplaced_part"), name=name, name_zh=name_zh)

    def _wires(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
        """Distances to the next wires in both directions, their numbers, and the place among them."""
        u = (x + np.float32(self.skew) * y) * np.float32(self.cells)
        v = (y - np.float32(self.skew) * x) * np.float32(self.cells * self.ratio)
        i, j = np.rint(u), np.rint(v)
        return (u - i) / np.float32(self.thick), (v - j) / np.float32(self.thick * self.ratio), i, j, u, v

    def _bent(self, view: View, x: np.ndarray, y: np.ndarray, spot: np.ndarray, choice: np.random.Generator):
        """The wires pushed aside around a spot, and where they differ."""
        reach = np.float32(choice.uniform(0.12, 0.3))
        near = np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * reach * reach))
        push = choice.uniform(0.45, 0.9) / self.cells * np.array([np.cos(a := choice.uniform(0, 6.28)), np.sin(a)])
        straight = self._wires(x, y)
        bent = self._wires(x - near * np.float32(push[0]), y - near * np.float32(push[1]))
        covers = [(np.abs(wires[0]) < 0.5) | (np.abs(wires[1]) < 0.5) for wires in (straight, bent)]
        change = closed((covers[0] ^ covers[1]) & (near > 0.15), max(1, round(0.25 * view.scale / self.cells)))
        return bent, change

    def _heights(self, wires: tuple[np.ndarray, ...], keep: np.ndarray | bool) -> np.ndarray:
        """How high the topmost wire is, 0 beside all; `keep` is false where a wire of the first kind is missing."""
        du, dv, i, j, u, v = wires
        top_u = np.sqrt(np.maximum(1 - 4 * du * du, 0)) * keep
        top_v = np.sqrt(np.maximum(1 - 4 * dv * dv, 0))
        if not self.interlaced:
            return np.maximum(top_u, top_v * np.float32(0.98))
        sway = np.float32(0.35) * np.cos(np.pi * (u + j)) * np.cos(np.pi * (v + i))
        return np.maximum(top_u * (1 + sway), top_v * (1 - sway))

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size, texture, thick = view.size, view.texture, self.thick
        x, y = _wavy(view, self.unevenness)
        spot = choice.uniform(-0.65, 0.65, 2).astype(np.float32)
        wires, keep, change = self._wires(x, y), True, None
        if defect == "bent_part":
            wires, change = self._bent(view, x, y, spot, choice)
        elif defect is not None:
            du, dv, i, j, u, v = wires
            at_u = np.rint((spot[0] + self.skew * spot[1]) * self.cells)
            at_v = np.rint((spot[1] - self.skew * spot[0]) * self.cells * self.ratio)
            part = np.abs(v - at_v) < choice.uniform(0.8, 2.6)
            if defect == "missing_part":
                keep = ~((i == at_u) & part)
                change = ~keep & (np.abs(du) < 0.5)
            else:
                shift = np.float32(choice.choice([-1, 1]) * choice.uniform(0.3, 0.5) / thick)
                moved = np.where(part & (np.abs(u - at_u) < 0.95), (u - at_u) / np.float32(thick) - shift, du)
                change = closed((np.abs(moved) < 0.5) ^ (np.abs(du) < 0.5), 1)
                wires = (moved, dv, i, j, u, v)
        height = self._heights(wires, keep)
        wire = (height > 0).astype(np.uint8)
        speckle = (1 + 0.05 * noise_field(texture, size, 40, 2))[..., None]
        image = np.broadcast_to(self.ground, (size, size, 3)) * speckle
        cast_shadow(image, wire, view.light, 0.08 * view.scale * (0.3 + thick), 0.5)
        solid = np.clip(height * 2.5, 0, 1)[..., None]
        tint = self.colour.astype(np.float32) * (0.55 + 0.5 * height)[..., None]
        tint *= (1 + 0.04 * noise_field(texture, size, 90))[..., None]
        image = image + solid * (tint - image)
        level = cv2.GaussianBlur(height, (0, 0), 0.6) * np.float32(view.scale / self.cells * thick * 0.3)
        out = relief(image, level, view.light, self.gloss, 18, 0.5)
        return Scene(out, None, change, self.words(defect) if defect else None)


class Zipper(Design):
    """A closed zipper between two tapes of cloth."""

    family = "zipper"

    def __init__(self, rng: np.random.Generator):
        name, name_zh, base = any_of(FAMILIES["dyes"], rng)
        self.tape = tinted(base, rng, 6).astype(np.float32)
        self.metal = rng.random() < 0.6
        self.tooth = tinted(any_of(FAMILIES["metals"][:4] if self.metal else FAMILIES["dyes"], rng)[2], rng)
        self.pitch = rng.uniform(0.14, 0.22)
        self.reach, self.thick = rng.uniform(0.15, 0.24), self.pitch * rng.uniform(0.42, 0.47)
        self.threads = rng.uniform(22, 36)
        self.seam = rng.uniform(0.38, 0.5)
        self.number = int(2.6 / self.pitch)
        self.describe(("missing_part", "misplaced_part", "bent_part"), name=name, name_zh=name_zh)

    def _outline(self, index: int, moved: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
        """A tooth, moved right and down and turned by an angle."""
        side, reach = -1 if index % 2 else 1, self.reach
        y = (index // 2 - self.number / 2) * self.pitch + (self.pitch / 2 if side < 0 else 0)
        points = np.array(
            [[-0.04, -0.5], [reach * 0.7, -0.5], [reach, -0.25], [reach, 0.25], [reach * 0.7, 0.5], [-0.04, 0.5]]
        )
        points = turned(points * [1, self.thick], moved[2]) * [side, 1]
        return points + [-side * reach * 0.66 + moved[0], y + moved[1]]

    def _cloth(self, view: View) -> np.ndarray:
        """The two tapes with their seams."""
        tape, texture = self.tape, view.texture
        x, y = _wavy(view, 0.006)
        u, v = x * np.float32(self.threads), y * np.float32(self.threads)
        rib = 1 - np.abs(np.mod(u, 1) - 0.5) * (0.5 + 0.3 * (np.mod(v + np.floor(u), 2) < 1))
        image = tape * (0.55 + 0.45 * rib)[..., None] * (1 + 0.05 * noise_field(texture, view.size, 90, 2))[..., None]
        image *= (1 - 0.55 * np.exp(-((np.abs(x) / np.float32(0.06)) ** 2)))[..., None]
        stitch = (np.abs(np.abs(x) - np.float32(self.seam)) < 0.014) & (np.mod(y * 9, 1) < 0.7)
        return np.where(stitch[..., None], np.clip(tape * 1.25 + 18, 0, 255), image)

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        image = self._cloth(view)
        altered, moved, change = -1, None, None
        if defect is not None:
            altered = int(choice.integers(2 * int(0.22 * self.number), 2 * int(0.78 * self.number)))
            if defect == "misplaced_part":
                aside = float(choice.choice([-1, 1]) * choice.uniform(0.05, 0.1))
                moved = (aside, self.pitch * choice.uniform(-0.3, 0.3), 0.0)
            elif defect == "bent_part":
                moved = (0.0, 0.0, float(choice.choice([-1, 1]) * choice.uniform(0.45, 0.9)))
            change = changed_silhouette(
                view,
                lambda c: c.polygon(self._outline(altered)),
                None if moved is None else lambda c: c.polygon(self._outline(altered, moved)),
            )
        canvas = Canvas(view, np.zeros((view.size, view.size, 3), np.uint8))
        for index in range(2 * self.number):
            if index != altered:
                canvas.polygon(self._outline(index), (255, 255, 255), 200)
            elif moved is not None:
                canvas.polygon(self._outline(index, moved), (255, 255, 255), 200)
        cast_shadow(image, canvas.height, view.light, 0.03 * view.scale, 0.5)
        cover = canvas.image[..., :1].astype(np.float32) / 255
        image = image + cover * (self.tooth.astype(np.float32) - image)
        height = dome(canvas.height, 0.03 * view.scale) * np.float32(0.035 * view.scale) * cover[..., 0]
        gloss = 0.5 if self.metal else 0.25
        out = relief(image, cv2.GaussianBlur(height, (0, 0), 0.6), view.light, gloss, 20)
        band = silhouette(view, lambda c: c.polygon(box((0, 0), 1.5, 4)))
        return Scene(out, band > 0, change, self.words(defect) if defect else None)
