"""Photographs larger than the copy that the network sees: where factors lie, memory, every kind of input."""
from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import filled
from PIL import Image
from skimage import data
from torch.utils._python_dispatch import TorchDispatchMode

from mirnet_torch import CompactConfig, CompactMIRNet, enhance, load_model
from mirnet_torch.measures.metrics import psnr
from mirnet_torch.model import pad_image
from mirnet_torch.restoration import full_size
from mirnet_torch.restoration.full_size import COPY_PIXELS, box_filter, copy_size, in_threads, restore_full_size, sample

MODEL = filled(CompactMIRNet()).eval()
LARGE = torch.rand(2, 3, 500, 703, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 4


@pytest.mark.parametrize("height, width", [(1, 1), (2, 3), (63, 65), (360, 480)])
def test_without_shrinking_it_is_the_network(height, width):
    model, images = filled(CompactMIRNet()).double(), torch.rand(2, 3, height, width, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(restore_full_size(model, images), model(images).clamp(0, 1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("height, width", [(40, 60), (33, 48)], ids=["whole cells", "padded"])
@pytest.mark.parametrize("config", [CompactConfig(), CompactConfig(in_channels=1, cell=4)], ids=["mcu", "grey"])
def test_factors_lie_where_their_cells_are(monkeypatch, config, height, width):
    """Every pixel three times along both sides: the copy is the small image, each cell three times as large."""
    monkeypatch.setattr(full_size, "COPY_PIXELS", height * width)
    model = filled(CompactMIRNet(config)).double()
    small = torch.rand(1, config.in_channels, height, width, dtype=torch.float64)
    large = small.repeat_interleave(3, -1).repeat_interleave(3, -2)
    with torch.inference_mode():
        factors = model.factors(model.core(model.to_core(pad_image(small, config.in_channels, model.multiple))))
        factors = F.interpolate(factors, scale_factor=3 * config.cell, mode="bilinear")
        expected = model.recolour(large, factors[..., :3 * height, :3 * width]).clamp(0, 1)
    torch.testing.assert_close(restore_full_size(model, large), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("height, width, rows, columns", [(7, 9, 5, 4), (12, 12, 4, 6), (5, 5, 5, 5), (4, 30, 1, 7)])
def test_the_copy_is_box_filtered(height, width, rows, columns):
    images = torch.rand(2, 3, height, width, dtype=torch.float64)
    fine = images.repeat_interleave(rows, -2).repeat_interleave(columns, -1)
    torch.testing.assert_close(box_filter(images, rows, columns), F.avg_pool2d(fine, (height, width)))
    levels = (images * 255).round().to(torch.uint8)
    torch.testing.assert_close(box_filter(levels, rows, columns), box_filter(levels / 255, rows, columns))


@pytest.mark.parametrize("height, width", [
    (3000, 4000), (361, 480), (2, 90_000), (90_000, 2), (361, 479), (360, 480), (30, 40)])
def test_the_copy_has_its_size_and_the_aspect(height, width):
    rows, columns = copy_size(height, width)
    if height * width <= COPY_PIXELS:
        assert (rows, columns) == (height, width)
    else:
        assert 1 <= rows <= height and 1 <= columns <= width and rows * columns <= 1.05 * COPY_PIXELS
        scale = (COPY_PIXELS / height / width) ** 0.5
        assert abs(rows - height * scale) <= 0.5 and abs(columns - width * scale) <= 0.5


@pytest.mark.parametrize("pixels", [1, 5_000, 10 ** 9])
def test_strips_leave_no_trace(monkeypatch, pixels):
    expected = restore_full_size(MODEL, LARGE)
    monkeypatch.setattr(full_size, "STRIP_PIXELS", pixels)
    torch.testing.assert_close(restore_full_size(MODEL, LARGE), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype, step", [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 2 ** -7)])
def test_tensors_keep_type_and_batch(dtype, step):
    images = LARGE.to(dtype)
    kept, threads = images.clone(), torch.get_num_threads()
    result = enhance(MODEL, images)
    assert result.dtype == dtype and result.shape == images.shape and not result.requires_grad
    assert torch.equal(images, kept) and torch.get_num_threads() == threads
    torch.testing.assert_close(result[1], enhance(MODEL, images[1]), rtol=0, atol=step)
    torch.testing.assert_close(result.double(), restore_full_size(MODEL, images.double()), rtol=0, atol=step)


@pytest.mark.parametrize("dtype, white", [(np.uint8, 255), (np.uint16, 65535)])
def test_levels_are_the_rounded_values(dtype, white):
    levels = (LARGE[0].permute(1, 2, 0).numpy() * white).round().astype(dtype)
    exact = enhance(MODEL, torch.from_numpy(levels / white).permute(2, 0, 1)).permute(1, 2, 0).numpy() * white
    for given in (levels, levels[::-1][::-1], np.asfortranarray(levels)):
        given.flags.writeable = False
        result = enhance(MODEL, given)
        assert result.dtype == dtype and result.shape == levels.shape
        assert np.abs(result - exact).max() <= 0.5 + white * 2e-6
    grey = levels[..., 1]
    result = enhance(MODEL, grey)
    assert result.dtype == dtype and result.shape == grey.shape
    rgb = enhance(MODEL, np.repeat(grey[..., None], 3, 2)).astype(float)
    assert np.abs(result - rgb @ [0.299, 0.587, 0.114]).max() < 0.51


def test_small_pictures_and_tile_0_are_seen_whole():
    model = load_model("mcu")
    photo = np.asarray(Image.fromarray(data.astronaut() // 5).resize((1000, 900)))
    whole, copied = enhance(model, photo, tile=0), enhance(model, photo)
    with torch.inference_mode():
        direct = model(torch.tensor(photo.transpose(2, 0, 1) / np.float32(255))[None])[0].permute(1, 2, 0)
    assert np.abs(whole - direct.clamp(0, 1).numpy() * 255).max() <= 0.501
    assert 25 < psnr(copied, whole) < 60  # the copy is not the photograph, but its maps are like the photograph's


@pytest.mark.parametrize("height, width", [(2, 130_000), (130_000, 2)])
def test_extreme_aspects(height, width):
    image = np.full((height, width, 3), 30, np.uint8)
    assert enhance(MODEL, image).shape == image.shape


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_output_that_is_not_finite_is_an_error(value):
    model = filled(CompactMIRNet()).eval()
    model.conv_out.bias.data[0] = value
    with pytest.raises(FloatingPointError, match="not finite"):
        enhance(model, torch.full((3, 500, 500), 0.1))


def test_threads_pass_errors_on_and_are_given_back():
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda item: 1 // item, [1, 0])
    assert torch.get_num_threads() == threads
    assert in_threads(lambda item: item * item, range(9)) == [item * item for item in range(9)]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="measures the peak as Linux tells it")
def test_memory_is_bounded_by_strips():
    """12 megapixels: the result has 36 MB, the enlarged maps of every pixel would have 720 MB."""
    code = """if True:
        import re, numpy, torch
        from mirnet_torch import enhance, load_model
        peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) / 1000
        torch.set_num_threads(2)
        model, photo = load_model("mcu"), numpy.full((3000, 4000, 3), 40, numpy.uint8)
        enhance(model, photo[:40, :40])
        before = peak()
        enhance(model, photo)
        print(peak() - before)"""
    taken = float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    assert 36 < taken < 250  # MB


def test_a_device_without_float64_interpolates():
    """As Apple's MPS. The device "meta" stands in for it, and every result on it is watched."""
    class WithoutFloat64(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.device.type == "meta":
                assert result.dtype != torch.float64, function
            return result

    positions, values = torch.arange(12, dtype=torch.float64) / 2, torch.rand(1, 3, 7, 5)
    with WithoutFloat64():
        assert sample(values.to("meta"), positions, -2).shape == (1, 3, 12, 5)
        with pytest.raises(AssertionError):
            positions.to("meta")
    between = (values[..., :-1, :] + values[..., 1:, :]) / 2
    torch.testing.assert_close(sample(values, positions, -2)[..., 1::2, :], between)
