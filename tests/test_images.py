"""Finding and opening pictures and masks: every file, mode and orientation, one clear line for what cannot be used."""

import io
import json
import os
import warnings

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modeling_anomalygpt.image_processing_anomalygpt import GEOMETRIES, AnomalyGPTImageProcessor
from modeling_anomalygpt.images import (
    GROUND,
    PICTURE_SUFFIXES,
    NoPictureError,
    PictureError,
    bit_depth,
    distinct_names,
    find_pictures,
    load_mask,
    load_picture,
    picture_size,
    several_pictures,
    split_page,
)
from tests.test_image_processing import gradient


def refused(read, *arguments, error=PictureError, match):
    """The one line with which something is refused."""
    with pytest.raises(error, match=match) as caught:
        read(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


# Finding


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("a/10.png", "a/9.JPG", "a/notes.txt", "a/.hidden.png", "a/b/1.tif", "a/.cache/2.png", "top.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("places", "found"),
    [
        (["a"], ["a/9.JPG", "a/10.png", "a/b/1.tif"]),
        (["a/*.png"], ["a/10.png"]),
        (["a/*"], ["a/9.JPG", "a/10.png"]),
        (["**/*.tif"], ["a/b/1.tif"]),
        (["?"], ["a/9.JPG", "a/10.png", "a/b/1.tif"]),  # a pattern of folders means their pictures
        (["a/notes.txt"], ["a/notes.txt"]),  # a file that is named is taken whatever its suffix
        (["top.png", "a/10.png", "a", "./top.png"], ["top.png", "a/10.png", "a/9.JPG", "a/b/1.tif"]),
    ],
)
def test_folders_patterns_and_files_are_found_in_natural_order_and_once(tree, places, found):
    assert find_pictures(places) == found
    assert find_pictures(places).remark == ""


def test_brackets_in_a_real_name_are_no_pattern(tree):
    (tree / "part[1].png").write_bytes(b"")
    assert find_pictures(["part[1].png"]) == ["part[1].png"]


def test_results_are_left_out_whether_they_are_this_runs_or_an_earlier_ones(tree):
    assert find_pictures(["a"], without="a/b") == ["a/9.JPG", "a/10.png"]
    (tree / "a" / "b" / "results.jsonl").write_text("")
    (tree / "a" / "b" / "overlays").mkdir()
    (tree / "a" / "b" / "overlays" / "9.png").write_bytes(b"")
    assert find_pictures(["a"]) == ["a/9.JPG", "a/10.png"]


def test_pictures_below_the_folder_for_results_are_meant_where_they_are_named_themselves(tree):
    assert find_pictures(["a", "top.png"], without=".") == ["a/9.JPG", "a/10.png", "a/b/1.tif", "top.png"]
    assert find_pictures(["a/b"], without="a") == ["a/b/1.tif"]
    with pytest.raises(NoPictureError, match="All pictures in 'a/b' lie in the folder for results, 'a/b'"):
        find_pictures(["a/b"], without="a/b")


def test_both_orders_of_bytes_of_16_bits_are_one_picture(tmp_path):
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    opened = []
    for order in ("<", ">"):
        path = tmp_path / f"{order == '>'}.tif"
        swapped = values.astype(f"{order}u2")
        Image.frombytes("I;16" if order == "<" else "I;16B", (64, 64), swapped.tobytes()).save(path)
        opened.append([np.asarray(load_picture(path, bits)) for bits in (None, 16)])
    for little, big in zip(*opened, strict=True):
        assert np.array_equal(little, big)
    assert opened[0][0].max() == 255


def test_what_a_file_holds_beside_one_picture_is_told(tmp_path):
    one, other = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    for name, several in (
        ("a.tif", "2 pages"),
        ("a.gif", "several frames"),
        ("a.webp", "several frames"),
        ("a.jpg", None),
    ):
        one.save(tmp_path / name, **({} if several is None else {"save_all": True, "append_images": [other]}))
        assert several_pictures(str(tmp_path / name)) == several_pictures((tmp_path / name).read_bytes()) == several
    one.save(tmp_path / "two.mpo", "MPO", save_all=True, append_images=[other])  # as telephones keep a preview
    assert several_pictures(str(tmp_path / "two.mpo")) is None
    assert several_pictures(b"no picture") is None


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nothing.png", "There is no file or folder 'nothing.png'"),
        ("empty", "No picture in the folder 'empty'"),
        ("*.bmp", r"No picture matches '\*\.bmp'"),
    ],
)
def test_a_place_without_pictures_is_named(tree, place, message):
    refused(find_pictures, ["top.png", place], error=NoPictureError, match=message)


