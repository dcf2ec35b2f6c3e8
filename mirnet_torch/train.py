"""Train a MIRNet on pairs of dark and bright images.

    python -m mirnet_torch.train --data LOL                              the published network by the paper's recipe
    python -m mirnet_torch.train --data LOL --preset mcu                 a network for a microcontroller
    python -m mirnet_torch.train --preset mcu --epochs 20                on photographs inside scikit-image
    python -m mirnet_torch.train --resume runs/mcu                       go on after an interruption
    torchrun --nproc-per-node 2 -m mirnet_torch.train --data LOL ...     on several GPUs (or with gloo on CPUs)

Source of the recipe: Zamir et al., "Learning Enriched Features for Real Image Restoration and Enhancement", ECCV 2020,
section 4, and its published training settings. Where it departs from them:

* the loss sees the output unclamped, so that it has a gradient everywhere; it may count brightness less;
* the learning rate follows the steps, not the epochs, and is a function of the step alone;
* the weights that are measured and kept are an exponential moving average; gradients are clipped;
* samples follow one another without end, so that no incomplete batch is dropped or padded.

A run folder holds `last.pt` (everything needed to go on), `best.safetensors` (the averaged weights with the highest
validation PSNR) and TensorBoard's event files. All randomness is a function of the seed and the step, so a resumed run
on the CPU repeats the uninterrupted one bit for bit.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import json
import math
import os
import shlex
import signal
import sys
import threading
import time
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Sequence, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from mirnet_torch.checkpoint import load_model, read_pickle, save_model
from mirnet_torch.cli import UserError, atomic_path, make_folder, pick_device, progress, run_command
from mirnet_torch.data import Augmentation, Batches, Samples, Scenes, find_split, mixup_draw, validation_frames
from mirnet_torch.enhance import enhance
from mirnet_torch.metrics import mean_score, psnr, ssim
from mirnet_torch.model import PRESETS, MIRNet, MIRNetConfig, parameter_count

CACHE_BYTES = 4 * 2 ** 30  # decoded images in memory, all processes together
GRID_ROWS = 4  # validation images in TensorBoard's comparison grid
LAST, BEST = "last.pt", "best.safetensors"
Size = tuple[int, int]  # (width, height)


def _option(default: Any, text: str, **limits: Any) -> Any:
    """Declare a field of TrainOptions with its help and the closed range `low`..`high` of its values."""
    return field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True)
class TrainOptions:
    """What a training is made of. The defaults are the paper's recipe; `for_preset` gives those of other networks.

    Raises:
        UserError: a value is out of its range, or two contradict each other.
    """

    data: Path | None = _option(None, "folder with low/ and high/, train/ and val/, or our485/ and eval15/; without "
                                      "it: photographs inside scikit-image, darkened by a camera model")
    out: Path | None = _option(None, "run folder to make (default: runs/PRESET)")
    preset: str = _option("paper", "network and recipe", choices=tuple(PRESETS))
    config: Path | None = _option(None, "JSON file with MIRNetConfig's fields, instead of the preset's network")
    init: Path | None = _option(None, "checkpoint to take network and first weights from")
    seed: int = _option(0, "of all randomness", low=0, high=2 ** 63 - 1)

    epochs: int = _option(200, "passes over the training pairs", low=1, high=10 ** 9)
    batch: int = _option(16, "patches per process and step", low=1, high=65536)
    patch: Size = _option((128, 128), "size of the patches, WIDTHxHEIGHT or one number", low=1, high=65536)
    flips: bool = _option(True, "flip patches left-right and upside down")
    rotations: bool = _option(True, "turn patches by quarter turns")
    scales: bool = _option(False, "cut patches at all scales from pixel for pixel up to the whole image")
    jitter: bool = _option(False, "vary exposure, white balance, noise and bits (8, or those of RGB565) of every other "
                                  "dark patch")
    relight: bool = _option(False, "make every tenth dark patch from its bright partner: half of these normally "
                                   "lit, which a network then learns to leave alone, half with any light")
    relight_from: float = _option(0.02, "least of that light", low=1e-3, high=1)
    mixup_alpha: float = _option(1.2, "MixUp blends pairs with shares from Beta(A, A); 0: no MixUp", low=0, high=1e3)
    mixup_from: int = _option(6, "first epoch with MixUp", low=1, high=10 ** 9)

    lr: float = _option(2e-4, "highest learning rate (Adam)", low=1e-12, high=1e3)
    lr_min: float = _option(1e-6, "learning rate at the end of the cosine", low=0, high=1e3)
    warmup_epochs: int = _option(3, "epochs of linear warm-up, at most half of all", low=0, high=10 ** 9)
    betas: tuple[float, float] = _option((0.9, 0.999), "Adam's decay rates", low=0, high=1 - 1e-9)
    weight_decay: float = _option(1e-8, "Adam's weight decay", low=0, high=1e3)
    charbonnier_eps: float = _option(1e-3, "epsilon of the Charbonnier loss, mean of sqrt(difference^2 + epsilon^2)",
                                     low=1e-9, high=1e3)
    brightness: float = _option(1.0, "how much brightness counts in the loss: 1 takes outputs as they are, 0 made as "
                                     "bright as their truths, between them both are weighted", low=0, high=1)
    clip: float = _option(1.0, "largest norm of the gradient; 0: do not clip", low=0, high=1e9)
    ema: float = _option(0.999, "decay of the averaged weights per step; 0: no averaging", low=0, high=1 - 1e-9)

    val_size: Size | None = _option(None, "validate on images cropped and box-filtered to WIDTHxHEIGHT, or 'full'",
                                    low=1, high=65536)
    validate_every: int = _option(1, "epochs from one validation to the next", low=1, high=10 ** 9)
    checkpoint_minutes: float = _option(10.0, "minutes between checkpoints inside an epoch", low=0, high=1e6)

    device: str = _option("auto", "cpu, cuda, cuda:N, mps, or auto: the first of cuda, mps, cpu that is there")
    bf16: bool = _option(True, "compute in bfloat16 on CUDA devices that have it")
    channels_last: bool = _option(True, "keep the channels innermost in memory, which is quicker")
    compile: bool = _option(False, "compile the network first (torch.compile)")
    workers: int | None = _option(None, "processes that load data (default: 0 on the CPU, else up to 8)", low=0,
                                  high=256)

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            value, limits = getattr(self, option.name), option.metadata
            if value is None and option.type.endswith("None"):
                continue
            if option.type.startswith("Path"):
                object.__setattr__(self, option.name, Path(value))
            if "choices" in limits and value not in limits["choices"]:
                raise UserError(f"{_flag(option.name)} must be one of {', '.join(limits['choices'])}, not {value}")
            for number in value if isinstance(value, tuple) else [value]:
                if "low" in limits and (number is None or not limits["low"] <= number <= limits["high"]):
                    raise UserError(f"{_flag(option.name)} must be from {limits['low']} to {limits['high']}, not "
                                    f"{'full' if number is None else number}")
        if self.lr_min > self.lr:
            raise UserError(f"--lr-min ({self.lr_min}) must not be above --lr ({self.lr})")

    @classmethod
    def for_preset(cls, name: str, **changes: Any) -> TrainOptions:
        """Return the recipe of a preset, with changes.

        Raises:
            UserError: there is no such preset, or a value is out of its range.
        """
        return cls(**{"preset": name, **RECIPES.get(name, {}), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, paths absolute; `TrainOptions(**fields)` is the way back."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}

    def command(self) -> str:
        """Return the command line that gives these options."""
        recipe = TrainOptions.for_preset(self.preset)
        words = ["python", "-m", "mirnet_torch.train", "--preset", self.preset]
        for name, value in vars(self).items():
            if isinstance(value, bool) and value != getattr(recipe, name):
                words.append(_flag(name) if value else _flag(f"no_{name}"))
            elif value != getattr(recipe, name):
                words += [_flag(name), *(_shown(value).split() if isinstance(value, tuple) else [_shown(value)])]
        return shlex.join(words)


# What a preset's recipe changes in the paper's.
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {},
    # Whole camera frames and details of them; a small network wants a larger step and many passes.
    "mcu": {"patch": (160, 120), "scales": True, "jitter": True, "relight": True, "mixup_alpha": 0.0,
            "brightness": 0.3, "epochs": 400, "lr": 2e-3, "val_size": (160, 120), "validate_every": 10},
}
# Options that may change when a run is resumed, since the result does not depend on them.
FREE = ("data", "checkpoint_minutes", "workers")


@dataclass(frozen=True)
class TrainResult:
    """Where a finished training left its files, and its best validation scores."""

    best: Path
    last: Path
    psnr: float
    ssim: float
    epoch: int


class TrainingInterrupted(Exception):
    """A signal stopped the training after its checkpoint was written; the message says how to go on."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def train(options: TrainOptions) -> TrainResult:
    """Train a network from the start.

    Raises:
        UserError: something about options, data or folder is wrong (before the long run), the loss became not finite.
        TrainingInterrupted: Ctrl-C or SIGTERM.
    """
    out = options.out or Path("runs") / options.preset
    if (out / LAST).exists():
        raise UserError(f"{out} holds a training: go on with --resume {out}, or give another --out")
    with _processes():
        return _Training(dataclasses.replace(options, out=out), None).fit()


