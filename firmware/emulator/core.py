"""A Cortex-M4 on Unicorn, which runs instructions and knows no interrupts: those are in `exceptions.py`.

Time is counted in cycles. An instruction takes one, as nothing here knows how many it takes on silicon. Unicorn runs
`SLICE` instructions at a time; a device's event comes at the end of a slice. An exception is taken there, at a return
from another, and at the instructions that can unmask or must synchronise: CPSIE, MSR, ISB, WFE and WFI. Each of these
calls back. Within a slice `now` is estimated from the accesses to peripherals, so that a loop that waits for one sees
time go by.
"""
from __future__ import annotations

import struct
from typing import Callable, Protocol

from elf import Elf
from exceptions import SVCALL, Crash, Exceptions
from unicorn import (UC_ARCH_ARM, UC_HOOK_CODE, UC_HOOK_INTR, UC_MODE_MCLASS, UC_MODE_THUMB, UC_PROT_EXEC, UC_PROT_READ,
                     Uc, UcError)
from unicorn.arm_const import (UC_ARM_REG_BASEPRI, UC_ARM_REG_FAULTMASK, UC_ARM_REG_LR, UC_ARM_REG_PC,
                               UC_ARM_REG_PRIMASK, UC_ARM_REG_R0, UC_CPU_ARM_CORTEX_M4)

CLOCK_HZ = 64_000_000
SLICE = 1000  # instructions; 16 us
ACCESS = 16  # cycles that an access to a peripheral counts within a slice
FLASH, FLASH_SIZE, RAM, RAM_SIZE = 0, 0x100000, 0x20000000, 0x40000
FILLED = b"\xa5\x5a\xc3\x3c"  # what RAM holds at first, so that untouched memory shows
NEVER = 1 << 62

SEV, WFE, WFI, CPSIE, ISB = 0xBF40, 0xBF20, 0xBF30, (0xB662, 0xB661, 0xB663), 0xF3BF8F6F
MASKS = {0x8810: UC_ARM_REG_PRIMASK, 0x8811: UC_ARM_REG_BASEPRI, 0x8813: UC_ARM_REG_FAULTMASK}  # second half of MSR


class Device(Protocol):
    """A peripheral that knows when something happens next."""

    def due(self) -> int:
        """Return the cycle of the next event, or NEVER."""

    def advance(self, now: int) -> None:
        """Let what is due happen."""


