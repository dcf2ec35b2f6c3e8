"""Run any stage of a conversion and read its intermediate tensors.

A stage is one form of a network in one runtime: a PyTorch module, ONNX in onnxruntime, a .tflite in LiteRT, in LiteRT's
reference kernels or in TensorFlow Lite Micro. All take and return NHWC arrays, and name their tensors as the ONNX file
does, so that any two can be compared tensor by tensor (`difference.py`).

Rounding of int8: LiteRT's default kernels round once per requantisation, its reference kernels and TensorFlow Lite
Micro twice. Only the last two must be equal.
"""
from __future__ import annotations

import contextlib
import copy
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from conversion.bridge.graph import Graph
from conversion.bridge.graph import Tensor as GraphTensor
from conversion.bridge.graph import read_graph
from conversion.bridge.onnx_export import load_onnx
from conversion.bridge.tflite_file import opened
from mirnet_torch.cli import UserError

RUNTIMES = ("litert", "litert-reference", "tflite-micro")
Arrays = dict[str, np.ndarray]


class Stage:
    """One stage of the conversion, ready to run. Arrays are always NHWC."""

    name: str  # "PyTorch", "ONNX", "TFLite float32", "TFLite int8 (tflite-micro)" ...
    input_shape: tuple[int, ...]  # (rows, columns, channels) of the core input; 0 where any is taken
    output_shape: tuple[int, ...]
    integer = False  # True: input and output are int8
    scale = 0.0  # of the output if `integer`

    def run(self, core: np.ndarray) -> np.ndarray:
        """Turn core inputs, float32 (N, h, w, c), into core outputs, float32 (N, h, w, m).

        Integer stages quantise the input, rounding to the nearest code, and dequantise the output.
        """
        return self.real(self.run_raw(core))

    def run_raw(self, core: np.ndarray) -> np.ndarray:
        """Run like `run`, but return the output of the runtime itself: int8 for integer stages, else float32.

        Raises:
            ValueError: the input does not have the shape of the stage.
        """
        core = np.asarray(core, np.float32)
        if core.ndim != 4 or any(given != side for given, side in zip(core.shape[1:], self.input_shape) if side):
            raise ValueError(f"{self.name} takes arrays of shape (N, {', '.join(map(str, self.input_shape))}), "
                             f"not {core.shape}")
        return np.concatenate([self._invoke(sample[None]) for sample in core])

    def tensors(self, core: np.ndarray) -> Arrays:
        """Return every intermediate tensor for one core input (1, h, w, c), scaled to real numbers, in execution order.

        Raises:
            NotImplementedError: the runtime cannot return them.
        """
        raise NotImplementedError(f"{self.name} cannot return its intermediate tensors")

    def steps(self) -> dict[str, float]:
        """Return the quantisation step of every quantised tensor."""
        return {}

    def _invoke(self, core: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def real(self, output: np.ndarray) -> np.ndarray:
        """Turn a result of `run_raw` into real numbers."""
        return output


class TorchStage(Stage):
    """A PyTorch module in float32 on the CPU.

    Args:
        network: takes and returns a tensor (1, channels, rows, columns).
        input_shape: (rows, columns, channels).
        name: name of the stage.
        method: name of the method that is run.
    """

    # The ONNX operator of every module that is a single operator; others (Add, Mul) have no module to hook.
    _OPERATORS = {nn.Conv2d: "Conv", nn.ConvTranspose2d: "ConvTranspose", nn.ReLU: "Relu", nn.ReLU6: "Clip",
                  nn.LeakyReLU: "LeakyRelu", nn.PReLU: "LeakyRelu", nn.Sigmoid: "Sigmoid", nn.AvgPool2d: "AveragePool",
                  nn.MaxPool2d: "MaxPool", nn.Upsample: "Resize"}

    def __init__(self, network: nn.Module, input_shape: tuple[int, ...], *, name: str, method: str = "forward") -> None:
        self.name, self.input_shape, self._method = name, tuple(input_shape), method
        self.output_shape = output_shape(network, input_shape, method=method)
        self._network = copy.deepcopy(network).float().cpu().eval()

    def _run(self, core: np.ndarray) -> Tensor:
        inputs = torch.from_numpy(np.ascontiguousarray(core.transpose(0, 3, 1, 2)))
        return getattr(self._network, self._method)(inputs)

    @torch.no_grad()
    def _invoke(self, core: np.ndarray) -> np.ndarray:
        return _nhwc(self._run(core))

    @torch.no_grad()
    def tensors(self, core: np.ndarray) -> Arrays:
        found: Arrays = {}
        calls: Counter[str] = Counter()

        def record(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
                found[name + (f"_{calls[name]}" if calls[name] else "")] = _nhwc(output)
                calls[name] += 1
            return hook

        hooks = [module.register_forward_hook(record(f"{name}/{self._OPERATORS[type(module)]}"))
                 for name, module in self._network.named_modules() if type(module) in self._OPERATORS]
        try:
            found["maps"] = _nhwc(self._run(core))
        finally:
            for hook in hooks:
                hook.remove()
        return found


def output_shape(network: nn.Module, input_shape: tuple[int, ...], *, method: str = "forward") -> tuple[int, ...]:
    """Return the (rows, columns, channels) of a network's output without computing it.

    Raises:
        UserError: the network does not take this input, or the output is not a single 4-D tensor.
    """
    rows, columns, channels = input_shape
    abstract = copy.deepcopy(network).float().to("meta")
    try:
        with torch.no_grad():
            output = getattr(abstract, method)(torch.empty(1, channels, rows, columns, device="meta"))
    except TypeError as error:
        raise UserError(f"the network must take one tensor (1, channels, rows, columns): {_one_line(error)}") from None
    except RuntimeError as error:
        raise UserError(f"the network does not take a tensor {(1, channels, rows, columns)}: give the input_shape that "
                        f"it was made for ({_one_line(error)})") from None
    if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != 1:
        given = f"one of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise UserError(f"the network must return one tensor (1, channels, rows, columns), not {given}: end it with a "
                        "convolution; over a 1x1 map a 1x1 convolution does what Linear does")
    _, channels, rows, columns = output.shape
    return rows, columns, channels


class OnnxStage(Stage):
    """An ONNX file in onnxruntime, on the CPU."""

    def __init__(self, path: str | os.PathLike[str], threads: int) -> None:
        self.name = "ONNX"
        self._model, self._threads = load_onnx(path), threads
        graph = self._model.graph
        self.input_shape, self.output_shape = (_nhwc_shape(value) for value in (graph.input[0], graph.output[0]))
        self._session = self._open(self._model)

    def _open(self, model: Any) -> Any:
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self._threads, 3
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def _invoke(self, core: np.ndarray) -> np.ndarray:
        feed = {self._session.get_inputs()[0].name: np.ascontiguousarray(core.transpose(0, 3, 1, 2))}
        return self._session.run(None, feed)[0].transpose(0, 2, 3, 1)

    def tensors(self, core: np.ndarray) -> Arrays:
        model = copy.deepcopy(self._model)
        names = [output for node in model.graph.node for output in node.output]
        outputs = {value.name for value in model.graph.output}
        model.graph.output.extend(value for value in self._model.graph.value_info
                                  if value.name in names and value.name not in outputs)
        session = self._open(model)
        feed = {session.get_inputs()[0].name: np.ascontiguousarray(core.transpose(0, 3, 1, 2))}
        values = dict(zip((value.name for value in session.get_outputs()), session.run(None, feed)))
        return {name: values[name].transpose(0, 2, 3, 1) for name in names if name in values}


class _TFLiteStage(Stage):
    """What the runtimes of a .tflite share: reading its graph, quantising the input, dequantising results."""

    def __init__(self, source: str | os.PathLike[str] | bytes, runtime: str) -> None:
        self._content = source if isinstance(source, bytes) else _read(source)
        self._graph: Graph = read_graph(source)
        self._input, output = self._graph.inputs[0], self._graph.outputs[0]
        self.integer = output.dtype == "int8"
        self.scale = output.scale if self.integer else 0.0
        self.input_shape, self.output_shape = self._input.shape[1:], output.shape[1:]
        types = {tensor.dtype for tensor in self._graph.tensors}
        kind = "int8" if self.integer else "float16" if "float16" in types else "float32"
        self.name = f"TFLite {kind}" + ("" if runtime == "litert" else f" ({runtime})")

    def _quantised(self, core: np.ndarray) -> np.ndarray:
        return quantised(core, self._input) if self._input.dtype == "int8" else core

    def real(self, output: np.ndarray) -> np.ndarray:
        return _dequantised(output, self._graph.outputs[0])

    def _computed(self) -> list[GraphTensor]:
        return [tensor for operator in self._graph.operators for tensor in operator.outputs if len(tensor.shape) == 4]

    def steps(self) -> dict[str, float]:
        return {tensor.name: tensor.scale for tensor in self._computed() if tensor.scales}


class LiteRTStage(_TFLiteStage):
    """A .tflite in LiteRT, with its default kernels (XNNPACK) or with its reference kernels.

    LiteRT 2.1.0 registers its reference kernel of DEPTH_TO_SPACE for version 1 only, though the same kernel computes
    version 2 (int8). So models for the reference kernels are changed to version 1.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes, runtime: str, threads: int) -> None:
        super().__init__(source, runtime)
        self._runtime, self._threads = runtime, threads
        if runtime == "litert-reference" and any(op.name == "DEPTH_TO_SPACE" for op in self._graph.operators):
            self._content = _with_first_version(self._content, "DEPTH_TO_SPACE")
        self._interpreter = self._open(preserve=False)

    def _open(self, *, preserve: bool) -> Any:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
        resolver = (OpResolverType.BUILTIN_REF if self._runtime == "litert-reference" else
                    OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if preserve else OpResolverType.AUTO)
        # Without XNNPACK and with two threads, LiteRT 2.1.0 computes a wrong convolution where map and kernel are 2x2.
        threads = 1 if preserve else self._threads
        try:
            with _without_info():
                interpreter = Interpreter(model_content=self._content, experimental_op_resolver_type=resolver,
                                          num_threads=threads, experimental_preserve_all_tensors=preserve)
                interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{self._runtime} cannot run the model: {_one_line(error)}") from error
        return interpreter

    def _run(self, interpreter: Any, core: np.ndarray) -> None:
        interpreter.set_tensor(self._input.index, self._quantised(core))
        interpreter.invoke()

    def _invoke(self, core: np.ndarray) -> np.ndarray:
        self._run(self._interpreter, core)
        return self._interpreter.get_tensor(self._graph.outputs[0].index)

    def tensors(self, core: np.ndarray) -> Arrays:
        """As `Stage.tensors`; "litert" runs without XNNPACK here, which does not return its tensors."""
        interpreter = self._open(preserve=True)
        self._run(interpreter, core)
        return {tensor.name: _dequantised(interpreter.get_tensor(tensor.index), tensor) for tensor in self._computed()}


_MOST_PRESERVED = 1024  # kMaxBufferCount of the package's memory planner without reuse


class MicroStage(_TFLiteStage):
    """A .tflite in TensorFlow Lite Micro (its reference kernels, as compiled into the package tflite-micro)."""

    def __init__(self, source: str | os.PathLike[str] | bytes) -> None:
        super().__init__(source, "tflite-micro")
        self._interpreter = self._open(preserve=False)

    def _open(self, *, preserve: bool) -> Any:
        from tflite_micro import runtime
        modes = runtime.InterpreterConfig
        room = sum(tensor.nbytes + 1024 for tensor in self._graph.tensors if not tensor.constant) + (1 << 20)
        try:
            return runtime.Interpreter.from_bytes(self._content, arena_size=min(2 * room, (1 << 31) - 1),
                                                  intrepreter_config=modes.kPreserveAllTensors if preserve
                                                  else modes.kAllocationRecording)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"tflite-micro cannot run the model: {_one_line(error)}") from error

    def _run(self, interpreter: Any, core: np.ndarray) -> None:
        interpreter.set_input(self._quantised(core), 0)
        interpreter.invoke()

    def _invoke(self, core: np.ndarray) -> np.ndarray:
        self._run(self._interpreter, core)
        return np.array(self._interpreter.get_output(0))

    def tensors(self, core: np.ndarray) -> Arrays:
        computed = sum(not tensor.constant for tensor in self._graph.tensors)
        if computed > _MOST_PRESERVED:
            raise NotImplementedError(f"tflite-micro keeps at most {_MOST_PRESERVED} tensors, the model has {computed}")
        interpreter = self._open(preserve=True)
        self._run(interpreter, core)
        return {tensor.name: _dequantised(np.array(interpreter.GetTensor(tensor.index, 0)["tensor_data"])
                                          .reshape(tensor.shape), tensor) for tensor in self._computed()}


def open_stage(source: nn.Module | str | os.PathLike[str] | bytes, *, runtime: str = "litert",
               input_shape: tuple[int, ...] | None = None, threads: int = 2) -> Stage:
    """Open a stage.

    Args:
        source: a PyTorch module, an .onnx or .tflite path, or the bytes of a .tflite.
        runtime: for a .tflite: "litert" (default kernels), "litert-reference" (BUILTIN_REF) or "tflite-micro".
        input_shape: (rows, columns, channels); needed for a module only.
        threads: of onnxruntime and LiteRT.

    Raises:
        UserError: the file is missing or not a model, or the runtime cannot run it.
        ValueError: a module without input_shape, or an unknown runtime.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, not {runtime!r}")
    if isinstance(source, nn.Module):
        if input_shape is None:
            raise ValueError("a module takes any size: say which, input_shape=(rows, columns, channels)")
        return TorchStage(source, input_shape, name="PyTorch")
    if not isinstance(source, bytes) and Path(source).suffix == ".onnx":
        return OnnxStage(source, threads)
    return MicroStage(source) if runtime == "tflite-micro" else LiteRTStage(source, runtime, threads)


def _nhwc(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy().transpose(0, 2, 3, 1))


def _nhwc_shape(value: Any) -> tuple[int, ...]:
    _, channels, rows, columns = (dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return rows, columns, channels


def quantised(values: np.ndarray, tensor: GraphTensor) -> np.ndarray:
    """Return the int8 codes of real values for a tensor with one scale, rounded to the nearest."""
    codes = np.round(values / np.float32(tensor.scale)) + tensor.zero_point
    return codes.clip(-128, 127).astype(np.int8)


def _dequantised(values: np.ndarray, tensor: GraphTensor) -> np.ndarray:
    if not tensor.scales:
        return values
    return (values.astype(np.float32) - np.float32(tensor.zero_point)) * np.float32(tensor.scale)


def _with_first_version(content: bytes, operator: str) -> bytes:
    """Return a .tflite changed to version 1 of an operator."""
    from ai_edge_litert import schema_py_generated as schema
    with opened(content) as (model, packed):
        for code in model.operatorCodes:
            if code.builtinCode == getattr(schema.BuiltinOperator, operator):
                code.version = 1
    return packed[0]


@contextlib.contextmanager
def _without_info() -> Iterator[None]:
    """Remove lines that start with INFO from standard error: LiteRT has no option to turn them off."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            written.seek(0)
            for line in written:
                if not line.startswith(b"INFO"):
                    os.write(2, line)


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
