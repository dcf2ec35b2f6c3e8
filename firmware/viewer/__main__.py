"""Show the dark frames of an Arduino Nano 33 BLE Sense and the bright ones that it makes of them.

    python firmware/viewer                              live window
    python firmware/viewer --save frames --frames 20    PNG files instead
    python firmware/viewer --image night.jpg            let the board enhance a picture file
    python firmware/viewer --self-test                  check that the board computes the right bytes
    python firmware/viewer --page                       serve the page for browsers, after `make page`
    python firmware/viewer --simulate ...               any of these without a board
    python firmware/viewer --simulate --sketch DIR      with a sketch of your own

Exit status: 0 if all went well, 1 if the board is absent or reports a problem, 2 for a wrong option or file.
"""
from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
from link import InputError, Link, LinkError, find_port, watch
from PIL import Image, ImageOps


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser("viewer", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", help="the board's port (default: that of the only board plugged in)")
    parser.add_argument("--simulate", action="store_true", help="run the sketch on this computer, without a board")
    parser.add_argument("--sketch", type=Path, metavar="DIR",
                        help="with --simulate, the folder of the sketch to run (default: the one that ships)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--image", type=Path, nargs="+", metavar="FILE",
                      help="enhance these pictures instead of the camera's frames")
    what.add_argument("--self-test", action="store_true",
                      help="run the model on the golden input and compare every byte of its output")
    what.add_argument("--info", action="store_true", help="print the board's protocol, model, frame size and memory")
    what.add_argument("--test-picture", action="store_true",
                      help="stream the picture inside the sketch instead of the camera's frames")
    what.add_argument("--page", action="store_true",
                      help="serve the page for browsers on localhost; it talks to the board")
    parser.add_argument("--page-port", type=int, default=8000, metavar="N", help="with --page (default: %(default)s)")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write PNG files there instead of opening a window")
    parser.add_argument("--frames", type=int, metavar="N", help="stop after N frames")
    options = parser.parse_args(arguments)
    if options.frames is not None and options.frames < 1:
        parser.error("--frames must be 1 or more")
    if options.port and options.simulate:
        parser.error("--simulate has a port of its own: leave --port out")
    if options.sketch and not options.simulate:
        parser.error("--sketch is for --simulate: add that; a board runs the sketch that was uploaded to it")
    try:
        with _board(options) as find:
            return _run(options, find)
    except (InputError, LinkError) as error:
        print(f"viewer: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        print("viewer: interrupted", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _board(options: argparse.Namespace) -> Iterator[Callable[[], str]]:
    """Yield a function that finds the board's port."""
    if not options.simulate:
        yield (lambda: options.port) if options.port else find_port
        return
    try:
        from simulator import SKETCH, Simulator
    except ImportError as error:
        raise LinkError(f"--simulate works on Linux and macOS only ({error})") from error
    simulator = Simulator(sketch=options.sketch or SKETCH)
    try:
        yield lambda: simulator.port
    finally:
        simulator.close()


def _run(options: argparse.Namespace, find: Callable[[], str]) -> int:
    if options.image:
        return _enhance_files(options.image, options.save or Path(), find)
    if options.page:
        from page_server import PageServer
        with PageServer(find, port=options.page_port) as server:
            print(f"open {server.address} in a browser; Ctrl-C ends", flush=True)
            server.serve_forever()
    if options.info or options.self_test:
        with contextlib.closing(Link(find())) as link:
            words = link.info() if options.info else link.self_test()
        print(" ".join(f"{name}={value}" for name, value in words.items()))
        return 0 if words.get("self-test", "passed") == "passed" else 1
    updates = watch(find, test_picture=options.test_picture, frames=options.frames)
    if options.save is None:
        try:
            from window import show
            show(updates)
        except ImportError as error:
            raise LinkError("a window needs tkinter (python3-tk): install it, or use --save DIR") from error
        except Exception as error:
            if type(error).__name__ != "TclError":
                raise
            raise LinkError(f"no window can be opened ({error}): use --save DIR") from error
        return 0
    for update in updates:
        if isinstance(update, str):
            print(update)
        else:
            _save(update.dark, options.save / f"{update.number:06d}-dark.png")
            _save(update.bright, options.save / f"{update.number:06d}-bright.png")
    return 0


def _enhance_files(paths: list[Path], folder: Path, find: Callable[[], str]) -> int:
    with contextlib.closing(Link(find())) as link:
        for path in paths:
            picture = link.enhance(_read(path, link.size))
            for name, pixels in (("dark", picture.dark), ("bright", picture.bright)):
                print(_save(pixels, folder / f"{path.stem}-{name}.png"))
    return 0


def _read(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a picture as the camera would deliver it: upright, its centre, of this width and height."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(ImageOps.fit(upright, size, Image.Resampling.BOX))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        reason = "there is no such file" if not path.exists() else "it is no picture that can be read"
        raise InputError(f"{path}: {reason}; name a PNG or JPEG file") from error


def _save(pixels: np.ndarray, path: Path) -> Path:
    """Write a PNG file, all of it or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(suffix=".png", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                Image.fromarray(pixels).save(file, "PNG")
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; name another folder with --save") from error
    return path


if __name__ == "__main__":
    sys.exit(main())
