"""What the page says when its worker or the memory is gone."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from browser import Visit
from PIL import Image

MEMORY = "There is not enough memory for this picture: close other tabs, or make the picture smaller."


def test_a_lack_of_memory_is_said_in_words(chromium: Any, site: str, tmp_path: Path) -> None:
    path = tmp_path / "cup.png"
    Image.new("RGB", (300, 200), "navy").save(path)
    with Visit(chromium, site) as visit:
        visit.open(path)
        visit.page.workers[0].evaluate("""() => {
            self.OffscreenCanvas = function () { throw new RangeError("Array buffer allocation failed"); };
        }""")
        visit.page.click("#save")
        assert visit.expect("memory|failed") == MEMORY


WORKER = """
window.Worker = class extends Worker {
    constructor(name) {
        super(window.workerName ?? name);
        window.worker = this;
    }
};
"""


def test_a_worker_that_does_not_load(chromium: Any, site: str, tmp_path: Path) -> None:
    """What is asked of it later is refused at once too."""
    path = tmp_path / "cup.png"
    Image.new("RGB", (300, 200), "navy").save(path)
    with Visit(chromium, site, script=WORKER + "window.workerName = 'absent.js';", ready="The page's worker") as visit:
        visit.page.evaluate("document.querySelector('#fault').textContent = ''")
        visit.page.set_input_files("#file", path)
        assert visit.expect("worker has stopped") == visit.fault() == "The page's worker has stopped: reload the page."
        visit.errors.clear()  # absent.js is absent


def test_what_a_broken_worker_still_answers_is_ignored(chromium: Any, site: str) -> None:
    with Visit(chromium, site, script=WORKER) as visit:
        visit.page.evaluate("""() => {
            worker.dispatchEvent(new ErrorEvent("error", {cancelable: true}));
            worker.dispatchEvent(new MessageEvent("message", {data: {id: 1, result: {}}}));
        }""")
