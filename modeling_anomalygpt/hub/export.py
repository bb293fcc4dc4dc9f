"""The map path as one file for other runtimes: vision tower, localizer and memory bank, as ONNX or `torch.export`.

What is exported takes `pixel_values` as the processor makes them and returns the map; the language model stays here.
"""

import copy
import importlib.util
import json
import os
import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..files import write_atomically
from ..localization import discounted, merged_map, text_guided_layer_maps
from ..memory_bank import MemoryBank, normalised_map, unit_length
from ..region_of_interest import patches_inside
from ..vision_features import read_vision_tower

FORMATS = ("onnx", "pt2")
OPSET = 18
TOLERANCE = 1e-4


class MapPath(nn.Module):
    """Pictures in, maps and scores out: the same numbers as [`AnomalyGPTModel.get_image_features`], without loops.

    Args:
        model ([`AnomalyGPTModel`] or [`AnomalyGPTForConditionalGeneration`]): Its vision tower and localizer are used,
            not copied.
        bank ([`MemoryBank`], *optional*): Good patches that become a part of the export. `None` with
            `bank_as_input=False`: the map guided by the state vectors.
        bank_as_input (`bool`, defaults to `False`): Whether the good patches are inputs of each call instead.
        text_embeds (`torch.Tensor` of shape `(1, 2, projection_dim)`, *optional*): State vectors of a model with a
            text tower.
        inside (`torch.BoolTensor` of shape `(1, height, width)`, *optional*): The region of interest on the model's
            canvas; the map is 0 outside it.
    """

    def __init__(
        self,
        model: nn.Module,
        bank: MemoryBank | None = None,
        bank_as_input: bool = False,
        text_embeds: torch.Tensor | None = None,
        inside: torch.Tensor | None = None,
    ):
        super().__init__()
        model = getattr(model, "model", model)
        self.vision_tower, self.localizer, self.config = model.vision_tower, model.localizer, model.config
        self.bank_as_input = bank_as_input
        self.num_banks = 0 if bank is None else len(bank.features)
        self.threshold = None
        states = None
        if bank is not None and not bank_as_input:
            for index, layer in enumerate(bank.features):
                self.register_buffer(f"bank_{index}", layer.clone().float())
            self.threshold = bank.threshold if bank is not None and self.config.decision["normalised_maps"] else None
        elif not bank_as_input:
            states = unit_length((self.localizer.state_embeds[None] if text_embeds is None else text_embeds).detach())
        self.register_buffer("text_embeds", states)
        side = (self.config.map_size, self.config.map_size)
        self.register_buffer("inside", None if inside is None else patches_inside(inside, side).float())

    def forward(self, pixel_values: torch.Tensor, *bank: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): From the processor.
            bank (`torch.Tensor`, each of shape `(num_patches, dim)`): Unit-length good patches, one tensor a layer;
                only with `bank_as_input`.

        Returns:
            `tuple(torch.Tensor, torch.Tensor)`: `anomaly_map` `(batch_size, map_size, map_size)` in [0, 1], and
            `pred_score` `(batch_size,)`, its maximum.
        """
        _, layers = read_vision_tower(self.vision_tower, pixel_values, self.config.out_indices)
        size = self.config.map_size
        if self.text_embeds is not None:
            embedded = self.localizer.embed(layers)
            states = self.text_embeds.expand(pixel_values.shape[0], -1, -1)
            maps = text_guided_layer_maps(embedded, states, self.config.map_temperature, size)[:, :, 1].mean(1)
        else:
            rows = bank if self.bank_as_input else [getattr(self, f"bank_{i}") for i in range(self.num_banks)]
            scores = []
            for layer, good in zip(self.localizer.comparable(layers), rows, strict=True):
                plain = 1 - (unit_length(layer.vectors) @ good.T).amax(dim=2).unflatten(1, layer.grid)
                scores.append(discounted(plain, layer, self.config.self_similarity))
            maps = merged_map(scores, size, self.config.map_smoothing)
        if self.threshold is not None:
            maps = normalised_map(maps, self.threshold, self.config.decision["map_contrast"])
        if self.inside is not None:
            maps = maps * self.inside
        return maps, maps.flatten(1).amax(1)


@dataclass
class ExportedMapPath:
    """What was written, and how far any map value of a runtime is from PyTorch's (`None`: not checked)."""

    path: pathlib.Path
    largest_difference: float | None
    checked_with: str


