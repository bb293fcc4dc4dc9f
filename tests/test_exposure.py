"""Pictures in another light than the references: brought back by one factor, or doubted where that is too great."""

import numpy as np
import pytest
import torch

from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.evaluation.detectors import AnomalyGPTDetector
from modeling_anomalygpt.references import Comparability, Traits, picture_brightness
from tests.tiny import tiny_pair

MEAN, STD = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.25, 0.2, 0.3])[:, None, None]
BLACK = (-MEAN / STD).flatten()


def normalised(pictures: torch.Tensor) -> torch.Tensor:
    return (pictures - MEAN) / STD


def comparability(light: tuple[float, float]) -> Comparability:
    return Comparability([[1.0, 0.0]], 0.1, light, -5.0)


def picture(seed: int, light: float = 1.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(110, 30, (40, 48, 3)).clip(0, 255)
    return (noise * light).astype(np.uint8)


@pytest.fixture
def inspector():
    inspector = AnomalyInspector(*tiny_pair())
    inspector.observer.match_exposure = True
    inspector.set_references([picture(0), picture(1)])
    return inspector


def test_a_dark_picture_is_multiplied_by_one_factor_into_the_light_of_the_references():
    pictures = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    bright, dark = normalised(pictures), normalised(0.5 * pictures)
    light = float(picture_brightness(bright))
    relit = comparability((light, light + 1)).relit(dark, BLACK)
    torch.testing.assert_close(relit, bright)


def test_a_bright_picture_is_brought_to_the_upper_end():
    pictures = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    light = float(picture_brightness(normalised(0.6 * pictures)))
    relit = comparability((light - 1, light)).relit(normalised(pictures), BLACK)
    torch.testing.assert_close(relit, normalised(0.6 * pictures))


def test_pictures_within_the_light_of_the_references_stay_as_they_are():
    pixels = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert comparability((-2.0, 2.0)).relit(pixels, BLACK).equal(pixels)
    light = float(picture_brightness(pixels).max()) + 0.25
    assert (
        comparability((light, light))
        .relit(pixels[picture_brightness(pixels).argmax()][None], BLACK)
        .equal(pixels[picture_brightness(pixels).argmax()][None])
    ), "a little darker is no other light"


def test_light_is_multiplied_by_no_more_than_two_and_a_half():
    pictures = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    light = float(picture_brightness(normalised(pictures)))
    relit = comparability((light, light)).relit(normalised(0.1 * pictures), BLACK)
    torch.testing.assert_close(relit, normalised(0.25 * pictures))


def test_what_surrounds_a_letterboxed_picture_is_neither_counted_nor_changed():
    pictures = torch.rand(1, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    bright, dark = (torch.nn.functional.pad(normalised(factor * pictures), (0, 0, 2, 2)) for factor in (1.0, 0.5))
    light = float(picture_brightness(bright))
    torch.testing.assert_close(comparability((light, light + 1)).relit(dark, BLACK), bright)


def test_half_precision_stays_half_precision():
    pixels = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16() - 2
    assert comparability((0.0, 1.0)).relit(pixels, BLACK).dtype == torch.bfloat16


@pytest.mark.parametrize(("difference", "matched", "doubted"), [(0.7, False, False), (1.0, False, True),
                                                                (1.0, True, False), (1.6, True, True)])  # fmt: skip
def test_matched_light_may_differ_more_before_it_is_doubted(difference, matched, doubted):
    for brightness in (-difference, 1 + difference):
        traits = Traits(torch.tensor([[1.0, 0.0]]), torch.tensor([brightness]), torch.tensor([0.0]))
        assert comparability((0.0, 1.0)).doubts(traits, matched) == [["exposure"] if doubted else []]


def test_a_reference_in_half_the_light_is_nearly_as_good_as_itself(inspector):
    as_it_was, dark = (inspector.inspect(picture(0, light), answer=False).pred_score for light in (1.0, 0.5))
    inspector.observer.match_exposure = False
    unmatched = inspector.inspect(picture(0, 0.5), answer=False).pred_score
    assert abs(dark - as_it_was) < 0.3 * abs(unmatched - as_it_was)


@pytest.mark.parametrize(("language", "words"), [("en", "compared in their light"), ("zh", "参考图片的亮度")])
def test_the_reasons_say_whose_light_was_changed(inspector, language, words):
    options = {"batch_size": 2, "answer": False, "progress": False, "language": language}
    plain, dark = inspector.inspect_many([picture(2), picture(3, 0.5)], **options)
    told = [[one["text"] for one in result.evidence["reasons"] if words in one["text"]] for result in (plain, dark)]
    assert [len(one) for one in told] == [0, 1]


def test_each_picture_of_a_batch_gets_its_own_light(inspector):
    pictures = [picture(2), picture(3, 0.4), picture(4, 1.4)]
    together = inspector.inspect_many(pictures, batch_size=3, answer=False, progress=False)
    for one, shown in zip(together, pictures, strict=True):
        assert one.pred_score == pytest.approx(inspector.inspect(shown, answer=False).pred_score, rel=1e-4)


def test_a_dark_picture_that_feedback_calls_good_is_good_afterwards(inspector):
    dark = picture(7, 0.5)
    result = inspector.inspect(dark, answer=False)
    inspector.feedback(result, is_normal=True, picture=dark)
    assert inspector.inspect(dark, answer=False).anomaly_map.max() == pytest.approx(0, abs=1e-3)
    assert result.anomaly_map.max() > 1e-2


def test_without_references_and_under_the_papers_protocol_light_is_left_alone(inspector):
    plain = AnomalyInspector(*tiny_pair())
    by_text = plain.inspect(picture(2, 0.5), answer=False).anomaly_map
    np.testing.assert_array_equal(
        by_text, inspector.inspect(picture(2, 0.5), localization="text", answer=False).anomaly_map
    )
    AnomalyGPTDetector(inspector, published=True)
    assert not inspector.observer.match_exposure
