"""Defects in the geometry or the material of a part, placed where the camera sees them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from .materials import (
    CELL,
    PAINTS,
    Material,
    Texture,
    character_field,
    colour_over,
    draw_mark,
    equally_wide,
    mark_cover,
    mottle,
    one_of,
    paint,
    plain_texture,
)
from .meshes import Mesh, lump, outwards, refined, rotation, sphere, sweep, together
from .parts import Body, Part
from .rendering import Geometry, Shot
from .scenes import fibre

KINDS = (
    "missing", "extra", "misplaced", "broken", "deformed", "surface", "colour", "contamination", "print",
)  # fmt: skip
"""Kinds of defect."""

METALS = {
    "brass": (0.66, 0.5, 0.25), "copper": (0.74, 0.38, 0.24), "black": (0.08, 0.08, 0.085), "bright": (0.8, 0.8, 0.8),
}  # fmt: skip
"""Colours of metals that a piece may wrongly have."""


class ImpossibleError(ValueError):
    """The part cannot have the defect, or nothing that the camera sees can."""


@dataclass
class Site:
    """A place of the part that the camera sees.

    Args:
        body (`str`): Name of the body there.
        place (`np.ndarray` of shape `(3,)`): Place in the part's coordinates.
        normal (`np.ndarray` of shape `(3,)`): Normal in the part's coordinates.
        row (`int`): Row of its texture.
        column (`int`): Column of its texture.
    """

    body: str
    place: np.ndarray
    normal: np.ndarray
    row: int
    column: int


@dataclass
class Change:
    """A shot with a defect.

    Args:
        shot ([`Shot`]): What stands before the camera now.
        words (`str`): The defect in words.
        millimetres (`float`): Its size.
        whole (`set[str]`): Bodies that count wholly, where they were and where they are.
        zone (`tuple[np.ndarray, float]`, *optional*): Ball in the part's coordinates outside which nothing changed.
    """

    shot: Shot
    words: str
    millimetres: float
    whole: set[str] = field(default_factory=set)
    zone: tuple[np.ndarray, float] | None = None


@dataclass
class Attempt:
    """What a defect is drawn from.

    Args:
        part ([`Part`]): The part.
        shot ([`Shot`]): The good shot.
        seen ([`Geometry`]): What the camera sees of it.
        size (`float`): Wished size in millimetres: root of the area.
        rng (`np.random.Generator`): Source of all draws.
    """

    part: Part
    shot: Shot
    seen: Geometry
    size: float
    rng: np.random.Generator

    def site(self, edge: bool = False, allowed: Callable[[Body], bool] | None = None) -> Site:
        """A visible place, on an edge if asked for. (Clear films are looked through.)"""
        seen, shot = self.seen, self.shot
        usable = seen.part.copy()
        if allowed is not None:
            fine = np.array([allowed(b) for b in shot.bodies] + [False])
            usable &= fine[seen.body]
        bend = np.zeros(seen.body.shape, bool)
        step = 2
        for axis in (0, 1):
            turned = (seen.normal * np.roll(seen.normal, step, axis)).sum(-1) < 0.8
            bend |= turned | (seen.body != np.roll(seen.body, step, axis))
        bend[:8], bend[-8:], bend[:, :8], bend[:, -8:] = False, False, False, False
        choice = np.flatnonzero((usable & bend if edge else usable & ~bend).ravel())
        if len(choice) < 20:
            raise ImpossibleError
        at = np.unravel_index(self.rng.choice(choice), seen.body.shape)
        normal = shot.pose.matrix().T @ seen.normal[at]
        body = shot.bodies[seen.body[at]].name
        return Site(body, seen.place[at].astype(float), normal.astype(float), int(seen.row[at]), int(seen.column[at]))

    def body(self, name: str) -> Body:
        """A body by its name."""
        return next(b for b in self.shot.bodies if b.name == name)

    def with_bodies(self, bodies: list[Body]) -> Shot:
        """The shot with other bodies."""
        return replace(self.shot, bodies=bodies)

    def exchanged(self, name: str, mesh: Mesh) -> Shot:
        """The shot with another mesh for a body."""
        return self.with_bodies([replace(b, mesh=mesh) if b.name == name else b for b in self.shot.bodies])

    def repainted(self, body: Body) -> tuple[Shot, Texture]:
        """The shot with an own copy of a body's texture; other bodies of the same material keep theirs."""
        shot, made = self.shot, copy.deepcopy(self.shot.textures[body.material])
        if sum(b.material == body.material for b in shot.bodies) == 1:
            return replace(shot, textures={**shot.textures, body.material: made}), made
        bodies = [replace(b, material="painted") if b.name == body.name else b for b in shot.bodies]
        materials = {**shot.materials, "painted": shot.materials[body.material]}
        return replace(shot, bodies=bodies, textures={**shot.textures, "painted": made}, materials=materials), made

    def loose(self) -> Body:
        """A visible body that may be changed by itself."""
        indices, counts = np.unique(self.seen.body[self.seen.part], return_counts=True)
        chosen = [body for body in map(self.shot.bodies.__getitem__, indices[counts > 60]) if body.loose]
        if not chosen:
            raise ImpossibleError
        return chosen[self.rng.integers(len(chosen))]


