"""The nRF52840's peripherals that an Arduino sketch starts with, after Nordic's product specification (PS 1.7).

A peripheral is a page of 4 KiB of registers: tasks that are triggered by writing 1, events that become 1, an interrupt
enabled by one bit for each event. What no class here knows is a register that keeps what is written. USB is in
`usb_device.py`, the two-wire interface in `twi.py`, SPI in `spi.py`.
"""
from __future__ import annotations

import random
from typing import Callable, Protocol

from core import CLOCK_HZ, FLASH, FLASH_SIZE, NEVER, Core
from exceptions import Crash
from unicorn import UC_PROT_ALL, UC_PROT_EXEC, UC_PROT_READ

BASE, FICR, UICR, GPIO, PART = 0x40000000, 0x10000000, 0x10001000, 0x50000000, 0xF0000000
PAGE = 0x1000
RTC_HZ = 32768


class Peripheral:
    """Tasks, events and interrupts as all of Nordic's peripherals have them."""

    def __init__(self, core: Core, number: int) -> None:
        self.core, self.number = core, number
        self.registers: dict[int, int] = {}
        self.events: set[int] = set()  # offsets
        self.interrupts = 0  # INTEN

    def happen(self, event: int) -> None:
        """Set an event."""
        self.events.add(event)
        self._update()

    def task(self, offset: int) -> None:
        """Do what the task at this offset does."""

    def read(self, offset: int) -> int:
        """Return a register."""
        if 0x100 <= offset < 0x200:
            return int(offset in self.events)
        return self.interrupts if offset in (0x300, 0x304, 0x308) else self.registers.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """Take a register."""
        if offset < 0x100:
            if value & 1:
                self.task(offset)
        elif offset < 0x200:
            (self.events.add if value else self.events.discard)(offset)
            self._update()
        elif offset in (0x300, 0x304, 0x308):
            self.interrupts = {0x300: value, 0x304: self.interrupts | value, 0x308: self.interrupts & ~value}[offset]
            self._update()
        else:
            self.registers[offset] = value

    def _update(self) -> None:
        asks = any(self.interrupts >> (event - 0x100 >> 2) & 1 for event in self.events)
        self.core.exceptions.set_line(self.number, asks)


class PowerClock(Peripheral):
    """CLOCK and POWER. Both oscillators start at once; the USB cable is plugged in."""

    TASKS = {0x00: (0x100, 0x408), 0x08: (0x104, 0x414)}  # HFCLKSTART, LFCLKSTART: event, register that it runs
    STOPS = {0x04: 0x408, 0x0C: 0x414}
    USB_DETECTED, USB_READY = 0x11C, 0x124

    def __init__(self, core: Core, number: int) -> None:
        super().__init__(core, number)
        self.registers[0x438] = 1  # USBREGSTATUS: there is power on VBUS
        self.happen(self.USB_DETECTED)

    def task(self, offset: int) -> None:
        if offset in self.TASKS:
            event, runs = self.TASKS[offset]
            self.registers[runs] = 1
            self.happen(event)
        elif offset in self.STOPS:
            self.registers[self.STOPS[offset]] = 0

    def read(self, offset: int) -> int:
        if offset in (0x40C, 0x418):  # HFCLKSTAT, LFCLKSTAT
            return self.registers.get(offset - 4, 0) << 16 | 1
        return super().read(offset)

    def usb_regulator_ready(self) -> None:
        """USBD has been enabled: its supply is now stable."""
        self.registers[0x438] = 3
        self.happen(self.USB_READY)


