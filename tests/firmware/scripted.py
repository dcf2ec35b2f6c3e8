"""The whole sketch on a scripted board: how the tests compile it, play a script and read what came of it."""
from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
from sketch_tools import HERE, SKETCH, WARNINGS, need, run

OPEN, SILENT, MODEL, WRONG, WAIT, PACKET = "c", "s", "m", "x", "w", "p"
CONTACT, BRIGHTER, LOOK, OPEN_LATER = "k", "v", "d", "o"


@dataclass
class Look:
    """The display at one moment, and what has happened until then."""

    camera_frames: int  # that the camera has sent
    filled: int  # times that a window of the display was filled: once at the start, then once for each picture
    spi_bytes: int
    pin_uses: int
    on: bool
    access: int  # register MADCTL
    memory: np.ndarray  # RGB565, uint16 (160, 128)

    @classmethod
    def parse(cls, data: bytes) -> Look:
        numbers = struct.unpack_from("<6I", data)
        memory = np.frombuffer(data, ">u2", 160 * 128, 24).reshape(160, 128)
        return cls(*numbers[:4], bool(numbers[4]), numbers[5], memory)

    @staticmethod
    def size() -> int:
        """Bytes that `parse` takes."""
        return 24 + 2 * 160 * 128


@dataclass
class Answer:
    sent: list  # of link.Message
    clock_asked: int
    camera_started: int
    looks: list[Look]
    leds: str  # one character for every 20 ms

    def heads(self) -> list[tuple[int, int]]:
        """Type and tag of every message."""
        return [(message.type, message.tag) for message in self.sent]

    def statuses(self) -> list[tuple[int, int]]:
        """Tag and code of every status."""
        from link import Type
        return [(message.tag, message.payload[0]) for message in self.sent if message.type == Type.STATUS]


Board = Callable[..., Answer]


def compiled(sketch: Path, folder: Path, *flags: str) -> Board:
    """Compile the sketch for a scripted board; the steps are bytes that arrive or pairs of a letter and a number."""
    from link import Decoder, Message
    from simulator import SANITIZERS, portable_sources
    program = folder / "scripted"
    run(need("g++"), *WARNINGS, *SANITIZERS, *flags, "-I", sketch, "-I", HERE / "arduino", "-I", HERE,
        *portable_sources(sketch), HERE / "scripted_board.cpp", HERE / "display" / "pins.cpp",
        "-x", "c++", sketch / f"{SKETCH.name}.ino", "-o", program)

    def play(*steps: bytes | Message | tuple[str, int]) -> Answer:
        script = b""
        for step in steps:
            data = step.encode() if isinstance(step, Message) else step
            script += (data[0].encode() + struct.pack("<I", data[1]) if isinstance(data, tuple)
                       else b"b" + struct.pack("<I", len(data)) + data)
        answer = run(program, input=script)
        length, = struct.unpack_from("<I", answer)
        decoder = Decoder()
        sent = list(decoder.feed(answer[4:4 + length]))
        assert decoder.dropped == 0, "the sketch sends whole messages only"
        asked, started, looks = struct.unpack_from("<III", answer, 4 + length)
        at = 16 + length
        seen = [Look.parse(answer[at + i * Look.size():]) for i in range(looks)]
        return Answer(sent, asked, started, seen, answer[at + looks * Look.size():].decode())

    return play
