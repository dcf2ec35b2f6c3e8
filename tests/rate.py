"""How fast `enhance` is on small photographs: `python tests/rate.py [FILES] [--size WxH] [--checkpoint C]`.

The files are JPEGs, 600 of 320x240 by default. Prints the processor time for each file and, with it, how many files a
second two cores could do; the time by the clock tells the same only on an idle machine. The time to start, that of a
folder with one file, is taken off: with less than some hundred files its own variation shows.
"""
from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from mirnet_torch.cli import parse_size


def run(folder: Path, out: Path, checkpoint: str) -> tuple[float, float]:
    """Enhance a folder in a process of its own; return its processor time and its time, in seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-m", "mirnet_torch.enhance", folder, "--out", out, "--checkpoint", checkpoint],
                   check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.monotonic() - start


def main() -> None:
    """Make the folders, enhance both and print the difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="?", type=int, default=600)
    parser.add_argument("--size", type=parse_size, default=(320, 240), metavar="WxH", help="default: 320x240")
    parser.add_argument("--checkpoint", default="photo", help="see enhance (default: %(default)s)")
    options = parser.parse_args()
    count, (width, height) = options.files, options.size
    random, photographs = np.random.default_rng(0), (data.astronaut(), data.coffee(), data.chelsea())
    if count < 2 or width > 400 or height > 300:
        parser.error("give 2 files or more, of at most 400x300")
    with tempfile.TemporaryDirectory() as name:
        for number in range(count + 1):
            image = photographs[number % 3]
            top, left = random.integers(image.shape[0] - height + 1), random.integers(image.shape[1] - width + 1)
            path = Path(name, "one" if number == count else "many", f"{number:05}.jpg")
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image[top:top + height, left:left + width] // 4).save(path, quality=90)
        one, one_clock = run(Path(name, "one"), Path(name, "out"), options.checkpoint)
        many, many_clock = run(Path(name, "many"), Path(name, "out"), options.checkpoint)
    busy, clock = (many - one) / (count - 1), (many_clock - one_clock) / (count - 1)
    print(f"{options.checkpoint}, {count} files of {width}x{height}: {1e3 * busy:.1f} ms of processor time a file, "
          f"{2 / busy:.0f} files a second on two idle cores; here {1 / clock:.0f} a second by the clock, load "
          f"{os.getloadavg()[0]:.1f}; start {one:.1f} s")


if __name__ == "__main__":
    main()
