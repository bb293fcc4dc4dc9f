"""The map path for other runtimes: vision tower, localizer and memory bank, as ONNX, OpenVINO or `torch.export`.

What is exported takes `pixel_values` as the processor makes them and returns the map; the language model stays here.
Beside the file lie the references and a description with the checksums of both: a bundle, see `bundle.py`.
"""

import copy
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..files import write_atomically
from ..images import load_picture
from ..localization import discounted, merged_map, text_guided_layer_maps
from ..memory_bank import MemoryBank, normalised_map, unit_length
from ..region_of_interest import patches_inside
from ..scoring import Scorer
from ..vision_features import read_vision_tower
from .bundle import file_facts
from .runtimes import load_exported, name_of, needs_packages, runtime_of

OPSET = 18
TOLERANCE = 1e-4
# Pictures from which the steps of 8 bits are taken; more take time and change little.
_MOST_FOR_STEPS = 64


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
            self.threshold = bank.threshold if self.config.decision["normalised_maps"] else None
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


@dataclass(frozen=True)
class Agreement:
    """How a runtime's maps of some pictures compare with PyTorch's.

    Args:
        pictures (`int`): How many were compared.
        same_verdicts (`int`): How many of them got the same verdict.
        largest_difference (`float`): Of any map value.
    """

    pictures: int
    same_verdicts: int
    largest_difference: float


@dataclass
class ExportedMapPath:
    """What was written, and how far any map value of a runtime is from PyTorch's (`None`: not checked).

    `agreement` is of the user's own pictures, where the file has 8 bits.
    """

    path: pathlib.Path
    largest_difference: float | None
    checked_with: str
    agreement: Agreement | None = None


def export_map_path(
    inspector: Any,
    output: str | os.PathLike,
    bank_as_input: bool = False,
    check: bool = True,
    int8_pictures: Sequence[Any] | None = None,
) -> ExportedMapPath:
    """Writes the map path of an inspector, with its references, for a variable number of pictures.

    Args:
        inspector ([`AnomalyInspector`]): Model, processor and references, whose region of interest becomes a part of
            the file. Without references and without `bank_as_input`, the map guided by the state vectors of its
            category is exported.
        output (`str` or `os.PathLike`): `NAME.onnx`, `NAME.xml` for OpenVINO (beside it `NAME.bin`), or `NAME.pt2`
            for `torch.export`. `NAME.json` and, where there are references, `NAME.safetensors` are written as well.
        bank_as_input (`bool`, defaults to `False`): Whether the good patches are inputs `bank_0`, `bank_1` ... instead
            of a part of the file.
        check (`bool`, defaults to `True`): Whether the file is run by its runtime and compared with PyTorch at one and
            three pictures.
        int8_pictures (`list`, *optional*): The user's own pictures (paths, PIL images or arrays), for a file with 8
            bits: every second one sets the steps, the others are compared with PyTorch.

    Returns:
        [`ExportedMapPath`]

    Raises:
        ValueError: If the name's ending is unknown, the inspector splits pictures into tiles **or** 8 bits are asked
            for without references, with fewer than two pictures or for `torch.export`.
        ImportError: If packages are missing; says how to install them.
        RuntimeError: If the exported file differs from PyTorch by more than `TOLERANCE`.
    """
    output = pathlib.Path(output)
    runtime = runtime_of(output)
    if inspector.encoder.tile:
        raise ValueError(f"`tile` must be None for an export, got {inspector.encoder.tile}. Cut tiles outside.")
    if int8_pictures is not None:
        _check_int8(inspector, runtime, bank_as_input, int8_pictures)
    check_packages(runtime, check, int8_pictures is not None)
    path, bank = map_path(inspector, bank_as_input)
    pictures, extra = example_inputs(inspector, path, bank)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.stem}.", dir=output.parent) as folder:
        made = pathlib.Path(folder) / output.name
        difference = agreement = None
        if int8_pictures is not None:
            for_steps = (
                _pixels(inspector, load_picture(one, inspector.bits)) for one in int8_pictures[::2][:_MOST_FOR_STEPS]
            )
            _write(path, pictures, extra, made, for_steps)
            agreement = compare(inspector, path, load_exported(made), int8_pictures[1::2])
            difference = agreement.largest_difference
        else:
            _write(path, pictures, extra, made)
            difference = _difference(path, made, pictures, extra) if check else None
            _refuse_if_far(difference)
        _move(inspector, path, extra, made, output, agreement)
    return ExportedMapPath(output, difference, name_of(runtime), agreement)