def test_every_suffix_of_the_one_list_is_found(tmp_path):
    files = [tmp_path / f"p{suffix}" for suffix in [*PICTURE_SUFFIXES, ".AVIF"]]
    for file in files:
        file.write_bytes(b"x")
    assert sorted(find_pictures([tmp_path])) == sorted(map(str, files))


def test_linked_folders_are_followed_and_loops_end(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "far.png").write_bytes(b"")
    (tree / "a" / "linked").symlink_to(elsewhere)
    (tree / "a" / "loop").symlink_to(tree / "a")
    assert find_pictures(["a"]) == ["a/9.JPG", "a/10.png", "a/b/1.tif", "a/linked/far.png"]


def test_what_cannot_be_taken_is_named_and_counted(tree):
    os.mkfifo(tree / "a" / "pipe.png")
    (tree / "a" / "raw.DNG").write_bytes(b"x")
    (tree / "a" / "gone.jpg").symlink_to("nowhere")
    found = find_pictures(["a"])
    assert found == ["a/9.JPG", "a/10.png", "a/b/1.tif"]
    assert set(found.passed_over) == {"a/pipe.png", "a/raw.DNG", "a/gone.jpg"}
    assert found.remark.startswith("Passed over: 3, not inspected: 'a/gone.jpg' (a link that leads nowhere)")
    (tree / "empty" / "x.svg").write_text("")
    refused(find_pictures, ["empty"], error=NoPictureError, match="Passed over: 1.*x.svg")
    refused(load_picture, tree / "a" / "pipe.png", match="must be a regular file, .*pipe.png' is a pipe")


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.avif"])
def test_frames_that_nobody_sees_are_named(tmp_path, name):
    frames = [Image.fromarray(np.full((8, 8), 90 * i, np.uint8)) for i in range(3)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / f"still_{name}")
    found = find_pictures([tmp_path])
    assert len(found) == 2
    assert found.passed_over == {str(tmp_path / name): "frames after the first are not read"}


def test_a_folder_that_cannot_be_listed_is_passed_over_by_name(tree, monkeypatch):
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert find_pictures(["a"]).passed_over == {"a/b": "a folder that cannot be listed: Permission denied"}


def test_names_take_folders_only_where_stems_repeat():
    assert distinct_names(["x/good/000.png", "x/hole/000.png", "x/hole/001.png"]) == ["good-000", "hole-000", "001"]
    assert distinct_names(["p.png", "P.png"]) == ["p_png", "P_png_2"], "some file systems know no case"
    assert distinct_names(["s.tif#page=1", "s.tif#page=2"]) == ["s-page-1", "s-page-2"]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.from_regex(r"\A([ab]/){0,2}([abA]|😀{70}|零{90})\.(png|jpg)\Z"), unique=True, max_size=12))
def test_names_are_never_given_twice_and_fit_a_file_system(files):
    names = distinct_names(files)
    assert len({name.casefold() for name in names}) == len(files) == len(names)
    assert not any("/" in name or len(name.encode()) > 130 for name in names)


def test_each_page_of_a_tiff_is_a_picture_but_no_preview(tmp_path):
    pages = [Image.fromarray(np.full((8, 8 + i), 50 * i, np.uint8)) for i in range(3)]
    pages[2].encoderinfo = {"tiffinfo": {254: 1}}
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    found = find_pictures([tmp_path])
    assert found == [f"{tmp_path / 'scan.tif'}#page={page}" for page in (1, 2)]
    assert [load_picture(page).getpixel((2, 2))[0] for page in found] == [0, 50]
    assert [picture_size(page) for page in found] == [(8, 8), (8, 9)]
    assert split_page(found[1]) == (str(tmp_path / "scan.tif"), 2)
    refused(load_picture, f"{tmp_path / 'scan.tif'}#page=9", match="must be a page that exists, .*page=9' is none")
    (tmp_path / "odd#page=2").write_bytes(b"")
    assert split_page(tmp_path / "odd#page=2") == (str(tmp_path / "odd#page=2"), 1), "a file of that name"


