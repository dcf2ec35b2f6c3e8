"""Using a network on photographs: sizes, metadata, names, and files that are whole or absent."""
from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from commands import assert_one_error, run
from golden import filled
from PIL import Image, ImageCms
from skimage import data

from mirnet_torch import PRESETS, CompactMIRNet, MIRNetConfig, create_model, enhance, load_model, save_model
from mirnet_torch.cli import UserError, run_command
from mirnet_torch.enhance import main
from mirnet_torch.files.images import read_image

PUBLISHED = MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1)
GREY = MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1, height=2, in_channels=1, out_channels=1)
PHOTO = data.astronaut()[:48, 200:264] // 4
DARK = torch.rand(3, 3, 63, 65, generator=torch.Generator().manual_seed(0)) / 4
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, config in (("mcu", PRESETS["mcu"]), ("published", PUBLISHED), ("grey", GREY)):
        save_model(filled(create_model(config)), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def model(checkpoints):
    return load_model(checkpoints / "mcu.safetensors")


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


# The function


@pytest.mark.parametrize("name", ["mcu", "published"])
@pytest.mark.parametrize("height, width", [(1, 1), (2, 3), (5, 7), (63, 65), (360, 480)])
def test_any_size(checkpoints, name, height, width):
    model = load_model(checkpoints / f"{name}.safetensors")
    image = np.random.default_rng(0).integers(0, 60, (height, width, 3)).astype(np.uint8)
    result = enhance(model, image)
    assert result.shape == image.shape and result.dtype == np.uint8
    with torch.no_grad():
        direct = model(torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(result - direct.clip(0, 1) * 255).max() <= 0.501  # rounded to the nearest level, no more


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tensors_come_back_as_they_went_in(model, dtype):
    images = DARK.to(dtype)
    kept = images.clone()
    result = enhance(model, images)
    assert result.dtype == dtype and result.shape == images.shape and not result.requires_grad
    assert 0 <= result.min() and result.max() <= 1 and torch.equal(images, kept)
    step = 2 ** -8 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(enhance(model, images[0]), result[0], rtol=0, atol=step)
    torch.testing.assert_close(result.float(), model(images.float()).clamp(0, 1).detach(), rtol=0, atol=1e-2)


def test_array_and_tensor_agree_and_the_input_is_untouched(model):
    image = PHOTO.copy()
    image.flags.writeable = False
    tensor = torch.tensor(image.transpose(2, 0, 1) / np.float32(255))
    levels = (enhance(model, tensor).permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    np.testing.assert_array_equal(enhance(model, image), levels)
    mirrored = image[:, ::-1]  # a view with a negative stride
    np.testing.assert_array_equal(enhance(model, mirrored), enhance(model, mirrored.copy()))


def test_grey_arrays(model, checkpoints):
    grey = PHOTO[..., 1]
    for network in (model, load_model(checkpoints / "grey.safetensors")):
        result = enhance(network, grey)
        assert result.shape == grey.shape and result.dtype == np.uint8
        assert enhance(network, grey, tile=32).shape == grey.shape
    rgb = enhance(model, np.repeat(grey[..., None], 3, 2))
    np.testing.assert_array_equal(enhance(model, grey), np.asarray(Image.fromarray(rgb).convert("L")))


@pytest.mark.parametrize("image", [
    PHOTO.astype(np.int32), PHOTO.astype(np.float16), 3, PHOTO[..., :2], PHOTO[:0], PHOTO[None, None],
    torch.zeros(2, 8, 8), torch.zeros(3, 8),
    torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(0, 3, 8, 8)])
def test_other_inputs_are_refused(model, image):
    with pytest.raises(ValueError, match="enhance takes"):
        enhance(model, image)


def test_colour_is_refused_by_a_grey_network(checkpoints):
    with pytest.raises(ValueError, match="1 channels cannot take"):
        enhance(load_model(checkpoints / "grey.safetensors"), PHOTO)


def test_an_output_that_is_not_finite_is_an_error():
    wild = filled(create_model("mcu"))
    torch.nn.init.constant_(wild.conv_out.bias, 1e30)
    with pytest.raises(FloatingPointError, match="not finite"):
        enhance(wild, torch.full((3, 8, 8), 0.5))


@pytest.mark.parametrize("image, words", [
    (DARK * 255, "not from .* to 63.*: scale them"), (DARK - 1, "not from -.*: scale them"),
    (torch.full((3, 8, 8), torch.nan), "some are not numbers"),
    (torch.full((3, 8, 8), torch.inf), "to inf: scale them"),
    (PHOTO.astype(np.float64), "to 58: scale them")])
def test_values_out_of_range_are_one_clear_error(model, image, words):
    with pytest.raises(ValueError, match=r"enhance takes floating-point values in \[0, 1\], .*" + words):
        enhance(model, image)


def test_errors_of_rounding_are_no_other_range(model):
    assert torch.equal(enhance(model, DARK[0] - 1e-6), enhance(model, (DARK[0] - 1e-6).clamp(0)))


def test_every_kind_comes_back_as_it_went_in(model, tmp_path):
    expected = enhance(model, PHOTO)
    floats = enhance(model, PHOTO / np.float32(255))
    assert floats.dtype == np.float32 and np.abs(floats * 255 - expected).max() <= 0.501
    assert enhance(model, PHOTO[..., 0] / 255).dtype == np.float64
    grey = enhance(model, PHOTO[..., 0] / np.float32(255))
    assert np.abs(grey * 255 - enhance(model, PHOTO[..., 0])).max() < 1.01
    picture = Image.fromarray(PHOTO)
    alpha = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1)))
    picture.putalpha(alpha)
    bright = enhance(model, picture)
    assert bright.mode == "RGBA" and np.array_equal(np.asarray(bright)[..., :3], expected)
    assert np.array_equal(np.asarray(bright)[..., 3], np.asarray(alpha)) and picture.getpixel((0, 0))[3] == 0
    turned, exif = Image.fromarray(PHOTO), Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.png", exif=exif)
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png")):
        assert np.array_equal(np.asarray(enhance(model, given)), enhance(model, np.rot90(PHOTO, -1)))
    with pytest.raises(UserError, match="none.png does not exist"):
        enhance(model, "none.png")


