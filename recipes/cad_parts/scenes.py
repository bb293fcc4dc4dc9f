"""Inspection stations: lights, camera, what lies below and beside the part, all relative to the view's width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from shapely.geometry import Point

from .materials import CARD, PAINTS, RUBBER, WOOD, Material, metal, plastic
from .meshes import Mesh, block, cylinder, lump, rotation, sweep, together, without

LIGHTS = ("ring", "bar", "two bars", "dome", "coaxial", "window")
GROUNDS = ("rubber", "felt", "belt", "steel", "white", "grey", "card", "wood", "tray", "fixture")


@dataclass(frozen=True)
class Station:
    """One part's inspection station.

    Args:
        light (`str`): One of [`LIGHTS`].
        ground (`str`): One of [`GROUNDS`].
        tilt (`float`): Camera's angle from the vertical in degrees.
        azimuth (`float`): Direction of the tilt and the lamps in degrees.
        opening (`float`): Field of view in degrees; 3 is nearly telecentric.
        mono (`bool`): The camera sees grey.
        colour (`tuple[float, float, float]`): Colour of felt, plastic, tray or belt.
        ambient (`float`): Light from everywhere.
    """

    light: str
    ground: str
    tilt: float
    azimuth: float
    opening: float
    mono: bool
    colour: tuple[float, float, float]
    ambient: float


def draw_station(rng: np.random.Generator, tilt: tuple[float, float], metallic: bool) -> Station:
    """Choose a part's station; shining parts get large or soft lights more often."""
    weights = np.array([3, 1, 1, 4, 2, 2] if metallic else [3, 2, 2, 2, 1, 3], float)
    light = str(rng.choice(LIGHTS, p=weights / weights.sum()))
    openings = [14.0, 20.0, 26.0] if light == "coaxial" else [3.0, 14.0, 26.0]
    names = ["black", "grey", "white", "blue", "dark green", "light blue", "beige", "grey"]
    return Station(
        light=light,
        ground=str(rng.choice(GROUNDS, p=np.array([3, 1, 3, 1, 2, 2, 1, 1, 2, 2]) / 18)),
        tilt=float(rng.uniform(*tilt)),
        azimuth=float(rng.uniform(0, 360)),
        opening=float(rng.choice(openings, p=[0.35, 0.35, 0.3])),
        mono=bool(rng.random() < 0.12),
        colour=tuple(0.85 * np.asarray(PAINTS[str(rng.choice(names))])),
        ambient=float(rng.uniform(0.12, 0.35)),
    )


def ground_material(station: Station) -> Material:
    """Surface of what the part lies on."""
    return {
        "rubber": RUBBER,
        "felt": Material(tuple(0.5 * np.asarray(station.colour)), 0, 0.95, "grain", 0.03, 0.05),
        "belt": Material(tuple(0.6 * np.asarray(station.colour) + 0.02), 0, 0.6, "card", 0.02, 0.2),
        "steel": metal("steel", "brushed"),
        "white": plastic((0.72, 0.73, 0.73), 0.5),
        "grey": plastic((0.22, 0.23, 0.24), 0.5, "grain"),
        "card": CARD,
        "wood": WOOD,
        "tray": plastic(station.colour, 0.45),
        "fixture": plastic((0.07, 0.07, 0.075), 0.5, "grain"),
    }[station.ground]