# Opening


def test_exif_orientations_are_honoured(tmp_path):
    upright = gradient(40, 60)
    turned = upright.transpose(1, 0, 2)
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: turned}
    stored |= {6: np.rot90(upright, 1), 7: np.rot90(upright, 2).transpose(1, 0, 2), 8: np.rot90(upright, -1)}
    for orientation, pixels in stored.items():
        for suffix in ("png", "tiff", "webp"):
            path = tmp_path / f"{orientation}.{suffix}"
            image = Image.fromarray(np.ascontiguousarray(pixels))
            exif = image.getexif()
            exif[0x0112] = orientation
            image.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
            once = load_picture(path)
            np.testing.assert_array_equal(np.asarray(once), upright, err_msg=path.name)
            np.testing.assert_array_equal(np.asarray(load_picture(once)), upright, err_msg=f"{path.name}, twice")
            assert picture_size(path) == (40, 60), path.name
            if suffix != "webp":  # which may be lossy
                np.testing.assert_array_equal(load_mask(path), upright.max(-1) / np.float32(255), err_msg=path.name)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "F", "La", "RGBX"]
)
def test_every_mode_becomes_rgb_that_looks_alike(mode):
    grey = np.zeros((12, 12), np.uint8)
    grey[:, 6:] = 255
    picture = Image.fromarray(grey)
    for step in {"PA": ("P", "PA"), "RGBa": ("RGBA", "RGBa"), "La": ("LA", "La"), "HSV": ("RGB", "HSV")}.get(
        mode, (mode,)
    ):
        picture = picture.convert(step)
    assert picture.mode == mode
    loaded = load_picture(picture)
    assert loaded.mode == "RGB"
    np.testing.assert_allclose(np.asarray(loaded).astype(int)[..., 0], grey, atol=3)


def test_transparency_that_is_the_same_everywhere_is_dropped_and_not_blended():
    picture = Image.fromarray(np.dstack([gradient(9, 9), np.zeros((9, 9), np.uint8)]), "RGBA")
    np.testing.assert_array_equal(np.asarray(load_picture(picture)), gradient(9, 9))


@pytest.mark.parametrize("way", ["file", "array", "palette"])
def test_hidden_pixels_of_a_cut_out_do_not_count(tmp_path, way):
    loaded = []
    for hidden in (0, 255):
        pixels = np.full((8, 8, 4), 90, np.uint8)
        pixels[..., 3] = 255
        pixels[:4] = (hidden, hidden, hidden, 0)
        picture = pixels if way == "array" else Image.fromarray(pixels)
        if way == "palette":
            picture = Image.fromarray(np.repeat(np.uint8([[1], [0]]), 4, 0).repeat(8, 1), "P")
            picture.putpalette([90, 90, 90, hidden, hidden, hidden])
            picture.info["transparency"] = 1
        if way == "file":
            picture.save(tmp_path / "cut.png")
            picture = tmp_path / "cut.png"
        loaded.append(np.asarray(load_picture(picture)))
    np.testing.assert_array_equal(*loaded)
    assert loaded[0][0, 0].tolist() == list(GROUND)
    assert loaded[0][7, 7].tolist() == [90, 90, 90]


def test_palettes_with_transparency_and_animations_open_without_a_warning(tmp_path):
    Image.fromarray(gradient(8, 8)).quantize(16).save(tmp_path / "p.png", transparency=bytes(range(16)))
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_picture(tmp_path / "p.png").size == (8, 8)
        assert load_picture(tmp_path / "a.gif").getpixel((3, 3)) == (10, 10, 10), "the first frame"


# Depth


