"""What a training run prints: a line at its start, a line after every validation, and a progress bar on a terminal.

Off a terminal, where there are no bars, a line says what is being done when nothing else was printed for some time.
"""
from __future__ import annotations

import contextlib
import datetime
import sys
import threading
import time
from typing import Any, Iterable, Iterator, Sequence, TypeVar

import torch
from torch import nn

from mirnet_torch.cli import progress
from mirnet_torch.processes import peak_memory

LONG = 86400  # seconds
SILENCE = 45.0  # seconds without a line, off a terminal
T = TypeVar("T")


class Speaker:
    """Prints the lines of a training, and what is being done after `SILENCE` seconds without one.

    Only the first process (rank 0) prints. `doing` says what is being done.
    """

    def __init__(self, rank: int = 0) -> None:
        self.rank, self.doing, self._spoke = rank, "reading and checking the data", time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._break_silence, daemon=True)

    def __enter__(self) -> Speaker:
        if not self.rank and not sys.stderr.isatty():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def say(self, text: str) -> None:
        """Print a line; a terminal that has gone is no error."""
        if not self.rank:
            self._spoke = time.monotonic()
            with contextlib.suppress(OSError):
                print(text, flush=True)

    def _break_silence(self) -> None:
        while not self._ended.wait(max(0.01, self._spoke + SILENCE - time.monotonic())):
            if time.monotonic() - self._spoke >= SILENCE:
                self.say(self.doing)


class Console:
    """The lines and the progress bar of a training, and the speed that they show.

    Args:
        speaker: prints the lines.
        steps: steps of the whole training run.
        step: steps already done.
        images: images per step of all processes together.
        device: where the network is; its memory is shown.
    """

    def __init__(self, speaker: Speaker, *, steps: int, step: int, images: int, device: torch.device) -> None:
        self.speaker, self.steps, self.step, self.images, self.device = speaker, steps, step, images, device
        self.trained, self.seconds = 0, 0.0  # steps since this process started and their time, without validations
        self._lap = 0.0
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
        self.speaker.doing = f"training: step {self.step + 1} of {self.steps}" + (
            f", {self.speed:.2g} images/s" if self.trained else "")
        yield
        self.seconds += time.monotonic() - start
        self.step += 1
        self.trained += 1
        with contextlib.suppress(OSError):  # the terminal has gone
            memory = peak_memory(self.device) / 2 ** 30
            self.bar.set_postfix_str(f"{self.speed:.0f} images/s, {memory:.1f} GB", refresh=False)
            self.bar.update()

    def lap(self) -> float:
        """Return the seconds of the steps since the last call."""
        seconds, self._lap = self.seconds - self._lap, self.seconds
        return seconds

    def follow(self, items: Sequence[T], doing: str) -> Iterable[T]:
        """Yield items under a bar of their own."""
        with contextlib.suppress(OSError):
            self.bar.clear()
        for number, item in enumerate(progress(items, desc=doing, unit="image", leave=False), start=1):
            self.speaker.doing = f"{doing}: image {number} of {len(items)}"
            yield item

    @property
    def speed(self) -> float:
        """Images per second of all processes together, without validations."""
        return self.trained * self.images / self.seconds if self.seconds else 0.0

    def estimate(self, network: nn.Module, patch: tuple[int, int]) -> None:
        """Print how long all steps take at least, from one patch (width, height) that the network restores on the CPU.

        A step costs about three times as much for every patch. Other devices are too quick to need it.
        """
        if self.speaker.rank or self.device.type != "cpu":
            return
        image = torch.zeros(1, 3, patch[1], patch[0])
        self.speaker.doing = "measuring how long a step takes"
        with torch.no_grad():
            network(image)  # the first call also makes what the later ones keep
            start = time.monotonic()
            network(image)
        seconds = 3 * (time.monotonic() - start) * self.images * (self.steps - self.step)
        self.speaker.say(f"at least {duration(seconds)} on this machine, without reading images and validations"
                         + ("; for a first try take --preset mcu or fewer --epochs" if seconds > LONG else ""))

    def report(self, epoch: str, psnr: float, ssim: float, *, best: dict[str, float], loss: float) -> None:
        """Print the line of a validation; loss, speed and time left follow only after the first training step."""
        parts = [f"epoch {epoch}", f"PSNR {psnr:.2f} dB  SSIM {ssim:.3f}"]
        if self.trained:
            seconds = (self.steps - self.step) * self.images / self.speed
            parts += [f"best {best['psnr']:.2f} dB (epoch {best['epoch']})", f"loss {loss:.4f}",
                      f"{self.speed:.0f} images/s", f"{peak_memory(self.device) / 2 ** 30:.1f} GB",
                      f"ETA {datetime.timedelta(seconds=round(seconds))}"]
        with contextlib.suppress(OSError):  # the terminal has gone
            self.bar.clear()
        self.speaker.say("  ".join(parts))


def duration(seconds: float) -> str:
    """Return a time in the largest unit of which it has at least two: "3 days", "40 minutes"."""
    for unit, length in (("weeks", 7 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 1):.0f} seconds"
