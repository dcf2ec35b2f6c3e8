"""Run any stage of the conversion, look inside it, and compare two of them.

A stage is one form of the network in one runtime: PyTorch, the deployable form, ONNX in onnxruntime, a .tflite in
LiteRT, in LiteRT's reference kernels or in TensorFlow Lite Micro. All take core inputs and give core outputs (see
`DeployableMIRNet`) as NHWC arrays, and name their tensors as the ONNX file does, so that any two can be compared tensor
by tensor.

Who rounds alike (int8): LiteRT's default kernels round once per requantisation, its reference kernels and TensorFlow
Lite Micro twice; only the last two can be demanded to be equal.
"""
from __future__ import annotations

import contextlib
import copy
import os
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from conversion.deploy import DeployableMIRNet, deployable
from conversion.graph import Graph
from conversion.graph import Tensor as GraphTensor
from conversion.graph import _decode, read_graph
from conversion.onnx_export import load_onnx, module_of
from conversion.tflite import opened
from mirnet_torch.cli import UserError
from mirnet_torch.model import MIRNet

RUNTIMES = ("litert", "litert-reference", "tflite-micro")
Arrays = dict[str, np.ndarray]


class Stage:
    """One stage of the conversion, ready to run. Arrays are NHWC whatever the stage's own layout."""

    name: str  # "PyTorch", "deployable form", "ONNX", "TFLite float32", "TFLite int8 (tflite-micro)" ...
    input_shape: tuple[int, ...]  # (rows, columns, channels) of the core input
    output_shape: tuple[int, ...]
    integer = False  # True: input and output are int8
    scale = 0.0  # of the output if `integer`

    def run(self, core: np.ndarray) -> np.ndarray:
        """Turn core inputs, float32 (N, h, w, c), into core outputs, float32 (N, h, w, m).

        Integer stages quantise the input, rounding to the nearest, and scale the output back.
        """
        return self.real(self.run_raw(core))

    def run_raw(self, core: np.ndarray) -> np.ndarray:
        """Do the same with the output as the runtime gives it: int8 for integer stages, else float32.

        Raises:
            ValueError: the input has another shape than the stage.
        """
        core = np.asarray(core, np.float32)
        if core.ndim != 4 or core.shape[1:] != self.input_shape:
            raise ValueError(f"{self.name} takes arrays of shape (N, {', '.join(map(str, self.input_shape))}), "
                             f"not {core.shape}")
        return np.concatenate([self._invoke(sample[None]) for sample in core])

    def tensors(self, core: np.ndarray) -> Arrays:
        """Return every intermediate tensor for one core input (1, h, w, c), scaled to real numbers, in execution order.

        Raises:
            NotImplementedError: the runtime does not give them away.
        """
        raise NotImplementedError(f"{self.name} does not give its intermediate tensors away")

    def steps(self) -> dict[str, float]:
        """Return the quantisation steps of the tensors that have one."""
        return {}

    def _invoke(self, core: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def real(self, output: np.ndarray) -> np.ndarray:
        """Scale what `run_raw` returned to real numbers."""
        return output


class TorchStage(Stage):
    """A network or its deployable form, in float32 on the CPU."""

    # The ONNX operators that modules of one operator become; others (Add, Mul) have no module to be seen at.
    _OPERATORS = {nn.Conv2d: "Conv", nn.ConvTranspose2d: "ConvTranspose", nn.ReLU: "Relu", nn.ReLU6: "Clip",
                  nn.LeakyReLU: "LeakyRelu", nn.PReLU: "LeakyRelu", nn.Sigmoid: "Sigmoid", nn.AvgPool2d: "AveragePool",
                  nn.MaxPool2d: "MaxPool", nn.Upsample: "Resize"}

    def __init__(self, network: MIRNet | DeployableMIRNet, deployed: DeployableMIRNet) -> None:
        self.name = "deployable form" if network is deployed else "PyTorch"
        self.input_shape, self.output_shape = deployed.core_shape, deployed.maps_shape
        self._network = copy.deepcopy(network).float().cpu().eval()
        self._shuffle = deployed.config.shuffle

    def _forward(self, core: np.ndarray) -> Tensor:
        inputs = torch.from_numpy(np.ascontiguousarray(core.transpose(0, 3, 1, 2)))
        if isinstance(self._network, DeployableMIRNet):
            return self._network(inputs)
        maps = self._network.maps(torch.pixel_shuffle(inputs, self._shuffle))
        return inputs + maps if self._network.config.head == "residual" else maps

    @torch.no_grad()
    def _invoke(self, core: np.ndarray) -> np.ndarray:
        return _nhwc(self._forward(core))

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
            found["maps"] = _nhwc(self._forward(core))
        finally:
            for hook in hooks:
                hook.remove()
        return found


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
    """What the runtimes of a .tflite share: reading its graph, quantising the input, scaling results back."""

    def __init__(self, source: str | os.PathLike[str] | bytes, runtime: str) -> None:
        self._content = source if isinstance(source, bytes) else _read(source)
        self._graph: Graph = _decode(source) if isinstance(source, bytes) else read_graph(source)
        self._input, output = self._graph.inputs[0], self._graph.outputs[0]
        self.integer = output.dtype == "int8"
        self.scale = output.scale if self.integer else 0.0
        self.input_shape, self.output_shape = self._input.shape[1:], output.shape[1:]
        types = {tensor.dtype for tensor in self._graph.tensors}
        kind = "int8" if self.integer else "float16" if "float16" in types else "float32"
        self.name = f"TFLite {kind}" + ("" if runtime == "litert" else f" ({runtime})")

    def _quantised(self, core: np.ndarray) -> np.ndarray:
        if self._input.dtype != "int8":
            return core
        codes = np.round(core / np.float32(self._input.scale)) + self._input.zero_point
        return codes.clip(-128, 127).astype(np.int8)

    def real(self, output: np.ndarray) -> np.ndarray:
        return _dequantised(output, self._graph.outputs[0])

    def _computed(self) -> list[GraphTensor]:
        return [tensor for operator in self._graph.operators for tensor in operator.outputs if len(tensor.shape) == 4]

    def steps(self) -> dict[str, float]:
        return {tensor.name: tensor.scale for tensor in self._computed() if tensor.scales}


class LiteRTStage(_TFLiteStage):
    """A .tflite in LiteRT, with its default kernels (XNNPACK) or with its reference kernels.

    LiteRT 2.1.0 registers its reference kernel of DEPTH_TO_SPACE for version 1 only. The same kernel does version 2,
    int8; so the reference kernels are given models that say 1.
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
        """As `Stage.tensors`; the default runtime is run without XNNPACK, which keeps its tensors to itself."""
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


def open_stage(source: MIRNet | DeployableMIRNet | str | os.PathLike[str] | bytes, *, runtime: str = "litert",
               size: tuple[int, int] | None = None, threads: int = 2) -> Stage:
    """Open a stage.

    Args:
        source: a network, a deployable form, an .onnx or .tflite path, or the bytes of a .tflite.
        runtime: for a .tflite: "litert" (default kernels), "litert-reference" (BUILTIN_REF) or "tflite-micro".
        size: (height, width) of the image; needed for a MIRNet only.

    Raises:
        UserError: the file is missing or no model, or the runtime cannot run it (the message names the operator).
        ValueError: a MIRNet without size, or an unknown runtime.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, not {runtime!r}")
    if isinstance(source, DeployableMIRNet):
        return TorchStage(source, source)
    if isinstance(source, MIRNet):
        if size is None:
            raise ValueError("a MIRNet takes any size: say which, size=(height, width)")
        return TorchStage(source, deployable(source, height=size[0], width=size[1]))
    if not isinstance(source, bytes) and Path(source).suffix == ".onnx":
        return OnnxStage(source, threads)
    return MicroStage(source) if runtime == "tflite-micro" else LiteRTStage(source, runtime, threads)


@dataclass(frozen=True)
class Difference:
    """How far array b is from array a (the reference)."""

    max: float  # largest |a - b|
    mean: float  # mean |a - b|
    sqnr_db: float  # 10 log10(sum a^2 / sum (a - b)^2); inf when equal
    where: tuple[int, ...]  # index of the largest difference
    differing: int  # elements that are not equal
    size: int

    def __str__(self) -> str:
        if not self.differing:
            return f"equal ({self.size} elements)"
        return (f"max {self.max:.3g} at {self.where}, mean {self.mean:.3g}, SQNR {self.sqnr_db:.1f} dB, "
                f"{self.differing} of {self.size} elements differ")


def compare(a: np.ndarray, b: np.ndarray) -> Difference:
    """Compare two arrays of one shape, a being the reference; int8 arrays are compared in steps.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
    error = np.abs(a.astype(np.float64) - b.astype(np.float64))
    noise = float((error ** 2).sum())
    signal = float((a.astype(np.float64) ** 2).sum())
    sqnr = np.inf if noise == 0 else 10 * np.log10(signal / noise) if signal > 0 else -np.inf
    where = np.unravel_index(int(np.where(np.isnan(error), np.inf, error).argmax()), a.shape)
    return Difference(float(error.max()), float(error.mean()), float(sqnr), tuple(int(i) for i in where),
                      int(np.count_nonzero(a != b)), a.size)


@dataclass(frozen=True)
class LayerDifference:
    """One tensor that both stages have."""

    a: str  # its name in stage a
    b: str
    module: str  # the PyTorch module it comes from ("body.0.body.0.blocks.0.0.body.0"), "" if unknown
    shape: tuple[int, ...]  # NHWC
    difference: Difference
    step: float = 0.0  # quantisation step of b's tensor, 0.0 if b is float


def layerwise(a: Stage, b: Stage, core: np.ndarray) -> list[LayerDifference]:
    """Compare all tensors that two stages have in common, in execution order of a, on one core input (1, h, w, c).

    Tensors correspond by name. One that a stage does not have is left out: a convolution's result where the activation
    behind it is fused, or the second of two modules that compute the same.

    Raises:
        NotImplementedError: one of the runtimes does not give its tensors away.
    """
    of_a, of_b, steps = a.tensors(core), b.tensors(core), b.steps()
    return [LayerDifference(name, name, module_of(name), tensor.shape, compare(tensor, of_b[name]),
                            steps.get(name, 0.0))
            for name, tensor in of_a.items() if name in of_b and of_b[name].shape == tensor.shape]


def first_diverging(layers: Sequence[LayerDifference], *, atol: float) -> LayerDifference | None:
    """Return the first layer whose largest difference is above `atol` (or no number), None if there is none."""
    return next((layer for layer in layers if not layer.difference.max <= atol), None)


def images_to_core(deployed: DeployableMIRNet, images: np.ndarray) -> np.ndarray:
    """Turn images, float32 (N, H, W, C) in [0, 1], into core inputs (N, h, w, c)."""
    return _nhwc(deployed.core_input(nchw(images)))


def core_to_pictures(deployed: DeployableMIRNet, images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Return restored pictures, float32 (N, H, W, C), not clamped, from images and core outputs (N, h, w, m)."""
    with torch.no_grad():
        return _nhwc(deployed.picture(nchw(images), nchw(maps)))


def nchw(array: np.ndarray) -> Tensor:
    """Turn an array (N, H, W, C) into a float32 tensor (N, C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(array, np.float32).transpose(0, 3, 1, 2)))


def _nhwc(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy().transpose(0, 2, 3, 1))


def _nhwc_shape(value: Any) -> tuple[int, ...]:
    _, channels, rows, columns = (dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return rows, columns, channels


def _dequantised(values: np.ndarray, tensor: GraphTensor) -> np.ndarray:
    if not tensor.scales:
        return values
    return (values.astype(np.float32) - np.float32(tensor.zero_point)) * np.float32(tensor.scale)


def _with_first_version(content: bytes, operator: str) -> bytes:
    """Return a .tflite that asks for version 1 of an operator."""
    from ai_edge_litert import schema_py_generated as schema
    with opened(content) as (model, packed):
        for code in model.operatorCodes:
            if code.builtinCode == getattr(schema.BuiltinOperator, operator):
                code.version = 1
    return packed[0]


@contextlib.contextmanager
def _without_info() -> Iterator[None]:
    """Keep lines that start with INFO away from standard error: LiteRT writes them there itself and has no switch."""
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
