"""Measuring: scores against scikit-image on files, the report, camera size, and what a report must say."""
from __future__ import annotations

import csv
import hashlib
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import assert_one_error, run
from golden import filled
from PIL import Image
from skimage import data
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mirnet_torch import MIRNet, MIRNetConfig, create_model, enhance, load_model, save_model
from mirnet_torch.evaluate import evaluate, main
from mirnet_torch.files.images import camera_size, read_image
from mirnet_torch.measures.contact_sheet import GAP, LINE, MARGIN
from mirnet_torch.scenes.sources import find_pairs

SSIM = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three pairs in the layout of LOL, one of them identical and smaller than SSIM's window, and a checkpoint."""
    root = tmp_path_factory.mktemp("evaluate")
    save_model(filled(create_model("mcu")), root / "mcu.safetensors")
    truths = {"2": data.astronaut()[:90, :135], "10": data.coffee()[100:190, 200:320],
              "11": data.chelsea()[100:108, :30]}
    for name, truth in truths.items():
        for side, image in (("high", truth), ("low", truth if name == "11" else truth // 8)):
            for half in ("our485", "eval15"):
                (root / "data" / half / side).mkdir(parents=True, exist_ok=True)
                if half == "eval15" or name == "2":
                    Image.fromarray(image).save(root / "data" / half / side / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder / "mcu.safetensors")


@pytest.mark.parametrize("size", [None, (40, 30)])
def test_scores_are_those_of_the_protocol(folder, model, size):
    pairs = find_pairs(folder / "data", "val")
    evaluation = evaluate(model, pairs, size=size)
    assert [scores.name for scores in evaluation.pairs] == ["2", "10", "11"]
    for pair, scores in list(zip(pairs, evaluation.pairs))[:2]:
        low, high = (np.asarray(Image.open(path)) for path in (pair.low, pair.high))
        if size:
            low, high = camera_size(low, size), camera_size(high, size)
        assert (scores.width, scores.height) == low.shape[1::-1]
        for image, measured in ((low, scores.scores["input"]), (enhance(model, low), scores.scores["output"])):
            assert measured["psnr"] == pytest.approx(peak_signal_noise_ratio(high, image))
            assert measured["ssim"] == pytest.approx(structural_similarity(high, image, **SSIM))
            assert measured["delta_e"] == pytest.approx(deltaE_ciede2000(rgb2lab(high), rgb2lab(image)).mean())
    inputs, outputs = ([pair.scores[name]["psnr"] for pair in evaluation.pairs] for name in ("input", "output"))
    assert evaluation.means["output"]["psnr"].mean == pytest.approx(np.mean(outputs))
    assert evaluation.means["input"]["psnr"].mean == pytest.approx(np.mean(inputs[:2]))
    assert inputs[2] == math.inf
    assert math.isnan(evaluation.pairs[2].scores["input"]["ssim"]) == (size is None)


def test_identity_network_scores_as_the_input(folder):
    network = MIRNet(MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1))
    torch.nn.init.zeros_(network.conv_out.weight)
    evaluation = evaluate(network, find_pairs(folder / "data", "val")[:2])
    assert repr(evaluation.means["output"]) == repr(evaluation.means["input"])


def test_report_holds_the_scores_and_all_one_needs_to_repeat_them(capsys, folder, tmp_path, model):
    options = ("--data", folder / "data", "--checkpoint", folder / "mcu.safetensors", "--out", tmp_path / "new" / "out",
               "--device", "cpu")
    result = run(capsys, main, *options)
    assert (result.status, result.err) == (0, "")
    evaluation = evaluate(model, find_pairs(folder / "data", "val"))
    lines = result.out.splitlines()
    labels = "PSNR, dB", "SSIM", "dE2000"
    assert lines[0].split("  ") == ["image", *(f"{which} {label}" for which in ("input", "output") for label in labels)]
    assert lines[5] == "mean of 3, with 95 % intervals"
    for name, line in zip(("input", "output"), lines[7:]):
        means = evaluation.means[name]
        assert line.split() == [name, f"{means['psnr'].mean:.2f}", f"{means['ssim'].mean:.4f}",
                                f"{means['delta_e'].mean:.2f}"]
    assert "no ground-truth-mean correction" in result.out

    written = json.loads((tmp_path / "new" / "out" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert written["means"]["output"]["psnr"] == {"mean": evaluation.means["output"]["psnr"].mean, "low": None,
                                                  "high": None}
    assert written["pairs"][2]["scores"]["input"] == {"psnr": "inf", "ssim": None, "delta_e": 0.0}
    protocol = written["protocol"]
    assert protocol["checkpoint_sha256"] == hashlib.sha256((folder / "mcu.safetensors").read_bytes()).hexdigest()
    assert protocol["config"] == json.loads(json.dumps(model.config.to_dict())) and protocol["size"] is None
    assert protocol["versions"]["torch"] == torch.__version__.split("+")[0]

    with open(tmp_path / "new" / "out" / "evaluation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["2", "10", "11"]
    assert float(rows[0]["output_psnr"]) == evaluation.pairs[0].scores["output"]["psnr"]
    assert rows[2]["input_psnr"] == "inf" and rows[2]["input_ssim"] == ""

    sheet = read_image(tmp_path / "new" / "out" / "contact_sheet.png")
    low, high = (read_image(folder / "data" / "eval15" / side / "2.png") for side in ("low", "high"))
    top = MARGIN + 2 * LINE  # below the heads and the text of the row
    for column, picture in enumerate((low, enhance(model, low), high)):
        left = MARGIN + column * (135 + GAP)
        np.testing.assert_array_equal(sheet[top:top + 90, left:left + 135], picture)

    before = (tmp_path / "new" / "out" / "evaluation.json").read_bytes()
    result = run(capsys, main, *options)
    assert_one_error(result.status, result.err, "evaluation.json", "--overwrite")
    assert (tmp_path / "new" / "out" / "evaluation.json").read_bytes() == before
    assert run(capsys, main, *options, "--overwrite").status == 0
    assert (tmp_path / "new" / "out" / "evaluation.json").read_bytes() == before  # the same again, to the byte


def test_module_runs_from_a_shell_at_camera_size_and_on_the_other_split(folder):
    command = [sys.executable, "-m", "mirnet_torch.evaluate", "--data", folder / "data", "--split", "train",
               "--checkpoint", folder / "mcu.safetensors", "--size", "40x30"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mean of 1" in done.stdout and "box filter to 40x30" in done.stdout


def test_missing_scikit_image_is_one_error(capsys, folder, monkeypatch):
    monkeypatch.delitem(sys.modules, "mirnet_torch.scenes.sources")
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    result = run(capsys, main, "--data", folder / "data", "--checkpoint", folder / "mcu.safetensors")
    assert_one_error(result.status, result.err, "skimage", 'pip install "mirnet-torch[train]"')
