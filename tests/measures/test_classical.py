"""The methods without a network, and their place beside one in `evaluate`."""
from __future__ import annotations

import json

import numpy as np
import pytest
from skimage import data
from small_panoramas import scene, write_radiance

from mirnet_torch import load_model, save_model
from mirnet_torch.evaluate import main
from mirnet_torch.measures.classical import (METHODS, best_gamma, darkened, denoise, equalise_histogram, gamma,
                                             open_methods)
from mirnet_torch.measures.metrics import psnr


@pytest.fixture(scope="module")
def frames():
    return darkened()[:2]


def test_best_gamma_is_found(frames):
    pairs = [(truth, gamma(truth, 0.42)) for _, truth in frames]
    assert best_gamma(pairs) == pytest.approx(0.42)


def test_equalised_histogram_is_flat(frames):
    value = equalise_histogram(frames[0][0]).max(2)
    counts, _ = np.histogram(value, 4, (0, 256))
    assert counts.min() > 0.5 * counts.max()


def test_denoising_removes_noise():
    picture = data.chelsea()[:96, :128]
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 15, picture.shape), 0, 255).astype(np.uint8)
    assert psnr(denoise(noisy), picture) > psnr(noisy, picture) + 3


@pytest.mark.parametrize("name", METHODS)
def test_every_method_brightens(frames, name):
    method = open_methods(best_gamma(frames))[name]
    for dark, truth in frames:
        assert method(dark).shape == truth.shape and psnr(method(dark), truth) > psnr(dark, truth)


def test_nights_are_counted_for_every_method(capsys, tmp_path):
    for number in range(2):
        write_radiance(tmp_path / f"{number}.hdr", scene(32, seed=number))
    main(["--nights", str(tmp_path), "--size", "48x36", "--beside", "gamma", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "output: " in printed and "gamma: " in printed and printed.count("lit neutral pixels coloured") == 2
    protocol = json.loads((tmp_path / "out" / "evaluation.json").read_text())["protocol"]
    assert protocol["seed_of_nights"] == 0
    assert protocol["beside"]["gamma"] == {"exponent": best_gamma(darkened()),
                                           "tuned_on": "darkened photographs of scikit-image"}


def test_networks_of_one_name_are_kept_apart(capsys, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_model(load_model("mcu"), tmp_path / folder / "best.safetensors")
    paths = [str(tmp_path / folder / "best.safetensors") for folder in ("a", "b")]
    main(["--size", "64x48", "--checkpoint", "mcu", "--beside", paths[0], "--beside", paths[1]])
    printed = capsys.readouterr().out
    assert "best - output" in printed and f"{paths[1]} - output" in printed


def test_methods_and_networks_beside_one(capsys):
    main(["--size", "64x48", "--beside", "equalise", "--beside", "gamma", "--beside", "mcu"])
    printed = capsys.readouterr().out
    for method in ("output", "equalise", "gamma", "mcu"):
        assert any(line.strip().startswith(method) for line in printed.splitlines()), printed
    assert "gamma - output" in printed
