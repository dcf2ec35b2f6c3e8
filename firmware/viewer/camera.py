"""What can be set of the board's camera, and how it goes over the wire."""
from __future__ import annotations

import struct
from dataclasses import dataclass

ROW_SECONDS = 392e-6  # of exposure; a frame has 510 rows
MOST_ROWS = 510
CEILINGS = tuple(2 ** power for power in range(1, 8))  # of the automatic gain
NIGHTS = (1, 2, 4, 8)
MOST_GAIN = 124


@dataclass(frozen=True)
class CameraSettings:
    """Settings of the camera, as PROTOCOL.md describes them.

    Args:
        mirror, flip: left and right, top and bottom change places.
        night: how many times longer a frame may take in the dark, one of `NIGHTS`; for an automatic shutter.
        ceiling: the highest automatic gain, one of `CEILINGS`.
        gain: from 1 to `MOST_GAIN`; None: automatic.
        shutter: how long a row is exposed, in seconds up to 0.2; None: automatic.
    """

    mirror: bool = False
    flip: bool = False
    night: int = 1
    ceiling: int = 32
    gain: float | None = None
    shutter: float | None = None

    def payload(self) -> bytes:
        """Return the payload of the command that sets the camera."""
        gain = 0 if self.gain is None else round(16 * self.gain)
        rows = 0 if self.shutter is None else min(MOST_ROWS, max(1, round(self.shutter / ROW_SECONDS)))
        return struct.pack("<BBBHH", self.mirror | self.flip << 1, self.night.bit_length() - 1,
                           self.ceiling.bit_length() - 1, gain, rows)
