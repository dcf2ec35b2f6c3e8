"""Show the dark frames of an Arduino Nano 33 BLE Sense and the bright ones that it makes of them.

    python firmware/viewer                              live window
    python firmware/viewer --exposure 1                 brighter by 1 EV than without it
    python firmware/viewer --save frames --frames 20    PNG files instead of the window
    python firmware/viewer --save frames                the same until Ctrl-C
    python firmware/viewer --image night.jpg            let the board enhance a picture file
    python firmware/viewer --night 8 --gain-ceiling 128 a camera for the dark
    python firmware/viewer --still 8                    one picture, made of the mean of 8 frames
    python firmware/viewer --check-black                with the lens cap on: black must read 0
    python firmware/viewer --self-test                  check that the board computes the right bytes
    python firmware/viewer --page                       serve the page for browsers, after `make page`
    python firmware/viewer --simulate ...               any of these without a board
    python firmware/viewer --simulate --sketch DIR      with a sketch of your own
    python firmware/viewer --emulate sketch.elf ...     the compiled sketch, all of it, on an emulated board

Keys in the window: + and - brightness, m mirror, f flip, n night, [ and ] highest automatic gain, s save, space pause,
r record a GIF and stop recording, q quit.

Exit status: 0 if all went well, 1 if the self-test has failed or black is not black, 2 for a wrong option or file and
if the board is absent or reports a problem. Ctrl-C ends --save and --page with status 0, anything else with 130.
"""
from __future__ import annotations

import argparse
import contextlib
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Callable, Iterator

from camera import CEILINGS, MOST_GAIN, NIGHTS, CameraSettings
from link import EXPOSURE_STEPS, LARGEST_EXPOSURE, MOST_FRAMES, InputError, Link, LinkError, find_port
from live import watch
from pictures import names_for, next_number, read_picture, save_picture

CAMERA = {"mirror", "flip", "night", "gain_ceiling", "gain", "shutter"}
TAKES = {  # which of the options in `OPTIONS` have an effect, by what is done
    "": {"exposure", "save", "frames", *CAMERA}, "test_picture": {"exposure", "save", "frames"},
    "image": {"exposure", "save"}, "still": {"exposure", "save", *CAMERA}, "check_black": CAMERA, "self_test": set(),
    "info": set(), "page": {"page_port"}}
OPTIONS = sorted(set().union(*TAKES.values()))
BLACK = 8  # a luminance that still counts as black: noise may lift it


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser("viewer", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", help="the board's port (default: that of the only board plugged in)")
    parser.add_argument("--simulate", action="store_true", help="run the sketch on this computer, without a board")
    parser.add_argument("--sketch", type=Path, metavar="DIR",
                        help="with --simulate, the folder of the sketch to run (default: the one that ships)")
    parser.add_argument("--emulate", type=Path, metavar="ELF",
                        help="run what arduino-cli has compiled, with all of Mbed OS, on an emulated board")
    parser.add_argument("--fast", action="store_true",
                        help="with --simulate or --emulate, as fast as this computer can, not at the board's pace")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--image", type=Path, nargs="+", metavar="FILE",
                      help="enhance these pictures instead of the camera's frames")
    what.add_argument("--self-test", action="store_true",
                      help="run the model on the golden input and compare every byte of its output")
    what.add_argument("--still", type=int, choices=range(2, MOST_FRAMES + 1), metavar="N",
                      help=f"take one picture of the mean of N frames, 2 to {MOST_FRAMES}: less noise")
    what.add_argument("--check-black", action="store_true",
                      help="say how dark the camera's black is; put the lens cap on first")
    what.add_argument("--info", action="store_true", help="print the board's protocol, model, frame size and memory")
    what.add_argument("--test-picture", action="store_true",
                      help="stream the picture inside the sketch instead of the camera's frames")
    what.add_argument("--page", action="store_true",
                      help="serve the page for browsers on localhost; it talks to the board")
    parser.add_argument("--page-port", type=_port, default=8000, metavar="N", help="with --page (default: %(default)s)")
    parser.add_argument("--exposure", type=_steps, default=0, metavar="EV",
                        help="how much brighter, from -4 to 4 in steps of 1/8 (default: 0, no correction)")
    parser.add_argument("--mirror", action="store_true", help="left and right change places")
    parser.add_argument("--flip", action="store_true", help="top and bottom change places")
    parser.add_argument("--night", type=int, choices=NIGHTS, default=1, metavar="N",
                        help="in the dark a frame may take 2, 4 or 8 times longer (default: 1)")
    parser.add_argument("--gain-ceiling", type=int, choices=CEILINGS, default=32, metavar="N",
                        help="the camera's highest automatic gain, 2, 4, 8 ... 128 (default: %(default)s)")
    parser.add_argument("--gain", type=_within(1, MOST_GAIN), metavar="N",
                        help=f"the camera's gain, 1 to {MOST_GAIN} (default: automatic)")
    parser.add_argument("--shutter", type=_within(0.4, 200), metavar="MS",
                        help="the exposure of a row in milliseconds, 0.4 to 200 (default: automatic)")
    parser.add_argument("--save", type=_folder, metavar="DIR",
                        help="write PNG files there; without --image instead of opening a window, until --frames or "
                             "Ctrl-C")
    parser.add_argument("--frames", type=int, metavar="N", help="stop after N frames")
    options = parser.parse_args(arguments)
    if options.frames is not None and options.frames < 1:
        parser.error("--frames must be 1 or more")
    if bool(options.port) + options.simulate + bool(options.emulate) > 1:
        parser.error("--port, --simulate and --emulate are three boards: leave two out")
    if options.fast and not (options.simulate or options.emulate):
        parser.error("--fast is for --simulate and --emulate: add one; a board has its own pace")
    if options.sketch and not options.simulate:
        parser.error("--sketch is for --simulate: add that; a board runs the sketch that was uploaded to it")
    what_for = next((name for name in TAKES if name and getattr(options, name)), "")
    for name in OPTIONS:
        if name not in TAKES[what_for] and getattr(options, name) != parser.get_default(name):
            parser.error(f"--{name} has no effect {f'with --{what_for}' if what_for else 'without --page'}: leave one "
                         "out".replace("_", "-"))
    try:
        with _board(options) as find:
            return _run(options, find)
    except (InputError, LinkError) as error:
        print(f"viewer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("viewer: interrupted", file=sys.stderr)
        return 130


def _folder(text: str) -> Path:
    """Return the path of a folder; an empty name, of an unset variable, would be the current one."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; for the current folder give .")
    return Path(text)


def _steps(text: str) -> int:
    """Return the steps of 1/8 EV nearest to an exposure in EV."""
    steps = float(text) * EXPOSURE_STEPS
    if not abs(steps) <= LARGEST_EXPOSURE:
        raise argparse.ArgumentTypeError(f"{text} is not between -4 and 4")
    return round(steps)


def _port(text: str) -> int:
    if not 0 <= int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 65535")
    return int(text)


def _within(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
        return value

    return number


@contextlib.contextmanager
def _board(options: argparse.Namespace) -> Iterator[Callable[[], str]]:
    """Yield a function that finds the board's port."""
    if options.emulate:
        with _emulated(options) as find:
            yield find
        return
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


@contextlib.contextmanager
def _emulated(options: argparse.Namespace) -> Iterator[Callable[[], str]]:
    if find_spec("unicorn") is None:
        raise LinkError("--emulate needs Unicorn: pip install unicorn")
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "emulator"))  # before packages of the same names
    try:
        from elf import ElfError
        from plugged import Plugged, moving_scene
    except ImportError as error:
        raise LinkError(f"--emulate works on Linux and macOS only ({error})") from error
    try:
        board = Plugged(options.emulate, moving_scene(), fast=options.fast,
                        report=lambda text: print(f"viewer: {text}", file=sys.stderr))
    except ElfError as error:
        raise InputError(str(error)) from error
    with contextlib.closing(board):
        print(f"viewer: starting {options.emulate.name} on the emulated board, some 10 seconds", file=sys.stderr)
        board.wait()
        yield lambda: board.port


