"""Scoring finished pictures of any method: the same figures as for a network, and what a difference says."""
from __future__ import annotations

import csv
import hashlib
import json
import shutil

import numpy as np
import pytest
from commands import assert_one_error, run
from PIL import Image
from small_trainings import write_lol_v2, write_pairs

from mirnet_torch import enhance, load_model, save_model
from mirnet_torch.cli import pick_device
from mirnet_torch.evaluate import main
from mirnet_torch.files.images import camera_size, read_image, write_image
from mirnet_torch.measures.classical import METHODS, best_gamma
from mirnet_torch.measures.contact_sheet import GAP, LINE, MARGIN, contact_sheet
from mirnet_torch.scenes.sources import find_pairs

PAIRS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs, the pictures of the shipped network as files, and worse ones of a method that adds noise to them."""
    root = tmp_path_factory.mktemp("results")
    write_pairs(root / "data", range(PAIRS))
    model, rng = load_model("mcu"), np.random.default_rng(0)
    for name in ("ours", "noisy"):
        (root / name).mkdir()
    for pair in find_pairs(root / "data"):
        picture = enhance(model, read_image(pair.low))
        Image.fromarray(picture).save(root / "ours" / f"{pair.name}.png")
        noisy = (picture + rng.normal(0, 25, picture.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / "noisy" / f"{pair.name}.png")
    return root


def test_finished_pictures_score_as_the_network_that_made_them(capsys, folder, tmp_path):
    result = run(capsys, main, "--data", folder / "data", "--checkpoint", "mcu", "--results", folder / "ours",
                 "--results", folder / "noisy", "--out", tmp_path)
    assert (result.status, result.err) == (0, "")
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(written["means"]) == ["input", "output", "ours", "noisy"]
    assert written["means"]["ours"] == written["means"]["output"] and written["protocol"]["results"]["ours"]
    low, mean, high = (written["means"]["ours"]["psnr"][key] for key in ("low", "mean", "high"))
    assert low < mean < high
    lines = result.out.splitlines()
    said = {line.split("  ")[0]: line for line in lines if " - output" in line and "PSNR" in line}
    assert said["ours - output"].endswith("+0.00 [+0.00, +0.00]  no difference shown")
    assert said["noisy - output"].rstrip().endswith("worse")
    assert [line.split()[-1] for line in lines if line.startswith("noisy - output")] == ["worse"] * 3
    with open(tmp_path / "evaluation.csv", newline="") as file:
        (row, *_) = csv.DictReader(file)
    assert row["ours_delta_e"] == row["output_delta_e"] and float(row["noisy_psnr"]) < float(row["ours_psnr"])
    assert read_image(tmp_path / "contact_sheet.png").shape[1] >= 2 * MARGIN + 5 * 40 + 4 * GAP


@pytest.mark.parametrize("arguments, said", [
    (["--checkpoint", "tuned.safetensors"], True), (["--beside", "tuned.safetensors"], True), ([], False),
    (["--checkpoint", "tuned.safetensors", "--split", "val"], False)])
def test_pairs_that_a_network_of_the_user_may_know_are_counted(capsys, folder, monkeypatch, arguments, said):
    monkeypatch.chdir(folder)
    save_model(load_model("mcu"), "tuned.safetensors")
    for source in (["--data", "data"], ["--low", "data/low", "--high", "data/high"]):
        result = run(capsys, main, *source, *(arguments if "--checkpoint" in arguments else
                                              ["--checkpoint", "mcu", *arguments]))
        assert (result.status, result.err) == (0, "")
        assert ("A network that was trained on them knows 5: --split val measures the other 1" in result.out) is said


def test_finished_pictures_need_no_network(capsys, folder):
    result = run(capsys, main, "--low", folder / "data" / "low", "--high", folder / "data" / "high",
                 "--results", folder / "noisy", "--results", folder / "ours")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].startswith("image  input PSNR, dB") and "output" not in lines[0]
    assert [line.split()[-1] for line in lines if line.startswith("ours - noisy")] == ["better"] * 3


def test_pictures_at_full_size_or_at_the_size_measured(capsys, folder, tmp_path):
    """A method that ran on the small frames, and one whose large pictures are cropped and filtered as the truths."""
    (tmp_path / "small").mkdir()
    for path in (folder / "ours").iterdir():
        write_image(camera_size(read_image(path), (20, 16)), tmp_path / "small" / path.name)
    result = run(capsys, main, "--data", folder / "data", "--size", "20x16", "--results", folder / "ours",
                 "--results", tmp_path / "small")
    assert result.status == 0, result.err
    ours, small = (next(line for line in result.out.splitlines() if line.startswith(f"{name} ") and "[" in line).split()
                   for name in ("ours", "small"))
    assert ours[1:] == small[1:]


def test_the_names_of_lol_v2(capsys, tmp_path):
    root = write_lol_v2(tmp_path / "data", "Test", range(PAIRS))
    (tmp_path / "output").mkdir()  # its name is taken
    for path in (root / "Test" / "Normal").iterdir():
        Image.open(path).save(tmp_path / "output" / path.name)
    result = run(capsys, main, "--data", root, "--split", "val", "--results", tmp_path / "output")
    assert result.status == 0, result.err
    assert any(line.split()[:2] == [str(tmp_path / "output"), "inf"] for line in result.out.splitlines())


def test_a_network_and_pictures_of_one_name_are_kept_apart(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "noisy", "mcu")
    result = run(capsys, main, "--data", folder / "data", "--results", "mcu", "--beside", "mcu", "--out", "out")
    assert (result.status, result.err) == (0, "")
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert list(written["means"]) == ["input", "mcu", str(tmp_path / "mcu")]
    assert written["means"]["mcu"]["psnr"]["mean"] > written["means"][str(tmp_path / "mcu")]["psnr"]["mean"]
    assert written["protocol"]["results"] == {str(tmp_path / "mcu"): "mcu"}


def test_the_training_pairs_are_searched_once_for_all_methods(capsys, folder, monkeypatch):
    """Each search decodes every pair."""
    asked = []
    monkeypatch.setattr("mirnet_torch.evaluate.find_pairs",
                        lambda *arguments: asked.append(arguments[1:]) or find_pairs(*arguments))
    beside = [word for name in METHODS for word in ("--beside", name)]
    run(capsys, main, "--data", folder / "data", *beside)
    assert asked.count(("train",)) == 1


def test_the_protocol_tells_what_stood_beside_and_where_it_ran(capsys, folder, tmp_path):
    path = tmp_path / "other.safetensors"
    save_model(load_model("mcu"), path)
    result = run(capsys, main, "--data", folder / "data", "--checkpoint", "mcu", "--beside", path, "--beside", "gamma",
                 "--beside", "equalise", "--out", tmp_path / "out")
    assert (result.status, result.err) == (0, "")
    protocol = json.loads((tmp_path / "out" / "evaluation.json").read_text())["protocol"]
    pairs = [(read_image(pair.low), read_image(pair.high)) for pair in find_pairs(folder / "data", "train")]
    exponent = best_gamma([(camera_size(low), camera_size(high)) for low, high in pairs])
    assert protocol["beside"] == {
        "other": {"checkpoint": str(path), "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                  "config": json.loads(json.dumps(load_model("mcu").config.to_dict()))},
        "gamma": {"exponent": exponent, "tuned_on": f"the training pairs of {folder / 'data'}"}, "equalise": {}}
    assert protocol["device"] == str(pick_device("auto")) and protocol["seed_of_nights"] is None


@pytest.mark.parametrize("arguments, words", [
    (["--results", "ours"], ["--results needs the pairs"]),
    (["--data", "data", "--results", "gone"], ["gone is not a folder"]),
    (["--data", "data", "--results", "empty"], ["empty: 6 pictures are missing", "there is no picture of 0"]),
    (["--low", "data/low"], ["--low and --high belong together"]),
    (["--low", "data/low", "--high", "data/high", "--data", "data"], ["take the place of --data"]),
])
def test_bad_arguments_are_one_error(capsys, folder, monkeypatch, arguments, words):
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir(exist_ok=True)
    result = run(capsys, main, *arguments)
    assert_one_error(result.status, result.err, *words)


def test_a_contact_sheet_has_columns_under_heads():
    """Pictures of a column stand one below the other, whatever their sizes; long texts are not cut off."""
    small, large = np.full((10, 20, 3), 10, np.uint8), np.full((30, 50, 3), 200, np.uint8)
    rows = [(["a", "b"], [small, large]), (["c", "long " * 200], [large, small])]
    sheet = np.array(contact_sheet(rows, ["one", "two"]))
    second = MARGIN + 50 + GAP
    top = MARGIN + 2 * LINE
    assert (sheet[top:top + 10, MARGIN:MARGIN + 20] == 10).all()
    assert (sheet[top:top + 30, second:second + 50] == 200).all()
    below = top + 30 + GAP + LINE
    assert (sheet[below:below + 30, MARGIN:MARGIN + 50] == 200).all()
    assert (sheet[below:below + 10, second:second + 20] == 10).all()
    for left in (MARGIN, second):  # the heads, and the texts of the first row
        assert (sheet[MARGIN:MARGIN + LINE, left:left + 20] < 128).any()
        assert (sheet[MARGIN + LINE:top, left:left + 20] < 160).any()
    assert sheet.shape[1] > 1000 and (sheet[:, -MARGIN:] == 255).all()
