"""The serial protocol of the sketch, as mirnet_nano33ble/PROTOCOL.md lays it out, and the port that it is spoken on."""
from __future__ import annotations

import enum
import itertools
import struct
import time
import zlib
from dataclasses import dataclass, field
from typing import Callable, Iterator

import numpy as np
import serial
from serial.tools import list_ports

WIDTH, HEIGHT = 160, 120
FRAME_BYTES = 2 * WIDTH * HEIGHT
VERSION = 1
MAGIC = b"\xa5M"
MAX_PAYLOAD = 8 + 3 * WIDTH * HEIGHT  # the longest message of the board
FATAL = 6  # from this status on the sketch has stopped
RETRY_SECONDS = 0.5  # between looks for a port that is gone
BOARDS = {(0x2341, product) for product in (0x005A, 0x015A, 0x025A, 0x805A)}  # USB vendor and product


class Type(enum.IntEnum):
    """What a message is about."""

    INFO = 0x01
    SELF_TEST = 0x02
    CAPTURE = 0x03
    TEST_PICTURE = 0x04
    ENHANCE = 0x05
    STREAM = 0x06
    INFO_TEXT = 0x81
    SELF_TEST_TEXT = 0x82
    DARK_FRAME = 0x83
    BRIGHT_FRAME = 0x84
    STATUS = 0x85


class LinkError(Exception):
    """The board is gone, silent, or says that something is wrong; the message is for the user."""


class Unplugged(LinkError):
    """The port is gone; it may come back."""


@dataclass(frozen=True)
class Message:
    type: int
    tag: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """Return the message as it goes over the wire."""
        header = MAGIC + struct.pack("<BBB", VERSION, self.type, self.tag) + len(self.payload).to_bytes(3, "little")
        header += struct.pack("<I", zlib.crc32(header))
        return header + self.payload + struct.pack("<I", zlib.crc32(header + self.payload))


