"""The files of a training run, the signals that stop it, and the checks before it is resumed.

A run folder holds `last.pt` (everything needed to resume), `best.safetensors` (the averaged weights with the highest
validation PSNR), `log.csv` (see `log`) and TensorBoard's event files; while a training runs also `.lock`.
"""
from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import math
import os
import platform
import shlex
import signal
import sys
import threading
import time
import types
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Iterator, Mapping

import torch

from mirnet_torch import __version__
from mirnet_torch.checkpoint import read_pickle, save_model
from mirnet_torch.cli import UserError, atomic_path, make_folder, say
from mirnet_torch.presets import Network
from mirnet_torch.processes import rank_and_world
from mirnet_torch.training.options import FREE, TrainOptions, command_line, flag, shown

LAST, BEST, LOCK = "last.pt", "best.safetensors", ".lock"
# The content of `last.pt`, which `train.save` writes.
FIELDS: dict[str, Any] = {
    "config": dict, "options": dict, "command": str, "data": dict, "world": int, "threads": int, "step": int,
    "validated": int, "loss_sum": float, "best": (dict, type(None)), "model": dict, "ema": dict, "optimizer": dict,
    "random": torch.Tensor}


class TrainingInterrupted(Exception):
    """A signal stopped the training, and its checkpoint is written; the message says how to resume."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class RunFolder:
    """The files of one run. Only the first process (rank 0) writes them.

    Args:
        path: the folder, created if needed.
        rank: this process.
        world: number of processes.

    Raises:
        UserError: the folder cannot be created or written.
    """

    def __init__(self, path: Path, *, rank: int = 0, world: int = 1) -> None:
        self.path, self.rank, self.world = make_folder(path), rank, world
        self.last, self.best = path / LAST, path / BEST
        self._saved_at = time.monotonic()

    @property
    def minutes_since_save(self) -> float:
        """Minutes since `last.pt` was last written, or since the folder was opened."""
        return (time.monotonic() - self._saved_at) / 60

    @property
    def resume_command(self) -> str:
        """The command that resumes this run."""
        return resume_command(self.path, self.world)

    def save(self, content: Mapping[str, Any]) -> None:
        """Write `last.pt`, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        self._saved_at = time.monotonic()
        if self.rank:
            return
        try:
            with atomic_path(self.last) as temporary, open(temporary, "wb") as file:
                torch.save(content, file)
        except OSError as error:
            kept = f"; the state before it is kept, go on with --resume {self.path}" if self.last.exists() else ""
            raise UserError(f"cannot write {self.last}: {error.strerror}{kept}") from error

    def save_best(self, model: Network, notes: Mapping[str, Any]) -> None:
        """Write `best.safetensors`, whole or not at all."""
        if not self.rank:
            save_model(model, self.best, notes=notes)

    def remove_leftovers(self) -> None:
        """Remove temporary files of a process that was killed while writing."""
        if self.rank:
            return
        for path in (self.last, self.best):
            for leftover in self.path.glob(f".{path.stem}-*{path.suffix}"):
                leftover.unlink(missing_ok=True)

    @contextlib.contextmanager
    def writer(self, step: int) -> Iterator[Any]:
        """Yield TensorBoard's writer, or None in processes that do not write; older events after `step` are dropped.

        Raises:
            UserError: the event file cannot be written.
        """
        if self.rank:
            yield None
            return
        # TensorBoard imports TensorFlow if it is installed, for file systems that we do not use; this prevents it.
        sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
        from torch.utils.tensorboard import SummaryWriter
        writer = SummaryWriter(str(self.path), purge_step=step + 1 if step else None)
        before = threading.excepthook  # on a full disk TensorBoard's thread fails first; flush() then raises it here
        threading.excepthook = lambda failure: None if isinstance(failure.exc_value, OSError) else before(failure)
        try:
            yield writer
        except OSError as error:
            if error.filename is not None:
                raise
            raise UserError(f"cannot write into {self.path}: {error.strerror}; fix that, then go on with: "
                            f"{self.resume_command}") from error
        finally:
            with contextlib.suppress(OSError):
                writer.close()
            threading.excepthook = before


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Create a run folder and keep other trainings out of it; folders that are still empty at the end are removed.

    The kernel releases the lock when the process dies, even by kill -9. It is a lock of the process, not of the file:
    workers that outlive a killed training do not hold it.

    Raises:
        UserError: another training uses the folder; or it cannot be created or written.
    """
    if rank_and_world()[0]:
        yield
        return
    created = [folder for folder in (path, *path.parents) if not folder.exists()]
    make_folder(path)
    try:
        with _locked(path):
            yield
    finally:
        for folder in created:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = folder / LOCK
    while True:
        try:
            file = open(lock, "a+")
        except OSError as error:
            raise UserError(f"cannot write {lock}: {error.strerror}") from error
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = file.read(100).strip()
            file.close()
            raise UserError(f"another training{holder and f' ({holder})'} uses {folder}: wait until it has ended, or "
                            "give another --out") from None
        except OSError:  # the file system has no locks
            pass
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(lock)):
                break
        file.close()  # the training that held it has just ended and removed it
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
        yield
    finally:
        lock.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            file.close()


def resume_command(run: Path, world: int) -> str:
    """Return the command that resumes a training run of `world` processes."""
    launcher = f"torchrun --nproc-per-node {world}" if world > 1 else "python"
    return f"{launcher} -m mirnet_torch.train --resume {shlex.quote(str(run))}"


class Signals:
    """Store the first SIGINT, SIGTERM or SIGHUP in `received` instead of ending; a second one acts as usual.

    SIGHUP is that of a terminal that has gone, as after a lost ssh connection; under nohup it stays ignored.
    """

    def __init__(self) -> None:
        self.received = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                numbers.append(signal.SIGHUP)
            self.before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.received = number
        signal.signal(number, self.before[number])


def last_of(run: Path) -> Path:
    """Return the path of `last.pt` in a run folder. Raises a UserError if there is none."""
    if not (run / LAST).is_file():
        raise UserError(f"{run} holds no training to resume: there is no {LAST} in it")
    return run / LAST


def read_run(run: Path) -> dict[str, Any]:
    """Return the content of `last.pt` in a run folder.

    Raises:
        UserError: the folder has none, or it is damaged or not a training checkpoint of this version.
    """
    saved = read_pickle(last_of(run))
    with open(run / LAST, "rb") as file:  # torch does not compare the CRC that it stores with every tensor
        if zipfile.is_zipfile(file) and (damaged := _damaged_member(file)):
            raise UserError(f"{run / LAST} is damaged: {damaged} is not as it was written; start from the weights in "
                            f"{run / BEST} with --init")
    with of_this_version(run):
        if not isinstance(saved, dict):
            raise TypeError(f"it is of type {type(saved).__name__}")
        if (made_by := saved.get("version", __version__)) != __version__:
            raise ValueError(f"it was made by version {made_by}, this is {__version__}: resume it there, or start from "
                             f"its weights with --init {run / LAST}")
        for name, kind in FIELDS.items():
            if not isinstance(saved[name], kind) or isinstance(saved[name], bool):
                raise TypeError(f"its {name} is of type {type(saved[name]).__name__}")
        _check_values(saved)
    return saved


def _damaged_member(file: IO[bytes]) -> str | None:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        return " ".join(str(error).split())


def _check_values(saved: Mapping[str, Any]) -> None:
    """Raise a ValueError, KeyError or TypeError unless values that no later step checks are possible ones."""
    ranges = {"world": (1, 2 ** 16), "threads": (1, 2 ** 10), "step": (0, 2 ** 53), "validated": (-1, saved["step"])}
    for name, (low, high) in ranges.items():
        if not low <= saved[name] <= high:
            raise ValueError(f"its {name} is {saved[name]}, not from {low} to {high}")
    if saved["best"] is not None:
        for name in ("psnr", "ssim", "epoch"):
            if not isinstance(saved["best"][name], (int, float)) or not math.isfinite(saved["best"]["epoch"]):
                raise ValueError(f"its best {name} is {saved['best'][name]!r}")
    elif saved["validated"] >= 0:
        raise ValueError("it was validated, but has no best validation")
    for name in ("name", "files"):
        if not isinstance(saved["data"][name], str):
            raise TypeError(f"its data {name} is of type {type(saved['data'][name]).__name__}")


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load an optimizer's state.

    Raises:
        KeyError, TypeError, ValueError: it is not that of this optimizer; torch would find out at the next step only.
    """
    groups = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for before, group in zip(groups, optimizer.param_groups):
        for name, value in before.items():
            now = tuple(group[name]) if isinstance(group[name], list) else group[name]
            if name not in ("params", "lr") and now != value:
                raise ValueError(f"{name} of its optimizer is {group[name]}, not {value}")
    for parameter, state in optimizer.state.items():
        for name, shape in (("exp_avg", parameter.shape), ("exp_avg_sq", parameter.shape), ("step", torch.Size())):
            if state[name].shape != shape or state[name].layout != torch.strided or state[name].is_meta:
                raise ValueError(f"{name} of its optimizer does not fit the network")