class Core:
    """A processor with memory and a program in it, at reset.

    `instructions` have been executed; `cycles` of time have gone by, those asleep or skipped included.
    """

    def __init__(self, elf: Elf) -> None:
        self.elf = elf
        self.uc = Uc(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS)
        self.uc.ctl_set_cpu_model(UC_CPU_ARM_CORTEX_M4)
        self.uc.mem_map(FLASH, FLASH_SIZE, UC_PROT_READ | UC_PROT_EXEC)
        self.uc.mem_write(FLASH, b"\xff" * FLASH_SIZE)
        self.uc.mem_map(RAM, RAM_SIZE)
        self.uc.mem_write(RAM, FILLED * (RAM_SIZE // 4))
        for address, data in elf.segments:
            self.uc.mem_write(address, data)
        self.instructions = self.cycles = 0
        self.devices: list[Device] = []
        self.asleep = False
        self._accesses = self._slice = self.end = 0
        self._crash: Exception | None = None
        self.exceptions = Exceptions(self.uc, elf)
        Traps(self)

    # Memory and time.

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of memory, as a debugger does."""
        return bytes(self.uc.mem_read(address, size))

    def write(self, address: int, data: bytes) -> None:
        """Write bytes to memory, as EasyDMA does."""
        self.uc.mem_write(address, data)

    def map(self, address: int, size: int, read: Callable[[int, int], int],
            write: Callable[[int, int, int], None]) -> None:
        """Let functions answer for a range: read(offset, size) returns a value, write(offset, size, value)."""
        def reading(uc: Uc, offset: int, size: int, data: None) -> int:
            self._accesses += 1
            try:
                return read(offset, size)
            except Exception as error:
                return self.stop(error)

        def writing(uc: Uc, offset: int, size: int, value: int, data: None) -> None:
            self._accesses += 1
            try:
                write(offset, size, value)
            except Exception as error:
                self.stop(error)

        self.uc.mmio_map(address, size, reading, None, writing, None)

    @property
    def now(self) -> int:
        """The current cycle."""
        return self.cycles + min(self._accesses * ACCESS, self._slice)

    def skip(self, cycles: int) -> None:
        """Let time go by in which the program only waits."""
        self.cycles += cycles

    def wait(self, cycles: int) -> None:
        """Let time go by in which the program only polls, until an interrupt that it would take."""
        end = self.now + cycles
        # What the slice has not been counted for yet goes by first, or time would jump at its end, amid a camera's row.
        self._accesses += min(cycles, max(0, self._slice - self._accesses * ACCESS)) // ACCESS
        masked = self.uc.reg_read(UC_ARM_REG_PRIMASK) & 1
        while self.now < end and (masked or not self.wakes()):
            self.skip(max(0, min(self.next_event(), end) - self.now))
            self.advance()

    def next_event(self) -> int:
        """Return the cycle in which a device next has something to do, or NEVER."""
        return min((device.due() for device in self.devices), default=NEVER)

    def where(self) -> str:
        """Return the function that runs, for a message."""
        return self.elf.name(self.uc.reg_read(UC_ARM_REG_PC))

    # Running.

    def run(self, cycles: int) -> None:
        """Run for about so many cycles.

        Raises:
            Crash: the program did what is not allowed.
        """
        self.end = self.cycles + cycles
        while self.cycles < self.end:
            self.advance()
            if self.asleep:
                if not self.wakes():
                    self.cycles = min(max(self.next_event(), self.cycles + 1), self.end)
                    continue
                self.asleep = False
            self.exceptions.take()
            self._slice, self._accesses = SLICE, 0
            try:
                self.uc.emu_start(self.uc.reg_read(UC_ARM_REG_PC) | 1, 0, count=SLICE)
            except UcError as error:
                self._crash = self._crash or Crash(f"{error} in {self.where()}, called from "
                                                   f"{self.elf.name(self.uc.reg_read(UC_ARM_REG_LR) & ~1)}")
            if self._crash:
                raise self._crash
            ran = min(self._accesses * ACCESS, SLICE) if self.asleep else SLICE
            self.instructions += ran
            self.cycles += ran
            self._slice = 0

    def advance(self) -> None:
        """Let devices do what is due."""
        for device in self.devices:
            if device.due() <= self.now:
                device.advance(self.now)

    def stop(self, error: Exception) -> int:
        """Stop with an error; an exception that leaves a callback would be lost in Unicorn."""
        self._crash = self._crash or error
        self.uc.emu_stop()
        return 0

    def wakes(self) -> bool:
        """An interrupt that is enabled wakes the processor also while PRIMASK is set."""
        return bool(self.exceptions.pending & self.exceptions.enabled)


class Traps:
    """The instructions at which a core calls back."""

    def __init__(self, core: Core) -> None:
        self._core = core
        core.uc.hook_add(UC_HOOK_INTR, self._guarded(self._exception))
        for address, code, in_block in core.elf.instructions():
            if not in_block and (hook := self._hook_for(code)):
                core.uc.hook_add(UC_HOOK_CODE, self._guarded(hook), begin=address, end=address)

    def _guarded(self, hook: Callable[..., None]) -> Callable[..., None]:
        def guarded(*arguments: object) -> None:
            try:
                hook(*arguments)
            except Exception as error:
                self._core.stop(error)
        return guarded

    def _hook_for(self, code: int) -> Callable[..., None] | None:
        if code in (WFE, WFI):
            return self._sleep_for_event if code == WFE else self._sleep_for_interrupt
        if code == SEV:
            return self._send_event
        if code in CPSIE:
            return self._unmask
        if code >> 20 == 0xF38 and code & 0xFFFF in MASKS:
            return self._set_mask
        return self._synchronise if code == ISB else None

    def _exception(self, uc: Uc, kind: int, data: None) -> None:
        if kind == 8:  # a branch to EXC_RETURN
            self._core.exceptions.leave(uc.reg_read(UC_ARM_REG_PC) | 1)
        elif kind == 2:
            if self._core.exceptions.priority(SVCALL) >= self._core.exceptions.threshold():
                raise Crash(f"SVC in {self._core.where()} while exceptions of its priority are masked")
            self._core.exceptions.enter(SVCALL, uc.reg_read(UC_ARM_REG_PC))
        else:
            what = {1: "an undefined instruction", 3: "a jump to no instruction", 7: "a breakpoint"}
            raise Crash(f"{what.get(kind, f'exception {kind} of Unicorn')} in {self._core.where()}")

    def _send_event(self, uc: Uc, address: int, size: int, data: None) -> None:
        self._core.exceptions.event = True

    def _sleep_for_event(self, uc: Uc, address: int, size: int, data: None) -> None:
        if self._core.exceptions.event:
            self._core.exceptions.event = False
            uc.reg_write(UC_ARM_REG_PC, address + size | 1)
        else:
            self._sleep_for_interrupt(uc, address, size, data)

    def _sleep_for_interrupt(self, uc: Uc, address: int, size: int, data: None) -> None:
        """Let time go by until an interrupt, or the end of `run`, where the slice ends early."""
        core = self._core
        uc.reg_write(UC_ARM_REG_PC, address + size | 1)
        while not core.wakes():
            due = core.next_event()
            if due >= core.end:
                core.asleep = True
                uc.emu_stop()
                return
            core.skip(max(0, due - core.now))
            core.advance()
        self._core.exceptions.take()

    def _unmask(self, uc: Uc, address: int, size: int, data: None) -> None:
        if self._core.exceptions.pending:
            code = self._core.read(address, 1)[0]
            for bit, register in ((2, UC_ARM_REG_PRIMASK), (1, UC_ARM_REG_FAULTMASK)):
                if code & bit:
                    uc.reg_write(register, 0)
            uc.reg_write(UC_ARM_REG_PC, address + size | 1)
            self._core.exceptions.take()

    def _set_mask(self, uc: Uc, address: int, size: int, data: None) -> None:
        if self._core.exceptions.pending:
            first, second = struct.unpack("<HH", self._core.read(address, 4))
            uc.reg_write(MASKS[second], uc.reg_read(UC_ARM_REG_R0 + (first & 15)))
            uc.reg_write(UC_ARM_REG_PC, address + size | 1)
            self._core.exceptions.take()

    def _synchronise(self, uc: Uc, address: int, size: int, data: None) -> None:
        if self._core.exceptions.pending:
            uc.reg_write(UC_ARM_REG_PC, address + size | 1)
            self._core.exceptions.take()
