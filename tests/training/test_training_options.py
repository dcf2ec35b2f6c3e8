"""What a training does on request: frozen parameters, gradients in parts, recomputed activations, a log."""
from __future__ import annotations

import csv
import io
import itertools
import time

import pytest
import torch
from commands import assert_one_error, run
from small_trainings import as_arguments, differences, load_state, small_options, write_data
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mirnet_torch.train as training
from mirnet_torch import CompactConfig, MIRNetConfig, create_model
from mirnet_torch.activations import BLOCKS, checkpoint_activations
from mirnet_torch.activations import main as activations_main
from mirnet_torch.activations import peak_bytes, training_step
from mirnet_torch.train import main, resume, train
from mirnet_torch.training.console import Speaker
from mirnet_torch.training.log import EpochLog
from mirnet_torch.training.options import TrainOptions, command_line, parse_arguments
from mirnet_torch.training.recipe import freeze
from mirnet_torch.training.run_folder import TrainingInterrupted


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("options"))


def stop_at(monkeypatch, step):
    """Interrupt the training of this process after a step."""
    take = training.train_step
    monkeypatch.setattr(training, "train_step", lambda setup, state, *others: (
        take(setup, state, *others) or (15 if state.step == step else 0)))


def in_halves(monkeypatch, options, folder):
    """Train, interrupt after the third step, resume; return the state at the end."""
    stop_at(monkeypatch, 3)
    with pytest.raises(TrainingInterrupted):
        train(TrainOptions(**options, out=folder))
    monkeypatch.undo()
    resume(folder)
    return load_state(folder)


# --freeze

def test_frozen_parameters_stay_as_they_are(root, tmp_path, monkeypatch):
    """Also over an interruption, and in Adam they have no state; the others learn."""
    options = {**small_options(root), "freeze": ["conv_in", "body.*.CA.*"], "epochs": 2}
    train(TrainOptions(**options, out=tmp_path / "whole"))
    _, before = training.set_up(TrainOptions(**options, out=tmp_path / "unused"))
    state = load_state(tmp_path / "whole")
    frozen = [name for name in state["model"] if name.startswith("conv_in") or ".CA." in name]
    assert len(frozen) > 2
    for which in ("model", "ema"):
        assert all(torch.equal(state[which][name], before.model.state_dict()[name]) for name in frozen)
    changed = [name for name, _ in before.model.named_parameters() if name not in frozen
               and not torch.equal(state["model"][name], before.model.state_dict()[name])]
    assert len(changed) > 20 and len(state["optimizer"]["state"]) == len(changed)
    assert differences(in_halves(monkeypatch, options, tmp_path / "halves"), state) == []


def test_freeze_takes_shared_parameters_by_all_their_names():
    network = create_model(MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1, height=2))
    second = freeze(network, ["body.0.body.0.blocks.0.1"])  # the second column uses the modules of the first
    assert second == sum(p.numel() for p in network.body[0].body[0].blocks[0][0].parameters())


def test_freeze_is_told_and_kept(capsys, root, tmp_path):
    arguments = as_arguments({**small_options(root), "epochs": 1})
    for pattern, words in (("head", ["--freeze head fits no parameter", "conv_in, body, conv_out", "conv_in.weight"]),
                           ("*", ["--freeze * leaves nothing to train"])):
        result = run(capsys, main, *arguments, "--freeze", pattern, "--out", tmp_path / "refused")
        assert_one_error(result.status, result.err, *words)
    assert not (tmp_path / "refused").exists()
    result = run(capsys, main, *arguments, "--freeze", "conv_in", "--freeze", "conv_out.*", "--out", tmp_path / "run")
    assert result.status == 0 and " parameters (432 frozen) on cpu" in result.out  # 2 x 3 x 8 x 9
    result = run(capsys, main, "--resume", tmp_path / "run", "--freeze", "conv_in")
    assert_one_error(result.status, result.err, "--freeze was conv_in conv_out.* when this training started")
    options = TrainOptions(freeze=["a", "b c"], low="x", high="y")
    words = parse_arguments(["--freeze", "a", "--freeze", "b c", "--low", "x", "--high", "y"], "")
    assert TrainOptions(**words) == options
    assert command_line(options).endswith("--low x --high y --freeze a --freeze 'b c'")


def test_a_command_line_gives_its_options_again():
    for options in (TrainOptions.for_preset("photo", init=None), TrainOptions(betas=(0, 0.9), patch=(48, 32))):
        given = parse_arguments(command_line(options).split()[3:], "")
        again = TrainOptions.for_preset(given.pop("preset"), **given)
        assert again.init in (options.init, "none") and (again.betas, again.patch) == (options.betas, options.patch)


