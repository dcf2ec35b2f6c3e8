"""Judging the board's pictures: the measures on pictures made to have each fault, and the shipped model itself."""
from __future__ import annotations

import json

import numpy as np
import pytest
from commands import assert_one_error, run
from small_panoramas import scene, write_radiance
from tiny_models import convert_function

from conversion import judge
from conversion.judge import block_edges, find_artifacts, open_board
from mirnet_torch.checkpoint import WEIGHTS, load_model
from mirnet_torch.measures.metrics import mean_score, psnr
from mirnet_torch.restoration.picture import enhance
from mirnet_torch.scenes.sources import validation_frames

SHIPPED = WEIGHTS / "mcu_int8.tflite"


@pytest.fixture(scope="module")
def frames():
    return [(dark, truth) for _, dark, truth in validation_frames(None, (160, 120))]


@pytest.fixture(scope="module")
def board():
    return open_board(SHIPPED)


def test_a_grid_is_seen(frames):
    _, truth = frames[0]
    assert block_edges([truth], 5) == pytest.approx(1, abs=0.1)
    faint = (0.7 * truth + 0.3 * truth[::5, ::5].repeat(5, 0).repeat(5, 1)).astype(np.uint8)
    assert 1.5 < block_edges([faint], 5) < 4 and block_edges([faint], 7) < 1.3


def test_other_faults_are_seen(frames):
    dark, truths = zip(*frames)
    perfect = find_artifacts(lambda frame: frame, truths, truths, 5)
    assert (perfect.grid, perfect.cast, perfect.burnt, perfect.lit_gain) == (1, 0, 0, 1)
    assert perfect.lit_psnr == np.inf
    red = find_artifacts(lambda frame: np.minimum(frame.astype(int) + [30, 0, 0], 255).astype(np.uint8), truths, truths,
                         5)
    assert red.cast > 10
    burnt = find_artifacts(lambda frame: np.full_like(frame, 255), truths, truths, 5)
    assert burnt.burnt > 0.9 and burnt.lit_gain > 2 and burnt.lit_psnr < 10


def test_the_board_is_near_the_network(frames, board):
    """Near its pictures, and at most 0.10 dB farther from the truth."""
    restore, model = board[0], load_model("mcu")
    dark, truths = zip(*frames)
    ours, exact = [restore(frame) for frame in dark], [enhance(model, frame) for frame in dark]
    assert mean_score(psnr(*pair) for pair in zip(ours, exact)) >= 38
    assert judge.quality_of(ours, truths).psnr >= judge.quality_of(exact, truths).psnr - 0.10


def test_the_shipped_model_s_pictures_have_none_of_the_faults(frames, board):
    restore, cell = board
    found = find_artifacts(restore, [restore(dark) for dark, _ in frames], [truth for _, truth in frames], cell)
    assert found.grid <= 1.05
    assert found.cast <= 3  # levels
    assert found.burnt <= 0.02
    assert found.lit_psnr >= 22 and 0.9 <= found.lit_gain <= 1.1


def test_command(capsys, tmp_path):
    result = run(capsys, judge.main, "--out", tmp_path / "judged")
    assert not result.status and "histogram equalisation" in result.out, result.err
    content = json.loads((tmp_path / "judged" / "judgement.json").read_text())
    for name in ("float32", "board"):  # with its best exposure every picture has nearly the brightness of its truth
        plain, best = content["quality"][name], content["quality"][f"{name}, best exposure"]
        assert plain["psnr"] <= best["psnr"] and best["psnr"] >= plain["psnr_at_best_gain"] - 1
    assert content["quality"]["board"]["psnr"] > content["quality"][f"gamma {content['gamma']:.2f}"]["psnr"]
    assert (tmp_path / "judged" / "contact_sheet.png").is_file()


def test_nights_are_judged_by_what_must_not_happen(capsys, tmp_path):
    """Views of a panorama made here: the untouched frame changes nothing, and nothing is printed without numbers."""
    folder = tmp_path / "panoramas"
    folder.mkdir()
    for number in range(2):
        write_radiance(folder / f"{number}.hdr", scene(64, seed=number))
    result = run(capsys, judge.main, "--nights", folder, "--out", tmp_path / "judged")
    assert not result.status, result.err
    nights = json.loads((tmp_path / "judged" / "judgement.json").read_text())["nights"]
    assert nights.keys() == {f"{name}, {kind}" for name in ("untouched", "float32", "board")
                             for kind in ("nights", "nights with lamps")}
    untouched, board = nights["untouched, nights with lamps"], nights["board, nights with lamps"]
    assert untouched["coloured"] == untouched["darker"] == untouched["white"] == 0
    assert board["psnr"] > untouched["psnr"] and len(board["blended_psnr"]) == 4
    assert result.out.count("lit neutral pixels coloured") == 6


@pytest.mark.parametrize("arguments, words", [
    (("--nights", "nowhere"), ("nowhere",)),
    (("--checkpoint", "mcu", "--model", "missing.tflite"), ("missing.tflite",)),
    (("--checkpoint", "missing.pt", "--model", SHIPPED), ("missing.pt",)),
    (("--checkpoint", "photo", "--model", SHIPPED), ("photo", "runs on no board")),
    (("--noise", "-4"), ("--noise", "'-4'")), (("--noise", "nan"), ("--noise", "'nan'")),
    (("--data", ""), ("--data", "empty")),
    (("--checkpoint", "mcu"), ("--model", "both")), (("--data", "nowhere"), ("nowhere",))])
def test_bad_input(capsys, arguments, words):
    result = run(capsys, judge.main, *arguments)
    assert_one_error(result.status, result.err, *words)


def test_a_model_that_is_none_for_the_board_is_an_error(capsys, tmp_path):
    path = convert_function(tmp_path / "other.tflite", lambda x: 2 * x, (1, 24, 32, 12))
    result = run(capsys, judge.main, "--checkpoint", "mcu", "--model", path)
    assert_one_error(result.status, result.err, "other.tflite", "160x120")
