"""The page itself: its size and models, for keyboards and screen readers, and how it looks."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from browser import WEIGHTS, Visit
from PIL import Image
from skimage import data


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    Image.fromarray(data.coffee() // 6).save(tmp_path / "cup.png")
    return tmp_path / "cup.png"


def test_size_and_models(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 15e6
    listed = json.loads((folder / "models.json").read_text())
    assert sorted(listed) == ["float32", "int8"]
    for model in listed.values():
        shipped = WEIGHTS / f"mcu_{model['file']}"
        assert hashlib.sha256(shipped.read_bytes()).hexdigest() == model["sha256"]
        assert (folder / model["file"]).read_bytes() == shipped.read_bytes()


def test_keyboard(visit: Visit, photograph: Path) -> None:
    visit.open(photograph)
    before = visit.pixels("#after").mean()
    visit.page.focus("#exposure")
    for _ in range(8):
        visit.page.keyboard.press("ArrowRight")
    assert visit.page.locator("#exposure-value").inner_text() == "+1.00 EV"
    visit.page.wait_for_timeout(1000)
    assert visit.pixels("#after").mean() > before
    visit.page.focus("#divider")
    at = visit.page.input_value("#divider")
    visit.page.keyboard.press("PageUp")
    assert visit.page.input_value("#divider") != at


@pytest.mark.parametrize("width", [390, 1280])
def test_accessible_and_fitting(chromium: Any, site: str, photograph: Path, width: int, tmp_path: Path) -> None:
    with Visit(chromium, site) as visit:
        visit.page.set_viewport_size({"width": width, "height": 800})
        visit.context.grant_permissions(["camera"])
        for state in ("empty", "photograph", "chip", "webcam"):
            if state == "photograph":
                visit.open(photograph)
            elif state == "chip":
                visit.page.click("#show-chip")
                visit.page.locator("#chip").wait_for()
            elif state == "webcam":
                visit.page.click("#webcam")
                visit.expect("frames a second")
            visit.check_access(state)
            visit.page.screenshot(path=tmp_path / f"{state}-{width}.png")
