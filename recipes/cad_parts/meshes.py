"""Triangle meshes of parts in millimetres: extrusions, lathes, sweeps, threads, booleans, normals, texture places.

Every closed mesh is a manifold, so that defects can be cut out of it. z points up, away from the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import manifold3d
import numpy as np
from shapely.affinity import rotate, translate
from shapely.geometry import LineString, Point, Polygon, box
from shapely.geometry.polygon import orient

CREASE = np.cos(np.radians(38.0))
"""Faces whose normals differ by less are shaded as one smooth surface."""


@dataclass
class Mesh:
    """Triangles.

    Args:
        vertices (`np.ndarray` of shape `(V, 3)`): Places in millimetres.
        faces (`np.ndarray` of shape `(F, 3)`): Vertices of each triangle, counterclockwise from outside.
    """

    vertices: np.ndarray
    faces: np.ndarray

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Mesh:
        """The same mesh elsewhere."""
        return Mesh(self.vertices + np.array([x, y, z]), self.faces)

    def turned(self, axis: str, degrees: float, about: Sequence[float] = (0.0, 0.0, 0.0)) -> Mesh:
        """The same mesh turned about an axis through `about`."""
        centre = np.asarray(about, float)
        return Mesh((self.vertices - centre) @ rotation(axis, degrees).T + centre, self.faces)

    def scaled(self, factors: float | Sequence[float], about: Sequence[float] = (0.0, 0.0, 0.0)) -> Mesh:
        """The same mesh larger or smaller (positive factors)."""
        centre = np.asarray(about, float)
        return Mesh((self.vertices - centre) * np.asarray(factors, float) + centre, self.faces)

    @property
    def bounds(self) -> np.ndarray:
        """Smallest and largest corner, `(2, 3)`."""
        return np.stack([self.vertices.min(0), self.vertices.max(0)])

    @property
    def centre(self) -> np.ndarray:
        """Middle of the bounding box."""
        return self.bounds.mean(0)

    def __add__(self, other: Mesh) -> Mesh:
        """Both meshes, united."""
        return _from_manifold(_manifold(self) + _manifold(other))

    def __sub__(self, other: Mesh) -> Mesh:
        """This mesh without the other's inside."""
        return _from_manifold(_manifold(self) - _manifold(other))

    def __xor__(self, other: Mesh) -> Mesh:
        """What both meshes hold."""
        return _from_manifold(_manifold(self) ^ _manifold(other))


