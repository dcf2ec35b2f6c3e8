"""The TFLite files of small networks: operators, names, scales, bytes; and what runtimes make of them."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from golden import filled
from tiny_models import convert_function

from conversion.bridge import tflite
from conversion.bridge.difference import compare, layerwise
from conversion.bridge.graph import read_graph
from conversion.bridge.onnx_export import export_onnx
from conversion.bridge.runtimes import open_stage
from conversion.bridge.tflite import to_tflite
from conversion.bridge.tflite_file import ConversionError
from conversion.mirnet.prepare import prepare
from mirnet_torch import CompactConfig, MIRNetConfig
from mirnet_torch.cli import UserError
from mirnet_torch.presets import create_model

CONFIGS = {
    "compact": CompactConfig(cell=2),
    # Rows = columns = channels of stream 0: no shape says which axis is which.
    "three streams": MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1, height=3, width=1),
}
OPERATORS = {
    "compact": {"ADD": 4, "AVERAGE_POOL_2D": 4, "CONCATENATION": 5, "CONV_2D": 20, "MAX_POOL_2D": 2, "MUL": 8,
                "RESIZE_BILINEAR": 1},
    "three streams": {"CONV_2D": 61, "LEAKY_RELU": 23, "ADD": 18, "MUL": 9, "AVERAGE_POOL_2D": 6, "CONCATENATION": 6,
                      "LOGISTIC": 6, "DEPTHWISE_CONV_2D": 4, "MIRROR_PAD": 4, "DEPTH_TO_SPACE": 3, "REDUCE_MAX": 3,
                      "RESIZE_BILINEAR": 3, "SOFTMAX": 1, "TRANSPOSE_CONV": 1},
}


class Converted:
    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        side = 16 if name == "compact" else 8
        prepared = prepare(filled(create_model(CONFIGS[name])), (side, side))
        self.network, self.shape = prepared.network, prepared.input_shape
        self.onnx = folder / "model.onnx"
        export_onnx(self.network, self.onnx, input_shape=self.shape, metadata={})
        # None of the images reaches 0 or 1.
        calibration = np.random.default_rng(0).uniform(0.1, 0.9, (4, *self.shape)).astype(np.float32)
        self.files = to_tflite(self.onnx, folder, calibration=calibration)
        self.core = np.random.default_rng(1).random((3, *self.shape)).astype(np.float32)


@pytest.fixture(scope="module", params=CONFIGS)
def converted(request, tmp_path_factory) -> Converted:
    return Converted(request.param, tmp_path_factory.mktemp("tflite"))


def test_operators(converted):
    assert read_graph(converted.files.int8).counts() == OPERATORS[converted.name]


def test_only_the_three_files_are_left(converted):
    assert sorted(path.name for path in converted.onnx.parent.iterdir()) == [
        "model.onnx", "model_float16.tflite", "model_float32.tflite", "model_int8.tflite"]


def test_int8_everywhere(converted):
    graph = read_graph(converted.files.int8)
    computed = [tensor for operator in graph.operators for tensor in operator.outputs]
    assert {tensor.dtype for tensor in computed} == {"int8"}
    (image,) = graph.inputs
    assert (image.dtype, np.float32(image.scale), image.zero_point) == ("int8", np.float32(1 / 255), -128)
    weights = [t for op in graph.operators if op.name == "CONV_2D" for t in op.weights if len(t.shape) == 4]
    assert all(len(tensor.scales) == tensor.shape[0] for tensor in weights)


def test_float_stages_agree(converted):
    outputs = [open_stage(stage, input_shape=converted.shape).run(converted.core)
               for stage in (converted.network, converted.onnx, converted.files.float32)]
    assert compare(outputs[0], outputs[1]).max <= 1e-5
    assert compare(outputs[1], outputs[2]).max <= 1e-4
    assert compare(outputs[2], open_stage(converted.files.float16).run(converted.core)).sqnr_db >= 40


def test_int8_is_near(converted):
    floats, stage = open_stage(converted.files.float32), open_stage(converted.files.int8)
    assert compare(floats.run(converted.core), stage.run(converted.core)).mean <= 1.5 * stage.scale


def test_every_tensor_has_its_name_in_every_file(converted):
    names = {tensor for tensor in open_stage(converted.onnx).tensors(converted.core[:1])}
    for path in (converted.files.float32, converted.files.int8):
        graph = read_graph(path)
        assert {tensor.name for operator in graph.operators for tensor in operator.outputs} <= names
        assert graph.inputs[0].name == "core" and graph.outputs[0].name == "maps"
    layers = layerwise(open_stage(converted.onnx), open_stage(converted.files.float32), converted.core[:1])
    assert len(layers) > 30 and max(layer.difference.max for layer in layers) <= 1e-4


@pytest.mark.skipif(not shutil.which("unshare") or subprocess.run(["unshare", "-rn", "true"]).returncode != 0,
                    reason="no network namespaces here")
def test_offline_the_same_bytes_and_nothing_left_anywhere(small_onnx, tmp_path):
    """Without any network, in an empty working directory and HOME: the bytes of a conversion with all of that.

    Three channels are what onnx2tf wants sample pictures from its website for.
    """
    here, home, out, other = (tmp_path / name for name in ("here", "home", "out", "other"))
    for folder in (here, home, out, other):
        folder.mkdir()
    script = ("import sys, numpy as np; from conversion.bridge.tflite import to_tflite; "
              "to_tflite(sys.argv[1], sys.argv[2], calibration=np.load(sys.argv[3]))")
    np.save(tmp_path / "calibration.npy", np.random.default_rng(0).random((2, 8, 8, 3)).astype(np.float32))
    environment = dict(os.environ, HOME=str(home), PYTHONPATH=str(tflite.ROOT), TMPDIR=str(here))
    command = ["unshare", "-rn", sys.executable, "-c", script, small_onnx, out, tmp_path / "calibration.npy"]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
    assert not list(here.iterdir()) and not list(home.iterdir())
    to_tflite(small_onnx, other, calibration=np.load(tmp_path / "calibration.npy"))
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(written) == 3
    assert written == {path.name: path.read_bytes() for path in other.iterdir()}


def test_depth_to_space_is_the_same_everywhere(tmp_path):
    """The one operator that LiteRT's reference resolver has for float only; its kernel does int8 (see LiteRTStage)."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
    path = convert_function(tmp_path / "depth.tflite", lambda x: tf.nn.depth_to_space(x, 2), (1, 4, 5, 8))
    with pytest.raises(ValueError, match="opcode 'DEPTH_TO_SPACE' version '2'"):
        Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    maps = np.random.default_rng(0).uniform(-1, 1, (3, 4, 5, 8)).astype(np.float32)
    (image,) = read_graph(path).inputs
    codes = np.clip(np.round(maps / np.float32(image.scale)) + image.zero_point, -128, 127).astype(np.int8)
    expected = tf.nn.depth_to_space(codes, 2).numpy()
    for runtime in ("litert", "litert-reference", "tflite-micro"):
        assert compare(expected, open_stage(path, runtime=runtime).run_raw(maps)).differing == 0, runtime