class Counter(Peripheral):
    """What RTC and TIMER share: a counter that compares."""

    CHANNELS, BITS = 4, 24

    def __init__(self, core: Core, number: int) -> None:
        super().__init__(core, number)
        self.running = False
        self._base = 0  # the count at the cycle _since
        self._since = self._advanced = 0

    def ticks(self, cycles: int) -> int:
        """Return the ticks in a number of cycles."""
        raise NotImplementedError

    def cycles(self, ticks: int) -> int:
        """Return the first number of cycles that has so many ticks."""
        raise NotImplementedError

    def count(self) -> int:
        """Return the counter."""
        return self._total(self.core.now) % (1 << self.BITS)

    def start(self, running: bool = True, *, clear: bool = False) -> None:
        """Start or stop, from 0 or from where it is."""
        total = 0 if clear else self._total(self.core.now)
        self._base, self._since, self.running, self._advanced = total, self.core.now, running, total

    def _total(self, now: int) -> int:
        return self._base + (self.ticks(now - self._since) if self.running else 0)

    def write(self, offset: int, value: int) -> None:
        self.advance(self.core.now)  # what is compared from now on is compared with later counts only
        super().write(offset, value)

    def due(self) -> int:
        if not self.running:
            return NEVER
        nearest = min((self._until(channel) for channel in range(self.CHANNELS) if self._watched(channel)),
                      default=None)
        return NEVER if nearest is None else self._since + self.cycles(self._advanced + nearest - self._base)

    def _until(self, channel: int) -> int:
        """Ticks after the last advance until the channel compares equal, 1 or more."""
        ahead = (self.registers.get(0x540 + 4 * channel, 0) - self._advanced) % (1 << self.BITS)
        return ahead or 1 << self.BITS

    def _watched(self, channel: int) -> bool:
        return bool(self.interrupts >> 16 + channel & 1 or self.registers.get(0x200, 0) >> channel & 0x101)

    def advance(self, now: int) -> None:
        total = self._total(now)
        reached = [channel for channel in range(self.CHANNELS) if self._until(channel) <= total - self._advanced]
        self._advanced = total
        for channel in reached:
            self.happen(0x140 + 4 * channel)
            if self.registers.get(0x200, 0) >> channel & 1:  # the short COMPARE -> CLEAR
                self.start(clear=True)
            if self.registers.get(0x200, 0) >> channel + 8 & 1:
                self.start(False)


class Timer(Counter):
    """TIMER, in the mode that counts time."""

    CHANNELS = 6

    @property
    def BITS(self) -> int:  # type: ignore[override]
        return (16, 8, 24, 32)[self.registers.get(0x508, 0) & 3]

    def _divisor(self) -> int:
        return CLOCK_HZ // 16_000_000 << self.registers.get(0x510, 4)

    def ticks(self, cycles: int) -> int:
        return cycles // self._divisor()

    def cycles(self, ticks: int) -> int:
        return ticks * self._divisor()

    def task(self, offset: int) -> None:
        if offset in (0x00, 0x04, 0x10):
            self.start(offset == 0x00)
        elif offset == 0x0C:
            self.start(self.running, clear=True)
        elif 0x40 <= offset < 0x58:
            self.registers[0x540 + offset - 0x40] = self.count()