def resume(run: Path, **changes: Any) -> TrainResult:
    """Go on with an interrupted training as if nothing had happened: on the CPU bit for bit.

    Args:
        run: the run folder.
        changes: options given again; those that would change the result must be as they were.

    Raises:
        UserError: there is nothing to go on with, an option or the data changed; and what `train` raises.
        TrainingInterrupted: Ctrl-C or SIGTERM.
    """
    if not (run / LAST).is_file():
        raise UserError(f"{run} holds no training to resume: there is no {LAST} in it")
    saved = read_pickle(run / LAST)
    try:
        options = TrainOptions(**saved["options"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{run / LAST} is no training checkpoint of this version ({error})") from None
    before = options.to_dict()
    for name, value in changes.items():
        if name not in FREE and _plain(value) != before[name]:
            raise UserError(f"{_flag(name)} was {_shown(before[name])} when this training started, and "
                            f"{_shown(value)} would change its result: leave it out, or start another run")
    given = {name: value for name, value in changes.items() if name in FREE}
    with _processes():
        return _Training(dataclasses.replace(options, **{**given, "out": run}), saved).fit()


class _Training:
    """One run: what it is made of, and its state, which `state` and `_restore` write and read."""

    def __init__(self, options: TrainOptions, saved: dict[str, Any] | None) -> None:
        self.options = options
        assert options.out is not None
        self.out = make_folder(options.out)
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.device = _device(options.device)
        if saved is not None:
            self._check_processes(saved)
        train_pairs, val_pairs = (None, None) if options.data is None else find_split(options.data)
        self.data = {"name": options.data.resolve().name if options.data else "photographs of scikit-image",
                     "files": _fingerprint(train_pairs, val_pairs)}
        scenes = Scenes(train_pairs, cache_bytes=CACHE_BYTES // self.world)
        augmentation = Augmentation(options.patch, flips=options.flips, rotations=options.rotations,
                                    scales=options.scales, jitter=options.jitter,
                                    relight=options.relight_from if options.relight else 0.0)
        self.samples = Samples(scenes, augmentation, seed=options.seed)
        self.frames = [] if self.rank else list(validation_frames(val_pairs, options.val_size, seed=options.seed))
        self.steps_per_epoch = max(1, round(len(self.samples) / (options.batch * self.world)))
        self.steps = options.epochs * self.steps_per_epoch
        self.step, self.validated = 0, -1  # steps done; of the last validation
        self.loss_sum = 0.0  # over the steps of this epoch
        self.best: dict[str, float] | None = None  # psnr, ssim, epoch
        self.scores = (math.nan, math.nan)  # of the last validation
        self.images, self.seconds, self.saved_at = 0, 0.0, time.monotonic()  # trained by this process; last saved
        self.command = options.command()

        torch.manual_seed(options.seed)
        self.model = _network(options, saved)
        memory_format = torch.channels_last if options.channels_last else torch.contiguous_format
        self.model.to(self.device, memory_format=memory_format)  # type: ignore[call-overload]
        self.memory_format = memory_format
        self.average = AveragedModel(self.model, multi_avg_fn=self._update_average)
        self.averaged = cast(MIRNet, self.average.module)
        self.optimizer = torch.optim.Adam(self.model.parameters(), options.lr, options.betas,
                                          weight_decay=options.weight_decay)
        if saved is not None:
            self._restore(saved)
        network: nn.Module = self.model
        if options.compile:
            network = torch.compile(network)  # type: ignore[assignment]
        if self.world > 1:
            one_gpu = [self.device] if self.device.type == "cuda" else None
            # The published network has resamplers for every column, even if there is but one.
            unused = self.model.config.width == 1 and self.model.config.exchange == "full"
            network = DistributedDataParallel(network, device_ids=one_gpu, broadcast_buffers=False,
                                              find_unused_parameters=unused)
        self.network = network
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=options.bf16
                                       and self.device.type == "cuda" and torch.cuda.is_bf16_supported())

    def fit(self) -> TrainResult:
        """Run from where the state stands to the end."""
        if self.rank == 0:
            self._introduce()
        batches = iter(self._loader())
        if self.validated < 0:
            self.save()  # so that a folder that cannot be written is known before the first validation
        with _Signals() as signals, self._writer() as writer, self._bar() as bar:
            while self.step < self.steps or self._validation_due():
                if self._validation_due():
                    stopping = self._validate(signals, writer)
                    if not stopping:
                        self.save()
                        self._report(bar)
                else:
                    began = time.monotonic()
                    stopping = self._train_step(self._next(batches), signals.received, writer)
                    self.images += self.options.batch * self.world
                    self.seconds += time.monotonic() - began
                    bar.set_postfix_str(f"{self._speed():.0f} images/s, {_peak_memory(self.device)}", refresh=False)
                    bar.update()
                    if time.monotonic() - self.saved_at > 60 * self.options.checkpoint_minutes:
                        self.save()
                if stopping:
                    self._stop(stopping)
        assert self.best is not None
        return TrainResult(self.out / BEST, self.out / LAST, self.best["psnr"], self.best["ssim"],
                           int(self.best["epoch"]))

    def _next(self, batches: Iterator[Tensor]) -> Tensor:
        try:
            return next(batches)
        except UserError as error:  # an image has gone; from another process the message comes at a traceback's end
            self.save()
            fault = str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
            raise UserError(f"{fault}; the state is kept, go on with: {_resume_command(self.out, self.world)}") \
                from None

    def _train_step(self, batch: Tensor, received: int, writer: Any) -> int:
        """Take one step of the optimizer on uint8 (b, 2, 3, h, w).

        A signal that this process received is told to the others; what is returned is not 0 if any received one.
        """
        options, epoch = self.options, self.step // self.steps_per_epoch + 1
        if self.step % self.steps_per_epoch == 0:
            self.loss_sum = 0.0
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        low, high = self._mix(batch, epoch).unbind(1)
        with self.autocast:
            output = self.network(low.contiguous(memory_format=self.memory_format))
        loss = charbonnier(output.float(), high, options.charbonnier_eps, brightness=options.brightness)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), options.clip or math.inf)
        figures = torch.stack([loss.detach(), norm, norm.new_tensor(float(received > 0))])
        if self.world > 1:
            dist.all_reduce(figures)
        mean_loss, mean_norm, interrupted = (figures / self.world).tolist()
        if not math.isfinite(mean_loss) or not math.isfinite(mean_norm):
            raise UserError(f"the loss or its gradient is not finite at step {self.step + 1} in epoch {epoch} (loss "
                            f"{mean_loss}, norm {mean_norm}): start again with a smaller --lr; the last good state is "
                            f"{self.out / LAST}")
        self.optimizer.step()
        self.average.update_parameters(self.model)
        self.step += 1
        self.loss_sum += mean_loss
        if writer and self.step % self.steps_per_epoch == 0:
            for name, value in (("train/loss", self.loss_sum / self.steps_per_epoch), ("train/grad_norm", mean_norm),
                                ("train/learning_rate", self.optimizer.param_groups[0]["lr"])):
                writer.add_scalar(name, value, self.step)
        return (received or signal.SIGTERM) if interrupted else 0

    def _mix(self, batch: Tensor, epoch: int) -> Tensor:
        """Scale a uint8 batch (b, 2, 3, h, w) to [0, 1]; blend its pairs with others of the global batch by MixUp."""
        options = self.options
        batch = batch.to(self.device, non_blocking=True)
        pairs = batch.float() / 255
        if not options.mixup_alpha or epoch < options.mixup_from:
            return pairs
        if self.world > 1:
            parts = [torch.empty_like(batch) for _ in range(self.world)]
            dist.all_gather(parts, batch)
            batch = torch.cat(parts)
        partners, shares = mixup_draw(options.mixup_alpha, len(batch), seed=options.seed, step=self.step)
        own = slice(self.rank * options.batch, (self.rank + 1) * options.batch)
        others = batch[partners[own].to(self.device)].float() / 255
        return torch.lerp(others, pairs, shares[own, None].to(self.device))

    def _learning_rate(self) -> float:
        """Linear warm-up, then half a cosine from lr to lr_min; a function of the step alone."""
        options = self.options
        warmup = min(options.warmup_epochs * self.steps_per_epoch, self.steps // 2)
        if self.step < warmup:
            return options.lr * (self.step + 1) / warmup
        done = (self.step - warmup) / max(1, self.steps - warmup - 1)
        return options.lr_min + (options.lr - options.lr_min) * (1 + math.cos(math.pi * done)) / 2

    def _update_average(self, average: Any, current: Any, updates: Any) -> None:
        """Move the average towards the weights; quicker at first, when it still holds the untrained ones."""
        done = int(updates)
        get_ema_multi_avg_fn(min(self.options.ema, (1 + done) / (10 + done)))(average, current, updates)

    def _validation_due(self) -> bool:
        every = self.options.validate_every * self.steps_per_epoch
        return self.validated != self.step and (self.step % every == 0 or self.step == self.steps)

    def _validate(self, signals: _Signals, writer: Any) -> int:
        """Measure the averaged weights on the validation frames and keep them if they are the best.

        Returns:
            The signal that interrupted this, or 0.
        """
        scores = [math.nan, math.nan, 0.0]
        if self.rank == 0:
            measured, rows = [], []
            for number, (_, low, high) in enumerate(self.frames):
                if signals.received:
                    scores[2] = float(signals.received)
                    break
                try:
                    output = enhance(self.averaged, low)
                except FloatingPointError as error:
                    raise UserError(f"validation at step {self.step}: {error}; start again with a smaller --lr") \
                        from None
                measured.append((psnr(output, high), ssim(output, high)))
                if number < GRID_ROWS:
                    rows.append(np.hstack([low, output, high]))
            else:
                scores[:2] = (mean_score(values) for values in zip(*measured))
        figures = torch.tensor(scores, dtype=torch.float64, device=self.device if self.world > 1 else None)
        if self.world > 1:
            dist.broadcast(figures, 0)
        peak, similarity, interrupted = figures.tolist()
        if interrupted:
            return int(interrupted)
        self.validated = self.step
        better = self.best is None or peak > self.best["psnr"]
        if better:
            self.best = {"psnr": peak, "ssim": similarity, "epoch": self.step // self.steps_per_epoch}
        self.scores = (peak, similarity)
        if self.rank == 0:
            if better:
                save_model(self.averaged, self.out / BEST, notes=self._notes())
            writer.add_scalar("val/psnr", peak, self.step)
            writer.add_scalar("val/ssim", similarity, self.step)
            width = max(row.shape[1] for row in rows)
            grid = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
            writer.add_image("val/dark_output_truth", np.vstack(grid), self.step, dataformats="HWC")
            writer.flush()
        return 0

    def save(self) -> None:
        """Write `last.pt`, whole or not at all."""
        if self.rank == 0:
            path = self.out / LAST
            try:
                with atomic_path(path) as temporary, open(temporary, "wb") as file:
                    torch.save(self.state(), file)
            except OSError as error:
                kept = f"; the state before it is kept, go on with --resume {self.out}" if path.exists() else ""
                raise UserError(f"cannot write {path}: {error.strerror}{kept}") from error
        self.saved_at = time.monotonic()

    def state(self) -> dict[str, Any]:
        """Return everything a later process needs to go on as if it were this one."""
        return {
            "config": self.model.config.to_dict(), "options": self.options.to_dict(), "command": self.command,
            "data": self.data, "world": self.world, "threads": torch.get_num_threads(),
            "step": self.step, "validated": self.validated, "loss_sum": self.loss_sum, "best": self.best,
            "model": self.model.state_dict(), "ema": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(), "random": torch.get_rng_state(),
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        if saved["data"]["files"] != self.data["files"]:
            raise UserError(f"the data are not those this training started with ({saved['data']['name']}): names or "
                            "sizes of files differ; give the same with --data")
        self.command = saved["command"]
        self.step, self.validated, self.loss_sum = saved["step"], saved["validated"], saved["loss_sum"]
        self.best = saved["best"]
        self.model.load_state_dict(saved["model"])
        self.averaged.load_state_dict(saved["ema"])
        self.average.n_averaged.fill_(self.step)
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"])

    def _check_processes(self, saved: dict[str, Any]) -> None:
        if saved["world"] != self.world:
            raise UserError(f"this training started with {saved['world']} processes, not {self.world}: "
                            f"{_resume_command(self.out, saved['world'])}")
        if self.device.type == "cpu":
            torch.set_num_threads(saved["threads"])  # sums are rounded in another order otherwise

    def _notes(self) -> dict[str, Any]:
        assert self.best is not None
        size = self.options.val_size
        return {"command": self.command, "data": self.data["name"], "seed": self.options.seed,
                "validation": {**self.best, "images": len(self.frames),
                               "size": f"{size[0]}x{size[1]}" if size else "full"}}

    def _loader(self) -> DataLoader[Tensor]:
        workers = self.options.workers
        if workers is None:
            workers = 0 if self.device.type == "cpu" else min(8, (os.cpu_count() or 1) // self.world)
        batches = Batches(self.options.batch, range(self.step, self.steps), rank=self.rank, world=self.world)
        return DataLoader(self.samples, batch_sampler=batches, num_workers=workers, worker_init_fn=_quiet_worker,
                          pin_memory=self.device.type == "cuda",
                          generator=torch.Generator())  # it draws a seed, which nobody uses, from the global state else

    def _speed(self) -> float:
        """Images per second of training, without validation."""
        return self.images / self.seconds if self.seconds else 0.0

    def _introduce(self) -> None:
        for name in (Path(LAST), Path(BEST)):
            for stale in self.out.glob(f".{name.stem}-*{name.suffix}"):  # of a process that was killed while it wrote
                stale.unlink(missing_ok=True)
        processes = f" x {self.world} processes" if self.world > 1 else ""
        print(f"{parameter_count(self.model):,} parameters on {self.device}; {len(self.samples.scenes)} training "
              f"scenes, {len(self.frames)} validation frames of {self.data['name']}; {self.options.epochs} epochs of "
              f"{self.steps_per_epoch} steps of {self.options.batch} patches{processes}; into {self.out}", flush=True)

    def _report(self, bar: Any) -> None:
        """Print one line about the validation just done."""
        if self.rank or self.best is None:
            return
        parts = [f"epoch {self.step // self.steps_per_epoch}/{self.options.epochs}",
                 f"PSNR {self.scores[0]:.2f} dB  SSIM {self.scores[1]:.3f}"]
        if self.images:
            seconds = (self.steps - self.step) * self.options.batch * self.world / self._speed()
            parts += [f"best {self.best['psnr']:.2f} dB (epoch {self.best['epoch']})",
                      f"loss {self.loss_sum / self.steps_per_epoch:.4f}", f"{self._speed():.0f} images/s",
                      _peak_memory(self.device), f"ETA {datetime.timedelta(seconds=round(seconds))}"]
        bar.clear()
        print("  ".join(parts), flush=True)

    def _stop(self, received: int) -> None:
        self.save()
        if self.world > 1:
            dist.barrier()
        raise TrainingInterrupted(received, f"interrupted at step {self.step} of {self.steps}; the state is kept, go "
                                            f"on with: {_resume_command(self.out, self.world)}")

    def _bar(self) -> Any:
        return progress(total=self.steps, initial=self.step, desc="train", unit="step")

    @contextlib.contextmanager
    def _writer(self) -> Iterator[Any]:
        """Yield TensorBoard's writer in the process that writes, None in the others."""
        if self.rank:
            yield None
            return
        # TensorBoard imports TensorFlow if it is there, for file systems not used here; this is its switch against it.
        sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
        from torch.utils.tensorboard import SummaryWriter
        writer = SummaryWriter(str(self.out), purge_step=self.step + 1 if self.step else None)
        before = threading.excepthook  # a full disk meets TensorBoard's thread first; flush() tells it to this one
        threading.excepthook = lambda failure: None if isinstance(failure.exc_value, OSError) else before(failure)
        try:
            yield writer
        except OSError as error:
            if error.filename is not None:
                raise
            raise UserError(f"cannot write into {self.out}: {error.strerror}; mend that, then go on with: "
                            f"{_resume_command(self.out, self.world)}") from error
        finally:
            with contextlib.suppress(OSError):
                writer.close()
            threading.excepthook = before


def charbonnier(output: Tensor, truth: Tensor, eps: float, *, brightness: float = 1.0) -> Tensor:
    """Return the mean over all elements of sqrt(difference^2 + eps^2) (Charbonnier et al., ICIP 1994).

    With `brightness` below 1 the rest of the weight goes to the same of outputs that are made as bright as their
    truths: times the one factor an image that brings them nearest. How bright a dark scene was is hardly to be known,
    and that error is so large that it drowns all others and is learned by heart.
    """
    def loss(made: Tensor) -> Tensor:
        return (made - truth).square().add(eps * eps).sqrt().mean()
    if brightness == 1:
        return loss(output)
    energy = output.square().sum((1, 2, 3), keepdim=True).clamp(min=1e-3)
    gain = ((output * truth).sum((1, 2, 3), keepdim=True) / energy).clamp(0.1, 10)
    return (1 - brightness) * loss(gain * output) + brightness * loss(output)


class _Signals:
    """Note SIGINT and SIGTERM instead of dying; a second one acts as ever."""

    def __init__(self) -> None:
        self.received = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.received = number
        signal.signal(number, self.before[number])


@contextlib.contextmanager
def _processes() -> Iterator[None]:
    """Join the other processes if torchrun started this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(hours=1))  # the others wait while one validates
    try:
        yield
    finally:
        dist.destroy_process_group()


def _device(name: str) -> torch.device:
    if dist.is_initialized() and name in ("auto", "cuda") and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return pick_device(name)


def _network(options: TrainOptions, saved: dict[str, Any] | None) -> MIRNet:
    """Build the network of a checkpoint, of --init, of --config or of the preset."""
    if saved is not None:
        return MIRNet(MIRNetConfig(**saved["config"]))
    config = MIRNetConfig.preset(options.preset)
    if options.config is not None:
        try:
            config = MIRNetConfig(**json.loads(options.config.read_text()))
        except (ValueError, TypeError) as error:
            raise UserError(f"{options.config} is no configuration of a MIRNet: {error}") from None
    model = MIRNet(config)
    if options.init is not None:
        model = load_model(options.init)
        if options.config is not None and model.config != config:
            raise UserError(f"{options.init} holds another network than {options.config} describes: leave out one")
    if model.config.in_channels != 3:
        raise UserError(f"training needs a network for RGB images; this one has {model.config.in_channels} channels")
    return model.train()


def _fingerprint(*groups: Any) -> str:
    files = [[(pair.name, pair.low.stat().st_size, pair.high.stat().st_size) for pair in group or ()]
             for group in groups]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _quiet_worker(_: int) -> None:
    """Leave signals to the main process, which ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)


def _peak_memory(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2 ** 30:.1f} GB"
    import resource
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2 ** 30:.1f} GB"


def _resume_command(out: Path, world: int) -> str:
    launcher = f"torchrun --nproc-per-node {world}" if world > 1 else "python"
    return f"{launcher} -m mirnet_torch.train --resume {shlex.quote(str(out))}"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _plain(value: Any) -> Any:
    return str(value.resolve()) if isinstance(value, Path) else value


def _size(text: str) -> Size | None:
    """Read "160x120" as (160, 120), "128" as (128, 128), "full" as None."""
    if text == "full":
        return None
    parts = text.lower().split("x")
    if not 1 <= len(parts) <= 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no size like 160x120")
    return int(parts[0]), int(parts[-1])


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ("x" if isinstance(value[0], int) else " ").join(str(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    description, _, _ = (__doc__ or "").partition("\n\nSource")
    parser = argparse.ArgumentParser(
        prog="python -m mirnet_torch.train", description=description, argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 when finished, 2 after an error, 130 or 143 after Ctrl-C or SIGTERM, which leave a "
               "checkpoint to go on from.")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with the training in this run folder; its "
                                                                   "options come from there")
    kinds = {"Path": Path, "int": int, "float": float, "str": str, "Size": _size}
    for option in dataclasses.fields(TrainOptions):
        kind, text = option.type.split(" |")[0], option.metadata["help"]
        defaults = [_shown(option.default)] + [f"{name}: {_shown(recipe[option.name])}"
                                               for name, recipe in RECIPES.items() if option.name in recipe]
        if option.name == "val_size":
            defaults[0] = "full"
        if option.default is not None or len(defaults) > 1:
            text += f" (default: {'; '.join(defaults)})"
        metavar = {"Path": "PATH", "Size": "SIZE", "str": "NAME"}.get(kind, "N")
        extra: dict[str, Any] = {"type": kinds.get(kind), "metavar": metavar}
        if kind == "bool":
            extra = {"action": argparse.BooleanOptionalAction}
        elif "choices" in option.metadata:
            extra = {"choices": option.metadata["choices"]}
        elif kind.startswith("tuple"):
            extra = {"type": float, "nargs": 2, "metavar": ("B1", "B2")}
        parser.add_argument(_flag(option.name), help=text, **extra)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with its arguments (default: those of the process) and return its exit status."""
    given = vars(_arguments(arguments))
    if "betas" in given:
        given["betas"] = tuple(given["betas"])
    run = given.pop("resume", None)
    try:
        result = resume(run, **given) if run else train(TrainOptions.for_preset(given.pop("preset", "paper"), **given))
    except TrainingInterrupted as interruption:
        if int(os.environ.get("RANK", "0")) == 0:
            print(interruption, file=sys.stderr)
        return 128 + interruption.signal_number
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"best: {result.psnr:.2f} dB, SSIM {result.ssim:.3f} in epoch {result.epoch}: {result.best}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
