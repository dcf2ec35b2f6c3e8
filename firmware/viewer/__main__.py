"""Show the dark frames of an Arduino Nano 33 BLE Sense and the bright ones that it makes of them.

    python firmware/viewer                              live window
    python firmware/viewer --exposure 1                 brighter than the network thinks, by 1 EV
    python firmware/viewer --save frames --frames 20    PNG files instead of the window
    python firmware/viewer --save frames                the same until Ctrl-C
    python firmware/viewer --image night.jpg            let the board enhance a picture file
    python firmware/viewer --self-test                  check that the board computes the right bytes
    python firmware/viewer --page                       serve the page for browsers, after `make page`
    python firmware/viewer --simulate ...               any of these without a board
    python firmware/viewer --simulate --sketch DIR      with a sketch of your own

Keys in the window: + and - brightness, s save, space pause, r record a GIF and stop recording, q quit.

Exit status: 0 if all went well, 1 if the self-test has failed, 2 for a wrong option or file and if the board is absent
or reports a problem.
"""
from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Callable, Iterator

from link import EXPOSURE_STEPS, LARGEST_EXPOSURE, InputError, Link, LinkError, find_port, watch
from pictures import names_for, read_picture, save_picture


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser("viewer", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", help="the board's port (default: that of the only board plugged in)")
    parser.add_argument("--simulate", action="store_true", help="run the sketch on this computer, without a board")
    parser.add_argument("--sketch", type=Path, metavar="DIR",
                        help="with --simulate, the folder of the sketch to run (default: the one that ships)")
    parser.add_argument("--fast", action="store_true",
                        help="with --simulate, as fast as this computer can instead of at the board's pace")
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
    parser.add_argument("--exposure", type=_steps, default=0, metavar="EV",
                        help="how much brighter than the network thinks, from -4 to 4 in steps of 1/8 (default: 0)")
    parser.add_argument("--save", type=Path, metavar="DIR",
                        help="write PNG files there; without --image instead of opening a window, until --frames or "
                             "Ctrl-C")
    parser.add_argument("--frames", type=int, metavar="N", help="stop after N frames")
    options = parser.parse_args(arguments)
    if options.frames is not None and options.frames < 1:
        parser.error("--frames must be 1 or more")
    if options.port and options.simulate:
        parser.error("--simulate has a port of its own: leave --port out")
    if options.fast and not options.simulate:
        parser.error("--fast is for --simulate: add that; a board has its own pace")
    if options.sketch and not options.simulate:
        parser.error("--sketch is for --simulate: add that; a board runs the sketch that was uploaded to it")
    try:
        with _board(options) as find:
            return _run(options, find)
    except (InputError, LinkError) as error:
        print(f"viewer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("viewer: interrupted", file=sys.stderr)
        return 130


def _steps(text: str) -> int:
    """Return the steps of 1/8 EV nearest to an exposure in EV."""
    steps = float(text) * EXPOSURE_STEPS
    if not abs(steps) <= LARGEST_EXPOSURE:
        raise argparse.ArgumentTypeError(f"{text} is not between -4 and 4")
    return round(steps)


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
    simulator = Simulator(sketch=options.sketch or SKETCH, fast=options.fast)
    try:
        yield lambda: simulator.port
    finally:
        simulator.close()


def _run(options: argparse.Namespace, find: Callable[[], str]) -> int:
    if options.image:
        return _enhance_files(options, find)
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
    exposure = [options.exposure]
    updates = watch(find, test_picture=options.test_picture, frames=options.frames, exposure=lambda: exposure[0])
    if options.save is None:
        try:
            from window import show
            show(updates, exposure)
        except ImportError as error:
            raise LinkError("a window needs tkinter (python3-tk): install it, or use --save DIR") from error
        except Exception as error:
            if type(error).__name__ != "TclError":
                raise
            raise LinkError(f"no window can be opened ({error}): use --save DIR") from error
        return 0
    count = 0
    with contextlib.closing(updates), contextlib.suppress(KeyboardInterrupt):
        for update in updates:
            if isinstance(update, str):
                print(update, flush=True)
            else:
                save_picture(update, options.save, f"{update.number:06d}")
                count += 1
    print(f"{count} dark and {count} bright pictures are in {options.save}")
    return 0


def _enhance_files(options: argparse.Namespace, find: Callable[[], str]) -> int:
    folder = options.save or Path()
    with contextlib.closing(Link(find())) as link:
        link.set_exposure(options.exposure)
        for path, name in zip(options.image, names_for(options.image, folder)):
            for saved in save_picture(link.enhance(read_picture(path, link.size)), folder, name):
                print(saved)
    return 0


if __name__ == "__main__":
    sys.exit(main())