@contextlib.contextmanager
def of_this_version(run: Path) -> Iterator[None]:
    """Turn errors from unexpected content of `last.pt` into one UserError that names the file."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError, UserError) as error:
        cause = f"it has no {error.args[0]}" if isinstance(error, KeyError) else " ".join(str(error).split())
        shown_cause = cause if len(cause) <= 300 else f"{cause[:300]} ..."
        raise UserError(f"{run / LAST} is not a training checkpoint of this version: {shown_cause}") from None


def options_to_resume(run: Path, saved: Mapping[str, Any], changes: Mapping[str, Any]) -> TrainOptions:
    """Return the saved options with the given changes. All but `FREE` and a longer training change nothing.

    Raises:
        UserError: a change would change the result, or the saved options are not of this version.
    """
    with of_this_version(run):
        options = TrainOptions(**saved["options"])
    before, after = options.to_dict(), dataclasses.replace(options, **changes).to_dict()
    if after["epochs"] < before["epochs"]:
        raise UserError(f"--epochs was {before['epochs']} when this training started: a resumed one can be longer, not "
                        f"shorter; for {after['epochs']} epochs start another run")
    for name in changes:
        if name not in (*FREE, "epochs") and after[name] != before[name]:
            raise UserError(f"{flag(name)} was {shown(name, before[name])} when this training started, and "
                            f"{shown(name, after[name])} would change its result: leave it out, or start another run")
    free = {name: value for name, value in changes.items() if name in (*FREE, "epochs")}
    return dataclasses.replace(options, **free, out=run)


def command_of(options: TrainOptions, saved: Mapping[str, Any] | None) -> str:
    """Return the command that started a run, and where it was lengthened."""
    if saved is None:
        return command_line(options)
    if options.epochs == saved["options"]["epochs"]:
        return saved["command"]
    return f"{saved['command']}, from step {saved['step']} on with --epochs {options.epochs}"


def forget_lost_best(folder: RunFolder, state: Any) -> None:
    """Let a training state whose `best.safetensors` is gone have no best validation, so that the next one writes it."""
    if state.best is not None and not folder.best.exists():  # all processes see the same folder
        if not folder.rank:
            say(f"{folder.best} is gone: the next validation writes it anew, whatever the PSNR was before")
        state.best, state.validated = None, -1


def check_processes(folder: RunFolder, saved: Mapping[str, Any]) -> None:
    """Raise a UserError unless a training run is resumed with as many processes as it started with."""
    if saved["world"] != folder.world:
        raise UserError(f"this training started with {saved['world']} processes, not {folder.world}: "
                        f"{resume_command(folder.path, saved['world'])}")


def check_data(files: str, saved: Mapping[str, Any]) -> None:
    """Raise a UserError unless the data have the same fingerprint as when the training run started."""
    if saved["data"]["files"] != files:
        raise UserError(f"the data are not those this training started with ({saved['data']['name']}): names or "
                        "contents of files differ; give the same with --data")
