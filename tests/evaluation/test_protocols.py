"""Protocols against what the published scripts do, written out by hand."""

import re

import numpy as np
import pytest
from PIL import Image

from modeling_anomalygpt.evaluation.protocols import Protocol
from modeling_anomalygpt.image_processing_anomalygpt import AnomalyGPTImageProcessor


def picture(height, width):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(("dataset", "first"), [("mvtec_ad", 12), ("visa", 56), ("anomaly_folder", 0)])
def test_published_references_are_consecutive_from_four_times_the_round(dataset, first):
    protocol = Protocol("paper", dataset, (224, 224))
    (round_,) = protocol.usual_seeds
    assert protocol.references(100, 2, round_) == [first, first + 1]
    assert protocol.references(100, 4, round_ + 1) == [first + 4, first + 5, first + 6, first + 7]


@pytest.mark.parametrize(("available", "k_shot"), [(30, 1), (30, 4), (10, 3), (3, 1), (5, 5)])
def test_seeds_share_no_reference_while_there_are_enough(available, k_shot):
    protocol = Protocol("ours", "visa", (224, 224))
    assert protocol.usual_seeds == [0, 1, 2]
    draws = [protocol.references(available, k_shot, seed) for seed in range(available // k_shot)]
    drawn = [one for draw in draws for one in draw]
    assert len(set(drawn)) == len(drawn) == available // k_shot * k_shot
    assert set(drawn) <= set(range(available))
    beyond = protocol.references(available, k_shot, available // k_shot)  # all are used: another order begins
    assert len(set(beyond)) == k_shot


@pytest.mark.parametrize(
    ("arguments", "references", "message"),
    [
        (("ours", "visa"), (3, 4, 0), "`--k-shot` must be at most 3, the good pictures there are, got 4"),
        (("paper", "mvtec_ad"), (13, 2, 3), "must be at most 1, the good pictures there are from number 12 on"),
        (("theirs", "visa"), (3, 1, 0), "`protocol` must be one of ours, paper, got 'theirs'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, references, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Protocol(*arguments, (224, 224)).references(*references)


@pytest.mark.parametrize("size", [(40, 40), (40, 61), (61, 40), (20, 30)])
def test_the_published_geometry_is_the_processors_center_crop_and_ours_leaves_pictures_alone(size):
    paper, ours = (Protocol(name, "visa", (28, 28)) for name in ("paper", "ours"))
    processor = AnomalyGPTImageProcessor(size={"height": 28, "width": 28}, geometry="center_crop")
    image, mask = picture(*size), np.eye(*size, dtype=bool)
    cropped = paper.picture(image)
    assert cropped.size == (28, 28)
    expected = processor(image, return_tensors="np")["pixel_values"]
    got = AnomalyGPTImageProcessor(size={"height": 28, "width": 28})(cropped, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert ours.picture(image) is image
    assert ours.mask(mask) is mask


def test_published_masks_keep_cells_of_which_more_than_a_tenth_is_defect():
    # Antialiasing is a triangle of four pixels to each side: the cell itself gets .75 of its weight along each axis
    # from the square, its neighbours .125 / 1 inside and .125 / .875 at the border:
    # .75 * .143 = .107, .75 * .125 = .094.
    mask = np.zeros((16, 16), bool)
    mask[4:8, 4:8] = True
    small = Protocol("paper", "mvtec_ad", (4, 4)).mask(mask)
    assert np.argwhere(small).tolist() == [[0, 1], [1, 0], [1, 1]]
    half = Protocol("paper", "visa", (4, 4)).mask(mask)
    assert half.sum() == 1


def test_the_original_takes_the_first_name_of_its_list_that_occurs_in_the_question():
    paper, ours = (Protocol(name, "visa", (28, 28)) for name in ("paper", "ours"))
    assert (paper.words("pipe_fryum")[0], ours.words("pipe_fryum")[0]) == ("fryum", "pipe_fryum")
    assert paper.words("pipe_fryum")[1] == ours.words("pipe_fryum")[1]
    assert paper.words("hinge_pin")[0] == paper.words("chewinggum")[0] == "object"
    assert [paper.words(name)[0] for name in ("metal_nut", "capsules", "pcb3")] == ["metal nut", "capsule", "pcb"]
