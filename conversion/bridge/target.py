"""What a runtime can run, and whether a `.tflite` complies with it.

A model that converts does not always run, and one that runs does not always give the same bytes everywhere. A
`Target` lists the operators, the highest version of their int8 kernels, and other limits; `check` compares a file with
it. The operators that the sketch registers come from here too (`resolver_methods`), so the list that is checked and
the list that is compiled are the same.

Two targets:

* `arduino-tflm`: the TFLite Micro library for Arduino (TFLM of February 2023 with CMSIS-NN). It allows only operators
  whose int8 kernels give the same bytes there, in today's tflite-micro and in LiteRT's reference kernels. That excludes
  MEAN and SUM (rounded differently), FULLY_CONNECTED (LiteRT requantises in float since 2.20; a 1x1 convolution does
  the same), PRELU, LOGISTIC and TANH. MUL is allowed: its multiplier is computed in float or in double, which changes
  about one result in a million by one step.
* `litert`: LiteRT on larger devices. No Flex operators, everything int8, or some modules and the rest in float.
"""
from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Callable, Iterator, Mapping, Sequence

from conversion.bridge.graph import Graph, Operator, Tensor, is_within, module_of, read_graph
from mirnet_torch.cli import UserError

_TFLM = {  # operator: (highest version of its int8 kernel, method of MicroMutableOpResolver)
    "ADD": (2, "AddAdd"),
    "AVERAGE_POOL_2D": (2, "AddAveragePool2D"),
    "CONCATENATION": (2, "AddConcatenation"),
    "CONV_2D": (3, "AddConv2D"),
    "DEPTHWISE_CONV_2D": (3, "AddDepthwiseConv2D"),
    "DEPTH_TO_SPACE": (2, "AddDepthToSpace"),
    "MAX_POOL_2D": (2, "AddMaxPool2D"),
    "MUL": (3, "AddMul"),
    "PAD": (2, "AddPad"),
    "REDUCE_MAX": (2, "AddReduceMax"),
    "RELU": (2, "AddRelu"),
    "RELU6": (2, "AddRelu6"),
    "RESIZE_BILINEAR": (3, "AddResizeBilinear"),
    "RESIZE_NEAREST_NEIGHBOR": (3, "AddResizeNearestNeighbor"),
    "SOFTMAX": (2, "AddSoftmax"),
    "SPACE_TO_DEPTH": (2, "AddSpaceToDepth"),
    "SUB": (2, "AddSub"),
    "TRANSPOSE_CONV": (3, "AddTransposeConv"),
}
_LITERT = {operator: version for operator, (version, _) in _TFLM.items()} | {
    "ABS": 1, "DEQUANTIZE": 2, "DIV": 2, "EXP": 2, "FULLY_CONNECTED": 5, "GATHER": 2, "HARD_SWISH": 1, "LEAKY_RELU": 2,
    "LOG": 2, "LOGISTIC": 2, "MAXIMUM": 2, "MEAN": 2, "MINIMUM": 2, "MIRROR_PAD": 2, "NEG": 1, "PADV2": 2, "PRELU": 1,
    "QUANTIZE": 2, "RESHAPE": 1, "SLICE": 2, "SPLIT": 2, "SPLIT_V": 2, "SQRT": 2, "STRIDED_SLICE": 2, "SUM": 2,
    "TANH": 2, "TRANSPOSE": 2, "TRANSPOSE_CONV": 4,
}
# These only move data; for a whole feature map that is a copy which a better graph avoids.
MOVES = ("GATHER", "RESHAPE", "SLICE", "STRIDED_SLICE", "TRANSPOSE")
# Kernels that copy, compare or average codes without requantising: correct only if input and output share one scale.
EQUAL_SCALES = ("AVERAGE_POOL_2D", "CONCATENATION", "DEPTH_TO_SPACE", "MAX_POOL_2D", "MAXIMUM", "MINIMUM", "MIRROR_PAD",
                "PAD", "REDUCE_MAX", "RELU6", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SPACE_TO_DEPTH", "SPLIT",
                "SPLIT_V", *MOVES)
