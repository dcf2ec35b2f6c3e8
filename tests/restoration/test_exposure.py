"""Brightness as the user wants it: `enhance(..., exposure=EV)` and `--exposure`."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from commands import assert_one_error, run
from golden import filled
from PIL import Image
from skimage import data

from mirnet_torch import MIRNet, MIRNetConfig, enhance, load_model, save_model
from mirnet_torch.enhance import main
from mirnet_torch.files.images import read_image
from mirnet_torch.restoration import full_size

PHOTO = data.astronaut()[:60, 200:290] // 4
STEPS = (-4, -2, -0.5, -0.125, 0, 0.1, 1, 2.5, 4)
PUBLISHED = filled(MIRNet(MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1)))


@pytest.fixture(scope="module")
def model():
    return load_model("mcu")


@pytest.fixture(params=["small", "full size", "tiles"])
def options(request, monkeypatch):
    """How the picture goes through the network: whole, by a copy of a quarter of its pixels, or in tiles."""
    if request.param == "full size":
        monkeypatch.setattr(full_size, "COPY_PIXELS", PHOTO.shape[0] * PHOTO.shape[1] // 4)
    return {"tile": 40} if request.param == "tiles" else {}


def test_more_is_brighter(model, options):
    pictures = [enhance(model, PHOTO, exposure=ev, **options).astype(int) for ev in STEPS]
    means = [picture.mean() for picture in pictures]
    assert all(low < high for low, high in zip(means, means[1:])), means
    for darker, brighter in zip(pictures, pictures[1:]):  # a colour may move by a level, the brightness rises
        assert (brighter.max(2) >= darker.max(2) - 1).mean() > 0.999


def test_grey_stays_grey(model, options):
    ramp = np.broadcast_to(np.linspace(0, 255, 90).astype(np.uint8)[None, :, None], (60, 90, 3))
    casts = [np.ptp(enhance(model, ramp, exposure=ev, **options).astype(int), axis=2) for ev in (0, *STEPS)]
    for ev, cast in zip(STEPS, casts[1:]):
        assert cast.mean() <= 2 ** (max(ev, 0) / 2.2) * casts[0].mean() + 1  # levels: the network's own cast grows so
        assert cast[:, -1].max() <= (0 if ev >= 0 else 2)  # white stays white


def test_0_changes_nothing(model, options):
    np.testing.assert_array_equal(enhance(model, PHOTO, exposure=0.0, **options), enhance(model, PHOTO, **options))
    assert (enhance(model, PHOTO, exposure=0.01, **options) != enhance(model, PHOTO, **options)).any()


def test_full_size_and_whole_pictures_agree(model):
    """A picture that need not shrink: by the copy and by the network itself."""
    images = torch.from_numpy(PHOTO / np.float64(255)).permute(2, 0, 1)[None]
    for ev in STEPS:
        copied = full_size.restore_full_size(model.double(), images, exposure=ev)
        with torch.inference_mode():
            torch.testing.assert_close(copied, model(images, exposure=ev).clamp(0, 1), rtol=0, atol=1e-10)
    model.float()


def test_command(capsys, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    result = run(capsys, main, tmp_path / "a.png", "--out", tmp_path / "out", "--exposure", "-1.3")
    assert (result.status, result.err) == (0, "")
    expected = enhance(load_model("photo"), PHOTO, exposure=-1.3)
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "a.png"), expected)


@pytest.mark.parametrize("value", ["4.01", "-5", "nan", "inf", "bright"])
def test_other_values_are_one_line(capsys, tmp_path, model, value):
    result = run(capsys, main, tmp_path / "a.png", "--out", tmp_path / "out", f"--exposure={value}")
    assert_one_error(result.status, result.err, "--exposure", value)
    assert result.status == 2 and not (tmp_path / "out").exists()
    if value != "bright":
        with pytest.raises(ValueError, match="exposure must be from -4 to 4 EV"):
            enhance(model, PHOTO, exposure=float(value))


@pytest.mark.parametrize("option", [("--exposure", 1), ("--frames",)])
def test_the_published_network_has_no_such_control(capsys, tmp_path, option):
    save_model(PUBLISHED, tmp_path / "p.safetensors")
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    result = run(capsys, main, tmp_path / "a.png", "--out", tmp_path / "out", "--checkpoint",
                 tmp_path / "p.safetensors", *option)
    assert_one_error(result.status, result.err, option[0], "p.safetensors holds the published one")
    assert result.status == 2 and not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="published"):
        enhance(PUBLISHED, PHOTO, exposure=1.0)