def rotation(axis: str, degrees: float) -> np.ndarray:
    """Rotation matrix about `"x"`, `"y"` or `"z"`."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    if axis == "x":
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    if axis == "y":
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def together(meshes: Sequence[Mesh]) -> Mesh:
    """Several meshes as one, without uniting them."""
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts[:-1], strict=True)]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))


def union(meshes: Sequence[Mesh]) -> Mesh:
    """Several meshes united."""
    return _from_manifold(manifold3d.Manifold.batch_boolean([_manifold(m) for m in meshes], manifold3d.OpType.Add))


def without(mesh: Mesh, holes: Sequence[Mesh]) -> Mesh:
    """A mesh without the insides of others."""
    if not holes:
        return mesh
    parts = [_manifold(m) for m in (mesh, *holes)]
    return _from_manifold(manifold3d.Manifold.batch_boolean(parts, manifold3d.OpType.Subtract))


def _manifold(mesh: Mesh) -> manifold3d.Manifold:
    made = manifold3d.Manifold(
        manifold3d.Mesh(np.ascontiguousarray(mesh.vertices, np.float32), np.ascontiguousarray(mesh.faces, np.uint32))
    )
    if made.status() != manifold3d.Error.NoError:
        raise ValueError(f"the mesh is no manifold: {made.status()}")
    return made


def _from_manifold(made: manifold3d.Manifold) -> Mesh:
    mesh = made.to_mesh()
    return Mesh(np.asarray(mesh.vert_properties)[:, :3].astype(float), np.asarray(mesh.tri_verts).astype(np.int64))


def _merged(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    """Unite vertices at one place, drop empty triangles, turn the faces outwards."""
    keys = np.round(vertices, 5) + 0.0
    unique, index = np.unique(keys, axis=0, return_inverse=True)
    faces = index.reshape(-1)[faces]
    good = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    return Mesh(unique, outwards(unique, faces[good]))


def outwards(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces of a closed mesh, turned over where they look inwards."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return faces[:, ::-1] if np.einsum("ij,ij->i", a, np.cross(b, c)).sum() < 0 else faces


# ---------------------------------------------------------------- flat outlines


def rectangle(width: float, height: float, radius: float = 0.0) -> Polygon:
    """A rectangle about the origin with round corners."""
    plain = box(-width / 2, -height / 2, width / 2, height / 2)
    return plain.buffer(-radius).buffer(radius, quad_segs=8) if radius else plain


def circle(radius: float, x: float = 0.0, y: float = 0.0, sides: int = 64) -> Polygon:
    """A circle as a polygon of `sides` corners."""
    angles = np.arange(sides) * 2 * np.pi / sides
    return Polygon(np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1))


def regular(sides: int, across_flats: float) -> Polygon:
    """A regular polygon by its width across flats."""
    return circle(across_flats / 2 / np.cos(np.pi / sides), sides=sides)


def slot(length: float, width: float, x: float = 0.0, y: float = 0.0, degrees: float = 0.0) -> Polygon:
    """A slot with round ends."""
    half = (length - width) / 2
    return translate(rotate(LineString([(-half, 0), (half, 0)]).buffer(width / 2), degrees, origin=(0, 0)), x, y)


def gear_outline(teeth: int, module: float, missing: Sequence[int] = ()) -> Polygon:
    """A spur gear's outline with rounded flanks; the teeth in `missing` are left out."""
    pitch, outer, root = teeth * module / 2, teeth * module / 2 + module, teeth * module / 2 - 1.25 * module
    step, points = 2 * np.pi / teeth, []
    for tooth in range(teeth):
        middle = tooth * step
        if tooth in missing:
            points += [(root, middle - 0.25 * step), (root, middle), (root, middle + 0.25 * step)]
            continue
        half = [(root, 0.36), (0.5 * (root + pitch), 0.30), (pitch, 0.25)]
        half += [(0.5 * (pitch + outer), 0.19), (outer, 0.11)]
        points += [(r, middle - w * step) for r, w in half] + [(r, middle + w * step) for r, w in reversed(half)]
    return Polygon([(r * np.cos(a), r * np.sin(a)) for r, a in points]).buffer(0)


# ---------------------------------------------------------------- solids


def _rings(shape: Polygon) -> list[np.ndarray]:
    shape = orient(shape)
    return [np.asarray(ring.coords)[:-1] for ring in (shape.exterior, *shape.interiors)]


def _triangles(shape: Polygon) -> tuple[np.ndarray, np.ndarray]:
    rings = _rings(shape)
    return np.concatenate(rings), np.asarray(manifold3d.triangulate(rings), np.int64)


def _polygons(shape) -> list[Polygon]:
    return [g for g in getattr(shape, "geoms", [shape]) if isinstance(g, Polygon) and not g.is_empty]


def extrude(outline: Polygon, bottom: float, top: float, chamfer: float = 0.0, lower_chamfer: float = 0.0) -> Mesh:
    """A prism with broken edges.

    Args:
        outline (`Polygon`): Outline in the plane, holes included.
        bottom (`float`): Height of the lower face.
        top (`float`): Height of the upper face.
        chamfer (`float`): Width of the upper edges' chamfers, in holes too.
        lower_chamfer (`float`): Width of the lower edges' chamfers.
    """
    outline = orient(outline.simplify(1e-4))
    vertices, faces, count = [], [], 0

    def add(points: np.ndarray, triangles: np.ndarray) -> None:
        nonlocal count
        vertices.append(points)
        faces.append(triangles + count)
        count += len(points)

    own = {tuple(point) for ring in _rings(outline) for point in np.round(ring, 6)}
    levels = []
    for height, width, up in ((bottom, lower_chamfer, -1.0), (top, chamfer, 1.0)):
        # holes nearer to each other than two chamfers, or a neck, leave a ridge below the face: no chamfer is dropped
        inner = outline.buffer(-width, join_style="mitre") if width else outline
        if inner.is_empty:
            inner, width = outline, 0.0
        for face in _polygons(inner):
            points, triangles = _triangles(face)
            add(np.column_stack([points, np.full(len(points), height)]), triangles[:, :: int(up)])
        edge = height - up * width
        if width:
            for band in _polygons(outline.difference(inner)):
                points, triangles = _triangles(band)
                z = [edge if tuple(point) in own else height for point in np.round(points, 6)]
                add(np.column_stack([points, z]), triangles[:, :: int(up)])
        levels.append(edge)
    for ring in _rings(outline):
        n = len(ring)
        index = np.arange(n)
        following = (index + 1) % n
        low, high = (np.column_stack([ring, np.full(n, level)]) for level in levels)
        walls = [[index, following, following + n], [index, following + n, index + n]]
        add(np.concatenate([low, high]), np.concatenate([np.stack(wall, 1) for wall in walls]))
    return _merged(np.concatenate(vertices), np.concatenate(faces))


