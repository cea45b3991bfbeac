"""Tiny real ONNX models, for tests of judges that are classifiers of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Dimensions as ONNX has them: a name leaves one free.
Shape = Sequence[int | str]


def linear_model(
    weights: np.ndarray,
    bias: Sequence[float],
    *,
    shape: Shape = ("N", 3, 16, 24),
    flat: bool = False,
    kind: int = TensorProto.FLOAT,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Return a model whose logits are weights (C, 3) times the mean of each channel, plus a bias (C,).

    Parameters:
        weights, bias: of the C logits.
        shape: of its input.
        flat: the one logit comes as (N,) instead of (N, 1).
        kind: element type of its input, which it casts to float32.
        metadata: its ``metadata_props``.
    """
    nodes = [
        helper.make_node("Cast", ["pictures"], ["images"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["logits"]),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(weights)])]
    if flat:
        nodes.append(helper.make_node("Squeeze", ["logits", "axis"], ["flat"]))
        outputs = [helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["N"])]
    constants = [
        numpy_helper.from_array(np.asarray(weights, np.float32).T.copy(), "weights"),
        numpy_helper.from_array(np.asarray(bias, np.float32), "bias"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
    ]
    inputs = [helper.make_tensor_value_info("pictures", kind, list(shape))]
    return saved(helper.make_graph(nodes, "linear", inputs, outputs, constants), metadata)


def saved(graph: onnx.GraphProto, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a checked model of a graph."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