def test_pairs_of_two_folders(root, capsys):
    folder = root / "data" / "train"
    setup, _ = training.set_up(TrainOptions(**{**small_options(root), "data": None}, low=folder / "low",
                                            high=folder / "high", out=root / "unused"))
    assert (setup.data.name, setup.data.samples.scene_count, len(setup.data.frames)) == ("low", 9, 1)
    result = run(capsys, main, "--low", folder / "low")
    assert_one_error(result.status, result.err, "--low and --high belong together")


# --accumulate

def gradients(root, dtype, **changes):
    """The gradient and the loss of the first step."""
    setup, state = training.set_up(TrainOptions(**{**small_options(root), "brightness": 0.3, **changes},
                                                out=root / "unused"))
    batch = next(iter(training.make_loader(setup.data.samples, setup.options, range(1), setup.device)))
    pairs = training.mix_up(batch, setup.options, epoch=1, step=0).to(dtype)
    loss = training.add_gradients(setup, state.model.to(dtype), pairs)
    return loss, [parameter.grad for parameter in state.model.parameters()]


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["float64", "float32"])
def test_gradients_in_parts_are_those_of_the_large_batch(root, dtype, rtol):
    loss, whole = gradients(root, dtype, batch=6)
    for batch, parts in ((2, 3), (1, 6)):
        other, summed = gradients(root, dtype, batch=batch, accumulate=parts)
        torch.testing.assert_close(other, loss, rtol=rtol, atol=0)
        largest = max(gradient.abs().max() for gradient in whole).item()
        for ours, theirs in zip(summed, whole):
            torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol * 1e-2 * largest)


def test_a_training_in_parts_follows_that_of_the_large_batch_and_resumes_bit_for_bit(root, tmp_path, monkeypatch):
    options = {**small_options(root), "epochs": 2}
    train(TrainOptions(**options, out=tmp_path / "large"))
    parts = {**options, "batch": 2, "accumulate": 2}
    train(TrainOptions(**parts, out=tmp_path / "parts"))
    ours, theirs = load_state(tmp_path / "parts"), load_state(tmp_path / "large")
    assert ours["step"] == theirs["step"] == 4
    torch.testing.assert_close(ours["model"], theirs["model"])
    assert ours["best"]["psnr"] == pytest.approx(theirs["best"]["psnr"], rel=1e-5)
    assert differences(in_halves(monkeypatch, parts, tmp_path / "halves"), ours) == []


# --checkpoint-activations

CONFIGS = [MIRNetConfig(n_feat=8, n_RRG=2, n_MSRB=2), MIRNetConfig(n_feat=8, n_RRG=1, n_MSRB=1, width=1, height=2),
           CompactConfig()]


@pytest.mark.parametrize("config", CONFIGS, ids=["published", "one column", "compact"])
def test_recomputed_activations_give_the_same_gradients_in_less_memory(config):
    kept, saving = (create_model(config) for _ in range(2))
    saving.load_state_dict(kept.state_dict())
    rows = list(saving.state_dict())
    checkpoint_activations(saving)
    assert list(saving.state_dict()) == rows
    low, high = torch.rand(2, 2, 3, 40, 40)
    outputs = [model(low) for model in (kept, saving)]
    assert torch.equal(*outputs)
    for output in outputs:
        (output - high).square().mean().backward()
    for ours, theirs in zip(saving.parameters(), kept.parameters()):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            assert torch.equal(ours.grad, theirs.grad)
    batch = 8 if isinstance(config, CompactConfig) else 2
    before, after = (peak_bytes(training_step(model, batch, 40)) for model in (kept, saving))
    assert after < (0.7 if isinstance(config, CompactConfig) else 0.6) * before


def test_a_training_with_recomputed_activations_gives_the_same_bits(root, tmp_path):
    options = {**small_options(root), "epochs": 1}
    for name, saving in (("kept", False), ("saving", True)):
        train(TrainOptions(**options, checkpoint_activations=saving, out=tmp_path / name))
    ours, theirs = load_state(tmp_path / "saving"), load_state(tmp_path / "kept")
    assert ours.pop("options").pop("checkpoint_activations") and theirs.pop("options")
    assert differences(ours, theirs) == []
    resume(tmp_path / "saving", checkpoint_activations=False)  # it is free to change


def test_every_large_module_of_the_published_network_is_inside_a_block():
    """Convolutions outside of blocks keep their inputs: one a group and MSRB, and the first and last."""
    network = create_model(MIRNetConfig(n_feat=8, n_RRG=2, n_MSRB=2))
    inside = {id(part) for block in network.modules() if isinstance(block, BLOCKS) for part in block.modules()}
    outside = [name for name, part in network.named_modules()
               if isinstance(part, torch.nn.Conv2d) and id(part) not in inside]
    assert len(outside) == 2 + 2 * (2 + 1)


