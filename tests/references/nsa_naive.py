"""A second, slow implementation of NSA as AnomalyGPT trains with it, step by step over whole pictures.

Written from the description in https://arxiv.org/abs/2109.15222 and the values in https://arxiv.org/abs/2308.15366.
It draws from the generator in the published order, so that the same generator must give the same picture as the
fast one.
"""

import cv2
import numpy as np
from scipy import ndimage


def disk(radius):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius


def foreground(image, background):
    brightness, tolerance = background
    far = np.abs(image.mean(axis=-1) - brightness) > tolerance
    return cv2.medianBlur(far.astype(np.uint8), 7)


def soft_label(before, after, pasted, logistic):
    """Whole-picture label: change inside the pasted area, thresholded, cleaned, filtered, squashed."""
    difference = np.abs(before.astype(np.float64) - after.astype(np.float64)).mean(axis=-1)
    changed = cv2.medianBlur((difference * pasted > 1).astype(np.uint8), 5)
    filtered = ndimage.median_filter(difference * changed, footprint=disk(5), mode="nearest")
    k, x0 = logistic
    return changed / (1.0 + np.exp(-k * (filtered - x0)))


def clipped(value, bounds):
    return min(max(value, bounds[0]), bounds[1])


def add_patch(image, source, fg_image, fg_source, bounds, resize_bounds, rng, mode, gamma, min_object, min_overlap):
    """Returns (new picture, (top, bottom, left, right), mask of the box) or None when no place was found."""
    sides = image.shape[:2]
    limits = [[int(np.round(share * side)) for share in pair] for pair, side in zip(bounds, sides, strict=True)]
    half = [
        int(clipped((gamma[2] + rng.gamma(gamma[0], gamma[1])) * s, lim)) for s, lim in zip(sides, limits, strict=True)
    ]

    for attempt in range(1, 201):
        middle = [rng.integers(lim[0], s - lim[0]) for s, lim in zip(sides, limits, strict=True)]
        top, left = (max(0, m - h) for m, h in zip(middle, half, strict=True))
        bottom, right = (min(s, m + h) for s, m, h in zip(sides, middle, half, strict=True))
        good = fg_source is None or fg_source[top:bottom, left:right].mean() > min_object
        if attempt == 200:
            return None
        if good:
            break

    height, width = bottom - top, right - left
    factor = clipped(rng.normal(1, 0.5), resize_bounds)
    new_height = clipped(factor * height, limits[0])
    new_width = clipped(int(new_height / height * width), limits[1])
    new_height = clipped(int(new_width / width * height), limits[0])
    patch = cv2.resize(source[top:bottom, left:right], (new_width, new_height))
    fg_patch = None
    if fg_source is not None:
        fg_patch = cv2.resize(fg_source[top:bottom, left:right], (new_width, new_height))

    for attempt in range(1, 201):
        row = rng.integers(new_height // 2 + 1, sides[0] - new_height // 2 - 1)
        column = rng.integers(new_width // 2 + 1, sides[1] - new_width // 2 - 1)
        top, bottom = row - new_height // 2, row + (new_height + 1) // 2
        left, right = column - new_width // 2, column + (new_width + 1) // 2
        good = True
        if fg_patch is not None:
            here = fg_image[top:bottom, left:right]
            good = fg_patch.mean() > min_object and (here & fg_patch).sum() / fg_patch.sum() > min_overlap
        if attempt == 200:
            return None
        if good:
            break

    mask = np.ones((new_height, new_width), np.uint8)
    solve = mask.copy()
    if fg_patch is not None:
        here = fg_image[top:bottom, left:right]
        mask = fg_patch | here
        solve = mask | ((1 - fg_patch) & (1 - here))  # the background of both, against artefacts
    solve = 255 * solve
    solve[[0, -1], :] = 0
    solve[:, [0, -1]] = 0
    if (solve > 0).sum() < 50:
        return None
    center = (int(right - (right - left) // 2), int(top + (bottom - top) // 2))
    try:
        blended = cv2.seamlessClone(patch, image, solve, center, mode)
    except cv2.error:  # the solver refuses strips
        return None
    return blended, (top, bottom, left, right), mask


def nsa_naive(
    image,
    source,
    rng,
    bounds=((0.03, 0.4), (0.03, 0.4)),
    logistic=(1 / 12, 24),
    background=None,
    resize_bounds=(0.5, 2.0),
    mode=cv2.NORMAL_CLONE,
    gamma=(2, 0.05, 0.03),
    min_object=0,
    min_overlap=0.25,
    num_patches=2,
):
    """Returns (picture, soft label as float64, boxes (top, bottom, left, right) of the patches)."""
    fg_image = fg_source = None
    if background is not None:
        fg_image, fg_source = foreground(image, background), foreground(source, background)
    result = image.copy()
    pasted = np.zeros(image.shape[:2], np.uint8)
    boxes = []
    for number in range(num_patches):
        if number == 0 or rng.integers(2) > 0:
            made = add_patch(
                result, source, fg_image, fg_source, bounds, resize_bounds, rng, mode, gamma, min_object, min_overlap
            )
            if made is None:
                continue
            result, (top, bottom, left, right), mask = made
            pasted[top:bottom, left:right] = mask  # the later patch overwrites the earlier
            boxes.append((top, bottom, left, right))
    return result, soft_label(image, result, pasted, logistic), boxes


def told_centres(boxes):
    """Centres (row, column) from which the published code tells the positions: of the box round the patches."""
    centres = []
    for number in range(1, len(boxes) + 1):
        edges = np.array(boxes[:number])
        centres.append(((edges[:, 0].min() + edges[:, 1].max()) / 2, (edges[:, 2].min() + edges[:, 3].max()) / 2))
    return centres
