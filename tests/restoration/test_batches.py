"""Photographs of equal size in one batch: the results of one by one. On a CPU, since tests have no GPU."""
from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from commands import run
from PIL import Image
from skimage import data

from mirnet_torch import enhance, load_model
from mirnet_torch.enhance import main
from mirnet_torch.restoration.batches import Batches

SIZES = [(48, 64), (48, 64), (40, 33), (48, 64), (40, 33), (48, 64), (600, 500)]
PHOTOS = [np.ascontiguousarray(np.tile(data.astronaut(), (2, 1, 1))[20 * n:20 * n + height, :width]) // 4
          for n, (height, width) in enumerate(SIZES)]


@pytest.mark.parametrize("name", ["mcu", "photo"])
def test_a_command_in_batches_writes_the_same_files(capsys, monkeypatch, tmp_path, name):
    for number, photo in enumerate(PHOTOS):
        Image.fromarray(photo).save(tmp_path / f"{number}.png")
    Image.fromarray(PHOTOS[0][..., 0]).save(tmp_path / "grey.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10 ** 6)
    outcomes = []
    for batches in (False, True):
        monkeypatch.setattr(sys.modules[main.__module__], "faster_in_batches", lambda model: batches)
        result = run(capsys, main, tmp_path, "--out", tmp_path / "out", "--checkpoint", name, "--overwrite",
                     "--strength", "0.8", "--exposure", "0.5")
        outcomes.append((result, {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}))
    assert outcomes[0] == outcomes[1] and len(outcomes[0][1]) == 8


def test_those_that_wait_share_a_batch_and_only_the_bad_one_fails():
    """The device is held until all wait; then each size is one batch, in which one picture cannot be restored."""
    seen, started, go = [], threading.Event(), threading.Event()

    def restore(pixels, folder):
        started.set()
        assert go.wait(60)
        seen.append(pixels.shape)
        if (pixels == 255).all(axis=(-1, -2, -3)).any():
            raise FloatingPointError("too bright")
        return pixels // 2

    batches = Batches(restore, pixels=4 * 48 * 64)
    pictures = [*PHOTOS[:6], np.full((48, 64, 3), 255, np.uint8)]
    with ThreadPoolExecutor(len(pictures) + 1) as pool:
        first = pool.submit(batches, PHOTOS[6])
        assert started.wait(60)
        futures = [pool.submit(batches, picture) for picture in pictures]
        while len(batches._waiting) < len(pictures):
            pass
        go.set()
    np.testing.assert_array_equal(first.result(), PHOTOS[6] // 2)
    for picture, future in list(zip(pictures, futures))[:6]:
        np.testing.assert_array_equal(future.result(), picture // 2)
    with pytest.raises(FloatingPointError, match="too bright"):
        futures[6].result()
    assert (2, 40, 33, 3) in seen and max(shape[0] for shape in seen if len(shape) == 4) == 4


@pytest.mark.parametrize("name", ["mcu", "photo"])
def test_several_arrays_are_as_one_by_one(name):
    model, pictures = load_model(name), PHOTOS[:2]
    several = enhance(model, np.stack(pictures))
    assert several.dtype == np.uint8
    for result, picture in zip(several, pictures):
        assert np.abs(result.astype(int) - enhance(model, picture)).max() <= 1
