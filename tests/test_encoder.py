"""Tiles cover an image and merge without steps; a patch of a reference is its own nearest good one."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.encoder import merge_tile_maps, tile_boxes
from modeling_anomalygpt.regions import DEFECT_KINDS
from tests.tiny import TEXT_TOWER_CONFIG, tiny_pair
from tests.tiny_processor import byte_tokenizer

sides = st.integers(1, 60)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(1, 40))
def test_tiles_cover_the_picture_have_one_size_and_overlap_by_a_quarter(height, width, tile):
    boxes = tile_boxes(height, width, tile)
    covered = np.zeros((height, width), int)
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert (y1 - y0, x1 - x0) == (min(tile, height), min(tile, width))
        covered[y0:y1, x0:x1] += 1
    assert covered.min() >= 1
    for start, end in ((0, 2), (1, 3)):
        spans = sorted({(box[start], box[end]) for box in boxes})
        assert all(left[1] - right[0] >= tile // 4 for left, right in zip(spans, spans[1:], strict=False))


@settings(max_examples=40, deadline=None)
@given(sides, sides, st.integers(2, 40), st.integers(0, 2**31 - 1))
def test_tiles_that_agree_give_back_the_map_they_were_cut_from(height, width, tile, seed):
    whole = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    boxes = tile_boxes(height, width, tile)
    merged = merge_tile_maps([whole[y0:y1, x0:x1] for x0, y0, x1, y1 in boxes], boxes, (height, width))
    np.testing.assert_allclose(merged, whole, rtol=1e-5, atol=1e-6)


def test_tiles_that_disagree_leave_no_step():
    boxes = tile_boxes(40, 100, tile=40)
    levels = np.random.default_rng(0).random(len(boxes))
    merged = merge_tile_maps([np.full((40, 40), level) for level in levels], boxes, (40, 100))
    assert merged.min() >= levels.min() - 1e-6
    assert merged.max() <= levels.max() + 1e-6
    assert np.abs(np.diff(merged, axis=1)).max() < 2 * np.ptp(levels) / 10
    assert np.abs(np.diff(merged, axis=0)).max() < 1e-6


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8))


@pytest.fixture
def inspector() -> AnomalyInspector:
    inspector = AnomalyInspector(*tiny_pair())
    inspector.set_references([noise(0), noise(1)])
    return inspector


def test_a_reference_is_its_own_nearest_good_patch_unless_feedback_added_it(inspector):
    encoder, references = inspector.encoder, inspector.references
    (seen,) = encoder.encode([noise(1)], references, "object", "auto")
    for x, y in ((3, 3), (24, 20), (44, 36)):
        nearest = encoder.nearest_good(seen.patches, references, (40, 48), x, y)
        assert nearest["reference"] == 1
        assert nearest["box"][0] <= (x + 0.5) / 48 <= nearest["box"][2]
        assert nearest["box"][1] <= (y + 0.5) / 40 <= nearest["box"][3]
    inspector.feedback(inspector.inspect(noise(7), answer=False), is_normal=True, image=noise(7))
    (seen,) = encoder.encode([noise(7)], inspector.references, "object", "auto")
    assert encoder.nearest_good(seen.patches, inspector.references, (40, 48), 20, 20) is None
    assert inspector.num_references == 3


def test_what_is_told_of_a_defect_is_as_by_hand_its_patches_and_how_they_differ_from_the_nearest_good_ones(inspector):
    encoder, references = inspector.encoder, inspector.references
    (seen,) = encoder.encode([noise(2)], references, "object", "auto")
    region = np.zeros((40, 48), bool)
    region[:20, :24] = True
    told, expected = encoder.defect_features(seen.patches, references, region), []
    for layer, good in zip(seen.patches, references.bank.features, strict=True):
        rows, columns = layer.grid
        vectors = layer.vectors / layer.vectors.norm(dim=1, keepdim=True)
        inside = [row * columns + column for row in range(rows // 2) for column in range(columns // 2)]
        nearest = [max(good, key=lambda one, patch=patch: float(vectors[patch] @ one)) for patch in inside]
        expected += [vectors[inside].mean(0), (vectors[inside] - torch.stack(nearest)).mean(0)]
    torch.testing.assert_close(told, torch.cat(expected), rtol=1e-4, atol=1e-5)
    assert encoder.defect_features((), references, region) is None


def test_a_kind_is_named_only_by_a_model_that_has_a_head_for_it_and_only_from_the_asked_confidence_on():
    for width, confidence, named in ((0, 0.0, False), (4, 0.0, True), (4, 1.0, False)):
        model, processor = tiny_pair(kind_width=width, decision={"kind_confidence": confidence})
        inspector = AnomalyInspector(model, processor)
        inspector.set_references([noise(0), noise(1)])
        strict = replace(inspector.references.bank, threshold=1e-3)
        inspector.references = replace(inspector.references, bank=strict)
        regions = inspector.inspect(noise(3), answer=False).regions
        assert regions
        assert all((region.kind in DEFECT_KINDS) == named for region in regions)


def test_a_reference_that_is_inspected_is_told_to_be_one(inspector):
    results = [inspector.inspect(image, answer=False) for image in (noise(1), noise(2))]
    kinds = [[reason["kind"] for reason in result.evidence["reasons"]] for result in results]
    assert [row[0] == "is_reference" for row in kinds] == [True, False]
    assert "one of the good pictures itself" in results[0].evidence["reasons"][0]["text"]


def test_references_and_queries_go_through_the_vision_model_once(inspector):
    tower, seen = inspector.model.model.vision_tower, []
    tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    inspector.set_references([noise(0), noise(1), noise(2)])
    assert sum(seen) == 3 + 4 + 4, "each reference, four views, and four views with synthetic anomalies"
    seen.clear()
    inspector.inspect(noise(1), answer=False)
    assert seen == [1]


def test_state_vectors_are_remembered_but_not_of_any_number_of_categories(monkeypatch):
    monkeypatch.setattr("modeling_anomalygpt.encoder._CATEGORIES_KEPT", 3)
    words = byte_tokenizer()
    text = TEXT_TOWER_CONFIG | {"vocab_size": len(words), "max_position_embeddings": 128}
    model, processor = tiny_pair(text_tower_config=text)
    processor.class_tokenizer = words
    made, embed = [], model.model.get_text_embeds

    def embedded(*prompts):
        embeds = embed(*prompts)
        made.append(weakref.ref(embeds))
        return embeds

    monkeypatch.setattr(model.model, "get_text_embeds", embedded)
    inspector = AnomalyInspector(model, processor)

    def highest(number):
        return inspector.inspect(noise(0), category=f"part {number}", answer=False).anomaly_map.max()

    scores = [highest(number) for number in (0, 0, 1, 2)]
    assert scores[0] == scores[1] != scores[2]
    assert len(made) == 3
    for number in range(3, 8):
        highest(number)
    assert sum(embeds() is not None for embeds in made) <= 3
    assert highest(0) == scores[0]