def test_the_measurement_of_activations(capsys):
    result = run(capsys, activations_main, "--preset", "mcu", "--repeats", "1")
    assert result.status == 0, result.err
    kept, saving = (float(line.split(" MB")[0].split()[-1]) for line in result.out.splitlines()[1:3])
    assert 0 < saving < kept and "time: x " in result.out


# what is left to read

def rows_of(folder):
    with open(folder / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_line_an_epoch_and_the_options_in_tensorboard(root, tmp_path):
    options = TrainOptions(**{**small_options(root), "validate_every": 2}, out=tmp_path / "run")
    result = train(options)
    rows = rows_of(tmp_path / "run")
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [bool(row["val_psnr"]) for row in rows] == [True, False, True, True] and rows[0]["loss"] == ""
    assert max(float(row["val_psnr"]) for row in rows if row["val_psnr"]) == pytest.approx(result.psnr, abs=1e-3)
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert [float(row["loss"]) for row in rows[1:]] == pytest.approx(losses, rel=1e-4)
    assert [float(row["learning_rate"]) for row in rows[1:]] == pytest.approx(
        [event.value for event in events.Scalars("train/learning_rate")], rel=1e-4)
    assert all(float(row["seconds"]) >= 0 for row in rows[1:])
    (command,) = events.Tensors("command/text_summary")[0].tensor_proto.string_val
    assert command.decode().strip() == command_line(options)
    (table,) = events.Tensors("options/text_summary")[0].tensor_proto.string_val
    assert "| `--lr` | 0.001 |" in table.decode() and "| `--patch` | 16x12 |" in table.decode()
    start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"learning" not in start and b"weight_decay" in start and b"16x12" in start


@pytest.mark.parametrize("step", [3, 4])
def test_an_interrupted_training_leaves_every_epoch_once(root, tmp_path, monkeypatch, step):
    """Interrupted inside an epoch, and at the end of one without a validation; a line cut short is written anew."""
    options = {**small_options(root), "validate_every": 3}
    stop_at(monkeypatch, step)
    with pytest.raises(TrainingInterrupted):
        train(TrainOptions(**options, out=tmp_path / "run"))
    monkeypatch.undo()
    with open(tmp_path / "run" / "log.csv", "a") as file:
        file.write("3,0.1,0.00")
    resume(tmp_path / "run")
    assert [row["epoch"] for row in rows_of(tmp_path / "run")] == ["0", "1", "2", "3"]
    resume(tmp_path / "run", epochs=4)
    rows = rows_of(tmp_path / "run")
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3", "4"] and all(row["loss"] for row in rows[1:])


def test_lines_of_lost_epochs_are_dropped(tmp_path):
    log = EpochLog(tmp_path, 0)
    for epoch in range(4):
        log.write(epoch, loss=0.5)
    EpochLog(tmp_path, 2).write(3, psnr=20.0)
    assert [(row["epoch"], row["loss"], row["val_psnr"]) for row in rows_of(tmp_path)] == [
        ("0", "0.5", ""), ("1", "0.5", ""), ("2", "0.5", ""), ("3", "", "20.000")]
    EpochLog(tmp_path, 0, rank=1).write(9)
    assert len(rows_of(tmp_path)) == 4


def test_no_silence_off_a_terminal(capsys, root, tmp_path, monkeypatch):
    """Every stage lasts longer than the longest silence, and says what it does."""
    monkeypatch.setattr("mirnet_torch.training.console.SILENCE", 0.05)
    slow = {"open_data": training.open_data, "enhance": training.enhance, "mix_up": training.mix_up}
    for name, function in slow.items():
        monkeypatch.setattr(training, name, lambda *arguments, function=function, **options: (
            time.sleep(0.2), function(*arguments, **options))[1])
    result = run(capsys, main, *as_arguments({**small_options(root), "epochs": 1}), "--out", tmp_path / "run")
    assert result.status == 0, result.err
    for words in ("reading and checking the data", "validating at step 0: image 1 of 2", "training: step 1 of 2",
                  "training: step 2 of 2, ", "validating at step 2: image 2 of 2"):
        assert words in result.out


def test_a_speaker_is_silent_where_lines_come_or_it_is_not_the_first(capsys, monkeypatch):
    monkeypatch.setattr("mirnet_torch.training.console.SILENCE", 0.2)
    with Speaker() as speaker, Speaker(rank=1):
        for _ in range(8):
            time.sleep(0.02)
            speaker.say("line")
    assert capsys.readouterr().out == "line\n" * 8


def test_the_first_validation_has_a_bar_on_a_terminal(root, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal, clock = Terminal(), itertools.count()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("tqdm.std.time", lambda: float(next(clock)))  # every update is drawn
    train(TrainOptions(**{**small_options(root), "epochs": 1}, out=tmp_path / "run"))
    assert "validating at step 0: 100%" in terminal.getvalue() and "train: 100%" in terminal.getvalue()