def _check_int8(inspector: Any, runtime: str, bank_as_input: bool, pictures: Sequence[Any]) -> None:
    if runtime == "torch":
        raise ValueError("`output` must end in .onnx or .xml for 8 bits, got .pt2. Name it map.onnx.")
    if inspector.references is None or bank_as_input:
        raise ValueError("`references` must be given and part of the file for 8 bits: verdicts are compared by them.")
    if len(pictures) < 2:
        raise ValueError(
            f"`int8_pictures` must be at least 2 pictures, got {len(pictures)}: one half sets the steps, the other "
            "is compared. 50 of the line, good and bad, say more."
        )


def _refuse_if_far(difference: float | None) -> None:
    if difference is not None and not difference <= TOLERANCE:
        raise RuntimeError(
            f"The exported map must be within {TOLERANCE} of PyTorch's, got a difference of {difference:.2g}. "
            "This vision tower does not survive the export; please report it with its config.json."
        )


def _write(
    path: MapPath,
    pictures: torch.Tensor,
    extra: tuple[torch.Tensor, ...],
    file: pathlib.Path,
    for_steps: Iterable[np.ndarray] | None = None,
) -> None:
    """Writes the file of a runtime; of 8 bits where pictures are given that set the steps."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    patches = [{0: torch.export.Dim(f"patches_{i}", min=1)} for i in range(len(extra))]
    shapes = {"pixel_values": {0: batch}} | ({"bank": tuple(patches)} if extra else {})
    with torch.no_grad():
        program = torch.export.export(path, (pictures, *extra), dynamic_shapes=shapes)
    if file.suffix == ".pt2":
        torch.export.save(program, str(file))
        return
    onnx_file = file.with_suffix(".onnx")
    names = ["pixel_values", *(f"bank_{i}" for i in range(len(extra)))]
    onnx_program = torch.onnx.export(
        program, input_names=names, output_names=["anomaly_map", "pred_score"], opset_version=OPSET, verbose=False
    )
    onnx_program.save(str(onnx_file), external_data=False)
    if for_steps is not None:
        from .int8 import quantize

        quantize(onnx_file, onnx_file, for_steps, [getattr(path, f"bank_{i}").numpy() for i in range(path.num_banks)])
    if file.suffix == ".xml":
        import openvino

        # In float32 as the model; by default OpenVINO would round the weights to 16 bits.
        openvino.save_model(openvino.Core().read_model(str(onnx_file)), str(file), compress_to_fp16=False)


def _move(
    inspector: Any,
    path: MapPath,
    extra: tuple[torch.Tensor, ...],
    made: pathlib.Path,
    output: pathlib.Path,
    agreement: Agreement | None,
) -> None:
    """Puts what was made in its place, the description with the checksums last."""
    if inspector.references is not None:
        inspector.save_references(made.with_suffix(".safetensors"))
    endings = [".bin", ".safetensors"] if output.suffix == ".xml" else [".safetensors"]
    files = [one for one in (made, *map(made.with_suffix, endings)) if one.exists()]
    description = _description(inspector, path, extra) | {
        "runtime": runtime_of(output),
        "precision": "float32" if agreement is None else "int8",
        "files": {one.name: file_facts(one) for one in files},
    }
    for one in files:
        os.replace(one, output.with_name(one.name))
    write_atomically(output.with_suffix(".json"), json.dumps(description, indent=2) + "\n")


def map_path(inspector: Any, bank_as_input: bool = False) -> tuple[MapPath, MemoryBank | None]:
    """The map path of an inspector, on the CPU in float32, and the memory bank of its references."""
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
    if references is not None and references.views is not None:
        raise ValueError(
            "`references` must be learned without `align` for an export, which follows no pose. Learn them again."
        )
    if bank is not None and bank.presence:
        raise ValueError(
            "`references` must be learned without `presence` for an export, which finds nothing missing. Learn them "
            "again."
        )
    if references is not None and references.roi is not None:
        inside = inspector.encoder.inside([references.roi.shape], references.roi).cpu()
    path = MapPath(model, bank, bank_as_input, text_embeds, inside)
    # The inspector's own model stays on its device and in its number format.
    path = copy.deepcopy(path).float().cpu().eval()
    path.vision_tower.bfloat16_products = False  # other runtimes are held to exact products
    return path, bank


def example_inputs(
    inspector: Any, path: MapPath, bank: MemoryBank | None
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Two random pictures `(2, 3, height, width)` and, where the bank is an input, its layers."""
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
    differences, run = [], load_exported(file)
    for count in (1, 3):
        some = torch.randn(count, *pictures.shape[1:], generator=torch.Generator().manual_seed(count))
        fewer = tuple(layer[: max(1, len(layer) - count)] for layer in extra)
        with torch.no_grad():
            expected = path(some, *fewer)
        results = run(some.numpy(), *(layer.numpy() for layer in fewer))
        differences += [np.abs(one - other.numpy()).max() for one, other in zip(results, expected, strict=True)]
    return float(max(differences))


