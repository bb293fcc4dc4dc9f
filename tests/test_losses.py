"""Pixel losses against a loop over pixels and against what is known of perfect and useless maps."""

import math

import pytest
import torch

from modeling_anomalygpt.modeling_anomalygpt import dice_loss, focal_loss, pixel_losses


def naive_focal(probability, target, gamma=2.0, smooth=1e-5):
    losses = []
    for sample, mask in zip(probability.tolist(), target.tolist(), strict=True):
        terms = []
        for row in range(len(mask)):
            for column in range(len(mask[0])):
                wanted = int(mask[row][column])
                one_hot = [smooth, smooth]
                one_hot[wanted] = 1 - smooth
                agreement = sum(one_hot[state] * sample[state][row][column] for state in (0, 1)) + smooth
                terms.append(-((1 - agreement) ** gamma) * math.log(agreement))
        losses.append(sum(terms) / len(terms))
    return torch.tensor(losses)


def random_maps():
    probability = torch.randn(3, 2, 5, 6).softmax(1)
    target = (torch.rand(3, 5, 6) > 0.6).float()
    return probability, target


def test_focal_loss_equals_a_loop_over_the_pixels():
    probability, target = random_maps()
    torch.testing.assert_close(focal_loss(probability, target), naive_focal(probability, target))


def test_dice_loss_of_a_hand_worked_map():
    probability = torch.tensor([[[0.5, 1.0], [0.0, 0.0]]])
    target = torch.tensor([[[1.0, 1.0], [0.0, 1.0]]])
    torch.testing.assert_close(dice_loss(probability, target), torch.tensor([1 - (2 * 1.5 + 1) / (1.5 + 3 + 1)]))


def test_perfect_maps_cost_almost_nothing_and_inverted_ones_much():
    _, target = random_maps()
    perfect = torch.stack([1 - target, target], dim=1)
    assert focal_loss(perfect, target).max() < 1e-6
    assert dice_loss(perfect[:, 1], target).max() < 1e-6
    assert focal_loss(1 - perfect, target).min() > 5


def test_an_empty_target_that_is_met_costs_no_dice():
    torch.testing.assert_close(dice_loss(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)), torch.zeros(1))


def test_pixel_losses_sum_over_layers_and_skip_samples_without_target():
    layers = torch.randn(3, 4, 2, 5, 6).softmax(2)
    target = (torch.rand(3, 5, 6) > 0.6).float()
    target[1] = -1
    losses = pixel_losses(layers, target)
    kept = [0, 2]
    expected = sum(focal_loss(layers[kept, layer], target[kept]).mean() for layer in range(4))
    torch.testing.assert_close(losses["focal"], expected)
    expected = sum(dice_loss(layers[kept, layer, 1], target[kept]).mean() for layer in range(4))
    torch.testing.assert_close(losses["dice"], expected)


def test_a_batch_without_any_target_costs_nothing_but_keeps_the_graph():
    layers = torch.randn(2, 1, 2, 4, 4, requires_grad=True)
    losses = pixel_losses(layers, torch.full((2, 4, 4), -1))
    (losses["focal"] + losses["dice"]).backward()
    torch.testing.assert_close(layers.grad, torch.zeros_like(layers))


def test_a_pixel_target_without_layer_maps_is_refused():
    with pytest.raises(ValueError, match="`mask_labels` must come with pictures whose layer maps are known, got none"):
        pixel_losses(None, torch.zeros(1, 4, 4))
