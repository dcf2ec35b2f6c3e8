"""Image files in and out: every mode that photographs come in, damage, and writing whole or not at all."""
from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from skimage import data

from mirnet_torch.cli import UserError
from mirnet_torch.files.images import camera_size, open_image, read_image, side_by_side, to_rgb, to_tensor, write_image

PHOTO = data.astronaut()[:48, 200:264]


@pytest.mark.parametrize("orientation, turn", [
    (1, lambda a: a), (2, lambda a: a[:, ::-1]), (3, lambda a: a[::-1, ::-1]), (4, lambda a: a[::-1]),
    (5, lambda a: a.swapaxes(0, 1)), (6, lambda a: np.rot90(a, -1)), (7, lambda a: np.rot90(a, 2).swapaxes(0, 1)),
    (8, lambda a: np.rot90(a))])
def test_exif_orientation_is_honoured(tmp_path, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PHOTO).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), turn(PHOTO))
    assert 0x0112 not in open_image(tmp_path / "a.png").getexif() or orientation == 1


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f rubbish")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), PHOTO)


def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path):
    deep = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 1], np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "P"])
def test_modes_become_rgb(tmp_path, mode):
    picture = Image.fromarray(PHOTO).convert(mode)
    picture.save(tmp_path / "a.png")
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


def test_palette_with_transparency(tmp_path):
    picture = Image.fromarray(PHOTO).quantize(16)
    picture.save(tmp_path / "a.png", transparency=bytes(range(0, 160, 10)))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.asarray(picture.convert("RGB")))


def test_cmyk_jpeg(tmp_path):
    Image.fromarray(PHOTO).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    error = read_image(tmp_path / "a.jpg").astype(int) - PHOTO
    assert np.abs(error).mean() < 4


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_damaged_files_are_read_or_refused_but_never_break(tmp_path, format):
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PHOTO).save(stream, format, **({} if format == "BMP" else {"exif": exif}))
    whole = np.frombuffer(stream.getvalue(), np.uint8)
    random, refused = np.random.default_rng(0), 0
    path = tmp_path / "a.png"
    for trial in range(150):
        broken = whole.copy()
        if trial % 3:
            limit = min(len(broken), 400) if trial % 2 else len(broken)
            broken[random.integers(0, limit, 4)] = random.integers(0, 256, 4)
        else:
            broken = broken[:random.integers(len(broken))]
        path.write_bytes(broken.tobytes())
        try:
            assert read_image(path).dtype == np.uint8
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 20


def test_other_formats_are_not_let_in(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.png", format="GIF")
    with pytest.raises(UserError, match="is not a readable image"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".JPG", ".webp", ".bmp", ".tif", ".tiff"])
def test_what_is_written_is_read(tmp_path, suffix):
    write_image(PHOTO, tmp_path / f"a{suffix}")
    error = np.abs(read_image(tmp_path / f"a{suffix}").astype(int) - PHOTO)
    assert error.mean() <= (0 if suffix in (".png", ".bmp", ".tif", ".tiff") else 3)
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("image, name", [
    (PHOTO, "a.unknown"), (PHOTO, "a"), (Image.new("RGBA", (2, 2)), "a.jpg"), (PHOTO, "missing/a.png"),
    (np.zeros((1, 16400, 3), np.uint8), "a.webp")])
def test_a_write_that_fails_names_the_file_and_leaves_nothing(tmp_path, image, name):
    with pytest.raises(UserError, match=f"cannot write .*{name}"):
        write_image(image, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_tensors_are_channels_first_in_0_to_1():
    tensor = to_tensor(PHOTO)
    assert tensor.dtype == torch.float32 and tensor.shape == (3, 48, 64)
    np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy(), PHOTO / np.float32(255))


def test_camera_size_crops_the_centre_and_averages_boxes():
    wide = np.random.default_rng(1).integers(0, 256, (240, 420, 3)).astype(np.uint8)
    boxes = wide[:, 50:370].reshape(120, 2, 160, 2, 3).mean((1, 3))
    assert np.abs(camera_size(wide) - boxes).max() <= 1  # Pillow rounds to 8 bits twice, once for each direction
    tall = wide.swapaxes(0, 1)[:416]  # 240 wide: 180 rows of the middle stay
    boxes = tall[118:298].reshape(60, 3, 80, 3, 3).mean((1, 3))
    assert np.abs(camera_size(tall, (80, 60)) - boxes).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (500, 1, 3), (120, 160, 3)])
def test_camera_size_of_any_image(shape):
    assert camera_size(np.zeros(shape, np.uint8), (160, 120)).shape == (120, 160, 3)


def test_side_by_side_keeps_the_pixels():
    row = side_by_side([PHOTO, 255 - PHOTO], gap=5)
    np.testing.assert_array_equal(row[:, :64], PHOTO)
    np.testing.assert_array_equal(row[:, 69:], 255 - PHOTO)
    assert (row[:, 64:69] == 255).all()


def test_to_rgb_does_not_share_memory_with_the_image():
    picture = Image.fromarray(PHOTO.copy())
    to_rgb(picture)[:] = 0
    np.testing.assert_array_equal(np.asarray(picture), PHOTO)


def test_a_png_with_a_long_text_is_read(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_itxt("history", "edited " * 500_000, zip=True)
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "a.png", pnginfo=text)
    assert read_image(tmp_path / "a.png").shape == (4, 5, 3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr", "HSV"])
def test_colours_are_converted_strip_by_strip(monkeypatch, mode):
    image = Image.fromarray(PHOTO).convert("RGB")
    image = image.quantize(32) if mode == "P" else image.convert(mode)
    whole = np.asarray((image.convert("RGBA") if mode == "P" else image).convert("RGB"))
    monkeypatch.setattr("mirnet_torch.files.images._STRIP", 7 * image.width + 3)
    np.testing.assert_array_equal(to_rgb(image), whole)
