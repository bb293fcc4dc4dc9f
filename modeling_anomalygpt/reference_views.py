"""Good pictures as other photographs might show them, and the same with synthetic anomalies; alike at every call.

Knows normalised pixels only.
"""

import math

import torch
from torch.nn import functional

# Shift (parts of the side), angle (degrees), contrast, brightness and noise (both in standard deviations of the
# normalised pixels), share of the blurred picture.
_VIEWS = (
    ((0.03, 0.02), 0.0, 1.00, 0.10, 0.00, 0.0),
    ((-0.02, 0.03), 0.0, 0.90, -0.10, 0.05, 0.0),
    ((0.00, 0.00), 4.0, 1.10, 0.05, 0.00, 0.5),
    ((0.01, -0.02), -4.0, 1.00, -0.05, 0.05, 0.0),
)
_KINDS = ("scratch", "cut", "stain", "texture")
# Least and most radius of a synthetic anomaly, in parts of the side.
_RADII = (0.02, 0.1)
# Where a picture is divided into cells, and how often a place is drawn until an anomaly lies apart from the others.
_CELLS, _TRIES = (16, 16), 10
NUM_VIEWS, ANOMALIES_A_VIEW = len(_VIEWS), 3


def augmented_views(pixel_values: torch.Tensor) -> torch.Tensor:
    """Good images as other photographs of the same part might show them.

    Args:
        pixel_values (`torch.Tensor` of shape `(num_images, 3, height, width)`): Normalised images.

    Returns:
        `torch.Tensor` of shape `(NUM_VIEWS, 3, height, width)`: the images take turns.
    """
    generator = torch.Generator().manual_seed(0)
    views = []
    for number, (shift, degrees, contrast, brightness, noise, blur) in enumerate(_VIEWS):
        image = pixel_values[number % len(pixel_values)][None].float()
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        rotation = image.new_tensor([[[cosine, -sine, 2 * shift[0]], [sine, cosine, 2 * shift[1]]]])
        places = functional.affine_grid(rotation, image.shape, align_corners=False)
        view = functional.grid_sample(image, places, padding_mode="reflection", align_corners=False)
        mean = view.mean((2, 3), keepdim=True)
        view = (view - mean) * contrast + mean + brightness
        if noise:
            view = view + noise * torch.randn(view.shape[1:], generator=generator).to(view)
        views.append(blur * _blurred(view) + (1 - blur) * view)
    return torch.cat(views).to(pixel_values)


