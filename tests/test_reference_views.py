"""Views of good pictures and synthetic anomalies on them: properties, on hand-made pictures."""

import torch

from modeling_anomalygpt.reference_views import augmented_views, synthetic_anomalies


def pixels(count: int = 2, side: int = 48) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_views_and_anomalies_are_the_same_at_every_call():
    views = augmented_views(pixels())
    assert torch.equal(views, augmented_views(pixels()))
    assert torch.equal(synthetic_anomalies(views, 9), synthetic_anomalies(views, 9))


def test_views_differ_from_the_picture_and_from_each_other():
    good = pixels()
    views = augmented_views(good)
    assert views.shape == (4, *good.shape)
    assert all((view - good).abs().mean() > 0.05 for view in views)
    assert all((views[i] - views[j]).abs().mean() > 0.05 for i in range(4) for j in range(i))


def test_an_anomaly_changes_a_part_of_a_view_and_leaves_the_rest():
    views = augmented_views(pixels())
    taken = set()
    for number, image in enumerate(synthetic_anomalies(views, 16)):
        view = views[number // 2 % 4, number % 2]
        changed = ((image - view).abs() > 0.05).any(0).float().mean()
        assert 0 < changed < 0.5
        taken.add((number // 2 % 4, number % 2))
    assert len(taken) == 8, "pictures and views take turns"


def test_anomalies_are_of_several_kinds_and_fit_any_shape():
    views = augmented_views(torch.zeros(1, 3, 40, 64))
    images = synthetic_anomalies(views, 8)
    assert images.shape == (8, 3, 40, 64)
    assert torch.isfinite(images).all()
    changes = [(image - views[number % 4, 0]).abs().sum(0) for number, image in enumerate(images)]
    assert len({tuple(change.flatten().topk(20).indices.tolist()) for change in changes}) == 8