def block(size: Sequence[float], radius: float = 0.0, chamfer: float = 0.0, bottom: float = 0.0) -> Mesh:
    """A box on `bottom` about the z axis, with round corners and broken edges."""
    return extrude(rectangle(size[0], size[1], radius), bottom, bottom + size[2], chamfer, chamfer)


def cylinder(radius: float, bottom: float, top: float, chamfer: float = 0.0, sides: int = 64) -> Mesh:
    """A cylinder on the z axis."""
    return extrude(circle(radius, sides=sides), bottom, top, chamfer, chamfer)


def revolve(profile: Sequence[tuple[float, float]], sides: int = 96) -> Mesh:
    """A solid of revolution about z.

    Args:
        profile (sequence of `(r, z)`): Closed outline in the half plane; it may run along the axis.
        sides (`int`): Steps about the axis.
    """
    profile = np.asarray(profile, float)
    n = len(profile)
    angles = np.arange(sides) * 2 * np.pi / sides
    r, z = profile[:, 0], profile[:, 1]
    grid = np.stack([r * np.cos(angles)[:, None], r * np.sin(angles)[:, None], z + 0 * angles[:, None]], -1)
    i, j = np.meshgrid(np.arange(sides), np.arange(n), indexing="ij")
    a, b = i * n + j, (i + 1) % sides * n + j
    c, d = (i + 1) % sides * n + (j + 1) % n, i * n + (j + 1) % n
    # the step along the axis itself has no area
    real = ~((r[j] < 1e-9) & (r[(j + 1) % n] < 1e-9))
    faces = np.concatenate([np.stack([a, b, c], -1)[real], np.stack([a, c, d], -1)[real]])
    return _merged(grid.reshape(-1, 3), faces)