class Decoder:
    """Find messages in a stream of bytes of which any may be missing, wrong or too many.

    After a damaged message it looks again from that message's second byte on, so nothing intact behind it is lost.
    """

    HEADER = 12

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.dropped = 0  # bytes that were no part of a message

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take bytes and yield the messages that they complete."""
        self._bytes += data
        while True:
            start = self._bytes.find(MAGIC)
            if start < 0:
                start = len(self._bytes) - self._bytes.endswith(MAGIC[:1])
            self._drop(start)
            if len(self._bytes) < self.HEADER:
                return
            version, kind, tag = self._bytes[2:5]
            length = int.from_bytes(self._bytes[5:8], "little")
            end = self.HEADER + length
            if zlib.crc32(self._bytes[:8]) != self._number(8) or version != VERSION or length > MAX_PAYLOAD:
                self._drop(1)
            elif len(self._bytes) < end + 4:
                return
            elif zlib.crc32(self._bytes[:end]) != self._number(end):
                self._drop(1)
            else:
                message = Message(kind, tag, bytes(self._bytes[self.HEADER:end]))
                del self._bytes[:end + 4]
                yield message

    def _number(self, at: int) -> int:
        return int.from_bytes(self._bytes[at:at + 4], "little")

    def _drop(self, count: int) -> None:
        self.dropped += count
        del self._bytes[:count]


@dataclass
class Picture:
    """A dark frame and what the board made of it, uint8 (120, 160, 3), with the times that the board took."""

    number: int
    dark: np.ndarray
    bright: np.ndarray
    capture_seconds: float
    enhance_seconds: float


def find_port() -> str:
    """Return the port of the only board that is plugged in.

    Raises:
        LinkError: there is none, or more than one.
    """
    ports = [port.device for port in list_ports.comports() if (port.vid, port.pid) in BOARDS]
    if len(ports) != 1:
        raise LinkError("no Arduino Nano 33 BLE is plugged in: plug it in, or name its port with --port" if not ports
                        else f"{len(ports)} boards are plugged in: choose one of {', '.join(ports)} with --port")
    return ports[0]


@dataclass
class Link:
    """An open port.

    Raises:
        Unplugged: by every method, when the port is gone or cannot be opened.
        LinkError: by every method, when the board says that something is wrong or says nothing for `patience` seconds.
    """

    port: str
    patience: float = 15.0
    _decoder: Decoder = field(default_factory=Decoder)
    _tags: Iterator[int] = field(default_factory=lambda: itertools.cycle(range(1, 256)))

    def __post_init__(self) -> None:
        try:
            self._serial = serial.Serial(self.port, 115200, timeout=0.1, write_timeout=self.patience)
        except (OSError, ValueError) as error:  # SerialException is an OSError
            raise Unplugged(f"{self.port} cannot be opened: is the board plugged in, and no other program using it?"
                            ) from error

    def close(self) -> None:
        """Close the port."""
        self._serial.close()

    def info(self) -> dict[str, str]:
        """Return what the board says of itself: protocol, model (SHA-256), width, height, arena, memory, camera ..."""
        return _words(self._ask(Type.INFO, Type.INFO_TEXT))

    def self_test(self) -> dict[str, str]:
        """Let the board compute the golden vector; "self-test" is "passed" or "failed"."""
        return _words(self._ask(Type.SELF_TEST, Type.SELF_TEST_TEXT))

    def enhance(self, frame: np.ndarray) -> Picture:
        """Let the board enhance a dark picture, uint8 (120, 160, 3); it gets 16 bits of every pixel."""
        return next(self._pictures(self._send(Type.ENHANCE, to_rgb565(frame).tobytes())))

    def capture(self, *, test_picture: bool = False) -> Picture:
        """Let the board enhance one frame of its camera, or its test picture."""
        return next(self._pictures(self._send(Type.TEST_PICTURE if test_picture else Type.CAPTURE)))

    def stream(self, *, test_picture: bool = False) -> Iterator[Picture]:
        """Yield one picture after the other until the iterator is closed."""
        pictures = self._pictures(self._send(Type.STREAM, bytes([2 if test_picture else 1])))
        try:
            yield from pictures
        finally:
            try:
                self._send(Type.STREAM, b"\0")
            except LinkError:
                pass  # the board is gone, and with it the stream

    def _send(self, kind: Type, payload: bytes = b"") -> int:
        tag = next(self._tags)
        try:
            self._serial.write(Message(kind, tag, payload).encode())
        except serial.SerialTimeoutException as error:
            raise LinkError(f"the board takes no bytes for {self.patience:g} s: press its reset button") from error
        except OSError as error:
            raise Unplugged(f"{self.port} is gone") from error
        return tag

    def _messages(self) -> Iterator[Message]:
        """Yield messages as they come."""
        heard_at = time.monotonic()
        while True:
            try:
                data = self._serial.read(max(1, self._serial.in_waiting))
            except (OSError, TypeError) as error:  # pyserial reads from None when a port is closed beneath it
                raise Unplugged(f"{self.port} is gone") from error
            if data:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > self.patience:
                raise LinkError(f"the board has been silent for {self.patience:g} s: is it the right port, "
                                "and the sketch on it?")
            yield from self._decoder.feed(data)

    def _answers(self, tag: int) -> Iterator[Message]:
        """Yield the answers to a command; what the board says is wrong becomes an error."""
        for message in self._messages():
            if message.type == Type.STATUS and message.payload[:1] != b"\0":
                if message.tag == tag or message.payload[0] >= FATAL:
                    raise LinkError(message.payload[1:].decode(errors="replace"))
            elif message.tag == tag:
                yield message

    def _ask(self, kind: Type, answer: Type) -> bytes:
        tag = self._send(kind)
        return next(message.payload for message in self._answers(tag) if message.type == answer)

    def _pictures(self, tag: int) -> Iterator[Picture]:
        dark: tuple[int, int, np.ndarray] | None = None
        for message in self._answers(tag):
            if message.type not in (Type.DARK_FRAME, Type.BRIGHT_FRAME):
                continue
            number, micros = struct.unpack_from("<II", message.payload)
            pixels = np.frombuffer(message.payload, np.uint8, offset=8)
            if message.type == Type.DARK_FRAME:
                dark = number, micros, from_rgb565(pixels.reshape(HEIGHT, WIDTH, 2))
            elif dark is not None and dark[0] == number:  # else the dark frame was damaged on its way
                yield Picture(number, dark[2], pixels.reshape(HEIGHT, WIDTH, 3), dark[1] / 1e6, micros / 1e6)


def watch(find: Callable[[], str], *, test_picture: bool = False, frames: int | None = None
          ) -> Iterator[Picture | str]:
    """Yield the board's pictures and, as text, their rate and what happens to the port; wait while it is unplugged.

    Args:
        find: returns the port, or raises LinkError while there is none.
        test_picture: of the sketch, instead of its camera.
        frames: the number of pictures after which to stop.

    Raises:
        LinkError: the board says that something is wrong, or is not there from the start.
    """
    count, link = 0, Link(find())
    while True:
        try:
            started = time.monotonic()
            for picture in link.stream(test_picture=test_picture):
                took, started = time.monotonic() - started, time.monotonic()
                count += 1
                yield picture
                yield (f"frame {picture.number}: {1 / took:.2f} frames/s (camera {picture.capture_seconds:.3f} s, "
                       f"model {picture.enhance_seconds:.3f} s)")
                if count == frames:
                    return
        except Unplugged as error:
            yield f"{error}: waiting for it to come back"
            link.close()
            link = _reopen(find)
            yield f"{link.port} is back"
        finally:
            if count == frames:
                link.close()


def _reopen(find: Callable[[], str]) -> Link:
    while True:
        try:
            return Link(find())
        except LinkError:
            time.sleep(RETRY_SECONDS)


def to_rgb565(picture: np.ndarray) -> np.ndarray:
    """Turn uint8 (..., 3) into the camera's 16 bits, uint8 (..., 2), high byte first."""
    red, green, blue = np.moveaxis(picture.astype(np.uint16), -1, 0)
    return (red >> 3 << 11 | green >> 2 << 5 | blue >> 3).astype(">u2")[..., None].view(np.uint8)


def from_rgb565(frame: np.ndarray) -> np.ndarray:
    """Turn the camera's 16 bits, uint8 (..., 2), into uint8 (..., 3), repeating bits so that white is 255."""
    word = np.ascontiguousarray(frame).view(">u2")[..., 0].astype(np.uint16)
    red, green, blue = word >> 11, word >> 5 & 63, word & 31
    return np.stack([red << 3 | red >> 2, green << 2 | green >> 4, blue << 3 | blue >> 2], -1).astype(np.uint8)


def _words(payload: bytes) -> dict[str, str]:
    pairs = (word.partition("=") for word in payload.decode(errors="replace").split())
    return {name: value for name, _, value in pairs}
