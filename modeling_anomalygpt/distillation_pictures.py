"""Pictures for distillation: a cache of decoded pictures and the random crops of a step."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import nn

from .distillation_arguments import DistillationArguments, write_whole


class PictureCache(Sequence):
    """Many decoded pictures in one memory-mapped file, so that a crop costs a copy and no decoding.

    Args:
        path (`str` or `os.PathLike`):
            Folder that [`PictureCache.build`] has written.
    """

    def __init__(self, path: str | os.PathLike):
        index = np.load(Path(path) / "index.npy")
        self.shapes, self.starts = index[:, :2], index[:, 2]
        self.pixels = np.load(Path(path) / "pixels.npy", mmap_mode="r")

    @classmethod
    def build(cls, files: Iterable[str | os.PathLike], path: str | os.PathLike, short_side: int = 192) -> PictureCache:
        """Decodes pictures into a new cache, or opens the one that is there.

        Args:
            files (`Iterable[str or os.PathLike]`):
                Pictures. Those whose short side is larger are made smaller, none larger.
            path (`str` or `os.PathLike`):
                Folder for the cache. One that is complete is opened as it is.
            short_side (`int`, defaults to 192):
                Largest short side in pixels.

        Returns:
            `PictureCache`: The pictures in the order of `files`.

        Raises:
            ValueError: `files` is empty.
        """
        path = Path(path)
        if (path / "index.npy").exists():
            return cls(path)
        path.mkdir(parents=True, exist_ok=True)
        rows, start = [], 0
        with open(path / "pixels.raw", "wb") as raw:
            for file in files:
                with Image.open(file) as opened:
                    picture = ImageOps.exif_transpose(opened).convert("RGB")
                factor = short_side / min(picture.size)
                if factor < 1:
                    size = [max(short_side, round(side * factor)) for side in picture.size]
                    picture = picture.resize(size, Image.Resampling.BICUBIC)
                array = np.asarray(picture)
                raw.write(array.tobytes())
                rows.append((*array.shape[:2], start))
                start += array.size
        if not rows:
            raise ValueError("`files` must be at least one picture, got none. Check the folder that was searched.")
        pixels = np.lib.format.open_memmap(path / "pixels.npy", mode="w+", dtype=np.uint8, shape=(start,))
        pixels[:] = np.memmap(path / "pixels.raw", dtype=np.uint8, mode="r")
        pixels.flush()
        (path / "pixels.raw").unlink()
        write_whole(path / "index.npy", lambda file: np.save(file.open("wb"), np.array(rows, dtype=np.int64)))
        return cls(path)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.starts)

    def __getitem__(self, index: int) -> np.ndarray:
        """One picture, `uint8` of shape `(height, width, 3)`, without a copy."""
        height, width = self.shapes[index]
        start = self.starts[index]
        return self.pixels[start : start + height * width * 3].reshape(height, width, 3)


def random_crops(images: Sequence[np.ndarray], arguments: DistillationArguments, step: int) -> torch.Tensor:
    """Cuts the crops of one step. The same seed and step give the same crops, whatever was drawn before.

    Args:
        images (`Sequence[np.ndarray]`):
            Pictures, `uint8` RGB of shape `(height, width, 3)`, of any sizes.
        arguments (`DistillationArguments`):
            Sizes, ranges and the seed.
        step (`int`):
            Number of the step, from 0. Negative numbers are used for calibration.

    Returns:
        `torch.Tensor` of shape `(batch_size, 3, crop_size, crop_size)`: RGB in `[0, 1]`.
    """
    rng = np.random.default_rng((arguments.seed, abs(step), int(step < 0)))
    low, high = np.log(arguments.crop_scale)
    chosen = [images[int(index)] for index in rng.integers(len(images), size=arguments.batch_size)]
    smallest = min(min(image.shape[:2]) for image in chosen)
    side = min(smallest, round(arguments.crop_size * math.exp(rng.uniform(low, high))))
    crops = np.empty((len(chosen), side, side, 3), dtype=np.uint8)
    for row, image in enumerate(chosen):
        top, left = (int(rng.integers(extent - side + 1)) for extent in image.shape[:2])
        crop = image[top : top + side, left : left + side]
        turn = int(rng.integers(8)) if arguments.turns else 0
        crop = np.rot90(crop, turn % 4)
        crops[row] = crop[:, ::-1] if turn >= 4 else crop
    batch = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    if side != arguments.crop_size:
        size = (arguments.crop_size, arguments.crop_size)
        batch = nn.functional.interpolate(batch, size=size, mode="bilinear", antialias=side > arguments.crop_size)

    def factors(half_width: float, channels: int = 1) -> torch.Tensor:
        drawn = rng.uniform(1 - half_width, 1 + half_width, size=(len(chosen), channels, 1, 1))
        return torch.from_numpy(drawn.astype(np.float32))

    mean = batch.mean(dim=(1, 2, 3), keepdim=True)
    batch = mean + (batch - mean) * factors(arguments.contrast)
    batch = batch * factors(arguments.brightness) * factors(arguments.tint, channels=3)
    gray = torch.from_numpy(rng.random(len(chosen)) < arguments.grayscale)
    batch[gray] = batch[gray].mean(dim=1, keepdim=True)
    return batch.clamp_(0, 1)
