"""`anomalygpt synthesize`: what stands in the folder against what the methods give, sheets, resuming, refusals."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from datasets_scripts.loading import load_anomaly_dataset
from datasets_scripts.rendering.defects import SURFACE_DEFECTS
from modeling_anomalygpt import cli
from modeling_anomalygpt.cli import made_pictures as cli_made_pictures
from modeling_anomalygpt.cli.made_pictures import METHODS, Renderings
from modeling_anomalygpt.synthesis.contact_sheet import SheetCell, contact_sheet
from modeling_anomalygpt.synthesis.pasted import drawn_defect
from tests.dataset_checks import make_private_cache  # noqa: F401


@pytest.fixture(name="good")
def make_good(tmp_path):
    folder = tmp_path / "good"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        tiles = Image.fromarray(rng.integers(60, 200, (12, 15, 3), dtype=np.uint8))
        tiles.resize((120, 96), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def run(*words) -> int:
    return cli.main(["synthesize", *map(str, words)])


def files_of(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "synthesis.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("private_cache")
def test_the_folder_is_read_as_own_pictures_and_masks_lie_where_pictures_changed(good, tmp_path, capsys):
    output = tmp_path / "made"
    assert run(good, "--number", 8, "--good", 2, "--output", output) == 0
    assert "10 pictures" in capsys.readouterr().out
    rows = load_anomaly_dataset("anomaly_folder", output, split="test")
    assert sorted(rows["label"]) == [0, 0] + [1] * 8
    originals = {line["image"]: line["origin"] for line in lines_of(output)[1:]}
    for row in rows:
        original = np.asarray(Image.open(originals[row["image_id"].removeprefix("made/")])).astype(int)
        change = np.abs(np.asarray(row["image"]).astype(int) - original).max(2)
        if row["label"] == 0:
            assert change.max() == 0
            assert row["mask"] is None
        else:
            mask = np.asarray(row["mask"]) > 0
            assert change[mask].mean() > 3 * change[~mask].mean()


def test_equal_seeds_give_equal_files_and_others_differ(good, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run(good, "--number", 3, "--seed", seed, "--output", tmp_path / name) == 0
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b") != files_of(tmp_path / "c")


def test_an_interrupted_run_goes_on_to_the_same_files(good, tmp_path, monkeypatch, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(good, "--number", 5, "--output", whole) == 0
    make, calls = cli_made_pictures.Photographs.make, []

    def interrupted(self, index, method=None):
        calls.append(index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return make(self, index, method)

    monkeypatch.setattr(cli_made_pictures.Photographs, "make", interrupted)
    assert run(good, "--number", 5, "--output", broken) == 130
    assert "interrupted after 2 of 5 pictures. The same command with --resume goes on." in capsys.readouterr().err
    with (broken / "synthesis.jsonl").open("a") as log:
        log.write('{"job": "defect", "ind')  # cut off
    next(broken.glob("test/*/00001.png")).unlink()
    calls += [None] * 3
    assert run(good, "--number", 5, "--output", broken, "--resume") == 0
    assert [index for index in calls if index is not None] == [0, 1, 2, 1, 2, 3, 4]
    assert files_of(broken) == files_of(whole)
    assert run(good, "--number", 7, "--output", broken, "--resume") == 0  # more of the same
    assert len(lines_of(broken)) == 8


def test_methods_are_drawn_by_weight_and_sources_give_the_texture(good, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    Image.new("RGB", (50, 50), (255, 0, 0)).save(foreign / "red.png")
    output = tmp_path / "made"
    assert run(good, "--sources", foreign, "--methods", "perlin", "hole=3", "--number", 40, "--output", output) == 0
    kinds = [line["defect_type"] for line in lines_of(output)[1:]]
    assert set(kinds) == {"foreign_texture", "hole"}
    assert kinds.count("hole") in range(22, 38)


def test_rendered_families_get_a_folder_each_and_only_defects_they_can_have(tmp_path):
    output = tmp_path / "made"
    assert run("--family", "gear", "leather", "--number", 6, "--good", 1, "--size", 64, "--output", output) == 0
    for line in lines_of(output)[1:]:
        family = line["origin"]
        assert line["image"].startswith(f"{family}/test/{line['defect_type']}/")
        assert Image.open(output / line["image"]).size == (64, 64)
    assert len(lines_of(output)) == 1 + 6 + 2


def test_any_method_works_on_rendered_products():
    maker = Renderings(["gear"], {"nsa": 1.0, "missing_part": 1.0}, 64, seed=0)
    kinds = {maker.make(index).defect_type for index in range(12)}
    assert {"blended_patch", "missing_part"} <= kinds


def test_the_sheet_has_a_row_a_method_and_a_column_a_picture(good, tmp_path, capsys):
    sheet = tmp_path / "new" / "look.png"
    assert run(good, "--methods", "nsa", "scratch", "--number", 3, "--sheet", sheet) == 0
    assert "3 rows" in capsys.readouterr().out
    assert Image.open(sheet).width == 3 * 198 + 6
    assert run("--family", "gear", "--number", 2, "--size", 64, "--sheet", sheet) == 0
    assert Image.open(sheet).width == 3 * 198 + 6  # a good one first


def test_outlines_of_a_sheet_lie_around_the_defect_and_not_on_it():
    mask = np.zeros((64, 64), bool)
    mask[20:30, 20:30] = True
    grey = np.full((64, 64, 3), 128, np.uint8)
    pixels = np.asarray(contact_sheet([("row", [SheetCell(grey, "grey", mask)])], cell_size=64))[22:86, 6:70]
    np.testing.assert_array_equal(pixels[mask], 128)
    red = (pixels == (230, 30, 60)).all(2)
    assert red.any()
    assert ndimage.binary_dilation(mask, iterations=6)[red].all()


@pytest.mark.parametrize("name", SURFACE_DEFECTS)
def test_drawn_defects_keep_the_contract_of_synthesis_methods(name):
    image = np.random.default_rng(1).integers(90, 130, (80, 120, 3), dtype=np.uint8)
    before = image.copy()
    made = METHODS[name](image, image, np.random.default_rng(0))
    np.testing.assert_array_equal(image, before)
    assert made.defect_type == name
    assert (made.image.dtype, made.mask.dtype, made.intensity.dtype) == (np.uint8, bool, np.float32)
    np.testing.assert_array_equal(sum(region.astype(int) for region in made.regions), made.mask)
    np.testing.assert_array_equal(made.mask, made.intensity > 0.3)


def test_drawn_defects_keep_to_the_object_of_known_categories():
    image = np.full((96, 96, 3), 20, np.uint8)
    image[30:70, 30:70] = 150
    for seed in range(10):
        made = METHODS["stain"](image, image, np.random.default_rng(seed), category="hazelnut")
        assert not made.mask[(image == 20).all(2)].any()


def test_a_renderer_that_draws_nothing_leaves_the_picture_normal():
    def nothing(image, object_mask, rng):
        return SimpleNamespace(image=image, mask=np.zeros(image.shape[:2], bool), defect_type="dust")

    image = np.zeros((40, 40, 3), np.uint8)
    assert not drawn_defect(image, image, np.random.default_rng(0), renderer=nothing).is_anomalous
    assert partial(drawn_defect, renderer=nothing)(image, image, np.random.default_rng(0)).defect_type == "good"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sheet", "x.png"], "Name good pictures, or --family (not both). Try"),
        (["GOOD", "--family", "gear", "--sheet", "x.png"], "Name good pictures, or --family (not both)"),
        (["GOOD"], "one of the arguments --output --sheet is required"),
        (["GOOD", "--sheet", "x.jpg"], "`--sheet` must end with .png, got 'x.jpg'"),
        (["nowhere", "--sheet", "x.png"], "There is no file or folder 'nowhere'"),
        (["--family", "gera", "--sheet", "x.png"], "got 'gera'. Did you mean 'gear'?"),
        (["--family", "gear", "--category", "x", "--sheet", "x.png"], "`--sources` and `--category` are for photo"),
        (["GOOD", "--sheet", "x.png", "--good", "3"], "`--resume` and `--good` are for --output"),
        (["GOOD", "--methods", "nsa=0", "--sheet", "x.png"], "must be a number above 0, got 'nsa=0'. Write nsa=2"),
        (["GOOD", "--methods", "rust", "--sheet", "x.png"], "`--methods` must be among nsa, "),
        (["GOOD", "--methods", "nsa", "nsa", "--sheet", "x.png"], "each once, got 'nsa'"),
        (["GOOD", "--methods", "bent_part", "--sheet", "x.png"], "It needs a rendered product: name --family"),
        (["--family", "leather", "--methods", "bent_part", "--sheet", "x.png"], "something that a leather can have"),
        (
            ["GOOD", "--size", "10", "--sheet", "x.png"],
            "argument --size: must be a whole number of at least 64, got '10'",
        ),
        (["GOOD", "--seed", "-1", "--sheet", "x.png"], "--seed"),
        (["GOOD", "--number", "200", "--sheet", "x.png"], "A sheet must be at most 16000 pixels a side"),
    ],
)
def test_wrong_use_is_refused_in_one_line(good, capsys, monkeypatch, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    if "200" in words:
        words = [*words, "--methods", "scar"]
    assert run(*[good if word == "GOOD" else word for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_folders_in_use_and_other_settings_are_refused(good, tmp_path, capsys):
    output = tmp_path / "made"
    assert run(good, "--number", 1, "--output", output) == 0
    assert run(good, "--number", 1, "--output", output) == 2
    assert "must be a new or empty folder" in capsys.readouterr().err
    assert run(good, "--number", 1, "--seed", 4, "--output", output, "--resume") == 2
    assert "got others (--seed). Use the same, or another --output." in capsys.readouterr().err
    assert run("--family", "gear", "--output", good, "--resume") == 2  # nothing of ours to go on with
    assert "must be a new or empty folder" in capsys.readouterr().err


def test_a_picture_too_small_is_named(tmp_path, capsys):
    Image.new("RGB", (20, 40)).save(tmp_path / "small.png")
    assert run(tmp_path / "small.png", "--number", 1, "--output", tmp_path / "made") == 2
    assert "sides of at least 32 pixels, got 20 x 40 in" in capsys.readouterr().err
