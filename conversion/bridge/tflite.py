"""ONNX -> TFLite: float32, float16 and fully integer (int8 in and out, one scale per channel of weights).

onnx2tf turns the graph into a Keras model in NHWC, and TensorFlow's converter turns that into the three files. Both run
in a subprocess that cannot open a network connection; its working folder, temporary files and caches are a scratch
folder inside the output folder. So a conversion is quiet, leaves nothing behind and works offline. Then in each file

* tensors are named: every tensor that has a counterpart in the ONNX graph gets its name, so that the .tflite shows the
  PyTorch module of an operator, and stages can be compared tensor by tensor;
* equal arrays, such as shared weights or zero points, are stored once.
"""
from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import flatbuffers
import numpy as np
import onnx
from onnx import numpy_helper

from conversion.bridge.calibrate import Range, activation_ranges
from conversion.bridge.onnx_export import load_onnx
from mirnet_torch.cli import UserError, atomic_path

ROOT = Path(__file__).resolve().parents[2]
LITTLE = 2 ** 16  # bytes; a disk with less is full
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


@dataclass(frozen=True)
class TFLiteFiles:
    """The three files of one conversion, in one folder."""

    float32: Path
    float16: Path
    int8: Path


class ConversionError(RuntimeError):
    """onnx2tf or TensorFlow failed; the message has the line of its output that names the cause."""


def to_tflite(onnx_path: str | os.PathLike[str], out_dir: str | os.PathLike[str], *,
              calibration: np.ndarray) -> TFLiteFiles:
    """Write <stem>_float32.tflite, <stem>_float16.tflite and <stem>_int8.tflite into `out_dir`.

    The int8 input always has the scale 1/255 and the zero point -128, so that subtracting 128 turns a byte of an image
    into a byte of the input. All other ranges come from the calibration. The same arguments give the same bytes.

    Args:
        calibration: core inputs, float32 (N, rows, columns, channels) in [0, 1], N at least 2.

    Raises:
        UserError: the calibration data do not fit, the ONNX file cannot be read, or `out_dir` cannot be written.
        ConversionError: onnx2tf or TensorFlow failed.
        OSError: the disk is full.
    """
    onnx_path, out_dir = Path(onnx_path).resolve(), Path(out_dir).resolve()
    graph = load_onnx(onnx_path).graph
    _check_calibration(calibration, graph)
    kinds = [field for field in TFLiteFiles.__dataclass_fields__]
    targets = {kind: out_dir / f"{onnx_path.stem}_{kind}.tflite" for kind in kinds}
    try:
        scratch = tempfile.TemporaryDirectory(prefix=".conversion-", dir=out_dir)
    except OSError as error:
        raise UserError(f"cannot write into {out_dir}: {error.strerror}") from error
    with scratch as folder:
        ranges = activation_ranges(load_onnx(onnx_path), calibration.astype(np.float32))
        Path(folder, "ranges.json").write_text(json.dumps(ranges))
        _run_converter(onnx_path, Path(folder))
        for kind in kinds:
            finished = _finish(Path(folder, f"{kind}.tflite").read_bytes(), graph)
            with atomic_path(targets[kind]) as temporary:
                temporary.write_bytes(finished)
    return TFLiteFiles(**targets)


def _check_calibration(calibration: np.ndarray, graph: onnx.GraphProto) -> None:
    _, channels, rows, columns = (dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim)
    expected = (rows, columns, channels)
    if calibration.ndim != 4 or calibration.shape[1:] != expected:
        raise UserError(f"calibration data must have the shape (N, {rows}, {columns}, {channels}), "
                        f"not {calibration.shape}")
    if len(calibration) < 2:
        raise UserError(f"calibration needs at least 2 images, not {len(calibration)}")
    if not (calibration.min() >= 0 and calibration.max() <= 1):  # also false for NaN
        raise UserError(f"calibration data must lie in [0, 1], not in [{calibration.min()}, {calibration.max()}]")


def _run_converter(onnx_path: Path, folder: Path) -> None:
    """Run `_convert` in a subprocess, in `folder`."""
    environment = dict(os.environ, TMPDIR=str(folder), KERAS_HOME=str(folder), CUDA_VISIBLE_DEVICES="-1",
                       TF_CPP_MIN_LOG_LEVEL="2", PYTHONHASHSEED="0", TF_USE_LEGACY_KERAS="1",
                       PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    command = [sys.executable, "-W", "ignore", "-c",
               "import sys; from conversion.bridge.tflite import _convert; _convert(sys.argv[1])", str(onnx_path)]
    done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")  # not to a file: the disk may be full
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()] or ["no output"]
        if shutil.disk_usage(folder).free < LITTLE or any(os.strerror(errno.ENOSPC) in line for line in lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.parent))
        cause = "killed, perhaps for lack of memory" if done.returncode < 0 else _cause(lines)
        _, ours, message = cause.partition(f"{ConversionError.__name__}: ")
        if ours:
            raise ConversionError(message)
        raise ConversionError(f"onnx2tf could not convert {onnx_path.name}: {cause}")


