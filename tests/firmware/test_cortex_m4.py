"""The portable C++ on an emulated Cortex-M4 with the flags of the board: the same bytes, and instructions counted."""
from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from sketch_tools import HERE, SKETCH, WARNINGS, need, run

from conversion.pixels import HeadTables, apply_maps, model_input, rgb565_to_rgb

# As arduino:mbed_nano compiles for the Nano 33 BLE.
CPU = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=softfp", "-mfpu=fpv4-sp-d16")
BOARD = (*CPU, "-Os", "-fno-exceptions", "-fdata-sections", "-ffunction-sections", "-funsigned-char")
CONVERSIONS = 4_500_000  # instructions a frame, into the model and out of it


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the program, and where it finds its files."""
    folder, tools = tmp_path_factory.mktemp("qemu"), HERE / "qemu"
    need("qemu-system-arm")
    run(need("arm-none-eabi-gcc"), "-std=gnu11", *BOARD, "-Wall", "-Wextra", "-Werror", "-c", tools / "start.c",
        "-o", folder / "start.o")
    sources = [SKETCH / name for name in ("pixels.cpp", "protocol.cpp", "model_data.cpp")]
    run(need("arm-none-eabi-g++"), *WARNINGS, *BOARD, "-fno-rtti", "-I", SKETCH, "-I", tools, *sources,
        tools / "pixels_main.cpp", folder / "start.o", "-nostartfiles", "-T", tools / "link.ld", "-Wl,--gc-sections",
        "--specs=nosys.specs", "-o", folder / "program.elf")
    return folder


def test_same_bytes_and_few_instructions(emulated: Path, frames: np.ndarray, maps: np.ndarray,
                                         tables: HeadTables, record_property) -> None:
    shuffle = len(frames[0]) // len(maps[0])
    for number in range(0, len(frames), 4):
        (emulated / "in").write_bytes(frames[number].tobytes() + maps[number].tobytes())
        run("qemu-system-arm", "-machine", "mps2-an386", "-icount", "shift=0", "-display", "none", "-monitor", "none",
            "-serial", "none", "-semihosting-config", "enable=on,target=native", "-kernel", emulated / "program.elf",
            cwd=emulated, timeout=120)
        out = (emulated / "out").read_bytes()
        rgb = rgb565_to_rgb(frames[number])
        restored = apply_maps(rgb, maps[number], tables)
        assert out[:57600] == model_input(rgb, shuffle=shuffle).tobytes()
        assert out[57600:115200] == restored.tobytes()
        crc, fill, restore, checksum = np.frombuffer(out[115200:], "<u4").tolist()
        assert crc == zlib.crc32(restored.tobytes())
        print(f"frame {number}: {fill:,} instructions into the model, {restore:,} out of it, {checksum:,} for a CRC")
        record_property("instructions", fill + restore)
        assert 100_000 < fill + restore < CONVERSIONS
        assert checksum < 1_500_000
