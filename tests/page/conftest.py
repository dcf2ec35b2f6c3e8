"""The page in a real Chromium: built once, served on localhost, and watched for errors and requests to other places."""
from __future__ import annotations

import os
import shutil
import subprocess
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pytest
from browser import PAGE, ROOT, WEIGHTS, Visit, serve, write_film
from page_server import PageServer
from PIL import Image
from simulator import Simulator
from skimage import data


def missing(what: str) -> None:
    """Skip with the reason; in CI, where nothing may be missing, fail."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built page."""
    node = shutil.which("node")
    if node is None:
        missing("the page is built by node: install nodejs and npm")
    if not (PAGE / "node_modules" / "esbuild").is_dir():
        missing(f"the page's packages are not installed: run npm ci in {PAGE.relative_to(ROOT)}")
    made = tmp_path_factory.mktemp("page") / "page"
    models = [WEIGHTS / f"mcu_{kind}.tflite" for kind in ("float32", "int8")]
    subprocess.run([str(node), PAGE / "build.mjs", *models, made], check=True)
    return made


@pytest.fixture(scope="session")
def site(folder: Path) -> Iterator[str]:
    """The address of the page on a server that knows nothing but files."""
    with serve(folder) as address:
        yield address


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium whose webcam is a film of ours."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("the browser is driven by playwright: pip install playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        missing("there is no chromium, chromium-browser or google-chrome on the PATH: install one")
    with sync_playwright() as playwright:
        film = tmp_path_factory.mktemp("film") / "dark.y4m"
        write_film(film)
        browser = playwright.chromium.launch(executable_path=program, args=[
            "--no-sandbox", "--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={film}"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(chromium: Any, site: str) -> Iterator[Visit]:
    with Visit(chromium, site) as opened:
        yield opened


@pytest.fixture
def visit(tab: Visit) -> Iterator[Visit]:
    """The page, ready. After a test: no error in its console, and no request to anything but its origin."""
    tab.expose(0)
    yield tab
    tab.check()


@pytest.fixture
def board() -> Iterator[Simulator]:
    """The sketch on this computer; its camera shows a dark cup that moves."""
    if shutil.which("g++") is None:
        missing("g++ is not installed")
    if find_spec("tflite_micro") is None:
        missing("tflite-micro is not installed")
    dark = np.asarray(Image.fromarray(data.coffee() // 6).resize((160, 120)))
    shifts = iter(range(0, 10 ** 9, 2))
    simulator = Simulator(lambda: np.roll(dark, -next(shifts), axis=1), fast=False)
    yield simulator
    simulator.close()


@pytest.fixture
def server(board: Simulator, folder: Path) -> Iterator[PageServer]:
    """The server of `python firmware/viewer --page --simulate`."""
    with PageServer(lambda: board.port, folder=folder) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield opened
        opened.shutdown()