def _cause(lines: list[str]) -> str:
    """Return the line of a log that names the cause: MLIR's error, else the exception, else the last line."""
    errors = (line for mark in ("error: ", "Error: ", "Error") for line in reversed(lines) if mark in line)
    return next(errors, lines[-1]).strip()


def _convert(onnx_path: str) -> None:
    """Write float32.tflite, float16.tflite and int8.tflite into the working directory; runs in a subprocess."""
    if sys.platform == "linux":  # end with the parent process, even if that is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.addaudithook(_forbid_network)
    # onnx2tf looks for this file in the working directory, and on the network if it is not there.
    np.save("calibration_image_sample_data_20x128x128x3_float32.npy", np.zeros((20, 128, 128, 3), np.float32))
    import onnx2tf
    import onnx2tf.ops.Add
    import tensorflow as tf

    # onnx2tf 1.29.24 compares the NHWC result of every Add with the NCHW shape in the ONNX file, finds them different
    # and transposes the operands until they are equal; all needless TRANSPOSE operators come from that.
    onnx2tf.ops.Add.transpose_with_flexing_deterrence = lambda *, input_tensor, **_: input_tensor
    # Strict mode tries every layout of every operand on test data: slow, and a convolutional graph is not ambiguous.
    # Without it onnx2tf still computes the test data, all tensors at once: 12 GB for `paper` at 256x256.
    onnx2tf.onnx2tf.dummy_onnx_inference = lambda **_: []
    model = onnx2tf.convert(input_onnx_file_path=onnx_path, output_folder_path=os.getcwd(), disable_strict_mode=True,
                            not_use_onnxsim=True, not_use_opname_auto_generate=True, disable_model_save=True,
                            non_verbose=True, verbosity="error")
    # Not from_keras_model: it writes and reads a SavedModel, which takes more than ten minutes for `paper`.
    traced = _trace(model)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
    Path("float32.tflite").write_bytes(converter.convert())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    Path("float16.tflite").write_bytes(converter.convert())
    ranges = json.loads(Path("ranges.json").read_text())
    Path("int8.tflite").write_bytes(_quantise(Path("float32.tflite").read_bytes(), load_onnx(onnx_path).graph, ranges))


def _trace(model: Any) -> Any:
    """Return a Keras model as one TensorFlow function with an input of fixed shape."""
    import tensorflow as tf
    image = tf.TensorSpec(model.inputs[0].shape, tf.float32, name="core")
    return tf.function(lambda core: model(core)).get_concrete_function(image)


def _forbid_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"a conversion must not touch the network, but something called {event}{arguments[1:]}")


def _quantise(content: bytes, graph: onnx.GraphProto, ranges: dict[str, Range]) -> bytes:
    """Quantise a float model to int8, given the range of every tensor of the ONNX graph."""
    import tensorflow as tf
    from ai_edge_litert import schema_py_generated as schema
    from tensorflow.lite.python.convert import mlir_quantize
    with opened(content) as (model, packed):
        subgraph, codes = model.subgraphs[0], model.operatorCodes
        names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
        known = _name_tensors(model, graph)
        for operator in subgraph.operators:
            index = int(operator.outputs[0])
            if index not in known:
                code = codes[operator.opcodeIndex]
                name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
                raise ConversionError(f"the operator {name} ({subgraph.tensors[index].name.decode()}) cannot be traced "
                                      "back to the network, so its range is unknown: write that module with the "
                                      f"operators that become {', '.join(_SOURCES)}")
            _set_range(subgraph.tensors[index], *ranges[known[index]])
        _set_range(subgraph.tensors[subgraph.inputs[0]], 0.0, 1.0)
        _widen_dead_ranges(subgraph)
    return mlir_quantize(packed[0], disable_per_channel=False, input_data_type=tf.int8, output_data_type=tf.int8)


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


def _finish(content: bytes, graph: onnx.GraphProto) -> bytes:
    """Name a model's tensors after the ONNX graph, sort them and store equal arrays once."""
    with opened(content) as (model, packed):
        _name_tensors(model, graph)
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
_SOURCES = {"CONV_2D": "Conv", "DEPTHWISE_CONV_2D": "Conv", "TRANSPOSE_CONV": "ConvTranspose", "ADD": "Add",
            "SUB": "Sub", "MUL": "Mul", "AVERAGE_POOL_2D": "AveragePool", "MAX_POOL_2D": "MaxPool",
            "REDUCE_MAX": "ReduceMax", "CONCATENATION": "Concat", "RESIZE_BILINEAR": "Resize", "MIRROR_PAD": "Pad",
            "DEPTH_TO_SPACE": "DepthToSpace", "LOGISTIC": "Sigmoid", "LEAKY_RELU": "LeakyRelu", "SOFTMAX": "Softmax",
            "RELU": "Relu", "RELU6": "Clip"}
_ALIASES = ("PAD", "QUANTIZE", "DEQUANTIZE")  # the converter adds these: their output gets the name of their input


def _name_tensors(model: Any, graph: onnx.GraphProto) -> dict[int, str]:
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
                      if node.op_type == _SOURCES.get(kind) and node.name not in used
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
