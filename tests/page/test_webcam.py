"""The webcam on the page: live, as `enhance` does it with a smaller copy."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Visit, differences

from mirnet_torch import enhance, full_size, load_model


def test_live(chromium: Any, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Visit(chromium, site, permissions=["camera"]) as visit:
        visit.page.click("#webcam")
        visit.expect("frames a second")
        visit.page.wait_for_timeout(2000)
        line = visit.expect("Webcam 640×480: .* frames a second")
        print(line)
        assert float(line.split(": ")[1].split()[0]) > 0
        visit.page.click("#webcam")
        visit.expect("has stopped")
        visit.page.wait_for_timeout(300)
        before, after = visit.pixels("#before"), visit.pixels("#after")
        monkeypatch.setattr(full_size, "COPY_PIXELS", 240 * 160)
        mean, largest = differences(after, enhance(load_model("mcu"), before))
        assert mean <= 0.5 and largest <= 3
        saved = visit.save(tmp_path)
        assert saved.name == "webcam.png"
        visit.page.wait_for_timeout(300)
        np.testing.assert_array_equal(visit.pixels("#before"), before)


def test_refused(chromium: Any, site: str) -> None:
    with Visit(chromium, site, permissions=[]) as visit:
        visit.page.click("#webcam")
        visit.expect("was not allowed to use the webcam|There is no webcam")
        assert visit.page.locator("#status.fault").count() == 1
