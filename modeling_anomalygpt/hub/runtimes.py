"""Runtimes for an exported map path: onnxruntime, OpenVINO, `torch.export`; the ending of a file says which.

Knows files and arrays; knows no model.
"""

import importlib.util
import json
import os
import pathlib
import pickle
import re
import threading
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

RUNTIMES = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch"}
"""Ending of the file of each runtime. Beside an `.xml` lies the `.bin` with its weights."""

_NAMES = {"onnx": "onnxruntime", "openvino": "OpenVINO", "torch": "torch.export"}
# What `torch.export` writes of a map path. Whatever else it reads, it may run: compiled libraries, pickles, any
# function that a graph names, code in expressions and in names.
_RECORDS = re.compile(
    r"[\w.]+|\.data/\w+|models/model\.json|data/(weights|constants|sample_inputs)/(model\.pt|(weight|tensor|model)_\w+(\.json)?)"
)
_NAME = re.compile(r"[\w.+-]*")
_SPEC = re.compile(r'(?:"(?:type|context|children_spec|builtins\.(?:tuple|list|dict)|null|\[\])"|null|\d|[][{}:, ])*+')
_TEXTS = {
    "target": re.compile(
        r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|torch\.ops\.higher_order\.wrap_with_(autocast|set_grad_enabled)"
        r"|torch\.sym_\w+|_operator\.(add|sub|mul|floordiv|mod|neg|getitem|eq|ne|lt|le|gt|ge)"
    ),
    "expr_str": re.compile(r"(?:[A-Z]\w*+|'\w+'|[a-z]+=(?:True|False)|\b[su]?\d+|[-+*/, ()])*+"),
    "as_string": re.compile(r"[\w.,> +-]*"),  # of an operator: the equation of `einsum`
    "in_spec": _SPEC,
    "out_spec": _SPEC,
}
_WEIGHTS_ONLY = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
_LOADING = threading.Lock()  # one environment for all threads


def runtime_of(file: str | os.PathLike) -> str:
    """The runtime of a file, by its ending.

    Raises:
        ValueError: If the ending is none of [`RUNTIMES`].
    """
    ending = pathlib.Path(file).suffix
    if ending not in RUNTIMES:
        raise ValueError(f"`output` must end in .onnx, .xml or .pt2, got {str(file)!r}. Name it map.onnx.")
    return RUNTIMES[ending]


def name_of(runtime: str) -> str:
    """What a runtime is called."""
    return _NAMES[runtime]


def load_exported(file: str | os.PathLike) -> Callable[..., list[np.ndarray]]:
    """Loads an exported file to be run many times, on the CPU in float32.

    Args:
        file (`str` or `os.PathLike`): `NAME.onnx`, `NAME.xml` or `NAME.pt2`.

    Returns:
        `Callable`: Arguments (`pixel_values` and, where the memory bank is an input, its layers) and results are
        those of [`MapPath.forward`], as arrays.

    Raises:
        ValueError: If the ending is unknown, **or** a `.pt2` holds code.
        ImportError: If the runtime is not installed; says how to install it.
    """
    runtime = runtime_of(file)
    if runtime == "torch":
        import torch

        program = _load_program(str(file)).module()

        def run_torch(*arrays: np.ndarray) -> list[np.ndarray]:
            with torch.no_grad():
                return [one.numpy() for one in program(*map(torch.from_numpy, arrays))]

        return run_torch
    if runtime == "onnx":
        needs_packages(["onnxruntime"], "A file for onnxruntime", "export")
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))
    needs_packages(["openvino"], "A file for OpenVINO", "openvino")
    import openvino

    # Processors with bfloat16 would otherwise compute in it, and the map would differ in the third digit.
    compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run_openvino(*arrays: np.ndarray) -> list[np.ndarray]:
        results = compiled(list(arrays))
        return [np.array(results[index]) for index in range(2)]

    return run_openvino


def _load_program(file: str) -> Any:
    """What `torch.export.load` gives, which by itself would run the code that a file brings."""
    import torch

    if torch.__version__ >= (2, 8):  # before, the file was another one
        _refuse_code(file)
    with _LOADING:
        before = {name: os.environ.pop(name, None) for name in _WEIGHTS_ONLY}
        os.environ.update(_WEIGHTS_ONLY)
        try:
            return torch.export.load(file)
        except pickle.UnpicklingError as error:
            raise ValueError("It holds a pickle that is more than numbers. Export it again.") from error
        finally:
            for name in _WEIGHTS_ONLY:
                del os.environ[name]
            os.environ.update({name: value for name, value in before.items() if value is not None})


def _refuse_code(file: str) -> None:
    """Refuses a `.pt2` with anything that is no part of a map path."""
    from torch.export.pt2_archive import PT2ArchiveReader

    with zipfile.ZipFile(file) as archive:
        if "version" in archive.namelist():
            raise ValueError("It was written by PyTorch before 2.8. Export it again.")
    with PT2ArchiveReader(file) as reader:  # which torch itself reads with: both see the same
        strange = [name for name in reader.get_file_names() if not _RECORDS.fullmatch(name)]
        if strange or not _is_plain(json.loads(reader.read_string("models/model.json"))):
            raise ValueError(
                f"It holds what no export writes ({(strange or ['a graph with code'])[0]!r}). Export it again."
            )


def _is_plain(value: Any, key: str = "") -> bool:
    """Whether all texts of a graph are names, operators and sizes; those for people stand under "metadata"."""
    if isinstance(value, dict):
        return all(
            _NAME.fullmatch(name) and (name == "metadata" or _is_plain(one, name)) for name, one in value.items()
        )
    if isinstance(value, list):
        return all(_is_plain(one, key) for one in value)
    return not isinstance(value, str) or _TEXTS.get(key, _NAME).fullmatch(value) is not None


def needs_packages(names: Sequence[str], purpose: str, extra: str, otherwise: str = "") -> None:
    """Refuses to go on without packages; `ImportError`, which says how to install them."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"{purpose} needs {', '.join(missing)}. Run: pip install {' '.join(names)} "
            f'(or pip install "anomalygpt[{extra}]"){otherwise}.'
        )


__all__ = ["RUNTIMES", "load_exported", "name_of", "needs_packages", "runtime_of"]