def _noun(body: Body) -> str:
    return body.noun or "part"


def _width(body: Body) -> float:
    return float(np.ptp(body.mesh.bounds, 0)[:2].max())


def _one(body: Body) -> str:
    return f"{'an' if _noun(body)[0] in 'aeiou' else 'a'} {_noun(body)}"


# ---------------------------------------------------------------- material


def _cell_cover(site: Site, made: Texture, draw: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """A cover drawn in the site's cell only; `draw` gets offsets from the site in millimetres, along u and v."""
    cell_row, cell_column = site.row // CELL * CELL, site.column // CELL * CELL
    v, u = np.mgrid[:CELL, :CELL].astype(np.float32)
    cover = np.zeros(made.roughness.shape, np.float32)
    drawn = draw((u - (site.column - cell_column)) / made.scale, (v - (site.row - cell_row)) / made.scale)
    cover[cell_row : cell_row + CELL, cell_column : cell_column + CELL] = drawn
    return cover


def _blob(rng: np.random.Generator, radius: float, made: Texture, ragged: float) -> Callable:
    """A spot with a ragged rim, 1 inside."""
    noise = mottle(rng, (CELL, CELL), max(2.5, radius * made.scale * 0.5))
    fine = mottle(rng, (CELL, CELL), 2.5)
    stretch, turn = rng.uniform(1, 2.2), rng.uniform(0, np.pi)

    def draw(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        a = (u * np.cos(turn) + v * np.sin(turn)) / np.sqrt(stretch)
        b = (v * np.cos(turn) - u * np.sin(turn)) * np.sqrt(stretch)
        level = 1 - np.hypot(a, b) / radius + ragged * (0.3 * noise + 0.12 * fine)
        return np.clip(0.5 + level * radius * made.scale * 0.6, 0, 1)

    return draw


def _line(rng: np.random.Generator, length: float, width: float, made: Texture, jagged: float) -> Callable:
    """A line of a length and width in millimetres, more or less jagged."""
    count = 24
    turns = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, jagged, count))
    steps = np.stack([np.cos(turns), np.sin(turns)], 1) * length / count
    points = np.cumsum(steps, 0)
    points -= points[count // 2]

    def draw(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        fine = 4
        image = Image.new("L", (CELL * fine, CELL * fine))
        pen = ImageDraw.Draw(image)
        start = np.array([-u[0, 0], -v[0, 0]]) * made.scale
        path = (points * made.scale + start + 0.5) * fine
        for k in range(count - 1):
            taper = np.sin(np.pi * (k + 1) / count) ** 0.5
            pen.line([*path[k], *path[k + 1]], fill=255, width=max(2, round(width * taper * made.scale * fine)))
        return np.asarray(image.resize((CELL, CELL), Image.BOX), np.float32) / 255

    return draw


def _paint(made: Texture, cover: np.ndarray, colour=None, roughness=None, metallic=None, depth: float = 0.0) -> None:
    """Lay a cover over a texture and note that it changed."""
    if colour is not None:
        made.albedo += (np.asarray(colour, np.float32) - made.albedo) * cover[..., None]
    if roughness is not None:
        made.roughness += (roughness - made.roughness) * cover
    if metallic is not None:
        made.metallic += (metallic - made.metallic) * cover
    made.height -= depth * gaussian_filter(cover, 0.6)
    made.changed = np.maximum(made.changed, cover)


def scratch(attempt: Attempt) -> Change:
    """A bright or dark line, or two, cut into the surface."""
    site = attempt.site()
    rng, body = attempt.rng, attempt.body(site.body)
    shot, made = attempt.repainted(body)
    width = max(1.3 / made.scale, attempt.size * rng.uniform(0.03, 0.08))
    length = min(attempt.size**2 / width, 0.6 * attempt.shot.extent)
    metal = made.metallic.mean() > 0.5
    for _ in range(1 if rng.random() < 0.7 else 2):
        cover = _cell_cover(site, made, _line(rng, length, width, made, rng.uniform(0.005, 0.06)))
        base = made.albedo[site.row, site.column]
        bright = float(base.mean()) < 0.25 or (metal and rng.random() < 0.6)
        colour = base * 0.5 + 0.45 if bright else base * 0.4
        _paint(made, cover, colour, 0.2 if metal else 0.6, depth=0.35 * width)
        site = replace(site, row=int(np.clip(site.row + rng.integers(-6, 7), 0, 2 * CELL - 1)))
    return Change(shot, f"a scratch on the {_noun(body)}", length)


def stain(attempt: Attempt) -> Change:
    """A spot of oil, ink or grime."""
    site = attempt.site()
    rng, body = attempt.rng, attempt.body(site.body)
    shot, made = attempt.repainted(body)
    radius = attempt.size / np.sqrt(np.pi)
    base = made.albedo[site.row, site.column]
    tints = {"dark": base * 0.3, "brown": np.array([0.16, 0.09, 0.04]), "blue ink": np.array([0.02, 0.04, 0.2])}
    names = [n for n, tint in tints.items() if np.abs(tint - base).max() > 0.08] or ["pale"]
    name = names[rng.integers(len(names))]
    colour = base * 0.55 + 0.36 if name == "pale" else tints[name]
    cover = _cell_cover(site, made, _blob(rng, radius, made, 0.6)) * rng.uniform(0.6, 0.92)
    _paint(made, cover, colour, float(rng.choice([0.1, 0.5])), metallic=0.3 * made.metallic.mean())
    return Change(shot, f"a {name} stain on the {_noun(body)}", 2 * radius)


def corrosion(attempt: Attempt) -> Change:
    """Rust or white rust on metal."""
    site = attempt.site(allowed=lambda b: attempt.shot.materials[b.material].metallic > 0.5)
    rng, body = attempt.rng, attempt.body(site.body)
    shot, made = attempt.repainted(body)
    radius = attempt.size / np.sqrt(np.pi) * 1.2
    red = made.albedo[..., 0].mean() < 1.25 * made.albedo[..., 2].mean() and rng.random() < 0.8
    colour = np.array([0.24, 0.085, 0.025]) if red else np.array([0.45, 0.52, 0.47])
    grain = np.clip(0.75 + 0.45 * mottle(rng, made.roughness.shape, 3), 0, 1)
    cover = _cell_cover(site, made, _blob(rng, radius, made, 1.3)) * grain
    tone = (0.75 + 0.3 * rng.random(made.roughness.shape))[..., None]
    _paint(made, cover, colour * tone, 0.9, 0.0, -0.05)
    return Change(shot, f"{'rust' if red else 'corrosion'} on the {_noun(body)}", 2 * radius)


def discolouration(attempt: Attempt) -> Change:
    """A region of another tone, its texture kept: faded, burnt, heat-tinted."""
    site = attempt.site()
    rng, body = attempt.rng, attempt.body(site.body)
    shot, made = attempt.repainted(body)
    radius = attempt.size / np.sqrt(np.pi)
    base = made.albedo[site.row, site.column].mean()
    ways = {"faded": lambda a: 0.5 * a + 0.32, "burnt": lambda a: a * [0.42, 0.3, 0.2], "darkened": lambda a: 0.45 * a}
    if made.metallic.mean() > 0.5:
        ways = {"heat-tinted": lambda a: a * [0.75, 0.5, 0.28], "blued": lambda a: a * [0.35, 0.42, 0.75]}
    names = [n for n in ways if not (n == "faded" and base > 0.5) and not (n in ("burnt", "darkened") and base < 0.1)]
    name = (names or ["faded"])[rng.integers(len(names or [1]))]
    cover = _cell_cover(site, made, _blob(rng, radius, made, 0.35))
    cover = gaussian_filter(cover, radius * made.scale * 0.12)
    changed = ways[name](made.albedo).astype(np.float32)
    made.albedo += (changed - made.albedo) * cover[..., None]
    made.changed = np.maximum(made.changed, cover)
    return Change(shot, f"a {name} area on the {_noun(body)}", 2 * radius)


def crack(attempt: Attempt) -> Change:
    """A jagged dark gap with a side branch."""
    site = attempt.site()
    rng, body = attempt.rng, attempt.body(site.body)
    shot, made = attempt.repainted(body)
    width = max(1.2 / made.scale, attempt.size * rng.uniform(0.03, 0.07))
    length = min(attempt.size**2 / width * 0.8, 0.5 * attempt.shot.extent)
    cover = _cell_cover(site, made, _line(rng, length, width, made, 0.4))
    if rng.random() < 0.6:
        branch = _cell_cover(site, made, _line(rng, 0.5 * length, 0.8 * width, made, 0.4))
        cover = np.maximum(cover, branch)
    base = made.albedo[site.row, site.column]
    dark = base * 0.12 if base.mean() > 0.06 else base * 0.3 + 0.25
    _paint(made, cover, dark, 0.8, metallic=0.0, depth=0.7 * width)
    return Change(shot, f"a crack in the {_noun(body)}", length)


# ---------------------------------------------------------------- geometry


def chip(attempt: Attempt) -> Change:
    """Material broken out of an edge."""
    site = attempt.site(edge=True)
    rng, body = attempt.rng, attempt.body(site.body)
    radius = attempt.size / np.sqrt(np.pi) * 1.25
    tool = lump(rng, radius, 0.9, 14).scaled((1, 1, rng.uniform(0.7, 1.3)))
    centre = site.place + 0.35 * radius * site.normal
    shot = attempt.exchanged(body.name, body.mesh - tool.moved(*centre))
    return Change(shot, f"a chipped edge of the {_noun(body)}", 2 * radius, zone=(centre, 1.9 * radius))


def broken(attempt: Attempt) -> Change:
    """An end broken off along a rough face; the piece is gone, or lies a little aside."""
    rng = attempt.rng
    site = attempt.site(edge=True)
    body = attempt.body(site.body)
    low, high = body.mesh.bounds
    away = site.place - body.mesh.centre
    away[2] = 0
    if np.linalg.norm(away) < 1e-6:
        raise ImpossibleError
    away /= np.linalg.norm(away)
    depth = min(attempt.size * rng.uniform(0.7, 1.2), 0.35 * float(np.linalg.norm((high - low)[:2])))
    tool = _rough_half_space(rng, attempt.shot.extent, 0.12 * depth)
    tool = tool.turned("z", float(np.degrees(np.arctan2(away[1], away[0])) + rng.normal(0, 25)))
    at = site.place - away * depth
    tool = tool.moved(at[0], at[1], body.mesh.centre[2])
    piece, rest = body.mesh ^ tool, body.mesh - tool
    if not len(piece.faces) or not len(rest.faces):
        raise ImpossibleError
    bodies = [replace(b, mesh=rest) if b.name == body.name else b for b in attempt.shot.bodies]
    words = f"a piece of the {_noun(body)} has broken off"
    if rng.random() < 0.4:
        shift = away * depth * rng.uniform(0.25, 0.8)
        aside = piece.turned("z", float(rng.normal(0, 14)), piece.centre).moved(*shift)
        bodies.append(Body("piece", aside, body.material, "piece"))
        words = f"the {_noun(body)} is broken in pieces"
    return Change(attempt.with_bodies(bodies), words, depth)


def _rough_half_space(rng: np.random.Generator, extent: float, rough: float) -> Mesh:
    """All that lies beyond x = 0, with a fracture's face."""
    n = 40
    y, z = np.meshgrid(np.linspace(-extent, extent, n), np.linspace(-extent, extent, n), indexing="ij")
    x = rough * mottle(rng, (n, n), 1.4)
    slab = np.stack([x, y, z], -1).reshape(-1, 3)
    back = slab.copy()
    back[:, 0] = 2 * extent
    i, j = np.meshgrid(np.arange(n - 1), np.arange(n - 1), indexing="ij")
    a, b, c, d = i * n + j, (i + 1) * n + j, (i + 1) * n + j + 1, i * n + j + 1
    front = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])
    rear = front[:, ::-1] + n * n
    k = np.arange(n - 1)
    rim = np.concatenate([k * n, (n - 1) * n + k, (n - 1 - k) * n + n - 1, n - 1 - k])
    following = np.roll(rim, -1)
    walls = np.concatenate(
        [np.stack([rim, following, following + n * n], 1), np.stack([rim, following + n * n, rim + n * n], 1)]
    )
    vertices, faces = np.concatenate([slab, back]), np.concatenate([front, rear, walls])
    return Mesh(vertices, outwards(vertices, faces))


