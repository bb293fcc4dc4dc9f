"""Feature distillation: a small vision model learns the patch features of a larger one from unlabelled pictures.

The student sees random square crops and predicts, by one 1x1 linear head per layer pair, the teacher's
channel-standardised features at the same place. After training the heads are useful themselves: they map the student's
features to a centred space whose axes all have unit variance, which can serve for matching patches with reference
pictures.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class DistillationArguments:
    """Everything that decides the result of a run, beside the two models and the pictures.

    Args:
        layer_pairs (`tuple[tuple[int, int], ...]`): Pairs `(student, teacher)` of indices into the two models'
            `hidden_states`. A student layer may occur in several pairs; each pair has its own head.
        steps (`int`, defaults to 5000): Optimizer steps of the whole run.
        batch_size (`int`, defaults to 64): Crops per step.
        crop_size (`int`, defaults to 128): Side in pixels of the crops that both models see.
        teacher_size (`int`, *optional*): Side in pixels to which the crops are resized for the teacher, for example
            224 for a vision transformer with fixed positions. Default: `crop_size`.
        crop_scale (`tuple[float, float]`, defaults to `(0.75, 1.5)`): Range of the side of the window that is cut out,
            relative to `crop_size`; the window is resized to `crop_size`. One draw per batch, uniform in the
            logarithm, cut at the size of the smallest picture.
        turns (`bool`, defaults to `True`): Draw one of the eight flips and quarter turns for each crop.
        brightness (`float`, defaults to 0.2), contrast (`float`, defaults to 0.2), tint (`float`, defaults to 0.1):
            Half width of the factor for the whole crop, for the distance from its mean, and for each colour channel.
        grayscale (`float`, defaults to 0.1): Share of the crops that lose their colour.
        learning_rate (`float`, defaults to 2e-3): Peak, reached after the warm-up and followed by a half cosine to
            zero.
        warmup_share (`float`, defaults to 0.04): Share of `steps` in which the learning rate rises linearly.
        weight_decay (`float`, defaults to 0.02): Of AdamW, for weights of two or more dimensions.
        gradient_norm (`float`, defaults to 1.0): Gradients are scaled down to this norm.
        ema_decay (`float`, defaults to 0.998): Of the moving average of the weights, which is what the run returns; 0
            switches it off.
        calibration_batches (`int`, defaults to 24): Batches for the teacher's channel statistics, and for the
            student's batch-norm statistics at the end.
        autocast (`str`, *optional*): `"bfloat16"` to compute both models in this type (weights, loss and optimizer
            remain float32).
        teacher_mean (`tuple[float, ...]`), teacher_std (`tuple[float, ...]`): Normalisation of RGB in `[0, 1]` for the
            teacher.
        student_mean (`tuple[float, ...]`), student_std (`tuple[float, ...]`): The same for the student; the defaults
            are CLIP's, as the image processor of this project uses them.
        seed (`int`, defaults to 0): Decides the heads' initial weights and, together with the number of the step, the
            crops of each step.
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
            path (`str` or `os.PathLike`): JSON file with the names of this class.

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
            path (`str` or `os.PathLike`): Where to; an existing file is replaced.
        """
        write_whole(
            Path(path), lambda file: file.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        )


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside `path` and moves it there, so that a stop never leaves half a file.

    Args:
        path (`Path`): The file that is to be there at the end.
        write (`Callable[[Path], object]`): Writes the file under the name that it is given.
    """
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)


class PictureCache(Sequence):
    """Many decoded pictures in one memory-mapped file, so that a crop costs a copy and no decoding.

    Args:
        path (`str` or `os.PathLike`): Folder that [`PictureCache.build`] has written.
    """

    def __init__(self, path: str | os.PathLike):
        index = np.load(Path(path) / "index.npy")
        self.shapes, self.starts = index[:, :2], index[:, 2]
        self.pixels = np.load(Path(path) / "pixels.npy", mmap_mode="r")

    @classmethod
    def build(cls, files: Iterable[str | os.PathLike], path: str | os.PathLike, short_side: int = 192) -> PictureCache:
        """Decodes pictures into a new cache, or opens the one that is there.

        Args:
            files (`Iterable[str or os.PathLike]`): Pictures. Those whose short side is larger are made smaller, none
                larger.
            path (`str` or `os.PathLike`): Folder for the cache. One that is complete is opened as it is.
            short_side (`int`, defaults to 192): Largest short side in pixels.

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
        images (`Sequence[np.ndarray]`): Pictures, `uint8` RGB of shape `(height, width, 3)`, of any sizes.
        arguments (`DistillationArguments`): Sizes, ranges and the seed.
        step (`int`): Number of the step, from 0. Negative numbers are used for calibration.

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


STATE_FILE = "distillation_state.pt"
ARGUMENTS_FILE = "distillation.json"
PROJECTIONS_FILE = "projections.safetensors"
SMALLEST_STD = 0.05
"""Lower bound of a teacher channel's standard deviation, relative to the mean of all channels."""


