"""The methods AnomalyGPT is compared with, against second implementations that spell every loop out."""

import json
import math
import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, CLIPVisionConfig, MobileNetV2Config

from modeling_anomalygpt.evaluation.baselines import (
    Backbone,
    Padim,
    PatchCore,
    PixelDifference,
    Spade,
    WindowTextScores,
    make_baselines,
    mean_map,
)
from modeling_anomalygpt.image_processing_anomalygpt import AnomalyGPTImageProcessor
from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from tests.tiny import TEXT_TOWER_CONFIG, VISION_CONFIG, enlivened, tiny_config, tiny_pair
from tests.tiny_processor import make_processor


def picture(seed, size=(28, 28)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


GOOD, QUERIES = [picture(seed) for seed in range(3)], [picture(seed, (28, 40)) for seed in (7, 8)]


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    fields = {name: value for name, value in VISION_CONFIG.items() if name != "model_type"}
    tower = enlivened(AutoModel.from_config(CLIPVisionConfig(**fields)).eval())
    return Backbone("tiny", tower, AnomalyGPTImageProcessor(size={"height": 28, "width": 28}), [2, 4])


def patches(backbone, images):
    """`(picture, row, column, dim)`, by loops over cells and their neighbours."""
    pixels = backbone.image_processor(images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        states = backbone.tower(pixels, output_hidden_states=True).hidden_states
    found = []
    for index in backbone.out_indices:
        cells = states[index][:, 1:].numpy().reshape(len(images), 4, 4, -1)
        averaged = np.zeros_like(cells)
        for row in range(4):
            for column in range(4):
                around = cells[:, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                averaged[:, row, column] = around.mean((1, 2))
        found.append(averaged / np.linalg.norm(averaged, axis=-1, keepdims=True))
    return np.concatenate(found, axis=-1)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def smoothed(distances, size):
    enlarged = cv2.resize(distances.astype(np.float32), (28, 28), interpolation=cv2.INTER_LINEAR)
    return cv2.GaussianBlur(enlarged, (0, 0), 28 * 4 / 224, borderType=cv2.BORDER_REPLICATE)


def in_pixels(backbone, anomaly_map, image):
    (found,) = backbone.image_processor.post_process_anomaly_map(anomaly_map[None], [(image.height, image.width)])
    return found


def test_patches_are_averaged_with_their_neighbours_and_joined(backbone):
    _, layer = backbone.features(GOOD)
    assert layer.grid == (4, 4)
    np.testing.assert_allclose(layer.vectors.numpy().reshape(3, 4, 4, -1), patches(backbone, GOOD), atol=1e-5)


def test_patchcore_scores_by_the_farthest_patch_weighted_by_its_neighbourhood(backbone):
    coreset = PatchCore(backbone)
    coreset.learn(iter(GOOD), "", "")
    assert (coreset.shots, len(coreset.bank)) == (("all",), math.ceil(4.8))
    detector = PatchCore(backbone, batch_size=2, coreset=False)
    detector.learn(GOOD, "", "")
    bank = unit(patches(backbone, GOOD)).reshape(48, -1)
    for image, found in zip(QUERIES, detector.detect(QUERIES), strict=True):
        query = unit(patches(backbone, [image])).reshape(16, -1)
        distances = np.array([min(np.linalg.norm(one - good) for good in bank) for one in query])
        far = int(distances.argmax())
        nearest = min(range(48), key=lambda index: np.linalg.norm(query[far] - bank[index]))
        around = sorted(range(48), key=lambda index: np.linalg.norm(bank[nearest] - bank[index]))[:9]
        total = sum(math.exp(np.linalg.norm(query[far] - bank[index])) for index in around)
        expected = (1 - math.exp(distances[far]) / total) * distances[far]
        assert found.score == pytest.approx(expected, abs=1e-4)
        assert found.anomaly_map.shape == (28, 40)
        expected_map = smoothed(distances.reshape(4, 4), image.size)
        assert found.anomaly_map.max() == pytest.approx(expected_map.max(), rel=0.02)


def test_spade_scores_by_the_nearest_pictures_as_wholes(backbone, monkeypatch):
    monkeypatch.setattr("modeling_anomalygpt.evaluation.baselines._SPADE_NEIGHBOURS", 2)
    detector = Spade(backbone)
    detector.learn(GOOD, "", "")
    wholes = backbone.features(GOOD)[0].numpy()
    good = unit(patches(backbone, GOOD)).reshape(3, 16, -1)
    for image, found in zip(QUERIES, detector.detect(QUERIES), strict=True):
        whole = backbone.features([image])[0].numpy()[0]
        apart = [np.linalg.norm(whole - one) for one in wholes]
        chosen = np.argsort(apart)[:2]
        assert found.score == pytest.approx(np.mean([apart[index] for index in chosen]), rel=1e-4)
        query = unit(patches(backbone, [image])).reshape(16, -1)
        bank = good[chosen].reshape(32, -1)
        distances = np.array([min(np.linalg.norm(one - row) for row in bank) for one in query]).reshape(4, 4)
        expected = in_pixels(backbone, smoothed(distances, image.size), image)
        np.testing.assert_allclose(found.anomaly_map, expected, atol=1e-3)


def test_padim_is_a_mahalanobis_distance_at_each_place(backbone):
    detector = Padim(backbone)
    detector.learn(GOOD, "", "")
    assert len(detector.dims) == 48  # all of them: fewer than 100
    good = patches(backbone, GOOD)
    for image, found in zip(QUERIES, detector.detect(QUERIES), strict=True):
        query, distances = patches(backbone, [image])[0], np.zeros((4, 4))
        for row in range(4):
            for column in range(4):
                cloud = good[:, row, column].astype(np.float64)
                spread = np.cov(cloud.T) + 0.01 * np.eye(48)
                apart = query[row, column] - cloud.mean(0)
                distances[row, column] = math.sqrt(apart @ np.linalg.solve(spread, apart))
        expected = smoothed(distances, image.size)
        assert found.score == pytest.approx(expected.max(), rel=1e-3)
        expected = in_pixels(backbone, expected, image)
        np.testing.assert_allclose(found.anomaly_map, expected, rtol=1e-3, atol=1e-3)
    detector.learn(GOOD[:1], "", "")
    same, other = detector.detect([GOOD[0], QUERIES[0]])
    assert same.score == pytest.approx(0, abs=1e-2)
    assert other.score > 1


def test_pixel_difference_is_that_from_the_nearest_good_pixel():
    detector = PixelDifference((28, 28))
    detector.learn(GOOD, "", "")
    image = picture(9)
    (found,) = detector.detect([image])
    pixels = [np.asarray(one, np.float64) / 255 for one in [image, *GOOD]]
    expected = np.min([np.abs(pixels[0] - good).mean(2) for good in pixels[1:]], axis=0)
    np.testing.assert_allclose(found.anomaly_map, expected, atol=1e-6)
    assert found.score == pytest.approx(expected.max())


def test_a_backbone_is_loaded_with_its_own_mean_size_and_layers_in_the_middle(tmp_path, backbone):
    transformer = backbone
    torch.manual_seed(0)
    AutoModel.from_config(MobileNetV2Config(depth_multiplier=0.1, finegrained_output=False)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    backbone = Backbone.load(tmp_path, 64)
    assert list(backbone.image_processor.image_mean) == [0.5] * 3
    assert len(backbone.out_indices) == 2
    _, layer = backbone.features([picture(0)])
    assert layer.grid == (8, 8)
    other = Backbone.load(tmp_path, 32).facts["checkpoint_hash"]
    assert backbone.facts["checkpoint_hash"] == Backbone.load(tmp_path, 64).facts["checkpoint_hash"] != other
    assert layer.vectors.shape[1] == 64
    transformer.tower.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    loaded = Backbone.load(tmp_path)
    assert (loaded.image_processor.size["height"], loaded.out_indices) == (28, [2, 3])


def test_a_backbone_of_the_hub_keeps_its_own_mean(tmp_path, backbone, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    place = tmp_path / "models--me--eyes"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0")
    backbone.tower.save_pretrained(place / "snapshots" / "0")
    settings = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (place / "snapshots" / "0" / "preprocessor_config.json").write_text(json.dumps(settings))
    images = Backbone.load("me/eyes").image_processor
    assert {"image_mean": list(images.image_mean), "image_std": list(images.image_std)} == settings


def test_what_is_no_vision_model_no_method_or_has_no_text_tower_is_refused(tmp_path, backbone):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=re.escape("`--backbone` must be a vision model, got")):
        Backbone.load(tmp_path, 64)
    model, processor = tiny_pair()
    inspector = type("Pair", (), {"model": model, "processor": processor})()
    with pytest.raises(ValueError, match="`--methods` must be among anomalygpt, patchcore, .*, got 'cutpaste'"):
        make_baselines(["cutpaste"], backbone, inspector)
    with pytest.raises(ValueError, match="`--methods` winclip needs a checkpoint with a text tower"):
        make_baselines(["winclip"], backbone, inspector)


def test_windows_cover_each_cell_and_are_averaged_by_loops():
    values = np.random.default_rng(0).uniform(0.1, 0.9, 16)
    expected = np.zeros((6, 6))
    for row in range(6):
        for column in range(6):
            covering = [
                values[top * 4 + left]
                for top in range(4)
                for left in range(4)
                if top <= row < top + 3 and left <= column < left + 3
            ]
            expected[row, column] = len(covering) / sum(1 / value for value in covering)
    np.testing.assert_allclose(1 / mean_map(1 / values, 3, 1), expected)
    assert np.allclose(mean_map(np.ones(25), 2, 1), 1)


def test_windows_are_scored_with_the_models_own_text_tower():
    processor = make_processor()
    text = TEXT_TOWER_CONFIG | {"vocab_size": len(processor.class_tokenizer), "max_position_embeddings": 128}
    config = tiny_config(text_tower_config=text)
    torch.manual_seed(0)
    model = AnomalyGPTForConditionalGeneration(config).eval()
    detector = WindowTextScores(model, processor)
    detector.learn([], "nut", "")
    assert detector.states.shape == (2, config.projection_dim)
    (without,) = detector.detect(QUERIES[:1])
    assert without.anomaly_map.shape == (28, 40)
    pixels = processor.image_processor(QUERIES[0], return_tensors="pt")["pixel_values"]
    inputs = processor(images=[QUERIES[0]], category="nut", return_tensors="pt")
    with torch.inference_mode():
        seen = model.get_image_features(
            pixels, inputs["state_prompt_ids"], inputs["state_prompt_labels"], return_dict=True
        )
    cosines = seen.image_embeds[0] @ detector.states.T / config.map_temperature
    assert without.score == pytest.approx(float(cosines.softmax(0)[1]), abs=1e-5)
    (by_words,) = detector.detect(GOOD[:1])
    detector.learn(GOOD, "nut", "")
    (same,) = detector.detect(GOOD[:1])
    assert same.score == pytest.approx(by_words.score / 2, abs=1e-4)