def dent(attempt: Attempt) -> Change:
    """The surface pressed in."""
    site = attempt.site()
    rng, body = attempt.rng, attempt.body(site.body)
    radius = attempt.size / np.sqrt(np.pi) * 1.3
    mesh = refined(body.mesh, site.place, radius, radius / 7)
    away = mesh.vertices - site.place
    across = away - (away @ site.normal)[:, None] * site.normal
    x = np.linalg.norm(across, axis=1) / radius
    amount = np.where((x < 1) & (np.abs(away @ site.normal) < radius), (1 - np.clip(x, 0, 1) ** 2) ** 2, 0)
    moved = mesh.vertices - (rng.uniform(0.35, 0.6) * radius * amount)[:, None] * site.normal
    shot = attempt.exchanged(body.name, Mesh(moved, mesh.faces))
    return Change(shot, f"a dent in the {_noun(body)}", 2 * radius, zone=(site.place, 1.25 * radius))


def burr(attempt: Attempt) -> Change:
    """Jagged surplus material on an edge."""
    site = attempt.site(edge=True)
    rng, body = attempt.rng, attempt.body(site.body)
    radius = min(attempt.size / np.sqrt(np.pi), 0.03 * attempt.shot.extent)
    pieces = []
    for _ in range(int(rng.integers(2, 5))):
        piece = lump(rng, radius * rng.uniform(0.4, 0.8), 1.1, 9).scaled((1, 0.5, 0.35))
        piece = piece.turned("z", float(rng.uniform(0, 180)))
        pieces.append(piece.moved(*(site.place + rng.normal(0, 0.3 * radius, 3) * [1, 1, 0.3])))
    bodies = [*attempt.shot.bodies, Body("burr", together(pieces), body.material, "burr")]
    return Change(attempt.with_bodies(bodies), f"a burr on the {_noun(body)}", 2 * radius)


