"""Steadiness in time: still scenes do not flicker, changes are followed, folders of frames are videos on request."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from commands import assert_one_error, run
from PIL import Image

from mirnet_torch import enhance, flicker, load_model
from mirnet_torch.enhance import main
from mirnet_torch.files.images import read_image
from mirnet_torch.flicker import changing
from mirnet_torch.flicker import main as flicker_main
from mirnet_torch.flicker import measure_flicker, measure_lag, still
from mirnet_torch.restoration.steady import FRAMES, NOISE, SCENE, SteadyMaps
from mirnet_torch.scenes.camera import to_linear
from mirnet_torch.scenes.sources import photograph

LARGEST_FLICKER = 0.3  # levels
LARGEST_LAG = 5  # levels more than without steadiness


def test_a_still_scene_does_not_flicker():
    found = measure_flicker(load_model("mcu"), still(to_linear(photograph("chelsea")), 0.05, 25))
    assert found["steady"].mean <= LARGEST_FLICKER
    assert found["steady"].mean < found["alone"].mean and found["steady"].local < found["alone"].local
    assert found["steady"].local - found["held"].local <= LARGEST_FLICKER


def test_changing_scenes_are_followed():
    model, light = load_model("mcu"), to_linear(photograph("chelsea"))
    for name, video in changing(light, 0.05, 12).items():
        lag = measure_lag(model, video)
        assert lag["steady"] <= lag["alone"] + LARGEST_LAG, name


def test_noise_is_averaged_and_a_change_is_taken_at_once():
    """Per cell: a mean from the first frame on, and a fresh start where the scene changes, only there."""
    steady, random = SteadyMaps(), torch.Generator().manual_seed(0)
    noise = NOISE / 5 * torch.randn(200, 1, 15, 24, 32, generator=random, dtype=torch.float64)
    for number, maps in enumerate(noise):
        result = steady.next(maps)
        if number == 4:
            torch.testing.assert_close(result, noise[:5].mean(0))
    assert result.std() < 1.2 * noise.std() / (2 * FRAMES - 1) ** 0.5
    scene = noise[0].clone()
    scene[..., 10:] += 3 * SCENE
    changed = steady.next(scene)
    torch.testing.assert_close(changed[..., 11:], scene[..., 11:])
    assert (changed[..., :8] - result[..., :8]).abs().max() < NOISE


def test_another_size_starts_a_new_video():
    steady = SteadyMaps()
    for shape in ((1, 15, 4, 6), (1, 15, 6, 4), (1, 15, 4, 6)):
        maps = torch.rand(shape)
        assert torch.equal(steady.next(maps), maps)


def test_a_folder_of_frames_is_a_video_on_request(capsys, tmp_path):
    random = np.random.default_rng(0)
    frames = random.integers(0, 40, (2, 3, 40, 60, 3)).astype(np.uint8)
    for number, folder in enumerate(("a", "b")):
        (tmp_path / "in" / folder).mkdir(parents=True)
        for index, frame in enumerate(frames[number]):
            Image.fromarray(frame).save(tmp_path / "in" / folder / f"{index:03}.png")
    model = load_model("photo")
    for name, options in (("single", ()), ("steady", ("--frames",))):
        result = run(capsys, main, tmp_path / "in", "--out", tmp_path / name, *options)
        assert (result.status, result.err) == (0, "")
        for number, folder in enumerate(("a", "b")):
            steady = SteadyMaps() if options else None
            for index, frame in enumerate(frames[number]):
                np.testing.assert_array_equal(read_image(tmp_path / name / folder / f"{index:03}.png"),
                                              enhance(model, frame, steady=steady))
    assert (read_image(tmp_path / "single/a/002.png") != read_image(tmp_path / "steady/a/002.png")).any()
    result = run(capsys, main, tmp_path / "in", "--out", tmp_path / "tiles", "--frames", "--tile", 0)
    assert_one_error(result.status, result.err, "--frames", "--tile")
    result = run(capsys, main, tmp_path / "in", "--out", tmp_path / "steady", "--frames", "--skip-existing")
    assert_one_error(result.status, result.err, "--frames", "--skip-existing", "would jump")
    with pytest.raises(ValueError, match="leave tile out"):
        enhance(model, frames[0, 0], steady=SteadyMaps(), tile=32)


def test_command(capsys, monkeypatch):
    monkeypatch.setattr(flicker, "EXPOSURES", (0.05,))
    monkeypatch.setattr(flicker, "VAL_PHOTOGRAPHS", ("chelsea",))
    result = run(capsys, flicker_main, "--frames", "12")
    assert result.status == 0 and result.out.count("still: mean brightness") == 1, result.err
    result = run(capsys, flicker_main, "--frames", "3")
    assert_one_error(result.status, result.err, "--frames", "12 or more")
