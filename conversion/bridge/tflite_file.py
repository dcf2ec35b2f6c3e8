"""A `.tflite` as objects: open it to change it, name its tensors after the ONNX graph, order them, store arrays once.

* Every tensor that has a counterpart in the ONNX graph gets its name, so that the file shows the PyTorch module of an
  operator, and stages can be compared tensor by tensor.
* Tensors are ordered so that TensorFlow Lite Micro needs a small arena.
* Equal arrays, such as shared weights or zero points, are stored once.
"""
from __future__ import annotations

import contextlib
from typing import Any, Iterator

import flatbuffers
import numpy as np
import onnx
from onnx import numpy_helper


class ConversionError(RuntimeError):
    """onnx2tf or TensorFlow failed; the message has the line of its output that names the cause."""


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[tuple[Any, list[bytes]]]:
    """Yield a .tflite as objects to change, and a list that holds the bytes of the changed file afterwards."""
    from ai_edge_litert import schema_py_generated as schema
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    packed: list[bytes] = []
    yield model, packed
    builder = _SharingBuilder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    packed.append(bytes(builder.Output()))


class _SharingBuilder(flatbuffers.Builder):
    """A flatbuffers builder that stores equal arrays once: weights of shared modules, zero points, shapes, biases.

    Byte arrays are aligned to 16 bytes, as the schema of .tflite requires for the content of tensors.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._stored: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        key = (x.dtype.str, x.tobytes())
        if key not in self._stored:
            self._stored[key] = super().CreateNumpyVector(x)
        return self._stored[key]

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:
        return super().StartVector(elemSize, numElems, 16 if elemSize == 1 else alignment)


def finish(content: bytes, graph: onnx.GraphProto) -> bytes:
    """Name a model's tensors after the ONNX graph, sort them and store equal arrays once."""
    with opened(content) as (model, packed):
        name_tensors(model, graph)
        _order_tensors(model)
    return packed[0]


def _order_tensors(model: Any) -> None:
    """Sort a model's tensors by how long they live.

    TensorFlow Lite Micro places tensors in its arena by size and, among tensors of equal size, from the last to the
    first. So the longest-lived tensors are placed first and the others share the rest. For `mcu` the arena is then as
    small as in any plan; with the converter's order it is a tenth larger.
    """
    subgraph = model.subgraphs[0]
    life = [0] * len(subgraph.tensors)
    made: dict[int, int] = {}
    for number, operator in enumerate(subgraph.operators):
        made |= {int(i): number for i in operator.outputs}
        for i in operator.inputs:
            if i in made:
                life[i] = number - made[i]
    order = sorted(range(len(life)), key=life.__getitem__)
    place = {old: new for new, old in enumerate(order)} | {-1: -1}
    subgraph.tensors = [subgraph.tensors[i] for i in order]
    for part in (subgraph, *subgraph.operators):
        for side in ("inputs", "outputs"):
            setattr(part, side, np.array([place[int(i)] for i in getattr(part, side)], np.int32))
    for signature in model.signatureDefs or ():
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = place[entry.tensorIndex]


# The ONNX operators that become a TFLite operator.
SOURCES = {"CONV_2D": "Conv", "DEPTHWISE_CONV_2D": "Conv", "TRANSPOSE_CONV": "ConvTranspose", "ADD": "Add",
           "SUB": "Sub", "MUL": "Mul", "DIV": "Div", "MAXIMUM": "Max", "ABS": "Abs", "NEG": "Neg", "EXP": "Exp",
           "LOG": "Log", "SQRT": "Sqrt", "AVERAGE_POOL_2D": "AveragePool", "MAX_POOL_2D": "MaxPool",
           "REDUCE_MAX": "ReduceMax", "CONCATENATION": "Concat", "RESIZE_BILINEAR": "Resize", "MIRROR_PAD": "Pad",
           "DEPTH_TO_SPACE": "DepthToSpace", "LOGISTIC": "Sigmoid", "LEAKY_RELU": "LeakyRelu", "SOFTMAX": "Softmax",
           "RELU": "Relu", "RELU6": "Clip"}
_ALIASES = ("PAD", "QUANTIZE", "DEQUANTIZE")  # the converter adds these: their output gets the name of their input