def bent(attempt: Attempt) -> Change:
    """A slender body bent beyond a point along its length."""
    rng = attempt.rng
    name = attempt.part.bends
    chosen = attempt.body(name) if name and not name.endswith("*") else attempt.loose()
    mesh = chosen.mesh
    low, high = mesh.bounds
    axis = int(np.argmax(high - low))
    at = low[axis] + (high - low)[axis] * rng.uniform(0.3, 0.62)
    angle = float(rng.uniform(*((15, 45) if axis == 2 else (9, 32))) * rng.choice([-1, 1]))
    turn_axis = "z" if axis != 2 else one_of(rng, "x", "y")  # what lies is bent in the table's plane
    pivot = mesh.centre.copy()
    pivot[axis] = at
    width = 0.12 * (high - low)[axis]
    t = np.clip((mesh.vertices[:, axis] - at) / width + 0.5, 0, 1)
    matrix_steps = np.stack([rotation(turn_axis, angle * k / 8) for k in range(9)])
    step = np.minimum((t * 8).round().astype(int), 8)
    turned = np.einsum("nij,nj->ni", matrix_steps[step], mesh.vertices - pivot) + pivot
    shot = attempt.exchanged(chosen.name, Mesh(turned, mesh.faces))
    return Change(shot, f"the {_noun(chosen)} is bent", float(high[axis] - at))


