"""Maps by state vectors and by references: hand-worked grids, a naive second implementation, properties."""

import pytest
import torch

from modeling_anomalygpt.localization import (
    AnomalyLocalizer,
    combine_maps,
    few_shot_anomaly_map,
    maps_needed,
    patch_scores,
    self_distances,
    text_guided_layer_maps,
)
from modeling_anomalygpt.memory_bank import PatchFeatures, unit_length


def random_layer(batch_size=2, grid=(3, 4), dim=7) -> PatchFeatures:
    return PatchFeatures(torch.randn(batch_size, grid[0] * grid[1], dim), grid)


def test_patch_scores_equal_the_broadcast_cosine():
    layer, bank = random_layer(), torch.randn(9, 7)
    cosine = torch.nn.functional.cosine_similarity(layer.vectors[:, :, None], bank[None, None], dim=-1)
    expected = (1 - cosine.max(dim=2).values).view(2, 3, 4)
    torch.testing.assert_close(patch_scores(layer, unit_length(bank)), expected)


def naive_self_distances(layer: PatchFeatures) -> torch.Tensor:
    height, width = layer.grid
    expected = torch.zeros(len(layer.vectors), height, width)
    for picture, patches in enumerate(layer.vectors):
        for row in range(height):
            for column in range(width):
                far = [
                    torch.nn.functional.cosine_similarity(patches[row * width + column], patches[y * width + x], dim=0)
                    for y in range(height)
                    for x in range(width)
                    if max(abs(y - row), abs(x - column)) > 1
                ]
                expected[picture, row, column] = 1 - max(far)
    return expected


def test_a_patch_is_compared_with_its_own_picture_beyond_its_neighbours():
    layer = random_layer(grid=(4, 5))
    torch.testing.assert_close(self_distances(layer), naive_self_distances(layer))


def test_what_is_found_again_in_the_same_picture_counts_for_less():
    layer, bank = random_layer(grid=(4, 5)), unit_length(torch.randn(9, 7))
    r, z = patch_scores(layer, bank), naive_self_distances(layer)
    expected = r**0.7 * torch.minimum(r, 1.25 * z) ** 0.3
    torch.testing.assert_close(patch_scores(layer, bank, self_similarity=0.3), expected)
    assert (expected <= r + 1e-6).all()


def test_gradients_are_finite_on_a_flat_ground():
    vectors = torch.randn(1, 20, 7)
    vectors[:, :15] = vectors[:, :1]  # each of these is found again in its picture and in the bank
    bank = unit_length(torch.cat([vectors[0, :1], torch.randn(3, 7)]))
    with torch.no_grad():
        expected = patch_scores(PatchFeatures(vectors, (4, 5)), bank, self_similarity=0.3)
    vectors.requires_grad_()
    scores = patch_scores(PatchFeatures(vectors, (4, 5)), bank, self_similarity=0.3)
    scores.sum().backward()
    assert vectors.grad.isfinite().all()
    assert vectors.grad.any()
    torch.testing.assert_close(scores.detach(), expected, atol=2e-6, rtol=1e-5)


def test_a_grid_without_anything_beyond_the_neighbours_is_scored_by_the_references():
    layer, bank = random_layer(grid=(2, 2)), unit_length(torch.randn(9, 7))
    assert (self_distances(layer) == 0).all()
    assert torch.isfinite(patch_scores(layer, bank, self_similarity=0.3)).all()


def test_smoothing_keeps_the_mean_of_the_middle_and_lowers_the_peak():
    vectors = torch.eye(2)[[0] * 12 + [1] + [0] * 12].unsqueeze(0)
    layer, bank = PatchFeatures(vectors, (5, 5)), torch.eye(2)[:1]
    sharp, smooth = (few_shot_anomaly_map((layer,), (bank,), map_size=5, smoothing=count)[0] for count in (0, 1))
    assert sharp.sum() == sharp[2, 2] == 1
    torch.testing.assert_close(smooth[1:4, 1:4], torch.full((3, 3), 1 / 9))


def test_each_query_may_have_its_own_bank():
    layer, banks = random_layer(), unit_length(torch.randn(2, 9, 7))
    rows = [patch_scores(PatchFeatures(layer.vectors[i : i + 1], layer.grid), banks[i]) for i in range(2)]
    torch.testing.assert_close(patch_scores(layer, banks), torch.cat(rows))


