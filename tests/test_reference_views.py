"""Views of good pictures and synthetic anomalies on them: properties, on hand-made pictures."""

import pytest
import torch

from modeling_anomalygpt.reference_views import ANOMALIES_A_VIEW, NUM_VIEWS, augmented_views, synthetic_anomalies


def pixels(count: int = 2, side: int = 48) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_views_and_anomalies_are_the_same_at_every_call():
    views = augmented_views(pixels())
    assert torch.equal(views, augmented_views(pixels()))
    for first, second in zip(synthetic_anomalies(views), synthetic_anomalies(views), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_views_take_turns_among_the_pictures_and_differ_from_them(count):
    good = torch.nn.functional.avg_pool2d(pixels(count, 56), 9, stride=1)  # smooth, as photographs are
    views = augmented_views(good)
    assert views.shape == (NUM_VIEWS, *good.shape[1:])
    for number, view in enumerate(views):
        alike = [float(torch.corrcoef(torch.stack([view.flatten(), image.flatten()]))[0, 1]) for image in good]
        assert max(alike) == alike[number % count]
        assert (view - good[number % count]).abs().mean() > 0.05


def test_no_two_views_of_one_picture_are_alike():
    views = augmented_views(pixels(1))
    assert all((views[i] - views[j]).abs().mean() > 0.05 for i in range(NUM_VIEWS) for j in range(i))


def test_anomalies_change_their_surroundings_and_nothing_else():
    views = augmented_views(pixels())
    images, surroundings = synthetic_anomalies(views)
    assert surroundings.shape == (NUM_VIEWS, ANOMALIES_A_VIEW, 16, 16)
    for image, view, near in zip(images, views, surroundings, strict=True):
        changed = ((image - view).abs() > 0.1).any(0).float()
        cells = torch.nn.functional.adaptive_max_pool2d(changed[None], (16, 16))[0] > 0
        assert not (cells & ~near.any(0)).any()
        assert all((cells & one).any() for one in near)


def test_anomalies_of_a_large_picture_lie_apart():
    _, surroundings = synthetic_anomalies(augmented_views(pixels(4, 256)))
    assert (surroundings.sum(1) <= 1).all()


def test_anomalies_are_of_several_kinds_and_fit_any_shape():
    views = augmented_views(torch.zeros(1, 3, 40, 64))
    images, surroundings = synthetic_anomalies(views)
    assert images.shape == views.shape == (NUM_VIEWS, 3, 40, 64)
    assert torch.isfinite(images).all()
    assert len({tuple(one.flatten().tolist()) for one in surroundings.flatten(0, 1)}) == NUM_VIEWS * ANOMALIES_A_VIEW
