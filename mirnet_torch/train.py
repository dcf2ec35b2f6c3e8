"""Train a MIRNet on pairs of dark and bright images.

    python -m mirnet_torch.train --data LOL                              the published network by the paper's recipe
    python -m mirnet_torch.train --data LOL --preset mcu                 a network for a microcontroller
    python -m mirnet_torch.train --preset mcu --epochs 20                on photographs inside scikit-image
    python -m mirnet_torch.train --preset mcu --data PAIRS --init mcu    from the weights that ship
    python -m mirnet_torch.train --data LOL:6 --data photographs:1 ...   several sources in shares
    python -m mirnet_torch.train --resume runs/mcu                       resume an interrupted training
    torchrun --nproc-per-node 2 -m mirnet_torch.train --data LOL ...     on several GPUs (or with gloo on CPUs)

Source of the recipe: Zamir et al., "Learning Enriched Features for Real Image Restoration and Enhancement", ECCV 2020,
section 4, and its published training settings. Departures:

* the loss takes the unclamped output, for a gradient everywhere, and may weight errors of brightness less;
* the learning rate is a function of the step, not of the epoch;
* validation and `best.safetensors` use an exponential moving average of the weights; gradients are clipped; samples
  form an endless sequence, so that every batch is complete.

Order of calls: `train` or `resume` -> `set_up` -> `fit`, which alternates `train_step` and `validate`. The options are
in `training/options.py`, the files of a run in `training/run_folder.py`. All random numbers are a function of the seed
and the step, so a resumed run on the CPU repeats the uninterrupted one bit for bit.
"""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from mirnet_torch import __version__
from mirnet_torch.activations import checkpoint_activations
from mirnet_torch.cli import UserError, require_extra, run_command, say
from mirnet_torch.files.images import stacked
from mirnet_torch.measures.metrics import mean_score, psnr, ssim
from mirnet_torch.model import parameter_count
from mirnet_torch.presets import Network, config_from_dict, create_model
from mirnet_torch.processes import own_device, processes, rank_and_world, share
from mirnet_torch.restoration.picture import enhance
from mirnet_torch.training.console import Console, Speaker
from mirnet_torch.training.data import TrainingData, make_loader, open_data, reader_fault
from mirnet_torch.training.first_network import build_network
from mirnet_torch.training.log import EpochLog, write_options
from mirnet_torch.training.losses import restoration_loss
from mirnet_torch.training.options import TrainOptions, parse_arguments, shown
from mirnet_torch.training.recipe import freeze, learning_rate, mix_up, update_average, uses_bf16
from mirnet_torch.training.run_folder import (BEST, LAST, RunFolder, Signals, TrainingInterrupted, check_data,
                                              check_processes, claimed, command_of, forget_lost_best, last_of,
                                              of_this_version, options_to_resume, read_run, restore_optimizer)

GRID_ROWS = 4  # validation images in TensorBoard's comparison grid


@dataclass(frozen=True)
class TrainResult:
    """Where a finished training left its files, and its best validation scores."""

    best: Path
    last: Path
    psnr: float
    ssim: float
    epoch: int


@dataclass(frozen=True)
class Setup:
    """The constant part of a training run."""

    options: TrainOptions
    command: str  # the one that started the run
    folder: RunFolder
    device: torch.device
    data: TrainingData

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which all processes together use every sample about once."""
        return max(1, round(len(self.data.samples) / (self.options.patches * self.folder.world)))

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.options.epochs * self.steps_per_epoch

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of weights and inputs."""
        return torch.channels_last if self.options.channels_last else torch.contiguous_format


