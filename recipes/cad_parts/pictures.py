"""One picture of one part, from its number: what varies between good ones, what a defect changes, mask and facts."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_dilation, label
from shapely.geometry import MultiPoint
from shapely.ops import unary_union

from .camera import develop, draw_lens, exposure_for
from .catalogue import make_part
from .defects import Attempt, Change, applicable
from .materials import Material, Texture, plain_texture, texture
from .meshes import surface
from .parts import Body, Part
from .rendering import FINE, Geometry, Pose, Renderer, Shot, Stage
from .scenes import Drift, Station, camera, crumbs, draw_drift, draw_station, ground_material, ground_meshes, lights

SEED = 19
Shoot = Callable[[Stage, Geometry], np.ndarray]
LEAST_CONTRAST = 5.0
"""Mean difference, in levels of 255, that a defect makes under its mask at least."""


@dataclass(frozen=True)
class Setup:
    """What all pictures of a part share.

    Args:
        part ([`Part`]): The part.
        bodies (`tuple[Body, ...]`): Its good bodies, as designed.
        station ([`Station`]): Its inspection station.
        extent (`float`): Side in millimetres of the cube about the origin that holds it.
        view (`float`): Width of the view in millimetres.
        aim (`tuple[float, float, float]`): Where the camera looks.
        start (`float`): Its turn in the fixture in degrees.
    """

    part: Part
    bodies: tuple[Body, ...]
    station: Station
    extent: float
    view: float
    aim: tuple[float, float, float]
    start: float


def generator(name: str, *numbers: int) -> np.random.Generator:
    """A source of draws for a part and further numbers."""
    return np.random.default_rng([SEED, zlib.crc32(name.encode()), *numbers])


@functools.cache
def set_up(name: str) -> Setup:
    """A part on its station."""
    part, rng = make_part(name), generator(name)
    bodies = tuple(part.bodies())
    low = np.min([b.mesh.bounds[0] for b in bodies], 0)
    high = np.max([b.mesh.bounds[1] for b in bodies], 0)
    extent = 2.04 * float(np.abs([low, high]).max())
    metallic = any(m.metallic > 0.5 for m in part.materials.values())
    station = draw_station(rng, part.tilt, metallic)
    if part.free and station.ground == "fixture":
        station = replace(station, ground="tray")
    across = np.hypot(*(high - low)[:2]) * 0.92 if part.free else (high - low)[:2].max()
    view = float(max(across, (high - low)[2] * 0.7)) / part.fill
    start = 0.0 if not part.free else float(rng.uniform(0, 360))
    return Setup(part, bodies, station, extent, view, (0.0, 0.0, 0.35 * float(high[2])), start)


@dataclass(frozen=True)
class Instance:
    """What differs from one picture of a part to the next."""

    pose: Pose
    drift: Drift
    wear: float
    tones: tuple[tuple[float, float, float], ...]
    play: tuple[tuple[float, float, float], ...]
    seed: int


def draw_instance(setup: Setup, rng: np.random.Generator) -> Instance:
    """Draw pose, light, tolerance, wear and batch colour of one picture."""
    any_turn = setup.part.free and setup.start > 120  # about two thirds of the free parts: a third or more of all
    turn = rng.uniform(0, 360) if any_turn else setup.start + rng.normal(0, 2.2)
    play = 0.022 * setup.view
    size, shift = tuple(1 + rng.normal(0, 0.004, 3)), np.clip(rng.normal(0, play, 2), -3 * play, 3 * play)
    pose = Pose(size, float(turn), tuple(map(float, shift)))
    tones = tuple(tuple(np.exp(rng.normal(0, 0.04) + rng.normal(0, 0.012, 3))) for _ in setup.part.materials)
    jitter = tuple(tuple(rng.normal(0, 1, 3)) for _ in setup.bodies)
    return Instance(pose, draw_drift(rng), float(rng.beta(1.5, 3)), tones, jitter, int(rng.integers(2**31)))


def placed(setup: Setup, bodies: list[Body], instance: Instance) -> list[Body]:
    """Loose bodies within their play: shifted by a three-hundredth of the part, turned by a degree."""
    known = {b.name: j for b, j in zip(setup.bodies, instance.play, strict=True)}
    result = []
    for body in bodies:
        if body.loose and body.name in known:
            dx, dy, da = known[body.name]
            mesh = body.mesh.moved(dx * 0.003 * setup.extent, dy * 0.003 * setup.extent)
            body = replace(body, mesh=mesh.turned("z", 1.2 * da, mesh.centre))
        result.append(body)
    return result


def textures_of(setup: Setup, materials: dict[str, Material], instance: Instance) -> dict[str, Texture]:
    """The surfaces of one instance."""
    made = {}
    for number, (name, material) in enumerate(materials.items()):
        rng = np.random.default_rng([instance.seed, number])
        tone = instance.tones[number % len(instance.tones)]
        colour = tuple(float(np.clip(c * t, 0, 0.95)) for c, t in zip(material.colour, tone, strict=True))
        made[name] = texture(replace(material, colour=colour), setup.extent, rng, instance.wear)
    return made


def surroundings(setup: Setup, instance: Instance) -> list:
    """Ground, fixture and crumbs of one picture."""
    rng = np.random.default_rng([instance.seed, 1000])
    station, view = setup.station, setup.view
    corners = np.concatenate([b.mesh.vertices for b in setup.bodies])
    reach = np.zeros(2) if setup.part.free else np.abs(corners[:, :2]).max(0) + 0.03 * view
    material, pins = ground_material(station), Material((0.5, 0.5, 0.5), 1.0, 0.3)
    made = texture(material, 1.6 * view, rng, 0.3 + 0.5 * rng.random())
    result = []
    for mesh, what in ground_meshes(station, view, tuple(reach)):
        shift = rng.uniform(-0.05, 0.05) * view if station.ground == "belt" else 0.0
        used = material if what == "ground" else pins
        drawn = made if what == "ground" else plain_texture(pins, 1.6 * view)
        result.append((surface(mesh.moved(y=shift), 1.6 * view), used, drawn))
    footprints = [MultiPoint(instance.pose.to_world(b.mesh.vertices[::3])[:, :2]).convex_hull for b in setup.bodies]
    found = crumbs(rng, view, unary_union(footprints), int(rng.poisson(5)))
    if found is not None:
        shade = float(np.exp(rng.uniform(np.log(0.03), np.log(0.6))))
        dirt = Material((shade, shade * 0.9, shade * 0.75), 0, 0.8)
        result.append((surface(found, 1.6 * view), dirt, plain_texture(dirt, 1.6 * view)))
    return result


def good_shot(setup: Setup, instance: Instance) -> Shot:
    """A good instance before the camera."""
    materials = dict(setup.part.materials)
    bodies = placed(setup, list(setup.bodies), instance)
    textures, beside = textures_of(setup, materials, instance), surroundings(setup, instance)
    return Shot(bodies, textures, materials, instance.pose, setup.extent, beside)


def stage(renderer: Renderer, setup: Setup, drift: Drift, shot: Shot) -> tuple[Stage, Geometry]:
    """A shot under the station's lights, and the geometry that the camera sees."""
    sensor, distance = camera(renderer.mi, setup.station, setup.view, np.asarray(setup.aim), renderer.pixels)
    lamps = lights(renderer.mi, setup.station, setup.view, distance, drift)
    staged = renderer.stage(shot, sensor, lamps)
    return staged, renderer.geometry(staged, sensor)


