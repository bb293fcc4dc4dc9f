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
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from .distillation_arguments import DistillationArguments, write_whole
from .distillation_pictures import random_crops

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
        crop_size (`int`):
            Side of the square input in pixels.
        patch_size (`int`, *optional*):
            Side of a patch in pixels of a model of tokens. Default: the largest square grid that fits.

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
        teacher (`PreTrainedModel`):
            Any vision model that returns `hidden_states`. It is set to evaluation and gets no gradients.
        student (`PreTrainedModel`):
            The model that learns.
        arguments (`DistillationArguments`):
            Layer pairs, normalisations and the type to compute in.
        images (`Sequence[np.ndarray]`):
            Pictures for the statistics.

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
            crops (`torch.Tensor` of shape `(batch, 3, height, width)`):
                RGB in `[0, 1]`.

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
        distiller (`FeatureDistiller`):
            Its student is changed in place and left in evaluation mode.
        images (`Sequence[np.ndarray]`):
            Pictures to draw crops from.
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
        step (`int`):
            Number of the step, from 0.
        arguments (`DistillationArguments`):
            Length of the run and of the rise.

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
        teacher (`PreTrainedModel`):
            Any vision model that returns `hidden_states`.
        student (`PreTrainedModel`):
            Any vision model that returns `hidden_states`, in float32.
        images (`Sequence[np.ndarray]`):
            Unlabelled pictures, `uint8` RGB of shape `(height, width, 3)`; a [`PictureCache`] or a list.
        arguments (`DistillationArguments`):
            Everything else that decides the result.
        output_dir (`str` or `os.PathLike`, *optional*):
            Folder for the resumable state, and at the end for the student (`save_pretrained`), the heads
            (`projections.safetensors`) and the arguments (`distillation.json`).
        save_steps (`int`, defaults to 500):
            Steps between two saved states.
        log_steps (`int`, defaults to 50):
            Steps between two calls of `on_log`.
        on_log (`Callable[[dict[str, float]], None]`, *optional*):
            Receives `step`, `loss` and one `loss_{i}` per pair (means since the last call), and `learning_rate`.

    Returns:
        `dict[str, torch.Tensor]`: The heads, as [`FeatureDistiller.projections`] gives them.

    Raises:
        ValueError: There are no pictures, a layer does not exist, or `output_dir` holds a run of other arguments.
    """
    if len(images) == 0:
        raise ValueError("`images` must be at least one picture, got none. Check the folder that was searched.")
    distiller = FeatureDistiller(teacher, student, arguments, images)
    student.to(memory_format=torch.channels_last)
    trained = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": arguments.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=arguments.learning_rate,
    )
    average = [parameter.detach().clone() for parameter in trained]
    step = 0
    state_file = None if output_dir is None else Path(output_dir) / STATE_FILE
    if state_file is not None and state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        if DistillationArguments(**json.loads(state["arguments"])) != arguments:
            raise ValueError(
                f"`arguments` must be those of the run in {output_dir}, got {asdict(arguments)}. "
                "Choose another output_dir for a new run."
            )
        distiller.load_state_dict(state["distiller"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        average = [old.copy_(new) for old, new in zip(average, state["average"], strict=True)]
        step = state["step"]

    def save() -> None:
        state = {
            "arguments": json.dumps(asdict(arguments)),
            "distiller": distiller.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average,
            "rng": torch.get_rng_state(),
            "step": step,
        }
        state_file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(state_file, lambda file: torch.save(state, file))

    sums, count = torch.zeros(len(arguments.layer_pairs)), 0
    while step < arguments.steps:
        student.train()
        learning_rate = arguments.learning_rate * learning_rate_factor(step, arguments)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        losses = distiller(random_crops(images, arguments, step))
        optimizer.zero_grad(set_to_none=True)
        (sum(losses) / len(losses)).backward()
        nn.utils.clip_grad_norm_(trained, arguments.gradient_norm)
        optimizer.step()
        decay = min(arguments.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(average, trained, 1 - decay if arguments.ema_decay else 1.0)
        step += 1
        sums += torch.stack([loss.detach().cpu() for loss in losses])
        count += 1
        if on_log is not None and (step % log_steps == 0 or step == arguments.steps):
            values = (sums / count).tolist()
            losses_by_name = {f"loss_{i}": value for i, value in enumerate(values)}
            on_log({"step": step, "loss": sum(values) / len(values), **losses_by_name, "learning_rate": learning_rate})
            sums, count = torch.zeros_like(sums), 0
        if state_file is not None and (step % save_steps == 0 or step == arguments.steps):
            save()

    with torch.no_grad():
        for parameter, value in zip(trained, average, strict=True):
            parameter.copy_(value)
    recalibrate_batch_norm(distiller, images)
    projections = distiller.projections()
    if output_dir is not None:
        student.save_pretrained(output_dir)
        write_whole(Path(output_dir) / PROJECTIONS_FILE, lambda file: save_file(projections, file))
        arguments.to_json(Path(output_dir) / ARGUMENTS_FILE)
    return projections
