"""A sketch's ELF: what goes into memory, what its functions are called, and where instructions of some kinds are.

The ELF must have the symbols that the compiler leaves ($t and $d say what is code and what is data), as the ELF that
arduino-cli leaves beside its other files has.
"""
from __future__ import annotations

import bisect
import struct
from dataclasses import dataclass, field
from pathlib import Path

ARM = 40  # e_machine
LOAD, SYMBOLS, FUNCTION = 1, 2, 2  # p_type, sh_type, type of a symbol


class ElfError(Exception):
    """This file cannot be run; the message is for the user."""


@dataclass
class Elf:
    """What `read` finds."""

    segments: list[tuple[int, bytes]]  # address in flash, bytes, in the order of the file
    started: list[tuple[int, bytes]]  # the same where the start-up code puts them
    symbols: dict[str, int]  # of functions and variables; of functions without the bit that says Thumb
    _functions: list[tuple[int, str]] = field(default_factory=list)
    _code: list[tuple[int, int]] = field(default_factory=list)  # start and end of runs of instructions

    def name(self, address: int) -> str:
        """Return the function that holds an address, or the address."""
        at = bisect.bisect(self._functions, (address, "\uffff")) - 1
        return f"{self._functions[at][1]} (0x{address:08x})" if at >= 0 else f"0x{address:08x}"

    def instructions(self) -> list[tuple[int, int, bool]]:
        """List all instructions of the code: address, the 2 or 4 bytes as in the manual, whether an IT block has it."""
        found = []
        for start, end in self._code:
            data = self._bytes(start, end)
            at = block = 0
            while at + 2 <= len(data):
                code, size = int.from_bytes(data[at:at + 2], "little"), 2
                if code >> 11 in (0x1D, 0x1E, 0x1F):
                    code, size = code << 16 | int.from_bytes(data[at + 2:at + 4], "little"), 4
                found.append((start + at, code, block > 0))
                block = max(0, block - 1)
                if size == 2 and code >> 8 == 0xBF and code & 15:
                    block = 4 - ((code & 15) & -(code & 15)).bit_length() + 1
                at += size
        return found

    def _bytes(self, start: int, end: int) -> bytes:
        for address, data in self.segments:
            if address <= start < address + len(data):
                return data[start - address:end - address]
        return b""


def read(path: Path) -> Elf:
    """Read an ELF.

    Raises:
        ElfError: it is missing, damaged, for another processor, or has no symbols.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ElfError(f"{path} cannot be read: {error.strerror}") from error
    if data[:6] != b"\x7fELF\x01\x01" or len(data) < 52 or struct.unpack_from("<H", data, 18)[0] != ARM:
        raise ElfError(f"{path} is no program for the board: name the .elf that arduino-cli compile has left")
    try:
        elf = _parse(data)
    except (struct.error, ValueError, IndexError) as error:
        raise ElfError(f"{path} is damaged: compile it again") from error
    if not elf.segments or not elf._code:
        raise ElfError(f"{path} has no symbols: compile it again, and do not strip it")
    return elf


def _parse(data: bytes) -> Elf:
    programs, sections = struct.unpack_from("<II", data, 28)
    program_size, program_count, section_size, section_count = struct.unpack_from("<HHHH", data, 42)
    segments, started = [], []
    for number in range(program_count):
        kind, offset, later, address, size, _ = struct.unpack_from("<IIIIII", data, programs + number * program_size)
        if kind == LOAD and size:
            segments.append((address, data[offset:offset + size]))
            started.append((later, data[offset:offset + size]))
    headers = [struct.unpack_from("<IIIIIIIIII", data, sections + number * section_size)
               for number in range(section_count)]
    symbols, functions, marks = {}, [], []
    for header in headers:
        if header[1] != SYMBOLS:
            continue
        names = headers[header[6]][4]
        for at in range(header[4], header[4] + header[5], 16):
            name_at, value, _, info, _, section = struct.unpack_from("<IIIBBH", data, at)
            name = data[names + name_at:data.index(b"\0", names + name_at)].decode(errors="replace")
            if name[:2] in ("$t", "$d", "$a") and section < section_count:
                in_section = headers[section]
                if in_section[2] & 4:  # holds instructions
                    marks.append((value, name[1] == "t", in_section[3] + in_section[5]))
            elif name and not name.startswith("$"):
                symbols[name] = value & ~1 if info & 15 == FUNCTION else value
                if info & 15 == FUNCTION:
                    functions.append((value & ~1, name))
    marks.sort()
    code = [(start, min(marks[number + 1][0] if number + 1 < len(marks) else end, end))
            for number, (start, is_code, end) in enumerate(marks) if is_code]
    return Elf(segments, started, symbols, sorted(functions), code)
