"""Families of continuous surfaces: machined metal, leather, wood grain, ceramic tile, granular material."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import FAMILIES, Canvas, Design, Scene, any_of, silhouette
from .noise import View, dome, noise_field, relief, scattered_points
from .outlines import ray
from .shapes import tinted

_HOLES = {
    0: [],
    1: [(0.0, 0.0)],
    2: [(-0.5, 0.0), (0.5, 0.0)],
    4: [(-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)],
}  # places of drilled holes, by their number


def _line_profile(values: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """Looks a periodic one-dimensional profile up at every pixel, linearly between its samples."""
    place = np.mod(values, np.float32(len(profile) - 1))
    return cv2.remap(profile[None].astype(np.float32), place, np.zeros_like(place), cv2.INTER_LINEAR)


class MachinedMetal(Design):
    """Brushed, turned, milled or blasted metal plate, with or without drilled holes."""

    family = "machined_metal"

    def __init__(self, rng: np.random.Generator):
        name, name_zh, base = any_of(FAMILIES["metals"], rng)
        finishes = self.data["finishes"]
        self.finish = str(rng.choice(list(finishes)))
        self.colour = tinted(base, rng)
        self.contrast = rng.uniform(6, 16)
        self.fine = rng.uniform(90, 170)
        self.centre = rng.uniform(-0.4, 0.4, 2) if rng.random() < 0.5 else rng.uniform(-2.5, 2.5, 2)
        self.pitch = rng.uniform(0.03, 0.09)
        self.swing = rng.uniform(2.2, 4)
        self.spokes = rng.uniform(0, np.pi)
        self.holes = _HOLES[int(rng.choice([0, 0, 1, 2, 4]))]
        self.radius = rng.uniform(0.08, 0.16)
        extra, extra_zh = self.data["holes"][str(len(self.holes))]
        words = {"name": name, "name_zh": name_zh, "finish_zh": finishes[self.finish], "extra_zh": extra_zh}
        self.describe(("missing_part",) if self.holes else (), finish=self.finish, extra=extra, **words)

    def _grain(self, view: View) -> np.ndarray:
        """Brightness of the finish, `float32` grey levels."""
        size, texture, fine, contrast = view.size, view.texture, self.fine, self.contrast
        cloud = noise_field(texture, size, 3) * 4
        if self.finish == "brushed":
            return view.turn(noise_field(texture, size, (fine, 2.5), 2, 0.8)) * contrast + cloud
        if self.finish == "blasted":
            return noise_field(texture, size, fine * 0.7, 2, 0.9) * contrast + cloud
        x, y = view.coordinates()
        profile = texture.standard_normal(257).astype(np.float32)
        if self.finish == "turned":
            radii, angle = cv2.cartToPolar(x - np.float32(self.centre[0]), y - np.float32(self.centre[1]))
            grooves = _line_profile(radii * np.float32(0.8 * fine), profile)
            glare = np.cos(2 * (angle - np.float32(self.spokes + view.light.azimuth)))
            return grooves * (contrast * 0.8) + glare * (contrast * 0.9) + cloud
        arc = np.sqrt(np.maximum(np.float32(self.swing) ** 2 - y * y, 0))
        phase = (x - arc) / np.float32(self.pitch)
        wave = np.cos(phase * np.float32(2 * np.pi))
        return wave * (contrast * 0.6) + _line_profile(phase * 11, profile) * (contrast * 0.5) + cloud

    def _drill(self, view: View, image: np.ndarray, missing: int) -> np.ndarray:
        """Drills all holes but one."""
        holes = Canvas(view, np.zeros((view.size, view.size, 3), np.uint8))
        for index, place in enumerate(self.holes):
            if index != missing:
                holes.disc(place, self.radius, (255, 255, 255), 255)
        cover = holes.image[..., :1].astype(np.float32) / 255
        dx, dy = -ray(view.light.azimuth) * 0.2 * self.radius * view.scale
        wall = cv2.warpAffine(holes.height, np.array([[1, 0, dx], [0, 1, dy]]), (view.size, view.size))
        wall = cv2.GaussianBlur(wall, (0, 0), 0.08 * self.radius * view.scale).astype(np.float32)[..., None] / 255
        depth = self.colour.astype(np.float32) * (0.55 - 0.47 * wall)
        image = image + cover * (depth - image)
        bevel = cv2.GaussianBlur(255 - holes.height, (0, 0), max(0.7, 0.02 * view.scale)).astype(np.float32)
        return relief(image, bevel * np.float32(0.03 * view.scale / 255), view.light, 0.2, 20, 0.5)

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        tint = (self.colour / max(self.colour.max(), 1)).astype(np.float32)
        image = self._grain(view)[..., None] * tint + self.colour.astype(np.float32)
        if not self.holes:
            return Scene(image)
        missing = int(choice.integers(len(self.holes))) if defect == "missing_part" else -1
        image = self._drill(view, image, missing)
        if missing < 0:
            return Scene(image)
        gone = silhouette(view, lambda canvas: canvas.disc(self.holes[missing], self.radius * 1.18))
        return Scene(image, None, gone > 0, self.words("missing_part"))


class Leather(Design):
    """Grained leather or artificial leather."""

    family = "leather"

    def __init__(self, rng: np.random.Generator):
        name, name_zh, base = any_of(self.data["materials"], rng)
        self.colour = tinted(base, rng, 6).astype(np.float32)
        self.spacing = rng.uniform(5, 12) / 224
        self.depth = rng.uniform(0.35, 0.9)
        self.gloss = rng.uniform(0.0, 0.35)
        self.wrinkle = rng.uniform(0.5, 2.0)
        self.describe(name=name, name_zh=name_zh)

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size, texture, unit = view.size, view.texture, view.size / 224
        cell = max(self.spacing * size * view.scale / (size / 2), 3)
        _, labels, points = scattered_points(texture, size, cell)
        crease = np.zeros((size, size), np.uint8)
        crease[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        crease[1:] |= labels[1:] != labels[:-1]
        bumps = dome(1 - crease, cell * 0.33)
        tones = texture.normal(0, 1, len(points)).astype(np.float32)
        bends = noise_field(texture, size, 14, 2)
        height = bumps * np.float32(self.depth * cell * 0.2) + bends * np.float32(self.wrinkle * unit * 0.6)
        height += noise_field(texture, size, 90) * np.float32(0.12 * unit)
        tone = 1 + 0.03 * tones[labels] + 0.05 * noise_field(texture, size, 3) - 0.25 * (1 - bumps)
        smooth = cv2.GaussianBlur(height, (0, 0), 0.7 * unit)
        return Scene(relief(self.colour * tone[..., None], smooth, view.light, self.gloss, 14))


class WoodGrain(Design):
    """Planed wood with growth rings and fibres, in one board or several."""

    family = "wood_grain"

    def __init__(self, rng: np.random.Generator):
        name, name_zh, bright, dark = any_of(self.data["materials"], rng)
        self.bright, self.dark = (tinted(colour, rng, 5).astype(np.float32) for colour in (bright, dark))
        self.rings = rng.uniform(4, 11)
        self.waviness = rng.uniform(0.15, 0.5)
        self.pores = rng.uniform(0.05, 0.16)
        self.board = rng.uniform(0.4, 0.9) if rng.random() < 0.4 else None
        boards, boards_zh = (" boards", "拼板") if self.board else ("", "")
        self.describe(name=name, name_zh=name_zh, boards=boards, boards_zh=boards_zh)

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size, texture, board = view.size, view.texture, self.board
        x, y = view.coordinates()
        bow = view.turn(noise_field(texture, size, (2.2, 0.9), 2))
        across = y + np.float32(self.waviness * 0.4) * bow + np.float32(texture.uniform(-0.25, 0.25)) * x * x
        joint = None
        if board:
            row = np.floor(y / np.float32(board) + np.float32(texture.uniform(0, 0.02)))
            shift = texture.uniform(0, 5, 16).astype(np.float32)
            across = across + shift[np.clip(row + 8, 0, 15).astype(np.intp)]
            edge = np.abs(y / np.float32(board) - row - np.float32(0.5))
            joint = np.clip((edge - 0.5) * np.float32(board * view.scale) + np.float32(1.6 * size / 224), 0, 1)
        phase = across * np.float32(self.rings)
        saw = phase - np.floor(phase)
        late = np.where(saw < 0.8, saw / np.float32(0.8), (1 - saw) * 5) ** 2
        fibres = view.turn(noise_field(texture, size, (150, 4), 2, 0.8))
        mix = 0.12 + 0.6 * late + np.float32(self.pores) * fibres + 0.05 * noise_field(texture, size, 3)
        image = self.bright + np.clip(mix, 0, 1)[..., None] * (self.dark - self.bright)
        if joint is not None:
            image *= (1 - 0.6 * joint)[..., None]
        return Scene(image)


class CeramicTile(Design):
    """Ceramic tile: speckled, terrazzo, marbled or plain, with or without joints."""

    family = "ceramic_tile"

    def __init__(self, rng: np.random.Generator):
        styles = self.data["styles"]
        self.style = str(rng.choice(list(styles)))
        self.base = tinted(any_of(self.data["glazes"], rng), rng, 8).astype(np.float32)
        chips = [tinted(self.base * factor, rng, 14) for factor in (0.45, 0.65, 0.82, 1.15)]
        self.chips = np.stack(chips).astype(np.float32)
        self.spacing = rng.uniform(5, 16)
        self.tile = rng.uniform(0.6, 1.1) if self.style == "plain" or rng.random() < 0.3 else None
        self.grout = tinted((150, 146, 140), rng, 25).astype(np.float32)
        self.gloss = rng.uniform(0, 0.3)
        self.describe(style=self.style, style_zh=styles[self.style])

    def _face(self, view: View) -> np.ndarray:
        """The tile without its joints."""
        size, texture, unit = view.size, view.texture, view.size / 224
        if self.style == "terrazzo":
            distance, labels, points = scattered_points(texture, size, self.spacing * unit)
            bend = distance + noise_field(texture, size, 40) * np.float32(0.8 * unit)
            kinds = texture.integers(0, 6, len(points))
            palette = np.concatenate([self.chips, self.base[None], self.base[None]])
            cover = (bend < self.spacing * unit * 0.46) & (kinds[labels] < 4)
            return cv2.GaussianBlur(np.where(cover[..., None], palette[kinds][labels], self.base), (0, 0), 0.5 * unit)
        image = np.broadcast_to(self.base, (size, size, 3)).astype(np.float32)
        if self.style == "speckled":
            for chip, cut in zip(self.chips, (1.5, 1.2, 1.1, 1.4), strict=True):
                field = noise_field(texture, size, float(texture.uniform(45, 90)))
                image += np.clip((field - cut) * 3, 0, 1)[..., None] * (chip - image)
        elif self.style == "marbled":
            vein = 1 - np.minimum(np.abs(noise_field(texture, size, 3.5, 4, 0.55)) * 5, 1)
            image = image + (vein**2 * 0.75)[..., None] * (self.chips[1] - image)
        return image

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        unit, tile = view.size / 224, self.tile
        image = self._face(view)
        image = image * (1 + 0.015 * noise_field(view.texture, view.size, 4, 3))[..., None]
        if not tile:
            return Scene(image)
        gap = [np.abs(axis / np.float32(tile) - np.rint(axis / np.float32(tile))) for axis in view.coordinates()]
        joint = np.clip(3 * unit - np.minimum(*gap) * np.float32(tile * view.scale), 0, 1)
        edge = cv2.GaussianBlur(1 - joint, (0, 0), 1.2 * unit) * np.float32(2.5 * unit)
        image += joint[..., None] * (self.grout - image)
        return Scene(relief(image, edge, view.light, self.gloss, 30))


class Granular(Design):
    """Bulk material seen from above: gravel, pellets, beans, sand."""

    family = "granular"

    def __init__(self, rng: np.random.Generator):
        name, name_zh, self.palette, self.spread = any_of(self.data["materials"], rng)
        self.spacing = rng.uniform(5, 7) if name == "coarse sand" else rng.uniform(9, 18)
        self.gloss = rng.uniform(0, 0.45)
        stretches = {"coffee beans": 1.5, "wheat grains": 2.1, "red lentils": 1.0}
        self.stretch = stretches.get(name, rng.uniform(1.0, 1.35))
        self.ragged = name in ("grey gravel", "coarse sand")
        self.describe(name=name, name_zh=name_zh)

    def _grains(self, view: View, cell: float, darkness: float) -> tuple[np.ndarray, ...]:
        """One layer of grains: place in each pixel's grain along its axes, lean, colour."""
        texture, size = view.texture, view.size
        _, labels, points = scattered_points(texture, size, cell)
        number = len(points)
        angle = texture.uniform(0, np.pi, number)
        wide = cell * texture.uniform(0.5, 0.68, number) * self.stretch**0.5
        narrow = cell * texture.uniform(0.5, 0.68, number) / self.stretch**0.5
        tones = np.asarray(self.palette)[texture.integers(0, len(self.palette), number)]
        table = np.empty((number, 9), np.float32)  # per grain: place, axes, lean, colour
        table[:, 6:] = np.clip((tones + texture.normal(0, self.spread, (number, 1))) * darkness, 0, 255)
        table[:, :2] = points
        table[:, 2:4] = np.stack([np.cos(angle), np.sin(angle)], 1) / wide[:, None]
        table[:, 4] = wide / narrow
        table[:, 5] = texture.uniform(-0.5, 0.5, number)
        grain = np.take(table, labels, axis=0)
        along = np.arange(size, dtype=np.float32)
        dx, dy = along[None, :] - grain[..., 0], along[:, None] - grain[..., 1]
        p = grain[..., 2] * dx + grain[..., 3] * dy
        q = (grain[..., 2] * dy - grain[..., 3] * dx) * grain[..., 4]
        return p, q, grain[..., 5], grain[..., 6:].astype(np.uint8)

    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        size, texture, unit = view.size, view.texture, view.size / 224
        cell = self.spacing * unit
        ragged = noise_field(texture, size, 224 / self.spacing * 1.3) * np.float32(0.13) if self.ragged else None
        height = np.zeros((size, size), np.float32)
        image = np.full((size, size, 3), np.asarray(self.palette[0]) * 0.16).astype(np.uint8)
        for layer, darkness in enumerate((0.62, 0.82, 1.0)):  # grains lie on grains
            p, q, lean, colours = self._grains(view, cell, darkness)
            if ragged is None:
                away = p * p + q * q
            else:  # broken stone: facets instead of a round outline
                facets = np.maximum(np.abs(p + lean * q), np.maximum(np.abs(q), 0.75 * np.abs(p - q)))
                away = facets * np.sqrt(facets) + ragged
            top = np.sqrt(np.maximum(1 - away, 0))
            on = (top > 0.12).astype(np.uint8)
            if layer:
                image = cv2.convertScaleAbs(image, alpha=0.55)
            cv2.copyTo(colours, on, image)
            cv2.copyTo(top + np.float32(0.25 * layer), on, height)
        image = image * (0.75 + 0.25 * np.minimum(height, 1) + 0.025 * noise_field(texture, size, 110))[..., None]
        level = cv2.GaussianBlur(height, (0, 0), 0.7 * unit) * np.float32(cell * 0.3)
        return Scene(relief(image, level, view.light, self.gloss, 20, 0.5))
