"""Resuming: a training interrupted at any step gives the same result as an uninterrupted one, bit for bit."""
from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import threading
import time

import numpy as np
import pytest
import torch
from commands import assert_one_error, run
from PIL import Image
from skimage import data
from small_panoramas import scene, write_radiance
from small_trainings import NETWORK, as_arguments, differences, load_state, small_options, start, write_data
from test_presets import PUBLISHED_0_1

import mirnet_torch.train as training
from mirnet_torch import load_model
from mirnet_torch.train import TrainingInterrupted, main, resume, train
from mirnet_torch.training.console import duration
from mirnet_torch.training.options import TrainOptions
from mirnet_torch.training.run_folder import LOCK, Signals

EPOCHS, STEPS_PER_EPOCH = 8, 5


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def options(root):
    return {**small_options(root), "batch": 2, "epochs": EPOCHS, "validate_every": 2}


@pytest.fixture(scope="module")
def uninterrupted(root, options):
    """The run that the others must equal."""
    train(TrainOptions(**options, out=root / "uninterrupted"))
    state = load_state(root / "uninterrupted")
    assert state["step"] == EPOCHS * STEPS_PER_EPOCH
    return state


def wait_for_step(run_folder, wanted, process):
    """Wait until a checkpoint is there whose step is wanted, and return the step."""
    for _ in range(6000):
        assert process.poll() is None, "the training ended before it could be interrupted"
        if (run_folder / "last.pt").exists():
            step = torch.load(run_folder / "last.pt", weights_only=True)["step"]
            if wanted(step):
                return step
        time.sleep(0.01)
    raise AssertionError("no such step")


