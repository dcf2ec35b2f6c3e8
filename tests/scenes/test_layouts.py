"""Layouts of folders of pairs, and the finished pictures of a method beside them."""
from __future__ import annotations

import numpy as np
import pytest
from commands import assert_one_error, run
from PIL import Image
from small_trainings import write_lol_v2, write_pairs

import mirnet_torch.evaluate as evaluate
import mirnet_torch.train as train
from conversion import judge
from mirnet_torch.cli import UserError
from mirnet_torch.scenes.sources import LAYOUTS, find_pairs, find_results, find_sources, find_split, match_pairs


@pytest.fixture
def lol_v2(tmp_path):
    root = write_lol_v2(tmp_path / "LOL-v2" / "Real_captured")
    return write_lol_v2(root, "Test", range(7, 9))


def files(pairs):
    return [(pair.low.name, pair.high.name) for pair in pairs]


def test_the_layout_and_the_names_of_lol_v2(lol_v2):
    train_pairs, val = find_split(lol_v2)
    assert files(train_pairs) == [(f"low{number:05d}.png", f"normal{number:05d}.png") for number in range(3)]
    assert [pair.name for pair in val] == ["low00007", "low00008"] == [pair.name for pair in find_pairs(lol_v2)]
    sources = find_sources([lol_v2])
    assert (len(sources.train[0].scenes), len(sources.val)) == (3, 2)


def test_the_synthetic_half_has_equal_names(tmp_path):
    write_pairs(tmp_path / "Train", ["r1", "r2"])
    (tmp_path / "Train" / "low").rename(tmp_path / "Train" / "Low")
    (tmp_path / "Train" / "high").rename(tmp_path / "Train" / "Normal")
    write_pairs(tmp_path / "Test", ["r3"])
    assert [files(half) for half in find_split(tmp_path)] == [[("r1.png",) * 2, ("r2.png",) * 2], [("r3.png",) * 2]]


def test_a_folder_above_a_layout_names_those_inside(lol_v2):
    with pytest.raises(UserError, match=f"has no low/ and high/ .* did you mean {lol_v2}") as caught:
        find_pairs(lol_v2.parent)
    assert "\n" not in str(caught.value)


def test_equal_names_come_before_equal_numbers(tmp_path):
    """"low1" in both folders is one pair, and "1" another."""
    write_pairs(tmp_path, ["1", "low1", "high2"])
    assert files(find_pairs(tmp_path)) == [("1.png", "1.png"), ("high2.png", "high2.png"), ("low1.png", "low1.png")]


def test_two_folders_anywhere(tmp_path):
    write_pairs(tmp_path, range(3))
    (tmp_path / "low").rename(tmp_path / "dark")
    assert files(match_pairs(tmp_path / "dark", tmp_path / "high")) == [(f"{n}.png", f"{n}.png") for n in range(3)]
    sources = find_sources([], low=tmp_path / "dark", high=tmp_path / "high")
    assert (len(sources.train[0].scenes), len(sources.val), sources.name) == (2, 1, "dark")
    (tmp_path / "high" / "2.png").unlink()
    with pytest.raises(UserError, match="1 bad images, .*dark/2.png has no partner in high/"):
        match_pairs(tmp_path / "dark", tmp_path / "high")
    with pytest.raises(UserError, match="gone is not a folder"):
        match_pairs(tmp_path / "gone", tmp_path / "high")
    with pytest.raises(UserError, match="given as --low and as --high"):
        match_pairs(tmp_path / "dark", tmp_path / "high" / ".." / "dark")


@pytest.mark.parametrize("name", ["low00001.png", "normal00001.jpg", "00001.png"])
def test_finished_pictures_are_found_by_either_name(lol_v2, tmp_path, name):
    (tmp_path / "method").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 32)).save(tmp_path / "method" / name.replace("1", str(number)))
    found = find_results(tmp_path / "method", find_pairs(lol_v2, "train"))
    assert [path.name for path in found] == [name.replace("1", str(number)) for number in range(3)]


def test_missing_and_odd_pictures_are_named_in_one_line(tmp_path):
    pairs = find_pairs(write_pairs(tmp_path / "pairs", range(4)))
    write_pairs(tmp_path / "method", [1, 2])
    with pytest.raises(UserError, match="2 pictures are missing or do not fit: there is no picture of 0; there is no "):
        find_results(tmp_path / "method" / "high", pairs)
    write_pairs(tmp_path / "method", range(4))
    Image.new("RGB", (20, 16)).save(tmp_path / "method" / "high" / "1.png")
    (tmp_path / "method" / "high" / "3.png").write_bytes(b"no image")
    with pytest.raises(UserError) as caught:
        find_results(tmp_path / "method" / "high", pairs)
    assert "\n" not in str(caught.value) and "1.png is 20x16, but " in str(caught.value)
    assert "3.png is not a readable image" in str(caught.value)
    (tmp_path / "method" / "high" / "3.png").unlink()
    write_pairs(tmp_path / "method", range(4))
    Image.new("RGB", (20, 16)).save(tmp_path / "method" / "high" / "1.png")
    assert len(find_results(tmp_path / "method" / "high", pairs, (20, 16))) == 4  # of the size that is measured


@pytest.mark.parametrize("main", [train.main, evaluate.main, judge.main], ids=["train", "evaluate", "judge"])
def test_every_command_says_the_same_of_layouts(capsys, monkeypatch, main):
    monkeypatch.setenv("COLUMNS", "10000")
    assert LAYOUTS in " ".join(run(capsys, main, "--help").out.split())
    result = run(capsys, main, "--data", "nowhere")
    assert_one_error(result.status, result.err, "nowhere is not a folder", LAYOUTS)


def test_judge_takes_the_layout_of_lol_v2(capsys, lol_v2, monkeypatch):
    monkeypatch.setattr(judge, "EXPOSURES", np.arange(1))
    result = run(capsys, judge.main, "--data", lol_v2)
    assert result.status == 0 and result.out.startswith("2 frames of Real_captured, 160x120"), result.err
