"""The design search: one design from training to its row of the table, and going on where it stopped."""
from __future__ import annotations

import json

import pytest
from commands import assert_one_error, run

from conversion import search
from mirnet_torch.model import MIRNet, MIRNetConfig
from mirnet_torch.train import TrainingInterrupted


def test_designs_are_networks_for_the_same_frames():
    configs = [config for _, config in search.ALL.values()]
    assert len(set(configs)) == len(configs)
    for config in configs:
        MIRNet(config)
        assert not 160 % config.multiple and not 120 % config.multiple
    assert search.ALL["mcu"][1] == MIRNetConfig.preset("mcu")


def test_one_design_interrupted_and_again(capsys, tmp_path, monkeypatch):
    out, command = tmp_path / "search", ("--only", "no-streams", "--epochs", "1", "--out", tmp_path / "search")

    def interrupted(training):
        training.step = 3
        training.save()
        raise TrainingInterrupted(2, "")

    with monkeypatch.context() as patch:
        patch.setattr("mirnet_torch.train._Training.fit", interrupted)
        stopped = run(capsys, search.main, *command)
    assert stopped.status == 130 and "goes on" in stopped.err and not (out / "no-streams" / "row.json").exists()
    for changed in (("--epochs", "2"), ("--seed", "1")):
        other = run(capsys, search.main, *command, *changed)
        assert_one_error(other.status, other.err, "no-streams", "recipe.json", "--out")

    monkeypatch.setattr("mirnet_torch.train.train", lambda options: pytest.fail("it started anew"))
    first = run(capsys, search.main, *command)
    assert not first.status, first.err
    row = json.loads((out / "no-streams" / "row.json").read_text())
    assert row["parameters"] == 7603 and 1e6 < row["macs"] < row["instructions"] < 1e8
    assert f"| {row['psnr']:.2f} | {row['ssim']:.3f} |" in first.out
    assert (out / "search.md").read_text().strip() in first.out
    again = run(capsys, search.main, *command)
    assert again.out.splitlines()[-1] == first.out.splitlines()[-1]
    (out / "no-streams" / "row.json").write_text("{")
    damaged = run(capsys, search.main, *command)
    assert_one_error(damaged.status, damaged.err, "row.json", "remove")


def test_an_unknown_design_is_an_error(capsys, tmp_path):
    result = run(capsys, search.main, "--only", "huge", "--out", tmp_path / "search")
    assert_one_error(result.status, result.err, "huge", "no-skff")
