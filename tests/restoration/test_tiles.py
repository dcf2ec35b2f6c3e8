"""Restoring in tiles: where they lie, how they fade, what they know of the whole picture, what memory they take."""
from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from golden import filled
from skimage import data

from mirnet_torch import PRESETS, MIRNet, MIRNetConfig, create_model, enhance
from mirnet_torch.restoration import inference
from mirnet_torch.restoration.picture import MEMORY, default_tile

PUBLISHED = MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1)
DARK = torch.rand(3, 3, 63, 65, generator=torch.Generator().manual_seed(0)) / 4


class Pointwise(torch.nn.Linear):
    """A network without context: the result must not depend on the tiles."""

    def __init__(self, config):
        super().__init__(1, 1)
        self.config = config

    def forward(self, image):
        return image.sqrt()


class Average(MIRNet):
    """A network of nothing but context: every pixel becomes the mean of what the network sees."""

    def forward(self, image):
        return image.mean((2, 3), keepdim=True).expand_as(image)


@pytest.fixture(scope="module")
def model():
    return filled(create_model("mcu")).eval()


@pytest.mark.parametrize("tile, overlap", [(32, 0), (32, 8), (32, 16), (33, 13), (40, 3), (64, 32), (100, 50)])
@pytest.mark.parametrize("config", [PUBLISHED, PRESETS["mcu"]], ids=["published", "mcu"])
def test_blending_is_exact_for_a_network_without_context(config, tile, overlap):
    network = Pointwise(config)
    image = torch.rand(2, 3, 63, 117, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(enhance(network.double(), image, tile=tile, overlap=overlap), image.sqrt(),
                               rtol=0, atol=1e-12)
    levels = (image[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    np.testing.assert_array_equal(enhance(network.float(), levels, tile=tile, overlap=overlap),
                                  enhance(network, levels, tile=0))


def test_tiles_fade_into_each_other():
    """Two tiles of a black and a white half: over the overlap the result is one linear slope, not a step."""
    image = torch.zeros(3, 64, 96)
    image[..., 48:] = 1
    row = enhance(Average(PUBLISHED), image, tile=64, overlap=32)[0, 0]
    left, right = image[0, 0, :64].mean(), image[0, 0, 32:].mean()
    torch.testing.assert_close(row[:32], left.expand(32))
    torch.testing.assert_close(row[64:], right.expand(32))
    torch.testing.assert_close(row.diff()[32:63], ((right - left) / 32).expand(31))


def test_a_tile_as_large_as_the_image_changes_nothing(model):
    assert torch.equal(enhance(model, DARK, tile=65), enhance(model, DARK, tile=0))


def test_tiles_know_the_means_of_the_whole_picture(monkeypatch):
    """With them tiles come much nearer to what the network makes of the whole picture than alone."""
    network = filled(MIRNet(MIRNetConfig(n_feat=16, n_RRG=1, n_MSRB=1)))
    image = torch.tensor(data.coffee()[::2, ::2].copy()).permute(2, 0, 1) / 255

    def difference():
        whole, tiled = (enhance(network, image, tile=tile) for tile in (0, 96))
        return float((whole - tiled).abs().mean()) * 255

    with_means = difference()  # 0.35 levels
    monkeypatch.setattr(inference, "means_of", lambda *_: None)
    assert 0 < with_means < difference() / 3  # 2.1 levels


def test_no_tile_is_larger_than_asked():
    seen = []

    class Spy(Pointwise):
        def forward(self, image):
            seen.append(tuple(image.shape[-2:]))
            return super().forward(image)

    enhance(Spy(PUBLISHED), np.zeros((130, 301, 3), np.uint8), tile=50, overlap=10)
    assert len(seen) == 3 * 8 and max(max(shape) for shape in seen) == 50


def test_large_images_are_tiled_by_default():
    paper, mcu = PRESETS["paper"], PRESETS["mcu"]
    assert default_tile(paper, (1, 3, 600, 600)) == 0
    assert default_tile(paper, (1, 3, 3000, 4000)) == 640
    assert default_tile(paper, (8, 3, 600, 600)) == 192
    assert default_tile(mcu, (1, 3, 3000, 4000)) == 0
    assert default_tile(MIRNetConfig(n_feat=4096, height=6), (1, 3, 3000, 4000)) == 64


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="measures the peak as Linux tells it")
def test_default_tile_keeps_its_promise():
    """The memory that one tile takes, in a process of its own, is what `default_tile` counts on.

    The least of three: eight processes took 1,130 to 1,430 bytes a pixel, and one, beside other work, 1,660.
    """
    code = """if True:
        import re, torch
        from mirnet_torch import MIRNet, MIRNetConfig
        torch.set_num_threads(1)
        model = MIRNet(MIRNetConfig(n_feat=16, n_RRG=1, n_MSRB=1)).eval()
        peak = lambda: 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
        with torch.no_grad():
            model(torch.rand(1, 3, 8, 8))
            before = peak()
            model(torch.rand(1, 3, 384, 384))
        print((peak() - before) / 384 ** 2)"""
    taken = min(float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
                for _ in range(3))
    side = default_tile(MIRNetConfig(n_feat=16), (1, 3, 5000, 5000))
    assert side and 0.5 * MEMORY < taken * side ** 2 < 1.1 * MEMORY


@pytest.mark.parametrize("tile, overlap", [(4, 0), (7, 0), (-8, 0), (32, 17), (32, -1)])
def test_tiles_that_cannot_be_are_refused(tile, overlap):
    with pytest.raises(ValueError, match="tile"):
        enhance(Pointwise(PUBLISHED), DARK, tile=tile, overlap=overlap)