def name_tensors(model: Any, graph: onnx.GraphProto) -> dict[int, str]:
    """Find the ONNX node of every operator, by its kind, operands and weights, and name its tensors after it.

    A tensor whose operator has no counterpart keeps the converter's name. Returns the ONNX names by tensor index.
    """
    from ai_edge_litert import schema_py_generated as schema
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    subgraph = model.subgraphs[0]
    weights = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in set(node.input):
            consumers.setdefault(name, []).append(node)
    values = {i: _values(model, tensor) for i, tensor in enumerate(subgraph.tensors)}  # of constants
    known = {subgraph.inputs[0]: graph.input[0].name}  # tensor index -> name in the ONNX graph
    subgraph.tensors[subgraph.inputs[0]].name = graph.input[0].name.encode()
    used: set[str] = set()
    for operator in subgraph.operators:
        kind = names[model.operatorCodes[operator.opcodeIndex].builtinCode]
        inputs = [int(i) for i in operator.inputs if i >= 0]
        variable = [i for i in inputs if values[i] is None]
        output = int(operator.outputs[0])
        if kind == "DEQUANTIZE" and not variable:  # the weights of a float16 model
            values[output] = values[inputs[0]]
            continue
        if not variable or any(i not in known for i in variable):
            continue
        operands = sorted(known[i] for i in variable)
        if kind in _ALIASES and len(operands) == 1:
            known[output] = operands[0]
            continue
        constants = [value for value in (values[i] for i in inputs) if value is not None]
        candidates = [node for node in consumers.get(operands[0], ())
                      if node.op_type == SOURCES.get(kind) and node.name not in used
                      and sorted(name for name in node.input if name and name not in weights) == operands]
        if not candidates:
            continue
        node = min(candidates, key=lambda node: _distance(node, weights, constants))
        used.add(node.name)
        for i in inputs:
            _name_constant(subgraph.tensors[i], values[i], node)
        fused = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
        known[output] = _activated(node, consumers).output[0] if fused else node.output[0]
        subgraph.tensors[output].name = known[output].encode()
    return known


def _activated(node: onnx.NodeProto, consumers: dict[str, list[onnx.NodeProto]]) -> onnx.NodeProto:
    return next((after for after in consumers.get(node.output[0], ()) if after.op_type in ("Relu", "Clip")), node)


def _name_constant(tensor: Any, values: np.ndarray | None, node: onnx.NodeProto) -> None:
    if values is not None and len(node.input) > 1 and node.op_type in ("Conv", "ConvTranspose"):
        weight = node.input[1]
        tensor.name = (weight if values.ndim == 4 else f"{weight.removesuffix('.weight')}.bias").encode()


def _values(model: Any, tensor: Any) -> np.ndarray | None:
    """Return a constant's values, dequantised if they are int8; None for a tensor that is computed."""
    data = model.buffers[tensor.buffer].data
    if data is None or not len(data):
        return None
    from ai_edge_litert import schema_py_generated as schema
    types = schema.TensorType
    dtype = {types.FLOAT32: np.float32, types.FLOAT16: np.float16, types.INT8: np.int8}.get(tensor.type, np.int32)
    values = np.frombuffer(bytes(data), dtype).reshape(tensor.shape)
    scales = tensor.quantization.scale if tensor.quantization is not None else None
    if dtype != np.int8 or scales is None or not len(scales):
        return values
    if len(scales) == 1:
        return values * np.float32(scales[0])
    shape = [1] * values.ndim
    shape[tensor.quantization.quantizedDimension] = len(scales)
    return values * np.asarray(scales, np.float32).reshape(shape)


def _distance(node: onnx.NodeProto, weights: dict[str, np.ndarray], constants: list[np.ndarray]) -> float:
    """Return the largest difference of a node's weights from a convolution's; 0 if it has none."""
    expected = weights.get(node.input[1]) if len(node.input) > 1 else None
    if expected is None or expected.ndim != 4:
        return 0.0
    found = [c.ravel() for c in constants if c.ndim == 4 and c.size == expected.size]
    order = (0, 2, 3, 1) if node.op_type == "Conv" and expected.shape[1] > 1 else (1, 2, 3, 0)
    return min((float(np.abs(c - expected.transpose(order).ravel()).max()) for c in found), default=np.inf)
