"""The generated C++: compiled by g++ without a warning, read back, and run by tflite-micro."""
from __future__ import annotations

import subprocess

import numpy as np
import pytest
from tiny_models import small_network

from conversion.bridge.c_array import read_c_array, write_golden_vectors, write_model_data
from conversion.bridge.cost import cost
from conversion.bridge.graph import read_graph
from conversion.mirnet.pixels import BRIGHTER, ROOTS, head_tables
from conversion.mirnet.sketch import SKETCH, header
from mirnet_torch.compact import CompactConfig

CONFIG = CompactConfig()
SIZE = (24 * CONFIG.cell, 16 * CONFIG.cell)  # of the pictures for the small network below
PROGRAM = r"""
#include <cstdio>

#include "golden_vectors.h"
#include "model_data.h"

struct Resolver {  // counts as TFLM's resolver does; 1 is kTfLiteError
  int registered = 0;
  int fail_at = -1;
  int Add() { return registered++ == fail_at ? 1 : 0; }
  %METHODS%
};

int main() {
  using namespace mirnet;
  Resolver resolver;
  const int refused = RegisterOperators(&resolver);
  std::printf("refused %d registered %d count %d\n", refused, resolver.registered, kOperatorCount);
  Resolver failing;
  failing.fail_at = 1;
  std::printf("refused %d\n", RegisterOperators(&failing));
  std::printf("aligned %d\n", static_cast<int>(reinterpret_cast<std::size_t>(kModelData) % 16));
  std::printf("sha256 %s\n", kModelSha256);
  std::printf("image %d %d %d\n", kImageHeight, kImageWidth, kCell);
  std::printf("input %d %d %d %a %d\n", kInputHeight, kInputWidth, kInputChannels, static_cast<double>(kInputScale),
              kInputZeroPoint);
  std::printf("output %d %d %d %a %d\n", kOutputHeight, kOutputWidth, kOutputChannels,
              static_cast<double>(kOutputScale), kOutputZeroPoint);
  std::printf("arena %zu tensors %zu\n", kArenaBytes, kArenaTensorBytes);
  std::printf("limits %zu %zu %zu\n", kMemoryLimit, kBufferBytes, kFlashLimit);
  std::FILE* file = std::fopen("bytes", "wb");
  std::fwrite(kModelData, 1, kModelSize, file);
  std::fwrite(kGoldenInput, 1, sizeof(kGoldenInput), file);
  std::fwrite(kGoldenOutput, 1, sizeof(kGoldenOutput), file);
  std::fwrite(kGainTable, 1, sizeof(kGainTable), file);
  std::fwrite(kRootGainTable, 1, sizeof(kRootGainTable), file);
  std::fwrite(kRollOffTable, 1, sizeof(kRollOffTable), file);
  std::fwrite(kRootTable, 1, sizeof(kRootTable), file);
  std::fwrite(kBrighterTable, 1, sizeof(kBrighterTable), file);
  const std::int32_t scale = kValueScale;
  std::fwrite(&scale, 1, sizeof(scale), file);
  return std::fclose(file);
}
"""


def run_micro(model: bytes, codes: np.ndarray) -> np.ndarray:
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(model)
    interpreter.set_input(codes, 0)
    interpreter.invoke()
    return interpreter.get_output(0)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    path = small_network(folder / "small.tflite")
    graph = read_graph(path)
    codes = np.random.default_rng(5).integers(-128, 128, graph.inputs[0].shape).astype(np.int8)
    files = (*write_model_data(path, folder, graph=graph, cost=cost(graph), extra=header(graph, CONFIG, SIZE)),
             *write_golden_vectors(folder, graph=graph, golden_input=codes,
                                   golden_output=run_micro(path.read_bytes(), codes)))
    return folder, graph, codes, files


