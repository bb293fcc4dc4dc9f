"""Synthetic anomalies against naive second implementations, published ranges, and what must always hold."""

from functools import partial

import cv2
import numpy as np
import pytest
from scipy import ndimage

from modeling_anomalygpt.synthesis.anomaly import changed_pixels, disk_median, majority, separate_regions, unchanged
from modeling_anomalygpt.synthesis.pasted import perlin_mask
from modeling_anomalygpt.synthesis.synthesizer import (
    NSA_SETTINGS,
    Mixture,
    NSASettings,
    SyntheticAnomaly,
    cut_paste,
    cut_paste_scar,
    nsa,
    nsa_settings,
    perlin_texture,
)
from tests.references.nsa_naive import disk, nsa_naive, soft_label, told_centres

METHODS = {
    "nsa": nsa,
    "nsa mixed": partial(nsa, blending="mixed"),
    "nsa object": partial(nsa, category="hazelnut"),
    "nsa original": partial(nsa, compat="original"),
    "cut_paste": cut_paste,
    "scar": cut_paste_scar,
    "perlin": perlin_texture,
    "mixture": Mixture([nsa, cut_paste, cut_paste_scar, perlin_texture]),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # small pictures: threads only wait for each other on a busy machine
    yield
    cv2.setNumThreads(before)


def picture(seed, size=(224, 224), background=None, levels=(60, 160)):
    """Blurred colour noise; with a background, an ellipse of it in the middle."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(*levels, (max(size[0] // 8, 2), max(size[1] // 8, 2), 3), dtype=np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    if background is not None:
        rows, columns = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
        image[(rows / 0.6) ** 2 + (columns / 0.5) ** 2 > 1] = background
    return image


# One category of each settings; four have the same.
@pytest.mark.parametrize("category", [*{values: name for name, values in NSA_SETTINGS.items()}.values(), "door hinge"])
def test_original_nsa_equals_the_naive_steps_for_the_settings_of_every_category(category):
    values = nsa_settings(category)
    background = None if values.background is None else values.background[0]
    for seed in range(2):
        image, source = picture(seed, background=background), picture(100 + seed, background=background)
        expected, label, boxes = nsa_naive(
            image,
            source,
            np.random.default_rng(seed),
            values.size_bounds,
            values.logistic,
            values.background,
            values.resize_bounds,
        )
        made = nsa(image, source, np.random.default_rng(seed), category, compat="original")
        np.testing.assert_array_equal(made.image, expected)
        np.testing.assert_array_equal(made.intensity, label.astype(np.float32))
        np.testing.assert_array_equal(made.mask, made.intensity > 0.3)
        centres = []
        for region in made.regions:
            rows, columns = np.nonzero(region)
            centres.append(((rows.min() + rows.max() + 1) / 2, (columns.min() + columns.max() + 1) / 2))
        assert centres == told_centres(boxes)


@pytest.mark.parametrize("size", [(32, 32), (100, 180), (300, 64), (47, 333)])
@pytest.mark.parametrize(("blending", "mode"), [("normal", cv2.NORMAL_CLONE), ("mixed", cv2.MIXED_CLONE)])
def test_original_nsa_equals_the_naive_steps_at_any_size(size, blending, mode):
    for seed in range(2):
        image, source = picture(seed, size), picture(50 + seed, size)
        expected, label, _ = nsa_naive(image, source, np.random.default_rng(seed), mode=mode)
        made = nsa(image, source, np.random.default_rng(seed), blending=blending, compat="original")
        np.testing.assert_array_equal(made.image, expected)
        np.testing.assert_array_equal(made.intensity, label.astype(np.float32))


@pytest.mark.real_data
def test_original_nsa_equals_the_naive_steps_on_photographs(real_data):
    files = sorted((real_data / "mvtec_ad" / "grid" / "train" / "good").glob("*.png"))
    images = [cv2.resize(cv2.imread(str(file)), (224, 224), interpolation=cv2.INTER_AREA) for file in files]
    values = nsa_settings("grid")
    for seed in range(20):
        pair = images[seed % len(images)], images[(seed + 1) % len(images)]
        expected, label, _ = nsa_naive(*pair, np.random.default_rng(seed), logistic=values.logistic)
        made = nsa(*pair, np.random.default_rng(seed), "grid", compat="original")
        np.testing.assert_array_equal(made.image, expected)
        np.testing.assert_array_equal(made.intensity, label.astype(np.float32))


def test_original_nsa_leaves_empty_targets_and_the_mended_one_does_not():
    # Blurred tiles of strong contrast on grey: a patch of grey upon grey cannot be seen.
    images = [picture(seed, background=110, levels=(0, 256)) for seed in range(8)]
    empty = {"original": 0, None: 0}
    for compat in empty:
        for seed in range(80):
            pair = images[seed % 8], images[(seed + 1) % 8]
            empty[compat] += not nsa(*pair, np.random.default_rng(seed), compat=compat).is_anomalous
    assert 0.02 < empty["original"] / 80 < 0.4
    assert empty[None] == 0


def test_mended_regions_lie_where_the_picture_changed():
    for seed in range(25):
        image, source = picture(seed), picture(seed + 1)
        made = nsa(image, source, np.random.default_rng(seed))
        change = np.abs(image.astype(int) - made.image).mean(axis=2)
        assert 1 <= len(made.regions) <= 2
        assert all(change[region].mean() > 5 for region in made.regions)


def test_mended_label_of_two_distant_patches_is_the_naive_label_of_their_union():
    checked = 0
    for seed in range(50):
        image, source = picture(seed, (128, 128)), picture(seed + 1, (128, 128))
        made = nsa(image, source, np.random.default_rng(seed), "carpet")
        if len(made.regions) == 2:
            everywhere = np.ones((128, 128), np.uint8)
            expected = soft_label(image, made.image, everywhere, NSA_SETTINGS["carpet"].logistic)
            np.testing.assert_array_equal(made.intensity, expected.astype(np.float32))
            checked += 1
        if checked > 5:
            break
    assert checked > 5


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_its_contract(name):
    method = METHODS[name]
    for seed, size in enumerate([(224, 224), (64, 96), (133, 57), (32, 32), (90, 400)]):
        image, source = picture(seed, size, background=20), picture(seed + 9, (70, 80), background=20)
        before = image.copy(), source.copy()
        image.flags.writeable = source.flags.writeable = False
        made = method(image, source, np.random.default_rng(seed))
        again = method(image, source, np.random.default_rng(seed))
        np.testing.assert_array_equal(image, before[0])
        np.testing.assert_array_equal(source, before[1])
        np.testing.assert_array_equal(made.image, again.image)
        np.testing.assert_array_equal(made.mask, again.mask)
        assert made.image.shape == (*size, 3)
        assert made.image.dtype == np.uint8
        assert made.image.flags.writeable
        assert (made.mask.shape, made.mask.dtype) == (size, np.dtype(bool))
        assert (made.intensity.shape, made.intensity.dtype) == (size, np.dtype(np.float32))
        np.testing.assert_array_equal(made.mask, made.intensity > 0.3)
        assert made.intensity.min() >= 0
        assert made.intensity.max() <= 1
        if name != "nsa original":
            total = sum((region.astype(int) for region in made.regions), np.zeros(size, int))
            np.testing.assert_array_equal(total, made.mask)
            assert all(region.any() for region in made.regions)
            assert (made.defect_type == "good") == (not made.is_anomalous)


@pytest.mark.parametrize("name", ["nsa", "cut_paste", "scar"])  # Perlin textures turn black into grey
def test_pictures_of_one_colour_come_back_normal(name):
    image = np.zeros((64, 64, 3), np.uint8)
    made = METHODS[name](image, image, np.random.default_rng(0))
    assert (made.is_anomalous, made.defect_type, made.regions) == (False, "good", [])
    np.testing.assert_array_equal(made.image, image)
    assert not np.shares_memory(made.image, image)
    assert METHODS["mixture"](image, image, np.random.default_rng(0)).is_anomalous


def test_patches_of_object_categories_touch_the_object():
    dark = NSA_SETTINGS["hazelnut"].background[0]
    for seed in range(15):
        image, source = picture(seed, background=dark), picture(seed + 1, background=dark)
        made = nsa(image, source, np.random.default_rng(seed), "hazelnut")
        rows, columns = np.mgrid[-1:1:224j, -1:1:224j]
        near_object = (rows / 0.75) ** 2 + (columns / 0.65) ** 2 <= 1
        assert (made.mask & near_object).sum() > 0.5 * made.mask.sum()


def test_cut_paste_areas_and_aspect_ratios_are_the_published_ones():
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    shares, ratios = [], []
    for seed in range(200):
        made = cut_paste(image, image, np.random.default_rng(seed))
        rows, columns = np.nonzero(made.mask)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        shares.append(height * width / 60000)
        ratios.append(height / width)
    assert 0.019 < min(shares) < 0.03
    assert 0.14 < max(shares) < 0.152
    assert 0.25 < min(ratios) < 0.4
    assert 2.7 < max(ratios) < 3.6


def test_scars_are_thin_strips_of_the_published_size():
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for seed in range(100):
        made = cut_paste_scar(image, image, np.random.default_rng(seed))
        _, (first, second), _ = cv2.minAreaRect(np.argwhere(made.mask).astype(np.int32))
        assert min(first, second) <= 18
        assert max(first, second) <= 30
        assert 4 <= made.mask.sum() <= 16 * 25 * 1.3


def test_perlin_mask_equals_gradient_noise_computed_pixel_by_pixel():
    size = (30, 44)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        cells = 2 ** rng.integers(0, 6, size=2)
        angle = rng.uniform(0, 2 * np.pi, size=cells + 1)
        noise = np.zeros(size)
        for row in range(size[0]):
            for column in range(size[1]):
                y, x = row * cells[0] / size[0], column * cells[1] / size[1]
                for corner_y in (int(y), int(y) + 1):
                    for corner_x in (int(x), int(x) + 1):
                        dy, dx = y - corner_y, x - corner_x
                        fade = 1.0
                        for distance in (abs(dy), abs(dx)):
                            t = 1 - distance
                            fade *= 6 * t**5 - 15 * t**4 + 10 * t**3
                        gradient = np.sin(angle[corner_y, corner_x]), np.cos(angle[corner_y, corner_x])
                        noise[row, column] += fade * (gradient[0] * dy + gradient[1] * dx)
        turn = cv2.getRotationMatrix2D((21.5, 14.5), rng.uniform(-90, 90), 1.0)
        turned = cv2.warpAffine(2**0.5 * noise, turn, (44, 30), borderMode=cv2.BORDER_REFLECT_101)
        unclear = np.abs(turned - 0.5) < 1e-6
        mask = perlin_mask(size, np.random.default_rng(seed))
        np.testing.assert_array_equal(mask[~unclear], (turned > 0.5)[~unclear])


def test_perlin_textures_keep_to_the_object_and_to_their_number():
    dark = NSA_SETTINGS["pill"].background[0]
    for seed in range(20):
        image = picture(seed, background=dark)
        made = perlin_texture(image, picture(seed + 1), np.random.default_rng(seed), "pill", max_regions=3)
        assert len(made.regions) <= 3
        assert not made.mask[(image == dark).all(axis=2)].sum() > 0.02 * made.mask.sum()
        np.testing.assert_array_equal(made.image[~made.mask], image[~made.mask])


def test_a_mixture_draws_its_methods_by_weight_and_passes_the_category():
    drawn = []

    def plain(image, source, rng):
        drawn.append("plain")
        return SyntheticAnomaly(image, np.ones(image.shape[:2], bool), np.ones(image.shape[:2], np.float32))

    def named(image, source, rng, category=None):
        drawn.append(category)
        return plain(image, source, rng)

    mixture = Mixture([plain, named], weights=[3, 1])
    image = picture(0, (32, 32))
    rng = np.random.default_rng(0)
    for _ in range(800):
        mixture(image, image, rng, category="carpet")
    assert drawn.count("carpet") / 800 == pytest.approx(0.25, abs=0.05)
    assert drawn.count("plain") == 800


def test_a_mixture_draws_another_method_when_one_shows_nothing():
    def blind(image, source, rng):
        return unchanged(image)

    image = picture(0, (48, 48))
    mixture = Mixture([blind, cut_paste], weights=[99, 1])
    assert mixture(image, image, np.random.default_rng(0)).defect_type == "pasted_patch"
    assert Mixture([blind])(image, image, np.random.default_rng(0)).defect_type == "good"


def on_the_left(size):
    mask = np.zeros(size, bool)
    mask[:, : size[1] // 4] = True
    return mask


@pytest.mark.parametrize("name", ["nsa", "cut_paste", "scar", "perlin"])
def test_a_defect_keeps_to_the_foreground_and_the_background_to_its_pixels(name):
    image, source, part = picture(0, (96, 128)), picture(1, (96, 128)), on_the_left((96, 128))
    for seed in range(12):
        anomaly = Mixture([METHODS[name]])(image, source, np.random.default_rng(seed), foreground=part)
        assert anomaly.is_anomalous
        assert not (anomaly.mask & ~part).any()
        np.testing.assert_array_equal(anomaly.image[~part], image[~part])
        np.testing.assert_array_equal(np.logical_or.reduce(anomaly.regions), anomaly.mask)
        np.testing.assert_array_equal(anomaly.mask, anomaly.intensity > 0.3)


def test_a_foreground_that_no_defect_meets_leaves_the_picture_good_and_one_that_is_no_mask_is_refused():
    image = picture(0, (64, 64))
    mixture = Mixture([cut_paste])
    nowhere = mixture(image, image, np.random.default_rng(0), foreground=np.zeros((64, 64), bool))
    assert nowhere.defect_type == "good"
    np.testing.assert_array_equal(nowhere.image, image)
    for wrong in (np.ones((8, 8), bool), np.ones((64, 64))):
        with pytest.raises(ValueError, match=r"`foreground` must be a bool mask of shape \(64, 64\), got"):
            mixture(image, image, np.random.default_rng(0), foreground=wrong)


IMAGE = np.zeros((64, 64, 3), np.uint8)


@pytest.mark.parametrize("method", [nsa, cut_paste, cut_paste_scar, perlin_texture, Mixture([nsa])])
def test_wrong_inputs_are_refused_by_name(method):
    with pytest.raises(TypeError, match="`rng` must be a numpy Generator, got int. Make one"):
        method(IMAGE, IMAGE, 3)
    for image, source, text in (
        (IMAGE / 1, IMAGE, "`image` must be a uint8 array, got float64. Convert it"),
        (IMAGE, [1], "`source` must be a uint8 array, got list. Convert it"),
        (IMAGE[..., 0], IMAGE, r"`image` must have shape \(height, width, 3\), got \(64, 64\). Conv"),
        (IMAGE[:20], IMAGE, r"`image` must have sides of at least 32 pixels, got \(20, 64\). Use a"),
    ):
        with pytest.raises(ValueError, match=text):
            method(image, source, np.random.default_rng(0))


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (partial(nsa, IMAGE, IMAGE, RNG, blending="poisson"), "`blending` must be 'normal' or 'mixed'"),
        (partial(nsa, IMAGE, IMAGE, RNG, compat="paper"), "`compat` must be 'original' or None, got"),
        (partial(NSASettings, ((0.3, 0.1), (0.1, 0.2))), r"`size_bounds` must be increasing shares in \(0"),
        (partial(perlin_texture, IMAGE, IMAGE, RNG, max_regions=0), "`max_regions` must be at least"),
        (partial(Mixture, []), "`methods` must hold at least one method, got none. Pass"),
        (partial(Mixture, [nsa], [1, 2]), r"`weights` must be 1 numbers, none negative .* got \[1, 2\]. Give"),
        (partial(Mixture, [nsa], [-1]), "`weights` must be 1 numbers, none negative"),
    ],
)
def test_wrong_settings_are_refused_by_name(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_a_mixture_of_names_is_refused():
    with pytest.raises(TypeError, match="`methods` must hold functions .* got 'nsa'. Pass the function itself"):
        Mixture(["nsa"])


# Labels that all methods share, against filters of whole pictures


@pytest.mark.parametrize("dtype", [np.uint16, np.float64, np.uint8])
def test_disk_median_equals_the_filter_of_the_whole_picture(dtype):
    rng = np.random.default_rng(0)
    for size in [(40, 31), (12, 90), (3, 4)]:
        values = rng.integers(0, 250, size).astype(dtype)
        where = rng.random(size) < 0.5
        expected = ndimage.median_filter(values, footprint=disk(5), mode="nearest")[where]
        np.testing.assert_array_equal(disk_median(values, where), expected)
    assert disk_median(values, np.zeros(size, bool)).shape == (0,)


@pytest.mark.parametrize("size", [3, 5, 7])
def test_majority_equals_the_median_of_a_mask(size):
    mask = np.random.default_rng(size).random((37, 51)) < 0.5
    expected = cv2.medianBlur(mask.astype(np.uint8), size) > 0
    np.testing.assert_array_equal(majority(mask, size), expected)


def test_changed_pixels_drop_specks_and_stay_in_the_shape():
    before = np.zeros((40, 40, 3), np.uint8)
    after = before.copy()
    after[5:20, 5:20] = 90
    after[30, 30] = 90  # a speck
    after[12, 12] = 0  # a pinhole
    shape = np.zeros((40, 40), bool)
    shape[:, :15] = shape[25:, :] = True
    changed = changed_pixels(before, after, shape)
    assert changed[12, 12]
    assert not changed[30, 30]
    assert not changed[~shape].any()


def test_regions_below_the_smallest_area_are_left_out():
    mask = np.zeros((20, 20), bool)
    mask[2:6, 2:6] = mask[10, 10] = True
    assert [region.sum() for region in separate_regions(mask, min_area=2)] == [16]
