"""Call functions of a program on an emulated Cortex-M4, answer what they read from registers, and count instructions.

`cortex_m4.py` runs whole programs in QEMU, which has no pins of an nRF52840. Here Unicorn runs one function at a time,
and Python stands for the peripherals. Time is counted in instructions; on silicon an instruction takes a cycle or more.
"""
from __future__ import annotations

import struct
from pathlib import Path
from typing import Callable

from elf import read as read_elf

RAM, RAM_BYTES = 0x20000000, 4 << 20  # as link.ld has it
REGISTERS = ((0x40000000, 0x100000), (0x50000000, 0x10000))  # addresses of the peripherals, and bytes
RETURN = 0x1F000000  # nothing is there: a function that returns to it has ended
LONGEST = 200_000_000  # instructions of all calls
CYCLES_PER_MICROSECOND = 64


class Core:
    """A Cortex-M4 with a program in its memory.

    Args:
        program: an ELF file that was linked by link.ld. Constructors of static objects are not run.
        read: returns the content of a peripheral's register, 32 bits, for its address.
        write: takes an address and the content.
    """

    def __init__(self, program: Path, *, read: Callable[[int], int] = lambda address: 0,
                 write: Callable[[int, int], None] = lambda address, value: None) -> None:
        import unicorn
        from unicorn import arm_const as arm

        self._arm, self.instructions = arm, 0
        self._core = core = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        core.ctl_set_cpu_model(arm.UC_CPU_ARM_CORTEX_M4)
        elf = read_elf(program)
        self.symbols = elf.symbols
        core.mem_map(0, 4 << 20)
        core.mem_map(RAM, RAM_BYTES)
        core.mem_map(RETURN, 4096)
        for address, content in elf.started:
            core.mem_write(address, content)
        for start, size in REGISTERS:
            core.mmio_map(start, size, lambda uc, at, size, start: read(start + at), start,
                          lambda uc, at, size, value, start: write(start + at, value), start)
        self._sizes: dict[tuple[int, int], int] = {}
        core.hook_add(unicorn.UC_HOOK_BLOCK, self._count)

    def call(self, name: str, *arguments: int) -> int:
        """Call a function with C linkage, at most four arguments of 32 bits; return its result, 32 bits.

        Raises:
            RuntimeError: it did not return.
        """
        for register, value in zip((self._arm.UC_ARM_REG_R0, self._arm.UC_ARM_REG_R1, self._arm.UC_ARM_REG_R2,
                                    self._arm.UC_ARM_REG_R3), arguments):
            self._core.reg_write(register, value)
        self._core.reg_write(self._arm.UC_ARM_REG_SP, RAM + RAM_BYTES)
        self._core.reg_write(self._arm.UC_ARM_REG_LR, RETURN | 1)
        self._core.emu_start(self.symbols[name] | 1, RETURN)
        if self._core.reg_read(self._arm.UC_ARM_REG_PC) != RETURN:
            raise RuntimeError(f"{name} did not return")
        return self._core.reg_read(self._arm.UC_ARM_REG_R0)

    def memory(self, name: str, size: int) -> bytes:
        """Return the first bytes of a variable."""
        return bytes(self._core.mem_read(self.symbols[name], size))

    def set_memory(self, name: str, content: bytes) -> None:
        """Write the first bytes of a variable."""
        self._core.mem_write(self.symbols[name], content)

    def _count(self, core, address: int, size: int, user_data) -> None:
        """Count the instructions of a block when it begins; after this a block that waits reads registers."""
        count = self._sizes.get((address, size))
        if count is None:
            halves = iter(struct.unpack(f"<{size // 2}H", core.mem_read(address, size // 2 * 2)))
            count = 0
            for half in halves:
                count += 1
                if half >> 11 >= 0b11101:  # an instruction of 32 bits
                    next(halves, None)
            self._sizes[address, size] = count
        self.instructions += count
        if self.instructions > LONGEST:
            core.emu_stop()