def ground_meshes(station: Station, view: float, reach: tuple[float, float]) -> list[tuple[Mesh, str]]:
    """What lies below the part: the plane, and belt ribs, tray walls or a fixture's pins around `reach` (half sizes).

    Returns:
        `list[tuple[Mesh, str]]`: Meshes with the name of their material (`"ground"` or `"pins"`).
    """
    # the textured plane fills the view, a plain one lies beyond it
    plane = together(
        [block((1.59 * view, 1.59 * view, view), bottom=-view), block((9 * view, 9 * view, view), bottom=-1.02 * view)]
    )
    if station.ground == "belt":
        step = view / 9
        ribs = [block((1.59 * view, step * 0.08, step * 0.03)).moved(y=k * step) for k in range(-7, 8)]
        return [(plane, "ground"), (together(ribs), "ground")]
    if station.ground == "tray":
        x, y = max(reach[0], 0.42 * view), max(reach[1], 0.42 * view)
        wall = 0.05 * view
        rim = without(
            block((2 * x + 2 * wall, 2 * y + 2 * wall, 0.14 * view), 0.06 * view, 0.012 * view),
            [block((2 * x, 2 * y, view), 0.04 * view, bottom=-0.1 * view)],
        )
        return [(plane, "ground"), (rim, "ground")]
    if station.ground == "fixture":
        rail = block((1.3 * view, 0.07 * view, 0.08 * view), 0.01 * view, 0.008 * view)
        both = [rail.moved(y=side * (reach[1] + 0.05 * view)) for side in (-1, 1)]
        bolts = [
            cylinder(0.016 * view, 0.08 * view, 0.095 * view, 0.004 * view).moved(x, side * (reach[1] + 0.05 * view))
            for side in (-1, 1)
            for x in (-0.3 * view, 0.3 * view)
        ]
        return [(plane, "ground"), (together(both), "ground"), (together(bolts), "pins")]
    return [(plane, "ground")]


def crumbs(rng: np.random.Generator, view: float, blocked, count: int) -> Mesh | None:
    """Crumbs and fibres on the ground beside the part.

    Args:
        rng (`np.random.Generator`): Source of all draws.
        view (`float`): Width of the view in millimetres.
        blocked (`shapely` geometry): Footprint of the part, kept free.
        count (`int`): How many to try.
    """
    meshes = []
    for _ in range(count):
        x, y = rng.uniform(-0.55 * view, 0.55 * view, 2)
        if blocked.distance(Point(x, y)) < 0.03 * view:
            continue
        if rng.random() < 0.75:
            size = view * float(np.exp(rng.uniform(np.log(0.003), np.log(0.011))))
            meshes.append(lump(rng, size, 0.8, 7).scaled((1, 1, 0.6)).moved(x, y, 0.4 * size))
        else:
            meshes.append(fibre(rng, view * rng.uniform(0.03, 0.08), view * 0.0014).moved(x, y, 0.002 * view))
    return together(meshes) if meshes else None


def fibre(rng: np.random.Generator, length: float, radius: float) -> Mesh:
    """A curled fibre on the plane z = 0."""
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.2) + rng.normal(0, 0.15, 24))
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading), 0 * heading], 1), 0) * length / 24
    path[:, 2] += radius * (1 + rng.uniform(0, 2) * np.sin(np.linspace(0, np.pi, 24)))
    return sweep(path - path.mean(0) * [1, 1, 0], radius, 5)


@dataclass(frozen=True)
class Drift:
    """How one picture's light differs: factor of strength, turn of the lamps in degrees, colour."""

    strength: float = 1.0
    turn: float = 0.0
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    height: float = 1.0


def draw_drift(rng: np.random.Generator) -> Drift:
    """Light of one picture: up to a fifth brighter or darker, lamps a few degrees aside, slightly warmer or colder."""
    warm = rng.normal(0, 0.02)
    return Drift(
        float(np.exp(rng.normal(0, 0.09))),
        float(rng.normal(0, 5)),
        (1 + warm, 1.0, 1 - warm),
        float(rng.uniform(0.95, 1.06)),
    )