FIXED_OUTPUTS = {"SOFTMAX": (1 / 256, -128), "LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}  # scale, zero point
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")


@dataclass(frozen=True)
class Target:
    """A runtime that a model is meant to run on."""

    name: str
    summary: str
    versions: Mapping[str, int]  # operator: highest version
    max_rank: int = 4
    moves_vectors: bool = False  # MOVES are allowed on tensors that are not feature maps
    c_arrays: bool = False  # the model is compiled into a sketch


TARGETS = {
    "arduino-tflm": Target("arduino-tflm", "TFLite Micro for Arduino (February 2023, CMSIS-NN), equal byte for byte",
                           {operator: version for operator, (version, _) in _TFLM.items()}, c_arrays=True),
    "litert": Target("litert", "LiteRT without Flex operators", _LITERT, moves_vectors=True),
}


def find_target(name: str) -> Target:
    """Return a target by its name.

    Raises:
        UserError: there is no such target.
    """
    if name not in TARGETS:
        raise UserError(f"there is no target {name!r}; there are: {', '.join(TARGETS)}")
    return TARGETS[name]


@dataclass(frozen=True)
class Violation:
    """An operator that a target cannot run or would compute wrongly."""

    operator: Operator
    fault: str
    tensors: tuple[Tensor, ...]
    module: str  # the PyTorch module it came from, "" if unknown
    fix: str

    def __str__(self) -> str:
        origin = f" of {self.module}" if self.module else ""
        tensors = ", ".join(str(tensor) for tensor in self.tensors)
        return f"{self.operator.name} (operator {self.operator.index}{origin}) {self.fault}: {tensors}; {self.fix}"


def check(path: str | os.PathLike[str], target: Target, *, quantised: Sequence[str] = ()) -> Graph:
    """Read a `.tflite` file and check that a target can run it.

    Args:
        path: the int8 model.
        target: where it is to run.
        quantised: the modules that must be integer, all others float; none: everything must be integer.

    Raises:
        UserError: it cannot; the message names the operators, their tensors, the PyTorch modules and the fixes.
    """
    graph = read_graph(path)
    if quantised and target.c_arrays:
        raise UserError(f"{target.name} computes in integers only, this network partly in float: take --target litert")
    found = violations(graph, target, quantised=quantised)
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise UserError(f"the model breaks the contract of {target.name}: {' | '.join(map(str, found[:3]))}{more}")
    return graph


def violations(graph: Graph, target: Target, *, quantised: Sequence[str] = ()) -> list[Violation]:
    """List everything in a graph that a target cannot run, in execution order; `quantised` is that of `check`."""
    found = []
    for operator in graph.operators:
        module = next(filter(None, (module_of(tensor.name) for tensor in operator.outputs)), "")
        floating = quantised and (operator.name in ("QUANTIZE", "DEQUANTIZE") or not is_within(f"{module}/", quantised)
                                  and bool(module or operator.name not in CONVOLUTIONS))
        for rule in _RULES_OF_FLOAT if floating else _RULES:
            broken = [Violation(operator, fault, tensors, module, fix)
                      for fault, tensors, fix in rule(operator, target)]
            found += broken
            if broken:  # later faults of an operator usually follow from the first
                break
    return found


def resolver_methods(graph: Graph) -> list[str]:
    """Return the methods of TFLM's MicroMutableOpResolver that register exactly the operators of a graph.

    Raises:
        KeyError: an operator is not in `arduino-tflm`; call `check` first.
    """
    return [_TFLM[operator][1] for operator in graph.counts()]


_Faults = Iterator[tuple[str, tuple[Tensor, ...], str]]


def _known_operator(operator: Operator, target: Target) -> _Faults:
    if operator.name.startswith("Flex"):
        yield ("is a Flex operator, which needs all of TensorFlow", operator.outputs,
               "write the module with plain convolutions, pools and elementwise arithmetic")
    elif operator.name not in target.versions:
        yield (f"is not among the operators of {target.name} ({', '.join(target.versions)})", operator.outputs,
               "rewrite that module with these, or choose another --target")
    elif operator.version > target.versions[operator.name]:
        yield (f"has version {operator.version}, {target.name} knows {target.versions[operator.name]}",
               operator.outputs, "it asks for more than int8, rank 4, one group: look at its types, shapes, groups")


def _int8_everywhere(operator: Operator, target: Target) -> _Faults:
    wrong = [tensor for tensor in (*operator.operands, *operator.outputs) if tensor.dtype != "int8"]
    wrong += [tensor for tensor in operator.weights if tensor.dtype not in ("int8", "int32")]
    if wrong:
        dtype = "float" if any("float" in tensor.dtype for tensor in wrong) else wrong[0].dtype
        yield (f"computes in {dtype}, not in int8", tuple(wrong),
               "the converter found no int8 kernel or no calibrated range for it: rewrite the module")


def _rank(operator: Operator, target: Target) -> _Faults:
    deep = tuple(t for t in (*operator.operands, *operator.outputs) if len(t.shape) > target.max_rank)
    if deep:
        yield f"has more than {target.max_rank} dimensions", deep, "concatenate on a spatial axis instead of stacking"


def _moves(operator: Operator, target: Target) -> _Faults:
    maps = tuple(tensor for tensor in (*operator.operands, *operator.outputs) if is_feature_map(tensor))
    if operator.name in MOVES and (maps or not target.moves_vectors):
        yield ("copies a feature map only to move it", maps or operator.outputs,
               "keep the tensor in (1, H, W, C) from end to end: no views, stacks or slices")


def _equal_scales(operator: Operator, target: Target) -> _Faults:
    if operator.name not in EQUAL_SCALES:
        return
    coded = [tensor for tensor in (*operator.inputs, *operator.outputs)
             if tensor is not None and tensor.dtype == "int8" and tensor.scales]
    if len({(tensor.scales, tensor.zero_points) for tensor in coded}) > 1:
        shown = ", ".join(f"{tensor.scale:.6g}/{tensor.zero_point}" for tensor in coded)
        yield (f"copies codes between different scales ({shown})", tuple(coded),
               "its kernel does not requantise: let the inputs come from layers that share their range")


def _fixed_outputs(operator: Operator, target: Target) -> _Faults:
    if operator.name in FIXED_OUTPUTS:
        scale, zero_point = FIXED_OUTPUTS[operator.name]
        for tensor in operator.outputs:
            if tensor.scale != scale or tensor.zero_point != zero_point:
                yield (f"must have the output scale {scale:g} and zero point {zero_point}, "
                       f"not {tensor.scale:g} and {tensor.zero_point}", (tensor,), "calibrate with the converter's own")


def _symmetric_weights(operator: Operator, target: Target) -> _Faults:
    if operator.name in CONVOLUTIONS:
        for tensor in operator.weights:
            if tensor.dtype == "int8" and (any(tensor.zero_points) or len(tensor.scales) not in (1, max(tensor.shape),
                                                                                                 _filters(operator))):
                yield ("must have symmetric weights, one scale for each filter", (tensor,),
                       "quantise the weights per channel (onnx2tf's default)")


_RULES: tuple[Callable[[Operator, Target], _Faults], ...] = (
    _known_operator, _int8_everywhere, _rank, _moves, _equal_scales, _fixed_outputs, _symmetric_weights)
_RULES_OF_FLOAT = (_known_operator, _rank)


def is_feature_map(tensor: Tensor) -> bool:
    """Return whether a tensor is a map (1, H, W, C), not a vector such as (1, 1, 1, C) or (1, streams, 1, C)."""
    return sum(side > 1 for side in tensor.shape[:-1]) > 1


def _filters(operator: Operator) -> int:
    return operator.outputs[0].shape[-1]