def nominal_exposure(renderer: Renderer, name: str) -> float:
    """The exposure set once for a part's station."""
    known = renderer.__dict__.setdefault("exposures", {})
    if name not in known:
        setup = set_up(name)
        instance = draw_instance(setup, generator(name, 999))
        small = Renderer(pixels=80, samples=renderer.samples)
        known[name] = exposure_for(small.paint(*stage(small, setup, Drift(), good_shot(setup, instance)), 1))
    return known[name]


def difference(good: Geometry, bad: Geometry, change: Change, kind: str, tolerance: float) -> np.ndarray:
    """Where a defect shows: pixels whose visible surface is another, lies elsewhere, or was changed.

    Args:
        good ([`Geometry`]): Without the defect.
        bad ([`Geometry`]): With it, all else equal.
        change ([`Change`]): What was done.
        kind (`str`): Its kind.
        tolerance (`float`): Least shift in millimetres that counts.

    Returns:
        `np.ndarray` of shape `(PIXELS, PIXELS)`, bool: The mask.
    """
    known = {name: i for i, name in enumerate(dict.fromkeys([*good.names, *bad.names]))}
    one, two = (np.array([known[n] for n in g.names] + [-1])[g.body] for g in (good, bad))
    either = good.part | bad.part
    elsewhere = np.linalg.norm(good.place - bad.place, axis=-1) > tolerance
    turned = (good.normal * bad.normal).sum(-1) < np.cos(np.radians(12))
    differs = either & ((one != two) | ((elsewhere | turned) & (one == two)))
    if change.zone is not None:
        centre, radius = change.zone
        near = [np.linalg.norm(g.place - centre.astype(np.float32), axis=-1) < radius for g in (good, bad)]
        differs &= near[0] | near[1]
    for name in change.whole & set(known):
        differs |= (one == known[name]) | (two == known[name])
    differs |= bad.changed & bad.part
    if kind == "deformed":  # where it is now; where it was is no part of it, unless too little of it is left
        here = differs & bad.part
        differs = here if here.sum() > 0.25 * differs.sum() else differs
    side = len(differs) // FINE
    return differs.reshape(side, FINE, side, FINE).mean((1, 3)) >= 0.5


@dataclass
class Picture:
    """One picture of the set.

    Args:
        image (`np.ndarray` of shape `(PIXELS, PIXELS, 3)`, uint8): The picture.
        mask (`np.ndarray` of shape `(PIXELS, PIXELS)`, bool): The defect.
        facts (`dict`): What is known about it.
    """

    image: np.ndarray
    mask: np.ndarray
    facts: dict


