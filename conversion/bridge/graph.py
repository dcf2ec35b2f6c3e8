"""Read a `.tflite` file into plain objects: operators, tensors, shapes, scales.

The schema that ships with LiteRT decodes the file, and no interpreter is built. So a file that no runtime accepts can
still be described. `target.py` checks such a graph against a runtime, `cost.py` computes its cost, `c_array.py` writes
it as C++.
"""
from __future__ import annotations

import hashlib
import math
import os
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from mirnet_torch.cli import UserError


@dataclass(frozen=True)
class Tensor:
    """A tensor of a graph. `scales` and `zero_points` have one item, one per channel, or none without quantisation."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str  # "int8", "float32", ...
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    constant: bool  # its values are in the file
    nbytes: int

    @property
    def scale(self) -> float:
        """The scale of a per-tensor quantised tensor."""
        return self.scales[0]

    @property
    def zero_point(self) -> int:
        """The zero point of a per-tensor quantised tensor."""
        return self.zero_points[0]

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)} {self.dtype}"


@dataclass(frozen=True)
class Operator:
    """An operator of a graph. `inputs` has None for an optional input that is absent."""

    index: int
    name: str  # "CONV_2D"; a custom operator's own name
    version: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    activation: str  # fused: "RELU", "RELU6", "" for none
    strides: tuple[int, int]  # (vertical, horizontal), (1, 1) where the operator has none

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """The inputs that are computed, not stored in the file."""
        return tuple(tensor for tensor in self.inputs if tensor is not None and not tensor.constant)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The inputs that are stored in the file."""
        return tuple(tensor for tensor in self.inputs if tensor is not None and tensor.constant)


@dataclass(frozen=True)
class Graph:
    """The content of a `.tflite` file; operators are in the order in which they run."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    size: int  # of the file, in bytes
    sha256: str

    def counts(self) -> dict[str, int]:
        """Count the operators by name."""
        return dict(sorted(Counter(operator.name for operator in self.operators).items()))


def read_graph(source: str | os.PathLike[str] | bytes) -> Graph:
    """Read a `.tflite` file, or its bytes, with one subgraph.

    Raises:
        UserError: the file is missing, not a `.tflite` file, damaged, or has control flow (more than one subgraph).
    """
    path = "the model" if isinstance(source, bytes) else source
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if content[4:8] != b"TFL3":
        raise UserError(f"{path} is not a .tflite file")
    try:
        return _decode(content)
    except (struct.error, IndexError, TypeError, ValueError, KeyError, UnicodeDecodeError, AttributeError) as error:
        raise UserError(f"{path} is a damaged .tflite file, convert again ({type(error).__name__})") from error
    except NotImplementedError:
        raise UserError(f"{path} has more than one subgraph; no target runs control flow") from None


def _decode(content: bytes) -> Graph:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    if model.SubgraphsLength() != 1:
        raise NotImplementedError
    subgraph = model.Subgraphs(0)
    types = _names(schema.TensorType)
    tensors = tuple(_tensor(model, subgraph.Tensors(i), i, types) for i in range(subgraph.TensorsLength()))
    operators = tuple(_operator(schema, model, subgraph.Operators(i), i, tensors)
                      for i in range(subgraph.OperatorsLength()))
    return Graph(tensors, operators, tuple(tensors[i] for i in subgraph.InputsAsNumpy()),
                 tuple(tensors[i] for i in subgraph.OutputsAsNumpy()), len(content),
                 hashlib.sha256(content).hexdigest())


def _names(enum: type) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if not name.startswith("_")}


_WIDTHS = {"int8": 1, "uint8": 1, "bool": 1, "int16": 2, "float16": 2, "int32": 4, "float32": 4, "int64": 8,
           "float64": 8}


def _tensor(model: Any, source: Any, index: int, types: dict[int, str]) -> Tensor:
    shape = tuple(int(side) for side in source.ShapeAsNumpy()) if source.ShapeLength() else ()
    dtype = types[source.Type()].lower()
    quantization = source.Quantization()
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    if quantization is not None and quantization.ScaleLength():
        scales = tuple(float(scale) for scale in quantization.ScaleAsNumpy())
        zero_points = tuple(int(zero) for zero in quantization.ZeroPointAsNumpy())
    stored = model.Buffers(source.Buffer()).DataLength()
    nbytes = stored or math.prod(shape) * _WIDTHS.get(dtype, 0)
    return Tensor(index, (source.Name() or b"").decode(), shape, dtype, scales, zero_points, stored > 0, nbytes)


def _operator(schema: Any, model: Any, source: Any, index: int, tensors: tuple[Tensor, ...]) -> Operator:
    code = model.OperatorCodes(source.OpcodeIndex())
    builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    name = (code.CustomCode().decode() if builtin == schema.BuiltinOperator.CUSTOM
            else _names(schema.BuiltinOperator)[builtin])
    options: Any = None
    kind = _names(schema.BuiltinOptions).get(source.BuiltinOptionsType(), "NONE")
    if source.BuiltinOptions() is not None and hasattr(schema, kind):
        options = getattr(schema, kind)()
        options.Init(source.BuiltinOptions().Bytes, source.BuiltinOptions().Pos)
    activation = "NONE"
    if hasattr(options, "FusedActivationFunction"):
        activation = _names(schema.ActivationFunctionType)[options.FusedActivationFunction()]
    strides = (options.StrideH(), options.StrideW()) if hasattr(options, "StrideH") else (1, 1)
    inputs = tuple(None if i < 0 else tensors[i] for i in source.InputsAsNumpy())
    outputs = tuple(tensors[i] for i in source.OutputsAsNumpy())
    return Operator(index, name, code.Version(), inputs, outputs, "" if activation == "NONE" else activation, strides)


def is_within(name: str, modules: Sequence[str]) -> bool:
    """Return whether a tensor was computed in one of the PyTorch modules, or in a module below one."""
    module = module_of(name)
    return any(module == other or module.startswith(f"{other}.") for other in modules)


def module_of(name: str) -> str:
    """Return the PyTorch module in a tensor's or node's name ("body.0.body.0.blocks.0.0.body.0"), or ""."""
    module, slash, _ = name.partition("/")
    return module if slash else ""
