"""The service worker: the page without its server, and beside other pages and builds of the same origin."""
from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path
from typing import Any, Iterator

import pytest
from browser import Visit, serve
from page_server import PageServer
from PIL import Image

READY = "navigator.serviceWorker.ready.then(() => {})"


@pytest.fixture
def copies(folder: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address and the folder of an origin with two builds of the page, in one/ and one/two/."""
    shutil.copytree(folder, tmp_path / "one")
    shutil.copytree(folder, tmp_path / "one" / "two")
    renew(tmp_path / "one" / "two")
    with serve(tmp_path) as address:
        yield address, tmp_path


def renew(page: Path) -> None:
    """Change a page as a new build does: a file, here the title, and the version in the service worker."""
    index, worker = page / "index.html", page / "sw.js"
    index.write_text(index.read_text().replace("<title>", "<title>New "))
    text, count = re.subn(r"[0-9a-f]{16}(?=[\"`])", "0123456789abcdef", worker.read_text())
    assert count == 1
    worker.write_text(text)


def test_offline_after_the_first_visit(chromium: Any, site: str, tmp_path: Path) -> None:
    path = tmp_path / "cup.png"
    Image.new("RGB", (300, 200), "navy").save(path)
    with Visit(chromium, site) as visit:
        visit.page.evaluate(READY)
        visit.context.set_offline(True)
        visit.page.reload()
        visit.expect("^Ready")
        visit.open(path)


def test_two_pages_of_an_origin_keep_their_own_files(chromium: Any, copies: tuple[str, Path]) -> None:
    address, _ = copies
    with Visit(chromium, address + "one/") as visit:
        visit.page.evaluate(READY)
        visit.page.goto(address + "one/two/")
        visit.expect("^Ready")
        visit.page.evaluate(READY)
        visit.context.set_offline(True)
        for name, title in (("one/", "MIRNet"), ("one/two/", "New MIRNet")):
            visit.page.goto(address + name)
            visit.expect("^Ready")
            assert visit.page.title().startswith(title)


def test_an_open_page_gets_no_files_of_a_new_build(chromium: Any, copies: tuple[str, Path]) -> None:
    address, folder = copies
    title = """fetch("index.html").then((answer) => answer.text())
        .then((text) => text.includes("<title>New") ? "New" : "Old")"""
    with Visit(chromium, address + "one/") as visit:
        visit.page.evaluate(READY)
        visit.page.reload()
        visit.expect("^Ready")
        renew(folder / "one")
        visit.page.evaluate("navigator.serviceWorker.ready.then((registration) => registration.update())")
        visit.page.wait_for_timeout(2000)
        assert visit.page.evaluate(title) == "Old"
        visit.page.goto("about:blank")
        visit.page.wait_for_timeout(1000)
        visit.page.goto(address + "one/")
        visit.expect("^Ready")
        assert visit.page.evaluate(title) == "New"


def test_the_page_of_the_bridge_is_not_kept(chromium: Any, folder: Path) -> None:
    """Its port is other projects' too, and each build is to be seen at once."""
    with PageServer(lambda: "/dev/no-board", folder=folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Visit(chromium, server.address.partition("?")[0]) as visit:
            count = "navigator.serviceWorker.getRegistrations().then((found) => found.length)"
            visit.page.evaluate(READY)
            assert visit.page.evaluate(count) == 1
            visit.page.goto(server.address)
            visit.page.wait_for_timeout(2000)
            visit.expect("^Ready")
            assert visit.page.evaluate(count) == 0
            assert not visit.page.evaluate("Boolean(navigator.serviceWorker.controller)")
        server.shutdown()