def schedule(name: str) -> list[str]:
    """Types of defect of a part's pictures in turn; every type of its own comes before any comes thrice."""
    setup = set_up(name)
    types = list(applicable(setup.part, setup.station.mono))
    rng = generator(name, 7)
    plan: list[str] = []
    while len(plan) < 192:
        plan += [types[i] for i in rng.permutation(len(types))]
    return plan


def scattered(mask: np.ndarray, pixels: float, painted: bool) -> bool:
    """Whether a mask reaches too far, or paint lies in several places: its texture lies on other faces as well."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows) or np.hypot(np.ptp(rows), np.ptp(columns)) > 2.2 * pixels + 8:
        return True
    if not painted:
        return False
    places, _ = label(binary_dilation(mask, np.ones((3, 3)), 3), np.ones((3, 3)))  # what is 6 pixels apart is one
    return bool(np.bincount(places[mask]).max() < 0.7 * mask.sum())


def visible(good: np.ndarray, bad: np.ndarray, mask: np.ndarray) -> bool:
    """Whether a defect shows: under its mask the picture differs from the one without it by more than the noise."""
    return bool(np.abs(good.astype(int) - bad)[mask].mean() >= LEAST_CONTRAST)


def make_defect(renderer: Renderer, name: str, index: int, good: tuple[Stage, Geometry], drift: Drift, shoot: Shoot):
    """Try types of defect in turn until one shows at the wished size.

    Returns:
        `tuple`: Picture, change, mask, defect type and kind; `None` if nothing showed.
    """
    shot, seen = good[0].shot, good[1]
    without = None
    setup, rng = set_up(name), generator(name, 1, index)
    types = applicable(setup.part, setup.station.mono)
    small = index % 2 == 0
    plan = schedule(name)
    pixel = setup.view / renderer.pixels
    part_share = float(seen.part.mean())
    for turn in range(18):
        key = plan[(index + 24 * (turn // 3)) % len(plan)]
        low, high = (0.0009, 0.012) if small else (0.012, min(0.07, 0.35 * part_share))
        share = float(np.exp(rng.uniform(np.log(low), np.log(max(high, 1.2 * low)))))
        size = float(np.sqrt(share) * renderer.pixels * pixel)
        try:
            change = types[key].make(Attempt(setup.part, shot, seen, size, rng))
        except ValueError:  # impossible here, or a boolean of meshes failed
            continue
        staged, geometry = stage(renderer, setup, drift, change.shot)
        mask = difference(seen, geometry, change, types[key].kind, 1.2 * pixel)
        area = float(mask.mean())
        limit = 0.019 if small and types[key].scalable else 0.45
        if not 0.0005 <= area <= limit:
            continue
        painted = bool((geometry.changed & geometry.part).any())
        if types[key].scalable and scattered(mask, change.millimetres / pixel, painted):
            continue
        without = shoot(*good) if without is None else without
        image = shoot(staged, geometry)
        if visible(without, image, mask):
            return image, change, mask, key.partition(":")[0], types[key].kind
    return None


def picture(renderer: Renderer, name: str, index: int, defective: bool) -> Picture | None:
    """Make one picture of a part; the same arguments always give the same picture.

    Args:
        renderer ([`Renderer`]): The renderer.
        name (`str`): A part of the catalogue.
        index (`int`): Number of the picture among the part's good or defective ones.
        defective (`bool`): With a defect.

    Returns:
        [`Picture`], *optional*: `None` if no defect could be made to show.
    """
    setup = set_up(name)
    rng = generator(name, 2 + defective, index)
    instance = draw_instance(setup, rng)
    exposure = nominal_exposure(renderer, name)
    lens = draw_lens(rng, exposure, setup.station.mono)
    good = stage(renderer, setup, instance.drift, good_shot(setup, instance))

    def shoot(staged: Stage, seen: Geometry) -> np.ndarray:
        return develop(renderer.paint(staged, seen, instance.seed), lens)

    facts = {
        "part": name, "part_kind": name.rpartition("_")[0], "object": setup.part.words, "index": index,
        "label": int(defective), "defect_type": "good", "kind": "good", "words": "", "size_mm": 0.0,
        "area_share": 0.0, "pixel_mm": setup.view / renderer.pixels, "light": setup.station.light,
        "ground": setup.station.ground,
    }  # fmt: skip
    if not defective:
        return Picture(shoot(*good), np.zeros((renderer.pixels, renderer.pixels), bool), facts)
    made = make_defect(renderer, name, index, good, instance.drift, shoot)
    if made is None:
        return None
    image, change, mask, defect_type, kind = made
    facts |= {"defect_type": defect_type, "kind": kind, "words": change.words}
    facts |= {"size_mm": round(change.millimetres, 3), "area_share": float(mask.mean())}
    return Picture(image, mask, facts)
