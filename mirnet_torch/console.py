"""What a training run prints: a line at its start, a line after every validation, and a progress bar on a terminal."""
from __future__ import annotations

import contextlib
import datetime
import sys
import time
from typing import Any, Iterator

import torch
from torch import nn

from mirnet_torch.cli import progress

LONG = 86400  # seconds


class Console:
    """The printed lines and the progress bar, and the speed that they show. Only the first process (rank 0) prints.

    Args:
        steps: steps of the whole training run.
        step: steps already done.
        images: images per step of all processes together.
        device: where the network is; its memory is shown.
        rank: this process.
    """

    def __init__(self, *, steps: int, step: int, images: int, device: torch.device, rank: int = 0) -> None:
        self.steps, self.step, self.images, self.device, self.rank = steps, step, images, device, rank
        self.trained, self.seconds = 0, 0.0  # steps since this process started and their time, without validations
        self.bar: Any = None

    @contextlib.contextmanager
    def open_bar(self) -> Iterator[None]:
        """Show the progress bar."""
        self.bar = progress(total=self.steps, initial=self.step, desc="train", unit="step")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the terminal has gone
                self.bar.close()

    @contextlib.contextmanager
    def timed_step(self) -> Iterator[None]:
        """Time one step and move the bar."""
        start = time.monotonic()
        yield
        self.seconds += time.monotonic() - start
        self.step += 1
        self.trained += 1
        with contextlib.suppress(OSError):  # the terminal has gone
            self.bar.set_postfix_str(f"{self.speed:.0f} images/s, {peak_memory(self.device)}", refresh=False)
            self.bar.update()

    @property
    def speed(self) -> float:
        """Images per second of all processes together, without validations."""
        return self.trained * self.images / self.seconds if self.seconds else 0.0

    def introduce(self, text: str) -> None:
        """Print a line before the training begins."""
        if not self.rank:
            print(text, flush=True)

    def estimate(self, network: nn.Module, patch: tuple[int, int]) -> None:
        """Print how long all steps may take, from one patch (width, height) that the network restores on the CPU.

        A step costs about three times as much for every patch. Other devices are too quick to need it.
        """
        if self.rank or self.device.type != "cpu":
            return
        image = torch.zeros(1, 3, patch[1], patch[0])
        with torch.no_grad():
            network(image)  # the first call also makes what the later ones keep
            start = time.monotonic()
            network(image)
        seconds = 3 * (time.monotonic() - start) * self.images * (self.steps - self.step)
        print(f"about {duration(seconds)} on this machine, without validations"
              + ("; for a first try take --preset mcu or fewer --epochs" if seconds > LONG else ""), flush=True)

    def report(self, epoch: str, psnr: float, ssim: float, *, best: dict[str, float], loss: float) -> None:
        """Print the line of a validation; loss, speed and time left follow only after the first training step."""
        if self.rank:
            return
        parts = [f"epoch {epoch}", f"PSNR {psnr:.2f} dB  SSIM {ssim:.3f}"]
        if self.trained:
            seconds = (self.steps - self.step) * self.images / self.speed
            parts += [f"best {best['psnr']:.2f} dB (epoch {best['epoch']})", f"loss {loss:.4f}",
                      f"{self.speed:.0f} images/s", peak_memory(self.device),
                      f"ETA {datetime.timedelta(seconds=round(seconds))}"]
        with contextlib.suppress(OSError):  # the terminal has gone
            self.bar.clear()
            print("  ".join(parts), flush=True)


def duration(seconds: float) -> str:
    """Return a time in the largest unit of which it has at least two: "3 days", "40 minutes"."""
    for unit, length in (("weeks", 7 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 1):.0f} seconds"


def peak_memory(device: torch.device) -> str:
    """Return the peak memory of a CUDA device, else of this process, as text."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2 ** 30:.1f} GB"
    import resource
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2 ** 30:.1f} GB"
