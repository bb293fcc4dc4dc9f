"""The reference implementation of the eyes that part 12 starts from: maps, threshold, synthetic anomalies."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recipes.eyes import eyes, measure


def features(pictures: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: F.normalize(torch.randn(pictures, eyes.GRID**2, 5, generator=generator), dim=-1) for name in eyes.LAYERS
    }


def test_maps_are_those_of_a_loop_over_patches():
    references, queries = features(2, 0), features(1, 1)
    scored = eyes.score_distances(eyes.reference_distances(references, queries), eyes.self_distances(queries))
    for name in eyes.LAYERS:
        own, bank = queries[name][0].numpy(), references[name].numpy().reshape(-1, 5)
        for patch in (0, 15, 16, 100, 137, 255):
            row, column = divmod(patch, 16)
            elsewhere = [
                1 - own[patch] @ own[other]
                for other in range(256)
                if max(abs(other // 16 - row), abs(other % 16 - column)) > 1
            ]
            r = min(1 - own[patch] @ one for one in bank)
            assert float(scored[name][0, patch]) == pytest.approx(min(r, 1.25 * min(elsewhere)), abs=1e-5)


def test_a_patch_is_not_like_itself_nor_like_what_touches_it():
    queries = {name: torch.eye(256)[None] for name in eyes.LAYERS}
    for touching in (1, 16, 17):
        for one in queries.values():
            one[0, touching] = one[0, 0]
    for z in eyes.self_distances(queries).values():
        assert z[0, 0] == 1  # its copies are its neighbours
    for one in queries.values():
        one[0, 2] = one[0, 0]
    for z in eyes.self_distances(queries).values():
        assert z[0, 0] == 0


def test_a_reference_scores_nothing_against_itself():
    references = features(1, 2)
    maps, scores = eyes.anomaly_maps(references, references)
    assert maps.shape == (1, 64, 64)
    assert scores.item() == pytest.approx(0, abs=1e-5)


def test_a_threshold_is_the_hand_worked_number():
    # .16 ** .75 * .01 ** .25 = .08
    assert eyes.threshold((0.16, 0.01), 1) == pytest.approx(0.08 * np.exp(0.125))
    assert eyes.threshold((0.16, 0.01), 4) == pytest.approx(0.08 * np.exp(0.05))
    assert eyes.threshold((0.16, 0.01), 4, "catch") == pytest.approx(0.08 * np.exp(0.025))
    assert eyes.threshold((0.32, 0.02), 1) == pytest.approx(2 * eyes.threshold((0.16, 0.01), 1))
    with pytest.raises(ValueError, match="`prefer` must be one of balance, catch, got 'pass'"):
        eyes.threshold((0.16, 0.01), 1, "pass")


def test_synthetic_anomalies_depend_on_picture_and_seed_alone():
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    first, again, other = (np.stack(eyes.synthetic_anomalies(picture, seed)) for seed in (3, 3, 4))
    assert first.shape == (len(eyes.KINDS), 256, 256, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert all((a != b).any() for a, b in zip(first, other, strict=True))


def test_both_towers_see_a_picture_of_any_shape_as_one_grid_of_unit_vectors():
    torch.manual_seed(0)
    model = eyes.Eyes().eval()
    with torch.no_grad():
        found = model([np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)])
    assert {name: tuple(one.shape) for name, one in found.items()} == {
        name: (1, 256, width) for name, width in eyes.LAYERS.items()
    }
    for one in found.values():
        assert torch.allclose(one.norm(dim=-1), torch.ones(1, 256), atol=1e-4)


def test_a_threshold_is_chosen_between_good_and_defective_scores_of_the_other_sets():
    # Good pictures score half the evidence, defective ones twice: any constant between -log 2 and log 2 is right.
    drawn = [
        measure.Episode(np.array([0.5, 0.5, 2, 2]) * size, np.array([0, 0, 1, 1]), (size, size), float("nan"))
        for size in (0.1, 0.3, 0.7)
    ]
    figures, (_, constant) = measure.rows([[one] for one in drawn])
    assert np.allclose(figures[:, [0, 2, 3]], 1)
    assert np.allclose(figures[:, 4:], 0)
    assert abs(constant) < np.log(2)
