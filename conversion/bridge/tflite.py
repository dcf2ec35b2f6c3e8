"""ONNX -> TFLite: float32, float16 and fully integer (int8 in and out, one scale per channel of weights).

Some networks are integer in parts only: given modules are computed in int8, the rest, input and output in float32.

onnx2tf turns the graph into a Keras model in NHWC, and TensorFlow's converter turns that into the three files. Both run
in a subprocess that cannot open a network connection; its working folder, temporary files and caches are a scratch
folder inside the output folder. So a conversion is quiet, leaves nothing behind and works offline. Then the tensors of
each file are named and ordered (`tflite_file.py`).
"""
from __future__ import annotations

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
from typing import Any, Sequence

import numpy as np

from conversion.bridge.calibrate import activation_ranges, crossings
from conversion.bridge.onnx_export import load_onnx
from conversion.bridge.quantise import quantise, quantise_parts
from conversion.bridge.tflite_file import ConversionError, finish
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


def to_tflite(onnx_path: str | os.PathLike[str], out_dir: str | os.PathLike[str], *, calibration: np.ndarray,
              quantised: Sequence[str] = ()) -> TFLiteFiles:
    """Write <stem>_float32.tflite, <stem>_float16.tflite and <stem>_int8.tflite into `out_dir`.

    The int8 input always has the scale 1/255 and the zero point -128, so that subtracting 128 turns a byte of an image
    into a byte of the input. All other ranges come from the calibration. The same arguments give the same bytes.

    Args:
        calibration: core inputs, float32 (N, rows, columns, channels) in [0, 1], N at least 2.
        quantised: names of the modules that the int8 model computes in integers; none: everything.

    Raises:
        UserError: the calibration data do not fit, the ONNX file cannot be read, or `out_dir` cannot be written.
        ConversionError: onnx2tf or TensorFlow failed.
        OSError: the disk is full.
    """
    onnx_path, out_dir = Path(onnx_path).resolve(), Path(out_dir).resolve()
    graph = load_onnx(onnx_path).graph
    _, channels, rows, columns = (dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim)
    calibration = checked_calibration(calibration, (rows, columns, channels))
    kinds = [field for field in TFLiteFiles.__dataclass_fields__]
    targets = {kind: out_dir / f"{onnx_path.stem}_{kind}.tflite" for kind in kinds}
    try:
        scratch = tempfile.TemporaryDirectory(prefix=".conversion-", dir=out_dir)
    except OSError as error:
        raise UserError(f"cannot write into {out_dir}: {error.strerror}") from error
    with scratch as folder:
        ranges = activation_ranges(load_onnx(onnx_path), calibration.astype(np.float32),
                                   crossings(graph, quantised) if quantised else None)
        Path(folder, "ranges.json").write_text(json.dumps([ranges, quantised]))
        _run_converter(onnx_path, Path(folder))
        for kind in kinds:
            finished = finish(Path(folder, f"{kind}.tflite").read_bytes(), graph)
            with atomic_path(targets[kind]) as temporary:
                temporary.write_bytes(finished)
    return TFLiteFiles(**targets)


def checked_calibration(calibration: Any, input_shape: tuple[int, int, int]) -> np.ndarray:
    """Return calibration data, an array, a tensor or a list of images, as an array (N, rows, columns, channels).

    Raises:
        UserError: they have another shape, are too few, or do not lie in [0, 1].
    """
    try:
        calibration = np.asarray(calibration)
    except (ValueError, TypeError, RuntimeError) as error:  # images of several sizes; a tensor of a GPU
        raise UserError(f"calibration data are not an array: {str(error).splitlines()[0]}") from None
    if calibration.ndim != 4 or calibration.shape[1:] != tuple(input_shape):
        rows, columns, channels = input_shape
        raise UserError(f"calibration data must have the shape (N, {rows}, {columns}, {channels}), "
                        f"not {calibration.shape}: images, rows, columns, channels")
    if len(calibration) < 2:
        raise UserError(f"calibration needs at least 2 images, not {len(calibration)}")
    if not (calibration.min() >= 0 and calibration.max() <= 1):  # also false for NaN
        raise UserError(f"calibration data must lie in [0, 1], not in [{calibration.min()}, {calibration.max()}]")
    return calibration


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
    for line in lines:
        _, named, operators = line.partition("TF Select ops: ")
        if named:
            return (f"TFLite has no operator for {operators.strip()}: write that module with convolutions, pools and "
                    "elementwise arithmetic")
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
    ranges, quantised = json.loads(Path("ranges.json").read_text())
    given = Path("float32.tflite").read_bytes(), load_onnx(onnx_path).graph, ranges
    Path("int8.tflite").write_bytes(quantise_parts(*given, modules=quantised) if quantised else quantise(*given))


def _trace(model: Any) -> Any:
    """Return a Keras model as one TensorFlow function with an input of fixed shape."""
    import tensorflow as tf
    image = tf.TensorSpec(model.inputs[0].shape, tf.float32, name="core")
    return tf.function(lambda core: model(core)).get_concrete_function(image)


def _forbid_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"a conversion must not touch the network, but something called {event}{arguments[1:]}")