def test_strength_goes_from_the_image_to_the_result(model):
    bright = enhance(model, PHOTO)
    assert np.array_equal(enhance(model, PHOTO, strength=0), PHOTO)
    half = PHOTO + (bright.astype(float) - PHOTO) / 2
    assert np.abs(enhance(model, PHOTO, strength=0.5) - half).max() <= 0.501
    assert np.array_equal(enhance(model, PHOTO[..., 0], strength=0), PHOTO[..., 0])
    values = enhance(model, DARK, strength=0.25)
    torch.testing.assert_close(values, DARK + (enhance(model, DARK) - DARK) / 4)
    with pytest.raises(ValueError, match="strength must be from 0 to 1"):
        enhance(model, PHOTO, strength=1.5)


# Tiles


# The command


def test_command_writes_what_the_function_returns(capsys, checkpoints, model, photo, tmp_path):
    result = run(capsys, main, photo, "--checkpoint", checkpoints / "mcu.safetensors",
                 "--out", tmp_path / "new" / "out")
    assert (result.status, result.err) == (0, "") and "1 enhanced" in result.out
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "out" / "photo.png"), enhance(model, PHOTO))


def test_a_plain_install_is_enough(checkpoints, photo, tmp_path):
    """The packages of the extras cannot be imported here."""
    code = """if True:
        import runpy, sys
        sys.modules.update(dict.fromkeys(["skimage", "scipy", "torchvision", "tensorboard", "lpips", "tensorflow"]))
        runpy.run_module("mirnet_torch.enhance", run_name="__main__")"""
    command = [sys.executable, "-c", code, photo, tmp_path / "none.png",
               "--checkpoint", checkpoints / "mcu.safetensors", "--out", tmp_path / "out", "--compare"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert_one_error(done.returncode, done.stderr, "1 of 2 inputs")
    assert f"{tmp_path / 'none.png'} does not exist" in done.stderr
    assert sorted(os.listdir(tmp_path / "out")) == ["photo.png", "photo_compare.png"]


def test_folders_are_taken_with_their_subfolders(capsys, checkpoints, tmp_path):
    for name in ("in/a.png", "in/b.JPG", "in/sub/a.png", "in/.hidden.png", "in/notes.txt", "in/.git/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PHOTO).save(tmp_path / name, format="JPEG" if "JPG" in name else "PNG")
    out = tmp_path / "in" / "out"  # inside: a second run must not take the results for inputs
    for extra in ((), ("--overwrite",)):
        result = run(capsys, main, tmp_path / "in", "--checkpoint", checkpoints / "mcu.safetensors", "--out", out,
                     *extra)
        assert (result.status, result.err) == (0, "")
        assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == ["a.png", "b.JPG", "sub/a.png"]


def test_compare_shows_before_and_after(capsys, checkpoints, model, photo, tmp_path):
    assert not run(capsys, main, photo, "--checkpoint", checkpoints / "mcu.safetensors", "--out", tmp_path / "out",
                   "--compare").status
    shown = read_image(tmp_path / "out" / "photo_compare.png")
    np.testing.assert_array_equal(shown[:, :64], PHOTO)
    np.testing.assert_array_equal(shown[:, -64:], enhance(model, PHOTO))


def picture_of(kind: str) -> tuple[Image.Image, str, dict]:
    """A photograph in the mode that real files have, the suffix of its file, and Pillow's options to save it."""
    image, exif = Image.fromarray(PHOTO), Image.Exif()
    exif[0x0112], exif[0x010F], exif.get_ifd(0x8769)[0x9003] = 6, "camera maker", "2024:01:02 03:04:05"
    alpha = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1)))
    if kind == "RGBA":
        image.putalpha(alpha)
    elif kind == "LA":
        image = Image.merge("LA", [image.convert("L"), alpha])
    elif kind == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif kind == "P":
        return image.quantize(32), ".png", {"transparency": bytes(range(32))}
    elif kind == "CMYK":
        return image.convert("CMYK"), ".jpg", {"icc_profile": b"\0" * 16 + b"CMYK" + b"\0" * 108}
    elif kind == "JPEG":
        return image, ".jpg", {"exif": exif, "icc_profile": SRGB}
    elif kind == "WebP":
        return image, ".webp", {"exif": exif, "icc_profile": SRGB, "lossless": True}
    elif kind == "PNG":
        return image, ".png", {"exif": exif, "icc_profile": SRGB}
    else:
        image = image.convert(kind)
    return image, ".png", {}


