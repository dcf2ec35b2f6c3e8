"""Training by two processes (gloo) against one process with twice the batch."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from small_trainings import NETWORK, as_arguments, load_state, small_options, write_data

from mirnet_torch.train import train
from mirnet_torch.training.options import TrainOptions


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("distributed"))


def start_two(arguments):
    return subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                             "-m", "mirnet_torch.train", *arguments], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


def assert_states_close(ours, theirs):
    """Weights, averages, optimizer and scores agree to the rounding of float32 over a dozen steps."""
    for name in ("model", "ema"):
        torch.testing.assert_close(ours[name], theirs[name])
    torch.testing.assert_close(ours["optimizer"]["state"], theirs["optimizer"]["state"], rtol=1e-3, atol=1e-7)
    assert ours["step"] == theirs["step"] and ours["best"] == pytest.approx(theirs["best"], rel=1e-5)
    assert ours["loss_sum"] == pytest.approx(theirs["loss_sum"], rel=1e-6)


def test_two_processes_follow_one_with_twice_the_batch(root):
    """With MixUp across processes, and with an interruption of both in the middle."""
    options = {**small_options(root), "batch": 4, "epochs": 6}
    train(TrainOptions(**options, out=root / "one"))
    arguments = as_arguments({**options, "batch": 2, "out": root / "two"})
    process = start_two(arguments)
    while not (root / "two" / "last.pt").exists() or load_state(root / "two")["step"] < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert err.count("go on with: torchrun --nproc-per-node 2 -m mirnet_torch.train --resume") == 1, err
    assert out.count("epoch 0/6") == 1  # one process speaks
    assert 3 <= load_state(root / "two")["step"] < 12
    process = start_two(["--resume", str(root / "two")])
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    ours, theirs = load_state(root / "two"), load_state(root / "one")
    assert (ours["world"], theirs["world"]) == (2, 1)
    assert_states_close(ours, theirs)


@pytest.mark.parametrize("network", [{**NETWORK, "width": 1}, {"network": "compact", "cell": 4, "widths": [8, 12]}],
                         ids=["published with unused resamplers", "compact"])
def test_two_processes_train_networks_of_both_kinds(tmp_path, root, network):
    (tmp_path / "network.json").write_text(json.dumps(network))
    options = {**small_options(root), "config": tmp_path / "network.json", "epochs": 2}
    train(TrainOptions(**options, out=tmp_path / "one"))
    process = start_two(as_arguments({**options, "batch": 2, "out": tmp_path / "two"}))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert_states_close(load_state(tmp_path / "two"), load_state(tmp_path / "one"))


def test_two_processes_with_gradients_in_parts_follow_one_with_the_large_batch(root, tmp_path):
    """Only the last part of a step sums over the processes. Some parameters are frozen, activations are recomputed."""
    options = {**small_options(root), "batch": 4, "epochs": 2, "freeze": "conv_in"}
    train(TrainOptions(**options, out=tmp_path / "one"))
    process = start_two([*as_arguments({**options, "batch": 1, "accumulate": 2, "out": tmp_path / "two"}),
                         "--checkpoint-activations"])
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert_states_close(load_state(tmp_path / "two"), load_state(tmp_path / "one"))
