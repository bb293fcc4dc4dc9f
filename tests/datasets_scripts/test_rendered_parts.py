"""Rendered products: determinism, poses, masks against the picture without the defect, the data set builder."""

import shutil

import numpy as np
import pytest

from datasets_scripts import rendered_parts
from datasets_scripts.anomaly_builder import COLUMNS
from datasets_scripts.rendered_parts import RenderedParts, RenderedPartsConfig
from datasets_scripts.rendering.defects import DEFECTS, STRUCTURAL_DEFECTS
from datasets_scripts.rendering.products import (
    FAMILIES,
    HELD_BACK_FAMILIES,
    SURFACE_FAMILIES,
    render_pair,
    render_part,
    render_product,
)

SIZE = 96


@pytest.mark.parametrize("family", FAMILIES)
def test_a_photograph_is_a_pure_function_of_the_seeds(family):
    def take(seed):
        product = render_product(family, np.random.default_rng(1), SIZE)
        return product.photograph(np.random.default_rng(seed), "random")

    first, again, other = take(2), take(2), take(3)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert first.defect_words == again.defect_words
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("family", FAMILIES)
def test_good_and_bad_photographs_are_labelled_and_described(family):
    product = render_product(family, np.random.default_rng(0), SIZE)
    good = product.photograph(np.random.default_rng(0))
    assert good.image.shape == (SIZE, SIZE, 3)
    assert good.image.dtype == np.uint8
    assert good.image.std() > 2
    assert not good.mask.any()
    assert (good.label, good.category, good.defect_type, good.defect_words) == (0, family, "good", "")
    assert good.description.isascii()
    assert any("\u4e00" <= letter <= "\u9fff" for letter in good.description_zh)
    assert (good.object_mask is None) == (family in SURFACE_FAMILIES) or family == "circuit_board"
    for seed in range(6):
        bad = product.photograph(np.random.default_rng(seed), "random")
        assert bad.mask.dtype == bool
        assert 0 < bad.mask.mean() < 0.25
        assert (bad.label, bad.category) == (1, family)
        assert bad.defect_type in product.defects
        assert bad.defect_words.isascii()
        assert any("\u4e00" <= letter <= "\u9fff" for letter in bad.defect_words_zh)
        if bad.defect_type not in STRUCTURAL_DEFECTS and bad.object_mask is not None:
            assert not (bad.mask & ~bad.object_mask).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_structural_defects_change_the_picture_mostly_under_their_mask(family):
    seen = 0
    for seed in range(3):
        product = render_product(family, np.random.default_rng(seed), SIZE)
        for defect in product.design.structural:
            # the same seeds give the same pose, light, piece and noise with and without the defect
            good = product.photograph(np.random.default_rng(seed), None)
            bad = product.photograph(np.random.default_rng(seed), defect)
            if bad.defect_type != defect:
                continue
            change = np.abs(bad.image.astype(int) - good.image.astype(int)).max(2)
            assert change[bad.mask].mean() > 1.5 * change[~bad.mask].mean(), (seed, defect)
            assert change[bad.mask].mean() > 4, (seed, defect)
            seen += 1
    assert seen or family in (*SURFACE_FAMILIES, "pills")


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_type_can_be_asked_for(defect):
    part = render_part("hex_nut" if defect != "misplaced_part" else "cable", np.random.default_rng(3), SIZE, defect)
    assert part.defect_type == defect
    assert part.mask.any()


def test_a_pair_shows_one_product_twice_and_only_the_query_has_the_defect():
    reference, query = render_pair("gear", np.random.default_rng(4), SIZE, "random")
    assert (reference.label, query.label) == (0, 1)
    assert not reference.mask.any()
    assert query.mask.any()
    assert reference.description == query.description
    assert not np.array_equal(reference.image, query.image)


def test_a_fixed_camera_shifts_by_at_most_two_pixels_and_others_move_far():
    fixed, loose = 0, 0
    for seed in range(28):
        product = render_product("hex_nut", np.random.default_rng(seed), 112)
        shots = [product.photograph(np.random.default_rng(shot)) for shot in range(3)]
        spread = np.ptp([np.argwhere(shot.object_mask).mean(0) for shot in shots], 0).max()
        if product.play[2] <= 2:
            assert spread <= 2.5  # from -2 to 2 pixels of a 224 pixel picture, and half a pixel of the outline
            fixed += 1
        else:
            loose += spread > 3
    assert fixed >= 6
    assert loose >= 6