def sphere(radius: float, detail: int = 24) -> Mesh:
    """A ball about the origin."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, detail)
    return revolve([(radius * max(np.cos(a), 0.0), radius * np.sin(a)) for a in angles], 2 * detail)


def thread(radius: float, bottom: float, top: float, pitch: float, depth: float | None = None, gap=None) -> Mesh:
    """A rod with a helical thread.

    Args:
        radius (`float`): Outer radius.
        bottom (`float`): Where the rod begins.
        top (`float`): Where it ends, with a chamfer.
        pitch (`float`): Rise of one turn.
        depth (`float`, *optional*): Depth of the thread; 0.6 of the pitch by default.
        gap (`tuple[float, float]`, *optional*): Heights between which the thread is missing.
    """
    depth = 0.6 * pitch if depth is None else depth
    turn, steps = 48, max(2, int(np.ceil((top - bottom) / pitch * 8)))
    angles = np.arange(turn) * 2 * np.pi / turn
    z = np.linspace(bottom, top, steps + 1)[None, :] + 0 * angles[:, None]
    phase = (z / pitch - angles[:, None] / (2 * np.pi)) % 1.0
    flank = np.clip(np.abs(phase - 0.5) * 2.6 - 0.15, 0, 1)
    if gap is not None:
        inside = np.clip(np.minimum(z - gap[0], gap[1] - z) / pitch * 2 + 0.5, 0, 1)
        flank = flank * (1 - inside) + 0.55 * inside
    r = radius - depth * flank
    r = np.minimum(r, radius - 0.9 * depth + np.maximum(top - z, 0))
    rows = np.stack([r * np.cos(angles)[:, None], r * np.sin(angles)[:, None], z], -1)
    n = steps + 1
    i, j = np.meshgrid(np.arange(turn), np.arange(steps), indexing="ij")
    a, b, c, d = i * n + j, (i + 1) % turn * n + j, (i + 1) % turn * n + j + 1, i * n + j + 1
    faces = [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
    ends = np.array([[0, 0, bottom], [0, 0, top]], float)
    k = np.arange(turn)
    faces.append(np.stack([(k + 1) % turn * n, k * n, 0 * k + turn * n], -1))
    faces.append(np.stack([k * n + n - 1, (k + 1) % turn * n + n - 1, 0 * k + turn * n + 1], -1))
    return _merged(np.concatenate([rows.reshape(-1, 3), ends]), np.concatenate(faces))


def sweep(path: np.ndarray, radius: float | np.ndarray, sides: int = 12, flatten: float = 1.0) -> Mesh:
    """A round wire along a path.

    Args:
        path (`np.ndarray` of shape `(N, 3)`): Points of the middle line.
        radius (`float` or array of `N`): Radius of the wire.
        sides (`int`): Corners of the section.
        flatten (`float`): Height of the section over its width.
    """
    path = np.asarray(path, float)
    tangents = np.gradient(path, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    side = np.cross(tangents[0], [0, 0, 1.0])
    side = np.array([1.0, 0, 0]) if np.linalg.norm(side) < 1e-3 else side / np.linalg.norm(side)
    sides_, ups = [], []
    for tangent in tangents:  # the frame is carried along without twist
        side = side - tangent * (side @ tangent)
        side /= np.linalg.norm(side)
        sides_.append(side)
        ups.append(np.cross(side, tangent))
    angles = np.arange(sides) * 2 * np.pi / sides
    r = np.broadcast_to(radius, len(path))[:, None, None]
    ring = np.cos(angles)[None, :, None] * np.stack(sides_)[:, None]
    ring = ring + flatten * np.sin(angles)[None, :, None] * np.stack(ups)[:, None]
    grid = path[:, None] + r * ring
    n, k = len(path), np.arange(sides)
    i, j = np.meshgrid(np.arange(n - 1), k, indexing="ij")
    a, b, c, d = i * sides + j, i * sides + (j + 1) % sides, (i + 1) * sides + (j + 1) % sides, (i + 1) * sides + j
    faces = [np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)]
    faces.append(np.stack([(k + 1) % sides, k, 0 * k + n * sides], -1))
    faces.append(np.stack([(n - 1) * sides + k, (n - 1) * sides + (k + 1) % sides, 0 * k + n * sides + 1], -1))
    return _merged(np.concatenate([grid.reshape(-1, 3), path[[0, -1]]]), np.concatenate(faces))


def lump(rng: np.random.Generator, radius: float, roughness: float = 0.3, detail: int = 12) -> Mesh:
    """An irregular ball, for chips, crumbs and drops."""
    ball = sphere(1.0, detail)
    length = np.ones(len(ball.vertices))
    for _ in range(7):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        length += roughness * rng.uniform(-0.5, 0.5) * np.cos(3 * rng.uniform(0.5, 1.5) * ball.vertices @ direction)
    return Mesh(ball.vertices * (length * radius)[:, None], ball.faces)


def refined(mesh: Mesh, centre: np.ndarray, radius: float, edge: float) -> Mesh:
    """The mesh with edges no longer than `edge` within `radius` of a place, so that it can be dented there."""
    vertices, faces = mesh.vertices, mesh.faces
    for _ in range(9):
        corners = vertices[faces]
        lengths = np.linalg.norm(corners - np.roll(corners, -1, 1), axis=2).max(1)
        size = np.linalg.norm(corners.max(1) - corners.min(1), axis=1)
        near = np.linalg.norm(corners.mean(1) - centre, axis=1) < radius + size
        split = near & (lengths > edge)
        if not split.any() or len(faces) > 60_000:
            break
        # every triangle with a long edge is cut at the middles of all three: neighbours meet without cracks
        # because the dent vanishes before its rim
        kept, cut = faces[~split], faces[split]
        a, b, c = (vertices[cut[:, k]] for k in range(3))
        start, n = len(vertices), len(cut)
        vertices = np.concatenate([vertices, (a + b) / 2, (b + c) / 2, (c + a) / 2])
        ab, bc, ca = start + np.arange(n), start + n + np.arange(n), start + 2 * n + np.arange(n)
        new = [(cut[:, 0], ab, ca), (ab, cut[:, 1], bc), (ca, bc, cut[:, 2]), (ab, bc, ca)]
        faces = np.concatenate([kept, *(np.stack(triangle, 1) for triangle in new)])
    unique, index = np.unique(np.round(vertices, 6), axis=0, return_inverse=True)
    return Mesh(unique, index.reshape(-1)[faces])


# ---------------------------------------------------------------- what the renderer needs


@dataclass
class Surface:
    """Three corners a triangle, with normals and texture places.

    Args:
        positions (`np.ndarray` of shape `(3 F, 3)`): Corners.
        normals (`np.ndarray` of shape `(3 F, 3)`): Shading normals.
        places (`np.ndarray` of shape `(3 F, 2)`): Texture places in [0, 1].
    """

    positions: np.ndarray
    normals: np.ndarray
    places: np.ndarray


def surface(mesh: Mesh, extent: float) -> Surface:
    """Normals smooth across edges flatter than [`CREASE`], and texture places by projection along the main axis.

    The texture has six cells, three columns (x, y, z) and two rows (from above, from below); a cell shows the cube of
    side `extent` about the origin.

    Args:
        mesh ([`Mesh`]): The mesh in the part's coordinates.
        extent (`float`): Side of the cube in millimetres.
    """
    corners = mesh.vertices[mesh.faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    keep = area > 1e-10
    faces, corners, cross, area = mesh.faces[keep], corners[keep], cross[keep], area[keep]
    normal = cross / area[:, None]
    return Surface(
        corners.reshape(-1, 3), _corner_normals(faces, normal, area), texture_places(corners, normal, extent)
    )


def _corner_normals(faces: np.ndarray, normal: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Area-weighted mean, at each corner, of the normals of the faces there that are nearly parallel."""
    n = len(faces)
    vertex, face = faces.reshape(-1), np.repeat(np.arange(n), 3)
    order = np.argsort(vertex, kind="stable")
    sorted_vertex, sorted_face = vertex[order], face[order]
    start = np.searchsorted(sorted_vertex, vertex, "left")
    count = np.searchsorted(sorted_vertex, vertex, "right") - start
    count = np.minimum(count, 24)  # the tips of fans are flat anyway
    pair_corner = np.repeat(np.arange(3 * n), count)
    offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    other = sorted_face[np.repeat(start, count) + offset]
    near = np.einsum("ij,ij->i", normal[face[pair_corner]], normal[other]) > CREASE
    weighted = normal[other] * (area[other] * near)[:, None]
    result = normal[face] * (area[face] * 1e-3)[:, None]
    for axis in range(3):
        result[:, axis] += np.bincount(pair_corner, weighted[:, axis], 3 * n)
    return result / np.linalg.norm(result, axis=1, keepdims=True)


