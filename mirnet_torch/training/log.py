"""What a training leaves to read besides its weights: `log.csv`, a line an epoch, and its options in TensorBoard."""
from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from mirnet_torch.cli import atomic_path
from mirnet_torch.training.options import TrainOptions, flag, shown

LOG = "log.csv"
COLUMNS = ("epoch", "loss", "learning_rate", "seconds", "val_psnr", "val_ssim")


class EpochLog:
    """`log.csv` of a run folder. Seconds are those of training in the process that ended the epoch.

    Args:
        folder: the run folder.
        epochs: the last epoch whose line is kept; later ones will be written again.
        rank: of this process; only the first writes.
    """

    def __init__(self, folder: Path, epochs: int, *, rank: int = 0) -> None:
        self.path, self.rank = folder / LOG, rank
        if rank or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        kept = [line for line in lines if _epoch_of(line) <= epochs]
        if kept != lines[1:]:
            with atomic_path(self.path) as path:
                path.write_text(_line(COLUMNS) + "".join(kept), encoding="utf-8")

    def write(self, epoch: int, *, loss: float | None = None, learning_rate: float | None = None,
              seconds: float | None = None, psnr: float | None = None, ssim: float | None = None) -> None:
        """Add the line of an epoch; what was not measured stays empty."""
        if self.rank:
            return
        figures = ((loss, "6g"), (learning_rate, "6g"), (seconds, "1f"), (psnr, "3f"), (ssim, "4f"))
        values = [f"{value:.{digits}}" if value is not None else "" for value, digits in figures]
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(("" if file.tell() else _line(COLUMNS)) + _line((str(epoch), *values)))


def _line(values: tuple[str, ...]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(values)
    return stream.getvalue()


def _epoch_of(line: str) -> float:
    """Return the epoch of a line; infinity for the head and for one that is not whole."""
    epoch, *others = line.split(",")
    return int(epoch) if epoch.isdecimal() and len(others) == len(COLUMNS) - 1 and line.endswith("\n") else float("inf")


def write_options(writer: Any, options: TrainOptions, command: str, step: int) -> None:
    """Write the command and the options of a training to TensorBoard: as text, and as hyperparameters at its start.

    Args:
        writer: a SummaryWriter, or None.
        options: the options.
        command: the one that gives them.
        step: steps done.
    """
    if writer is None:
        return
    values = {name: value if isinstance(value, (bool, int, float, str)) else shown(name, value)
              for name, value in vars(options).items()}
    writer.add_text("command", f"    {command}", step)
    rows = "\n".join(f"| `{flag(name)}` | {shown(name, value)} |" for name, value in vars(options).items())
    writer.add_text("options", f"| option | value |\n|---|---|\n{rows}", step)
    if step == 0:
        from torch.utils.tensorboard.summary import hparams
        for summary in hparams(values, {"val/psnr": 0.0, "val/ssim": 0.0}):
            writer.file_writer.add_summary(summary)
