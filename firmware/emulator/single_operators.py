"""Int8 models of one operator each, made from its shapes: what the counts of instructions are fitted to.

A model is written through the schema that ships with LiteRT, so that it holds exactly the operator that was asked for:
a converter would fuse, fold or split some of them. Weights are noise; scales are those of a converter that has seen
noise in [-1, 1].
"""
from __future__ import annotations

import math
from typing import Any, Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

Shape = Sequence[int]
ONE_SCALE = ("AVERAGE_POOL_2D", "CONCATENATION", "DEPTH_TO_SPACE", "MAX_POOL_2D", "MIRROR_PAD", "PAD", "REDUCE_MAX",
             "RELU6", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SPACE_TO_DEPTH")  # of input and output
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
SCALE, ZERO = 2 / 255, -1  # of [-1, 1]
SLOPE = 0.2  # of LEAKY_RELU


def single_operator(name: str, strides: Shape, inputs: Sequence[Shape], output: Shape, window: Shape = ()) -> bytes:
    """Return a `.tflite` with one int8 operator.

    Args:
        name: as in the schema, "CONV_2D".
        strides: (vertical, horizontal); 1 where the operator has none.
        inputs: shapes of what the operator reads, in its order, weights, axes and sizes included, biases left out.
        output: shape of what it writes; decides padding, axes, block sizes and factors.
        window: of a pooling, (height, width).

    Raises:
        ValueError: no such operator has these shapes, or this module does not know it.
    """
    model = _Model(np.random.default_rng(0))
    data = list(inputs)
    if name in CONVOLUTIONS:
        at, source = (2, data[2]) if name == "TRANSPOSE_CONV" else (0, data[0])
        indices = [model.computed(source)]
        channels = output[-1]
        bias = model.constant((channels,), np.int32, scales=_filter_scales(channels, SCALE))
        weights = model.constant(data[1], np.int8, scales=_filter_scales(channels),
                                 axis=3 if name == "DEPTHWISE_CONV_2D" else 0)
        indices = [*indices, weights, bias]
        if at == 2:
            indices = [model.constant((4,), np.int32, output), weights, indices[0], bias]
    elif name in ("PAD", "MIRROR_PAD"):
        change = [after - before for before, after in zip(data[0], output)]
        indices = [model.computed(data[0]),
                   model.constant((4, 2), np.int32, [(more // 2, more - more // 2) for more in change])]
    elif name in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
        indices = [model.computed(data[0]), model.constant((2,), np.int32, output[1:3])]
    elif name == "REDUCE_MAX":
        count = math.prod(data[1])
        axes = [axis for axis, (before, after) in enumerate(zip(data[0], output)) if before != after]
        axes = axes if len(axes) == count else list(range(4 - count, 4)) if count == 1 else [1, 2][:count]
        indices = [model.computed(data[0]), model.constant(data[1], np.int32, np.reshape(axes, data[1]))]
    else:
        indices = [model.computed(shape) if len(shape) else model.constant((), np.int8, scales=[SCALE])
                   for shape in data]
    result = model.computed(output, *_output_scale(name, data), given=False)
    return model.finish(name, indices, result, _options(name, strides, data, output, window))


def _filter_scales(channels: int, factor: float = 1) -> list[float]:
    return [factor * (0.004 + 0.001 * (i % 3)) for i in range(channels)]


def _output_scale(name: str, inputs: Sequence[Shape]) -> tuple[float, int]:
    """Return the scale and the zero point of an output."""
    if name in ONE_SCALE:
        return SCALE, ZERO
    if name in CONVOLUTIONS:  # three times the standard deviation; 74 is that of int8 noise
        terms = math.prod(inputs[1][1:3] if name == "DEPTHWISE_CONV_2D" else inputs[1][1:])
        return 3 / 128 * 74 * SCALE * 74 * 0.005 * math.sqrt(terms), ZERO
    shares = (0, 255 / 256)
    lowest, highest = {"ADD": (-2, 2), "SUB": (-2, 2), "RELU": (0, 1), "LEAKY_RELU": (-SLOPE, 1), "SOFTMAX": shares,
                       "LOGISTIC": shares, "QUANTIZE": (-1.5, 1.5)}.get(name, (-1, 1))
    scale = (highest - lowest) / 255
    return scale, round(-128 - lowest / scale - 0.01)


def _options(name: str, strides: Shape, inputs: Sequence[Shape], output: Shape, window: Shape) -> Any:
    """Return the options of an operator, an object of the schema, or None if it has none."""
    kind = {"AVERAGE_POOL_2D": "Pool2D", "MAX_POOL_2D": "Pool2D", "CONV_2D": "Conv2D", "LEAKY_RELU": "LeakyRelu",
            "DEPTHWISE_CONV_2D": "DepthwiseConv2D", "REDUCE_MAX": "Reducer", "ADD": "Add", "MUL": "Mul", "SUB": "Sub",
            "TRANSPOSE_CONV": "TransposeConv", "CONCATENATION": "Concatenation", "DEPTH_TO_SPACE": "DepthToSpace",
            "SPACE_TO_DEPTH": "SpaceToDepth", "SOFTMAX": "Softmax", "RESIZE_BILINEAR": "ResizeBilinear", "PAD": "Pad",
            "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighbor", "MIRROR_PAD": "MirrorPad", "QUANTIZE": "Quantize",
            "RELU": "", "RELU6": "", "LOGISTIC": ""}
    if name not in kind:
        raise ValueError(f"no model is made of {name}")
    if not kind[name]:
        return None
    options = getattr(schema, f"{kind[name]}OptionsT")()
    source = inputs[0]
    if hasattr(options, "strideH"):
        options.strideH, options.strideW = strides
        if name == "TRANSPOSE_CONV":
            options.padding = _padding(output, inputs[1][1:3], strides, inputs[2])
        else:
            window = window or inputs[1][1:3]
            options.padding = _padding(source, window, strides, output)
    if hasattr(options, "filterHeight"):
        options.filterHeight, options.filterWidth = window
    if hasattr(options, "depthMultiplier"):
        options.depthMultiplier = output[-1] // source[-1]
    if hasattr(options, "dilationHFactor"):
        options.dilationHFactor = options.dilationWFactor = 1
    if hasattr(options, "blockSize"):
        options.blockSize = max(output[1] // source[1], source[1] // output[1])
    for field, value in (("beta", 1.0), ("alpha", SLOPE), ("keepDims", True), ("halfPixelCenters", True)):
        if hasattr(options, field):
            setattr(options, field, value)
    if name == "CONCATENATION":
        options.axis = next((i for i, (whole, part) in enumerate(zip(output, source)) if whole != part), 0)
    return options


def _padding(source: Shape, window: Shape, strides: Shape, output: Shape) -> int:
    """Return the padding under which a window makes `output` of `source`; VALID where both do."""
    steps = list(zip(source[1:3], window, strides))
    if [(size - length) // stride + 1 for size, length, stride in steps] == list(output[1:3]):
        return schema.Padding.VALID
    if [-(-size // stride) for size, _, stride in steps] == list(output[1:3]):
        return schema.Padding.SAME
    raise ValueError(f"no padding makes {list(output)} of {list(source)} with a window of {list(window)}")


class _Model:
    """A model while it is built: one list of tensors and one of buffers."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]  # the first is empty, by convention
        self.inputs: list[int] = []

    def _tensor(self, shape: Shape, kind: int, scales: Sequence[float], zero: int, axis: int, buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.name = f"tensor{len(self.tensors)}".encode()
        tensor.shape, tensor.type, tensor.buffer = [int(side) for side in shape], kind, buffer
        if len(scales):
            quantization = tensor.quantization = schema.QuantizationParametersT()
            quantization.scale = list(map(float, scales))
            quantization.zeroPoint = [zero] * len(scales)
            quantization.quantizedDimension = axis
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def computed(self, shape: Shape, scale: float = SCALE, zero: int = ZERO, *, given: bool = True) -> int:
        """Add an int8 tensor that is no constant, an input of the model if `given`; return its index."""
        index = self._tensor(shape, schema.TensorType.INT8, [scale], zero, 0, 0)
        if given:
            self.inputs.append(index)
        return index

    def constant(self, shape: Shape, dtype: type, values: Any = None, *, scales: Sequence[float] = (),
                 axis: int = 0) -> int:
        """Add a constant, noise if no values are given; return its index."""
        if values is None:
            most = 127 if dtype is np.int8 else 1000
            values = self.random.integers(-most, most + 1, shape)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.asarray(values, dtype).tobytes(), np.uint8)
        self.buffers.append(buffer)
        kind = schema.TensorType.INT8 if dtype is np.int8 else schema.TensorType.INT32
        return self._tensor(shape, kind, scales, 0, axis, len(self.buffers) - 1)

    def finish(self, name: str, inputs: list[int], output: int, options: Any) -> bytes:
        """Return the file with the one operator."""
        code, operator, subgraph, model = (schema.OperatorCodeT(), schema.OperatorT(), schema.SubGraphT(),
                                           schema.ModelT())
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = 2
        operator.opcodeIndex, operator.inputs, operator.outputs = 0, inputs, [output]
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
        subgraph.tensors, subgraph.operators = self.tensors, [operator]
        subgraph.inputs, subgraph.outputs = self.inputs, [output]
        model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [subgraph], self.buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