def test_sixteen_bits_are_scaled_by_their_range_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    expected = np.round(ramp / 257).astype(np.uint8)
    for suffix in ("png", "tiff"):
        Image.fromarray(ramp).save(tmp_path / f"ramp.{suffix}")
        np.testing.assert_array_equal(np.asarray(load_picture(tmp_path / f"ramp.{suffix}"))[..., 0], expected)
    in_32_bits = Image.fromarray(ramp.astype(np.int32))
    assert in_32_bits.mode == "I"
    for picture in (in_32_bits, ramp, ramp / 65535):
        np.testing.assert_allclose(np.asarray(load_picture(picture)).astype(int)[..., 2], expected.astype(int), atol=1)


def twelve_bits(way: str, folder, values: np.ndarray):
    """Values up to 4095 as they come from cameras and arrays."""
    if way == "int32":
        return values.astype(np.int32)
    if way == "float":
        return values.astype(np.float32)
    if way == "array":
        return values
    path = folder / f"p.{way.split()[0]}"
    cv2.imwrite(str(path), np.dstack([values] * 3) if "colour" in way else values)
    if way.endswith("bytes"):
        return path.read_bytes()
    image = Image.open(path) if way.endswith(("open", "read")) else path
    if way.endswith("read"):
        image.load()
    return image