def contamination(attempt: Attempt) -> Change:
    """Foreign matter on the part: a chip, crumbs, a fibre, a drop."""
    site = attempt.site()
    if site.normal[2] < 0.2:
        raise ImpossibleError
    rng, shot = attempt.rng, attempt.shot
    body, radius = attempt.body(site.body), attempt.size / np.sqrt(np.pi)
    base = float(shot.textures[body.material].albedo[site.row, site.column].mean())
    shade = float(rng.uniform(0.5, 0.7)) if base < 0.2 else float(rng.uniform(0.02, 0.06))
    name = one_of(rng, "metal chip", "crumbs", "fibre", "drop")
    if name == "metal chip":
        angles = np.linspace(0, rng.uniform(3, 9), 60)
        path = np.stack([np.cos(angles), np.sin(angles), 0.16 * angles], 1) * 0.6 * radius
        mesh = sweep(path, 0.16 * radius, 6, 0.4).turned("x", float(rng.uniform(-70, 70)))
        material = Material((0.6, 0.59, 0.57), 1, 0.25)
        mesh = mesh.moved(*(-mesh.centre)).moved(z=0.2 * radius)
    elif name == "crumbs":
        pieces = [
            lump(rng, radius * rng.uniform(0.25, 0.5), 1.0, 8).moved(*rng.normal(0, 0.55 * radius, 2))
            for _ in range(int(rng.integers(1, 6)))
        ]
        mesh, material = together(pieces), Material((shade, 0.85 * shade, 0.6 * shade), 0, 0.8)
    elif name == "fibre":
        mesh = fibre(rng, min(attempt.size**2 / (0.014 * shot.extent), 0.5 * shot.extent), 0.006 * shot.extent)
        colour = (shade, shade, shade) if rng.random() < 0.6 else paint(rng, "red", "blue")
        material = Material(colour, 0, 0.8)
    else:
        mesh = sphere(radius, 16).scaled((1, rng.uniform(0.7, 1.2), 0.28))
        tints = [(0.05, 0.03, 0.01), (0.6, 0.6, 0.55), (0.25, 0.14, 0.02)]
        tint = max(tints, key=lambda t: abs(np.mean(t) - base)) if rng.random() < 0.7 else tints[rng.integers(3)]
        material = Material(tint, 0, 0.08)
    mesh = mesh.turned("z", float(rng.uniform(0, 360))).moved(*site.place)
    textures = {**shot.textures, "foreign": plain_texture(material, shot.extent)}
    materials, bodies = {**shot.materials, "foreign": material}, [*shot.bodies, Body("foreign", mesh, "foreign", name)]
    changed = replace(shot, bodies=bodies, textures=textures, materials=materials)
    article = "" if name == "crumbs" else "a "
    return Change(changed, f"{article}{name} on the {_noun(body)}", 2 * radius)