@pytest.mark.parametrize("kind, mode", [
    ("1", "L"), ("L", "L"), ("LA", "LA"), ("I;16", "I;16"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("P", "RGBA"),
    ("CMYK", "RGB"), ("JPEG", "RGB"), ("WebP", "RGB"), ("PNG", "RGB")])
def test_what_a_file_carries_is_kept(capsys, checkpoints, model, tmp_path, kind, mode):
    image, suffix, options = picture_of(kind)
    image.save(tmp_path / f"a{suffix}", **options)
    result = run(capsys, main, tmp_path / f"a{suffix}", "--checkpoint", checkpoints / "mcu.safetensors",
                 "--out", tmp_path / "out", "--compare")
    assert (result.status, result.err) == (0, "")
    with Image.open(tmp_path / "out" / f"a{suffix}") as after:
        after.load()
    assert after.mode == mode
    if "A" in mode:
        alpha = Image.open(tmp_path / f"a{suffix}").convert("RGBA").getchannel("A")
        assert np.asarray(alpha).std() > 1
        np.testing.assert_array_equal(np.asarray(after.getchannel("A")), np.asarray(alpha))
    colours = read_image(tmp_path / f"a{suffix}")
    if kind in ("RGB", "RGBA", "P", "PNG"):
        np.testing.assert_array_equal(np.asarray(after.convert("RGB")), enhance(model, colours))
    if kind == "I;16":
        deep = np.asarray(Image.open(tmp_path / "a.png")).astype(np.uint16)
        np.testing.assert_array_equal(np.asarray(after), enhance(model, deep))
        assert np.abs(np.asarray(after) / 257 - enhance(model, colours[..., 0])).max() < 1.1  # as with 8 bits
    if "exif" in options:  # upright, and saying so
        assert after.size == (48, 64) and after.info["icc_profile"] == SRGB
        exif = after.getexif()
        assert 0x0112 not in exif and exif[0x010F] == "camera maker"
        assert exif.get_ifd(0x8769)[0x9003] == "2024:01:02 03:04:05"
    else:
        assert after.size == (64, 48) and "icc_profile" not in after.info


def test_grey_network_takes_grey_files_and_names_colour_ones(capsys, checkpoints, photo, tmp_path):
    Image.fromarray(PHOTO).convert("L").save(tmp_path / "grey.png")
    options = ("--checkpoint", checkpoints / "grey.safetensors", "--out", tmp_path / "out")
    assert run(capsys, main, tmp_path / "grey.png", *options).status == 0
    result = run(capsys, main, photo, *options)
    assert_one_error(result.status, result.err, str(photo), "colour image")


def test_results_are_overwritten_on_request_only(capsys, checkpoints, photo, tmp_path):
    options = (photo, "--checkpoint", checkpoints / "mcu.safetensors", "--out", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "photo.png").write_text("precious")
    result = run(capsys, main, *options)
    assert_one_error(result.status, result.err, "photo.png exists", "--overwrite")
    assert (tmp_path / "out" / "photo.png").read_text() == "precious"
    assert run(capsys, main, *options, "--overwrite").status == 0
    assert read_image(tmp_path / "out" / "photo.png").shape == PHOTO.shape


@pytest.mark.parametrize("extra", [(), ("--overwrite",)])
def test_inputs_are_never_replaced(capsys, checkpoints, photo, tmp_path, extra):
    before = photo.read_bytes()
    for given in (photo, tmp_path):
        result = run(capsys, main, given, "--checkpoint", checkpoints / "mcu.safetensors", "--out", tmp_path, *extra)
        assert_one_error(result.status, result.err, "would replace the input", "--out")
    assert photo.read_bytes() == before


@pytest.mark.parametrize("names", [("a/x.png", "b/x.png"), ("a/x.png", "a/x_compare.png")])
def test_two_inputs_with_one_result_are_refused_before_the_work(capsys, checkpoints, tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(PHOTO).save(tmp_path / name)
    result = run(capsys, main, *(tmp_path / name for name in names), "--checkpoint",
                 checkpoints / "mcu.safetensors", "--out", tmp_path / "out", "--compare")
    assert_one_error(result.status, result.err, "would both be written", str(tmp_path / names[0]))
    assert not (tmp_path / "out").exists()


def test_a_write_that_fails_is_one_error_and_leaves_no_half_file(capsys, checkpoints, photo, tmp_path):
    """The limit on the size of a file makes a write end with an operating system's error."""
    large = np.random.default_rng(0).integers(0, 60, (200, 300, 3)).astype(np.uint8)
    Image.fromarray(large).save(tmp_path / "large.png")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        result = run(capsys, main, photo, tmp_path / "large.png", "--checkpoint", checkpoints / "mcu.safetensors",
                     "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_one_error(result.status, result.err, "1 of 2 inputs")
    assert f"{tmp_path / 'out' / 'large.png'}: File too large" in result.err
    assert os.listdir(tmp_path / "out") == ["photo.png"]  # what was done before is whole, what was not is absent
    read_image(tmp_path / "out" / "photo.png")


def test_interrupt_leaves_whole_files_only(checkpoints, tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(400):
        Image.fromarray(PHOTO).save(tmp_path / "in" / f"{index:03}.png")
    command = [sys.executable, "-m", "mirnet_torch.enhance", tmp_path / "in",
               "--checkpoint", checkpoints / "published.safetensors", "--out", tmp_path / "out"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for _ in range(6000):  # a busy machine takes its time to start
        if (tmp_path / "out").is_dir() and len(list((tmp_path / "out").glob("[0-9]*.png"))) > 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "interrupted\n" and process.returncode == 130
    names = os.listdir(tmp_path / "out")
    assert 3 < len(names) < 400 and not any(name.startswith(".") for name in names)
    for name in names:
        assert read_image(tmp_path / "out" / name).shape == PHOTO.shape


def test_interrupt_while_writing_removes_the_temporary_file(capsys, checkpoints, photo, tmp_path, monkeypatch):
    def interrupted(self, path, **options):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    result = run(capsys, main, photo, "--checkpoint", checkpoints / "mcu.safetensors", "--out", tmp_path / "out")
    assert (result.status, result.err) == (130, "interrupted\n") and not os.listdir(tmp_path / "out")


def test_out_of_memory_is_one_error(capsys, monkeypatch, checkpoints, photo, tmp_path):
    def too_much(self, image):
        return torch.empty(2 ** 55, dtype=torch.uint8)

    monkeypatch.setattr(CompactMIRNet, "forward", too_much)
    result = run(capsys, main, photo, "--checkpoint", checkpoints / "mcu.safetensors", "--out", tmp_path / "out")
    assert_one_error(result.status, result.err, "out of memory", "--tile")


def test_other_runtime_errors_are_not_hidden():
    def broken():
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        run_command(broken)
