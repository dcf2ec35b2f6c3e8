"""The contract of the sketch: which models it takes, what its header must define, and how a model is installed in it.

All that `firmware/mirnet_nano33ble` knows of a model is `model_data.h`. The limits below are written into that header,
and the sketch's `memory_budget.h` asserts them, so the conversion and the compiler cannot disagree. Models are checked
against them before any C++ is written, and all generated files are installed or none.
"""
from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from conversion.bridge.c_array import Extra, array_rows
from conversion.bridge.graph import Graph
from conversion.mirnet.pixels import (BRIGHTER, BRIGHTER_BITS, LARGEST_CELL, LARGEST_EXPOSURE, ROOT_BITS, ROOTS,
                                      WHITE_BITS, head_tables)
from mirnet_torch.cli import Size, UserError
from mirnet_torch.compact import CompactConfig
from mirnet_torch.photo import PhotoConfig
from mirnet_torch.presets import Config

GENERATED = ("model_data.h", "model_data.cpp", "golden_vectors.h", "golden_vectors.cpp")


@dataclass(frozen=True)
class Sketch:
    """The limits of the sketch, in bytes of RAM and of flash."""

    frame: Size = (160, 120)  # of its camera, YUV 4:2:2
    memory_limit: int = 180_000  # of 262,144 bytes of RAM; Mbed OS, USB and the stacks need about 60,000
    buffer_bytes: int = 1_024  # reserved for protocol, row and text
    flash_limit: int = 350_000  # for the model, of 983,040 bytes

    @property
    def frame_bytes(self) -> int:
        """Bytes of the dark frame. They are not part of the arena, since the model overwrites its input."""
        return 2 * self.frame[0] * self.frame[1]

    @property
    def arena_limit(self) -> int:
        """Bytes that are left for the arena."""
        return self.memory_limit - self.frame_bytes - self.buffer_bytes


SKETCH = Sketch()


def runs_on_board(config: Config) -> bool:
    """Return whether a network is of the kind that the sketch applies: `mcu` and its like."""
    return isinstance(config, CompactConfig) and not isinstance(config, PhotoConfig)


def check_network(config: Config, size: Size) -> None:
    """Check that the sketch can use a network for pictures of a size (width, height).

    Raises:
        UserError: it cannot; the message names the cause and the fix.
    """
    elsewhere = "or convert with --target litert, which writes no C++"
    if not isinstance(config, CompactConfig):
        raise UserError("the sketch applies colour maps to its frames, and the published network predicts pictures: "
                        f"take a compact network (--preset mcu), {elsewhere}")
    if config.in_channels != 3:
        raise UserError(f"the sketch has RGB frames, and this network takes {config.in_channels} channels: train one "
                        f"with in_channels=3, {elsewhere}")
    if size != SKETCH.frame:
        wanted, given = ("x".join(map(str, sides)) for sides in (SKETCH.frame, size))
        raise UserError(f"the sketch's frames have {wanted} pixels, not {given}: leave out --size, {elsewhere}")
    if config.cell > LARGEST_CELL:
        raise UserError(f"the sketch's arithmetic takes cells of at most {LARGEST_CELL}x{LARGEST_CELL} pixels, and "
                        f"this network has {config.cell}x{config.cell}: train one with smaller cells, {elsewhere}")


def header(graph: Graph, config: CompactConfig, size: Size) -> Extra:
    """Return the C++ that `model_data` needs besides the model: limits, cells, the meaning of the maps.

    Raises:
        UserError: the scale of the model's output is too coarse for the sketch's arithmetic.
    """
    (maps,) = graph.outputs
    tables = head_tables(maps.scale, maps.zero_point, cell=config.cell)
    declarations = f"""\
// A picture of kImageHeight x kImageWidth RGB pixels enters as
// kInputHeight x kInputWidth cells of kCell x kCell pixels. Channel
// (c * kCell + y) * kCell + x of a cell is colour c of its pixel (y, x).
constexpr int kImageHeight = {size[1]};
constexpr int kImageWidth = {size[0]};
constexpr int kCell = {config.cell};

// What the sketch has room for: bytes of RAM for arena, dark frame and buffers
// together, the buffers' part of it, and bytes of flash for the model.
constexpr std::size_t kMemoryLimit = {SKETCH.memory_limit};
constexpr std::size_t kBufferBytes = {SKETCH.buffer_bytes};
constexpr std::size_t kFlashLimit = {SKETCH.flash_limit};

// For every cell log gain, root gain, roll-off, 3 tints, 6 shares (0,1), (0,2),
// (1,0), (1,2), (2,0), (2,1) and 3 offsets. Entry code + 128 of a table is what
// a code of the first three stands for, times 2^16 / g^2 with g = kCell if that
// is odd, else 2 * kCell. The others are codes; kValueScale is what one tint or
// share, or two offsets, are worth after products with colours of kWhiteBits
// and with g^2. pixels.cpp has the formula.
extern const std::int32_t kGainTable[256];
extern const std::int32_t kRootGainTable[256];
extern const std::int32_t kRollOffTable[256];
constexpr std::int32_t kValueScale = {tables.scale};
constexpr int kWhiteBits = {WHITE_BITS};
// sqrt(255 * level), times 2^kRootBits.
constexpr int kRootBits = {ROOT_BITS};
extern const std::uint16_t kRootTable[256];
// The factor of gains for every exposure from -kLargestExposure to
// kLargestExposure in steps of 1/8 EV, times 2^kBrighterBits.
constexpr int kLargestExposure = {LARGEST_EXPOSURE};
constexpr int kBrighterBits = {BRIGHTER_BITS};
extern const std::uint16_t kBrighterTable[2 * kLargestExposure + 1];
"""
    definitions = "\n".join(
        f"const std::{kind}_t k{name}Table[{len(values)}] = {{\n{array_rows(map(str, values), 6)}\n}};\n"
        for name, kind, values in (
            ("Gain", "int32", tables.gain), ("RootGain", "int32", tables.root_gain),
            ("RollOff", "int32", tables.roll_off), ("Root", "uint16", ROOTS), ("Brighter", "uint16", BRIGHTER)))
    return Extra(declarations, definitions)


def check_folder(folder: Path) -> None:
    """Check, before a long conversion, that a folder holds the sketch.

    Raises:
        UserError: it does not, or it cannot be written.
    """
    missing = [name for name in ("memory_budget.h", *GENERATED) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is not the sketch (no {missing[0]} in it): give the folder mirnet_nano33ble, or a "
                        "copy of it")
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write into the sketch {folder}: give a copy of it that you may write")


def install(files: Sequence[Path], folder: Path) -> None:
    """Put the generated files into a sketch: all of them, or none after a failure.

    Raises:
        UserError: the sketch cannot be written; it is unchanged.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".model-", dir=folder) as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            for part in (new, old):
                part.mkdir()
            for path in files:
                shutil.copyfile(path, new / path.name)
                shutil.copyfile(folder / path.name, old / path.name)
            try:
                for path in files:
                    os.replace(new / path.name, folder / path.name)
            except BaseException:
                for path in old.iterdir():
                    with contextlib.suppress(OSError):
                        os.replace(path, folder / path.name)
                raise
    except OSError as error:
        raise UserError(f"cannot write into the sketch {folder}: {error.strerror}; it is as it was") from error
