"""Parts rendered from CAD: the builder and what it reads, packing, solids, materials, masks, the renderer."""

import io
import itertools
import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datasets_scripts import cad_parts
from datasets_scripts.anomaly_builder import COLUMNS
from datasets_scripts.cad_parts import CAD_PARTS_FACTS, cad_parts_features
from datasets_scripts.loading import load_anomaly_dataset, load_builder
from datasets_scripts.publishing import data_card
from recipes.cad_parts import pack, render
from recipes.cad_parts.measure import MARKERS, insert
from tests.dataset_checks import make_private_cache  # noqa: F401 (fixture)

pytestmark = pytest.mark.usefixtures("private_cache")

SIDE = 24


def draw_pictures(folder, parts=("spur_gear_1", "hex_nut_2"), good=4, bad=2):
    """A folder as the renderer leaves it, of noise."""
    rng = np.random.default_rng(0)
    for name in parts:
        (folder / name).mkdir(parents=True)
        for label, count in ((0, good), (1, bad)):
            for index in range(count):
                stem = folder / name / f"{'defect' if label else 'good'}_{index:03d}"
                Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(stem.with_suffix(".png"))
                mask = np.zeros((SIDE, SIDE), bool)
                mask[3:9, 4 + index : 10] = label
                if label:
                    Image.fromarray(mask).save(stem.with_name(stem.name + "_mask.png"))
                facts = {
                    "part": name, "part_kind": name.rpartition("_")[0], "object": name, "label": label,
                    "defect_type": "chip" if label else "good", "kind": "broken" if label else "good",
                    "words": "a chipped edge" if label else "", "size_mm": 2.5 * label,
                    "area_share": float(mask.mean()), "pixel_mm": 0.2,
                }  # fmt: skip
                stem.with_suffix(".json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def packed(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    pack.main(["--pictures", str(pictures), "--output", str(folder)])
    return folder


# ---------------------------------------------------------------- packing and the builder


def test_packed_pictures_come_back_with_masks_and_facts(packed):
    dataset = load_anomaly_dataset("cad_parts", packed)
    assert dataset["train"].column_names == [*COLUMNS, *CAD_PARTS_FACTS]
    assert dataset["train"].features == cad_parts_features()
    assert [len(dataset["train"]), len(dataset["test"])] == [4, 8]
    assert set(dataset["train"]["label"]) == {0}
    for row in dataset["test"]:
        assert row["image"].size == (SIDE, SIDE)
        assert (row["mask"] is None) == (row["label"] == 0)
        if row["label"]:
            assert (np.asarray(row["mask"]) > 0).mean() == pytest.approx(row["area_share"])
            assert (row["kind"], row["words"], row["size_mm"]) == ("broken", "a chipped edge", 2.5)


def test_kinds_held_back_are_read_apart_from_those_for_training(packed):
    for config, name in (("training", "hex_nut_2"), ("held_back", "spur_gear_1")):
        rows = load_anomaly_dataset("cad_parts", packed, split="test", config_name=config)
        assert set(rows["category"]) == {name}


def test_one_part_is_read_by_its_name(packed):
    assert set(load_anomaly_dataset("cad_parts", packed, category="hex_nut_2")["train"]["category"]) == {"hex_nut_2"}
    streamed = load_anomaly_dataset("cad_parts", packed, category="hex_nut_2", split="test", streaming=True)
    assert sum(1 for _ in streamed) == 4
    with pytest.raises(ValueError, match="'hex_nut_3'.*Did you mean 'hex_nut_2'"):
        load_anomaly_dataset("cad_parts", packed, category="hex_nut_3")


def test_a_folder_without_the_files_is_refused_with_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="cad_parts-.*recipes.cad_parts.pack.*without any"):
        load_builder("cad_parts", tmp_path)


def test_packing_again_replaces_the_files_and_needs_pictures(pictures, packed, tmp_path, capsys):
    (packed / "cad_parts-00001-of-00002.parquet").write_bytes(b"of a larger set before")
    pack.main(["--pictures", str(pictures), "--output", str(packed)])
    assert [path.name for path in packed.iterdir()] == ["cad_parts-00000-of-00001.parquet"]
    with pytest.raises(SystemExit):
        pack.main(["--pictures", str(tmp_path), "--output", str(packed)])
    assert "Render them first" in capsys.readouterr().err