def export_map_path(
    inspector: Any,
    output: str | os.PathLike,
    bank_as_input: bool = False,
    check: bool = True,
) -> ExportedMapPath:
    """Writes the map path of an inspector, with its references, for a variable number of pictures.

    Args:
        inspector ([`AnomalyInspector`]): Model, processor and references, whose region of interest becomes a part of
            the file. Without references and without `bank_as_input`, the map guided by the state vectors of its
            category is exported.
        output (`str` or `os.PathLike`): `NAME.onnx`, or `NAME.pt2` for `torch.export`.
        bank_as_input (`bool`, defaults to `False`): Whether the good patches are inputs `bank_0`, `bank_1` ... instead
            of a part of the file.
        check (`bool`, defaults to `True`): Whether the file is run (ONNX by onnxruntime) and compared with PyTorch at
            one and three pictures.

    Returns:
        [`ExportedMapPath`]

    Raises:
        ValueError: If the name's ending is unknown **or** the inspector splits pictures into tiles.
        ImportError: If ONNX packages are missing; says how to install them.
        RuntimeError: If the exported file differs from PyTorch by more than `TOLERANCE`.
    """
    output = pathlib.Path(output)
    kind = output.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise ValueError(f"`output` must end in .onnx or .pt2, got {str(output)!r}.")
    if inspector.encoder.tile:
        raise ValueError(f"`tile` must be None for an export, got {inspector.encoder.tile}. Cut tiles outside.")
    if kind == "onnx":
        check_packages(check)
    path, bank = _map_path(inspector, bank_as_input)
    pictures, extra = _example(inspector, path, bank)
    batch = torch.export.Dim("batch", min=1, max=1024)
    patches = [{0: torch.export.Dim(f"patches_{i}", min=1)} for i in range(len(extra))]
    shapes = {"pixel_values": {0: batch}} | ({"bank": tuple(patches)} if extra else {})
    with torch.no_grad():
        program = torch.export.export(path, (pictures, *extra), dynamic_shapes=shapes)
    temporary = output.with_name(f"{output.stem}.{os.getpid()}.tmp{output.suffix}")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        if kind == "onnx":
            names = ["pixel_values", *(f"bank_{i}" for i in range(len(extra)))]
            onnx_program = torch.onnx.export(
                program, input_names=names, output_names=["anomaly_map", "pred_score"], opset_version=OPSET,
                verbose=False,
            )  # fmt: skip
            onnx_program.save(str(temporary), external_data=False)
        else:
            torch.export.save(program, str(temporary))
        difference = _difference(path, temporary, pictures, extra) if check else None
        if difference is not None and not difference <= TOLERANCE:
            raise RuntimeError(
                f"The exported map must be within {TOLERANCE} of PyTorch's, got a difference of {difference:.2g}. "
                "This vision tower does not survive the export; please report it with its config.json."
            )
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    write_atomically(output.with_suffix(".json"), json.dumps(_description(inspector, path, extra), indent=2) + "\n")
    return ExportedMapPath(output, difference, "onnxruntime" if kind == "onnx" else "torch.export")


def _map_path(inspector: Any, bank_as_input: bool) -> tuple[MapPath, MemoryBank | None]:
    model, bank = inspector.model.model, inspector.memory_bank
    text_embeds = None
    if bank is None and not bank_as_input and model.text_tower is not None:
        blank = np.zeros((32, 32, 3), dtype=np.uint8)
        inputs = inspector.processor(images=[blank], category=inspector.category, return_tensors="pt")
        with torch.no_grad():
            text_embeds = model.get_text_embeds(
                inputs["state_prompt_ids"].to(model.device), inputs["state_prompt_labels"].to(model.device)
            ).cpu()
    references, inside = inspector.references, None
    if references is not None and references.roi is not None:
        inside = inspector.encoder.inside([references.roi.shape], references.roi).cpu()
    path = MapPath(model, bank, bank_as_input, text_embeds, inside)
    # The inspector's own model stays on its device and in its number format.
    return copy.deepcopy(path).float().cpu().eval(), bank


