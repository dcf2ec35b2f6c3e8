"""A frame from the computer on an emulated Cortex-M4: how many instructions from its packets to a whole command?

`pytest -s` prints them. The core's part of it, USB and its buffer, needs the board.
"""
from __future__ import annotations

import numpy as np
import pytest
from link import Message, Type
from sketch_tools import EMULATOR, HERE, SKETCH, WARNINGS, need, run

FRAME_BYTES = 38_400
COMPUTER = 3  # image_source.h
MEGAHERTZ = 64
MILLISECONDS = 10  # of the 120 that a frame may take; the rest is for USB and the core


def test_instructions_of_a_frame_from_the_computer(tmp_path, record_property) -> None:
    from cortex_m4 import BOARD
    pytest.importorskip("unicorn")
    from functions import Core
    sources = [SKETCH / f"{name}.cpp" for name in ("commands", "protocol", "average", "image_sink", "status")]
    elf = tmp_path / "receive.elf"
    run(need("arm-none-eabi-g++"), *WARNINGS, *BOARD, "-Os", "-fno-rtti", "-I", SKETCH, *sources,
        HERE / "emulated" / "receive_main.cpp", "-nostartfiles", "-T", EMULATOR / "link.ld",
        "-Wl,--gc-sections,-u,Receive,-u,frame,-u,stream,-e,Receive", "--specs=nosys.specs", "-o", elf)
    core = Core(elf)
    frame = np.random.default_rng(0).integers(0, 256, FRAME_BYTES, np.uint8).tobytes()
    core.set_memory("stream", Message(Type.ENHANCE, 7, frame).encode())
    assert core.call("Receive") == COMPUTER and core.memory("frame", FRAME_BYTES) == frame
    milliseconds = core.instructions / MEGAHERTZ / 1000
    print(f"{core.instructions:,} instructions, {milliseconds:.1f} ms at an instruction a cycle")
    record_property("instructions", core.instructions)
    assert milliseconds < MILLISECONDS