def texture_places(corners: np.ndarray, normal: np.ndarray, extent: float) -> np.ndarray:
    """Places in the six-cell texture, `(3 F, 2)`, of triangles `(F, 3, 3)` with their normals."""
    axis = np.abs(normal * [1.0, 1.0, 1.001]).argmax(1)
    below = np.take_along_axis(normal, axis[:, None], 1)[:, 0] < 0
    u_axis, v_axis = np.array([1, 0, 0])[axis], np.array([2, 2, 1])[axis]
    row = np.arange(len(corners))[:, None]
    u = np.clip(corners[row, np.arange(3), u_axis[:, None]] / extent + 0.5, 0.003, 0.997)
    v = np.clip(corners[row, np.arange(3), v_axis[:, None]] / extent + 0.5, 0.003, 0.997)
    return np.stack([(axis[:, None] + u) / 3, (below[:, None] + v) / 2], -1).reshape(-1, 2)


def ring_of(count: int, radius: float, start: float = 0.0) -> list[tuple[float, float]]:
    """Points evenly on a circle."""
    angles = np.radians(start) + np.arange(count) * 2 * np.pi / count
    return [(float(radius * np.cos(a)), float(radius * np.sin(a))) for a in angles]


def drilled(outline: Polygon, holes: Sequence[tuple[float, float, float]]) -> Polygon:
    """An outline with round holes `(x, y, radius)`."""
    for x, y, radius in holes:
        outline = outline.difference(Point(x, y).buffer(radius, quad_segs=10))
    return max(_polygons(outline), key=lambda polygon: polygon.area)
