"""Distillation of vision features: against hand-worked numbers, a stopped run, and real errors."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel

from recipes.tiny.distillation import (
    DistillationArguments,
    FeatureDistiller,
    PictureCache,
    distill,
    feature_map,
    learning_rate_factor,
    random_crops,
    recalibrate_batch_norm,
)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, size=(6, 6, 5, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(picture).resize((50, 60), Image.Resampling.BICUBIC)) for picture in coarse]


def tiny_resnet(seed, sizes=(8, 12, 16)):
    torch.manual_seed(seed)
    config = ResNetConfig(layer_type="basic", embedding_size=8, hidden_sizes=list(sizes), depths=[1, 1, 1])
    return ResNetModel(config)


def tiny_vit():
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return ViTModel(ViTConfig(image_size=32, patch_size=8, **sizes), add_pooling_layer=False)


def arguments(**changes):
    values = {"steps": 6, "batch_size": 4, "crop_size": 32, "calibration_batches": 2, "seed": 3}
    return DistillationArguments(**{"layer_pairs": ((2, 2), (3, 3)), **values, **changes})


def test_the_loss_falls_and_both_layers_take_part(images):
    logs = []
    config = arguments(steps=60, learning_rate=1e-2)
    distill(tiny_resnet(1), tiny_resnet(2), images, config, log_steps=20, on_log=logs.append)
    assert [log["step"] for log in logs] == [20, 40, 60]
    for name in ("loss", "loss_0", "loss_1"):
        assert logs[-1][name] < 0.9 * logs[0][name]
    assert logs[-1]["loss"] == pytest.approx((logs[-1]["loss_0"] + logs[-1]["loss_1"]) / 2)


def test_a_stopped_run_goes_on_to_the_same_bits(images, tmp_path):
    whole, stopped = tiny_resnet(2), tiny_resnet(2)
    expected = distill(tiny_resnet(1), whole, images, arguments(), tmp_path / "whole", save_steps=2)

    def stop(log):
        if log["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(tiny_resnet(1), stopped, images, arguments(), tmp_path / "run", 2, log_steps=1, on_log=stop)
    steps = []
    again = tiny_resnet(9)
    torch.manual_seed(77)
    noted = lambda log: steps.append(log["step"])  # noqa: E731
    got = distill(tiny_resnet(1), again, images, arguments(), tmp_path / "run", 2, 1, on_log=noted)
    assert steps == [5, 6]
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, got[name])
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_the_loss_is_smooth_l1_of_standardised_teacher_features(images):
    distiller = FeatureDistiller(tiny_resnet(1), tiny_resnet(2), arguments(autocast=None), images)
    crops = random_crops(images, distiller.arguments, 0)
    source = distiller.student_maps(crops)[0]
    seen = torch.cat([distiller.teacher_maps(random_crops(images, distiller.arguments, -1 - i))[0] for i in range(2)])
    flat = seen.permute(1, 0, 2, 3).reshape(seen.shape[1], -1).double()
    target = distiller.teacher_maps(crops)[0].double()
    std = torch.maximum(flat.std(1), 0.05 * flat.std(1).mean())
    target = (target - flat.mean(1)[:, None, None]) / std[:, None, None]
    head = distiller.heads[0]
    guess = torch.einsum("bchw,dc->bdhw", source.double(), head.weight[:, :, 0, 0].double())
    difference = (guess + head.bias.double()[:, None, None] - target).abs()
    expected = torch.where(difference < 1, difference**2 / 2, difference - 0.5).mean()
    torch.testing.assert_close(distiller(crops)[0].double(), expected, rtol=1e-4, atol=1e-5)


def test_a_teacher_of_tokens_with_another_grid_and_input_size_serves_as_well(images):
    logs = []
    config = arguments(layer_pairs=((2, 1), (-1, -1)), steps=30, teacher_size=32, crop_size=48, learning_rate=1e-2)
    distill(tiny_vit(), tiny_resnet(2), images, config, log_steps=10, on_log=logs.append)
    assert logs[-1]["loss"] < logs[0]["loss"]


@pytest.mark.parametrize(("prefix", "patch_size"), [(0, None), (1, None), (5, None), (1, 8), (5, 8)])
def test_tokens_become_the_map_they_came_from(prefix, patch_size):
    expected = torch.randn(2, 7, 6, 6)
    tokens = expected.flatten(2).transpose(1, 2)
    hidden_state = torch.cat([torch.full((2, prefix, 7), 9.0), tokens], dim=1)
    assert torch.equal(feature_map(hidden_state, 48, patch_size), expected)


def test_crops_depend_on_seed_and_step_alone(images):
    first = random_crops(images, arguments(), 4)
    np.random.seed(5)
    torch.manual_seed(6)
    assert torch.equal(first, random_crops(images, arguments(), 4))
    assert not torch.equal(first, random_crops(images, arguments(), 5))
    assert not torch.equal(first, random_crops(images, arguments(), -4))
    assert not torch.equal(first, random_crops(images, arguments(seed=4), 4))


def test_without_variation_a_crop_is_a_window_of_its_picture(images):
    plain = {"brightness": 0, "contrast": 0, "tint": 0, "grayscale": 0, "turns": False, "crop_scale": (1, 1)}
    crops = random_crops(images, arguments(**plain), 0)
    assert crops.shape == (4, 3, 32, 32)
    for crop in (crops * 255).round().byte().permute(0, 2, 3, 1).numpy():
        windows = [np.lib.stride_tricks.sliding_window_view(image, (32, 32), axis=(0, 1)) for image in images]
        found = [(window == crop.transpose(2, 0, 1)).all(axis=(2, 3, 4)).any() for window in windows]
        assert sum(found) == 1


def test_batch_norm_statistics_are_plain_means_over_the_calibration_batches(images):
    distiller = FeatureDistiller(tiny_resnet(1), tiny_resnet(2), arguments(), images)
    student = distiller.student
    recalibrate_batch_norm(distiller, images)
    stem = student.embedder.embedder
    means = []
    for i in range(2):
        crops = random_crops(images, distiller.arguments, -1 - i)
        mean, std = (torch.tensor(getattr(distiller.arguments, f"student_{name}")) for name in ("mean", "std"))
        pixel_values = (crops - mean[:, None, None]) / std[:, None, None]
        means.append(stem.convolution(pixel_values).mean(dim=(0, 2, 3)))
    torch.testing.assert_close(stem.normalization.running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
    assert not student.training
    assert all(module.momentum == 0.1 for module in student.modules() if isinstance(module, nn.BatchNorm2d))


def test_the_learning_rate_rises_and_falls_to_zero():
    factors = [learning_rate_factor(step, arguments(steps=100, warmup_share=0.1)) for step in range(101)]
    torch.testing.assert_close(factors[:10], [(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert all(one > two for one, two in zip(factors[10:], factors[11:], strict=False))


def test_the_cache_gives_the_pictures_back_and_is_opened_the_second_time(images, tmp_path):
    files = []
    for i, image in enumerate(images):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(files[-1])
    cache = PictureCache.build(files, tmp_path / "cache", short_side=50)
    assert len(cache) == len(images)
    for one, two in zip(cache, images, strict=True):
        np.testing.assert_array_equal(one, two)
    files[0].unlink()
    np.testing.assert_array_equal(PictureCache.build(files, tmp_path / "cache")[5], images[5])
    small = PictureCache.build(files[1:], tmp_path / "small", short_side=25)
    assert {picture.shape for picture in small} == {(30, 25, 3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_pairs": ()}, r"`layer_pairs` must be at least one pair, got \(\)\."),
        ({"steps": 0}, r"`steps` must be at least 1, got 0\."),
        ({"crop_scale": (2, 1)}, r"`crop_scale` must be two positive factors in rising order, got \(2\.0, 1\.0\)\."),
        ({"autocast": "int8"}, r"`autocast` must be None or 'bfloat16', got 'int8'\."),
        ({"ema_decay": 1.0}, r"`ema_decay` must be in \[0, 1\), got 1\.0\."),
        ({"layer_pairs": ((2, 9),)}, r"`layer_pairs` must be of existing layers, got teacher layer 9 of 4\."),
    ],
)
def test_wrong_arguments_are_named(images, change, message):
    with pytest.raises(ValueError, match=message):
        distill(tiny_resnet(1), tiny_resnet(2), images, arguments(**change))


def test_what_cannot_be_trained_on_or_taken_up_is_named(images, tmp_path):
    distill(tiny_resnet(1), tiny_resnet(2), images, arguments(steps=1), tmp_path)
    file = tmp_path / "arguments.json"
    file.write_text(json.dumps({**dataclasses.asdict(arguments()), "stepz": 3}))
    for call, message in (
        (lambda: distill(tiny_resnet(1), tiny_resnet(2), [], arguments()), "`images` must be at least one picture"),
        (lambda: PictureCache.build([], tmp_path), "`files` must be at least one picture, got none"),
        (
            lambda: distill(tiny_resnet(1), tiny_resnet(2), images, arguments(steps=2), tmp_path),
            "Choose another output",
        ),
        (lambda: feature_map(torch.zeros(2, 5), 32), r"must be of 3 or 4 dimensions, got shape \(2, 5\)"),
        (lambda: DistillationArguments.from_json(file), r"must be a file of known arguments, got \['stepz'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