def _example(inspector: Any, path: MapPath, bank: MemoryBank | None) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Two random pictures and, where the bank is an input, one."""
    size = inspector.processor.image_processor.size
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(2, 3, size["height"], size["width"], generator=generator)
    if not path.bank_as_input:
        return pictures, ()
    if bank is None:
        with torch.no_grad():
            _, layers = read_vision_tower(path.vision_tower, pictures, path.config.out_indices)
            bank = MemoryBank.build(path.localizer.comparable(layers))
    return pictures, tuple(layer.float().cpu().clone() for layer in bank.features)  # made in inference mode


def _difference(path: MapPath, file: pathlib.Path, pictures: torch.Tensor, extra: tuple[torch.Tensor, ...]) -> float:
    differences = []
    for count in (1, 3):
        some = torch.randn(count, *pictures.shape[1:], generator=torch.Generator().manual_seed(count))
        fewer = tuple(layer[: max(1, len(layer) - count)] for layer in extra)
        with torch.no_grad():
            expected = path(some, *fewer)
        results = run_exported(file, some.numpy(), *(layer.numpy() for layer in fewer))
        differences += [np.abs(one - other.numpy()).max() for one, other in zip(results, expected, strict=True)]
    return float(max(differences))


def run_exported(file: str | os.PathLike, pixel_values: np.ndarray, *bank: np.ndarray) -> list[np.ndarray]:
    """Runs `NAME.onnx` or `NAME.pt2`; arguments and results are those of [`MapPath.forward`], as arrays."""
    if pathlib.Path(file).suffix == ".pt2":
        program = torch.export.load(str(file)).module()
        with torch.no_grad():
            return [one.numpy() for one in program(torch.from_numpy(pixel_values), *map(torch.from_numpy, bank))]
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, dict(zip(names, (pixel_values, *bank), strict=True)))


def _description(inspector: Any, path: MapPath, extra: tuple[torch.Tensor, ...]) -> dict[str, Any]:
    """What a program in another language needs to know beside the file."""
    images = inspector.processor.image_processor
    kind = "reference" if path.text_embeds is None else "text"
    return {
        "inputs": {
            "pixel_values": ["batch", 3, images.size["height"], images.size["width"]],
            **{f"bank_{i}": ["patches", layer.shape[1]] for i, layer in enumerate(extra)},
        },
        "outputs": {"anomaly_map": ["batch", path.config.map_size, path.config.map_size], "pred_score": ["batch"]},
        "preprocessing": {
            "geometry": images.geometry, "resample": int(images.resample), "rescale": 1 / 255,
            "mean": list(images.image_mean), "std": list(images.image_std), "channels": "RGB",
        },
        "localization": kind,
        "category": inspector.category,
        "num_references": inspector.num_references if not path.bank_as_input else None,
        "threshold": path.threshold,
        "region_threshold": path.config.decision["region_threshold"],
        "memory_bank": "input" if path.bank_as_input else "inside" if kind == "reference" else None,
    }  # fmt: skip


def check_packages(check: bool) -> None:
    """Refuses to go on without the packages that an export to ONNX needs; `check` needs onnxruntime as well."""
    missing = [name for name in ("onnx", "onnxscript", *(["onnxruntime"] if check else []))
               if importlib.util.find_spec(name) is None]  # fmt: skip
    if missing:
        raise ImportError(
            f"An export to ONNX needs {', '.join(missing)}. Run: pip install onnx onnxscript onnxruntime "
            '(or pip install "anomalygpt[export]"), or export to a .pt2 file.'
        )