WAYS = (
    "png", "tif", "png colour", "tif colour", "png bytes", "png open", "png read", "png colour open",
    "png colour read", "tif colour read", "array", "int32", "float",
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_the_depth_is_found_once_and_makes_all_pictures_comparable(tmp_path, way):
    values = np.random.default_rng(0).integers(0, 4096, (8, 9)).astype(np.uint16)
    assert bit_depth([twelve_bits(way, tmp_path, np.full((8, 9), 700, np.uint16))]) == 10
    assert bit_depth([twelve_bits(way, tmp_path, values), np.zeros((4, 4, 3), np.uint8)]) == 12
    for factor in (1, 4):  # a darker picture stays darker
        loaded = load_picture(twelve_bits(way, tmp_path, values // factor), bits=12)
        expected = np.round(values // factor / 4095 * 255)
        np.testing.assert_allclose(np.asarray(loaded).astype(int)[..., 1], expected, atol=0.51)


def test_an_open_picture_that_was_drawn_on_is_taken_as_it_is(tmp_path):
    image = twelve_bits("png colour read", tmp_path, np.full((8, 9), 4000, np.uint16))
    image.paste((255, 0, 0), (0, 0, 4, 4))
    assert bit_depth([image]) is None
    assert load_picture(image, bits=12).getpixel((1, 1)) == (255, 0, 0)


def test_a_picture_that_is_read_twice_is_the_same_picture(tmp_path):
    image = twelve_bits("tif colour open", tmp_path, np.full((8, 9), 2048, np.uint16))
    assert bit_depth([image]) == bit_depth([image]) == 12
    assert load_picture(image, bits=12).getpixel((1, 1)) == (128, 128, 128)


def test_transparency_says_nothing_of_the_depth(tmp_path):
    opaque = np.dstack([np.full((8, 9, 3), 4000, np.uint16), np.full((8, 9), 65535, np.uint16)])
    cv2.imwrite(str(tmp_path / "p.png"), opaque)
    for picture in (tmp_path / "p.png", opaque):
        assert bit_depth([picture]) == 12
        assert load_picture(picture, bits=12).getpixel((1, 1)) == (249, 249, 249)
        with pytest.warns(UserWarning, match="nearly black: its brightest value is 4000. Say how many bits"):
            load_picture(picture)


def test_plain_pictures_have_no_depth_and_ignore_it(tmp_path):
    Image.fromarray(gradient(8, 8)).save(tmp_path / "p.png")
    assert bit_depth([tmp_path / "p.png", gradient(8, 8), Image.fromarray(gradient(8, 8))]) is None
    np.testing.assert_array_equal(np.asarray(load_picture(tmp_path / "p.png", bits=12)), gradient(8, 8))
    assert bit_depth([np.full((4, 4), 0.5)]) == 1
    refused(load_picture, np.zeros((4, 4), np.uint16), 17, match="`bits` must be between 1 and 16, got 17")


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 3), (6, 6, 4)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_a_buffer_may_be_used_again_after_loading(shape, kind):
    buffer = np.full(shape, 200, kind)
    loaded = load_picture(buffer, bits=8)
    before = np.array(loaded)
    buffer[:] = 0
    np.testing.assert_array_equal(np.asarray(loaded), before)


# Refusals


def test_each_unusable_file_gives_one_clear_line(tmp_path):
    whole, jpeg = io.BytesIO(), io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole, "PNG")
    Image.fromarray(gradient(64, 64)).save(jpeg, "JPEG")
    whole, jpeg = whole.getvalue(), jpeg.getvalue()
    files = {
        "empty.png": (b"", r"is empty \(0 bytes\)"),
        "text.png": (b"not a picture at all", "is none that Pillow can read"),
        "cut.png": (whole[:3000], "is damaged"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "is damaged"),
        "header.png": (whole[:20], "must be"),
        "noise.png": (whole[:200] + b"\0" * 500 + whole[700:], "is damaged"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        assert name in refused(load_picture, tmp_path / name, match=message)
    missing = "must be an existing file, .*nothing.png' does not exist"
    refused(load_picture, tmp_path / "nothing.png", error=FileNotFoundError, match=missing)
    refused(load_picture, tmp_path, match="is a folder")


def test_a_file_without_permission_is_not_called_damaged(tmp_path, monkeypatch):
    for name, read in (("p.png", load_picture), ("p.json", load_mask)):
        (tmp_path / name).write_bytes(b"{}")

        def denied(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("PIL.Image.open", denied)
        monkeypatch.setattr("pathlib.Path.read_bytes", denied)
        refused(read, tmp_path / name, match=f"must be readable, .*{name}' is not: permission denied")
        monkeypatch.undo()


def test_heic_is_read_where_its_reader_is_installed_and_named_where_not(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    content = b"\0\0\0\x18ftypheic" + bytes(20)
    (tmp_path / "p.heic").write_bytes(content)
    for picture in (tmp_path / "p.heic", content):
        refused(load_picture, picture, match="Reading HEIC needs pillow-heif, got .* pip install pillow-heif")
    monkeypatch.undo()
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(gradient(64, 64))).save(tmp_path / "p.heic")
    np.testing.assert_allclose(np.asarray(load_picture(tmp_path / "p.heic")).astype(int), gradient(64, 64), atol=24)


@pytest.mark.parametrize(
    "address", ["http://a.b/c.png", "ftp://a.b/c", "s3://a/b.png", "file:///a.png", "data:image/png;"]
)
def test_addresses_are_refused_and_not_fetched(address):
    refused(load_picture, address, match="must be a local file, got the address .*Download it before")


@pytest.mark.parametrize("nonsense", ["", " ", "a\0b", "x" * 5000])
def test_nonsense_paths_give_one_line(nonsense):
    refused(load_picture, nonsense, error=(PictureError, FileNotFoundError), match="must be")


def test_gigapixel_pictures_are_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (1001, 1000)).save(path)
    refused(load_picture, path, None, 1_000_000, match="at most 1000000 pixels, .*bomb.png' has more")


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_pictures_of_one_row_or_column_give_one_line(size):
    refused(load_picture, Image.new("RGB", size), match="must be at least 2 x 2 pixels, got")
    refused(AnomalyGPTImageProcessor(), np.zeros((*size, 3), np.uint8), match="at least 2 x 2")


def test_the_smallest_and_the_most_oblong_pictures_pass_in_every_geometry():
    for geometry in GEOMETRIES:
        processor = AnomalyGPTImageProcessor(geometry=geometry, size={"height": 16, "width": 16})
        for size in [(2, 2), (2, 300), (300, 2), (3, 5)]:
            assert np.isfinite(processor(gradient(*size), return_tensors="np")["pixel_values"]).all()
            (back,) = processor.post_process_anomaly_map(np.ones((1, 16, 16)), [size])
            assert back.shape == size


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((5, 6, 2), np.uint8), r"got shape \(5, 6, 2\)"),
        (np.zeros(5), r"got shape \(5,\)"),
        (np.zeros((0, 4, 3)), r"got shape \(0, 4, 3\)"),
        (np.full((4, 4), np.nan), "must have finite values"),
        (np.full((4, 4), -1.0), "must have finite values in 0..255"),
        (np.full((4, 4), 70000), "got 70000 to 70000"),
        (np.array([["a", "b"]]), "of numbers"),
        (object(), "must be a path, a PIL picture or an array, got the object"),
        (None, "got the NoneType"),
    ],
)
def test_unusable_arrays_give_one_line(values, message):
    refused(load_picture, values, match=message)


# Masks

WANTED = np.zeros((32, 40), bool)
WANTED[8:16, 8:24] = True


def as_palette(*colours):
    image = Image.fromarray(WANTED.astype(np.uint8), "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


def drawn_on_nothing(colour):
    return Image.fromarray(np.where(WANTED[..., None], np.uint8([*colour, 255]), np.uint8([255, 255, 255, 0])))


MASKS = {
    "bool": WANTED, "tensor": torch.from_numpy(WANTED)[None], "one channel": WANTED[..., None], "float": WANTED * 1.0,
    "bit": Image.fromarray(WANTED), "colour": np.where(WANTED[..., None], np.uint8([128, 0, 0]), 0).astype(np.uint8),
    **{f"grey {value}": WANTED * np.uint8(value) for value in (1, 2, 64, 100, 255)},
    **{f"deep {value}": WANTED * np.uint16(value) for value in (1, 900, 4095, 40000, 65535)},
    "grey on grey": np.where(WANTED, 100, 64).astype(np.uint8), "class 2.0": WANTED * 2.0,
    "palette": as_palette((0, 0, 0), (128, 0, 0)), "dark palette": as_palette((0, 0, 0), (1, 1, 1)),
    "black palette": as_palette((0, 0, 0), (0, 0, 0)), "palette without black": as_palette((90, 90, 90), (20, 0, 0)),
    "on nothing": drawn_on_nothing((255, 0, 0)), "black on nothing": drawn_on_nothing((0, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_every_range_and_kind_are_understood(tmp_path, kind):
    mask = MASKS[kind]
    np.testing.assert_array_equal(load_mask(mask), WANTED)
    if isinstance(mask, np.ndarray) and mask.dtype.kind != "f" and kind != "one channel":
        Image.fromarray(mask).save(tmp_path / "m.png")
    elif isinstance(mask, Image.Image):
        mask.save(tmp_path / "m.png")
    if (tmp_path / "m.png").exists():
        np.testing.assert_array_equal(load_mask(tmp_path / "m.png"), WANTED)


@pytest.mark.parametrize("value", [40, 100, 255])
def test_lossy_masks_have_clean_edges(tmp_path, value):
    Image.fromarray(WANTED * np.uint8(value)).save(tmp_path / "m.jpg", quality=85)
    np.testing.assert_array_equal(load_mask(tmp_path / "m.jpg"), WANTED)


def test_an_empty_mask_stays_empty_and_a_soft_one_soft():
    assert not load_mask(np.zeros((4, 4), np.uint8)).any()
    assert load_mask(np.full((4, 4), 255, np.uint8)).all()
    soft = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_allclose(load_mask(soft), soft / 255, atol=1e-6)
    np.testing.assert_allclose(load_mask(np.array([[0, 0.25], [0.5, 1]])), [[0, 0.25], [0.5, 1]])


def test_shapes_of_labelme_are_drawn(tmp_path):
    shapes = [
        {"shape_type": "polygon", "points": [[8, 8], [23, 8], [23, 15], [8, 15]]},
        {"shape_type": "rectangle", "points": [[30, 25], [28, 20]]},
        {"shape_type": "circle", "points": [[5, 25], [5, 28]]},
    ]
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"imageHeight": 32, "imageWidth": 40, "shapes": shapes}))
    mask = load_mask(path)
    np.testing.assert_array_equal(mask[:18], WANTED[:18])
    assert mask[20:26, 28:31].all()
    assert mask[25, 5] == mask[28, 5] == 1 != mask[29, 5]
    path.write_text(
        json.dumps({"imageHeight": 32, "imageWidth": 40, "shapes": [{"shape_type": "mask", "points": []}]})
    )
    refused(load_mask, path, match="Shapes must be polygons, rectangles, circles or lines, got 'mask' in")
    path.write_text("[]")
    refused(load_mask, path, match="must be a file of labelme")