def test_layers_of_different_grids_are_averaged_at_map_size():
    fine, coarse = (PatchFeatures(torch.rand(1, side * side, 7), (side, side)) for side in (4, 2))
    banks = (unit_length(torch.rand(5, 7)), unit_length(torch.rand(5, 7)))  # positive: no score reaches the clamp
    both = few_shot_anomaly_map((fine, coarse), banks, map_size=8)
    pairs = zip((fine, coarse), banks, strict=True)
    single = [few_shot_anomaly_map((layer,), (bank,), map_size=8) for layer, bank in pairs]
    torch.testing.assert_close(both, (single[0] + single[1]) / 2)


def test_text_guided_maps_follow_the_formula_of_the_paper():
    layer, states = random_layer(), unit_length(torch.randn(2, 2, 7))
    maps = text_guided_layer_maps((layer,), states, temperature=0.5, map_size=12)
    cosine = unit_length(layer.vectors) @ states.transpose(1, 2) / 0.5
    upsample = torch.nn.Upsample(size=(12, 12), mode="bilinear", align_corners=True)
    expected = upsample(cosine.transpose(1, 2).reshape(2, 2, 3, 4)).softmax(1)
    torch.testing.assert_close(maps[:, 0], expected)
    torch.testing.assert_close(maps.sum(2), torch.ones(2, 1, 12, 12))


def test_neighbours_are_averaged_only_inside_the_picture():
    localizer = AnomalyLocalizer([1], 2, learned_states=True, reference_pooling=3)
    layer = PatchFeatures(torch.arange(9.0).view(1, 9, 1), (3, 3))
    (pooled,) = localizer.comparable((layer,))
    assert pooled.vectors[0, 4, 0] == 4.0  # mean of all nine
    assert pooled.vectors[0, 0, 0] == (0 + 1 + 3 + 4) / 4


def test_the_map_of_several_windows_is_the_mean_of_their_maps():
    torch.manual_seed(0)
    queries, references = (PatchFeatures(torch.rand(size, 16, 7), (4, 4)) for size in (2, 1))

    def few_shot(windows):
        localizer = AnomalyLocalizer([7], 2, learned_states=True, reference_pooling=windows)
        bank = [unit_length(layer.vectors[0]) for layer in localizer.comparable((references,))]
        return few_shot_anomaly_map(localizer.comparable((queries,)), tuple(bank), map_size=8)

    scores = [few_shot(window) for window in (1, 3)]
    torch.testing.assert_close(few_shot([1, 3]), (scores[0] + scores[1]) / 2)


def test_reference_projections_are_applied_before_matching():
    localizer = AnomalyLocalizer([7], 2, learned_states=True, reference_dims=[3])
    layer = random_layer()
    (projected,) = localizer.comparable((layer,))
    torch.testing.assert_close(projected.vectors, localizer.reference_projections[0](layer.vectors))


@pytest.mark.parametrize(
    ("localization", "has_reference", "chosen", "expected"),
    [
        ("auto", False, None, (False, True)),
        ("auto", True, None, (True, False)),
        ("auto", True, torch.tensor([True]), (True, True)),
        ("text", True, None, (False, True)),
        ("reference", True, None, (True, False)),
        ("mean", True, None, (True, True)),
    ],
)
def test_only_the_maps_that_are_needed_are_computed(localization, has_reference, chosen, expected):
    assert maps_needed(localization, has_reference, chosen) == expected


def test_each_picture_may_choose_its_map():
    text, few_shot = torch.zeros(2, 4, 4), torch.ones(2, 4, 4)
    chosen = combine_maps(text, few_shot, torch.tensor([True, False]), mean=False)
    assert chosen.flatten(1).mean(1).tolist() == [1.0, 0.0]
    averaged = combine_maps(text, few_shot, torch.tensor([True, False]), mean=True)
    assert averaged.flatten(1).mean(1).tolist() == [0.5, 0.0]


def test_a_map_is_clamped_to_one_where_features_are_opposite():
    layer = PatchFeatures(-torch.ones(1, 4, 3), (2, 2))
    torch.testing.assert_close(
        few_shot_anomaly_map((layer,), (unit_length(torch.ones(1, 3)),), 4), torch.ones(1, 4, 4)
    )
