"""A board with a sketch in it: processor, peripherals, USB cable and camera, from reset."""
from __future__ import annotations

from pathlib import Path

from core import CLOCK_HZ, FILLED, RAM, RAM_SIZE, Core
from elf import read
from nrf52840 import Peripherals
from pin_camera import SLAVE, Camera, Pictures
from spi import Spi, Wired
from system import System
from twi import Twi
from usb_device import Usbd
from usb_host import Host

SPI = 0x23
I2S = 0x25  # the library takes its clock for the camera's XCLK
LEDS = {"red": (0, 24), "green": (0, 16), "blue": (0, 6)}  # port and pin of the RGB LED, lit when low


class Machine:
    """The Arduino Nano 33 BLE Sense of the TinyML kit.

    Args:
        program: the ELF that arduino-cli compile has left.
        pictures: what the camera sees, see `Camera`; None: no camera is wired.
        display: what is wired to Arduino's SPI; None: nothing.

    Raises:
        ElfError: this is no program for the board.
    """

    def __init__(self, program: Path, pictures: Pictures | None = None,
                 display: Wired | None = None) -> None:
        self.core = Core(read(program))
        self.system = System(self.core)
        self.peripherals = bus = Peripherals(self.core)
        self.usb = Usbd(self.core, 0x27, bus.power.usb_regulator_ready)
        bus.add(self.usb)
        self.host = Host(self.core, self.usb)
        self.core.devices.append(self.host)
        self.camera = None
        if pictures is not None:
            self.camera = Camera(self.core, pictures, lambda: bool(bus.page(I2S).registers.get(0x500, 0) & 1))
            bus.gpio.wired = self.camera
        bus.add(Spi(self.core, SPI, display))
        for number in (3, 4):
            bus.add(Twi(self.core, number, {SLAVE: self.camera} if self.camera else {}))

    def run(self, seconds: float) -> None:
        """Run for some time of the board.

        Raises:
            Crash: the program did what is not allowed.
        """
        self.core.run(round(seconds * CLOCK_HZ))

    def leds(self) -> set[str]:
        """Return the colours of the RGB LED that are lit."""
        gpio = self.peripherals.gpio
        return {name for name, (port, pin) in LEDS.items()
                if gpio.direction[port] >> pin & 1 and not gpio.out[port] >> pin & 1}

    def untouched(self) -> int:
        """Return the bytes of the longest run of RAM that nothing has written since reset."""
        memory = self.core.read(RAM, RAM_SIZE)
        longest = run = 0
        for at in range(0, RAM_SIZE, 4):
            run = run + 4 if memory[at:at + 4] == FILLED else 0
            longest = max(longest, run)
        return longest