def lights(mi, station: Station, view: float, distance: float, drift: Drift) -> dict:
    """Emitters of a station for Mitsuba."""
    angle = np.radians(station.azimuth + drift.turn)
    strength = drift.strength * np.asarray(drift.colour)

    def panel(direction: float, out: float, up: float, width: float, height: float, radiance: float):
        origin = np.array([out * np.cos(direction), out * np.sin(direction), up * drift.height]) * view
        away = origin / np.linalg.norm(origin)
        across = np.array([-np.sin(direction), np.cos(direction), 0.0])
        u, v = across * width * view / 2, np.cross(away, across) * height * view / 2
        corners = np.stack([origin - u - v, origin + u - v, origin + u + v, origin - u + v])
        return _lamp(mi, corners, np.array([[0, 2, 1], [0, 3, 2]]), radiance * strength)

    ambient = station.ambient
    if station.light == "ring":
        made = {"lamp": _ring_lamp(mi, view, 1.5 * view * drift.height, station.tilt, 5.0 * strength)}
    elif station.light == "bar":
        made = {"lamp": panel(angle, 1.3, 0.9, 1.8, 0.22, 16.0)}
    elif station.light == "two bars":
        turns = {"lamp": angle, "lamp2": angle + np.pi}
        made = {name: panel(turn, 1.3, 0.8, 1.8, 0.2, 9.0) for name, turn in turns.items()}
    elif station.light == "coaxial":
        made = {"lamp": panel(angle, 0.0, 1.2 * distance / view, 2.6, 2.6, 2.6)}
    elif station.light == "window":
        made = {"lamp": panel(angle, 1.6, 1.5, 1.5, 2.0, 2.6)}
    else:
        made, ambient = {}, 1.0
    sky = mi.Bitmap(_sky(station, ambient, angle, strength))
    upright = mi.ScalarTransform4f().rotate([1, 0, 0], 90)  # Mitsuba's sky has its pole along y; ours along z
    return made | {"sky": {"type": "envmap", "bitmap": sky, "to_world": upright}}


def _sky(station: Station, ambient: float, angle: float, strength: np.ndarray) -> np.ndarray:
    """Light from everywhere: paler above, a soft brighter side, a camera's hole in a dome."""
    rows, columns = 24, 48
    up = np.cos((np.arange(rows) + 0.5) / rows * np.pi)[:, None]
    side = np.cos((np.arange(columns) + 0.5) / columns * 2 * np.pi - angle)[None]
    value = ambient * (0.55 + 0.45 * up) * (1 + 0.35 * side * np.sqrt(1 - up**2))
    if station.light == "dome":
        value = value * (1 - 0.85 * (up > 0.985))
    return np.ascontiguousarray((np.clip(value, 0.02, None)[..., None] * strength).astype(np.float32))


def _ring_lamp(mi, view: float, height: float, tilt: float, radiance: np.ndarray):
    """A flat ring around the camera's axis that shines at the part."""
    angles = np.arange(33) * 2 * np.pi / 32
    rim = np.stack([np.cos(angles), np.sin(angles)], 1) * view
    corners = np.concatenate([np.c_[0.82 * rim, 0 * angles + height], np.c_[1.12 * rim, 0 * angles + height]])
    corners = corners @ rotation("x", tilt).T
    k = np.arange(32)
    faces = np.concatenate([np.stack([k, k + 1, k + 34], 1), np.stack([k, k + 34, k + 33], 1)])
    return _lamp(mi, corners, faces, radiance)


def _lamp(mi, corners: np.ndarray, faces: np.ndarray, radiance: np.ndarray):
    """A shining mesh. (Mitsuba's own rectangles put their place into the kernel, which each picture then compiles.)"""
    props = mi.Properties()
    props["emitter"] = mi.load_dict({"type": "area", "radiance": {"type": "rgb", "value": radiance.tolist()}})
    mesh = mi.Mesh("lamp", len(corners), len(faces), props=props)
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = corners.astype(np.float32).ravel()
    parameters["faces"] = faces.astype(np.uint32).ravel()
    parameters.update()
    return mesh


def camera(mi, station: Station, view: float, aim: np.ndarray, pixels: int) -> tuple[dict, float]:
    """The sensor for Mitsuba, and its distance in millimetres."""
    distance = view / 2 / np.tan(np.radians(station.opening) / 2)
    tilt = np.radians(station.tilt)
    away = np.array([0.0, -np.sin(tilt), np.cos(tilt)])
    origin = (aim + away * distance).tolist()
    film = {"type": "hdrfilm", "width": pixels, "height": pixels, "rfilter": {"type": "box"}, "pixel_format": "rgb"}
    return {
        "type": "perspective",
        "fov": station.opening,
        "near_clip": distance / 50,
        "far_clip": distance * 20,
        "to_world": mi.ScalarTransform4f().look_at(origin=origin, target=aim.tolist(), up=[0, 1, 0.0001]),
        "film": film,
        "sampler": {"type": "independent", "sample_count": 16},
    }, distance