# ---------------------------------------------------------------- bodies that may be changed by themselves


def missing_piece(attempt: Attempt) -> Change:
    """One loose body is gone."""
    body = attempt.loose()
    rest = [b for b in attempt.shot.bodies if b.name != body.name]
    return Change(attempt.with_bodies(rest), f"{_one(body)} is missing", _width(body), {body.name})


def extra_piece(attempt: Attempt) -> Change:
    """One loose body more than there should be."""
    candidates = [b for b in attempt.shot.bodies if b.loose and b.surplus is not None]
    if not candidates:
        raise ImpossibleError
    body = candidates[attempt.rng.integers(len(candidates))]
    more = replace(body, name="surplus", mesh=body.mesh.moved(*body.surplus), loose=False)
    bodies = [*attempt.shot.bodies, more]
    return Change(attempt.with_bodies(bodies), f"there is {_one(body)} too many", _width(body), {"surplus"})


def misplaced_piece(attempt: Attempt) -> Change:
    """A loose body lies shifted and turned."""
    body, rng = attempt.loose(), attempt.rng
    reach = float(min(_width(body) * rng.uniform(0.25, 0.5), 0.12 * attempt.shot.extent))
    way = rng.uniform(0, 2 * np.pi)
    mesh = body.mesh.turned("z", float(rng.choice([-1, 1]) * rng.uniform(8, 35)), body.mesh.centre)
    mesh = mesh.moved(reach * np.cos(way), reach * np.sin(way))
    return Change(attempt.exchanged(body.name, mesh), f"{_one(body)} is out of place", reach, {body.name})


def unseated_piece(attempt: Attempt) -> Change:
    """A loose body stands up on one side, not fully seated."""
    body, rng = attempt.loose(), attempt.rng
    size = np.ptp(body.mesh.bounds, 0)
    axis = one_of(rng, "x", "y")
    angle = float(rng.choice([-1, 1]) * rng.uniform(14, 32))
    mesh = body.mesh.turned(axis, angle, body.mesh.centre)
    mesh = mesh.moved(z=max(0.0, float(body.mesh.bounds[0, 2] - mesh.bounds[0, 2])) * 0.8 + 0.15 * float(size[2]))
    return Change(attempt.exchanged(body.name, mesh), f"{_one(body)} is not fully seated", float(size[2]), {body.name})


def wrong_size_piece(attempt: Attempt) -> Change:
    """A loose body is too large or too small."""
    body, rng = attempt.loose(), attempt.rng
    factor = float(rng.choice([rng.uniform(0.5, 0.75), rng.uniform(1.25, 1.5)]))
    about = np.array([*body.mesh.centre[:2], body.mesh.bounds[0, 2]])
    words = f"{_one(body)} is too {'small' if factor < 1 else 'large'}"
    shot = attempt.exchanged(body.name, body.mesh.scaled(factor, about))
    return Change(shot, words, factor * _width(body), {body.name})


def wrong_colour_piece(attempt: Attempt) -> Change:
    """A loose body, or the whole part, has another colour."""
    rng, shot = attempt.rng, attempt.shot
    try:
        body = attempt.loose()
    except ImpossibleError:
        body = next((b for b in shot.bodies if not shot.materials[b.material].clear), None)
        if body is None or shot.materials[body.material].metallic > 0.5:
            raise
    old = shot.materials[body.material]
    base = shot.textures[body.material].albedo.mean((0, 1))
    colours, apart = (METALS, 0.15) if old.metallic > 0.5 else (PAINTS, 0.22)
    other = [(n, c) for n, c in colours.items() if np.abs(np.asarray(c) - base).max() > apart]
    name, colour = other[rng.integers(len(other))]
    made = copy.deepcopy(shot.textures[body.material])
    made.albedo = np.clip(made.albedo * (np.asarray(colour, np.float32) / np.maximum(base, 0.01)), 0, 0.95)
    bodies = [replace(b, material="other") if b.name == body.name else b for b in shot.bodies]
    textures, materials = {**shot.textures, "other": made}, {**shot.materials, "other": old}
    changed = replace(shot, bodies=bodies, textures=textures, materials=materials)
    return Change(changed, f"{_one(body)} has the wrong colour ({name})", _width(body), {body.name})


