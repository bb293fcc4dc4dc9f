"""Components without OpenCV are those with it, and a picture's regions are the same."""

import cv2
import numpy as np
import pytest

from modeling_anomalygpt import regions
from modeling_anomalygpt.regions import connected_components


@pytest.mark.parametrize("shape", [(1, 1), (1, 17), (23, 1), (40, 31)])
def test_labels_and_boxes_are_those_of_opencv(shape):
    rng = np.random.default_rng(shape)
    for density in (0.0, 0.05, 0.3, 0.5, 0.6, 0.9, 1.0):
        inside = rng.random(shape) < density
        labels, stats = connected_components(inside)
        count, expected, expected_stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
        assert len(stats) == count
        pairs = {(one, other) for one, other in zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True)}
        assert len(pairs) == len(np.unique(expected))  # each label means one label
        assert ((labels > 0) == inside).all()
        assert sorted(map(tuple, stats[1:].tolist())) == sorted(map(tuple, expected_stats[1:].tolist()))


def test_a_spiral_is_one_part():
    inside = np.zeros((9, 9), dtype=bool)
    inside[0, :] = inside[:, 8] = inside[8, :] = inside[2:, 0] = inside[2, :7] = inside[2:7, 6] = True
    labels, stats = connected_components(inside)
    assert labels.max() == 1
    assert stats[1].tolist() == [0, 0, 9, 9, int(inside.sum())]


def test_regions_without_opencv_differ_in_the_outline_alone(monkeypatch):
    anomaly_map = np.clip(np.random.default_rng(0).normal(0.4, 0.2, (60, 80)), 0, 1)
    anomaly_map[:] = cv2.GaussianBlur(anomaly_map, (0, 0), 2)
    anomaly_map = (anomaly_map - anomaly_map.min()) / np.ptp(anomaly_map)
    for connection, least in ((1.0, 4), (0.9, 2)):
        monkeypatch.setattr(regions, "cv2", cv2)
        expected = regions.find_regions(anomaly_map, 0.7, connection=connection)
        assert len(expected) >= least
        monkeypatch.setattr(regions, "cv2", None)
        found = [region.to_dict() for region in regions.find_regions(anomaly_map, 0.7, connection=connection)]
        assert found == [region.to_dict() | {"outline": []} for region in expected]
