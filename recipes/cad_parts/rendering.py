"""Path tracing of a part on its station, and the exact geometry seen by each pixel."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from .materials import CELL, Material, Texture
from .meshes import Surface, surface
from .parts import Body

PIXELS = 320
FINE = 1
"""Rays a pixel and direction of the geometry; a mask holds a pixel when at least half of its rays differ."""


def load_mitsuba():
    """Import Mitsuba with the fastest variant that works here (LLVM 16 or newer needed, else the scalar one)."""
    newest = sorted(glob.glob("/usr/lib/*/libLLVM*.so*"), key=lambda path: re.findall(r"\d+", path)[-2:])
    usable = [path for path in newest if int((re.findall(r"LLVM[-.so]*(\d+)", path) or [0])[0]) >= 16]
    if usable:
        os.environ.setdefault("DRJIT_LIBLLVM_PATH", usable[-1])
    import mitsuba as mi

    try:
        mi.set_variant(os.environ.get("CAD_PARTS_VARIANT", "llvm_ad_rgb"))
    except (ImportError, RuntimeError):
        mi.set_variant("scalar_rgb")
    if "llvm" in mi.variant():
        import drjit as dr

        dr.set_thread_count(1)
    return mi


@dataclass
class Pose:
    """Where a part lies: tolerance of size, turn about z in degrees, shift in millimetres."""

    size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    turn: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)

    def matrix(self) -> np.ndarray:
        """Rotation about z."""
        c, s = np.cos(np.radians(self.turn)), np.sin(np.radians(self.turn))
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """Places of the part on the table."""
        return points @ (self.matrix() * self.size).T.astype(points.dtype) + np.array([*self.shift, 0.0], points.dtype)

    def to_part(self, points: np.ndarray) -> np.ndarray:
        """Places on the table in the part's coordinates."""
        back = (self.matrix() / self.size).astype(points.dtype)
        return (points - np.array([*self.shift, 0.0], points.dtype)) @ back

    def turned(self, normals: np.ndarray) -> np.ndarray:
        """Normals of the part on the table."""
        normals = (normals / self.size) @ self.matrix().T
        return normals / np.linalg.norm(normals, axis=1, keepdims=True)


@dataclass
class Shot:
    """All that stands before the camera.

    Args:
        bodies (`list[Body]`): The part's bodies.
        textures (`dict[str, Texture]`): Of the part's materials.
        materials (`dict[str, Material]`): The part's materials.
        pose ([`Pose`]): Where the part lies.
        extent (`float`): Side of the textures' cells in millimetres.
        beside (`list[tuple[Surface, Material, Texture]]`): Ground, fixture and crumbs, in world places.
    """

    bodies: list[Body]
    textures: dict[str, Texture]
    materials: dict[str, Material]
    pose: Pose
    extent: float
    beside: list[tuple[Surface, Material, Texture]]


@dataclass
class Geometry:
    """What each ray meets, arrays of shape `(FINE PIXELS, FINE PIXELS, ...)`.

    Args:
        body (`np.ndarray`): Index of the body in the shot, -1 beside the part.
        place (`np.ndarray`): Place in the part's coordinates.
        normal (`np.ndarray`): Shading normal in the world.
        bumped (`np.ndarray`): Normal with the texture's relief.
        row (`np.ndarray`): Row of the texture met.
        column (`np.ndarray`): Column of the texture met.
        albedo (`np.ndarray`): Colour of the texture met.
        changed (`np.ndarray`, bool): Where a defect changed the texture.
        names (`list[str]`): Names of the bodies.
    """

    body: np.ndarray
    place: np.ndarray
    normal: np.ndarray
    bumped: np.ndarray
    row: np.ndarray
    column: np.ndarray
    albedo: np.ndarray
    changed: np.ndarray
    names: list[str]

    @property
    def part(self) -> np.ndarray:
        """Rays that meet the part."""
        return self.body >= 0


def body_surface(body: Body, extent: float) -> Surface:
    """A body's surface, made once."""
    known = body.mesh.__dict__.get("known_surface")
    if known is None or known[0] != extent:
        known = (extent, surface(body.mesh, extent))
        body.mesh.__dict__["known_surface"] = known
    return known[1]


