"""Pixel arithmetic: Python against torch's floating point, C++ against Python byte for byte."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from yuv422 import from_yuyv, to_yuyv

from conversion.mirnet.pixels import HeadTables, apply_maps, head_tables, model_input
from mirnet_torch import CompactConfig, CompactMIRNet
from mirnet_torch.cli import UserError
from mirnet_torch.scenes import camera


def test_yuyv_is_jpeg_s_yuv_with_chroma_for_two_pixels(frames: np.ndarray) -> None:
    """Against Pillow's conversion, BT.601 over the full range, and its mean chroma."""
    rgb = np.random.default_rng(5).integers(0, 256, (64, 128, 3), np.uint8)
    rgb[:, 1::2] = rgb[:, ::2]  # both pixels of a pair alike: no chroma is lost
    yuyv, theirs = to_yuyv(rgb), np.asarray(Image.fromarray(rgb).convert("YCbCr")).astype(int)
    assert np.abs(yuyv[..., 0] - theirs[..., 0]).max() <= 1
    assert np.abs(yuyv[:, ::2, 1] - theirs[:, ::2, 1]).max() <= 1
    assert np.abs(yuyv[:, 1::2, 1] - theirs[:, ::2, 2]).max() <= 1
    assert np.abs(from_yuyv(yuyv).astype(int) - rgb).max() <= 3
    picture = from_yuyv(frames[8])
    halves = np.asarray(Image.fromarray(picture).convert("YCbCr"))[..., 1:].reshape(120, 80, 2, 2).mean(2)
    ours = to_yuyv(picture)[..., 1].reshape(120, 80, 2)
    assert np.abs(ours - halves).max() <= 1.5


def test_yuyv_keeps_every_grey_over_the_full_range() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    yuyv = to_yuyv(grey)
    assert (yuyv[..., 0] == grey[..., 0]).all() and (yuyv[..., 1] == 128).all()
    np.testing.assert_array_equal(from_yuyv(yuyv), grey)


