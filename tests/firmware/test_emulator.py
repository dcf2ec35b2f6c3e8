"""The emulator of the whole board, by a program of our own that looks at it from inside: nrf52840/program.c."""
from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sketch_tools import HERE, SKETCH, need, run

pytest.importorskip("unicorn")
FOLDER = HERE / "nrf52840"
PICTURE = np.random.default_rng(0).integers(0, 256, 38400, np.uint8).tobytes()


def compiled(folder: Path, source: Path = FOLDER / "program.c") -> Path:
    """Compile a program for the board."""
    from cortex_m4 import CPU
    program = folder / f"{source.stem}.elf"
    language = ("arm-none-eabi-g++", "-std=gnu++14", "-fno-exceptions", "-fno-rtti", "-I", SKETCH) \
        if source.suffix == ".cpp" else ("arm-none-eabi-gcc", "-std=gnu11")
    run(need(language[0]), *language[1:], *CPU, "-Os", "-Wall", "-Wextra", "-Werror", "-ffreestanding",
        "-nostdlib", "-T", FOLDER / "link.ld", source, "-o", program, "-lgcc")
    return program


@pytest.fixture(scope="module")
def elf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("nrf52840"))


@pytest.fixture(scope="module")
def machine(elf: Path):
    """The board after all checks of program.c."""
    from machine import Machine
    machine = Machine(elf, lambda: PICTURE, lambda value: value ^ 0xFF)
    for _ in range(100):
        machine.run(0.01)
        if seen(machine)["Done"]:
            return machine
    raise AssertionError(f"program.c has not ended but is in {machine.core.where()}: {seen(machine)}")


def seen(machine) -> dict[str, int]:
    """What program.c has left in `results`."""
    names = re.findall(r"^  k(\w+),", (FOLDER / "program.c").read_text().split("test_emulator.py names them")[1]
                       .split("kResults")[0], re.MULTILINE)
    values = struct.unpack(f"<{len(names)}I", variable(machine, "results", 4 * len(names)))
    return dict(zip(names, values))


def variable(machine, name: str, size: int) -> bytes:
    return machine.core.read(machine.core.elf.symbols[name], size)


def test_timers_agree(machine):
    found = seen(machine)
    assert found["TickMicros"] == pytest.approx(10_000, abs=32)  # ten interrupts of SysTick, by TIMER
    assert found["SleepTicks"] == pytest.approx(3277, abs=2)  # of RTC, asleep for 100 ms
    assert found["EventTicks"] <= 1  # an event that has happened ends WFE at once
    assert machine.core.cycles > 2 * machine.core.instructions, "time asleep takes no instructions"


def test_exceptions_nest_and_wait_by_their_priorities(machine):
    found = seen(machine)
    # RTC's handler (r, R) is interrupted by TIMER's (t); 0 and 1 are equally urgent, so the smaller number goes first.
    assert variable(machine, "journal", 16).rstrip(b"\0") == b"rtR0100rRrR"
    assert (found["MaskedBefore"], found["UnmaskedAfter"]) == (0, 1)  # PRIMASK, CPSID and CPSIE
    assert (found["BaseBlocked"], found["BasePassed"], found["BaseAfter"]) == (1, 2, 3)  # BASEPRI
    assert found["Supervisor"] == 42  # SVC changes its caller's registers
    assert found["MaskedWake"] == 2  # an interrupt ends WFI while PRIMASK is set, and is taken later
    assert found["Aligned"] == 0


def test_threads_keep_all_their_registers(machine):
    found = seen(machine)
    assert found["Switches"] >= 40
    assert found["SwitchErrors"] == 0


def test_no_interrupt_breaks_a_block_of_conditional_instructions(machine):
    assert seen(machine)["Conditional"] == 50_000 * (1 + 2) + 10 * 50_000 * (1 + 3)


def test_pins_and_bus(machine):
    found = seen(machine)
    assert (found["Pins"], found["PullUp"]) == (0b10, 0b01)
    assert found["Identity"] == 0x76737FA2
    assert found["Written"] == machine.camera.registers[0x3D] == 0xC0
    assert found["NoAnswer"] == 0xFFFFFFFF  # no chip has this address