class RealTimeCounter(Counter):
    """RTC: 24 bits at 32,768 Hz."""

    def _divisor(self) -> int:
        return self.registers.get(0x508, 0) + 1

    def ticks(self, cycles: int) -> int:
        return cycles * RTC_HZ // (CLOCK_HZ * self._divisor())

    def cycles(self, ticks: int) -> int:
        return -(-ticks * CLOCK_HZ * self._divisor() // RTC_HZ)

    def task(self, offset: int) -> None:
        if offset in (0x00, 0x04):
            self.start(offset == 0x00)
        elif offset == 0x08:
            self.start(self.running, clear=True)

    def read(self, offset: int) -> int:
        return self.count() if offset == 0x504 else super().read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset in (0x344, 0x348):  # EVTENSET, EVTENCLR: events for PPI, of which nothing here makes use
            return
        super().write(offset, value)


class Uart(Peripheral):
    """UART0 without and with EasyDMA: bytes written are `sent`; `receive` brings one."""

    RECEIVED, SENT, STOPPED = 0x108, 0x11C, 0x144

    def __init__(self, core: Core, number: int) -> None:
        super().__init__(core, number)
        self.sent = bytearray()
        self._waiting = bytearray()

    def receive(self, data: bytes) -> None:
        """Bring bytes; the next comes when RXD has been read."""
        self._waiting += data
        self.happen(self.RECEIVED)

    def task(self, offset: int) -> None:
        if offset == 0x04:
            self.happen(self.STOPPED)

    def read(self, offset: int) -> int:
        if offset == 0x518 and self._waiting:
            value = self._waiting.pop(0)
            if self._waiting:
                self.happen(self.RECEIVED)
            return value
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == 0x51C:
            self.sent.append(value & 0xFF)
            self.happen(self.SENT)


class Rng(Peripheral):
    """A generator of the same numbers in every run."""

    def __init__(self, core: Core, number: int) -> None:
        super().__init__(core, number)
        self._random = random.Random(1)

    def task(self, offset: int) -> None:
        if offset == 0x00:
            self.happen(0x100)

    def read(self, offset: int) -> int:
        if offset == 0x508:
            self.happen(0x100)
            return self._random.randrange(256)
        return super().read(offset)


class Nvmc(Peripheral):
    """The flash's controller. A write to flash is refused unless CONFIG allows it."""

    def read(self, offset: int) -> int:
        return 1 if offset in (0x400, 0x408) else super().read(offset)  # READY, READYNEXT

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == 0x504:
            access = UC_PROT_ALL if value == 1 else UC_PROT_READ | UC_PROT_EXEC
            self.core.uc.mem_protect(FLASH, FLASH_SIZE, access)
        elif offset == 0x508:
            self.core.write(value & -PAGE, b"\xff" * PAGE)


class Watchdog(Peripheral):
    """WDT: the program must reload it in time."""

    def __init__(self, core: Core, number: int) -> None:
        super().__init__(core, number)
        self._barks = NEVER

    def _reload(self) -> None:
        self._barks = self.core.now + (self.registers.get(0x504, 0xFFFFFFFF) + 1) * CLOCK_HZ // RTC_HZ

    def task(self, offset: int) -> None:
        if offset == 0 and self._barks == NEVER:
            self._reload()

    def read(self, offset: int) -> int:
        return int(self._barks != NEVER) if offset == 0x400 else super().read(offset)

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if 0x600 <= offset < 0x620 and value == 0x6E524635 and self._barks != NEVER:
            self._reload()

    def due(self) -> int:
        return self._barks

    def advance(self, now: int) -> None:
        raise Crash(f"the watchdog resets the board in {self.core.where()}")


class Pins(Protocol):
    """What is wired to the pins."""

    def inputs(self, port: int) -> tuple[int, int]:
        """Return which pins of a port are driven from outside, and their levels."""


class Gpio:
    """Both ports. An output reads back what it is set to; a pin that nothing drives reads as its pull says."""

    def __init__(self, core: Core) -> None:
        self.out, self.direction = [0, 0], [0, 0]
        self.wired: Pins | None = None
        self._pins = [[0] * 32, [0] * 32]
        self._pulled_up = [0, 0]
        core.map(GPIO, PAGE, self._read, self._write)

    def _read(self, offset: int, size: int) -> int:
        port, at = (0, offset) if offset < 0x800 else (1, offset - 0x300)
        if at == 0x510:
            driven, levels = self.wired.inputs(port) if self.wired else (0, 0)
            outside = levels & driven | self._pulled_up[port] & ~driven
            return self.out[port] & self.direction[port] | outside & ~self.direction[port]
        if at in (0x504, 0x508, 0x50C):
            return self.out[port]
        if at in (0x514, 0x518, 0x51C):
            return self.direction[port]
        return self._pins[port][at - 0x700 >> 2] if 0x700 <= at < 0x780 else 0

    def _write(self, offset: int, size: int, value: int) -> None:
        port, at = (0, offset) if offset < 0x800 else (1, offset - 0x300)
        for base, values in ((0x504, self.out), (0x514, self.direction)):
            if at in (base, base + 4, base + 8):
                values[port] = {base: value, base + 4: values[port] | value, base + 8: values[port] & ~value}[at]
        if 0x700 <= at < 0x780:
            pin = at - 0x700 >> 2
            self._pins[port][pin] = value
            for values, bit in ((self.direction, value & 1), (self._pulled_up, value >> 2 & 3 == 3)):
                values[port] = values[port] & ~(1 << pin) | bit << pin


class Peripherals:
    """The bus with all peripherals, by their addresses, and the memories that the factory writes."""

    def __init__(self, core: Core) -> None:
        self.power = PowerClock(core, 0)
        self.uart = Uart(core, 2)
        self.gpio = Gpio(core)
        self._pages: dict[int, Peripheral] = {0: self.power, 2: self.uart, 0xD: Rng(core, 0xD), 0x1E: Nvmc(core, 0x1E)}
        kinds: tuple[tuple[Callable[[Core, int], Peripheral], tuple[int, ...]], ...] = (
            (Timer, (8, 9, 0xA, 0x1A, 0x1B)), (RealTimeCounter, (0xB, 0x11, 0x24)), (Watchdog, (0x10,)))
        for kind, numbers in kinds:
            for number in numbers:
                self.add(kind(core, number))
        for number in range(0x70):
            self._pages.setdefault(number, Peripheral(core, number))
        core.map(BASE, 0x80000, self._read, self._write)
        _factory_memory(core)
        self._core = core

    def add(self, peripheral: Peripheral) -> None:
        """Put a peripheral at the page of its number."""
        self._pages[peripheral.number] = peripheral
        if hasattr(peripheral, "due"):
            peripheral.core.devices.append(peripheral)  # type: ignore[arg-type]

    def page(self, number: int) -> Peripheral:
        """Return a peripheral."""
        return self._pages[number]

    def _read(self, offset: int, size: int) -> int:
        peripheral = self._pages.get(offset // PAGE)
        if peripheral is None:
            raise Crash(f"{self._core.where()} reads 0x{BASE + offset:08x}, where there is no peripheral")
        return peripheral.read(offset % PAGE & ~3) >> 8 * (offset & 3)

    def _write(self, offset: int, size: int, value: int) -> None:
        peripheral = self._pages.get(offset // PAGE)
        if peripheral is None:
            raise Crash(f"{self._core.where()} writes 0x{BASE + offset:08x}, where there is no peripheral")
        peripheral.write(offset % PAGE, value)


def _factory_memory(core: Core) -> None:
    """FICR, UICR and the part's revision, of which the start-up code asks which errata to work around."""
    for address, size in ((FICR, 2 * PAGE), (PART, PAGE)):
        core.uc.mem_map(address, size, UC_PROT_READ)
        core.write(address, b"\xff" * size)
    words = {FICR + 0x10: PAGE, FICR + 0x14: FLASH_SIZE // PAGE, FICR + 0x60: 0x01234567, FICR + 0x64: 0x89ABCDEF,
             FICR + 0xA4: 0x6E617030, FICR + 0xA8: 0x0000C033, FICR + 0x100: 0x52840, FICR + 0x104: 0x41414430,
             FICR + 0x10C: 256, FICR + 0x110: 1024, FICR + 0x130: 8, FICR + 0x134: 3,
             UICR + 0x200: 18, UICR + 0x204: 18,  # the reset pin, as the bootloader has set it
             PART + 0xFE0: 8, PART + 0xFE4: 0, PART + 0xFE8: 0x30}
    for address, word in words.items():
        core.write(address, word.to_bytes(4, "little"))
