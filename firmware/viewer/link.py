"""The serial protocol of the sketch, described in mirnet_nano33ble/PROTOCOL.md, and the board's port."""
from __future__ import annotations

import enum
import errno
import functools
import itertools
import os
import struct
import time
import zlib
from dataclasses import dataclass, field
from typing import Callable, Container, Generator, Iterator, Sequence, TypeVar

import numpy as np
import serial
from camera import CameraSettings
from serial.tools import list_ports
from yuv422 import from_yuyv, to_yuyv

VERSION = 2
MAGIC = b"\xa5M"
PACKET = 64  # bytes, of USB at full speed
BOARD_RAM = 262_144  # bytes; a dark frame has 2 for each pixel
MAX_PAYLOAD = 8 + 3 * (BOARD_RAM // 2)  # no bright frame is longer
DAMAGED, WRONG_VERSION, NO_CAMERA, CAMERA_SILENT, CAMERA_SLIPPED = 1, 3, 4, 5, 12  # statuses of PROTOCOL.md
FATAL = range(6, 12)  # after these the sketch has halted
ATTEMPTS = 3  # at a command that arrives damaged
EXPOSURE_STEPS = 8  # in one EV
LARGEST_EXPOSURE = 4 * EXPOSURE_STEPS
MOST_FRAMES = 8  # of which a picture is made
T = TypeVar("T")
BOARDS = {(0x2341, product) for product in (0x005A, 0x015A, 0x025A, 0x805A)}  # USB vendor and product


class Type(enum.IntEnum):
    """The types of messages: commands of the computer, then answers of the board."""

    INFO = 0x01
    SELF_TEST = 0x02
    CAPTURE = 0x03
    TEST_PICTURE = 0x04
    ENHANCE = 0x05
    STREAM = 0x06
    EXPOSURE = 0x07
    CAMERA = 0x08
    AVERAGE = 0x09
    INFO_TEXT = 0x81
    SELF_TEST_TEXT = 0x82
    DARK_FRAME = 0x83
    BRIGHT_FRAME = 0x84
    STATUS = 0x85


class InputError(Exception):
    """A file or folder that the user named will not do; the message is for the user."""


class LinkError(Exception):
    """The board is absent, silent or reports a problem, or a program is missing; the message is for the user."""


class Unplugged(LinkError):
    """The port is gone; it may come back."""


class Damaged(LinkError):
    """A command has arrived damaged."""


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


def in_packets(data: bytes) -> bytes:
    """Return data with zeros up to whole packets, and one packet of zeros more.

    Mbed OS reads the length of a packet after it has let the next one in: one that is shorter cuts it. The computer's
    driver may add an empty one, so the last packet is nothing but zeros.
    """
    return data + bytes(-len(data) % PACKET + PACKET)


class Decoder:
    """Find messages in a stream of bytes of which any may be missing, wrong or extra.

    After a damaged message the search goes on at that message's second byte, so no whole message after it is lost. A
    message of another version becomes a status, so that whoever waits for it learns of it.
    """

    HEADER = 12

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.dropped = 0  # bytes outside of messages

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
            sound = zlib.crc32(self._bytes[:8]) == self._number(8)
            if sound and version != VERSION:
                self._drop(self.HEADER)
                yield Message(Type.STATUS, tag, bytes([WRONG_VERSION]) + (
                    f"the board's sketch has version {version} of the protocol, this viewer version {VERSION}: upload "
                    "the sketch that belongs to this viewer").encode())
            elif not sound or length > MAX_PAYLOAD:
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
    """A dark frame and the bright one that the board made of it, both uint8 (height, width, 3)."""

    number: int
    dark: np.ndarray
    bright: np.ndarray
    capture_seconds: float  # to read the dark frame from the camera
    enhance_seconds: float  # to run the model


def find_port() -> str:
    """Return the port of the only board that is plugged in.

    Raises:
        Unplugged: there is none.
        LinkError: there is more than one.
    """
    ports = [port.device for port in list_ports.comports() if (port.vid, port.pid) in BOARDS]
    if not ports:
        raise Unplugged("no Arduino Nano 33 BLE is plugged in: plug it in, or name its port with --port")
    if len(ports) > 1:
        raise LinkError(f"{len(ports)} boards are plugged in: choose one of {', '.join(ports)} with --port")
    return ports[0]


def open_port(name: str, **options: float) -> serial.Serial:
    """Open a serial port, which is not shared with other programs; on Windows none ever is.

    Raises:
        Unplugged: the port cannot be opened.
        LinkError: this user may not open it, or another program has.
    """
    try:
        return serial.Serial(name, 115200, timeout=0.1, exclusive=True, **options)
    except (OSError, ValueError) as error:  # SerialException is an OSError
        code = getattr(error, "errno", None)
        if code == errno.EACCES:
            raise LinkError(f"{name} is not open to you: {_group_hint(name)}") from error
        if code in (errno.EAGAIN, errno.EWOULDBLOCK):
            raise LinkError(f"{name} is in use: close other programs that use it") from error
        raise Unplugged(f"{name} cannot be opened: plug the board in, and close other programs that use it") from error


class Port:
    """A serial port that carries messages. Raises what `open_port` raises."""

    def __init__(self, name: str, patience: float) -> None:
        self.name, self.patience = name, patience
        self._decoder = Decoder()
        self._serial = open_port(name, write_timeout=patience)

    def close(self) -> None:
        """Close the port."""
        self._serial.close()

    def send(self, message: Message) -> None:
        """Send a message.

        Raises:
            Unplugged: the port is gone.
            LinkError: the board takes no bytes for `patience` seconds.
        """
        try:
            self._serial.write(in_packets(message.encode()))
        except serial.SerialTimeoutException as error:
            raise LinkError(f"the board takes no bytes for {self.patience:g} s: press its reset button") from error
        except OSError as error:
            raise Unplugged(f"{self.name} is gone") from error

    def messages(self, expected: Callable[[Message], bool]) -> Iterator[Message]:
        """Yield messages as they arrive.

        Raises:
            Unplugged: the port is gone.
            LinkError: no message that is `expected` has arrived for `patience` seconds; other bytes may have.
        """
        heard_at = time.monotonic()
        while True:
            try:
                data = self._serial.read(max(1, self._serial.in_waiting))
            except (OSError, TypeError) as error:  # pyserial reads from None when a port is closed beneath it
                raise Unplugged(f"{self.name} is gone") from error
            for message in self._decoder.feed(data):
                yield message
                if expected(message):
                    heard_at = time.monotonic()
            if time.monotonic() - heard_at > self.patience:
                raise LinkError(f"the board has been silent for {self.patience:g} s: check that {self.name} is its "
                                "port and that the sketch is on it")


@dataclass
class Link:
    """A board at an open port.

    Every method raises Unplugged if the port is gone, and LinkError if the board reports a problem or does not answer
    for `patience` seconds. A command that arrives damaged is sent again, three times at most. To make one raises what
    `open_port` raises.
    """

    port: str
    patience: float = 15.0
    _tags: Iterator[int] = field(default_factory=lambda: itertools.cycle(range(1, 256)))

    def __post_init__(self) -> None:
        self._port = Port(self.port, self.patience)

    def close(self) -> None:
        """Close the port."""
        self._port.close()

    def info(self) -> dict[str, str]:
        """Return the board's info message, whose names PROTOCOL.md lists."""
        return _words(self._ask(Type.INFO, Type.INFO_TEXT))

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """Width and height of the board's frames in pixels; the board is asked once."""
        words = self.info()
        width, height = words.get("width", ""), words.get("height", "")
        if not (width.isdecimal() and height.isdecimal() and int(width) * int(height)):
            raise LinkError("the board does not say how large its frames are: upload the sketch of this viewer")
        return int(width), int(height)

    def self_test(self) -> dict[str, str]:
        """Let the board compute the golden output; "self-test" is "passed" or "failed"."""
        return _words(self._ask(Type.SELF_TEST, Type.SELF_TEST_TEXT))

    def enhance(self, frame: np.ndarray) -> Picture:
        """Let the board enhance a dark picture, uint8 (height, width, 3) as `size` says; it is sent as YUV 4:2:2."""
        width, height = self.size
        if frame.shape != (height, width, 3):
            raise ValueError(f"a frame of this board has the shape {(height, width, 3)}, not {frame.shape}")
        return self._picture(Type.ENHANCE, to_yuyv(frame).tobytes())

    def capture(self, *, test_picture: bool = False) -> Picture:
        """Let the board enhance one frame of its camera, or its test picture."""
        return self._picture(Type.TEST_PICTURE if test_picture else Type.CAPTURE)

    def set_exposure(self, steps: int, *, wait: bool = True) -> None:
        """Make the next frames brighter by steps of 1/8 EV from -32 to 32, 0: no correction; see `_set`."""
        if abs(steps) > LARGEST_EXPOSURE:
            raise ValueError(f"exposure takes {-LARGEST_EXPOSURE} to {LARGEST_EXPOSURE} steps, not {steps}")
        self._set(Type.EXPOSURE, struct.pack("<b", steps), wait=wait)

    def set_camera(self, settings: CameraSettings, *, wait: bool = True) -> None:
        """Set the camera, which remembers it until the board is reset; see `_set`."""
        self._set(Type.CAMERA, settings.payload(), wait=wait)

    def _set(self, kind: Type, payload: bytes, *, wait: bool) -> None:
        """Send a setting, and wait for the board's answer; do not wait between the pictures of a stream."""
        if wait:
            self._ask(kind, Type.STATUS, payload)
        else:
            self._send(kind, payload)

    def still(self, frames: int | Sequence[np.ndarray]) -> Picture:
        """Let the board enhance the mean of 2 to 8 frames, so many of its camera, or these dark pictures."""
        count = frames if isinstance(frames, int) else len(frames)
        self._port.patience = self.patience * count
        try:
            self._ask(Type.AVERAGE, Type.STATUS, bytes([count]))
            if isinstance(frames, int):
                return self.capture()
            for frame in frames[:-1]:
                self._ask(Type.ENHANCE, Type.STATUS, to_yuyv(frame).tobytes())
            return self.enhance(frames[-1])
        finally:
            self._port.patience = self.patience
            self._send(Type.AVERAGE, bytes([1]))

    def stream(self, *, test_picture: bool = False) -> Generator[Picture | str, None, None]:
        """Yield one picture after the other until the iterator is closed, and as text what goes wrong in between."""
        self.size  # is asked before, not while pictures arrive
        passing = {CAMERA_SILENT, CAMERA_SLIPPED}
        payload = bytes([2 if test_picture else 1])
        try:
            for news in self._pictures(self._answers(_retry(lambda: self._start_stream(payload)), passing)):
                passing |= {DAMAGED, NO_CAMERA}  # it did work
                yield news
        finally:
            try:
                self._send(Type.STREAM, b"\0")
            except LinkError:
                pass  # the board is gone, and so is the stream

    def _start_stream(self, payload: bytes) -> int:
        """Return the stream's tag."""
        tag = self._send(Type.STREAM, payload)
        next(message for message in self._answers(tag) if message.type == Type.STATUS)
        return tag

    def _send(self, kind: Type, payload: bytes = b"") -> int:
        tag = next(self._tags)
        self._port.send(Message(kind, tag, payload))
        return tag

    def _answers(self, tag: int, passing: Container[int] = ()) -> Iterator[Message]:
        """Yield the answers to a command; raise LinkError for a status that is not `passing`."""
        def is_own(message: Message) -> bool:
            return message.tag == tag or message.tag == 0 and _code(message) == DAMAGED

        for message in self._port.messages(is_own):
            code, own = _code(message), is_own(message)
            if code in passing:
                code = 0
            if code == DAMAGED and own:
                raise Damaged(_sentence(message))
            if code and (own or code in FATAL):
                raise LinkError(_sentence(message))
            if not code and own:
                yield message

    def _ask(self, kind: Type, answer: Type, payload: bytes = b"") -> bytes:
        return _retry(lambda: next(message.payload for message in self._answers(self._send(kind, payload))
                                   if message.type == answer))

    def _picture(self, kind: Type, payload: bytes = b"") -> Picture:
        self.size  # is asked before, not between the attempts
        return _retry(lambda: next(picture for picture in self._pictures(self._answers(self._send(kind, payload)))
                                   if isinstance(picture, Picture)))

    def _pictures(self, answers: Iterator[Message]) -> Iterator[Picture | str]:
        """Yield the pictures and statuses among the answers to a command."""
        width, height = self.size
        dark: tuple[int, int, np.ndarray] | None = None
        for message in answers:
            if message.type == Type.STATUS:
                yield _sentence(message)
            if message.type not in (Type.DARK_FRAME, Type.BRIGHT_FRAME):
                continue
            shape = height, width, 2 if message.type == Type.DARK_FRAME else 3
            if len(message.payload) != 8 + np.prod(shape):
                raise LinkError(f"the board sent {len(message.payload)} bytes as a frame of {width}x{height} pixels: "
                                "upload the sketch that belongs to this viewer")
            number, micros = struct.unpack_from("<II", message.payload)
            pixels = np.frombuffer(message.payload, np.uint8, offset=8).reshape(shape)
            if message.type == Type.DARK_FRAME:
                dark = number, micros, from_yuyv(pixels)
            elif dark is not None and dark[0] == number:  # else the dark frame was lost on the way
                yield Picture(number, dark[2], pixels, dark[1] / 1e6, micros / 1e6)


def _retry(attempt: Callable[[], T]) -> T:
    """Repeat a command that arrives damaged."""
    for _ in range(ATTEMPTS - 1):
        try:
            return attempt()
        except Damaged:
            pass
    return attempt()


def _code(message: Message) -> int:
    """Return the code of a status, 0 of any other message."""
    return message.payload[0] if message.type == Type.STATUS and message.payload else 0


def _sentence(status: Message) -> str:
    return status.payload[1:].decode(errors="replace")


def _group_hint(port: str) -> str:
    """Say how a user of Linux gets at a port; elsewhere another program holds it."""
    try:
        import grp
        group = grp.getgrgid(os.stat(port).st_gid).gr_name
    except (ImportError, OSError, KeyError):
        return "close other programs that use it"
    return f"join its group with 'sudo usermod -aG {group} $USER', then log out and in again"


def _words(payload: bytes) -> dict[str, str]:
    pairs = (word.partition("=") for word in payload.decode(errors="replace").split())
    return {name: value for name, _, value in pairs}
