"""Fixtures of the sketch's tests: its sources compiled for this computer, its model's numbers, frames to work on."""
from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
from sketch_tools import HERE, SKETCH, WARNINGS, constants_of, need, run, set_arrays, set_constants

from conversion.mirnet.pixels import HeadTables, head_tables


@pytest.fixture(scope="session")
def host_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """The portable sources with host_program.cpp, under address and undefined behaviour sanitizers."""
    return compiled(SKETCH, tmp_path_factory.mktemp("host"))


def compiled(sketch: Path, folder: Path) -> Callable[..., bytes]:
    """Compile host_program.cpp with the portable sources in `sketch`."""
    from simulator import SANITIZERS, portable_sources
    sources = [path for path in portable_sources(sketch) if path.stem not in ("commands", "self_test")]
    program = folder / "program"
    run(need("g++"), *WARNINGS, *SANITIZERS, "-I", sketch, *sources, HERE / "host_program.cpp", "-o", program)
    return lambda *arguments, stdin=b"": run(program, *arguments, input=stdin)


@pytest.fixture(scope="session", params=[1, 2, 4, 5])
def other_cells(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory,
                model_constants: dict[str, float]) -> tuple[int, HeadTables, Callable[..., bytes]]:
    """The side of a cell, and its tables and program: the sketch as it were with a model of such cells."""
    cell, folder = request.param, tmp_path_factory.mktemp("cells")
    sketch = folder / "sketch"
    shutil.copytree(SKETCH, sketch)
    tables = head_tables(0.0999, -128 if cell % 2 else 127, cell=cell)  # the largest sums there can be
    set_constants(sketch, **_sizes(160, 120, cell))
    set_constants(sketch, kValueScale=tables.scale, kOutputZeroPoint=tables.zero_point)
    set_arrays(sketch / "model_data.cpp", kGainTable=tables.gain, kRootGainTable=tables.root_gain,
               kRollOffTable=tables.roll_off)
    return cell, tables, compiled(sketch, folder)


@pytest.fixture(scope="session")
def small_sketch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sketch with a model of a maker's own: one convolution, for frames of 80x60 pixels in cells of 5x5."""
    tf, micro = pytest.importorskip("tensorflow"), pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    rng = np.random.default_rng(4)
    weights = rng.normal(0, 0.05, (1, 1, 75, 15)).astype(np.float32)
    pictures = rng.random((4, 1, 12, 16, 75), np.float32)
    pictures[0], pictures[1] = 0, 1  # so that the input's scale is 1/255
    network = tf.function(lambda cells: tf.nn.conv2d(cells, weights, 1, "SAME"),
                          input_signature=[tf.TensorSpec(pictures[0].shape, tf.float32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()], tf.Module())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([picture] for picture in pictures)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    model = converter.convert()

    interpreter = micro.Interpreter.from_bytes(model, arena_size=1 << 20)
    golden = rng.integers(-128, -60, (1, 12, 16, 75)).astype(np.int8)
    interpreter.set_input(golden, 0)
    interpreter.invoke()
    quantised = interpreter.get_output_details(0)["quantization_parameters"]
    scale, zero_point = quantised["scales"][0], quantised["zero_points"][0]
    tables = head_tables(scale, zero_point, cell=5)
    sketch = tmp_path_factory.mktemp("small") / "sketch"
    shutil.copytree(SKETCH, sketch)
    set_constants(sketch, **_sizes(80, 60, 5), kModelSize=len(model), kOutputScale=f"{scale:.9g}f",
                  kOutputZeroPoint=zero_point, kValueScale=tables.scale)
    header = (sketch / "model_data.h").read_text()
    (sketch / "model_data.h").write_text(re.sub('"[0-9a-f]{64}"', f'"{hashlib.sha256(model).hexdigest()}"', header))
    set_arrays(sketch / "model_data.cpp", kModelData=(f"0x{byte:02x}" for byte in model), kGainTable=tables.gain,
               kRootGainTable=tables.root_gain, kRollOffTable=tables.roll_off)
    set_arrays(sketch / "golden_vectors.cpp", kGoldenInput=golden.ravel(),
               kGoldenOutput=interpreter.get_output(0).ravel())
    return sketch


def _sizes(width: int, height: int, cell: int) -> dict[str, int]:
    """The constants in model_data.h for frames of this size and cells of this side."""
    rows, columns = height // cell, width // cell
    return {"kImageWidth": width, "kImageHeight": height, "kCell": cell,
            "kInputHeight": rows, "kInputWidth": columns, "kInputChannels": 3 * cell ** 2,
            "kInputSize": 3 * width * height,
            "kOutputHeight": rows, "kOutputWidth": columns, "kOutputSize": 15 * rows * columns}


@pytest.fixture(scope="session")
def model_constants() -> dict[str, float]:
    """The numbers in model_data.h."""
    return constants_of(SKETCH)


@pytest.fixture(scope="session")
def tables(model_constants: dict[str, float]) -> HeadTables:
    """The tables that Python makes for the model of the sketch."""
    return head_tables(model_constants["kOutputScale"], int(model_constants["kOutputZeroPoint"]),
                       cell=int(model_constants["kCell"]))


@pytest.fixture(scope="session")
def frames() -> np.ndarray:
    """Dark frames, YUYV, uint8 (N, 120, 160, 2): photographs, dark and bright, noise, and both ends of the range."""
    from skimage import data
    from skimage.transform import resize
    from yuv422 import to_yuyv
    photographs = [resize(photograph(), (120, 160), anti_aliasing=True)
                   for photograph in (data.astronaut, data.coffee, data.chelsea)]
    pictures = [np.rint(photograph * brightness).astype(np.uint8)
                for photograph in photographs for brightness in (12, 60, 255)]
    noise = np.random.default_rng(1).integers(0, 256, (6, 120, 160, 2), np.uint8)
    ends = np.stack([np.zeros((120, 160, 2), np.uint8), np.full((120, 160, 2), 255, np.uint8)])
    return np.concatenate([to_yuyv(np.stack(pictures)), noise, ends])


@pytest.fixture(scope="session")
def maps(frames: np.ndarray, model_constants: dict[str, float]) -> np.ndarray:
    """Outputs of the model's shape for `frames`, int8: any codes, smooth ones, and both ends of the range."""
    rng = np.random.default_rng(2)
    shape = (len(frames), *(int(model_constants[f"kOutput{side}"]) for side in ("Height", "Width", "Channels")))
    maps = rng.integers(-128, 128, shape)
    smooth = np.cumsum(rng.normal(0, 3, shape), axis=2) + rng.normal(0, 40, (len(frames), 1, 1, shape[-1]))
    maps[::2] = smooth[::2]
    maps[-1], maps[-3] = 127, -128
    return maps.clip(-128, 127).astype(np.int8)
