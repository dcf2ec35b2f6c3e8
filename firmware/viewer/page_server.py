"""Serve the built page on this computer, and carry the bytes of the board's port to it and back over a WebSocket.

The page talks to a board by itself where the browser has WebSerial. This bridge is for the simulator and for other
browsers. It listens on localhost only and accepts no page but its own: other pages in the same browser could ask too.
The WebSocket is the part of RFC 6455 that one page and binary messages need.
"""
from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import re
import struct
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Callable

import serial
from link import InputError, LinkError, Unplugged, open_port

PAGE = Path(__file__).resolve().parents[2] / "build" / "page"
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10  # kinds of frames
PORT_GONE, PORT_REFUSED = 4000, 4001  # of the codes that a program may choose; link.js knows the second
LONGEST = 1 << 20  # bytes of a message
SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # of RFC 6455


class PageServer(ThreadingHTTPServer):
    """The page's server; `address` is what to open.

    Args:
        find: returns the board's port, or raises LinkError while there is none.
        folder: of the built page.
        port: to listen on; 0: any.

    Raises:
        InputError: the page is not built, or the port is taken.
    """

    daemon_threads = True

    def __init__(self, find: Callable[[], str], *, folder: Path = PAGE, port: int = 0) -> None:
        if not (folder / "index.html").is_file():
            raise InputError(f"{folder} has no page: build it with `make page`")
        self.find = find
        self.policy = _policy(folder / "index.html")
        try:
            super().__init__(("127.0.0.1", port), functools.partial(_Handler, directory=str(folder)))
        except OSError as error:
            raise InputError(f"port {port} cannot be used: {error.strerror}; choose another with --page-port"
                             ) from error
        self.address = f"http://localhost:{self.server_port}/?bridge"


def _policy(page: Path) -> str:
    """Return the Content-Security-Policy that a page names for itself; its workers take theirs from a header only."""
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page.read_text(encoding="utf-8"))
    if found is None:
        raise InputError(f"{page} names no Content-Security-Policy: build it again with `make page`")
    return found[1]


class _Handler(SimpleHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"  # Firefox opens no WebSocket over 1.0

    def log_message(self, *arguments: Any) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", self.server.policy)
        super().end_headers()

    def do_GET(self) -> None:
        if self.headers.get("Upgrade", "").lower() != "websocket":
            super().do_GET()
            return
        host = self.headers.get("Host", "")
        if host.partition(":")[0] not in ("localhost", "127.0.0.1") or self.headers.get("Origin") != f"http://{host}":
            self.send_error(403, "only the page of this server may talk to the board")
            return
        key = self.headers.get("Sec-WebSocket-Key", "").encode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key + SUFFIX).digest()).decode())
        self.end_headers()
        self.close_connection = True
        _Socket(self.rfile, self.wfile).carry(self.server.find)


class _Socket:
    def __init__(self, incoming: IO[bytes], outgoing: Any) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._lock = threading.Lock()
        self._closed = False  # nothing may follow a frame that closes

    def carry(self, find: Callable[[], str]) -> None:
        """Carry bytes until the page or the port is gone."""
        try:
            port = open_port(find(), write_timeout=5)
        except LinkError as error:
            self._close(str(error), PORT_GONE if isinstance(error, Unplugged) else PORT_REFUSED)
            return
        done = threading.Event()
        reader = threading.Thread(target=self._from_port, args=(port, done), daemon=True)
        reader.start()
        status = None
        try:
            status = self._to_port(port)
        except (OSError, EOFError, ValueError):
            pass  # the page or the port is gone
        done.set()
        reader.join()
        port.close()
        if status is not None:  # answered now: whoever has read it can open the port again
            with contextlib.suppress(OSError):
                self._send(CLOSE, status)

    def _from_port(self, port: serial.Serial, done: threading.Event) -> None:
        try:
            while not done.is_set():
                data = port.read(max(1, port.in_waiting))
                if data:
                    self._send(BINARY, data)
        except (OSError, TypeError):  # of the port or of the page
            self._close("it was unplugged")

    def _to_port(self, port: serial.Serial) -> bytes:
        """Carry bytes until the page closes the connection; return its status."""
        while True:
            kind, data = self._receive()
            if kind == CLOSE:
                return data[:2]
            if kind == PING:
                self._send(PONG, data)
            elif kind == BINARY:
                port.write(data)

    def _receive(self) -> tuple[int, bytes]:
        """Return the kind and the content of a frame. Raises EOFError at the end, ValueError for one too long."""
        first, second = self._read(2)
        length = second & 127
        if length > 125:
            length = int.from_bytes(self._read(2 if length == 126 else 8), "big")
        if length > LONGEST or not second & 128:
            raise ValueError("a frame is too long or not masked")
        mask, data = self._read(4), self._read(length)
        return first & 15, bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))

    def _read(self, size: int) -> bytes:
        data = self._incoming.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def _send(self, kind: int, data: bytes) -> None:
        size = len(data)
        length = bytes([size]) if size < 126 else struct.pack(">BH", 126, size) if size < 65536 else \
            struct.pack(">BQ", 127, size)
        with self._lock:
            if self._closed:
                return
            self._closed = kind == CLOSE
            self._outgoing.write(bytes([128 | kind]) + length + data)

    def _close(self, reason: str, status: int = PORT_GONE) -> None:
        try:
            self._send(CLOSE, struct.pack(">H", status) + reason.encode()[:120])
        except OSError:
            pass  # the page is gone too
