"""The server of `python firmware/viewer --page`, as browsers meet it."""
from __future__ import annotations

import contextlib
import http.client
import os
import pty
import socket
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, Iterator

import pytest
from browser import PAGE, Visit
from link import LinkError, open_port
from page_server import PageServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    """A server of the page's static files, without a board."""
    for path in (PAGE / "static").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with PageServer(lambda: "/dev/no-board", folder=tmp_path) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield opened
        opened.shutdown()


@contextlib.contextmanager
def upgraded(server: PageServer) -> Iterator[BinaryIO]:
    """Open a WebSocket by hand; test the answer and yield the stream of bytes."""
    host = f"localhost:{server.server_port}"
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(f"GET /board HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nUpgrade: websocket\r\n"
                           "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
        with connection.makefile("rwb", buffering=0) as stream:
            assert stream.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
            assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in list(iter(stream.readline, b"\r\n"))
            yield stream


def test_the_handshake_is_http_1_1(server: PageServer) -> None:
    """RFC 6455 asks for it, and Firefox takes nothing else."""
    with upgraded(server):
        pass


def test_a_close_is_answered_when_the_port_can_be_opened_again(server: PageServer) -> None:
    _, board = pty.openpty()
    server.find = lambda: os.ttyname(board)
    with upgraded(server) as stream:
        with pytest.raises(LinkError, match="in use"):
            for _ in range(100):  # the server opens it after its answer
                open_port(os.ttyname(board)).close()
                time.sleep(0.01)
        status = (1000).to_bytes(2, "big")
        stream.write(b"\x88\x82" + bytes(4) + status)
        assert stream.read(4) == b"\x88\x02" + status
        open_port(os.ttyname(board)).close()


def test_a_connection_serves_many_files_and_does_not_hold_the_server(server: PageServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.connect()
    first = connection.sock
    for name in ("/", "/style.css", "/icon.svg"):
        connection.request("GET", name)
        answer = connection.getresponse()
        assert (answer.status, answer.version) == (200, 11)
        assert len(answer.read()) == int(answer.headers["Content-Length"])
        assert connection.sock is first, "the connection was closed"
    started = time.monotonic()
    server.shutdown()
    server.server_close()
    assert time.monotonic() - started < 5
    connection.close()


def test_the_worker_reaches_no_other_origin(chromium: Any, folder: Path, site: str) -> None:
    """The policy inside index.html does not hold for it; the same one as a header does."""
    with PageServer(lambda: "/dev/no-board", folder=folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Visit(chromium, server.address) as visit:
            reach = "(address) => fetch(address, {mode: 'no-cors'}).then(() => 'reached', () => 'blocked')"
            [worker] = visit.page.workers
            assert worker.evaluate(reach, server.address) == "reached"
            assert worker.evaluate(reach, site) == "blocked"
        server.shutdown()
