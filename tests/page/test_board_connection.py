"""How the page comes to a board, and back to it."""
from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
from browser import Visit, frame_after, until
from link import BOARDS, open_port
from page_server import PageServer
from PIL import Image
from simulator import Simulator
from skimage import data


def test_a_board_that_is_plugged_in_later(chromium: Any, server: PageServer, board: Simulator) -> None:
    """It is shown as one that was there before; and the camera obeys this page, not the one before it."""
    board.unplug()
    with Visit(chromium, server.address) as visit:
        visit.page.click("#board")
        visit.expect("The board is away .*waiting for it to come back")
        board.plug()
        frame_after(visit, 0)
        assert visit.page.locator("#view").is_visible() and visit.page.locator("#empty").is_hidden()
        assert visit.page.locator("#save").is_enabled() and visit.page.locator("#exposure").is_enabled()

        def alike(rows: np.ndarray) -> bool:
            return bool(np.corrcoef(visit.pixels("#before").mean((1, 2)), rows)[0, 1] > 0.95)

        rows = visit.pixels("#before").mean((1, 2))
        visit.page.click("#flip")
        until(visit, lambda: alike(rows[::-1]))
        visit.page.reload()
        visit.expect("^Ready")
        visit.page.click("#board")
        frame_after(visit, frame_after(visit, 0) + 2)
        assert alike(rows)


def test_a_photograph_ends_the_wait_for_a_board(chromium: Any, server: PageServer, board: Simulator,
                                                tmp_path: Path) -> None:
    board.unplug()
    Image.fromarray(data.coffee() // 6).save(tmp_path / "cup.png")
    with Visit(chromium, server.address) as visit:
        visit.page.click("#board")
        visit.expect("The board is away")
        visit.open(tmp_path / "cup.png")
        board.plug()
        visit.page.wait_for_timeout(2000)
        visit.expect(r"^cup\.png: 600×400")
        assert visit.page.locator("#camera").is_hidden() and visit.page.locator("#board").inner_text() == "Board"
        assert visit.pixels("#before").shape == (400, 600, 3)


def test_a_port_that_another_program_holds(chromium: Any, server: PageServer, board: Simulator) -> None:
    """The page names the fix, and goes on as soon as the port is free."""
    with open_port(board.port):
        with Visit(chromium, server.address) as visit:
            visit.page.click("#board")
            visit.expect("is in use: close other programs that use it")
            assert "away" not in visit.page.locator("#words").inner_text()
    script = (Path(__file__).parent / "fake_serial.js").read_text()
    with Visit(chromium, server.address.partition("?")[0], script=script) as visit:
        visit.page.evaluate("ports.at(-1).taken = true")
        visit.page.click("#board")
        visit.expect("The board's port does not open: close other programs .* dialout")
        visit.page.evaluate("ports.at(-1).taken = false")
        frame_after(visit, 0)
        assert not visit.fault()


def test_silence_is_said(chromium: Any, server: PageServer, board: Simulator) -> None:
    with Visit(chromium, server.address) as visit:
        visit.page.click("#board")
        last = frame_after(visit, 1)
        board._process.send_signal(signal.SIGSTOP)
        visit.expect("The board has sent no picture for 5 seconds")
        assert "frames a second" not in visit.page.locator("#words").inner_text()
        board._process.send_signal(signal.SIGCONT)
        frame_after(visit, last + 1)
        assert not visit.fault()


def test_disconnect_and_board_again_at_once(chromium: Any, server: PageServer, board: Simulator) -> None:
    board.unplug()
    with Visit(chromium, server.address) as visit:
        sockets: list[Any] = []
        visit.page.on("websocket", lambda socket: sockets.append(socket))
        visit.page.click("#board")
        visit.expect("The board is away")
        visit.page.click("#board")
        assert visit.expect("board is") == "The board is disconnected."
        visit.expose(1)
        visit.page.wait_for_timeout(100)
        assert visit.expect("board is") == "The board is disconnected."
        visit.page.click("#board")
        visit.page.wait_for_timeout(1500)
        board.plug()
        frame_after(visit, 2)
        assert [socket.is_closed() for socket in sockets].count(False) == 1
        visit.page.click("#board")
        visit.expect("The board is disconnected")
        visit.page.wait_for_timeout(1000)
        assert all(socket.is_closed() for socket in sockets)


def test_webserial(chromium: Any, server: PageServer, board: Simulator) -> None:
    """The page's code for WebSerial; only the port is ours."""
    script = (Path(__file__).parent / "fake_serial.js").read_text()
    with Visit(chromium, server.address.partition("?")[0], script=script) as visit:
        visit.page.click("#board")
        frame_after(visit, 10)
        assert visit.page.evaluate("asked") == [[{"usbVendorId": vendor, "usbProductId": product}
                                                 for vendor, product in sorted(BOARDS)]]
        visit.expose(-2)
        board.unplug()
        visit.expect(r"The board is away \(The device has been lost\.\): waiting for it to come back")
        visit.page.wait_for_timeout(1000)
        board.plug()
        visit.page.evaluate("plug()")
        frame_after(visit, 2)
        visit.page.click("#board")
        visit.expect("The board is disconnected")
        visit.page.click("#board")
        frame_after(visit, 0)
        assert visit.page.evaluate("opened") == [0x805A] * 3