# ---------------------------------------------------------------- features in the part's numbers


def _feature(attempt: Attempt, alter: Callable[[list, int], str]) -> Change:
    """Rebuild the part with one item of a list of features changed."""
    rng, part = attempt.rng, attempt.part
    key = str(rng.choice(sorted(part.features)))
    numbers = copy.deepcopy(part.numbers)
    items = numbers[key]
    index = int(rng.integers(len(items)))
    x, y, size = items[index][:3]
    noun = part.features[key]
    words = alter(items, index).format(f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}")
    rebuilt = {b.name: b for b in part.build(numbers)}
    bodies = [
        replace(b, mesh=rebuilt[b.name].mesh) if b.name in rebuilt and not b.loose else b for b in attempt.shot.bodies
    ]
    zone = (np.array([x, y, attempt.shot.bodies[0].mesh.centre[2]]), 0.5 * attempt.shot.extent)
    return Change(attempt.with_bodies(bodies), words, float(2 * size), zone=zone)


def missing_feature(attempt: Attempt) -> Change:
    """A hole, slot or the like was never made."""

    def alter(items: list, index: int) -> str:
        del items[index]
        return "{} is missing"

    return _feature(attempt, alter)


def misplaced_feature(attempt: Attempt) -> Change:
    """A hole or slot is shifted."""

    def alter(items: list, index: int) -> str:
        x, y, size, *rest = items[index]
        way, reach = attempt.rng.uniform(0, 2 * np.pi), size * attempt.rng.uniform(0.7, 1.3)
        items[index] = (x + reach * np.cos(way), y + reach * np.sin(way), size, *rest)
        return "{} is out of place"

    return _feature(attempt, alter)


def wrong_size_feature(attempt: Attempt) -> Change:
    """A hole or slot is too large or too small."""
    factor = float(attempt.rng.choice([attempt.rng.uniform(0.45, 0.7), attempt.rng.uniform(1.35, 1.6)]))

    def alter(items: list, index: int) -> str:
        x, y, size, *rest = items[index]
        items[index] = (x, y, size * factor, *rest)
        return f"{{}} is too {'small' if factor < 1 else 'large'}"

    return _feature(attempt, alter)


def extra_feature(attempt: Attempt) -> Change:
    """A hole or slot too many."""

    def alter(items: list, index: int) -> str:
        x, y, size, *rest = items[index]
        other = items[(index + 1) % len(items)]
        share = attempt.rng.uniform(0.35, 0.6)
        items.append(((1 - share) * x + share * other[0], (1 - share) * y + share * other[1], 0.8 * size, *rest))
        return "there is {} too many"

    return _feature(attempt, alter)


def switched(attempt: Attempt, switch: str) -> Change:
    """A change of the numbers that the part itself knows."""
    numbers, (_, _, words, change) = copy.deepcopy(attempt.part.numbers), attempt.part.switches[switch]
    change(numbers, attempt.rng)
    good, here = ({b.name: b for b in bodies} for bodies in (attempt.part.bodies(), attempt.shot.bodies))
    bodies = []
    for body in attempt.part.build(numbers):
        same = body.name in good and np.array_equal(body.mesh.vertices, good[body.name].mesh.vertices)
        bodies.append(here[body.name] if same else body)  # what did not change keeps its play
    return Change(attempt.with_bodies(bodies), words, attempt.size)


# ---------------------------------------------------------------- print


