"""The portable C++ on an emulated Cortex-M4 with the flags of the board: the same bytes, and instructions counted."""
from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from sketch_tools import EMULATOR, HERE, SKETCH, WARNINGS, need, run
from yuv422 import from_yuyv

from conversion.mirnet.pixels import HeadTables, apply_maps, model_input

CONVERSIONS = 6_000_000  # instructions a frame, into the model and out of it


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the program, and where it finds its files."""
    from cortex_m4 import BOARD

    folder = tmp_path_factory.mktemp("qemu")
    need("qemu-system-arm")
    run(need("arm-none-eabi-gcc"), "-std=gnu11", *BOARD, "-Os", "-Wall", "-Wextra", "-Werror", "-c",
        EMULATOR / "start.c", "-o", folder / "start.o")
    sources = [SKETCH / name for name in ("pixels.cpp", "protocol.cpp", "model_data.cpp")]
    run(need("arm-none-eabi-g++"), *WARNINGS, *BOARD, "-Os", "-fno-rtti", "-I", SKETCH, "-I", EMULATOR, *sources,
        HERE / "qemu" / "pixels_main.cpp", folder / "start.o", "-nostartfiles", "-T", EMULATOR / "link.ld",
        "-Wl,--gc-sections", "--specs=nosys.specs", "-o", folder / "program.elf")
    return folder


def test_same_bytes_and_few_instructions(emulated: Path, frames: np.ndarray, maps: np.ndarray,
                                         tables: HeadTables, record_property) -> None:
    from cortex_m4 import emulate

    cell = len(frames[0]) // len(maps[0])
    for number in range(0, len(frames), 4):
        (emulated / "in").write_bytes(frames[number].tobytes() + maps[number].tobytes())
        assert emulate(emulated / "program.elf", emulated, timeout=120) == (0, "")
        out = (emulated / "out").read_bytes()
        rgb = from_yuyv(frames[number])
        restored = apply_maps(rgb, maps[number], tables, exposure=5)
        assert out[:57600] == model_input(rgb, cell=cell).tobytes()
        assert out[57600:115200] == restored.tobytes()
        crc, fill, restore, checksum = np.frombuffer(out[115200:], "<u4").tolist()
        assert crc == zlib.crc32(restored.tobytes())
        print(f"frame {number}: {fill:,} instructions into the model, {restore:,} out of it, {checksum:,} for a CRC")
        record_property("instructions", fill + restore)
        assert 100_000 < fill + restore < CONVERSIONS
        assert checksum < 1_500_000
