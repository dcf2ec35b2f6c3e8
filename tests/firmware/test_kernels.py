"""The sketch's own kernels against reference kernels, on this computer under sanitizers and on a Cortex-M4.

`qemu/kernels_main.cpp` has the references. ADD and MUL are compared for all pairs of codes, the others for random maps,
sizes and factors.
"""
from __future__ import annotations

import re
from pathlib import Path

import pytest
from sketch_tools import EMULATOR, HERE, SKETCH, WARNINGS, need, run

SOURCES = (SKETCH / "kernels.cpp", HERE / "qemu" / "kernels_main.cpp")
CASES = 5_000  # convolutions, and as many resized maps


def test_same_bytes_under_sanitizers(tmp_path: Path) -> None:
    from simulator import SANITIZERS

    run(need("g++"), *WARNINGS, *SANITIZERS, f"-DCASES={CASES}", "-I", SKETCH, *SOURCES, "-o", tmp_path / "program")
    run(tmp_path / "program")


@pytest.mark.parametrize("right, wrong", [
    ("high + (high >> 31)", "high"),  # half away from zero
    ("std::int64_t{1} << 31)", "std::int64_t{0} << 31)"),  # half up
    ("Larger(-top, 0)", "0"),  # rows of the filter above the map
    ("(sum + (sum >> 31) + 8) >> 4", "(sum + 8) >> 4"),
])
def test_a_fault_in_a_kernel_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    found = 0
    for path in (*SKETCH.glob("kernel*.h"), SOURCES[0]):
        if path.name != "kernel_resolver.h":
            found += path.read_text().count(right)
            (tmp_path / path.name).write_text(path.read_text().replace(right, wrong))
    assert found == 1
    run(need("g++"), "-std=gnu++14", "-O1", "-DCASES=1000", "-I", tmp_path, tmp_path / "kernels.cpp", SOURCES[1],
        "-o", tmp_path / "program")
    with pytest.raises(AssertionError, match="differs"):
        run(tmp_path / "program")


@pytest.mark.parametrize("level", ["-Os", "-O2"])
def test_same_bytes_on_a_cortex_m4(tmp_path: Path, level: str) -> None:
    from cortex_m4 import BOARD, emulate

    need("qemu-system-arm")
    run(need("arm-none-eabi-gcc"), "-std=gnu11", *BOARD, level, "-c", EMULATOR / "start.c", "-o", tmp_path / "start.o")
    run(need("arm-none-eabi-g++"), *WARNINGS, *BOARD, level, "-fno-rtti", "-DON_BOARD", "-DCASES=300", "-I", SKETCH,
        "-I", EMULATOR, *SOURCES, tmp_path / "start.o", "-nostartfiles", "-T", EMULATOR / "link.ld",
        "-Wl,--gc-sections", "--specs=nosys.specs", "-o", tmp_path / "program.elf")
    assert emulate(tmp_path / "program.elf", tmp_path, timeout=300) == (0, "")


def test_the_kernels_take_no_more_stack_than_they_say(tmp_path: Path) -> None:
    from cortex_m4 import BOARD

    run(need("arm-none-eabi-g++"), "-std=gnu++14", *BOARD, "-Os", "-fno-rtti", "-fstack-usage", "-c", SOURCES[0],
        "-o", tmp_path / "kernels.o")
    sizes = re.findall(r"(\w+)\(.*\t(\d+)\t", (tmp_path / "kernels.su").read_text())
    most = {name: max(int(size) for other, size in sizes if other == name) for name, _ in sizes}
    called = most.pop("ConvolveRow")
    limit = re.search(r"kStackBytes = (\d+);", (SKETCH / "kernels.h").read_text())
    assert limit is not None
    assert 8192 < max(most.values()) + called <= int(limit[1])