def misprint(attempt: Attempt, way: str) -> Change:
    """A mark missing, misplaced, smeared, wrong or blotted."""
    rng, shot = attempt.rng, attempt.shot
    printed = [(n, m, mark) for n, m in shot.materials.items() for mark in m.marks]
    if way == "wrong":
        printed = [one for one in printed if one[2].shape == "text"]
    if not printed:
        raise ImpossibleError
    name, material, mark = printed[rng.integers(len(printed))]
    made = copy.deepcopy(shot.textures[name])
    where = made.cell(mark.cell)
    before = made.albedo.copy()
    old = mark_cover(mark, made.extent)

    def erase(cover: np.ndarray) -> None:
        around = made.albedo[where]
        clean = np.median(around.reshape(-1, 3), 0) if old.mean() < 0.4 else np.asarray(material.colour, np.float32)
        made.albedo[where] += (clean - around) * cover[..., None]

    if way == "missing":
        erase(np.clip(old * 1.3, 0, 1))
        words = "part of the print is missing" if len(material.marks) > 1 else "the print is missing"
    elif way == "misplaced":
        erase(np.clip(old * 1.3, 0, 1))
        shift = max(mark.size * rng.uniform(0.4, 0.8), 0.02 * made.extent) * rng.choice([-1, 1])
        y, degrees = mark.y + 0.5 * shift * rng.normal(), mark.degrees + float(rng.normal(0, 8))
        draw_mark(made, replace(mark, x=mark.x + shift, y=y, degrees=degrees))
        words = "the print is out of place"
    elif way == "wrong":
        letters = list(mark.text)
        others = [equally_wide(letter) for letter in letters]
        at = int(rng.choice([i for i, found in enumerate(others) if found]))
        letters[at] = str(rng.choice(list(others[at])))
        new = mark_cover(replace(mark, text="".join(letters)), made.extent)
        here = mark_cover(character_field(mark, at), made.extent)
        new = old + (new - old) * here  # the rest of the line stays to the pixel
        differs = np.abs(new - old) > 0.15
        erase(differs.astype(np.float32))
        colour_over(made, mark, new * differs * 0.92)
        words = "a character of the print is wrong"
    else:
        smear = np.clip(gaussian_filter(old, (0.6, max(2.5, 0.25 * mark.size * made.scale))) * 1.6, 0, 1)
        noise = np.clip(0.6 + 0.6 * mottle(rng, (CELL, CELL), 6), 0, 1)
        erase(np.clip(old * 1.3, 0, 1) * 0.75)
        colour_over(made, mark, smear * noise * 0.8)
        words = "the print is smeared"
    made.changed = np.maximum(made.changed, (np.abs(made.albedo - before).max(-1) > 0.06).astype(np.float32))
    return Change(replace(shot, textures={**shot.textures, name: made}), words, mark.size)


@dataclass(frozen=True)
class Kind:
    """A type of defect: its kind, how it is made, whether its size can be chosen."""

    kind: str
    make: Callable[[Attempt], Change]
    scalable: bool = True


GENERAL = {
    "scratch": Kind("surface", scratch),
    "stain": Kind("surface", stain),
    "corrosion": Kind("surface", corrosion),
    "discolouration": Kind("colour", discolouration),
    "crack": Kind("broken", crack),
    "chip": Kind("broken", chip),
    "broken_piece": Kind("broken", broken),
    "dent": Kind("deformed", dent),
    "burr": Kind("extra", burr),
    "contamination": Kind("contamination", contamination),
}
"""Types that any part can have, as far as its materials allow."""

PIECES = {
    "missing_piece": Kind("missing", missing_piece, False),
    "extra_piece": Kind("extra", extra_piece, False),
    "misplaced_piece": Kind("misplaced", misplaced_piece, False),
    "unseated_piece": Kind("misplaced", unseated_piece, False),
    "wrong_size_piece": Kind("deformed", wrong_size_piece, False),
    "wrong_colour": Kind("colour", wrong_colour_piece, False),
}
"""Types of parts with loose bodies."""

FEATURES = {
    "missing_feature": Kind("missing", missing_feature, False),
    "misplaced_feature": Kind("misplaced", misplaced_feature, False),
    "wrong_size_feature": Kind("deformed", wrong_size_feature, False),
    "extra_feature": Kind("extra", extra_feature, False),
}
"""Types of parts with lists of features."""

PRINTS = {
    f"print_{way}": Kind("print", lambda attempt, way=way: misprint(attempt, way), False)
    for way in ("missing", "misplaced", "wrong", "smeared")
}
"""Types of printed parts."""


def applicable(part: Part, mono: bool) -> dict[str, Kind]:
    """The types of defect that a part can have."""
    bodies = part.bodies()
    solid = {b.material for b in bodies} & {n for n, m in part.materials.items() if not m.clear}
    soft = all(part.materials[n].roughness > 0.6 and part.materials[n].pattern == "grain" for n in solid)
    types = dict(GENERAL)
    if not any(part.materials[n].metallic > 0.5 for n in solid):
        del types["corrosion"]
    if soft:
        del types["dent"]
    if any(b.loose for b in bodies):
        types |= PIECES
        if not any(b.surplus for b in bodies):
            del types["extra_piece"]
    elif all(part.materials[n].metallic < 0.5 for n in solid):
        types["wrong_colour"] = PIECES["wrong_colour"]
    if part.features:
        types |= FEATURES
    if any(m.marks for m in part.materials.values()):
        types |= PRINTS
    if part.bends:
        types["bent"] = Kind("deformed", bent, False)
    for switch, (defect_type, kind, *_) in part.switches.items():
        types[f"{defect_type}:{switch}"] = Kind(kind, lambda attempt, s=switch: switched(attempt, s), False)
    if mono:
        types = {name: one for name, one in types.items() if one.kind != "colour"}
    return types
