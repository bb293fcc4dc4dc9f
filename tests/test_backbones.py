"""Any vision model and any language model of transformers: maps, answers, files."""

import pytest
import torch
from transformers import PreTrainedConfig

from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration, new_text_tower
from tests.tiny import TEXT_CONFIG, lively_model, tiny_inputs

TOKENS = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 2}
SQUARE = {"image_size": 28, "patch_size": 7}
REGISTERS = {"num_register_tokens": 3} | TOKENS | SQUARE
CLIP = {"model_type": "clip_vision_model"} | TOKENS | SQUARE

# name: (configuration, layers, size of the picture, grids of the layers, width of the pooled output)
VISION_MODELS = {
    "clip": (CLIP, [2, 4], (42, 28), [(6, 4)] * 2),
    "siglip": ({"model_type": "siglip_vision_model"} | TOKENS | SQUARE, [2, 4], (42, 28), [(6, 4)] * 2),
    "siglip2": (
        {"model_type": "siglip2_vision_model", "num_patches": 16, "patch_size": 7} | TOKENS,
        [2, 4],
        (42, 28),
        [(6, 4)] * 2,
    ),
    "dinov2": ({"model_type": "dinov2"} | TOKENS | SQUARE, [2, 4], (42, 28), [(6, 4)] * 2),
    "dinov2 with registers": ({"model_type": "dinov2_with_registers"} | REGISTERS, [2, 4], (42, 28), [(6, 4)] * 2),
    "dinov3": ({"model_type": "dinov3_vit"} | REGISTERS, [2, 4], (42, 28), [(6, 4)] * 2),
    "convnext": (
        {"model_type": "convnext", "hidden_sizes": [8, 12, 16], "depths": [1, 1, 1], "num_stages": 3},
        [1, 2, 3],
        (48, 32),
        [(12, 8), (6, 4), (3, 2)],
    ),
    "mobilenet v2": (
        {"model_type": "mobilenet_v2", "depth_multiplier": 0.25, "image_size": 32, "tf_padding": False},
        [2, 5],
        (64, 32),
        [(8, 4), (4, 2)],
    ),
    "swin": (
        {"model_type": "swin", "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
        | {"image_size": 32, "patch_size": 4},
        [0, 1],
        (48, 32),
        [(12, 8), (6, 4)],
    ),
    "resnet": (
        {
            "model_type": "resnet",
            "embedding_size": 8,
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
            "layer_type": "basic",
        },
        [1, 2],
        (48, 32),
        [(12, 8), (6, 4)],
    ),
}
LANGUAGE_MODELS = {
    "qwen3": TEXT_CONFIG | {"model_type": "qwen3", "head_dim": 8, "tie_word_embeddings": True},
    "gemma3": TEXT_CONFIG
    | {"model_type": "gemma3_text", "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "smollm3": TEXT_CONFIG | {"model_type": "smollm3"},
}


def without_tower(vision_config, text_config, out_indices) -> AnomalyGPTForConditionalGeneration:
    return lively_model(
        vision_config=vision_config, text_config=text_config, text_tower_config=None, out_indices=out_indices
    )


def check(model: AnomalyGPTForConditionalGeneration, size: tuple[int, int], grids: list, folder) -> None:
    inputs = tiny_inputs(model.config)
    inputs["pixel_values"] = torch.randn(2, 3, *size)
    references = torch.randn(2, 1, 3, *size)
    with torch.no_grad():
        features = model.get_image_features(inputs["pixel_values"])
        by_reference = model(**inputs, reference_pixel_values=references)
        alone = model(**{name: tensor[:1] for name, tensor in inputs.items()})
    assert [layer.grid for layer in features.patch_features] == grids
    assert features.image_embeds.shape == (2, 20)
    for anomaly_map in (features.anomaly_map, by_reference.anomaly_map):
        assert anomaly_map.shape == (2, 28, 28)
        assert torch.isfinite(anomaly_map).all()
        assert (anomaly_map.flatten(1).std(1) > 1e-4).all()
    torch.testing.assert_close(alone.anomaly_map[0], features.anomaly_map[0], atol=1e-4, rtol=1e-3)

    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    answer = model.generate(**inputs, **options)
    assert torch.equal(model.generate(**inputs, **options, use_cache=False), answer)
    model.save_pretrained(folder)
    loaded, info = AnomalyGPTForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert torch.equal(loaded.generate(**inputs, **options), answer)


@pytest.mark.parametrize("name", VISION_MODELS)
def test_any_vision_model_gives_maps_and_answers(name, tmp_path):
    vision_config, out_indices, size, grids = VISION_MODELS[name]
    check(without_tower(vision_config, TEXT_CONFIG, out_indices), size, grids, tmp_path)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_any_language_model_answers(name, tmp_path):
    check(without_tower(CLIP, LANGUAGE_MODELS[name], [2, 4]), (28, 28), [(4, 4)] * 2, tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("name", ["clip", "dinov2 with registers", "dinov3", "siglip", "siglip2", "swin", "convnext"])
def test_patch_vectors_lie_where_the_picture_has_them(name):
    """Of the embeddings, those under a changed corner change, and no other."""
    vision_config, _, size, _ = VISION_MODELS[name]
    model = without_tower(vision_config, TEXT_CONFIG, [0])
    picture = torch.randn(1, 3, *size)
    changed = picture.clone()
    changed[:, :, -7:, :7] += 3  # bottom left
    before, after = (model.get_image_features(pixels).patch_features[0] for pixels in (picture, changed))
    difference = (before.vectors - after.vectors)[0].norm(dim=-1).view(before.grid)
    rows, columns = difference.nonzero(as_tuple=True)
    patch = size[0] // before.grid[0]
    covered = -(-7 // patch)
    assert sorted(rows.unique().tolist()) == list(range(before.grid[0] - covered, before.grid[0]))
    assert sorted(columns.unique().tolist()) == list(range(covered))


@torch.no_grad()
def test_a_size_that_is_no_multiple_of_the_patch_is_seen_without_its_rest():
    model = without_tower(CLIP, TEXT_CONFIG, [2, 4])
    picture = torch.randn(1, 3, 30, 33)
    assert model.get_image_features(picture).patch_features[0].grid == (4, 4)


def test_a_text_tower_that_transformers_has_not_is_refused():
    class NobodysConfig(PreTrainedConfig):
        model_type = "nobodys"

    with pytest.raises(ValueError, match="`text_tower_config` must be of a text encoder .*, got 'nobodys'"):
        new_text_tower(NobodysConfig())
