"""The stage that teaches the embedded vision model to compare: its pairs, its distances, and the folder it writes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, ResNetConfig, ResNetModel

from recipes.tiny import comparing
from recipes.tiny.view_pairs import ViewPairs


def photographs(number: int = 4, side: int = 200) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 256, (10, 10, 3), dtype=np.uint8) for _ in range(number)]
    return [np.asarray(Image.fromarray(row).resize((side, side), Image.Resampling.BICUBIC)) for row in rows]


@pytest.fixture
def distilled(tmp_path):
    """A folder as `recipes.tiny.vision` writes it, of a very small untrained network."""
    torch.manual_seed(0)
    folder = tmp_path / "distilled"
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8], depths=[1, 1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(folder)
    tensors = {}
    for index, dim in enumerate((4, 6)):
        tensors[f"reference_projections.{index}.weight"] = torch.randn(dim, 8)
        tensors[f"reference_projections.{index}.bias"] = torch.randn(dim)
    save_file(tensors, folder / comparing.PROJECTIONS)
    (folder / comparing.NOTES).write_text(json.dumps({"layer_pairs": [[2, 4], [3, 8], [3, 11]]}))
    return folder


@pytest.mark.parametrize("rendered", [0.0, 1.0])
def test_a_pair_depends_on_seed_and_index_alone(rendered):
    first, again = (ViewPairs(photographs(), 10, 96, seed=3, rendered=rendered) for _ in range(2))
    again[1]
    for one, two in zip(first[4], again[4], strict=True):
        assert torch.equal(one, two)
    images, masks = first[4]
    assert images.shape == (2, 3, 96, 96)
    assert images.dtype == torch.uint8
    assert masks.shape == (2, 96, 96)
    assert masks.dtype == torch.bool
    assert not torch.equal(images, ViewPairs(photographs(), 10, 96, seed=4, rendered=rendered)[4][0])


def test_distances_are_one_minus_the_best_cosine_with_the_good_patches_of_the_other_picture(distilled):
    torch.manual_seed(0)
    comparer = comparing.Comparer(distilled)
    vectors = [torch.randn(2, side * side, 8) for side in (4, 2)]
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[1, :8, :8] = True  # the first patch of the fine layer, and of the coarse one
    maps = comparer.maps(vectors, masks)
    for project, layer, found, side in zip(comparer.reference_projections, vectors, maps[:2], (4, 2), strict=True):
        query, bank = project(layer[0]), project(layer[1])[1:]
        cosine = torch.nn.functional.cosine_similarity(query[:, None], bank[None], dim=-1)
        naive = (1 - cosine.max(1).values).view(1, 1, side, side)
        naive = torch.nn.functional.interpolate(naive, size=(4, 4), mode="bilinear", align_corners=True)
        torch.testing.assert_close(found[0], naive[0, 0])
    torch.testing.assert_close(maps[2], (maps[0] + maps[1]) / 2)


def test_a_picture_that_is_bad_everywhere_is_still_compared(distilled):
    comparer = comparing.Comparer(distilled)
    masks = torch.ones(2, 32, 32, dtype=torch.bool)
    maps = comparer.maps([torch.randn(2, 16, 8), torch.randn(2, 4, 8)], masks)
    assert all(torch.isfinite(one).all() and one.max() <= 2 for one in maps)


def test_the_loss_falls_when_distances_follow_the_masks(distilled):
    comparer = comparing.Comparer(distilled)
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, :16, :16] = True
    right, wrong = torch.full((2, 8, 8), 0.05), torch.full((2, 8, 8), 0.05)
    right[0, :2, :2], wrong[0, 5:7, 5:7] = 0.9, 0.9
    losses = {}
    for name, distance in (("right", right), ("wrong", wrong)):
        comparer.vectors = lambda images: None
        comparer.maps = lambda vectors, masks, distance=distance: [distance] * 3
        losses[name] = comparer(torch.zeros(2, 3, 64, 64), masks)
    assert losses["right"][0] < losses["wrong"][0]
    assert losses["right"][1] == 1
    assert losses["wrong"][1] < 0.5


@pytest.mark.slow
def test_the_stage_writes_a_folder_of_the_same_kind_and_goes_on_where_it_stopped(distilled, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "SIZE", 64)
    monkeypatch.setattr(comparing, "BATCH", 2)
    for number, picture in enumerate(photographs()):
        Image.fromarray(picture).save(tmp_path / f"{number}.jpg")
    output = tmp_path / "compared"
    call = ["--vision", str(distilled), "--pictures", str(tmp_path), "--output", str(output), "--threads", "1"]
    comparing.main([*call, "--steps", "2"])
    first = load_file(output / comparing.PROJECTIONS)
    before = load_file(distilled / comparing.PROJECTIONS)
    assert first.keys() == before.keys() | {comparing.LIMITS}
    assert any(not torch.equal(first[key], before[key]) for key in before)
    assert json.loads((output / comparing.NOTES).read_text())["layer_pairs"] == [[2, 4], [3, 8], [3, 11]]
    AutoModel.from_pretrained(output)
    comparing.main([*call, "--steps", "2"])  # nothing is left to do
    assert all(torch.equal(first[key], value) for key, value in load_file(output / comparing.PROJECTIONS).items())
    comparing.main([*call, "--steps", "3"])
    assert torch.load(output / comparing.STATE, weights_only=True)["step"] == 3
    second = comparing.Comparer(output)  # another round begins with what this one has learned, limits too
    assert torch.equal(second.limits, load_file(output / comparing.PROJECTIONS)[comparing.LIMITS])