def test_the_compiler_reads_back_every_byte(generated):
    folder, graph, codes, files = generated
    methods = ["AddAdd", "AddAveragePool2D", "AddConcatenation", "AddConv2D", "AddMul", "AddReduceMax",
               "AddResizeBilinear", "AddSub"]
    program = PROGRAM.replace("%METHODS%", " ".join(f"int {name}() {{ return Add(); }}" for name in methods))
    (folder / "main.cpp").write_text(program)
    built = subprocess.run(["g++", "-std=c++14", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror",
                            "main.cpp", "model_data.cpp", "golden_vectors.cpp", "-o", "main"], cwd=folder,
                           capture_output=True, text=True)
    assert built.returncode == 0 and not built.stderr, built.stderr
    printed = subprocess.run(["./main"], cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()
    costs, (image,), (maps,) = cost(graph), graph.inputs, graph.outputs
    assert printed == [
        "refused 0 registered 8 count 8", "refused 1", "aligned 0", f"sha256 {graph.sha256}",
        f"image {16 * CONFIG.cell} {24 * CONFIG.cell} {CONFIG.cell}",
        f"input 16 24 3 {_hex(image.scale)} {image.zero_point}",
        f"output 16 24 12 {_hex(maps.scale)} {maps.zero_point}",
        f"arena {costs.arena_bytes} tensors {costs.head_bytes}",
        f"limits {SKETCH.memory_limit} {SKETCH.buffer_bytes} {SKETCH.flash_limit}"]
    content = (folder / "bytes").read_bytes()
    model = content[:graph.size]
    assert model == (folder / "small.tflite").read_bytes()
    golden_input = np.frombuffer(content, np.int8, codes.size, graph.size).reshape(codes.shape)
    rest = content[graph.size + codes.size:]
    golden_output = np.frombuffer(rest, np.int8, 16 * 24 * 12)
    assert np.array_equal(golden_input, codes)
    assert np.count_nonzero(run_micro(model, golden_input).ravel() != golden_output) == 0
    tables = head_tables(maps.scale, maps.zero_point, cell=CONFIG.cell)
    assert rest[golden_output.size:] == b"".join([
        tables.gain.tobytes(), tables.root_gain.tobytes(), tables.roll_off.tobytes(), ROOTS.astype(np.uint16).tobytes(),
        BRIGHTER.astype(np.uint16).tobytes(), np.int32(tables.scale).tobytes()])


def _hex(value: float) -> str:
    """A float32 as printf's %a writes it."""
    mantissa, exponent = float(np.float32(value)).hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}"


def test_python_reads_back_every_byte(generated):
    folder, _, _, files = generated
    assert read_c_array(files[1]) == (folder / "small.tflite").read_bytes()
    with pytest.raises(ValueError, match="holds no model data"):
        read_c_array(files[3])


def test_generated_text_is_stable_and_fits_80_columns(generated, tmp_path):
    folder, graph, codes, files = generated
    again = write_model_data(folder / "small.tflite", tmp_path, graph=graph, cost=cost(graph),
                             extra=header(graph, CONFIG, SIZE))
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in files[:2]]
    for path in files:
        assert max(map(len, path.read_text().splitlines()[1:])) <= 80


def test_golden_vectors_must_fit_the_model(generated, tmp_path):
    _, graph, codes, _ = generated
    with pytest.raises(ValueError, match="golden output must be int8"):
        write_golden_vectors(tmp_path, graph=graph, golden_input=codes, golden_output=codes.astype(np.float32))


def test_a_model_alone_compiles_without_a_word_of_a_sketch(generated, tmp_path):
    """For a foreign network the header has only what the .tflite says."""
    folder, graph, _, _ = generated
    header, source = write_model_data(folder / "small.tflite", tmp_path, graph=graph, cost=cost(graph))
    built = subprocess.run(["g++", "-std=c++14", "-Wall", "-Wextra", "-pedantic", "-Werror", "-c", source, "-o",
                            tmp_path / "model.o"], capture_output=True, text=True)
    assert built.returncode == 0 and not built.stderr, built.stderr
    assert "kInputHeight = 16" in header.read_text() and "kImageHeight" not in header.read_text()
    assert read_c_array(source) == (folder / "small.tflite").read_bytes()