def _run(options: argparse.Namespace, find: Callable[[], str]) -> int:
    if options.image:
        return _enhance_files(options, find)
    if options.page:
        from page_server import PageServer
        with PageServer(find, port=options.page_port) as server:
            print(f"open {server.address} in a browser; Ctrl-C ends", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()
        return 0
    if options.info or options.self_test:
        with contextlib.closing(Link(find())) as link:
            words = link.info() if options.info else link.self_test()
        print(" ".join(f"{name}={value}" for name, value in words.items()))
        return 0 if words.get("self-test", "passed") == "passed" else 1
    camera = [CameraSettings(options.mirror, options.flip, options.night, options.gain_ceiling, options.gain,
                             options.shutter and options.shutter / 1000)]
    if options.still or options.check_black:
        with contextlib.closing(Link(find())) as link:
            link.set_camera(camera[0])
            link.set_exposure(options.exposure)
            return _still(link, options) if options.still else _check_black(link)
    exposure = [options.exposure]
    updates = watch(find, test_picture=options.test_picture, frames=options.frames, exposure=lambda: exposure[0],
                    camera=lambda: camera[0])
    if options.save is None:
        try:
            from window import show
            show(updates, exposure, camera)
        except ImportError as error:
            raise LinkError("a window needs tkinter (python3-tk): install it, or use --save DIR") from error
        except Exception as error:
            if type(error).__name__ != "TclError":
                raise
            raise LinkError(f"no window can be opened ({error}): use --save DIR") from error
        return 0
    first = number = next_number(options.save)
    with contextlib.closing(updates), contextlib.suppress(KeyboardInterrupt):
        for update in updates:
            if isinstance(update, str):
                print(update, flush=True)
            else:
                save_picture(update, options.save, f"{number:06d}")
                number += 1
    print(f"{number - first} dark and {number - first} bright pictures are in {options.save}")
    return 0


def _still(link: Link, options: argparse.Namespace) -> int:
    name = time.strftime("still-%Y%m%d-%H%M%S")
    for saved in save_picture(link.still(options.still), options.save or Path(), name):
        print(saved)
    return 0


def _check_black(link: Link) -> int:
    link.capture()
    darkest = int(link.info().get("darkest", -1))
    if darkest < 0:
        raise LinkError("the sketch does not say how dark black is: upload the sketch that belongs to this viewer")
    good = darkest <= BLACK
    print(f"darkest={darkest}: " + (
        "black is black" if good else "with the lens cap on it must be 0; 16 means that the camera keeps to levels of "
        "16 to 240 (its register COM15): reset the board, or upload the sketch again"))
    return 0 if good else 1


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