def _mesh(mi, name: str, shape: Surface, bsdf):
    count = len(shape.positions)
    props = mi.Properties()
    props["bsdf"] = bsdf
    mesh = mi.Mesh(name, count, count // 3, has_vertex_normals=True, has_vertex_texcoords=True, props=props)
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = shape.positions.astype(np.float32).ravel()
    parameters["vertex_normals"] = shape.normals.astype(np.float32).ravel()
    parameters["vertex_texcoords"] = shape.places.astype(np.float32).ravel()
    parameters["faces"] = np.arange(count, dtype=np.uint32)
    parameters.update()
    return mesh


def _bsdf(mi, material: Material, made: Texture):
    """A material for Mitsuba. Bump maps raise the relief, measured per texture place, to millimetres."""
    if material.clear:
        return mi.load_dict(
            {"type": "thindielectric", "int_ior": 1.49,
             "specular_transmittance": {"type": "rgb", "value": list(material.colour)}}
        )  # fmt: skip

    def image(array: np.ndarray) -> dict:
        data = np.ascontiguousarray(array.reshape(*array.shape[:2], -1).astype(np.float32))
        return {"type": "bitmap", "data": mi.TensorXf(data), "raw": True, "wrap_mode": "clamp"}

    # one form for all surfaces: the compiled kernel then serves every part
    plain = {
        "type": "principled",
        "base_color": image(np.clip(made.albedo, 0, 0.98)),
        "roughness": image(np.clip(made.roughness, 0.06, 1)),
        "metallic": image(made.metallic),
        "specular": 0.5,
    }
    return mi.load_dict({"type": "bumpmap", "height": image(made.height), "scale": 1.0, "nested": plain})


@dataclass
class Stage:
    """A shot ready to be rendered: Mitsuba's scene, its meshes, whose triangles they hold, whether films are in it."""

    shot: Shot
    scene: Any
    objects: dict[str, Any]
    owners: dict[str, tuple]
    clear: bool


class Renderer:
    """Renders shots at one size.

    Args:
        pixels (`int`): Side of the pictures.
        samples (`int`): Paths a pixel.
        depth (`int`): Longest path.
    """

    def __init__(self, pixels: int = PIXELS, samples: int = 6, depth: int = 4):
        self.mi = load_mitsuba()
        self.pixels, self.samples, self.depth = pixels, samples, depth

    def scene(self, shot: Shot, sensor: dict, lamps: dict):
        """The scene, and for each of its meshes which body each triangle belongs to."""
        mi, objects, owners = self.mi, {}, {}
        groups: dict[str, list[int]] = {}
        for index, body in enumerate(shot.bodies):
            groups.setdefault(body.material, []).append(index)
        for number, (name, indices) in enumerate(groups.items()):
            shapes = [body_surface(shot.bodies[index], shot.extent) for index in indices]
            joined = Surface(
                shot.pose.to_world(np.concatenate([s.positions for s in shapes])),
                shot.pose.turned(np.concatenate([s.normals for s in shapes])),
                np.concatenate([s.places for s in shapes]),
            )
            bsdf = _bsdf(mi, shot.materials[name], shot.textures[name])
            objects[f"part{number}"] = _mesh(mi, f"part{number}", joined, bsdf)
            counts = [len(s.positions) // 3 for s in shapes]
            owners[f"part{number}"] = (np.repeat(indices, counts), shot.textures[name], shot.materials[name])
        for number, (shape, material, made) in enumerate(shot.beside):
            key = f"beside{number}"
            objects[key] = _mesh(mi, key, shape, _bsdf(mi, material, made))
            owners[key] = (None, made, material)
        count = len(objects)
        for number in range(count, -(-(count + 1) // 5) * 5):
            objects[f"unseen{number}"] = self._unseen(number, shot.extent)
        path = {"type": "path", "max_depth": self.depth, "rr_depth": 8}
        scene = mi.load_dict({"type": "scene", "integrator": path, "sensor": sensor, **lamps, **objects})
        return scene, objects, owners

    def _unseen(self, number: int, extent: float):
        """A speck under the ground. Kernels are compiled for a number of meshes; few numbers, few kernels."""
        flat = np.full((2, 3), 0.5, np.float32)
        made = Texture(np.full((2, 3, 3), 0.5, np.float32), flat, 0 * flat, 0 * flat, extent)
        corners = np.array([[0, 0, -1], [1e-3, 0, -1], [0, 1e-3, -1]]) * 0.2 * extent
        up = np.tile([0.0, 0.0, 1.0], (3, 1))
        bsdf = _bsdf(self.mi, Material((0.5, 0.5, 0.5)), made)
        return _mesh(self.mi, f"unseen{number}", Surface(corners, up, corners[:, :2]), bsdf)

    def stage(self, shot: Shot, sensor: dict, lamps: dict) -> Stage:
        """Set up a shot."""
        scene, objects, owners = self.scene(shot, sensor, lamps)
        return Stage(shot, scene, objects, owners, any(shot.materials[b.material].clear for b in shot.bodies))

    def geometry(self, stage: Stage, sensor: dict) -> Geometry:
        """What the rays through a fine grid meet; clear films are looked through."""
        import drjit as dr

        mi, shot = self.mi, stage.shot
        if stage.clear:
            seen = [b for b in shot.bodies if not shot.materials[b.material].clear]
            opaque = Shot(seen, shot.textures, shot.materials, shot.pose, shot.extent, shot.beside)
            scene, objects, owners = self.scene(opaque, sensor, {"sky": {"type": "constant"}})
        else:
            seen, scene, objects, owners = shot.bodies, stage.scene, stage.objects, stage.owners
        side = self.pixels * FINE
        grid = (np.arange(side, dtype=np.float32) + 0.5) / side
        x, y = (mi.Float(axis.ravel()) for axis in np.meshgrid(grid, grid))
        ray, _ = scene.sensors()[0].sample_ray(0.0, 0.5, mi.Point2f(x, y), mi.Point2f(0.5))
        hit = scene.ray_intersect(ray)
        shape_ids = np.array(dr.reinterpret_array(mi.UInt32, hit.shape))
        triangle = np.array(hit.prim_index).astype(np.int32)
        places, normals = np.ascontiguousarray(np.array(hit.p).T), np.ascontiguousarray(np.array(hit.sh_frame.n).T)
        u, v = np.array(hit.uv)
        column = np.clip((u * 3 * CELL).astype(np.int32), 0, 3 * CELL - 1)
        row = np.clip((v * 2 * CELL).astype(np.int32), 0, 2 * CELL - 1)
        body, albedo = np.full(side * side, -1, np.int32), np.zeros((side * side, 3), np.float32)
        changed, bumped = np.zeros(side * side, bool), normals.copy()
        index_of = {b.name: i for i, b in enumerate(shot.bodies)}
        lookup = np.array([index_of[b.name] for b in seen])
        for key, (owner, made, _) in owners.items():
            mesh = objects[key]
            here = np.flatnonzero(shape_ids == int(np.array(dr.reinterpret_array(mi.UInt32, mi.ShapePtr(mesh)))[0]))
            r, c = row[here], column[here]
            albedo[here] = made.albedo[r, c]
            if made.height.any():
                turn = np.eye(3) if owner is None else shot.pose.matrix()
                bumped[here] -= made.slopes(r, c) @ turn.T.astype(np.float32)
            if owner is not None:
                body[here] = lookup[owner[triangle[here]]]
                changed[here] = made.changed[r, c] > 0.4
        names = [b.name for b in shot.bodies]
        flat = (body, shot.pose.to_part(places), normals, bumped, row, column, albedo, changed)
        return Geometry(*(a.reshape(side, side, *a.shape[1:]) for a in flat), names)

    def paint(self, stage: Stage, seen: Geometry, seed: int) -> np.ndarray:
        """The linear picture `(PIXELS, PIXELS, 3)`, without the noise of the sampling."""
        import pyoidn

        samples = self.samples * (2 if stage.clear else 1)
        noisy = np.array(self.mi.render(stage.scene, seed=seed, spp=samples))[..., :3].astype(np.float32)
        bright = np.percentile(noisy, 99.5) * 8  # a path that met a lamp by chance
        noisy = np.ascontiguousarray(np.clip(np.nan_to_num(noisy), 0, bright))

        def coarse(array: np.ndarray) -> np.ndarray:
            side = self.pixels
            mean = array.reshape(side, FINE, side, FINE, 3).mean((1, 3))
            return np.ascontiguousarray(mean.astype(np.float32))

        return pyoidn.denoise(noisy, coarse(seen.albedo), coarse(seen.bumped), hdr=True)