def test_the_quality_falls_until_all_fits(pictures):
    found = pack.find(pictures)
    sizes = [len(pack.encoded(found[0][0], quality)) for quality in pack.QUALITIES]
    assert sizes == sorted(sizes, reverse=True)
    assert pack.best_quality(found, 1e9) == pack.QUALITIES[0]
    assert pack.best_quality(found, 1) == pack.QUALITIES[-1]


def test_a_grey_camera_is_stored_as_grey(tmp_path):
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    assert Image.open(io.BytesIO(pack.encoded(tmp_path / "grey.png", 80))).mode == "L"


def shipped():
    """The files of the package; tests of them skip while there are none."""
    files = sorted(cad_parts._DATA.glob("*.parquet"))
    if not files:
        pytest.skip("no pictures are packed yet")
    return files


def test_the_shipped_set_is_small_and_keeps_its_promises():
    sizes = [path.stat().st_size for path in shipped()]
    assert max(sizes) < 25e6
    assert sum(sizes) <= 40e6
    columns = ["category", "label", "held_back", "part_kind", "image_id", "area_share"]
    rows = [row for path in shipped() for row in pq.read_table(path, columns=columns).to_pylist()]
    assert len({row["image_id"] for row in rows}) == len(rows)
    assert len({row["category"] for row in rows}) >= 100
    kinds = {row["part_kind"] for row in rows}
    held_back = {row["part_kind"] for row in rows if row["held_back"]}
    assert len(kinds) >= 25
    assert held_back == set(pack.HELD_BACK)
    assert not held_back & {row["part_kind"] for row in rows if not row["held_back"]}
    assert len(held_back) / len(kinds) == pytest.approx(0.2, abs=0.03)
    shares = np.array([row["area_share"] for row in rows if row["label"]])
    assert (shares > 0).all()
    assert 0.4 < (shares < 0.02).mean() < 0.9


def test_the_shipped_masks_are_as_large_as_said():
    for path in shipped():
        for row in pq.read_table(path, filters=[("label", "=", 1)]).slice(0, 40).to_pylist():
            mask = np.asarray(Image.open(io.BytesIO(row["mask"]["bytes"])))
            assert mask.mean() == pytest.approx(row["area_share"], abs=1e-6)
            assert Image.open(io.BytesIO(row["image"]["bytes"])).size == mask.shape[::-1]


def test_the_data_card_says_what_each_column_holds(packed):
    card = data_card("cad_parts", load_anomaly_dataset("cad_parts", packed))
    assert "license: apache-2.0" in card
    assert all(f"| `{name}` | " in card and f"| `{name}` |  |" not in card for name in CAD_PARTS_FACTS)


def test_the_measured_table_replaces_the_one_of_the_data_card(tmp_path):
    card = tmp_path / "card.md"
    card.write_text(f"before\n{MARKERS[0]}\n\nold\n\n{MARKERS[1]}\nafter\n")
    for table in ("| new |", "| newer |"):
        insert(table, card)
        assert card.read_text() == f"before\n{MARKERS[0]}\n\n{table}\n\n{MARKERS[1]}\nafter\n"
    card.write_text("nothing")
    with pytest.raises(SystemExit, match="`--card` must hold the lines .*, got .*card.md. Add them"):
        insert("", card)
    assert all(marker in (pathlib.Path(__file__).parents[2] / "docs/cad_parts.md").read_text() for marker in MARKERS)


# ---------------------------------------------------------------- the order of rendering


def test_every_picture_is_planned_once_and_every_part_comes_early():
    planned = list(render.jobs(["a", "b", "c"], 5, 3))
    assert len(planned) == len(set(planned)) == 3 * 8
    first = planned[: 3 * 2 * render.ROUND]
    assert {name for name, _, _ in first} == {"a", "b", "c"}


def test_a_picture_is_written_with_its_facts_last_and_nothing_else_is_left(tmp_path):
    class Made:
        image = np.zeros((4, 4, 3), np.uint8)
        mask = np.eye(4, dtype=bool)
        facts = {"label": 1}

    path = render.stem(tmp_path, "part_1", 3, True)
    render.save(path, Made)
    names = ["defect_003.json", "defect_003.png", "defect_003_mask.png"]
    assert sorted(file.name for file in path.parent.iterdir()) == names
    assert (np.asarray(Image.open(path.with_name("defect_003_mask.png"))) == Made.mask).all()
    render.save(render.stem(tmp_path, "part_1", 4, True), None)
    assert pack.find(tmp_path) == [(path.with_suffix(".png"), {"label": 1})]


