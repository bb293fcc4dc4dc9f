"""What good pictures tell: against maps worked out one by one, hand-worked light, and files from strangers."""

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTConfig
from modeling_anomalygpt.localization import few_shot_anomaly_map
from modeling_anomalygpt.memory_bank import MemoryBank, PatchFeatures, normalised_map
from modeling_anomalygpt.reference_views import augmented_views, synthetic_anomalies
from modeling_anomalygpt.references import (
    DomainGate,
    ImageTraits,
    NormalScores,
    References,
    mean_brightness,
    nearest_rotation,
    same_picture,
    study_references,
    thumbnail,
)
from tests.tiny import lively_model, tiny_inputs, tiny_pair

DECISION = AnomalyGPTConfig().decision
MEAN, STD = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.25, 0.2, 0.3])[:, None, None]
BLACK = (-MEAN / STD).flatten()


def encode(pixels: torch.Tensor) -> tuple[PatchFeatures, ...]:
    """Patches of 4 x 4 pixels as they are."""
    patches = torch.nn.functional.unfold(pixels, 4, stride=4).transpose(1, 2)
    return (PatchFeatures(patches, (pixels.shape[2] // 4, pixels.shape[3] // 4)),)


def pixels(seed: int, count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def picture(seed: int, light: float = 1.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(110, 30, (40, 48, 3)).clip(0, 255)
    return (noise * light).clip(0, 255).astype(np.uint8)


MODEL = SimpleNamespace(
    get_patch_features=encode,
    localizer=SimpleNamespace(compare=partial(few_shot_anomaly_map, map_size=16)),
    config=SimpleNamespace(decision=DECISION),
)


def study(good: torch.Tensor, groups=None, upright=None, model=MODEL, **options) -> tuple[NormalScores, DomainGate]:
    count = len(good)
    return study_references(
        model, good, model.get_patch_features(good), groups or range(count), upright or [True] * count, **options
    )


# Scores and threshold


def test_each_reference_is_scored_against_the_others_alone():
    good = pixels(0, 3)
    scores, _ = study(good)
    for number in range(3):
        others = [index for index in range(3) if index != number]
        bank = MemoryBank.build(encode(good[others])).features
        expected = few_shot_anomaly_map(encode(good[number : number + 1]), bank, 16).max()
        assert scores.leave_one_out_scores[number] == pytest.approx(float(expected), abs=1e-6)


def test_references_are_studied_against_as_few_patches_as_queries_are_compared_with():
    good = pixels(0, 3)
    scores, _ = study(good, max_patches=4)
    for number in range(3):
        others = [index for index in range(3) if index != number]
        bank = MemoryBank.build(encode(good[others])).reduce(4).features
        expected = few_shot_anomaly_map(encode(good[number : number + 1]), bank, 16).max()
        assert scores.leave_one_out_scores[number] == pytest.approx(float(expected), abs=1e-6)
    assert scores.threshold(DECISION) > study(good)[0].threshold(DECISION)
    assert study(good, max_patches=999)[0] == study(good)[0]


def test_views_are_scored_against_all_references():
    good = pixels(0, 2)
    views = augmented_views(good)
    expected = few_shot_anomaly_map(encode(views), MemoryBank.build(encode(good)).features, 16).flatten(1).amax(1)
    torch.testing.assert_close(torch.tensor(study(good)[0].augmented_scores), expected)


def test_rotated_copies_of_a_reference_do_not_vouch_for_it():
    good = pixels(0, 2)
    copies = torch.stack([good[0], good[0].flip(-1), good[1], good[1].flip(-1)])
    scores, _ = study(copies, [0, 0, 1, 1], [True, False] * 2)
    bank = MemoryBank.build(encode(copies[2:])).features
    expected = float(few_shot_anomaly_map(encode(copies[:1]), bank, 16).max())
    assert len(scores.leave_one_out_scores) == 2
    assert scores.leave_one_out_scores[0] == pytest.approx(expected, abs=1e-6)


def test_a_reference_of_several_tiles_is_scored_by_the_highest_of_them():
    """A first tile that shows the mat alone would set the threshold of the part."""
    mat, part = torch.ones(1, 3, 16, 16), pixels(0, 2)
    tiles = torch.cat([mat, part[:1], mat, part[1:]])
    whole, _ = study(tiles, [0, 0, 1, 1])
    for number, (own, others) in enumerate((([0, 1], [2, 3]), ([2, 3], [0, 1]))):
        bank = MemoryBank.build(encode(tiles[others])).features
        expected = float(few_shot_anomaly_map(encode(tiles[own]), bank, 16).max())
        assert whole.leave_one_out_scores[number] == pytest.approx(expected, abs=1e-6)
    first, _ = study(tiles, [0, 0, 1, 1], [True, False] * 2)
    assert first.leave_one_out_scores == (), "two mats are one photograph"


def test_one_photograph_cut_or_moved_a_little_is_no_further_part():
    """Else the threshold would be what a photograph differs from itself, and every good part above it."""
    good = pixels(0, 2)
    almost = good + 0.01 * pixels(1, 2)
    scores, _ = study(torch.cat([good, almost]))
    expected = study(good)[0].leave_one_out_scores
    assert len(scores.leave_one_out_scores) == 2
    assert scores.leave_one_out_scores == pytest.approx(expected, rel=0.1)
    alone, _ = study(torch.cat([good[:1], almost[:1]]))
    assert alone.leave_one_out_scores == ()
    assert len(study(pixels(0, 4))[0].leave_one_out_scores) == 4


def test_each_synthetic_anomaly_is_scored_against_all_references_as_if_alone():
    good = pixels(0, 2)
    images, surroundings = synthetic_anomalies(augmented_views(good))
    maps = few_shot_anomaly_map(encode(images), MemoryBank.build(encode(good)).features, 16)
    expected = []
    for found, near in zip(maps, surroundings, strict=True):
        for index in range(len(near)):
            others = near[[other for other in range(len(near)) if other != index]].any(0)
            expected.append(float(found[~others | near[index]].max()))
    assert study(good)[0].synthetic_scores == pytest.approx(expected)


def test_thresholds_worked_by_hand():
    decision = DECISION | {"threshold_factor": 2.0}
    guess = 0.16**0.75 * 0.01**0.25
    assert NormalScores((0.1,), (), (0.1, 0.16, 0.9), 0.01).threshold(decision) == pytest.approx(2 * guess)
    two = NormalScores((0.1,), (0.2, 0.8), (0.1, 0.16, 0.9), 0.01)
    assert two.threshold(decision) == pytest.approx(2 * (guess * 0.4) ** 0.5)
    four = NormalScores((0.1,), (0.2, 0.8, 0.2, 0.8), (0.1, 0.16, 0.9), 0.01)
    assert four.threshold(decision) == pytest.approx(2 * (guess * 0.4**3) ** 0.25)


def test_the_threshold_follows_parts_that_differ():
    alike = NormalScores((0.1, 0.1), (0.05, 0.05), (0.2,), 0.1).threshold(DECISION)
    different = NormalScores((0.1, 0.1), (0.3, 0.3), (0.2,), 0.1).threshold(DECISION)
    assert 0.05 < alike < different
    assert study(torch.ones(2, 3, 16, 16))[0].threshold(DECISION) > 0, "also of identical flat pictures"


def test_a_normalised_map_keeps_the_order_and_puts_the_threshold_at_one_half():
    raw = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0))
    normalised = normalised_map(raw, torch.tensor([0.2, 0.7]))
    assert torch.equal(normalised.flatten(1).argsort(1), raw.flatten(1).argsort(1))
    torch.testing.assert_close(normalised_map(torch.tensor([0.2]), 0.2), torch.tensor([0.5]))
    torch.testing.assert_close(normalised_map(torch.tensor([0.1, 0.4]), 0.2, contrast=3), torch.tensor([1 / 9, 8 / 9]))
    assert normalised.max() < 1


@pytest.mark.parametrize("normalised", [True, False])
def test_a_bank_with_a_threshold_and_references_as_pictures_give_the_same_map(normalised):
    model = lively_model(decision={"normalised_maps": normalised}).model
    query = tiny_inputs(model.config, batch_size=2)["pixel_values"]
    references = tiny_inputs(model.config, batch_size=2, seed=1)["pixel_values"]
    features = model.get_patch_features(references)
    scores, _ = study(references, model=model)
    threshold = scores.threshold(model.config.decision)
    bank = MemoryBank.build(features)
    raw = few_shot_anomaly_map(model.get_patch_features(query), bank.features, 28)
    by_bank = model.get_image_features(query, memory_bank=replace(bank, threshold=threshold), return_dict=True)
    own = references.expand(2, *references.shape)
    by_pictures = model.get_image_features(query, reference_pixel_values=own, return_dict=True)
    torch.testing.assert_close(by_bank.anomaly_map, raw / (raw + threshold) if normalised else raw)
    torch.testing.assert_close(by_pictures.anomaly_map, by_bank.anomaly_map, atol=1e-5, rtol=1e-5)


# Domain gate and light


def test_ordinary_pictures_are_let_through_and_strange_ones_say_why():
    good = torch.cat([pixels(0), pixels(0) + 0.05 * pixels(1)])
    _, gate = study(good)

    def reasons(query):
        return gate.out_of_domain_reasons(ImageTraits.of(query, encode(query)[-1]), 0.8)[0]

    assert reasons(good[:1] + 0.02) == []
    assert "unlike" in reasons(pixels(7))
    assert "exposure" in reasons(good[:1] + 3.0)
    assert "blur" in reasons(torch.nn.functional.avg_pool2d(good[:1], 5, stride=1, padding=2))


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images - MEAN) / STD


def gate_for(low: float, high: float) -> DomainGate:
    return DomainGate(torch.tensor([[1.0, 0.0]]), 0.1, (low, high), -5.0)


@pytest.mark.parametrize(
    ("given", "wanted", "reached"),
    [(0.5, 1.0, 1.0), (1.0, 0.6, 0.6), (0.1, 1.0, 0.25)],
    ids=["dark", "bright", "by no more than two and a half"],
)
def test_another_light_is_brought_back_by_one_factor(given, wanted, reached):
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    light = float(mean_brightness(normalised(wanted * images)))
    matched = gate_for(light, light).match_exposure(normalised(given * images), BLACK)
    torch.testing.assert_close(matched, normalised(reached * images))


def test_pictures_within_or_near_the_light_of_the_references_stay_as_they_are():
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert gate_for(-2.0, 2.0).match_exposure(images, BLACK).equal(images)
    near = float(mean_brightness(images[:1])) + 0.25
    assert gate_for(near, near).match_exposure(images[:1], BLACK).equal(images[:1])


def test_what_surrounds_a_letterboxed_picture_is_neither_counted_nor_changed():
    images = torch.rand(1, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    bright, dark = (torch.nn.functional.pad(normalised(factor * images), (0, 0, 2, 2)) for factor in (1.0, 0.5))
    light = float(mean_brightness(bright))
    torch.testing.assert_close(gate_for(light, light + 1).match_exposure(dark, BLACK), bright)


def compared(gate, images):
    traits = ImageTraits.of(images, encode(images)[-1])
    return gate.compare(replace(traits, features=torch.tensor([[0.8, 0.6]])), images, BLACK)[0]


@pytest.mark.parametrize("surround", [0, 2], ids=["filled", "letterboxed"])
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.3])
def test_what_a_picture_is_like_is_told_as_ratios_to_the_references(surround, factor):
    images = torch.rand(1, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    good, other = (
        torch.nn.functional.pad(normalised(light * images), (0, 0, surround, surround)) for light in (1.0, factor)
    )
    light, sharpness = float(mean_brightness(good)), float(ImageTraits.of(good, encode(good)[-1]).sharpness)
    found = compared(replace(gate_for(light, light), min_sharpness=sharpness - np.log(3)), other)
    assert found["exposure"] == pytest.approx(factor, abs=1e-3)
    assert found["distance"] == pytest.approx((1 - 0.8) / 0.1, abs=1e-3)
    if not surround:  # the edge of a letterboxed picture changes with its light
        assert found["sharpness"] == pytest.approx(3.0, abs=1e-2)


def test_half_precision_stays_half_precision():
    images = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16() - 2
    assert gate_for(0.0, 1.0).match_exposure(images, BLACK).dtype == torch.bfloat16


def test_a_row_holds_what_the_picture_is_like_beside_the_references():
    inspector = AnomalyInspector(*tiny_pair())
    assert "traits" not in inspector.inspect(picture(0), answer=False).evidence
    inspector.set_references([picture(0), picture(1)])
    traits = inspector.inspect(picture(0, 0.9), answer=False).evidence["traits"]
    bright = inspector.inspect(picture(0), answer=False).evidence["traits"]
    assert traits["exposure"] / bright["exposure"] == pytest.approx(0.9, abs=0.02)
    assert 0 <= bright["distance"] < 1 < bright["sharpness"]


@pytest.fixture
def lit() -> AnomalyInspector:
    inspector = AnomalyInspector(*tiny_pair())
    inspector.model.config.decision = {"match_exposure": True}
    inspector.set_references([picture(0), picture(1)])
    return inspector


def test_a_reference_in_half_the_light_is_nearly_as_good_as_itself(lit):
    as_it_was, dark = (lit.inspect(picture(0, light), answer=False) for light in (1.0, 0.5))
    lit.model.config.decision = {"match_exposure": False}
    unmatched = lit.inspect(picture(0, 0.5), answer=False)
    assert abs(dark.pred_score - as_it_was.pred_score) < 0.3 * abs(unmatched.pred_score - as_it_was.pred_score)
    kinds = [[reason["kind"] for reason in result.evidence["reasons"]] for result in (as_it_was, dark)]
    assert ["exposure_matched" in one for one in kinds] == [False, True]


def test_each_picture_of_a_batch_gets_its_own_light(lit):
    images = [picture(2), picture(3, 0.4), picture(4, 1.4)]
    for one, image in zip(lit.inspect_many(images, batch_size=3, answer=False, progress=False), images, strict=True):
        assert one.pred_score == pytest.approx(lit.inspect(image, answer=False).pred_score, rel=1e-4)


def test_a_dark_picture_that_feedback_calls_good_is_good_afterwards(lit):
    dark = picture(7, 0.5)
    result = lit.inspect(dark, answer=False)
    lit.feedback(result, is_normal=True, image=dark)
    assert lit.inspect(dark, answer=False).anomaly_map.max() == pytest.approx(0, abs=1e-3)
    assert result.anomaly_map.max() > 1e-2


# Copies


def photograph(seed: int) -> Image.Image:
    """Smooth shapes with a little grain, as photographs have."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(60, 200, (6, 8, 3), dtype=np.uint8)).resize((320, 240), Image.BICUBIC)
    grain = rng.normal(0, 4, (240, 320, 3))
    return Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8))


def test_resized_and_saved_again_a_picture_stays_the_same_and_others_do_not(tmp_path):
    image = photograph(0)
    image.save(tmp_path / "again.jpg", quality=70)
    copies = [image, image.resize((160, 120)), image.resize((500, 375)), Image.open(tmp_path / "again.jpg")]
    assert all(same_picture(thumbnail(image), thumbnail(copy)) for copy in copies)
    assert not same_picture(thumbnail(image), thumbnail(photograph(1)))
    changed = image.copy()
    changed.paste((20, 20, 20), (100, 100, 140, 130))
    assert not same_picture(thumbnail(image), thumbnail(changed))


# Files


@pytest.fixture(scope="module")
def references(tmp_path_factory) -> References:
    inspector = AnomalyInspector(*tiny_pair())
    inspector.set_references([picture(0), picture(1)], category="螺栓", description="A bolt.")
    inspector.calibrate([picture(seed) for seed in range(2, 5)], progress=False)
    return inspector.references


def test_everything_is_saved_and_comes_back_equal(references, tmp_path):
    references.save(tmp_path / "r.safetensors")
    loaded = References.load(tmp_path / "r.safetensors", references.bank.fingerprint)
    for name in ("normal_scores", "calibration", "image_sizes", "copies", "thumbnails", "category", "description"):
        assert getattr(loaded, name) == getattr(references, name), name
    assert loaded.domain_gate.features.equal(references.domain_gate.features)
    for name in ("features", "sources"):
        assert all(map(torch.equal, getattr(loaded.bank, name), getattr(references.bank, name)))
    assert loaded.bank.grids == references.bank.grids
    assert loaded.fingerprint() == references.fingerprint()
    assert loaded.fingerprint() != replace(references, calibration=None).fingerprint()
    assert [file.name for file in tmp_path.iterdir()] == ["r.safetensors"]


def old_bank(references: References, path, **notes: str) -> None:
    """A file as versions before `References` wrote it."""
    bank, gate = references.bank, references.domain_gate
    tensors, metadata = bank.to_tensors()
    metadata["limit"] = metadata.pop("threshold")
    found = {
        "normal_scores": {"views": [0.1], "crossed": [0.2, 0.3], "normal_distance": 0.0},
        "comparability": {"vectors": gate.features.tolist(), "farthest": 0.2, "light": [0, 1], "sharpness": -3.0},
        "copies": [1, [[40, 48], [40, 48]]],
        "calibration": {
            "num_normals": 3, "supported_false_alarm_rate": 0.6, "confidence": 0.95, "evidence_limit": 0.5,
            "max_false_alarm": 0.02, "enough": False, "needed": 149,
        },
    }  # fmt: skip
    texts = {f"note.{name}": json.dumps(value) for name, value in found.items()} | notes
    save_file(tensors, path, {"format": "anomalygpt-memory-bank-1", **metadata, **texts})


def test_banks_of_earlier_versions_still_load(references, tmp_path):
    old_bank(references, tmp_path / "old.safetensors")
    loaded = References.load(tmp_path / "old.safetensors")
    assert loaded.bank.threshold == pytest.approx(references.bank.threshold)
    assert loaded.normal_scores.leave_one_out_scores == (0.2, 0.3)
    assert loaded.calibration.decision_threshold == 0.5
    assert (loaded.domain_gate.max_distance, loaded.image_sizes) == (0.2, ((40, 48), (40, 48)))
    references.bank.save(tmp_path / "bare.safetensors")
    assert References.load(tmp_path / "bare.safetensors").normal_scores is None


@pytest.mark.parametrize(
    "facts",
    [
        {"calibration": {"num_normals": 3}},
        {"calibration": {"num_normals": "many"}},
        {"normal_scores": {"augmented_scores": [0.1], "leave_one_out_scores": "many"}},
        {"normal_scores": {"augmented_scores": [0.1], "leave_one_out_scores": [float("nan")]}},
        {"normal_scores": {"augmented_scores": [0.1], "leave_one_out_scores": [], "self_distance": "near"}},
        {"domain_gate": {"max_distance": "far", "brightness_range": [0, 1], "min_sharpness": 0}},
        {"domain_gate": {"max_distance": 1.0, "brightness_range": [0], "min_sharpness": 0}},
        {"copies": 0},
        {"image_sizes": [[40, 40], [40, 40], [40, 40]]},
        {"image_sizes": [[40, 40], 3]},
        {"image_sizes": [[40, -1]]},
        {"category": 7},
        {"thumbnails": ["no hexadecimal"]},
        {"thumbnails": ["0102ff"]},
        {"bits": 17},
        "{",
        "[" * 100_000,
        "[1]",
    ],
    ids=range(18),
)
def test_values_that_no_inspector_writes_are_refused_when_the_file_is_read(references, tmp_path, facts):
    path = tmp_path / "r.safetensors"
    references.save(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    text = facts if isinstance(facts, str) else json.dumps(json.loads(metadata["references"]) | facts)
    save_file(load_file(path), path, metadata | {"references": text})
    with pytest.raises(ValueError, match=r"`path` must hold references that an inspector wrote.*Make them again"):
        References.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": float("nan")}, "its threshold is nan"),
        ({"threshold": -1.0}, "its threshold is -1.0"),
        ({"features": ()}, "layers or references are missing"),
        ({"num_references": 0}, "layers or references are missing"),
        ({"grids": ((2, 2, 2),)}, r"a grid is \(2, 2, 2\)"),
        ({"grids": ((1, 1),)}, "patch vectors have the shape"),
        ({"features": (torch.eye(4, dtype=torch.float64),)}, "and the type torch.float64"),
        ({"features": (torch.full((4, 4), torch.inf),)}, "values are out of range"),
        ({"sources": (torch.tensor([0, 1, 2, 4]),)}, "values are out of range"),
        ({"sources": (torch.arange(3),)}, "patches and their places do not belong together"),
    ],
)
def test_tensors_that_cannot_be_are_refused(tmp_path, changes, message):
    sound = MemoryBank((torch.eye(4),), (torch.arange(4),), ((2, 2),), 1, "encoder", 0.5)
    sound.save(tmp_path / "sound.safetensors")
    assert MemoryBank.load(tmp_path / "sound.safetensors").threshold == 0.5
    replace(sound, **changes).save(tmp_path / "bank.safetensors")
    with pytest.raises(ValueError, match=f"`path` must be a memory bank, got .*{message}.*Make it again."):
        References.load(tmp_path / "bank.safetensors")


def test_a_picture_is_turned_only_where_that_makes_it_more_like_a_known_one():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    upright, other = Image.fromarray(pixels), Image.fromarray(pixels[::-1, ::-1].transpose(1, 0, 2))
    known = [thumbnail(upright)]
    assert nearest_rotation(thumbnail(upright), known) == 0
    for angle in (90, 180, 270):
        darker = Image.eval(upright.rotate(angle), lambda value: value // 2)
        assert nearest_rotation(thumbnail(darker), known) == 360 - angle
    assert nearest_rotation(thumbnail(other), []) == 0  # references saved by earlier versions have no thumbnails
