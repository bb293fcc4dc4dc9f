"""The transformer layers of an exported map path in whole numbers of 8 bits: smaller, and not the same numbers.

Convolutions stay in float32: with those of the embedded checkpoint in 8 bits, a good capsule had the score 1.0 and not
0.6. So does the comparison with the good patches: distances of good parts are small differences of large products.
"""

import os
import pathlib
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

_TYPES = ("MatMul", "Gemm")


def _reader(batches: Iterable[np.ndarray]) -> Any:
    """The batches as onnxruntime wants them; it is an extra, so it is imported where it is used."""
    from onnxruntime.quantization import CalibrationDataReader

    class Batches(CalibrationDataReader):
        waiting = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.waiting, None)
            return None if batch is None else {"pixel_values": batch}

    return Batches()


def quantize(
    file: str | os.PathLike, output: str | os.PathLike, batches: Iterable[np.ndarray], bank: Sequence[np.ndarray]
) -> None:
    """Writes an ONNX file whose products with weights are of 8 bits.

    Args:
        file (`str` or `os.PathLike`): The exported map path in float32.
        output (`str` or `os.PathLike`): Where to.
        batches (iterable of `np.ndarray` of shape `(batch_size, 3, height, width)`): Pictures as the model takes them;
            between the least and the greatest value that each layer has on them lie its 256 steps.
        bank (`list[np.ndarray]`, each of shape `(num_patches, dim)`): The good patches, which stay as they are.

    Raises:
        ValueError: If there is no such product.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        fused = pathlib.Path(folder) / "fused.onnx"
        quant_pre_process(str(file), str(fused), skip_symbolic_shape=True)  # shapes, and what can be merged
        graph = onnx.load(fused).graph
        excluded, constants = products_with(bank, graph), {entry.name for entry in graph.initializer}
        if all(
            node.op_type not in _TYPES or node.name in excluded or not constants & set(node.input)
            for node in graph.node
        ):
            raise ValueError(
                "The vision model must have transformer layers for 8 bits, got convolutions alone. Export it whole."
            )
        quantize_static(
            str(fused), str(output), _reader(batches), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=list(_TYPES),
            nodes_to_exclude=excluded, extra_options={"MatMulConstBOnly": True},
        )  # fmt: skip


def products_with(bank: Sequence[np.ndarray], graph: Any) -> list[str]:
    """Names of the nodes that take the good patches, as they are or transposed: an export keeps no names."""
    import onnx

    known = [layer for rows in bank for layer in (rows, rows.T)]
    shapes = {layer.shape for layer in known}
    constants = set()
    for entry in graph.initializer:
        if tuple(entry.dims) in shapes and entry.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(entry)
            if any(np.array_equal(values, layer) for layer in known):
                constants.add(entry.name)
    return [node.name for node in graph.node if constants & set(node.input)]


__all__ = ["products_with", "quantize"]