@dataclass
class State:
    """The part of a training run that changes; `last.pt` stores it."""

    model: Network
    average: AveragedModel  # moving average of the model's weights
    optimizer: torch.optim.Optimizer
    step: int = 0  # steps done
    validated: int = -1  # the step of the last validation
    loss_sum: float = 0.0  # over the steps of this epoch
    best: dict[str, float] | None = None  # psnr, ssim and epoch of the best validation

    @property
    def averaged(self) -> Network:
        """The network with the averaged weights."""
        return cast(Network, self.average.module)

    def to_dict(self) -> dict[str, Any]:
        """Return the state, including that of torch's random numbers."""
        return {"step": self.step, "validated": self.validated, "loss_sum": self.loss_sum, "best": self.best,
                "model": self.model.state_dict(), "ema": self.averaged.state_dict(),
                "optimizer": self.optimizer.state_dict(), "random": torch.get_rng_state()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Restore what `to_dict` returned."""
        self.step, self.validated, self.loss_sum = saved["step"], saved["validated"], saved["loss_sum"]
        self.best = saved["best"]
        self.model.load_state_dict(saved["model"])
        self.averaged.load_state_dict(saved["ema"])
        self.average.n_averaged.fill_(self.step)
        restore_optimizer(self.optimizer, saved["optimizer"])
        torch.set_rng_state(saved["random"])


def train(options: TrainOptions) -> TrainResult:
    """Train a network from the start.

    Raises:
        UserError: options, data or folder are wrong (found before the long run), or the loss is not finite; another
            training uses the folder.
        TrainingInterrupted: Ctrl-C, SIGTERM or SIGHUP.
    """
    out = options.out or Path("runs") / options.preset
    with processes(), claimed(out), Speaker(rank_and_world()[0]) as speaker:
        if (out / LAST).exists():
            raise UserError(f"{out} holds a training: go on with --resume {out}, or give another --out")
        if (out / BEST).exists():
            raise UserError(f"{out} holds the weights of a training, {BEST}: give another --out, or move them away")
        return fit(*set_up(dataclasses.replace(options, out=out)), speaker)


def resume(run: Path, **changes: Any) -> TrainResult:
    """Resume a training run; on the CPU the result is that of an uninterrupted run, bit for bit.

    Args:
        run: the run folder.
        changes: options given again: `epochs` may be larger, those of `FREE` others, the rest must be as it was.

    Raises:
        UserError: there is nothing to resume, or an option or the data changed; and what `train` raises.
        TrainingInterrupted: Ctrl-C, SIGTERM or SIGHUP.
    """
    last_of(run)  # before the folder is claimed, which would create it
    with processes(), claimed(run), Speaker(rank_and_world()[0]) as speaker:
        saved = read_run(run)
        return fit(*set_up(options_to_resume(run, saved, changes), saved), speaker)


def set_up(options: TrainOptions, saved: dict[str, Any] | None = None) -> tuple[Setup, State]:
    """Open folder, device and data and build the network and its optimizer; restore them from `saved` if given."""
    rank, world = rank_and_world()
    assert options.out is not None
    folder = RunFolder(options.out, rank=rank, world=world)
    device = own_device(options.device)
    if saved is not None:
        check_processes(folder, saved)
        if device.type == "cpu":
            torch.set_num_threads(saved["threads"])  # the order of summation depends on it
    data = open_data(options, rank=rank, world=world)
    if saved is not None:
        check_data(data.files, saved)
    setup = Setup(options, command_of(options, saved), folder, device, data)

    torch.manual_seed(options.seed)
    if saved is None:
        model = build_network(options)
    else:
        with of_this_version(folder.path):
            model = create_model(config_from_dict(saved["config"]))
    model.train().to(device, memory_format=setup.memory_format)  # type: ignore[call-overload]
    freeze(model, options.freeze)
    average = AveragedModel(model, multi_avg_fn=functools.partial(update_average, decay=options.ema))
    if options.checkpoint_activations:
        checkpoint_activations(model)
    optimizer = torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad],
                                 options.lr, options.betas, weight_decay=options.weight_decay)
    state = State(model, average, optimizer)
    if saved is not None:
        with of_this_version(folder.path):
            state.restore(saved)
        forget_lost_best(folder, state)
    return setup, state


def fit(setup: Setup, state: State, speaker: Speaker) -> TrainResult:
    """Train from the step of the state to the end."""
    options, folder = setup.options, setup.folder
    network = torch.compile(state.model) if options.compile else state.model
    network = share(cast(nn.Module, network), state.model.config, setup.device)
    batches = iter(make_loader(setup.data.samples, options, range(state.step, setup.steps), setup.device,
                               rank=folder.rank, world=folder.world))
    console = Console(speaker, steps=setup.steps, step=state.step, images=options.patches * folder.world,
                      device=setup.device)
    folder.remove_leftovers()
    speaker.say(describe(setup, state))
    if state.step == setup.steps and not validation_due(setup, state):
        speaker.say(f"this training is finished: {folder.resume_command} --epochs N lengthens it")
    if state.step == 0:
        console.estimate(state.model, options.patch)
    if state.validated < 0:
        save(setup, state)  # so that a folder that cannot be written fails before the first validation
    log = EpochLog(folder.path, (state.step - validation_due(setup, state)) // setup.steps_per_epoch, rank=folder.rank)
    with Signals() as signals, folder.writer(state.step) as writer, console.open_bar():
        write_options(writer, options, setup.command, state.step)
        while validation_due(setup, state) or state.step < setup.steps:
            if validation_due(setup, state):
                mean_psnr, mean_ssim, stopping = validate(setup, state, signals, writer, console)
                if not stopping:
                    assert state.best is not None
                    log_epoch(setup, state, log, console, psnr=mean_psnr, ssim=mean_ssim)
                    save(setup, state)
                    console.report(f"{state.step // setup.steps_per_epoch}/{options.epochs}", mean_psnr, mean_ssim,
                                   best=state.best, loss=state.loss_sum / setup.steps_per_epoch)
            else:
                with console.timed_step():
                    try:
                        batch = next(batches)
                    except UserError as error:  # an image has disappeared
                        error.__traceback__ = None  # it refers to itself, and so would keep the reading processes
                        del batches
                        save(setup, state)
                        kept = "the state" if rank_and_world()[0] == 0 else "the last checkpoint"
                        raise UserError(f"{reader_fault(error)}; {kept} is kept, go on with: "
                                        f"{folder.resume_command}") from None
                    stopping = train_step(setup, state, network, batch, signals.received, writer)
                if state.step % setup.steps_per_epoch == 0 and not validation_due(setup, state):
                    log_epoch(setup, state, log, console)
                if folder.minutes_since_save > options.checkpoint_minutes:
                    save(setup, state)
            if stopping:
                save(setup, state)
                if folder.world > 1:  # no process ends before the first has written
                    dist.barrier()
                raise TrainingInterrupted(stopping, f"interrupted at step {state.step} of {setup.steps}; the state is "
                                                    f"kept, go on with: {folder.resume_command}")
    assert state.best is not None
    if state.best["epoch"] == 0:
        speaker.say("no epoch was better than the first weights: try a smaller --lr than "
                    f"{options.lr:g}, or more pairs")
    return TrainResult(folder.best, folder.last, state.best["psnr"], state.best["ssim"], int(state.best["epoch"]))


def log_epoch(setup: Setup, state: State, log: EpochLog, console: Console, **scores: float) -> None:
    """Write the line of the epoch that has just ended; epoch 0 is the validation before the training."""
    epoch = state.step // setup.steps_per_epoch
    figures = {"loss": state.loss_sum / setup.steps_per_epoch, "seconds": console.lap(),
               "learning_rate": learning_rate(setup.options, state.step - 1, setup.steps_per_epoch)} if epoch else {}
    log.write(epoch, **figures, **scores)


def train_step(setup: Setup, state: State, network: Callable[[Tensor], Tensor], batch: Tensor, received: int,
               writer: Any) -> int:
    """Take one step of the optimizer on uint8 (b, 2, 3, h, w).

    Args:
        network: the state's model, perhaps compiled or wrapped for several processes.
        batch: pairs of patches, the dark ones first.
        received: the number of a signal that this process received, or 0.
        writer: TensorBoard's writer, or None in processes that do not write.

    Returns:
        The number of a signal if any process received one, so that all stop after the same step; else 0.

    Raises:
        UserError: the loss or its gradient is not finite; the weights are as before the step.
    """
    options, folder, epoch = setup.options, setup.folder, state.step // setup.steps_per_epoch + 1
    if state.step % setup.steps_per_epoch == 0:
        state.loss_sum = 0.0
    rate = learning_rate(options, state.step, setup.steps_per_epoch)
    for group in state.optimizer.param_groups:
        group["lr"] = rate

    pairs = mix_up(batch.to(setup.device, non_blocking=True), options, epoch=epoch, step=state.step, rank=folder.rank,
                   world=folder.world)
    state.optimizer.zero_grad()
    loss = add_gradients(setup, network, pairs)
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), options.clip or math.inf)

    figures = torch.stack([loss, norm, norm.new_tensor(float(received > 0))])
    if folder.world > 1:
        dist.all_reduce(figures)
    mean_loss, mean_norm, interrupted = (figures / folder.world).tolist()
    if not math.isfinite(mean_loss) or not math.isfinite(mean_norm):
        raise UserError(f"the loss or its gradient is not finite at step {state.step + 1} in epoch {epoch} (loss "
                        f"{mean_loss}, norm {mean_norm}): start again with a smaller --lr; the last good state is "
                        f"{folder.last}")
    state.optimizer.step()
    state.average.update_parameters(state.model)
    state.step += 1
    state.loss_sum += mean_loss
    if writer and state.step % setup.steps_per_epoch == 0:
        writer.add_scalar("train/loss", state.loss_sum / setup.steps_per_epoch, state.step)
        writer.add_scalar("train/grad_norm", mean_norm, state.step)
        writer.add_scalar("train/learning_rate", rate, state.step)
    return (received or signal.SIGTERM) if interrupted else 0


def add_gradients(setup: Setup, network: Callable[[Tensor], Tensor], pairs: Tensor) -> Tensor:
    """Add the gradient of the mean loss over pairs (b, 2, 3, h, w) to the weights', --batch pairs at a time.

    Returns:
        The mean loss, a scalar.
    """
    options, mean = setup.options, pairs.new_zeros(())
    parts = pairs.split(options.batch)
    for number, part in enumerate(parts, start=1):
        low, high = part.unbind(1)
        alone = isinstance(network, DistributedDataParallel) and number < len(parts)  # the last one sums over processes
        with network.no_sync() if alone else contextlib.nullcontext():  # type: ignore[attr-defined]
            with torch.autocast(setup.device.type, torch.bfloat16, enabled=uses_bf16(options, setup.device)):
                output = network(low.contiguous(memory_format=setup.memory_format))
            loss = restoration_loss(output.to(high.dtype), high, eps=options.charbonnier_eps,
                                    brightness=options.brightness, structure=options.structure)
            loss = loss * (len(part) / len(pairs))
            loss.backward()
        mean += loss.detach()
    return mean


def validation_due(setup: Setup, state: State) -> bool:
    """Return whether a validation comes next: before the first step, after every so many epochs, and at the end."""
    every = setup.options.validate_every * setup.steps_per_epoch
    return state.validated != state.step and (state.step % every == 0 or state.step == setup.steps)


def validate(setup: Setup, state: State, signals: Signals, writer: Any, console: Console) -> tuple[float, float, int]:
    """Measure the averaged weights on the validation frames; save them in `best.safetensors` if they are the best.

    Returns:
        Mean PSNR in dB, mean SSIM, and 0 or the number of the signal that stopped the validation (nothing is saved).

    Raises:
        UserError: the output of the network is not finite, or a file cannot be written.
    """
    step, frames, scores, rows = state.step, setup.data.frames, [], []  # only the first process has frames
    for _, low, high in console.follow(frames, f"validating at step {step}"):
        if signals.received:
            break
        try:
            output = enhance(state.averaged, low)
        except FloatingPointError as error:
            raise UserError(f"validation at step {step}: {error}; start again with a smaller --lr") from None
        scores.append((psnr(output, high), ssim(output, high)))
        rows.append(np.hstack([low, output, high]))
    means = [mean_score(values) for values in zip(*scores)] or [math.nan, math.nan]
    figures = torch.tensor([*means, signals.received if len(scores) < len(frames) else 0], dtype=torch.float64)
    if setup.folder.world > 1:
        figures = figures.to(setup.device)
        dist.broadcast(figures, 0)
    mean_psnr, mean_ssim, stopping = figures.tolist()
    if stopping:
        return mean_psnr, mean_ssim, int(stopping)
    state.validated = step
    if state.best is None or mean_psnr > state.best["psnr"]:
        state.best = {"psnr": mean_psnr, "ssim": mean_ssim, "epoch": step // setup.steps_per_epoch}
        measured = {**state.best, "images": len(frames), "size": shown("val_size", setup.options.val_size)}
        setup.folder.save_best(state.averaged, {"command": setup.command, "data": setup.data.name,
                                                "seed": setup.options.seed, "validation": measured})
    if writer:
        writer.add_scalar("val/psnr", mean_psnr, step)
        writer.add_scalar("val/ssim", mean_ssim, step)
        writer.add_image("val/dark_output_truth", stacked(rows[:GRID_ROWS]), step, dataformats="HWC")
        writer.flush()
    return mean_psnr, mean_ssim, 0


def save(setup: Setup, state: State) -> None:
    """Write everything that is needed to resume."""
    setup.folder.save({
        "version": __version__, "config": state.model.config.to_dict(), "options": setup.options.to_dict(),
        "command": setup.command, "data": {"name": setup.data.name, "files": setup.data.files},
        "world": setup.folder.world, "threads": torch.get_num_threads(), **state.to_dict()})


def describe(setup: Setup, state: State) -> str:
    """Return one line with the network, the data, the length of the training and the folder."""
    options, data, world = setup.options, setup.data, setup.folder.world
    trained = sum(parameter.numel() for parameter in state.model.parameters() if parameter.requires_grad)
    frozen = f" ({parameter_count(state.model) - trained:,} frozen)" if options.freeze else ""
    return (f"{parameter_count(state.model):,} parameters{frozen} on {setup.device}; {data.samples.scene_count} "
            f"training scenes, {len(data.frames)} validation frames of {data.name}; {options.epochs} epochs of "
            f"{setup.steps_per_epoch} steps of {options.batch} patches"
            f"{f' x {options.accumulate} accumulated' if options.accumulate > 1 else ''}"
            f"{f' x {world} processes' if world > 1 else ''}; "
            f"into {setup.folder.path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with its arguments (default: those of the process) and return its exit status."""
    description, _, _ = (__doc__ or "").partition("\n\nSource")
    given = parse_arguments(arguments, description)
    require_extra("train", "training")
    run = given.pop("resume", None)
    first = int(os.environ.get("RANK", "0")) == 0
    try:
        result = resume(run, **given) if run else train(TrainOptions.for_preset(given.pop("preset", "paper"), **given))
    except TrainingInterrupted as interruption:
        if first:
            say(str(interruption))
        return 128 + interruption.signal_number
    if first:
        print(f"best: {result.psnr:.2f} dB, SSIM {result.ssim:.3f} in epoch {result.epoch}: {result.best}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
