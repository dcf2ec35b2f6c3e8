"""LPIPS and the metrics of pyiqa: what they measure, and what is said where a package or weights lack."""
from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest
import torch
from commands import assert_one_error, run
from skimage import data
from small_trainings import write_pairs

from mirnet_torch import load_model
from mirnet_torch.cli import UserError
from mirnet_torch.evaluate import evaluate, main
from mirnet_torch.measures.perceptual import load_iqa, load_lpips
from mirnet_torch.scenes.sources import find_pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("perceptual"), range(2), size=(64, 48))


@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
def test_lpips_is_measured_where_its_weights_are(folder, monkeypatch):
    """With random weights for AlexNet, which are not at hand: equal images are at 0, darker ones farther away."""
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    monkeypatch.setattr(lpips, "LPIPS", lambda **options: network)
    metric = load_lpips()
    truth = data.astronaut()[:64, 200:264]
    assert metric.measure(truth, truth) == 0 and metric.lower_is_better
    assert 0 < metric.measure(truth // 2, truth) < metric.measure(truth // 8, truth)
    assert math.isnan(metric.measure(truth[:31], truth[:31]))
    assert math.isfinite(metric.measure(truth[:32, :32], truth[:32, :32]))
    evaluation = evaluate(load_model("mcu"), find_pairs(folder), metrics=[metric])
    measured = [pair.scores["output"]["lpips"] for pair in evaluation.pairs]
    assert evaluation.means["output"]["lpips"].mean == pytest.approx(np.mean(measured))


def test_lpips_without_its_weights_is_one_error(capsys, folder, monkeypatch, tmp_path):
    pytest.importorskip("lpips")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no server listens there
    result = run(capsys, main, "--data", folder, "--lpips")
    assert_one_error(result.status, result.err, "AlexNet's weights", str(tmp_path))


@pytest.mark.parametrize("name, option", [("lpips", ["--lpips"]), ("pyiqa", ["--iqa", "piqe"])])
def test_a_missing_package_is_one_error(capsys, folder, monkeypatch, name, option):
    monkeypatch.setitem(sys.modules, name, None)
    result = run(capsys, main, "--data", folder, *option)
    assert_one_error(result.status, result.err, f"needs the package {name}", "pip install")


class Distance:
    """Stands for a metric of pyiqa: the mean absolute difference; it cannot take pictures under 20 pixels."""

    metric_mode, lower_better = "FR", True

    def __call__(self, output, truth):
        assert output.shape[-1] >= 20, "Kernel size can't be greater\nthan actual input size"
        return (output - truth).abs().mean()


def fake_pyiqa(monkeypatch, create):
    module = types.ModuleType("pyiqa")
    module.list_models = lambda: ["niqe", "distance"]
    module.create_metric = lambda name, device: create()
    monkeypatch.setitem(sys.modules, "pyiqa", module)


def test_a_metric_of_pyiqa_is_measured_and_named_where_it_cannot(monkeypatch, folder):
    fake_pyiqa(monkeypatch, Distance)
    metric = load_iqa("distance")
    white = np.full((48, 64, 3), 255, np.uint8)
    assert metric.measure(white, 0 * white) == 1.0 and metric.lower_is_better
    with pytest.raises(UserError, match="--iqa distance cannot measure a picture of 10x48: .*Kernel size") as caught:
        metric.measure(white[:, :10], white[:, :10])
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_downloaded_are_named_with_their_place(monkeypatch):
    def offline():
        print('Downloading: "https://host/weights.mat" to /cache/pyiqa/weights.mat\n')
        raise OSError("Name or service not known")
    fake_pyiqa(monkeypatch, offline)
    with pytest.raises(UserError, match="needs weights that are not on this computer .*: download "
                                        "https://host/weights.mat .* put it at /cache/pyiqa/weights.mat$"):
        load_iqa("niqe")


def test_an_unknown_metric_names_near_ones(monkeypatch):
    fake_pyiqa(monkeypatch, Distance)
    with pytest.raises(UserError, match="pyiqa has no such metric; near are niqe; .*list_models"):
        load_iqa("nique")


def test_pyiqa_itself(tmp_path, monkeypatch):
    """piqe needs no weights: noise raises it. niqe's are not at hand in an empty cache without a network."""
    pytest.importorskip("pyiqa", reason="the extra [iqa] is not installed")
    piqe, picture = load_iqa("piqe"), data.astronaut()[:240, :320]
    noisy = (picture + np.random.default_rng(0).normal(0, 40, picture.shape)).clip(0, 255).astype(np.uint8)
    assert piqe.lower_is_better and piqe.measure(noisy, picture) > piqe.measure(picture, picture) + 5
    import pyiqa.utils.download_util as downloads
    monkeypatch.setattr(downloads, "DEFAULT_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=f"--iqa niqe needs weights .*put it at {tmp_path}/niqe_modelparameters.mat"):
        load_iqa("niqe")
