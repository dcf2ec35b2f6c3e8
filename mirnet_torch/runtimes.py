"""Time networks side by side, as PyTorch, onnxruntime and LiteRT run them: the command

    python -m mirnet_torch.runtimes photo photo_any_size.onnx photo_int8.tflite

prints seconds of processor time a megapixel.
"""
from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Callable, Sequence

import numpy as np

from mirnet_torch.cli import Parser, UserError, parse_size, run_command
from mirnet_torch.restoration.converted import SUFFIXES, load_converted


def main(arguments: Sequence[str] | None = None) -> None:
    """Time networks side by side on one picture of noise: processor time, so that other work hardly matters."""
    parser = Parser(prog="python -m mirnet_torch.runtimes", description=main.__doc__)
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="a converted file, or a checkpoint for PyTorch")
    parser.add_argument("--size", type=parse_size, default=(480, 360), metavar="WxH", help="default: 480x360")
    parser.add_argument("--rounds", type=int, default=5, help="runs of every network, in turn (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"argument --rounds: must be 1 or more, not {options.rounds}")
    width, height = options.size
    dark = np.random.default_rng(0).integers(0, 64, (height, width, 3), np.uint8)
    opened = {name: _opened(name) for name in options.networks}
    seconds: dict[str, list[float]] = {name: [] for name in opened}
    for turn in range(options.rounds + 1):
        for name, restore in opened.items():
            start = time.process_time()
            try:
                restore(dark)
            except (ValueError, FloatingPointError) as error:
                raise UserError(f"{name}: {error}") from None
            if turn:  # the first run also prepares
                seconds[name].append((time.process_time() - start) / (width * height / 1e6))
    print(f"{width}x{height}, {options.rounds} runs in turn: seconds of processor time a megapixel")
    for name, times in seconds.items():
        print(f"  {statistics.median(times):6.2f}  ({min(times):.2f} to {max(times):.2f})  {name}")


def _opened(name: str) -> Callable[[np.ndarray], np.ndarray]:
    if Path(name).suffix.lower() in SUFFIXES.values():
        return load_converted(name)
    from mirnet_torch.checkpoint import load_model
    from mirnet_torch.restoration.picture import enhance

    model = load_model(name)
    return lambda dark: enhance(model, dark)


if __name__ == "__main__":
    sys.exit(run_command(main))