def synthetic_anomalies(views: torch.Tensor, inside: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Augmented views with synthetic anomalies: scratches, stains, foreign and misplaced texture.

    One pass of a vision model shows several of them, since they lie apart where the region leaves room.

    Args:
        views (`torch.Tensor` of shape `(num_views, 3, height, width)`): From [`augmented_views`].
        inside (`torch.BoolTensor` of shape `(num_views, height, width)`, *optional*): The region of interest, where
            all of each anomaly lies; `None`: anywhere.

    Returns:
        `tuple(torch.Tensor, torch.BoolTensor)`: The views, and the surroundings of their anomalies
        `(num_views, ANOMALIES_A_VIEW, 16, 16)`, in cells of the picture.
    """
    made, surroundings = [], []
    for number, view in enumerate(views.float()):
        region = None if inside is None else inside[number].cpu()
        taken = torch.zeros(ANOMALIES_A_VIEW, *_CELLS, dtype=torch.bool)
        image = view
        for index in range(ANOMALIES_A_VIEW):
            kind = _KINDS[(number * ANOMALIES_A_VIEW + index) % len(_KINDS)]
            generator = torch.Generator().manual_seed(number * ANOMALIES_A_VIEW + index)
            mask, taken[index] = _apart(kind, view.shape[1:], generator, region, taken.any(0))
            filling = _filling(view.cpu(), kind, generator)
            image = image + mask.to(view) * (filling.to(view) - image)
        made.append(image)
        surroundings.append(taken)
    return torch.stack(made).to(views), torch.stack(surroundings)


def _apart(
    kind: str, size: torch.Size, generator: torch.Generator, region: torch.Tensor | None, taken: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mask of an anomaly and its surroundings, away from the cells that are taken where that can be."""
    for _ in range(_TRIES):
        mask = (_scratch_mask if kind == "scratch" else _blob_mask)(size, generator, region)
        mask = mask if region is None else mask * region
        cells = functional.adaptive_max_pool2d(mask[None].float(), _CELLS)
        near = functional.max_pool2d(cells, 3, stride=1, padding=1)[0] > 0.05
        if not (near & taken).any():
            break
    return mask, near


def _uniform(generator: torch.Generator, low: float, high: float, *size: int) -> torch.Tensor:
    return low + (high - low) * torch.rand(size, generator=generator)


def _sign(generator: torch.Generator) -> float:
    return 1.0 if float(torch.rand((), generator=generator)) < 0.5 else -1.0


def _radius(size: torch.Size, generator: torch.Generator) -> float:
    low, high = (math.log(radius) for radius in _RADII)
    return min(size) * math.exp(float(_uniform(generator, low, high)))


def _point(size: torch.Size, generator: torch.Generator, region: torch.Tensor | None) -> torch.Tensor:
    """`(row, column)` of a place away from the edges, or of a pixel of the region."""
    if region is None:
        return _uniform(generator, 0.15, 0.85, 2) * torch.tensor(size)
    places = region.nonzero()
    return places[int(_uniform(generator, 0, len(places)))].float()


def _blob_mask(size: torch.Size, generator: torch.Generator, region: torch.Tensor | None) -> torch.Tensor:
    """An irregular, stretched spot with soft edges: `(height, width)` in [0, 1]."""
    radius, centre = _radius(size, generator), _point(size, generator, region)
    turn, stretch = float(_uniform(generator, 0, math.pi)), math.exp(float(_uniform(generator, -0.7, 0.7)))
    y, x = torch.meshgrid(torch.arange(size[0]) - centre[0], torch.arange(size[1]) - centre[1], indexing="ij")
    along = (math.cos(turn) * x + math.sin(turn) * y) / stretch
    across = (math.cos(turn) * y - math.sin(turn) * x) * stretch
    angle, distance = torch.atan2(across, along), torch.hypot(along, across)
    outline = 1 + sum(
        _uniform(generator, 0, 0.25) * torch.cos(waves * angle + _uniform(generator, 0, 2 * math.pi))
        for waves in (1, 2, 3, 4)
    )
    return torch.sigmoid(2 * (radius * outline - distance))


def _scratch_mask(size: torch.Size, generator: torch.Generator, region: torch.Tensor | None) -> torch.Tensor:
    """A thin bent line with soft edges: `(height, width)` in [0, 1]."""
    radius, point = _radius(size, generator), _point(size, generator, region)
    angle, y, x = _uniform(generator, 0, 2 * math.pi), torch.arange(size[0])[:, None], torch.arange(size[1])
    distance = torch.full(tuple(size), math.inf)
    for _ in range(6):
        angle = angle + 0.35 * torch.randn((), generator=generator)
        step = 0.7 * radius * torch.stack([torch.sin(angle), torch.cos(angle)])
        share = (((y - point[0]) * step[0] + (x - point[1]) * step[1]) / step.square().sum()).clamp(0, 1)
        piece = torch.hypot(y - point[0] - share * step[0], x - point[1] - share * step[1])
        distance, point = torch.minimum(distance, piece), point + step
    return torch.sigmoid(2 * (float(_uniform(generator, 0.5, 1.7)) - distance))


def _filling(image: torch.Tensor, kind: str, generator: torch.Generator) -> torch.Tensor:
    """What an anomaly of this kind shows: a whole image `(3, height, width)` of its own."""
    height, width = image.shape[1:]
    if kind == "scratch":
        return image + _sign(generator) * float(_uniform(generator, 0.6, 1.6))
    if kind == "cut":  # another place of the same picture
        turned = torch.flip(image, (1, 2)) if _sign(generator) > 0 else image
        shift = _uniform(generator, 1 / 6, 5 / 6, 2) * torch.tensor([height, width])
        return turned.roll(shift.int().tolist(), (1, 2))
    if kind == "stain":
        tint = 0.4 * torch.randn(3, 1, 1, generator=generator)
        return image + tint + _sign(generator) * float(_uniform(generator, 0.2, 1.0))
    side = int(_uniform(generator, 10, 86))
    grain = torch.rand(1, 3, side, side, generator=generator) - 0.5
    grain = functional.interpolate(grain, (height, width), mode="bicubic", align_corners=False)[0]
    return grain * float(_uniform(generator, 0.8, 2.6)) + _uniform(generator, -1.6, 1.8, 3, 1, 1)


def _blurred(images: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


__all__ = ["ANOMALIES_A_VIEW", "NUM_VIEWS", "augmented_views", "synthetic_anomalies"]
