"""The region of interest: outside it nothing counts, wherever a picture goes; and the part told from its ground."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.memory_bank import MemoryBank, PatchFeatures
from modeling_anomalygpt.references import References
from modeling_anomalygpt.region_of_interest import fitted, foreground, load_roi, mean_inside, patches_inside
from tests.test_references import BLACK, encode, gate_for, pixels, study
from tests.tiny import CallCounter, DtypeRecorder, tiny_pair

SIZE = (56, 56)


def picture(seed: int, size=SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def left_half(size=SIZE) -> np.ndarray:
    roi = np.zeros(size, bool)
    roi[:, : size[1] // 2] = True
    return roi


@pytest.fixture(scope="module")
def pair():
    return tiny_pair()


@pytest.fixture
def inspector(pair) -> AnomalyInspector:
    return AnomalyInspector(*pair)


# The mask


def test_a_mask_and_polygons_of_labelme_mark_the_same(tmp_path):
    Image.fromarray(left_half()).save(tmp_path / "roi.png")
    shape = {"points": [[0, 0], [27, 55]], "shape_type": "rectangle"}
    labelme = {"imageWidth": 56, "imageHeight": 56, "shapes": [shape]}
    (tmp_path / "roi.json").write_text(json.dumps(labelme))
    for roi in (tmp_path / "roi.png", tmp_path / "roi.json", left_half(), left_half() * np.uint8(7)):
        assert np.array_equal(load_roi(roi, SIZE), left_half())


def test_a_mask_painted_in_greys_counts_from_half_of_its_brightest(tmp_path):
    ramp = np.broadcast_to(np.arange(111, dtype=np.uint8), (20, 111))
    assert np.array_equal(load_roi(ramp, ramp.shape), ramp > 55)
    Image.fromarray(left_half() * np.uint8(90)).save(tmp_path / "roi.jpg")
    assert np.array_equal(load_roi(tmp_path / "roi.jpg", SIZE), left_half())
    assert np.array_equal(load_roi(left_half() * 0.25, SIZE), left_half())


@pytest.mark.parametrize(
    ("roi", "message"),
    [
        (left_half((40, 50)), r"`roi` must have the size of the first good picture, 56 x 56 pixels, got 50 x 40\."),
        (np.zeros(SIZE, bool), r"`roi` must mark what counts, got an empty mask\. Paint the part white on black\."),
    ],
)
def test_a_mask_that_cannot_be_meant_is_refused_and_earlier_references_stay(inspector, roi, message):
    inspector.set_references([picture(0)])
    before = inspector.references
    with pytest.raises(ValueError, match=message):
        inspector.set_references([picture(1), picture(2)], roi=roi)
    with pytest.raises(FileNotFoundError, match="gone.png"):
        inspector.set_references([picture(1)], roi="gone.png")
    with pytest.raises(ValueError, match="`roi` must be None with `rotations`, got both"):
        inspector.set_references([picture(1)], rotations=True, roi=left_half())
    assert inspector.references is before


def test_in_another_size_a_region_touches_the_same_places_and_never_vanishes():
    roi = np.zeros((400, 600), bool)
    roi[200, 300] = True
    assert np.argwhere(fitted(roi, (4, 6))).tolist() == [[2, 3]]
    enlarged = fitted(left_half((2, 2)), (6, 10))
    assert np.array_equal(enlarged, left_half((6, 10)))


def test_means_and_patches_of_a_region_worked_by_hand():
    inside = torch.zeros(1, 8, 8, dtype=torch.bool)
    inside[0, :4, :2] = True
    values = torch.tensor([[[1.0, 10.0], [100.0, 1000.0]]])
    assert float(mean_inside(values, inside)) == 1.0
    assert float(mean_inside(torch.arange(64.0).view(1, 8, 8), inside)) == np.mean([0, 1, 8, 9, 16, 17, 24, 25])
    assert patches_inside(inside, (4, 4)).sum() == 2
    assert patches_inside(inside, (4, 4), margin=1).sum() == 6


# References


def test_a_bank_holds_the_patches_of_the_region_and_their_neighbours():
    inside = torch.zeros(2, 16, 16, dtype=torch.bool)
    inside[:, 0, 0] = True
    bank = MemoryBank.build(encode(pixels(0, 2)), inside=inside)
    assert bank.sources[0].tolist() == [0, 1, 4, 5, 16, 17, 20, 21]
    whole = MemoryBank.build(encode(pixels(0, 2)))
    assert torch.equal(bank.features[0], whole.features[0][bank.sources[0]])


def test_what_references_say_of_each_other_is_said_of_the_region_alone():
    """Against maps worked out patch by patch; the rest of the pictures is another one, and nothing changes."""
    inside = torch.zeros(2, 16, 16, dtype=torch.bool)
    inside[:, :8, :8] = True
    good = pixels(0, 2)
    scores, gate = study(good, inside=inside)
    unit = torch.nn.functional.normalize(encode(good)[0].vectors, dim=-1)
    near = [row * 4 + column for row in range(3) for column in range(3)]  # the region and a patch around it
    for number in range(2):
        other = unit[1 - number][near]
        best = 1 - (unit[number] @ other.T).max(1).values.view(4, 4)
        whole = torch.nn.functional.interpolate(best[None, None], (16, 16), mode="bilinear", align_corners=True)[0, 0]
        assert scores.leave_one_out_scores[number] == pytest.approx(float(whole[:8, :8].max()), abs=1e-5)
    elsewhere = good.clone()
    elsewhere[:, :, 12:, 12:] = 9.0
    again, gate_again = study(elsewhere, inside=inside)
    assert again.leave_one_out_scores == scores.leave_one_out_scores
    torch.testing.assert_close(gate_again.features, gate.features)


def test_light_outside_the_region_is_not_matched():
    inside = torch.zeros(1, 16, 16, dtype=torch.bool)
    inside[:, :8] = True
    images = pixels(3)
    light = float(images[:, :, :8].mean())
    images[:, :, 8:] -= 3.0
    gate = gate_for(light - 0.1, light + 0.1)
    assert torch.equal(gate.match_exposure(images, BLACK, inside), images)
    assert not torch.equal(gate.match_exposure(images, BLACK), images)


def test_a_region_is_saved_and_comes_back_and_changes_the_fingerprint(inspector, tmp_path):
    inspector.set_references([picture(0), picture(1)], roi=left_half())
    path, kept = tmp_path / "r.safetensors", inspector.references
    kept.save(path)
    loaded = References.load(path)
    assert np.array_equal(loaded.roi, left_half())
    assert loaded.fingerprint() == kept.fingerprint()
    other = References(**(vars(kept) | {"roi": ~left_half()}))
    assert other.fingerprint() != kept.fingerprint()


def test_a_forged_region_is_refused_when_the_file_is_read(inspector, tmp_path):
    inspector.set_references([picture(0)], roi=left_half())
    path = tmp_path / "r.safetensors"
    inspector.save_references(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors, facts = load_file(path), json.loads(metadata["references"])
    for size, bits in (
        ([0, 8], np.ones(0)),
        ([8, 8], np.ones(7)),
        ([8, 8], np.zeros(8)),
        ("8x8", np.ones(8)),
        ([8, 10**9], np.ones(8)),
    ):
        forged = tensors | {"roi": torch.from_numpy(bits.astype(np.uint8))}
        save_file(forged, path, metadata | {"references": json.dumps(facts | {"roi_size": size})})
        with pytest.raises(ValueError, match="`path` must hold references that an inspector wrote"):
            References.load(path)


# Inspection


def test_outside_the_region_the_map_is_empty_and_nothing_is_marked(inspector):
    inspector.set_references([picture(0), picture(1)])
    everywhere = inspector.inspect(picture(5), answer=False)
    inspector.set_references([picture(0), picture(1)], roi=left_half())
    result = inspector.inspect(picture(5), answer=False)
    assert everywhere.anomaly_map[:, 28:].max() > 0
    assert result.anomaly_map[:, 28:].max() == 0
    assert result.anomaly_map[:, :28].min() > 0
    assert result.evidence["peak"]["x"] < 28
    assert result.evidence["region_of_interest"] == 0.5
    assert all(region.box[2] <= 28 for region in result.regions)
    larger = inspector.inspect(picture(6, (112, 168)), answer=False)
    assert larger.anomaly_map[:, 84:].max() == 0
    assert larger.anomaly_map[:, :84].min() > 0


def test_a_region_that_is_the_whole_picture_changes_no_score(inspector):
    inspector.set_references([picture(0), picture(1)])
    expected = [inspector.inspect(picture(seed), answer=False).pred_score for seed in (2, 3)]
    inspector.set_references([picture(0), picture(1)], roi=np.ones(SIZE, bool))
    found = [inspector.inspect(picture(seed), answer=False).pred_score for seed in (2, 3)]
    # Synthetic anomalies lie at other places, so the threshold differs, by one factor.
    assert found[0] / expected[0] == pytest.approx(found[1] / expected[1], rel=1e-4)


def test_of_tiles_only_those_in_the_region_are_looked_at():
    inspector = AnomalyInspector(*tiny_pair(), tile=32)
    roi = np.zeros((64, 96), bool)
    roi[:20, :20] = True
    with CallCounter(inspector.model.model.vision_tower) as everywhere:
        inspector.set_references([picture(0, (64, 96))])
        whole = inspector.inspect(picture(1, (64, 96)), answer=False)
    with CallCounter(inspector.model.model.vision_tower) as inside:
        inspector.set_references([picture(0, (64, 96))], roi=roi)
        result = inspector.inspect(picture(1, (64, 96)), answer=False)
    assert inside.calls < everywhere.calls
    assert result.anomaly_map[~roi].max() == 0
    assert result.anomaly_map[roi].max() > 0
    assert whole.anomaly_map[~roi].max() > 0


def test_feedback_adds_what_lies_in_the_region_and_calibration_counts_it_alone(inspector):
    inspector.set_references([picture(0), picture(1)], roi=left_half())
    before = len(inspector.memory_bank.features[0])
    good = picture(7)
    inspector.feedback(inspector.inspect(good, answer=False), is_normal=True, image=good)
    rows, columns = inspector.memory_bank.grids[0]
    assert len(inspector.memory_bank.features[0]) - before == rows * (columns // 2 + 1)
    assert inspector.inspect(good, answer=False).anomaly_map.max() == pytest.approx(0, abs=1e-3)
    inspector.calibrate([picture(seed) for seed in range(10, 14)], progress=False)
    assert inspector.references.roi is not None
    assert inspector.inspect(picture(10), answer=False).pred_score <= 1 + 1e-4


# The part told from its ground


def on_mat(count: int = 2, share: float = 0.4) -> PatchFeatures:
    """Vectors of pictures whose middle is unlike their edge."""
    generator = torch.Generator().manual_seed(0)
    ground, part = torch.nn.functional.normalize(torch.randn(2, 32, generator=generator), dim=-1)
    side, half = 12, round(12 * share / 2)
    vectors = ground.repeat(count, side, side, 1)
    vectors[:, 6 - half : 6 + half, 6 - half : 6 + half] = part
    vectors = vectors + 0.02 * torch.randn(vectors.shape, generator=generator)
    return PatchFeatures(torch.nn.functional.normalize(vectors, dim=-1).flatten(1, 2), (side, side))


def test_a_part_on_a_mat_is_found_and_a_surface_that_fills_the_picture_is_not():
    layer = on_mat()
    with DtypeRecorder() as recorder:
        found = foreground(layer.vectors, layer.grid)
    assert torch.float64 not in recorder.dtypes  # not every GPU has it
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[4:8, 4:8] = True
    assert all(torch.equal(one, expected) for one in found)
    noise = torch.nn.functional.normalize(torch.randn(2, 144, 32, generator=torch.Generator().manual_seed(1)), dim=-1)
    assert foreground(noise, (12, 12)) is None
    assert foreground(torch.ones(1, 144, 4) / 2, (12, 12)) is None


def test_what_is_found_lies_in_the_pixels_of_the_first_picture_with_a_patch_around_it(inspector, monkeypatch):
    layer = on_mat(count=1)
    monkeypatch.setattr(inspector.model.model, "get_patch_features", lambda pixel_values: (layer,))
    found = inspector.find_foreground([picture(0, (120, 240))])
    assert found.shape == (120, 240)
    rows, columns = np.nonzero(found)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (30, 89, 60, 179)


def test_without_a_part_to_tell_it_is_said_what_to_do(inspector):
    with pytest.raises(ValueError, match=r"`images` must show a part on a ground that is unlike it.*Draw the region"):
        inspector.find_foreground([np.full((56, 56, 3), 90, np.uint8)])
    with pytest.raises(ValueError, match="`images` must hold at least one good picture, got none"):
        inspector.find_foreground([])