def test_unknown_parts_are_refused(tmp_path, capsys):
    pytest.importorskip("manifold3d")
    with pytest.raises(SystemExit):
        render.main(["--output", str(tmp_path), "--parts", "hex_bolt_99"])
    assert "hex_bolt_99" in capsys.readouterr().err


# ---------------------------------------------------------------- solids


@pytest.fixture
def meshes():
    pytest.importorskip("manifold3d")
    pytest.importorskip("shapely")
    from recipes.cad_parts import meshes

    return meshes


def volume(mesh):
    """Volume by the divergence theorem."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def test_volumes_are_those_of_geometry(meshes):
    plain, chamfered = meshes.block((10, 10, 4)), meshes.extrude(meshes.rectangle(10, 10), 0, 4, 1.0)
    assert volume(plain) == pytest.approx(400)
    assert volume(chamfered) == pytest.approx(300 + (100 + 64 + 80) / 3)  # below, and a frustum
    ring = meshes.revolve([(2, 0), (5, 0), (5, 3), (2, 3)], 200)
    assert volume(ring) == pytest.approx(np.pi * (25 - 4) * 3, rel=1e-3)
    assert volume(meshes.sphere(2.0, 60)) == pytest.approx(4 / 3 * np.pi * 8, rel=5e-3)
    assert volume(plain - meshes.block((2, 2, 9), bottom=-1)) == pytest.approx(400 - 16, rel=1e-5)


def test_near_holes_leave_the_chamfers_of_all_other_edges(meshes):
    def top_corners(holes):
        plate = meshes.extrude(meshes.drilled(meshes.rectangle(40, 20), holes), 0, 3, 0.5)
        top = plate.vertices[plate.vertices[:, 2] > 2.99]
        return plate, {tuple(place) for place in top[:, :2].round(3)}

    far, near = (-12, 0, 2.0), (8, 0, 2.0)
    _, apart = top_corners([far, near])
    plate, merged = top_corners([far, near, (12.6, 0, 2.0)])  # 0.6 between the holes: less than two chamfers
    assert {place for place in apart if place[0] < -5} <= merged
    assert {place for place in merged if abs(place[1]) > 9.9} == set()  # the rim is broken, too
    inside = plate.vertices[(np.abs(plate.vertices[:, 0] - 10.3) < 0.29) & (np.abs(plate.vertices[:, 1]) < 0.1)]
    assert (inside[:, 2] <= 2.51).all()
    assert volume(plate) < volume(meshes.extrude(meshes.rectangle(40, 20), 0, 3, 0.5))
    assert volume(plate - meshes.block((1, 1, 1), bottom=1)) == pytest.approx(volume(plate) - 1, rel=1e-6)


def test_a_changed_hole_leaves_the_rest_of_the_part_as_it_was(meshes):
    """Holes out of place or too many once took the chamfers off all holes, and the masks marked all of them."""
    pytest.importorskip("mitsuba")
    from recipes.cad_parts.catalogue import PART_NAMES, make_part
    from recipes.cad_parts.defects import FEATURES, Attempt
    from recipes.cad_parts.rendering import Pose, Shot

    for name in [name for name in PART_NAMES if name.endswith("_1") and make_part(name).features]:
        part = make_part(name)
        shot = Shot(part.bodies(), {}, part.materials, Pose(), 50.0, [])
        for (defect_type, kind), seed in itertools.product(FEATURES.items(), range(3)):
            change = kind.make(Attempt(part, shot, None, 1.0, np.random.default_rng(seed)))
            for before, after in zip(shot.bodies, change.shot.bodies, strict=True):
                one, two = (meshes._manifold(body.mesh) for body in (before, after))
                solids = [*(one - two).decompose(), *(two - one).decompose()]
                boxes = np.array([solid.bounding_box() for solid in solids if solid.volume() > 1e-3])
                if len(boxes):
                    width = (boxes[:, 3:].max(0) - boxes[:, :3].min(0))[:2].max()
                    assert width < 2.6 * change.millimetres + 1, (name, defect_type, seed, before.name)


def test_a_thread_lies_between_its_core_and_its_outer_radius(meshes):
    rod = meshes.thread(3.0, 0.0, 10.0, 1.0, depth=0.6)
    radius = np.hypot(rod.vertices[:, 0], rod.vertices[:, 1])
    side = radius > 0
    assert radius.max() == pytest.approx(3.0, abs=1e-4)
    assert radius[side & (rod.vertices[:, 2] < 9)].min() == pytest.approx(2.4, abs=1e-4)
    # one turn up, the same radius: a helix
    gap = meshes.thread(3.0, 0.0, 10.0, 1.0, depth=0.6, gap=(3.0, 7.0))
    middle = (
        (gap.vertices[:, 2] > 4) & (gap.vertices[:, 2] < 6) & (np.hypot(gap.vertices[:, 0], gap.vertices[:, 1]) > 0)
    )
    assert np.ptp(np.hypot(gap.vertices[middle, 0], gap.vertices[middle, 1])) < 1e-3


def test_normals_are_flat_on_a_cube_and_radial_on_a_ball(meshes):
    cube = meshes.surface(meshes.block((2, 2, 2)), 4)
    assert np.allclose(np.sort(np.abs(cube.normals), 1), [0, 0, 1], atol=1e-5)
    ball = meshes.surface(meshes.sphere(3.0, 40), 8)
    radial = ball.positions / np.linalg.norm(ball.positions, axis=1, keepdims=True)
    assert (ball.normals * radial).sum(1).min() > 0.99


def test_texture_places_are_those_of_a_plain_loop(meshes):
    mesh, extent = meshes.lump(np.random.default_rng(0), 2.0), 6.0
    made = meshes.surface(mesh, extent)
    for face in range(0, len(made.positions) // 3, 17):
        corners = made.positions[3 * face : 3 * face + 3]
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        axis = int(np.argmax(np.abs(normal)))
        u_axis, v_axis = {0: (1, 2), 1: (0, 2), 2: (0, 1)}[axis]
        for k in range(3):
            u = (axis + corners[k][u_axis] / extent + 0.5) / 3
            v = (float(normal[axis] < 0) + corners[k][v_axis] / extent + 0.5) / 2
            assert made.places[3 * face + k] == pytest.approx((u, v), abs=1e-9)


def test_there_are_enough_parts_and_each_is_made_of_closed_solids_on_the_table(meshes):
    from recipes.cad_parts.catalogue import KINDS, PART_NAMES, make_part

    assert len(KINDS) >= 25
    assert len(PART_NAMES) >= 100
    assert set(pack.HELD_BACK) < set(KINDS)
    for name in PART_NAMES[::3]:
        part = make_part(name)
        bodies = part.bodies()
        assert len({body.name for body in bodies}) == len(bodies)
        lowest = min(body.mesh.bounds[0, 2] for body in bodies)
        assert -0.5 < lowest < 1.5, name
        for body in bodies:
            assert body.material in part.materials
            edges = np.concatenate(
                [body.mesh.faces[:, [0, 1]], body.mesh.faces[:, [1, 2]], body.mesh.faces[:, [2, 0]]]
            )
            # each edge is used once in each direction
            there, back = (edges[:, 0] * 10**7 + edges[:, 1]), (edges[:, 1] * 10**7 + edges[:, 0])
            assert np.array_equal(np.sort(there), np.sort(back)), (name, body.name)
            assert volume(body.mesh) > 0, (name, body.name)


# ---------------------------------------------------------------- materials, camera, masks


def test_a_printed_disc_has_its_area_and_lies_where_it_was_put(meshes):
    from recipes.cad_parts.materials import CELL, Mark, mark_cover

    cover = mark_cover(Mark("disc", 10.0, -5.0, 8.0), 64.0)
    assert cover.sum() * (64.0 / CELL) ** 2 == pytest.approx(np.pi * 16, rel=0.03)
    row, column = (np.indices(cover.shape) * cover).sum((1, 2)) / cover.sum()
    assert (column + 0.5) / CELL * 64 - 32 == pytest.approx(10, abs=0.3)
    assert (row + 0.5) / CELL * 64 - 32 == pytest.approx(-5, abs=0.3)


def test_the_same_seed_gives_the_same_texture_and_worn_ones_vary_more(meshes):
    from recipes.cad_parts.materials import metal, texture

    new, again, worn = (texture(metal("steel"), 50.0, np.random.default_rng(3), wear) for wear in (0.0, 0.0, 1.0))
    assert np.array_equal(new.albedo, again.albedo)
    assert worn.roughness.std() > new.roughness.std()
    assert not new.changed.any()


def test_the_camera_keeps_order_and_a_grey_one_has_one_channel():
    from recipes.cad_parts.camera import Lens, develop

    ramp = np.repeat(np.linspace(0, 1, 64)[None, :, None], 3, 2) * np.ones((64, 1, 3)) * [1, 0.8, 0.6]
    quiet = Lens(1.0, 0.01, 0.0, 0.0, False, 0)
    image = develop(ramp, quiet).astype(int)
    assert (np.diff(image[30], axis=0) >= 0).all()
    assert np.array_equal(image, develop(ramp, quiet))
    grey = develop(ramp, Lens(1.0, 0.5, 0.1, 0.01, True, 0))
    assert (grey[..., 0] == grey[..., 2]).all()
    bright = develop(ramp, Lens(2.0, 0.01, 0.0, 0.0, False, 0)).astype(int)
    assert (bright >= image).all()


def geometry(body, shift=0.0):
    """Geometry of a hand-made picture: bodies by index, flat, `shift` higher on body 0."""
    from recipes.cad_parts.rendering import Geometry

    side = len(body)
    rows, columns = np.indices((side, side))
    place = np.stack([columns, rows, np.where(body == 0, shift, 0.0)], -1).astype(np.float32)
    up = np.broadcast_to(np.array([0, 0, 1], np.float32), (side, side, 3))
    zero = np.zeros((side, side), int)
    return Geometry(body, place, up, up, zero, zero, up, np.zeros((side, side), bool), ["plate", "pin"])


def test_a_mask_holds_what_is_missing_moved_or_repainted_and_nothing_else(meshes):
    pytest.importorskip("mitsuba")
    from recipes.cad_parts.defects import Change
    from recipes.cad_parts.pictures import difference

    good = np.full((16, 16), -1)
    good[4:12, 4:12] = 0
    good[6:8, 6:8] = 1
    gone = good.copy()
    gone[6:8, 6:8] = 0
    plain = Change(None, "", 1.0)
    assert np.array_equal(difference(geometry(good), geometry(gone), plain, "missing", 0.5), good == 1)
    assert not difference(geometry(good), geometry(good), plain, "missing", 0.5).any()
    raised = difference(geometry(good), geometry(good, 1.0), plain, "deformed", 0.5)
    assert np.array_equal(raised, good == 0)
    assert not difference(geometry(good), geometry(good, 0.3), plain, "deformed", 0.5).any()
    painted = geometry(good)
    painted.changed[5, 4:7] = True
    painted.changed[0, 0] = True  # beside the part
    expected = np.zeros((16, 16), bool)
    expected[5, 4:7] = True
    assert np.array_equal(difference(geometry(good), painted, plain, "surface", 0.5), expected)
    moved = Change(None, "", 1.0, {"pin"})
    elsewhere = good.copy()
    elsewhere[6:8, 6:8] = 0
    elsewhere[7:9, 7:9] = 1
    whole = difference(geometry(good), geometry(elsewhere), moved, "misplaced", 0.5)
    assert np.array_equal(whole, (good == 1) | (elsewhere == 1))


def test_paint_that_lies_in_two_places_is_drawn_again_and_a_gap_is_none(meshes):
    pytest.importorskip("mitsuba")
    from recipes.cad_parts.pictures import scattered

    mask = np.zeros((64, 64), bool)
    assert scattered(mask, 30.0, True)
    mask[10:14, 5:20] = True
    assert not scattered(mask, 30.0, True)
    mask[10:14, 24:39] = True  # a scratch across a hole of five pixels
    assert not scattered(mask, 30.0, True)
    mask[40:44, 5:35] = True
    assert scattered(mask, 30.0, True)
    assert not scattered(mask, 30.0, False)
    assert scattered(mask, 10.0, False)


def test_a_defect_that_the_picture_does_not_show_is_told_from_one_that_it_shows(meshes):
    pytest.importorskip("mitsuba")
    from recipes.cad_parts.pictures import visible

    good = np.full((8, 8, 3), 100, np.uint8)
    bad, mask = good.copy(), np.zeros((8, 8), bool)
    mask[2:4, 2:4] = True
    bad[~mask] = 200  # what changes beside the mask does not count
    assert not visible(good, bad, mask)
    bad[mask] = 90
    assert visible(good, bad, mask)


def test_a_character_is_exchanged_for_one_as_wide_and_the_rest_of_the_line_stays(meshes):
    pytest.importorskip("mitsuba")
    from recipes.cad_parts.defects import Attempt, misprint
    from recipes.cad_parts.materials import Mark, equally_wide, mark_cover, metal, plain_texture
    from recipes.cad_parts.rendering import Pose, Shot

    assert set(equally_wide("3")) == set("012456789")
    assert equally_wide("W") == equally_wide(" ") == ""
    assert equally_wide("e").islower()
    for degrees in (0.0, 30.0):
        mark = Mark("text", 2, -1, 6, "LOT ABE", degrees=degrees)
        steel = metal("steel").with_marks(mark)
        shot = Shot([], {"metal": plain_texture(steel, 64.0)}, {"metal": steel}, Pose(), 64.0, [])
        change = misprint(Attempt(None, shot, None, 1.0, np.random.default_rng(3)), "wrong")
        rows, columns = np.nonzero(change.shot.textures["metal"].changed)
        line = np.ptp(np.argwhere(mark_cover(mark, 64.0) > 0.5), 0).max()
        assert 4 < max(np.ptp(rows), np.ptp(columns)) < 0.35 * line


def test_only_the_body_with_the_defect_is_repainted(meshes):
    pytest.importorskip("mitsuba")
    from recipes.cad_parts.defects import Attempt
    from recipes.cad_parts.materials import metal, plain_texture
    from recipes.cad_parts.parts import Body
    from recipes.cad_parts.rendering import Pose, Shot

    steel, cube = metal("steel"), meshes.block((1, 1, 1))
    bodies = [Body("fin 1", cube, "metal"), Body("fin 2", cube.moved(x=3), "metal"), Body("base", cube, "other")]
    textures = {n: plain_texture(steel, 8.0) for n in ("metal", "other")}
    shot = Shot(bodies, textures, {"metal": steel, "other": steel}, Pose(), 8.0, [])
    attempt = Attempt(None, shot, None, 1.0, np.random.default_rng(0))
    changed, made = attempt.repainted(bodies[0])
    textures = {body.name: changed.textures[body.material] for body in changed.bodies}
    assert textures["fin 1"] is made
    assert textures["fin 2"] is shot.textures["metal"]
    changed, made = attempt.repainted(bodies[2])
    assert changed.textures["other"] is made
    assert [body.material for body in changed.bodies] == ["metal", "metal", "other"]


def test_parts_have_the_defects_that_their_surfaces_allow(meshes):
    pytest.importorskip("mitsuba")
    from recipes.cad_parts.catalogue import make_part
    from recipes.cad_parts.defects import KINDS, applicable

    bolt, carton = (applicable(make_part(name), False) for name in ("hex_bolt_1", "printed_carton_1"))
    assert "corrosion" in bolt and "missing_thread:no thread" in bolt and "print_wrong" not in bolt  # noqa: PT018
    assert "corrosion" not in carton and "print_wrong" in carton  # noqa: PT018
    assert {one.kind for one in (bolt | carton).values()} <= set(KINDS)
    assert not any(one.kind == "colour" for one in applicable(make_part("hex_bolt_1"), True).values())


@pytest.mark.slow
def test_a_picture_is_made_again_to_the_same_bits_and_differs_from_the_good_one_inside_its_mask(meshes):
    pytest.importorskip("mitsuba")
    pytest.importorskip("pyoidn")
    from recipes.cad_parts.pictures import picture
    from recipes.cad_parts.rendering import Renderer

    renderer = Renderer(pixels=96, samples=4)
    first, again = (picture(renderer, "bolted_plate_1", 1, True) for _ in range(2))
    assert np.array_equal(first.mask, again.mask)
    assert np.abs(first.image.astype(int) - again.image).mean() < 0.5
    assert first.mask.mean() == pytest.approx(first.facts["area_share"])
    good = picture(renderer, "bolted_plate_1", 1, False)
    assert not good.mask.any()
    assert good.facts["kind"] == "good"
