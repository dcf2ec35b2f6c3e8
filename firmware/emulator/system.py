"""The registers of the processor itself, from 0xE0000000 on: NVIC, system control block, SysTick, cycle counter."""
from __future__ import annotations

from core import NEVER, Core
from exceptions import FIRST_IRQ, PENDSV, SYSTICK, Crash

CPUID = 0x410FC241  # Cortex-M4 r0p1


class SysTick:
    """The timer of 24 bits inside the processor."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.control = self.reload = 0
        self._started = 0  # the cycle in which the counter was last reloaded
        self._flag = False

    def due(self) -> int:
        """Return the cycle in which the counter reaches 0."""
        return self._started + self.reload + 1 if self.control & 1 and self.reload else NEVER

    def advance(self, now: int) -> None:
        """Ask for the exception and start anew."""
        periods = (now - self._started) // (self.reload + 1)
        self._started += periods * (self.reload + 1)
        self._flag = True
        if self.control & 2:
            self._core.exceptions.pending.add(SYSTICK)

    def read(self, offset: int) -> int:
        """Answer for CTRL, LOAD, VAL and CALIB."""
        if offset == 0x0:
            flag, self._flag = self._flag, False
            return self.control | flag << 16
        if offset == 0x8:
            left = self.reload - (self._core.now - self._started)
            return max(0, left) if self.control & 1 else 0
        return self.reload if offset == 0x4 else 0

    def write(self, offset: int, value: int) -> None:
        """Take CTRL, LOAD and VAL."""
        if offset == 0x0:
            if value & 1 and not self.control & 1:
                self._started = self._core.now
            self.control = value & 7
        elif offset == 0x4:
            self.reload = value & 0xFFFFFF
        elif offset == 0x8:
            self._started, self._flag = self._core.now, False


class System:
    """All of the private peripheral bus."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.systick = SysTick(core)
        self._others: dict[int, int] = {}  # registers that only keep what is written
        core.devices.append(self.systick)
        core.map(0xE0000000, 0x100000, self._read, self._write)

    def _read(self, offset: int, size: int) -> int:
        if size < 4:  # priorities are written and read as bytes, too
            word = self._read(offset & ~3, 4)
            return word >> 8 * (offset & 3) & (1 << 8 * size) - 1
        core, nvic, at = self._core, self._core.exceptions, offset - 0xE000
        if 0x10 <= at < 0x20:
            return self.systick.read(at - 0x10)
        for base, numbers in ((0x100, nvic.enabled), (0x180, nvic.enabled), (0x200, nvic.pending),
                              (0x280, nvic.pending), (0x300, set(nvic.active))):
            if base <= at < base + 0x20:
                return sum(1 << bit for bit in range(32) if FIRST_IRQ + 8 * (at - base) + bit in numbers)
        if 0x400 <= at < 0x4F0:
            return int.from_bytes(nvic.priorities[FIRST_IRQ + at - 0x400:][:4], "little")
        if 0xD18 <= at < 0xD24:
            return int.from_bytes(nvic.priorities[4 + at - 0xD18:][:4], "little")
        if at == 0xD04:  # ICSR
            first = min(nvic.pending & nvic.enabled, default=0, key=lambda number: (nvic.priority(number), number))
            active = nvic.active[-1] if nvic.active else 0
            return (active | (len(nvic.active) < 2) << 11 | first << 12 | (first >= FIRST_IRQ) << 22
                    | (SYSTICK in nvic.pending) << 26 | (PENDSV in nvic.pending) << 28)
        known = {0xD00: CPUID, 0xD08: nvic.vectors, 0xD90: 8 << 8}  # the memory protection unit has 8 regions
        if offset == 0x1004:  # DWT's CYCCNT
            return core.now & 0xFFFFFFFF
        return known.get(at, self._others.get(offset, 0))

    def _write(self, offset: int, size: int, value: int) -> None:
        core, nvic, at = self._core, self._core.exceptions, offset - 0xE000
        for base, first in ((0x400, FIRST_IRQ), (0xD18, 4)):
            if base <= at < base + (0xF0 if base == 0x400 else 12):
                start = first + at - base
                mask = 0xE0E0E0E0.to_bytes(4, "little")[:size]  # three bits are implemented
                new = value.to_bytes(4, "little")[:size]
                nvic.priorities[start:start + size] = bytes(a & b for a, b in zip(new, mask))
                return
        if 0x10 <= at < 0x20:
            self.systick.write(at - 0x10, value)
        elif 0x100 <= at < 0x300:
            base = at & ~0x7F
            numbers = {FIRST_IRQ + 8 * (at - base) + bit for bit in range(32) if value >> bit & 1}
            if base == 0x100:
                nvic.enabled |= numbers
            elif base == 0x180:
                nvic.enabled -= numbers
            elif base == 0x200:
                nvic.pending |= numbers
            else:
                nvic.pending -= numbers - nvic.lines
        elif at == 0xD04:
            for bit, number, pends in ((28, PENDSV, True), (27, PENDSV, False), (26, SYSTICK, True),
                                       (25, SYSTICK, False)):
                if value >> bit & 1:
                    (nvic.pending.add if pends else nvic.pending.discard)(number)
        elif at == 0xD08:
            nvic.vectors = value
        elif at == 0xD0C and value & 4:
            raise Crash(f"{core.where()} resets the board")
        else:
            self._others[offset] = value
