"""Fixtures of the sketch's tests: its sources compiled for this computer, its model's numbers, frames to work on."""
from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
from sketch_tools import HERE, SKETCH, WARNINGS, need, run

from conversion.pixels import HeadTables, head_tables, rgb_to_rgb565


@pytest.fixture(scope="session")
def host_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """The portable sources with host_program.cpp, under address and undefined behaviour sanitizers."""
    return compiled(SKETCH, tmp_path_factory.mktemp("host"))


def compiled(sketch: Path, folder: Path) -> Callable[..., bytes]:
    """Compile host_program.cpp with the portable sources in `sketch`."""
    from simulator import SANITIZERS, portable_sources
    sources = [sketch / path.name for path in portable_sources() if path.stem not in ("commands", "self_test")]
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
    tables = head_tables(0.0999, -128 if cell % 2 else 127, shuffle=cell)  # the largest sums there can be
    header, source = ((sketch / f"model_data.{suffix}").read_text() for suffix in ("h", "cpp"))
    sizes = {"kShuffle": cell, "kInputHeight": 120 // cell, "kInputWidth": 160 // cell, "kInputChannels": 3 * cell ** 2,
             "kOutputHeight": 120 // cell, "kOutputWidth": 160 // cell, "kOutputSize": 15 * 120 * 160 // cell ** 2}
    for name, value in sizes.items():
        header = re.sub(rf"{name} = \d+;", f"{name} = {value};", header)
    for name, entries in (("Gain", tables.gain), ("Share", tables.share), ("Offset", tables.offset)):
        source = re.sub(rf"k{name}Table\[256\] = {{[^}}]*}}", f"k{name}Table[256] = {{{','.join(map(str, entries))}}}",
                        source)
    (sketch / "model_data.h").write_text(header)
    (sketch / "model_data.cpp").write_text(source)
    return cell, tables, compiled(sketch, folder)


@pytest.fixture(scope="session")
def model_constants() -> dict[str, float]:
    """The numbers in model_data.h."""
    text = (SKETCH / "model_data.h").read_text()
    return {name: float(value.rstrip("f")) for name, value in
            re.findall(r"constexpr \S+ (k\w+) = (-?[\d.]+(?:e-?\d+)?f?);", text)}


@pytest.fixture(scope="session")
def tables(model_constants: dict[str, float]) -> HeadTables:
    """The tables that Python makes for the model of the sketch."""
    return head_tables(model_constants["kOutputScale"], int(model_constants["kOutputZeroPoint"]),
                       shuffle=int(model_constants["kShuffle"]))


@pytest.fixture(scope="session")
def frames() -> np.ndarray:
    """RGB565 frames, uint8 (N, 120, 160, 2): photographs, dark and bright, noise, and both ends of the range."""
    from skimage import data
    from skimage.transform import resize
    photographs = [resize(photograph(), (120, 160), anti_aliasing=True)
                   for photograph in (data.astronaut, data.coffee, data.chelsea)]
    pictures = [np.rint(photograph * brightness).astype(np.uint8)
                for photograph in photographs for brightness in (12, 60, 255)]
    noise = np.random.default_rng(1).integers(0, 256, (6, 120, 160, 2), np.uint8)
    ends = np.stack([np.zeros((120, 160, 2), np.uint8), np.full((120, 160, 2), 255, np.uint8)])
    return np.concatenate([rgb_to_rgb565(np.stack(pictures)), noise, ends])


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