def compare(
    inspector: Any, path: MapPath, run: Any, pictures: Sequence[Any], extra: Sequence[torch.Tensor] = ()
) -> Agreement:
    """Maps and verdicts of a runtime beside those of PyTorch, picture by picture.

    Args:
        inspector ([`AnomalyInspector`]): Its processor and references; the verdict is that of the map alone.
        path ([`MapPath`]): PyTorch's.
        run (`Callable`): The runtime's, from [`load_exported`].
        pictures (`list`): Paths, PIL images or arrays.
        extra (`tuple[torch.Tensor]`): The layers of the memory bank, where it is an input.

    Returns:
        [`Agreement`]
    """
    scorer = Scorer(inspector.references, "auto", inspector.model.config.decision)
    differences, same = [], 0
    for picture in pictures:
        image = load_picture(picture, inspector.bits)
        pixel_values = _pixels(inspector, image)
        with torch.no_grad():
            expected = path(torch.from_numpy(pixel_values), *extra)[0]
        found = torch.from_numpy(run(pixel_values, *(layer.numpy() for layer in extra))[0])
        differences.append(float((found - expected).abs().max()))
        size = [(image.height, image.width)]
        post = inspector.processor.image_processor.post_process_anomaly_map
        one, other = (scorer.score(post(maps, size)[0]).verdict for maps in (expected, found))
        same += one == other
    return Agreement(len(pictures), same, max(differences))


def _pixels(inspector: Any, image: Image.Image) -> np.ndarray:
    """A picture `(1, 3, height, width)` as the model takes it."""
    return inspector.processor(images=[image], return_tensors="pt")["pixel_values"].float().numpy()


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
        "model": inspector.encoder.fingerprint(),
        "category": inspector.category,
        "num_references": inspector.num_references if not path.bank_as_input else None,
        "threshold": path.threshold,
        "region_threshold": path.config.decision["region_threshold"],
        "memory_bank": "input" if path.bank_as_input else "inside" if kind == "reference" else None,
    }  # fmt: skip


def check_packages(runtime: str, check: bool = True, int8: bool = False) -> None:
    """Refuses to go on without the packages that an export needs; `check` and `int8` need more."""
    making = ["onnx", "onnxscript"]
    if runtime == "onnx":
        names = [*making, "onnxruntime"] if check or int8 else making
        needs_packages(names, "An export to ONNX", "export", ", or export to a .pt2 file")
    if runtime == "openvino":
        names = [*making, *(["onnxruntime"] if int8 else []), "openvino"]
        needs_packages(names, "An export to OpenVINO", "export,openvino")
