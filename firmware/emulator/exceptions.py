"""Exceptions of a Cortex-M4, as the ARMv7-M manual (DDI 0403) has them: entry, return, priorities and masks.

Frames have 8 words, or 26 with floats, which are saved at once, not lazily. Subpriorities do not exist here.
"""
from __future__ import annotations

import struct

from elf import Elf
from unicorn import Uc
from unicorn.arm_const import (UC_ARM_REG_BASEPRI, UC_ARM_REG_CONTROL, UC_ARM_REG_FAULTMASK, UC_ARM_REG_FPSCR,
                               UC_ARM_REG_IPSR, UC_ARM_REG_LR, UC_ARM_REG_MSP, UC_ARM_REG_PC, UC_ARM_REG_PRIMASK,
                               UC_ARM_REG_PSP, UC_ARM_REG_R0, UC_ARM_REG_R1, UC_ARM_REG_R2, UC_ARM_REG_R3,
                               UC_ARM_REG_R12, UC_ARM_REG_S0, UC_ARM_REG_SP, UC_ARM_REG_XPSR)

SVCALL, PENDSV, SYSTICK, FIRST_IRQ = 11, 14, 15, 16
FLOATS = [UC_ARM_REG_S0 + number for number in range(16)]
CALLER_SAVED = (UC_ARM_REG_R0, UC_ARM_REG_R1, UC_ARM_REG_R2, UC_ARM_REG_R3, UC_ARM_REG_R12, UC_ARM_REG_LR)
FLAGS = 0xF80F0000  # of xPSR: N Z C V Q and GE


class Crash(Exception):
    """The program did what the processor or a peripheral does not allow."""


class Exceptions:
    """What is pending, enabled and active, by the numbers of exceptions: 16 and above are interrupts."""

    def __init__(self, uc: Uc, elf: Elf) -> None:
        self._uc = uc
        self.vectors = min(address for address, _ in elf.segments)
        self.priorities = bytearray(256)
        self.enabled: set[int] = {SVCALL, PENDSV, SYSTICK}
        self.pending: set[int] = set()
        self.lines: set[int] = set()  # of interrupts whose peripheral asks for them
        self.active: list[int] = []
        self.event = False  # the register that WFE looks at
        stack, reset = struct.unpack("<II", self._read(self.vectors, 8))
        uc.reg_write(UC_ARM_REG_MSP, stack)
        uc.reg_write(UC_ARM_REG_PC, reset)

    def _read(self, address: int, size: int) -> bytes:
        return bytes(self._uc.mem_read(address, size))

    def set_line(self, irq: int, level: bool) -> None:
        """Let a peripheral ask for its interrupt, or ask no more."""
        number = FIRST_IRQ + irq
        if level and number not in self.lines:
            self.pending.add(number)
        (self.lines.add if level else self.lines.discard)(number)

    def priority(self, number: int) -> int:
        """Return the priority of an exception, the smaller the more urgent; -1 and below for faults."""
        return number - 4 if number < 4 else self.priorities[number]

    def threshold(self) -> int:
        """Return the priority that an exception must be more urgent than."""
        if self._uc.reg_read(UC_ARM_REG_FAULTMASK) & 1:
            return -1
        threshold = min((self.priority(number) for number in self.active), default=256)
        if self._uc.reg_read(UC_ARM_REG_PRIMASK) & 1:
            threshold = min(threshold, 0)
        base = self._uc.reg_read(UC_ARM_REG_BASEPRI) & 0xFF
        return min(threshold, base) if base else threshold

    def take(self) -> bool:
        """Enter the most urgent exception that is pending and may be taken."""
        ready = self.pending & self.enabled
        if not ready:
            return False
        number = min(ready, key=lambda number: (self.priority(number), number))
        if self.priority(number) >= self.threshold():
            return False
        self.enter(number, self._uc.reg_read(UC_ARM_REG_PC))
        return True

    def enter(self, number: int, back: int) -> None:
        """Enter an exception, which returns to the address `back`."""
        uc = self._uc
        control, status = uc.reg_read(UC_ARM_REG_CONTROL), uc.reg_read(UC_ARM_REG_XPSR)
        floats, on_psp = control & 4, not self.active and bool(control & 2)
        stack = uc.reg_read(UC_ARM_REG_SP)
        frame = struct.pack("<8I", *(uc.reg_read(register) for register in CALLER_SAVED), back & ~1,
                            status & FLAGS | 1 << 24 | (stack & 4) << 7 | (self.active[-1] if self.active else 0))
        if floats:
            frame += struct.pack("<18I", *(uc.reg_read(register) for register in FLOATS),
                                 uc.reg_read(UC_ARM_REG_FPSCR), 0)
            uc.reg_write(UC_ARM_REG_CONTROL, control & 3)
        stack = (stack & ~7) - len(frame)
        uc.mem_write(stack, frame)
        uc.reg_write(UC_ARM_REG_SP, stack)
        uc.reg_write(UC_ARM_REG_LR, 0xFFFFFFE1 | (0 if floats else 0x10) | (0 if self.active else 8) | on_psp << 2)
        self.active.append(number)
        self.pending.discard(number)
        self.event = True
        uc.reg_write(UC_ARM_REG_IPSR, number)
        uc.reg_write(UC_ARM_REG_PC, struct.unpack("<I", self._read(self.vectors + 4 * number, 4))[0])

    def leave(self, how: int) -> None:
        """Return from the innermost exception as EXC_RETURN says, and enter the next at once if one may be taken."""
        if not self.active or how >> 5 != 0x7FFFFFF:
            raise Crash(f"a return by 0x{how:08x} from no exception")
        uc = self._uc
        number = self.active.pop()
        if number in self.lines:
            self.pending.add(number)
        before = self.active[-1] if self.active else 0
        if bool(how & 8) == bool(before):
            raise Crash(f"a return by 0x{how:08x} to the wrong mode")
        uc.reg_write(UC_ARM_REG_FAULTMASK, 0)
        uc.reg_write(UC_ARM_REG_IPSR, before)
        control = uc.reg_read(UC_ARM_REG_CONTROL) & 1
        floats = not how & 0x10
        if how & 8:  # the stack of a thread is chosen by the return
            control |= (how & 4) >> 1
        uc.reg_write(UC_ARM_REG_CONTROL, control | floats << 2)
        stack = uc.reg_read(UC_ARM_REG_PSP if how & 4 else UC_ARM_REG_MSP)
        *registers, back, status = struct.unpack("<8I", self._read(stack, 32))
        for register, value in zip(CALLER_SAVED, registers):
            uc.reg_write(register, value)
        if floats:
            *values, status_of_floats, _ = struct.unpack("<18I", self._read(stack + 32, 72))
            for register, value in zip(FLOATS, values):
                uc.reg_write(register, value)
            uc.reg_write(UC_ARM_REG_FPSCR, status_of_floats)
        uc.reg_write(UC_ARM_REG_SP, stack + (104 if floats else 32) + (status >> 7 & 4))
        uc.reg_write(UC_ARM_REG_XPSR, status & FLAGS | 1 << 24 | before)
        self.event = True
        uc.reg_write(UC_ARM_REG_PC, back | 1)
        self.take()