def test_bytes_go_out_and_come_back_by_spi(machine):
    found = seen(machine)
    assert found["Echoes"] == 0x123456 ^ 0xFFFFFF
    assert found["Ready"] == 0  # nothing is left to be read


def test_a_frame_comes_through_the_pins_byte_for_byte(machine):
    assert variable(machine, "frame", len(PICTURE)) == PICTURE
    assert machine.camera.played[-1] == PICTURE


def test_the_sketch_s_reader_misses_no_byte_of_any_frame(tmp_path):
    """Time goes by evenly in a row, however little the program looked at registers before it."""
    from machine import Machine
    machine = Machine(compiled(tmp_path, FOLDER / "reader.cpp"), lambda: PICTURE)
    machine.run(2)
    assert struct.unpack("<4I", variable(machine, "outcomes", 16)) == (1, 1, 1, 1), "every frame is whole"
    assert variable(machine, "frame", len(PICTURE)) == machine.camera.played[-1]


def test_the_order_of_bytes_is_the_one_that_the_registers_choose(machine):
    camera, picture = machine.camera, bytes(range(8))
    for tslb, com13, wired in ((0x04, 0xC0, [0, 1, 2, 3]), (0x04, 0xC1, [0, 3, 2, 1]), (0x0C, 0xC0, [1, 0, 3, 2]),
                               (0x0C, 0xC1, [1, 2, 3, 0])):
        registers = camera.registers | {0x3A: tslb, 0x3D: com13}
        camera.registers, kept = registers, camera.registers
        assert list(camera._on_the_wires(picture)[:4]) == wired
        camera.registers = kept


def test_serial_port_by_interrupts(machine):
    uart = machine.peripherals.uart
    uart.receive(b"HAL")
    machine.run(0.01)
    assert bytes(uart.sent) == b"IBM"


def test_untouched_memory_lies_between_variables_and_stack(machine):
    symbols = machine.core.elf.symbols
    assert machine.untouched() == pytest.approx(symbols["stack_top"] - symbols["bss_end"], abs=512)


@pytest.mark.parametrize("code, message", [
    ("*(volatile int*)0x60000000 = 1;", r"[Ii]nvalid memory write.* in Wrong \(0x"),
    ("*(volatile int*)0x10000 = 1;", r"memory.* in Wrong"),  # flash is not memory to write to
    ("((void (*)(void))0x0f000001)();", r"[Ii]nvalid.*called from Wrong"),
    ("__asm__(\"udf #1\");", r"Invalid instruction.* in Wrong"),
    ("*(volatile int*)0x40010504 = 99; *(volatile int*)0x40010000 = 1; for (;;) { }", "watchdog resets.* in Wrong"),
    ("*(volatile int*)0xE000ED0C = 0x05FA0004;", "Wrong.* resets the board"),
])
def test_a_crash_names_the_function(tmp_path, code, message):
    from exceptions import Crash
    from machine import Machine
    source = tmp_path / "crash.c"
    source.write_text(f"""
    extern int stack_top;
    __attribute__((noinline, used)) void Wrong(void) {{ {code} for (;;) {{ }} }}
    void Reset(void) {{ Wrong(); for (;;) {{ }} }}
    __attribute__((section(".vectors"), used)) static const void* const kVectors[16] = {{&stack_top, Reset}};""")
    machine = Machine(compiled(tmp_path, source))
    with pytest.raises(Crash, match=message):
        machine.run(0.1)


def test_what_is_no_program_for_the_board(tmp_path, elf):
    from elf import ElfError, read
    bad = tmp_path / "bad.elf"
    for data, message in ((b"", "no program for the board"), (Path("/bin/sh").read_bytes(), "no program for the board"),
                          (elf.read_bytes()[:200], "damaged")):
        bad.write_bytes(data)
        with pytest.raises(ElfError, match=message):
            read(bad)
    with pytest.raises(ElfError, match="cannot be read"):
        read(tmp_path / "absent.elf")
    subprocess.run([need("arm-none-eabi-strip"), elf, "-o", bad], check=True)
    with pytest.raises(ElfError, match="no symbols"):
        read(bad)
