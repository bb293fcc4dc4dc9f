"""Defects drawn onto pictures: where, how much, how visible, and that nothing else changes."""

import cv2
import numpy as np
import pytest

from datasets_scripts.rendering.defects import SURFACE_DEFECTS, apply_defect

NAMES = tuple(SURFACE_DEFECTS)


def photograph(seed: int, size: tuple[int, int] = (160, 192)) -> np.ndarray:
    """A smooth coloured picture with fine noise, unrelated to the renderer."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(60, 200, (4, 5, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.clip(smooth + rng.normal(0, 3, (*size, 3)), 0, 255).astype(np.uint8)


def disc(size: tuple[int, int] = (160, 192), radius: float = 55) -> np.ndarray:
    rows, columns = np.indices(size)
    return np.hypot(rows - size[0] / 2, columns - size[1] / 2) < radius


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_draws_the_same_defect_and_the_picture_passed_in_stays_as_it_was(name):
    image = photograph(0)
    kept = image.copy()
    first = apply_defect(image, name, np.random.default_rng(5))
    second = apply_defect(image, name, np.random.default_rng(5))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)
    assert first.words == second.words
    np.testing.assert_array_equal(image, kept)
    other = apply_defect(image, name, np.random.default_rng(6))
    assert not np.array_equal(first.mask, other.mask)


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_changes_under_the_mask_and_hardly_anywhere_else(name):
    for seed in range(12):
        image = photograph(seed)
        drawn = apply_defect(image, name, np.random.default_rng(seed))
        change = cv2.absdiff(drawn.image, image).max(2).astype(int)
        assert change[drawn.mask].mean() >= 9
        near = cv2.dilate(drawn.mask.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
        assert change[~near].max(initial=0) <= 1 or change[~near].sum() < 0.02 * change.sum()
        assert change[drawn.mask].mean() > 3 * change[~drawn.mask].mean()


@pytest.mark.parametrize("name", NAMES)
def test_a_defect_stays_on_the_object(name):
    solid = disc()
    for seed in range(8):
        image = photograph(seed)
        drawn = apply_defect(image, name, np.random.default_rng(seed), solid)
        assert drawn.mask.any()
        assert not (drawn.mask & ~solid).any()
        assert (cv2.absdiff(drawn.image, image).max(2)[~solid] > 0).mean() < 0.01


@pytest.mark.parametrize("name", NAMES)
def test_the_sizes_lie_between_a_fraction_of_a_percent_and_a_tenth_of_the_picture(name):
    image = photograph(3, (224, 224))
    shares = [apply_defect(image, name, np.random.default_rng(seed)).mask.mean() for seed in range(40)]
    assert min(shares) >= 0.0015
    assert max(shares) <= 0.11
    assert max(shares) > 1.8 * min(shares)


@pytest.mark.parametrize("level", [0, 12, 128, 250, 255])
def test_defects_show_on_black_grey_and_white_parts(level):
    image = np.full((96, 96, 3), level, np.uint8)
    for name in NAMES:
        for seed in range(4):
            drawn = apply_defect(image, name, np.random.default_rng(seed))
            assert cv2.absdiff(drawn.image, image).max(2)[drawn.mask].mean() >= 6, (name, seed)


def test_a_tiny_object_can_still_have_a_defect():
    solid = np.zeros((96, 96), bool)
    solid[40:46, 50:55] = True
    for name in NAMES:
        assert apply_defect(photograph(0, (96, 96)), name, np.random.default_rng(0), solid).mask.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((photograph(0), "rust"), r"`name` must be one of scratch, dent, .*, got 'rust'\. Choose one"),
        ((np.zeros((8, 8)), "stain"), r"`image` must be uint8 of shape \(height, width, 3\), got float64 \(8, 8\)"),
        ((photograph(0), "stain", np.ones((8, 8), bool)), r"must be of shape \(160, 192\), got \(8, 8\)\. Resize"),
        ((photograph(0), "stain", np.zeros((160, 192), bool)), r"must hold at least one object pixel, got an empty"),
    ],
)
def test_what_cannot_be_drawn_upon_is_refused(arguments, message):
    image, name, *mask = arguments
    with pytest.raises(ValueError, match=message):
        apply_defect(image, name, np.random.default_rng(0), *mask)