@pytest.mark.parametrize("cell", [4, 5])
def test_model_input_is_the_model_s_own_rounded(frames: np.ndarray, cell: int) -> None:
    rgb = from_yuyv(frames)
    model = CompactMIRNet(CompactConfig(cell=cell))
    codes = 255 * model.to_core(torch.tensor(rgb / 255).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy() - 128
    for picture, expected in zip(rgb, codes):
        # Roots have 3 fractional bits.
        np.testing.assert_allclose(model_input(picture, cell=cell), expected, atol=0.5 + 1 / 16)


@pytest.mark.parametrize("exposure", [-32, -9, 0, 9, 32])
@pytest.mark.parametrize("scale, zero_point, cell", [(1 / 127, 0, 4), (0.0069, -17, 5), (0.0069, -17, 1)])
def test_apply_maps_is_the_model_s_own_in_floating_point(frames: np.ndarray, scale: float, zero_point: int,
                                                         cell: int, exposure: int) -> None:
    tables = head_tables(scale, zero_point, cell=cell)
    model = CompactMIRNet(CompactConfig(cell=cell))
    cells = (120 // cell, 160 // cell, 15)
    rng = np.random.default_rng(0)
    for rgb in from_yuyv(frames[:9]):
        # Gains around 3, some of the root, half rolled off, mixed a little; noise from cell to cell.
        centre = np.array([0.5, 0.2] + [0] * 13) / scale + zero_point
        maps = (centre + rng.normal(0, 1, cells) * ([0.1 / scale, 0.05 / scale, 0.1 / scale] + [0.05 / scale] * 12))
        codes = maps.round().clip(-128, 127).astype(np.int8)
        real = (codes.astype(np.float64) - zero_point) * np.float64(np.float32(scale))
        exact = model.restore(torch.tensor(rgb / 255).permute(2, 0, 1)[None],
                              torch.tensor(real).permute(2, 0, 1)[None], exposure=exposure / 8)[0]
        error = np.abs(apply_maps(rgb, codes, tables, exposure=exposure)
                       - 255 * exact.permute(1, 2, 0).numpy().clip(0, 1))
        assert error.max() <= 1.0 and error.mean() <= 0.3  # rounding alone: 0.5 and 0.25


@pytest.mark.parametrize("cell, grid", [(4, 8), (5, 5)])
def test_gains_are_from_1_to_below_64(cell: int, grid: int) -> None:
    tables = head_tables(0.02, -128, cell=cell)  # maps up to 5.1
    assert (64 << 16) - 3 * grid ** 2 < tables.gain.max() * grid ** 2 < 64 << 16 and (np.diff(tables.gain) >= 0).all()
    assert abs(head_tables(0.02, 127, cell=cell).gain.min() * grid ** 2 - (1 << 16)) < grid ** 2


def test_brighter_with_every_step_of_exposure_and_white_stays_white(frames: np.ndarray, maps: np.ndarray,
                                                                    tables: HeadTables,
                                                                    model_constants: dict[str, float]) -> None:
    zero_point = int(model_constants["kOutputZeroPoint"])
    picture, codes = from_yuyv(frames[1]), maps[0]
    codes = np.concatenate([codes[..., :3], np.full_like(codes[..., 3:], zero_point)], -1)  # no change of colour
    means = [apply_maps(picture, codes, tables, exposure=exposure).mean() for exposure in range(-32, 33)]
    assert (np.diff(means) >= 0).all() and means[-1] > means[32] > means[0]
    grey = np.repeat(picture[..., :1], 3, 2)
    restored = apply_maps(grey, codes, tables, exposure=7)
    assert (restored == restored[..., :1]).all()
    white = np.full_like(picture, 255)
    for exposure in (0, 8, 32):
        assert (apply_maps(white, maps[0], tables, exposure=exposure) == 255).all()


def test_the_sketch_s_tables_are_those_of_python(tables: HeadTables, host_program, frames: np.ndarray,
                                                 maps: np.ndarray) -> None:
    """Every code of every map, one at a time over a whole picture, so that each entry of each table counts."""
    rgb, neutral = from_yuyv(frames[4]), np.zeros(15, int)
    codes = [(channel, code) for channel in (0, 1, 2, 4, 7, 13) for code in range(-128, 128, 5)]
    flat = np.broadcast_to(neutral, (len(codes), *maps[0].shape)).astype(np.int8)
    for number, (channel, code) in enumerate(codes):
        flat[number, ..., channel] = code
    _, _, restored = _run(host_program, np.broadcast_to(frames[4], (len(codes), *frames[4].shape)), flat)
    for number, picture in enumerate(restored):
        np.testing.assert_array_equal(picture, apply_maps(rgb, flat[number], tables), err_msg=str(codes[number]))


@pytest.mark.parametrize("exposure", [0, -32, 5, 32])
def test_cpp_is_python_byte_for_byte(tables: HeadTables, host_program, frames: np.ndarray, maps: np.ndarray,
                                     exposure: int) -> None:
    inputs, back, restored = _run(host_program, frames, maps, exposure)
    for number, rgb in enumerate(from_yuyv(frames)):
        np.testing.assert_array_equal(inputs[number], model_input(rgb, cell=len(rgb) // len(maps[number])).ravel())
        np.testing.assert_array_equal(restored[number], apply_maps(rgb, maps[number], tables, exposure=exposure))
        np.testing.assert_array_equal(back[number], to_yuyv(_levels(inputs[number], rgb.shape, len(maps[number]))))


@pytest.mark.parametrize("exposure", [0, 32])
def test_cpp_is_python_with_cells_of_other_sizes(other_cells, frames: np.ndarray, exposure: int) -> None:
    """Also where every sum is as large as it can be: codes at both ends, one beside the other."""
    cell, tables, program = other_cells
    rng, frames = np.random.default_rng(3), frames[[-1, -1, -1, 0, 5, 9]]
    maps = rng.integers(-128, 128, (len(frames), 120 // cell, 160 // cell, 15)).astype(np.int8)
    maps[0], maps[1], maps[2] = 127, -128, np.where(rng.random(maps[2].shape) < 0.5, 127, -128)
    inputs, back, restored = _run(program, frames, maps, exposure)
    for number, rgb in enumerate(from_yuyv(frames)):
        np.testing.assert_array_equal(inputs[number], model_input(rgb, cell=cell).ravel())
        np.testing.assert_array_equal(restored[number], apply_maps(rgb, maps[number], tables, exposure=exposure))
        np.testing.assert_array_equal(back[number], to_yuyv(_levels(inputs[number], rgb.shape, len(maps[number]))))


@pytest.mark.parametrize("scale, cell", [(0.1, 4), (0.01, 6)])
def test_what_the_arithmetic_cannot_do_is_refused(scale: float, cell: int) -> None:
    with pytest.raises(UserError, match="train a network"):
        head_tables(scale, 0, cell=cell)


def test_viewer_and_training_see_the_same_colours() -> None:
    """The viewer's YUYV against that of the camera model, on which networks for the board are trained."""
    rgb = np.random.default_rng(5).integers(0, 256, (256, 256, 3), np.uint8)
    rgb[::2] = np.where(rgb[::2] < 128, 0, 255)  # full colours, which are clipped
    np.testing.assert_array_equal(from_yuyv(to_yuyv(rgb)), camera.to_yuv422(rgb))


def _levels(codes: np.ndarray, shape: tuple[int, ...], rows: int) -> np.ndarray:
    """Return the picture that the codes of an input mean."""
    cell = shape[0] // rows
    cells = codes.astype(int).reshape(rows, -1, 3, cell, cell).transpose(0, 3, 1, 4, 2).reshape(shape)
    return ((cells + 128) ** 2 * 2 // 255 + 1 >> 1).astype(np.uint8)


def _run(host_program, frames: np.ndarray, maps: np.ndarray,
         exposure: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let the C++ compute the model's inputs, the frames made back from them, and the restored pictures."""
    together = np.concatenate([frames.reshape(len(frames), -1), maps.reshape(len(maps), -1).view(np.uint8)], 1)
    answer = np.frombuffer(host_program("pixels", str(exposure), stdin=together.tobytes()), np.uint8)
    answer = answer.reshape(len(frames), -1)
    inputs, back, restored = np.split(answer, [57600, 96000], 1)
    return inputs.view(np.int8), back.reshape(-1, 120, 160, 2), restored.reshape(-1, 120, 160, 3)