def feature_map(hidden_state: torch.Tensor, crop_size: int, patch_size: int | None = None) -> torch.Tensor:
    """Brings one hidden state of any vision model into the shape of a map.

    Args:
        hidden_state (`torch.Tensor` of shape `(batch, channels, height, width)` or `(batch, tokens, channels)`):
            Tokens are in row order, with class and register tokens (if any) before the patches.
        crop_size (`int`): Side of the square input in pixels.
        patch_size (`int`, *optional*): Side of a patch in pixels of a model of tokens. Default: the largest square
            grid that fits.

    Returns:
        `torch.Tensor` of shape `(batch, channels, height, width)`: The map.

    Raises:
        ValueError: The hidden state has neither shape.

    Example:
    ```python
    >>> import torch
    >>> feature_map(torch.zeros(2, 1 + 4 + 7 * 7, 32), crop_size=98, patch_size=14).shape
    torch.Size([2, 32, 7, 7])

    ```
    """
    if hidden_state.ndim == 4:
        return hidden_state
    if hidden_state.ndim != 3:
        raise ValueError(
            f"`hidden_state` must be of 3 or 4 dimensions, got shape {tuple(hidden_state.shape)}. "
            "Name layers that are maps or sequences of patches."
        )
    tokens = hidden_state.shape[1]
    grid = math.isqrt(tokens) if patch_size is None else crop_size // patch_size
    while grid > 1 and grid * grid > tokens:
        grid //= 2
    patches = hidden_state[:, tokens - grid * grid :]
    return patches.transpose(1, 2).unflatten(2, (grid, grid))


