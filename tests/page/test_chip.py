"""What the page says that the chip computes, against tflite-micro and the Python that equals the sketch."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from browser import WEIGHTS, Visit, differences
from parity_table import TABLE
from PIL import Image
from skimage import data
from yuv422 import from_yuyv, to_yuyv

from conversion.bridge.graph import read_graph
from conversion.mirnet.pixels import apply_maps, head_tables, model_input
from mirnet_torch.files.images import to_tensor
from mirnet_torch.restoration.full_size import box_filter, to_levels


@pytest.mark.parametrize("photograph, brightness", [("coffee", 0.15), ("chelsea", 0.05), ("astronaut", 1.0),
                                                    ("rocket", 0.4)])
def test_int8_maps_and_pictures(visit: Visit, tmp_path: Path, photograph: str, brightness: float) -> None:
    micro = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    path = tmp_path / "dark.png"
    picture = (getattr(data, photograph)() * brightness).round().astype(np.uint8)
    Image.fromarray(picture).save(path)
    exposure = 4
    result = visit.page.evaluate("""async ([bytes, exposure]) => {
        const worker = new Worker("worker.js");
        const ask = (message) => new Promise((resolve, reject) => {
            worker.onmessage = ({data: {result, fault}}) => fault ? reject(new Error(fault)) : resolve(result);
            worker.postMessage({id: 1, ...message});
        });
        await ask({task: "open", exposure: 0, file: new File([Uint8Array.from(bytes)], "dark.png")});
        const {maps, dark, int8, float} = await ask({task: "chip", exposure});
        worker.terminate();
        return {maps: [...maps], dark: [...dark.data], int8: [...int8.data], float: [...float.data]};
    }""", [list(path.read_bytes()), exposure / 8])
    dark, chip = (np.array(result[name], np.uint8).reshape(120, 160, 4)[..., :3] for name in ("dark", "int8"))
    maps = np.array(result["maps"], np.int8).reshape(24, 32, 15)
    rows, columns = picture.shape[:2]
    height, width = min(rows, round(columns * 3 / 4)), min(columns, round(rows * 4 / 3))
    top, left = (rows - height) // 2, (columns - width) // 2
    centre = to_tensor(picture[top:top + height, left:left + width].copy())[None]
    shrunk = to_levels(box_filter(centre, 120, 160), torch.uint8)[0].permute(1, 2, 0).numpy()
    mean, largest = differences(dark, from_yuyv(to_yuyv(shrunk)))
    assert mean < 0.02 and largest <= 3, "what the board makes of the frame, but for rounding"

    interpreter = micro.Interpreter.from_bytes((WEIGHTS / "mcu_int8.tflite").read_bytes(), arena_size=1 << 20)
    interpreter.set_input(model_input(dark, cell=5)[None], 0)
    interpreter.invoke()
    truth = interpreter.get_output(0)[0]
    differing = np.count_nonzero(maps != truth)
    TABLE.append(("mcu", f"tflite-micro -> the page, maps of {photograph}", f"{differing} codes differ", "0"))
    np.testing.assert_array_equal(maps, truth)

    output = next(tensor for tensor in read_graph(WEIGHTS / "mcu_int8.tflite").outputs)
    tables = head_tables(output.scale, output.zero_point, cell=5)
    np.testing.assert_array_equal(chip, apply_maps(dark, truth, tables, exposure=exposure))


def test_the_chip_beside_floating_point(visit: Visit, tmp_path: Path) -> None:
    path = tmp_path / "dark.png"
    Image.fromarray(data.coffee() // 6).save(path)
    visit.open(path)
    visit.page.click("#show-chip")
    words = visit.page.locator("#chip-words")
    words.filter(has_text="levels of 255 in the mean").wait_for()
    said = words.inner_text()
    float32, int8, shown = (visit.pixels(f"#chip-{name}").astype(int) for name in ("float", "int8", "difference"))
    np.testing.assert_array_equal(shown, np.minimum(16 * np.abs(float32 - int8), 255))
    assert 0 < np.abs(float32 - int8).mean() < 8
    visit.expose(1)
    words.filter(has_not_text=said).wait_for()
    assert visit.pixels("#chip-int8").mean() > int8.mean() + 1, "the slider acts on the chip's picture too"
    visit.page.click("#show-chip")
    visit.page.locator("#view").wait_for()
    assert visit.page.locator("#chip").is_hidden()
