"""Give the tensors of a float `.tflite` their int8 ranges and let TensorFlow quantise it, whole or in some modules."""
from __future__ import annotations

import copy
from typing import Any, Sequence

import numpy as np
import onnx

from conversion.bridge.calibrate import Range
from conversion.bridge.graph import is_within
from conversion.bridge.tflite_file import SOURCES, ConversionError, name_tensors, opened


def quantise(content: bytes, graph: onnx.GraphProto, ranges: dict[str, Range]) -> bytes:
    """Quantise a float model to int8, given the range of every tensor of the ONNX graph."""
    import tensorflow as tf
    from ai_edge_litert import schema_py_generated as schema
    from tensorflow.lite.python.convert import mlir_quantize
    with opened(content) as (model, packed):
        subgraph = model.subgraphs[0]
        names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
        known = name_tensors(model, graph)
        for operator in subgraph.operators:
            index = int(operator.outputs[0])
            if index not in known:
                raise ConversionError(untraced(subgraph, names[_code(model, operator)], operator))
            _set_range(subgraph.tensors[index], *ranges[known[index]])
        _set_range(subgraph.tensors[subgraph.inputs[0]], 0.0, 1.0)
        _widen_dead_ranges(subgraph)
    return mlir_quantize(packed[0], disable_per_channel=False, input_data_type=tf.int8, output_data_type=tf.int8)


def _code(model: Any, operator: Any) -> int:
    code = model.operatorCodes[operator.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def untraced(subgraph: Any, kind: str, operator: Any) -> str:
    """Return the message about an operator that has no counterpart in the ONNX graph."""
    return (f"the operator {kind} ({subgraph.tensors[operator.outputs[0]].name.decode()}) cannot be traced back to the "
            "network, so its range is unknown: write that module with the operators that become "
            f"{', '.join(SOURCES)}")


_CLAMPS = ("MINIMUM", "MAXIMUM", "RELU", "RELU_0_TO_1")  # what a clamp of the float output becomes


def quantise_parts(content: bytes, graph: onnx.GraphProto, ranges: dict[str, Range], *,
                   modules: Sequence[str]) -> bytes:
    """Quantise some modules of a float model to int8, given the range of every tensor that they compute or read.

    What they read from outside is coded by an operator of its own, so that all other readers see the float values.
    """
    from ai_edge_litert import schema_py_generated as schema
    from tensorflow.lite.python.convert import mlir_quantize
    with opened(content) as (model, packed):
        subgraph = model.subgraphs[0]
        names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
        known = name_tensors(model, graph)
        operators = []
        for operator in subgraph.operators:
            name = known.get(int(operator.outputs[0]), "")
            variable = [int(i) for i in operator.inputs if int(i) in known]
            if is_within(name, modules):
                outside = [index for index in variable if not is_within(known[index], modules)]
                # A concatenation needs one scale: its result gets that of its operands, to the last bit.
                joined = len(outside) > 1 and names[_code(model, operator)] == "CONCATENATION"
                if not joined:
                    _set_range(subgraph.tensors[operator.outputs[0]], *ranges[name])
                spans = {index: ranges[known[index]] for index in outside}
                if joined:
                    lows, highs = zip(*spans.values())
                    spans = dict.fromkeys(outside, (min(lows), max(highs)))
                for index, span in spans.items():
                    coding, coded = _coded(model, index, *span)
                    operators += coding
                    operator.inputs = np.where(np.asarray(operator.inputs) == index, coded, operator.inputs)
            elif not name and (kind := names[_code(model, operator)]) not in _CLAMPS:
                raise ConversionError(untraced(subgraph, kind, operator))
            operators.append(operator)
        subgraph.operators = operators
        _widen_dead_ranges(subgraph)
    return mlir_quantize(packed[0], disable_per_channel=False)


def _coded(model: Any, index: int, low: float, high: float) -> tuple[list[Any], int]:
    """Return operators that code a float tensor in int8 and decode it, and the number of the decoded tensor."""
    from ai_edge_litert import schema_py_generated as schema
    subgraph, added = model.subgraphs[0], []
    scale = (high - low) / 255
    source = index
    for kind, dtype in (("QUANTIZE", schema.TensorType.INT8), ("DEQUANTIZE", schema.TensorType.FLOAT32)):
        tensor = copy.copy(subgraph.tensors[index])
        tensor.type, tensor.quantization, tensor.name = dtype, None, tensor.name + b"/" + kind.encode()
        if kind == "QUANTIZE":
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.array([scale], np.float32)
            tensor.quantization.zeroPoint = np.array([round(-128 - low / scale)], np.int64)
        subgraph.tensors.append(tensor)
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = code.builtinCode, 1 if kind == "QUANTIZE" else 2
        model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(model.operatorCodes) - 1
        operator.inputs = np.array([source], np.int32)
        source = len(subgraph.tensors) - 1
        operator.outputs = np.array([source], np.int32)
        added.append(operator)
    return added, source


def _set_range(tensor: Any, low: float, high: float) -> None:
    from ai_edge_litert import schema_py_generated as schema
    if tensor.quantization is None:
        tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.min, tensor.quantization.max = np.array([low], np.float32), np.array([high], np.float32)


def _widen_dead_ranges(graph: Any) -> None:
    """Give a tensor that was (nearly) always 0, the range of the tensor it is computed from.

    Its own range would give a scale so small that XNNPACK refuses the model, and would clip any other value.
    """
    for operator in graph.operators:
        source, result = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
        if not all(t.quantization is not None and t.quantization.max is not None for t in (source, result)):
            continue
        reach = max(-float(source.quantization.min[0]), float(source.quantization.max[0]))
        if max(-float(result.quantization.min[0]), float(result.quantization.max[0])) < 1e-5 * reach:
            _set_range(result, 0.0, reach)
