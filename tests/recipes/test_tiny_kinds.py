"""The head for kinds of defects: how it learns, how sure it may be, from which probability on a kind is named."""

import pytest
import torch

from modeling_anomalygpt.regions import DEFECT_KINDS
from recipes.tiny.kinds import confidence_needed, temperature_of, trained


def test_a_head_learns_what_tells_kinds_apart_whatever_the_scale_of_the_features():
    torch.manual_seed(3)
    kinds = torch.arange(180) % len(DEFECT_KINDS)
    told = torch.randn(len(DEFECT_KINDS), 8)[kinds] + 0.1 * torch.randn(180, 8)
    scales, offset = torch.logspace(-3, 3, 8), torch.linspace(-5, 5, 8)
    head = trained(told * scales + offset, kinds, [4])
    assert (head(told * scales + offset).argmax(1) == kinds).float().mean() > 0.9
    again = trained(told * scales + offset, kinds, [4])
    assert torch.equal(head.hidden.weight, again.hidden.weight)


def test_log_odds_that_are_too_sure_are_divided_by_what_makes_them_as_sure_as_they_are_right():
    generator = torch.Generator().manual_seed(0)
    odds = torch.randn(20000, 9, generator=generator)
    kinds = torch.multinomial(odds.softmax(1), 1, generator=generator)[:, 0]
    for factor in (1.0, 4.0):
        assert temperature_of(odds * factor, kinds) == pytest.approx(factor, rel=0.1)


def test_by_hand_the_lowest_probability_from_which_enough_names_are_right():
    confidences, right = [0.9, 0.8, 0.7, 0.6], [True, True, False, True]
    probabilities = torch.tensor([[value, 1 - value] for value in confidences])
    kinds = torch.tensor([0 if ok else 1 for ok in right])
    for asked, expected in ((1.0, 0.8), (0.75, 0.6), (0.7, 0.6)):
        assert confidence_needed(probabilities, kinds, asked) == pytest.approx(expected)
    assert confidence_needed(probabilities, 1 - kinds, 0.9) == 1.0
