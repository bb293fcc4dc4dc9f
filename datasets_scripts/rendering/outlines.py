"""Outlines in part units: points `(N, 2)` of circles, boxes and bars, and how they are turned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ray(angle: float) -> np.ndarray:
    """The unit vector `(2,)` at an angle in radians."""
    return np.array([np.cos(angle), np.sin(angle)])


def circle(centre: Sequence[float], radius: float, count: int = 40) -> np.ndarray:
    """Points `(count, 2)` on a circle."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)], 1)


def box(centre: Sequence[float], width: float, height: float, angle: float = 0.0) -> np.ndarray:
    """The corners `(4, 2)` of a rectangle turned by `angle` radians."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, height / 2]
    return turned(corners, angle) + np.asarray(centre)


def stadium(centre: Sequence[float], length: float, width: float, angle: float = 0.0, bend: float = 0.0) -> np.ndarray:
    """Outline of a capsule: a bar with round ends, `bend` its sag in part units."""
    radius, half = width / 2, max(length - width, 0.0) / 2
    arc = np.linspace(-np.pi / 2, np.pi / 2, 12)
    straight = np.linspace(half, -half, 7)[1:-1]
    right = np.stack([half + radius * np.cos(arc), radius * np.sin(arc)], 1)
    upper = np.stack([straight, np.full(5, radius)], 1)
    points = np.concatenate([right, upper, -right, -upper])
    points[:, 1] += bend * (points[:, 0] / (length / 2)) ** 2
    return turned(points, angle) + np.asarray(centre)


def turned(points: np.ndarray, angle: float) -> np.ndarray:
    """Points `(N, 2)` turned by `angle` radians around the origin."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.asarray(points) @ np.array([[cosine, sine], [-sine, cosine]])
