"""Runtimes for an exported map path: onnxruntime, OpenVINO, `torch.export`; the ending of a file says which.

Knows files and arrays; knows no model.
"""

import importlib.util
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

RUNTIMES = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch"}
"""Ending of the file of each runtime. Beside an `.xml` lies the `.bin` with its weights."""

_NAMES = {"onnx": "onnxruntime", "openvino": "OpenVINO", "torch": "torch.export"}


def runtime_of(file: str | os.PathLike) -> str:
    """The runtime of a file, by its ending.

    Raises:
        ValueError: If the ending is none of [`RUNTIMES`].
    """
    ending = pathlib.Path(file).suffix
    if ending not in RUNTIMES:
        raise ValueError(f"`output` must end in .onnx, .xml or .pt2, got {str(file)!r}.")
    return RUNTIMES[ending]


def name_of(runtime: str) -> str:
    """What a runtime is called."""
    return _NAMES[runtime]


def load_exported(file: str | os.PathLike, threads: int | None = None) -> Callable[..., list[np.ndarray]]:
    """Loads an exported file to be run many times, on the CPU in float32.

    Args:
        file (`str` or `os.PathLike`): `NAME.onnx`, `NAME.xml` or `NAME.pt2`.
        threads (`int`, *optional*): Of onnxruntime and OpenVINO; as many as they like by default.

    Returns:
        `Callable`: Arguments (`pixel_values` and, where the memory bank is an input, its layers) and results are
        those of [`MapPath.forward`], as arrays.

    Raises:
        ValueError: If the ending is unknown.
        ImportError: If the runtime is not installed; says how to install it.
    """
    runtime = runtime_of(file)
    if runtime == "torch":
        import torch

        program = torch.export.load(str(file)).module()

        def run_torch(*arrays: np.ndarray) -> list[np.ndarray]:
            with torch.no_grad():
                return [one.numpy() for one in program(*map(torch.from_numpy, arrays))]

        return run_torch
    if runtime == "onnx":
        needs_packages(["onnxruntime"], "A file for onnxruntime", "export")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))
    needs_packages(["openvino"], "A file for OpenVINO", "openvino")
    import openvino

    # Processors with bfloat16 would otherwise compute in it, and the map would differ in the third digit.
    settings = {"INFERENCE_PRECISION_HINT": "f32"} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
    compiled = openvino.Core().compile_model(str(file), "CPU", settings)

    def run_openvino(*arrays: np.ndarray) -> list[np.ndarray]:
        results = compiled(list(arrays))
        return [np.array(results[index]) for index in range(2)]

    return run_openvino


def needs_packages(names: Sequence[str], purpose: str, extra: str, otherwise: str = "") -> None:
    """Refuses to go on without packages; `ImportError`, which says how to install them."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"{purpose} needs {', '.join(missing)}. Run: pip install {' '.join(names)} "
            f'(or pip install "anomalygpt[{extra}]"){otherwise}.'
        )


__all__ = ["RUNTIMES", "load_exported", "name_of", "needs_packages", "runtime_of"]
