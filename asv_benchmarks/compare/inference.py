"""onnxruntime: our layers written down as an ONNX model, node by node, with their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import numba_nn as nn
from numba_nn.report.measuring.cases import Shape

from .work import Side

OPSET, IR_VERSION = 17, 8


def onnxruntime_side(model: Any, x: np.ndarray, y_shape: Shape) -> Side:
    """A model's forward in onnxruntime, from and into bound arrays, on as many threads as ours."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = nn.get_num_threads(), 1
    serialized = as_onnx(model, x.shape, y_shape).SerializeToString()
    session = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    source, target = (onnxruntime.OrtValue.ortvalue_from_numpy(a) for a in (x, np.empty(y_shape, np.float32)))
    binding.bind_ortvalue_input("x", source)
    binding.bind_ortvalue_output("y", target)
    return Side("onnxruntime", lambda: session.run_with_iobinding(binding), lambda _: [target.numpy()])


def as_onnx(model: Any, x_shape: Shape, y_shape: Shape) -> Any:
    """A layer, or a `Sequential`, as an ONNX model from "x" to "y"."""
    layers = list(model) if isinstance(model, nn.Sequential) else [model]
    nodes, weights = [], []
    for number, one in enumerate(layers):
        operator, arrays, attributes = NODES[type(one).__name__](one)
        names = [f"{number}.{i}" if a is not None else "" for i, a in enumerate(arrays)]
        source, target = "x" if number == 0 else f"y{number - 1}", "y" if number == len(layers) - 1 else f"y{number}"
        nodes.append(helper.make_node(operator, [source, *names], [target], **attributes))
        weights += [numpy_helper.from_array(a, name) for a, name in zip(arrays, names, strict=True) if a is not None]
    kind = onnx.TensorProto.FLOAT
    ends = [[helper.make_tensor_value_info(name, kind, shape)] for name, shape in (("x", x_shape), ("y", y_shape))]
    graph = helper.make_graph(nodes, "model", *ends, initializer=weights)
    model_proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model_proto)
    return model_proto


Node = tuple[str, list[Any], dict[str, Any]]
"""Operator, arrays behind its input (None where one is left out), attributes."""


def _values(one: Any) -> list[Any]:
    return [p.value for p in one.parameters()]


def _pair(number: Any) -> list[int]:
    return list(number) if isinstance(number, tuple) else [number, number]


def _window(one: Any) -> dict[str, Any]:
    return {"kernel_shape": _pair(one.kernel_size), "strides": _pair(one.stride), "pads": 2 * _pair(one.padding)}


def _conv(one: Any) -> Node:
    return "Conv", _values(one), {**_window(one), "dilations": _pair(one.dilation), "group": one.groups}


def _batch_norm(one: Any) -> Node:
    return "BatchNormalization", [*_values(one), one.running_mean, one.running_var], {"epsilon": one.eps}


def _upsample(one: Any) -> Node:
    scales = np.array([1, 1, *_pair(one.scale_factor)], np.float32)
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return "Resize", [None, scales], modes


NODES: dict[str, Callable[[Any], Node]] = {
    "Conv1d": _conv,
    "Conv2d": _conv,
    "BatchNorm2d": _batch_norm,
    "Upsample": _upsample,
    "Linear": lambda one: ("Gemm", _values(one), {"transB": 1}),
    "MaxPool2d": lambda one: ("MaxPool", [], _window(one)),
    "ReLU": lambda one: ("Relu", [], {}),
    "Tanh": lambda one: ("Tanh", [], {}),
}
"""Our class to its node."""