def test_the_same_piece_keeps_its_texture_and_another_does_not():
    product = render_product("wood_grain", np.random.default_rng(2), SIZE)
    while product.play[2] > 2:
        product = render_product("wood_grain", np.random.default_rng(int(product.play[2] * 1e6)), SIZE)

    def correlation(first, second):
        return np.corrcoef(first.image.astype(float).ravel(), second.image.astype(float).ravel())[0, 1]

    one = product.photograph(np.random.default_rng(1), None, piece=7)
    again = product.photograph(np.random.default_rng(2), None, piece=7)
    other = product.photograph(np.random.default_rng(3), None, piece=8)
    assert correlation(one, again) > correlation(one, other) + 0.1


LEATHER = render_product("leather", np.random.default_rng(0), SIZE)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda rng: render_product("car", rng),
            r"`family` must be one of machined_metal, .*, got 'car'\. Choose one",
        ),
        (lambda rng: render_product("gear", rng, 16), r"`size` must be at least 64 pixels, got 16\. Ask for a larger"),
        (lambda rng: render_part("gear", rng, SIZE, "rust"), r"must be None, 'random' or one of .*, got 'rust'\."),
        (lambda rng: render_part("leather", rng, SIZE, "bent_part"), r"one that a leather can have \(.*\), got 'bent"),
        (lambda rng: LEATHER.photograph(rng, "bent_part"), r"must be None, 'random' or one of .* for a leather, got"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"families": ("car",)}, r"`families` must hold only machined_metal, .*, got 'car'"),
        ({"num_train": -1}, r"`num_train` must be 0 or more, got -1"),
        ({"num_test": -2}, r"`num_test` must be 0 or more, got -2"),
        ({"seed": -3}, r"`seed` must be 0 or more, got -3"),
        ({"defect_share": 1.5}, r"`defect_share` must be between 0 and 1, got 1\.5"),
        ({"defect_share": "x"}, r"`defect_share` must be between 0 and 1, got 'x'"),
        ({"size": 8}, r"`size` must be 64 or more, got 8"),
        ({"size": "big"}, r"`size` must be 64 or more, got 'big'"),
        ({"num_test": 2.5}, r"`num_test` must be 0 or more, got 2\.5\. Pass a whole number"),
        ({"families": ()}, r"`families` must hold at least one family, got none"),
    ],
)
def test_wrong_settings_of_the_builder_are_refused(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        RenderedPartsConfig(name="wrong", **arguments)
    for config_name in (None, "held_back"):  # `datasets` sets the options of a named configuration by itself
        with pytest.raises(ValueError, match=message):
            RenderedParts(config_name=config_name, cache_dir=str(tmp_path), **arguments)


def test_changed_code_leaves_the_cache_of_the_class_used_directly(tmp_path, monkeypatch):
    def folder(**options):
        return RenderedParts(config_name="gear", cache_dir=str(tmp_path), **options).cache_dir

    first = folder()
    assert folder() == first != folder(seed=1)
    changed = shutil.copytree(rendered_parts._RENDERING, tmp_path / "rendering")
    monkeypatch.setattr(rendered_parts, "_RENDERING", changed)
    assert folder() == first
    (changed / "families.json").write_text("{}")
    assert folder() != first


def test_the_builder_prepares_good_training_pictures_and_a_mixed_test(tmp_path):
    builder = RenderedParts(
        config_name="held_back", num_train=3, num_test=4, defect_share=0.5, size=64, seed=1, cache_dir=str(tmp_path)
    )
    builder.download_and_prepare()
    train, test = builder.as_dataset(split="train"), builder.as_dataset(split="test")
    assert tuple(train.column_names) == COLUMNS
    assert (len(train), len(test), sum(train["label"]), sum(test["label"])) == (9, 12, 0, 6)
    assert set(train["category"]) == set(HELD_BACK_FAMILIES)
    for row in [*train, *test]:
        assert (row["image"].size, row["image"].mode) == ((64, 64), "RGB")
        assert (row["mask"] is None) == (row["defect_type"] == "good") == (row["label"] == 0)
        if row["label"]:
            assert np.unique(np.array(row["mask"])).tolist() == [0, 255]
    assert len(set(test["image_id"])) == 12


def test_streaming_gives_the_same_rows_as_preparing(tmp_path):
    def builder():
        return RenderedParts(config_name="gear", num_train=2, num_test=2, size=64, cache_dir=str(tmp_path))

    prepared = builder()
    prepared.download_and_prepare()
    for split in ("train", "test"):
        rows = list(builder().as_streaming_dataset(split=split))
        stored = prepared.as_dataset(split=split)
        assert [row["image_id"] for row in rows] == stored["image_id"]
        for row, kept in zip(rows, stored, strict=True):
            np.testing.assert_array_equal(np.array(row["image"]), np.array(kept["image"]))
