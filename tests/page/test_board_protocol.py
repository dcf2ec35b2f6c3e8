"""What the page says to a board that speaks otherwise; the board is scripted, message by message."""
from __future__ import annotations

import struct
import threading
import zlib
from pathlib import Path
from typing import Any, Callable, Iterator

import page_server
import pytest
from browser import Visit
from link import CAMERA_SILENT, DAMAGED, VERSION, Decoder, Message, Type
from page_server import PageServer

INFO = b"protocol=2 model=none width=160 height=120"


class Board:
    """A port, in place of serial.Serial: `answer` takes a command and returns bytes."""

    def __init__(self) -> None:
        self.answer: Callable[[Message], bytes] = well
        self.connections: list[list[Message]] = []  # the commands of each
        self._decoder, self._bytes = Decoder(), b""
        self._arrived = threading.Condition()

    def open(self, *_: Any, **__: Any) -> Board:
        self.connections.append([])
        return self

    @property
    def in_waiting(self) -> int:
        return len(self._bytes)

    def write(self, data: bytes) -> None:
        for command in self._decoder.feed(data):
            self.connections[-1].append(command)
            with self._arrived:
                self._bytes += self.answer(command)
                self._arrived.notify()

    def read(self, size: int) -> bytes:
        with self._arrived:
            self._arrived.wait_for(lambda: self._bytes, timeout=0.1)
            data, self._bytes = self._bytes[:size], self._bytes[size:]
        return data

    def close(self) -> None:
        pass


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    made = Board()
    monkeypatch.setattr(page_server.serial, "Serial", made.open)
    return made


@pytest.fixture
def visit(chromium: Any, folder: Path, board: Board) -> Iterator[Visit]:
    """The page, which the board is for."""
    with PageServer(lambda: "scripted", folder=folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Visit(chromium, server.address) as opened:
            yield opened
            opened.page.click("#board")
            opened.expect("disconnected")
        server.shutdown()


def well(command: Message) -> bytes:
    """Answer as a board does that has nothing to show."""
    kind, payload = (Type.INFO_TEXT, INFO) if command.type == Type.INFO else (Type.STATUS, b"\0")
    return Message(kind, command.tag, payload).encode()


def test_another_version_is_said(visit: Visit, board: Board) -> None:
    def newer(command: Message) -> bytes:
        header = b"\xa5M" + bytes([VERSION + 1, Type.INFO_TEXT, command.tag]) + len(INFO).to_bytes(3, "little")
        header += struct.pack("<I", zlib.crc32(header))
        return header + INFO + struct.pack("<I", zlib.crc32(header + INFO))

    board.answer = newer
    visit.page.click("#board")
    visit.expect(f"The board's sketch has version {VERSION + 1} of the protocol, this page version {VERSION}: upload "
                 "the sketch that belongs to this page")
    board.answer = well  # the page asks again, for the right sketch may have come
    visit.expect("The board is connected")
    assert not visit.fault()


def test_frames_of_another_size_are_said(visit: Visit, board: Board) -> None:
    def small(command: Message) -> bytes:
        frame = Message(Type.DARK_FRAME, command.tag, bytes(8 + 2 * 60 * 50)).encode()
        return well(command) + (frame if command.type == Type.STREAM else b"")

    board.answer = small
    visit.page.click("#board")
    visit.expect("The board sent 6008 bytes as a frame of 160×120 pixels: upload the sketch that belongs to this page")


@pytest.mark.parametrize("tag", ["own", 0])
def test_a_damaged_command_is_sent_three_times(visit: Visit, board: Board, tag: Any) -> None:
    def garbled(command: Message) -> bytes:
        damaged = len(board.connections[-1]) <= 2
        status = Message(Type.STATUS, command.tag if tag == "own" else 0, bytes([DAMAGED]) + b"a message was damaged")
        return status.encode() if damaged else well(command)

    board.answer = garbled
    visit.page.click("#board")
    visit.expect("The board is connected")
    assert [command.type for command in board.connections[0][:4]] == [Type.INFO] * 3 + [Type.EXPOSURE]
    assert not visit.fault()


def test_a_command_that_is_always_damaged(visit: Visit, board: Board) -> None:
    status = Message(Type.STATUS, 0, bytes([DAMAGED]) + b"a message was damaged").encode()
    board.answer = lambda command: status
    visit.page.click("#board")
    visit.expect("The board says: a message was damaged")
    visit.page.wait_for_timeout(1000)
    assert len(board.connections) > 1 and {len(commands) for commands in board.connections[:-1]} == {3}


@pytest.mark.parametrize("width", [390, 1280])
def test_a_report_stays_while_frames_arrive(visit: Visit, board: Board, width: int, tmp_path: Path) -> None:
    def silent_once(command: Message) -> bytes:
        if command.type != Type.STREAM:
            return well(command)
        report = Message(Type.STATUS, command.tag, bytes([CAMERA_SILENT]) + b"the camera sends no picture")
        frames = [Message(kind, command.tag, struct.pack("<II", 7, 1000) + bytes([90]) * (size * 160 * 120))
                  for kind, size in ((Type.DARK_FRAME, 2), (Type.BRIGHT_FRAME, 3))]
        return well(command) + b"".join(message.encode() for message in (report, *frames))

    board.answer = silent_once
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.page.click("#board")
    visit.expect("Board, frame 7: ")
    assert visit.fault() == "The board says: the camera sends no picture"
    visit.check_access("board")
    visit.page.screenshot(path=tmp_path / f"board-{width}.png")
    visit.page.click("#mirror")
    assert not visit.fault()
