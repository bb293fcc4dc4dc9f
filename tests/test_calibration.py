"""What is normal, from the references alone: against maps worked out one by one, and pictures of other parts."""

import numpy as np
import pytest
import torch

from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.localization import few_shot_anomaly_map
from modeling_anomalygpt.memory_bank import MemoryBank, PatchFeatures, relative_map
from modeling_anomalygpt.references import (
    Comparability,
    NormalScores,
    normal_scores,
    normal_views,
    picture_traits,
    view_references,
)
from tests.tiny import lively_model, tiny_inputs, tiny_pair


def encode(pixels: torch.Tensor) -> tuple[PatchFeatures, ...]:
    """Patches of 4 x 4 pixels as they are."""
    patches = torch.nn.functional.unfold(pixels, 4, stride=4).transpose(1, 2)
    return (PatchFeatures(patches, (pixels.shape[2] // 4, pixels.shape[3] // 4)),)


def pixels(seed: int, count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def picture(seed: int, light: float = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(120 + light, 30, (40, 48, 3))
    return noise.clip(0, 255).astype(np.uint8)


# Scores and limit


def test_each_reference_is_scored_against_the_others_alone():
    good = pixels(0, 3)
    scores = normal_scores(encode, good, map_size=16)
    for number in range(3):
        others = [index for index in range(3) if index != number]
        bank = MemoryBank.build(encode(good[others])).features
        expected = few_shot_anomaly_map(encode(good[number : number + 1]), bank, 16).max()
        assert scores.crossed[number] == pytest.approx(float(expected), abs=1e-6)


def test_views_are_scored_against_all_references():
    good = pixels(0, 2)
    scores = normal_scores(encode, good, map_size=16)
    views = normal_views(good).flatten(0, 1)
    expected = few_shot_anomaly_map(encode(views), MemoryBank.build(encode(good)).features, 16).flatten(1).amax(1)
    torch.testing.assert_close(torch.tensor(scores.views), expected)


def test_turned_copies_of_a_reference_do_not_vouch_for_it():
    good = pixels(0, 2)
    copies = torch.stack([good[0], good[0].flip(-1), good[1], good[1].flip(-1)])
    alone = normal_scores(encode, copies, 16, groups=[0, 0, 1, 1])
    assert len(alone.crossed) == 2
    bank = MemoryBank.build(encode(copies[2:])).features
    assert alone.crossed[0] == pytest.approx(float(few_shot_anomaly_map(encode(copies[:1]), bank, 16).max()), abs=1e-6)


def test_views_are_the_same_at_every_call_and_differ_from_the_picture():
    good = pixels(1)
    torch.testing.assert_close(normal_views(good), normal_views(good))
    assert all((view - good).abs().mean() > 0.05 for view in normal_views(good))


def test_the_limit_lies_above_the_views_and_follows_parts_that_differ():
    assert NormalScores((0.1, 0.1), ()).limit == pytest.approx(0.2)
    alike = NormalScores((0.1, 0.1), (0.05, 0.05)).limit
    different = NormalScores((0.1, 0.1), (0.3, 0.3)).limit
    assert alike == pytest.approx(0.095)
    assert different == pytest.approx(0.339)


def test_what_is_usual_decides_alone_with_one_reference_and_fades_with_more():
    alone = NormalScores((0.1,), (), normal_distance=0.3)
    assert alone.limit == pytest.approx(0.3)
    for count, trust in ((2, 1 / 2), (4, 3 / 4), (21, 20 / 21)):
        found, usual = NormalScores((0.1,), (0.15,) * count).limit, 0.3 * count**-0.2
        shrunk = NormalScores((0.1,), (0.15,) * count, normal_distance=0.3).limit
        assert shrunk == pytest.approx(usual * (found / usual) ** trust)
        assert min(found, usual) < shrunk < max(found, usual)


def test_the_limit_is_positive_also_for_identical_flat_pictures():
    assert normal_scores(encode, torch.ones(2, 3, 16, 16), map_size=16).limit > 0


def test_a_relative_map_keeps_the_order_and_puts_the_limit_at_one_half():
    raw = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0))
    relative = relative_map(raw, torch.tensor([0.2, 0.7]))
    assert torch.equal(relative.flatten(1).argsort(1), raw.flatten(1).argsort(1))
    torch.testing.assert_close(relative_map(torch.tensor([0.2]), 0.2), torch.tensor([0.5]))
    assert relative.max() < 1


# In the model


def test_a_bank_with_a_limit_and_references_as_pictures_give_the_same_relative_map():
    model = lively_model(decision={"normalised_maps": True}).model
    query = tiny_inputs(model.config, batch_size=2)["pixel_values"]
    references = tiny_inputs(model.config, batch_size=2, seed=1)["pixel_values"]
    limit = normal_scores(model.get_patch_features, references, model.config.map_size).limit
    bank = MemoryBank.build(model.get_patch_features(references))
    raw = model.get_image_features(query, memory_bank=bank, return_dict=True, localization="reference").anomaly_map
    limited = MemoryBank(bank.features, bank.sources, bank.grids, 2, limit=limit)
    by_bank = model.get_image_features(query, memory_bank=limited, return_dict=True).anomaly_map
    by_pictures = model.get_image_features(
        query, reference_pixel_values=references.expand(2, *references.shape), return_dict=True
    ).anomaly_map
    torch.testing.assert_close(by_bank, raw / (raw + limit))
    torch.testing.assert_close(by_pictures, by_bank, atol=1e-5, rtol=1e-5)


def test_published_maps_stay_as_they_are_whatever_the_bank_knows():
    model = lively_model().model
    inputs = tiny_inputs(model.config)["pixel_values"]
    bank = MemoryBank.build(model.get_patch_features(inputs[:1]))
    limited = MemoryBank(bank.features, bank.sources, bank.grids, 1, limit=0.3)
    maps = [model.get_image_features(inputs, memory_bank=one, return_dict=True).anomaly_map for one in (bank, limited)]
    torch.testing.assert_close(*maps)


def test_limit_and_notes_are_saved_with_the_bank_and_older_banks_have_none(tmp_path):
    bank = MemoryBank.build(encode(pixels(0)), "encoder")
    bank.save(tmp_path / "old.safetensors")
    assert MemoryBank.load(tmp_path / "old.safetensors").limit is None
    MemoryBank(bank.features, bank.sources, bank.grids, 1, "encoder", 0.25, {"a": "[1]"}).save(tmp_path / "new")
    loaded = MemoryBank.load(tmp_path / "new")
    assert (loaded.limit, loaded.notes) == (0.25, {"a": "[1]"})


# Comparability


def test_ordinary_pictures_raise_no_doubts_and_strange_ones_say_why():
    good = torch.cat([pixels(0), pixels(0) + 0.05 * pixels(1)])
    comparability = Comparability.of(view_references(encode, good))

    def doubts(query):
        return comparability.doubts(picture_traits(query, encode(query)[-1]))[0]

    assert doubts(good[:1] + 0.02) == []
    assert "unlike" in doubts(pixels(7))
    assert "exposure" in doubts(good[:1] + 3.0)
    smooth = torch.nn.functional.avg_pool2d(good[:1], 5, stride=1, padding=2)
    assert "blur" in doubts(smooth)


def test_comparability_survives_its_json():
    comparability = Comparability.of(view_references(encode, pixels(0, 3)))
    assert Comparability.from_json(comparability.to_json()) == comparability


# The inspector


@pytest.fixture
def inspector():
    inspector = AnomalyInspector(*tiny_pair())
    inspector.set_references([picture(0), picture(1)])
    return inspector


def test_references_bring_their_limit_and_it_is_saved_with_them(inspector, tmp_path):
    before = inspector.inspect(picture(2), answer=False)
    assert before.evidence["limit"] == pytest.approx(inspector.memory_bank.limit, abs=1e-6)
    inspector.save_references(tmp_path / "bank.safetensors")
    other = AnomalyInspector(*tiny_pair())
    other.load_references(tmp_path / "bank.safetensors")
    after = other.inspect(picture(2), answer=False)
    assert after.evidence == before.evidence
    assert after.pred_score == pytest.approx(before.pred_score)


def test_more_normals_move_the_limit_to_the_highest_of_them_and_say_what_they_support(inspector):
    normals = [picture(seed) for seed in range(2, 8)]
    learned = inspector.calibrate(normals, max_false_alarm=0.02, progress=False)
    assert (learned["num_normals"], learned["needed"], learned["enough"]) == (6, 149, False)
    assert learned["supported_false_alarm_rate"] == pytest.approx(1 - 0.05 ** (1 / 6))
    results = [inspector.inspect(normal, answer=False) for normal in normals]
    assert max(result.pred_score for result in results) == pytest.approx(1.0, abs=1e-3)
    assert all(result.verdict != "anomalous" for result in results)
    assert results[0].evidence["num_normals"] == 6


def test_calibrating_needs_references_and_pictures_and_a_rate(inspector, tmp_path):
    with pytest.raises(RuntimeError, match="Call `set_references` before `calibrate`"):
        AnomalyInspector(*tiny_pair()).calibrate([picture(0)])
    with pytest.raises(ValueError, match="`false_alarm_rate` must be between 0 and 1, got 2"):
        inspector.calibrate([picture(0)], max_false_alarm=2)
    with pytest.raises(ValueError, match="`normals` must hold at least one good picture that can be read, got none"):
        inspector.calibrate([tmp_path / "missing.png"], progress=False)


def test_each_region_names_the_good_patch_most_like_it(inspector):
    bank = inspector.memory_bank
    inspector.observer.memory_bank = MemoryBank(**(vars(bank) | {"limit": 1e-4}))
    result = inspector.inspect(picture(3), use_language=False)
    nearest = result.regions[0].nearest_good
    assert nearest["reference"] in (0, 1)
    x0, y0, x1, y1 = nearest["box"]
    assert 0 <= x0 < x1 <= 1
    assert 0 <= y0 < y1 <= 1


def test_a_reference_is_its_own_nearest_good_patch(inspector):
    image = picture(1)
    look = inspector.observer.look(inspector_images(image), "object", "auto")
    for x, y in ((3, 3), (24, 20), (44, 36)):
        nearest = inspector.observer.nearest_good(look.patches[0], image.shape[:2], x, y)
        assert nearest["reference"] == 1
        assert nearest["box"][0] <= (x + 0.5) / 48 <= nearest["box"][2]
        assert nearest["box"][1] <= (y + 0.5) / 40 <= nearest["box"][3]


def inspector_images(image):
    from PIL import Image

    return [Image.fromarray(image)]
