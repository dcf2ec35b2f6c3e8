"""Fixtures of the sketch's tests: its sources compiled for this computer, its model's numbers, frames to work on."""
from __future__ import annotations

import re
from typing import Callable

import numpy as np
import pytest
from sketch_tools import HERE, SKETCH, WARNINGS, need, run


@pytest.fixture(scope="session")
def host_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """The portable sources with host_program.cpp, under address and undefined behaviour sanitizers."""
    from simulator import SANITIZERS, portable_sources
    program = tmp_path_factory.mktemp("host") / "program"
    sources = [path for path in portable_sources() if path.stem not in ("commands", "self_test")]
    run(need("g++"), *WARNINGS, *SANITIZERS, "-I", SKETCH, *sources, HERE / "host_program.cpp", "-o", program)
    return lambda *arguments, stdin=b"": run(program, *arguments, input=stdin)


@pytest.fixture(scope="session")
def model_constants() -> dict[str, float]:
    """The numbers in model_data.h."""
    text = (SKETCH / "model_data.h").read_text()
    return {name: float(value.rstrip("f")) for name, value in
            re.findall(r"constexpr \S+ (k\w+) = (-?[\d.]+(?:e-?\d+)?f?);", text)}


@pytest.fixture(scope="session")
def frames() -> np.ndarray:
    """RGB565 frames, uint8 (N, 120, 160, 2): photographs, dark and bright, noise, and both ends of the range."""
    from skimage import data
    from skimage.transform import resize

    from conversion.pixels import rgb_to_rgb565
    photographs = [resize(photograph(), (120, 160), anti_aliasing=True)
                   for photograph in (data.astronaut, data.coffee, data.chelsea)]
    pictures = [np.rint(photograph * brightness).astype(np.uint8)
                for photograph in photographs for brightness in (12, 60, 255)]
    noise = np.random.default_rng(1).integers(0, 256, (6, 120, 160, 2), np.uint8)
    ends = np.stack([np.zeros((120, 160, 2), np.uint8), np.full((120, 160, 2), 255, np.uint8)])
    return np.concatenate([rgb_to_rgb565(np.stack(pictures)), noise, ends])


@pytest.fixture(scope="session")
def maps(frames: np.ndarray) -> np.ndarray:
    """Outputs of a model for `frames`, int8 (N, 30, 40, 12): any codes, smooth ones, and both ends of the range."""
    rng = np.random.default_rng(2)
    maps = rng.integers(-128, 128, (len(frames), 30, 40, 12))
    smooth = np.cumsum(rng.normal(0, 3, (len(frames), 30, 40, 12)), axis=2) + rng.normal(0, 40, (len(frames), 1, 1, 12))
    maps[::2] = smooth[::2]
    maps[-1], maps[-3] = 127, -128
    return maps.clip(-128, 127).astype(np.int8)