def test_killed_inside_an_epoch(root, options, uninterrupted):
    """kill -9 while the training writes a checkpoint after every step: the file is whole, the result the same."""
    folder = root / "killed"
    process = start(as_arguments({**options, "out": folder}), stdout=subprocess.DEVNULL)
    wait_for_step(folder, lambda step: step > STEPS_PER_EPOCH and step % STEPS_PER_EPOCH == 2, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    state = torch.load(folder / "last.pt", weights_only=True)
    assert 0 < state["step"] < EPOCHS * STEPS_PER_EPOCH and state["best"] is not None
    load_model(folder / "last.pt")
    load_model(folder / "best.safetensors")
    (folder / ".last-abandoned.pt").write_bytes(b"left by the killed process")
    resume(folder)
    assert differences(load_state(folder), uninterrupted) == []
    assert list(folder.glob(".*")) == []


def test_killed_eight_times_with_several_sources(capsys, root, options, tmp_path):
    """kill -9 at drawn moments, also while files are written; each time the run is resumed; a second one is refused."""
    sources = [f"{root / 'data'}:3", f"{tmp_path / 'photographs'}:2", str(tmp_path / "panoramas")]
    for number in range(4):
        for folder in ("photographs", "panoramas"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(data.coffee()[20 * number:][:40, :60]).save(tmp_path / "photographs" / f"{number}.png")
        write_radiance(tmp_path / "panoramas" / f"{number}.hdr", scene(32, seed=number))
    options = TrainOptions(**{**options, "data": tuple(sources), "epochs": 10})
    train(dataclasses.replace(options, out=tmp_path / "whole"))
    whole = load_state(tmp_path / "whole")
    last = whole["step"] - 8
    run_folder, random, step = tmp_path / "run", np.random.default_rng(0), 0
    for kill in range(8):
        child = Fork(lambda: resume(run_folder) if kill else train(dataclasses.replace(options, out=run_folder)))
        step = wait_for_step(run_folder, lambda now: now >= min(step + random.integers(1, 8), last), child)
        if kill == 4:
            result = run(capsys, main, "--resume", run_folder)
            assert_one_error(result.status, result.err, f"another training (process {child.pid} on ")
        time.sleep(random.uniform(0, 0.03))
        os.kill(child.pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == -signal.SIGKILL
    assert step < whole["step"]
    resume(run_folder)
    assert differences(load_state(run_folder), whole) == []
    assert sorted(path.name for path in run_folder.glob(".*")) == []


class Fork:
    """A copy of this process that does one thing, so that nothing is imported again; one thread, as the tests have."""

    def __init__(self, task):
        self.pid = os.fork()
        if self.pid == 0:
            try:
                sink = os.open(os.devnull, os.O_WRONLY)
                os.dup2(sink, 1)
                os.dup2(sink, 2)
                task()
            finally:
                os._exit(0)

    def poll(self):
        """Return a number if it has ended."""
        return os.waitpid(self.pid, os.WNOHANG)[0] or None


def test_a_run_folder_takes_one_training_at_a_time(capsys, root, options, uninterrupted):
    """A second start and a second --resume are refused; the first goes on, and after kill -9 the folder is free."""
    folder = root / "claimed"
    process = start(as_arguments({**options, "workers": 1, "out": folder}), stdout=subprocess.DEVNULL)
    wait_for_step(folder, lambda step: step >= 2, process)
    for arguments in ([*as_arguments(options), "--out", folder], ["--resume", folder]):
        result = run(capsys, main, *arguments)
        assert_one_error(result.status, result.err, f"another training (process {process.pid} on ", f"uses {folder}",
                         "another --out")
    assert process.poll() is None and (folder / LOCK).exists()
    process.kill()  # its worker lives on for some seconds
    process.wait()
    assert (folder / LOCK).exists()
    resume(folder)
    ended = load_state(folder)
    assert ended["options"].pop("workers") == 1
    assert differences(ended, {**uninterrupted, "options": ended["options"]}) == []
    assert not (folder / LOCK).exists()


def test_stopped_by_ctrl_c_and_resumed_by_the_command_it_prints(root, options, uninterrupted):
    folder = root / "stopped"
    process = start(as_arguments({**options, "out": folder}), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for_step(folder, lambda step: step >= 3, process)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=120)
    assert process.returncode == 130
    assert message.count("\n") == 1 and "Traceback" not in message
    assert load_state(folder)["step"] < EPOCHS * STEPS_PER_EPOCH
    command = message.strip().partition("go on with: ")[2].split()
    assert command[:3] == ["python", "-m", "mirnet_torch.train"]
    subprocess.run([sys.executable, *command[1:]], check=True, stdout=subprocess.DEVNULL)
    assert differences(load_state(folder), uninterrupted) == []


def test_a_signal_to_the_workers_too_leaves_a_checkpoint(root, options):
    """A service manager sends SIGTERM to every process of a job."""
    folder = root / "whole-group"
    process = start(as_arguments({**options, "out": folder, "workers": 1}), stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE, preexec_fn=os.setpgrp)
    wait_for_step(folder, lambda step: step >= 3, process)
    os.killpg(process.pid, signal.SIGTERM)
    _, message = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert message.count("\n") == 1 and "go on with: " in message, message


@pytest.mark.parametrize("point", ["between epochs", "before a validation", "in a validation"])
def test_stopped_by_sigterm_at_the_edges_of_an_epoch(capsys, root, options, uninterrupted, monkeypatch, point):
    """The signal comes at the last step of an epoch without validation, of one with, and in its validation."""
    folder = root / point.replace(" ", "-")
    step, frames = training.train_step, training.enhance
    last = 3 * STEPS_PER_EPOCH if point == "between epochs" else 2 * STEPS_PER_EPOCH
    taken = []

    def train_step(setup, state, *arguments):
        stopping = step(setup, state, *arguments)
        taken.append(state.step)
        if state.step == last - 1 and point != "in a validation":  # noticed at the next step
            os.kill(os.getpid(), signal.SIGTERM)
        return stopping

    def enhance(*arguments):
        if taken and taken[-1] == last and point == "in a validation":
            os.kill(os.getpid(), signal.SIGTERM)
        return frames(*arguments)

    monkeypatch.setattr(training, "train_step", train_step)
    monkeypatch.setattr(training, "enhance", enhance)
    result = run(capsys, main, *as_arguments(options), "--out", folder)
    assert result.status == 143
    assert result.err == (f"interrupted at step {last} of 40; the state is kept, go on with: "
                          f"python -m mirnet_torch.train --resume {folder}\n")
    monkeypatch.undo()
    state = load_state(folder)
    assert (state["step"], state["validated"]) == (last, 2 * STEPS_PER_EPOCH if last > 2 * STEPS_PER_EPOCH else 0)
    resume(folder)
    assert differences(load_state(folder), uninterrupted) == []


def test_a_checkpoint_of_version_0_1_is_resumed(options, tmp_path, monkeypatch):
    """That version wrote 21 fields for a network of either kind. Its compact networks had another head."""
    config = PUBLISHED_0_1 | NETWORK
    (tmp_path / "network.json").write_text(json.dumps(NETWORK))
    options = {**options, "config": tmp_path / "network.json", "epochs": 2}
    train(TrainOptions(**options, out=tmp_path / "whole"))
    step = training.train_step
    monkeypatch.setattr(training, "train_step", lambda setup, state, *arguments: (
        step(setup, state, *arguments) or (signal.SIGTERM if state.step == 7 else 0)))
    with pytest.raises(TrainingInterrupted, match="interrupted at step 7 of 10"):
        train(TrainOptions(**options, out=tmp_path / "halves"))
    monkeypatch.undo()
    state = torch.load(tmp_path / "halves" / "last.pt", weights_only=True)
    assert len(config) == 21 and state["config"] != config
    torch.save({**state, "config": config}, tmp_path / "halves" / "last.pt")
    resume(tmp_path / "halves")
    assert differences(load_state(tmp_path / "halves"), load_state(tmp_path / "whole")) == []


def test_a_finished_training_stays_as_it_is(capsys, root, uninterrupted):
    resume(root / "uninterrupted")
    assert f"this training is finished: python -m mirnet_torch.train --resume {root / 'uninterrupted'} --epochs N" \
        in capsys.readouterr().out
    assert differences(load_state(root / "uninterrupted"), uninterrupted) == []


def test_options_that_would_change_the_result_are_refused(capsys, root, uninterrupted):
    folder = root / "uninterrupted"
    for changed, words in ((["--lr", "2e-3"], "--lr was 0.001"),
                           (["--no-jitter"], "--jitter was yes"), (["--patch", "8"], "--patch was 16x12"),
                           (["--preset", "mcu"], "--preset was paper"), (["--out", "other"], "--out was ")):
        result = run(capsys, main, "--resume", folder, *changed)
        assert_one_error(result.status, result.err, words, "leave it out")
    result = run(capsys, main, "--resume", folder, "--epochs", 7)
    assert_one_error(result.status, result.err, "--epochs was 8", "longer, not shorter")
    same = run(capsys, main, "--resume", folder, "--device", "cpu", "--lr", "0.001", "--workers", 1,
               "--config", root / "small.json")
    assert same.status == 0


def test_other_data_and_other_processes_are_refused(capsys, root, uninterrupted, tmp_path):
    other = write_data(tmp_path)
    (other / "data" / "train" / "low" / "0.png").write_bytes((other / "data" / "train" / "low" / "1.png").read_bytes())
    result = run(capsys, main, "--resume", root / "uninterrupted", "--data", other / "data")
    assert_one_error(result.status, result.err, "the data are not those this training started with")
    moved = write_data(tmp_path / "moved")
    dark = moved / "data" / "train" / "low" / "0.png"
    pixels = np.array(Image.open(dark))
    Image.fromarray(pixels ^ 1).save(dark.with_name("changed.png"))
    size = max(dark.stat().st_size, dark.with_name("changed.png").stat().st_size)
    whole = dark.read_bytes()
    dark.write_bytes(dark.with_name("changed.png").read_bytes().ljust(size, b"\0"))  # of equal or larger size
    dark.with_name("changed.png").unlink()
    result = run(capsys, main, "--resume", root / "uninterrupted", "--data", moved / "data")
    assert_one_error(result.status, result.err, "names or contents of files differ")
    dark.write_bytes(whole)
    assert run(capsys, main, "--resume", root / "uninterrupted", "--data", moved / "data").status == 0
    state = torch.load(root / "uninterrupted" / "last.pt", weights_only=True)
    torch.save({**state, "world": 2}, tmp_path / "last.pt")
    result = run(capsys, main, "--resume", tmp_path)
    assert_one_error(result.status, result.err, "started with 2 processes, not 1",
                     f"torchrun --nproc-per-node 2 -m mirnet_torch.train --resume {tmp_path}")


def test_a_training_is_lengthened(options, uninterrupted, tmp_path):
    """The first steps are those of the short training; from there on the learning rate is that of the long one."""
    train(TrainOptions(**{**options, "epochs": 2}, out=tmp_path / "run"))
    short = load_state(tmp_path / "run")
    resume(tmp_path / "run", epochs=4)
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert (short["step"], state["step"], state["options"]["epochs"]) == (2 * STEPS_PER_EPOCH, 4 * STEPS_PER_EPOCH, 4)
    assert state["command"].endswith(f", from step {2 * STEPS_PER_EPOCH} on with --epochs 4")
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(TrainOptions.lr_min)
    assert differences(state["ema"], short["ema"])


def test_a_lost_best_is_written_anew(capsys, options, tmp_path):
    train(TrainOptions(**{**options, "epochs": 2}, out=tmp_path / "run"))
    (tmp_path / "run" / "best.safetensors").unlink()
    result = run(capsys, main, "--resume", tmp_path / "run")
    assert result.status == 0 and "best.safetensors is gone" in result.err
    assert load_model(tmp_path / "run" / "best.safetensors").config.n_feat == NETWORK["n_feat"]


def test_a_flipped_byte_is_refused(capsys, options, tmp_path):
    train(TrainOptions(**{**options, "epochs": 1}, out=tmp_path / "run"))
    whole = (tmp_path / "run" / "last.pt").read_bytes()
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    place = whole.index(bytes(state["ema"]["conv_in.weight"].untyped_storage())) + 5
    (tmp_path / "run" / "last.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
    result = run(capsys, main, "--resume", tmp_path / "run")
    assert_one_error(result.status, result.err, "last.pt is damaged", "not as it was written", "--init")


def test_a_lost_terminal_leaves_a_checkpoint(root, options, tmp_path):
    """The terminal closes, as when ssh ends: every write to it fails, and the kernel sends SIGHUP."""
    folder, (master, slave) = tmp_path / "run", os.openpty()
    arguments = as_arguments({**options, "epochs": 2000, "checkpoint_minutes": 1e-3, "out": folder})

    def take_terminal():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    process = start(arguments, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                    preexec_fn=take_terminal)
    os.close(slave)
    reader = threading.Thread(target=lambda: read_until(master, folder / "last.pt"))
    reader.start()
    wait_for_step(folder, lambda step: step > 3, process)
    reader.join()
    before = load_state(folder)["step"]
    os.close(master)
    assert process.wait(60) == 128 + signal.SIGHUP
    assert load_state(folder)["step"] >= before and not (folder / LOCK).exists()


def read_until(terminal, path):
    """Read what a terminal shows until a checkpoint is written after some steps."""
    while not path.exists() or torch.load(path, weights_only=True)["step"] <= 3:
        os.read(terminal, 4096)


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not signals.received
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_start_says_how_long_it_may_take(capsys, root, options, tmp_path):
    result = run(capsys, main, *as_arguments({**options, "epochs": 1}), "--out", tmp_path / "short")
    assert " on this machine, without reading images and validations\n" in result.out
    assert [duration(seconds) for seconds in (0.2, 100, 4000, 90_000, 200_000, 10 ** 7)] == [
        "1 seconds", "100 seconds", "67 minutes", "25 hours", "2 days", "17 weeks"]
