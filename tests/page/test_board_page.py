"""The board on the page: the sketch's own code, simulated, behind the bridge of `python firmware/viewer --page`."""
from __future__ import annotations

import http.client
import random
from pathlib import Path
from typing import Any

import numpy as np
import page_server
import pytest
import serial
from browser import Visit, frame_after, stands_still, until
from link import InputError
from page_server import PageServer
from simulator import Simulator


def test_thirty_frames_an_unplug_and_the_controls(chromium: Any, server: PageServer, board: Simulator,
                                                  tmp_path: Path) -> None:
    with Visit(chromium, server.address) as visit:
        visit.page.click("#board")
        frame_after(visit, 15)
        board.unplug()
        visit.expect("The board is away .*waiting for it to come back")
        board.plug()
        visit.expect("Board, frame [0-9]:")
        frame_after(visit, 15)
        dim = visit.pixels("#after")
        assert dim.shape == (120, 160, 3) and dim.mean() > 2 * visit.pixels("#before").mean()

        visit.expose(-2)
        until(visit, lambda: visit.pixels("#after").mean() < 0.9 * dim.mean())
        visit.page.click("#self-test")
        visit.page.locator("#self-test-words").filter(has_text="Self-test passed: 0 of ").wait_for()
        rows = visit.pixels("#before").mean((1, 2))
        visit.page.click("#flip")
        until(visit, lambda: np.corrcoef(visit.pixels("#before").mean((1, 2)), rows[::-1])[0, 1] > 0.95)
        visit.page.select_option("#night", "4")
        visit.page.select_option("#gain", "16")
        frame_after(visit, frame_after(visit, 0) + 2)
        visit.page.click("#test-picture")
        until(visit, lambda: stands_still(visit))
        assert visit.save(tmp_path).name == "board.png"
        visit.page.click("#board")
        visit.expect("The board is disconnected")


def test_a_garbled_stream_shows_no_wrong_frame(chromium: Any, server: PageServer,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)

    class Garbled(serial.Serial):
        def read(self, size: int = 1) -> bytes:
            data = super().read(size)
            if rng.random() < len(data) / 200_000:  # one wrong, missing or additional byte
                at = rng.randrange(len(data))
                return data[:at] + rng.choice((b"", b"\xa5M\x02", bytes([data[at] ^ 16]))) + data[at + 1:]
            return data

    monkeypatch.setattr(page_server.serial, "Serial", Garbled)
    with Visit(chromium, server.address) as visit:
        visit.page.click("#board")
        visit.page.click("#test-picture")
        frame_after(visit, 10)
        until(visit, lambda: stands_still(visit))
        dark, bright = visit.pixels("#before"), visit.pixels("#after")
        frame_after(visit, 30)
        np.testing.assert_array_equal(visit.pixels("#before"), dark)
        np.testing.assert_array_equal(visit.pixels("#after"), bright)


def test_no_webserial_is_said(chromium: Any, site: str) -> None:
    with Visit(chromium, site) as visit:
        visit.page.evaluate("Object.defineProperty(navigator, 'serial', {value: undefined})")
        visit.page.click("#board")
        visit.expect(r"This browser cannot talk to a board \(no WebSerial\): use Chrome or Edge")


@pytest.mark.parametrize("host, origin", [("localhost", "http://other.example"),
                                          ("other.example", "http://other.example")])
def test_other_pages_get_no_board(server: PageServer, host: str, origin: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", "/board", headers={"Host": host, "Origin": origin, "Upgrade": "websocket",
                                                 "Connection": "Upgrade", "Sec-WebSocket-Key": "AAAA"})
    assert connection.getresponse().status == 403
    connection.close()


def test_a_page_that_is_not_built_and_a_port_that_is_taken(server: PageServer, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no page: build it with `make page`"):
        PageServer(str, folder=tmp_path)
    with pytest.raises(InputError, match=f"port {server.server_port} cannot be used"):
        PageServer(str, folder=folder, port=server.server_port)