def test_equal_arrays_are_stored_once_and_bytes_are_aligned(converted):
    """The columns of a network share weights, all zero points are zeros; runtimes read weights where they lie."""
    from ai_edge_litert import schema_py_generated as schema
    for path in (converted.files.float32, converted.files.float16, converted.files.int8):
        content = path.read_bytes()
        start = np.frombuffer(content, np.uint8).ctypes.data
        model = schema.Model.GetRootAs(content, 0)
        subgraph = model.Subgraphs(0)
        tensors = [subgraph.Tensors(i) for i in range(subgraph.TensorsLength())]
        buffers = [model.Buffers(tensor.Buffer()).DataAsNumpy() for tensor in tensors
                   if model.Buffers(tensor.Buffer()).DataLength()]
        zeros = [tensor.Quantization().ZeroPointAsNumpy() for tensor in tensors
                 if tensor.Quantization() and tensor.Quantization().ZeroPointLength()]
        assert len(buffers) > 20 and (len(zeros) > 20) == (path == converted.files.int8)
        assert all((array.ctypes.data - start) % 16 == 0 for array in buffers)
        for arrays in (buffers, zeros):
            assert len({array.ctypes.data for array in arrays}) == len({array.tobytes() for array in arrays})


@pytest.mark.parametrize("calibration, message", [
    (np.zeros((1, 8, 8, 3), np.float32), "at least 2 images, not 1"),
    (np.zeros((4, 9, 8, 3), np.float32), r"shape \(N, 8, 8, 3\), not \(4, 9, 8, 3\)"),
    (np.full((4, 8, 8, 3), 2, np.float32), r"in \[0, 1\], not in \[2.0, 2.0\]"),
    (np.full((4, 8, 8, 3), np.nan, np.float32), "not in .nan"),
])
def test_bad_calibration(calibration, message, small_onnx, tmp_path):
    with pytest.raises(UserError, match=message):
        to_tflite(small_onnx, tmp_path, calibration=calibration)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def small_onnx(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    prepared = prepare(filled(create_model(MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1, height=1, width=1))), (8, 8))
    export_onnx(prepared.network, path, input_shape=prepared.input_shape, metadata={})
    return path


def test_bad_folders_and_files(small_onnx, tmp_path):
    calibration = np.zeros((2, 8, 8, 3), np.float32)
    with pytest.raises(UserError, match="cannot write into .*nowhere"):
        to_tflite(small_onnx, tmp_path / "nowhere", calibration=calibration)
    with pytest.raises(UserError, match="missing.onnx does not exist"):
        to_tflite(tmp_path / "missing.onnx", tmp_path, calibration=calibration)


def test_a_failure_is_one_line_and_leaves_nothing(tmp_path):
    source, out = tmp_path / "strange.onnx", tmp_path / "out"
    out.mkdir()
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
             for name, shape in (("core", (1, 3, 8, 8)), ("maps", (1, 3)))]
    node = onnx.helper.make_node("Det", ["core"], ["maps"], name="determinant")
    graph = onnx.helper.make_graph([node], "strange", ports[:1], ports[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), source)
    with pytest.raises(ConversionError, match="^onnx2tf could not convert strange.onnx: .*det") as caught:
        to_tflite(source, out, calibration=np.zeros((2, 8, 8, 3), np.float32))
    assert "\n" not in str(caught.value)
    assert not list(out.iterdir())


def test_a_network_access_is_refused():
    script = ("import sys, socket; from conversion.bridge.tflite import _forbid_network; "
              "sys.addaudithook(_forbid_network); socket.create_connection(('127.0.0.1', 9))")
    done = subprocess.run([sys.executable, "-c", script], cwd=tflite.ROOT, capture_output=True, text=True)
    assert "a conversion must not touch the network" in done.stderr


def test_what_is_no_model_is_refused(tmp_path):
    path = tmp_path / "text.tflite"
    path.write_text("this is no model")
    for runtime in ("litert", "tflite-micro"):
        with pytest.raises(UserError, match="text.tflite is not a .tflite file"):
            open_stage(path, runtime=runtime)
    with pytest.raises(UserError, match="gone.tflite"):
        open_stage(tmp_path / "gone.tflite")
