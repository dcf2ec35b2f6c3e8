"""The training command: what it learns, keeps and says, and how it fails."""
from __future__ import annotations

import dataclasses
import json
import os
import pickle
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from commands import assert_one_error, run
from PIL import Image
from small_panoramas import scene, write_radiance
from small_trainings import NETWORK, as_arguments, load_state, small_options, write_data, write_pairs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mirnet_torch.train as training
import mirnet_torch.training.data as training_data
from mirnet_torch import CompactConfig, MIRNet, MIRNetConfig, create_model, load_model, save_model
from mirnet_torch.checkpoint import load_notes
from mirnet_torch.cli import UserError
from mirnet_torch.evaluate import evaluate
from mirnet_torch.scenes.sources import find_pairs
from mirnet_torch.train import learning_rate, main, mix_up, resume, train
from mirnet_torch.training.data import make_loader
from mirnet_torch.training.options import TrainOptions, command_line, field_texts, parse_arguments
from mirnet_torch.training.samples import mixup_draw


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def finished(root):
    """A finished training of a small network."""
    return train(TrainOptions(**small_options(root), out=root / "finished"))


class Hostile:
    """Unpickled, it would run a command."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def build(root, **changes):
    """Set a training up without running it."""
    return training.set_up(TrainOptions(**{**small_options(root), "out": root / "unused", **changes}))


def test_a_training_learns(root, tmp_path):
    options = {**small_options(root), "epochs": 25, "lr": 5e-3, "ema": 0.9, "jitter": False, "mixup_alpha": 0.0,
               "validate_every": 25}
    result = train(TrainOptions(**options, out=tmp_path / "run"))
    writer = EventAccumulator(str(tmp_path / "run")).Reload()
    losses = [event.value for event in writer.Scalars("train/loss")]
    scores = [event.value for event in writer.Scalars("val/psnr")]
    assert np.mean(losses[-5:]) < 0.6 * losses[0]
    assert result.epoch == 25 and result.psnr == pytest.approx(scores[-1]) and result.psnr > scores[0] + 2


def test_files_of_a_run(root, finished):
    """Averaged weights in both files, scores as `evaluate` measures them, curves and pictures for TensorBoard."""
    state = load_state(root / "finished")
    assert {"config", "model", "ema", "optimizer", "random", "best", "step"} <= state.keys()
    assert state["step"] == 6 and state["best"]["psnr"] == finished.psnr
    for name, row in load_model(finished.last).state_dict().items():
        assert torch.equal(row, state["ema"][name])
    assert not torch.equal(state["ema"]["conv_in.weight"], state["model"]["conv_in.weight"])
    measured = evaluate(load_model(finished.best), find_pairs(root / "data", "val")).means["output"]
    assert (measured["psnr"].mean, measured["ssim"].mean) == pytest.approx((finished.psnr, finished.ssim))
    notes = load_notes(finished.best)
    assert notes["validation"]["psnr"] == finished.psnr and notes["data"] == "data" and notes["seed"] == 3
    events = EventAccumulator(str(root / "finished")).Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/grad_norm", "train/learning_rate", "val/psnr",
                                             "val/ssim"}
    assert [event.step for event in events.Scalars("val/psnr")] == [0, 2, 4, 6]
    grid = events.Images("val/dark_output_truth")[0]
    assert (grid.width, grid.height) == (3 * 40, 2 * 32)


def test_the_command_of_the_notes_repeats_the_training(root, finished):
    words = load_notes(finished.best)["command"].split()
    assert words[:3] == ["python", "-m", "mirnet_torch.train"]
    given = parse_arguments(words[3:], "")
    again = TrainOptions.for_preset(given.pop("preset"), **given)
    assert again == TrainOptions(**small_options(root), out=root / "finished")


def test_lines_off_a_terminal(capsys, root, tmp_path, monkeypatch):
    monkeypatch.setattr("mirnet_torch.training.console.SILENCE", 1e9)
    options = {**small_options(root), "validate_every": 2}
    result = run(capsys, main, *as_arguments(options), "--out", tmp_path / "run")
    assert result.status == 0 and result.err == ""
    lines = result.out.splitlines()
    assert lines[1].endswith(" on this machine, without reading images and validations")
    assert [line.split("  ")[0] for line in lines[2:5]] == ["epoch 0/3", "epoch 2/3", "epoch 3/3"]
    assert "images/s" in lines[3] and "ETA" in lines[3] and "PSNR" in lines[3] and len(lines) == 6
    assert str(tmp_path / "run" / "best.safetensors") in lines[5]


def test_the_embedded_default_trains(capsys, root, tmp_path):
    result = run(capsys, main, "--config", root / "small.json", "--epochs", 1, "--batch", 64, "--patch", 16,
                 "--val-size", "40x30", "--device", "cpu", "--out", tmp_path / "run")
    assert result.status == 0 and "6 training scenes, 6 validation frames" in result.out
    assert load_notes(tmp_path / "run" / "best.safetensors")["data"] == "photographs of scikit-image"


def test_workers_do_not_change_the_result(root, finished, tmp_path):
    train(TrainOptions(**small_options(root), workers=2, out=tmp_path / "run"))
    ours, theirs = load_state(tmp_path / "run"), load_state(root / "finished")
    assert all(torch.equal(ours["model"][name], row) for name, row in theirs["model"].items())


def test_init_starts_from_a_checkpoint(root, finished, tmp_path):
    options = {**small_options(root), "config": None, "init": finished.best, "epochs": 1}
    _, trained = training.set_up(TrainOptions(**options, out=tmp_path))
    best = load_model(finished.best)
    assert trained.model.config == best.config and trained.model.training
    assert all(torch.equal(row, best.state_dict()[name]) for name, row in trained.model.state_dict().items())


def test_init_starts_from_the_weights_that_ship(root, tmp_path):
    options = TrainOptions.for_preset("mcu", data=root / "data", init="mcu", patch=(16, 12), out=tmp_path)
    _, trained = training.set_up(options)
    shipped = load_model("mcu").state_dict()
    assert all(torch.equal(row, shipped[name]) for name, row in trained.model.state_dict().items())
    assert options.to_dict()["init"] == "mcu"  # no path of this machine
    words = command_line(options).split()
    assert words[words.index("--init") + 1] == "mcu"


def test_init_of_another_kind_than_the_preset_is_refused(root):
    for preset, init, wanted in (("mcu", "photo", "photo"), ("paper", "mcu", "mcu")):
        with pytest.raises(UserError, match=f"^{init} holds a network of .* give --preset {wanted}"):
            training.build_network(TrainOptions.for_preset(preset, init=init))


def test_a_training_that_improves_nothing_says_so(capsys, root, finished, tmp_path):
    options = as_arguments({**small_options(root), "init": finished.best, "epochs": 1})
    for rate, said in ((1, True), (1e-4, False)):
        result = run(capsys, main, *options, "--lr", rate, "--ema", 0, "--out", tmp_path / str(rate))
        assert ("no epoch was better than the first weights: try a smaller --lr than 1" in result.out) is said
        assert ("in epoch 0" in result.out) is said


def test_a_compact_network_by_its_configuration(root, tmp_path):
    (tmp_path / "compact.json").write_text('{"network": "compact", "cell": 4, "widths": [8, 12]}')
    _, state = build(root, config=tmp_path / "compact.json")
    assert state.model.config == CompactConfig(cell=4, widths=(8, 12))


def test_learning_rate_is_that_of_torch_s_schedulers(root):
    setup, _ = build(root, epochs=20, warmup_epochs=3, lr=2e-4, lr_min=1e-6)
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], 2e-4)
    schedulers = torch.optim.lr_scheduler
    theirs = schedulers.SequentialLR(optimizer, [
        schedulers.LinearLR(optimizer, 1 / 6, 1, total_iters=5),
        schedulers.CosineAnnealingLR(optimizer, T_max=33, eta_min=1e-6)], milestones=[6])
    assert setup.steps == 40
    for step in range(40):
        ours = learning_rate(setup.options, step, setup.steps_per_epoch)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), step
        optimizer.step()
        theirs.step()
    assert learning_rate(setup.options, step, setup.steps_per_epoch) == pytest.approx(1e-6, rel=1e-2)


def test_mixup_blends_pairs_and_only_from_its_epoch_on(root):
    options = TrainOptions(**{**small_options(root), "mixup_from": 2})
    batch = torch.randint(0, 256, (4, 2, 3, 12, 16), dtype=torch.uint8)
    assert torch.equal(mix_up(batch, options, epoch=1, step=0), batch.float() / 255)
    partners, shares = mixup_draw(1.2, 4, seed=3, step=0)
    for position, (pair, partner, share) in enumerate(zip(batch / 255, partners, shares.flatten())):
        expected = share * pair + (1 - share) * batch[partner] / 255  # the same share for the dark and the bright image
        torch.testing.assert_close(mix_up(batch, options, epoch=2, step=0)[position], expected)


def test_gradients_are_clipped_and_averages_follow(root, monkeypatch):
    setup, state = build(root, clip=1e-3, ema=0.5, lr=1e-2, warmup_epochs=0)
    average = [parameter.detach().clone() for parameter in state.model.parameters()]
    batches = iter(make_loader(setup.data.samples, setup.options, range(4), setup.device))
    for step in range(4):
        training.train_step(setup, state, state.model, next(batches), 0, None)
        norm = torch.stack([parameter.grad.norm() for parameter in state.model.parameters()]).norm()
        assert norm.item() <= 1e-3 * 1.001
        decay = min(0.5, (1 + step) / (10 + step)) if step else 0.0
        for mean, parameter in zip(average, state.model.parameters()):
            mean.lerp_(parameter.detach(), 1 - decay)
    for mean, parameter in zip(average, state.averaged.parameters()):
        torch.testing.assert_close(parameter, mean)


def test_presets_differ_from_the_paper_in_what_help_says(capsys):
    assert TrainOptions.for_preset("paper") == TrainOptions()
    small = TrainOptions.for_preset("mcu")
    assert (small.patch, small.val_size, small.scales, small.jitter) == ((160, 120), (160, 120), True, True)
    shown = " ".join(run(capsys, main, "--help").out.split())
    assert "WIDTHxHEIGHT or one number (default: 128x128; mcu: 160x120; photo: 192x192)" in shown
    assert "(default: no; mcu: yes)" in shown and "seed of all random numbers (default: 0)" in shown


def test_every_option_has_a_help_text_and_values_of_its_type(capsys):
    texts = field_texts(TrainOptions)
    assert texts.keys() == {field.name for field in dataclasses.fields(TrainOptions)}
    shown = " ".join(run(capsys, main, "--help").out.split())
    for text in texts.values():
        assert text in shown
    given = parse_arguments(["--betas", "0.8", "0.9", "--patch", "20X16", "--val-size", "full", "--workers", "2",
                             "--clip", "3", "--no-flips", "--init", "a b.pt"], "")
    assert given == {"betas": [0.8, 0.9], "patch": (20, 16), "val_size": None, "workers": 2, "clip": 3.0,
                     "flips": False, "init": "a b.pt"}
    options = TrainOptions.for_preset("mcu", **given)
    words = shlex.split(command_line(options))
    again = parse_arguments(words[3:], "")
    assert TrainOptions.for_preset(again.pop("preset"), **again) == options


@pytest.mark.parametrize("arguments, words", [
    (["--data", "missing"], "missing is not a folder"),
    (["--data", "data/train/low"], "has no low/ and high/"),
    (["--epochs", "0"], "--epochs must be from 1"),
    (["--batch", "-4"], "--batch must be from 1"),
    (["--batch", "many"], "--batch: invalid int value: 'many'"),
    (["--lr", "nan"], "--lr must be from"),
    (["--lr", "1e-8"], "--lr-min (1e-06) must not be above --lr"),
    (["--betas", "0.9", "1"], "--betas must be from 0"),
    (["--patch", "16x16x16"], "'16x16x16' is not a size like 160x120"),
    (["--patch", "full"], "--patch must be from 1"),
    (["--patch", "0"], "--patch must be from 1"),
    (["--patch", "41x8"], "10 scenes are smaller than the patch 41x8"),
    (["--val-size", "0x10"], "--val-size must be from 1"),
    (["--checkpoint-minutes", "-1"], "--checkpoint-minutes must be from 0"),
    (["--seed", "-1"], "--seed must be from 0"),
    (["--preset", "huge"], "invalid choice: 'huge'"),
    (["--device", "abacus"], "no device 'abacus'"),
    (["--config", "missing.json"], "missing.json: No such file"),
    (["--config", "data"], "data: Is a directory"),
    (["--config", "broken.json"], "broken.json is not a configuration of a MIRNet"),
    (["--config", "list.json"], "list.json is not a configuration of a MIRNet"),
    (["--config", "typo.json"], "typo.json is not a configuration of a MIRNet"),
    (["--config", "value.json"], "n_feat must be an integer from 8 to 4096, not 4"),
    (["--config", "grey.json"], "training needs a network for RGB images; this one has 1 channels"),
    (["--init", "missing.pt"], "missing.pt does not exist"),
    (["--init", "paper"], "no trained weights ship for the preset 'paper'"),
    (["--init", "mcu.safetensors"], "mcu.safetensors holds another network than small.json describes"),
    (["--out", "small.json"], "cannot create the folder small.json"),
    (["--resume", "nowhere"], "nowhere holds no training to resume"),
    (["--unknown"], "unrecognized arguments: --unknown"),
])
def test_bad_arguments_are_one_error(capsys, root, monkeypatch, arguments, words):
    monkeypatch.chdir(root)
    (root / "broken.json").write_text("{")
    (root / "list.json").write_text("[1, 2]")
    (root / "typo.json").write_text('{"n_feats": 8}')
    (root / "value.json").write_text('{"n_feat": 4}')
    (root / "grey.json").write_text('{"in_channels": 1, "out_channels": 1}')
    save_model(create_model("mcu"), root / "mcu.safetensors")
    defaults = [] if "--resume" in arguments else ["--data", "data", "--config", "small.json", "--out", "new"]
    result = run(capsys, main, *defaults, "--patch", "16", *arguments)
    assert_one_error(result.status, result.err, words)
    assert not (root / "new").exists() and not (root / "nowhere").exists()


def test_weights_without_a_checkpoint_are_not_overwritten(capsys, root, tmp_path):
    (tmp_path / "best.safetensors").write_bytes(b"kept")
    result = run(capsys, main, *as_arguments(small_options(root)), "--out", tmp_path)
    assert_one_error(result.status, result.err, "best.safetensors", "another --out")
    assert (tmp_path / "best.safetensors").read_bytes() == b"kept"


def test_a_finished_run_is_not_overwritten(capsys, root, finished):
    before = finished.last.read_bytes()
    result = run(capsys, main, *as_arguments(small_options(root)), "--out", root / "finished")
    assert_one_error(result.status, result.err, "holds a training", f"--resume {root / 'finished'}")
    assert finished.last.read_bytes() == before


def test_a_loss_that_is_not_finite_stops_the_training(capsys, root, tmp_path):
    options = {**small_options(root), "lr": 1e3, "clip": 0.0, "warmup_epochs": 0, "epochs": 50, "validate_every": 50}
    result = run(capsys, main, *as_arguments(options), "--out", tmp_path / "run")
    assert_one_error(result.status, result.err, "not finite", "smaller --lr", str(tmp_path / "run" / "last.pt"))
    assert load_state(tmp_path / "run")["step"] > 0
    load_model(tmp_path / "run" / "last.pt")


def test_a_full_disk_is_one_error_and_leaves_nothing_half_written(root, tmp_path):
    """A limit on the size of files stands for the disk."""
    arguments = as_arguments({**small_options(root), "out": tmp_path / "run"})
    limit = (100_000, 100_000)
    done = subprocess.run([sys.executable, "-m", "mirnet_torch.train", *arguments], text=True, capture_output=True,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert_one_error(done.returncode, done.stderr, f"cannot write {tmp_path / 'run' / 'last.pt'}: File too large")
    assert [path.name for path in (tmp_path / "run").glob("*.pt")] == []
    assert list((tmp_path / "run").glob(".*")) == []


def test_a_write_that_fails_keeps_the_checkpoint_before_it(root, finished, tmp_path, monkeypatch):
    writes = []

    def fail_once(source, target):
        writes.append(target)
        if len(writes) == 4:  # after the first and the two of the validation before training
            raise OSError(28, "No space left on device")
        replace(source, target)

    replace = os.replace
    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(UserError, match="No space left on device; the state before it is kept"):
        train(TrainOptions(**small_options(root), out=tmp_path / "run"))
    monkeypatch.undo()
    resume(tmp_path / "run")
    ours, theirs = load_state(tmp_path / "run"), load_state(root / "finished")
    assert all(torch.equal(ours["model"][name], row) for name, row in theirs["model"].items())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_goes_while_training_keeps_the_state(capsys, root, finished, tmp_path, monkeypatch, workers):
    data = shutil.copytree(root / "data", tmp_path / "data")
    monkeypatch.setattr(training_data, "CACHE_BYTES", 0)
    monkeypatch.setattr(training.Console, "report",
                        lambda *_, **__: shutil.rmtree(data / "train" / "low", ignore_errors=True))
    options = {**small_options(root), "data": data, "workers": workers, "out": tmp_path / "run"}
    result = run(capsys, main, *as_arguments(options))
    assert_one_error(result.status, result.err, f"{data / 'train' / 'low'}", "does not exist; the state is kept")
    monkeypatch.undo()
    resume(tmp_path / "run", data=root / "data")
    ours, theirs = load_state(tmp_path / "run"), load_state(root / "finished")
    assert all(torch.equal(ours["model"][name], row) for name, row in theirs["model"].items())


@pytest.mark.parametrize("damage, words", [
    (lambda content: content[:len(content) // 2], "is not a checkpoint, or damaged"),
    (lambda content: b"", "is not a checkpoint, or damaged"),
    (lambda content: pickle.dumps({"options": Hostile()}), "was not executed"),
])
def test_a_damaged_checkpoint_is_not_resumed(finished, tmp_path, damage, words):
    (tmp_path / "last.pt").write_bytes(damage(finished.last.read_bytes()))
    with pytest.raises(UserError, match=words):
        resume(tmp_path)


def test_weights_alone_are_not_resumed(tmp_path):
    torch.save({"state_dict": MIRNet(MIRNetConfig(**NETWORK)).state_dict()}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="is not a training checkpoint of this version"):
        resume(tmp_path)


@pytest.mark.parametrize("change, words", [
    (lambda state: state.pop("step"), "it has no step"),
    (lambda state: state.update(world="two"), "its world is of type str"),
    (lambda state: state.update(config={"network": "huge"}),
     "network must be one of mirnet, compact, photo, not 'huge'"),
    (lambda state: state.update(config={"head": "affine", "exchange": "none"}), "it was made by version 0.1 with"),
    (lambda state: state["options"].update(colour="red"), "unexpected keyword argument 'colour'"),
    (lambda state: state["options"].update(epochs="many"), "--epochs must be from 1 to 1000000000, not many"),
    (lambda state: state["model"].pop("conv_in.weight"), 'Missing key(s) in state_dict: "conv_in.weight"'),
    (lambda state: state["optimizer"].pop("state"), "it has no state"),
    (lambda state: state.update(version="9.9"), "it was made by version 9.9, this is "),
    (lambda state: state.update(step=True), "its step is of type bool"),
    (lambda state: state.update(threads=10 ** 9), "its threads is 1000000000, not from 1 to 1024"),
    (lambda state: state.update(validated=7), "its validated is 7, not from -1 to 6"),
    (lambda state: state.update(best=None), "has no best validation"),
    (lambda state: state["best"].pop("epoch"), "it has no epoch"),
    (lambda state: state["best"].update(psnr="high"), "its best psnr is 'high'"),
    (lambda state: state.update(data={}), "it has no name"),
    (lambda state: state["options"].update(compile="yes"), "--compile cannot be 'yes'"),
    (lambda state: state["options"].update(device=True), "--device cannot be True"),
    (lambda state: state["options"].update(mixup_alpha=(1.0, 2.0)), "--mixup-alpha cannot be (1.0, 2.0)"),
    (lambda state: state["options"].update(patch=(16,)), "--patch cannot be (16,)"),
    (lambda state: state["options"].update(relight=torch.zeros(2)), "--relight cannot be tensor"),
    (lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)), "exp_avg of its optimizer does not"),
    (lambda state: state["optimizer"]["state"][0].pop("step"), "it has no step"),
    (lambda state: state["optimizer"]["param_groups"][0].update(eps="x"), "eps of its optimizer is x, not 1e-08"),
    (lambda state: state.update(random=torch.zeros(3, dtype=torch.uint8)), "RNG state"),
], ids=["field", "type", "network", "version 0.1", "option", "value", "row", "optimizer", "version", "bool", "threads",
        "validated", "no best", "best", "score", "data", "compile", "device", "mixup", "patch", "relight", "average",
        "step of the optimizer", "eps", "random numbers"])
def test_an_odd_checkpoint_is_not_resumed(capsys, finished, tmp_path, change, words):
    state = torch.load(finished.last, weights_only=True)
    change(state)
    torch.save(state, tmp_path / "last.pt")
    result = run(capsys, main, "--resume", tmp_path)
    assert_one_error(result.status, result.err,
                     f"{tmp_path / 'last.pt'} is not a training checkpoint of this version: ", words)


def test_paths_may_be_text(root, tmp_path):
    options = TrainOptions(data=str(root / "data"), out=str(tmp_path))
    assert options.data == root / "data" and options.out == tmp_path
    json.dumps(options.to_dict())


def test_bad_pairs_stop_a_training_before_it_starts(capsys, root, tmp_path):
    write_pairs(tmp_path / "data", range(3))
    (tmp_path / "data" / "low" / "1.png").write_bytes(b"")
    result = run(capsys, main, "--data", tmp_path / "data", "--config", root / "small.json", "--out", tmp_path / "run")
    assert_one_error(result.status, result.err, "1 bad images", str(tmp_path / "data" / "low" / "1.png"))


def test_a_training_on_pairs_photographs_and_panoramas(capsys, root, tmp_path):
    """Its shares are in the command that is kept; with another file it is another training."""
    photographs, panoramas = tmp_path / "photographs", tmp_path / "panoramas"
    for folder in (photographs, panoramas):
        folder.mkdir()
    for number in range(2):
        Image.fromarray(skimage.data.coffee()[100 * number:][:32, :40]).save(photographs / f"{number}.png")
        write_radiance(panoramas / f"{number}.hdr", scene(32, seed=number))
    options = {**small_options(root), "epochs": 1, "data": [f"{root / 'data'}:3", f"{photographs}:2", str(panoramas)]}
    result = train(TrainOptions(**options, out=tmp_path / "run"))
    kept = load_state(tmp_path / "run")
    assert kept["step"] == 5  # 10 pairs, 3 of 6 samples: an epoch of 20, in batches of 4
    assert kept["data"]["name"] == "data, photographs, panoramas"
    options_again = TrainOptions(**torch.load(result.last, weights_only=True)["options"])
    assert options_again.data == (f"{root / 'data'}:3", f"{photographs}:2", f"{panoramas}:1")
    words = shlex.split(command_line(options_again))
    again = parse_arguments(words[3:], "")
    assert TrainOptions.for_preset(again.pop("preset"), **again) == options_again
    assert resume(tmp_path / "run").psnr == result.psnr
    (photographs / "1.png").unlink()
    done = run(capsys, main, "--resume", tmp_path / "run")
    assert_one_error(done.status, done.err, "the data are not those this training started with")


@pytest.mark.parametrize("given, kept", [(["a"], Path("a")), (["a:2"], ("a:2",)), (("a", "b:3"), ("a", "b:3"))])
def test_one_folder_without_a_share_is_kept_as_a_path(given, kept):
    assert TrainOptions(data=given).data == kept
