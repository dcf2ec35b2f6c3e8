"""Radiance files against what they encode, views against geometry, exposures against light."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_panoramas import encoded, rgbe, scene, write_radiance

from mirnet_torch.cli import UserError
from mirnet_torch.scenes.camera import Camera, to_linear
from mirnet_torch.scenes.panoramas import (HELD_OUT, NIGHT, SHOULDER, add_lamps, cut_view, develop, expose_twice,
                                           find_panoramas, meter, random_view, read_panorama, wrap)
from mirnet_torch.scenes.radiance import read_radiance

NOISELESS = ((1e12, 1e12), (0.0, 0.0))  # full well and read noise


@pytest.mark.parametrize("runs", [True, False])
def test_radiance_files_hold_light_to_one_part_in_128(tmp_path, runs):
    light = scene()
    read = read_radiance(write_radiance(tmp_path / "a.hdr", light, runs=runs))
    assert read.shape == light.shape and read.dtype == np.float32
    assert (np.abs(read - light) <= light.max(-1, keepdims=True) / 128).all()


def test_radiance_reads_as_opencv_does(tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = write_radiance(tmp_path / "a.hdr", scene() * (scene(seed=1) > 1))  # with black pixels
    np.testing.assert_array_equal(read_radiance(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1])


@pytest.mark.parametrize("spoil, words", [
    (lambda content: content[:-40], "damaged"),
    (lambda content: content[:-1], "damaged"),
    (lambda content: content.replace(b"\x02\x02\x00\x20", b"\x02\x02\x00\x20\xff\x00", 1), "damaged"),
    (lambda content: content.replace(b"-Y", b"+Y"), "is no Radiance picture"),
    (lambda content: content.replace(b"rgbe", b"xyze"), "is no Radiance picture"),
    (lambda content: content.replace(b"-Y 16", b"-Y 0"), "0 pixels|size of 32x0"),
    (lambda content: b"", "is no Radiance picture"),
])
def test_bad_radiance_files_get_one_line(tmp_path, spoil, words):
    path = tmp_path / "bad.hdr"
    path.write_bytes(spoil(encoded(rgbe(scene()), runs=True)))
    with pytest.raises(UserError, match=words) as caught:
        read_radiance(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_held_out_panoramas_are_named_or_every_fourth(tmp_path):
    for name in ("b", "a", "c", "d", "e", ".hidden"):
        write_radiance(tmp_path / f"{name}.hdr", scene())
    train, held_out = find_panoramas(tmp_path)
    assert [path.stem for path in train] == ["a", "b", "c", "e"] and [path.stem for path in held_out] == ["d"]
    write_radiance(tmp_path / f"{HELD_OUT[0]}.hdr", scene())
    train, held_out = find_panoramas(tmp_path)
    assert [path.stem for path in train] == ["a", "b", "c", "d", "e"]
    assert [path.stem for path in held_out] == [HELD_OUT[0]]


def test_folders_and_pictures_that_are_no_panoramas(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        find_panoramas(tmp_path / "missing")
    write_radiance(tmp_path / "square.hdr", scene()[:, :16])
    with pytest.raises(UserError, match="has 1 panoramas"):
        find_panoramas(tmp_path)
    with pytest.raises(UserError, match="16x16: a panorama all around is twice as wide"):
        read_panorama(tmp_path / "square.hdr")


def directions(height=256):
    """Return a panorama whose colours are the direction of its light: right, up, forward, each from 0 to 2."""
    longitude = (torch.arange(2 * height) + 0.5) / height * math.pi - math.pi
    latitude = math.pi / 2 - (torch.arange(height)[:, None] + 0.5) / height * math.pi
    return 1 + torch.stack([longitude.sin() * latitude.cos(), latitude.sin().expand(height, 2 * height),
                            longitude.cos() * latitude.cos()])


@pytest.mark.parametrize("yaw, pitch, roll", [(0, 0, 0), (180, 0, 0), (-75, 30, 0), (40, -60, 10), (170, 80, -25)])
def test_views_show_the_directions_of_a_pinhole_camera(yaw, pitch, roll):
    view = cut_view(wrap(directions()), (40, 30), yaw=yaw, pitch=pitch, across=75, roll=roll) - 1
    x = (np.arange(40) - 19.5) / 20 * math.tan(math.radians(37.5))
    y = -(np.arange(30) - 14.5) / 20 * math.tan(math.radians(37.5))
    ray = np.stack(np.broadcast_arrays(x, y[:, None], 1.0), -1)
    about = [np.eye(3) for _ in range(3)]
    for matrix, (i, j), angle in zip(about, ((0, 1), (1, 2), (2, 0)), (roll, -pitch, yaw)):
        matrix[[i, j], [i, j]] = math.cos(math.radians(angle))
        matrix[i, j], matrix[j, i] = -math.sin(math.radians(angle)), math.sin(math.radians(angle))
    ray = ray @ (about[2] @ about[1] @ about[0]).T
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    assert np.abs(view - ray).max() < 0.02


def test_views_do_not_alias():
    """Stripes finer than a pixel become grey, not moire."""
    stripes = torch.zeros(3, 512, 1024)
    stripes[..., ::2] = 1
    view = cut_view(wrap(stripes), (160, 120), yaw=10, pitch=0, across=75)
    assert view.mean() == pytest.approx(0.5, abs=0.02) and view.std() < 0.25


def test_a_noiseless_dark_frame_is_the_light_scaled():
    light = scene(32)[:, 32:] * 0.3
    camera = Camera((0.1, 0.1), (1, 1), *NOISELESS)
    dark, truth = expose_twice(light, rng=np.random.default_rng(0), camera=camera)
    metered = light * meter(light)
    expected = (0.1 * metered).clip(0, 1)
    assert np.abs(to_linear(dark) - expected).max() < 0.005
    straight = metered.max(2) <= SHOULDER
    assert 0.3 < straight.mean() < 1
    assert np.abs(to_linear(truth) - metered)[straight].max() < 0.005


def test_metering_does_not_depend_on_the_unit_of_light():
    light = scene(32)
    assert meter(light) * 1000 == pytest.approx(float(meter(light / 1000)), rel=1e-4)
    dark = np.full((8, 8, 3), 0.01, np.float32)
    dark[0, 0] = 50  # a lamp is no reason to leave the rest black
    assert meter(dark) * 0.01 > 0.1
    assert np.isfinite(meter(np.zeros((8, 8, 3), np.float32)))


def test_highlights_keep_hue_and_rise_up_to_the_ceiling():
    stops = np.exp2(np.linspace(-3, 5, 50)).astype(np.float32)
    orange = stops[:, None, None] * np.array([1.0, 0.5, 0.1], np.float32)
    shown = develop(orange, ceiling=20.0)
    peaks = shown[:, 0, 0].astype(int)
    assert (np.diff(peaks) >= 0).all() and (peaks[stops >= 20] == 255).all() and (peaks[stops < 10] < 255).all()
    ratio = to_linear(shown)[..., 1] / to_linear(shown)[..., 0]
    assert np.abs(ratio - 0.5).max() < 0.02
    assert (develop(orange * 0 + stops[:, None, None], ceiling=20.0).std(-1) == 0).all()


def test_what_burns_out_in_the_dark_frame_is_white_in_the_truth():
    light = np.full((40, 40, 3), 0.1, np.float32)
    light[10:13, 10:13] = np.array([500, 400, 300], np.float32)
    dark, truth = expose_twice(light, rng=np.random.default_rng(1))
    assert (dark[10:13, 10:13] >= 253).all() and (truth[10:13, 10:13] >= 253).all()
    assert dark[:8].mean() < truth[:8].mean() / 2


def test_lamps_only_add_light():
    light = scene(32)[:, 32:]
    lit = [add_lamps(light, white=20.0, rng=np.random.default_rng(seed)) for seed in range(40)]
    assert all((each >= light).all() for each in lit)
    assert all(each.dtype == np.float32 and np.isfinite(each).all() for each in lit)
    gained = [each - light for each in lit]
    coloured = [(each.max(2) > 3) & (each.min(2) < each.max(2) / 2) for each in gained]
    neutral = [(each.max(2) > 3) & (each.min(2) > each.max(2) * 0.9) for each in gained]
    assert sum(map(np.any, coloured)) >= 5 and sum(map(np.any, neutral)) >= 5


def test_views_and_exposures_follow_from_the_generator():
    panorama = wrap(torch.from_numpy(scene(32)).permute(2, 0, 1))

    def taken(seed):
        rng = np.random.default_rng(seed)
        return np.stack(expose_twice(random_view(panorama, (16, 12), rng), rng=rng, camera=NIGHT, lamps=True))
    assert np.array_equal(taken(1), taken(1)) and not np.array_equal(taken(1), taken(2))
    assert taken(1).dtype == np.uint8 and taken(1).shape == (2, 12, 16, 3)
