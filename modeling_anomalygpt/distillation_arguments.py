"""What decides the result of a distillation run: layers, crops, optimizer and seed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class DistillationArguments:
    """Everything that decides the result of a run, beside the two models and the pictures.

    Args:
        layer_pairs (`tuple[tuple[int, int], ...]`):
            Pairs `(student, teacher)` of indices into the two models' `hidden_states`. A student layer may occur in
            several pairs; each pair has its own head.
        steps (`int`, defaults to 5000):
            Optimizer steps of the whole run.
        batch_size (`int`, defaults to 64):
            Crops per step.
        crop_size (`int`, defaults to 128):
            Side in pixels of the crops that both models see.
        teacher_size (`int`, *optional*):
            Side in pixels to which the crops are resized for the teacher, for example 224 for a vision transformer
            with fixed positions. Default: `crop_size`.
        crop_scale (`tuple[float, float]`, defaults to `(0.75, 1.5)`):
            Range of the side of the window that is cut out, relative to `crop_size`; the window is resized to
            `crop_size`. One draw per batch, uniform in the logarithm, cut at the size of the smallest picture.
        turns (`bool`, defaults to `True`):
            Draw one of the eight flips and quarter turns for each crop.
        brightness (`float`, defaults to 0.2), contrast (`float`, defaults to 0.2), tint (`float`, defaults to 0.1):
            Half width of the factor for the whole crop, for the distance from its mean, and for each colour channel.
        grayscale (`float`, defaults to 0.1):
            Share of the crops that lose their colour.
        learning_rate (`float`, defaults to 2e-3):
            Peak, reached after the warm-up and followed by a half cosine to zero.
        warmup_share (`float`, defaults to 0.04):
            Share of `steps` in which the learning rate rises linearly.
        weight_decay (`float`, defaults to 0.02):
            Of AdamW, for weights of two or more dimensions.
        gradient_norm (`float`, defaults to 1.0):
            Gradients are scaled down to this norm.
        ema_decay (`float`, defaults to 0.998):
            Of the moving average of the weights, which is what the run returns; 0 switches it off.
        calibration_batches (`int`, defaults to 24):
            Batches for the teacher's channel statistics, and for the student's batch-norm statistics at the end.
        autocast (`str`, *optional*):
            `"bfloat16"` to compute both models in this type (weights, loss and optimizer remain float32).
        teacher_mean (`tuple[float, ...]`), teacher_std (`tuple[float, ...]`):
            Normalisation of RGB in `[0, 1]` for the teacher.
        student_mean (`tuple[float, ...]`), student_std (`tuple[float, ...]`):
            The same for the student; the defaults are CLIP's, as the image processor of this project uses them.
        seed (`int`, defaults to 0):
            Decides the heads' initial weights and, together with the number of the step, the crops of each step.
    """

    layer_pairs: tuple[tuple[int, int], ...]
    steps: int = 5000
    batch_size: int = 64
    crop_size: int = 128
    teacher_size: int | None = None
    crop_scale: tuple[float, float] = (0.75, 1.5)
    turns: bool = True
    brightness: float = 0.2
    contrast: float = 0.2
    tint: float = 0.1
    grayscale: float = 0.1
    learning_rate: float = 2e-3
    warmup_share: float = 0.04
    weight_decay: float = 0.02
    gradient_norm: float = 1.0
    ema_decay: float = 0.998
    calibration_batches: int = 24
    autocast: str | None = None
    teacher_mean: tuple[float, ...] = CLIP_MEAN
    teacher_std: tuple[float, ...] = CLIP_STD
    student_mean: tuple[float, ...] = CLIP_MEAN
    student_std: tuple[float, ...] = CLIP_STD
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "layer_pairs", tuple((int(s), int(t)) for s, t in self.layer_pairs))
        for name in ("crop_scale", "teacher_mean", "teacher_std", "student_mean", "student_std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if not self.layer_pairs:
            raise ValueError("`layer_pairs` must be at least one pair, got (). Name pairs such as (2, 4).")
        for name in ("steps", "batch_size", "crop_size", "calibration_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}. Choose a positive number.")
        low, high = self.crop_scale
        if not 0 < low <= high:
            raise ValueError(
                f"`crop_scale` must be two positive factors in rising order, got {self.crop_scale}. "
                "Choose for example (0.75, 1.5)."
            )
        if self.autocast not in (None, "bfloat16"):
            raise ValueError(
                f"`autocast` must be None or 'bfloat16', got {self.autocast!r}. Leave it out for float32."
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be in [0, 1), got {self.ema_decay}. Choose 0 to switch it off.")

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> DistillationArguments:
        """Reads the arguments that a run or a recipe has written.

        Args:
            path (`str` or `os.PathLike`):
                JSON file with the names of this class.

        Returns:
            `DistillationArguments`: The arguments.

        Raises:
            ValueError: The file has a name that this class does not know.
        """
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"`path` must be a file of known arguments, got {unknown} in {path}. Remove these names.")
        return cls(**values)

    def to_json(self, path: str | os.PathLike) -> None:
        """Writes the arguments as JSON.

        Args:
            path (`str` or `os.PathLike`):
                Where to; an existing file is replaced.
        """
        write_whole(
            Path(path), lambda file: file.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        )


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside `path` and moves it there, so that a stop never leaves half a file.

    Args:
        path (`Path`):
            The file that is to be there at the end.
        write (`Callable[[Path], object]`):
            Writes the file under the name that it is given.
    """
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)