class FeatureDistiller(nn.Module):
    """Student, frozen teacher, heads and the teacher's channel statistics: computes the loss of a batch of crops.

    Args:
        teacher (`PreTrainedModel`): Any vision model that returns `hidden_states`. It is set to evaluation and gets no
            gradients.
        student (`PreTrainedModel`): The model that learns.
        arguments (`DistillationArguments`): Layer pairs, normalisations and the type to compute in.
        images (`Sequence[np.ndarray]`): Pictures for the statistics.

    Raises:
        ValueError: A layer of `layer_pairs` does not exist.
    """

    def __init__(self, teacher: PreTrainedModel, student: PreTrainedModel, arguments: DistillationArguments, images):
        super().__init__()
        self.arguments = arguments
        self.student = student
        # In a list, so that the teacher is no part of the state.
        self._teacher = [teacher.to(student.device).eval().requires_grad_(False)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(arguments.seed)
            crops = [random_crops(images, arguments, -1 - i) for i in range(arguments.calibration_batches)]
            targets = [self.teacher_maps(batch) for batch in crops]
            with torch.no_grad():
                student.eval()
                maps = self.student_maps(crops[0][:2])
            self.heads = nn.ModuleList(
                nn.Conv2d(source.shape[1], target.shape[1], 1) for source, target in zip(maps, targets[0], strict=True)
            ).to(student.device)
        for i in range(len(self.heads)):
            values = torch.cat([target[i].transpose(0, 1).flatten(1) for target in targets], dim=1)
            self.register_buffer(f"mean_{i}", values.mean(dim=1)[:, None, None])
            std = values.std(dim=1)
            # A channel that is silent in these crops would otherwise be magnified without bound where it speaks.
            std = std.clamp_min(max(SMALLEST_STD * std.mean().item(), torch.finfo(std.dtype).tiny))
            self.register_buffer(f"std_{i}", std[:, None, None])

    def _hidden_states(self, model: PreTrainedModel, crops: torch.Tensor, mean, std) -> tuple[torch.Tensor, ...]:
        mean, std = (torch.tensor(values, device=crops.device)[:, None, None] for values in (mean, std))
        pixel_values = ((crops - mean) / std).to(model.dtype, memory_format=torch.channels_last)
        with torch.autocast(crops.device.type, dtype=torch.bfloat16, enabled=self.arguments.autocast is not None):
            return model(pixel_values=pixel_values, output_hidden_states=True).hidden_states

    def _maps(self, model: PreTrainedModel, crops: torch.Tensor, role: int) -> list[torch.Tensor]:
        arguments = self.arguments
        name = ("student", "teacher")[role]
        crops = crops.to(model.device)
        if name == "teacher" and arguments.teacher_size is not None:
            size = (arguments.teacher_size, arguments.teacher_size)
            crops = nn.functional.interpolate(crops, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = getattr(arguments, f"{name}_mean"), getattr(arguments, f"{name}_std")
        states = self._hidden_states(model, crops, mean, std)
        patch_size = getattr(model.config, "patch_size", None)
        patch_size = patch_size if isinstance(patch_size, int) else None
        maps = []
        for pair in arguments.layer_pairs:
            if not -len(states) <= pair[role] < len(states):
                raise ValueError(
                    f"`layer_pairs` must be of existing layers, got {name} layer {pair[role]} of {len(states)}. "
                    "Choose indices into hidden_states."
                )
            maps.append(feature_map(states[pair[role]], crops.shape[-1], patch_size).float())
        return maps

    def student_maps(self, crops: torch.Tensor) -> list[torch.Tensor]:
        """The student's feature maps, one per pair, for crops of RGB in `[0, 1]`."""
        return self._maps(self.student, crops, 0)

    @torch.no_grad()
    def teacher_maps(self, crops: torch.Tensor) -> list[torch.Tensor]:
        """The teacher's feature maps, one per pair, as they are (not standardised)."""
        return self._maps(self._teacher[0], crops, 1)

    def forward(self, crops: torch.Tensor) -> list[torch.Tensor]:
        """Smooth L1 loss of every pair.

        Args:
            crops (`torch.Tensor` of shape `(batch, 3, height, width)`): RGB in `[0, 1]`.

        Returns:
            `list[torch.Tensor]`: One scalar per pair.
        """
        losses = []
        for i, (source, target) in enumerate(zip(self.student_maps(crops), self.teacher_maps(crops), strict=True)):
            target = (target - getattr(self, f"mean_{i}")) / getattr(self, f"std_{i}")
            if target.shape[-2:] != source.shape[-2:]:
                target = nn.functional.interpolate(target, size=source.shape[-2:], mode="bilinear", antialias=True)
            losses.append(nn.functional.smooth_l1_loss(self.heads[i](source), target))
        return losses

    def projections(self) -> dict[str, torch.Tensor]:
        """The heads as linear maps, joined for pairs of the same student layer.

        Returns:
            `dict[str, torch.Tensor]`: `reference_projections.{i}.weight` of shape `(D_i, channels_i)` and `.bias` of
            shape `(D_i,)` for the student's layers in rising order.
        """
        layers = [pair[0] for pair in self.arguments.layer_pairs]
        tensors = {}
        for i, layer in enumerate(sorted(set(layers))):
            heads = [head for head, index in zip(self.heads, layers, strict=True) if index == layer]
            weight = torch.cat([head.weight.detach()[:, :, 0, 0] for head in heads])
            tensors[f"reference_projections.{i}.weight"] = weight.clone()
            tensors[f"reference_projections.{i}.bias"] = torch.cat([head.bias.detach() for head in heads]).clone()
        return tensors


def recalibrate_batch_norm(distiller: FeatureDistiller, images: Sequence[np.ndarray]) -> None:
    """Replaces the student's batch-norm statistics by plain means over the calibration batches.

    Args:
        distiller (`FeatureDistiller`): Its student is changed in place and left in evaluation mode.
        images (`Sequence[np.ndarray]`): Pictures to draw crops from.
    """
    norms = [module for module in distiller.student.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    distiller.student.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for i in range(distiller.arguments.calibration_batches if norms else 0):
            distiller.student_maps(random_crops(images, distiller.arguments, -1 - i))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def learning_rate_factor(step: int, arguments: DistillationArguments) -> float:
    """Linear rise, then a half cosine to zero.

    Args:
        step (`int`): Number of the step, from 0.
        arguments (`DistillationArguments`): Length of the run and of the rise.

    Returns:
        `float`: Factor in `(0, 1]` for the peak learning rate.
    """
    warmup = max(1, round(arguments.steps * arguments.warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, arguments.steps - warmup))


def distill(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    images: Sequence[np.ndarray],
    arguments: DistillationArguments,
    output_dir: str | os.PathLike | None = None,
    save_steps: int = 500,
    log_steps: int = 50,
    on_log: Callable[[dict[str, float]], None] | None = None,
) -> dict[str, torch.Tensor]:
    """Trains `student` in place to give the teacher's features.

    With `output_dir` the run can be stopped at any time and continued by the same call: it takes up the last saved
    step and ends bit-identical to a run without a stop (same machine, same number of threads).

    Args:
        teacher (`PreTrainedModel`): Any vision model that returns `hidden_states`.
        student (`PreTrainedModel`): Any vision model that returns `hidden_states`, in float32.
        images (`Sequence[np.ndarray]`): Unlabelled pictures, `uint8` RGB of shape `(height, width, 3)`; a
            [`PictureCache`] or a list.
        arguments (`DistillationArguments`): Everything else that decides the result.
        output_dir (`str` or `os.PathLike`, *optional*): Folder for the resumable state, and at the end for the student
            (`save_pretrained`), the heads (`projections.safetensors`) and the arguments (`distillation.json`).
        save_steps (`int`, defaults to 500): Steps between two saved states.
        log_steps (`int`, defaults to 50): Steps between two calls of `on_log`.
        on_log (`Callable[[dict[str, float]], None]`, *optional*): Receives `step`, `loss` and one `loss_{i}` per pair
            (means since the last call), and `learning_rate`.

    Returns:
        `dict[str, torch.Tensor]`: The heads, as [`FeatureDistiller.projections`] gives them.

    Raises:
        ValueError: There are no pictures, a layer does not exist, or `output_dir` holds a run of other arguments.
    """
    if len(images) == 0:
        raise ValueError("`images` must be at least one picture, got none. Check the folder that was searched.")
    distiller = FeatureDistiller(teacher, student, arguments, images)
    student.to(memory_format=torch.channels_last)
    state = _State(distiller)
    state_file = None if output_dir is None else Path(output_dir) / STATE_FILE
    if state_file is not None and state_file.exists():
        state.load(state_file)
    sums, count = torch.zeros(len(arguments.layer_pairs)), 0
    while state.step < arguments.steps:
        learning_rate = arguments.learning_rate * learning_rate_factor(state.step, arguments)
        losses = state.train(random_crops(images, arguments, state.step), learning_rate)
        step = state.step
        sums += torch.stack([loss.detach().cpu() for loss in losses])
        count += 1
        if on_log is not None and (step % log_steps == 0 or step == arguments.steps):
            values = (sums / count).tolist()
            losses_by_name = {f"loss_{i}": value for i, value in enumerate(values)}
            on_log({"step": step, "loss": sum(values) / len(values), **losses_by_name, "learning_rate": learning_rate})
            sums, count = torch.zeros_like(sums), 0
        if state_file is not None and (step % save_steps == 0 or step == arguments.steps):
            state.save(state_file)
    with torch.no_grad():
        for parameter, value in zip(state.trained, state.average, strict=True):
            parameter.copy_(value)
    recalibrate_batch_norm(distiller, images)
    projections = distiller.projections()
    if output_dir is not None:
        student.save_pretrained(output_dir)
        write_whole(Path(output_dir) / PROJECTIONS_FILE, lambda file: save_file(projections, file))
        arguments.to_json(Path(output_dir) / ARGUMENTS_FILE)
    return projections


class _State:
    """Everything a run goes on from: heads and student, optimizer, averaged weights, step."""

    def __init__(self, distiller: FeatureDistiller):
        arguments = distiller.arguments
        self.distiller, self.step = distiller, 0
        self.trained = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in self.trained if p.ndim > 1], "weight_decay": arguments.weight_decay},
            {"params": [p for p in self.trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=arguments.learning_rate)
        self.average = [parameter.detach().clone() for parameter in self.trained]

    def train(self, crops: torch.Tensor, learning_rate: float) -> list[torch.Tensor]:
        """One step; gives the loss of every pair."""
        arguments = self.distiller.arguments
        self.distiller.student.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        losses = self.distiller(crops)
        self.optimizer.zero_grad(set_to_none=True)
        (sum(losses) / len(losses)).backward()
        nn.utils.clip_grad_norm_(self.trained, arguments.gradient_norm)
        self.optimizer.step()
        decay = min(arguments.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.trained, 1 - decay if arguments.ema_decay else 1.0)
        self.step += 1
        return losses

    def save(self, file: Path) -> None:
        state = {
            "arguments": json.dumps(asdict(self.distiller.arguments)),
            "distiller": self.distiller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "rng": torch.get_rng_state(),
            "step": self.step,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda opened: torch.save(state, opened))

    def load(self, file: Path) -> None:
        state, arguments = torch.load(file, map_location="cpu", weights_only=True), self.distiller.arguments
        if DistillationArguments(**json.loads(state["arguments"])) != arguments:
            raise ValueError(
                f"`arguments` must be those of the run in {file.parent}, got {asdict(arguments)}. "
                "Choose another output_dir for a new run."
            )
        self.distiller.load_state_dict(state["distiller"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        self.average = [old.copy_(new) for old, new in zip(self.average, state["average"], strict=True)]
        self.step = state["step"]
