"""Colours of 16 bits in PNG and TIFF, read and written; OpenCV and tifffile are the independent readers and writers."""
from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from commands import assert_one_error, run
from golden import filled
from PIL import Image, ImageCms
from skimage import data

from mirnet_torch import CompactMIRNet, enhance, load_model, save_model
from mirnet_torch.cli import UserError
from mirnet_torch.enhance import main
from mirnet_torch.files.deep_images import deep_pixels, write_deep
from mirnet_torch.files.images import open_image, read_image

cv2, tifffile = pytest.importorskip("cv2"), pytest.importorskip("tifffile")
LOW = np.random.default_rng(0).integers(0, 257, (48, 64, 4)).astype(np.uint16)
RGBA = np.dstack([data.astronaut()[:48, 200:264], data.camera()[:48, :64]]).astype(np.uint16) * 200 + LOW
RGB = RGBA[..., :3]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def opencv_order(pixels):
    return pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][:pixels.shape[2]]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "mcu.safetensors"
    save_model(filled(CompactMIRNet()), path)
    return path


@pytest.mark.parametrize("pixels", [RGB, RGBA, RGB[..., 1]], ids=["RGB", "RGBA", "grey"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_files_of_opencv_are_read(tmp_path, pixels, suffix):
    path = str(tmp_path / f"a{suffix}")
    cv2.imwrite(path, opencv_order(pixels))
    read = deep_pixels(open_image(path), path)
    assert read is not None and read.dtype == np.uint16
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("options", [
    {}, {"byteorder": ">"}, {"byteorder": ">", "compression": "zlib"}, {"tile": (16, 16)}, {"rowsperstrip": 5},
], ids=str)
def test_layouts_of_tiff_are_read(tmp_path, options):
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", **options)
    np.testing.assert_array_equal(deep_pixels(open_image(tmp_path / "a.tif"), tmp_path / "a.tif"), RGB)


@pytest.mark.parametrize("mode, suffix", [
    ("RGB", ".png"), ("L", ".png"), ("P", ".png"), ("RGBA", ".tif"), ("CMYK", ".tif"), ("RGB", ".jpg"),
    ("RGB", ".webp"), ("RGB", ".bmp"), ("LA", ".png")])
def test_files_of_8_bits_are_named_so(tmp_path, mode, suffix):
    Image.fromarray(data.astronaut()[:48, :64]).convert(mode).save(tmp_path / f"a{suffix}")
    assert deep_pixels(open_image(tmp_path / f"a{suffix}"), tmp_path / f"a{suffix}") is None


def test_separate_planes_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RGB.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    with pytest.raises(UserError, match="a.tif.*planes"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("pixels", [RGB, RGBA], ids=["RGB", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_opencv_and_pillow_read_what_is_written(tmp_path, pixels, suffix):
    exif = Image.Exif()
    exif[0x010F] = "camera maker"
    path = tmp_path / f"a{suffix}"
    write_deep(pixels, path, icc_profile=SRGB, exif=exif.tobytes())
    np.testing.assert_array_equal(opencv_order(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)), pixels)
    with Image.open(path) as image:
        image.load()
        np.testing.assert_array_equal(np.asarray(image), pixels >> 8)
        assert image.info["icc_profile"] == SRGB
        assert suffix != ".png" or image.getexif()[0x010F] == "camera maker"
    write_deep(pixels[:1, :1], path)  # the smallest, and without metadata
    np.testing.assert_array_equal(opencv_order(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)), pixels[:1, :1])


def test_a_write_that_fails_names_the_file_and_leaves_nothing(tmp_path):
    for name in ("a.jpg", "missing/a.png"):
        with pytest.raises(UserError, match=f"cannot write .*{name}"):
            write_deep(RGB, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("pixels", [RGB, RGBA, RGB[..., 1]], ids=["RGB", "RGBA", "grey"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_command_keeps_16_bits(capsys, checkpoint, tmp_path, pixels, suffix):
    path, out = tmp_path / f"a{suffix}", tmp_path / "out" / f"a{suffix}"
    cv2.imwrite(str(path), opencv_order(pixels))
    result = run(capsys, main, path, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--compare")
    assert (result.status, result.err) == (0, "")
    after = opencv_order(cv2.imread(str(out), cv2.IMREAD_UNCHANGED))
    model = load_model(checkpoint)
    colours = pixels[..., :3] if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)
    with torch.inference_mode():
        exact = model(torch.tensor(colours / np.float32(65535)).permute(2, 0, 1)[None])[0].clamp(0, 1)
    exact = exact.permute(1, 2, 0).numpy() * 65535
    if pixels.ndim == 2:
        exact = exact @ [0.299, 0.587, 0.114]
    assert after.dtype == np.uint16 and after.shape == pixels.shape
    assert np.abs(after[..., :3] - exact if pixels.ndim == 3 else after - exact).max() < 1.6
    assert len(np.unique(after)) > 500  # more than 8 bits can hold
    if pixels.ndim == 3:
        np.testing.assert_array_equal(after[..., 3:], pixels[..., 3:])
    assert read_image(tmp_path / "out" / f"a_compare{suffix}").shape == (48, 132, 3)


def test_16_and_8_bits_agree_and_turned_files_stand_upright(capsys, checkpoint, tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera maker"
    write_deep(RGB, tmp_path / "a.png", icc_profile=SRGB, exif=exif.tobytes())
    assert run(capsys, main, tmp_path / "a.png", "--checkpoint", checkpoint, "--out", tmp_path / "out").status == 0
    with Image.open(tmp_path / "out" / "a.png") as image:
        after = np.asarray(image)
        assert image.info["icc_profile"] == SRGB
        assert 0x0112 not in image.getexif() and image.getexif()[0x010F] == "camera maker"
    eight = enhance(load_model(checkpoint), np.rot90(RGB >> 8, -1).astype(np.uint8))
    assert after.shape == (64, 48, 3) and np.median(np.abs(after.astype(int) - eight)) <= 2


def test_deep_files_of_other_names_get_8_bits(capsys, checkpoint, tmp_path):
    write_deep(RGB, tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert run(capsys, main, tmp_path / "a.jpg", "--checkpoint", checkpoint, "--out", tmp_path / "out").status == 0
    assert Image.open(tmp_path / "out" / "a.jpg").format == "JPEG"


@pytest.mark.parametrize("pixels", [RGB / np.float32(65535), RGB[..., 0] / np.float32(1)], ids=["RGB", "grey"])
def test_floating_point_is_refused_in_one_line(capsys, checkpoint, tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    result = run(capsys, main, tmp_path / "a.tif", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert_one_error(result.status, result.err, "a.tif")


def test_without_tifffile_the_error_names_the_extra(capsys, checkpoint, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    result = run(capsys, main, tmp_path / "a.tif", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert_one_error(result.status, result.err, "tifffile", "mirnet-torch[tiff]")
    assert not list((tmp_path / "out").iterdir())
